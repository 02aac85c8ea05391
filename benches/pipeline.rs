//! The complete path of a put: three servers in this process with one thread per stage, real
//! sockets between them and to one client, and real files. Then prints the number of allocations
//! per put and thread; `perf/results/hot-path.md` explains them.
#![allow(unsafe_code, reason = "an allocator that counts can't be had without it")]
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use bowline::config::Config;
use bowline::runtime::{Bootstrap, PeerTransport, ServerOptions, Threads, Timeouts, run_server};
use bowline::types::NodeId;
use criterion::{BenchmarkId, Criterion, Throughput};

const REPLICAS: u16 = 3;
const VALUE: &[u8] = &[b'v'; 128];
/// Warm-up batches, which grow the buffers, and counted batches.
const WARM_UP: usize = 300;
const COUNTED: usize = 1_000;
/// Maximum number of threads with a counter of their own.
const SLOTS: usize = 64;

/// Allocations of each thread, and its thread id.
static ALLOCATIONS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static THREADS: [AtomicI32; SLOTS] = [const { AtomicI32::new(0) }; SLOTS];
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system allocator with a counter per thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // An error means that the thread is exiting.
    let _ = SLOT.try_with(|slot| {
        if slot.get() == usize::MAX {
            let next = NEXT_SLOT.fetch_add(1, Ordering::Relaxed).min(SLOTS - 1);
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            THREADS[next].store(id, Ordering::Relaxed);
            slot.set(next);
        }
        ALLOCATIONS[slot.get()].fetch_add(1, Ordering::Relaxed);
    });
}

// SAFETY: delegates to the system allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: upheld by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: upheld by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: upheld by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// A cluster in this process, and a connection to its leader.
struct Cluster {
    /// Slots of each replica's threads, starting with replica 1.
    slots: Vec<std::ops::Range<usize>>,
    leader: usize,
    connection: TcpStream,
    sent: u64,
    requests: Vec<u8>,
    replies: Vec<u8>,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound")
}

impl Cluster {
    fn start(folder: &Path) -> Cluster {
        let listen: Vec<SocketAddr> = (0..REPLICAS).map(|_| free_address()).collect();
        let peers: Vec<(NodeId, SocketAddr)> =
            (1..=REPLICAS).map(|id| (NodeId(id), free_address())).collect();
        let mut slots = Vec::new();
        for ((id, peer_listen), listen) in peers.iter().zip(&listen) {
            let options = ServerOptions {
                changes_history_bytes: 16 << 20,
                http_listen: None,
                sentinel_listen: None,
                sentinel_name: "mymaster".to_owned(),
                debug: false,
                id: *id,
                listen: *listen,
                tls: None,
                peer_tls: None,
                peer_listen: *peer_listen,
                peers: peers
                    .iter()
                    .filter(|(peer, _)| peer != id)
                    .map(|(peer, address)| (*peer, address.to_string()))
                    .collect(),
                announce_peer: None,
                peer_transport: PeerTransport::Tcp,
                announce: None,
                folder: folder.join(id.0.to_string()),
                cluster: Some(1),
                bootstrap: Some(Bootstrap::New),
                config: Config::server(),
                threads: Threads::Dedicated,
                password: None,
                is_protected: true,
                clients_max: 100,
                clients_bytes_max: 1 << 30,
                memory_max: 0,
                idle_seconds_max: 0,
                snapshot_log_bytes: 1 << 40,
                snapshot_log_percentage: 100,
                digest_check: Duration::from_mins(1),
                disk_reserve: 0,
                timeouts: Timeouts::default(),
            };
            let first = NEXT_SLOT.load(Ordering::Relaxed);
            thread::spawn(move || {
                let ended =
                    run_server(&options, &Arc::default(), &Arc::default(), &Arc::default(), || {});
                eprintln!("a replica ended: {ended:?}");
                exit(1);
            });
            while TcpStream::connect(listen).is_err() || threads_in(first) < 4 {
                thread::sleep(Duration::from_millis(20));
            }
            slots.push(first..NEXT_SLOT.load(Ordering::Relaxed));
        }
        let (leader, connection) = loop {
            let leads = |address: &SocketAddr| {
                let mut connection = TcpStream::connect(address).ok()?;
                connection.write_all(b"INFO replication\r\n").ok()?;
                let mut reply = [0; 1 << 14];
                let length = connection.read(&mut reply).ok()?;
                let text = String::from_utf8_lossy(&reply[..length]);
                text.contains("role:master").then_some(connection)
            };
            let found = listen.iter().enumerate().find_map(|(at, there)| Some((at, leads(there)?)));
            match found {
                Some(found) => break found,
                None => thread::sleep(Duration::from_millis(50)),
            }
        };
        connection.set_nodelay(true).expect("the system can");
        let (requests, replies) = (Vec::new(), vec![0; 1 << 16]);
        Cluster { slots, leader, connection, sent: 0, requests, replies }
    }

