//! The core stage: owns the replica and reads the monotonic clock. A pass receives the items that
//! are waiting, lets the replica handle them, flushes once, and sends the effects. It blocks only
//! in [`Core::wait`].
//!
//! A pass is bounded by a number of items and by time. Peers' messages and completions come first,
//! regardless of how many requests are waiting; then a slice of the requests, in order. The rest
//! waits for the next pass, so heartbeats, votes and timeouts never wait for the end of a flood of
//! requests.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the pass and its timing |
//! | `requests.rs` | which messages and requests are admitted |
//! | `administration.rs` | leadership transfers and membership changes on request |
//! | `completions.rs` | what the other stages report |
//! | `output.rs` | effects on their way to the other stages, and the bytes in flight |
//! | `large_writes.rs` | batches that are appended in pieces |
//! | `digest_check.rs` | marks and reports of the comparison of the replicas' states |
//! | `replicated_clock.rs` | clock entries, and requests that wait for the clocks of a quorum |
//! | `rejected_log.rs` | log lines about messages that no correct peer sends |
//!
//! # Readings of the clock
//!
//! Promises between replicas that are bounded by time hold only if each reading errs on the safe
//! side:
//!
//! - *The promise of this replica to a leader* (no vote for a while) is measured from a reading
//!   taken after the leader's message was received. So the clock is read again after each item is
//!   received. Whether such a promise has ended is decided by the same reading, which was taken
//!   before the answer is sent.
//! - *The promises of followers to this leader* (its lease) are measured from a reading taken
//!   before the round was sent: the reading of the flush that creates the round.
//! - *A lease* must still be in force after the arrival of the reads that it serves: the reading of
//!   the flush is taken after everything that the pass received.
//! - *The silence of peers* counts only if everything that had arrived by the end of the timeout
//!   has been handled, see [`PeersRead`](crate::runtime::channels::PeersRead).
//! - Everything else (round trips, retransmission, deadlines of requests, the intervals of the
//!   replicated clock) may be late by a pass, and is never early.

mod administration;
mod completions;
mod digest_check;
mod large_writes;
mod output;
#[cfg(test)]
mod pass_tests;
mod rejected_log;
pub(crate) mod replicated_clock;
mod requests;
#[cfg(test)]
mod test_support;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::never;
use crossbeam::select;

