//! `SORT`: sorts the elements of a list, set or sorted set by themselves or by the values of other
//! keys.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, KeysByOption, ONE_KEY, Row, Scale, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::collection::{Collection, CollectionType as _, ValueType};
use crate::kv::values::double::parse_double;
use crate::kv::values::element::{Element, share_all};
use crate::kv::values::list::{End, List};
use crate::kv::values::number::parse_integer;
use crate::kv::values::string::SharedString;

/// The sort commands of the state machine: number, name, key positions and function of each. Append
/// new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(374, "sort", ONE_KEY.and_by_option(KeysByOption::StoreOfSort), sort)
        .per(Scale::Sort)
        .since(FeatureLevel::V0_2),
    read(375, "sort_ro", ONE_KEY, sort_ro).per(Scale::Sort).since(FeatureLevel::V0_2),
];

/// The pattern of the option `GET` for the element itself.
const ITSELF: &[u8] = b"#";

/// The parsed options of a `SORT` command.
#[derive(Debug)]
struct Options<'w> {
    /// Option `BY`: the pattern of the keys whose values are compared instead of the elements.
    by: Option<&'w [u8]>,
    /// Whether the elements keep the order of the collection, because a pattern of `BY` has no
    /// asterisk.
    is_unsorted: bool,
    /// Options `GET`: the patterns of the keys whose values are returned instead of the elements.
    patterns: Vec<&'w [u8]>,
    is_descending: bool,
    is_alphabetic: bool,
    /// Option `LIMIT`: number of elements to skip, and to return; no limit if it is negative.
    limit: (i64, i64),
    /// Option `STORE`: the key for the result.
    target: Option<&'w [u8]>,
}

/// What a pattern stands for.
#[derive(Clone, Copy)]
enum Found<'k> {
    Element(&'k Element),
    Entry(&'k KeyEntry),
}

impl<'k> Found<'k> {
    fn bytes(self) -> Cow<'k, [u8]> {
        match self {
            Found::Element(element) => Cow::Borrowed(element),
            Found::Entry(entry) => entry.string().contiguous(),
        }
    }

    fn shared(self) -> SharedString {
        match self {
            Found::Element(element) => SharedString::Short(element.to_shared()),
            Found::Entry(entry) => entry.shared_string(),
        }
    }

    fn element(self) -> Element {
        match self {
            Found::Element(element) => element.clone(),
            Found::Entry(_) => Element::from(&*self.bytes()),
        }
    }
}

impl<'w> Options<'w> {
    /// Parses the arguments behind the key.
    fn parse(args: &[&'w [u8]], has_store: bool) -> Result<Options<'w>, Refusal> {
        let mut options = Options {
            by: None,
            is_unsorted: false,
            patterns: Vec::new(),
            is_descending: false,
            is_alphabetic: false,
            limit: (0, -1),
            target: None,
        };
        let mut rest = args;
        while let [option, behind @ ..] = rest {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            rest = match behind {
                _ if is("ASC") => {
                    options.is_descending = false;
                    behind
                }
                _ if is("DESC") => {
                    options.is_descending = true;
                    behind
                }
                _ if is("ALPHA") => {
                    options.is_alphabetic = true;
                    behind
                }
                [skipped, count, behind @ ..] if is("LIMIT") => {
                    let number = |word| parse_integer(word).ok_or(Refusal::NotAnInteger);
                    options.limit = (number(skipped)?, number(count)?);
                    behind
                }
                [key, behind @ ..] if is("STORE") && has_store => {
                    options.target = Some(key);
                    behind
                }
                [pattern, behind @ ..] if is("BY") => {
                    options.by = Some(pattern);
                    options.is_unsorted |= asterisk(pattern).is_none();
                    behind
                }
                [pattern, behind @ ..] if is("GET") => {
                    options.patterns.push(pattern);
                    behind
                }
                _ => return Err(Refusal::Syntax),
            };
        }
        Ok(options)
    }

    /// Returns the elements at `key` that are to be returned or stored, in order.
    fn sorted<'k>(&self, keyspace: &'k Keyspace, key: &[u8]) -> Result<Vec<&'k Element>, Outcome> {
        let (mut elements, value_type) = elements_at(keyspace, key)?;
        // The order of a set is not defined, so a set is sorted in any case.
        if self.is_unsorted && value_type == Some(ValueType::Set) {
            elements.sort_unstable_by(|one, other| self.in_direction(one[..].cmp(&other[..])));
        } else if self.is_unsorted {
            if self.is_descending {
                elements.reverse();
            }
        } else if self.is_alphabetic {
            self.sort_by_text(keyspace, &mut elements);
        } else {
            self.sort_by_number(keyspace, &mut elements)?;
        }
        let (skipped, count) = self.limit;
        let skipped = usize::try_from(skipped.max(0)).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let from = skipped.min(elements.len());
        elements.truncate(from.saturating_add(count).min(elements.len()));
        elements.drain(..from);
        Ok(elements)
    }

