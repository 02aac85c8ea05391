//! A client connection to a replica, for subcommands that query replicas. Every call ends within
//! its timeout.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::login::{Login, login};
use super::tls_arguments;

/// Maximum length of a reply, in bytes.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// A connection to the client port of a replica.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    timeout: Duration,
    input: Vec<u8>,
}

/// Parses the reply at the beginning of the bytes, and returns it with its length; `None` if it is
/// incomplete.
type Parse<R> = fn(&[u8]) -> anyhow::Result<Option<(R, usize)>>;

/// A connection without or with TLS.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A reply: text, or an error with its code, such as `ERR`.
pub(super) type Reply = Result<String, String>;
/// A reply: bytes, or an error with its code, such as `ERR`.
type BytesReply = Result<Vec<u8>, String>;

impl Connection {
    /// Connects to `address` (`host:port`), with TLS if this process is configured for it, and logs
    /// in. `timeout` limits the connection attempt and each later call.
    pub(super) fn open(address: &str, timeout: Duration) -> anyhow::Result<Connection> {
        let addresses = address.to_socket_addrs();
        let addresses = addresses.with_context(|| {
            format!("`{address}` is not an address: give a host and a port, such as 127.0.0.1:6379")
        })?;
        let mut last = None;
        for candidate in addresses {
            match TcpStream::connect_timeout(&candidate, timeout) {
                Ok(stream) => {
                    // Several requests may be on their way.
                    stream.set_nodelay(true)?;
                    let stream = Stream::new(stream, address)?;
                    let mut connection = Connection { stream, timeout, input: Vec::new() };
                    connection.log_in()?;
                    return Ok(connection);
                }
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).with_context(|| format!("cannot connect to {address}")),
            None => bail!("`{address}` resolves to no address"),
        }
    }

    /// Logs in if this process has a password.
    fn log_in(&mut self) -> anyhow::Result<()> {
        let Some(Login { user, password }) = login() else { return Ok(()) };
        let reply = self.call(&["AUTH", user, password])?;
        reply.map_err(|error| anyhow!("cannot log in as user `{user}`: {error}"))?;
        Ok(())
    }

    /// Sets the timeout for later calls.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Like [`Connection::call_for_bytes`], for text replies.
    pub(super) fn call(&mut self, arguments: &[&str]) -> anyhow::Result<Reply> {
        let reply = self.call_for_bytes(arguments)?;
        Ok(reply.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Sends a command and returns its reply, which must be a status, an error, a bulk string or an
    /// integer.
    pub(super) fn call_for_bytes(&mut self, arguments: &[&str]) -> anyhow::Result<BytesReply> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        self.send(&Connection::encode(&arguments))?;
        self.receive_with(parse)
    }

    /// Encodes a request.
    pub(super) fn encode(arguments: &[&[u8]]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            request.extend_from_slice(argument);
            request.extend_from_slice(b"\r\n");
        }
        request
    }

