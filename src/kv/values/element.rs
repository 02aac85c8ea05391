//! The elements of collections: members, fields and their values. A short element is stored in
//! place, so that reading it takes no further cache miss, and adding it allocates no memory.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};

use bytes::Bytes;

/// Maximum length in bytes of an element that is stored in place.
const INLINE_BYTES_MAX: usize = 23;
/// Approximate memory overhead of an element that is not stored in place, in bytes: what the
/// allocator adds, and the reference count.
const ALLOCATED_BYTES: usize = 40;

/// An element of a collection: any bytes. Clones of a long element share its memory.
#[derive(Clone)]
pub(in crate::kv) struct Element(Storage);

#[derive(Clone)]
enum Storage {
    /// The first `length` bytes.
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Shared(Bytes),
}

impl Element {
    /// Returns the approximate memory usage of the element in bytes, without the size of this type.
    pub(in crate::kv) fn allocated_bytes(&self) -> usize {
        match &self.0 {
            Storage::Inline { .. } => 0,
            Storage::Shared(bytes) => bytes.len() + ALLOCATED_BYTES,
        }
    }

    /// Returns what [`Element::allocated_bytes`] returns for an element of this length.
    pub(in crate::kv) fn allocated_bytes_of(length: usize) -> usize {
        if length > INLINE_BYTES_MAX { length + ALLOCATED_BYTES } else { 0 }
    }

    /// Returns the element as the outcome of a command: a copy of a short element, or a reference
    /// to the memory of a long one.
    pub(in crate::kv) fn to_shared(&self) -> Bytes {
        match &self.0 {
            Storage::Inline { .. } => Bytes::copy_from_slice(self),
            Storage::Shared(bytes) => bytes.clone(),
        }
    }
}

/// Returns each element as [`Element::to_shared`] does. All copies share one piece of memory, which
/// is cheaper than one for each of them.
pub(in crate::kv) fn share_all<'e>(
    elements: impl IntoIterator<Item = &'e Element>,
) -> impl ExactSizeIterator<Item = Bytes> {
    let elements: Vec<&Element> = elements.into_iter().collect();
    let is_inline = |element: &&&Element| matches!(element.0, Storage::Inline { .. });
    let length = elements.iter().filter(is_inline).map(|element| element.len()).sum();
    let mut copied = Vec::with_capacity(length);
    let part = |element: &Element| {
        if let Storage::Shared(bytes) = &element.0 {
            return Part::Shared(bytes.clone());
        }
        let start = copied.len();
        copied.extend_from_slice(element);
        Part::Copied(start..copied.len())
    };
    let parts: Vec<Part> = elements.into_iter().map(part).collect();
    let copied = Bytes::from(copied);
    parts.into_iter().map(move |part| match part {
        Part::Copied(range) => copied.slice(range),
        Part::Shared(bytes) => bytes,
    })
}

/// An element that [`share_all`] returns: its place in the copied bytes, or a reference to its own
/// memory.
enum Part {
    Copied(Range<usize>),
    Shared(Bytes),
}

impl From<&[u8]> for Element {
    fn from(from: &[u8]) -> Element {
        match u8::try_from(from.len()) {
            Ok(length) if from.len() <= INLINE_BYTES_MAX => {
                let mut bytes = [0; INLINE_BYTES_MAX];
                bytes[..from.len()].copy_from_slice(from);
                Element(Storage::Inline { length, bytes })
            }
            _ => Element(Storage::Shared(Bytes::copy_from_slice(from))),
        }
    }
}

impl Deref for Element {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Storage::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Element {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Element {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Element) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Element {}

impl Ord for Element {
    fn cmp(&self, other: &Element) -> Ordering {
        self[..].cmp(&other[..])
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Element) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Element {
    /// Equals the hash of the bytes as a slice, which [`Borrow`] requires.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}", self.escape_ascii().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use foldhash::fast::FixedState;

    use super::*;

    #[test]
    fn elements_of_any_length_keep_their_bytes() {
        let state = FixedState::default();
        for length in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 255, 256, 10_000] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let element = Element::from(&bytes[..]);
            assert_eq!(&element[..], &bytes[..]);
            assert_eq!(element, element.clone());
            assert_eq!(element.to_shared(), bytes);
            assert_eq!(state.hash_one(&element), state.hash_one(&bytes[..]));
            assert_eq!(element.allocated_bytes() > 0, length > INLINE_BYTES_MAX);
            assert_eq!(element.allocated_bytes(), Element::allocated_bytes_of(length));
        }
        assert_eq!(size_of::<Element>(), size_of::<Bytes>());
    }

    #[test]
    fn elements_are_ordered_by_their_bytes() {
        let long = [b'b'; 30];
        let ordered: [&[u8]; 5] = [b"", b"a", &[b'a'; 40], b"b", &long];
        assert!(ordered.map(Element::from).is_sorted());
        assert_ne!(Element::from(&b"a"[..]), Element::from(&b"a\0"[..]));
    }

    #[test]
    fn shared_elements_keep_their_order() {
        let lengths = [3, INLINE_BYTES_MAX + 1, 0, 10_000, INLINE_BYTES_MAX];
        let elements: Vec<Element> =
            lengths.iter().map(|length| vec![b'a'; *length][..].into()).collect();
        let shared = share_all(&elements);
        assert_eq!(shared.len(), elements.len());
        assert!(shared.eq(elements.iter().map(Element::to_shared)));
    }

    #[test]
    fn copies_of_a_long_element_share_its_memory() {
        let element = Element::from(&[7; INLINE_BYTES_MAX + 1][..]);
        assert_eq!(element.to_shared().as_ptr(), element.as_ptr());
        assert_eq!(element.clone().as_ptr(), element.as_ptr());
    }
}
