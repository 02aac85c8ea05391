//! The syntax of request templates, and random requests made from them.
//!
//! A template is a list of words. A word in lower case stands for any argument of that kind (see
//! `ARGUMENTS` in `arguments.rs`), any other word for itself, in random case. `[a b]` is optional,
//! `[a b ...]` may also be repeated, `(a|b c)` is one of the two alternatives, and `[a|b c]` is one
//! of them or nothing. `;` ends one request and begins another, in which `kind'` stands for the
//! last argument of that kind.
//!
//! Most requests follow their template. Occasionally a request has an argument too many or too few,
//! or a wrong one.

use rand::{Rng, RngExt};

use super::arguments::{ARGUMENTS, CLOCK_KINDS};
use super::reply::Agreement;

/// A request template, and how to compare the replies to its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    pub(crate) text: &'static str,
    pub(crate) agreement: Agreement,
    /// Average number of draws of this template of which one is used: 1 for a template that is
    /// always used.
    pub(crate) rarity: u32,
}

/// A request made from a template, and how to compare the replies to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) agreement: Agreement,
}

/// Returns a template with replies that must be equal in every byte.
pub(crate) const fn same(text: &'static str) -> Template {
    Template { text, agreement: Agreement::Exact, rarity: 1 }
}

/// Returns a template with replies whose elements must be equal, in any order.
pub(crate) const fn any_order(text: &'static str) -> Template {
    Template { text, agreement: Agreement::AnyOrder, rarity: 1 }
}

/// Returns a template with replies whose pairs of elements must be equal, in any order.
pub(crate) const fn pairs(text: &'static str) -> Template {
    Template { text, agreement: Agreement::Pairs, rarity: 1 }
}

/// Returns a template with replies that must have the same type and length. If the result is random
/// and changes the state, a second request must remove the difference: `SPOP set ; DEL set'`.
pub(crate) const fn shape(text: &'static str) -> Template {
    Template { text, agreement: Agreement::TypeAndLength, rarity: 1 }
}

/// Returns a template with replies that must be numbers which differ by at most `distance`.
pub(crate) const fn near(distance: i64, text: &'static str) -> Template {
    Template { text, agreement: Agreement::Near(distance), rarity: 1 }
}

/// Returns a template with replies that must be equal, except for times, which may differ by at
/// most `distance`.
pub(crate) const fn timed(distance: i64, text: &'static str) -> Template {
    Template { text, agreement: Agreement::Times(distance), rarity: 1 }
}

impl Template {
    /// Makes the template rare: it is used only in one of `times` draws on average.
    pub(crate) const fn once_in(mut self, times: u32) -> Template {
        self.rarity = times;
        self
    }

    /// Makes requests that follow the template, or nearly follow it.
    pub(crate) fn make(&self, rng: &mut impl Rng) -> Vec<Made> {
        let mut said = Expansion { arguments: vec![Vec::new()], last: Vec::new(), timed: false };
        let pieces = pieces(self.text);
        let mut rest = &pieces[..];
        said.sequence(&mut rest, rng, true);
        assert!(rest.is_empty(), "a bracket too many in {:?}", self.text);
        let several = said.arguments.len() > 1;
        let exact = !matches!(self.agreement, Agreement::TypeAndLength);
        if !several && exact && rng.random_range(0..25) == 0 {
            corrupt(&mut said.arguments[0], said.timed, rng);
        }
        let agreement = self.agreement;
        said.arguments.into_iter().map(|arguments| Made { arguments, agreement }).collect()
    }
}

