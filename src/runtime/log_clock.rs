//! The log's clock, as a leader moves it on. Keys end by that clock alone, which entries move, so
//! they end at the same place everywhere; whoever leads sees to it that it is not far behind its
//! own wall clock when a write comes, and when a key's time is over.

use std::time::Duration;

use crate::kv::{Command, Operation};
use crate::raft::{ClientRequest, RequestKind};
use crate::types::{Instant, RequestKey};

/// How far behind the clock may be when a write comes; no more entries than one in this time are
/// there for the clock only.
const INTERVAL: Duration = Duration::from_millis(10);

/// What a leader knows of it.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    /// When this leader moved it last; `None` for not yet.
    moved_at: Option<Instant>,
    /// When the next key ends by the log's clock, as the applier says.
    next_end: Option<u64>,
}

impl LogClock {
    /// Another leads now, or this replica has just begun to.
    pub(super) fn reset(&mut self) {
        self.moved_at = None;
    }

    /// When the next key ends.
    pub(super) fn note_end(&mut self, next_end: Option<u64>) {
        self.next_end = next_end;
    }

    fn may_move(&self, now: Instant) -> bool {
        self.moved_at.is_none_or(|moved_at| now >= moved_at + INTERVAL)
    }

    /// What goes to the log before a write that has come now.
    pub(super) fn before_write(
        &mut self,
        now: Instant,
        wall: impl FnOnce() -> u64,
    ) -> Option<ClientRequest> {
        self.may_move(now).then(|| self.entry(now, wall()))
    }

    /// What goes to the log because a key's time is over.
    pub(super) fn at_end(
        &mut self,
        now: Instant,
        wall: impl FnOnce() -> u64,
    ) -> Option<ClientRequest> {
        let end = self.next_end.filter(|_| self.may_move(now))?;
        let wall = wall();
        (end <= wall).then(|| self.entry(now, wall))
    }

    /// How long until [`LogClock::at_end`] may have something; `None` for no key that ends.
    pub(super) fn patience(&self, now: Instant, wall: impl FnOnce() -> u64) -> Option<Duration> {
        let left = Duration::from_millis(self.next_end?.saturating_sub(wall()));
        let pause = self.moved_at.map_or(Duration::ZERO, |at| (at + INTERVAL).since(now));
        Some(left.max(pause))
    }

    fn entry(&mut self, now: Instant, millis: u64) -> ClientRequest {
        self.moved_at = Some(now);
        // Nobody's request: no client waits for it, and no door knows its name.
        let key = RequestKey::default();
        let payload = Command { key, operation: Operation::Clock { millis } }.encode();
        ClientRequest { key, kind: RequestKind::Write, payload }
    }
}

#[cfg(test)]
impl LogClock {
    /// One that stands, for tests that count entries.
    pub(super) fn standing() -> LogClock {
        LogClock { moved_at: Some(Instant::MAX), next_end: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn it_moves_before_writes_but_not_before_each() {
        let mut clock = LogClock::default();
        let moved = |clock: &mut LogClock, now| clock.before_write(at(now), || 7).is_some();
        assert!(moved(&mut clock, 5));
        assert!(!moved(&mut clock, 14));
        assert!(moved(&mut clock, 15));
        clock.reset();
        let entry = clock.before_write(at(15), || 1_234).unwrap();
        let command = Command::decode(&entry.payload).unwrap();
        assert_eq!(command.operation, Operation::Clock { millis: 1_234 });
    }

    #[test]
    fn it_moves_when_a_key_ends_and_not_before() {
        let mut clock = LogClock::default();
        assert!(clock.at_end(at(1), || 1_000).is_none());
        assert_eq!(clock.patience(at(1), || 1_000), None);
        clock.note_end(Some(1_100));
        assert!(clock.at_end(at(1), || 1_099).is_none());
        assert_eq!(clock.patience(at(1), || 1_000), Some(Duration::from_millis(100)));
        assert!(clock.at_end(at(2), || 1_100).is_some());
        // Not again at once, however many keys there are.
        assert!(clock.at_end(at(3), || 1_200).is_none());
        assert_eq!(clock.patience(at(3), || 1_200), Some(Duration::from_millis(9)));
        assert!(clock.at_end(at(12), || 1_200).is_some());
    }
}
