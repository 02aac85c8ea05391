//! Commands on positions.

use crate::kv::CommandId;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::passthrough::{passed_on, passed_on_with_name, submit_unchanged};
use crate::redis::spec::{CommandSpec, command};

const READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom"];
const WRITE_TO_OPTION: &[&str] = &["write", "denyoom", "movablekeys"];
const SEARCH_COSTS: &str =
    "O(N + log M), N being the members in the cells around the area and M the members of the key";

/// Rows of the command table for commands on positions (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    of_positions(passed_on("geoadd", -5), "3.2.0")
        .flags(WRITE)
        .costs("O(log N), N being the number of members, for each member")
        .about("Adds members with their positions to a sorted set."),
    of_positions(passed_on("geodist", -4), "3.2.0")
        .flags(READ)
        .costs("O(1)")
        .about("Returns the distance between the positions of two members."),
    of_positions(passed_on("geohash", -2), "3.2.0")
        .flags(READ)
        .costs("O(N), N being the number of members requested")
        .about("Returns the positions of members as geohashes."),
    of_positions(passed_on("geopos", -2), "3.2.0")
        .flags(READ)
        .costs("O(N), N being the number of members requested")
        .about("Returns the longitudes and latitudes of members."),
    of_positions(command("georadius", -6, read_or_store), "3.2.0")
        .runs(CommandId::of("georadius"))
        .flags(WRITE_TO_OPTION)
        .costs(SEARCH_COSTS)
        .about("Returns or stores the members in a circle around a position."),
    of_positions(passed_on("georadius_ro", -6), "3.2.10")
        .flags(READ)
        .costs(SEARCH_COSTS)
        .about("Returns the members in a circle around a position."),
    of_positions(command("georadiusbymember", -5, read_or_store), "3.2.0")
        .runs(CommandId::of("georadiusbymember"))
        .flags(WRITE_TO_OPTION)
        .costs(SEARCH_COSTS)
        .about("Returns or stores the members in a circle around a member."),
    of_positions(passed_on("georadiusbymember_ro", -5), "3.2.10")
        .flags(READ)
        .costs(SEARCH_COSTS)
        .about("Returns the members in a circle around a member."),
    of_positions(passed_on_with_name("geosearch", -7), "6.2.0")
        .flags(READ)
        .costs(SEARCH_COSTS)
        .about("Returns the members in a circle or a rectangle."),
    of_positions(passed_on_with_name("geosearchstore", -8), "6.2.0")
        .flags(WRITE)
        .costs(SEARCH_COSTS)
        .about("Stores the members in a circle or a rectangle in a key."),
];

const fn of_positions(spec: CommandSpec, since: &'static str) -> CommandSpec {
    spec.categories(&["geo"]).since(since, "geo")
}

/// Runs `GEORADIUS` or `GEORADIUSBYMEMBER`. Without an option that stores the result, it needs no
/// log entry, except as a part of `EXEC` or `ONCE`.
fn read_or_store(call: &mut Call<'_>) -> Action {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let stores = call.request.rest(5).any(|word| is(word, "STORE") || is(word, "STOREDIST"));
    if !stores && call.batch.is_none() {
        let is_by_member = call.command == Some(CommandId::of("georadiusbymember"));
        let name = if is_by_member { "georadiusbymember_ro" } else { "georadius_ro" };
        call.command = CommandId::named(name);
    }
    submit_unchanged(call)
}
