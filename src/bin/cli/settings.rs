//! What a server is started with: flags over environment over file over defaults, and where each
//! value came from. Values are texts until all of them are known; then they are read, and what is
//! nonsense is refused with a sentence that says what to change.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bowline::config::Config;
use bowline::raft::REPLICAS_MAX;
use bowline::redis::{CLIENTS_BYTES_MIN, parse_bytes};
use bowline::runtime::{Bootstrap, ServerOptions, Threads, Timeouts};
use bowline::types::NodeId;

/// Below that a replica would do little else than take snapshots.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 64 << 10;
/// With less, the log's next segment might not fit.
const DISK_RESERVE_MIN: u64 = 16 << 20;
/// With fewer replicas the others are no majority, and can't elect a leader while one rejoins.
pub(super) const REJOIN_MEMBERS_MIN: usize = 3;
/// Before the names of variables.
const PREFIX: &str = "BOWLINE_";
/// Highest number of a replica: what a log takes.
const ID_MAX: u16 = u16::MAX - 1;

/// The flags of a server. All are texts, for their values may come from elsewhere too.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct ServerArguments {
    /// Read settings from this TOML file; its keys are named as the flags are.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Number of this replica, from 1.
    #[arg(long, value_name = "N")]
    id: Option<String>,
    /// Where clients connect [default: 127.0.0.1:6379].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where peers connect [default: 127.0.0.1:16379].
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// All replicas of the cluster and where they listen for peers; this one may be among them. Who
    /// they are is fixed when a replica is bootstrapped; addresses may change.
    #[arg(long, value_name = "ID=HOST:PORT,..")]
    peers: Option<String>,
    /// The replica's folder [default: bowline-data/replica-ID].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<String>,
    /// Name of the cluster, the same for all its replicas [default for a new one: made of --peers].
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Make an empty folder this replica's, as one of a new cluster. Only ever once: a replica that
    /// has lost its folder comes back with --rejoin.
    #[arg(long)]
    bootstrap: bool,
    /// Make an empty folder this replica's in place of one that was lost or is damaged. The replica
    /// does not vote before it holds what the others hold. Takes the same --id, --peers and
    /// --cluster.
    #[arg(long, conflicts_with = "bootstrap")]
    rejoin: bool,
    /// How the stages are put on threads: dedicated, fused or auto [default: auto].
    #[arg(long, value_name = "HOW")]
    threads: Option<String>,
    /// How a leader makes sure of a read: by `index` it asks a majority whether it still leads,
    /// once for all reads that wait; by `lease` it answers alone while a majority has promised it,
    /// by monotonic clocks that run alike within 0.2 %, not to elect another. The same for all
    /// replicas [default: index].
    #[arg(long, value_name = "HOW")]
    reads: Option<String>,
    /// Most clients at a time [default: 10000].
    #[arg(long, value_name = "N")]
    maxclients: Option<String>,
    /// Most memory that all clients together may hold, of their requests and replies, such as
    /// 512mb. Whoever holds most is closed when it is exceeded. `CONFIG SET maxmemory-clients`
    /// changes it for a replica that runs [default: 256mb].
    #[arg(long, value_name = "BYTES")]
    maxmemory_clients: Option<String>,
    /// Memory that may be in use, such as 4gb, before commands that add to it are refused with
    /// Redis's OOM error; reads, DEL and so on go on. 0 for any amount. It counts keys and values,
    /// the log in memory, and what clients hold. `CONFIG SET maxmemory` changes it for a replica
    /// that runs [default: 0].
    #[arg(long, value_name = "BYTES")]
    maxmemory: Option<String>,
    /// Seconds after which a client that is idle is closed, 0 for never [default: 0].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// Seconds that a client has to finish a request that it has begun, and one more for each 64
    /// KiB of it [default: 30].
    #[arg(long, value_name = "SECONDS")]
    request_read_timeout_s: Option<String>,
    /// How much the log may grow before the next snapshot is whole and the log is cut behind it,
    /// such as 64mb; 7/16 of the snapshot if that is more [default: 64mb].
    #[arg(long, value_name = "BYTES")]
    snapshot_log_bytes: Option<String>,
    /// Where this replica says that it is a Sentinel, for clients that ask for the role of whom
    /// they ask for the leader; others ask it at --listen just as well [default: nowhere].
    #[arg(long, value_name = "HOST:PORT")]
    sentinel_listen: Option<String>,
    /// The name by which clients that find the leader through a Sentinel ask for this cluster; each
    /// replica answers as one, at its port for clients [default: mymaster].
    #[arg(long, value_name = "NAME")]
    sentinel_name: Option<String>,
    /// Lets clients use DEBUG, which can make a replica stop answering for a while: yes or no
    /// [default: no].
    #[arg(long, value_name = "YES|NO")]
    enable_debug_command: Option<String>,
    /// Room on the replica's disk that is left alone, such as 128mb: with less it refuses writes
    /// while it leads, and serves reads and votes. Up to 16mb of it are held by a file. With 0 the
    /// disk is used up, and then the replica ends [default: 128mb].
    #[arg(long, value_name = "BYTES")]
    disk_reserve: Option<String>,
    /// Where clients of other replicas are sent to reach this one [default: --listen].
    #[arg(long, value_name = "HOST:PORT")]
    announce: Option<String>,
    /// Milliseconds that a request waits for a leader [default: 2000].
    #[arg(long, value_name = "MS")]
    leader_wait_ms: Option<String>,
    /// Milliseconds that a client waits for the outcome of a write [default: 4000].
    #[arg(long, value_name = "MS")]
    command_deadline_ms: Option<String>,
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

