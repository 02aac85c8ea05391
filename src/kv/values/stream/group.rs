//! Consumer groups of a stream: how far each group has read, its consumers, and the entries that
//! were delivered to consumers and are not acknowledged yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};

use super::id::StreamId;
use super::id_map::IdMap;
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};
use crate::kv::values::element::Element;

/// Approximate memory usage of a group without consumers and pending entries, in bytes.
const GROUP_BYTES: usize = 200;
/// Approximate memory usage of a consumer without pending entries, in bytes.
const CONSUMER_BYTES: usize = 160;
/// Approximate memory usage of a pending entry, in bytes: its places in the group and in its
/// consumer.
const PENDING_BYTES: usize = 96;

/// An entry that was delivered to a consumer and is not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kv) struct Pending {
    /// Name of the consumer.
    pub(in crate::kv) consumer: Element,
    /// Time of the last delivery by the replicated clock, in milliseconds since 1970.
    pub(in crate::kv) delivered_at: u64,
    /// Number of deliveries.
    pub(in crate::kv) deliveries: u64,
}

/// A consumer of a group.
#[derive(Debug, Clone)]
pub(in crate::kv) struct Consumer {
    /// Time of the consumer's last command by the replicated clock, in milliseconds since 1970.
    pub(in crate::kv) seen_at: u64,
    /// Ids of the entries that are pending for the consumer.
    pub(in crate::kv) pending: IdMap<()>,
}

/// A consumer group.
///
/// Invariant: each pending entry belongs to one consumer of the group, whose `pending` has its id.
/// `digest` is the sum of the hashes of all consumers and pending entries, and `bytes` is their
/// memory usage.
#[derive(Debug, Clone)]
pub(in crate::kv) struct Group {
    /// Id of the last entry that was delivered to a consumer of the group.
    pub(in crate::kv) last_id: StreamId,
    /// Number of entries from the first that was ever added to the stream up to `last_id`; `None`
    /// if it is unknown.
    pub(in crate::kv) entries_read: Option<u64>,
    consumers: BTreeMap<Element, Consumer>,
    pending: IdMap<Pending>,
    digest: Digest,
    bytes: usize,
}

/// The consumer groups of a stream, by name. A clone shares them; a change copies one group, which
/// itself shares its pending entries in chunks.
///
/// Invariant: `digest` is the sum of the hashes of all groups, and `bytes` is their memory usage.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Groups {
    by_name: BTreeMap<Element, Arc<Group>>,
    digest: Digest,
    bytes: usize,
}

fn pending_hash(id: StreamId, pending: &Pending) -> u64 {
    let times = mix(id.hash(pending.delivered_at), pending.deliveries);
    fingerprint(times, &pending.consumer)
}

fn consumer_hash(name: &[u8], seen_at: u64) -> u64 {
    mix(key_hash(name), seen_at)
}

impl Group {
    pub(in crate::kv) fn new(last_id: StreamId, entries_read: Option<u64>) -> Group {
        Group {
            last_id,
            entries_read,
            consumers: BTreeMap::new(),
            pending: IdMap::default(),
            digest: Digest::default(),
            bytes: 0,
        }
    }

    /// Returns the pending entries of all consumers, in the order of their ids.
    pub(in crate::kv) fn pending(&self) -> &IdMap<Pending> {
        &self.pending
    }

    /// Returns all consumers, in the order of their names.
    pub(in crate::kv) fn consumers(&self) -> impl ExactSizeIterator<Item = (&Element, &Consumer)> {
        self.consumers.iter()
    }

    /// Returns a consumer; `None` if the group has none with this name.
    pub(in crate::kv) fn consumer(&self, name: &[u8]) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// Sets the time of a consumer's last command to `now`. Creates the consumer if it does not
    /// exist, and returns whether it was created.
    pub(in crate::kv) fn see(&mut self, name: &[u8], now: u64) -> bool {
        if let Some(consumer) = self.consumers.get_mut(name) {
            self.digest.remove(consumer_hash(name, consumer.seen_at));
            consumer.seen_at = now;
            self.digest.add(consumer_hash(name, now));
            return false;
        }
        self.add_consumer(name.into(), now);
        true
    }

    fn add_consumer(&mut self, name: Element, seen_at: u64) {
        self.digest.add(consumer_hash(&name, seen_at));
        self.bytes += CONSUMER_BYTES + name.allocated_bytes();
        self.consumers.insert(name, Consumer { seen_at, pending: IdMap::default() });
    }

