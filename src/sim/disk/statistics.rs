//! Fault statistics of disks: how often each fault was injected, and which effects it had. Effects
//! are counted because a fault that never has an effect tests nothing.

use std::fmt::Write as _;

/// A fault of a disk or of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// A power cut: at random, each unsynced sector and each unsynced change of a file name is kept
    /// or lost.
    PowerCut,
    /// The process is killed. Its writes are not lost.
    Kill,
    /// A power cut keeps some sectors of an unsynced write and loses the others.
    TornWrite,
    /// A power cut loses a whole write that was not synced.
    LostUnsynced,
    /// A power cut undoes the creation or renaming of a file whose folder was not synced.
    NameLost,
    /// A power cut brings a deleted file back, because the folder was not synced.
    NameBack,
    /// A write fails after a part of its bytes was written.
    FailedWrite,
    /// A sync fails, and the unsynced data is dropped.
    FailedSync,
    /// An operation on file names fails: creating, renaming or deleting a file, or syncing the
    /// folder.
    FailedNames,
    /// The disk is full for a while.
    FullDisk,
    /// A power cut or a failed operation while a replica is opening its folder at a start.
    CutOpening,
    /// All syncs of a disk are slow, until the fault ends.
    SlowDisk,
    /// A sync takes longer than any election.
    Stall,
    /// A bit of a file is flipped while the replica is down.
    FlippedBit,
    /// A synced sector is lost: it reads as zeros.
    LostWrite,
    /// A synced sector has been written at the wrong position, in the same or another file.
    MisdirectedWrite,
    /// A file whose name was synced is gone.
    VanishedFile,
    /// A write to a snapshot file stores wrong bytes, but the disk reports no error: a bit is
    /// flipped, or a sector is lost or misdirected.
    BadSnapshotWrite,
    /// A snapshot file is corrupted while its replica is running and may be sending the snapshot.
    CorruptSnapshot,
    /// The replica is started from an old copy of its whole folder.
    OldCopy,
    /// The replica is started with old copies of some of its files.
    OldFiles,
}

/// The effect that an injected disk fault had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultEffect {
    /// The process stopped because of a failed disk operation, after which the content of its disk
    /// is unknown.
    Stopped,
    /// At the next start after the fault, the replica's folder was opened without any loss.
    Intact,
    /// At the next start after the fault, the replica removed a torn (incompletely written) block
    /// from the end of its log.
    TailRemoved,
    /// The replica's folder was refused at a start, with an error that names the damage.
    Refused,
    /// A folder that had been refused was opened after its files had been restored.
    Restored,
    /// The replica started from the snapshot before the latest one.
    OlderSnapshot,
    /// The replica abandoned writing or installing a snapshot, with no other consequence.
    Abandoned,
    /// A follower rejected a snapshot. The leader found that its own copy was damaged, and took a
    /// new snapshot.
    Replaced,
    /// The replica started again after the fault, and then installed a leader's snapshot.
    CaughtUp,
    /// All peers rejected the replica, which was started from an old copy of its folder.
    Rejected,
}

impl DiskFault {
    /// All disk faults, in the order in which [`FaultStatistics::table`] prints them.
    pub const ALL: [DiskFault; 21] = [
        DiskFault::PowerCut,
        DiskFault::Kill,
        DiskFault::TornWrite,
        DiskFault::LostUnsynced,
        DiskFault::NameLost,
        DiskFault::NameBack,
        DiskFault::FailedWrite,
        DiskFault::FailedSync,
        DiskFault::FailedNames,
        DiskFault::FullDisk,
        DiskFault::CutOpening,
        DiskFault::SlowDisk,
        DiskFault::Stall,
        DiskFault::FlippedBit,
        DiskFault::LostWrite,
        DiskFault::MisdirectedWrite,
        DiskFault::VanishedFile,
        DiskFault::BadSnapshotWrite,
        DiskFault::CorruptSnapshot,
        DiskFault::OldCopy,
        DiskFault::OldFiles,
    ];

    /// Returns the name of the fault in the printed table.
    pub fn name(self) -> &'static str {
        match self {
            DiskFault::PowerCut => "power cuts",
            DiskFault::Kill => "kills",
            DiskFault::TornWrite => "torn writes",
            DiskFault::LostUnsynced => "unsynced writes lost",
            DiskFault::NameLost => "file names lost",
            DiskFault::NameBack => "deletions undone",
            DiskFault::FailedWrite => "failed writes",
            DiskFault::FailedSync => "failed syncs",
            DiskFault::FailedNames => "failed renames",
            DiskFault::FullDisk => "full disks",
            DiskFault::CutOpening => "interrupted openings",
            DiskFault::SlowDisk => "slow disks",
            DiskFault::Stall => "stalled syncs",
            DiskFault::FlippedBit => "flipped bits",
            DiskFault::LostWrite => "synced writes lost",
            DiskFault::MisdirectedWrite => "misdirected writes",
            DiskFault::VanishedFile => "vanished files",
            DiskFault::BadSnapshotWrite => "bad snapshot writes",
            DiskFault::CorruptSnapshot => "corrupt snapshots",
            DiskFault::OldCopy => "old folders",
            DiskFault::OldFiles => "old files",
        }
    }

    /// Returns whether the fault changes stored contents of files, as opposed to disturbing an
    /// operation in progress.
    pub fn is_damage(self) -> bool {
        use DiskFault::{
            CorruptSnapshot, FlippedBit, LostWrite, MisdirectedWrite, OldFiles, VanishedFile,
        };
        matches!(
            self,
            FlippedBit | LostWrite | MisdirectedWrite | OldFiles | CorruptSnapshot | VanishedFile
        )
    }
}

