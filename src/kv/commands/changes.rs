//! `CHANGES`: a page of the history of changes, which every replica keeps of what it applies.
//!
//! A page ends between two revisions, so all changes of one operation, such as those of a
//! transaction, are in one page. The arguments are those that [`ChangesQuery::arguments`] makes of
//! the client's.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::history::Change;
use crate::kv::values::collection::ValueType;

/// Maximum number of changes that one call examines, not counting further ones of the last
/// operation.
const EXAMINED_MAX: usize = 8_192;
/// Total length in bytes of the keys and values of a page from which on it ends.
const PAGE_BYTES: usize = 1 << 20;

/// Names of the events after which the key does not exist.
const REMOVALS: &[&str] = &["del", "expired", "rename_from"];

// Flags in the last argument.
const VALUES: u8 = 1;
const WAITS: u8 = 2;
const MAY_LAG: u8 = 4;

/// What a client asks for with `CHANGES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangesQuery<'q> {
    /// The revision after which the changes begin; `None` for that of the state that is read.
    pub from: Option<u64>,
    /// Only changes of keys that begin with this prefix are returned, and removals of all keys.
    pub prefix: &'q [u8],
    /// Number of changes from which on the page ends.
    pub count: u64,
    /// Whether the value after each change is returned.
    pub with_values: bool,
    /// Whether the outcome is an `Integer`, the revision to continue from, if there is nothing to
    /// return yet.
    pub waits: bool,
    /// Whether the state that is read may be older than `from`, because the read accepts a lag.
    pub may_lag: bool,
}

impl<'q> ChangesQuery<'q> {
    /// Maximum of `count`.
    pub const COUNT_MAX: u64 = 4_096;

    /// Calls `run` with the arguments of the state machine's command `changes`.
    pub fn with_arguments<R>(&self, run: impl FnOnce(&[&[u8]]) -> R) -> R {
        let from = self.from.map(u64::to_le_bytes);
        let mut flags = 0;
        for (flag, is_set) in
            [(VALUES, self.with_values), (WAITS, self.waits), (MAY_LAG, self.may_lag)]
        {
            flags |= if is_set { flag } else { 0 };
        }
        let from = from.as_ref().map_or(&[][..], |from| from);
        run(&[from, self.prefix, &self.count.to_le_bytes(), &[flags]])
    }

    /// Returns whether the command with these arguments returns values, not only the names of keys.
    pub fn returns_values(arguments: &[&[u8]]) -> bool {
        matches!(arguments.get(3), Some(&[flags]) if flags & VALUES != 0)
    }

