//! Imports between the files of `src/`: no circle of files imports one another, except a parent
//! with its own children, and no file imports from a higher floor inside its folder. `TIDY_PRINT=1
//! cargo tidy imports -- --nocapture` prints the floors of each folder and the imports of each
//! file, in an order in which files only import earlier ones.
//!
//! A path through a re-export leads to the file that defines the name. Imports of unit tests are
//! ignored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use super::source::{Source, line_of};

/// The floors of each folder, lowest first; each floor is a list of files and folders. `*` stands
/// for everything that is not named. A file may import only from its own floor and from lower
/// floors.
const FLOORS: &[(&str, &[&[&str]])] = &[
    ("kv", &[&["values"], &["keyspace", "users"], &["commands"], &["*"]]),
    (
        "raft",
        &[
            &["effects", "message", "quorum", "role", "rules", "status"],
            &[
                "append_jobs",
                "disk_health",
                "entries",
                "hard_state",
                "inflights",
                "link",
                "log",
                "membership",
                "pending",
                "progress",
                "rejoin",
                "term_budget",
                "timing",
            ],
            &["shared"],
            &["reads", "transfer"],
            &["candidate", "follower", "leader"],
            &["change", "fanout", "snapshots"],
            &["*"],
        ],
    ),
    (
        "storage",
        &[
            &["error", "failpoint", "identity", "sector"],
            &["disk", "segment"],
            &["background_delete", "reserve"],
            &["mem_disk", "real_disk"],
            &["active_segment", "meta", "peers", "recovery", "shared_disk"],
            &["wrong_state"],
            &["log", "snapshots"],
            &["repair"],
            &["opening"],
            &["*"],
        ],
    ),
    (
        "redis",
        &[
            &[
                "acl_log",
                "failure",
                "library_check",
                "notifications",
                "unsupported_settings",
                "permissions",
                "session",
                "statistics",
                "traffic",
            ],
            &["access", "action", "context", "settings", "slow_log", "write_traces"],
            &["authorization", "call", "key_access", "spec"],
            &["commands", "lookup"],
            &["registry"],
            &["dispatch", "unknown_users"],
            &["*"],
        ],
    ),
    ("kv", &[&["values"], &["keyspace"], &["commands"], &["*"]]),
    (
        "runtime",
        &[
            &[
                "clock",
                "error",
                "fatal",
                "histogram",
                "long_script",
                "malloc_trim",
                "process_usage",
                "wake",
            ],
            &["boards", "pass", "trace_board"],
            &["channels"],
            &["stages"],
            &["course", "server"],
            &["*"],
        ],
    ),
];

/// Maximum length of a chain of re-exports that is followed.
const RE_EXPORTS_MAX: usize = 8;

/// Keywords that are followed by the name that they define.
const DEFINING: [&str; 10] =
    ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "mod", "macro_rules!"];

/// The imports of every file of `src/`.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    imports: BTreeMap<String, BTreeSet<String>>,
}

/// A source file whose imports are added to the graph.
struct File<'a> {
    path: &'a str,
    /// Module path of the file: `["raft", "log"]` for `src/raft/log.rs`.
    module: Vec<&'a str>,
    code: &'a str,
    /// The paths in the file, except those in its unit tests.
    paths: Vec<Vec<String>>,
}

impl Graph {
    /// Builds the graph of the imports between files of `src/`.
    pub(crate) fn new(sources: &[(String, Source)]) -> Graph {
        let counts = |path: &str| {
            path.starts_with("src/") && !path.starts_with("src/bin/") && !path.ends_with("tests.rs")
        };
        let files: Vec<File<'_>> = sources
            .iter()
            .filter(|(path, _)| counts(path))
            .map(|(path, source)| File::new(path, source))
            .collect();
        let modules: BTreeMap<&[&str], &File<'_>> =
            files.iter().map(|file| (&file.module[..], file)).collect();
        let mut graph = Graph::default();
        for file in &files {
            let found = file.paths.iter().filter_map(|names| resolve(&modules, file, names, 0));
            let imports: BTreeSet<String> =
                found.filter(|other| *other != file.path).map(str::to_owned).collect();
            graph.imports.insert(file.path.to_owned(), imports);
        }
        graph
    }

    fn imports(&self, file: &str) -> impl Iterator<Item = &str> {
        self.imports.get(file).into_iter().flatten().map(String::as_str)
    }

