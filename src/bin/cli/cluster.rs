//! `bowline cluster`: a whole cluster on this machine, in one folder, until Ctrl-C. Starts replicas
//! as processes of their own, says where they are and who leads, and starts again one that dies.

mod folder;
mod probe;

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

/// Ports for peers lie so far above those for clients.
const PEER_PORT_OFFSET: u16 = 1_000;
/// How often to look at the replicas; more often while there is no leader yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a replica that died stays away.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// How long replicas get to end by themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Lines of a replica's log that are shown when it can't start.
const LAST_LINES: usize = 5;

/// What `bowline cluster` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// How many replicas.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=9))]
    replicas: u16,
    /// Where everything is kept.
    #[arg(long, value_name = "FOLDER", default_value = "./bowline-data")]
    dir: PathBuf,
    /// Port for clients of the first replica; the others follow.
    #[arg(long, value_name = "PORT", default_value_t = 7001)]
    port: u16,
    /// Port at which the first replica says that it is a Sentinel; the others follow. For clients
    /// that insist on it; others ask at --port [default: none].
    #[arg(long, value_name = "PORT")]
    sentinel_port: Option<u16>,
    /// How the stages of each replica are put on threads: dedicated, fused or auto.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    threads: String,
    /// How a leader makes sure of a read: by index or by lease.
    #[arg(long, value_name = "HOW", default_value = "index")]
    reads: String,
}

/// A replica's process.
struct Member {
    id: u16,
    port: u16,
    log: PathBuf,
    command: Command,
    child: Option<Child>,
    ended: Option<Instant>,
}

/// Runs the cluster until it is told to stop.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("can't listen for Ctrl-C")?;
    }
    let last_port = arguments.port.checked_add(PEER_PORT_OFFSET + arguments.replicas);
    ensure!(
        arguments.port > 0 && last_port.is_some(),
        "--port {} leaves no room for {} replicas and the ports of peers {PEER_PORT_OFFSET} above; \
         choose one between 1024 and 60000",
        arguments.port,
        arguments.replicas
    );
    let cluster = folder::prepare(&arguments.dir, arguments.replicas)?;
    let mut members = members(arguments, cluster)?;
    for member in &mut members {
        member.start()?;
    }
    let result = watch(&mut members, arguments, cluster, started, &stop);
    stop_all(&mut members);
    result
}

fn members(arguments: &Arguments, cluster: u128) -> anyhow::Result<Vec<Member>> {
    let program = std::env::current_exe().context("can't find this very program")?;
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
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--peer-listen", &format!("127.0.0.1:{}", port + PEER_PORT_OFFSET)])
            .args(["--peers", &peers])
            .args(["--cluster", &format!("{cluster:032x}")])
            .args(["--threads", &arguments.threads])
            .args(["--reads", &arguments.reads])
            .arg("--dir")
            .arg(folder::replica(&arguments.dir, id))
            .arg("--stop-with-stdin")
            .stdout(Stdio::null())
            // What the flags leave open shall not come from a single server's settings.
            .env_remove("BOWLINE_CONFIG")
            .env_remove("BOWLINE_BOOTSTRAP")
            .env_remove("BOWLINE_ANNOUNCE")
            // Ctrl-C is for this process; the replicas are stopped by it.
            .process_group(0);
        if let Some(first) = arguments.sentinel_port {
            let port = first.saturating_add(id - 1);
            command.args(["--sentinel-listen", &format!("127.0.0.1:{port}")]);
        }
        let log = arguments.dir.join(format!("replica-{id}.log"));
        Member { id, port, log, command, child: None, ended: None }
    };
    Ok((1..=arguments.replicas).map(member).collect())
}

impl Member {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("can't write {}", self.log.display()))?;
        // It ends with its standard input, so that it never outlives this process.
        self.command.stdin(Stdio::piped()).stderr(log);
        self.child = Some(self.command.spawn().context("can't start a replica")?);
        self.ended = None;
        Ok(())
    }

    /// Notices an end, and starts the replica again when it is time.
    ///
    /// # Errors
    /// If one ended by itself before the cluster was up: it would only do so again.
    fn tend(&mut self, up: bool) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().context("can't ask for a replica's end")?
        {
            self.child = None;
            self.ended = Some(Instant::now());
            if !up && status.code().is_some() {
                bail!(
                    "replica {} can't run ({status}); the end of {} says why:\n{}",
                    self.id,
                    self.log.display(),
                    last_lines(&self.log)
                );
            }
            println!("replica {} is gone ({status}), and comes back in a moment", self.id);
        }
        if self.ended.is_some_and(|ended| ended.elapsed() >= RESTART_AFTER) {
            self.start()?;
            println!("replica {} is started again", self.id);
        }
        Ok(())
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Shows who leads, until told to stop.
fn watch(
    members: &mut [Member],
    arguments: &Arguments,
    cluster: u128,
    started: Instant,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let mut leader = None;
    let mut introduced = false;
    while !stop.load(Ordering::Relaxed) {
        for member in &mut *members {
            member.tend(introduced)?;
        }
        let leads = members.iter().find(|member| probe::leads(member.port, cluster));
        let found = leads.map(|member| member.id);
        if found.is_some() && !introduced {
            introduced = true;
            introduce(members, arguments, started);
        }
        if found.is_some() && found != leader {
            leader = found;
            println!("replica {} leads", leader.unwrap_or_default());
        }
        thread::sleep(if introduced { LOOK_INTERVAL } else { FIRST_LOOK_INTERVAL });
    }
    println!("stopped; everything is in {}", arguments.dir.display());
    Ok(ExitCode::SUCCESS)
}

fn introduce(members: &[Member], arguments: &Arguments, started: Instant) {
    println!("a cluster of {} is up after {} ms:", members.len(), started.elapsed().as_millis());
    for member in members {
        let process = member.child.as_ref().map(Child::id).unwrap_or_default();
        let log = member.log.display();
        println!("  replica {}  127.0.0.1:{}  process {process}  {log}", member.id, member.port);
    }
    println!("try: redis-cli -p {} set greeting hello", arguments.port);
}

/// Closes their standard inputs, at which they end; those that don't are killed.
fn stop_all(members: &mut [Member]) {
    for member in &mut *members {
        if let Some(child) = &mut member.child {
            drop(child.stdin.take());
        }
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    for child in members.iter_mut().filter_map(|member| member.child.as_mut()) {
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        // It may be gone already, and then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
}
