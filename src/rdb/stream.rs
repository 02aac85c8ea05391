//! Decodes and encodes streams. The entries of a stream are in listpacks, each with the id of its
//! first entry, from which the ids in the listpack are counted.
//!
//! ```text
//!  master entry:  count | deleted | field count | field .. | 0
//!  entry:         flags | milliseconds | sequence | [field count] | [field] value .. | item count
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use super::decoder::{Decoder, PackedError};
use super::error::RdbError;
use super::item::{GroupReads, Item, Sink};
use super::listpack::{Listpack, ListpackWriter};
use super::packed::Malformed;
use super::{EntryId, types};

/// Flags of an entry.
const IS_DELETED: i64 = 1;
const HAS_MASTER_FIELDS: i64 = 2;

/// Maximum number of entries in a listpack that this program writes, as in Redis.
const ENTRIES_MAX: u8 = 100;
/// Length in bytes of a listpack from which on no further entry is added to it, as in Redis.
const LISTPACK_BYTES: usize = 4_096;

/// Number of entries read that means that a server does not know it.
pub(super) const UNKNOWN: u64 = u64::MAX;

const WRONG: Malformed = "an invalid listpack of a stream";

/// Decodes a stream, of the type `number`.
pub(super) fn decode<R: Read>(number: u8, decoder: &mut Decoder<'_, R>) -> Result<(), RdbError> {
    let mut last = None;
    for _ in 0..decoder.input.length()? {
        let offset = decoder.input.offset();
        let key = decoder.input.string()?;
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        let (millis, sequence) = (key.get(..8).and_then(number), key.get(8..).and_then(number));
        let (Some(millis), Some(sequence)) = (millis, sequence) else {
            return Err(RdbError::Malformed { offset, what: "an invalid id in a stream" });
        };
        let first = EntryId { millis, sequence };
        decoder.in_string(|bytes, sink| decode_entries(first, bytes, &mut last, sink))?;
    }
    let offset = decoder.input.offset();
    let _length = decoder.input.length()?;
    let last_id = decoder.input.entry_id()?;
    let (mut max_deleted_id, mut entries_added) = (EntryId::default(), None);
    if number >= types::STREAM_LISTPACKS_2 {
        let _first_id = decoder.input.entry_id()?;
        max_deleted_id = decoder.input.entry_id()?;
        entries_added = Some(decoder.input.length()?);
    }
    if last.is_some_and(|last| last > last_id) {
        return Err(RdbError::Malformed { offset, what: "a stream whose last id is too low" });
    }
    decoder.pass(Item::Stream { last_id, max_deleted_id, entries_added })?;
    for _ in 0..decoder.input.length()? {
        decode_group(number, decoder)?;
    }
    Ok(())
}

/// Decodes the entries of a listpack, and passes those that are not deleted to the sink. `last` is
/// the id of the last entry, after which they must follow.
fn decode_entries(
    first: EntryId,
    bytes: &[u8],
    last: &mut Option<EntryId>,
    sink: &mut dyn Sink,
) -> Result<(), PackedError> {
    let mut items = Listpack::new(bytes)?;
    let _count = integer(&mut items)?;
    let _deleted = integer(&mut items)?;
    let mut master = Vec::new();
    for _ in 0..integer(&mut items)? {
        master.push(text(&mut items)?);
    }
    integer(&mut items)?;
    while let Some(flags) = items.next() {
        let flags = flags?.integer().ok_or(WRONG)?;
        let id = EntryId {
            millis: first.millis.wrapping_add(integer(&mut items)?.cast_unsigned()),
            sequence: first.sequence.wrapping_add(integer(&mut items)?.cast_unsigned()),
        };
        let has_master_fields = flags & HAS_MASTER_FIELDS != 0;
        let mut texts = Vec::new();
        if has_master_fields {
            for field in &master {
                texts.push(field.clone());
                texts.push(text(&mut items)?);
            }
        } else {
            for _ in 0..integer(&mut items)? {
                texts.push(text(&mut items)?);
                texts.push(text(&mut items)?);
            }
        }
        integer(&mut items)?;
        if flags & IS_DELETED != 0 {
            continue;
        }
        if texts.is_empty() {
            return Err("an entry of a stream without fields".into());
        }
        if last.is_some_and(|last| last >= id) {
            return Err("entries of a stream in the wrong order".into());
        }
        *last = Some(id);
        let texts: Vec<&[u8]> = texts.iter().map(|text| &text[..]).collect();
        sink.item(Item::Entry(id, &texts))?;
    }
    Ok(())
}

fn text<'p>(items: &mut Listpack<'p>) -> Result<Cow<'p, [u8]>, Malformed> {
    Ok(items.next().ok_or(WRONG)??.text())
}

