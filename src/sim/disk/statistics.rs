//! Fault statistics of disks: how often each fault was injected, and which effects it had. Effects
//! are counted because a fault that never has an effect tests nothing.

use std::fmt::Write as _;

/// A type of fault of a disk or of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// A power cut: each unsynced sector and each unsynced file name change is randomly kept or
    /// lost.
    PowerCut,
    /// A kill of the process, which loses none of its writes.
    Kill,
    /// A power cut that keeps only some sectors of an unsynced write.
    TornWrite,
    /// A power cut that loses an entire unsynced write.
    LostUnsynced,
    /// A power cut that undoes the creation or renaming of a file, because the folder was not
    /// synced.
    NameLost,
    /// A power cut that brings back a deleted file, because the folder was not synced.
    NameBack,
    /// A write that fails after part of its bytes were written.
    FailedWrite,
    /// A sync that fails and drops the unsynced data.
    FailedSync,
    /// A failed operation on file names: creating, renaming or deleting a file, or syncing the
    /// folder.
    FailedNames,
    /// A disk that is full for some time.
    FullDisk,
    /// A power cut or failed operation while a replica opens its folder at a start.
    CutOpening,
    /// A disk whose syncs are all slow, until the fault ends.
    SlowDisk,
    /// A sync of the log that takes longer than any election.
    Stall,
    /// A flipped bit in a file of a replica that is down.
    FlippedBit,
    /// A synced sector that was lost, so that it reads as zeros.
    LostWrite,
    /// A synced sector that was written to the wrong position, in the same or another file.
    MisdirectedWrite,
    /// A file that has vanished although its creation was synced.
    VanishedFile,
    /// A write to a snapshot file that stores wrong bytes without an error: a flipped bit, or a
    /// lost or misdirected sector.
    BadSnapshotWrite,
    /// A corrupted snapshot file of a running replica, which may be sending the snapshot.
    CorruptSnapshot,
    /// A start of a replica from an old copy of its whole folder.
    OldCopy,
    /// A start of a replica with old copies of some of its files.
    OldFiles,
}

/// An effect of an injected disk fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultEffect {
    /// The replica's process stopped after a failed disk operation, because the content of its disk
    /// was then unknown.
    Stopped,
    /// The replica's folder was opened without any loss at the next start.
    Intact,
    /// At the next start, the replica removed a torn (incompletely written) block from the end of
    /// its log.
    TailRemoved,
    /// The replica's folder was refused at a start, with an error that describes the damage.
    Refused,
    /// A refused folder was opened after its files had been restored.
    Restored,
    /// At the next start, the replica removed damaged files or a part of its log, and rejoined the
    /// cluster to recover what was lost.
    Repaired,
    /// The replica started from an older snapshot than the latest one.
    OlderSnapshot,
    /// The replica abandoned writing or installing a snapshot, without further consequences.
    Abandoned,
    /// A follower discarded a snapshot as damaged; the leader then found its own copy damaged, and
    /// took a new one.
    Replaced,
    /// The replica restarted after the fault and then installed a leader's snapshot.
    CaughtUp,
    /// All peers rejected the replica, because it was started from an old copy of its folder.
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

    /// Returns the name of the fault type in the printed table.
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
            DiskFault::CutOpening => "interrupted starts",
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

    /// Returns whether the fault changes stored file contents, rather than disturbing an operation
    /// in progress.
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
    pub const ALL: [FaultEffect; 11] = [
        FaultEffect::Stopped,
        FaultEffect::Intact,
        FaultEffect::TailRemoved,
        FaultEffect::Refused,
        FaultEffect::Restored,
        FaultEffect::Repaired,
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
            FaultEffect::Repaired => "repaired",
            FaultEffect::OlderSnapshot => "older",
            FaultEffect::Abandoned => "abandoned",
            FaultEffect::Replaced => "replaced",
            FaultEffect::CaughtUp => "caught up",
            FaultEffect::Rejected => "rejected",
        }
    }
}

/// Numbers of injected disk faults by type, and of their effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStatistics {
    injected: [u64; DiskFault::ALL.len()],
    effects: [[u64; FaultEffect::ALL.len()]; DiskFault::ALL.len()],
    /// Number of faults that occurred during a reset of the log after a snapshot, a compaction of
    /// the log or the write of a snapshot.
    pub interrupted_compactions: u64,
    /// Number of times that a replica has reset its log: replaced it with an empty log that begins
    /// after the last entry of a received snapshot. A reset is not a fault, but faults must occur
    /// during resets to test them.
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

    /// Returns how many times a fault of type `kind` had this effect.
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

    /// Formats the counts as a text table with a row per fault type and a column per effect,
    /// followed by a line about snapshots and compaction.
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
            "\n{} snapshots taken and {} installed in files; {} log resets after a snapshot, {} \
             segments deleted; {} of these interrupted by a fault",
            self.snapshots_taken,
            self.snapshots_installed,
            self.restarts,
            self.segments_deleted,
            self.interrupted_compactions
        );
        text
    }
}
