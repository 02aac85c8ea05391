//! `SNAPSHOT`: reads a snapshot of the replica over the Redis protocol, for backups.
//!
//! The client takes a snapshot (`BGSAVE`), opens it, and then requests one part after the other. So
//! the client sets the pace, and the server buffers at most one part per client.

use bytes::BytesMut;

use crate::kv::{SnapshotMark, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::{ReplyFormat, ReplyKind};
use crate::redis::spec::{CommandSpec, subcommand};
use crate::wire::resp::{Version, Writer};

use super::help::{container, help_row};

const FLAGS: &[&str] = &["admin", "noscript", "loading", "stale", "no_multi"];

/// Rows of the command table for `SNAPSHOT`, a command that Redis does not have.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("snapshot")
    .flags(FLAGS)
    .categories(&["dangerous"])
    .about("A container for commands that read snapshots of this replica.")
    .with(SUBCOMMANDS)];

const SUBCOMMANDS: &[CommandSpec] = &[
    help_row("snapshot|help"),
    subcommand("open", "snapshot|open", 2, open)
        .flags(FLAGS)
        .categories(&["dangerous"])
        .costs("O(1)")
        .about("Returns the id of the latest snapshot, and keeps it readable for a minute."),
    subcommand("read", "snapshot|read", 4, read)
        .flags(FLAGS)
        .categories(&["dangerous"])
        .costs("O(1)")
        .about("Returns up to 256 KiB of a snapshot: id offset. Keeps it for another minute."),
];

/// Runs `SNAPSHOT OPEN`. The reply is the id of the latest snapshot, or an error if there is none.
fn open(call: &mut Call<'_>) -> Action {
    read_snapshot(call, None)
}

/// Runs `SNAPSHOT READ id offset`. The reply is a bulk string, empty at the end of the snapshot, or
/// an error if the snapshot is not available.
fn read(call: &mut Call<'_>) -> Action {
    let id = std::str::from_utf8(call.argument(2)).ok().and_then(|text| text.parse().ok());
    let Some(snapshot) = id else {
        return call.error(&"ERR invalid id of a snapshot; SNAPSHOT OPEN returns one");
    };
    let offset = parse_integer(call.argument(3)).and_then(|number| u64::try_from(number).ok());
    let Some(offset) = offset else {
        return call.error(&"ERR value is not an integer or out of range");
    };
    read_snapshot(call, Some((snapshot, offset)))
}

fn read_snapshot(call: &Call<'_>, part: Option<(SnapshotMark, u64)>) -> Action {
    let version = call.writer.version();
    let reply_format = ReplyFormat { kind: ReplyKind::Plain, version, muted: false };
    Action::ReadSnapshot { part, reply_format }
}

/// Writes the reply to `SNAPSHOT OPEN` or `SNAPSHOT READ`: an id or a part of the snapshot, or an
/// error if it is `None` because the snapshot is not available.
pub fn write_snapshot_part(part: Option<&[u8]>, out: &mut BytesMut) {
    let mut writer = Writer::new(out, Version::Two);
    match part {
        Some(part) => writer.bulk(part),
        None => writer.error(
            b"ERR no such snapshot: a later one has replaced it, or it cannot be read, or none \
              was taken yet",
        ),
    }
}
