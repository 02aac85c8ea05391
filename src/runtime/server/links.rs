//! Connections to the peers, over which this replica speaks and hears nothing: two a peer, so that
//! a heartbeat never waits behind a megabyte of entries. Kept up with a growing wait between
//! attempts; what finds no connection is dropped and counted, for the core sends it again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::runtime::boards::RuntimeCounters;
use crate::types::{Instant, NodeId};
use crate::wire::frame::{self, Frame, Hello, Lane};

use super::outbox::COPY_BYTES_MAX;
use super::socket::{Arrived, Socket};

/// The wait before a connection is tried again, at first and at most. Short, for on a local network
/// a refused connection costs little and a restarted replica is wanted back soon.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A connection that has lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(1);
/// What was sent must be taken in by then, or the connection is made anew.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A peer to which there is no connection for so long is worth a word in the log.
const DOWN_TOLD_AFTER: Duration = Duration::from_secs(5);
/// A connection that is not made by then is given up.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// What may wait for a peer that takes no more, by lane: beyond it the peer is as good as dead.
/// The core has no more on its way than `inflight_bytes_max`.
const URGENT_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 96 << 20;

/// About as much as a frame has before its parts.
const HEAD_BYTES_MAX: usize = 128;

/// One direction of one lane.
#[derive(Debug)]
struct Line {
    socket: Option<Socket>,
    connected: bool,
    /// When the last attempt began.
    since: Instant,
    /// When to try again, while there is no socket.
    due: Instant,
    backoff: Duration,
}

/// A peer as seen from here.
#[derive(Debug)]
struct Link {
    peer: NodeId,
    address: SocketAddr,
    lines: [Line; 2],
    /// How often one of them was made: what went before may be lost.
    times: u64,
    /// What the log says of it.
    told: Told,
    /// Since when it has not been up, or not for long.
    down_since: Instant,
}

/// What the log says of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// Nothing, or that it was lost.
    Nothing,
    /// That it is up.
    Up,
    /// That it can't be made.
    Down,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Links {
    /// What this replica says of itself; the addressee and the lane are filled in.
    introduction: Hello,
    /// Whether this replica rejoins; the log writer ends that.
    rejoining: Arc<AtomicBool>,
    peers: Vec<Link>,
    first_token: usize,
    counters: Arc<RuntimeCounters>,
}

impl Line {
    fn new() -> Line {
        Line {
            socket: None,
            connected: false,
            since: Instant::ZERO,
            due: Instant::ZERO,
            backoff: BACKOFF_MIN,
        }
    }

    fn lose(&mut self, now: Instant, registry: &Registry) {
        if let Some(mut socket) = self.socket.take() {
            socket.close(registry);
        }
        let lasted = self.connected && now.since(self.since) >= LASTING;
        self.backoff = if lasted { BACKOFF_MIN } else { (self.backoff * 2).min(BACKOFF_MAX) };
        self.connected = false;
        self.due = now + self.backoff;
    }

