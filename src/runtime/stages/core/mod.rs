//! The core stage: owns the replica and the reading of the clock. Takes what waits, lets the
//! replica work, flushes once, hands the effects on. Never blocks but in [`Core::wait`].
//!
//! A pass is bounded in items and in time. Peers' messages and completions come first, whatever
//! clients have asked; then a slice of the clients' requests, in order. What a pass does not handle
//! waits for the next one, so that heartbeats, votes and timeouts never wait for the end of a
//! flood.
//!
//! # Readings of the clock
//!
//! Time promises between replicas hold only if each reading errs to the safe side:
//!
//! - *What this replica promises a leader* (no vote for a while) counts from a reading after the
//!   leader's message was received. So the clock is read anew for each item of the queue, behind
//!   its receipt. Whether such a promise has ended is asked with a reading from before the answer
//!   leaves, which is the same one.
//! - *What followers have promised this leader* (its lease) counts from a reading before the round
//!   was sent: the one of the flush that makes the round.
//! - *That a lease is in force* must hold at a time after the reads came that are answered on it:
//!   the reading of the flush lies behind the receipt of everything that the pass took in.
//! - *That peers are silent* is acted upon only if everything that had arrived by the end of the
//!   timeout has been handled, see [`PeersRead`](super::channels::PeersRead).
//! - Everything else (round trips, retransmission, deadlines of requests, the intervals of the
//!   replicated clock) may be late by a pass; it is never early.

mod rejected_log;
pub(crate) mod replicated_clock;

use std::sync::Arc;
use std::time::Duration;
use std::vec;

use crossbeam::channel::TrySendError;
use crossbeam::select;

use crate::config::Mutant;
use crate::kv::Command;
use crate::raft::{
    AppendEntries, AppendJob, ApplyJob, ClientRequest, DiskState, Effects, Envelope, Msg, PeerMsg,
    Refusal, RefusalReason, Replica, RequestKind, SnapshotId,
};
use crate::types::{Instant, RequestKey};
use crate::wire::frame::Attempt;

use crate::runtime::boards::{MemoryBoard, RuntimeCounters, StatusBoard};
use crate::runtime::channels::{
    AppendBatch, Applied, ApplyBatch, CoreEnds, CoreItem, DiskSpaceReport, ForwardedWrite,
    IndexedReads, JOB_BYTES_MAX, Leadership, Outbound, QUEUE_LEN, ReceivedSnapshot, Requests,
    SnapshotEvent, SnapshotJob,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::Pass;
use crate::runtime::stages::StageState;
use crate::runtime::stages::core::rejected_log::RejectedLog;
use crate::runtime::stages::core::replicated_clock::CoreClock;

/// How soon the core tries again to hand on what a full queue did not take.
const RETRY: Duration = Duration::from_millis(1);
/// How often a view of the replica is put on the board, while there are passes.
const BOARD_INTERVAL: Duration = Duration::from_millis(100);

/// Most requests of clients handled in one pass.
pub(crate) const PASS_REQUESTS_MAX: usize = 4_096;

/// Where room is scarce, or is missing, and the log has so many segments, a snapshot is taken so
/// that some of them can go; not more often than this.
const TIGHT_SEGMENTS_MIN: u64 = 4;
const LOW_SEGMENTS_MIN: u64 = 2;
const CUT_INTERVAL: Duration = Duration::from_secs(20);
/// How often a snapshot is asked for by which a full log could be cut.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a client's request at a replica that does not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NonLeaderPolicy {
    /// The replica decides: it holds it until somebody leads, or sends the client there.
    Replica,
    /// It is refused at once, and waits at the network. So a write that was passed on is in the log
    /// at once or never, and none comes to light when its client has long sent it again.
    Refuse,
}

/// How far back in the log an earlier copy of a write may be. Fewer entries than the store
/// remembers requests, so that a copy is never taken for a new write.
const AGAIN_ENTRIES_MAX: u64 = 60_000;
const _: () = assert!(AGAIN_ENTRIES_MAX < crate::kv::DEDUP_ENTRIES_MAX as u64);

/// While the log is so far behind, nothing that is committed is applied and answered, though others
/// have it: or clients would go on as fast as those are, until this log has no more room.
const APPENDS_AHEAD_BYTES: usize = 4 << 20;

/// The stage.
///
/// Invariant: `under_way` is the sum of the sizes of all jobs handed on, or waiting to be, whose
/// completion has not come back; `appends_under_way` is what of it is the log's.
pub(crate) struct Core {
    replica: Replica,
    clock: Clock,
    /// The clock as it was last read: behind the receipt of whatever is handled now.
    now: Instant,
    effects: Effects,
    ends: CoreEnds,
    /// What is left of the item of requests that was received last.
    unhandled: Unhandled,
    /// A timeout is over, but what peers sent before its end may not be here yet.
    waits_for_peers: bool,
    /// What the queues had no room for; normally empty between passes.
    outbound: Outbound,
    appends: AppendBatch,
    applies: ApplyBatch,
    under_way: usize,
    appends_under_way: usize,
    /// A snapshot of this replica's own state that is durable, but ends with an entry of which it
    /// is not known here yet that it was applied: that news takes another way.
    taken: Option<SnapshotId>,
    handed_on: HandedOn,
    /// What the log may take in memory.
    memory: Arc<MemoryBoard>,
    /// When a snapshot was last asked for because the log is full.
    cut_wanted_at: Option<Instant>,
    /// What becomes of a client's request while this replica does not lead.
    non_leader_policy: NonLeaderPolicy,
    /// Who leads, as the network knows: nobody, while this replica hands its lead over.
    leadership: Leadership,
    /// The replicated clock; `None` where no key expires, under the course's simulator.
    replicated_clock: Option<CoreClock>,
    /// How the disk is, as the log has it.
    disk: DiskState,
    /// Bytes that are free on it, as last heard.
    free: u64,
    /// When a snapshot was last asked for because of that.
    cut_asked_at: Instant,
    /// Where a view of the replica is put, and when that was last done.
    board: Arc<StatusBoard>,
    board_at: Instant,
    rejected_log: RejectedLog,
    counters: Arc<RuntimeCounters>,
}

