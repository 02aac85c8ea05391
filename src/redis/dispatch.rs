//! The execution of a request: the lookup of its command, the checks that apply to every command,
//! then either the command's function or queueing for a transaction.

use bytes::BytesMut;

use crate::kv::Operation;
use crate::lua::{Flag, Header};
use crate::wire::resp::{Request, Version, Writer};

use super::action::Action;
use super::authorization::Checked;
use super::call::Call;
use super::commands::transactions;
use super::context::{Context, Pause};
use super::failure::Failure;
use super::lookup::redirect_slot;
use super::registry;
use super::session::connection::Connection;
use super::settings::Settings;
use super::spec::{CommandSpec, DENY_OOM};
use super::statistics::CallStatus;
use super::unknown_users::{UNPROTECTED_WITNESS, is_harmless};
use crate::types::Instant;

/// Commands that run immediately if they are sent inside a transaction (after `MULTI`), while all
/// other commands are queued.
const NOT_QUEUED: &[&str] = &["exec", "discard", "multi", "watch", "quit", "reset"];

/// Commands that a RESP2 client may send while it has subscriptions. In RESP2, the client could not
/// distinguish the replies to other commands from published messages.
const ALLOWED_WITH_SUBSCRIPTIONS: &[&str] = &[
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "ping",
    "quit",
    "reset",
];

/// The error for commands that a witness refuses.
const WITNESS: &str =
    "ERR this replica is a witness: it votes, but has no data; send the command to another replica";

/// Returns whether a witness refuses the command: all that use data, receive messages or read
/// snapshots. It runs `PING`, and those that a Redis replica without current data runs, too.
fn needs_data(spec: &CommandSpec) -> bool {
    !spec.has_flag("stale") && spec.full_name != "ping"
        || spec.has_flag("pubsub")
        || spec.full_name == "readonly"
        || spec.full_name.starts_with("snapshot|")
}

impl Connection {
    /// Returns the error to a command on keys if the database that the client has asked for was
    /// refused; `None` if it was not, or for any other command.
    pub(super) fn lacks_database(&self, spec: &CommandSpec) -> Option<String> {
        let database = self.refused_database?;
        let uses_keys = spec.may_change() || spec.has_flag("readonly") || spec.name == "watch";
        uses_keys.then(|| {
            format!(
                "ERR database {database} could not be selected, and no other one is used in its \
                 place; send SELECT again"
            )
        })
    }
}

impl Pause {
    /// Returns whether a request of this connection must wait until the pause is over.
    fn postpones(self, now: Instant, connection: &Connection, spec: &CommandSpec) -> bool {
        let queued = || {
            let queue = connection.transaction.queue.as_ref();
            queue.is_some_and(|queue| {
                let table = registry::table();
                queue.requests.iter().any(|one| table.resolved(one.request()).1.may_change())
            })
        };
        now < self.until
            && (self.is_all || spec.may_change() || spec.full_name == "exec" && queued())
    }
}

impl Pause {
    /// Returns whether a request with scripts, with this encoded operation, must not run until the
    /// pause is over.
    pub fn holds_script(self, now: Instant, operation: &[u8]) -> bool {
        now < self.until
            && (self.is_all || Operation::decode(operation).is_ok_and(|it| may_change_in(&it)))
    }
}

/// Returns whether a request with scripts may change the state or publish a message.
fn may_change_in(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Call { args, .. } => {
            let mut args = args.iter();
            let spec = args.next().and_then(|name| registry::table().find_full(name));
            // The flags of functions and kept scripts are not known here.
            let declares = |source| {
                Header::parse(source).is_ok_and(|header| header.flags.contains(&Flag::NoWrites))
            };
            spec.is_some_and(|spec| {
                spec.may_change()
                    && !(spec.full_name == "eval" && args.next().is_some_and(declares))
            })
        }
        Operation::Transaction { operations, .. } => operations.iter().any(|one| {
            Operation::decode_nested(one).is_ok_and(|operation| may_change_in(&operation))
        }),
        _ => false,
    }
}

