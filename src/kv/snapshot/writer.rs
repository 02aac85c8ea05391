//! Writes snapshots, of a state or step by step of a copy-on-write view.

use std::sync::Arc;

use bytes::BufMut as _;

use crate::kv::client_sessions::ClientSession;
use crate::kv::commands::outcome::Outcome;
use crate::kv::dedup::encode_request;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::snapshot::{
    BLOCK_BYTES, BLOCK_HEAD_BYTES, CLIENT_SESSIONS, END, ENTRIES, HEADER_BYTES, MAGIC, REQUESTS,
    SnapshotMark, VERSION,
};
use crate::kv::state_machine::StateMachine;
use crate::kv::view::View;
use crate::types::{EntryId, Index, RequestKey};

/// Number of entries that are prefetched at once.
const PREFETCHED: usize = 16;

/// Receives the bytes.
type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// Writes the blocks of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Bytes written so far.
    bytes: u64,
    /// The current block.
    block: Vec<u8>,
    kind: u8,
    count: u32,
    /// Checksum of everything written so far.
    checksum: u32,
    /// Index of the last log entry in the state.
    last: Index,
}

impl Blocks {
    /// Writes the header.
    pub(super) fn header(
        last: EntryId,
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
        header.put_u64_le(digest);
        header.put_u64_le(key_count as u64);
        header.put_u64_le(clock.millis);
        header.put_u64_le(clock.resets);
        assert_eq!(header.len(), HEADER_BYTES, "length of the header");
        sink(&header);
        let checksum = crc32c::crc32c(&header);
        Blocks { bytes: HEADER_BYTES as u64, checksum, last: last.index, ..Blocks::default() }
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

    /// Writes entries. Prefetches several of them at a time, so that their cache misses overlap;
    /// they dominate the cost.
    fn entries<'e>(&mut self, mut entries: impl Iterator<Item = &'e KeyEntry>, sink: Sink<'_>) {
        let mut chunk = Vec::with_capacity(PREFETCHED);
        loop {
            chunk.extend(entries.by_ref().take(PREFETCHED));
            if chunk.is_empty() {
                break;
            }
            for entry in &chunk {
                entry.fetch();
            }
            let last = self.last;
            for entry in chunk.drain(..) {
                self.item(sink, |block| entry.encode(last, block));
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

    /// Ends the entries, and writes all other blocks.
    fn finish<'r>(
        &mut self,
        last: EntryId,
        requests: impl Iterator<Item = (&'r RequestKey, &'r Outcome)>,
        sessions: &[(u64, Arc<ClientSession>)],
        sink: Sink<'_>,
    ) -> SnapshotMark {
        self.end(sink);
        self.begin(REQUESTS);
        for (key, outcome) in requests {
            self.item(sink, |block| encode_request(key, outcome, block));
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
    /// Writes the state, whose last log entry is `last`, in pieces to `sink`.
    pub fn write_snapshot(&self, last: EntryId, sink: &mut dyn FnMut(&[u8])) -> SnapshotMark {
        assert_eq!(last.index, self.applied_index(), "last entry of the state");
        let clock = self.keyspace.replicated_clock();
        let mut blocks = Blocks::header(last, self.digest(), self.key_count(), clock, sink);
        blocks.begin(ENTRIES);
        blocks.entries(self.keyspace.entries(), sink);
        blocks.finish(last, self.remembered(), &self.client_sessions.share(), sink)
    }
}

/// Writes a view as a snapshot in steps, and releases each part of the view that is written.
#[derive(Debug)]
pub struct SnapshotWriter {
    view: View,
    table_count: u64,
    /// `None` before the first step.
    blocks: Option<Blocks>,
}

impl SnapshotWriter {
    /// A writer of this view.
    pub fn new(view: View) -> SnapshotWriter {
        SnapshotWriter { table_count: view.tables.len() as u64, view, blocks: None }
    }

    /// Tables written so far, and number of tables.
    pub fn progress(&self) -> (u64, u64) {
        (self.table_count - self.view.tables.len() as u64, self.table_count)
    }

    /// The last log entry in the snapshot.
    pub fn last(&self) -> EntryId {
        self.view.last
    }

    /// Writes the next part. Returns the snapshot's mark after the last part; then this must not be
    /// called again.
    pub fn write(&mut self, sink: &mut dyn FnMut(&[u8])) -> Option<SnapshotMark> {
        let View { last, digest, clock, key_count, tables, dedup, client_sessions } =
            &mut self.view;
        let blocks = self.blocks.get_or_insert_with(|| {
            let mut blocks = Blocks::header(*last, *digest, *key_count, *clock, sink);
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
