//! Commands on lists.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, NO_KEYS, ONE_KEY, Row, Scale, TWO_KEYS, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::element::{Element, share_all};
use crate::kv::values::list::{End, List};
use crate::kv::values::number::parse_integer;

/// The list commands of the state machine: number, name, key positions and function of each. Append
/// new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(152, "lpush", ONE_KEY, lpush),
    write(153, "rpush", ONE_KEY, rpush),
    write(154, "lpushx", ONE_KEY, lpushx),
    write(155, "rpushx", ONE_KEY, rpushx),
    write(156, "lpop", ONE_KEY, lpop).per(Scale::Count),
    write(157, "rpop", ONE_KEY, rpop).per(Scale::Count),
    read(158, "llen", ONE_KEY, llen),
    read(159, "lrange", ONE_KEY, lrange).per(Scale::Values),
    read(160, "lindex", ONE_KEY, lindex),
    write(161, "lset", ONE_KEY, lset),
    write(162, "linsert", ONE_KEY, linsert).per(Scale::Values),
    write(163, "lrem", ONE_KEY, lrem).per(Scale::Values),
    write(164, "ltrim", ONE_KEY, ltrim).per(Scale::Values),
    write(165, "rpoplpush", TWO_KEYS, rpoplpush),
    write(166, "lmove", TWO_KEYS, lmove),
    read(167, "lpos", ONE_KEY, lpos).per(Scale::Values),
    write(168, "lmpop", NO_KEYS.and_counted_at(0), lmpop).per(Scale::Count),
];

impl End {
    /// Parses `LEFT` or `RIGHT`, the end of a list; returns a syntax error for anything else.
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

/// Runs `LPUSH key value [value ...]`: adds values at the left end of a list.
fn lpush(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    push(keyspace, args, End::Left)
}

/// Runs `RPUSH key value [value ...]`: adds values at the right end of a list.
fn rpush(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    push(keyspace, args, End::Right)
}

/// Runs `LPUSHX key value [value ...]`: adds values at the left end of a list if the list exists.
fn lpushx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    push_if_there(keyspace, args, End::Left)
}

/// Runs `RPUSHX key value [value ...]`: adds values at the right end of a list if the list exists.
fn rpushx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    push_if_there(keyspace, args, End::Right)
}

fn push(keyspace: &mut Keyspace, args: &Args<'_>, end: End) -> Answer {
    let key = args.get(0)?;
    let length = keyspace.update(key, |list: &mut List| {
        for value in args.rest(1) {
            list.push(end, (*value).into());
        }
        (list.len(), true)
    })?;
    keyspace.notify(end.push_event(), key);
    Ok(Outcome::count(length))
}

fn push_if_there(keyspace: &mut Keyspace, args: &Args<'_>, end: End) -> Answer {
    match keyspace.collection::<List>(args.get(0)?)? {
        None => Ok(Outcome::Integer(0)),
        Some(_) => push(keyspace, args, end),
    }
}

/// Runs `LPOP key [count]`: removes and returns values from the left end of a list.
fn lpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop(keyspace, args, End::Left, "lpop")
}

/// Runs `RPOP key [count]`: removes and returns values from the right end of a list.
fn rpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop(keyspace, args, End::Right, "rpop")
}

fn pop(keyspace: &mut Keyspace, args: &Args<'_>, end: End, command: &str) -> Answer {
    let key = args.get(0)?;
    let count = match args.rest(1) {
        [] => None,
        [count] => {
            let count = parse_integer(count).ok_or(Refusal::NotPositive)?;
            Some(usize::try_from(count).map_err(|_| Refusal::NotPositive)?)
        }
        _ => return Ok(Outcome::wrong_number(command)),
    };
    if keyspace.collection::<List>(key)?.is_none() {
        return Ok(if count.is_some() { Outcome::NoList } else { Outcome::Value(None) });
    }
    let mut values = pop_many(keyspace, key, end, count.unwrap_or(1))?;
    Ok(match count {
        None => Outcome::Value(values.pop().flatten()),
        Some(_) => Outcome::Values(values),
    })
}

