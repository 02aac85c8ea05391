//! Connections from peers, over which this replica only hears. Each begins with a hello that is
//! checked before anything else is believed: the right cluster, the right addressee, a known
//! sender, and no older copy of one seen before (safety.md H3, D6).

use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::runtime::log_writer::fail;
use crate::runtime::status::Counts;
use crate::storage::{Identity as Owner, PeerNotes, RealDisk, Sighting};
use crate::types::{Instant, NodeId};
use crate::wire::frame::{Decoder, Frame, FrameError, Hello, Lane};

use super::slab::Slab;
use super::socket::{Arrived, Socket};

/// Who has not said hello by then is no peer.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Connections that have not said hello yet; a later one takes the place of the oldest. So who
/// fills them up keeps no peer out that speaks at once. Of those that are believed there are two a
/// peer, for a later one takes the place of an earlier one too.
const STRANGERS_MAX: usize = 64;
/// How long the same refusal is not told again: whoever is refused tries again twice a second.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// So many different ones are kept apart.
const TOLD_MAX: usize = 16;
/// Most bytes read from one connection in one pass, so that none keeps the others waiting.
const PASS_BYTES_MAX: usize = 1 << 20;

/// Why a hello is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a peer of cluster {0:032x} called; check --peers and --cluster on both sides")]
    Cluster(u128),
    #[error("a peer wanted to talk to replica {0}; check its --peers")]
    Addressee(NodeId),
    #[error("replica {0} called, which is not among --peers")]
    Stranger(NodeId),
    #[error(
        "replica {peer} called as incarnation {called}, and is not the one that was here as \
         incarnation {seen}: its folder was put back from an older copy, or a copy of it is \
         running; it has forgotten what it vouched for: replace it under a new id"
    )]
    Old { peer: NodeId, called: u64, seen: u64 },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a peer spoke before it said who it is, or said so twice")]
    Order,
    #[error("whoever called did not say who it is")]
    Silent,
}

#[derive(Debug)]
struct Caller {
    socket: Socket,
    decoder: Decoder,
    /// Who it is, once that is known and believed.
    from: Option<Identity>,
    since: Instant,
}

impl Caller {
    fn is_readable(&self, with_bulk: bool) -> bool {
        let bulk = self.from.is_some_and(|from| from.lane == Lane::Bulk);
        self.socket.is_readable() && (with_bulk || !bulk)
    }
}

/// Who calls, and which of its connections this is.
#[derive(Clone, Copy, Debug)]
struct Identity {
    peer: NodeId,
    incarnation: u64,
    lane: Lane,
    /// Counts hellos: a later connection of the same lane takes the place of an earlier one.
    number: u64,
}

/// A refusal that the log tells.
#[derive(Debug)]
struct Told {
    why: Refused,
    /// When it was told.
    at: Instant,
    /// How often it came since.
    unsaid: u64,
}

/// All connections from peers.
#[derive(Debug)]
pub(super) struct Inbound {
    me: Owner,
    peers: Vec<NodeId>,
    /// The latest of each that has called.
    notes: PeerNotes<RealDisk>,
    callers: Slab<Caller>,
    hellos: u64,
    first_token: usize,
    /// The latest refusals, at most [`TOLD_MAX`].
    told: Vec<Told>,
    counts: Arc<Counts>,
}

impl Inbound {
    pub(super) fn new(
        me: Owner,
        peers: impl Iterator<Item = NodeId>,
        notes: PeerNotes<RealDisk>,
        first_token: usize,
        counts: Arc<Counts>,
    ) -> Inbound {
        let (peers, callers) = (peers.collect(), Slab::default());
        Inbound { me, peers, notes, callers, hellos: 0, first_token, told: Vec::new(), counts }
    }

    /// Takes a connection in; the oldest stranger goes if there are too many.
    pub(super) fn accept(&mut self, stream: TcpStream, now: Instant, registry: &Registry) {
        let strangers = self.callers.iter_mut().filter(|(_, caller)| caller.from.is_none());
        let strangers: Vec<_> = strangers.map(|(place, caller)| (caller.since, place)).collect();
        if strangers.len() >= STRANGERS_MAX
            && let Some(&(_, oldest)) = strangers.iter().min()
        {
            self.refuse(oldest, &Refused::Silent, now, registry);
        }
        let token = Token(self.first_token + self.callers.next_place());
        if let Ok(socket) = Socket::new(stream, registry, token, true) {
            let caller = Caller { socket, decoder: Decoder::of_stranger(), from: None, since: now };
            self.callers.insert(caller);
        }
    }

    /// Notes an event of one of the tokens.
    pub(super) fn wake(&mut self, token: usize, event: &mio::event::Event) {
        if let Some(caller) = self.callers.get_mut(token - self.first_token) {
            caller.socket.wake(event);
        }
    }

