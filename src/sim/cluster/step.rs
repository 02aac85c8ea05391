//! A step of a simulated replica: the replica handles a batch of messages and, if it is due, its
//! timeout; it is flushed once; then its effects are carried out.

use std::collections::BTreeMap;

use super::Cluster;
use super::answer::{Answer, AnswerKind, ClientProtocol};
use super::queue::Event;
use crate::config::Mutant;
use crate::digest_schedule::DigestSchedule;
use crate::feature_level::FeatureLevel;
use crate::kv::{Batch, BatchBuffer};
use crate::large_writes::{Dropped, LargeWrites, PieceAppender};
use crate::raft::{
    ClientRequest, Effects, Envelope, Msg, PeerMsg, Refusal, RefusalReason, Replica, RequestKind,
    RoleName, SnapshotChunk,
};
use crate::record::record_bytes;
use crate::sim::coverage::Situation;
use crate::sim::machine::replicated_clock::ClockGate;
use crate::sim::violation::{Violation, ensure};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};

/// Maximum number of messages in a replica's inbox, where they wait, for example, while the replica
/// is paused. Messages that arrive while the inbox is full are lost.
const INBOX_MAX: usize = 10_000;
/// Maximum number of steps of one replica at the same virtual time. More steps mean that the
/// replica triggers itself forever, which is a violation.
const STEPS_AT_ONCE_MAX: u32 = 10_000;

/// Maximum total length of the large writes that a leader accepts at a time, in bytes.
const LARGE_WRITES_BYTES_MAX: u64 = 4_000;

/// Splits a request with a batch of several writes into two requests with half of the writes each:
/// a deliberate fault for testing the checkers (mutation testing). Returns `None` if the request is
/// not such a batch.
fn torn(request: &ClientRequest) -> Option<[ClientRequest; 2]> {
    let ClientRequest { key, kind, payload } = request;
    let batch = Batch::decode(payload).ok().filter(|batch| batch.len() > 1)?;
    let half = |from: usize, to: usize| {
        let mut buffer = BatchBuffer::default();
        let operations = batch.encoded_operations().skip(from).take(to - from);
        operations.for_each(|operation| buffer.push(operation));
        ClientRequest { key: *key, kind: *kind, payload: buffer.finish(*key, batch.may_repeat) }
    };
    let middle = batch.len() / 2;
    (*kind == RequestKind::Write).then(|| [half(0, middle), half(middle, batch.len())])
}

