//! The order of the server's system calls: a new file is written, synced, renamed, and its folder
//! synced, before anything is written that relies on it; and no write is acknowledged before the
//! sync that covers it has returned.

use std::fs;

use super::client::Client;
use super::replicas::Cluster;
use super::{LARGE, info, key, strace_is_there, traced, value};

/// A system call of a thread, as strace prints it: `name(arguments) = result`.
struct Call {
    thread: String,
    text: String,
    /// Whether this is the start of the call; otherwise it is the end. Starts are needed for calls
    /// that must not start too early.
    begins: bool,
}

impl Call {
    fn is(&self, name: &str) -> bool {
        self.text.starts_with(&format!("{name}(")) || self.text.starts_with(&format!("{name}at"))
    }

    /// Returns the path of the first file descriptor, or the first path in the arguments.
    fn file(&self) -> &str {
        let paths = self.text.split_once('<').filter(|_| !self.is("rename") && !self.is("mkdir"));
        match paths {
            Some((_, rest)) => rest.split('>').next().unwrap(),
            None => self.names().first().copied().unwrap_or(""),
        }
    }

    /// Returns all texts in quotation marks.
    fn names(&self) -> Vec<&str> {
        self.text.split('"').skip(1).step_by(2).collect()
    }
}

/// Parses the output of strace. Joins calls that strace split because another thread made a call in
/// between.
fn calls(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').expect("strace -f names the thread");
        let (thread, rest) = (thread.to_owned(), rest.trim_start());
        let call = |text: String, begins| Call { thread: thread.clone(), text, begins };
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            calls.push(call(begun.to_owned(), true));
            unfinished.push((thread, begun.to_owned()));
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once("resumed>").expect("as strace prints it");
            let place = unfinished.iter().position(|(begun, _)| *begun == thread).unwrap();
            let (_, begun) = unfinished.remove(place);
            calls.push(call(begun + end, false));
        } else if !rest.starts_with("+++") && !rest.starts_with("---") {
            calls.push(call(rest.to_owned(), true));
            calls.push(call(rest.to_owned(), false));
        }
    }
    calls
}

/// Returns whether a file has its temporary name.
fn is_unfinished(path: &str) -> bool {
    path.strip_suffix(".new").is_some()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').unwrap().0
}

/// Returns the completed calls of one thread that concern files.
fn of_files<'a>(calls: &'a [Call], thread: &str) -> Vec<&'a Call> {
    const NAMES: [&str; 6] = ["pwrite64", "fdatasync", "fsync", "rename", "mkdir", "unlink"];
    let of_thread = calls.iter().filter(|call| !call.begins && call.thread == thread);
    of_thread.filter(|call| NAMES.iter().any(|name| call.is(name))).collect()
}

#[test]
fn files_are_synced_before_use_and_writes_before_replies() {
    if !strace_is_there() {
        return;
    }
    let mut cluster = Cluster::start(1, "dedicated");
    cluster.wait_until_all_serve();
    cluster.kill(0);
    // A first start, whose parent folders do not exist yet.
    let deep = cluster.folder.path().join("deep/down");
    let notes = cluster.folder.path().join("strace");
    let mut command = cluster.command(0);
    command.arg("--bootstrap").arg("--dir").arg(&deep);
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let old = cluster.replica_folder(0);
    // The last --dir counts; the first one is removed.
    let place = words.iter().position(|word| *word == old.as_os_str()).unwrap();
    let mut command = std::process::Command::new(command.get_program());
    command.args(&words[..place - 1]).args(&words[place + 1..]);
    let watched = "trace=openat,pwrite64,fdatasync,fsync,/^rename,/^mkdir,/^unlink,write,writev,\
                   sendto,sendmsg";
    cluster.start_as(0, traced(&["-e", watched], &notes, &command));
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for number in 0..60 {
        let bytes = if number < 40 { LARGE } else { 10 };
        let reply = client.call(&[b"SET", &key(number), &value(number, bytes)]).unwrap();
        assert_eq!(reply, b"+OK\r\n");
    }
    cluster.kill(0);
    cluster.wait_for("the last word of strace", || {
        // strace was killed, so the server keeps running until its standard input is closed.
        Client::connect(cluster.address(0)).is_err().then_some(())
    });
    let text = fs::read_to_string(&notes).unwrap();
    // The last line may be incomplete.
    let text = text.rsplit_once('\n').unwrap().0;
    let calls = calls(text);
    let mut threads: Vec<&str> = calls.iter().map(|call| &*call.thread).collect();
    threads.sort_unstable();
    threads.dedup();
    let (mut renames, mut folders) = (0, 0);
    for thread in threads {
        let calls = of_files(&calls, thread);
        for (at, call) in calls.iter().enumerate() {
            let next = calls.get(at + 1);
            if call.is("rename") {
                let (from, to) = (call.names()[0], call.names()[1]);
                assert_eq!(from, format!("{to}.new"), "{}", call.text);
                let before = calls[..at].iter().rev().find(|call| call.file() == from);
                assert!(before.is_some_and(|call| call.is("fdatasync")), "{}", call.text);
                let next = next.expect("a sync of the folder");
                assert!(next.is("fsync") && next.file() == parent(to), "{}", next.text);
                renames += 1;
            }
            if call.is("mkdir") && call.text.ends_with("= 0") {
                let next = next.expect("a sync of the folder above");
                assert!(next.is("fsync") && next.file() == parent(call.file()), "{}", next.text);
                folders += 1;
            }
        }
    }
    assert!(renames >= 6 && folders == 2, "{renames} files, {folders} folders were made");
    // No file is created under its final name, except files without contents.
    for call in calls.iter().filter(|call| call.is("open") && call.text.contains("O_CREAT")) {
        let name = call.names()[0];
        let known = is_unfinished(name) || name.ends_with("/lock") || name.ends_with("/reserve");
        assert!(known || !name.starts_with(&*deep.to_string_lossy()), "{}", call.text);
    }
    // One write at a time, so each has its own sync.
    let (mut synced, mut acknowledged) = (0, 0);
    for call in &calls {
        let is_block = call.is("fdatasync") && call.file().contains("/segment-");
        if !call.begins && is_block && !is_unfinished(call.file()) {
            synced += 1;
        }
        if call.begins && call.text.contains("\"+OK\\r\\n\"") {
            acknowledged += 1;
            assert!(acknowledged <= synced, "acknowledged before it was synced: {}", call.text);
        }
    }
    assert!(acknowledged >= 60, "only {acknowledged} acknowledgements were seen");
}