    /// Whether there is something to read; `with_bulk` tells whether what is large counts.
    pub(super) fn is_readable(&mut self, with_bulk: bool) -> bool {
        self.callers.iter_mut().any(|(_, caller)| caller.is_readable(with_bulk))
    }

    /// When [`Inbound::expire`] may have something to do, while anybody has not said hello.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        let silent = self.callers.iter_mut().filter(|(_, caller)| caller.from.is_none());
        silent.map(|(_, caller)| caller.since + HELLO_PATIENCE).min()
    }

    /// Closes the connections of those that do not say who they are.
    pub(super) fn expire(&mut self, now: Instant, registry: &Registry) {
        let silent: Vec<usize> = self
            .callers
            .iter_mut()
            .filter(|(_, caller)| caller.from.is_none() && now >= caller.since + HELLO_PATIENCE)
            .map(|(place, _)| place)
            .collect();
        for place in silent {
            self.refuse(place, &Refused::Silent, now, registry);
        }
    }

    /// Takes in what has come, up to a bound: `take` gets every frame with its sender, and first
    /// of all the hello of a connection that is believed. Without `with_bulk` what is large is left
    /// where it is, and the peer's socket fills.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        with_bulk: bool,
        registry: &Registry,
        space: &mut [u8],
        mut take: impl FnMut(NodeId, u64, Frame),
    ) {
        let readable = self.callers.iter_mut().filter(|(_, caller)| caller.is_readable(with_bulk));
        let mut readable: Vec<(bool, usize)> = readable
            .map(|(place, caller)| (caller.from.is_some_and(|from| from.lane == Lane::Bulk), place))
            .collect();
        // Heartbeats and votes first.
        readable.sort_unstable();
        for (_, place) in readable {
            // Closed by the hello of a later connection, maybe.
            if self.callers.get_mut(place).is_none() {
                continue;
            }
            let hellos = self.hellos;
            let read = self.read(place, space, &mut take);
            if self.hellos > hellos {
                self.close_replaced(place, registry);
            }
            match read {
                Ok(true) => {}
                Ok(false) => self.close(place, registry),
                Err(refused) => self.refuse(place, &refused, now, registry),
            }
        }
    }

    /// Reads from one connection. False if it has ended.
    fn read(
        &mut self,
        place: usize,
        space: &mut [u8],
        take: &mut impl FnMut(NodeId, u64, Frame),
    ) -> Result<bool, Refused> {
        let caller = self.callers.get_mut(place).expect("it was found a moment ago");
        let mut bytes = 0;
        while bytes < PASS_BYTES_MAX && caller.socket.is_readable() {
            match caller.socket.read(space) {
                Arrived::Some(count) => {
                    bytes += count;
                    caller.decoder.feed(&space[..count]);
                }
                Arrived::Drained => break,
                Arrived::Closed => return Ok(false),
            }
            while let Some(frame) = caller.decoder.next_frame()? {
                match (caller.from, &frame) {
                    (Some(_), Frame::Hello(_)) => return Err(Refused::Order),
                    (Some(from), _) => take(from.peer, from.incarnation, frame),
                    (None, Frame::Hello(hello)) => {
                        let known = self.notes.of(hello.from);
                        let sighting = check(&self.me, &self.peers, known, hello)?;
                        // Rare, once for each start of a peer: worth a wait of this stage, for
                        // nothing that peer says may be believed before.
                        match self.notes.note(sighting) {
                            // A full disk stops nothing else here either. Until a restart it is
                            // remembered all the same.
                            Err(error) if error.is_no_room() => {
                                tracing::warn!("can't note down who called: {error}");
                            }
                            Err(error) => fail(&error),
                            Ok(()) => {}
                        }
                        self.hellos += 1;
                        let (peer, incarnation) = (hello.from, hello.incarnation);
                        let identity =
                            Identity { peer, incarnation, lane: hello.lane, number: self.hellos };
                        caller.from = Some(identity);
                        take(peer, incarnation, frame);
                    }
                    (None, _) => return Err(Refused::Order),
                }
            }
        }
        Ok(true)
    }

    /// A peer that has made a connection anew has left the earlier one behind, and a peer that has
    /// started anew all of them. What they still hold must not be read: a write that comes to light
    /// now may have been sent again meanwhile.
    fn close_replaced(&mut self, by: usize, registry: &Registry) {
        let Some(newest) = self.callers.get_mut(by).and_then(|caller| caller.from) else { return };
        let is_replaced = |from: Identity| {
            from.peer == newest.peer
                && (from.incarnation < newest.incarnation
                    || (from.lane == newest.lane && from.number < newest.number))
        };
        let old: Vec<usize> = self
            .callers
            .iter_mut()
            .filter(|(_, caller)| caller.from.is_some_and(is_replaced))
            .map(|(place, _)| place)
            .collect();
        for place in old {
            self.close(place, registry);
        }
    }

    /// Closes a connection and says why, though not over and over.
    fn refuse(&mut self, place: usize, why: &Refused, now: Instant, registry: &Registry) {
        self.counts.peers_refused.add_one();
        if let Some(unsaid) = tell(&mut self.told, why, now) {
            let address = self.callers.get_mut(place).and_then(|caller| caller.socket.address());
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, unsaid, "connection of a peer closed: {why}");
        }
        self.close(place, registry);
    }

    fn close(&mut self, place: usize, registry: &Registry) {
        if let Some(mut caller) = self.callers.remove(place) {
            caller.socket.close(registry);
        }
    }
}

