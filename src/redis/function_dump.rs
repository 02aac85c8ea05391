//! The payload of `FUNCTION DUMP` and `FUNCTION RESTORE`, in the format of Redis: the code of each
//! library as in an RDB file, then the version of that format and a CRC-64 of everything before.
//!
//! Payloads come from clients: no bytes cause a panic, and memory grows with what is read.

/// RDB's code of a library of functions.
const LIBRARY: u8 = 0xF5;
/// The version of RDB that this writes: that of Redis 7.0.
const VERSION: u16 = 10;
/// The highest version of RDB in which libraries are the same: that of Redis 7.4.
const VERSION_MAX: u16 = 12;
/// Length in bytes of the version and of the checksum, at the end.
const FOOTER_BYTES: usize = 2 + 8;
/// Maximum length in bytes of the code of a library, which bounds what compressed code becomes.
const CODE_BYTES_MAX: usize = 64 << 20;

/// Redis's text for a payload that is not one.
const WRONG: &str = "ERR DUMP payload version or checksum are wrong";
const FAILED: &str = "ERR failed loading the given functions payload";

/// Returns the payload with these codes of libraries.
pub(super) fn encode<'c>(codes: impl Iterator<Item = &'c [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for code in codes {
        out.push(LIBRARY);
        put_length(code.len(), &mut out);
        out.extend_from_slice(code);
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&crc64(&out).to_le_bytes());
    out
}

