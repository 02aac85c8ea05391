//! The scripted network: messages between replicas, with loss and delay, and the passes of the
//! network stage. It checks that no vote breaks a promise that was made to a leader.

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::{ClientRequest, Envelope, PeerMsg};
use crate::runtime::channels::{Applied, CoreItem, NetworkEnds, QUEUE_LEN, Requests};
use crate::runtime::stages::core::PASS_REQUESTS_MAX;
use crate::types::{Instant, Term};

use super::{Run, id_of, position_of};

/// A message between replicas that was sent but has not arrived yet.
pub(super) struct InTransit {
    arrives_at: Instant,
    envelope: Envelope,
}

/// The simulated network stage of one replica, which the test runs in place of one with sockets.
pub(super) struct ScriptedNetwork {
    pub(super) ends: NetworkEnds,
    /// Messages that have arrived at the replica but have not been read by its network stage yet.
    arrived: VecDeque<Envelope>,
    /// Clients' requests that are waiting until the Raft core's request queue is less than half
    /// full.
    pub(super) held: VecDeque<ClientRequest>,
    /// The applier's report on applied entries while it is waiting for space in the Raft core's
    /// queue; `None` if no report is waiting.
    applied: Option<Applied>,
    /// The term in which this replica is the leader, according to its core; `None` if it is not the
    /// leader.
    pub(super) leads: Option<Term>,
}

impl ScriptedNetwork {
    pub(super) fn new(ends: NetworkEnds) -> ScriptedNetwork {
        let (arrived, held) = (VecDeque::new(), VecDeque::new());
        ScriptedNetwork { ends, arrived, held, applied: None, leads: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends.outbound.is_full()
    }

    pub(super) fn outbound_len(&self) -> usize {
        self.ends.outbound.len()
    }
}

impl Run {
    /// Takes one batch of output of the Raft core of replica `at` from the queue to the network
    /// stage, and sends the messages in it. `known` contains the time at which the leader's rounds
    /// (numbered broadcasts) in the batch began, and the time until which the replica has promised
    /// not to vote for another replica; `None` if these times are not known.
    pub(super) fn take_outbound(&self, at: usize, known: Option<(Instant, Option<Instant>)>) {
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let Ok(outbound) = network.ends.outbound.try_recv() else { return };
        if let Some(leadership) = outbound.leadership {
            network.leads = (leadership.leader == Some(id_of(at))).then_some(leadership.term);
        }
        drop(network);
        for refusal in outbound.refusals {
            self.on_refusal(refusal.key);
        }
        for envelope in outbound.peers {
            match (&envelope.message, known) {
                (PeerMsg::AppendEntries(append), Some((read_at, _))) => {
                    let round = (envelope.from, append.term, append.round.0);
                    self.rounds.borrow_mut().entry(round).or_insert(read_at);
                }
                (PeerMsg::AppendReply(reply), Some((_, may_vote_at))) => {
                    let round = (envelope.to, reply.term, reply.round.0);
                    if let Some(began_at) = self.rounds.borrow().get(&round) {
                        let ends_at = *began_at + self.config.lease_length();
                        assert!(
                            may_vote_at.is_some_and(|at| at >= ends_at),
                            "{} promises until {may_vote_at:?}, and a lease ends at {ends_at:?}",
                            id_of(at)
                        );
                    }
                }
                _ => {}
            }
            self.transmit(envelope);
        }
    }

    /// Sends a message with a random delay, or drops it if a partition separates the replicas. If
    /// the message acknowledges a leader's round (numbered broadcast), records the lease that it
    /// promises.
    fn transmit(&self, envelope: Envelope) {
        let (from, to) = (position_of(envelope.from), position_of(envelope.to));
        if let PeerMsg::AppendReply(reply) = &envelope.message {
            let round = (envelope.to, reply.term, reply.round.0);
            if let Some(began_at) = self.rounds.borrow().get(&round) {
                let mut promises = self.replicas[from].promises.borrow_mut();
                let promise = promises.entry(reply.term).or_default();
                *promise = (*promise).max(*began_at);
                self.cover(|coverage| coverage.promises += 1);
            }
            self.check_promises(from);
        }
        if self.partitioned.borrow()[from][to] {
            return;
        }
        let delay = if self.draw(20) == 0 { 20_000 } else { 500 };
        let arrives_at = self.now.get() + Duration::from_micros(self.draw(delay));
        self.in_transit.borrow_mut().push(InTransit { arrives_at, envelope });
    }

