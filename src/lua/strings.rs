//! Functions of the library `string` that take the place of Lua's own: `find`, `match`, `gmatch`,
//! `gsub` and `rep`, since those can work without end; `upper`, `lower` and `reverse`, since their
//! work must count in proportion to the length of the text.

use std::sync::atomic::{AtomicUsize, Ordering};

use mlua::{Function, IntoLua, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::{self, Arguments};
use super::meter::{Meter, Output};
use super::patterns::{Capture, Matcher, PatternError};
use super::raise;

/// Letters that make a pattern of a text.
const SPECIALS: &[u8] = b"^$*+?.([%-";

/// A change of a text in place.
type Change = fn(&mut [u8]);

/// Adds the functions to a table. `pcall` is Lua's own.
pub(super) fn add(lua: &Lua, table: &Table, pcall: &Function) -> mlua::Result<()> {
    table.raw_set("find", lua.create_function(|lua, args| find(lua, args, true))?)?;
    table.raw_set("match", lua.create_function(|lua, args| find(lua, args, false))?)?;
    table.raw_set("gmatch", lua.create_function(gmatch)?)?;
    table.raw_set("rep", lua.create_function(rep)?)?;
    for (name, change) in [
        ("upper", <[u8]>::make_ascii_uppercase as Change),
        ("lower", <[u8]>::make_ascii_lowercase),
        ("reverse", <[u8]>::reverse),
    ] {
        let function = lua.create_function(move |lua, args| changed(lua, args, change))?;
        table.raw_set(name, function)?;
    }
    let pcall = pcall.clone();
    table.raw_set("gsub", lua.create_function(move |lua, args| gsub(lua, args, &pcall))?)
}

/// Returns the first argument, a text, after `change`.
fn changed(lua: &Lua, args: MultiValue, change: Change) -> mlua::Result<LuaValue> {
    let mut text = Arguments::new(lua, args).string(1)?;
    Meter::of(lua).work_on_bytes(text.len())?;
    change(&mut text);
    lua.create_string(text)?.into_lua(lua)
}

/// Returns a pattern as C sees it: up to the first zero byte.
fn c_string(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len())]
}

fn matcher<'a>(
    subject: &'a [u8],
    pattern: &'a [u8],
    meter: &Meter,
) -> Matcher<'a, impl FnMut() -> bool> {
    Matcher::new(subject, pattern, move || meter.charge(1000).is_ok())
}

/// Raises what is wrong with a pattern, or ends the script.
fn failed(lua: &Lua, error: &PatternError) -> mlua::Error {
    match error {
        PatternError::Malformed(text) => raise::error(lua, text),
        PatternError::Exhausted => match Meter::of(lua).charge(0) {
            Err(ending) => raise::ending(ending),
            Ok(()) => raise::ending(raise::Ending::Instructions),
        },
    }
}

/// A match of a pattern, from `begin` to `end` of the subject.
struct Match<'a, W: FnMut() -> bool> {
    lua: &'a Lua,
    matcher: &'a Matcher<'a, W>,
    subject: &'a [u8],
    begin: usize,
    end: usize,
}

impl<W: FnMut() -> bool> Match<'_, W> {
    /// Returns all captures; the whole match if there are none.
    fn captures(&self) -> mlua::Result<Vec<LuaValue>> {
        (0..self.matcher.count().max(1)).map(|index| self.capture(index)).collect()
    }

    fn capture(&self, index: usize) -> mlua::Result<LuaValue> {
        let capture = self.matcher.capture(index, self.begin, self.end);
        match capture.map_err(|error| failed(self.lua, &error))? {
            Capture::Range(begin, len) => {
                self.lua.create_string(&self.subject[begin..begin + len])?.into_lua(self.lua)
            }
            Capture::Position(at) | Capture::Open(at) => Ok(LuaValue::Number((at + 1) as f64)),
        }
    }
}

