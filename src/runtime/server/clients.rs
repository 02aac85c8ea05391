//! The door for Redis clients: reads what they send, asks `redis` what it means, hands on what the
//! core has to answer, and keeps every reply in its place until it can be sent.
//!
//! Everything here is bounded: what one client may be owed, what it may leave unread, and what all
//! of them hold together (`memory`). Beyond that the door stops reading from whoever holds much,
//! and that client's own socket fills.

mod listeners;
mod patience;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::kv::Outcome;
use crate::redis::{
    Action, BufferBytes, ClientList, ClientQuery, CompletedRequest, Connection, Context, Settings,
    SlowLogSettings, Statistics, Traffic,
};
use crate::runtime::boards::{RuntimeCounters, SubscriberBoard};
use crate::runtime::pass::Pass;
use crate::types::{ClientId, Index, Instant, RequestKey};
use crate::wire::resp::{Limits, Parser, Version, Writer};

use super::client::{Client, Pending, Reason};
use super::flights::{Flight, Flights};
use super::memory::Memory;
use super::slab::Slab;
use super::socket::{Arrived, Socket};

pub use patience::Timeouts;

/// Bytes read from clients, and of replies that were there at once, after which a pass ends: the
/// peers' turn must come soon.
const PASS_BYTES_MAX: usize = 4 << 20;
/// The buffer for replies is given back when it has grown beyond this.
const ASIDE_BYTES_KEPT: usize = 64 << 10;

/// All clients.
pub(super) struct Clients {
    connected: Slab<Client>,
    flights: Flights,
    first_token: usize,
    next_id: u32,
    timeouts: Timeouts,
    settings: Settings,
    /// The facts that replies are made of.
    pub(super) context: Context,
    memory: Memory,
    /// When who is idle was last looked for.
    swept_at: Instant,
    /// From which request on [`Clients::expire`] goes on.
    expire_from: u64,
    /// Places to visit: with something to read or to parse, to hand on, to write.
    to_read: Vec<usize>,
    /// The same as `to_read`, for those that hold much while memory is scarce.
    stalled: Vec<usize>,
    to_dispatch: Vec<usize>,
    to_flush: Vec<usize>,
    /// An empty list, for its memory: the next one to be visited changes places with it.
    spare: Vec<usize>,
    /// For replies that have to wait behind others.
    aside: BytesMut,
    /// Somebody wants a snapshot now.
    pub(super) save: bool,
    /// To be closed with the next pass, whatever they are owed.
    doomed: Vec<(usize, ClientId)>,
    /// What is recorded of requests.
    slow_log: SlowLogSettings,
    subscribers: Arc<SubscriberBoard>,
    counters: Arc<RuntimeCounters>,
}

impl Clients {
    pub(super) fn new(
        flights: Flights,
        first_token: usize,
        timeouts: Timeouts,
        context: Context,
        settings: Settings,
        subscribers: Arc<SubscriberBoard>,
        counters: Arc<RuntimeCounters>,
    ) -> Clients {
        let memory = Memory::new(settings.clients_bytes_max());
        let slow_log = settings.slow_log();
        Clients {
            connected: Slab::default(),
            flights,
            first_token,
            next_id: 1,
            timeouts,
            settings,
            context,
            memory,
            swept_at: Instant::ZERO,
            expire_from: 0,
            to_read: Vec::new(),
            stalled: Vec::new(),
            to_dispatch: Vec::new(),
            to_flush: Vec::new(),
            spare: Vec::new(),
            aside: BytesMut::new(),
            save: false,
            doomed: Vec::new(),
            slow_log,
            subscribers,
            counters,
        }
    }

