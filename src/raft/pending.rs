//! Client requests that are not answered yet: those that are waiting for a leader, and those whose
//! entries are in the log.

use std::collections::VecDeque;

use crate::types::{ClientId, EntryId, Index, Instant, RequestKey};

use super::log::LogTail;
use super::message::ClientRequest;

/// Maximum number of clients that a follower redirects to the leader between two messages from the
/// leader. Requests of further clients wait for the leader's next message.
const REDIRECTED_MAX: usize = 1024;

/// Client requests that are waiting until a leader is known, as a queue.
///
/// Invariant: ordered by deadline.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests {
    queue: VecDeque<Waiting>,
    /// Clients redirected to the leader since its last message to this replica. If such a client
    /// returns, it could not reach the leader, so its request waits for the leader's next message.
    redirected: Vec<ClientId>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    request: ClientRequest,
}

impl WaitingRequests {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a request to the queue. The request is refused at `deadline`, or at the deadline of the
    /// previous request in the queue if that is later.
    pub(super) fn push(&mut self, request: ClientRequest, deadline: Instant) {
        let deadline = self.queue.back().map_or(deadline, |last| last.deadline.max(deadline));
        self.queue.push_back(Waiting { deadline, request });
    }

    /// Returns whether `client` may be redirected to the leader, and if so records the redirect.
    /// Returns false if this client, or [`REDIRECTED_MAX`] clients in total, were already
    /// redirected since the leader's last message.
    pub(super) fn may_redirect(&mut self, client: ClientId) -> bool {
        if self.redirected.len() >= REDIRECTED_MAX || self.redirected.contains(&client) {
            return false;
        }
        self.redirected.push(client);
        assert!(self.redirected.len() <= REDIRECTED_MAX, "{} clients", self.redirected.len());
        true
    }

    /// Removes the first waiting request and returns its key, for the caller to redirect the client
    /// to the leader; `None` if no request is waiting. Records the redirect.
    pub(super) fn pop_redirected(&mut self) -> Option<RequestKey> {
        let request = self.queue.pop_front()?.request;
        self.redirected.push(request.key.client);
        Some(request.key)
    }

    /// Forgets which clients were redirected to the leader, because a new message from the leader
    /// has arrived.
    pub(super) fn forget_redirected(&mut self) {
        self.redirected.clear();
    }

    /// Removes the first waiting request and returns its key if its deadline has passed; otherwise
    /// `None`.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<RequestKey> {
        let waiting = self.queue.pop_front_if(|waiting| waiting.deadline <= now)?;
        Some(waiting.request.key)
    }

    /// Moves the deadlines of waiting requests that are later than `latest` to `latest`.
    pub(super) fn limit_deadlines(&mut self, latest: Instant) {
        for waiting in &mut self.queue {
            waiting.deadline = waiting.deadline.min(latest);
        }
    }

    /// Returns the earliest deadline of a waiting request, or [`Instant::MAX`] if no request is
    /// waiting.
    pub(super) fn next_deadline(&self) -> Instant {
        self.queue.front().map_or(Instant::MAX, |waiting| waiting.deadline)
    }

    /// Removes and returns all waiting requests.
    pub(super) fn take(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        std::mem::take(&mut self.queue).into_iter().map(|waiting| waiting.request)
    }

    /// Panics in debug builds if the requests are not ordered by deadline.
    pub(super) fn check(&self) {
        debug_assert!(self.queue.iter().is_sorted_by_key(|waiting| waiting.deadline), "deadlines");
    }
}

/// Client requests that this replica appended to its log as leader and that are neither committed
/// nor known to be replaced.
///
/// Invariant: `current` is ordered by index; `uncommitted_bytes` is the total length of the entries
/// after the commit index while this replica leads, else 0.
#[derive(Debug, Default)]
pub(super) struct AppendedRequests {
    /// Uncommitted requests that this replica has appended since it last became leader, each with
    /// the id of its log entry.
    current: VecDeque<(EntryId, RequestKey)>,
    /// Requests that this replica appended in earlier terms as leader and that are not yet known to
    /// be either committed or replaced, each with the id of its log entry.
    earlier: Vec<(EntryId, RequestKey)>,
    uncommitted_bytes: usize,
}

