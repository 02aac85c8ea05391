//! The sending half of a stream: cuts bytes into datagrams, and retransmits what is lost.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::config::Mutant;
use crate::types::Instant;
use crate::wire::datagram::{Ack, BITMAP_BITS, Data, Datagram, PAYLOAD_BYTES_MAX, StreamId};

use super::pacer::Pacer;
use super::path::{Loss, RoundTrips};
use super::window::{Acknowledged, Window};
use super::{ACK_DELAY, Outbox, REORDERING_MAX};

/// Interval between the first two requests to open a stream. It doubles with each further request,
/// up to [`OPEN_INTERVAL_MAX`].
const OPEN_INTERVAL_MIN: Duration = Duration::from_millis(10);
const OPEN_INTERVAL_MAX: Duration = Duration::from_millis(200);
/// Minimum time without an acknowledgement after which a stream has failed, if the sender is
/// waiting for the receiver.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Minimum number of calls of [`Sender::transmit`] that must have sent datagrams in the second half
/// of [`SILENCE_MAX`], or later, before the stream counts as failed. Fewer calls mean that this
/// process itself was paused. Calls in the first half do not count: a process under load makes many
/// of them shortly before a pause.
const SILENT_SENDS_MIN: u32 = 10;
/// Minimum interval between probes (datagrams that ask for an acknowledgement) while the receive
/// window is full and nothing is in flight. The receiver announces more space without being asked,
/// but its acknowledgement may be lost.
const BLOCKED_PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Number of bytes that a sender may send before the first acknowledgement: the minimum receive
/// window.
const LIMIT_INITIAL: u64 = super::receiver::WINDOW_MIN as u64;
/// Minimum loss rate, in permille, at which the sender sends each datagram twice.
const TWICE_PERMILLE: u32 = 70;
/// The same for paths with a long round trip. There a lost datagram delays everything behind it by
/// more than a round trip, often at the same time as on the path to another replica.
const TWICE_LONG_PERMILLE: u32 = 5;
/// Maximum number of bytes in flight with which such a path counts as hardly used, so that second
/// copies may use it.
const TWICE_LONG_BYTES_MAX: usize = 128 << 10;
/// Minimum loss rate, in permille, at which the sender does not expect the receiver to delay
/// acknowledgements.
const PROMPT_PERMILLE: u32 = 50;
/// Maximum number of segments that one probe (retransmission after an overdue acknowledgement)
/// sends.
const PROBE_SEGMENTS: usize = 16;
/// Number of consecutive probes (retransmissions after an overdue acknowledgement) at a constant
/// interval. After these probes, the interval doubles with each further probe. On a lossy path, a
/// few probes in a row are lost too.
const FAST_PROBES: u32 = 3;
/// Maximum interval between two consecutive probes (retransmissions after an overdue
/// acknowledgement), unless acknowledgements normally take longer.
const PROBE_INTERVAL_MAX: Duration = Duration::from_millis(100);
/// Maximum number of transmissions, counted from the oldest one that is neither acknowledged nor
/// lost up to the newest. It is the number of datagrams that the bitmap of an acknowledgement
/// covers: a datagram outside of the bitmap would count as lost although it has arrived. Probes
/// (retransmissions after an overdue acknowledgement) may exceed this number.
const TRANSMISSIONS_MAX: usize = BITMAP_BITS;
/// Size in bytes of one memory allocation, which several segments (payloads of one datagram each)
/// share.
const BUFFER_BYTES: usize = 32 << 10;

/// A segment of the stream: the payload of one datagram, kept until it is acknowledged.
#[derive(Debug)]
struct Segment {
    offset: u64,
    payload: Bytes,
    /// Number of transmissions of this segment that are neither acknowledged nor lost.
    in_flight: u32,
    acknowledged: bool,
}

/// One datagram that was sent. A segment that is lost is sent again in another transmission.
#[derive(Clone, Copy, Debug)]
struct Transmission {
    /// Index of the segment that was sent, counted from the beginning of the stream; `None` for a
    /// datagram without a payload, which only asks for an acknowledgement.
    segment: Option<u64>,
    bytes: usize,
    sent_at: Instant,
    /// Whether the transmission was acknowledged or counts as lost.
    decided: bool,
}

