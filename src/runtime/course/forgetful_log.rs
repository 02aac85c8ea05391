//! Log storage that keeps nothing: all entries that a replica has acknowledged are lost when its
//! process ends. This is safe only under the simulators of the university course, which never
//! restart a replica that they have killed. Therefore this type is private to the course's modules,
//! and creating a value requires proof that a simulator has started this process.

use crate::raft::AppendJob;
use crate::runtime::stages::log_writer::LogStorage;

use super::arguments::NeverRestarts;

/// Log storage that stores nothing: every append job (request to store log entries) completes at
/// once. Used only under the simulators of the university course, which never restart a replica.
pub(super) struct ForgetfulLog(());

impl ForgetfulLog {
    pub(super) fn new(_proof: NeverRestarts) -> ForgetfulLog {
        ForgetfulLog(())
    }
}

impl LogStorage for ForgetfulLog {
    fn append(&mut self, _job: &AppendJob) {}

    fn sync(&mut self) {}

    fn compact(&mut self) {}

    fn waits_for_disk(&self) -> bool {
        false
    }
}