/// One setting: its name and its value, if it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: Option<String>,
    pub(super) origin: Origin,
}

/// All settings, in the order in which they are shown.
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

impl ServerArguments {
    /// Name, default and flag of each setting.
    fn rows(&self) -> Vec<(&'static str, Option<&'static str>, Option<String>)> {
        let bootstrap = self.bootstrap.then(|| "true".to_owned());
        let rejoin = self.rejoin.then(|| "true".to_owned());
        vec![
            ("id", None, self.id.clone()),
            ("listen", Some("127.0.0.1:6379"), self.listen.clone()),
            ("peer-listen", Some("127.0.0.1:16379"), self.peer_listen.clone()),
            ("peers", Some(""), self.peers.clone()),
            ("dir", None, self.dir.clone()),
            ("cluster", None, self.cluster.clone()),
            ("bootstrap", Some("false"), bootstrap),
            ("rejoin", Some("false"), rejoin),
            ("threads", Some("auto"), self.threads.clone()),
            ("reads", Some("index"), self.reads.clone()),
            ("maxclients", Some("10000"), self.maxclients.clone()),
            ("maxmemory-clients", Some("256mb"), self.maxmemory_clients.clone()),
            ("maxmemory", Some("0"), self.maxmemory.clone()),
            ("timeout", Some("0"), self.timeout.clone()),
            ("request-read-timeout-s", Some("30"), self.request_read_timeout_s.clone()),
            ("snapshot-log-bytes", Some("64mb"), self.snapshot_log_bytes.clone()),
            ("sentinel-listen", None, self.sentinel_listen.clone()),
            ("sentinel-name", Some("mymaster"), self.sentinel_name.clone()),
            ("enable-debug-command", Some("no"), self.enable_debug_command.clone()),
            ("disk-reserve", Some("128mb"), self.disk_reserve.clone()),
            ("announce", None, self.announce.clone()),
            ("leader-wait-ms", Some("2000"), self.leader_wait_ms.clone()),
            ("command-deadline-ms", Some("4000"), self.command_deadline_ms.clone()),
        ]
    }

