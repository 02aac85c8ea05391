//! A client that sends commands with large arguments and large replies, and notes errors.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::client::{Client, command};
use crate::replicas::Cluster;

/// Arguments of one command when a collection is filled.
const ARGUMENTS_MAX: usize = 100_000;

/// A client that sends an input, with a connection to one of the replicas.
pub(crate) struct Offender {
    connection: BufReader<TcpStream>,
    /// Connections without a reader, which stay open until the end of the input.
    pub(crate) unread: Vec<TcpStream>,
    /// All error replies.
    pub(crate) errors: Vec<String>,
}

/// Lets commands extend strings to 512 MiB.
pub(crate) fn allow_long_strings(cluster: &Cluster) {
    for at in 0..cluster.ports.len() {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let set: &[&[u8]] = &[b"CONFIG", b"SET", b"proto-max-bulk-len", b"536870912"];
        assert_eq!(client.call(set).unwrap(), b"+OK\r\n");
    }
}

/// One field of `INFO`.
pub(crate) fn info(client: &mut Client, field: &str) -> String {
    let text = String::from_utf8(client.call(&[b"INFO"]).unwrap()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
}

impl Offender {
    pub(crate) fn connect(cluster: &Cluster, at: usize) -> Offender {
        let stream = Client::connect(cluster.address(at)).unwrap().stream;
        Offender { connection: BufReader::new(stream), unread: Vec::new(), errors: Vec::new() }
    }

    /// Opens another connection to the same replica, whose replies nobody reads.
    pub(crate) fn connect_without_reader(&mut self, arguments: &str) {
        let address = self.connection.get_ref().peer_addr().unwrap();
        let mut stream = Client::connect(address).unwrap().stream;
        let arguments: Vec<&[u8]> = arguments.split(' ').map(str::as_bytes).collect();
        stream.write_all(&command(&arguments)).unwrap();
        self.unread.push(stream);
    }

    /// Sends a command whose arguments contain no spaces, and returns its reply.
    pub(crate) fn call(&mut self, arguments: &str) -> i64 {
        let arguments: Vec<&[u8]> = arguments.split(' ').map(str::as_bytes).collect();
        self.call_with(&arguments)
    }

    /// Sends a command and returns its reply: an integer, or the number of elements of an array.
    pub(crate) fn call_with(&mut self, arguments: &[&[u8]]) -> i64 {
        self.send(&command(arguments));
        self.reply()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.connection.get_mut().write_all(bytes).unwrap();
    }

    /// Reads `count` replies.
    pub(crate) fn replies(&mut self, count: usize) {
        (0..count).for_each(|_| {
            self.reply();
        });
    }

    /// Reads one reply. Returns an integer as it is, and the number of elements of an array.
    pub(crate) fn reply(&mut self) -> i64 {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        let text = line.trim_end();
        let number = text.get(1..).and_then(|text| text.parse().ok()).unwrap_or(0);
        match text.as_bytes().first() {
            Some(b'-') => self.errors.push(text.to_owned()),
            Some(b'$') if number >= 0 => {
                let length = u64::try_from(number).unwrap() + 2;
                let mut value = self.connection.by_ref().take(length);
                std::io::copy(&mut value, &mut std::io::sink()).unwrap();
            }
            Some(b'*') => self.replies(usize::try_from(number).unwrap_or(0)),
            Some(b'$' | b'+' | b':') => {}
            _ => panic!("the connection was closed, or a reply is {text:?}"),
        }
        number
    }

    /// Adds this many elements to a collection with a command such as `SADD key`. `element` returns
    /// the arguments for one element.
    pub(crate) fn fill(
        &mut self,
        arguments: &str,
        count: usize,
        element: impl Fn(usize) -> String,
    ) {
        for from in (0..count).step_by(ARGUMENTS_MAX) {
            let all = from..count.min(from + ARGUMENTS_MAX);
            let elements: Vec<String> = all.map(&element).collect();
            let elements = elements.iter().flat_map(|element| element.split(' '));
            let arguments: Vec<&[u8]> =
                arguments.split(' ').chain(elements).map(str::as_bytes).collect();
            self.call_with(&arguments);
        }
    }
}
