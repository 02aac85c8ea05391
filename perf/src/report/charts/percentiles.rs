//! Charts of latency by percentile. Each further nine of the percentile (90 %, 99 %, 99.9 %) takes
//! the same width, so that the slowest operations are visible.

use crate::report::layout::{Frame, Legend, MARGIN, heading, simplified};
use crate::report::run::{Curve, Run};
use crate::report::scale::{Scale, duration, percent};
use crate::report::svg::{Svg, colour};

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 320.0;
const LEFT: f64 = 82.0;

/// Draws a chart of latency by percentile: a curve for each run, or, for a single run, a curve for
/// each kind of operation. Returns `None` if there are no latencies to draw.
pub(crate) fn percentiles(runs: &[&Run]) -> Option<Svg> {
    let series: Vec<(String, &Curve)> = match runs {
        [run] if run.curves.len() > 1 => {
            run.curves.iter().map(|curve| (curve.kind.clone(), curve)).collect()
        }
        _ => runs.iter().filter_map(|run| Some((run.name.clone(), run.all()?))).collect(),
    };
    let series: Vec<_> = series.into_iter().filter(|(_, curve)| !curve.points.is_empty()).collect();
    let samples = series.iter().map(|(_, curve)| curve.samples).max()?;
    let names: Vec<String> = series
        .iter()
        .map(|(name, curve)| format!("{name}: p99 {}", duration(curve.at(0.99).unwrap_or(0.0))))
        .collect();
    let legend = Legend::new(&names, WIDTH - LEFT - MARGIN);
    let top = MARGIN + 48.0 + legend.height;
    let mut svg = Svg::new("Latency by percentile", WIDTH, top + PLOT_HEIGHT + 46.0 + MARGIN);
    let of = match runs {
        [run] => format!("{}, {} operations", run.name, samples),
        _ => format!("{} runs, up to {samples} operations each", series.len()),
    };
    heading(&mut svg, &format!("{of}; both axes logarithmic, lower is better"));
    legend.draw(&mut svg, [LEFT, MARGIN + 46.0]);

    let x = Scale::nines(samples);
    let seconds = series.iter().flat_map(|(_, curve)| curve.points.iter().map(|point| point.1));
    let y = Scale::log_around(seconds);
    let frame = Frame { left: LEFT, top, width: WIDTH - LEFT - MARGIN - 24.0, height: PLOT_HEIGHT };
    frame.left_axis(&mut svg, y, "latency", duration);
    frame.lower_axis(&mut svg, x, "percentile", percent);
    for (number, (name, curve)) in series.iter().enumerate() {
        // Each curve ends at its own number of samples, half a sample before 100 %.
        let end = 1.0 - 0.5 / curve.samples.max(1) as f64;
        let first = curve.points.first().map(|point| (0.0, point.1));
        let points = first.into_iter().chain(curve.points.iter().copied());
        let points =
            points.map(|(quantile, seconds)| [frame.x(x, quantile.min(end)), frame.y(y, seconds)]);
        svg.begin_group("series", name);
        let hint = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(|quantile| {
            let value = curve.at(quantile).map_or_else(|| "?".to_owned(), duration);
            format!("{}: {value}", percent(quantile))
        });
        let hint = format!("{name}\n{}", hint.join("\n"));
        svg.polyline(&simplified(points), &format!("{} line", colour(number)), &hint);
        for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999] {
            if let Some(value) = curve.at(quantile).filter(|_| quantile < end) {
                let hint = format!("{name}: {} at most {}", percent(quantile), duration(value));
                let point = [frame.x(x, quantile), frame.y(y, value)];
                svg.dot(point, 3.0, &format!("{} fill", colour(number)), &hint);
            }
        }
        svg.end_group();
    }
    Some(svg)
}
