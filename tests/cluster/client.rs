//! A minimal pipelining client, plain or with TLS: sends complete commands and returns raw replies.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection};

/// Timeout of connections, reads and writes: longer than any deadline of the servers in these
/// tests.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A client connection to a server.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// The state of TLS; `None` for a plain connection.
    tls: Option<ClientConnection>,
    input: Vec<u8>,
}

/// How clients connect to a server.
#[derive(Clone)]
pub(crate) struct Connector {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl From<SocketAddr> for Connector {
    fn from(address: SocketAddr) -> Connector {
        Connector { address, tls: None }
    }
}

impl Connector {
    /// Returns how clients connect to a server with TLS.
    pub(crate) fn with_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Connector {
        Connector { address, tls: Some(config) }
    }

    pub(crate) fn connect(&self) -> io::Result<Client> {
        let client = Client::connect(self.address)?;
        let Some(config) = &self.tls else { return Ok(client) };
        let name = "localhost".try_into().map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Client { tls: Some(tls), ..client })
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, tls: None, input: Vec::new() })
    }

    /// Sends a command and waits for its reply.
    pub(crate) fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Vec<u8>> {
        self.send(&command(arguments))?;
        self.reply()
    }

    /// Repeats an idempotent command until it succeeds, and returns the reply. Requests may be
    /// refused after the loss of a leader or while a disk is slow.
    pub(crate) fn call_until_ok(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let reply = self.call(arguments).unwrap();
            let passing = ["-CLUSTERDOWN ", "-LOADING ", "-TRYAGAIN ", "-UNCERTAIN "];
            if !passing.iter().any(|word| reply.starts_with(word.as_bytes())) {
                return reply;
            }
            let shown = String::from_utf8_lossy(&reply);
            assert!(Instant::now() < until, "asked again and again, and still {shown}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends raw bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls, &mut self.stream);
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Reads and returns the next complete reply.
    pub(crate) fn reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = reply_length(&self.input) {
                return Ok(self.input.drain(..length).collect());
            }
            let mut space = [0; 16 << 10];
            let count = match &mut self.tls {
                None => self.stream.read(&mut space)?,
                Some(tls) => rustls::Stream::new(tls, &mut self.stream).read(&mut space)?,
            };
            match count {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&space[..count]),
            }
        }
    }
}

/// Encodes a command as an array of bulk strings.
pub(crate) fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for word in arguments {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Returns the length of the first reply in `bytes`; `None` if the reply is incomplete.
pub(crate) fn reply_length(bytes: &[u8]) -> Option<usize> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || -> i64 { std::str::from_utf8(&bytes[1..line_end]).unwrap().parse().unwrap() };
    let mut length = line_end + 2;
    match bytes[0] {
        b'$' => {
            if let Ok(bulk) = usize::try_from(number()) {
                length += bulk + 2;
            }
        }
        head @ (b'*' | b'>' | b'~' | b'%') => {
            let parts = if head == b'%' { 2 * number() } else { number() };
            for _ in 0..parts {
                length += reply_length(bytes.get(length..)?)?;
            }
        }
        b'+' | b'-' | b':' | b'_' => {}
        other => panic!("a reply begins with {other}"),
    }
    (length <= bytes.len()).then_some(length)
}
