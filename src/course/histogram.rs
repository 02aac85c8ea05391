//! Latency files in HdrHistogram's two formats, for its plotter and log tools: percentile
//! distributions (`.hgrm`) and interval logs (`.hlog`). The caller opens the files.
//!
//! Tools differ in their file extensions; some use `.txt` for distributions and `.hgrm` for
//! interval logs. This module uses the extensions of HdrHistogram's own tools. Values are recorded
//! in nanoseconds and written in milliseconds.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::clients::Sample;
use crate::types::Instant;

/// Number of significant decimal digits of a latency that a histogram preserves.
const DIGITS: u8 = 3;
/// Longest latency that a histogram records, in nanoseconds: one hour.
const NANOSECONDS_MAX: u64 = 3_600_000_000_000;
/// Number of nanoseconds per millisecond, the unit of the values in the files.
const SHOWN_UNIT: f64 = 1e6;
/// Number of rows of a percentile distribution per halving of the remaining distance to 100 %, as
/// in HdrHistogram's tools.
const TICKS_PER_HALF_DISTANCE: f64 = 5.0;

/// The latency samples of one type of operation, for a latency file.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// Name of the series in the file; must not contain blanks or commas.
    pub tag: &'a str,
    /// The samples of the series, in any order.
    pub samples: &'a [Sample],
}

/// Returns a histogram of `latencies`, in nanoseconds. Counts latencies above one hour as one hour,
/// and 0 as 1 ns.
pub fn histogram(latencies: impl IntoIterator<Item = Duration>) -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, NANOSECONDS_MAX, DIGITS).expect("these bounds are in order");
    for latency in latencies {
        histogram.saturating_record(nanoseconds(latency));
    }
    histogram
}

/// Writes the percentile distribution of a histogram as a `.hgrm` file, in milliseconds.
///
/// # Errors
/// If writing fails.
pub fn write_percentiles(out: &mut dyn Write, histogram: &Histogram<u64>) -> io::Result<()> {
    let shown = |nanoseconds: f64| nanoseconds / SHOWN_UNIT;
    writeln!(out, "       Value     Percentile TotalCount 1/(1-Percentile)\n")?;
    let mut rows = rows(histogram).into_iter().peekable();
    while let Some(Row { percent, value, count }) = rows.next() {
        let value = shown(value as f64);
        if rows.peek().is_some() {
            let rest = 1.0 / (1.0 - percent / 100.0);
            writeln!(out, "{value:>12.3} {:.12} {count:>10} {rest:>14.2}", percent / 100.0)?;
        } else {
            writeln!(out, "{value:>12.3} {:.12} {count:>10}", 1.0)?;
        }
    }
    let (mean, deviation) = (shown(histogram.mean()), shown(histogram.stdev()));
    let (max, total) = (shown(histogram.max() as f64), histogram.len());
    // Two sub-buckets per step of the last digit, rounded up to a power of two.
    let sub_buckets = (2 * 10_u32.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    writeln!(out, "#[Max     = {max:>12.3}, Total count    = {total:>12}]")?;
    writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.buckets())
}

/// Returns the rows of a histogram's percentile distribution. A row is a fraction from 0 to 1, and
/// the value in nanoseconds that this fraction of the samples does not exceed. Only the last row
/// has fraction 1. An empty histogram has no rows.
pub fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    rows(histogram).into_iter().map(|row| (row.percent / 100.0, row.value)).collect()
}

struct Row {
    percent: f64,
    value: u64,
    /// Number of samples that do not exceed `value`.
    count: u64,
}

fn rows(histogram: &Histogram<u64>) -> Vec<Row> {
    // Not the crate's `iter_quantiles`: its sums of tenths drift, so that, of ten values, it
    // reports the fourth at 30 % instead of the third; and its last two quantiles print as 1.0,
    // while readers stop at the first (HdrHistogram_rust issue 66). Here percents add up as in the
    // original.
    let mut rows = Vec::new();
    let mut percent = 0.0;
    let mut count = 0;
    for bucket in histogram.iter_recorded() {
        count += bucket.count_at_value();
        let value = bucket.value_iterated_to();
        while 100.0 * count as f64 / histogram.len() as f64 >= percent {
            rows.push(Row { percent, value, count });
            if count == histogram.len() {
                rows.push(Row { percent: 100.0, value, count });
                break;
            }
            percent += percent_step(percent);
        }
    }
    rows
}

