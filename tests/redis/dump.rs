//! `RESTORE` of recorded payloads, in this server and in a real Redis: the keys must be equal. The
//! random streams also exchange payloads of both servers.

use super::random::{Both, last_questions};
use super::reference::Reference;
use super::reply::Reply;

/// Payloads of Redis's encodings, with names; the lines with their contents begin with spaces.
const RECORDED: &str = include_str!("../../src/rdb/tests/recorded.txt");

/// Returns the recorded payloads with their names.
fn payloads() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let lines = RECORDED.lines().filter(|line| !line.starts_with(['#', ' ']));
    lines.map(|line| {
        let (name, digits) = line.split_once(' ').expect("a name and a payload");
        let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        (name, (0..digits.len()).step_by(2).map(pair).collect())
    })
}

#[test]
fn payloads_of_all_encodings_are_restored_as_in_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut both = Both::new(&reference, 2);
    for (name, payload) in payloads() {
        let restore = [&b"RESTORE"[..], b"s1", b"0", &payload, b"REPLACE"];
        let [ours, theirs] = both.call(&restore);
        assert_eq!(ours.to_string(), Reply::parse(b"+OK\r\n").expect("a reply").0.to_string());
        if name.starts_with("new") {
            // Of a later version.
            assert_ne!(ours, theirs, "{name}");
            continue;
        }
        assert_eq!(ours, theirs, "{name}");
        let questions: Vec<_> = last_questions().collect();
        if let Err(found) = both.ask(&questions) {
            panic!("{name}: {}, Redis: {}", found.ours, found.theirs);
        }
        // Our payload of the same value makes the same value in Redis.
        both.exchange();
        assert!(both.ask(&questions).is_ok(), "{name}, exchanged");
    }
}

#[test]
fn wrong_arguments_of_restore_are_refused_as_in_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut both = Both::new(&reference, 2);
    let (_, payload) = payloads().next().expect("there are some");
    let mut damaged = payload.clone();
    damaged[0] ^= 1;
    // The value is that of an empty string, whose type is changed to others, with a new checksum.
    let malformed = |bytes: &[u8]| {
        let mut payload = bytes.to_vec();
        bowline::rdb::finish_payload(&mut payload, 10);
        payload
    };
    let malformed =
        [b"\x01\0", b"\x02\0", b"\x04\0", b"\x08\0", b"\0\x20", b"\x11\0"].map(|it| malformed(it));
    let payloads: Vec<&[u8]> = [&payload, &damaged]
        .into_iter()
        .chain(&malformed)
        .map(|it| &it[..])
        .chain([&b""[..]])
        .collect();
    let calls: &[&str] = &[
        "0",
        "x",
        "-1",
        "1.5",
        "0 REPLACE",
        "0 replace",
        "100000000 REPLACE",
        "4000000000000 ABSTTL REPLACE",
        "1 ABSTTL REPLACE",
        "1 REPLACE ABSTTL",
        "0 NONSENSE",
        "0 IDLETIME",
        "0 IDLETIME 5 REPLACE",
        "0 IDLETIME -1",
        "0 IDLETIME x",
        "0 FREQ 255 REPLACE",
        "0 FREQ 256",
        "0 FREQ -1",
        "0 FREQ",
        "0 FREQ 1 IDLETIME 1",
        "0 IDLETIME 1 FREQ 1",
        "0 REPLACE REPLACE",
        "x NONSENSE",
        "-1 REPLACE",
    ];
    for exists in [false, true] {
        for payload in &payloads {
            for call in calls {
                let words: Vec<&[u8]> = call.split(' ').map(str::as_bytes).collect();
                let setup =
                    if exists { &[&b"SET"[..], b"s1", b"v"][..] } else { &[&b"DEL"[..], b"s1"] };
                both.call(setup);
                let mut request = vec![&b"RESTORE"[..], b"s1", words[0], payload];
                request.extend(&words[1..]);
                let [ours, theirs] = both.call(&request);
                assert_eq!(ours, theirs, "{call} of {}", payload.escape_ascii());
                let [ours, theirs] = both.call(&[b"EXISTS", b"s1"]);
                assert_eq!(ours, theirs, "{call} of {}", payload.escape_ascii());
            }
        }
    }
    for request in ["RESTORE s1 0", "DUMP", "DUMP a b", "DUMP never"] {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let [ours, theirs] = both.call(&words);
        assert_eq!(ours, theirs, "{request}");
    }
}
