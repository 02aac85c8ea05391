//! String values in either representation, short or long, for reading and for changing.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::kv::values::long_string::{Chunks, LongString};

/// Maximum length in bytes of a string value that is copied into a reply. A reply shares the memory
/// of a longer value by reference counting, which for a short value would cost more than copying.
pub(in crate::kv) const COPIED_BYTES_MAX: usize = 1_024;

/// A string value that is borrowed from the keyspace.
#[derive(Clone, Copy)]
pub(in crate::kv) enum StringRef<'s> {
    Short(&'s [u8]),
    Long(&'s LongString),
}

/// A string value that a command changes. Bytes beyond its end are read as zero, and writing beyond
/// its end extends it.
pub(in crate::kv) enum StringEdit<'s> {
    Short(&'s mut Vec<u8>),
    Long(&'s mut LongString),
}

/// A string value, or a part of it, that can outlive the borrow of the keyspace.
#[derive(Clone)]
pub(in crate::kv) enum SharedString {
    Short(Bytes),
    Long(LongValue),
}

/// A long string value, or a part of it, as the outcome of a command. Shares the memory of the
/// keyspace, and so consists of several slices. Later changes of the key do not affect it. A part
/// shares only the chunks of the string that it needs.
#[derive(Clone)]
pub struct LongValue {
    chunks: Chunks,
    /// The range of bytes in `chunks`.
    range: Range<usize>,
}

impl<'s> StringRef<'s> {
    /// Returns the length of the string in bytes.
    pub(in crate::kv) fn len(self) -> usize {
        match self {
            StringRef::Short(bytes) => bytes.len(),
            StringRef::Long(string) => string.len(),
        }
    }

    /// Returns the bytes of a short string; `None` if the string is long, in which case it is
    /// neither a number nor an option.
    pub(in crate::kv) fn short(self) -> Option<&'s [u8]> {
        match self {
            StringRef::Short(bytes) => Some(bytes),
            StringRef::Long(_) => None,
        }
    }

    /// Iterates over the bytes in `range`, which must not extend beyond the end of the string, in
    /// slices.
    pub(in crate::kv) fn slices(self, range: Range<usize>) -> impl Iterator<Item = &'s [u8]> {
        let (short, long) = match self {
            StringRef::Short(bytes) => (Some(&bytes[range]), None),
            StringRef::Long(string) => (None, Some(string.slices(range))),
        };
        short.into_iter().chain(long.into_iter().flatten())
    }

    /// Returns the byte at index `at`, or 0 if the string is shorter.
    pub(in crate::kv) fn byte(self, at: usize) -> u8 {
        let mut byte = [0];
        self.read(at, &mut byte);
        byte[0]
    }

    /// Copies bytes of the string, from the byte `at` on, to `out`. Bytes beyond the end of the
    /// string are read as zero.
    pub(in crate::kv) fn read(self, at: usize, out: &mut [u8]) {
        let end = (at + out.len()).min(self.len());
        let mut filled = 0;
        for slice in self.slices(at.min(end)..end) {
            out[filled..filled + slice.len()].copy_from_slice(slice);
            filled += slice.len();
        }
        out[filled..].fill(0);
    }

    /// Returns the whole string in one piece, which is copied if the string is long.
    pub(in crate::kv) fn contiguous(self) -> Cow<'s, [u8]> {
        match self {
            StringRef::Short(bytes) => Cow::Borrowed(bytes),
            StringRef::Long(string) => {
                Cow::Owned(string.slices(0..string.len()).collect::<Vec<_>>().concat())
            }
        }
    }
}

impl Default for StringRef<'_> {
    fn default() -> Self {
        StringRef::Short(&[])
    }
}

impl PartialEq<[u8]> for StringRef<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        self.len() == other.len() && are_equal(self.slices(0..self.len()), other)
    }
}

impl StringEdit<'_> {
    fn as_ref(&self) -> StringRef<'_> {
        match self {
            StringEdit::Short(bytes) => StringRef::Short(bytes),
            StringEdit::Long(string) => StringRef::Long(string),
        }
    }

    /// Copies bytes of the string, from the byte `at` on, to `out`.
    pub(in crate::kv) fn read(&self, at: usize, out: &mut [u8]) {
        self.as_ref().read(at, out);
    }

    /// Overwrites the string from the byte `at` on with `bytes`.
    pub(in crate::kv) fn write(&mut self, at: usize, bytes: &[u8]) {
        match self {
            StringEdit::Long(string) => string.write(at, bytes),
            StringEdit::Short(string) => {
                if string.len() < at {
                    string.resize(at, 0);
                }
                let (inside, appended) = bytes.split_at(bytes.len().min(string.len() - at));
                string[at..at + inside.len()].copy_from_slice(inside);
                string.extend_from_slice(appended);
            }
        }
    }
}

impl SharedString {
    /// Returns the length of the string in bytes.
    pub(in crate::kv) fn len(&self) -> usize {
        match self {
            SharedString::Short(bytes) => bytes.len(),
            SharedString::Long(value) => value.len(),
        }
    }

    /// Returns the bytes in `range`, which must not extend beyond the end of the string. Copies
    /// bytes of a long string if there are at most [`COPIED_BYTES_MAX`] of them; otherwise the
    /// result shares the string's memory.
    pub(in crate::kv) fn part(&self, range: Range<usize>) -> SharedString {
        match self {
            SharedString::Short(bytes) => SharedString::Short(bytes.slice(range)),
            SharedString::Long(value) => {
                let part = value.part(range);
                if part.len() > COPIED_BYTES_MAX {
                    SharedString::Long(part)
                } else {
                    SharedString::Short(part.to_bytes())
                }
            }
        }
    }
}

impl LongValue {
    /// Returns the bytes of `string` in `range` as a value.
    pub(in crate::kv) fn new(string: LongString, range: Range<usize>) -> LongValue {
        assert!(range.end <= string.len(), "{range:?} of {} bytes", string.len());
        LongValue { chunks: Chunks::All(string), range }
    }

    fn part(&self, range: Range<usize>) -> LongValue {
        assert!(range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let start = self.range.start;
        let (chunks, range) = self.chunks.part(start + range.start..start + range.end);
        LongValue { chunks, range }
    }

    /// Returns the length of the value in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a long value is never empty")]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Iterates over the bytes of the value, in slices.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.slices(self.range.clone())
    }

    /// Returns a copy of the value in one piece.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.len());
        self.slices().for_each(|slice| bytes.extend_from_slice(slice));
        Bytes::from(bytes)
    }
}

impl PartialEq for LongValue {
    fn eq(&self, other: &LongValue) -> bool {
        self.len() == other.len() && are_equal(self.slices(), &other.to_bytes())
    }
}

impl Eq for LongValue {}

impl fmt::Debug for LongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongValue({} bytes)", self.len())
    }
}

/// Returns whether the concatenated `slices` are equal to `bytes`, which must be of the same
/// length.
fn are_equal<'s>(slices: impl Iterator<Item = &'s [u8]>, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    slices.into_iter().all(|slice| {
        let (same, behind) = rest.split_at(slice.len());
        rest = behind;
        slice == same
    })
}
