//! What the network stage and the applier tell each other besides the channel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::kv::RecordedEvents;
use crate::redis::LocalWrite;
use crate::runtime::long_script::LongScript;
use crate::types::Instant;

/// Values that the network stage and the applier publish for each other.
///
/// The network stage publishes which events this replica's subscribers need: Pub/Sub messages,
/// keyspace notifications, both or neither. The applier reads this setting once in each iteration
/// of its loop, and collects only these events. The applier publishes since when its current pass
/// (iteration of its loop) has been running, so that the network stage notices operations that take
/// long.
#[derive(Debug, Default)]
pub(in crate::runtime) struct ApplierBoard {
    messages: AtomicBool,
    key_events: AtomicBool,
    misses: AtomicBool,
    /// Whether the applier must report changed keys, because clients wait for changes.
    changes: AtomicBool,
    /// Time at which the applier's current pass began, in nanoseconds of the monotonic clock; 0 if
    /// the applier is waiting for work.
    pass_began_at: AtomicU64,
    /// When the applier last applied a piece of a large batch, in nanoseconds of the monotonic
    /// clock; 0 before the first.
    piece_applied_at: AtomicU64,
    /// Whether the applier has found that its state is wrong and has marked the folder, so that
    /// the replica must stop.
    state_is_wrong: AtomicBool,
    /// What the applier must set in the state of this replica only; `None` if there is nothing.
    local_write: Mutex<Option<LocalWrite>>,
    long_script: LongScript,
}

impl ApplierBoard {
    /// Returns the script that runs on a thread of its own.
    pub(in crate::runtime) fn long_script(&self) -> &LongScript {
        &self.long_script
    }

    /// Sets which events the applier collects. It must collect Pub/Sub messages if any client of
    /// this replica has a subscription, and also keyspace notifications if they are enabled.
    pub(in crate::runtime) fn set(&self, recorded: RecordedEvents) {
        self.messages.store(recorded.messages, Ordering::Relaxed);
        self.key_events.store(recorded.keys, Ordering::Relaxed);
        self.misses.store(recorded.misses, Ordering::Relaxed);
    }

    /// Returns which events the applier must collect.
    pub(in crate::runtime) fn get(&self) -> RecordedEvents {
        RecordedEvents {
            messages: self.messages.load(Ordering::Relaxed),
            keys: self.key_events.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Sets whether the applier must report changed keys.
    pub(in crate::runtime) fn set_reports_changes(&self, reports: bool) {
        self.changes.store(reports, Ordering::Relaxed);
    }

    /// Returns whether the applier must report changed keys.
    pub(in crate::runtime) fn reports_changes(&self) -> bool {
        self.changes.load(Ordering::Relaxed)
    }

    /// Records that the applier begins a pass (iteration of its loop) at `now`.
    pub(in crate::runtime) fn begin_pass(&self, now: Instant) {
        self.pass_began_at.store(now.0, Ordering::Relaxed);
    }

    /// Records that the applier's pass has ended.
    pub(in crate::runtime) fn end_pass(&self) {
        self.pass_began_at.store(0, Ordering::Relaxed);
    }

    /// Records that the state is wrong, and that the folder is marked.
    pub(in crate::runtime) fn note_wrong_state(&self) {
        self.state_is_wrong.store(true, Ordering::Release);
    }

    /// Returns whether the state is wrong, so that the replica must stop.
    pub(in crate::runtime) fn state_is_wrong(&self) -> bool {
        self.state_is_wrong.load(Ordering::Acquire)
    }

    /// Makes the applier set a key in the state of this replica only (`DEBUG DIVERGE`).
    pub(in crate::runtime) fn write_locally(&self, write: LocalWrite) {
        *self.local_write.lock() = Some(write);
    }

    /// Returns what the applier must set in the state of this replica only.
    pub(in crate::runtime) fn take_local_write(&self) -> Option<LocalWrite> {
        self.local_write.lock().take()
    }

    /// Records that the applier has applied a piece of a large batch at `now`.
    pub(in crate::runtime) fn note_piece(&self, now: Instant) {
        self.piece_applied_at.store(now.0, Ordering::Relaxed);
    }

    /// Returns when the applier last applied a piece of a large batch; [`Instant::ZERO`] before the
    /// first.
    pub(in crate::runtime) fn piece_applied_at(&self) -> Instant {
        Instant(self.piece_applied_at.load(Ordering::Relaxed))
    }

    /// Returns for how long the applier's current pass has been running at `now`; zero if the
    /// applier is waiting for work.
    pub(in crate::runtime) fn pass_time(&self, now: Instant) -> Duration {
        match self.pass_began_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began_at => now.since(Instant(began_at)),
        }
    }
}
