//! Metrics and probes over HTTP, on an address and a thread of their own (`--http-listen`).
//!
//! | file | contents |
//! |---|---|
//! | `exchange` | questions to the network stage, and its answers |
//! | `report` | the state of the replica at one moment, from which the pages are written |
//! | `service` | the thread: accepts connections, asks the network stage, enforces time limits |
//! | `connection` | one connection: requests in, responses out, one after the other |
//! | `pages` | the contents of the pages |
//! | `page/` | the files of the live page, which a browser shows |
//! | `metrics/` | the metrics: names, help, values; their text for Prometheus |
//!
//! `/events` is a stream: it asks the same question once a second while a client reads it, and all
//! readers get the same answer. A reader that is too slow is disconnected.
//!
//! The pages change nothing, and show no keys and no values, so they need no password. Everything
//! is bounded: connections, bytes of a request, the time for each step. The thread never waits for
//! a stage, and no stage waits for it: it puts a question into a queue of the network stage, which
//! answers with a copy of its counters between two passes, in about 0.1 ms. The text is
//! written here. If no answer arrives in time, the page says which stage hangs, with status 503.
//! The thread runs before the replica serves, so that probes are answered while it loads.

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

/// The thread that answers HTTP requests. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct HttpServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts the thread, which answers requests that arrive at `listener`.
    ///
    /// # Errors
    /// If the operating system refuses to poll the socket or to start the thread.
    pub(crate) fn start(listener: Listener, limits: TimeLimits) -> io::Result<HttpServer> {
        let (service, shared) = Service::new(listener, limits)?;
        let run = || service.run();
        let thread = Some(thread::Builder::new().name("http".to_owned()).spawn(run)?);
        Ok(HttpServer { shared, thread })
    }

    /// Connects the thread to the stages of the replica, which is about to serve. Returns the ends
    /// of the queues for the network stage.
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
            // The thread has ended by a panic, which it has reported itself.
            let _ = thread.join();
        }
    }
}
