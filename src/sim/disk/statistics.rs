//! Fault statistics of disks: how often each fault was injected, and which effects it had. Both are
//! counted, as a fault that never has an effect tests nothing.

use std::fmt::Write as _;

/// A fault of a disk or of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// A power cut: each unsynced sector and file name is on the disk or is lost.
    PowerCut,
    /// The process is killed. Its writes stay.
    Kill,
    /// A power cut keeps only some sectors of a write.
    TornWrite,
    /// A power cut loses a write.
    LostUnsynced,
    /// A power cut undoes the creation or renaming of a file.
    NameLost,
    /// A power cut brings a deleted file back.
    NameBack,
    /// A write fails after a part of it.
    FailedWrite,
    /// A sync fails, and the data is dropped.
    FailedSync,
    /// Creating, renaming or deleting a file, or syncing the folder, fails.
    FailedNames,
    /// The disk is full for a while.
    FullDisk,
    /// A power cut or a failed operation while the folder is opened.
    CutOpening,
    /// All syncs are slow.
    SlowDisk,
    /// A sync takes longer than any election.
    Stall,
    /// A bit of a file is flipped while the replica is down.
    FlippedBit,
    /// A synced sector reads as zeros.
    LostWrite,
    /// A synced sector is at the wrong position, in the same or another file.
    MisdirectedWrite,
    /// A file whose name was synced is gone.
    VanishedFile,
    /// A write of a snapshot is silently wrong: flipped, lost, or misdirected.
    BadSnapshotWrite,
    /// A snapshot is corrupted while its replica runs, possibly while it is being sent.
    CorruptSnapshot,
    /// An old copy of the whole folder is put back.
    OldCopy,
    /// Old copies of some files are put back.
    OldFiles,
}

/// The effect of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultEffect {
    /// The process stopped because the content of its disk was unknown.
    Stopped,
    /// The folder was opened without any loss.
    Intact,
    /// A torn tail of the log was removed when the folder was opened.
    TailRemoved,
    /// The folder was refused with an error that names the damage.
    Refused,
    /// A refused folder was opened after its files had been restored.
    Restored,
    /// The replica started from the snapshot before the latest.
    OlderSnapshot,
    /// A snapshot was abandoned or not installed, with no other change.
    Abandoned,
    /// A leader's snapshot that a follower rejected was found damaged, and another one was taken.
    Replaced,
    /// The replica installed a leader's snapshot after its next start.
    CaughtUp,
    /// All peers rejected the replica.
    Rejected,
}

impl DiskFault {
    /// All faults, in the order of the table.
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

    /// Name in the table.
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

    /// Whether the fault damages files at rest.
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
    /// All effects, in the order of the table.
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

    /// Name in the table.
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

/// Counters of faults and effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStatistics {
    injected: [u64; DiskFault::ALL.len()],
    effects: [[u64; FaultEffect::ALL.len()]; DiskFault::ALL.len()],
    /// Faults during a log restart, a compaction or a snapshot write.
    pub interrupted_compactions: u64,
    /// Log restarts after a snapshot. This and the next fields count no faults, but the operations
    /// that faults must hit.
    pub restarts: u64,
    /// Segments deleted by compaction.
    pub segments_deleted: u64,
    /// Snapshots taken, in files.
    pub snapshots_taken: u64,
    /// Snapshots installed from leaders, in files.
    pub snapshots_installed: u64,
}

impl FaultStatistics {
    /// Counts injected faults.
    pub fn inject(&mut self, kind: DiskFault, count: u64) {
        self.injected[kind as usize] += count;
    }

    /// Counts an effect of a fault.
    pub fn cause(&mut self, kind: DiskFault, effect: FaultEffect) {
        self.effects[kind as usize][effect as usize] += 1;
    }

    /// Number of times that a fault was injected.
    pub fn injected(&self, kind: DiskFault) -> u64 {
        self.injected[kind as usize]
    }

    /// Number of times that a fault had an effect.
    pub fn caused(&self, kind: DiskFault, effect: FaultEffect) -> u64 {
        self.effects[kind as usize][effect as usize]
    }

    /// Whether no fault was injected.
    pub fn is_empty(&self) -> bool {
        self.injected.iter().all(|&count| count == 0)
    }

    /// Adds the counters of another disk or run.
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

    /// Formats a table of faults by effect, and a line about snapshots and compaction.
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