/// The state of a stream (one-way byte stream over UDP), as known to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamState {
    /// The sender is asking for the cookie (token that opens the stream), which the receiver has
    /// not sent yet.
    Opening,
    /// The stream is open: bytes can be sent.
    Open,
    /// The receiver has reset the stream, or has acknowledged nothing for at least 5 seconds, and
    /// longer on paths with long round trips, although the sender was waiting.
    Failed,
}

/// The sending half of a stream (one-way byte stream over UDP). Bytes are written to it with
/// [`io::Write`], which fails with [`ErrorKind::WouldBlock`] while the congestion window or the
/// receive window is full.
///
/// Invariant: `segments` begins with the oldest segment that is not acknowledged; `bytes_in_flight`
/// is the total length of the transmissions that are neither acknowledged nor lost.
#[derive(Debug)]
pub struct Sender {
    id: StreamId,
    state: StreamState,
    open_at: Instant,
    open_interval: Duration,
    /// Bytes that were written but are not part of a segment yet, with spare capacity for later
    /// segments.
    buffer: BytesMut,
    /// Number of bytes written to the stream since it was created.
    written: u64,
    segments: VecDeque<Segment>,
    /// Index of the first segment in `segments`, counted from the beginning of the stream.
    first_segment: u64,
    /// Index of the first segment that has not been sent yet.
    next_segment: u64,
    /// Indexes of the lost segments that must be retransmitted. None of them is in flight.
    lost: VecDeque<u64>,
    transmissions: VecDeque<Transmission>,
    /// Datagram number of the first transmission in `transmissions`.
    first_transmission: u64,
    bytes_in_flight: usize,
    /// Position in the stream up to which the receiver accepts bytes: the end of its receive
    /// window.
    limit: u64,
    /// Whether the last write accepted fewer bytes than offered, because the congestion window or
    /// the receive window was full.
    is_blocked: bool,
    /// The largest acknowledged datagram number; `None` before the first acknowledgement.
    largest_acknowledged: Option<u64>,
    /// When the last acknowledgement arrived or, if that is later, when the sender began to wait
    /// for one. The silence of the receiver is measured from this time.
    heard_at: Instant,
    /// Whether the sender was waiting for an acknowledgement, or for space in a full window, at the
    /// end of the last call of [`Sender::transmit`] or [`Sender::on_ack`]. The stream fails only if
    /// this is true and [`SILENCE_MAX`] has passed since `heard_at`.
    waits: bool,
    /// When a datagram was last sent.
    sent_at: Instant,
    /// Number of probes (retransmissions after an overdue acknowledgement) since the last
    /// acknowledgement.
    probes: u32,
    /// Number of calls of [`Sender::transmit`] that sent datagrams when at least half of
    /// [`SILENCE_MAX`] had passed since `heard_at`.
    unheard_sends: u32,
    /// When the newest of all lost datagrams was sent; [`Instant::ZERO`] if none was lost.
    lost_sent_at: Instant,
    round_trip: RoundTrips,
    loss: Loss,
    window: Window,
    pacer: Pacer,
    /// Number of retransmissions since the stream was created, including second copies of datagrams
    /// that are sent twice because of high loss.
    resent: u64,
    /// The rule that this sender breaks on purpose (mutation testing); `None` for no rule.
    pub(crate) mutant: Option<Mutant>,
}

impl Sender {
    /// Creates the sending half of the stream with the number `stream`, which must be random and
    /// never reused. `window_max` is the maximum number of bytes in flight.
    pub fn new(stream: u64, window_max: usize, now: Instant) -> Sender {
        Sender {
            id: StreamId { stream, cookie: 0 },
            state: StreamState::Opening,
            open_at: now,
            open_interval: OPEN_INTERVAL_MIN,
            buffer: BytesMut::new(),
            written: 0,
            segments: VecDeque::new(),
            first_segment: 0,
            next_segment: 0,
            lost: VecDeque::new(),
            transmissions: VecDeque::new(),
            first_transmission: 0,
            bytes_in_flight: 0,
            limit: LIMIT_INITIAL,
            is_blocked: false,
            largest_acknowledged: None,
            heard_at: now,
            waits: false,
            sent_at: now,
            probes: 0,
            unheard_sends: 0,
            lost_sent_at: Instant::ZERO,
            round_trip: RoundTrips::new(now),
            loss: Loss::default(),
            window: Window::new(window_max, now),
            pacer: Pacer::default(),
            resent: 0,
            mutant: None,
        }
    }

