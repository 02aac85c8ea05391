//! Scales, which map values to positions on an axis, with their grid lines; and the formatting of
//! numbers and durations.

/// Scale of a chart's axis: maps values to positions from 0 (start of the axis) to 1 (end of the
/// axis).
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Scale {
    /// A linear scale.
    Linear {
        /// Value at the start of the axis.
        low: f64,
        /// Value at the end of the axis.
        high: f64,
    },
    /// A logarithmic scale, on which `low` and `high` are greater than 0.
    Log {
        /// Value at the start of the axis.
        low: f64,
        /// Value at the end of the axis.
        high: f64,
    },
    /// A scale of quantiles from 0, on which 90 %, 99 %, 99.9 % and so on are equally spaced.
    Nines {
        /// Quantile at the end of the axis, as a number of nines: 2 is 99 %, 3 is 99.9 %.
        nines: f64,
    },
}

/// A grid line of an axis, at the position `place` from 0 (start of the axis) to 1 (end). Only
/// major grid lines have a label.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tick {
    pub(crate) place: f64,
    pub(crate) label: Option<String>,
}

/// Approximate number of labels on a linear axis.
const LABEL_COUNT: f64 = 6.0;
/// Maximum number of powers of ten on a logarithmic axis that has labels at 2 and 5 times each
/// power of ten. A longer axis has labels only at powers of ten.
const DECADES_IN_DETAIL: f64 = 2.2;

impl Scale {
    /// Returns a linear scale from 0 to a round number that is at least `high`.
    pub(crate) fn from_zero(high: f64) -> Scale {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let step = round_step(high / LABEL_COUNT);
        Scale::Linear { low: 0.0, high: (high / step).ceil() * step }
    }

    /// Returns a linear scale from `low` to `high`, or from `low` to `low + 1` if `high` is not
    /// greater than `low`.
    pub(crate) fn between(low: f64, high: f64) -> Scale {
        Scale::Linear { low, high: if high > low { high } else { low + 1.0 } }
    }

    /// Returns a logarithmic scale that begins and ends at round numbers and contains all positive
    /// numbers in `values`.
    pub(crate) fn log_around(values: impl IntoIterator<Item = f64>) -> Scale {
        let usable = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = usable
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if high == 0.0 {
            return Scale::Log { low: 1e-3, high: 1.0 };
        }
        let (low, high) = (round_below(low), round_above(high));
        Scale::Log { low, high: if high > low { high } else { round_above(low * 1.5) } }
    }

    /// Returns a scale of quantiles for a distribution of `samples` samples, or of 5 if there are
    /// fewer. The scale ends half a sample below 100 %.
    pub(crate) fn nines(samples: u64) -> Scale {
        Scale::Nines { nines: (2.0 * samples.max(5) as f64).log10() }
    }

    /// Returns the position of a value on the axis, from 0 to 1. Values outside the scale are
    /// placed at the nearer end of the axis.
    pub(crate) fn place(self, value: f64) -> f64 {
        let place = match self {
            Scale::Linear { low, high } => (value - low) / (high - low),
            Scale::Log { low, high } => (value.max(low) / low).ln() / (high / low).ln(),
            Scale::Nines { nines } => -(1.0 - value.min(1.0)).log10() / nines,
        };
        place.clamp(0.0, 1.0)
    }

    /// Returns the grid lines for this scale; `label` formats the label of a value.
    pub(crate) fn ticks(self, label: impl Fn(f64) -> String) -> Vec<Tick> {
        let tick = |value: f64, labelled: bool| Tick {
            place: self.place(value),
            label: labelled.then(|| label(value)),
        };
        match self {
            Scale::Linear { low, high } => {
                let step = round_step((high - low) / LABEL_COUNT);
                let first = (low / step - 1e-9).ceil();
                let count = ((high - first * step) / step + 1e-9).floor();
                whole(count).map(|number| tick((first + number) * step, true)).collect()
            }
            Scale::Log { low, high } => {
                let decades = (high / low).log10();
                let first = low.log10().floor();
                let values = whole(decades.ceil() + 1.0).flat_map(|decade| {
                    (1..10).map(move |digit| (digit, f64::from(digit) * ten_to(first + decade)))
                });
                let inside = values.filter(|(_, value)| {
                    *value >= low * (1.0 - 1e-9) && *value <= high * (1.0 + 1e-9)
                });
                let main = |digit: i32| {
                    digit == 1 || decades <= DECADES_IN_DETAIL && (digit == 2 || digit == 5)
                };
                inside.map(|(digit, value)| tick(value, main(digit))).collect()
            }
            Scale::Nines { nines } => {
                let half = std::iter::once(0.5);
                let quantiles = half.chain(whole(nines.floor()).map(|nine| 1.0 - ten_to(-nine)));
                let mut ticks: Vec<Tick> = quantiles.map(|quantile| tick(quantile, true)).collect();
                ticks.sort_by(|a, b| a.place.total_cmp(&b.place));
                ticks
            }
        }
    }
}

