//! The server: the same stages as everywhere, behind TCP doors for Redis clients and for peers,
//! over a log on disk.
//!
//! | file | what it holds |
//! |---|---|
//! | `network` | the stage: `Poll`, and which way everything goes |
//! | `clients`, `client` | the clients' door; one client's requests in their order |
//! | `memory` | what all clients hold, and who may go on when that is much |
//! | `flights` | who waits for which request |
//! | `read_asks` | reads at a replica that does not lead |
//! | `links`, `inbound` | connections to peers; connections from peers |
//! | `listener`, `socket`, `outbox`, `slab` | sockets that never block |
//! | `descriptors` | how many files and sockets the system allows |
//!
//! Only the replica that holds a client's connection answers it, from its own state: a write once
//! it has applied it, a read once it has applied as much as the leader knew to be committed when
//! the read came. What peers pass to the leader are bare commands, and nothing comes back but
//! refusals (design.md §6).

mod client;
mod clients;
mod descriptors;
mod flights;
mod inbound;
mod links;
mod listener;
mod memory;
mod network;
mod outbox;
mod read_asks;
mod slab;
mod socket;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{self, Duration};

use crate::config::Config;
use crate::kv::StateMachine;
use crate::raft::{DiskState, Replica, SnapshotId};
use crate::record::{Entry, HEADER_BYTES, RECORD_BYTES_MAX};
use crate::redis::{Context, ReplicaInfo, Settings};
use crate::storage::{
    Expected, Log, LogOptions, PeerRecords, RealDisk, Recovered, Snapshots as Files, StorageError,
    cluster_fingerprint, failpoint, replicas,
};
use crate::types::{EntryId, Instant, NodeId};
use crate::wire::frame::{Hello, Lane};
use crate::wire::resp::Limits;

use self::clients::Clients;
use self::flights::{Flights, origin_of};
use self::inbound::Inbound;
use self::links::Links;
use self::listener::Listener;
use self::network::{CLIENTS_FROM, INBOUND_FROM, LINKS_FROM, Parts, ServerNetwork, WAKER};
use crate::runtime::boards::{
    DiskSpaceBoard, MemoryBoard, RuntimeCounters, SnapshotBoard, StatusBoard, SubscriberBoard,
};
use crate::runtime::channels;
use crate::runtime::clock::Clock;
use crate::runtime::error::{RunError, system_error};
use crate::runtime::stages::applier::{Applier, ReplyPolicy};
use crate::runtime::stages::core::replicated_clock::CoreClock;
use crate::runtime::stages::core::{Core, NonLeaderPolicy};
use crate::runtime::stages::disk_space::reserve_file_bytes;
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::snapshot_scheduler::SnapshotScheduler;
use crate::runtime::stages::snapshots::{self, LoadedSnapshots, SnapshotIo};
use crate::runtime::stages::threads::{Threads, run};
use crate::runtime::stages::{Stages, random_seed};
use crate::runtime::wake::Wake;

pub use self::clients::Timeouts;

/// A process that was killed may be here for so long, for its disk's sake.
const LEAVING_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether it has gone.
const PAUSE: Duration = Duration::from_millis(50);

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// This replica.
    pub id: NodeId,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where peers connect.
    pub peer_listen: SocketAddr,
    /// The other replicas and where they listen for peers.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// What clients of other replicas are told instead of `listen`, as `host:port`.
    pub announce: Option<String>,
    /// The replica's folder.
    pub folder: PathBuf,
    /// The cluster that the folder must belong to; `None` takes what the folder says.
    pub cluster: Option<u128>,
    /// Make the folder this replica's if it is empty. Wants `cluster`.
    pub bootstrap: Option<Bootstrap>,
    /// How the core behaves.
    pub config: Config,
    /// How stages are put on threads.
    pub threads: Threads,
    /// Most clients at a time.
    pub clients_max: u64,
    /// Most bytes of memory that all clients together may hold.
    pub clients_bytes_max: u64,
    /// So many bytes of memory may be in use before commands that add to it are refused; 0 for any
    /// number. It counts the state, the log in memory, and what clients hold.
    pub memory_max: u64,
    /// Seconds after which a client that is idle is closed; 0 for never.
    pub idle_seconds_max: u64,
    /// Bytes of the log behind one snapshot at which the next is whole, or 7/16 of the snapshot if
    /// that is more.
    pub snapshot_log_bytes: u64,
    /// Where this replica is a Sentinel and nothing else, if anywhere.
    pub sentinel_listen: Option<SocketAddr>,
    /// How clients that ask a Sentinel call this cluster.
    pub sentinel_name: String,
    /// Whether clients may use `DEBUG`.
    pub debug: bool,
    /// Below so many bytes of room on its disk a replica refuses writes; 0 for never.
    pub disk_reserve: u64,
    /// How long clients wait.
    pub timeouts: Timeouts,
}

