//! Statistics of commands and error replies, for `INFO` (`commandstats`, `errorstats`,
//! `latencystats`).
//!
//! The server counts the calls of many requests first, with [`CommandStatistics::note_call`], and
//! then once adds the time that they took, since all requests of a batch take the same time. So a
//! command costs a few nanoseconds, without a lock or an allocation; the first call of each command
//! allocates its histogram.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Maximum duration in nanoseconds that a latency histogram can record. Longer durations are
/// recorded as this maximum.
const NANOS_MAX: u64 = 10_000_000_000;
/// Number of significant decimal digits of the durations in a histogram, as in Redis. With two
/// digits, a histogram takes about 29 KB of memory.
const DIGITS: u8 = 2;
/// The percentiles that `INFO latencystats` shows, as in Redis by default.
const PERCENTILES: [(&str, f64); 3] = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];
/// Maximum number of distinct error codes that are counted separately. This server uses fewer.
const ERROR_CODES_MAX: usize = 64;

/// The id of a command or subcommand in the command table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandNumber(pub(super) u16);

/// How the latest request of a connection counts in the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallStatus {
    /// The request is not included in the statistics of any command, because its command is
    /// unknown, or because it was queued for a transaction.
    #[default]
    NotCounted,
    /// The request was rejected before its command ran, for example because it has too few
    /// arguments.
    Rejected(CommandNumber),
    /// The request's command ran, or was submitted to the consensus core.
    Called(CommandNumber),
}

/// The statistics of one command, since the process started or since `CONFIG RESETSTAT`.
#[derive(Debug, Clone, Default)]
struct CommandCounts {
    calls: u64,
    /// Total duration of all calls.
    elapsed: Duration,
    rejected: u64,
    failed: u64,
    /// Durations of the calls in nanoseconds; `None` before the first call.
    latency: Option<Box<Histogram<u64>>>,
    /// Number of calls whose duration is not known yet; not included in `calls`.
    noted_calls: u64,
    /// Number of failed calls among `noted_calls`; not included in `failed`.
    noted_failed: u64,
}

/// The statistics of all commands and error replies of one replica.
#[derive(Debug, Clone, Default)]
pub struct CommandStatistics {
    /// Statistics of each command, indexed by the command's number. Commands after the last one
    /// that was used may be missing.
    commands: Vec<CommandCounts>,
    /// The commands that have calls whose duration is not known yet.
    noted: Vec<CommandNumber>,
    /// Whether latency histograms are disabled.
    skips_latency: bool,
    /// The error codes, such as `ERR`, each with the number of error replies that have this code.
    /// Sorted by error code.
    errors: Vec<(Box<str>, u64)>,
    error_count: u64,
}

impl CommandStatistics {
    /// Notes a call whose duration is still unknown. When the duration is known, the caller must
    /// call [`CommandStatistics::count_noted`].
    pub fn note_call(&mut self, command: CommandNumber, failed: bool) {
        self.note_calls(command, 1);
        counts_of(&mut self.commands, command).noted_failed += u64::from(failed);
    }

    /// Notes `calls` successful calls of one command whose duration is still unknown. When the
    /// duration is known, the caller must call [`CommandStatistics::count_noted`].
    pub fn note_calls(&mut self, command: CommandNumber, calls: u64) {
        if calls == 0 {
            return;
        }
        let counts = counts_of(&mut self.commands, command);
        if counts.noted_calls == 0 {
            self.noted.push(command);
        }
        counts.noted_calls += calls;
    }

    /// Adds the calls that were noted since the previous call of this function to the statistics.
    /// Each of them took `elapsed`.
    pub fn count_noted(&mut self, elapsed: Duration) {
        for command in self.noted.drain(..) {
            let counts = counts_of(&mut self.commands, command);
            let calls = std::mem::take(&mut counts.noted_calls);
            counts.failed += std::mem::take(&mut counts.noted_failed);
            counts.add(calls, elapsed, self.skips_latency);
        }
    }

