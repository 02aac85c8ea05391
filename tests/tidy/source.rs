//! Splits Rust source for the rules of `tests/tidy.rs`: separates code from comments, drops the
//! contents of strings, and finds the paths in the code. This is not a parser: it knows just enough
//! of the language not to mistake a word in a string or a comment for code.

/// A source file, split into code and comments. Both texts have the same lines as the original,
/// with blanks in place of what belongs to the other text.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Everything except comments and the contents of string and character literals.
    pub(crate) code: String,
    /// Only the comments.
    pub(crate) comments: String,
}

/// A path such as `crate::kv::StateMachine`, in an import or used directly.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Number of the line on which the path starts.
    pub(crate) line: usize,
    /// The names in the path, in order; `*` for a glob.
    pub(crate) names: Vec<String>,
}

impl Source {
    /// Splits the text of a file.
    pub(crate) fn split(text: &str) -> Source {
        let chars: Vec<char> = text.chars().collect();
        let mut source = Source::default();
        let mut at = 0;
        while at < chars.len() {
            let (length, kind) = piece(&chars[at..], at.checked_sub(1).map(|before| chars[before]));
            for &char in &chars[at..at + length] {
                let (code, comment) = match kind {
                    _ if char == '\n' => (char, char),
                    Kind::Code => (char, ' '),
                    Kind::Comment => (' ', char),
                    Kind::Literal => (' ', ' '),
                };
                source.code.push(code);
                source.comments.push(comment);
            }
            at += length;
        }
        source
    }

    /// Returns all paths of at least two names, with imports expanded: `use a::{b, c::d};` gives
    /// `a::b` and `a::c::d`.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let word = |place: usize| tokens.get(place).map_or("", |token| token.text);
            if word(at) == "use" && word(at + 1) != "<" {
                at = use_tree(&tokens, at + 1, &[], &mut paths);
            } else if word(at) == "pub" && word(at + 1) == "(" {
                // The path of `pub(in path)` imports nothing.
                while !matches!(word(at), ")" | "") {
                    at += 1;
                }
            } else if is_name(word(at)) {
                let line = tokens[at].line;
                let mut names = vec![word(at).to_owned()];
                while word(at + 1) == "::" && is_name(word(at + 2)) {
                    names.push(word(at + 2).to_owned());
                    at += 2;
                }
                if names.len() > 1 {
                    paths.push(Path { line, names });
                }
            }
            at += 1;
        }
        paths
    }

    /// Returns the attributes `#[..]` and `#![..]`: for each, the line number and the text between
    /// the brackets.
    pub(crate) fn attributes(&self) -> Vec<(usize, &str)> {
        let mut attributes = Vec::new();
        for (at, _) in self.code.match_indices('#') {
            let rest = self.code[at + 1..].trim_start_matches('!');
            if !rest.starts_with('[') {
                continue;
            }
            let mut depth = 0;
            let end = rest.find(|char| {
                depth += i32::from(char == '[') - i32::from(char == ']');
                depth == 0
            });
            attributes.push((line_of(&self.code, at), &rest[1..end.unwrap_or(rest.len())]));
        }
        attributes
    }
}

/// Returns the number of the line that contains the byte at `at`, counted from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Returns the length in characters and the kind of the first piece of the text.
fn piece(text: &[char], before: Option<char>) -> (usize, Kind) {
    let starts = |prefix: &str| prefix.chars().eq(text.iter().copied().take(prefix.len()));
    let word_before = before.is_some_and(|char| char.is_alphanumeric() || char == '_');
    if starts("//") {
        return (length_to(text, 2, "\n", false), Kind::Comment);
    }
    if starts("/*") {
        return (block_comment(text), Kind::Comment);
    }
    if !word_before {
        let prefix = ["br", "cr", "r"].iter().find(|prefix| starts(prefix));
        let hashes_from = prefix.map_or(0, |prefix| prefix.len());
        let hashes = text[hashes_from..].iter().take_while(|&&char| char == '#').count();
        if prefix.is_some() && text.get(hashes_from + hashes) == Some(&'"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return (length_to(text, hashes_from + hashes + 1, &end, false), Kind::Literal);
        }
    }
    if starts("\"") {
        return (length_to(text, 1, "\"", true), Kind::Literal);
    }
    // A quotation mark begins a character literal or a lifetime; a lifetime has no closing one.
    if starts("'\\") || (starts("'") && text.get(2) == Some(&'\'')) {
        return (length_to(text, 1, "'", true), Kind::Literal);
    }
    (1, Kind::Code)
}

