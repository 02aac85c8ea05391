//! Sectors: the unit in which all files except snapshots are written and checked. A disk writes a
//! sector of 512 bytes atomically; each sector has its own checksum.
//!
//! ```text
//!  0        4        8        12 ..                            512
//!  +--------+--------+--------+--------------------------------+
//!  | crc32c |  mark  | block  | 500 bytes of the block's stream |
//!  +--------+--------+--------+--------------------------------+
//! ```
//!
//! Little endian. The checksum covers everything after it and the sector's position: it is seeded
//! with the file's salt and the sector number, so a sector written to the wrong place, or left over
//! from another file, is not valid.
//!
//! Files are created full of zeros, and no sector with contents is written again. So after a power
//! cut a sector is either all zeros, which means that it was not written, or valid. Anything else
//! was damaged later. No flipped bit turns one state into the other: `mark` has many bits set, so a
//! valid sector is far from zeros, and zeros with one bit set are not valid. That distinguishes a
//! torn tail, which may be truncated, from damage, which may not.

/// Length in bytes of a sector, the unit in which log files are written and checksummed.
pub(super) const SECTOR_BYTES: usize = 512;
/// Number of bytes in a sector that hold data: all except the sector's header (checksum, a constant
/// that marks written sectors, and block number).
pub(super) const PAYLOAD_BYTES: usize = SECTOR_BYTES - HEAD_BYTES;
const HEAD_BYTES: usize = 12;
/// Contents of an unwritten sector, for comparison.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
const MARK: u32 = 0x4C57_4F42;

/// State of a sector of a file, as determined from its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sector<'a> {
    /// All bytes are zero: the sector was preallocated but never written.
    Unwritten,
    /// The sector's checksum is correct: it was completely written, as part of a block (bytes
    /// written together).
    Written {
        /// Index, within the file, of the block (bytes written together) to which the sector
        /// belongs.
        block: u32,
        /// The sector's data: [`PAYLOAD_BYTES`] bytes of what was written.
        payload: &'a [u8],
    },
    /// The sector has been written, but its checksum is wrong.
    Damaged,
}

/// Returns the number of sectors needed for `stream_bytes` bytes of data.
pub(super) const fn sectors_for(stream_bytes: usize) -> usize {
    stream_bytes.div_ceil(PAYLOAD_BYTES)
}

/// Returns the byte offset of a sector in its file.
pub(super) fn offset_of(sector: u32) -> u64 {
    u64::from(sector) * SECTOR_BYTES as u64
}

/// Splits the contents of a block (bytes written together), `stream`, into sectors with checksums,
/// and appends them to `out`. `salt` is the file's checksum seed, `first` the index of the block's
/// first sector, and `block` the index of the block within the file. The last sector is padded with
/// zeros.
pub(super) fn seal(salt: u32, first: u32, block: u32, stream: &[u8], out: &mut Vec<u8>) {
    let sectors = sectors_for(stream.len());
    let (start, bytes) = (out.len(), sectors * SECTOR_BYTES);
    assert!(!stream.is_empty(), "block {block} is empty");
    assert!(
        u32::try_from(u64::from(first) + sectors as u64).is_ok(),
        "block {block} has {sectors} sectors from sector {first} on"
    );
    out.reserve(bytes);
    for (number, payload) in (first..).zip(stream.chunks(PAYLOAD_BYTES)) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&MARK.to_le_bytes());
        out.extend_from_slice(&block.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(start + SECTOR_BYTES, 0);
        let checksum = checksum(salt, number, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    assert!(out.len() == start + bytes, "{} bytes in {sectors} sectors", out.len() - start);
}

/// Decodes the sector `bytes`, whose position in its file is `number`, and checks its checksum.
/// `salt` is the file's checksum seed.
pub(super) fn read(salt: u32, number: u32, bytes: &[u8]) -> Sector<'_> {
    assert!(bytes.len() == SECTOR_BYTES, "a sector of {} bytes", bytes.len());
    if field(bytes, 4) == MARK && field(bytes, 0) == checksum(salt, number, &bytes[4..]) {
        Sector::Written { block: field(bytes, 8), payload: &bytes[HEAD_BYTES..] }
    } else if bytes == ZEROS {
        Sector::Unwritten
    } else {
        Sector::Damaged
    }
}

/// Returns whether the sector was never written, although it is not valid: it is all zeros but for
/// one flipped bit. A written sector with a flipped bit has more bits set, because of its mark.
pub(super) fn is_blank_with_flipped_bit(bytes: &[u8]) -> bool {
    bytes.iter().map(|byte| byte.count_ones()).sum::<u32>() == 1
}

/// Decodes a sector without checking its checksum. Used only by a mutation test, which shows that
/// the tests detect the missing check.
pub(super) fn read_unchecked(bytes: &[u8]) -> Sector<'_> {
    assert!(bytes.len() == SECTOR_BYTES, "a sector of {} bytes", bytes.len());
    Sector::Written { block: field(bytes, 8), payload: &bytes[HEAD_BYTES..] }
}

fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn checksum(salt: u32, number: u32, covered: &[u8]) -> u32 {
    debug_assert!(covered.len() == SECTOR_BYTES - 4, "a checksum over {} bytes", covered.len());
    let position = crc32c::crc32c_append(salt, &number.to_le_bytes());
    crc32c::crc32c_append(position, covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_stream_round_trips_through_checksummed_sectors() {
        let stream: Vec<u8> = (0..1_200_u32).map(|number| (number % 251) as u8).collect();
        let mut bytes = Vec::new();
        seal(7, 3, 9, &stream, &mut bytes);
        assert_eq!(bytes.len(), sectors_for(stream.len()) * SECTOR_BYTES);
        let mut found = Vec::new();
        for (number, sector) in (3..).zip(bytes.chunks(SECTOR_BYTES)) {
            let Sector::Written { block: 9, payload } = read(7, number, sector) else {
                panic!("sector {number} is not valid")
            };
            found.extend_from_slice(payload);
        }
        assert_eq!(found[..stream.len()], stream);
        assert!(found[stream.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn any_flipped_bit_makes_a_sector_damaged() {
        for stream in [&[0; PAYLOAD_BYTES][..], &[0xFF; PAYLOAD_BYTES], b"x"] {
            let mut sector = Vec::new();
            seal(0, 1, 1, stream, &mut sector);
            for bit in 0..SECTOR_BYTES * 8 {
                sector[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(0, 1, &sector), Sector::Damaged, "bit {bit}");
                sector[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let mut zeros = [0; SECTOR_BYTES];
        assert_eq!(read(0, 1, &zeros), Sector::Unwritten);
        for bit in 0..SECTOR_BYTES * 8 {
            zeros[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(0, 1, &zeros), Sector::Damaged, "bit {bit}");
            zeros[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn sector_checksum_is_valid_only_at_its_own_position() {
        let mut sector = Vec::new();
        seal(5, 1, 1, b"x", &mut sector);
        assert!(matches!(read(5, 1, &sector), Sector::Written { .. }));
        assert_eq!(read(5, 2, &sector), Sector::Damaged);
        assert_eq!(read(6, 1, &sector), Sector::Damaged);
    }
}