    fn in_direction(&self, order: Ordering) -> Ordering {
        if self.is_descending { order.reverse() } else { order }
    }

    fn sort_by_text<'k>(&self, keyspace: &'k Keyspace, elements: &mut Vec<&'k Element>) {
        // As in Redis, a NUL byte ends the texts, unless the result is stored.
        let end = |text: &[u8]| {
            let nul = text.iter().position(|byte| *byte == 0 && self.target.is_none());
            nul.unwrap_or(text.len())
        };
        let text = |element: &'k Element| match self.by {
            None => Some(Cow::Borrowed(&element[..])),
            Some(pattern) => look_up(keyspace, pattern, element).map(Found::bytes),
        };
        let mut texts: Vec<(Option<Cow<'_, [u8]>>, &Element)> =
            elements.iter().map(|element| (text(element), *element)).collect();
        texts.sort_by(|(one, _), (other, _)| {
            let [one, other] =
                [one, other].map(|text| text.as_ref().map(|text| &text[..end(text)]));
            self.in_direction(one.cmp(&other))
        });
        *elements = texts.into_iter().map(|(_, element)| element).collect();
    }

    /// # Errors
    /// If a value is not a number.
    fn sort_by_number<'k>(
        &self,
        keyspace: &'k Keyspace,
        elements: &mut Vec<&'k Element>,
    ) -> Result<(), Outcome> {
        let number = |element: &'k Element| match self.by {
            None => number_of(element),
            Some(pattern) => match look_up(keyspace, pattern, element) {
                None => Some(0.0),
                Some(found) => number_of(&found.bytes()),
            },
        };
        let mut numbers = Vec::with_capacity(elements.len());
        for element in elements.iter().copied() {
            let number = number(element).ok_or_else(|| {
                Outcome::error("ERR One or more scores can't be converted into double")
            })?;
            numbers.push((number, element));
        }
        numbers.sort_by(|(one, element), (other, next)| {
            let order = one.partial_cmp(other).expect("NaN is not a number");
            self.in_direction(order.then_with(|| element[..].cmp(&next[..])))
        });
        *elements = numbers.into_iter().map(|(_, element)| element).collect();
        Ok(())
    }

    /// Returns the values to return or to store for the sorted elements; `None` for a missing one.
    fn values<'k>(
        &self,
        keyspace: &'k Keyspace,
        sorted: Vec<&'k Element>,
    ) -> impl Iterator<Item = Option<Found<'k>>> {
        sorted.into_iter().flat_map(move |element| {
            self.patterns.iter().map(move |pattern| look_up(keyspace, pattern, element))
        })
    }
}

/// Returns the elements of the list, set or sorted set at a key, and the type of the value; nothing
/// if the key does not exist. Members of a sorted set are ordered by score.
fn elements_at<'k>(
    keyspace: &'k Keyspace,
    key: &[u8],
) -> Result<(Vec<&'k Element>, Option<ValueType>), Refusal> {
    let Some(entry) = keyspace.entry(key) else { return Ok((Vec::new(), None)) };
    let elements = match entry.collection() {
        Some(Collection::List(list)) => list.iter_from(0).collect(),
        Some(Collection::Set(set)) => set.iter().collect(),
        Some(Collection::SortedSet(set)) => {
            set.by_rank().range(0..set.len()).map(|scored| &scored.member).collect()
        }
        _ => return Err(Refusal::WrongType),
    };
    Ok((elements, Some(entry.value_type())))
}

/// Parses a number like C's `strtod`: an empty text is 0, and a NUL byte ends the text.
fn number_of(text: &[u8]) -> Option<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    parse_double(&text[text.iter().take_while(|byte| is_blank(byte)).count()..])
}

