//! TLS for clients and peers: certificates, configurations, and the state of one connection.
//!
//! | file | contents |
//! |---|---|
//! | `files` | PEM files, and detection of changes to them |
//! | `configs` | which certificates and protocol versions a connection accepts |
//! | `peer_names` | which replica a certificate names |
//! | `datagrams` | encryption of datagrams, with keys derived from a connection |
//! | `session` | one connection: encrypts and decrypts, without a socket |
//!
//! Only `files` accesses the file system. The cryptography is that of the `rustls` and `ring`
//! crates.
//!
//! # Authentication
//!
//! *Clients* verify the server's certificate if they want to. The server verifies clients'
//! certificates if it has a file of trusted authorities ([`ClientCertificates`]).
//!
//! *Replicas* verify each other. A replica accepts a peer's certificate only if one of its own
//! trusted authorities has signed it, and if it names the right replica (see [`PeerDomain`]): on a
//! connection that this replica opens, the one that it connects to; on an incoming connection, the
//! one that the peer claims to be in its hello. Both sides use TLS 1.3.
//!
//! Datagrams between replicas are encrypted with keys that both derive from such a connection.
//!
//! Sessions are never resumed, so the certificates of each connection are verified when it is made.

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

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}; check its path and permissions", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// A file does not contain what it should, in PEM form.
    #[error("{} has no {wanted} in PEM form; check which file it is", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the file should contain.
        wanted: &'static str,
    },
    /// The certificate cannot be used, for example because the private key does not belong to it.
    #[error(
        "cannot use the certificate {} with the key {}: {reason}",
        .cert.display(), .key.display()
    )]
    Certificate {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with its private key.
        key: PathBuf,
        /// Why the certificate cannot be used.
        reason: String,
    },
    /// The certificates of the trusted authorities cannot be used.
    #[error("cannot use the certificates of the authorities in {}: {reason}", .path.display())]
    Authorities {
        /// The file with the certificates.
        path: PathBuf,
        /// Why they cannot be used.
        reason: String,
    },
}

/// Type of the failure that ended a TLS connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureKind {
    /// The other side sent something that is not TLS.
    NotTls,
    /// The other side presented no certificate.
    NoCertificate,
    /// The certificate of the other side is invalid.
    Certificate,
    /// The other side rejected the connection: it sent an alert.
    Refused,
    /// Any other failure.
    Protocol,
}

/// Why a TLS connection was closed.
///
/// Failures of the same kind are equal, so that their log lines are rate-limited together.
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
                (FailureKind::NoCertificate, "the other side presented no certificate".into())
            }
            Error::InvalidCertificate(error) => (
                FailureKind::Certificate,
                format!("the certificate of the other side is invalid: {error}"),
            ),
            Error::AlertReceived(alert) => (
                FailureKind::Refused,
                format!("the other side rejected the connection with the alert {alert:?}"),
            ),
            other => (FailureKind::Protocol, other.to_string()),
        };
        Failure { kind, text }
    }
}
