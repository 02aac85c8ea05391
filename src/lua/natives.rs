//! Functions that replace or complete those of Lua's own libraries.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Lua passes the arguments of a function by value"
)]

use std::borrow::Cow;

use mlua::{Error, Function, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::{Arguments, to_bytes, type_name};
use super::chunk::{self, ChunkError};
use super::meter::Meter;
use super::random::Random;
use super::{raise, strings};

/// Values that a function returns at once, at most: the size of Lua's stack for one call.
const RESULTS_MAX: i64 = 7990;

/// The tables that scripts see, kept by the Lua state.
struct Protected {
    environment: Table,
    /// The contents of each protected table.
    fronts: Table,
}

/// Returns the table of functions that `prelude.lua` gets.
pub(super) fn create(lua: &Lua, random: &Random) -> mlua::Result<Table> {
    let natives = lua.create_table()?;
    let add = |name: &str, function: Function| natives.raw_set(name, function);
    add("reveal", lua.create_function(reveal)?)?;
    add("is_end", lua.create_function(|_, value| Ok(is_end(&value)))?)?;
    add("where", lua.create_function(|lua, ()| Ok(raise::caller(lua)))?)?;
    add("describe", lua.create_function(describe)?)?;
    add("bad_argument", lua.create_function(bad_argument)?)?;
    add("missing_global", lua.create_function(missing_global)?)?;
    add("type_name", lua.create_function(|_, args: MultiValue| Ok(type_name(args.front())))?)?;
    add("loadstring", lua.create_function(load_string)?)?;
    add("concat", lua.globals().get::<Table>("table")?.get("concat")?)?;
    add("pairs", pairs(lua)?)?;
    add("rawget", lua.create_function(raw_get)?)?;
    add("rawset", lua.create_function(raw_set)?)?;
    add("setmetatable", lua.create_function(set_metatable)?)?;
    add("collectgarbage", lua.create_function(collect_garbage)?)?;
    add("unpack", lua.create_function(unpack)?)?;
    add("insert", lua.create_function(insert)?)?;
    natives.raw_set("math", math(lua, random)?)?;
    let string = lua.create_table()?;
    strings::add(lua, &string, &lua.globals().get("pcall")?)?;
    natives.raw_set("string", string)?;
    Ok(natives)
}

/// Tells the functions which tables are protected.
pub(super) fn set_environment(lua: &Lua, environment: &Table, fronts: &Table) {
    lua.set_app_data(Protected { environment: environment.clone(), fronts: fronts.clone() });
}

/// Makes `loadstring` compile code for these globals, which must be protected.
pub(super) fn use_environment(lua: &Lua, environment: &Table) {
    if let Some(mut protected) = lua.app_data_mut::<Protected>() {
        protected.environment = environment.clone();
    }
}

/// Returns the contents of a protected table, and `None` for all other tables.
fn contents(lua: &Lua, table: &Table) -> mlua::Result<Option<Table>> {
    match lua.app_data_ref::<Protected>() {
        Some(protected) => protected.fronts.raw_get(table),
        None => Ok(None),
    }
}

/// Returns the value that a script may see in place of an error of the host. Raises errors that
/// have to end the script.
fn reveal(lua: &Lua, error: LuaValue) -> mlua::Result<LuaValue> {
    let LuaValue::Error(error) = error else { return Ok(error) };
    match raise::raised(&error) {
        raise::Raised::Value(value) => Ok(value),
        raise::Raised::Message(text) => Ok(LuaValue::String(lua.create_string(text)?)),
        raise::Raised::End(_) => Err(*error),
    }
}

fn is_end(value: &LuaValue) -> bool {
    matches!(value, LuaValue::Error(error)
        if matches!(raise::raised(error), raise::Raised::End(_)))
}

/// The handler of errors that nothing in the script caught: returns a table with the error reply in
/// `err`, and the line that raised it in `source` and `line`.
fn describe(lua: &Lua, error: LuaValue) -> mlua::Result<LuaValue> {
    if is_end(&error) {
        return Ok(error);
    }
    let error = reveal(lua, error)?;
    let table = match &error {
        LuaValue::Table(table) => table.clone(),
        other => {
            let table = lua.create_table()?;
            let mut text = b"ERR ".to_vec();
            let shown = to_bytes(other);
            text.extend(
                shown.unwrap_or_else(|| other.to_string().unwrap_or_default().into_bytes()),
            );
            table.raw_set("err", lua.create_string(text)?)?;
            table
        }
    };
    for level in 1..8 {
        let place = lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.source.map(Cow::into_owned).unwrap_or_default();
            (
                matches!(source.what, "C" | "tail") || name == raise::PRELUDE,
                name,
                frame.current_line(),
            )
        });
        let Some((skipped, name, line)) = place else { break };
        if !skipped {
            table.raw_set("source", name)?;
            table.raw_set("line", line)?;
            break;
        }
    }
    Ok(LuaValue::Table(table))
}

