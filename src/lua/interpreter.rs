//! The Lua state in which scripts and functions run, with its compiled scripts and its limits.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use mlua::{Function, IntoLuaMulti, Lua, Table, Value as LuaValue};

use super::chunk::{self, ChunkError};
use super::environment::{self, Environment};
use super::failure::{ScriptError, error_reply, failure};
use super::header::Header;
use super::libraries::{Libraries, Library, Registered};
use super::limits::LOAD_INSTRUCTIONS_MAX;
use super::{Commands, Limits, LogLevel, Value, convert, natives, raise};

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
    libraries: Libraries,
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

    /// Loads a library of functions and returns the functions that it registers, without keeping
    /// them. `commands` gets what the library logs.
    ///
    /// # Errors
    ///
    /// If the source is no Lua, raises an error, reaches a limit or registers no function.
    pub fn register(
        &mut self,
        source: &[u8],
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Vec<Registered>, ScriptError> {
        let library = Library { name: "", id: 0, source };
        match self.state()?.load(&library, commands, limits) {
            Ok(functions) => Ok(functions.into_iter().map(|(registered, _)| registered).collect()),
            Err(ScriptError::Instructions) => {
                self.replace();
                // Redis's text.
                Err(ScriptError::Register("ERR FUNCTION LOAD timeout".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Calls a function of a library, which is loaded first if this interpreter has not loaded it
    /// yet. What the library keeps in local variables stays there for the next call.
    ///
    /// # Errors
    ///
    /// If the library cannot be loaded, or the function raises an error or returns one, or reaches
    /// a limit. What its commands did before that is done.
    pub fn call(
        &mut self,
        (library, function): (&Library<'_>, &str),
        keys: &[Vec<u8>],
        argv: &[Vec<u8>],
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Value, ScriptError> {
        let state = self.state()?;
        let result = state.call((library, function), keys, argv, commands, limits);
        self.replace_after(&result);
        result
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
        self.replace_after(&result);
        result
    }

    /// Returns the memory that the Lua state uses, in bytes.
    pub fn memory(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.lua.used_memory())
    }

    /// Replaces the Lua state if a limit has ended the run.
    fn replace_after(&mut self, result: &Result<Value, ScriptError>) {
        if matches!(
            result,
            Err(ScriptError::Memory | ScriptError::Instructions | ScriptError::Stopped)
        ) {
            self.replace();
        }
    }

    fn replace(&mut self) {
        self.state = None;
        self.replaced += 1;
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
            libraries: Libraries::default(),
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
            self.libraries = Libraries::default();
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
        if !self.compiled.contains_key(script.sha) && script.source.len() > limits.code_bytes {
            return Err(ScriptError::Instructions);
        }
        let function = self.function(script)?;
        let keys = self.strings(keys).map_err(|error| failure(&error))?;
        let argv = self.strings(argv).map_err(|error| failure(&error))?;
        let (globals, run) = (&self.environment.globals, &self.environment.run);
        self.execute((globals, run), (function, keys, argv), script.sha, commands, limits)
    }

    /// Loads a library. Returns the functions that it registers.
    fn load(
        &mut self,
        library: &Library<'_>,
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Vec<(Registered, Function)>, ScriptError> {
        self.relax();
        let code = library.code();
        let globals = &self.environment.library_globals;
        let chunk = match chunk::compile(&self.lua, globals, code, "@user_function") {
            Ok(chunk) => chunk,
            Err(ChunkError::Syntax(message)) => {
                let message = String::from_utf8_lossy(&message).into_owned();
                return Err(ScriptError::CompileLibrary(message));
            }
            Err(ChunkError::Other(error)) => return Err(failure(&error)),
        };
        let load = &self.environment.load;
        self.environment.registry.begin();
        let result = self.execute((globals, load), (chunk,), "", commands, limits);
        let functions = self.environment.registry.finish();
        match result {
            Ok(_) if functions.is_empty() => Err(ScriptError::NoFunctions),
            Ok(_) => Ok(functions),
            Err(ScriptError::Raised(text)) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                Err(ScriptError::Register(text))
            }
            Err(error) => Err(error),
        }
    }

    fn call(
        &mut self,
        (library, name): (&Library<'_>, &str),
        keys: &[Vec<u8>],
        argv: &[Vec<u8>],
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Value, ScriptError> {
        self.relax();
        self.collect().map_err(|error| failure(&error))?;
        if !self.libraries.have(library) {
            if library.source.len() > limits.code_bytes {
                return Err(ScriptError::Instructions);
            }
            // What the library logs was logged when it was checked. It gets more than it was
            // checked with, so that each call does not load it again.
            let limits = Limits { instructions: 2 * LOAD_INSTRUCTIONS_MAX, ..limits.clone() };
            let functions = self.load(library, &mut NoCommands, &limits)?;
            self.libraries.add(library, functions);
        }
        let function = self.libraries.function(library, name);
        // The state has checked that the library registers this function.
        let function = function.ok_or(ScriptError::NoFunctions)?;
        let keys = self.strings(keys).map_err(|error| failure(&error))?;
        let argv = self.strings(argv).map_err(|error| failure(&error))?;
        let (globals, call) = (&self.environment.library_globals, &self.environment.call);
        self.execute((globals, call), (function, keys, argv), name, commands, limits)
    }

    /// Calls `run`, a function of the prelude that returns true and a value, or false and an error,
    /// under these limits. `name` is that of the script or function in error replies.
    fn execute(
        &self,
        (globals, run): (&Table, &Function),
        args: impl IntoLuaMulti,
        name: &str,
        commands: &mut dyn Commands,
        limits: &Limits,
    ) -> Result<Value, ScriptError> {
        natives::use_environment(&self.lua, globals);
        let host = &self.environment.host;
        let outcome = host.with(&self.lua, commands, || {
            self.limit(limits);
            let outcome = run.call::<(bool, LuaValue)>(args);
            let resp3 = host.resp3();
            let outcome = match outcome {
                Ok((true, value)) => convert::from_lua(&self.lua, &value, resp3),
                Ok((false, LuaValue::Error(error))) => Err(*error),
                Ok((false, LuaValue::String(text))) => {
                    Err(raise::plain_error(text.as_bytes().to_vec()))
                }
                Ok((false, value)) => Ok(error_reply(&value, name)),
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

/// Runs no command, and logs nothing.
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
