//! Payloads of `FUNCTION DUMP` and `FUNCTION RESTORE`: the code of each library as in a file, and
//! the version and the checksum of other payloads.

use super::error::RdbError;
use super::input::Input;
use super::output::put_string;
use super::payload::{PayloadError, checked, finish_payload};
use super::{FILE_VERSION_MAX, VERSION, records};

/// Why libraries cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LibrariesError {
    /// The end of the payload is wrong.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The payload contains something else than libraries.
    #[error("the payload has something else than libraries of functions")]
    OtherRecord,
    /// The code of a library is truncated or malformed.
    #[error("the code of a library is malformed")]
    Malformed,
}

impl From<RdbError> for LibrariesError {
    fn from(_: RdbError) -> LibrariesError {
        LibrariesError::Malformed
    }
}

/// Returns the payload with these codes of libraries.
pub fn encode_libraries<'c>(codes: impl Iterator<Item = &'c [u8]>) -> Vec<u8> {
    let mut payload = Vec::new();
    for code in codes {
        payload.push(records::LIBRARY);
        put_string(code, &mut payload);
    }
    finish_payload(&mut payload, VERSION);
    payload
}

/// Returns the codes of the libraries in a payload.
///
/// # Errors
/// If the payload is not one, is damaged, or has a later version than [`FILE_VERSION_MAX`].
pub fn decode_libraries(payload: &[u8]) -> Result<Vec<Vec<u8>>, LibrariesError> {
    let body = checked(payload, FILE_VERSION_MAX)?;
    let mut input = Input::new(body);
    let mut codes = Vec::new();
    while input.offset() < body.len() as u64 {
        if input.byte()? != records::LIBRARY {
            return Err(LibrariesError::OtherRecord);
        }
        codes.push(input.string()?);
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A payload of redis-server 7.0.15 with one short library, and one that is compressed.
    const RECORDED: &[u8] = b"\xf5\x3f#!lua name=w3 \nredis.register_function('f14751',\
        function() end)\xf5\xc3@g@u\x1f#!lua name=l\nredis.register_func\x04tion{\xc0\x08\x00_`'\
        \x0c'f',callback=\xc0\x1a\x11(keys,args) return \x06@M@)\x0f('get','x') end}";

    fn with_footer(body: &[u8], version: u16) -> Vec<u8> {
        let mut payload = body.to_vec();
        finish_payload(&mut payload, version);
        payload
    }

    #[test]
    fn empty_payload_is_that_of_redis() {
        let empty = b"\n\x00]\x9b\\@\x0f\x7f\xa2\xda";
        assert_eq!(encode_libraries([].into_iter()), empty);
        assert_eq!(decode_libraries(empty), Ok(vec![]));
    }

    #[test]
    fn payload_of_redis_is_decoded() {
        let codes = decode_libraries(&with_footer(RECORDED, 10)).unwrap();
        let texts: Vec<&str> = codes.iter().map(|code| str::from_utf8(code).unwrap()).collect();
        assert_eq!(
            texts,
            [
                "#!lua name=w3 \nredis.register_function('f14751',function() end)",
                "#!lua name=l\nredis.register_function{function_name='f',\
                 callback=function(keys,args) return redis.call('get','x') end}"
            ]
        );
        assert_eq!(
            decode_libraries(&with_footer(RECORDED, 13)),
            Err(LibrariesError::Payload(PayloadError)),
            "a later format"
        );
    }

    #[test]
    fn codes_of_all_lengths_survive() {
        let codes: Vec<Vec<u8>> =
            [0, 1, 63, 64, 300, 16_383, 16_384, 70_000].map(|length| vec![b'x'; length]).into();
        assert_eq!(decode_libraries(&encode_libraries(codes.iter().map(Vec::as_slice))), Ok(codes));
    }

    #[test]
    fn damaged_payloads_are_refused_without_a_panic() {
        let payload = with_footer(RECORDED, 10);
        for at in 0..payload.len() {
            assert!(decode_libraries(&payload[..at]).is_err());
            let mut damaged = payload.clone();
            damaged[at] ^= 0x55;
            assert_eq!(decode_libraries(&damaged), Err(LibrariesError::Payload(PayloadError)));
            // Also if the checksum is right.
            let _ = decode_libraries(&with_footer(&damaged[..damaged.len() - 10], 10));
        }
        assert_eq!(decode_libraries(&[0; 20]), Err(LibrariesError::OtherRecord));
        for body in [
            &b"\xf5"[..],
            b"\xf5\xc3\x02\x81\x7f\xff\xff\xff\xff\xff\xff\xff\x00a",
            b"\xf5\xc3\x03\x05\xe0\xff\xff",
            b"\xf5\x81\xff\xff\xff\xff\xff\xff\xff\xffx",
            b"\xf5\xff",
        ] {
            assert_eq!(decode_libraries(&with_footer(body, 10)), Err(LibrariesError::Malformed));
        }
        let number = with_footer(b"\xf5\xc1\xfe\xff", 10);
        assert_eq!(decode_libraries(&number), Ok(vec![b"-2".to_vec()]));
    }
}
