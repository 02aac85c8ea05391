//! One client's connection: what it asked, in order, and how far each of it has come.
//!
//! Replies leave in the order of the requests. What of a connection is under way at one time is
//! all reads or all writes: a read sees every write before it on the same connection, and none
//! after it, though reads take another way through the cluster than writes do.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{Connection, Failure, ReplyFormat};
use crate::types::{ClientId, Index, Instant};
use crate::wire::resp::Parser;

use super::flights::Flight;
use super::socket::Socket;

/// Replies that may be owed to one client; what it asks beyond that is not read.
const SLOTS_MAX: usize = 1_024;
/// Places for replies that are kept when none is owed.
const SLOTS_KEPT: usize = 16;

/// How much one client may be owed, which depends on how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// Bytes of replies that wait for a client to read them before no more of its requests are
    /// looked at, nor handed on.
    pub(super) output_bytes: usize,
    /// Most bytes of one reply.
    pub(super) reply_bytes: usize,
}

/// A request for the core.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) kind: RequestKind,
    pub(super) payload: Bytes,
    pub(super) reply_format: ReplyFormat,
    /// Its number, in its key.
    pub(super) sequence: u64,
    /// How far the state here had come when it was handed on; its entry comes later.
    pub(super) since: Index,
    /// The slot of its key, if the client wants to hear who leads rather than to be forwarded.
    pub(super) redirect_slot: Option<u16>,
}

/// How far a request has come.
#[derive(Debug)]
enum State {
    /// Not handed on: nothing was done.
    Waiting(Pending),
    /// Handed on: it may be done.
    Flying(Pending),
    /// Here is its reply.
    Done(Reply),
}

/// A reply that can't be sent yet. Written out only when it can be: a client that asks for much
/// and reads little shares the values with the store until then, and costs no time.
#[derive(Debug)]
pub(super) enum Reply {
    /// As it is sent.
    Written(Bytes),
    /// What came of a request.
    Outcome(ReplyFormat, Outcome),
    /// Nothing came of it.
    Failure(Reason),
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// When it was first handed on. What comes after it must not come before it.
    handed_on: Option<Instant>,
    /// It was handed to another replica.
    forwarded: bool,
    /// More than one copy of it was handed on: that one of them was refused says nothing any more.
    again: bool,
}

/// One connection.
///
/// Invariant: slot number `front + n` is at `slots[n]`; no slot before `next` is waiting; `flying`
/// counts the flying ones, all of which are of `flying_kind`; `request_bytes` and `reply_bytes` are
/// the sums over all slots.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) socket: Socket,
    pub(super) connection: Connection,
    pub(super) parser: Parser,
    /// Read and not understood yet.
    pub(super) input: BytesMut,
    slots: VecDeque<Slot>,
    front: u64,
    next: u64,
    flying: usize,
    flying_kind: RequestKind,
    /// Most that may fly: less when so many replies came at once that there was no room for them.
    window: usize,
    /// Replies have come for which there was no room, so nothing is handed on before all that flies
    /// is back.
    landing: bool,
    /// When an outcome last came, or room for one.
    progressed: Instant,
    /// When bytes last went either way.
    pub(super) heard: Instant,
    /// When the request began that is not whole yet.
    pub(super) half_since: Option<Instant>,
    /// What it may be owed, as of the last look.
    pub(super) room: Room,
    /// The slot of the reply that it waits for before any later request is looked at.
    pub(super) held_by: Option<u64>,
    /// The client sends no more.
    pub(super) ended: bool,
    /// No request is looked at any more; the connection ends when all replies are sent.
    pub(super) closing: bool,
    /// Bytes of requests in slots.
    request_bytes: usize,
    /// Bytes that the replies in slots will have.
    reply_bytes: usize,
    /// What it counted for when the memory of all clients was last added up.
    pub(super) counted_bytes: usize,
    pub(super) marks: Marks,
}

/// On which of the door's lists a client is.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// To be read from.
    pub(super) read: bool,
    /// To have its requests handed on.
    pub(super) dispatch: bool,
    /// To be written to.
    pub(super) flush: bool,
}

/// What became of a reply that was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// Refused for certain: it may be tried again.
    Refused,
    /// Too much is under way.
    Busy,
    /// Disks are short of room.
    DiskFull,
    /// The leader's memory is full.
    OutOfMemory,
    /// Nobody leads.
    NoLeader,
    /// Its fate is not known.
    Uncertain,
}

impl Slot {
    fn new(state: State) -> Slot {
        Slot { state, handed_on: None, forwarded: false, again: false }
    }

