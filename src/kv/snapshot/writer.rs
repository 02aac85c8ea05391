//! Writes snapshots: of a state at once, or of a copy-on-write view step by step.

use std::sync::Arc;

use bytes::BufMut as _;

use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::{StoredOutcomes, encode_batch};
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::snapshot::{
    BATCHES, BLOCK_BYTES, BLOCK_HEAD_BYTES, CLIENT_SESSIONS, END, ENTRIES, HEADER_BYTES, MAGIC,
    SnapshotMark, VERSION,
};
use crate::kv::state_machine::StateMachine;
use crate::kv::view::View;
use crate::types::{EntryId, RequestKey};

/// Number of entries of the keyspace whose memory is loaded into the processor's cache together,
/// before they are encoded.
const PREFETCHED: usize = 64;

/// Receives the bytes.
type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// Encodes the header and the blocks of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Number of snapshot bytes written so far.
    bytes: u64,
    /// The current block.
    block: Vec<u8>,
    kind: u8,
    count: u32,
    /// CRC-32C of the header and blocks written so far (without the blocks' checksum fields).
    checksum: u32,
    /// Revision of the state: the number of operations that were applied.
    revision: u64,
}

impl Blocks {
    /// Writes the header.
    pub(super) fn header(
        last: EntryId,
        revision: u64,
        digest: u64,
        key_count: usize,
        clock: ReplicatedClock,
        sink: Sink<'_>,
    ) -> Blocks {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u32_le(VERSION);
        header.put_u64_le(last.term.0);
        header.put_u64_le(last.index.0);
        header.put_u64_le(revision);
        header.put_u64_le(digest);
        header.put_u64_le(key_count as u64);
        header.put_u64_le(clock.millis);
        header.put_u64_le(clock.resets);
        assert_eq!(header.len(), HEADER_BYTES, "length of the header");
        sink(&header);
        let checksum = crc32c::crc32c(&header);
        Blocks { bytes: HEADER_BYTES as u64, checksum, revision, ..Blocks::default() }
    }

    fn begin(&mut self, kind: u8) {
        self.kind = kind;
        self.count = 0;
        self.block.clear();
        self.block.resize(BLOCK_HEAD_BYTES, 0);
    }

    fn item(&mut self, sink: Sink<'_>, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.block);
        self.count += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.end(sink);
            self.begin(self.kind);
        }
    }

    /// Writes entries of the keyspace to `sink`, in blocks. Loads several entries at a time into
    /// the processor's cache, so that their cache misses overlap.
    fn entries<'e>(&mut self, mut entries: impl Iterator<Item = &'e KeyEntry>, sink: Sink<'_>) {
        let mut chunk = Vec::with_capacity(PREFETCHED);
        loop {
            chunk.extend(entries.by_ref().take(PREFETCHED));
            if chunk.is_empty() {
                break;
            }
            for entry in &chunk {
                entry.fetch_all();
            }
            let revision = self.revision;
            for entry in chunk.drain(..) {
                self.item(sink, |block| entry.encode(revision, block));
            }
        }
    }

    fn end(&mut self, sink: Sink<'_>) {
        let length = self.block.len() - BLOCK_HEAD_BYTES;
        self.block[0] = self.kind;
        self.block[1..5].copy_from_slice(&self.count.to_le_bytes());
        self.block[5..13].copy_from_slice(&(length as u64).to_le_bytes());
        self.checksum = crc32c::crc32c_append(self.checksum, &self.block);
        self.block.put_u32_le(self.checksum);
        self.bytes += self.block.len() as u64;
        sink(&self.block);
    }

    /// Closes the last block of entries, and writes all other blocks: deduplication table, client
    /// sessions, end. Returns the last log entry, length and checksum of the snapshot.
    fn finish<'r>(
        &mut self,
        last: EntryId,
        batches: impl Iterator<Item = (&'r RequestKey, &'r StoredOutcomes)>,
        sessions: &[(u64, Arc<ClientSession>)],
        sink: Sink<'_>,
    ) -> SnapshotMark {
        self.end(sink);
        self.begin(BATCHES);
        for (key, outcomes) in batches {
            self.item(sink, |block| encode_batch(key, outcomes, block));
        }
        self.end(sink);
        if !sessions.is_empty() {
            self.begin(CLIENT_SESSIONS);
            for (id, session) in sessions {
                self.item(sink, |block| session.encode(*id, block));
            }
            self.end(sink);
        }
        self.begin(END);
        self.end(sink);
        SnapshotMark { last, bytes: self.bytes, checksum: self.checksum }
    }
}

impl StateMachine {
    /// Writes a snapshot of the state to `sink`, in pieces. Returns the mark that identifies the
    /// snapshot: its last log entry, its length in bytes and its checksum. `last` is the log entry
    /// that was applied last.
    pub fn write_snapshot(&self, last: EntryId, sink: &mut dyn FnMut(&[u8])) -> SnapshotMark {
        assert_eq!(last.index, self.applied_index(), "last entry of the state");
        let (clock, digest) = (self.keyspace.replicated_clock(), self.digest());
        let mut blocks =
            Blocks::header(last, self.revision(), digest, self.key_count(), clock, sink);
        blocks.begin(ENTRIES);
        blocks.entries(self.keyspace.entries(), sink);
        blocks.finish(last, self.remembered(), &self.client_sessions.share(), sink)
    }
}

/// Writes a copy-on-write view of the state as a snapshot, one of the keyspace's hash tables at a
/// time. Releases each table of the view as soon as the table is written.
#[derive(Debug)]
pub struct SnapshotWriter {
    view: View,
    table_count: u64,
    /// Encoder of the snapshot's blocks; `None` before the first call of `write`.
    blocks: Option<Blocks>,
}

impl SnapshotWriter {
    /// Returns a writer of a snapshot of this view.
    pub fn new(view: View) -> SnapshotWriter {
        SnapshotWriter { table_count: view.tables.len() as u64, view, blocks: None }
    }

    /// Returns the number of the keyspace's hash tables that were written so far, and their total
    /// number.
    pub fn progress(&self) -> (u64, u64) {
        (self.table_count - self.view.tables.len() as u64, self.table_count)
    }

    /// Returns the last log entry that the snapshot contains.
    pub fn last(&self) -> EntryId {
        self.view.last
    }

    /// Writes the next part of the snapshot to `sink`: the entries of one hash table or, after all
    /// tables, the rest. After the rest, returns the mark that identifies the snapshot (last log
    /// entry, length in bytes, checksum), and must not be called again; before, returns `None`.
    pub fn write(&mut self, sink: &mut dyn FnMut(&[u8])) -> Option<SnapshotMark> {
        let View { last, revision, digest, clock, key_count, tables, dedup, client_sessions } =
            &mut self.view;
        let blocks = self.blocks.get_or_insert_with(|| {
            let mut blocks = Blocks::header(*last, *revision, *digest, *key_count, *clock, sink);
            blocks.begin(ENTRIES);
            blocks
        });
        if let Some(table) = tables.pop() {
            blocks.entries(table.iter(), sink);
            return None;
        }
        Some(blocks.finish(*last, dedup.iter(), client_sessions, sink))
    }
}
