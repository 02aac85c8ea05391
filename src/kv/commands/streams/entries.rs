//! Commands on the entries of a stream.

use super::arguments::{
    self, Options, TrimOptions, integer, is, range_end, range_start, strict_id,
};
use super::{Attempt, attempt, entry_outcome, id_text};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::stream::entries::Fields;
use crate::kv::values::stream::id::StreamId;
use crate::kv::values::stream::{Stream, WantedId};

/// Runs `XADD key [NOMKSTREAM] [MAXLEN | MINID [= | ~] threshold [LIMIT count]] * | id field value
/// [field value ...]`: adds an entry to a stream, and returns its id.
pub(in crate::kv) fn xadd(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let key = args.get(0)?;
        let Options { trim, only_existing, len, id } = arguments::options(args.rest(1), true)?;
        let fields = args.rest(len + 2);
        if fields.is_empty() || !fields.len().is_multiple_of(2) {
            return Err(Outcome::wrong_number("xadd"));
        }
        if id.and_then(|id| id.complete(0)) == Some(StreamId::MIN) {
            return Err(Outcome::error("ERR The ID specified in XADD must be greater than 0-0"));
        }
        match keyspace.collection::<Stream>(key)? {
            None if only_existing => return Ok(Outcome::Value(None)),
            Some(stream) if stream.last_id() == StreamId::MAX => {
                return Err(Outcome::error(
                    "ERR The stream has exhausted the last possible ID, unable to add more items",
                ));
            }
            _ => {}
        }
        let wanted = id.map_or(WantedId::At(keyspace.clock()), WantedId::Given);
        let (added, trimmed) = keyspace.update(key, |stream: &mut Stream| {
            let added = stream.add(wanted, Fields::new(fields));
            let trimmed = match trim.filter(|_| added.is_ok()) {
                Some(TrimOptions { trim, is_approximate, limit }) => {
                    stream.trim(trim, is_approximate, limit)
                }
                None => 0,
            };
            ((added, trimmed), added.is_ok())
        })?;
        let Ok(id) = added else {
            return Err(Outcome::error(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ));
        };
        keyspace.notify("xadd", key);
        if trimmed > 0 {
            keyspace.notify("xtrim", key);
        }
        Ok(id_text(id))
    })
}

/// Runs `XLEN key`: returns the number of entries of a stream.
pub(in crate::kv) fn xlen(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let stream = keyspace.collection::<Stream>(args.get(0)?)?;
    Ok(Outcome::count(stream.map_or(0, |stream| stream.entries().len())))
}

/// Runs `XRANGE key start end [COUNT count]`: returns the entries with ids in a range.
pub(in crate::kv) fn xrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (start, end) = (range_start(args.get(1)?)?, range_end(args.get(2)?)?);
        range(keyspace, args, start, end, false)
    })
}

/// Runs `XREVRANGE key end start [COUNT count]`: returns the entries with ids in a range, in
/// descending order.
pub(in crate::kv) fn xrevrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (start, end) = (range_start(args.get(2)?)?, range_end(args.get(1)?)?);
        range(keyspace, args, start, end, true)
    })
}

fn range(
    keyspace: &Keyspace,
    args: &Args<'_>,
    start: StreamId,
    end: StreamId,
    is_reverse: bool,
) -> Attempt<Outcome> {
    let mut count = usize::MAX;
    for option in args.rest(3).chunks(2) {
        let [name, value] = option else { return Err(Refusal::Syntax.into()) };
        if !is(name, "COUNT") {
            return Err(Refusal::Syntax.into());
        }
        count = usize::try_from(integer(value)?).unwrap_or(0);
    }
    let Some(stream) = keyspace.collection::<Stream>(args.get(0)?)? else {
        return Ok(Outcome::List(Vec::new()));
    };
    if count == 0 {
        return Ok(Outcome::NoList);
    }
    let entries = stream.entries();
    Ok(Outcome::List(if is_reverse {
        entries.range_rev(start, end).take(count).map(entry_outcome).collect()
    } else {
        entries.range(start, end).take(count).map(entry_outcome).collect()
    }))
}

/// Runs `XDEL key id [id ...]`: removes entries from a stream, and returns their number.
pub(in crate::kv) fn xdel(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let key = args.get(0)?;
        if keyspace.collection::<Stream>(key)?.is_none() {
            return Ok(Outcome::Integer(0));
        }
        let ids = args.rest(1).iter().map(|id| strict_id(id, 0));
        let ids: Vec<StreamId> = ids.collect::<Attempt<_>>()?;
        let deleted = keyspace.update(key, |stream: &mut Stream| {
            let deleted = stream.delete(&ids);
            (deleted, deleted > 0)
        })?;
        if deleted > 0 {
            keyspace.notify("xdel", key);
        }
        Ok(Outcome::count(deleted))
    })
}

/// Runs `XTRIM key MAXLEN | MINID [= | ~] threshold [LIMIT count]`: removes entries from the start
/// of a stream, and returns their number.
pub(in crate::kv) fn xtrim(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let key = args.get(0)?;
        let Some(options) = arguments::options(args.rest(1), false)?.trim else {
            return Err(Refusal::Syntax.into());
        };
        let TrimOptions { trim, is_approximate, limit } = options;
        let trimmed = keyspace.update_existing(key, |stream: &mut Stream| {
            let trimmed = stream.trim(trim, is_approximate, limit);
            (trimmed, trimmed > 0)
        })?;
        let trimmed = trimmed.unwrap_or(0);
        if trimmed > 0 {
            keyspace.notify("xtrim", key);
        }
        Ok(Outcome::count(trimmed))
    })
}

/// Runs `XSETID key id [ENTRIESADDED count] [MAXDELETEDID id]`: sets the last id of a stream.
pub(in crate::kv) fn xsetid(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, id) = (args.get(0)?, strict_id(args.get(1)?, 0)?);
        let (mut added, mut max_deleted) = (None, StreamId::MIN);
        for option in args.rest(2).chunks(2) {
            let [name, value] = option else { return Err(Refusal::Syntax.into()) };
            if is(name, "ENTRIESADDED") {
                let count = u64::try_from(integer(value)?);
                let error = || Outcome::error("ERR entries_added must be positive");
                added = Some(count.map_err(|_| error())?);
            } else if is(name, "MAXDELETEDID") {
                max_deleted = strict_id(value, 0)?;
                if id < max_deleted {
                    return Err(Outcome::error(
                        "ERR The ID specified in XSETID is smaller than the provided \
                         max_deleted_entry_id",
                    ));
                }
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        let stream = keyspace.collection::<Stream>(key)?.ok_or(Refusal::NoSuchKey)?;
        if let Some(last) = stream.entries().last() {
            if id < last.id {
                return Err(Outcome::error(
                    "ERR The ID specified in XSETID is smaller than the target stream top item",
                ));
            }
            if added.is_some_and(|added| added < stream.entries().len() as u64) {
                return Err(Outcome::error(
                    "ERR The entries_added specified in XSETID is smaller than the target stream \
                     length",
                ));
            }
        }
        let max_deleted = Some(max_deleted).filter(|id| *id != StreamId::MIN);
        keyspace.update(key, |stream: &mut Stream| {
            (stream.set_last_id(id, added, max_deleted), true)
        })?;
        keyspace.notify("xsetid", key);
        Ok(Outcome::Done)
    })
}
