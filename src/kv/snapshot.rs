//! A snapshot: the whole state as bytes, for the disk and for followers that are far behind.
//!
//! ```text
//!  +-------+---------+------------+--------+-------+-------+--------+  header: 16, 4, 16, 8, 8,
//!  | magic | version | last entry | digest | pairs | clock | resets |  8, 8 bytes
//!  +-------+---------+------------+--------+-------+-------+--------+
//!  +------+-------+--------+-----------+--------+       blocks: 1, 4, 8, length and 4 bytes;
//!  | kind | count | length |   items   | crc32c |       pairs, requests, sessions if any, the end
//!  +------+-------+--------+-----------+--------+
//! ```
//!
//! Little endian; lengths and what is often small take as few bytes as they need. A pair:
//!
//! ```text
//!  +------+-----+------+------------+-----+--------------+-------+  head: 4 times the entries
//!  | head | end | kind | key length | key | value length | value |  since its revision, and 2
//!  +------+-----+------+------------+-----+--------------+-------+  with an end, 1 if no string
//! ```
//!
//! `end` and `kind` are there only where `head` says so; other kinds write what they hold in the
//! place of a value. So a string costs 7 bytes beside its key and value: a folder holds two
//! snapshots for a while.
//!
//! The checksum of a block goes on from that of the block before, the first one from the header: so
//! blocks can't be left out, repeated or changed round. Two replicas with equal states may write
//! their pairs in different orders; it is the digest that is equal.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::kv::client_sessions::ClientSession;
use crate::kv::commands::outcome::{Double, Outcome, Refusal};
use crate::kv::keyspace::entry::{Held, KeyEntry, REVISION_MAX};
use crate::kv::keyspace::expiration::Millis;
use crate::kv::state_machine::{Restored, StateMachine, digest_of};
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::digest::Digest;
use crate::kv::values::object::{Object, ValueType};
use crate::kv::view::View;
use crate::types::{ClientId, EntryId, Index, RequestId, RequestKey};

const MAGIC: &[u8; 16] = b"bowline snapshot";
const VERSION: u32 = 5;
const HEADER_BYTES: usize = 16 + 4 + 16 + 8 + 8 + 8 + 8;
/// Bytes of a block before its items, and behind them.
const BLOCK_HEAD_BYTES: usize = 1 + 4 + 8;
const CHECKSUM_BYTES: usize = 4;
/// A block is closed when it has grown to this. Longer ones hold one item that is larger: a key
/// with all that it holds, which is as large as memory lets it be.
const BLOCK_BYTES: usize = 64 << 10;

/// What stands below a pair's age.
const FLAG_BITS: u32 = 2;
const HAS_END: u64 = 2;
const IS_OBJECT: u64 = 1;

const PAIRS: u8 = 1;
const REQUESTS: u8 = 2;
const SESSIONS: u8 = 3;
/// Leaves room for kinds to come.
const END: u8 = 9;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It begins as no snapshot does.
    #[error("a snapshot does not begin as one")]
    Magic,
    /// Another version wrote it.
    #[error(
        "a snapshot has version {found}, here it is {VERSION}: open it with the version that \
         wrote it"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// A block is not as it was written.
    #[error("a snapshot is damaged in the block that begins at byte {offset}: {what}")]
    Damaged {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It ends too early.
    #[error("a snapshot ends after {bytes} bytes, before its end")]
    Short {
        /// Its bytes.
        bytes: u64,
    },
    /// Its contents do not add up to what its header says.
    #[error("a snapshot of {pairs} pairs gives another state than its header says")]
    Contents {
        /// Pairs found.
        pairs: u64,
    },
}

/// What a snapshot is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last entry that is in it.
    pub last: EntryId,
    /// Its length.
    pub bytes: u64,
    /// A checksum over all of it.
    pub checksum: u32,
}

/// So many pairs' memory is fetched at once.
const FETCHED: usize = 16;

/// Where the bytes go.
type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// Writes blocks.
#[derive(Debug, Default)]
struct Blocks {
    bytes: u64,
    block: Vec<u8>,
    kind: u8,
    count: u32,
    chain: u32,
    /// The last entry that is in the state.
    last: Index,
}

