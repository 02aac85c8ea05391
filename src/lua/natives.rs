//! Functions that replace or complete those of Lua's own libraries.

use mlua::{Error, Function, Lua, MultiValue, Table, Value as LuaValue};

use super::random::Random;
use super::{environment, raise};

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
    add("where", lua.create_function(|lua, level| Ok(raise::position(lua, level)))?)?;
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
    natives.raw_set("math", math(lua, random)?)?;
    natives.raw_set("string", lua.create_table()?)?;
    Ok(natives)
}

/// Tells the functions which tables are protected.
pub(super) fn set_environment(lua: &Lua, environment: &Table, fronts: &Table) -> mlua::Result<()> {
    lua.set_app_data(Protected { environment: environment.clone(), fronts: fronts.clone() });
    Ok(())
}

/// Returns the contents of a protected table, and `None` for all other tables.
fn contents(lua: &Lua, table: &Table) -> mlua::Result<Option<Table>> {
    match lua.app_data_ref::<Protected>() {
        Some(protected) => protected.fronts.raw_get(table),
        None => Ok(None),
    }
}

/// Returns the value that a script may see in place of an error of the host. Raises errors that have
/// to end the script.
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
            text.extend_from_slice(&other.to_string().unwrap_or_default().into_bytes());
            table.raw_set("err", lua.create_string(text)?)?;
            table
        }
    };
    for level in 1..4 {
        let place = lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.source.map(|name| name.into_owned()).unwrap_or_default();
            (source.what == "C" || name == "=prelude", name, frame.current_line())
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
    let mut text = raise::position(lua, 2);
    text.push_str(&format!("bad argument #{position} to '{function}' ({message})"));
    Err(raise::plain_error(text))
}

