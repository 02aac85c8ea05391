//! How many files and sockets the system lets this process have: raised as far as it goes, and so
//! many kept back that peers and the log never lack one because of clients.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Kept back for the log, the listeners and whatever else a process holds.
const KEPT_BACK: u64 = 24;
/// And for each peer: a connection for each lane, in both directions, and one being replaced.
const KEPT_BACK_FOR_A_PEER: u64 = 6;

/// Makes room for so many clients, and says how many there is room for.
pub(super) fn reserve(clients: u64, peer_count: usize) -> u64 {
    let kept_back = KEPT_BACK + KEPT_BACK_FOR_A_PEER * peer_count as u64;
    let wanted = clients.saturating_add(kept_back);
    let mut limit = getrlimit(Resource::Nofile);
    // No limit at all is none.
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted.min(most));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("can't have {wanted} files open at a time: {error}");
        }
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = allowed.saturating_sub(kept_back).max(1);
    if room < clients {
        tracing::warn!(
            "there is room for {room} clients and not for {clients}, as no more than {allowed} \
             files may be open; raise `ulimit -n`"
        );
    }
    room.min(clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_few_clients_and_not_for_all_in_the_world() {
        let few = reserve(20, 2);
        assert!((1..=20).contains(&few));
        let limit = getrlimit(Resource::Nofile).current;
        if let Some(limit) = limit {
            assert!(reserve(u64::MAX, 2) < limit.max(2));
        }
    }
}
