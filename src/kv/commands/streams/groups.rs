//! Commands on consumer groups, and on the entries that are pending for their consumers.

use bytes::Bytes;

use super::arguments::{any_id, integer, is, range_end, range_start, strict_id};
use super::{Attempt, attempt, id_text, no_group, no_group_of_key, number, wrong_subcommand};
use crate::kv::commands::args::Args;
use crate::kv::commands::expiration::time_of_read;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::stream::Stream;
use crate::kv::values::stream::group::{Group, Pending};
use crate::kv::values::stream::id::StreamId;

/// The options of `XGROUP CREATE` and `XGROUP SETID`.
struct Options {
    /// Option `MKSTREAM`: whether a missing key is created.
    makes_stream: bool,
    /// Option `ENTRIESREAD`; `None` if the number is unknown.
    entries_read: Option<u64>,
}

fn options(args: &[&[u8]], makes_streams: bool, subcommand: &[u8]) -> Attempt<Options> {
    let mut options = Options { makes_stream: false, entries_read: None };
    let mut at = 0;
    while let Some(word) = args.get(at) {
        if makes_streams && is(word, "MKSTREAM") {
            options.makes_stream = true;
            at += 1;
        } else if is(word, "ENTRIESREAD")
            && let Some(value) = args.get(at + 1)
        {
            options.entries_read = match integer(value)? {
                -1 => None,
                count => Some(u64::try_from(count).map_err(|_| {
                    Outcome::error("ERR value for ENTRIESREAD must be positive or -1")
                })?),
            };
            at += 2;
        } else {
            return Err(wrong_subcommand(b"XGROUP", subcommand));
        }
    }
    Ok(options)
}

/// Returns the stream at a key.
///
/// # Errors
/// If there is none.
fn existing<'k>(keyspace: &'k Keyspace, key: &[u8]) -> Attempt<&'k Stream> {
    let missing = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you \
                   may want to use the MKSTREAM option to create an empty stream automatically.";
    keyspace.collection::<Stream>(key)?.ok_or_else(|| Outcome::error(missing))
}

/// Checks that a stream has a group.
fn check_group(keyspace: &Keyspace, key: &[u8], group: &[u8]) -> Attempt<()> {
    let has_group = existing(keyspace, key)?.groups.get(group).is_some();
    if has_group { Ok(()) } else { Err(no_group_of_key(key, group)) }
}

/// Runs `XGROUP CREATE key group id | $ [MKSTREAM] [ENTRIESREAD count]`: creates a consumer group
/// that has read the entries up to an id. The server adds a last argument, the name of the
/// subcommand, for the text of an error.
pub(in crate::kv) fn create(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (subcommand, args) = args.all().split_last().ok_or(Refusal::Syntax)?;
        let [key, group, id, rest @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let Options { makes_stream, entries_read } = options(rest, true, subcommand)?;
        let stream = keyspace.collection::<Stream>(key)?;
        if !makes_stream {
            existing(keyspace, key)?;
        }
        if rest.len() > 3 {
            return Err(wrong_subcommand(b"XGROUP", subcommand));
        }
        let id = match *id {
            b"$" => stream.map_or(StreamId::MIN, Stream::last_id),
            _ => strict_id(id, 0)?,
        };
        if stream.is_some_and(|stream| stream.groups.get(group).is_some()) {
            return Err(Outcome::error("BUSYGROUP Consumer Group name already exists"));
        }
        keyspace.update(key, |stream: &mut Stream| {
            (stream.groups.add(group, Group::new(id, entries_read)), true)
        })?;
        keyspace.notify("xgroup-create", key);
        Ok(Outcome::Done)
    })
}

