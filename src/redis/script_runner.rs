//! Runs clients' requests that contain scripts: a script or function alone (`EVAL`, `FCALL` and
//! their relatives), or a transaction (`EXEC`) with some.
//!
//! The applier calls it. A run changes only the overlay; its result says what must be checked or
//! applied, by the log, before the client gets the reply.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::kv::{
    Arguments, CommandId, Operation, Overlay, ScriptEffects, StateMachine, WatchedKey,
};
use crate::lua::{
    Deadline, Flag, Interpreter, Library, Limits, Script, ScriptError, StopFlag, Value, sha1_hex,
};
use crate::types::{Instant, NodeId};
use crate::wire::resp::{self, Request, Version, Writer};

use super::authorization::Checked;
use super::commands::functions::RunningScript;
use super::commands::scripting::{KEY_COUNT_INDEX, is_function, runs_script};
use super::context::{ClockStatus, Context, ReplicaInfo, SnapshotInfo};
use super::permissions::Permissions;
use super::registry;
use super::script_found::{Code, Found, Refused};
use super::script_host::{Host, Interruption, ScriptClock};
use super::script_notes::ScriptNotes;
use super::session::connection::Connection;
use super::session::reply_format::ReplyFormat;
use super::session::subscriptions::Subscriptions;
use super::settings::Settings;

const LOAD: CommandId = CommandId::of("script|load");

/// The user as whom a client's scripts run, with the permissions of now.
#[derive(Debug, Clone)]
pub struct ScriptUser(Option<Arc<Permissions>>);

impl ScriptUser {
    /// Returns the user of the connection.
    pub fn of(connection: &Connection) -> ScriptUser {
        ScriptUser(connection.permissions.clone())
    }
}

/// A client's request that contains scripts.
#[derive(Debug, Clone)]
pub struct ScriptRequest {
    /// The encoded operation of the request.
    operation: Bytes,
    version: Version,
    permissions: Option<Arc<Permissions>>,
    /// Whether the client caches the values that the scripts read.
    is_cached: bool,
}

impl ScriptRequest {
    /// Returns the request with this encoded operation and reply format, which `EVAL` or `EXEC` has
    /// submitted for this user. `is_cached` is whether the client caches the values that the
    /// scripts read.
    pub fn new(
        user: ScriptUser,
        operation: Bytes,
        reply_format: &ReplyFormat,
        is_cached: bool,
    ) -> ScriptRequest {
        let (version, ScriptUser(permissions)) = (reply_format.version, user);
        ScriptRequest { operation, version, permissions, is_cached }
    }

    /// Describes the first script or function of the request.
    pub fn script(&self) -> RunningScript {
        let first = match Operation::decode(&self.operation) {
            Ok(Operation::Transaction { operations, .. }) => {
                let nested = operations.iter().filter_map(|it| Operation::decode_nested(it).ok());
                nested.filter_map(|it| it.as_call()).map(|(_, args)| args).find(|args| runs(args))
            }
            Ok(operation) => operation.as_call().map(|(_, args)| args),
            Err(_) => None,
        };
        let args = first.unwrap_or_default();
        let name = command_name(&args);
        let (is_function, script) = (is_function(&name), args.get(1).copied().unwrap_or_default());
        let is_source = !is_function && !name.starts_with("evalsha");
        RunningScript {
            is_function,
            name: if is_source { sha1_hex(script).into_bytes() } else { script.to_vec() },
            command: args.into_iter().map(<[u8]>::to_vec).collect(),
        }
    }
}

