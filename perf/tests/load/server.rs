//! A scripted server for tests: stores keys and values, and handles each request as the test
//! specifies.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How the server handles a request.
pub(crate) enum Reply {
    /// Execute the request.
    Execute,
    /// Acknowledge the request without executing it.
    Drop,
    /// Reply with this text, without executing the request.
    Text(&'static str),
    /// Reply with this text, without executing the request.
    Owned(String),
    /// Execute the request after a delay, and reply with this text.
    After(Duration, &'static str),
    /// Do not reply to this request or to later requests on the same connection.
    Never,
    /// Close the listener and all connections.
    Shutdown,
}

type Rule = dyn Fn(u64, &str) -> Reply + Send + Sync;

/// A scripted server, which is stopped when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    rule: Box<Rule>,
    stalls_all: bool,
    dead: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    values: HashMap<String, String>,
    /// Reads, writes and WAITAOFs received so far, in order.
    received: Vec<String>,
    count: u64,
}

impl Server {
    /// Starts a server. `rule` receives the number, from 0, and the text of each read or write, and
    /// decides how it is handled.
    pub(crate) fn start(rule: impl Fn(u64, &str) -> Reply + Send + Sync + 'static) -> Server {
        Server::new(rule, false)
    }

    /// Starts a server like `start`, except that a delayed request also delays all other requests.
    pub(crate) fn start_stalling_all(
        rule: impl Fn(u64, &str) -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::new(rule, true)
    }

    fn new(rule: impl Fn(u64, &str) -> Reply + Send + Sync + 'static, stalls_all: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has one");
        let shared = Arc::new(Shared {
            rule: Box::new(rule),
            stalls_all,
            dead: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let server = Server { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.dead.load(Ordering::SeqCst) {
                    // Later connections are refused.
                    return;
                }
                let (stream, shared) = (stream.expect("a connection"), Arc::clone(&shared));
                thread::spawn(move || shared.serve(stream));
            }
        });
        server
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Returns the reads and writes received so far.
    pub(crate) fn received(&self) -> Vec<String> {
        self.shared.state.lock().expect("no thread panicked").received.clone()
    }

    /// Clears the received reads and writes.
    pub(crate) fn forget(&self) {
        self.shared.state.lock().expect("no thread panicked").received.clear();
    }

    /// Waits until `count` reads and writes have been received.
    pub(crate) fn wait_for(&self, count: usize) {
        let started = Instant::now();
        while self.received().len() < count {
            assert!(started.elapsed().as_secs() < 60, "fewer than {count} requests were received");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("it is TCP");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("it is TCP");
        let mut bytes = Vec::new();
        while !self.dead.load(Ordering::SeqCst) {
            while let Some((words, length)) = request(&bytes) {
                bytes.drain(..length);
                let Some(reply) = self.answer(&words) else { return };
                if stream.write_all(reply.as_bytes()).is_err() {
                    return;
                }
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(_) => {}
            }
        }
    }

    /// Returns the reply to a request; `None` if the connection is to be closed.
    fn answer(&self, words: &[String]) -> Option<String> {
        let is_data = matches!(words[0].as_str(), "GET" | "SET" | "WAITAOF");
        if !is_data {
            return Some(match words[0].as_str() {
                "INFO" => "$19\r\nredis_version:0.0.0\r\n".to_owned(),
                _ => "-ERR unknown command\r\n".to_owned(),
            });
        }
        let mut state = self.state.lock().expect("no thread panicked");
        state.received.push(words[..2].join(" "));
        let number = state.count;
        state.count += 1;
        let good = |state: &mut State| match words {
            [_, key] => match state.values.get(key) {
                Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                None => "$-1\r\n".to_owned(),
            },
            [_, key, value] => {
                state.values.insert(key.clone(), value.clone());
                "+OK\r\n".to_owned()
            }
            [command, ..] if command == "WAITAOF" => "*2\r\n:1\r\n:1\r\n".to_owned(),
            _ => "-ERR arguments\r\n".to_owned(),
        };
        match (self.rule)(number, &words[0]) {
            Reply::Drop if words.len() == 3 => Some("+OK\r\n".to_owned()),
            Reply::Execute | Reply::Drop => Some(good(&mut state)),
            Reply::Text(text) => Some(text.to_owned()),
            Reply::Owned(text) => Some(text),
            Reply::After(wait, text) => {
                if self.stalls_all {
                    thread::sleep(wait);
                } else {
                    drop(state);
                    thread::sleep(wait);
                }
                Some(text.to_owned())
            }
            Reply::Never => {
                drop(state);
                while !self.dead.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                None
            }
            Reply::Shutdown => {
                self.dead.store(true, Ordering::SeqCst);
                None
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.dead.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts connections.
        drop(TcpStream::connect(self.address));
    }
}

/// Returns the first request in `bytes` and its length; `None` if it is incomplete.
fn request(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let mut line = || {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let text = String::from_utf8(bytes[at..end].to_vec()).expect("requests are text here");
        at = end + 2;
        Some(text)
    };
    let count: usize = line()?[1..].parse().expect("a count");
    let mut words = Vec::new();
    for _ in 0..count {
        line()?;
        // Values in these tests contain no line ends.
        words.push(line()?);
    }
    Some((words, at))
}