    /// Sends an encoded request without waiting for the reply.
    pub(super) fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.socket().set_write_timeout(Some(self.timeout))?;
        // The TLS handshake reads, too.
        self.stream.socket().set_read_timeout(Some(self.timeout))?;
        self.stream.write_all(request)?;
        self.stream.flush()?;
        Ok(())
    }

    /// Waits for the reply to a request that was sent, of any type, and returns whether it is an
    /// error.
    pub(super) fn receive(&mut self) -> anyhow::Result<Result<(), String>> {
        self.receive_with(skip)
    }

    fn receive_with<R>(&mut self, parse: Parse<R>) -> anyhow::Result<R> {
        let until = Instant::now() + self.timeout;
        loop {
            if let Some((reply, length)) = parse(&self.input)? {
                self.input.drain(..length);
                return Ok(reply);
            }
            ensure!(self.input.len() <= REPLY_BYTES_MAX, "the reply is too long");
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no reply within {:?}", self.timeout);
            self.stream.socket().set_read_timeout(Some(left))?;
            let mut space = [0; 16 << 10];
            match self.stream.read(&mut space) {
                Ok(0) => bail!("the connection was closed before the reply"),
                Ok(count) => self.input.extend_from_slice(&space[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Stream {
    /// Starts TLS on a connection to `address` if this process is configured for it.
    fn new(stream: TcpStream, address: &str) -> anyhow::Result<Stream> {
        let Some(config) = tls_arguments::config() else { return Ok(Stream::Plain(stream)) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .with_context(|| format!("`{address}` has a host that no certificate can name"))?;
        let connection = ClientConnection::new(config, name)?;
        Ok(Stream::Encrypted(Box::new(StreamOwned::new(connection, stream))))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Encrypted(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(space),
            Stream::Encrypted(stream) => stream.read(space),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Encrypted(stream) => stream.flush(),
        }
    }
}

/// Parses the reply at the start of `bytes`. Returns the reply and its length; `None` if it is
/// incomplete. Fails if it is malformed or of an unsupported type.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(BytesReply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    ensure!(end > 0, "not the reply of a Redis server");
    let line = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let rest = end + 2;
    match bytes[0] {
        b'+' | b':' => Ok(Some((Ok(line.into_bytes()), rest))),
        b'-' => Ok(Some((Err(line), rest))),
        b'$' => {
            let length: usize = line.parse().context("not the reply of a Redis server")?;
            ensure!(length <= REPLY_BYTES_MAX, "the reply is too long");
            let Some(text) = bytes.get(rest..rest + length + 2) else { return Ok(None) };
            Ok(Some((Ok(text[..length].to_vec()), rest + length + 2)))
        }
        _ => bail!("not the reply of a Redis server"),
    }
}

/// Parses the reply at the beginning of `bytes`, of any type, but keeps only whether it is an
/// error. Returns that with its length; `None` if it is incomplete.
fn skip(bytes: &[u8]) -> anyhow::Result<Option<(Result<(), String>, usize)>> {
    // Number of replies that are missing, those inside arrays included.
    let (mut missing, mut used, mut result) = (1_usize, 0, Ok(()));
    while missing > 0 {
        missing -= 1;
        let rest = &bytes[used..];
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        ensure!(end > 0, "not the reply of a Redis server");
        let line = String::from_utf8_lossy(&rest[1..end]).into_owned();
        used += end + 2;
        let length = || line.parse::<i64>().context("not the reply of a Redis server");
        match rest[0] {
            b'+' | b':' => {}
            b'-' => result = Err(line),
            // A negative length is that of null.
            b'$' => used += usize::try_from(length()?).map_or(0, |length| length + 2),
            b'*' => missing += usize::try_from(length()?).unwrap_or(0),
            _ => bail!("not the reply of a Redis server"),
        }
        if used > bytes.len() {
            return Ok(None);
        }
    }
    Ok(Some((result, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_any_type_are_skipped() {
        let skipped = |bytes: &[u8]| skip(bytes).unwrap();
        assert_eq!(skipped(b"+OK\r\n:1"), Some((Ok(()), 5)));
        assert_eq!(skipped(b"$-1\r\n"), Some((Ok(()), 5)));
        assert_eq!(skipped(b"-ERR no\r\n"), Some((Err("ERR no".to_owned()), 9)));
        let array = b"*3\r\n$1\r\n\n\r\n*-1\r\n*1\r\n:1\r\n";
        assert_eq!(skipped(array), Some((Ok(()), array.len())));
        for end in 0..array.len() {
            assert_eq!(skipped(&array[..end]), None);
        }
        for wrong in [&b"\r\n"[..], b"?\r\n", b"$x\r\n"] {
            assert!(skip(wrong).is_err() && parse(wrong).is_err());
        }
    }

    #[test]
    fn replies_of_each_kind_are_parsed_and_others_refused() {
        let whole = |bytes: &[u8]| parse(bytes).unwrap();
        assert_eq!(whole(b"+OK\r\n:1"), Some((Ok(b"OK".to_vec()), 5)));
        assert_eq!(whole(b":12\r\n"), Some((Ok(b"12".to_vec()), 5)));
        assert_eq!(whole(b"-ERR no\r\n"), Some((Err("ERR no".to_owned()), 9)));
        assert_eq!(whole(b"$4\r\na\r\nb\r\n+"), Some((Ok(b"a\r\nb".to_vec()), 10)));
        for incomplete in [&b""[..], b"+", b"+OK\r", b"$4\r\na\r\nb\r", b"$4\r\n"] {
            assert_eq!(whole(incomplete), None);
        }
        for wrong in [&b"HTTP/1.1 400\r\n"[..], b"$-1\r\n", b"$99999999999\r\n", b"*1\r\n"] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
