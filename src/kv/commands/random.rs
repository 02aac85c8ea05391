//! What is left to seed: decided by the number that each call has of its own, so that it is the
//! same on every replica and in every repetition.

use std::collections::BTreeSet;

use crate::kv::commands::args::Args;
use crate::kv::values::digest::mix;

impl Args<'_> {
    /// A number below `end` that chance finds, another one in each turn. `end` is not 0.
    pub(in crate::kv) fn below(&self, turn: u64, end: usize) -> usize {
        // Mixed twice, for turns differ in their lowest bits only and the highest ones are taken.
        let wide = u128::from(mix(mix(self.seed, turn), turn)) * (end as u128);
        usize::try_from(wide >> 64).expect("it is below `end`")
    }

    /// So many different numbers below `end`, or all of them, in order; each choice as likely as
    /// any other (Floyd's way).
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
    use crate::kv::commands::items::ItemsBuffer;

    #[test]
    fn every_choice_is_about_as_likely() {
        let (mut single, mut of_two) = ([0; 10], [0; 10]);
        let none = ItemsBuffer::default();
        for seed in 0..10_000 {
            let words = Args::new(none.items(), seed);
            single[words.below(seed % 7, 10)] += 1;
            let chosen = words.different(2, 10);
            assert_eq!(chosen.len(), 2);
            assert!(chosen[0] < chosen[1] && chosen[1] < 10);
            for place in chosen {
                of_two[place] += 1;
            }
            assert_eq!(words.different(10, 10).len(), 10);
            assert_eq!(words.different(11, 3), [0, 1, 2]);
        }
        assert!(single.iter().all(|count| (800..1_200).contains(count)), "{single:?}");
        assert!(of_two.iter().all(|count| (1_700..2_300).contains(count)), "{of_two:?}");
    }
}
