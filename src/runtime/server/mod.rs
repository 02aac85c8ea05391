//! The server: Redis clients, peers, a log on disk, and the stages that connect them.
//!
//! | folder or file | contents |
//! |---|---|
//! | `network` | the network stage: `Poll`, and the way of each request and reply |
//! | `clients` | connections of clients, their requests and replies |
//! | `peers` | connections to and from peers |
//! | `read_index`, `freshness` | reads on a replica that is not the leader |
//! | `request_id` | ids of batches and of requests for a read index |
//! | `certificates` | the certificates in use, and reading them again |
//! | `refusal_log` | limits log lines about refused connections |
//! | `listeners` | the listening sockets |
//! | `sockets` | non-blocking sockets, their queues, the limit on open files |
//! | `http` | metrics and probes over HTTP, on a thread of their own |
//! | `options`, `folder`, `retry` | options, the replica's folder, waiting for an earlier process |
//! | `restore` | folders of a new cluster from a backup |
//! | `stop_handle` | asks a running server to stop |
//!
//! Only the replica that holds a client's connection replies to the client, and it does so from its
//! own state: to a write once the state has applied the write, to a read once the state has applied
//! everything that the leader knew to be committed when the read arrived. Replicas forward batches
//! of writes to the leader; the leader sends back only refusals.
mod certificates;
mod clients;
mod folder;
mod freshness;
mod http;
mod listeners;
mod network;
mod options;
mod peers;
mod read_index;
mod refusal_log;
mod request_id;
mod restore;
mod retry;
mod sockets;
mod stop_handle;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::{Poll, Waker};

use crate::config::Config;
use crate::feature_level::FeatureLevel;
use crate::kv::StateMachine;
use crate::membership::Configuration;
use crate::raft::{DiskState, Durable, Loss, Replica};
use crate::record::{Entry, HEADER_BYTES, RECORD_BYTES_MAX};
use crate::redis::{Context, ProgramInfo, RejoinProgress, ReplicaInfo, Settings};
use crate::runtime::boards::{
    ApplierBoard, ClockBoard, DiskSpaceBoard, MemoryBoard, RuntimeCounters, SnapshotBoard,
    SnapshotGrowth, StatusBoard,
};
use crate::runtime::channels::{self, Members};
use crate::runtime::clock::Clock;
use crate::runtime::error::{RunError, system_error};
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::process_usage::system_info;
use crate::runtime::stages::applier::{
    Applier, ORIGIN_BYTES, ReplyPolicy, StateCheck, applied_clock,
};
use crate::runtime::stages::background_delete::BackgroundDelete;
use crate::runtime::stages::core::replicated_clock::CoreClock;
use crate::runtime::stages::core::{Core, NonLeaderPolicy};
use crate::runtime::stages::disk_log::DiskLog;
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::snapshot_scheduler::SnapshotScheduler;
use crate::runtime::stages::snapshots::SnapshotIo;
use crate::runtime::stages::threads::run;
use crate::runtime::stages::{Stages, random_seed};
use crate::runtime::trace_board::TraceBoard;
use crate::runtime::wake::Wake;
use crate::storage::{
    Log, PeerRecords, RealDisk, Recovered, cluster_fingerprint, failpoint, mark_state_wrong,
    replicas,
};
use crate::tls::ClientCertificates;
use crate::types::{EntryId, Index, Instant, NodeId};
use crate::wire::frame::{Hello, Lane};
use crate::wire::protocol;
use crate::wire::resp::Limits;

use self::clients::Clients;
use self::folder::OpenedFolder;
use self::http::{HttpServer, TimeLimits};
use self::listeners::{Endpoints, listen};
use self::network::{CLIENTS_FROM, INCOMING_FROM, OUTGOING_FROM, Parts, ServerNetwork, WAKER};
use self::peers::incoming::IncomingPeers;
use self::peers::outgoing::{OutgoingPeers, versions_at};
use self::request_id::origin_of;
use self::sockets::descriptors;

pub use self::certificates::ReloadHandle;
pub use self::clients::Timeouts;
pub use self::folder::{FolderReport, FolderState, bootstrap, check, inspect};
pub use self::http::{MetricInfo, metrics};
pub use self::options::{Bootstrap, ClientTls, Password, PeerTls, ServerOptions};
pub use self::peers::PeerTransport;
pub use self::restore::{
    LoadedBackup, RestoreError, Survivor, check_backup, check_empty, load_backup, restore,
};
pub use self::stop_handle::StopHandle;