/// Removes a value from an end of the first of these keys that holds a list. Returns the key and
/// the value; null if none of the keys exists.
pub(in crate::kv) fn pop_one_of(keyspace: &mut Keyspace, keys: &[&[u8]], end: End) -> Answer {
    for key in keys {
        if keyspace.collection::<List>(key)?.is_some() {
            let mut popped = vec![Some(Bytes::copy_from_slice(key))];
            popped.append(&mut pop_many(keyspace, key, end, 1)?);
            return Ok(Outcome::Values(popped));
        }
    }
    Ok(Outcome::NoList)
}

/// Removes up to `count` values from one end of the list at a key, and returns them, each wrapped
/// in `Some`. Returns an empty vector if the key does not exist.
fn pop_many(
    keyspace: &mut Keyspace,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Vec<Option<Bytes>>, Refusal> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let values = keyspace.update_existing(key, |list: &mut List| {
        let count = count.min(list.len());
        let values: Vec<Element> = (0..count).map_while(|_| list.pop(end)).collect();
        (share_all(&values).map(Some).collect(), true)
    })?;
    keyspace.notify(end.pop_event(), key);
    keyspace.notify_if_removed(key);
    Ok(values.unwrap_or_default())
}

/// Runs `LLEN key`: returns the length of a list.
fn llen(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(keyspace.collection::<List>(args.get(0)?)?.map_or(0, List::len)))
}

/// Parses two arguments, from index `from` on, as the first and the last index of a range of a
/// list; negative indexes count from the end of the list. Returns a function that converts the
/// length of the list to the start (inclusive) and the end (exclusive) of the range.
fn range(args: &Args<'_>, from: usize) -> Result<impl Fn(usize) -> (usize, usize), Refusal> {
    let first = parse_integer(args.get(from)?).ok_or(Refusal::NotAnInteger)?;
    let last = parse_integer(args.get(from + 1)?).ok_or(Refusal::NotAnInteger)?;
    Ok(move |length: usize| {
        let length = i64::try_from(length).expect("lengths are below 2^63");
        let place = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        let (from, to) = (place(first).max(0), place(last).min(length - 1) + 1);
        let place = |at: i64| usize::try_from(at).expect("an index between 0 and the length");
        if from < to { (place(from), place(to)) } else { (0, 0) }
    })
}

/// Runs `LRANGE key first last`: returns the values in a range of a list.
fn lrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let range = range(args, 1)?;
    let Some(list) = keyspace.collection::<List>(args.get(0)?)? else {
        return Ok(Outcome::Values(Vec::new()));
    };
    let (from, to) = range(list.len());
    let values = share_all(list.iter_from(from).take(to - from));
    Ok(Outcome::Values(values.map(Some).collect()))
}

/// Runs `LTRIM key first last`: removes all values outside a range of a list.
fn ltrim(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let range = range(args, 1)?;
    let changed = keyspace.update_existing(key, |list: &mut List| {
        let (from, to) = range(list.len());
        list.trim(from, to);
        // Even if no value is removed, a client that watches the key sees a change, as in Redis.
        ((), true)
    })?;
    if changed.is_some() {
        keyspace.notify("ltrim", key);
        keyspace.notify_if_removed(key);
    }
    Ok(Outcome::Done)
}

/// Converts an index of a list with `length` values to a position, counted from 0. A negative index
/// counts from the end of the list. `None` if the index is out of range.
fn place(number: i64, length: usize) -> Option<usize> {
    let back = usize::try_from(number.unsigned_abs()).ok()?;
    let place = if number < 0 { length.checked_sub(back)? } else { back };
    (place < length).then_some(place)
}