/// How an empty folder is made a replica's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// As one of a new cluster.
    New,
    /// As one that has lost its folder. It comes back under its id, and neither votes nor campaigns
    /// before it holds again what it may have acknowledged.
    Rejoin,
}

impl ServerOptions {
    /// The ids of all voters, this replica included.
    pub fn members(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(peer, _)| *peer).chain([self.id]).collect()
    }
}

/// Runs a server until the system refuses to poll. It leaves SIGTERM to its default: whatever it
/// has acknowledged is on disk.
///
/// # Errors
/// If it can't start: an address in use, a folder that is another's or damaged, nonsense in the
/// configuration.
pub fn run_server(
    options: &ServerOptions,
    counters: &Arc<RuntimeCounters>,
) -> Result<(), RunError> {
    options.config.validate()?;
    // Before the folder is touched: a second start by mistake must not count as a restart.
    let client_listener = listen("clients", options.listen)?;
    let sentinel_listener =
        options.sentinel_listen.map(|address| listen("a Sentinel's clients", address));
    let sentinel_listener = sentinel_listener.transpose()?;
    let peer_listener = listen("peers", options.peer_listen)?;
    if let Some(how) = options.bootstrap {
        let cluster = options.cluster.expect("to bootstrap goes with a cluster's id");
        bootstrap(&options.folder, cluster, options.id, &options.members(), how)?;
    }
    let room = Arc::new(DiskSpaceBoard::new(options.disk_reserve));
    let Opened { recovered, notes, files, snapshot, store } = open(options, &room)?;
    let identity = recovered.identity();
    let opening = recovered.openings().last().copied().expect("this opening is among them");
    let last_saved = snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
    let clock = Clock::start();
    let peers: Vec<NodeId> = options.peers.iter().map(|(peer, _)| *peer).collect();
    let parts = |error| system_error("setting up the network")(error);
    let poll = mio::Poll::new().map_err(parts)?;
    let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), WAKER).map_err(parts)?));
    let fused = options.threads.are_fused();
    let ends = channels::channels(&wake, fused);
    let (board, saved) = (Arc::<StatusBoard>::default(), Arc::<SnapshotBoard>::default());
    let (clocks, replicated_clock) = CoreClock::with_board(&peers, &store, &clock);
    let memory = Arc::new(MemoryBoard::new(options.memory_max, Arc::clone(&saved)));
    let origin = origin_of(options.id, opening);
    let rejoining = Arc::new(AtomicBool::new(recovered.is_rejoining()));
    let announce = options.announce.clone().unwrap_or_else(|| options.listen.to_string());
    let introduction = introduction(&recovered, &announce);
    let flag = Arc::clone(&rejoining);
    let links = Links::new(introduction, flag, &options.peers, LINKS_FROM, Arc::clone(counters));
    let members = recovered.members().to_vec();
    let inbound = Inbound::new(identity, members, notes, INBOUND_FROM, Arc::clone(counters));
    let fingerprint = cluster_fingerprint(identity.cluster);
    let mut context = context(options, fingerprint, &announce, clock.now());
    context.note_applied(last_saved.index);
    note_state(&mut context, &store);
    let subscribers = Arc::new(SubscriberBoard::default());
    let clients = Clients::new(
        Flights::new(origin),
        CLIENTS_FROM,
        options.timeouts,
        context,
        settings(options),
        Arc::clone(&subscribers),
        Arc::clone(counters),
    );
    let network = ServerNetwork::new(Parts {
        poll,
        wake,
        ends: ends.network,
        clock,
        me: options.id,
        opening,
        client_listener,
        sentinel_listener,
        peer_listener,
        clients,
        links,
        inbound,
        board: Arc::clone(&board),
        saved: Arc::clone(&saved),
        room: Arc::clone(&room),
        memory: Arc::clone(&memory),
        clocks,
        counters: Arc::clone(counters),
    })
    .map_err(parts)?;
    // The last step that can fail, so that no start that fails before counts as an opening, and
    // before the first byte to a peer.
    let (log, durable) = recovered.open(snapshot)?;
    tell_open(options, &log, durable.entries.last(), last_saved);
    let replica = Replica::new(
        options.id,
        &peers,
        options.config.clone(),
        random_seed(),
        durable,
        clock.now(),
    );
    let scheduler =
        SnapshotScheduler::new(options.snapshot_log_bytes, Arc::clone(&saved), Arc::clone(&memory));
    let stages = Stages {
        network,
        core: Core::new(
            replica,
            clock,
            ends.core,
            NonLeaderPolicy::Refuse,
            board,
            Arc::clone(counters),
        )
        .within(memory)
        .with_clock(replicated_clock),
        log_writer: LogWriter::durable(log, &room, &scheduler, ends.log_writer, counters)
            .rejoining(rejoining),
        applier: Applier::new(ReplyPolicy::Origin(origin), clock, ends.applier)
            .with(store, last_saved, scheduler.clone())
            .with_subscribers(subscribers),
        snapshots: Some(SnapshotIo::new(
            files,
            scheduler,
            room,
            ends.snapshots,
            Arc::clone(counters),
        )),
    };
    run(stages, fused).map_err(system_error("waiting for messages"))
}

