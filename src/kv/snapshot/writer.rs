//! Writes snapshots, either of a state in one call, or of a copy-on-write view in several steps.

use std::sync::Arc;

use bytes::BufMut as _;

use crate::feature_level::FeatureLevel;
use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::{StoredOutcomes, encode_batch};
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::databases::{DatabaseId, SharedDatabase};
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::functions::Functions;
use crate::kv::keyspace::scripts::Scripts;
use crate::kv::keyspace::shards::Table;
use crate::kv::partial_batch::PartialBatch;
use crate::kv::snapshot::{
    BATCHES, BLOCK_BYTES, BLOCK_HEAD_BYTES, CHECKSUM_BYTES, CLIENT_SESSIONS, DATABASE, END,
    ENTRIES, FUNCTIONS, HEADER_BYTES, LEVEL, MAGIC, MEMBERS, PIECES, SCRIPTS, SnapshotMark, USERS,
    VERSION, VERSION_OLDEST, WITNESS,
};
use crate::kv::state_machine::StateMachine;
use crate::kv::users::table::Users;
use crate::kv::values::codec::put_number;
use crate::kv::view::View;
use crate::membership::Configuration;
use crate::types::{EntryId, RequestKey};

/// Number of keyspace entries that are prefetched together, before they are encoded.
const PREFETCHED: usize = 64;

/// A function that receives the encoded snapshot, one piece after another, for example to write it
/// to a file.
type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// What a snapshot has besides the keys and the outcomes of requests: the members, the users, the
/// scripts and the functions.
type Others<'o> = (Option<&'o Configuration>, &'o Users, &'o Scripts, &'o Functions);

/// The encoder of a snapshot, which consists of a header and blocks (parts that each end with a
/// checksum).
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Number of bytes of the snapshot written so far.
    bytes: u64,
    /// The encoded block (part of the snapshot with its own checksum) that is being built.
    block: Vec<u8>,
    kind: u8,
    count: u32,
    /// CRC-32C of the header and the blocks written so far, without the checksum at the end of each
    /// block. A block is a part of the snapshot with its own checksum.
    checksum: u32,
    /// Number of operations that were applied to the state of the snapshot.
    revision: u64,
    /// The cluster's feature level, on which the format depends.
    feature_level: FeatureLevel,
    /// Whether this is the snapshot of a witness, which has no data.
    is_witness: bool,
}

impl Blocks {
    /// Writes the header of a snapshot to `sink`, and returns an encoder for the blocks (parts with
    /// checksums) that follow the header.
    pub(super) fn header(
        last: EntryId,
        revision: u64,
        digest: u64,
        key_count: usize,
        clock: ReplicatedClock,
        feature_level: FeatureLevel,
        sink: Sink<'_>,
    ) -> Blocks {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        let is_oldest = feature_level == FeatureLevel::OLDEST;
        header.put_u32_le(if is_oldest { VERSION_OLDEST } else { VERSION });
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
        let bytes = HEADER_BYTES as u64;
        Blocks { bytes, checksum, revision, feature_level, ..Blocks::default() }
    }

