//! Hashes: fields and their values under one key, and what can be done with them.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::digest::{Digest, fingerprint, key_number};
use super::object::{Content, Object};
use super::outcome::Outcome;
use super::snapshot::{put_bytes, take_bytes};
use super::store::Store;
use super::verbs::{Answer, Row, Run, Words};

pub(super) const VERBS: Row = &[
    ("hset", Run::Write(hset)),
    ("hget", Run::Read(hget)),
    ("hdel", Run::Write(hdel)),
    ("hlen", Run::Read(hlen)),
    ("hgetall", Run::Read(hgetall)),
];

/// What a field takes in memory beside its bytes, about.
const FIELD_BYTES: usize = 96;

/// Fields and their values, in the order in which they came; one that goes leaves its place to the
/// last.
///
/// Invariant: `digest` is the sum of the fields' fingerprints, `bytes` of what they take.
#[derive(Debug, Clone, Default)]
pub(super) struct Hash {
    fields: IndexMap<Bytes, Bytes, FixedState>,
    digest: Digest,
    bytes: usize,
}

fn field_print(field: &[u8], value: &[u8]) -> u64 {
    fingerprint(key_number(field), value)
}

impl Hash {
    fn get(&self, field: &[u8]) -> Option<&Bytes> {
        self.fields.get(field)
    }

    /// Sets a field; whether it is new.
    fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.digest.add(field_print(field, value));
        self.bytes += value.len();
        let value = Bytes::copy_from_slice(value);
        if let Some(there) = self.fields.get_mut(field) {
            let old = std::mem::replace(there, value);
            self.digest.remove(field_print(field, &old));
            self.bytes -= old.len();
            return false;
        }
        self.bytes += field.len() + FIELD_BYTES;
        self.fields.insert(Bytes::copy_from_slice(field), value);
        true
    }

    /// Takes a field out; whether it was there.
    fn remove(&mut self, field: &[u8]) -> bool {
        let Some((field, value)) = self.fields.swap_remove_entry(field) else { return false };
        self.digest.remove(field_print(&field, &value));
        self.bytes -= field.len() + value.len() + FIELD_BYTES;
        true
    }
}

impl Content for Hash {
    fn wrap(content: Arc<Hash>) -> Object {
        Object::Hash(content)
    }

    fn of(object: &Object) -> Option<&Arc<Hash>> {
        if let Object::Hash(hash) = object { Some(hash) } else { None }
    }

    fn of_mut(object: &mut Object) -> Option<&mut Arc<Hash>> {
        if let Object::Hash(hash) = object { Some(hash) } else { None }
    }

    fn digest(&self) -> u64 {
        self.digest.at(0)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.fields.len() as u64);
        for (field, value) in &self.fields {
            put_bytes(field, out);
            put_bytes(value, out);
        }
    }

    fn read(from: &mut &[u8]) -> Option<Hash> {
        let mut hash = Hash::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            let (field, value) = (take_bytes(from)?, take_bytes(from)?);
            if !hash.set(field, value) {
                return None;
            }
        }
        Some(hash)
    }
}

/// `HSET key field value [field value ...]`
fn hset(store: &mut Store, words: &Words<'_>) -> Answer {
    let key = words.get(0)?;
    if !words.rest(1).len().is_multiple_of(2) {
        return Ok(Outcome::wrong_number("hset"));
    }
    let added = store.change(key, |hash: &mut Hash| {
        let fields = words.rest(1).chunks_exact(2);
        let added = fields.filter(|pair| hash.set(pair[0], pair[1])).count();
        (added, true)
    })?;
    store.note("hset", key);
    Ok(Outcome::count(added))
}

/// `HGET key field`
fn hget(store: &Store, words: &Words<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let field = words.get(1)?;
    Ok(Outcome::Value(hash.and_then(|hash| hash.get(field)).cloned()))
}

/// `HDEL key field [field ...]`
fn hdel(store: &mut Store, words: &Words<'_>) -> Answer {
    let key = words.get(0)?;
    let removed = store.change_there(key, |hash: &mut Hash| {
        let removed = words.rest(1).iter().filter(|field| hash.remove(field)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        store.note("hdel", key);
        store.note_if_gone(key);
    }
    Ok(Outcome::count(removed))
}

/// `HLEN key`
fn hlen(store: &Store, words: &Words<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    Ok(Outcome::count(hash.map_or(0, |hash| hash.fields.len())))
}

/// `HGETALL key`
fn hgetall(store: &Store, words: &Words<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let text = |bytes: &Bytes| Outcome::Value(Some(bytes.clone()));
    let fields = hash.into_iter().flat_map(|hash| &hash.fields);
    Ok(Outcome::Map(fields.map(|(field, value)| (text(field), text(value))).collect()))
}