/// What this replica says of itself to its peers; addressee and lane are filled in later.
fn introduction(recovered: &Recovered<RealDisk>, announce: &str) -> Hello {
    let identity = recovered.identity();
    Hello {
        cluster: identity.cluster,
        from: identity.replica,
        to: identity.replica,
        incarnation: identity.incarnation,
        openings: recovered.openings().to_vec(),
        members: recovered.members().to_vec(),
        rejoining: recovered.is_rejoining(),
        lane: Lane::Urgent,
        client_address: announce.to_owned(),
    }
}

/// Logs that the replica has started, and with what.
fn tell_open(
    options: &ServerOptions,
    log: &Log<RealDisk>,
    last: Option<&Entry>,
    last_saved: EntryId,
) {
    let identity = log.identity();
    tracing::info!(
        replica = %options.id,
        cluster = format_args!("{:032x}", identity.cluster),
        members = replicas(log.members()),
        incarnation = identity.incarnation,
        rejoining = log.is_rejoining(),
        last = %last.map_or(last_saved, Entry::id),
        snapshot = %last_saved,
        listen = %options.listen,
        peer_listen = %options.peer_listen,
        "the log is open"
    );
}

/// What a folder held.
struct Opened {
    recovered: Recovered<RealDisk>,
    notes: PeerRecords<RealDisk>,
    files: Files<RealDisk>,
    /// The latest snapshot.
    snapshot: Option<SnapshotId>,
    /// The state in it.
    store: StateMachine,
}

/// Reads the folder: the latest snapshot, and the log behind it. All but the reserve and the peer
/// notes is left as it is.
fn open(options: &ServerOptions, room: &DiskSpaceBoard) -> Result<Opened, RunError> {
    if let Ok(chosen) = std::env::var(failpoint::VARIABLE) {
        tracing::warn!("this process kills itself at {chosen}: a test wants it");
        failpoint::choose(&chosen);
    }
    let disk = patiently(
        || RealDisk::open(&options.folder),
        |error| matches!(error, StorageError::Locked { .. }),
    )?;
    let beside = disk.share()?;
    let members = options.members();
    let expected =
        Expected { cluster: options.cluster, replica: options.id, members: Some(&members) };
    let recovered = Log::recover(disk, LogOptions::default(), &expected)?;
    let LoadedSnapshots { files, latest } = snapshots::load_latest(beside.share()?)?;
    let snapshot = latest.as_ref().map(|(id, _)| *id);
    recovered.check_snapshot(snapshot)?;
    if recovered.adopts_members() {
        tracing::warn!(
            members = replicas(recovered.members()),
            "the folder is of an earlier format and does not say who the members of its cluster \
             are; those of --peers are written into it"
        );
    }
    if recovered.repairs_meta() {
        tracing::warn!(
            folder = %options.folder.display(),
            "a copy of the meta record is damaged; it is replaced by the other one. Check the disk"
        );
    }
    // What it holds is given up again if the opening needs it.
    beside.keep_reserve(reserve_file_bytes(options.disk_reserve))?;
    // Before anybody asks.
    room.write(beside.free_space()?);
    let notes = PeerRecords::open(beside, recovered.identity())?;
    if let Some(damage) = notes.damage() {
        tracing::warn!(
            "{damage}. This file is a cache of what peers said of themselves: it is rebuilt. Check \
             the disk"
        );
    }
    let store = latest.map_or_else(StateMachine::default, |(_, store)| store);
    Ok(Opened { recovered, notes, files, snapshot, store })
}

