//! Coverage: how often runs reached the situations in which safety rules can be violated. Tests
//! assert that the counts are above zero, as otherwise a rule would never be tested.

use std::fmt::Write as _;

/// A situation in which a safety rule could be violated. Tests check that simulated runs reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Situation {
    /// A replica was elected leader.
    Election,
    /// A leader answered a read under its lease, without asking a quorum.
    LeaseRead,
    /// A leader answered a read after a quorum had confirmed its leadership, by replies to messages
    /// sent after the read arrived (read index).
    ReadIndexRead,
    /// A client resent an unanswered request.
    Resend,
    /// A follower installed a leader's snapshot.
    Install,
    /// A replica moved to a later term while it was receiving a leader's snapshot.
    InterruptedInstall,
    /// A read found that its key's value had expired.
    Expiration,
    /// A read found an expired value that had been set under an earlier leader.
    ExpirationAcrossLeaders,
    /// A read waited for the replicated clock to advance, because a key had expired since the
    /// clock's last advance.
    DeferredRead,
    /// A replica detected a jump of its wall clock.
    ClockJump,
    /// A replica lost its disk while it was down.
    DiskLoss,
    /// A replica lost its disk after voting for a new leader, while the leader of an earlier term
    /// was still active.
    VoterDiskLoss,
    /// A replica that had lost its disk finished rejoining, and could vote again.
    Rejoin,
    /// A leader accepted a request for a leadership transfer, or for the abort of one.
    RequestedTransfer,
    /// A datagram of a stream was lost.
    DatagramLoss,
    /// A stream retransmitted bytes.
    Retransmission,
    /// A stream was opened.
    StreamOpened,
    /// A stream was reset, because its receiver had restarted or had closed it.
    StreamReset,
    /// A message could not be sent because there was no stream to its receiver or its queue was
    /// full.
    UnsentMessage,
    /// A message needed more than one datagram.
    SplitMessage,
    /// A replica applied a batch that the leader had appended in pieces.
    CompletedBatch,
    /// A deposed leader refused a batch, because not all of its pieces were in the log.
    RefusedPieces,
    /// A new leader's no-op made replicas drop the pieces of an incomplete batch.
    DroppedPieces,
    /// A replica started from, or installed, a snapshot with pieces of an incomplete batch.
    PiecesInSnapshot,
    /// A leader started a membership change.
    MemberChange,
    /// A leader appended a configuration, to start a change or to end a joint configuration.
    Configuration,
    /// A replica that is not an initial member was elected leader.
    NewMemberLeads,
    /// A leader was removed or demoted.
    RemovedLeader,
    /// A replica truncated an entry with a configuration.
    ConfigurationTruncated,
    /// A new leader found a joint configuration in its log, started by an earlier leader.
    InheritedJoint,
    /// A replica of an earlier program version was restarted with the present version.
    Upgrade,
    /// A leader appended an entry that raises the cluster's feature level.
    LevelRaised,
    /// A fault changed the state of one replica, so that it differed from the others.
    ChangedState,
    /// A replica detected that its state was wrong, and stopped to rebuild it.
    WrongState,
    /// A witness was elected leader.
    WitnessLeads,
    /// A witness stepped down as leader because it could not bring any replica with data up to
    /// date.
    WitnessRetreat,
    /// A witness dropped the oldest entries of its log.
    WitnessLogMoved,
    /// A witness that lacked compacted entries received a snapshot without data from the leader.
    WitnessInstall,
}

impl Situation {
    /// All situations, in the order in which they are printed.
    pub const ALL: [Situation; 38] = [
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
        Situation::RequestedTransfer,
        Situation::DatagramLoss,
        Situation::Retransmission,
        Situation::StreamOpened,
        Situation::StreamReset,
        Situation::UnsentMessage,
        Situation::SplitMessage,
        Situation::CompletedBatch,
        Situation::RefusedPieces,
        Situation::DroppedPieces,
        Situation::PiecesInSnapshot,
        Situation::MemberChange,
        Situation::Configuration,
        Situation::NewMemberLeads,
        Situation::RemovedLeader,
        Situation::ConfigurationTruncated,
        Situation::InheritedJoint,
        Situation::Upgrade,
        Situation::LevelRaised,
        Situation::ChangedState,
        Situation::WrongState,
        Situation::WitnessLeads,
        Situation::WitnessRetreat,
        Situation::WitnessLogMoved,
        Situation::WitnessInstall,
    ];

    /// Returns the name of the situation for printed tables and JSON.
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
            Situation::RequestedTransfer => "requested leadership transfers",
            Situation::DatagramLoss => "datagrams lost",
            Situation::Retransmission => "datagrams retransmitted",
            Situation::StreamOpened => "streams opened",
            Situation::StreamReset => "streams reset",
            Situation::UnsentMessage => "messages without a stream",
            Situation::SplitMessage => "messages in several datagrams",
            Situation::CompletedBatch => "batches completed by their last piece",
            Situation::RefusedPieces => "incomplete batches refused",
            Situation::DroppedPieces => "incomplete batches dropped",
            Situation::PiecesInSnapshot => "snapshots with pieces",
            Situation::MemberChange => "changes of members",
            Situation::Configuration => "configurations",
            Situation::NewMemberLeads => "leaderships of new members",
            Situation::RemovedLeader => "leaders removed",
            Situation::ConfigurationTruncated => "configurations truncated",
            Situation::InheritedJoint => "joint configurations inherited",
            Situation::Upgrade => "replicas upgraded",
            Situation::LevelRaised => "feature levels raised",
            Situation::ChangedState => "states changed",
            Situation::WrongState => "wrong states found",
            Situation::WitnessLeads => "leaderships of witnesses",
            Situation::WitnessRetreat => "witnesses that stepped down in vain",
            Situation::WitnessLogMoved => "logs of witnesses shortened",
            Situation::WitnessInstall => "snapshots without data installed",
        }
    }
}

/// Counts how often one or more runs have reached each [`Situation`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coverage {
    counts: [u64; Situation::ALL.len()],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { counts: [0; Situation::ALL.len()] }
    }
}

impl Coverage {
    /// Returns how often the runs have reached `situation`.
    pub fn count(&self, situation: Situation) -> u64 {
        self.counts[situation as usize]
    }

    /// Adds `times` to the count of `situation`.
    pub fn add(&mut self, situation: Situation, times: u64) {
        self.counts[situation as usize] += times;
    }

    /// Adds the counts of `other` to these counts.
    pub fn merge(&mut self, other: &Coverage) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Formats all counts as one line of text, such as `12 elections, 3 lease reads, ..`.
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
    fn simulator_coverage_counts_situations_and_adds_up_over_runs() {
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
