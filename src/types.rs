//! Terms, indexes, ids and instants as distinct types, so that none can be passed for another. This
//! file depends on nothing in the crate.

use std::fmt;
use std::time::Duration;

/// The id of a replica. Displayed as four hexadecimal digits, as in the course's simulator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// An election term (§5.1). A new replica starts in term 0, which has no leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// A position in the log. The first entry has index 1; [`Index::ZERO`] precedes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

/// The identity of a log entry. Two logs that contain the same id are identical up to that entry
/// (Log Matching, §5.3).
///
/// Ordered by term and then index, as votes compare logs (§5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// The entry's position.
    pub index: Index,
}

/// The number of a leader's round of messages. It increases within a term, and replies echo it.
/// Leases, read indexes and round-trip times are based on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Round(pub u64);

/// The number of a job for the log writer. The first job of a process has number 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobSequence(pub u64);

/// The sender of a request: a connection of the server, or a client of the course's simulator,
/// which names itself with four hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u32);

/// The id of a client's request. A request that is sent again keeps its id. The bytes are opaque;
/// the course's simulator puts its message id here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub [u8; 16]);

/// The id of a request, unique in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestKey {
    /// The client that sent the request.
    pub client: ClientId,
    /// The request's id, unique for this client.
    pub request: RequestId,
}

/// A reading of the driver's monotonic clock, in nanoseconds since an origin that the driver
/// chooses. Readings of different replicas cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// The role of a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for pre-votes.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads its term.
    Leader,
}

/// The condition of a replica's disk, as reported to the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// Writes complete, and there is free space.
    #[default]
    Healthy,
    /// Free space is below the reserve.
    Low,
    /// Jobs are waiting, and none has completed for `Config::disk_stall_timeout`.
    Stalled,
}

/// Whether a request changes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Becomes a log entry.
    Write,
    /// Is answered linearizably without a log entry (§8).
    Read,
}

impl Index {
    /// The index before the first entry.
    pub const ZERO: Index = Index(0);
    /// An upper bound on indexes, which no log reaches. A message with a larger index is malformed.
    pub const MAX: Index = Index(1 << 62);

    /// Returns the next index.
    #[must_use]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// Returns the previous index, or [`Index::ZERO`] if this is zero.
    #[must_use]
    pub const fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The largest term. Encodings reserve the highest bit.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// Returns the next term, or [`Term::MAX`] if this is the largest.
    #[must_use]
    pub const fn next(self) -> Term {
        if self.0 < Term::MAX.0 { Term(self.0 + 1) } else { Term::MAX }
    }
}

impl Round {
    /// Returns the next round.
    #[must_use]
    pub const fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl JobSequence {
    /// Returns the number of the next job.
    #[must_use]
    pub const fn next(self) -> JobSequence {
        JobSequence(self.0 + 1)
    }
}

impl EntryId {
    /// The id that precedes the first entry of every log.
    pub const ZERO: EntryId = EntryId { term: Term(0), index: Index(0) };

    /// Builds an id from numbers, for decoders and tests.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }
}

impl Instant {
    /// The clock's origin.
    pub const ZERO: Instant = Instant(0);
    /// An instant after every reading: it never comes.
    pub const MAX: Instant = Instant(u64::MAX);

    /// Returns the time since `earlier`, or zero if that is later.
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
