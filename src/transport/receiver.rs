//! The receiving half of a stream: puts bytes in order, and acknowledges datagrams.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::config::Mutant;
use crate::types::Instant;
use crate::wire::datagram::{Ack, BITMAP_BITS, BITMAP_WORDS, Data, Datagram, StreamId};

use super::{ACK_DELAY, Outbox};

/// Maximum number of out-of-order pieces (received payloads before which bytes are missing) that
/// are kept. Further pieces are dropped, and the sender retransmits them.
const PIECES_MAX: usize = 8_192;
/// Minimum loss rate, in permille, at which the receiver sends each acknowledgement twice.
const REPEAT_ACK_PERMILLE: u32 = 50;
/// Maximum loss rate, in permille, at which the receiver may delay acknowledgements. Lower than the
/// loss rate at which senders stop expecting delays, because the two sides measure the loss
/// differently.
const DELAY_PERMILLE_MAX: u32 = 30;
/// Minimum receive window in bytes. A sender may send this number of bytes before it receives the
/// first acknowledgement.
pub const WINDOW_MIN: usize = 64 << 10;
/// Minimum number of datagrams that must have been sent before the receiver computes the loss rate.
/// Until then, it assumes a loss rate of zero.
const MEASURED_MIN: u64 = 64;
/// Number of received datagrams after which an acknowledgement is sent without delay.
const ACK_EVERY: u32 = 64;

/// The receiving half of a stream (one-way byte stream over UDP): puts the received bytes in order,
/// and acknowledges datagrams.
///
/// Invariant: `delivered <= received`; `ready` holds the bytes from position `delivered` to
/// `received`; each piece in `pieces` begins after `received` and ends at `delivered + window` or
/// before.
#[derive(Debug)]
pub struct Receiver {
    id: StreamId,
    /// Size of the receive window in bytes: the receiver accepts bytes up to the position
    /// `delivered + window` of the stream.
    window: u64,
    /// Number of bytes of the stream that were read with [`Receiver::read`] or handled by
    /// [`Receiver::on_next`].
    delivered: u64,
    /// Number of bytes received without a gap, from the beginning of the stream.
    received: u64,
    ready: VecDeque<Bytes>,
    /// Out-of-order pieces: received payloads before which bytes are missing, by their position in
    /// the stream.
    pieces: BTreeMap<u64, Bytes>,
    /// Total length of `pieces` in bytes. Bytes that are in several overlapping pieces are counted
    /// more than once.
    piece_bytes: u64,
    /// The last acknowledgement that was sent, updated with the numbers of the datagrams that have
    /// arrived since then.
    ack: Ack,
    /// When the datagram with the largest number so far arrived; `None` before the first datagram.
    largest_at: Option<Instant>,
    /// When the next acknowledgement must be sent; [`Instant::MAX`] if there is nothing to
    /// acknowledge.
    ack_at: Instant,
    /// Number of datagrams received since the receiver last sent an acknowledgement.
    since_ack: u32,
    /// The rule that this receiver breaks on purpose (mutation testing); `None` for no rule.
    pub(crate) mutant: Option<Mutant>,
}

impl Receiver {
    /// Creates the receiving half of the stream `id`, with a receive window of `window` bytes or
    /// [`WINDOW_MIN`], whichever is larger. At most twice this number of bytes is kept in memory.
    pub fn new(id: StreamId, window: usize) -> Receiver {
        let window = window.max(WINDOW_MIN) as u64;
        Receiver {
            id,
            window,
            delivered: 0,
            received: 0,
            ready: VecDeque::new(),
            pieces: BTreeMap::new(),
            piece_bytes: 0,
            ack: Ack { limit: window, ..Ack::default() },
            largest_at: None,
            ack_at: Instant::MAX,
            since_ack: 0,
            mutant: None,
        }
    }

    /// Returns the id of the stream: its number and its cookie.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Handles a data datagram that arrived at `now`. A datagram that exceeds the receive window or
    /// the memory for out-of-order pieces is ignored and not acknowledged.
    pub fn on_data(&mut self, data: &Data<'_>, now: Instant) {
        let Some(end) = data.offset.checked_add(data.payload.len() as u64) else { return };
        if end > self.delivered + self.window {
            return;
        }
        if data.offset > self.received && !data.payload.is_empty() {
            let length = data.payload.len() as u64;
            if self.pieces.len() >= PIECES_MAX || self.piece_bytes + length > self.window {
                return;
            }
            if let Entry::Vacant(place) = self.pieces.entry(data.offset) {
                place.insert(Bytes::copy_from_slice(data.payload));
                self.piece_bytes += length;
            }
        } else {
            self.append(data.offset, Bytes::copy_from_slice(data.payload));
            while let Some(first) = self.pieces.first_entry()
                && *first.key() <= self.received
            {
                let (offset, piece) = first.remove_entry();
                self.piece_bytes -= piece.len() as u64;
                self.append(offset, piece);
            }
        }
        self.note(data.number, now);
        self.check();
    }

