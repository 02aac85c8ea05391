//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`.
//!
//! Requests behind `MULTI` are kept as they came and looked at when `EXEC` comes, so that what is
//! wrong with their words is answered in its place. What of them the store has to do becomes one
//! operation; what the door answers by itself is done then, and its replies wait for the others.
//!
//! `WATCH` asks for the revisions of its keys, and until they are there no later request of the
//! connection is looked at: they go into the operation of the next `EXEC`, and are compared where
//! that is applied.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::kv::{CommandId, ItemsBuffer, Operation, Outcome};
use crate::wire::resp::{Request, Writer};

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::connection::Connection;
use crate::redis::session::reply_format::{Kind, Part, ReplyFormat};
use crate::redis::spec::CommandSpec;

const REVISIONS: CommandId = CommandId::of("revisions");
/// What a request that is queued takes beside its bytes, about.
const QUEUED_BYTES: usize = size_of::<Queued>() + 32;
/// What a key that is watched takes beside its bytes, about.
const WATCHED_BYTES: usize = size_of::<(Bytes, u64)>() + 32;

/// What a connection has of a transaction.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct Transaction {
    /// Since `MULTI`.
    queue: Option<Queue>,
    watched: Vec<(Bytes, u64)>,
    watched_bytes: usize,
    /// KeyRange were to be watched, and are not: so no `EXEC` may take it that they are as they were.
    unwatched: bool,
    /// What the reply is waited for that holds up the connection.
    blocked: Option<Blocked>,
}

/// Requests that wait for their `EXEC`.
#[derive(Debug, Clone, Default)]
struct Queue {
    requests: Vec<Queued>,
    bytes: usize,
    /// One of them was refused at once, so all will be.
    aborted: bool,
}

#[derive(Debug, Clone)]
struct Queued {
    spec: &'static CommandSpec,
    bytes: Bytes,
    words: Box<[Range<usize>]>,
}

#[derive(Debug, Clone)]
enum Blocked {
    /// The revisions of these keys.
    Watch(Vec<Bytes>),
    /// Whether watched keys were as before. If not, what the door did meanwhile is taken back: the
    /// connection becomes this one.
    Exec(Box<Connection>),
}

/// Where operations go that become part of another one.
#[derive(Debug, Default)]
pub(in crate::redis) struct Batch {
    pub(in crate::redis) operations: ItemsBuffer,
}

impl Queued {
    fn new(spec: &'static CommandSpec, request: Request<'_>) -> Queued {
        let mut bytes = BytesMut::new();
        let mut words = Vec::with_capacity(request.len());
        for word in request.iter() {
            let start = bytes.len();
            bytes.extend_from_slice(word);
            words.push(start..bytes.len());
        }
        Queued { spec, bytes: bytes.freeze(), words: words.into() }
    }

    fn request(&self) -> Request<'_> {
        Request::new(&self.bytes, &self.words)
    }

    fn held_bytes(&self) -> usize {
        QUEUED_BYTES + self.bytes.len() + self.words.len() * size_of::<Range<usize>>()
    }
}

impl Transaction {
    /// Whether requests are queued now.
    pub(in crate::redis) fn is_begun(&self) -> bool {
        self.queue.is_some()
    }

    /// How many are queued, since `MULTI`.
    pub(in crate::redis) fn queued(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Bytes that queued requests hold.
    pub(in crate::redis) fn queued_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Bytes of memory that it takes.
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        self.queued_bytes() + self.watched_bytes
    }

    /// A request was refused that would have been queued.
    pub(in crate::redis) fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.aborted = true;
        }
    }

    /// Nothing is watched any more.
    fn unwatch(&mut self) {
        self.watched = Vec::new();
        self.watched_bytes = 0;
        self.unwatched = false;
    }

    /// Nothing is left of it.
    pub(in crate::redis) fn discard(&mut self) {
        self.queue = None;
        self.unwatch();
    }
}

impl Connection {
    /// Goes on with what a reply was waited for, [`Action::Submit`] with `blocks`: writes the reply.
    pub fn complete_blocked(
        &mut self,
        reply_format: &ReplyFormat,
        outcome: &Outcome,
        out: &mut BytesMut,
    ) {
        match self.transaction.blocked.take() {
            Some(Blocked::Watch(keys)) => self.watch(keys, outcome, reply_format, out),
            Some(Blocked::Exec(before)) => {
                if matches!(outcome, Outcome::NoList) {
                    self.become_again(*before);
                }
                reply_format.encode(outcome, out);
            }
            None => reply_format.encode(outcome, out),
        }
    }