    /// Sends `batch` puts with one write, and waits for all replies.
    fn put(&mut self, batch: usize) {
        self.requests.clear();
        for _ in 0..batch {
            self.sent += 1;
            let key = self.sent.wrapping_mul(0x9E37_79B9) % 100_000;
            write!(self.requests, "*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n$128\r\n")
                .expect("writing to a vector cannot fail");
            self.requests.extend_from_slice(VALUE);
            self.requests.extend_from_slice(b"\r\n");
        }
        self.connection.write_all(&self.requests).expect("the server runs");
        let mut left = batch * b"+OK\r\n".len();
        while left > 0 {
            let count = self.connection.read(&mut self.replies).expect("the server runs");
            assert!(
                count > 0 && self.replies[0..count].iter().all(|byte| b"+OK\r\n".contains(byte))
            );
            left -= count;
        }
    }
}

/// Number of threads that were given a slot at or after `first`.
fn threads_in(first: usize) -> usize {
    NEXT_SLOT.load(Ordering::Relaxed) - first
}

fn puts(c: &mut Criterion, cluster: &mut Cluster) {
    let mut group = c.benchmark_group("pipeline");
    for batch in [1, 16, 256] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("put", batch), |b| b.iter(|| cluster.put(batch)));
    }
    group.finish();
}

/// Prints the number of allocations per put, by batch size, replica and thread.
fn count_allocations(cluster: &mut Cluster) {
    println!(
        "\nallocations per put, by batch, replica and thread; replica {} is the leader",
        cluster.leader + 1
    );
    for batch in [1, 16, 64, 256] {
        for _ in 0..WARM_UP {
            cluster.put(batch);
        }
        let before: Vec<u64> =
            ALLOCATIONS.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        for _ in 0..COUNTED {
            cluster.put(batch);
        }
        for (at, slots) in cluster.slots.iter().enumerate() {
            for slot in slots.clone() {
                let allocations = ALLOCATIONS[slot].load(Ordering::Relaxed) - before[slot];
                let id = THREADS[slot].load(Ordering::Relaxed);
                let name = fs::read_to_string(format!("/proc/self/task/{id}/comm"));
                if let Ok(name) = name
                    && allocations > 0
                {
                    let per_put = allocations as f64 / (COUNTED * batch) as f64;
                    println!("{batch:>6} {:>6} {:<12} {per_put:.3}", at + 1, name.trim());
                }
            }
        }
    }
}

fn main() {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir_in(parent).expect("the target folder is writable");
    let mut cluster = Cluster::start(folder.path());
    // Short runs: with one connection, the time is mostly the disk's.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    puts(&mut criterion, &mut cluster);
    criterion.final_summary();
    if !std::env::args().any(|argument| argument == "--test") {
        count_allocations(&mut cluster);
    }
    drop(folder);
    // Ends the servers' threads.
    exit(0);
}
