//! Commands on strings, and all that are about something else than keys.

use crate::redis::commands::client;
use crate::redis::commands::cluster;
use crate::redis::commands::command as commands;
use crate::redis::commands::connection as hello;
use crate::redis::commands::info;
use crate::redis::commands::save;
use crate::redis::commands::server;
use crate::redis::settings;
use crate::redis::spec::READ_FAST;
use crate::redis::spec::{CommandSpec, command, subcommand};

const GREETING: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const ANYTIME: &[&str] = &["loading", "stale"];
const ANYTIME_FAST: &[&str] = &["loading", "stale", "fast"];
const ABOUT_CLIENTS: &[&str] = &["noscript", "loading", "stale"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];

static CLIENT: &[CommandSpec] = &[
    subcommand("getname", "client|getname", 2, client::getname)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("2.6.9", "connection")
        .costs("O(1)")
        .about("Tells the connection's name."),
    subcommand("help", "client|help", 2, commands::help)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("5.0.0", "connection")
        .costs("O(1)")
        .about("Tells the subcommands."),
    subcommand("id", "client|id", 2, client::id)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("5.0.0", "connection")
        .costs("O(1)")
        .about("Tells the connection's number."),
    subcommand("info", "client|info", 2, client::info)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("6.2.0", "connection")
        .costs("O(1)")
        .about("Tells of the connection."),
    subcommand("kill", "client|kill", -3, client::kill)
        .flags(ADMIN)
        .categories(&["dangerous", "connection"])
        .since("2.4.0", "connection")
        .costs("O(N), N being the number of connections")
        .about("Closes connections."),
    subcommand("list", "client|list", -2, client::list)
        .flags(ADMIN)
        .categories(&["dangerous", "connection"])
        .since("2.4.0", "connection")
        .costs("O(N), N being the number of connections")
        .about("Tells of all connections."),
    subcommand("no-evict", "client|no-evict", 3, client::no_effect)
        .flags(ADMIN)
        .categories(&["dangerous", "connection"])
        .since("7.0.0", "connection")
        .costs("O(1)")
        .about("Changes nothing here, where no client gives way to keys."),
    subcommand("no-touch", "client|no-touch", 3, client::no_effect)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("7.2.0", "connection")
        .costs("O(1)")
        .about("Changes nothing here, where the use of keys is not counted."),
    subcommand("reply", "client|reply", 3, client::reply)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("3.2.0", "connection")
        .costs("O(1)")
        .about("Says whether the client wants replies."),
    subcommand("setinfo", "client|setinfo", 4, client::setinfo)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("7.2.0", "connection")
        .costs("O(1)")
        .about("Sets what library the client uses."),
    subcommand("setname", "client|setname", 3, client::setname)
        .flags(ABOUT_CLIENTS)
        .categories(&["connection"])
        .since("2.6.9", "connection")
        .costs("O(1)")
        .about("Sets the connection's name."),
];

static CLUSTER: &[CommandSpec] = &[
    subcommand("countkeysinslot", "cluster|countkeysinslot", 3, cluster::countkeysinslot)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(N), N being the number of all keys")
        .about("Tells how many keys a slot has."),
    subcommand("help", "cluster|help", 2, commands::help)
        .flags(ANYTIME)
        .since("5.0.0", "cluster")
        .costs("O(1)")
        .about("Tells the subcommands."),
    subcommand("info", "cluster|info", 2, cluster::info)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Tells how the cluster is."),
    subcommand("keyslot", "cluster|keyslot", 3, cluster::keyslot)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(N), N being the key's length")
        .about("Tells a key's slot."),
    subcommand("myid", "cluster|myid", 2, cluster::myid)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Tells this replica's name."),
    subcommand("nodes", "cluster|nodes", 2, cluster::nodes)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(N), N being the number of replicas")
        .about("Tells of all replicas, as text."),
    subcommand("shards", "cluster|shards", 2, cluster::shards)
        .flags(&["stale"])
        .since("7.0.0", "cluster")
        .costs("O(N), N being the number of replicas")
        .about("Tells of all replicas."),
    subcommand("slots", "cluster|slots", 2, cluster::slots)
        .flags(&["stale"])
        .since("3.0.0", "cluster")
        .costs("O(N), N being the number of replicas")
        .about("Tells who has which slots."),
];

static COMMAND: &[CommandSpec] = &[
    subcommand("count", "command|count", 2, commands::count)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(1)")
        .about("Tells how many commands there are."),
    subcommand("docs", "command|docs", -2, commands::docs)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("7.0.0", "server")
        .costs("O(N), N being the number of commands")
        .about("Tells what commands do."),
    subcommand("getkeys", "command|getkeys", -4, commands::getkeys)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(N), N being the number of words")
        .about("Tells which words of a request are keys."),
    subcommand("help", "command|help", 2, commands::help)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("5.0.0", "server")
        .costs("O(1)")
        .about("Tells the subcommands."),
    subcommand("info", "command|info", -2, commands::info)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(N), N being the number of commands")
        .about("Tells of commands."),
    subcommand("list", "command|list", -2, commands::list)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("7.0.0", "server")
        .costs("O(N), N being the number of commands")
        .about("Tells all commands' names."),
];

