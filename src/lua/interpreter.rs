//! The Lua state in which scripts run, with its compiled scripts and its limits.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mlua::{Function, Lua, Table, Value as LuaValue};

use super::environment::{self, Environment};
use super::header::{Header, HeaderError};
use super::raise::{self, Ending, Raised};
use super::{Limits, StopFlag, Value, convert};

/// Compiled scripts that an interpreter keeps, at most.
const COMPILED_MAX: usize = 500;

/// Bytes of source whose compiled scripts an interpreter keeps, at most.
const COMPILED_BYTES_MAX: usize = 8 << 20;

/// What scripts reach outside of Lua.
pub trait Commands {
    /// Runs a command and returns its reply. `resp3` is the protocol that the script chose: replies
    /// have the types of that protocol. Errors are returned as [`Value::Error`], with their code.
    fn call(&mut self, args: &[Vec<u8>], resp3: bool) -> Value;

    /// Returns whether the user of the script may run a command, or `None` if there is no such
    /// command or if it has a wrong number of arguments.
    fn check_acl(&mut self, args: &[Vec<u8>]) -> Option<bool>;

    /// Writes a line to the server's log.
    fn log(&mut self, level: LogLevel, text: &[u8]);
}

/// Importance of a line in the server's log, as in `redis.LOG_WARNING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `LOG_DEBUG`
    Debug,
    /// `LOG_VERBOSE`
    Verbose,
    /// `LOG_NOTICE`
    Notice,
    /// `LOG_WARNING`
    Warning,
}

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
    /// The script was ended by its [`StopFlag`].
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
/// Nothing that a script does remains for the next one, except what commands did. After a script was
/// ended by a limit, the state is replaced by a fresh one.
pub struct Interpreter {
    state: Option<State>,
    /// How often the state was replaced by a fresh one.
    replaced: u64,
}

struct State {
    lua: Lua,
    environment: Environment,
    meter: Arc<Meter>,
    exchange: Arc<Mutex<Exchange>>,
    compiled: HashMap<String, (Function, usize)>,
    /// Names of compiled scripts, the oldest first.
    order: VecDeque<String>,
    compiled_bytes: usize,
}

/// What the running script may still use.
#[derive(Debug, Default)]
pub(super) struct Meter {
    left: AtomicU64,
    stop: Mutex<StopFlag>,
    /// Whether the script reached a limit, or was stopped.
    ended: AtomicBool,
}

impl Meter {
    /// Counts instructions, or work of a library function that takes as long as that many.
    pub(super) fn charge(&self, instructions: u64) -> Result<(), Ending> {
        if locked(&self.stop).is_set() {
            self.ended.store(true, Ordering::Relaxed);
            return Err(Ending::Stopped);
        }
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(instructions), Ordering::Relaxed);
        if left < instructions || self.ended.load(Ordering::Relaxed) {
            self.ended.store(true, Ordering::Relaxed);
            return Err(Ending::Instructions);
        }
        Ok(())
    }
}

/// How functions of the libraries reach the host of the running script.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    host: Option<Function>,
    request: Option<Request>,
    response: Response,
    resp3: bool,
}

/// What a function of a library asks the host.
#[derive(Debug)]
pub(super) enum Request {
    Call(Vec<Vec<u8>>),
    CheckAcl(Vec<Vec<u8>>),
    Log(LogLevel, Vec<u8>),
    SetResp3(bool),
}

/// What the host answers.
#[derive(Debug, Default)]
pub(super) enum Response {
    #[default]
    Done,
    Reply(Value),
    Permission(Option<bool>),
}

/// Asks the host of the running script. Returns its answer, and whether the script uses RESP3.
pub(super) fn ask(lua: &Lua, request: Request) -> mlua::Result<(Response, bool)> {
    let Some(exchange) = lua.app_data_ref::<Arc<Mutex<Exchange>>>().map(|shared| shared.clone())
    else {
        return Ok((Response::Done, false));
    };
    let host = {
        let mut exchange = locked(&exchange);
        if let Request::SetResp3(resp3) = request {
            exchange.resp3 = resp3;
            return Ok((Response::Done, resp3));
        }
        exchange.request = Some(request);
        exchange.host.clone()
    };
    let Some(host) = host else {
        return Err(raise::error(
            lua,
            "redis.call/pcall can only be called inside a script invocation",
        ));
    };
    host.call::<()>(())?;
    let mut exchange = locked(&exchange);
    Ok((std::mem::take(&mut exchange.response), exchange.resp3))
}

