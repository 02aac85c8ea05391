//! The table `redis` that scripts see.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Lua passes the arguments of a function by value"
)]

use mlua::{Lua, MultiValue, Table, Value as LuaValue};

use super::host::{self, LogLevel, Request, Response, ask};
use super::meter::Meter;
use super::{Value, arguments, convert, number, raise, sha1};

/// Version of Redis whose environment scripts see.
const VERSION: (&str, u32) = ("7.0.15", 0x0007_000f);

/// Returns the library.
pub(super) fn create(lua: &Lua) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    redis.raw_set("call", lua.create_function(|lua, args| call(lua, args, true))?)?;
    redis.raw_set("pcall", lua.create_function(|lua, args| call(lua, args, false))?)?;
    redis.raw_set("error_reply", lua.create_function(error_reply)?)?;
    redis.raw_set("status_reply", lua.create_function(status_reply)?)?;
    redis.raw_set("sha1hex", lua.create_function(sha1hex)?)?;
    redis.raw_set("log", lua.create_function(log)?)?;
    redis.raw_set("setresp", lua.create_function(set_resp)?)?;
    redis.raw_set("set_repl", lua.create_function(set_repl)?)?;
    redis.raw_set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    redis.raw_set("breakpoint", lua.create_function(|_, _: MultiValue| Ok(false))?)?;
    redis.raw_set("debug", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    redis.raw_set("acl_check_cmd", lua.create_function(acl_check_cmd)?)?;
    for (name, level) in
        [("LOG_DEBUG", 0), ("LOG_VERBOSE", 1), ("LOG_NOTICE", 2), ("LOG_WARNING", 3)]
    {
        redis.raw_set(name, level)?;
    }
    for (name, flags) in
        [("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3), ("REPL_NONE", 0)]
    {
        redis.raw_set(name, flags)?;
    }
    redis.raw_set("REDIS_VERSION", VERSION.0)?;
    redis.raw_set("REDIS_VERSION_NUM", VERSION.1)?;
    Ok(redis)
}

/// Returns an error whose value is a table with the field `err`, as all errors of this library.
pub(super) fn error(lua: &Lua, text: &str) -> mlua::Error {
    match convert::error_table(lua, format!("ERR {text}").as_bytes()) {
        Ok(table) => raise::value_error(table),
        Err(error) => error,
    }
}

fn command(lua: &Lua, args: &MultiValue) -> mlua::Result<Vec<Vec<u8>>> {
    if args.is_empty() {
        return Err(error(lua, "Please specify at least one argument for this redis lib call"));
    }
    let length = |arg: &LuaValue| arg.as_string().map_or(0, |text| text.as_bytes().len());
    let bytes = args.iter().map(length).sum();
    let meter = Meter::of(lua);
    meter.check_bytes(bytes)?;
    meter.work_on_bytes(bytes)?;
    let command: Option<Vec<Vec<u8>>> = args.iter().map(convert::argument).collect();
    command.ok_or_else(|| error(lua, "Lua redis lib command arguments must be strings or integers"))
}

/// `redis.call` and `redis.pcall`: runs a command. Errors of the command end the script in the
/// first and are returned by the second.
fn call(lua: &Lua, args: MultiValue, raises: bool) -> mlua::Result<LuaValue> {
    let args = match command(lua, &args) {
        Ok(args) => args,
        Err(error) if raises => return Err(error),
        Err(error) => {
            return match raise::raised(&error) {
                raise::Raised::Value(table) => Ok(table),
                _ => Err(error),
            };
        }
    };
    let (response, resp3) = ask(lua, Request::Call(args))?;
    let Response::Reply(reply) = response else { return Ok(LuaValue::Nil) };
    let failed = reply.is_error();
    let value = convert::to_lua(lua, reply, resp3)?;
    if failed && raises { Err(raise::value_error(value)) } else { Ok(value) }
}

fn error_reply(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let Some(text) = single_string(&args) else {
        return convert::error_table(lua, b"ERR wrong number or type of arguments");
    };
    Meter::of(lua).work_on_bytes(text.len())?;
    let text = text.strip_prefix(b"-").map_or_else(
        || if text.contains(&b' ') { text.clone() } else { [b"ERR ", &text[..]].concat() },
        <[u8]>::to_vec,
    );
    convert::error_table(lua, &text)
}

fn status_reply(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let Some(text) = single_string(&args) else {
        return convert::error_table(lua, b"ERR wrong number or type of arguments");
    };
    Meter::of(lua).work_on_bytes(text.len())?;
    convert::to_lua(lua, Value::Status(text), false)
}

fn single_string(args: &MultiValue) -> Option<Vec<u8>> {
    match (args.len(), args.front()) {
        (1, Some(LuaValue::String(text))) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn sha1hex(lua: &Lua, args: MultiValue) -> mlua::Result<String> {
    if args.len() != 1 {
        return Err(error(lua, "wrong number of arguments"));
    }
    let text = convert::argument(&args[0]).unwrap_or_default();
    // As many bytes as eight others.
    Meter::of(lua).work_on_bytes(text.len().saturating_mul(8))?;
    Ok(sha1::sha1_hex(&text))
}

fn log(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() < 2 {
        return Err(error(lua, "redis.log() requires two arguments or more."));
    }
    let Some(level) = integer(lua, &args[0]) else {
        return Err(error(lua, "First argument must be a number (log level)."));
    };
    let level = match level {
        0 => LogLevel::Debug,
        1 => LogLevel::Verbose,
        2 => LogLevel::Notice,
        3 => LogLevel::Warning,
        _ => return Err(error(lua, "Invalid debug level.")),
    };
    let parts: Vec<Vec<u8>> = args.iter().skip(1).filter_map(convert::argument).collect();
    Meter::of(lua).work_on_bytes(parts.iter().map(Vec::len).sum())?;
    ask(lua, Request::Log(level, parts.join(&b' ')))?;
    Ok(())
}

fn set_resp(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(error(lua, "redis.setresp() requires one argument."));
    }
    match integer(lua, &args[0]) {
        Some(version @ (2 | 3)) => {
            host::set_resp3(lua, version == 3);
            Ok(())
        }
        _ => Err(error(lua, "RESP version must be 2 or 3.")),
    }
}

fn set_repl(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(error(lua, "redis.set_repl() requires two arguments."));
    }
    match integer(lua, &args[0]) {
        // What is no number counts as zero here.
        None | Some(0..=3) => Ok(()),
        _ => Err(error(
            lua,
            "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        )),
    }
}

fn acl_check_cmd(lua: &Lua, args: MultiValue) -> mlua::Result<LuaValue> {
    let args = command(lua, &args)?;
    match ask(lua, Request::CheckAcl(args))?.0 {
        Response::Permission(Some(allowed)) => Ok(LuaValue::Boolean(allowed)),
        _ => Err(error(lua, "Invalid command passed to redis.acl_check_cmd()")),
    }
}

/// Returns a number, or a string that reads as one, without its fraction.
fn integer(lua: &Lua, value: &LuaValue) -> Option<i64> {
    arguments::to_number(lua, value).map(number::to_integer)
}
