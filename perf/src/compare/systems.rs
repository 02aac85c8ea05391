//! The compared systems: their configuration, how they are started in fresh folders, when they are
//! ready, and which counters they report.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::children::{Child, command, find_program};
use super::counters::{self, Counters};
use super::hosts::{self, Host};
use super::nats;
use super::query;
use super::results;
use super::usage::{Usage, usage};

/// Maximum time from the start of a system until it accepts requests. If a system takes longer, all
/// of its runs in that round count as failed.
const START_TIMEOUT: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A system to be measured: a server program in one configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum System {
    /// Three Bowline replicas, which choose their number of threads by the number of cores.
    Bowline,
    /// Three Bowline replicas that use one thread per pipeline stage.
    BowlineDedicated,
    /// Three Bowline replicas that run network, Raft and applier on one thread.
    BowlineFused,
    /// Three Bowline replicas with lease reads: the leader answers reads during its lease without
    /// contacting the other replicas.
    BowlineLease,
    /// Five Bowline replicas, configured like the three of [`System::Bowline`].
    Bowline5,
    /// Seven Bowline replicas, configured like the three of [`System::Bowline`].
    Bowline7,
    /// Three Bowline replicas that communicate with each other only over TCP.
    BowlineTcp,
    /// Three Bowline replicas that communicate with each other over UDP.
    BowlineUdp,
    /// Three Bowline replicas with a minimum TCP retransmission timeout of 5 ms instead of 200 ms.
    /// Only in `perf lossy`.
    BowlineRto5,
    /// Three etcd members with default settings, except for a larger storage quota.
    Etcd,
    /// Three etcd members with a minimum TCP retransmission timeout of 5 ms instead of 200 ms. Only
    /// in `perf lossy`.
    EtcdRto5,
    /// One Redis server that syncs every write to disk before it replies.
    Redis,
    /// A Redis primary with two replicas, none of which syncs to disk. After each write the client
    /// waits for the acknowledgement of one replica (WAIT 1).
    RedisWait,
    /// One Redis server that writes nothing to disk.
    RedisMemory,
    /// One Valkey server that syncs every write to disk before it replies.
    Valkey,
    /// A Valkey primary with two replicas, all of which sync every write to disk. After each write
    /// the client waits until the write is on the disks of the primary and of one replica (WAITAOF
    /// 1 1).
    ValkeyWaitaof,
    /// Three NATS servers that store three replicas of a key-value bucket and sync every write to
    /// disk.
    Nats,
}

/// The protocol that a system's clients use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Redis,
    Etcd,
    Nats,
}

/// Command-line options with the paths of server programs. A program without its option is looked
/// up in `PATH`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ProgramPaths {
    /// Path of the `etcd` program to measure. Default: the one in PATH.
    #[arg(long, value_name = "PROGRAM")]
    etcd: Option<PathBuf>,
    /// Path of the `redis-server` program to measure. Default: the one in PATH.
    #[arg(long, value_name = "PROGRAM")]
    redis_server: Option<PathBuf>,
    /// Path of the `valkey-server` program to measure. Default: the one in PATH.
    #[arg(long, value_name = "PROGRAM")]
    valkey_server: Option<PathBuf>,
    /// Path of the `nats-server` program to measure. Default: the one in PATH.
    #[arg(long, value_name = "PROGRAM")]
    nats_server: Option<PathBuf>,
}

/// Paths of the server programs to measure.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Path of the `bowline` program.
    pub(crate) bowline: PathBuf,
    /// Paths of the other systems' programs, as given on the command line.
    pub(crate) given: ProgramPaths,
}

/// A running system: its server processes, their addresses, and the folder with their data.
/// Dropping this value kills the processes.
#[derive(Debug)]
pub(crate) struct Running {
    system: System,
    children: Vec<Child>,
    /// Addresses of the servers that accept clients. For Bowline and NATS, the leader's address
    /// comes first.
    clients: Vec<SocketAddr>,
    folder: PathBuf,
}