impl Connection {
    /// Executes a request up to the point where it needs the consensus core, and returns the action
    /// that the server must perform next.
    ///
    /// Appends the reply to `out` if it does not depend on the state machine.
    pub fn execute<'c>(
        &'c mut self,
        request: Request<'c>,
        context: &'c Context,
        settings: &'c mut Settings,
        out: &'c mut BytesMut,
    ) -> Action {
        let before = (self.reply_mode, self.last_command);
        self.reply_mode.begin_request();
        self.end_caching();
        self.call_status = CallStatus::NotCounted;
        let table = registry::table();
        let mut writer = Writer::new(out, self.version);
        let spec = match table.resolve(self, request, context.now, &mut writer) {
            Ok(spec) => spec,
            Err(action) => {
                self.transaction.abort();
                return action;
            }
        };
        if !self.is_unrestricted() {
            let CallStatus::Called(number) = self.call_status else {
                unreachable!("the command was found")
            };
            let argument = |index| request.get(index);
            let checked = Checked { spec, number, count: request.len(), argument: &argument };
            if let Some(error) = self.unauthorized(checked, self.transaction.is_open()) {
                self.transaction.abort();
                self.call_status = CallStatus::Rejected(number);
                writer.error(error.as_bytes());
                return Action::Reply;
            }
        }
        let queues = self.transaction.is_open() && !NOT_QUEUED.contains(&spec.name);
        let slot = redirect_slot(self, spec, request);
        if let Some(error) = self.refusal(spec, queues, slot, context) {
            self.transaction.abort();
            writer.error(error.as_bytes());
            if let CallStatus::Called(number) = self.call_status {
                self.call_status = CallStatus::Rejected(number);
            }
            return Action::Reply;
        }
        if context.pause.is_some_and(|pause| pause.postpones(context.now, self, spec)) {
            self.call_status = CallStatus::NotCounted;
            (self.reply_mode, self.last_command) = before;
            return Action::Postpone;
        }
        if queues {
            self.call_status = CallStatus::NotCounted;
        }
        let mut call = Call {
            connection: self,
            command: None,
            request,
            context,
            settings,
            writer,
            batch: None,
        };
        if queues {
            return transactions::queue(&mut call);
        }
        let mut action = spec.run(&mut call, table);
        call.connection.show(spec, request, context);
        if context.is_witness && matches!(action, Action::Submit { .. }) {
            return call.error(&WITNESS);
        }
        if let Action::Submit { redirect_slot, .. } = &mut action {
            *redirect_slot = redirect_slot.or(slot);
        }
        action
    }

    /// Returns an error text if the command may not run in the current state of the connection and
    /// the replica, whatever its arguments are; `None` if it may run.
    fn refusal(
        &self,
        spec: &CommandSpec,
        queues: bool,
        slot: Option<u16>,
        context: &Context,
    ) -> Option<String> {
        if self.version == Version::Two
            && !self.subscriptions.is_empty()
            && !ALLOWED_WITH_SUBSCRIPTIONS.contains(&spec.full_name)
        {
            return Some(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
                 RESET are allowed in this context",
                spec.full_name
            ));
        }
        if context.is_witness && needs_data(spec) {
            return Some(WITNESS.to_owned());
        }
        if self.is_monitor() && (spec.has_flag("readonly") || spec.may_change()) {
            return Some("ERR Replica can't interact with the keyspace".to_owned());
        }
        if context.is_witness && context.access.without_login().is_some() && !is_harmless(spec) {
            return Some(UNPROTECTED_WITNESS.to_owned());
        }
        if queues && spec.has_flag("no_multi") {
            return Some("ERR Command not allowed inside a transaction".to_owned());
        }
        if let Some(refusal) = context.refusal_below(spec.feature_level) {
            return Some(refusal);
        }
        if let Some(refusal) = self.lacks_database(spec) {
            return Some(refusal);
        }
        if let Some(moved) = context.moved(slot) {
            return Some(moved.to_string());
        }
        if context.is_full && spec.has_flag(DENY_OOM) {
            return Some(Failure::OutOfMemory.to_string());
        }
        None
    }
}