    /// Returns the id of the stream: its number, and its cookie (0 until the receiver has sent it).
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Returns the state of the stream: opening, open or failed.
    pub fn state(&self) -> StreamState {
        self.state
    }

    /// Returns the smoothed round-trip time.
    pub fn round_trip(&self) -> Duration {
        self.round_trip.smoothed()
    }

    /// Returns the share of sent datagrams that are lost, in permille.
    pub fn loss_permille(&self) -> u32 {
        self.loss.permille()
    }

    /// Returns the number of retransmissions, including second copies of datagrams that are sent
    /// twice because of high loss.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Returns whether any bytes were sent and are not acknowledged yet.
    pub fn is_awaiting(&self) -> bool {
        self.in_transit().any(|(_, segment)| !segment.acknowledged)
    }

    /// Returns whether all bytes that were written have arrived, according to the receiver.
    pub fn is_complete(&self) -> bool {
        !self.has_unsent() && !self.is_awaiting()
    }

    /// Returns all segments in memory that were sent at least once, with their numbers. Some of
    /// them may be acknowledged already.
    fn in_transit(&self) -> impl Iterator<Item = (u64, &Segment)> {
        (self.first_segment..self.next_segment).zip(&self.segments)
    }

    /// Handles the receiver's reply to the request to open the stream: stores the cookie and opens
    /// the stream.
    pub fn on_cookie(&mut self, cookie: u64, now: Instant) {
        if self.state == StreamState::Opening {
            self.state = StreamState::Open;
            self.id.cookie = cookie;
            (self.heard_at, self.sent_at) = (now, now);
        }
    }

    /// Handles a reset from the receiver, which has closed the stream or does not know it: the
    /// stream has failed.
    pub fn on_reset(&mut self) {
        self.state = StreamState::Failed;
    }

    /// Handles an acknowledgement from the receiver. Ignores it if it acknowledges datagrams or
    /// bytes that were never sent.
    pub fn on_ack(&mut self, ack: &Ack, now: Instant) {
        let next_transmission = self.first_transmission + self.transmissions.len() as u64;
        if ack.largest >= next_transmission || ack.received > self.sent() {
            return;
        }
        self.limit = self.limit.max(ack.limit);
        (self.heard_at, self.probes, self.unheard_sends) = (now, 0, 0);
        let is_used = self.is_window_used();
        self.largest_acknowledged = self.largest_acknowledged.max(Some(ack.largest));
        if let Some(at) = ack.largest.checked_sub(self.first_transmission) {
            let transmission = &self.transmissions[usize::try_from(at).expect("few transmissions")];
            if !transmission.decided {
                let delay = Duration::from_micros(ack.delay.into());
                self.round_trip.add(now.since(transmission.sent_at).saturating_sub(delay), now);
            }
        }
        let acknowledged = self.decide(Some(ack), now);
        while let Some(first) = self.segments.front()
            && first.offset + first.payload.len() as u64 <= ack.received
            && self.first_segment < self.next_segment
        {
            self.segments.pop_front();
            self.first_segment += 1;
        }
        self.waits = self.is_awaiting() || self.is_blocked;
        if acknowledged > 0 {
            let ack = Acknowledged {
                bytes: acknowledged,
                is_used,
                is_idle: !self.waits && !self.has_unsent(),
                lost_sent_at: self.lost_sent_at,
            };
            self.window.on_ack(ack, &self.round_trip, now);
        }
        self.check();
    }