fn integer(items: &mut Listpack<'_>) -> Result<i64, Malformed> {
    items.next().ok_or(WRONG)??.integer().ok_or(WRONG)
}

/// Decodes a consumer group. All its pending entries come before the consumers, which only have
/// the ids.
fn decode_group<R: Read>(number: u8, decoder: &mut Decoder<'_, R>) -> Result<(), RdbError> {
    let name = decoder.input.string()?;
    let last_id = decoder.input.entry_id()?;
    let entries_read = if number < types::STREAM_LISTPACKS_2 {
        GroupReads::Unstated
    } else {
        match decoder.input.length()? {
            UNKNOWN => GroupReads::Unknown,
            number => GroupReads::Known(number),
        }
    };
    decoder.pass(Item::Group { name: &name, last_id, entries_read })?;
    let mut all = BTreeMap::new();
    for _ in 0..decoder.input.length()? {
        let id = decoder.input.raw_entry_id()?;
        let delivered_at = u64::from_le_bytes(decoder.input.array()?);
        let deliveries = decoder.input.length()?;
        if all.insert(id, (delivered_at, deliveries)).is_some() {
            return Err(decoder.input.malformed("an entry that is pending twice"));
        }
    }
    for _ in 0..decoder.input.length()? {
        let name = decoder.input.string()?;
        let seen_at = u64::from_le_bytes(decoder.input.array()?);
        let active_at = if number >= types::STREAM_LISTPACKS_3 {
            let active_at = i64::from_le_bytes(decoder.input.array()?);
            u64::try_from(active_at).ok()
        } else {
            None
        };
        decoder.pass(Item::Consumer { name: &name, seen_at, active_at })?;
        for _ in 0..decoder.input.length()? {
            let id = decoder.input.raw_entry_id()?;
            let Some((delivered_at, deliveries)) = all.remove(&id) else {
                return Err(decoder.input.malformed("a pending entry that its group lacks"));
            };
            decoder.pass(Item::Pending { id, delivered_at, deliveries })?;
        }
    }
    if !all.is_empty() {
        return Err(decoder.input.malformed("a pending entry without a consumer"));
    }
    Ok(())
}

/// Divides the entries of a stream into listpacks.
pub(super) struct EntriesWriter {
    listpacks: Vec<(EntryId, ListpackWriter)>,
    /// Number of entries in the last listpack.
    count: u8,
    /// The fields of the first entry of the last listpack.
    master: Vec<Vec<u8>>,
}

impl EntriesWriter {
    pub(super) fn new() -> EntriesWriter {
        EntriesWriter { listpacks: Vec::new(), count: 0, master: Vec::new() }
    }

    /// Adds an entry, whose id must be higher than those before it, with fields and values.
    pub(super) fn add(&mut self, id: EntryId, fields: &[&[u8]]) {
        let is_full = |(_, pack): &(EntryId, ListpackWriter)| pack.len() >= LISTPACK_BYTES;
        if self.count == ENTRIES_MAX || self.listpacks.last().is_none_or(is_full) {
            self.begin(id, fields);
        }
        let (first, pack) = self.listpacks.last_mut().expect("one was begun");
        self.count += 1;
        pack.set_first(self.count);
        let names = || fields.iter().step_by(2);
        let is_same = names().len() == self.master.len()
            && names().zip(&self.master).all(|(one, other)| *one == other);
        pack.integer(if is_same { HAS_MASTER_FIELDS } else { 0 });
        pack.integer(id.millis.wrapping_sub(first.millis).cast_signed());
        pack.integer(id.sequence.wrapping_sub(first.sequence).cast_signed());
        let count = fields.len() / 2;
        if is_same {
            fields.iter().skip(1).step_by(2).for_each(|value| pack.text(value));
            pack.count(count + 3);
        } else {
            pack.count(count);
            for text in fields {
                pack.text(text);
            }
            pack.count(2 * count + 4);
        }
    }

    fn begin(&mut self, id: EntryId, fields: &[&[u8]]) {
        self.count = 0;
        self.master = fields.iter().step_by(2).map(|field| field.to_vec()).collect();
        let mut pack = ListpackWriter::new();
        pack.integer(0);
        pack.integer(0);
        pack.count(self.master.len());
        for field in &self.master {
            pack.text(field);
        }
        pack.integer(0);
        self.listpacks.push((id, pack));
    }

    /// Returns the listpacks, each with the id of its first entry.
    pub(super) fn finish(self) -> impl ExactSizeIterator<Item = (EntryId, Vec<u8>)> {
        self.listpacks.into_iter().map(|(id, pack)| (id, pack.finish()))
    }
}
