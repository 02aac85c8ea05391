//! The contents of one file of a [`MemDisk`](super::MemDisk): what a power cut can leave of it, and
//! how an append can be corrupted.

use std::collections::BTreeMap;

use super::{AppendFault, DiskFaultCounts, SECTOR_BYTES};

/// Contents of a simulated file, which may have several names or none, as an inode in a file
/// system.
///
/// Invariant: while `unsynced` and `lengths` are empty, `durable` equals `live`, unless a sync
/// failed or was ignored.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// The file's current contents as reads return them, including unsynced writes.
    pub(super) live: Vec<u8>,
    /// The file's synced contents, which survive a power cut. Some unsynced writes may survive as
    /// well.
    pub(super) durable: Vec<u8>,
    /// Byte offset and contents of each write since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Length of the file in bytes after each unsynced append, in order.
    lengths: Vec<usize>,
}

impl Inode {
    /// Returns a file with the contents `bytes`, all of them durable.
    pub(super) fn durable(bytes: Vec<u8>) -> Inode {
        Inode { durable: bytes.clone(), live: bytes, ..Inode::default() }
    }

    /// Returns a file with the contents `bytes`, none of them durable yet.
    pub(super) fn unsynced(bytes: Vec<u8>) -> Inode {
        Inode { live: bytes, ..Inode::default() }
    }

    pub(super) fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        assert!(end <= self.live.len(), "a write to {end} in a file of {}", self.live.len());
        self.live[offset..end].copy_from_slice(bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    pub(super) fn append(&mut self, bytes: Vec<u8>) {
        let offset = self.live.len();
        self.live.extend_from_slice(&bytes);
        self.unsynced.push((offset, bytes));
        assert!(self.lengths.last().is_none_or(|&before| before <= offset), "the file shrank");
        self.lengths.push(self.live.len());
    }

    /// Makes all writes to the file durable.
    pub(super) fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        self.lengths.clear();
        for (offset, bytes) in self.unsynced.drain(..) {
            let end = offset + bytes.len();
            assert!(end <= self.durable.len(), "a write to {end} behind the file's end");
            self.durable[offset..end].copy_from_slice(&bytes);
        }
    }

    /// Simulates a failed sync (fsync), after which a file system marks its dirty pages clean:
    /// reads still return the unsynced writes, but no later sync makes them durable.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
        self.lengths.clear();
    }

    /// Corrupts `bytes`, which are about to be appended to the file, as `fault` specifies.
    pub(super) fn corrupt(&mut self, fault: AppendFault, bytes: &mut [u8]) {
        assert!(!bytes.is_empty(), "an append of nothing cannot be corrupted");
        match fault {
            AppendFault::FlippedBit => bytes[bytes.len() / 2] ^= 4,
            AppendFault::Lost => bytes.fill(0),
            AppendFault::Misdirected => {
                let there = bytes.len().min(self.live.len());
                self.live[..there].copy_from_slice(&bytes[..there]);
                self.unsynced.push((0, bytes[..there].to_vec()));
                bytes.fill(0);
            }
        }
    }

    /// Simulates a power cut. If n unsynced writes touch a sector, the first k of them become
    /// durable and the others are lost; `choose(n + 1)` returns k. Adds the numbers of lost and
    /// torn writes to `counts`.
    pub(super) fn lose_power(
        &mut self,
        choose: &mut dyn FnMut(usize) -> usize,
        counts: &mut DiskFaultCounts,
    ) {
        let lengths = std::mem::take(&mut self.lengths);
        if !lengths.is_empty() {
            // The length is stored apart from the contents: bytes that are missing read as zeros.
            let made = choose(lengths.len() + 1);
            assert!(made <= lengths.len(), "length {made} of {} was chosen", lengths.len());
            self.durable
                .resize(made.checked_sub(1).map_or(self.durable.len(), |at| lengths[at]), 0);
        } else if self.durable.len() < self.live.len()
            && (!self.durable.is_empty() || choose(2) == 1)
        {
            self.durable.resize(self.live.len(), 0);
        }
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (write, (offset, bytes)) in self.unsynced.iter().enumerate() {
            let end = offset + bytes.len();
            for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                touched.entry(sector).or_default().push(write);
            }
        }
        // For each write, the number of its sectors that are kept, and of all its sectors.
        let mut kept = vec![(0, 0); self.unsynced.len()];
        for (sector, writes) in touched {
            let made = choose(writes.len() + 1);
            assert!(made <= writes.len(), "write {made} of {} was chosen", writes.len());
            for (place, &write) in writes.iter().enumerate() {
                kept[write].0 += usize::from(place < made);
                kept[write].1 += 1;
            }
            for &write in writes.iter().take(made) {
                let (offset, bytes) = &self.unsynced[write];
                let from = (sector * SECTOR_BYTES).max(*offset);
                let to = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len());
                let to = to.min(self.durable.len());
                if from < to {
                    self.durable[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
        }
        for (kept, touched) in kept {
            counts.lost += u64::from(kept == 0 && touched > 0);
            counts.torn += u64::from(kept > 0 && kept < touched);
        }
        self.unsynced.clear();
        self.live.clone_from(&self.durable);
        assert!(self.lengths.is_empty(), "lengths are left: {:?}", self.lengths);
    }
}
