//! Permission checks: whether the user of a connection may send a request, by its command, keys and
//! channels.

use bytes::Bytes;

use crate::kv::{ChangesQuery, KeyAccess, Operation};

use super::acl_log::{Denial, DenialContext, DenialReason};
use super::key_access::uses_in_request;
use super::permissions::{Permissions, SelectorPermissions};
use super::session::connection::Connection;
use super::session::subscriptions::SubscriptionKind;
use super::spec::{CommandSpec, CommandTable};
use super::statistics::CommandNumber;

/// Error reply to a request on a connection that must log in first.
pub(super) const NOT_LOGGED_IN: &str = "NOAUTH Authentication required.";

/// Flag of commands that are permitted before login.
pub(super) const NO_LOGIN: &str = "no_auth";

/// Commands that return values of keys that the request does not name. They need permission to read
/// all keys.
const READ_ANY_KEY: &[&str] = &["snapshot|read"];

/// Stands for all keys in a refusal.
const ALL_KEYS_PATTERN: &[u8] = b"*";

/// A command with a key that is not in the command table, and the position of the key. The table
/// has no key for it because the client chooses the replica, whichever serves the key.
const KEY_OUTSIDE_TABLE: (&str, usize) = ("debug|diverge", 2);

/// An object to which a user has no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused<'r> {
    pub(super) reason: DenialReason,
    /// The key, the channel or the name of the command.
    pub(super) object: &'r [u8],
    /// Position of the object in the request.
    position: usize,
}

/// A request to be checked against the permissions of a user.
#[derive(Clone, Copy)]
pub(super) struct Checked<'r> {
    pub(super) spec: &'static CommandSpec,
    pub(super) number: CommandNumber,
    /// Number of arguments, including the names of the command and its subcommand.
    pub(super) count: usize,
    /// Returns the argument at this index.
    pub(super) argument: &'r dyn Fn(usize) -> Option<&'r [u8]>,
}

impl Permissions {
    /// Returns the object that the user has no access to; `None` if the user may send the request.
    pub(super) fn check<'r>(&self, request: Checked<'r>) -> Option<Refused<'r>> {
        if self.are_unrestricted {
            return None;
        }
        let mut relevant: Option<Refused<'r>> = None;
        for selector in self.selectors() {
            // As in Redis, the error is the one of the selector that permits most of the request.
            let refused = selector.check(request)?;
            let order = |refused: &Refused<'_>| (rank(refused.reason), refused.position);
            if relevant.is_none_or(|known| order(&refused) > order(&known)) {
                relevant = Some(refused);
            }
        }
        relevant
    }

    /// Returns whether the user may subscribe to this channel or pattern.
    pub(super) fn allows_subscription(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.are_unrestricted
            || self.selectors().iter().any(|selector| {
                if kind == SubscriptionKind::Pattern {
                    selector.allows_channel_pattern(name)
                } else {
                    selector.allows_channel(name)
                }
            })
    }

    /// Returns the error message for `refused`, without its error code, as in Redis 7.2. It
    /// contains the key or channel only if `verbose` is set.
    pub(super) fn refusal_text(&self, refused: &Refused<'_>, verbose: bool) -> String {
        let (user, object) = (String::from_utf8_lossy(&self.name), refused.object);
        let object = String::from_utf8_lossy(object);
        match refused.reason {
            DenialReason::Command | DenialReason::Login => {
                format!("User {user} has no permissions to run the '{object}' command")
            }
            DenialReason::Key if verbose => {
                format!("User {user} has no permissions to access the '{object}' key")
            }
            DenialReason::Channel if verbose => {
                format!("User {user} has no permissions to access the '{object}' channel")
            }
            DenialReason::Key => "No permissions to access a key".to_owned(),
            DenialReason::Channel => "No permissions to access a channel".to_owned(),
        }
    }
}

/// Returns a number by which the reasons are sorted as Redis sorts them.
fn rank(reason: DenialReason) -> u8 {
    match reason {
        DenialReason::Command => 1,
        DenialReason::Key => 2,
        DenialReason::Login => 3,
        DenialReason::Channel => 4,
    }
}

