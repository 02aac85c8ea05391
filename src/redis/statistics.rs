//! Statistics of commands and error replies, for `INFO` (`commandstats`, `errorstats`,
//! `latencystats`) and for metrics.
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

/// Number of buckets of a [`DurationHistogram`].
pub const DURATION_BUCKETS: usize = 25;

/// Counts of durations by size, in buckets whose bounds double, as in Redis's `LATENCY HISTOGRAM`.
/// All histograms have the same bounds, so they can be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DurationHistogram {
    /// Bucket `k` has the number of durations of at most `2^k` times 1,024 ns that are not in an
    /// earlier bucket. The last bucket has all longer ones.
    pub counts: [u64; DURATION_BUCKETS],
    /// Sum of all durations.
    pub sum: Duration,
}

impl DurationHistogram {
    /// Returns the bucket to which a duration belongs.
    pub fn bucket_of(duration: Duration) -> usize {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let units = nanos.saturating_sub(1) >> 10;
        ((u64::BITS - units.leading_zeros()) as usize).min(DURATION_BUCKETS - 1)
    }

    /// Returns the longest duration of a bucket; `None` for the last bucket, which has no bound.
    pub fn bound_of(bucket: usize) -> Option<Duration> {
        (bucket + 1 < DURATION_BUCKETS).then(|| Duration::from_nanos(1_024 << bucket))
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the number of microseconds by which `LATENCY HISTOGRAM` names a bucket. Redis's
    /// buckets end a little after powers of two, because it stores durations with two digits.
    pub(super) fn redis_micros_of(bucket: usize) -> u64 {
        let bound: u64 = 1_024 << bucket;
        (bound + bound / 128 - 1) / 1_000
    }

    /// Adds `count` durations of the same size.
    fn add(&mut self, duration: Duration, count: u64) {
        self.counts[DurationHistogram::bucket_of(duration)] += count;
        self.sum += duration.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// The statistics of one command, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct CommandTotals<'s> {
    /// Number of calls, including failed ones.
    pub calls: u64,
    /// Number of requests that were rejected before the command ran.
    pub rejected: u64,
    /// Number of calls whose reply was an error.
    pub failed: u64,
    /// Durations of the calls.
    pub durations: &'s DurationHistogram,
}

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
    durations: DurationHistogram,
    rejected: u64,
    failed: u64,
    /// Durations of the calls in nanoseconds, in buckets so narrow that percentiles can be told;
    /// `None` before the first call.
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

    /// Counts calls of one command inside a script: how many there were, how many of these failed,
    /// and how many were refused before the command ran. The calls took `elapsed` in total.
    pub(super) fn count_calls(
        &mut self,
        command: CommandNumber,
        (calls, failed, rejected): (u64, u64, u64),
        elapsed: Duration,
    ) {
        let counts = counts_of(&mut self.commands, command);
        counts.failed += failed;
        counts.rejected += rejected;
        if calls > 0 {
            let each = elapsed / u32::try_from(calls).unwrap_or(u32::MAX);
            counts.add(calls, each, self.skips_latency);
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

    /// Returns a copy without the percentiles, which take most of the memory.
    pub(super) fn without_percentiles(&self) -> CommandStatistics {
        let without = |counts: &CommandCounts| CommandCounts { latency: None, ..*counts };
        CommandStatistics {
            commands: self.commands.iter().map(without).collect(),
            noted: Vec::new(),
            errors: self.errors.clone(),
            ..*self
        }
    }

    /// Returns the number of error replies.
    pub fn error_count(&self) -> u64 {
        self.error_count
    }

    /// Returns the error codes, such as `ERR`, each with the number of error replies that have this
    /// code; at most 64.
    pub fn error_codes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.errors.iter().map(|(code, count)| (&**code, *count))
    }

    /// Returns the fields of `INFO errorstats`: names and values.
    pub(super) fn errors(&self) -> impl Iterator<Item = (String, String)> {
        self.error_codes()
            .map(|(code, count)| (format!("errorstat_{code}"), format!("count={count}")))
    }

    /// Returns the statistics of the command with this number; `None` if the command was neither
    /// called nor rejected.
    pub(super) fn totals(&self, number: CommandNumber) -> Option<CommandTotals<'_>> {
        let counts = self.commands.get(usize::from(number.0))?;
        let totals = CommandTotals {
            calls: counts.calls + counts.noted_calls,
            rejected: counts.rejected,
            failed: counts.failed + counts.noted_failed,
            durations: &counts.durations,
        };
        (totals.calls + totals.rejected > 0).then_some(totals)
    }

    /// Returns the field (name and value) of `INFO commandstats` for the command with this number
    /// and full name; `None` if the command was neither called nor rejected.
    pub(super) fn command(&self, number: CommandNumber, name: &str) -> Option<(String, String)> {
        let CommandTotals { calls, rejected, failed, durations } = self.totals(number)?;
        let micros = durations.sum.as_nanos() as f64 / 1_000.0;
        let timed = durations.count();
        let each = if timed == 0 { 0.0 } else { micros / timed as f64 };
        let value = format!(
            "calls={calls},usec={micros:.0},usec_per_call={each:.2},rejected_calls={rejected},\
             failed_calls={failed}"
        );
        Some((format!("cmdstat_{name}"), value))
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
        self.durations.add(elapsed, calls);
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
    fn duration_histogram_buckets_double_and_include_their_bounds() {
        let of = |nanos| DurationHistogram::bucket_of(Duration::from_nanos(nanos));
        assert_eq!([0, 1, 1_024, 1_025, 2_048, 2_049].map(of), [0, 0, 0, 1, 1, 2]);
        for bucket in 0..DURATION_BUCKETS - 1 {
            let bound = DurationHistogram::bound_of(bucket).unwrap();
            let next = bound + Duration::from_nanos(1);
            assert_eq!(DurationHistogram::bucket_of(bound), bucket);
            assert_eq!(DurationHistogram::bucket_of(next), bucket + 1);
        }
        assert_eq!(DurationHistogram::bound_of(DURATION_BUCKETS - 1), None);
        assert_eq!(DurationHistogram::bucket_of(Duration::MAX), DURATION_BUCKETS - 1);
        let names: Vec<u64> = (0..12).map(DurationHistogram::redis_micros_of).collect();
        assert_eq!(names, [1, 2, 4, 8, 16, 33, 66, 132, 264, 528, 1_056, 2_113]);
    }

    #[test]
    fn copy_for_metrics_keeps_all_counts_but_no_percentiles() {
        let mut statistics = CommandStatistics::default();
        let get = CommandNumber(3);
        statistics.track_latency(false);
        statistics.note_calls(get, 3);
        statistics.count_noted(Duration::from_micros(2));
        statistics.count_failed(get, Duration::from_millis(2));
        statistics.count_rejected(get);
        statistics.count_error(b"ERR x");
        statistics.track_latency(true);
        statistics.note_call(get, false);
        statistics.count_noted(Duration::from_micros(2));
        let copy = statistics.without_percentiles();
        assert!(statistics.latency(get, "get").is_some() && copy.latency(get, "get").is_none());
        let totals = copy.totals(get).unwrap();
        assert_eq!((totals.calls, totals.failed, totals.rejected), (5, 1, 1));
        assert_eq!((totals.durations.counts[1], totals.durations.counts[11]), (4, 1));
        assert_eq!(totals.durations.sum, Duration::from_micros(2_008));
        assert_eq!(copy.error_codes().collect::<Vec<_>>(), [("ERR", 1)]);
        assert!(copy.totals(CommandNumber(2)).is_none());
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