    /// Fast path of [`Receiver::on_data`], without a copy, for a datagram with the next bytes of
    /// the stream while no other bytes are waiting to be read: handles it, counts its payload as
    /// read, and returns true. For any other datagram, does nothing and returns false.
    pub fn on_next(&mut self, data: &Data<'_>, now: Instant) -> bool {
        let is_next = data.offset == self.received && self.pieces.is_empty();
        if !is_next || self.is_readable() || data.payload.len() as u64 > self.window {
            return false;
        }
        self.received += data.payload.len() as u64;
        self.delivered = self.received;
        self.note(data.number, now);
        self.announce_limit(now);
        self.check();
        true
    }

    /// Appends the part of `bytes` that was not received before to `ready`. `offset` is the
    /// position of `bytes` in the stream, at most `received`.
    fn append(&mut self, offset: u64, mut bytes: Bytes) {
        let mut known = self.received.saturating_sub(offset);
        if self.mutant == Some(Mutant::DeliverBytesAgain) {
            known = 0;
        }
        if known < bytes.len() as u64 {
            let known = usize::try_from(known).expect("less than the length of a piece");
            let new = bytes.split_off(known);
            self.received += new.len() as u64;
            self.ready.push_back(new);
        }
    }

    /// Records that the datagram with this number was received, for the next acknowledgement, and
    /// sets the time at which that acknowledgement is due.
    fn note(&mut self, number: u64, now: Instant) {
        let is_first = self.largest_at.is_none();
        // The sender looks for gaps in the numbers, and resends what it does not hear of.
        let is_next = number == if is_first { 0 } else { self.ack.largest.wrapping_add(1) };
        self.since_ack += 1;
        let waits = is_next && self.pieces.is_empty() && self.since_ack < ACK_EVERY;
        let waits = waits && self.loss_permille() <= DELAY_PERMILLE_MAX;
        let delay = if waits { ACK_DELAY } else { Duration::ZERO };
        self.ack_at = self.ack_at.min(now + delay);
        if is_first || number > self.ack.largest {
            let shift = if is_first { 0 } else { number - self.ack.largest };
            shift_bitmap(&mut self.ack.bitmap, shift);
            (self.ack.largest, self.largest_at) = (number, Some(now));
        } else if let Some(back) = (self.ack.largest - number).checked_sub(1)
            && back < BITMAP_BITS as u64
        {
            let word = usize::try_from(back / 64).expect("a word of the bitmap");
            self.ack.bitmap[word] |= 1 << (back % 64);
        }
    }

    /// Returns whether [`Receiver::read`] would return bytes.
    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads and returns the next bytes of the stream, in order; `None` if they have not arrived
    /// yet.
    pub fn read(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.delivered += bytes.len() as u64;
        self.announce_limit(Instant::ZERO);
        self.check();
        Some(bytes)
    }

    /// Makes an acknowledgement due at `now` if the receive window has moved by at least half of
    /// its size since the last acknowledgement, because the sender may be waiting for space in the
    /// window.
    fn announce_limit(&mut self, now: Instant) {
        if self.delivered + self.window - self.ack.limit >= self.window / 2 {
            self.ack_at = self.ack_at.min(now);
        }
    }

    /// Returns when [`Receiver::acknowledge`] must be called next; [`Instant::MAX`] if there is
    /// nothing to acknowledge.
    pub fn next_timeout(&self) -> Instant {
        self.ack_at
    }

    /// Appends an acknowledgement to `out` if one is due at `now`, twice if many datagrams are
    /// lost. Must be called after each batch of received datagrams. While all datagrams arrive in
    /// order, acknowledgements are delayed by up to `ACK_DELAY`.
    pub fn acknowledge(&mut self, now: Instant, out: &mut Outbox) {
        let Some(largest_at) = self.largest_at.filter(|_| now >= self.ack_at) else { return };
        (self.ack_at, self.since_ack) = (Instant::MAX, 0);
        let delay = now.since(largest_at).as_micros();
        self.ack = Ack {
            received: self.received,
            limit: self.delivered + self.window,
            delay: u32::try_from(delay).unwrap_or(u32::MAX),
            ..self.ack
        };
        let copies = if self.loss_permille() >= REPEAT_ACK_PERMILLE { 2 } else { 1 };
        for _ in 0..copies {
            out.push(&Datagram::Ack(self.id, self.ack));
        }
    }

