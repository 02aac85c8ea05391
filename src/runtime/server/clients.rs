//! The door for Redis clients: reads what they send, asks `redis` what it means, hands on what the
//! core has to answer, and keeps every reply in its place until it can be sent.
//!
//! Everything here is bounded: what one client may be owed, what it may leave unread, and what all
//! requests together hold. Beyond that the door stops reading, and the clients' own sockets fill.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::kv::Outcome;
use crate::redis::{Buffered, ClientList, Connection, Context, Settings, Step};
use crate::runtime::status::Counts;
use crate::types::{ClientId, Index, Instant, RequestKey};
use crate::wire::resp::{Limits, Parser, Version, Writer};

use super::client::{Client, Pending, Reason};
use super::flights::{Flight, Flights};
use super::slab::Slab;
use super::socket::{Arrived, Socket};

/// Bytes of requests that wait for their answers, all clients together, beyond which none is read.
const HELD_BYTES_MAX: usize = 64 << 20;
/// An input buffer that has grown beyond this is given back when it is empty.
const INPUT_KEPT_BYTES: usize = 64 << 10;

/// How long a client waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a leader, before its request is refused.
    pub leader_wait: Duration,
    /// For the outcome of a write that was handed on, before it is told that nobody knows.
    pub command_deadline: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { leader_wait: Duration::from_secs(2), command_deadline: Duration::from_secs(4) }
    }
}

/// All clients.
pub(super) struct Clients {
    connected: Slab<Client>,
    flights: Flights,
    first_token: usize,
    next_id: u32,
    count_max: usize,
    patience: Patience,
    settings: Settings,
    /// The facts that replies are made of.
    pub(super) context: Context,
    held_bytes: usize,
    /// Places to visit: with something to read or to parse, to hand on, to write.
    to_read: Vec<usize>,
    to_dispatch: Vec<usize>,
    to_flush: Vec<usize>,
    /// For replies that have to wait behind others.
    aside: BytesMut,
    counts: Arc<Counts>,
}

impl Clients {
    pub(super) fn new(
        flights: Flights,
        first_token: usize,
        clients_max: usize,
        patience: Patience,
        context: Context,
        settings: Settings,
        counts: Arc<Counts>,
    ) -> Clients {
        Clients {
            connected: Slab::default(),
            flights,
            first_token,
            next_id: 1,
            count_max: clients_max,
            patience,
            settings,
            context,
            held_bytes: 0,
            to_read: Vec::new(),
            to_dispatch: Vec::new(),
            to_flush: Vec::new(),
            aside: BytesMut::new(),
            counts,
        }
    }

    /// Takes a client in; if there are too many, it is told so.
    pub(super) fn accept(&mut self, stream: TcpStream, now: Instant, registry: &Registry) {
        let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let token = Token(self.first_token + self.connected.next_place());
        let Ok(mut socket) = Socket::new(stream, registry, token, true) else { return };
        if self.connected.len() >= self.count_max {
            self.counts.clients_refused.add_one();
            Writer::new(socket.outbox.open(), Version::Two)
                .error(b"ERR max number of clients reached");
            // It takes that or not; there is no room to wait for it.
            let _ = socket.flush();
            socket.close(registry);
            return;
        }
        self.counts.clients_accepted.add_one();
        let id = ClientId(self.next_id);
        // Never 0: that is who asks for a read index.
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let connection = Connection::new(self.counts.clients_accepted.get(), address, local, now);
        let parser = Parser::new(Limits::default());
        let place = self.connected.insert(Client::new(id, socket, connection, parser));
        mark(&mut self.connected, &mut self.to_read, place, |client| &mut client.marks.read);
    }

    /// Notes an event of one of the tokens.
    pub(super) fn wake(&mut self, token: usize, event: &mio::event::Event) {
        let place = token - self.first_token;
        let Some(client) = self.connected.get_mut(place) else { return };
        client.socket.wake(event);
        let (reads, flushes) = (client.is_readable(), client.socket.can_flush());
        if reads {
            mark(&mut self.connected, &mut self.to_read, place, |client| &mut client.marks.read);
        }
        if flushes {
            mark(&mut self.connected, &mut self.to_flush, place, |client| &mut client.marks.flush);
        }
    }

