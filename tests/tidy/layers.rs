//! Layers: which folders of `src/` may import one another, and which external crates and parts of
//! `std` each folder may use.

use crate::source::Source;

/// All layers, each with the layers that it may import besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("feature_level", &[]),
    ("guide", &[]),
    ("rdb", &[]),
    ("clock", &["types"]),
    ("config", &["types", "feature_level"]),
    ("membership", &["types", "feature_level"]),
    ("record", &["types", "feature_level", "membership"]),
    ("raft", &["types", "feature_level", "config", "membership", "record"]),
    ("kv", &["types", "feature_level", "rdb", "config", "membership", "record"]),
    ("wire", &["types", "feature_level", "config", "record", "raft", "kv"]),
    ("transport", &["types", "feature_level", "config", "wire"]),
    ("storage", &["types", "feature_level", "config", "record", "raft"]),
    ("snapshot_check", &["raft", "kv", "storage"]),
    ("large_writes", &["types", "raft", "kv"]),
    ("digest_schedule", &["types", "kv"]),
    ("backup", &["types", "kv"]),
    ("tls", &["types"]),
    ("lua", &[]),
    ("course", &["types"]),
    (
        "sim",
        &[
            "course",
            "types",
            "feature_level",
            "clock",
            "config",
            "membership",
            "record",
            "raft",
            "kv",
            "wire",
            "transport",
            "storage",
            "snapshot_check",
            "large_writes",
            "digest_schedule",
        ],
    ),
    (
        "redis",
        &["types", "feature_level", "rdb", "config", "membership", "record", "kv", "wire", "lua"],
    ),
    (
        "runtime",
        &[
            "types",
            "feature_level",
            "clock",
            "config",
            "membership",
            "record",
            "raft",
            "kv",
            "wire",
            "transport",
            "storage",
            "snapshot_check",
            "large_writes",
            "digest_schedule",
            "backup",
            "redis",
            "lua",
            "tls",
        ],
    ),
    (
        "processes",
        &["types", "config", "record", "raft", "kv", "wire", "storage", "course", "runtime"],
    ),
    (
        "bin",
        &[
            "types",
            "feature_level",
            "rdb",
            "config",
            "membership",
            "record",
            "raft",
            "kv",
            "wire",
            "storage",
            "backup",
            "redis",
            "course",
            "sim",
            "runtime",
            "processes",
            "tls",
        ],
    ),
];

/// Layers that may depend on the machine: only these read clocks, open files and sockets, and start
/// threads.
const IMPURE: &[&str] = &["runtime", "processes", "bin"];

/// Files of a pure layer that may depend on the machine, behind a trait.
const IMPURE_FILES: [&str; 5] = [
    "src/storage/background_delete.rs",
    "src/storage/read_only_disk.rs",
    "src/storage/real_disk.rs",
    "src/storage/reserve.rs",
    "src/tls/files.rs",
];

/// Parts of `std` that only [`IMPURE`] layers may use.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

/// All dependencies of the library, each with the layers that may use it. For example, this keeps
/// sockets out of the core.
const CRATES: &[(&str, &[&str])] = &[
    ("anyhow", &["bin"]),
    ("base64", &["wire"]),
    (
        "bytes",
        &[
            "rdb",
            "membership",
            "record",
            "raft",
            "kv",
            "wire",
            "transport",
            "storage",
            "redis",
            "sim",
            "runtime",
            "processes",
            "bin",
        ],
    ),
    ("clap", &["bin"]),
    ("crc", &["rdb"]),
    ("crc32c", &["record", "kv", "wire", "storage", "backup"]),
    ("crossbeam", &["runtime", "processes"]),
    ("foldhash", &["kv", "sim"]),
    ("hashbrown", &["kv", "sim"]),
    ("hdrhistogram", &["course", "redis"]),
    ("httparse", &["wire"]),
    ("indexmap", &["kv", "runtime"]),
    ("indicatif", &["bin"]),
    ("mio", &["runtime", "processes"]),
    ("mlua", &["lua"]),
    ("parking_lot", &["storage", "runtime", "processes"]),
    ("prometheus_client", &["runtime"]),
    ("quinn_udp", &["runtime"]),
    ("rand", &["raft", "transport", "course", "sim"]),
    ("rand_chacha", &["raft", "transport", "course", "sim"]),
    ("ratatui", &["bin"]),
    ("rcgen", &["bin"]),
    ("ring", &["lua", "tls"]),
    ("rkyv", &["kv", "wire"]),
    ("rustix", &["storage", "runtime", "processes"]),
    ("rustls", &["tls", "runtime", "bin"]),
    ("sd_notify", &["bin"]),
    ("serde", &["wire", "course", "processes", "bin"]),
    ("serde_json", &["wire", "course", "runtime", "processes", "bin"]),
    ("sha2", &["transport", "storage", "redis"]),
    ("signal_hook", &["processes", "bin"]),
    ("socket2", &["runtime", "processes"]),
    ("tempfile", &["processes", "bin"]),
    ("toml", &["bin"]),
    ("tracing", &["runtime", "bin"]),
    ("tracing_subscriber", &["bin"]),
    ("triomphe", &["kv"]),
    (
        "thiserror",
        &[
            "rdb",
            "membership",
            "raft",
            "config",
            "record",
            "kv",
            "wire",
            "transport",
            "storage",
            "backup",
            "course",
            "sim",
            "lua",
            "tls",
            "runtime",
            "processes",
        ],
    ),
];

