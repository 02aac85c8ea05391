//! A request that waits for entries of streams: `XREAD` or `XREADGROUP` with `BLOCK`.

use bytes::Bytes;

use crate::kv::{CommandId, Operation, Outcome};
use crate::types::Instant;

use super::waits::{AwaitedKeys, Taken};

const XREAD: CommandId = CommandId::of("xread|wait");
const XREADGROUP: CommandId = CommandId::of("xreadgroup|wait");

/// A request that waits for entries of streams.
///
/// Invariant: `ids` has as many elements as `keys.keys`.
#[derive(Debug, Clone)]
pub(in crate::redis) struct StreamWait {
    /// When the wait ends without entries; `None` for never.
    pub(in crate::redis) until: Option<Instant>,
    pub(in crate::redis) keys: AwaitedKeys,
    /// The ids after which the client reads the streams. `$` is replaced by the last id of the
    /// stream once the first try has found nothing.
    pub(in crate::redis) ids: Vec<Bytes>,
    /// The group, the consumer, and whether entries do not become pending (`NOACK`); `None` for
    /// `XREAD`.
    pub(in crate::redis) reader: Option<(Bytes, Bytes, bool)>,
}

impl StreamWait {
    /// Returns the operation of a try after the first one, for the streams that the client waits
    /// for, or only for `woken_by`. As in Redis, a client is served from the key that has changed.
    pub(in crate::redis) fn operation_again(&self, woken_by: Option<&[u8]>) -> Bytes {
        let count = self.keys.entries_max.to_string();
        let mut args: Vec<&[u8]> = Vec::new();
        if let Some((group, consumer, needs_no_ack)) = &self.reader {
            args.extend([&b"GROUP"[..], group, consumer]);
            args.extend(needs_no_ack.then_some(&b"NOACK"[..]));
        }
        args.extend([&b"COUNT"[..], count.as_bytes(), b"STREAMS"]);
        let streams = self.keys.keys.iter().zip(&self.ids);
        let mut read: Vec<(&Bytes, &Bytes)> = streams.collect();
        if let Some(woken_by) = woken_by {
            // A client may name a key several times.
            read.retain(|(key, _)| *key == woken_by);
            read.truncate(1);
        }
        args.extend(read.iter().map(|(key, _)| &key[..]));
        args.extend(read.iter().map(|(_, id)| &id[..]));
        let command = if self.reader.is_some() { XREADGROUP } else { XREAD };
        Operation::call(command, &args[..]).in_database(self.keys.database).encode().into()
    }

    /// Returns whether `outcome`, that of a try, says that there are no entries.
    pub(in crate::redis) fn found_nothing(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::NoList | Outcome::List(_))
    }

    /// Takes over the ids in the outcome of the first try, which has found nothing.
    pub(in crate::redis) fn note_ids(&mut self, outcome: &Outcome) {
        let Outcome::List(found) = outcome else { return };
        if self.ids.iter().all(|id| *id != "$") {
            return;
        }
        assert_eq!(found.len(), self.ids.len(), "an id for each stream");
        for (id, found) in self.ids.iter_mut().zip(found) {
            if let Outcome::Value(Some(found)) = found {
                id.clone_from(found);
            }
        }
    }

    /// Returns what a try with this outcome, which is not an error, has taken.
    pub(in crate::redis) fn taken(&self, outcome: &Outcome) -> Taken {
        let Outcome::Streams(streams) = outcome else { return Taken::Nothing };
        let is_full = |entries: &Outcome| match entries {
            Outcome::List(entries) => entries.len() >= self.keys.entries_max,
            _ => false,
        };
        if streams.iter().any(|(_, entries)| is_full(entries)) { Taken::Part } else { Taken::Whole }
    }

    /// Returns the memory usage in bytes.
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        let texts = self.keys.keys.iter().chain(&self.ids);
        let reader = self.reader.as_ref();
        let names = reader.map_or(0, |(group, consumer, _)| 2 * group.len() + consumer.len());
        let texts: usize = texts.map(|text| size_of::<Bytes>() + text.len()).sum();
        size_of::<StreamWait>() + names + texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{DatabaseId, ValueType};
    use crate::redis::session::waits::Wake;

    fn wait(ids: &[&'static str], reader: Option<(Bytes, Bytes, bool)>) -> StreamWait {
        let texts = |texts: &[&'static str]| -> Vec<Bytes> {
            texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
        };
        let keys = texts(&["a", "b", "a"]);
        let database = DatabaseId::new(3).unwrap();
        let (kind, wake, group) = (ValueType::Stream, Wake::All, Bytes::new());
        let keys = AwaitedKeys { kind, database, keys, wake, entries_max: 7, group };
        StreamWait { until: None, keys, ids: texts(ids), reader }
    }

    fn again(wait: &StreamWait, woken_by: Option<&str>) -> String {
        let operation = wait.operation_again(woken_by.map(str::as_bytes));
        let operation = Operation::decode(&operation).unwrap();
        assert!(matches!(operation, Operation::Call { database, .. } if database.number() == 3));
        let (name, args) = operation.as_call().unwrap();
        let args: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        format!("{name} {}", args.join(" "))
    }

    #[test]
    fn later_tries_read_after_the_ids_of_the_first() {
        let mut wait = wait(&["$", "3", "$"], None);
        let id = |text: &'static str| Outcome::Value(Some(Bytes::from_static(text.as_bytes())));
        wait.note_ids(&Outcome::List(vec![id("8-1"), id("3-0"), id("8-1")]));
        // Later tries may be for one stream.
        wait.note_ids(&Outcome::List(vec![id("9-9")]));
        assert_eq!(again(&wait, None), "xread|wait COUNT 7 STREAMS a b a 8-1 3-0 8-1");
        assert_eq!(again(&wait, Some("a")), "xread|wait COUNT 7 STREAMS a 8-1");
        assert_eq!(again(&wait, Some("b")), "xread|wait COUNT 7 STREAMS b 3-0");
    }

    #[test]
    fn group_is_read_again_for_the_same_consumer() {
        let reader = |no_ack| Some((Bytes::from_static(b"g"), Bytes::from_static(b"c"), no_ack));
        let without = wait(&[">", ">", ">"], reader(true));
        let wanted = "xreadgroup|wait GROUP g c NOACK COUNT 7 STREAMS b >";
        assert_eq!(again(&without, Some("b")), wanted);
        let with = wait(&[">", ">", ">"], reader(false));
        assert_eq!(again(&with, Some("b")), wanted.replace("NOACK ", ""));
    }

    #[test]
    fn client_that_takes_all_it_may_take_leaves_some() {
        let wait = wait(&[">", ">", ">"], None);
        let streams = |counts: &[usize]| {
            let entries = |count: &usize| Outcome::List(vec![Outcome::NoList; *count]);
            Outcome::Streams(counts.iter().map(|it| (Outcome::NoList, entries(it))).collect())
        };
        assert_eq!(wait.taken(&streams(&[6, 1])), Taken::Whole);
        assert_eq!(wait.taken(&streams(&[6, 7])), Taken::Part);
        assert_eq!(wait.taken(&Outcome::NoList), Taken::Nothing);
    }
}
