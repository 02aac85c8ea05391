//! Streams over datagrams: the transport between replicas on networks that lose packets.
//!
//! A stream carries bytes in order in one direction, as the TCP connection that it replaces. When
//! a retransmission is lost too, TCP waits for 200 ms or more, and doubles that time with each
//! further loss; at a loss of 30 % it is idle almost always. A stream retransmits lost bytes about
//! one round trip later each time, and takes a loss for congestion only if a queue on the path is
//! full.
//!
//! | file | contents |
//! |---|---|
//! | `sender` | the sending half of a stream, which retransmits what is lost |
//! | `receiver` | the receiving half, which puts bytes in order and acknowledges them |
//! | `path` | what the sender knows about the network path: round-trip time and loss |
//! | `window` | how many bytes may be in flight |
//! | `pacer` | when the next datagram may be sent |
//! | `cookies` | proof that a new stream comes from its address |
//! | `outgoing` | one connection to a peer: a stream, or a TCP connection that the driver opens |
//! | `lanes` | the two connections to a peer, for urgent and for bulk messages |
//! | `incoming` | the connections from all peers, and which of them are read |
//! | `connection` | what both need of a TCP connection |
//!
//! Nothing here touches a socket or a clock: a driver passes received datagrams and the time, and
//! sends what is in the [`Outbox`]. The server is one driver, the cluster simulator another, and
//! the tests in this folder a third.
//!
//! # The protocol
//!
//! 1. The sender draws the stream's id at random and asks the receiver to *open* it, until it gets
//!    the *cookie* for it. The receiver keeps nothing: it computes the cookie from a secret, the
//!    address and the id (as in SYN cookies, RFC 4987, section 3.6). So a flood of requests with
//!    forged addresses uses no memory.
//! 2. Each *data* datagram names the stream with its cookie, the position of its bytes, and a
//!    sequence number. Retransmitted bytes get a new sequence number, so that each acknowledgement
//!    belongs to one transmission (as in QUIC, RFC 9002, section 2). The receiver creates the
//!    stream at the first one with the right cookie.
//! 3. An *acknowledgement* has a bitmap of the latest numbers, the number of bytes without a gap,
//!    and the limit up to which the receiver accepts bytes. It includes what earlier ones said, so
//!    the loss of one does not matter. It is sent immediately if something is lost, else within
//!    `ACK_DELAY`.
//! 4. A datagram is lost if one with a number higher by `REORDERING_MAX` was acknowledged, or a
//!    later one was and 9/8 of a round trip has passed (RFC 9002, section 6.1). Lost bytes are
//!    retransmitted before new ones are sent. If no acknowledgement arrives within a round trip and
//!    its usual variation, the oldest bytes are retransmitted as a *probe*.
//! 5. From a measured loss of 7 % on, the sender sends a second copy of each datagram, and from 5 %
//!    on the receiver one of each acknowledgement. On a path with a long round trip (5 ms) that is
//!    hardly used, second copies begin at 0.5 %. While more than half of the window is in flight,
//!    there are none: the path has no bandwidth for them.
//! 6. The *window* bounds the bytes in flight, and they are *paced* over the round trip. See below.
//! 7. The receiver ends a stream with a *reset*, and answers data of a stream that it does not know
//!    with one. The sender simply sends nothing more.
//!
//! # Congestion
//!
//! A lost datagram means congestion only if a queue is full, which round trips show. The *queueing
//! delay* is the time by which even the shortest round trip of the latest two rounds exceeds the
//! shortest of the last 10 to 20 s; a round takes at least a round trip and 10 ms. In a *drain*,
//! the window is 7/8 of what the path holds without a queue, and at most half of its size, for two
//! round trips. A window that is well used (more than half of it in flight) changes as follows:
//!
//! - *Loss within two rounds, with a queueing delay of 2 ms or more*: a queue has overflowed. The
//!   window shrinks by the part of it that waits in the queue, at most by half, and at most once
//!   per round trip.
//! - *A queueing delay of more than 25 ms*, or half of the shortest round trip if that is longer:
//!   the stream drains the queue. If the delay becomes short, this stream had filled the queue: the
//!   drain ends, with a window that allows a queue of 5 ms. If it stays long, others fill the
//!   queue, such as a TCP connection: the window returns to its size before, and for 10 s only
//!   losses shrink it.
//! - *Loss, and no drain for 10 s*: the stream drains the queue too, so that the shortest round
//!   trip is one without a queue (as BBR does: Cardwell and others, CACM 2017). Then the window
//!   returns to its size before, or to the size without the queue if that has overflowed.
//! - *Anything else*, also loss: the window grows. In *slow start*, it doubles with each round
//!   trip, until the first overflow or drain of a long queue. Then it grows by 1/48 or by a quarter
//!   of a datagram per round trip, whichever is more. With the reductions above, that is about what
//!   TCP does.
//!
//! The window stays within three times what arrives in a round trip (rounds in which the sender had
//! nothing to send do not count) or 16 KiB, so a path that loses almost everything is not flooded.
//!
//! Datagrams are sent at 5/4 of a window per round trip, at twice a window in slow start, but never
//! at more than three times the rate at which bytes arrive (or 16 KiB in 10 ms), and up to four
//! datagrams or 2 ms ahead of that rate. While the window is full, only full datagrams are
//! sent.
//!
//! On a link of 10 Mbit/s with a queue of 20 to 200 ms, a stream alone gets 97 % or more of the
//! link and sends less than 1 % more than arrives; two streams, or a stream and a TCP connection,
//! get between a third and two thirds each (`tests/thin_links.rs`). Queues of less than 2 ms are
//! not seen, and those of less than 5 ms not always. There, a stream sends up to 4 times what
//! arrives, and a TCP connection often gets almost nothing.
//!
//! # Security
//!
//! As with TCP, a program that can read the datagrams can forge them. Any other would have to guess
//! 128 bits. The server encrypts them if replicas use certificates.

