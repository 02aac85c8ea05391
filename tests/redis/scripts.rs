//! Scripts must get the same replies as from a real Redis: listed ones, and random ones.

use bowline::wire::resp::Limits;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::local_server::LocalServer;
use super::reference::Reference;
use super::transactions::compare;

/// Requests, one list per line, separated by semicolons. Each list runs on a connection of its own,
/// on an empty keyspace.
const LISTS: &str = r#"
EVAL "return 1" 0; EVAL "return {1,2,{3,'a'}}" 0; EVAL "return nil" 0; EVAL "return false" 0; EVAL "return true" 0
EVAL "return KEYS[1]..ARGV[1]" 1 a b; EVAL "return #KEYS" 2 a b; EVAL "return 3.99" 0; EVAL "return {ok='fine'}" 0
EVAL "return {err='ERR bad'}" 0; EVAL "return redis.error_reply('ERR x')" 0; EVAL "return redis.status_reply('x')" 0
EVAL "return 1" x; EVAL "return 1" -1; EVAL "return 1" 1; EVAL "return 1" 2 a; EVAL; EVAL "return 1"
EVALSHA 0123456789012345678901234567890123456789 0; EVALSHA 012 0; EVALSHA_RO 012 0
SCRIPT LOAD "return 7"; EVALSHA 59b6ab2fbe0ee4b25733de0f62e6cda4899ef8e9 0; SCRIPT EXISTS a b; SCRIPT FLUSH X; SCRIPT FLUSH SYNC; SCRIPT KILL
EVAL "return 42" 0; SCRIPT EXISTS 1fa00e76656cc152ad327c13fe365858fd7be306; EVALSHA 1fa00e76656cc152ad327c13fe365858fd7be306 0; EVALSHA 1FA00E76656CC152AD327C13FE365858FD7BE306 0; SCRIPT FLUSH; EVALSHA 1fa00e76656cc152ad327c13fe365858fd7be306 0
EVAL "redis.call('set',KEYS[1],'v'); return redis.call('get',KEYS[1])" 1 k; GET k; EVAL "return redis.call('del',KEYS[1])" 1 k; GET k
EVAL "return redis.call('incr',KEYS[1])" 1 n; EVAL "local v=redis.call('incr',KEYS[1]) if v==2 then redis.call('expire',KEYS[1],100) end return {v,redis.call('ttl',KEYS[1])}" 1 n; TTL n
SET t text; EVAL "return redis.call('incr',KEYS[1])" 1 t; EVAL "return redis.pcall('incr',KEYS[1])" 1 t; EVAL "local r=redis.pcall('incr',KEYS[1]); return r.err" 1 t
EVAL "redis.call('set','a','1'); redis.call('nonsense')" 0; GET a
EVAL "redis.call('set','a','1'); error('boom')" 0; GET a; EVAL "return redis.call('get')" 0; EVAL "return redis.call()" 0
EVAL "return redis.pcall('nonsense')" 0; EVAL "return redis.pcall('get')" 0; EVAL "return redis.pcall('subscribe','c')" 0; EVAL "return redis.pcall('eval','return 1','0')" 0
EVAL "return redis.call('multi')" 0; EVAL "return redis.call('config','get','maxmemory')" 0; EVAL "return redis.pcall('watch','a')" 0
EVAL_RO "return redis.call('set','a','1')" 0; EVAL_RO "return redis.call('get','a')" 0; GET a; EVAL_RO "return redis.pcall('del','a')" 0
EVAL "return redis.call('ping')" 0; EVAL "return redis.call('echo','x')" 0; EVAL "return redis.call('select','0')" 0; EVAL "return redis.call('publish','c','m')" 0
MSET a 1 b 2; EVAL "return redis.call('dbsize')" 0; EVAL "local k=redis.call('keys','*') table.sort(k) return k" 0; EVAL "return redis.call('del',unpack(redis.call('keys','*')))" 0; DBSIZE
MSET a 1 b 2; EVAL "redis.call('flushall'); redis.call('set','c','3'); return redis.call('get','a')" 0; DBSIZE; GET c
EVAL "redis.call('hset',KEYS[1],'f','1','g','2'); return redis.call('hgetall',KEYS[1])" 1 h; EVAL "return redis.call('hincrby',KEYS[1],'f',5)" 1 h; HGETALL h
EVAL "redis.call('rpush',KEYS[1],'a','b','c'); redis.call('lpop',KEYS[1]); return redis.call('lrange',KEYS[1],0,-1)" 1 l; LRANGE l 0 -1
EVAL "redis.call('zadd',KEYS[1],1,'a',2,'b'); return redis.call('zrange',KEYS[1],0,-1,'withscores')" 1 z; ZRANGE z 0 -1
EVAL "redis.call('sadd',KEYS[1],'a'); return redis.call('spop',KEYS[1])" 1 s; EXISTS s; EVAL "return redis.call('set',KEYS[1],'v','nx')" 1 s; EVAL "return redis.call('set',KEYS[1],'v','nx')" 1 s
EVAL "return redis.call('get',KEYS[1])" 1 nothing; EVAL "return type(redis.call('get',KEYS[1]))" 1 nothing; EVAL "return redis.call('type',KEYS[1])" 1 nothing
EVAL "redis.call('rename','a','b')" 0; SET a 1; EVAL "redis.call('rename','a','b'); return redis.call('exists','a','b')" 0; EVAL "return redis.call('copy','b','c')" 0; MGET a b c
EVAL "nonsense nonsense" 0; SCRIPT LOAD "nonsense nonsense"; SCRIPT LOAD; EVAL "return x" 0; EVAL "y=1" 0
MULTI; SET x 1; EVAL "return redis.call('incr',KEYS[1])" 1 x; GET x; EVAL "error('boom')" 0; INCR x; EXEC; GET x
MULTI; SCRIPT LOAD "return 1"; EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0; EXEC; MULTI; EVAL "return 1" 5; EXEC
WATCH a; SET a 1; MULTI; EVAL "return redis.call('incr','a')" 0; EXEC; GET a
WATCH a; MULTI; EVAL "return redis.call('incr','a')" 0; EXEC; GET a
MULTI; EVALSHA 0123456789012345678901234567890123456789 0; SET a 1; EXEC; GET a
"#;

