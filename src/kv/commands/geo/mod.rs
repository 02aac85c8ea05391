//! Commands on positions, which are the scores of sorted sets.

mod positions;
mod search;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::outcome::{Double, Outcome};
use crate::kv::commands::row::{
    Answer, KeyPositions, KeysByOption, ONE_KEY, Row, Scale, TWO_KEYS, read, write,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::double::parse_double;
use crate::kv::values::geohash::Position;

use super::args::Args;

/// The key with the positions, and the key in the option `STORE` or `STOREDIST`.
const KEY_AND_STORED: KeyPositions = ONE_KEY.and_by_option(KeysByOption::StoreOfRadius);

/// The commands on positions of the state machine: number, name, key positions and function of
/// each. Append new commands at the end with the next number, because log entries contain the
/// numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    change(360, "geoadd", ONE_KEY, positions::geoadd),
    look(361, "geopos", positions::geopos),
    look(362, "geodist", positions::geodist),
    look(363, "geohash", positions::geohash),
    look(364, "geosearch", search::geosearch).per(Scale::Values),
    change(365, "geosearchstore", TWO_KEYS, search::geosearchstore).per(Scale::Values),
    change(366, "georadius", KEY_AND_STORED, search::georadius).per(Scale::Values),
    look(367, "georadius_ro", search::georadius_ro).per(Scale::Values),
    change(368, "georadiusbymember", KEY_AND_STORED, search::georadiusbymember).per(Scale::Values),
    look(369, "georadiusbymember_ro", search::georadiusbymember_ro).per(Scale::Values),
];

const fn change(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&mut Keyspace, &Args<'_>) -> Answer,
) -> Row {
    write(number, name, keys, run).since(FeatureLevel::V0_2)
}

const fn look(number: u16, name: &'static str, run: fn(&Keyspace, &Args<'_>) -> Answer) -> Row {
    read(number, name, ONE_KEY, run).since(FeatureLevel::V0_2)
}

/// Parses a number with a decimal point.
///
/// # Errors
/// If it is not a number, with the error `text`.
fn number(word: &[u8], text: &str) -> Result<f64, Outcome> {
    parse_double(word).ok_or_else(|| Outcome::error(text))
}

/// Parses a longitude and a latitude, in degrees.
///
/// # Errors
/// If one of them is not a number, or if the position is not on the map.
fn position(longitude: &[u8], latitude: &[u8]) -> Result<Position, Outcome> {
    let degrees = |word| number(word, "ERR value is not a valid float");
    let position = Position { longitude: degrees(longitude)?, latitude: degrees(latitude)? };
    if !position.is_on_map() {
        let Position { longitude, latitude } = position;
        let text = format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}");
        return Err(Outcome::error(text));
    }
    Ok(position)
}

/// Parses a unit of length, and returns it in meters.
///
/// # Errors
/// If it is unknown.
fn unit(word: &[u8]) -> Result<f64, Outcome> {
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    [("m", 1.0), ("km", 1_000.0), ("ft", 0.3048), ("mi", 1_609.34)]
        .into_iter()
        .find(|(name, _)| is(name))
        .map(|(_, meters)| meters)
        .ok_or_else(|| Outcome::error("ERR unsupported unit provided. please use M, KM, FT, MI"))
}

/// Returns the outcome for a distance, which is text with four decimals.
fn distance_reply(distance: f64) -> Outcome {
    #[allow(clippy::cast_possible_truncation, reason = "distances are small")]
    let rounded = (distance * 10_000.0).round_ties_even() as i64;
    let text = format!("{}.{:04}", rounded / 10_000, rounded % 10_000);
    Outcome::Value(Some(Bytes::from(text)))
}

/// Returns the outcome for a position: its longitude and its latitude.
fn position_reply(position: Position) -> Outcome {
    let coordinates = [position.longitude, position.latitude];
    Outcome::List(coordinates.map(|degrees| Outcome::Decimal(Double(degrees))).to_vec())
}
