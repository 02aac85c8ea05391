//! Majority arithmetic; nothing else.

use crate::config::{Config, Mutant};

/// Most replicas of one group. The course's simulator goes to 21.
pub const REPLICAS_MAX: usize = 31;

/// How many of `replicas` make a quorum.
pub fn quorum(replicas: usize, config: &Config) -> usize {
    if config.breaks(Mutant::HalfIsQuorum) {
        return (replicas / 2).max(1);
    }
    replicas / 2 + 1
}

/// The highest value that a quorum has reached or passed. `values` holds one for each replica,
/// this one included, and is left sorted.
pub fn reached_by_quorum<T: Ord + Copy>(values: &mut [T], config: &Config) -> T {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[quorum(values.len(), config) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every assignment of small values to 1 to 7 replicas, against counting by hand.
    #[test]
    fn agrees_with_counting() {
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
