//! What took long: `SLOWLOG` and `LATENCY`. Counted is the time from when a request could be handed
//! on to when its outcome was there, with the log's sync and the way to the other replicas in it:
//! what a client waits for, and not, as in Redis, what a processor was busy with.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{Command, Operation, parse_integer};

use crate::redis::action::Action;
use crate::redis::action::Statistics;
use crate::redis::call::Call;

/// Words, and bytes of each, that are kept of a request, as in Redis.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;
/// Moments that are kept.
const MOMENTS_MAX: usize = 160;
/// The one event that `LATENCY` knows.
const EVENT: &[u8] = b"command";

/// A request that took long.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SlowLogEntry {
    number: i64,
    /// Seconds since 1970.
    at: u64,
    took: Duration,
    words: Vec<Bytes>,
    address: String,
    name: Vec<u8>,
}

/// Requests that took long, and when there were some.
#[derive(Debug, Clone, Default)]
pub struct SlowLog {
    next: i64,
    /// The latest first.
    requests: VecDeque<SlowLogEntry>,
    /// Seconds since 1970, and how long the longest of that second took.
    moments: VecDeque<(u64, Duration)>,
    longest: Duration,
}

/// A request that has its outcome.
#[derive(Debug)]
pub struct CompletedRequest<'r> {
    /// How long it took.
    pub elapsed: Duration,
    /// The wall clock now, since 1970.
    pub wall_clock: Duration,
    /// Its [`Command`].
    pub payload: &'r [u8],
    /// Who asked.
    pub connection: &'r crate::redis::Connection,
}

impl SlowLog {
    /// SlowLogSettings a request in the log of slow ones, of which so many are kept.
    pub fn add(&mut self, took: &CompletedRequest<'_>, most: usize) {
        let words = Command::decode(took.payload).map(|command| words_of(&command.operation));
        self.requests.push_front(SlowLogEntry {
            number: self.next,
            at: took.wall_clock.as_secs(),
            took: took.elapsed,
            words: words.unwrap_or_default(),
            address: took.connection.address.clone(),
            name: took.connection.name.clone(),
        });
        self.next += 1;
        self.requests.truncate(most);
    }

    /// SlowLogSettings that one took long at this moment.
    pub fn add_latency_sample(&mut self, time: Duration, wall_clock: Duration) {
        self.longest = self.longest.max(time);
        let second = wall_clock.as_secs();
        match self.moments.back_mut() {
            Some((at, longest)) if *at == second => *longest = time.max(*longest),
            _ => self.moments.push_back((second, time)),
        }
        if self.moments.len() > MOMENTS_MAX {
            self.moments.pop_front();
        }
    }

    /// Forgets what was recorded.
    pub fn reset(&mut self, record: Statistics) {
        match record {
            Statistics::SlowLogEntry => self.requests.clear(),
            Statistics::Latency => {
                self.moments.clear();
                self.longest = Duration::ZERO;
            }
            Statistics::Traffic => {}
        }
    }
}

/// A request's words, about as its client said them.
fn words_of(operation: &Operation<'_>) -> Vec<Bytes> {
    let mut words: Vec<&[u8]> = Vec::new();
    let number;
    match operation {
        Operation::Get { key } => words.extend([&b"GET"[..], key]),
        Operation::Put { key, value } | Operation::Set { key, value, .. } => {
            words.extend([&b"SET"[..], key, value]);
        }
        Operation::Delete { key } => words.extend([&b"DEL"[..], key]),
        Operation::Take { key } => words.extend([&b"GETDEL"[..], key]),
        Operation::Append { key, value } => words.extend([&b"APPEND"[..], key, value]),
        Operation::Add { key, amount } => {
            number = amount.to_string();
            words.extend([&b"INCRBY"[..], key, number.as_bytes()]);
        }
        Operation::Length { key } => words.extend([&b"STRLEN"[..], key]),
        Operation::PutMany { pairs } => {
            words.push(b"MSET");
            words.extend(pairs.iter());
        }
        Operation::DeleteMany { keys } => {
            words.push(b"DEL");
            words.extend(keys.iter());
        }
        Operation::GetMany { keys } => {
            words.push(b"MGET");
            words.extend(keys.iter());
        }
        Operation::Exists { keys } => {
            words.push(b"EXISTS");
            words.extend(keys.iter());
        }
        Operation::Call { verb, words: said } => {
            words.push(verb.name().as_bytes());
            words.extend(said.iter());
        }
        Operation::Publish { channel, message } => {
            words.extend([&b"PUBLISH"[..], channel, message]);
        }
        Operation::Clear => words.push(b"FLUSHALL"),
        Operation::Count => words.push(b"DBSIZE"),
        Operation::CountInSlot { .. } => words.push(b"CLUSTER"),
        Operation::Transaction { .. } => words.push(b"EXEC"),
        Operation::OpenSession | Operation::Once { .. } => words.push(b"ONCE"),
        Operation::Transfer { .. } | Operation::Clock { .. } | Operation::ResetClock { .. } => {}
    }
    let count = words.len();
    let kept = if count > WORDS_MAX { WORDS_MAX - 1 } else { count };
    let mut kept: Vec<Bytes> = words.into_iter().take(kept).map(shortened).collect();
    if count > WORDS_MAX {
        let more = count - kept.len();
        kept.push(format!("... ({more} more arguments)").into());
    }
    kept
}

