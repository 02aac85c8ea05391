//! The sockets on which a server accepts clients and peers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::runtime::error::RunError;
use crate::runtime::server::certificates::Certificates;
use crate::runtime::server::options::ServerOptions;
use crate::runtime::server::retry::retry_while;
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::listener::Listener;

/// All sockets on which a server accepts connections and datagrams, and the certificates for them.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) listeners: Listeners,
    /// The socket for datagrams to and from peers.
    pub(super) datagrams: DatagramSocket,
    pub(super) certificates: Arc<Certificates>,
}

impl Endpoints {
    /// Loads the certificates and opens the sockets that the options name.
    ///
    /// # Errors
    /// If a file cannot be used or an address cannot be bound.
    pub(super) fn open(options: &ServerOptions) -> Result<Endpoints, RunError> {
        let certificates = Certificates::load(options.tls.as_ref(), options.peer_tls.as_ref())?;
        let listeners = Listeners::bind(options)?;
        let datagrams =
            self::bind("datagrams of peers", options.peer_listen, DatagramSocket::bind)?;
        Ok(Endpoints { listeners, datagrams, certificates: Arc::new(certificates) })
    }
}

/// The listening TCP sockets of a server.
#[derive(Debug)]
pub(super) struct Listeners {
    /// For clients without TLS; `None` if that port is disabled.
    pub(super) clients: Option<Listener>,
    /// For clients with TLS; `None` if no such port is configured.
    pub(super) tls: Option<Listener>,
    /// For Sentinel commands, with TLS if `clients` is `None`. `None` if no such address is
    /// configured.
    pub(super) sentinel: Option<Listener>,
    /// For peers.
    pub(super) peers: Listener,
}

impl Listeners {
    /// Opens the sockets that the options name.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub(super) fn bind(options: &ServerOptions) -> Result<Listeners, RunError> {
        let bind = |purpose, address: Option<SocketAddr>| {
            address.map(|address| listen(purpose, address)).transpose()
        };
        Ok(Listeners {
            clients: bind("clients", options.plain_listen())?,
            tls: bind("clients with TLS", options.tls_listen())?,
            sentinel: bind("Sentinel clients", options.sentinel_listen)?,
            peers: listen("peers", options.peer_listen)?,
        })
    }

    /// Returns all sockets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        [&self.clients, &self.tls, &self.sentinel].into_iter().flatten().chain([&self.peers])
    }
}

/// Opens a listening socket. `purpose` completes the error message "cannot listen for …". If the
/// address is in use, retries for some seconds, because an earlier process may still be exiting.
pub(super) fn listen(purpose: &'static str, address: SocketAddr) -> Result<Listener, RunError> {
    bind(purpose, address, Listener::bind)
}

/// Opens a socket by calling `bind` with `address`. Retries like [`listen`]. `purpose` says in
/// error messages what the socket is for.
fn bind<T>(
    purpose: &'static str,
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, RunError> {
    let bind = || {
        bind(address).map_err(|source| {
            let advice = match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process listens there; stop it, or choose another address"
                }
                io::ErrorKind::PermissionDenied => "choose a port above 1023",
                io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
                _ => "choose another address",
            };
            RunError::Listen { purpose, address, source, advice }
        })
    };
    let is_in_use = |error: &RunError| {
        matches!(error, RunError::Listen { source, .. }
            if source.kind() == io::ErrorKind::AddrInUse)
    };
    retry_while(bind, is_in_use)
}
