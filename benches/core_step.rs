//! The consensus core alone: 3 and 5 replicas in one thread, with immediate message delivery and
//! disks and state machines that take no time. What remains is the cost of consensus.

use std::collections::VecDeque;
use std::time::Duration;

use bowline::config::Config;
use bowline::raft::{
    ClientRequest, Durable, Effects, Envelope, Msg, Persisted, Replica, RequestKind, RoleName,
};
use bowline::types::{ClientId, Instant, NodeId, RequestId, RequestKey};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Payload of a put of the course: key and value of 32 bytes.
const PAYLOAD: &[u8] = &[7; 109];

/// All replicas, and the messages between them.
struct Cluster {
    replicas: Vec<Replica>,
    waiting: Vec<VecDeque<Msg>>,
    effects: Effects,
    now: Instant,
    requests: u128,
    messages: u64,
    applied: u64,
    read: u128,
}

impl Cluster {
    /// A cluster with a leader.
    fn new(replicas: u16, config: &Config) -> Cluster {
        let ids: Vec<NodeId> = (0..replicas).map(NodeId).collect();
        let replica = |id: &NodeId| {
            let peers: Vec<NodeId> = ids.iter().copied().filter(|peer| peer != id).collect();
            let (seed, durable) = (u64::from(id.0), Durable::default());
            Replica::new(*id, &peers, config.clone(), seed, durable, Instant::ZERO)
        };
        let mut cluster = Cluster {
            replicas: ids.iter().map(replica).collect(),
            waiting: ids.iter().map(|_| VecDeque::new()).collect(),
            effects: Effects::default(),
            now: Instant::ZERO,
            requests: 0,
            messages: 0,
            applied: 0,
            read: 0,
        };
        while cluster.leader().is_none() || cluster.applied == 0 {
            cluster.now = cluster.now + Duration::from_millis(1);
            cluster.settle();
        }
        cluster
    }

    fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.status().role == RoleName::Leader)
    }

    /// Submits `count` requests to a replica at once, as a busy network stage does.
    fn submit(&mut self, place: usize, count: usize, kind: RequestKind) {
        for _ in 0..count {
            self.requests += 1;
            let request = RequestId(self.requests.to_le_bytes());
            let key = RequestKey { client: ClientId(1), request };
            let payload = Bytes::from_static(PAYLOAD);
            self.waiting[place].push_back(Msg::Client(ClientRequest { key, kind, payload }));
        }
    }

    /// Runs until no replica has messages to send.
    fn settle(&mut self) {
        loop {
            let before = self.messages;
            (0..self.replicas.len()).for_each(|place| self.step(place));
            if self.messages == before && self.waiting.iter().all(VecDeque::is_empty) {
                return;
            }
        }
    }

    /// One iteration of a replica's driver.
    fn step(&mut self, place: usize) {
        let replica = &mut self.replicas[place];
        let due = self.now >= replica.next_timeout();
        if !due && self.waiting[place].is_empty() {
            return;
        }
        for message in self.waiting[place].drain(..) {
            self.messages += 1;
            replica.handle_msg(self.now, message, &mut self.effects);
        }
        if due {
            replica.handle_timeout(self.now, &mut self.effects);
        }
        replica.flush(self.now, &mut self.effects);
        if let Some(job) = self.effects.append.take() {
            let last = job.entries.last().map(bowline::record::Entry::id);
            let persisted = Persisted { sequence: job.sequence, last };
            self.waiting[place].push_back(Msg::Persisted(persisted));
            deliver(&mut self.waiting, job.release);
        }
        deliver(&mut self.waiting, self.effects.send.drain(..));
        self.read += self.effects.apply.reads.drain(..).count() as u128;
        if let Some(last) = self.effects.apply.entries.last() {
            let index = last.entry.index();
            self.applied += self.effects.apply.entries.len() as u64;
            self.effects.apply.entries.clear();
            self.waiting[place].push_back(Msg::Applied { index });
        }
        assert!(self.effects.refusals.is_empty(), "{:?}", self.effects.refusals);
    }
}

fn deliver(waiting: &mut [VecDeque<Msg>], envelopes: impl IntoIterator<Item = Envelope>) {
    for envelope in envelopes {
        waiting[usize::from(envelope.to.0)].push_back(Msg::Peer(envelope));
    }
}

fn configs() -> [(&'static str, u16, Config); 3] {
    [
        ("all_3", 3, Config::server()),
        ("all_5", 5, Config::server()),
        ("thrifty_5", 5, Config::course()),
    ]
}

/// Proposals per second, by batch size: from submission until every replica that hears of the
/// commit within the run has applied them.
fn proposals(c: &mut Criterion) {
    let mut group = c.benchmark_group("proposals");
    for (name, replicas, config) in configs() {
        for batch in [1, 25, 400] {
            let mut cluster = Cluster::new(replicas, &config);
            let leader = cluster.leader().expect("elected");
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::new(name, batch), |b| {
                b.iter(|| {
                    let batch = usize::try_from(batch).expect("small");
                    // Time advances, so that heartbeats and timeouts are included.
                    cluster.now = cluster.now + Duration::from_micros(50);
                    cluster.submit(leader, batch, RequestKind::Write);
                    cluster.settle();
                });
            });
            assert_eq!(cluster.leader(), Some(leader), "leadership changed during the benchmark");
        }
    }
    group.finish();
}

/// Messages per second that a core handles, including the completions of its own disk and state
/// machine: the same runs as single proposals, counted differently.
fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("messages");
    for (name, replicas, config) in configs() {
        let mut cluster = Cluster::new(replicas, &config);
        let leader = cluster.leader().expect("elected");
        let before = cluster.messages;
        for _ in 0..100 {
            cluster.submit(leader, 1, RequestKind::Write);
            cluster.settle();
        }
        let per_hundred = cluster.messages - before;
        group.throughput(Throughput::Elements(per_hundred));
        group.bench_function(name, |b| {
            b.iter(|| {
                for _ in 0..100 {
                    cluster.submit(leader, 1, RequestKind::Write);
                    cluster.settle();
                }
            });
        });
    }
    group.finish();
}

/// Linearizable reads per second, 25 at once: with a confirmation round, and on the lease.
fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("reads");
    for (name, lease_reads) in [("read_index", false), ("lease", true)] {
        let config = Config { lease_reads, ..Config::server() };
        let mut cluster = Cluster::new(3, &config);
        let leader = cluster.leader().expect("elected");
        group.throughput(Throughput::Elements(25));
        group.bench_function(name, |b| {
            b.iter(|| {
                cluster.now = cluster.now + Duration::from_micros(50);
                cluster.submit(leader, 25, RequestKind::Read);
                cluster.settle();
            });
        });
        assert_eq!(cluster.read, cluster.requests, "a read did not complete");
    }
    group.finish();
}

/// Short runs: the figures are for spotting large differences. The log is never truncated here, and
/// short runs keep it small.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = quick();
    targets = proposals, messages, reads
}
criterion_main!(benches);
