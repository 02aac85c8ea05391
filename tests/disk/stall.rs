//! A disk that stalls: no system call fails, but some take seconds. Each replica in turn runs with
//! a log whose syncs stall now and then, while clients write through the other replicas.

use std::time::{Duration, Instant};

use super::client::Client;
use super::replicas::Cluster;
use super::{assert_holds, field_of, info, info_text, key, lead, strace_is_there, traced, value};

/// Option of strace that makes one of 150 syncs of a thread stall for 2.5 seconds.
const HANG_EVERY: &str = "inject=fdatasync:delay_exit=2500000:when=150+150";
const BYTES: usize = 100;

fn count(cluster: &Cluster, at: usize, field: &str) -> u64 {
    info(cluster, at, field).map_or(0, |text| text.parse().unwrap())
}

/// Returns how many times the disks of the replicas other than `victim` have stalled: a slow disk
/// may stall by itself.
fn stalls_but(cluster: &Cluster, victim: usize) -> u64 {
    (1..3).map(|next| count(cluster, (victim + next) % 3, "disk_stalls")).sum()
}

/// What clients observed during one stall.
#[derive(Default)]
struct Seen {
    written: usize,
    /// Longest time from one acknowledged write to the next.
    longest: Duration,
    stalled: bool,
}

/// Writes through another replica until the victim's disk has stalled once more, for long enough to
/// be observed, and is healthy again.
fn write_through_a_hang(cluster: &Cluster, victim: usize, from: usize) -> Seen {
    let writer = (victim + 1) % 3;
    let mut client = Client::connect(cluster.address(writer)).unwrap();
    let before = count(cluster, victim, "disk_stalls");
    let mut seen = Seen { written: from, ..Seen::default() };
    let mut last = Instant::now();
    let mut looked = Instant::now();
    loop {
        let reply = client.call(&[b"SET", &key(seen.written), &value(seen.written, BYTES)]);
        let reply = reply.unwrap();
        assert_eq!(reply, b"+OK\r\n", "write {}\n{}", seen.written, cluster.logs());
        seen.written += 1;
        seen.longest = seen.longest.max(last.elapsed());
        last = Instant::now();
        if looked.elapsed() > Duration::from_millis(100) {
            looked = Instant::now();
            // Both fields are read from one reply, because a disk may stall again between two
            // replies.
            let text = info_text(cluster, victim);
            let text = text.unwrap_or_else(|| panic!("no reply to INFO\n{}", cluster.logs()));
            let state = field_of(&text, "disk_state").unwrap();
            seen.stalled |= state == "stalled";
            let stalls: u64 = field_of(&text, "disk_stalls").unwrap().parse().unwrap();
            // A slow disk may stall for a moment as well.
            if state == "ok" && (stalls > before && seen.stalled || stalls > before + 3) {
                return seen;
            }
            last = Instant::now();
        }
    }
}

fn hang(threads: &'static str) {
    if !strace_is_there() {
        return;
    }
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let victim = cluster.leader();
    cluster.kill(victim);
    let notes = cluster.folder.path().join("strace");
    let words = ["-e", "trace=fdatasync", "-e", HANG_EVERY];
    cluster.start_as(victim, traced(&words, &notes, &cluster.command(victim)));
    cluster.wait_until_all_serve();
    let (mut written, mut as_follower, mut handed_over) = (0, false, false);
    for hangs in 1.. {
        if as_follower && handed_over {
            break;
        }
        assert!(hangs < 12, "after 12 hangs: led and handed over {handed_over}");
        let handovers = count(&cluster, victim, "raft_leadership_transfers");
        let others_hung = stalls_but(&cluster, victim);
        let term = cluster.term();
        let led = cluster.leader() == victim;
        let seen = write_through_a_hang(&cluster, victim, written);
        eprintln!(
            "{threads}: the disk of {} hung; longest wait for a write {} ms, {} written",
            if led { "the leader" } else { "a follower" },
            seen.longest.as_millis(),
            seen.written - written,
        );
        written = seen.written;
        assert!(seen.stalled, "INFO never said so\n{}", cluster.logs());
        if led {
            // The victim may have been deposed before its disk stalled, or elected again
            // afterwards. Otherwise it must have tried to transfer its leadership, unless the
            // others' disks stalled as well; on a busy machine that may fail, but not every time.
            let tried = count(&cluster, victim, "raft_leadership_transfers") > handovers;
            let lost = cluster.leader() != victim || cluster.term() > term;
            let excused = stalls_but(&cluster, victim) > others_hung;
            assert!(lost || tried || excused, "it led on\n{}", cluster.logs());
            handed_over = lost && tried;
        } else {
            as_follower = true;
        }
        if !handed_over {
            lead(&mut cluster, victim);
        }
    }
    let log =
        std::fs::read_to_string(cluster.folder.path().join(format!("replica-{}.log", victim + 1)));
    let log = log.unwrap();
    for words in ["disk stalled", "leadership transfer started", "disk no longer stalled"] {
        assert!(log.contains(words), "no `{words}` in {log}");
    }
    for at in 0..3 {
        assert_holds(&cluster, at, written, BYTES, "after hangs of one disk");
    }
}

#[test]
fn stalled_disk_causes_leadership_transfer_with_thread_per_stage() {
    hang("dedicated");
}

#[test]
fn stalled_disk_causes_leadership_transfer_with_shared_stage_thread() {
    hang("fused");
}