/// Requests that were received and not handled, in order.
#[derive(Debug)]
enum Unhandled {
    Clients(vec::IntoIter<ClientRequest>),
    Forwarded(vec::IntoIter<ForwardedWrite>),
}

/// One request.
enum Request {
    Client(ClientRequest),
    Forwarded(ForwardedWrite),
}

impl Unhandled {
    fn new(requests: Requests) -> Unhandled {
        match requests {
            Requests::Clients(requests) => Unhandled::Clients(requests.into_iter()),
            Requests::Forwarded(writes) => Unhandled::Forwarded(writes.into_iter()),
        }
    }

    fn next(&mut self) -> Option<Request> {
        match self {
            Unhandled::Clients(requests) => requests.next().map(Request::Client),
            Unhandled::Forwarded(writes) => writes.next().map(Request::Forwarded),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Unhandled::Clients(requests) => requests.as_slice().is_empty(),
            Unhandled::Forwarded(writes) => writes.as_slice().is_empty(),
        }
    }
}

/// Which stages the last pass gave something to.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct HandedOn {
    /// The network.
    pub(crate) outbound: bool,
    /// The log writer.
    pub(crate) appends: bool,
    /// The applier.
    pub(crate) applies: Applies,
}

/// What the applier was given.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Applies {
    /// Nothing.
    #[default]
    Nothing,
    /// Something that a client waits for.
    Answered,
    /// Something that nobody waits for.
    Unanswered,
}

impl Core {
    pub(crate) fn new(
        replica: Replica,
        clock: Clock,
        ends: CoreEnds,
        non_leader_policy: NonLeaderPolicy,
        board: Arc<StatusBoard>,
        counters: Arc<RuntimeCounters>,
    ) -> Core {
        Core {
            replica,
            clock,
            now: clock.now(),
            effects: Effects::default(),
            ends,
            unhandled: Unhandled::Clients(Vec::new().into_iter()),
            waits_for_peers: false,
            outbound: Outbound::default(),
            appends: AppendBatch::default(),
            applies: ApplyBatch::default(),
            under_way: 0,
            appends_under_way: 0,
            taken: None,
            handed_on: HandedOn::default(),
            memory: Arc::default(),
            cut_wanted_at: None,
            non_leader_policy,
            leadership: Leadership::default(),
            replicated_clock: None,
            disk: DiskState::default(),
            free: 0,
            cut_asked_at: Instant::ZERO,
            board,
            board_at: Instant::ZERO,
            rejected_log: RejectedLog::default(),
            counters,
        }
    }

    /// With who says what the log may take in memory.
    pub(crate) fn within(mut self, memory: Arc<MemoryBoard>) -> Core {
        memory.note_log(self.replica.log().bytes());
        self.memory = memory;
        self
    }

    /// With a replicated clock, which this replica moves while it leads.
    pub(crate) fn with_clock(mut self, clock: CoreClock) -> Core {
        self.replicated_clock = Some(clock);
        self
    }

    /// The one receive in which the core blocks: until something comes, or until the replica's
    /// next timeout, then `None`. Requests of clients are kept here, and it is `None` then too.
    pub(crate) fn wait(&mut self) -> Option<CoreItem> {
        if self.has_work() {
            return None;
        }
        let patience = self.next_pass().since(self.clock.now());
        select! {
            // All others are gone if there is an error, so there is nothing left to do.
            recv(self.ends.inbox) -> item => Some(item.unwrap_or(CoreItem::Stop)),
            recv(self.ends.requests) -> requests => match requests {
                Ok(requests) => {
                    self.unhandled = Unhandled::new(requests);
                    None
                }
                Err(_) => Some(CoreItem::Stop),
            },
            default(patience) => None,
        }
    }

    /// How long a driver that polls may sleep before the next pass, counted from the last one.
    pub(crate) fn poll_timeout(&self) -> Duration {
        if self.has_work() { Duration::ZERO } else { self.next_pass().since(self.now) }
    }

    /// Whether the next pass would find something to handle.
    pub(crate) fn has_work(&self) -> bool {
        self.has_mail() || !self.unhandled.is_empty() || !self.ends.requests.is_empty()
    }

    /// Which stages the last pass gave something to: for a thread that is all of them, and so
    /// need not look into their queues.
    pub(crate) fn handed_on(&self) -> HandedOn {
        self.handed_on
    }

    /// Whether messages of peers or completions wait to be received.
    pub(crate) fn has_mail(&self) -> bool {
        !self.ends.inbox.is_empty()
    }

    fn next_pass(&self) -> Instant {
        let timeout = self.replica.next_timeout();
        // What was due and was put off is not due at once again.
        let timeout = if self.waits_for_peers { timeout.max(self.now + RETRY) } else { timeout };
        let clock = self.replicated_clock.as_ref().filter(|_| self.replica.accepts_writes());
        let due = clock.and_then(|clock| clock.next_due(self.now));
        let timeout = due.map_or(timeout, |due| timeout.min(due));
        if self.holds_back() { timeout.min(self.now + RETRY) } else { timeout }
    }

    fn holds_back(&self) -> bool {
        !(self.outbound.refusals.is_empty()
            && self.outbound.leadership.is_none()
            && self.appends.jobs.is_empty()
            && self.applies.is_empty())
    }

