//! What each command does with its keys: whether it reads or writes them, as in Redis.

use crate::kv::KeyAccess;

/// How a command uses a key: the flags in the reply to `COMMAND GETKEYSANDFLAGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyUse {
    /// `RO` (read-only), `RW` (read and write), `OW` (overwrite) or `RM` (remove).
    operation: &'static str,
    /// `access` if the content of the key is returned or copied.
    returns: bool,
    /// `update`, `insert` or `delete`; empty for none.
    effect: &'static str,
}

const fn key_use(operation: &'static str, returns: bool, effect: &'static str) -> KeyUse {
    KeyUse { operation, returns, effect }
}

/// Only facts about the key are returned, such as its type.
const LOOKS: KeyUse = key_use("RO", false, "");
const READS: KeyUse = key_use("RO", true, "");
const UPDATES: KeyUse = key_use("RW", false, "update");
const INSERTS: KeyUse = key_use("RW", false, "insert");
const DELETES: KeyUse = key_use("RW", false, "delete");
const READS_AND_UPDATES: KeyUse = key_use("RW", true, "update");
const READS_AND_INSERTS: KeyUse = key_use("RW", true, "insert");
/// As in Redis, where the command changes a cached result in the value.
const READS_WITH_CACHE: KeyUse = key_use("RW", true, "");
const TAKES: KeyUse = key_use("RW", true, "delete");
const OVERWRITES: KeyUse = key_use("OW", false, "update");
const CREATES: KeyUse = key_use("OW", false, "insert");
const REMOVES: KeyUse = key_use("RM", false, "delete");

impl KeyUse {
    /// Returns the permission that a user needs.
    pub(super) fn access(self) -> KeyAccess {
        KeyAccess { reads: self.returns, writes: !self.effect.is_empty() }
    }

    /// Returns the flags in the reply to `COMMAND GETKEYSANDFLAGS`.
    pub(super) fn flags(self) -> impl Iterator<Item = &'static str> + Clone {
        let access = if self.returns { "access" } else { "" };
        [self.operation, access, self.effect].into_iter().filter(|flag| !flag.is_empty())
    }
}

/// Returns how the command with this full name uses its keys: the first, the second and so on. The
/// last element is about all further keys, too. `is_read` is whether the command is read-only.
pub(super) fn key_uses(full_name: &str, is_read: bool) -> &'static [KeyUse] {
    match full_name {
        "exists" | "hexists" | "hlen" | "hstrlen" | "llen" | "memory|usage" | "object|encoding"
        | "object|freq" | "object|idletime" | "object|refcount" | "object|revision" | "scard"
        | "sismember" | "strlen" | "touch" | "type" | "watch" | "xlen" | "zcard" => &[LOOKS],
        "append"
        | "hsetnx"
        | "linsert"
        | "lpush"
        | "lpushx"
        | "pfadd"
        | "rpush"
        | "rpushx"
        | "sadd"
        | "xgroup|create"
        | "xgroup|createconsumer" => &[INSERTS],
        "decr" | "decrby" | "getex" | "getset" | "hincrby" | "hincrbyfloat" | "incr" | "incrby"
        | "incrbyfloat" | "setbit" | "zincrby" | "bitfield" => &[READS_AND_UPDATES],
        "del" | "unlink" => &[REMOVES],
        "expire" | "expireat" | "hmset" | "hset" | "lset" | "persist" | "pexpire" | "pexpireat"
        | "geoadd" | "setrange" | "xack" | "xadd" | "xclaim" | "xgroup|setid" | "xsetid"
        | "zadd" => &[UPDATES],
        "hdel" | "lrem" | "ltrim" | "srem" | "xautoclaim" | "xdel" | "xgroup|delconsumer"
        | "xgroup|destroy" | "xtrim" | "zrem" | "zremrangebylex" | "zremrangebyrank"
        | "zremrangebyscore" => &[DELETES],
        "blmpop" | "blpop" | "brpop" | "bzmpop" | "bzpopmax" | "bzpopmin" | "delex" | "getdel"
        | "lmpop" | "lpop" | "rpop" | "spop" | "zmpop" | "zpopmax" | "zpopmin" => &[TAKES],
        "mset" | "psetex" | "restore" | "setex" => &[OVERWRITES],
        "msetnx" | "setnx" => &[CREATES],
        "bitop" | "geosearchstore" | "sdiffstore" | "sunionstore" | "zdiffstore"
        | "zinterstore" | "zrangestore" | "zunionstore" => &[OVERWRITES, READS],
        "sinterstore" => &[UPDATES, READS],
        "blmove" | "brpoplpush" | "lmove" | "rpoplpush" | "smove" => &[TAKES, INSERTS],
        // As in Redis, although it changes the consumer group.
        "xreadgroup" => &[READS],
        "pfcount" | "pfdebug" => &[READS_WITH_CACHE],
        "pfmerge" => &[READS_AND_INSERTS, READS],
        "copy" | "georadius" | "georadiusbymember" | "sort" => &[READS, OVERWRITES],
        "rename" => &[TAKES, OVERWRITES],
        "renamenx" => &[TAKES, CREATES],
        _ if is_read => &[READS],
        _ => &[READS_AND_UPDATES],
    }
}

/// Returns how a request with these arguments uses its keys. For all but a few commands, this is
/// what [`key_uses`] returns.
pub(super) fn uses_in_request<'r>(
    full_name: &str,
    is_read: bool,
    arguments: impl Iterator<Item = &'r [u8]>,
) -> &'static [KeyUse] {
    let is = |argument: &[u8], word: &str| argument.eq_ignore_ascii_case(word.as_bytes());
    match full_name {
        "set" => {
            let returns = arguments.skip(3).any(|argument| is(argument, "get"));
            if returns { &[READS_AND_UPDATES] } else { &[OVERWRITES] }
        }
        "bitfield" => {
            let mut options = arguments.skip(2);
            while let Some(option) = options.next() {
                let values = match option {
                    _ if is(option, "get") => 2,
                    _ if is(option, "overflow") => 1,
                    _ => return &[READS_AND_UPDATES],
                };
                options.by_ref().take(values).for_each(drop);
            }
            &[READS]
        }
        _ => key_uses(full_name, is_read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_access_follows_from_the_flags_of_redis() {
        let access = |reads, writes| KeyAccess { reads, writes };
        for (request, wanted) in [
            ("get k", access(true, false)),
            ("exists k", access(false, false)),
            ("set k v", access(false, true)),
            ("set k get", access(false, true)),
            ("bitfield k get u8 0", access(true, false)),
            ("bitfield k get u8 0 set u8 0 1", access(true, true)),
            ("set k v GET", access(true, true)),
            ("incr k", access(true, true)),
            ("del k", access(false, true)),
        ] {
            let (name, _) = request.split_once(' ').unwrap();
            let arguments = request.split(' ').map(str::as_bytes);
            let uses = uses_in_request(name, matches!(name, "get" | "exists"), arguments);
            assert_eq!(uses[0].access(), wanted, "{request}");
        }
        let flags: Vec<_> = key_uses("rename", false)[1].flags().collect();
        assert_eq!(flags, ["OW", "update"]);
    }
}
