//! Messages between replicas over datagram streams: the network of a run loses, delays,
//! reorders and duplicates the datagrams, and the streams still deliver all bytes once and in
//! order.

use super::{Alarm, FaultRun};
use crate::raft::Envelope;
use crate::sim::cluster::network::Fate;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::streams::{Received, Streams, describe};
use crate::sim::violation::{Violation, ensure};
use crate::types::{Instant, NodeId, Term};

/// Maximum number of datagrams that a paused replica has not read yet, as in the receive buffer of
/// its socket. Further datagrams are lost.
const WAITING_MAX: usize = 200;
/// Maximum number of times that streams are run at the same virtual time, counted over all
/// replicas. More runs mean that the timers of streams trigger each other forever.
const RUNS_AT_ONCE_MAX: u32 = 1_000;

/// The streams between the replicas of a run.
#[derive(Debug)]
pub(super) struct Datagrams {
    streams: Streams,
    /// Virtual time at which the streams of any replica were last run, and the number of earlier
    /// runs at the same time, counted over all replicas.
    runs_at_once: (Instant, u32),
}

impl Datagrams {
    pub(super) fn new(streams: Streams) -> Datagrams {
        Datagrams { streams, runs_at_once: (Instant::ZERO, 0) }
    }
}

impl FaultRun {
    /// Queues a message on the stream to its receiver. The message is lost if there is no such
    /// stream.
    pub(super) fn send_over_stream(&mut self, envelope: Envelope) {
        let datagrams = self.datagrams.as_mut().expect("the run has streams");
        let (now, from, to) = (self.cluster.now(), envelope.from, envelope.to);
        let is_traced = self.cluster.trace.is_on();
        let copy = is_traced.then(|| envelope.clone());
        let is_sent = datagrams.streams.send(from, to, envelope.message);
        if let Some(envelope) = copy {
            let replica = self.cluster.machine(from).replica.as_ref();
            let term = replica.map_or(Term(0), |replica| replica.status().term);
            self.cluster.trace.sent(now, term, &envelope, if is_sent { "->" } else { "~->" });
        }
    }

    /// Handles the arrival of a datagram at a replica.
    pub(super) fn on_datagram(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        let datagrams = self.datagrams.as_mut().expect("the run has streams");
        let Some(endpoint) = datagrams.streams.endpoint_mut(to) else { return };
        if endpoint.waiting.len() < WAITING_MAX {
            endpoint.waiting.push_back((from, bytes));
            endpoint.is_due = true;
        }
    }

    /// Handles the timer event at time `at` for the streams of a replica. Does nothing if the timer
    /// has been set to another time since.
    pub(super) fn on_stream_timer(&mut self, id: NodeId, at: Instant) {
        let datagrams = self.datagrams.as_mut().expect("the run has streams");
        if let Some(endpoint) = datagrams.streams.endpoint_mut(id)
            && endpoint.timer_at == at
        {
            (endpoint.timer_at, endpoint.is_due) = (Instant::MAX, true);
        }
    }

    /// Runs the streams that are due, except those of paused replicas, and delivers the messages
    /// received on them.
    pub(super) fn run_streams(&mut self) -> Result<(), Violation> {
        let Some(mut datagrams) = self.datagrams.take() else { return Ok(()) };
        let result = self.plan.ids.clone().into_iter().try_for_each(|id| {
            let machine = self.cluster.machine(id);
            let incarnation = machine.replica.as_ref().map(|_| machine.incarnation());
            let is_paused = machine.held.all;
            datagrams.streams.follow(id, incarnation);
            let is_due = datagrams.streams.endpoint_mut(id).is_some_and(|it| it.is_due);
            if is_due && !is_paused { self.run_endpoint(&mut datagrams, id) } else { Ok(()) }
        });
        self.datagrams = Some(datagrams);
        result
    }

    fn run_endpoint(&mut self, datagrams: &mut Datagrams, id: NodeId) -> Result<(), Violation> {
        let now = self.cluster.now();
        let (last, runs) = datagrams.runs_at_once;
        let runs = if last == now { runs + 1 } else { 0 };
        datagrams.runs_at_once = (now, runs);
        ensure!(
            runs < RUNS_AT_ONCE_MAX,
            "progress: the replicas' streams were run more than {RUNS_AT_ONCE_MAX} times at \
             virtual time {now:?}: their timers trigger each other forever"
        );
        let clock = self.cluster.machine(id).clock;
        let (mut received, mut sent) = (Vec::new(), Vec::new());
        let due = datagrams.streams.run(id, clock.read(now), &mut received, |to, bytes| {
            sent.push((to, bytes.to_vec()));
        })?;
        for Received { from, incarnation, message } in received {
            let envelope = Envelope { from, to: id, leader: None, message };
            self.cluster.deliver_from(now, incarnation, envelope);
        }
        for (to, bytes) in sent {
            self.send_datagram(id, to, bytes);
        }
        let at = clock.when(due).max(now);
        let endpoint = datagrams.streams.endpoint_mut(id).expect("it was just run");
        if due < Instant::MAX && at < endpoint.timer_at {
            endpoint.timer_at = at;
            self.set_alarm(at, Alarm::StreamTimer { id, at });
        }
        Ok(())
    }

    /// Decides the fate of a datagram.
    fn send_datagram(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        let now = self.cluster.now();
        let sum = bytes.len() as u64 ^ u64::from(bytes[0]) << 32;
        self.update_digest(now, sum ^ u64::from(from.0) << 48 ^ u64::from(to.0) << 56);
        let fate = self.network.fate(now, from, to);
        let arrow = match fate {
            Fate::Cut => "x",
            Fate::Lost => "~",
            Fate::Arrives { .. } => "",
        };
        if self.cluster.trace.is_on() {
            self.note(format_args!("{} {arrow}..> {} {}", from.0, to.0, describe(&bytes)));
        }
        match fate {
            Fate::Cut => {}
            Fate::Lost => self.datagrams_lost += 1,
            Fate::Arrives { at, duplicate_at } => {
                if let Some(at) = duplicate_at {
                    self.set_alarm(at, Alarm::Datagram { from, to, bytes: bytes.clone() });
                }
                self.set_alarm(at, Alarm::Datagram { from, to, bytes });
            }
        }
    }

    /// Returns the number of times that the run reached each situation concerning streams.
    pub(super) fn stream_coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        if let Some(datagrams) = &self.datagrams {
            coverage.merge(datagrams.streams.coverage());
        }
        coverage.add(Situation::DatagramLoss, self.datagrams_lost);
        coverage
    }
}