/// Raises `bad argument` on behalf of a function of the prelude, which has checked its arguments.
fn bad_argument(lua: &Lua, args: (usize, String, String)) -> mlua::Result<()> {
    let (position, message, function) = args;
    Err(raise::error(lua, format!("bad argument #{position} to '{function}' ({message})")))
}

fn missing_global(lua: &Lua, args: (LuaValue, LuaValue)) -> mlua::Result<()> {
    let name = args.1.to_string().unwrap_or_default();
    Err(raise::error(
        lua,
        format!("Script attempted to access nonexistent global variable '{name}'"),
    ))
}

fn pairs(lua: &Lua) -> mlua::Result<Function> {
    let next: Function = lua.globals().get("next")?;
    let next_of_protected = lua.create_function(|lua, (front, key): (Table, LuaValue)| {
        let table = contents(lua, &front)?.unwrap_or(front);
        lua.globals().raw_get::<Function>("next")?.call::<MultiValue>((table, key))
    })?;
    lua.create_function(move |lua, args: MultiValue| {
        let table = Arguments::new(lua, args).table(1)?;
        let protected = contents(lua, &table)?.is_some();
        let next = if protected { next_of_protected.clone() } else { next.clone() };
        Ok((next, table, LuaValue::Nil))
    })
}

fn raw_get(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = Arguments::new(lua, args);
    let table = args.table(1)?;
    let key = args.any(2)?;
    contents(lua, &table)?.unwrap_or(table).raw_get(key)
}

fn raw_set(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = Arguments::new(lua, args);
    let (table, key, value) = (args.table(1)?, args.any(2)?, args.any(3)?);
    if contents(lua, &table)?.is_some() {
        return Err(readonly());
    }
    if key.is_nil() {
        return Err(raise::plain_error("table index is nil"));
    }
    if matches!(key, LuaValue::Number(number) if number.is_nan()) {
        return Err(raise::plain_error("table index is NaN"));
    }
    table.raw_set(key, value)?;
    Ok(LuaValue::Table(table))
}

fn readonly() -> Error {
    raise::plain_error("Attempt to modify a readonly table")
}

fn set_metatable(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = Arguments::new(lua, args);
    let table = args.table(1)?;
    let metatable = match args.get(2) {
        Some(LuaValue::Nil) => None,
        Some(LuaValue::Table(metatable)) => Some(metatable.clone()),
        _ => return Err(args.error(2, "nil or table expected")),
    };
    if contents(lua, &table)?.is_some() {
        return Err(readonly());
    }
    if let Some(old) = table.metatable()
        && !old.raw_get::<LuaValue>("__metatable")?.is_nil()
    {
        return Err(raise::error(lua, "cannot change a protected metatable"));
    }
    table.set_metatable(metatable)?;
    Ok(LuaValue::Table(table))
}

fn raw_len(table: &Table) -> i64 {
    i64::try_from(table.raw_len()).unwrap_or(i64::MAX)
}

/// `unpack`. Lua's own reads behind its stack for a range that no integer of 32 bits can count.
fn unpack(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let table = args.table(1)?;
    let first = if args.is_none(2) { 1 } else { args.int(2)? };
    let last = if args.is_none(3) { raw_len(&table) } else { args.int(3)? };
    if last - first >= RESULTS_MAX {
        return Err(raise::error(lua, "too many results to unpack"));
    }
    Meter::of(lua).work(u64::try_from(last - first).unwrap_or(0))?;
    let values = (first..=last).map(|at| table.raw_get(at));
    Ok(MultiValue::from_vec(values.collect::<mlua::Result<_>>()?))
}