    /// Removes a consumer and its pending entries. Returns the number of these; `None` if the group
    /// has no such consumer.
    pub(in crate::kv) fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let (name, consumer) = self.consumers.remove_entry(name)?;
        self.digest.remove(consumer_hash(&name, consumer.seen_at));
        self.bytes -= CONSUMER_BYTES + name.allocated_bytes();
        for (id, ()) in consumer.pending.iter() {
            self.remove_from_pending(id);
        }
        Some(consumer.pending.len())
    }

    /// Makes an entry pending for a consumer, which must exist. If it is
    /// pending for another consumer, that one loses it.
    pub(in crate::kv) fn set_pending(&mut self, id: StreamId, pending: Pending) {
        self.digest.add(pending_hash(id, &pending));
        let name = pending.consumer.clone();
        let old = self.pending.insert(id, pending);
        if let Some(old) = &old {
            self.digest.remove(pending_hash(id, old));
            if old.consumer == name {
                return;
            }
            self.consumer_mut(&old.consumer).pending.remove(id);
        } else {
            self.bytes += PENDING_BYTES;
        }
        self.consumer_mut(&name).pending.insert(id, ());
    }

    fn consumer_mut(&mut self, name: &[u8]) -> &mut Consumer {
        self.consumers.get_mut(name).expect("pending entries belong to consumers")
    }

    fn remove_from_pending(&mut self, id: StreamId) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        self.digest.remove(pending_hash(id, &pending));
        self.bytes -= PENDING_BYTES;
        Some(pending)
    }

    /// Removes an entry from the pending entries. Returns whether it was pending.
    pub(in crate::kv) fn acknowledge(&mut self, id: StreamId) -> bool {
        let Some(pending) = self.remove_from_pending(id) else { return false };
        self.consumer_mut(&pending.consumer).pending.remove(id);
        true
    }

    /// Returns a hash of the group and its name.
    fn hash(&self, name: &[u8]) -> u64 {
        let read = self.entries_read.map_or(0, |read| read.wrapping_add(1));
        mix(self.last_id.hash(mix(key_hash(name), read)), self.digest.salted(0))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.last_id.encode(out);
        out.put_u8(u8::from(self.entries_read.is_some()));
        put_number(self.entries_read.unwrap_or(0), out);
        put_number(self.consumers.len() as u64, out);
        for (name, consumer) in &self.consumers {
            put_bytes(name, out);
            put_number(consumer.seen_at, out);
            put_number(consumer.pending.len() as u64, out);
            let mut before = StreamId::MIN;
            for (id, ()) in consumer.pending.iter() {
                let pending = self.pending.get(id).expect("the group has it as well");
                id.encode_after(before, out);
                put_number(pending.delivered_at, out);
                put_number(pending.deliveries, out);
                before = id;
            }
        }
    }

    fn decode(from: &mut &[u8]) -> Option<Group> {
        let last_id = StreamId::decode(from)?;
        let is_known = from.try_get_u8().ok()?;
        let entries_read = take_number(from)?;
        let entries_read = match is_known {
            0 => None,
            1 => Some(entries_read),
            _ => return None,
        };
        let mut group = Group::new(last_id, entries_read);
        for _ in 0..take_number(from)? {
            let name = Element::from(take_bytes(from)?);
            if group.consumers.contains_key(&name) {
                return None;
            }
            group.add_consumer(name.clone(), take_number(from)?);
            let mut before = StreamId::MIN;
            for _ in 0..take_number(from)? {
                let id = StreamId::decode_after(before, from)?;
                if group.pending.get(id).is_some() {
                    return None;
                }
                let (delivered_at, deliveries) = (take_number(from)?, take_number(from)?);
                let pending = Pending { consumer: name.clone(), delivered_at, deliveries };
                group.set_pending(id, pending);
                before = id;
            }
        }
        Some(group)
    }
}

impl Groups {
    pub(in crate::kv) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(in crate::kv) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::kv) fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns a group; `None` if there is none with this name.
    pub(in crate::kv) fn get(&self, name: &[u8]) -> Option<&Group> {
        self.by_name.get(name).map(|group| &**group)
    }

    /// Iterates over the groups, in the order of their names.
    pub(in crate::kv) fn iter(&self) -> impl ExactSizeIterator<Item = (&Element, &Group)> {
        self.by_name.iter().map(|(name, group)| (name, &**group))
    }

    /// Adds a group. Returns false, and changes nothing, if there is one with this name.
    pub(in crate::kv) fn add(&mut self, name: &[u8], group: Group) -> bool {
        if self.by_name.contains_key(name) {
            return false;
        }
        let name = Element::from(name);
        self.digest.add(group.hash(&name));
        self.bytes += GROUP_BYTES + name.allocated_bytes() + group.bytes;
        self.by_name.insert(name, Arc::new(group));
        true
    }

    /// Removes a group. Returns whether there was one with this name.
    pub(in crate::kv) fn remove(&mut self, name: &[u8]) -> bool {
        let Some((name, group)) = self.by_name.remove_entry(name) else { return false };
        self.digest.remove(group.hash(&name));
        self.bytes -= GROUP_BYTES + name.allocated_bytes() + group.bytes;
        true
    }

    /// Applies `change` to a group, and returns its result; `None`, without calling `change`, if
    /// there is no group with this name.
    pub(in crate::kv) fn change<R>(
        &mut self,
        name: &[u8],
        change: impl FnOnce(&mut Group) -> R,
    ) -> Option<R> {
        let group = Arc::make_mut(self.by_name.get_mut(name)?);
        self.digest.remove(group.hash(name));
        self.bytes -= group.bytes;
        let result = change(group);
        self.digest.add(group.hash(name));
        self.bytes += group.bytes;
        Some(result)
    }

    pub(in crate::kv) fn encode(&self, out: &mut Vec<u8>) {
        put_number(self.by_name.len() as u64, out);
        for (name, group) in &self.by_name {
            put_bytes(name, out);
            group.encode(out);
        }
    }

    /// Decodes groups that [`Groups::encode`] encoded, and removes them from the front of `from`;
    /// `None` if the bytes are malformed.
    pub(in crate::kv) fn decode(from: &mut &[u8]) -> Option<Groups> {
        let mut groups = Groups::default();
        for _ in 0..take_number(from)? {
            let name = take_bytes(from)?;
            if !groups.add(name, Group::decode(from)?) {
                return None;
            }
        }
        Some(groups)
    }
}
