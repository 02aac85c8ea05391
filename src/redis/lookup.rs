//! The lookup of a request's command, and the errors for requests whose command is unknown.

use crate::kv::slot_of;
use crate::types::Instant;
use crate::wire::resp::{Request, Writer};

use super::action::Action;
use super::session::connection::Connection;
use super::spec::{CommandSpec, CommandTable, NAME_BYTES_MAX};
use super::statistics::{CallStatus, CommandNumber};

/// Maximum number of bytes of the command's name that the error for an unknown command quotes. The
/// same maximum applies to the bytes that it quotes of all arguments together.
const QUOTED_BYTES_MAX: usize = 128;

/// The name of a command, converted to lower case without a heap allocation.
struct LowerCase {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl LowerCase {
    /// Converts a name to lower case; `None` if it is longer than the name of any command.
    fn new(name: &[u8]) -> Option<LowerCase> {
        let mut bytes = [0; NAME_BYTES_MAX];
        let lower = bytes.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        Some(LowerCase { bytes, length: name.len() })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl CommandTable {
    /// Finds the command or subcommand of a request, and checks the number of its arguments.
    /// Records the command and the time `now` in the connection, for `CLIENT LIST`.
    ///
    /// # Errors
    /// If the command is unknown, or the number of arguments is wrong. The error reply has then
    /// been written to `writer`, and the caller must perform the returned action.
    pub(super) fn resolve(
        &self,
        connection: &mut Connection,
        request: Request<'_>,
        now: Instant,
        writer: &mut Writer<'_>,
    ) -> Result<&'static CommandSpec, Action> {
        let Some(spec) = self.find_near(request.name(), &mut connection.last_position) else {
            return Err(unknown_command(request, writer));
        };
        let position = connection.last_position;
        let (number, spec) = match request.get(1).filter(|_| !spec.subcommands.is_empty()) {
            None => (self.number(position, None), spec),
            Some(name) => match subcommand(spec, name) {
                Some(found) => (self.number(position, Some(found)), &spec.subcommands[found]),
                None => return Err(unknown_subcommand(spec, name, writer)),
            },
        };
        connection.call_status = CallStatus::Called(number);
        connection.last_command = spec.full_name;
        connection.last_command_at = now;
        if spec.accepts(request.len()) {
            return Ok(spec);
        }
        connection.call_status = CallStatus::Rejected(number);
        let name = spec.full_name;
        let mut text = format!("wrong number of arguments for '{name}' command");
        if name == "exec" {
            connection.transaction.discard();
            text.insert_str(0, "EXECABORT Transaction discarded because of: ");
        } else {
            text.insert_str(0, "ERR ");
        }
        writer.error(text.as_bytes());
        Err(Action::Reply)
    }

    /// Returns the command or subcommand of a request; `None` if it is unknown.
    pub(super) fn lookup(&self, request: Request<'_>) -> Option<&'static CommandSpec> {
        let name = LowerCase::new(request.name())?;
        let spec = self.all()[self.position(name.as_bytes())?];
        match request.get(1).filter(|_| !spec.subcommands.is_empty()) {
            None => Some(spec),
            Some(name) => Some(&spec.subcommands[subcommand(spec, name)?]),
        }
    }

    /// Returns the command or subcommand of a request, with its number. [`CommandTable::resolve`]
    /// must have found it before.
    ///
    /// # Panics
    /// If the command is unknown.
    pub(super) fn resolved(&self, request: Request<'_>) -> (CommandNumber, &'static CommandSpec) {
        let name = LowerCase::new(request.name());
        let position = name.and_then(|name| self.position(name.as_bytes()));
        let position = position.expect("it was resolved");
        let spec = self.all()[position];
        let name = request.get(1).filter(|_| !spec.subcommands.is_empty());
        let found = name.map(|name| subcommand(spec, name).expect("it was resolved"));
        (self.number(position, found), found.map_or(spec, |found| &spec.subcommands[found]))
    }

    /// Returns the command named `name`; `None` if there is none. Looks first at `position`, the
    /// position of the connection's previous command in the command table, because clients often
    /// repeat a command. If the command is found, sets `position` to its position.
    fn find_near(&self, name: &[u8], position: &mut usize) -> Option<&'static CommandSpec> {
        let name = LowerCase::new(name)?;
        let last = self.all()[*position];
        if last.name.as_bytes() == name.as_bytes() {
            return Some(last);
        }
        *position = self.position(name.as_bytes())?;
        Some(self.all()[*position])
    }
}

/// Returns the Redis Cluster hash slot of the request's first key, if the client must be redirected
/// when another replica is the leader. `None` if the request has no key, if the client does not
/// follow redirects, or if the request is a read after `READONLY`, which any replica answers
/// (linearizably, after it has asked the leader for a read index).
pub(super) fn redirect_slot(
    connection: &Connection,
    spec: &CommandSpec,
    request: Request<'_>,
) -> Option<u16> {
    let is_served_here = connection.reads_from_followers && spec.has_flag("readonly");
    if !connection.follows_redirects || is_served_here {
        return None;
    }
    let first = spec.keys(request.len(), &|index| request.get(index))?.next()?;
    Some(slot_of(request.get(first)?))
}

fn subcommand(spec: &CommandSpec, name: &[u8]) -> Option<usize> {
    spec.subcommand_position(LowerCase::new(name)?.as_bytes())
}

/// Writes the error reply to an unknown command, with the same text as Redis.
fn unknown_command(request: Request<'_>, writer: &mut Writer<'_>) -> Action {
    let name = request.name();
    // This is an HTTP request, which a browser can be tricked into sending. The connection is
    // closed without a reply, so that no line of the request's body runs as a command.
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Action::Close;
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(quoted(name, QUOTED_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in request.rest(1) {
        let remaining = QUOTED_BYTES_MAX.saturating_sub(text.len() - start);
        if remaining == 0 {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(quoted(argument, remaining));
        text.extend_from_slice(b"' ");
    }
    writer.error(&text);
    Action::Reply
}

/// Writes the error reply to an unknown subcommand, with the same text as Redis.
fn unknown_subcommand(spec: &CommandSpec, name: &[u8], writer: &mut Writer<'_>) -> Action {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(quoted(name, QUOTED_BYTES_MAX));
    text.extend_from_slice(format!("'. Try {} HELP.", spec.name.to_uppercase()).as_bytes());
    writer.error(&text);
    Action::Reply
}

/// Returns the part of an argument that an error reply quotes: at most `bytes_max` bytes and, as in
/// Redis, only the bytes before the first NUL byte.
fn quoted(argument: &[u8], bytes_max: usize) -> &[u8] {
    let end = argument.iter().position(|byte| *byte == 0).unwrap_or(argument.len());
    &argument[..end.min(bytes_max)]
}
