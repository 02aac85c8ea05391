//! The whole way of a put: three servers in this process, each with its stages on threads of their
//! own, real sockets between them and to one client, real files. Afterwards a table of how often
//! each thread asked for memory, a put: `perf/results/hot-path.md` says where.
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
use bowline::runtime::{Bootstrap, ServerOptions, Threads, Timeouts, run_server};
use bowline::types::NodeId;
use criterion::{BenchmarkId, Criterion, Throughput};

const REPLICAS: u16 = 3;
const VALUE: &[u8] = &[b'v'; 128];
/// Batches before counting, so that buffers have grown, and batches that count.
const WARM_UP: usize = 300;
const COUNTED: usize = 1_000;
/// Most threads that are told apart.
const SLOTS: usize = 64;

/// How often each thread asked for memory, and its number with the system.
static ASKED: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static THREADS: [AtomicI32; SLOTS] = [const { AtomicI32::new(0) }; SLOTS];
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, with a count for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // An error means that the thread is ending.
    let _ = SLOT.try_with(|slot| {
        if slot.get() == usize::MAX {
            let next = NEXT_SLOT.fetch_add(1, Ordering::Relaxed).min(SLOTS - 1);
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            THREADS[next].store(id, Ordering::Relaxed);
            slot.set(next);
        }
        ASKED[slot.get()].fetch_add(1, Ordering::Relaxed);
    });
}

// SAFETY: everything is the system allocator's; counting asks for no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// A cluster in this process, and a connection to its leader.
struct Cluster {
    /// Which slots each replica's threads have, replica 1 first.
    slots: Vec<std::ops::Range<usize>>,
    leader: usize,
    connection: TcpStream,
    sent: u64,
    requests: Vec<u8>,
    replies: Vec<u8>,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ports");
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
                sentinel_listen: None,
                sentinel_name: "mymaster".to_owned(),
                debug: false,
                id: *id,
                listen: *listen,
                peer_listen: *peer_listen,
                peers: peers.iter().copied().filter(|(peer, _)| peer != id).collect(),
                announce: None,
                folder: folder.join(id.0.to_string()),
                cluster: Some(1),
                bootstrap: Some(Bootstrap::New),
                config: Config::server(),
                threads: Threads::Dedicated,
                clients_max: 100,
                clients_bytes_max: 1 << 30,
                memory_max: 0,
                idle_seconds_max: 0,
                snapshot_log_bytes: 1 << 40,
                disk_reserve: 0,
                timeouts: Timeouts::default(),
            };
            let first = NEXT_SLOT.load(Ordering::Relaxed);
            thread::spawn(move || {
                let ended = run_server(&options, &Arc::default());
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

    /// Puts so many keys with one write, and waits for all replies.
    fn put(&mut self, batch: usize) {
        self.requests.clear();
        for _ in 0..batch {
            self.sent += 1;
            let key = self.sent.wrapping_mul(0x9E37_79B9) % 100_000;
            write!(self.requests, "*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n$128\r\n")
                .expect("a vector takes all");
            self.requests.extend_from_slice(VALUE);
            self.requests.extend_from_slice(b"\r\n");
        }
        self.connection.write_all(&self.requests).expect("the server lives");
        let mut left = batch * b"+OK\r\n".len();
        while left > 0 {
            let count = self.connection.read(&mut self.replies).expect("the server lives");
            assert!(
                count > 0 && self.replies[0..count].iter().all(|byte| b"+OK\r\n".contains(byte))
            );
            left -= count;
        }
    }
}

/// How many threads have a slot from `first` on.
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

/// Prints how often each thread asks for memory, a put.
fn count_allocations(cluster: &mut Cluster) {
    println!(
        "\nallocations a put, by batch, replica and thread; replica {} leads",
        cluster.leader + 1
    );
    for batch in [1, 16, 64, 256] {
        for _ in 0..WARM_UP {
            cluster.put(batch);
        }
        let before: Vec<u64> = ASKED.iter().map(|asked| asked.load(Ordering::Relaxed)).collect();
        for _ in 0..COUNTED {
            cluster.put(batch);
        }
        for (at, slots) in cluster.slots.iter().enumerate() {
            for slot in slots.clone() {
                let asked = ASKED[slot].load(Ordering::Relaxed) - before[slot];
                let id = THREADS[slot].load(Ordering::Relaxed);
                let name = fs::read_to_string(format!("/proc/self/task/{id}/comm"));
                if let Ok(name) = name
                    && asked > 0
                {
                    let share = asked as f64 / (COUNTED * batch) as f64;
                    println!("{batch:>6} {:>6} {:<12} {share:.3}", at + 1, name.trim());
                }
            }
        }
    }
}

fn main() {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir_in(parent).expect("the build's folder is writable");
    let mut cluster = Cluster::start(folder.path());
    // Quick rather than exact: on one connection it is mostly the disk's time.
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
    // The servers' threads go on until here.
    exit(0);
}
