//! `KEYRANGE` on every replica, while the keys change, and after a restart.

use std::thread;

use crate::client::Client;
use crate::replicas::Cluster;

/// Keys with the prefix that is read: some pages of them, and several pieces of the index.
const KEYS: usize = 3_000;

/// A page: its cursor, its revision and its keys.
struct Page {
    cursor: Option<String>,
    revision: u64,
    keys: Vec<String>,
}

/// Reads a page of keys with the prefix `in:`, from `min` on.
fn page(client: &mut Client, min: &str) -> Page {
    let command = ["KEYRANGE", min, "+", "PREFIX", "in:", "LIMIT", "700"].map(str::as_bytes);
    let reply = String::from_utf8(client.call_until_ok(&command)).unwrap();
    let mut parts = reply.strip_prefix("*3\r\n").expect(&reply).split("\r\n");
    let cursor = match parts.next().unwrap() {
        "$-1" => None,
        _ => parts.next().map(str::to_owned),
    };
    let revision = parts.next().unwrap().strip_prefix(':').unwrap().parse().unwrap();
    let count: usize = parts.next().unwrap().strip_prefix('*').unwrap().parse().unwrap();
    let keys: Vec<String> = parts.skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(keys.len(), count, "{reply}");
    Page { cursor, revision, keys }
}

/// Reads all pages. Returns the keys, and the number of pages.
fn all_keys(client: &mut Client) -> (Vec<String>, usize) {
    let (mut keys, mut pages, mut revision) = (Vec::new(), 0, 0);
    let mut cursor = Some("-".to_owned());
    while let Some(min) = cursor {
        let page = page(client, &min);
        assert!(page.revision >= revision, "the revision never falls");
        revision = page.revision;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
    }
    (keys, pages)
}

fn key_ranges_are_read_in_order(threads: &'static str) {
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let name = |number: usize| format!("in:{number:05}");
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let mut command = vec![b"MSET".to_vec()];
    for key in (0..KEYS).map(name).chain(["im:".to_owned(), "in;".to_owned()]) {
        command.extend([key.into_bytes(), b"v".to_vec()]);
    }
    let command: Vec<&[u8]> = command.iter().map(|word| &word[..]).collect();
    assert_eq!(client.call_until_ok(&command), b"+OK\r\n");
    let wanted: Vec<String> = (0..KEYS).map(name).collect();
    // The first read builds the index, on each replica.
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        assert_eq!(all_keys(&mut client), (wanted.clone(), 5), "replica {at}");
    }
    thread::scope(|scope| {
        let address = cluster.address(1);
        scope.spawn(move || {
            let mut writer = Client::connect(address).unwrap();
            for number in (1..KEYS).step_by(2) {
                let key = name(number);
                writer.call_until_ok(&[b"DEL", key.as_bytes()]);
                // After its acknowledgement, a write is seen by each read that begins.
                let page = page(&mut writer, &format!("[{key}"));
                assert_ne!(page.keys.first(), Some(&key));
            }
        });
        let mut client = Client::connect(cluster.address(2)).unwrap();
        for _ in 0..10 {
            let (keys, _) = all_keys(&mut client);
            assert!(keys.is_sorted_by(|one, next| one < next));
            let even = keys.iter().filter(|key| key.as_bytes()[key.len() - 1] % 2 == 0);
            assert_eq!(even.count(), KEYS / 2, "every key that stays is found");
        }
    });
    let wanted: Vec<String> = (0..KEYS).step_by(2).map(name).collect();
    let victim = cluster.leader();
    cluster.kill(victim);
    cluster.restart();
    cluster.wait_until_all_serve();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        assert_eq!(all_keys(&mut client), (wanted.clone(), 3), "replica {at}");
    }
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let refused = client.call(&[b"MULTI"]).and_then(|_| client.call(&[b"KEYRANGE", b"-", b"+"]));
    assert!(refused.unwrap().starts_with(b"-ERR Command not allowed inside a transaction"));
}

#[test]
fn key_ranges_are_read_in_order_with_thread_per_stage() {
    key_ranges_are_read_in_order("dedicated");
}

#[test]
fn key_ranges_are_read_in_order_with_shared_stage_thread() {
    key_ranges_are_read_in_order("fused");
}
