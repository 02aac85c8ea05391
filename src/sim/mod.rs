//! Simulation without sockets, threads or clocks: what the course's simulator does with requests,
//! messages and verdicts, as pure logic that takes the time from its caller.
//!
//! | file | what it holds |
//! |---|---|
//! | [`scenario`] | scenarios: the 17 built-in ones and anybody's; `scenario_file` reads them |
//! | [`clients`] | the eight clients: what they ask, what they make of the answers |
//! | [`referee`] | messages between replicas: counting, loss, partitions, kills, the leader |
//! | [`game`] | one run: both of the above on one schedule; what a simulator drives |
//! | [`report`] | verdict, tiers and figures of a run; [`table`] prints them |
//! | [`histogram`] | latencies as files that HdrHistogram's tools read |
//!
//! The process simulator (real programs, real time) and the virtual one drive the same [`game`].
//!
//! The virtual one is the rest of this folder: the cluster that ships, in virtual time, from one
//! seed, checked after every step.
//!
//! | file | what it holds |
//! |---|---|
//! | [`world`] | replicas on simulated machines, and what happens to them; `queue`: when |
//! | [`node`], [`machine`] | one replica with all that it runs on; clocks and disks |
//! | `files` | such a machine's folder in the storage code that ships, and how it rots |
//! | [`tally`] | what went wrong with disks, and what it came to |
//! | [`coverage`] | how often the situations came about that the rules are about |
//! | [`snapshots`] | the snapshots that a replica takes, sends and is sent |
//! | [`network`] | what becomes of each message on each link |
//! | [`checker`], [`promises`] | the safety rules, about replicas and about what clients are told |
//! | [`linear`] | whether what clients saw is linearizable |
//! | [`workload`] | clients that insist |
//! | [`faults`], [`fault_run`] | what goes wrong, and a run in which it does |
//! | [`course_run`] | the course's scenarios |
//! | [`trace`] | what happened, one event a line |
//! | [`script`], [`stage`] | the language of golden traces, and who performs it |
//! | [`dice`] | seeded draws |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod checker;
pub mod clients;
pub mod course_run;
pub mod coverage;
pub mod dice;
mod expirations;
pub mod fault_run;
pub mod faults;
mod files;
pub mod game;
pub mod histogram;
pub mod linear;
pub mod machine;
pub mod network;
pub mod node;
pub mod promises;
mod queue;
pub mod referee;
pub mod report;
pub mod scenario;
mod scenario_file;
pub mod script;
pub mod snapshots;
pub mod stage;
pub mod table;
pub mod tally;
pub mod trace;
pub mod wall_clocks;
pub mod workload;
pub mod world;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers decides. Each has its own, so that a replica that sends one
/// message more changes which messages are lost and not what the clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Which client asks what kind of question when.
    Plan = 1,
    /// Keys, values, message ids, and whom a client asks.
    Clients = 2,
    /// Which messages are lost.
    Drops = 3,
    /// Who is killed, who is cut off.
    Events = 4,
    /// In which order a replica is told the others.
    Order = 5,
}

/// The generator of one stream of a run. The algorithm is named for good: a seed must mean the same
/// run in every build.
#[must_use]
pub fn generator(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream as u64);
    generator
}
