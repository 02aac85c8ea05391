//! HyperLogLogs in the form in which Redis stores them in strings: estimates of the number of
//! distinct elements, in at most 12 KiB.
//!
//! A hash of an element chooses one of 16,384 registers, which keeps the maximum length of the runs
//! of zero bits in the rest of the hashes, plus 1. The string has a header of 16 bytes: `HYLL`, the
//! encoding, three unused bytes, and a cached estimate as 8 bytes, little endian, whose highest bit
//! says that it is out of date. In the dense encoding the registers follow with 6 bits each, the
//! lowest bits first. In the sparse encoding, runs of equal registers follow:
//!
//! | bytes | run |
//! |---|---|
//! | `00llllll` | up to 64 registers with the value 0; `l` is the length less 1 |
//! | `01llllll llllllll` | up to 16,384 registers with the value 0 |
//! | `1vvvvvll` | up to 4 registers with the value `v` + 1, from 1 to 32 |
//!
//! The estimate is that of Ertl, "New cardinality estimation algorithms for HyperLogLog sketches"
//! (arXiv:1702.01284). All steps are those of Redis 7.0, so that equal elements make equal strings.

use std::fmt::Write as _;

/// Number of registers.
pub(in crate::kv) const REGISTERS: usize = 1 << INDEX_BITS;
/// Number of bits of a hash that choose the register.
const INDEX_BITS: u32 = 14;
/// Number of the other bits of a hash.
const RUN_BITS: u32 = 64 - INDEX_BITS;
/// Number of bits of a register in the dense encoding.
const REGISTER_BITS: usize = 6;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * REGISTER_BITS / 8;
const MAGIC: &[u8] = b"HYLL";
const ENCODING_AT: usize = 4;
const CACHED_AT: usize = 8;
/// The last byte of the cached estimate, and its bit that says that the estimate is out of date.
const OUTDATED: (usize, u8) = (15, 0x80);
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

/// Maximum value of a register in the sparse encoding.
const SPARSE_VALUE_MAX: u8 = 32;
const ZEROS_MAX: usize = 64;
const VALUES_MAX: usize = 4;
/// Number of runs that are merged, if possible, after a change in the sparse encoding.
const MERGED_RUNS_MAX: usize = 5;

/// A HyperLogLog, as the string that contains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kv) struct HyperLogLog(Vec<u8>);

/// Error: the sparse encoding does not have the right number of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct Corrupt;

/// A run of equal registers in the sparse encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    value: u8,
    len: usize,
    /// Number of bytes.
    width: usize,
}

impl Run {
    /// Decodes the run at index `at`, which must be within `bytes`.
    fn at(bytes: &[u8], at: usize) -> Run {
        let byte = bytes[at];
        match byte >> 6 {
            0 => Run { value: 0, len: usize::from(byte & 63) + 1, width: 1 },
            1 => {
                let next = bytes.get(at + 1).copied().unwrap_or(0);
                let len = usize::from(byte & 63) << 8 | usize::from(next);
                Run { value: 0, len: len + 1, width: 2 }
            }
            _ => Run { value: (byte >> 2 & 31) + 1, len: usize::from(byte & 3) + 1, width: 1 },
        }
    }

    /// Appends the shortest encoding of `len` registers with this value; nothing if `len` is 0.
    #[allow(clippy::cast_possible_truncation, reason = "lengths and values fit into their bits")]
    fn put(value: u8, len: usize, out: &mut Vec<u8>) {
        match (value, len) {
            (_, 0) => {}
            (0, 1..=ZEROS_MAX) => out.push((len - 1) as u8),
            (0, _) => out.extend([((len - 1) >> 8) as u8 | 0x40, (len - 1) as u8]),
            (value, len) => out.push(((value - 1) << 2) | (len - 1) as u8 | 0x80),
        }
    }
}