impl Blocks {
    /// Begins with the header.
    fn header(
        last: EntryId,
        digest: u64,
        key_count: usize,
        clock: (Millis, u64),
        sink: Sink<'_>,
    ) -> Blocks {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u32_le(VERSION);
        header.put_u64_le(last.term.0);
        header.put_u64_le(last.index.0);
        header.put_u64_le(digest);
        header.put_u64_le(key_count as u64);
        header.put_u64_le(clock.0);
        header.put_u64_le(clock.1);
        sink(&header);
        let chain = crc32c::crc32c(&header);
        let bytes = HEADER_BYTES as u64;
        Blocks { bytes, chain, last: last.index, ..Blocks::default() }
    }

    fn begin(&mut self, kind: u8) {
        self.kind = kind;
        self.count = 0;
        self.block.clear();
        self.block.resize(BLOCK_HEAD_BYTES, 0);
    }

    fn item(&mut self, sink: Sink<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.block);
        self.count += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.end(sink);
            self.begin(self.kind);
        }
    }

    /// Writes some. Their memory is fetched some at a time before it is read: the waits go on side
    /// by side then, and are most of the work.
    fn pairs<'p>(&mut self, mut pairs: impl Iterator<Item = &'p KeyEntry>, sink: Sink<'_>) {
        let mut some = Vec::with_capacity(FETCHED);
        loop {
            some.extend(pairs.by_ref().take(FETCHED));
            if some.is_empty() {
                break;
            }
            for pair in &some {
                pair.fetch();
            }
            for pair in some.drain(..) {
                self.pair(pair, sink);
            }
        }
    }

    fn pair(&mut self, pair: &KeyEntry, sink: Sink<'_>) {
        let age = self.last.0.checked_sub(pair.revision()).expect("the state has come that far");
        self.item(sink, |block| {
            let (end, object) = (pair.expires_at(), pair.object());
            let flags =
                HAS_END * u64::from(end.is_some()) + IS_OBJECT * u64::from(object.is_some());
            put_number(age << FLAG_BITS | flags, block);
            if let Some(end) = end {
                put_number(end, block);
            }
            if object.is_some() {
                block.put_u8(pair.value_type() as u8);
            }
            put_bytes(pair.key(), block);
            match object {
                None => put_bytes(pair.value(), block),
                Some(object) => object.write(block),
            }
        });
    }

    fn request(&mut self, key: &RequestKey, outcome: &Outcome, sink: Sink<'_>) {
        self.item(sink, |block| {
            block.put_u32_le(key.client.0);
            block.put_slice(&key.request.0);
            put_outcome(outcome, block);
        });
    }

    fn end(&mut self, sink: Sink<'_>) {
        let length = self.block.len() - BLOCK_HEAD_BYTES;
        self.block[0] = self.kind;
        self.block[1..5].copy_from_slice(&self.count.to_le_bytes());
        self.block[5..13].copy_from_slice(&(length as u64).to_le_bytes());
        self.chain = crc32c::crc32c_append(self.chain, &self.block);
        self.block.put_u32_le(self.chain);
        self.bytes += self.block.len() as u64;
        sink(&self.block);
    }

    /// Ends the pairs, writes the requests, the sessions and the end.
    fn rest<'r>(
        &mut self,
        requests: impl Iterator<Item = (&'r RequestKey, &'r Outcome)>,
        sessions: &[(u64, Arc<ClientSession>)],
        sink: Sink<'_>,
    ) {
        self.end(sink);
        self.begin(REQUESTS);
        for (key, outcome) in requests {
            self.request(key, outcome, sink);
        }
        self.end(sink);
        if !sessions.is_empty() {
            self.begin(SESSIONS);
            for (number, session) in sessions {
                self.item(sink, |block| session.write(*number, block));
            }
            self.end(sink);
        }
        self.begin(END);
        self.end(sink);
    }
}

