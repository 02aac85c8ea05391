//! Parses the TLS settings for clients and peers.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use bowline::runtime::{ClientTls, PeerTls};
use bowline::tls::{ClientCertificates, PeerDomain, TlsFiles};

use super::settings::Settings;

impl Settings {
    /// Parses the settings of the TLS port for clients; `None` if there is no such port.
    pub(super) fn client_tls(
        &self,
        listen: SocketAddr,
        peer_listen: SocketAddr,
    ) -> anyhow::Result<Option<ClientTls>> {
        let port = self.parse("tls-port", "a port, or 0 for none", |text| text.parse().ok())?;
        let [cert, key, ca] =
            ["tls-cert-file", "tls-key-file", "tls-ca-cert-file"].map(|name| self.path(name));
        if port == 0 {
            ensure!(
                cert.is_none() && key.is_none(),
                "--tls-cert-file and --tls-key-file have no effect without --tls-port; add it"
            );
            return Ok(None);
        }
        ensure!(
            port != listen.port() && SocketAddr::new(listen.ip(), port) != peer_listen,
            "--tls-port is {port}, as another port of this replica; choose a different one"
        );
        let client_certificates =
            self.parse("tls-auth-clients", "yes, no or optional", |text| match text {
                "yes" => Some(ClientCertificates::Required),
                "optional" => Some(ClientCertificates::Optional),
                "no" => Some(ClientCertificates::Ignored),
                _ => None,
            })?;
        let (Some(cert), Some(key)) = (cert, key) else {
            bail!(
                "--tls-port needs --tls-cert-file and --tls-key-file; `bowline admin certs` \
                   makes certificates for tests"
            );
        };
        ensure!(
            ca.is_some() || client_certificates == ClientCertificates::Ignored,
            "--tls-auth-clients {} needs --tls-ca-cert-file, with the authorities of the clients' \
             certificates; or set --tls-auth-clients no",
            self.text("tls-auth-clients").unwrap_or_default()
        );
        let files = TlsFiles { cert, key, ca };
        Ok(Some(ClientTls { port, files, client_certificates }))
    }

    /// Parses the TLS settings for peers; `None` if connections between replicas are not encrypted.
    pub(super) fn peer_tls(&self) -> anyhow::Result<Option<PeerTls>> {
        let files = ["peer-tls-cert-file", "peer-tls-key-file", "peer-tls-ca-cert-file"];
        let (cert, key, ca) = match files.map(|name| self.path(name)) {
            [None, None, None] => return Ok(None),
            [Some(cert), Some(key), Some(ca)] => (cert, key, ca),
            _ => bail!(
                "--peer-tls-cert-file, --peer-tls-key-file and --peer-tls-ca-cert-file belong \
                 together: set all three or none"
            ),
        };
        ensure!(
            self.text("peer-transport") != Some("udp"),
            "--peer-transport udp cannot be used with --peer-tls-cert-file: the keys for datagrams \
             come from TCP connections; use auto or tcp"
        );
        let domain = self.parse_if_set("peer-tls-domain", "a DNS name", PeerDomain::new)?;
        let derived = || {
            let cluster = self.text("cluster")?;
            PeerDomain::new(&format!("{cluster}.bowline"))
        };
        let domain = domain.or_else(derived).context(
            "--peer-tls-domain is required: give the domain of the names in the replicas' \
             certificates, such as DOMAIN in replica-3.DOMAIN; without it, --cluster must be a \
             name of letters, digits and hyphens",
        )?;
        Ok(Some(PeerTls { files: TlsFiles { cert, key, ca: Some(ca) }, domain }))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).filter(|text| !text.is_empty()).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::resolve;
    use super::*;

    const CLIENTS: &str = "--tls-port 6390 --tls-cert-file c --tls-key-file k";
    const PEERS: &str = "--peer-tls-cert-file c --peer-tls-key-file k --peer-tls-ca-cert-file a";

    fn options(flags: &str) -> anyhow::Result<bowline::runtime::ServerOptions> {
        resolve(&format!("--id 1 {flags}"), &[]).unwrap().options()
    }

    #[test]
    fn tls_settings_that_do_not_fit_together_are_refused() {
        let required = format!("{CLIENTS} --tls-auth-clients optional");
        let domainless = format!("{PEERS} --cluster a_name_with.a-dot..");
        let udp = format!("{PEERS} --cluster c --peer-transport udp");
        for (flags, expected) in [
            ("--tls-port 6379", "as another port"),
            ("--tls-port 16379", "as another port"),
            ("--tls-port 6390", "needs --tls-cert-file"),
            ("--tls-cert-file c", "no effect without --tls-port"),
            (CLIENTS, "needs --tls-ca-cert-file"),
            (&required, "--tls-auth-clients optional needs"),
            ("--tls-port 70000", "invalid tls-port `70000`"),
            ("--peer-tls-cert-file c", "belong together"),
            (PEERS, "--peer-tls-domain is required"),
            (&domainless, "--peer-tls-domain is required"),
            (&udp, "come from TCP connections"),
        ] {
            let error = format!("{:#}", options(flags).unwrap_err());
            assert!(error.contains(expected), "{flags}: {error}");
        }
    }

    #[test]
    fn domain_of_replica_certificates_defaults_to_the_cluster_name() {
        let domain = |flags: &str| options(flags).unwrap().peer_tls.unwrap().domain;
        let named = domain(&format!("{PEERS} --cluster prod"));
        assert_eq!(named, PeerDomain::new("prod.bowline").unwrap());
        let chosen = domain(&format!("{PEERS} --cluster prod --peer-tls-domain db.example"));
        assert_eq!(chosen, PeerDomain::new("db.example").unwrap());
    }

    #[test]
    fn plain_port_is_closed_only_if_there_is_one_for_tls() {
        let flags = format!("{CLIENTS} --tls-auth-clients no --listen 127.0.0.1:0");
        let tls = options(&flags).unwrap().tls.unwrap();
        assert_eq!((tls.port, tls.client_certificates), (6390, ClientCertificates::Ignored));
        assert_eq!(options("--listen 127.0.0.1:0").unwrap().tls, None);
    }
}
