//! Commands on the libraries of functions that the cluster keeps. The server has checked the code
//! of a library, and knows the functions that it registers.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, NO_KEYS, Row, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::functions::{FunctionsError, Library, RestorePolicy};
use crate::kv::values::glob;

/// The commands on functions: number, name, key positions and function of each. Append new commands
/// at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(410, "function|load", NO_KEYS, load).since(FeatureLevel::V0_2),
    write(411, "function|delete", NO_KEYS, delete).since(FeatureLevel::V0_2),
    write(412, "function|flush", NO_KEYS, flush).since(FeatureLevel::V0_2),
    write(413, "function|restore", NO_KEYS, restore).since(FeatureLevel::V0_2),
    read(414, "function|list", NO_KEYS, list).since(FeatureLevel::V0_2),
    read(415, "function|dump", NO_KEYS, dump).since(FeatureLevel::V0_2),
];

fn decoded(library: &[u8]) -> Result<Library, Refusal> {
    Library::decode(library).ok_or(Refusal::Syntax)
}

/// Runs `function|load replaces library`, where `replaces` is 0 or 1: keeps a library, and returns
/// its name.
fn load(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let replaces = args.get(0)? == b"1";
    let library = decoded(args.get(1)?)?;
    let (name, revision) = (library.name.clone(), keyspace.revision());
    let policy = if replaces { RestorePolicy::Replace } else { RestorePolicy::Append };
    Ok(match keyspace.functions.add(vec![library], policy, revision) {
        Ok(()) => Outcome::Value(Some(name)),
        // Redis has quotes here, but not when libraries are restored.
        Err(FunctionsError::LibraryExists(name)) => {
            Outcome::error(format!("ERR Library '{name}' already exists"))
        }
        Err(error) => Outcome::error(error.to_string()),
    })
}

/// Runs `function|delete name`: drops a library.
fn delete(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let revision = keyspace.revision();
    Ok(if keyspace.functions.remove(args.get(0)?, revision) {
        Outcome::Done
    } else {
        Outcome::error("ERR Library not found")
    })
}

/// Runs `function|flush`: drops all libraries.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn flush(keyspace: &mut Keyspace, _args: &Args<'_>) -> Answer {
    let revision = keyspace.revision();
    keyspace.functions.clear(revision);
    Ok(Outcome::Done)
}

/// Runs `function|restore policy [library ...]`: keeps several libraries, or none of them if one
/// cannot be kept.
fn restore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let policy = match args.get(0)? {
        b"APPEND" => RestorePolicy::Append,
        b"REPLACE" => RestorePolicy::Replace,
        b"FLUSH" => RestorePolicy::Flush,
        _ => return Err(Refusal::Syntax),
    };
    let libraries = args.rest(1).iter().map(|library| decoded(library));
    let libraries = libraries.collect::<Result<Vec<_>, _>>()?;
    let revision = keyspace.revision();
    Ok(match keyspace.functions.add(libraries, policy, revision) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::error(error.to_string()),
    })
}

/// Runs `function|list pattern with_code`, where `with_code` is 0 or 1: returns a list of the
/// libraries whose names match in any case, each with its name, its code and a list of functions,
/// each with its name, description and flags.
fn list(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let (pattern, with_code) = (args.get(0)?, args.get(1)? == b"1");
    let value = |bytes: &Bytes| Outcome::Value(Some(bytes.clone()));
    let describe = |library: &Library| {
        let functions = library.functions.iter().map(|function| {
            Outcome::List(vec![
                value(&function.name),
                Outcome::Value(function.description.clone()),
                Outcome::Integer(function.flags.into()),
            ])
        });
        let code = Outcome::Value(with_code.then(|| library.code.clone()));
        Outcome::List(vec![value(&library.name), code, Outcome::List(functions.collect())])
    };
    let pattern = pattern.to_ascii_lowercase();
    let is_shown = |library: &&Library| glob::matches(&pattern, &library.name.to_ascii_lowercase());
    let shown = keyspace.functions.libraries().filter(is_shown);
    Ok(Outcome::List(shown.map(describe).collect()))
}

/// Runs `function|dump`: returns the codes of all libraries.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn dump(keyspace: &Keyspace, _args: &Args<'_>) -> Answer {
    let codes = keyspace.functions.libraries().map(|library| Some(library.code.clone()));
    Ok(Outcome::Values(codes.collect()))
}