fn shortened(word: &[u8]) -> Bytes {
    match word.split_at_checked(WORD_BYTES_MAX) {
        Some((kept, more)) if !more.is_empty() => {
            [kept, format!("... ({} more bytes)", more.len()).as_bytes()].concat().into()
        }
        _ => Bytes::copy_from_slice(word),
    }
}

fn whole(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `SLOWLOG GET [count]`
pub(super) fn get(call: &mut Call<'_>) -> Action {
    let mut most = 10;
    if let Some(word) = call.request.get(2) {
        most = match parse_integer(word) {
            Some(-1) => usize::MAX,
            Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
            _ => return call.error(&"ERR count should be greater than or equal to -1"),
        };
    }
    let slow = &call.context.slow_log.requests;
    let writer = &mut call.writer;
    writer.array(slow.len().min(most));
    for slow in slow.iter().take(most) {
        writer.array(6);
        writer.integer(slow.number);
        writer.integer(whole(slow.at.into()));
        writer.integer(whole(slow.took.as_micros()));
        writer.array(slow.words.len());
        for word in &slow.words {
            writer.bulk(word);
        }
        writer.bulk(slow.address.as_bytes());
        writer.bulk(&slow.name);
    }
    Action::Reply
}

/// `SLOWLOG LEN`
pub(super) fn len(call: &mut Call<'_>) -> Action {
    call.writer.integer(whole(call.context.slow_log.requests.len() as u128));
    Action::Reply
}

/// `SLOWLOG RESET`
pub(super) fn reset(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::ResetStatistics(Statistics::SlowLogEntry)
}

/// `LATENCY LATEST`
pub(super) fn latest(call: &mut Call<'_>) -> Action {
    let slow = &call.context.slow_log;
    let writer = &mut call.writer;
    match slow.moments.back() {
        None => writer.array(0),
        Some((at, took)) => {
            writer.array(1);
            writer.array(4);
            writer.bulk(EVENT);
            writer.integer(whole((*at).into()));
            writer.integer(whole(took.as_millis()));
            writer.integer(whole(slow.longest.as_millis()));
        }
    }
    Action::Reply
}

/// `LATENCY HISTORY event`
pub(super) fn history(call: &mut Call<'_>) -> Action {
    let moments = &call.context.slow_log.moments;
    let ours = call.argument(2).eq_ignore_ascii_case(EVENT);
    let writer = &mut call.writer;
    writer.array(if ours { moments.len() } else { 0 });
    for (at, took) in moments.iter().filter(|_| ours) {
        writer.array(2);
        writer.integer(whole((*at).into()));
        writer.integer(whole(took.as_millis()));
    }
    Action::Reply
}

/// `LATENCY RESET [event ...]`: of how many events something was forgotten.
pub(super) fn forget(call: &mut Call<'_>) -> Action {
    let named = call.request.len() == 2
        || call.request.rest(2).any(|word| word.eq_ignore_ascii_case(EVENT));
    let some = named && !call.context.slow_log.moments.is_empty();
    call.writer.integer(some.into());
    if some { Action::ResetStatistics(Statistics::Latency) } else { Action::Reply }
}

/// `LATENCY DOCTOR`
pub(super) fn doctor(call: &mut Call<'_>) -> Action {
    let slow = &call.context.slow_log;
    let text = if slow.moments.is_empty() {
        "No request took longer than latency-monitor-threshold, which is off at 0.\n".to_owned()
    } else {
        format!(
            "In {} seconds of late there were requests that took longer than \
             latency-monitor-threshold, the longest {} ms. A write waits for a sync of the disk at \
             a majority of replicas: look at raft_log_syncs in INFO, at the disks, and at the \
             network between replicas. SLOWLOG GET names requests.\n",
            slow.moments.len(),
            slow.longest.as_millis()
        )
    };
    call.writer.verbatim(&text);
    Action::Reply
}

/// `DEBUG SLEEP seconds`, where the operator lets it: this replica does nothing meanwhile, not even
/// for its peers, so another one takes the lead.
pub(super) fn sleep(call: &mut Call<'_>) -> Action {
    if !call.context.debug {
        return call.error(
            &"ERR DEBUG command not allowed. If the enable-debug-command option is set to \"yes\", \
              you can run it; start the replica with --enable-debug-command yes",
        );
    }
    let seconds = std::str::from_utf8(call.argument(2)).ok().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    let Some(time) = time else { return call.error(&"ERR value is not a valid float") };
    call.writer.ok();
    Action::Sleep(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_requests_are_kept_short() {
        let long = vec![b'x'; 300];
        let words = words_of(&Operation::Put { key: b"k", value: &long });
        assert_eq!((&words[0][..], &words[1][..]), (&b"SET"[..], &b"k"[..]));
        assert!(words[2].ends_with(b"... (172 more bytes)"), "{:?}", words[2]);
        let many: crate::kv::ItemsBuffer = std::iter::repeat_n(&b"k"[..], 100).collect();
        let words = words_of(&Operation::GetMany { keys: many.items() });
        assert_eq!(words.len(), WORDS_MAX);
        assert_eq!(words.last().unwrap(), &b"... (70 more arguments)"[..]);
    }

    #[test]
    fn moments_are_counted_by_the_second() {
        let mut slow = SlowLog::default();
        let millis = Duration::from_millis;
        for (at, took) in [(1_000, 5), (1_900, 9), (1_950, 3), (2_000, 4)] {
            slow.add_latency_sample(millis(took), millis(at));
        }
        assert_eq!(slow.moments, [(1, millis(9)), (2, millis(4))]);
        slow.reset(Statistics::Latency);
        assert!(slow.moments.is_empty() && slow.longest.is_zero());
    }
}
