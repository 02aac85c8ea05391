//! Connections from peers, over which this replica only hears. Each begins with a hello that is
//! checked before anything else is believed: the right cluster, the right addressee, a member of
//! the same cluster, and no older copy of one seen before.

use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::storage::{
    HistoryError, Identity as Owner, OPENINGS_KEPT, OpeningHistory, PeerOpening, PeerRecords,
    RealDisk, replicas,
};
use crate::types::{Instant, NodeId};
use crate::wire::frame::{Decoder, Frame, FrameError, Hello, Lane, OPENINGS_MAX};

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

const _: () = assert!(OPENINGS_MAX == OPENINGS_KEPT, "a hello has all openings");

/// Why a hello is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a peer of cluster {0:032x} called; check --peers and --cluster on both sides")]
    Cluster(u128),
    #[error("a peer wanted to talk to replica {0}; check its --peers")]
    Addressee(NodeId),
    #[error(
        "replica {} called, which is no member of this cluster of {}; to it the cluster has {}. \
         Members can't be replaced under a new id: stop it, and replace the lost replica under its \
         own id, with `bowline cluster --replace ID` or `bowline serve --rejoin`",
        .peer.0, replicas(.ours), replicas(.theirs)
    )]
    Stranger { peer: NodeId, theirs: Vec<NodeId>, ours: Vec<NodeId> },
    #[error(
        "replica {} called as a member of a cluster of {}, but this cluster has {}: one of the two \
         was bootstrapped with another --peers; replace that one with `bowline cluster --replace \
         ID` or `bowline serve --rejoin`",
        .peer.0, replicas(.theirs), replicas(.ours)
    )]
    Members { peer: NodeId, theirs: Vec<NodeId>, ours: Vec<NodeId> },
    #[error(
        "replica {} called, but {doubt}. It may have forgotten what it acknowledged, so it does \
         not count: replace it with `bowline cluster --replace {}` or `bowline serve --rejoin`, or \
         bring its latest folder back",
        .peer.0, .peer.0
    )]
    History { peer: NodeId, doubt: HistoryError },
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
    /// The random number of the opening of its log.
    opening: u64,
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
    /// All voters, this replica included, ascending.
    members: Vec<NodeId>,
    /// The latest of each that has called.
    notes: PeerRecords<RealDisk>,
    callers: Slab<Caller>,
    hellos: u64,
    first_token: usize,
    /// The latest refusals, at most [`TOLD_MAX`].
    told: Vec<Told>,
    counters: Arc<RuntimeCounters>,
}

