//! One client's connection: what it asked, in order, and how far each of it has come.
//!
//! Replies leave in the order of the requests. What of a connection is under way at one time is
//! all reads or all writes: a read sees every write before it on the same connection, and none
//! after it, though reads take another way through the cluster than writes do.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{Connection, Failure, Shape};
use crate::types::{ClientId, Index};
use crate::wire::resp::Parser;

use super::socket::Socket;

/// Replies that may be owed to one client; what it asks beyond that is not read.
const SLOTS_MAX: usize = 1_024;
/// Bytes of replies that wait for a client to read them before no more of its requests are.
const OUTPUT_SOFT_MAX: usize = 1 << 20;

/// A request for the core.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) kind: RequestKind,
    pub(super) payload: Bytes,
    pub(super) shape: Shape,
    /// Its number, in its key.
    pub(super) sequence: u64,
    /// How far the state here had come when it was handed on; its entry comes later.
    pub(super) since: Index,
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
    Outcome(Shape, Outcome),
    /// Nothing came of it.
    Failure(Reason),
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// It was handed on at least once. What comes after it must not come before it.
    flew: bool,
    /// It was handed to another replica.
    forwarded: bool,
    /// More than one copy of it was handed on: that one of them was refused says nothing any more.
    again: bool,
}

/// One connection.
///
/// Invariant: slot number `front + n` is at `slots[n]`; no slot before `next` is waiting; `flying`
/// counts the flying ones, all of which are of `flying_kind`.
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
    /// The client sends no more.
    pub(super) ended: bool,
    /// No request is looked at any more; the connection ends when all replies are sent.
    pub(super) closing: bool,
    /// Bytes of requests in slots.
    held_bytes: usize,
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
    /// Nobody leads.
    NoLeader,
    /// Its fate is not known.
    Uncertain,
}

impl Slot {
    fn new(state: State) -> Slot {
        Slot { state, flew: false, forwarded: false, again: false }
    }
}

impl Client {
    pub(super) fn new(
        id: ClientId,
        socket: Socket,
        connection: Connection,
        parser: Parser,
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
            ended: false,
            closing: false,
            held_bytes: 0,
            marks: Marks::default(),
        }
    }

    /// Whether another request may be looked at.
    pub(super) fn may_parse(&self) -> bool {
        !self.closing && self.slots.len() < SLOTS_MAX && self.socket.outbox.len() < OUTPUT_SOFT_MAX
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

    /// Bytes of requests that wait for their answers here.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The number of the next slot.
    pub(super) fn next_slot(&self) -> u64 {
        self.front + self.slots.len() as u64
    }

    /// A request that the core has to answer.
    pub(super) fn push_pending(&mut self, pending: Pending) {
        self.held_bytes += pending.payload.len();
        self.slots.push_back(Slot::new(State::Waiting(pending)));
    }

    /// Whether a reply may leave at once, for none is owed before it.
    pub(super) fn is_owed_nothing(&self) -> bool {
        self.slots.is_empty()
    }

    /// A reply that was there at once, but behind others.
    pub(super) fn push_reply(&mut self, reply: Bytes) {
        self.slots.push_back(Slot::new(State::Done(Reply::Written(reply))));
        self.settle();
    }

    /// Hands on what may go now, oldest first; `send` says whether it took it. `forwarded` tells
    /// whether it goes to another replica, `since` how far the state here has come.
    pub(super) fn dispatch(
        &mut self,
        forwarded: bool,
        since: Index,
        mut send: impl FnMut(ClientId, &Pending) -> bool,
    ) {
        while let Some(slot) = self.at(self.next).and_then(|at| self.slots.get_mut(at)) {
            if let State::Waiting(pending) = &mut slot.state {
                if self.flying > 0 && self.flying_kind != pending.kind {
                    return;
                }
                if !send(self.id, pending) {
                    return;
                }
                self.flying += 1;
                self.flying_kind = pending.kind;
                pending.since = since;
                slot.flew = true;
                slot.forwarded = forwarded;
                slot.state = State::Flying(pending.clone());
            }
            self.next += 1;
        }
    }

    /// Gives a request its reply: its outcome, or why there is none. False if it had one.
    pub(super) fn complete(&mut self, slot: u64, result: Result<Outcome, Reason>) -> bool {
        let Some(at) = self.at(slot) else { return false };
        let Some(slot) = self.slots.get_mut(at) else { return false };
        let (pending, flying) = match &slot.state {
            State::Waiting(pending) => (pending, false),
            State::Flying(pending) => (pending, true),
            State::Done(_) => return false,
        };
        self.held_bytes -= pending.payload.len();
        self.flying -= usize::from(flying);
        let shape = pending.shape;
        slot.state = State::Done(match result {
            Ok(outcome) => Reply::Outcome(shape, outcome),
            Err(reason) => Reply::Failure(reason),
        });
        self.settle();
        true
    }

    /// A request that was handed on, and that certainly was not and will not be done, waits again.
    pub(super) fn take_back(&mut self, slot: u64) {
        let Some(there) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else { return };
        if let State::Flying(pending) = &there.state
            && !there.again
        {
            there.state = State::Waiting(pending.clone());
            self.flying -= 1;
            self.next = self.next.min(slot);
        }
    }

    /// The slots that were taken back but behind which others are done or may be: to do them now
    /// would turn the order of this client's requests around.
    pub(super) fn overtaken(&self) -> Vec<u64> {
        let mut overtaken = Vec::new();
        let mut passed = false;
        for (at, slot) in self.slots.iter().enumerate().rev() {
            match &slot.state {
                State::Waiting(_) if passed && slot.flew => overtaken.push(self.front + at as u64),
                State::Waiting(_) => {}
                State::Flying(_) | State::Done(_) => passed |= slot.flew,
            }
        }
        overtaken
    }

    /// Whether a request was not handed on, or only taken back.
    pub(super) fn is_waiting(&self, slot: u64) -> bool {
        self.at(slot)
            .and_then(|at| self.slots.get(at))
            .is_some_and(|slot| matches!(slot.state, State::Waiting(_)))
    }

    /// Whether a request that was handed on is a write.
    pub(super) fn is_flying_write(&self, slot: u64) -> bool {
        self.at(slot).and_then(|at| self.slots.get(at)).is_some_and(|slot| {
            matches!(&slot.state, State::Flying(pending) if pending.kind == RequestKind::Write)
        })
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
        while self.socket.outbox.len() < OUTPUT_SOFT_MAX
            && let Some(Slot { state: State::Done(_), .. }) = self.slots.front()
            && let Some(Slot { state: State::Done(reply), .. }) = self.slots.pop_front()
        {
            match reply {
                Reply::Written(bytes) => self.socket.outbox.push(&bytes),
                Reply::Outcome(shape, outcome) => {
                    shape.encode(&outcome, self.socket.outbox.open());
                }
                Reply::Failure(reason) => reason.failure().encode(self.socket.outbox.open()),
            }
            self.front += 1;
        }
        self.next = self.next.max(self.front);
    }
}

impl Reason {
    /// What the client is told.
    pub(super) fn failure(self) -> Failure<'static> {
        match self {
            Reason::Refused => Failure::Lost,
            Reason::Busy => Failure::Busy,
            Reason::NoLeader => Failure::NoLeader,
            Reason::Uncertain => Failure::Uncertain { index: None },
        }
    }
}
