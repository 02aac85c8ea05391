//! Streams over a simulated network that loses, delays, reorders and duplicates datagrams. All
//! bytes must arrive, once and in order, and in a time that does not depend on long timers.

mod bottleneck;
mod probes;
mod tcp;
mod thin_links;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::cookies::Cookies;
use super::receiver::Receiver;
use super::sender::{Sender, StreamState};
use super::{Outbox, REORDERING_MAX};
use crate::types::Instant;
use crate::wire::datagram::{self, Ack, DATAGRAM_BYTES_MAX, Datagram};

/// Loss, delay, reordering and duplication of datagrams on the simulated network.
#[derive(Clone, Copy, Debug)]
struct Quality {
    /// Loss in percent in each direction.
    loss: u32,
    /// Percentage of losses after which the next datagram is lost too.
    burst: u32,
    delay: Duration,
    /// Maximum additional delay of a datagram. If it exceeds the time between two datagrams, they
    /// may be reordered.
    jitter: Duration,
    duplicates: u32,
}

impl Quality {
    fn lossy(loss: u32) -> Quality {
        Quality {
            loss,
            burst: 0,
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            duplicates: 0,
        }
    }
}

/// A simulated stream: its sender, its receiver, and the network between them.
struct Run {
    now: Instant,
    rng: ChaCha8Rng,
    quality: Quality,
    /// Whether the network lost the last datagram.
    was_lost: bool,
    /// Datagrams on the network, by the time of their arrival and a unique number. The flag is true
    /// if the datagram goes to the receiver, and false if it goes to the sender.
    under_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    number: u64,
    cookies: Cookies,
    sender: Sender,
    receiver: Option<Receiver>,
    /// Bytes that the test still has to write to the sender; `delivered` holds the bytes that the
    /// test has read from the receiver.
    unwritten: BytesMut,
    delivered: Vec<u8>,
    /// Number of datagrams sent to the receiver, including lost ones.
    sent: u64,
    /// Whether the test reads the bytes that the receiver has received.
    reads: bool,
    /// Size of the receiver's receive window, in bytes.
    window: usize,
    out: Outbox,
}

const WINDOW: usize = 256 << 10;

const ADDRESS: &str = "10.0.0.1:7100";

impl Run {
    fn new(seed: u64, quality: Quality) -> Run {
        let now = Instant(1_000_000_000);
        Run {
            now,
            rng: ChaCha8Rng::seed_from_u64(seed),
            quality,
            was_lost: false,
            under_way: BTreeMap::new(),
            number: 0,
            cookies: Cookies::new([3; 32]),
            sender: Sender::new(seed + 1, 8 << 20, now),
            receiver: None,
            unwritten: BytesMut::new(),
            delivered: Vec::new(),
            sent: 0,
            reads: true,
            window: WINDOW,
            out: Outbox::default(),
        }
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Sends the datagrams in `out` over the simulated network, to the receiver if `to_receiver` is
    /// true, otherwise to the sender.
    fn post(&mut self, to_receiver: bool) {
        let out = std::mem::take(&mut self.out);
        for (bytes, length) in out.runs(64) {
            for datagram in bytes.chunks(length) {
                assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
                self.sent += u64::from(to_receiver);
                let loss = if self.was_lost && self.quality.burst > 0 {
                    self.quality.burst
                } else {
                    self.quality.loss
                };
                self.was_lost = self.percent(loss);
                if self.was_lost {
                    continue;
                }
                let copies = if self.percent(self.quality.duplicates) { 2 } else { 1 };
                for _ in 0..copies {
                    let jitter = u64::try_from(self.quality.jitter.as_nanos()).unwrap();
                    let jitter = Duration::from_nanos(self.rng.random_range(0..=jitter));
                    let at = self.now + self.quality.delay + jitter;
                    self.number += 1;
                    self.under_way.insert((at, self.number), (to_receiver, datagram.to_vec()));
                }
            }
        }
    }

    fn arrive(&mut self, to_receiver: bool, bytes: &[u8]) {
        let now = self.now;
        match datagram::decode(bytes).expect("the network changes nothing") {
            Datagram::Open(id) if to_receiver => {
                let id = self.cookies.issue(ADDRESS, id.stream, now);
                self.out.push(&Datagram::Cookie(id));
            }
            Datagram::Cookie(id) => {
                assert_eq!(id.stream, self.sender.id().stream);
                self.sender.on_cookie(id.cookie, now);
            }
            Datagram::Data(id, data) => {
                if self.receiver.is_none() {
                    assert!(self.cookies.is_valid(ADDRESS, id, now));
                    self.receiver = Some(Receiver::new(id, self.window));
                }
                let receiver = self.receiver.as_mut().unwrap();
                if self.reads && receiver.on_next(&data, now) {
                    self.delivered.extend_from_slice(data.payload);
                } else {
                    receiver.on_data(&data, now);
                }
            }
            Datagram::Ack(id, ack) => {
                assert_eq!(id, self.sender.id());
                self.sender.on_ack(&ack, now);
            }
            other => panic!("{other:?}"),
        }
        self.post(false);
    }

    /// Reads the bytes that the receiver has received in order, and sends the acknowledgement if
    /// one is due.
    fn read(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            while self.reads
                && let Some(bytes) = receiver.read()
            {
                self.delivered.extend_from_slice(&bytes);
            }
            receiver.acknowledge(self.now, &mut self.out);
        }
        self.post(false);
    }

