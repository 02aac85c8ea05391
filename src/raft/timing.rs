//! Timeouts: drawn at random, and longer where messages are lost.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::config::Config;

/// From this loss on, in a thousand, timeouts grow no further.
const LOSS_FULL_PERMILLE: u32 = 300;
/// Until its loss has been measured, a network is taken for a bad one: patience costs little
/// there, and a leader that gives up, or a candidate that asks too seldom, costs an election.
pub(super) const LOSS_UNKNOWN_PERMILLE: u16 = 300;

/// `extra` in proportion to the measured loss, whole from 30 % on.
fn by_loss(extra: Duration, loss_permille: u16) -> Duration {
    extra * u32::from(loss_permille).min(LOSS_FULL_PERMILLE) / LOSS_FULL_PERMILLE
}

/// A follower's patience with its leader (§5.2), redrawn each time so that no two stay in step.
pub(super) fn election_timeout(
    config: &Config,
    loss_permille: u16,
    rng: &mut ChaCha8Rng,
) -> Duration {
    let spread = config.election_timeout_max.saturating_sub(config.election_timeout_min);
    let drawn = spread.mul_f64(rng.random_range(0.0..1.0));
    config.election_timeout_min
        + drawn
        + by_loss(config.election_timeout_lossy_extra, loss_permille)
}

/// The random part of an election timeout alone, for a replica that has had no leader yet.
pub(super) fn first_election_timeout(config: &Config, rng: &mut ChaCha8Rng) -> Duration {
    election_timeout(config, 0, rng).saturating_sub(config.election_timeout_min)
}

/// How long a leader does without a quorum.
pub(super) fn check_quorum_window(config: &Config, loss_permille: u16) -> Duration {
    let extra = config.check_quorum_window_lossy.saturating_sub(config.check_quorum_window);
    config.check_quorum_window + by_loss(extra, loss_permille)
}

/// How often a candidate asks within one election: the more the likelier its pleas get lost, and
/// seldom if it did not even hear from a quorum lately though little is lost: it is cut off.
pub(super) fn vote_attempts(config: &Config, loss_permille: u16, cut_off_campaigns: u32) -> u32 {
    match loss_permille {
        0..200 if cut_off_campaigns > 0 => config.vote_attempts.div_ceil(4),
        0..200 => config.vote_attempts.div_ceil(2),
        200..400 => config.vote_attempts,
        400.. => config.vote_attempts * 2,
    }
}

/// How long a candidate waits before it asks again those that have not answered: requests get
/// lost, and a whole new election would cost much more. However many times it asks, it does so
/// over half of the lowest election timeout, in which those that heard the old leader after it
/// did come to the end of their patience too.
pub(super) fn vote_retry_interval(config: &Config, attempts: u32) -> Duration {
    config.election_timeout_min / 2 / attempts
}

/// How long a campaign lasts before the next one: all its attempts, then a random rest that
/// grows while it is cut off, up to the highest election timeout, lest it
/// shout for ever.
pub(super) fn campaign_timeout(
    config: &Config,
    cut_off_campaigns: u32,
    rng: &mut ChaCha8Rng,
) -> Duration {
    let rest = config.election_timeout_min * cut_off_campaigns.max(1);
    let rest = rest.min(config.election_timeout_max);
    config.election_timeout_min / 2 + rest.mul_f64(rng.random_range(0.25..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn timeouts_stay_within_their_bounds_and_grow_with_loss() {
        let config = Config::course();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let quiet = election_timeout(&config, 0, &mut rng);
            assert!((config.election_timeout_min..config.election_timeout_max).contains(&quiet));
            let lossy = election_timeout(&config, 900, &mut rng);
            assert!(lossy >= config.election_timeout_min + config.election_timeout_lossy_extra);
        }
        assert_eq!(check_quorum_window(&config, 0), config.check_quorum_window);
        assert_eq!(check_quorum_window(&config, 300), config.check_quorum_window_lossy);
    }
}
