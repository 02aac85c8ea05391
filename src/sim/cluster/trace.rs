//! Event traces with one event per line: the format of golden traces and of `bowline sim --trace`.
//!
//! ```text
//! 1@1 append 2@1 (put a=1)                     replica 1, in term 1, appends entry 2 of term 1
//! 1@1 x-> 2 3 AppendEntries prev=1@1 [2@1]     sends it to 2 and 3; both links are cut
//! 2@1 => 2@2 leader                            replica 2 becomes leader of term 2
//! 1@2 splice 2@1 -> 2@2 (empty)                entry 2@1 is replaced by an empty one of term 2
//! ```
//!
//! Before the arrow, `x` means that the link is cut, `~` that the message is lost, `=` that it is
//! withheld, `+` that it is delivered and a copy is kept. `late` marks the delivery of a withheld
//! message or a copy. In golden traces `>` marks a statement of the script. If the trace is off,
//! nothing is formatted.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};

use crate::kv::{Batch, Operation, Outcome, Piece};
use crate::raft::{
    AppendJob, AppendOutcome, ClientRequest, DiskState, Effects, Envelope, PeerMsg, Replica,
    RoleName, Status,
};
use crate::record::{Entry, EntryKind};
use crate::sim::cluster::answer::{Answer, AnswerKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The trace of a simulated run: one line of text per event.
#[derive(Debug, Default)]
pub struct Trace {
    /// Maximum number of lines that are kept; when it is exceeded, the oldest lines are dropped. 0
    /// if the trace is off.
    lines_max: usize,
    with_times: bool,
    with_arrivals: bool,
    without_messages: bool,
    /// Function that is called with each completed line; `None` if the lines are kept instead.
    listener: Option<fn(&str)>,
    lines: VecDeque<String>,
    /// The replica's status before its current step, from which the trace determines what the step
    /// changed; `None` outside a step.
    before: Option<Status>,
    /// Type and sender of the message that last arrived at a replica, such as `AppendReply of 2`.
    arrived: String,
    /// The latest message, with all its receivers so far: equal messages to several replicas are
    /// combined into one line. `None` if no line is pending.
    group: Option<Group>,
    /// Description of each request for the trace, by the request's key.
    requests: BTreeMap<RequestKey, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Group {
    now: Instant,
    from: String,
    arrow: &'static str,
    to: Vec<NodeId>,
    text: String,
}

impl Trace {
    /// Creates a trace for golden traces (recorded traces, with which tests compare new ones): the
    /// trace keeps all lines, and they contain no times.
    pub fn golden() -> Trace {
        Trace { lines_max: usize::MAX, ..Trace::default() }
    }

    /// Creates a trace for debugging: the trace keeps the last `lines_max` lines, which include
    /// times and message arrivals.
    pub fn detailed(lines_max: usize) -> Trace {
        Trace { lines_max, with_times: true, with_arrivals: true, ..Trace::default() }
    }

    /// Creates a trace that passes each line to `listener`. The lines include times and message
    /// arrivals.
    pub fn streaming(listener: fn(&str)) -> Trace {
        Trace { listener: Some(listener), ..Trace::detailed(1) }
    }

    /// Returns whether the trace is on and records lines.
    pub fn is_on(&self) -> bool {
        self.lines_max > 0
    }

    /// Sets whether trace lines start with the virtual time.
    pub fn set_times(&mut self, with_times: bool) {
        self.end_group();
        self.with_times = with_times;
    }

    /// Sets whether the trace contains lines about messages.
    pub fn set_messages(&mut self, with_messages: bool) {
        self.end_group();
        self.without_messages = !with_messages;
    }

    /// Returns the lines kept so far and removes them from the trace.
    pub fn take(&mut self) -> Vec<String> {
        self.end_group();
        self.lines.drain(..).collect()
    }

    /// Adds a line with this text to the trace; does nothing if the trace is off.
    pub fn note(&mut self, now: Instant, text: fmt::Arguments<'_>) {
        if self.is_on() {
            self.end_group();
            self.line(now, &text.to_string());
        }
    }

    /// Records the description of a request, for later trace lines about the request.
    pub fn request_sent(&mut self, request: &ClientRequest) {
        if self.is_on() {
            self.requests.insert(request.key, payload_text(&request.payload));
        }
    }

    pub(super) fn started(&mut self, now: Instant, machine: &Machine) {
        let image = machine.disk.image();
        if self.is_on() && (image.hard_state.term > Term(0) || !image.entries.is_empty()) {
            let last = image
                .entries
                .last()
                .map_or_else(String::new, |e| format!(", log up to {}", e.id()));
            let vote = image
                .hard_state
                .voted_for
                .map_or_else(String::new, |id| format!(", vote for {}", Name(id)));
            let term = image.hard_state.term;
            self.end_group();
            self.line(now, &format!("{}@{term} starts{vote}{last}", Name(machine.id)));
        }
    }

    pub(super) fn arrives(&mut self, now: Instant, machine: &Machine, envelope: &Envelope) {
        if !self.is_on() {
            return;
        }
        self.arrived = format!("{} of {}", envelope.message.name(), Name(envelope.from));
        if self.with_arrivals {
            let term = machine.replica.as_ref().map_or(Term(0), |replica| replica.status().term);
            let (id, from) = (Name(machine.id), Name(envelope.from));
            self.end_group();
            self.line(now, &format!("{id}@{term} <- {from} {}", message_text(&envelope.message)));
        }
    }

    pub(super) fn request_arrives(
        &mut self,
        now: Instant,
        machine: &Machine,
        request: &ClientRequest,
    ) {
        if self.is_on() && self.with_arrivals {
            let text = format!("{} receives {}", Name(machine.id), payload_text(&request.payload));
            self.end_group();
            self.line(now, &text);
        }
    }

    pub(super) fn before_step(&mut self, replica: &Replica) {
        if self.is_on() {
            self.before = Some(replica.status());
        }
    }

    pub(super) fn after_step(
        &mut self,
        now: Instant,
        machine: &Machine,
        after: &Status,
        effects: &Effects,
    ) {
        if !self.is_on() {
            return;
        }
        self.end_group();
        let before = self.before.take().expect("before_step is called first");
        let id = Name(machine.id);
        let who = format!("{id}@{}", after.term);
        let ignored = [
            ("stale", before.counters.stale, after.counters.stale),
            ("misdirected", before.counters.misdirected, after.counters.misdirected),
            ("malformed", before.counters.malformed, after.counters.malformed),
            (
                "rejoining",
                before.counters.ignored_while_rejoining,
                after.counters.ignored_while_rejoining,
            ),
        ];
        for (why, _, _) in ignored.iter().filter(|(_, before, after)| after > before) {
            let line = format!("{who} ignores {} ({why})", self.arrived);
            self.line(now, &line);
        }
        if (before.role, before.term) != (after.role, after.term) {
            let was = format!("{id}@{}", before.term);
            self.line(now, &format!("{was} => {who} {}", role_text(after)));
        } else if before.leader != after.leader {
            self.line(now, &format!("{who} {}", role_text(after)));
        }
        let vote = effects.append.as_ref().and_then(|job| job.hard_state?.voted_for);
        if let Some(vote) =
            vote.filter(|&vote| (before.term, before.voted_for) != (after.term, Some(vote)))
        {
            if after.rejoining.is_some() && vote == after.id {
                self.line(now, &format!("{who} votes for itself while rejoining"));
            } else {
                self.line(now, &format!("{who} votes for {}", Name(vote)));
            }
        }
        if let Some(job) = effects.append.as_ref().filter(|job| !job.entries.is_empty()) {
            let first = job.entries[0].id();
            let entries = entries_text(&job.entries);
            if first.index <= before.last.index {
                self.line(now, &format!("{who} splice {} -> {entries}", before.last));
            } else {
                self.line(now, &format!("{who} append {entries}"));
            }
        }
        if after.commit_index > before.commit_index {
            self.line(now, &format!("{who} commit {}", after.commit_index));
        }
    }

    pub(super) fn synced(&mut self, now: Instant, machine: &Machine, job: &AppendJob) {
        if !self.is_on() || (machine.delays.sync.is_zero() && !machine.held.syncs) {
            return;
        }
        let what = match (job.hard_state, job.entries.last()) {
            (_, Some(last)) => last.id().to_string(),
            (Some(hard_state), None) => format!("term {}", hard_state.term),
            (None, None) => return,
        };
        self.end_group();
        let term = machine.replica.as_ref().map_or(Term(0), |replica| replica.status().term);
        self.line(now, &format!("{}@{term} synced {what}", Name(machine.id)));
    }

    /// Adds a line about a sent message. `arrow` shows the message's fate, such as `->` (delivered)
    /// or `x->` (the link is cut).
    pub fn sent(&mut self, now: Instant, term: Term, envelope: &Envelope, arrow: &'static str) {
        if !self.is_on() || self.without_messages {
            return;
        }
        let from = format!("{}@{term}", Name(envelope.from));
        let text = message_text(&envelope.message);
        if let Some(group) = &mut self.group
            && (group.now, &group.from, group.arrow, &group.text) == (now, &from, arrow, &text)
        {
            group.to.push(envelope.to);
            return;
        }
        self.end_group();
        self.group = Some(Group { now, from, arrow, to: vec![envelope.to], text });
    }

    pub(super) fn answers(&mut self, now: Instant, answer: &Answer) {
        if !self.is_on() {
            return;
        }
        let request = self.requests.get(&answer.key);
        let request = request.map_or_else(|| format!("{:?}", answer.key.request), Clone::clone);
        let from = Name(answer.from);
        let text = match &answer.kind {
            AnswerKind::Done(outcomes) => {
                let outcomes: Vec<String> = outcomes.iter().map(outcome_text).collect();
                format!("{from} answers {request}: {}", outcomes.join("; "))
            }
            AnswerKind::Refused(reason) => {
                let ask = answer
                    .leader
                    .map_or_else(|| "any replica".to_owned(), |id| Name(id).to_string());
                format!("{from} refuses {request} ({reason:?}): ask {ask}")
            }
        };
        self.end_group();
        self.line(now, &text);
    }

    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            let to =
                group.to.iter().fold(String::new(), |text, &id| text + &format!("{} ", Name(id)));
            self.line(group.now, &format!("{} {} {to}{}", group.from, group.arrow, group.text));
        }
    }

    fn line(&mut self, now: Instant, text: &str) {
        if self.lines.len() == self.lines_max {
            self.lines.pop_front();
        }
        let mut line = String::new();
        if self.with_times {
            let _ = write!(line, "{now:?} ");
        }
        line.push_str(text);
        match self.listener {
            Some(listener) => listener(&line),
            None => self.lines.push_back(line),
        }
    }
}

