//! `KEYRANGE`: a read of a range of keys in byte order, a page at a time.
//!
//! The cursor of a page is the argument `min` of the call for the next page: `(` and the last key
//! that was examined. So it is valid on every replica, and stays valid when keys are added or
//! removed.

use std::ops::Bound;

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::commands::sorted_sets::ranges::Lex;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::collection::ValueType;
use crate::kv::values::number::parse_integer;

/// Default of the option `LIMIT`: maximum number of keys that one call returns.
const LIMIT: usize = 100;
/// Maximum number of keys that one call examines, even if its `LIMIT` is higher.
const EXAMINED_MAX: usize = 4_096;
/// Size of a page, as the total length of its keys and values in bytes, at which the page ends. The
/// last key may exceed it.
const PAGE_BYTES: usize = 1 << 20;

/// The arguments of `KEYRANGE`.
#[derive(Debug)]
struct Query<'w> {
    min: Bound<&'w [u8]>,
    max: Bound<&'w [u8]>,
    /// Whether no key can be in the range, because the minimum is `+` or the maximum is `-`.
    is_empty: bool,
    /// Option `PREFIX`: the range is that of the keys that begin with it.
    prefix: &'w [u8],
    /// Option `LIMIT`, from 1 to [`EXAMINED_MAX`].
    limit: usize,
    /// Option `WITHVALUES`: whether each key is returned with its revision and its value.
    with_values: bool,
}

impl<'w> Query<'w> {
    /// Parses the arguments `min max [PREFIX prefix] [LIMIT count] [WITHVALUES]`.
    fn read(args: &Args<'w>) -> Result<Query<'w>, Refusal> {
        let bound = |lex| match lex {
            Lex::At { member, open: true } => Bound::Excluded(member),
            Lex::At { member, open: false } => Bound::Included(member),
            Lex::Least | Lex::Most => Bound::Unbounded,
        };
        let (min, max) = (Lex::read(args.get(0)?)?, Lex::read(args.get(1)?)?);
        let is_empty = matches!(min, Lex::Most) || matches!(max, Lex::Least);
        let (min, max) = (bound(min), bound(max));
        let mut query = Query { min, max, is_empty, prefix: &[], limit: LIMIT, with_values: false };
        let mut rest = args.rest(2);
        while let [option, behind @ ..] = rest {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            rest = behind;
            if is("WITHVALUES") {
                query.with_values = true;
            } else if is("PREFIX")
                && let [prefix, behind @ ..] = behind
            {
                query.prefix = prefix;
                rest = behind;
            } else if is("LIMIT")
                && let [limit, behind @ ..] = behind
            {
                let limit = parse_integer(limit).ok_or(Refusal::NotAnInteger)?;
                let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
                query.limit = limit.ok_or(Refusal::Syntax)?.min(EXAMINED_MAX);
                rest = behind;
            } else {
                return Err(Refusal::Syntax);
            }
        }
        let starts_before_prefix = match query.min {
            Bound::Included(min) | Bound::Excluded(min) => min < query.prefix,
            Bound::Unbounded => true,
        };
        if starts_before_prefix {
            query.min = Bound::Included(query.prefix);
        }
        Ok(query)
    }

    /// Iterates over the keys of the range in byte order, including keys that have expired but have
    /// not been removed yet.
    fn keys<'k>(&self, keyspace: &'k Keyspace) -> impl Iterator<Item = &'k [u8]> {
        let keys = (!self.is_empty).then(|| keyspace.keys_between(self.min, self.max));
        // In byte order, the keys with the prefix are contiguous.
        keys.into_iter().flatten().take_while(|key| key.starts_with(self.prefix))
    }
}

