//! `MONITOR`: streams the commands of all clients of this replica, and those that their scripts
//! call, to a client.

use std::fmt::Write as _;

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::once::COMMAND_INDEX;
use crate::redis::context::Context;
use crate::redis::session::connection::Connection;
use crate::redis::spec::{ADMIN, CommandSpec, command};
use crate::wire::resp::Request;

/// Replaces names and passwords.
const REDACTED: &[u8] = b"(redacted)";

/// Row of the command table for `MONITOR` (name, arity, flags, documentation and function).
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command("monitor", 1, monitor)
    .flags(ADMIN)
    .categories(&["dangerous"])
    .since("1.0.0", "server")
    .about("Streams the commands that all clients of this replica send.")];

/// Runs `MONITOR`: the client then receives the commands of all clients of this replica.
fn monitor(call: &mut Call<'_>) -> Action {
    if call.batch.is_some() {
        // The message is Redis's.
        return call.error(&"ERR MONITOR isn't allowed for DENY BLOCKING client");
    }
    if call.connection.is_monitor() {
        // As in Redis, a second `MONITOR` has no reply.
        return Action::Reply;
    }
    call.connection.set_monitor(true);
    call.ok()
}

/// Returns whether monitoring clients receive the command. As in Redis, they do not receive
/// administrative commands.
fn is_shown(spec: &CommandSpec) -> bool {
    !spec.has_flag("admin")
}

impl Connection {
    /// Adds a request of this connection to those that monitoring clients will receive, if there
    /// are any.
    pub(in crate::redis) fn show(
        &mut self,
        spec: &CommandSpec,
        request: Request<'_>,
        context: &Context,
    ) {
        if context.monitors == 0 || !is_shown(spec) {
            return;
        }
        let now = context.wall_clock;
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let mut line = format!("+{seconds}.{micros:06} [{} {}]", self.database, self.address);
        let secrets = secrets(request);
        for (position, argument) in request.iter().enumerate() {
            let argument = if secrets.contains(&position) { REDACTED } else { argument };
            line.push_str(" \"");
            quote(argument, &mut line);
            line.push('"');
        }
        line.push_str("\r\n");
        self.observation.shown.extend_from_slice(line.as_bytes());
    }

    /// Returns the length of the lines that [`Connection::take_shown`] would return, in bytes.
    pub(in crate::redis) fn shown_bytes(&self) -> usize {
        self.observation.shown.len()
    }

    /// Returns the lines for monitoring clients about the latest request; empty if there are none.
    pub fn take_shown(&mut self) -> bytes::Bytes {
        // Splitting an empty buffer would allocate memory.
        if self.observation.shown.is_empty() {
            return bytes::Bytes::new();
        }
        self.observation.shown.split().freeze()
    }
}

/// Returns the positions of user names and passwords in a request. They are those that Redis hides.
fn secrets(request: Request<'_>) -> Vec<usize> {
    let name = request.get(0).unwrap_or_default();
    let is_name = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    if is_name("auth") {
        return (1..request.len()).collect();
    }
    if is_name("once") {
        // A numbered command follows, although those with secrets are refused.
        let inner = request.from(COMMAND_INDEX).map(secrets).unwrap_or_default();
        return inner.into_iter().map(|position| COMMAND_INDEX + position).collect();
    }
    let (mut secrets, mut position) = (Vec::new(), 2);
    while is_name("hello")
        && let Some(option) = request.get(position)
    {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        if is("AUTH") {
            secrets.extend([position + 1, position + 2]);
            position += 2;
        } else if is("SETNAME") {
            position += 1;
        }
        position += 1;
    }
    secrets
}

/// Appends an argument in quotes. Control characters and non-ASCII bytes are escaped, as in Redis.
fn quote(argument: &[u8], line: &mut String) {
    for byte in argument {
        match byte {
            b'\\' | b'"' => line.extend(['\\', char::from(*byte)]),
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            0x07 => line.push_str("\\a"),
            0x08 => line.push_str("\\b"),
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => write!(line, "\\x{byte:02x}").expect("writing to a string succeeds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::{Limits, Parser};

    /// Redis does not hide the password of a second `AUTH`, nor a name without a password.
    #[test]
    fn every_name_and_password_of_hello_is_redacted() {
        for (line, wanted) in [
            ("HELLO 2 AUTH one two AUTH three four SETNAME AUTH\r\n", &[3, 4, 6, 7][..]),
            ("HELLO 3 SETNAME n auth name\r\n", &[5, 6]),
            ("HELLO\r\n", &[]),
            ("ONCE 1 1 AUTH name secret\r\n", &[4, 5]),
            ("ONCE 1 1 once 1 2 hello 3 auth name secret\r\n", &[9, 10]),
            ("ONCE 1 1 SET auth x\r\n", &[]),
            ("ONCE 1\r\n", &[]),
        ] {
            let mut parser = Parser::new(Limits::default());
            let request = parser.next(line.as_bytes(), &mut 0).unwrap().unwrap();
            assert_eq!(secrets(request), wanted, "{line}");
        }
    }

    #[test]
    fn arguments_are_escaped_as_in_redis() {
        let mut line = String::new();
        quote(b"a\"\\\n\r\t\x07\x08\x00\xff~ ", &mut line);
        assert_eq!(line, r#"a\"\\\n\r\t\a\b\x00\xff~ "#);
    }
}