    /// One pass: `first`, then what waits, as far as a pass goes.
    pub(crate) fn run_once(&mut self, first: Option<CoreItem>) -> StageState {
        // Before the queue is emptied: what the network had read by then is in it.
        let peers_read_at = self.ends.peers_read.at();
        self.now = self.clock.now();
        self.look_at_clocks();
        if self.take_items(first) == StageState::Stopped {
            return StageState::Stopped;
        }
        let took_all = self.ends.inbox.is_empty();
        self.take_requests();
        // Behind the receipt of everything that was taken, for the reads that are answered on a
        // lease; and before anything is sent, for the leases that begin with it. Since the reading
        // before this thread may have been stopped for long.
        self.now = self.clock.now();
        if self.replica.accepts_writes()
            && let Some(request) = self.replicated_clock.as_mut().and_then(|it| it.due(self.now))
        {
            self.handle(Msg::Client(request));
        }
        let silence_ends_at = self.replica.silence_deadline();
        self.waits_for_peers =
            self.now >= silence_ends_at && !(took_all && peers_read_at >= silence_ends_at);
        if self.waits_for_peers {
            self.ends.to_network.read_peers();
        } else if self.now >= self.replica.next_timeout() {
            self.replica.handle_timeout(self.now, &mut self.effects);
        }
        self.replica.flush(self.now, &mut self.effects);
        self.collect();
        self.hand_on()
    }

    /// Takes peers' messages and completions, `first` before the others.
    fn take_items(&mut self, mut first: Option<CoreItem>) -> StageState {
        let mut pass = Pass::of_large(self.clock, QUEUE_LEN);
        while let Some(item) =
            pass.next(|| first.take().or_else(|| self.ends.inbox.try_recv().ok()))
        {
            self.read_clock_after_receipt();
            match item {
                CoreItem::Peers(messages) => {
                    for message in messages {
                        self.admit(Msg::Peer(message));
                    }
                }
                CoreItem::Persisted { completions, bytes } => {
                    self.give_back(bytes);
                    self.appends_under_way -= bytes;
                    for completion in completions {
                        self.handle(Msg::Persisted(completion));
                    }
                }
                CoreItem::Applied(applied) => self.on_applied(applied),
                CoreItem::IndexedReads(reads) => self.take_reads(reads),
                CoreItem::TakeSnapshot => self.applies.save = true,
                CoreItem::Snapshot(news) => self.on_snapshot_event(news),
                CoreItem::DiskSpace(news) => self.on_disk_space(news),
                CoreItem::Stop => return StageState::Stopped,
            }
        }
        StageState::Running
    }

    /// What is handled next was received before this reading, so a promise to its sender counts
    /// from after it was sent.
    fn read_clock_after_receipt(&mut self) {
        if !self.replica.breaks(Mutant::PromiseBeforeReceipt) {
            self.now = self.clock.now();
        }
    }

    /// Takes requests of clients.
    fn take_requests(&mut self) {
        let mut pass = Pass::of_small(self.clock, PASS_REQUESTS_MAX);
        while let Some(request) = pass.next(|| self.next_request()) {
            match request {
                Request::Client(request) => self.admit(Msg::Client(request)),
                Request::Forwarded(write) => self.admit_forwarded(write),
            }
        }
    }

    /// The next request, if there is one. The next item is received only when the last is handled.
    fn next_request(&mut self) -> Option<Request> {
        loop {
            if let Some(request) = self.unhandled.next() {
                return Some(request);
            }
            self.unhandled = Unhandled::new(self.ends.requests.try_recv().ok()?);
            self.read_clock_after_receipt();
        }
    }

    /// Observes the wall clock, and lets requests go that waited for the clocks of a quorum, or for
    /// another leader.
    fn look_at_clocks(&mut self) {
        let Some(clock) = &mut self.replicated_clock else { return };
        clock.tick(self.now, &self.clock);
        let leads = self.replica.is_leader();
        if clock.holds() && !(leads && clock.must_wait(self.now, self.replica.term())) {
            let (forwarded, messages) = clock.release();
            for write in forwarded {
                self.admit_forwarded(write);
            }
            for message in messages {
                self.admit(message);
            }
        }
    }

    /// Whether requests must wait at this leader until it knows the clocks of a quorum.
    fn waits_for_clocks(&mut self) -> bool {
        let (now, term) = (self.now, self.replica.term());
        let leads = self.replica.is_leader();
        leads && self.replicated_clock.as_mut().is_some_and(|clock| clock.must_wait(now, term))
    }

    fn on_applied(&mut self, applied: Applied) {
        let Applied { index, bytes, installed, clock: shown, clock_wanted } = applied;
        self.give_back(bytes);
        if let Some(clock) = &mut self.replicated_clock {
            clock.note(self.now, shown);
            clock.want(clock_wanted);
        }
        if let Some(index) = index {
            self.handle(Msg::Applied { index });
        }
        if let Some(snapshot) = installed {
            self.handle(Msg::Installed(snapshot));
        }
        self.note_taken();
    }

    fn on_snapshot_event(&mut self, news: SnapshotEvent) {
        match news {
            SnapshotEvent::Taken(snapshot) => {
                self.taken = Some(snapshot);
                self.note_taken();
            }
            SnapshotEvent::Lost => self.applies.save = true,
            SnapshotEvent::ChunkStored(stored) => self.handle(Msg::ChunkStored(stored)),
            SnapshotEvent::Received(install) => {
                let end = |install: &ReceivedSnapshot| install.snapshot.last.index;
                // Of two that wait here the one that ends later has the other in it.
                if self.applies.install.as_deref().is_none_or(|there| end(there) < end(&install)) {
                    self.applies.install = Some(install);
                }
            }
        }
    }

    /// There is more room or less. Where it is scarce a snapshot is taken, if the log can be cut
    /// behind one.
    fn on_disk_space(&mut self, news: DiskSpaceReport) {
        self.free = news.free;
        let segments_min = if news.room.low { LOW_SEGMENTS_MIN } else { TIGHT_SEGMENTS_MIN };
        if news.tight
            && news.segments >= segments_min
            && self.now >= self.cut_asked_at + CUT_INTERVAL
        {
            self.cut_asked_at = self.now;
            self.applies.save = true;
        }
        self.handle(Msg::DiskSpace(news.room));
    }

    /// Tells the replica of its snapshot, once it knows that all in it was applied.
    fn note_taken(&mut self) {
        if let Some(snapshot) = self.taken
            && snapshot.last.index <= self.replica.status().applied_index
        {
            self.taken = None;
            self.handle(Msg::SnapshotTaken(snapshot));
        }
    }

