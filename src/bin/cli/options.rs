//! Parses the settings of a server into [`ServerOptions`] and checks that they are consistent. Each
//! error names the setting, its value, where the value came from, and what is allowed.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bowline::backup::BackupSummary;
use bowline::config::Config;
use bowline::membership::is_address;
use bowline::raft::REPLICAS_MAX;
use bowline::redis::{CLIENTS_BYTES_MIN, PASSWORD_BYTES_MAX, REWRITE_BYTES_LEAST, parse_bytes};
use bowline::runtime::{Bootstrap, Password, ServerOptions, Threads, Timeouts};
use bowline::types::NodeId;

use super::login::read_password;
use super::serve::variable;
use super::settings::{MemberArguments, Settings};

/// Minimum value in bytes of the setting `disk-reserve`, which preserves this much free disk space;
/// the value 0 turns the setting off. With a smaller reserve, the next segment of the log might not
/// fit.
const DISK_RESERVE_MIN: u64 = 16 << 20;
/// Minimum of the setting `changes-history-memory` in bytes, unless it is 0 to disable the history.
const HISTORY_BYTES_MIN: u64 = 1 << 20;
/// Minimum size of a cluster in which a replica that lost its data can rejoin. The replica does not
/// vote at first, so the others must be a majority without it.
pub(super) const REJOIN_MEMBERS_MIN: usize = 3;
/// Largest allowed replica id.
const ID_MAX: u16 = u16::MAX - 1;

/// Minimum value in bytes of the setting `witness-log-bytes`.
const WITNESS_LOG_BYTES_MIN: u64 = 64 << 10;

const ADDRESS: &str = "an address with a port, such as 127.0.0.1:7001";