impl SelectorPermissions {
    fn check<'r>(&self, request: Checked<'r>) -> Option<Refused<'r>> {
        let Checked { spec, number, count, argument } = request;
        let refused = |reason, object, position| Some(Refused { reason, object, position });
        if !spec.has_flag(NO_LOGIN) && !self.allows_command(number) {
            return refused(DenialReason::Command, spec.full_name.as_bytes(), 0);
        }
        if !self.allows_all_keys() {
            let is_read = spec.has_flag("readonly");
            let arguments = (0..count).map_while(argument);
            let reads_any = reads_any_key(spec, arguments.clone())
                || sort_option(spec.full_name, arguments.clone()).is_some();
            if reads_any && !self.allows_reading_all_keys() {
                return refused(DenialReason::Key, ALL_KEYS_PATTERN, 0);
            }
            if spec.full_name == KEY_OUTSIDE_TABLE.0 {
                let key = argument(KEY_OUTSIDE_TABLE.1).unwrap_or_default();
                let access = KeyAccess { reads: false, writes: true };
                if !self.allows_key(key, access) {
                    return refused(DenialReason::Key, key, KEY_OUTSIDE_TABLE.1);
                }
            }
            let uses = uses_in_request(spec.full_name, is_read, arguments);
            // The command inside `ONCE` is checked separately, with its keys.
            let keys = if spec.full_name == "once" { None } else { spec.keys(count, argument) };
            let Some(keys) = keys else {
                // The command itself rejects or checks such arguments.
                return None;
            };
            for (order, position) in keys.enumerate() {
                let key = argument(position).unwrap_or_default();
                let access = uses[order.min(uses.len() - 1)].access();
                if !self.allows_key(key, access) {
                    return refused(DenialReason::Key, key, position);
                }
            }
        }
        let (positions, are_patterns) = channels_of(spec.full_name, count);
        for position in positions {
            let channel = argument(position).unwrap_or_default();
            let allowed = if are_patterns {
                self.allows_channel_pattern(channel)
            } else {
                self.allows_channel(channel)
            };
            if !allowed {
                return refused(DenialReason::Channel, channel, position);
            }
        }
        None
    }
}

/// Returns whether a request reads values of keys that it does not name.
fn reads_any_key<'r>(spec: &CommandSpec, mut arguments: impl Iterator<Item = &'r [u8]>) -> bool {
    let with_values: &[u8] = match spec.full_name {
        "changes" => b"VALUES",
        "keyrange" => b"WITHVALUES",
        full_name => return READ_ANY_KEY.contains(&full_name),
    };
    arguments.any(|argument| argument.eq_ignore_ascii_case(with_values))
}

/// Returns the first option of a `SORT` request that reads keys which the request does not name:
/// `BY` with a pattern, or `GET`. `None` if there is none, or if the request is another one.
fn sort_option<'r>(
    full_name: &str,
    arguments: impl Iterator<Item = &'r [u8]>,
) -> Option<&'static str> {
    if !matches!(full_name, "sort" | "sort_ro") {
        return None;
    }
    let mut options = arguments.skip(2);
    while let Some(option) = options.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("LIMIT") {
            options.by_ref().take(2).for_each(drop);
        } else if is("STORE") {
            options.next();
        } else if is("BY") && options.next()?.contains(&b'*') {
            return Some("BY");
        } else if is("GET") {
            return options.next().map(|_| "GET");
        }
    }
    None
}

/// Returns the range of a command's arguments that are channels requiring permission, and whether
/// they are patterns. The command has `count` arguments.
fn channels_of(full_name: &str, count: usize) -> (std::ops::Range<usize>, bool) {
    match full_name {
        "publish" | "spublish" => (1..2, false),
        "subscribe" | "ssubscribe" => (1..count, false),
        "psubscribe" => (1..count, true),
        _ => (0..0, false),
    }
}

/// Returns whether an operation contains scripts that have not run yet, so that its keys are
/// unknown.
fn is_unresolved(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Call { command, .. } => command.name() == "unresolved",
        Operation::Transaction { operations, .. } => operations.iter().any(|one| {
            Operation::decode_nested(one).is_ok_and(|operation| is_unresolved(&operation))
        }),
        _ => false,
    }
}

impl Connection {
    /// Returns the error reply if the connection must log in first, or its user may not send the
    /// request; `None` if the request is permitted. Logs a denial.
    pub(super) fn unauthorized(
        &mut self,
        request: Checked<'_>,
        in_transaction: bool,
    ) -> Option<String> {
        let Some(permissions) = &self.permissions else {
            let needs_login = !request.spec.has_flag(NO_LOGIN);
            return needs_login.then(|| NOT_LOGGED_IN.to_owned());
        };
        let refused = permissions.check(request)?;
        let arguments = (0..request.count).map_while(request.argument);
        let option = sort_option(request.spec.full_name, arguments);
        let text = match option.filter(|_| refused.object == ALL_KEYS_PATTERN) {
            Some(option) => {
                format!("ERR {option} option of SORT denied due to insufficient ACL permissions.")
            }
            None => format!("NOPERM {}", permissions.refusal_text(&refused, false)),
        };
        let denial = Denial {
            reason: refused.reason,
            context: if in_transaction {
                DenialContext::Transaction
            } else {
                DenialContext::TopLevel
            },
            object: Bytes::copy_from_slice(refused.object),
            user: permissions.name.clone(),
        };
        // A transaction must not overwrite a failed login, which delays the client's next attempt.
        if !self.has_failed_login() {
            self.denial = Some(Box::new(denial));
        }
        Some(text)
    }

