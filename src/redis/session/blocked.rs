//! Commands that block their connection: the server executes no later request of the connection
//! until the outcome of a `WATCH`, or of an `EXEC` with watched keys, is known, or until a request
//! such as `BLPOP` or `CHANGES` with `BLOCK` has something to return.

use bytes::{Bytes, BytesMut};

use crate::kv::{Outcome, Refusal};

use super::connection::{Blocked, Connection};
use super::reply_format::{ReplyFormat, is_error};
use super::stream_wait::StreamWait;
use super::waits::{Taken, Wait, WaitOn};

impl Connection {
    /// Returns whether the connection is blocked by a request that may have to wait, so that it
    /// waits for something ([`Connection::wait`]).
    pub fn may_wait(&self) -> bool {
        match self.blocked {
            Some(
                Blocked::Changes(_) | Blocked::Pop(_) | Blocked::Streams(_) | Blocked::Replicas(_),
            ) => true,
            Some(Blocked::Watch(_) | Blocked::Exec(_)) | None => false,
        }
    }

    /// Returns what the request that blocks the connection waits for if it finds nothing; `None` if
    /// it never waits.
    pub fn wait(&self) -> Option<Wait> {
        match &self.blocked {
            Some(Blocked::Changes(wait)) => {
                let on = WaitOn::Prefix(wait.database, wait.prefix.clone());
                Some(Wait { on, until: wait.until })
            }
            Some(Blocked::Pop(wait)) => {
                Some(Wait { on: WaitOn::Keys(wait.keys.clone()), until: wait.until })
            }
            Some(Blocked::Streams(wait)) => {
                Some(Wait { on: WaitOn::Keys(wait.keys.clone()), until: wait.until })
            }
            Some(Blocked::Replicas(wait)) => {
                Some(Wait { on: WaitOn::Replicas(wait.count), until: wait.until })
            }
            Some(Blocked::Watch(_) | Blocked::Exec(_)) | None => None,
        }
    }

    /// Returns whether `outcome`, that of the request which blocks the connection, says that the
    /// client must wait; false if the client gets its reply. `is_again` is whether the client has
    /// waited before.
    pub fn must_wait(&self, outcome: &Outcome, is_again: bool) -> bool {
        match &self.blocked {
            Some(Blocked::Changes(_) | Blocked::Replicas(_)) => {
                matches!(outcome, Outcome::Integer(_))
            }
            Some(Blocked::Pop(wait)) => match outcome {
                Outcome::NoList | Outcome::Value(None) => true,
                // As in Redis, a value of another type does not end a wait. The key held a value of
                // the right type when the client was woken.
                Outcome::Refused(Refusal::WrongType) => is_again && !wait.moves,
                _ => false,
            },
            Some(Blocked::Streams(wait)) => match outcome {
                Outcome::Refused(Refusal::WrongType) => is_again && wait.reader.is_none(),
                _ => StreamWait::found_nothing(outcome),
            },
            Some(Blocked::Watch(_) | Blocked::Exec(_)) | None => false,
        }
    }

    /// Returns what the request that blocks the connection has taken, if this is its outcome.
    pub fn taken(&self, outcome: &Outcome) -> Taken {
        match &self.blocked {
            _ if is_error(outcome) || self.must_wait(outcome, true) => Taken::Nothing,
            Some(Blocked::Streams(wait)) => wait.taken(outcome),
            _ => Taken::Whole,
        }
    }

    /// Handles the outcome of a try after which the client waits.
    pub fn note_nothing_found(&mut self, outcome: &Outcome) {
        if let Some(Blocked::Streams(wait)) = &mut self.blocked {
            wait.note_ids(outcome);
        }
    }

    /// Returns the operation to submit again for the request that blocks the connection, which had
    /// this `outcome` before. `woken_by` is the key that has changed; `None` if unknown.
    ///
    /// # Panics
    /// If no request blocks the connection that may wait for keys.
    pub fn operation_again(&self, outcome: &Outcome, woken_by: Option<&[u8]>) -> Bytes {
        match (&self.blocked, outcome) {
            (Some(Blocked::Changes(wait)), Outcome::Integer(next)) => {
                wait.operation(next.cast_unsigned())
            }
            (Some(Blocked::Pop(wait)), _) => wait.operation_again(woken_by),
            (Some(Blocked::Streams(wait)), _) => wait.operation_again(woken_by),
            (blocked, _) => unreachable!("{blocked:?} waits for no keys"),
        }
    }

    /// Writes the reply to a submitted request from its outcome, and unblocks the connection if
    /// this request blocked it.
    pub fn complete_blocked(
        &mut self,
        reply_format: &ReplyFormat,
        outcome: &Outcome,
        out: &mut BytesMut,
    ) {
        let found_nothing = self.must_wait(outcome, false);
        match self.blocked.take() {
            Some(Blocked::Watch(keys)) => self.complete_watch(keys, outcome, reply_format, out),
            Some(Blocked::Exec(before)) => {
                if matches!(outcome, Outcome::NoList) {
                    self.restore(*before);
                }
                reply_format.encode(outcome, out);
            }
            Some(Blocked::Changes(_)) if found_nothing => {
                let nothing = Outcome::List(Vec::new());
                reply_format.encode(&Outcome::List(vec![outcome.clone(), nothing]), out);
            }
            Some(Blocked::Pop(_) | Blocked::Streams(_)) if found_nothing => {
                reply_format.encode(&Outcome::NoList, out);
            }
            Some(Blocked::Replicas(wait)) if found_nothing && wait.with_local => {
                let counts = vec![Outcome::Integer(1), outcome.clone()];
                reply_format.encode(&Outcome::List(counts), out);
            }
            _ => reply_format.encode(outcome, out),
        }
    }

    /// Handles the encoded reply to a request with scripts. Unless it says that a transaction was
    /// applied, what blocks the connection stays, for [`Connection::cancel_blocked`].
    pub fn complete_scripts(&mut self, reply: &[u8]) {
        if reply.starts_with(b"*") && !reply.starts_with(b"*-1") {
            self.blocked = None;
        }
    }

    /// Unblocks a connection whose blocking request has failed without an outcome. If the request
    /// was a `WATCH`, the next `EXEC` aborts, because the revisions of the watched keys are
    /// unknown.
    pub fn cancel_blocked(&mut self) {
        match self.blocked.take() {
            Some(Blocked::Watch(_)) => self.transaction.watched.failed = true,
            Some(Blocked::Exec(before)) => self.restore(*before),
            _ => {}
        }
    }

    /// Restores the state that the connection had before an `EXEC` that was aborted. Keeps only the
    /// name and the time of the last command, for `CLIENT LIST`.
    pub(in crate::redis) fn restore(&mut self, before: Connection) {
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
            self.transaction.watched.add((self.database, key), revision.cast_unsigned());
        }
        reply_format.encode(&Outcome::Done, out);
    }
}
