//! Checks the code of a library of functions before it becomes part of the state: reads its first
//! line, such as `#!lua name=mylib`, and runs the code, which registers the functions.

use bytes::Bytes;

use crate::kv::{Library, LibraryFunction};
use crate::lua::{Commands, Interpreter, Limits, LogLevel, Registered, Value};
use crate::wire::resp::split_arguments;

/// Number of Lua instructions for which the code of a library may run while it is checked: about
/// 25 ms.
const INSTRUCTIONS_MAX: u64 = 2_000_000;

/// Redis's text.
const WRONG_NAME: &str = "ERR Library names can only contain letters, numbers, or underscores(_) \
                          and must be at least one character long";

/// Runs no commands.
struct NoCommands;

impl Commands for NoCommands {
    fn call(&mut self, _args: &[Vec<u8>], _resp3: bool) -> Value {
        Value::error("no command can be called while a library is loaded")
    }

    fn check_acl(&mut self, _args: &[Vec<u8>]) -> Option<bool> {
        None
    }

    fn log(&mut self, _level: LogLevel, _text: &[u8]) {}
}

/// Checks libraries, one after the other.
#[derive(Debug, Default)]
pub(super) struct LibraryChecker(Interpreter);

impl LibraryChecker {
    /// Returns the library with this code.
    ///
    /// # Errors
    /// If the code is not that of a library, with the text of the error reply.
    pub(super) fn check(&mut self, code: &[u8]) -> Result<Library, Vec<u8>> {
        let name = name_in(code).map_err(String::into_bytes)?;
        let limits = Limits { instructions: INSTRUCTIONS_MAX, ..Limits::default() };
        let registered = match self.0.register(code, &mut NoCommands, &limits) {
            Ok(registered) => registered,
            Err(error) => match error.reply() {
                Value::Error(text) => return Err(text),
                other => unreachable!("an error is an error, not {other:?}"),
            },
        };
        let function = |registered: Registered| LibraryFunction {
            name: registered.name.into(),
            description: registered.description.map(Bytes::from),
            flags: registered.flags,
        };
        let functions = registered.into_iter().map(function).collect();
        Ok(Library { name: name.into(), code: Bytes::copy_from_slice(code), functions })
    }
}

/// Returns the name of the library in the first line of its code.
///
/// # Errors
/// If the line is not as Redis demands, with Redis's text.
fn name_in(code: &[u8]) -> Result<String, String> {
    if !code.starts_with(b"#!") {
        return Err("ERR Missing library metadata".to_owned());
    }
    let end = code.iter().position(|byte| *byte == b'\n');
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    let line = &code[..end.unwrap_or(0)];
    if !split_arguments(line, &mut bytes, &mut ranges) || ranges.is_empty() {
        return Err("ERR Invalid library metadata".to_owned());
    }
    let mut parts = ranges.into_iter().map(|range| &bytes[range]);
    let engine = parts.next().and_then(|part| part.get(2..)).unwrap_or_default();
    let mut name = None;
    for part in parts {
        let (key, value) = part.split_at(part.len().min(b"name=".len()));
        if !key.eq_ignore_ascii_case(b"name=") {
            let part = String::from_utf8_lossy(part);
            return Err(format!("ERR Invalid metadata value given: {part}"));
        }
        if name.replace(value).is_some() {
            let text = "ERR Invalid metadata value, name argument was given multiple times";
            return Err(text.to_owned());
        }
    }
    let name = name.ok_or("ERR Library name was not given")?;
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if name.is_empty() || !name.iter().all(is_valid) {
        return Err(WRONG_NAME.to_owned());
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(format!("ERR Engine '{}' not found", String::from_utf8_lossy(engine)));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
