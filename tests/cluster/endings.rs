//! Keys that end, where leaders' clocks are hours apart: one that was seen to have ended is never
//! seen again, whoever leads, and at the end all replicas hold the same.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::{Cluster, PATIENCE};

/// How far each replica's wall clock is off.
const OFFSETS: [&str; 3] = ["+5h", "+0", "-5h"];
/// How often somebody is killed, whoever leads then.
const KILLS: usize = 4;
const KILLS_VARIABLE: &str = "BOWLINE_ENDING_KILLS";
/// Between two kills.
const PAUSE: Duration = Duration::from_millis(700);
/// How often a key that has ended is looked for again.
const LOOKS: usize = 8;

/// Whether clocks can be shifted here; if not, says so.
fn faketime_is_there() -> bool {
    let there =
        Command::new("faketime").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        let required = std::env::var_os("BOWLINE_CLIENTS").is_some_and(|word| word == "required");
        assert!(!required, "faketime is not installed; run .ci/install-clients");
        eprintln!("skipped: faketime is not installed; .ci/install-clients does it");
    }
    there
}

/// A replica's command with its wall clock off by so much. Clocks that only go forward stay true.
fn shifted(cluster: &Cluster, at: usize) -> Command {
    let served = cluster.command(at);
    let mut command = Command::new("faketime");
    command
        .args(["-f", OFFSETS[at]])
        .arg(served.get_program())
        .args(served.get_args())
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null());
    command
}

/// What is asked, again and again and of one replica after the other, until somebody answers.
fn ask(addresses: &[SocketAddr], from: usize, words: &[&[u8]]) -> Vec<u8> {
    let began = Instant::now();
    for turn in from.. {
        assert!(began.elapsed() < PATIENCE, "nobody answers");
        let address = addresses[turn % addresses.len()];
        let reply = Client::connect(address).and_then(|mut client| client.call(words));
        match reply {
            Ok(reply) if !reply.starts_with(b"-") => return reply,
            // A write of this test may be done twice: its value is the same.
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    unreachable!("it goes on for ever")
}

/// Sets keys that end, waits for each to be gone, and looks for it again at every replica.
fn set_and_look(addresses: &[SocketAddr], name: usize, stop: &AtomicBool, ended: &AtomicUsize) {
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{name}:{}", round % 5).into_bytes();
        let value = format!("value {round}");
        let time = (20 + round % 7 * 30).to_string();
        let set: &[&[u8]] = &[b"SET", &key, value.as_bytes(), b"PX", time.as_bytes()];
        assert_eq!(ask(addresses, name + round, set), b"+OK\r\n");
        let began = Instant::now();
        let mut looks = 0;
        for turn in 0.. {
            let found = ask(addresses, name + turn, &[b"GET", &key]);
            if found == b"$-1\r\n" {
                looks += 1;
                if looks > LOOKS {
                    break;
                }
                continue;
            }
            assert!(looks == 0, "{key:?} of {round} was gone and is back: {found:?}");
            assert!(began.elapsed() < PATIENCE, "{key:?} of {round} does not end");
        }
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// The same as a replica's clock shows it.
fn wall_clock(address: SocketAddr) -> i64 {
    let reply = Client::connect(address).unwrap().call(&[b"TIME"]).unwrap();
    let text = String::from_utf8(reply).unwrap();
    text.lines().nth(2).unwrap().parse().unwrap()
}

fn digests(cluster: &Cluster) -> Vec<(String, String)> {
    let field = |at, name: &str| cluster.info::<String>(at, name);
    (0..3).map(|at| (field(at, "raft_applied_index"), field(at, "raft_state_digest"))).collect()
}

fn keys_stay_ended(threads: &'static str) {
    if !faketime_is_there() {
        return;
    }
    let mut cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    for at in 0..3 {
        cluster.kill(at);
        let command = shifted(&cluster, at);
        cluster.start_as(at, command);
    }
    cluster.wait_until_all_serve();
    for (at, hours) in [(0, 5), (1, 0), (2, -5)] {
        let ahead = wall_clock(cluster.address(at)) - now();
        assert_eq!((ahead + 1_800).div_euclid(3_600), hours, "its clock is {ahead} s ahead");
    }
    let kills = std::env::var(KILLS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (stop, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for name in 0..4 {
            let (addresses, stop, ended) = (&addresses, &stop, &ended);
            scope.spawn(move || set_and_look(addresses, name, stop, ended));
        }
        for _ in 0..kills.unwrap_or(KILLS) {
            thread::sleep(PAUSE);
            let leader = cluster.leader();
            cluster.kill(leader);
            cluster.wait_for("another leader", || cluster.leader_but(leader));
            let command = shifted(&cluster, leader);
            cluster.start_as(leader, command);
        }
        thread::sleep(PAUSE);
        // However slow the disk is.
        cluster.wait_for("more than next to nothing", || {
            (ended.load(Ordering::Relaxed) > 10).then_some(())
        });
    });
    cluster.wait_until_all_serve();
    cluster.wait_for("equal states", || {
        let all = digests(&cluster);
        all.iter().all(|one| *one == all[0]).then_some(())
    });
}

#[test]
fn keys_stay_ended_whatever_leaders_clocks_say_dedicated() {
    keys_stay_ended("dedicated");
}

#[test]
fn keys_stay_ended_whatever_leaders_clocks_say_fused() {
    keys_stay_ended("fused");
}
