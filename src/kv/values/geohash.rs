//! Positions on the Earth as geohashes of 52 bits, as Redis stores them in the scores of sorted
//! sets, distances between positions, and the cells of the grid that cover an area.
//!
//! A geohash divides the ranges of longitude and latitude in half again and again, and interleaves
//! the resulting bits (Niemeyer, 2008). As in Redis, the latitude ends at that of a square map in
//! Web Mercator projection, and distances are those on a sphere, by the haversine formula.

use std::f64::consts::PI;
use std::ops::Range;

use super::trigonometry::{arcsine, cosine, sine};

/// Maximum latitude, in degrees.
const LATITUDE_MAX: f64 = 85.051_128_78;
/// Maximum longitude, in degrees.
const LONGITUDE_MAX: f64 = 180.0;
/// Number of bits of each coordinate in a score.
const STEPS_MAX: u32 = 26;
/// Radius of the sphere, in meters.
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// Half of the Earth's circumference at the equator, in meters.
const MERCATOR_MAX: f64 = 20_037_726.37;
/// The digits of a geohash as text.
const DIGITS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

/// A position on the Earth, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::kv) struct Position {
    pub(in crate::kv) longitude: f64,
    pub(in crate::kv) latitude: f64,
}

/// A cell of the grid that divides the map into `2^steps` rows and columns, counted from the south
/// and the west. A position at the upper end of a range is in a row or column behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    row: u32,
    column: u32,
    steps: u32,
}

/// A rectangle on the map: its south-western and its north-eastern corner.
#[derive(Debug, Clone, Copy)]
struct Area {
    least: Position,
    greatest: Position,
}

/// The shape of an area around a position.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum Shape {
    /// A circle with this radius.
    Circle(f64),
    /// A rectangle with this width and height.
    Rectangle(f64, f64),
}

/// An area around a position, in which positions are searched.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) struct SearchArea {
    pub(in crate::kv) center: Position,
    pub(in crate::kv) shape: Shape,
    /// The unit of the lengths of the shape, in meters.
    pub(in crate::kv) unit: f64,
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

/// Returns the bits of a number at the even positions of another.
fn spread(bits: u32) -> u64 {
    (0..u32::BITS).fold(0, |all, bit| all | u64::from(bits >> bit & 1) << (2 * bit))
}

/// Reverses [`spread`]. Ignores the bits at the odd positions.
fn gathered(bits: u64) -> u32 {
    let bit_at = |bit: u32| u32::from(bits >> (2 * bit) & 1 == 1) << bit;
    (0..u32::BITS).fold(0, |all, bit| all | bit_at(bit))
}

/// Converts a score to an integer like Redis on x86-64, where a score that is no geohash may be
/// negative or too large.
#[allow(clippy::cast_possible_truncation, reason = "the range is checked")]
fn integer_of(score: f64) -> u64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let signed = |number: f64| {
        if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }.cast_unsigned()
    };
    if score < LIMIT { signed(score) } else { signed(score - LIMIT) ^ 1 << 63 }
}

impl Position {
    /// Returns whether the position is on the map.
    pub(in crate::kv) fn is_on_map(self) -> bool {
        self.longitude.abs() <= LONGITUDE_MAX && self.latitude.abs() <= LATITUDE_MAX
    }

    /// Returns the score for the position, which must be on the map.
    pub(in crate::kv) fn score(self) -> u64 {
        Cell::at(self, STEPS_MAX, LATITUDE_MAX).bits()
    }

    /// Returns the position for a score, which is on the map even if the score is no geohash.
    pub(in crate::kv) fn of_score(score: f64) -> Position {
        Cell::of_bits(integer_of(score), STEPS_MAX).area().center()
    }

    /// Returns the standard geohash of the position, which must be on the map, as text.
    pub(in crate::kv) fn text(self) -> String {
        let bits = Cell::at(self, STEPS_MAX, 90.0).bits();
        // As in Redis, the last of 11 digits is always 0, because there are only 52 bits.
        let digit = |at: u32| if at == 10 { 0 } else { bits >> (47 - 5 * at) & 31 };
        let digits = (0..11).map(|at| usize::try_from(digit(at)).expect("it has 5 bits"));
        digits.map(|digit| char::from(DIGITS[digit])).collect()
    }

    /// Returns the distance to another position, in meters.
    pub(in crate::kv) fn distance(self, other: Position) -> f64 {
        let [from, to] = [self.longitude, other.longitude].map(radians);
        let across = sine((to - from) / 2.0);
        if across == 0.0 {
            return self.latitude_distance(other);
        }
        let [from, to] = [self.latitude, other.latitude].map(radians);
        let along = sine((to - from) / 2.0);
        let square = along * along + cosine(from) * cosine(to) * across * across;
        // By rounding, the square may be slightly more than 1.
        2.0 * EARTH_RADIUS * arcsine(square.sqrt().min(1.0))
    }

    /// Returns the distance in meters to the circle of latitude of another position.
    fn latitude_distance(self, other: Position) -> f64 {
        EARTH_RADIUS * (radians(other.latitude) - radians(self.latitude)).abs()
    }
}

