//! Requests that a replica serves even though it does not know the users of the cluster. Two kinds
//! of replicas do not: one that has just started, until a leader has confirmed that its state is
//! current, and a witness, which stores no users.

use crate::wire::resp::Request;

use super::authorization::NO_LOGIN;
use super::registry;
use super::session::connection::Connection;
use super::spec::CommandSpec;

/// Error reply to a request that needs the users while they are unknown.
pub const USERS_UNKNOWN: &str = "LOADING this replica has just started, and no leader has \
     confirmed yet that it knows the current users; try again later, or send the command to \
     another replica";

/// Error reply to commands that a witness without a password rejects.
pub(super) const UNPROTECTED_WITNESS: &str =
    "NOPERM this replica is a witness, which knows no users; set requirepass on it to allow this";

/// What a replica must know about the users to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsersNeed {
    /// Nothing.
    None,
    /// The passwords, because the request is a login.
    Login,
    /// The permissions of the connection's user.
    Permissions,
}

/// Commands that are served although the users are unknown. They only show the state of this
/// replica and of the cluster, or change the client's own connection: no keys, values, settings or
/// other clients.
const HARMLESS: &[&str] = &[
    "client|getname",
    "client|id",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "cluster|info",
    "cluster|keyslot",
    "cluster|myid",
    "cluster|nodes",
    "cluster|shards",
    "cluster|slots",
    "command",
    "echo",
    "info",
    "members|list",
    "ping",
    "role",
    "sentinel",
    "time",
];

/// Returns whether a command is served although the users are unknown: it is harmless, or permitted
/// before login.
pub(super) fn is_harmless(spec: &CommandSpec) -> bool {
    let name = spec.full_name;
    let group = name.split_once('|').map_or(name, |(group, _)| group);
    spec.has_flag(NO_LOGIN) || HARMLESS.contains(&name) || HARMLESS.contains(&group)
}

impl Connection {
    /// Returns what a replica must know about the users to serve `request`. An invalid request
    /// needs nothing.
    pub fn needs_users(request: Request<'_>) -> UsersNeed {
        let Some(spec) = registry::table().lookup(request) else { return UsersNeed::None };
        let is_auth = |argument: &[u8]| argument.eq_ignore_ascii_case(b"auth");
        match spec.full_name {
            "auth" => UsersNeed::Login,
            "hello" if request.rest(1).any(is_auth) => UsersNeed::Login,
            _ if is_harmless(spec) => UsersNeed::None,
            _ => UsersNeed::Permissions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::{Limits, Parser};

    #[test]
    fn only_harmless_commands_are_served_without_users() {
        let need = |text: &str| {
            let bytes = format!("{text}\r\n");
            let mut parser = Parser::new(Limits::default());
            let request = parser.next(bytes.as_bytes(), &mut 0).unwrap().unwrap();
            Connection::needs_users(request)
        };
        for text in ["PING", "info raft", "Cluster Slots", "HELLO 3", "QUIT", "RESET", "nonsense"] {
            assert_eq!(need(text), UsersNeed::None, "{text}");
        }
        for text in ["AUTH a", "auth a b", "HELLO 3 AUTH a b", "hello 2 setname x auth a b"] {
            assert_eq!(need(text), UsersNeed::Login, "{text}");
        }
        let others = registry::table().all().iter().flat_map(|spec| {
            let subcommands = spec.subcommands.iter().filter(|spec| !is_harmless(spec));
            subcommands.chain((!is_harmless(spec)).then_some(*spec))
        });
        assert!(others.count() > 150);
        let held = [
            "GET k",
            "SET k v",
            "READONLY",
            "SUBSCRIBE c",
            "MULTI",
            "CONFIG GET *",
            "CONFIG SET a b",
            "CLIENT LIST",
            "CLIENT KILL ID 1",
            "ACL LIST",
            "SLOWLOG GET",
            "SNAPSHOT OPEN",
            "MEMBERS REMOVE 1",
            "FAILOVER",
            "DEBUG SLEEP 1",
            "CLUSTER COUNTKEYSINSLOT 1",
            "KEYS *",
            "BGSAVE",
        ];
        for text in held {
            assert_eq!(need(text), UsersNeed::Permissions, "{text}");
        }
    }
}
