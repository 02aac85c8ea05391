//! House rules that neither the compiler nor clippy checks: imports, module documentation,
//! leftovers, links, terms. Plain `std`, no parser; each rule is a function from text to
//! complaints, tested on small bad samples, and then run over the repository.

#[path = "tidy/commands.rs"]
mod commands;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/file_graph.rs"]
mod file_graph;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/terms.rs"]
mod terms;

use std::fs;

use source::{Source, line_of};

const LINE_CHARS_MAX: usize = 100;

/// Hosts that links in the repository may name. Any other host is probably a mirror, a proxy or a
/// name that means something on one machine only.
const HOSTS: &[&str] = &[
    "crates.io",
    "doc.rust-lang.org",
    "docs.rs",
    "github.com",
    "hdrhistogram.github.io",
    "opensource.org",
    "raft.github.io",
    "rustup.rs",
    "www.apache.org",
    "www.w3.org",
    "127.0.0.1",
    "localhost",
];

/// Returns the violations in a file of Rust source, apart from those in its imports.
fn check_rust(path: &str, text: &str, source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, what: &str| complaints.push(format!("{path}:{line}: {what}"));
    let opening = text.lines().next().unwrap_or("");
    if opening.strip_prefix("//! ").is_none_or(|words| words.trim().is_empty()) {
        complain(1, "begin with `//!` and what the file is for");
    }
    for (number, line) in text.lines().enumerate() {
        let length = line.chars().count();
        if length > LINE_CHARS_MAX {
            complain(number + 1, &format!("{length} characters, {LINE_CHARS_MAX} fit"));
        }
    }
    for left_behind in ["dbg!", "todo!", "unimplemented!"] {
        for (at, _) in source.code.match_indices(left_behind) {
            complain(line_of(&source.code, at), &format!("{left_behind} was left behind"));
        }
    }
    for note in ["TODO", "FIXME", "XXX"] {
        for (at, _) in source.comments.match_indices(note) {
            complain(line_of(&source.comments, at), &format!("do it, or open an issue: {note}"));
        }
    }
    for (line, attribute) in source.attributes() {
        let in_word = |char: char| char.is_alphanumeric() || char == '_';
        let word = |name: &str| attribute.split(|char| !in_word(char)).any(|word| word == name);
        if word("ignore") {
            complain(line, "a test that is never run shows nothing");
        }
        if (word("allow") || word("expect")) && !word("reason") {
            complain(line, "say why: add `reason = \"..\"`");
        }
    }
    complaints
}

/// Returns a violation for each path or host that means something on one machine only.
fn check_portable(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    // In pieces, or this file would contain them.
    for top in ["work", "root", "home", "tmp", "Users"] {
        let folder = format!("/{top}");
        for (at, _) in text.match_indices(&folder) {
            let part_of_longer = |char: char| char.is_alphanumeric() || "_-.~".contains(char);
            let before = text[..at].chars().next_back();
            let after = text[at + folder.len()..].chars().next();
            let outside = after.is_none_or(|char| !part_of_longer(char) || char == '.');
            if outside && !before.is_some_and(part_of_longer) {
                complaints.push(format!("{path}:{}: a machine's own path", line_of(text, at)));
            }
        }
    }
    for (at, scheme) in text.match_indices("://") {
        let rest = &text[at + scheme.len()..];
        let in_host = |char: char| char.is_alphanumeric() || "-.".contains(char);
        let host = &rest[..rest.find(|char| !in_host(char)).unwrap_or(rest.len())];
        // A placeholder such as HOST is in upper case.
        let is_name = host.chars().any(char::is_lowercase) || host.contains('.');
        if is_name && !HOSTS.contains(&host) {
            let line = line_of(text, at);
            complaints.push(format!("{path}:{line}: {host} is not in tests/tidy.rs's HOSTS"));
        }
    }
    let settings = path.starts_with(".cargo/") || path.ends_with("Cargo.toml");
    for setting in ["[source", "[registries", "[registry", "[http", "[net"] {
        if settings && text.lines().any(|line| line.starts_with(setting)) {
            complaints.push(format!("{path}: {setting}..] belongs into the user's own settings"));
        }
    }
    complaints
}

/// Returns a violation for each golden trace that the runner, `tests/golden.rs`, skips. The runner
/// runs a whole folder or names each file.
fn check_golden(files: &[String], runner: &str) -> Vec<String> {
    let golden = files.iter().filter(|file| file.starts_with("tests/golden/"));
    let not_run = golden.filter(|file| {
        let (folder, name) = file.rsplit_once('/').expect("a golden file is in a folder");
        let Some(stem) = name.strip_suffix(".txt") else { return true };
        let mut words = runner.split(|char: char| !char.is_alphanumeric() && char != '_');
        let by_folder = runner.contains("read_dir(") && runner.contains(&format!("\"{folder}\""));
        !by_folder && !words.any(|word| word == stem)
    });
    not_run.map(|file| format!("{file}: tests/golden.rs does not run it")).collect()
}

