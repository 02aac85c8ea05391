//! The settings of a server and where each value comes from: the command line, which takes
//! precedence over environment variables, then a TOML file, then the defaults. Values stay text
//! here; `options.rs` parses and checks them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Prefix of the environment variables from which settings are read: the setting `peer-listen` is
/// read from `BOWLINE_PEER_LISTEN`.
const VARIABLE_PREFIX: &str = "BOWLINE_";

/// Command-line flags of a server. All values are text, since each may also come from the
/// environment or from a file.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct ServerArguments {
    /// TOML file with settings; its keys are the names of the flags.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Replica id, unique in the cluster: 1 to 65534.
    #[arg(long, value_name = "N")]
    id: Option<String>,
    /// Address for Redis clients [default: 127.0.0.1:6379].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Port for TLS clients, at the host of --listen; 0 for none. With --listen HOST:0, only TLS
    /// clients are accepted [default: 0].
    #[arg(long, value_name = "PORT")]
    tls_port: Option<String>,
    /// PEM file with the certificate for clients, followed by intermediate certificates, if any. It
    /// is reloaded when it changes and on SIGHUP [default: none].
    #[arg(long, value_name = "FILE")]
    tls_cert_file: Option<String>,
    /// File with the unencrypted private key of --tls-cert-file [default: none].
    #[arg(long, value_name = "FILE")]
    tls_key_file: Option<String>,
    /// File with the certificates of the authorities trusted to sign clients' certificates
    /// [default: none].
    #[arg(long, value_name = "FILE")]
    tls_ca_cert_file: Option<String>,
    /// Whether TLS clients must present a certificate: yes, no or optional [default: yes].
    #[arg(long, value_name = "YES|NO|OPTIONAL")]
    tls_auth_clients: Option<String>,
    /// Address on which this replica listens for its peers. Peers are authenticated only with
    /// --peer-tls-cert-file; without it, use loopback or a private network [default:
    /// 127.0.0.1:16379].
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// Members of the cluster and their addresses for peers; this replica may be among them. The
    /// ids are fixed by --bootstrap, the addresses may change later [default: none, a cluster of
    /// one].
    #[arg(long, value_name = "ID=HOST:PORT,..")]
    peers: Option<String>,
    /// Transport of connections to peers: `tcp`, `udp` (faster on networks with packet loss), or
    /// `auto` (udp where packets are lost). Peers may use different settings: each replica accepts
    /// both, on the same port number [default: auto].
    #[arg(long, value_name = "HOW")]
    peer_transport: Option<String>,
    /// PEM file with this replica's certificate, for mutual authentication with its peers. It is
    /// reloaded when it changes and on SIGHUP [default: none, connections between replicas are not
    /// encrypted].
    #[arg(long, value_name = "FILE")]
    peer_tls_cert_file: Option<String>,
    /// File with the unencrypted private key of --peer-tls-cert-file [default: none].
    #[arg(long, value_name = "FILE")]
    peer_tls_key_file: Option<String>,
    /// File with the certificates of the authorities trusted to sign replicas' certificates
    /// [default: none].
    #[arg(long, value_name = "FILE")]
    peer_tls_ca_cert_file: Option<String>,
    /// Domain of the DNS names in the replicas' certificates: replica 3 has the name
    /// replica-3.DOMAIN [default: NAME.bowline with the NAME of --cluster].
    #[arg(long, value_name = "DOMAIN")]
    peer_tls_domain: Option<String>,
    /// Data folder of the replica [default: bowline-data/replica-ID].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<String>,
    /// Name of the cluster, the same on every replica [default: derived from --peers with
    /// --bootstrap or --rejoin, later taken from the folder].
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Create this replica's files in an empty folder, as a member of a new cluster. Only for the
    /// replica's first start: a replica that lost its folder needs --rejoin.
    #[arg(long)]
    bootstrap: bool,
    /// Create this replica's files in an empty folder, for a replica that will be added to an
    /// existing cluster with `bowline admin add`. Needs a new --id and the cluster's --cluster.
    #[arg(long, conflicts_with = "bootstrap")]
    join: bool,
    /// Create this replica's files in an empty folder, as a replacement for its lost or damaged
    /// folder. The replica does not vote until it has caught up with the leader. Needs its previous
    /// --id, --peers and --cluster.
    #[arg(long, conflicts_with_all = ["bootstrap", "join"])]
    rejoin: bool,
    /// Run a witness: a replica that votes and keeps the latest part of the log, but stores no data
    /// and serves no clients. Add it with `bowline admin add --witness`. Required at every start of
    /// a witness [default: false].
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    witness: Option<String>,
    /// Maximum size of a witness's log, such as 64mb; at least 64kb. When the log is longer, the
    /// witness drops the older half. Dropped entries cannot be copied from the witness by a replica
    /// with data that lacks them [default: 64mb].
    #[arg(long, value_name = "BYTES")]
    witness_log_bytes: Option<String>,
    /// Threads of the replica: `dedicated` (one per pipeline stage), `fused` (one for network, core
    /// and applier) or `auto` (fused on at most two cores) [default: auto].
    #[arg(long, value_name = "HOW")]
    threads: Option<String>,
    /// How the leader makes reads linearizable; use the same value on every replica. `index`: a
    /// majority confirms its leadership, once for all waiting reads. `lease`: the leader answers
    /// alone during its lease, which assumes monotonic clocks that drift less than 0.2 % [default:
    /// index].
    #[arg(long, value_name = "HOW")]
    reads: Option<String>,
    /// Password of the user `default`. Prefer the environment or a file, because command lines are
    /// visible to other users of the machine. CONFIG SET requirepass changes it at run time. After
    /// the first ACL SETUSER default, the replicated users determine the password on all replicas
    /// instead [default: none].
    #[arg(long, value_name = "PASSWORD")]
    requirepass: Option<String>,
    /// File whose first line is the password of the user `default`, instead of --requirepass
    /// [default: none].
    #[arg(long, value_name = "FILE")]
    requirepass_file: Option<String>,
    /// Whether to limit an unprotected replica to loopback: without a password it accepts clients
    /// only on loopback, whatever --listen says, and without certificates for peers it connects
    /// only to peers on loopback: yes or no [default: yes].
    #[arg(long, value_name = "YES|NO")]
    protected_mode: Option<String>,
    /// Maximum number of client connections. CONFIG SET maxclients changes it at run time [default:
    /// 10000].
    #[arg(long, value_name = "N")]
    maxclients: Option<String>,
    /// Memory limit for the requests and replies of all clients combined, at least 16mb. Above it,
    /// the client that uses the most memory is disconnected. CONFIG SET maxmemory-clients changes
    /// it at run time [default: 256mb].
    #[arg(long, value_name = "BYTES")]
    maxmemory_clients: Option<String>,
    /// Memory limit for data, log and clients, such as 4gb; 0 for none. Above it, commands that add
    /// data are refused with OOM; reads and deletions are still served. CONFIG SET maxmemory
    /// changes it at run time [default: 0].
    #[arg(long, value_name = "BYTES")]
    maxmemory: Option<String>,
    /// Idle time after which a client is disconnected, in seconds; 0 for never. CONFIG SET timeout
    /// changes it at run time [default: 0].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// Time limit for a client to send a complete request, in seconds, plus one second per 64 KiB
    /// received. A slower client is disconnected [default: 30].
    #[arg(long, value_name = "SECONDS")]
    request_read_timeout_s: Option<String>,
    /// Growth of the log after which a snapshot is taken, as a percentage of the last snapshot's
    /// size; 0 for as much as memory allows. CONFIG SET auto-aof-rewrite-percentage changes it at
    /// run time [default: 100].
    #[arg(long, value_name = "PERCENT")]
    snapshot_log_percentage: Option<String>,
    /// Minimum growth of the log before a snapshot is taken, even if the last snapshot is small,
    /// such as 64mb; at least 64kb. CONFIG SET auto-aof-rewrite-min-size changes it at run time
    /// [default: 64mb].
    #[arg(long, value_name = "BYTES")]
    snapshot_log_bytes: Option<String>,
    /// Memory limit for the history of changes that CHANGES reads, such as 64mb; at least 1mb, or 0
    /// for no history [default: 16mb].
    #[arg(long, value_name = "BYTES")]
    changes_history_memory: Option<String>,
    /// HTTP address of the live page (/), metrics (/metrics), probes (/livez, /readyz) and /status.
    /// It is read-only, shows neither keys nor values, and needs no password [default: none].
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// Additional address where the replica identifies itself as a Sentinel, for clients that check
    /// the role; Sentinel commands also work at --listen [default: none].
    #[arg(long, value_name = "HOST:PORT")]
    sentinel_listen: Option<String>,
    /// Name of this cluster in Sentinel commands [default: mymaster].
    #[arg(long, value_name = "NAME")]
    sentinel_name: Option<String>,
    /// Whether clients may use DEBUG commands, which can block a replica: yes or no [default: no].
    #[arg(long, value_name = "YES|NO")]
    enable_debug_command: Option<String>,
    /// Free disk space to preserve, at least 16mb. With less free space, the replica refuses writes
    /// while it is the leader, but still serves reads and votes. With 0, the replica uses the whole
    /// disk and then exits [default: 128mb].
    #[arg(long, value_name = "BYTES")]
    disk_reserve: Option<String>,
    /// Interval at which the replicas' states are compared, in seconds; 0 for never. A replica
    /// whose state differs from that of a majority rebuilds its state [default: 60].
    #[arg(long, value_name = "SECONDS")]
    digest_check_s: Option<String>,
    /// Address that clients are redirected to when this replica leads [default: --listen].
    #[arg(long, value_name = "HOST:PORT")]
    announce: Option<String>,
    /// Address that this replica announces to its peers, where they reach it; `none` to announce
    /// none, so that they use only their own --peers [default: this replica's entry in --peers, or
    /// else --peer-listen].
    #[arg(long, value_name = "HOST:PORT")]
    announce_peer: Option<String>,
    /// Maximum time that a request waits for a leader, in milliseconds. Then it is refused with
    /// CLUSTERDOWN, or with LOADING just after the start [default: 2000].
    #[arg(long, value_name = "MS")]
    leader_wait_ms: Option<String>,
    /// Maximum time that a client waits for the outcome of a command, in milliseconds. Then a write
    /// gets the reply UNCERTAIN, and a read CLUSTERDOWN [default: 4000].
    #[arg(long, value_name = "MS")]
    command_deadline_ms: Option<String>,
}

