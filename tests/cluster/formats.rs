//! Folders written by earlier versions of the program are still read. `tests/formats` has one
//! folder for each combination of file formats since format 5 of log segments; a later version must
//! serve from all of them. The folders `protocol-N` are for `tests/props/protocol.rs`.
//!
//! `UPDATE_FORMATS=name cargo test --test cluster formats` writes the folder `name` with the
//! formats of this version. Do so when a format has changed, and keep the older folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::replicas::Cluster;

/// Name of the environment variable that names the folder to be written.
const UPDATE_VARIABLE: &str = "UPDATE_FORMATS";
/// Size of a log segment in bytes. The recorded ones end with their last sector that is not empty.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Commands of clients, one in each line, and the snapshot between them.
const COMMANDS: &str = "SET text hello
SET number 41
HSET hash field value
RPUSH list a b c
SADD set 1 2 3
SADD words x y
ZADD sorted 1.5 one 2 two
SET expiring later PXAT 4102444800000
BGSAVE
INCR number
APPEND text !
DEL words";

/// Reads that must succeed with any folder, and their replies.
const READS: [(&str, &str); 8] = [
    ("GET text", "$6\r\nhello!\r\n"),
    ("GET number", "$2\r\n42\r\n"),
    ("HGET hash field", "$5\r\nvalue\r\n"),
    ("LRANGE list 0 -1", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"),
    ("SMISMEMBER set 1 4", "*2\r\n:1\r\n:0\r\n"),
    ("EXISTS words", ":0\r\n"),
    ("ZSCORE sorted one", "$3\r\n1.5\r\n"),
    ("PEXPIRETIME expiring", ":4102444800000\r\n"),
];

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn call(client: &mut Client, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    String::from_utf8(client.call_until_ok(&words)).unwrap()
}

/// Returns whether the file belongs to the replica's data, not to its running process.
fn is_data(name: &str) -> bool {
    name != "lock" && name != "reserve"
}

/// Writes a folder with the formats of this version.
fn record(name: &str) {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for line in COMMANDS.lines() {
        call(&mut client, line);
        if line == "BGSAVE" {
            cluster.wait_for("the snapshot", || {
                (cluster.info::<u64>(0, "raft_snapshot_index") > 0).then_some(())
            });
        }
    }
    cluster.kill(0);
    let to = recorded().join(name);
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(cluster.replica_folder(0)).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if is_data(&name) {
            let mut bytes = fs::read(file.path()).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(used.next_multiple_of(512));
            fs::write(to.join(name), bytes).unwrap();
        }
    }
}

#[test]
fn folders_of_all_earlier_formats_are_served() {
    if let Ok(name) = std::env::var(UPDATE_VARIABLE) {
        record(&name);
    }
    let mut count = 0;
    for folder in fs::read_dir(recorded()).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        if !name.starts_with("log-") {
            continue;
        }
        let mut cluster = Cluster::start(1, "auto");
        cluster.wait_until_all_serve();
        cluster.kill(0);
        let own = cluster.replica_folder(0);
        fs::remove_dir_all(&own).unwrap();
        fs::create_dir(&own).unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            let to = own.join(file.file_name());
            fs::copy(file.path(), &to).unwrap();
            if file.file_name().to_str().unwrap().starts_with("segment-") {
                fs::File::options().write(true).open(&to).unwrap().set_len(SEGMENT_BYTES).unwrap();
            }
        }
        cluster.restart();
        cluster.wait_until_all_serve();
        let mut client = Client::connect(cluster.address(0)).unwrap();
        for (read, expected) in READS {
            assert_eq!(call(&mut client, read), expected, "{read} of {name}\n{}", cluster.logs());
        }
        count += 1;
    }
    assert!(count > 0, "no folder is recorded");
}