impl Cluster {
    /// Handles the arrival of a client's request at a replica, which processes it in its next step.
    pub(super) fn on_request(
        &mut self,
        slot: usize,
        request: ClientRequest,
    ) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.replica.is_none() {
            return Ok(());
        }
        self.trace.request_arrives(self.now, machine, &request);
        self.client_model.on_request(request.key, self.checker.commit_index(), self.now);
        if self.protocol == ClientProtocol::Connection && request.kind == RequestKind::Write {
            *machine.pending_writes.entry(request.key).or_default() += 1;
        }
        if self.machines[slot].config.breaks(Mutant::TearBatch)
            && let Some([first, second]) = torn(&request)
        {
            self.on_message(slot, Msg::Client(first))?;
            return self.on_message(slot, Msg::Client(second));
        }
        self.on_message(slot, Msg::Client(request))
    }

    /// Handles the arrival of a message at a replica, which processes it in its next step. The
    /// message is lost if the replica is down or its inbox is full.
    pub(super) fn on_message(&mut self, slot: usize, message: Msg) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.replica.is_none() || machine.inbox.len() >= INBOX_MAX {
            return Ok(());
        }
        if let Msg::Peer(envelope) = &message {
            self.trace.arrives(self.now, machine, envelope);
        }
        machine.inbox.push_back(message);
        self.step_soon(slot)
    }

    /// Schedules the replica's next step after the configured batch delay, or performs it now if
    /// that delay is zero.
    pub(super) fn step_soon(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.held.all || machine.queued.step {
            return Ok(());
        }
        if machine.delays.batch.is_zero() {
            return self.step(slot);
        }
        machine.queued.step = true;
        let at = self.now + machine.delays.batch.draw(&mut machine.rng);
        self.queue.push(at, Event::Step { slot, incarnation: machine.incarnation });
        Ok(())
    }

    /// Performs a step of the replica as the server does: handles all waiting messages and a due
    /// timeout, calls `Replica::flush` once, and carries out the resulting effects (messages, log
    /// writes, apply jobs). If the effects produce inputs for the replica itself, it takes further
    /// steps at the same virtual time.
    pub(super) fn step(&mut self, slot: usize) -> Result<(), Violation> {
        loop {
            let machine = &mut self.machines[slot];
            let Some(replica) = machine.replica.as_mut() else { return Ok(()) };
            if machine.held.all {
                return Ok(());
            }
            let now = machine.clock.read(self.now);
            machine.steps_at_once = (
                self.now,
                if machine.steps_at_once.0 == self.now { machine.steps_at_once.1 + 1 } else { 0 },
            );
            ensure!(
                machine.steps_at_once.1 < STEPS_AT_ONCE_MAX,
                "progress: replica {} took more than {STEPS_AT_ONCE_MAX} steps at {now:?}; its \
                 next timeout is {:?}",
                machine.id,
                replica.next_timeout()
            );
            self.trace.before_step(replica);
            if let Some(changes) = machine.change.take() {
                let text = match replica.change_members(now, &changes) {
                    Ok(entry) => {
                        self.coverage.add(Situation::MemberChange, 1);
                        format!("{} begins a change of the members at {entry}", machine.id.0)
                    }
                    Err(refusal) => format!("{} refuses: {refusal}", machine.id.0),
                };
                self.trace.note(self.now, format_args!("{text}"));
            }
            let out = &mut self.effects;
            let mut waited = Vec::new();
            if let Some(gate) = &mut machine.clock_gate {
                gate.observe(now, machine.wall.read(self.now));
                waited = gate.follow(now, replica);
            }
            let mut driver =
                LeaderDriver { replica, gate: machine.clock_gate.as_deref_mut(), now, out };
            for message in waited.into_iter().chain(machine.inbox.drain(..)) {
                let append = sender_of_append(&message);
                self.checker.on_receive(slot, &message);
                let message = match message {
                    Msg::Client(request) if self.protocol == ClientProtocol::Connection => {
                        let writes = (&mut machine.large_writes, &mut machine.pending_writes);
                        match driver.admit(request, writes) {
                            Some(message) => message,
                            None => continue,
                        }
                    }
                    message => message,
                };
                let replica = &mut *driver.replica;
                replica.handle_msg(now, message, driver.out);
                // A replica accepts no leader during the silent period after its start.
                if let Some((leader, term)) = append
                    && replica.term() == term
                    && replica.last_known_leader() == Some(leader)
                {
                    self.checker.on_append_accepted(slot, now, term);
                }
            }
            driver.compare_states(&mut machine.digest_schedule, &mut self.forwards);
            let refused = machine.large_writes.refuse_deposed(&mut driver);
            self.coverage.add(Situation::RefusedPieces, refused as u64);
            machine.large_writes.append_pieces(&mut driver, now);
            let LeaderDriver { replica, gate, out, .. } = driver;
            if now >= replica.next_timeout() && !machine.held.timeouts {
                replica.handle_timeout(now, out);
            }
            if replica.accepts_writes()
                && let Some(gate) = gate
                && let Some(entry) = gate.due(now)
            {
                append_clock_entry(gate, replica, now, entry, out);
            }
            replica.flush(now, out);
            replica.check();
            let status = replica.status();
            if let Some((term, end)) = machine.receiving
                && term < status.term
            {
                machine.receiving = None;
                let interrupted = u64::from(status.commit_index < end);
                self.coverage.add(Situation::InterruptedInstall, interrupted);
            }
            self.checker.after_step(&self.machines, slot, &status)?;
            self.trace.after_step(self.now, &self.machines[slot], &status, &self.effects);
            self.carry_out(slot, status.role)?;
            let machine = &self.machines[slot];
            if machine.inbox.is_empty() {
                break;
            }
            if !machine.delays.batch.is_zero() {
                self.step_soon(slot)?;
                break;
            }
        }
        self.set_timer(slot);
        Ok(())
    }

    /// Carries out the effects of a step: sends messages, writes the log, applies entries, and so
    /// on. `role` is the replica's role after the step.
    fn carry_out(&mut self, slot: usize, role: RoleName) -> Result<(), Violation> {
        let mut effects = std::mem::take(&mut self.effects);
        for envelope in effects.send.drain(..) {
            self.send(slot, envelope)?;
        }
        for rejected in effects.rejected.drain(..) {
            let machine = &self.machines[slot];
            ensure!(
                self.forged,
                "well-formed messages: replica {} rejected a message from {}: {}",
                machine.id,
                rejected.from,
                rejected.reason
            );
            let text =
                format_args!("{} rejects {}: {}", machine.id.0, rejected.from.0, rejected.reason);
            self.trace.note(self.now, text);
        }
        for refusal in effects.refusals.drain(..) {
            if refusal.key == RequestKey::default() {
                // This is an entry of the replicated clock, for which no client is waiting.
                continue;
            }
            self.client_model.on_refused(self.machines[slot].id, refusal.key)?;
            self.machines[slot].take_pending_write(refusal.key);
            let kind = AnswerKind::Refused(refusal.reason);
            self.answer(slot, refusal.key, refusal.leader, kind);
        }
        for mut envelope in effects.chunks_to_send.drain(..) {
            let machine = &mut self.machines[slot];
            if machine.snapshots.fill(&mut machine.disk, &mut envelope) {
                self.send(slot, envelope)?;
            } else if let PeerMsg::InstallSnapshot(install) = &envelope.message
                && machine.snapshots.is_still_damaged(&mut machine.disk, install.snapshot)
            {
                self.replace_snapshot(slot);
            }
        }
        if let Some(start) = effects.log_start.take() {
            self.store_log_start(slot, start)?;
        }
        ensure!(
            !std::mem::take(&mut effects.is_other_kind),
            "data for replicas with data: the other replicas treat replica {}, whose witness flag \
             is {}, as the other kind",
            self.machines[slot].id,
            self.machines[slot].config.is_witness
        );
        if let Some(member) = effects.rejoin_refused_by.take() {
            let machine = &mut self.machines[slot];
            machine.must_be_replaced = true;
            let text = format_args!("{} must be replaced, says {}", machine.id.0, member.0);
            self.trace.note(self.now, text);
            let incarnation = machine.incarnation;
            self.queue.push(self.now, Event::Stop { slot, incarnation });
        }
        for id in effects.suspect_snapshots.drain(..) {
            let machine = &mut self.machines[slot];
            if machine.snapshots.recheck(&mut machine.disk, id) {
                self.trace.note(
                    self.now,
                    format_args!("{} finds its snapshot up to {} damaged", machine.id.0, id.last),
                );
                self.replace_snapshot(slot);
            }
        }
        if !effects.received_chunks.is_empty() {
            let machine = &mut self.machines[slot];
            let position = |chunk: &SnapshotChunk| (chunk.term, chunk.snapshot.last.index);
            machine.receiving = effects.received_chunks.last().map(position);
            machine.storing.extend(effects.received_chunks.drain(..));
            self.store_soon(slot);
        }
        if let Some(job) = effects.append.take() {
            self.write(slot, role, job)?;
        }
        if !effects.apply.is_empty() {
            let machine = &mut self.machines[slot];
            let now = machine.clock.read(self.now);
            let gate = machine.clock_gate.as_mut().filter(|_| !effects.apply.reads.is_empty());
            let read_clock = gate.map_or((0, 0), |gate| gate.for_reads(now));
            machine.applying.push_back((std::mem::take(&mut effects.apply), read_clock));
            if machine.delays.apply.is_zero() {
                self.apply(slot)?;
            } else if !machine.queued.apply {
                machine.queued.apply = true;
                let at = self.now + machine.delays.apply.draw(&mut machine.rng);
                self.queue.push(at, Event::Apply { slot, incarnation: machine.incarnation });
            }
        }
        // Keeps the vectors, which are empty now, to reuse their memory.
        self.effects = effects;
        Ok(())
    }

    pub(super) fn send(&mut self, slot: usize, envelope: Envelope) -> Result<(), Violation> {
        self.checker.on_send(&self.machines, slot, &envelope)?;
        self.sent.push(envelope);
        Ok(())
    }

    pub(super) fn answer(
        &mut self,
        slot: usize,
        key: RequestKey,
        leader: Option<NodeId>,
        kind: AnswerKind,
    ) {
        let answer = Answer { from: self.machines[slot].id, key, leader, kind };
        self.trace.answers(self.now, &answer);
        self.answers.push(answer);
    }

    /// Schedules a timer event for the replica's next timeout, unless one is already queued for
    /// this time or earlier.
    pub(super) fn set_timer(&mut self, slot: usize) {
        let machine = &mut self.machines[slot];
        if machine.replica.is_none() {
            return;
        }
        let at = machine.clock.when(machine.next_timeout(self.now)).max(self.now);
        if at < machine.timer_at && at != Instant::MAX && !machine.held.timeouts {
            machine.timer_at = at;
            self.queue.push(at, Event::Timer { slot, incarnation: machine.incarnation });
        }
    }
}

