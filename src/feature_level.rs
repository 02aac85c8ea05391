//! Feature levels: what the programs of a cluster's replicas understand. Each version of the
//! program that adds something to the log, to snapshots or to messages between replicas has a
//! higher level than the version before it.
//!
//! The level of a *cluster* is part of the replicated state. It is never higher than that of a
//! member's program: the leader raises it, by an entry of the log, once all members have told it
//! that they support a higher one. Whatever an earlier version does not understand is used only
//! when the cluster has the level for it. So replicas can be upgraded one after the other, and
//! until the level rises each can go back to the version before.

use std::fmt;

/// A feature level, of a program or of a cluster. Levels above [`FeatureLevel::NEWEST`] are those
/// of later versions of the program.
///
/// Invariant: at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeatureLevel(u16);

/// The versions of the program at which the level was raised, from level 1 on.
const VERSIONS: [&str; FeatureLevel::NEWEST.0 as usize] = ["0.1", "0.2"];

impl FeatureLevel {
    /// Level of the versions 0.1, in which replicas do not tell their level.
    pub const V0_1: FeatureLevel = FeatureLevel(1);
    /// Level of the versions 0.2.
    pub const V0_2: FeatureLevel = FeatureLevel(2);
    /// The lowest level of a cluster with which this program works.
    pub const OLDEST: FeatureLevel = FeatureLevel::V0_1;
    /// The level of this program.
    pub const NEWEST: FeatureLevel = FeatureLevel::V0_2;

    /// Returns the level with this number; `None` for 0, which no version has.
    pub const fn from_number(number: u16) -> Option<FeatureLevel> {
        if number == 0 { None } else { Some(FeatureLevel(number)) }
    }

    /// Returns the level's number, at least 1.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns whether this program understands everything that clusters of this level use.
    pub fn is_supported(self) -> bool {
        self <= FeatureLevel::NEWEST
    }

    /// Returns the version of the program that a level needs, for messages: "version 0.2 or later".
    pub fn needed_version(self) -> String {
        match VERSIONS.get(usize::from(self.0) - 1) {
            Some(version) => format!("version {version} or later"),
            None => format!("a version later than {}", VERSIONS[VERSIONS.len() - 1]),
        }
    }

    /// Returns the error with which clients are refused what the cluster's level does not allow
    /// yet. It begins with an error code.
    pub fn refusal(self) -> String {
        format!(
            "ERR not applied: this needs every replica to run {}; see cluster_feature_level in \
             INFO",
            self.needed_version()
        )
    }
}

/// The oldest level, which is that of a new cluster.
impl Default for FeatureLevel {
    fn default() -> FeatureLevel {
        FeatureLevel::OLDEST
    }
}

/// Writes the level's number.
impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_levels_name_the_version_that_they_need() {
        assert_eq!(FeatureLevel::from_number(0), None);
        assert_eq!(FeatureLevel::V0_2.needed_version(), "version 0.2 or later");
        let later = FeatureLevel::from_number(9).unwrap();
        assert_eq!(later.needed_version(), "a version later than 0.2");
        assert!(FeatureLevel::NEWEST.is_supported() && !later.is_supported());
        let refusal = FeatureLevel::V0_2.refusal();
        assert!(refusal.starts_with("ERR not applied: this needs every replica"), "{refusal}");
    }

    #[test]
    fn newest_feature_level_is_that_of_this_program_version() {
        let version = env!("CARGO_PKG_VERSION");
        let newest = VERSIONS[usize::from(FeatureLevel::NEWEST.number()) - 1];
        assert!(version.starts_with(&format!("{newest}.")), "{version} has the level of {newest}");
    }
}