/// Notes a refusal. If the log is to tell it: how often it came since it last did, without a word.
fn tell(told: &mut Vec<Told>, why: &Refused, now: Instant) -> Option<u64> {
    let at = told.iter().position(|told| told.why == *why);
    if let Some(at) = at
        && now < told[at].at + TOLD_FOR
    {
        told[at].unsaid += 1;
        return None;
    }
    let unsaid = at.map_or(0, |at| told.remove(at).unsaid);
    if told.len() == TOLD_MAX {
        told.remove(0);
    }
    told.push(Told { why: why.clone(), at: now, unsaid: 0 });
    Some(unsaid)
}

/// Whether a hello is to be believed. If so, what is to be remembered of it.
fn check(
    me: &Owner,
    peers: &[NodeId],
    known: Option<Sighting>,
    hello: &Hello,
) -> Result<Sighting, Refused> {
    if hello.cluster != me.cluster {
        return Err(Refused::Cluster(hello.cluster));
    }
    if hello.to != me.replica {
        return Err(Refused::Addressee(hello.to));
    }
    let (peer, incarnation) = (hello.from, hello.incarnation);
    if !peers.contains(&peer) {
        return Err(Refused::Stranger(peer));
    }
    if let Some(seen) = known
        && !seen.can_become(incarnation, &hello.openings)
    {
        return Err(Refused::Old { peer, called: incarnation, seen: seen.incarnation });
    }
    Ok(Sighting { peer, incarnation, opening: hello.openings.last().copied().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Owner = Owner { cluster: 5, replica: NodeId(1), incarnation: 8 };

    fn hello() -> Hello {
        Hello {
            cluster: 5,
            from: NodeId(2),
            to: NodeId(1),
            incarnation: 3,
            openings: vec![11, 12, 13],
            lane: Lane::Urgent,
            client_address: "127.0.0.1:7002".to_owned(),
        }
    }

    #[test]
    fn only_the_right_cluster_addressee_and_sender_are_believed() {
        let call = |hello: Hello| check(&ME, &[NodeId(2)], None, &hello).map(drop);
        assert_eq!(call(Hello { cluster: 6, ..hello() }), Err(Refused::Cluster(6)));
        assert_eq!(call(Hello { to: NodeId(3), ..hello() }), Err(Refused::Addressee(NodeId(3))));
        assert_eq!(call(Hello { from: NodeId(4), ..hello() }), Err(Refused::Stranger(NodeId(4))));
        assert_eq!(call(hello()), Ok(()));
    }

    #[test]
    fn the_same_refusal_is_told_now_and_then_and_each_new_one_at_once() {
        let mut told = Vec::new();
        let later = Instant::ZERO + TOLD_FOR;
        let mut tell = |why, at| tell(&mut told, &why, at);
        assert_eq!(tell(Refused::Order, Instant(0)), Some(0));
        assert_eq!(tell(Refused::Silent, Instant(0)), Some(0));
        assert_eq!(tell(Refused::Order, Instant(1)), None);
        assert_eq!(tell(Refused::Order, Instant(2)), None);
        assert_eq!(tell(Refused::Order, later), Some(2));
        assert_eq!(tell(Refused::Order, later), None);
        for number in 0..1_000 {
            assert_eq!(tell(Refused::Cluster(number), later), Some(0));
        }
        assert_eq!(told.len(), TOLD_MAX);
    }

    #[test]
    fn an_incarnation_that_was_passed_never_comes_back() {
        let mut known = None;
        let mut call = |incarnation, openings: &[u64]| {
            let hello = Hello { incarnation, openings: openings.to_vec(), ..hello() };
            known = Some(check(&ME, &[NodeId(2)], known, &hello)?);
            Ok(())
        };
        assert_eq!(call(3, &[11, 12, 13]), Ok(()));
        assert_eq!(call(3, &[11, 12, 13]), Ok(()), "it connects twice");
        assert_eq!(call(5, &[11, 12, 13, 14, 15]), Ok(()));
        let old = |called| Err(Refused::Old { peer: NodeId(2), called, seen: 5 });
        assert_eq!(call(4, &[11, 12, 13, 14]), old(4));
        assert_eq!(call(5, &[11, 12, 13, 14, 16]), old(5), "put back from a copy");
        assert_eq!(call(6, &[11, 12, 13, 14, 16, 17]), old(6), "and started twice");
    }
}
