//! `XREAD` and `XREADGROUP`: the entries of several streams after given ids, and the entries that a
//! consumer group has not read yet.

use super::arguments::{integer, is, strict_id};
use super::{Attempt, attempt, entry_outcome, error_of, id_text, text};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::number::parse_integer;
use crate::kv::values::stream::Stream;
use crate::kv::values::stream::group::Pending;
use crate::kv::values::stream::id::StreamId;

/// The arguments of `XREAD` or `XREADGROUP`.
struct Request<'a> {
    /// Maximum number of entries of each stream.
    count: usize,
    keys: &'a [&'a [u8]],
    ids: &'a [&'a [u8]],
    /// The group and the consumer; `None` for `XREAD`.
    reader: Option<Reader<'a>>,
}

/// Who reads with `XREADGROUP`.
#[derive(Clone, Copy)]
struct Reader<'a> {
    group: &'a [u8],
    consumer: &'a [u8],
    /// Option `NOACK`: whether entries do not become pending.
    needs_no_ack: bool,
}

/// Runs `XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]`: returns the
/// entries of streams with higher ids.
pub(in crate::kv) fn xread(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| Ok(read_after(keyspace, args)?.unwrap_or(Outcome::NoList)))
}

/// Runs `XREAD` for a client that waits for entries if there are none: then returns the ids after
/// which it has read the streams, which the client may have given as `$`.
pub(in crate::kv) fn xread_or_wait(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        if let Some(found) = read_after(keyspace, args)? {
            return Ok(found);
        }
        let ids = Request::parse(args.all(), false)?.ids_after(keyspace)?;
        Ok(Outcome::List(ids.into_iter().map(id_text).collect()))
    })
}

/// Returns the outcome of `XREAD`; `None` if there are no entries.
fn read_after(keyspace: &Keyspace, args: &Args<'_>) -> Attempt<Option<Outcome>> {
    let request = Request::parse(args.all(), false)?;
    let ids = request.ids_after(keyspace)?;
    let mut streams = Vec::new();
    for (key, id) in request.keys.iter().zip(ids) {
        let Some(stream) = keyspace.collection::<Stream>(key)? else { continue };
        let Some(from) = id.next() else { continue };
        let entries = stream.entries().range(from, StreamId::MAX).take(request.count);
        let entries: Vec<Outcome> = entries.map(entry_outcome).collect();
        if !entries.is_empty() {
            streams.push((text(key), Outcome::List(entries)));
        }
    }
    Ok((!streams.is_empty()).then_some(Outcome::Streams(streams)))
}

/// Returns the id after which `XREAD` reads a stream.
fn after(keyspace: &Keyspace, key: &[u8], id: &[u8]) -> Attempt<StreamId> {
    let stream = keyspace.collection::<Stream>(key)?;
    match id {
        b"$" => Ok(stream.map_or(StreamId::MIN, Stream::last_id)),
        b">" => Err(Outcome::error(
            "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
             <consumer> option.",
        )),
        _ => strict_id(id, 0),
    }
}

/// Runs `XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key
/// [key ...] id [id ...]`: returns the entries that the group has not read yet, for the id `>`, or
/// those that are pending for the consumer and have higher ids.
pub(in crate::kv) fn xreadgroup(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let request = Request::parse(args.all(), true)?;
        let Some(reader) = request.reader else { return Err(Refusal::Syntax.into()) };
        let mut ids = Vec::new();
        for (key, id) in request.keys.iter().zip(request.ids) {
            ids.push(pending_after(keyspace, key, id, reader.group)?);
        }
        let mut streams = Vec::new();
        for (key, id) in request.keys.iter().zip(ids) {
            let entries = match id {
                Some(id) => Some(read_pending(keyspace, key, reader, id, request.count)?),
                None => read_new(keyspace, key, reader, request.count)?,
            };
            if let Some(entries) = entries {
                streams.push((text(key), Outcome::List(entries)));
            }
        }
        Ok(if streams.is_empty() { Outcome::NoList } else { Outcome::Streams(streams) })
    })
}

