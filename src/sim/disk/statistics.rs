//! What went wrong with disks in a run, by kind, and what each came to. A fault that was drawn and
//! never hit anything shows nothing: so both are counted.

use std::fmt::Write as _;

/// A way in which a disk goes wrong, or its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// The power fails: what was not synced is there or not, sector by sector and name by name.
    PowerCut,
    /// The process is killed, and its disk goes on.
    Kill,
    /// A power cut leaves some sectors of a write.
    TornWrite,
    /// A power cut leaves nothing of a write.
    LostUnsynced,
    /// A power cut undoes the making or renaming of a file.
    NameLost,
    /// A power cut brings a deleted file back.
    NameBack,
    /// A write fails, after a part of it.
    FailedWrite,
    /// A sync fails, and forgets what it was to sync.
    FailedSync,
    /// A file can't be made, renamed or deleted, or the folder not be synced.
    FailedNames,
    /// There is no room, until there is again.
    FullDisk,
    /// The power fails, or an operation, while the folder is opened.
    CutOpening,
    /// Every sync takes long.
    SlowDisk,
    /// One sync takes longer than any election.
    Stall,
    /// A bit is another at the start than was written.
    FlippedBit,
    /// A sector that was written and synced is zeros.
    LostWrite,
    /// A sector that was written and synced is at another place, of this or another file.
    MisdirectedWrite,
    /// A file is gone whose name was synced.
    VanishedFile,
    /// Bytes of a snapshot go wrong as they are written: flipped, lost, or at another place.
    BadSnapshotWrite,
    /// A snapshot is damaged while its replica runs, and may be sending it.
    RottenSnapshot,
    /// An older copy of the whole folder is put back.
    OldCopy,
    /// Older copies of some of its files are put back.
    OldFiles,
}

/// What a fault came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultEffect {
    /// The process ended itself, as nobody knew any more what its disk held.
    Stopped,
    /// The folder was opened, and all was there.
    Whole,
    /// A torn tail was cut off when the folder was opened.
    Cut,
    /// The folder was not opened: the damage was named.
    Refused,
    /// What was refused was opened later: the files were restored, or there was room again.
    Restored,
    /// The replica started from the snapshot before the latest.
    Older,
    /// A snapshot was not finished, or not taken in, and nothing else changed.
    GivenUp,
    /// A leader's snapshot that a follower threw away was found damaged, and another was taken.
    Replaced,
    /// The replica was sent a snapshot after its next start.
    CaughtUp,
    /// No peer believed the replica.
    Denied,
}

impl DiskFault {
    /// All of them, in the order of the table.
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
        DiskFault::RottenSnapshot,
        DiskFault::OldCopy,
        DiskFault::OldFiles,
    ];

    /// How the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            DiskFault::PowerCut => "power cuts",
            DiskFault::Kill => "kills",
            DiskFault::TornWrite => "torn writes",
            DiskFault::LostUnsynced => "unsynced writes lost",
            DiskFault::NameLost => "unsynced names lost",
            DiskFault::NameBack => "deleted files back",
            DiskFault::FailedWrite => "failed writes",
            DiskFault::FailedSync => "failed syncs",
            DiskFault::FailedNames => "failed names",
            DiskFault::FullDisk => "full disks",
            DiskFault::CutOpening => "cut openings",
            DiskFault::SlowDisk => "slow disks",
            DiskFault::Stall => "stalled syncs",
            DiskFault::FlippedBit => "flipped bits",
            DiskFault::LostWrite => "synced writes lost",
            DiskFault::MisdirectedWrite => "misdirected writes",
            DiskFault::VanishedFile => "vanished files",
            DiskFault::BadSnapshotWrite => "bad snapshot writes",
            DiskFault::RottenSnapshot => "rotten snapshots",
            DiskFault::OldCopy => "old folders",
            DiskFault::OldFiles => "old files",
        }
    }

    /// Whether it makes of files what nobody had written.
    pub fn is_damage(self) -> bool {
        use DiskFault::{
            FlippedBit, LostWrite, MisdirectedWrite, OldFiles, RottenSnapshot, VanishedFile,
        };
        matches!(
            self,
            FlippedBit | LostWrite | MisdirectedWrite | OldFiles | RottenSnapshot | VanishedFile
        )
    }
}

impl FaultEffect {
    /// All of them, in the order of the table.
    pub const ALL: [FaultEffect; 10] = [
        FaultEffect::Stopped,
        FaultEffect::Whole,
        FaultEffect::Cut,
        FaultEffect::Refused,
        FaultEffect::Restored,
        FaultEffect::Older,
        FaultEffect::GivenUp,
        FaultEffect::Replaced,
        FaultEffect::CaughtUp,
        FaultEffect::Denied,
    ];

    /// How the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            FaultEffect::Stopped => "stopped",
            FaultEffect::Whole => "whole",
            FaultEffect::Cut => "tail cut",
            FaultEffect::Refused => "refused",
            FaultEffect::Restored => "restored",
            FaultEffect::Older => "older one",
            FaultEffect::GivenUp => "given up",
            FaultEffect::Replaced => "replaced",
            FaultEffect::CaughtUp => "caught up",
            FaultEffect::Denied => "denied",
        }
    }
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStatistics {
    injected: [u64; DiskFault::ALL.len()],
    effects: [[u64; FaultEffect::ALL.len()]; DiskFault::ALL.len()],
    /// A log was being cut, or begun anew, or a snapshot made, when something went wrong.
    pub cut_short: u64,
    /// A log began anew behind a snapshot. Not a fault, but what faults are to hit.
    pub restarts: u64,
    /// A segment was deleted since a snapshot held its entries.
    pub segments_deleted: u64,
    /// Snapshots in files: taken.
    pub taken: u64,
    /// And taken in from leaders.
    pub taken_in: u64,
}

impl FaultStatistics {
    /// Something went wrong, so often.
    pub fn inject(&mut self, kind: DiskFault, count: u64) {
        self.injected[kind as usize] += count;
    }

    /// It came to this.
    pub fn cause(&mut self, kind: DiskFault, effect: FaultEffect) {
        self.effects[kind as usize][effect as usize] += 1;
    }

    /// How often it went wrong.
    pub fn injected(&self, kind: DiskFault) -> u64 {
        self.injected[kind as usize]
    }

    /// How often it came to this.
    pub fn caused(&self, kind: DiskFault, effect: FaultEffect) -> u64 {
        self.effects[kind as usize][effect as usize]
    }

    /// Whether anything went wrong at all.
    pub fn is_empty(&self) -> bool {
        self.injected.iter().all(|&count| count == 0)
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &FaultStatistics) {
        for kind in DiskFault::ALL {
            self.injected[kind as usize] += other.injected(kind);
            for effect in FaultEffect::ALL {
                self.effects[kind as usize][effect as usize] += other.caused(kind, effect);
            }
        }
        self.cut_short += other.cut_short;
        self.restarts += other.restarts;
        self.segments_deleted += other.segments_deleted;
        self.taken += other.taken;
        self.taken_in += other.taken_in;
    }

    /// The table of all kinds, and a line about what they hit.
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
            "\n{} snapshots taken and {} taken in, in files; {} logs begun anew, {} segments \
             deleted, {} such things cut short",
            self.taken, self.taken_in, self.restarts, self.segments_deleted, self.cut_short
        );
        text
    }
}
