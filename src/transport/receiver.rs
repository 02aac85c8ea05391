//! The receiving half of a stream: puts bytes in order, and acknowledges datagrams.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::config::Mutant;
use crate::types::Instant;
use crate::wire::datagram::{Ack, BITMAP_BITS, BITMAP_WORDS, Data, Datagram, StreamId};

use super::{ACK_DELAY, Outbox};

/// Maximum number of pieces kept behind gaps. Further ones are dropped; the sender retransmits
/// them.
const PIECES_MAX: usize = 8_192;
/// Loss in permille from which on each acknowledgement is sent twice.
const REPEAT_ACK_PERMILLE: u32 = 50;
/// Loss in permille up to which acknowledgements may be delayed. Lower than the loss from which on
/// senders expect no delay, because both measure it differently.
const DELAY_PERMILLE_MAX: u32 = 30;
/// Minimum window in bytes. Senders send as much before the first acknowledgement.
pub const WINDOW_MIN: usize = 64 << 10;
/// Number of datagrams before which the loss counts as unknown, and as zero.
const MEASURED_MIN: u64 = 64;
/// Number of datagrams after which an acknowledgement is sent at once.
const ACK_EVERY: u32 = 64;

/// The receiving half of a stream.
///
/// Invariant: `delivered <= received`; `ready` has the bytes from `delivered` to `received`, and
/// all pieces in `pieces` begin after `received` and end at `delivered + window` or before.
#[derive(Debug)]
pub struct Receiver {
    id: StreamId,
    /// Maximum number of bytes between `delivered` and the end of what is accepted.
    window: u64,
    /// Number of bytes returned by [`Receiver::read`].
    delivered: u64,
    /// Number of bytes received without a gap.
    received: u64,
    ready: VecDeque<Bytes>,
    /// Pieces behind gaps, by their position in the stream.
    pieces: BTreeMap<u64, Bytes>,
    /// Total length of the pieces, which may overlap.
    piece_bytes: u64,
    /// The last acknowledgement, with the datagrams that have arrived since.
    ack: Ack,
    /// When the datagram with the largest number arrived; `None` before the first.
    largest_at: Option<Instant>,
    /// When an acknowledgement must be sent; [`Instant::MAX`] if there is nothing new to tell.
    ack_at: Instant,
    /// Number of datagrams since the last acknowledgement.
    since_ack: u32,
    /// The rule that this receiver breaks on purpose (mutation testing); `None` for no rule.
    pub(crate) mutant: Option<Mutant>,
}

impl Receiver {
    /// Creates the receiving half of the stream `id`. At most twice `window` bytes are kept in
    /// memory, and the window has at least [`WINDOW_MIN`] bytes.
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

    /// Returns the stream's number and cookie.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Handles a datagram that arrived at `now`. One that goes beyond the limit is ignored: the
    /// sender knows the limit.
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

    /// Handles a datagram as [`Receiver::on_data`], and returns true, if its payload is the next
    /// part of the stream and nothing else waits to be read. The payload then counts as read.
    /// Otherwise does nothing, and returns false.
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

    /// Appends the part of `bytes`, which begin at `offset`, that is new.
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

    /// Records the number of a datagram for the next acknowledgement.
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

    /// Returns the next bytes of the stream; `None` if none have arrived.
    pub fn read(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.delivered += bytes.len() as u64;
        self.announce_limit(Instant::ZERO);
        self.check();
        Some(bytes)
    }

    /// Makes an acknowledgement due at `now` if the limit has risen much since the last one: the
    /// sender may be waiting for that.
    fn announce_limit(&mut self, now: Instant) {
        if self.delivered + self.window - self.ack.limit >= self.window / 2 {
            self.ack_at = self.ack_at.min(now);
        }
    }

    /// Returns when [`Receiver::acknowledge`] must be called; [`Instant::MAX`] if there is nothing
    /// new to tell.
    pub fn next_timeout(&self) -> Instant {
        self.ack_at
    }

    /// Adds the acknowledgement that is due to `out`, if one is: twice if many datagrams get lost.
    /// To be called after a batch of datagrams. Acknowledgements of datagrams that arrive in order
    /// are delayed by up to `ACK_DELAY` while none get lost.
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

    /// Returns the share of the latest datagrams that have not arrived, in permille.
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

/// Shifts the bitmap of an acknowledgement whose largest number rises by `by`.
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
    fn bytes_are_delivered_once_and_in_order() {
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
    fn window_bounds_what_is_kept() {
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
    fn acknowledgement_waits_only_while_all_arrives_in_order() {
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
    fn acknowledgement_is_sent_twice_if_datagrams_get_lost() {
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
    fn any_order_and_overlap_gives_the_same_bytes() {
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
    fn bitmap_tells_which_of_the_latest_datagrams_arrived() {
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
