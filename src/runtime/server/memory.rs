//! What all clients together hold in memory, and who may go on when that is much.
//!
//! A client may send a large request bit by bit, or ask for much and read little, and so may ten
//! thousand at once. Above half of what is allowed, whoever holds much is no longer read, but for
//! one at a time, which so gets its large request through; those that hold little notice nothing.
//! Above all of it the clients that hold most are closed.

use super::client::Room;

/// Whoever holds no more than this holds little.
const LITTLE_BYTES: usize = 64 << 10;
/// Bytes of replies that wait for one client, at least and at most. In between they all have room.
const OUTPUT_BYTES_MIN: usize = 16 << 10;
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// The count of it.
#[derive(Debug)]
pub(super) struct Memory {
    most_bytes: usize,
    held_bytes: usize,
    /// Who holds much and is read all the same.
    floor: Option<usize>,
}

impl Memory {
    pub(super) fn new(most_bytes: usize) -> Memory {
        Memory { most_bytes, held_bytes: 0, floor: None }
    }

    /// Another limit counts from now on.
    pub(super) fn allow(&mut self, most_bytes: usize) {
        self.most_bytes = most_bytes;
    }

    /// Bytes held.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// A client holds `now` instead of `before`.
    pub(super) fn change(&mut self, place: usize, before: usize, now: usize) {
        self.held_bytes = self.held_bytes + now - before;
        if self.floor == Some(place) && now <= LITTLE_BYTES {
            self.floor = None;
        }
    }

    /// Whether a client that holds so much may be read from. True for the first that asks when
    /// memory is scarce, and then for that one only, until it holds little again.
    pub(super) fn may_grow(&mut self, place: usize, bytes: usize) -> bool {
        bytes <= LITTLE_BYTES
            || self.held_bytes < self.most_bytes / 2
            || *self.floor.get_or_insert(place) == place
    }

    /// Whether somebody who holds much may be read now.
    pub(super) fn has_room(&self) -> bool {
        self.floor.is_none() || self.held_bytes < self.most_bytes / 2
    }

    /// A client that holds much can't be read now: another one may.
    pub(super) fn give_way(&mut self, place: usize) {
        if self.floor == Some(place) {
            self.floor = None;
        }
    }

    /// Whether somebody must go.
    pub(super) fn is_exceeded(&self) -> bool {
        self.held_bytes > self.most_bytes
    }

    /// What one of so many clients may be owed.
    pub(super) fn room(&self, client_count: usize) -> Room {
        let share = self.most_bytes / 4 / client_count.max(1);
        Room {
            output_bytes: share.clamp(OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX),
            reply_bytes: self.most_bytes / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS_BYTES_MIN: usize = 16 << 20;
    const LARGE: usize = 1 << 20;

    #[test]
    fn when_memory_is_scarce_one_large_client_goes_on_and_all_small_ones() {
        let mut memory = Memory::new(CLIENTS_BYTES_MIN);
        assert!(memory.may_grow(1, LARGE) && memory.may_grow(2, LARGE));
        memory.change(1, 0, CLIENTS_BYTES_MIN / 2);
        assert!(memory.may_grow(2, LARGE), "the first that asks");
        assert!(!memory.may_grow(1, CLIENTS_BYTES_MIN / 2));
        assert!(memory.may_grow(2, LARGE) && memory.may_grow(3, LITTLE_BYTES));
        memory.change(2, 0, LARGE);
        memory.change(2, LARGE, LITTLE_BYTES);
        assert!(memory.may_grow(1, CLIENTS_BYTES_MIN / 2), "the other is done");
        assert!(!memory.is_exceeded());
        memory.change(1, CLIENTS_BYTES_MIN / 2, CLIENTS_BYTES_MIN);
        assert!(memory.is_exceeded());
        memory.change(1, CLIENTS_BYTES_MIN, 0);
        assert!(memory.may_grow(2, LARGE) && memory.may_grow(3, LARGE));
        assert_eq!(memory.held_bytes(), LITTLE_BYTES);
    }

    #[test]
    fn the_more_clients_the_less_each_may_leave_unread() {
        let memory = Memory::new(256 << 20);
        let output = |count| memory.room(count).output_bytes;
        assert_eq!(output(0), OUTPUT_BYTES_MAX);
        assert_eq!(output(1_000), (64 << 20) / 1_000);
        assert_eq!(output(100_000), OUTPUT_BYTES_MIN);
    }
}