/// Returns the integers 0, 1, 2, ... up to `last`, at most 1,000 of them, as floating-point
/// numbers.
fn whole(last: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(0.0), |number| Some(number + 1.0))
        .take_while(move |number| *number <= last)
        .take(1_000)
}

fn ten_to(exponent: f64) -> f64 {
    10_f64.powf(exponent)
}

/// Returns a round distance between grid lines: the smallest number of the form 1, 2 or 5 times a
/// power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    round_above(least)
}

fn round_above(value: f64) -> f64 {
    let power = ten_to(value.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= value * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

fn round_below(value: f64) -> f64 {
    let power = ten_to(value.log10().floor());
    let digit = [5.0, 2.0].into_iter().find(|digit| digit * power <= value * (1.0 + 1e-9));
    digit.unwrap_or(1.0) * power
}

/// Rounds to the nearest integer that fits in a `usize`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast stays within the type's ends, which is what is wanted"
)]
pub(crate) fn to_count(value: f64) -> usize {
    value.round() as usize
}

/// Formats a number with three significant digits, without trailing zeros after the decimal point.
fn three_digits(value: f64) -> String {
    let places: usize = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Formats a number with three significant digits and a metric prefix: `950`, `12.5 k`, `1.2 M`.
pub(crate) fn amount(value: f64) -> String {
    match value.abs() {
        size if size >= 999_500.0 => format!("{} M", three_digits(value / 1e6)),
        size if size >= 9_995.0 => format!("{} k", three_digits(value / 1e3)),
        _ => three_digits(value),
    }
}

/// Formats a duration given in seconds: `80 µs`, `1.25 ms`, `3 s`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds.abs() {
        0.0 => "0".to_owned(),
        size if size >= 0.9995 => format!("{} s", three_digits(seconds)),
        size if size >= 0.000_999_5 => format!("{} ms", three_digits(seconds * 1e3)),
        _ => format!("{} µs", three_digits(seconds * 1e6)),
    }
}

/// Formats a time in seconds as the label of a time axis, such as `2.5 s`.
pub(crate) fn seconds(seconds: f64) -> String {
    format!("{} s", three_digits(seconds))
}

/// Formats a quantile from 0 to 1 as a percentage: `50 %`, `99.9 %`.
pub(crate) fn percent(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn chart_scales_map_values_to_axis_positions() {
        let linear = Scale::from_zero(93.0);
        assert_eq!(linear, Scale::Linear { low: 0.0, high: 100.0 });
        near(linear.place(25.0), 0.25);
        near(linear.place(-1.0), 0.0);
        near(linear.place(1e9), 1.0);
        let log = Scale::Log { low: 0.001, high: 10.0 };
        near(log.place(0.1), 0.5);
        near(log.place(0.0), 0.0);
        let nines = Scale::Nines { nines: 4.0 };
        near(nines.place(0.0), 0.0);
        near(nines.place(0.9), 0.25);
        near(nines.place(0.999), 0.75);
        near(nines.place(1.0), 1.0);
    }

    #[test]
    fn chart_scale_is_valid_for_empty_or_single_value_data() {
        for high in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Scale::from_zero(high), Scale::from_zero(1.0), "{high}");
        }
        let scales = [
            Scale::log_around([]),
            Scale::log_around([0.0, f64::NAN]),
            Scale::log_around([0.2]),
            Scale::between(3.0, 3.0),
            Scale::nines(0),
        ];
        for scale in scales {
            let ticks = scale.ticks(amount);
            assert!((2..100).contains(&ticks.len()), "{scale:?} {ticks:?}");
            assert!(ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.place)), "{scale:?}");
        }
    }

    fn labels(scale: Scale, label: impl Fn(f64) -> String) -> Vec<String> {
        scale.ticks(label).into_iter().filter_map(|tick| tick.label).collect()
    }

    #[test]
    fn chart_axis_ticks_are_round_numbers() {
        assert_eq!(labels(Scale::from_zero(93.0), amount), ["0", "20", "40", "60", "80", "100"]);
        let close = Scale::log_around([0.000_31, 0.004]);
        assert_eq!(labels(close, duration), ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        let wide = Scale::log_around([0.000_1, 1.0]);
        assert_eq!(labels(wide, duration), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        let nines = Scale::nines(5_000);
        assert_eq!(labels(nines, percent), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn chart_numbers_are_formatted_with_three_significant_digits() {
        let amounts = [0.0, 0.033, 7.5, 999.0, 9_990.0, 22_600.0, 161_000.0, 1_250_000.0];
        let texts = ["0", "0.033", "7.5", "999", "9990", "22.6 k", "161 k", "1.25 M"];
        assert_eq!(amounts.map(amount), texts);
        let times = [0.0, 0.000_08, 0.001, 0.0123, 0.5, 3.0];
        assert_eq!(times.map(duration), ["0", "80 µs", "1 ms", "12.3 ms", "500 ms", "3 s"]);
    }
}