    /// Lets a message from outside in, unless too much is under way for what it would cause.
    fn admit(&mut self, mut message: Msg) {
        if let Msg::Client(request) = &message
            && self.non_leader_policy == NonLeaderPolicy::Refuse
            && !self.replica.is_leader()
        {
            self.refuse(request.key, RefusalReason::NotLeader);
            return;
        }
        if let Msg::Client(request) = &message
            && self.waits_for_clocks()
        {
            let key = request.key;
            let clock = self.replicated_clock.as_mut().expect("it was just asked");
            if clock.hold(message).is_err() {
                self.counters.requests_busy.add_one();
                self.refuse(key, RefusalReason::Busy);
            }
            return;
        }
        // Where no snapshot can be taken, for want of room on disk perhaps, the log can't be cut:
        // then it must not grow for ever. Reads add nothing to it.
        let log_bytes = self.replica.log().bytes() as u64;
        let log_is_full = log_bytes >= self.memory.log_bytes_max();
        let is_due = |at| self.now.since(at) >= FULL_LOG_INTERVAL;
        if log_is_full && self.cut_wanted_at.is_none_or(is_due) {
            self.cut_wanted_at = Some(self.now);
            self.applies.save = true;
        }
        let is_behind = self.under_way >= JOB_BYTES_MAX;
        if is_behind || log_is_full {
            match message {
                Msg::Client(ClientRequest { kind: RequestKind::Read, .. }) if !is_behind => {}
                Msg::Client(request) => {
                    self.counters.requests_busy.add_one();
                    self.refuse(request.key, RefusalReason::Busy);
                    return;
                }
                // Heartbeats still come in: a replica that is slow must not start elections.
                Msg::Peer(Envelope {
                    message: PeerMsg::AppendEntries(AppendEntries { ref entries, .. }),
                    ..
                }) if !entries.is_empty()
                    && (is_behind || log_bytes >= self.memory.appended_bytes_max()) =>
                {
                    self.counters.appends_dropped.add_one();
                    return;
                }
                Msg::Peer(_)
                | Msg::Persisted(_)
                | Msg::Applied { .. }
                | Msg::SnapshotTaken(_)
                | Msg::ChunkStored(_)
                | Msg::Installed(_)
                | Msg::DiskSpace(_) => {}
            }
        }
        if let Msg::Client(request @ ClientRequest { kind: RequestKind::Write, .. }) = &mut message
            && let Some(clock) = &mut self.replicated_clock
            && self.replica.accepts_writes()
        {
            let before = clock.before_write(self.now);
            if Command::resets_clock(&request.payload) {
                clock.fill_reset(self.now, request);
            }
            if let Some(before) = before {
                let (key, last) = (request.key, self.replica.log().last());
                self.handle(Msg::Client(before));
                if self.replica.log().last() == last {
                    // The log is full. Without the entry this write would be applied by a clock
                    // that is behind, and a key that it sets would expire too early.
                    if let Some(clock) = &mut self.replicated_clock {
                        clock.proposal_refused();
                    }
                    self.counters.requests_busy.add_one();
                    self.refuse(key, RefusalReason::Busy);
                    return;
                }
            }
        }
        self.handle(message);
    }

    fn refuse(&mut self, key: RequestKey, reason: RefusalReason) {
        let leader = self.replica.last_known_leader();
        self.effects.refusals.push(Refusal { key, reason, leader });
    }

    /// Lets a forwarded write in, if the store is sure to recognise it should another copy be in
    /// the log: it remembers only so many requests. Decided here, at the place and in the moment
    /// in which it gets its index, for a copy may have been under way for long.
    ///
    /// - A first copy is taken in by the leader of the term that it names. Its sender tries again
    ///   when it hears of another term or has another connection to the same leader, and what is
    ///   left on the connection before is never read then. So a first copy is in the log before
    ///   any other, or never, and being refused it certainly never is.
    /// - Another copy is taken in where the log has not grown too far since the first was sent.
    ///   All copies that get in lie behind that place, and this one not too far: so each of them
    ///   finds the ones before remembered. Where that is not sure it is dropped, and its client
    ///   told that nobody knows.
    fn admit_forwarded(&mut self, write: ForwardedWrite) {
        if self.waits_for_clocks() {
            let clock = self.replicated_clock.as_mut().expect("it was just asked");
            match clock.hold_forwarded(write) {
                Ok(()) => {}
                Err(ForwardedWrite { attempt: Attempt::First { .. }, request }) => {
                    self.refuse(request.key, RefusalReason::Busy);
                }
                Err(ForwardedWrite { attempt: Attempt::Again { .. }, .. }) => {
                    self.counters.again_dropped.add_one();
                }
            }
            return;
        }
        match write.attempt {
            Attempt::First { term } if self.replica.is_leader() && self.replica.term() == term => {
                self.admit(Msg::Client(write.request));
            }
            Attempt::First { .. } => self.refuse(write.request.key, RefusalReason::NotLeader),
            Attempt::Again { since } => {
                let last = self.replica.log().last().index.0;
                if self.replica.is_leader() && last.saturating_sub(since.0) < AGAIN_ENTRIES_MAX {
                    self.admit(Msg::Client(write.request));
                } else {
                    self.counters.again_dropped.add_one();
                }
            }
        }
    }

    fn handle(&mut self, message: Msg) {
        self.replica.handle_msg(self.now, message, &mut self.effects);
    }

    /// Passes on reads whose place in the log the leader has named.
    fn take_reads(&mut self, reads: IndexedReads) {
        let bytes: usize = reads.reads.iter().map(|read| read.payload.len()).sum();
        self.under_way += bytes;
        self.applies.bytes += bytes;
        self.applies.indexed_reads.push(reads);
    }

    fn give_back(&mut self, bytes: usize) {
        assert!(bytes <= self.under_way, "{bytes} given back, {} under way", self.under_way);
        self.under_way -= bytes;
    }