/// Runs `XGROUP SETID key group id | $ [ENTRIESREAD count]`: sets the id up to which a group has
/// read. The server adds a last argument, the name of the subcommand, for the text of an error.
pub(in crate::kv) fn setid(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (subcommand, args) = args.all().split_last().ok_or(Refusal::Syntax)?;
        let [key, group, id, rest @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let Options { entries_read, .. } = options(rest, false, subcommand)?;
        check_group(keyspace, key, group)?;
        if !matches!(rest.len(), 0 | 2) {
            return Err(wrong_subcommand(b"XGROUP", subcommand));
        }
        let id = match *id {
            b"$" => existing(keyspace, key)?.last_id(),
            _ => any_id(id, 0)?,
        };
        change_group(keyspace, key, group, |group| {
            (group.last_id, group.entries_read) = (id, entries_read);
        })?;
        keyspace.notify("xgroup-setid", key);
        Ok(Outcome::Done)
    })
}

/// Applies `change` to a group, which must exist, and returns its result.
fn change_group<R>(
    keyspace: &mut Keyspace,
    key: &[u8],
    group: &[u8],
    change: impl FnOnce(&mut Group) -> R,
) -> Attempt<Option<R>> {
    let change = |stream: &mut Stream| (stream.groups.change(group, change), true);
    Ok(keyspace.update(key, change)?)
}

/// Runs `XGROUP DESTROY key group`: removes a group, and returns whether there was one.
pub(in crate::kv) fn destroy(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, group) = (args.get(0)?, args.get(1)?);
        let exists = existing(keyspace, key)?.groups.get(group).is_some();
        if exists {
            keyspace.update(key, |stream: &mut Stream| (stream.groups.remove(group), true))?;
            keyspace.notify("xgroup-destroy", key);
        }
        Ok(Outcome::flag(exists))
    })
}

/// Runs `XGROUP CREATECONSUMER key group consumer`: creates a consumer, and returns whether there
/// was none with this name.
pub(in crate::kv) fn createconsumer(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, group, consumer) = (args.get(0)?, args.get(1)?, args.get(2)?);
        check_group(keyspace, key, group)?;
        let there = existing(keyspace, key)?.groups.get(group).and_then(|it| it.consumer(consumer));
        let is_new = there.is_none();
        if is_new {
            let now = keyspace.clock();
            change_group(keyspace, key, group, |group| group.see(consumer, now))?;
            keyspace.notify("xgroup-createconsumer", key);
        }
        Ok(Outcome::flag(is_new))
    })
}

/// Runs `XGROUP DELCONSUMER key group consumer`: removes a consumer, and returns the number of its
/// pending entries.
pub(in crate::kv) fn delconsumer(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, group, consumer) = (args.get(0)?, args.get(1)?, args.get(2)?);
        check_group(keyspace, key, group)?;
        let there = existing(keyspace, key)?.groups.get(group).and_then(|it| it.consumer(consumer));
        if there.is_none() {
            return Ok(Outcome::Integer(0));
        }
        let pending = change_group(keyspace, key, group, |group| group.remove_consumer(consumer))?;
        keyspace.notify("xgroup-delconsumer", key);
        Ok(Outcome::count(pending.flatten().unwrap_or(0)))
    })
}

/// Runs `XACK key group id [id ...]`: removes entries from the pending entries of a group, and
/// returns their number.
pub(in crate::kv) fn xack(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, group) = (args.get(0)?, args.get(1)?);
        let stream = keyspace.collection::<Stream>(key)?;
        let Some(there) = stream.and_then(|stream| stream.groups.get(group)) else {
            return Ok(Outcome::Integer(0));
        };
        let ids = args.rest(2).iter().map(|id| strict_id(id, 0));
        let ids: Vec<StreamId> = ids.collect::<Attempt<_>>()?;
        if !ids.iter().any(|id| there.pending().get(*id).is_some()) {
            return Ok(Outcome::Integer(0));
        }
        let count = change_group(keyspace, key, group, |group| {
            ids.iter().filter(|id| group.acknowledge(**id)).count()
        })?;
        keyspace.note_change("xack", key);
        Ok(Outcome::count(count.unwrap_or(0)))
    })
}