    /// All values, and where each came from.
    pub(crate) fn resolve(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Settings> {
        let named_file = variable(&format!("{PREFIX}CONFIG")).map(PathBuf::from);
        let path = self.config.clone().or(named_file);
        let file = path.map(|path| read_file(&path).map(|table| (path, table))).transpose()?;
        let rows = self.rows();
        if let Some((path, table)) = &file
            && let Some(unknown) = table.keys().find(|key| rows.iter().all(|row| row.0 != *key))
        {
            let known: Vec<&str> = rows.iter().map(|row| row.0).collect();
            bail!("{}: `{unknown}` is no setting; there are {}", path.display(), known.join(", "));
        }
        let mut settings = Vec::new();
        for (name, default, flag) in rows {
            let variable_name = format!("{PREFIX}{}", name.replace('-', "_").to_uppercase());
            let from_file = file.as_ref().and_then(|(path, table)| Some((path, table.get(name)?)));
            let (value, origin) = if let Some(value) = flag {
                (Some(value), Origin::Flag(name.to_owned()))
            } else if let Some(value) = variable(&variable_name) {
                (Some(value), Origin::Environment(variable_name))
            } else if let Some((path, value)) = from_file {
                let text = text_of(value).with_context(|| {
                    format!("{}: `{name}` must be a text, a number or a list", path.display())
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
        format!("can't read the settings in {}; look at its path and its rights", path.display())
    })?;
    text.parse().with_context(|| format!("{} is no TOML", path.display()))
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(text_of).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

impl Settings {
    fn get(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.name == name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.value.as_deref()
    }

    /// A value that must be there and be readable; else `wanted` says what it should look like.
    fn read<T>(
        &self,
        name: &'static str,
        wanted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let setting = self.get(name).expect("every name is one of the rows");
        let Some(text) = &setting.value else {
            bail!("give --{name}, {wanted}");
        };
        read(text).with_context(|| {
            format!("{name} is `{text}` (from {}); it must be {wanted}", setting.origin)
        })
    }

    /// How the core behaves.
    fn core_config(&self, snapshot_log_bytes: u64, memory_max: u64) -> anyhow::Result<Config> {
        Ok(Config {
            lease_reads: self.read("reads", "index or lease", |text| match text {
                "index" => Some(false),
                "lease" => Some(true),
                _ => None,
            })?,
            ..Config::server().with_snapshots_after(snapshot_log_bytes).within_memory(memory_max)
        })
    }

    /// How an empty folder is made the replica's, if it is to be.
    fn bootstrap(&self, members: usize) -> anyhow::Result<Option<Bootstrap>> {
        let flag = |name| self.read(name, "true or false", |text| text.parse().ok());
        match (flag("bootstrap")?, flag("rejoin")?) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(Bootstrap::New)),
            (true, true) => bail!(
                "bootstrap and rejoin are both set: bootstrap is for the replicas of a new \
                 cluster, rejoin for one that has lost its folder"
            ),
            (false, true) => {
                ensure!(
                    members >= REJOIN_MEMBERS_MIN,
                    "--rejoin needs a cluster of at least {REJOIN_MEMBERS_MIN} replicas, and \
                     --peers and --id name {members}: the others must elect a leader without this \
                     one, which does not vote before it holds what they hold"
                );
                Ok(Some(Bootstrap::Rejoin))
            }
        }
    }

    /// What they mean.
    pub(crate) fn options(&self) -> anyhow::Result<ServerOptions> {
        let id = self.read("id", "the number of this replica, such as 1", read_id)?;
        let address = "an address with a port, such as 127.0.0.1:7001";
        let listen = self.read("listen", address, read_address)?;
        let peer_listen = self.read("peer-listen", address, read_address)?;
        ensure!(
            listen != peer_listen || listen.port() == 0,
            "listen and peer-listen are both {listen}; clients and peers need a port each"
        );
        let all = self.read(
            "peers",
            "a list of all replicas, such as 1=127.0.0.1:8001,2=127.0.0.1:8002,3=127.0.0.1:8003",
            read_peers,
        )?;
        for (at, (peer, address)) in all.iter().enumerate() {
            for (other, elsewhere) in &all[..at] {
                ensure!(peer != other, "peers names replica {} twice", peer.0);
                ensure!(
                    address != elsewhere,
                    "peers gives replicas {} and {} the same address {address}",
                    other.0,
                    peer.0
                );
            }
        }
        let number = "a whole number above 0";
        let millis = |name| {
            self.read(name, "a whole number of milliseconds above 0", read_number)
                .map(Duration::from_millis)
        };
        let members = all.iter().map(|(peer, _)| *peer).filter(|peer| *peer != id).count() + 1;
        ensure!(
            members <= REPLICAS_MAX,
            "peers names {members} replicas; a cluster has at most {REPLICAS_MAX}"
        );
        let bootstrap = self.bootstrap(members)?;
        let cluster = self.text("cluster").map(cluster_id);
        let derived = || {
            let mut names: Vec<String> =
                all.iter().map(|(peer, address)| format!("{}={address}", peer.0)).collect();
            names.sort();
            cluster_id(&names.join(","))
        };
        let folder = self
            .text("dir")
            .map_or_else(|| PathBuf::from(format!("bowline-data/replica-{}", id.0)), PathBuf::from);
        let how = "dedicated, fused or auto";
        let snapshot_log_bytes = self.read("snapshot-log-bytes", "64kb or more", |text| {
            parse_bytes(text).filter(|bytes| *bytes >= SNAPSHOT_LOG_BYTES_MIN)
        })?;
        let memory_max = self.read("maxmemory", "a size such as 4gb, or 0", parse_bytes)?;
        Ok(ServerOptions {
            id,
            listen,
            peer_listen,
            peers: all.iter().copied().filter(|(peer, _)| *peer != id).collect(),
            announce: match self.text("announce") {
                None => None,
                Some(_) => Some(self.read("announce", address, read_announced)?),
            },
            folder,
            cluster: bootstrap.map_or(cluster, |_| Some(cluster.unwrap_or_else(derived))),
            bootstrap,
            config: self.core_config(snapshot_log_bytes, memory_max)?,
            threads: self.read("threads", how, |text| text.parse::<Threads>().ok())?,
            clients_max: self.read("maxclients", number, read_number)?,
            clients_bytes_max: self.read("maxmemory-clients", "16mb or more", |text| {
                parse_bytes(text).filter(|bytes| *bytes >= CLIENTS_BYTES_MIN)
            })?,
            memory_max,
            idle_seconds_max: self.read(
                "timeout",
                "a number of seconds, or 0 for never",
                |text| text.parse::<u32>().ok().map(u64::from),
            )?,
            snapshot_log_bytes,
            sentinel_listen: match self.text("sentinel-listen") {
                None => None,
                Some(_) => Some(self.read("sentinel-listen", address, read_address)?),
            },
            sentinel_name: self.read("sentinel-name", "a name without blanks", |text| {
                let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
                plain.then(|| text.to_owned())
            })?,
            debug: self.read("enable-debug-command", "yes or no", |text| match text {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            })?,
            disk_reserve: self.read("disk-reserve", "0, or 16mb or more", read_reserve)?,
            timeouts: Timeouts {
                leader_wait: millis("leader-wait-ms")?,
                command_deadline: millis("command-deadline-ms")?,
                request_read: Duration::from_secs(self.read(
                    "request-read-timeout-s",
                    "a whole number of seconds above 0",
                    read_number,
                )?),
            },
        })
    }
}

fn read_id(text: &str) -> Option<NodeId> {
    text.parse().ok().filter(|id| (1..=ID_MAX).contains(id)).map(NodeId)
}

fn read_reserve(text: &str) -> Option<u64> {
    parse_bytes(text).filter(|bytes| *bytes == 0 || *bytes >= DISK_RESERVE_MIN)
}

fn read_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

fn read_address(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

/// A host and a port, to be told to others: what they make of the name is theirs.
fn read_announced(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?;
    (!host.is_empty() && port > 0).then(|| text.to_owned())
}

fn read_peers(text: &str) -> Option<Vec<(NodeId, SocketAddr)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (id, address) = part.split_once('=')?;
            Some((read_id(id.trim())?, read_address(address.trim())?))
        })
        .collect()
}

/// The number that a cluster of this name has: as it is, if it is written as one; else the name's
/// 128-bit FNV-1a, which is the same everywhere and for good.
pub(super) fn cluster_id(name: &str) -> u128 {
    if name.len() == 32
        && let Ok(number) = u128::from_str_radix(name, 16)
    {
        return number;
    }
    let mix = |hash: u128, byte: u8| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B)
    };
    name.bytes().fold(0x6C62_272E_07BB_0142_62B8_2175_6295_C58D, mix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        arguments: ServerArguments,
    }

    fn resolve(flags: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let words = std::iter::once("bowline").chain(flags.split_whitespace());
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Program::parse_from(words).arguments.resolve(variable)
    }

    fn complaint(flags: &str) -> String {
        format!("{:#}", resolve(flags, &[]).unwrap().options().expect_err("it is nonsense"))
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
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
        let options = settings.options().unwrap();
        assert_eq!(options.peers, [(NodeId(1), "127.0.0.1:8001".parse().unwrap())]);
        assert_eq!(options.folder, PathBuf::from("bowline-data/replica-4"));
    }

    #[test]
    fn nonsense_is_refused_with_what_to_change() {
        for (flags, words) in [
            ("", "give --id"),
            ("--id 0", "id is `0` (from --id)"),
            ("--id 1 --listen here", "such as 127.0.0.1:7001"),
            ("--id 1 --listen 127.0.0.1:1 --peer-listen 127.0.0.1:1", "need a port each"),
            ("--id 1 --peers 2", "1=127.0.0.1:8001"),
            ("--id 1 --peers 2=127.0.0.1:1,2=127.0.0.1:2", "replica 2 twice"),
            ("--id 1 --peers 2=127.0.0.1:1,3=127.0.0.1:1", "the same address"),
            ("--id 1 --threads many", "dedicated, fused or auto"),
            ("--id 1 --maxclients -1", "a whole number above 0"),
            ("--id 1 --reads guess", "index or lease"),
            ("--id 1 --announce nonsense", "announce is `nonsense` (from --announce)"),
            ("--id 1 --announce host:0", "an address with a port"),
            (
                "--id 1 --maxmemory-clients 1mb",
                "maxmemory-clients is `1mb` (from --maxmemory-clients)",
            ),
            ("--id 1 --maxmemory-clients lots", "16mb or more"),
            ("--id 1 --timeout soon", "0 for never"),
            ("--id 1 --request-read-timeout-s 0", "seconds above 0"),
            ("--id 1 --snapshot-log-bytes 1kb", "64kb or more"),
            ("--id 1 --rejoin", "at least 3 replicas, and --peers and --id name 1"),
            ("--id 1 --rejoin --peers 2=127.0.0.1:2", "--peers and --id name 2"),
        ] {
            // A value that begins with a dash is clap's to refuse unless it is joined.
            let flags = flags.replace("--maxclients -1", "--maxclients=-1");
            let complaint = complaint(&flags);
            assert!(complaint.contains(words), "{flags}: {complaint}");
        }
    }

    #[test]
    fn cluster_larger_than_the_bound_is_refused() {
        let peer = |id: usize| format!("{id}=127.0.0.1:{}", 1_000 + id);
        let peers = |count: usize| (1..=count).map(peer).collect::<Vec<_>>().join(",");
        let flags = format!("--id 1 --peers {}", peers(REPLICAS_MAX + 1));
        assert!(complaint(&flags).contains("a cluster has at most"), "{}", complaint(&flags));
        // The replica itself counts, whether it is among them or not.
        let flags = format!("--id 99 --peers {}", peers(REPLICAS_MAX));
        assert!(complaint(&flags).contains("a cluster has at most"), "{}", complaint(&flags));
        let flags = format!("--id 1 --peers {}", peers(REPLICAS_MAX));
        assert!(resolve(&flags, &[]).unwrap().options().is_ok());
    }

    #[test]
    fn bootstrap_and_rejoin_exclude_each_other() {
        let peers = "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3";
        let options = |flags: &str, variables| {
            let flags = format!("--id 1 --peers {peers} {flags}");
            resolve(&flags, variables).unwrap().options()
        };
        let how = |flags| options(flags, &[]).unwrap().bootstrap;
        assert_eq!(how(""), None);
        assert_eq!(how("--bootstrap"), Some(Bootstrap::New));
        assert_eq!(how("--rejoin"), Some(Bootstrap::Rejoin));
        let error = options("--bootstrap", &[("BOWLINE_REJOIN", "true")]).unwrap_err().to_string();
        assert!(error.contains("bootstrap and rejoin are both set"), "{error}");
    }

    #[test]
    fn a_file_with_a_key_that_is_no_setting_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, "listn = \"127.0.0.1:1\"").unwrap();
        let error = resolve(&format!("--config {}", path.display()), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("`listn` is no setting"), "{error:#}");
    }

    #[test]
    fn every_replica_makes_the_same_cluster_of_the_same_peers() {
        let peers = "1=127.0.0.1:8001,2=127.0.0.1:8002";
        let other = "2=127.0.0.1:8002, 1=127.0.0.1:8001".replace(' ', "");
        let cluster = |id: u16, peers: &str| {
            let flags = format!("--id {id} --bootstrap --peers {peers}");
            resolve(&flags, &[]).unwrap().options().unwrap().cluster
        };
        assert!(cluster(1, peers).is_some());
        assert_eq!(cluster(1, peers), cluster(2, &other));
        assert_ne!(cluster(1, peers), cluster(1, "1=127.0.0.1:8001,2=127.0.0.1:8003"));
        assert_eq!(cluster_id("000000000000000000000000000000fe"), 0xFE);
    }

    #[test]
    fn the_configuration_page_lists_every_setting() {
        let page = include_str!("../../guide/configuration.md");
        let mut wanted = Vec::new();
        for (name, default, _) in ServerArguments::default().rows() {
            let variable = format!("{PREFIX}{}", name.replace('-', "_").to_uppercase());
            let default = match default {
                None => "none".to_owned(),
                Some("") => "empty".to_owned(),
                Some(default) => format!("`{default}`"),
            };
            wanted.push(format!("| `--{name}` | `{variable}` | `{name}` | {default} | "));
        }
        for row in &wanted {
            assert!(page.contains(row), "src/guide/configuration.md lacks: {row}");
        }
        let rows = page.lines().filter(|line| line.contains(" | `BOWLINE_"));
        for row in rows {
            let known = wanted.iter().any(|wanted| row.starts_with(wanted));
            assert!(known, "src/guide/configuration.md has a row that is no setting: {row}");
        }
    }
}