/// Displays a replica's id as a decimal number.
struct Name(NodeId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.0)
    }
}

fn role_text(status: &Status) -> String {
    match (status.role, status.leader) {
        (RoleName::Follower, Some(leader)) => format!("follower of {}", Name(leader)),
        (RoleName::Follower, None) => "follower".to_owned(),
        (RoleName::PreCandidate, _) => "pre-candidate".to_owned(),
        (RoleName::Candidate, _) => "candidate".to_owned(),
        (RoleName::Leader, _) => "leader".to_owned(),
    }
}

/// Formats a message between replicas for traces. Leaves out its round number and loss rate, which
/// would differ after any change of a timing parameter.
pub(in crate::sim) fn message_text(message: &PeerMsg) -> String {
    let mut text = message.name().to_owned();
    let _ = match message {
        PeerMsg::AppendEntries(append) => {
            let _ = write!(text, " prev={}", append.prev);
            if !append.entries.is_empty() {
                let ids: Vec<String> = append.entries.iter().map(|e| e.id().to_string()).collect();
                let _ = write!(text, " [{}]", shorten(&ids));
            }
            let _ = write!(text, " commit={}", append.commit_index);
            append.transfer_to.map_or(Ok(()), |to| write!(text, " transfer_to={}", Name(to)))
        }
        PeerMsg::AppendReply(reply) => match reply.outcome {
            AppendOutcome::Match { index } => {
                write!(text, " match={index}{}", disk_text(reply.disk))
            }
            AppendOutcome::Reject { refused, hint } => {
                write!(text, " reject={refused} hint={hint}{}", disk_text(reply.disk))
            }
        },
        PeerMsg::RequestVote(vote) => {
            let transfer = if vote.transfer { " transfer" } else { "" };
            write!(text, " term={} last={}{transfer}", vote.term, vote.last)
        }
        PeerMsg::TimeoutNow(now) => write!(text, " last={}", now.last),
        PeerMsg::Rejoin(rejoin) => write!(text, " term={} last={}", rejoin.term, rejoin.last),
        PeerMsg::RejoinReply(reply) => {
            let leads = if reply.leads { " leads" } else { "" };
            let changed = if reply.members_changed { " members_changed" } else { "" };
            write!(text, " term={} last={}{leads}{changed}", reply.term, reply.last)
        }
        PeerMsg::VoteReply(reply) => {
            write!(text, " {}", if reply.granted { "granted" } else { "refused" })
        }
        PeerMsg::InstallSnapshot(install) => {
            let (last, whole) = (install.snapshot.last, install.snapshot.bytes);
            let end = install.offset + install.chunk.len() as u64;
            write!(text, " last={last} bytes {}..{end} of {whole}", install.offset)
        }
        PeerMsg::InstallReply(reply) => {
            let (last, whole) = (reply.snapshot.last, reply.snapshot.bytes);
            write!(text, " last={last} has {} of {whole}", reply.received)
        }
    };
    text
}