    /// Decides for each transmission up to the largest acknowledged one whether it has arrived
    /// (according to `ack`) or is lost, and queues lost segments for retransmission. Goes through
    /// the transmissions in order of sending, so that the moving average of the loss covers all of
    /// them. Returns the number of bytes that `ack` has newly acknowledged.
    fn decide(&mut self, ack: Option<&Ack>, now: Instant) -> usize {
        let Some(largest) = self.largest_acknowledged else { return 0 };
        let delay = self.round_trip.reordering_delay();
        let mut acknowledged = 0;
        for at in 0..self.transmissions.len() {
            let number = self.first_transmission + at as u64;
            if number > largest {
                break;
            }
            let Transmission { segment, bytes, sent_at, decided } = self.transmissions[at];
            let arrived = ack.is_some_and(|ack| ack.contains(number));
            let is_overdue = largest - number >= REORDERING_MAX || now >= sent_at + delay;
            if arrived && decided {
                // It was only late, but its segment is complete.
                self.segment_mut(segment, |segment| segment.acknowledged = true);
            }
            if decided || !arrived && (number == largest || !is_overdue) {
                continue;
            }
            self.transmissions[at].decided = true;
            self.bytes_in_flight -= bytes;
            self.loss.add(!arrived);
            if arrived {
                acknowledged += bytes;
            } else {
                self.lost_sent_at = self.lost_sent_at.max(sent_at);
            }
            let is_lost = self.segment_mut(segment, |segment| {
                segment.in_flight -= 1;
                segment.acknowledged |= arrived;
                !segment.acknowledged && segment.in_flight == 0
            });
            if is_lost == Some(true) && self.mutant != Some(Mutant::KeepLostBytes) {
                self.lost.extend(segment);
            }
        }
        while self.transmissions.pop_front_if(|transmission| transmission.decided).is_some() {
            self.first_transmission += 1;
        }
        acknowledged
    }

    /// Calls `change` with the segment that has this number, and returns its result; `None` if the
    /// segment was removed because it is acknowledged.
    fn segment_mut<T>(
        &mut self,
        number: Option<u64>,
        change: impl FnOnce(&mut Segment) -> T,
    ) -> Option<T> {
        let at = number?.checked_sub(self.first_segment)?;
        self.segments.get_mut(usize::try_from(at).expect("few segments")).map(change)
    }

    /// Returns the time by which [`Sender::transmit`] must be called even if no bytes are written
    /// and no datagram arrives; [`Instant::MAX`] if there is nothing to wait for.
    pub fn next_timeout(&self) -> Instant {
        match self.state {
            StreamState::Failed => return Instant::MAX,
            StreamState::Opening => return self.open_at,
            StreamState::Open => {}
        }
        if self.transmissions.len() < TRANSMISSIONS_MAX
            && (!self.lost.is_empty() || self.has_unsent())
        {
            return self.pacer.next(self.pacing_rate()).min(self.probe_at());
        }
        self.loss_at().min(self.probe_at())
    }

    /// Returns when the oldest transmission that is neither acknowledged nor lost counts as lost,
    /// because a later one was acknowledged; [`Instant::MAX`] if no later one was.
    fn loss_at(&self) -> Instant {
        let first = self.transmissions.front().filter(|_| {
            self.largest_acknowledged.is_some_and(|largest| self.first_transmission < largest)
        });
        first.map_or(Instant::MAX, |transmission| {
            transmission.sent_at + self.round_trip.reordering_delay()
        })
    }

    /// Returns when the next probe is due because an acknowledgement is overdue; [`Instant::MAX`]
    /// if the sender is not waiting for one.
    fn probe_at(&self) -> Instant {
        let overdue_after = match (self.is_awaiting(), self.is_blocked) {
            (true, _) => self.overdue_after(),
            (false, true) => self.overdue_after().max(BLOCKED_PROBE_INTERVAL),
            (false, false) => return Instant::MAX,
        };
        let doublings = self.probes.saturating_sub(FAST_PROBES).min(16);
        self.sent_at + (overdue_after * (1 << doublings)).min(PROBE_INTERVAL_MAX.max(overdue_after))
    }

    /// Returns how long after a transmission its acknowledgement is overdue, including the time by
    /// which the receiver may delay it.
    fn overdue_after(&self) -> Duration {
        let is_prompt = self.loss.permille() >= PROMPT_PERMILLE;
        let delay = if is_prompt { Duration::ZERO } else { ACK_DELAY };
        self.round_trip.overdue_after() + delay
    }

