//! The slow log (`SLOWLOG`) and latency samples (`LATENCY`), which record slow requests.
//!
//! The duration of a request is the time from when its batch was sent to the core or the leader
//! until its outcome was known. The duration includes syncing the log and waiting for the other
//! replicas, because the client waits for them too. Redis records the time spent executing the
//! command instead.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::Operation;
use crate::wire::resp::Request;

use super::action::Statistics;
use super::session::connection::Connection;

/// Maximum number of arguments that an entry of the slow log stores, as in Redis. Of each argument,
/// at most [`ARGUMENT_BYTES_MAX`] bytes are stored.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;
/// Maximum number of latency samples that are stored. Each second with slow requests has one
/// sample. When the maximum is exceeded, the oldest sample is removed.
const SAMPLES_MAX: usize = 160;

/// An entry of the slow log: a request that took at least as long as the setting
/// `slowlog-log-slower-than`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlowLogEntry {
    /// Id of the slow log entry, unique within the process.
    pub(super) id: i64,
    /// Unix time in seconds at which the outcome of the request became known.
    pub(super) at: u64,
    pub(super) elapsed: Duration,
    pub(super) arguments: Vec<Bytes>,
    /// Address of the client that sent the slow request, as `host:port`.
    pub(super) address: String,
    /// Name of the client's connection, as set by `CLIENT SETNAME`; empty if unset.
    pub(super) client_name: Vec<u8>,
}

/// The slow log and the latency samples of one replica.
#[derive(Debug, Clone, Default)]
pub struct SlowLog {
    next_id: i64,
    /// Entries of the slow log, latest first.
    entries: VecDeque<SlowLogEntry>,
    /// Latency samples in chronological order. Each has a Unix time in seconds, and the duration of
    /// the slowest request of that second.
    samples: VecDeque<(u64, Duration)>,
    /// Duration of the slowest request since the latency samples were last reset.
    longest: Duration,
}

/// A request whose outcome is known, with the data that the slow log needs about it.
#[derive(Debug)]
pub struct CompletedRequest<'r> {
    /// Time between the submission of the request, as part of a batch, and the arrival of its
    /// outcome.
    pub elapsed: Duration,
    /// Wall clock of the replica when the outcome of the request became known, as time since 1970.
    pub wall_clock: Duration,
    /// The encoded operation of the request, from which the slow log takes the command and its
    /// arguments.
    pub operation: &'r [u8],
    /// The connection that sent the request.
    pub connection: &'r Connection,
}

/// A request that is answered without the state machine, for the slow log.
#[derive(Debug)]
pub struct LoggedRequest {
    arguments: Vec<Bytes>,
}

impl LoggedRequest {
    /// Returns what the slow log stores of a request: its arguments, without passwords.
    pub fn new(request: Request<'_>) -> LoggedRequest {
        let arguments: Vec<&[u8]> = request.iter().collect();
        LoggedRequest::of_arguments(&arguments)
    }

    /// Returns what the slow log stores of a request with these arguments.
    pub fn of_arguments(arguments: &[&[u8]]) -> LoggedRequest {
        let is = |index: usize, wanted: &str| {
            let argument = arguments.get(index).copied().unwrap_or_default();
            argument.eq_ignore_ascii_case(wanted.as_bytes())
        };
        let secrets_from = if is(0, "auth") || is(0, "hello") {
            1
        } else if is(0, "acl") && (is(1, "setuser") || is(1, "dryrun")) {
            2
        } else if is(0, "config") && is(1, "set") {
            let secret = ["requirepass", "masterauth"];
            let names = (2..arguments.len()).step_by(2);
            let mut found = names.filter(|name| secret.iter().any(|it| is(*name, it)));
            found.next().map_or(arguments.len(), |name| name + 1)
        } else {
            arguments.len()
        };
        let shown = arguments.iter().enumerate().map(|(index, argument)| {
            if index < secrets_from { argument } else { &b"(redacted)"[..] }
        });
        LoggedRequest { arguments: shorten_all(&shown.collect::<Vec<_>>()) }
    }
}

impl SlowLog {
    /// Adds a request that was answered without the state machine within `elapsed`, like
    /// [`SlowLog::add`]. `wall_clock` is the time since 1970 when it was answered.
    pub fn add_answered(
        &mut self,
        request: LoggedRequest,
        elapsed: Duration,
        wall_clock: Duration,
        connection: &Connection,
        entries_max: usize,
    ) {
        self.entries.push_front(SlowLogEntry {
            id: self.next_id,
            at: wall_clock.as_secs(),
            elapsed,
            arguments: request.arguments,
            address: connection.address.clone(),
            client_name: connection.name.clone(),
        });
        self.next_id += 1;
        self.entries.truncate(entries_max);
    }

    /// Adds a request to the slow log, and then removes the log's oldest entries until it contains
    /// at most `entries_max` entries.
    pub fn add(&mut self, request: &CompletedRequest<'_>, entries_max: usize) {
        let arguments =
            Operation::decode(request.operation).map(|operation| arguments_of(&operation));
        self.entries.push_front(SlowLogEntry {
            id: self.next_id,
            at: request.wall_clock.as_secs(),
            elapsed: request.elapsed,
            arguments: arguments.unwrap_or_default(),
            address: request.connection.address.clone(),
            client_name: request.connection.name.clone(),
        });
        self.next_id += 1;
        self.entries.truncate(entries_max);
    }