    /// Writes as many bytes as the sender accepts, and sends the datagrams that are due.
    fn flush(&mut self) {
        while !self.unwritten.is_empty()
            && let Ok(count) = self.sender.write(&self.unwritten)
        {
            self.unwritten.advance(count);
        }
        self.sender.transmit(self.now, &mut self.out);
        self.post(true);
    }

    /// Waits until something happens, at most until `until`, and handles what arrives then.
    fn step(&mut self, until: Instant) {
        let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let ack = self.receiver.as_ref().map_or(Instant::MAX, Receiver::next_timeout);
        let next = arrival.unwrap_or(Instant::MAX).min(self.sender.next_timeout()).min(ack);
        let next = next.min(until);
        assert!(next < Instant::MAX, "nothing happens any more: {:?}", self.sender);
        self.now = self.now.max(next);
        while let Some(first) = self.under_way.first_entry()
            && first.key().0 <= self.now
        {
            let (to_receiver, bytes) = first.remove();
            self.arrive(to_receiver, &bytes);
        }
        self.read();
    }

    /// Runs until `done` returns true, and returns the elapsed virtual time. Panics if that takes
    /// `limit` or longer.
    fn until(&mut self, limit: Duration, done: impl Fn(&Run) -> bool) -> Duration {
        let began = self.now;
        self.flush();
        while !done(self) {
            self.step(Instant::MAX);
            assert!(
                self.now.since(began) < limit,
                "{:?}: {} delivered after {limit:?}",
                self.quality,
                self.delivered.len()
            );
            self.flush();
        }
        self.now.since(began)
    }

    /// Sends `count` bytes, waits until the receiver has delivered them, and returns the elapsed
    /// virtual time.
    fn transfer(&mut self, count: usize, limit: Duration) -> Duration {
        let all = self.delivered.len() + count;
        let position = |at: usize| u8::try_from(at % 251).unwrap();
        self.unwritten.extend((self.delivered.len()..all).map(position));
        let time = self.until(limit, |run| run.delivered.len() == all);
        assert!((0..all).map(position).eq(self.delivered.iter().copied()), "other bytes arrived");
        time
    }

