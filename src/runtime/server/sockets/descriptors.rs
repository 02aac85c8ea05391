//! The limit on open files. It is raised for the configured number of clients, with descriptors
//! reserved for peers and the log.

use rustix::process::{Resource, getrlimit, setrlimit};

/// File descriptors reserved for the log, the listeners and the rest of the process.
const RESERVED: u64 = 24;
/// File descriptors reserved for each peer: four for the connections (one for urgent and one for
/// bulk messages, in each direction), and two for connections that are being replaced.
const RESERVED_PER_PEER: u64 = 6;

/// Raises the limit on open files so that `clients` connections fit. Returns the number of client
/// connections that the limit allows, at most `clients`.
pub(crate) fn raise_limit(clients: u64, peer_count: usize) -> u64 {
    let reserved = RESERVED + RESERVED_PER_PEER * peer_count as u64;
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
pub(crate) fn clients_allowed(peer_count: usize) -> u64 {
    let reserved = RESERVED + RESERVED_PER_PEER * peer_count as u64;
    let limit = getrlimit(Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX).saturating_sub(reserved).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxclients_is_capped_by_the_open_file_limit() {
        let few = raise_limit(20, 2);
        assert!((1..=20).contains(&few));
        let limit = getrlimit(Resource::Nofile).maximum;
        assert!(few <= clients_allowed(2), "more than the hard limit");
        if let Some(limit) = limit {
            assert!(raise_limit(u64::MAX, 2) < limit.max(2));
        }
    }
}