    /// From waiting to flying, its request moved and not copied.
    fn take_off(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Done(Reply::Written(Bytes::new())));
        self.state = match state {
            State::Waiting(pending) => State::Flying(pending),
            other => other,
        };
    }
}

impl Client {
    pub(super) fn new(
        id: ClientId,
        socket: Socket,
        connection: Connection,
        parser: Parser,
        now: Instant,
        room: Room,
    ) -> Client {
        Client {
            id,
            socket,
            connection,
            parser,
            input: BytesMut::new(),
            slots: VecDeque::new(),
            front: 0,
            next: 0,
            flying: 0,
            flying_kind: RequestKind::Read,
            window: SLOTS_MAX,
            landing: false,
            progressed: now,
            heard: now,
            half_since: None,
            room,
            held_by: None,
            ended: false,
            closing: false,
            request_bytes: 0,
            reply_bytes: 0,
            counted_bytes: 0,
            marks: Marks::default(),
        }
    }

    /// Whether another request may be looked at.
    pub(super) fn may_parse(&self) -> bool {
        !self.closing
            && self.held_by.is_none()
            && self.slots.len() < SLOTS_MAX
            && !self.is_crowded()
    }

    /// Whether as many replies wait as there is room for: for the client to read them, or for
    /// others that come before them.
    pub(super) fn is_crowded(&self) -> bool {
        self.socket.outbox.len() + self.reply_bytes >= self.room.output_bytes
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Client>()
            + self.input.capacity()
            + self.parser.held_bytes()
            + self.request_bytes
            + self.reply_bytes
            + self.slots.capacity() * (size_of::<Slot>() + size_of::<Option<Flight>>())
            + self.socket.outbox.held_bytes()
            + self.connection.held_bytes()
    }

    /// Whether a look at what it sends may find something.
    pub(super) fn wants_a_look(&self) -> bool {
        self.may_parse() && (self.is_readable() || !self.input.is_empty())
    }

    /// Whether a read may find something.
    pub(super) fn is_readable(&self) -> bool {
        self.socket.is_readable() && !self.ended
    }

    /// Whether something of it is handed on and not answered.
    pub(super) fn is_flying(&self) -> bool {
        self.flying > 0
    }

    /// Whether it has all its replies, and no more will come.
    pub(super) fn is_finished(&self) -> bool {
        self.closing && self.slots.is_empty() && self.socket.outbox.is_empty()
    }

    /// Whether something waits to be handed on.
    pub(super) fn has_waiting(&self) -> bool {
        self.next < self.front + self.slots.len() as u64
    }

    /// The number of the next slot.
    pub(super) fn next_slot(&self) -> u64 {
        self.front + self.slots.len() as u64
    }

    /// A request that the core has to answer.
    pub(super) fn push_pending(&mut self, pending: Pending) {
        self.request_bytes += pending.payload.len();
        self.slots.push_back(Slot::new(State::Waiting(pending)));
    }

    /// Whether a reply may leave at once, for none is owed before it.
    pub(super) fn is_owed_nothing(&self) -> bool {
        self.slots.is_empty()
    }

    /// A reply that was there at once, but behind others.
    pub(super) fn push_reply(&mut self, reply: Bytes) {
        self.reply_bytes += reply.len();
        self.slots.push_back(Slot::new(State::Done(Reply::Written(reply))));
        self.settle();
    }

    /// Hands on what may go now, oldest first; `send` says whether it took it. `forwarded` tells
    /// whether it goes to another replica, `since` how far the state here has come.
    pub(super) fn dispatch(
        &mut self,
        forwarded: bool,
        since: Index,
        now: Instant,
        mut send: impl FnMut(ClientId, &Pending) -> bool,
    ) {
        while let Some(at) = self.at(self.next).filter(|at| *at < self.slots.len()) {
            let room = self.has_room_for(self.next);
            let slot = &mut self.slots[at];
            if let State::Waiting(pending) = &mut slot.state {
                let other_kind = self.flying > 0 && self.flying_kind != pending.kind;
                if other_kind || self.landing || self.flying >= self.window || !room {
                    return;
                }
                pending.since = since;
                if !send(self.id, pending) {
                    return;
                }
                self.flying += 1;
                self.flying_kind = pending.kind;
                slot.handed_on.get_or_insert(now);
                slot.forwarded = forwarded;
                slot.take_off();
            }
            self.next += 1;
        }
    }

    /// Whether there is room for a reply. The one that all others wait for needs only what it is
    /// itself sent through.
    fn has_room_for(&self, slot: u64) -> bool {
        !self.is_crowded()
            || slot == self.front && self.socket.outbox.len() < self.room.output_bytes
    }

