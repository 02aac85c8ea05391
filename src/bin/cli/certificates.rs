//! Creates a certificate authority and certificates for a cluster, for tests and for clusters on
//! one machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use bowline::tls::PeerDomain;
use bowline::types::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Name of the file with the authority's certificate.
pub(super) const AUTHORITY: &str = "ca.crt";
/// Validity before the time of creation, because clocks differ.
const EARLIER: Duration = Duration::from_hours(24);

/// The certificates to create.
#[derive(Debug)]
pub(super) struct Plan<'p> {
    /// Number of replicas; their ids start at 1.
    pub(super) replicas: u16,
    pub(super) domain: &'p PeerDomain,
    /// Host names and IP addresses of the machines that clients connect to.
    pub(super) hosts: &'p [String],
    /// Validity of the certificates, in days.
    pub(super) days: u32,
}

/// Returns the file names of a replica's certificate and private key.
pub(super) fn files_of(replica: u16) -> [String; 2] {
    ["crt", "key"].map(|ending| format!("replica-{replica}.{ending}"))
}

/// Creates an authority, a certificate for each replica and one for clients in `folder`. The folder
/// is created if necessary, and must be empty.
pub(super) fn make(folder: &Path, plan: &Plan<'_>) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    ensure!(
        entries.next().is_none(),
        "the folder {} is not empty; give a new one, since these certificates belong together",
        folder.display()
    );
    let mut params = params("Bowline test authority", Vec::new(), plan.days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    write(folder, AUTHORITY, &issuer.pem(), 0o644)?;
    write(folder, "ca.key", &issuer.key().serialize_pem(), 0o600)?;
    for id in 1..=plan.replicas {
        let name = plan.domain.name_of(NodeId(id));
        let names = [name.clone()].into_iter().chain(plan.hosts.iter().cloned()).collect();
        // A replica is also a client of its peers.
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        issue(folder, &files_of(id), &issuer, &name, names, &purposes, plan.days)?;
    }
    let files = ["client.crt", "client.key"].map(str::to_owned);
    let purposes = [ExtendedKeyUsagePurpose::ClientAuth];
    issue(folder, &files, &issuer, "client", Vec::new(), &purposes, plan.days)
}

fn issue(
    folder: &Path,
    [cert, key]: &[String; 2],
    issuer: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    names: Vec<String>,
    purposes: &[ExtendedKeyUsagePurpose],
    days: u32,
) -> anyhow::Result<()> {
    let mut params = params(name, names, days)?;
    params.extended_key_usages = purposes.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let own = KeyPair::generate()?;
    write(folder, cert, &params.signed_by(&own, issuer)?.pem(), 0o644)?;
    write(folder, key, &own.serialize_pem(), 0o600)
}

fn params(name: &str, names: Vec<String>, days: u32) -> anyhow::Result<CertificateParams> {
    let text = names.join(", ");
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("`{text}` has a name that no certificate can have"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + Duration::from_hours(24) * days).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = folder.join(name);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline::tls::{ClientCertificates, TlsFiles, client_config, peer_configs, server_config};

    #[test]
    fn made_certificates_can_be_used_by_replicas_and_clients() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("certs");
        let domain = PeerDomain::new("test.bowline").unwrap();
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let plan = Plan { replicas: 2, domain: &domain, hosts: &hosts, days: 3 };
        make(&folder, &plan).unwrap();
        let path = |name: &str| folder.join(name);
        for id in 1..=2 {
            let [cert, key] = files_of(id).map(|name| path(&name));
            let files = TlsFiles { cert, key, ca: Some(path(AUTHORITY)) };
            peer_configs(&files).unwrap();
            server_config(&files, ClientCertificates::Required).unwrap();
        }
        let [cert, key] = ["client.crt", "client.key"].map(path);
        client_config(&path(AUTHORITY), Some((&cert, &key))).unwrap();
        let error = make(&folder, &plan).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        let other = TlsFiles { cert, key: path("replica-1.key"), ca: None };
        let error = server_config(&other, ClientCertificates::Ignored).unwrap_err();
        assert!(error.to_string().contains("belongs to another certificate"), "{error}");
        let swapped = TlsFiles { cert: path("ca.key"), key: path("ca.crt"), ca: None };
        let error = server_config(&swapped, ClientCertificates::Ignored).unwrap_err();
        assert!(error.to_string().contains("has no certificate in PEM form"), "{error}");
    }
}