/// Command-line flags for a replica of a new cluster that is created from a backup. They have the
/// same meaning as in `bowline serve`, and may be set in the same environment variables and file.
#[derive(clap::Args, Debug)]
pub(crate) struct MemberArguments {
    /// TOML file with the settings of the replica; its keys are the names of the flags of `bowline
    /// serve`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replica id, unique in the new cluster: 1 to 65534.
    #[arg(long, value_name = "N")]
    id: Option<String>,
    /// Members of the new cluster and their addresses for peers; this replica may be among them.
    /// The ids are fixed, the addresses may change later [default: none, a cluster of one].
    #[arg(long, value_name = "ID=HOST:PORT,..")]
    peers: Option<String>,
    /// Name of the new cluster, the same on every replica, but different from the old cluster's
    /// [default: derived from the backup and the ids of the members].
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

impl MemberArguments {
    /// Returns the server's flags, with the data folder `dir`.
    pub(super) fn server(&self, dir: Option<&Path>) -> ServerArguments {
        ServerArguments {
            config: self.config.clone(),
            id: self.id.clone(),
            peers: self.peers.clone(),
            cluster: self.cluster.clone(),
            dir: dir.map(|path| path.display().to_string()),
            ..ServerArguments::default()
        }
    }
}

/// Source of a setting's value, as `bowline config` prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    /// The environment variable with this name.
    Environment(String),
    /// The command-line flag with this name, which is given without dashes.
    Flag(String),
}

