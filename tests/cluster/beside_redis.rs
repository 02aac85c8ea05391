//! Runs the same steps on several connections to a replica and to a real Redis, and compares every
//! byte that each connection receives, including messages that are not replies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::time::Duration;

use crate::client::Client;
use crate::reference::Reference;
use crate::replicas::Cluster;

/// A connection to a server.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// The connections to one of the two servers, by the names used in the steps.
struct Side {
    connections: BTreeMap<char, Box<dyn Stream>>,
    /// The id of each connection.
    ids: BTreeMap<char, String>,
}

/// Text that each connection echoes after everything it has received before.
const MARK: &str = "the-mark";

impl Side {
    fn new(names: &str, mut connect: impl FnMut() -> Box<dyn Stream>) -> Side {
        let mut side = Side { connections: BTreeMap::new(), ids: BTreeMap::new() };
        for name in names.chars() {
            side.connections.insert(name, connect());
            let received = side.run(name, "CLIENT ID");
            let id = received.trim_start_matches(':').trim_end().to_owned();
            side.ids.insert(name, id);
        }
        side
    }

    /// Sends a request, and returns everything that the connection receives until the mark. A
    /// request that begins with `!` gets no mark, because the transaction would queue it: one line
    /// is read. One that begins with `~` has no reply.
    fn run(&mut self, name: char, request: &str) -> String {
        let mut request = request.to_owned();
        for (other, id) in &self.ids {
            request = request.replace(&format!("${other}"), id);
        }
        let (request, is_marked) = match request.strip_prefix('!') {
            Some(rest) => (rest.to_owned(), false),
            None => (request, true),
        };
        let (request, has_reply) = match request.strip_prefix('~') {
            Some(rest) => (rest.to_owned(), false),
            None => (request, true),
        };
        if let Some(millis) = request.strip_prefix("sleep ") {
            std::thread::sleep(Duration::from_millis(millis.parse().unwrap()));
            return String::new();
        }
        let stream = self.connections.get_mut(&name).unwrap();
        let mut received = Vec::new();
        let mut receive_until = |stream: &mut Box<dyn Stream>, end: &str| {
            let mut byte = [0];
            while !received.ends_with(end.as_bytes()) {
                assert_eq!(stream.read(&mut byte).unwrap(), 1, "{request}: it was disconnected");
                received.push(byte[0]);
            }
        };
        if !request.is_empty() {
            stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
            if has_reply {
                receive_until(stream, "\r\n");
            }
        }
        if is_marked {
            stream.write_all(format!("PING {MARK}\r\n").as_bytes()).unwrap();
            receive_until(stream, &format!("{MARK}\r\n"));
        }
        let mut received = String::from_utf8_lossy(&received).into_owned();
        if is_marked {
            let marks = ["*2\r\n$4\r\npong\r\n$8\r\nthe-mark\r\n", "$8\r\nthe-mark\r\n"];
            let mark = marks.into_iter().find(|mark| received.ends_with(mark)).unwrap();
            received.truncate(received.len() - mark.len());
        }
        // Other replies may contain the same number.
        let has_ids = request.starts_with("CLIENT ") || received.contains("tracking-redir-broken");
        for (other, id) in self.ids.iter().filter(|_| has_ids) {
            let (number, name) = (format!("\r\n:{id}\r\n"), format!("\r\n:${other}\r\n"));
            received = format!("\r\n{received}").replace(&number, &name).split_off(2);
        }
        without_times(&received)
    }
}

/// Replaces the time and the address in the lines of a monitor.
fn without_times(received: &str) -> String {
    let line = |line: &str| match line.split_once(" [0 ") {
        Some((time, rest)) if time.starts_with("+1") => {
            let shown = rest.split_once("] ").map_or(rest, |(_, shown)| shown);
            format!("+time {shown}")
        }
        _ => line.to_owned(),
    };
    received.split("\r\n").map(line).collect::<Vec<_>>().join("\r\n")
}

/// Runs steps such as `a: GET k` at both servers, each on the connection of that name, and compares
/// what all connections in `names` receive. `$b` stands for the id of the connection `b`. A
/// connection whose name is in upper case uses RESP3.
pub(crate) fn compare(names: &str, steps: &str) {
    let Some(reference) = Reference::start() else { return };
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut names = names.to_owned();
    let mut ours = Side::new(&names, || {
        let client = Client::connect(cluster.address(0)).unwrap();
        Box::new(client.stream)
    });
    let mut theirs = Side::new(&names, || Box::new(reference.connect()));
    let mut differences = String::new();
    let steps = steps.lines().map(str::trim).filter(|step| !step.is_empty());
    for name in names.chars().filter(char::is_ascii_uppercase) {
        ours.run(name, "HELLO 3");
        theirs.run(name, "HELLO 3");
    }
    // Connections in a transaction, which would queue the mark.
    let mut in_transaction = String::new();
    for step in steps {
        let (name, request) = step.split_once(": ").unwrap();
        let name = name.chars().next().unwrap();
        if let Some(killed) = request.strip_prefix("CLIENT KILL ID $") {
            names = names.replace(killed, "");
        }
        let results = [&mut ours, &mut theirs].map(|side| {
            let mut results = vec![(name, side.run(name, request))];
            if request == "!MULTI" {
                in_transaction.push(name);
            } else if request == "EXEC" || request == "DISCARD" {
                in_transaction.retain(|other| other != name);
            }
            for other in names.chars().filter(|other| *other != name) {
                if !in_transaction.contains(other) && !request.starts_with("sleep") {
                    results.push((other, side.run(other, "")));
                }
            }
            results
        });
        let [ours, theirs] = results;
        if ours != theirs {
            let _ = write!(differences, "{step}\n  ours   {ours:?}\n  theirs {theirs:?}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