#[test]
fn snapshot_is_synced_and_verified_before_compaction() {
    if !strace_is_there() {
        return;
    }
    let mut cluster = Cluster::start_with(1, "dedicated", &["--snapshot-log-bytes", "64kb"]);
    cluster.wait_until_all_serve();
    cluster.kill(0);
    let notes = cluster.folder.path().join("strace");
    let watched = "trace=pread64,pwrite64,fdatasync,fsync,/^rename,/^unlink";
    cluster.start_as(0, traced(&["-e", watched], &notes, &cluster.command(0)));
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let snapshot = || info(&cluster, 0, "raft_snapshot_index");
    let segment = |number| cluster.replica_folder(0).join(format!("segment-{number:010}"));
    let (mut latest, mut taken) = (snapshot(), 0);
    // Some snapshots, which take longer on a slow disk, and segments that are deleted with them.
    for number in 0.. {
        let reply = client.call(&[b"SET", &key(number % 4), &value(number, LARGE)]).unwrap();
        assert_eq!(reply, b"+OK\r\n");
        if snapshot() != latest {
            (latest, taken) = (snapshot(), taken + 1);
        }
        if number >= 60 && taken > 4 && !segment(1).exists() && !segment(2).exists() {
            break;
        }
        assert!(number < 2_000, "{taken} snapshots in {number} writes\n{}", cluster.logs());
    }
    cluster.kill(0);
    cluster.wait_for("the last word of strace", || {
        Client::connect(cluster.address(0)).is_err().then_some(())
    });
    let text = fs::read_to_string(&notes).unwrap();
    let calls = calls(text.rsplit_once('\n').unwrap().0);
    let (mut durable, mut snapshots_gone, mut segments_gone) = (0, 0, 0);
    for (at, call) in calls.iter().enumerate() {
        let before = calls[..at].iter().rev().filter(|it| !it.begins && it.thread == call.thread);
        if call.begins && call.is("rename") && call.names()[0].ends_with("/snapshot-own.new") {
            let new = call.names()[0];
            let mut of_it = before.filter(|it| it.file() == new).peekable();
            assert!(
                of_it.peek().is_some_and(|it| it.is("pread64")),
                "not read back: {}",
                call.text
            );
            let last = of_it.find(|it| !it.is("pread64"));
            assert!(last.is_some_and(|it| it.is("fdatasync")), "not synced: {}", call.text);
            let of_thread = |it: &&Call| !it.begins && it.thread == call.thread;
            let mut after = calls[at..].iter().filter(of_thread).skip(1);
            // The process was killed in between, and has done nothing that relies on the name.
            let Some(next) = after.next() else { continue };
            assert!(next.is("fsync") && next.file() == parent(new), "{}", next.text);
            durable += 1;
        } else if call.begins && call.is("unlink") {
            let name = call.names()[0].rsplit_once('/').unwrap().1;
            snapshots_gone += usize::from(name.starts_with("snapshot-0"));
            segments_gone += usize::from(name.starts_with("segment-"));
            let synced = calls[..at].iter().filter(|it| !it.begins && it.is("rename"));
            let renamed = synced.filter(|it| it.names()[0].ends_with("/snapshot-own.new")).count();
            assert!(!name.starts_with("snapshot-0") || renamed > snapshots_gone, "{}", call.text);
            assert!(!name.starts_with("segment-") || durable > 0, "{}", call.text);
        }
    }
    assert!(durable > 3 && snapshots_gone > 2 && segments_gone > 1, "{durable} were durable");
}