fn missing_global(lua: &Lua, args: (LuaValue, LuaValue)) -> mlua::Result<()> {
    let name = args.1.to_string().unwrap_or_default();
    Err(raise::error(
        lua,
        format!("Script attempted to access nonexistent global variable '{name}'"),
    ))
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

fn table_argument(lua: &Lua, args: &MultiValue, position: usize) -> mlua::Result<Table> {
    match args.get(position - 1) {
        Some(LuaValue::Table(table)) => Ok(table.clone()),
        other => {
            let message = format!("table expected, got {}", type_name(other));
            Err(raise::argument_error(lua, position, &message))
        }
    }
}

fn any_argument(lua: &Lua, args: &MultiValue, position: usize) -> mlua::Result<LuaValue> {
    match args.get(position - 1) {
        Some(value) => Ok(value.clone()),
        None => Err(raise::argument_error(lua, position, "value expected")),
    }
}

fn pairs(lua: &Lua) -> mlua::Result<Function> {
    let next: Function = lua.globals().get("next")?;
    let next_of_protected = lua.create_function(|lua, (front, key): (Table, LuaValue)| {
        let table = contents(lua, &front)?.unwrap_or(front);
        lua.globals().raw_get::<Function>("next")?.call::<MultiValue>((table, key))
    })?;
    lua.create_function(move |lua, args: MultiValue| {
        let table = table_argument(lua, &args, 1)?;
        let protected = contents(lua, &table)?.is_some();
        let next = if protected { next_of_protected.clone() } else { next.clone() };
        Ok((next, table, LuaValue::Nil))
    })
}

fn raw_get(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let table = table_argument(lua, &args, 1)?;
    let key = any_argument(lua, &args, 2)?;
    contents(lua, &table)?.unwrap_or(table).raw_get(key)
}

fn raw_set(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let table = table_argument(lua, &args, 1)?;
    let key = any_argument(lua, &args, 2)?;
    let value = any_argument(lua, &args, 3)?;
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
    let table = table_argument(lua, &args, 1)?;
    let metatable = match args.get(1) {
        Some(LuaValue::Nil) => None,
        Some(LuaValue::Table(metatable)) => Some(metatable.clone()),
        _ => return Err(raise::argument_error(lua, 2, "nil or table expected")),
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

fn load_string(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let Some(LuaValue::String(source)) = args.front() else {
        let message = format!("string expected, got {}", type_name(args.front()));
        return Err(raise::argument_error(lua, 1, &message));
    };
    let name = match args.get(1) {
        Some(LuaValue::String(name)) => name.to_string_lossy(),
        _ => source.to_string_lossy(),
    };
    let name: String = name.chars().take_while(|letter| *letter != '\0').collect();
    let environment = match lua.app_data_ref::<Protected>() {
        Some(protected) => protected.environment.clone(),
        None => return Ok(MultiValue::new()),
    };
    match environment::compile(lua, &environment, &source.as_bytes(), &name) {
        Ok(function) => Ok(MultiValue::from_iter([LuaValue::Function(function)])),
        Err(message) => {
            let message = LuaValue::String(lua.create_string(message)?);
            Ok(MultiValue::from_iter([LuaValue::Nil, message]))
        }
    }
}

fn collect_garbage(lua: &Lua, args: MultiValue) -> mlua::Result<f64> {
    let option = match args.front() {
        None | Some(LuaValue::Nil) => "collect".to_owned(),
        Some(LuaValue::String(option)) => option.to_string_lossy(),
        other => {
            let message = format!("string expected, got {}", type_name(other));
            return Err(raise::argument_error(lua, 1, &message));
        }
    };
    match option.as_str() {
        "count" => Ok(lua.used_memory() as f64 / 1024.0),
        "collect" => {
            lua.gc_collect()?;
            Ok(0.0)
        }
        "step" => Ok(if lua.gc_step()? { 1.0 } else { 0.0 }),
        "stop" | "restart" => Ok(0.0),
        "setpause" | "setstepmul" => Ok(200.0),
        _ => Err(raise::argument_error(lua, 1, &format!("invalid option '{option}'"))),
    }
}

fn math(lua: &Lua, random: &Random) -> mlua::Result<Table> {
    let math = lua.create_table()?;
    let own = random.clone();
    math.raw_set("random", lua.create_function(move |lua, args| draw(lua, &own, &args))?)?;
    let own = random.clone();
    let seed = move |lua: &Lua, args: MultiValue| {
        let seed = whole_argument(lua, &args, 1)?;
        #[allow(clippy::cast_sign_loss)] // Only the lower bits matter.
        own.seed(seed as u64);
        Ok(())
    };
    math.raw_set("randomseed", lua.create_function(seed)?)?;
    Ok(math)
}

fn draw(lua: &Lua, random: &Random, args: &MultiValue) -> mlua::Result<f64> {
    let fraction = random.fraction();
    let (low, high) = match args.len() {
        0 => return Ok(fraction),
        1 => (1, whole_argument(lua, args, 1)?),
        2 => (whole_argument(lua, args, 1)?, whole_argument(lua, args, 2)?),
        _ => return Err(raise::error(lua, "wrong number of arguments")),
    };
    if low > high {
        return Err(raise::argument_error(lua, args.len(), "interval is empty"));
    }
    Ok((fraction * (high - low + 1) as f64).floor() + low as f64)
}

/// Returns an argument as C's `int`, as `luaL_checkint` does.
#[allow(clippy::cast_possible_truncation)] // As C does.
pub(super) fn whole_argument(lua: &Lua, args: &MultiValue, position: usize) -> mlua::Result<i64> {
    let value = args.get(position - 1);
    let number = match value {
        Some(LuaValue::Integer(number)) => Some(*number as f64),
        Some(LuaValue::Number(number)) => Some(*number),
        Some(value @ LuaValue::String(_)) => lua.coerce_number(value.clone())?,
        _ => None,
    };
    match number {
        Some(number) => Ok(i64::from(number as i64 as i32)),
        None => {
            let message = format!("number expected, got {}", type_name(value));
            Err(raise::argument_error(lua, position, &message))
        }
    }
}
