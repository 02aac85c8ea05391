//! Commands that return or store the members whose positions are in an area.

use super::{distance_reply, number, position, position_reply, unit};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::commands::sorted_sets::put;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::element::share_all;
use crate::kv::values::geohash::{Position, SearchArea, Shape};
use crate::kv::values::number::parse_integer;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::sorted_set::SortedSet;

/// The form of the arguments of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `GEORADIUS`: a position and a radius.
    Position,
    /// `GEORADIUSBYMEMBER`: a member and a radius.
    Member,
    /// `GEOSEARCH`: options for the center and the shape.
    Options,
}

/// The order of the members in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// That of the cells of the grid, and of the scores within a cell.
    Cells,
    Ascending,
    Descending,
}

/// What is returned or stored for each member.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    distance: bool,
    score: bool,
    position: bool,
}

/// Where the result of a search is stored.
#[derive(Debug, Clone, Copy)]
struct Target<'w> {
    key: &'w [u8],
    /// Whether the scores are distances, not positions.
    with_distances: bool,
}

/// The parsed arguments of a search.
#[derive(Debug)]
struct Search<'w> {
    center: Option<Position>,
    /// The shape, and the unit of its lengths in meters.
    shape: Option<(Shape, f64)>,
    order: Order,
    /// Option `COUNT`: maximum number of members; `None` for no limit.
    count: Option<usize>,
    /// Option `ANY`: whether the search ends when it has found `count` members.
    any: bool,
    shown: Shown,
    target: Option<Target<'w>>,
}

/// A member whose position is in the area of a search.
#[derive(Debug)]
struct Found<'s> {
    scored: &'s Scored,
    position: Position,
    /// Distance from the center of the area, in meters.
    distance: f64,
}

/// The parser of the arguments of a search.
struct Parser<'p, 'w> {
    form: Form,
    /// Name of the command, for errors.
    name: &'w [u8],
    /// Whether the options `STORE` and `STOREDIST` with a key are allowed, as for `GEORADIUS`.
    has_store: bool,
    /// The set to search; `None` if the key does not exist.
    set: Option<&'p SortedSet>,
    from_position: bool,
    from_member: bool,
    search: Search<'w>,
}

fn shape_reply(word: &[u8], name: &str) -> Result<f64, Outcome> {
    number(word, &format!("ERR need numeric {name}"))
}

/// Parses a radius and its unit.
fn circle(radius: &[u8], unit_name: &[u8]) -> Result<(Shape, f64), Outcome> {
    let radius = shape_reply(radius, "radius")?;
    if radius < 0.0 {
        return Err(Outcome::error("ERR radius cannot be negative"));
    }
    Ok((Shape::Circle(radius), unit(unit_name)?))
}

/// Parses the width and the height of a rectangle, and their unit.
fn rectangle(width: &[u8], height: &[u8], unit_name: &[u8]) -> Result<(Shape, f64), Outcome> {
    let (width, height) = (shape_reply(width, "width")?, shape_reply(height, "height")?);
    if width < 0.0 || height < 0.0 {
        return Err(Outcome::error("ERR height or width cannot be negative"));
    }
    Ok((Shape::Rectangle(width, height), unit(unit_name)?))
}

