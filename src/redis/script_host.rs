//! The commands that a script calls: the same parsing, checks and functions as for clients, on the
//! overlay of the applied state.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::{ItemsBuffer, Operation, Outcome, Overlay, OverlayError, StateMachine, read_keys};
use crate::lua::{Commands, Deadline, LogLevel, StopFlag, Value, read_value};
use crate::types::Instant;
use crate::wire::resp::{Request, Version, Writer};

use super::acl_log::{Denial, DenialContext, DenialReason};
use super::action::Action;
use super::authorization::Checked;
use super::call::Call;
use super::commands::streams::refusal_in_script;
use super::context::Context;
use super::registry;
use super::script_notes::ScriptNotes;
use super::session::connection::Connection;
use super::settings::Settings;
use super::spec::{CommandSpec, DENY_OOM};
use super::statistics::{CallStatus, CommandNumber};

/// Commands that a script may call although they use no key. Their replies depend only on what
/// [`ScriptFacts`](super::ScriptFacts) has of the replica.
const WITHOUT_KEYS: &[&str] = &[
    "command",
    "command|count",
    "command|docs",
    "command|getkeys",
    "command|getkeysandflags",
    "command|help",
    "command|info",
    "command|list",
    "echo",
    "lolwut",
    "lastsave",
    "memory|help",
    "object|help",
    "ping",
    "pubsub|channels",
    "pubsub|help",
    "pubsub|numpat",
    "pubsub|numsub",
    "pubsub|shardchannels",
    "pubsub|shardnumsub",
    "select",
    "slowlog|help",
    "time",
];
/// Number of steps that a call takes besides its command.
const STEPS_PER_CALL: u64 = 20;

/// Length in bytes of the lines for monitors about one run from which on there are no more.
const SHOWN_BYTES_MAX: usize = 1 << 20;
const NOT_ALLOWED: &str = "ERR This Redis command is not allowed from script";

/// What ends the run of a script from within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    /// The script's commands take longer than they may on the applier's thread.
    OverBudget,
    /// The script must be the first on its overlay.
    NotFirst,
    /// The script has used too many keys, or written too much, for a log entry.
    TooLarge,
}

/// What the commands of a script work on.
#[derive(Debug)]
pub(super) struct Host<'r> {
    pub(super) state: &'r StateMachine,
    pub(super) overlay: &'r mut Overlay,
    pub(super) connection: &'r mut Connection,
    pub(super) context: &'r Context,
    pub(super) settings: &'r mut Settings,
    /// Whether the script must not write.
    pub(super) is_read_only: bool,
    /// Whether the script may add data although memory is full.
    pub(super) allows_full_memory: bool,
    /// Number of steps of about 50 ns that the script's commands may still take.
    pub(super) steps_left: u64,
    /// Ends the script.
    pub(super) stop: StopFlag,
    pub(super) interruption: Option<Interruption>,
    /// The keys that read-only commands have read; `None` if they are not needed.
    pub(super) read: Option<BTreeSet<Bytes>>,
    /// What the script reports.
    pub(super) notes: &'r mut ScriptNotes,
    /// Tells how long the calls take.
    pub(super) clock: ScriptClock,
}

/// A clock for the times that calls of scripts take.
#[derive(Clone)]
pub struct ScriptClock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl ScriptClock {
    /// Returns a clock that shows what `read` returns.
    pub fn new(read: impl Fn() -> Instant + Send + Sync + 'static) -> ScriptClock {
        ScriptClock(Arc::new(read))
    }

    fn now(&self) -> Instant {
        (self.0)()
    }

    /// Returns a deadline after `time` from now on.
    pub(super) fn deadline_after(&self, time: Duration) -> Deadline {
        let (clock, end) = (self.clone(), self.now() + time);
        Deadline::new(move || clock.now() >= end)
    }
}

impl std::fmt::Debug for ScriptClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptClock").finish_non_exhaustive()
    }
}

/// A request with the arguments of a call.
struct CallRequest {
    bytes: Vec<u8>,
    arguments: Vec<Range<usize>>,
}

