//! One pass of the core under a clock that the test moves: what it takes, what it leaves, and from
//! which instants promises count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::Sender;

use super::tests::{append, leading_core, quiet_core};
use super::*;
use crate::config::Config;
use crate::raft::{Durable, HardState, RequestVote};
use crate::runtime::channels::{Ends, NetworkEnds, channels};
use crate::runtime::clock::TestClock;
use crate::runtime::wake::tests::unused_wake;
use crate::types::{ClientId, EntryId, NodeId, RequestId, Term};

/// Requests in a flood.
const FLOOD: u64 = 8 * PASS_REQUESTS_MAX as u64;

/// A clock that a test moves, and that moves by itself behind each reading.
#[derive(Debug, Default)]
struct ManualClock {
    nanos: AtomicU64,
    step: AtomicU64,
    /// Arrives behind the next reading, which is followed by a pause.
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
        if let Some((to_core, item, pause)) = self.late.lock().unwrap().take() {
            self.advance(pause);
            to_core.try_send(item).unwrap();
        }
        now
    }
}

/// A follower with leases in its first term, and its clock.
fn follower() -> (Core, NetworkEnds, &'static ManualClock) {
    let Ends { network, core: ends, .. } = channels(&unused_wake(), false);
    let time: &ManualClock = Box::leak(Box::default());
    let clock = Clock::for_test(time);
    let peers = [NodeId(1), NodeId(2)];
    let hard_state = HardState { term: Term(1), voted_for: None };
    let durable = Durable { hard_state, ..Durable::default() };
    let replica = Replica::new(NodeId(0), &peers, Config::server(), 7, durable, clock.now());
    let refuse = NonLeaderPolicy::Refuse;
    (Core::new(replica, clock, ends, refuse, Arc::default(), Arc::default()), network, time)
}

#[test]
fn items_beyond_a_full_pass_are_handled_by_the_next() {
    let (mut core, network, ..) = quiet_core();
    core.under_way = 1_000;
    let applied = || CoreItem::Applied(Applied { bytes: 1, ..Applied::default() });
    for _ in 0..QUEUE_LEN {
        network.to_core.try_send(applied()).unwrap();
    }
    core.run_once(Some(applied()));
    assert_eq!(core.under_way, 1_000 - QUEUE_LEN);
    assert!(core.has_mail());
    core.run_once(None);
    assert_eq!(core.under_way, 1_000 - QUEUE_LEN - 1, "an item was dropped");
}

#[test]
fn a_promise_counts_from_after_its_message_was_received() {
    let (mut core, network, time) = follower();
    core.run_once(Some(CoreItem::Peers(vec![append(0)])));
    // This thread is put aside behind a reading, and a heartbeat comes meanwhile.
    let sent_after = Duration::from_millis(180);
    let item = CoreItem::Peers(vec![append(0)]);
    *time.late.lock().unwrap() = Some((network.to_core.clone(), item, sent_after));
    core.run_once(None);
    assert!(!core.has_mail(), "the heartbeat was taken in this pass");
    let replies = network.outbound.try_iter().flat_map(|batch| batch.peers);
    let is_reply = |it: &Envelope| matches!(it.message, PeerMsg::AppendReply(_));
    assert_eq!(replies.filter(is_reply).count(), 2);
    // The leader's lease begins when it sent that heartbeat.
    time.advance(Config::server().lease_length() * 99 / 100);
    let last = EntryId::new(1, 9);
    let request = RequestVote { term: Term(2), pre: false, transfer: false, last };
    let message = PeerMsg::RequestVote(request);
    let envelope = Envelope { from: NodeId(2), to: NodeId(0), leader: None, message };
    core.run_once(Some(CoreItem::Peers(vec![envelope])));
    assert_eq!(core.replica.status().voted_for, None, "a vote during a lease");
}

#[test]
fn a_pass_takes_a_slice_of_a_flood_and_peers_come_first() {
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
    // Where time passes quickly a slice is smaller.
    time.step.store(1_000_000, Ordering::Relaxed);
    core.run_once(None);
    let small = core.replica.log().last().index.0 - begin - slice;
    assert!(small > 0 && small < slice / 4, "{small} in one pass");
    // What peers say is handled in the next pass, whatever clients have asked before.
    network.to_core.try_send(CoreItem::TakeSnapshot).unwrap();
    core.run_once(None);
    assert!(core.has_work());
    assert!(applier.jobs.try_iter().any(|batch| batch.save), "it waits behind the flood");
    time.step.store(0, Ordering::Relaxed);
    while core.has_work() {
        core.run_once(None);
    }
    let all = core.replica.log().last().index.0 - begin;
    // With some entries of the log's clock.
    assert!((FLOOD..FLOOD + 100).contains(&all), "{all} of {FLOOD}");
}

#[test]
fn silence_counts_only_when_everything_that_arrived_was_read() {
    let (mut core, network, time) = follower();
    core.run_once(Some(CoreItem::Peers(vec![append(0)])));
    // The process was stopped: what peers sent meanwhile lies in its sockets.
    time.advance(Duration::from_secs(3));
    core.run_once(None);
    assert_eq!(core.replica.status().counters.pre_votes, 0);
    assert!(core.poll_timeout() <= RETRY, "it looks again soon");
    network.peers_read.note(core.clock.now());
    network.to_core.try_send(CoreItem::Peers(vec![append(0)])).unwrap();
    core.run_once(None);
    assert_eq!((core.replica.leader(), core.waits_for_peers), (Some(NodeId(1)), false));
    // Nothing came, and all that came was read.
    time.advance(Duration::from_secs(3));
    network.peers_read.note(core.clock.now());
    core.run_once(None);
    assert_eq!(core.replica.status().counters.pre_votes, 1);
}