/// `string.find` and `string.match`.
fn find(lua: &Lua, args: MultiValue, find: bool) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let subject = args.string(1)?;
    let pattern = args.string(2)?;
    let start = args.integer_or(3, 1)?;
    let start = if start < 0 { start + len(&subject) + 1 } else { start };
    let start = usize::try_from(start - 1).unwrap_or(0).min(subject.len());
    let meter = Meter::of(lua);
    meter.work((subject.len() / 64) as u64)?;
    let plain = find && matches!(args.get(4), Some(value) if !is_false(value));
    let special = c_string(&pattern).iter().any(|byte| SPECIALS.contains(byte));
    if find && (plain || !special) {
        let found = find_plain(&subject[start..], &pattern, &meter)?;
        return Ok(MultiValue::from_vec(match found {
            Some(at) => vec![
                LuaValue::Number((start + at + 1) as f64),
                LuaValue::Number((start + at + pattern.len()) as f64),
            ],
            None => vec![LuaValue::Nil],
        }));
    }
    let pattern = c_string(&pattern);
    let (pattern, anchored) = match pattern.split_first() {
        Some((b'^', rest)) => (rest, true),
        _ => (pattern, false),
    };
    let mut matcher = matcher(&subject, pattern, &meter);
    for at in start..=subject.len() {
        if let Some(end) = matcher.match_at(at).map_err(|error| failed(lua, &error))? {
            let mut values = Vec::new();
            if find {
                values.push(LuaValue::Number((at + 1) as f64));
                values.push(LuaValue::Number(end as f64));
            }
            if !find || matcher.count() > 0 {
                let found = Match { lua, matcher: &matcher, subject: &subject, begin: at, end };
                values.extend(found.captures()?);
            }
            return Ok(MultiValue::from_vec(values));
        }
        if anchored {
            break;
        }
    }
    Ok(MultiValue::from_vec(vec![LuaValue::Nil]))
}

fn len(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

fn is_false(value: &LuaValue) -> bool {
    matches!(value, LuaValue::Nil | LuaValue::Boolean(false))
}

fn find_plain(subject: &[u8], wanted: &[u8], meter: &Meter) -> mlua::Result<Option<usize>> {
    let Some((first, rest)) = wanted.split_first() else { return Ok(Some(0)) };
    let mut at = 0;
    let mut work = 0;
    while let Some(found) = subject[at..].iter().position(|byte| byte == first) {
        at += found + 1;
        let tail = &subject[at..];
        if tail.starts_with(rest) {
            return Ok(Some(at - 1));
        }
        let equal = tail.iter().zip(rest).take_while(|(a, b)| a == b).count();
        work += found / 16 + equal / 8 + 1;
        if work > 1000 {
            meter.work(work as u64)?;
            work = 0;
        }
    }
    Ok(None)
}

/// `string.gmatch`: returns a function that returns the captures of the next match.
fn gmatch(lua: &Lua, args: MultiValue) -> mlua::Result<Function> {
    let args = Arguments::new(lua, args);
    let subject = args.string(1)?;
    let pattern = args.string(2)?;
    let next = AtomicUsize::new(0);
    lua.create_function(move |lua, _: MultiValue| {
        let meter = Meter::of(lua);
        let mut matcher = matcher(&subject, c_string(&pattern), &meter);
        for at in next.load(Ordering::Relaxed)..=subject.len() {
            if let Some(end) = matcher.match_at(at).map_err(|error| failed(lua, &error))? {
                next.store(end + usize::from(end == at), Ordering::Relaxed);
                let found = Match { lua, matcher: &matcher, subject: &subject, begin: at, end };
                return Ok(MultiValue::from_vec(found.captures()?));
            }
        }
        Ok(MultiValue::new())
    })
}

/// `string.gsub`.
fn gsub(lua: &Lua, args: MultiValue, pcall: &Function) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let subject = args.string(1)?;
    let pattern = args.string(2)?;
    let replacement = match args.get(3) {
        Some(value @ (LuaValue::Function(_) | LuaValue::Table(_))) => value.clone(),
        Some(value) if arguments::to_bytes(value).is_some() => value.clone(),
        _ => return Err(args.error(3, "string/function/table expected")),
    };
    let limit = args.integer_or(4, len(&subject) + 1)?;
    let pattern = c_string(&pattern);
    let (pattern, anchored) = match pattern.split_first() {
        Some((b'^', rest)) => (rest, true),
        _ => (pattern, false),
    };
    let meter = Meter::of(lua);
    let mut matcher = matcher(&subject, pattern, &meter);
    let mut out = Output::new(lua);
    let mut at = 0;
    let mut count = 0;
    while count < limit {
        let end = matcher.match_at(at).map_err(|error| failed(lua, &error))?;
        if let Some(end) = end {
            count += 1;
            let found = Match { lua, matcher: &matcher, subject: &subject, begin: at, end };
            match replace(&found, &replacement, pcall)? {
                Some(bytes) => out.extend(&bytes)?,
                None => out.extend(&subject[at..end])?,
            }
        }
        match end {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                out.push(subject[at])?;
                at += 1;
            }
            _ => break,
        }
        if anchored {
            break;
        }
    }
    out.extend(&subject[at..])?;
    let text = lua.create_string(out.bytes)?.into_lua(lua)?;
    Ok(MultiValue::from_vec(vec![text, LuaValue::Number(count as f64)]))
}