/// Returns the index of the register for an element, and the value that the register must have at
/// least.
fn register_of(element: &[u8]) -> (usize, u8) {
    let hash = murmur_hash(element, 0xadc8_3b19);
    let index = usize::try_from(hash & (REGISTERS as u64 - 1)).expect("it has 14 bits");
    let rest = hash >> INDEX_BITS | 1 << RUN_BITS;
    let value = u8::try_from(rest.trailing_zeros() + 1).expect("at most 51");
    (index, value)
}

/// Returns the hash `MurmurHash64A` (Appleby, 2008).
fn murmur_hash(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mixed = |hash: u64| hash ^ hash >> 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = mixed(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ word).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ rest).wrapping_mul(FACTOR);
    }
    mixed(mixed(hash).wrapping_mul(FACTOR))
}

impl HyperLogLog {
    /// Returns a HyperLogLog without elements, in the sparse encoding.
    pub(in crate::kv) fn empty() -> HyperLogLog {
        let mut bytes = MAGIC.to_vec();
        bytes.resize(HEADER_BYTES, 0);
        bytes[ENCODING_AT] = SPARSE;
        Run::put(0, REGISTERS, &mut bytes);
        HyperLogLog(bytes)
    }

    /// Returns the HyperLogLog in a string; `None` if the string has no valid header, or has the
    /// wrong length for the dense encoding. The registers of the sparse encoding are not checked.
    pub(in crate::kv) fn from_bytes(bytes: &[u8]) -> Option<HyperLogLog> {
        let is_valid = bytes.len() >= HEADER_BYTES
            && bytes.starts_with(MAGIC)
            && match bytes[ENCODING_AT] {
                DENSE => bytes.len() == DENSE_BYTES,
                encoding => encoding == SPARSE,
            };
        is_valid.then(|| HyperLogLog(bytes.to_vec()))
    }

