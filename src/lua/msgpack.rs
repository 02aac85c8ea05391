//! The library `cmsgpack`: values in `MessagePack`.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Lua passes the arguments of a function by value"
)]

use std::sync::Arc;

use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::Arguments;
use super::meter::{Meter, Output};
use super::raise;

/// Tables that are nested deeper than this are written as nil.
const NESTING_MAX: usize = 16;

/// How deep arrays and maps may be nested when they are read.
const READ_DEPTH_MAX: usize = 1000;

/// Values that `unpack` returns at once, at most: the size of Lua's stack for one call.
const RESULTS_MAX: usize = 7900;

/// Returns the library.
pub(super) fn create(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", lua.create_function(pack)?)?;
    library.raw_set("unpack", lua.create_function(|lua, args| unpack(lua, args, Some((0, 0))))?)?;
    library.raw_set("unpack_one", lua.create_function(unpack_one)?)?;
    library.raw_set("unpack_limit", lua.create_function(|lua, args| unpack(lua, args, None))?)?;
    library.raw_set("_NAME", "cmsgpack")?;
    library.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    library.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    library.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(library)
}

fn pack(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    if args.is_empty() {
        return Err(raise::argument_error(lua, 0, "MessagePack pack needs input."));
    }
    let mut out = Output::new(lua);
    for value in &args {
        write(value, &mut out, 0)?;
    }
    lua.create_string(out.bytes)?.into_lua(lua)
}

fn write(value: &LuaValue, out: &mut Output, depth: usize) -> mlua::Result<()> {
    out.count_value()?;
    match value {
        LuaValue::String(text) => {
            let bytes = text.as_bytes();
            match bytes.len() {
                len @ 0..32 => out.push(0xa0 | low_byte(len))?,
                len @ 32..0x100 => out.extend(&[0xd9, low_byte(len)])?,
                len => write_length(out, len, 0xda)?,
            }
            out.extend(&bytes)
        }
        LuaValue::Boolean(truth) => out.push(0xc2 | u8::from(*truth)),
        LuaValue::Integer(number) => write_integer(*number, out),
        LuaValue::Number(number) => write_number(*number, out),
        LuaValue::Table(table) if depth < NESTING_MAX => write_table(table, out, depth),
        _ => out.push(0xc0),
    }
}

fn write_number(number: f64, out: &mut Output) -> mlua::Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "compared with the number below")]
    let (integer, single) = (number as i64, number as f32);
    #[allow(clippy::float_cmp, reason = "Only numbers that survive the conversion unchanged")]
    if integer as f64 == number && integer != i64::MAX {
        write_integer(integer, out)
    } else if f64::from(single) == number {
        out.push(0xca)?;
        out.extend(&single.to_be_bytes())
    } else {
        out.push(0xcb)?;
        out.extend(&number.to_be_bytes())
    }
}

fn write_integer(number: i64, out: &mut Output) -> mlua::Result<()> {
    let bytes = number.to_be_bytes();
    if (-32..=127).contains(&number) {
        return out.push(bytes[7]);
    }
    let (kind, len) = match number {
        0..=0xff => (0xcc, 1),
        0x100..=0xffff => (0xcd, 2),
        0x1_0000..=0xffff_ffff => (0xce, 4),
        0x1_0000_0000.. => (0xcf, 8),
        -0x80..=-1 => (0xd0, 1),
        -0x8000..=-0x81 => (0xd1, 2),
        -0x8000_0000..=-0x8001 => (0xd2, 4),
        _ => (0xd3, 8),
    };
    out.push(kind)?;
    out.extend(&bytes[8 - len..])
}

/// Writes a length of two or four bytes, after `kind` or the kind that follows it.
fn write_length(out: &mut Output, len: usize, kind: u8) -> mlua::Result<()> {
    if let Ok(len) = u16::try_from(len) {
        out.push(kind)?;
        out.extend(&len.to_be_bytes())
    } else {
        out.push(kind + 1)?;
        out.extend(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes())
    }
}

fn write_table(table: &Table, out: &mut Output, depth: usize) -> mlua::Result<()> {
    let mut count = 0;
    let mut largest = 0.0;
    let mut is_array = true;
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, _) = pair?;
        out.count_value()?;
        count += 1;
        let number = match &key {
            LuaValue::Integer(number) => Some(*number as f64),
            LuaValue::Number(number) => Some(*number),
            _ => None,
        };
        match number {
            Some(number)
                if number > 0.0 && number.fract() == 0.0 && number <= f64::from(i32::MAX) =>
            {
                largest = f64::max(largest, number);
            }
            _ => is_array = false,
        }
    }
    #[allow(clippy::float_cmp, reason = "Both are integers")]
    if is_array && largest == count as f64 {
        let len = table.raw_len();
        match len {
            0..16 => out.push(0x90 | low_byte(len))?,
            len => write_length(out, len, 0xdc)?,
        }
        for at in 1..=len {
            write(&table.get(at)?, out, depth + 1)?;
        }
        return Ok(());
    }
    match count {
        0..16 => out.push(0x80 | low_byte(count))?,
        count => write_length(out, count, 0xde)?,
    }
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, value) = pair?;
        write(&key, out, depth + 1)?;
        write(&value, out, depth + 1)?;
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "The caller has checked the range")]
fn low_byte(number: usize) -> u8 {
    number as u8
}

fn unpack_one(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let offset = Arguments::new(lua, args.clone()).integer_or(2, 0)?;
    unpack(lua, args, Some((1, offset)))
}