impl Settings {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.value.as_deref()
    }

    /// Parses the value of the setting `name`; fails if it is not set. `expected` describes the
    /// valid values in the error.
    pub(super) fn parse<T>(
        &self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let setting = self.get(name).expect("a setting of this name exists");
        let Some(text) = &setting.value else {
            bail!("--{name} is required: give {expected}");
        };
        parse(text).with_context(|| {
            format!("invalid {name} `{text}` (from {}): expected {expected}", setting.origin)
        })
    }

    /// Parses the value of the setting `name`; returns `None` if it is not set. `expected`
    /// describes the valid values in the error.
    pub(super) fn parse_if_set<T>(
        &self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        self.text(name).map(|_| self.parse(name, expected, parse)).transpose()
    }

    fn core_config(&self, snapshot_log_bytes: u64, memory_max: u64) -> anyhow::Result<Config> {
        let witness_log_bytes = self.parse("witness-log-bytes", "64kb or more", |text| {
            parse_bytes(text).filter(|bytes| *bytes >= WITNESS_LOG_BYTES_MIN)
        })?;
        Ok(Config {
            is_witness: self.parse("witness", "true or false", |text| text.parse().ok())?,
            witness_log_bytes_max: usize::try_from(witness_log_bytes).unwrap_or(usize::MAX),
            lease_reads: self.parse("reads", "index or lease", |text| match text {
                "index" => Some(false),
                "lease" => Some(true),
                _ => None,
            })?,
            ..Config::server()
                .with_snapshots_after(snapshot_log_bytes)
                .within_memory(memory_max)
                .over_streams()
        })
    }

    /// Returns how this start creates the replica's files: for a new cluster (`--bootstrap`), to be
    /// added to a cluster (`--join`), or in place of a lost folder (`--rejoin`). `None` if no flag
    /// is set: the files exist already. `members` is the number of replicas in the cluster.
    fn bootstrap(&self, members: usize) -> anyhow::Result<Option<Bootstrap>> {
        let flag = |name| self.parse(name, "true or false", |text| text.parse().ok());
        ensure!(
            !flag("witness")? || !flag("bootstrap")? && !flag("rejoin")?,
            "a witness cannot be a member of a new cluster, or rejoin: create the cluster with the \
             replicas that have data, start the witness with --join, and add it with `bowline \
             admin add --witness`"
        );
        match (flag("bootstrap")?, flag("join")?, flag("rejoin")?) {
            (false, false, false) => Ok(None),
            (true, false, false) => Ok(Some(Bootstrap::New)),
            (false, true, false) => Ok(Some(Bootstrap::Join)),
            (true, true, _) | (true, _, true) | (_, true, true) => bail!(
                "only one of bootstrap, join and rejoin may be set: bootstrap is for the replicas \
                 of a new cluster, join for one that is added to a cluster, rejoin for one that \
                 lost its folder"
            ),
            (false, false, true) => {
                ensure!(
                    members >= REJOIN_MEMBERS_MIN,
                    "--rejoin needs a cluster of at least {REJOIN_MEMBERS_MIN} replicas, but \
                     --peers and --id name {members}: the others must elect a leader without \
                     this replica, which does not vote until it has caught up"
                );
                Ok(Some(Bootstrap::Rejoin))
            }
        }
    }

    /// Parses the setting `--peers`: the ids of the replicas and their addresses for peers. Fails
    /// if an id or an address occurs twice.
    fn peers(&self) -> anyhow::Result<Vec<(NodeId, String)>> {
        let peers = self.parse(
            "peers",
            "a list of all replicas, such as 1=127.0.0.1:8001,2=127.0.0.1:8002,3=127.0.0.1:8003",
            parse_peers,
        )?;
        for (at, (peer, address)) in peers.iter().enumerate() {
            for (other, other_address) in &peers[..at] {
                ensure!(
                    peer != other,
                    "--peers names replica {} twice; each replica id must occur once",
                    peer.0
                );
                ensure!(
                    address != other_address,
                    "--peers gives replicas {} and {} the same address {address}; each needs its \
                     own",
                    other.0,
                    peer.0
                );
            }
        }
        Ok(peers)
    }

    /// Returns the address that this replica announces to its peers: the setting `announce-peer`,
    /// or else its own entry in `peers`.
    fn announced_to_peers(
        &self,
        id: NodeId,
        peers: &[(NodeId, String)],
    ) -> anyhow::Result<Option<String>> {
        let expected = "an address with a port, such as 127.0.0.1:8001, or none";
        let address = self.parse_if_set("announce-peer", expected, |text| {
            if text == "none" { Some(String::new()) } else { parse_announced(text) }
        })?;
        let own = || peers.iter().find(|(peer, _)| *peer == id).map(|(_, own)| own.clone());
        Ok(address.or_else(own))
    }

    /// Parses the time limits of clients' requests.
    fn timeouts(&self) -> anyhow::Result<Timeouts> {
        let millis = |name| {
            self.parse(name, "a whole number of milliseconds above 0", parse_number)
                .map(Duration::from_millis)
        };
        Ok(Timeouts {
            leader_wait: millis("leader-wait-ms")?,
            command_deadline: millis("command-deadline-ms")?,
            request_read: Duration::from_secs(self.parse(
                "request-read-timeout-s",
                "a whole number of seconds above 0",
                parse_number,
            )?),
        })
    }

    /// Returns the password of the user `default`, from the setting or from a file. Error messages
    /// do not contain it.
    fn password(&self) -> anyhow::Result<Option<Password>> {
        let (direct, file) = (self.text("requirepass"), self.text("requirepass-file"));
        ensure!(
            direct.is_none() || file.is_none(),
            "requirepass and requirepass-file are both set; set one of them"
        );
        let password = match file {
            Some(path) => Some(read_password(Path::new(path))?),
            // As in Redis, an empty password means no password.
            None => direct.filter(|password| !password.is_empty()).map(str::to_owned),
        };
        let length = password.as_ref().map_or(0, String::len);
        ensure!(
            length <= PASSWORD_BYTES_MAX,
            "the password has {length} bytes, at most {PASSWORD_BYTES_MAX} are allowed"
        );
        Ok(password.map(Password))
    }

    /// Parses all settings into server options, and checks that they are valid and consistent.
    pub(crate) fn options(&self) -> anyhow::Result<ServerOptions> {
        let id = self.parse("id", "a replica id from 1 to 65534", parse_id)?;
        let listen = self.parse("listen", ADDRESS, parse_address)?;
        let peer_listen = self.parse("peer-listen", ADDRESS, parse_address)?;
        ensure!(
            listen != peer_listen || listen.port() == 0,
            "listen and peer-listen are both {listen}; give clients and peers different ports"
        );
        let peers = self.peers()?;
        let members = peers.iter().filter(|(peer, _)| *peer != id).count() + 1;
        ensure!(
            members <= REPLICAS_MAX,
            "--peers and --id name {members} replicas; a cluster has at most {REPLICAS_MAX}"
        );
        let number = "a whole number above 0";
        let seconds = |name| {
            self.parse(name, "a number of seconds, or 0 for never", |text| {
                text.parse::<u32>().ok().map(u64::from)
            })
        };
        let bootstrap = self.bootstrap(members)?;
        let cluster = self.text("cluster").map(cluster_id);
        ensure!(
            bootstrap != Some(Bootstrap::Join) || cluster.is_some(),
            "--join needs --cluster: give the name of the cluster, as on the other replicas"
        );
        let derived = || {
            let mut names: Vec<String> =
                peers.iter().map(|(peer, address)| format!("{}={address}", peer.0)).collect();
            names.sort();
            cluster_id(&names.join(","))
        };
        let folder = self
            .text("dir")
            .map_or_else(|| PathBuf::from(format!("bowline-data/replica-{}", id.0)), PathBuf::from);
        let snapshot_log_bytes = self.parse("snapshot-log-bytes", "64kb or more", |text| {
            parse_bytes(text).filter(|bytes| *bytes >= REWRITE_BYTES_LEAST)
        })?;
        let memory_max = self.parse("maxmemory", "a size such as 4gb, or 0", parse_bytes)?;
        Ok(ServerOptions {
            id,
            listen,
            tls: self.client_tls(listen, peer_listen)?,
            peer_tls: self.peer_tls()?,
            peer_listen,
            peers: peers.iter().filter(|(peer, _)| *peer != id).cloned().collect(),
            peer_transport: self
                .parse("peer-transport", "auto, tcp or udp", |text| text.parse().ok())?,
            announce_peer: self.announced_to_peers(id, &peers)?,
            announce: self.parse_if_set("announce", ADDRESS, parse_announced)?,
            folder,
            cluster: bootstrap.map_or(cluster, |_| Some(cluster.unwrap_or_else(derived))),
            bootstrap,
            config: self.core_config(snapshot_log_bytes, memory_max)?,
            threads: self.parse("threads", "dedicated, fused or auto", |text| {
                text.parse::<Threads>().ok()
            })?,
            password: self.password()?,
            is_protected: self.parse("protected-mode", "yes or no", parse_yes_or_no)?,
            clients_max: self.parse("maxclients", number, parse_number)?,
            clients_bytes_max: self.parse("maxmemory-clients", "16mb or more", |text| {
                parse_bytes(text).filter(|bytes| *bytes >= CLIENTS_BYTES_MIN)
            })?,
            memory_max,
            idle_seconds_max: seconds("timeout")?,
            snapshot_log_bytes,
            snapshot_log_percentage: self.parse(
                "snapshot-log-percentage",
                "a percentage such as 100, or 0 for as much as memory allows",
                |text| text.parse::<i32>().ok().and_then(|percentage| percentage.try_into().ok()),
            )?,
            changes_history_bytes: self.parse(
                "changes-history-memory",
                "0, or 1mb or more",
                parse_history_bytes,
            )?,
            http_listen: self.parse_if_set("http-listen", ADDRESS, parse_address)?,
            sentinel_listen: self.parse_if_set("sentinel-listen", ADDRESS, parse_address)?,
            sentinel_name: self.parse(
                "sentinel-name",
                "a name of printable characters without spaces",
                |text| {
                    let plain =
                        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
                    plain.then(|| text.to_owned())
                },
            )?,
            debug: self.parse("enable-debug-command", "yes or no", parse_yes_or_no)?,
            digest_check: Duration::from_secs(seconds("digest-check-s")?),
            disk_reserve: self.parse("disk-reserve", "0, or 16mb or more", parse_reserve)?,
            timeouts: self.timeouts()?,
        })
    }
}

