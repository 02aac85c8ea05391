//! Asks servers about themselves: a Redis command or an HTTP GET, one connection a question.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::report::to_count;

/// A server that takes longer is not ready.
const PATIENCE: Duration = Duration::from_millis(500);
/// No answer is longer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The reply to a Redis command, in the protocol's own letters: of bulk strings the content, of
/// arrays what came first.
pub(crate) fn redis(address: SocketAddr, words: &[&str]) -> io::Result<String> {
    let mut stream = connect(address)?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len()).expect("a string takes all");
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    let started = Instant::now();
    loop {
        if let Some(whole) = whole_reply(&reply) {
            return Ok(whole);
        }
        let mut part = [0; 4096];
        let count = stream.read(&mut part)?;
        if count == 0 || started.elapsed() > PATIENCE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&part[..count]);
    }
}

fn whole_reply(reply: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(reply);
    let (first, rest) = text.split_once("\r\n")?;
    if let Some(length) = first.strip_prefix('$') {
        let Ok(length) = length.parse::<usize>() else { return Some(String::new()) };
        return (rest.len() >= length + 2).then(|| rest[..length].to_owned());
    }
    if first.starts_with('*') {
        // Who only looks at the first element, such as ROLE's, needs its name as well.
        return (rest.matches("\r\n").count() >= 2).then(|| rest.to_owned());
    }
    Some(first.to_owned())
}

/// What an HTTP server has at this path.
pub(crate) fn http(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// A number out of `name:value` or `name value` lines.
pub(crate) fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with([':', ' '])))?;
    let value: f64 = rest[1..].trim().parse().ok()?;
    (value >= 0.0).then_some(to_count(value) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_known_when_they_are_whole() {
        assert_eq!(whole_reply(b"+PO"), None);
        assert_eq!(whole_reply(b"+PONG\r\n").as_deref(), Some("+PONG"));
        assert_eq!(whole_reply(b"$3\r\nabc\r"), None);
        assert_eq!(whole_reply(b"$3\r\nabc\r\n").as_deref(), Some("abc"));
        assert_eq!(whole_reply(b"$-1\r\n").as_deref(), Some(""));
        assert_eq!(whole_reply(b"*3\r\n$6\r\nmas"), None);
        let role = whole_reply(b"*3\r\n$6\r\nmaster\r\n:0\r\n").unwrap();
        assert!(role.starts_with("$6\r\nmaster"));
    }

    #[test]
    fn numbers_are_found_by_their_whole_names() {
        let text = "raft_syncs_total:9\r\nraft_syncs:7\r\nfsync_count 1.5e+03\n";
        assert_eq!(number(text, "raft_syncs"), Some(7));
        assert_eq!(number(text, "fsync_count"), Some(1_500));
        assert_eq!(number(text, "other"), None);
    }
}
