//! Metrics and probes over HTTP, with their own address (`--http-listen`) and thread.
//!
//! | file | contents |
//! |---|---|
//! | `exchange` | questions to the network stage, and its answers |
//! | `report` | a snapshot of the replica's state and counters, from which the pages are written |
//! | `service` | the thread: accepts connections, asks the network stage, enforces timeouts |
//! | `connection` | one connection: requests and responses, one at a time |
//! | `pages` | the contents of the pages |
//! | `page/` | the files of the live page (HTML, script, style) |
//! | `metrics/` | the metrics: names, help texts, values; their encoding for Prometheus |
//!
//! `/events` is an event stream (server-sent events): one event per second for each reader, written
//! from one report for all readers. A reader that is too slow is disconnected.
//!
//! The pages are read-only and contain neither keys nor values, so they need no password.
//! Everything is bounded: the number of connections, the size of a request, the time for each step.
//! The HTTP thread never blocks a stage, nor is it blocked by one: it puts a question into a queue
//! of the network stage, which answers between two passes with a copy of its counters; this takes
//! the stage about 0.1 ms. The HTTP thread then writes the text. If the answer does not arrive in
//! time, the response is status 503 and names the stage that hangs. The thread starts before the
//! replica has loaded its data folder, so probes are answered while it loads.

mod connection;
mod exchange;
mod metrics;
mod pages;
mod report;
mod service;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crate::runtime::boards::{ApplierBoard, RuntimeCounters, StatusBoard};
use crate::runtime::clock::Clock;
use crate::runtime::server::sockets::listener::Listener;
use crate::runtime::wake::Wake;

use self::exchange::{Serving, Shared};
use self::service::Service;

pub(crate) use self::connection::TimeLimits;
pub(crate) use self::exchange::{Answer, HttpEnds, Question};
pub use self::metrics::{MetricInfo, metrics};
pub(crate) use self::report::{QueueFill, Report};
pub(crate) use self::service::DESCRIPTORS;

/// Handle to the thread that answers HTTP requests. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct HttpServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts the thread, which answers requests on connections to `listener`.
    ///
    /// # Errors
    /// If the operating system refuses to poll the socket or to start a thread.
    pub(crate) fn start(listener: Listener, limits: TimeLimits) -> io::Result<HttpServer> {
        let (service, shared) = Service::new(listener, limits)?;
        let run = || service.run();
        let thread = Some(thread::Builder::new().name("http".to_owned()).spawn(run)?);
        Ok(HttpServer { shared, thread })
    }

    /// Gives the thread access to the stages of the replica, which is about to serve. Returns the
    /// network stage's side of the queues.
    pub(crate) fn attach(
        &self,
        wake: &Arc<Wake>,
        boards: (&Arc<StatusBoard>, &Arc<ApplierBoard>),
        counters: &Arc<RuntimeCounters>,
        clock: Clock,
    ) -> HttpEnds {
        let (serving, ends) = Serving::new(&self.shared, wake, boards, counters, clock);
        self.shared.attach(serving);
        ends
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // The thread panicked, and the panic has been reported already.
            let _ = thread.join();
        }
    }
}
