//! `COMMAND` and its subcommands, which describe the commands in the command table.

use crate::kv::glob;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::key_access::uses_in_request;
use crate::redis::spec::{
    ANYTIME, CommandSpec, CommandTable, command_with_table, subcommand_with_table,
};
use crate::wire::resp::Writer;

use super::help::help_row;

/// Row of the command table for `COMMAND` (name, arity, flags, documentation and function), with
/// its subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command_with_table("command", -1, all)
    .flags(ANYTIME)
    .categories(&["connection"])
    .since("2.8.13", "server")
    .costs("O(N), N being the number of commands")
    .about("Returns details about all commands.")
    .with(COMMAND)];

const COMMAND: &[CommandSpec] = &[
    subcommand_with_table("count", "command|count", 2, count)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(1)")
        .about("Returns the number of commands."),
    subcommand_with_table("docs", "command|docs", -2, docs)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("7.0.0", "server")
        .costs("O(N), N being the number of commands")
        .about("Returns documentation of the named commands, or of all."),
    subcommand_with_table("getkeys", "command|getkeys", -4, getkeys)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(N), N being the number of arguments")
        .about("Returns the keys among the arguments of a command."),
    subcommand_with_table("getkeysandflags", "command|getkeysandflags", -4, getkeysandflags)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("7.0.0", "server")
        .costs("O(N), N being the number of arguments")
        .about("Returns the keys among the arguments of a command, and how it uses them."),
    help_row("command|help").categories(&["connection"]).since("5.0.0", "server"),
    subcommand_with_table("info", "command|info", -2, info)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(N), N being the number of commands")
        .about("Returns details about the named commands, or about all."),
    subcommand_with_table("list", "command|list", -2, list)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("7.0.0", "server")
        .costs("O(N), N being the number of commands")
        .about("Returns the names of all commands, or of those that pass a filter."),
];

/// Runs `COMMAND`: returns the details of all commands.
fn all(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    call.writer.array(table.all().len());
    for spec in table.all() {
        write_details(&mut call.writer, spec);
    }
    Action::Reply
}

/// Runs `COMMAND COUNT`: returns the number of commands.
fn count(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    call.integer(table.all().len())
}

/// Runs `COMMAND LIST [FILTERBY <MODULE name | ACLCAT category | PATTERN pattern>]`: returns the
/// names of all commands, or of those that match the filter.
fn list(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let mut arguments = call.request.rest(2).map(<[u8]>::to_ascii_lowercase);
    let filter = (arguments.next(), arguments.next(), arguments.next(), arguments.next());
    let chosen: Vec<&CommandSpec> = match filter {
        (None, ..) => table.all().to_vec(),
        (Some(filter), Some(kind), Some(wanted), None) if filter == b"filterby" => {
            match &kind[..] {
                // No command comes from a module.
                b"module" => Vec::new(),
                b"aclcat" => {
                    let has = |spec: &&CommandSpec| {
                        spec.all_categories().any(|name| name.as_bytes() == wanted)
                    };
                    table.all().iter().copied().filter(has).collect()
                }
                b"pattern" => {
                    let matches =
                        |spec: &&CommandSpec| glob::matches(&wanted, spec.name.as_bytes());
                    table.all().iter().copied().filter(matches).collect()
                }
                _ => return call.error(&"ERR syntax error"),
            }
        }
        _ => return call.error(&"ERR syntax error"),
    };
    call.writer.array(chosen.len());
    for spec in chosen {
        call.writer.bulk(spec.name.as_bytes());
    }
    Action::Reply
}

/// Runs `COMMAND INFO [name ...]`: returns the details of the named commands, or of all commands.
fn info(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    if call.request.len() == 2 {
        return all(call, table);
    }
    let names = call.request.rest(2);
    call.writer.array(names.len());
    for name in names {
        match table.find_full(name) {
            Some(spec) => write_details(&mut call.writer, spec),
            None => call.writer.null(),
        }
    }
    Action::Reply
}

/// Runs `COMMAND DOCS [name ...]`: returns the documentation of the named commands, or of all
/// commands. As in Redis, unknown names are skipped.
fn docs(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    if call.request.len() == 2 {
        call.writer.map(table.all().len());
        for spec in table.all() {
            write_docs(&mut call.writer, spec);
        }
        return Action::Reply;
    }
    let known = || call.request.rest(2).filter_map(|name| table.find_full(name));
    call.writer.map(known().count());
    known().for_each(|spec| write_docs(&mut call.writer, spec));
    Action::Reply
}

/// Runs `COMMAND GETKEYS command [argument ...]`: returns the arguments that are keys of the given
/// command.
fn getkeys(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    write_keys(call, table, false)
}

/// Runs `COMMAND GETKEYSANDFLAGS command [argument ...]`: returns the arguments that are keys of
/// the given command, each with the flags that say how the command uses it.
fn getkeysandflags(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    write_keys(call, table, true)
}

fn write_keys(call: &mut Call<'_>, table: &'static CommandTable, with_flags: bool) -> Action {
    let count = call.request.len() - 2;
    let name = call.argument(2).to_ascii_lowercase();
    let spec = table.find(&name).and_then(|spec| match call.request.get(3) {
        Some(name) if !spec.subcommands.is_empty() => spec.subcommand(&name.to_ascii_lowercase()),
        _ => Some(spec),
    });
    let Some(spec) = spec else {
        return call.error(&"ERR Invalid command specified");
    };
    if !spec.has_keys() {
        return call.error(&"ERR The command has no key arguments");
    }
    if !spec.accepts(count) {
        return call.error(&"ERR Invalid number of arguments specified for command");
    }
    let Some(keys) = spec.keys(count, &|index| call.request.get(2 + index)) else {
        if spec.has_flag("no_mandatory_keys") {
            call.writer.array(0);
            return Action::Reply;
        }
        return call.error(&"ERR Invalid arguments specified for command");
    };
    call.writer.array(keys.clone().count());
    let uses = uses_in_request(spec.full_name, spec.has_flag("readonly"), call.request.rest(2));
    for (order, index) in keys.enumerate() {
        if with_flags {
            call.writer.array(2);
        }
        call.writer.bulk(call.request.get(2 + index).unwrap_or_default());
        if with_flags {
            let flags = uses[order.min(uses.len() - 1)].flags();
            call.writer.set(flags.clone().count());
            flags.for_each(|flag| call.writer.simple(flag));
        }
    }
    Action::Reply
}

/// Writes the details of a command, as `COMMAND INFO` returns them. The lists of tips and key
/// specifications are always empty, because clients use the positions of the first and the last key
/// and the step between keys.
fn write_details(writer: &mut Writer<'_>, spec: &CommandSpec) {
    let range = spec.key_range();
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
    writer.set(spec.all_categories().count());
    for category in spec.all_categories() {
        writer.simple(&format!("@{category}"));
    }
    writer.array(0);
    writer.array(0);
    writer.array(spec.subcommands.len());
    for sub in spec.subcommands {
        write_details(writer, sub);
    }
}

/// Writes the name and the documentation of a command, as `COMMAND DOCS` returns them.
fn write_docs(writer: &mut Writer<'_>, spec: &CommandSpec) {
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
            write_docs(writer, sub);
        }
    }
}
