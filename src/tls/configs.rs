//! TLS configurations: the certificates, authorities and protocol versions that a connection
//! accepts.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::files::{Loaded, authorities};
use super::{TlsError, TlsFiles};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));

/// Whether a server asks its clients for certificates. A certificate is valid if one of the
/// server's trusted authorities has signed it and it has not expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// A client without a valid certificate is rejected.
    Required,
    /// A client may connect without a certificate. One with an invalid certificate is rejected.
    Optional,
    /// Clients are not asked for certificates.
    Ignored,
}

/// TLS configurations of connections between replicas.
#[derive(Clone, Debug)]
pub struct PeerConfigs {
    /// For connections that peers open to this replica.
    pub incoming: Arc<ServerConfig>,
    /// For connections that this replica opens to its peers.
    pub outgoing: Arc<ClientConfig>,
    /// The authorities whose certificates this replica accepts from its peers.
    pub authorities: Authorities,
}

/// A set of trusted certificate authorities. Two sets are equal if they have the same certificates
/// in the same order.
#[derive(Clone, Debug)]
pub struct Authorities(RootCertStore);

impl PartialEq for Authorities {
    fn eq(&self, other: &Authorities) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Authorities {}

/// Returns the TLS configuration for connections from clients.
///
/// # Errors
/// If a file cannot be read, or does not contain usable certificates or keys.
pub fn server_config(
    files: &TlsFiles,
    certificates: ClientCertificates,
) -> Result<Arc<ServerConfig>, TlsError> {
    incoming(files, files.load()?, certificates, ALL_VERSIONS)
}

/// Returns the TLS configurations for connections between replicas, which verify each other's
/// certificates.
///
/// # Errors
/// If a file cannot be read, or does not contain usable certificates or keys.
pub fn peer_configs(files: &TlsFiles) -> Result<PeerConfigs, TlsError> {
    let Loaded { chain, key, authorities } = files.load()?;
    let loaded =
        Loaded { chain: chain.clone(), key: key.clone_key(), authorities: authorities.clone() };
    let mut outgoing = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .and_then(|it| it.with_root_certificates(authorities).with_client_auth_cert(chain, key))
        .map_err(|error| files.unusable(&error))?;
    // Server name indication would show the name of the replica unencrypted.
    outgoing.enable_sni = false;
    outgoing.resumption = Resumption::disabled();
    let authorities = Authorities(loaded.authorities.clone());
    let incoming = incoming(files, loaded, ClientCertificates::Required, &[&TLS13])?;
    Ok(PeerConfigs { incoming, outgoing: Arc::new(outgoing), authorities })
}

/// Returns the TLS configuration of a client. It trusts the authorities in the file `ca`, and
/// presents the certificate `identity` (the paths of the certificate and of its private key) if
/// there is one.
///
/// # Errors
/// If a file cannot be read, or does not contain usable certificates or keys.
pub fn client_config(
    ca: &Path,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let authorities = authorities(ca)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(ALL_VERSIONS)
        .map_err(|error| TlsError::Authorities { path: ca.to_owned(), reason: error.to_string() })?
        .with_root_certificates(authorities);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let files = TlsFiles { cert: cert.to_owned(), key: key.to_owned(), ca: None };
            let Loaded { chain, key, .. } = files.load()?;
            builder.with_client_auth_cert(chain, key).map_err(|error| files.unusable(&error))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn incoming(
    files: &TlsFiles,
    loaded: Loaded,
    certificates: ClientCertificates,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let Loaded { chain, key, authorities } = loaded;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(versions)
        .map_err(|error| files.unusable(&error))?;
    let builder = match certificates {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Required | ClientCertificates::Optional => {
            let provider = Arc::clone(&PROVIDER);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            let verifier = if certificates == ClientCertificates::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            let verifier = verifier.build().map_err(|error| TlsError::Authorities {
                path: files.ca.clone().unwrap_or_default(),
                reason: error.to_string(),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| files.unusable(&error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
