//! The words of the field as types: terms, indexes, ids and instants, so that none is taken for
//! another. Everything depends on this file; it depends on nothing.

use std::fmt;
use std::time::Duration;

/// A replica's number. Shown as the four hex digits that the course's simulator uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// An election term (§5.1). Starts at 0, where nobody leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// A place in the log. The first entry is at 1; [`Index::ZERO`] is the place before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

/// Names an entry for good: two logs that hold the same id hold the same entry and the same
/// entries before it (Log Matching, §5.3). Ordered as votes compare logs (§5.4.1): by term first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// Its place.
    pub index: Index,
}

/// Number of a leader's sending round, monotone within its term and echoed by answers; what
/// leases, read indexes and round trip times rest on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Round(pub u64);

/// Numbers the jobs handed to the log writer, from 1, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobSequence(pub u64);

/// Who asked: under the course's simulator the client's four hex digits, elsewhere a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u32);

/// One request of a client, the same when it is sent again. Opaque bytes; the course's MID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub [u8; 16]);

/// Names a request in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestKey {
    /// Who asked.
    pub client: ClientId,
    /// Which of its requests.
    pub request: RequestId,
}

/// A reading of the driver's monotonic clock, in nanoseconds since an origin that the driver
/// chose. Readings of different replicas can't be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// Which role a replica plays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RoleName {
    /// Follows, or waits.
    Follower,
    /// Asks whether it would win.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// How a replica's disk is, as far as it matters to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// It writes, and has room.
    #[default]
    Healthy,
    /// It is short of room: what can be stored elsewhere should be.
    Low,
    /// It has not finished a write for long.
    Stalled,
}

/// Whether a request changes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Goes through the log.
    Write,
    /// Only reads; answered linearizably without a log entry (§8).
    Read,
}

impl Index {
    /// The place before the first entry.
    pub const ZERO: Index = Index(0);
    /// No log grows this far. Messages that name a larger index are malformed.
    pub const MAX: Index = Index(1 << 62);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The place before this one; [`Index::ZERO`] stays.
    #[must_use]
    pub const fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The largest term. Encodings keep the highest bit for themselves.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// The term after this one; [`Term::MAX`] stays.
    #[must_use]
    pub const fn next(self) -> Term {
        if self.0 < Term::MAX.0 { Term(self.0 + 1) } else { Term::MAX }
    }
}

impl Round {
    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl JobSequence {
    /// The job after this one.
    #[must_use]
    pub const fn next(self) -> JobSequence {
        JobSequence(self.0 + 1)
    }
}

impl EntryId {
    /// The id before the first entry of every log.
    pub const ZERO: EntryId = EntryId { term: Term(0), index: Index(0) };

    /// An id from bare numbers, for tests and decoders.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }
}

impl Instant {
    /// The clock's origin.
    pub const ZERO: Instant = Instant(0);
    /// Later than any reading.
    pub const MAX: Instant = Instant(u64::MAX);

    /// Time since `earlier`; zero if that is later.
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