/// Divisor of the size of the kernel's socket buffer: the quotient is the maximum window of one
/// datagram stream. Several streams share the buffer, and the kernel counts more bytes than the
/// payload.
const BUFFER_SHARES: usize = 4;

/// Runs a server until it is asked to stop through `stop`, or until polling its sockets fails. To
/// end the process at any other time is safe, too, because everything that the server has
/// acknowledged is already on disk. `reload` makes the server read its certificates again.
/// `on_serving` is called once, when the state is loaded and clients are served.
///
/// # Errors
/// If the server cannot start: an address is in use, the folder is damaged or belongs to another
/// replica, the configuration or a certificate is invalid, or a peer is on another machine although
/// there are no certificates for peers. [`RunError::WrongState`] if the
/// server has stopped because its state is wrong; it can then be started again.
pub fn run_server(
    options: &ServerOptions,
    counters: &Arc<RuntimeCounters>,
    stop: &Arc<StopHandle>,
    reload: &Arc<ReloadHandle>,
    on_serving: impl FnOnce(),
) -> Result<(), RunError> {
    options.config.validate()?;
    let options = &options.protected()?;
    // Bound before the folder is opened, so that a second start by mistake does not count as a
    // restart.
    let endpoints = Endpoints::open(options)?;
    let http = http_server(options)?;
    bootstrap_if_requested(options)?;
    let disk_space = Arc::new(DiskSpaceBoard::new(options.disk_reserve));
    let folder = folder::open(options, &disk_space)?;
    let OpenedFolder { recovered, peers: peer_records, snapshots, snapshot, store, marks } = folder;
    let start_id = recovered.start_ids().last().copied().expect("the list has this start");
    let last_snapshot = snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
    let clock = Clock::start();
    let (poll, wake) = poll_and_wake().map_err(system_error("cannot set up the network"))?;
    let fused = options.threads.are_fused();
    let ends = channels::channels(&wake, fused);
    let status = Arc::<StatusBoard>::default();
    let snapshot_board = Arc::<SnapshotBoard>::default();
    let clocks = Arc::<ClockBoard>::default();
    let replicated_clock = CoreClock::new(Arc::clone(&clocks), applied_clock(&store), &clock);
    let memory = Arc::new(MemoryBoard::new(options.memory_max, Arc::clone(&snapshot_board)));
    let origin = origin_of(options.id, start_id);
    let rejoining = Arc::new(AtomicBool::new(recovered.loss() == Some(Loss::Votes)));
    let (outgoing, incoming) =
        peer_connections(options, &endpoints, &recovered, peer_records, &rejoining, counters);
    let context = context(options, &recovered, (&store, last_snapshot.index), clock.now());
    let applier_board = Arc::new(ApplierBoard::default());
    let boards = (&status, &applier_board);
    let http_ends = http.as_ref().map(|http| http.attach(&wake, boards, counters, clock));
    let trace = Arc::new(TraceBoard::new(clock));
    let clients = clients(options, origin, context, &applier_board, counters)
        .with_trace(Arc::clone(&trace))
        .with_users(store.users(), options.config.is_witness);
    let mut network = ServerNetwork::new(Parts {
        poll,
        wake: Arc::clone(&wake),
        stop: Arc::clone(stop),
        ends: ends.network,
        clock,
        me: options.id,
        announced: options.announced_to_peers(),
        is_address_set: options.announce_peer.is_some(),
        start_id,
        listeners: endpoints.listeners,
        certificates: Arc::clone(&endpoints.certificates),
        datagrams: endpoints.datagrams,
        clients,
        outgoing,
        incoming,
        status: Arc::clone(&status),
        snapshots: Arc::clone(&snapshot_board),
        disk_space: Arc::clone(&disk_space),
        memory: Arc::clone(&memory),
        clocks,
        counters: Arc::clone(counters),
        http: http_ends,
    })
    .map_err(system_error("cannot set up the network"))?;
    // This is the last step that can fail, so that a failed start does not count as a start, and it
    // precedes the first byte to a peer.
    let (log, durable) = recovered.open(snapshot)?;
    log_start(options, &log, durable.entries.last(), last_snapshot);
    let (configuration, feature_level) = (store.configuration().cloned(), store.feature_level());
    let durable = Durable { configuration, feature_level, ..durable };
    let replica = replica(options, &log, durable, clock.now());
    network.on_members(Members::of(&replica));
    let state_check = state_check(log.members(), marks);
    let scheduler = scheduler(options, &snapshot_board, &memory);
    let log = DiskLog::new(log, &disk_space, scheduler.clone(), rejoining, Arc::clone(counters));
    let stages = Stages {
        network,
        core: Core::new(
            replica,
            clock,
            ends.core,
            NonLeaderPolicy::Refuse,
            status,
            Arc::clone(counters),
        )
        .with_memory(Arc::clone(&memory))
        .with_clock(replicated_clock)
        .with_trace(Arc::clone(&trace))
        .with_digest_check(options.digest_check_interval()),
        log_writer: LogWriter::new(Box::new(log), ends.log_writer, Arc::clone(counters))
            .with_trace(Arc::clone(&trace)),
        applier: Applier::new(ReplyPolicy::Origin(origin), clock, ends.applier)
            .with_store(store, last_snapshot, scheduler.clone())
            .with_history(options.changes_history_bytes)
            .with_board(Arc::clone(&applier_board))
            .with_state_check(state_check)
            .with_trace(trace),
        snapshots: Some(SnapshotIo::new(
            snapshots,
            scheduler,
            disk_space,
            ends.snapshots,
            Arc::clone(counters),
        )),
        background_delete: Some(BackgroundDelete::new(ends.deletions, memory)),
    };
    endpoints.certificates.watch(reload)?;
    stop.attach(wake);
    on_serving();
    run_until_stopped(stages, fused, stop, &applier_board)
}