    /// Returns the shortest circle of imports through a file.
    fn circle<'a>(&'a self, start: &'a str) -> Vec<&'a str> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(file) = open.pop_front() {
            for other in self.imports(file) {
                if other == start {
                    let mut circle = vec![start, file];
                    while let Some(earlier) = before.get(circle[circle.len() - 1]) {
                        circle.push(earlier);
                    }
                    circle.reverse();
                    return circle;
                }
                if let Entry::Vacant(way) = before.entry(other) {
                    way.insert(file);
                    open.push_back(other);
                }
            }
        }
        Vec::new()
    }

    /// Returns the groups of files that import one another, directly or indirectly (strongly
    /// connected components, by Tarjan's algorithm).
    fn groups(&self) -> Vec<Vec<&str>> {
        let mut search =
            Search { graph: self, numbers: BTreeMap::new(), open: Vec::new(), groups: Vec::new() };
        for file in self.imports.keys() {
            if !search.numbers.contains_key(file.as_str()) {
                search.visit(file);
            }
        }
        search.groups
    }

    /// Returns whether one file of a group is the parent of all the others, and the others, without
    /// it, have no forbidden circle.
    fn has_parent(&self, group: &[&str]) -> bool {
        group.iter().any(|parent| {
            let children = group.iter().filter(|file| *file != parent);
            let children: BTreeSet<&str> = children.copied().collect();
            let imports = children.iter().map(|child| {
                let inside = self.imports(child).filter(|other| children.contains(other));
                ((*child).to_owned(), inside.map(str::to_owned).collect())
            });
            children.iter().all(|child| is_child(child, parent))
                && Graph { imports: imports.collect() }.circles().is_empty()
        })
    }

    /// Returns a violation for each circle of files, except for circles of a parent and its own
    /// children.
    fn circles(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for group in self.groups().into_iter().filter(|group| group.len() > 1) {
            if !self.has_parent(&group) {
                let first = group.iter().min().copied().unwrap_or_default();
                let (size, circle) = (group.len(), self.circle(first).join(" -> "));
                complaints.push(format!("{first}: {size} files import in a circle: {circle}"));
            }
        }
        complaints
    }

    /// Returns a violation for each import from a higher floor.
    fn upward(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (file, imports) in &self.imports {
            for other in imports {
                let (Some((layer, own)), Some((other_layer, floor))) =
                    (floor_of(file), floor_of(other))
                else {
                    continue;
                };
                if layer == other_layer && floor > own {
                    complaints.push(format!("{file} imports {other}, which is on a higher floor"));
                }
            }
        }
        complaints
    }

    /// Returns all violations of the rules for imports.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut complaints = self.circles();
        complaints.extend(self.upward());
        complaints
    }

    /// Returns the floors and the imports as text for a reader.
    pub(crate) fn print(&self) -> String {
        let mut text = String::new();
        let layers: BTreeSet<&str> = self.imports.keys().map(|file| layer_of(file)).collect();
        for layer in layers {
            let floors = FLOORS.iter().find(|(known, _)| *known == layer);
            let floors = floors.map_or_else(String::new, |(_, floors)| {
                let names: Vec<String> = floors.iter().map(|floor| floor.join(", ")).collect();
                format!(": {}", names.join(" < "))
            });
            writeln!(text, "{layer}{floors}").expect("a string takes everything");
            for file in self.in_order(layer) {
                let imports: Vec<&str> =
                    self.imports(file).map(|other| other.trim_start_matches("src/")).collect();
                let file = file.trim_start_matches("src/");
                writeln!(text, "    {file}: {}", imports.join(" "))
                    .expect("a string takes everything");
            }
        }
        text
    }

    /// Returns the files of a layer in an order in which each file comes after those that it
    /// imports, except in circles.
    fn in_order(&self, layer: &str) -> Vec<&str> {
        let files = self.groups().into_iter().flatten();
        files.filter(|file| layer_of(file) == layer).collect()
    }
}

/// A search for groups of files that import one another. It finds the groups in an order in which
/// each group imports only earlier ones.
struct Search<'a> {
    graph: &'a Graph,
    /// Index of each visited file, in the order of the visits.
    numbers: BTreeMap<&'a str, usize>,
    /// Visited files that have not been assigned to a group yet.
    open: Vec<&'a str>,
    groups: Vec<Vec<&'a str>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, file: &'a str) -> usize {
        let number = self.numbers.len();
        self.numbers.insert(file, number);
        self.open.push(file);
        let mut earliest = number;
        let graph = self.graph;
        for other in graph.imports(file) {
            if !self.numbers.contains_key(other) {
                earliest = earliest.min(self.visit(other));
            } else if self.open.contains(&other) {
                earliest = earliest.min(self.numbers[other]);
            }
        }
        if earliest == number {
            let from = self.open.iter().position(|open| *open == file).expect("it was pushed");
            self.groups.push(self.open.split_off(from));
        }
        earliest
    }
}

