//! Cookies: proof that the sender of a new stream receives what is sent to its address. The
//! receiver computes them anew and stores none, so that forged requests use no memory (as SYN
//! cookies do, RFC 4987, section 3.6).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::sender::SILENCE_MAX;
use crate::types::Instant;
use crate::wire::datagram::StreamId;

/// Minimum validity of a cookie, the token with which a sender opens a new stream. A cookie expires
/// at the latest after twice this time. A stream that is already open stays open when its cookie
/// expires.
const VALID_FOR: Duration = Duration::from_secs(2);
// A cookie expires before its sender gives the stream up for silence, so no delayed datagram can
// open the stream after a later one has replaced it.
const _: () = assert!(VALID_FOR.as_nanos() * 2 < SILENCE_MAX.as_nanos());

/// Issues and checks cookies: tokens that prove that the sender of a new stream can receive
/// datagrams at its address.
#[derive(Debug)]
pub struct Cookies {
    secret: [u8; 32],
}

impl Cookies {
    /// Creates an issuer of cookies. `secret` must be random: without it, valid cookies cannot be
    /// computed.
    pub fn new(secret: [u8; 32]) -> Cookies {
        Cookies { secret }
    }

    /// Returns the id of the stream with the number `stream`, including the cookie that the sender
    /// at `address` has asked for at time `now`. `address` may be written in any form, but must be
    /// the same in [`Cookies::is_valid`].
    pub fn issue(&self, address: &str, stream: u64, now: Instant) -> StreamId {
        StreamId { stream, cookie: self.compute(address, stream, period(now)) }
    }

    /// Returns whether the cookie in `id` was issued to the sender at `address` and has not expired
    /// by `now`.
    pub fn is_valid(&self, address: &str, id: StreamId, now: Instant) -> bool {
        let this = period(now);
        let of = |period| self.compute(address, id.stream, period) == id.cookie;
        of(this) || this > 0 && of(this - 1)
    }

    fn compute(&self, address: &str, stream: u64, period: u64) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(period.to_le_bytes());
        hash.update(stream.to_le_bytes());
        hash.update(address.as_bytes());
        let digest = hash.finalize();
        let first: [u8; 8] = digest[..8].try_into().expect("32 bytes");
        u64::from_le_bytes(first)
    }
}

fn period(now: Instant) -> u64 {
    u64::try_from(now.since(Instant::ZERO).as_nanos() / VALID_FOR.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_cookie_is_bound_to_stream_and_address_and_expires() {
        let cookies = Cookies::new([7; 32]);
        let (here, there) = ("10.0.0.1:7100", "10.0.0.1:7101");
        let now = Instant(0) + VALID_FOR * 9;
        let id = cookies.issue(here, 5, now);
        assert!(cookies.is_valid(here, id, now));
        assert!(cookies.is_valid(here, id, now + VALID_FOR));
        assert!(!cookies.is_valid(here, id, now + VALID_FOR * 2));
        assert!(!cookies.is_valid(there, id, now));
        assert!(!cookies.is_valid(here, StreamId { stream: 6, ..id }, now));
        assert!(!Cookies::new([8; 32]).is_valid(here, id, now));
    }
}
