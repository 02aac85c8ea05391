//! Key distributions, and the encoding of keys and values. Everything expensive is computed before
//! the run; drawing a key allocates nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use bowline::sim::rng::Rng;

/// Probability distribution from which the keys of operations are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Distribution {
    /// All keys are equally likely.
    Uniform,
    /// A few keys are popular (zipfian distribution). The popular keys are scattered over the range
    /// of keys.
    Zipfian,
    /// The most recently inserted keys are the most popular (zipfian distribution).
    Latest,
    /// Each thread uses the keys of its share in ascending order, and starts again after the last
    /// key.
    Sequential,
}

impl Distribution {
    /// Returns the distribution's name as used in options and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian => "zipfian",
            Distribution::Latest => "latest",
            Distribution::Sequential => "sequential",
        }
    }
}

/// Counters of inserted keys that all threads share: keys reserved for an insert, and keys whose
/// insert the server has acknowledged. Both counts include the keys that exist at the start of the
/// run.
#[derive(Debug)]
pub(crate) struct Inserts {
    next: AtomicU64,
    acknowledged: AtomicU64,
}

impl Inserts {
    /// Creates the key counters of a run that starts with `keys` existing keys.
    pub(crate) fn after(keys: u64) -> Inserts {
        Inserts { next: AtomicU64::new(keys), acknowledged: AtomicU64::new(keys) }
    }

