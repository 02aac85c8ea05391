//! What a blocked client waits for, and how its request is submitted again.

use bytes::Bytes;

use crate::kv::{DatabaseId, Operation, ValueType};
use crate::types::Instant;

/// What a blocked client waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The event that the client waits for.
    pub on: WaitOn,
    /// When the wait ends without that event; `None` for never.
    pub until: Option<Instant>,
}

/// The event that a blocked client waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitOn {
    /// A change of a key of a database with this prefix.
    Prefix(DatabaseId, Bytes),
    /// A change of one of several keys.
    Keys(AwaitedKeys),
    /// Until the log is durable on this number of other replicas, up to the index that this replica
    /// has applied when the wait begins.
    Replicas(usize),
}

/// Keys for which a client waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedKeys {
    /// The client waits for values of this type; values of other types do not wake it.
    pub kind: ValueType,
    /// The database of the keys.
    pub database: DatabaseId,
    /// The keys, at least one.
    pub keys: Vec<Bytes>,
    /// How many clients a change wakes.
    pub wake: Wake,
    /// Maximum number of new entries that the client takes at a time, at least 1. Only for
    /// [`Wake::News`].
    pub entries_max: usize,
    /// Clients of different groups do not compete with each other. Empty for commands without
    /// groups.
    pub group: Bytes,
}

/// How many of the clients that wait for a key are woken by its change. Those that have waited
/// longest come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// All: the clients take nothing.
    All,
    /// As many as the value has elements: each client takes at least one.
    Elements,
    /// As many as are needed to take the new entries. All if there may be nothing to wait for any
    /// more, for example because the key does not exist.
    News,
}

/// What the try of a client that waits has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nothing.
    Nothing,
    /// Everything that there was, or what is left is reported as a change.
    Whole,
    /// As many entries as it may take at a time, so there may be more.
    Part,
}

/// A request such as `BLPOP` that waits for an element to take.
#[derive(Debug, Clone)]
pub(in crate::redis) struct PopWait {
    /// When the wait ends; `None` for never.
    pub(in crate::redis) until: Option<Instant>,
    pub(in crate::redis) keys: AwaitedKeys,
    /// The operation of the request, encoded by [`Operation::encode`].
    pub(in crate::redis) operation: Bytes,
    /// Whether the element is added to another key, whose type may be wrong.
    pub(in crate::redis) moves: bool,
}

impl PopWait {
    /// Returns the operation to submit after the key `woken_by` has changed; `None` to take from
    /// any of the keys. As in Redis, a client is served from the key that has changed, whatever the
    /// other keys hold.
    pub(in crate::redis) fn operation_again(&self, woken_by: Option<&[u8]>) -> Bytes {
        let Some(key) = woken_by.filter(|_| self.keys.keys.len() > 1) else {
            return self.operation.clone();
        };
        let Ok(Operation::Call { command, args, database }) = Operation::decode(&self.operation)
        else {
            unreachable!("it was encoded by this replica")
        };
        let args: Vec<&[u8]> = args.iter().collect();
        let (before, after) = match command.keys().counted_at() {
            Some(at) => args.split_at(usize::from(at)),
            None => args.split_at(0),
        };
        let count: &[&[u8]] = if command.keys().counted_at().is_some() { &[b"1"] } else { &[] };
        let after = &after[count.len() + self.keys.keys.len()..];
        let args = [before, count, &[key], after].concat();
        Operation::call(command, &args[..]).in_database(database).encode().into()
    }

    /// Returns the memory usage in bytes.
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        let keys: usize = self.keys.keys.iter().map(|key| size_of::<Bytes>() + key.len()).sum();
        size_of::<PopWait>() + keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::CommandId;

    #[test]
    fn woken_request_takes_only_from_the_changed_key() {
        for (command, args, again) in [
            ("blpop", "a b c 5", "b 5"),
            ("bzpopmax", "b 5", "b 5"),
            ("blmpop", "5 3 a b c LEFT COUNT 2", "5 1 b LEFT COUNT 2"),
            ("bzmpop", "5 2 b c MIN", "5 1 b MIN"),
            ("blmove", "b c LEFT RIGHT 5", "b c LEFT RIGHT 5"),
        ] {
            let database = DatabaseId::new(7).expect("a database");
            let encoded = |args: &str| -> Bytes {
                let args: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
                Operation::call(CommandId::of(command), &args[..])
                    .in_database(database)
                    .encode()
                    .into()
            };
            let id = CommandId::of(command);
            let words: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
            let keys = match (command, id.keys().counted_at()) {
                ("blmove", _) => &words[..1],
                (_, None) => &words[..words.len() - 1],
                (_, Some(_)) => {
                    let count: usize = str::from_utf8(words[1]).unwrap().parse().unwrap();
                    &words[2..2 + count]
                }
            };
            let keys = keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
            let (kind, wake) = (ValueType::List, Wake::Elements);
            let keys =
                AwaitedKeys { kind, database, keys, wake, entries_max: 1, group: Bytes::new() };
            let wait = PopWait { until: None, keys, operation: encoded(args), moves: false };
            assert_eq!(wait.operation_again(Some(b"b")), encoded(again), "{command}");
            assert_eq!(wait.operation_again(None), encoded(args), "{command}");
        }
    }
}
