//! Feature levels: which log entries, snapshot contents and messages between replicas a program
//! understands. Each version of the program that adds something to these has a higher level than
//! the previous version.
//!
//! A *cluster*, too, has a level, which is part of the replicated state. It never exceeds the level
//! of any member's program: the leader raises it with a log entry once all members have announced
//! that they support a higher one. What an earlier version does not understand is used only when
//! the cluster's level allows it. Replicas can therefore be upgraded one at a time, and each can be
//! downgraded until the cluster's level is raised.

use std::fmt;

/// The feature level of a program or of a cluster. Levels above [`FeatureLevel::NEWEST`] belong to
/// later versions of the program.
///
/// Invariant: at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeatureLevel(u16);

/// For each level from 1 on, the first version of the program that has it.
const VERSIONS: [&str; FeatureLevel::NEWEST.0 as usize] = ["0.1", "0.2"];

impl FeatureLevel {
    /// Level of version 0.1, whose replicas do not announce a level.
    pub const V0_1: FeatureLevel = FeatureLevel(1);
    /// Level of version 0.2.
    pub const V0_2: FeatureLevel = FeatureLevel(2);
    /// Lowest cluster level that this program works with.
    pub const OLDEST: FeatureLevel = FeatureLevel::V0_1;
    /// Level of this program.
    pub const NEWEST: FeatureLevel = FeatureLevel::V0_2;

    /// Returns the level with this number; `None` for 0.
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

    /// Returns the program version that supports this level, such as "version 0.2 or later".
    pub fn needed_version(self) -> String {
        match VERSIONS.get(usize::from(self.0) - 1) {
            Some(version) => format!("version {version} or later"),
            None => format!("a version later than {}", VERSIONS[VERSIONS.len() - 1]),
        }
    }

    /// Returns the error reply, with its code, to a request that needs this level while the
    /// cluster's level is lower.
    pub fn refusal(self) -> String {
        format!(
            "ERR not applied: this needs every replica to run {}; see cluster_feature_level in \
             INFO",
            self.needed_version()
        )
    }
}

/// Returns the oldest level, which a new cluster has.
impl Default for FeatureLevel {
    fn default() -> FeatureLevel {
        FeatureLevel::OLDEST
    }
}

/// Formats the number of the level.
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
