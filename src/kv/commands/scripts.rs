//! Commands on the scripts that the cluster keeps, and the name under which a script or a command
//! inside a transaction with scripts waits for its run.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, NO_KEYS, Row, own_read, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::scripts::{NoSpace, SCRIPTS_BYTES_MAX};

/// The commands on scripts: number, name, key positions and function of each. Append new commands
/// at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(336, "script|load", NO_KEYS, load).since(FeatureLevel::V0_2),
    write(337, "script|flush", NO_KEYS, flush).since(FeatureLevel::V0_2),
    read(338, "script|exists", NO_KEYS, exists).since(FeatureLevel::V0_2),
    own_read(339, "unresolved", unresolved).since(FeatureLevel::V0_2),
];

/// Runs `script|load sha source`: keeps a script. The server has computed its SHA-1.
fn load(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let sha = args.get(0)?;
    let digits = sha.try_into().map_err(|_| Refusal::Syntax)?;
    Ok(match keyspace.scripts.add(digits, args.get(1)?, true) {
        Ok(()) => Outcome::Value(Some(Bytes::copy_from_slice(sha))),
        Err(NoSpace) => Outcome::error(format!(
            "ERR the scripts of SCRIPT LOAD take {} MiB, and no more are kept; use SCRIPT FLUSH",
            SCRIPTS_BYTES_MAX >> 20
        )),
    })
}

/// Runs `script|flush`: drops all scripts.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn flush(keyspace: &mut Keyspace, _args: &Args<'_>) -> Answer {
    keyspace.scripts.clear();
    Ok(Outcome::Done)
}

/// Runs `script|exists sha [sha ...]`: returns for each script whether it is kept.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn exists(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let is_kept = |sha: &&[u8]| keyspace.scripts.get(&sha.to_ascii_lowercase()).is_some();
    Ok(Outcome::List(args.all().iter().map(|sha| Outcome::flag(is_kept(sha))).collect()))
}

/// A client's request that runs a script, with all its arguments. The applier runs it on a state of
/// its own; the state machine never does.
fn unresolved(_keyspace: &Keyspace, _args: &Args<'_>) -> Answer {
    Err(Refusal::Syntax)
}