/// Runs the stages until the server is asked to stop, or its state is wrong according to
/// `applier_board`.
fn run_until_stopped(
    stages: Stages<ServerNetwork>,
    fused: bool,
    stop: &StopHandle,
    applier_board: &ApplierBoard,
) -> Result<(), RunError> {
    let end = run(stages, fused);
    stop.detach();
    if applier_board.state_is_wrong() {
        return Err(RunError::WrongState);
    }
    end.map_err(system_error("cannot wait for events of the network"))
}

/// Creates the table of clients, without connections. `origin` is the beginning of the ids of all
/// batches of their requests.
fn clients(
    options: &ServerOptions,
    origin: [u8; ORIGIN_BYTES],
    context: Context,
    board: &Arc<ApplierBoard>,
    counters: &Arc<RuntimeCounters>,
) -> Clients {
    Clients::new(
        origin,
        CLIENTS_FROM,
        options.timeouts,
        context,
        settings(options),
        Arc::clone(board),
        Arc::clone(counters),
    )
    .with_other_descriptors(other_descriptors(options))
}

/// Creates the replica with the state on its disk.
fn replica(
    options: &ServerOptions,
    log: &Log<RealDisk>,
    durable: Durable,
    now: Instant,
) -> Replica {
    let bootstrap = Configuration::of_voters(log.members().iter().copied());
    let config = Config { feature_level: FeatureLevel::NEWEST, ..options.config.clone() };
    Replica::with_bootstrap(options.id, bootstrap, config, random_seed(), durable, now)
}

/// Creates the applier's part of the comparison of the replicas' states, in the cluster that was
/// created with `first_members`. `marks` is the disk of the folder.
fn state_check(first_members: &[NodeId], mut marks: RealDisk) -> StateCheck {
    let mark = move || {
        mark_state_wrong(&mut marks).unwrap_or_else(|error| exit_on_disk_failure(&error));
        failpoint::reach("wrong-state", "marked");
    };
    StateCheck::new(Configuration::of_voters(first_members.iter().copied()), Box::new(mark))
}

/// Starts the thread for metrics and probes, if there is an address for it.
fn http_server(options: &ServerOptions) -> Result<Option<HttpServer>, RunError> {
    let Some(address) = options.http_listen else { return Ok(None) };
    let listener = listen("metrics and probes over HTTP", address)?;
    let server = HttpServer::start(listener, TimeLimits::default());
    server.map(Some).map_err(system_error("cannot start the thread for metrics and probes"))
}

