//! `bowline admin certs`: creates certificates for a test cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bowline::tls::PeerDomain;

use crate::cli::certificates::{self, AUTHORITY, Plan, files_of};

/// Command-line arguments of `bowline admin certs`.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Folder for the certificates. It must be empty or not exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Number of replicas; their ids start at 1.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=99))]
    replicas: u16,
    /// Domain of the DNS names in the replicas' certificates, as in --peer-tls-domain of `bowline
    /// serve`.
    #[arg(long, value_name = "DOMAIN", default_value = "test.bowline")]
    domain: String,
    /// Host names and IP addresses of the replicas' machines, as used by clients.
    #[arg(
        long,
        value_name = "HOST,..",
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,::1"
    )]
    hosts: Vec<String>,
    /// Validity of the certificates, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 365,
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// Creates the certificates, and prints how to use them.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { folder, replicas, domain, hosts, days } = arguments;
    let domain = PeerDomain::new(domain)
        .with_context(|| format!("--domain `{domain}` is not a valid DNS name"))?;
    let plan = Plan { replicas: *replicas, domain: &domain, hosts, days: *days };
    certificates::make(folder, &plan)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let [cert, key] = files_of(1).map(|name| path(&name));
    let ca = path(AUTHORITY);
    println!(
        "made an authority, certificates for {replicas} replicas and one for clients in {}\n\
         flags of replica 1:\n  \
         --tls-port 6380 --tls-cert-file {cert} --tls-key-file {key} --tls-ca-cert-file {ca}\n  \
         --peer-tls-cert-file {cert} --peer-tls-key-file {key} --peer-tls-ca-cert-file {ca} \
         --peer-tls-domain {}\n\
         try: redis-cli --tls --cacert {ca} --cert {} --key {} -p 6380 ping",
        folder.display(),
        arguments.domain,
        path("client.crt"),
        path("client.key")
    );
    Ok(ExitCode::SUCCESS)
}
