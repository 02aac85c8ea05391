//! Majority arithmetic.

use crate::config::{Config, Mutant};

/// Largest number of replicas in a group. The course's simulator starts up to 21.
pub const REPLICAS_MAX: usize = 31;

/// Returns the size of a quorum of `replicas`.
pub fn quorum(replicas: usize, config: &Config) -> usize {
    assert!((1..=REPLICAS_MAX).contains(&replicas), "a group of {replicas} replicas");
    if config.breaks(Mutant::HalfIsQuorum) {
        return (replicas / 2).max(1);
    }
    replicas / 2 + 1
}

/// Returns the highest value that a quorum has reached. `values` holds one value for each replica,
/// this one included; it is sorted in place.
pub fn reached_by_quorum<T: Ord + Copy>(values: &mut [T], config: &Config) -> T {
    let needed = quorum(values.len(), config);
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[needed - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All assignments of three values to 1 to 7 replicas, compared with counting.
    #[test]
    fn quorum_value_agrees_with_counting() {
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
