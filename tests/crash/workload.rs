//! A random workload, drawn from a seed, for a replica's log, with an account of what must be
//! durable.

use bowline::raft::{Durable, HardState};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::sim::rng::Rng;
use bowline::storage::{Log, LogOptions, MemDisk, StorageError};
use bowline::types::{EntryId, NodeId, Term};

pub(crate) const CLUSTER: u128 = 0x00C0_FFEE;
pub(crate) const ME: NodeId = NodeId(2);
/// Options with segments of six sectors, including the header, so that a few blocks fill a segment,
/// and some blocks need a segment of their own.
pub(crate) const OPTIONS: LogOptions = LogOptions::with_segment_bytes(6 * 512);

/// What a replica must find on its disk, kept over several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// State that must be durable: everything that a completed sync covers.
    pub(crate) acknowledged: Durable,
    /// State that may be found instead of `acknowledged`: it also includes what was being written.
    pub(crate) attempted: Durable,
    /// The last incarnation that was reported when the log was opened.
    pub(crate) incarnation: u64,
    bootstrapped: bool,
}

impl Account {
    /// Simulates one process: opens the log, checks what is found, and works for `steps` steps.
    pub(crate) fn live(
        &mut self,
        disk: &mut MemDisk,
        seed: u64,
        steps: usize,
    ) -> Result<(), StorageError> {
        if !self.bootstrapped {
            match Log::bootstrap(&mut &mut *disk, CLUSTER, ME, &[ME]) {
                // The power failed after the bootstrap and before its report.
                Err(StorageError::NotEmpty { file }) if file == "meta" => {}
                other => other?,
            }
            self.bootstrapped = true;
        }
        let (mut log, durable, identity) = Log::open(disk, Some(CLUSTER), ME, OPTIONS, None)?;
        assert!(
            durable == self.acknowledged || durable == self.attempted,
            "acknowledged {:?}, attempted {:?}, found {durable:?}",
            self.acknowledged,
            self.attempted
        );
        assert!(identity.incarnation > self.incarnation, "{identity:?} was there before");
        self.incarnation = identity.incarnation;
        self.acknowledged.clone_from(&durable);
        self.attempted = durable;
        let mut rng = Rng::new(seed);
        for _ in 0..steps {
            let (hard_state, entries) = self.draw_job(&mut rng);
            log.append(hard_state, &entries)?;
            if rng.permille(700) {
                log.sync()?;
                self.acknowledged.clone_from(&self.attempted);
            }
        }
        log.sync()?;
        self.acknowledged.clone_from(&self.attempted);
        Ok(())
    }

    /// Draws a job that the core may give to the log writer next.
    fn draw_job(&mut self, rng: &mut Rng) -> (Option<HardState>, Vec<Entry>) {
        let Durable { hard_state, entries, .. } = &mut self.attempted;
        let changed = hard_state.term == Term(0) || rng.permille(300);
        if changed
            && hard_state.term > Term(0)
            && hard_state.voted_for.is_none()
            && rng.permille(500)
        {
            hard_state.voted_for = Some(NodeId(3));
        } else if changed {
            let voted_for = rng.permille(500).then_some(ME);
            *hard_state = HardState { term: hard_state.term.next(), voted_for };
        }
        let count = if rng.permille(200) { 0 } else { rng.between(1, 4) };
        if count > 0 && changed && rng.permille(400) {
            // Entries of another leader replace the end of the log.
            entries.truncate(entries.len() - rng.index(entries.len().min(5) + 1));
        }
        let first = entries.len() as u64 + 1;
        let mut buffer = RecordBuffer::default();
        let mut encode = |index| {
            let payload = draw_payload(rng);
            let id = EntryId::new(hard_state.term.0, index);
            buffer.encode(id, EntryKind::Command, &payload)
        };
        let new: Vec<Entry> = (first..first + count).map(&mut encode).collect();
        entries.extend_from_slice(&new);
        (changed.then_some(*hard_state), new)
    }
}

/// Draws a payload: mostly short, sometimes close to the size of a sector or several sectors long.
/// The contents may look like unwritten sectors.
pub(crate) fn draw_payload(rng: &mut Rng) -> Vec<u8> {
    let bytes = match rng.below(10) {
        0 => rng.between(400, 600),
        1 => rng.between(2_000, 4_000),
        _ => rng.between(0, 200),
    };
    let byte = *rng.choose(&[0, 0xFF, b'x']);
    vec![byte; usize::try_from(bytes).expect("a small payload")]
}