/// Runs `LINDEX key index`: returns the value at an index of a list; null if the index is out of
/// range.
fn lindex(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let Some(list) = keyspace.collection::<List>(args.get(0)?)? else {
        return Ok(Outcome::Value(None));
    };
    let number = parse_integer(args.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let place = place(number, list.len());
    Ok(Outcome::Value(place.and_then(|place| list.iter_from(place).next()).map(Element::to_shared)))
}

/// Runs `LSET key index value`: replaces the value at an index of a list.
fn lset(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(2)?);
    let list = keyspace.collection::<List>(key)?.ok_or(Refusal::NoSuchKey)?;
    let number = parse_integer(args.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let Some(place) = place(number, list.len()) else {
        return Ok(Outcome::error("ERR index out of range"));
    };
    keyspace.update(key, |list: &mut List| (list.set(place, value.into()), true))?;
    keyspace.notify("lset", key);
    Ok(Outcome::Done)
}

/// Runs `LINSERT key BEFORE | AFTER pivot value`: inserts a value into a list, next to the first
/// value that equals `pivot`.
fn linsert(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, side, pivot, value) = (args.get(0)?, args.get(1)?, args.get(2)?, args.get(3)?);
    let behind = side.eq_ignore_ascii_case(b"AFTER");
    if !behind && !side.eq_ignore_ascii_case(b"BEFORE") {
        return Err(Refusal::Syntax);
    }
    let Some(list) = keyspace.collection::<List>(key)? else { return Ok(Outcome::Integer(0)) };
    let Some(place) = list.iter_from(0).position(|there| there[..] == *pivot) else {
        return Ok(Outcome::Integer(-1));
    };
    let length = keyspace.update(key, |list: &mut List| {
        list.insert(place + usize::from(behind), value.into());
        (list.len(), true)
    })?;
    keyspace.notify("linsert", key);
    Ok(Outcome::count(length))
}

/// Runs `LREM key count value`: removes up to `count` values equal to `value` from a list, starting
/// at the left end. Starts at the right end if `count` is negative, and removes all such values if
/// `count` is 0.
fn lrem(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(2)?);
    let count = parse_integer(args.get(1)?).ok_or(Refusal::NotAnInteger)?;
    let most = match usize::try_from(count.unsigned_abs()) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(most) => most,
    };
    let end = if count < 0 { End::Right } else { End::Left };
    let has = |list: &List| list.iter_from(0).any(|there| there[..] == *value);
    if !keyspace.collection::<List>(key)?.is_some_and(has) {
        return Ok(Outcome::Integer(0));
    }
    let removed = keyspace.update(key, |list: &mut List| (list.remove(value, most, end), true))?;
    keyspace.notify("lrem", key);
    keyspace.notify_if_removed(key);
    Ok(Outcome::count(removed))
}

/// Runs `RPOPLPUSH from to`: moves the value at the right end of one list to the left end of
/// another.
pub(in crate::kv) fn rpoplpush(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    move_one(keyspace, args.get(0)?, args.get(1)?, End::Right, End::Left)
}

/// Runs `LMOVE from to LEFT | RIGHT LEFT | RIGHT`: moves a value from an end of one list to an end
/// of another.
pub(in crate::kv) fn lmove(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (off, onto) = (End::read(args.get(2)?)?, End::read(args.get(3)?)?);
    move_one(keyspace, args.get(0)?, args.get(1)?, off, onto)
}

/// Removes a value from the end `off` of the list at the key `from`, and adds it at the end `onto`
/// of the list at the key `to`; the two keys may be equal. Returns the moved value; null if `from`
/// does not exist.
fn move_one(keyspace: &mut Keyspace, from: &[u8], to: &[u8], off: End, onto: End) -> Answer {
    if keyspace.collection::<List>(from)?.is_none() {
        return Ok(Outcome::Value(None));
    }
    keyspace.collection::<List>(to)?;
    let value = if from == to {
        // The value is moved in one step, because otherwise a list of one value would be removed in
        // between, together with its expiration time.
        keyspace.update(from, |list: &mut List| {
            let value = list.pop(off).expect("stored lists are not empty");
            list.push(onto, value.clone());
            (value, true)
        })?
    } else {
        let pop = |list: &mut List| (list.pop(off).expect("stored lists are not empty"), true);
        let value = keyspace.update(from, pop)?;
        keyspace.update(to, |list: &mut List| (list.push(onto, value.clone()), true))?;
        value
    };
    keyspace.notify(onto.push_event(), to);
    keyspace.notify(off.pop_event(), from);
    keyspace.notify_if_removed(from);
    Ok(Outcome::Value(Some(value.to_shared())))
}

