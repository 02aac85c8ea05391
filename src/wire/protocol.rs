//! The versions of the protocol between replicas. A version covers frames, the Raft messages in
//! them, and the encoding of write batches. A replica speaks several, and uses with each peer the
//! highest one that both speak.
//!
//! The first frame of a connection, the hello, states which versions its sender speaks. A replica
//! that does not know a peer yet connects with the lowest version that it may use itself, which
//! every peer speaks that it can work with; when the peer's hello shows that both speak a higher
//! one, it connects again with that. Connections are used in one direction only, and each replica
//! connects to the other, so both learn it.

use std::fmt;

/// Number of a version of the protocol between replicas.
pub type ProtocolVersion = u16;

/// The protocol of version 0.1 of the program, in which a hello does not state versions.
pub const V9: ProtocolVersion = 9;
/// The protocol of version 0.2 of the program.
pub const V10: ProtocolVersion = 10;

/// Bit in the number of a connection that a replica sets with version 9, in whose hello is no room
/// for the versions that the sender speaks: it speaks version 10 too. Version 0.1 of the program
/// only compares the numbers of connections, which start at 1.
pub const SPEAKS_V10: u64 = 1 << 63;

/// The versions of the protocol that a replica speaks.
///
/// Invariant: `oldest <= newest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolVersions {
    /// The lowest version.
    pub oldest: ProtocolVersion,
    /// The highest version.
    pub newest: ProtocolVersion,
}

impl ProtocolVersions {
    /// The versions that this program speaks.
    pub const OWN: ProtocolVersions = ProtocolVersions { oldest: V9, newest: V10 };
    /// The versions that version 0.1 of the program speaks.
    pub const V0_1: ProtocolVersions = ProtocolVersions { oldest: V9, newest: V9 };

    /// Returns whether the version is one of these.
    pub fn contains(self, version: ProtocolVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// Returns the highest version that is among both; `None` if there is none.
    pub fn highest_common(self, other: ProtocolVersions) -> Option<ProtocolVersion> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Writes the versions as `9` or `9 to 10`.
impl fmt::Display for ProtocolVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.oldest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_protocol_version_of_both_replicas_is_chosen() {
        let versions = |oldest, newest| ProtocolVersions { oldest, newest };
        for (one, other, common) in [
            ((9, 10), (9, 9), Some(9)),
            ((9, 10), (9, 10), Some(10)),
            ((9, 10), (10, 12), Some(10)),
            ((10, 10), (9, 9), None),
            ((9, 10), (11, 12), None),
        ] {
            let (one, other) = (versions(one.0, one.1), versions(other.0, other.1));
            assert_eq!(one.highest_common(other), common, "{one} with {other}");
            assert_eq!(other.highest_common(one), common, "{other} with {one}");
        }
    }
}
