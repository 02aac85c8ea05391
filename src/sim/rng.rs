//! The simulator's random number generator. It generates only integers, so that a seed gives the
//! same run on every machine.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A seeded random number generator. [`Rng::split`] creates further generators for parts of the
/// simulator whose random draws must not affect each other.
#[derive(Debug, Clone)]
pub struct Rng {
    generator: ChaCha8Rng,
}

impl Rng {
    /// Creates a generator whose random numbers are determined by `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng { generator: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Creates an independent generator, seeded with one number from this one. Later draws of the
    /// two do not affect each other.
    #[must_use]
    pub fn split(&mut self) -> Rng {
        Rng::new(self.next_u64())
    }

    /// Returns a random 64-bit number, uniformly distributed.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Returns a random number from 0 to `limit - 1`. Panics if `limit` is zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "the limit must not be zero");
        // Multiply and shift: the bias is below limit / 2^64.
        let wide = u128::from(self.next_u64()) * u128::from(limit);
        u64::try_from(wide >> 64).expect("the upper half of a 128-bit product")
    }

    /// Returns a random number from `low` to `high`, inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        low + self.below(high - low + 1)
    }

    /// Returns true with a probability of `permille` / 1000. Draws no random number if the result
    /// is certain.
    pub fn permille(&mut self, permille: u32) -> bool {
        match permille {
            0 => false,
            1000.. => true,
            _ => self.below(1000) < u64::from(permille),
        }
    }

    /// Returns a random duration from `low` to `high`, inclusive. Draws no random number if both
    /// are equal.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            return low;
        }
        Duration::from_nanos(self.between(nanoseconds(low), nanoseconds(high)))
    }

    /// Returns a random element of `choices`, which must not be empty.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Returns a random index into a list of `length` elements; `length` must not be zero.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a length")
    }

    /// Shuffles `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// A range from which random durations are drawn, with both ends inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DurationRange {
    /// Shortest duration of the range.
    pub min: Duration,
    /// Longest duration of the range.
    pub max: Duration,
}

impl DurationRange {
    /// The range that contains only zero: operations complete at once.
    pub const ZERO: DurationRange = DurationRange { min: Duration::ZERO, max: Duration::ZERO };

    /// Returns the range that contains only `duration`.
    pub const fn always(duration: Duration) -> DurationRange {
        DurationRange { min: duration, max: duration }
    }

    /// Returns whether the range contains only zero.
    pub fn is_zero(&self) -> bool {
        self.max.is_zero()
    }

    /// Returns a random duration from the range.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        rng.duration(self.min, self.max)
    }
}

/// Converts a duration to nanoseconds; durations above 584 years give the maximum.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_random_numbers() {
        let draws = |seed| {
            let mut rng = Rng::new(seed);
            let mut other = rng.split();
            other.next_u64();
            (0..20).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn random_numbers_cover_exactly_their_range() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[usize::try_from(rng.between(3, 8)).expect("small") - 3] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
        assert!((0..100).all(|_| !rng.permille(0) && rng.permille(1000)));
        let mut order = [1, 2, 3, 4, 5];
        rng.shuffle(&mut order);
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}
