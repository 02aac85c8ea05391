//! Tests of single passes of the core with a clock that the test advances: which items a pass
//! handles, which it leaves, and from which instants promises are measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::Sender;
use parking_lot::Mutex;

use crate::config::Config;
use crate::raft::{
    ClientRequest, Durable, Envelope, HardState, PeerMsg, Replica, RequestKind, RequestVote,
};
use crate::runtime::channels::{Applied, CoreItem, Ends, NetworkEnds, Requests, channels};
use crate::runtime::clock::TestClock;
use crate::runtime::wake::tests::unused_wake;
use crate::types::{ClientId, EntryId, NodeId, RequestId, RequestKey, Term};

use super::test_support::{append, leading_core, quiet_core};
use super::*;

/// Number of requests in a flood: eight times the number that the core handles in one pass
/// (iteration of its loop).
const FLOOD: u64 = 8 * PASS_REQUESTS_MAX as u64;

/// A clock that only the test advances, optionally by a fixed step after each reading.
#[derive(Debug, Default)]
struct ManualClock {
    nanos: AtomicU64,
    step: AtomicU64,
    /// An item to be sent to the core right after the next reading of the clock, and the time by
    /// which the clock advances before the item is sent; `None` if no item is to be sent.
    late: Mutex<Option<(Sender<CoreItem>, CoreItem, Duration)>>,
}

impl ManualClock {
    fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl TestClock for ManualClock {
    fn read(&self) -> Instant {
        let step = self.step.load(Ordering::Relaxed);
        let now = Instant(self.nanos.fetch_add(step, Ordering::Relaxed));
        if let Some((to_core, item, pause)) = self.late.lock().take() {
            self.advance(pause);
            to_core.try_send(item).unwrap();
        }
        now
    }
}

/// Creates a core whose replica is a follower in term 1. Also returns the clock that the test
/// advances.
fn follower() -> (Core, NetworkEnds, &'static ManualClock) {
    let Ends { network, core: ends, .. } = channels(&unused_wake(), false);
    let time: &ManualClock = Box::leak(Box::default());
    let clock = Clock::for_test(time);
    let peers = [NodeId(1), NodeId(2)];
    let hard_state = HardState { term: Term(1), voted_for: None };
    let durable = Durable { hard_state, ..Durable::default() };
    let replica = Replica::new(NodeId(0), &peers, Config::server(), 7, durable, clock.now());
    let policy = NonLeaderPolicy::Refuse;
    (Core::new(replica, clock, ends, policy, Arc::default(), Arc::default()), network, time)
}

#[test]
fn raft_core_defers_events_beyond_its_limit_per_loop_pass() {
    let (mut core, network, ..) = quiet_core();
    core.in_flight.start_apply(1_000);
    let applied = || CoreItem::Applied(Applied { bytes: 1, ..Applied::default() });
    for _ in 0..QUEUE_LEN {
        network.to_core.try_send(applied()).unwrap();
    }
    core.run_once(Some(applied()));
    assert_eq!(core.in_flight.bytes(), 1_000 - QUEUE_LEN);
    assert!(core.has_items());
    core.run_once(None);
    assert_eq!(core.in_flight.bytes(), 1_000 - QUEUE_LEN - 1, "an item was dropped");
}

#[test]
fn lease_grant_starts_no_earlier_than_heartbeat_receipt() {
    let (mut core, network, time) = follower();
    core.run_once(Some(CoreItem::Peers(vec![append(0)])));
    // This thread is paused right after a reading, and a heartbeat arrives during the pause.
    let sent_after = Duration::from_millis(180);
    let item = CoreItem::Peers(vec![append(0)]);
    *time.late.lock() = Some((network.to_core.clone(), item, sent_after));
    core.run_once(None);
    assert!(!core.has_items(), "the heartbeat was handled in this pass");
    let replies = network.outbound.try_iter().flat_map(|batch| batch.peers);
    let is_reply = |it: &Envelope| matches!(it.message, PeerMsg::AppendReply(_));
    assert_eq!(replies.filter(is_reply).count(), 2);
    // The leader's lease began when it sent that heartbeat.
    time.advance(Config::server().lease_length() * 99 / 100);
    let last = EntryId::new(1, 9);
    let request = RequestVote { term: Term(2), pre: false, transfer: false, last };
    let message = PeerMsg::RequestVote(request);
    let envelope = Envelope { from: NodeId(2), to: NodeId(0), leader: None, message };
    core.run_once(Some(CoreItem::Peers(vec![envelope])));
    assert_eq!(core.replica.status().voted_for, None, "a vote during a lease");
}

#[test]
fn backlog_of_client_requests_does_not_delay_peer_messages() {
    let (mut core, network, _log_writer, applier) = leading_core(3);
    let time: &ManualClock = Box::leak(Box::default());
    core.clock = Clock::for_test(time);
    time.advance(Duration::from_secs(20));
    let write = |number: u64| {
        let mut request = [0; 16];
        request[8..].copy_from_slice(&number.to_be_bytes());
        let key = RequestKey { client: ClientId(1), request: RequestId(request) };
        ClientRequest { key, kind: RequestKind::Write, payload: Bytes::new() }
    };
    for chunk in 0..8 {
        let numbers = chunk * FLOOD / 8..(chunk + 1) * FLOOD / 8;
        network.requests.try_send(Requests::Clients(numbers.map(write).collect())).unwrap();
    }
    let begin = core.replica.log().last().index.0;
    core.run_once(None);
    let slice = core.replica.log().last().index.0 - begin;
    assert_eq!(slice, PASS_REQUESTS_MAX as u64);
    assert_eq!(core.poll_timeout(), Duration::ZERO);
    // With slow requests, a pass handles fewer of them.
    time.step.store(1_000_000, Ordering::Relaxed);
    core.run_once(None);
    let small = core.replica.log().last().index.0 - begin - slice;
    assert!(small > 0 && small < slice / 4, "{small} in one pass");
    // An item is handled in the next pass, however many requests are waiting.
    network.to_core.try_send(CoreItem::TakeSnapshot).unwrap();
    core.run_once(None);
    assert!(core.has_work());
    assert!(applier.jobs.try_iter().any(|batch| batch.take_snapshot), "it waited behind the flood");
    time.step.store(0, Ordering::Relaxed);
    while core.has_work() {
        core.run_once(None);
    }
    let all = core.replica.log().last().index.0 - begin;
    // Some clock entries are among them.
    assert!((FLOOD..FLOOD + 100).contains(&all), "{all} of {FLOOD}");
}

#[test]
fn pre_vote_waits_until_all_peer_sockets_are_read() {
    let (mut core, network, time) = follower();
    core.run_once(Some(CoreItem::Peers(vec![append(0)])));
    // The process was paused: messages that peers sent during the pause are in its sockets.
    time.advance(Duration::from_secs(3));
    core.run_once(None);
    assert_eq!(core.replica.status().counters.pre_votes, 0);
    assert!(core.poll_timeout() <= RETRY, "it checks again soon");
    network.peers_read.note(core.clock.now());
    network.to_core.try_send(CoreItem::Peers(vec![append(0)])).unwrap();
    core.run_once(None);
    assert_eq!((core.replica.leader(), core.waits_for_peers), (Some(NodeId(1)), false));
    // Nothing arrived, and everything that had arrived was read.
    time.advance(Duration::from_secs(3));
    network.peers_read.note(core.clock.now());
    core.run_once(None);
    assert_eq!(core.replica.status().counters.pre_votes, 1);
}