fn disk_text(disk: DiskState) -> &'static str {
    match disk {
        DiskState::Healthy => "",
        DiskState::Low => " disk=low",
        DiskState::Stalled => " disk=stalled",
    }
}

fn shorten(ids: &[String]) -> String {
    match ids {
        [first, .., last] if ids.len() > 4 => format!("{first} .. {last}"),
        _ => ids.join(" "),
    }
}

fn entries_text(entries: &[Entry]) -> String {
    let one = |entry: &Entry| match entry.kind() {
        EntryKind::NoOp => format!("{} (empty)", entry.id()),
        EntryKind::Configuration => {
            let members = entry.configuration().expect("an entry of this kind");
            format!("{} ({})", entry.id(), members)
        }
        EntryKind::FeatureLevel => {
            let level = entry.feature_level().expect("an entry of this kind");
            format!("{} (feature level {level})", entry.id())
        }
        EntryKind::Command => format!("{} ({})", entry.id(), payload_text(entry.payload())),
    };
    shorten(&entries.iter().map(one).collect::<Vec<_>>())
}

/// Formats the operations of a client's request for traces.
pub(in crate::sim) fn payload_text(payload: &[u8]) -> String {
    if let Some(piece) = Piece::decode(payload) {
        let first = if piece.is_first { "first " } else { "" };
        return format!("{first}piece, {} follow", piece.following);
    }
    let Ok(batch) = Batch::decode(payload) else { return "malformed batch".to_owned() };
    let text = |operation: Option<Operation<'_>>| match operation {
        Some(operation) => operation_text(&operation),
        None => "malformed command".to_owned(),
    };
    batch.operations().map(text).collect::<Vec<_>>().join("; ")
}

fn operation_text(operation: &Operation<'_>) -> String {
    let short = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if text.chars().count() > 16 {
            text.chars().take(15).chain(['…']).collect()
        } else {
            text
        }
    };
    let Some((name, args)) = operation.as_call() else { return format!("{operation:?}") };
    match (name, &args[..]) {
        ("set", [key, value]) => format!("set {}={}", short(key), short(value)),
        ("transfer", [from, to, amount]) => {
            format!("transfer {} {}->{}", short(amount), short(from), short(to))
        }
        _ => args.into_iter().fold(name.to_owned(), |text, arg| text + " " + &short(arg)),
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(Some(value)) => String::from_utf8_lossy(value).into_owned(),
        Outcome::Value(None) => "no value".to_owned(),
        Outcome::Done => "done".to_owned(),
        Outcome::Integer(number) => number.to_string(),
        Outcome::Malformed => "malformed command".to_owned(),
        other => format!("{other:?}"),
    }
}
