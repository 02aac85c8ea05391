//! A replica's use of its log, drawn from a seed, with an account of what was vouched for.

use bowline::raft::{Durable, HardState};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::sim::rng::Rng;
use bowline::storage::{Log, LogOptions, MemDisk, StorageError};
use bowline::types::{EntryId, NodeId, Term};

pub(crate) const CLUSTER: u128 = 0x00C0_FFEE;
pub(crate) const ME: NodeId = NodeId(2);
/// Six sectors, the header among them: a few blocks fill it, and some need one of their own.
pub(crate) const OPTIONS: LogOptions = LogOptions::with_segment_bytes(6 * 512);

/// What one replica knows of its own disk over all its lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// What must be there: all that a sync has returned for.
    pub(crate) vouched: Durable,
    /// What may be there instead: that, and what was on its way to the disk.
    pub(crate) attempted: Durable,
    /// The last opening that was told its number.
    pub(crate) incarnation: u64,
    bootstrapped: bool,
}

impl Account {
    /// One process's life: it opens the log, finds what it must, and works for so many steps.
    pub(crate) fn live(
        &mut self,
        disk: &mut MemDisk,
        seed: u64,
        steps: usize,
    ) -> Result<(), StorageError> {
        if !self.bootstrapped {
            match Log::bootstrap(&mut &mut *disk, CLUSTER, ME, &[ME]) {
                // The power failed when all was done, before it was said.
                Err(StorageError::NotEmpty { file }) if file == "meta" => {}
                other => other?,
            }
            self.bootstrapped = true;
        }
        let (mut log, durable, identity) = Log::open(disk, Some(CLUSTER), ME, OPTIONS, None)?;
        assert!(
            durable == self.vouched || durable == self.attempted,
            "vouched for {:?}, also wrote {:?}, found {durable:?}",
            self.vouched,
            self.attempted
        );
        assert!(identity.incarnation > self.incarnation, "{identity:?} was there before");
        self.incarnation = identity.incarnation;
        self.vouched.clone_from(&durable);
        self.attempted = durable;
        let mut rng = Rng::new(seed);
        for _ in 0..steps {
            let (hard_state, entries) = self.draw_job(&mut rng);
            log.append(hard_state, &entries)?;
            if rng.chance(700) {
                log.sync()?;
                self.vouched.clone_from(&self.attempted);
            }
        }
        log.sync()?;
        self.vouched.clone_from(&self.attempted);
        Ok(())
    }

    /// What the core may hand to its log writer next.
    fn draw_job(&mut self, rng: &mut Rng) -> (Option<HardState>, Vec<Entry>) {
        let Durable { hard_state, entries, .. } = &mut self.attempted;
        let changed = hard_state.term == Term(0) || rng.chance(300);
        if changed && hard_state.term > Term(0) && hard_state.voted_for.is_none() && rng.chance(500)
        {
            hard_state.voted_for = Some(NodeId(3));
        } else if changed {
            let voted_for = rng.chance(500).then_some(ME);
            *hard_state = HardState { term: hard_state.term.next(), voted_for };
        }
        let count = if rng.chance(200) { 0 } else { rng.between(1, 4) };
        if count > 0 && changed && rng.chance(400) {
            // Another leader's entries take the place of a tail.
            entries.truncate(entries.len() - rng.place(entries.len().min(5) + 1));
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

/// Sizes around those of a sector, and contents that look like nothing written.
pub(crate) fn draw_payload(rng: &mut Rng) -> Vec<u8> {
    let bytes = match rng.below(10) {
        0 => rng.between(400, 600),
        1 => rng.between(2_000, 4_000),
        _ => rng.between(0, 200),
    };
    let byte = *rng.pick(&[0, 0xFF, b'x']);
    vec![byte; usize::try_from(bytes).expect("a small payload")]
}
