//! Encryption of datagrams between two replicas, with keys derived from a TLS connection between
//! them.
//!
//! ```text
//!  0        8         16                      -16
//!  +--------+---------+-----------------------+-----+
//!  | key id | counter | encrypted datagram    | tag |
//!  +--------+---------+-----------------------+-----+
//! ```
//! Both sides derive the same two keys, one for each direction, and the id of this pair of keys
//! from the TLS connection (RFC 5705; RFC 8446, section 7.5). Each datagram is encrypted with
//! ChaCha20-Poly1305, with a counter as the nonce, so that no nonce is used twice. The key id and
//! the counter are authenticated, too. A receiver accepts each counter once.
//! counter are authenticated, too. A receiver accepts each counter once.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Number of bytes that encryption adds to a datagram: header and tag.
const SEAL_BYTES: usize = HEADER_BYTES + TAG_BYTES;
const HEADER_BYTES: usize = DatagramKeys::HEADER_BYTES;
const TAG_BYTES: usize = 16;
/// Length of a key in bytes.
const KEY_BYTES: usize = 32;
/// Number of bytes derived from a TLS connection: both keys and their id.
pub(super) const SECRET_BYTES: usize = 2 * KEY_BYTES + 8;
/// Size of the replay window in datagrams: a datagram this far behind the latest one is rejected,
/// because the receiver no longer knows whether it has arrived before. The window is larger than
/// any reordering in the network.
const WINDOW: u64 = 4_096;

/// The keys for datagrams between two replicas, one for each direction, and their counters.
pub(crate) struct DatagramKeys {
    id: u64,
    sealing: LessSafeKey,
    /// Counter of the next datagram to encrypt.
    counter: u64,
    opening: LessSafeKey,
    arrived: ReplayWindow,
}

/// The side of the TLS connection, which decides which key is for which direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Connecting,
    Accepting,
}

impl DatagramKeys {
    /// Size in bytes of the header, which precedes the encrypted datagram: key id and counter.
    pub(crate) const HEADER_BYTES: usize = 16;

    /// Splits the derived bytes into the keys of this side.
    pub(super) fn new(secret: &[u8; SECRET_BYTES], side: Side) -> DatagramKeys {
        let (keys, id) = secret.split_at(2 * KEY_BYTES);
        let (connecting, accepting) = keys.split_at(KEY_BYTES);
        let (sealing, opening) = match side {
            Side::Connecting => (connecting, accepting),
            Side::Accepting => (accepting, connecting),
        };
        let key = |bytes| {
            let key = UnboundKey::new(&CHACHA20_POLY1305, bytes);
            LessSafeKey::new(key.expect("the key has the length that the algorithm needs"))
        };
        DatagramKeys {
            id: u64::from_le_bytes(id.try_into().expect("8 bytes follow the keys")),
            sealing: key(sealing),
            counter: 0,
            opening: key(opening),
            arrived: ReplayWindow::default(),
        }
    }

    /// Returns the id of this pair of keys, which is in the header of each datagram.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Encrypts a datagram and appends it to `out`.
    pub(crate) fn seal(&mut self, datagram: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.counter.to_le_bytes());
        out.extend_from_slice(datagram);
        let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
        let sealed =
            self.sealing.seal_in_place_separate_tag(nonce(self.counter), Aad::from(&*header), body);
        let tag = sealed.expect("a datagram is shorter than the limit of the algorithm");
        out.extend_from_slice(tag.as_ref());
        self.counter += 1;
    }

    /// Decrypts a datagram in place. Returns `None` if the other side did not encrypt it with these
    /// keys, or if it has arrived before.
    pub(crate) fn open<'b>(&mut self, sealed: &'b mut [u8]) -> Option<&'b [u8]> {
        if sealed.len() < SEAL_BYTES || key_id(sealed) != Some(self.id) {
            return None;
        }
        let (header, body) = sealed.split_at_mut(HEADER_BYTES);
        let counter = u64::from_le_bytes(header[8..].try_into().ok()?);
        if !self.arrived.is_new(counter) {
            return None;
        }
        let opened = self.opening.open_in_place(nonce(counter), Aad::from(&*header), body).ok()?;
        self.arrived.note(counter);
        Some(opened)
    }
}

