//! Three replicas behind a router that duplicates messages, replays old ones, and sends garbage.
//! The replicas must keep replying, and their replies must be correct.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bowline::raft::{Envelope, PeerMsg, RequestVote};
use bowline::types::{EntryId, NodeId, Term};
use bowline::wire::course::encode_peer;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::replica_program::{Program, TIMEOUT, simulator};

const CLIENT: &str = "0013";
const IDS: [&str; 3] = ["0000", "0001", "0002"];

/// The router, which takes the role of the simulator.
struct Router {
    sockets: Vec<UdpSocket>,
    addresses: Vec<SocketAddr>,
    programs: Vec<Program>,
    random: ChaCha8Rng,
    /// Index of the leader that the last reply named.
    leader: usize,
    /// Messages between replicas, each with its receiver, to be replayed much later.
    old: Vec<(usize, Vec<u8>)>,
    _folder: tempfile::TempDir,
}

impl Router {
    fn start(threads: &str) -> Router {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut sockets, mut addresses, mut programs) = (vec![], vec![], vec![]);
        for me in IDS {
            let (socket, port) = simulator();
            let others = IDS.into_iter().filter(|id| *id != me);
            let arguments: Vec<&str> = [port.as_str(), me].into_iter().chain(others).collect();
            programs.push(Program::start(folder.path(), threads, &arguments));
            let (_, address) = socket.recv_from(&mut [0; 1024]).expect("a hello");
            socket.set_nonblocking(true).expect("our own socket");
            sockets.push(socket);
            addresses.push(address);
        }
        let random = ChaCha8Rng::seed_from_u64(11);
        Router { sockets, addresses, programs, random, leader: 0, old: vec![], _folder: folder }
    }

    fn throw(&self, to: usize, text: &[u8]) {
        // An error means that the replica has exited, which the end of the test reports.
        let _ = self.sockets[to].send_to(text, self.addresses[to]);
    }

    /// Sends a request, routes messages until its reply arrives, and returns the reply. Follows
    /// redirects.
    fn ask(&mut self, request: &Value) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        for attempt in 0.. {
            // Two replicas that each name the other as the leader may redirect the request for a
            // while.
            let mid = format!("{:010}{attempt:06}", self.random.random_range(0..1_000_000_000_u64));
            let mut request = request.clone();
            let to = self.leader;
            request["src"] = json!(CLIENT);
            request["dst"] = json!(IDS[to]);
            request["leader"] = json!("FFFF");
            request["MID"] = json!(mid);
            self.throw(to, request.to_string().as_bytes());
            let answer = loop {
                let answers = self.route();
                if let Some(answer) = answers.into_iter().find(|a| a["MID"] == json!(mid)) {
                    break answer;
                }
                // The replicas need the processor more than this loop does.
                std::thread::sleep(Duration::from_micros(50));
                assert!(Instant::now() < deadline, "{request} is not answered");
            };
            let named = IDS.iter().position(|id| answer["leader"] == *id);
            self.leader = named.unwrap_or((to + 1) % IDS.len());
            if answer["type"] == "ok" {
                return answer;
            }
            assert_eq!(answer["type"], "redirect", "{answer}");
        }
        unreachable!("endless attempts")
    }

    /// Receives one message from each replica, and forwards messages between replicas with faults.
    /// Returns the replies to clients.
    fn route(&mut self) -> Vec<Value> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; 65_536];
        for from in 0..IDS.len() {
            let Ok(length) = self.sockets[from].recv(&mut buffer) else { continue };
            let text = buffer[..length].to_vec();
            let message: Value = serde_json::from_slice(&text).expect("replicas send JSON");
            match IDS.iter().position(|id| message["dst"] == *id) {
                Some(to) => self.pass_on(to, text),
                None if message["dst"] == CLIENT => answers.push(message),
                None => assert_eq!(message["type"], "hello", "{message} has no receiver"),
            }
        }
        answers
    }

    fn pass_on(&mut self, to: usize, text: Vec<u8>) {
        for _ in 0..self.random.random_range(1..=3) {
            self.throw(to, &text);
        }
        self.old.push((to, text));
        let again = self.random.random_range(0..self.old.len());
        let (to, text) = &self.old[again];
        self.throw(*to, text);
        let rubbish = self.rubbish();
        let victim = self.random.random_range(0..IDS.len());
        self.throw(victim, &rubbish);
    }

    /// Returns a message that no replica may act on.
    fn rubbish(&mut self) -> Vec<u8> {
        let length = self.random.random_range(0..2_000);
        let mut noise = vec![0; length];
        self.random.fill_bytes(&mut noise);
        match self.random.random_range(0..8) {
            0 => noise,
            1 => vec![],
            2 => b"[".repeat(65_000),
            3 => br#"{"src":"0001","dst":"#.to_vec(),
            // Messages with an unknown receiver, an invalid sender, no valid type, or a number in
            // place of a name.
            4 => json!({"src": "0001", "dst": "0007", "leader": "FFFF", "type": "append",
                        "body": "AAAA"})
            .to_string()
            .into(),
            5 => json!({"src": "ZZZZ", "dst": "FFFF", "leader": 1, "type": ["vote"]})
                .to_string()
                .into(),
            6 => {
                let body = String::from_utf8_lossy(&noise).into_owned();
                json!({"src": "0001", "dst": "FFFF", "leader": "FFFF", "type": "append_ok",
                       "body": body})
                .to_string()
                .into()
            }
            // A well-formed vote request from an unknown sender.
            _ => {
                let last = EntryId::new(1 << 40, 1 << 40);
                let vote = RequestVote { term: Term(1 << 40), pre: false, transfer: false, last };
                let mut text = Vec::new();
                let to = NodeId(self.random.random_range(0..3));
                let message = PeerMsg::RequestVote(vote);
                encode_peer(&Envelope { from: NodeId(9), to, leader: None, message }, &mut text);
                text
            }
        }
    }
}

fn keeps_answering(threads: &str) {
    let mut router = Router::start(threads);
    let mut pairs = BTreeMap::new();
    for round in 0..60 {
        if round % 10 == 0 {
            router.leader = router.random.random_range(0..IDS.len());
        }
        let key = format!("key{}", round % 7);
        let value = format!("value{round}");
        let answer = router.ask(&json!({"type": "put", "key": key, "value": value}));
        assert_eq!(answer["value"], Value::Null, "{answer}");
        pairs.insert(key, value);
        for (key, value) in &pairs {
            let answer = router.ask(&json!({"type": "get", "key": key}));
            assert_eq!(answer["value"], *value, "{answer}");
        }
    }
    let alive = router.programs.iter_mut().filter_map(|p| p.is_alive().then_some(())).count();
    assert_eq!(alive, IDS.len());
}

#[test]
fn service_survives_invalid_and_stale_messages_with_shared_stage_thread() {
    keeps_answering("fused");
}

#[test]
fn service_survives_invalid_and_stale_messages_with_thread_per_stage() {
    keeps_answering("dedicated");
}