/// Makes an empty folder, or none yet, a replica's.
///
/// # Errors
/// If the folder holds something already, or can't be written.
pub fn bootstrap(
    folder: &Path,
    cluster: u128,
    id: NodeId,
    members: &[NodeId],
    how: Bootstrap,
) -> Result<(), RunError> {
    let mut disk = RealDisk::create(folder)?;
    match how {
        Bootstrap::New => Log::bootstrap(&mut disk, cluster, id, members)?,
        Bootstrap::Rejoin => Log::bootstrap_rejoining(&mut disk, cluster, id, members)?,
    }
    Ok(())
}

/// What a replica's folder is like that a replica can start with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Folder {
    /// All that was written is there.
    Whole,
    /// The same, but the replica rejoins: it does not hold yet what it may have acknowledged.
    Rejoining,
}

/// Reads a replica's folder as a start does. Changes nothing in it but to remove unfinished
/// snapshots.
///
/// # Errors
/// If the replica would not start with it, or another process has it.
pub fn inspect(
    folder: &Path,
    cluster: u128,
    id: NodeId,
    members: &[NodeId],
) -> Result<Folder, RunError> {
    let disk = RealDisk::open(folder)?;
    let beside = disk.share()?;
    let expected = Expected { cluster: Some(cluster), replica: id, members: Some(members) };
    let recovered = Log::recover(disk, LogOptions::default(), &expected)?;
    let latest = snapshots::load_latest(beside)?.latest;
    recovered.check_snapshot(latest.map(|(id, _)| id))?;
    Ok(if recovered.is_rejoining() { Folder::Rejoining } else { Folder::Whole })
}

/// Tries for some seconds what a process that was here before may still be in the way of: one that
/// was killed while its disk took long holds its ports and its folder until the disk is done.
fn patiently<T, E: fmt::Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_in_the_way: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = time::Instant::now();
    let mut told = false;
    loop {
        match attempt() {
            Err(error) if is_in_the_way(&error) && begun.elapsed() < LEAVING_MAX => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("{error}; waiting for it to go");
                }
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn listen(whom: &'static str, address: SocketAddr) -> Result<Listener, RunError> {
    let bind = || {
        Listener::bind(address).map_err(|source| {
            let advice = match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process listens there; stop it, or choose another"
                }
                io::ErrorKind::PermissionDenied => "choose a port above 1023",
                io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
                _ => "choose another address",
            };
            RunError::Listen { whom, address, source, advice }
        })
    };
    let is_taken = |error: &RunError| {
        matches!(error, RunError::Listen { source, .. }
            if source.kind() == io::ErrorKind::AddrInUse)
    };
    patiently(bind, is_taken)
}

/// What `CONFIG` begins with.
fn settings(options: &ServerOptions) -> Settings {
    let folder = options.folder.display().to_string();
    let host = options.listen.ip().to_string();
    let mut settings = Settings::new(&Limits::default(), &host, options.listen.port(), &folder);
    let clients_max = descriptors::reserve(options.clients_max, options.peers.len());
    settings.set_memory_max(options.memory_max);
    settings.set_client_limits(clients_max, options.clients_bytes_max, options.idle_seconds_max);
    settings
}

/// What clients are told of a state that was found.
fn note_state(context: &mut Context, store: &StateMachine) {
    context.key_count = store.key_count() as u64;
    context.expires_count = store.expires_count() as u64;
    context.state_digest = store.digest();
}

/// What clients are told of this replica, before anything else is known.
fn context(options: &ServerOptions, fingerprint: u128, announce: &str, now: Instant) -> Context {
    let (host, port) = announce.rsplit_once(':').unwrap_or((announce, ""));
    let me = ReplicaInfo {
        id: options.id,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().unwrap_or(options.listen.port()),
        peer_port: options.peer_listen.port(),
        connected: true,
        match_index: None,
        disk: DiskState::Healthy,
    };
    let mut context = Context::alone(me, fingerprint, now);
    context.debug = options.debug;
    context.sentinel_name.clone_from(&options.sentinel_name);
    context.process_id = std::process::id();
    context.run_id = u128::from(random_seed()) << 64 | u128::from(random_seed());
    context.payload_bytes_max = RECORD_BYTES_MAX - HEADER_BYTES;
    context
}
