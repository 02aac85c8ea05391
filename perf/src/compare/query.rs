//! Queries the state of a server with Redis commands or an HTTP GET request, over a new connection
//! for each query.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::report::to_count;

/// Timeout of a query to a server. A server that does not reply within this time is considered not
/// ready.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum number of bytes read from an HTTP response. The rest is ignored.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends a Redis command and returns its reply: the content of a bulk string, the still encoded
/// first elements of an array, or the first line of any other reply.
pub(crate) fn redis(address: SocketAddr, arguments: &[&str]) -> io::Result<String> {
    redis_in_turn(address, &[arguments])
}

/// Sends Redis commands over one connection, each after the reply to the previous one. Returns the
/// last reply in the form that [`redis`] returns.
pub(crate) fn redis_in_turn(address: SocketAddr, commands: &[&[&str]]) -> io::Result<String> {
    let mut stream = connect(address)?;
    let mut last = String::new();
    for command in commands {
        last = ask(&mut stream, command)?;
    }
    Ok(last)
}

fn ask(stream: &mut TcpStream, arguments: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        write!(request, "${}\r\n{argument}\r\n", argument.len())
            .expect("writing to a String cannot fail");
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    let started = Instant::now();
    loop {
        if let Some(complete) = complete_reply(&reply) {
            return Ok(complete);
        }
        let mut part = [0; 4096];
        let count = stream.read(&mut part)?;
        if count == 0 || started.elapsed() > TIMEOUT {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&part[..count]);
    }
}

fn complete_reply(reply: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(reply);
    let (first, rest) = text.split_once("\r\n")?;
    if let Some(length) = first.strip_prefix('$') {
        let Ok(length) = length.parse::<usize>() else { return Some(String::new()) };
        return (rest.len() >= length + 2).then(|| rest[..length].to_owned());
    }
    if first.starts_with('*') {
        // Callers, such as those that send ROLE, use only the first element, so wait only for its
        // length and content.
        return (rest.matches("\r\n").count() >= 2).then(|| rest.to_owned());
    }
    Some(first.to_owned())
}

/// Sends an HTTP GET request for `path` and returns the response, including its headers.
pub(crate) fn http(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Returns the number called `name` in a server's metrics; `None` if there is no such number. Each
/// line of `text` has the form `name:value` or `name value`.
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
    fn redis_reply_is_returned_only_when_complete() {
        assert_eq!(complete_reply(b"+PO"), None);
        assert_eq!(complete_reply(b"+PONG\r\n").as_deref(), Some("+PONG"));
        assert_eq!(complete_reply(b"$3\r\nabc\r"), None);
        assert_eq!(complete_reply(b"$3\r\nabc\r\n").as_deref(), Some("abc"));
        assert_eq!(complete_reply(b"$-1\r\n").as_deref(), Some(""));
        assert_eq!(complete_reply(b"*3\r\n$6\r\nmas"), None);
        let role = complete_reply(b"*3\r\n$6\r\nmaster\r\n:0\r\n").unwrap();
        assert!(role.starts_with("$6\r\nmaster"));
    }

    #[test]
    fn server_metric_is_selected_by_its_exact_name() {
        let text = "raft_syncs_total:9\r\nraft_syncs:7\r\nfsync_count 1.5e+03\n";
        assert_eq!(number(text, "raft_syncs"), Some(7));
        assert_eq!(number(text, "fsync_count"), Some(1_500));
        assert_eq!(number(text, "other"), None);
    }
}
