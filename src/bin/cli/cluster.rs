//! `bowline cluster` runs a cluster on this machine until Ctrl-C, with one process per replica and
//! all data in one folder. It prints the replicas' addresses and the leader, and restarts a replica
//! that exits. A replica that cannot start is not restarted: the others continue, and the output
//! says why it cannot start and how to replace it.

mod folder;
mod probe;
mod replace;
mod secure;

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::EXIT_ERROR;
use super::login::LoginArguments;
use super::serve::EXIT_DAMAGED;

/// Difference between a replica's port for peers and its port for clients, which is the lower one.
const PEER_PORT_OFFSET: u16 = 1_000;
/// Interval at which `bowline cluster` checks its replicas' processes and which replica leads, once
/// the first leader has been elected.
const CHECK_INTERVAL: Duration = Duration::from_millis(300);
/// Interval at which `bowline cluster` checks its replicas' processes and which replica leads,
/// until the first leader is elected.
const FIRST_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Delay before `bowline cluster` restarts a replica that has exited.
const RESTART_DELAY: Duration = Duration::from_secs(2);
/// Time that the replicas have to exit when the cluster stops. Replicas that are still running then
/// are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Prefix of the line in a replica's log with the error that made the replica exit.
const ERROR_PREFIX: &str = "bowline: ";

/// Command-line arguments of `bowline cluster`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Number of replicas, 1 to 9.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=9))]
    replicas: u16,
    /// Folder for the data and logs of all replicas.
    #[arg(long, value_name = "FOLDER", default_value = "./bowline-data")]
    dir: PathBuf,
    /// Client port of the first replica; the others use the following ports. Each replica's port
    /// for peers is its client port plus 1000.
    #[arg(long, value_name = "PORT", default_value_t = 7001)]
    port: u16,
    /// Port where the first replica identifies itself as a Sentinel; the others use the following
    /// ports. For clients that check the role; Sentinel commands also work at --port [default:
    /// none].
    #[arg(long, value_name = "PORT")]
    sentinel_port: Option<u16>,
    /// HTTP port of the live page, metrics and probes of the first replica; the others use the
    /// following ports [default: none].
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Threads of each replica: `dedicated` (one per pipeline stage), `fused` (one for network,
    /// core and applier) or `auto` (fused on at most two cores).
    #[arg(long, value_name = "HOW", default_value = "auto")]
    threads: String,
    /// How the leader makes reads linearizable: `index` (a majority confirms its leadership) or
    /// `lease` (the leader answers without asking the others during its lease, which assumes that
    /// clocks drift by less than 0.2 %).
    #[arg(long, value_name = "HOW", default_value = "index")]
    reads: String,
    /// Encrypt all connections, from clients and between replicas, and require certificates on both
    /// sides. The certificates are created at the first start, in the folder `certs` in --dir.
    #[arg(long)]
    secure: bool,
    /// Id of a replica to replace because its folder is damaged or lost. Before the start, its
    /// folder is renamed; the replica starts with an empty folder and copies the data of the
    /// others.
    #[arg(long, value_name = "ID")]
    replace: Option<u16>,
    /// With --replace: replace the replica even if its folder is undamaged, for example if the
    /// others refuse the replica because its folder is an older copy.
    #[arg(long, requires = "replace")]
    force: bool,
    #[command(flatten)]
    login: LoginArguments,
}

/// A replica that `bowline cluster` runs, with its process and its log file.
struct Member {
    id: u16,
    port: u16,
    log: PathBuf,
    command: Command,
    /// The replica's process; `None` while it is not running.
    child: Option<Child>,
    /// Time at which the replica's process exited, while the replica waits for its restart; `None`
    /// otherwise.
    exited_at: Option<Instant>,
    /// Error that keeps the replica from starting, so that it is not restarted; `None` if it is
    /// running or will be restarted.
    failure: Option<StartFailure>,
}