static CONFIG: &[CommandSpec] = &[
    subcommand("get", "config|get", -3, settings::get)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(N), N being the number of settings")
        .about("Tells settings."),
    subcommand("help", "config|help", 2, commands::help)
        .flags(ANYTIME)
        .since("5.0.0", "server")
        .costs("O(1)")
        .about("Tells the subcommands."),
    subcommand("resetstat", "config|resetstat", 2, settings::reset_statistics)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(1)")
        .about("Counts what went through the door anew."),
    subcommand("rewrite", "config|rewrite", 2, settings::rewrite)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.8.0", "server")
        .costs("O(1)")
        .about("Is refused: what is set here is forgotten with the process."),
    subcommand("set", "config|set", -4, settings::set)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(N), N being the number of settings")
        .about("Changes settings, all or none."),
];

static FUNCTION: &[CommandSpec] = &[
    subcommand("flush", "function|flush", -2, server::flush_functions)
        .flags(&["write", "noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Removes all functions, of which there are none."),
    subcommand("help", "function|help", 2, commands::help)
        .flags(ANYTIME)
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Tells the subcommands."),
];

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("asking", 1, cluster::asking)
        .flags(&["fast"])
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Changes nothing here, where no slot ever moves."),
    command("auth", -2, hello::auth)
        .flags(GREETING)
        .categories(&["connection"])
        .since("1.0.0", "connection")
        .costs("O(1)")
        .about("Says who the client is."),
    command("bgsave", -1, save::in_background)
        .flags(&["admin", "noscript", "no_async_loading"])
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Has a snapshot taken now."),
    command("client", -2, commands::help)
        .since("2.4.0", "connection")
        .about("Commands about clients' connections.")
        .with(CLIENT),
    command("cluster", -2, commands::help)
        .since("3.0.0", "cluster")
        .about("Commands about the cluster.")
        .with(CLUSTER),
    command("command", -1, commands::all)
        .flags(ANYTIME)
        .categories(&["connection"])
        .since("2.8.13", "server")
        .costs("O(N), N being the number of commands")
        .about("Tells of all commands.")
        .with(COMMAND),
    command("config", -2, commands::help)
        .since("2.0.0", "server")
        .about("Commands about settings.")
        .with(CONFIG),
    command("dbsize", 1, server::dbsize)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Tells how many keys there are."),
    command("echo", 2, hello::echo)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("1.0.0", "connection")
        .costs("O(1)")
        .about("Answers what it was given."),
    command("flushall", -1, server::flush)
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of all keys")
        .about("Removes every key."),
    command("flushdb", -1, server::flush)
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of all keys")
        .about("Removes every key."),
    command("function", -2, commands::help)
        .since("7.0.0", "scripting")
        .about("Commands about functions, of which there are none.")
        .with(FUNCTION),
    command("hello", -1, hello::hello)
        .flags(GREETING)
        .categories(&["connection"])
        .since("6.0.0", "connection")
        .costs("O(1)")
        .about("Agrees on the version of the protocol."),
    command("info", -1, info::info)
        .flags(ANYTIME)
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Tells how the server is."),
    command("lastsave", 1, save::last)
        .flags(ANYTIME_FAST)
        .categories(&["admin", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Tells when the latest snapshot was taken."),
    command("ping", -1, hello::ping)
        .flags(&["fast"])
        .categories(&["connection"])
        .since("1.0.0", "connection")
        .costs("O(1)")
        .about("Answers."),
    command("quit", -1, hello::quit)
        .flags(GREETING)
        .categories(&["connection"])
        .since("1.0.0", "connection")
        .costs("O(1)")
        .about("Closes the connection."),
    command("readonly", 1, cluster::readonly)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Lets this connection read from a replica that does not lead."),
    command("readwrite", 1, cluster::readwrite)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Takes READONLY back."),
    command("reset", 1, hello::reset)
        .flags(GREETING)
        .categories(&["connection"])
        .since("6.2.0", "connection")
        .costs("O(1)")
        .about("Makes the connection as new."),
    command("role", 1, cluster::role)
        .flags(&["noscript", "loading", "stale", "fast"])
        .categories(&["admin", "dangerous"])
        .since("2.8.12", "server")
        .costs("O(1)")
        .about("Tells whether this replica leads."),
    command("save", 1, save::now)
        .flags(&["admin", "noscript", "no_async_loading", "no_multi"])
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Has a snapshot taken now, and does not wait for it."),
    command("select", 2, hello::select)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("1.0.0", "connection")
        .costs("O(1)")
        .about("Chooses the database; there is only 0."),
    command("time", 1, hello::time)
        .flags(ANYTIME_FAST)
        .since("2.6.0", "server")
        .costs("O(1)")
        .about("Tells the time by this replica's clock."),
];