    /// Returns the error reply if a request that was permitted when it was submitted no longer is,
    /// because the permissions of its user have changed; `None` if it still is. `operation` is the
    /// encoded operation of the request.
    pub(super) fn unauthorized_operation(
        &mut self,
        command: CommandNumber,
        operation: &[u8],
        table: &'static CommandTable,
    ) -> Option<String> {
        let Some(permissions) = self.permissions.clone() else {
            return Some(NOT_LOGGED_IN.to_owned());
        };
        if permissions.are_unrestricted {
            return None;
        }
        let (number, spec) = table.numbered().find(|(number, _)| *number == command)?;
        let Ok(operation) = Operation::decode(operation) else {
            // This is not an operation of the state machine. An administrative request may have
            // taken effect already, so only reads of a snapshot are denied.
            let is_revocable = spec.full_name.starts_with("snapshot|");
            return is_revocable.then(|| self.unauthorized_command(number, spec)).flatten();
        };
        if is_unresolved(&operation) {
            // Its commands are checked when the scripts run.
            return None;
        }
        let (inner, in_transaction) = match &operation {
            Operation::Transaction { operations, .. } => (
                operations.iter().filter_map(|one| Operation::decode_nested(one).ok()).collect(),
                true,
            ),
            Operation::Effects { operations, .. } => (
                operations.iter().filter_map(|one| Operation::decode_nested(one).ok()).collect(),
                false,
            ),
            Operation::Once { operation, .. } => {
                (Operation::decode_nested(operation).into_iter().collect(), false)
            }
            _ => (Vec::new(), false),
        };
        if inner.is_empty() {
            return match &operation {
                Operation::Call { .. } => {
                    self.unauthorized_call(&operation, &[(number, spec)], false)
                }
                _ => self.unauthorized_command(number, spec),
            };
        }
        inner.iter().find_map(|operation| {
            let specs = table.specs_running(operation);
            self.unauthorized_call(operation, &specs, in_transaction)
        })
    }

    /// Checks a request that has no keys of its own.
    fn unauthorized_command(
        &mut self,
        number: CommandNumber,
        spec: &'static CommandSpec,
    ) -> Option<String> {
        let names: Vec<&[u8]> = spec.full_name.split('|').map(str::as_bytes).collect();
        let argument = |index: usize| names.get(index).copied();
        let checked = Checked { spec, number, count: names.len(), argument: &argument };
        self.unauthorized(checked, false)
    }

    /// Checks an operation that any of these commands may have submitted: the user must have
    /// permission for at least one of them.
    fn unauthorized_call(
        &mut self,
        operation: &Operation<'_>,
        specs: &[(CommandNumber, &'static CommandSpec)],
        in_transaction: bool,
    ) -> Option<String> {
        let Operation::Call { args, .. } = operation else { return None };
        let mut args: Vec<&[u8]> = args.iter().collect();
        if specs.iter().any(|(_, spec)| spec.full_name == "changes")
            && ChangesQuery::returns_values(&args)
        {
            // The arguments of the operation differ from those of the command.
            args.push(b"VALUES");
        }
        if specs.iter().any(|(_, spec)| spec.full_name == "pfmerge") {
            // The server has added an argument behind the keys.
            args.pop();
        }
        let mut text = None;
        for (number, spec) in specs.iter().copied() {
            // The arguments of the operation do not include the command's name.
            let names = if spec.name.len() == spec.full_name.len() { 1 } else { 2 };
            let argument = |index: usize| match index.checked_sub(names) {
                None => Some(spec.name.as_bytes()),
                Some(index) => args.get(index).copied(),
            };
            let count = names + args.len();
            let checked = Checked { spec, number, count, argument: &argument };
            text = self.unauthorized(checked, in_transaction);
            if text.is_none() {
                self.denial = None;
                return None;
            }
        }
        text
    }
}
