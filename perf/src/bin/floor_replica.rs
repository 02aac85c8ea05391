//! Measures a lower bound for a replica's latency under the university course's simulator. This
//! single-threaded program exchanges messages of the same sizes over the same UDP transport as a
//! real replica, but does not run Raft.
//!
//! The replica with the lowest id is always the leader. The leader replies to gets at once. It
//! sends each put only to as many other replicas as a majority needs (two of four, in rotation),
//! and replies to the client when all of these have acknowledged the put. The other replicas
//! redirect clients. There is no log, no term and no election, so the additional latency of a real
//! replica under the same simulator is the cost of consensus and threads. To compare the two
//! programs, alternate their runs (perf/results/course.md).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bowline::feature_level::FeatureLevel;
use bowline::kv::{Batch, Operation};
use bowline::raft::{AppendEntries, AppendOutcome, AppendReply, DiskState, Envelope, PeerMsg};
use bowline::record::{EntryKind, RecordBuffer};
use bowline::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey, Round, Term};
use bowline::wire::course::encode_peer;
use serde::Deserialize;

/// Time after which the leader resends an unacknowledged append message. It is much longer than a
/// normal round trip.
const RESEND_AFTER: Duration = Duration::from_millis(100);
/// Number of decimal digits, including leading zeros, of a put's sequence number, with which the
/// body of each message between replicas begins.
const NUMBER_DIGITS: usize = 16;

/// The fields of a message from the university course's simulator that this program uses.
#[derive(Deserialize)]
struct Message<'a> {
    src: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(rename = "MID", default)]
    mid: &'a str,
    #[serde(default)]
    key: &'a str,
    #[serde(default)]
    value: &'a str,
    #[serde(default)]
    body: &'a str,
}

/// A put that the leader has sent to other replicas and that at least one of them has not
/// acknowledged yet.
struct Pending {
    client: String,
    mid: String,
    key: String,
    value: String,
    unacknowledged: Vec<String>,
    sent: Instant,
}

struct Floor {
    socket: UdpSocket,
    simulator: (Ipv4Addr, u16),
    me: String,
    leader: String,
    /// Ids of the other replicas, in ascending order.
    others: Vec<String>,
    store: HashMap<String, String>,
    pending: HashMap<u64, Pending>,
    puts: u64,
    /// Length in bytes to which append messages are padded: the length of a real replica's
    /// `AppendEntries` message with one put. Acknowledgements are padded to `reply_length`, the
    /// length of a real replica's acknowledgement.
    append_length: usize,
    reply_length: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, me, others @ ..] = &arguments[..] else {
        anyhow::bail!("usage: floor-replica UDP-PORT ID OTHER-ID..");
    };
    let port = port.parse().with_context(|| {
        format!("invalid UDP port `{port}` of the simulator: must be from 0 to 65535")
    })?;
    let mut others = others.to_vec();
    others.sort();
    let leader = others.first().map_or(me, |other| other.min(me)).clone();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot bind a UDP socket on 127.0.0.1; check `ulimit -n`")?;
    socket
        .set_read_timeout(Some(RESEND_AFTER / 2))
        .context("cannot set the receive timeout of the UDP socket")?;
    let (append_length, reply_length) = lengths();
    let floor = Floor {
        socket,
        simulator: (Ipv4Addr::LOCALHOST, port),
        me: me.clone(),
        leader,
        others,
        store: HashMap::new(),
        pending: HashMap::new(),
        puts: 0,
        append_length,
        reply_length,
    };
    floor.run()
}

