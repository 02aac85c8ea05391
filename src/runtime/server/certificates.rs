//! The TLS certificates in use. A thread reloads the files when they change or on request, so that
//! new connections use the new certificates. If the new files are unusable, the previous
//! certificates stay in use.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustls::ServerConfig;

use crate::runtime::error::{RunError, system_error};
use crate::runtime::server::options::{ClientTls, PeerTls};
use crate::tls::{
    FileStates, PeerConfigs, PeerDomain, Session, TlsError, TlsFiles, peer_configs, server_config,
};
use crate::types::NodeId;

/// Interval between checks of the files for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Requests a running server to reload its certificates.
#[derive(Debug, Default)]
pub struct ReloadHandle {
    is_requested: Mutex<bool>,
    changed: Condvar,
}

impl ReloadHandle {
    /// Requests a reload of the files, even if they seem unchanged.
    pub fn reload(&self) {
        *self.is_requested.lock() = true;
        self.changed.notify_all();
    }

    /// Blocks until a reload is requested, at most for `timeout`. Returns whether a reload has been
    /// requested since the previous call.
    fn wait(&self, timeout: Duration) -> bool {
        let mut is_requested = self.is_requested.lock();
        if !*is_requested {
            self.changed.wait_for(&mut is_requested, timeout);
        }
        std::mem::take(&mut *is_requested)
    }
}

/// The TLS configurations with which this replica opens and accepts connections.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    clients: Option<(ClientTls, Mutex<Arc<ServerConfig>>)>,
    peers: Option<(PeerTls, Mutex<PeerConfigs>)>,
    /// The states of the files of `clients` and of `peers`, taken just before they were last read.
    states: [Option<FileStates>; 2],
    /// Number of changes of the trusted authorities of peers.
    authority_changes: AtomicU64,
}

impl Certificates {
    /// Loads the certificates that the options name.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub(super) fn load(
        clients: Option<&ClientTls>,
        peers: Option<&PeerTls>,
    ) -> Result<Certificates, TlsError> {
        let states = [
            clients.map(|options| options.files.states()),
            peers.map(|options| options.files.states()),
        ];
        let of_clients = |options: &ClientTls| {
            let config = server_config(&options.files, options.client_certificates)?;
            Ok((options.clone(), Mutex::new(config)))
        };
        let of_peers =
            |options: &PeerTls| Ok((options.clone(), Mutex::new(peer_configs(&options.files)?)));
        Ok(Certificates {
            clients: clients.map(of_clients).transpose()?,
            peers: peers.map(of_peers).transpose()?,
            states,
            authority_changes: AtomicU64::new(0),
        })
    }

    /// Starts the thread that reloads the files, if there are any. It ends when the certificates
    /// are dropped.
    pub(super) fn watch(
        self: &Arc<Certificates>,
        handle: &Arc<ReloadHandle>,
    ) -> Result<(), RunError> {
        if self.clients.is_none() && self.peers.is_none() {
            return Ok(());
        }
        let [mut of_clients, mut of_peers] = self.states.clone();
        let (certificates, handle) = (Arc::downgrade(self), Arc::clone(handle));
        let watch = move || loop {
            let is_requested = handle.wait(CHECK_INTERVAL);
            let Some(certificates) = certificates.upgrade() else {
                // The server has stopped. Leaves the request to a server that is started in its
                // place.
                if is_requested {
                    handle.reload();
                }
                return;
            };
            let clients = certificates.clients.as_ref().map(|(options, _)| &options.files);
            let peers = certificates.peers.as_ref().map(|(options, _)| &options.files);
            let states = |files: Option<&TlsFiles>| files.map(TlsFiles::states);
            if has_changed(&mut of_clients, states(clients)) || is_requested {
                certificates.reload_clients();
            }
            if has_changed(&mut of_peers, states(peers)) || is_requested {
                certificates.reload_peers();
            }
        };
        thread::Builder::new()
            .name("certificates".to_owned())
            .spawn(watch)
            .map_err(system_error("cannot start the thread that watches the certificates"))?;
        Ok(())
    }

    fn reload_clients(&self) {
        let Some((options, current)) = &self.clients else { return };
        match server_config(&options.files, options.client_certificates) {
            Ok(config) => {
                *current.lock() = config;
                let cert = options.files.cert.display();
                tracing::info!(%cert, "certificates for clients loaded");
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "new certificates for clients rejected, keeping the previous ones"
                );
            }
        }
    }

    fn reload_peers(&self) {
        let Some((options, current)) = &self.peers else { return };
        match peer_configs(&options.files) {
            Ok(configs) => {
                let mut current = current.lock();
                let has_new_authorities = configs.authorities != current.authorities;
                *current = configs;
                if has_new_authorities {
                    self.authority_changes.fetch_add(1, Ordering::Release);
                }
                tracing::info!(
                    cert = %options.files.cert.display(),
                    has_new_authorities,
                    "certificates for peers loaded"
                );
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "new certificates for peers rejected, keeping the previous ones"
                );
            }
        }
    }

    /// Creates the TLS session of a connection that a client has opened.
    pub(crate) fn accept_client(&self) -> io::Result<Session> {
        let (_, config) = self.clients.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let config = Arc::clone(&config.lock());
        Session::accept(config)
    }

    /// Creates the TLS session of a connection that a peer has opened; `None` if peers use no TLS.
    pub(crate) fn accept_peer(&self) -> io::Result<Option<Session>> {
        let Some((_, configs)) = &self.peers else { return Ok(None) };
        let config = Arc::clone(&configs.lock().incoming);
        Session::accept(config).map(Some)
    }

    /// Creates the TLS session of a connection to the replica `peer`; `None` if peers use no TLS.
    pub(crate) fn connect_to_peer(&self, peer: NodeId) -> io::Result<Option<Session>> {
        let Some((options, configs)) = &self.peers else { return Ok(None) };
        let config = Arc::clone(&configs.lock().outgoing);
        Session::connect(config, options.domain.server_name(peer)).map(Some)
    }

    /// Returns the domain of the DNS names in peers' certificates; `None` if peers use no TLS.
    pub(crate) fn peer_domain(&self) -> Option<&PeerDomain> {
        self.peers.as_ref().map(|(options, _)| &options.domain)
    }

    /// Returns the number of changes of the trusted authorities of peers. After each change, all
    /// peer connections must be closed and opened again, so that the certificates are verified with
    /// the new authorities.
    pub(crate) fn authority_changes(&self) -> u64 {
        self.authority_changes.load(Ordering::Acquire)
    }
}

/// Replaces `known` with the present states of files. Returns whether they differ.
fn has_changed(known: &mut Option<FileStates>, present: Option<FileStates>) -> bool {
    let has_changed = *known != present;
    *known = present;
    has_changed
}
