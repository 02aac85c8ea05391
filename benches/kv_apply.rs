//! The state machine alone: applies encoded batches one after another, which measures decoding, the
//! hash table and copying the value. And snapshots of the state.

use std::time::{Duration, Instant};

use bowline::kv::{BatchBuffer, CommandId, Operation, StateMachine};
use bowline::types::{ClientId, EntryId, RequestId, RequestKey, Term};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Commands per time measurement: what a busy server applies in one pass.
const BATCH: usize = 512;
/// Batches generated in advance, so that the order of keys differs between them.
const BATCHES: u64 = 64;
const VALUE: &[u8] = &[7; 128];
/// The high 64 bits of the server's request ids: replica and incarnation.
const ORIGIN: u128 = 0x0001_0000_0000_0001;

/// A key in the format of `redis-benchmark -r`.
fn key(number: u32) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

/// A request key as the server assigns them: consecutive numbers.
fn name(sequence: u64) -> RequestKey {
    let request = RequestId((ORIGIN << 64 | u128::from(sequence)).to_be_bytes());
    RequestKey { client: ClientId(u32::try_from(sequence % 50).expect("below 50")), request }
}

struct Feeder {
    store: StateMachine,
    sequence: u64,
    random: ChaCha8Rng,
    keys: u32,
}

impl Feeder {
    /// A store with `keys` keys.
    fn new(keys: u32) -> Feeder {
        let random = ChaCha8Rng::seed_from_u64(1);
        let mut feeder =
            Feeder { store: StateMachine::default(), sequence: u64::from(keys), random, keys };
        for number in 0..keys {
            let mut batch = BatchBuffer::default();
            Feeder::put(&key(number), &mut batch);
            feeder.apply(&batch.finish(name(u64::from(number)), false));
        }
        feeder
    }

    fn put(key: &[u8], batch: &mut BatchBuffer) {
        batch.push(&Operation::set(key, VALUE).encode());
    }

    /// A command by its name.
    fn call(name: &str, args: &[&[u8]], batch: &mut BatchBuffer) {
        let command = CommandId::named(name).expect("the store has it");
        batch.push(&Operation::call(command, args).encode());
    }

    /// A batch of `count` commands on random keys, as the leader's clients make it.
    fn batch(&mut self, make: Make, count: usize) -> Bytes {
        let mut batch = BatchBuffer::default();
        for _ in 0..count {
            let number = self.random.random_range(0..self.keys);
            make(self, &key(number), &mut batch);
        }
        self.sequence += 1;
        batch.finish(name(self.sequence), false)
    }

    fn apply(&mut self, payload: &[u8]) {
        self.store.apply_batch(payload);
    }

    /// The time to apply `rounds` times [`BATCH`] commands in batches of `size`, excluding their
    /// generation.
    fn time(&mut self, rounds: u64, make: Make, size: usize) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = rounds;
        while left > 0 {
            let some = left.min(BATCHES);
            let batches: Vec<Vec<Bytes>> = (0..some)
                .map(|_| (0..BATCH / size).map(|_| self.batch(make, size)).collect())
                .collect();
            let start = Instant::now();
            for batch in batches.iter().flatten() {
                self.apply(batch);
            }
            spent += start.elapsed();
            left -= some;
        }
        spent
    }
}

/// Adds a command on a key to a batch.
type Make = fn(&mut Feeder, &[u8], &mut BatchBuffer);

/// Adds a put of a key to a batch.
fn put(_: &mut Feeder, key: &[u8], batch: &mut BatchBuffer) {
    Feeder::put(key, batch);
}

/// Puts of random keys, by number of keys: in batches, and each in a batch of its own.
fn puts(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv_apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    let cases = [("put", BATCH), ("one_by_one", 1)];
    for keys in [1_000, 100_000, 1_000_000] {
        let mut feeder = Feeder::new(keys);
        for (name, size) in cases {
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                b.iter_custom(|rounds| feeder.time(rounds, put, size));
            });
        }
    }
    group.finish();
}

/// A view of the store, by number of keys: the time to create it, and the time of a batch of puts
/// right after it, which must copy the tables shared with the view.
fn views(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv_view");
    for keys in [1_000, 1_000_000] {
        let mut feeder = Feeder::new(keys);
        let last = |store: &StateMachine| EntryId { term: Term(1), index: store.applied_index() };
        for (name, times_view) in [("make", true), ("batch_after", false)] {
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                b.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds {
                        // Makes all tables exclusive to the store again.
                        let batches = (0..BATCHES).map(|_| feeder.batch(put, BATCH));
                        for batch in batches.collect::<Vec<_>>() {
                            feeder.apply(&batch);
                        }
                        let batch = feeder.batch(put, BATCH);
                        let start = Instant::now();
                        let last = last(&feeder.store);
                        let view = feeder.store.view(last);
                        let made = start.elapsed();
                        let start = Instant::now();
                        feeder.apply(&batch);
                        spent += if times_view { made } else { start.elapsed() };
                        drop(view);
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

/// Commands on hashes, lists, sets and sorted sets: many small ones, and a single large one.
fn collections(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv_apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    let cases: [(&str, Make); 6] = [
        ("hset", |_, key, batch| Feeder::call("hset", &[key, b"field", VALUE], batch)),
        ("hset_one_hash", |_, key, batch| Feeder::call("hset", &[b"one", key, VALUE], batch)),
        ("lpush_lpop", |_, key, batch| {
            if batch.len().is_multiple_of(2) {
                Feeder::call("lpush", &[key, VALUE], batch);
            } else {
                Feeder::call("lpop", &[key], batch);
            }
        }),
        ("lpush_one_list", |_, _, batch| Feeder::call("lpush", &[b"one", VALUE], batch)),
        ("sadd_one_set", |_, key, batch| Feeder::call("sadd", &[b"one", key], batch)),
        ("zadd_one_set", |feeder, key, batch| {
            let score: u32 = feeder.random.random();
            Feeder::call("zadd", &[b"one", score.to_string().as_bytes(), key], batch);
        }),
    ];
    for keys in [1_000, 100_000] {
        for (name, make) in cases {
            let mut feeder = Feeder::new(0);
            feeder.keys = keys;
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                b.iter_custom(|rounds| feeder.time(rounds, make, BATCH));
            });
        }
    }
    group.finish();
}

/// Short runs: the figures are for spotting large differences.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = quick();
    targets = puts, views, collections
}
criterion_main!(benches);
