//! Lists: values in an order under one key, and what can be done with them.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::list::{End, List};
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("lpush", Run::Write(lpush)),
    ("rpush", Run::Write(rpush)),
    ("lpushx", Run::Write(lpushx)),
    ("rpushx", Run::Write(rpushx)),
    ("lpop", Run::Write(lpop)),
    ("rpop", Run::Write(rpop)),
    ("llen", Run::Read(llen)),
    ("lrange", Run::Read(lrange)),
    ("lindex", Run::Read(lindex)),
    ("lset", Run::Write(lset)),
    ("linsert", Run::Write(linsert)),
    ("lrem", Run::Write(lrem)),
    ("ltrim", Run::Write(ltrim)),
    ("rpoplpush", Run::Write(rpoplpush)),
    ("lmove", Run::Write(lmove)),
    ("lpos", Run::Read(lpos)),
    ("lmpop", Run::Write(lmpop)),
];

impl End {
    /// The end that a word says.
    fn read(word: &[u8]) -> Result<End, Refusal> {
        if word.eq_ignore_ascii_case(b"LEFT") {
            Ok(End::Left)
        } else if word.eq_ignore_ascii_case(b"RIGHT") {
            Ok(End::Right)
        } else {
            Err(Refusal::Syntax)
        }
    }

    fn push_event(self) -> &'static str {
        match self {
            End::Left => "lpush",
            End::Right => "rpush",
        }
    }

    fn pop_event(self) -> &'static str {
        match self {
            End::Left => "lpop",
            End::Right => "rpop",
        }
    }
}

/// `LPUSH key value [value ...]`
fn lpush(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    push(store, words, End::Left)
}

/// `RPUSH key value [value ...]`
fn rpush(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    push(store, words, End::Right)
}

/// `LPUSHX key value [value ...]`
fn lpushx(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    push_if_there(store, words, End::Left)
}

/// `RPUSHX key value [value ...]`
fn rpushx(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    push_if_there(store, words, End::Right)
}

fn push(store: &mut StateMachine, words: &Args<'_>, end: End) -> Answer {
    let key = words.get(0)?;
    let length = store.change(key, |list: &mut List| {
        for value in words.rest(1) {
            list.push(end, Bytes::copy_from_slice(value));
        }
        (list.len(), true)
    })?;
    store.note(end.push_event(), key);
    Ok(Outcome::count(length))
}

fn push_if_there(store: &mut StateMachine, words: &Args<'_>, end: End) -> Answer {
    match store.content::<List>(words.get(0)?)? {
        None => Ok(Outcome::Integer(0)),
        Some(_) => push(store, words, end),
    }
}

/// `LPOP key [count]`
fn lpop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    pop(store, words, End::Left, "lpop")
}

/// `RPOP key [count]`
fn rpop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    pop(store, words, End::Right, "rpop")
}

fn pop(store: &mut StateMachine, words: &Args<'_>, end: End, command: &str) -> Answer {
    let key = words.get(0)?;
    let count = match words.rest(1) {
        [] => None,
        [count] => {
            let count = parse_integer(count).ok_or(Refusal::NotPositive)?;
            Some(usize::try_from(count).map_err(|_| Refusal::NotPositive)?)
        }
        _ => return Ok(Outcome::wrong_number(command)),
    };
    if store.content::<List>(key)?.is_none() {
        return Ok(if count.is_some() { Outcome::NoList } else { Outcome::Value(None) });
    }
    let mut values = pop_many(store, key, end, count.unwrap_or(1))?;
    Ok(match count {
        None => Outcome::Value(values.pop().flatten()),
        Some(_) => Outcome::Values(values),
    })
}

/// Takes so many values off an end, as many as there are.
fn pop_many(
    store: &mut StateMachine,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Vec<Option<Bytes>>, Refusal> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let values = store.change_there(key, |list: &mut List| {
        let count = count.min(list.len());
        let mut values = Vec::with_capacity(count);
        values.extend((0..count).map(|_| list.pop(end)));
        (values, true)
    })?;
    store.note(end.pop_event(), key);
    store.note_if_gone(key);
    Ok(values.unwrap_or_default())
}

/// `LLEN key`
fn llen(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::count(store.content::<List>(words.get(0)?)?.map_or(0, List::len)))
}

