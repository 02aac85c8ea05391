//! How forms of requests are written, and random requests made from them.
//!
//! A form is words. One in lower case stands for any word of that kind (see `WORDS` in `forms.rs`),
//! another for itself, in some mixture of cases. `[a b]` may be left out, `[a b ...]` also come
//! several times, `(a|b c)` is one of the two, and so is `[a|b c]` if it is not left out. `;` ends
//! one request and begins another, in which `kind'` is the same word as the last of that kind.
//!
//! What a form says is mostly what is sent. Now and then a word is too many or too few, or another
//! one stands in its place.

use rand::{Rng, RngExt};

use super::reply::Agreement;
use super::templates::{CLOCK_KINDS, WORDS};

/// A form, and when replies to it count as the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) text: &'static str,
    pub(crate) agreement: Agreement,
    /// Of so many times that its turn comes, it is taken once.
    pub(crate) rarity: u32,
}

/// A request: its words, and when replies to it count as the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) words: Vec<Vec<u8>>,
    pub(crate) agreement: Agreement,
}

/// Every byte of the replies is the same.
pub(crate) const fn same(text: &'static str) -> Form {
    Form { text, agreement: Agreement::Exact, rarity: 1 }
}

/// What is in the replies is the same, in any order.
pub(crate) const fn any_order(text: &'static str) -> Form {
    Form { text, agreement: Agreement::AnyOrder, rarity: 1 }
}

/// What is in the replies two by two is the same, in any order.
pub(crate) const fn pairs(text: &'static str) -> Form {
    Form { text, agreement: Agreement::Pairs, rarity: 1 }
}

/// The replies are of one kind and length. If what chance decides changes the state, a second
/// request must take what may differ away: `SPOP set ; DEL set'`.
pub(crate) const fn shape(text: &'static str) -> Form {
    Form { text, agreement: Agreement::Shape, rarity: 1 }
}

/// The replies are numbers that lie no further apart.
pub(crate) const fn near(distance: i64, text: &'static str) -> Form {
    Form { text, agreement: Agreement::Near(distance), rarity: 1 }
}

impl Form {
    /// Taken only once of so many times.
    pub(crate) const fn once_in(mut self, times: u32) -> Form {
        self.rarity = times;
        self
    }

    /// Requests as the form says, or nearly.
    pub(crate) fn make(&self, dice: &mut impl Rng) -> Vec<Made> {
        let mut said = Said { words: vec![Vec::new()], last: Vec::new(), timed: false };
        let pieces = pieces(self.text);
        let mut rest = &pieces[..];
        said.sequence(&mut rest, dice, true);
        assert!(rest.is_empty(), "a bracket too many in {:?}", self.text);
        let several = said.words.len() > 1;
        let exact = !matches!(self.agreement, Agreement::Shape);
        if !several && exact && dice.random_range(0..25) == 0 {
            spoil(&mut said.words[0], said.timed, dice);
        }
        let agreement = self.agreement;
        said.words.into_iter().map(|words| Made { words, agreement }).collect()
    }
}

/// The words of a form; brackets, bars and semicolons are words of their own.
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

/// What was said so far.
struct Said {
    /// Of each request.
    words: Vec<Vec<Vec<u8>>>,
    /// The last word of each kind.
    last: Vec<(&'static str, &'static [u8])>,
    /// Whether it tells times.
    timed: bool,
}

