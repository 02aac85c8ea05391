//! Receives frames from peers, and sends frames to them.

use crossbeam::channel::TrySendError;

use crate::raft::{ClientRequest, Envelope, RefusalReason, RequestKind};
use crate::redis::may_add_data;
use crate::runtime::channels::{CoreItem, ForwardedWrite, IndexedReads};
use crate::runtime::server::peers::datagram_keys::PeerAddress;
use crate::runtime::server::request_id::{read_index_request, replica_and_sequence};
use crate::tls::key_id;
use crate::types::{Instant, NodeId};
use crate::wire::datagram::{self, Datagram};
use crate::wire::frame::{Attempt, Frame};

use super::{Parts, ServerNetwork};
use crate::runtime::server::network::dispatch::REFUSED_PAUSE;

/// Maximum number of bytes of datagrams that are read in one pass (iteration of the stage's loop).
const PASS_DATAGRAM_BYTES: usize = 2 << 20;

impl ServerNetwork {
    /// Receives datagrams from peers, and passes each to the incoming or outgoing connection to
    /// which it belongs.
    pub(super) fn receive_datagrams(&mut self, now: Instant) {
        let with_bulk = self.core_accepts_requests();
        let opened = &mut self.opened;
        let Parts { datagrams, incoming, outgoing, poll, counters, certificates, .. } =
            &mut self.parts;
        let registry = poll.registry();
        let is_plain = certificates.peer_domain().is_none();
        let mut connected = Vec::new();
        datagrams.receive(PASS_DATAGRAM_BYTES, |address, bytes| {
            let mut from = PeerAddress { address, key: None };
            let (mut for_incoming, mut for_outgoing) = (is_plain, is_plain);
            let mut bytes = bytes;
            if !is_plain {
                opened.clear();
                opened.extend_from_slice(bytes);
                from.key = key_id(opened);
                (for_incoming, for_outgoing) = (incoming.open(opened), outgoing.open(opened));
                bytes = opened;
            }
            match datagram::decode(bytes) {
                Ok(Datagram::Data(id, data)) if for_incoming => {
                    incoming.on_data(from, id, &data, with_bulk, now, registry);
                }
                Ok(Datagram::Open(id)) if for_incoming => incoming.on_open(from, id, now),
                Ok(Datagram::Ack(id, ack)) if for_outgoing => outgoing.on_ack(id, &ack, now),
                Ok(Datagram::Reset(id)) if for_outgoing => outgoing.on_reset(id, now),
                Ok(Datagram::Cookie(id)) if for_outgoing => {
                    connected.extend(outgoing.on_cookie(id, now, registry));
                }
                Ok(_) | Err(_) => counters.ignored.add_one(),
            }
        });
        for peer in connected {
            self.send_wall_clock(peer, now);
        }
    }

    /// Receives frames from peers. Raft messages go to the Raft core. Forwarded requests go to the
    /// core only if this replica is the leader, and are refused otherwise.
    pub(super) fn receive_from_peers(&mut self, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        let core_accepts = self.core_accepts_requests();
        let parts = &mut self.parts;
        parts.incoming.receive(
            now,
            core_accepts,
            parts.poll.registry(),
            &mut self.space,
            |from, start_id, frame| {
                frames.push((from, start_id, frame));
            },
        );
        if frames.is_empty() {
            self.frames = frames;
            return;
        }
        let leads = self.leadership.leader == Some(self.parts.me);
        let (mut messages, mut read_indexes) = (Vec::new(), Vec::new());
        let mut forwarded = Vec::new();
        let mut requeued = Vec::new();
        for (from, start_id, frame) in frames.drain(..) {
            match frame {
                Frame::Hello(hello) => {
                    let Parts { outgoing, poll, .. } = &mut self.parts;
                    outgoing.on_hello(from, start_id, &hello, now, poll.registry());
                    self.update_address(from, &hello.client_address);
                }
                Frame::Peer(message) => {
                    let to = self.parts.me;
                    messages.push(Envelope { from, to, leader: None, message });
                }
                // The clock reading must be later than the report's arrival: with an earlier
                // reading, the peer's clock would seem later than it is.
                Frame::WallClock { millis } => {
                    self.parts.clocks.report(from, self.parts.clock.now(), millis);
                }
                // Peers may forward only requests of their own clients.
                Frame::Forward { key, .. } if replica_and_sequence(key.request).0 != from => {
                    self.parts.counters.ignored.add_one();
                }
                // The peer has checked only its own memory limit.
                Frame::Forward { key, attempt: Attempt::First { .. }, payload }
                    if leads && self.parts.clients.context.is_full && may_add_data(&payload) =>
                {
                    let reason = RefusalReason::OutOfMemory;
                    self.parts.outgoing.send(from, &Frame::Refused { key, reason });
                }
                Frame::Forward { key, attempt, payload } if leads => {
                    let request = ClientRequest { key, kind: RequestKind::Write, payload };
                    forwarded.push(ForwardedWrite { attempt, request });
                }
                Frame::Forward { key, .. } => {
                    let reason = RefusalReason::NotLeader;
                    self.parts.outgoing.send(from, &Frame::Refused { key, reason });
                }
                Frame::AskReadIndex { ticket } if leads => {
                    read_indexes.push(read_index_request(from, start_id, ticket));
                }
                Frame::AskReadIndex { ticket } => {
                    self.parts.outgoing.send(from, &Frame::ReadIndex { ticket, index: None });
                }
                Frame::Refused { key, reason } => {
                    if reason == RefusalReason::NotLeader {
                        self.leader_refused_until = now + REFUSED_PAUSE;
                    }
                    self.on_refusal(key, reason, &mut requeued);
                }
                Frame::ReadIndex { ticket, index } => {
                    match (self.read_indexes.take(from, ticket), index) {
                        // The request has expired, or it was sent to another replica: an earlier
                        // leader's read index is not valid under the current leader.
                        (None, _) => self.parts.counters.ignored.add_one(),
                        (Some((asked_at, reads)), Some(index)) => {
                            self.freshness.confirm(asked_at, index);
                            if !reads.is_empty() {
                                self.indexed_reads.push_back(IndexedReads {
                                    index,
                                    reads,
                                    scripts: None,
                                });
                            }
                        }
                        (Some((_, reads)), None) => {
                            self.leader_refused_until = now + REFUSED_PAUSE;
                            requeued.extend(reads.iter().map(|read| read.key));
                        }
                    }
                }
            }
        }
        self.frames = frames;
        self.parts.clients.requeue(&requeued);
        if !messages.is_empty()
            && let Err(TrySendError::Full(CoreItem::Peers(messages))) =
                self.parts.ends.to_core.try_send(CoreItem::Peers(messages))
        {
            // Peers send these messages again.
            self.parts.counters.arrivals_dropped.add(messages.len());
        }
        self.submit_forwarded(forwarded);
        self.submit(read_indexes);
    }

    /// Sends the Raft core's messages to peers.
    pub(super) fn send_to_peers(&mut self, envelopes: Vec<Envelope>) {
        for Envelope { to, message, .. } in envelopes {
            self.parts.outgoing.send(to, &Frame::Peer(message));
        }
    }

    /// Sends the time of this replica's wall clock to a peer, if the peer is connected. Also called
    /// for a newly connected peer, because a new leader needs the wall clocks of a quorum at once.
    pub(super) fn send_wall_clock(&mut self, peer: NodeId, now: Instant) {
        if let Some(millis) = self.parts.clocks.own(now)
            && self.parts.outgoing.is_urgent_up(peer)
        {
            self.parts.outgoing.send(peer, &Frame::WallClock { millis });
        }
    }
}
