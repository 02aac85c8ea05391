//! `XCLAIM` and `XAUTOCLAIM`: a consumer takes over entries that are pending for other consumers.

use super::arguments::{integer, is, range_start, strict_id};
use super::groups::idle_time;
use super::{Attempt, attempt, entry_outcome, error_of, id_text, no_group};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::number::parse_integer;
use crate::kv::values::stream::Stream;
use crate::kv::values::stream::group::Pending;
use crate::kv::values::stream::id::StreamId;

/// Number of pending entries that `XAUTOCLAIM` looks at for each entry that it may return.
const LOOKED_AT_FACTOR: usize = 10;
/// Maximum of the option `COUNT` of `XAUTOCLAIM`, as in Redis.
const COUNT_MAX: i64 = i64::MAX / 16;

/// How a consumer takes over pending entries.
struct Claim<'a> {
    key: &'a [u8],
    group: &'a [u8],
    consumer: &'a [u8],
    /// Minimum time since the last delivery, in milliseconds.
    idle_min: i64,
    /// Current time by the replicated clock, in milliseconds since 1970.
    now: u64,
    /// The time of delivery that the entries get, in milliseconds since 1970.
    delivered_at: u64,
    /// Option `RETRYCOUNT`: the number of deliveries that the entries get; `None` if it grows.
    deliveries: Option<u64>,
    /// Option `FORCE`: whether entries that are not pending become pending.
    is_forced: bool,
    /// Option `JUSTID`: whether only ids are returned, and the number of deliveries stays.
    only_ids: bool,
}

/// The outcome of the attempt to claim an entry.
enum Claimed {
    /// The outcome for the entry.
    Taken(Outcome),
    /// The entry is not in the stream any more, so it is not pending either.
    Deleted,
    /// The entry is not pending, or was delivered too recently.
    Kept,
}

impl<'a> Claim<'a> {
    fn new(keyspace: &Keyspace, args: &Args<'a>) -> Attempt<Claim<'a>> {
        let now = keyspace.clock();
        Ok(Claim {
            key: args.get(0)?,
            group: args.get(1)?,
            consumer: args.get(2)?,
            idle_min: 0,
            now,
            delivered_at: now,
            deliveries: None,
            is_forced: false,
            only_ids: false,
        })
    }

    fn set_idle_min(&mut self, word: &[u8], command: &str) -> Attempt<()> {
        let error = || format!("ERR Invalid min-idle-time argument for {command}");
        let idle_min = parse_integer(word).ok_or_else(|| Outcome::error(error()))?;
        self.idle_min = idle_min.max(0);
        Ok(())
    }

    /// Returns an error if the key or the group does not exist.
    fn check_group(&self, keyspace: &Keyspace) -> Attempt<()> {
        let stream = keyspace.collection::<Stream>(self.key)?;
        let has_group = stream.is_some_and(|stream| stream.groups.get(self.group).is_some());
        if has_group { Ok(()) } else { Err(no_group(self.key, self.group)) }
    }

    /// Makes an entry pending for the consumer, if it may take the entry over.
    fn take(&self, stream: &mut Stream, id: StreamId, has_consumer: &mut Option<bool>) -> Claimed {
        let pending = stream.groups.get(self.group).and_then(|group| group.pending().get(id));
        let pending = pending.cloned();
        let Some(entry) = stream.entries().get(id) else {
            if pending.is_none() {
                return Claimed::Kept;
            }
            stream.groups.change(self.group, |group| group.acknowledge(id));
            return Claimed::Deleted;
        };
        let before = match &pending {
            Some(pending) if self.idle_min > 0 && idle_time(pending, self.now) < self.idle_min => {
                return Claimed::Kept;
            }
            Some(pending) => pending.deliveries,
            None if self.is_forced => 1,
            None => return Claimed::Kept,
        };
        let outcome = if self.only_ids { id_text(id) } else { entry_outcome(entry) };
        let more = u64::from(!self.only_ids);
        let deliveries = self.deliveries.unwrap_or_else(|| before.wrapping_add(more));
        let consumer = self.consumer.into();
        let claimed = Pending { consumer, delivered_at: self.delivered_at, deliveries };
        stream.groups.change(self.group, |group| {
            if has_consumer.is_none() {
                *has_consumer = Some(group.see(self.consumer, self.now));
            }
            group.set_pending(id, claimed);
        });
        Claimed::Taken(outcome)
    }
}

/// Runs `XCLAIM key group consumer min-idle-time id [id ...] [IDLE milliseconds] [TIME
/// milliseconds-since-1970] [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID id]`: makes entries pending
/// for a consumer, and returns them.
pub(in crate::kv) fn xclaim(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let mut claim = Claim::new(keyspace, args)?;
        claim.check_group(keyspace)?;
        claim.set_idle_min(args.get(3)?, "XCLAIM")?;
        let parsed = args.rest(4).iter().map_while(|word| strict_id(word, 0).ok());
        let ids: Vec<StreamId> = parsed.collect();
        let last_id = claim.read_options(args.rest(4 + ids.len()))?;
        let (taken, is_changed, created) = keyspace.update(claim.key, |stream: &mut Stream| {
            let mut has_consumer = None;
            let raised = stream.groups.change(claim.group, |group| {
                let is_raised = last_id > group.last_id;
                group.last_id = group.last_id.max(last_id);
                is_raised
            });
            let (mut taken, mut is_changed) = (Vec::new(), raised == Some(true));
            for id in ids {
                match claim.take(stream, id, &mut has_consumer) {
                    Claimed::Taken(outcome) => taken.push(outcome),
                    Claimed::Deleted => is_changed = true,
                    Claimed::Kept => {}
                }
            }
            is_changed |= !taken.is_empty();
            ((taken, is_changed, has_consumer == Some(true)), is_changed)
        })?;
        note(keyspace, &claim, is_changed, created, "xclaim");
        Ok(Outcome::List(taken))
    })
}

