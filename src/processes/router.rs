//! The loop of the process simulator: waits for the replicas' sockets and for the run's next
//! event, takes one message from each socket that has some, and does what the run says.
//!
//! One thread, so that the order in which things happen is the order in which they are counted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use tempfile::TempDir;

use super::link::{Link, MESSAGE_BYTES_MAX, Received, Sent};
use super::message::{Addresses, Fault, Message, inspect};
use super::program::{Replica, end_all};
use super::{Options, ProcessError, Protocol};
use crate::course::clients::CLIENT_COUNT;
use crate::course::run::{Action, ScenarioRun};
use crate::course::scenario::Scenario;
use crate::types::{self, NodeId};

/// How often the processes are looked after.
const TEND_INTERVAL: Duration = Duration::from_millis(50);
/// A connection that is over is often all that is seen of an exit: so long the exit is waited for.
const EXIT_WAIT: Duration = Duration::from_millis(100);

/// One run with real processes.
#[derive(Debug)]
pub(super) struct Router {
    scenario_run: ScenarioRun,
    /// By id. `None` once the connection is over.
    links: Vec<Option<Link>>,
    replicas: Replicas,
    protocol: Protocol,
    addresses: Addresses,
    /// The run's origin of time.
    origin: Instant,
    buffer: Vec<u8>,
    actions: Vec<Action>,
    deliver: Vec<NodeId>,
    /// Holds the socket files; removed at the end.
    _folder: Option<TempDir>,
}

/// The programs of a run. They end together when it is over, whatever the way out of it was.
#[derive(Debug)]
struct Replicas(Vec<Replica>);

impl Drop for Replicas {
    fn drop(&mut self) {
        end_all(self.0.iter_mut());
    }
}

impl Router {
    /// Opens the sockets, starts all replicas one after the other, and then the clock.
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
            let place = folder.as_ref().map_or(Path::new(""), TempDir::path);
            let file = place.join(id.to_string());
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

