//! Backup files can be read back; damaged ones are rejected with the reason and the position.

use proptest::prelude::*;

use super::*;
use crate::types::EntryId;

fn header(bytes: usize) -> BackupHeader {
    let snapshot =
        SnapshotMark { last: EntryId::new(3, 17), bytes: bytes as u64, checksum: 0x1234_5678 };
    BackupHeader { cluster_fingerprint: 9 << 100, created_at: 1_700_000_000_000, snapshot }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Returns a backup of `length` bytes, written in pieces of `piece` bytes.
fn backup(length: usize, piece: usize) -> (Vec<u8>, BackupSummary) {
    let mut writer = BackupWriter::new(Vec::new(), header(length)).unwrap();
    content(length).chunks(piece).for_each(|piece| writer.write(piece).unwrap());
    writer.finish().unwrap()
}

/// A reader that returns at most `self.1` bytes per call.
struct Slow<'b>(&'b [u8], usize);

impl io::Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(out.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn read(bytes: &[u8]) -> Result<(Vec<u8>, BackupSummary), BackupError> {
    let mut reader = BackupReader::new(Slow(bytes, 50_000))?;
    let mut content = Vec::new();
    while let Some(block) = reader.next_block()? {
        content.extend_from_slice(block);
    }
    Ok((content, reader.finish()?))
}

/// Returns the positions at which the header, each block and the trailer of a backup of `length`
/// bytes start, followed by the length of the file.
fn positions(length: usize) -> Vec<usize> {
    let mut positions = vec![0, HEADER_BYTES];
    let mut left = length;
    while left > 0 {
        let block = left.min(BLOCK_BYTES);
        left -= block;
        positions.push(positions.last().unwrap() + block + CHECKSUM_BYTES);
    }
    positions.push(positions.last().unwrap() + TRAILER_BYTES);
    positions
}

const LENGTHS: [usize; 6] =
    [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 500];

#[test]
fn backup_of_any_length_round_trips() {
    for length in LENGTHS {
        let (bytes, written) = backup(length, 1_000);
        assert_eq!(bytes.len(), *positions(length).last().unwrap());
        assert_eq!(bytes, backup(length, BLOCK_BYTES + 3).0, "independent of the piece size");
        let (found, summary) = read(&bytes).unwrap();
        assert!(found == content(length), "{length} bytes");
        assert_eq!((summary, summary.header), (written, header(length)));
        assert_eq!(summary.file_bytes, bytes.len() as u64);
        assert_eq!(summary.block_count, length.div_ceil(BLOCK_BYTES) as u64);
    }
}

#[test]
fn truncated_backup_is_refused_with_its_length() {
    for length in LENGTHS {
        let (bytes, _) = backup(length, BLOCK_BYTES);
        let near = |at: usize| [at.saturating_sub(1), at, at + 1];
        let cuts = positions(length).into_iter().flat_map(near);
        let cuts = cuts.chain((0..bytes.len()).step_by(4_099)).filter(|cut| *cut < bytes.len());
        for cut in cuts {
            let error = read(&bytes[..cut]).unwrap_err();
            let text = error.to_string();
            assert_eq!(text, format!("is truncated at byte {cut}"), "of {length} bytes");
            assert!(error.is_damage());
        }
        let error = read(&[&bytes[..], b"x"].concat()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("is damaged: there is data after its end at byte {}", bytes.len())
        );
    }
}

/// Asserts that a backup with this bit flipped is rejected with the position of the damaged part.
fn assert_refused(bytes: &[u8], positions: &[usize], bit: usize) {
    let mut damaged = bytes.to_vec();
    damaged[bit / 8] ^= 1 << (bit % 8);
    let part = positions.partition_point(|at| *at <= bit / 8) - 1;
    let at = positions[part];
    let wanted = match part {
        0 if bit / 8 < MAGIC.len() => "is not a backup of bowline (bad magic number)".to_owned(),
        0 => "is damaged: its header has a wrong checksum".to_owned(),
        _ if part == positions.len() - 2 => {
            format!("is damaged: the trailer at byte {at} does not match the blocks")
        }
        _ => format!("is damaged: the block at byte {at} has a wrong checksum"),
    };
    assert_eq!(read(&damaged).unwrap_err().to_string(), wanted, "bit {bit}");
}

#[test]
fn every_flipped_bit_of_a_small_backup_is_refused_by_position() {
    let (bytes, _) = backup(900, 900);
    for bit in 0..bytes.len() * 8 {
        assert_refused(&bytes, &positions(900), bit);
    }
}

#[test]
fn swapped_blocks_and_blocks_of_another_backup_are_refused() {
    let length = 3 * BLOCK_BYTES;
    let (bytes, _) = backup(length, BLOCK_BYTES);
    let at = positions(length);
    let mut swapped = bytes.clone();
    swapped[at[1]..at[2]].copy_from_slice(&bytes[at[2]..at[3]]);
    swapped[at[2]..at[3]].copy_from_slice(&bytes[at[1]..at[2]]);
    assert!(
        matches!(read(&swapped), Err(BackupError::Block { at: found }) if found == at[1] as u64)
    );
    // The blocks are equal, but the headers differ.
    let other = BackupHeader { created_at: 5, ..header(length) };
    let mut writer = BackupWriter::new(Vec::new(), other).unwrap();
    writer.write(&content(length)).unwrap();
    let (other, _) = writer.finish().unwrap();
    let mixed = [&bytes[..at[2]], &other[at[2]..]].concat();
    assert!(matches!(read(&mixed), Err(BackupError::Block { at: found }) if found == at[2] as u64));
}

#[test]
fn backup_of_a_later_format_version_is_refused() {
    let (mut bytes, _) = backup(10, 10);
    bytes[MAGIC.len()] = 2;
    let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - CHECKSUM_BYTES]);
    bytes[HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let error = read(&bytes).unwrap_err();
    assert!(matches!(error, BackupError::Version { found: 2 }) && !error.is_damage(), "{error}");
}

proptest! {
    #[test]
    fn flipped_bit_in_a_large_backup_is_refused_by_position(
        length in 0..3 * BLOCK_BYTES,
        place in any::<proptest::sample::Index>(),
    ) {
        let (bytes, _) = backup(length, 10_000);
        let bit = place.index(bytes.len() * 8);
        assert_refused(&bytes, &positions(length), bit);
    }

    #[test]
    fn decoding_arbitrary_bytes_as_a_backup_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kept in 0..HEADER_BYTES + 50,
    ) {
        let (whole, _) = backup(40, 40);
        bytes.splice(0..0, whole[..kept].iter().copied());
        prop_assert!(read(&bytes).is_err() || bytes == whole);
    }
}

#[test]
fn operations_guide_names_the_backup_format_version() {
    let page = include_str!("../guide/operations.md");
    let wanted = format!(" and {BACKUP_VERSION} for backups");
    assert!(page.contains(&wanted), "src/guide/operations.md lacks: {wanted}");
}
