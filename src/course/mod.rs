//! The university course's replication project, as pure logic that takes the time from its caller:
//! its scenarios, its eight clients, its message counting and its grading.
//!
//! | file | contents |
//! |---|---|
//! | [`scenario`] | scenarios: the 17 built-in ones, and the parser for scenario files |
//! | [`clients`] | the eight clients: which requests they send, and how they check the replies |
//! | [`referee`] | messages between replicas: counting, loss, partitions, kills, the leader |
//! | [`run`] | one run of a scenario: clients, referee and events on one schedule |
//! | [`report`] | verdict, tiers and figures of a run; [`table`] prints them |
//! | [`histogram`] | latencies as files that HdrHistogram's tools read |
//!
//! Two drivers share this code: [`crate::processes`] starts real programs in real time, and
//! [`crate::sim::course_run`] runs replicas in virtual time.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod clients;
pub mod histogram;
pub mod referee;
pub mod report;
pub mod run;
pub mod scenario;
mod scenario_file;
pub mod table;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// The purpose of a sequence of random numbers. Each purpose has its own sequence, so that an
/// additional message from a replica changes which messages are lost, but not the clients'
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Chooses the client of each request, and whether it is a get or a put.
    Plan = 1,
    /// Chooses the keys and message ids of requests, and the replicas that clients send to.
    Clients = 2,
    /// Chooses which messages between replicas are lost.
    Drops = 3,
    /// Chooses which replicas scheduled faults kill or partition off.
    Events = 4,
    /// Chooses the order of the other replicas' ids on each replica's command line.
    Order = 5,
}

/// Returns the random number generator for one purpose (`stream`) of a run with this seed. The
/// algorithm is fixed, so a seed gives the same run in every build.
#[must_use]
pub fn generator(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream as u64);
    generator
}
