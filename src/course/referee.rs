//! The referee of a scenario run: counts the messages between replicas, drops some of them,
//! partitions the network, picks the replicas to kill, and tracks the leader that messages name.
//!
//! Every message sent is counted, including messages that are dropped, blocked by a partition, or
//! addressed to a dead replica.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::scenario::EventKind;
use crate::types::NodeId;

/// Maximum number of leaders that a run's report lists; later ones are left out.
const LEADERS_MAX: usize = 64;

/// The destination of a message from a replica to other replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// One replica, possibly the sender itself.
    Replica(NodeId),
    /// All replicas except the sender.
    Broadcast,
}

/// The unexpected death of a replica: no event of the scenario killed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    /// Id of the replica that died.
    pub replica: NodeId,
    /// Cause of the death, for the report.
    pub reason: String,
}

/// The actions that the simulator must take for an event of the scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventEffect {
    /// Id of the replica to kill; `None` if the event kills no replica.
    pub killed: Option<NodeId>,
    /// Whether all clients must forget the leader, so that they send requests to random replicas
    /// until an answer names a leader.
    pub leader_forgotten: bool,
}

/// Counters of the messages between replicas in a run.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Number of messages sent between replicas, delivered or not. A broadcast counts once per
    /// receiver.
    pub total_msgs: u64,
    /// Number of messages dropped at random, according to the scenario's loss probability.
    pub dropped: u64,
    /// Number of messages not delivered because of a network partition.
    pub cut: u64,
    /// Number of messages not delivered because their receiver was dead.
    pub to_dead: u64,
    /// Number of messages not delivered because a socket's send buffer was full.
    pub blocked: u64,
    /// Number of messages from replicas, including answers to clients, that violated the rules of
    /// the university course.
    pub incorrect: u64,
    /// Description of the first message that violated the rules; `None` if there was none.
    pub first_incorrect: Option<String>,
    /// Number of replicas killed by events of the scenario.
    pub killed: u64,
    /// Replicas that died although no event of the scenario killed them.
    pub deaths: Vec<Death>,
    /// The leaders named in the field `leader` of messages, in chronological order, without
    /// consecutive repetitions. Messages that name no leader are skipped.
    pub leaders: Vec<NodeId>,
}

/// The referee of a scenario run: counts messages between replicas, decides which of them are
/// delivered, and applies the scenario's events.
#[derive(Debug)]
pub struct Referee {
    replicas: u16,
    living: BTreeSet<NodeId>,
    /// The leader named in the last message; `None` if that message named no leader. The leader may
    /// be dead, or not be a replica at all.
    leader: Option<NodeId>,
    /// The replicas on the majority side of a network partition, which consists of a bare majority
    /// of the replicas; `None` while there is no partition.
    side: Option<BTreeSet<NodeId>>,
    drops: f64,
    drop_generator: ChaCha8Rng,
    event_generator: ChaCha8Rng,
    /// Message counters of the run so far.
    pub traffic: Traffic,
}

impl Referee {
    /// Creates the referee of a run with `replicas` replicas, all alive and not partitioned.
    /// `drops` is the probability, from 0 to 1, that a message is lost.
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

    /// Returns the ids of the living replicas.
    #[must_use]
    pub fn living(&self) -> &BTreeSet<NodeId> {
        &self.living
    }

    /// Returns the leader named in the last message; `None` if that message named no leader.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Returns the replicas on the majority side of the network partition; `None` if there is no
    /// partition.
    #[must_use]
    pub fn side(&self) -> Option<&BTreeSet<NodeId>> {
        self.side.as_ref()
    }

    /// Sets the probability, from 0 to 1, that a message between replicas is lost.
    pub fn set_drops(&mut self, drops: f64) {
        self.drops = drops;
    }

    /// Records `leader`, the leader that a message from `src` names (`None` if it names none).
    /// Called for every message except hello messages. During a partition, ignores messages from
    /// the minority side.
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

    /// Counts a message between replicas, and adds the replicas that must receive it to `deliver`:
    /// all destinations that are alive and not partitioned from the sender, except those for which
    /// the message is lost at random. `src` is the sender's id as stated in the message.
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

    fn is_cut(&self, first: NodeId, second: NodeId) -> bool {
        self.side.as_ref().is_some_and(|side| side.contains(&first) != side.contains(&second))
    }

