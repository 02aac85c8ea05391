//! Sine, cosine and arcsine that are equal on every replica: those of the standard library come
//! from the system, and may differ in the last bit between versions and processors.
//!
//! They compute with pairs of floating-point numbers (Dekker, "A floating-point technique for
//! extending the available precision", 1971), and round once at the end. So the results are the
//! correctly rounded ones, except in about one of 2^40 cases, and nearly always those of glibc.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2};
use std::ops::{Add, Mul, Neg};
use std::sync::LazyLock;

/// The number pi/2 as the sum of three numbers, the largest first.
const HALF_PI: [f64; 3] = [FRAC_PI_2, 6.123_233_995_736_766e-17, -1.497_384_904_859_169_8e-33];

/// Number of terms of the series of sine and cosine together, enough for 110 bits up to pi/4.
const TERMS: usize = 29;

/// The reciprocals of the factorials of 0, 1, 2 and so on.
static RECIPROCALS: LazyLock<[Pair; TERMS]> = LazyLock::new(|| {
    let mut reciprocals = [Pair::of(1.0); TERMS];
    for number in 1..TERMS {
        reciprocals[number] = reciprocals[number - 1].over(number as f64);
    }
    reciprocals
});

/// A number as the sum of two: `low` is at most half a unit in the last place of `high`.
#[derive(Debug, Clone, Copy)]
struct Pair {
    high: f64,
    low: f64,
}

impl Pair {
    const fn of(number: f64) -> Pair {
        Pair { high: number, low: 0.0 }
    }

    /// Returns the exact sum of two numbers.
    fn sum(one: f64, other: f64) -> Pair {
        let high = one + other;
        let part = high - one;
        Pair { high, low: (one - (high - part)) + (other - part) }
    }

    /// Returns the exact product of two numbers.
    fn product(one: f64, other: f64) -> Pair {
        let high = one * other;
        Pair { high, low: one.mul_add(other, -high) }
    }

    fn over(self, divisor: f64) -> Pair {
        let high = self.high / divisor;
        let product = Pair::product(high, divisor);
        let rest = ((self.high - product.high) - product.low) + self.low;
        Pair::sum(high, rest / divisor)
    }

    /// Returns the nearest floating-point number.
    fn rounded(self) -> f64 {
        self.high + self.low
    }
}

impl Add for Pair {
    type Output = Pair;

    fn add(self, other: Pair) -> Pair {
        let (high, low) = (Pair::sum(self.high, other.high), Pair::sum(self.low, other.low));
        let sum = Pair::sum(high.high, high.low + low.high);
        Pair::sum(sum.high, sum.low + low.low)
    }
}

impl Mul for Pair {
    type Output = Pair;

    fn mul(self, other: Pair) -> Pair {
        let product = Pair::product(self.high, other.high);
        Pair::sum(product.high, product.low + (self.high * other.low + self.low * other.high))
    }
}

impl Neg for Pair {
    type Output = Pair;

    fn neg(self) -> Pair {
        Pair { high: -self.high, low: -self.low }
    }
}

/// Returns the sine of an angle in radians, whose absolute value must be below 10^6.
pub(in crate::kv) fn sine(angle: f64) -> f64 {
    let (quarter, rest) = reduced(angle);
    let sine = match quarter {
        0 => sine_of(rest),
        1 => cosine_of(rest),
        2 => -sine_of(rest),
        _ => -cosine_of(rest),
    };
    sine.rounded()
}

/// Returns the cosine of an angle in radians, whose absolute value must be below 10^6.
pub(in crate::kv) fn cosine(angle: f64) -> f64 {
    let (quarter, rest) = reduced(angle);
    let cosine = match quarter {
        0 => cosine_of(rest),
        1 => -sine_of(rest),
        2 => -cosine_of(rest),
        _ => sine_of(rest),
    };
    cosine.rounded()
}

/// Returns the arcsine of a number from 0 to 1, in radians.
pub(in crate::kv) fn arcsine(sine: f64) -> f64 {
    assert!((0.0..=1.0).contains(&sine), "arcsine of {sine}");
    if sine <= FRAC_1_SQRT_2 {
        return arcsine_of(Pair::of(sine)).rounded();
    }
    // arcsin x = pi/2 - 2 arcsin sqrt((1 - x) / 2), because the slope at 1 is infinite. The
    // difference is exact, and the root gets a second part by one step of Newton's method.
    let half = (1.0 - sine) / 2.0;
    let root = half.sqrt();
    let square = Pair::product(root, root);
    let rest = (half - square.high) - square.low;
    let root = if root > 0.0 { Pair::sum(root, rest / (2.0 * root)) } else { Pair::of(0.0) };
    let arc = arcsine_of(root);
    let half_pi = Pair { high: HALF_PI[0], low: HALF_PI[1] };
    (half_pi + -(arc + arc)).rounded()
}

