//! Scripted clients: the requests that they send, and the expected replies.

use crate::kv::{Batch, Operation, Outcome};
use crate::raft::{ClientRequest, RequestKind};
use crate::runtime::channels::{ForwardedWrite, Requests};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::runtime::stages::core::PASS_REQUESTS_MAX;
use crate::types::{ClientId, RequestId, RequestKey};
use crate::wire::frame::Attempt;

use super::network::ScriptedNetwork;
use super::{REPLICAS, Run, origin_of};

/// The reply that the test expects to a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expectation {
    /// The request is the write with this number. The write must be acknowledged.
    Write(u64),
    /// The request is a read. It must return the value of the write with this number, which was
    /// acknowledged before the read was sent.
    Read(u64),
    /// The request is a read. It must return no value, because the write with this number was
    /// refused and so was certainly not applied.
    ReadRefused(u64),
}

fn name_of(write: u64) -> Vec<u8> {
    format!("key {write}").into_bytes()
}

impl Run {
    /// Queues random requests of clients at replica `at`. If that replica is the leader, some of
    /// them may be writes that look as if another replica had forwarded them.
    pub(super) fn send_requests(&self, at: usize, network: &mut ScriptedNetwork) {
        let count = match self.draw(1_000) {
            // A flood of requests, but only if they may be answered.
            0 if network.leads.is_some() => 3 * PASS_REQUESTS_MAX as u64,
            1..50 => self.draw(200),
            _ => self.draw(6),
        };
        let mut requests = Vec::new();
        for _ in 0..count {
            let acknowledged = self.acknowledged.borrow();
            let refused = self.refused.borrow();
            let expectation = match self.draw(8) {
                0..3 if !acknowledged.is_empty() => {
                    let latest = acknowledged.len() - 1;
                    Expectation::Read(acknowledged[latest - self.draw_count(3).min(latest)])
                }
                3 if !refused.is_empty() => {
                    Expectation::ReadRefused(refused[self.draw_count(refused.len())])
                }
                _ => Expectation::Write(self.next_request.get()),
            };
            requests.push(self.request(at, expectation));
        }
        match network.leads {
            // Some are forwarded by another replica.
            Some(term) if self.draw(4) == 0 => {
                let from = (at + 1) % REPLICAS;
                let write = |_| {
                    let write = Expectation::Write(self.next_request.get());
                    let request = self.request(from, write);
                    ForwardedWrite { attempt: Attempt::First { term }, request }
                };
                let writes = (0..self.draw(20)).map(write).collect();
                if let Err(error) = network.ends.requests.try_send(Requests::Forwarded(writes))
                    && let Requests::Forwarded(writes) = error.into_inner()
                {
                    for write in writes {
                        self.on_refusal(write.request.key);
                    }
                }
            }
            _ => {}
        }
        network.held.extend(requests);
    }

    fn request(&self, at: usize, expectation: Expectation) -> ClientRequest {
        let number = self.next_request.replace(self.next_request.get() + 1);
        let mut request = [0; 16];
        request[..ORIGIN_BYTES].copy_from_slice(&origin_of(at));
        request[ORIGIN_BYTES..].copy_from_slice(&number.to_be_bytes());
        let key = RequestKey { client: ClientId(1), request: RequestId(request) };
        let (Expectation::Write(write)
        | Expectation::Read(write)
        | Expectation::ReadRefused(write)) = expectation;
        let name = name_of(write);
        let (kind, operation) = match expectation {
            Expectation::Write(_) => (RequestKind::Write, Operation::set(&name, &name)),
            Expectation::Read(_) | Expectation::ReadRefused(_) => {
                (RequestKind::Read, Operation::get(&name))
            }
        };
        self.open.borrow_mut().insert(key, expectation);
        // Applying a long batch takes several passes of the applier.
        let count = if self.draw(20) == 0 { 1 + self.draw_count(200) } else { 1 };
        let may_repeat = kind == RequestKind::Write && self.draw(2) == 0;
        let payload = Batch::encode(key, may_repeat, &vec![operation; count]);
        ClientRequest { key, kind, payload }
    }

    fn close(&self, key: RequestKey) -> Expectation {
        let expectation = self.open.borrow_mut().remove(&key);
        expectation.unwrap_or_else(|| panic!("a second reply to {key:?}"))
    }

    /// Checks that `outcomes`, the reply to the request `key`, is the expected reply. Panics if it
    /// is not, or if the request already had a reply.
    pub(super) fn on_reply(&self, key: RequestKey, outcomes: &[Outcome]) {
        self.cover(|coverage| coverage.answered += 1);
        let outcome = &outcomes[0];
        assert!(outcomes.iter().all(|other| other == outcome), "{outcomes:?}");
        match (self.close(key), outcome) {
            (Expectation::Write(write), Outcome::Done) => {
                self.acknowledged.borrow_mut().push(write);
            }
            (Expectation::Read(write), Outcome::Value(value)) => {
                self.cover(|coverage| coverage.reads += 1);
                assert_eq!(value.as_deref(), Some(&name_of(write)[..]), "a stale read");
            }
            (Expectation::ReadRefused(write), Outcome::Value(value)) => {
                assert_eq!(value.as_deref(), None, "refused write {write} was applied");
            }
            (expectation, outcome) => panic!("{outcome:?} for {expectation:?}"),
        }
    }

    /// Records the refusal of a request. The request was therefore certainly not applied.
    pub(super) fn on_refusal(&self, key: RequestKey) {
        if key == RequestKey::default() {
            // The request is a clock entry, for which no client waits.
            return;
        }
        self.cover(|coverage| coverage.refused += 1);
        if let Expectation::Write(write) = self.close(key) {
            self.refused.borrow_mut().push(write);
        }
    }
}