    /// Whether there is something to read, and room for it.
    pub(super) fn is_readable(&self) -> bool {
        !self.to_read.is_empty() && self.held_bytes < HELD_BYTES_MAX
    }

    /// Whether something can be written at once.
    pub(super) fn is_writable(&self) -> bool {
        !self.to_flush.is_empty()
    }

    /// One pass in: every client that has something gets its turn, once.
    pub(super) fn receive(&mut self, registry: &Registry, space: &mut [u8]) {
        if !self.is_readable() {
            return;
        }
        for place in std::mem::take(&mut self.to_read) {
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.read = false;
            self.read(place, registry, space);
        }
    }

    fn read(&mut self, place: usize, registry: &Registry, space: &mut [u8]) {
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        // What is there already first: it may be why nothing more was read.
        if !client.may_parse() {
            return;
        }
        if client.is_readable() {
            match client.socket.read(space) {
                Arrived::Some(count) => {
                    client.input.extend_from_slice(&space[..count]);
                    self.context.traffic.bytes_in += count as u64;
                }
                Arrived::Drained => {}
                // Whoever sends no more may still want its replies.
                Arrived::Closed if client.is_owed_nothing() && client.input.is_empty() => {
                    self.close(place, registry);
                    return;
                }
                Arrived::Closed => client.ended = true,
            }
        }
        let stopped = self.parse(place);
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        let again = client.may_parse() && (client.is_readable() || stopped);
        let waiting = client.has_waiting();
        if again {
            mark(&mut self.connected, &mut self.to_read, place, |client| &mut client.marks.read);
        }
        if waiting {
            mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                &mut client.marks.dispatch
            });
        }
        mark(&mut self.connected, &mut self.to_flush, place, |client| &mut client.marks.flush);
    }

    /// Understands every whole request there is, as far as there is room for it. True if it was
    /// stopped by what other clients hold.
    fn parse(&mut self, place: usize) -> bool {
        let mut used = 0;
        let mut stopped = false;
        loop {
            let client = self.connected.get_mut(place).expect("it was found a moment ago");
            if !client.may_parse() {
                break;
            }
            if self.held_bytes >= HELD_BYTES_MAX {
                stopped = true;
                break;
            }
            let key = self.flights.next_key(client.id);
            let Client { parser, connection, input, .. } = client;
            let request = match parser.next(input, &mut used) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    // Half a request will never be whole.
                    client.closing |= client.ended;
                    break;
                }
                Err(error) => {
                    Writer::new(&mut self.aside, connection.version())
                        .error(error.to_string().as_bytes());
                    self.counts.clients_closed.add_one();
                    client.closing = true;
                    self.reply(place);
                    break;
                }
            };
            self.context.traffic.commands += 1;
            let step = connection.execute(
                request,
                key,
                &self.context,
                &mut self.settings,
                &mut self.aside,
            );
            match step {
                Step::Done => self.reply(place),
                Step::Submit { kind, payload, shape } => {
                    let slot = client.next_slot();
                    let arrived = self.context.now;
                    let id = client.id;
                    let sequence = self.flights.add(Flight { place, client: id, slot, arrived });
                    self.held_bytes += payload.len();
                    client.push_pending(Pending {
                        kind,
                        payload,
                        shape,
                        sequence,
                        since: Index::ZERO,
                    });
                }
                Step::ListClients(query) => {
                    let mut list = ClientList::new(query);
                    for (_, client) in self.connected.iter_mut() {
                        let incoming = client.input.len();
                        let buffered = Buffered { incoming, outgoing: client.socket.outbox.len() };
                        list.add(&client.connection, &self.context, buffered);
                    }
                    list.finish(&mut self.aside);
                    self.reply(place);
                }
                Step::Close => {
                    client.closing = true;
                    self.reply(place);
                }
            }
        }
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        client.input.advance(used);
        if client.input.is_empty() && client.input.capacity() > INPUT_KEPT_BYTES {
            client.input = BytesMut::new();
        }
        stopped
    }

    /// Sends what is in `aside`, behind what is owed before it.
    fn reply(&mut self, place: usize) {
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        if client.is_owed_nothing() {
            client.socket.outbox.open().extend_from_slice(&self.aside);
            self.aside.clear();
        } else {
            client.push_reply(self.aside.split().freeze());
        }
    }

    /// Hands on what may go now. `send` says whether it took a request; if not, the rest waits.
    pub(super) fn dispatch(
        &mut self,
        forwarded: bool,
        mut send: impl FnMut(RequestKey, &Pending) -> bool,
    ) {
        let mut refused = false;
        for place in std::mem::take(&mut self.to_dispatch) {
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.dispatch = false;
            let origin = self.flights.origin();
            if !refused {
                let since = self.context.applied_index;
                client.dispatch(forwarded, since, |id, pending| {
                    let request = super::flights::request_id(origin, pending.sequence);
                    refused = !send(RequestKey { client: id, request }, pending);
                    !refused
                });
            }
            // Those that wait for answers of their own are back here when these come.
            if refused && client.has_waiting() {
                mark(&mut self.connected, &mut self.to_dispatch, place, |there| {
                    &mut there.marks.dispatch
                });
            }
        }
    }

    /// Writes that were handed to another replica and have no answer, in their order, to be handed
    /// on again: somebody else leads now, or the way to the leader was broken.
    pub(super) fn again(&mut self) -> Vec<(RequestKey, Pending)> {
        let mut again = Vec::new();
        for (sequence, flight) in self.flights.since(Instant::MAX) {
            let client = self.connected.get_mut(flight.place);
            let pending = client
                .filter(|client| client.id == flight.client)
                .and_then(|client| client.again(flight.slot));
            if let Some(pending) = pending {
                let request = super::flights::request_id(self.flights.origin(), sequence);
                again.push((RequestKey { client: flight.client, request }, pending));
            }
        }
        again
    }

    /// Whether something waits to be handed on.
    pub(super) fn has_waiting(&self) -> bool {
        !self.to_dispatch.is_empty()
    }

    /// An outcome has come.
    pub(super) fn answer(&mut self, key: RequestKey, outcome: Outcome) {
        if let Some(flight) = self.flights.get(key) {
            self.complete(flight, key, Ok(outcome));
        }
    }

    /// Too much is under way where a request was handed on. Not the last word if there are other
    /// copies of it.
    pub(super) fn busy(&mut self, key: RequestKey) {
        let Some(flight) = self.flights.get(key) else { return };
        let client = self.connected.get_mut(flight.place);
        if client.is_some_and(|client| client.id == key.client && !client.has_copies(flight.slot)) {
            self.fail(key, Reason::Busy);
        }
    }

    /// No outcome will come.
    pub(super) fn fail(&mut self, key: RequestKey, reason: Reason) {
        match reason {
            Reason::Uncertain => self.counts.uncertain.add_one(),
            Reason::NoLeader => self.counts.cluster_down.add_one(),
            Reason::Refused | Reason::Busy => {}
        }
        if let Some(flight) = self.flights.get(key) {
            self.complete(flight, key, Err(reason));
        }
    }

    fn complete(&mut self, flight: Flight, key: RequestKey, result: Result<Outcome, Reason>) {
        self.flights.remove(super::flights::parts_of(key.request).1);
        let place = flight.place;
        let Some(client) = self.connected.get_mut(place).filter(|there| there.id == flight.client)
        else {
            return;
        };
        let before = client.held_bytes();
        client.complete(flight.slot, result);
        self.held_bytes -= before - client.held_bytes();
        let waiting = client.has_waiting();
        let unread = client.wants_a_look();
        mark(&mut self.connected, &mut self.to_flush, place, |client| &mut client.marks.flush);
        if waiting {
            mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                &mut client.marks.dispatch
            });
        }
        if unread {
            mark(&mut self.connected, &mut self.to_read, place, |client| &mut client.marks.read);
        }
    }

    /// Requests that were handed on and certainly not done wait again, but for those that others
    /// of the same client have overtaken: those are refused.
    pub(super) fn take_back(&mut self, keys: &[RequestKey]) {
        let mut places = Vec::new();
        for key in keys {
            let Some(flight) = self.flights.get(*key) else { continue };
            let Some(client) =
                self.connected.get_mut(flight.place).filter(|there| there.id == flight.client)
            else {
                continue;
            };
            client.take_back(flight.slot);
            places.push(flight.place);
        }
        places.sort_unstable();
        places.dedup();
        for place in places {
            let Some(client) = self.connected.get_mut(place) else { continue };
            let id = client.id;
            let origin = self.flights.origin();
            for sequence in client.overtaken() {
                let request = super::flights::request_id(origin, sequence);
                self.fail(RequestKey { client: id, request }, Reason::Refused);
            }
            mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                &mut client.marks.dispatch
            });
        }
    }

    /// When [`Clients::expire`] has something to do, at the earliest.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.flights.oldest().map(|arrived| arrived + self.patience.leader_wait)
    }

    /// Answers those that have waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let back = |span: Duration| {
            Instant(now.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
        };
        let deadline = back(self.patience.command_deadline);
        for (sequence, flight) in self.flights.since(back(self.patience.leader_wait)) {
            let request = super::flights::request_id(self.flights.origin(), sequence);
            let key = RequestKey { client: flight.client, request };
            let client = self.connected.get_mut(flight.place);
            let Some(client) = client.filter(|there| there.id == flight.client) else {
                self.flights.remove(sequence);
                continue;
            };
            if client.is_waiting(flight.slot) {
                // Behind a request of its own that flies it waits as long as that.
                if !client.is_flying() || flight.arrived <= deadline {
                    self.fail(key, Reason::NoLeader);
                }
            } else if flight.arrived <= deadline {
                let write = client.is_flying_write(flight.slot);
                self.fail(key, if write { Reason::Uncertain } else { Reason::NoLeader });
            }
        }
    }

    /// Writes what waits, one write a client, and closes who is done or floods itself.
    pub(super) fn flush(&mut self, registry: &Registry) {
        for place in std::mem::take(&mut self.to_flush) {
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.flush = false;
            let before = client.socket.outbox.len();
            let failed = client.socket.can_flush() && client.socket.flush().is_err();
            let sent = before - client.socket.outbox.len();
            self.context.traffic.bytes_out += sent as u64;
            // What waited for room in the outbox goes with the next pass, so that a client with
            // much to read does not keep the others waiting.
            client.settle();
            let again = client.socket.can_flush();
            if failed || client.is_finished() {
                self.close(place, registry);
                continue;
            }
            if again {
                mark(&mut self.connected, &mut self.to_flush, place, |client| {
                    &mut client.marks.flush
                });
            }
            let client = self.connected.get_mut(place).expect("it is open");
            let unread = client.wants_a_look();
            if before > 0 && unread {
                mark(&mut self.connected, &mut self.to_read, place, |client| {
                    &mut client.marks.read
                });
            }
        }
    }

    fn close(&mut self, place: usize, registry: &Registry) {
        let Some(mut client) = self.connected.remove(place) else { return };
        client.socket.close(registry);
        self.held_bytes -= client.held_bytes();
        for sequence in client.unanswered() {
            self.flights.remove(sequence);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.connected.len()
    }

    /// Whether a request came in here.
    pub(super) fn is_own(&self, key: RequestKey) -> bool {
        self.flights.is_own(key)
    }
}

/// Puts a client on a list, once.
fn mark(
    clients: &mut Slab<Client>,
    list: &mut Vec<usize>,
    place: usize,
    flag: impl FnOnce(&mut Client) -> &mut bool,
) {
    if let Some(client) = clients.get_mut(place)
        && !std::mem::replace(flag(client), true)
    {
        list.push(place);
    }
}
