//! Checks of the README, `perf/` and the guide: their length and links, the files, tests and
//! commands that they name, and banned words.

use std::collections::BTreeSet;

use super::commands::{arguments, commands};

/// Maximum number of lines of a README.
const README_LINES_MAX: usize = 150;

/// Programs that commands on pages may run. Any other program is probably a mistake; if not, add
/// it.
const PROGRAMS: &[&str] = &[
    "apt-get",
    "bowline",
    "cargo",
    "curl",
    "docker",
    "journalctl",
    "kubectl",
    "mv",
    "systemctl",
    "until",
    "target/release/bowline",
    "tests/libraries/run.py",
    "redis-cli",
    "redis-benchmark",
    "rclone",
    "kill",
    "openssl",
    "perf",
    "perf/pictures/make",
    "strace",
    "for",
    "do",
    "done",
    "floor-replica",
];

/// Home-made terms that have a standard term, with the standard term. A term is matched at the
/// beginning of a word.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "name the actor"),
    ("somebody", "name the actor"),
    ("what came of it", "the outcome"),
    ("what comes of it", "the outcome"),
    ("so many of", "a number, or \"this number of\""),
    ("keys end", "keys expire"),
    ("key ends", "the key expires"),
    ("has ended", "has expired"),
    ("who listens", "subscribers"),
    ("whoever listens", "subscribers"),
    ("listeners", "subscribers"),
    ("what befalls", "keyspace notifications"),
    ("letting go", "background deletion"),
    ("take off", "send"),
    ("successor", "transfer target"),
    ("handing the lead", "leadership transfer"),
    ("hands the lead", "transfers the leadership"),
    ("hands its lead", "transfers the leadership"),
    ("the lead ", "the leadership"),
    ("give up the lead", "step down"),
    ("changes of leader", "leader changes"),
    ("change of leader", "leader change"),
    ("changes of membership", "membership changes"),
    ("memory of requests", "deduplication table"),
    ("cut the log", "compact the log"),
    ("cuts its log", "compacts its log"),
    ("log is cut", "log is compacted"),
    ("logs cut", "logs compacted"),
    ("cut behind", "compacted behind"),
    ("wrong clocks", "clock skew"),
    ("the log's clock", "the replicated clock"),
    ("log's clock", "the replicated clock"),
    ("lateness", "delay"),
    ("repetition", "duplication"),
    ("holds most", "uses the most memory"),
    ("was not done", "was not applied"),
    ("is told no", "is rejected"),
    ("well disk", "healthy disk"),
    ("under way", "in flight"),
    ("vouch", "acknowledge"),
];

/// Returns whether a file is a page that these checks read: one that is written for readers of the
/// project.
pub(crate) fn is_page(path: &str) -> bool {
    let named = path.strip_suffix(".md").is_some();
    named && (!path.contains('/') || path.starts_with("perf/") || path.starts_with("src/guide/"))
}

/// Returns a violation if the page is a README that is too long.
pub(crate) fn check_length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let too_long = path.ends_with("README.md") && lines > README_LINES_MAX;
    let complaint = || format!("{path}: {lines} lines, at most {README_LINES_MAX}; use the guide");
    too_long.then(complaint).into_iter().collect()
}

/// Returns a violation for each top-level folder that the README does not name.
pub(crate) fn check_folders(readme: &str, files: &[String]) -> Vec<String> {
    let tops: BTreeSet<&str> =
        files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let missing = tops.into_iter().filter(|top| !readme.contains(&format!("`{top}/`")));
    missing.map(|top| format!("README.md: say what `{top}/` is for")).collect()
}

/// Returns a violation for each link to a file or heading that does not exist.
pub(crate) fn check_links(path: &str, text: &str, files: &[String]) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let broken = links(text).into_iter().filter_map(|(line, target)| {
        if target.contains("://") {
            return None;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let is_here = file.is_empty() && headings(text).any(|slug| slug == anchor);
        let resolved = resolve(folder, file);
        let inside = format!("{}/", resolved.trim_end_matches('/'));
        let exists = !file.is_empty()
            && files.iter().any(|known| *known == resolved || known.starts_with(&inside));
        (!is_here && !exists).then(|| format!("{path}:{line}: the link {target} leads nowhere"))
    });
    broken.collect()
}

/// Returns a violation for each file or folder in backticks that does not exist.
pub(crate) fn check_paths(path: &str, text: &str, files: &[String]) -> Vec<String> {
    let tops = ["src/", "tests/", "benches/", ".ci/", ".cargo/"];
    let missing = code_spans(text).filter_map(|(line, span)| {
        let named = tops.iter().any(|top| span.starts_with(top)) && !span.contains(['*', ' ']);
        let folder = format!("{}/", span.trim_end_matches('/'));
        let exists = files.iter().any(|file| *file == span || file.starts_with(&folder));
        (named && !exists).then(|| format!("{path}:{line}: there is no `{span}`"))
    });
    missing.collect()
}