/// `table.insert`. Lua's own moves elements from any position on, also far in front of the table.
fn insert(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let args = Arguments::new(lua, args);
    let table = args.table(1)?;
    if contents(lua, &table)?.is_some() {
        return Err(readonly());
    }
    let end = raw_len(&table) + 1;
    let (position, value) = match args.len() {
        2 => (end, args.any(2)?),
        3 => (args.int(2)?, args.any(3)?),
        _ => return Err(raise::error(lua, "wrong number of arguments to 'insert'")),
    };
    let end = end.max(position);
    let meter = Meter::of(lua);
    for at in (position + 1..=end).rev() {
        meter.work(4)?;
        table.raw_set(at, table.raw_get::<LuaValue>(at - 1)?)?;
    }
    table.raw_set(position, value)
}

fn load_string(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let source = args.string(1)?;
    let name = if args.is_none(2) { source.clone() } else { args.string(2)? };
    let name = String::from_utf8_lossy(&name);
    let name = name.split('\0').next().unwrap_or_default();
    let environment = match lua.app_data_ref::<Protected>() {
        Some(protected) => protected.environment.clone(),
        None => return Ok(MultiValue::new()),
    };
    Meter::of(lua).work((source.len() / 4) as u64)?;
    match chunk::compile(lua, &environment, &source, name) {
        Ok(function) => Ok(MultiValue::from_vec(vec![LuaValue::Function(function)])),
        Err(ChunkError::Syntax(message)) => {
            let message = LuaValue::String(lua.create_string(message)?);
            Ok(MultiValue::from_vec(vec![LuaValue::Nil, message]))
        }
        Err(ChunkError::Other(error)) => Err(error),
    }
}

fn collect_garbage(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = Arguments::new(lua, args);
    let option = if args.is_none(1) { b"collect".to_vec() } else { args.string(1)? };
    let meter = Meter::of(lua);
    match &option[..] {
        b"count" => Ok(LuaValue::Number(lua.used_memory() as f64 / 1024.0)),
        b"collect" => {
            meter.work((lua.used_memory() / 32) as u64)?;
            lua.gc_collect()?;
            Ok(LuaValue::Integer(0))
        }
        b"step" => {
            meter.work(1000)?;
            lua.gc_step().map(LuaValue::Boolean)
        }
        // A script does not change how the next ones are collected.
        b"stop" | b"restart" => Ok(LuaValue::Integer(0)),
        b"setpause" | b"setstepmul" => Ok(LuaValue::Integer(200)),
        _ => {
            let option = String::from_utf8_lossy(&option).into_owned();
            Err(args.error(1, &format!("invalid option '{option}'")))
        }
    }
}

fn math(lua: &Lua, random: &Random) -> mlua::Result<Table> {
    let math = lua.create_table()?;
    let own = random.clone();
    math.raw_set("random", lua.create_function(move |lua, args| draw(lua, &own, args))?)?;
    let own = random.clone();
    let seed = move |lua: &Lua, args: MultiValue| {
        own.seed(Arguments::new(lua, args).integer(1)?.cast_unsigned());
        Ok(())
    };
    math.raw_set("randomseed", lua.create_function(seed)?)?;
    Ok(math)
}

fn draw(lua: &Lua, random: &Random, args: MultiValue) -> mlua::Result<f64> {
    let args = Arguments::new(lua, args);
    let fraction = random.fraction();
    let (low, high) = match args.len() {
        0 => return Ok(fraction),
        1 => (1, args.int(1)?),
        2 => (args.int(1)?, args.int(2)?),
        _ => return Err(raise::error(lua, "wrong number of arguments")),
    };
    if low > high {
        return Err(args.error(args.len(), "interval is empty"));
    }
    Ok((fraction * (high - low + 1) as f64).floor() + low as f64)
}
