//! The Lua state with everything that scripts see: Lua's own libraries without what reaches files
//! or bytecode, Redis's libraries, and globals that cannot be changed (`prelude.lua`).

use std::sync::Arc;

use mlua::{Function, HookTriggers, Lua, LuaOptions, StdLib, Table, VmState};

use super::host::Host;
use super::json::{self, JsonSettings};
use super::libraries::Registry;
use super::meter::Meter;
use super::random::Random;
use super::{bits, msgpack, natives, raise, redis_library, struct_library};

/// Instructions between two looks at the limits of a script.
const HOOK_INSTRUCTIONS: u32 = 50;

/// What the interpreter needs of a Lua state.
pub(super) struct Environment {
    /// The globals of scripts, which cannot be changed by them.
    pub(super) globals: Table,
    /// The globals of libraries of functions, which cannot be changed by them.
    pub(super) library_globals: Table,
    /// Loads a library, whose compiled code it gets: returns true and its value, or false and its
    /// error.
    pub(super) load: Function,
    /// Calls a function of a library with its keys and arguments: returns true and its value, or
    /// false and its error.
    pub(super) call: Function,
    /// The functions of the library that is being loaded.
    pub(super) registry: Registry,
    /// Calls a function with `KEYS` and `ARGV`: returns true and its value, or false and its error.
    pub(super) run: Function,
    /// Restores what a script may have changed in the libraries.
    pub(super) clean: Function,
    /// The generator behind `math.random`.
    pub(super) random: Random,
    /// Settings of `cjson`.
    pub(super) json: JsonSettings,
    /// Limits of the running script.
    pub(super) meter: Arc<Meter>,
    /// How the running script reaches its commands.
    pub(super) host: Host,
}

/// Returns a new Lua state.
pub(super) fn create() -> mlua::Result<(Lua, Environment)> {
    let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    let random = Random::default();
    random.seed(0);
    let natives = natives::create(&lua, &random)?;
    let libraries = lua.create_table()?;
    let json = JsonSettings::default();
    libraries.raw_set("redis", redis_library::create(&lua)?)?;
    libraries.raw_set("cjson", json::create(&lua, &json)?)?;
    libraries.raw_set("cmsgpack", msgpack::create(&lua)?)?;
    libraries.raw_set("struct", struct_library::create(&lua)?)?;
    libraries.raw_set("bit", bits::create(&lua)?)?;
    natives.raw_set("libraries", libraries)?;
    let registry = Registry::default();
    natives.raw_set("register_function", registry.function(&lua)?)?;
    let parts: Table =
        lua.load(include_str!("prelude.lua")).set_name(raise::PRELUDE).call(&natives)?;
    let environment = Environment {
        globals: parts.raw_get("environment")?,
        library_globals: parts.raw_get("library_environment")?,
        load: parts.raw_get("load")?,
        call: parts.raw_get("call")?,
        registry,
        run: parts.raw_get("run")?,
        clean: parts.raw_get("clean")?,
        random,
        json,
        meter: Arc::new(Meter::default()),
        host: Host::default(),
    };
    natives::set_environment(&lua, &environment.globals, &parts.raw_get::<Table>("fronts")?);
    let hook_meter = Arc::clone(&environment.meter);
    lua.set_global_hook(
        HookTriggers::new().every_nth_instruction(HOOK_INSTRUCTIONS),
        move |_, _| match hook_meter.charge(u64::from(HOOK_INSTRUCTIONS)) {
            Ok(()) => Ok(VmState::Continue),
            Err(ending) => Err(raise::ending(ending)),
        },
    )?;
    lua.set_app_data(Arc::clone(&environment.meter));
    lua.set_app_data(environment.host.clone());
    Ok((lua, environment))
}
