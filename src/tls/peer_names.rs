//! DNS names of replicas in their certificates.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use crate::types::NodeId;

/// No replica has this id.
const NO_REPLICA: NodeId = NodeId(0);

/// The domain of the DNS names in the certificates of a cluster's replicas. The certificate of
/// replica 3 has `replica-3.DOMAIN` among its subject alternative names.
///
/// Invariant: `replica-N.DOMAIN` is a valid DNS name for every replica id N.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerDomain(String);

impl PeerDomain {
    /// Creates the domain `name`. Returns `None` if it is not a valid DNS name.
    pub fn new(name: &str) -> Option<PeerDomain> {
        if name.is_empty() || name.ends_with('.') {
            return None;
        }
        let longest = format!("replica-{}.{name}", NodeId(u16::MAX).0);
        match ServerName::try_from(longest) {
            Ok(ServerName::DnsName(_)) => Some(PeerDomain(name.to_owned())),
            Ok(_) | Err(_) => None,
        }
    }

    /// Returns the DNS name in the certificate of a replica, such as `replica-3.DOMAIN`.
    pub fn name_of(&self, replica: NodeId) -> String {
        format!("replica-{}.{}", replica.0, self.0)
    }

    /// Like [`PeerDomain::name_of`], in the type that TLS verifies.
    pub(crate) fn server_name(&self, replica: NodeId) -> ServerName<'static> {
        ServerName::try_from(self.name_of(replica)).expect("names in the domain are valid")
    }

    /// Returns whether `certificate` names `replica`. A wildcard certificate (`*.DOMAIN`) names no
    /// replica: with it, each replica could impersonate any other. Does not verify the signature.
    pub(crate) fn names(&self, certificate: &CertificateDer<'_>, replica: NodeId) -> bool {
        let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
        let has = |id| verify_server_name(&certificate, &self.server_name(id)).is_ok();
        has(replica) && !has(NO_REPLICA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::generate_simple_self_signed(names).unwrap().cert.der().clone()
    }

    #[test]
    fn certificate_names_only_the_replicas_it_lists() {
        let domain = PeerDomain::new("test.bowline").unwrap();
        let two = certificate(&["replica-2.test.bowline", "localhost"]);
        assert!(domain.names(&two, NodeId(2)));
        for other in [0, 1, 3, 22, u16::MAX] {
            assert!(!domain.names(&two, NodeId(other)), "{other}");
        }
        assert!(!PeerDomain::new("other.bowline").unwrap().names(&two, NodeId(2)));
        assert!(!PeerDomain::new("bowline").unwrap().names(&two, NodeId(2)));
        let garbage = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
        assert!(!domain.names(&garbage, NodeId(2)));
    }

    #[test]
    fn wildcard_certificate_names_no_replica() {
        let domain = PeerDomain::new("test.bowline").unwrap();
        let all = certificate(&["*.test.bowline", "replica-2.test.bowline"]);
        assert!(!domain.names(&all, NodeId(2)));
    }

    #[test]
    fn peer_domain_must_be_a_dns_name() {
        for valid in ["bowline", "prod-1.db.example", "a_b.c"] {
            assert!(PeerDomain::new(valid).is_some(), "{valid}");
        }
        let long = "a".repeat(64);
        for invalid in ["", ".", "a b", "ä", "*.x", "a..b", &long] {
            assert!(PeerDomain::new(invalid).is_none(), "{invalid}");
        }
    }
}
