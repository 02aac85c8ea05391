//! The main loop of the process simulator: waits for messages from the replicas and for the next
//! event of the scenario, receives from each ready socket, and routes the messages.
//!
//! Runs in one thread, so that messages are counted in the order in which they are routed.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use tempfile::TempDir;

use super::link::{Link, MESSAGE_BYTES_MAX, Received, Sent};
use super::message::{Addresses, Fault, Message, inspect};
use super::program::{Replica, stop_all};
use super::{Options, ProcessError, Protocol};
use crate::course::clients::CLIENT_COUNT;
use crate::course::run::{Action, ScenarioRun};
use crate::course::scenario::Scenario;
use crate::types::{self, NodeId};

/// Interval between two checks of whether replicas' processes have exited.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum time to wait for a replica's process to exit after its connection has ended, so that the
/// report can contain the exit status.
const EXIT_WAIT: Duration = Duration::from_millis(100);

/// One scenario run in the process simulator: the sockets, the replicas' processes and the run's
/// clock.
#[derive(Debug)]
pub(super) struct Router {
    scenario_run: ScenarioRun,
    /// Connections to the replicas, indexed by replica id; `None` for a connection that has ended.
    links: Vec<Option<Link>>,
    replicas: Replicas,
    protocol: Protocol,
    trace: Option<fn(&str)>,
    addresses: Addresses,
    /// Start of the run, from which the run's clock is measured.
    origin: Instant,
    buffer: Vec<u8>,
    actions: Vec<Action>,
    deliver: Vec<NodeId>,
    /// Temporary folder with the UNIX socket files, which is deleted when the run ends; `None` for
    /// UDP.
    _folder: Option<TempDir>,
}

/// The replicas' processes of a run. Dropping this value stops all of them, however the run ends.
#[derive(Debug)]
struct Replicas(Vec<Replica>);

impl Drop for Replicas {
    fn drop(&mut self) {
        stop_all(self.0.iter_mut());
    }
}

impl Router {
    /// Opens the sockets, starts the replicas one after another, and then starts the run's clock.
    pub(super) fn start(
        scenario: &Scenario,
        seed: u64,
        options: &Options,
        program: &Path,
    ) -> Result<Router, ProcessError> {
        let socket = |replica: NodeId| move |source| ProcessError::Socket { replica, source };
        let folder = match options.protocol {
            Protocol::Udp => None,
            Protocol::SeqPacket | Protocol::Stream => {
                Some(tempfile::tempdir().map_err(socket(NodeId(0)))?)
            }
        };
        let scenario_run = ScenarioRun::new(scenario, seed, types::Instant::ZERO);
        let ids: Vec<NodeId> = (0..scenario.replicas).map(NodeId).collect();
        let mut links = Vec::new();
        for id in &ids {
            let parent = folder.as_ref().map_or(Path::new(""), TempDir::path);
            let file = parent.join(id.to_string());
            links.push(Some(Link::open(options.protocol, &file).map_err(socket(*id))?));
        }
        let mut replicas = Vec::new();
        for (id, link) in ids.iter().zip(&links) {
            let port = link.as_ref().and_then(Link::port).map(|port| port.to_string());
            let others = scenario_run.others(*id).into_iter().map(|other| other.to_string());
            let arguments: Vec<String> =
                port.into_iter().chain([id.to_string()]).chain(others).collect();
            let folder = folder.as_ref().map(TempDir::path);
            replicas.push(
                Replica::start(*id, program, &arguments, folder, options.output).map_err(
                    |source| ProcessError::Start { program: options.program.clone(), source },
                )?,
            );
        }
        Ok(Router {
            scenario_run,
            links,
            replicas: Replicas(replicas),
            protocol: options.protocol,
            trace: options.trace,
            addresses: Addresses {
                replicas: scenario.replicas,
                clients: CLIENT_COUNT,
                hello: options.protocol == Protocol::Udp,
            },
            origin: Instant::now(),
            buffer: vec![0; MESSAGE_BYTES_MAX],
            actions: Vec::new(),
            deliver: Vec::new(),
            _folder: folder,
        })
    }

    fn now(&self) -> types::Instant {
        types::Instant::ZERO + self.origin.elapsed()
    }