impl CallRequest {
    fn new<'a>(args: impl Iterator<Item = &'a [u8]>) -> CallRequest {
        let (mut bytes, mut arguments) = (Vec::new(), Vec::new());
        for arg in args {
            let start = bytes.len();
            bytes.extend_from_slice(arg);
            arguments.push(start..bytes.len());
        }
        CallRequest { bytes, arguments }
    }

    fn request(&self) -> Request<'_> {
        Request::new(&self.bytes, &self.arguments)
    }
}

fn error(text: impl Into<String>) -> Value {
    Value::Error(text.into().into_bytes())
}

impl Host<'_> {
    /// Ends the script, as if it had never run.
    fn interrupt(&mut self, interruption: Interruption) {
        self.interruption.get_or_insert(interruption);
        self.stop.set();
    }

    /// Finds the command of a request, and checks everything that Redis checks for a call from a
    /// script.
    ///
    /// # Errors
    /// If the call is refused, with the error.
    fn resolve(
        &mut self,
        request: Request<'_>,
    ) -> Result<(CommandNumber, &'static CommandSpec), Value> {
        let table = registry::table();
        let mut ignored = BytesMut::new();
        let mut writer = Writer::new(&mut ignored, Version::Two);
        self.connection.call_status = CallStatus::NotCounted;
        let resolved = table.resolve(self.connection, request, self.context.now, &mut writer);
        let (spec, number) = match (resolved, self.connection.call_status) {
            (Ok(spec), CallStatus::Called(number)) => (spec, number),
            (_, CallStatus::Rejected(number)) => {
                self.notes.note_rejected(number);
                return Err(error("ERR Wrong number of args calling Redis command from script"));
            }
            _ => return Err(error("ERR Unknown Redis command called from script")),
        };
        if spec.has_flag("noscript") {
            return Err(error(NOT_ALLOWED));
        }
        let argument = |index| request.get(index);
        let checked = Checked { spec, number, count: request.len(), argument: &argument };
        if !self.connection.is_unrestricted()
            && self.connection.unauthorized(checked, false).is_some()
        {
            let denial = self.connection.denial.take();
            let reason = denial.as_ref().map(|denial| denial.reason);
            self.notes.note_rejected(number);
            if let Some(denial) = denial {
                self.notes.deny(Denial { context: DenialContext::Script, ..*denial });
            }
            return Err(error(match reason {
                Some(DenialReason::Key) => {
                    "ERR The user executing the script can't access at least one of the keys \
                     mentioned in the command arguments"
                }
                Some(DenialReason::Channel) => {
                    "ERR The user executing the script can't publish to the channel mentioned in \
                     the command"
                }
                _ => "ERR The user executing the script can't run this command or subcommand",
            }));
        }
        if self.is_read_only && spec.may_change() {
            self.notes.note_rejected(number);
            return Err(error("ERR Write commands are not allowed from read-only scripts."));
        }
        if self.context.is_full && spec.has_flag(DENY_OOM) && !self.allows_full_memory {
            self.notes.note_rejected(number);
            return Err(error("OOM command not allowed when used memory > 'maxmemory'."));
        }
        let refusal = self.connection.lacks_database(spec);
        match refusal.or_else(|| self.context.refusal_below(spec.feature_level)) {
            Some(refusal) => Err(error(refusal)),
            None => Ok((number, spec)),
        }
    }

    /// Runs a command, and appends its reply to `out`.
    pub(super) fn run(&mut self, spec: &CommandSpec, request: Request<'_>, out: &mut BytesMut) {
        let version = self.connection.version;
        let mut batch = ItemsBuffer::default();
        let writer = Writer::new(out, version);
        let mut call = Call {
            connection: self.connection,
            command: None,
            request,
            context: self.context,
            settings: self.settings,
            writer,
            batch: Some(&mut batch),
        };
        let action = spec.run(&mut call, registry::table());
        match action {
            Action::Submit { reply_format, .. } => {
                let needs_memory = spec.has_flag(DENY_OOM) && !self.allows_full_memory;
                for operation in batch.items().iter() {
                    let outcome = self.perform(operation, needs_memory);
                    reply_format.encode(&outcome, out);
                }
            }
            Action::Reply if out.starts_with(b"-") || WITHOUT_KEYS.contains(&spec.full_name) => {}
            _ => {
                out.clear();
                Writer::new(out, version).error(NOT_ALLOWED.as_bytes());
            }
        }
        self.connection.blocked = None;
    }

    /// Runs an encoded operation on the overlay. `needs_memory` is whether the leader may refuse
    /// its effects if its memory is full.
    fn perform(&mut self, operation: &[u8], needs_memory: bool) -> Outcome {
        let not_allowed = || Outcome::Error(NOT_ALLOWED.into());
        let Ok(decoded) = Operation::decode(operation) else { return not_allowed() };
        let Operation::Call { command, args, database } = decoded else { return not_allowed() };
        if let Some(read) = &mut self.read {
            read.extend(read_keys(&decoded).into_iter().map(Bytes::copy_from_slice));
        }
        let steps = self.overlay.prepare(self.state, command, args, database);
        let left = self.steps_left.checked_sub(steps.saturating_add(STEPS_PER_CALL));
        let Some(left) = left else {
            self.interrupt(Interruption::OverBudget);
            return Outcome::Malformed;
        };
        self.steps_left = left;
        let outcome = match self.overlay.call(self.state, command, args, (database, needs_memory)) {
            Ok(outcome) => outcome,
            Err(OverlayError::NotFirst) => {
                self.interrupt(Interruption::NotFirst);
                Outcome::Malformed
            }
            Err(refused) => Outcome::Error(refused.to_string().into()),
        };
        if self.overlay.bytes() > self.context.payload_bytes_max {
            self.interrupt(Interruption::TooLarge);
        }
        outcome
    }
}

