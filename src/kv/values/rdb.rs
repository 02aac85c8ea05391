//! Values in Redis's RDB format: encodes them, and builds them from the items of a decoder.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::values::collection::{Collection, CollectionType as _};
use crate::kv::values::hash::Hash;
use crate::kv::values::list::{End, List};
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::{Change, SortedSet};
use crate::kv::values::stream::entries::Fields;
use crate::kv::values::stream::group::{Group, Pending};
use crate::kv::values::stream::id::{PartialId, Sequence, StreamId};
use crate::kv::values::stream::{Stream, WantedId};
use crate::kv::values::string::StringRef;
use crate::rdb::{EntryId, GroupReads, Item, Sink, Stop, ValueKind, ValueWriter};

/// Maximum total length in bytes of the strings in a decoded value. A payload can be compressed,
/// so the limit on the length of a command does not bound its value.
const VALUE_BYTES_MAX: usize = crate::rdb::STRING_BYTES_MAX;

impl StringRef<'_> {
    /// Encodes the string as a value.
    pub(in crate::kv) fn write_rdb(self, out: &mut ValueWriter<'_>) {
        out.string_value(self.len(), self.slices(0..self.len()));
    }
}

impl Collection {
    /// Encodes the collection as a value.
    pub(in crate::kv) fn write_rdb(&self, out: &mut ValueWriter<'_>) {
        match self {
            Collection::List(list) => {
                out.list(list.len());
                list.iter_from(0).for_each(|element| out.string(element));
            }
            Collection::Set(set) => {
                out.set(set.len());
                set.iter().for_each(|member| out.string(member));
            }
            Collection::SortedSet(set) => {
                out.sorted_set(set.len());
                set.iter().for_each(|(member, score)| out.scored(member, score));
            }
            Collection::Hash(hash) => {
                out.hash(hash.len());
                for (field, value) in hash.iter() {
                    out.string(field);
                    out.string(value);
                }
            }
            Collection::Stream(stream) => write_stream(stream, out),
        }
    }
}

fn write_stream(stream: &Stream, out: &mut ValueWriter<'_>) {
    let entries = stream.entries().range(StreamId::MIN, StreamId::MAX).map(|entry| {
        let fields: Vec<Bytes> = entry.fields.to_shared().into_iter().flatten().collect();
        (entry.id.into(), fields)
    });
    let (count, first_id) = out.stream_entries(entries);
    out.number(count as u64);
    out.entry_id(stream.last_id().into());
    out.entry_id(first_id);
    out.entry_id(stream.max_deleted_id().into());
    out.number(stream.entries_added());
    out.number(stream.groups.len() as u64);
    for (name, group) in stream.groups.iter() {
        out.string(name);
        out.entry_id(group.last_id.into());
        out.number_or_unknown(group.entries_read);
        out.number(group.pending().len() as u64);
        for (id, pending) in group.pending().iter() {
            out.raw_entry_id(id.into());
            out.time(pending.delivered_at);
            out.number(pending.deliveries);
        }
        out.number(group.consumers().len() as u64);
        for (name, consumer) in group.consumers() {
            out.string(name);
            out.time(consumer.seen_at);
            out.number(consumer.pending.len() as u64);
            consumer.pending.iter().for_each(|(id, ())| out.raw_entry_id(id.into()));
        }
    }
}

impl From<StreamId> for EntryId {
    fn from(StreamId { millis, sequence }: StreamId) -> EntryId {
        EntryId { millis, sequence }
    }
}

impl From<EntryId> for StreamId {
    fn from(EntryId { millis, sequence }: EntryId) -> StreamId {
        StreamId { millis, sequence }
    }
}

/// A decoded value.
pub(in crate::kv) enum DecodedValue {
    String(Vec<u8>),
    Collection(Collection),
}

/// Builds a value from the items of a decoder. Refuses duplicates of members, fields, groups and
/// consumers, as well as a value of more than [`VALUE_BYTES_MAX`] bytes.
#[derive(Default)]
pub(in crate::kv) struct ValueBuilder {
    value: Option<Partial>,
    /// Total length in bytes of the strings so far.
    bytes: usize,
}

enum Partial {
    String(Vec<u8>),
    List(List),
    Set(Set),
    SortedSet(SortedSet),
    Hash(Hash),
    Stream(Box<PartialStream>),
}

/// A stream that is being built.
#[derive(Default)]
struct PartialStream {
    stream: Stream,
    /// The last group and its name, which is not in the stream yet.
    group: Option<(Vec<u8>, Group)>,
    /// Name of the last consumer of the group.
    consumer: Option<Vec<u8>>,
}