impl StateMachine {
    /// Writes the state, which ends with the entry `last`, piece by piece.
    pub fn write_snapshot(&self, last: EntryId, sink: &mut dyn FnMut(&[u8])) -> SnapshotMark {
        assert_eq!(last.index, self.applied_index(), "the state ends with another entry");
        let clock = (self.clock(), self.clock_resets());
        let mut blocks = Blocks::header(last, self.digest(), self.key_count(), clock, sink);
        blocks.begin(PAIRS);
        blocks.pairs(self.pairs(), sink);
        blocks.rest(self.remembered(), &self.client_sessions.share(), sink);
        SnapshotMark { last, bytes: blocks.bytes, checksum: blocks.chain }
    }
}

/// Writes a view as a snapshot, a part at a time, and lets go of each part of it that is written.
#[derive(Debug)]
pub struct SnapshotWriter {
    view: View,
    tables: u64,
    /// `None` before the first part.
    blocks: Option<Blocks>,
}

impl SnapshotWriter {
    /// Of that state.
    pub fn new(view: View) -> SnapshotWriter {
        SnapshotWriter { tables: view.tables.len() as u64, view, blocks: None }
    }

    /// How many tables are written, and of how many: about how far it has come.
    pub fn progress(&self) -> (u64, u64) {
        (self.tables - self.view.tables.len() as u64, self.tables)
    }

    /// The last entry that is in it.
    pub fn last(&self) -> EntryId {
        self.view.last
    }

    /// Writes the next part; what the snapshot is told by, if that was the last one. Not to be
    /// called again then.
    pub fn write(&mut self, sink: &mut dyn FnMut(&[u8])) -> Option<SnapshotMark> {
        let View { last, digest, clock, clock_resets, key_count, tables, remembered, sessions } =
            &mut self.view;
        let blocks = self.blocks.get_or_insert_with(|| {
            let mut blocks =
                Blocks::header(*last, *digest, *key_count, (*clock, *clock_resets), sink);
            blocks.begin(PAIRS);
            blocks
        });
        if let Some(table) = tables.pop() {
            blocks.pairs(table.iter(), sink);
            return None;
        }
        blocks.rest(remembered.iter(), sessions, sink);
        Some(SnapshotMark { last: *last, bytes: blocks.bytes, checksum: blocks.chain })
    }
}

/// Reads a snapshot from pieces of any size.
#[derive(Debug)]
pub struct SnapshotReader {
    buffer: BytesMut,
    /// Bytes taken off the buffer so far.
    taken: u64,
    chain: u32,
    header: Option<Header>,
    /// `None` where the bytes are only looked at.
    store: Option<StateMachine>,
    /// Of the pairs so far, where there is no store to ask.
    digest: Digest,
    pairs: u64,
    kind: u8,
    ended: bool,
    /// Believes what it reads.
    #[cfg(feature = "mutants")]
    trusting: bool,
}