    /// Counts a message that violates the rules of the university course. `what` describes the
    /// violation.
    pub fn incorrect(&mut self, what: String) {
        self.traffic.incorrect += 1;
        self.traffic.first_incorrect.get_or_insert(what);
    }

    /// Records that a replica died although no event of the scenario killed it. Returns whether it
    /// was alive until now.
    pub fn died(&mut self, replica: NodeId, reason: String) -> bool {
        let lived = self.living.remove(&replica);
        if lived {
            self.traffic.deaths.push(Death { replica, reason });
        }
        lived
    }

    /// Applies an event of the scenario, and returns the actions that the simulator must take.
    pub fn apply_event(&mut self, kind: EventKind) -> EventEffect {
        match kind {
            EventKind::KillLeader => self.kill_leader(),
            EventKind::KillNonLeader => self.kill_non_leader(),
            EventKind::PartEasy => self.part(self.leader),
            EventKind::PartHard => self.part(None),
            EventKind::PartEnd => {
                self.side = None;
                EventEffect::default()
            }
        }
    }

    fn kill_leader(&mut self) -> EventEffect {
        // Without a known leader the event has no effect. If the named leader is not a living
        // replica, none is killed, but the name is forgotten. (The course's simulator crashes if
        // the name is not a replica's at all.)
        match self.leader.take() {
            Some(leader) => EventEffect { killed: self.kill(leader), leader_forgotten: true },
            None => EventEffect::default(),
        }
    }

    fn kill_non_leader(&mut self) -> EventEffect {
        if self.living.len() < 2 {
            return EventEffect::default();
        }
        let others: Vec<NodeId> =
            self.living.iter().copied().filter(|replica| Some(*replica) != self.leader).collect();
        let chosen = others[self.event_generator.random_range(..others.len())];
        EventEffect { killed: self.kill(chosen), leader_forgotten: false }
    }

    fn kill(&mut self, replica: NodeId) -> Option<NodeId> {
        let lived = self.living.remove(&replica);
        self.traffic.killed += u64::from(lived);
        lived.then_some(replica)
    }

    /// Starts a network partition. One side is a bare majority of the replicas. It includes the
    /// leader `keep`, if that is the id of a replica of this run. The other replicas on this side
    /// are drawn at random from all replicas, including dead ones.
    fn part(&mut self, keep: Option<NodeId>) -> EventEffect {
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
        EventEffect { killed: None, leader_forgotten: keep.is_none() }
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
    fn broadcast_counts_as_one_message_per_other_replica() {
        let mut referee = referee(0.0, 1);
        assert_eq!(routed(&mut referee, ONE, Destination::Replica(TWO)), [TWO]);
        assert_eq!(routed(&mut referee, ONE, Destination::Replica(ONE)), [ONE]);
        let all = routed(&mut referee, ONE, Destination::Broadcast);
        assert_eq!(all, [NodeId(0), TWO, NodeId(3), NodeId(4)]);
        assert_eq!(referee.traffic.total_msgs, 6);
    }

    #[test]
    fn lost_messages_and_those_to_dead_replicas_count_as_sent() {
        let mut lossy = referee(1.0, 1);
        assert!(routed(&mut lossy, ONE, Destination::Broadcast).is_empty());
        assert_eq!((lossy.traffic.total_msgs, lossy.traffic.dropped), (4, 4));
        let mut referee = referee(0.0, 1);
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.apply_event(EventKind::KillLeader).killed, Some(TWO));
        assert!(routed(&mut referee, ONE, Destination::Replica(TWO)).is_empty());
        assert_eq!(routed(&mut referee, ONE, Destination::Broadcast).len(), 3);
        assert_eq!((referee.traffic.total_msgs, referee.traffic.to_dead), (5, 2));
        assert_eq!(referee.traffic.killed, 1);
        assert!(referee.traffic.deaths.is_empty(), "a kill is not a death of its own");
    }

    #[test]
    fn each_copy_of_a_broadcast_is_dropped_independently() {
        let mut referee = referee(0.3, 7);
        let arrived: usize =
            (0..1_000).map(|_| routed(&mut referee, ONE, Destination::Broadcast).len()).sum();
        assert!((2_600..3_000).contains(&arrived), "{arrived} of 4000");
    }

