//! A full disk: a small file system in memory, in a namespace that exists longer than the server.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::client::Client;
use super::replicas::{Cluster, free_port};
use super::{EXIT_DISK, LARGE, assert_holds, field_of, info, info_text, key, lead, value, write};

/// A small file system that is mounted over a replica's folder in a namespace, which this child
/// process keeps alive.
struct SmallDisk(Child);

impl SmallDisk {
    /// Mounts a file system of the given size over the folder of a stopped replica, and copies the
    /// files of the folder into it. Prints a message and returns `None` if the system does not
    /// allow this.
    fn over(cluster: &Cluster, at: usize, size: &str) -> Option<SmallDisk> {
        let folder = cluster.replica_folder(at);
        let script = "mkdir $0.copy && cp -a $0/. $0.copy && mount -t tmpfs -o size=$1 tmpfs $0 \
                      && cp -a $0.copy/. $0 && echo ready && exec cat";
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script])
            .arg(folder)
            .arg(size)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).ok()?;
        let disk = SmallDisk(child);
        if line != "ready\n" {
            // Nothing that could be installed: containers often forbid it.
            eprintln!("skipped: this system does not allow to mount a small file system");
            return None;
        }
        Some(disk)
    }

    /// Returns a command that runs another program inside the namespace.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.0.id().to_string()).arg("--");
        command
    }

    /// Starts the replica inside the namespace, so that its folder is on the small file system.
    fn start(&self, cluster: &mut Cluster, at: usize) {
        let served = cluster.command(at);
        let mut command = self.enter();
        command.arg(served.get_program()).args(served.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        cluster.start_as(at, command);
    }

    /// Fills the small file system with a foreign file.
    fn fill(&self, cluster: &Cluster, at: usize) {
        let mut fill = self.enter();
        let to = format!("of={}", foreign(cluster, at).display());
        fill.args(["dd", "if=/dev/zero", &to, "bs=64k"]).stderr(Stdio::null());
        assert!(!fill.status().unwrap().success(), "it never became full");
    }

    /// Deletes the foreign file.
    fn free(&self, cluster: &Cluster, at: usize) {
        let status = self.enter().arg("rm").arg(foreign(cluster, at)).status().unwrap();
        assert!(status.success());
    }
}

fn foreign(cluster: &Cluster, at: usize) -> std::path::PathBuf {
    cluster.replica_folder(at).join("foreign")
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn exceeding_the_file_size_limit_is_reported_as_an_error() {
    let cluster = Cluster::start(1, "auto");
    let folder = cluster.folder.path().join("limited");
    let mut served = cluster.command_at(0, free_port(), free_port());
    served.arg("--bootstrap");
    let mut command = Command::new("sh");
    // In blocks of 512 or 1,024 bytes; a segment has 8 MiB.
    command.args(["-c", "ulimit -f 4096; exec \"$@\"", "sh"]).arg(served.get_program());
    let old = cluster.replica_folder(0);
    let words = served.get_args().map(|word| if word == old { folder.as_os_str() } else { word });
    command.args(words).stdin(Stdio::piped());
    let output = Cluster::run_to_end(command);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // It exits by itself, not by the signal.
    assert!(output.status.code().is_some_and(|code| code != 0), "{text}");
    assert!(text.contains("limit on file sizes"), "{text}");
    assert!(text.contains("/limited"), "{text}");
}

/// Without a disk reserve, the replica exits when it needs disk space and there is none.
#[test]
fn acknowledged_writes_survive_a_full_disk() {
    let mut cluster = Cluster::start_with(1, "auto", &["--disk-reserve", "0"]);
    cluster.wait_until_all_serve();
    cluster.kill(0);
    let folder = cluster.replica_folder(0);
    // Space for two segments.
    let Some(disk) = SmallDisk::over(&cluster, 0, "20m") else { return };
    disk.start(&mut cluster, 0);
    cluster.wait_until_all_serve();
    let acknowledged = write(&cluster, 0, 0, 100, LARGE);
    assert!((16..40).contains(&acknowledged), "{acknowledged}\n{}", cluster.logs());
    assert_eq!(cluster.end_of(0).code(), Some(EXIT_DISK), "{}", cluster.logs());
    let logs = cluster.logs();
    let place = folder.display().to_string();
    assert!(logs.contains("free disk space") && logs.contains(&place), "{logs}");
    // While the disk is full, the replica serves what it has, until it needs more space.
    disk.start(&mut cluster, 0);
    cluster.wait_for("a start on a full disk", || {
        let client = Client::connect(cluster.address(0));
        client.ok()?.call(&[b"GET", b"key0"]).ok().filter(|reply| reply.starts_with(b"$524288"))
    });
    assert_holds(&cluster, 0, acknowledged, LARGE, "while the disk is full");
    cluster.kill(0);
    let mut grow = disk.enter();
    grow.args(["mount", "-o", "remount,size=200m"]).arg(&folder);
    assert!(grow.status().unwrap().success());
    disk.start(&mut cluster, 0);
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 0, acknowledged, LARGE, "after the disk was freed");
    assert_eq!(write(&cluster, 0, acknowledged, acknowledged + 20, LARGE), acknowledged + 20);
    assert_holds(&cluster, 0, acknowledged + 20, LARGE, "with more than fitted before");
}