    /// Notices that the connection has been made, or is gone. False if it is gone.
    fn look(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return true };
        if !self.connected {
            match socket.is_connected() {
                Ok(true) => {
                    socket.no_delay();
                    socket.limit_silence(SILENCE_MAX);
                    self.connected = true;
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        // The other side says nothing here; if it does, it is none of ours.
        let mut space = [0; 16];
        while socket.is_readable() {
            match socket.read(&mut space) {
                Arrived::Some(_) | Arrived::Closed => return false,
                Arrived::Drained => {}
            }
        }
        true
    }
}

impl Link {
    /// Says in the log what has become of it, but not each time a peer that refuses us is tried.
    fn tell(&mut self, now: Instant) {
        let lasts = |line: &Line| line.connected && now.since(line.since) >= LASTING;
        let (peer, address) = (self.peer, self.address);
        match self.told {
            Told::Nothing | Told::Down if self.lines.iter().all(lasts) => {
                tracing::info!(%peer, %address, "connected to a peer");
                self.told = Told::Up;
            }
            Told::Up if !self.lines.iter().all(|line| line.connected) => {
                tracing::warn!(%peer, %address, "the connection to a peer is lost");
                (self.told, self.down_since) = (Told::Nothing, now);
            }
            Told::Nothing if now.since(self.down_since) >= DOWN_TOLD_AFTER => {
                tracing::warn!(
                    %peer,
                    %address,
                    "no connection to a peer; it does not run, can't be reached, or refuses ours \
                     and says why in its log"
                );
                self.told = Told::Down;
            }
            Told::Nothing | Told::Up | Told::Down => {}
        }
    }
}

impl Links {
    /// To `peers`, with tokens from `first_token` on, two a peer.
    pub(super) fn new(
        introduction: Hello,
        rejoining: Arc<AtomicBool>,
        peers: &[(NodeId, SocketAddr)],
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> Links {
        let link = |&(peer, address)| Link {
            peer,
            address,
            lines: [Line::new(), Line::new()],
            times: 0,
            told: Told::Nothing,
            down_since: Instant::ZERO,
        };
        let peers = peers.iter().map(link).collect();
        Links { introduction, rejoining, peers, first_token, counters }
    }

    /// The port at which a peer listens for us.
    pub(super) fn port_of(&self, peer: NodeId) -> u16 {
        let link = self.peers.iter().find(|link| link.peer == peer);
        link.map_or(0, |link| link.address.port())
    }

    /// The peers' ids.
    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().map(|link| link.peer)
    }

    /// How often the ways to a peer were made.
    pub(super) fn times(&self, peer: NodeId) -> u64 {
        self.peers.iter().find(|link| link.peer == peer).map_or(0, |link| link.times)
    }

    /// Whether frames for `peer` have a way.
    pub(super) fn is_up(&self, peer: NodeId) -> bool {
        let link = self.peers.iter().find(|link| link.peer == peer);
        link.is_some_and(|link| link.lines.iter().all(|line| line.connected))
    }

    /// Whether small frames for `peer` have a way.
    pub(super) fn is_heard(&self, peer: NodeId) -> bool {
        let link = self.peers.iter().find(|link| link.peer == peer);
        link.is_some_and(|link| link.lines[Lane::Urgent as usize].connected)
    }

    /// When [`Links::connect`] has something to do again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let lines = self.peers.iter().flat_map(|link| &link.lines);
        let due = lines.filter_map(|line| match line.socket {
            None => Some(line.due),
            Some(_) if !line.connected => Some(line.since + CONNECT_PATIENCE),
            Some(_) => None,
        });
        due.min()
    }

    /// Begins the connections that are due, and gives up those that are not made in time.
    pub(super) fn connect(&mut self, now: Instant, registry: &Registry) {
        for (position, link) in self.peers.iter_mut().enumerate() {
            link.tell(now);
            for (lane, line) in [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut link.lines) {
                if line.socket.is_some() {
                    if !line.connected && now >= line.since + CONNECT_PATIENCE {
                        line.lose(now, registry);
                    }
                    continue;
                }
                if now < line.due {
                    continue;
                }
                line.since = now;
                let token = Token(self.first_token + position * 2 + lane as usize);
                let made = TcpStream::connect(link.address)
                    .and_then(|stream| Socket::new(stream, registry, token, false));
                let Ok(mut socket) = made else {
                    line.lose(now, registry);
                    continue;
                };
                let rejoining = self.rejoining.load(Ordering::Acquire);
                let hello = Hello { to: link.peer, lane, rejoining, ..self.introduction.clone() };
                frame::encode_preamble(socket.outbox.open());
                frame::encode(&Frame::Hello(hello), socket.outbox.open());
                line.socket = Some(socket);
            }
        }
    }

    /// A peer has shown that it is there: what waits before a new attempt need not.
    pub(super) fn hurry(&mut self, peer: NodeId, now: Instant) {
        for link in self.peers.iter_mut().filter(|link| link.peer == peer) {
            for line in link.lines.iter_mut().filter(|line| line.socket.is_none()) {
                line.due = line.due.min(now);
                line.backoff = BACKOFF_MIN;
            }
        }
    }

    /// Notes an event of one of the tokens. The peer, if its urgent connection was just made.
    pub(super) fn wake(
        &mut self,
        token: usize,
        event: &mio::event::Event,
        now: Instant,
        registry: &Registry,
    ) -> Option<NodeId> {
        let at = token - self.first_token;
        let Link { peer, lines, times, .. } = &mut self.peers[at / 2];
        let line = &mut lines[at % 2];
        let before = line.connected;
        if let Some(socket) = &mut line.socket {
            socket.wake(event);
        }
        if !line.look() {
            line.lose(now, registry);
        } else if !before && line.connected {
            *times += 1;
            return (at % 2 == Lane::Urgent as usize).then_some(*peer);
        }
        None
    }

    /// Queues a frame. False, and counted, if the peer is not there to take it.
    pub(super) fn send(&mut self, to: NodeId, frame: &Frame) -> bool {
        let lane = frame.lane();
        let link = self.peers.iter_mut().find(|link| link.peer == to);
        if let Some(line) = link.map(|link| &mut link.lines[lane as usize])
            && line.connected
            && let Some(socket) = &mut line.socket
        {
            let limit = match lane {
                Lane::Urgent => URGENT_BYTES_MAX,
                Lane::Bulk => BULK_BYTES_MAX,
            };
            if socket.outbox.len() < limit {
                // Small parts are copied there: in one piece of memory, that need not grow.
                let small = frame.parts().map(Bytes::len).filter(|bytes| *bytes <= COPY_BYTES_MAX);
                socket.outbox.open().reserve(small.sum::<usize>() + HEAD_BYTES_MAX);
                frame::encode_head(frame, socket.outbox.open());
                for part in frame.parts() {
                    socket.outbox.push(part);
                }
                return true;
            }
        }
        self.counters.unsent.add_one();
        false
    }

    /// Writes what was queued: one write a connection, more only for what is very long.
    pub(super) fn flush(&mut self, now: Instant, registry: &Registry) {
        for link in &mut self.peers {
            for line in &mut link.lines {
                if line.connected
                    && let Some(socket) = &mut line.socket
                    && socket.can_flush()
                    && socket.flush().is_err()
                {
                    line.lose(now, registry);
                }
            }
        }
    }
}