    /// The reply that was waited for will not come.
    pub fn cancel_blocked(&mut self) {
        match self.transaction.blocked.take() {
            Some(Blocked::Watch(_)) => self.transaction.unwatched = true,
            Some(Blocked::Exec(before)) => self.become_again(*before),
            None => {}
        }
    }

    fn become_again(&mut self, before: Connection) {
        let (last_command, last_command_at) = (self.last_command, self.last_command_at);
        *self = Connection { last_command, last_command_at, ..before };
    }

    fn watch(
        &mut self,
        keys: Vec<Bytes>,
        outcome: &Outcome,
        reply_format: &ReplyFormat,
        out: &mut BytesMut,
    ) {
        let Outcome::List(revisions) = outcome else {
            self.transaction.unwatched = true;
            return reply_format.encode(outcome, out);
        };
        for (key, revision) in keys.into_iter().zip(revisions) {
            let Outcome::Integer(revision) = revision else { continue };
            self.transaction.watched_bytes += WATCHED_BYTES + key.len();
            self.transaction.watched.push((key, revision.cast_unsigned()));
        }
        reply_format.encode(&Outcome::Done, out);
    }
}

/// `MULTI`
pub(in crate::redis) fn multi(call: &mut Call<'_>) -> Action {
    if call.connection.transaction.is_begun() {
        return call.error(&"ERR MULTI calls can not be nested");
    }
    call.connection.transaction.queue = Some(Queue::default());
    call.ok()
}

/// `DISCARD`
pub(in crate::redis) fn discard(call: &mut Call<'_>) -> Action {
    if !call.connection.transaction.is_begun() {
        return call.error(&"ERR DISCARD without MULTI");
    }
    call.connection.transaction.discard();
    call.ok()
}

/// `UNWATCH`
pub(in crate::redis) fn unwatch(call: &mut Call<'_>) -> Action {
    call.connection.transaction.unwatch();
    call.ok()
}

/// `WATCH key [key ...]`
pub(in crate::redis) fn watch(call: &mut Call<'_>) -> Action {
    let transaction = &call.connection.transaction;
    if transaction.is_begun() {
        return call.error(&"ERR WATCH inside MULTI is not allowed");
    }
    let mut keys: Vec<&[u8]> = call.request.rest(1).collect();
    keys.sort_unstable();
    keys.dedup();
    // Those that are watched already stay watched since then.
    let known = |key: &[u8]| transaction.watched.iter().any(|(known, _)| known == key);
    keys.retain(|key| !known(key));
    if keys.is_empty() {
        return call.ok();
    }
    let bytes: usize = keys.iter().map(|key| WATCHED_BYTES + key.len()).sum();
    if transaction.watched_bytes + bytes > call.context.payload_bytes_max {
        return call.error(&"ERR too many keys are watched");
    }
    let words: ItemsBuffer = keys.iter().copied().collect();
    let action =
        call.submit(Operation::Call { verb: REVISIONS, words: words.items() }, Kind::Plain);
    if let Action::Submit { .. } = action {
        let keys = keys.into_iter().map(Bytes::copy_from_slice).collect();
        call.connection.transaction.blocked = Some(Blocked::Watch(keys));
    }
    blocked(action)
}

/// The action with which the connection waits.
fn blocked(mut action: Action) -> Action {
    if let Action::Submit { blocks, .. } = &mut action {
        *blocks = true;
    }
    action
}

/// A request behind `MULTI`.
pub(in crate::redis) fn queue(call: &mut Call<'_>) -> Action {
    let most = call.context.payload_bytes_max;
    let queued = Queued::new(call.spec, call.request);
    let queue = call.connection.transaction.queue.as_mut().expect("called after MULTI");
    let bytes = queue.bytes + queued.held_bytes();
    if bytes > most {
        queue.aborted = true;
        return call.error(&format_args!(
            "ERR the transaction takes {bytes} bytes, where {most} are allowed"
        ));
    }
    queue.bytes = bytes;
    // What is certain not to be done need not be kept.
    if !queue.aborted {
        queue.requests.push(queued);
    }
    call.writer.simple("QUEUED");
    Action::Reply
}