    /// Removes the oldest entries of the slow log until there are at most `entries_max`.
    pub fn shorten(&mut self, entries_max: usize) {
        self.entries.truncate(entries_max);
    }

    /// Records a request that took `elapsed` as a latency sample. Each second has one sample, for
    /// its slowest request. `wall_clock` is the time since 1970 when the outcome of the request
    /// became known.
    pub fn add_latency_sample(&mut self, elapsed: Duration, wall_clock: Duration) {
        self.longest = self.longest.max(elapsed);
        let second = wall_clock.as_secs();
        match self.samples.back_mut() {
            Some((at, longest)) if *at == second => *longest = elapsed.max(*longest),
            _ => self.samples.push_back((second, elapsed)),
        }
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// Removes all entries of the slow log, or all latency samples, as `statistics` says. Does
    /// nothing for other statistics, because these are not stored here.
    pub fn reset(&mut self, statistics: Statistics) {
        match statistics {
            Statistics::SlowLog => self.entries.clear(),
            Statistics::Latency => {
                self.samples.clear();
                self.longest = Duration::ZERO;
            }
            Statistics::AclLog | Statistics::Counters => {}
        }
    }

    /// Returns the entries of the slow log, latest first.
    pub(super) fn entries(&self) -> &VecDeque<SlowLogEntry> {
        &self.entries
    }

    /// Returns the latency samples in chronological order. Each has a Unix time in seconds, and the
    /// duration of the slowest request of that second.
    pub(super) fn samples(&self) -> &VecDeque<(u64, Duration)> {
        &self.samples
    }

    /// Returns the duration of the slowest request since the latency samples were last reset.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }
}

/// Returns the command and the arguments of an operation, shortened for an entry of the slow log.
/// They may differ from what the client sent: a transaction is shown as `exec`, without its
/// commands.
fn arguments_of(operation: &Operation<'_>) -> Vec<Bytes> {
    let mut arguments: Vec<&[u8]> = Vec::new();
    match operation {
        Operation::Call { command, args, .. } => {
            if command.name() != "unresolved" {
                arguments.push(command.sent_name().as_bytes());
            }
            let is_secret = command.name().starts_with("acl|");
            let shown = |argument| if is_secret { &b"(redacted)"[..] } else { argument };
            arguments.extend(args.iter().map(shown));
        }
        Operation::Transaction { .. } => arguments.push(b"exec"),
        Operation::OpenSession | Operation::Once { .. } => arguments.push(b"once"),
        Operation::Clock { .. }
        | Operation::ResetClock { .. }
        | Operation::Effects { .. }
        | Operation::DigestMark
        | Operation::DigestReport { .. } => {}
    }
    shorten_all(&arguments)
}

/// Shortens a list of arguments to at most [`ARGUMENTS_MAX`] arguments of at most
/// [`ARGUMENT_BYTES_MAX`] bytes each. As in Redis, adds notes that say how many arguments or bytes
/// were omitted.
fn shorten_all(arguments: &[&[u8]]) -> Vec<Bytes> {
    let count = arguments.len();
    let kept = if count > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { count };
    let mut kept: Vec<Bytes> = arguments[..kept].iter().map(|argument| shorten(argument)).collect();
    if count > ARGUMENTS_MAX {
        let more = count - kept.len();
        kept.push(format!("... ({more} more arguments)").into());
    }
    kept
}

fn shorten(argument: &[u8]) -> Bytes {
    match argument.split_at_checked(ARGUMENT_BYTES_MAX) {
        Some((kept, more)) if !more.is_empty() => {
            [kept, format!("... ({} more bytes)", more.len()).as_bytes()].concat().into()
        }
        _ => Bytes::copy_from_slice(argument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::CommandId;

    #[test]
    fn slowlog_truncates_long_and_numerous_arguments() {
        let long = vec![b'x'; 300];
        let arguments = arguments_of(&Operation::set(b"k", &long));
        assert_eq!((&arguments[0][..], &arguments[1][..]), (&b"set"[..], &b"k"[..]));
        assert!(arguments[2].ends_with(b"... (172 more bytes)"), "{:?}", arguments[2]);
        let many: Vec<&[u8]> = vec![b"k"; 100];
        let arguments = arguments_of(&Operation::call(CommandId::of("mget"), &many[..]));
        assert_eq!(arguments.len(), ARGUMENTS_MAX);
        assert_eq!(arguments.last().unwrap(), &b"... (70 more arguments)"[..]);
    }

    #[test]
    fn latency_history_keeps_the_longest_sample_per_second() {
        let mut slow_log = SlowLog::default();
        let millis = Duration::from_millis;
        for (at, elapsed) in [(1_000, 5), (1_900, 9), (1_950, 3), (2_000, 4)] {
            slow_log.add_latency_sample(millis(elapsed), millis(at));
        }
        assert_eq!(slow_log.samples, [(1, millis(9)), (2, millis(4))]);
        slow_log.reset(Statistics::Latency);
        assert!(slow_log.samples.is_empty() && slow_log.longest.is_zero());
    }
}