/// Returns the part of a pattern in which asterisks and arrows are found. As in Redis, it ends at a
/// NUL byte.
fn text_of(pattern: &[u8]) -> &[u8] {
    pattern.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Returns the index of the first asterisk in a pattern, which stands for the element.
fn asterisk(pattern: &[u8]) -> Option<usize> {
    text_of(pattern).iter().position(|byte| *byte == b'*')
}

/// Returns the key, and the field of a hash if the pattern ends with `->field`, for an element;
/// `None` if the pattern has no asterisk.
fn key_for<'p>(pattern: &'p [u8], element: &[u8]) -> Option<(Vec<u8>, Option<&'p [u8]>)> {
    let at = asterisk(pattern)?;
    let rest = &text_of(pattern)[at + 1..];
    let arrow = rest.windows(2).position(|pair| pair == b"->");
    let arrow = arrow.filter(|arrow| arrow + 2 < rest.len()).map(|arrow| at + 1 + arrow);
    let end = arrow.unwrap_or(pattern.len());
    let key = [&pattern[..at], element, &pattern[at + 1..end]].concat();
    Some((key, arrow.map(|arrow| &pattern[arrow + 2..])))
}

/// Returns what a pattern stands for with an element; `None` if there is no such key or field.
fn look_up<'k>(keyspace: &'k Keyspace, pattern: &[u8], element: &'k Element) -> Option<Found<'k>> {
    if pattern == ITSELF {
        return Some(Found::Element(element));
    }
    let (key, field) = key_for(pattern, element)?;
    let entry = keyspace.entry(&key)?;
    match (field, entry.collection()) {
        (None, None) => Some(Found::Entry(entry)),
        (Some(field), Some(Collection::Hash(hash))) => hash.get(field).map(Found::Element),
        _ => None,
    }
}

/// Returns whether a `SORT` command with these arguments may read keys that are not among them.
pub(in crate::kv) fn reads_other_keys(args: &[&[u8]]) -> bool {
    let Ok(options) = Options::parse(args.get(1..).unwrap_or_default(), true) else { return false };
    options.patterns.iter().chain(&options.by).any(|pattern| asterisk(pattern).is_some())
}

/// Returns the keys that a `SORT` command with these arguments may read because of its patterns.
pub(in crate::kv) fn keys_by_patterns(keyspace: &Keyspace, args: &[&[u8]]) -> Vec<Vec<u8>> {
    let [key, rest @ ..] = args else { return Vec::new() };
    let (Ok(options), Ok((elements, _))) = (Options::parse(rest, true), elements_at(keyspace, key))
    else {
        return Vec::new();
    };
    let patterns = || options.patterns.iter().chain(&options.by);
    let keys = elements.into_iter().flat_map(|element| {
        patterns().filter_map(move |pattern| Some(key_for(pattern, element)?.0))
    });
    keys.collect()
}

/// Runs `SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC | DESC] [ALPHA]`:
/// returns the elements of a list, set or sorted set in order.
fn sort_ro(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let options = Options::parse(args.rest(1), false)?;
    Ok(reply(keyspace, args.get(0)?, &options).unwrap_or_else(|error| error))
}

fn reply(keyspace: &Keyspace, key: &[u8], options: &Options<'_>) -> Result<Outcome, Outcome> {
    let sorted = options.sorted(keyspace, key)?;
    if options.patterns.is_empty() {
        return Ok(Outcome::Values(share_all(sorted).map(Some).collect()));
    }
    let values = options.values(keyspace, sorted);
    Ok(Outcome::strings(values.map(|value| value.map(Found::shared))))
}