    /// Panics if replica `at` has voted for another replica while a leader may still hold a lease
    /// from a round (numbered broadcast) that replica `at` has acknowledged.
    pub(super) fn check_promises(&self, at: usize) {
        let stages = &self.replicas[at];
        let (votes, promises) = (stages.votes.borrow(), stages.promises.borrow());
        for (voted_at, term) in votes.iter() {
            for (_, began_at) in promises.range(..*term) {
                let ends_at = *began_at + self.config.lease_length();
                assert!(
                    *voted_at >= ends_at,
                    "{} votes in term {term} at {voted_at:?}, before the end of a lease at \
                     {ends_at:?}",
                    id_of(at)
                );
            }
        }
    }

    /// Delivers each message whose delay has passed to the network stage of its recipient.
    pub(super) fn deliver(&self) {
        let now = self.now.get();
        let mut in_transit = self.in_transit.borrow_mut();
        for InTransit { envelope, .. } in in_transit.extract_if(.., |it| it.arrives_at <= now) {
            // A network stage that is in the middle of a pass loses the message.
            let network = self.replicas[position_of(envelope.to)].network.try_borrow_mut();
            if let Ok(mut network) = network {
                network.arrived.push_back(envelope);
            }
        }
    }

    /// Passes a random number of the messages that have arrived at replica `at`, and of its
    /// clients' requests, to its Raft core: the first half of a pass (iteration of the network
    /// stage's loop).
    pub(super) fn receive(&self, at: usize) {
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let began_at = self.now.get();
        let singly = self.draw(4) == 0;
        let most = if self.healed.get() { usize::MAX } else { 1 + self.draw_count(100) };
        let count = most.min(network.arrived.len());
        let messages: Vec<Envelope> = network.arrived.drain(..count).collect();
        if singly {
            for message in messages {
                let _ = network.ends.to_core.try_send(CoreItem::Peers(vec![message]));
            }
        } else if !messages.is_empty() {
            let _ = network.ends.to_core.try_send(CoreItem::Peers(messages));
        }
        if network.arrived.is_empty() {
            network.ends.peers_read.note(began_at);
        }
        if !self.healed.get() {
            self.send_requests(at, &mut network);
            // Simulates a client that requests snapshots all the time.
            if self.draw(30) == 0 {
                while network.ends.to_core.try_send(CoreItem::TakeSnapshot).is_ok() {}
            }
        }
        if network.ends.requests.len() < QUEUE_LEN / 2 && !network.held.is_empty() {
            let most = if self.draw(4) == 0 { PASS_REQUESTS_MAX } else { self.draw_count(200) };
            let count = network.held.len().min(1 + most);
            let requests = network.held.drain(..count).collect();
            network.ends.requests.try_send(Requests::Clients(requests)).expect("half empty");
        }
    }

    /// Sends the messages of replica `at`'s core and log writer to other replicas, checks the
    /// replies to clients, and reports applied entries to the Raft core: the second half of a pass
    /// (iteration of the network stage's loop).
    pub(super) fn send(&self, at: usize) {
        for _ in 0..=self.draw(4) {
            self.take_outbound(at, None);
        }
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let most = 1 + self.draw_count(8);
        let released: Vec<_> = network.ends.released.try_iter().take(most).flatten().collect();
        for _ in 0..=self.draw(4) {
            let Ok(batch) = network.ends.replies.try_recv() else { break };
            for answer in batch.answers {
                self.on_reply(answer.key, &answer.outcomes);
            }
            network.applied.get_or_insert_default().merge(batch.applied);
        }
        if let Some(applied) = network.applied.clone()
            && network.ends.to_core.try_send(CoreItem::Applied(applied)).is_ok()
        {
            network.applied = None;
        }
        drop(network);
        for envelope in released {
            self.transmit(envelope);
        }
    }
}
