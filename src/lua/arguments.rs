//! Arguments of library functions, checked and converted as Lua's `luaL_check...` functions do.

use mlua::{Lua, MultiValue, Table, Value as LuaValue};

use super::{number, raise};

/// The arguments of one call, with positions that begin at 1.
pub(super) struct Arguments<'a> {
    pub(super) lua: &'a Lua,
    pub(super) values: MultiValue,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(lua: &'a Lua, values: MultiValue) -> Self {
        Self { lua, values }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn get(&self, position: usize) -> Option<&LuaValue> {
        self.values.get(position - 1)
    }

    /// Returns whether an argument is absent or nil.
    pub(super) fn is_none(&self, position: usize) -> bool {
        matches!(self.get(position), None | Some(LuaValue::Nil))
    }

    /// Returns the error that an argument is wrong.
    pub(super) fn error(&self, position: usize, message: &str) -> mlua::Error {
        raise::argument_error(self.lua, position, message)
    }

    /// Returns the error that an argument has the wrong type.
    pub(super) fn type_error(&self, position: usize, expected: &str) -> mlua::Error {
        let got = type_name(self.get(position));
        self.error(position, &format!("{expected} expected, got {got}"))
    }

    pub(super) fn any(&self, position: usize) -> mlua::Result<LuaValue> {
        self.get(position).cloned().ok_or_else(|| self.error(position, "value expected"))
    }

    pub(super) fn table(&self, position: usize) -> mlua::Result<Table> {
        match self.get(position) {
            Some(LuaValue::Table(table)) => Ok(table.clone()),
            _ => Err(self.type_error(position, "table")),
        }
    }

    /// Returns a number, or a string that reads as one.
    pub(super) fn number(&self, position: usize) -> mlua::Result<f64> {
        let value = self.get(position);
        let number = value.and_then(|value| to_number(self.lua, value));
        number.ok_or_else(|| self.type_error(position, "number"))
    }

    /// Returns a number without its fraction.
    pub(super) fn integer(&self, position: usize) -> mlua::Result<i64> {
        self.number(position).map(number::to_integer)
    }

    /// Returns an integer as C's `int`.
    pub(super) fn int(&self, position: usize) -> mlua::Result<i64> {
        #[allow(clippy::cast_possible_truncation, reason = "As C does")]
        self.integer(position).map(|number| i64::from(number as i32))
    }

    pub(super) fn integer_or(&self, position: usize, default: i64) -> mlua::Result<i64> {
        if self.is_none(position) { Ok(default) } else { self.integer(position) }
    }

    /// Returns a string, or a number as text.
    pub(super) fn string(&self, position: usize) -> mlua::Result<Vec<u8>> {
        let value = self.get(position);
        value.and_then(to_bytes).ok_or_else(|| self.type_error(position, "string"))
    }
}

/// Returns the name of a value's type, as the messages of Lua's libraries have it.
pub(super) fn type_name(value: Option<&LuaValue>) -> &'static str {
    match value {
        None => "no value",
        Some(LuaValue::Integer(_)) => "number",
        Some(LuaValue::LightUserData(_) | LuaValue::Error(_)) => "userdata",
        Some(other) => other.type_name(),
    }
}

/// Returns a number, or the number that a string reads as.
pub(super) fn to_number(lua: &Lua, value: &LuaValue) -> Option<f64> {
    match value {
        LuaValue::Integer(number) => Some(*number as f64),
        LuaValue::Number(number) => Some(*number),
        LuaValue::String(_) => lua.coerce_number(value.clone()).ok().flatten(),
        _ => None,
    }
}

/// Returns the bytes of a string, or of a number as Lua writes it.
pub(super) fn to_bytes(value: &LuaValue) -> Option<Vec<u8>> {
    match value {
        LuaValue::String(text) => Some(text.as_bytes().to_vec()),
        LuaValue::Integer(integer) => Some(number::general(*integer as f64, 14).into_bytes()),
        LuaValue::Number(number) => Some(number::general(*number, 14).into_bytes()),
        _ => None,
    }
}