/// `EXEC`
pub(in crate::redis) fn exec(call: &mut Call<'_>) -> Action {
    let Some(queue) = call.connection.transaction.queue.take() else {
        return call.error(&"ERR EXEC without MULTI");
    };
    let Transaction { watched, unwatched, .. } = std::mem::take(&mut call.connection.transaction);
    if queue.aborted || unwatched {
        return call.error(&"EXECABORT Transaction discarded because of previous errors.");
    }
    let requests = &queue.requests;
    let slot = requests
        .iter()
        .find_map(|queued| call.connection.slot_to_redirect(queued.spec, queued.request()));
    if let Some(moved) = call.context.moved(slot) {
        return call.error(&moved);
    }
    let before = (!watched.is_empty()).then(|| Box::new(call.connection.clone()));
    let mut run = Run { batch: Batch::default(), others: Vec::new(), watched: before.is_some() };
    let parts: Vec<Part> = requests.iter().map(|queued| run.queued(call, queued)).collect();
    let Run { batch, mut others, .. } = run;
    let at_once = |part: &Part| matches!(part, Part::Written(_));
    if watched.is_empty() && parts.iter().all(at_once) {
        call.writer.array(parts.len());
        for part in &parts {
            part.encode(&Outcome::Done, call.writer.buffer());
        }
        others.push(Action::Reply);
        return several(others);
    }
    let done_here = !parts.iter().all(|part| matches!(part, Part::Outcome(_)));
    let mut revisions = ItemsBuffer::default();
    for (key, revision) in &watched {
        revisions.push(key);
        revisions.push(&revision.to_le_bytes());
    }
    let (watched, operations) = (revisions.items(), batch.operations.items());
    let operation = Operation::Transaction { watched, operations };
    if let Some((length, most)) = call.exceeds(operation) {
        return call.error(&format_args!(
            "EXECABORT Transaction discarded because it takes {length} bytes in the log, where \
             {most} are allowed"
        ));
    }
    // The reply is in the version that is spoken when it is begun.
    let version = before.as_ref().map_or(call.connection.version, |before| before.version);
    let mut action = call.submit(operation, Kind::Exec(Arc::from(parts)));
    if let Action::Submit { reply_format, redirect_slot, .. } = &mut action {
        reply_format.version = version;
        *redirect_slot = slot;
    }
    match before {
        Some(before) if done_here => {
            call.connection.transaction.blocked = Some(Blocked::Exec(before));
            blocked(action)
        }
        _ => {
            others.push(action);
            several(others)
        }
    }
}

/// One action of several, of which the last one has the reply.
fn several(mut actions: Vec<Action>) -> Action {
    match actions.pop() {
        Some(last) if actions.is_empty() => last,
        Some(last) => {
            actions.push(last);
            Action::Sequence(actions)
        }
        None => Action::Reply,
    }
}

/// What has become of the queued requests so far.
struct Run {
    /// What the store has to do.
    batch: Batch,
    /// What the door has to do beside replying.
    others: Vec<Action>,
    /// Whether it may turn out that nothing is done.
    watched: bool,
}

impl Run {
    /// Does what can be done about a queued request here and now.
    fn queued(&mut self, call: &mut Call<'_>, queued: &Queued) -> Part {
        let listening = self.watched.then(|| call.connection.listening.clone());
        let mut out = BytesMut::new();
        let action = call.within(queued.spec, queued.request(), &mut self.batch, &mut out);
        match action {
            Action::Submit { reply_format, .. } => Part::Outcome(reply_format),
            Action::ListClients(query) => Part::Clients(query),
            Action::Reply => {
                if queued.spec.full_name == "config|set" {
                    self.others.push(Action::ApplySettings);
                }
                Part::Written(out.freeze())
            }
            Action::UpdateSubscriptions(_)
            | Action::ResetStatistics(_)
            | Action::Sleep(_)
            | Action::TakeSnapshot
                if !self.watched =>
            {
                self.others.push(action);
                Part::Written(out.freeze())
            }
            // What could not be taken back, and what has no reply yet.
            _ => {
                if let Some(listening) = listening {
                    call.connection.listening = listening;
                }
                out.clear();
                let mut writer = Writer::new(&mut out, call.connection.version);
                writer.error(b"ERR Command not allowed inside a transaction");
                Part::Written(out.freeze())
            }
        }
    }
}
