//! The segment file that the log appends to: its creation, and appends, which take one write and
//! one sync per block.

use crate::config::Mutant;

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::sector::{self, SECTOR_BYTES, offset_of, sectors_for};
use super::segment::{self, SegmentHeader};

/// Suffix of a log segment's file name until the segment's header is durable. Recovery deletes
/// files with this suffix.
pub(super) const UNFINISHED: &str = ".new";

/// Number of zero-filled sectors (256 KiB in total) that are written after a small log block (the
/// entries of one sync) if the space after the block has never been written. The first write to
/// preallocated space makes the next sync write the file system's journal as well, which costs a
/// second wait for the disk. With zeros written in advance, the syncs of the following blocks avoid
/// this wait and take a third less time. No zeros are written after large blocks, which would gain
/// little from them.
const AHEAD_SECTORS: u32 = 512;
const SMALL_BLOCK_BYTES: usize = 32 << 10;

/// Alignment in bytes of the memory buffer from which a log block (the entries of one sync) is
/// written with direct I/O.
const IMAGE_ALIGN: usize = 4_096;
/// Maximum capacity in bytes of the write buffer that is kept for the next log block (the entries
/// of one sync); a larger buffer is freed after the write.
const IMAGE_BYTES_KEPT: usize = 1 << 20;

/// The last segment file of the Raft log, to which new blocks are appended. A block holds the
/// entries of one sync.
///
/// Invariant, in sectors: `end <= written_end <= sectors`.
#[derive(Debug)]
pub(super) struct ActiveSegment<F> {
    file: F,
    number: u64,
    salt: u32,
    /// Length of the segment file in sectors.
    sectors: u32,
    /// Index of the sector at which the next block (the entries of one sync) starts: the first
    /// sector after the last block.
    end: u32,
    /// Index of the first sector that has never been written, with a block or with zeros, since the
    /// file was preallocated.
    written_end: u32,
    block_count: u32,
}

/// Where a recovered log segment ends: its last complete block (the entries of one sync), and the
/// sectors of a torn block after it, if any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail<'a> {
    /// Index of the first sector of the segment's last complete block (the entries of one sync);
    /// equal to `end` if the segment has no blocks.
    pub(super) last_block: u32,
    /// Contents of the sectors of the segment's last complete block (the entries of one sync), as
    /// read from the file.
    pub(super) last_image: &'a [u8],
    /// Index of the sector after the segment's last complete block (the entries of one sync).
    pub(super) end: u32,
    /// Index of the sector after a torn block: the entries of a sync that a power cut left
    /// incomplete; equal to `end` if there is no torn block.
    pub(super) torn_end: u32,
    pub(super) block_count: u32,
}

impl<F> ActiveSegment<F> {
    /// Creates the next segment file of the log, and makes its header and directory entry durable.
    pub(super) fn create<D: Disk<File = F>>(
        disk: &mut D,
        header: &SegmentHeader,
    ) -> Result<ActiveSegment<F>, StorageError> {
        let name = segment::file_name(header.number);
        let unfinished = format!("{name}{UNFINISHED}");
        let mut file = disk.create(&unfinished, offset_of(header.sectors)).map_err(io_error(
            disk,
            "create and preallocate",
            &unfinished,
        ))?;
        disk.write_at(&mut file, 0, &header.encode()).map_err(io_error(
            disk,
            "write",
            &unfinished,
        ))?;
        disk.sync(&mut file).map_err(io_error(disk, "sync", &unfinished))?;
        disk.rename(&unfinished, &name).map_err(io_error(disk, "rename", &unfinished))?;
        if disk.mutant() != Some(Mutant::UnsyncedSegmentName) {
            disk.sync_dir().map_err(io_error(disk, "sync", ""))?;
        }
        Ok(ActiveSegment {
            file,
            number: header.number,
            salt: header.salt(),
            sectors: header.sectors,
            end: 1,
            written_end: 1,
            block_count: 0,
        })
    }

