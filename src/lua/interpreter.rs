//! The Lua state in which scripts run, with its compiled scripts and its limits.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use mlua::{Function, Lua, Table, Value as LuaValue};

use super::arguments::to_bytes;
use super::chunk::{self, ChunkError};
use super::environment::{self, Environment};
use super::header::{Header, HeaderError};
use super::raise::{self, Ending, Raised};
use super::{Commands, Limits, Value, convert};

/// Compiled scripts that an interpreter keeps, at most.
const COMPILED_MAX: usize = 500;

/// Bytes of source whose compiled scripts an interpreter keeps, at most.
const COMPILED_BYTES_MAX: usize = 8 << 20;

/// Bytes in the Lua state above which garbage is collected before a run.
const COLLECT_ABOVE_BYTES: usize = 32 << 20;

/// A script to run.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// SHA-1 of the source, by which compiled scripts are found again: [`super::sha1_hex`].
    pub sha: &'a str,
    /// The source, with its header line if it has one.
    pub source: &'a [u8],
}

/// Why a script was not run, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// The header line is wrong.
    #[error("ERR {0}")]
    Header(#[from] HeaderError),
    /// The source is no Lua.
    #[error("ERR Error compiling script (new function): {0}")]
    Compile(String),
    /// The script raised an error, or a command that it called failed.
    #[error("{}", String::from_utf8_lossy(.0))]
    Raised(Vec<u8>),
    /// The script was ended by its [`StopFlag`](super::StopFlag).
    #[error("ERR Error running script: Script killed by user with SCRIPT KILL.")]
    Stopped,
    /// The script ran for more instructions than allowed.
    #[error("ERR Error running script: the script ran for too many instructions")]
    Instructions,
    /// The script needed more memory than allowed.
    #[error("ERR Error running script: not enough memory")]
    Memory,
}

impl ScriptError {
    /// Returns the error reply for the client.
    pub fn reply(&self) -> Value {
        match self {
            Self::Raised(text) => Value::Error(text.clone()),
            other => Value::Error(convert::one_line(other.to_string().as_bytes())),
        }
    }
}

/// One Lua state, which runs one script after the other.
///
/// Nothing that a script does remains for the next one, except what commands did. After a script
/// was ended by a limit, the state is replaced by a fresh one.
pub struct Interpreter {
    state: Option<State>,
    /// How often the state was replaced by a fresh one.
    replaced: u64,
}

struct State {
    lua: Lua,
    environment: Environment,
    compiled: HashMap<String, (Function, usize)>,
    /// Names of compiled scripts, the oldest first.
    order: VecDeque<String>,
    compiled_bytes: usize,
}

impl Default for Interpreter {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("replaced", &self.replaced).finish_non_exhaustive()
    }
}

impl Interpreter {
    /// Returns an interpreter without any script. The Lua state is made for the first script.
    pub fn new() -> Self {
        Self { state: None, replaced: 0 }
    }

    /// Compiles a script and keeps it, unless it is known already.
    ///
    /// # Errors
    ///
    /// If the header line is wrong or the source is no Lua.
    pub fn load(&mut self, script: &Script<'_>) -> Result<(), ScriptError> {
        let state = self.state()?;
        state.relax();
        state.function(script).map(drop)
    }

    /// Runs a script, which is compiled first if it is not known yet.
    ///
    /// `keys` and `argv` are what the script sees as `KEYS` and `ARGV`.
    ///
    /// # Errors
    ///
    /// If the script is not compiled, raises an error or returns one, or reaches a limit. What its
    /// commands did before that is done.
    pub fn run(
        &mut self,
        script: &Script<'_>,
        keys: &[Vec<u8>],
        argv: &[Vec<u8>],
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Value, ScriptError> {
        let state = self.state()?;
        let result = state.run(script, keys, argv, commands, limits);
        if matches!(
            result,
            Err(ScriptError::Memory | ScriptError::Instructions | ScriptError::Stopped)
        ) {
            self.state = None;
            self.replaced += 1;
        }
        result
    }

    fn state(&mut self) -> Result<&mut State, ScriptError> {
        if self.state.is_none() {
            self.state = Some(State::new().map_err(|error| failure(&error))?);
        }
        Ok(self.state.as_mut().expect("was just made"))
    }
}

impl State {
    fn new() -> mlua::Result<Self> {
        let (lua, environment) = environment::create()?;
        Ok(Self {
            lua,
            environment,
            compiled: HashMap::new(),
            order: VecDeque::new(),
            compiled_bytes: 0,
        })
    }

    /// Lifts the limits of the last run.
    fn relax(&self) {
        self.environment.meter.relax();
        // Only fails for states with another allocator.
        let _ = self.lua.set_memory_limit(0);
    }

    /// Begins a run under these limits.
    fn limit(&self, limits: &Limits) {
        self.environment.meter.limit(limits);
        self.environment.random.seed(limits.seed);
        let memory_max = self.lua.used_memory().saturating_add(limits.memory_bytes);
        let _ = self.lua.set_memory_limit(memory_max);
    }

