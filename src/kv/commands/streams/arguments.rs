//! Arguments of stream commands: ids, ranges of ids, options.

use super::Attempt;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::values::number::parse_integer;
use crate::kv::values::stream::entries::Trim;
use crate::kv::values::stream::id::{PartialId, StreamId};

/// Maximum number of entries that an approximate trim removes if the option `LIMIT` is missing, as
/// in Redis: 100 chunks of 100 entries.
const TRIMMED_MAX: u64 = 10_000;

/// Returns whether `word` is the name of the option `name`, in any case.
pub(super) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// Parses an integer.
pub(super) fn integer(word: &[u8]) -> Attempt<i64> {
    Ok(parse_integer(word).ok_or(Refusal::NotAnInteger)?)
}

fn invalid_id() -> Outcome {
    Outcome::error("ERR Invalid stream ID specified as stream command argument")
}

/// Parses an id whose sequence number may be missing or to be chosen.
pub(super) fn partial_id(word: &[u8]) -> Attempt<PartialId> {
    PartialId::parse(word).ok_or_else(invalid_id)
}

/// Parses an id, whose sequence number is `missing` if it is missing. Does not accept `-` and `+`.
pub(super) fn strict_id(word: &[u8], missing: u64) -> Attempt<StreamId> {
    partial_id(word)?.complete(missing).ok_or_else(invalid_id)
}

/// Parses an id, or `-` or `+` for the lowest or the highest one.
pub(super) fn any_id(word: &[u8], missing: u64) -> Attempt<StreamId> {
    match word {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => strict_id(word, missing),
    }
}

/// Parses the start of a range: an id, which is excluded if it follows `(`.
pub(super) fn range_start(word: &[u8]) -> Attempt<StreamId> {
    match excluded(word) {
        None => any_id(word, 0),
        Some(id) => strict_id(id, 0)?
            .next()
            .ok_or_else(|| Outcome::error("ERR invalid start ID for the interval")),
    }
}

/// Parses the end of a range: an id, which is excluded if it follows `(`.
pub(super) fn range_end(word: &[u8]) -> Attempt<StreamId> {
    match excluded(word) {
        None => any_id(word, u64::MAX),
        Some(id) => strict_id(id, u64::MAX)?
            .previous()
            .ok_or_else(|| Outcome::error("ERR invalid end ID for the interval")),
    }
}

fn excluded(word: &[u8]) -> Option<&[u8]> {
    word.strip_prefix(b"(").filter(|id| !id.is_empty())
}

/// The options of `XADD` and `XTRIM` that say what to remove from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrimOptions {
    pub(super) trim: Trim,
    /// Option `~`: whether only whole chunks are removed.
    pub(super) is_approximate: bool,
    /// Maximum number of removed entries; 0 for no limit.
    pub(super) limit: u64,
}

/// The options of `XADD` or `XTRIM`.
pub(super) struct Options {
    pub(super) trim: Option<TrimOptions>,
    /// Option `NOMKSTREAM`: whether a missing key is not created.
    pub(super) only_existing: bool,
    /// Number of arguments that are options.
    pub(super) len: usize,
    /// The id in the argument after the options; `None` for `*` or if there is no argument.
    pub(super) id: Option<PartialId>,
}

/// Parses the options in `args`, the arguments after the key. If `has_id`, as for `XADD`, the first
/// argument that is not an option is an id.
pub(super) fn options(args: &[&[u8]], has_id: bool) -> Attempt<Options> {
    let mut options = Options { trim: None, only_existing: false, len: 0, id: None };
    let (mut trim, mut limit) = (None, None);
    let mut at = 0;
    while let Some(word) = args.get(at) {
        let rest = &args[at + 1..];
        if has_id && *word == b"*" {
            break;
        } else if (is(word, "MAXLEN") || is(word, "MINID")) && !rest.is_empty() {
            if trim.is_some() {
                return Err(Outcome::error(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not \
                     compatible",
                ));
            }
            let has_sign = rest.len() >= 2 && matches!(rest[0], b"~" | b"=");
            let is_approximate = has_sign && rest[0] == b"~";
            let value = rest[usize::from(has_sign)];
            trim = Some((threshold(is(word, "MAXLEN"), value)?, is_approximate));
            at += 2 + usize::from(has_sign);
        } else if is(word, "LIMIT") && !rest.is_empty() {
            let count = u64::try_from(integer(rest[0])?);
            let error = || Outcome::error("ERR The LIMIT argument must be >= 0.");
            limit = Some(count.map_err(|_| error())?);
            at += 2;
        } else if has_id && is(word, "NOMKSTREAM") {
            options.only_existing = true;
            at += 1;
        } else if has_id {
            options.id = Some(partial_id(word)?);
            break;
        } else {
            return Err(Refusal::Syntax.into());
        }
    }
    options.len = at;
    if trim.is_none() && !has_id && matches!(limit, None | Some(0)) {
        return Err(Outcome::error(
            "ERR syntax error, XTRIM must be called with a trimming strategy",
        ));
    }
    options.trim = trim_options(trim, limit)?;
    Ok(options)
}

fn threshold(is_length: bool, value: &[u8]) -> Attempt<Trim> {
    if !is_length {
        return Ok(Trim::MinId(strict_id(value, 0)?));
    }
    match u64::try_from(integer(value)?) {
        Ok(length) => Ok(Trim::Length(length)),
        Err(_) => Err(Outcome::error("ERR The MAXLEN argument must be >= 0.")),
    }
}

fn trim_options(trim: Option<(Trim, bool)>, limit: Option<u64>) -> Attempt<Option<TrimOptions>> {
    let needs_strategy =
        "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy";
    let needs_sign = "ERR syntax error, LIMIT cannot be used without the special ~ option";
    let Some((trim, is_approximate)) = trim else {
        return match limit {
            None => Ok(None),
            Some(0) => Err(Outcome::error(needs_sign)),
            Some(_) => Err(Outcome::error(needs_strategy)),
        };
    };
    let limit = match limit {
        None if is_approximate => TRIMMED_MAX,
        None => 0,
        Some(limit) if is_approximate => limit,
        Some(_) => return Err(Outcome::error(needs_sign)),
    };
    Ok(Some(TrimOptions { trim, is_approximate, limit }))
}