/// Two words as the first and the last place of a range, counted from the end if below 0. The
/// range as it lies in a list of that length.
fn range(words: &Args<'_>, from: usize) -> Result<impl Fn(usize) -> (usize, usize), Refusal> {
    let first = parse_integer(words.get(from)?).ok_or(Refusal::NotAnInteger)?;
    let last = parse_integer(words.get(from + 1)?).ok_or(Refusal::NotAnInteger)?;
    Ok(move |length: usize| {
        let length = i64::try_from(length).expect("there are fewer bytes than 2^63");
        let place = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        let (from, to) = (place(first).max(0), place(last).min(length - 1) + 1);
        let place = |at: i64| usize::try_from(at).expect("it is between 0 and the length");
        if from < to { (place(from), place(to)) } else { (0, 0) }
    })
}

/// `LRANGE key first last`
fn lrange(store: &StateMachine, words: &Args<'_>) -> Answer {
    let range = range(words, 1)?;
    let Some(list) = store.content::<List>(words.get(0)?)? else {
        return Ok(Outcome::Values(Vec::new()));
    };
    let (from, to) = range(list.len());
    let mut values = Vec::with_capacity(to - from);
    values.extend(list.from(from).take(to - from).cloned().map(Some));
    Ok(Outcome::Values(values))
}

/// `LTRIM key first last`
fn ltrim(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let range = range(words, 1)?;
    let changed = store.change_there(key, |list: &mut List| {
        let (from, to) = range(list.len());
        list.keep(from, to);
        // Even if all of it stays, as for whoever watches a key in Redis.
        ((), true)
    })?;
    if changed.is_some() {
        store.note("ltrim", key);
        store.note_if_gone(key);
    }
    Ok(Outcome::Done)
}

/// The place in a list of that length that a number says; `None` if it is not in it.
fn place(number: i64, length: usize) -> Option<usize> {
    let back = usize::try_from(number.unsigned_abs()).ok()?;
    let place = if number < 0 { length.checked_sub(back)? } else { back };
    (place < length).then_some(place)
}

/// `LINDEX key place`
fn lindex(store: &StateMachine, words: &Args<'_>) -> Answer {
    let Some(list) = store.content::<List>(words.get(0)?)? else {
        return Ok(Outcome::Value(None));
    };
    let number = parse_integer(words.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let place = place(number, list.len());
    Ok(Outcome::Value(place.and_then(|place| list.from(place).next()).cloned()))
}

/// `LSET key place value`
fn lset(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, value) = (words.get(0)?, words.get(2)?);
    let list = store.content::<List>(key)?.ok_or(Refusal::NoSuchKey)?;
    let number = parse_integer(words.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let Some(place) = place(number, list.len()) else {
        return Ok(Outcome::error("ERR index out of range"));
    };
    store.change(key, |list: &mut List| (list.set(place, Bytes::copy_from_slice(value)), true))?;
    store.note("lset", key);
    Ok(Outcome::Done)
}

/// `LINSERT key BEFORE | AFTER pivot value`
fn linsert(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, side, pivot, value) = (words.get(0)?, words.get(1)?, words.get(2)?, words.get(3)?);
    let behind = side.eq_ignore_ascii_case(b"AFTER");
    if !behind && !side.eq_ignore_ascii_case(b"BEFORE") {
        return Err(Refusal::Syntax);
    }
    let Some(list) = store.content::<List>(key)? else { return Ok(Outcome::Integer(0)) };
    let Some(place) = list.from(0).position(|there| there == pivot) else {
        return Ok(Outcome::Integer(-1));
    };
    let length = store.change(key, |list: &mut List| {
        list.insert(place + usize::from(behind), Bytes::copy_from_slice(value));
        (list.len(), true)
    })?;
    store.note("linsert", key);
    Ok(Outcome::count(length))
}

/// `LREM key count value`: so many from the left, from the right if `count` is negative, all if it
/// is 0.
fn lrem(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, value) = (words.get(0)?, words.get(2)?);
    let count = parse_integer(words.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let most = match usize::try_from(count.unsigned_abs()) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(most) => most,
    };
    let end = if count < 0 { End::Right } else { End::Left };
    let has = |list: &List| list.from(0).any(|there| there == value);
    if !store.content::<List>(key)?.is_some_and(has) {
        return Ok(Outcome::Integer(0));
    }
    let removed = store.change(key, |list: &mut List| (list.remove(value, most, end), true))?;
    store.note("lrem", key);
    store.note_if_gone(key);
    Ok(Outcome::count(removed))
}

