//! Redis's settings that cannot have an effect here, and the older names of settings.

/// A setting of Redis that cannot have an effect here.
#[derive(Debug)]
pub(super) struct UnsupportedSetting {
    pub(super) name: &'static str,
    /// Redis's default, which is shown if settings without an effect are accepted.
    pub(super) default: &'static str,
    /// Why the setting has no effect, for the error.
    pub(super) reason: &'static str,
}

const fn unsupported(
    name: &'static str,
    default: &'static str,
    reason: &'static str,
) -> UnsupportedSetting {
    UnsupportedSetting { name, default, reason }
}

/// A setting that Redis has for tests.
pub(super) const KEY_LOAD_DELAY: &str = "key-load-delay";

const NO_EVICTION: &str = "keys are never evicted here";
const ALWAYS_LAZY: &str = "values are always freed in the background";
const OWN_LAYOUT: &str = "values have another layout in memory here";
const NO_RDB: &str = "snapshots have a format of their own here";
const NO_REPLICATION_LINK: &str = "replicas follow the log of the leader, not a stream of commands";
const NO_DEFRAGMENTATION: &str = "memory is not defragmented here";
const NEVER_BLOCKS: &str = "scripts do not block other clients";

/// The settings of Redis that tools and test suites set, but that cannot have an effect here,
/// sorted by name.
pub(super) const UNSUPPORTED: &[UnsupportedSetting] = &[
    unsupported("active-defrag-cycle-max", "25", NO_DEFRAGMENTATION),
    unsupported("active-defrag-cycle-min", "1", NO_DEFRAGMENTATION),
    unsupported("active-defrag-ignore-bytes", "104857600", NO_DEFRAGMENTATION),
    unsupported("active-defrag-threshold-lower", "10", NO_DEFRAGMENTATION),
    unsupported("active-expire-effort", "1", "keys expire by the replicated clock"),
    unsupported("activedefrag", "no", NO_DEFRAGMENTATION),
    unsupported("activerehashing", "yes", OWN_LAYOUT),
    unsupported("aof-use-rdb-preamble", "yes", NO_RDB),
    unsupported("busy-reply-threshold", "5000", NEVER_BLOCKS),
    unsupported(
        "client-output-buffer-limit",
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        "replies are limited by maxmemory-clients, and the messages to a subscriber by a constant",
    ),
    unsupported("dbfilename", "dump.rdb", NO_RDB),
    unsupported("hz", "10", "no background task has a configurable frequency"),
    unsupported(KEY_LOAD_DELAY, "0", NO_RDB),
    unsupported("lazyfree-lazy-eviction", "no", NO_EVICTION),
    unsupported("lazyfree-lazy-expire", "no", ALWAYS_LAZY),
    unsupported("lazyfree-lazy-server-del", "no", ALWAYS_LAZY),
    unsupported("lazyfree-lazy-user-del", "no", ALWAYS_LAZY),
    unsupported("lazyfree-lazy-user-flush", "no", ALWAYS_LAZY),
    unsupported("list-compress-depth", "0", OWN_LAYOUT),
    unsupported("list-max-listpack-size", "-2", OWN_LAYOUT),
    unsupported(
        "loglevel",
        "notice",
        "the log level is that of the environment variable BOWLINE_LOG at the start",
    ),
    unsupported("maxmemory-samples", "5", NO_EVICTION),
    unsupported(
        "min-replicas-to-write",
        "0",
        "a write always waits for a majority of the replicas, and for no more",
    ),
    unsupported("rdb-key-save-delay", "0", NO_RDB),
    unsupported("rdbcompression", "yes", NO_RDB),
    unsupported("repl-backlog-size", "1048576", NO_REPLICATION_LINK),
    unsupported("repl-ping-replica-period", "10", NO_REPLICATION_LINK),
    unsupported("repl-timeout", "60", NO_REPLICATION_LINK),
    unsupported(
        "replica-serve-stale-data",
        "yes",
        "replicas serve older data only to clients that send READONLY MAXLAG",
    ),
    unsupported("stream-node-max-bytes", "4096", OWN_LAYOUT),
    unsupported("stream-node-max-entries", "100", OWN_LAYOUT),
];

/// Older names of settings, each followed by the present name.
const ALIASES: &[(&str, &str)] = &[
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("lua-time-limit", "busy-reply-threshold"),
    ("slaveof", "replicaof"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
];

/// Returns the present name of a setting, whose name must be in lower case.
pub(super) fn canonical_name(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, canonical)| canonical)
}

/// Iterates over all names of a setting, the present one first.
pub(super) fn with_aliases(name: &str) -> impl Iterator<Item = &str> {
    let aliases = ALIASES.iter().filter(move |(_, canonical)| *canonical == name);
    std::iter::once(name).chain(aliases.map(|(alias, _)| *alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_one_present_name_and_may_have_older_ones() {
        assert_eq!(canonical_name("hash-max-ziplist-value"), "hash-max-listpack-value");
        assert_eq!(canonical_name("port"), "port");
        let names: Vec<&str> = with_aliases("zset-max-listpack-value").collect();
        assert_eq!(names, ["zset-max-listpack-value", "zset-max-ziplist-value"]);
        assert!(UNSUPPORTED.is_sorted_by(|one, next| one.name < next.name));
        assert!(UNSUPPORTED.iter().all(|it| canonical_name(it.name) == it.name));
    }
}