impl std::fmt::Debug for DatagramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Returns the key id in the header of an encrypted datagram; `None` if the datagram is too short.
pub(crate) fn key_id(sealed: &[u8]) -> Option<u64> {
    sealed.first_chunk().map(|id| u64::from_le_bytes(*id))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Records which counters have arrived, to reject replayed datagrams.
///
/// Invariant: for each of the last [`WINDOW`] counters `n` below `next`, bit `n % WINDOW` is set if
/// `n` has arrived.
#[derive(Debug)]
struct ReplayWindow {
    next: u64,
    bits: Vec<u64>,
}

impl Default for ReplayWindow {
    fn default() -> ReplayWindow {
        ReplayWindow { next: 0, bits: vec![0; usize::try_from(WINDOW / 64).expect("it is small")] }
    }
}

impl ReplayWindow {
    /// Returns whether the counter is in or after the window and has not arrived yet.
    fn is_new(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        let is_known = counter < self.next;
        // `u64::MAX` is never used, so `next` can always exceed every counter that has arrived.
        counter < u64::MAX
            && (!is_known || self.next - counter <= WINDOW && self.bits[word] & bit == 0)
    }

    /// Records the arrival of a counter for which [`ReplayWindow::is_new`] holds.
    fn note(&mut self, counter: u64) {
        if counter >= self.next {
            // Clears the bits of skipped counters, at most the whole window.
            for passed in self.next.max(counter.saturating_sub(WINDOW - 1))..=counter {
                let (word, bit) = place(passed);
                self.bits[word] &= !bit;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.bits[word] |= bit;
    }
}

/// Returns the index of a counter's word in `bits`, and its bit in that word.
fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    (usize::try_from(at / 64).expect("below the number of words"), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (DatagramKeys, DatagramKeys) {
        let secret = std::array::from_fn(|at| u8::try_from(at).unwrap());
        (DatagramKeys::new(&secret, Side::Connecting), DatagramKeys::new(&secret, Side::Accepting))
    }

    fn sealed(keys: &mut DatagramKeys, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        keys.seal(text, &mut out);
        assert_eq!(out.len(), text.len() + SEAL_BYTES);
        out
    }

    #[test]
    fn encrypted_datagrams_are_accepted_once_in_any_order() {
        let (mut one, mut other) = pair();
        let mut sent: Vec<Vec<u8>> = (0..200_u8).map(|it| sealed(&mut one, &[it; 40])).collect();
        sent.swap(3, 150);
        sent.reverse();
        for datagram in &sent {
            let mut arrived = datagram.clone();
            let opened = other.open(&mut arrived).unwrap();
            assert_eq!(opened, [opened[0]; 40]);
            assert_eq!(other.open(&mut datagram.clone()), None, "replayed");
        }
        let mut back = sealed(&mut other, b"back");
        assert_eq!(one.open(&mut back.clone()), Some(&b"back"[..]));
        assert_eq!(other.open(&mut back), None, "reflected to its sender");
    }

    #[test]
    fn changed_or_foreign_datagrams_are_rejected() {
        let (mut one, mut other) = pair();
        let datagram = sealed(&mut one, b"datagram");
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 4;
            assert_eq!(other.open(&mut changed), None, "byte {at}");
            assert_eq!(other.open(&mut datagram[..at].to_vec()), None, "{at} bytes");
        }
        let mut foreign = DatagramKeys::new(&[7; SECRET_BYTES], Side::Connecting);
        foreign.id = one.id;
        assert_eq!(other.open(&mut sealed(&mut foreign, b"datagram")), None);
        assert_eq!(other.open(&mut datagram.clone()), Some(&b"datagram"[..]));
    }

    #[test]
    fn replay_window_rejects_only_old_or_repeated_counters() {
        let mut window = ReplayWindow::default();
        let mut counters: Vec<u64> = (0..20_000).collect();
        // Moves each counter by up to 1,000 positions.
        for at in 0..counters.len() {
            let other = (at + at * 7_919 % 1_000).min(counters.len() - 1);
            counters.swap(at, other);
        }
        for counter in counters {
            let is_old = window.next > counter + WINDOW;
            assert_eq!(window.is_new(counter), !is_old, "{counter} at {}", window.next);
            if !is_old {
                window.note(counter);
            }
            assert!(!window.is_new(counter));
        }
        window.note(1 << 40);
        assert!(!window.is_new(19_999) && window.is_new((1 << 40) - WINDOW + 1));
        assert!(!window.is_new((1 << 40) - WINDOW));
    }
}