/// Splits a template into tokens. Brackets, bars and semicolons are tokens of their own.
fn pieces(form: &'static str) -> Vec<&'static str> {
    let mut pieces = Vec::new();
    for word in form.split(' ').filter(|word| !word.is_empty()) {
        let mut rest = word;
        while let Some(at) = rest.find(['[', ']', '(', ')', '|']) {
            pieces.extend(Some(&rest[..at]).filter(|piece| !piece.is_empty()));
            pieces.push(&rest[at..=at]);
            rest = &rest[at + 1..];
        }
        pieces.extend(Some(rest).filter(|piece| !piece.is_empty()));
    }
    pieces
}

/// The requests that have been made from a template so far.
struct Expansion {
    /// The arguments of each request.
    arguments: Vec<Vec<Vec<u8>>>,
    /// The arguments that were chosen, in order, each with its kind.
    last: Vec<(&'static str, &'static [u8])>,
    /// Whether any argument is a time.
    timed: bool,
}

impl Expansion {
    /// Expands tokens up to the closing bracket or the bar that ends this sequence. If `says` is
    /// false, skips the tokens without making requests.
    fn sequence(&mut self, rest: &mut &[&'static str], rng: &mut impl Rng, says: bool) {
        while let Some((piece, behind)) = rest.split_first() {
            match *piece {
                "]" | ")" | "|" | "..." => return,
                "[" | "(" => {
                    *rest = behind;
                    self.bracket(*piece == "[", rest, rng, says);
                    continue;
                }
                ";" if says => self.arguments.push(Vec::new()),
                word if says => self.word(word, rng),
                _ => {}
            }
            *rest = behind;
        }
    }

    fn bracket(
        &mut self,
        optional: bool,
        rest: &mut &[&'static str],
        rng: &mut impl Rng,
        says: bool,
    ) {
        // Count the alternatives, and whether they may be repeated.
        let (start, mut ways, mut repeats) = (*rest, 1, false);
        loop {
            self.sequence(rest, rng, false);
            let (end, behind) = rest.split_first().expect("a bracket is closed");
            *rest = behind;
            match *end {
                "|" => ways += 1,
                "..." => repeats = true,
                _ => break,
            }
        }
        let times = match (optional, repeats) {
            _ if !says => 0,
            (true, true) => rng.random_range(0..4),
            (true, false) => rng.random_range(0..2),
            (false, true) => rng.random_range(1..4),
            (false, false) => 1,
        };
        for _ in 0..times {
            let way = rng.random_range(0..ways);
            let mut rest = start;
            for at in 0..=way {
                self.sequence(&mut rest, rng, at == way);
                rest = &rest[1..];
            }
        }
    }

    fn word(&mut self, word: &'static str, rng: &mut impl Rng) {
        let arguments = self.arguments.last_mut().expect("there is one at least");
        if word.starts_with(|first: char| first.is_ascii_lowercase()) {
            let (kind, again) = match word.strip_suffix('\'') {
                Some(kind) => (kind, true),
                None => (word, false),
            };
            let chosen = if again {
                let last = self.last.iter().rev().find(|(known, _)| *known == kind);
                last.unwrap_or_else(|| panic!("no {kind} before")).1
            } else {
                choose(kind, rng)
            };
            self.timed |= CLOCK_KINDS.contains(&kind);
            self.last.push((kind, chosen));
            arguments.push(chosen.to_vec());
        } else {
            arguments.push(in_some_case(word, rng));
        }
    }
}

/// Returns a random argument of the kind `kind`.
fn choose(kind: &str, rng: &mut impl Rng) -> &'static [u8] {
    let (_, bags) = ARGUMENTS
        .iter()
        .find(|(known, _)| *known == kind)
        .unwrap_or_else(|| panic!("no arguments of kind {kind}"));
    let bag = bags[usize::from(bags.len() > 1 && rng.random_range(0..12) == 0)];
    bag[rng.random_range(0..bag.len())]
}

/// Returns the word, mostly unchanged and sometimes in another case.
fn in_some_case(word: &str, rng: &mut impl Rng) -> Vec<u8> {
    let mut word = word.as_bytes().to_vec();
    match rng.random_range(0..12) {
        0 => word.make_ascii_lowercase(),
        1 => {
            for letter in word.iter_mut().filter(|_| rng.random_range(0..2) == 0) {
                letter.make_ascii_lowercase();
            }
        }
        _ => {}
    }
    word
}

/// Changes a request so that it deviates from its template. Does not change times, because a time
/// close to now may have passed in one server and not yet in the other.
fn corrupt(arguments: &mut Vec<Vec<u8>>, timed: bool, rng: &mut impl Rng) {
    let kind = ARGUMENTS[rng.random_range(0..ARGUMENTS.len())].0;
    // `CLIENT LIST` cannot be compared, and neither can ids by the clock.
    let other = match kind {
        "type" | "pattern" => b"x".to_vec(),
        kind => choose(kind, rng).to_vec(),
    };
    let place = rng.random_range(0..arguments.len());
    match rng.random_range(0..if timed { 2 } else { 4 }) {
        0 => arguments.push(other),
        1 if arguments.len() > 1 => {
            arguments.pop();
        }
        2 if place > 0 => arguments[place] = other,
        3 if place > 0 => {
            arguments.remove(place);
        }
        _ => arguments[0].push(b'x'),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn redis_request_template_expands_to_all_its_forms() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let form = same("A [B|C D ...] (E|F) ; G bit [H [I]] bit'");
        let mut seen = BTreeSet::new();
        for _ in 0..2_000 {
            let made = form.make(&mut rng);
            let [one, two] = &made[..] else { panic!("{made:?}") };
            let mut text = one.arguments.join(&b' ');
            text.make_ascii_uppercase();
            seen.insert(String::from_utf8(text).unwrap());
            assert_eq!(two.arguments[1], *two.arguments.last().unwrap());
            assert!((3..=5).contains(&two.arguments.len()));
        }
        for wanted in ["A E", "A F", "A B E", "A C D F", "A B C D E", "A C D C D C D F"] {
            assert!(seen.contains(wanted), "{wanted} in {seen:?}");
        }
        assert!(seen.iter().all(|text| text.ends_with(['E', 'F'])));
    }
}