impl Area {
    fn center(self) -> Position {
        let longitude = self.least.longitude.midpoint(self.greatest.longitude);
        let latitude = self.least.latitude.midpoint(self.greatest.latitude);
        // The cell of a score that is no geohash may be off the map.
        Position {
            longitude: longitude.clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
            latitude: latitude.clamp(-LATITUDE_MAX, LATITUDE_MAX),
        }
    }
}

impl Cell {
    /// Returns the cell of a position, which must be on the map, if the map ends at the latitude
    /// `latitude_max`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^26")]
    fn at(position: Position, steps: u32, latitude_max: f64) -> Cell {
        assert!(position.is_on_map(), "{position:?}");
        let count = f64::from(1_u32 << steps);
        let part = |number: f64, max: f64| ((number + max) / (max + max) * count) as u32;
        Cell {
            row: part(position.latitude, latitude_max),
            column: part(position.longitude, LONGITUDE_MAX),
            steps,
        }
    }

    fn of_bits(bits: u64, steps: u32) -> Cell {
        Cell { row: gathered(bits), column: gathered(bits >> 1), steps }
    }

    /// Returns the interleaved bits of the row and the column.
    fn bits(self) -> u64 {
        spread(self.row) | spread(self.column) << 1
    }

    fn area(self) -> Area {
        let count = f64::from(1_u32 << self.steps);
        let corner = |row: u32, column: u32| Position {
            longitude: f64::from(column) / count * (LONGITUDE_MAX + LONGITUDE_MAX) - LONGITUDE_MAX,
            latitude: f64::from(row) / count * (LATITUDE_MAX + LATITUDE_MAX) - LATITUDE_MAX,
        };
        Area {
            least: corner(self.row, self.column),
            greatest: corner(self.row.wrapping_add(1), self.column.wrapping_add(1)),
        }
    }

    /// Returns the cell `north` rows to the north and `east` columns to the east, each from -1 to
    /// 1. The map continues at its other end.
    fn neighbor(self, north: i32, east: i32) -> Cell {
        let moved = |number: u32, by: i32| match by {
            0 => number,
            by => number.wrapping_add_signed(by) & ((1 << self.steps) - 1),
        };
        Cell { row: moved(self.row, north), column: moved(self.column, east), ..self }
    }

    /// Returns the scores of the positions in the cell.
    fn scores(self) -> Range<f64> {
        let shift = 2 * (STEPS_MAX - self.steps);
        (self.bits() << shift) as f64..((self.bits() + 1) << shift) as f64
    }
}

impl SearchArea {
    /// Returns the distance of a position from the center in meters if it is in the area; otherwise
    /// `None`.
    pub(in crate::kv) fn distance_within(&self, position: Position) -> Option<f64> {
        let along = self.center.latitude_distance(position);
        match self.shape {
            Shape::Circle(radius) => {
                let radius = radius * self.unit;
                // Cheaper than the distance, which is at least this one, apart from rounding.
                if along > radius * (1.0 + 1e-9) + 1e-3 {
                    return None;
                }
                Some(self.center.distance(position)).filter(|distance| *distance <= radius)
            }
            Shape::Rectangle(width, height) => {
                if along > height * self.unit / 2.0 {
                    return None;
                }
                let beside = Position { longitude: self.center.longitude, ..position };
                let is_within = position.distance(beside) <= width * self.unit / 2.0;
                is_within.then(|| self.center.distance(position))
            }
        }
    }

    /// Returns the ranges of scores that contain all positions in the area, and others nearby, in
    /// the order in which Redis searches them.
    pub(in crate::kv) fn ranges_of_scores(&self) -> Vec<Range<f64>> {
        let mut cells: Vec<Cell> = Vec::with_capacity(9);
        for cell in self.cells() {
            // In a coarse grid, neighbors at opposite sides are the same cell.
            if cells.get(1..).and_then(<[Cell]>::last) != Some(&cell) {
                cells.push(cell);
            }
        }
        cells.into_iter().map(Cell::scores).collect()
    }