impl Inbound {
    pub(super) fn new(
        me: Owner,
        members: Vec<NodeId>,
        notes: PeerRecords<RealDisk>,
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> Inbound {
        let callers = Slab::default();
        Inbound { me, members, notes, callers, hellos: 0, first_token, told: Vec::new(), counters }
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
            let caller =
                Caller { socket, decoder: Decoder::for_unknown_peer(), from: None, since: now };
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
                    (Some(from), _) => take(from.peer, from.opening, frame),
                    (None, Frame::Hello(hello)) => {
                        let sighting = check(&self.me, &self.members, hello, |peer, history| {
                            self.notes.check(peer, history, OPENINGS_KEPT)
                        })?;
                        // Rare, once for each start of a peer: worth a wait of this stage, for
                        // nothing that peer says may be believed before.
                        match self.notes.note(sighting) {
                            // A full disk stops nothing else here either. Until a restart it is
                            // remembered all the same.
                            Err(error) if error.is_disk_full() => {
                                tracing::warn!("can't note down who called: {error}");
                            }
                            Err(error) => exit_on_disk_failure(&error),
                            Ok(()) => {}
                        }
                        self.hellos += 1;
                        let PeerOpening { peer, opening, .. } = sighting;
                        let (lane, number) = (hello.lane, self.hellos);
                        caller.from = Some(Identity { peer, opening, lane, number });
                        take(peer, opening, frame);
                    }
                    (None, _) => return Err(Refused::Order),
                }
            }
        }
        Ok(true)
    }

    /// A peer that has made a connection anew has left the earlier one behind, and a peer that has
    /// started anew, or was replaced, all of them. What they still hold must not be read: a write
    /// that comes to light now may have been sent again meanwhile.
    fn close_replaced(&mut self, by: usize, registry: &Registry) {
        let Some(newest) = self.callers.get_mut(by).and_then(|caller| caller.from) else { return };
        let is_replaced = |from: Identity| {
            from.peer == newest.peer
                && (from.opening != newest.opening
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
        self.counters.peers_refused.add_one();
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

/// Whether a hello is to be believed. If so, what is to be remembered of it. `check_history` knows
/// what was heard of the peer before; a peer that rejoins has forgotten that and says so.
fn check(
    me: &Owner,
    members: &[NodeId],
    hello: &Hello,
    check_history: impl FnOnce(NodeId, OpeningHistory<'_>) -> Result<PeerOpening, HistoryError>,
) -> Result<PeerOpening, Refused> {
    if hello.cluster != me.cluster {
        return Err(Refused::Cluster(hello.cluster));
    }
    if hello.to != me.replica {
        return Err(Refused::Addressee(hello.to));
    }
    let peer = hello.from;
    let (theirs, ours) = (hello.members.clone(), members.to_vec());
    if peer == me.replica || !members.contains(&peer) {
        return Err(Refused::Stranger { peer, theirs, ours });
    }
    if theirs != ours {
        return Err(Refused::Members { peer, theirs, ours });
    }
    let history = OpeningHistory { incarnation: hello.incarnation, openings: &hello.openings };
    let checked = if hello.rejoining {
        history.latest(peer, OPENINGS_KEPT)
    } else {
        check_history(peer, history)
    };
    checked.map_err(|doubt| Refused::History { peer, doubt })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Owner = Owner { cluster: 5, replica: NodeId(1), incarnation: 8 };

    fn members() -> Vec<NodeId> {
        [1, 2, 3].map(NodeId).to_vec()
    }

    fn hello() -> Hello {
        Hello {
            cluster: 5,
            from: NodeId(2),
            to: NodeId(1),
            incarnation: 3,
            openings: vec![11, 12, 13],
            members: members(),
            rejoining: false,
            lane: Lane::Urgent,
            client_address: "127.0.0.1:7002".to_owned(),
        }
    }

    /// What a replica makes of a hello that remembers this of its sender.
    fn check_after(seen: Option<PeerOpening>, hello: &Hello) -> Result<PeerOpening, Refused> {
        check(&ME, &members(), hello, |peer, history| history.check(peer, seen, OPENINGS_KEPT))
    }

    #[test]
    fn only_members_of_the_same_cluster_are_believed() {
        let call = |hello: Hello| check_after(None, &hello).map(drop);
        assert_eq!(call(hello()), Ok(()));
        assert_eq!(call(Hello { cluster: 6, ..hello() }), Err(Refused::Cluster(6)));
        assert_eq!(call(Hello { to: NodeId(3), ..hello() }), Err(Refused::Addressee(NodeId(3))));
        let ours = members();
        for theirs in [vec![NodeId(2)], vec![NodeId(1), NodeId(2)], [1, 2, 3, 4].map(NodeId).into()]
        {
            let refused = call(Hello { members: theirs.clone(), ..hello() }).unwrap_err();
            let expected = Refused::Members { peer: NodeId(2), theirs, ours: ours.clone() };
            assert_eq!(refused, expected);
        }
        for peer in [NodeId(1), NodeId(4)] {
            let theirs = vec![NodeId(1), peer.max(NodeId(3))];
            let call = call(Hello { from: peer, members: theirs.clone(), ..hello() });
            assert_eq!(call, Err(Refused::Stranger { peer, theirs, ours: ours.clone() }));
        }
    }

    #[test]
    fn membership_refusals_name_both_sets() {
        let theirs = vec![NodeId(2)];
        let text = Refused::Members { peer: NodeId(2), theirs, ours: members() }.to_string();
        assert!(text.contains("a cluster of replica 2, but"), "{text}");
        assert!(text.contains("this cluster has replicas 1, 2, 3"), "{text}");
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
    fn passed_incarnation_never_comes_back() {
        let mut known = None;
        let mut call = |incarnation, openings: &[u64]| {
            let hello = Hello { incarnation, openings: openings.to_vec(), ..hello() };
            known = Some(check_after(known, &hello)?);
            Ok(())
        };
        assert_eq!(call(3, &[11, 12, 13]), Ok(()));
        assert_eq!(call(3, &[11, 12, 13]), Ok(()), "it connects twice");
        assert_eq!(call(5, &[11, 12, 13, 14, 15]), Ok(()));
        let other = |incarnation| {
            let doubt = HistoryError::Other { seen: 5, incarnation };
            Err(Refused::History { peer: NodeId(2), doubt })
        };
        assert_eq!(call(4, &[11, 12, 13, 14]), other(4));
        assert_eq!(call(5, &[11, 12, 13, 14, 16]), other(5), "restored from a copy");
        assert_eq!(call(6, &[11, 12, 13, 14, 16, 17]), other(6), "and started twice");
        // Wiped, bootstrapped again, and restarted as often as you like.
        let again: Vec<u64> = (100..100 + 5_000).collect();
        for count in [1, 5, 60, OPENINGS_KEPT] {
            let doubt = |doubt| Err(Refused::History { peer: NodeId(2), doubt });
            let incarnation = count as u64;
            let expected = doubt(HistoryError::Other { seen: 5, incarnation });
            assert_eq!(call(incarnation, &again[..count]), expected, "{count} restarts");
        }
        let doubt = HistoryError::Forgotten { seen: 5, incarnation: 5_000 };
        let expected = Err(Refused::History { peer: NodeId(2), doubt });
        assert_eq!(call(5_000, &again[5_000 - OPENINGS_KEPT..]), expected);
    }

    #[test]
    fn rejoining_member_replaces_the_one_before() {
        let old = check_after(None, &hello()).unwrap();
        let rejoining = Hello { incarnation: 1, openings: vec![77], rejoining: true, ..hello() };
        let new = check_after(Some(old), &rejoining).unwrap();
        assert_eq!(new, PeerOpening { peer: NodeId(2), incarnation: 1, opening: 77 });
        // It calls again, and it starts again; the one before must not.
        assert_eq!(check_after(Some(new), &rejoining), Ok(new));
        let later = Hello { incarnation: 2, openings: vec![77, 78], ..hello() };
        assert!(check_after(Some(new), &later).is_ok());
        let doubt = HistoryError::Other { seen: 1, incarnation: 3 };
        let expected = Err(Refused::History { peer: NodeId(2), doubt });
        assert_eq!(check_after(Some(new), &hello()), expected);
        // A rejoining peer must be a member too, and its history must be complete.
        let stranger = Hello { from: NodeId(4), members: vec![NodeId(4)], ..rejoining.clone() };
        assert!(matches!(check_after(None, &stranger), Err(Refused::Stranger { .. })));
        let forged = Hello { incarnation: 1 << 40, ..rejoining };
        assert!(matches!(check_after(None, &forged), Err(Refused::History { .. })));
    }
}