    /// Takes a client in; if there are too many, it is told so.
    /// `as_sentinel` tells whether it came in at the port at which we are one.
    pub(super) fn accept(
        &mut self,
        stream: TcpStream,
        as_sentinel: bool,
        now: Instant,
        registry: &Registry,
    ) {
        let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let token = Token(self.first_token + self.connected.next_place());
        let Ok(mut socket) = Socket::new(stream, registry, token, true) else { return };
        if self.connected.len() as u64 >= self.settings.clients_max() {
            self.counters.clients_refused.add_one();
            self.context.traffic.connections_refused = self.counters.clients_refused.get();
            Writer::new(socket.outbox.open(), Version::Two)
                .error(b"ERR max number of clients reached");
            // It takes that or not; there is no room to wait for it.
            let _ = socket.flush();
            socket.close(registry);
            return;
        }
        socket.keep_alive(self.settings.keep_alive());
        self.counters.clients_accepted.add_one();
        let id = ClientId(self.next_id);
        // Never 0: that is who asks for a read index.
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let connection = Connection::new(self.counters.clients_accepted.get(), address, local, now);
        let connection = if as_sentinel { connection.on_sentinel_port() } else { connection };
        let parser = Parser::new(Limits::default());
        let room = self.memory.room(self.connected.len() + 1);
        let client = Client::new(id, socket, connection, parser, now, room);
        let place = self.connected.insert(client);
        self.context.traffic.clients = self.connected.len() as u64;
        self.context.traffic.connections = self.counters.clients_accepted.get();
        self.add_up(place);
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
        !self.to_read.is_empty() || !self.stalled.is_empty() && self.memory.has_room()
    }

    /// Whether something can be written at once.
    pub(super) fn is_writable(&self) -> bool {
        !self.to_flush.is_empty()
    }

    /// One pass in: every client that has something gets its turn, once, until the pass is over.
    pub(super) fn receive(&mut self, registry: &Registry, space: &mut [u8], pass: &mut Pass) {
        if self.memory.has_room() {
            self.to_read.append(&mut self.stalled);
        }
        let mut places = std::mem::replace(&mut self.to_read, std::mem::take(&mut self.spare));
        let mut left = PASS_BYTES_MAX;
        let mut served = 0;
        while let Some(place) = pass.next(|| places.get(served).copied()) {
            served += 1;
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.read = false;
            let before = self.memory.held_bytes();
            let count = self.read(place, registry, space);
            let more = self.memory.held_bytes().saturating_sub(before);
            if self.memory.is_exceeded() {
                self.close_largest(registry);
            }
            left = left.saturating_sub(count + more);
            if left == 0 {
                pass.end();
            }
        }
        // Those that did not get their turn are first in the next pass.
        places.drain(..served);
        places.append(&mut self.to_read);
        self.spare = std::mem::replace(&mut self.to_read, places);
    }

    /// Reads once, and gives how many bytes that were.
    fn read(&mut self, place: usize, registry: &Registry, space: &mut [u8]) -> usize {
        let room = self.memory.room(self.connected.len());
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        client.room = room;
        // What is there already first: it may be why nothing more was read.
        if !client.may_parse() {
            self.memory.give_way(place);
            return 0;
        }
        if !self.memory.may_grow(place, client.counted_bytes) {
            client.marks.read = true;
            self.stalled.push(place);
            return 0;
        }
        let mut count = 0;
        if client.is_readable() {
            match client.socket.read(space) {
                Arrived::Some(length) => {
                    count = length;
                    client.heard = self.context.now;
                    self.context.traffic.bytes_in += count as u64;
                }
                Arrived::Drained => {}
                // Whoever sends no more may still want its replies.
                Arrived::Closed if client.is_owed_nothing() && client.input.is_empty() => {
                    self.close(place, registry);
                    return 0;
                }
                Arrived::Closed => client.ended = true,
            }
        }
        self.parse(place, &space[..count]);
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        let again = client.may_parse() && client.is_readable();
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
        self.add_up(place);
        count
    }

    /// Notes what a client holds now.
    fn add_up(&mut self, place: usize) {
        let Some(client) = self.connected.get_mut(place) else { return };
        let bytes = client.memory_bytes();
        self.memory.change(place, client.counted_bytes, bytes);
        client.counted_bytes = bytes;
        self.context.clients_bytes = self.memory.held_bytes() as u64;
    }

    /// Closes whoever holds most, until what all hold is within its limit.
    fn close_largest(&mut self, registry: &Registry) {
        while self.memory.is_exceeded() {
            let largest = self.connected.iter_mut().max_by_key(|(_, client)| client.counted_bytes);
            let Some((place, client)) = largest else { return };
            tracing::warn!(
                client = client.connection.id(),
                bytes = client.counted_bytes,
                "a client is closed: of all that are connected it holds most memory, and together \
                 they hold more than is allowed"
            );
            self.counters.clients_closed.add_one();
            self.close(place, registry);
        }
    }

