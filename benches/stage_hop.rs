//! One hop between two stages: sending a batch over a bounded channel to another thread. This is
//! the additional cost of `--threads dedicated` over `fused`.
//!
//! Round trips of two hops:
//! - `parked`: the other thread has been idle and sleeps in its receive.
//! - `awake`: the next batch arrives while crossbeam's receive still spins before it sleeps.
//! - `polling`: the other thread never sleeps.
//! - `one_thread`: no other thread; the cost of the channels alone.
//!
//! One-way transfer without waiting for a reply:
//! - `stream`: a busy stage that sends one batch after another.

use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

/// Capacity of the channels between the stages.
const CHANNEL_LEN: usize = 64;
/// Batches in one measurement of `stream`.
const STREAM_LEN: u64 = 1_000;

/// A thread that was idle for this long is asleep.
const UNTIL_PARKED: Duration = Duration::from_micros(200);

/// A batch, about as large as a small batch of messages.
type Batch = Vec<Bytes>;

/// How a thread waits for the next batch; `None` once the channel is closed.
type Receive = fn(&Receiver<Batch>) -> Option<Batch>;

fn batch() -> Batch {
    vec![Bytes::from_static(b"payload"); 4]
}

/// Sends every batch back until the channel closes.
fn echo(
    inbox: &Receiver<Batch>,
    outbox: &Sender<Batch>,
    receive: fn(&Receiver<Batch>) -> Option<Batch>,
) {
    while let Some(batch) = receive(inbox) {
        if outbox.send(batch).is_err() {
            return;
        }
    }
}

fn parked(inbox: &Receiver<Batch>) -> Option<Batch> {
    inbox.recv().ok()
}

fn polling(inbox: &Receiver<Batch>) -> Option<Batch> {
    loop {
        match inbox.try_recv() {
            Ok(batch) => return Some(batch),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
}

fn there_and_back(c: &mut Criterion) {
    let mut group = c.benchmark_group("there_and_back");
    let cases: [(&str, Receive, Option<Duration>); 3] = [
        ("parked", parked, Some(UNTIL_PARKED)),
        ("awake", parked, None),
        ("polling", polling, None),
    ];
    for (name, receive, pause) in cases {
        let (to_other, inbox) = bounded(CHANNEL_LEN);
        let (outbox, from_other) = bounded(CHANNEL_LEN);
        let other = thread::spawn(move || echo(&inbox, &outbox, receive));
        let mut carried = Some(batch());
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    pause.into_iter().for_each(thread::sleep);
                    let start = Instant::now();
                    to_other
                        .send(carried.take().expect("the batch came back"))
                        .expect("the other thread runs");
                    carried = receive(&from_other);
                    total += start.elapsed();
                }
                total
            });
        });
        drop(to_other);
        other.join().expect("the echo ends with its channel");
    }
    // Without a hop: the batch goes through both channels on one thread.
    let (sender, receiver) = bounded(CHANNEL_LEN);
    let mut carried = Some(batch());
    group.bench_function("one_thread", |b| {
        b.iter(|| {
            for _ in 0..2 {
                sender
                    .send(carried.take().expect("the batch came back"))
                    .expect("we hold both ends");
                carried = receiver.try_recv().ok();
            }
        });
    });
    group.finish();
}

fn stream(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Elements(STREAM_LEN));
    group.bench_function("batches", |b| {
        b.iter_custom(|rounds| {
            let (sender, receiver) = bounded::<Batch>(CHANNEL_LEN);
            let sink =
                thread::spawn(move || receiver.iter().map(|batch| batch.len()).sum::<usize>());
            let start = Instant::now();
            for _ in 0..rounds * STREAM_LEN {
                sender.send(batch()).expect("the sink runs");
            }
            drop(sender);
            sink.join().expect("the sink ends with its channel");
            start.elapsed()
        });
    });
    group.finish();
}

/// Short runs: the cases differ tenfold.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = quick();
    targets = there_and_back, stream
}
criterion_main!(benches);
