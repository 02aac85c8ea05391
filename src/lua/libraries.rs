//! Libraries of functions: `redis.register_function`, which a library calls while it is loaded, and
//! the libraries that an interpreter has loaded.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Lua passes the arguments of a function by value"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mlua::{Function, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::to_bytes;
use super::header::Flag;
use super::meter::{Meter, locked};
use super::redis_library::error;

/// Bytes of source whose libraries an interpreter keeps, at most; then it forgets all of them.
const LOADED_BYTES_MAX: usize = 32 << 20;
/// Approximate memory in bytes of a registered function, besides its texts.
const REGISTERED_BYTES: usize = 128;

/// A library of functions.
#[derive(Clone, Copy, Debug)]
pub struct Library<'a> {
    /// Name of the library.
    pub name: &'a str,
    /// Changes whenever a library of this name is loaded, also if it has the same source.
    pub id: u64,
    /// The source, with its first line (`#!lua name=...`).
    pub source: &'a [u8],
}

impl<'a> Library<'a> {
    /// Returns the source from the end of its first line on, so that the line numbers of errors
    /// stay right.
    pub(super) fn code(&self) -> &'a [u8] {
        let end = self.source.iter().position(|byte| *byte == b'\n');
        &self.source[end.unwrap_or(self.source.len())..]
    }
}

/// A function that a library registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Name of the function: letters, digits and underscores.
    pub name: String,
    /// The description; `None` if it has none.
    pub description: Option<Vec<u8>>,
    /// The bits of its flags: [`Flag::bit`].
    pub flags: u8,
}

/// The functions that the library being loaded has registered, shared by a Lua state and its
/// interpreter.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Option<Registering>>>);

#[derive(Default)]
struct Registering {
    functions: Vec<(Registered, Function)>,
    bytes: usize,
}

impl Registry {
    /// Allows functions to be registered.
    pub(super) fn begin(&self) {
        *locked(&self.0) = Some(Registering::default());
    }

    /// Allows no more functions to be registered, and returns those that were.
    pub(super) fn finish(&self) -> Vec<(Registered, Function)> {
        locked(&self.0).take().unwrap_or_default().functions
    }

    /// Returns the function `redis.register_function`.
    pub(super) fn function(&self, lua: &Lua) -> mlua::Result<Function> {
        let registry = self.clone();
        lua.create_function(move |lua, args: MultiValue| {
            if locked(&registry.0).is_none() {
                let text = "redis.register_function can only be called on FUNCTION LOAD command";
                return Err(error(lua, text));
            }
            let (registered, callback) = registration(lua, &args)?;
            registry.add(lua, registered, callback)
        })
    }

    fn add(&self, lua: &Lua, registered: Registered, callback: Function) -> mlua::Result<()> {
        let mut registering = locked(&self.0);
        let Some(registering) = registering.as_mut() else { return Ok(()) };
        let is_same =
            |(known, _): &(Registered, Function)| known.name.eq_ignore_ascii_case(&registered.name);
        let meter = Meter::of(lua);
        meter.work(registering.functions.len() as u64 / 4 + 50)?;
        if registering.functions.iter().any(is_same) {
            return Err(error(lua, "Function already exists in the library"));
        }
        let description = registered.description.as_ref().map_or(0, Vec::len);
        registering.bytes += REGISTERED_BYTES + registered.name.len() + description;
        meter.check_bytes(registering.bytes)?;
        registering.functions.push((registered, callback));
        Ok(())
    }
}

/// Returns the function that the arguments of `redis.register_function` describe: a name and a
/// function, or a table with named arguments.
fn registration(lua: &Lua, args: &MultiValue) -> mlua::Result<(Registered, Function)> {
    let (name, callback, description, flags) = match (args.len(), args.front(), args.get(1)) {
        (1, Some(LuaValue::Table(named)), _) => named_arguments(lua, named)?,
        (1, ..) => {
            return Err(error(
                lua,
                "calling redis.register_function with a single argument is only applicable to Lua \
                 table (representing named arguments).",
            ));
        }
        (2, Some(name), Some(callback)) => {
            let Some(name) = to_bytes(name) else {
                let text = "first argument to redis.register_function must be a string";
                return Err(error(lua, text));
            };
            let LuaValue::Function(callback) = callback else {
                let text = "second argument to redis.register_function must be a function";
                return Err(error(lua, text));
            };
            (name, callback.clone(), None, 0)
        }
        _ => return Err(error(lua, "wrong number of arguments to redis.register_function")),
    };
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match String::from_utf8(name) {
        Ok(name) if !name.is_empty() && name.as_bytes().iter().all(is_valid) => {
            Ok((Registered { name, description, flags }, callback))
        }
        // Redis's text, which is about functions, too.
        _ => Err(error(
            lua,
            "Library names can only contain letters, numbers, or underscores(_) and must be at \
             least one character long",
        )),
    }
}