/// Returns what replaces a match; `None` leaves it as it is.
fn replace<W: FnMut() -> bool>(
    found: &Match<'_, W>,
    replacement: &LuaValue,
    pcall: &Function,
) -> mlua::Result<Option<Vec<u8>>> {
    let value = match replacement {
        LuaValue::Function(function) => {
            // Not a call by Rust, which would turn the error of the function into a text.
            let mut args = vec![LuaValue::Function(function.clone())];
            args.extend(found.captures()?);
            let mut results = pcall.call::<MultiValue>(MultiValue::from_vec(args))?;
            let ok = results.pop_front();
            let value = results.pop_front().unwrap_or(LuaValue::Nil);
            match (ok, value) {
                (Some(LuaValue::Boolean(true)), value) => value,
                (_, LuaValue::Error(error)) => return Err(*error),
                (_, error) => return Err(raise::value_error(error)),
            }
        }
        LuaValue::Table(table) => table.get(found.capture(0)?)?,
        other => {
            let template = arguments::to_bytes(other).unwrap_or_default();
            return expand(found, &template).map(Some);
        }
    };
    if is_false(&value) {
        return Ok(None);
    }
    let bytes = arguments::to_bytes(&value);
    let Some(bytes) = bytes else {
        let name = arguments::type_name(Some(&value));
        return Err(raise::error(found.lua, format!("invalid replacement value (a {name})")));
    };
    Ok(Some(bytes))
}

/// Returns a replacement text with its `%1` and the like filled in.
fn expand<W: FnMut() -> bool>(found: &Match<'_, W>, template: &[u8]) -> mlua::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(template.len());
    let mut letters = template.iter();
    while let Some(&letter) = letters.next() {
        if letter != b'%' {
            bytes.push(letter);
            continue;
        }
        match letters.next().copied().unwrap_or(0) {
            b'0' => bytes.extend_from_slice(&found.subject[found.begin..found.end]),
            digit @ b'1'..=b'9' => {
                let capture = found.capture(usize::from(digit - b'1'))?;
                bytes.extend(arguments::to_bytes(&capture).unwrap_or_default());
            }
            other => bytes.push(other),
        }
        Meter::of(found.lua).check_bytes(bytes.len())?;
    }
    Ok(bytes)
}

/// `string.rep`.
fn rep(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = Arguments::new(lua, args);
    let text = args.string(1)?;
    #[allow(clippy::cast_possible_truncation, reason = "As C's `int`")]
    let count = usize::try_from(args.integer(2)? as i32).unwrap_or(0);
    let len = text.len().saturating_mul(count);
    let meter = Meter::of(lua);
    meter.check_bytes(len)?;
    meter.work((len / 64) as u64)?;
    let bytes = if len == 0 { Vec::new() } else { text.repeat(count) };
    lua.create_string(bytes)?.into_lua(lua)
}
