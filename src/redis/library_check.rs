//! Checks the code of a library of functions before it becomes part of the state: reads its first
//! line, such as `#!lua name=mylib`, and runs the code, which registers the functions.

use bytes::Bytes;

use crate::kv::{Library, LibraryFunction};
use crate::lua::{
    Commands, Interpreter, LOAD_INSTRUCTIONS_MAX, Limits, LogLevel, Registered, Value,
};
use crate::wire::resp::split_arguments;

/// Number of Lua instructions for which the code of the libraries of one request may run together,
/// while it is checked by the network stage: about 100 ms. Each library gets an equal part, of at
/// most [`LOAD_INSTRUCTIONS_MAX`].
const INSTRUCTIONS_MAX: u64 = 8_000_000;
/// Maximum length of the code of a library, in bytes: it is compiled in some tens of milliseconds.
const CODE_BYTES_MAX: usize = 1 << 20;
/// Maximum length of the code of the libraries of one request, in bytes.
const TOTAL_BYTES_MAX: usize = 16 << 20;

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

/// Checks the libraries of one request, one after the other.
#[derive(Debug)]
pub(super) struct LibraryChecker {
    interpreter: Interpreter,
    /// Number of Lua instructions for each library.
    instructions: u64,
}

impl LibraryChecker {
    /// Returns a checker for `count` libraries with a code of `bytes` bytes together.
    ///
    /// # Errors
    /// If the code is too long, with the text of the error reply.
    pub(super) fn new(count: usize, bytes: usize) -> Result<LibraryChecker, Vec<u8>> {
        if bytes > TOTAL_BYTES_MAX {
            let text = format!("ERR the libraries have {bytes} bytes, at most {TOTAL_BYTES_MAX}");
            return Err(text.into_bytes());
        }
        let instructions = (INSTRUCTIONS_MAX / count.max(1) as u64).min(LOAD_INSTRUCTIONS_MAX);
        Ok(LibraryChecker { interpreter: Interpreter::new(), instructions })
    }

    /// Returns the library with this code.
    ///
    /// # Errors
    /// If the code is not that of a library, with the text of the error reply.
    pub(super) fn check(&mut self, code: &[u8]) -> Result<Library, Vec<u8>> {
        let name = name_in(code).map_err(String::into_bytes)?;
        if code.len() > CODE_BYTES_MAX {
            let text =
                format!("ERR the library has {} bytes, at most {CODE_BYTES_MAX}", code.len());
            return Err(text.into_bytes());
        }
        let limits = Limits { instructions: self.instructions, ..Limits::default() };
        let registered = match self.interpreter.register(code, &mut NoCommands, &limits) {
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
