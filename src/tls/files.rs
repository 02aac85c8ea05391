//! PEM files with certificates and keys, and detection of changes to them.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Paths of the PEM files that a server or a client uses for TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The certificate that this side presents, followed by intermediate certificates, if any.
    pub cert: PathBuf,
    /// The unencrypted private key of the certificate.
    pub key: PathBuf,
    /// The certificates of the authorities that this side trusts; `None` to trust none.
    pub ca: Option<PathBuf>,
}

/// Size, modification time and inode of each file. If these are the same at two times, the files
/// are assumed to be unchanged.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FileStates(Vec<Option<(u64, i64, i64, u64)>>);

/// The contents of the files, parsed.
pub(super) struct Loaded {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The trusted authorities; empty if there are none.
    pub(super) authorities: RootCertStore,
}

impl TlsFiles {
    /// Returns the current state of each file, without reading its contents. A file whose metadata
    /// cannot be read has the state `None`.
    pub fn states(&self) -> FileStates {
        let paths = [&self.cert, &self.key].into_iter().chain(&self.ca);
        let state = |file: Metadata| (file.ino(), file.mtime(), file.mtime_nsec(), file.len());
        FileStates(paths.map(|path| fs::metadata(path).ok().map(state)).collect())
    }

    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| TlsError::Pem { path: self.key.clone(), wanted: "private key" })?;
        let authorities = self.ca.as_deref().map(authorities).transpose()?;
        Ok(Loaded { chain, key, authorities: authorities.unwrap_or_else(RootCertStore::empty) })
    }

    /// Returns the error that this certificate cannot be used with this key, for the given reason.
    pub(super) fn unusable(&self, reason: &rustls::Error) -> TlsError {
        let reason = match reason {
            rustls::Error::InconsistentKeys(_) => "the key belongs to another certificate".into(),
            other => other.to_string(),
        };
        TlsError::Certificate { cert: self.cert.clone(), key: self.key.clone(), reason }
    }
}

/// Reads a PEM file with the certificates of trusted authorities.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| TlsError::Authorities {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = || TlsError::Pem { path: path.to_owned(), wanted: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(error)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error: io::Error| TlsError::Read { path: path.to_owned(), error })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Certificates for the unit tests.

    use std::fs;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::TlsFiles;

    /// A certificate authority, and a folder with the certificates that it has signed.
    pub(crate) struct Authority {
        folder: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authority {
        pub(crate) fn new() -> Authority {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let issuer =
                CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
            Authority { folder, issuer }
        }

        pub(crate) fn ca(&self) -> PathBuf {
            self.folder.path().join("ca.crt")
        }

        /// Issues a certificate with these DNS names that is valid until the given year.
        pub(crate) fn issue(&self, names: &[&str], until: i32) -> TlsFiles {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let [cert, key] = ["crt", "key"].map(|ending| {
                self.folder.path().join(format!("{}-{until}.{ending}", names.join("+")))
            });
            let mut params = CertificateParams::new(names).unwrap();
            params.not_before = date_time_ymd(2_000, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
            let own = KeyPair::generate().unwrap();
            fs::write(&cert, params.signed_by(&own, &self.issuer).unwrap().pem()).unwrap();
            fs::write(&key, own.serialize_pem()).unwrap();
            TlsFiles { cert, key, ca: Some(self.ca()) }
        }
    }
}