/// `RPOPLPUSH from to`
fn rpoplpush(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    move_one(store, words.get(0)?, words.get(1)?, End::Right, End::Left)
}

/// `LMOVE from to LEFT | RIGHT LEFT | RIGHT`
fn lmove(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (off, onto) = (End::read(words.get(2)?)?, End::read(words.get(3)?)?);
    move_one(store, words.get(0)?, words.get(1)?, off, onto)
}

/// Takes a value off an end of a list and puts it onto one of another, or of the same.
fn move_one(store: &mut StateMachine, from: &[u8], to: &[u8], off: End, onto: End) -> Answer {
    if store.content::<List>(from)?.is_none() {
        return Ok(Outcome::Value(None));
    }
    store.content::<List>(to)?;
    let value = if from == to {
        // In one go, or a list of one value would go in between, and its end with it.
        store.change(from, |list: &mut List| {
            let value = list.pop(off).expect("no list is empty");
            list.push(onto, value.clone());
            (value, true)
        })?
    } else {
        let pop = |list: &mut List| (list.pop(off).expect("no list is empty"), true);
        let value = store.change(from, pop)?;
        store.change(to, |list: &mut List| (list.push(onto, value.clone()), true))?;
        value
    };
    store.note(onto.push_event(), to);
    store.note(off.pop_event(), from);
    store.note_if_gone(from);
    Ok(Outcome::Value(Some(value)))
}

/// `LPOS key value [RANK rank] [COUNT count] [MAXLEN length]`
fn lpos(store: &StateMachine, words: &Args<'_>) -> Answer {
    let (key, value) = (words.get(0)?, words.get(1)?);
    let options = match Search::read(words) {
        Ok(options) => options,
        Err(error) => return Ok(error),
    };
    let Some(list) = store.content::<List>(key)? else {
        return Ok(match options.count {
            Some(_) => Outcome::List(Vec::new()),
            None => Outcome::Value(None),
        });
    };
    // The lowest number can't be negated, so Redis takes it for one that all are behind.
    let skipped = options.rank.checked_abs().map_or(0, |rank| rank - 1);
    let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
    let wanted = options.count.unwrap_or(1);
    let is_it = |(_, there): &(usize, &Bytes)| *there == value;
    let places = |places: &mut dyn Iterator<Item = (usize, &Bytes)>| -> Vec<usize> {
        let found = places.take(options.looked_at).filter(is_it).skip(skipped);
        found.map(|(place, _)| place).take(wanted).collect()
    };
    let places = if options.rank > 0 {
        places(&mut (0..).zip(list.from(0)))
    } else {
        places(&mut (0..list.len()).rev().zip(list.backwards()))
    };
    Ok(match options.count {
        Some(_) => Outcome::List(places.into_iter().map(Outcome::count).collect()),
        None => places.first().map_or(Outcome::Value(None), |place| Outcome::count(*place)),
    })
}

/// What is looked for.
struct Search {
    /// Which of those that are equal is the first to be told; from the end if negative, never 0.
    rank: i64,
    /// How many are told; without it one, and not in a list.
    count: Option<usize>,
    /// How many values are compared.
    looked_at: usize,
}