/// The numbers of the writes so far, by outcome. Each write has its own key.
#[derive(Default)]
struct Outcomes {
    done: Vec<usize>,
    refused: Vec<usize>,
}

impl Outcomes {
    /// Writes one value and returns whether the write was applied. Any error other than that of a
    /// full disk fails the test.
    #[track_caller]
    fn write(&mut self, client: &mut Client, cluster: &Cluster) -> bool {
        let number = self.done.len() + self.refused.len();
        let reply = client.call(&[b"SET", &key(number), &value(number, SMALL)]);
        let reply = reply.unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
        let done = reply == b"+OK\r\n";
        assert!(
            done || reply.starts_with(b"-MISCONF "),
            "{}\n{}",
            reply.escape_ascii(),
            cluster.logs()
        );
        if done { &mut self.done } else { &mut self.refused }.push(number);
        done
    }

    /// Asserts that all applied writes are in the replica's state, and that no refused write is.
    #[track_caller]
    fn check(&self, cluster: &Cluster, at: usize, case: &str) {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let mut get = |number: &usize| client.call(&[b"GET", &key(*number)]).unwrap();
        for number in &self.done {
            let head = format!("${SMALL}\r\n").into_bytes();
            let wanted = [head, value(*number, SMALL), b"\r\n".to_vec()].concat();
            assert!(get(number) == wanted, "{case}: write {number} is lost\n{}", cluster.logs());
        }
        for number in &self.refused {
            assert_eq!(get(number), b"$-1\r\n", "{case}: write {number} was refused");
        }
    }
}

const SMALL: usize = 1_000;
const RESERVE: &[&str] = &["--disk-reserve", "32mb"];

/// Waits until `INFO` shows this disk state, because `INFO` lags a little.
fn wait_until_disk_is(cluster: &Cluster, at: usize, state: &str) {
    cluster.wait_for(state, || info(cluster, at, "disk_state").filter(|there| there == state));
}

