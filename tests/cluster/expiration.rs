//! Expiration in real processes whose wall clocks are wrong or jump, across failovers and cold
//! starts: a key is never read after it has expired, never missing before, and never comes back.
//!
//! Bounds: a reply is checked by two times, when its command was sent and when it was received. A
//! key must be missing for a read that was sent [`BOUND`] after the key's expiration, and must
//! exist for a reply received [`BOUND`] before it. Both bounds are widened by the longest time for
//! which the machine suspended a runnable thread.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client::{Client, command};
use crate::load::StopAtEnd;
use crate::replicas::{Cluster, TIMEOUT};

/// Maximum difference between a key's expiration and a reply that contradicts it, apart from stalls
/// of the machine.
const BOUND: Duration = Duration::from_millis(100);
/// Number of failovers or clock jumps in a test; an environment variable can set another number.
const ROUNDS: usize = 3;
const ROUNDS_VARIABLE: &str = "BOWLINE_EXPIRATION_ROUNDS";
/// Pause between two failovers or clock jumps.
const PAUSE: Duration = Duration::from_millis(700);
/// Number of times that an expired key is read again.
const LOOKS: usize = 6;
const CLIENTS: usize = 4;
const NIL: &[u8] = b"$-1\r\n";

fn rounds() -> usize {
    std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Returns the path of the library that shifts wall clocks. Prints a message and returns `None` if
/// it is not installed.
fn faketime() -> Option<String> {
    // This fails if a process that was killed has left shared memory that is named after the same
    // process id.
    let output = (0..5).find_map(|_| {
        let mut command = Command::new("faketime");
        command.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]);
        command.output().ok().filter(|output| output.status.success())
    });
    if output.is_none() {
        let required = std::env::var_os("BOWLINE_CLIENTS").is_some_and(|word| word == "required");
        assert!(!required, "faketime is not installed; run .ci/install-clients");
        eprintln!("skipped: faketime is not installed; .ci/install-clients does it");
    }
    Some(String::from_utf8(output?.stdout).unwrap().trim().to_owned())
}

/// A cluster in which each replica's wall clock is shifted by the offset in a file.
struct Clocks {
    cluster: Cluster,
    preload: String,
}

impl Clocks {
    /// Starts three replicas with these clock offsets.
    fn start(preload: String, threads: &'static str, offsets: [&str; 3]) -> Clocks {
        let cluster = Cluster::start_hasty(3, threads, &[]);
        cluster.wait_until_all_serve();
        let mut clocks = Clocks { cluster, preload };
        for (at, offset) in offsets.into_iter().enumerate() {
            clocks.cluster.kill(at);
            clocks.set(at, offset);
        }
        for at in 0..3 {
            clocks.start_one(at);
        }
        clocks.cluster.wait_until_all_serve();
        clocks
    }

    fn file(&self, at: usize) -> PathBuf {
        self.cluster.folder.path().join(format!("clock-{at}"))
    }

    /// Sets the offset of a replica's wall clock.
    fn set(&self, at: usize, offset: &str) {
        // Renamed, so that a replica never reads a partly written file.
        let new = self.file(at).with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(&new, self.file(at)).unwrap();
    }

    fn set_all(&self, offset: &str) {
        (0..3).for_each(|at| self.set(at, offset));
    }

    fn start_one(&mut self, at: usize) {
        let mut command = self.cluster.command(at);
        command
            .env("LD_PRELOAD", &self.preload)
            .env("FAKETIME_TIMESTAMP_FILE", self.file(at))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::piped());
        self.cluster.start_as(at, command);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        (0..3).map(|at| self.cluster.address(at)).collect()
    }

    /// Kills the leader, waits for another one, and restarts the killed replica.
    fn fail_over(&mut self) {
        let leader = self.cluster.leader();
        self.cluster.kill(leader);
        self.cluster.wait_for("another leader", || self.cluster.leader_but(leader));
        self.start_one(leader);
    }

    /// Waits until all replicas have the same state.
    fn agree(&self) {
        self.cluster.wait_until_all_serve();
        self.cluster.wait_until_states_are_equal();
    }
}

/// A reply, with the times at which its command was sent and the reply was received.
struct Answer {
    sent: Instant,
    came: Instant,
    reply: Vec<u8>,
}

