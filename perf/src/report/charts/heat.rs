//! Heat maps of latencies, which show the number of operations by time and latency.

use crate::report::layout::{Frame, MARGIN, heading};
use crate::report::run::Run;
use crate::report::scale::{Scale, amount, duration, seconds, to_count};
use crate::report::svg::Svg;

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 240.0;
const LEFT: f64 = 82.0;
/// Number of rows in a heat map. Each row stands for a range of latencies, and each of the at most
/// `COLUMNS_MAX` columns for a range of time.
const ROWS: usize = 40;
const COLUMNS_MAX: usize = 120;

/// Draws a heat map of a run's latencies over time. Returns `None` if the run has no histograms
/// over time, or no operations.
pub(crate) fn heat(run: &Run) -> Option<Svg> {
    let timed = || {
        let intervals = run.intervals.iter();
        intervals.filter_map(|interval| Some((interval, interval.histogram.as_ref()?)))
    };
    let ends = timed()
        .filter(|(_, histogram)| !histogram.is_empty())
        .flat_map(|(_, histogram)| [histogram.min() as f64 / 1e9, histogram.max() as f64 / 1e9]);
    let y = Scale::log_around(ends);
    let x = Scale::between(0.0, run.end_s());
    let shortest = timed().map(|(interval, _)| interval.length_s).reduce(f64::min)?;
    let columns = to_count(run.end_s() / shortest).clamp(1, COLUMNS_MAX);

    let mut cells = vec![[0_u64; ROWS]; columns];
    let index = |place: f64, count: usize| to_count((place * count as f64).floor()).min(count - 1);
    for (interval, histogram) in timed() {
        let column = index(x.place(interval.at_s + interval.length_s / 2.0), columns);
        for bucket in histogram.iter_recorded() {
            let row = index(y.place(bucket.value_iterated_to() as f64 / 1e9), ROWS);
            cells[column][row] += bucket.count_at_value();
        }
    }
    let most = cells.iter().flatten().copied().max().filter(|most| *most > 0)?;

    let top = MARGIN + 52.0;
    let frame = Frame { left: LEFT, top, width: WIDTH - LEFT - MARGIN - 24.0, height: PLOT_HEIGHT };
    let title = format!("Latencies over time: {}", run.name);
    let mut svg = Svg::new(&title, WIDTH, frame.bottom() + 46.0 + MARGIN);
    let fullest = amount(most as f64);
    heading(&mut svg, &format!("darker cells have more operations, at most {fullest}"));
    frame.left_axis(&mut svg, y, "latency", duration);
    frame.lower_axis(&mut svg, x, "time since the run began", seconds);
    let (wide, high) = (frame.width / columns as f64, frame.height / ROWS as f64);
    let Scale::Log { low, high: highest } = y else { return None };
    for (column, rows) in cells.iter().enumerate() {
        for (row, count) in rows.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Logarithmic, because otherwise a few slow operations would be invisible beside
            // thousands of fast ones.
            let depth = ((1 + count) as f64).ln() / ((1 + most) as f64).ln();
            let corner =
                [frame.left + column as f64 * wide, frame.bottom() - (row + 1) as f64 * high];
            let edge = |row: usize| duration(low * (highest / low).powf(row as f64 / ROWS as f64));
            let hint = format!("{count} operations of {} to {}", edge(row), edge(row + 1));
            svg.shade(corner, [wide, high], "c0 fill cell", 0.12 + 0.88 * depth, &hint);
        }
    }
    for mark in &run.marks {
        let at = frame.x(x, mark.at_s);
        svg.begin_group("mark", &mark.text);
        svg.line([at, frame.top], [at, frame.bottom()], "mark");
        svg.end_group();
    }
    Some(svg)
}