    /// Sends `count` messages of 700 bytes, one per interval, and returns their delays, sorted.
    fn delays(&mut self, count: usize, interval: Duration) -> Vec<Duration> {
        const BYTES: usize = 700;
        let (began, delivered) = (self.now, self.delivered.len());
        let written_at: Vec<Instant> =
            (0..count).map(|at| began + interval * u32::try_from(at).unwrap()).collect();
        let (mut written, mut delays) = (0, Vec::new());
        while delays.len() < count {
            while written < count && written_at[written] <= self.now {
                self.unwritten.extend([7; BYTES]);
                written += 1;
            }
            self.flush();
            self.step(written_at.get(written).copied().unwrap_or(Instant::MAX));
            let arrived = (self.delivered.len() - delivered) / BYTES;
            delays.extend(written_at[delays.len()..arrived].iter().map(|at| self.now.since(*at)));
        }
        delays.sort_unstable();
        delays
    }
}

#[test]
fn udp_stream_delivers_all_bytes_in_order_despite_loss() {
    for seed in 0..60 {
        let quality = Quality {
            loss: u32::try_from(seed).unwrap(),
            burst: if seed % 3 == 0 { 75 } else { 0 },
            delay: Duration::from_micros([50, 1_000, 20_000][usize::try_from(seed % 3).unwrap()]),
            jitter: Duration::from_micros(
                [0, 300, 30_000, 100_000][usize::try_from(seed % 4).unwrap()],
            ),
            duplicates: [0, 20][usize::try_from(seed % 2).unwrap()],
        };
        let mut run = Run::new(seed, quality);
        for count in [1, 5_000, 100, 300_000, 1, 1, 40_000] {
            run.transfer(count, Duration::from_mins(1));
        }
    }
}

/// At 30 % loss, a small message arrives within a few round trips, and not after some 200 ms as
/// with TCP. All times are virtual.
#[test]
fn lost_datagrams_are_resent_within_few_round_trips() {
    for (loss, typical, slow) in [(0, 1, 1), (10, 1, 10), (30, 1, 15), (50, 6, 25)] {
        let mut run = Run::new(9, Quality::lossy(loss));
        let mut times: Vec<Duration> = (0..500)
            .map(|_| {
                let time = run.transfer(900, Duration::from_secs(1));
                // What is still unacknowledged is not part of the next message.
                run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
                time
            })
            .collect();
        times.sort_unstable();
        let round_trip = Quality::lossy(0).delay * 2;
        let (median, late) = (times[250], times[495]);
        assert!(median <= round_trip * typical, "{loss} %: median {median:?}");
        assert!(late <= round_trip * slow * 2, "{loss} %: p99 {late:?}");
    }
}

#[test]
fn udp_stream_retransmits_nothing_without_loss() {
    let mut run = Run::new(1, Quality::lossy(0));
    for count in [100_000, 10, 700_000] {
        run.transfer(count, Duration::from_secs(1));
    }
    assert_eq!((run.sender.resent(), run.sender.loss_permille()), (0, 0));
    // The request to open, and the bytes.
    let least = 800_010 / datagram::PAYLOAD_BYTES_MAX as u64;
    assert!(run.sent <= least + least / 20 + 5, "{} datagrams, {least} would do", run.sent);
}

/// With many datagrams in flight, a datagram outside of an acknowledgement's bitmap must not count
/// as lost.
#[test]
fn large_udp_transfer_resends_only_lost_datagrams() {
    for (loss, delay) in [(1, 100), (5, 100), (5, 20_000)] {
        let delay = Duration::from_micros(delay);
        let mut run = Run::new(7, Quality { delay, ..Quality::lossy(loss) });
        run.window = 8 << 20;
        run.transfer(20_000_000, Duration::from_secs(20));
        let count = 20_000_000 / datagram::PAYLOAD_BYTES_MAX as u64;
        let lost = count * u64::from(loss) / 100;
        assert!(run.sender.resent() <= lost * 3 / 2, "{} of {lost}", run.sender.resent());
    }
}

/// The rate at which bytes arrive is not measured while there is nothing to send.
#[test]
fn large_writes_after_pauses_arrive_within_a_round_trip() {
    let delay = Duration::from_millis(25);
    let mut run = Run::new(6, Quality { delay, ..Quality::lossy(0) });
    // So that each write uses more than half of the window.
    run.sender = Sender::new(7, 200_000, run.now);
    for _ in 0..20 {
        run.transfer(150_000, Duration::from_secs(1));
        run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
        run.now = run.now + Duration::from_millis(400);
    }
    let time = run.transfer(150_000, Duration::from_secs(1));
    assert!(time < delay * 2, "{time:?}");
}

