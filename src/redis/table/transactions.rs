//! Commands that make several one.

use super::super::transactions;
use super::{ALL_KEYS, Spec, command};

const FAST: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];

/// In order of their names.
pub(super) const COMMANDS: &[Spec] = &[
    command("discard", 1, transactions::discard)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.0.0", "transactions")
        .costs("O(N), N being the number of queued commands")
        .about("Forgets what was queued since MULTI."),
    command("exec", 1, transactions::exec)
        .flags(&["noscript", "loading", "stale", "skip_slowlog"])
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("That of all queued commands")
        .about("Does what was queued since MULTI, all at one moment."),
    command("multi", 1, transactions::multi)
        .flags(FAST)
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("O(1)")
        .about("Queues what comes behind it, until EXEC."),
    command("unwatch", 1, transactions::unwatch)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(1)")
        .about("Takes every WATCH back."),
    command("watch", -2, transactions::watch)
        .keys_at(ALL_KEYS)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(N), N being the number of keys")
        .about("Lets the next EXEC do nothing if one of the keys changes before it."),
];