/// A replica of a new cluster that is created from a backup.
#[derive(Debug)]
pub(super) struct NewMember {
    pub(super) id: NodeId,
    /// Ids of all members of the new cluster, including this one, in ascending order.
    pub(super) members: Vec<NodeId>,
    pub(super) folder: PathBuf,
    /// Id of the new cluster, derived from its name; `None` if no name is given.
    cluster: Option<u128>,
}

impl MemberArguments {
    /// Determines the replica from the flags, the environment and the settings file. `dir`
    /// overrides the setting for the data folder.
    pub(super) fn resolve(&self, dir: Option<&Path>) -> anyhow::Result<NewMember> {
        let settings = self.server(dir).resolve(variable)?;
        let options = settings.options()?;
        let mut members = options.members();
        members.sort_unstable();
        let cluster = settings.text("cluster").map(cluster_id);
        Ok(NewMember { id: options.id, members, folder: options.folder, cluster })
    }
}

impl NewMember {
    /// Returns the id of the new cluster. Without a name, it is derived from the backup and the
    /// members, so that replicas restored from different backups or for different members reject
    /// each other.
    pub(super) fn cluster_id_for(&self, backup: &BackupSummary) -> u128 {
        let BackupSummary { header, checksum, .. } = backup;
        self.cluster.unwrap_or_else(|| {
            cluster_id(&format!(
                "from {:032x} {} {} {checksum:08x} as {:?}",
                header.cluster_fingerprint, header.created_at, header.snapshot, self.members
            ))
        })
    }
}