    /// Returns the string that contains the HyperLogLog.
    pub(in crate::kv) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::kv) fn is_dense(&self) -> bool {
        self.0[ENCODING_AT] == DENSE
    }

    /// Returns the cached estimate; `None` if it is out of date.
    pub(in crate::kv) fn cached_estimate(&self) -> Option<u64> {
        let cached = self.0[CACHED_AT..HEADER_BYTES].try_into().expect("8 bytes");
        Some(u64::from_le_bytes(cached)).filter(|_| self.0[OUTDATED.0] & OUTDATED.1 == 0)
    }

    /// Marks the cached estimate as out of date.
    pub(in crate::kv) fn invalidate_estimate(&mut self) {
        self.0[OUTDATED.0] |= OUTDATED.1;
    }

    /// Adds an element. Returns whether a register was changed. `sparse_bytes_max` is the length of
    /// the string beyond which a change switches to the dense encoding.
    ///
    /// # Errors
    /// If the sparse encoding is corrupt.
    pub(in crate::kv) fn add(
        &mut self,
        element: &[u8],
        sparse_bytes_max: usize,
    ) -> Result<bool, Corrupt> {
        let (index, value) = register_of(element);
        self.raise(index, value, sparse_bytes_max)
    }

    /// Sets a register to `value` if it is less. Returns whether it was.
    fn raise(&mut self, index: usize, value: u8, bytes_max: usize) -> Result<bool, Corrupt> {
        if self.is_dense() {
            return Ok(self.raise_dense(index, value));
        }
        if value <= SPARSE_VALUE_MAX
            && let Some(changed) = self.raise_sparse(index, value, bytes_max)?
        {
            return Ok(changed);
        }
        self.make_dense()?;
        Ok(self.raise_dense(index, value))
    }

    fn raise_dense(&mut self, index: usize, value: u8) -> bool {
        let (at, shift) = (HEADER_BYTES + index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
        let is_raised = dense_register(&self.0[HEADER_BYTES..], index) < value;
        if is_raised {
            let (clear, set) = (!(63_u16 << shift), u16::from(value) << shift);
            let next = self.0.get(at + 1).copied().unwrap_or(0);
            let bits = u16::from_le_bytes([self.0[at], next]) & clear | set;
            let [low, high] = bits.to_le_bytes();
            self.0[at] = low;
            if let Some(next) = self.0.get_mut(at + 1) {
                *next = high;
            }
        }
        is_raised
    }

    /// Raises a register in the sparse encoding. Returns `None`, and changes nothing, if the string
    /// would become longer than `bytes_max`.
    fn raise_sparse(
        &mut self,
        index: usize,
        value: u8,
        bytes_max: usize,
    ) -> Result<Option<bool>, Corrupt> {
        let bytes = &mut self.0;
        let (mut at, mut before, mut first) = (HEADER_BYTES, None, 0);
        let run = loop {
            if at >= bytes.len() {
                return Err(Corrupt);
            }
            let run = Run::at(bytes, at);
            if index < first + run.len {
                break run;
            }
            before = Some(at);
            at += run.width;
            first += run.len;
        };
        if run.value >= value {
            return Ok(Some(false));
        }
        let mut runs = Vec::with_capacity(5);
        Run::put(run.value, index - first, &mut runs);
        Run::put(value, 1, &mut runs);
        Run::put(run.value, first + run.len - index - 1, &mut runs);
        if runs.len() > run.width && bytes.len() + runs.len() - run.width > bytes_max {
            return Ok(None);
        }
        let end = bytes.len().min(at + run.width);
        bytes.splice(at..end, runs);
        self.merge_runs(before.unwrap_or(HEADER_BYTES));
        self.invalidate_estimate();
        Ok(Some(true))
    }

    /// Merges adjacent runs of equal values other than 0, from the run at index `at` on.
    fn merge_runs(&mut self, mut at: usize) {
        for _ in 0..MERGED_RUNS_MAX {
            if at >= self.0.len() {
                return;
            }
            let run = Run::at(&self.0, at);
            if run.value > 0 && at + 1 < self.0.len() {
                let next = Run::at(&self.0, at + 1);
                if next.value == run.value && run.len + next.len <= VALUES_MAX {
                    let mut merged = Vec::with_capacity(1);
                    Run::put(run.value, run.len + next.len, &mut merged);
                    self.0.splice(at..at + 2, merged);
                    continue;
                }
            }
            at += run.width;
        }
    }

    /// Switches to the dense encoding. Returns whether the encoding was sparse.
    ///
    /// # Errors
    /// If the sparse encoding is corrupt.
    pub(in crate::kv) fn make_dense(&mut self) -> Result<bool, Corrupt> {
        let was_sparse = !self.is_dense();
        if was_sparse {
            let registers = self.registers()?;
            self.0.truncate(HEADER_BYTES);
            self.0[ENCODING_AT] = DENSE;
            self.0.resize(DENSE_BYTES, 0);
            for (index, value) in registers.into_iter().enumerate().filter(|(_, value)| *value > 0)
            {
                self.raise_dense(index, value);
            }
        }
        Ok(was_sparse)
    }

    /// Returns the values of all registers.
    ///
    /// # Errors
    /// If the sparse encoding is corrupt.
    pub(in crate::kv) fn registers(&self) -> Result<Vec<u8>, Corrupt> {
        let bytes = &self.0[HEADER_BYTES..];
        if self.is_dense() {
            return Ok((0..REGISTERS).map(|index| dense_register(bytes, index)).collect());
        }
        let mut registers = Vec::with_capacity(REGISTERS);
        for run in runs(bytes) {
            if registers.len() + run.len > REGISTERS {
                return Err(Corrupt);
            }
            registers.resize(registers.len() + run.len, run.value);
        }
        if registers.len() == REGISTERS { Ok(registers) } else { Err(Corrupt) }
    }

    /// Raises all registers to at least these values, in the dense encoding if `is_dense`.
    ///
    /// # Errors
    /// If the sparse encoding is corrupt.
    pub(in crate::kv) fn merge(
        &mut self,
        registers: &[u8],
        is_dense: bool,
        sparse_bytes_max: usize,
    ) -> Result<(), Corrupt> {
        if is_dense {
            self.make_dense()?;
        }
        for (index, value) in registers.iter().enumerate().filter(|(_, value)| **value > 0) {
            self.raise(index, *value, sparse_bytes_max)?;
        }
        self.invalidate_estimate();
        Ok(())
    }

    /// Returns the runs of the sparse encoding as text; `None` in the dense encoding.
    pub(in crate::kv) fn describe(&self) -> Option<String> {
        if self.is_dense() {
            return None;
        }
        let mut text = String::new();
        for Run { value, len, width } in runs(&self.0[HEADER_BYTES..]) {
            let _ = match (value, width) {
                (0, 1) => write!(text, "z:{len} "),
                (0, _) => write!(text, "Z:{len} "),
                _ => write!(text, "v:{value},{len} "),
            };
        }
        text.truncate(text.trim_end().len());
        Some(text)
    }
}

