//! The known addresses of a peer. Host names are resolved on a separate thread, because resolving
//! can take seconds.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use crossbeam::channel::{self, Receiver, Sender};
use parking_lot::Mutex;

/// Capacity of the resolver's queue of host names. A name that does not fit is queued at a later
/// connection attempt.
const WAITING_MAX: usize = 64;

/// The known addresses of a peer, each as `host:port`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct PeerAddresses {
    /// The address in the cluster's configuration.
    pub(crate) configured: Option<String>,
    /// The address in this replica's options.
    pub(crate) listed: Option<String>,
    /// The address that the peer has announced since this process started. It is tried last,
    /// because the other two may deliberately lead through a proxy.
    pub(crate) announced: Option<String>,
}

impl PeerAddresses {
    /// Returns the address for the next connection attempt after `failed_attempts` failed ones. The
    /// distinct addresses are tried in turn: configured, listed, announced. `None` if no address is
    /// known.
    pub(crate) fn for_attempt(&self, failed_attempts: usize) -> Option<&str> {
        let mut known: Vec<&str> = Vec::new();
        for address in [&self.configured, &self.listed, &self.announced].into_iter().flatten() {
            if !known.contains(&address.as_str()) {
                known.push(address);
            }
        }
        known.get(failed_attempts % known.len().max(1)).copied()
    }
}

/// Resolves host names on a background thread, which is started by the first name.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: Arc<Mutex<HashMap<String, Known>>>,
    names: Option<Sender<String>>,
}

/// The state of a host name in the resolver.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    /// The result of the last successful resolution.
    address: Option<SocketAddr>,
    /// Whether the name is queued or being resolved. Such a name is not queued again, so that a
    /// slow one does not fill the queue.
    is_waiting: bool,
}

impl Resolver {
    /// Returns the socket address for `text`, a `host:port`. For a host name, that is the result of
    /// the last successful resolution (`None` before the first); the name is also queued to be
    /// resolved again for later calls.
    pub(super) fn address_of(&mut self, text: &str) -> Option<SocketAddr> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let names = self.names.get_or_insert_with(|| {
            let (sender, names) = channel::bounded(WAITING_MAX);
            let known = Arc::clone(&self.known);
            let thread = std::thread::Builder::new().name("resolver".to_owned());
            if let Err(error) = thread.spawn(move || resolve(&names, &known)) {
                tracing::warn!(%error, "cannot start the thread that resolves host names");
            }
            sender
        });
        let mut known = self.known.lock();
        let name = known.entry(text.to_owned()).or_default();
        if !name.is_waiting {
            name.is_waiting = names.try_send(text.to_owned()).is_ok();
        }
        name.address
    }
}

/// Resolves queued names until the sender is dropped.
fn resolve(names: &Receiver<String>, known: &Mutex<HashMap<String, Known>>) {
    while let Ok(name) = names.recv() {
        let resolved = name.to_socket_addrs().map(|mut addresses| addresses.next());
        match &resolved {
            Ok(Some(_)) => {}
            Ok(None) => tracing::debug!(name, "the host name of a peer has no address"),
            Err(error) => tracing::debug!(name, %error, "cannot resolve the host name of a peer"),
        }
        let mut known = known.lock();
        let name = known.entry(name).or_default();
        name.is_waiting = false;
        // After an error, the last address is kept: the name server may be unavailable.
        name.address = resolved.ok().flatten().or(name.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn failed_attempts_use_all_addresses_in_turn() {
        let mut addresses = PeerAddresses::default();
        assert_eq!(addresses.for_attempt(0), None);
        addresses.announced = Some("c:1".to_owned());
        assert_eq!(addresses.for_attempt(5), Some("c:1"));
        addresses.listed = Some("b:1".to_owned());
        addresses.configured = Some("a:1".to_owned());
        let tried: Vec<_> = (0..4).filter_map(|attempt| addresses.for_attempt(attempt)).collect();
        assert_eq!(tried, ["a:1", "b:1", "c:1", "a:1"]);
        addresses.listed = Some("a:1".to_owned());
        let tried: Vec<_> = (0..3).filter_map(|attempt| addresses.for_attempt(attempt)).collect();
        assert_eq!(tried, ["a:1", "c:1", "a:1"]);
    }

    #[test]
    fn host_name_is_resolved_in_the_background() {
        let mut resolver = Resolver::default();
        let literal = resolver.address_of("127.0.0.1:7");
        assert_eq!(literal, Some("127.0.0.1:7".parse().unwrap()));
        assert!(resolver.names.is_none(), "a literal address needs no thread");
        let until = Instant::now() + Duration::from_secs(20);
        while resolver.address_of("localhost:8").is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(resolver.address_of("localhost:8").map(|it| it.port()), Some(8));
        for _ in 0..3 * WAITING_MAX {
            resolver.address_of("localhost:9");
        }
        let waiting = resolver.names.as_ref().map(Sender::len);
        assert!(waiting <= Some(2), "a name waits once: {waiting:?}");
    }
}
