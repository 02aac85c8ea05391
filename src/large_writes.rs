//! Large writes: batches that are too long for one log entry. The leader appends them in pieces,
//! one batch after another, and only as fast as pieces are committed. So entries of other clients
//! get between the pieces, and wait for a few pieces at most instead of a whole value.
//!
//! A batch is applied at the index of its last piece. Until that is in the log, the first copy of a
//! batch can be refused, which is what happens if this replica stops leading. An earlier copy of a
//! resent batch may be in the log, so its sender ignores a refusal.
//!
//! The server's core stage and the simulator call this code for the consensus core that they drive.

use std::collections::VecDeque;
use std::time::Duration;

use crate::kv::{PIECE_BYTES, Piece, WHOLE_BATCH_BYTES_MAX};
use crate::raft::{ClientRequest, RefusalReason, Replica, RequestKind};
use crate::types::{Index, Instant, RequestKey, Term};

/// Maximum time for which one large write waits for a follower that lags. A follower that is
/// permanently slower than the others must not stop large writes; it will need a snapshot.
pub(crate) const LAG_WAIT_MAX: Duration = Duration::from_secs(2);

/// The limits on pieces and their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PieceLimits {
    /// Maximum length in bytes of an encoded batch that is not split into pieces.
    pub whole_bytes_max: usize,
    /// Length in bytes of the part of a batch in each piece except the last one, which may be
    /// shorter. Less than `whole_bytes_max`, so that a split batch has at least two pieces.
    pub piece_bytes: usize,
    /// Bytes of uncommitted entries at which the leader appends no more pieces. A write that
    /// arrives then waits for that many bytes; fewer would leave disks and network idle between the
    /// pieces.
    pub uncommitted_bytes_max: usize,
    /// Maximum number of pieces that a follower lags behind. A quorum may be faster than the
    /// slowest follower, and large writes would soon leave it so far behind that it needs a
    /// snapshot.
    pub lag_pieces_max: usize,
}

impl PieceLimits {
    /// The limits of the server. A follower may lag by 32 MiB.
    pub const SERVER: PieceLimits = PieceLimits {
        whole_bytes_max: WHOLE_BATCH_BYTES_MAX,
        piece_bytes: PIECE_BYTES,
        uncommitted_bytes_max: 4 << 20,
        lag_pieces_max: (32 << 20) / PIECE_BYTES,
    };
}

/// What [`LargeWrites`] needs from the driver of the consensus core.
pub trait PieceAppender {
    /// Returns the consensus core.
    fn replica(&self) -> &Replica;

    /// Returns whether the queues of the driver have space for another piece. `is_uncommitted` says
    /// whether the latest piece is not committed; otherwise a piece is allowed if there is any
    /// space.
    fn has_space(&self, is_uncommitted: bool) -> bool;

    /// Prepares for the last piece of a batch, the write `request`: appends an entry of the
    /// replicated clock if one must precede it. `since` is as in [`LargeWrites::accept`].
    ///
    /// # Errors
    /// If the piece must not be appended. The batch is then dropped.
    fn before_last_piece(
        &mut self,
        request: &mut ClientRequest,
        since: Option<Index>,
    ) -> Result<(), Dropped>;

    /// Passes a piece to the consensus core. Returns the reason if it was refused.
    fn propose(&mut self, piece: ClientRequest) -> Option<RefusalReason>;

    /// Refuses the large write `key`.
    fn refuse(&mut self, key: RequestKey, reason: RefusalReason);
}

/// Why a large write is not appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// The log or the queue of large writes has no space, and the write must be refused.
    Busy,
    /// It is a copy of a write that is in the queue or may be in the log already. It must not be
    /// refused.
    Copy,
}

/// Large writes that are not completely in the log.
#[derive(Debug)]
pub struct LargeWrites {
    limits: PieceLimits,
    /// In the order in which they arrived. Pieces of the first one may be in the log. Each replica
    /// sends one large write at a time, but another one after the client of the first has
    /// disconnected. So their total length is limited, to that of the log in memory.
    queue: VecDeque<LargeWrite>,
    /// Indexes of the latest pieces, at most [`PieceLimits::lag_pieces_max`].
    recent: VecDeque<Index>,
    /// Time until which the wait of the first write for a follower has been counted; `None` if it
    /// does not wait for one.
    waiting_since: Option<Instant>,
}

/// A batch that is appended in pieces.
#[derive(Debug)]
struct LargeWrite {
    request: ClientRequest,
    /// If an earlier copy of the batch may be in the log, the index that precedes that copy.
    since: Option<Index>,
    /// The term in which this replica, as the leader, has accepted the batch.
    term: Term,
    /// Number of bytes of the batch whose pieces are in the log.
    appended: usize,
    /// How long the batch has waited for a follower that lags.
    waited: Duration,
}

impl Default for LargeWrites {
    fn default() -> LargeWrites {
        LargeWrites::new(PieceLimits::SERVER)
    }
}

impl LargeWrites {
    /// Returns an empty queue of large writes.
    pub fn new(limits: PieceLimits) -> LargeWrites {
        assert!(limits.piece_bytes < limits.whole_bytes_max, "{limits:?}");
        LargeWrites { limits, queue: VecDeque::new(), recent: VecDeque::new(), waiting_since: None }
    }

    /// Returns the limits on pieces and their number.
    pub fn limits(&self) -> PieceLimits {
        self.limits
    }

