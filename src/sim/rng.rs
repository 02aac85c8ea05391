//! The simulator's randomness: one named generator with a seed, and the few draws that faults and
//! workloads need. Integers only, so that a seed means the same run on every machine.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A seeded source of draws. Parts of the simulator that must not disturb each other's draws each
/// take their own with [`Rng::split`].
#[derive(Debug, Clone)]
pub struct Rng {
    generator: ChaCha8Rng,
}

impl Rng {
    /// The draws of one seed.
    pub fn new(seed: u64) -> Rng {
        Rng { generator: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// An independent source. What is drawn from it later does not change what is drawn here.
    #[must_use]
    pub fn split(&mut self) -> Rng {
        Rng::new(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "nothing lies below zero");
        // Multiply and shift: its bias is below limit / 2^64, which no test could notice.
        let wide = u128::from(self.number()) * u128::from(limit);
        u64::try_from(wide >> 64).expect("the upper half of a product of two 64 bit numbers")
    }

    /// A number from `low` up to and with `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "no number from {low} to {high}");
        low + self.below(high - low + 1)
    }

    /// True in `permille` of a thousand cases. Draws nothing where the answer is certain.
    pub fn chance(&mut self, permille: u32) -> bool {
        match permille {
            0 => false,
            1000.. => true,
            _ => self.below(1000) < u64::from(permille),
        }
    }

    /// A span from `low` up to and with `high`. Draws nothing if they are equal.
    pub fn span(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            return low;
        }
        Duration::from_nanos(self.between(nanoseconds(low), nanoseconds(high)))
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.place(choices.len())]
    }

    /// A place in a list of `length` things.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a length")
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.place(last + 1));
        }
    }
}

/// A span as a whole number; spans of the simulator are far below 500 years.
pub(super) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draws = |seed| {
            let mut rng = Rng::new(seed);
            let mut other = rng.split();
            other.number();
            (0..20).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn draws_stay_in_their_limits_and_reach_them() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[usize::try_from(rng.between(3, 8)).expect("small") - 3] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
        assert!((0..100).all(|_| !rng.chance(0) && rng.chance(1000)));
        let mut order = [1, 2, 3, 4, 5];
        rng.shuffle(&mut order);
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}
