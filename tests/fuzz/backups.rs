//! Fuzzes backup files: any bytes are read as a file, also with correct checksums, because a
//! fuzzer cannot guess checksums. The encoding follows the drawing in `src/backup/mod.rs`,
//! independently of the code under test.

use bowline::backup::{BackupReader, BackupSummary, BackupWriter};

const HEADER: usize = 76;
const BLOCK: usize = 65_536;
const TRAILER: usize = 36;
/// Offset in the header of the snapshot's length.
const LENGTH_AT: usize = 60;

/// The entry point of the fuzzer.
pub(crate) fn backup(bytes: &[u8]) {
    checked(bytes);
    checked(&mended(bytes));
}

/// Reads a backup file. If it is accepted, writing its contents again must lead to the same file.
fn checked(bytes: &[u8]) {
    let Ok(mut reader) = BackupReader::new(bytes) else { return };
    let mut writer = BackupWriter::new(Vec::new(), reader.header()).expect("memory is writable");
    loop {
        match reader.next_block() {
            Ok(Some(block)) => writer.write(block).expect("memory is writable"),
            Ok(None) => break,
            Err(error) => {
                assert!(error.to_string().contains("at byte"), "{error}");
                return;
            }
        }
    }
    let Ok(summary) = reader.finish() else { return };
    let (again, written): (Vec<u8>, BackupSummary) = writer.finish().expect("memory is writable");
    assert_eq!(again, bytes);
    assert_eq!(written, summary);
}

/// Returns the bytes with the magic number, the version and correct checksums, as far as they go.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < HEADER {
        return bytes;
    }
    bytes[..20].copy_from_slice(b"bowline backup\n\0\x01\0\0\0");
    let length = bytes[LENGTH_AT..LENGTH_AT + 8].try_into().expect("eight bytes");
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    let block = |number: usize| (length - number * BLOCK).min(BLOCK) + 4;
    let blocks = (0..length.div_ceil(BLOCK)).map(block);
    let (mut at, mut checksum) = (0, 0);
    for part in std::iter::once(HEADER).chain(blocks).chain([TRAILER]) {
        let Some(found) = bytes.get_mut(at..at + part) else { break };
        let (covered, stored) = found.split_at_mut(part - 4);
        checksum = crc32c::crc32c_append(checksum, covered);
        stored.copy_from_slice(&checksum.to_le_bytes());
        at += part;
    }
    bytes
}
