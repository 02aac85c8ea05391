//! Commands that add, return and compare the positions of members.

use bytes::Bytes;

use super::{distance_reply, position, position_reply, unit};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::commands::sorted_sets::members::zadd;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::geohash::Position;
use crate::kv::values::sorted_set::SortedSet;

/// Runs `GEOADD key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]`: adds
/// members with their positions, as `ZADD` with the scores of the positions.
pub(in crate::kv) fn geoadd(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let is_option = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let options = args
        .rest(1)
        .iter()
        .take_while(|word| ["NX", "XX", "CH"].into_iter().any(|name| is_option(word, name)));
    let from = 1 + options.count();
    let has = |name| args.rest(0)[..from].iter().skip(1).any(|word| is_option(word, name));
    let (members, left_over) = args.rest(from).as_chunks::<3>();
    if !left_over.is_empty() || has("NX") && has("XX") {
        return Err(Refusal::Syntax);
    }
    let mut scores = Vec::with_capacity(members.len());
    for [longitude, latitude, _] in members {
        match position(longitude, latitude) {
            Ok(position) => scores.push(position.score().to_string()),
            Err(error) => return Ok(error),
        }
    }
    let mut with_scores = args.rest(0)[..from].to_vec();
    for (score, [_, _, member]) in scores.iter().zip(members) {
        with_scores.extend([score.as_bytes(), member]);
    }
    zadd(keyspace, &Args::new(with_scores[..].into(), args.seed))
}

/// Runs `GEOPOS key [member ...]`: returns the positions of members, with null for each missing
/// member.
pub(in crate::kv) fn geopos(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    for_members(keyspace, args, |position| position.map_or(Outcome::NoList, position_reply))
}

/// Runs `GEOHASH key [member ...]`: returns the positions of members as geohashes of 11 digits,
/// with null for each missing member.
pub(in crate::kv) fn geohash(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    for_members(keyspace, args, |position| {
        Outcome::Value(position.map(|position| Bytes::from(position.text())))
    })
}

fn for_members(
    keyspace: &Keyspace,
    args: &Args<'_>,
    reply: impl Fn(Option<Position>) -> Outcome,
) -> Answer {
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let position = |member: &&[u8]| set?.score(member).map(Position::of_score);
    Ok(Outcome::List(args.rest(1).iter().map(|member| reply(position(member))).collect()))
}

/// Runs `GEODIST key member member [M | KM | FT | MI]`: returns the distance between two members;
/// null if one of them is missing.
pub(in crate::kv) fn geodist(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let unit = match args.rest(3) {
        [] => 1.0,
        [word] => match unit(word) {
            Ok(unit) => unit,
            Err(error) => return Ok(error),
        },
        _ => return Err(Refusal::Syntax),
    };
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let position = |member: &[u8]| set?.score(member).map(Position::of_score);
    let distance = position(args.get(1)?)
        .zip(position(args.get(2)?))
        .map(|(from, to)| from.distance(to) / unit);
    Ok(distance.map_or(Outcome::Value(None), distance_reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn text(text: &'static str) -> Outcome {
        Outcome::Value(Some(text.into()))
    }

    #[test]
    fn geoadd_stores_positions_as_scores_of_a_sorted_set() {
        let mut feeder = Feeder::new();
        let palermo = ["13.361389", "38.115556", "Palermo"];
        let catania = ["15.087269", "37.502669", "Catania"];
        let both = [&["g"], &palermo[..], &catania].concat();
        assert_eq!(feeder.call("geoadd", &both), Outcome::Integer(2));
        assert_eq!(
            feeder.call("zrange", &["g", "0", "-1"]),
            Outcome::Values(["Palermo", "Catania"].map(|name| Some(name.into())).to_vec())
        );
        let hashes = vec![text("sqc8b49rny0"), Outcome::Value(None)];
        assert_eq!(feeder.call("geohash", &["g", "Palermo", "x"]), Outcome::List(hashes));
        let distance = feeder.call("geodist", &["g", "Palermo", "Catania", "km"]);
        assert_eq!(distance, text("166.2742"));
        assert_eq!(feeder.call("geodist", &["g", "Palermo", "Palermo"]), text("0.0000"));
        assert_eq!(feeder.call("geodist", &["g", "Palermo", "x"]), Outcome::Value(None));
        let moved = ["g", "XX", "CH", "1", "2", "Palermo", "3", "4", "x"];
        assert_eq!(feeder.call("geoadd", &moved), Outcome::Integer(1));
        assert_eq!(feeder.call("zcard", &["g"]), Outcome::Integer(2));
    }

    #[test]
    fn geoadd_with_an_invalid_position_changes_nothing() {
        let mut feeder = Feeder::new();
        let refused = Outcome::Refused(Refusal::Syntax);
        for args in [&["g", "NX", "XX", "1", "2", "a"][..], &["g", "1", "2"], &["g", "CH", "NX"]] {
            assert_eq!(feeder.call("geoadd", args), refused, "{args:?}");
        }
        let off = feeder.call("geoadd", &["g", "1", "2", "a", "1", "85.06", "b"]);
        let wanted = "ERR invalid longitude,latitude pair 1.000000,85.060000";
        assert_eq!(off, Outcome::error(wanted));
        assert_eq!(feeder.store.key_count(), 0);
    }
}
