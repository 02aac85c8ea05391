//! A replica is killed, one bit in a file of its folder flips, and it starts again: it repairs
//! itself without an operator, and its state becomes equal to that of the others.

use std::fs;
use std::path::Path;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::client::Client;
use crate::replicas::Cluster;

/// Environment variable for the number of flipped bits.
const FLIPS_VARIABLE: &str = "BOWLINE_FLIPS";
/// Log line of a replica whose start removes what is damaged.
const REPAIRED: &str = "damaged folder repaired";

/// Returns the names of the files in a replica's folder whose contents the replica reads.
fn file_names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "lock" && name != bowline::storage::RESERVE_FILE);
    names.sort_unstable();
    names
}

/// Flips a random bit of the file `name`; with probability 1/2, one before the end of the written
/// data. Returns the offset of its byte.
fn flip_random_bit(folder: &Path, name: &str, rng: &mut ChaCha8Rng) -> usize {
    let path = folder.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
    let end = if rng.random_bool(0.5) { written } else { bytes.len() };
    let bit = rng.random_range(0..end * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(&path, bytes).unwrap();
    bit / 8
}

fn write(cluster: &Cluster, at: usize, keys: std::ops::Range<usize>) {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    for key in keys {
        let value = key.to_string().repeat(200);
        let reply = client.call_until_ok(&[b"SET", key.to_string().as_bytes(), value.as_bytes()]);
        assert_eq!(reply, b"+OK\r\n");
    }
}

fn assert_has_keys(cluster: &Cluster, at: usize, keys: std::ops::Range<usize>) {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    for key in keys {
        let value = key.to_string().repeat(200);
        let expected = format!("${}\r\n{value}\r\n", value.len());
        let reply = client.call_until_ok(&[b"GET", key.to_string().as_bytes()]);
        assert_eq!(reply, expected.as_bytes(), "key {key} at {at}");
    }
}

pub(crate) fn wait_until_repaired(cluster: &Cluster, at: usize) {
    cluster.wait_for("the end of the repair", || {
        (cluster.info::<u8>(at, "raft_rejoining") == 0).then_some(())
    });
    cluster.wait_until_states_are_equal();
}

#[test]
fn replica_with_a_flipped_bit_repairs_itself() {
    let flips = std::env::var(FLIPS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let mut cluster = Cluster::start_with(3, "auto", &["--snapshot-log-bytes", "65536"]);
    cluster.wait_until_all_serve();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut keys, mut repaired) = (0, 0);
    write(&cluster, 0, 0..100);
    keys += 100;
    for round in 0..flips.unwrap_or(5_usize) {
        let victim = rng.random_range(0..3);
        let other = (victim + 1) % 3;
        let folder = cluster.replica_folder(victim);
        let before = cluster.log(victim).len();
        // The last writes may be on this replica and one other one only.
        write(&cluster, victim, keys..keys + 10);
        cluster.kill(victim);
        let mut names = file_names(&folder);
        if round == 0 {
            names.retain(|name| name.starts_with("segment-"));
        }
        let name = names[rng.random_range(0..names.len())].clone();
        let place = flip_random_bit(&folder, &name, &mut rng);
        write(&cluster, other, keys + 10..keys + 20);
        cluster.restart();
        cluster.wait_until_all_serve();
        write(&cluster, victim, keys + 20..keys + 30);
        wait_until_repaired(&cluster, victim);
        assert_has_keys(&cluster, victim, keys..keys + 30);
        keys += 30;
        let is_repaired = cluster.log(victim)[before..].contains(REPAIRED);
        repaired += usize::from(is_repaired);
        eprintln!("{round}: replica {victim}, {name}, byte {place}: repaired: {is_repaired}");
    }
    for at in 0..3 {
        assert_has_keys(&cluster, at, 0..keys);
    }
    eprintln!("{repaired} repairs, {keys} keys");
    assert!(repaired > 0, "no flipped bit mattered");
}
