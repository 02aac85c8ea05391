//! The applier on a thread that it shares with other stages, except for long operations.
//!
//! A single operation may take seconds, for example the union of large sets. On a shared thread it
//! would delay heartbeats and votes until the replica lost its leadership. So the applier moves to
//! a helper thread for each long operation, and returns afterwards. Meanwhile the other stages
//! continue, and batches wait in the applier's queue.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use crate::runtime::wake::{REPLIES, Wake};

use super::applier::Applier;

/// The applier of a shared thread, which is at times away on the helper thread.
pub(super) struct SharedApplier {
    /// The applier; `None` while it is on the helper thread.
    here: Option<Box<Applier>>,
    /// The channels to and from the helper thread; `None` if long operations run on the shared
    /// thread, too.
    helper: Option<HelperEnds>,
}

/// The shared thread's ends of the two channels to and from the helper thread. Each channel holds
/// at most the one applier.
struct HelperEnds {
    to_helper: Sender<Box<Applier>>,
    from_helper: Receiver<Box<Applier>>,
}

/// The helper thread's ends of its two channels.
pub(super) struct Helper {
    jobs: Receiver<Box<Applier>>,
    results: Sender<Box<Applier>>,
    wake: Arc<Wake>,
}

impl SharedApplier {
    /// Returns an applier that runs everything on the shared thread.
    pub(super) fn without_helper(applier: Applier) -> SharedApplier {
        SharedApplier { here: Some(Box::new(applier)), helper: None }
    }

    /// Returns an applier that runs long operations on a helper thread, which must call
    /// [`Helper::run`].
    pub(super) fn with_helper(mut applier: Applier) -> (SharedApplier, Helper) {
        applier.defer_long_operations();
        let wake = applier.network_wake();
        let (to_helper, jobs) = bounded(1);
        let (results, from_helper) = bounded(1);
        let helper = Some(HelperEnds { to_helper, from_helper });
        let shared = SharedApplier { here: Some(Box::new(applier)), helper };
        (shared, Helper { jobs, results, wake })
    }

    /// Returns whether the applier has work that it can do now on the shared thread. False while it
    /// is on the helper thread, which wakes the network stage when the applier can be taken back.
    pub(super) fn is_ready(&self) -> bool {
        self.here.as_ref().is_some_and(|applier| applier.is_ready())
    }

    /// Runs one pass of the applier (see [`Applier::run_ready`]), unless it is on the helper
    /// thread. Sends it there if the pass ended before a long operation.
    pub(super) fn run_ready(&mut self, has_jobs: bool) {
        let Some(applier) = &mut self.here else { return };
        applier.run_ready(has_jobs);
        if applier.has_deferred()
            && let Some(helper) = &self.helper
        {
            let applier = self.here.take().expect("it was here");
            // The helper ends after this thread, so the channel is open.
            helper
                .to_helper
                .send(applier)
                .expect("the helper thread receives until this one stops");
        }
    }

    /// Takes the applier back if the helper thread has finished the long operation.
    pub(super) fn take_back(&mut self) {
        if self.here.is_none()
            && let Some(helper) = &self.helper
        {
            match helper.from_helper.try_recv() {
                Ok(applier) => self.here = Some(applier),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => unreachable!("the helper waits for this end"),
            }
        }
    }
}

impl Helper {
    /// Runs long operations on the current thread until the shared thread has stopped.
    pub(super) fn run(&self) {
        for mut applier in &self.jobs {
            applier.run_deferred();
            if self.results.send(applier).is_err() {
                return;
            }
            // The shared thread may sleep, and batches may wait for the applier.
            self.wake.notify(REPLIES).expect("a write to the waker's own descriptor");
        }
    }
}