/// The driver of a replica's consensus core during one step: handles clients' requests as the
/// server's core stage does.
struct LeaderDriver<'a> {
    replica: &'a mut Replica,
    /// Delays requests until the replicated clock is known; `None` if the run does not use
    /// expirations.
    gate: Option<&'a mut ClockGate>,
    now: Instant,
    out: &'a mut Effects,
}

impl LeaderDriver<'_> {
    /// Prepares for a client's request before the replica handles it: holds it until the leader
    /// knows the wall clocks of a quorum, puts a large write into the queue `large_writes` and,
    /// before another write, appends an entry that advances the clock if necessary. Returns the
    /// message for the replica; `None` if the request was refused, is held or is in the queue.
    fn admit(
        &mut self,
        request: ClientRequest,
        (large_writes, pending): (&mut LargeWrites, &mut BTreeMap<RequestKey, u32>),
    ) -> Option<Msg> {
        let is_large = large_writes.is_large(&request);
        if self.gate.is_none() && !is_large {
            return Some(Msg::Client(request));
        }
        let key = request.key;
        if !self.replica.is_leader() || is_large && !self.replica.accepts_writes() {
            self.refuse(key, RefusalReason::NotLeader);
            return None;
        }
        let message = Msg::Client(request);
        let message = match &mut self.gate {
            Some(gate) => gate.hold(self.now, self.replica.term(), message)?,
            None => message,
        };
        let Msg::Client(mut request) = message else { return Some(message) };
        if is_large {
            // Clients resend a write only under the same key.
            let is_copy = pending.get(&key).is_some_and(|count| *count > 1);
            let since = is_copy.then_some(Index::ZERO);
            match large_writes.accept(request, since, self.replica.term(), LARGE_WRITES_BYTES_MAX) {
                Ok(()) => {}
                Err(Dropped::Busy) => self.refuse(key, RefusalReason::Busy),
                // The copy before it may be applied, so a refusal would be wrong.
                Err(Dropped::Copy) => {
                    pending.entry(key).and_modify(|count| *count -= 1);
                }
            }
            return None;
        }
        // The write must not be applied at an outdated time.
        if request.kind == RequestKind::Write
            && self.replica.accepts_writes()
            && let Err(Dropped::Busy) = self.before_last_piece(&mut request, None)
        {
            self.refuse(key, RefusalReason::Busy);
            return None;
        }
        Some(Msg::Client(request))
    }

    /// Proposes the marks and reports of the state comparison that are due. If this replica is not
    /// the leader, adds them to `forwards`, with this replica and the leader.
    fn compare_states(
        &mut self,
        schedule: &mut DigestSchedule,
        forwards: &mut Vec<(NodeId, NodeId, ClientRequest)>,
    ) {
        // Earlier versions do not know these operations.
        if self.replica.feature_level() < FeatureLevel::V0_2 {
            return;
        }
        let (me, leads) = (self.replica.id(), self.replica.is_leader());
        let leader = self.replica.leader();
        let can_act = if leads { self.replica.accepts_writes() } else { leader.is_some() };
        if !can_act {
            return;
        }
        while let Some(operation) = schedule.next(self.now, me, leads) {
            let key = RequestKey::default();
            let payload = Batch::encode(key, false, &[operation]);
            let request = ClientRequest { key, kind: RequestKind::Write, payload };
            if let Some(leader) = leader.filter(|_| !leads) {
                forwards.push((me, leader, request));
            } else if record_bytes(&request.payload) < self.replica.append_budget() {
                self.replica.handle_msg(self.now, Msg::Client(request), self.out);
            }
        }
    }
}