    /// Appends the datagrams that are due at `now` to `out`: requests to open the stream,
    /// retransmissions, probes and new segments.
    pub fn transmit(&mut self, now: Instant, out: &mut Outbox) {
        match self.state {
            StreamState::Failed => return,
            StreamState::Opening => {
                if now >= self.open_at {
                    out.push(&Datagram::Open(self.id));
                    self.open_at = now + self.open_interval;
                    self.open_interval = (self.open_interval * 2).min(OPEN_INTERVAL_MAX);
                }
                return;
            }
            StreamState::Open => {}
        }
        self.decide(None, now);
        self.cut();
        let first_new = self.next_segment;
        let is_silent = self.waits && now.since(self.heard_at) >= SILENCE_MAX;
        if is_silent && self.unheard_sends >= SILENT_SENDS_MIN {
            self.state = StreamState::Failed;
            return;
        }
        let sent = self.first_transmission + self.transmissions.len() as u64;
        let mut again = if now >= self.probe_at() { self.probe(now, out) } else { Vec::new() };
        while self.can_send(now)
            && let Some(number) = self.lost.pop_front()
        {
            again.push(number);
            self.send_segment(number, true, now, out);
        }
        while self.can_send(now) && self.has_unsent() {
            let number = self.next_segment;
            self.next_segment += 1;
            self.send_segment(number, false, now, out);
        }
        if self.sends_twice() {
            // Not directly after the first copy: losses come in bursts.
            for number in again.into_iter().chain(first_new..self.next_segment) {
                if self.can_send(now) {
                    self.send_segment(number, true, now, out);
                }
            }
        }
        let has_sent = self.first_transmission + self.transmissions.len() as u64 > sent;
        let waits = self.is_awaiting() || self.is_blocked;
        if waits && !self.waits {
            self.heard_at = now;
        }
        self.waits = waits;
        let is_late = now.since(self.heard_at) >= SILENCE_MAX / 2;
        self.unheard_sends += u32::from(has_sent && is_late);
        self.check();
    }

    /// Returns whether a datagram may be sent now.
    fn can_send(&self, now: Instant) -> bool {
        self.transmissions.len() < TRANSMISSIONS_MAX && now >= self.pacer.next(self.pacing_rate())
    }

    fn pacing_rate(&self) -> u64 {
        self.window.pacing_rate(self.round_trip.smoothed())
    }

    /// Returns whether each datagram is sent twice. A path that is well used has no bandwidth for
    /// second copies.
    fn sends_twice(&self) -> bool {
        let loss = self.loss.permille();
        let is_long = self.round_trip.is_long() && self.bytes_in_flight <= TWICE_LONG_BYTES_MAX;
        let is_lossy = loss >= TWICE_PERMILLE || is_long && loss >= TWICE_LONG_PERMILLE;
        is_lossy && !self.is_window_used()
    }

    /// Returns whether more than half of the congestion window is in flight.
    fn is_window_used(&self) -> bool {
        self.bytes_in_flight * 2 > self.window.bytes()
    }

    /// Retransmits the oldest unacknowledged segments without pacing, because an acknowledgement is
    /// overdue, and returns their numbers. If there are none, sends a datagram without a payload,
    /// which asks for an acknowledgement.
    fn probe(&mut self, now: Instant, out: &mut Outbox) -> Vec<u64> {
        self.probes += 1;
        // So that all probes of a receiver that is stopped fit into its system's buffer.
        let most = PROBE_SEGMENTS.min(self.window.bytes() / PAYLOAD_BYTES_MAX);
        let count = if self.probes <= FAST_PROBES { most } else { 1 };
        let open = self.in_transit().filter(|(_, segment)| !segment.acknowledged);
        let mut oldest: Vec<u64> = open.map(|(number, _)| number).take(count).collect();
        if self.mutant == Some(Mutant::KeepLostBytes) {
            oldest.clear();
        }
        if oldest.is_empty() {
            self.send(None, self.sent(), &Bytes::new(), now, out);
        }
        self.lost.retain(|number| !oldest.contains(number));
        for &number in &oldest {
            self.send_segment(number, true, now, out);
        }
        oldest
    }

    fn send_segment(&mut self, number: u64, again: bool, now: Instant, out: &mut Outbox) {
        let part = self.segment_mut(Some(number), |segment| {
            segment.in_flight += u32::from(!segment.acknowledged);
            (!segment.acknowledged).then(|| (segment.offset, segment.payload.clone()))
        });
        // It may be complete by now.
        let Some((offset, payload)) = part.flatten() else { return };
        self.resent += u64::from(again);
        self.send(Some(number), offset, &payload, now, out);
    }

