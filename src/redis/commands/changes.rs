//! `CHANGES`: a request for the changes of keys after a revision, which may wait for the next one.

use std::time::Duration;

use bytes::Bytes;

use crate::kv::{ChangesQuery, CommandId, Operation, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::changes_wait::ChangesWait;
use crate::redis::session::connection::Blocked;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, command};

/// Default of the option `COUNT`.
const COUNT: u64 = 100;

/// Row of the command table for `CHANGES` (name, arity, flags, documentation and function).
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command("changes", -3, changes)
    .flags(&["readonly", "no_multi", "blocking"])
    .categories(&["keyspace"])
    .since("7.2.0", "generic")
    .costs("O(log(N)+M), N being the changes in the history and M those visited, 8192 at most")
    .about("Returns the changes of keys after a revision, or waits for the next change.")];

/// The options of `CHANGES`.
struct Options<'c> {
    query: ChangesQuery<'c>,
    /// Option `BLOCK`: how long to wait for a change, zero for any time; `None` to reply at once.
    wait: Option<Duration>,
}

/// Runs `CHANGES FROM <revision | $> [PREFIX prefix] [COUNT count] [VALUES] [BLOCK milliseconds]`:
/// returns the revision to continue from, and the changes.
fn changes(call: &mut Call<'_>) -> Action {
    let Options { query, wait } = match options(call) {
        Ok(options) => options,
        Err(error) => return call.error(&error),
    };
    let action = query.with_arguments(|arguments| {
        call.submit(Operation::call(CommandId::CHANGES, arguments), ReplyKind::Plain)
    });
    let Some(wait) = wait.filter(|_| matches!(action, Action::Submit { .. })) else {
        return action;
    };
    let until = (!wait.is_zero()).then(|| call.context.now + wait);
    let prefix = Bytes::copy_from_slice(query.prefix);
    let ChangesQuery { count, with_values, may_lag, .. } = query;
    let database = call.connection.database;
    let wait = ChangesWait { until, database, prefix, count, with_values, may_lag };
    call.connection.blocked = Some(Blocked::Changes(Box::new(wait)));
    action.blocking()
}

/// Parses the arguments.
///
/// # Errors
/// If they are malformed, with the text of the error reply.
fn options<'c>(call: &Call<'c>) -> Result<Options<'c>, &'static str> {
    const SYNTAX: &str = "ERR syntax error";
    let may_lag = call.connection.lag_max().is_some();
    let mut query = ChangesQuery {
        from: None,
        prefix: b"",
        count: COUNT,
        with_values: false,
        waits: false,
        may_lag,
    };
    let (mut has_from, mut wait) = (false, None);
    let mut arguments = call.request.rest(1);
    while let Some(option) = arguments.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("VALUES") {
            query.with_values = true;
            continue;
        }
        let value = arguments.next().ok_or(SYNTAX)?;
        let number = || parse_integer(value).and_then(|number| u64::try_from(number).ok());
        if is("FROM") {
            has_from = true;
            query.from = if value == b"$" {
                None
            } else {
                Some(number().ok_or("ERR the revision is neither $ nor an integer of at least 0")?)
            };
        } else if is("PREFIX") {
            query.prefix = value;
        } else if is("COUNT") {
            let count = number().filter(|count| (1..=ChangesQuery::COUNT_MAX).contains(count));
            query.count = count.ok_or("ERR COUNT is not an integer from 1 to 4096")?;
        } else if is("BLOCK") {
            // Redis's texts.
            let millis =
                parse_integer(value).ok_or("ERR timeout is not an integer or out of range")?;
            let millis = u64::try_from(millis).map_err(|_| "ERR timeout is negative")?;
            wait = Some(Duration::from_millis(millis));
        } else {
            return Err(SYNTAX);
        }
    }
    query.waits = wait.is_some();
    has_from.then_some(Options { query, wait }).ok_or(SYNTAX)
}