    /// Returns the number of datagrams that were sent before the newest one that has arrived.
    pub fn sent_before(&self) -> u64 {
        self.ack.largest
    }

    /// Returns the share of the latest datagrams (at most 1,024) that have not arrived, in
    /// permille; 0 if fewer than 64 datagrams were sent.
    pub fn loss_permille(&self) -> u32 {
        let sent = self.ack.largest.min(BITMAP_BITS as u64);
        if sent < MEASURED_MIN {
            return 0;
        }
        let arrived: u32 = self.ack.bitmap.iter().map(|word| word.count_ones()).sum();
        let lost = sent.saturating_sub(u64::from(arrived));
        u32::try_from(lost * 1_000 / sent).expect("at most 1000")
    }

    fn check(&self) {
        debug_assert_eq!(
            self.ready.iter().map(|bytes| bytes.len() as u64).sum::<u64>(),
            self.received - self.delivered,
            "{self:?}"
        );
        assert!(
            self.pieces.first_key_value().is_none_or(|(offset, _)| *offset > self.received)
                && self.received <= self.delivered + self.window,
            "{} received and {} delivered of a window of {}",
            self.received,
            self.delivered,
            self.window
        );
    }
}

/// Updates the bitmap of an acknowledgement, in which each bit stands for a datagram before the
/// largest received number, after that number has risen by `by`.
fn shift_bitmap(bitmap: &mut [u64; BITMAP_WORDS], by: u64) {
    if by == 0 {
        return;
    }
    // The former largest number was received too.
    let all: [u64; BITMAP_WORDS] = std::array::from_fn(|word| {
        bitmap[word] << 1 | if word == 0 { 1 } else { bitmap[word - 1] >> 63 }
    });
    let (words, bits) = ((by - 1) / 64, (by - 1) % 64);
    *bitmap = std::array::from_fn(|word| {
        let Some(from) = (word as u64).checked_sub(words) else { return 0 };
        let from = usize::try_from(from).expect("a word of the bitmap");
        let low = all[from] << bits;
        if bits > 0 && from > 0 { low | all[from - 1] >> (64 - bits) } else { low }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StreamId = StreamId { stream: 1, cookie: 2 };

    fn receive(receiver: &mut Receiver, number: u64, offset: u64, payload: &[u8]) {
        receiver.on_data(&Data { number, offset, payload }, Instant(number));
    }

    fn read(receiver: &mut Receiver) -> Vec<u8> {
        std::iter::from_fn(|| receiver.read()).flatten().collect()
    }

    fn ack(receiver: &mut Receiver) -> Option<Ack> {
        let mut out = Outbox::default();
        receiver.acknowledge(Instant(10_000_000), &mut out);
        let (bytes, length) = out.runs(1).next()?;
        assert_eq!(bytes.len(), length);
        match crate::wire::datagram::decode(bytes) {
            Ok(Datagram::Ack(id, ack)) => {
                assert_eq!(id, ID);
                Some(ack)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn udp_stream_delivers_bytes_once_and_in_order() {
        let mut receiver = Receiver::new(ID, WINDOW_MIN);
        assert_eq!(ack(&mut receiver), None, "nothing was received");
        receive(&mut receiver, 2, 6, b"ghi");
        receive(&mut receiver, 0, 0, b"abc");
        receive(&mut receiver, 2, 6, b"ghi");
        assert_eq!(read(&mut receiver), b"abc");
        let first = ack(&mut receiver).unwrap();
        let window = WINDOW_MIN as u64;
        assert_eq!((first.largest, first.received, first.limit), (2, 3, window + 3));
        assert!(first.contains(0) && !first.contains(1) && first.contains(2));
        assert_eq!((ack(&mut receiver), receiver.next_timeout()), (None, Instant::MAX));
        receive(&mut receiver, 3, 3, b"def");
        receive(&mut receiver, 1, 3, b"def");
        assert_eq!(read(&mut receiver), b"defghi");
        let second = ack(&mut receiver).unwrap();
        assert_eq!((second.largest, second.received, second.limit), (3, 9, window + 9));
        assert!((0..=3).all(|number| second.contains(number)));
    }

    #[test]
    fn receive_window_bounds_buffered_bytes() {
        let window = WINDOW_MIN as u64;
        let mut receiver = Receiver::new(ID, 10);
        receive(&mut receiver, 0, window - 2, b"xyz");
        receive(&mut receiver, 1, u64::MAX, b"xyz");
        assert_eq!((receiver.pieces.len(), ack(&mut receiver)), (0, None), "beyond the limit");
        let bytes = vec![7; WINDOW_MIN];
        receive(&mut receiver, 2, 0, &bytes[2..]);
        receive(&mut receiver, 3, window - 2, b"90");
        receive(&mut receiver, 4, window, b"a");
        assert_eq!(ack(&mut receiver).map(|it| (it.largest, it.limit)), Some((3, window)));
        assert_eq!(read(&mut receiver).len(), WINDOW_MIN);
        let raised = ack(&mut receiver).expect("the limit has risen");
        assert_eq!((raised.received, raised.limit), (window, 2 * window));
        // Overlapping pieces count each.
        for number in 0..200 {
            receive(&mut receiver, 10 + number, window + 1 + number, &bytes[..1_000]);
        }
        assert_eq!(receiver.pieces.len(), WINDOW_MIN / 1_000);
        receive(&mut receiver, u64::MAX, window, b"a");
        receive(&mut receiver, 0, window, b"a");
        receiver.read();
        assert_eq!((receiver.pieces.len(), receiver.piece_bytes), (0, 0));
    }

    #[test]
    fn udp_ack_is_delayed_only_while_data_arrives_in_order() {
        let mut receiver = Receiver::new(ID, 1 << 20);
        for number in 0..63 {
            let data = Data { number, offset: number, payload: b"x" };
            assert!(receiver.on_next(&data, Instant(number)));
        }
        assert_eq!(receiver.next_timeout(), Instant(0) + ACK_DELAY);
        receive(&mut receiver, 63, 63, b"x");
        assert_eq!(receiver.next_timeout(), Instant(63), "there are many");
        assert_eq!(ack(&mut receiver).map(|it| it.received), Some(64));
        let next = Data { number: 64, offset: 64, payload: b"x" };
        assert!(!receiver.on_next(&next, Instant(64)), "what arrived before must be read first");
        assert_eq!(read(&mut receiver), b"x");
        assert!(receiver.on_next(&next, Instant(64)));
        receive(&mut receiver, 66, 66, b"x");
        assert_eq!(receiver.next_timeout(), Instant(66), "there is a gap");
    }

    #[test]
    fn udp_ack_is_sent_twice_if_datagrams_are_lost() {
        for (lost_of_20, copies) in [(0, 1), (2, 2)] {
            let mut receiver = Receiver::new(ID, WINDOW_MIN);
            for number in (0..200).filter(|number| number % 20 >= lost_of_20) {
                receive(&mut receiver, number, 0, b"");
            }
            let mut out = Outbox::default();
            receiver.acknowledge(Instant(10_000_000), &mut out);
            assert_eq!(out.runs(1).count(), copies);
        }
    }

    #[test]
    fn reordered_and_overlapping_datagrams_are_reassembled() {
        let bytes: Vec<u8> = (0..200).collect();
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from((state >> 33) % below).unwrap()
        };
        for _ in 0..50 {
            let mut receiver = Receiver::new(ID, 200);
            let (mut got, mut number) = (Vec::new(), 0);
            while got.len() < bytes.len() {
                let from = random(200);
                let to = (from + random(30)).min(200);
                receive(&mut receiver, number, from as u64, &bytes[from..to]);
                number += 1;
                got.extend(read(&mut receiver));
            }
            assert_eq!(got, bytes);
        }
    }

    #[test]
    fn udp_ack_bitmap_lists_the_recently_received_datagrams() {
        let mut receiver = Receiver::new(ID, 10);
        let mut arrived = Vec::new();
        for number in 0..2_000_u64 {
            if number % 7 == 0 || number % 5 == 2 || number == 1_999 {
                receive(&mut receiver, number, 0, b"");
                arrived.push(number);
            }
            if number % 131 == 0
                && let Some(ack) = ack(&mut receiver)
            {
                let from = ack.largest.saturating_sub(BITMAP_BITS as u64);
                let expected: Vec<u64> = arrived.iter().copied().filter(|it| *it >= from).collect();
                let told: Vec<u64> = (0..=number).filter(|it| ack.contains(*it)).collect();
                assert_eq!(told, expected);
            }
        }
        let share = 1_000 - receiver.loss_permille();
        assert!((300..330).contains(&share), "{share} of 1000 arrived, 11 of 35 were sent");
        receive(&mut receiver, 50_000, 0, b"");
        assert_eq!(ack(&mut receiver).map(|it| it.bitmap), Some([0; BITMAP_WORDS]));
    }
}
