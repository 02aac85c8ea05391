//! The state machine alone: applies encoded commands one after the other, which measures decoding,
//! deduplication, the hash table and copying the value. And snapshots of the state.

use std::time::{Duration, Instant};

use bowline::kv::{Command, CommandId, Operation, PREFETCH_MAX, StateMachine};
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
        let mut feeder = Feeder { store: StateMachine::default(), sequence: 0, random, keys };
        for number in 0..keys {
            let key = key(number);
            let payload = feeder.put(&key);
            feeder.apply(&payload);
        }
        feeder
    }

    fn put(&mut self, key: &[u8]) -> Bytes {
        self.command(Operation::set(key, VALUE))
    }

    /// A command by its verb.
    fn call(&mut self, verb: &str, words: &[&[u8]]) -> Bytes {
        let command = CommandId::named(verb).expect("the store has it");
        self.command(Operation::call(command, words))
    }

    fn command(&mut self, operation: Operation<'_>) -> Bytes {
        self.sequence += 1;
        Command { key: name(self.sequence), operation }.encode()
    }

    /// A batch of commands on random keys.
    fn batch(&mut self, make: Make) -> Vec<Bytes> {
        let keys: Vec<u32> = (0..BATCH).map(|_| self.random.random_range(0..self.keys)).collect();
        keys.into_iter().map(|number| make(self, &key(number))).collect()
    }

    fn apply(&mut self, payload: &[u8]) {
        self.store.apply(self.store.applied_index().next(), payload);
    }

    /// Applies a chunk as the applier does: decodes all its commands and prefetches their memory
    /// before applying the first.
    fn apply_chunk(&mut self, payloads: &[Bytes]) {
        let mut commands = [None; PREFETCH_MAX];
        for (command, payload) in commands.iter_mut().zip(payloads) {
            *command = Command::decode(payload).ok();
        }
        self.store.prefetch(&commands);
        for command in commands.iter().take(payloads.len()) {
            self.store.apply_decoded(self.store.applied_index().next(), command.as_ref());
        }
    }

    fn apply_in_chunks(&mut self, payloads: &[Bytes]) {
        payloads.chunks(PREFETCH_MAX).for_each(|chunk| self.apply_chunk(chunk));
    }

    /// The time to apply `rounds` batches, excluding their generation.
    fn time(&mut self, rounds: u64, make: Make, apply: Apply) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = rounds;
        while left > 0 {
            let some = left.min(BATCHES);
            let batches: Vec<_> = (0..some).map(|_| self.batch(make)).collect();
            let start = Instant::now();
            for batch in &batches {
                apply(self, batch);
            }
            spent += start.elapsed();
            left -= some;
        }
        spent
    }
}

/// Generates a command on a key.
type Make = fn(&mut Feeder, &[u8]) -> Bytes;

/// Applies a batch.
type Apply = fn(&mut Feeder, &[Bytes]);

/// Puts of random keys, by number of keys: in chunks as the applier does, and one by one.
fn puts(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv_apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    let cases: [(&str, Apply); 2] = [
        ("put", |feeder, batch| feeder.apply_in_chunks(batch)),
        ("one_by_one", |feeder, batch| {
            for payload in batch {
                feeder.apply(payload);
            }
        }),
    ];
    for keys in [1_000, 100_000, 1_000_000] {
        let mut feeder = Feeder::new(keys);
        for (name, apply) in cases {
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                b.iter_custom(|rounds| feeder.time(rounds, Feeder::put, apply));
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
                        for batch in
                            (0..BATCHES).map(|_| feeder.batch(Feeder::put)).collect::<Vec<_>>()
                        {
                            feeder.apply_in_chunks(&batch);
                        }
                        let batch = feeder.batch(Feeder::put);
                        let start = Instant::now();
                        let last = last(&feeder.store);
                        let view = feeder.store.view(last);
                        let made = start.elapsed();
                        let start = Instant::now();
                        feeder.apply_in_chunks(&batch);
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
        ("hset", |feeder, key| feeder.call("hset", &[key, b"field", VALUE])),
        ("hset_one_hash", |feeder, key| feeder.call("hset", &[b"one", key, VALUE])),
        ("lpush_lpop", |feeder, key| {
            if feeder.sequence.is_multiple_of(2) {
                feeder.call("lpush", &[key, VALUE])
            } else {
                feeder.call("lpop", &[key])
            }
        }),
        ("lpush_one_list", |feeder, _| feeder.call("lpush", &[b"one", VALUE])),
        ("sadd_one_set", |feeder, key| feeder.call("sadd", &[b"one", key])),
        ("zadd_one_set", |feeder, key| {
            let score: u32 = feeder.random.random();
            feeder.call("zadd", &[b"one", score.to_string().as_bytes(), key])
        }),
    ];
    for keys in [1_000, 100_000] {
        for (name, make) in cases {
            let mut feeder = Feeder::new(0);
            feeder.keys = keys;
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                b.iter_custom(|rounds| feeder.time(rounds, make, Feeder::apply_in_chunks));
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
