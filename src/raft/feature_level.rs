//! The cluster's feature level (`crate::feature_level`): when the leader raises it.
//!
//! Each reply to an append tells the leader the level of the follower's program. Once all members,
//! learners included, have told this leader a higher level than the cluster's, the leader appends
//! an entry that raises it. The new level counts from when the entry is committed. A follower that
//! goes back to an earlier version after that refuses the entry, wherever it meets it: in a
//! message, in its log or in a snapshot.

use crate::feature_level::FeatureLevel;
use crate::record::Entry;

use super::leader::Leader;
use super::rules;
use super::shared::Shared;

impl Leader {
    /// Raises the cluster's feature level if all members support a higher one.
    pub(super) fn raise_feature_level(&mut self, shared: &mut Shared) {
        let own = shared.config.feature_level;
        if own <= shared.feature_level()
            || shared.commit_index() < self.first_index
            || self.transfer.is_in_progress()
            || shared.is_removed()
        {
            return;
        }
        let levels = self.progress.iter().map(|peer| peer.feature_level);
        let supported = rules::level_of_members(levels, own, &shared.config);
        if supported > shared.feature_level() && supported > highest_uncommitted(shared) {
            shared.append_feature_level(supported);
        }
    }
}

/// Returns the highest feature level in an uncommitted entry of the leader's log.
fn highest_uncommitted(shared: &Shared) -> FeatureLevel {
    let uncommitted = shared.log.tail(shared.commit_index().next());
    let levels = uncommitted.iter().filter_map(Entry::feature_level);
    levels.max().unwrap_or_default()
}
