//! The certificates in use. A thread reads the files again when they change or when it is asked to,
//! so that new connections use the new certificates. If new files cannot be used, the previous
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

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Asks a running server to read its certificates again.
#[derive(Debug, Default)]
pub struct ReloadHandle {
    is_requested: Mutex<bool>,
    changed: Condvar,
}

impl ReloadHandle {
    /// Asks the server to read the files now, even if they seem unchanged.
    pub fn reload(&self) {
        *self.is_requested.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until a reload is requested, but at most for `timeout`. Returns whether one was
    /// requested since the last call.
    fn wait(&self, timeout: Duration) -> bool {
        let mut is_requested = self.is_requested.lock();
        if !*is_requested {
            self.changed.wait_for(&mut is_requested, timeout);
        }
        std::mem::take(&mut *is_requested)
    }
}

/// The certificates with which this replica makes and accepts connections.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    clients: Option<(ClientTls, Mutex<Arc<ServerConfig>>)>,
    peers: Option<(PeerTls, Mutex<PeerConfigs>)>,
    /// The states of the files of `clients` and of `peers` just before they were first read.
    states: [Option<FileStates>; 2],
    /// Number of times that the authorities of peers have changed.
    authority_changes: AtomicU64,
}

impl Certificates {
    /// Reads the certificates that the options name.
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

    /// Starts the thread that reads the files again, if there are any. It ends when the
    /// certificates are dropped.
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
                // The server has stopped. The request is for one that is started again.
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
                tracing::info!(%cert, "certificates for clients read");
            }
            Err(error) => {
                tracing::error!(%error, "new certificates for clients refused, the previous stay");
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
                    "certificates for peers read"
                );
            }
            Err(error) => {
                tracing::error!(%error, "new certificates for peers refused, the previous stay");
            }
        }
    }

    /// Returns the state of a new connection of a client.
    pub(crate) fn accept_client(&self) -> io::Result<Session> {
        let (_, config) = self.clients.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let config = Arc::clone(&config.lock());
        Session::accept(config)
    }

    /// Returns the state of a new connection of a peer; `None` if peers use no certificates.
    pub(crate) fn accept_peer(&self) -> io::Result<Option<Session>> {
        let Some((_, configs)) = &self.peers else { return Ok(None) };
        let config = Arc::clone(&configs.lock().incoming);
        Session::accept(config).map(Some)
    }

    /// Returns the state of a new connection to the replica `peer`; `None` if peers use no
    /// certificates.
    pub(crate) fn connect_to_peer(&self, peer: NodeId) -> io::Result<Option<Session>> {
        let Some((options, configs)) = &self.peers else { return Ok(None) };
        let config = Arc::clone(&configs.lock().outgoing);
        Session::connect(config, options.domain.server_name(peer)).map(Some)
    }

    /// Returns the domain of the names in the certificates of peers; `None` if peers use no
    /// certificates.
    pub(crate) fn peer_domain(&self) -> Option<&PeerDomain> {
        self.peers.as_ref().map(|(options, _)| &options.domain)
    }

    /// Returns the number of times that the authorities of peers have changed. After each, the
    /// connections to and from peers must be made again, so that they are verified again.
    pub(crate) fn authority_changes(&self) -> u64 {
        self.authority_changes.load(Ordering::Acquire)
    }
}

/// Replaces `known` with the present state of files. Returns whether it is another one.
fn has_changed(known: &mut Option<FileStates>, present: Option<FileStates>) -> bool {
    let has_changed = *known != present;
    *known = present;
    has_changed
}
