//! `COMMAND` and every `HELP`: what the table of commands tells of itself.

use crate::kv::glob;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::registry as table;
use crate::redis::registry::{find, find_full};
use crate::redis::spec::CommandSpec;

/// `COMMAND`
pub(in crate::redis) fn all(call: &mut Call<'_>) -> Action {
    call.writer.array(table::all().len());
    for spec in table::all() {
        describe(call, spec);
    }
    Action::Reply
}

/// `COMMAND COUNT`
pub(in crate::redis) fn count(call: &mut Call<'_>) -> Action {
    call.writer.integer(i64::try_from(table::all().len()).unwrap_or(i64::MAX));
    Action::Reply
}

/// `COMMAND LIST [FILTERBY <MODULE name | ACLCAT category | PATTERN pattern>]`
pub(in crate::redis) fn list(call: &mut Call<'_>) -> Action {
    let mut words = call.request.rest(2).map(<[u8]>::to_ascii_lowercase);
    let chosen: Vec<&CommandSpec> = match (words.next(), words.next(), words.next(), words.next()) {
        (None, ..) => table::all().to_vec(),
        (Some(filter), Some(by), Some(wanted), None) if filter == b"filterby" => match &by[..] {
            // No command comes from a module.
            b"module" => Vec::new(),
            b"aclcat" => {
                let has =
                    |spec: &&CommandSpec| categories(spec).any(|name| name.as_bytes() == wanted);
                table::all().iter().copied().filter(has).collect()
            }
            b"pattern" => {
                let fits = |spec: &&CommandSpec| glob::matches(&wanted, spec.name.as_bytes());
                table::all().iter().copied().filter(fits).collect()
            }
            _ => return call.error(&"ERR syntax error"),
        },
        _ => return call.error(&"ERR syntax error"),
    };
    call.writer.array(chosen.len());
    for spec in chosen {
        call.writer.bulk(spec.name.as_bytes());
    }
    Action::Reply
}

/// `COMMAND INFO [name ...]`
pub(in crate::redis) fn info(call: &mut Call<'_>) -> Action {
    if call.request.len() == 2 {
        return all(call);
    }
    let names = call.request.rest(2);
    call.writer.array(names.len());
    for name in names {
        match find_full(name) {
            Some(spec) => describe(call, spec),
            None => call.writer.null(),
        }
    }
    Action::Reply
}

/// `COMMAND DOCS [name ...]`; names that mean nothing are left out, as in Redis.
pub(in crate::redis) fn docs(call: &mut Call<'_>) -> Action {
    if call.request.len() == 2 {
        call.writer.map(table::all().len());
        for spec in table::all() {
            document(call, spec);
        }
        return Action::Reply;
    }
    let known = || call.request.rest(2).filter_map(find_full);
    call.writer.map(known().count());
    known().for_each(|spec| document(call, spec));
    Action::Reply
}

/// `COMMAND GETKEYS command [word ...]`
pub(in crate::redis) fn getkeys(call: &mut Call<'_>) -> Action {
    let words = call.request.len() - 2;
    let name = call.argument(2).to_ascii_lowercase();
    let Some(spec) = find(&name) else { return call.error(&"ERR Invalid command specified") };
    if !spec.has_keys() {
        return call.error(&"ERR The command has no key arguments");
    }
    if !spec.takes(words) {
        return call.error(&"ERR Invalid number of arguments specified for command");
    }
    let Some(keys) = spec.keys(words, &|at| call.request.get(2 + at)) else {
        return call.error(&"ERR Invalid arguments specified for command");
    };
    call.writer.array(keys.clone().count());
    for at in keys {
        call.writer.bulk(call.request.get(2 + at).unwrap_or_default());
    }
    Action::Reply
}

/// `HELP` of every command with subcommands.
pub(in crate::redis) fn help(call: &mut Call<'_>) -> Action {
    let name = call.request.name().to_ascii_lowercase();
    let spec = find(&name).expect("it was found a moment ago");
    let title = format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        spec.name.to_uppercase()
    );
    call.writer.array(1 + 2 * spec.subcommands.len());
    call.writer.simple(&title);
    for sub in spec.subcommands {
        call.writer.simple(&sub.name.to_uppercase());
        call.writer.simple(&format!("    {}", sub.summary));
    }
    Action::Reply
}

/// What a command is about and, first, what follows from its flags.
fn categories(spec: &CommandSpec) -> impl Iterator<Item = &'static str> {
    let has = |flag| spec.flags.contains(&flag);
    let by_flag = [("write", "write"), ("readonly", "read"), ("admin", "admin")];
    let by_flag = by_flag.map(|(flag, category)| has(flag).then_some(category));
    let speed = if has("fast") { "fast" } else { "slow" };
    by_flag.into_iter().flatten().chain(spec.categories.iter().copied()).chain([speed])
}

/// One command, as `COMMAND` tells of it. There are no hints for proxies, and where keys are is
/// said by the range, so both lists at the end are empty.
fn describe(call: &mut Call<'_>, spec: &CommandSpec) {
    let range = spec.key_range();
    let writer = &mut call.writer;
    writer.array(10);
    writer.bulk(spec.full_name.as_bytes());
    writer.integer(spec.arity.into());
    writer.set(spec.flags.len());
    for flag in spec.flags {
        writer.simple(flag);
    }
    for number in [range.first, range.last, range.step] {
        writer.integer(number.into());
    }
    writer.set(categories(spec).count());
    for category in categories(spec) {
        writer.simple(&format!("@{category}"));
    }
    writer.array(0);
    writer.array(0);
    writer.array(spec.subcommands.len());
    for sub in spec.subcommands {
        describe(call, sub);
    }
}

/// One command, as `COMMAND DOCS` tells of it.
fn document(call: &mut Call<'_>, spec: &CommandSpec) {
    let writer = &mut call.writer;
    writer.bulk(spec.full_name.as_bytes());
    let fields = [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group),
        ("complexity", spec.complexity),
    ];
    let fields = fields.iter().filter(|(_, text)| !text.is_empty());
    writer.map(fields.clone().count() + usize::from(!spec.subcommands.is_empty()));
    for (field, text) in fields {
        writer.bulk(field.as_bytes());
        writer.bulk(text.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        writer.bulk(b"subcommands");
        writer.map(spec.subcommands.len());
        for sub in spec.subcommands {
            document(call, sub);
        }
    }
}
