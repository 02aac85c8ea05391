//! The client side of the Redis protocol (RESP): encodes requests and parses replies. Keeps only
//! the parts of a reply that a run needs, and copies nothing.

use super::reply::Reply;

/// Error: the received bytes violate the connection's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken;

/// Maximum nesting depth of arrays in a Redis reply; a deeper reply is rejected.
const DEPTH_MAX: usize = 32;

/// Parses the Redis reply at the start of `input`. Returns the reply and its length in bytes;
/// `None` if the reply is incomplete.
///
/// # Errors
/// If `input` is not the beginning of a valid reply.
pub(crate) fn read(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Broken> {
    let Some((line, after)) = line(input)? else { return Ok(None) };
    let (kind, rest) = line.split_first().ok_or(Broken)?;
    let reply = match kind {
        b'+' | b':' | b',' | b'#' | b'(' => Reply::Done,
        b'-' => Reply::Error(rest),
        b'_' => Reply::Value(None),
        b'$' | b'=' | b'!' => {
            let Some(length) = length(rest)? else { return Ok(Some((Reply::Value(None), after))) };
            let end = after + length;
            let Some(tail) = input.get(end..end + 2) else { return Ok(None) };
            if tail != b"\r\n" {
                return Err(Broken);
            }
            let text = &input[after..end];
            let reply = if *kind == b'!' { Reply::Error(text) } else { Reply::Value(Some(text)) };
            return Ok(Some((reply, end + 2)));
        }
        b'*' | b'%' | b'~' | b'>' => {
            let Some(end) = skip(input, 0)? else { return Ok(None) };
            return Ok(Some((Reply::List(&input[..end]), end)));
        }
        _ => return Err(Broken),
    };
    Ok(Some((reply, after)))
}

/// Parses the reply to a write and the reply to the WAIT that follows the write. Returns one reply
/// for both commands, and the total length of both replies in bytes; `None` if they are incomplete.
/// The returned reply is an error if fewer than `replicas` replicas acknowledged the write in time.
pub(crate) fn read_with_wait(
    input: &[u8],
    replicas: u32,
) -> Result<Option<(Reply<'_>, usize)>, Broken> {
    let Some((write_reply, end)) = read(input)? else { return Ok(None) };
    let Some((wait_reply, length)) = read(&input[end..])? else { return Ok(None) };
    let both = end + length;
    if matches!(write_reply, Reply::Error(_)) || wait_reply != Reply::Done {
        let error = if matches!(write_reply, Reply::Error(_)) { write_reply } else { wait_reply };
        return Ok(Some((error, both)));
    }
    let text = std::str::from_utf8(&input[end + 1..both - 2]).map_err(|_| Broken)?;
    let have: u32 = text.parse().map_err(|_| Broken)?;
    let reply = if have < replicas { Reply::Error(b"WAIT timed out") } else { write_reply };
    Ok(Some((reply, both)))
}

/// Returns whether `list`, the reply to WAITAOF, states that the server and at least `replicas`
/// replicas have synced the write to disk.
pub(crate) fn is_synced(list: &[u8], replicas: u32) -> bool {
    let number = |reply: &Reply<'_>| match reply {
        Reply::Value(Some(text)) => std::str::from_utf8(text).ok()?.parse::<u32>().ok(),
        _ => None,
    };
    let numbers = parts(list).unwrap_or_default().iter().map(number).collect::<Option<Vec<_>>>();
    matches!(numbers.as_deref(), Some([1, synced]) if *synced >= replicas)
}

/// Returns the length in bytes of the Redis reply at the start of `input`, whatever its type;
/// `None` if the reply is incomplete. `depth` is the number of arrays in which the reply is nested.
fn skip(input: &[u8], depth: usize) -> Result<Option<usize>, Broken> {
    if depth > DEPTH_MAX {
        return Err(Broken);
    }
    let Some((line, after)) = line(input)? else { return Ok(None) };
    let (kind, rest) = line.split_first().ok_or(Broken)?;
    match kind {
        b'*' | b'%' | b'~' | b'>' => {
            let count = length(rest)?.unwrap_or(0) * if *kind == b'%' { 2 } else { 1 };
            let mut end = after;
            for _ in 0..count {
                let Some(length) = skip(&input[end..], depth + 1)? else { return Ok(None) };
                end += length;
            }
            Ok(Some(end))
        }
        b'$' | b'=' | b'!' => {
            let end = length(rest)?.map_or(after, |length| after + length + 2);
            Ok((end <= input.len()).then_some(end))
        }
        _ => Ok(Some(after)),
    }
}

/// Splits the encoded array `list` into its elements: numbers and simple strings as text, nested
/// arrays still encoded. Returns `None` if `list` is not a complete array.
pub(crate) fn parts(list: &[u8]) -> Option<Vec<Reply<'_>>> {
    let (line, mut at) = line(list).ok()??;
    let count = length(line.get(1..)?).ok()??;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (reply, length) = read(&list[at..]).ok()??;
        // `read` drops the text of numbers and simple strings, which is needed here.
        let text = &list[at + 1..(at + length).saturating_sub(2)];
        parts.push(if reply == Reply::Done { Reply::Value(Some(text)) } else { reply });
        at += length;
    }
    Some(parts)
}

