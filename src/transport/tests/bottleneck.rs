//! A simulated link of a limited rate, with a queue that drops what does not fit. Streams and TCP
//! share it. They always have bytes to send.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::tcp::{Control, Tcp};
use crate::transport::Outbox;
use crate::transport::cookies::Cookies;
use crate::transport::receiver::Receiver;
use crate::transport::sender::{Sender, StreamState};
use crate::types::Instant;
use crate::wire::datagram::{self, Datagram, PAYLOAD_BYTES_MAX};

/// Length in bytes of the headers of IPv4 and UDP.
const HEADER_BYTES: usize = 28;
/// Length in bytes of a TCP segment with all its headers.
const SEGMENT_BYTES: usize = 1_500;
const ADDRESS: &str = "10.0.0.1:7100";
/// Receive window of a stream, in bytes. Larger than any queue here.
const RECEIVE_WINDOW: usize = 1 << 20;
/// Maximum time by which the sender handles an acknowledgement later, at random. Without it, one
/// flow may find the queue full each time and the other never.
const JITTER_US: u64 = 1_200;
const BEGIN: Instant = Instant(1_000_000_000);

/// A link and the path behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) bytes_per_second: usize,
    /// Time that a datagram waits in the queue of the link when the queue is full.
    pub(super) queue: Duration,
    /// Round-trip time without queueing.
    pub(super) round_trip: Duration,
    /// Probability in percent that a datagram is lost behind the link, and an acknowledgement on
    /// the way back.
    pub(super) loss: u32,
}

impl Path {
    /// Returns a link of 10 Mbit/s without random loss.
    pub(super) fn thin(queue_ms: u64, round_trip_us: u64) -> Path {
        Path {
            bytes_per_second: 10_000_000 / 8,
            queue: Duration::from_millis(queue_ms),
            round_trip: Duration::from_micros(round_trip_us),
            loss: 0,
        }
    }
}

/// A stream whose sender always has bytes to send.
struct Stream {
    sender: Sender,
    receiver: Option<Receiver>,
    cookies: Cookies,
}

enum Sending {
    Stream(Box<Stream>),
    Tcp(Tcp),
}

#[derive(Debug)]
enum Packet {
    Datagram(Vec<u8>),
    Segment(u64),
}

/// What a flow has used of the link, in bytes including all headers.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Usage {
    /// Bytes sent, whether they arrived or not.
    pub(super) sent: usize,
    /// Bytes that arrived for the first time.
    pub(super) delivered: usize,
    /// Bytes sent by the receiver.
    pub(super) returned: usize,
}

struct Flow {
    kind: Sending,
    usage: Usage,
    /// When the sender handles the last acknowledgement that is under way.
    handled_at: Instant,
}

/// Flows that share a link.
pub(super) struct Network {
    path: Path,
    now: Instant,
    rng: ChaCha8Rng,
    flows: Vec<Flow>,
    /// When the link will have sent all that is in its queue.
    idle_at: Instant,
    /// The longest time that a packet has waited in the queue.
    pub(super) longest_queue: Duration,
    /// Packets by the time of their arrival and a unique number: the flow, whether it goes to the
    /// receiver, and the packet.
    under_way: BTreeMap<(Instant, u64), (usize, bool, Packet)>,
    number: u64,
}

impl Network {
    pub(super) fn new(path: Path) -> Network {
        Network {
            path,
            now: BEGIN,
            rng: ChaCha8Rng::seed_from_u64(1),
            flows: Vec::new(),
            idle_at: BEGIN,
            longest_queue: Duration::ZERO,
            under_way: BTreeMap::new(),
            number: 0,
        }
    }

    pub(super) fn add_stream(&mut self) {
        let number = self.flows.len() as u64 + 1;
        let stream = Stream {
            sender: Sender::new(number, 8 << 20, self.now),
            receiver: None,
            cookies: Cookies::new([3; 32]),
        };
        self.add(Sending::Stream(Box::new(stream)));
    }

    pub(super) fn add_tcp(&mut self, control: Control) {
        self.add(Sending::Tcp(Tcp::new(control, self.now)));
    }

    fn add(&mut self, kind: Sending) {
        self.flows.push(Flow { kind, usage: Usage::default(), handled_at: BEGIN });
    }

    /// Sends a packet of a flow over the link, or back to the sender.
    fn post(&mut self, flow: usize, to_receiver: bool, packet: Packet) {
        let bytes = match &packet {
            Packet::Datagram(bytes) => bytes.len() + HEADER_BYTES,
            Packet::Segment(_) if to_receiver => SEGMENT_BYTES,
            Packet::Segment(_) => 52,
        };
        let Flow { usage, handled_at, .. } = &mut self.flows[flow];
        let mut at = self.now;
        if to_receiver {
            usage.sent += bytes;
            let time = Duration::from_secs(1) * u32::try_from(bytes).unwrap()
                / u32::try_from(self.path.bytes_per_second).unwrap();
            if self.idle_at.since(self.now) + time > self.path.queue {
                return;
            }
            self.idle_at = self.idle_at.max(self.now) + time;
            self.longest_queue = self.longest_queue.max(self.idle_at.since(self.now));
            at = self.idle_at;
        } else {
            usage.returned += bytes;
        }
        if self.rng.random_range(0..100) >= self.path.loss {
            self.number += 1;
            at = at + self.path.round_trip / 2;
            if !to_receiver {
                let jitter = Duration::from_micros(self.rng.random_range(0..JITTER_US));
                at = (at + jitter).max(*handled_at);
                *handled_at = at;
            }
            let key = (at, self.number);
            self.under_way.insert(key, (flow, to_receiver, packet));
        }
    }