/// Runs each of its arguments, in which words are separated by spaces, and returns all replies.
const RUN: &str = "local out = {} for i, line in ipairs(ARGV) do local words = {} for word in \
                   string.gmatch(line, '[^ ]+') do words[#words + 1] = word end out[i] = \
                   redis.pcall(unpack(words)) end return out";

/// Commands for random scripts. `K` is replaced by a key and `N` by a number.
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
fn rejoined(parts: Vec<String>) -> Vec<String> {
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
        let mut requests = vec!["FLUSHALL".to_owned()];
        for _ in 0..6 {
            let commands: Vec<String> = (0..rng.random_range(1..8))
                .map(|_| {
                    let chosen = COMMANDS[rng.random_range(0..COMMANDS.len())];
                    let words = chosen.split(' ').map(|word| match word {
                        "K" => ["a", "b", "c"][rng.random_range(0..3)].to_owned(),
                        "N" => rng.random_range(0..5).to_string(),
                        other => other.to_owned(),
                    });
                    let words: Vec<String> = words.collect();
                    format!("\"{}\"", words.join(" "))
                })
                .collect();
            // Commands on all keys come before the first write here.
            let commands: Vec<String> =
                commands.into_iter().filter(|command| command != "\"dbsize\"").collect();
            let script = format!("EVAL \"{RUN}\" 0 {}", commands.join(" "));
            match rng.random_range(0..3) {
                0 => requests.extend(["MULTI".to_owned(), script, "EXEC".to_owned()]),
                _ => requests.push(script),
            }
            requests.push("MGET a b c".to_owned());
        }
        compare(&reference, &mut server, &requests, 2 + u32::from(round % 2 == 1));
    }
}