    /// Counts a failed call that took `elapsed`. Does not affect calls that were noted before.
    pub fn count_failed(&mut self, command: CommandNumber, elapsed: Duration) {
        let counts = counts_of(&mut self.commands, command);
        counts.failed += 1;
        counts.add(1, elapsed, self.skips_latency);
    }

    /// Counts a request that was rejected before its command ran.
    pub fn count_rejected(&mut self, command: CommandNumber) {
        counts_of(&mut self.commands, command).rejected += 1;
    }

    /// Counts an error reply with the text `text`, whose first word is the error code.
    pub fn count_error(&mut self, text: &[u8]) {
        self.error_count += 1;
        let code = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let found = self.errors.binary_search_by(|(known, _)| known.as_bytes().cmp(code));
        match found {
            Ok(at) => self.errors[at].1 += 1,
            Err(at) if self.errors.len() < ERROR_CODES_MAX => {
                self.errors.insert(at, (String::from_utf8_lossy(code).into(), 1));
            }
            Err(_) => {}
        }
    }

    /// Sets whether the durations of calls are recorded in histograms. Drops the existing
    /// histograms if not.
    pub fn track_latency(&mut self, tracks: bool) {
        self.skips_latency = !tracks;
        if !tracks {
            self.commands.iter_mut().for_each(|counts| counts.latency = None);
        }
    }

    /// Sets all counts to 0.
    pub fn reset(&mut self) {
        let skips_latency = self.skips_latency;
        *self = CommandStatistics { skips_latency, ..CommandStatistics::default() };
    }

    /// Returns the number of error replies.
    pub(super) fn error_count(&self) -> u64 {
        self.error_count
    }

    /// Returns the fields of `INFO errorstats`: names and values.
    pub(super) fn errors(&self) -> impl Iterator<Item = (String, String)> {
        self.errors
            .iter()
            .map(|(code, count)| (format!("errorstat_{code}"), format!("count={count}")))
    }

    /// Returns the field (name and value) of `INFO commandstats` for the command with this number
    /// and full name; `None` if the command was neither called nor rejected.
    pub(super) fn command(&self, number: CommandNumber, name: &str) -> Option<(String, String)> {
        let counts = self.commands.get(usize::from(number.0))?;
        let micros = counts.elapsed.as_nanos() as f64 / 1_000.0;
        let each = if counts.calls == 0 { 0.0 } else { micros / counts.calls as f64 };
        let (calls, rejected) = (counts.calls + counts.noted_calls, counts.rejected);
        let failed = counts.failed + counts.noted_failed;
        let value = format!(
            "calls={calls},usec={micros:.0},usec_per_call={each:.2},rejected_calls={rejected},\
             failed_calls={failed}"
        );
        (calls + rejected > 0).then(|| (format!("cmdstat_{name}"), value))
    }

    /// Returns the field (name and value) of `INFO latencystats` for the command with this number
    /// and full name; `None` if the command was never called.
    pub(super) fn latency(&self, number: CommandNumber, name: &str) -> Option<(String, String)> {
        let histogram = self.commands.get(usize::from(number.0))?.latency.as_ref()?;
        let values = PERCENTILES.map(|(percentile, quantile)| {
            let micros = histogram.value_at_percentile(quantile) as f64 / 1_000.0;
            format!("{percentile}={micros:.3}")
        });
        Some((format!("latency_percentiles_usec_{name}"), values.join(",")))
    }
}

impl CommandCounts {
    /// Adds `calls` calls, each of which took `elapsed`.
    fn add(&mut self, calls: u64, elapsed: Duration, skips_latency: bool) {
        self.calls += calls;
        self.elapsed += elapsed.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX));
        if !skips_latency {
            let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).clamp(1, NANOS_MAX);
            let latency = self.latency.get_or_insert_with(|| Box::new(new_histogram()));
            latency.saturating_record_n(nanos, calls);
        }
    }
}