fn parse_id(text: &str) -> Option<NodeId> {
    text.parse().ok().filter(|id| (1..=ID_MAX).contains(id)).map(NodeId)
}

fn parse_reserve(text: &str) -> Option<u64> {
    parse_bytes(text).filter(|bytes| *bytes == 0 || *bytes >= DISK_RESERVE_MIN)
}

/// Parses the maximum memory usage of the history of changes, in bytes.
fn parse_history_bytes(text: &str) -> Option<usize> {
    let bytes = parse_bytes(text).filter(|bytes| *bytes == 0 || *bytes >= HISTORY_BYTES_MIN)?;
    usize::try_from(bytes).ok()
}

fn parse_yes_or_no(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn parse_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

/// Parses an address with a port, such as `localhost:7001`. Returns the first address to which the
/// host name resolves.
fn parse_address(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

/// Checks the address to which clients are redirected: returns it if it consists of a host and a
/// port, else `None`. The host name is not resolved here, since clients resolve it themselves.
fn parse_announced(text: &str) -> Option<String> {
    is_address(text.as_bytes()).then(|| text.to_owned())
}

fn parse_peers(text: &str) -> Option<Vec<(NodeId, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (id, address) = part.split_once('=')?;
            Some((parse_id(id.trim())?, parse_announced(address.trim())?))
        })
        .collect()
}