/// Returns a violation for each command that names a program, a test, a benchmark or an alias that
/// does not exist. The arguments are checked by the programs' own tests.
pub(crate) fn check_commands(
    path: &str,
    text: &str,
    files: &[String],
    settings: &str,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for command in commands(text) {
        let mut complain = |what: String| {
            complaints.push(format!("{path}:{}: {what}", command.line));
        };
        let program = command.words[0].as_str();
        if !PROGRAMS.contains(&program) {
            complain(format!("{program} is not in PROGRAMS of tests/tidy/documents.rs"));
        }
        for pair in command.words.windows(2).take_while(|pair| pair[0] != "--") {
            let folder = match pair[0].as_str() {
                "--test" => "tests",
                "--bench" => "benches",
                _ => continue,
            };
            if !files.contains(&format!("{folder}/{}.rs", pair[1])) {
                complain(format!("there is no {folder}/{}.rs", pair[1]));
            }
        }
        if let Some([sub, ..]) = arguments(&command, &["cargo"]) {
            // `cargo deb` is installed by a command on the same page.
            let known = ["build", "run", "test", "bench", "doc", "fmt", "install", "deb"];
            if !known.contains(&sub.as_str())
                && !settings.lines().any(|line| line.starts_with(&format!("{sub} = ")))
            {
                complain(format!("cargo has no command {sub}, and .cargo/config.toml no alias"));
            }
        }
    }
    complaints
}

/// Returns a violation for each banned term outside of code.
pub(crate) fn check_words(path: &str, text: &str) -> Vec<String> {
    let prose = prose(text).to_lowercase();
    let mut complaints = Vec::new();
    for (phrase, better) in BANNED {
        for (at, _) in prose.match_indices(phrase) {
            let inside = prose[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            if !inside {
                let line = prose[..at].matches('\n').count() + 1;
                complaints.push(format!("{path}:{line}: not \"{phrase}\" but: {better}"));
            }
        }
    }
    complaints
}

/// Returns a violation for each mutant that `guarantees.md` lacks or invents, and for each test
/// that it names in a file that does not contain the test. `read` returns the text of a file of the
/// repository.
pub(crate) fn check_rules(
    page: &str,
    config: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let name = "src/guide/guarantees.md";
    let mut complaints = Vec::new();
    let mutants = variants(config);
    let named: BTreeSet<&str> =
        rule_spans(page).map(|(_, span)| span).filter(|span| is_camel_case(span)).collect();
    for missing in mutants.iter().filter(|mutant| !named.contains(mutant.as_str())) {
        complaints.push(format!("{name}: no rule names the mutant {missing}"));
    }
    for invented in named.iter().filter(|named| !mutants.contains(**named)) {
        complaints.push(format!("{name}: there is no mutant {invented}"));
    }
    // A test follows its file, or the word for golden traces.
    for (number, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with("| **")) {
        for part in line.split([';', '|']) {
            let golden = part.trim_start().starts_with("golden: ");
            let spans: Vec<&str> = part.split('`').skip(1).step_by(2).collect();
            let (file, tests) = match spans.split_first() {
                Some((file, tests)) if file.strip_suffix(".rs").is_some() => (*file, tests),
                _ if golden => ("", &spans[..]),
                _ => continue,
            };
            let text = read(file).unwrap_or_default();
            let exists = |test: &&str| {
                if golden {
                    read(&format!("tests/golden/{test}.txt")).is_some()
                } else {
                    [format!("fn {test}("), format!(" {test}:")].iter().any(|at| text.contains(at))
                }
            };
            for missing in tests.iter().filter(|test| !exists(test)) {
                let place = if golden { "golden trace" } else { file };
                complaints.push(format!("{name}:{}: {place}: no {missing}", number + 1));
            }
        }
    }
    complaints
}

/// Returns the names of the variants of `enum Mutant`.
fn variants(config: &str) -> BTreeSet<String> {
    let body = config.split_once("pub enum Mutant {").map_or("", |(_, rest)| rest);
    let body = body.split_once("\n}").map_or("", |(body, _)| body);
    let names = body.lines().map(|line| line.trim().trim_end_matches(','));
    names.filter(|name| is_camel_case(name)).map(str::to_owned).collect()
}

fn is_camel_case(word: &str) -> bool {
    word.starts_with(|char: char| char.is_ascii_uppercase())
        && word.chars().all(|char| char.is_ascii_alphanumeric())
        && word.contains(|char: char| char.is_ascii_lowercase())
}

/// Returns the texts in backticks in the last column of the tables of rules, with their line
/// numbers.
fn rule_spans(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let rows = page.lines().enumerate().filter(|(_, line)| line.starts_with("| **"));
    let cells = rows.filter_map(|(number, line)| Some((number + 1, line.split(" | ").nth(3)?)));
    cells.flat_map(|(number, cell)| {
        cell.split('`').skip(1).step_by(2).map(move |span| (number, span))
    })
}

/// Returns the lines outside of fenced blocks, with their line numbers.
fn text_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        (!fence && !in_block).then_some((number + 1, line))
    })
}