impl AppendedRequests {
    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Records that this replica has become leader. Counts the uncommitted entries that are already
    /// in its log towards the uncommitted bytes.
    pub(super) fn start_leadership(&mut self, log: &LogTail, commit_index: Index) {
        assert!(
            self.current.is_empty() && self.uncommitted_bytes == 0,
            "{} requests and {} bytes of a leadership that has not ended",
            self.current.len(),
            self.uncommitted_bytes
        );
        let inherited = log.tail(commit_index.next());
        self.uncommitted_bytes = inherited.iter().map(|entry| entry.record().len()).sum();
    }

    /// Records that this replica is no longer leader. Its uncommitted requests stay undecided until
    /// a later leader commits or replaces their entries.
    pub(super) fn end_leadership(&mut self) {
        self.earlier.extend(self.current.drain(..));
        self.uncommitted_bytes = 0;
    }

    /// Adds the request `key`, whose entry `id` was just appended to the log.
    pub(super) fn push(&mut self, id: EntryId, key: RequestKey) {
        assert!(
            self.current.back().is_none_or(|(last, _)| last.index < id.index),
            "entry {id} is appended after {:?}",
            self.current.back()
        );
        self.current.push_back((id, key));
    }

    /// Adds the length of a newly appended entry to the uncommitted bytes.
    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.uncommitted_bytes += bytes;
    }

    /// Subtracts the length of an entry from the uncommitted bytes, because this leader has just
    /// committed the entry.
    pub(super) fn subtract_bytes(&mut self, bytes: usize) {
        assert!(
            bytes <= self.uncommitted_bytes,
            "{bytes} bytes committed of {}",
            self.uncommitted_bytes
        );
        self.uncommitted_bytes -= bytes;
    }

    /// Removes the requests that are now committed, with entries up to `index`; the applier answers
    /// them.
    pub(super) fn commit(&mut self, index: Index) {
        while self.current.pop_front_if(|(id, _)| id.index <= index).is_some() {}
    }

    /// Panics if uncommitted requests or bytes are recorded while this replica does not lead, or if
    /// a committed request was not removed.
    pub(super) fn check(&self, is_leader: bool, commit_index: Index) {
        assert!(
            is_leader || self.current.is_empty() && self.uncommitted_bytes == 0,
            "{} requests and {} bytes are uncommitted, but this replica does not lead",
            self.current.len(),
            self.uncommitted_bytes
        );
        assert!(
            self.current.front().is_none_or(|(id, _)| id.index > commit_index),
            "{:?} waits, but {commit_index} is committed",
            self.current.front()
        );
    }

    /// Returns whether all client requests that this replica has appended since it became leader
    /// are committed; also true if it does not lead.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Removes the requests from earlier leaderships of this replica that are now decided. Passes
    /// those that can never be committed to `replaced`: the committed log has another entry at
    /// their index, or an entry of a later term before it (terms never decrease within a log).
    ///
    /// Also removes committed requests; the applier answers their clients.
    pub(super) fn retain_undecided(
        &mut self,
        log: &LogTail,
        commit_index: Index,
        mut replaced: impl FnMut(RequestKey),
    ) {
        let base = log.base().index;
        self.earlier.retain(|&(id, key)| {
            if id.index < base {
                // It may be in a snapshot that a leader sent: its fate is unknown here.
                return false;
            }
            let committed = log.id_at(id.index.min(commit_index));
            let is_replaced = committed.term > id.term
                || (committed.index == id.index && committed.term != id.term);
            if is_replaced {
                replaced(key);
            }
            !is_replaced && id.index > commit_index
        });
    }
}