    /// Reserves a new key for an insert, and returns the key's number.
    pub(crate) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one more existing key, because the server has acknowledged an insert.
    pub(crate) fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of existing keys, including acknowledged inserts. Since inserts complete
    /// out of order, a few keys with lower numbers may not exist yet.
    fn known(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// Draws the keys for the operations of one thread.
#[derive(Debug)]
pub(crate) struct Keys {
    distribution: Distribution,
    count: u64,
    zipf: Zipf,
    /// Factor by which ranks of the zipfian distribution are multiplied, modulo `count`, so that
    /// popular keys are scattered over the range of keys. It is coprime to `count`, so that each
    /// rank maps to a different key.
    stride: u64,
    next: u64,
    step: u64,
}

impl Keys {
    /// Creates the source of keys for load thread number `thread` of `threads`.
    pub(crate) fn new(
        distribution: Distribution,
        theta: f64,
        keys: u64,
        thread: usize,
        threads: usize,
    ) -> Keys {
        Keys {
            distribution,
            count: keys,
            zipf: Zipf::new(keys, theta),
            stride: stride(keys),
            next: thread as u64,
            step: threads as u64,
        }
    }

    /// Draws the index of an existing key for an operation other than an insert.
    pub(crate) fn draw(&mut self, rng: &mut Rng, inserts: &Inserts) -> u64 {
        match self.distribution {
            Distribution::Uniform => rng.below(self.count),
            Distribution::Zipfian => {
                let place = u128::from(self.zipf.draw(rng)) * u128::from(self.stride);
                u64::try_from(place % u128::from(self.count)).expect("a rest is smaller")
            }
            Distribution::Latest => {
                let known = inserts.known();
                self.zipf.grow(known);
                known - 1 - self.zipf.draw(rng)
            }
            Distribution::Sequential => {
                let key = self.next % self.count;
                self.next += self.step;
                key
            }
        }
    }
}

/// Returns a factor that scatters the ranks of a distribution over `keys` keys when a rank is
/// multiplied by it, modulo `keys`. The factor is about 0.618 times `keys`, so that neighbouring
/// ranks are far apart, and coprime to `keys`, so that each rank maps to a different key.
fn stride(keys: u64) -> u64 {
    let golden = (u128::from(keys) * 0x9E37_79B9_7F4A_7C15) >> 64;
    let first = u64::try_from(golden).expect("below `keys`").max(1);
    (first..=keys + 1).find(|&stride| gcd(stride, keys) == 1).expect("`keys` + 1 is one")
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Zipfian distribution over ranks from 0: the probability of rank r is proportional to 1 / (r +
/// 1)^theta. Sampled exactly by rejection-inversion (Hörmann and Derflinger 1996), whereas YCSB
/// only approximates the distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    ranks: u64,
    theta: f64,
    /// Lower bound of the sampler's random numbers, which are uniformly distributed. The inverse of
    /// the density's integral converts them to ranks. `high` is the upper bound.
    low: f64,
    high: f64,
    /// Shortcut of the sampler: a sample that is rounded down, or rounded up by at most this
    /// amount, is accepted without evaluating the density.
    accept_within: f64,
}

impl Zipf {
    /// Creates a zipfian distribution with the skew `theta` over `ranks` ranks; `ranks` is at least
    /// 1.
    pub(crate) fn new(ranks: u64, theta: f64) -> Zipf {
        let mut zipf = Zipf { ranks: 0, theta, low: 0.0, high: 0.0, accept_within: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.accept_within = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf.grow(ranks);
        zipf
    }

    /// Changes the number of ranks to `ranks`, for example because keys were inserted.
    pub(crate) fn grow(&mut self, ranks: u64) {
        if self.ranks != ranks {
            self.ranks = ranks;
            self.high = self.integral(ranks as f64 + 0.5);
        }
    }

    /// Draws a random rank from the distribution: at least 0 and less than the number of ranks.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the ranks, which are below 2^52"
    )]
    pub(crate) fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let drawn = self.high + unit(rng) * (self.low - self.high);
            let x = self.inverse(drawn);
            let rank = x.round().clamp(1.0, self.ranks as f64);
            if rank - x <= self.accept_within
                || drawn >= self.integral(rank + 0.5) - self.density(rank)
            {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// Returns the integral of the zipfian density from 1 to `x`.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let power = (1.0 - self.theta) * log;
        if power.abs() < 1e-9 { log } else { log * power.exp_m1() / power }
    }

    fn inverse(&self, area: f64) -> f64 {
        let power = ((1.0 - self.theta) * area).max(-1.0);
        let log = if power.abs() < 1e-9 { area } else { area * power.ln_1p() / power };
        log.exp()
    }
}

/// Returns a random number, uniformly distributed from 0 (inclusive) to 1 (exclusive).
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

const PREFIX: &[u8] = b"key:";
/// Maximum number of decimal digits in a key's number, a `u64`.
const DIGITS_MAX: usize = 20;

/// Appends the key with the number `key` to `out`: `key:` and the number, with as many leading
/// zeros as a key of `length` bytes needs.
pub(crate) fn write_key(out: &mut Vec<u8>, key: u64, length: usize) {
    let digits = length - PREFIX.len();
    out.extend_from_slice(PREFIX);
    let start = out.len();
    out.resize(start + digits, b'0');
    let mut rest = key;
    for digit in out[start..].iter_mut().rev().take(DIGITS_MAX) {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
}

/// Returns the number of different keys of `length` bytes that the load generator can use, at most
/// 10^15. At most half of them may exist at the start of a run; the other half is reserved for
/// inserts.
pub(crate) fn keys_max(length: usize) -> u64 {
    let digits = u32::try_from(length.saturating_sub(PREFIX.len())).unwrap_or(u32::MAX);
    10_u64.saturating_pow(digits.min(15))
}

/// Encodes the values to write. A value of at least 16 bytes starts with its mark, a unique number
/// as 16 hexadecimal digits. The rest is copied from a pool of random letters, at an offset that
/// depends on the mark, so that a reader can verify every byte.
#[derive(Debug)]
pub(crate) struct Values {
    pool: Vec<u8>,
    length: usize,
}

/// Length in bytes of the unique number with which a value starts: 16 hexadecimal digits.
pub(crate) const MARK_BYTES: usize = 16;
const POOL_BYTES: usize = 1 << 16;

impl Values {
    /// Creates an encoder for values of `length` bytes, with a pool of random letters from `rng`.
    pub(crate) fn new(length: usize, rng: &mut Rng) -> Values {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let pool = (0..POOL_BYTES + length).map(|_| letters[rng.index(letters.len())]).collect();
        Values { pool, length }
    }

    /// Returns the length of the values in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Appends the value that the unique number `mark` identifies to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, mark: u64) {
        if self.length >= MARK_BYTES {
            for nibble in (0..MARK_BYTES).rev() {
                out.push(
                    b"0123456789abcdef"[usize::from((mark >> (4 * nibble)).to_le_bytes()[0] & 15)],
                );
            }
        }
        out.extend_from_slice(self.rest(mark));
    }

    /// Returns the unique number at the start of `value`, which was read from a server. Returns
    /// `None` if the value is corrupt: a byte differs from the value that this program writes for
    /// this number.
    pub(crate) fn mark(&self, value: &[u8]) -> Option<u64> {
        let (mark, rest) = value.split_at_checked(MARK_BYTES)?;
        let mark = u64::from_str_radix(std::str::from_utf8(mark).ok()?, 16).ok()?;
        (rest == self.rest(mark)).then_some(mark)
    }

    fn rest(&self, mark: u64) -> &[u8] {
        let length = if self.length >= MARK_BYTES { self.length - MARK_BYTES } else { self.length };
        // Consecutive values start at offsets that are 97 apart, so they differ from their first
        // letters on.
        let at = usize::try_from(mark % 0xFFFF_FFFF).expect("32 bits") * 97 % POOL_BYTES;
        &self.pool[at..at + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests that frequencies follow the formula: each of the first hundred ranks is within five
    /// standard deviations of its probability, and so are all other ranks combined.
    #[test]
    fn zipf_draw_frequencies_match_theoretical_probabilities() {
        for (theta, ranks) in [(0.99, 1_000_u64), (0.5, 200), (1.0, 300), (1.5, 10_000), (0.99, 1)]
        {
            let draws = 200_000_u32;
            let (zipf, mut rng) = (Zipf::new(ranks, theta), Rng::new(5));
            let mut counts = vec![0_u64; usize::try_from(ranks).unwrap()];
            for _ in 0..draws {
                counts[usize::try_from(zipf.draw(&mut rng)).unwrap()] += 1;
            }
            let weight = |rank: usize| 1.0 / (rank as f64 + 1.0).powf(theta);
            let sum: f64 = (0..counts.len()).map(weight).sum();
            let near = |count: u64, share: f64, what: &str| {
                let expected = f64::from(draws) * share;
                let deviation = (expected * (1.0 - share)).sqrt().max(1.0);
                let off = (count as f64 - expected).abs() / deviation;
                assert!(off < 5.0, "theta {theta}, {what}: {count} for {expected:.1}");
            };
            for (rank, &count) in counts.iter().enumerate().take(100) {
                near(count, weight(rank) / sum, &format!("rank {rank}"));
            }
            let rest: f64 = (100..counts.len()).map(|rank| weight(rank) / sum).sum();
            near(counts.iter().skip(100).sum(), rest, "all other ranks");
        }
    }

    fn draws(distribution: Distribution, keys: u64, inserts: &Inserts, count: usize) -> Vec<u64> {
        let (mut rng, mut drawn) = (Rng::new(3), Keys::new(distribution, 0.99, keys, 0, 1));
        (0..count).map(|_| drawn.draw(&mut rng, inserts)).collect()
    }

    fn shares(draws: &[u64]) -> Vec<(u64, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for &key in draws {
            *counts.entry(key).or_insert(0) += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts
    }

    #[test]
    fn zipfian_ranks_map_to_distinct_scattered_keys() {
        for keys in [1_u64, 2, 10, 1_000, 1_024, 9_973] {
            let stride = u128::from(stride(keys));
            let mut seen: Vec<u128> =
                (0..u128::from(keys)).map(|rank| rank * stride % u128::from(keys)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len() as u64, keys);
        }
        let counts = shares(&draws(Distribution::Zipfian, 1_000, &Inserts::after(1_000), 100_000));
        // The most popular of 1,000 keys has probability 1 / 7.73.
        assert!((12_400..13_500).contains(&counts[0].1), "{:?}", counts[0]);
        let popular: Vec<u64> = counts[..4].iter().map(|&(key, _)| key).collect();
        assert!(popular.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 100), "{popular:?}");
    }

    #[test]
    fn generated_keys_follow_the_chosen_key_distribution() {
        let inserts = Inserts::after(10);
        assert_eq!(draws(Distribution::Sequential, 4, &inserts, 6), [0, 1, 2, 3, 0, 1]);
        let counts = shares(&draws(Distribution::Uniform, 10, &inserts, 100_000));
        assert!(counts.len() == 10 && counts.iter().all(|&(_, c)| (9_500..10_500).contains(&c)));
        let counts = shares(&draws(Distribution::Latest, 10, &inserts, 10_000));
        assert_eq!((counts[0].0, counts[1].0), (9, 8), "the latest first");
        assert_eq!(inserts.take(), 10);
        inserts.acknowledge();
        let counts = shares(&draws(Distribution::Latest, 10, &inserts, 10_000));
        assert_eq!((counts[0].0, counts.len()), (10, 11), "follows inserts");
    }

    #[test]
    fn generated_keys_have_the_requested_length() {
        let key = |key, length| {
            let mut out = Vec::new();
            write_key(&mut out, key, length);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(key(0, 8), "key:0000");
        assert_eq!(key(1234, 8), "key:1234");
        assert_eq!(key(42, 16), "key:000000000042");
        assert_eq!(key(7, 1_000).len(), 1_000);
        assert_eq!(keys_max(8), 10_000);
        assert!(keys_max(4) == 1 && keys_max(1_000_000) == 1_000_000_000_000_000);
    }

    #[test]
    fn changed_byte_in_a_value_read_back_is_detected() {
        let values = Values::new(40, &mut Rng::new(1));
        let mut value = Vec::new();
        values.write(&mut value, 0xAB00_0000_0000_0001);
        assert_eq!(value.len(), 40);
        assert_eq!(values.mark(&value), Some(0xAB00_0000_0000_0001));
        value[39] ^= 1;
        assert_eq!(values.mark(&value), None);
        assert_eq!(values.mark(b"short"), None);
        let (small, mut value) = (Values::new(5, &mut Rng::new(1)), Vec::new());
        small.write(&mut value, 3);
        assert_eq!(value.len(), 5);
    }
}
