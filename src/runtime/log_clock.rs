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
    /// What it showed when this leader first asked, and when that was.
    base: Option<(u64, Instant)>,
    /// What it shows by the entries that were applied, in milliseconds since 1970.
    shown: u64,
    /// When the next key ends by it.
    next_end: Option<u64>,
}

impl LogClock {
    /// Another leads now, or this replica has just begun to.
    pub(super) fn reset(&mut self) {
        self.moved_at = None;
        self.base = None;
    }

    /// What it shows in the state, and when the next key ends there.
    pub(super) fn note(&mut self, shown: u64, next_end: Option<u64>) {
        self.shown = shown;
        self.next_end = next_end;
    }

    /// What it should show now: the leader's wall clock; or, where a leader before had one that was
    /// ahead, what it showed then and the time since: it would stand still for hours else.
    fn time(&self, now: Instant, wall: impl FnOnce() -> u64) -> u64 {
        let (shown, at) = self.base.unwrap_or((self.shown, now));
        let since = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        wall().max(shown.saturating_add(since))
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
        if !self.may_move(now) {
            return None;
        }
        self.base.get_or_insert((self.shown, now));
        let time = self.time(now, wall);
        Some(self.entry(now, time))
    }

    /// What goes to the log because a key's time is over.
    pub(super) fn at_end(
        &mut self,
        now: Instant,
        wall: impl FnOnce() -> u64,
    ) -> Option<ClientRequest> {
        let end = self.next_end.filter(|_| self.may_move(now))?;
        self.base.get_or_insert((self.shown, now));
        let time = self.time(now, wall);
        (end <= time).then(|| self.entry(now, time))
    }

    /// How long until [`LogClock::at_end`] may have something; `None` for no key that ends.
    pub(super) fn patience(&self, now: Instant, wall: impl FnOnce() -> u64) -> Option<Duration> {
        let end = self.next_end?;
        let left = Duration::from_millis(end.saturating_sub(self.time(now, wall)));
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
        LogClock { moved_at: Some(Instant::MAX), ..LogClock::default() }
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
        clock.note(900, Some(1_100));
        assert!(clock.at_end(at(1), || 1_099).is_none());
        assert_eq!(clock.patience(at(1), || 1_000), Some(Duration::from_millis(100)));
        assert!(clock.at_end(at(2), || 1_100).is_some());
        // Not again at once, however many keys there are.
        assert!(clock.at_end(at(3), || 1_200).is_none());
        assert_eq!(clock.patience(at(3), || 1_200), Some(Duration::from_millis(9)));
        assert!(clock.at_end(at(12), || 1_200).is_some());
    }

    #[test]
    fn it_goes_on_where_a_clock_before_was_ahead() {
        let mut clock = LogClock::default();
        clock.note(9_000, Some(9_100));
        assert!(clock.at_end(at(50), || 10).is_none());
        assert_eq!(clock.patience(at(60), || 20), Some(Duration::from_millis(90)));
        assert!(clock.at_end(at(149), || 109).is_none());
        let entry = clock.at_end(at(150), || 110).expect("its time is over");
        let command = Command::decode(&entry.payload).unwrap();
        assert_eq!(command.operation, Operation::Clock { millis: 9_100 });
        // A clock that is set right counts at once.
        let entry = clock.before_write(at(160), || 50_000).unwrap();
        let command = Command::decode(&entry.payload).unwrap();
        assert_eq!(command.operation, Operation::Clock { millis: 50_000 });
    }
}