impl Default for SnapshotReader {
    fn default() -> SnapshotReader {
        SnapshotReader { store: Some(StateMachine::default()), ..SnapshotReader::checking() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    last: EntryId,
    digest: u64,
    pairs: u64,
    clock: Millis,
    /// How often that was reset.
    resets: u64,
}

impl SnapshotReader {
    /// One that makes no state of it, so that it needs next to no memory: it only looks whether
    /// all is as it was written, and adds up to the state that the header speaks of.
    pub fn checking() -> SnapshotReader {
        SnapshotReader {
            buffer: BytesMut::new(),
            taken: 0,
            chain: 0,
            header: None,
            store: None,
            digest: Digest::default(),
            pairs: 0,
            kind: 0,
            ended: false,
            #[cfg(feature = "mutants")]
            trusting: false,
        }
    }

    /// From now on it believes checksums as they are written (a mutant of the simulator's).
    #[cfg(feature = "mutants")]
    pub fn trust(&mut self) {
        self.trusting = true;
    }

    #[cfg(feature = "mutants")]
    fn is_trusting(&self) -> bool {
        self.trusting
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same face with and without the feature")]
    const fn is_trusting(&self) -> bool {
        false
    }

    /// Takes in the next piece.
    ///
    /// # Errors
    /// If it can't belong to a snapshot, or is not as it was written. Nothing more may be fed then.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.buffer.extend_from_slice(piece);
        if self.header.is_none() && !self.read_header()? {
            return Ok(());
        }
        while self.read_block()? {}
        Ok(())
    }

    /// The state, and what the snapshot is told by.
    ///
    /// # Errors
    /// If the snapshot is not whole, or is not the state that its header speaks of.
    ///
    /// # Panics
    /// If the reader was made to check only.
    pub fn finish(mut self) -> Result<(StateMachine, SnapshotMark), SnapshotError> {
        let mark = self.mark()?;
        let mut store = self.store.take().expect("one that only checks is asked for its mark");
        let clock = self.header.map_or((0, 0), |header| (header.clock, header.resets));
        store.move_to(mark.last.index, clock.0, clock.1);
        Ok((store, mark))
    }

    /// What the snapshot is told by, once all of it was fed.
    ///
    /// # Errors
    /// If the snapshot is not whole, or is not the state that its header speaks of.
    pub fn mark(&self) -> Result<SnapshotMark, SnapshotError> {
        let bytes = self.taken + self.buffer.len() as u64;
        let Some(header) = self.header.filter(|_| self.ended) else {
            return Err(SnapshotError::Short { bytes });
        };
        if !self.buffer.is_empty() {
            return Err(self.damaged("something follows the end"));
        }
        let digest = match &self.store {
            Some(store) => store.digest_as(header.last.index, header.clock, header.resets),
            None => digest_of(self.digest, header.last.index, header.clock, header.resets),
        };
        let differs = self.pairs != header.pairs || digest != header.digest;
        if differs && !self.is_trusting() {
            return Err(SnapshotError::Contents { pairs: self.pairs });
        }
        Ok(SnapshotMark { last: header.last, bytes, checksum: self.chain })
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { offset: self.taken, what }
    }

    fn read_header(&mut self) -> Result<bool, SnapshotError> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(SnapshotError::Magic);
        }
        if self.buffer.len() < HEADER_BYTES {
            return Ok(false);
        }
        let mut bytes = self.buffer.split_to(HEADER_BYTES);
        self.chain = crc32c::crc32c(&bytes);
        self.taken += HEADER_BYTES as u64;
        bytes.advance(MAGIC.len());
        let found = bytes.get_u32_le();
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        let last = EntryId::new(bytes.get_u64_le(), bytes.get_u64_le());
        if last.index > REVISION_MAX {
            return Err(self.damaged("it ends where no log does"));
        }
        let (digest, pairs) = (bytes.get_u64_le(), bytes.get_u64_le());
        let (clock, resets) = (bytes.get_u64_le(), bytes.get_u64_le());
        self.header = Some(Header { last, digest, pairs, clock, resets });
        Ok(true)
    }

    /// Reads a block if it is whole. False if there is none.
    fn read_block(&mut self) -> Result<bool, SnapshotError> {
        let Some(head) = self.buffer.first_chunk::<BLOCK_HEAD_BYTES>() else { return Ok(false) };
        let mut fields = &head[..];
        let (kind, count) = (fields.get_u8(), fields.get_u32_le());
        let length = fields.get_u64_le();
        if self.ended || kind < self.kind || kind > END {
            return Err(self.damaged("its kind is out of place"));
        }
        // Memory is taken as bytes come, whatever a damaged length claims: then they end too early.
        let around = (BLOCK_HEAD_BYTES + CHECKSUM_BYTES) as u64;
        let whole = length.checked_add(around).and_then(|whole| usize::try_from(whole).ok());
        let Some(whole) = whole.filter(|whole| *whole <= self.buffer.len()) else {
            return Ok(false);
        };
        let (body, checksum) = self.buffer[..whole].split_at(whole - CHECKSUM_BYTES);
        self.chain = crc32c::crc32c_append(self.chain, body);
        if self.is_trusting() {
            self.chain = u32::from_le_bytes(checksum.try_into().expect("it was split there"));
        } else if checksum != self.chain.to_le_bytes() {
            return Err(self.damaged("its checksum is another"));
        }
        let mut items = &self.buffer[BLOCK_HEAD_BYTES..whole - CHECKSUM_BYTES];
        let last = self.header.map_or(Index::ZERO, |header| header.last.index);
        // Checked bytes, which a block's writer would not write otherwise.
        let read = (0..count).try_for_each(|_| match kind {
            PAIRS => {
                let pair = take_pair(&mut items, last)?;
                self.pairs += 1;
                if let Some(store) = &mut self.store {
                    return store.restore_pair(pair).then_some(());
                }
                self.digest.add(pair.print());
                Some(())
            }
            REQUESTS => {
                let key = take_key(&mut items)?;
                let outcome = take_outcome(&mut items)?;
                let fresh = self.store.as_mut().is_none_or(|it| it.restore_request(key, outcome));
                fresh.then_some(())
            }
            SESSIONS => {
                let (number, session) = ClientSession::read(&mut items)?;
                if let Some(store) = &mut self.store {
                    return store.client_sessions.insert(number, session).then_some(());
                }
                self.digest.add(session.print(number));
                Some(())
            }
            _ => None,
        });
        if read.is_none() || !items.is_empty() {
            return Err(self.damaged("its items do not add up"));
        }
        self.kind = kind;
        self.ended = kind == END;
        self.buffer.advance(whole);
        self.taken += whole as u64;
        Ok(true)
    }
}

