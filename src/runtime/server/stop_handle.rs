//! The handle by which the thread that receives signals asks a running server to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::runtime::wake::{STOP, Wake};

/// Asks a running server to stop gracefully: the leader transfers its leadership, requests in
/// flight get their replies, connections are closed, and `run_server` returns.
#[derive(Debug, Default)]
pub struct StopHandle {
    is_requested: AtomicBool,
    /// The waker of the network stage; `None` while the server does not serve clients.
    wake: Mutex<Option<Arc<Wake>>>,
}

impl StopHandle {
    /// Asks the server to stop. Returns false if it does not serve yet, because it is still loading
    /// its state: the process can then simply end.
    pub fn stop(&self) -> bool {
        self.is_requested.store(true, Ordering::Release);
        self.wake.lock().as_ref().is_some_and(|wake| wake.notify(STOP).is_ok())
    }

    /// Returns whether the server is asked to stop.
    pub fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }

    /// Sets the waker of the network stage, just before the server begins to serve.
    pub(in crate::runtime) fn attach(&self, wake: Arc<Wake>) {
        *self.wake.lock() = Some(wake);
    }

    /// Forgets the waker of the network stage, which has stopped.
    pub(in crate::runtime) fn detach(&self) {
        *self.wake.lock() = None;
    }
}
