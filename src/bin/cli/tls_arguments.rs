//! TLS flags of subcommands that connect to replicas as a client. They have the same names as in
//! `redis-cli`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, ensure};
use bowline::tls::client_config;
use rustls::ClientConfig;

/// TLS configuration of this process; unset for unencrypted connections. Set once, before the first
/// connection.
static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Command-line flags for connections with TLS.
#[derive(clap::Args, Debug)]
pub(super) struct TlsArguments {
    /// Connect with TLS. The replica's certificate must contain the host of its address.
    #[arg(long, global = true, requires = "cacert")]
    tls: bool,
    /// With --tls: file with the certificates of the authorities trusted to sign replicas'
    /// certificates.
    #[arg(long, value_name = "FILE", global = true)]
    cacert: Option<PathBuf>,
    /// With --tls: file with this client's certificate, if the replicas require one.
    #[arg(long, value_name = "FILE", global = true)]
    cert: Option<PathBuf>,
    /// With --tls: file with the private key of --cert.
    #[arg(long, value_name = "FILE", global = true)]
    key: Option<PathBuf>,
}

impl TlsArguments {
    /// Makes all later connections of this process use TLS if the flags request it.
    pub(super) fn apply(&self) -> anyhow::Result<()> {
        let TlsArguments { tls, cacert, cert, key } = self;
        if !tls {
            ensure!(
                cacert.is_none() && cert.is_none() && key.is_none(),
                "--cacert, --cert and --key have no effect without --tls; add it"
            );
            return Ok(());
        }
        let identity = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
            (Some(_), None) | (None, Some(_)) => {
                anyhow::bail!("--cert and --key belong together: give both or none")
            }
        };
        use_tls(cacert.as_deref().context("--tls needs --cacert")?, identity)
    }
}

/// Makes all later connections of this process use TLS. They trust the authorities in the file
/// `ca`, and present the certificate `identity` (paths of the certificate and of its private key)
/// if there is one.
pub(super) fn use_tls(ca: &Path, identity: Option<(&Path, &Path)>) -> anyhow::Result<()> {
    let config = client_config(ca, identity).map_err(|error| anyhow::anyhow!("{error}"))?;
    // Fails only if it is already set; the program has one set of flags.
    let _ = CONFIG.set(config);
    Ok(())
}

/// Returns the TLS configuration of this process; `None` for unencrypted connections.
pub(super) fn config() -> Option<Arc<ClientConfig>> {
    CONFIG.get().cloned()
}