    /// Gives a request its outcome. False if it had a reply already, or if it is a read that there
    /// is no room for: it is done again when there is.
    pub(super) fn answer(&mut self, slot: u64, outcome: Outcome, now: Instant) -> bool {
        let Some(at) = self.at(slot).filter(|at| *at < self.slots.len()) else { return false };
        let (reply_format, kind, put_back) = match &self.slots[at].state {
            State::Waiting(pending) => (&pending.reply_format, pending.kind, false),
            State::Flying(pending) => {
                let none_later = self.slots.range(at + 1..).all(|later| {
                    later.handed_on.is_none() || !matches!(later.state, State::Done(_))
                });
                let no_room = self.landing || !self.has_room_for(slot);
                let reads = pending.kind == RequestKind::Read;
                // Not behind the back of a later one, which was answered from an older state.
                (&pending.reply_format, pending.kind, no_room && reads && none_later)
            }
            State::Done(_) => return false,
        };
        if !self.landing && self.is_crowded() {
            self.window = (self.window / 2).max(1);
        }
        self.progressed = now;
        if put_back {
            self.landing = true;
            self.take_back(slot);
            // As if it had never been: it waits for its own client, and for nobody's lead.
            self.slots[at].handed_on = None;
            return false;
        }
        let bytes = reply_format.reply_bytes(&outcome);
        let reply = if bytes > self.room.reply_bytes {
            let most = self.room.reply_bytes;
            // Who hears any other error takes it that nothing was done.
            let code = match kind {
                RequestKind::Read => "ERR",
                RequestKind::Write => "UNCERTAIN applied, but",
            };
            let text = format!("-{code} the reply has {bytes} bytes, where {most} are allowed\r\n");
            Reply::Written(text.into())
        } else if self.held_by == Some(slot) {
            let (reply_format, mut out) = (reply_format.clone(), BytesMut::new());
            self.connection.complete_blocked(&reply_format, &outcome, &mut out);
            Reply::Written(out.freeze())
        } else {
            Reply::Outcome(reply_format.clone(), outcome)
        };
        self.finish(slot, reply)
    }

    /// The payload of a request that has no reply.
    pub(super) fn payload(&self, slot: u64) -> Option<&Bytes> {
        match &self.slots.get(self.at(slot)?)?.state {
            State::Waiting(pending) | State::Flying(pending) => Some(&pending.payload),
            State::Done(_) => None,
        }
    }

    /// Since when a request that has no reply was or could have been handed on.
    pub(super) fn under_way_since(&self, slot: u64, arrived: Instant) -> Option<Instant> {
        let there = self.slots.get(self.at(slot)?)?;
        let done = matches!(there.state, State::Done(_));
        (!done).then(|| there.handed_on.unwrap_or(arrived))
    }

    /// Tells why a request has no outcome. False if it had a reply already.
    pub(super) fn fail(&mut self, slot: u64, reason: Reason) -> bool {
        self.finish(slot, Reply::Failure(reason))
    }

    /// Gives a request its reply. False if it had one.
    pub(super) fn finish(&mut self, slot: u64, reply: Reply) -> bool {
        let Some(there) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else {
            return false;
        };
        let (pending, flying) = match &there.state {
            State::Waiting(pending) => (pending, false),
            State::Flying(pending) => (pending, true),
            State::Done(_) => return false,
        };
        let muted = pending.reply_format.is_muted();
        let reply = if muted { Reply::Written(Bytes::new()) } else { reply };
        self.request_bytes -= pending.payload.len();
        self.reply_bytes += reply.bytes();
        there.state = State::Done(reply);
        if self.held_by == Some(slot) {
            self.held_by = None;
            // Nothing to give up where its reply was what was waited for.
            self.connection.cancel_blocked();
        }
        if flying {
            self.land();
        }
        self.settle();
        true
    }

    /// One less flies.
    fn land(&mut self) {
        self.flying -= 1;
        if self.flying == 0 && !std::mem::take(&mut self.landing) && !self.is_crowded() {
            self.window = (self.window * 2).min(SLOTS_MAX);
        }
    }

    /// A request that was handed on, and that certainly was not and will not be done, waits again.
    pub(super) fn take_back(&mut self, slot: u64) {
        let Some(there) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else { return };
        if let State::Flying(pending) = &there.state
            && !there.again
        {
            there.state = State::Waiting(pending.clone());
            self.next = self.next.min(slot);
            self.land();
        }
    }