impl Said {
    /// Goes through words until a bracket or bar that was not opened in them.
    fn sequence(&mut self, rest: &mut &[&'static str], dice: &mut impl Rng, says: bool) {
        while let Some((piece, behind)) = rest.split_first() {
            match *piece {
                "]" | ")" | "|" | "..." => return,
                "[" | "(" => {
                    *rest = behind;
                    self.bracket(*piece == "[", rest, dice, says);
                    continue;
                }
                ";" if says => self.words.push(Vec::new()),
                word if says => self.word(word, dice),
                _ => {}
            }
            *rest = behind;
        }
    }

    fn bracket(
        &mut self,
        optional: bool,
        rest: &mut &[&'static str],
        dice: &mut impl Rng,
        says: bool,
    ) {
        // How many ways there are, and whether they come several times.
        let (start, mut ways, mut repeats) = (*rest, 1, false);
        loop {
            self.sequence(rest, dice, false);
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
            (true, true) => dice.random_range(0..4),
            (true, false) => dice.random_range(0..2),
            (false, true) => dice.random_range(1..4),
            (false, false) => 1,
        };
        for _ in 0..times {
            let way = dice.random_range(0..ways);
            let mut rest = start;
            for at in 0..=way {
                self.sequence(&mut rest, dice, at == way);
                rest = &rest[1..];
            }
        }
    }

    fn word(&mut self, word: &'static str, dice: &mut impl Rng) {
        let words = self.words.last_mut().expect("there is one at least");
        if word.starts_with(|first: char| first.is_ascii_lowercase()) {
            let (kind, again) = match word.strip_suffix('\'') {
                Some(kind) => (kind, true),
                None => (word, false),
            };
            let chosen = if again {
                let last = self.last.iter().rev().find(|(known, _)| *known == kind);
                last.unwrap_or_else(|| panic!("no {kind} before")).1
            } else {
                choose(kind, dice)
            };
            self.timed |= CLOCK_KINDS.contains(&kind);
            self.last.push((kind, chosen));
            words.push(chosen.to_vec());
        } else {
            words.push(in_some_case(word, dice));
        }
    }
}

/// A word of that kind.
fn choose(kind: &str, dice: &mut impl Rng) -> &'static [u8] {
    let (_, bags) = WORDS
        .iter()
        .find(|(known, _)| *known == kind)
        .unwrap_or_else(|| panic!("there is no kind of words called {kind}"));
    let bag = bags[usize::from(bags.len() > 1 && dice.random_range(0..12) == 0)];
    bag[dice.random_range(0..bag.len())]
}

/// Mostly as it is.
fn in_some_case(word: &str, dice: &mut impl Rng) -> Vec<u8> {
    let mut word = word.as_bytes().to_vec();
    match dice.random_range(0..12) {
        0 => word.make_ascii_lowercase(),
        1 => {
            for letter in word.iter_mut().filter(|_| dice.random_range(0..2) == 0) {
                letter.make_ascii_lowercase();
            }
        }
        _ => {}
    }
    word
}

/// Makes a request another than the form says. Where it tells times they stay as they are, for a
/// time that is over soon is over in one server and not yet in the other.
fn spoil(words: &mut Vec<Vec<u8>>, timed: bool, dice: &mut impl Rng) {
    let kind = WORDS[dice.random_range(0..WORDS.len())].0;
    // `CLIENT LIST` is no request to compare.
    let other = if kind == "type" { b"x".to_vec() } else { choose(kind, dice).to_vec() };
    let place = dice.random_range(0..words.len());
    match dice.random_range(0..if timed { 2 } else { 4 }) {
        0 => words.push(other),
        1 if words.len() > 1 => {
            words.pop();
        }
        2 if place > 0 => words[place] = other,
        3 if place > 0 => {
            words.remove(place);
        }
        _ => words[0].push(b'x'),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn template_expands_as_written() {
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        let form = same("A [B|C D ...] (E|F) ; G bit [H [I]] bit'");
        let mut seen = BTreeSet::new();
        for _ in 0..2_000 {
            let made = form.make(&mut dice);
            let [one, two] = &made[..] else { panic!("{made:?}") };
            let mut text = one.words.join(&b' ');
            text.make_ascii_uppercase();
            seen.insert(String::from_utf8(text).unwrap());
            assert_eq!(two.words[1], *two.words.last().unwrap());
            assert!((3..=5).contains(&two.words.len()));
        }
        for wanted in ["A E", "A F", "A B E", "A C D F", "A B C D E", "A C D C D C D F"] {
            assert!(seen.contains(wanted), "{wanted} in {seen:?}");
        }
        assert!(seen.iter().all(|text| text.ends_with(['E', 'F'])));
    }
}