    /// Moves the effects to what waits to be handed on.
    fn collect(&mut self) {
        self.note_disk();
        self.rejected_log.report(&mut self.effects.rejected, self.now);
        // What comes while the lead is handed over waits at the network, and goes to the successor.
        let successor = self.replica.transfer_target();
        let leader = if successor.is_some() { None } else { self.replica.leader() };
        let leadership = Leadership { term: self.replica.term(), leader };
        if leadership != self.leadership {
            if let Some(successor) = successor {
                tracing::warn!(%successor, disk = ?self.disk, "the lead is handed over");
            }
            self.leadership = leadership;
            if let Some(clock) = &mut self.replicated_clock {
                clock.leader_changed();
            }
            self.outbound.leadership = Some(leadership);
            self.board_at = Instant::ZERO;
        }
        if self.now >= self.board_at + BOARD_INTERVAL {
            self.board_at = self.now;
            self.board.write(self.replica.status());
            self.memory.note_log(self.replica.log().bytes());
        }
        append_or_take(&mut self.outbound.peers, &mut self.effects.send);
        append_or_take(&mut self.outbound.refusals, &mut self.effects.refusals);
        if !self.effects.chunks_to_send.is_empty() {
            let envelopes = std::mem::take(&mut self.effects.chunks_to_send);
            self.give_snapshots(SnapshotJob::SendChunks(envelopes));
        }
        if !self.effects.suspect_snapshots.is_empty() {
            let doubted = std::mem::take(&mut self.effects.suspect_snapshots);
            self.give_snapshots(SnapshotJob::Verify(doubted));
        }
        if !self.effects.received_chunks.is_empty() {
            let chunks = std::mem::take(&mut self.effects.received_chunks);
            self.give_snapshots(SnapshotJob::StoreChunks(chunks));
        }
        if let Some(job) = self.effects.append.take() {
            let bytes = append_bytes(&job);
            self.under_way += bytes;
            self.appends_under_way += bytes;
            self.appends.bytes += bytes;
            self.appends.jobs.push(job);
        }
        if !self.effects.apply.is_empty() {
            let bytes = apply_bytes(&self.effects.apply);
            self.under_way += bytes;
            self.applies.bytes += bytes;
            if !self.effects.apply.reads.is_empty() {
                self.stamp_reads();
            }
            append_or_take(&mut self.applies.job.entries, &mut self.effects.apply.entries);
            append_or_take(&mut self.applies.job.reads, &mut self.effects.apply.reads);
        }
    }

    /// Notes what the replicated clock must show in the state for reads that were let go now.
    fn stamp_reads(&mut self) {
        let Some(clock) = &mut self.replicated_clock else { return };
        // A leader without disk space can't move the clock: no key expires, but reads go on.
        let lacks_room = self.replica.is_leader()
            && !self.replica.accepts_writes()
            && self.replica.transfer_target().is_none();
        if !lacks_room {
            self.applies.read_timestamp = clock.for_reads(self.now);
        }
    }

    /// Says so when the disk stalls, and when it is well again.
    fn note_disk(&mut self) {
        let disk = self.replica.disk();
        if disk == self.disk {
            return;
        }
        let before = std::mem::replace(&mut self.disk, disk);
        self.board_at = Instant::ZERO;
        match disk {
            DiskState::Stalled => tracing::warn!(
                "the disk is stalled: for a second it has finished no write; this replica leads no \
                 longer than it must, and does not stand for election"
            ),
            DiskState::Low if before == DiskState::Healthy => tracing::warn!(
                free_bytes = self.free,
                "the disk is short of room, less than --disk-reserve is left: while this replica \
                 leads it refuses writes; make room on the disk"
            ),
            DiskState::Healthy if before == DiskState::Low => {
                tracing::info!(free_bytes = self.free, "the disk has room again");
            }
            DiskState::Low | DiskState::Healthy => {
                tracing::info!(?before, now = ?disk, "the disk writes again");
            }
        }
    }

    /// A leader asks for what gets lost here, or sends it once more.
    fn give_snapshots(&self, work: SnapshotJob) {
        if self.ends.to_snapshots.try_send(work).is_err() {
            self.counters.chunks_dropped.add_one();
        }
    }

    /// Hands on what can be, answers first: a client waits for what the applier does, and nobody
    /// but a peer for the rest. Stops if the network has ended without a word.
    fn hand_on(&mut self) -> StageState {
        self.handed_on = HandedOn::default();
        if !self.applies.is_empty() && self.appends_under_way < APPENDS_AHEAD_BYTES {
            let mut batch = std::mem::take(&mut self.applies);
            batch.leader = self.replica.last_known_leader();
            self.handed_on.applies =
                if will_answer(&batch) { Applies::Answered } else { Applies::Unanswered };
            if let Err(refused) = self.ends.to_applier.try_send(batch) {
                self.applies = refused.into_inner();
            }
        }
        if !(self.outbound.peers.is_empty()
            && self.outbound.refusals.is_empty()
            && self.outbound.leadership.is_none())
        {
            let batch = std::mem::take(&mut self.outbound);
            self.handed_on.outbound = true;
            match self.ends.to_network.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(mut batch)) => {
                    self.counters.outbound_dropped.add(batch.peers.len());
                    batch.peers.clear();
                    self.outbound = batch;
                }
                Err(TrySendError::Disconnected(_)) => return StageState::Stopped,
            }
        }
        if !self.appends.jobs.is_empty() {
            let batch = std::mem::take(&mut self.appends);
            self.handed_on.appends = true;
            if let Err(refused) = self.ends.to_log_writer.try_send(batch) {
                self.appends = refused.into_inner();
            }
        }
        StageState::Running
    }
}

#[cfg(test)]
impl Core {
    /// The replica.
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Bytes of jobs under way, and of those the log's.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (self.under_way, self.appends_under_way)
    }
}

/// Moves all of `more` behind `list`; without copying where `list` is empty, as it is unless a
/// queue was full.
fn append_or_take<T>(list: &mut Vec<T>, more: &mut Vec<T>) {
    if list.is_empty() {
        std::mem::swap(list, more);
    } else {
        list.append(more);
    }
}