/// Permanent reason why a replica cannot start: an error in its data folder or its settings.
struct StartFailure {
    reason: String,
    /// Whether the replica's folder is damaged or missing, in which case replacing the replica
    /// helps.
    is_damage: bool,
}

/// Runs the cluster until SIGINT or SIGTERM. Returns an error if fewer than a majority of the
/// replicas can start.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    arguments.login.apply()?;
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("cannot install the signal handler for Ctrl-C")?;
    }
    let last_port = arguments.port.checked_add(PEER_PORT_OFFSET + arguments.replicas);
    ensure!(
        arguments.port > 0 && last_port.is_some(),
        "--port {}: not enough ports for {} replicas, whose peer ports are {PEER_PORT_OFFSET} \
         above their client ports; choose a port between 1024 and 60000",
        arguments.port,
        arguments.replicas
    );
    ensure!(
        arguments.replace.is_none() || folder::exists(&arguments.dir),
        "--replace: there is no cluster in {}; check --dir",
        arguments.dir.display()
    );
    let cluster = folder::open_or_create(&arguments.dir, arguments.replicas)?;
    if arguments.secure {
        secure::prepare(&arguments.dir)?;
    }
    if let Some(id) = arguments.replace {
        replace::replace(arguments, cluster, id)?;
    }
    let mut members = members(arguments, cluster)?;
    for member in &mut members {
        let own = folder::replica(&arguments.dir, member.id);
        if own.exists() {
            member.start()?;
        } else {
            let reason = format!("its folder {} is missing", own.display());
            member.give_up(StartFailure { reason, is_damage: true }, arguments);
        }
    }
    let result = watch(&mut members, arguments, cluster, started, &stop);
    stop_all(&mut members);
    result
}

fn members(arguments: &Arguments, cluster: u128) -> anyhow::Result<Vec<Member>> {
    let program = std::env::current_exe()
        .context("cannot determine the path of the program `bowline`, to start replicas with it")?;
    let peer_address =
        |id: u16| format!("{id}=127.0.0.1:{}", arguments.port + PEER_PORT_OFFSET + id - 1);
    let peers: Vec<String> = (1..=arguments.replicas).map(peer_address).collect();
    let peers = peers.join(",");
    let member = |id: u16| {
        let port = arguments.port + id - 1;
        let mut command = Command::new(&program);
        command
            .arg("serve")
            .args(["--id", &id.to_string()])
            .args(if arguments.secure {
                secure::flags(&arguments.dir, id, port)
            } else {
                vec!["--listen".into(), format!("127.0.0.1:{port}").into()]
            })
            .args(["--peer-listen", &format!("127.0.0.1:{}", port + PEER_PORT_OFFSET)])
            .args(["--peers", &peers])
            .args(["--cluster", &format!("{cluster:032x}")])
            .args(["--threads", &arguments.threads])
            .args(["--reads", &arguments.reads])
            .arg("--dir")
            .arg(folder::replica(&arguments.dir, id))
            .arg("--stop-with-stdin")
            .stdout(Stdio::null())
            // Settings meant for a single server must not apply to these replicas.
            .env_remove("BOWLINE_CONFIG")
            .env_remove("BOWLINE_BOOTSTRAP")
            .env_remove("BOWLINE_REJOIN")
            .env_remove("BOWLINE_ANNOUNCE")
            .env_remove("BOWLINE_TLS_PORT")
            .env_remove("BOWLINE_TLS_CERT_FILE")
            .env_remove("BOWLINE_TLS_KEY_FILE")
            .env_remove("BOWLINE_PEER_TLS_CERT_FILE")
            .env_remove("BOWLINE_PEER_TLS_KEY_FILE")
            .env_remove("BOWLINE_PEER_TLS_CA_CERT_FILE")
            // A process group of its own, so that Ctrl-C reaches only this process, which then
            // stops the replicas.
            .process_group(0);
        if let Some(first) = arguments.sentinel_port {
            let port = first.saturating_add(id - 1);
            command.args(["--sentinel-listen", &format!("127.0.0.1:{port}")]);
        }
        if let Some(first) = arguments.http_port {
            let port = first.saturating_add(id - 1);
            command.args(["--http-listen", &format!("127.0.0.1:{port}")]);
        }
        let log = arguments.dir.join(format!("replica-{id}.log"));
        Member { id, port, log, command, child: None, exited_at: None, failure: None }
    };
    Ok((1..=arguments.replicas).map(member).collect())
}