/// The value of one server setting and its source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// Value of the setting as text; `None` if it is not set and has no default.
    pub(super) value: Option<String>,
    pub(super) origin: Origin,
}

/// All settings of a server with their values and sources, in the order in which `bowline config`
/// prints them.
#[derive(Debug)]
pub(crate) struct Settings(pub(super) Vec<Setting>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Returns the name of the environment variable from which the setting `name` is read.
fn variable_name(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('-', "_").to_uppercase())
}

impl ServerArguments {
    /// Returns, for each setting, its name, its default (`None` if it has none), and its value on
    /// the command line (`None` if it is not given there).
    fn rows(&self) -> Vec<(&'static str, Option<&'static str>, Option<String>)> {
        let bootstrap = self.bootstrap.then(|| "true".to_owned());
        let join = self.join.then(|| "true".to_owned());
        let rejoin = self.rejoin.then(|| "true".to_owned());
        vec![
            ("id", None, self.id.clone()),
            ("listen", Some("127.0.0.1:6379"), self.listen.clone()),
            ("tls-port", Some("0"), self.tls_port.clone()),
            ("tls-cert-file", None, self.tls_cert_file.clone()),
            ("tls-key-file", None, self.tls_key_file.clone()),
            ("tls-ca-cert-file", None, self.tls_ca_cert_file.clone()),
            ("tls-auth-clients", Some("yes"), self.tls_auth_clients.clone()),
            ("peer-listen", Some("127.0.0.1:16379"), self.peer_listen.clone()),
            ("peers", Some(""), self.peers.clone()),
            ("peer-transport", Some("auto"), self.peer_transport.clone()),
            ("peer-tls-cert-file", None, self.peer_tls_cert_file.clone()),
            ("peer-tls-key-file", None, self.peer_tls_key_file.clone()),
            ("peer-tls-ca-cert-file", None, self.peer_tls_ca_cert_file.clone()),
            ("peer-tls-domain", None, self.peer_tls_domain.clone()),
            ("dir", None, self.dir.clone()),
            ("cluster", None, self.cluster.clone()),
            ("bootstrap", Some("false"), bootstrap),
            ("join", Some("false"), join),
            ("rejoin", Some("false"), rejoin),
            ("witness", Some("false"), self.witness.clone()),
            ("witness-log-bytes", Some("64mb"), self.witness_log_bytes.clone()),
            ("threads", Some("auto"), self.threads.clone()),
            ("reads", Some("index"), self.reads.clone()),
            ("requirepass", None, self.requirepass.clone()),
            ("requirepass-file", None, self.requirepass_file.clone()),
            ("protected-mode", Some("yes"), self.protected_mode.clone()),
            ("maxclients", Some("10000"), self.maxclients.clone()),
            ("maxmemory-clients", Some("256mb"), self.maxmemory_clients.clone()),
            ("maxmemory", Some("0"), self.maxmemory.clone()),
            ("timeout", Some("0"), self.timeout.clone()),
            ("request-read-timeout-s", Some("30"), self.request_read_timeout_s.clone()),
            ("snapshot-log-percentage", Some("100"), self.snapshot_log_percentage.clone()),
            ("snapshot-log-bytes", Some("64mb"), self.snapshot_log_bytes.clone()),
            ("changes-history-memory", Some("16mb"), self.changes_history_memory.clone()),
            ("http-listen", None, self.http_listen.clone()),
            ("sentinel-listen", None, self.sentinel_listen.clone()),
            ("sentinel-name", Some("mymaster"), self.sentinel_name.clone()),
            ("enable-debug-command", Some("no"), self.enable_debug_command.clone()),
            ("disk-reserve", Some("128mb"), self.disk_reserve.clone()),
            ("digest-check-s", Some("60"), self.digest_check_s.clone()),
            ("announce", None, self.announce.clone()),
            ("announce-peer", None, self.announce_peer.clone()),
            ("leader-wait-ms", Some("2000"), self.leader_wait_ms.clone()),
            ("command-deadline-ms", Some("4000"), self.command_deadline_ms.clone()),
        ]
    }