/// A cluster of one replica is under load while another process fills the disk.
#[test]
fn low_disk_space_refuses_writes_until_space_returns() {
    let mut cluster = Cluster::start_with(1, "auto", RESERVE);
    cluster.wait_until_all_serve();
    cluster.kill(0);
    let Some(disk) = SmallDisk::over(&cluster, 0, "96m") else { return };
    disk.start(&mut cluster, 0);
    cluster.wait_until_all_serve();
    let mut outcomes = Outcomes::default();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for round in 0..2 {
        for _ in 0..100 {
            assert!(outcomes.write(&mut client, &cluster), "the disk has space");
        }
        wait_until_disk_is(&cluster, 0, "ok");
        std::thread::scope(|scope| {
            scope.spawn(|| disk.fill(&cluster, 0));
            while outcomes.write(&mut client, &cluster) {}
        });
        wait_until_disk_is(&cluster, 0, "low");
        assert!(!outcomes.write(&mut client, &cluster));
        outcomes.check(&cluster, 0, "while the disk is full");
        // No snapshot may use the remaining space.
        let reply = client.call(&[b"BGSAVE"]).unwrap();
        assert_eq!(reply, b"+Background saving started\r\n");
        cluster.wait_for("a snapshot that is not taken", || {
            info(&cluster, 0, "rdb_last_bgsave_status").filter(|status| status == "err")
        });
        if round == 1 {
            // It starts on a full disk, too.
            cluster.kill(0);
            disk.start(&mut cluster, 0);
            cluster.wait_for("a start on a full disk", || {
                let mut client = Client::connect(cluster.address(0)).ok()?;
                client.call(&[b"GET", &key(0)]).ok().filter(|reply| reply.starts_with(b"$1000"))
            });
            wait_until_disk_is(&cluster, 0, "low");
            client = Client::connect(cluster.address(0)).unwrap();
            assert!(!outcomes.write(&mut client, &cluster), "the log is still full");
        }
        disk.free(&cluster, 0);
        cluster.wait_for("room", || outcomes.write(&mut client, &cluster).then_some(()));
        wait_until_disk_is(&cluster, 0, "ok");
    }
    assert!(cluster.runs(0), "{}", cluster.logs());
    let logs = cluster.logs();
    for words in ["disk space low", "disk space is no longer low"] {
        assert!(logs.contains(words), "{logs}");
    }
    cluster.kill(0);
    disk.start(&mut cluster, 0);
    cluster.wait_until_all_serve();
    outcomes.check(&cluster, 0, "after a restart");
    eprintln!("{} writes done, {} refused", outcomes.done.len(), outcomes.refused.len());
}

/// Because the other replicas have disk space, clients notice nothing.
#[test]
fn leader_with_low_disk_space_transfers_leadership() {
    let mut cluster = Cluster::start_with(3, "auto", RESERVE);
    cluster.wait_until_all_serve();
    let victim = cluster.leader();
    cluster.kill(victim);
    let Some(disk) = SmallDisk::over(&cluster, victim, "96m") else { return };
    disk.start(&mut cluster, victim);
    cluster.wait_until_all_serve();
    let mut outcomes = Outcomes::default();
    // On a busy machine the leader may need two attempts to transfer its leadership, and refuse
    // writes between them, but not every time.
    let unnoticed = (0..5).any(|_| {
        lead(&mut cluster, victim);
        is_low_on_space_unnoticed(&cluster, &disk, victim, &mut outcomes)
    });
    assert!(unnoticed, "writes were refused each time\n{}", cluster.logs());
    assert!(cluster.runs(victim), "{}", cluster.logs());
}

/// Fills the leader's disk until another replica leads, and then frees the space. Returns whether
/// no write was refused meanwhile.
fn is_low_on_space_unnoticed(
    cluster: &Cluster,
    disk: &SmallDisk,
    victim: usize,
    outcomes: &mut Outcomes,
) -> bool {
    let refused = outcomes.refused.len();
    let mut client = Client::connect(cluster.address((victim + 1) % 3)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| disk.fill(cluster, victim));
        cluster.wait_for("another leader", || {
            outcomes.write(&mut client, cluster);
            cluster.leader_but(victim)
        });
    });
    for _ in 0..200 {
        outcomes.write(&mut client, cluster);
    }
    wait_until_disk_is(cluster, victim, "low");
    let field = format!("raft_peer_{}", victim + 1);
    let leader = cluster.wait_for("the leader's word", || {
        // A new leader reports its peers a moment after it reports that it leads.
        let leader = cluster.leader_but(victim)?;
        let facts = field_of(&info_text(cluster, leader)?, &field)?;
        facts.contains(",disk=low").then_some(leader)
    });
    outcomes.check(cluster, leader, "while one disk is full");
    disk.free(cluster, victim);
    wait_until_disk_is(cluster, victim, "ok");
    outcomes.write(&mut client, cluster);
    cluster.wait_for("a replica that has all again", || {
        let applied = |at| info(cluster, at, "raft_applied_index");
        (applied(victim)? == applied(leader)?).then_some(())
    });
    outcomes.check(cluster, victim, "after the disk was freed");
    outcomes.refused.len() == refused
}
