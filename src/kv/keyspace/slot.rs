//! The hash slot of a key as in Redis Cluster: CRC16 (XMODEM: polynomial 0x1021, initial value 0)
//! of the key, or of its hash tag, modulo 16,384. All slots belong to one Raft group, but clients
//! and a few commands need a key's slot number.

/// Number of hash slots in Redis Cluster.
pub const SLOT_COUNT: u16 = 16_384;

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

/// Returns the index of a key's hash slot, as in Redis Cluster.
pub fn slot_of(key: &[u8]) -> u16 {
    let crc = tag_of(key).iter().fold(0_u16, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) ^ u16::from(*byte)) & 0xFF]
    });
    crc % SLOT_COUNT
}

/// Returns the part of a key that determines its Redis Cluster hash slot. This is the hash tag,
/// which is the text between the first `{` and the next `}`, or the whole key if there is no hash
/// tag or it is empty.
fn tag_of(key: &[u8]) -> &[u8] {
    let tag = || {
        let behind = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
        let length = behind.iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &behind[..length])
    };
    tag().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_slots_match_redis() {
        // The standard check value of CRC16/XMODEM.
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"a{b{c}d}"), slot_of(b"b{c"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }
}