    /// Determines the value of every setting from its possible sources. `variable` returns the
    /// value of an environment variable; `None` if it is not set.
    ///
    /// # Errors
    /// If the settings file cannot be read, or has a key that is not a setting.
    pub(crate) fn resolve(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Settings> {
        let named_file = variable(&variable_name("config")).map(PathBuf::from);
        let path = self.config.clone().or(named_file);
        let file = path.map(|path| read_file(&path).map(|table| (path, table))).transpose()?;
        let rows = self.rows();
        if let Some((path, table)) = &file
            && let Some(unknown) = table.keys().find(|key| rows.iter().all(|row| row.0 != *key))
        {
            let known: Vec<&str> = rows.iter().map(|row| row.0).collect();
            bail!(
                "settings file {}: unknown setting `{unknown}`; the settings are {}",
                path.display(),
                known.join(", ")
            );
        }
        let mut settings = Vec::new();
        for (name, default, flag) in rows {
            let variable_name = variable_name(name);
            let from_file = file.as_ref().and_then(|(path, table)| Some((path, table.get(name)?)));
            let (value, origin) = if let Some(value) = flag {
                (Some(value), Origin::Flag(name.to_owned()))
            } else if let Some(value) = variable(&variable_name) {
                (Some(value), Origin::Environment(variable_name))
            } else if let Some((path, value)) = from_file {
                let text = text_of(value).with_context(|| {
                    format!(
                        "settings file {}: `{name}` must be a string, a number, true, false or a \
                         list",
                        path.display()
                    )
                })?;
                (Some(text), Origin::File(path.clone()))
            } else {
                (default.map(str::to_owned), Origin::Default)
            };
            settings.push(Setting { name, value, origin });
        }
        Ok(Settings(settings))
    }
}

fn read_file(path: &PathBuf) -> anyhow::Result<toml::Table> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the settings file {}; check its path and permissions", path.display())
    })?;
    text.parse().with_context(|| format!("the settings file {} is not valid TOML", path.display()))
}

