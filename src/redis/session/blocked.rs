//! Commands that block their connection: the server executes no later request of the connection
//! until the outcome of a `WATCH`, or of an `EXEC` with watched keys, is known, or until `CHANGES`
//! with `BLOCK` has something to return.

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;

use super::changes_wait::Wait;
use super::connection::{Blocked, Connection};
use super::reply_format::ReplyFormat;

impl Connection {
    /// Returns whether the connection is blocked by a request that may have to wait for a change of
    /// a key.
    pub fn may_wait(&self) -> bool {
        matches!(self.blocked, Some(Blocked::Changes(_)))
    }

    /// Returns what the client must wait for if `outcome`, that of the request which blocks the
    /// connection, says that there is nothing to return yet; `None` if the client gets its reply.
    pub fn wait_after(&self, outcome: &Outcome) -> Option<Wait> {
        let Some(Blocked::Changes(wait)) = &self.blocked else { return None };
        let Outcome::Integer(next) = outcome else { return None };
        let operation = wait.operation(next.cast_unsigned());
        Some(Wait { prefix: wait.prefix.clone(), until: wait.until, operation })
    }

    /// Writes the reply to a submitted request from its outcome, and unblocks the connection if
    /// this request blocked it.
    pub fn complete_blocked(
        &mut self,
        reply_format: &ReplyFormat,
        outcome: &Outcome,
        out: &mut BytesMut,
    ) {
        match self.blocked.take() {
            Some(Blocked::Watch(keys)) => self.complete_watch(keys, outcome, reply_format, out),
            Some(Blocked::Exec(before)) => {
                if matches!(outcome, Outcome::NoList) {
                    self.restore(*before);
                }
                reply_format.encode(outcome, out);
            }
            Some(Blocked::Changes(_)) if matches!(outcome, Outcome::Integer(_)) => {
                let nothing = Outcome::List(Vec::new());
                reply_format.encode(&Outcome::List(vec![outcome.clone(), nothing]), out);
            }
            Some(Blocked::Changes(_)) | None => reply_format.encode(outcome, out),
        }
    }

    /// Unblocks a connection whose blocking request has failed without an outcome. If the request
    /// was a `WATCH`, the next `EXEC` aborts, because the revisions of the watched keys are
    /// unknown.
    pub fn cancel_blocked(&mut self) {
        match self.blocked.take() {
            Some(Blocked::Watch(_)) => self.transaction.watched.failed = true,
            Some(Blocked::Exec(before)) => self.restore(*before),
            Some(Blocked::Changes(_)) | None => {}
        }
    }

    /// Restores the state that the connection had before an `EXEC` that was aborted. Keeps only the
    /// name and the time of the last command, for `CLIENT LIST`.
    fn restore(&mut self, before: Connection) {
        let (last_command, last_command_at) = (self.last_command, self.last_command_at);
        *self = Connection { last_command, last_command_at, ..before };
    }

    fn complete_watch(
        &mut self,
        keys: Vec<Bytes>,
        outcome: &Outcome,
        reply_format: &ReplyFormat,
        out: &mut BytesMut,
    ) {
        let Outcome::List(revisions) = outcome else {
            self.transaction.watched.failed = true;
            return reply_format.encode(outcome, out);
        };
        for (key, revision) in keys.into_iter().zip(revisions) {
            let Outcome::Integer(revision) = revision else { continue };
            self.transaction.watched.add(key, revision.cast_unsigned());
        }
        reply_format.encode(&Outcome::Done, out);
    }
}
