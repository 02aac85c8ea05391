//! Fuzzes segment files: any bytes are decoded as a file, and as blocks in a file with correct
//! checksums, because a fuzzer cannot guess checksums. The encoding follows the drawing in
//! `src/storage/segment.rs`, independently of the code under test.

use bowline::raft::Durable;
use bowline::record::Entry;
use bowline::storage::check_segment;
use bowline::types::{Index, Term};

const PAYLOAD: usize = 500;
const CLUSTER: u128 = 1;
const REPLICA: u16 = 2;
const NUMBER: u64 = 1;

/// The entry point of the fuzzer.
pub(crate) fn segment(bytes: &[u8]) {
    checked(bytes);
    checked(&file_of(&blocks_of(bytes)));
}

/// Checks a segment file: if it is accepted, it must be a log with which a replica can start.
fn checked(file: &[u8]) {
    match check_segment(file) {
        Ok(Durable { hard_state, entries, .. }) => {
            let first = entries.first().map_or(Index(1), Entry::index);
            let mut before = (first.previous(), Term(0));
            for entry in &entries {
                assert_eq!(entry.index(), before.0.next());
                assert!(entry.term() >= before.1 && entry.term() <= hard_state.term);
                before = (entry.index(), entry.term());
            }
        }
        Err(error) => assert!(error.to_string().contains("the file"), "{error}"),
    }
}

/// Splits the bytes into blocks. Each block is a length of two bytes, followed by the block's
/// stream.
fn blocks_of(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        blocks.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    blocks
}

/// Returns a segment file with these blocks and one unwritten sector.
fn file_of(blocks: &[Vec<u8>]) -> Vec<u8> {
    let sectors: usize = blocks.iter().map(|block| block.len().div_ceil(PAYLOAD)).sum();
    let sectors = u32::try_from(sectors + 2).expect("a small file");
    let owner = [&CLUSTER.to_le_bytes()[..], &REPLICA.to_le_bytes(), &NUMBER.to_le_bytes()];
    let mut header = b"bowline segment\n\x02\0\0\0".to_vec();
    header.extend(owner.concat());
    header.extend(sectors.to_le_bytes());
    // Nothing precedes this segment: chain and blocks, base, opening, term and vote are 0, and
    // there is no restart.
    header.extend([0; 8 + 16 + 8 + 12]);
    let mut file = Vec::new();
    put(&mut file, 0, 0, &header);
    let salt = crc32c::crc32c(&owner.concat());
    let mut chain = 0;
    for (number, block) in (1..).zip(blocks) {
        let mut stream = super::mended(block, 32);
        if stream.len() >= 32 {
            let length = u32::try_from(stream.len()).expect("a small block");
            stream[..4].copy_from_slice(&length.to_le_bytes());
            let head = crc32c::crc32c_append(chain, &stream[..4]);
            chain = crc32c::crc32c_append(head, &stream[8..]);
            stream[4..8].copy_from_slice(&chain.to_le_bytes());
        }
        put(&mut file, salt, number, &stream);
    }
    file.resize(sectors as usize * 512, 0);
    file
}

/// Appends the sectors of a block to `file`.
fn put(file: &mut Vec<u8>, salt: u32, block: u32, stream: &[u8]) {
    for payload in stream.chunks(PAYLOAD) {
        let place = u32::try_from(file.len() / 512).expect("a small file");
        let mut sector = [&b"BOWL"[..], &block.to_le_bytes(), payload].concat();
        sector.resize(508, 0);
        let checksum = crc32c::crc32c_append(salt, &place.to_le_bytes());
        file.extend(crc32c::crc32c_append(checksum, &sector).to_le_bytes());
        file.extend(sector);
    }
}