/// Reads a pair of a state that ends with the entry `last`.
fn take_pair<'b>(from: &mut &'b [u8], last: Index) -> Option<Restored<'b>> {
    let first = take_number(from)?;
    let revision = Index(last.0.checked_sub(first >> FLAG_BITS)?);
    let end = match first & HAS_END {
        0 => None,
        _ => Some(take_number(from).filter(|end| *end != 0)?),
    };
    let kind = match first & IS_OBJECT {
        0 => None,
        _ => Some(*ValueType::ALL.get(usize::from(from.try_get_u8().ok()?))?),
    };
    let key = take_bytes(from)?;
    let held = match kind {
        None => Held::String(take_bytes(from)?),
        Some(ValueType::String) => return None,
        Some(kind) => Held::Object(Object::read(kind, from)?),
    };
    Some(Restored { key, held, revision, end })
}

fn take_key(from: &mut &[u8]) -> Option<RequestKey> {
    let client = ClientId(from.try_get_u32_le().ok()?);
    let mut request = [0; 16];
    from.try_copy_to_slice(&mut request).ok()?;
    Some(RequestKey { client, request: RequestId(request) })
}

fn put_value(value: Option<&Bytes>, out: &mut Vec<u8>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put_bytes(value, out);
    }
}

#[allow(clippy::option_option, reason = "what can't be read, and a key without a value")]
fn take_value(from: &mut &[u8]) -> Option<Option<Bytes>> {
    Some(match from.try_get_u8().ok()? {
        0 => None,
        1 => Some(Bytes::copy_from_slice(take_bytes(from)?)),
        _ => return None,
    })
}

/// Writes an outcome.
pub(super) fn put_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Done => out.put_u8(0),
        Outcome::Value(value) => {
            out.put_u8(1);
            put_value(value.as_ref(), out);
        }
        Outcome::Deleted(had) => out.put_slice(&[2, u8::from(*had)]),
        Outcome::Transferred(moved) => out.put_slice(&[3, u8::from(*moved)]),
        Outcome::Malformed => out.put_u8(4),
        Outcome::Unchanged => out.put_u8(5),
        Outcome::Integer(number) => {
            out.put_u8(6);
            out.put_i64_le(*number);
        }
        Outcome::Values(values) => {
            out.put_u8(7);
            out.put_u32_le(u32::try_from(values.len()).expect("limits keep lists far below"));
            for value in values {
                put_value(value.as_ref(), out);
            }
        }
        Outcome::Refused(refusal) => {
            let place = Refusal::ALL.iter().position(|there| there == refusal);
            let byte = place.and_then(|place| u8::try_from(place).ok());
            out.put_slice(&[8, byte.expect("all refusals are in the list, which is short")]);
        }
        Outcome::Forgotten => out.put_u8(9),
        Outcome::Type(kind) => {
            out.put_u8(10);
            out.put_u8(kind.map_or(u8::MAX, |kind| kind as u8));
        }
        Outcome::Double(number) => {
            out.put_u8(11);
            out.put_u64_le(number.0.to_bits());
        }
        Outcome::NoList => out.put_u8(12),
        Outcome::List(outcomes) => put_outcomes(13, outcomes, out),
        Outcome::Set(outcomes) => put_outcomes(14, outcomes, out),
        Outcome::Pairs(pairs) => put_outcome_pairs(15, pairs, out),
        Outcome::Map(pairs) => put_outcome_pairs(16, pairs, out),
        Outcome::Error(text) => {
            out.put_u8(17);
            put_bytes(text, out);
        }
    }
}