impl Member {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| {
            format!(
                "cannot open the log file {} of replica {}; check its permissions",
                self.log.display(),
                self.id
            )
        })?;
        // The replica exits when its standard input is closed, so that it does not outlive this
        // process.
        self.command.stdin(Stdio::piped()).stderr(log);
        let child = self.command.spawn().with_context(|| {
            format!("cannot start replica {}; check the limits on processes and memory", self.id)
        })?;
        self.child = Some(child);
        self.exited_at = None;
        Ok(())
    }

    /// Checks whether the replica's process has exited, and restarts it [`RESTART_DELAY`] later. A
    /// replica that cannot start is not restarted: one whose exit code reports an error or a
    /// damaged folder, or that exits by itself before the cluster's first leader election. `up` is
    /// whether a leader has been elected.
    fn check(&mut self, up: bool, arguments: &Arguments) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().with_context(|| {
                format!("cannot get the exit status of the process of replica {}", self.id)
            })?
        {
            self.child = None;
            let is_damage = status.code() == Some(EXIT_DAMAGED.into());
            if is_damage
                || status.code() == Some(EXIT_ERROR.into())
                || !up && status.code().is_some()
            {
                let reason = last_error(&self.log).unwrap_or_else(|| {
                    format!("it exited with {status}; see {}", self.log.display())
                });
                self.give_up(StartFailure { reason, is_damage }, arguments);
                return Ok(());
            }
            self.exited_at = Some(Instant::now());
            let delay = RESTART_DELAY.as_secs();
            let log = self.log.display();
            println!("replica {} exited ({status}); restarting in {delay} s; see {log}", self.id);
        }
        if self.exited_at.is_some_and(|exited_at| exited_at.elapsed() >= RESTART_DELAY) {
            self.start()?;
            println!("replica {} restarted", self.id);
        }
        Ok(())
    }

    /// Marks the replica as unable to start, so that it is not restarted. Prints the reason and
    /// advice for the operator.
    fn give_up(&mut self, failure: StartFailure, arguments: &Arguments) {
        let id = self.id;
        println!("replica {id} cannot start: {}", failure.reason);
        match replace::impossible(arguments.replicas) {
            _ if !failure.is_damage => println!(
                "  the other replicas continue without it; once the cause is fixed, stop this \
                 cluster with Ctrl-C and start it again"
            ),
            Some(reason) => println!("  {reason}"),
            None => println!(
                "  the other replicas continue without it. To replace it, stop this cluster with \
                 Ctrl-C, then start it with:\n  {}",
                replace_command(arguments, id)
            ),
        }
        self.failure = Some(failure);
    }
}

/// Returns the `bowline cluster` command that replaces replica `id` and starts this cluster again,
/// to be shown to the operator.
fn replace_command(arguments: &Arguments, id: u16) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "bowline".to_owned());
    let mut command = vec![program, "cluster".to_owned()];
    let defaults = <Arguments as clap::Args>::augment_args(clap::Command::new(""));
    let is_default = |name: &str, value: &str| {
        let argument = defaults.get_arguments().find(|argument| argument.get_id() == name);
        argument.is_some_and(|argument| argument.get_default_values() == [value])
    };
    for (name, value) in [
        ("dir", arguments.dir.display().to_string()),
        ("replicas", arguments.replicas.to_string()),
        ("port", arguments.port.to_string()),
        ("threads", arguments.threads.clone()),
        ("reads", arguments.reads.clone()),
    ] {
        if !is_default(name, &value) {
            command.extend([format!("--{name}"), quoted(&value)]);
        }
    }
    if let Some(port) = arguments.sentinel_port {
        command.extend(["--sentinel-port".to_owned(), port.to_string()]);
    }
    if let Some(port) = arguments.http_port {
        command.extend(["--http-port".to_owned(), port.to_string()]);
    }
    if arguments.secure {
        command.push("--secure".to_owned());
    }
    command.extend(["--replace".to_owned(), id.to_string()]);
    command.join(" ")
}