/// Runs `XREADGROUP` again for a client that has waited for new entries. Redis's errors.
pub(in crate::kv) fn xreadgroup_again(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let checked = attempt(|| {
        let request = Request::parse(args.all(), true)?;
        let group = request.reader.map_or(&b""[..], |reader| reader.group);
        for key in request.keys {
            let Ok(Some(stream)) = keyspace.collection::<Stream>(key) else {
                return Err(Outcome::error("UNBLOCKED the stream key no longer exists"));
            };
            if stream.groups.get(group).is_none() {
                return Err(Outcome::error(
                    "NOGROUP the consumer group this client was blocked on no longer exists",
                ));
            }
        }
        Ok(Outcome::Done)
    })?;
    if checked == Outcome::Done { xreadgroup(keyspace, args) } else { Ok(checked) }
}

/// Returns the id after which `XREADGROUP` reads pending entries; `None` if it reads new ones.
fn pending_after(
    keyspace: &Keyspace,
    key: &[u8],
    id: &[u8],
    group: &[u8],
) -> Attempt<Option<StreamId>> {
    let stream = keyspace.collection::<Stream>(key)?;
    if stream.is_none_or(|stream| stream.groups.get(group).is_none()) {
        return Err(error_of(&[
            b"NOGROUP No such key '",
            key,
            b"' or consumer group '",
            group,
            b"' in XREADGROUP with GROUP option",
        ]));
    }
    match id {
        b"$" => Err(Outcome::error(
            "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the \
             history of this consumer by specifying a proper ID, or use the > ID to get new \
             messages. The $ ID would just return an empty result set.",
        )),
        b">" => Ok(None),
        _ => Ok(Some(strict_id(id, 0)?).filter(|id| *id != StreamId::MAX)),
    }
}

/// Delivers entries that the group has not read yet to the consumer. Returns their outcomes; `None`
/// if there are none.
fn read_new(
    keyspace: &mut Keyspace,
    key: &[u8],
    reader: Reader<'_>,
    count: usize,
) -> Attempt<Option<Vec<Outcome>>> {
    let Some(stream) = keyspace.collection::<Stream>(key)? else { return Ok(None) };
    let last = stream.groups.get(reader.group).and_then(|group| group.last_id.next());
    let Some(from) = last else { return Ok(None) };
    let new = stream.entries().range(from, StreamId::MAX).take(count);
    let (ids, entries): (Vec<StreamId>, Vec<Outcome>) =
        new.map(|entry| (entry.id, entry_outcome(entry))).unzip();
    if ids.is_empty() {
        return Ok(None);
    }
    let now = keyspace.clock();
    let is_created = keyspace.update(key, |stream: &mut Stream| {
        stream.advance(reader.group, &ids);
        let created = stream.groups.change(reader.group, |group| {
            let created = group.see(reader.consumer, now);
            for id in ids.iter().filter(|_| !reader.needs_no_ack) {
                let consumer = reader.consumer.into();
                group.set_pending(*id, Pending { consumer, delivered_at: now, deliveries: 1 });
            }
            created
        });
        (created == Some(true), true)
    })?;
    note_reading(keyspace, key, is_created);
    Ok(Some(entries))
}

