//! Requests and replies of the Redis protocol, as a client sees them: nothing is kept of a reply
//! but what the run needs, and nothing is copied.

use super::answer::Answer;

/// A reply that is no Redis protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken;

/// Deepest nesting of arrays; nobody sends more than a handful.
const DEPTH_MAX: usize = 32;

/// Reads one reply from the start of `input`: what it says and its length. `None` if it is not
/// all there yet.
///
/// # Errors
/// If it can't become one.
pub(crate) fn read(input: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Broken> {
    let Some((line, after)) = line(input)? else { return Ok(None) };
    let (kind, rest) = line.split_first().ok_or(Broken)?;
    let answer = match kind {
        b'+' | b':' | b',' | b'#' | b'(' => Answer::Done,
        b'-' => Answer::Error(rest),
        b'_' => Answer::Value(None),
        b'$' | b'=' | b'!' => {
            let Some(length) = length(rest)? else { return Ok(Some((Answer::Value(None), after))) };
            let end = after + length;
            let Some(tail) = input.get(end..end + 2) else { return Ok(None) };
            if tail != b"\r\n" {
                return Err(Broken);
            }
            let text = &input[after..end];
            let answer =
                if *kind == b'!' { Answer::Error(text) } else { Answer::Value(Some(text)) };
            return Ok(Some((answer, end + 2)));
        }
        b'*' | b'%' | b'~' | b'>' => {
            let Some(end) = skip(input, 0)? else { return Ok(None) };
            return Ok(Some((Answer::List(&input[..end]), end)));
        }
        _ => return Err(Broken),
    };
    Ok(Some((answer, after)))
}

/// Reads the reply to a write and that to the WAIT behind it, as one: a write that fewer replicas
/// have in time is an error.
pub(crate) fn read_waited(
    input: &[u8],
    replicas: u32,
) -> Result<Option<(Answer<'_>, usize)>, Broken> {
    let Some((wrote, end)) = read(input)? else { return Ok(None) };
    let Some((waited, length)) = read(&input[end..])? else { return Ok(None) };
    let both = end + length;
    if matches!(wrote, Answer::Error(_)) || waited != Answer::Done {
        let error = if matches!(wrote, Answer::Error(_)) { wrote } else { waited };
        return Ok(Some((error, both)));
    }
    let text = std::str::from_utf8(&input[end + 1..both - 2]).map_err(|_| Broken)?;
    let have: u32 = text.parse().map_err(|_| Broken)?;
    let answer = if have < replicas { Answer::Error(b"WAITED in vain") } else { wrote };
    Ok(Some((answer, both)))
}

/// Where the reply at the start of `input` ends, whatever it is.
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

/// The parts of an array; of each its text if it is one, and where it lies if it is an array.
pub(crate) fn parts(list: &[u8]) -> Option<Vec<Answer<'_>>> {
    let (line, mut at) = line(list).ok()??;
    let count = length(line.get(1..)?).ok()??;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (answer, length) = read(&list[at..]).ok()??;
        // What `read` leaves out of numbers and simple texts is wanted here.
        let text = &list[at + 1..(at + length).saturating_sub(2)];
        parts.push(if answer == Answer::Done { Answer::Value(Some(text)) } else { answer });
        at += length;
    }
    Some(parts)
}

/// The first line without its end, and where the next one begins.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    /// No first line is longer: texts of errors are the longest.
    const LINE_MAX: usize = 1 << 16;
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
        return if input.len() > LINE_MAX { Err(Broken) } else { Ok(None) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Broken)?;
    Ok(Some((line, end + 1)))
}

/// A length; `None` if it is -1, which stands for nothing.
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

/// Writes a request of any words.
pub(crate) fn write_request(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the whole text as one reply, having seen that no part of it is one.
    fn whole(text: &str) -> Answer<'_> {
        for end in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..end]), Ok(None), "{text:?} up to {end}");
        }
        let (answer, length) = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        answer
    }

    #[test]
    fn every_kind_of_reply_is_read_and_never_too_early() {
        assert_eq!(whole("+OK\r\n"), Answer::Done);
        assert_eq!(whole(":12\r\n"), Answer::Done);
        assert_eq!(whole("-ERR no\r\n"), Answer::Error(b"ERR no"));
        assert_eq!(whole("$5\r\na\r\nbc\r\n"), Answer::Value(Some(b"a\r\nbc")));
        assert_eq!(whole("$0\r\n\r\n"), Answer::Value(Some(b"")));
        assert_eq!(whole("$-1\r\n"), Answer::Value(None));
        assert_eq!(whole("_\r\n"), Answer::Value(None));
        assert_eq!(whole("!3\r\nERR\r\n"), Answer::Error(b"ERR"));
        let nested = "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n%1\r\n+a\r\n$-1\r\n";
        assert_eq!(whole(nested), Answer::List(nested.as_bytes()));
        assert_eq!(whole("*0\r\n"), Answer::List(b"*0\r\n"));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for text in ["HTTP/1.1 400\r\n", "\r\n", "$x\r\n", "$99999999999\r\n", "$1\r\nabc", "+\n"] {
            assert_eq!(read(text.as_bytes()), Err(Broken), "{text:?}");
        }
        assert_eq!(read("*1\r\n".repeat(99).as_bytes()), Err(Broken));
        assert_eq!(read(&vec![b'+'; 100_000]), Err(Broken), "a line without an end");
    }

    #[test]
    fn a_write_counts_when_replicas_have_it() {
        let both = b"+OK\r\n:1\r\n";
        for end in 0..both.len() {
            assert_eq!(read_waited(&both[..end], 1), Ok(None));
        }
        assert_eq!(read_waited(both, 1), Ok(Some((Answer::Done, both.len()))));
        let (answer, _) = read_waited(both, 2).unwrap().unwrap();
        assert_eq!(answer, Answer::Error(b"WAITED in vain"));
        let (answer, length) = read_waited(b"-OOM no\r\n:0\r\n+", 1).unwrap().unwrap();
        assert_eq!((answer, length), (Answer::Error(b"OOM no"), 13));
    }

    #[test]
    fn arrays_come_apart() {
        let list = b"*3\r\n:7\r\n$2\r\nab\r\n*1\r\n+x\r\n";
        let expected =
            [Answer::Value(Some(b"7")), Answer::Value(Some(b"ab")), Answer::List(b"*1\r\n+x\r\n")];
        assert_eq!(parts(list).unwrap(), expected);
        assert_eq!(parts(b"*-1\r\n"), None);
    }

    #[test]
    fn requests_are_arrays_of_texts() {
        let mut out = Vec::new();
        write_request(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