/// Runs `SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC | DESC] [ALPHA] [STORE
/// destination]`: returns the elements of a list, set or sorted set in order, or stores them as a
/// list and returns their number.
fn sort(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, options) = (args.get(0)?, Options::parse(args.rest(1), true)?);
    let Some(target) = options.target else {
        return Ok(reply(keyspace, key, &options).unwrap_or_else(|error| error));
    };
    let sorted = match options.sorted(keyspace, key) {
        Ok(sorted) => sorted,
        Err(error) => return Ok(error),
    };
    let mut list = List::default();
    if options.patterns.is_empty() {
        for element in sorted {
            list.push(End::Right, element.clone());
        }
    } else {
        for value in options.values(keyspace, sorted) {
            list.push(End::Right, value.map_or_else(|| Element::from(&[][..]), Found::element));
        }
    }
    let count = list.len();
    if count == 0 {
        keyspace.delete(target);
    } else {
        keyspace.put_collection(target, List::wrap(Arc::new(list)));
        keyspace.notify("sortstore", target);
    }
    Ok(Outcome::count(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::batch::Batch;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::tests::Feeder;
    use crate::types::RequestKey;

    /// Runs the command line `request`, and returns the reply as text. A missing value is `-`.
    fn ask(feeder: &mut Feeder, request: &str) -> String {
        let mut args = request.split(' ');
        let name = args.next().unwrap();
        match feeder.call(name, &args.collect::<Vec<_>>()) {
            Outcome::Values(values) => {
                let text = |value: &Option<bytes::Bytes>| {
                    let value = value.as_ref().map(|value| value.to_vec());
                    value.map_or("-".to_owned(), |value| String::from_utf8(value).unwrap())
                };
                values.iter().map(text).collect::<Vec<_>>().join(" ")
            }
            Outcome::Integer(number) => number.to_string(),
            Outcome::Error(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn sort_orders_elements_by_numbers_texts_and_other_keys() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "3", "10", "1", "2"]);
        feeder.call("mset", &["w_1", "40", "w_2", "30", "w_3", "20", "w_10", "x"]);
        feeder.call("hset", &["h1", "f", "b"]);
        feeder.call("hset", &["h2", "f", "a"]);
        feeder.call("sadd", &["s", "c", "a", "b"]);
        feeder.call("zadd", &["z", "1", "8", "2", "9", "3", "7"]);
        for (request, wanted) in [
            ("sort_ro l", "1 2 3 10"),
            ("sort_ro l DESC LIMIT 1 2", "3 2"),
            ("sort_ro l LIMIT -1 -5", "1 2 3 10"),
            ("sort_ro l LIMIT 4 1", ""),
            ("sort_ro l ALPHA", "1 10 2 3"),
            ("sort_ro l BY nosort", "3 10 1 2"),
            ("sort_ro l BY nosort DESC LIMIT 0 3", "2 1 10"),
            ("sort_ro l BY w_*", "ERR One or more scores can't be converted into double"),
            ("sort_ro l BY w_* ALPHA", "3 2 1 10"),
            ("sort_ro l BY h*->f ALPHA GET # GET h*->f GET none", "3 - - 10 - - 2 a - 1 b -"),
            ("sort_ro l BY nothing*", "1 10 2 3"),
            ("sort_ro l GET w_* LIMIT 0 2", "40 30"),
            ("sort_ro s BY nosort DESC", "c b a"),
            ("sort_ro s", "ERR One or more scores can't be converted into double"),
            ("sort_ro z", "7 8 9"),
            ("sort_ro z BY nosort DESC", "7 9 8"),
            ("sort_ro h1", "Refused(WrongType)"),
            ("sort_ro none ALPHA", ""),
            ("sort_ro l LIMIT 0 x", "Refused(NotAnInteger)"),
            ("sort_ro l STORE to", "Refused(Syntax)"),
            ("sort_ro l BY", "Refused(Syntax)"),
        ] {
            assert_eq!(ask(&mut feeder, request), wanted, "{request}");
        }
    }

    #[test]
    fn sort_stores_its_result_as_a_list() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "3", "10", "1"]);
        feeder.call("set", &["w_3", "text"]);
        for (request, wanted) in [
            ("sort l STORE to", "3"),
            ("lrange to 0 -1", "1 3 10"),
            ("sort l GET w_* GET # STORE l", "6"),
            ("lrange l 0 -1", " 1 text 3  10"),
            ("sort l STORE to", "ERR One or more scores can't be converted into double"),
            ("llen to", "3"),
            ("sort none STORE to", "0"),
            ("exists to", "0"),
            ("sort l ALPHA DESC LIMIT 0 1", "text"),
        ] {
            assert_eq!(ask(&mut feeder, request), wanted, "{request}");
        }
    }

    #[test]
    fn sort_by_patterns_waits_if_any_key_may_have_expired() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "1"]);
        feeder.call("set", &["w_1", "v", "PX", "50"]);
        for (request, waits) in
            [("l", false), ("l BY nosort", false), ("l BY w_*", true), ("l GET w_*", true)]
        {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let read = Operation::call(CommandId::of("sort_ro"), &args[..]);
            let payload = Batch::one(RequestKey::default(), &read);
            let batch = Batch::decode(&payload).unwrap();
            assert_eq!(feeder.store.is_behind(Some(&batch), 60, 0), waits, "{request}");
        }
    }

    #[test]
    fn keys_that_sort_reads_by_its_patterns_are_known() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["l", "1", "2"]);
        let args = |request: &'static str| -> Vec<&[u8]> {
            request.split(' ').map(str::as_bytes).collect()
        };
        let patterns = args("l BY w_* GET h*x->f GET # GET fixed");
        let wanted: Vec<&[u8]> = vec![b"h1x", b"w_1", b"h2x", b"w_2"];
        assert_eq!(keys_by_patterns(&feeder.store.keyspace, &patterns), wanted);
        assert!(reads_other_keys(&patterns));
        assert!(!reads_other_keys(&args("l BY nosort GET # STORE a*")));
    }
}
