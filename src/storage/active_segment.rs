//! The segment file that the log appends to: its creation, and one write and one sync per block.

use crate::config::Mutant;

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::sector::{self, SECTOR_BYTES, offset_of, sectors_for};
use super::segment::{self, SegmentHeader};

/// Suffix of a segment's name before its header is durable.
pub(super) const UNFINISHED: &str = ".new";

/// A file system allocates space without writing it, and records in its journal when a range is
/// first written: a sync then costs a second write and a second wait. So a small block is followed
/// by zeros, and the next blocks find their range written: their syncs take two thirds of the time.
/// Large blocks would gain little for twice the bytes.
const AHEAD_SECTORS: u32 = 512;
const SMALL_BLOCK_BYTES: usize = 32 << 10;

/// Alignment of a block's sectors in memory, for direct I/O.
const IMAGE_ALIGN: usize = 4_096;
/// Most bytes of the image buffer that are kept from one block to the next.
const IMAGE_BYTES_KEPT: usize = 1 << 20;

/// The last segment of a log, open for writing.
///
/// Invariant: `end <= written_end <= sectors`.
#[derive(Debug)]
pub(super) struct ActiveSegment<F> {
    file: F,
    number: u64,
    salt: u32,
    /// Length of the file in sectors.
    sectors: u32,
    /// The sector after the last block.
    end: u32,
    /// All sectors before this one have been written, with blocks or with zeros.
    written_end: u32,
    block_count: u32,
}

/// Where the blocks of a recovered segment end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail<'a> {
    /// The first sector of the last block; equal to `end` without blocks.
    pub(super) last_block: u32,
    /// The sectors of the last block.
    pub(super) last_image: &'a [u8],
    /// The sector after the last block.
    pub(super) end: u32,
    /// The sector after the last torn one; equal to `end` if nothing was torn.
    pub(super) torn_end: u32,
    pub(super) block_count: u32,
}

impl<F> ActiveSegment<F> {
    /// Creates a segment file, durable with its header and its name.
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

    /// Opens the last segment of a recovered log. Overwrites a torn tail with zeros, so that the
    /// next block is written to unwritten sectors like any other.
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
        // the page cache and syncs the file with success. So the block is written once more, and
        // then the sync proves something. Only the last block can be affected.
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

    /// Number of the segment.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Number of blocks in the segment.
    pub(super) fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Bytes before the end of the last block, header included.
    pub(super) fn used_bytes(&self) -> u64 {
        offset_of(self.end)
    }

    /// Bytes after the last block.
    pub(super) fn unused_bytes(&self) -> u64 {
        offset_of(self.sectors - self.end)
    }

    /// Whether a block of this many sectors fits.
    pub(super) fn fits(&self, sectors: usize) -> bool {
        sectors as u64 <= u64::from(self.sectors - self.end)
    }

    /// Writes and syncs a block, which must fit; returns the bytes written, zeros ahead included.
    /// `image` is a buffer to be reused.
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
        // Direct I/O needs an aligned address. The reservation above keeps it.
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