    /// Opens the last segment of a recovered log for appends. If a power cut left an incomplete
    /// write at the end of the log, overwrites it with zeros, because new entries may be written
    /// only to empty sectors.
    pub(super) fn reopen<D: Disk<File = F>>(
        disk: &mut D,
        header: &SegmentHeader,
        tail: Tail<'_>,
    ) -> Result<ActiveSegment<F>, StorageError> {
        let Tail { last_block, last_image, end, torn_end, block_count } = tail;
        assert!(0 < last_block && last_block <= end, "block at {last_block}, end at {end}");
        assert!(end <= torn_end && torn_end <= header.sectors, "torn from {end} to {torn_end}");
        assert!(
            last_image.len() as u64 == offset_of(end - last_block),
            "{} bytes for the sectors from {last_block} to {end}",
            last_image.len()
        );
        let name = segment::file_name(header.number);
        let mut file = disk.open(&name).map_err(io_error(disk, "open", &name))?;
        // A failed sync may have dropped the last block, while a new process still reads it from
        // the page cache and syncs the file with success. So the block is written once more before
        // the sync, which then proves that it is durable. Only the last block can be affected.
        if disk.mutant() != Some(Mutant::TrustLastBlock) {
            disk.write_at(&mut file, offset_of(last_block), last_image).map_err(io_error(
                disk,
                "rewrite the last block of",
                &name,
            ))?;
        }
        if torn_end > end {
            let zeros = vec![0; (torn_end - end) as usize * SECTOR_BYTES];
            disk.write_at(&mut file, offset_of(end), &zeros).map_err(io_error(
                disk,
                "truncate the torn tail of",
                &name,
            ))?;
        }
        disk.sync(&mut file).map_err(io_error(disk, "sync", &name))?;
        Ok(ActiveSegment {
            file,
            number: header.number,
            salt: header.salt(),
            sectors: header.sectors,
            end,
            written_end: end,
            block_count,
        })
    }

    /// Returns the segment's number. The segments of a log are numbered from 1 without gaps.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the number of blocks in the segment. A block holds the entries of one sync.
    pub(super) fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Returns the number of bytes from the start of the segment file, header included, to the end
    /// of its last block (the entries of one sync).
    pub(super) fn used_bytes(&self) -> u64 {
        offset_of(self.end)
    }

    /// Returns the number of preallocated bytes after the segment's last block (the entries of one
    /// sync).
    pub(super) fn unused_bytes(&self) -> u64 {
        offset_of(self.sectors - self.end)
    }

    /// Returns whether a block (the entries of one sync) of `sectors` sectors fits into the rest of
    /// the segment.
    pub(super) fn fits(&self, sectors: usize) -> bool {
        sectors as u64 <= u64::from(self.sectors - self.end)
    }

    /// Writes a block (the log entries of one sync) and syncs the file. The caller must have
    /// checked with `fits` that the block fits. `stream` is the encoded block, `image` a reusable
    /// write buffer. Returns the number of bytes written, including any zeros after the block.
    pub(super) fn write_block<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        stream: &[u8],
        image: &mut Vec<u8>,
    ) -> Result<u64, StorageError> {
        let sectors = sectors_for(stream.len());
        assert!(self.fits(sectors), "{sectors} sectors at {} of {}", self.end, self.sectors);
        let first = self.end;
        let end = first + u32::try_from(sectors).expect("the block fits in the segment");
        let mut ahead = 0;
        if end > self.written_end {
            if sectors * SECTOR_BYTES <= SMALL_BLOCK_BYTES {
                ahead = (self.sectors - end).min(AHEAD_SECTORS);
            }
            self.written_end = end + ahead;
        }
        assert!(
            end <= self.written_end && self.written_end <= self.sectors,
            "block to {end}, zeros to {} in {} sectors",
            self.written_end,
            self.sectors
        );
        let bytes = (sectors + ahead as usize) * SECTOR_BYTES;
        image.clear();
        image.reserve(bytes + IMAGE_ALIGN);
        // Direct I/O needs an aligned address. The buffer does not move after the reservation
        // above.
        let start = image.as_ptr().align_offset(IMAGE_ALIGN).min(IMAGE_ALIGN);
        image.resize(start, 0);
        sector::seal(self.salt, first, self.block_count + 1, stream, image);
        image.resize(start + bytes, 0);
        disk.write_at(&mut self.file, offset_of(first), &image[start..])
            .map_err(|source| io_error(disk, "write", &segment::file_name(self.number))(source))?;
        let synced = disk.sync(&mut self.file);
        if disk.mutant() != Some(Mutant::IgnoreFailedSync) {
            synced.map_err(|source| {
                io_error(disk, "sync", &segment::file_name(self.number))(source)
            })?;
        }
        self.end = end;
        self.block_count += 1;
        if image.capacity() > IMAGE_BYTES_KEPT {
            *image = Vec::new();
        }
        Ok(bytes as u64)
    }
}