impl<'a> File<'a> {
    fn new(path: &'a str, source: &'a Source) -> File<'a> {
        let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
        let mut module: Vec<&str> = inside.split('/').collect();
        if matches!(module.last(), Some(&"mod" | &"lib")) {
            module.pop();
        }
        let tests_from = unit_tests(&source.code).map(|at| line_of(&source.code, at));
        let paths = source.paths().into_iter();
        let counts = |line: usize| tests_from.is_none_or(|tests| line < tests);
        let paths = paths.filter(|found| counts(found.line)).map(|found| found.names).collect();
        File { path, module, code: &source.code, paths }
    }

    /// Returns whether the file itself defines a name.
    fn defines(&self, name: &str) -> bool {
        DEFINING.iter().any(|word| {
            let definition = format!("{word} {name}");
            self.code.match_indices(&definition).any(|(at, _)| {
                let after = self.code[at + definition.len()..].chars().next();
                !after.is_some_and(|char| char.is_alphanumeric() || char == '_')
            })
        })
    }
}

/// Returns the position at which a file's unit tests start; `None` if it has none.
fn unit_tests(code: &str) -> Option<usize> {
    let mut marks = code.match_indices("#[cfg(test)]");
    let is_block = |rest: &str| {
        let end = rest.find([';', '{']).unwrap_or(rest.len());
        rest[..end].split_whitespace().any(|word| word == "mod") && rest[end..].starts_with('{')
    };
    marks.find(|(at, mark)| is_block(&code[at + mark.len()..])).map(|(at, _)| at)
}

/// Returns the file to which a path in `file` leads; `None` for a path outside of the crate, and
/// for an imported name.
fn resolve<'a>(
    modules: &BTreeMap<&[&str], &'a File<'a>>,
    file: &File<'_>,
    names: &[String],
    depth: usize,
) -> Option<&'a str> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ups = names.iter().take_while(|name| **name == "super").count();
    let absolute: Vec<&str> = match names[0] {
        "crate" | "bowline" => names[1..].to_vec(),
        "self" => [&file.module[..], &names[1..]].concat(),
        "super" => {
            let kept = file.module.len().checked_sub(ups)?;
            [&file.module[..kept], &names[ups..]].concat()
        }
        child => {
            let module = [&file.module[..], &[child]].concat();
            modules.get(&module[..])?;
            [&file.module[..], &names].concat()
        }
    };
    let mut lengths = (1..=absolute.len()).rev();
    let (length, target) =
        lengths.find_map(|length| Some((length, *modules.get(&absolute[..length])?)))?;
    let Some((name, rest)) = absolute[length..].split_first() else { return Some(target.path) };
    if depth >= RE_EXPORTS_MAX || *name == "*" || target.defines(name) {
        return Some(target.path);
    }
    let is_import_of =
        |path: &&Vec<String>| path.len() > 1 && path.last().is_some_and(|it| it == name);
    for import in target.paths.iter().filter(is_import_of) {
        let mut longer = import.clone();
        longer.extend(rest.iter().map(|name| (*name).to_owned()));
        if let Some(found) = resolve(modules, target, &longer, depth + 1) {
            return Some(found);
        }
    }
    let globs = target.paths.iter().filter(|path| path.last().is_some_and(|last| last == "*"));
    for glob in globs {
        let mut import = glob[..glob.len() - 1].to_vec();
        import.push((*name).to_owned());
        let found = resolve(modules, target, &import, depth + 1);
        let definer = found.and_then(|path| modules.values().find(|file| file.path == path));
        if let Some(definer) = definer.filter(|definer| definer.defines(name)) {
            return Some(definer.path);
        }
    }
    Some(target.path)
}