/// Converts a cluster's name to its id: 32 hexadecimal digits are the id itself, any other name is
/// hashed (128-bit FNV-1a). All versions of the program must compute the same id.
fn cluster_id(name: &str) -> u128 {
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
    use super::super::settings::tests::resolve;
    use super::*;

    fn options(flags: &str) -> anyhow::Result<ServerOptions> {
        resolve(flags, &[]).unwrap().options()
    }

    fn error(flags: &str) -> String {
        format!("{:#}", options(flags).expect_err("the settings are invalid"))
    }

    #[test]
    fn own_replica_id_is_removed_from_the_peer_list() {
        let options = options("--id 4 --peers 1=127.0.0.1:8001,4=127.0.0.1:8004").unwrap();
        assert_eq!(options.peers, [(NodeId(1), "127.0.0.1:8001".to_owned())]);
        assert_eq!(options.folder, PathBuf::from("bowline-data/replica-4"));
    }

    #[test]
    fn error_for_an_invalid_setting_lists_the_allowed_values() {
        for (flags, expected) in [
            ("", "--id is required"),
            ("--id 0", "invalid id `0` (from --id): expected a replica id from 1"),
            ("--id 1 --listen here", "such as 127.0.0.1:7001"),
            ("--id 1 --listen 127.0.0.1:1 --peer-listen 127.0.0.1:1", "different ports"),
            ("--id 1 --peers 2", "1=127.0.0.1:8001"),
            ("--id 1 --peers 2=127.0.0.1:1,2=127.0.0.1:2", "replica 2 twice"),
            ("--id 1 --peers 2=127.0.0.1:1,3=127.0.0.1:1", "the same address"),
            ("--id 1 --threads many", "dedicated, fused or auto"),
            // Clap itself refuses a value that begins with a dash unless it is joined.
            ("--id 1 --maxclients=-1", "a whole number above 0"),
            ("--id 1 --reads guess", "index or lease"),
            ("--id 1 --announce nonsense", "invalid announce `nonsense` (from --announce)"),
            ("--id 1 --announce host:0", "an address with a port"),
            ("--id 1 --maxmemory-clients 1mb", "invalid maxmemory-clients `1mb` (from --maxm"),
            ("--id 1 --maxmemory-clients lots", "16mb or more"),
            ("--id 1 --timeout soon", "0 for never"),
            ("--id 1 --request-read-timeout-s 0", "seconds above 0"),
            ("--id 1 --snapshot-log-bytes 1kb", "64kb or more"),
            ("--id 1 --snapshot-log-percentage many", "a percentage such as 100"),
            ("--id 1 --rejoin", "at least 3 replicas, but --peers and --id name 1"),
            ("--id 1 --rejoin --peers 2=127.0.0.1:2", "--peers and --id name 2"),
            ("--id 4 --join", "--join needs --cluster"),
            ("--id 4 --witness --bootstrap", "start the witness with --join"),
            ("--id 4 --witness-log-bytes 1kb", "64kb or more"),
            ("--id 4 --announce-peer host", "invalid announce-peer `host`"),
            ("--id 4 --announce-peer=a=b:1", "invalid announce-peer `a=b:1`"),
        ] {
            let error = error(flags);
            assert!(error.contains(expected), "{flags}: {error}");
        }
    }

    #[test]
    fn cluster_with_too_many_replicas_is_refused() {
        let peer = |id: usize| format!("{id}=127.0.0.1:{}", 1_000 + id);
        let peers = |count: usize| (1..=count).map(peer).collect::<Vec<_>>().join(",");
        let flags = format!("--id 1 --peers {}", peers(REPLICAS_MAX + 1));
        assert!(error(&flags).contains("a cluster has at most"), "{}", error(&flags));
        // The replica itself counts, whether or not it is among --peers.
        let flags = format!("--id 99 --peers {}", peers(REPLICAS_MAX));
        assert!(error(&flags).contains("a cluster has at most"), "{}", error(&flags));
        assert!(options(&format!("--id 1 --peers {}", peers(REPLICAS_MAX))).is_ok());
    }

    #[test]
    fn flags_that_create_a_folder_exclude_each_other() {
        let peers = "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3";
        let how =
            |flags: &str| options(&format!("--id 1 --peers {peers} {flags}")).unwrap().bootstrap;
        assert_eq!(how(""), None);
        assert_eq!(how("--bootstrap"), Some(Bootstrap::New));
        assert_eq!(how("--rejoin"), Some(Bootstrap::Rejoin));
        assert_eq!(how("--join --cluster shop"), Some(Bootstrap::Join));
        for other in ["BOWLINE_REJOIN", "BOWLINE_JOIN"] {
            let settings =
                resolve(&format!("--id 1 --peers {peers} --bootstrap"), &[(other, "true")]);
            let error = settings.unwrap().options().unwrap_err().to_string();
            assert!(error.contains("only one of bootstrap, join and rejoin"), "{error}");
        }
    }

    #[test]
    fn address_for_peers_is_the_announced_or_the_listed_one() {
        let announced = |flags: &str| options(flags).unwrap().announce_peer;
        let peers = "--id 1 --peers 1=db1:8001,2=db2:8001";
        assert_eq!(announced(peers), Some("db1:8001".to_owned()));
        assert_eq!(announced(&format!("{peers} --announce-peer db9:1")), Some("db9:1".to_owned()));
        assert_eq!(announced("--id 3 --peers 1=db1:8001,2=db2:8001"), None);
        assert_eq!(announced(&format!("{peers} --announce-peer none")), Some(String::new()));
    }

    #[test]
    fn replicas_with_the_same_peer_list_derive_one_cluster_id() {
        let peers = "1=127.0.0.1:8001,2=127.0.0.1:8002";
        let reordered = "2=127.0.0.1:8002,1=127.0.0.1:8001";
        let cluster = |id: u16, peers: &str| {
            options(&format!("--id {id} --bootstrap --peers {peers}")).unwrap().cluster
        };
        assert!(cluster(1, peers).is_some());
        assert_eq!(cluster(1, peers), cluster(2, reordered));
        assert_ne!(cluster(1, peers), cluster(1, "1=127.0.0.1:8001,2=127.0.0.1:8003"));
        assert_eq!(cluster_id("000000000000000000000000000000fe"), 0xFE);
    }
}
