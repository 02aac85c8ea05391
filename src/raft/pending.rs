//! Client requests that are not answered yet: those that wait for a leader, and those whose entries
//! are in the log.

use std::collections::VecDeque;

use crate::types::{ClientId, EntryId, Index, Instant, RequestKey};

use super::log::LogTail;
use super::message::ClientRequest;

/// Clients remembered as redirected; while there are more, requests wait for the leader's next
/// message.
const REDIRECTED_MAX: usize = 1024;

/// Requests that wait until a leader is known.
///
/// Invariant: ordered by deadline.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests {
    queue: VecDeque<Waiting>,
    /// Clients that were redirected to the leader since its last message. One that comes back did
    /// not find it, so its request waits here for that message.
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

    /// Adds a request that is refused at `deadline`, or when those before it are if that is later.
    pub(super) fn push(&mut self, request: ClientRequest, deadline: Instant) {
        let deadline = self.queue.back().map_or(deadline, |last| last.deadline.max(deadline));
        self.queue.push_back(Waiting { deadline, request });
    }

    /// Returns whether this client may be redirected to the leader, and remembers it if so.
    pub(super) fn may_redirect(&mut self, client: ClientId) -> bool {
        if self.redirected.len() >= REDIRECTED_MAX || self.redirected.contains(&client) {
            return false;
        }
        self.redirected.push(client);
        assert!(self.redirected.len() <= REDIRECTED_MAX, "{} clients", self.redirected.len());
        true
    }

    /// Removes the first request, whose client is to be redirected.
    pub(super) fn pop_redirected(&mut self) -> Option<RequestKey> {
        let request = self.queue.pop_front()?.request;
        self.redirected.push(request.key.client);
        Some(request.key)
    }

    /// Forgets which clients were redirected: the leader has sent a message.
    pub(super) fn forget_redirected(&mut self) {
        self.redirected.clear();
    }

    /// Removes the first request if its deadline has passed.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<RequestKey> {
        let waiting = self.queue.pop_front_if(|waiting| waiting.deadline <= now)?;
        Some(waiting.request.key)
    }

    /// Moves later deadlines forward to `latest`.
    pub(super) fn limit_deadlines(&mut self, latest: Instant) {
        for waiting in &mut self.queue {
            waiting.deadline = waiting.deadline.min(latest);
        }
    }

    /// Returns the first deadline, or [`Instant::MAX`] if no request waits.
    pub(super) fn next_deadline(&self) -> Instant {
        self.queue.front().map_or(Instant::MAX, |waiting| waiting.deadline)
    }

    /// Removes all requests.
    pub(super) fn take(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        std::mem::take(&mut self.queue).into_iter().map(|waiting| waiting.request)
    }

    /// Asserts the invariant.
    pub(super) fn check(&self) {
        debug_assert!(self.queue.iter().is_sorted_by_key(|waiting| waiting.deadline), "deadlines");
    }
}

/// Requests that this replica appended to its log as leader and whose fate is not known here.
///
/// Invariant: `current` is ordered by index; `uncommitted_bytes` is the length of the entries past
/// the commit index while this replica leads, else 0.
#[derive(Debug, Default)]
pub(super) struct AppendedRequests {
    /// Requests of the current leadership.
    current: VecDeque<(EntryId, RequestKey)>,
    /// Requests of earlier leaderships that are neither committed nor replaced.
    earlier: Vec<(EntryId, RequestKey)>,
    uncommitted_bytes: usize,
}

impl AppendedRequests {
    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Starts a leadership, with the entries that it inherits uncommitted.
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

    /// Ends a leadership: its unanswered requests wait for what later leaders commit.
    pub(super) fn end_leadership(&mut self) {
        self.earlier.extend(self.current.drain(..));
        self.uncommitted_bytes = 0;
    }

    /// Adds the request of an entry that was just appended.
    pub(super) fn push(&mut self, id: EntryId, key: RequestKey) {
        assert!(
            self.current.back().is_none_or(|(last, _)| last.index < id.index),
            "entry {id} is appended after {:?}",
            self.current.back()
        );
        self.current.push_back((id, key));
    }

    /// Counts an entry of the current leadership as uncommitted.
    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.uncommitted_bytes += bytes;
    }

    /// Counts an entry as committed by the current leadership.
    pub(super) fn subtract_bytes(&mut self, bytes: usize) {
        assert!(
            bytes <= self.uncommitted_bytes,
            "{bytes} bytes committed of {}",
            self.uncommitted_bytes
        );
        self.uncommitted_bytes -= bytes;
    }

    /// Removes the requests of the current leadership that are committed up to `index`.
    pub(super) fn commit(&mut self, index: Index) {
        while self.current.pop_front_if(|(id, _)| id.index <= index).is_some() {}
    }

    /// Asserts the invariant.
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

    /// Returns whether no request of the current leadership is uncommitted.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Removes requests of earlier leaderships that will never be committed, and passes them to
    /// `replaced`: another entry is committed at their index, or an entry of a later term before
    /// it. Terms never decrease within a log, so no leader's log can contain them any more.
    ///
    /// Also removes those that are committed: the applier answers them.
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