impl FaultEffect {
    /// All effects of disk faults, in the order in which [`FaultStatistics::table`] prints them.
    pub const ALL: [FaultEffect; 10] = [
        FaultEffect::Stopped,
        FaultEffect::Intact,
        FaultEffect::TailRemoved,
        FaultEffect::Refused,
        FaultEffect::Restored,
        FaultEffect::OlderSnapshot,
        FaultEffect::Abandoned,
        FaultEffect::Replaced,
        FaultEffect::CaughtUp,
        FaultEffect::Rejected,
    ];

    /// Returns the name of the effect in the printed table.
    pub fn name(self) -> &'static str {
        match self {
            FaultEffect::Stopped => "stopped",
            FaultEffect::Intact => "intact",
            FaultEffect::TailRemoved => "torn tail",
            FaultEffect::Refused => "refused",
            FaultEffect::Restored => "restored",
            FaultEffect::OlderSnapshot => "older",
            FaultEffect::Abandoned => "abandoned",
            FaultEffect::Replaced => "replaced",
            FaultEffect::CaughtUp => "caught up",
            FaultEffect::Rejected => "rejected",
        }
    }
}

/// Counts of the injected disk faults by type, and of their effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStatistics {
    injected: [u64; DiskFault::ALL.len()],
    effects: [[u64; FaultEffect::ALL.len()]; DiskFault::ALL.len()],
    /// Number of faults that occurred during a log restart, a compaction or the write of a
    /// snapshot.
    pub interrupted_compactions: u64,
    /// Number of log restarts after a snapshot. A restart is not a fault, but an operation during
    /// which faults must occur to test it.
    pub restarts: u64,
    /// Number of log segments that compaction deleted.
    pub segments_deleted: u64,
    /// Number of snapshots that replicas took of their own state, in runs with the real storage
    /// code.
    pub snapshots_taken: u64,
    /// Number of snapshots that replicas installed from leaders, in runs with the real storage
    /// code.
    pub snapshots_installed: u64,
}

impl FaultStatistics {
    /// Adds `count` to the number of injected faults of type `kind`.
    pub fn inject(&mut self, kind: DiskFault, count: u64) {
        self.injected[kind as usize] += count;
    }

    /// Adds one to the number of times that a fault of type `kind` had this effect.
    pub fn cause(&mut self, kind: DiskFault, effect: FaultEffect) {
        self.effects[kind as usize][effect as usize] += 1;
    }

    /// Returns the number of injected faults of type `kind`.
    pub fn injected(&self, kind: DiskFault) -> u64 {
        self.injected[kind as usize]
    }

    /// Returns how often a fault of type `kind` had this effect.
    pub fn caused(&self, kind: DiskFault, effect: FaultEffect) -> u64 {
        self.effects[kind as usize][effect as usize]
    }

    /// Returns whether no disk fault was injected.
    pub fn is_empty(&self) -> bool {
        self.injected.iter().all(|&count| count == 0)
    }

    /// Adds the counts of another disk or run to these counts.
    pub fn add(&mut self, other: &FaultStatistics) {
        for kind in DiskFault::ALL {
            self.injected[kind as usize] += other.injected(kind);
            for effect in FaultEffect::ALL {
                self.effects[kind as usize][effect as usize] += other.caused(kind, effect);
            }
        }
        self.interrupted_compactions += other.interrupted_compactions;
        self.restarts += other.restarts;
        self.segments_deleted += other.segments_deleted;
        self.snapshots_taken += other.snapshots_taken;
        self.snapshots_installed += other.snapshots_installed;
    }

    /// Returns a text table with a row per fault and a column per effect, followed by a line about
    /// snapshots and compaction.
    pub fn table(&self) -> String {
        let mut text = format!("{:<22}{:>10}", "", "injected");
        for effect in FaultEffect::ALL {
            let _ = write!(text, "{:>10}", effect.name());
        }
        for kind in DiskFault::ALL {
            let _ = write!(text, "\n{:<22}{:>10}", kind.name(), self.injected(kind));
            for effect in FaultEffect::ALL {
                match self.caused(kind, effect) {
                    0 => text.push_str("         -"),
                    count => {
                        let _ = write!(text, "{count:>10}");
                    }
                }
            }
        }
        let _ = write!(
            text,
            "\n{} snapshots taken and {} installed in files; {} log restarts, {} segments deleted; \
             {} of these interrupted by a fault",
            self.snapshots_taken,
            self.snapshots_installed,
            self.restarts,
            self.segments_deleted,
            self.interrupted_compactions
        );
        text
    }
}