/// Writes an interval log (`.hlog`, version 1.3): one line, with a histogram of the operation
/// latencies including retries, for each interval of length `interval` and each series with samples
/// in this interval. The run started at `start` by the simulator's clock and at `began` by the wall
/// clock.
///
/// # Errors
/// If writing fails, or the tag of a series contains a blank or a comma.
pub fn write_intervals(
    out: &mut dyn Write,
    began: SystemTime,
    start: Instant,
    interval: Duration,
    series: &[Series<'_>],
) -> io::Result<()> {
    assert!(!interval.is_zero(), "the interval must not be zero");
    // Readers expect lines in chronological order, so the series are interleaved.
    let mut lines = Vec::new();
    for series in series {
        let tag = word(series.tag)?;
        let number =
            |sample: &Sample| sample.answered.since(start).as_nanos() / interval.as_nanos();
        let mut samples = series.samples.to_vec();
        samples.sort_by_key(number);
        for in_interval in samples.chunk_by(|a, b| number(a) == number(b)) {
            lines.push((number(&in_interval[0]), tag, in_interval.to_vec()));
        }
    }
    lines.sort_by_key(|(number, ..)| *number);

    begin_intervals(out, began)?;
    for (number, tag, samples) in lines {
        let offset = interval.mul_f64(number as f64);
        let histogram = histogram(samples.iter().map(|sample| sample.operation_latency));
        write_line(out, offset, interval, tag, &histogram)?;
    }
    Ok(())
}

/// Writes the header of an interval log (`.hlog`) that starts at the wall clock time `began`. The
/// lines are written with [`write_interval`].
///
/// # Errors
/// If writing fails.
pub fn begin_intervals(out: &mut dyn Write, began: SystemTime) -> io::Result<()> {
    let since_epoch = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs_f64();
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(out, "#[BaseTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(
        out,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )
}

/// Writes one line of an interval log (`.hlog`): a histogram of the series `tag` for an interval of
/// length `interval` that starts `offset` after the start of the log. Lines must be written in
/// chronological order.
///
/// # Errors
/// If writing fails, or the tag contains a blank or a comma.
pub fn write_interval(
    out: &mut dyn Write,
    offset: Duration,
    interval: Duration,
    tag: &str,
    histogram: &Histogram<u64>,
) -> io::Result<()> {
    write_line(out, offset, interval, word(tag)?, histogram)
}

fn write_line(
    mut out: &mut dyn Write,
    offset: Duration,
    interval: Duration,
    tag: Tag<'_>,
    histogram: &Histogram<u64>,
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .with_max_value_divisor(SHOWN_UNIT)
        .begin_log_with(&mut out, &mut serializer)?
        .write_histogram(histogram, offset, interval, Some(tag))
        .map_err(|error| invalid(&error))
}

fn word(tag: &str) -> io::Result<Tag<'_>> {
    Tag::new(tag).ok_or_else(|| invalid(&format!("the tag `{tag}` is not a word")))
}

/// Returns the step, in percent, from the row at `percent` to the next row of a percentile
/// distribution. The step is halved each time that the distance to 100 % has been halved, which
/// takes five steps.
fn percent_step(percent: f64) -> f64 {
    let halvings = (100.0 / (100.0 - percent)).log2().floor();
    100.0 / (TICKS_PER_HALF_DISTANCE * (halvings + 1.0).exp2())
}