/// Returns a violation for each test command in the README that `.ci/run` does not run. `.ci/run`
/// may add arguments.
fn check_commands(readme: &str, ci: &str) -> Vec<String> {
    let commands = readme.lines().filter(|line| line.starts_with("cargo test"));
    let is_run = |command: &str| {
        let run = format!("run {command}");
        let mut rests = ci.lines().filter_map(|line| line.strip_prefix(&run));
        rests.any(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let left_out = commands.filter(|command| !is_run(command));
    left_out.map(|command| format!("README.md: .ci/run does not run `{command}`")).collect()
}

fn read(path: &str) -> Option<String> {
    let bytes = fs::read(files::root().join(path)).expect("a listed file is readable");
    String::from_utf8(bytes).ok()
}

fn is_rust(path: &str) -> bool {
    path.strip_suffix(".rs").is_some()
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    let rust = files::files().into_iter().filter(|path| is_rust(path));
    rust.map(|path| {
        let text = read(&path).unwrap_or_else(|| panic!("{path} is not UTF-8"));
        (path, text)
    })
}

#[track_caller]
fn assert_tidy(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn source_imports_follow_the_layering_rules() {
    let inside = rust_files().filter(|(path, _)| path.starts_with("src/"));
    let complaints: Vec<String> =
        inside.flat_map(|(path, text)| layers::check_file(&path, &Source::split(&text))).collect();
    assert_tidy(&complaints);
}

#[test]
fn source_file_imports_have_no_cycles() {
    let sources: Vec<(String, Source)> =
        rust_files().map(|(path, text)| (path, Source::split(&text))).collect();
    let graph = file_graph::Graph::new(&sources);
    if std::env::var_os("TIDY_PRINT").is_some() {
        println!("{}", graph.print());
    }
    assert_tidy(&graph.check());
}

#[test]
fn every_cargo_dependency_has_a_purpose_comment() {
    assert_tidy(&layers::check_dependencies(&read("Cargo.toml").expect("it is UTF-8")));
}

#[test]
fn source_files_follow_the_style_rules() {
    let complaints: Vec<String> = rust_files()
        .flat_map(|(path, text)| check_rust(&path, &text, &Source::split(&text)))
        .collect();
    assert_tidy(&complaints);
}

#[test]
fn code_and_comments_use_no_banned_terms() {
    let complaints: Vec<String> =
        rust_files().flat_map(|(path, text)| terms::check(&path, &text)).collect();
    assert_tidy(&complaints);
}

#[test]
fn files_contain_no_machine_specific_paths_or_hosts() {
    let texts = files::files().into_iter().filter_map(|path| read(&path).map(|text| (path, text)));
    let complaints: Vec<String> =
        texts.flat_map(|(path, text)| check_portable(&path, &text)).collect();
    assert_tidy(&complaints);
}

#[test]
fn every_golden_trace_file_is_run_by_a_test() {
    let files = files::files();
    let runner = files.iter().find(|path| *path == "tests/golden.rs");
    let runner = runner.and_then(|path| read(path)).unwrap_or_default();
    assert_tidy(&check_golden(&files, &runner));
}

/// Returns the README, the pages of the guide and the pages about measurements, each with its path
/// and text.
fn pages() -> impl Iterator<Item = (String, String)> {
    let pages = files::files().into_iter().filter(|path| documents::is_page(path));
    pages.map(|path| {
        let text = read(&path).unwrap_or_else(|| panic!("{path} is not UTF-8"));
        (path, text)
    })
}

#[test]
fn readmes_are_short_and_name_every_folder() {
    let readme = read("README.md").expect("README is text");
    let mut complaints = documents::check_folders(&readme, &files::files());
    complaints.extend(pages().flat_map(|(path, text)| documents::check_length(&path, &text)));
    assert_tidy(&complaints);
}

#[test]
fn links_and_paths_in_documentation_resolve() {
    let files = files::files();
    let complaints: Vec<String> = pages()
        .flat_map(|(path, text)| {
            let mut complaints = documents::check_links(&path, &text, &files);
            complaints.extend(documents::check_paths(&path, &text, &files));
            complaints
        })
        .collect();
    assert_tidy(&complaints);
}

#[test]
fn commands_in_documentation_are_valid() {
    let (files, settings) = (files::files(), read(".cargo/config.toml").expect("it is UTF-8"));
    let complaints: Vec<String> = pages()
        .flat_map(|(path, text)| documents::check_commands(&path, &text, &files, &settings))
        .collect();
    assert_tidy(&complaints);
}

#[test]
fn documentation_uses_no_banned_terms() {
    let complaints: Vec<String> =
        pages().flat_map(|(path, text)| documents::check_words(&path, &text)).collect();
    assert_tidy(&complaints);
}

#[test]
fn every_mutant_has_a_safety_rule_with_existing_tests() {
    let page = read("src/guide/guarantees.md").expect("it is UTF-8");
    let config = read("src/config.rs").expect("it is UTF-8");
    let files = files::files();
    let read = |path: &str| files.iter().find(|file| *file == path).and_then(|file| read(file));
    assert_tidy(&documents::check_rules(&page, &config, read));
}

#[test]
fn ci_runs_every_test_command_of_the_readme() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    assert_tidy(&check_commands(&readme.expect("it is UTF-8"), &ci.expect("it is UTF-8")));
}

mod samples {
    use super::*;

    fn rust(text: &str) -> Vec<String> {
        check_rust("sample.rs", text, &Source::split(text))
    }

    #[test]
    fn missing_module_docs_are_reported() {
        assert!(rust("//! A sample.\nfn f() {}\n").is_empty());
        for headless in ["", "fn f() {}\n", "// Plain.\n", "//!\n", "\n//! Late.\n"] {
            assert_eq!(rust(headless).len(), 1, "{headless:?}");
        }
    }

    #[test]
    fn line_length_limit_counts_characters_not_bytes() {
        assert!(rust(&format!("//! {}\n", "ä".repeat(96))).is_empty());
        assert_eq!(
            rust(&format!("//! {}\n", "ä".repeat(97))),
            ["sample.rs:1: 101 characters, 100 fit"]
        );
    }

    #[test]
    fn debug_macros_ignored_tests_and_todos_are_reported() {
        let bad = ["dbg!(1);", "todo!()", "unimplemented!()", "#[ignore]", "#[ignore = \"slow\"]"];
        for line in bad.into_iter().chain(["// TODO: more", "/* FIXME */", "/// XXX"]) {
            let complaints = rust(&format!("//! A sample.\n{line}\n"));
            assert_eq!(complaints.len(), 1, "{line}");
            assert!(complaints[0].starts_with("sample.rs:2: "), "{complaints:?}");
        }
        assert!(
            rust("//! A sample.\nconst A: &str = \"dbg! TODO #[ignore]\"; // todo!\n").is_empty()
        );
    }

    #[test]
    fn lint_exception_without_a_reason_is_reported() {
        for bare in ["#[allow(x)]", "#![expect(x)]", "#[cfg_attr(y, allow(x))]", "#[expect(\nx\n)]"]
        {
            assert_eq!(rust(&format!("//! A sample.\n{bare}\n")).len(), 1, "{bare}");
        }
        for good in ["#[allow(x, reason = \"y\")]", "g().expect(\"h\")", "#[arg(allow_x = true)]"] {
            assert!(rust(&format!("//! A sample.\n{good}\n")).is_empty(), "{good}");
        }
    }

    #[test]
    fn machine_specific_paths_and_hosts_are_reported() {
        let count = |text: &str| check_portable("README.md", text).len();
        for top in ["work", "root", "home", "tmp", "Users"] {
            assert_eq!(count(&format!("cd /{top}/x")), 1, "{top}");
            assert_eq!(count(&format!("ls /{top}.")), 1, "{top}");
            assert_eq!(count(&format!("src/sim/{top}load.rs or /{top}load or a/{top}/b")), 0);
        }
        assert_eq!(count("https://github.com/x http://127.0.0.1:80 a:// redis://HOST:PORT"), 0);
        for scheme in ["https:", "sparse+https:"] {
            assert_eq!(count(&format!("{scheme}//mirror.example:8080/crates")), 1);
        }
        assert_eq!(check_portable(".cargo/config.toml", "[source.crates-io]\n").len(), 1);
        assert_eq!(check_portable("Cargo.toml", "[registries.x]\n").len(), 1);
    }

    #[test]
    fn readme_test_command_missing_from_ci_is_reported() {
        let readme = "Type\n```sh\ncargo test --all\n```\n";
        assert!(check_commands(readme, "x\nrun cargo test --all\n").is_empty());
        assert!(check_commands(readme, "run cargo test --all --features x\n").is_empty());
        assert_eq!(check_commands(readme, "# run cargo test --all\n").len(), 1);
    }

    #[test]
    fn golden_trace_without_a_test_is_reported() {
        let files = ["tests/golden/a.txt".to_owned(), "tests/golden/deep/b.txt".to_owned()];
        assert_eq!(check_golden(&files, "").len(), 2);
        assert_eq!(
            check_golden(&files, "run(\"a\");"),
            ["tests/golden/deep/b.txt: tests/golden.rs does not run it"]
        );
        assert_eq!(check_golden(&files, "read_dir(\"tests/golden\")").len(), 1);
        assert_eq!(check_golden(&files, "golden!(ab, b_);").len(), 2);
        assert!(check_golden(&files, "golden!(a, b);").is_empty());
    }
}