/// Returns the codes of the libraries in a payload.
///
/// # Errors
/// If the payload is wrong, with the text of the error reply.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let checked = payload.len().checked_sub(8).ok_or(WRONG)?;
    let (checked, checksum) = payload.split_at(checked);
    let mut body = checked.get(..payload.len().saturating_sub(FOOTER_BYTES)).unwrap_or_default();
    let version = checked.get(body.len()..).and_then(|it| it.try_into().ok()).ok_or(WRONG)?;
    if u16::from_le_bytes(version) > VERSION_MAX || crc64(checked).to_le_bytes() != checksum {
        return Err(WRONG);
    }
    let mut codes = Vec::new();
    while let Some((code, rest)) = body.split_first() {
        if *code != LIBRARY {
            return Err("ERR given type is not a function");
        }
        body = rest;
        codes.push(take_string(&mut body).ok_or(FAILED)?);
    }
    Ok(codes)
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    match length {
        0..0x40 => out.push(length.to_le_bytes()[0]),
        0x40..0x4000 => {
            let [low, high, ..] = length.to_le_bytes();
            out.extend_from_slice(&[0x40 | high, low]);
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The start of a string: its length, or another form.
enum Head {
    Length(usize),
    /// An integer of this many bytes, little endian.
    Integer(usize),
    Compressed,
}

fn take<'b>(from: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

fn take_head(from: &mut &[u8]) -> Option<Head> {
    let first = take(from, 1)?[0];
    Some(match (first >> 6, first & 0x3F) {
        (0, length) => Head::Length(length.into()),
        (1, high) => Head::Length(usize::from(high) << 8 | usize::from(take(from, 1)?[0])),
        (2, 0) => {
            let length = u32::from_be_bytes(take(from, 4)?.try_into().ok()?);
            Head::Length(usize::try_from(length).ok()?)
        }
        (2, 1) => {
            let length = u64::from_be_bytes(take(from, 8)?.try_into().ok()?);
            Head::Length(usize::try_from(length).ok()?)
        }
        (3, form @ 0..=2) => Head::Integer(1 << form),
        (3, 3) => Head::Compressed,
        _ => return None,
    })
}

fn take_length(from: &mut &[u8]) -> Option<usize> {
    match take_head(from)? {
        Head::Length(length) => Some(length),
        Head::Integer(_) | Head::Compressed => None,
    }
}

fn take_string(from: &mut &[u8]) -> Option<Vec<u8>> {
    match take_head(from)? {
        Head::Length(length) => take(from, length).map(<[u8]>::to_vec),
        Head::Integer(bytes) => {
            let bytes = take(from, bytes)?;
            let fill = if bytes.last()? & 0x80 == 0 { 0 } else { 0xFF };
            let mut number = [fill; 8];
            number[..bytes.len()].copy_from_slice(bytes);
            Some(i64::from_le_bytes(number).to_string().into_bytes())
        }
        Head::Compressed => {
            let (compressed, length) = (take_length(from)?, take_length(from)?);
            decompress(take(from, compressed)?, length)
        }
    }
}

/// Decompresses LZF: literal bytes, and references to earlier output. `None` if the bytes are not
/// those of a text of `length` bytes.
fn decompress(mut from: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > CODE_BYTES_MAX {
        return None;
    }
    let mut out = Vec::new();
    while let Some((control, rest)) = from.split_first() {
        from = rest;
        let control = usize::from(*control);
        if control < 0x20 {
            out.extend_from_slice(take(&mut from, control + 1)?);
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(take(&mut from, 1)?[0]);
            }
            let low = usize::from(take(&mut from, 1)?[0]);
            let distance = ((control & 0x1F) << 8 | low) + 1;
            let start = out.len().checked_sub(distance)?;
            // The reference may reach into its own output.
            for at in start..start + count + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

/// The reflected polynomial of Jones's CRC-64.
const POLYNOMIAL: u64 = 0x95AC_9329_AC4B_C9B5;

const CRC_TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Returns Redis's CRC-64 of some bytes.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc: u64, byte| {
        let index = usize::from(crc.to_le_bytes()[0] ^ byte);
        CRC_TABLE[index] ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A payload of redis-server 7.0.15 with one short library, and one that is compressed.
    const RECORDED: &[u8] = b"\xf5\x3f#!lua name=w3 \nredis.register_function('f14751',\
        function() end)\xf5\xc3@g@u\x1f#!lua name=l\nredis.register_func\x04tion{\xc0\x08\x00_`'\
        \x0c'f',callback=\xc0\x1a\x11(keys,args) return \x06@M@)\x0f('get','x') end}";

    fn with_footer(body: &[u8], version: u16) -> Vec<u8> {
        let mut payload = [body, &version.to_le_bytes()].concat();
        payload.extend_from_slice(&crc64(&payload).to_le_bytes());
        payload
    }

    #[test]
    fn checksum_and_empty_payload_are_those_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xE9C6_D914_C4B8_D9CA);
        let empty = b"\n\x00]\x9b\\@\x0f\x7f\xa2\xda";
        assert_eq!(encode([].into_iter()), empty);
        assert_eq!(decode(empty), Ok(vec![]));
    }

    #[test]
    fn payload_of_redis_is_decoded() {
        let codes = decode(&with_footer(RECORDED, 10)).unwrap();
        let texts: Vec<&str> = codes.iter().map(|code| str::from_utf8(code).unwrap()).collect();
        assert_eq!(
            texts,
            [
                "#!lua name=w3 \nredis.register_function('f14751',function() end)",
                "#!lua name=l\nredis.register_function{function_name='f',\
                 callback=function(keys,args) return redis.call('get','x') end}"
            ]
        );
        assert_eq!(decode(&with_footer(RECORDED, 13)), Err(WRONG), "a later format");
    }

    #[test]
    fn codes_of_all_lengths_survive() {
        let codes: Vec<Vec<u8>> =
            [0, 1, 63, 64, 300, 16_383, 16_384, 70_000].map(|length| vec![b'x'; length]).into();
        assert_eq!(decode(&encode(codes.iter().map(Vec::as_slice))), Ok(codes));
    }

    #[test]
    fn damaged_payloads_are_refused_without_a_panic() {
        let payload = with_footer(RECORDED, 10);
        for at in 0..payload.len() {
            assert!(decode(&payload[..at]).is_err());
            let mut damaged = payload.clone();
            damaged[at] ^= 0x55;
            assert_eq!(decode(&damaged), Err(WRONG));
            // Also if the checksum is right.
            let _ = decode(&with_footer(&damaged[..damaged.len() - FOOTER_BYTES], 10));
        }
        assert_eq!(decode(&[0; 20]), Err("ERR given type is not a function"));
        for body in [
            &b"\xf5"[..],
            b"\xf5\xc3\x02\x81\x7f\xff\xff\xff\xff\xff\xff\xff\x00a",
            b"\xf5\xc3\x03\x05\xe0\xff\xff",
            b"\xf5\x81\xff\xff\xff\xff\xff\xff\xff\xffx",
            b"\xf5\xff",
        ] {
            assert_eq!(decode(&with_footer(body, 10)), Err(FAILED));
        }
        let number = with_footer(b"\xf5\xc1\xfe\xff", 10);
        assert_eq!(decode(&number), Ok(vec![b"-2".to_vec()]));
    }
}