/// Delivers entries that are pending for the consumer, and have ids higher than `after`, once more.
/// Returns their outcomes.
fn read_pending(
    keyspace: &mut Keyspace,
    key: &[u8],
    reader: Reader<'_>,
    after: StreamId,
    count: usize,
) -> Attempt<Vec<Outcome>> {
    let now = keyspace.clock();
    let from = after.next().unwrap_or(StreamId::MAX);
    let (entries, is_created) = keyspace.update(key, |stream: &mut Stream| {
        let Some(group) = stream.groups.get(reader.group) else {
            return ((Vec::new(), false), false);
        };
        let pending = group.consumer(reader.consumer).map(|consumer| &consumer.pending);
        let ids = pending.into_iter().flat_map(|pending| pending.iter_from(from)).take(count);
        let found = ids.map(|(id, ())| (id, stream.entries().get(id)));
        let (mut delivered, mut outcomes) = (Vec::new(), Vec::new());
        for (id, entry) in found {
            outcomes.push(match entry {
                Some(entry) => {
                    delivered.push(id);
                    entry_outcome(entry)
                }
                None => Outcome::List(vec![id_text(id), Outcome::NoList]),
            });
        }
        let created = stream.groups.change(reader.group, |group| {
            let created = group.see(reader.consumer, now);
            for id in delivered {
                let Some(before) = group.pending().get(id).cloned() else { continue };
                let deliveries = before.deliveries.wrapping_add(1);
                group.set_pending(id, Pending { delivered_at: now, deliveries, ..before });
            }
            created
        });
        ((outcomes, created == Some(true)), true)
    })?;
    note_reading(keyspace, key, is_created);
    Ok(entries)
}

fn note_reading(keyspace: &mut Keyspace, key: &[u8], is_consumer_created: bool) {
    if is_consumer_created {
        keyspace.notify("xgroup-createconsumer", key);
    } else {
        keyspace.note_change("xreadgroup", key);
    }
}

impl<'a> Request<'a> {
    /// Parses the arguments of `XREADGROUP` if `has_group`, otherwise those of `XREAD`.
    fn parse(args: &'a [&'a [u8]], has_group: bool) -> Attempt<Request<'a>> {
        let (mut count, mut group, mut needs_no_ack, mut at) = (0, None, false, 0);
        let streams = loop {
            let Some((option, rest)) = args.get(at..).and_then(<[_]>::split_first) else {
                return Err(Refusal::Syntax.into());
            };
            if is(option, "BLOCK") && !rest.is_empty() {
                check_timeout(rest[0])?;
                at += 2;
            } else if is(option, "COUNT") && !rest.is_empty() {
                count = usize::try_from(integer(rest[0])?).unwrap_or(0);
                at += 2;
            } else if is(option, "STREAMS") && !rest.is_empty() {
                break rest;
            } else if is(option, "GROUP") && rest.len() >= 2 {
                if !has_group {
                    return Err(only_of_group("GROUP"));
                }
                group = Some((rest[0], rest[1]));
                at += 3;
            } else if is(option, "NOACK") {
                if !has_group {
                    return Err(only_of_group("NOACK"));
                }
                needs_no_ack = true;
                at += 1;
            } else {
                return Err(Refusal::Syntax.into());
            }
        };
        if !streams.len().is_multiple_of(2) {
            return Err(Outcome::error(
                "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be \
                 specified.",
            ));
        }
        let reader = group.map(|(group, consumer)| Reader { group, consumer, needs_no_ack });
        if has_group && reader.is_none() {
            return Err(Outcome::error("ERR Missing GROUP option for XREADGROUP"));
        }
        let (keys, ids) = streams.split_at(streams.len() / 2);
        let count = if count == 0 { usize::MAX } else { count };
        Ok(Request { count, keys, ids, reader })
    }

    /// Returns the ids after which `XREAD` reads the streams.
    fn ids_after(&self, keyspace: &Keyspace) -> Attempt<Vec<StreamId>> {
        self.keys.iter().zip(self.ids).map(|(key, id)| after(keyspace, key, id)).collect()
    }
}

fn only_of_group(option: &str) -> Outcome {
    Outcome::error(format!(
        "ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."
    ))
}

/// Checks the value of the option `BLOCK`, in milliseconds.
fn check_timeout(millis: &[u8]) -> Attempt<()> {
    match parse_integer(millis) {
        None => Err(Outcome::error("ERR timeout is not an integer or out of range")),
        Some(..=-1) => Err(Outcome::error("ERR timeout is negative")),
        Some(_) => Ok(()),
    }
}
