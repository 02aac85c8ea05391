//! The threaded driver: runs a replica on real sockets, disks and clocks.
//!
//! A replica consists of six stages that are connected by bounded channels. The stages share
//! threads or have a thread each. A stage is a loop: receive, call pure code, send. The simulator
//! runs the same pure code under its own driver.
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
//!   background deletion: removed values from the applier
//! ```
//!
//! Imports point down this list:
//!
//! | module | purpose |
//! |---|---|
//! | `server` | the server: Redis clients and peers over TCP |
//! | `course` | the replica under a simulator of the university course |
//! | `stages` | the stages that `server` and `course` share, and their threads |
//! | `channels` | what stages send to each other, and what happens when a channel is full |
//! | `boards` | what stages publish for each other: status, counters, memory, disk space, clocks |
//! | `pass`, `wake`, `clock` | limits of one pass, waking the network stage, reading clocks |
//! | `trace_board` | when the steps of a traced write were done |
//! | `histogram` | counts of durations that one stage records and other threads read |
//! | `process_usage`, `malloc_trim` | use of memory and processor; returning free memory |
//! | `long_script` | the script that runs on a thread of its own |
//! | `fatal`, `error` | how a failing stage ends the process; errors that stop a replica |

mod boards;
mod channels;
mod clock;
mod course;
mod error;
mod fatal;
mod histogram;
mod long_script;
mod malloc_trim;
mod pass;
mod process_usage;
mod server;
mod stages;
mod trace_board;
mod wake;

pub use self::boards::{Counter, RuntimeCounters};
pub use self::course::{CourseArguments, CourseArgumentsError, run_course};
pub use self::error::RunError;
pub use self::histogram::SharedHistogram;
pub use self::server::{
    Bootstrap, ClientTls, FolderReport, FolderState, LoadedBackup, MetricInfo, Password, PeerTls,
    PeerTransport, ReloadHandle, RestoreError, ServerOptions, StopHandle, Survivor, Timeouts,
    bootstrap, check, check_backup, check_empty, inspect, load_backup, metrics, restore,
    run_server,
};
pub use self::stages::threads::{Threads, ThreadsError};