/// Formats a value from the TOML settings file as it would be written on the command line; `None`
/// for a type that no setting has.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(text_of).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

impl Settings {
    /// Returns the setting with this name; `None` if there is no such setting.
    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.name == name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        arguments: ServerArguments,
    }

    /// Resolves the settings given as a command line and as environment variables.
    pub(crate) fn resolve(flags: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let arguments = std::iter::once("bowline").chain(flags.split_whitespace());
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Program::parse_from(arguments).arguments.resolve(variable)
    }

    #[test]
    fn flags_override_environment_then_settings_file_then_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bowline.toml");
        let text = "id = 4\nlisten = \"127.0.0.1:1\"\nthreads = \"fused\"\n\
                    peers = [\"1=127.0.0.1:8001\", \"4=127.0.0.1:8004\"]\n";
        std::fs::write(&path, text).unwrap();
        let flags = format!("--config {} --listen 127.0.0.1:3", path.display());
        let variables = [("BOWLINE_LISTEN", "127.0.0.1:2"), ("BOWLINE_THREADS", "dedicated")];
        let settings = resolve(&flags, &variables).unwrap();
        let shown = |name| {
            let setting = settings.get(name).unwrap();
            (setting.value.clone().unwrap(), setting.origin.to_string())
        };
        assert_eq!(shown("listen"), ("127.0.0.1:3".to_owned(), "--listen".to_owned()));
        assert_eq!(shown("threads"), ("dedicated".to_owned(), "BOWLINE_THREADS".to_owned()));
        assert_eq!(shown("id"), ("4".to_owned(), path.display().to_string()));
        assert_eq!(shown("maxclients"), ("10000".to_owned(), "default".to_owned()));
        let peers = "1=127.0.0.1:8001,4=127.0.0.1:8004".to_owned();
        assert_eq!(shown("peers"), (peers, path.display().to_string()));
    }

    #[test]
    fn unknown_key_in_the_settings_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, "listn = \"127.0.0.1:1\"").unwrap();
        let error = resolve(&format!("--config {}", path.display()), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("unknown setting `listn`"), "{error:#}");
    }

    #[test]
    fn configuration_guide_lists_every_setting() {
        let page = include_str!("../../guide/configuration.md");
        let mut expected = Vec::new();
        for (name, default, _) in ServerArguments::default().rows() {
            let variable = variable_name(name);
            let default = match default {
                None => "none".to_owned(),
                Some("") => "empty".to_owned(),
                Some(default) => format!("`{default}`"),
            };
            expected.push(format!("| `--{name}` | `{variable}` | `{name}` | {default} | "));
        }
        for row in &expected {
            assert!(page.contains(row), "src/guide/configuration.md lacks: {row}");
        }
        for row in page.lines().filter(|line| line.contains(" | `BOWLINE_")) {
            let known = expected.iter().any(|expected| row.starts_with(expected));
            assert!(known, "src/guide/configuration.md has a row that is no setting: {row}");
        }
    }
}