/// A datagram counts as lost only when a datagram with a number higher by [`REORDERING_MAX`] has
/// been acknowledged, or after some time.
#[test]
fn slight_datagram_reordering_is_not_treated_as_loss() {
    let now = Instant(1_000_000_000);
    let mut sender = Sender::new(1, 1 << 20, now);
    sender.on_cookie(2, now);
    sender.write_all(&[0; 6 * datagram::PAYLOAD_BYTES_MAX]).unwrap();
    let mut out = Outbox::default();
    sender.transmit(now, &mut out);
    out.clear();
    let mut resent_after = |largest: u64| {
        // All but the datagram 0 have arrived.
        let mut ack = Ack { largest, limit: 1 << 20, ..Ack::default() };
        ack.bitmap[0] = (1 << (largest - 1)) - 1;
        sender.on_ack(&ack, now + Duration::from_micros(100));
        sender.transmit(now + Duration::from_micros(100), &mut out);
        sender.resent()
    };
    assert_eq!([1, 2].map(&mut resent_after), [0, 0]);
    assert_eq!(resent_after(REORDERING_MAX), 1);
}

#[test]
fn high_measured_loss_sends_each_datagram_twice() {
    let mut run = Run::new(2, Quality::lossy(30));
    run.transfer(2_000_000, Duration::from_secs(20));
    let loss = run.sender.loss_permille();
    assert!((150..450).contains(&loss), "{loss} permille of 300");
    assert!(run.receiver.as_ref().unwrap().loss_permille() > 150);
    let least = 2_000_000 / datagram::PAYLOAD_BYTES_MAX as u64;
    assert!(run.sent > least * 2 && run.sent < least * 4, "{} of {least}", run.sent);
}

/// Where a retransmission would take long, nearly all messages arrive without one. A path with a
/// short round trip, or in full use, gets no second copies at the same loss.
#[test]
fn small_messages_on_a_long_lossy_path_are_sent_twice() {
    let delay = Duration::from_millis(10);
    let mut run = Run::new(4, Quality { delay, ..Quality::lossy(5) });
    run.transfer(10, Duration::from_secs(1));
    run.delays(1_000, Duration::from_millis(2));
    let delays = run.delays(5_000, Duration::from_millis(2));
    let late = delays.iter().filter(|it| **it > delay + Duration::from_millis(1)).count();
    assert!(late < 250, "{late} of 5000 messages were late, {:?} at most", delays.last());
    let mut run = Run::new(4, Quality::lossy(5));
    run.transfer(10, Duration::from_secs(1));
    run.delays(1_000, Duration::from_millis(2));
    assert!(run.sent < 1_200, "{} datagrams for 1000 messages", run.sent);
}

#[test]
fn udp_sender_pauses_while_the_receiver_does_not_read() {
    let mut run = Run::new(3, Quality::lossy(20));
    run.transfer(10, Duration::from_secs(1));
    run.reads = false;
    run.unwritten.extend(std::iter::repeat_n(10, 3 * WINDOW));
    run.until(Duration::from_secs(10), |run| run.now > Instant(8_000_000_000));
    assert!(run.unwritten.len() >= 2 * WINDOW, "{} not accepted", run.unwritten.len());
    assert_eq!(run.sender.state(), StreamState::Open, "a full receiver is not a dead one");
    run.reads = true;
    // Something must arrive before it reads again, as in the server it is woken for other reasons.
    run.until(Duration::from_secs(10), |run| run.delivered.len() == 10 + 3 * WINDOW);
}