/// Iterates over the runs in `bytes`, the sparse encoding without the header.
fn runs(bytes: &[u8]) -> impl Iterator<Item = Run> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < bytes.len()).then(|| {
            let run = Run::at(bytes, at);
            at += run.width;
            run
        })
    })
}

/// Returns a register in `bytes`, the dense encoding without the header.
fn dense_register(bytes: &[u8], index: usize) -> u8 {
    let (at, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let next = bytes.get(at + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([bytes[at], next]) >> shift & 63) as u8
}

/// Estimates the number of distinct elements from the values of the registers.
pub(in crate::kv) fn estimate(registers: &[u8]) -> u64 {
    /// 1 / (2 ln 2).
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let mut counts = [0_u32; 1 << REGISTER_BITS];
    for value in registers {
        counts[usize::from(*value)] += 1;
    }
    let all = REGISTERS as f64;
    let longest = RUN_BITS as usize;
    let mut sum = all * tau((all - f64::from(counts[longest + 1])) / all);
    for count in counts[1..=longest].iter().rev() {
        sum = (sum + f64::from(*count)) * 0.5;
    }
    sum += all * sigma(f64::from(counts[0]) / all);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2^64")]
    {
        (ALPHA * all * all / sum).round() as u64
    }
}

/// The function sigma of the paper, for a number from 0 to 1.
#[allow(clippy::float_cmp, reason = "the series ends when it does not change any more")]
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

/// The function tau of the paper, for a number from 0 to 1.
#[allow(clippy::float_cmp, reason = "the series ends when it does not change any more")]
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

/// Adds elements to a sparse and a dense HyperLogLog, and checks that they have equal registers and
/// that the estimates are right.
///
/// # Errors
/// If they are not, with the reason.
pub fn self_test() -> Result<(), String> {
    let mut sparse = HyperLogLog::empty();
    let mut dense = HyperLogLog::empty();
    dense.make_dense().map_err(|Corrupt| "the empty encoding is corrupt".to_owned())?;
    let mut checked = 1;
    for number in 1..=10_000_u64 {
        let element = number.to_le_bytes();
        let changed = [&mut sparse, &mut dense].map(|log| log.add(&element, 3_000));
        if changed[0] != changed[1] {
            return Err(format!(
                "element {number}: sparse {:?}, dense {:?}",
                changed[0], changed[1]
            ));
        }
        if number < checked {
            continue;
        }
        checked *= 10;
        let (Ok(one), Ok(other)) = (sparse.registers(), dense.registers()) else {
            return Err(format!("the encoding of {number} elements is corrupt"));
        };
        if one != other {
            return Err(format!("the encodings of {number} elements differ"));
        }
        let estimated = estimate(&one);
        // Six times the standard error of 0.81 %.
        if estimated.abs_diff(number) > number / 20 + 1 {
            return Err(format!("{number} elements are estimated as {estimated}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u32, bytes_max: usize) -> HyperLogLog {
        let mut log = HyperLogLog::empty();
        for number in 0..count {
            log.add(number.to_string().as_bytes(), bytes_max).unwrap();
        }
        log
    }

    #[test]
    fn hash_of_hyperloglog_elements_is_murmur_hash_64a() {
        // Computed with the published code.
        assert_eq!(murmur_hash(b"", 0xadc8_3b19), 0xd8df_ea65_85bc_9732);
        assert_eq!(murmur_hash(b"a", 0xadc8_3b19), 0x53d2_470a_9b43_b1a7);
        assert_eq!(murmur_hash(b"hello world", 0xadc8_3b19), 0xa919_bc30_51f6_24b7);
    }

    #[test]
    fn sparse_and_dense_hyperloglog_have_equal_registers() {
        self_test().unwrap();
        for count in [0, 1, 5, 100, 1_000, 5_000] {
            let sparse = filled(count, usize::MAX);
            let mut dense = filled(count, 0);
            assert!(!sparse.is_dense());
            dense.make_dense().unwrap();
            assert_eq!(sparse.registers(), dense.registers());
            let mut converted = sparse.clone();
            assert_eq!((converted.make_dense(), converted.make_dense()), (Ok(true), Ok(false)));
            assert_eq!(converted.bytes()[HEADER_BYTES..], dense.bytes()[HEADER_BYTES..]);
            let estimated = estimate(&sparse.registers().unwrap());
            assert!(estimated.abs_diff(count.into()) <= u64::from(count / 40), "{estimated}");
        }
    }

    #[test]
    fn sparse_runs_are_split_and_merged() {
        let mut log = HyperLogLog::empty();
        assert_eq!(log.describe().unwrap(), "Z:16384");
        for (index, value, runs) in [
            (100, 3, "Z:100 v:3,1 Z:16283"),
            (101, 3, "Z:100 v:3,2 Z:16282"),
            (103, 3, "Z:100 v:3,2 z:1 v:3,1 Z:16280"),
            (102, 3, "Z:100 v:3,4 Z:16280"),
            (101, 5, "Z:100 v:3,1 v:5,1 v:3,2 Z:16280"),
            (101, 5, "Z:100 v:3,1 v:5,1 v:3,2 Z:16280"),
            (100, 5, "Z:100 v:5,2 v:3,2 Z:16280"),
            (0, 1, "v:1,1 Z:99 v:5,2 v:3,2 Z:16280"),
            (16_383, 32, "v:1,1 Z:99 v:5,2 v:3,2 Z:16279 v:32,1"),
            (60, 1, "v:1,1 z:59 v:1,1 z:39 v:5,2 v:3,2 Z:16279 v:32,1"),
        ] {
            log.raise(index, value, 3_000).unwrap();
            assert_eq!(log.describe().unwrap(), runs);
        }
        assert!(!log.is_dense() && log.cached_estimate().is_none());
        log.raise(7, 33, 3_000).unwrap();
        assert!(log.is_dense() && log.describe().is_none(), "33 is too large");
        assert_eq!(log.registers().unwrap()[100..104], [5, 5, 3, 3]);
    }

    #[test]
    fn corrupt_hyperloglog_is_detected() {
        let log = filled(50, 3_000);
        assert_eq!(HyperLogLog::from_bytes(log.bytes()).as_ref(), Some(&log));
        for (at, byte) in [(0, b'h'), (4, 2), (4, 0)] {
            let mut bytes = log.bytes().to_vec();
            bytes[at] = byte;
            assert_eq!(HyperLogLog::from_bytes(&bytes), None, "{at}");
        }
        assert_eq!(HyperLogLog::from_bytes(&log.bytes()[..15]), None);
        let cut = HyperLogLog::from_bytes(&log.bytes()[..log.bytes().len() - 1]).unwrap();
        assert_eq!(cut.registers(), Err(Corrupt));
        assert_eq!(cut.clone().make_dense(), Err(Corrupt));
        let longer = HyperLogLog::from_bytes(&[log.bytes(), &[0]].concat()).unwrap();
        assert_eq!(longer.registers(), Err(Corrupt));
        let header = HyperLogLog::from_bytes(&log.bytes()[..16]).unwrap();
        assert_eq!(header.clone().add(b"a", 3_000), Err(Corrupt));
    }
}
