//! Reads and verifies backup files. Their contents are untrusted: no input causes a panic, and
//! memory usage does not depend on lengths stored in the file.

use std::io::{ErrorKind, Read};

use super::{
    BACKUP_VERSION, BLOCK_BYTES, BackupError, BackupHeader, BackupSummary, CHECKSUM_BYTES,
    HEADER_BYTES, MAGIC, TRAILER_BYTES, TRAILER_MAGIC,
};
use crate::kv::SnapshotMark;
use crate::types::EntryId;

/// A streaming reader of backup files, which verifies every byte. Holds at most one block in
/// memory.
#[derive(Debug)]
pub struct BackupReader<R> {
    input: R,
    header: BackupHeader,
    /// Bytes of the current block, with the checksum.
    block: Vec<u8>,
    /// Number of bytes of the snapshot that have not been read yet.
    left: u64,
    block_count: u64,
    /// Number of bytes of the file read so far.
    at: u64,
    /// CRC-32C of all bytes of the file read so far, except the stored checksums.
    checksum: u32,
}

impl<R: Read> BackupReader<R> {
    /// Reads and verifies the header of a backup file.
    ///
    /// # Errors
    /// If the file cannot be read, or does not begin with an intact header of this format version.
    pub fn new(mut input: R) -> Result<BackupReader<R>, BackupError> {
        let mut bytes = [0; HEADER_BYTES];
        let length = fill(&mut input, &mut bytes)?;
        let known = length.min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(BackupError::Magic);
        }
        let at = length as u64;
        if length < HEADER_BYTES {
            return Err(BackupError::Truncated { at });
        }
        let Some(checksum) = verified(0, &bytes) else { return Err(BackupError::Header) };
        let mut fields = Fields(&bytes[MAGIC.len()..]);
        let found = u32::from_le_bytes(fields.take());
        if found != BACKUP_VERSION {
            return Err(BackupError::Version { found });
        }
        let cluster_fingerprint = u128::from_le_bytes(fields.take());
        let created_at = u64::from_le_bytes(fields.take());
        let last =
            EntryId::new(u64::from_le_bytes(fields.take()), u64::from_le_bytes(fields.take()));
        let (bytes, of_snapshot) =
            (u64::from_le_bytes(fields.take()), u32::from_le_bytes(fields.take()));
        let snapshot = SnapshotMark { last, bytes, checksum: of_snapshot };
        let header = BackupHeader { cluster_fingerprint, created_at, snapshot };
        let block = Vec::new();
        Ok(BackupReader { input, header, block, left: bytes, block_count: 0, at, checksum })
    }

    /// Returns the verified header.
    pub fn header(&self) -> BackupHeader {
        self.header
    }

    /// Reads and verifies the next block, and returns its part of the snapshot. Returns `None`
    /// after the last block; the caller must then call [`BackupReader::finish`].
    ///
    /// # Errors
    /// If the file cannot be read, is truncated, or the block is damaged.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, BackupError> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        if length == 0 {
            return Ok(None);
        }
        let at = self.at;
        self.block.resize(length + CHECKSUM_BYTES, 0);
        let found = fill(&mut self.input, &mut self.block)?;
        self.at += found as u64;
        if found < self.block.len() {
            return Err(BackupError::Truncated { at: self.at });
        }
        self.checksum = verified(self.checksum, &self.block).ok_or(BackupError::Block { at })?;
        self.left -= length as u64;
        self.block_count += 1;
        Ok(Some(&self.block[..length]))
    }

    /// Reads and verifies the trailer, and checks that the file ends after it. Returns the summary
    /// of the file.
    ///
    /// # Errors
    /// If the file cannot be read, is truncated, damaged or too long.
    ///
    /// # Panics
    /// If not all blocks have been read.
    pub fn finish(mut self) -> Result<BackupSummary, BackupError> {
        assert!(self.left == 0, "{} bytes of the snapshot were not read", self.left);
        let at = self.at;
        let mut bytes = [0; TRAILER_BYTES];
        let found = fill(&mut self.input, &mut bytes)?;
        self.at += found as u64;
        if found < TRAILER_BYTES {
            return Err(BackupError::Truncated { at: self.at });
        }
        let Some(checksum) = verified(self.checksum, &bytes) else {
            return Err(BackupError::Trailer { at });
        };
        let mut fields = Fields(&bytes);
        let (magic, length) = (fields.take::<16>(), u64::from_le_bytes(fields.take()));
        let block_count = u64::from_le_bytes(fields.take());
        let BackupReader { mut input, header, .. } = self;
        if magic != *TRAILER_MAGIC
            || length != header.snapshot.bytes
            || block_count != self.block_count
        {
            return Err(BackupError::Trailer { at });
        }
        let file_bytes = self.at;
        if fill(&mut input, &mut [0])? > 0 {
            return Err(BackupError::Longer { at: file_bytes });
        }
        Ok(BackupSummary { header, block_count, file_bytes, checksum })
    }
}

/// Extends `before`, the cumulative checksum of the preceding parts of the file, by `part`, and
/// compares it with the checksum stored at the end of `part`. Returns the extended checksum; `None`
/// if they differ.
fn verified(before: u32, part: &[u8]) -> Option<u32> {
    let (covered, stored) = part.split_last_chunk::<CHECKSUM_BYTES>()?;
    let checksum = crc32c::crc32c_append(before, covered);
    (checksum.to_le_bytes() == *stored).then_some(checksum)
}

/// Reads until `bytes` is full or the input ends. Returns the number of bytes read.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<usize, BackupError> {
    let mut length = 0;
    while length < bytes.len() {
        match input.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(BackupError::Io(error)),
        }
    }
    Ok(length)
}

/// The part of the header or trailer that has not been decoded yet.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    /// Decodes the next `LENGTH` bytes. Panics if there are not as many left.
    fn take<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let (field, rest) = self.0.split_first_chunk().expect("the length of the part is fixed");
        self.0 = rest;
        *field
    }
}
