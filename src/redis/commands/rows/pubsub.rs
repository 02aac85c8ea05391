//! Commands about channels, and those of a Sentinel.

use crate::redis::commands::command as commands;
use crate::redis::commands::pubsub;
use crate::redis::commands::sentinel;
use crate::redis::spec::{CommandSpec, command, subcommand};

const LISTENING: &[&str] = &["pubsub", "noscript", "loading", "stale"];
const ASKING: &[&str] = &["pubsub", "loading", "stale"];
const WATCHING: &[&str] = &["admin"];

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("psubscribe", -2, pubsub::psubscribe)
        .flags(LISTENING)
        .categories(&["pubsub"])
        .since("2.0.0", "pubsub")
        .costs("O(N), N being the number of patterns")
        .about("Listens to all channels whose names fit patterns."),
    command("publish", 3, pubsub::publish)
        .flags(&["pubsub", "loading", "stale", "fast"])
        .categories(&["pubsub"])
        .since("2.0.0", "pubsub")
        .costs("O(N+M), N being the listeners here and M all patterns here")
        .about("Tells a message to whoever listens to a channel, at any replica."),
    command("pubsub", -2, commands::help)
        .since("2.8.0", "pubsub")
        .about("Commands about who listens.")
        .with(PUBSUB),
    command("punsubscribe", -1, pubsub::punsubscribe)
        .flags(LISTENING)
        .categories(&["pubsub"])
        .since("2.0.0", "pubsub")
        .costs("O(N), N being the number of patterns")
        .about("Listens no longer by patterns."),
    command("sentinel", -2, commands::help)
        .since("2.8.4", "sentinel")
        .about("Commands by which clients find the leader.")
        .with(SENTINEL),
    command("subscribe", -2, pubsub::subscribe)
        .flags(LISTENING)
        .categories(&["pubsub"])
        .since("2.0.0", "pubsub")
        .costs("O(N), N being the number of channels")
        .about("Listens to channels."),
    command("unsubscribe", -1, pubsub::unsubscribe)
        .flags(LISTENING)
        .categories(&["pubsub"])
        .since("2.0.0", "pubsub")
        .costs("O(N), N being the number of channels")
        .about("Listens to channels no longer."),
];

const PUBSUB: &[CommandSpec] = &[
    subcommand("channels", "pubsub|channels", -2, pubsub::channels)
        .flags(ASKING)
        .categories(&["pubsub"])
        .since("2.8.0", "pubsub")
        .costs("O(N), N being the number of channels")
        .about("Tells which channels are listened to here."),
    subcommand("help", "pubsub|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("numpat", "pubsub|numpat", 2, pubsub::numpat)
        .flags(ASKING)
        .categories(&["pubsub"])
        .since("2.8.0", "pubsub")
        .costs("O(1)")
        .about("Tells how many patterns are listened to here."),
    subcommand("numsub", "pubsub|numsub", -2, pubsub::numsub)
        .flags(ASKING)
        .categories(&["pubsub"])
        .since("2.8.0", "pubsub")
        .costs("O(N), N being the number of channels")
        .about("Tells how many listen to channels here."),
];

const SENTINEL: &[CommandSpec] = &[
    subcommand("ckquorum", "sentinel|ckquorum", 3, sentinel::quorum)
        .flags(WATCHING)
        .about("Tells whether a majority of replicas is connected."),
    subcommand("get-master-addr-by-name", "sentinel|get-master-addr-by-name", 3, sentinel::address)
        .flags(WATCHING)
        .about("Tells where the leader is."),
    subcommand("help", "sentinel|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("master", "sentinel|master", 3, sentinel::master)
        .flags(WATCHING)
        .about("Tells of the leader."),
    subcommand("masters", "sentinel|masters", 2, sentinel::masters)
        .flags(WATCHING)
        .about("Tells of the leader, in a list of one."),
    subcommand("myid", "sentinel|myid", 2, sentinel::my_id)
        .flags(WATCHING)
        .about("Tells this replica's name."),
    subcommand("replicas", "sentinel|replicas", 3, sentinel::replicas)
        .flags(WATCHING)
        .about("Tells of the replicas that do not lead."),
    subcommand("sentinels", "sentinel|sentinels", 3, sentinel::sentinels)
        .flags(WATCHING)
        .about("Tells of the other replicas, each of which may be asked like this one."),
    subcommand("slaves", "sentinel|slaves", 3, sentinel::replicas)
        .flags(WATCHING)
        .about("The same as REPLICAS."),
];