fn nanoseconds(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn invalid(error: &dyn Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("interval log: {error}"))
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    const START: Instant = Instant(3_000_000_001);

    fn text(latencies: impl IntoIterator<Item = Duration>) -> String {
        let mut out = Vec::new();
        write_percentiles(&mut out, &histogram(latencies)).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn log_of(series: &[Series<'_>]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        write_intervals(&mut out, began, START, Duration::from_secs(1), series)?;
        Ok(out)
    }

    /// The expected text was verified with the Python package `hdrhistogram` 0.10.8, which read our
    /// interval log of the same values.
    #[test]
    fn hdr_percentile_table_matches_the_reference_output() {
        let values = [1, 2, 2, 3, 10, 50, 51, 52, 1000, 123_456];
        let expected = "
       Value     Percentile TotalCount 1/(1-Percentile)

       0.001 0.000000000000          1           1.00
       0.001 0.100000000000          1           1.11
       0.002 0.200000000000          3           1.25
       0.002 0.300000000000          3           1.43
       0.003 0.400000000000          4           1.67
       0.010 0.500000000000          5           2.00
       0.050 0.550000000000          6           2.22
       0.050 0.600000000000          6           2.50
       0.051 0.650000000000          7           2.86
       0.051 0.700000000000          7           3.33
       0.052 0.750000000000          8           4.00
       0.052 0.775000000000          8           4.44
       0.052 0.800000000000          8           5.00
       1.000 0.825000000000          9           5.71
       1.000 0.850000000000          9           6.67
       1.000 0.875000000000          9           8.00
       1.000 0.887500000000          9           8.89
       1.000 0.900000000000          9          10.00
     123.470 0.912500000000         10          11.43
     123.470 1.000000000000         10
#[Mean    =       12.461, StdDeviation   =       36.993]
#[Max     =      123.470, Total count    =           10]
#[Buckets =           32, SubBuckets     =         2048]
";
        assert_eq!(text(values.map(micros)), expected.trim_start_matches('\n'));
    }

    #[test]
    fn percentile_table_has_no_rows_if_empty_and_two_for_one_sample() {
        assert_eq!(text([]).lines().count(), 5);
        let one = text([micros(5)]);
        assert_eq!(one.lines().filter(|line| line.starts_with("       0.005 ")).count(), 2);
        assert_eq!(one.matches("1.000000000000").count(), 1, "readers stop at the first 1.0");
    }

    #[test]
    fn latencies_outside_the_histogram_range_are_clamped() {
        let histogram = histogram([Duration::ZERO, Duration::MAX]);
        assert_eq!(histogram.len(), 2);
        assert_eq!(histogram.min(), 1);
        assert!(histogram.max() >= NANOSECONDS_MAX);
    }

    #[test]
    fn latency_log_puts_every_sample_into_its_time_interval() {
        let sample = |at, latency| Sample {
            answered: START + micros(at),
            latency: Duration::ZERO,
            operation_latency: micros(latency),
        };
        let puts = [sample(2_500_000, 7), sample(0, 5), sample(999_999, 6)];
        let gets = [sample(100, 1)];
        let log = log_of(&[
            Series { tag: "put", samples: &puts },
            Series { tag: "get", samples: &gets },
            Series { tag: "none", samples: &[] },
        ])
        .unwrap();
        let heading = "#[Histogram log format version 1.3]
#[StartTime: 1700000000.000 (seconds since epoch)]
#[BaseTime: 1700000000.000 (seconds since epoch)]
\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"
";
        assert!(log.starts_with(heading.as_bytes()));
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            let bytes = BASE64_STANDARD.decode(line.encoded_histogram()).unwrap();
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            let tag = line.tag().unwrap().as_str().to_owned();
            let values = histogram.iter_recorded().map(|row| row.value_iterated_to() / 1000);
            found.push((tag, line.start_timestamp().as_secs(), values.collect::<Vec<_>>()));
            assert_eq!(line.duration(), Duration::from_secs(1));
        }
        let expected = [("put", 0, vec![5, 6]), ("get", 0, vec![1]), ("put", 2, vec![7])];
        assert_eq!(found, expected.map(|(tag, at, values)| (tag.to_owned(), at, values)));
    }

    #[test]
    fn latency_log_tag_with_a_space_is_rejected() {
        let error = log_of(&[Series { tag: "a put", samples: &[] }]).unwrap_err();
        assert_eq!(error.to_string(), "interval log: the tag `a put` is not a word");
    }

    #[test]
    fn failed_write_of_the_percentile_file_is_reported() {
        let mut full: &mut [u8] = &mut [0; 100];
        assert!(write_percentiles(&mut full, &histogram([micros(1)])).is_err());
    }
}
