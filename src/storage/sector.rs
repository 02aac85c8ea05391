//! The unit of all files: 512 bytes that a disk writes whole or not at all, each with a checksum
//! of its own.
//!
//! ```text
//!  0        4        8        12 ..                            512
//!  +--------+--------+--------+--------------------------------+
//!  | crc32c |  mark  | block  | 500 bytes of the block's stream |
//!  +--------+--------+--------+--------------------------------+
//! ```
//!
//! Little endian. The checksum covers all behind it, and where the sector stands: file and number
//! go in as its start, so a sector written to the wrong place, or left from another file, is
//! not valid there.
//!
//! Files are made of zeros before anything is written into them, and no sector that holds something
//! is written again. So after a power cut a sector is either all zeros, which means that its write
//! never happened, or valid. Anything else was damaged later. No flipped bit turns one into the
//! other: `mark` has many bits set, so a valid sector is far from zeros, and zeros with one bit set
//! are not valid. That is how a torn tail, which may be cut, is told from damage, which may not.

/// Bytes of a sector. Disks with larger ones write several of ours whole.
pub(super) const SECTOR_BYTES: usize = 512;
/// Bytes of a sector that are the block's.
pub(super) const PAYLOAD_BYTES: usize = SECTOR_BYTES - HEAD_BYTES;
const HEAD_BYTES: usize = 12;
/// What was never written. Compared as a whole: most of a young log is that.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
const MARK: u32 = 0x4C57_4F42;

/// What a sector's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sector<'a> {
    /// Zeros: preallocated and never written.
    Unwritten,
    /// As it was written.
    Written {
        /// The number of the block that it belongs to, within its file.
        block: u32,
        /// That block's bytes.
        payload: &'a [u8],
    },
    /// Neither.
    Damaged,
}

/// How many sectors a stream of so many bytes fills.
pub(super) const fn sectors_for(stream_bytes: usize) -> usize {
    stream_bytes.div_ceil(PAYLOAD_BYTES)
}

/// Adds a block's stream to `out` as sectors from `first` on, the last one filled with zeros.
pub(super) fn seal(salt: u32, first: u32, block: u32, stream: &[u8], out: &mut Vec<u8>) {
    out.reserve(sectors_for(stream.len()) * SECTOR_BYTES);
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
}

/// Looks at the sector `number` of a file.
pub(super) fn read(salt: u32, number: u32, bytes: &[u8]) -> Sector<'_> {
    assert!(bytes.len() == SECTOR_BYTES, "a sector of {} bytes", bytes.len());
    let word = |at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were asked for"))
    };
    if word(4) == MARK && word(0) == checksum(salt, number, &bytes[4..]) {
        Sector::Written { block: word(8), payload: &bytes[HEAD_BYTES..] }
    } else if bytes == ZEROS {
        Sector::Unwritten
    } else {
        Sector::Damaged
    }
}

/// What it would be if nobody looked at its checksum: the rule that a mutant breaks.
pub(super) fn read_unchecked(bytes: &[u8]) -> Sector<'_> {
    let block = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes were asked for"));
    Sector::Written { block, payload: &bytes[HEAD_BYTES..] }
}

fn checksum(salt: u32, number: u32, covered: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(salt, &number.to_le_bytes());
    crc32c::crc32c_append(place, covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_back_from_its_sectors() {
        let stream: Vec<u8> = (0..1_200_u32).map(|number| (number % 251) as u8).collect();
        let mut bytes = Vec::new();
        seal(7, 3, 9, &stream, &mut bytes);
        assert_eq!(bytes.len(), sectors_for(stream.len()) * SECTOR_BYTES);
        let mut found = Vec::new();
        for (number, sector) in (3..).zip(bytes.chunks(SECTOR_BYTES)) {
            let Sector::Written { block: 9, payload } = read(7, number, sector) else {
                panic!("sector {number} is not as it was written")
            };
            found.extend_from_slice(payload);
        }
        assert_eq!(found[..stream.len()], stream);
        assert!(found[stream.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn no_flipped_bit_makes_one_state_another() {
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
    fn a_sector_is_valid_at_its_own_place_only() {
        let mut sector = Vec::new();
        seal(5, 1, 1, b"x", &mut sector);
        assert!(matches!(read(5, 1, &sector), Sector::Written { .. }));
        assert_eq!(read(5, 2, &sector), Sector::Damaged);
        assert_eq!(read(6, 1, &sector), Sector::Damaged);
    }
}
