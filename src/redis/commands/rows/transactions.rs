//! Commands that make several one.

use crate::redis::commands::once;
use crate::redis::commands::transactions;
use crate::redis::spec::{ALL_KEYS, CommandSpec, KeyRange, command};

const FAST: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];

/// Behind the session, the number and the command's name; of nearly all that write it is the first
/// key.
const FOURTH_KEY: KeyRange = KeyRange { first: 4, last: 4, step: 1 };

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("discard", 1, transactions::discard)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.0.0", "transactions")
        .costs("O(N), N being the number of queued commands")
        .about("Forgets what was queued since MULTI."),
    command("exec", 1, transactions::exec)
        .flags(&["noscript", "loading", "stale", "skip_slowlog"])
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("That of all queued commands")
        .about("Does what was queued since MULTI, all at one moment."),
    command("multi", 1, transactions::multi)
        .flags(FAST)
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("O(1)")
        .about("Queues what comes behind it, until EXEC."),
    command("once", -2, once::once)
        .keys_at(FOURTH_KEY)
        .flags(&["write", "denyoom", "no_multi"])
        .categories(&["transaction"])
        .since("7.2.0", "transactions")
        .costs("That of the command")
        .about("Does a command of a session once, however often it is sent; OPEN opens one."),
    command("unwatch", 1, transactions::unwatch)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(1)")
        .about("Takes every WATCH back."),
    command("watch", -2, transactions::watch)
        .keys_at(ALL_KEYS)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(N), N being the number of keys")
        .about("Lets the next EXEC do nothing if one of the keys changes before it."),
];
