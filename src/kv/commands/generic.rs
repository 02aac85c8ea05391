//! What can be done with keys whatever they hold.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("type", Run::Read(kind)),
    ("randomkey", Run::Read(random_key)),
    ("memory|usage", Run::Read(memory_usage)),
    ("rename", Run::Write(rename)),
    ("renamenx", Run::Write(renamenx)),
    ("copy", Run::Write(copy)),
    ("object|encoding", Run::Read(encoding)),
    ("object|refcount", Run::Read(refcount)),
    ("object|idletime", Run::Read(idletime)),
    ("object|freq", Run::Read(freq)),
];

/// `TYPE key`
fn kind(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::Type(store.kind(words.get(0)?)))
}

/// `RANDOMKEY`: of the keys in a table that chance finds, the one that it finds next. So it does
/// not depend on how keys lie in tables.
#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
fn random_key(store: &StateMachine, words: &Args<'_>) -> Answer {
    let near = store.some_table(words.seed, |pair| store.pair(pair.key()).is_some());
    let next = near.min_by_key(|pair| pair.number() ^ words.seed.rotate_left(32));
    Ok(Outcome::Value(next.map(KeyEntry::shared_key)))
}

/// `MEMORY USAGE key [SAMPLES count]`
fn memory_usage(store: &StateMachine, words: &Args<'_>) -> Answer {
    let pair = store.pair(words.get(0)?);
    Ok(pair.map_or(Outcome::Value(None), |pair| Outcome::count(pair.memory())))
}

/// `RENAME key newkey`
fn rename(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (from, to) = (words.get(0)?, words.get(1)?);
    store.pair(from).ok_or(Refusal::NoSuchKey)?;
    move_to(store, from, to);
    Ok(Outcome::Done)
}

/// `RENAMENX key newkey`
fn renamenx(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (from, to) = (words.get(0)?, words.get(1)?);
    store.pair(from).ok_or(Refusal::NoSuchKey)?;
    let free = store.pair(to).is_none();
    if free {
        move_to(store, from, to);
    }
    Ok(Outcome::flag(free))
}

fn move_to(store: &mut StateMachine, from: &[u8], to: &[u8]) {
    if from == to {
        return;
    }
    store.copy(from, to);
    store.remove(from);
    store.note("rename_from", from);
    store.note("rename_to", to);
}

/// `COPY source destination [DB 0] [REPLACE]`
fn copy(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (from, to) = (words.get(0)?, words.get(1)?);
    let mut replaces = false;
    let mut options = words.rest(2).iter();
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"REPLACE") {
            replaces = true;
        } else if option.eq_ignore_ascii_case(b"DB")
            && let Some(number) = options.next()
        {
            let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
            if i32::try_from(number).is_err() {
                return Ok(Outcome::error(
                    "ERR value is out of range, value must between -2147483648 and 2147483647",
                ));
            }
            if number != 0 {
                return Ok(Outcome::error("ERR DB index is out of range"));
            }
        } else {
            return Err(Refusal::Syntax);
        }
    }
    if from == to {
        return Err(Refusal::SameObject);
    }
    let copies = store.pair(from).is_some() && (replaces || store.pair(to).is_none());
    if copies {
        store.copy(from, to);
        store.note("copy_to", to);
    }
    Ok(Outcome::flag(copies))
}

/// `OBJECT ENCODING key`: what Redis with its default limits would keep such a value in, if it was
/// set as it is now.
fn encoding(store: &StateMachine, words: &Args<'_>) -> Answer {
    let name = store.pair(words.get(0)?).map(KeyEntry::encoding);
    Ok(Outcome::Value(name.map(|name| Bytes::from_static(name.as_bytes()))))
}

/// `OBJECT REFCOUNT key`: Redis shares small whole numbers among all keys, and tells the largest
/// count for them.
fn refcount(store: &StateMachine, words: &Args<'_>) -> Answer {
    let Some(pair) = store.pair(words.get(0)?) else { return Ok(Outcome::Value(None)) };
    let number = parse_integer(pair.value()).filter(|number| (0..10_000).contains(number));
    let shared = pair.object().is_none() && number.is_some();
    Ok(Outcome::Integer(if shared { i32::MAX.into() } else { 1 }))
}

/// `OBJECT IDLETIME key`: nobody keeps who reads what when, so it is always as if just now.
fn idletime(store: &StateMachine, words: &Args<'_>) -> Answer {
    let is_there = store.pair(words.get(0)?).is_some();
    Ok(if is_there { Outcome::Integer(0) } else { Outcome::Value(None) })
}

/// `OBJECT FREQ key`: the same, as where Redis does not keep it.
fn freq(store: &StateMachine, words: &Args<'_>) -> Answer {
    if store.pair(words.get(0)?).is_none() {
        return Ok(Outcome::Value(None));
    }
    Ok(Outcome::error(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust.",
    ))
}
