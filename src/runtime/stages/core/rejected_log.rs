//! Tells the operator of messages that no correct peer sends: at most one line a second, however
//! many come.

use std::time::Duration;

use crate::raft::RejectedMessage;
use crate::types::Instant;

/// From one line to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was logged, and what was left out since.
#[derive(Debug, Default)]
pub(crate) struct RejectedLog {
    /// Before then no line is written.
    next_at: Instant,
    /// Messages since the last line that have none of their own.
    left_out: usize,
}

impl RejectedLog {
    /// Logs the first of these messages, if it is time, and takes all of them.
    pub(crate) fn report(&mut self, rejected: &mut Vec<RejectedMessage>, now: Instant) {
        if let Some((message, left_out)) = self.take(rejected, now) {
            let RejectedMessage { from, reason } = message;
            tracing::error!(peer = %from, %reason, left_out, "rejected a message in the name of a \
                 peer that no correct peer sends: it is forged, or the peer is broken");
        }
    }

    /// The message to be logged now, and how many others have had no line since the last one.
    fn take(
        &mut self,
        rejected: &mut Vec<RejectedMessage>,
        now: Instant,
    ) -> Option<(RejectedMessage, usize)> {
        let first = *rejected.first()?;
        self.left_out += rejected.drain(..).len();
        if now < self.next_at {
            return None;
        }
        self.next_at = now + INTERVAL;
        Some((first, std::mem::take(&mut self.left_out) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::RejectReason;
    use crate::types::{NodeId, Term};

    #[test]
    fn one_line_a_second_counts_the_others() {
        let reason = RejectReason::Term { term: Term(9_000_000), own: Term(2) };
        let message = |from| RejectedMessage { from: NodeId(from), reason };
        let mut log = RejectedLog::default();
        assert_eq!(log.take(&mut vec![], Instant(5)), None);
        let mut several = vec![message(1), message(2)];
        assert_eq!(log.take(&mut several, Instant(5)), Some((message(1), 1)));
        assert!(several.is_empty());
        assert_eq!(log.take(&mut vec![message(3)], Instant(6)), None);
        let later = Instant(5) + INTERVAL;
        assert_eq!(log.take(&mut vec![message(4)], later), Some((message(4), 1)));
    }
}