/// Returns a mutable reference to the statistics of `command` in `commands`, which is extended if
/// necessary.
fn counts_of(commands: &mut Vec<CommandCounts>, command: CommandNumber) -> &mut CommandCounts {
    let at = usize::from(command.0);
    if at >= commands.len() {
        commands.resize_with(at + 1, CommandCounts::default);
    }
    &mut commands[at]
}

fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, NANOS_MAX, DIGITS);
    histogram.expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commandstats_counts_calls_failures_and_rejections() {
        let mut statistics = CommandStatistics::default();
        let (get, set) = (CommandNumber(3), CommandNumber(7));
        for failed in [false, true, false] {
            statistics.note_call(get, failed);
        }
        statistics.note_call(set, false);
        statistics.count_noted(Duration::from_micros(10));
        statistics.note_call(get, false);
        statistics.count_noted(Duration::from_micros(50));
        statistics.count_rejected(get);
        let value = "calls=4,usec=80,usec_per_call=20.00,rejected_calls=1,failed_calls=1";
        assert_eq!(statistics.command(get, "get"), Some(("cmdstat_get".into(), value.into())));
        let (_, value) = statistics.command(set, "set").unwrap();
        assert!(value.starts_with("calls=1,usec=10,"), "{value}");
        assert_eq!(statistics.command(CommandNumber(4), "ping"), None);
        assert_eq!(statistics.command(CommandNumber(9), "beyond"), None);
        // Two significant digits.
        let (name, value) = statistics.latency(get, "get").unwrap();
        assert_eq!(name, "latency_percentiles_usec_get");
        assert_eq!(value, "p50=10.047,p99=50.175,p99.9=50.175");
        statistics.reset();
        assert_eq!((statistics.command(get, "get"), statistics.latency(get, "get")), (None, None));
    }

    #[test]
    fn latency_of_a_failed_call_is_not_added_to_other_pending_calls() {
        let mut statistics = CommandStatistics::default();
        let (get, set) = (CommandNumber(3), CommandNumber(7));
        statistics.note_call(get, true);
        statistics.count_failed(set, Duration::from_micros(10));
        let value =
            |statistics: &CommandStatistics, number| statistics.command(number, "x").unwrap().1;
        let failed = "calls=1,usec=10,usec_per_call=10.00,rejected_calls=0,failed_calls=1";
        assert_eq!(value(&statistics, set), failed);
        let noted = "calls=1,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=1";
        assert_eq!(value(&statistics, get), noted);
        statistics.count_noted(Duration::from_micros(10));
        assert_eq!([get, set].map(|number| value(&statistics, number)), [failed, failed]);
    }

    #[test]
    fn errorstats_counts_replies_by_error_code_up_to_a_limit() {
        let mut statistics = CommandStatistics::default();
        for text in ["WRONGTYPE Operation against", "ERR a", "ERR b", "ERR\r\n"] {
            statistics.count_error(text.as_bytes());
        }
        let errors: Vec<_> = statistics.errors().collect();
        let wanted = [("errorstat_ERR", "count=3"), ("errorstat_WRONGTYPE", "count=1")];
        assert_eq!(errors, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for number in 0..1_000 {
            statistics.count_error(format!("CODE{number} text").as_bytes());
        }
        assert_eq!(
            (statistics.errors().count(), statistics.error_count()),
            (ERROR_CODES_MAX, 1_004)
        );
    }

    #[test]
    fn call_beyond_the_latency_histogram_range_is_clamped() {
        let mut statistics = CommandStatistics::default();
        statistics.note_call(CommandNumber(0), false);
        statistics.count_noted(Duration::from_hours(1));
        let (_, value) = statistics.latency(CommandNumber(0), "x").unwrap();
        assert!(value.starts_with("p50=10") && value.len() < 60, "{value}");
    }
}
