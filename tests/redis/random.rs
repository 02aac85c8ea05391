//! Sends random streams of requests to this server and to a real Redis: the replies must agree.
//!
//! A stream follows from its seed. If a stream fails, it is reduced to a short stream that still
//! fails, which is printed with a command to reproduce it. `BOWLINE_REDIS_COMMANDS=1000000` makes a
//! long run, `BOWLINE_REDIS_SEED=17` runs one stream (or, with the former, starts there), and
//! `BOWLINE_REDIS_GROUP=hashes` uses the requests of one group only (see `GROUPS` in
//! `templates.rs`).

use std::env;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, SystemTime};

use bowline::wire::resp::Limits;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arguments::{ALL_KEYS, GEO_KEYS, LOG_KEYS};
use super::grammar::{Made, Template};
use super::local_server::LocalServer;
use super::reference::Reference;
use super::reply::{Agreement, Reply};
use super::templates::{GROUPS, LAST, LAST_LOGS};

/// Minimum number of requests in one stream, without the final comparison.
const STREAM_LEN: usize = 500;
/// Default number of requests in all streams together.
const SAMPLE_LEN: usize = 40_000;
/// Maximum number of requests in flight.
const PIPELINED_MAX: usize = 60;
/// Maximum number of streams that are tried when a failing stream is reduced.
const TRIES_MAX: usize = 600;
/// Maximum time between the expirations of a key in both servers.
const EXPIRATION_DISTANCE_MAX: Duration = Duration::from_millis(200);

/// Both servers, and a connection to each.
pub(crate) struct Both {
    stream: UnixStream,
    server: LocalServer,
    /// For each command queued for `EXEC`: how to compare the replies.
    queued: Vec<Agreement>,
}

