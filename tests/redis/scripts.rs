//! Scripts must get the same replies as from a real Redis: listed ones, and random ones.

use bowline::wire::resp::Limits;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::local_server::LocalServer;
use super::reference::Reference;
use super::transactions::compare;

/// Requests, one list per line, separated by semicolons. Each list runs on a connection of its own,
/// on an empty keyspace.
const LISTS: &str = include_str!("scripts.txt");

/// Runs each of its arguments, in which words are separated by spaces, and returns all replies.
const RUN: &str = "local out = {} for i, line in ipairs(ARGV) do local words = {} for word in \
                   string.gmatch(line, '[^ ]+') do words[#words + 1] = word end out[i] = \
                   redis.pcall(unpack(words)) end return out";

/// Commands for random scripts. `K` is replaced by a key, `N` by a number and `D` by that of a
/// database.
const COMMANDS: &[&str] = &[
    "set K N",
    "get K",
    "incrby K N",
    "append K N",
    "del K",
    "exists K K",
    "type K",
    "strlen K",
    "setrange K N x",
    "getrange K 0 N",
    "set K N nx",
    "set K N xx get",
    "getset K N",
    "getdel K",
    "mset K N K N",
    "mget K K K",
    "expire K 1000",
    "persist K",
    "rename K K",
    "copy K K",
    "copy K K db D",
    "copy K K db D replace",
    "move K D",
    "select D",
    "select D",
    "flushdb",
    "hset K f N",
    "hget K f",
    "hincrby K f N",
    "hdel K f",
    "hlen K",
    "rpush K N",
    "lpush K N",
    "lpop K",
    "rpop K",
    "llen K",
    "lrange K 0 -1",
    "lmove K K left right",
    "sadd K N",
    "srem K N",
    "scard K",
    "sismember K N",
    "sunionstore K K K",
    "zadd K N N",
    "zscore K N",
    "zincrby K N N",
    "zrem K N",
    "zcard K",
    "zrange K 0 -1 withscores",
    "zpopmin K",
    "setbit K N 1",
    "bitcount K",
    "flushall",
    "nonsense K",
    "get",
    "multi",
    "dbsize",
];

#[test]
fn listed_scripts_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    let flush = ["FLUSHALL".to_owned(), "SCRIPT FLUSH".to_owned()];
    for version in [2, 3] {
        for list in LISTS.lines().filter(|line| !line.is_empty()) {
            compare(&reference, &mut server, &flush, version);
            let requests: Vec<String> = list.split("; ").map(str::to_owned).collect();
            // A semicolon within a script has no space behind it, or the list is rejoined.
            compare(&reference, &mut server, &rejoined(requests), version);
        }
    }
}

/// Joins parts of a request that was split within quotes.
pub(super) fn rejoined(parts: Vec<String>) -> Vec<String> {
    let mut requests: Vec<String> = Vec::new();
    for part in parts {
        match requests.last_mut() {
            Some(open) if open.matches('"').count() % 2 == 1 => {
                open.push_str("; ");
                open.push_str(&part);
            }
            _ => requests.push(part),
        }
    }
    requests
}

#[test]
fn random_scripts_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let rounds = std::env::var("BOWLINE_SCRIPTS").ok().and_then(|text| text.parse().ok());
    let mut server = LocalServer::new(Limits::default());
    for round in 0..rounds.unwrap_or(60) {
        let mut rng = ChaCha8Rng::seed_from_u64(round);
        let requests = random_calls(&mut rng, &format!("EVAL \"{RUN}\" 0"));
        compare(&reference, &mut server, &requests, 2 + u32::from(round % 2 == 1));
    }
}

/// Returns requests that run random commands by `call`, the start of a request.
pub(super) fn random_calls(rng: &mut ChaCha8Rng, call: &str) -> Vec<String> {
    let mut requests = vec!["FLUSHALL".to_owned()];
    for _ in 0..6 {
        let commands: Vec<String> = (0..rng.random_range(1..8))
            .map(|_| {
                let chosen = COMMANDS[rng.random_range(0..COMMANDS.len())];
                let words = chosen.split(' ').map(|word| match word {
                    "K" => ["a", "b", "c"][rng.random_range(0..3)].to_owned(),
                    "N" => rng.random_range(0..5).to_string(),
                    "D" => rng.random_range(0..3).to_string(),
                    other => other.to_owned(),
                });
                let words: Vec<String> = words.collect();
                format!("\"{}\"", words.join(" "))
            })
            .collect();
        // Commands on all keys come before the first write here.
        let commands: Vec<String> =
            commands.into_iter().filter(|command| command != "\"dbsize\"").collect();
        let script = format!("{call} {}", commands.join(" "));
        let select = format!("SELECT {}", rng.random_range(0..3));
        match rng.random_range(0..6) {
            0 => requests.extend(["MULTI".to_owned(), script, "EXEC".to_owned()]),
            1 => requests.extend(["MULTI".to_owned(), select, script, "EXEC".to_owned()]),
            2 => requests.extend(["MULTI".to_owned(), script, select, "EXEC".to_owned()]),
            3 => requests.extend([select, script]),
            _ => requests.push(script),
        }
        // The database that a script selects is its own.
        requests.push("MGET a b c".to_owned());
    }
    requests.extend((0..3).flat_map(|number| {
        [format!("SELECT {number}"), "MGET a b c".to_owned(), "DBSIZE".to_owned()]
    }));
    requests
}