impl ValueBuilder {
    /// Returns the value; `None` if it is a collection without elements, other than a stream.
    pub(in crate::kv) fn finish(self) -> Option<DecodedValue> {
        let collection = match self.value? {
            Partial::String(string) => return Some(DecodedValue::String(string)),
            Partial::List(list) if list.len() > 0 => List::wrap(Arc::new(list)),
            Partial::Set(set) if set.len() > 0 => Set::wrap(Arc::new(set)),
            Partial::SortedSet(set) if set.len() > 0 => SortedSet::wrap(Arc::new(set)),
            Partial::Hash(hash) if hash.len() > 0 => Hash::wrap(Arc::new(hash)),
            Partial::Stream(mut partial) => {
                partial.end_group().ok()?;
                Stream::wrap(Arc::new(partial.stream))
            }
            _ => return None,
        };
        Some(DecodedValue::Collection(collection))
    }

    fn count(&mut self, strings: &[&[u8]]) -> Result<(), Stop> {
        self.bytes += strings.iter().map(|string| string.len()).sum::<usize>();
        if self.bytes <= VALUE_BYTES_MAX { Ok(()) } else { Err(Stop) }
    }
}

impl Sink for ValueBuilder {
    fn item(&mut self, item: Item<'_>) -> Result<(), Stop> {
        match item {
            Item::String(one) | Item::Element(one) | Item::Member(one) | Item::Scored(one, _) => {
                self.count(&[one])?;
            }
            Item::Field(field, value) => self.count(&[field, value])?,
            Item::Entry(_, fields) => self.count(fields)?,
            _ => {}
        }
        let is_new = match (item, &mut self.value) {
            (Item::Value(kind), value) => value.replace(Partial::new(kind)).is_none(),
            (Item::String(string), Some(Partial::String(value))) => {
                *value = string.to_vec();
                true
            }
            (Item::Element(element), Some(Partial::List(list))) => {
                list.push(End::Right, element.into());
                true
            }
            (Item::Member(member), Some(Partial::Set(set))) => set.add(member),
            (Item::Scored(member, score), Some(Partial::SortedSet(set))) => {
                set.set(member, score) == Change::Added
            }
            (Item::Field(field, value), Some(Partial::Hash(hash))) => hash.set(field, value),
            (item, Some(Partial::Stream(partial))) => return partial.item(item),
            _ => false,
        };
        if is_new { Ok(()) } else { Err(Stop) }
    }
}

impl Partial {
    fn new(kind: ValueKind) -> Partial {
        match kind {
            ValueKind::String => Partial::String(Vec::new()),
            ValueKind::List => Partial::List(List::default()),
            ValueKind::Set => Partial::Set(Set::default()),
            ValueKind::SortedSet => Partial::SortedSet(SortedSet::default()),
            ValueKind::Hash => Partial::Hash(Hash::default()),
            ValueKind::Stream => Partial::Stream(Box::default()),
        }
    }
}

impl PartialStream {
    fn item(&mut self, item: Item<'_>) -> Result<(), Stop> {
        match item {
            Item::Entry(EntryId { millis, sequence }, fields) => {
                let id = PartialId { millis, sequence: Sequence::Given(sequence) };
                let added = self.stream.add(WantedId::Given(id), Fields::new(fields));
                added.map_err(|_| Stop)?;
            }
            Item::Stream { last_id, max_deleted_id, entries_added } => {
                let max_deleted_id = Some(max_deleted_id.into());
                if StreamId::from(last_id) < self.stream.last_id() {
                    return Err(Stop);
                }
                // Without the number, each entry that was added is still there.
                self.stream.set_last_id(last_id.into(), entries_added, max_deleted_id);
            }
            Item::Group { name, last_id, entries_read } => {
                self.end_group()?;
                let last_id = last_id.into();
                let entries_read = match entries_read {
                    GroupReads::Unstated => self.stream.added_until(last_id),
                    GroupReads::Unknown => None,
                    GroupReads::Known(number) => Some(number),
                };
                self.group = Some((name.to_vec(), Group::new(last_id, entries_read)));
            }
            Item::Consumer { name, seen_at, active_at: _ } => {
                let (_, group) = self.group.as_mut().ok_or(Stop)?;
                if !group.see(name, seen_at) {
                    return Err(Stop);
                }
                self.consumer = Some(name.to_vec());
            }
            Item::Pending { id, delivered_at, deliveries } => {
                let (_, group) = self.group.as_mut().ok_or(Stop)?;
                let consumer = self.consumer.as_deref().ok_or(Stop)?.into();
                group.set_pending(id.into(), Pending { consumer, delivered_at, deliveries });
            }
            _ => return Err(Stop),
        }
        Ok(())
    }

    /// Adds the last group to the stream.
    fn end_group(&mut self) -> Result<(), Stop> {
        self.consumer = None;
        let Some((name, group)) = self.group.take() else { return Ok(()) };
        if self.stream.groups.add(&name, group) { Ok(()) } else { Err(Stop) }
    }
}