    fn post_all(&mut self, flow: usize, to_receiver: bool, out: &Outbox) {
        for (bytes, length) in out.runs(64) {
            for datagram in bytes.chunks(length) {
                self.post(flow, to_receiver, Packet::Datagram(datagram.to_vec()));
            }
        }
    }

    fn arrive(&mut self, at: usize, to_receiver: bool, packet: Packet) {
        let now = self.now;
        let mut out = Outbox::default();
        let Flow { kind, usage, .. } = &mut self.flows[at];
        match (kind, packet) {
            (Sending::Tcp(_), Packet::Segment(number)) if to_receiver => {
                usage.delivered += SEGMENT_BYTES;
                self.post(at, false, Packet::Segment(number));
            }
            (Sending::Tcp(tcp), Packet::Segment(number)) => tcp.on_ack(number, now),
            (Sending::Stream(stream), Packet::Datagram(bytes)) => {
                usage.delivered += stream.arrive(&bytes, now, &mut out);
            }
            _ => panic!("a packet of another kind of flow"),
        }
        self.post_all(at, !to_receiver, &out);
    }

    /// Lets all flows send what they may send now.
    fn flush(&mut self) {
        let (now, mut out) = (self.now, Outbox::default());
        for at in 0..self.flows.len() {
            match &mut self.flows[at].kind {
                Sending::Stream(stream) => {
                    let mut acknowledgements = Outbox::default();
                    stream.flush(now, &mut out, &mut acknowledgements);
                    self.post_all(at, true, &out);
                    self.post_all(at, false, &acknowledgements);
                    out.clear();
                }
                Sending::Tcp(tcp) => {
                    let numbers: Vec<u64> = std::iter::from_fn(|| tcp.transmit(now)).collect();
                    for number in numbers {
                        self.post(at, true, Packet::Segment(number));
                    }
                }
            }
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.flush();
        loop {
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let timers = self.flows.iter().map(|flow| match &flow.kind {
                Sending::Stream(stream) => stream.next_timeout(),
                Sending::Tcp(tcp) => tcp.next_timeout(),
            });
            let next = timers.chain(arrival).min().expect("there are flows");
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            while let Some(first) = self.under_way.first_entry()
                && first.key().0 <= self.now
            {
                let (flow, to_receiver, packet) = first.remove();
                self.arrive(flow, to_receiver, packet);
            }
            self.flush();
        }
    }

    /// Runs for some time, and returns what each flow used of the link in that time.
    pub(super) fn measure(&mut self, time: Duration) -> Vec<Usage> {
        let before: Vec<Usage> = self.flows.iter().map(|flow| flow.usage).collect();
        self.run(time);
        let after = self.flows.iter().map(|flow| flow.usage);
        let difference = |(one, other): (Usage, Usage)| Usage {
            sent: one.sent - other.sent,
            delivered: one.delivered - other.delivered,
            returned: one.returned - other.returned,
        };
        after.zip(before).map(difference).collect()
    }

    /// Returns how many percent of what the link can carry within `time` are `bytes`.
    pub(super) fn percent(&self, bytes: usize, time: Duration) -> usize {
        let capacity = self.path.bytes_per_second * usize::try_from(time.as_millis()).unwrap();
        bytes * 1_000 * 100 / capacity
    }
}

impl Stream {
    /// Handles a datagram at the receiver or the sender. Appends replies to `out`, and returns the
    /// number of bytes that have arrived in order, including headers.
    fn arrive(&mut self, bytes: &[u8], now: Instant, out: &mut Outbox) -> usize {
        match datagram::decode(bytes).expect("the network changes nothing") {
            Datagram::Open(id) => {
                out.push(&Datagram::Cookie(self.cookies.issue(ADDRESS, id.stream, now)));
            }
            Datagram::Cookie(id) => self.sender.on_cookie(id.cookie, now),
            Datagram::Ack(_, ack) => self.sender.on_ack(&ack, now),
            Datagram::Data(id, data) => {
                let new = || Receiver::new(id, RECEIVE_WINDOW);
                let receiver = self.receiver.get_or_insert_with(new);
                receiver.on_data(&data, now);
                let read: usize =
                    std::iter::from_fn(|| receiver.read()).map(|bytes| bytes.len()).sum();
                let full = datagram::DATAGRAM_BYTES_MAX + HEADER_BYTES;
                return read * full / PAYLOAD_BYTES_MAX;
            }
            other @ Datagram::Reset(_) => panic!("{other:?}"),
        }
        0
    }

    /// Sends what is due: data to `out`, and acknowledgements to `acknowledgements`.
    fn flush(&mut self, now: Instant, out: &mut Outbox, acknowledgements: &mut Outbox) {
        if let Some(receiver) = &mut self.receiver {
            receiver.acknowledge(now, acknowledgements);
        }
        while self.sender.write(&[7; 16 << 10]).is_ok() {}
        if now >= self.sender.next_timeout() {
            self.sender.transmit(now, out);
        }
    }

    fn next_timeout(&self) -> Instant {
        assert_ne!(self.sender.state(), StreamState::Failed);
        let receiver = self.receiver.as_ref().map_or(Instant::MAX, Receiver::next_timeout);
        self.sender.next_timeout().min(receiver)
    }
}
