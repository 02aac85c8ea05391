//! Lua values from replies of commands, and replies from the values that scripts return.

use std::sync::Arc;

use mlua::{Lua, Table, Value as LuaValue};

use super::meter::{INSTRUCTIONS_PER_VALUE, Meter};
use super::{Value, number};

/// How deep the tables that a script returns may be nested. Redis runs out of Lua's stack at about
/// 8,000, or of its own.
const DEPTH_MAX: usize = 1000;

/// Returns the Lua value of a reply.
pub(super) fn to_lua(lua: &Lua, value: Value, resp3: bool) -> mlua::Result<LuaValue> {
    Ok(match value {
        Value::Null | Value::NullArray if resp3 => LuaValue::Nil,
        Value::Null | Value::NullArray => LuaValue::Boolean(false),
        Value::Status(text) => field(lua, "ok", lua.create_string(text)?)?,
        Value::Error(text) => error_table(lua, &text)?,
        #[allow(clippy::cast_precision_loss, reason = "As Redis does: Lua 5.1 has no integers")]
        Value::Integer(integer) => LuaValue::Number(integer as f64),
        Value::Bulk(bytes) => LuaValue::String(lua.create_string(bytes)?),
        Value::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (at, item) in items.into_iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, item, resp3)?)?;
            }
            LuaValue::Table(table)
        }
        Value::Map(pairs) => {
            let map = lua.create_table_with_capacity(0, pairs.len())?;
            for (key, value) in pairs {
                map.raw_set(to_lua(lua, key, resp3)?, to_lua(lua, value, resp3)?)?;
            }
            field(lua, "map", map)?
        }
        Value::Set(items) => {
            let set = lua.create_table_with_capacity(0, items.len())?;
            for item in items {
                set.raw_set(to_lua(lua, item, resp3)?, true)?;
            }
            field(lua, "set", set)?
        }
        Value::Double(number) => field(lua, "double", number)?,
        Value::Boolean(truth) => LuaValue::Boolean(truth),
        Value::BigNumber(digits) => field(lua, "big_number", lua.create_string(digits)?)?,
        Value::Verbatim { format, text } => {
            let parts = lua.create_table()?;
            parts.raw_set("string", lua.create_string(text)?)?;
            parts.raw_set("format", lua.create_string(format)?)?;
            field(lua, "verbatim_string", parts)?
        }
    })
}

/// Returns the table by which scripts know an error: with the field `err`.
pub(super) fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<LuaValue> {
    field(lua, "err", lua.create_string(text)?)
}

fn field(lua: &Lua, name: &str, value: impl mlua::IntoLua) -> mlua::Result<LuaValue> {
    let table = lua.create_table()?;
    table.raw_set(name, value)?;
    Ok(LuaValue::Table(table))
}

/// Returns the reply that a script's value stands for. `resp3` is what the script chose by
/// `redis.setresp`.
///
/// The reply counts towards the limits of the script, since it can be larger than the value: a
/// table may contain another one many times.
pub(super) fn from_lua(lua: &Lua, value: &LuaValue, resp3: bool) -> mlua::Result<Value> {
    Converter { resp3, meter: Meter::of(lua), bytes: 0 }.reply(value, 0)
}

struct Converter {
    resp3: bool,
    meter: Arc<Meter>,
    /// Size of the reply so far.
    bytes: usize,
}

impl Converter {
    fn reply(&mut self, value: &LuaValue, depth: usize) -> mlua::Result<Value> {
        self.count(match value {
            LuaValue::String(text) => text.as_bytes().len(),
            _ => 0,
        })?;
        Ok(match value {
            LuaValue::String(text) => Value::Bulk(text.as_bytes().to_vec()),
            LuaValue::Boolean(truth) if self.resp3 => Value::Boolean(*truth),
            LuaValue::Boolean(true) => Value::Integer(1),
            LuaValue::Integer(number) => Value::Integer(*number),
            LuaValue::Number(number) => Value::Integer(number::to_integer(*number)),
            LuaValue::Table(table) => {
                if depth >= DEPTH_MAX {
                    return Ok(Value::error("reached lua stack limit"));
                }
                self.table_reply(table, depth)?
            }
            _ => Value::Null,
        })
    }

    /// Returns the reply for a table. Fields that give it another meaning than a list come first,
    /// in Redis's order.
    fn table_reply(&mut self, table: &Table, depth: usize) -> mlua::Result<Value> {
        // Each of the fields is looked up.
        self.meter.work(4 * INSTRUCTIONS_PER_VALUE as u64)?;
        if let Some(text) = string_field(table, "err")? {
            return Ok(Value::Error(one_line(&text)));
        }
        if let Some(text) = string_field(table, "ok")? {
            return Ok(Value::Status(one_line(&text)));
        }
        match table.raw_get::<LuaValue>("double")? {
            LuaValue::Number(number) => return Ok(Value::Double(number)),
            #[allow(clippy::cast_precision_loss, reason = "It was a double before")]
            LuaValue::Integer(number) => return Ok(Value::Double(number as f64)),
            _ => {}
        }
        if let LuaValue::Table(map) = table.raw_get("map")? {
            let mut pairs = Vec::new();
            for pair in map.pairs::<LuaValue, LuaValue>() {
                let (key, value) = pair?;
                pairs.push((self.reply(&key, depth + 1)?, self.reply(&value, depth + 1)?));
            }
            return Ok(Value::Map(pairs));
        }
        if let LuaValue::Table(set) = table.raw_get("set")? {
            let mut items = Vec::new();
            for pair in set.pairs::<LuaValue, LuaValue>() {
                items.push(self.reply(&pair?.0, depth + 1)?);
            }
            return Ok(Value::Set(items));
        }
        if let Some(digits) = string_field(table, "big_number")? {
            return Ok(Value::BigNumber(one_line(&digits)));
        }
        if let LuaValue::Table(parts) = table.raw_get("verbatim_string")?
            && let Some(text) = string_field(&parts, "string")?
            && let Some(mut format) = string_field(&parts, "format")?
        {
            format.resize(3, b' ');
            return Ok(Value::Verbatim { format, text });
        }
        let mut items = Vec::new();
        loop {
            let item: LuaValue = table.raw_get(items.len() + 1)?;
            if item.is_nil() {
                return Ok(Value::Array(items));
            }
            items.push(self.reply(&item, depth + 1)?);
        }
    }

    /// Counts a value with a text of `len` bytes.
    fn count(&mut self, len: usize) -> mlua::Result<()> {
        let size = size_of::<Value>() + len;
        self.bytes += size;
        self.meter.work((size / 8 + INSTRUCTIONS_PER_VALUE) as u64)?;
        self.meter.check_bytes(self.bytes)
    }
}

fn string_field(table: &Table, name: &str) -> mlua::Result<Option<Vec<u8>>> {
    Ok(match table.raw_get(name)? {
        LuaValue::String(text) => Some(text.as_bytes().to_vec()),
        _ => None,
    })
}

/// Returns a text without line breaks, which would end a status or an error early.
pub(super) fn one_line(text: &[u8]) -> Vec<u8> {
    text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect()
}

/// Returns an argument of a command, if the value is a string or a number.
pub(super) fn argument(value: &LuaValue) -> Option<Vec<u8>> {
    match value {
        LuaValue::String(text) => Some(text.as_bytes().to_vec()),
        LuaValue::Integer(integer) => Some(number::general(*integer as f64, 17).into_bytes()),
        LuaValue::Number(number) => Some(number::general(*number, 17).into_bytes()),
        _ => None,
    }
}
