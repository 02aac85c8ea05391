//! Terms, indexes, ids and instants as distinct types, so that none can be passed for another. This
//! file depends on nothing in the crate.

use std::fmt;
use std::time::Duration;

/// Id of a replica, unique in its cluster. Displayed as four hexadecimal digits, as in the
/// university course's simulator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// An election term (§5.1). A new replica starts in term 0, which has no leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// The index of a log entry. The first entry has index 1; [`Index::ZERO`] precedes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

/// The id of a log entry: its term and index. Two logs that contain the same id are identical up to
/// that entry (Log Matching, §5.3).
///
/// Ordered by term and then by index, which is how voters compare logs (§5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// The entry's index in the log.
    pub index: Index,
}

/// The number of a round of messages. A round is all messages that a leader sends after it has
/// handled one batch of inputs. Round numbers increase within a term, and a reply contains the
/// round number of the message that it answers. Leases, read indexes and round-trip times are based
/// on round numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Round(pub u64);

/// Sequence number of a job of the log writer, the pipeline stage that writes and syncs the log.
/// The first job of a process has number 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobSequence(pub u64);

/// Id of a client: of a connection to the server, or of a client in the university course's
/// simulator, which writes the id as four hexadecimal digits. For batches of requests, the server
/// uses a constant client id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u32);

/// Id of a client's request or of a batch of requests, chosen by the sender. A request that is sent
/// again keeps its id. The consensus core does not interpret the bytes; for a request from the
/// university course's simulator, they are the simulator's message id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub [u8; 16]);

/// The id of a request or of a batch of requests, unique in the cluster: the client and the
/// client's own id for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestKey {
    /// The client that sent the request.
    pub client: ClientId,
    /// The request's id, unique among the requests of this client.
    pub request: RequestId,
}

/// A reading of the driver's monotonic clock, in nanoseconds since an origin that the driver
/// chooses. Readings of different replicas cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// Role of a replica in Raft, with a separate role for a candidate that is still asking for
/// pre-votes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RoleName {
    /// The replica is following a leader, or waiting to hear from one.
    Follower,
    /// The replica is campaigning and asking for pre-votes, without having increased its term.
    PreCandidate,
    /// The replica is campaigning in a new term and asking for votes.
    Candidate,
    /// The replica is the leader of its current term.
    Leader,
}

/// The condition of a replica's disk, as followers report it to the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// Writes are completing, and free disk space is above the reserve.
    #[default]
    Healthy,
    /// Free disk space is below the reserve.
    Low,
    /// The disk is stalled: writes are waiting, and none has completed for
    /// `Config::disk_stall_timeout`.
    Stalled,
}

/// Whether a client's request changes the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A write: the request becomes a log entry.
    Write,
    /// A read: the request is answered linearizably without a log entry (§8).
    Read,
}

impl Index {
    /// The index before the first entry.
    pub const ZERO: Index = Index(0);
    /// Exclusive upper bound on the indexes in messages between replicas: a message with this or a
    /// larger index is rejected as malformed. No log reaches it in practice.
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
    /// The largest valid term, 2^63 - 1: encodings reserve the highest bit of the 64-bit integer.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// Returns the term after this one, or [`Term::MAX`] if this is the largest term.
    #[must_use]
    pub const fn next(self) -> Term {
        if self.0 < Term::MAX.0 { Term(self.0 + 1) } else { Term::MAX }
    }
}

impl Round {
    /// Returns the round number after this one.
    #[must_use]
    pub const fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl JobSequence {
    /// Returns the job number after this one.
    #[must_use]
    pub const fn next(self) -> JobSequence {
        JobSequence(self.0 + 1)
    }
}

impl EntryId {
    /// The id before that of the first entry of every log: term 0, index 0.
    pub const ZERO: EntryId = EntryId { term: Term(0), index: Index(0) };

    /// Returns the entry id with this term and index, given as plain numbers.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }
}

impl Instant {
    /// The origin of the monotonic clock.
    pub const ZERO: Instant = Instant(0);
    /// An instant after every reading of the clock; stands for "never".
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

/// Round-trip time of messages and its variation, both smoothed as in TCP (RFC 6298, section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoundTrip {
    /// The smoothed round-trip time.
    pub smoothed: Duration,
    /// The smoothed absolute difference between a round trip and `smoothed`.
    pub variation: Duration,
}

impl RoundTrip {
    /// Returns the estimate after the first measured round-trip time.
    #[must_use]
    pub fn first(time: Duration) -> RoundTrip {
        RoundTrip { smoothed: time, variation: time / 2 }
    }

    /// Updates the estimate with a measured round-trip time.
    pub fn add(&mut self, time: Duration) {
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(time)) / 4;
        self.smoothed = (self.smoothed * 7 + time) / 8;
    }
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
