//! The slow log (`SLOWLOG`) and latency samples (`LATENCY`): requests that took long.
//!
//! The time of a request runs from when it could be submitted to its outcome, so it includes the
//! sync of the log and the other replicas. That is what the client waits for. Redis measures the
//! time on the processor instead.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{Command, Operation};

use super::action::Statistics;
use super::session::connection::Connection;

/// Arguments that an entry keeps, and bytes of each, as in Redis.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;
/// Latency samples that are kept, one a second at most.
const SAMPLES_MAX: usize = 160;

/// An entry of the slow log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlowLogEntry {
    /// Unique within the process.
    pub(super) id: i64,
    /// Unix time of the outcome, in seconds.
    pub(super) at: u64,
    pub(super) elapsed: Duration,
    pub(super) arguments: Vec<Bytes>,
    /// The client's address, as `host:port`.
    pub(super) address: String,
    /// The connection's name; empty if unset.
    pub(super) client_name: Vec<u8>,
}

/// Requests that took long.
#[derive(Debug, Clone, Default)]
pub struct SlowLog {
    next_id: i64,
    /// The latest first.
    entries: VecDeque<SlowLogEntry>,
    /// Unix time in seconds, and the longest request of that second; the latest last.
    samples: VecDeque<(u64, Duration)>,
    /// The longest request since the samples were reset.
    longest: Duration,
}

/// A request whose outcome is known.
#[derive(Debug)]
pub struct CompletedRequest<'r> {
    /// How long the request took.
    pub elapsed: Duration,
    /// The wall clock now, since 1970.
    pub wall_clock: Duration,
    /// The encoded [`Command`].
    pub payload: &'r [u8],
    /// The connection that sent the request.
    pub connection: &'r Connection,
}

impl SlowLog {
    /// Adds a request to the slow log, and drops the oldest entries beyond `entries_max`.
    pub fn add(&mut self, request: &CompletedRequest<'_>, entries_max: usize) {
        let arguments =
            Command::decode(request.payload).map(|command| arguments_of(&command.operation));
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

    /// Adds a latency sample. Of several in one second the longest is kept.
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

    /// Drops the entries of the slow log, or the latency samples.
    pub fn reset(&mut self, statistics: Statistics) {
        match statistics {
            Statistics::SlowLog => self.entries.clear(),
            Statistics::Latency => {
                self.samples.clear();
                self.longest = Duration::ZERO;
            }
            Statistics::Traffic => {}
        }
    }

    /// The entries of the slow log, the latest first.
    pub(super) fn entries(&self) -> &VecDeque<SlowLogEntry> {
        &self.entries
    }

    /// The latency samples, the latest last: Unix time in seconds, and the longest request then.
    pub(super) fn samples(&self) -> &VecDeque<(u64, Duration)> {
        &self.samples
    }

    /// The longest request since the samples were reset.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }
}

/// The command and arguments of an operation, close to what its client sent, and
/// shortened.
fn arguments_of(operation: &Operation<'_>) -> Vec<Bytes> {
    let mut arguments: Vec<&[u8]> = Vec::new();
    match operation {
        Operation::Call { command, args } => {
            arguments.push(command.name().as_bytes());
            arguments.extend(args.iter());
        }
        Operation::Transaction { .. } => arguments.push(b"exec"),
        Operation::OpenSession | Operation::Once { .. } => arguments.push(b"once"),
        Operation::Clock { .. } | Operation::ResetClock { .. } => {}
    }
    shorten_all(&arguments)
}

/// At most [`ARGUMENTS_MAX`] arguments of at most [`ARGUMENT_BYTES_MAX`] bytes, with Redis's
/// remarks about what was cut off.
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
    fn long_requests_are_shortened() {
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
    fn latency_samples_keep_the_longest_of_a_second() {
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
