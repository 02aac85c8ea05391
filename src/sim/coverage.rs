//! Coverage: how often runs reached the situations in which safety rules can be violated. Tests
//! assert that the counts are above zero, as otherwise a rule would never be tested.

use std::fmt::Write as _;

/// A situation in which a safety rule could be violated, so that tests must reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Situation {
    /// A replica was elected leader.
    Election,
    /// A leader answered a read under its lease, without waiting until a quorum confirmed that it
    /// was still leader.
    LeaseRead,
    /// A read waited until a quorum confirmed, by replies to messages sent after the read had
    /// arrived, that the leader was still leader.
    ReadIndexRead,
    /// A client resent a request because it had not received an answer.
    Resend,
    /// A follower installed a leader's snapshot.
    Install,
    /// A replica moved to a later term while it was receiving a leader's snapshot.
    InterruptedInstall,
    /// A read found that the value of its key had expired.
    Expiration,
    /// A read found that a value had expired which was set under an earlier leader.
    ExpirationAcrossLeaders,
    /// A read waited for an entry that advances the replicated clock, because a key had expired
    /// since the clock was last advanced.
    DeferredRead,
    /// A replica detected a jump of its wall clock.
    ClockJump,
    /// A replica lost its disk.
    DiskLoss,
    /// A replica that had voted for a new leader lost its disk while the leader of an earlier term
    /// was still active.
    VoterDiskLoss,
    /// A replica that had lost its disk completed rejoining, and could vote again.
    Rejoin,
    /// A datagram of a stream was lost.
    DatagramLoss,
    /// A stream sent bytes again.
    Retransmission,
    /// A stream was opened.
    StreamOpened,
    /// A stream was reset, because its receiver had restarted or had closed it.
    StreamReset,
    /// A message could not be sent because there was no stream to its receiver.
    UnsentMessage,
    /// A message needed more than one datagram.
    SplitMessage,
}

impl Situation {
    /// All situations, in the order in which they are printed.
    pub const ALL: [Situation; 19] = [
        Situation::Election,
        Situation::LeaseRead,
        Situation::ReadIndexRead,
        Situation::Resend,
        Situation::Install,
        Situation::InterruptedInstall,
        Situation::Expiration,
        Situation::ExpirationAcrossLeaders,
        Situation::DeferredRead,
        Situation::ClockJump,
        Situation::DiskLoss,
        Situation::VoterDiskLoss,
        Situation::Rejoin,
        Situation::DatagramLoss,
        Situation::Retransmission,
        Situation::StreamOpened,
        Situation::StreamReset,
        Situation::UnsentMessage,
        Situation::SplitMessage,
    ];

    /// Returns the name of the situation in printed tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Situation::Election => "elections",
            Situation::LeaseRead => "lease reads",
            Situation::ReadIndexRead => "read-index reads",
            Situation::Resend => "resends",
            Situation::Install => "snapshot installs",
            Situation::InterruptedInstall => "interrupted snapshot installs",
            Situation::Expiration => "expirations",
            Situation::ExpirationAcrossLeaders => "expirations across leaders",
            Situation::DeferredRead => "reads deferred for an expiration",
            Situation::ClockJump => "wall clock jumps",
            Situation::DiskLoss => "disks lost",
            Situation::VoterDiskLoss => "disks of voters lost",
            Situation::Rejoin => "replicas rejoined",
            Situation::DatagramLoss => "datagrams lost",
            Situation::Retransmission => "datagrams retransmitted",
            Situation::StreamOpened => "streams opened",
            Situation::StreamReset => "streams reset",
            Situation::UnsentMessage => "messages without a stream",
            Situation::SplitMessage => "messages in several datagrams",
        }
    }
}

/// How often each [`Situation`] was reached in one or more runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    counts: [u64; Situation::ALL.len()],
}

impl Coverage {
    /// Returns how often `situation` was reached.
    pub fn count(&self, situation: Situation) -> u64 {
        self.counts[situation as usize]
    }

    /// Adds `times` to the count of `situation`.
    pub fn add(&mut self, situation: Situation, times: u64) {
        self.counts[situation as usize] += times;
    }

    /// Adds the counts in `other` to the counts in `self`.
    pub fn merge(&mut self, other: &Coverage) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Returns all counts in one line of text, such as `12 elections, 3 lease reads, ..`.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for situation in Situation::ALL {
            let separator = if line.is_empty() { "" } else { ", " };
            write!(line, "{separator}{} {}", self.count(situation), situation.name())
                .expect("writing to a string cannot fail");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_counts_are_kept_per_situation_and_merged() {
        for (position, situation) in Situation::ALL.into_iter().enumerate() {
            assert_eq!(situation as usize, position, "{situation:?} is listed out of order");
        }
        let mut one = Coverage::default();
        one.add(Situation::Resend, 2);
        let mut total = one;
        total.add(Situation::Election, 1);
        total.merge(&one);
        assert_eq!(total.count(Situation::Resend), 4);
        assert_eq!(total.count(Situation::Election), 1);
        assert_eq!(total.count(Situation::LeaseRead), 0);
        assert!(total.line().starts_with("1 elections, 0 lease reads"), "{}", total.line());
    }
}
