//! The threaded driver: stages that are plain objects, joined by bounded channels, on one thread
//! or on one thread each.
//!
//! ```text
//!              socket
//!                |
//!   network: Poll, buffers, JSON <------------------------------+
//!      | messages, applied            ^ departures              | replies
//!      v                              |                         |
//!   core: Replica, clock -------------+--- apply jobs --> applier: StateMachine
//!      |          ^                   |
//!      | append   | persisted         | released
//!      v jobs     |                   |
//!   log writer ---+-------------------+
//!
//!   snapshots: files, beside all that; views from the applier, chunks from and to the core
//! ```
//!
//! What travels on each arrow, how much may wait there and what happens then is written in
//! `channels.rs`. Files here are loops: receive, call pure code, send. The same pure code runs in
//! `sim`.

mod boards;
mod channels;
mod clock;
mod course;
mod error;
mod fatal;
mod pass;
mod server;
mod stages;
mod wake;

pub use self::boards::{Counter, RuntimeCounters};
pub use self::course::{CourseArguments, CourseArgumentsError, run_course};
pub use self::error::RunError;
pub use self::server::{
    Bootstrap, Folder, ServerOptions, Timeouts, bootstrap, inspect, run_server,
};
pub use self::stages::threads::{Threads, ThreadsError};