#[test]
fn udp_stream_fails_if_receiver_is_silent_or_resets_it() {
    let mut run = Run::new(4, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
    let sent = run.sent;
    run.quality.loss = 100;
    run.now = run.now + Duration::from_hours(1);
    run.unwritten.extend([7]);
    let time = run.until(Duration::from_secs(20), |run| run.sender.state() == StreamState::Failed);
    assert!(time >= Duration::from_secs(5), "after {time:?}, although it was idle before");
    assert!(run.sent - sent < 100, "{} datagrams to a dead receiver", run.sent - sent);
    let mut run = Run::new(5, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    run.sender.on_reset();
    assert!(run.sender.write(b"x").is_err() && run.sender.next_timeout() == Instant::MAX);
}

/// A bulk stream may be idle for hours before a large write.
#[test]
fn large_write_after_a_long_idle_udp_stream_arrives() {
    for loss in [0, 30] {
        let mut run = Run::new(6, Quality::lossy(loss));
        run.transfer(10, Duration::from_secs(1));
        for _ in 0..5 {
            run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
            run.now = run.now + Duration::from_hours(1);
            run.transfer(600_000, Duration::from_secs(2));
        }
        assert_eq!(run.sender.state(), StreamState::Open);
    }
}

/// The time without an acknowledgement is measured from the latest write, not from the last
/// acknowledgement before it.
#[test]
fn peer_silence_timeout_after_idle_time_starts_at_next_write() {
    let mut run = Run::new(6, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
    run.now = run.now + Duration::from_hours(1);
    run.quality.loss = 100;
    run.unwritten.extend([0; 5_000]);
    let until = run.now + Duration::from_secs(3);
    run.until(Duration::from_secs(4), |run| run.now >= until);
    assert_eq!(run.sender.state(), StreamState::Open);
    run.quality.loss = 0;
    run.until(Duration::from_secs(1), |run| run.delivered.len() == 5_010);
}

/// After a pause of the sender's process, the sender does not conclude that the receiver is silent.
#[test]
fn udp_sender_resumed_after_pause_does_not_time_out_receiver() {
    let mut run = Run::new(6, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    // Under load, it sends many times before the first acknowledgement.
    for _ in 0..20 {
        run.unwritten.extend([0; 250]);
        run.flush();
    }
    run.now = run.now + Duration::from_mins(1);
    run.flush();
    assert_eq!(run.sender.state(), StreamState::Open);
    run.until(Duration::from_secs(1), |run| run.delivered.len() == 5_010);
}

/// Frequent writes put off every probe, and must not put off the failure of the stream.
#[test]
fn frequent_writes_do_not_delay_the_peer_silence_timeout() {
    let delay = Duration::from_millis(20);
    let mut run = Run::new(6, Quality { delay, ..Quality::lossy(0) });
    run.transfer(10, Duration::from_secs(1));
    run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
    run.quality.loss = 100;
    let began = run.now;
    let mut written_at = began;
    while run.sender.state() != StreamState::Failed {
        assert!(run.now.since(began) < Duration::from_secs(10), "{:?}", run.sender.state());
        run.unwritten.extend([7; 100]);
        written_at = written_at + delay;
        run.flush();
        while run.now < written_at {
            run.step(written_at);
            run.flush();
        }
    }
    let time = run.now.since(began);
    assert!((5..6).contains(&time.as_secs()), "after {time:?}");
}

#[test]
fn datagrams_of_a_send_batch_have_equal_length_except_the_last() {
    let mut out = Outbox::default();
    let payload = [0; 100];
    for length in [100, 100, 40, 100, 7, 7, 100, 100, 100] {
        out.push(&Datagram::Data(
            crate::wire::datagram::StreamId { stream: 1, cookie: 2 },
            datagram::Data { number: 0, offset: 0, payload: &payload[..length] },
        ));
    }
    let head = 40;
    let runs = |max| out.runs(max).map(|(run, length)| (run.len(), length)).collect::<Vec<_>>();
    assert_eq!(
        runs(64),
        [
            (3 * head + 240, head + 100),
            (2 * head + 107, head + 100),
            (head + 7, head + 7),
            (3 * (head + 100), head + 100)
        ]
    );
    assert_eq!(runs(1).len(), 9);
    out.clear();
    assert!(out.is_empty() && out.runs(5).next().is_none());
}