/// Returns the texts in backticks, with their line numbers.
fn code_spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text_lines(text)
        .flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |s| (number, s)))
}

/// Returns the text with the code removed. The line numbers stay the same.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        if !fence && !in_block {
            for plain in line.split('`').step_by(2) {
                prose.push_str(plain);
            }
        }
        prose.push('\n');
    }
    prose
}

/// Returns the targets of links, pictures and link definitions, with their line numbers.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in text_lines(text) {
        for (at, _) in line.match_indices("](") {
            if let Some((target, _)) = line[at + 2..].split_once(')') {
                links.push((number, target));
            }
        }
        if line.starts_with('[')
            && let Some((_, target)) = line.split_once("]: ")
        {
            links.push((number, target));
        }
    }
    links
}

/// Returns the headings in the form of link anchors, as code hosts generate them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = text_lines(text).filter(|(_, line)| line.starts_with('#'));
    titles.map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
        kept.map(|char| if char == ' ' { '-' } else { char }).collect()
    })
}

/// Resolves a relative path, starting from a folder of the repository.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<String> {
        let names = ["README.md", "src/lib.rs", "src/guide/a.md", "perf/pictures/x.svg"];
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn broken_links_and_paths_in_documentation_are_reported() {
        let check = |text: &str| check_links("src/guide/a.md", text, &files()).len();
        assert_eq!(check("[a](../lib.rs) ![x](../../perf/pictures/x.svg) [b](https://docs.rs)"), 0);
        assert_eq!(check("# One: two\n[here](#one-two)\n[a]: a.md\n[up](../../perf/pictures/)"), 0);
        assert_eq!(check("[a](lib.rs)"), 1);
        assert_eq!(check("[here](#nowhere)"), 1);
        assert_eq!(check("[a]: b.md"), 1);
        let paths = |text: &str| check_paths("README.md", text, &files()).len();
        assert_eq!(paths("`src/lib.rs` `src/guide/` `target/x` `src/guide/*.md`"), 0);
        assert_eq!(paths("`src/gone.rs`"), 1);
    }

    #[test]
    fn long_readmes_and_unlisted_folders_are_reported() {
        assert_eq!(check_length("README.md", &"x\n".repeat(150)).len(), 0);
        assert_eq!(check_length("perf/README.md", &"x\n".repeat(151)).len(), 1);
        assert_eq!(check_length("src/guide/a.md", &"x\n".repeat(151)).len(), 0);
        assert_eq!(check_folders("`src/` and `perf/`", &files()).len(), 0);
        assert_eq!(check_folders("`src/`", &files()).len(), 1);
    }

    #[test]
    fn unknown_commands_in_documentation_are_reported() {
        let check = |line: &str| {
            let page = format!("```sh\n{line}\n```\n");
            check_commands("README.md", &page, &["tests/a.rs".to_owned()], "lint = \"x\"\n").len()
        };
        assert_eq!(check("cargo test --test a"), 0);
        assert_eq!(check("cargo lint && redis-cli ping"), 0);
        assert_eq!(check("cargo test --test b"), 1);
        assert_eq!(check("cargo nonesuch"), 1);
        assert_eq!(check("rm x"), 1);
    }

    #[test]
    fn banned_words_in_documentation_prose_are_reported() {
        let check = |text: &str| check_words("README.md", text).len();
        assert_eq!(check("`whoever`\n```text\nwhoever\n```\nthe leader"), 0);
        assert_eq!(check("Whoever writes"), 1);
        assert_eq!(
            check_words("a.md", "x\nKeys end now"),
            ["a.md:2: not \"keys end\" but: keys expire"]
        );
    }

    #[test]
    fn undocumented_mutants_and_missing_tests_are_reported() {
        let config = "pub enum Mutant {\n    /// One.\n    VoteTwice,\n    CutDamage,\n}\n";
        let read = |path: &str| match path {
            "tests/a.rs" => Some("fn one() {}\n    two: VoteTwice, 3;\n".to_owned()),
            "tests/golden/g.txt" => Some(String::new()),
            _ => None,
        };
        let check = |page: &str| check_rules(page, config, read).len();
        let row =
            "| **A** | b | `tests/a.rs`: `one`, `two`; golden: `g` | `VoteTwice`, `CutDamage` |";
        assert_eq!(check(row), 0);
        assert_eq!(check(&row.replace("`CutDamage`", "")), 1);
        assert_eq!(check(&row.replace("CutDamage`", "CutDamage`, `Invented`")), 1);
        assert_eq!(check(&row.replace("`two`", "`three`")), 1);
        assert_eq!(check(&row.replace("`g`", "`h`")), 1);
    }
}