/// Returns the violations in the imports of one file of `src/`.
pub(crate) fn check_file(path: &str, source: &Source) -> Vec<String> {
    let module = module_of(path);
    let Some(own) = module.first().copied() else {
        return check_root(path, source);
    };
    let Some((_, may_import)) = LAYERS.iter().find(|(layer, _)| *layer == own) else {
        return vec![format!(
            "{path}: {own} is no layer; add it to LAYERS in tests/tidy/layers.rs"
        )];
    };
    let impure = IMPURE.contains(&own) || IMPURE_FILES.contains(&path);
    // Unit tests are at the end of a file and may use other crates.
    let tests_from =
        source.attributes().iter().find(|(_, text)| *text == "cfg(test)").map(|at| at.0);
    let mut complaints = Vec::new();
    for used in source.paths() {
        let tested = tests_from.is_some_and(|line| used.line > line);
        let mut complain = |what: String| {
            complaints.push(format!("{path}:{}: {own}/ may not {what}", used.line));
        };
        let names: Vec<&str> = used.names.iter().map(String::as_str).collect();
        if let Some(layer) = own_crate_layer(&module, &names)
            && layer != own
            && !may_import.contains(&layer)
        {
            complain(format!("know {layer}/: {}", used.names.join("::")));
        }
        if !impure
            && names[0] == "std"
            && names.get(1).is_some_and(|part| IMPURE_STD.contains(part))
        {
            complain(format!("touch the machine: {}", used.names.join("::")));
        }
        let reads_clock = matches!(names[..], [.., "Instant" | "SystemTime", "now"]);
        if !impure && reads_clock {
            complain(format!("read a clock: {}", used.names.join("::")));
        }
        if let Some((_, layers)) = CRATES.iter().find(|(name, _)| *name == names[0])
            && !layers.contains(&own)
            && !tested
        {
            complain(format!("use the crate {}", names[0]));
        }
    }
    complaints
}

/// Returns a violation if the crate root contains more than documentation and the list of modules.
fn check_root(path: &str, source: &Source) -> Vec<String> {
    let only_modules = |line: &&str| {
        let line = line.trim();
        line.is_empty()
            || line.starts_with("#![")
            || (line.starts_with("pub mod ") && line.ends_with(';'))
    };
    let other = source.code.lines().filter(|line| !only_modules(line));
    other.map(|line| format!("{path}: only `pub mod` lines belong here, not `{line}`")).collect()
}

/// Returns a violation for each dependency without a comment on its purpose, or without a line in
/// [`CRATES`].
pub(crate) fn check_dependencies(manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut section = "";
    let mut direct = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| section.contains("dependencies"))
        else {
            continue;
        };
        let inherited = name.trim().strip_suffix(".workspace");
        let name = inherited.unwrap_or(name).trim().replace('-', "_");
        let explained = value.rsplit_once('#').is_some_and(|(_, why)| !why.trim().is_empty());
        if inherited.is_none() && !explained {
            complaints.push(format!("Cargo.toml: say in a comment what {name} is for"));
        }
        if section == "[dependencies]" {
            direct.push(name);
        }
    }
    for name in &direct {
        if !CRATES.iter().any(|(known, _)| known == name) {
            complaints.push(format!("Cargo.toml: say in tests/tidy/layers.rs who may use {name}"));
        }
    }
    for (known, _) in CRATES {
        if !direct.iter().any(|name| name == known) {
            complaints.push(format!("tests/tidy/layers.rs: {known} is no dependency any more"));
        }
    }
    complaints
}

/// Returns the module path of a file: `[raft, log]` for `src/raft/log.rs`, `[raft]` for
/// `src/raft/mod.rs`, `[]` for `src/lib.rs`; `[bin]` for all files of a program.
fn module_of(path: &str) -> Vec<&str> {
    let inside = path.strip_prefix("src/").expect("only called for files in src/");
    let mut module: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    if module[0] == "bin" {
        module.truncate(1);
    } else if matches!(module.last(), Some(&"mod" | &"lib")) {
        module.pop();
    }
    module
}

