//! Coverage: how often runs reached the situations in which the safety rules can be violated. Tests
//! assert that the counts are above zero, as otherwise a rule would never be tested.

use std::fmt::Write as _;

/// A situation in which a safety rule could be violated, so that tests must reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Situation {
    /// A replica became leader.
    Election,
    /// A leader answered a read under its lease, before a quorum had confirmed that it is still
    /// leader.
    LeaseRead,
    /// A read waited until a quorum confirmed the leader, by replies to messages sent after the
    /// read arrived.
    ReadIndexRead,
    /// A client resent a request that had not been answered.
    Resend,
    /// A follower installed a leader's snapshot.
    Install,
    /// A replica moved to a later term while it was receiving a leader's snapshot.
    InterruptedInstall,
    /// A read found a value expired.
    Expiration,
    /// A read found a value expired under another leader than the one under which it was set.
    ExpirationAcrossLeaders,
    /// A read waited for an entry that advances the replicated clock, because a key had expired
    /// since the clock was last advanced.
    DeferredRead,
    /// A replica detected a jump of its wall clock.
    ClockJump,
    /// A replica lost its disk.
    DiskLoss,
    /// A replica lost its disk after voting for a leader, while the leader of an earlier term was
    /// still active.
    VoterDiskLoss,
    /// A replica that had lost its disk became a full member again.
    Rejoin,
}

impl Situation {
    /// All situations, in the order in which they are printed.
    pub const ALL: [Situation; 13] = [
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
        }
    }
}

/// How often each [`Situation`] was reached.
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

    /// Adds the counts of another run to the counts of this one.
    pub fn merge(&mut self, other: &Coverage) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Returns all counts in one line, as `12 elections, 3 lease reads, ..`.
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