fn note(
    keyspace: &mut Keyspace,
    claim: &Claim<'_>,
    is_changed: bool,
    is_consumer_created: bool,
    name: &'static str,
) {
    if is_consumer_created {
        keyspace.notify("xgroup-createconsumer", claim.key);
    } else if is_changed {
        keyspace.note_change(name, claim.key);
    }
}

impl Claim<'_> {
    /// Parses the options of `XCLAIM`. Returns the id in the option `LASTID`;
    /// [`StreamId::MIN`] without this option.
    fn read_options(&mut self, args: &[&[u8]]) -> Attempt<StreamId> {
        let (mut last_id, mut at) = (StreamId::MIN, 0);
        let now = self.now.cast_signed();
        let mut delivered_at = -1;
        while let Some(option) = args.get(at) {
            let number = |value: &[u8], name: &str| {
                let error = || format!("ERR Invalid {name} option argument for XCLAIM");
                parse_integer(value).ok_or_else(|| Outcome::error(error()))
            };
            at += 1;
            if is(option, "FORCE") {
                self.is_forced = true;
                continue;
            } else if is(option, "JUSTID") {
                self.only_ids = true;
                continue;
            }
            let unknown = || error_of(&[b"ERR Unrecognized XCLAIM option '", option, b"'"]);
            let Some(value) = args.get(at) else { return Err(unknown()) };
            at += 1;
            if is(option, "IDLE") {
                delivered_at = now.wrapping_sub(number(value, "IDLE")?);
            } else if is(option, "TIME") {
                delivered_at = number(value, "TIME")?;
            } else if is(option, "RETRYCOUNT") {
                self.deliveries = u64::try_from(number(value, "RETRYCOUNT")?).ok();
            } else if is(option, "LASTID") {
                last_id = strict_id(value, 0)?;
            } else {
                return Err(unknown());
            }
        }
        let delivered_at = u64::try_from(delivered_at).ok().filter(|at| *at <= self.now);
        self.delivered_at = delivered_at.unwrap_or(self.now);
        Ok(last_id)
    }
}

/// Runs `XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]`: makes the
/// pending entries from an id on pending for a consumer. Returns the id to continue from, the
/// entries, and the ids of those that were deleted.
pub(in crate::kv) fn xautoclaim(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let mut claim = Claim::new(keyspace, args)?;
        claim.set_idle_min(args.get(3)?, "XAUTOCLAIM")?;
        let start = range_start(args.get(4)?)?;
        let mut count = 100;
        let mut options = args.rest(5).iter();
        while let Some(option) = options.next() {
            if is(option, "JUSTID") {
                claim.only_ids = true;
            } else if is(option, "COUNT")
                && let Some(value) = options.next()
            {
                let error = || Outcome::error("ERR COUNT must be > 0");
                let wanted = integer(value).ok().filter(|count| (1..=COUNT_MAX).contains(count));
                count = usize::try_from(wanted.ok_or_else(error)?).map_err(|_| error())?;
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        claim.check_group(keyspace)?;
        let (outcome, is_changed, created) =
            keyspace.update(claim.key, |stream: &mut Stream| {
                let Some(group) = stream.groups.get(claim.group) else {
                    return ((Outcome::NoList, false, false), false);
                };
                let looked_at = count.saturating_mul(LOOKED_AT_FACTOR);
                let pending = group.pending().iter_from(start).take(looked_at.saturating_add(1));
                let ids: Vec<StreamId> = pending.map(|(id, _)| id).collect();
                let (mut taken, mut deleted, mut has_consumer) = (Vec::new(), Vec::new(), None);
                let mut next = 0;
                while next < ids.len().min(looked_at) && taken.len() + deleted.len() < count {
                    match claim.take(stream, ids[next], &mut has_consumer) {
                        Claimed::Taken(outcome) => taken.push(outcome),
                        Claimed::Deleted => deleted.push(id_text(ids[next])),
                        Claimed::Kept => {}
                    }
                    next += 1;
                }
                let is_changed = !taken.is_empty() || !deleted.is_empty();
                let next = ids.get(next).copied().unwrap_or(StreamId::MIN);
                let outcome = vec![id_text(next), Outcome::List(taken), Outcome::List(deleted)];
                ((Outcome::List(outcome), is_changed, has_consumer == Some(true)), is_changed)
            })?;
        note(keyspace, &claim, is_changed, created, "xautoclaim");
        Ok(outcome)
    })
}