/// Returns the layer to which a path in `module` leads; `None` if the path leads out of this crate,
/// or to no layer.
///
/// Inside `mod tests { .. }` a `super` is one step shorter than it looks here. That is harmless:
/// the name to which it seems to lead is not a layer.
fn own_crate_layer<'a>(module: &[&'a str], names: &[&'a str]) -> Option<&'a str> {
    let ups = names.iter().take_while(|name| **name == "super").count();
    let absolute = if matches!(names[0], "crate" | "bowline") {
        names[1..].to_vec()
    } else if ups > 0 {
        [&module[..module.len().saturating_sub(ups)], &names[ups..]].concat()
    } else {
        return None;
    };
    let first = absolute.first().copied()?;
    LAYERS.iter().map(|(layer, _)| *layer).find(|layer| *layer == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, code: &str) -> usize {
        check_file(path, &Source::split(code)).len()
    }

    #[test]
    fn imports_that_violate_the_layering_rules_are_reported() {
        assert_eq!(complaints("src/raft/log.rs", "use crate::kv::StateMachine;"), 1);
        assert_eq!(complaints("src/raft/mod.rs", "fn f() { crate::sim::run() }"), 1);
        assert_eq!(complaints("src/raft/log.rs", "use super::super::kv::StateMachine;"), 1);
        assert_eq!(
            complaints("src/kv/state_machine.rs", "use crate::{types::Index, raft::Replica};"),
            1
        );
        assert_eq!(complaints("src/types.rs", "use crate::config::Config;"), 1);
        assert_eq!(complaints("src/runtime/stages/core/mod.rs", "use crate::sim::Cluster;"), 1);
        assert_eq!(complaints("src/sim/cluster/mod.rs", "use crate::runtime;"), 1);
        assert_eq!(complaints("src/sim/cluster/mod.rs", "use bowline::processes;"), 1);
        assert_eq!(complaints("src/new/mod.rs", ""), 1);
    }

    #[test]
    fn imports_that_follow_the_layering_rules_are_allowed() {
        assert_eq!(complaints("src/raft/log.rs", "use crate::types::{Index, Term};"), 0);
        assert_eq!(complaints("src/raft/log.rs", "use super::message::Msg;"), 0);
        assert_eq!(complaints("src/raft/log.rs", "mod tests { use super::super::log::*; }"), 0);
        assert_eq!(complaints("src/raft/log.rs", "// use crate::kv::StateMachine;"), 0);
        assert_eq!(complaints("src/bin/bowline.rs", "use bowline::{runtime, sim};"), 0);
        assert_eq!(complaints("src/processes/mod.rs", "use crate::course::Scenario;"), 0);
    }

    #[test]
    fn pure_module_using_files_network_threads_or_time_is_reported() {
        assert_eq!(complaints("src/raft/log.rs", "use std::{fmt, fs::File, net};"), 2);
        assert_eq!(complaints("src/wire/peer.rs", "fn f() { std::thread::yield_now() }"), 1);
        assert_eq!(complaints("src/sim/cluster/mod.rs", "fn f() { let _ = Instant::now(); }"), 1);
        assert_eq!(
            complaints("src/sim/cluster/mod.rs", "fn f() { std::time::SystemTime::now() }"),
            1
        );
        assert_eq!(complaints("src/runtime/stages/core/mod.rs", "use std::{fs, net, thread};"), 0);
        assert_eq!(complaints("src/storage/real_disk.rs", "use std::fs::File;"), 0);
        assert_eq!(complaints("src/storage/log.rs", "use std::fs::File;"), 1);
    }

    #[test]
    fn use_of_a_crate_outside_its_allowed_folders_is_reported() {
        assert_eq!(complaints("src/raft/log.rs", "use mio::Poll;"), 1);
        assert_eq!(
            complaints("src/raft/log.rs", "fn f(now: crossbeam::channel::Sender<u8>) {}"),
            1
        );
        assert_eq!(complaints("src/runtime/course/network.rs", "use mio::Poll;"), 0);
        let tested = "use mio::Poll;\n#[cfg(test)]\nmod tests { use mio::Poll; }";
        assert_eq!(complaints("src/raft/log.rs", tested), 1);
    }

    #[test]
    fn crate_root_with_more_than_module_declarations_is_reported() {
        assert_eq!(complaints("src/lib.rs", "//! Doc.\n#![warn(x)]\n\npub mod raft;\n"), 0);
        assert_eq!(complaints("src/lib.rs", "pub mod raft;\npub use raft::Replica;\n"), 1);
    }

    #[test]
    fn cargo_dependency_without_purpose_comment_is_reported() {
        let missing = check_dependencies("[dependencies]\n").len();
        assert_eq!(missing, CRATES.len());
        let with = |line: &str| check_dependencies(&format!("[dependencies]\n{line}\n")).len();
        assert_eq!(with("bytes = \"1\" # records"), missing - 1);
        assert_eq!(with("bytes.workspace = true"), missing - 1);
        assert_eq!(with("bytes = \"1\""), missing);
        assert_eq!(with("new = \"1\" # why"), missing + 1);
    }
}