/// Returns the first line of `input` without its line ending, and the offset of the second line;
/// `None` if the first line is incomplete.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    /// Maximum length in bytes of a line in a Redis reply. Error messages are the longest; longer
    /// lines are rejected.
    const LINE_MAX: usize = 1 << 16;
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
        return if input.len() > LINE_MAX { Err(Broken) } else { Ok(None) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Broken)?;
    Ok(Some((line, end + 1)))
}

/// Parses the length prefix of a string or array in a Redis reply. Returns `None` for -1, which
/// stands for null.
fn length(text: &[u8]) -> Result<Option<usize>, Broken> {
    if text == b"-1" {
        return Ok(None);
    }
    if text.is_empty() || text.len() > 10 {
        return Err(Broken);
    }
    text.iter()
        .try_fold(0, |sum: usize, &byte| match byte {
            b'0'..=b'9' => Ok(sum * 10 + usize::from(byte - b'0')),
            _ => Err(Broken),
        })
        .map(Some)
}

/// Appends a Redis command to `out`, encoded as an array of strings. `arguments` starts with the
/// command's name.
pub(crate) fn write_request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the whole text as one reply, and checks that every proper prefix is incomplete.
    fn whole(text: &str) -> Reply<'_> {
        for end in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..end]), Ok(None), "{text:?} up to {end}");
        }
        let (reply, length) = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        reply
    }

    #[test]
    fn redis_reply_of_any_type_is_parsed_only_when_complete() {
        assert_eq!(whole("+OK\r\n"), Reply::Done);
        assert_eq!(whole(":12\r\n"), Reply::Done);
        assert_eq!(whole("-ERR no\r\n"), Reply::Error(b"ERR no"));
        assert_eq!(whole("$5\r\na\r\nbc\r\n"), Reply::Value(Some(b"a\r\nbc")));
        assert_eq!(whole("$0\r\n\r\n"), Reply::Value(Some(b"")));
        assert_eq!(whole("$-1\r\n"), Reply::Value(None));
        assert_eq!(whole("_\r\n"), Reply::Value(None));
        assert_eq!(whole("!3\r\nERR\r\n"), Reply::Error(b"ERR"));
        let nested = "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n%1\r\n+a\r\n$-1\r\n";
        assert_eq!(whole(nested), Reply::List(nested.as_bytes()));
        assert_eq!(whole("*0\r\n"), Reply::List(b"*0\r\n"));
    }

    #[test]
    fn invalid_redis_replies_are_rejected() {
        for text in ["HTTP/1.1 400\r\n", "\r\n", "$x\r\n", "$99999999999\r\n", "$1\r\nabc", "+\n"] {
            assert_eq!(read(text.as_bytes()), Err(Broken), "{text:?}");
        }
        assert_eq!(read("*1\r\n".repeat(99).as_bytes()), Err(Broken));
        assert_eq!(read(&vec![b'+'; 100_000]), Err(Broken), "a line without a line end");
    }

    #[test]
    fn write_with_wait_succeeds_only_if_enough_replicas_acknowledge() {
        let both = b"+OK\r\n:1\r\n";
        for end in 0..both.len() {
            assert_eq!(read_with_wait(&both[..end], 1), Ok(None));
        }
        assert_eq!(read_with_wait(both, 1), Ok(Some((Reply::Done, both.len()))));
        let (reply, _) = read_with_wait(both, 2).unwrap().unwrap();
        assert_eq!(reply, Reply::Error(b"WAIT timed out"));
        let (reply, length) = read_with_wait(b"-OOM no\r\n:0\r\n+", 1).unwrap().unwrap();
        assert_eq!((reply, length), (Reply::Error(b"OOM no"), 13));
    }

    #[test]
    fn waitaof_reply_is_success_only_if_server_and_replicas_synced() {
        assert!(is_synced(b"*2\r\n:1\r\n:1\r\n", 1) && is_synced(b"*2\r\n:1\r\n:2\r\n", 1));
        assert!(!is_synced(b"*2\r\n:0\r\n:2\r\n", 1), "not on the server itself");
        assert!(!is_synced(b"*2\r\n:1\r\n:1\r\n", 2), "timed out");
        assert!(!is_synced(b"*1\r\n:1\r\n", 1) && !is_synced(b"*2\r\n:1\r\n$1\r\nx\r\n", 1));
    }

    #[test]
    fn redis_array_reply_is_split_into_its_elements() {
        let list = b"*3\r\n:7\r\n$2\r\nab\r\n*1\r\n+x\r\n";
        let expected =
            [Reply::Value(Some(b"7")), Reply::Value(Some(b"ab")), Reply::List(b"*1\r\n+x\r\n")];
        assert_eq!(parts(list).unwrap(), expected);
        assert_eq!(parts(b"*-1\r\n"), None);
    }

    #[test]
    fn redis_requests_are_encoded_as_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        write_request(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