    /// Frees what earlier runs have left, if it is much.
    fn collect(&mut self) -> mlua::Result<()> {
        if self.lua.used_memory() > COLLECT_ABOVE_BYTES {
            self.lua.gc_collect()?;
        }
        if self.lua.used_memory() > COLLECT_ABOVE_BYTES {
            self.compiled.clear();
            self.order.clear();
            self.compiled_bytes = 0;
            self.lua.gc_collect()?;
        }
        Ok(())
    }

    fn function(&mut self, script: &Script<'_>) -> Result<Function, ScriptError> {
        if let Some((function, _)) = self.compiled.get(script.sha) {
            return Ok(function.clone());
        }
        let header = Header::parse(script.source)?;
        let code = &script.source[header.code_at..];
        let function =
            match chunk::compile(&self.lua, &self.environment.globals, code, "@user_script") {
                Ok(function) => function,
                Err(ChunkError::Syntax(message)) => {
                    let message = String::from_utf8_lossy(&message).into_owned();
                    return Err(ScriptError::Compile(message));
                }
                Err(ChunkError::Other(error)) => return Err(failure(&error)),
            };
        while self.compiled.len() >= COMPILED_MAX
            || (self.compiled_bytes + script.source.len() > COMPILED_BYTES_MAX
                && !self.compiled.is_empty())
        {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, len)) = self.compiled.remove(&oldest) {
                self.compiled_bytes -= len;
            }
        }
        self.compiled.insert(script.sha.to_owned(), (function.clone(), script.source.len()));
        self.order.push_back(script.sha.to_owned());
        self.compiled_bytes += script.source.len();
        Ok(function)
    }

    fn run(
        &mut self,
        script: &Script<'_>,
        keys: &[Vec<u8>],
        argv: &[Vec<u8>],
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Value, ScriptError> {
        self.relax();
        self.collect().map_err(|error| failure(&error))?;
        let function = self.function(script)?;
        let keys = self.strings(keys).map_err(|error| failure(&error))?;
        let argv = self.strings(argv).map_err(|error| failure(&error))?;
        let Environment { run, host, .. } = &self.environment;
        let outcome = host.with(&self.lua, commands, || {
            self.limit(limits);
            let outcome = run.call::<(bool, LuaValue)>((function, keys, argv));
            let resp3 = host.resp3();
            let outcome = match outcome {
                Ok((true, value)) => convert::from_lua(&self.lua, &value, resp3),
                Ok((false, LuaValue::Error(error))) => Err(*error),
                Ok((false, LuaValue::String(text))) => {
                    Err(raise::plain_error(text.as_bytes().to_vec()))
                }
                Ok((false, value)) => Ok(error_reply(&value, script.sha)),
                Err(error) => Err(error),
            };
            self.relax();
            outcome
        });
        let _ = self.environment.clean.call::<()>(());
        self.environment.json.reset();
        match outcome {
            Ok(Value::Error(text)) => Err(ScriptError::Raised(text)),
            Ok(value) => Ok(value),
            Err(error) => Err(failure(&error)),
        }
    }

    fn strings(&self, items: &[Vec<u8>]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(items.len(), 0)?;
        for (at, item) in items.iter().enumerate() {
            table.raw_set(at + 1, self.lua.create_string(item)?)?;
        }
        Ok(table)
    }
}

/// Returns the reply for an error that nothing in the script caught, as `describe` in
/// `environment.rs` made it.
fn error_reply(error: &LuaValue, sha: &str) -> Value {
    let mut text = match error {
        LuaValue::Table(table) => match table.raw_get::<LuaValue>("err") {
            Ok(text) => to_bytes(&text).unwrap_or_else(|| b"ERR unknown error".to_vec()),
            Err(_) => b"ERR unknown error".to_vec(),
        },
        LuaValue::String(text) => text.as_bytes().to_vec(),
        _ => b"ERR unknown error".to_vec(),
    };
    if let LuaValue::Table(table) = error
        && let Ok(source) = table.raw_get::<String>("source")
        && let Ok(line) = table.raw_get::<i64>("line")
    {
        text.extend_from_slice(format!(" script: {sha}, on {source}:{line}.").as_bytes());
    }
    Value::Error(convert::one_line(&text))
}

/// Returns why a run of the Lua state failed outside of any script's `pcall`.
fn failure(error: &mlua::Error) -> ScriptError {
    match raise::raised(error) {
        Raised::End(Ending::Stopped) => ScriptError::Stopped,
        Raised::End(Ending::Instructions) => ScriptError::Instructions,
        Raised::Message(text) if text.starts_with(b"not enough memory") => ScriptError::Memory,
        Raised::Message(text) => ScriptError::Raised(text),
        Raised::Value(_) => ScriptError::Raised(b"ERR unknown error".to_vec()),
    }
}