/// Returns the length of the text up to the first `end` at or after position `from`, including this
/// `end` unless it is a line break. If `escapes` is set, skips each character after a backslash.
fn length_to(text: &[char], from: usize, end: &str, escapes: bool) -> usize {
    let end: Vec<char> = end.chars().collect();
    let mut at = from;
    while at < text.len() {
        if escapes && text[at] == '\\' {
            at += 2;
        } else if text[at..].starts_with(&end) {
            return if end == ['\n'] { at } else { at + end.len() };
        } else {
            at += 1;
        }
    }
    text.len()
}

fn block_comment(text: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

struct Token<'a> {
    line: usize,
    text: &'a str,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|char: char| char.is_alphabetic() || char == '_')
}

/// Splits code into tokens: words, `::`, and every other visible character by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let in_word = |char: char| char.is_alphanumeric() || char == '_';
        let length = if in_word(first) {
            rest.find(|char| !in_word(char)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (text, after) = rest.split_at(length);
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            tokens.push(Token { line, text });
        }
        rest = after;
    }
    tokens
}

/// Expands the import at token `at`, and adds its paths to `paths`. Returns the position of the
/// token that ends the import.
fn use_tree(tokens: &[Token<'_>], at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut names = prefix.to_vec();
    let (mut at, mut names_prefix) = (at, false);
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => {}
            "as" => at += 1,
            "{" => {
                while !matches!(tokens.get(at).map(|token| token.text), None | Some("}")) {
                    at = use_tree(tokens, at + 1, &names, paths);
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "self" if !names.is_empty() => names_prefix = true,
            name => names.push(name.to_owned()),
        }
        at += 1;
    }
    // After a trailing comma, only the prefix is left.
    if names.len() > prefix.len() || names_prefix {
        paths.push(Path { line, names });
    }
    at
}

#[test]
fn rust_source_is_split_into_code_and_comments() {
    let text = "a /* b /* c */ d */ \"e \\\" // f\" r#\"g \" h\"# 'i' '\\'' &'j // k\nl";
    let source = Source::split(text);
    let words: Vec<&str> = source.code.split_whitespace().collect();
    assert_eq!(words, ["a", "&'j", "l"]);
    let comments: Vec<&str> = source.comments.split_whitespace().collect();
    assert_eq!(comments, ["/*", "b", "/*", "c", "*/", "d", "*/", "//", "k"]);
    assert_eq!(line_of(&source.code, source.code.find('l').unwrap()), 2);
}

#[test]
fn rust_use_declarations_are_expanded_to_full_paths() {
    let text = "use a::{b, c::{self, d as e}, f::*,};\nuse g;\npub(in k::l) fn x() -> \
                impl use<'_> { h::i::<j>() }";
    let found: Vec<(usize, String)> =
        Source::split(text).paths().iter().map(|path| (path.line, path.names.join("::"))).collect();
    let expected =
        [(1, "a::b"), (1, "a::c"), (1, "a::c::d"), (1, "a::f::*"), (2, "g"), (3, "h::i")];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn rust_attributes_are_parsed_with_nested_brackets() {
    let source =
        Source::split("#![allow(x, reason = \"]\")]\n#[derive(A)]\n#[cfg_attr(b, expect(c))]");
    let found: Vec<(usize, &str)> = source.attributes();
    assert_eq!(found.len(), 3);
    assert!(found[0].1.starts_with("allow(x, reason ="));
    assert_eq!(found[2], (3, "cfg_attr(b, expect(c))"));
}