    /// Adds a line to the trace: the time since the start of the run, and this text. Does nothing
    /// if the trace is off.
    fn trace(&self, text: fmt::Arguments<'_>) {
        if let Some(trace) = self.trace {
            trace(&format!("{:.6}s {text}", self.origin.elapsed().as_secs_f64()));
        }
    }

    /// Routes messages and performs the scenario's events until the run ends or is interrupted.
    pub(super) fn run(
        &mut self,
        interrupted: &AtomicBool,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(), ProcessError> {
        let mut ready = Vec::new();
        let mut check_at = Instant::now();
        loop {
            let now = self.now();
            self.scenario_run.poll(now, &mut self.actions);
            self.act();
            if self.scenario_run.ended().is_some() {
                return Ok(());
            }
            if Instant::now() >= check_at {
                if interrupted.load(Ordering::Relaxed) {
                    return Err(ProcessError::Interrupted);
                }
                self.check_processes();
                progress(self.origin.elapsed().as_secs_f64());
                check_at = Instant::now() + CHECK_INTERVAL;
            }
            let until_event = self.scenario_run.next_event().since(self.now());
            let timeout = until_event.min(check_at.saturating_duration_since(Instant::now()));
            self.wait(timeout, &mut ready)?;
            for index in ready.drain(..) {
                self.receive(index);
            }
        }
    }

    /// Waits for messages for at most `timeout`, and appends to `ready` the index of each replica
    /// whose socket is ready to read or write, or has failed.
    fn wait(&self, timeout: Duration, ready: &mut Vec<usize>) -> Result<(), ProcessError> {
        let (mut indexes, mut fds) = (Vec::new(), Vec::new());
        for (index, link) in self.links.iter().enumerate() {
            if let Some(link) = link {
                let (fd, flags) = link.interest();
                indexes.push(index);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        match poll(&mut fds, Some(&timeout)) {
            // After a signal: the caller checks `interrupted` within `CHECK_INTERVAL`.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ProcessError::Wait(error.into())),
        }
        ready.extend(
            indexes.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(at, _)| at),
        );
        Ok(())
    }

    /// Reads once from the socket of the replica at `index`, and routes all messages that are now
    /// complete.
    fn receive(&mut self, index: usize) {
        let mut buffered = false;
        // Each message may end the connection.
        while let Some(link) = &mut self.links[index] {
            let received = if buffered {
                link.buffered(&mut self.buffer)
            } else {
                link.receive(&mut self.buffer)
            };
            buffered = true;
            match received {
                Received::Nothing => return,
                Received::Message(length) => self.route(index, length),
                Received::TooLong(length) => self.scenario_run.incorrect(format!(
                    "replica {} sent a packet of {length} bytes; the course's simulator reads at \
                     most 16384, send smaller packets",
                    id_of(index)
                )),
                Received::Over(what) => self.lose(index, &what),
            }
        }
    }

    fn route(&mut self, index: usize, length: usize) {
        let now = self.now();
        match inspect(&self.buffer[..length], self.addresses) {
            Ok(Message::Hello) => {
                if let Some(link) = &mut self.links[index] {
                    link.on_hello();
                }
            }
            Ok(Message::Peer { src, leader, destination }) => {
                self.scenario_run.route(src, destination, leader, &mut self.deliver);
                let deliver = std::mem::take(&mut self.deliver);
                let message = std::mem::take(&mut self.buffer);
                if self.trace.is_some() {
                    let ids: Vec<String> = deliver.iter().map(NodeId::to_string).collect();
                    let to = if ids.is_empty() { "none (lost)".to_owned() } else { ids.join(" ") };
                    self.trace(format_args!("{src} -> {to} {}", text_of(&message[..length])));
                }
                for id in &deliver {
                    self.send(*id, &message[..length]);
                }
                self.buffer = message;
                self.deliver = deliver;
                self.deliver.clear();
            }
            Ok(Message::Answer { answer }) => {
                let text = text_of(&self.buffer[..length]);
                self.trace(format_args!("{} -> client {text}", id_of(index)));
                self.scenario_run.answer(now, &answer, &mut self.actions);
                self.act();
            }
            Err(Fault::Incorrect { what, leader }) => {
                if let Some((src, leader)) = leader {
                    self.scenario_run.note_leader(src, leader);
                }
                self.scenario_run.incorrect(format!("replica {} sent {what}", id_of(index)));
            }
            Err(Fault::NotText(what)) => self.lose(index, &what),
        }
    }

    fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(request) => {
                    let mut text = Vec::with_capacity(256);
                    request.write_json(&mut text);
                    let to = request.replica;
                    self.trace(format_args!("client -> {to} {}", text_of(&text)));
                    self.send(request.replica, &text);
                }
                Action::Kill(id) => {
                    self.trace(format_args!("{id} killed by the scenario"));
                    let index = usize::from(id.0);
                    self.links[index] = None;
                    self.replicas.0[index].terminate();
                }
            }
        }
        self.actions = actions;
    }

    fn send(&mut self, id: NodeId, message: &[u8]) {
        let index = usize::from(id.0);
        let Some(link) = &mut self.links[index] else { return };
        match link.send(message) {
            Sent::Done => {}
            Sent::Full => self.scenario_run.blocked(),
            // As in the university course's simulator, a replica counts as dead if a message must
            // be sent to it before it has connected. Its process continues, and its messages are
            // still routed.
            Sent::NotConnected => {
                let text = match self.protocol {
                    Protocol::Udp => {
                        "was sent a message before it sent a hello; send a hello at once, to the \
                         port on the command line, and nothing else for about a second"
                    }
                    Protocol::SeqPacket | Protocol::Stream => {
                        "was sent a message before it connected; connect at once to the socket in \
                         the current directory that is named after the id on the command line, and \
                         send nothing for about a second"
                    }
                };
                self.died(id, text);
            }
            Sent::Over(what) => self.lose(index, &what),
        }
    }

    /// Stops the replica at `index` and counts it as dead, because its connection has ended or it
    /// sent a message that is not text. `what` describes the reason.
    fn lose(&mut self, index: usize, what: &str) {
        self.links[index] = None;
        let wait_until = Instant::now() + EXIT_WAIT;
        while !self.replicas.0[index].has_exited() && Instant::now() < wait_until {
            self.replicas.0[index].check();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.died(id_of(index), what);
        self.replicas.0[index].terminate();
    }

    /// Counts a replica as dead. In the report, the reason is the unexpected exit of the replica's
    /// process, or `what` if the process has not exited by itself.
    fn died(&mut self, id: NodeId, what: &str) {
        self.trace(format_args!("{id} dead: {what}"));
        let exit = self.replicas.0[usize::from(id.0)].unexpected_exit();
        self.scenario_run.died(id, exit.unwrap_or_else(|| what.to_owned()));
    }

    /// Checks the processes of all replicas: kills those that have not exited in time after
    /// SIGTERM, and counts replicas whose processes exited by themselves as dead.
    fn check_processes(&mut self) {
        for (index, replica) in self.replicas.0.iter_mut().enumerate() {
            replica.check();
            let id = id_of(index);
            if self.scenario_run.is_alive(id)
                && let Some(exit) = replica.unexpected_exit()
            {
                self.links[index] = None;
                self.scenario_run.died(id, exit);
            }
        }
    }

    /// Stops all replicas and returns the finished run. Counts replicas that never connected as
    /// dead.
    pub(super) fn finish(mut self) -> ScenarioRun {
        self.check_processes();
        for index in 0..self.links.len() {
            let connected = self.links[index].as_ref().is_none_or(Link::is_connected);
            if !connected && self.scenario_run.is_alive(id_of(index)) {
                self.died(
                    id_of(index),
                    match self.protocol {
                        Protocol::Udp => "sent no hello",
                        Protocol::SeqPacket | Protocol::Stream => "did not connect",
                    },
                );
            }
        }
        // Dropping the other fields of `self` stops the replicas.
        self.scenario_run
    }
}

/// Returns a message as text for the trace.
fn text_of(message: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(message.trim_ascii())
}

fn id_of(index: usize) -> NodeId {
    NodeId(u16::try_from(index).expect("at most 21 replicas"))
}