/// Runs `LPOS key value [RANK rank] [COUNT count] [MAXLEN length]`: returns the indexes at which a
/// list contains a value.
fn lpos(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(1)?);
    let options = match PositionQuery::read(args) {
        Ok(options) => options,
        Err(error) => return Ok(error),
    };
    let Some(list) = keyspace.collection::<List>(key)? else {
        return Ok(match options.count {
            Some(_) => Outcome::List(Vec::new()),
            None => Outcome::Value(None),
        });
    };
    // `i64::MIN` cannot be negated; Redis treats it as a rank beyond all values.
    let skipped = options.rank.checked_abs().map_or(0, |rank| rank - 1);
    let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
    let wanted = options.count.unwrap_or(1);
    let is_it = |(_, there): &(usize, &Element)| there[..] == *value;
    let places = |places: &mut dyn Iterator<Item = (usize, &Element)>| -> Vec<usize> {
        let found = places.take(options.compared_max).filter(is_it).skip(skipped);
        found.map(|(place, _)| place).take(wanted).collect()
    };
    let places = if options.rank > 0 {
        places(&mut (0..).zip(list.iter_from(0)))
    } else {
        places(&mut (0..list.len()).rev().zip(list.iter_rev()))
    };
    Ok(match options.count {
        Some(_) => Outcome::List(places.into_iter().map(Outcome::count).collect()),
        None => places.first().map_or(Outcome::Value(None), |place| Outcome::count(*place)),
    })
}

/// Options of `LPOS`.
struct PositionQuery {
    /// Option `RANK` of `LPOS`: ordinal of the first match to return, counted from 1 at the start
    /// of the list, or from -1 at its end. Never 0.
    rank: i64,
    /// Option `COUNT` of `LPOS`: maximum number of matches to return; `usize::MAX` for no limit.
    /// `None` if the option is missing, in which case the reply is a single index and not an array.
    count: Option<usize>,
    /// Option `MAXLEN` of `LPOS`: maximum number of values of the list to compare; `usize::MAX` for
    /// no limit.
    compared_max: usize,
}

impl PositionQuery {
    fn read(args: &Args<'_>) -> Result<PositionQuery, Outcome> {
        let mut search = PositionQuery { rank: 1, count: None, compared_max: usize::MAX };
        for pair in args.rest(2).chunks(2) {
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
                search.compared_max = limit("MAXLEN")?;
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        Ok(search)
    }
}

/// Runs `LMPOP numkeys key [key ...] LEFT | RIGHT [COUNT count]`: removes and returns values from
/// an end of the first list that exists.
fn lmpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop_from_first(keyspace, args.all())
}

/// Runs a command like `LMPOP`, with these arguments.
pub(in crate::kv) fn pop_from_first(keyspace: &mut Keyspace, args: &[&[u8]]) -> Answer {
    let positive = |word: &[u8]| {
        parse_integer(word)
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    let (key_count, rest) = args.split_first().ok_or(Refusal::Syntax)?;
    let key_count = positive(key_count).ok_or(Refusal::NoKeys)?;
    let (keys, options) = rest.split_at_checked(key_count).ok_or(Refusal::Syntax)?;
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
        if keyspace.collection::<List>(key)?.is_some() {
            let values = pop_many(keyspace, key, end, count)?;
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
    fn popping_the_last_list_element_removes_key_and_ttl() {
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
    fn rotating_a_one_element_list_keeps_its_ttl() {
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
    fn failed_list_command_modifies_no_key() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "a", "b"]);
        feeder.apply(Operation::set(b"s", b"v"));
        let revision = feeder.store.keyspace.revision_of(b"l");
        for (command, args) in [
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
            let outcome = feeder.call(command, args);
            let refused = matches!(outcome, Outcome::Refused(_) | Outcome::Error(_));
            assert!(refused, "{command} {args:?}: {outcome:?}");
        }
        assert_eq!(values(&mut feeder, "l"), ["a", "b"]);
        assert_eq!(feeder.call("lpop", &["l", "0"]), Outcome::Values(Vec::new()));
        assert_eq!(feeder.call("lrem", &["l", "0", "x"]), Outcome::Integer(0));
        assert_eq!(feeder.store.keyspace.revision_of(b"l"), revision);
        feeder.call("ltrim", &["l", "0", "-1"]);
        assert_ne!(
            feeder.store.keyspace.revision_of(b"l"),
            revision,
            "as for who watches a key in Redis"
        );
    }

    #[test]
    fn lpos_applies_rank_count_and_maxlen() {
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
            let args = [&["l", "a"], options].concat();
            assert_eq!(feeder.call("lpos", &args), wanted, "{options:?}");
        }
    }

    #[test]
    fn long_list_is_restored_from_a_snapshot() {
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
    fn snapshot_view_is_unaffected_by_list_and_hash_writes() {
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
