//! Writes backup files.

use std::io::{self, Write};

use super::{
    BACKUP_VERSION, BLOCK_BYTES, BackupHeader, BackupSummary, HEADER_BYTES, MAGIC, TRAILER_BYTES,
    TRAILER_MAGIC,
};

/// A streaming writer of backup files. It receives the snapshot in pieces of any size, and holds at
/// most one block in memory.
///
/// Invariant: `left` is the number of bytes of the snapshot still to be received.
#[derive(Debug)]
pub struct BackupWriter<W> {
    output: W,
    header: BackupHeader,
    block: Vec<u8>,
    left: u64,
    block_count: u64,
    /// Number of bytes of the file written so far.
    file_bytes: u64,
    /// CRC-32C of all bytes of the file written so far, except the stored checksums.
    checksum: u32,
}

impl<W: Write> BackupWriter<W> {
    /// Starts a backup file: writes its header.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn new(output: W, header: BackupHeader) -> io::Result<BackupWriter<W>> {
        let BackupHeader { cluster_fingerprint, created_at, snapshot } = header;
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&BACKUP_VERSION.to_le_bytes());
        bytes.extend_from_slice(&cluster_fingerprint.to_le_bytes());
        bytes.extend_from_slice(&created_at.to_le_bytes());
        bytes.extend_from_slice(&snapshot.last.term.0.to_le_bytes());
        bytes.extend_from_slice(&snapshot.last.index.0.to_le_bytes());
        bytes.extend_from_slice(&snapshot.bytes.to_le_bytes());
        bytes.extend_from_slice(&snapshot.checksum.to_le_bytes());
        let mut writer = BackupWriter {
            output,
            header,
            block: Vec::with_capacity(BLOCK_BYTES),
            left: snapshot.bytes,
            block_count: 0,
            file_bytes: 0,
            checksum: 0,
        };
        writer.write_with_checksum(&bytes)?;
        assert!(writer.file_bytes == HEADER_BYTES as u64, "a header of {}", writer.file_bytes);
        Ok(writer)
    }

    /// Appends the next bytes of the snapshot.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If the snapshot is longer than the header says.
    pub fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        let length = piece.len() as u64;
        assert!(length <= self.left, "{length} more bytes instead of {}", self.left);
        self.left -= length;
        while !piece.is_empty() {
            let fits = piece.len().min(BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&piece[..fits]);
            piece = &piece[fits..];
            if self.block.len() == BLOCK_BYTES {
                self.write_block()?;
            }
        }
        Ok(())
    }

    /// Writes the trailer after the last byte of the snapshot, and flushes the output. Returns the
    /// output and the summary of the file.
    ///
    /// # Errors
    /// If the trailer cannot be written.
    ///
    /// # Panics
    /// If the snapshot is shorter than the header says.
    pub fn finish(mut self) -> io::Result<(W, BackupSummary)> {
        assert!(self.left == 0, "{} bytes of the snapshot are missing", self.left);
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(TRAILER_MAGIC);
        trailer.extend_from_slice(&self.header.snapshot.bytes.to_le_bytes());
        trailer.extend_from_slice(&self.block_count.to_le_bytes());
        self.write_with_checksum(&trailer)?;
        self.output.flush()?;
        let BackupWriter { output, header, block_count, file_bytes, checksum, .. } = self;
        Ok((output, BackupSummary { header, block_count, file_bytes, checksum }))
    }

    fn write_block(&mut self) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        self.write_with_checksum(&block)?;
        self.block_count += 1;
        block.clear();
        self.block = block;
        Ok(())
    }

    fn write_with_checksum(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.output.write_all(bytes)?;
        self.output.write_all(&self.checksum.to_le_bytes())?;
        self.file_bytes += (bytes.len() + super::CHECKSUM_BYTES) as u64;
        Ok(())
    }
}