/// Sends a command to one replica after another until one executes it, and returns the reply. The
/// command must be idempotent, because it is repeated after an unknown outcome.
fn ask(addresses: &[SocketAddr], from: usize, arguments: &[&[u8]]) -> Answer {
    let began = Instant::now();
    for turn in from.. {
        assert!(began.elapsed() < TIMEOUT, "no replica answers");
        let address = addresses[turn % addresses.len()];
        let Ok(mut client) = Client::connect(address) else { continue };
        let sent = Instant::now();
        match client.call(arguments) {
            Ok(reply) if !reply.starts_with(b"-") => {
                return Answer { sent, came: Instant::now(), reply };
            }
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
    unreachable!("the loop does not end")
}

/// State that all clients share: the replies that contradict the expiration of a key, the number of
/// keys that have expired, and the longest stall of the machine.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    expired: AtomicUsize,
    /// Longest time for which a runnable thread was not run, in microseconds.
    stall_micros: AtomicU64,
    /// Replies that showed a key after its expiration: by how much too late, and a description.
    late: Mutex<Vec<(Duration, String)>>,
    early: Mutex<Vec<(Duration, String)>>,
}

impl Seen {
    /// Measures, until `stop` is set, how long the machine keeps a thread from running.
    fn watch_stalls(&self) {
        let step = Duration::from_millis(2);
        while !self.stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            thread::sleep(step);
            let micros = before.elapsed().saturating_sub(step).as_micros();
            self.stall_micros.fetch_max(u64::try_from(micros).unwrap(), Ordering::Relaxed);
        }
    }

    /// Records a reply about a key that expires between `earliest` and `latest` if the reply came
    /// too early or too late.
    fn judge(&self, answer: &Answer, earliest: Instant, latest: Instant, what: &str) {
        if answer.reply == NIL {
            let early = earliest.saturating_duration_since(answer.came);
            if !early.is_zero() {
                self.early.lock().unwrap().push((early, what.to_owned()));
            }
        } else {
            let late = answer.sent.saturating_duration_since(latest);
            if !late.is_zero() {
                self.late.lock().unwrap().push((late, what.to_owned()));
            }
        }
    }

    /// Panics if a recorded reply was too early or too late by more than the tolerance.
    fn check(&self) {
        let stall = Duration::from_micros(self.stall_micros.load(Ordering::Relaxed));
        let bound = BOUND + stall * 2;
        for (kind, replies) in [("late", &self.late), ("early", &self.early)] {
            let replies = replies.lock().unwrap();
            let worst = replies.iter().max_by_key(|(by, _)| *by);
            eprintln!("{} {kind} replies, the worst {worst:?}; bound {bound:?}", replies.len());
            if let Some((by, what)) = worst {
                assert!(*by <= bound, "{what}: {by:?} too {kind}, allowed {bound:?}");
            }
        }
    }

    /// Sets keys with a TTL, reads each key until it is missing, and then reads it again on every
    /// replica.
    fn set_and_look(&self, addresses: &[SocketAddr], name: usize) {
        for round in 0_usize.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{name}:{round}").into_bytes();
            let value = format!("value {round}");
            let time = Duration::from_millis(20 + round as u64 % 9 * 60);
            let millis = time.as_millis().to_string();
            let (earliest, latest) = if round % 3 == 0 {
                // As a date, on an existing key.
                ask(addresses, name + round, &[b"SET", &key, value.as_bytes()]);
                let (until, date) = (Instant::now() + time, now() + time);
                let date = date.as_millis().to_string();
                let set = ask(addresses, name + round, &[b"PEXPIREAT", &key, date.as_bytes()]);
                // Repeated after it was applied, it may find the key missing.
                assert!([&b":1\r\n"[..], b":0\r\n"].contains(&&set.reply[..]));
                (until, until.max(set.came))
            } else {
                let set: &[&[u8]] = &[b"SET", &key, value.as_bytes(), b"PX", millis.as_bytes()];
                let began = Instant::now();
                let set = ask(addresses, name + round, set);
                assert_eq!(set.reply, b"+OK\r\n");
                (began + time, set.came + time)
            };
            let what = format!("{} of {time:?}", String::from_utf8_lossy(&key));
            let mut looks = 0;
            for turn in 0.. {
                let answer = ask(addresses, name + turn, &[b"GET", &key]);
                if answer.reply == NIL {
                    if looks == 0 {
                        self.judge(&answer, earliest, latest, &what);
                    }
                    looks += 1;
                    if looks > LOOKS {
                        break;
                    }
                    continue;
                }
                assert!(looks == 0, "{what} was missing and is back: {:?}", answer.reply);
                self.judge(&answer, earliest, latest, &what);
                assert!(latest.elapsed() < TIMEOUT, "{what} does not expire");
            }
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs clients while `doing` runs, then checks their replies.
    fn under_load(addresses: &[SocketAddr], doing: impl FnOnce(&Seen)) {
        let seen = Seen::default();
        thread::scope(|scope| {
            let _stop = StopAtEnd(&seen.stop);
            for name in 0..CLIENTS {
                let seen = &seen;
                scope.spawn(move || seen.set_and_look(addresses, name));
            }
            scope.spawn(|| seen.watch_stalls());
            doing(&seen);
        });
        assert!(seen.expired.load(Ordering::Relaxed) > 10, "next to no key expired");
        seen.check();
    }
}

/// Returns the correct time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn number(reply: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(reply);
    text.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// Returns a replica's wall clock, in seconds since 1970.
fn wall_clock(address: SocketAddr) -> i64 {
    let reply = Client::connect(address).unwrap().call(&[b"TIME"]).unwrap();
    let text = String::from_utf8(reply).unwrap();
    text.lines().nth(2).unwrap().parse().unwrap()
}

fn expirations_hold_across_failovers(threads: &'static str) {
    let Some(preload) = faketime() else { return };
    let mut clocks = Clocks::start(preload, threads, ["+5h", "+0", "-5h"]);
    for (at, hours) in [(0, 5), (1, 0), (2, -5)] {
        let ahead =
            wall_clock(clocks.cluster.address(at)) - i64::try_from(now().as_secs()).unwrap();
        assert_eq!((ahead + 1_800).div_euclid(3_600), hours, "its clock is {ahead} s ahead");
    }
    let addresses = clocks.addresses();
    Seen::under_load(&addresses, |_| {
        for _ in 0..rounds() {
            thread::sleep(PAUSE);
            clocks.fail_over();
        }
        thread::sleep(PAUSE);
    });
    clocks.agree();
}

#[test]
fn keys_expire_on_time_across_failovers_with_thread_per_stage() {
    expirations_hold_across_failovers("dedicated");
}

#[test]
fn keys_expire_on_time_across_failovers_with_shared_stage_thread() {
    expirations_hold_across_failovers("fused");
}

/// The wall clocks jump by seconds to years, forward and back: one clock or all clocks, some for a
/// moment and some permanently.
#[test]
fn wall_clock_jumps_expire_no_key_early() {
    let Some(preload) = faketime() else { return };
    let mut clocks = Clocks::start(preload, "dedicated", ["+0", "+0", "+0"]);
    let addresses = clocks.addresses();
    let long = ask(&addresses, 0, &[b"SET", b"long", b"v", b"EX", b"3600"]);
    assert_eq!(long.reply, b"+OK\r\n");
    Seen::under_load(&addresses, |_| {
        for round in 0..rounds().max(4) {
            let leader = clocks.cluster.leader();
            match round % 4 {
                0 => clocks.set_all("+416d"),
                1 => clocks.set(leader, "+60s"),
                2 => clocks.set_all("-3y"),
                _ => clocks.set(leader, "+9y"),
            }
            thread::sleep(Duration::from_millis(300));
            // Some offsets of the leader's clock stay.
            if round % 8 < 5 {
                clocks.set_all("+0");
            }
            thread::sleep(PAUSE);
            if round % 4 == 3 {
                clocks.set_all("+0");
                clocks.fail_over();
                // A process accepts the clock that it finds when it starts.
                clocks.cluster.wait_until_all_serve();
            }
        }
        clocks.set_all("+0");
        thread::sleep(PAUSE);
    });
    let jumps: u64 = (0..3).map(|at| clocks.cluster.info::<u64>(at, "wall_clock_jumps")).sum();
    assert!(jumps > 0, "no jump was seen");
    let left = number(&ask(&addresses, 0, &[b"TTL", b"long"]).reply);
    assert!((3_000..=3_600).contains(&left), "{left} s are left of an hour");
    ask(&addresses, 0, &[b"SET", b"dated", b"v"]);
    let date = (now() + Duration::from_hours(1)).as_secs().to_string();
    assert_eq!(ask(&addresses, 0, &[b"EXPIREAT", b"dated", date.as_bytes()]).reply, b":1\r\n");
    let left = number(&ask(&addresses, 1, &[b"TTL", b"dated"]).reply);
    assert!((3_590..=3_601).contains(&left), "{left} s are left of an hour");
    clocks.agree();
}

#[test]
fn expired_key_stays_hidden_after_restart_of_all_replicas() {
    let mut cluster = Cluster::start_hasty(3, "dedicated", &[]);
    for round in 0..rounds() {
        cluster.wait_until_all_serve();
        let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
        let key = format!("key {round}").into_bytes();
        let time = b"300";
        assert_eq!(ask(&addresses, 0, &[b"SET", &key, b"v", b"PX", time]).reply, b"+OK\r\n");
        assert_eq!(ask(&addresses, 0, &[b"SET", b"long", b"v", b"EX", b"60"]).reply, b"+OK\r\n");
        let set = Instant::now();
        (0..3).for_each(|at| cluster.kill(at));
        thread::sleep(Duration::from_millis(300).saturating_sub(set.elapsed()) + BOUND);
        cluster.restart();
        let command: [&[u8]; 2] = if round % 2 == 0 { [b"GET", &key] } else { [b"EXISTS", &key] };
        let reply = ask(&addresses, round, &command).reply;
        assert!([NIL, b":0\r\n"].contains(&&reply[..]), "{:?}", String::from_utf8_lossy(&reply));
        assert_eq!(ask(&addresses, round, &[b"GET", b"long"]).reply, b"$1\r\nv\r\n");
    }
}

/// A cluster that was bootstrapped while all clocks were ahead is set back to the correct time.
#[test]
fn clock_reset_command_moves_an_advanced_replicated_clock_back() {
    let Some(preload) = faketime() else { return };
    let mut clocks = Clocks::start(preload, "fused", ["+416d", "+416d", "+416d"]);
    let addresses = clocks.addresses();
    assert_eq!(ask(&addresses, 0, &[b"SET", b"kept", b"v", b"EX", b"600"]).reply, b"+OK\r\n");
    for at in 0..3 {
        clocks.cluster.kill(at);
        clocks.set(at, "+0");
    }
    (0..3).for_each(|at| clocks.start_one(at));
    let date = (now() + Duration::from_hours(1)).as_secs().to_string();
    let expire_at: &[&[u8]] = &[b"EXPIREAT", b"dated", date.as_bytes()];
    ask(&addresses, 0, &[b"SET", b"dated", b"v"]);
    assert_eq!(ask(&addresses, 0, expire_at).reply, b":1\r\n");
    assert_eq!(ask(&addresses, 0, &[b"GET", b"dated"]).reply, NIL, "the clock is not ahead");
    let days = number(&ask(&addresses, 1, &[b"CLOCK", b"RESET"]).reply) / 86_400_000;
    assert!((415..=416).contains(&days), "it was reset by {days} days");
    assert_eq!(number(&ask(&addresses, 2, &[b"CLOCK", b"RESET"]).reply), 0);
    ask(&addresses, 0, &[b"SET", b"dated", b"v"]);
    assert_eq!(ask(&addresses, 0, expire_at).reply, b":1\r\n");
    for (key, least, most) in [("dated", 3_590, 3_601), ("kept", 500, 600)] {
        let left = number(&ask(&addresses, 2, &[b"TTL", key.as_bytes()]).reply);
        assert!((least..=most).contains(&left), "{key} has {left} s left");
    }
    for at in 0..3 {
        let resets = || clocks.cluster.info::<u64>(at, "replicated_clock_resets");
        clocks.cluster.wait_for("a reset that is shown", || (resets() == 1).then_some(()));
    }
    clocks.agree();
}

/// More keys expire at one instant than one clock entry removes: with reads as the only commands
/// then, the leader repeats the entry until all are removed.
#[test]
fn keys_with_one_expiration_time_are_all_removed_without_writes() {
    const KEYS: usize = 5_000;
    let cluster = Cluster::start(3, "fused");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(cluster.leader())).unwrap();
    let before = number(&client.call(&[b"DBSIZE"]).unwrap());
    let until = (now() + Duration::from_secs(5)).as_millis().to_string();
    let set = |number: usize| {
        let key = format!("key:{number}");
        command(&[b"SET", key.as_bytes(), b"v", b"PXAT", until.as_bytes()])
    };
    client.send(&(0..KEYS).flat_map(set).collect::<Vec<u8>>()).unwrap();
    for _ in 0..KEYS {
        assert_eq!(client.reply().unwrap(), b"+OK\r\n");
    }
    cluster.wait_for("a DBSIZE without these keys", || {
        (number(&client.call(&[b"DBSIZE"]).unwrap()) == before).then_some(())
    });
}