/// Reads values from the string in the first argument. Without a `range`, the limit of their number
/// and the first byte are the other arguments.
fn unpack(lua: &Lua, args: MultiValue, range: Option<(i64, i64)>) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let (limit, offset) = match range {
        Some(range) => range,
        None => (args.integer(2)?, args.integer_or(3, 0)?),
    };
    let data = args.string(1)?;
    let len = data.len();
    let all = limit == 0 && offset == 0;
    // C converts to `int`.
    #[allow(clippy::cast_possible_truncation, reason = "as C does")]
    let (limit, offset) = (limit as i32, offset as i32);
    let (Ok(limit), Ok(start)) = (usize::try_from(limit), usize::try_from(offset)) else {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {len}.");
        return Err(raise::error(lua, text));
    };
    if start > len {
        let text = format!("Start offset {start} greater than input length {len}.");
        return Err(raise::error(lua, text));
    }
    let limit = if all { usize::MAX } else { limit };
    let mut reader = Reader { lua, rest: &data[start..], meter: Meter::of(lua) };
    let mut values = Vec::new();
    while !reader.rest.is_empty() && values.len() < limit {
        if values.len() >= RESULTS_MAX {
            return Err(raise::error(
                lua,
                "stack overflow (too many return values at once; use unpack_one or unpack_limit \
                 instead.)",
            ));
        }
        values.push(reader.value(0)?);
    }
    if !all {
        let next = if reader.rest.is_empty() { -1.0 } else { (len - reader.rest.len()) as f64 };
        values.insert(0, LuaValue::Number(next));
    }
    Ok(MultiValue::from_vec(values))
}

struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
    meter: Arc<Meter>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> mlua::Result<LuaValue> {
        let kind = self.bytes(1)?[0];
        let number = match kind {
            0x00..=0x7f => f64::from(kind),
            0xe0..=0xff => f64::from(kind.cast_signed()),
            0xcc => f64::from(self.fixed::<1>()?[0]),
            0xcd => f64::from(u16::from_be_bytes(self.fixed()?)),
            0xce => f64::from(u32::from_be_bytes(self.fixed()?)),
            // As in Redis, large unsigned numbers become negative.
            0xcf | 0xd3 => i64::from_be_bytes(self.fixed()?) as f64,
            0xd0 => f64::from(i8::from_be_bytes(self.fixed()?)),
            0xd1 => f64::from(i16::from_be_bytes(self.fixed()?)),
            0xd2 => f64::from(i32::from_be_bytes(self.fixed()?)),
            0xca => f64::from(f32::from_be_bytes(self.fixed()?)),
            0xcb => f64::from_be_bytes(self.fixed()?),
            _ => return self.other(kind, depth),
        };
        Ok(LuaValue::Number(number))
    }

    fn other(&mut self, kind: u8, depth: usize) -> mlua::Result<LuaValue> {
        match kind {
            0xc0 => Ok(LuaValue::Nil),
            0xc2 => Ok(LuaValue::Boolean(false)),
            0xc3 => Ok(LuaValue::Boolean(true)),
            0xa0..=0xbf => self.string(usize::from(kind & 0x1f)),
            0xd9..=0xdb => {
                let len = self.length(1 << (kind - 0xd9))?;
                self.string(len)
            }
            0x90..=0x9f => self.array(usize::from(kind & 0xf), depth),
            0xdc | 0xdd => {
                let len = self.length(2 << (kind - 0xdc))?;
                self.array(len, depth)
            }
            0x80..=0x8f => self.map(usize::from(kind & 0xf), depth),
            0xde | 0xdf => {
                let len = self.length(2 << (kind - 0xde))?;
                self.map(len, depth)
            }
            _ => Err(raise::error(self.lua, "Bad data format in input.")),
        }
    }

    fn string(&mut self, len: usize) -> mlua::Result<LuaValue> {
        let bytes = self.bytes(len)?;
        self.lua.create_string(bytes)?.into_lua(self.lua)
    }

    fn array(&mut self, len: usize, depth: usize) -> mlua::Result<LuaValue> {
        self.check_depth(depth, "mp_decode_to_lua_array")?;
        let table = self.lua.create_table()?;
        for at in 1..=len {
            let item = self.value(depth + 1)?;
            self.meter.work(1)?;
            table.raw_set(at, item)?;
        }
        Ok(LuaValue::Table(table))
    }

    fn map(&mut self, len: usize, depth: usize) -> mlua::Result<LuaValue> {
        self.check_depth(depth, "mp_decode_to_lua_hash")?;
        let table = self.lua.create_table()?;
        for _ in 0..len {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            self.meter.work(1)?;
            match key {
                LuaValue::Nil => return Err(raise::plain_error("table index is nil")),
                LuaValue::Number(number) if number.is_nan() => {
                    return Err(raise::plain_error("table index is NaN"));
                }
                key => table.raw_set(key, value)?,
            }
        }
        Ok(LuaValue::Table(table))
    }

    fn check_depth(&self, depth: usize, function: &str) -> mlua::Result<()> {
        if depth < READ_DEPTH_MAX {
            return Ok(());
        }
        Err(raise::error(self.lua, format!("stack overflow (in function {function})")))
    }

    /// Returns a length of one, two or four bytes.
    fn length(&mut self, len: usize) -> mlua::Result<usize> {
        let bytes = self.bytes(len)?;
        Ok(bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
    }

    fn fixed<const N: usize>(&mut self) -> mlua::Result<[u8; N]> {
        self.bytes(N).map(|bytes| bytes.try_into().unwrap_or([0; N]))
    }

    fn bytes(&mut self, len: usize) -> mlua::Result<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(raise::error(self.lua, "Missing bytes in input."));
        };
        self.rest = rest;
        Ok(bytes)
    }
}