    /// Begins the entries of a database, unless no block is needed for that. `swapped_at` is the
    /// revision at which its keys were last exchanged for those of another one.
    fn database(&mut self, id: DatabaseId, swapped_at: u64, sink: Sink<'_>) {
        if id == DatabaseId::FIRST && swapped_at == 0 {
            return;
        }
        if self.count > 0 {
            self.end(sink);
        }
        self.begin(DATABASE);
        self.block.put_u8(id.number());
        let age = |revision| self.revision.checked_sub(revision).expect("not after the state");
        let age = (swapped_at > 0).then(|| age(swapped_at) + 1);
        put_number(age.unwrap_or(0), &mut self.block);
        self.count += 1;
        self.end(sink);
        self.begin(ENTRIES);
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

    /// Writes keyspace entries to `sink`, in blocks (parts of the snapshot with checksums).
    /// Prefetches several entries at a time, so that their cache misses overlap.
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
                if entry.collection().is_none() && entry.string().len() > BLOCK_BYTES {
                    self.long_string(entry, sink);
                } else {
                    self.item(sink, |block| entry.encode(revision, block));
                }
            }
        }
    }

    /// Writes an entry with a long string to `sink`, as a block of its own, without copying the
    /// string.
    fn long_string(&mut self, entry: &KeyEntry, sink: Sink<'_>) {
        if self.count > 0 {
            self.end(sink);
            self.begin(self.kind);
        }
        entry.encode_head(self.revision, &mut self.block);
        self.count += 1;
        let string = entry.string();
        self.put_head(string.len());
        let block = std::mem::take(&mut self.block);
        self.write_part(&block, sink);
        self.block = block;
        for slice in string.slices(0..string.len()) {
            self.write_part(slice, sink);
        }
        self.write_checksum(sink);
        self.begin(self.kind);
    }

    /// Fills in the head of the block, after whose bytes so far `more` bytes follow.
    fn put_head(&mut self, more: usize) {
        let length = self.block.len() - BLOCK_HEAD_BYTES + more;
        self.block[0] = self.kind;
        self.block[1..5].copy_from_slice(&self.count.to_le_bytes());
        self.block[5..13].copy_from_slice(&(length as u64).to_le_bytes());
    }

    fn write_part(&mut self, part: &[u8], sink: Sink<'_>) {
        self.checksum = crc32c::crc32c_append(self.checksum, part);
        self.bytes += part.len() as u64;
        sink(part);
    }

    fn write_checksum(&mut self, sink: Sink<'_>) {
        self.bytes += CHECKSUM_BYTES as u64;
        sink(&self.checksum.to_le_bytes());
    }

    fn end(&mut self, sink: Sink<'_>) {
        self.put_head(0);
        self.checksum = crc32c::crc32c_append(self.checksum, &self.block);
        self.block.put_u32_le(self.checksum);
        self.bytes += self.block.len() as u64;
        sink(&self.block);
    }

    /// Completes the snapshot after all keyspace entries: writes the deduplication table, the
    /// client sessions, the pieces of a batch, the members, the feature level, the users, the
    /// scripts, the functions and a block that marks the end. Returns the mark that identifies the
    /// snapshot (id of its last log entry, length and checksum).
    fn finish<'r>(
        &mut self,
        last: EntryId,
        batches: impl Iterator<Item = (&'r RequestKey, &'r StoredOutcomes)>,
        sessions: &[(u64, Arc<ClientSession>)],
        partial: &PartialBatch,
        (configuration, users, scripts, functions): Others<'_>,
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
        if partial.bytes() > 0 {
            self.begin(PIECES);
            for (following, bytes) in partial.pieces() {
                self.item(sink, |block| partial.encode_piece(following, bytes, block));
            }
            self.end(sink);
        }
        if let Some(configuration) = configuration {
            self.begin(MEMBERS);
            self.item(sink, |block| block.put_slice(&configuration.encode()));
            self.end(sink);
        }
        if self.feature_level > FeatureLevel::OLDEST {
            let number = self.feature_level.number();
            self.begin(LEVEL);
            self.item(sink, |block| block.put_u16_le(number));
            self.end(sink);
        }
        if self.is_witness {
            self.begin(WITNESS);
            self.end(sink);
        }
        if users.revision() > 0 {
            self.begin(USERS);
            self.item(sink, |block| users.encode_revision(block));
            for (name, user) in users.iter() {
                self.item(sink, |block| Users::encode_user(name, user, block));
            }
            self.end(sink);
        }
        if scripts.are_in_snapshot() {
            self.begin(SCRIPTS);
            scripts.encode(|encode| self.item(sink, |block| encode(block)));
            self.end(sink);
        }
        if functions.are_in_snapshot() {
            self.begin(FUNCTIONS);
            functions.encode(|encode| self.item(sink, |block| encode(block)));
            self.end(sink);
        }
        self.begin(END);
        self.end(sink);
        SnapshotMark { last, bytes: self.bytes, checksum: self.checksum }
    }
}