/// Runs `XPENDING key group [[IDLE milliseconds] start end count [consumer]]`: returns a summary of
/// the pending entries of a group, or those with ids in a range. The server adds a last argument, a
/// reading of the replicated clock, before it submits the command.
pub(in crate::kv) fn xpending(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (reading, args) = args.all().split_last().ok_or(Refusal::Syntax)?;
        let now = time_of_read(keyspace, reading);
        let [key, group, rest @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let query = if rest.is_empty() { None } else { Some(PendingQuery::parse(rest)?) };
        let stream = keyspace.collection::<Stream>(key)?;
        let found = stream.and_then(|stream| stream.groups.get(group));
        let found = found.ok_or_else(|| no_group(key, group))?;
        Ok(query.map_or_else(|| summary(found), |query| query.run(found, now)))
    })
}

fn summary(group: &Group) -> Outcome {
    let pending = group.pending();
    let Some((first, last)) = pending.first().zip(pending.last()) else {
        let none = || Outcome::Value(None);
        return Outcome::List(vec![Outcome::Integer(0), none(), none(), Outcome::NoList]);
    };
    let consumers = group.consumers().filter(|(_, consumer)| consumer.pending.len() > 0);
    let consumers = consumers.map(|(name, consumer)| {
        let count = Bytes::from(consumer.pending.len().to_string());
        Outcome::Values(vec![Some(name.to_shared()), Some(count)])
    });
    let consumers = Outcome::List(consumers.collect());
    Outcome::List(vec![Outcome::count(pending.len()), id_text(first), id_text(last), consumers])
}

/// The arguments of `XPENDING` with a range.
struct PendingQuery<'a> {
    /// Option `IDLE`: minimum time since the last delivery, in milliseconds.
    idle_min: i64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> PendingQuery<'a> {
    fn parse(args: &[&'a [u8]]) -> Attempt<PendingQuery<'a>> {
        if !(3..=6).contains(&args.len()) {
            return Err(Refusal::Syntax.into());
        }
        let has_idle = is(args[0], "IDLE");
        let idle_min = if has_idle { integer(args[1])? } else { 0 };
        let args = if has_idle { &args[2..] } else { args };
        let [start, end, count, rest @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let count = usize::try_from(integer(count)?).unwrap_or(0);
        let (start, end) = (range_start(start)?, range_end(end)?);
        Ok(PendingQuery { idle_min, start, end, count, consumer: rest.first().copied() })
    }

    fn run(&self, group: &Group, now: u64) -> Outcome {
        let row = |(id, pending): (StreamId, &Pending)| {
            let idle = idle_time(pending, now);
            (self.idle_min == 0 || idle >= self.idle_min).then(|| {
                let consumer = Outcome::Value(Some(pending.consumer.to_shared()));
                let times = [Outcome::Integer(idle.max(0)), number(pending.deliveries)];
                Outcome::List([id_text(id), consumer].into_iter().chain(times).collect())
            })
        };
        let is_within = |(id, _): &(StreamId, &Pending)| *id <= self.end;
        let Some(name) = self.consumer else {
            let pending = group.pending().iter_from(self.start).take_while(is_within);
            return Outcome::List(pending.filter_map(row).take(self.count).collect());
        };
        let Some(consumer) = group.consumer(name) else { return Outcome::List(Vec::new()) };
        let ids = consumer.pending.iter_from(self.start);
        let pending = ids.filter_map(|(id, ())| Some((id, group.pending().get(id)?)));
        Outcome::List(pending.take_while(is_within).filter_map(row).take(self.count).collect())
    }
}

/// Returns the time since an entry was delivered, in milliseconds. It is negative after the
/// replicated clock was set back.
pub(super) fn idle_time(pending: &Pending, now: u64) -> i64 {
    now.wrapping_sub(pending.delivered_at).cast_signed()
}
