//! Deterministic simulation: runs the production code of replicas on simulated machines in virtual
//! time. One random seed determines a run, and the safety rules are checked after every step.
//!
//! | module | contents |
//! |---|---|
//! | [`rng`] | the seeded random number generator |
//! | [`violation`] | the error of a broken rule |
//! | [`disk`] | a machine's disk: the storage code over a disk in memory, its faults, snapshots |
//! | [`machine`] | one replica with its disk, clock and wall clock |
//! | [`checkers`] | safety rules, the client model, linearizability |
//! | [`cluster`] | machines, the network and the event queue; event traces |
//! | [`workload`] | clients that retry until they have an answer |
//! | [`faults`], [`fault_run`] | fault profiles, and a run of one seed of a profile |
//! | [`course_run`] | the course's scenarios in virtual time |
//! | [`script`] | the language of golden traces and its runner |
//! | [`streams`] | the server's transport between replicas, over datagrams |
//! | [`coverage`] | how often runs reached the situations in which a rule could be violated |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod checkers;
pub mod cluster;
pub mod course_run;
pub mod coverage;
pub mod disk;
pub mod fault_run;
pub mod faults;
mod keys;
pub mod machine;
pub mod rng;
pub mod script;
pub mod streams;
pub mod violation;
pub mod workload;