impl<'w> Parser<'_, 'w> {
    /// Returns the position of a member of the set.
    fn position_of(&self, member: &[u8]) -> Result<Option<Position>, Outcome> {
        let Some(set) = self.set else { return Ok(None) };
        match set.score(member) {
            Some(score) => Ok(Some(Position::of_score(score))),
            None => Err(Outcome::error("ERR could not decode requested zset member")),
        }
    }

    /// Parses all arguments behind the keys.
    fn parse(&mut self, args: &[&'w [u8]]) -> Result<(), Outcome> {
        let rest = match (self.form, args) {
            (Form::Position, [longitude, latitude, radius, unit, rest @ ..]) => {
                self.search.center = Some(position(longitude, latitude)?);
                self.search.shape = Some(circle(radius, unit)?);
                rest
            }
            (Form::Member, [member, radius, unit, rest @ ..]) => {
                self.search.center = self.position_of(member)?;
                // As in Redis, the radius is not checked without the key.
                if self.set.is_some() {
                    self.search.shape = Some(circle(radius, unit)?);
                }
                rest
            }
            (Form::Options, rest) => rest,
            _ => return Err(Refusal::Syntax.into()),
        };
        self.parse_options(rest)?;
        self.check()
    }

    fn parse_options(&mut self, mut rest: &[&'w [u8]]) -> Result<(), Outcome> {
        while let [option, behind @ ..] = rest {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            rest = behind;
            if is("WITHDIST") {
                self.search.shown.distance = true;
            } else if is("WITHHASH") {
                self.search.shown.score = true;
            } else if is("WITHCOORD") {
                self.search.shown.position = true;
            } else if is("ANY") {
                self.search.any = true;
            } else if is("ASC") {
                self.search.order = Order::Ascending;
            } else if is("DESC") {
                self.search.order = Order::Descending;
            } else if is("COUNT")
                && let [count, behind @ ..] = behind
            {
                let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                let count = count.ok_or_else(|| Outcome::error("ERR COUNT must be > 0"))?;
                self.search.count = Some(count);
                rest = behind;
            } else if self.form == Form::Options {
                rest = self.parse_area(option, behind)?;
            } else if (is("STORE") || is("STOREDIST"))
                && self.has_store
                && let [key, behind @ ..] = behind
            {
                self.search.target = Some(Target { key, with_distances: is("STOREDIST") });
                rest = behind;
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        Ok(())
    }

    /// Parses an option that only `GEOSEARCH` and `GEOSEARCHSTORE` have. Returns the arguments
    /// behind it.
    fn parse_area<'r>(
        &mut self,
        option: &[u8],
        behind: &'r [&'w [u8]],
    ) -> Result<&'r [&'w [u8]], Outcome> {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        let shape = self.search.shape.map(|(shape, _)| shape);
        if is("STOREDIST")
            && let Some(target) = &mut self.search.target
        {
            target.with_distances = true;
            return Ok(behind);
        }
        match behind {
            [member, rest @ ..] if is("FROMMEMBER") && !self.from_position => {
                self.search.center = self.position_of(member)?;
                self.from_member = true;
                Ok(rest)
            }
            [longitude, latitude, rest @ ..] if is("FROMLONLAT") && !self.from_member => {
                self.search.center = Some(position(longitude, latitude)?);
                self.from_position = true;
                Ok(rest)
            }
            [radius, unit, rest @ ..]
                if is("BYRADIUS") && !matches!(shape, Some(Shape::Rectangle(..))) =>
            {
                self.search.shape = Some(circle(radius, unit)?);
                Ok(rest)
            }
            [width, height, unit, rest @ ..]
                if is("BYBOX") && !matches!(shape, Some(Shape::Circle(_))) =>
            {
                self.search.shape = Some(rectangle(width, height, unit)?);
                Ok(rest)
            }
            _ => Err(Refusal::Syntax.into()),
        }
    }

    /// Checks that the options fit together.
    fn check(&self) -> Result<(), Outcome> {
        let is_options = self.form == Form::Options;
        let Shown { distance, score, position } = self.search.shown;
        if self.search.target.is_some() && (distance || score || position) {
            let name = if is_options { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            return Err(Outcome::error(format!(
                "ERR {name} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        if is_options && !(self.from_member || self.from_position) {
            let text = "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for ";
            return Err(Outcome::error_quoting(text, self.name));
        }
        if is_options && self.search.shape.is_none() {
            let text = "ERR exactly one of BYRADIUS and BYBOX can be specified for ";
            return Err(Outcome::error_quoting(text, self.name));
        }
        if self.search.any && self.search.count.is_none() {
            return Err(Outcome::error("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }
}

impl<'w> Search<'w> {
    /// Parses the arguments `args` of a search behind its keys. `source` is the key to search.
    /// `target` is the destination of `GEOSEARCHSTORE`.
    fn parse<'k>(
        keyspace: &'k Keyspace,
        source: &[u8],
        args: &[&'w [u8]],
        form: Form,
        has_store: bool,
        target: Option<&'w [u8]>,
    ) -> Result<(Search<'w>, Option<&'k SortedSet>), Outcome> {
        let set = keyspace.collection::<SortedSet>(source)?;
        let (name, args) = match (form, args) {
            // The server adds the name of the command as the last argument.
            (Form::Options, [args @ .., name]) => (*name, args),
            (_, args) => (&[][..], args),
        };
        let search = Search {
            center: None,
            shape: None,
            order: Order::Cells,
            count: None,
            any: false,
            shown: Shown::default(),
            target: target.map(|key| Target { key, with_distances: false }),
        };
        let (from_position, from_member) = (false, false);
        let mut parser = Parser { form, name, has_store, set, from_position, from_member, search };
        parser.parse(args)?;
        Ok((parser.search, set))
    }

    /// Returns the members in the area, at most as many as the option `COUNT` says.
    fn find<'s>(&self, set: &'s SortedSet) -> Vec<Found<'s>> {
        let Some((center, (shape, unit))) = self.center.zip(self.shape) else { return Vec::new() };
        let area = SearchArea { center, shape, unit };
        let count = self.count.unwrap_or(usize::MAX);
        let enough = if self.any { count } else { usize::MAX };
        let tree = set.by_rank();
        let members = area.ranges_of_scores().into_iter().flat_map(|scores| {
            let from = tree.count_while(|scored| scored.score < scores.start);
            let to = tree.count_while(|scored| scored.score < scores.end);
            tree.range(from..to)
        });
        let found = members.filter_map(|scored| {
            let position = Position::of_score(scored.score);
            let distance = area.distance_within(position)?;
            Some(Found { scored, position, distance })
        });
        let mut found: Vec<Found<'_>> = found.take(enough).collect();
        let compare = |one: &Found<'_>, other: &Found<'_>| one.distance.total_cmp(&other.distance);
        match self.order {
            // Without an order, the nearest members are returned.
            Order::Cells if self.any || self.count.is_none() => {}
            Order::Cells | Order::Ascending => found.sort_by(compare),
            Order::Descending => found.sort_by(|one, other| compare(other, one)),
        }
        found.truncate(count);
        found
    }

    /// Returns the outcome for the members that were found.
    fn reply(&self, found: &[Found<'_>]) -> Outcome {
        let Shown { distance, score, position } = self.shown;
        let members = share_all(found.iter().map(|found| &found.scored.member));
        if !(distance || score || position) {
            return Outcome::Values(members.map(Some).collect());
        }
        let unit = self.unit();
        let tell = |(member, found): (bytes::Bytes, &Found<'_>)| {
            let mut parts = vec![Outcome::Value(Some(member))];
            if distance {
                parts.push(distance_reply(found.distance / unit));
            }
            if score {
                #[allow(clippy::cast_possible_truncation, reason = "it is a geohash of 52 bits")]
                parts.push(Outcome::Integer(found.scored.score as i64));
            }
            if position {
                parts.push(position_reply(found.position));
            }
            Outcome::List(parts)
        };
        Outcome::List(members.zip(found).map(tell).collect())
    }

    fn unit(&self) -> f64 {
        self.shape.map_or(1.0, |(_, unit)| unit)
    }
}

/// Runs a search that does not store its result.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn search(keyspace: &Keyspace, args: &Args<'_>, form: Form) -> Answer {
    let source = args.get(0)?;
    Ok(match Search::parse(keyspace, source, args.rest(1), form, false, None) {
        Ok((search, Some(set))) => search.reply(&search.find(set)),
        Ok((_, None)) => Outcome::List(Vec::new()),
        Err(error) => error,
    })
}

/// Runs a search that may store its result. `source_at` is the index of the argument with the key
/// to search.
fn search_and_store(
    keyspace: &mut Keyspace,
    args: &Args<'_>,
    form: Form,
    source_at: usize,
    event: &'static str,
) -> Answer {
    let (source, target) = (args.get(source_at)?, args.get(0)?);
    let target = (form == Form::Options).then_some(target);
    let rest = args.rest(source_at + 1);
    let (search, set) = match Search::parse(keyspace, source, rest, form, true, target) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(error),
    };
    let Some(target) = search.target else {
        return Ok(set.map_or(Outcome::List(Vec::new()), |set| search.reply(&search.find(set))));
    };
    let found = set.map(|set| search.find(set)).unwrap_or_default();
    let unit = search.unit();
    let mut stored = SortedSet::default();
    for Found { scored, distance, .. } in found {
        let score = if target.with_distances { distance / unit } else { scored.score };
        stored.set(&scored.member, score);
    }
    Ok(put(keyspace, target.key, stored, event))
}

/// Runs `GEOSEARCH key <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius unit |
/// BYBOX width height unit> [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]`:
/// returns the members in an area. Before it submits the command, the server adds its name as the
/// last argument.
pub(in crate::kv) fn geosearch(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    search(keyspace, args, Form::Options)
}

/// Runs `GEOSEARCHSTORE destination source ... [STOREDIST]`, with the options of `GEOSEARCH`:
/// stores the members in an area.
pub(in crate::kv) fn geosearchstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    search_and_store(keyspace, args, Form::Options, 1, "geosearchstore")
}

/// Runs `GEORADIUS key longitude latitude radius unit [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT
/// count [ANY]] [ASC | DESC] [STORE key | STOREDIST key]`: returns or stores the members in a
/// circle around a position.
pub(in crate::kv) fn georadius(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    search_and_store(keyspace, args, Form::Position, 0, "georadiusstore")
}

/// Runs `GEORADIUS_RO`, which is `GEORADIUS` without the options that store.
pub(in crate::kv) fn georadius_ro(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    search(keyspace, args, Form::Position)
}

/// Runs `GEORADIUSBYMEMBER key member radius unit ...`, with the options of `GEORADIUS`: returns or
/// stores the members in a circle around a member.
pub(in crate::kv) fn georadiusbymember(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    search_and_store(keyspace, args, Form::Member, 0, "georadiusstore")
}

/// Runs `GEORADIUSBYMEMBER_RO`, which is `GEORADIUSBYMEMBER` without the options that store.
pub(in crate::kv) fn georadiusbymember_ro(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    search(keyspace, args, Form::Member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    /// Runs the command line `request`, and returns the reply as text.
    fn ask(feeder: &mut Feeder, request: &str) -> String {
        let mut args = request.split(' ');
        let name = args.next().unwrap();
        let mut args: Vec<&str> = args.collect();
        if name.starts_with("geosearch") {
            args.push(name);
        }
        text(&feeder.call(name, &args))
    }

    fn text(outcome: &Outcome) -> String {
        let utf8 = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        match outcome {
            Outcome::Value(Some(bytes)) => utf8(bytes),
            Outcome::Values(values) => {
                values.iter().flatten().map(utf8).collect::<Vec<_>>().join(" ")
            }
            Outcome::List(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
            Outcome::Integer(number) => number.to_string(),
            Outcome::Double(number) | Outcome::Decimal(number) => number.0.to_string(),
            Outcome::Error(text) => utf8(text),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn geosearch_returns_members_in_the_area_by_distance() {
        let mut feeder = Feeder::new();
        let members = "13.361389 38.115556 Palermo 15.087269 37.502669 Catania 12.758489 38.788135 \
                       edge1 17.241510 38.788135 edge2";
        ask(&mut feeder, &format!("geoadd g {members}"));
        ask(&mut feeder, "set s text");
        for (request, wanted) in [
            ("geosearch g FROMLONLAT 15 37 BYRADIUS 200 km ASC", "Catania Palermo"),
            (
                "geosearch g FROMLONLAT 15 37 BYBOX 400 400 km ASC WITHDIST",
                "Catania 56.4413 Palermo 190.4424 edge2 279.7403 edge1 279.7405",
            ),
            ("geosearch g FROMMEMBER edge1 BYRADIUS 100 mi DESC", "Palermo edge1"),
            ("geosearch g FROMMEMBER edge1 BYRADIUS 1e6 mi COUNT 2", "edge1 Palermo"),
            ("geosearch g FROMMEMBER edge1 BYRADIUS 1e6 mi COUNT 1 ANY DESC", "Palermo"),
            ("georadius_ro g 15 37 60 km WITHHASH", "Catania 3479447370796909"),
            ("georadiusbymember_ro g Catania 1 m WITHDIST", "Catania 0.0000"),
            ("georadius g 15 37 60 km", "Catania"),
            ("georadius_ro g 15 37 60 km STORE k", "Refused(Syntax)"),
            ("geosearch n FROMMEMBER a BYRADIUS 1 m", ""),
            ("georadiusbymember_ro n a b c", ""),
            ("georadius_ro n a 1 1 m", "ERR value is not a valid float"),
            ("geosearch g FROMMEMBER x BYRADIUS 1 m", "ERR could not decode requested zset member"),
            ("geosearch s FROMMEMBER x", "Refused(WrongType)"),
            (
                "geosearch g BYRADIUS 1 m ASC ASC ASC",
                "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for geosearch",
            ),
            (
                "geosearch g FROMLONLAT 1 1",
                "ERR exactly one of BYRADIUS and BYBOX can be specified for geosearch",
            ),
            ("geosearch g FROMLONLAT 1 1 BYRADIUS 1 m BYBOX 1 1 m", "Refused(Syntax)"),
            ("geosearch g FROMLONLAT 1 1 FROMMEMBER Palermo BYRADIUS 1 m", "Refused(Syntax)"),
            ("geosearch g FROMLONLAT 1 1 BYRADIUS 1 m STOREDIST", "Refused(Syntax)"),
        ] {
            assert_eq!(ask(&mut feeder, request), wanted, "{request}");
        }
    }

    #[test]
    fn geosearchstore_and_georadius_store_scores_or_distances() {
        let mut feeder = Feeder::new();
        ask(&mut feeder, "geoadd g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania");
        for (request, wanted) in [
            ("geosearchstore to g FROMLONLAT 15 37 BYRADIUS 60 km", "1"),
            ("zscore to Catania", "3479447370796909"),
            ("georadius g 15 37 200 km STORE nowhere STOREDIST to", "2"),
            ("exists nowhere", "0"),
            ("zscore to Catania", "56.4412578701582"),
            ("geosearchstore to g FROMLONLAT 15 37 BYRADIUS 60 km STOREDIST", "1"),
            ("zcard to", "1"),
            (
                "georadius g 15 37 200 km STORE to WITHDIST",
                "ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and \
                 WITHCOORD options",
            ),
            ("georadiusbymember none a 1 m STORE to", "0"),
            ("exists to", "0"),
        ] {
            assert_eq!(ask(&mut feeder, request), wanted, "{request}");
        }
    }
}
