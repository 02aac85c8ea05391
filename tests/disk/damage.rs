//! Real folders with flipped bits and lost sectors, in clusters of one or two replicas, in which no
//! other replica can restore what is lost. The tests show what exactly is refused, repaired or
//! truncated:
//!
//! - A flipped bit anywhere in a segment, even in the zeros after the last block, is damage: the
//!   start is refused with an error that names the file and the sector, and changes nothing in the
//!   folder. No power cut flips bits, so a flipped bit is never taken for a torn tail.
//! - A flipped bit in one copy of the meta record is repaired from the other copy; a damaged peer
//!   record is rebuilt. Both are logged.
//! - Unwritten sectors in the last block, whose sync had not returned, are a torn tail: it is
//!   truncated, and the replica starts without that block and with everything before it.
//! - The same sectors, lost after the sync returned, look the same and are truncated too; only the
//!   other replicas can restore them. Lost sectors of any earlier block are refused.

use std::fs;
use std::path::Path;

use super::replicas::Cluster;
use super::{LARGE, assert_holds, copy, value, write};
use crate::client::Client;

const SECTOR: usize = 512;

/// Starts replica 1, which must refuse to start, and returns its error.
#[track_caller]
fn refusal(cluster: &Cluster, case: &str) -> String {
    let output = Cluster::run_to_end(cluster.command(0));
    assert!(!output.status.success(), "{case}: it should have been refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the index of each sector's block; zero for unwritten sectors.
fn blocks(bytes: &[u8]) -> Vec<u32> {
    let number = |sector: &[u8]| u32::from_le_bytes(sector[8..12].try_into().unwrap());
    bytes.chunks(SECTOR).map(number).collect()
}

/// Returns the sectors of the last block, as a range of sector numbers.
fn last_block(bytes: &[u8]) -> std::ops::Range<usize> {
    let blocks = blocks(bytes);
    let last = *blocks.iter().max().unwrap();
    let first = blocks.iter().position(|&block| block == last).unwrap();
    first..blocks.iter().rposition(|&block| block == last).unwrap() + 1
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

#[test]
fn flipped_bit_on_disk_is_repaired_or_start_is_refused() {
    // Two replicas, so that there is a peer record, and so that replica 2 continues to run.
    let mut cluster = Cluster::start(2, "auto");
    cluster.wait_until_all_serve();
    let acknowledged = write(&cluster, 0, 0, 18, LARGE);
    assert_eq!(acknowledged, 18, "{}", cluster.logs());
    cluster.kill(0);
    let folder = cluster.replica_folder(0);
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock" && name != bowline::storage::RESERVE_FILE)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["meta", "peers", "segment-0000000001", "segment-0000000002"]);
    for name in &names {
        let path = folder.join(name);
        let bytes = fs::read(&path).unwrap();
        let mut places = vec![0, 511, bytes.len() / 2, bytes.len() - 1];
        if name.starts_with("segment") {
            let last = last_block(&bytes);
            places.extend([5, 11, 100, SECTOR, last.start * SECTOR + 3, last.end * SECTOR - 1]);
            // The first unwritten sector, if any.
            places.extend([last.end * SECTOR].iter().filter(|&&place| place < bytes.len()));
        }
        for place in places {
            let case = format!("{name}, byte {place} of {}", bytes.len());
            let bit = place * 8 + place % 8;
            flip(&path, bit);
            let damaged = fs::read(&path).unwrap();
            if !name.starts_with("segment") {
                let log = cluster.log(0).len();
                cluster.start_as(0, cluster.command(0));
                cluster.wait_until_all_serve();
                let words = match name.as_str() {
                    "meta" => "damaged copy of the record in the file `meta` repaired",
                    _ => "damaged file `peers` ignored",
                };
                assert!(cluster.log(0)[log..].contains(words), "{case}: {}", cluster.log(0));
                cluster.kill(0);
                assert!(fs::read(&path).unwrap() != damaged, "{case}: it was not repaired");
                continue;
            }
            let text = refusal(&cluster, &case);
            let advice = "a cluster of fewer than three replicas cannot repair or replace one";
            assert!(text.contains(advice), "{case}: {text}");
            assert!(fs::read(&path).unwrap() == damaged, "{case}: a refused start changed it");
            let sector = place / SECTOR * SECTOR;
            assert!(
                text.contains(&format!("{name} is damaged at byte {sector}:")),
                "{case}: {text}"
            );
            flip(&path, bit);
        }
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 0, acknowledged, LARGE, "with all bits as they were");
}

#[test]
fn torn_tail_of_log_is_truncated_but_earlier_damage_is_refused() {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let acknowledged = write(&cluster, 0, 0, 30, 100);
    assert_eq!(acknowledged, 30, "{}", cluster.logs());
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let reply = client.call(&[b"SET", b"torn", &value(7, 10_000)]).unwrap();
    assert_eq!(reply, b"+OK\r\n");
    cluster.kill(0);
    let path = cluster.replica_folder(0).join("segment-0000000001");
    let whole = fs::read(&path).unwrap();
    let last = last_block(&whole);
    assert!(last.len() > 20, "{last:?} is not the block of the large value");
    let without = |lost: &[usize]| {
        let mut bytes = whole.clone();
        for sector in lost {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        }
        fs::write(&path, bytes).unwrap();
    };
    // Each of these blocks was followed by another one, so it had been synced.
    for lost in [1, last.start / 2, last.start - 1] {
        without(&[lost]);
        let text = refusal(&cluster, &format!("sector {lost} lost"));
        let place = format!("segment-0000000001 is damaged at byte {}:", lost * SECTOR);
        assert!(text.contains(&place), "{text}");
    }
    // As if the power had failed during the last sync: each sector of the last block may or may not
    // have been written.
    let all: Vec<usize> = last.clone().collect();
    let (folder, kept) = (cluster.replica_folder(0), cluster.folder.path().join("kept"));
    fs::rename(&folder, &kept).unwrap();
    for lost in [&all[..], &all[..1], &all[3..4], &all[all.len() - 1..]] {
        copy(&kept, &folder);
        without(lost);
        cluster.restart();
        cluster.wait_until_all_serve();
        assert_holds(&cluster, 0, acknowledged, 100, &format!("sectors {lost:?} torn"));
        let mut client = Client::connect(cluster.address(0)).unwrap();
        assert_eq!(client.call(&[b"GET", b"torn"]).unwrap(), b"$-1\r\n", "a part of a block");
        cluster.kill(0);
        // The log continues after the truncated tail.
        cluster.restart();
        cluster.wait_until_all_serve();
        assert_holds(&cluster, 0, acknowledged, 100, "once more");
        cluster.kill(0);
        // The meta record counts starts, so restoring the segment alone is detected.
        without(&[]);
        let text = refusal(&cluster, "an old segment put back");
        assert!(text.contains("segment-0000000001 is older than the rest"), "{text}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