    /// Understands every whole request there is, as far as there is room for it. `arrived` comes
    /// behind what is kept of earlier; what it leaves over is kept.
    fn parse(&mut self, place: usize, arrived: &[u8]) {
        let mut used = 0;
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        // Usually nothing is kept, and nothing has to be copied.
        let directly = client.input.is_empty();
        let mut wants_more = false;
        if !directly {
            client.input.extend_from_slice(arrived);
        }
        loop {
            let client = self.connected.get_mut(place).expect("it was found a moment ago");
            if !client.may_parse() {
                break;
            }
            let key = self.flights.next_key(client.id);
            let Client { parser, connection, input, .. } = client;
            let bytes = if directly { arrived } else { input };
            let request = match parser.next(bytes, &mut used) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    // Half a request will never be whole.
                    client.closing |= client.ended;
                    wants_more = true;
                    break;
                }
                Err(error) => {
                    Writer::new(&mut self.aside, connection.version())
                        .error(error.to_string().as_bytes());
                    self.counters.clients_closed.add_one();
                    client.closing = true;
                    self.reply(place);
                    break;
                }
            };
            self.context.traffic.commands += 1;
            let action = connection.execute(
                request,
                key,
                &self.context,
                &mut self.settings,
                &mut self.aside,
            );
            self.act(place, action);
        }
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        if directly {
            client.input.extend_from_slice(&arrived[used..]);
        } else if used > 0 {
            // Copied, so that no few bytes keep the memory of a large request.
            client.input = BytesMut::from(&client.input[used..]);
        }
        client.half_since = match client.half_since {
            _ if client.input.is_empty() || !wants_more => None,
            Some(since) if used == 0 => Some(since),
            _ => Some(self.context.now),
        };
    }

    /// Does what is to be done about a request of a client, whose reply is in `aside` if there is
    /// one yet.
    fn act(&mut self, place: usize, action: Action) {
        match action {
            Action::Reply => {
                let client = self.client(place);
                if client.connection.last_command() == "config|set" {
                    self.configured();
                }
                self.reply(place);
            }
            Action::Submit { kind, payload, mut reply_format, redirect_slot, blocks } => {
                reply_format
                    .list_clients(|query| list_clients(&mut self.connected, query, &self.context));
                let client = self.connected.get_mut(place).expect("it was found a moment ago");
                if client.connection.is_muted() {
                    reply_format.mute();
                }
                let slot = client.next_slot();
                client.held_by = blocks.then_some(slot);
                let arrived = self.context.now;
                let id = client.id;
                let sequence = self.flights.add(Flight { place, client: id, slot, arrived });
                let since = Index::ZERO;
                client.push_pending(Pending {
                    kind,
                    payload,
                    reply_format,
                    sequence,
                    since,
                    redirect_slot,
                });
            }
            Action::ListClients(query) => {
                let list = list_clients(&mut self.connected, query, &self.context);
                self.aside.extend_from_slice(&list);
                self.reply(place);
            }
            Action::KillClients(mut kill) => {
                for (there, client) in self.connected.iter_mut() {
                    if kill.matches(&client.connection) {
                        if there == place {
                            client.closing = true;
                        } else {
                            self.doomed.push((there, client.id));
                        }
                    }
                }
                kill.finish(&mut self.aside);
                self.reply(place);
            }
            Action::ResetStatistics(record) => {
                self.context.slow_log.reset(record);
                if record == Statistics::Traffic {
                    let clients = self.context.traffic.clients;
                    self.context.traffic = Traffic { clients, ..Traffic::default() };
                }
                self.reply(place);
            }
            Action::Sleep(time) => {
                std::thread::sleep(time);
                self.reply(place);
            }
            Action::UpdateSubscriptions(changes) => {
                self.change_listening(place, &changes);
                self.reply(place);
            }
            Action::TakeSnapshot => {
                self.save = true;
                self.reply(place);
            }
            Action::ApplySettings => self.configured(),
            Action::Sequence(actions) => {
                for action in actions {
                    self.act(place, action);
                }
            }
            Action::Close => {
                self.client(place).closing = true;
                self.reply(place);
            }
        }
    }

    /// The client at a place where there is one.
    fn client(&mut self, place: usize) -> &mut Client {
        self.connected.get_mut(place).expect("it was found a moment ago")
    }

    /// Settings have changed.
    fn configured(&mut self) {
        self.slow_log = self.settings.slow_log();
        self.publish_subscribers();
    }

    /// Sends what is in `aside`, behind what is owed before it.
    fn reply(&mut self, place: usize) {
        if self.aside.is_empty() {
            return;
        }
        let client = self.connected.get_mut(place).expect("it was found a moment ago");
        if client.connection.is_muted() {
            self.aside.clear();
            return;
        }
        if client.is_owed_nothing() {
            client.socket.outbox.open().extend_from_slice(&self.aside);
        } else {
            client.push_reply(Bytes::copy_from_slice(&self.aside));
        }
        self.aside.clear();
        if self.aside.capacity() > ASIDE_BYTES_KEPT {
            self.aside = BytesMut::new();
        }
    }

    /// Hands on what may go now. `send` says whether it took a request; if not, the rest waits.
    pub(super) fn dispatch(
        &mut self,
        forwarded: bool,
        mut send: impl FnMut(RequestKey, &Pending) -> bool,
    ) {
        let mut refused = false;
        let mut places = std::mem::replace(&mut self.to_dispatch, std::mem::take(&mut self.spare));
        for place in places.drain(..) {
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.dispatch = false;
            let origin = self.flights.origin();
            if !refused {
                let since = self.context.applied_index;
                client.dispatch(forwarded, since, self.context.now, |id, pending| {
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
        self.spare = places;
    }

    /// The first write from number `from` on that was handed to another replica and has no answer,
    /// with its number, to be sent again: the leader changed, or the connection to it was lost.
    pub(super) fn next_to_resend(&mut self, mut from: u64) -> Option<(u64, RequestKey, Pending)> {
        loop {
            let (sequence, flight) = self.flights.next_since(from, Instant::MAX)?;
            from = sequence + 1;
            let client = self.connected.get_mut(flight.place);
            let pending = client
                .filter(|client| client.id == flight.client)
                .and_then(|client| client.again(flight.slot));
            if let Some(pending) = pending {
                let request = super::flights::request_id(self.flights.origin(), sequence);
                return Some((sequence, RequestKey { client: flight.client, request }, pending));
            }
        }
    }

    /// State and log take so much memory now.
    pub(super) fn note_memory(&mut self, store_bytes: u64, log_bytes: u64) {
        let context = &mut self.context;
        context.dataset_bytes = store_bytes;
        context.log_bytes = log_bytes;
        context.used_memory = store_bytes + log_bytes + context.clients_bytes;
        let most = self.settings.memory_max();
        context.is_full = most > 0 && context.used_memory > most;
    }

    /// What the operator allows for all; 0 for any amount.
    pub(super) fn memory_max(&self) -> u64 {
        self.settings.memory_max()
    }

    /// Whether something waits to be handed on.
    pub(super) fn has_waiting(&self) -> bool {
        !self.to_dispatch.is_empty()
    }

    /// An outcome has come.
    pub(super) fn answer(&mut self, key: RequestKey, outcome: Outcome) {
        let Some(flight) = self.flights.get(key) else { return };
        let now = self.context.now;
        self.record(flight, now);
        self.finish(flight, key, |client| client.answer(flight.slot, outcome, now));
    }

    /// Notes a request that took long, if such are recorded.
    fn record(&mut self, flight: Flight, now: Instant) {
        let SlowLogSettings { threshold, entries_max, latency_threshold } = self.slow_log;
        let time = now.since(flight.arrived);
        let is_slow = threshold.is_some_and(|limit| time >= limit);
        let is_moment = latency_threshold.is_some_and(|limit| time >= limit);
        if !is_slow && !is_moment {
            return;
        }
        let client = self.connected.get_mut(flight.place).filter(|there| there.id == flight.client);
        let Some((client, wait)) = client.and_then(|client| {
            let since = client.under_way_since(flight.slot, flight.arrived)?;
            Some((client, now.since(since)))
        }) else {
            return;
        };
        let wall_clock = self.context.wall_clock;
        if latency_threshold.is_some_and(|limit| wait >= limit) {
            self.context.slow_log.add_latency_sample(wait, wall_clock);
        }
        if threshold.is_some_and(|limit| wait >= limit)
            && let Some(payload) = client.payload(flight.slot)
        {
            let connection = &client.connection;
            let took = CompletedRequest { elapsed: wait, wall_clock, payload, connection };
            self.context.slow_log.add(&took, entries_max);
        }
    }

    /// A request was refused where it was handed on. Not the last word if there are other copies
    /// of it.
    pub(super) fn refused(&mut self, key: RequestKey, reason: Reason) {
        let Some(flight) = self.flights.get(key) else { return };
        let client = self.connected.get_mut(flight.place);
        if client.is_some_and(|client| client.id == key.client && !client.has_copies(flight.slot)) {
            self.fail(key, reason);
        }
    }

    /// No outcome will come.
    pub(super) fn fail(&mut self, key: RequestKey, reason: Reason) {
        match reason {
            Reason::Uncertain => self.counters.uncertain.add_one(),
            Reason::NoLeader => self.counters.cluster_down.add_one(),
            Reason::DiskFull => self.counters.disk_full.add_one(),
            Reason::Refused | Reason::Busy | Reason::OutOfMemory => {}
        }
        if let Some(flight) = self.flights.get(key) {
            self.finish(flight, key, |client| client.fail(flight.slot, reason));
        }
    }

    /// Has a client take a reply in. `take` says whether that was the end of the request.
    fn finish(&mut self, flight: Flight, key: RequestKey, take: impl FnOnce(&mut Client) -> bool) {
        let sequence = super::flights::parts_of(key.request).1;
        let place = flight.place;
        let room = self.memory.room(self.connected.len());
        let Some(client) = self.connected.get_mut(place).filter(|there| there.id == flight.client)
        else {
            self.flights.remove(sequence);
            return;
        };
        client.room = room;
        let done = take(client);
        let waiting = client.has_waiting();
        let unread = client.wants_a_look();
        if done {
            self.flights.remove(sequence);
        }
        mark(&mut self.connected, &mut self.to_flush, place, |client| &mut client.marks.flush);
        if waiting {
            mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                &mut client.marks.dispatch
            });
        }
        if unread {
            mark(&mut self.connected, &mut self.to_read, place, |client| &mut client.marks.read);
        }
        self.add_up(place);
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
            self.redirect_waiting(place);
            mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                &mut client.marks.dispatch
            });
        }
    }

    /// Writes what waits, one write a client, until the pass is over, and closes who is done or
    /// floods itself.
    pub(super) fn flush(&mut self, registry: &Registry, pass: &mut Pass) {
        let now = self.context.now;
        self.close_doomed(registry);
        let mut places = std::mem::replace(&mut self.to_flush, std::mem::take(&mut self.spare));
        let mut served = 0;
        while let Some(place) = pass.next(|| places.get(served).copied()) {
            served += 1;
            let Some(client) = self.connected.get_mut(place) else { continue };
            client.marks.flush = false;
            let was_crowded = client.is_crowded();
            let before = client.socket.outbox.len();
            let failed = client.socket.can_flush() && client.socket.flush().is_err();
            let sent = before - client.socket.outbox.len();
            self.context.traffic.bytes_out += sent as u64;
            if sent > 0 {
                client.heard = now;
            }
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
            self.add_up(place);
            let client = self.connected.get_mut(place).expect("it is open");
            let unread = client.wants_a_look();
            let waiting = client.has_waiting();
            if was_crowded && !client.is_crowded() {
                client.has_room_again(now);
            }
            if was_crowded && sent > 0 && waiting {
                mark(&mut self.connected, &mut self.to_dispatch, place, |client| {
                    &mut client.marks.dispatch
                });
            }
            if before > 0 && unread {
                mark(&mut self.connected, &mut self.to_read, place, |client| {
                    &mut client.marks.read
                });
            }
        }
        if self.memory.is_exceeded() {
            self.close_largest(registry);
        }
        // Those that did not get their turn are first in the next pass.
        places.drain(..served);
        places.append(&mut self.to_flush);
        self.spare = std::mem::replace(&mut self.to_flush, places);
    }

    fn close(&mut self, place: usize, registry: &Registry) {
        let Some(mut client) = self.connected.remove(place) else { return };
        self.end_listening(place, &mut client);
        client.socket.close(registry);
        self.memory.change(place, client.counted_bytes, 0);
        self.context.traffic.clients = self.connected.len() as u64;
        for sequence in client.unanswered() {
            self.flights.remove(sequence);
        }
    }

    /// Whether a request came in here.
    pub(super) fn is_own(&self, key: RequestKey) -> bool {
        self.flights.is_own(key)
    }
}

/// The answer to who is connected.
fn list_clients(connected: &mut Slab<Client>, query: ClientQuery, context: &Context) -> Bytes {
    let mut list = ClientList::new(query);
    for (_, client) in connected.iter_mut() {
        let buffered = BufferBytes {
            incoming: client.input.len(),
            outgoing: client.socket.outbox.len(),
            memory: client.counted_bytes,
        };
        list.add(&client.connection, context.now, buffered);
    }
    let mut out = BytesMut::new();
    list.finish(&mut out);
    out.freeze()
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
