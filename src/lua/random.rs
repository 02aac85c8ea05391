//! `math.random` and `math.randomseed`, from a seed that the host gives, by the same generator as
//! Redis: that of `drand48`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A generator of pseudo-random numbers, shared by the functions that draw from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Random(Arc<AtomicU64>);

impl Random {
    /// Starts the sequence that belongs to the lower 32 bits of `seed`.
    pub(super) fn seed(&self, seed: u64) {
        self.0.store(((seed & 0xffff_ffff) << 16) | 0x330e, Ordering::Relaxed);
    }

    /// Returns a number of at least 0 and below 1.
    pub(super) fn fraction(&self) -> f64 {
        let state = self.0.load(Ordering::Relaxed);
        let next = state.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & 0xffff_ffff_ffff;
        self.0.store(next, Ordering::Relaxed);
        let max = u64::from(u32::MAX >> 1);
        ((next >> 17) % max) as f64 / max as f64
    }
}