impl System {
    /// Returns the system's name as used on the command line and in tables.
    pub(crate) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.expect("no value is hidden").get_name().to_owned()
    }

    /// Returns whether this is Bowline in any configuration.
    pub(crate) fn is_bowline(self) -> bool {
        self.name().starts_with("bowline")
    }

    /// Returns whether this is Redis or Valkey in any configuration.
    fn is_redis(self) -> bool {
        self.name().starts_with("redis") || self.name().starts_with("valkey")
    }

    /// Returns the protocol that the system's clients use.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            System::Etcd | System::EtcdRto5 => Protocol::Etcd,
            System::Nats => Protocol::Nats,
            _ => Protocol::Redis,
        }
    }

    /// Returns the minimum TCP retransmission timeout (RTO) between the system's servers, in
    /// milliseconds; `None` for the kernel's default.
    pub(crate) fn rto_min_ms(self) -> Option<u32> {
        matches!(self, System::BowlineRto5 | System::EtcdRto5).then_some(5)
    }

    /// Returns the number of server processes of a system that always has the same number of them;
    /// `None` if the number can be chosen.
    pub(crate) fn fixed_processes(self) -> Option<usize> {
        match self {
            System::Redis | System::RedisMemory | System::Valkey => Some(1),
            System::RedisWait | System::ValkeyWaitaof | System::Nats => Some(3),
            System::Bowline5 => Some(5),
            System::Bowline7 => Some(7),
            _ => None,
        }
    }

    /// Returns the number of server processes of the system. `replicas` is the number given on the
    /// command line, if any; it applies only to systems for which the number can be chosen.
    pub(crate) fn processes(self, replicas: Option<u8>) -> usize {
        self.fixed_processes().unwrap_or_else(|| replicas.map_or(3, usize::from))
    }

    fn setup(self, processes: usize) -> String {
        let names = ["three", "four", "five", "six", "seven"];
        let name = processes.checked_sub(3).and_then(|at| names.get(at));
        let count = name.map_or_else(|| processes.to_string(), |name| (*name).to_owned());
        match self {
            System::Bowline | System::Bowline5 | System::Bowline7 => {
                format!("{count} replicas, --threads auto")
            }
            System::BowlineDedicated => format!("{count} replicas, --threads dedicated"),
            System::BowlineFused => format!("{count} replicas, --threads fused"),
            System::BowlineLease => format!("{count} replicas, --threads auto, --reads lease"),
            System::BowlineUdp => format!("{count} replicas, --peer-transport udp"),
            System::BowlineTcp => format!("{count} replicas, --peer-transport tcp"),
            System::BowlineRto5 => format!("{count} replicas, TCP with a 5 ms minimal timer"),
            System::Etcd => format!("{count} members"),
            System::EtcdRto5 => format!("{count} members, TCP with a 5 ms minimal timer"),
            System::Redis | System::Valkey => "one server, appendfsync always".to_owned(),
            System::RedisWait => "a primary and two replicas without disks, WAIT 1".to_owned(),
            System::RedisMemory => "one server, no disk".to_owned(),
            System::ValkeyWaitaof => {
                "a primary and two replicas, appendfsync always on each, WAITAOF 1 1".to_owned()
            }
            System::Nats => {
                "three servers, a bucket of three replicas, sync_interval always".to_owned()
            }
        }
    }

    /// Describes the system for the results file. If its program is not installed, the description
    /// says why the system is skipped.
    pub(crate) fn describe(self, programs: &Programs, replicas: Option<u8>) -> results::System {
        let processes = self.processes(replicas);
        let program = self.program(programs);
        let skipped = match &program {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let version = program.ok().map(|program| version(&program)).unwrap_or_default();
        results::System {
            name: self.name(),
            version,
            about: self.setup(processes),
            // The servers that have a write at its acknowledgement: a majority, or the primary and
            // the one replica that WAIT or WAITAOF waits for.
            copies: u32::try_from(match self {
                System::RedisWait | System::ValkeyWaitaof => 2,
                _ => processes / 2 + 1,
            })
            .unwrap_or(u32::MAX),
            synced: !matches!(self, System::RedisWait | System::RedisMemory),
            skipped,
        }
    }

    fn program(self, programs: &Programs) -> anyhow::Result<PathBuf> {
        let paths = &programs.given;
        let (name, package, option, given) = match self {
            System::Etcd | System::EtcdRto5 => ("etcd", "etcd-server", "--etcd", &paths.etcd),
            System::Redis | System::RedisWait | System::RedisMemory => {
                ("redis-server", "redis-server", "--redis-server", &paths.redis_server)
            }
            System::Valkey | System::ValkeyWaitaof => {
                ("valkey-server", "valkey-server", "--valkey-server", &paths.valkey_server)
            }
            System::Nats => ("nats-server", "nats-server", "--nats-server", &paths.nats_server),
            _ => {
                ensure!(
                    programs.bowline.is_file(),
                    "{} does not exist; build it with `cargo build --release`, or give its path \
                     with --bowline",
                    programs.bowline.display()
                );
                return Ok(programs.bowline.clone());
            }
        };
        if let Some(given) = given {
            ensure!(
                given.is_file(),
                "{} does not exist; give the path of {name} with {option}",
                given.display()
            );
            return fs::canonicalize(given).with_context(|| {
                format!("cannot determine the absolute path of the program {}", given.display())
            });
        }
        find_program(name).with_context(|| {
            format!("{name} is not installed (Debian package: {package}; or give {option})")
        })
    }

    /// Empties `folder`, starts the system's servers there, and waits until the system is ready.
    /// `hosts` has a host for each server process.
    pub(crate) fn start(
        self,
        programs: &Programs,
        hosts: &[Host],
        folder: &Path,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Running> {
        remove(folder)?;
        fs::create_dir_all(folder).with_context(|| {
            format!(
                "cannot create the data folder {}; check the permissions of its parent folder",
                folder.display()
            )
        })?;
        let program = self.program(programs)?;
        let folder = fs::canonicalize(folder).with_context(|| {
            format!("cannot determine the absolute path of the data folder {}", folder.display())
        })?;
        let mut running =
            Running { system: self, children: Vec::new(), clients: Vec::new(), folder };
        match self {
            System::Etcd | System::EtcdRto5 => running.start_etcd(&program, hosts)?,
            System::Nats => running.start_nats(&program, hosts)?,
            _ if self.is_redis() => running.start_redis(&program, hosts)?,
            _ => running.start_bowline(&program, hosts)?,
        }
        running.await_ready(interrupted)?;
        Ok(running)
    }
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default();
    // The output of Redis continues with a checksum, the allocator and the build.
    line.split(" sha=").next().unwrap_or_default().to_owned()
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| {
            format!("cannot remove the data folder {}; check its permissions", folder.display())
        })?;
    }
    Ok(())
}

