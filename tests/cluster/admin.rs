//! `bowline admin` against real servers: its output, and its exit codes when replicas are down, the
//! input is invalid, or there is no quorum.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::{Cluster, free_port};

/// Runs `bowline admin --addr 127.0.0.1:port arguments...`, which must exit by itself.
pub(crate) fn admin_at(port: u16, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &format!("127.0.0.1:{port}")]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

/// Runs `bowline admin` with the address of a replica, which must exit by itself.
pub(crate) fn admin(cluster: &Cluster, at: usize, arguments: &[&str]) -> Output {
    admin_at(cluster.ports[at], arguments)
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the output as JSON. Panics if the command failed.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
    serde_json::from_str(&stdout(output)).unwrap()
}

/// Asserts that the command failed with this exit code, and that its message contains all of
/// `parts`.
#[track_caller]
pub(crate) fn assert_failed(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{}{message}", stdout(output));
    for part in parts {
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

/// Waits until a replica knows the client addresses of all others.
fn wait_until_all_known(cluster: &Cluster) {
    for at in 0..cluster.ports.len() {
        cluster.wait_for("the addresses of all replicas", || {
            (cluster.info::<usize>(at, "raft_replicas") == cluster.ports.len()).then_some(())
        });
    }
}

fn three_replicas() -> Cluster {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    wait_until_all_known(&cluster);
    cluster
}

#[test]
fn admin_status_shows_every_replica_and_the_unreachable_one() {
    let mut cluster = three_replicas();
    let leader = cluster.leader();
    // A replica refreshes its reported state only at intervals.
    let status = cluster.wait_for("the match indexes of the followers", || {
        let status = json(&admin(&cluster, (leader + 1) % 3, &["status", "--json"]));
        let rows = status["replicas"].as_array()?;
        (rows.iter().filter(|row| row["match_index"].is_u64()).count() == 2).then_some(status)
    });
    assert_eq!(status["leader"], leader + 1, "{status}");
    let rows = status["replicas"].as_array().unwrap();
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row["id"], at + 1);
        assert_eq!(row["address"], format!("127.0.0.1:{}", cluster.ports[at]));
        assert_eq!(row["role"], if at == leader { "leader" } else { "follower" });
        assert!(row["applied_index"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["match_index"].is_u64(), at != leader, "{row}");
        assert_eq!(row["disk"], "ok");
        assert_eq!(row["version"], env!("CARGO_PKG_VERSION"));
    }
    assert_eq!(rows.len(), 3);
    let down = (leader + 1) % 3;
    cluster.kill(down);
    let output = admin(&cluster, leader, &["status"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let words = |id: usize| {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words[0] == id.to_string()).unwrap_or_default()
    };
    assert_eq!(words(down + 1)[2], "unreachable", "{text}");
    assert_eq!(words(leader + 1)[2], "leader", "{text}");
    assert!(text.contains(&format!("replica {}: cannot connect", down + 1)), "{text}");
}

#[test]
fn admin_transfer_moves_leadership_or_reports_why_not() {
    let mut cluster = three_replicas();
    let leader = cluster.leader();
    let target = (leader + 1) % 3;
    let id = (target + 1).to_string();
    let moved = json(&admin(&cluster, target, &["transfer", "--to", &id, "--json"]));
    assert_eq!((&moved["from"], &moved["leader"]), (&(leader + 1).into(), &(target + 1).into()));
    assert_eq!(cluster.leader(), target);
    let output = admin(&cluster, leader, &["transfer", "--to", &id]);
    assert!(stdout(&output).contains("is already the leader"), "{}", stdout(&output));
    let output = admin(&cluster, leader, &["transfer"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let now = cluster.leader();
    assert!(now != target && stdout(&output).contains(&format!("replica {} leads", now + 1)));
    assert_failed(
        &admin(&cluster, leader, &["transfer", "--to", "9"]),
        1,
        &["there is no replica 9", "1, 2, 3"],
    );
    let down = (now + 1) % 3;
    cluster.kill(down);
    cluster.wait_for("the refusal of a replica that is down", || {
        let output = admin(&cluster, now, &["transfer", "--to", &(down + 1).to_string()]);
        (!output.status.success() && stderr(&output).contains("not online")).then_some(())
    });
}

#[test]
fn admin_snapshot_waits_until_everything_applied_is_covered() {
    let cluster = three_replicas();
    let mut client = Client::connect(cluster.address(1)).unwrap();
    for round in 0..2 {
        for number in 0..50 {
            let value = format!("{round}:{number}");
            assert_eq!(client.call(&[b"SET", b"key", value.as_bytes()]).unwrap(), b"+OK\r\n");
        }
        let applied: u64 = cluster.info(1, "raft_applied_index");
        let taken = json(&admin(&cluster, 1, &["snapshot", "--json"]));
        assert_eq!(taken["replica"], 2);
        assert!(taken["index"].as_u64().unwrap() >= applied, "{taken} of {applied}");
    }
}

#[test]
fn admin_digest_compares_replicas_under_load() {
    let cluster = three_replicas();
    let first = json(&admin(&cluster, 0, &["digest", "--json"]));
    assert_eq!(first["digests"].as_object().unwrap().len(), 3, "{first}");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for name in 0..4_usize {
            let (address, stop) = (cluster.address(name % 3), &stop);
            scope.spawn(move || {
                let mut client = Client::connect(address).unwrap();
                let key = format!("key{name}");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.call(&[b"INCR", key.as_bytes()]).unwrap();
                }
            });
        }
        cluster.wait_for("digest marks", || {
            (cluster.info::<u64>(0, "raft_applied_index") > 600).then_some(())
        });
        for at in 0..3 {
            let digest = json(&admin(&cluster, at, &["digest", "--json"]));
            assert!(digest["different"].as_array().unwrap().is_empty(), "{digest}");
            assert_eq!(digest["digests"].as_object().unwrap().len(), 3, "{digest}");
        }
    });
}

#[test]
fn admin_reports_failures_and_does_not_hang() {
    let unused = free_port();
    for arguments in
        [&["status"][..], &["transfer"], &["snapshot"], &["digest"], &["status", "--json"]]
    {
        assert_failed(&admin_at(unused, arguments), 1, &["cannot connect", &unused.to_string()]);
    }
    // A server that accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for arguments in [&["status"][..], &["transfer"], &["snapshot"], &["digest"]] {
        assert_failed(&admin_at(port, arguments), 1, &["no reply within"]);
    }
    for arguments in [&[][..], &["nonsense"], &["status", "more"], &["transfer", "--to", "x"]] {
        assert_failed(&admin_at(unused, arguments), 2, &["--help"]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", "no port", "status"]).stdout(Stdio::piped());
    assert_failed(&Cluster::run_to_end(command), 1, &["`no port` is not an address"]);
}

#[test]
fn admin_without_quorum_reports_that_there_is_no_leader() {
    let mut cluster = three_replicas();
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.kill((leader + 1) % 3);
    let left = (leader + 2) % 3;
    cluster.wait_for("the loss of the leader", || {
        (cluster.info::<String>(left, "raft_leader_id") == "none").then_some(())
    });
    let wanted = &["no leader: 1 of 3 replicas answer, and a majority is 2"];
    assert_failed(&admin(&cluster, left, &["status"]), 1, wanted);
    assert_failed(&admin(&cluster, left, &["transfer"]), 1, wanted);
    assert_failed(&admin(&cluster, left, &["digest"]), 1, &["2 replicas do not answer"]);
    // A snapshot needs no quorum.
    let output = admin(&cluster, left, &["snapshot"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Answers `INFO` and every other command of the connections to `listener` with a bulk string each.
fn serve_texts(listener: &TcpListener, info: &str, other: &str) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut space = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut space) {
            let asks_info = space[..count].windows(4).any(|word| word == b"INFO");
            let text = if asks_info { info } else { other };
            write!(stream, "${}\r\n{text}\r\n", text.len()).unwrap();
        }
    }
}

#[test]
fn admin_probes_distinguish_live_from_ready_replicas() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        for probe in ["ping", "ready"] {
            assert!(admin(&cluster, at, &[probe]).status.success(), "{probe} of replica {at}");
        }
    }
    cluster.kill(1);
    cluster.kill(2);
    assert!(admin(&cluster, 0, &["ping"]).status.success());
    assert_failed(&admin(&cluster, 0, &["ready"]), 1, &["no reply within 2s"]);
    assert_failed(&admin(&cluster, 1, &["ping"]), 1, &["cannot connect"]);
    cluster.restart();
    cluster.wait_for("a replica that serves again", || {
        admin(&cluster, 0, &["ready"]).status.success().then_some(())
    });
}

