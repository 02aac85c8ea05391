//! The threaded driver: runs a replica on real sockets, disks and clocks.
//!
//! A replica consists of five stages that are joined by bounded channels, on one thread or on a
//! thread each. A stage is a loop: receive, call pure code, send. The simulator runs the same pure
//! code under a driver of its own.
//!
//! ```text
//!             sockets
//!                |
//!   network: poll, buffers, decoding <--------------------------+
//!      | messages, requests, applied  ^ outbound                | replies
//!      v                              |                         |
//!   core: Replica, clock -------------+--- apply jobs --> applier: StateMachine
//!      |          ^                   |
//!      | append   | persisted         | released
//!      v jobs     |                   |
//!   log writer ---+-------------------+
//!
//!   snapshots: views of the state from the applier, chunks from and to the core
//! ```
//!
//! Imports point down this list:
//!
//! | module | purpose |
//! |---|---|
//! | `server` | the server: Redis clients and peers over TCP |
//! | `course` | the replica of the course: its simulators' transport |
//! | `stages` | the stages that both have in common, and their threads |
//! | `channels` | what stages send each other, and what happens when a queue is full |
//! | `boards` | what stages publish for each other: status, counters, memory, disk space, clocks |
//! | `pass`, `wake`, `clock` | the limit of one pass, waking the network, reading clocks |
//! | `fatal`, `error` | how a failing stage ends the process; why a replica could not start |

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
    Bootstrap, FolderState, ServerOptions, Timeouts, bootstrap, inspect, run_server,
};
pub use self::stages::threads::{Threads, ThreadsError};
