//! The part of HTTP/2 header compression (HPACK, RFC 7541) that a gRPC client needs: writes request
//! headers without compression, and reads the response headers of a server that uses no dynamic
//! table.

use super::resp::Broken;

/// Response headers that state the outcome of a gRPC call. Other headers are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Value of `:status`, the HTTP status; `None` if the header is absent.
    pub(crate) http_status: Option<u32>,
    /// Value of `grpc-status`, the gRPC status code; `None` if the header is absent.
    pub(crate) grpc_status: Option<u32>,
    /// Value of `grpc-message`, the error message; empty if the header is absent.
    pub(crate) message: String,
}

/// HTTP statuses that HPACK's static table contains as values of `:status`, at indexes from 8 on.
const STATUSES: [u32; 7] = [200, 204, 206, 304, 400, 404, 500];
const FIRST_STATUS: usize = 8;
const STATIC_ENTRIES: usize = 61;

/// Symbols of HPACK's Huffman code, grouped by the length of their codes in bits, shortest first;
/// within a group, codes increase in the order of the symbols (RFC 7541, appendix B). Symbols with
/// longer codes are omitted, because they do not occur in gRPC headers.
const CODE: [(u32, &[u8]); 11] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xC3\xD0"),
];

/// Decodes an HPACK header block, and stores the headers that state the outcome of a gRPC call in
/// `headers`.
///
/// # Errors
/// If the block is malformed or refers to the dynamic table.
pub(crate) fn read(block: &[u8], headers: &mut Headers) -> Result<(), Broken> {
    let mut rest = block;
    while let Some(&first) = rest.first() {
        if first & 0x80 != 0 {
            let index = integer(&mut rest, 7)?;
            if index == 0 || index > STATIC_ENTRIES {
                return Err(Broken);
            }
            if let Some(&status) = index.checked_sub(FIRST_STATUS).and_then(|at| STATUSES.get(at)) {
                headers.http_status = Some(status);
            }
            continue;
        }
        if first & 0xE0 == 0x20 {
            // A dynamic table size update, which is ignored because the dynamic table is always
            // empty.
            integer(&mut rest, 5)?;
            continue;
        }
        // A literal, with or without indexing. It is not added to a table even with indexing.
        let index = integer(&mut rest, if first & 0x40 != 0 { 6 } else { 4 })?;
        let name = match index {
            0 => text(&mut rest)?,
            8..=14 => ":status".to_owned(),
            1..=STATIC_ENTRIES => String::new(),
            _ => return Err(Broken),
        };
        let value = text(&mut rest)?;
        match name.as_str() {
            ":status" => headers.http_status = value.parse().ok(),
            "grpc-status" => headers.grpc_status = value.parse().ok(),
            "grpc-message" => headers.message = value,
            _ => {}
        }
    }
    Ok(())
}

/// Takes an HPACK integer from the start of `rest` and returns its value. The integer starts in the
/// `bits` low-order bits of the first byte.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let mut take = || {
        let (&byte, after) = rest.split_first().ok_or(Broken)?;
        *rest = after;
        Ok(usize::from(byte))
    };
    let most = (1 << bits) - 1;
    let mut value = take()? & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14] {
        let byte = take()?;
        value += (byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Broken)
}

fn text(rest: &mut &[u8]) -> Result<String, Broken> {
    let is_huffman = rest.first().ok_or(Broken)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    Ok(if is_huffman { huffman(bytes) } else { String::from_utf8_lossy(bytes).into_owned() })
}

/// Decodes a Huffman-coded HPACK string, up to the first code that is not in `CODE`.
fn huffman(bytes: &[u8]) -> String {
    let mut out = String::new();
    let (mut word, mut length) = (0_u32, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1))) {
        (word, length) = (word << 1 | bit, length + 1);
        if let Some(symbol) = symbol(word, length) {
            out.push(char::from(symbol));
            (word, length) = (0, 0);
        } else if length > 19 {
            break;
        }
    }
    // What remains is padding: fewer than eight ones.
    out
}

/// Returns the byte whose Huffman code is `word`, which is `length` bits long; `None` if `CODE` has
/// no such code.
fn symbol(word: u32, length: u32) -> Option<u8> {
    let (mut first, mut before) = (0_u32, 0);
    for (bits, symbols) in CODE {
        first <<= bits - before;
        if bits == length {
            return symbols.get(usize::try_from(word.checked_sub(first)?).ok()?).copied();
        }
        first += u32::try_from(symbols.len()).ok()?;
        before = bits;
    }
    None
}

/// Appends the HPACK-encoded request headers of a gRPC call to `out`. `path` names the method, and
/// `authority` is the `host:port` of the server.
pub(crate) fn write_call(out: &mut Vec<u8>, path: &str, authority: &str) {
    // `:method POST` and `:scheme http` from the static table, then literals whose names are in the
    // static table.
    out.extend_from_slice(&[0x83, 0x86]);
    let mut literal = |name: &[u8], value: &str| {
        out.extend_from_slice(name);
        let length = u8::try_from(value.len()).ok().filter(|&length| length < 127);
        out.push(length.expect("paths and addresses are short"));
        out.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], authority);
    literal(&[0x0F, 0x10], "application/grpc");
    literal(&[0x00, 0x02, b't', b'e'], "trailers");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    /// Tests the examples of RFC 7541, appendices C.4 and C.6.
    #[test]
    fn hpack_huffman_decoding_matches_the_rfc_examples() {
        for (code, expected) in [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("25a8 49e9 5ba9 7d7f", "custom-key"),
            ("25a8 49e9 5bb8 e8b4 bf", "custom-value"),
            ("6402", "302"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            assert_eq!(huffman(&bytes(code)), expected);
        }
    }

    #[test]
    fn hpack_decodes_http_status_and_grpc_headers() {
        let mut headers = Headers::default();
        // A table size update, then :status 200, content-type and grpc-status as literals.
        let mut block = bytes("20 88 0f10 04");
        block.extend_from_slice(b"text");
        block.extend_from_slice(b"\x00\x0bgrpc-status\x0214\x40\x0cgrpc-message\x04gone");
        read(&block, &mut headers).unwrap();
        let expected =
            Headers { http_status: Some(200), grpc_status: Some(14), message: "gone".to_owned() };
        assert_eq!(headers, expected);
        for end in 1..block.len() {
            // A truncated block is an error or ends between two headers; it never panics.
            let _ = read(&block[..end], &mut Headers::default());
        }
        assert_eq!(read(&[0xBE], &mut headers), Err(Broken), "first entry of the dynamic table");
    }
}