/// Quotes an argument for a shell if it contains characters that a shell would interpret.
fn quoted(argument: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if argument.bytes().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

/// Returns the last error in a replica's log file; `None` if the file contains no error.
fn last_error(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find_map(|line| line.strip_prefix(ERROR_PREFIX)).map(str::to_owned)
}

fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// Checks that the replicas that can start are a majority; returns an error otherwise.
fn check_majority(members: &[Member]) -> anyhow::Result<()> {
    let failed = members.iter().filter(|member| member.failure.is_some()).count();
    if members.len() - failed >= majority(members.len()) {
        return Ok(());
    }
    let reasons = members.iter().filter_map(|member| {
        let failure = member.failure.as_ref()?;
        Some(format!("\n  replica {}: {}", member.id, failure.reason))
    });
    let reasons: String = reasons.collect();
    bail!("no majority of the {} replicas can start:{reasons}", members.len())
}

/// Watches the local cluster until `stop` is set: restarts replicas that have exited, and prints
/// each new leader.
fn watch(
    members: &mut [Member],
    arguments: &Arguments,
    cluster: u128,
    started: Instant,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let mut leader = None;
    let mut is_up = false;
    while !stop.load(Ordering::Relaxed) {
        for member in &mut *members {
            member.check(is_up, arguments)?;
        }
        if !is_up {
            check_majority(members)?;
        }
        let found = members.iter().find(|member| probe::is_leader(member.port, cluster));
        if let Some(id) = found.map(|member| member.id) {
            if !is_up {
                is_up = true;
                print_members(members, arguments, started);
            }
            if leader != Some(id) {
                leader = Some(id);
                println!("replica {id} is the leader");
            }
        }
        thread::sleep(if is_up { CHECK_INTERVAL } else { FIRST_CHECK_INTERVAL });
    }
    println!("stopped; the data is in {}", arguments.dir.display());
    Ok(ExitCode::SUCCESS)
}

fn print_members(members: &[Member], arguments: &Arguments, started: Instant) {
    let elapsed = started.elapsed().as_millis();
    println!("cluster of {} replicas is up after {elapsed} ms:", members.len());
    for member in members {
        let log = member.log.display();
        if member.failure.is_some() {
            println!("  replica {}  not running  {log}", member.id);
            continue;
        }
        let process = member.child.as_ref().map(Child::id).unwrap_or_default();
        println!("  replica {}  127.0.0.1:{}  process {process}  {log}", member.id, member.port);
    }
    let tls = if arguments.secure { secure::client_flags(&arguments.dir) } else { String::new() };
    if let Some(port) = arguments.http_port {
        println!("live page of replica 1: http://127.0.0.1:{port}/");
    }
    println!("try: redis-cli {tls}-p {} set greeting hello", arguments.port);
}

/// Stops all replicas: closes their standard input, which makes them exit, and kills those that are
/// still running after [`STOP_TIMEOUT`].
fn stop_all(members: &mut [Member]) {
    for member in &mut *members {
        if let Some(child) = &mut member.child {
            drop(child.stdin.take());
        }
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    for child in members.iter_mut().filter_map(|member| member.child.as_mut()) {
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        // Killing fails if the process has already exited.
        let _ = child.kill();
        let _ = child.wait();
    }
}
