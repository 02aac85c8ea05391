//! What went wrong with disks in a run, by kind, and what each came to. A fault that was drawn and
//! never hit anything shows nothing: so both are counted.

use std::fmt::Write as _;

/// A way in which a disk goes wrong, or its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
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
pub enum Effect {
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

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Kind; 21] = [
        Kind::PowerCut,
        Kind::Kill,
        Kind::TornWrite,
        Kind::LostUnsynced,
        Kind::NameLost,
        Kind::NameBack,
        Kind::FailedWrite,
        Kind::FailedSync,
        Kind::FailedNames,
        Kind::FullDisk,
        Kind::CutOpening,
        Kind::SlowDisk,
        Kind::Stall,
        Kind::FlippedBit,
        Kind::LostWrite,
        Kind::MisdirectedWrite,
        Kind::VanishedFile,
        Kind::BadSnapshotWrite,
        Kind::RottenSnapshot,
        Kind::OldCopy,
        Kind::OldFiles,
    ];

    /// How the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PowerCut => "power cuts",
            Kind::Kill => "kills",
            Kind::TornWrite => "torn writes",
            Kind::LostUnsynced => "unsynced writes lost",
            Kind::NameLost => "unsynced names lost",
            Kind::NameBack => "deleted files back",
            Kind::FailedWrite => "failed writes",
            Kind::FailedSync => "failed syncs",
            Kind::FailedNames => "failed names",
            Kind::FullDisk => "full disks",
            Kind::CutOpening => "cut openings",
            Kind::SlowDisk => "slow disks",
            Kind::Stall => "stalled syncs",
            Kind::FlippedBit => "flipped bits",
            Kind::LostWrite => "synced writes lost",
            Kind::MisdirectedWrite => "misdirected writes",
            Kind::VanishedFile => "vanished files",
            Kind::BadSnapshotWrite => "bad snapshot writes",
            Kind::RottenSnapshot => "rotten snapshots",
            Kind::OldCopy => "old folders",
            Kind::OldFiles => "old files",
        }
    }

    /// Whether it makes of files what nobody had written.
    pub fn is_damage(self) -> bool {
        use Kind::{
            FlippedBit, LostWrite, MisdirectedWrite, OldFiles, RottenSnapshot, VanishedFile,
        };
        matches!(
            self,
            FlippedBit | LostWrite | MisdirectedWrite | OldFiles | RottenSnapshot | VanishedFile
        )
    }
}

impl Effect {
    /// All of them, in the order of the table.
    pub const ALL: [Effect; 10] = [
        Effect::Stopped,
        Effect::Whole,
        Effect::Cut,
        Effect::Refused,
        Effect::Restored,
        Effect::Older,
        Effect::GivenUp,
        Effect::Replaced,
        Effect::CaughtUp,
        Effect::Denied,
    ];

    /// How the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Stopped => "stopped",
            Effect::Whole => "whole",
            Effect::Cut => "tail cut",
            Effect::Refused => "refused",
            Effect::Restored => "restored",
            Effect::Older => "older one",
            Effect::GivenUp => "given up",
            Effect::Replaced => "replaced",
            Effect::CaughtUp => "caught up",
            Effect::Denied => "denied",
        }
    }
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    injected: [u64; Kind::ALL.len()],
    effects: [[u64; Effect::ALL.len()]; Kind::ALL.len()],
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

impl Tally {
    /// Something went wrong, so often.
    pub fn inject(&mut self, kind: Kind, count: u64) {
        self.injected[kind as usize] += count;
    }

    /// It came to this.
    pub fn cause(&mut self, kind: Kind, effect: Effect) {
        self.effects[kind as usize][effect as usize] += 1;
    }

    /// How often it went wrong.
    pub fn injected(&self, kind: Kind) -> u64 {
        self.injected[kind as usize]
    }

    /// How often it came to this.
    pub fn caused(&self, kind: Kind, effect: Effect) -> u64 {
        self.effects[kind as usize][effect as usize]
    }

    /// Whether anything went wrong at all.
    pub fn is_empty(&self) -> bool {
        self.injected.iter().all(|&count| count == 0)
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Tally) {
        for kind in Kind::ALL {
            self.injected[kind as usize] += other.injected(kind);
            for effect in Effect::ALL {
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
        for effect in Effect::ALL {
            let _ = write!(text, "{:>10}", effect.name());
        }
        for kind in Kind::ALL {
            let _ = write!(text, "\n{:<22}{:>10}", kind.name(), self.injected(kind));
            for effect in Effect::ALL {
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