    #[test]
    fn kill_leader_event_has_no_effect_without_a_known_leader() {
        let mut referee = referee(0.0, 1);
        assert_eq!(referee.apply_event(EventKind::KillLeader), EventEffect::default());
        referee.note_leader(ONE, Some(TWO));
        referee.note_leader(ONE, None);
        assert_eq!(referee.apply_event(EventKind::KillLeader), EventEffect::default());
        referee.note_leader(ONE, Some(NodeId(0x15)));
        let effect = referee.apply_event(EventKind::KillLeader);
        assert_eq!(effect, EventEffect { killed: None, leader_forgotten: true });
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.apply_event(EventKind::KillLeader).killed, Some(TWO));
        referee.note_leader(ONE, Some(TWO));
        assert_eq!(referee.apply_event(EventKind::KillLeader).killed, None, "it is already dead");
        assert_eq!((referee.living().len(), referee.traffic.killed), (4, 1));
    }

    #[test]
    fn kill_non_leader_event_never_kills_leader_or_last_replica() {
        for seed in 0..20 {
            let mut referee = referee(0.0, seed);
            referee.note_leader(ONE, Some(TWO));
            for _ in 0..4 {
                assert_ne!(referee.apply_event(EventKind::KillNonLeader).killed, None);
            }
            assert_eq!(referee.living().iter().copied().collect::<Vec<_>>(), [TWO]);
            assert_eq!(referee.apply_event(EventKind::KillNonLeader).killed, None);
        }
    }

    #[test]
    fn easy_partition_event_keeps_the_leader_in_the_majority() {
        for seed in 0..20 {
            let mut referee = referee(0.0, seed);
            referee.note_leader(ONE, Some(TWO));
            assert_eq!(referee.apply_event(EventKind::PartEasy), EventEffect::default());
            let side = referee.side().unwrap().clone();
            assert!(side.len() == 3 && side.contains(&TWO));
            assert_eq!(referee.leader(), Some(TWO));
            let outside = (0..5).map(NodeId).find(|replica| !side.contains(replica)).unwrap();
            assert!(routed(&mut referee, TWO, Destination::Replica(outside)).is_empty());
            assert_eq!(routed(&mut referee, TWO, Destination::Broadcast).len(), 2);
            assert_eq!(routed(&mut referee, outside, Destination::Broadcast).len(), 1);
            assert_eq!((referee.traffic.total_msgs, referee.traffic.cut), (9, 6));
            referee.note_leader(outside, Some(outside));
            assert_eq!(referee.leader(), Some(TWO), "messages of the minority side do not count");
            referee.apply_event(EventKind::PartEnd);
            assert_eq!(routed(&mut referee, TWO, Destination::Broadcast).len(), 4);
            referee.note_leader(outside, Some(outside));
            assert_eq!(referee.leader(), Some(outside));
        }
    }

    #[test]
    fn hard_partition_event_picks_any_majority_including_the_dead() {
        let mut with_dead = 0;
        for seed in 0..50 {
            let mut referee = referee(0.0, seed);
            referee.died(ONE, "gone".to_owned());
            referee.note_leader(TWO, Some(TWO));
            let effect = referee.apply_event(EventKind::PartHard);
            assert_eq!(effect, EventEffect { killed: None, leader_forgotten: true });
            assert_eq!((referee.leader(), referee.side().unwrap().len()), (None, 3));
            with_dead += usize::from(referee.side().unwrap().contains(&ONE));
        }
        assert!((15..45).contains(&with_dead), "{with_dead} of 50");
        // Without a known leader an easy partition acts like a hard one.
        assert!(referee(0.0, 1).apply_event(EventKind::PartEasy).leader_forgotten);
    }

    #[test]
    fn replica_crash_is_counted_once() {
        let mut referee = referee(0.0, 1);
        assert!(referee.died(ONE, "it exited".to_owned()));
        assert!(!referee.died(ONE, "again".to_owned()));
        assert_eq!(referee.traffic.deaths.len(), 1);
    }

    #[test]
    fn first_incorrect_message_of_a_run_is_kept_for_the_report() {
        let mut referee = referee(0.0, 1);
        referee.incorrect("first".to_owned());
        referee.incorrect("second".to_owned());
        assert_eq!(referee.traffic.incorrect, 2);
        assert_eq!(referee.traffic.first_incorrect.as_deref(), Some("first"));
    }
}