pub(crate) mod connection;
pub mod cookies;
pub(crate) mod incoming;
pub(crate) mod lanes;
pub(crate) mod outgoing;
mod pacer;
mod path;
pub mod receiver;
pub mod sender;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use crate::wire::datagram::{self, Datagram};

/// Reordering threshold: a datagram counts as lost once a datagram that was sent at least this
/// number of datagrams later has been acknowledged (RFC 9002, section 6.1.1).
const REORDERING_MAX: u64 = 3;

/// Maximum time by which a receiver delays an acknowledgement while no datagrams are lost.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// Maximum total length, in bytes, of the datagrams sent by one system call (UDP segmentation
/// offload): the maximum payload of one UDP packet, because the kernel handles the datagrams as a
/// single packet until it splits them.
const RUN_BYTES_MAX: usize = 65_535 - 48;

/// A queue of encoded datagrams to be sent to one address, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// For each datagram, the position in `bytes` after its last byte.
    ends: Vec<usize>,
}

impl Outbox {
    /// Encodes a datagram and appends it to the queue.
    pub fn push(&mut self, datagram: &Datagram<'_>) {
        datagram::encode(datagram, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Appends a datagram: the bytes that `write` appends.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Returns each datagram, in order.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }

    /// Returns whether the queue has no datagrams.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Returns the queued datagrams as runs, each of which one system call can send (UDP
    /// segmentation offload): the bytes of the run, and the length of each of its datagrams. Only
    /// the last datagram of a run may be shorter. A run has at most `count_max` datagrams and
    /// `RUN_BYTES_MAX` bytes.
    pub fn runs(&self, count_max: usize) -> impl Iterator<Item = (&[u8], usize)> {
        assert!(count_max > 0, "a run has a datagram");
        let mut next = 0;
        std::iter::from_fn(move || {
            let begin = if next == 0 { 0 } else { self.ends[next - 1] };
            let length = self.ends.get(next)? - begin;
            let (mut end, mut count) = (begin, 0);
            while count < count_max && end == begin + count * length {
                match self.ends.get(next) {
                    Some(&there) if there - end <= length && there - begin <= RUN_BYTES_MAX => {
                        end = there;
                    }
                    _ => break,
                }
                (next, count) = (next + 1, count + 1);
            }
            Some((&self.bytes[begin..end], length))
        })
    }
}