    /// Returns the cell of the center and those of its neighbors that the area may touch.
    fn cells(&self) -> Vec<Cell> {
        let (mut steps, mut bounds) = (self.steps(), None);
        let mut cell = Cell::at(self.center, steps, LATITUDE_MAX);
        if steps > 1 {
            let Area { least, greatest } = self.bounds();
            let is_exceeded = cell.neighbor(1, 0).area().greatest.latitude < greatest.latitude
                || cell.neighbor(-1, 0).area().least.latitude > least.latitude
                || cell.neighbor(0, 1).area().greatest.longitude < greatest.longitude
                || cell.neighbor(0, -1).area().least.longitude > least.longitude;
            steps -= u32::from(is_exceeded);
            cell = Cell::at(self.center, steps, LATITUDE_MAX);
            bounds = Some(Area { least, greatest }).filter(|_| steps > 1);
        }
        let area = cell.area();
        let is_needed = |(north, east): &(i32, i32)| {
            let Some(Area { least, greatest }) = bounds else { return true };
            !(*north < 0 && area.least.latitude < least.latitude
                || *north > 0 && area.greatest.latitude > greatest.latitude
                || *east < 0 && area.least.longitude < least.longitude
                || *east > 0 && area.greatest.longitude > greatest.longitude)
        };
        let moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)];
        let moves = moves.into_iter().filter(is_needed);
        moves.map(|(north, east)| cell.neighbor(north, east)).collect()
    }

    /// Returns how often the map is divided so that a cell and its neighbors cover the area, apart
    /// from special cases near the edges of the cell.
    fn steps(&self) -> u32 {
        let mut radius = self.unit
            * match self.shape {
                Shape::Circle(radius) => radius,
                Shape::Rectangle(width, height) => {
                    let (width, height) = (width / 2.0, height / 2.0);
                    (width * width + height * height).sqrt()
                }
            };
        if radius == 0.0 {
            return STEPS_MAX;
        }
        let mut steps: i32 = -1;
        while radius < MERCATOR_MAX {
            radius *= 2.0;
            steps += 1;
        }
        // Degrees of longitude are shorter near the poles.
        let latitude = self.center.latitude.abs();
        steps -= i32::from(latitude > 66.0) + i32::from(latitude > 80.0);
        steps.clamp(1, STEPS_MAX.cast_signed()).cast_unsigned()
    }

    /// Returns a rectangle on the map around the area, which must be less than 90 degrees high. It
    /// may exceed the map.
    fn bounds(&self) -> Area {
        let Position { longitude, latitude } = self.center;
        let (width, height) = match self.shape {
            Shape::Circle(radius) => (radius, radius),
            Shape::Rectangle(width, height) => (width / 2.0, height / 2.0),
        };
        let along = degrees(self.unit * height / EARTH_RADIUS);
        // As in Redis, that of the side nearer to the pole only in the northern hemisphere.
        let side = if latitude < 0.0 { latitude - along } else { latitude + along };
        let across = degrees(self.unit * width / EARTH_RADIUS / cosine(radians(side)));
        let corner = |sign: f64| Position {
            longitude: longitude + sign * across,
            latitude: latitude + sign * along,
        };
        Area { least: corner(-1.0), greatest: corner(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(longitude: f64, latitude: f64) -> Position {
        Position { longitude, latitude }
    }

    #[test]
    fn geohash_of_a_position_decodes_to_the_center_of_its_cell() {
        for (bits, number) in [(0, 0), (0x5555_5555_5555_5555, u32::MAX), (0b1_0100_0001, 0b11001)]
        {
            assert_eq!((spread(number), gathered(bits | bits << 1)), (bits, number));
        }
        let palermo = position(13.361_389, 38.115_556);
        assert_eq!((palermo.score(), &*palermo.text()), (3_479_099_956_230_698, "sqc8b49rny0"));
        let back = Position::of_score(palermo.score() as f64);
        assert_eq!(back, position(13.361_389_338_970_184, 38.115_556_395_496_3));
        assert_eq!(back.score(), palermo.score());
        assert!(position(180.0, -LATITUDE_MAX).is_on_map());
        assert!(!position(180.1, 0.0).is_on_map() && !position(0.0, f64::INFINITY).is_on_map());
        for (score, bits) in [
            (-1.0, u64::MAX),
            (1.9, 1),
            (f64::INFINITY, 0),
            (f64::NEG_INFINITY, 1 << 63),
            (1e19, 10_000_000_000_000_000_000),
        ] {
            assert_eq!(integer_of(score), bits, "{score}");
            assert!(Position::of_score(score).is_on_map(), "{score}");
        }
    }

    #[test]
    fn search_of_scores_finds_every_position_in_the_area() {
        let places: Vec<Position> = (-178..178)
            .step_by(11)
            .flat_map(|longitude| {
                (-85..85).step_by(7).map(move |latitude| {
                    position(f64::from(longitude) + 0.3, f64::from(latitude) + 0.017)
                })
            })
            .collect();
        let mut found = 0;
        for center in places.iter().step_by(13) {
            for shape in [
                Shape::Circle(0.0),
                Shape::Circle(900_000.0),
                Shape::Circle(3_000_000.0),
                Shape::Circle(f64::INFINITY),
                Shape::Rectangle(1_500_000.0, 4_000_000.0),
                Shape::Rectangle(5e7, 5e7),
            ] {
                // Near the poles and near the ends of the longitude, Redis misses positions.
                let is_inner = center.latitude.abs() < 45.0 && center.longitude.abs() < 130.0;
                let area = SearchArea { center: *center, shape, unit: 1.0 };
                let ranges = area.ranges_of_scores();
                for place in &places {
                    let score = place.score() as f64;
                    let covered = ranges.iter().filter(|range| range.contains(&score)).count();
                    assert!(covered <= 1, "{center:?} {shape:?}: {place:?} {covered} times");
                    let is_in = area.distance_within(Position::of_score(score)).is_some();
                    assert!(!is_in || covered == 1 || !is_inner, "{center:?} {shape:?} {place:?}");
                    found += usize::from(is_in);
                }
            }
        }
        assert!(found > 10_000, "{found}");
    }
}
