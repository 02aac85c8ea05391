//! Certificates of a local cluster with `--secure`, and the flags of its replicas.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bowline::tls::PeerDomain;

use super::quoted;
use crate::cli::certificates::{self, AUTHORITY, Plan, files_of};
use crate::cli::tls_arguments::use_tls;

/// Name of the certificates' folder inside the cluster's folder.
const FOLDER: &str = "certs";
/// Domain of the DNS names in the replicas' certificates.
const DOMAIN: &str = "local.bowline";
/// Validity of the certificates, in days.
const DAYS: u32 = 3_650;
/// Number of replicas to create certificates for: the maximum of a local cluster.
const REPLICAS: u16 = 9;

/// Creates the certificates if they do not exist, and makes this process connect to the replicas
/// with TLS.
pub(super) fn prepare(dir: &Path) -> anyhow::Result<()> {
    let folder = dir.join(FOLDER);
    if !folder.join("client.key").exists() {
        let domain = PeerDomain::new(DOMAIN).expect("it is a DNS name");
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let plan = Plan { replicas: REPLICAS, domain: &domain, hosts: &hosts, days: DAYS };
        certificates::make(&folder, &plan)?;
    }
    let [ca, cert, key] = client_files(dir);
    use_tls(&ca, Some((&cert, &key)))
}

/// Returns the flags of replica `id`: it accepts only TLS clients, at `port`, and authenticates its
/// peers.
pub(super) fn flags(dir: &Path, id: u16, port: u16) -> Vec<OsString> {
    let [ca, ..] = client_files(dir);
    let [cert, key] = files_of(id).map(|name| dir.join(FOLDER).join(name));
    let mut flags: Vec<OsString> = vec!["--listen".into(), "127.0.0.1:0".into()];
    flags.extend(["--tls-port".into(), port.to_string().into()]);
    for prefix in ["--", "--peer-"] {
        for (name, path) in [("cert", &cert), ("key", &key), ("ca-cert", &ca)] {
            flags.extend([format!("{prefix}tls-{name}-file").into(), path.into()]);
        }
    }
    flags.extend(["--tls-auth-clients".into(), "yes".into()]);
    flags.extend(["--peer-tls-domain".into(), DOMAIN.into()]);
    flags
}

/// Returns the `redis-cli` flags for connecting to the cluster, followed by a space.
pub(super) fn client_flags(dir: &Path) -> String {
    let [ca, cert, key] = client_files(dir).map(|path| quoted(&path.display().to_string()));
    format!("--tls --cacert {ca} --cert {cert} --key {key} ")
}

/// Returns the paths of the authority's certificate, and of the clients' certificate and private
/// key.
fn client_files(dir: &Path) -> [PathBuf; 3] {
    [AUTHORITY, "client.crt", "client.key"].map(|name| dir.join(FOLDER).join(name))
}
