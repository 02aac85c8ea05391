//! Bar charts that compare systems, with a block of bars for each case: operations per second,
//! latency and CPU time. Bars show medians, dots show individual rounds, and whiskers show the
//! range.

use crate::compare::results::{Case, Comparison, Measurement, Spread, Summary};
use crate::report::layout::{Frame, MARGIN, heading};
use crate::report::scale::{Scale, amount, duration};
use crate::report::svg::{Svg, colour, text_width};

const WIDTH: f64 = 1040.0;
const ROW_HEIGHT: f64 = 24.0;
const BAR_HEIGHT: f64 = 14.0;
/// Width in pixels reserved for the value labels at the ends of bars.
const LABEL_WIDTH: f64 = 92.0;
const GAP: f64 = 14.0;
const COLUMNS: f64 = 3.0;

/// A column of the bar chart: shows one measured quantity, such as operations per second, of all
/// systems.
struct Column {
    name: &'static str,
    value: fn(&Measurement) -> f64,
    spread: fn(&Summary) -> Spread,
    label: fn(&Summary) -> String,
}

const SHOWN: [Column; 3] = [
    Column {
        name: "operations/s",
        value: |run| run.rate,
        spread: |summary| summary.rate,
        label: |summary| amount(summary.rate.median),
    },
    Column {
        name: "p99 latency (paler: p50)",
        value: |run| run.p99_s,
        spread: |summary| summary.p99_s,
        label: |summary| duration(summary.p99_s.median),
    },
    Column {
        name: "CPU time per 1,000 operations",
        value: Measurement::cpu_s_per_1000,
        spread: |summary| summary.cpu_s_per_1000,
        label: |summary| duration(summary.cpu_s_per_1000.median),
    },
];

/// Draws a bar chart of all cases that belong to no sweep (a series of cases that differ in one
/// parameter). Returns `None` if no such case was measured.
pub(crate) fn bars(comparison: &Comparison) -> Option<Svg> {
    let of = |case: &Case| -> Vec<(usize, &Summary)> {
        let systems = comparison.systems.iter().enumerate();
        systems
            .filter_map(|(number, system)| {
                Some((number, comparison.find(&case.name, &system.name)?))
            })
            .collect()
    };
    let cases = comparison.cases.iter().filter(|case| case.sweep.is_none());
    let blocks: Vec<_> =
        cases.map(|case| (case, of(case))).filter(|(_, found)| !found.is_empty()).collect();
    let rows: usize = blocks.iter().map(|(_, found)| found.len()).sum();
    if rows == 0 {
        return None;
    }
    let names = comparison.systems.iter().map(|system| text_width(&system.name));
    let left = MARGIN + names.fold(60.0, f64::max) + 14.0;
    let block = 52.0;
    let height = MARGIN + 56.0 + rows as f64 * ROW_HEIGHT + blocks.len() as f64 * block + MARGIN;
    let title = format!("{}: systems side by side", comparison.name);
    let mut svg = Svg::new(&title, WIDTH, height);
    heading(
        &mut svg,
        &format!(
            "medians of up to {} interleaved rounds; dots: rounds; whiskers: range; {} \
             shared cores",
            comparison.rounds, comparison.cores
        ),
    );
    let width = (WIDTH - left - MARGIN - GAP * (COLUMNS - 1.0)) / COLUMNS;
    let mut top = MARGIN + 56.0;
    for (case, found) in &blocks {
        svg.begin_group("case", &case.name);
        svg.text([MARGIN, top + 14.0], "label", &case.about);
        for (number, column) in SHOWN.iter().enumerate() {
            let start = left + number as f64 * (width + GAP);
            svg.text([start, top + 31.0], "small", column.name);
            let frame = Frame {
                left: start,
                top: top + 38.0,
                width: width - LABEL_WIDTH,
                height: found.len() as f64 * ROW_HEIGHT,
            };
            draw_column(&mut svg, comparison, frame, column, found);
        }
        for (row, (_, summary)) in found.iter().enumerate() {
            let y = top + 38.0 + row as f64 * ROW_HEIGHT + ROW_HEIGHT / 2.0 + 4.0;
            svg.text([left - 10.0, y], "end", &summary.system);
        }
        svg.end_group();
        top += block + found.len() as f64 * ROW_HEIGHT;
    }
    Some(svg)
}

fn draw_column(
    svg: &mut Svg,
    comparison: &Comparison,
    frame: Frame,
    column: &Column,
    found: &[(usize, &Summary)],
) {
    let most = found.iter().map(|(_, summary)| (column.spread)(summary).max).fold(0.0, f64::max);
    let scale = Scale::between(0.0, most);
    svg.line([frame.left, frame.top], [frame.left, frame.bottom()], "axis");
    for (row, (number, summary)) in found.iter().enumerate() {
        let spread = (column.spread)(summary);
        let middle = frame.top + row as f64 * ROW_HEIGHT + ROW_HEIGHT / 2.0;
        let corner = [frame.left, middle - BAR_HEIGHT / 2.0];
        let length = |value: f64| scale.place(value) * frame.width;
        let hint = format!(
            "{}, {}: {}, {} runs",
            summary.system,
            column.name,
            (column.label)(summary),
            summary.runs
        );
        let class = format!("{} fill", colour(*number));
        svg.shade(corner, [length(spread.median), BAR_HEIGHT], &class, 0.85, &hint);
        if column.name.starts_with("p99") {
            let half = [length(summary.p50_s.median), BAR_HEIGHT];
            let hint = format!("{}: p50 {}", summary.system, duration(summary.p50_s.median));
            svg.shade(corner, half, "paper", 0.45, &hint);
        }
        let [from, to] = [spread.min, spread.max].map(|value| frame.x(scale, value));
        svg.line([from, middle], [to, middle], "whisker");
        for run in comparison.runs_of(&summary.case, &summary.system) {
            let value = (column.value)(run);
            let hint = format!("round {} of {}", run.round, summary.system);
            svg.dot([frame.x(scale, value), middle], 2.0, "each", &hint);
        }
        let at = frame.x(scale, spread.max) + 7.0;
        svg.text([at, middle + 4.0], "", &(column.label)(summary));
    }
}