/// Splits an angle into a multiple of pi/2, of which the remainder modulo 4 is returned, and a rest
/// of at most pi/4.
fn reduced(angle: f64) -> (i64, Pair) {
    assert!(angle.abs() < 1e6, "the angle {angle} is too large");
    let count = (angle / FRAC_PI_2).round();
    let rest = Pair::of(angle)
        + -Pair::product(count, HALF_PI[0])
        + -Pair::product(count, HALF_PI[1])
        + Pair::of(-count * HALF_PI[2]);
    #[allow(clippy::cast_possible_truncation, reason = "it is below 10^6")]
    let count = count as i64;
    (count.rem_euclid(4), rest)
}

/// Returns the sine of an angle of at most pi/4, by its Taylor series.
fn sine_of(angle: Pair) -> Pair {
    series(angle, 1) * angle
}

/// Returns the cosine of an angle of at most pi/4, by its Taylor series.
fn cosine_of(angle: Pair) -> Pair {
    series(angle, 0)
}

/// Returns the Taylor series whose terms are every other power of the angle, from the power `first`
/// on, divided by that power.
fn series(angle: Pair, first: usize) -> Pair {
    let square = -(angle * angle);
    let reciprocals = RECIPROCALS[first..].iter().step_by(2).rev();
    reciprocals.fold(Pair::of(0.0), |sum, reciprocal| sum * square + *reciprocal)
}

/// Returns the arcsine of a number of at most sqrt(1/2).
fn arcsine_of(sine: Pair) -> Pair {
    let (number, square) = (sine.high, sine.high * sine.high);
    let mut arc = number * (1.0 + square * (1.0 / 6.0 + square * (3.0 / 40.0)));
    // Each step of Newton's method doubles the number of correct bits, which are at least 5.
    for _ in 0..4 {
        arc -= (plain_series(arc, 1) * arc - number) / plain_series(arc, 0);
    }
    let rest = sine + -sine_of(Pair::of(arc));
    Pair::sum(arc, rest.rounded() / plain_series(arc, 0))
}

/// Returns [`series`] in the precision of a single floating-point number.
fn plain_series(angle: f64, first: usize) -> f64 {
    let square = -(angle * angle);
    let reciprocals = RECIPROCALS[first..].iter().step_by(2).take(9).rev();
    reciprocals.fold(0.0, |sum, reciprocal| sum * square + reciprocal.high)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{FRAC_PI_6, PI};

    use super::*;

    /// Returns the distance between two numbers of the same sign, in units in the last place.
    fn distance(one: f64, other: f64) -> u64 {
        one.to_bits().abs_diff(other.to_bits())
    }

    #[test]
    fn trigonometric_functions_agree_with_those_of_the_system() {
        let (mut differences, mut count) = (0, 0);
        let mut check = |ours: f64, system: f64, of: f64| {
            assert!(distance(ours, system) <= 1, "{of}: {ours} {system}");
            differences += u32::from(ours.to_bits() != system.to_bits());
            count += 1;
        };
        let mut angle = 1e-9;
        while angle < 500.0 {
            check(sine(angle), angle.sin(), angle);
            check(cosine(-angle), (-angle).cos(), angle);
            angle *= 1.000_37;
        }
        let mut number = 1e-9;
        while number < 1.0 {
            check(arcsine(number), f64::asin(number), number);
            check(arcsine(1.0 - number), f64::asin(1.0 - number), 1.0 - number);
            number *= 1.000_37;
        }
        // The functions of the system are not always rounded correctly.
        assert!(differences < count / 500, "{differences} of {count}");
    }

    #[test]
    fn trigonometric_functions_are_rounded_correctly() {
        // The sine of the number that is nearest to pi is the rest of pi.
        let rest_of_pi = 1.224_646_799_147_353_2e-16_f64;
        for (found, wanted) in [
            (sine(0.0), 0.0_f64),
            (cosine(0.0), 1.0),
            (arcsine(0.0), 0.0),
            (arcsine(1.0), FRAC_PI_2),
            (arcsine(0.5), FRAC_PI_6),
            (sine(PI), rest_of_pi),
            (cosine(FRAC_PI_2), rest_of_pi / 2.0),
            (sine(1.0), 0.841_470_984_807_896_5),
            (sine(-1.0), -0.841_470_984_807_896_5),
            (cosine(2.2), -0.588_501_117_255_345_8),
        ] {
            assert_eq!(found.to_bits(), wanted.to_bits(), "{found} {wanted}");
        }
    }
}
