//! The referee of a course run: counts the messages between replicas, loses some, cuts the network
//! in two, kills, and notes whom the messages name as leader.
//!
//! It counts what a replica sends, whatever becomes of it: a message that is lost, cut off or
//! meant for a dead replica costs as much as one that arrives.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::scenario::EventKind;
use crate::types::NodeId;

/// Most leaders remembered for the report.
const LEADERS_MAX: usize = 64;

/// Where a message between replicas goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// To this one; even to the sender itself.
    Replica(NodeId),
    /// To all but the sender.
    Broadcast,
}

/// A replica that is gone without having been killed by the simulator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    /// Which.
    pub replica: NodeId,
    /// What happened, for the report.
    pub reason: String,
}

/// What an event came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Happened {
    /// Who has to be killed now.
    pub killed: Option<NodeId>,
    /// Whether the clients forget their leader.
    pub forgotten: bool,
}

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Messages between replicas; each copy of a broadcast.
    pub total_msgs: u64,
    /// Lost at random.
    pub dropped: u64,
    /// Lost between the sides of a partition.
    pub cut: u64,
    /// For replicas that do not live.
    pub to_dead: u64,
    /// Lost by the simulator itself: a socket was full.
    pub blocked: u64,
    /// Messages and answers against the rules.
    pub incorrect: u64,
    /// The first of them, in words.
    pub first_incorrect: Option<String>,
    /// Replicas killed by events.
    pub killed: u64,
    /// Replicas gone by themselves.
    pub deaths: Vec<Death>,
    /// Whom the messages named as leader, without repetitions in a row and without "unknown".
    pub leaders: Vec<NodeId>,
}

/// Referee of one run.
#[derive(Debug)]
pub struct Referee {
    replicas: u16,
    living: BTreeSet<NodeId>,
    /// As the last message said. May name who is dead, or no replica at all.
    leader: Option<NodeId>,
    /// One side of the partition: a bare majority. `None` while the network is whole.
    side: Option<BTreeSet<NodeId>>,
    drops: f64,
    drop_generator: ChaCha8Rng,
    event_generator: ChaCha8Rng,
    /// What was counted so far.
    pub traffic: Traffic,
}

impl Referee {
    /// A referee over `replicas` living replicas and a whole network.
    #[must_use]
    pub fn new(
        replicas: u16,
        drops: f64,
        drop_generator: ChaCha8Rng,
        event_generator: ChaCha8Rng,
    ) -> Referee {
        Referee {
            replicas,
            living: (0..replicas).map(NodeId).collect(),
            leader: None,
            side: None,
            drops,
            drop_generator,
            event_generator,
            traffic: Traffic::default(),
        }
    }

    /// Who lives.
    #[must_use]
    pub fn living(&self) -> &BTreeSet<NodeId> {
        &self.living
    }

    /// Whom the last message named as leader.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// One side of the partition, if there is one.
    #[must_use]
    pub fn side(&self) -> Option<&BTreeSet<NodeId>> {
        self.side.as_ref()
    }

    /// From now on messages are lost with this probability.
    pub fn set_drops(&mut self, drops: f64) {
        self.drops = drops;
    }

    /// Notes the `leader` of a message of any kind but hello. During a partition only the side
    /// that the simulator chose has a say.
    pub fn note_leader(&mut self, src: NodeId, leader: Option<NodeId>) {
        if self.side.as_ref().is_some_and(|side| !side.contains(&src)) {
            return;
        }
        self.leader = leader;
        if let Some(leader) = leader
            && self.traffic.leaders.last() != Some(&leader)
            && self.traffic.leaders.len() < LEADERS_MAX
        {
            self.traffic.leaders.push(leader);
        }
    }

    /// Counts a message between replicas and adds to `deliver` who gets it. `src` is what the
    /// message says; nobody checks it against the true sender.
    pub fn route(&mut self, src: NodeId, destination: Destination, deliver: &mut Vec<NodeId>) {
        match destination {
            Destination::Replica(replica) => {
                self.traffic.total_msgs += 1;
                self.pass(src, replica, deliver);
            }
            Destination::Broadcast => {
                self.traffic.total_msgs += u64::from(self.replicas - 1);
                for replica in (0..self.replicas).map(NodeId).filter(|replica| *replica != src) {
                    self.pass(src, replica, deliver);
                }
            }
        }
    }

    fn pass(&mut self, src: NodeId, replica: NodeId, deliver: &mut Vec<NodeId>) {
        if self.is_cut(src, replica) {
            self.traffic.cut += 1;
        } else if self.drop_generator.random_bool(self.drops) {
            self.traffic.dropped += 1;
        } else if !self.living.contains(&replica) {
            self.traffic.to_dead += 1;
        } else {
            deliver.push(replica);
        }
    }

    fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        self.side.as_ref().is_some_and(|side| side.contains(&one) != side.contains(&other))
    }

    /// Counts a message or an answer against the rules.
    pub fn incorrect(&mut self, what: String) {
        self.traffic.incorrect += 1;
        self.traffic.first_incorrect.get_or_insert(what);
    }

    /// A replica is gone, and not by an event. Says whether it lived.
    pub fn died(&mut self, replica: NodeId, reason: String) -> bool {
        let lived = self.living.remove(&replica);
        if lived {
            self.traffic.deaths.push(Death { replica, reason });
        }
        lived
    }

    /// An event of the scenario.
    pub fn happen(&mut self, kind: EventKind) -> Happened {
        match kind {
            EventKind::KillLeader => self.kill_leader(),
            EventKind::KillNonLeader => self.kill_non_leader(),
            EventKind::PartEasy => self.part(self.leader),
            EventKind::PartHard => self.part(None),
            EventKind::PartEnd => {
                self.side = None;
                Happened::default()
            }
        }
    }

    fn kill_leader(&mut self) -> Happened {
        // With no leader known the event passes without effect. A leader's name that is no
        // living replica's kills nobody and is forgotten all the same. (The original dies itself
        // on a name that is no replica's at all.)
        match self.leader.take() {
            Some(leader) => Happened { killed: self.kill(leader), forgotten: true },
            None => Happened::default(),
        }
    }

    fn kill_non_leader(&mut self) -> Happened {
        if self.living.len() < 2 {
            return Happened::default();
        }
        let others: Vec<NodeId> =
            self.living.iter().copied().filter(|replica| Some(*replica) != self.leader).collect();
        let chosen = others[self.event_generator.random_range(..others.len())];
        Happened { killed: self.kill(chosen), forgotten: false }
    }

    fn kill(&mut self, replica: NodeId) -> Option<NodeId> {
        let lived = self.living.remove(&replica);
        self.traffic.killed += u64::from(lived);
        lived.then_some(replica)
    }

    /// Cuts off a bare majority, drawn from all replicas, the dead ones too; with `keep` in it.
    fn part(&mut self, keep: Option<NodeId>) -> Happened {
        let mut others: Vec<NodeId> = (0..self.replicas).map(NodeId).collect();
        let mut side = BTreeSet::new();
        let keep = keep.filter(|leader| others.contains(leader));
        if let Some(leader) = keep {
            side.insert(leader);
            others.retain(|replica| *replica != leader);
        } else {
            self.leader = None;
        }
        while side.len() < usize::from(self.replicas / 2 + 1) {
            side.insert(others.swap_remove(self.event_generator.random_range(..others.len())));
        }
        self.side = Some(side);
        Happened { killed: None, forgotten: keep.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stream, generator};
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    fn referee(drops: f64, seed: u64) -> Referee {
        Referee::new(5, drops, generator(seed, Stream::Drops), generator(seed, Stream::Events))
    }

    fn routed(referee: &mut Referee, src: NodeId, destination: Destination) -> Vec<NodeId> {
        let mut deliver = Vec::new();
        referee.route(src, destination, &mut deliver);
        deliver
    }

    #[test]
    fn a_broadcast_counts_once_for_each_other_replica() {
        let mut referee = referee(0.0, 1);
        assert_eq!(routed(&mut referee, ONE, Destination::Replica(TWO)), [TWO]);
        assert_eq!(routed(&mut referee, ONE, Destination::Replica(ONE)), [ONE]);
        let all = routed(&mut referee, ONE, Destination::Broadcast);
        assert_eq!(all, [NodeId(0), TWO, NodeId(3), NodeId(4)]);
        assert_eq!(referee.traffic.total_msgs, 6);
    }

    /// §1.8 item 11: the dead, the lost and the cut off cost as much.
    #[test]
    fn what_does_not_arrive_counts_too() {
        let mut lossy = referee(1.0, 1);
        assert!(routed(&mut lossy, ONE, Destination::Broadcast).is_empty());
        assert_eq!((lossy.traffic.total_msgs, lossy.traffic.dropped), (4, 4));
        let mut referee = referee(0.0, 1);
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.happen(EventKind::KillLeader).killed, Some(TWO));
        assert!(routed(&mut referee, ONE, Destination::Replica(TWO)).is_empty());
        assert_eq!(routed(&mut referee, ONE, Destination::Broadcast).len(), 3);
        assert_eq!((referee.traffic.total_msgs, referee.traffic.to_dead), (5, 2));
        assert_eq!(referee.traffic.killed, 1);
        assert!(referee.traffic.deaths.is_empty(), "killed is not died");
    }

    #[test]
    fn loss_is_drawn_for_each_copy() {
        let mut referee = referee(0.3, 7);
        let arrived: usize =
            (0..1_000).map(|_| routed(&mut referee, ONE, Destination::Broadcast).len()).sum();
        assert!((2_600..3_000).contains(&arrived), "{arrived} of 4000");
    }

    /// §1.8 item 4: a leader that nobody names can't be killed.
    #[test]
    fn kill_leader_is_without_effect_where_no_leader_is_known() {
        let mut referee = referee(0.0, 1);
        assert_eq!(referee.happen(EventKind::KillLeader), Happened::default());
        referee.note_leader(ONE, Some(TWO));
        referee.note_leader(ONE, None);
        assert_eq!(referee.happen(EventKind::KillLeader), Happened::default());
        referee.note_leader(ONE, Some(NodeId(0x15)));
        let happened = referee.happen(EventKind::KillLeader);
        assert_eq!(happened, Happened { killed: None, forgotten: true });
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.happen(EventKind::KillLeader).killed, Some(TWO));
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.happen(EventKind::KillLeader).killed, None, "dead already");
        assert_eq!((referee.living().len(), referee.traffic.killed), (4, 1));
    }

    #[test]
    fn kill_non_leader_spares_the_leader_and_the_last() {
        for seed in 0..20 {
            let mut referee = referee(0.0, seed);
            referee.note_leader(ONE, Some(TWO));
            for _ in 0..4 {
                assert_ne!(referee.happen(EventKind::KillNonLeader).killed, None);
            }
            assert_eq!(referee.living().iter().copied().collect::<Vec<_>>(), [TWO]);
            assert_eq!(referee.happen(EventKind::KillNonLeader).killed, None);
        }
    }

    #[test]
    fn an_easy_partition_keeps_the_leader_with_a_bare_majority() {
        for seed in 0..20 {
            let mut referee = referee(0.0, seed);
            referee.note_leader(ONE, Some(TWO));
            assert_eq!(referee.happen(EventKind::PartEasy), Happened::default());
            let side = referee.side().unwrap().clone();
            assert!(side.len() == 3 && side.contains(&TWO));
            assert_eq!(referee.leader(), Some(TWO));
            let outside = (0..5).map(NodeId).find(|replica| !side.contains(replica)).unwrap();
            assert!(routed(&mut referee, TWO, Destination::Replica(outside)).is_empty());
            assert_eq!(routed(&mut referee, TWO, Destination::Broadcast).len(), 2);
            assert_eq!(routed(&mut referee, outside, Destination::Broadcast).len(), 1);
            assert_eq!((referee.traffic.total_msgs, referee.traffic.cut), (9, 6));
            referee.note_leader(outside, Some(outside));
            assert_eq!(referee.leader(), Some(TWO), "the other side has no say");
            referee.happen(EventKind::PartEnd);
            assert_eq!(routed(&mut referee, TWO, Destination::Broadcast).len(), 4);
            referee.note_leader(outside, Some(outside));
            assert_eq!(referee.leader(), Some(outside));
        }
    }

    #[test]
    fn a_hard_partition_forgets_the_leader_and_takes_the_dead_too() {
        let mut with_dead = 0;
        for seed in 0..50 {
            let mut referee = referee(0.0, seed);
            referee.died(ONE, "gone".to_owned());
            referee.note_leader(TWO, Some(TWO));
            let happened = referee.happen(EventKind::PartHard);
            assert_eq!(happened, Happened { killed: None, forgotten: true });
            assert_eq!((referee.leader(), referee.side().unwrap().len()), (None, 3));
            with_dead += usize::from(referee.side().unwrap().contains(&ONE));
        }
        assert!((15..45).contains(&with_dead), "{with_dead} of 50");
        // Without a known leader an easy partition is a hard one.
        assert!(referee(0.0, 1).happen(EventKind::PartEasy).forgotten);
    }

    #[test]
    fn who_dies_is_counted_once() {
        let mut referee = referee(0.0, 1);
        assert!(referee.died(ONE, "it exited".to_owned()));
        assert!(!referee.died(ONE, "again".to_owned()));
        assert_eq!(referee.traffic.deaths.len(), 1);
    }

    #[test]
    fn the_first_fault_is_kept_in_words() {
        let mut referee = referee(0.0, 1);
        referee.incorrect("first".to_owned());
        referee.incorrect("second".to_owned());
        assert_eq!(referee.traffic.incorrect, 2);
        assert_eq!(referee.traffic.first_incorrect.as_deref(), Some("first"));
    }
}
