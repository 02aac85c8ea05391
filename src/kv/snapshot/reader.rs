//! Reads and validates snapshots. The bytes are untrusted, because they come from a disk or a peer:
//! no input causes a panic, and memory usage is proportional to the number of bytes received, not
//! to the lengths that the input states.

use bytes::{Buf as _, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::decode_batch;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::databases::{DatabaseId, digest_of_all};
use crate::kv::keyspace::entry::REVISION_MAX;
use crate::kv::keyspace::functions::Functions;
use crate::kv::keyspace::restore::RestoredEntry;
use crate::kv::keyspace::scripts::Scripts;
use crate::kv::partial_batch::RestoredPiece;
use crate::kv::snapshot::export::Export;
use crate::kv::snapshot::{
    BATCHES, BLOCK_HEAD_BYTES, CHECKSUM_BYTES, CLIENT_SESSIONS, DATABASE, END, ENTRIES, FUNCTIONS,
    HEADER_BYTES, LEVEL, MAGIC, MEMBERS, NEW_CLUSTER_GAP, PIECES, SCRIPTS, SnapshotError,
    SnapshotMark, USERS, VERSION, VERSION_OLDEST, WITNESS,
};
use crate::kv::state_machine::{StateMachine, digest_of, hash_of_members};
use crate::kv::users::table::Users;
use crate::kv::values::codec::take_number;
use crate::kv::values::digest::Digest;
use crate::membership::Configuration;
use crate::types::{EntryId, Index};

/// Decodes and verifies a snapshot, which it receives in pieces of any size.
#[derive(Debug)]
pub struct SnapshotReader {
    buffer: BytesMut,
    /// Number of bytes of the snapshot that have been decoded and removed from the buffer.
    consumed: u64,
    /// CRC-32C of the header and the blocks decoded so far, without the checksum at the end of each
    /// block. A block is a part of the snapshot with its own checksum.
    checksum: u32,
    header: Option<Header>,
    /// The state restored from the snapshot so far; `None` if the reader only verifies the
    /// snapshot.
    state: Option<StateMachine>,
    /// Digest (sum of hashes) of the client sessions and the pieces decoded so far, if the reader
    /// only verifies the snapshot. Otherwise 0, because the restored state computes the digest.
    digest: Digest,
    /// Digest of the keys of each database decoded so far, if the reader only verifies the
    /// snapshot.
    database_digests: [Digest; DatabaseId::COUNT],
    /// The database of the entries that follow.
    database: DatabaseId,
    /// The file to which the keys are converted; `None` if they are not.
    export: Option<Export>,
    /// The members of the cluster, decoded from the snapshot; `None` before, or if there are none.
    configuration: Option<Configuration>,
    /// The cluster's feature level, decoded from the snapshot; `None` before.
    feature_level: Option<FeatureLevel>,
    /// The users decoded from the snapshot so far.
    users: Users,
    /// The scripts decoded from the snapshot so far.
    scripts: Scripts,
    /// The libraries of functions decoded from the snapshot so far.
    functions: Functions,
    /// Number of keyspace entries decoded from the snapshot so far.
    entries: u64,
    /// Kind of the content of the latest block (part of the snapshot): keyspace entries, batches,
    /// client sessions or end. 0 before the first block.
    kind: u8,
    ended: bool,
    /// Whether a block says that the snapshot is that of a witness.
    is_witness: bool,
    /// Number of items decoded so far, without the members.
    items: u64,
    /// Number added to the log index and to all revisions of the restored state: 0, or
    /// [`NEW_CLUSTER_GAP`] if a new cluster begins with the state.
    gap: u64,
    /// Deliberate bug for mutation testing: if true, the checksums and the digest of the snapshot
    /// are not verified.
    #[cfg(feature = "mutants")]
    trusting: bool,
}

/// Returns whether a block of this kind may follow one of the kind `before`; 0 for no block, and
/// [`ENTRIES`] for [`DATABASE`].
fn follows(kind: u8, before: u8) -> bool {
    let kind = if kind == DATABASE { ENTRIES } else { kind };
    kind == END || (before..=FUNCTIONS).contains(&kind)
}

impl Default for SnapshotReader {
    fn default() -> SnapshotReader {
        SnapshotReader { state: Some(StateMachine::default()), ..SnapshotReader::checking() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    last: EntryId,
    revision: u64,
    digest: u64,
    entries: u64,
    clock: ReplicatedClock,
    /// Whether the snapshot has the oldest format, without a feature level.
    is_oldest: bool,
}

impl SnapshotReader {
    /// Returns a reader that only verifies a snapshot. It restores no state, so it needs little
    /// memory.
    pub fn checking() -> SnapshotReader {
        SnapshotReader {
            buffer: BytesMut::new(),
            consumed: 0,
            checksum: 0,
            header: None,
            state: None,
            digest: Digest::default(),
            database_digests: [Digest::default(); DatabaseId::COUNT],
            database: DatabaseId::FIRST,
            export: None,
            configuration: None,
            feature_level: None,
            users: Users::default(),
            scripts: Scripts::default(),
            functions: Functions::default(),
            entries: 0,
            kind: 0,
            ended: false,
            is_witness: false,
            items: 0,
            gap: 0,
            #[cfg(feature = "mutants")]
            trusting: false,
        }
    }

    /// Returns a reader that verifies a snapshot and converts its keys and its libraries of
    /// functions to a file in Redis's RDB format. After each call of [`SnapshotReader::feed`],
    /// [`SnapshotReader::take_exported`] returns a part of the file.
    pub fn exporting() -> SnapshotReader {
        SnapshotReader { export: Some(Export::default()), ..SnapshotReader::checking() }
    }

    /// Returns the next part of the file, from a reader that [`SnapshotReader::exporting`] has
    /// returned.
    pub fn take_exported(&mut self) -> Vec<u8> {
        self.export.as_mut().map(Export::take).unwrap_or_default()
    }

    /// Ends a file, from a reader that [`SnapshotReader::exporting`] has returned. Returns the rest
    /// of the file, the number of its keys, and the mark of the snapshot.
    ///
    /// # Errors
    /// If the snapshot is incomplete or does not match its header.
    pub fn finish_export(self) -> Result<(Vec<u8>, u64, SnapshotMark), SnapshotError> {
        let mark = self.mark()?;
        let export = self.export.unwrap_or_default();
        let keys = export.keys;
        Ok((export.finish(&self.functions), keys, mark))
    }

    /// Returns a reader that restores the state with which a new cluster begins. Its log index and
    /// all revisions are higher by [`NEW_CLUSTER_GAP`] than in the snapshot. It has only the keys,
    /// the users and the replicated clock: the deduplication table, the client sessions, the pieces
    /// of an incomplete batch and the members belong to the cluster that took the snapshot. It
    /// keeps the feature level, because the values may need it.
    pub fn for_new_cluster() -> SnapshotReader {
        SnapshotReader { gap: NEW_CLUSTER_GAP, ..SnapshotReader::default() }
    }

    /// Deliberate bug for mutation testing: stops verifying the checksums and the digest of the
    /// snapshot.
    #[cfg(feature = "mutants")]
    pub fn trust(&mut self) {
        self.trusting = true;
    }

    #[cfg(feature = "mutants")]
    fn is_trusting(&self) -> bool {
        self.trusting
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same signature with and without the feature")]
    const fn is_trusting(&self) -> bool {
        false
    }

    /// Decodes and verifies the next piece of the snapshot, which may have any size.
    ///
    /// # Errors
    /// If the piece cannot be the next part of a valid snapshot. The reader must not be used again
    /// after an error.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.buffer.extend_from_slice(piece);
        if self.header.is_none() && !self.read_header()? {
            return Ok(());
        }
        while self.read_block()? {}
        Ok(())
    }

    /// Returns the restored state, and the mark that identifies the snapshot (id of its last log
    /// entry, length and checksum). The reader must have received the whole snapshot.
    ///
    /// # Errors
    /// If the snapshot is incomplete or does not match its header.
    ///
    /// # Panics
    /// If the reader was created by [`SnapshotReader::checking`] and so has restored no state.
    pub fn finish(mut self) -> Result<(StateMachine, SnapshotMark), SnapshotError> {
        let mark = self.mark()?;
        let mut state = self.state.take().expect("not called on a reader that only checks");
        let header = self.header.expect("a mark was made from it");
        state.configuration = self.configuration.take();
        state.is_witness = self.is_witness;
        state.users = std::mem::take(&mut self.users);
        state.keyspace.scripts = std::mem::take(&mut self.scripts);
        state.keyspace.functions = std::mem::take(&mut self.functions);
        let index = Index(mark.last.index.0 + self.gap);
        state.raise_feature_level(self.feature_level.unwrap_or_default());
        state.move_to(index, header.revision + self.gap, header.clock);
        if self.gap > 0 {
            state.leave_cluster();
        }
        Ok((state, mark))
    }

    /// Returns the mark that identifies the snapshot: the id of its last log entry, its length and
    /// its checksum. The reader must have received the whole snapshot.
    ///
    /// # Errors
    /// If the snapshot is incomplete or does not match its header.
    pub fn mark(&self) -> Result<SnapshotMark, SnapshotError> {
        let bytes = self.consumed + self.buffer.len() as u64;
        let Some(header) = self.header.filter(|_| self.ended) else {
            return Err(SnapshotError::Short { bytes });
        };
        if !self.buffer.is_empty() {
            return Err(self.damaged("bytes after the end"));
        }
        if self.is_witness && self.items > 0 {
            return Err(SnapshotError::Witness);
        }
        let content = if let Some(state) = &self.state {
            state.content_digest()
        } else {
            let digests = DatabaseId::all().zip(self.database_digests);
            digest_of_all(digests).union(self.digest)
        };
        let members = hash_of_members(self.configuration.as_ref());
        let level = self.feature_level.unwrap_or_default();
        let (last, clock) = (header.last.index, header.clock);
        let others = [members, self.users.hash(), self.scripts.hash(), self.functions.hash()];
        let digest = digest_of(content, last, clock, level, others);
        let differs = self.entries != header.entries || digest != header.digest;
        if differs && !self.is_trusting() {
            return Err(SnapshotError::Contents { keys: self.entries });
        }
        Ok(SnapshotMark { last: header.last, bytes, checksum: self.checksum })
    }

    /// Returns whether the snapshot is that of a witness, which has no data. The reader must have
    /// received the whole snapshot.
    pub fn is_witness(&self) -> bool {
        self.is_witness
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { offset: self.consumed, what }
    }

    /// Decodes the header of the snapshot from the buffer. Returns false, and changes nothing, if
    /// the buffer does not contain the whole header yet.
    fn read_header(&mut self) -> Result<bool, SnapshotError> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(SnapshotError::Magic);
        }
        if self.buffer.len() < HEADER_BYTES {
            return Ok(false);
        }
        let mut bytes = self.buffer.split_to(HEADER_BYTES);
        self.checksum = crc32c::crc32c(&bytes);
        self.consumed += HEADER_BYTES as u64;
        bytes.advance(MAGIC.len());
        let found = bytes.get_u32_le();
        if !(VERSION_OLDEST..=VERSION).contains(&found) {
            return Err(SnapshotError::Version { found });
        }
        let last = EntryId::new(bytes.get_u64_le(), bytes.get_u64_le());
        let revision = bytes.get_u64_le();
        let is_above = |number: u64, max: u64| number.saturating_add(self.gap) > max;
        if is_above(last.index.0, Index::MAX.0) || is_above(revision, REVISION_MAX) {
            return Err(self.damaged("log index or revision out of range"));
        }
        let (digest, entries) = (bytes.get_u64_le(), bytes.get_u64_le());
        let clock = ReplicatedClock { millis: bytes.get_u64_le(), resets: bytes.get_u64_le() };
        let is_oldest = found == VERSION_OLDEST;
        if let Some(export) = &mut self.export {
            export.begin(entries, clock.millis);
        }
        self.header = Some(Header { last, revision, digest, entries, clock, is_oldest });
        Ok(true)
    }

    /// Decodes and verifies the next block (part of the snapshot with its own checksum) from the
    /// buffer. Returns false, and changes nothing, if the buffer does not contain the whole block
    /// yet.
    fn read_block(&mut self) -> Result<bool, SnapshotError> {
        let Some(head) = self.buffer.first_chunk::<BLOCK_HEAD_BYTES>() else { return Ok(false) };
        let mut fields = &head[..];
        let (kind, count) = (fields.get_u8(), fields.get_u32_le());
        let length = fields.get_u64_le();
        if self.ended || !follows(kind, self.kind) {
            return Err(self.damaged("unexpected kind of block"));
        }
        // No memory is allocated for the stated length: if it is too large, the input ends too
        // early.
        let around = (BLOCK_HEAD_BYTES + CHECKSUM_BYTES) as u64;
        let whole = length.checked_add(around).and_then(|whole| usize::try_from(whole).ok());
        let Some(whole) = whole.filter(|whole| *whole <= self.buffer.len()) else {
            return Ok(false);
        };
        let (body, checksum) = self.buffer[..whole].split_at(whole - CHECKSUM_BYTES);
        self.checksum = crc32c::crc32c_append(self.checksum, body);
        if self.is_trusting() {
            self.checksum = u32::from_le_bytes(checksum.try_into().expect("four bytes"));
        } else if checksum != self.checksum.to_le_bytes() {
            return Err(self.damaged("wrong checksum"));
        }
        let block = self.buffer.split_to(whole);
        let mut items = &block[BLOCK_HEAD_BYTES..whole - CHECKSUM_BYTES];
        if kind == LEVEL
            && let Some(level) = items.first_chunk().copied().map(u16::from_le_bytes)
            && let Some(level) = FeatureLevel::from_number(level)
            && !level.is_supported()
        {
            return Err(SnapshotError::FeatureLevel(level));
        }
        let all_valid = (0..count).all(|_| self.read_item(kind, &mut items).is_some());
        if !all_valid || !items.is_empty() {
            return Err(self.damaged("invalid item"));
        }
        let has_level = self.header.is_some_and(|header| !header.is_oldest);
        if kind == DATABASE && !has_level {
            return Err(self.damaged("a database in an older format"));
        }
        if kind == END && has_level != self.feature_level.is_some() {
            return Err(self.damaged("no feature level, or one in an older format"));
        }
        self.kind = if kind == DATABASE { ENTRIES } else { kind };
        self.ended = kind == END;
        self.is_witness |= kind == WITNESS;
        self.consumed += whole as u64;
        Ok(true)
    }

    /// Decodes the first element of the block content `items`, and removes it from there. `kind`
    /// says what a block's elements are: keyspace entries, batches, client sessions or pieces.
    /// `None` if the element is malformed or a duplicate.
    fn read_item(&mut self, kind: u8, items: &mut &[u8]) -> Option<()> {
        let revision = self.header.map_or(0, |header| header.revision + self.gap);
        self.items += u64::from(kind < MEMBERS);
        let is_new = match (kind, &mut self.state) {
            (ENTRIES, state) => {
                let entry = RestoredEntry::decode(items, revision)?;
                self.entries += 1;
                if let Some(state) = state {
                    state.keyspace.within_mut(self.database, |keyspace| keyspace.restore(entry))
                } else {
                    let digest = &mut self.database_digests[usize::from(self.database.number())];
                    digest.add(entry.fingerprint());
                    if let Some(export) = &mut self.export {
                        export.add(self.database, &entry);
                    }
                    true
                }
            }
            (DATABASE, state) => {
                let database = DatabaseId::new(items.try_get_u8().ok()?)?;
                let swapped_at = match take_number(items)? {
                    0 => 0,
                    age => revision.checked_sub(age - 1)?,
                };
                let is_first = database == DatabaseId::FIRST && self.entries == 0;
                if let Some(state) = state {
                    let restore = |keyspace: &mut Keyspace| keyspace.restore_swapped_at(swapped_at);
                    state.keyspace.within_mut(database, restore);
                }
                let before = std::mem::replace(&mut self.database, database);
                database > before || before == DatabaseId::FIRST && is_first
            }
            (BATCHES, state) => {
                let (key, outcomes) = decode_batch(items)?;
                state.as_mut().is_none_or(|state| state.restore_batch(key, outcomes))
            }
            (CLIENT_SESSIONS, state) => {
                let (id, session) = ClientSession::decode(items)?;
                if let Some(state) = state {
                    state.client_sessions.insert(id, session)
                } else {
                    self.digest.add(session.hash(id));
                    true
                }
            }
            (PIECES, state) => {
                let piece = RestoredPiece::decode(items)?;
                if let Some(state) = state {
                    state.partial.restore(&piece)
                } else {
                    self.digest.add(piece.hash());
                    true
                }
            }
            (MEMBERS, _) => {
                let configuration = Configuration::decode(std::mem::take(items)).ok()?;
                self.configuration.replace(configuration).is_none()
            }
            (LEVEL, _) => {
                let level = FeatureLevel::from_number(items.try_get_u16_le().ok()?)?;
                let is_higher = level > FeatureLevel::OLDEST;
                is_higher && self.feature_level.replace(level).is_none()
            }
            (USERS, _) => self.users.restore(items).is_some(),
            (SCRIPTS, _) => self.scripts.restore(items).is_some(),
            (FUNCTIONS, _) => self.functions.restore(items, self.gap, revision).is_some(),
            _ => false,
        };
        is_new.then_some(())
    }
}