impl Commands for Host<'_> {
    fn call(&mut self, args: &[Vec<u8>], resp3: bool) -> Value {
        if self.interruption.is_some() {
            return error("ERR the script is being ended");
        }
        if args.is_empty() {
            return error("ERR Unknown Redis command called from script");
        }
        let request = CallRequest::new(args.iter().map(Vec::as_slice));
        let (number, spec) = match self.resolve(request.request()) {
            Ok(found) => found,
            Err(refused) => {
                if let Value::Error(text) = &refused {
                    self.notes.note_error(text);
                }
                return refused;
            }
        };
        if let Some(refused) = refusal_in_script(spec, request.request()) {
            return error(refused);
        }
        let began_at = self.clock.now();
        self.connection.version = if resp3 { Version::Three } else { Version::Two };
        let mut out = BytesMut::new();
        self.run(spec, request.request(), &mut out);
        // As in Redis, a SELECT is shown with the database that it has selected.
        if self.connection.shown_bytes() < SHOWN_BYTES_MAX {
            self.connection.show(spec, request.request(), self.context);
        }
        let failed = out.starts_with(b"-");
        self.notes.note_call(number, failed, self.clock.now().since(began_at));
        if failed {
            self.notes.note_error(&out[1..]);
        }
        match read_value(&out) {
            Ok((value, _)) => value,
            Err(_) => error(NOT_ALLOWED),
        }
    }

    fn check_acl(&mut self, args: &[Vec<u8>]) -> Option<bool> {
        let request = CallRequest::new(args.iter().map(Vec::as_slice));
        let request = request.request();
        let mut ignored = BytesMut::new();
        let mut writer = Writer::new(&mut ignored, Version::Two);
        let table = registry::table();
        let spec = table.resolve(self.connection, request, self.context.now, &mut writer).ok()?;
        let CallStatus::Called(number) = self.connection.call_status else { return None };
        let argument = |index| request.get(index);
        let checked = Checked { spec, number, count: request.len(), argument: &argument };
        let is_denied = self.connection.unauthorized(checked, false).is_some();
        self.connection.denial = None;
        Some(!is_denied)
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        self.notes.log(level, text);
    }
}