fn bootstrap_if_requested(options: &ServerOptions) -> Result<(), RunError> {
    let Some(how) = options.bootstrap else { return Ok(()) };
    let cluster = options.cluster.expect("a bootstrap has the id of the cluster");
    bootstrap(&options.folder, cluster, options.id, &options.members(), how)
}

/// Creates the `Poll` of the network stage, and the waker with which other stages wake it.
fn poll_and_wake() -> io::Result<(Poll, Arc<Wake>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    Ok((poll, Arc::new(Wake::new(waker))))
}

/// Creates the tables of outgoing connections to peers and incoming connections from peers, without
/// opening connections.
fn peer_connections(
    options: &ServerOptions,
    endpoints: &Endpoints,
    recovered: &Recovered<RealDisk>,
    records: PeerRecords<RealDisk>,
    rejoining: &Arc<AtomicBool>,
    counters: &Arc<RuntimeCounters>,
) -> (OutgoingPeers, IncomingPeers) {
    let Endpoints { datagrams, certificates, .. } = endpoints;
    let outgoing = OutgoingPeers::new(
        hello(recovered, options),
        Arc::clone(rejoining),
        &options.peers,
        options.peer_transport,
        datagrams.send_buffer_bytes() / BUFFER_SHARES,
        OUTGOING_FROM,
        Arc::clone(counters),
    )
    .with_certificates(Arc::clone(certificates))
    .on_loopback_only(options.peers_are_on_loopback());
    let mut incoming = IncomingPeers::new(
        recovered.identity(),
        recovered.members().to_vec(),
        records,
        INCOMING_FROM,
        secret(),
        datagrams.receive_buffer_bytes() / BUFFER_SHARES,
        Arc::clone(counters),
    )
    .with_certificates(Arc::clone(certificates));
    incoming.set_feature_level(recovered.feature_level());
    (outgoing, incoming)
}

/// Returns a random secret, from which this replica computes the cookies that peers need to open
/// datagram streams.
fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    for part in secret.chunks_mut(8) {
        part.copy_from_slice(&random_seed().to_le_bytes());
    }
    secret
}