impl Floor {
    fn run(mut self) -> anyhow::Result<()> {
        let hello =
            format!(r#"{{"src":"{}","dst":"FFFF","leader":"FFFF","type":"hello"}}"#, self.me);
        self.send(&hello);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Ok(message) = serde_json::from_slice(&buffer[..length]) {
                        self.on_message(&message);
                    }
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => {
                    return Err(error)
                        .context("cannot receive messages from the simulator on the UDP socket");
                }
            }
            if !self.pending.is_empty() {
                self.resend();
            }
        }
    }

    fn send(&self, text: &str) {
        // An error means that the simulator is gone, so there is no one to report it to.
        let _ = self.socket.send_to(text.as_bytes(), self.simulator);
    }

    fn on_message(&mut self, message: &Message<'_>) {
        match message.kind {
            "get" | "put" if self.me != self.leader => {
                self.reply(message.src, message.mid, "redirect", None);
            }
            "get" => {
                let value = self.store.get(message.key).map_or("", String::as_str);
                self.reply(message.src, message.mid, "ok", Some(value));
            }
            "put" => self.put(message),
            "append" => {
                let number = message.body.get(..NUMBER_DIGITS).unwrap_or_default();
                self.send_padded(message.src, "append_ok", number, self.reply_length);
            }
            "append_ok" => self.on_ack(message),
            _ => {}
        }
    }

    fn reply(&self, client: &str, mid: &str, kind: &str, value: Option<&str>) {
        let value = value.map(|value| format!(r#","value":"{value}""#)).unwrap_or_default();
        self.send(&format!(
            r#"{{"src":"{}","dst":"{client}","leader":"{}","type":"{kind}","MID":"{mid}"{value}}}"#,
            self.me, self.leader
        ));
    }

    /// Sends a message of the type `kind` about put number `number` to the replica `to`, padded to
    /// `length` bytes.
    fn send_padded(&self, to: &str, kind: &str, number: &str, length: usize) {
        let mut text = format!(
            r#"{{"src":"{}","dst":"{to}","leader":"{}","type":"{kind}","body":"{number}"#,
            self.me, self.leader
        );
        while text.len() + 2 < length {
            text.push('A');
        }
        text.push_str("\"}");
        self.send(&text);
    }

    fn put(&mut self, message: &Message<'_>) {
        let number = self.puts;
        self.puts += 1;
        let quorum = self.others.len().div_ceil(2);
        let first = usize::try_from(number).unwrap_or(0) * quorum;
        let chosen: Vec<String> = (0..quorum)
            .map(|place| self.others[(first + place) % self.others.len()].clone())
            .collect();
        for other in &chosen {
            self.send_padded(other, "append", &format!("{number:016}"), self.append_length);
        }
        self.pending.insert(
            number,
            Pending {
                client: message.src.to_owned(),
                mid: message.mid.to_owned(),
                key: message.key.to_owned(),
                value: message.value.to_owned(),
                unacknowledged: chosen,
                sent: Instant::now(),
            },
        );
    }

    fn on_ack(&mut self, message: &Message<'_>) {
        let number = message.body.get(..NUMBER_DIGITS).and_then(|digits| digits.parse().ok());
        let Some(number) = number else { return };
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.unacknowledged.retain(|other| other != message.src);
        if pending.unacknowledged.is_empty()
            && let Some(done) = self.pending.remove(&number)
        {
            self.store.insert(done.key, done.value);
            self.reply(&done.client, &done.mid, "ok", None);
        }
    }

    fn resend(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        for (number, pending) in &mut self.pending {
            if now.duration_since(pending.sent) >= RESEND_AFTER {
                pending.sent = now;
                late.extend(pending.unacknowledged.iter().map(|other| (*number, other.clone())));
            }
        }
        for (number, other) in late {
            self.send_padded(&other, "append", &format!("{number:016}"), self.append_length);
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Returns the lengths in bytes of a real replica's `AppendEntries` message with one put, and of
/// the acknowledgement of that message.
fn lengths() -> (usize, usize) {
    let key = RequestKey { client: ClientId(0x15), request: RequestId(*b"ABCDEFGHIJKLMNOP") };
    let operation = Operation::set(&[b'K'; 32], &[b'v'; 32]);
    let payload = Batch::one(key, &operation);
    let id = EntryId::new(1, 2);
    let append = AppendEntries {
        term: Term(1),
        round: Round(1),
        prev: EntryId::new(1, 1),
        commit_index: Index(1),
        loss_permille: 0,
        transfer_to: None,
        entries: vec![RecordBuffer::default().encode(id, EntryKind::Command, &payload)],
    };
    let reply = AppendReply {
        term: Term(1),
        round: Round(1),
        level: FeatureLevel::OLDEST,
        disk: DiskState::Healthy,
        outcome: AppendOutcome::Match { index: Index(2) },
    };
    let length = |message| {
        let (from, to) = (NodeId(0), NodeId(1));
        let mut text = Vec::new();
        encode_peer(&Envelope { from, to, leader: Some(from), message }, &mut text);
        text.len()
    };
    (length(PeerMsg::AppendEntries(append)), length(PeerMsg::AppendReply(reply)))
}