#[test]
fn admin_digest_names_the_replica_that_differs() {
    // Servers that report what replicas with diverged states would report.
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = listeners.iter().map(|it| it.local_addr().unwrap().port()).collect();
    let node = |id: usize| {
        let port = ports[id - 1];
        format!("{:032x}{id:08x} 127.0.0.1:{port}@1 slave - 0 0 1 connected\n", 7)
    };
    let nodes: Vec<String> = (1..=3).map(node).collect();
    let nodes = nodes.concat();
    for (at, listener) in listeners.into_iter().enumerate() {
        let digest = if at == 1 { "bad" } else { "good" };
        let info = format!(
            "raft_replica_id:{}\r\nraft_member_count:3\r\nraft_leader_id:1\r\nraft_applied_index:{}\
             \r\nraft_state_digest:other{at}\r\nraft_digest_marks:256={digest},512={digest}\r\n",
            at + 1,
            600 + at,
        );
        let nodes = nodes.clone();
        thread::spawn(move || serve_texts(&listener, &info, &nodes));
    }
    let output = admin_at(ports[0], &["digest"]);
    assert_failed(&output, 2, &["the states differ at entry 512: replicas 2\n"]);
    let output = admin_at(ports[0], &["digest", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&document["index"], &document["different"][0]), (&512.into(), &2.into()));
}