impl Running {
    /// Returns the addresses that clients connect to. A client that needs only one address uses the
    /// first.
    pub(crate) fn clients(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// Returns the total CPU time and disk writes of all server processes since they started.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.children.iter().map(Child::id))
    }

    /// Returns the number of disk syncs of all servers since they started; `None` if the system
    /// does not report it.
    pub(crate) fn syncs(&self) -> Option<u64> {
        let of_one = |client: &SocketAddr| match self.system.protocol() {
            Protocol::Etcd => {
                let metrics = query::http(*client, "/metrics").ok()?;
                let count = |name| query::number(&metrics, name);
                let log = count("etcd_disk_wal_fsync_duration_seconds_count")?;
                Some(log + count("etcd_disk_backend_commit_duration_seconds_count")?)
            }
            Protocol::Nats => None,
            Protocol::Redis => {
                let info = query::redis(*client, &["INFO", "raft"]).ok()?;
                query::number(&info, "raft_log_syncs")
            }
        };
        self.clients.iter().map(of_one).sum()
    }

    /// Reads the servers' counters of events that help to explain the results of a run, such as
    /// leader changes.
    pub(crate) fn counters(&self) -> Counters {
        counters::of_servers(self.system.protocol(), &self.clients)
    }

    /// Returns an error if one of the system's server processes has exited.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        self.children.iter_mut().try_for_each(Child::ensure_running)
    }

    /// Kills all server processes of the system and removes its folder.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.children.iter_mut().for_each(Child::kill);
        remove(&self.folder)
    }

    fn add(&mut self, name: &str, command: Command) -> anyhow::Result<()> {
        let log = self.folder.join(format!("{name}.log"));
        self.children.push(Child::start(name, command, &log)?);
        Ok(())
    }

    fn start_bowline(&mut self, program: &Path, hosts: &[Host]) -> anyhow::Result<()> {
        let threads = match self.system {
            System::BowlineDedicated => "dedicated",
            System::BowlineFused => "fused",
            _ => "auto",
        };
        let reads = if self.system == System::BowlineLease { "lease" } else { "index" };
        let transport = match self.system {
            System::BowlineUdp => "udp",
            System::BowlineTcp | System::BowlineRto5 => "tcp",
            _ => "auto",
        };
        let addresses = hosts::allocate::<2>(hosts)?;
        let peers = addresses.iter().enumerate();
        let peers = peers.map(|(number, [_, peer])| format!("{}={peer}", number + 1));
        let peers = peers.collect::<Vec<_>>().join(",");
        for (number, (host, [client, peer])) in hosts.iter().zip(&addresses).enumerate() {
            let id = (number + 1).to_string();
            let mut command = command(program, host.within);
            command
                .args(["serve", "--bootstrap", "--id", &id, "--peers", &peers])
                .args(["--listen", &client.to_string(), "--peer-listen", &peer.to_string()])
                .args(["--threads", threads, "--reads", reads, "--peer-transport", transport])
                .arg("--dir")
                .arg(self.folder.join(&id))
                // Hosts may be network namespaces, which nothing else reaches.
                .env("BOWLINE_PROTECTED_MODE", "no")
                .env_remove("BOWLINE_CONFIG")
                .env_remove("BOWLINE_ANNOUNCE")
                .env_remove("BOWLINE_CLUSTER");
            self.add(&format!("bowline-{id}"), command)?;
            self.clients.push(*client);
        }
        Ok(())
    }

    fn start_redis(&mut self, program: &Path, hosts: &[Host]) -> anyhow::Result<()> {
        let addresses = hosts::allocate::<1>(hosts)?;
        let primary = addresses[0][0];
        for (number, (host, [client])) in hosts.iter().zip(&addresses).enumerate() {
            let name = format!("{}-{}", self.system.name(), number + 1);
            let folder = self.folder.join(&name);
            fs::create_dir_all(&folder).with_context(|| {
                format!(
                    "cannot create the data folder {}; check the permissions of its parent folder",
                    folder.display()
                )
            })?;
            let (address, port) = (client.ip().to_string(), client.port().to_string());
            let mut command = command(program, host.within);
            command
                .args(["--port", &port, "--bind", &address, "--protected-mode", "no"])
                .args(["--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"])
                .arg("--dir")
                .arg(&folder);
            match self.system {
                System::RedisWait | System::RedisMemory => command.args(["--appendonly", "no"]),
                _ => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
            };
            if number > 0 {
                let (address, port) = (primary.ip().to_string(), primary.port().to_string());
                command.args(["--replicaof", &format!("{address} {port}")]);
            }
            self.add(&name, command)?;
        }
        self.clients.push(primary);
        Ok(())
    }

    fn start_etcd(&mut self, program: &Path, hosts: &[Host]) -> anyhow::Result<()> {
        let addresses = hosts::allocate::<2>(hosts)?;
        let name = |number: usize| format!("etcd-{}", number + 1);
        let members = addresses.iter().enumerate();
        let members = members.map(|(number, [_, peer])| format!("{}=http://{peer}", name(number)));
        let members = members.collect::<Vec<_>>().join(",");
        for (number, (host, [client, peer])) in hosts.iter().zip(&addresses).enumerate() {
            let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
            let mut command = command(program, host.within);
            command
                .args(["--name", &name(number), "--initial-cluster", &members])
                .args(["--listen-client-urls", &client_url])
                .args(["--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster-state", "new", "--initial-cluster-token", "perf"])
                .args(["--quota-backend-bytes", "8589934592", "--log-level", "warn"])
                .arg("--data-dir")
                .arg(self.folder.join(name(number)));
            self.add(&name(number), command)?;
            self.clients.push(*client);
        }
        Ok(())
    }

    fn start_nats(&mut self, program: &Path, hosts: &[Host]) -> anyhow::Result<()> {
        let addresses = hosts::allocate::<2>(hosts)?;
        let peers: Vec<SocketAddr> = addresses.iter().map(|[_, peer]| *peer).collect();
        for (number, (host, [client, peer])) in hosts.iter().zip(&addresses).enumerate() {
            let folder = self.folder.join(format!("nats-{number}"));
            let file = folder.with_extension("conf");
            fs::write(&file, nats::config(number, *client, *peer, &peers, &folder)).with_context(
                || {
                    format!(
                        "cannot write the configuration file {}; check free space and permissions",
                        file.display()
                    )
                },
            )?;
            let mut command = command(program, host.within);
            command.arg("-c").arg(&file);
            self.add(&format!("nats-{number}"), command)?;
            self.clients.push(*client);
        }
        Ok(())
    }

    fn await_ready(&mut self, interrupted: &AtomicBool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.is_ready() {
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted by a signal such as Ctrl-C");
            self.ensure_running()?;
            if started.elapsed() > START_TIMEOUT {
                let logs: Vec<String> = self.children.iter().map(Child::log_tail).collect();
                bail!(
                    "system {} is still not accepting requests {} s after it was started; {}",
                    self.system.name(),
                    START_TIMEOUT.as_secs(),
                    logs.join("\n")
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Returns whether the system accepts requests. For Bowline and NATS, also moves the leader's
    /// address to the front of the client addresses.
    fn is_ready(&mut self) -> bool {
        match self.system {
            System::Etcd | System::EtcdRto5 => self.clients.iter().all(|client| {
                let health = query::http(*client, "/health").unwrap_or_default();
                health.contains("\"health\":\"true\"")
            }),
            System::RedisWait => {
                let info = query::redis(self.clients[0], &["INFO", "replication"]);
                info.is_ok_and(|info| info.matches("state=online").count() == 2)
            }
            System::ValkeyWaitaof => {
                // A replica reports no syncs until its first append-only file is complete, so wait
                // for both replicas.
                let write: [&[&str]; 2] =
                    [&["SET", "perf:ready", "yes"], &["WAITAOF", "1", "2", "300"]];
                let synced = query::redis_in_turn(self.clients[0], &write);
                synced.is_ok_and(|synced| synced.starts_with(":1\r\n:2\r\n"))
            }
            System::Nats => {
                let leader = nats::leader(self.clients[0], self.clients.len());
                // The load generator uses the first server.
                leader.is_some_and(|leader| {
                    self.clients.swap(0, leader);
                    true
                })
            }
            _ if self.system.is_redis() => {
                query::redis(self.clients[0], &["PING"]).is_ok_and(|reply| reply == "+PONG")
            }
            _ => self.find_leader(),
        }
    }

    /// Finds Bowline's leader, and moves its address to the front of the client addresses. Returns
    /// whether the leader accepts writes; always true for other systems.
    pub(crate) fn find_leader(&mut self) -> bool {
        if !self.system.is_bowline() {
            return true;
        }
        let is_leader = |client: &SocketAddr| {
            let role = query::redis(*client, &["ROLE"]);
            role.is_ok_and(|role| role.starts_with("$6\r\nmaster"))
        };
        let Some(leader) = self.clients.iter().position(is_leader) else { return false };
        self.clients.swap(0, leader);
        let written = query::redis(self.clients[0], &["SET", "perf:ready", "yes"]);
        written.is_ok_and(|reply| reply == "+OK")
    }
}