fn put_outcomes(kind: u8, outcomes: &[Outcome], out: &mut Vec<u8>) {
    out.put_u8(kind);
    out.put_u32_le(u32::try_from(outcomes.len()).expect("limits keep lists far below"));
    for outcome in outcomes {
        put_outcome(outcome, out);
    }
}

fn put_outcome_pairs(kind: u8, pairs: &[(Outcome, Outcome)], out: &mut Vec<u8>) {
    out.put_u8(kind);
    out.put_u32_le(u32::try_from(pairs.len()).expect("limits keep lists far below"));
    for (one, other) in pairs {
        put_outcome(one, out);
        put_outcome(other, out);
    }
}

/// How deep outcomes lie in one another: what a transaction's reply holds, and one more.
const OUTCOME_DEPTH_MAX: usize = 6;

/// Reads what [`put_outcome`] wrote.
pub(super) fn take_outcome(from: &mut &[u8]) -> Option<Outcome> {
    take_outcome_in(from, 0)
}

fn take_outcomes(from: &mut &[u8], depth: usize) -> Option<Vec<Outcome>> {
    let count = from.try_get_u32_le().ok()?;
    (0..count).map(|_| take_outcome_in(from, depth + 1)).collect()
}

fn take_outcome_pairs(from: &mut &[u8], depth: usize) -> Option<Vec<(Outcome, Outcome)>> {
    let count = from.try_get_u32_le().ok()?;
    let take = |_| Some((take_outcome_in(from, depth + 1)?, take_outcome_in(from, depth + 1)?));
    (0..count).map(take).collect()
}

fn take_outcome_in(from: &mut &[u8], depth: usize) -> Option<Outcome> {
    if depth > OUTCOME_DEPTH_MAX {
        return None;
    }
    Some(match from.try_get_u8().ok()? {
        0 => Outcome::Done,
        1 => Outcome::Value(take_value(from)?),
        2 => Outcome::Deleted(take_flag(from)?),
        3 => Outcome::Transferred(take_flag(from)?),
        4 => Outcome::Malformed,
        5 => Outcome::Unchanged,
        6 => Outcome::Integer(from.try_get_i64_le().ok()?),
        7 => {
            let count = from.try_get_u32_le().ok()?;
            Outcome::Values((0..count).map(|_| take_value(from)).collect::<Option<_>>()?)
        }
        8 => Outcome::Refused(*Refusal::ALL.get(usize::from(from.try_get_u8().ok()?))?),
        9 => Outcome::Forgotten,
        10 => Outcome::Type(match from.try_get_u8().ok()? {
            u8::MAX => None,
            byte => Some(*ValueType::ALL.get(usize::from(byte))?),
        }),
        11 => {
            let number = f64::from_bits(from.try_get_u64_le().ok()?);
            Outcome::Double(Some(Double(number)).filter(|number| !number.0.is_nan())?)
        }
        12 => Outcome::NoList,
        13 => Outcome::List(take_outcomes(from, depth)?),
        14 => Outcome::Set(take_outcomes(from, depth)?),
        15 => Outcome::Pairs(take_outcome_pairs(from, depth)?),
        16 => Outcome::Map(take_outcome_pairs(from, depth)?),
        17 => Outcome::Error(Bytes::copy_from_slice(take_bytes(from)?)),
        _ => return None,
    })
}