/// Returns the names, lengths and contents of the files in a folder.
pub(crate) fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    files.map(|file| (name(&file), fs::read(file.path()).unwrap())).collect()
}

fn check(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "check", "--json"]).arg(folder).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

#[test]
fn admin_check_reports_a_folder_and_its_damage_without_changing_it() {
    let mut cluster = three_replicas();
    let folder = cluster.replica_folder(1);
    assert_failed(&check(&folder), 1, &["in use by another process"]);
    assert_failed(&check(Path::new("no/such/folder")), 1, &["no/such/folder"]);
    let mut client = Client::connect(cluster.address(1)).unwrap();
    assert!(admin(&cluster, 1, &["snapshot"]).status.success());
    for number in 0..20_u32 {
        client.call(&[b"SET", b"key", number.to_string().as_bytes()]).unwrap();
    }
    cluster.kill(1);
    fs::write(folder.join("snapshot-own.new"), b"unfinished").unwrap();
    let before = content(&folder);
    let report = json(&check(&folder));
    assert_eq!((&report["replica"], &report["starts"]), (&2.into(), &1.into()), "{report}");
    assert!(report["snapshot"]["index"].as_u64().unwrap() > 0, "{report}");
    assert!(report["last_index"].as_u64() > report["snapshot"]["index"].as_u64(), "{report}");
    assert!(content(&folder) == before, "the check has changed the folder");
    // One flipped bit in the middle of the log's only segment.
    let segment = before.keys().find(|name| name.starts_with("segment-")).unwrap();
    let mut bytes = before[segment].clone();
    bytes[700] ^= 1;
    fs::write(folder.join(segment), &bytes).unwrap();
    let damaged = content(&folder);
    assert_failed(&check(&folder), 65, &[segment, "is damaged at byte"]);
    assert!(content(&folder) == damaged, "the check has changed the folder");
}