use crate::config::Mutant;
use crate::feature_level::FeatureLevel;
use crate::large_writes::LargeWrites;
use crate::raft::{DiskState, Effects, Msg, Replica, SnapshotId};
use crate::runtime::boards::{MemoryBoard, RuntimeCounters, StatusBoard};
use crate::runtime::channels::{
    AppendBatch, ApplyBatch, CoreEnds, CoreItem, Leadership, Outbound, QUEUE_LEN,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::{Pass, StageState};
use crate::runtime::trace_board::TraceBoard;
use crate::types::{Index, Instant};

use self::administration::StartedChange;
use self::output::InFlight;
use self::rejected_log::RejectedLog;
use self::replicated_clock::CoreClock;
use self::requests::{PendingRequests, Request};
use crate::digest_schedule::DigestSchedule;

pub(crate) use self::output::{ApplyOutput, PassOutput};
pub(crate) use self::requests::NonLeaderPolicy;

/// Interval at which the core tries again to send jobs and messages to another stage whose queue
/// was full.
const RETRY: Duration = Duration::from_millis(1);

/// Maximum number of clients' requests (in the server, batches of requests) that the core handles
/// in one pass (iteration of its loop).
pub(crate) const PASS_REQUESTS_MAX: usize = 4_096;

/// The core stage: owns the consensus state machine ([`Replica`]), passes it all input, and sends
/// its output to the other stages.
pub(crate) struct Core {
    replica: Replica,
    clock: Clock,
    /// The latest reading of the monotonic clock. While a message is being handled, this reading
    /// was taken after the message was received.
    now: Instant,
    effects: Effects,
    ends: CoreEnds,
    requests: PendingRequests,
    large_writes: LargeWrites,
    /// Whether the core is delaying an expired timeout because messages that peers sent before the
    /// timeout may still be unread in this replica's sockets.
    waits_for_peers: bool,
    /// Messages and refusals waiting to be sent because the network stage's queue is full. Normally
    /// empty between two iterations of the core's loop, like `appends` and `applies`.
    outbound: Outbound,
    appends: AppendBatch,
    applies: ApplyBatch,
    in_flight: InFlight,
    output: PassOutput,
    /// A durable snapshot of this replica's own state that has not been announced to the consensus
    /// code yet, because the core does not know yet that all entries in it were applied. `None` if
    /// there is no such snapshot.
    unannounced_snapshot: Option<SnapshotId>,
    memory: Arc<MemoryBoard>,
    /// Time at which the core last requested a snapshot because the log in memory was full; `None`
    /// if it has never done so.
    full_log_snapshot_at: Option<Instant>,
    /// Time at which the core last requested a snapshot because disk space was scarce.
    scarce_disk_snapshot_at: Instant,
    non_leader_policy: NonLeaderPolicy,
    /// The leader and the term as last reported to the network stage. During a leadership transfer,
    /// the report names no leader.
    leadership: Leadership,
    /// The version of the members, and the cluster's feature level, that the network stage knows.
    members_version: (u64, FeatureLevel),
    /// Index of the configuration that the last log line about the members reported.
    members_logged: Index,
    /// Whether a log line has reported that this replica was removed from the cluster.
    removal_logged: bool,
    /// The membership change that was started on request and is not answered yet; `None` if there
    /// is none.
    started_change: Option<StartedChange>,
    /// The replicated clock, which decides when keys expire; `None` under the university course's
    /// simulator, where no key expires.
    replicated_clock: Option<CoreClock>,
    digest_schedule: DigestSchedule,
    /// The state of the disk (healthy, low on space or stalled) that the latest log line about it
    /// reported.
    disk: DiskState,
    /// Free disk space in bytes, as last reported by the log writer.
    free_bytes: u64,
    status_board: Arc<StatusBoard>,
    /// Time at which the core last published the replica's status for the other stages.
    published_at: Instant,
    rejected_log: RejectedLog,
    counters: Arc<RuntimeCounters>,
    trace: Arc<TraceBoard>,
}

impl Core {
    pub(crate) fn new(
        replica: Replica,
        clock: Clock,
        ends: CoreEnds,
        non_leader_policy: NonLeaderPolicy,
        status_board: Arc<StatusBoard>,
        counters: Arc<RuntimeCounters>,
    ) -> Core {
        let members_version = (replica.members_version(), replica.feature_level());
        let (members_logged, _) = replica.configuration();
        Core {
            replica,
            clock,
            now: clock.now(),
            effects: Effects::default(),
            ends,
            requests: PendingRequests::default(),
            large_writes: LargeWrites::default(),
            waits_for_peers: false,
            outbound: Outbound::default(),
            appends: AppendBatch::default(),
            applies: ApplyBatch::default(),
            in_flight: InFlight::default(),
            output: PassOutput::default(),
            unannounced_snapshot: None,
            memory: Arc::default(),
            full_log_snapshot_at: None,
            scarce_disk_snapshot_at: Instant::ZERO,
            non_leader_policy,
            leadership: Leadership::default(),
            members_version,
            members_logged,
            removal_logged: false,
            started_change: None,
            replicated_clock: None,
            digest_schedule: DigestSchedule::default(),
            disk: DiskState::default(),
            free_bytes: 0,
            status_board,
            published_at: Instant::ZERO,
            rejected_log: RejectedLog::default(),
            counters,
            trace: Arc::default(),
        }
    }

    /// Sets the shared record of memory usage, which also holds the limits on the memory for log
    /// entries.
    pub(crate) fn with_memory(mut self, memory: Arc<MemoryBoard>) -> Core {
        memory.note_log(self.replica.log().bytes());
        self.memory = memory;
        self
    }

    /// Sets the board that has the write that is being traced.
    pub(crate) fn with_trace(mut self, trace: Arc<TraceBoard>) -> Core {
        self.trace = trace;
        self
    }

    /// Adds a replicated clock, which decides when keys expire. This replica advances it while it
    /// is the leader.
    pub(crate) fn with_clock(mut self, mut clock: CoreClock) -> Core {
        clock.set_members(self.replica.id(), self.replica.configuration().1);
        // The network reports this clock to peers before the core's first pass.
        clock.tick(self.clock.now(), &self.clock);
        self.replicated_clock = Some(clock);
        self
    }

    /// Makes the leader compare the states of the replicas at this interval; never if it is zero.
    pub(crate) fn with_digest_check(mut self, interval: Duration) -> Core {
        self.digest_schedule = DigestSchedule::new(interval);
        self
    }

    /// Blocks until an item or a request arrives, or until the replica's next timeout. Returns the
    /// item if one was received. Returns `None` after a timeout, or if requests are waiting in
    /// `self.requests` or in the request queue.
    pub(crate) fn wait(&mut self) -> Option<CoreItem> {
        if self.has_work() {
            return None;
        }
        let timeout = self.next_pass().since(self.clock.now());
        let none = never();
        let requests = if self.has_too_much_in_flight() { &none } else { &self.ends.requests };
        select! {
            // An error means that all other stages have stopped.
            recv(self.ends.inbox) -> item => Some(item.unwrap_or(CoreItem::Stop)),
            recv(requests) -> requests => match requests {
                Ok(requests) => {
                    self.requests = PendingRequests::new(requests);
                    None
                }
                Err(_) => Some(CoreItem::Stop),
            },
            default(timeout) => None,
        }
    }

    /// Returns how long after the last pass (iteration of the core's loop) a thread that polls
    /// sockets may sleep before the next one. Zero if the core has work now.
    pub(crate) fn poll_timeout(&self) -> Duration {
        if self.has_work() { Duration::ZERO } else { self.next_pass().since(self.now) }
    }

    /// Returns whether an item or a request is waiting for the core.
    pub(crate) fn has_work(&self) -> bool {
        let has_requests = !self.requests.is_empty() || !self.ends.requests.is_empty();
        self.has_items() || has_requests && !self.has_too_much_in_flight()
    }

    /// Returns whether peers' messages or completions are waiting for the core.
    pub(crate) fn has_items(&self) -> bool {
        !self.ends.inbox.is_empty()
    }

    /// Returns to which stages the core sent output in its last pass (iteration of its loop), so
    /// that a thread that runs several stages need not check the queues of the others.
    pub(crate) fn output(&self) -> PassOutput {
        self.output
    }

    /// Returns the time at which the core's next pass (iteration of its loop) is due if no item or
    /// request arrives earlier.
    fn next_pass(&self) -> Instant {
        let timeout = self.replica.next_timeout();
        // A timeout that was delayed is not due again at once.
        let timeout = if self.waits_for_peers { timeout.max(self.now + RETRY) } else { timeout };
        let clock = self.replicated_clock.as_ref().filter(|_| self.replica.accepts_writes());
        let due = clock.and_then(|clock| clock.next_due(self.now));
        let timeout = due.map_or(timeout, |due| timeout.min(due));
        let mark_at = self.digest_schedule.next_due().filter(|_| self.replica.accepts_writes());
        let timeout = mark_at.map_or(timeout, |due| timeout.min(due));
        if self.has_unsent() { timeout.min(self.now + RETRY) } else { timeout }
    }

    /// Runs one pass (iteration of the core's loop): handles `first`, then the waiting items and
    /// requests, up to a limit, and sends the resulting jobs and messages. Returns whether the
    /// stage continues.
    pub(crate) fn run_once(&mut self, first: Option<CoreItem>) -> StageState {
        // Read before the queue is emptied: the queue contains everything that the network stage
        // had read by then.
        let peers_read_at = self.ends.peers_read.at();
        self.now = self.clock.now();
        self.update_clocks();
        if self.take_items(first) == StageState::Stopped {
            return StageState::Stopped;
        }
        let took_all = self.ends.inbox.is_empty();
        // Before other requests use the space for it, and after large writes have arrived.
        self.append_pieces();
        self.take_requests();
        self.append_pieces();
        // After everything was received, for the reads that a lease serves; before anything is
        // sent, for the leases that begin with it. The thread may have been paused since the last
        // reading.
        self.now = self.clock.now();
        if self.replica.accepts_writes()
            && let Some(request) = self.replicated_clock.as_mut().and_then(|it| it.due(self.now))
        {
            self.append_clock_entry(request);
        }
        self.compare_states();
        let silence_deadline = self.replica.silence_deadline();
        self.waits_for_peers =
            self.now >= silence_deadline && !(took_all && peers_read_at >= silence_deadline);
        if self.waits_for_peers {
            self.ends.to_network.read_peers();
        } else if self.now >= self.replica.next_timeout() {
            self.replica.handle_timeout(self.now, &mut self.effects);
        }
        self.replica.flush(self.now, &mut self.effects);
        self.collect();
        self.send()
    }

    /// Handles `first`, then queued items (peers' messages and completions), up to a limit. Returns
    /// [`StageState::Stopped`] if the network has stopped.
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
                    self.on_persisted(completions, bytes);
                }
                CoreItem::Applied(applied) => self.on_applied(applied),
                CoreItem::IndexedReads(reads) => self.queue_reads(reads),
                CoreItem::TakeSnapshot => self.applies.take_snapshot = true,
                CoreItem::Admin(call) => self.administer(call),
                CoreItem::PublishStatus => self.published_at = Instant::ZERO,
                CoreItem::Snapshot(event) => self.on_snapshot_event(event),
                CoreItem::DiskSpace(report) => self.on_disk_space(report),
                CoreItem::Stop => return StageState::Stopped,
            }
        }
        StageState::Running
    }

    /// Reads the clock. Must be called after a leader's message is received and before it is
    /// handled, because the promise to grant no vote for a while (the leader's lease) is measured
    /// from this reading, which must not be earlier than the time at which the message was sent.
    fn read_clock_after_receipt(&mut self) {
        if !self.replica.breaks(Mutant::PromiseBeforeReceipt) {
            self.now = self.clock.now();
        }
    }

    /// Handles waiting clients' requests and forwarded writes, up to the limits of one iteration of
    /// the core's loop and on the bytes in flight.
    fn take_requests(&mut self) {
        let mut pass = Pass::of_large(self.clock, PASS_REQUESTS_MAX);
        while !self.has_too_much_in_flight()
            && let Some(request) = pass.next(|| self.next_request())
        {
            match request {
                Request::Client(request) => self.admit(Msg::Client(request)),
                Request::Forwarded(write) => self.admit_forwarded(write),
            }
        }
    }

    /// Returns the next request; `None` if no request is waiting. Receives another batch of
    /// requests only after all requests of the previous batch have been returned.
    fn next_request(&mut self) -> Option<Request> {
        loop {
            if let Some(request) = self.requests.next() {
                return Some(request);
            }
            self.requests = PendingRequests::new(self.ends.requests.try_recv().ok()?);
            self.read_clock_after_receipt();
        }
    }

    /// Passes a message to the consensus code ([`Replica`]), which adds its output to
    /// `self.effects`.
    fn handle(&mut self, message: Msg) {
        let traced = match &message {
            Msg::Client(request) if self.trace.is_traced(request.key.request) => {
                Some(self.replica.log().last().index)
            }
            _ => None,
        };
        self.replica.handle_msg(self.now, message, &mut self.effects);
        let last = self.replica.log().last().index;
        if traced.is_some_and(|before| before < last) {
            self.trace.note_appended(last);
        }
    }
}

#[cfg(test)]
use crate::large_writes::PieceLimits;

#[cfg(test)]
impl Core {
    pub(super) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Sets the limits on the pieces of large writes.
    pub(super) fn with_piece_limits(mut self, limits: PieceLimits) -> Core {
        self.large_writes = LargeWrites::new(limits);
        self
    }

    /// Returns whether a large write is not completely in the log.
    pub(super) fn has_large_writes(&self) -> bool {
        !self.large_writes.is_empty()
    }

    /// Returns the total size in bytes of all jobs in flight (sent to other stages and not
    /// completed), and that of the append jobs among them.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.bytes(), self.in_flight.append_bytes())
    }
}
