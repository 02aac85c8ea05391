//! A part of the state that may be looked at for long while it changes: whoever looks shares it,
//! and only if it is written to meanwhile it is copied.

use std::mem;
use std::sync::Arc;

/// The part. Owned where it can be: then it is changed without asking whether anybody else sees it,
/// which would cost each write a round to the other processors.
pub(in crate::kv) enum Share<T> {
    Own(T),
    Shared(Arc<T>),
}

impl<T: Clone + Default> Share<T> {
    pub(in crate::kv) fn get(&self) -> &T {
        match self {
            Share::Own(part) => part,
            Share::Shared(part) => part,
        }
    }

    /// To be changed: copied if somebody still looks at it.
    pub(in crate::kv) fn get_mut(&mut self) -> &mut T {
        if self.is_shared() {
            self.make_own();
        }
        match self {
            Share::Own(part) => part,
            Share::Shared(_) => unreachable!("it was made our own"),
        }
    }

    /// Whether to change it may cost a copy.
    pub(in crate::kv) fn is_shared(&self) -> bool {
        matches!(self, Share::Shared(_))
    }

    #[cold]
    fn make_own(&mut self) {
        if let Share::Shared(part) = mem::take(self) {
            *self = Share::Own(Arc::unwrap_or_clone(part));
        }
    }

    /// As it is now, to be kept.
    pub(in crate::kv) fn share(&mut self) -> Arc<T> {
        if let Share::Own(part) = self {
            *self = Share::Shared(Arc::new(mem::take(part)));
        }
        match self {
            Share::Shared(part) => Arc::clone(part),
            Share::Own(_) => unreachable!("it was made to be shared"),
        }
    }
}

impl<T: Default> Default for Share<T> {
    fn default() -> Share<T> {
        Share::Own(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_stays_as_it_was_and_is_copied_once() {
        let mut part = Share::Own(vec![1]);
        let seen = part.share();
        assert!(Arc::ptr_eq(&seen, &part.share()), "shared twice without a copy");
        part.get_mut().push(2);
        let here = part.get().as_ptr();
        part.get_mut()[0] = 3;
        assert_eq!((&*seen, part.get()), (&vec![1], &vec![3, 2]));
        assert_eq!(part.get().as_ptr(), here, "copied for the first change alone");
        drop(part.share());
        let there = part.get().as_ptr();
        assert_eq!(part.get_mut().as_ptr(), there, "nobody looks, so nothing is copied");
    }
}
