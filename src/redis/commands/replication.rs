//! `SYNC`, `PSYNC` and `REPLCONF`, as far as `redis-cli --rdb` needs them: this replica sends its
//! keys as a file in Redis's RDB format, and then closes the connection. No stream of writes
//! follows, so other servers cannot replicate from this one.

use crate::redis::action::{Action, FileRequest};
use crate::redis::call::Call;
use crate::redis::session::reply_format::{ReplyFormat, ReplyKind};
use crate::redis::spec::{CommandSpec, command};

const SYNC: &[&str] = &["admin", "noscript", "no_async_loading", "no_multi"];

/// Rows of the command table for the commands of replicas (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("psync", -3, psync)
        .flags(SYNC)
        .categories(&["dangerous"])
        .since("2.8.0", "server")
        .costs("O(N), N being the size of all keys")
        .about("Returns all keys as an RDB file after REPLCONF rdb-only 1, then disconnects."),
    command("replconf", -1, replconf)
        .flags(&["admin", "noscript", "loading", "stale", "allow_busy"])
        .categories(&["dangerous"])
        .since("3.0.0", "server")
        .costs("O(1)")
        .about("Sets what SYNC and PSYNC return."),
    command("sync", 1, sync)
        .flags(SYNC)
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the size of all keys")
        .about("Returns all keys as an RDB file, then disconnects."),
];

/// Runs `REPLCONF option value [option value ...]`.
fn replconf(call: &mut Call<'_>) -> Action {
    let mut arguments = call.request.rest(1);
    let mut options = call.connection.file_options;
    while let Some(option) = arguments.next() {
        let Some(value) = arguments.next() else { return call.error(&"ERR syntax error") };
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("capa") {
            options.accepts_mark |= value.eq_ignore_ascii_case(b"eof");
        } else if is("rdb-only") {
            options.keys_only = value == b"1";
        } else if !is("listening-port") && !is("ip-address") {
            let option = String::from_utf8_lossy(option).into_owned();
            return call.error(&format_args!("ERR Unrecognized REPLCONF option: {option}"));
        }
    }
    call.connection.file_options = options;
    call.ok()
}

/// Runs `SYNC`.
fn sync(call: &mut Call<'_>) -> Action {
    send_keys(call, false)
}

/// Runs `PSYNC replication-id offset`.
fn psync(call: &mut Call<'_>) -> Action {
    if !call.connection.file_options.keys_only {
        return call.error(
            &"ERR no server can replicate from this one; for a file of all keys, use redis-cli \
              --rdb or bowline admin export",
        );
    }
    send_keys(call, true)
}

fn send_keys(call: &mut Call<'_>, is_psync: bool) -> Action {
    if !call.connection.file_options.accepts_mark {
        return call.error(&"ERR send REPLCONF capa eof before, as redis-cli --rdb does");
    }
    let version = call.writer.version();
    let reply_format = ReplyFormat { kind: ReplyKind::Plain, version, muted: false };
    Action::SendKeys(FileRequest { is_psync, reply_format })
}