impl StateMachine {
    /// Writes a snapshot of the current state to `sink`, in pieces. `last` must be the id of the
    /// last applied log entry. Returns the mark that identifies the snapshot (id of its last log
    /// entry, length and checksum).
    pub fn write_snapshot(&self, last: EntryId, sink: &mut dyn FnMut(&[u8])) -> SnapshotMark {
        assert_eq!(last.index, self.applied_index(), "last entry of the state");
        let (clock, digest) = (self.keyspace.replicated_clock(), self.digest());
        let level = self.feature_level();
        let mut blocks =
            Blocks::header(last, self.revision(), digest, self.key_count(), clock, level, sink);
        blocks.is_witness = self.is_witness;
        blocks.begin(ENTRIES);
        for id in DatabaseId::all() {
            self.keyspace.within(id, |keyspace| {
                if keyspace.len() > 0 {
                    blocks.database(id, keyspace.swapped_at(), sink);
                    blocks.entries(keyspace.entries(), sink);
                }
            });
        }
        let sessions = self.client_sessions.share();
        let (scripts, functions) = (&self.keyspace.scripts, &self.keyspace.functions);
        let others = (self.configuration.as_ref(), &self.users, scripts, functions);
        blocks.finish(last, self.remembered(), &sessions, &self.partial, others, sink)
    }
}

/// Takes the next hash table of a view. Returns it with the position of its database; `None` after
/// the last one.
fn next_table(databases: &mut [SharedDatabase]) -> Option<(usize, Arc<Table>)> {
    let mut databases = databases.iter_mut().enumerate();
    databases.find_map(|(position, database)| Some((position, database.tables.pop()?)))
}

/// Writes a snapshot of a copy-on-write view of the state in several steps, one for each hash table
/// of the keyspace. After a table is written, the memory that the view shares with it is released.
#[derive(Debug)]
pub struct SnapshotWriter {
    view: View,
    /// Number of databases whose entries have begun, from the first of the view.
    begun: usize,
    table_count: u64,
    tables_written: u64,
    /// Encoder of the snapshot; `None` until [`SnapshotWriter::write`] is called for the first
    /// time.
    blocks: Option<Blocks>,
}

impl SnapshotWriter {
    /// Returns a writer that will write a snapshot of `view`.
    pub fn new(view: View) -> SnapshotWriter {
        let tables = view.databases.iter().map(|database| database.tables.len() as u64);
        let table_count = tables.sum();
        SnapshotWriter { view, begun: 0, table_count, tables_written: 0, blocks: None }
    }

    /// Returns how many of the keyspace's hash tables have been written, and the total number of
    /// tables.
    pub fn progress(&self) -> (u64, u64) {
        (self.tables_written, self.table_count)
    }

    /// Returns the id of the last log entry whose effects the snapshot contains.
    pub fn last(&self) -> EntryId {
        self.view.last
    }

    /// Writes the next part of the snapshot to `sink`: one hash table of the keyspace or, after the
    /// last table, the rest of the snapshot. Returns `None` while more parts follow. At the end,
    /// returns the mark that identifies the snapshot (id of its last log entry, length and
    /// checksum), and must not be called again.
    pub fn write(&mut self, sink: &mut dyn FnMut(&[u8])) -> Option<SnapshotMark> {
        let View {
            last, revision, digest, clock, key_count, databases, feature_level: level, ..
        } = &mut self.view;
        let blocks = self.blocks.get_or_insert_with(|| {
            let mut blocks =
                Blocks::header(*last, *revision, *digest, *key_count, *clock, *level, sink);
            blocks.begin(ENTRIES);
            blocks
        });
        if let Some((position, table)) = next_table(databases) {
            self.tables_written += 1;
            if !table.is_empty() && self.begun <= position {
                let SharedDatabase { id, swapped_at, .. } = databases[position];
                blocks.database(id, swapped_at, sink);
                self.begun = position + 1;
            }
            blocks.entries(table.iter(), sink);
            return None;
        }
        let View { last, dedup, client_sessions, partial, configuration, users, .. } = &self.view;
        let others = (configuration.as_ref(), users, &self.view.scripts, &self.view.functions);
        Some(blocks.finish(*last, dedup.iter(), client_sessions, partial, others, sink))
    }
}
