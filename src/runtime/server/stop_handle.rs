//! The handle by which the thread that receives signals asks a running server to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::runtime::wake::{STOP, Wake};

/// Asks a running server to stop gracefully: the leader transfers its leadership, requests in
/// flight get their replies, connections are closed, and `run_server` returns.
#[derive(Debug, Default)]
pub struct StopHandle {
    is_requested: AtomicBool,
    /// The waker of the network stage; empty until the server serves clients.
    wake: OnceLock<Arc<Wake>>,
}

impl StopHandle {
    /// Asks the server to stop. Returns false if it does not serve yet, because it is still loading
    /// its state: the process can then simply end.
    pub fn stop(&self) -> bool {
        self.is_requested.store(true, Ordering::Release);
        self.wake.get().is_some_and(|wake| wake.notify(STOP).is_ok())
    }

    /// Returns whether the server is asked to stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }

    /// Sets the waker of the network stage, just before the server begins to serve.
    pub(in crate::runtime) fn attach(&self, wake: Arc<Wake>) {
        // A handle is used for one server.
        let _ = self.wake.set(wake);
    }
}
