//! The limit on open files. It is raised for the configured number of clients, with descriptors
//! reserved for peers and the log.

use rustix::process::{Resource, getrlimit, setrlimit};

/// File descriptors reserved for the log, the listeners and the rest of the process.
const RESERVED: u64 = 24;
/// File descriptors reserved for each peer: four for the connections (one for urgent and one for
/// bulk messages, in each direction), and two for connections that are being replaced.
const RESERVED_PER_PEER: u64 = 6;

/// Returns the number of file descriptors that are not for clients: those for `peer_count` peers,
/// and `other_count` for purposes that not every replica has.
pub(crate) fn reserved(peer_count: usize, other_count: u64) -> u64 {
    RESERVED + RESERVED_PER_PEER * peer_count as u64 + other_count
}

/// Raises the limit on open files so that `clients` connections fit besides the `reserved` file
/// descriptors. Returns the number of client connections that the limit allows, at most `clients`.
pub(crate) fn raise_limit(clients: u64, reserved: u64) -> u64 {
    let needed = clients.saturating_add(reserved);
    let mut limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < needed) {
        limit.current = Some(needed.min(maximum));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(
                needed,
                %error,
                "cannot raise the limit on open files to the number needed for all clients"
            );
        }
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let clients_max = allowed.saturating_sub(reserved).max(1);
    if clients_max < clients {
        tracing::warn!(
            maxclients = clients_max,
            configured = clients,
            open_files = allowed,
            "maxclients lowered to fit the limit on open files; raise `ulimit -n`"
        );
    }
    clients_max.min(clients)
}

/// Returns the maximum number of client connections that [`raise_limit`] can make possible.
pub(crate) fn clients_allowed(reserved: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX).saturating_sub(reserved).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxclients_is_capped_by_the_open_file_limit() {
        let reserved = reserved(2, 0);
        let few = raise_limit(20, reserved);
        assert!((1..=20).contains(&few));
        let limit = getrlimit(Resource::Nofile).maximum;
        assert!(few <= clients_allowed(reserved), "more than the hard limit");
        if let Some(limit) = limit {
            assert!(raise_limit(u64::MAX, reserved) < limit.max(2));
        }
    }
}
