//! The Lua state with everything that scripts see: Lua's own libraries without what reaches files or
//! bytecode, Redis's libraries, and globals that cannot be changed (`prelude.lua`).

use std::sync::Arc;

use mlua::{Function, HookTriggers, Lua, LuaOptions, StdLib, Table, VmState};

use super::interpreter::Meter;
use super::random::Random;
use super::{natives, raise, redis_library};

/// Instructions between two looks at the limits of a script.
const HOOK_INSTRUCTIONS: u32 = 1000;

/// What the interpreter needs of a Lua state.
pub(super) struct Environment {
    /// The globals of scripts, which cannot be changed by them.
    pub(super) globals: Table,
    /// Calls a function with `KEYS` and `ARGV`: returns true and its value, or false and its error.
    pub(super) run: Function,
    /// Restores what a script may have changed in the libraries.
    pub(super) clean: Function,
    /// The generator behind `math.random`.
    pub(super) random: Random,
}

/// Returns a new Lua state.
pub(super) fn create(meter: &Arc<Meter>) -> mlua::Result<(Lua, Environment)> {
    let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    let random = Random::default();
    random.seed(0);
    let natives = natives::create(&lua, &random)?;
    let libraries = lua.create_table()?;
    libraries.raw_set("redis", redis_library::create(&lua)?)?;
    natives.raw_set("libraries", libraries)?;
    let parts: Table = lua.load(include_str!("prelude.lua")).set_name("=prelude").call(&natives)?;
    let environment = Environment {
        globals: parts.raw_get("environment")?,
        run: parts.raw_get("run")?,
        clean: parts.raw_get("clean")?,
        random,
    };
    natives::set_environment(&lua, &environment.globals, &parts.raw_get::<Table>("fronts")?)?;
    let hook_meter = meter.clone();
    lua.set_global_hook(
        HookTriggers::new().every_nth_instruction(HOOK_INSTRUCTIONS),
        move |_, _| match hook_meter.charge(u64::from(HOOK_INSTRUCTIONS)) {
            Ok(()) => Ok(VmState::Continue),
            Err(ending) => Err(raise::ending(ending)),
        },
    )?;
    lua.set_app_data(meter.clone());
    Ok((lua, environment))
}

/// Compiles a script. An error is the message of Lua.
pub(super) fn compile(
    lua: &Lua,
    environment: &Table,
    code: &[u8],
    name: &str,
) -> Result<Function, String> {
    let chunk = lua.load(code).set_name(name).set_mode(mlua::chunk::ChunkMode::Text);
    match chunk.set_environment(environment.clone()).into_function() {
        Ok(function) => Ok(function),
        Err(mlua::Error::SyntaxError { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
