//! The inputs: what one client does while the others go on.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::command;
use crate::offender::Offender;
use crate::replicas::TIMEOUT;

/// Pause before the next look at something that must happen.
const STEP: Duration = Duration::from_millis(20);

/// What one client does. It removes what it has added.
pub(crate) type Input = fn(&mut Offender);

/// All inputs with their names.
pub(crate) const INPUTS: &[(&str, Input)] = &[
    ("SETBIT at the end of 512 MiB", |client| {
        client.call("SETBIT k 4294967295 1");
        client.call("DEL k");
    }),
    ("SETBIT in 128 MiB", |client| {
        client.call("SETBIT k 1073741823 1");
        for number in 0..1_000 {
            client.call(&format!("SETBIT k {} 1", number * 1_000_003));
        }
        client.call("DEL k");
    }),
    ("APPEND to 1 MiB", |client| {
        client.call_with(&[b"SET", b"k", &vec![b'x'; 1 << 20]]);
        for _ in 0..1_000 {
            client.call("APPEND k 0123456789");
        }
        client.call("DEL k");
    }),
    ("COPY of 512 MiB", |client| {
        client.call("SETBIT k 4294967295 1");
        for _ in 0..20 {
            client.call("COPY k copy REPLACE");
            client.call("SETBIT copy 7 1");
        }
        client.call("DEL k copy");
    }),
    ("SADD of a million members in one command, and DEL", |client| {
        let members: Vec<String> = (0..1_000_000).map(|it| it.to_string()).collect();
        let arguments = [&b"SADD"[..], b"k"].into_iter();
        let arguments: Vec<&[u8]> = arguments.chain(members.iter().map(String::as_bytes)).collect();
        assert_eq!(client.call_with(&arguments), 1_000_000);
        client.call("DEL k");
    }),
    ("SPOP and SRANDMEMBER of a million members", |client| {
        client.fill("SADD k", 1_000_000, |it| it.to_string());
        client.call("SRANDMEMBER k 1000000");
        client.call("SPOP k 1000000");
        assert_eq!(client.call("EXISTS k"), 0);
    }),
    ("SUNIONSTORE and ZUNIONSTORE", |client| {
        for key in 0..3 {
            client.fill(&format!("SADD s{key}"), 200_000, |it| format!("{key}:{it}"));
            client.fill(&format!("ZADD z{key}"), 100_000, |it| format!("{it} {key}:{it}"));
        }
        for _ in 0..2 {
            client.call("SUNIONSTORE union s0 s1 s2");
            client.call("ZUNIONSTORE union 3 z0 z1 z2");
        }
        client.call("DEL union s0 s1 s2 z0 z1 z2");
    }),
    ("MSET over large collections", |client| {
        for key in 0..10 {
            client.fill(&format!("SADD k{key}"), 100_000, |it| it.to_string());
        }
        let pairs: Vec<String> = (0..10).map(|key| format!("k{key} v")).collect();
        client.call(&format!("MSET {}", pairs.join(" ")));
        for key in 0..10 {
            client.call(&format!("DEL k{key}"));
        }
    }),
    ("large collections that expire at one instant", |client| {
        for key in 0..10 {
            client.fill(&format!("SADD k{key}"), 50_000, |it| it.to_string());
        }
        for key in 0..10 {
            client.call(&format!("PEXPIRE k{key} 500"));
        }
        wait_until_expired(client);
    }),
    ("200,000 keys that expire at one instant", |client| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = (now + Duration::from_secs(6)).as_millis().to_string();
        for from in (0..200_000).step_by(1_000) {
            let set = |it: usize| {
                let key = format!("k{it}");
                command(&[b"SET", key.as_bytes(), b"v", b"PXAT", at.as_bytes()])
            };
            client.send(&(from..from + 1_000).map(set).collect::<Vec<_>>().concat());
            client.replies(1_000);
        }
        wait_until_expired(client);
    }),
    ("KEYS with many keys, and FLUSHALL", |client| {
        fill_keys(client, 300_000);
        client.call("KEYS *");
        client.call("FLUSHALL");
    }),
    ("KEYS with a pattern that backtracks", |client| {
        let keys = |it| format!("{}{it} v", "a".repeat(200));
        client.fill("MSET", 20_000, keys);
        client.call(&format!("KEYS {}b", "*a".repeat(100)));
        client.call("FLUSHALL");
    }),
    ("200,000 GETs before the first reply is read", |client| {
        client.call_with(&[b"SET", b"k", &[b'x'; 1_000]]);
        let gets = command(&[b"GET", b"k"]).repeat(200_000);
        client.send(&gets);
        client.replies(200_000);
        client.call("DEL k");
    }),
    ("a large MULTI", |client| {
        client.call("MULTI");
        let commands = command(&[b"INCR", b"k"]).repeat(50_000);
        client.send(&commands);
        client.replies(50_000);
        assert_eq!(client.call("EXEC"), 50_000);
        client.call("DEL k");
    }),
    ("a subscriber that reads nothing", |client| {
        client.connect_without_reader("SUBSCRIBE channel");
        let message = vec![b'x'; 256 << 10];
        for _ in 0..300 {
            client.call_with(&[b"PUBLISH", b"channel", &message]);
        }
        client.unread.clear();
    }),
];

fn fill_keys(client: &mut Offender, count: usize) {
    client.fill("MSET", count, |it| format!("k{it} v"));
}

/// Waits until hardly any expired key is left, which `DBSIZE` would count.
fn wait_until_expired(client: &mut Offender) {
    let mut left = TIMEOUT;
    while client.call("DBSIZE") > 1_000 {
        assert!(!left.is_zero(), "expired keys are left");
        thread::sleep(STEP);
        left = left.saturating_sub(STEP);
    }
}
