//! Logs messages that no correct peer sends: at most one line a second, however many arrive.

use std::time::Duration;

use crate::raft::RejectedMessage;
use crate::types::Instant;

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the last line was logged, and how many messages have had none since.
#[derive(Debug, Default)]
pub(crate) struct RejectedLog {
    /// No line is logged before this time.
    next_at: Instant,
    /// Messages since the last line.
    unlogged: usize,
}

impl RejectedLog {
    /// Logs the first of these messages if a line is due, and clears them.
    pub(crate) fn report(&mut self, rejected: &mut Vec<RejectedMessage>, now: Instant) {
        if let Some((message, others)) = self.take(rejected, now) {
            let RejectedMessage { from, reason } = message;
            tracing::error!(peer = %from, %reason, others,
                "message rejected: forged or from a broken peer, for no correct peer sends it");
        }
    }

    /// The message to be logged now, and how many others have arrived since the last line.
    fn take(
        &mut self,
        rejected: &mut Vec<RejectedMessage>,
        now: Instant,
    ) -> Option<(RejectedMessage, usize)> {
        let first = *rejected.first()?;
        self.unlogged += rejected.drain(..).len();
        if now < self.next_at {
            return None;
        }
        self.next_at = now + INTERVAL;
        Some((first, std::mem::take(&mut self.unlogged) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::RejectReason;
    use crate::types::{NodeId, Term};

    #[test]
    fn one_line_a_second_counts_the_other_messages() {
        let reason = RejectReason::Term { term: Term(9_000_000), own: Term(2) };
        let message = |from| RejectedMessage { from: NodeId(from), reason };
        let mut log = RejectedLog::default();
        assert_eq!(log.take(&mut vec![], Instant(5)), None);
        let mut messages = vec![message(1), message(2)];
        assert_eq!(log.take(&mut messages, Instant(5)), Some((message(1), 1)));
        assert!(messages.is_empty());
        assert_eq!(log.take(&mut vec![message(3)], Instant(6)), None);
        let later = Instant(5) + INTERVAL;
        assert_eq!(log.take(&mut vec![message(4)], later), Some((message(4), 1)));
    }
}
