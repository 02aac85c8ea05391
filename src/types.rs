//! Terms, indexes, ids and instants as distinct types, so that none can be passed for another. This
//! file depends on nothing in the crate.

use std::fmt;
use std::time::Duration;

/// Id of a replica, unique in its cluster. Displayed as four hexadecimal digits, as in the
/// university course's simulator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u16);

/// An election term (Raft paper, section 5.1). A new replica starts in term 0, which has no leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// The index of a log entry. The first entry has index 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

/// The id of a log entry: its term and index. Two logs that contain an entry with the same id are
/// identical up to this entry (Log Matching, section 5.3 of the Raft paper).
///
/// Ordered by term and then by index, which is how voters compare logs (section 5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that created the log entry.
    pub term: Term,
    /// The position of the entry in the log.
    pub index: Index,
}

/// The sequence number of a message round, which is a batch of messages that a leader sends in one
/// step. A reply contains the number of the round that it answers. From these numbers, the leader
/// derives leases, confirms reads (read index) and measures round-trip times. They increase within
/// a term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Round(pub u64);

/// Sequence number of a write job of the log writer, which writes log entries to disk and syncs
/// them. The first job of a process has number 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobSequence(pub u64);

/// Id of a client: a connection to the server, or a client in the university course's simulator,
/// which writes the id as four hexadecimal digits. For its batches of client requests, the server
/// uses a constant id instead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u32);

/// Id of a client's request or of a batch of requests, chosen by the sender, which uses the same id
/// when it sends the request again. The consensus core does not interpret it; in the university
/// course's simulator, it is the message id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub [u8; 16]);

/// The id of a request or of a batch of requests, unique in the cluster. It consists of the
/// client's id and an id that the client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestKey {
    /// The client that sent the request.
    pub client: ClientId,
    /// The id of the request, unique among the requests of the client.
    pub request: RequestId,
}

/// A reading of the monotonic clock, in nanoseconds since an arbitrary origin. Readings of
/// different replicas cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// The role of a replica in Raft. A candidate that is still asking for pre-votes has a role of its
/// own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RoleName {
    /// The replica follows a leader, or waits to hear from one.
    Follower,
    /// The replica asks for pre-votes, to find out whether it could win an election before it
    /// increases its term.
    PreCandidate,
    /// The replica asks for votes in a new term.
    Candidate,
    /// The replica is the leader of its current term.
    Leader,
}

/// The condition of a replica's disk, which followers report to the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// The disk is healthy: writes complete, and there is enough free space.
    #[default]
    Healthy,
    /// The disk is low on space: free space is below the reserve, the minimum at which the replica
    /// accepts writes.
    Low,
    /// The disk is stalled: writes are pending, and none has completed for
    /// `Config::disk_stall_timeout`.
    Stalled,
}

/// Whether a client's request may change the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A write, which becomes a log entry.
    Write,
    /// A linearizable read, which is answered without a log entry (Raft paper, section 8).
    Read,
}

impl Index {
    /// Stands for the position before the first entry of a log, which has index 1.
    pub const ZERO: Index = Index(0);
    /// Upper bound of the indexes in messages between replicas, which no log ever reaches. A
    /// message with a larger index is rejected as malformed; the wire decoders also reject this
    /// index itself.
    pub const MAX: Index = Index(1 << 62);

    /// Returns the index after this one.
    #[must_use]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// Returns the index before this one; [`Index::ZERO`] for index 0.
    #[must_use]
    pub const fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The largest valid term, 2^63 - 1, because encodings reserve the highest bit.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// Returns the term after this one, or [`Term::MAX`] if this is the largest term.
    #[must_use]
    pub const fn next(self) -> Term {
        if self.0 < Term::MAX.0 { Term(self.0 + 1) } else { Term::MAX }
    }
}

impl Round {
    /// Returns the sequence number of the round after this one.
    #[must_use]
    pub const fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl JobSequence {
    /// Returns the sequence number of the job after this one.
    #[must_use]
    pub const fn next(self) -> JobSequence {
        JobSequence(self.0 + 1)
    }
}

impl EntryId {
    /// Stands for the entry before the first one of a log: term 0, index 0.
    pub const ZERO: EntryId = EntryId { term: Term(0), index: Index(0) };

    /// Returns the entry id with this term and index.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }
}

impl Instant {
    /// The origin of the monotonic clock, before all of its readings.
    pub const ZERO: Instant = Instant(0);
    /// An instant after all readings of the monotonic clock, which stands for "never".
    pub const MAX: Instant = Instant(u64::MAX);

    /// Returns the time that has passed from `earlier` to this instant, or zero if `earlier` is
    /// later.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Estimate of a round-trip time and its variation, both smoothed as in TCP (RFC 6298, section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoundTrip {
    /// Smoothed average of the measured round-trip times.
    pub smoothed: Duration,
    /// Smoothed average of the absolute differences between measured round-trip times and
    /// `smoothed`.
    pub variation: Duration,
}

impl RoundTrip {
    /// Returns the estimate after the first measurement, `time`.
    #[must_use]
    pub fn first(time: Duration) -> RoundTrip {
        RoundTrip { smoothed: time, variation: time / 2 }
    }

    /// Updates the estimate with another measurement, `time`.
    pub fn add(&mut self, time: Duration) {
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(time)) / 4;
        self.smoothed = (self.smoothed * 7 + time) / 8;
    }
}

/// A request to the leader about the transfer of its leadership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferRequest {
    /// Start a transfer.
    Start {
        /// The follower that is to become the leader; `None` for the most suitable one.
        target: Option<NodeId>,
        /// Time after which the transfer ends if the target is not the leader by then, unless the
        /// configured timeout is shorter. `None` for the configured timeout.
        timeout: Option<Duration>,
    },
    /// End the transfer in progress, so that the leader accepts requests again. If the target was
    /// asked to campaign already, it may become the leader all the same.
    Abort,
}

/// The reason why a requested leadership transfer does not begin, or why none can be aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferRefusal {
    /// The replica that received the request is not the leader.
    NotLeader,
    /// The requested target is the leader itself.
    AlreadyLeads,
    /// A leadership transfer is in progress.
    InProgress,
    /// No leadership transfer is in progress, so none can be aborted.
    NotInProgress,
    /// The requested target is not a member of the cluster.
    UnknownTarget,
    /// The requested target is a learner, or is being removed.
    TargetVoteless,
    /// The requested target is a witness, which has no data.
    TargetWitness,
    /// The requested target has not answered the leader for several heartbeat intervals.
    TargetSilent,
    /// The disk of the requested target is stalled or low on space.
    TargetDisk,
    /// The requested target lacks too much of the leader's log.
    TargetBehind,
    /// No target was requested, and no follower can become the leader now.
    NoTarget,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index.0, self.term.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.iter().all(u8::is_ascii_graphic) {
            self.0.iter().try_for_each(|byte| write!(f, "{}", *byte as char))
        } else {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }
}

macro_rules! plain_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
plain_number!(Term, Index, Round, JobSequence, ClientId);
