//! Random choices of commands. They are derived from the request's seed, so they are the same on
//! every replica and when the log is applied again.

use std::collections::BTreeSet;

use crate::kv::commands::args::Args;
use crate::kv::values::digest::mix;

impl Args<'_> {
    /// Returns a random number from 0 to `end - 1`; `end` must not be 0. The number depends only on
    /// the command's random seed and `turn`, so a command uses a different `turn` for each choice.
    pub(in crate::kv) fn below(&self, turn: u64, end: usize) -> usize {
        // Mixed twice, because turns differ only in their low bits, whereas the high bits of the
        // result are used.
        let wide = u128::from(mix(mix(self.seed, turn), turn)) * (end as u128);
        usize::try_from(wide >> 64).expect("the product is below `end` << 64")
    }

    /// Returns `count` distinct random numbers from 0 to `end - 1` in ascending order, or all of
    /// them if `count` is larger than `end`. All selections are equally likely (Floyd's algorithm).
    pub(in crate::kv) fn different(&self, count: usize, end: usize) -> Vec<usize> {
        if count >= end {
            return (0..end).collect();
        }
        let mut chosen = BTreeSet::new();
        for last in end - count..end {
            let place = self.below(last as u64, last + 1);
            chosen.insert(if chosen.contains(&place) { last } else { place });
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_indexes_are_distinct_and_uniformly_distributed() {
        let (mut single, mut of_two) = ([0; 10], [0; 10]);
        let none = [].into();
        for seed in 0..10_000 {
            let args = Args::new(none, seed);
            single[args.below(seed % 7, 10)] += 1;
            let chosen = args.different(2, 10);
            assert_eq!(chosen.len(), 2);
            assert!(chosen[0] < chosen[1] && chosen[1] < 10);
            for place in chosen {
                of_two[place] += 1;
            }
            assert_eq!(args.different(10, 10).len(), 10);
            assert_eq!(args.different(11, 3), [0, 1, 2]);
        }
        assert!(single.iter().all(|count| (800..1_200).contains(count)), "{single:?}");
        assert!(of_two.iter().all(|count| (1_700..2_300).contains(count)), "{of_two:?}");
    }
}