impl Search {
    fn read(words: &Args<'_>) -> Result<Search, Outcome> {
        let mut search = Search { rank: 1, count: None, looked_at: usize::MAX };
        for pair in words.rest(2).chunks(2) {
            let [name, number] = pair else { return Err(Refusal::Syntax.into()) };
            let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
            let below = |what: &str| Outcome::error(format!("ERR {what} can't be negative"));
            let limit = |what: &str| {
                let number = parse_integer(number).and_then(|number| usize::try_from(number).ok());
                let number = number.ok_or_else(|| below(what));
                number.map(|number| if number == 0 { usize::MAX } else { number })
            };
            if is("RANK") {
                search.rank = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
                if search.rank == 0 {
                    return Err(Outcome::error(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the \
                         second ... or use negative to start from the end of the list",
                    ));
                }
            } else if is("COUNT") {
                search.count = Some(limit("COUNT")?);
            } else if is("MAXLEN") {
                search.looked_at = limit("MAXLEN")?;
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        Ok(search)
    }
}

/// `LMPOP key-count key [key ...] LEFT | RIGHT [COUNT count]`: off the first list that is there.
fn lmpop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let positive = |word: &[u8]| {
        parse_integer(word)
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    let Some(key_count) = positive(words.get(0)?) else {
        return Err(Refusal::NoKeys);
    };
    let (keys, options) = words.rest(1).split_at_checked(key_count).ok_or(Refusal::Syntax)?;
    let (end, options) = options.split_first().ok_or(Refusal::Syntax)?;
    let end = End::read(end)?;
    let count = match options {
        [] => 1,
        [word, count, rest @ ..] if word.eq_ignore_ascii_case(b"COUNT") => {
            let Some(count) = positive(count) else {
                return Ok(Outcome::error("ERR count should be greater than 0"));
            };
            if !rest.is_empty() {
                return Err(Refusal::Syntax);
            }
            count
        }
        _ => return Err(Refusal::Syntax),
    };
    for key in keys {
        if store.content::<List>(key)?.is_some() {
            let values = pop_many(store, key, end, count)?;
            let key = Outcome::Value(Some(Bytes::copy_from_slice(key)));
            return Ok(Outcome::List(vec![key, Outcome::Values(values)]));
        }
    }
    Ok(Outcome::NoList)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;
    use crate::kv::{Operation, SnapshotReader, SnapshotWriter};
    use crate::types::{EntryId, Term};

    fn values(feeder: &mut Feeder, key: &str) -> Vec<String> {
        match feeder.call("lrange", &[key, "0", "-1"]) {
            Outcome::Values(values) => values.iter().flatten().map(text).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn text(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn value(text: &'static str) -> Outcome {
        Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn a_list_goes_with_its_last_value_and_its_end_with_it() {
        let mut feeder = Feeder::new();
        let empty = feeder.store.memory();
        assert_eq!(feeder.call("rpush", &["l", "a", "b"]), Outcome::Integer(2));
        assert_eq!(feeder.call("lpush", &["l", "c", "d"]), Outcome::Integer(4));
        assert_eq!(values(&mut feeder, "l"), ["d", "c", "a", "b"]);
        feeder.call("pexpire", &["l", "100"]);
        assert_eq!(feeder.call("rpop", &["l"]), value("b"));
        assert_eq!(feeder.store.next_expiry(), Some(100));
        let rest = feeder.call("lpop", &["l", "9"]);
        assert!(matches!(rest, Outcome::Values(values) if values.len() == 3));
        assert_eq!((feeder.store.key_count(), feeder.store.next_expiry()), (0, None));
        assert_eq!(feeder.call("lpop", &["l", "9"]), Outcome::NoList);
        let grown = feeder.store.memory() - empty;
        feeder.call("rpush", &["l", &"x".repeat(5_000)]);
        assert!(feeder.store.memory() - empty > grown + 5_000, "its memory is counted");
    }

    #[test]
    fn a_list_of_one_value_that_goes_round_keeps_its_end() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "a"]);
        feeder.call("pexpire", &["l", "100"]);
        assert_eq!(feeder.call("rpoplpush", &["l", "l"]), value("a"));
        assert_eq!(feeder.store.next_expiry(), Some(100));
        assert_eq!(feeder.call("lmove", &["l", "to", "left", "right"]), value("a"));
        assert_eq!((feeder.store.key_count(), feeder.store.next_expiry()), (1, None));
        assert_eq!(values(&mut feeder, "to"), ["a"]);
        assert_eq!(feeder.call("rpoplpush", &["l", "to"]), Outcome::Value(None));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "a", "b"]);
        feeder.apply(Operation::Put { key: b"s", value: b"v" });
        let revision = feeder.store.revision(b"l");
        for (verb, words) in [
            ("lmove", &["l", "s", "LEFT", "LEFT"][..]),
            ("rpoplpush", &["l", "s"]),
            ("lset", &["l", "2", "x"]),
            ("lset", &["none", "0", "x"]),
            ("lpush", &["s", "x"]),
            ("lpop", &["l", "-1"]),
            ("lmpop", &["2", "s", "l", "LEFT"]),
            ("linsert", &["l", "BESIDE", "a", "x"]),
            ("ltrim", &["l", "0", "x"]),
        ] {
            let outcome = feeder.call(verb, words);
            let refused = matches!(outcome, Outcome::Refused(_) | Outcome::Error(_));
            assert!(refused, "{verb} {words:?}: {outcome:?}");
        }
        assert_eq!(values(&mut feeder, "l"), ["a", "b"]);
        assert_eq!(feeder.call("lpop", &["l", "0"]), Outcome::Values(Vec::new()));
        assert_eq!(feeder.call("lrem", &["l", "0", "x"]), Outcome::Integer(0));
        assert_eq!(feeder.store.revision(b"l"), revision);
        feeder.call("ltrim", &["l", "0", "-1"]);
        assert_ne!(feeder.store.revision(b"l"), revision, "as for who watches a key in Redis");
    }

    #[test]
    fn places_are_told_from_either_end() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "a", "b", "a", "c", "a"]);
        let places =
            |places: &[i64]| Outcome::List(places.iter().copied().map(Outcome::Integer).collect());
        for (options, wanted) in [
            (&[][..], Outcome::Integer(0)),
            (&["RANK", "2"], Outcome::Integer(2)),
            (&["RANK", "-1"], Outcome::Integer(4)),
            (&["RANK", "4"], Outcome::Value(None)),
            (&["COUNT", "0"], places(&[0, 2, 4])),
            (&["COUNT", "2", "RANK", "-2"], places(&[2, 0])),
            (&["COUNT", "0", "MAXLEN", "3"], places(&[0, 2])),
            (&["MAXLEN", "2", "RANK", "-1", "COUNT", "5"], places(&[4])),
        ] {
            let words = [&["l", "a"], options].concat();
            assert_eq!(feeder.call("lpos", &words), wanted, "{options:?}");
        }
    }

    #[test]
    fn a_long_list_comes_back_from_a_snapshot() {
        let mut feeder = Feeder::new();
        for number in 0..1_000 {
            let end = if number % 3 == 0 { "lpush" } else { "rpush" };
            feeder.call(end, &["l", &number.to_string()]);
        }
        feeder.call("linsert", &["l", "AFTER", "500", "new"]);
        feeder.call("lrem", &["l", "1", "501"]);
        let mut copy = feeder.restored();
        assert_eq!(copy.store.digest(), feeder.store.digest());
        assert_eq!(copy.store.memory(), feeder.store.memory());
        let popped = feeder.call("rpop", &["l", "600"]);
        assert_eq!(copy.call("rpop", &["l", "600"]), popped);
        assert_eq!(copy.store.digest(), feeder.store.digest());
        assert_eq!(values(&mut copy, "l"), values(&mut feeder, "l"));
    }

    #[test]
    fn a_view_stays_as_it_was_while_its_list_and_its_hash_change() {
        let mut feeder = Feeder::new();
        for number in 0..1_500 {
            let number = number.to_string();
            feeder.call("rpush", &["l", &number]);
            feeder.call("hset", &["h", &number, &number]);
        }
        let before = feeder.store.digest();
        let last = EntryId { term: Term(1), index: feeder.store.applied_index() };
        let mut writer = SnapshotWriter::new(feeder.store.view(last));
        let (mut reader, mut turn) = (SnapshotReader::default(), 0);
        while writer.write(&mut |piece| reader.feed(piece).unwrap()).is_none() {
            let number = (turn * 7 % 1_500).to_string();
            match turn % 5 {
                0 => feeder.call("linsert", &["l", "BEFORE", &number, "new"]),
                1 => feeder.call("lrem", &["l", "-1", &number]),
                2 => feeder.call("hset", &["h", &number, "other", "new", &number]),
                3 => feeder.call("hdel", &["h", &number]),
                _ => feeder.call("lmove", &["l", "l", "LEFT", "RIGHT"]),
            };
            turn += 1;
        }
        assert!(turn > 1_000 && feeder.store.digest() != before);
        assert_eq!(reader.finish().unwrap().0.digest(), before);
        assert_eq!(feeder.restored().store.digest(), feeder.store.digest());
    }
}
