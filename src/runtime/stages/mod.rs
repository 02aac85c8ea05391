//! The stages of a replica: plain objects, each a loop that receives, calls pure code and sends.

pub(crate) mod applier;
pub(crate) mod core;
pub(crate) mod disk_space;
pub(crate) mod log_writer;
pub(crate) mod network;
#[cfg(test)]
mod seeded_tests;
pub(crate) mod snapshot_scheduler;
pub(crate) mod snapshots;
pub(crate) mod threads;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::runtime::stages::applier::Applier;
use crate::runtime::stages::core::Core;
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::snapshots::SnapshotIo;

/// Whether a stage goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StageState {
    Running,
    /// The replica ends.
    Stopped,
}

/// All stages of one replica.
pub(crate) struct Stages<N> {
    pub(crate) network: N,
    pub(crate) core: Core,
    pub(crate) log_writer: LogWriter,
    pub(crate) applier: Applier,
    /// `None` where there are none ever.
    pub(crate) snapshots: Option<SnapshotIo>,
}

/// A seed that differs from process to process: the keys of the standard library's hash maps come
/// from the system's source of random numbers.
pub(crate) fn random_seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}
