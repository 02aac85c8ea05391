//! Compiles Lua sources.

use mlua::chunk::ChunkMode;
use mlua::{Error, Function, Lua, Table};

/// Why a source is not compiled.
pub(super) enum ChunkError {
    /// It is no Lua: the message of Lua's compiler.
    Syntax(Vec<u8>),
    /// Lua failed otherwise, for example for lack of memory.
    Other(Error),
}

/// Compiles a source, but never bytecode, which could do anything. `environment` are its
/// globals and `name` begins its error messages.
pub(super) fn compile(
    lua: &Lua,
    environment: &Table,
    source: &[u8],
    name: &str,
) -> Result<Function, ChunkError> {
    // Redis's compiler reads bytecode as a source, too.
    if source.first() == Some(&0x1b) {
        let text = format!("{}:1: unexpected symbol near 'char(27)'", shown_name(name));
        return Err(ChunkError::Syntax(text.into_bytes()));
    }
    let chunk = lua.load(source).set_name(name).set_mode(ChunkMode::Text);
    match chunk.set_environment(environment.clone()).into_function() {
        Ok(function) => Ok(function),
        Err(Error::SyntaxError { message, .. }) => Err(ChunkError::Syntax(message.into_bytes())),
        Err(error) => Err(ChunkError::Other(error)),
    }
}

/// Returns the name of a source in error messages.
fn shown_name(name: &str) -> String {
    if let Some(name) = name.strip_prefix(['@', '=']) {
        return name.to_owned();
    }
    let line = name.split('\n').next().unwrap_or_default();
    let rest = if line.len() == name.len() { "" } else { "..." };
    format!("[string \"{line}{rest}\"]")
}