    /// Runs until the run is over.
    pub(super) fn run(
        &mut self,
        interrupted: &AtomicBool,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(), ProcessError> {
        let mut ready = Vec::new();
        let mut tend_at = Instant::now();
        loop {
            let now = self.now();
            self.scenario_run.poll(now, &mut self.actions);
            self.act();
            if self.scenario_run.ended().is_some() {
                return Ok(());
            }
            if Instant::now() >= tend_at {
                if interrupted.load(Ordering::Relaxed) {
                    return Err(ProcessError::Interrupted);
                }
                self.tend();
                progress(self.origin.elapsed().as_secs_f64());
                tend_at = Instant::now() + TEND_INTERVAL;
            }
            let until_event = self.scenario_run.next_event().since(self.now());
            let timeout = until_event.min(tend_at.saturating_duration_since(Instant::now()));
            self.wait(timeout, &mut ready)?;
            for place in ready.drain(..) {
                self.receive(place);
            }
        }
    }

    /// Adds to `ready` whose socket has something.
    fn wait(&self, timeout: Duration, ready: &mut Vec<usize>) -> Result<(), ProcessError> {
        let (mut places, mut fds) = (Vec::new(), Vec::new());
        for (place, link) in self.links.iter().enumerate() {
            if let Some(link) = link {
                let (fd, flags) = link.interest();
                places.push(place);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        match poll(&mut fds, Some(&timeout)) {
            // A signal: the loop looks at `interrupted` soon enough.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ProcessError::Wait(error.into())),
        }
        ready.extend(
            places.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(at, _)| at),
        );
        Ok(())
    }

    /// One read from a replica's socket, and all messages that came with it.
    fn receive(&mut self, place: usize) {
        let mut buffered = false;
        // The connection may go with any message.
        while let Some(link) = &mut self.links[place] {
            let received = if buffered {
                link.buffered(&mut self.buffer)
            } else {
                link.receive(&mut self.buffer)
            };
            buffered = true;
            match received {
                Received::Nothing => return,
                Received::Message(length) => self.route(place, length),
                Received::TooLong(length) => self.scenario_run.incorrect(format!(
                    "replica {} sent a packet of {length} bytes; the course's simulator cuts it \
                     at 16384, send less at a time",
                    id_of(place)
                )),
                Received::Over(what) => self.lose(place, &what),
            }
        }
    }

    fn route(&mut self, place: usize, length: usize) {
        let now = self.now();
        match inspect(&self.buffer[..length], self.addresses) {
            Ok(Message::Hello) => {
                if let Some(link) = &mut self.links[place] {
                    link.hello();
                }
            }
            Ok(Message::Peer { src, leader, destination }) => {
                self.scenario_run.route(src, destination, leader, &mut self.deliver);
                let deliver = std::mem::take(&mut self.deliver);
                let message = std::mem::take(&mut self.buffer);
                for id in &deliver {
                    self.send(*id, &message[..length]);
                }
                self.buffer = message;
                self.deliver = deliver;
                self.deliver.clear();
            }
            Ok(Message::Answer { answer }) => {
                self.scenario_run.answer(now, &answer, &mut self.actions);
                self.act();
            }
            Err(Fault::Incorrect { what, leader }) => {
                if let Some((src, leader)) = leader {
                    self.scenario_run.note_leader(src, leader);
                }
                self.scenario_run.incorrect(format!("replica {} sent {what}", id_of(place)));
            }
            Err(Fault::NotText(what)) => self.lose(place, &what),
        }
    }

    fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Ask(request) => {
                    let mut text = Vec::with_capacity(256);
                    request.write_json(&mut text);
                    self.send(request.replica, &text);
                }
                Action::Kill(id) => {
                    let place = usize::from(id.0);
                    self.links[place] = None;
                    self.replicas.0[place].terminate();
                }
            }
        }
        self.actions = actions;
    }

    fn send(&mut self, id: NodeId, message: &[u8]) {
        let place = usize::from(id.0);
        let Some(link) = &mut self.links[place] else { return };
        match link.send(message) {
            Sent::Done => {}
            Sent::Full => self.scenario_run.blocked(),
            // As in the original: whoever is spoken to before it is there counts as dead. It
            // goes on running, and what it sends is still carried.
            Sent::NotThere => {
                let text = match self.protocol {
                    Protocol::Udp => {
                        "was sent a message before it had said hello; say hello at once, to the \
                         port given on the command line, and send nothing else for about a second"
                    }
                    Protocol::SeqPacket | Protocol::Stream => {
                        "was sent a message before it had connected; connect at once to the \
                         socket in the current folder that is named like the id on the command \
                         line, and send nothing for about a second"
                    }
                };
                self.died(id, text);
            }
            Sent::Over(what) => self.lose(place, &what),
        }
    }

    /// A replica whose connection is over is ended and counts as dead.
    fn lose(&mut self, place: usize, what: &str) {
        self.links[place] = None;
        let wait_until = Instant::now() + EXIT_WAIT;
        while !self.replicas.0[place].is_gone() && Instant::now() < wait_until {
            self.replicas.0[place].tend();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.died(id_of(place), what);
        self.replicas.0[place].terminate();
    }

    /// Counts a replica as dead, and tells how its process ended if it did.
    fn died(&mut self, id: NodeId, what: &str) {
        let exit = self.replicas.0[usize::from(id.0)].own_exit();
        self.scenario_run.died(id, exit.unwrap_or_else(|| what.to_owned()));
    }

    /// Looks after the processes: who is to end, and who ended by itself.
    fn tend(&mut self) {
        for (place, replica) in self.replicas.0.iter_mut().enumerate() {
            replica.tend();
            let id = id_of(place);
            if self.scenario_run.is_alive(id)
                && let Some(exit) = replica.own_exit()
            {
                self.links[place] = None;
                self.scenario_run.died(id, exit);
            }
        }
    }

    /// Ends all replicas and gives the finished run.
    pub(super) fn finish(mut self) -> ScenarioRun {
        self.tend();
        for place in 0..self.links.len() {
            let there = self.links[place].as_ref().is_none_or(Link::is_there);
            if !there && self.scenario_run.is_alive(id_of(place)) {
                self.died(
                    id_of(place),
                    match self.protocol {
                        Protocol::Udp => "never said hello",
                        Protocol::SeqPacket | Protocol::Stream => "never connected",
                    },
                );
            }
        }
        // All replicas end here, with what is left of `self`.
        self.scenario_run
    }
}

fn id_of(place: usize) -> NodeId {
    NodeId(u16::try_from(place).expect("at most 21 replicas"))
}
