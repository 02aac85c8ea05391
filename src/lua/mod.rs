//! The Lua 5.1 environment of Redis 7.0, in which scripts and functions run.
//!
//! An [`Interpreter`] owns one Lua state and runs scripts in it, one after the other. A script sees
//! the libraries of Redis (`redis`, `cjson`, `cmsgpack`, `struct`, `bit`) and calls commands
//! through the [`Commands`] of its host. This folder knows no socket, no log and no keyspace, reads
//! no clock, and draws no random numbers but from the seed in [`Limits`].
//!
//! | file | contents |
//! |---|---|
//! | `value.rs`, `resp_reader.rs` | [`Value`]: everything that RESP2 and RESP3 can say |
//! | `interpreter.rs` | [`Interpreter`]: compiled scripts, runs, limits |
//! | `failure.rs` | [`ScriptError`]: why scripts fail, and the replies |
//! | `libraries.rs` | libraries of functions: `redis.register_function`, and those loaded |
//! | `environment.rs`, `prelude.lua` | what scripts see: protected globals |
//! | `natives.rs` | functions that replace or complete those of Lua's own libraries |
//! | `random.rs` | `math.random`, from a seed |
//! | `header.rs` | the first line of a script: `#!lua flags=no-writes` |
//! | `convert.rs` | Lua values from replies, and replies from Lua values |
//! | `redis_library.rs`, `host.rs` | `redis.call` and its neighbours, and how they reach the host |
//! | `json.rs`, `msgpack.rs` | `cjson`, `cmsgpack` |
//! | `struct_library.rs`, `bits.rs` | `struct`, `bit` |
//! | `strings.rs`, `patterns.rs` | functions of `string` whose work is unbounded in Lua |
//! | `meter.rs` | what the running script may still use |
//! | `raise.rs`, `arguments.rs` | errors and arguments, in Lua's words |
//!
//! No script can end the process: every limit ends the script with an error instead.

mod arguments;
mod bits;
mod chunk;
mod convert;
mod environment;
mod failure;
mod header;
mod host;
mod interpreter;
mod json;
mod libraries;
mod limits;
mod meter;
mod msgpack;
mod natives;
mod number;
mod patterns;
mod raise;
mod random;
mod redis_library;
mod resp_reader;
mod sha1;
mod strings;
mod struct_library;
mod value;

#[cfg(test)]
mod tests;

pub use failure::ScriptError;
pub use header::{Flag, Header, HeaderError};
pub use host::{Commands, LogLevel};
pub use interpreter::{Interpreter, Script};
pub use libraries::{Library, Registered};
pub use limits::{Deadline, LOAD_INSTRUCTIONS_MAX, Limits, StopFlag};
pub use resp_reader::{ReadError, read_value};
pub use sha1::sha1_hex;
pub use value::Value;
