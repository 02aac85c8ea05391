//! Checks the replies to the workload's operations, and records them in the history.

use super::operations::ClientOperation;
use super::{OpenRequest, Workload};
use crate::kv::Outcome;
use crate::sim::checkers::linearizability::{OperationId, Reply};
use crate::sim::keys::{ACCOUNT_START, is_account};
use crate::sim::violation::{Violation, ensure};

impl Workload {
    /// Checks the replies to the operations of a request, and records those of operations on single
    /// keys in the history.
    pub(super) fn check_replies(
        &mut self,
        open: &OpenRequest,
        outcomes: &[Outcome],
    ) -> Result<(), Violation> {
        ensure!(
            outcomes.len() == open.history_ids.len(),
            "replies match requests: the operation {:?} was answered with the wrong number of \
             outcomes: {outcomes:?}",
            open.operation
        );
        let alone = std::slice::from_ref(&open.operation);
        let operations = match &open.operation {
            ClientOperation::Several(operations) => operations,
            _ => alone,
        };
        for ((operation, outcome), id) in operations.iter().zip(outcomes).zip(&open.history_ids) {
            self.check_reply(open.client, operation, outcome, *id)?;
        }
        Ok(())
    }

    fn check_reply(
        &mut self,
        client: usize,
        operation: &ClientOperation,
        outcome: &Outcome,
        history_id: Option<OperationId>,
    ) -> Result<(), Violation> {
        use ClientOperation::{Delete, Get, Put, PutUntil, PutWithTtl, Transfer};
        let reply = match (operation, outcome) {
            (Get(name), Outcome::Value(value)) if is_account(name.as_bytes()) => {
                let total = ACCOUNT_START * self.load.accounts;
                let balance =
                    value.as_ref().map(|value| std::str::from_utf8(value).ok()?.parse().ok());
                ensure!(
                    balance.is_none_or(|balance| balance.is_some_and(|it: u64| it <= total)),
                    "atomic transfers: a client read {value:?} as the balance of the account \
                     {name}, but a balance must be a number of at most {total}, the sum of the \
                     balances of all accounts"
                );
                return Ok(());
            }
            (Get(_), Outcome::Value(value)) => Reply::Value(value.clone()),
            (Put(..) | PutWithTtl(..) | PutUntil(..), Outcome::Done) => Reply::Done,
            (Delete(_), Outcome::Integer(count)) => Reply::Deleted(*count == 1),
            (Transfer(..), Outcome::Integer(_)) => return Ok(()),
            _ => return self.check_session_reply(client, operation, outcome),
        };
        if let Some(id) = history_id {
            self.history.answer(id, reply);
        }
        Ok(())
    }

    /// Checks the reply to a transaction or to a numbered request of a client session, and plans
    /// the client's next operation.
    fn check_session_reply(
        &mut self,
        client: usize,
        operation: &ClientOperation,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        use ClientOperation::{Increment, OpenSession, ReadWatched, Watch, WriteWatched};
        let client = &mut self.clients[client];
        match (operation, outcome) {
            // The same client may have opened a later session before this reply arrived.
            (OpenSession, Outcome::Integer(number)) => {
                client.session = Some(number.cast_unsigned());
                (client.sequence, client.sum) = (0, None);
            }
            (Increment(session, sequence), Outcome::Integer(sum)) => {
                if (client.session, client.sequence) == (Some(*session), *sequence) {
                    ensure!(
                        client.sum.is_none_or(|known| known == *sum),
                        "applied once: request number {sequence} of client session {session} was \
                         answered first with the counter value {:?}, and later with the counter \
                         value {sum}",
                        client.sum
                    );
                    client.sum = Some(*sum);
                }
            }
            // This is a late duplicate of a request that was answered long ago.
            (Increment(_, sequence), Outcome::Error(text))
                if *sequence < client.sequence && text.starts_with(b"STALESEQ ") => {}
            (Watch(names, amount), Outcome::List(revisions)) => {
                if let [Outcome::Integer(from), Outcome::Integer(to)] = revisions[..] {
                    let revisions = [from.cast_unsigned(), to.cast_unsigned()];
                    client.planned.push_back(ReadWatched(names.clone(), revisions, *amount));
                }
            }
            (ReadWatched(names, revisions, amount), Outcome::List(values)) => {
                let balance = |value: &Outcome| match value {
                    Outcome::Value(Some(value)) => std::str::from_utf8(value).ok()?.parse().ok(),
                    _ => None,
                };
                let balances: Vec<Option<u64>> = values.iter().map(balance).collect();
                if let [Some(from), Some(to)] = balances[..]
                    && from >= *amount
                    && names[0] != names[1]
                {
                    let values = [from - amount, to + amount];
                    client.planned.push_back(WriteWatched(names.clone(), *revisions, values));
                }
            }
            (WriteWatched(..), Outcome::List(outcomes)) => ensure!(
                matches!(outcomes[..], [Outcome::Done, Outcome::Done, Outcome::Value(Some(_))]),
                "replies match requests: a transaction of two writes and a read was answered with \
                 outcomes that do not match these operations: {outcomes:?}"
            ),
            (ReadWatched(..) | WriteWatched(..), Outcome::NoList) => {}
            (operation, outcome) => {
                return Err(Violation(format!(
                    "replies match requests: the operation {operation:?} was answered with an \
                     outcome that does not match it: {outcome:?}"
                )));
            }
        }
        Ok(())
    }
}
