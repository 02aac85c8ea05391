//! The commands in the `sh` blocks of Markdown pages, split into arguments as in a shell. This file
//! has no dependencies, because `tests/tidy.rs` and the tests of `bowline` and of `cargo perf`
//! include it.

/// A command on a page: the number of its first line, and its words up to a pipe, a redirection or
/// the next command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) words: Vec<String>,
}

/// Words that end a command.
const ENDS: &[&str] = &["&&", "||", "|", "&", ";", ">", "<", "2>"];

/// Returns all commands in the `sh` blocks of a page, without environment variables, `sudo` and
/// comments.
pub(crate) fn commands(page: &str) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut in_block = false;
    let mut begun: Option<(usize, String)> = None;
    for (number, line) in page.lines().enumerate() {
        let text = line.trim();
        if text.starts_with("```") {
            in_block = !in_block && text == "```sh";
            continue;
        }
        if !in_block {
            continue;
        }
        let (first, mut whole) = begun.take().unwrap_or((number + 1, String::new()));
        if let Some(part) = text.strip_suffix('\\') {
            whole.push_str(part);
            begun = Some((first, whole));
            continue;
        }
        whole.push_str(text);
        let words = split(&whole);
        let parts = words.split(|word| ENDS.contains(&word.as_str()));
        commands.extend(parts.filter_map(|words| {
            let is_prefix = |word: &String| word == "sudo" || is_assignment(word);
            let words: Vec<String> = words.iter().skip_while(|w| is_prefix(w)).cloned().collect();
            (!words.is_empty()).then_some(Command { line: first, words })
        }));
    }
    commands
}

/// Returns the arguments that follow one of `programs`, if the command runs one of them. An element
/// of `programs` is a program's name, optionally with its first arguments.
pub(crate) fn arguments<'c>(command: &'c Command, programs: &[&str]) -> Option<&'c [String]> {
    programs.iter().find_map(|program| {
        let prefix: Vec<&str> = program.split(' ').collect();
        let matches = command.words.len() >= prefix.len()
            && command.words.iter().zip(&prefix).all(|(word, wanted)| word == wanted);
        matches.then(|| &command.words[prefix.len()..])
    })
}

fn is_assignment(word: &str) -> bool {
    let upper = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_';
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(upper))
}

/// Splits a line into words, without quotation marks and comments.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in line.chars() {
        if quote == Some(char) {
            quote = None;
            continue;
        }
        let plain = quote.is_none();
        match char {
            '\'' | '"' if plain => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            '#' if plain && word.is_none() => break,
            ';' if plain => {
                words.extend(word.take());
                words.push(";".to_owned());
            }
            _ if plain && char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

#[test]
fn documented_shell_commands_are_split_into_words() {
    let page = "x\n```sh\nA=1 sudo b c  'd e' # f\n\ng \\\n    --h=\"i\" && j > k\n```\n\
                ```toml\nl = 1\n```\n";
    let found: Vec<(usize, String)> =
        commands(page).iter().map(|command| (command.line, command.words.join("|"))).collect();
    let expected = [(3, "b|c|d e"), (5, "g|--h=i"), (5, "j"), (5, "k")];
    assert_eq!(found, expected.map(|(line, words)| (line, words.to_owned())));
    let command = &commands("```sh\ncargo run -- a b\n```")[0];
    assert_eq!(arguments(command, &["x", "cargo run --"]).unwrap(), ["a", "b"]);
    assert_eq!(arguments(command, &["run"]), None);
}
