//! TLS of clients and peers: certificates, settings of connections, and one connection's state.
//!
//! | file | contents |
//! |---|---|
//! | `files` | files in PEM form, and whether they have changed |
//! | `configs` | which certificates and protocol versions a connection accepts |
//! | `peer_names` | which replica a certificate names |
//! | `datagrams` | encryption of datagrams, with keys from a connection |
//! | `session` | one connection: encrypts and decrypts, without a socket |
//!
//! Only `files` touches the machine. The cryptography is that of the `rustls` and `ring` crates.
//!
//! # Who proves what
//!
//! *Clients* verify the server's certificate as they see fit. The server verifies the certificate
//! of a client if it has a file of authorities ([`ClientCertificates`]).
//!
//! *Replicas* verify each other: a replica accepts a peer's certificate only if one of its own
//! authorities has signed it and it names the replica (see [`PeerDomain`]): the one that it
//! connects to, or the one that the peer claims to be in its hello. Both sides use TLS 1.3.
//!
//! Datagrams between replicas are encrypted with keys that both derive from such a connection.
//!
//! Sessions are never resumed, so that each connection is verified with the certificates that are
//! valid when it is made.

mod configs;
mod datagrams;
mod files;
mod peer_names;
mod session;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use self::configs::{
    Authorities, ClientCertificates, PeerConfigs, client_config, peer_configs, server_config,
};
pub(crate) use self::datagrams::{DatagramKeys, key_id};
#[cfg(test)]
pub(crate) use self::files::testing;
pub use self::files::{FileStates, TlsFiles};
pub use self::peer_names::PeerDomain;
pub(crate) use self::session::{Session, SessionRead};

/// The reason why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}; check its path and permissions", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A file does not contain what it should.
    #[error("{} has no {wanted} in PEM form; check which file it is", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the file should contain.
        wanted: &'static str,
    },
    /// The certificates are not acceptable, for example because the key belongs to another one.
    #[error(
        "cannot use the certificate {} with the key {}: {reason}",
        .cert.display(), .key.display()
    )]
    Certificate {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with its private key.
        key: PathBuf,
        /// Why they are not acceptable.
        reason: String,
    },
    /// The certificates of the authorities are not acceptable.
    #[error("cannot use the certificates of the authorities in {}: {reason}", .path.display())]
    Authorities {
        /// The file with the certificates.
        path: PathBuf,
        /// Why they are not acceptable.
        reason: String,
    },
}

/// What kind of failure ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureKind {
    /// The other side has sent something that is not TLS.
    NotTls,
    /// The other side has presented no certificate.
    NoCertificate,
    /// The certificate of the other side is not acceptable.
    Certificate,
    /// The other side has refused this one.
    Refused,
    /// Any other failure.
    Protocol,
}

/// The reason why a connection with TLS was closed.
///
/// Failures of the same kind are equal, so that logs can limit them together.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    text: String,
}

impl Failure {
    pub(crate) fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl PartialEq for Failure {
    fn eq(&self, other: &Failure) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&rustls::Error> for Failure {
    fn from(error: &rustls::Error) -> Failure {
        use rustls::{Error, InvalidMessage};
        let (kind, text) = match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                (FailureKind::NotTls, "the other side does not use TLS".to_owned())
            }
            Error::NoCertificatesPresented => {
                (FailureKind::NoCertificate, "the other side has presented no certificate".into())
            }
            Error::InvalidCertificate(error) => (
                FailureKind::Certificate,
                format!("the certificate of the other side is refused: {error}"),
            ),
            Error::AlertReceived(alert) => (
                FailureKind::Refused,
                format!("the other side has refused this one with the alert {alert:?}"),
            ),
            other => (FailureKind::Protocol, other.to_string()),
        };
        Failure { kind, text }
    }
}
