//! Timeouts, which are random and grow with the message loss.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::config::Config;

/// Message loss, in permille, at which timeouts reach their maximum extension.
const LOSS_FULL_PERMILLE: u32 = 300;
/// Message loss, in permille, that a replica assumes until a leader has measured it. A value that
/// is too high costs little; a value that is too low may cause an unnecessary leader change, or an
/// election in which the candidate requests votes too rarely.
pub(super) const LOSS_UNKNOWN_PERMILLE: u16 = 300;

/// Returns a share of `extra` in proportion to the message loss: zero without loss, all of `extra`
/// at a loss of 30 % or more.
fn by_loss(extra: Duration, loss_permille: u16) -> Duration {
    let scaled = extra * u32::from(loss_permille).min(LOSS_FULL_PERMILLE) / LOSS_FULL_PERMILLE;
    assert!(scaled <= extra, "{scaled:?} of {extra:?} at {loss_permille} permille");
    scaled
}

/// Returns a random election timeout (Raft paper, §5.2): how long a follower waits to hear from its
/// leader. It grows with the message loss.
pub(super) fn election_timeout(
    config: &Config,
    loss_permille: u16,
    rng: &mut ChaCha8Rng,
) -> Duration {
    let spread = config.election_timeout_max.saturating_sub(config.election_timeout_min);
    let drawn = spread.mul_f64(rng.random_range(0.0..1.0));
    let timeout = config.election_timeout_min
        + drawn
        + by_loss(config.election_timeout_lossy_extra, loss_permille);
    // Leases depend on it.
    assert!(timeout >= config.election_timeout_min, "an election timeout of {timeout:?}");
    timeout
}

/// Returns the time that a witness adds to each election timeout, so that replicas with data
/// campaign first: twice the maximum election timeout, in which they can campaign at least twice.
/// It grows with the number of times in a row that the witness has led without being able to bring
/// a replica with data up to date (`retreats`), so that it does not keep others from being elected.
pub(super) fn witness_delay(config: &Config, retreats: u32) -> Duration {
    config.election_timeout_max * (2 + 4 * retreats.min(3))
}

/// Returns how long a witness leads without progress before it steps down. Progress is an
/// acknowledgement of further entries by a replica with data.
pub(super) fn witness_lead(config: &Config) -> Duration {
    config.election_timeout_max * 4
}

/// Returns the first election timeout of a new replica: a random duration from zero to the maximum
/// minus the minimum election timeout. It is short because there is no leader to wait for.
pub(super) fn first_election_timeout(config: &Config, rng: &mut ChaCha8Rng) -> Duration {
    election_timeout(config, 0, rng).saturating_sub(config.election_timeout_min)
}

/// Returns the check-quorum window: a leader that has not heard from a quorum for this long steps
/// down. It grows with the message loss.
pub(super) fn check_quorum_window(config: &Config, loss_permille: u16) -> Duration {
    let extra = config.check_quorum_window_lossy.saturating_sub(config.check_quorum_window);
    config.check_quorum_window + by_loss(extra, loss_permille)
}

/// Returns how many times a candidate sends each vote request within one campaign. The number grows
/// with the message loss. At low loss it is halved, or quartered after campaigns that reached no
/// quorum, because the replica is then probably isolated. It is not reduced after campaigns that
/// reached a quorum but were lost.
pub(super) fn vote_attempts(
    config: &Config,
    loss_permille: u16,
    isolated_campaigns: u32,
    lost_campaigns: u32,
) -> u32 {
    let attempts = match loss_permille {
        0..120 if isolated_campaigns > 0 => config.vote_attempts.div_ceil(4),
        0..120 if lost_campaigns == 0 => config.vote_attempts.div_ceil(2),
        0..400 => config.vote_attempts,
        400.. => config.vote_attempts * 2,
    };
    assert!(attempts > 0, "no attempt of {} at {loss_permille} permille", config.vote_attempts);
    attempts
}

/// Returns how long a candidate waits before it repeats its vote requests. All attempts together
/// take half of the minimum election timeout. Within this time, replicas that heard from the old
/// leader slightly later than the candidate also become free to vote.
pub(super) fn vote_retry_interval(config: &Config, attempts: u32) -> Duration {
    assert!(attempts > 0, "a campaign without requests");
    config.election_timeout_min / 2 / attempts
}

/// Returns how long a campaign lasts if no candidate wins: the time for all vote requests, plus a
/// random pause. The pause grows with the number of consecutive campaigns in which the replica
/// reached no quorum, up to the maximum election timeout.
pub(super) fn campaign_timeout(
    config: &Config,
    isolated_campaigns: u32,
    rng: &mut ChaCha8Rng,
) -> Duration {
    let pause = config.election_timeout_min * isolated_campaigns.max(1);
    let pause = pause.min(config.election_timeout_max);
    config.election_timeout_min / 2 + pause.mul_f64(rng.random_range(0.25..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn election_timeout_is_bounded_and_grows_with_message_loss() {
        let config = Config::course();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let reliable = election_timeout(&config, 0, &mut rng);
            assert!((config.election_timeout_min..config.election_timeout_max).contains(&reliable));
            let lossy = election_timeout(&config, 900, &mut rng);
            assert!(lossy >= config.election_timeout_min + config.election_timeout_lossy_extra);
        }
        assert_eq!(check_quorum_window(&config, 0), config.check_quorum_window);
        assert_eq!(check_quorum_window(&config, 300), config.check_quorum_window_lossy);
    }

    #[test]
    fn vote_request_resends_grow_with_loss_and_lost_elections() {
        let config = Config::course();
        let attempts = |loss, isolated, lost| vote_attempts(&config, loss, isolated, lost);
        assert_eq!([attempts(0, 1, 0), attempts(0, 0, 0), attempts(0, 0, 1)], [1, 2, 4]);
        assert_eq!([attempts(119, 0, 0), attempts(120, 2, 0), attempts(400, 2, 0)], [2, 4, 8]);
        assert_eq!([attempts(0, 1, 1), attempts(399, 0, 0)], [1, 4]);
    }
}