    /// The slots that were taken back but behind which others are done or may be: to do them now
    /// would turn the order of this client's requests around.
    pub(super) fn overtaken(&self) -> Vec<u64> {
        let mut overtaken = Vec::new();
        let mut passed = false;
        for (at, slot) in self.slots.iter().enumerate().rev() {
            match &slot.state {
                State::Waiting(_) if passed && slot.handed_on.is_some() => {
                    overtaken.push(self.front + at as u64);
                }
                State::Waiting(_) => {}
                State::Flying(_) | State::Done(_) => passed |= slot.handed_on.is_some(),
            }
        }
        overtaken
    }

    /// How long a request has waited, if its patience is counted at all. From when it could have
    /// been handed on: those before it on this connection take their time, too. A client that does
    /// not read its replies waits for nobody but itself.
    pub(super) fn wait(&self, slot: u64, arrived: Instant) -> Option<Wait> {
        let there = self.at(slot).and_then(|at| self.slots.get(at))?;
        let since = there.handed_on.unwrap_or(arrived.max(self.progressed));
        match &there.state {
            State::Waiting(_) if there.handed_on.is_none() && self.is_crowded() => None,
            State::Waiting(_) => Some(Wait::Waiting { since, behind_own: self.flying > 0 }),
            State::Flying(pending) => {
                let write = pending.kind == RequestKind::Write;
                Some(Wait::Flying { since: since.max(self.progressed), write })
            }
            State::Done(_) => None,
        }
    }

    /// Room for replies has come back.
    pub(super) fn has_room_again(&mut self, now: Instant) {
        self.progressed = now;
    }

    /// Requests that wait and whose client wants to hear who leads, with their keys' slots.
    pub(super) fn to_redirect(&self) -> Vec<(u64, u64, u16)> {
        let waiting =
            (self.front..).zip(&self.slots).filter_map(|(number, slot)| match &slot.state {
                State::Waiting(pending) => Some((number, pending.sequence, pending.redirect_slot?)),
                State::Flying(_) | State::Done(_) => None,
            });
        waiting.collect()
    }

    /// A write that was handed to another replica and has no answer, to be sent again: from now on
    /// there is more than one copy of it.
    pub(super) fn again(&mut self, slot: u64) -> Option<Pending> {
        let at = self.at(slot)?;
        let there = self.slots.get_mut(at).filter(|slot| slot.forwarded)?;
        match &there.state {
            State::Flying(pending) if pending.kind == RequestKind::Write => {
                there.again = true;
                Some(pending.clone())
            }
            _ => None,
        }
    }

    /// Whether more than one copy of a request was handed on.
    pub(super) fn has_copies(&self, slot: u64) -> bool {
        self.at(slot).and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.again)
    }

    /// The requests that have no reply yet.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            State::Waiting(pending) | State::Flying(pending) => Some(pending.sequence),
            State::Done(_) => None,
        })
    }

    /// Where in `slots` a slot is, unless its reply has left.
    fn at(&self, slot: u64) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.front)?).ok()
    }

    /// Writes out the replies that nothing is owed before, while not too many wait to be read.
    pub(super) fn settle(&mut self) {
        while self.socket.outbox.len() < self.room.output_bytes
            && let Some(Slot { state: State::Done(_), .. }) = self.slots.front()
            && let Some(Slot { state: State::Done(reply), .. }) = self.slots.pop_front()
        {
            self.reply_bytes -= reply.bytes();
            match reply {
                Reply::Written(bytes) => self.socket.outbox.push(&bytes),
                Reply::Outcome(reply_format, outcome) => {
                    reply_format.encode(&outcome, self.socket.outbox.open());
                }
                Reply::Failure(reason) => reason.failure().encode(self.socket.outbox.open()),
            }
            self.front += 1;
        }
        self.next = self.next.max(self.front);
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
    }
}

/// How long a request waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// To be handed on.
    Waiting {
        /// Since then.
        since: Instant,
        /// One of the same client is handed on, and has to be answered first.
        behind_own: bool,
    },
    /// For its outcome.
    Flying {
        /// Since then.
        since: Instant,
        /// Whether it is a write.
        write: bool,
    },
}

impl Reply {
    /// How many bytes are sent.
    fn bytes(&self) -> usize {
        match self {
            Reply::Written(bytes) => bytes.len(),
            Reply::Outcome(reply_format, outcome) => reply_format.reply_bytes(outcome),
            Reply::Failure(_) => 0,
        }
    }
}

impl Reason {
    /// What the client is told.
    pub(super) fn failure(self) -> Failure<'static> {
        match self {
            Reason::Refused => Failure::Lost,
            Reason::Busy => Failure::Busy,
            Reason::DiskFull => Failure::DiskFull,
            Reason::OutOfMemory => Failure::OutOfMemory,
            Reason::NoLeader => Failure::NoLeader,
            Reason::Uncertain => Failure::Uncertain { index: None },
        }
    }
}
