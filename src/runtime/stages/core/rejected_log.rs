//! Logs messages that no correct peer sends: at most one line per second, regardless of how many
//! such messages arrive.

use std::time::Duration;

use crate::raft::RejectedMessage;
use crate::types::Instant;

/// Minimum time between two log lines about rejected messages (messages that no correct peer
/// sends).
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits log lines about rejected messages (messages that no correct peer sends) to one per
/// second, and counts the messages that are not logged.
#[derive(Debug, Default)]
pub(crate) struct RejectedLog {
    /// The earliest time at which the next log line may be written.
    next_at: Instant,
    /// Number of rejected messages that have arrived since the last log line about such a message.
    unlogged: usize,
}

impl RejectedLog {
    /// Logs the first of the `rejected` messages, unless a line was logged less than a second
    /// before `now`. Counts the messages that are not logged. Clears the list in either case.
    pub(crate) fn report(&mut self, rejected: &mut Vec<RejectedMessage>, now: Instant) {
        if let Some((message, others)) = self.take(rejected, now) {
            let RejectedMessage { from, reason } = message;
            tracing::error!(peer = %from, %reason, others_since_last_line = others,
                "message rejected: no correct peer sends it, so the peer is faulty or the \
                 message is forged; check that peer's log, and who can connect to --peer-listen");
        }
    }

    /// Returns the rejected message that is to be logged now, and the number of other rejected
    /// messages since the last log line; `None` if there is no message or no log line is due.
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
    fn rejected_peer_messages_are_logged_once_per_interval() {
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