type Arguments = (Vec<u8>, Function, Option<Vec<u8>>, u8);

fn named_arguments(lua: &Lua, named: &Table) -> mlua::Result<Arguments> {
    let (mut name, mut callback, mut description, mut flags) = (None, None, None, 0);
    for pair in named.pairs::<LuaValue, LuaValue>() {
        let (key, value) = pair?;
        let Some(key) = to_bytes(&key) else {
            let text = "named argument key given to redis.register_function is not a string";
            return Err(error(lua, text));
        };
        let string = |argument: &str| {
            let text =
                format!("{argument} argument given to redis.register_function must be a string");
            to_bytes(&value).ok_or_else(|| error(lua, &text))
        };
        match &key.to_ascii_lowercase()[..] {
            b"function_name" => name = Some(string("function_name")?),
            b"description" => description = Some(string("description")?),
            b"callback" => {
                let LuaValue::Function(function) = value else {
                    let text =
                        "callback argument given to redis.register_function must be a function";
                    return Err(error(lua, text));
                };
                callback = Some(function);
            }
            b"flags" => {
                let LuaValue::Table(list) = value else {
                    let text = "flags argument to redis.register_function must be a table \
                                representing function flags";
                    return Err(error(lua, text));
                };
                flags = flags_in(lua, &list)?;
            }
            _ => return Err(error(lua, "unknown argument given to redis.register_function")),
        }
    }
    let name = name
        .ok_or_else(|| error(lua, "redis.register_function must get a function name argument"))?;
    let callback = callback
        .ok_or_else(|| error(lua, "redis.register_function must get a callback argument"))?;
    Ok((name, callback, description, flags))
}

/// Returns the bits of the flags in a list.
fn flags_in(lua: &Lua, list: &Table) -> mlua::Result<u8> {
    let mut flags = 0;
    for position in 1.. {
        let value: LuaValue = list.raw_get(position)?;
        if value.is_nil() {
            break;
        }
        Meter::of(lua).work(10)?;
        let flag = to_bytes(&value).and_then(|name| Flag::from_name(&name));
        flags |= flag.ok_or_else(|| error(lua, "unknown flag given"))?.bit();
    }
    Ok(flags)
}

/// The libraries that an interpreter has loaded, by name.
#[derive(Default)]
pub(super) struct Libraries {
    loaded: HashMap<String, Loaded>,
    /// Total length in bytes of their sources.
    bytes: usize,
}

struct Loaded {
    id: u64,
    source: Vec<u8>,
    functions: HashMap<String, Function>,
}

impl Libraries {
    /// Returns whether this very library is loaded.
    pub(super) fn have(&self, library: &Library<'_>) -> bool {
        let loaded = self.loaded.get(library.name);
        loaded.is_some_and(|it| it.id == library.id && it.source == library.source)
    }

    /// Adds a library with its functions, in place of an older one with its name.
    pub(super) fn add(&mut self, library: &Library<'_>, functions: Vec<(Registered, Function)>) {
        if self.bytes + library.source.len() > LOADED_BYTES_MAX {
            *self = Libraries::default();
        }
        let functions =
            functions.into_iter().map(|(registered, function)| (registered.name, function));
        let loaded = Loaded {
            id: library.id,
            source: library.source.to_vec(),
            functions: functions.collect(),
        };
        self.bytes += library.source.len();
        if let Some(older) = self.loaded.insert(library.name.to_owned(), loaded) {
            self.bytes -= older.source.len();
        }
    }

    /// Returns a function of a library that is loaded, by its exact name.
    pub(super) fn function(&self, library: &Library<'_>, name: &str) -> Option<Function> {
        self.loaded.get(library.name)?.functions.get(name).cloned()
    }
}