/// Returns the hello (first frame) with which this replica begins its connections to peers. The
/// recipient and the lane (urgent or bulk) are filled in for each connection.
fn hello(recovered: &Recovered<RealDisk>, options: &ServerOptions) -> Hello {
    let identity = recovered.identity();
    Hello {
        cluster: identity.cluster,
        from: identity.replica,
        to: identity.replica,
        incarnation: identity.incarnation,
        connection: protocol::SPEAKS_V10,
        start_ids: recovered.start_ids().to_vec(),
        members: recovered.members().to_vec(),
        rejoining: recovered.loss() == Some(Loss::Votes),
        lane: Lane::Urgent,
        client_address: options.announced(),
        peer_address: options.announced_to_peers(),
        versions: versions_at(recovered.feature_level()),
        level: FeatureLevel::NEWEST,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Logs that the replica has started, with its identity and the state of its log.
fn log_start(
    options: &ServerOptions,
    log: &Log<RealDisk>,
    last: Option<&Entry>,
    last_snapshot: EntryId,
) {
    if options.announced_to_peers().is_empty() && options.announce_peer.is_none() {
        tracing::warn!(
            peer_listen = %options.peer_listen,
            "no peer address to announce: peers reach this replica only if their --peers lists \
             it; set --announce-peer, or list this replica in its own --peers"
        );
    }
    let identity = log.identity();
    tracing::info!(
        replica = %options.id,
        cluster_fingerprint = format_args!("{:032x}", cluster_fingerprint(identity.cluster)),
        created_with = replicas(log.members()),
        incarnation = identity.incarnation,
        rejoining = log.loss().is_some(),
        last_entry = %last.map_or(last_snapshot, Entry::id),
        snapshot = %last_snapshot,
        listen = %options.plain_listen().map_or_else(|| "none".to_owned(), |it| it.to_string()),
        tls_listen = %options.tls_listen().map_or_else(|| "none".to_owned(), |it| it.to_string()),
        peer_listen = %options.peer_listen,
        peer_certificates = options.peer_tls.is_some(),
        "replica started"
    );
}

/// Returns the snapshot scheduler, with the log growth that the server's options specify.
fn scheduler(
    options: &ServerOptions,
    board: &Arc<SnapshotBoard>,
    memory: &Arc<MemoryBoard>,
) -> SnapshotScheduler {
    let bytes_min = options.snapshot_log_bytes;
    let scheduler = SnapshotScheduler::new(bytes_min, Arc::clone(board), Arc::clone(memory));
    let percentage = options.snapshot_log_percentage;
    scheduler.board().set_growth(SnapshotGrowth { percentage, bytes_min });
    scheduler
}

/// Returns the number of file descriptors that this replica needs in addition to those of every
/// replica.
fn other_descriptors(options: &ServerOptions) -> u64 {
    options.http_listen.map_or(0, |_| http::DESCRIPTORS)
}

/// Returns the initial values of the settings that `CONFIG GET` reports, taken from the server's
/// options.
fn settings(options: &ServerOptions) -> Settings {
    let folder = options.folder.display().to_string();
    let host = options.listen.ip().to_string();
    let mut settings = Settings::new(&Limits::default(), &host, options.listen.port(), &folder);
    settings.set_tls(&tls_settings(options.tls.as_ref()));
    let reserved = descriptors::reserved(options.peers.len(), other_descriptors(options));
    let clients_max = descriptors::raise_limit(options.clients_max, reserved);
    if options.debug {
        settings.accept_settings_without_effect();
    }
    settings.set_clients_allowed(descriptors::clients_allowed(reserved));
    settings.set_memory_max(options.memory_max);
    settings.set_rewrite_growth(options.snapshot_log_percentage, options.snapshot_log_bytes);
    settings.set_password(options.password.as_ref().map_or("", |password| &password.0));
    settings.set_client_limits(clients_max, options.clients_bytes_max, options.idle_seconds_max);
    settings
}

/// Returns the settings with the names that Redis gives those of TLS.
fn tls_settings(tls: Option<&ClientTls>) -> Vec<(&'static str, String)> {
    let path =
        |path: Option<&PathBuf>| path.map_or_else(String::new, |it| it.display().to_string());
    let files = tls.map(|tls| &tls.files);
    let certificates = match tls.map(|tls| tls.client_certificates) {
        None | Some(ClientCertificates::Required) => "yes",
        Some(ClientCertificates::Optional) => "optional",
        Some(ClientCertificates::Ignored) => "no",
    };
    vec![
        ("tls-port", tls.map_or(0, |tls| tls.port).to_string()),
        ("tls-cert-file", path(files.map(|files| &files.cert))),
        ("tls-key-file", path(files.map(|files| &files.key))),
        ("tls-ca-cert-file", path(files.and_then(|files| files.ca.as_ref()))),
        ("tls-auth-clients", certificates.to_owned()),
    ]
}

/// Sets the fields of the context that `INFO` reports about the state: applied index, number of
/// keys and digest.
fn set_state(context: &mut Context, store: &StateMachine, applied: Index) {
    context.note_applied(applied);
    context.databases = store.database_sizes();
    context.kept_scripts = store.kept_scripts();
    context.state_digest = store.digest();
}

/// Returns the initial context (the values that `INFO`, `ROLE` and other commands report) of this
/// replica, whose state has applied the log up to `applied`.
fn context(
    options: &ServerOptions,
    recovered: &Recovered<RealDisk>,
    (store, applied): (&StateMachine, Index),
    now: Instant,
) -> Context {
    let announced = options.announced();
    let (host, port) = announced.rsplit_once(':').unwrap_or((&announced, ""));
    let me = ReplicaInfo {
        id: options.id,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().unwrap_or_default(),
        peer_port: options.peer_listen.port(),
        connected: true,
        match_index: None,
        path: None,
        disk: DiskState::Healthy,
        program: Some(ProgramInfo::own()),
    };
    let fingerprint = cluster_fingerprint(recovered.identity().cluster);
    let mut context = Context::alone(me, fingerprint, now);
    context.rejoining = recovered.loss().map(|_| RejoinProgress::default());
    context.folder_level = recovered.feature_level().max(store.feature_level());
    context.debug = options.debug;
    context.is_witness = options.config.is_witness;
    context.system = system_info();
    context.sentinel_name.clone_from(&options.sentinel_name);
    context.process_id = std::process::id();
    context.run_id = u128::from(random_seed()) << 64 | u128::from(random_seed());
    context.payload_bytes_max = RECORD_BYTES_MAX - HEADER_BYTES;
    set_state(&mut context, store, applied);
    context
}
