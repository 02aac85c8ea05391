//! `bowline cluster`: a whole cluster on this machine, in one folder, until Ctrl-C. Starts replicas
//! as processes of their own, says where they are and who leads, and starts again one that dies. A
//! replica whose start is refused is not started again: the others run on, and the output says why
//! and how to replace it.

mod folder;
mod probe;
mod replace;

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

use super::EXIT_TROUBLE;
use super::serve::EXIT_DAMAGED;

/// Ports for peers lie so far above those for clients.
const PEER_PORT_OFFSET: u16 = 1_000;
/// How often to look at the replicas; more often while there is no leader yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a replica that died stays away.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// How long replicas get to end by themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// What the line of a replica's log begins with that says why it ended.
const ERROR_PREFIX: &str = "bowline: ";

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
    /// Replace this replica before the start, whose folder is damaged or was lost. The folder is
    /// moved aside, and the replica comes back empty and takes over what the others hold.
    #[arg(long, value_name = "ID")]
    replace: Option<u16>,
    /// Replace a replica whose folder is whole, as when the others refuse it because it is an older
    /// copy.
    #[arg(long, requires = "replace")]
    force: bool,
}

/// A replica's process.
struct Member {
    id: u16,
    port: u16,
    log: PathBuf,
    command: Command,
    child: Option<Child>,
    ended: Option<Instant>,
    /// Why it is not started again, if it is not.
    refused: Option<Refused>,
}

/// Why a replica can't start.
struct Refused {
    why: String,
    /// Its folder is damaged or missing: it can be replaced.
    is_damage: bool,
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
    ensure!(
        arguments.replace.is_none() || folder::is_made(&arguments.dir),
        "--replace: there is no cluster in {}; look at --dir",
        arguments.dir.display()
    );
    let cluster = folder::prepare(&arguments.dir, arguments.replicas)?;
    if let Some(id) = arguments.replace {
        replace::replace(arguments, cluster, id)?;
    }
    let mut members = members(arguments, cluster)?;
    for member in &mut members {
        let own = folder::replica(&arguments.dir, member.id);
        if own.exists() {
            member.start()?;
        } else {
            let why = format!("its folder {} is missing", own.display());
            member.refuse(Refused { why, is_damage: true }, arguments);
        }
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
            .env_remove("BOWLINE_REJOIN")
            .env_remove("BOWLINE_ANNOUNCE")
            // Ctrl-C is for this process; the replicas are stopped by it.
            .process_group(0);
        if let Some(first) = arguments.sentinel_port {
            let port = first.saturating_add(id - 1);
            command.args(["--sentinel-listen", &format!("127.0.0.1:{port}")]);
        }
        let log = arguments.dir.join(format!("replica-{id}.log"));
        Member { id, port, log, command, child: None, ended: None, refused: None }
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

    /// Notices an end, and starts the replica again when it is time, unless its start was refused:
    /// that would only come again. Before the cluster is `up` every end by itself is a refusal.
    fn tend(&mut self, up: bool, arguments: &Arguments) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().context("can't ask for a replica's end")?
        {
            self.child = None;
            let is_damage = status.code() == Some(EXIT_DAMAGED.into());
            if is_damage
                || status.code() == Some(EXIT_TROUBLE.into())
                || !up && status.code().is_some()
            {
                let why = last_error(&self.log).unwrap_or_else(|| {
                    format!("it ended with {status}; look into {}", self.log.display())
                });
                self.refuse(Refused { why, is_damage }, arguments);
                return Ok(());
            }
            self.ended = Some(Instant::now());
            println!("replica {} is gone ({status}), and comes back in a moment", self.id);
        }
        if self.ended.is_some_and(|ended| ended.elapsed() >= RESTART_AFTER) {
            self.start()?;
            println!("replica {} is started again", self.id);
        }
        Ok(())
    }

    /// The replica stays down; says why, and what to do.
    fn refuse(&mut self, refused: Refused, arguments: &Arguments) {
        let id = self.id;
        println!("replica {id} is broken and does not run: {}", refused.why);
        match replace::impossible(arguments.replicas) {
            _ if !refused.is_damage => println!(
                "  the other replicas run on without it; start the cluster anew when that is \
                 repaired"
            ),
            Some(why) => println!("  {why}"),
            None => println!(
                "  the other replicas run on without it. To replace it by what they hold, stop \
                 this cluster with Ctrl-C, then start it with:\n  {}",
                replace_command(arguments, id)
            ),
        }
        self.refused = Some(refused);
    }
}

/// The command that starts this cluster and replaces a replica.
fn replace_command(arguments: &Arguments, id: u16) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "bowline".to_owned());
    let mut words = vec![program, "cluster".to_owned()];
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
            words.extend([format!("--{name}"), quoted(&value)]);
        }
    }
    if let Some(port) = arguments.sentinel_port {
        words.extend(["--sentinel-port".to_owned(), port.to_string()]);
    }
    words.extend(["--replace".to_owned(), id.to_string()]);
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Why the process that wrote this log ended, if it said so.
fn last_error(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find_map(|line| line.strip_prefix(ERROR_PREFIX)).map(str::to_owned)
}

fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// Fails if the replicas that can start are not a majority.
fn check_majority(members: &[Member]) -> anyhow::Result<()> {
    let refused: Vec<&Member> = members.iter().filter(|member| member.refused.is_some()).collect();
    if members.len() - refused.len() >= majority(members.len()) {
        return Ok(());
    }
    let reasons = refused.iter().filter_map(|member| {
        let refused = member.refused.as_ref()?;
        Some(format!("\n  replica {}: {}", member.id, refused.why))
    });
    let reasons: String = reasons.collect();
    bail!("no majority of the {} replicas can start:{reasons}", members.len())
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
            member.tend(introduced, arguments)?;
        }
        if !introduced {
            check_majority(members)?;
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
        let log = member.log.display();
        if member.refused.is_some() {
            println!("  replica {}  does not run  {log}", member.id);
            continue;
        }
        let process = member.child.as_ref().map(Child::id).unwrap_or_default();
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