/// Returns whether a file is in the folder of a parent file: `src/a/b.rs` is a child of
/// `src/a/mod.rs` and of `src/a.rs`.
fn is_child(file: &str, parent: &str) -> bool {
    let folder = parent.trim_end_matches(".rs").trim_end_matches("/mod");
    file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn layer_of(file: &str) -> &str {
    let inside = file.strip_prefix("src/").unwrap_or(file);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// Returns the layer of a file, and the file's floor in this layer; `None` if the layer has no
/// floors.
fn floor_of(file: &str) -> Option<(&str, usize)> {
    let layer = layer_of(file);
    let (_, floors) = FLOORS.iter().find(|(known, _)| *known == layer)?;
    let inside = file.strip_prefix("src/")?.strip_prefix(layer)?.strip_prefix('/')?;
    let first = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    let floor_with = |name: &str| floors.iter().position(|floor| floor.contains(&name));
    Some((layer, floor_with(first).or_else(|| floor_with("*"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let sources: Vec<(String, Source)> =
            files.iter().map(|(path, text)| ((*path).to_owned(), Source::split(text))).collect();
        Graph::new(&sources)
    }

    fn complaints(files: &[(&str, &str)]) -> usize {
        graph(files).circles().len()
    }

    #[test]
    fn import_cycles_between_files_are_reported() {
        let a = ("src/raft/a.rs", "use super::b::B; struct A;");
        assert_eq!(complaints(&[a, ("src/raft/b.rs", "struct B;")]), 0);
        assert_eq!(complaints(&[a, ("src/raft/b.rs", "use crate::raft::a::A; struct B;")]), 1);
        let found = graph(&[
            a,
            ("src/raft/b.rs", "fn f() { super::c::c() } struct B;"),
            ("src/raft/c.rs", "use super::a::A; fn c() {}"),
        ]);
        let circle = "src/raft/a.rs -> src/raft/b.rs -> src/raft/c.rs -> src/raft/a.rs";
        assert_eq!(
            found.circles(),
            [format!("src/raft/a.rs: 3 files import in a circle: {circle}")]
        );
    }

    #[test]
    fn re_exported_import_resolves_to_the_defining_file() {
        let parent = ("src/raft/mod.rs", "mod a; mod b; pub use a::A; pub use b::*; struct P;");
        let a = ("src/raft/a.rs", "use super::B; struct A;");
        let b = ("src/raft/b.rs", "struct B;");
        let found = graph(&[parent, a, b]);
        assert_eq!(found.imports("src/raft/a.rs").collect::<Vec<_>>(), ["src/raft/b.rs"]);
        assert_eq!(complaints(&[parent, a, ("src/raft/b.rs", "use super::A; struct B;")]), 1);
    }

    #[test]
    fn parent_module_may_import_its_child_modules() {
        let parent = ("src/raft/mod.rs", "mod a; mod b; pub use a::A; struct P;");
        let a = ("src/raft/a.rs", "use super::P; struct A;");
        assert_eq!(complaints(&[parent, a]), 0);
        assert_eq!(complaints(&[parent, a, ("src/raft/b.rs", "use super::{A, P};")]), 0);
        let b = ("src/raft/b.rs", "use super::{A, P}; struct B;");
        assert_eq!(complaints(&[parent, ("src/raft/a.rs", "use super::b::B; struct A;"), b]), 1);
        let child = ("src/raft/a.rs", "use super::P; use self::x::X; struct A;");
        let grandchild = ("src/raft/a/x.rs", "use super::super::P; use super::A; struct X;");
        assert_eq!(complaints(&[parent, child, grandchild]), 0);
        let outside = ("src/kv/mod.rs", "use crate::raft::P; struct K;");
        let parent = ("src/raft/mod.rs", "mod a; mod b; pub use b::B; struct P;");
        let through = ("src/raft/b.rs", "use super::P; use crate::kv::K; struct B;");
        assert_eq!(complaints(&[parent, a, through, outside]), 1);
    }

    #[test]
    fn import_graph_ignores_unit_tests_and_std() {
        let a = ("src/raft/a.rs", "use super::b::B; struct A;");
        let b = "use std::fmt;\nstruct B;\n#[cfg(test)]\nmod tests { use super::super::a::A; }";
        assert_eq!(complaints(&[a, ("src/raft/b.rs", b)]), 0);
        assert_eq!(complaints(&[a, ("src/raft/b/tests.rs", "use super::super::a::A;")]), 0);
        let b = "#[cfg(test)]\nmod tests;\nuse super::a::A;\nstruct B;";
        assert_eq!(complaints(&[a, ("src/raft/b.rs", b)]), 1);
    }

    #[test]
    fn imports_from_a_lower_to_a_higher_layer_are_reported() {
        let upward = |from: &str, to: &str| {
            let text = format!("use crate::{to}::X;");
            let target = format!("src/{}.rs", to.replace("::", "/"));
            graph(&[(from, &text), (&target, "struct X;")]).upward().len()
        };
        assert_eq!(upward("src/kv/keyspace/a.rs", "kv::values::b"), 0);
        assert_eq!(upward("src/kv/keyspace/a.rs", "kv::keyspace::b"), 0);
        assert_eq!(upward("src/kv/values/a.rs", "kv::keyspace::b"), 1);
        assert_eq!(upward("src/kv/commands/a.rs", "kv::state_machine"), 1);
        assert_eq!(upward("src/kv/state_machine.rs", "kv::commands::a"), 0);
        assert_eq!(upward("src/kv/values/a.rs", "types"), 0);
    }
}
