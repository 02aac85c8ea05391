//! Copy-on-write data: snapshots share parts of the state, and a part is copied only if it is
//! changed while it is shared.

use std::mem;
use std::sync::Arc;

/// A part of the state that snapshots can share. A change of shared data copies the data first.
/// Data that was never shared has no reference count, because each write would have to read it, at
/// the cost of a cache miss.
pub(in crate::kv) enum CopyOnWrite<T> {
    Exclusive(T),
    Shared(Arc<T>),
}

impl<T: Clone + Default> CopyOnWrite<T> {
    pub(in crate::kv) fn get(&self) -> &T {
        match self {
            CopyOnWrite::Exclusive(part) => part,
            CopyOnWrite::Shared(part) => part,
        }
    }

    /// Returns a mutable reference to the data. Copies the data first if a snapshot shares it.
    pub(in crate::kv) fn get_mut(&mut self) -> &mut T {
        if self.is_shared() {
            self.make_exclusive();
        }
        match self {
            CopyOnWrite::Exclusive(part) => part,
            CopyOnWrite::Shared(_) => unreachable!("it was made exclusive"),
        }
    }

    /// Returns whether a snapshot may share the data, so that the next change may have to copy it.
    pub(in crate::kv) fn is_shared(&self) -> bool {
        matches!(self, CopyOnWrite::Shared(_))
    }

    /// Returns the data if a snapshot shares it, so that the next change will copy it; otherwise
    /// `None`.
    pub(in crate::kv) fn to_copy(&self) -> Option<&T> {
        match self {
            CopyOnWrite::Shared(part) if Arc::strong_count(part) > 1 => Some(part),
            _ => None,
        }
    }

    #[cold]
    fn make_exclusive(&mut self) {
        if let CopyOnWrite::Shared(part) = mem::take(self) {
            *self = CopyOnWrite::Exclusive(Arc::unwrap_or_clone(part));
        }
    }

    /// Marks the data as shared, and returns a reference to it for a snapshot. Later changes do not
    /// affect the snapshot.
    pub(in crate::kv) fn share(&mut self) -> Arc<T> {
        if let CopyOnWrite::Exclusive(part) = self {
            *self = CopyOnWrite::Shared(Arc::new(mem::take(part)));
        }
        match self {
            CopyOnWrite::Shared(part) => Arc::clone(part),
            CopyOnWrite::Exclusive(_) => unreachable!("it was just shared"),
        }
    }
}

impl<T: Default> Default for CopyOnWrite<T> {
    fn default() -> CopyOnWrite<T> {
        CopyOnWrite::Exclusive(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_on_write_content_is_copied_once_on_the_first_write() {
        let mut part = CopyOnWrite::Exclusive(vec![1]);
        let shared = part.share();
        assert!(Arc::ptr_eq(&shared, &part.share()), "sharing twice does not copy");
        assert_eq!(part.to_copy(), Some(&vec![1]));
        part.get_mut().push(2);
        assert_eq!(part.to_copy(), None, "it was copied");
        let address = part.get().as_ptr();
        part.get_mut()[0] = 3;
        assert_eq!((&*shared, part.get()), (&vec![1], &vec![3, 2]));
        assert_eq!(part.get().as_ptr(), address, "only the first change copies");
        drop(part.share());
        assert_eq!(part.to_copy(), None, "the snapshot was dropped");
        let address = part.get().as_ptr();
        assert_eq!(part.get_mut().as_ptr(), address, "no handle is left, so nothing is copied");
    }
}