/// Runs `KEYRANGE min max [PREFIX prefix] [LIMIT count] [WITHVALUES]`: returns the cursor, the
/// number of operations applied to the state, and the first keys of the range, in byte order.
pub(in crate::kv) fn key_range(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let query = Query::read(args)?;
    let mut keys = query.keys(keyspace).peekable();
    let (mut found, mut bytes, mut last) = (Vec::new(), 0, None);
    for key in keys.by_ref().take(query.limit) {
        last = Some(key);
        // Expired keys are skipped. They count for the limit, but not for the size of the page.
        let Some(entry) = keyspace.uncounted_entry(key) else { continue };
        bytes += key.len() + if query.with_values { string_len(entry) } else { 0 };
        found.push(entry);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    let cursor = last.filter(|_| keys.peek().is_some());
    let cursor = Outcome::Value(cursor.map(|key| [b"(", key].concat().into()));
    let revision = Outcome::Integer(keyspace.revision().cast_signed());
    let found = if query.with_values {
        Outcome::List(found.into_iter().map(|entry| with_value(keyspace, entry)).collect())
    } else {
        keys_outcome(&found)
    };
    Ok(Outcome::List(vec![cursor, revision, found]))
}

/// Returns the length in bytes of a string value; 0 for a value of another type.
fn string_len(entry: &KeyEntry) -> usize {
    if entry.value_type() == ValueType::String { entry.string().len() } else { 0 }
}

/// Returns a key with its revision and its value, which is null if it is not a string.
fn with_value(keyspace: &Keyspace, entry: &KeyEntry) -> Outcome {
    let is_string = entry.value_type() == ValueType::String;
    let value = Outcome::string(is_string.then(|| entry.shared_string()));
    let revision = Outcome::Integer(keyspace.revision_of_entry(entry).cast_signed());
    Outcome::List(vec![Outcome::Value(Some(entry.shared_key())), revision, value])
}

/// Returns the keys of the entries, in one allocation.
fn keys_outcome(entries: &[&KeyEntry]) -> Outcome {
    let keys: Vec<&[u8]> = entries.iter().map(|entry| entry.key()).collect();
    let mut bytes = Bytes::from(keys.concat());
    Outcome::Values(keys.into_iter().map(|key| Some(bytes.split_to(key.len()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    /// Reads a page. Returns its cursor, its revision, and its keys or triples.
    fn page(feeder: &mut Feeder, args: &str) -> (Option<String>, i64, Outcome) {
        let args: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
        match feeder.read("keyrange", &args) {
            Outcome::List(parts) => match <[Outcome; 3]>::try_from(parts) {
                Ok([Outcome::Value(cursor), Outcome::Integer(revision), found]) => {
                    let text = |cursor: Bytes| String::from_utf8(cursor.into()).unwrap();
                    (cursor.map(text), revision, found)
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Reads a page without values. Returns its cursor, and its keys separated by spaces.
    fn keys(feeder: &mut Feeder, args: &str) -> (Option<String>, String) {
        let (cursor, _, found) = page(feeder, args);
        let Outcome::Values(keys) = found else { panic!("{found:?}") };
        let keys: Vec<Bytes> = keys.into_iter().flatten().collect();
        (cursor, String::from_utf8(keys.join(&b' ')).unwrap())
    }

    fn feeder(keys: &str) -> Feeder {
        let mut feeder = Feeder::new();
        keys.split(' ').for_each(|key| _ = feeder.call("set", &[key, "v"]));
        feeder
    }

    #[test]
    fn key_range_returns_keys_between_the_bounds_in_byte_order() {
        let mut feeder = feeder("b:2 a b:1 c b b:10 \u{e9}");
        for (args, wanted) in [
            ("- +", "a b b:1 b:10 b:2 c \u{e9}"),
            ("[b [b:10", "b b:1 b:10"),
            ("(b (b:2", "b:1 b:10"),
            ("- + PREFIX b:", "b:1 b:10 b:2"),
            ("(b:1 + prefix b:", "b:10 b:2"),
            ("- [b:10 PREFIX b:", "b:1 b:10"),
            ("[c + PREFIX b:", ""),
            ("- [a PREFIX b:", ""),
            ("[b:1 (b:1", ""),
            ("+ -", ""),
            ("+ +", ""),
            ("- -", ""),
        ] {
            assert_eq!(keys(&mut feeder, args), (None, wanted.to_owned()), "{args}");
        }
    }

    #[test]
    fn key_range_cursor_leads_to_the_next_page() {
        let mut feeder = feeder("a b c d e");
        let some = |cursor: &str, keys: &str| (Some(cursor.to_owned()), keys.to_owned());
        assert_eq!(keys(&mut feeder, "- + LIMIT 2"), some("(b", "a b"));
        feeder.call("set", &["aa", "v"]);
        feeder.call("set", &["bb", "v"]);
        feeder.call("del", &["b", "c"]);
        assert_eq!(keys(&mut feeder, "(b + LIMIT 2"), some("(d", "bb d"));
        assert_eq!(keys(&mut feeder, "(d + LIMIT 2"), (None, "e".to_owned()));
        // A page that ends with the range has no cursor, even if it is full.
        assert_eq!(keys(&mut feeder, "(bb + LIMIT 2"), (None, "d e".to_owned()));
        assert_eq!(keys(&mut feeder, "- (bb LIMIT 2"), (None, "a aa".to_owned()));
    }

    #[test]
    fn key_range_with_values_returns_revisions_and_strings() {
        let mut feeder = feeder("a b");
        feeder.call("rpush", &["c", "element"]);
        feeder.call("set", &["a", "w"]);
        let text = |text: &'static str| Outcome::Value(Some(Bytes::from_static(text.as_bytes())));
        let triple = |key, revision, value| {
            Outcome::List(vec![text(key), Outcome::Integer(revision), value])
        };
        let wanted = Outcome::List(vec![
            triple("a", 4, text("w")),
            triple("b", 2, text("v")),
            triple("c", 3, Outcome::Value(None)),
        ]);
        assert_eq!(page(&mut feeder, "- + WITHVALUES"), (None, 4, wanted));
    }

    #[test]
    fn key_range_page_is_bounded_in_keys_and_bytes() {
        let mut feeder = Feeder::new();
        for number in 0..=EXAMINED_MAX {
            feeder.call("set", &[&format!("{number:05}"), "v"]);
        }
        let count = |feeder: &mut Feeder, args: &str| match page(feeder, args) {
            (cursor, _, Outcome::Values(keys)) => (cursor, keys.len()),
            (cursor, _, Outcome::List(triples)) => (cursor, triples.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(count(&mut feeder, "- +"), (Some("(00099".to_owned()), LIMIT));
        let all = count(&mut feeder, "- + LIMIT 99999999");
        assert_eq!(all, (Some("(04095".to_owned()), EXAMINED_MAX));
        let value = "x".repeat(PAGE_BYTES / 4);
        for number in 0..20 {
            feeder.call("set", &[&format!("{number:05}"), &value]);
        }
        let page = count(&mut feeder, "- + WITHVALUES");
        assert_eq!(page, (Some("(00003".to_owned()), 4), "values count");
        assert_eq!(count(&mut feeder, "- +").1, LIMIT, "values do not count");
        feeder.call("set", &["00000", &"x".repeat(2 * PAGE_BYTES)]);
        let page = count(&mut feeder, "- + WITHVALUES");
        assert_eq!(page, (Some("(00000".to_owned()), 1), "one key at least");
    }

    #[test]
    fn key_range_skips_expired_keys_but_counts_them_as_examined() {
        let mut feeder = feeder("a z");
        for number in 0..200 {
            feeder.call("set", &[&format!("e{number:03}"), "v", "PXAT", "5"]);
        }
        feeder.call("get", &["a"]);
        feeder.read("keyrange", &[b"-", b"+"]);
        feeder.store.keyspace.advance_clock(5);
        assert_eq!(keys(&mut feeder, "- + LIMIT 101"), (Some("(e099".to_owned()), "a".to_owned()));
        assert_eq!(keys(&mut feeder, "(e099 + LIMIT 101"), (None, "z".to_owned()));
    }

    #[test]
    fn malformed_key_range_is_refused() {
        let mut feeder = feeder("a");
        for (args, refusal) in [
            ("a +", Refusal::EndNotLex),
            ("- b", Refusal::EndNotLex),
            ("-", Refusal::Syntax),
            ("- + LIMIT", Refusal::Syntax),
            ("- + LIMIT 0", Refusal::Syntax),
            ("- + LIMIT -1", Refusal::Syntax),
            ("- + LIMIT x", Refusal::NotAnInteger),
            ("- + PREFIX", Refusal::Syntax),
            ("- + WITHSCORES", Refusal::Syntax),
        ] {
            let args: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
            assert_eq!(feeder.read("keyrange", &args), Outcome::Refused(refusal), "{args:?}");
        }
    }

    /// No client can cause such an entry. Replicas with and without an index must treat it alike.
    #[test]
    fn key_range_in_the_log_has_the_same_outcome_without_an_index() {
        let mut feeder = feeder("a");
        assert_eq!(feeder.call("keyrange", &["-", "+"]), Outcome::Malformed);
        feeder.read("keyrange", &[b"-", b"+"]);
        assert_eq!(feeder.call("keyrange", &["-", "+"]), Outcome::Malformed);
        assert!(!feeder.restored().store.has_key_index());
    }
}
