//! How functions of the libraries reach the host of the running script.

use std::sync::{Arc, Mutex};

use mlua::{Function, Lua};

use super::meter::locked;
use super::{Value, raise};

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

/// What a function of a library asks the host.
#[derive(Debug)]
pub(super) enum Request {
    Call(Vec<Vec<u8>>),
    CheckAcl(Vec<Vec<u8>>),
    Log(LogLevel, Vec<u8>),
}

/// What the host answers.
#[derive(Debug, Default)]
pub(super) enum Response {
    #[default]
    Done,
    Reply(Value),
    Permission(Option<bool>),
}

/// The place where questions and answers are exchanged, shared by a Lua state and its interpreter.
#[derive(Clone, Debug, Default)]
pub(super) struct Host(Arc<Mutex<Exchange>>);

#[derive(Debug, Default)]
struct Exchange {
    /// Answers the request that is waiting. Present only while a script runs.
    answer: Option<Function>,
    request: Option<Request>,
    response: Response,
    resp3: bool,
}

impl Host {
    fn of(lua: &Lua) -> Self {
        lua.app_data_ref::<Self>().map(|host| host.clone()).unwrap_or_default()
    }

    /// Returns whether the script uses RESP3.
    pub(super) fn resp3(&self) -> bool {
        locked(&self.0).resp3
    }

    /// Calls `f` while functions of the libraries reach `commands`.
    pub(super) fn with<R>(
        &self,
        lua: &Lua,
        commands: &mut dyn Commands,
        f: impl FnOnce() -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        lua.scope(|scope| {
            let shared = self.clone();
            let answer = scope.create_function_mut(move |_, ()| {
                shared.answer(commands);
                Ok(())
            })?;
            *locked(&self.0) = Exchange { answer: Some(answer), ..Exchange::default() };
            let result = f();
            *locked(&self.0) = Exchange::default();
            result
        })
    }

    fn answer(&self, commands: &mut dyn Commands) {
        let (request, resp3) = {
            let mut exchange = locked(&self.0);
            (exchange.request.take(), exchange.resp3)
        };
        let response = match request {
            Some(Request::Call(args)) => Response::Reply(commands.call(&args, resp3)),
            Some(Request::CheckAcl(args)) => Response::Permission(commands.check_acl(&args)),
            Some(Request::Log(level, text)) => {
                commands.log(level, &text);
                Response::Done
            }
            None => Response::Done,
        };
        locked(&self.0).response = response;
    }
}

/// Asks the host of the running script. Returns its answer, and whether the script uses RESP3.
pub(super) fn ask(lua: &Lua, request: Request) -> mlua::Result<(Response, bool)> {
    let host = Host::of(lua);
    let answer = {
        let mut exchange = locked(&host.0);
        exchange.request = Some(request);
        exchange.answer.clone()
    };
    let Some(answer) = answer else {
        let text = "redis.call/pcall can only be called inside a script invocation";
        return Err(raise::error(lua, text));
    };
    answer.call::<()>(())?;
    let mut exchange = locked(&host.0);
    Ok((std::mem::take(&mut exchange.response), exchange.resp3))
}

/// Chooses the protocol of the replies that follow.
pub(super) fn set_resp3(lua: &Lua, resp3: bool) {
    locked(&Host::of(lua).0).resp3 = resp3;
}