/// Whether clients wait for this, as far as the core knows: whether one waits here for what another
/// replica committed is the applier's to know.
fn will_answer(batch: &ApplyBatch) -> bool {
    let ApplyBatch { job, indexed_reads, .. } = batch;
    !(job.reads.is_empty() && indexed_reads.is_empty())
        || job.entries.iter().any(|committed| committed.as_leader)
}

/// A job's size: of its entries, and something for each job and message, so that many empty ones
/// count too.
fn append_bytes(job: &AppendJob) -> usize {
    let entries: usize = job.entries.iter().map(|entry| entry.record().len()).sum();
    entries + (1 + job.release.len()) * size_of::<Envelope>()
}

fn apply_bytes(job: &ApplyJob) -> usize {
    let entries: usize = job.entries.iter().map(|committed| committed.entry.record().len()).sum();
    let reads: usize = job.reads.iter().map(|read| read.payload.len()).sum();
    entries + reads
}

#[cfg(test)]
mod pass_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::AppliedClock;
    use crate::config::Config;
    use crate::raft::{
        AppendOutcome, AppendReply, ClientRequest, Committed, Durable, HardState, Persisted,
        RequestKind,
    };
    use crate::record::{EntryKind, RecordBuffer};
    use crate::runtime::channels::{ApplierEnds, Ends, LogWriterEnds, NetworkEnds, channels};
    use crate::runtime::clock::tests::stopped;
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{ClientId, EntryId, Index, JobSequence, NodeId, RequestId, Round, Term};
    use bytes::Bytes;

    /// A core for which no time passes, so its replica does nothing by itself.
    pub(crate) fn quiet_core() -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
        let Ends { network, core: ends, log_writer, applier, .. } = channels(&unused_wake(), false);
        let clock = stopped();
        let peers = [NodeId(1), NodeId(2)];
        let config = Config::course();
        let replica = Replica::new(NodeId(0), &peers, config, 7, Durable::default(), clock.now());
        let decide = NonLeaderPolicy::Replica;
        let core = Core::new(replica, clock, ends, decide, Arc::default(), Arc::default());
        (core, network, log_writer, applier)
    }

    pub(crate) fn append(entries: usize) -> Envelope {
        let mut buffer = RecordBuffer::default();
        let entries = (1..=entries as u64)
            .map(|index| buffer.encode(EntryId::new(1, index), EntryKind::Command, b"x"))
            .collect();
        let message = PeerMsg::AppendEntries(AppendEntries {
            term: Term(1),
            round: Round(1),
            prev: EntryId::ZERO,
            commit_index: Index::ZERO,
            loss_permille: 0,
            transfer_to: None,
            entries,
        });
        Envelope { from: NodeId(1), to: NodeId(0), leader: None, message }
    }

    fn to_peer() -> Envelope {
        let outcome = AppendOutcome::Match { index: Index::ZERO };
        let reply =
            AppendReply { term: Term(1), round: Round(1), disk: DiskState::Healthy, outcome };
        Envelope {
            from: NodeId(0),
            to: NodeId(1),
            leader: None,
            message: PeerMsg::AppendReply(reply),
        }
    }

    fn refusal() -> Refusal {
        let key = RequestKey::default();
        Refusal { key, reason: RefusalReason::NotLeader, leader: Some(NodeId(1)) }
    }

    fn append_job(sequence: u64) -> AppendJob {
        AppendJob {
            sequence: JobSequence(sequence),
            hard_state: Some(HardState::default()),
            entries: Vec::new(),
            rejoined: false,
            release: Vec::new(),
            restart_after: None,
            compact_to: None,
        }
    }

    /// A core whose replica leads alone, in term 2, over a log of so many entries and one more.
    pub(crate) fn leading_core(entries: u64) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
        leading_core_with(stopped(), entries)
    }

    fn leading_core_with(
        clock: Clock,
        entries: u64,
    ) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
        let Ends { network, core: ends, log_writer, applier, .. } = channels(&unused_wake(), false);
        let mut buffer = RecordBuffer::default();
        let entries = (1..=entries)
            .map(|index| buffer.encode(EntryId::new(1, index), EntryKind::Command, b"x"))
            .collect();
        let hard_state = HardState { term: Term(1), voted_for: None };
        let durable = Durable { hard_state, entries, ..Durable::default() };
        let mut replica = Replica::new(NodeId(0), &[], Config::server(), 7, durable, clock.now());
        let later = clock.now() + Duration::from_secs(10);
        let mut effects = Effects::default();
        replica.handle_timeout(later, &mut effects);
        replica.flush(later, &mut effects);
        let sequence = effects.append.take().expect("its own vote").sequence;
        let persisted = Msg::Persisted(Persisted { sequence, last: None });
        replica.handle_msg(later, persisted, &mut effects);
        assert!(replica.is_leader() && replica.term() == Term(2));
        let refuse = NonLeaderPolicy::Refuse;
        let core = Core::new(replica, clock, ends, refuse, Arc::default(), Arc::default());
        (core, network, log_writer, applier)
    }

    fn forwarded(number: u8, attempt: Attempt) -> ForwardedWrite {
        let key = RequestKey { client: ClientId(7), request: RequestId([number; 16]) };
        let request = ClientRequest { key, kind: RequestKind::Write, payload: Bytes::new() };
        ForwardedWrite { attempt, request }
    }

    /// What the log was given to say of the replicated clock.
    fn clock_entries(log_writer: &LogWriterEnds) -> Vec<u64> {
        let jobs = log_writer.jobs.try_iter().flat_map(|batch| batch.jobs);
        let entries: Vec<_> = jobs.flat_map(|job| job.entries).collect();
        let millis = |payload: &[u8]| match Command::decode(payload).ok()?.operation {
            crate::kv::Operation::Clock { millis, .. } => Some(millis),
            _ => None,
        };
        entries.iter().filter_map(|entry| millis(entry.payload())).collect()
    }

    fn with_clock(core: Core, peers: &[NodeId]) -> Core {
        let clock = core.clock;
        let store = crate::kv::StateMachine::default();
        core.with_clock(CoreClock::new(peers, Arc::default(), &store, &clock))
    }

    fn write(number: u8) -> ClientRequest {
        let key = RequestKey { client: ClientId(7), request: RequestId([number; 16]) };
        ClientRequest { key, kind: RequestKind::Write, payload: Bytes::from_static(b"x") }
    }

    #[test]
    fn an_entry_of_the_clock_goes_before_a_write_and_for_reads_that_wait() {
        let (core, network, log_writer, _applier) = leading_core_with(Clock::start(), 0);
        let mut core = with_clock(core, &[]);
        network.requests.try_send(Requests::Clients(vec![write(1), write(2)])).unwrap();
        core.run_once(None);
        let first = clock_entries(&log_writer);
        assert_eq!(first.len(), 1, "{first:?}");
        let shown = AppliedClock { millis: first[0], resets: 0, next_expiry: None };
        let wanted =
            Applied { clock: shown, clock_wanted: Some(first[0] + 1), ..Applied::default() };
        core.run_once(Some(CoreItem::Applied(wanted)));
        let mut second = clock_entries(&log_writer);
        while second.is_empty() {
            // It is not that late yet; the core wakes up by itself.
            core.wait();
            core.run_once(None);
            second = clock_entries(&log_writer);
        }
        assert!(second.len() == 1 && second[0] > first[0], "{second:?}");
    }

    #[test]
    fn requests_wait_until_the_clocks_of_a_quorum_are_known() {
        let (core, network, log_writer, _applier) = leading_core_with(Clock::start(), 0);
        let mut core = with_clock(core, &[NodeId(8), NodeId(9)]);
        network.requests.try_send(Requests::Clients(vec![write(1)])).unwrap();
        core.run_once(None);
        let last = core.replica.log().last().index;
        let write = forwarded(2, Attempt::First { term: Term(2) });
        network.requests.try_send(Requests::Forwarded(vec![write])).unwrap();
        core.run_once(None);
        assert_eq!((core.replica.log().last().index, clock_entries(&log_writer)), (last, vec![]));
        let (now, wall) = core.clock.wall_millis().expect("two readings that lie close together");
        let clock = core.replicated_clock.as_mut().expect("it was given one");
        clock.hear(NodeId(8), now, wall);
        core.run_once(None);
        assert_eq!(core.replica.log().last().index.0, last.0 + 3, "both, and one of the clock");
        assert_eq!(clock_entries(&log_writer).len(), 1);
    }

    #[test]
    fn a_first_copy_that_was_stuck_through_a_change_of_leader_is_refused() {
        let (mut core, network, ..) = leading_core(3);
        let last = core.replica.log().last().index;
        let writes = [1, 2, 3, 2].map(|term| Attempt::First { term: Term(term) });
        let writes = (1..).zip(writes).map(|(number, attempt)| forwarded(number, attempt));
        network.requests.try_send(Requests::Forwarded(writes.collect())).unwrap();
        core.run_once(None);
        assert_eq!(core.replica.log().last().index.0, last.0 + 2, "those of term 2");
        let outbound = network.outbound.try_recv().unwrap();
        let refused: Vec<_> = outbound
            .refusals
            .iter()
            .map(|refusal| (refusal.key.request.0[0], refusal.reason))
            .collect();
        assert_eq!(refused, [(1, RefusalReason::NotLeader), (3, RefusalReason::NotLeader)]);
    }

    #[test]
    fn no_two_copies_are_further_apart_in_the_log_than_requests_are_remembered() {
        let (mut core, network, ..) = leading_core(AGAIN_ENTRIES_MAX + 10);
        let last = core.replica.log().last().index.0;
        let oldest = last + 1 - AGAIN_ENTRIES_MAX;
        let writes = [oldest - 1, oldest, last].map(|since| Attempt::Again { since: Index(since) });
        let writes = (1..).zip(writes).map(|(number, attempt)| forwarded(number, attempt));
        network.requests.try_send(Requests::Forwarded(writes.collect())).unwrap();
        core.run_once(None);
        // The first is not taken in and, for it may have been before, not refused either.
        assert_eq!(core.counters.again_dropped.get(), 1);
        let outbound = network.outbound.try_iter();
        assert!(outbound.into_iter().all(|outbound| outbound.refusals.is_empty()));
        // The second can't be in the log up to `oldest`; now it is the last but one.
        let place = core.replica.log().last().index.0 - 1;
        assert_eq!((place, place - oldest), (last + 1, AGAIN_ENTRIES_MAX));
        assert!(AGAIN_ENTRIES_MAX < crate::kv::DEDUP_ENTRIES_MAX as u64);
    }

    #[test]
    fn what_is_committed_waits_for_a_log_that_is_far_behind() {
        let (mut core, _network, log_writer, applier) = quiet_core();
        let mut job = append_job(1);
        let mut buffer = RecordBuffer::default();
        let payload = vec![0; APPENDS_AHEAD_BYTES];
        let entry = buffer.encode(EntryId::new(1, 1), EntryKind::Command, &payload);
        job.entries.push(entry);
        core.effects.append = Some(job);
        let entry = buffer.encode(EntryId::new(1, 1), EntryKind::NoOp, b"");
        core.effects.apply.entries.push(Committed { entry, as_leader: false });
        core.collect();
        core.hand_on();
        let bytes = log_writer.jobs.try_recv().unwrap().bytes;
        assert!(applier.jobs.try_recv().is_err(), "it waits");
        core.run_once(Some(CoreItem::Persisted { completions: vec![], bytes }));
        assert_eq!(applier.jobs.try_recv().unwrap().job.entries.len(), 1);
    }

    #[test]
    fn too_much_under_way_ends_in_refusals() {
        let (mut core, network, ..) = quiet_core();
        core.under_way = JOB_BYTES_MAX;
        let request = ClientRequest {
            key: RequestKey::default(),
            kind: RequestKind::Write,
            payload: Bytes::new(),
        };
        network.requests.try_send(Requests::Clients(vec![request])).unwrap();
        core.run_once(Some(CoreItem::Peers(vec![append(2), append(0)])));
        assert_eq!(core.counters.requests_busy.get(), 1);
        assert_eq!(core.counters.appends_dropped.get(), 1, "a heartbeat is no append");
        let outbound = network.outbound.try_recv().unwrap();
        let reasons: Vec<_> = outbound.refusals.iter().map(|refusal| refusal.reason).collect();
        assert_eq!(reasons, [RefusalReason::Busy]);
        core.run_once(Some(CoreItem::Applied(Applied { bytes: 1, ..Applied::default() })));
        assert_eq!(core.under_way, JOB_BYTES_MAX - 1);
        core.run_once(Some(CoreItem::Peers(vec![append(2)])));
        assert_eq!(core.counters.appends_dropped.get(), 1, "there is room again");
    }

    #[test]
    fn a_log_that_can_not_be_cut_takes_in_no_more_than_its_share() {
        let (core, network, log_writer, _applier) = leading_core(3);
        let memory = Arc::new(MemoryBoard::default());
        let mut core = core.within(Arc::clone(&memory));
        // The least that a log may take.
        memory.allow(1);
        let most = usize::try_from(memory.log_bytes_max()).unwrap();
        let write = |number: u8, kind| {
            let key = RequestKey { client: ClientId(1), request: RequestId([number; 16]) };
            let payload = Bytes::from(vec![0; 1 << 20]);
            ClientRequest { key, kind, payload }
        };
        let mut refused = 0;
        for number in 0..100 {
            core.under_way = 0;
            let requests = Requests::Clients(vec![write(number, RequestKind::Write)]);
            network.requests.try_send(requests).unwrap();
            core.run_once(None);
            let jobs = log_writer.jobs.try_iter().flat_map(|batch| batch.jobs);
            let done = jobs.map(|job| {
                let last = job.entries.last().map(crate::record::Entry::id);
                Persisted { sequence: job.sequence, last }
            });
            let completions = done.collect();
            core.run_once(Some(CoreItem::Persisted { completions, bytes: 0 }));
            refused += network.outbound.try_iter().map(|it| it.refusals.len()).sum::<usize>();
        }
        let bytes = core.replica.log().bytes();
        assert!(bytes >= most && bytes < most + (2 << 20), "{bytes} of {most}");
        assert!(refused >= 30, "{refused} refused");
        assert!(core.cut_wanted_at.is_some(), "it wants to be cut");
        core.under_way = 0;
        let last = core.replica.log().last();
        core.admit(Msg::Client(write(200, RequestKind::Read)));
        core.admit(Msg::Peer(append(0)));
        assert_eq!((core.replica.log().last(), core.effects.refusals.len()), (last, 0));
        memory.allow(4 * most as u64);
        core.admit(Msg::Client(write(201, RequestKind::Write)));
        // The log's clock may have come first, if the last entry is old.
        assert!(core.replica.log().last().index > last.index, "there is room again");
    }

    #[test]
    fn a_full_network_loses_messages_to_peers_but_no_refusal() {
        let (mut core, network, ..) = quiet_core();
        for _ in 0..QUEUE_LEN + 3 {
            core.effects.send.push(to_peer());
            core.effects.refusals.push(refusal());
            core.run_once(None);
        }
        assert_eq!(core.counters.outbound_dropped.get(), 3);
        assert!(core.poll_timeout() <= RETRY, "it must try again soon");
        let before: usize = network.outbound.try_iter().map(|d| d.refusals.len()).sum();
        core.run_once(None);
        let after = network.outbound.try_recv().unwrap();
        assert_eq!((before, after.refusals.len(), after.peers.len()), (QUEUE_LEN, 3, 0));
        assert!(core.poll_timeout() > RETRY);
    }

    #[test]
    fn jobs_that_find_no_room_wait_in_order_and_join_the_next_batch() {
        let (mut core, _network, log_writer, applier) = quiet_core();
        let mut buffer = RecordBuffer::default();
        let count = QUEUE_LEN as u64 + 3;
        for number in 1..=count {
            core.effects.append = Some(append_job(number));
            let entry = buffer.encode(EntryId::new(1, number), EntryKind::NoOp, b"");
            core.effects.apply.entries.push(Committed { entry, as_leader: false });
            core.collect();
            core.hand_on();
        }
        let mut sequences: Vec<u64> = Vec::new();
        let mut indexes: Vec<u64> = Vec::new();
        let mut bytes = 0;
        for _ in 0..2 {
            for batch in log_writer.jobs.try_iter() {
                bytes += batch.bytes;
                sequences.extend(batch.jobs.iter().map(|job| job.sequence.0));
            }
            for batch in applier.jobs.try_iter() {
                bytes += batch.bytes;
                indexes.extend(batch.job.entries.iter().map(|committed| committed.entry.index().0));
            }
            core.run_once(None);
        }
        assert!(sequences.iter().copied().eq(1..=count), "{sequences:?}");
        assert!(indexes.iter().copied().eq(1..=count), "{indexes:?}");
        assert_eq!(core.under_way, bytes);
    }

    #[test]
    fn a_snapshot_is_told_of_when_all_in_it_is_known_to_be_applied() {
        let (mut core, ..) = quiet_core();
        let last = EntryId::new(1, 5);
        let snapshot = SnapshotId { last, ..SnapshotId::default() };
        core.run_once(Some(CoreItem::Snapshot(SnapshotEvent::Taken(snapshot))));
        assert_eq!(core.taken, Some(snapshot), "nothing is applied yet");
        // By a leader's snapshot the state has come further.
        let installed = Some(SnapshotId { last: EntryId::new(2, 9), ..snapshot });
        core.run_once(Some(CoreItem::Applied(Applied { installed, ..Applied::default() })));
        assert_eq!((core.taken, core.replica.commit_index()), (None, Index(9)));
    }

    #[test]
    fn it_stops_when_told_and_when_it_finds_itself_alone() {
        let (mut core, network, ..) = quiet_core();
        assert_eq!(core.run_once(None), StageState::Running);
        assert_eq!(core.run_once(Some(CoreItem::Stop)), StageState::Stopped);
        drop(network);
        core.effects.send.push(to_peer());
        assert_eq!(core.run_once(None), StageState::Stopped);
    }
}
