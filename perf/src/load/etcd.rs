//! The messages of etcd's v3 API that the load generator needs, with a minimal encoder and decoder
//! for Protocol Buffers.

use super::generator::{Operation, Request};
use super::http2::Http2;
use super::keys::{Values, write_key};
use super::reply::Reply;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Wire type of numbers (varints) in the Protocol Buffers encoding.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

/// Starts the gRPC call to etcd for the next request of an operation. Reads are linearizable,
/// etcd's default.
pub(crate) fn call(
    http2: &mut Http2,
    out: &mut Vec<u8>,
    operation: &Operation,
    values: &Values,
    key_bytes: usize,
) {
    let key = |out: &mut Vec<u8>| {
        field_head(out, 1, key_bytes);
        write_key(out, operation.key, key_bytes);
    };
    match operation.request {
        Request::Get => http2.call(out, RANGE, key),
        Request::Put => http2.call(out, PUT, |out| {
            key(out);
            field_head(out, 2, values.length());
            values.write(out, operation.mark);
        }),
        Request::Scan => http2.call(out, RANGE, |out| {
            key(out);
            // Range end "\0": all keys from the start key on, up to the limit.
            field_head(out, 2, 1);
            out.push(0);
            varint(out, 3 << 3 | NUMBER);
            varint(out, operation.mark);
        }),
        Request::WaitAof => unreachable!("--wait-aof is rejected for etcd"),
    }
}

/// Decodes etcd's response to `request`; `None` if it is malformed.
pub(crate) fn reply(request: Request, message: &[u8]) -> Option<Reply<'_>> {
    Some(match request {
        Request::Put => Reply::Done,
        Request::Scan => Reply::List(message),
        Request::WaitAof => return None,
        // The value of the first key-value pair. Without a pair, the key does not exist; a pair
        // without a value field has an empty value.
        Request::Get => match field(message, 2)? {
            None => Reply::Value(None),
            Some(pair) => Reply::Value(Some(field(pair, 5)?.unwrap_or_default())),
        },
    })
}

/// Starts a gRPC call that asks an etcd server for its status.
pub(crate) fn call_status(http2: &mut Http2, out: &mut Vec<u8>) {
    http2.call(out, STATUS, |_| {});
}

/// Decodes etcd's status response: the server's version, and whether it is the leader. `None` if
/// the response is malformed.
pub(crate) fn status(message: &[u8]) -> Option<(String, bool)> {
    let version = String::from_utf8_lossy(field(message, 2)??).into_owned();
    let member = number_field(field(message, 1)??, 2)?;
    Some((version, number_field(message, 4)? == member))
}

fn field_head(out: &mut Vec<u8>, field: u64, length: usize) {
    varint(out, field << 3 | BYTES);
    varint(out, length as u64);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Value of a field in a Protocol Buffers message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes the next field of a Protocol Buffers message from the start of `rest`, and returns its
/// number and value. Returns `Some(None)` at the end of the message, and `None` if the message is
/// malformed.
#[allow(clippy::option_option, reason = "malformed and finished differ")]
fn next<'a>(rest: &mut &'a [u8]) -> Option<Option<(u64, Field<'a>)>> {
    if rest.is_empty() {
        return Some(None);
    }
    let tag = read_varint(rest)?;
    let mut take = |length: usize| {
        let (bytes, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(bytes)
    };
    let field = match tag & 7 {
        NUMBER => Field::Number(read_varint(rest)?),
        BYTES => {
            let length = usize::try_from(read_varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(length)?;
            *rest = after;
            Field::Bytes(bytes)
        }
        1 => Field::Bytes(take(8)?),
        5 => Field::Bytes(take(4)?),
        _ => return None,
    };
    Some(Some((tag >> 3, field)))
}

/// Returns the bytes in the first field with the number `wanted` of a Protocol Buffers message.
/// `Some(None)` means that there is no such field, `None` that the message is malformed.
#[allow(clippy::option_option, reason = "malformed and absent differ")]
fn field(mut message: &[u8], wanted: u64) -> Option<Option<&[u8]>> {
    while let Some((number, field)) = next(&mut message)? {
        if let (true, Field::Bytes(bytes)) = (number == wanted, field) {
            return Some(Some(bytes));
        }
    }
    Some(None)
}

/// Returns the number in the first field with the number `wanted` of a Protocol Buffers message; 0,
/// the encoding's default, if there is no such field. `None` means that the message is malformed.
fn number_field(mut message: &[u8], wanted: u64) -> Option<u64> {
    while let Some((number, field)) = next(&mut message)? {
        if let (true, Field::Number(value)) = (number == wanted, field) {
            return Some(value);
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_responses_are_decoded() {
        // A header, and one key-value pair with its key, revisions and value.
        let with = b"\x0a\x02\x08\x01\x12\x0c\x0a\x01k\x10\x05\x18\x96\x01\x2a\x02ab\x20\x01";
        assert_eq!(reply(Request::Get, with), Some(Reply::Value(Some(b"ab"))));
        assert_eq!(reply(Request::Get, b"\x0a\x02\x08\x01"), Some(Reply::Value(None)));
        assert_eq!(reply(Request::Get, b"\x12\x03\x0a\x01k"), Some(Reply::Value(Some(b""))));
        assert_eq!(reply(Request::Get, b"\x0a\x09\x08"), None, "malformed");
        assert_eq!(reply(Request::Put, b""), Some(Reply::Done));
        let leads = b"\x0a\x04\x08\x01\x10\x07\x12\x053.4.2\x18\x01\x20\x07";
        assert_eq!(status(leads), Some(("3.4.2".to_owned(), true)));
        let follows = b"\x0a\x04\x08\x01\x10\x07\x12\x053.4.2\x18\x01\x20\x08";
        assert_eq!(status(follows), Some(("3.4.2".to_owned(), false)));
    }

    #[test]
    fn protobuf_varints_of_every_length_round_trip() {
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(read_varint(&mut &out[..]), Some(value));
            assert_eq!(read_varint(&mut &out[..out.len() - 1]), None);
        }
    }
}
