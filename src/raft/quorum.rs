//! Majority arithmetic.

use crate::config::{Config, Mutant};

pub use crate::membership::REPLICAS_MAX;

/// Returns how many of `replicas` replicas form a quorum: the smallest number that is more than
/// half.
pub fn quorum(replicas: usize, config: &Config) -> usize {
    assert!((1..=REPLICAS_MAX).contains(&replicas), "a group of {replicas} replicas");
    if config.breaks(Mutant::HalfIsQuorum) {
        return (replicas / 2).max(1);
    }
    replicas / 2 + 1
}

/// Returns the highest value that a quorum of replicas has reached, such as a match index. `values`
/// holds one value per replica, and is sorted in place.
pub fn reached_by_quorum<T: Ord + Copy>(values: &mut [T], config: &Config) -> T {
    let needed = quorum(values.len(), config);
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[needed - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every assignment of three values to 1 to 7 replicas against a result found by
    /// counting.
    #[test]
    fn value_reached_by_a_quorum_agrees_with_counting_replicas() {
        let config = Config::server();
        for replicas in 1..=7_u32 {
            for code in 0..3_usize.pow(replicas) {
                let values: Vec<usize> =
                    (0..replicas).map(|place| code / 3_usize.pow(place) % 3).collect();
                let naive = (0..3)
                    .rev()
                    .find(|level| {
                        2 * values.iter().filter(|value| *value >= level).count() > values.len()
                    })
                    .unwrap();
                assert_eq!(reached_by_quorum(&mut values.clone(), &config), naive, "{values:?}");
            }
        }
    }
}
