//! A disk that is full: a small file system in memory, in a namespace of its own that outlives the
//! server.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::client::Client;
use super::replicas::{Cluster, free_port};
use super::{EXIT_DISK, LARGE, assert_holds, write};

/// A namespace with a small file system mounted over a folder.
struct SmallDisk(Child);

impl SmallDisk {
    /// Room for two segments, mounted over a replica's folder, with what that folder held.
    fn over(folder: &std::path::Path) -> Option<SmallDisk> {
        let script = "mkdir $0.copy && cp -a $0/. $0.copy && mount -t tmpfs -o size=40m tmpfs $0 \
                      && cp -a $0.copy/. $0 && echo ready && exec cat";
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).ok()?;
        let disk = SmallDisk(child);
        (line == "ready\n").then_some(disk)
    }

    /// A command inside.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.0.id().to_string()).arg("--");
        command
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_told() {
    let cluster = Cluster::start(1, "auto");
    let folder = cluster.folder.path().join("limited");
    let mut served = cluster.command_at(0, free_port(), free_port());
    served.arg("--bootstrap");
    let mut command = Command::new("sh");
    // In blocks of 512 or 1,024 bytes; a segment has 16 MiB.
    command.args(["-c", "ulimit -f 8192; exec \"$@\"", "sh"]).arg(served.get_program());
    let old = cluster.replica_folder(0);
    let words = served.get_args().map(|word| if word == old { folder.as_os_str() } else { word });
    command.args(words).stdin(Stdio::piped());
    let output = Cluster::run_to_end(command);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // It ends by itself, not by the signal.
    assert!(output.status.code().is_some_and(|code| code != 0), "{text}");
    assert!(text.contains("limit on the size of files"), "{text}");
    assert!(text.contains("limited/segment-"), "{text}");
}

#[test]
fn a_full_disk_is_told_and_what_was_acknowledged_is_there_when_it_has_room_again() {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    cluster.kill(0);
    let folder = cluster.replica_folder(0);
    let Some(disk) = SmallDisk::over(&folder) else {
        // Nothing that could be installed: containers often forbid it.
        eprintln!("skipped: this system lets nobody mount a small file system");
        return;
    };
    let start = |cluster: &mut Cluster| {
        let served = cluster.command(0);
        let mut command = disk.enter();
        command.arg(served.get_program()).args(served.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        cluster.start_as(0, command);
    };
    start(&mut cluster);
    cluster.wait_until_all_serve();
    let acknowledged = write(&cluster, 0, 0, 100, LARGE);
    assert!((16..40).contains(&acknowledged), "{acknowledged}\n{}", cluster.logs());
    assert_eq!(cluster.end_of(0).code(), Some(EXIT_DISK), "{}", cluster.logs());
    let logs = cluster.logs();
    let place = folder.display().to_string();
    assert!(logs.contains("make room on the disk") && logs.contains(&place), "{logs}");
    // As long as there is no room it serves what it has, until it needs more.
    start(&mut cluster);
    cluster.wait_for("a start on a full disk", || {
        let client = Client::connect(cluster.address(0));
        client.ok()?.call(&[b"GET", b"key0"]).ok().filter(|reply| reply.starts_with(b"$1048576"))
    });
    assert_holds(&cluster, 0, acknowledged, LARGE, "while the disk is full");
    cluster.kill(0);
    let mut grow = disk.enter();
    grow.args(["mount", "-o", "remount,size=200m"]).arg(&folder);
    assert!(grow.status().unwrap().success());
    start(&mut cluster);
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 0, acknowledged, LARGE, "with room again");
    assert_eq!(write(&cluster, 0, acknowledged, acknowledged + 20, LARGE), acknowledged + 20);
    assert_holds(&cluster, 0, acknowledged + 20, LARGE, "with more than fitted before");
}