    /// Returns the number of large writes that are not completely in the log.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether all large writes are completely in the log.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns whether the request is a write that must be appended in pieces.
    pub fn is_large(&self, request: &ClientRequest) -> bool {
        request.kind == RequestKind::Write && request.payload.len() > self.limits.whole_bytes_max
    }

    /// Accepts a large write, as the leader of `term`, to be appended in pieces. If an earlier copy
    /// of the batch may be in the log, `since` is an index that precedes it. The total length of
    /// several large writes is at most `bytes_max`.
    ///
    /// # Errors
    /// If the write is a resent copy of one in the queue, or makes the queue too long.
    pub fn accept(
        &mut self,
        request: ClientRequest,
        since: Option<Index>,
        term: Term,
        bytes_max: u64,
    ) -> Result<(), Dropped> {
        let is_queued = |write: &LargeWrite| (write.term, write.request.key) == (term, request.key);
        let queued: usize = self.queue.iter().map(|write| write.request.payload.len()).sum();
        let length = (queued + request.payload.len()) as u64;
        let fits = self.queue.is_empty() || length <= bytes_max;
        if since.is_some() && (self.queue.iter().any(is_queued) || !fits) {
            Err(Dropped::Copy)
        } else if !fits {
            Err(Dropped::Busy)
        } else {
            let waited = Duration::ZERO;
            self.queue.push_back(LargeWrite { request, since, term, appended: 0, waited });
            Ok(())
        }
    }

    /// Refuses the large writes of a term in which this replica does not lead any more. Returns
    /// their number.
    pub fn refuse_deposed(&mut self, driver: &mut impl PieceAppender) -> usize {
        let replica = driver.replica();
        let leads_in = replica.is_leader().then(|| replica.term());
        let is_over = |write: &mut LargeWrite| Some(write.term) != leads_in;
        let mut count = 0;
        while let Some(write) = self.queue.pop_front_if(is_over) {
            driver.refuse(write.request.key, RefusalReason::NotLeader);
            count += 1;
        }
        count
    }

    /// Refuses the first large write, because the log has no space for it.
    pub fn refuse_first(&mut self, driver: &mut impl PieceAppender) {
        if let Some(write) = self.queue.pop_front() {
            driver.refuse(write.request.key, RefusalReason::Busy);
        }
    }

    /// Appends pieces of large writes at the time `now`, until enough bytes are uncommitted, or a
    /// follower lags.
    pub fn append_pieces(&mut self, driver: &mut impl PieceAppender, now: Instant) {
        self.count_wait(now);
        while self.has_space(driver)
            && !self.waits_for_follower(driver.replica(), now)
            && let Some(write) = self.queue.pop_front()
        {
            if let Some(write) = self.append_piece(write, driver) {
                self.queue.push_front(write);
            }
        }
    }

    /// Returns whether few enough bytes are uncommitted and in flight for another piece. One piece
    /// is always allowed if there is any space, so that small writes cannot stop the large ones.
    fn has_space(&self, driver: &impl PieceAppender) -> bool {
        let replica = driver.replica();
        let is_uncommitted =
            self.recent.back().is_some_and(|latest| *latest > replica.commit_index());
        let fits = if is_uncommitted {
            replica.uncommitted_bytes() < self.limits.uncommitted_bytes_max
        } else {
            replica.append_budget() > 2 * self.limits.piece_bytes
        };
        fits && driver.has_space(is_uncommitted)
    }

    /// Counts the time that the first large write has waited for a follower.
    fn count_wait(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take()
            && let Some(write) = self.queue.front_mut()
        {
            write.waited += now.since(since);
        }
    }

    /// Returns whether the first large write must wait for a follower that keeps up, but has not
    /// acknowledged the oldest of the latest [`PieceLimits::lag_pieces_max`] pieces.
    fn waits_for_follower(&mut self, replica: &Replica, now: Instant) -> bool {
        let is_lagging = self.recent.len() >= self.limits.lag_pieces_max
            && self.recent.front().is_some_and(|oldest| *oldest > replica.followed_index());
        let waits =
            is_lagging && self.queue.front().is_some_and(|write| write.waited < LAG_WAIT_MAX);
        self.waiting_since = waits.then_some(now);
        waits
    }

    /// Appends the next piece of `write`. Returns the write unless that was its last piece, or the
    /// write was refused.
    fn append_piece(
        &mut self,
        mut write: LargeWrite,
        driver: &mut impl PieceAppender,
    ) -> Option<LargeWrite> {
        let ClientRequest { key, kind, payload } = &write.request;
        let (key, start) = (*key, write.appended);
        write.appended = payload.len().min(start + self.limits.piece_bytes);
        let is_last = write.appended == payload.len();
        // No client waits for the other pieces.
        let piece_key = if is_last { key } else { RequestKey::default() };
        let payload = Piece::encode(key, payload, start, self.limits.piece_bytes);
        let mut piece = ClientRequest { key: piece_key, kind: *kind, payload };
        if is_last && let Err(dropped) = driver.before_last_piece(&mut piece, write.since) {
            if dropped == Dropped::Busy {
                driver.refuse(key, RefusalReason::Busy);
            }
            return None;
        }
        if let Some(reason) = driver.propose(piece) {
            driver.refuse(key, reason);
            return None;
        }
        self.recent.push_back(driver.replica().log().last().index);
        if self.recent.len() > self.limits.lag_pieces_max {
            self.recent.pop_front();
        }
        (!is_last).then_some(write)
    }
}
