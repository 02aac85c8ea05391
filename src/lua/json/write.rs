//! JSON from Lua values.

use mlua::{Lua, Table, Value as LuaValue};

use super::{DEPTH_MAX, Invalid, Settings, unwritable};
use crate::lua::meter::Output;
use crate::lua::{number, raise};

/// Returns the JSON text of a value.
pub(super) fn encode(lua: &Lua, value: &LuaValue, settings: &Settings) -> mlua::Result<Vec<u8>> {
    let mut writer = Writer { lua, settings, out: Output::new(lua) };
    writer.value(value, 0)?;
    Ok(writer.out.bytes)
}

struct Writer<'a> {
    lua: &'a Lua,
    settings: &'a Settings,
    out: Output,
}

impl Writer<'_> {
    fn value(&mut self, value: &LuaValue, depth: i64) -> mlua::Result<()> {
        self.out.count_value()?;
        match value {
            LuaValue::String(text) => self.string(&text.as_bytes()),
            LuaValue::Integer(number) => self.number(*number as f64, value),
            LuaValue::Number(number) => self.number(*number, value),
            LuaValue::Boolean(true) => self.out.extend(b"true"),
            LuaValue::Boolean(false) => self.out.extend(b"false"),
            LuaValue::Nil => self.out.extend(b"null"),
            LuaValue::LightUserData(pointer) if pointer.0.is_null() => self.out.extend(b"null"),
            LuaValue::Table(table) => self.table(table, depth + 1),
            _ => Err(unwritable(self.lua, value, "type not supported")),
        }
    }

    fn number(&mut self, number: f64, value: &LuaValue) -> mlua::Result<()> {
        if !number.is_finite() {
            match self.settings.encode_invalid {
                Invalid::Refused => {
                    return Err(unwritable(self.lua, value, "must not be NaN or Inf"));
                }
                Invalid::Null => return self.out.extend(b"null"),
                Invalid::Allowed if number.is_nan() => return self.out.extend(b"nan"),
                Invalid::Allowed => {}
            }
        }
        let digits = usize::try_from(self.settings.precision).unwrap_or(14);
        self.out.extend(number::general(number, digits).as_bytes())
    }

    fn string(&mut self, text: &[u8]) -> mlua::Result<()> {
        self.out.push(b'"')?;
        for &byte in text {
            match byte {
                b'"' | b'\\' | b'/' => self.out.extend(&[b'\\', byte])?,
                8 => self.out.extend(b"\\b")?,
                b'\t' => self.out.extend(b"\\t")?,
                b'\n' => self.out.extend(b"\\n")?,
                12 => self.out.extend(b"\\f")?,
                b'\r' => self.out.extend(b"\\r")?,
                0..32 | 127 => self.out.extend(format!("\\u{byte:04x}").as_bytes())?,
                _ => self.out.push(byte)?,
            }
        }
        self.out.push(b'"')
    }

    fn table(&mut self, table: &Table, depth: i64) -> mlua::Result<()> {
        if depth > self.settings.encode_depth_max.min(DEPTH_MAX) {
            let text = format!("Cannot serialise, excessive nesting ({depth})");
            return Err(raise::error(self.lua, text));
        }
        match self.array_len(table)? {
            Some(len) if len > 0 => self.array(table, len, depth),
            _ => self.object(table, depth),
        }
    }

    /// Returns the length of a table whose keys are positive integers only.
    fn array_len(&mut self, table: &Table) -> mlua::Result<Option<i64>> {
        let mut count = 0;
        let mut largest = 0;
        for pair in table.pairs::<LuaValue, LuaValue>() {
            self.out.count_value()?;
            match pair?.0 {
                // Larger keys are no C `int`.
                LuaValue::Integer(key) if (1..=i64::from(i32::MAX)).contains(&key) => {
                    largest = largest.max(key);
                    count += 1;
                }
                _ => return Ok(None),
            }
        }
        let settings = self.settings;
        if settings.sparse_ratio > 0
            && largest > count * settings.sparse_ratio
            && largest > settings.sparse_safe
        {
            if !settings.sparse_convert {
                let value = LuaValue::Table(table.clone());
                return Err(unwritable(self.lua, &value, "excessively sparse array"));
            }
            return Ok(None);
        }
        Ok(Some(largest))
    }

    fn array(&mut self, table: &Table, len: i64, depth: i64) -> mlua::Result<()> {
        self.out.push(b'[')?;
        for at in 1..=len {
            if at > 1 {
                self.out.push(b',')?;
            }
            self.value(&table.raw_get(at)?, depth)?;
        }
        self.out.push(b']')
    }

    fn object(&mut self, table: &Table, depth: i64) -> mlua::Result<()> {
        self.out.push(b'{')?;
        let mut first = true;
        for pair in table.pairs::<LuaValue, LuaValue>() {
            let (key, value) = pair?;
            if !first {
                self.out.push(b',')?;
            }
            first = false;
            match &key {
                LuaValue::String(text) => self.string(&text.as_bytes())?,
                LuaValue::Integer(_) | LuaValue::Number(_) => {
                    self.out.push(b'"')?;
                    self.value(&key, depth)?;
                    self.out.push(b'"')?;
                }
                _ => {
                    let reason = "table key must be a number or string";
                    return Err(unwritable(self.lua, &key, reason));
                }
            }
            self.out.push(b':')?;
            self.value(&value, depth)?;
        }
        self.out.push(b'}')
    }
}