/// Locks what only one thread uses.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn load(&mut self, script: &Script<'_>) -> Result<(), ScriptError> {
        let state = self.state()?;
        state.relax();
        state.function(script).map(drop)
    }

    /// Runs a script, which is compiled first if it is not known yet.
    ///
    /// `keys` and `argv` are what the script sees as `KEYS` and `ARGV`.
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
        let meter = Arc::new(Meter::default());
        let exchange = Arc::new(Mutex::new(Exchange::default()));
        let (lua, environment) = environment::create(&meter)?;
        lua.set_app_data(exchange.clone());
        Ok(Self {
            lua,
            environment,
            meter,
            exchange,
            compiled: HashMap::new(),
            order: VecDeque::new(),
            compiled_bytes: 0,
        })
    }

    /// Lifts the limits of the last run.
    fn relax(&self) {
        self.meter.left.store(u64::MAX, Ordering::Relaxed);
        self.meter.ended.store(false, Ordering::Relaxed);
        *locked(&self.meter.stop) = StopFlag::default();
        // Only fails for states with another allocator.
        let _ = self.lua.set_memory_limit(0);
    }

    fn limit(&self, limits: &Limits) {
        self.relax();
        self.meter.left.store(limits.instructions, Ordering::Relaxed);
        *locked(&self.meter.stop) = limits.stop.clone();
        self.environment.random.seed(limits.seed);
        let _ = self.lua.set_memory_limit(limits.memory_bytes);
    }

    fn function(&mut self, script: &Script<'_>) -> Result<Function, ScriptError> {
        if let Some((function, _)) = self.compiled.get(script.sha) {
            return Ok(function.clone());
        }
        let header = Header::parse(script.source)?;
        let code = &script.source[header.code_at..];
        let function =
            environment::compile(&self.lua, &self.environment.globals, code, "@user_script")
                .map_err(ScriptError::Compile)?;
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
        let function = self.function(script)?;
        let keys = self.strings(keys).map_err(|error| failure(&error))?;
        let argv = self.strings(argv).map_err(|error| failure(&error))?;
        let run = self.environment.run.clone();
        let outcome = self.with_host(commands, || {
            self.limit(limits);
            let outcome = run.call::<(bool, LuaValue)>((function, keys, argv));
            let resp3 = locked(&self.exchange).resp3;
            let outcome = match outcome {
                Ok((true, value)) => convert::from_lua(&value, resp3),
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
        self.lua.gc_restart();
        match outcome {
            Ok(Value::Error(text)) => Err(ScriptError::Raised(text)),
            Ok(value) => Ok(value),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Calls `f` while functions of the libraries reach `commands`.
    fn with_host<R>(
        &self,
        commands: &mut dyn Commands,
        f: impl FnOnce() -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        let exchange = self.exchange.clone();
        self.lua.scope(|scope| {
            let answering = exchange.clone();
            let host = scope.create_function_mut(move |_, ()| {
                let (request, resp3) = {
                    let mut exchange = locked(&answering);
                    (exchange.request.take(), exchange.resp3)
                };
                let response = match request {
                    Some(Request::Call(args)) => Response::Reply(commands.call(&args, resp3)),
                    Some(Request::CheckAcl(args)) => {
                        Response::Permission(commands.check_acl(&args))
                    }
                    Some(Request::Log(level, text)) => {
                        commands.log(level, &text);
                        Response::Done
                    }
                    Some(Request::SetResp3(_)) | None => Response::Done,
                };
                locked(&answering).response = response;
                Ok(())
            })?;
            {
                let mut exchange = locked(&exchange);
                exchange.host = Some(host);
                exchange.resp3 = false;
            }
            let result = f();
            *locked(&exchange) = Exchange::default();
            result
        })
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
            Ok(LuaValue::String(text)) => text.as_bytes().to_vec(),
            _ => b"ERR unknown error".to_vec(),
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