    fn send(
        &mut self,
        segment: Option<u64>,
        offset: u64,
        payload: &Bytes,
        now: Instant,
        out: &mut Outbox,
    ) {
        let number = self.first_transmission + self.transmissions.len() as u64;
        let bytes = payload.len();
        out.push(&Datagram::Data(self.id, Data { number, offset, payload }));
        self.transmissions.push_back(Transmission { segment, bytes, sent_at: now, decided: false });
        self.bytes_in_flight += bytes;
        self.sent_at = now;
        self.pacer.on_send(bytes, self.pacing_rate(), now);
    }

    /// Makes a new segment of the bytes written since the last one, if there are any.
    fn cut(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let payload = self.buffer.split().freeze();
        let offset = self.written - payload.len() as u64;
        self.segments.push_back(Segment { offset, payload, in_flight: 0, acknowledged: false });
    }

    fn has_unsent(&self) -> bool {
        !self.buffer.is_empty()
            || self.next_segment < self.first_segment + self.segments.len() as u64
    }

    /// Returns the position in the stream after the last byte that was sent.
    fn sent(&self) -> u64 {
        let count = usize::try_from(self.next_segment - self.first_segment).expect("few segments");
        let unsent = self.segments.get(count).map(|segment| segment.offset);
        unsent.unwrap_or(self.written - self.buffer.len() as u64)
    }

    fn unsent_segments(&self) -> usize {
        let end = self.first_segment + self.segments.len() as u64;
        usize::try_from(end - self.next_segment).expect("few segments")
    }

    fn unsent_bytes(&self) -> usize {
        usize::try_from(self.written - self.sent()).expect("within the window")
    }

    fn check(&self) {
        debug_assert_eq!(
            self.transmissions.iter().filter(|it| !it.decided).map(|it| it.bytes).sum::<usize>(),
            self.bytes_in_flight,
            "{self:?}"
        );
        assert!(
            self.first_segment <= self.next_segment
                && self.next_segment <= self.first_segment + self.segments.len() as u64,
            "segments from {} to {}, the next is {}",
            self.first_segment,
            self.segments.len(),
            self.next_segment
        );
    }
}

impl io::Write for Sender {
    /// Accepts as many bytes as the congestion window and the receive window allow, to be sent by
    /// the next call of [`Sender::transmit`]. Returns their number.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if a window is full or the stream is not open yet;
    /// [`ErrorKind::ConnectionReset`] if the stream has failed.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.state {
            StreamState::Failed => return Err(ErrorKind::ConnectionReset.into()),
            StreamState::Opening => return Err(ErrorKind::WouldBlock.into()),
            StreamState::Open => {}
        }
        let window = self.window.bytes().saturating_sub(self.bytes_in_flight + self.unsent_bytes());
        let transmissions =
            TRANSMISSIONS_MAX.saturating_sub(self.transmissions.len() + self.unsent_segments());
        let window = window.min(transmissions * PAYLOAD_BYTES_MAX);
        let limit = self.limit.saturating_sub(self.written);
        let allowed = window.min(usize::try_from(limit).unwrap_or(usize::MAX)).min(bytes.len());
        self.is_blocked = allowed < bytes.len();
        // While a window is full, only full datagrams: acknowledgements would free space for more
        // and more small ones (silly window syndrome, RFC 9293, section 3.8.6.2).
        let partial = (self.buffer.len() + allowed) % PAYLOAD_BYTES_MAX;
        let allowed = allowed.saturating_sub(if self.is_blocked { partial } else { 0 });
        let mut rest = &bytes[..allowed];
        while !rest.is_empty() {
            if self.buffer.capacity() < PAYLOAD_BYTES_MAX {
                // What was cut before keeps its own part of the old allocation.
                let written =
                    std::mem::replace(&mut self.buffer, BytesMut::with_capacity(BUFFER_BYTES));
                self.buffer.extend_from_slice(&written);
            }
            let count = rest.len().min(PAYLOAD_BYTES_MAX - self.buffer.len());
            self.buffer.extend_from_slice(&rest[..count]);
            self.written += count as u64;
            rest = &rest[count..];
            if self.buffer.len() == PAYLOAD_BYTES_MAX {
                self.cut();
            }
        }
        if allowed == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(allowed) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