/// A request whose replies from the two servers did not agree.
pub(crate) struct Disagreement {
    at: usize,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl Both {
    pub(crate) fn new(reference: &Reference, version: u8) -> Both {
        let mut stream = reference.connect();
        let mut server = LocalServer::new(Limits::default());
        let greeting = format!("HELLO {version}\r\nFLUSHALL\r\n");
        server.receive(greeting.as_bytes());
        server.replies();
        stream.write_all(greeting.as_bytes()).expect("it reads");
        read_replies(&mut stream, 2);
        Both { stream, server, queued: Vec::new() }
    }

    /// Sends requests to both servers and compares the replies.
    pub(crate) fn ask(&mut self, requests: &[Made]) -> Result<(), Disagreement> {
        let mut sent = Vec::new();
        for request in requests {
            super::written(&request.arguments, &mut sent);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.server.move_clock(now.expect("it is after 1970"));
        self.server.receive(&sent);
        let ours = self.server.replies();
        let mut writer = self.stream.try_clone().expect("a second handle");
        let writing = thread::spawn(move || writer.write_all(&sent));
        let theirs = read_replies(&mut self.stream, requests.len());
        writing.join().expect("it does not panic").expect("it reads all");
        let mut used = 0;
        for (at, (request, theirs)) in requests.iter().zip(theirs).enumerate() {
            let Some((ours, length)) = Reply::parse(&ours[used..]) else {
                let (ours, theirs) = ("nothing".to_owned(), theirs.to_string());
                return Err(Disagreement { at, ours, theirs });
            };
            used += length;
            if !self.agree(&ours, &theirs, request) {
                let (ours, theirs) = (ours.to_string(), theirs.to_string());
                return Err(Disagreement { at, ours, theirs });
            }
        }
        assert_eq!(used, ours.len(), "there are more replies than requests");
        Ok(())
    }

    /// Sends one request to both servers, and returns the replies of this server and of Redis.
    pub(crate) fn call(&mut self, arguments: &[&[u8]]) -> [Reply; 2] {
        [self.call_ours(arguments), self.call_theirs(arguments)]
    }

    fn call_ours(&mut self, arguments: &[&[u8]]) -> Reply {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.server.move_clock(now.expect("it is after 1970"));
        self.server.receive(&encoded(arguments));
        Reply::parse(&self.server.replies()).expect("a reply").0
    }

    fn call_theirs(&mut self, arguments: &[&[u8]]) -> Reply {
        self.stream.write_all(&encoded(arguments)).expect("it reads");
        read_replies(&mut self.stream, 1).remove(0)
    }

    /// Dumps every key in each server, and restores it in the other.
    pub(crate) fn exchange(&mut self) {
        for database in DATABASES {
            self.call(&[b"SELECT", database]);
            for key in ALL_KEYS {
                self.exchange_key(key);
            }
        }
    }

    fn exchange_key(&mut self, key: &[u8]) {
        let mut dumps = self.call(&[b"DUMP", key]);
        if dumps[0].bulk().is_some() != dumps[1].bulk().is_some() {
            // The servers have got the request that sets the expiration one after the other.
            thread::sleep(EXPIRATION_DISTANCE_MAX);
            dumps = self.call(&[b"DUMP", key]);
        }
        let [ours, theirs] = dumps;
        let (Some(ours), Some(theirs)) = (ours.bulk(), theirs.bulk()) else {
            assert_eq!(ours, theirs, "of {key:?}");
            return;
        };
        let restore = |payload| [&b"RESTORE"[..], key, b"0", payload, b"REPLACE"];
        let replies = [self.call_ours(&restore(theirs)), self.call_theirs(&restore(ours))];
        assert_eq!(replies.map(|reply| reply.to_string()), ["+OK", "+OK"], "of {key:?}");
    }

    fn agree(&mut self, ours: &Reply, theirs: &Reply, request: &Made) -> bool {
        if ours.is_queued() && theirs.is_queued() {
            self.queued.push(request.agreement);
            return true;
        }
        let is = |name: &str| request.arguments[0].eq_ignore_ascii_case(name.as_bytes());
        if is("exec") || is("discard") || is("reset") {
            let queued = std::mem::take(&mut self.queued);
            let (one, other) = (ours.items(), theirs.items());
            if !one.is_empty() && one.len() == other.len() && one.len() == queued.len() {
                let mut items = one.iter().zip(other).zip(queued);
                return items.all(|((one, other), agreement)| one.agrees(other, agreement));
            }
        }
        ours.agrees(theirs, request.agreement)
    }
}

/// Encodes a request.
fn encoded(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads and returns `count` replies.
fn read_replies(stream: &mut UnixStream, count: usize) -> Vec<Reply> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    let (mut replies, mut used) = (Vec::new(), 0);
    while replies.len() < count {
        if let Some((reply, length)) = Reply::parse(&bytes[used..]) {
            used += length;
            replies.push(reply);
            continue;
        }
        let length = stream.read(&mut piece).expect("it answers");
        assert_ne!(length, 0, "it closed the connection");
        bytes.extend_from_slice(&piece[..length]);
    }
    replies
}

/// Returns a random template of a random group.
fn draw_template(groups: &[(&str, &'static [Template])], rng: &mut impl Rng) -> &'static Template {
    loop {
        let group = groups[rng.random_range(0..groups.len())].1;
        let form = &group[rng.random_range(0..group.len())];
        if rng.random_range(0..form.rarity) == 0 {
            return form;
        }
    }
}

/// The databases that have most keys.
const DATABASES: [&[u8]; 3] = [b"0", b"1", b"2"];

/// Returns the requests of the stream with this seed.
fn stream_of(seed: u64) -> Vec<Made> {
    let only = env::var("BOWLINE_REDIS_GROUP").ok();
    let groups: Vec<_> = GROUPS
        .iter()
        .copied()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .collect();
    assert!(!groups.is_empty(), "there is no group called {only:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut requests = Vec::new();
    while requests.len() < STREAM_LEN {
        requests.extend(draw_template(&groups, &mut rng).make(&mut rng));
    }
    requests.extend(last_questions());
    requests
}

/// Returns requests for the contents of every key of the databases that have most keys.
pub(crate) fn last_questions() -> impl Iterator<Item = Made> {
    let about = |key: &'static [u8], last: &'static [Template]| {
        last.iter().map(move |form| {
            let arguments = form.text.split(' ').map(|word| match word {
                "key" => key.to_vec(),
                word => word.as_bytes().to_vec(),
            });
            Made { arguments: arguments.collect(), agreement: form.agreement }
        })
    };
    DATABASES.into_iter().flat_map(move |database| {
        let arguments = vec![b"SELECT".to_vec(), database.to_vec()];
        let select = Made { arguments, agreement: Agreement::Exact };
        let keys = ALL_KEYS.iter().chain(GEO_KEYS).map(|key| (key, LAST));
        let keys = keys.chain(LOG_KEYS.iter().map(|key| (key, LAST_LOGS)));
        std::iter::once(select).chain(keys.flat_map(move |(key, last)| about(key, last)))
    })
}

/// Runs a stream on empty servers, and returns the first disagreement. The pipelines into which the
/// stream is split also follow from the seed.
fn run(reference: &Reference, seed: u64, requests: &[Made]) -> Result<(), Disagreement> {
    let mut both = Both::new(reference, if seed.is_multiple_of(2) { 2 } else { 3 });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut from = 0;
    while from < requests.len() {
        let length = rng.random_range(1..=PIPELINED_MAX).min(requests.len() - from);
        both.ask(&requests[from..from + length])
            .map_err(|found| Disagreement { at: from + found.at, ..found })?;
        from += length;
    }
    // Each server reads what the other has written.
    both.exchange();
    let questions: Vec<Made> = last_questions().collect();
    both.ask(&questions)
        .map_err(|found| Disagreement { at: from - questions.len() + found.at, ..found })
}

/// Reduces a failing stream to a short suffix that still fails, and then to the requests of this
/// suffix that are needed for the failure. Returns these requests and their disagreement.
fn shrink(
    reference: &Reference,
    seed: u64,
    requests: &[Made],
    found: Disagreement,
) -> (Vec<Made>, Disagreement) {
    let mut tries = 0;
    let mut failing = requests[..=found.at].to_vec();
    let mut found = found;
    let mut fails = |requests: &[Made]| {
        tries += 1;
        if tries > TRIES_MAX { None } else { run(reference, seed, requests).err() }
    };
    let mut length = 1;
    while length < failing.len() {
        if let Some(less) = fails(&failing[failing.len() - length..]) {
            failing.drain(..failing.len() - length);
            failing.truncate(less.at + 1);
            found = less;
            break;
        }
        length *= 2;
    }
    let mut at = failing.len();
    while at > 0 {
        at -= 1;
        let mut less = failing.clone();
        less.remove(at);
        if let Some(smaller) = fails(&less) {
            less.truncate(smaller.at + 1);
            (failing, found) = (less, smaller);
            at = at.min(failing.len());
        }
    }
    (failing, found)
}

/// Returns a request as text that can be typed into a client.
fn typed(request: &Made) -> String {
    let word = |word: &Vec<u8>| {
        let plain = !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric);
        let text = word.escape_ascii().to_string();
        if plain { text } else { format!("\"{text}\"") }
    };
    request.arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Runs a stream, which was made from `seed`.
///
/// # Panics
/// If replies do not agree. The message contains a reduced stream.
fn check(reference: &Reference, seed: u64, requests: &[Made]) {
    let Err(found) = run(reference, seed, requests) else { return };
    let (all, only) = (found.at + 1, env::var("BOWLINE_REDIS_GROUP"));
    let (requests, found) = shrink(reference, seed, requests, found);
    let mut text = format!("seed {seed}, request {all}; shrink, with the same end:\n");
    for request in &requests {
        let _ = writeln!(text, "    {}", typed(request));
    }
    let _ = write!(text, "ours   {}\ntheirs {}\n", found.ours, found.theirs);
    let _ = write!(text, "again: BOWLINE_REDIS_SEED={seed} ");
    if let Ok(only) = only {
        let _ = write!(text, "BOWLINE_REDIS_GROUP={only} ");
    }
    panic!("{text}cargo test --test redis random::\n");
}

/// Streams in which keys expire: some keys get a short TTL, the test waits until the TTL is over,
/// and the same requests continue.
#[test]
fn random_requests_on_expiring_keys_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut both = Both::new(&reference, if seed.is_multiple_of(2) { 2 } else { 3 });
        let requests = stream_of(seed);
        let mut asked = Vec::new();
        for requests in requests.chunks(requests.len() / 3) {
            // For these commands, Redis shows expired keys until it deletes them.
            let shows = |request: &Made| {
                ["dbsize", "memory"]
                    .iter()
                    .any(|name| request.arguments[0].eq_ignore_ascii_case(name.as_bytes()))
            };
            let mut requests = requests.to_vec();
            requests.retain(|request| !shows(request));
            let ending = ALL_KEYS.iter().filter(|_| rng.random_range(0..2) == 0);
            requests.extend(ending.map(|key| {
                let arguments = [&b"PEXPIRE"[..], key, b"1"].map(<[u8]>::to_vec).to_vec();
                Made { arguments, agreement: Agreement::Exact }
            }));
            asked.extend(requests.iter().map(typed));
            if let Err(Disagreement { at, ours, theirs }) = both.ask(&requests) {
                let until = asked.len() - requests.len() + at + 1;
                let led = asked[until.saturating_sub(30)..until].join("\n    ");
                panic!("seed {seed}:\n    {led}\nours   {ours}\ntheirs {theirs}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn random_requests_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let (only, wanted) = (number("BOWLINE_REDIS_SEED"), number("BOWLINE_REDIS_COMMANDS"));
    let wanted = wanted.unwrap_or(if only.is_some() { 1 } else { SAMPLE_LEN as u64 });
    let (mut done, mut seed) = (0, only.unwrap_or(0));
    while done < wanted {
        let requests = stream_of(seed);
        check(&reference, seed, &requests);
        done += requests.len() as u64;
        seed += 1;
    }
    eprintln!("{done} requests, up to seed {seed}");
}