impl PieceAppender for LeaderDriver<'_> {
    fn replica(&self) -> &Replica {
        self.replica
    }

    fn has_space(&self, _is_uncommitted: bool) -> bool {
        true
    }

    fn before_last_piece(
        &mut self,
        _request: &mut ClientRequest,
        _since: Option<Index>,
    ) -> Result<(), Dropped> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        let Some(entry) = gate.before_write(self.now) else { return Ok(()) };
        let is_appended = append_clock_entry(gate, self.replica, self.now, entry, self.out);
        if is_appended { Ok(()) } else { Err(Dropped::Busy) }
    }

    fn propose(&mut self, piece: ClientRequest) -> Option<RefusalReason> {
        let (key, refusal_count) = (piece.key, self.out.refusals.len());
        self.replica.handle_msg(self.now, Msg::Client(piece), self.out);
        if self.replica.breaks(Mutant::RefuseCompletedWrite) && key != RequestKey::default() {
            return Some(RefusalReason::NotLeader);
        }
        let is_refused = self.out.refusals.len() > refusal_count;
        is_refused.then(|| self.out.refusals.pop())?.map(|refusal| refusal.reason)
    }

    fn refuse(&mut self, key: RequestKey, reason: RefusalReason) {
        // Does not name the last known leader: a client could be redirected back and forth between
        // two followers.
        let leader = self.replica.leader();
        self.out.refusals.push(Refusal { key, reason, leader });
    }
}

/// Appends an entry that advances the replicated clock, on a leader that accepts writes. Returns
/// false, without appending it, if the limit on uncommitted bytes would then leave no space for a
/// client's write. The server's core stage works in the same way.
fn append_clock_entry(
    gate: &mut ClockGate,
    replica: &mut Replica,
    now: Instant,
    entry: ClientRequest,
    out: &mut Effects,
) -> bool {
    let is_affordable = record_bytes(&entry.payload) < replica.append_budget();
    if is_affordable {
        replica.handle_msg(now, Msg::Client(entry), out);
    } else {
        gate.proposal_refused(now);
    }
    is_affordable
}

/// Returns the sender and term of an `AppendEntries` message; `None` for any other message.
fn sender_of_append(message: &Msg) -> Option<(NodeId, Term)> {
    match message {
        Msg::Peer(Envelope { from, message: PeerMsg::AppendEntries(append), .. }) => {
            Some((*from, append.term))
        }
        _ => None,
    }
}