    fn read(args: &Args<'q>) -> Result<ChangesQuery<'q>, Refusal> {
        let number = |at| -> Result<u64, Refusal> {
            let bytes = args.get(at)?.try_into().map_err(|_| Refusal::Syntax)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let from = if args.get(0)?.is_empty() { None } else { Some(number(0)?) };
        let &[flags] = args.get(3)? else { return Err(Refusal::Syntax) };
        Ok(ChangesQuery {
            from,
            prefix: args.get(1)?,
            count: number(2)?.min(ChangesQuery::COUNT_MAX),
            with_values: flags & VALUES != 0,
            waits: flags & WAITS != 0,
            may_lag: flags & MAY_LAG != 0,
        })
    }
}

/// A part of the history.
#[derive(Debug, Default)]
struct Page<'k> {
    changes: Vec<Change<'k>>,
    /// The revision to continue from.
    next: u64,
    /// Whether the page ends with the history.
    is_last: bool,
}

/// Returns the first page of the changes with revisions above `from`.
fn page<'k>(keyspace: &'k Keyspace, query: &ChangesQuery<'_>, from: u64) -> Page<'k> {
    let (mut changes, mut bytes, mut next) = (Vec::new(), 0, from);
    for (examined, change) in keyspace.changes_after(from).enumerate() {
        let is_full = changes.len() as u64 >= query.count || bytes >= PAGE_BYTES;
        if change.revision > next && (is_full || examined >= EXAMINED_MAX) {
            return Page { changes, next, is_last: false };
        }
        next = change.revision;
        if change.database == keyspace.database()
            && change.key.is_none_or(|key| key.starts_with(query.prefix))
        {
            let entry = if query.with_values { string_after(keyspace, &change) } else { None };
            bytes += change.key.map_or(0, <[u8]>::len);
            bytes += entry.map_or(0, |entry| entry.string().len());
            changes.push(change);
        }
    }
    Page { changes, next: keyspace.revision().max(from), is_last: true }
}

/// Returns the entry of the changed key if its value is a string and still the one that the change
/// has left.
fn string_after<'k>(keyspace: &'k Keyspace, change: &Change<'_>) -> Option<&'k KeyEntry> {
    let key = change.key.filter(|_| !REMOVALS.contains(&change.name))?;
    let entry = keyspace.uncounted_entry(key)?;
    let is_same = keyspace.revision_of_entry(entry) == change.revision;
    (is_same && entry.value_type() == ValueType::String).then_some(entry)
}

/// Returns the error outcome for a revision that the history cannot continue from.
fn gone(reason: &str) -> Outcome {
    Outcome::error(format!(
        "HISTORYGONE {reason}; read the keys with KEYRANGE, and continue from the revision that it \
         returns"
    ))
}

/// Returns the outcome of a change without a value: its revision, its name and its key.
fn outcome_of(change: &Change<'_>, key: Option<Bytes>) -> Vec<Outcome> {
    let name = Bytes::from_static(change.name.as_bytes());
    let revision = Outcome::Integer(change.revision.cast_signed());
    vec![revision, Outcome::Value(Some(name)), Outcome::Value(key)]
}

/// Runs `CHANGES`: returns the revision to continue from, and the first changes after a revision.
pub(in crate::kv) fn changes(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let query = ChangesQuery::read(args)?;
    if !keyspace.has_history() {
        return Ok(Outcome::error(
            "ERR this replica keeps no history of changes: its setting changes-history-memory is 0",
        ));
    }
    let revision = keyspace.revision();
    let (start, from) = (keyspace.history().start, query.from.unwrap_or(revision));
    if from < start {
        return Ok(gone(&format!(
            "the changes after revision {from} are gone, the oldest on this replica are those \
             after revision {start}"
        )));
    }
    let swapped_at = keyspace.swapped_at();
    if from < swapped_at {
        return Ok(gone(&format!(
            "the keys of database {} were exchanged for those of another one at revision \
             {swapped_at}",
            keyspace.database()
        )));
    }
    if from > revision && !query.may_lag {
        return Ok(gone(&format!("revision {from} does not exist, the latest is {revision}")));
    }
    let Page { changes, next, is_last } = page(keyspace, &query, from);
    let next = Outcome::Integer(next.cast_signed());
    if changes.is_empty() && is_last && query.waits {
        return Ok(next);
    }
    // One allocation for all keys: with one for each, freeing the reply would take long.
    let keys: Vec<&[u8]> = changes.iter().filter_map(|change| change.key).collect();
    let mut keys = Bytes::from(keys.concat());
    let outcome = |change: &Change<'_>| {
        let mut parts = outcome_of(change, change.key.map(|key| keys.split_to(key.len())));
        if query.with_values {
            let value = string_after(keyspace, change).map(KeyEntry::shared_string);
            parts.push(Outcome::string(value));
        }
        Outcome::List(parts)
    };
    Ok(Outcome::List(vec![next, Outcome::List(changes.iter().map(outcome).collect())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::batch::Batch;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::keyspace::databases::DatabaseId;
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::tests::Feeder;
    use crate::types::RequestKey;

    const ALL: ChangesQuery<'static> = ChangesQuery {
        from: Some(0),
        prefix: b"",
        count: 100,
        with_values: false,
        waits: false,
        may_lag: false,
    };

    fn feeder() -> Feeder {
        let mut feeder = Feeder::new();
        feeder.store.keep_history(1 << 20);
        feeder
    }

    fn ask(feeder: &mut Feeder, query: ChangesQuery<'_>) -> Outcome {
        query.with_arguments(|args| feeder.read("changes", args))
    }

    /// Returns the revision to continue from, and the changes, as text separated by spaces.
    fn page_of(outcome: Outcome) -> (i64, String) {
        let Outcome::List(parts) = outcome else { panic!("{outcome:?}") };
        let [Outcome::Integer(next), Outcome::List(changes)] = &parts[..] else {
            panic!("{parts:?}")
        };
        let text = |outcome: &Outcome| match outcome {
            Outcome::Integer(number) => number.to_string(),
            Outcome::Value(None) => "nil".to_owned(),
            other => String::from_utf8(other.value().unwrap().into_owned()).unwrap(),
        };
        let change = |change: &Outcome| match change {
            Outcome::List(parts) => parts.iter().map(text).collect::<Vec<_>>().join(":"),
            other => panic!("{other:?}"),
        };
        (*next, changes.iter().map(change).collect::<Vec<_>>().join(" "))
    }

    fn page(feeder: &mut Feeder, query: ChangesQuery<'_>) -> (i64, String) {
        page_of(ask(feeder, query))
    }

    fn in_database(feeder: &mut Feeder, number: u8, query: ChangesQuery<'_>) -> Outcome {
        let database = DatabaseId::new(number).unwrap();
        query.with_arguments(|args| {
            let operation = Operation::call(CommandId::CHANGES, args).in_database(database);
            let batch = Batch::one(RequestKey::default(), &operation);
            feeder.store.read(&batch).unwrap().1.remove(0)
        })
    }

    #[test]
    fn changes_are_those_of_the_database() {
        let mut feeder = feeder();
        let two = DatabaseId::new(2).unwrap();
        feeder.call("set", &["a", "zero"]);
        feeder.apply(Operation::set(b"a", b"two").in_database(two));
        feeder.call("move", &["a", "2"]);
        feeder.call("move", &["a", "3"]);
        feeder.apply(Operation::call(CommandId::of("flushdb"), []).in_database(two));
        let query = ChangesQuery { with_values: true, ..ALL };
        let page = |feeder: &mut Feeder, number| page_of(in_database(feeder, number, query));
        assert_eq!(page(&mut feeder, 0), (5, "1:set:a:nil 4:move_from:a:nil".to_owned()));
        assert_eq!(page(&mut feeder, 2), (5, "2:set:a:nil 5:flushall:nil:nil".to_owned()));
        assert_eq!(page(&mut feeder, 3), (5, "4:move_to:a:zero".to_owned()));
        assert_eq!(page(&mut feeder, 4), (5, String::new()));
        feeder.call("flushall", &[]);
        let query = ChangesQuery { from: Some(5), ..ALL };
        for (number, changes) in [(0, "6:flushall:nil"), (2, ""), (3, "6:flushall:nil")] {
            let outcome = in_database(&mut feeder, number, query);
            assert_eq!(page_of(outcome), (6, changes.to_owned()), "database {number}");
        }
    }

    #[test]
    fn changes_before_a_swap_of_the_database_are_gone() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "zero"]);
        feeder.call("swapdb", &["0", "2"]);
        feeder.apply(Operation::set(b"b", b"two").in_database(DatabaseId::new(2).unwrap()));
        let from = |from| ChangesQuery { from: Some(from), ..ALL };
        for number in [0, 2] {
            let text = error(in_database(&mut feeder, number, from(1)));
            assert!(text.starts_with("HISTORYGONE the keys of database"), "{text}");
        }
        assert_eq!(page_of(in_database(&mut feeder, 2, from(2))), (3, "3:set:b".to_owned()));
        assert_eq!(page_of(in_database(&mut feeder, 1, from(0))), (3, String::new()));
    }

    fn error(outcome: Outcome) -> String {
        let Outcome::Error(text) = outcome else { panic!("{outcome:?}") };
        String::from_utf8(text.into()).unwrap()
    }

    #[test]
    fn changes_have_the_revision_the_event_and_the_key() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "1"]);
        feeder.call("get", &["a"]);
        feeder.call("rename", &["a", "b"]);
        feeder.call("sadd", &["s", "m"]);
        feeder.call("srem", &["s", "m"]);
        feeder.call("flushall", &[]);
        let all = "1:set:a 3:rename_from:a 3:rename_to:b 4:sadd:s 5:srem:s 5:del:s 6:flushall:nil";
        assert_eq!(page(&mut feeder, ALL), (6, all.to_owned()));
        let later = page(&mut feeder, ChangesQuery { from: Some(4), ..ALL });
        assert_eq!(later, (6, "5:srem:s 5:del:s 6:flushall:nil".to_owned()));
        assert_eq!(page(&mut feeder, ChangesQuery { from: None, ..ALL }), (6, String::new()));
    }

    #[test]
    fn prefix_selects_keys_and_the_next_revision_moves_on_without_them() {
        let mut feeder = feeder();
        for key in ["p:1", "q", "p", "p:", "q"] {
            feeder.call("set", &[key, "v"]);
        }
        let query = ChangesQuery { prefix: b"p:", ..ALL };
        assert_eq!(page(&mut feeder, query), (5, "1:set:p:1 4:set:p:".to_owned()));
        assert_eq!(page(&mut feeder, ChangesQuery { from: Some(4), ..query }), (5, String::new()));
        feeder.call("flushall", &[]);
        let query = ChangesQuery { from: Some(5), ..query };
        assert_eq!(page(&mut feeder, query), (6, "6:flushall:nil".to_owned()));
    }

    #[test]
    fn page_ends_at_its_count_but_never_inside_an_operation() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "v"]);
        feeder.call("mset", &["b", "v", "c", "v", "d", "v"]);
        feeder.call("set", &["e", "v"]);
        let mut at =
            |from, count| page(&mut feeder, ChangesQuery { from: Some(from), count, ..ALL });
        assert_eq!(at(0, 1), (1, "1:set:a".to_owned()));
        assert_eq!(at(0, 2), (2, "1:set:a 2:set:b 2:set:c 2:set:d".to_owned()));
        assert_eq!(at(1, 1), (2, "2:set:b 2:set:c 2:set:d".to_owned()));
        assert_eq!(at(2, 1), (3, "3:set:e".to_owned()));
    }

    #[test]
    fn page_is_bounded_in_examined_changes_and_bytes() {
        let mut feeder = feeder();
        for _ in 0..=EXAMINED_MAX {
            feeder.call("set", &["a", "v"]);
        }
        let query = ChangesQuery { prefix: b"b", waits: true, ..ALL };
        let (next, found) = page(&mut feeder, query);
        let examined = usize::try_from(next).unwrap();
        assert_eq!((examined, found), (EXAMINED_MAX, String::new()), "there may be more");
        let query = ChangesQuery { from: Some(next.cast_unsigned()), ..query };
        assert_eq!(ask(&mut feeder, query), Outcome::Integer(next + 1));
        let long = "k".repeat(PAGE_BYTES / 4);
        feeder.store.keep_history(4 * PAGE_BYTES);
        let from = Some(feeder.store.history().revision);
        (0..9).for_each(|_| _ = feeder.call("set", &[&long, "v"]));
        let (_, found) = page(&mut feeder, ChangesQuery { from, ..ALL });
        assert_eq!(found.split(' ').count(), 4);
    }

    #[test]
    fn values_are_those_after_the_change_unless_a_later_one_replaced_them() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "1"]);
        feeder.call("set", &["a", "2"]);
        feeder.call("rpush", &["l", "x"]);
        feeder.call("set", &["b", "3"]);
        feeder.call("del", &["b"]);
        feeder.call("set", &["e", "4", "PXAT", "5"]);
        feeder.store.keyspace.advance_clock(5);
        feeder.call("set", &["e", "5"]);
        let (_, found) = page(&mut feeder, ChangesQuery { with_values: true, ..ALL });
        let wanted = "1:set:a:nil 2:set:a:2 3:rpush:l:nil 4:set:b:nil 5:del:b:nil 6:set:e:nil \
                      6:expire:e:nil 7:expired:e:nil 7:set:e:5";
        assert_eq!(found, wanted);
    }

    #[test]
    fn waiting_read_without_changes_returns_the_revision_to_continue_from() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "v"]);
        let query = ChangesQuery { waits: true, prefix: b"b", ..ALL };
        assert_eq!(ask(&mut feeder, query), Outcome::Integer(1));
        assert_eq!(ask(&mut feeder, ChangesQuery { from: None, ..query }), Outcome::Integer(1));
        feeder.call("set", &["b", "v"]);
        assert_eq!(page(&mut feeder, query), (2, "2:set:b".to_owned()));
    }

    #[test]
    fn revision_outside_of_the_history_is_refused() {
        let mut feeder = feeder();
        feeder.call("set", &["a", "v"]);
        let ahead = ChangesQuery { from: Some(9), ..ALL };
        let text = error(ask(&mut feeder, ahead));
        assert!(
            text.starts_with("HISTORYGONE revision 9 does not exist, the latest is 1;"),
            "{text}"
        );
        let lagging = ChangesQuery { may_lag: true, ..ahead };
        assert_eq!(page(&mut feeder, lagging), (9, String::new()), "it never goes back");
        let mut restored = feeder.restored();
        let text = error(ask(&mut restored, ALL));
        assert!(text.starts_with("ERR this replica keeps no history"), "{text}");
        restored.store.keep_history(1 << 20);
        let text = error(ask(&mut restored, ALL));
        assert!(text.starts_with("HISTORYGONE the changes after revision 0 are gone, "), "{text}");
        assert!(text.contains(" those after revision 1; read the keys with KEYRANGE, "), "{text}");
        assert_eq!(page(&mut restored, ChangesQuery { from: Some(1), ..ALL }), (1, String::new()));
    }

    /// Such an entry cannot come from a client, and replicas have different histories.
    #[test]
    fn changes_in_the_log_have_the_same_outcome_on_all_replicas() {
        let mut feeder = feeder();
        let outcome = ALL.with_arguments(|args| feeder.call_bytes("changes", args));
        assert_eq!(outcome, Outcome::Malformed);
        for args in [&[][..], &[&b"1"[..], b"", b"", b""], &[b"", b"", &[0; 8], b"ab"]] {
            let outcome = feeder.read("changes", args);
            assert_eq!(outcome, Outcome::Refused(Refusal::Syntax), "{args:?}");
        }
        assert!(CommandId::of("changes").is_read());
    }
}
