//! Where a peer is reached: the addresses that are known for it, and the resolution of host names
//! in a thread of its own, because it can take seconds.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use crossbeam::channel::{self, Receiver, Sender};
use parking_lot::Mutex;

/// Maximum number of host names that wait to be resolved. Beyond it, a name is resolved at a later
/// attempt to connect.
const WAITING_MAX: usize = 64;

/// The addresses that are known for a peer, as `host:port`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct PeerAddresses {
    /// The address in the configuration of the members.
    pub(crate) configured: Option<String>,
    /// The address in this replica's options.
    pub(crate) listed: Option<String>,
    /// The address that the peer has announced since this process started. It comes last, because
    /// a path through a proxy may be intended.
    pub(crate) announced: Option<String>,
}

impl PeerAddresses {
    /// Returns the address to try after this number of failed attempts to connect: each in turn.
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

/// Resolves host names in a thread, which is started when the first name is to be resolved.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: Arc<Mutex<HashMap<String, Known>>>,
    names: Option<Sender<String>>,
}

/// What is known about a host name.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    /// The result of the last resolution that succeeded.
    address: Option<SocketAddr>,
    /// Whether the name waits to be resolved, so that a slow name does not fill the queue.
    is_waiting: bool,
}

impl Resolver {
    /// Returns the address for `text`, a `host:port`. If the host is a name, this is the result of
    /// an earlier call, or `None`; and the name is resolved anew for the next call.
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

/// Resolves the names that arrive, until there is no sender any longer.
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
        // Otherwise the last address is kept: the server for names may be down.
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