fn take_flag(from: &mut &[u8]) -> Option<bool> {
    match from.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Condition, Operation};
    use proptest::prelude::*;

    /// A store in which every kind of outcome is remembered, but one.
    fn busy_store() -> StateMachine {
        let mut store = StateMachine::default();
        let key: &[u8] = b"key";
        let condition = Condition::IfAbsent;
        let add = Operation::Add { key: b"count", amount: -5 }.encode();
        for (number, operation) in [
            Operation::Put { key, value: b"value" },
            Operation::Delete { key: b"nothing" },
            Operation::Transfer { from: b"a", to: b"b", amount: 1 },
            Operation::Set { key, value: b"other", condition, tell_old: false },
            Operation::Append { key, value: &[7; 3_000] },
            Operation::Add { key: b"count", amount: 5 },
            Operation::Add { key, amount: 5 },
            Operation::Take { key: b"count" },
            Operation::Add { key: b"count", amount: i64::MAX },
            Operation::Add { key: b"count", amount: 1 },
            Operation::OpenSession,
            Operation::OpenSession,
            Operation::Once { session: 11, sequence: 1, operation: &add },
            Operation::Once { session: 11, sequence: 1, operation: &add },
        ]
        .into_iter()
        .enumerate()
        {
            let request = RequestId([u8::try_from(number).unwrap(); 16]);
            let payload = Command { key: RequestKey { client: ClientId(1), request }, operation };
            store.apply(store.applied_index().next(), &payload.encode());
        }
        store
    }

    fn bytes_of(store: &StateMachine) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = EntryId { term: crate::types::Term(3), index: store.applied_index() };
        let mark = store.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
        assert_eq!(read(&bytes, 4_096).unwrap().1, mark);
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(StateMachine, SnapshotMark), SnapshotError> {
        let mut reader = SnapshotReader::default();
        bytes.chunks(piece).try_for_each(|piece| reader.feed(piece))?;
        reader.finish()
    }

    #[test]
    fn a_state_comes_back_with_its_memory_of_requests() {
        let mut store = busy_store();
        let bytes = bytes_of(&store);
        for piece in [1, 7, 100, bytes.len()] {
            let (mut copy, mark) = read(&bytes, piece).unwrap();
            assert_eq!((mark.last, mark.bytes), (EntryId::new(3, 14), bytes.len() as u64));
            assert_eq!((copy.digest(), copy.key_count()), (store.digest(), store.key_count()));
            assert!(copy.remembered().eq(store.remembered()));
            let retry = Command {
                key: RequestKey { client: ClientId(1), request: RequestId([5; 16]) },
                operation: Operation::Add { key: b"count", amount: 5 },
            };
            assert!(copy.apply(Index(15), &retry.encode()).repeated);
            // What was done in a session is not done again.
            assert_eq!(copy.session_count(), 2);
            let operation = &Operation::Add { key: b"count", amount: -5 }.encode();
            let retry = Command {
                key: RequestKey { client: ClientId(2), request: RequestId([1; 16]) },
                operation: Operation::Once { session: 11, sequence: 1, operation },
            };
            let outcome = copy.apply(Index(16), &retry.encode()).outcome;
            assert_eq!(outcome, Outcome::Integer(i64::MAX - 5));
            assert_eq!(copy.string(b"count").unwrap(), Some(&b"9223372036854775802"[..]));
        }
        assert_eq!(store.apply(Index(15), b"nonsense").outcome, Outcome::Malformed);
        let empty = bytes_of(&StateMachine::default());
        assert_eq!(read(&empty, 64).unwrap().1.last, EntryId::new(3, 0));
    }

    #[test]
    fn an_end_that_no_log_reaches_is_refused() {
        let read_header = |index| {
            let (last, mut bytes) = (EntryId { term: crate::types::Term(3), index }, Vec::new());
            let _ =
                Blocks::header(last, 0, 0, (0, 0), &mut |header| bytes.extend_from_slice(header));
            read(&bytes, 64).map(drop)
        };
        let offset = HEADER_BYTES as u64;
        assert_eq!(read_header(REVISION_MAX), Err(SnapshotError::Short { bytes: offset }));
        let what = "it ends where no log does";
        assert_eq!(read_header(REVISION_MAX.next()), Err(SnapshotError::Damaged { offset, what }));
    }

    #[test]
    fn many_pairs_take_many_blocks() {
        let mut store = StateMachine::default();
        for number in 0..5_000_u32 {
            let key = RequestKey { client: ClientId(number), request: RequestId([1; 16]) };
            let name = format!("key:{number}");
            let value = vec![1; 50];
            let operation = Operation::Put { key: name.as_bytes(), value: &value };
            store.apply(store.applied_index().next(), &Command { key, operation }.encode());
        }
        let bytes = bytes_of(&store);
        assert!(bytes.len() > 5 * BLOCK_BYTES);
        assert_eq!(read(&bytes, 1_000).unwrap().0.digest(), store.digest());
    }

    #[test]
    fn a_view_is_written_as_it_was_while_the_store_goes_on() {
        let mut store = StateMachine::default();
        let apply = |store: &mut StateMachine, number: u32, operation: Operation<'_>| {
            let key = RequestKey { client: ClientId(number), request: RequestId([1; 16]) };
            store.apply(store.applied_index().next(), &Command { key, operation }.encode());
        };
        let name = |number: u32| format!("key:{number}").into_bytes();
        for number in 0..3_000 {
            let value = number.to_string().into_bytes();
            apply(&mut store, number, Operation::Put { key: &name(number), value: &value });
        }
        let (before, key_count) = (store.digest(), store.key_count());
        let last = EntryId { term: crate::types::Term(3), index: store.applied_index() };
        let mut writer = SnapshotWriter::new(store.view(last));
        assert_eq!(writer.last(), last);
        let mut bytes = Vec::new();
        let mut parts = 0;
        let mark = loop {
            // Every kind of change, to pairs that are written already and to others.
            let number = 3_000 + parts;
            let (key, fresh) = (&name(parts * 7 % 3_000), name(number));
            apply(
                &mut store,
                number,
                match parts % 4 {
                    0 => Operation::Put { key, value: b"other" },
                    1 => Operation::Append { key, value: b"longer" },
                    2 => Operation::Delete { key },
                    _ => Operation::Put { key: &fresh, value: b"new" },
                },
            );
            parts += 1;
            let mark = writer.write(&mut |piece| bytes.extend_from_slice(piece));
            if let Some(mark) = mark {
                break mark;
            }
        };
        drop(writer);
        let (copy, read_mark) = read(&bytes, 4_096).unwrap();
        assert_eq!((copy.digest(), copy.key_count()), (before, key_count));
        assert_eq!(read_mark, mark);
        for number in 0..3_000 {
            let value = copy.string(&name(number)).unwrap().map(<[u8]>::to_vec);
            assert_eq!(value, Some(number.to_string().into_bytes()));
        }
        let mut checking = SnapshotReader::checking();
        bytes.chunks(1_000).for_each(|piece| checking.feed(piece).unwrap());
        assert_eq!(checking.mark(), Ok(mark));
        // What the store has become is what its log says, view or no view.
        assert_ne!(store.digest(), before);
        let again = bytes_of_any(&store);
        assert_eq!(read(&again, 4_096).unwrap().0.digest(), store.digest());
        apply(&mut store, 9_999_999, Operation::Clear);
        assert_eq!(store.key_count(), 0);
    }

    fn bytes_of_any(store: &StateMachine) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = EntryId { term: crate::types::Term(3), index: store.applied_index() };
        store.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
        bytes
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_passes() {
        let bytes = bytes_of(&busy_store());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, 4_096).is_err(), "bit {bit}");
            let mut checking = SnapshotReader::checking();
            let checked = checking.feed(&damaged).and_then(|()| checking.mark());
            assert!(checked.is_err(), "bit {bit}, only looked at");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], 4_096).is_err(), "cut to {length}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(read(&longer, 64), Err(SnapshotError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_snapshot_and_no_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            begins_well in any::<bool>(),
        ) {
            if begins_well {
                let whole = bytes_of(&busy_store());
                let kept = bytes.len().min(whole.len());
                bytes.splice(0..0, whole[..kept].iter().copied());
            }
            prop_assert!(read(&bytes, 13).is_err());
        }
    }
}
