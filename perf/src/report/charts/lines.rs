//! Line charts of sweeps, with a line for each system. The line shows medians over the rounds, and
//! a band around it shows the range.

use crate::compare::results::{Case, Comparison, Spread, Summary, SweepPoint};
use crate::report::layout::{Frame, Legend, MARGIN, heading};
use crate::report::scale::{Scale, amount, duration};
use crate::report::svg::{Svg, colour};

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 190.0;
const LEFT: f64 = 82.0;
/// Ratio of a sweep's largest to its smallest parameter value above which the axis of the parameter
/// is logarithmic.
const RATIO_FOR_LOG: f64 = 30.0;

/// Function that selects the quantity that a chart shows, such as operations per second, from the
/// summary of a system's runs of a case.
type Figure = fn(&Summary) -> Spread;

/// Draws one line chart for each sweep (a series of cases that differ in one parameter) that has
/// results.
pub(crate) fn lines(comparison: &Comparison) -> Vec<Svg> {
    let mut sweeps: Vec<&str> = Vec::new();
    for sweep in comparison.cases.iter().filter_map(|case| case.sweep.as_ref()) {
        if !sweeps.contains(&sweep.name.as_str()) {
            sweeps.push(&sweep.name);
        }
    }
    sweeps.into_iter().filter_map(|name| draw(comparison, name)).collect()
}

fn draw(comparison: &Comparison, name: &str) -> Option<Svg> {
    let of_row = |case: &'_ &Case| case.sweep.as_ref().is_some_and(|sweep| sweep.name == name);
    let cases: Vec<&Case> = comparison.cases.iter().filter(of_row).collect();
    let sweep =
        |case: &Case| -> SweepPoint { case.sweep.clone().expect("all of the name have one") };
    let axis = sweep(cases.first()?).axis;
    let systems: Vec<(String, Vec<(f64, &Summary)>)> = comparison
        .systems
        .iter()
        .map(|system| {
            let points = cases.iter().filter_map(|case| {
                Some((sweep(case).value, comparison.find(&case.name, &system.name)?))
            });
            (system.name.clone(), points.collect::<Vec<_>>())
        })
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let all = || systems.iter().flat_map(|(_, points)| points);
    let values = || all().map(|(value, _)| *value);
    let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let logarithmic = least > 0.0 && most / least > RATIO_FOR_LOG;
    let x = if logarithmic {
        Scale::log_around(values())
    } else {
        Scale::between(least.min(0.0), most)
    };

    let names: Vec<String> = systems.iter().map(|(name, _)| name.clone()).collect();
    let legend = Legend::new(&names, WIDTH - LEFT - MARGIN);
    let top = MARGIN + 48.0 + legend.height;
    let width = WIDTH - LEFT - MARGIN - 24.0;
    let upper = Frame { left: LEFT, top, width, height: PLOT_HEIGHT };
    let lower = Frame { top: upper.bottom() + 22.0, ..upper };
    let title = format!("{}: {name}", comparison.name);
    let mut svg = Svg::new(&title, WIDTH, lower.bottom() + 46.0 + MARGIN);
    heading(
        &mut svg,
        "medians over the rounds, bands show the range; below: p99, and p50 (dashed)",
    );
    legend.draw(&mut svg, [LEFT, MARGIN + 46.0]);
    let spreads = || all().map(|(_, summary)| summary);
    let rates = Scale::log_around(spreads().flat_map(|found| [found.rate.min, found.rate.max]));
    let waits = Scale::log_around(spreads().flat_map(|found| [found.p50_s.min, found.p99_s.max]));
    upper.left_axis(&mut svg, rates, "operations/s", amount);
    upper.lower_axis(&mut svg, x, "", |_| String::new());
    lower.left_axis(&mut svg, waits, "latency", duration);
    lower.lower_axis(&mut svg, x, &axis, amount);

    for (name, points) in &systems {
        let series = names.iter().position(|other| other == name)?;
        svg.begin_group("series", name);
        let class = colour(series);
        let shown: [(Frame, Scale, Figure, &str); 3] = [
            (upper, rates, |found| found.rate, "line"),
            (lower, waits, |found| found.p99_s, "line"),
            (lower, waits, |found| found.p50_s, "line thin"),
        ];
        for (frame, scale, spread, style) in shown {
            let at = |value: fn(Spread) -> f64| {
                let point = move |(sweep, found): &(f64, &Summary)| {
                    [frame.x(x, *sweep), frame.y(scale, value(spread(found)))]
                };
                points.iter().map(point)
            };
            let band: Vec<_> = at(|s| s.min).chain(at(|s| s.max).rev()).collect();
            svg.polygon(&band, &format!("{class} band"));
            let median: Vec<_> = at(|s| s.median).collect();
            svg.polyline(&median, &format!("{class} {style}"), name);
        }
        for (value, found) in points {
            let hint = format!(
                "{name} at {}: {}/s, p50 {}, p99 {}",
                amount(*value),
                amount(found.rate.median),
                duration(found.p50_s.median),
                duration(found.p99_s.median)
            );
            let class = format!("{class} fill");
            let dot = [upper.x(x, *value), upper.y(rates, found.rate.median)];
            svg.dot(dot, 3.5, &class, &hint);
            let dot = [lower.x(x, *value), lower.y(waits, found.p99_s.median)];
            svg.dot(dot, 3.5, &class, &hint);
        }
        svg.end_group();
    }
    Some(svg)
}
