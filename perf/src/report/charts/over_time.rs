//! Charts of throughput and latency over time, with events marked.

use crate::report::layout::{Frame, Legend, MARGIN, heading, simplified};
use crate::report::run::{Interval, Mark, Run};
use crate::report::scale::{Scale, amount, duration, seconds};
use crate::report::svg::{Svg, colour, text_width};

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 170.0;
const LEFT: f64 = 82.0;
/// Maximum number of lines of event descriptions above the upper plot. A description that does not
/// fit on these lines is shown only as a tooltip.
const MARK_LINES: usize = 4;
const MARK_LINE: f64 = 15.0;

/// Draws a chart of the throughput and latency of all runs over time. Returns `None` if no run has
/// recorded time intervals.
pub(crate) fn over_time(runs: &[&Run]) -> Option<Svg> {
    let runs: Vec<&Run> = runs.iter().copied().filter(|run| !run.intervals.is_empty()).collect();
    let end = runs.iter().map(|run| run.end_s()).reduce(f64::max)?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    let legend = Legend::new(&names, WIDTH - LEFT - MARGIN);
    let marks = marks(&runs);

    let x = Scale::between(0.0, end);
    let width = WIDTH - LEFT - MARGIN - 24.0;
    let flat = Frame { left: LEFT, top: 0.0, width, height: 0.0 };
    let places = place_texts(&marks, |at_s| flat.x(x, at_s), WIDTH - MARGIN);
    let lines = places.iter().filter_map(|place| place.as_ref()).map(|place| place.line + 1).max();
    let above = lines.map_or(0.0, |lines| lines as f64 * MARK_LINE + 4.0);
    let top = MARGIN + 48.0 + legend.height + above;
    let upper = Frame { left: LEFT, top, width, height: PLOT_HEIGHT };
    let lower = Frame { top: upper.bottom() + 22.0, ..upper };

    let mut svg =
        Svg::new("Throughput and latency over time", WIDTH, lower.bottom() + 46.0 + MARGIN);
    heading(&mut svg, "above: operations per second; below: p99, and median (dashed)");
    legend.draw(&mut svg, [LEFT, MARGIN + 46.0]);
    let intervals = || runs.iter().flat_map(|run| &run.intervals);
    let rates = Scale::from_zero(intervals().map(Interval::rate).fold(0.0, f64::max));
    let waits =
        Scale::log_around(intervals().flat_map(|interval| [interval.p50_s, interval.p99_s]));
    upper.left_axis(&mut svg, rates, "operations/s", amount);
    upper.lower_axis(&mut svg, x, "", |_| String::new());
    lower.left_axis(&mut svg, waits, "latency", duration);
    lower.lower_axis(&mut svg, x, "time since the run began", seconds);

    for (number, run) in runs.iter().enumerate() {
        let middle = |interval: &Interval| interval.at_s + interval.length_s / 2.0;
        let line = |frame: Frame, scale: Scale, value: fn(&Interval) -> f64| {
            let point = move |at: &Interval| [frame.x(x, middle(at)), frame.y(scale, value(at))];
            simplified(run.intervals.iter().map(point))
        };
        let hint = |what: &str| format!("{}: {what}", run.name);
        let answered = |interval: &&Interval| interval.count > 0;
        svg.begin_group("series", &run.name);
        let class = format!("{} line", colour(number));
        svg.polyline(&line(upper, rates, Interval::rate), &class, &hint("operations/s"));
        // Without replies there is no latency, so the line has a gap; a line across the gap would
        // show latencies that do not exist.
        for part in run.intervals.chunk_by(|a, b| answered(&a) == answered(&b)) {
            if !part.iter().any(|interval| interval.count > 0) {
                continue;
            }
            let points = |value: fn(&Interval) -> f64| {
                let point =
                    move |at: &Interval| [lower.x(x, middle(at)), lower.y(waits, value(at))];
                simplified(part.iter().map(point))
            };
            let p99 = points(|interval| interval.p99_s);
            if let [point] = p99[..] {
                svg.dot(point, 2.0, &format!("{} fill", colour(number)), &hint("p99"));
            }
            svg.polyline(&p99, &class, &hint("p99"));
            svg.polyline(
                &points(|interval| interval.p50_s),
                &format!("{class} thin"),
                &hint("median"),
            );
        }
        svg.end_group();
    }
    for (mark, place) in marks.iter().zip(&places) {
        let at = flat.x(x, mark.at_s);
        let text = &mark.text;
        svg.begin_group("mark", text);
        let from = place.as_ref().map_or(upper.top, |place| {
            let baseline = upper.top - 8.0 - place.line as f64 * MARK_LINE;
            svg.text([place.x, baseline], "marktext", text);
            baseline + 3.0
        });
        svg.line([at, from], [at, lower.bottom()], "mark");
        let hint = format!("{text} at {}", seconds(mark.at_s));
        svg.shade([at - 3.0, upper.top], [6.0, lower.bottom() - upper.top], "", 0.0, &hint);
        svg.end_group();
    }
    Some(svg)
}

/// Returns the events of all runs to be marked in a chart. An event that all runs share appears
/// once; the text of any other event is prefixed with the name of its run.
fn marks(runs: &[&Run]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for run in runs {
        for mark in &run.marks {
            let in_all = runs.iter().all(|other| other.marks.contains(mark));
            let text =
                if in_all { mark.text.clone() } else { format!("{}: {}", run.name, mark.text) };
            let mark = Mark { at_s: mark.at_s, text };
            if !marks.contains(&mark) {
                marks.push(mark);
            }
        }
    }
    marks
}

/// Position of an event's description above a plot: `x` in pixels, and the index of the text line.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Place {
    x: f64,
    /// Index of the text line; line 0 is next to the plot, and higher lines have higher indexes.
    line: usize,
}

/// Returns the position of each event's description: on the lowest text line where it does not
/// overlap another description; `None` if there is no such line. `x` converts seconds to pixels,
/// and `right` is the right edge of the plot in pixels.
fn place_texts(marks: &[Mark], x: impl Fn(f64) -> f64, right: f64) -> Vec<Option<Place>> {
    let mut taken: Vec<Vec<(f64, f64)>> = vec![Vec::new(); MARK_LINES];
    marks
        .iter()
        .map(|mark| {
            let width = text_width(&mark.text);
            let start = (x(mark.at_s) - 3.0).min(right - width).max(LEFT);
            let end = start + width + 8.0;
            let free =
                |line: &Vec<(f64, f64)>| line.iter().all(|(from, to)| end <= *from || start >= *to);
            let line = taken.iter().position(free).filter(|_| !mark.text.is_empty())?;
            taken[line].push((start, end));
            Some(Place { x: start, line })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_event_labels_never_overlap() {
        let texts = [(1.0, "leader killed"), (1.1, "leader killed"), (12.0, "healed"), (1.2, "x")];
        let marks = texts.map(|(at_s, text)| Mark { at_s, text: text.to_owned() });
        let places = place_texts(&marks, |at| LEFT + at * 10.0, 400.0);
        let lines: Vec<_> = places.iter().map(|place| place.unwrap().line).collect();
        assert_eq!(lines, [0, 1, 0, 2]);
        let crowded = Mark { at_s: 3.0, text: "the same again".to_owned() };
        let crowded = vec![crowded; 6];
        let places = place_texts(&crowded, |at| LEFT + at * 10.0, 400.0);
        assert_eq!(places.iter().flatten().count(), MARK_LINES);
    }
}
