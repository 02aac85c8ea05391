//! The library `cjson`: values in JSON, as lua-cjson 2.1 reads and writes them.

mod read;
mod write;

use std::sync::{Arc, Mutex};

use mlua::{IntoLua, LightUserData, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::{Arguments, type_name};
use super::meter::locked;
use super::raise;

/// How deep values may be nested in any case, whatever a script sets.
const DEPTH_MAX: i64 = 1000;

/// Settings that a script may change for itself.
#[derive(Clone, Debug)]
struct Settings {
    sparse_convert: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    precision: i64,
    keep_buffer: bool,
    encode_invalid: Invalid,
    decode_invalid: Invalid,
}

/// What becomes of numbers that JSON cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalid {
    Refused,
    Allowed,
    /// They are written as null.
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: DEPTH_MAX,
            decode_depth_max: DEPTH_MAX,
            precision: 14,
            keep_buffer: true,
            encode_invalid: Invalid::Refused,
            decode_invalid: Invalid::Allowed,
        }
    }
}

/// Settings of the library in one Lua state.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonSettings(Arc<Mutex<Settings>>);

impl JsonSettings {
    /// Forgets what a script has set.
    pub(super) fn reset(&self) {
        *locked(&self.0) = Settings::default();
    }
}

/// Returns the library, whose settings are `shared`.
pub(super) fn create(lua: &Lua, shared: &JsonSettings) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let add = |name: &str, f: fn(&Arguments<'_>, &mut Settings) -> mlua::Result<MultiValue>| {
        let shared = shared.clone();
        let function = lua.create_function(move |lua, args: MultiValue| {
            // Errors are raised while nothing is locked.
            let mut settings = locked(&shared.0).clone();
            let result = f(&Arguments::new(lua, args), &mut settings);
            *locked(&shared.0) = settings;
            result
        })?;
        library.raw_set(name, function)
    };
    add("encode", |args, settings| {
        one_argument(args)?;
        let text = write::encode(args.lua, &args.any(1)?, settings)?;
        Ok(MultiValue::from_vec(vec![args.lua.create_string(text)?.into_lua(args.lua)?]))
    })?;
    add("decode", |args, settings| {
        one_argument(args)?;
        let value = read::decode(args.lua, &args.string(1)?, settings)?;
        Ok(MultiValue::from_vec(vec![value]))
    })?;
    add("encode_sparse_array", |args, settings| {
        at_most(args, 3)?;
        settings.sparse_convert =
            option(args, 1, &["off", "on"])?.map_or(settings.sparse_convert, |chosen| chosen == 1);
        integer(args, 2, &mut settings.sparse_ratio, 0, i64::from(i32::MAX))?;
        integer(args, 3, &mut settings.sparse_safe, 0, i64::from(i32::MAX))?;
        Ok(MultiValue::from_vec(vec![
            LuaValue::Boolean(settings.sparse_convert),
            LuaValue::Integer(settings.sparse_ratio),
            LuaValue::Integer(settings.sparse_safe),
        ]))
    })?;
    add("encode_max_depth", |args, settings| {
        number_setting(args, &mut settings.encode_depth_max, i64::from(i32::MAX))
    })?;
    add("decode_max_depth", |args, settings| {
        number_setting(args, &mut settings.decode_depth_max, i64::from(i32::MAX))
    })?;
    add("encode_number_precision", |args, settings| {
        number_setting(args, &mut settings.precision, 14)
    })?;
    add("encode_keep_buffer", |args, settings| {
        at_most(args, 1)?;
        settings.keep_buffer =
            option(args, 1, &["off", "on"])?.map_or(settings.keep_buffer, |chosen| chosen == 1);
        Ok(MultiValue::from_vec(vec![LuaValue::Boolean(settings.keep_buffer)]))
    })?;
    add("encode_invalid_numbers", |args, settings| {
        invalid_numbers(args, &mut settings.encode_invalid, &["off", "on", "null"])
    })?;
    add("decode_invalid_numbers", |args, settings| {
        invalid_numbers(args, &mut settings.decode_invalid, &["off", "on"])
    })?;
    let make = shared.clone();
    let new = lua.create_function(move |lua, _: MultiValue| create(lua, &make))?;
    library.raw_set("new", new)?;
    library.raw_set("null", LuaValue::LightUserData(LightUserData(std::ptr::null_mut())))?;
    library.raw_set("_NAME", "cjson")?;
    library.raw_set("_VERSION", "2.1.0")?;
    Ok(library)
}

fn one_argument(args: &Arguments<'_>) -> mlua::Result<()> {
    if args.len() == 1 { Ok(()) } else { Err(args.error(1, "expected 1 argument")) }
}

fn at_most(args: &Arguments<'_>, count: usize) -> mlua::Result<()> {
    if args.len() <= count {
        return Ok(());
    }
    Err(args.error(count + 1, "found too many arguments"))
}

/// Changes a setting if an argument is given.
fn integer(
    args: &Arguments<'_>,
    position: usize,
    setting: &mut i64,
    min: i64,
    max: i64,
) -> mlua::Result<()> {
    if args.is_none(position) {
        return Ok(());
    }
    let value = args.integer(position)?;
    if !(min..=max).contains(&value) {
        return Err(args.error(1, &format!("expected integer between {min} and {max}")));
    }
    *setting = value;
    Ok(())
}

fn number_setting(args: &Arguments<'_>, setting: &mut i64, max: i64) -> mlua::Result<MultiValue> {
    at_most(args, 1)?;
    integer(args, 1, setting, 1, max)?;
    Ok(MultiValue::from_vec(vec![LuaValue::Integer(*setting)]))
}

/// Returns which of the `names` an argument is; a boolean is one of the first two.
fn option(args: &Arguments<'_>, position: usize, names: &[&str]) -> mlua::Result<Option<usize>> {
    match args.get(position) {
        None | Some(LuaValue::Nil) => Ok(None),
        Some(LuaValue::Boolean(truth)) => Ok(Some(usize::from(*truth))),
        _ => {
            let text = args.string(position)?;
            let found = names.iter().position(|name| name.as_bytes() == text);
            let Some(found) = found else {
                let text = String::from_utf8_lossy(&text).into_owned();
                return Err(args.error(position, &format!("invalid option '{text}'")));
            };
            Ok(Some(found))
        }
    }
}

fn invalid_numbers(
    args: &Arguments<'_>,
    setting: &mut Invalid,
    names: &[&str],
) -> mlua::Result<MultiValue> {
    at_most(args, 1)?;
    match option(args, 1, names)? {
        Some(0) => *setting = Invalid::Refused,
        Some(1) => *setting = Invalid::Allowed,
        Some(_) => *setting = Invalid::Null,
        None => {}
    }
    let shown = match setting {
        Invalid::Refused => LuaValue::Boolean(false),
        Invalid::Allowed => LuaValue::Boolean(true),
        Invalid::Null => args.lua.create_string("null")?.into_lua(args.lua)?,
    };
    Ok(MultiValue::from_vec(vec![shown]))
}

/// Returns the error that a value cannot be written.
fn unwritable(lua: &Lua, value: &LuaValue, reason: &str) -> mlua::Error {
    raise::error(lua, format!("Cannot serialise {}: {reason}", type_name(Some(value))))
}