fn command_name(args: &[&[u8]]) -> String {
    let name = args.first().copied().unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

fn runs(args: &[&[u8]]) -> bool {
    runs_script(&command_name(args))
}

/// What scripts need to know about the replica, besides its state.
#[derive(Debug, Clone)]
pub struct ScriptFacts {
    /// The revision of the users under which the requests run.
    pub users_revision: u64,
    now: Instant,
    wall_clock: Duration,
    /// Reading of the replicated clock, in milliseconds since 1970, and how many times it had been
    /// set back.
    replicated_clock: (u64, u64),
    feature_level: FeatureLevel,
    is_full: bool,
    payload_bytes_max: usize,
    value_bytes_max: usize,
    subscriptions: Arc<Subscriptions>,
    snapshot: SnapshotInfo,
    /// Number of monitors.
    monitors: u64,
}

impl ScriptFacts {
    /// Returns the facts in the context and the settings of the replica.
    pub fn new(context: &Context, settings: &Settings) -> ScriptFacts {
        ScriptFacts {
            users_revision: context.access.users_revision(),
            now: context.now,
            wall_clock: context.wall_clock,
            replicated_clock: (context.clocks.replicated, context.clocks.resets),
            feature_level: context.members.feature_level,
            is_full: context.is_full,
            payload_bytes_max: context.payload_bytes_max,
            value_bytes_max: settings.value_bytes_max(),
            subscriptions: Arc::clone(&context.subscriptions),
            snapshot: context.snapshot,
            monitors: context.monitors,
        }
    }

    /// Returns when the requests were sent to be run.
    pub fn sent_at(&self) -> Instant {
        self.now
    }
}

/// What a run may use.
#[derive(Debug, Clone)]
pub struct ScriptBudget {
    /// Number of instructions of the Lua machine.
    pub instructions: u64,
    /// Number of steps of about 50 ns that the script's commands may take.
    pub steps: u64,
    /// Time that the run may take in any case.
    pub time: Duration,
    /// Length of a script or library that may be compiled, in bytes.
    pub code_bytes: usize,
    /// Ends the run when it is set. It must be cleared before a run.
    pub stop: StopFlag,
    /// Seed of the random choices of the run.
    pub seed: u64,
    /// Tells how long the calls of the run take.
    pub clock: ScriptClock,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptRun {
    /// The run has ended, with this reply, in the client's protocol version.
    Ended {
        /// The encoded reply.
        reply: Bytes,
        /// What must be checked or applied before the client gets the reply.
        effects: ScriptEffects,
        /// The keys that read-only commands have read, if the client caches their values.
        read: Vec<Bytes>,
        /// What the run reports once the reply is known to be right.
        notes: Box<ScriptNotes>,
    },
    /// The request must be the first one that runs on another overlay.
    NotFirst,
    /// The run was ended because it has used up its budget.
    OverBudget,
    /// The request runs on another thread, and its result follows.
    Moved,
    /// The run was ended by its stop flag.
    Stopped,
}

/// Runs scripts, one after another, on an overlay of a state.
#[derive(Debug)]
pub struct ScriptRunner {
    interpreter: Interpreter,
    overlay: Overlay,
    context: Context,
    settings: Settings,
    /// Whether a run was ended after it had written, so that no other may follow on the overlay.
    is_spoiled: bool,
}

impl Default for ScriptRunner {
    fn default() -> ScriptRunner {
        let me = ReplicaInfo {
            id: NodeId(1),
            host: String::new(),
            port: 0,
            peer_port: 0,
            connected: true,
            match_index: None,
            path: None,
            disk: crate::types::DiskState::Healthy,
            program: None,
        };
        ScriptRunner {
            interpreter: Interpreter::new(),
            overlay: Overlay::default(),
            context: Context::alone(me, 0, Instant::ZERO),
            settings: Settings::new(&resp::Limits::default(), "", 0, ""),
            is_spoiled: false,
        }
    }
}

impl ScriptRunner {
    /// Begins to run requests on `state`, which must not change until the last one has run.
    pub fn begin(&mut self, state: &StateMachine, facts: &ScriptFacts) {
        self.overlay.begin(state);
        self.overlay.advance_clock(facts.replicated_clock);
        self.is_spoiled = false;
        let (millis, resets) = self.overlay.clock();
        self.context.clocks = ClockStatus { replicated: millis, resets, ..ClockStatus::default() };
        self.context.now = facts.now;
        self.context.wall_clock = facts.wall_clock;
        self.context.members.feature_level = facts.feature_level;
        self.context.folder_level = facts.feature_level;
        self.context.is_full = facts.is_full;
        self.context.payload_bytes_max = facts.payload_bytes_max;
        self.context.subscriptions = Arc::clone(&facts.subscriptions);
        self.context.snapshot = facts.snapshot;
        self.context.monitors = facts.monitors;
        if self.settings.value_bytes_max() != facts.value_bytes_max {
            let limits = resp::Limits { bulk_bytes_max: facts.value_bytes_max, ..<_>::default() };
            self.settings = Settings::new(&limits, "", 0, "");
        }
    }

    /// Ends the runs on a state, so that the runner shares no values with the state any more.
    pub fn end(&mut self) {
        self.overlay.clear();
        self.context.subscriptions = Arc::default();
    }

    /// Returns whether another request may run on the same overlay.
    pub fn may_continue(&self) -> bool {
        !self.is_spoiled
    }

    /// Runs a request on the state with which [`ScriptRunner::begin`] was called.
    pub fn run(
        &mut self,
        state: &StateMachine,
        request: &ScriptRequest,
        budget: &ScriptBudget,
    ) -> ScriptRun {
        // Monitors see Redis's name in place of an address.
        let address = "lua".to_owned();
        let mut connection = Connection::new(0, address, String::new(), self.context.now);
        connection.permissions.clone_from(&request.permissions);
        connection.version = request.version;
        self.overlay.begin_script(budget.seed);
        let operation = Operation::decode(&request.operation);
        let mut new = Vec::new();
        let mut notes = Box::<ScriptNotes>::default();
        let deadline = budget.clock.deadline_after(budget.time);
        let mut host = Host {
            state,
            overlay: &mut self.overlay,
            connection: &mut connection,
            context: &self.context,
            settings: &mut self.settings,
            is_read_only: false,
            allows_full_memory: false,
            steps_left: budget.steps,
            stop: budget.stop.clone(),
            interruption: None,
            read: request.is_cached.then(BTreeSet::new),
            notes: &mut notes,
            clock: budget.clock.clone(),
        };
        let mut reply = BytesMut::new();
        let result = match operation {
            Ok(Operation::Call { args, database, .. }) => {
                host.connection.database = database;
                let version = request.version;
                let mut one = OneRequest { budget, deadline, version, new: &mut new };
                one.run(&mut self.interpreter, &mut host, args, false, &mut reply)
            }
            Ok(Operation::Transaction { watched, operations }) => {
                let mut watched = WatchedKey::all_in(watched);
                let first = operations.iter().next().map(Operation::decode_nested);
                if let Some(Ok(Operation::Call { database, .. })) = first {
                    host.connection.database = database;
                }
                if watched.all(|watched| host.overlay.is_unchanged(state, &watched)) {
                    Writer::new(&mut reply, request.version).array(operations.iter().count());
                    operations.iter().try_for_each(|one| {
                        let Ok(Operation::Call { args, .. }) = Operation::decode_nested(one) else {
                            unreachable!("EXEC has encoded calls")
                        };
                        let (deadline, version) = (deadline.clone(), request.version);
                        let mut one = OneRequest { budget, deadline, version, new: &mut new };
                        one.run(&mut self.interpreter, &mut host, args, true, &mut reply)
                    })
                } else {
                    Writer::new(&mut reply, request.version).null_array();
                    Ok(())
                }
            }
            other => unreachable!("EVAL or EXEC has encoded this: {other:?}"),
        };
        let (interruption, read) = (host.interruption, host.read.take());
        notes.shown = connection.take_shown();
        match (result, interruption) {
            (Ok(()), None) => {
                let effects = self.overlay.finish_script(&new);
                let read = read.into_iter().flatten().collect();
                ScriptRun::Ended { reply: reply.freeze(), effects, read, notes }
            }
            (_, Some(Interruption::TooLarge)) => {
                self.is_spoiled |= !self.overlay.abandon_script();
                let max = self.context.payload_bytes_max;
                let text = format!("ERR the script uses or writes too much, at most {max} bytes");
                let mut reply = BytesMut::new();
                Writer::new(&mut reply, request.version).error(text.as_bytes());
                let (effects, read) = (ScriptEffects::None, Vec::new());
                ScriptRun::Ended { reply: reply.freeze(), effects, read, notes }
            }
            (result, interruption) => {
                self.is_spoiled |= !self.overlay.abandon_script();
                match (result, interruption) {
                    (_, Some(Interruption::NotFirst)) => ScriptRun::NotFirst,
                    (Err(ScriptError::Stopped), None) => ScriptRun::Stopped,
                    _ => ScriptRun::OverBudget,
                }
            }
        }
    }
}

/// The run of one of the commands of a request.
struct OneRequest<'r> {
    budget: &'r ScriptBudget,
    /// That of the whole request.
    deadline: Deadline,
    version: Version,
    /// The SHA-1 and the source of the first script that the cluster does not keep yet.
    new: &'r mut Vec<u8>,
}

impl OneRequest<'_> {
    /// Runs a command, and appends its reply to `out`.
    ///
    /// # Errors
    /// If the whole run must end without effect.
    fn run(
        &mut self,
        interpreter: &mut Interpreter,
        host: &mut Host<'_>,
        args: Arguments<'_>,
        in_transaction: bool,
        out: &mut BytesMut,
    ) -> Result<(), ScriptError> {
        if self.deadline.is_over() {
            return Err(ScriptError::Instructions);
        }
        let args: Vec<&[u8]> = args.iter().collect();
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        for arg in &args {
            ranges.push(bytes.len()..bytes.len() + arg.len());
            bytes.extend_from_slice(arg);
        }
        let request = Request::new(&bytes, &ranges);
        let (number, spec) = registry::table().resolved(request);
        let argument = |index| request.get(index);
        let checked = Checked { spec, number, count: request.len(), argument: &argument };
        host.connection.version = self.version;
        if !host.connection.is_unrestricted()
            && let Some(text) = host.connection.unauthorized(checked, in_transaction)
        {
            if let Some(denial) = host.connection.denial.take() {
                host.notes.deny(*denial);
            }
            Writer::new(out, self.version).error(text.as_bytes());
            return Ok(());
        }
        if !runs_script(spec.full_name) {
            let mut reply = BytesMut::new();
            host.run(spec, request, &mut reply);
            out.extend_from_slice(&reply);
            return Ok(());
        }
        let found = match Found::of(host, spec, &args) {
            Ok(found) => found,
            Err(Refused(text)) => {
                Writer::new(out, self.version).error(&text);
                return Ok(());
            }
        };
        host.is_read_only = spec.has_flag("readonly") || found.has(Flag::NoWrites);
        host.allows_full_memory = found.has(Flag::AllowOom);
        let database = host.connection.database;
        let result = self.run_code(interpreter, host, &found.code, &args);
        // As in Redis, the database that a script selects is its own.
        host.connection.database = database;
        (host.is_read_only, host.allows_full_memory) = (false, false);
        let is_compiled = !matches!(result, Err(ScriptError::Compile(_) | ScriptError::Header(_)));
        if is_compiled
            && found.is_new
            && let Code::Script { sha, source } = &found.code
        {
            self.keep(host, sha, source);
        }
        let value = match result {
            Err(ended @ (ScriptError::Stopped | ScriptError::Instructions)) => return Err(ended),
            Err(error) => error.reply(),
            Ok(value) => value,
        };
        let mut reply = Vec::new();
        value.write(self.version == Version::Three, &mut reply);
        out.put_slice(&reply);
        Ok(())
    }

    /// Makes the cluster keep a script.
    fn keep(&mut self, host: &mut Host<'_>, sha: &str, source: &[u8]) {
        if self.new.is_empty() {
            // It is kept even if the effects are not applied.
            *self.new = [sha.as_bytes(), source].concat();
            host.overlay.add_script(sha, source);
        } else {
            let (args, database) = ([sha.as_bytes(), source], host.connection.database);
            // Without space, the next `EVAL` brings its source again.
            let _ = host.overlay.call(host.state, LOAD, args[..].into(), (database, false));
        }
    }

    /// Runs a script, or calls a function, for a request with these arguments.
    fn run_code(
        &self,
        interpreter: &mut Interpreter,
        host: &mut Host<'_>,
        code: &Code,
        args: &[&[u8]],
    ) -> Result<Value, ScriptError> {
        let index = usize::from(KEY_COUNT_INDEX);
        let count = crate::kv::parse_integer(args[index]).unwrap_or(0);
        let (keys, others) = args[index + 1..].split_at(usize::try_from(count).unwrap_or(0));
        let owned = |args: &[&[u8]]| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        let (keys, others) = (owned(keys), owned(others));
        let limits = Limits {
            instructions: self.budget.instructions,
            stop: self.budget.stop.clone(),
            seed: self.budget.seed,
            code_bytes: self.budget.code_bytes,
            deadline: self.deadline.clone(),
            ..Limits::default()
        };
        match code {
            Code::Script { sha, source } => {
                let script = Script { sha, source };
                interpreter.run(&script, &keys, &others, host, &limits)
            }
            Code::Function { library: kept, name } => {
                let library_name = String::from_utf8_lossy(&kept.library.name);
                let library =
                    Library { name: &library_name, id: kept.loaded_at, source: &kept.library.code };
                interpreter.call((&library, name), &keys, &others, host, &limits)
            }
        }
    }
}
