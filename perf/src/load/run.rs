//! Executes a run: starts the threads, merges their statistics, shows the progress, and builds the
//! record of the results.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::engine::{Clock, EndedEarly, Engine, Notice};
use super::generator::{Generator, SECOND, nanoseconds};
use super::history::Record;
use super::keys::Inserts;
use super::machine;
use super::options::Plan;
use super::progress::ProgressLine;
use super::schema::{
    Client, Config, Counts, Host, LoadRecord, Loop, Mark, SCHEMA, SCHEMA_VERSION, Second, Target,
};
use super::stats::{Stats, latencies, latency};
use super::workload::KINDS;

/// Message from a load thread to the main thread.
enum Event {
    /// The thread is ready: all of its connections are established, and its share of the keys has
    /// been written if the run has a preload.
    Ready,
    /// The thread has completed a second of the measured window: the index of the second, from 0,
    /// and the thread's statistics for it.
    Second(u64, Box<Stats>),
    /// The thread has completed its part of the load, with these results.
    Done(Box<Ended>),
    /// The thread has failed with this error.
    Failed(anyhow::Error),
}

struct Ended {
    early: Option<EndedEarly>,
    notices: Vec<Notice>,
    history: Vec<Record>,
}

/// Results of a completed run, as returned by [`execute`].
pub(crate) struct Finished {
    /// Results to be written as JSON. The caller of [`execute`] fills in the name, the command
    /// line, the commit and the `--fail-if` conditions that the results meet.
    pub(crate) record: LoadRecord,
    /// Statistics of the whole measured window, summed over all threads.
    pub(crate) total: Stats,
    pub(crate) history: Vec<Record>,
}

/// Callback for each completed second of the measured window. Its arguments are the index of the
/// second, from 0, and the second's statistics, summed over all threads.
pub(crate) type EachSecond<'a> = dyn FnMut(u64, &Stats) + 'a;

/// Time between the end of the preload in all threads and the first request of the load.
const START_DELAY: Duration = Duration::from_millis(20);

/// Executes a load run: starts the threads, waits until they have finished, and merges their
/// results. Calls `each_second` for each completed second of the measured window.
pub(crate) fn execute(
    plan: &Plan,
    target: Target,
    progress: &mut ProgressLine,
    each_second: &mut EachSecond<'_>,
) -> anyhow::Result<Finished> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("cannot install the signal handler for Ctrl-C")?;
    }
    let plan = Arc::new(plan.clone());
    let clock = Clock::start();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let run = nanoseconds(since_epoch) / 1_000_000;
    let inserts = Arc::new(Inserts::after(plan.keys));
    let start = Arc::new(OnceLock::new());
    let (sender, events) = mpsc::channel();
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let work = Generator::new(&plan, number, run, &inserts);
        let engine = Engine::new(&plan, work, number, clock, &stop)?;
        let (start, sender) = (Arc::clone(&start), sender.clone());
        let thread = thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || run_thread(engine, &start, &sender))
            .with_context(|| format!("cannot start load thread {number}; try fewer --threads"))?;
        threads.push(thread);
    }
    drop(sender);
    let mut collector = Collector::new(&plan, progress, each_second);
    let finished = collector.watch(&events, &start, clock, &stop);
    // After a failure, releases the threads that are still waiting for the start.
    stop.store(true, Ordering::Relaxed);
    let _ = start.set((0, 0));
    for thread in threads {
        thread.join().map_err(|_| {
            anyhow::anyhow!("a thread of the load generator panicked; see its message above")
        })?;
    }
    collector.progress.clear();
    finished?;
    Ok(collector.finish(since_epoch, target))
}

fn run_thread(mut engine: Engine, start: &OnceLock<(u64, u64)>, events: &Sender<Event>) {
    // The receiver is gone only if the run has failed elsewhere.
    let send = |event: Event| drop(events.send(event));
    if let Err(error) = engine.prepare() {
        return send(Event::Failed(error));
    }
    send(Event::Ready);
    let (first, begin) = *start.wait();
    if begin == 0 {
        return;
    }
    let measured = engine.measure(first, begin, |engine| {
        for (number, stats) in engine.generator.over.drain(..) {
            send(Event::Second(number, Box::new(stats)));
        }
    });
    match measured {
        Ok(early) => {
            let (notices, history) = (std::mem::take(&mut engine.notices), engine.take_history());
            send(Event::Done(Box::new(Ended { early, notices, history })));
        }
        Err(error) => send(Event::Failed(error)),
    }
}

struct Collector<'a, 'b> {
    plan: &'a Plan,
    progress: &'a mut ProgressLine,
    each_second: &'a mut EachSecond<'b>,
    /// Seconds of the measured window that some threads have not completed yet. Maps the number of
    /// a second to the number of threads that have completed it and the sum of their statistics.
    open: BTreeMap<u64, (usize, Stats)>,
    seconds: Vec<Second>,
    total: Stats,
    begin: u64,
    /// Time at which the last thread finished, in nanoseconds since the start of the run; 0 before
    /// that.
    ended: u64,
    early: Option<EndedEarly>,
    notices: Vec<Notice>,
    history: Vec<Record>,
    cpu_s: f64,
    stolen_s: Option<f64>,
}

impl<'a, 'b> Collector<'a, 'b> {
    fn new(
        plan: &'a Plan,
        progress: &'a mut ProgressLine,
        each_second: &'a mut EachSecond<'b>,
    ) -> Collector<'a, 'b> {
        Collector {
            plan,
            progress,
            each_second,
            open: BTreeMap::new(),
            seconds: Vec::new(),
            total: Stats::new(),
            begin: 0,
            ended: 0,
            early: None,
            notices: Vec::new(),
            history: Vec::new(),
            cpu_s: 0.0,
            stolen_s: None,
        }
    }

    fn watch(
        &mut self,
        events: &Receiver<Event>,
        start: &OnceLock<(u64, u64)>,
        clock: Clock,
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        let (mut ready, mut done) = (0, 0);
        let mut begun = false;
        if self.plan.preload {
            self.progress.phase(&format!("writing {} keys", self.plan.keys));
        }
        while done < self.plan.threads {
            // Wakes up at the start of the measured window to read the CPU times.
            let wait = match (begun, self.begin) {
                (false, 1..) => Duration::from_nanos(self.begin.saturating_sub(clock.now())),
                _ => Duration::from_hours(1),
            };
            match events.recv_timeout(wait) {
                Ok(Event::Ready) => {
                    ready += 1;
                    if ready == self.plan.threads {
                        let first = clock.now() + nanoseconds(START_DELAY);
                        self.begin = first + nanoseconds(self.plan.warm_up);
                        let _ = start.set((first, self.begin));
                        if !self.plan.warm_up.is_zero() {
                            self.progress.phase("warming up");
                        }
                    }
                }
                Ok(Event::Second(number, stats)) => self.on_second(number, &stats),
                Ok(Event::Done(ended)) => {
                    done += 1;
                    // A thread that ends early stops the other threads.
                    if ended.early.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        self.early = self.early.take().or(ended.early);
                    }
                    self.notices.extend(ended.notices);
                    self.history.extend(ended.history);
                }
                Ok(Event::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !begun && self.begin > 0 && clock.now() >= self.begin {
                begun = true;
                (self.cpu_s, self.stolen_s) = (machine::cpu_s(), machine::stolen_s());
            }
        }
        self.ended = clock.now();
        self.cpu_s = machine::cpu_s() - self.cpu_s;
        self.stolen_s = machine::stolen_s().zip(self.stolen_s).map(|(now, then)| now - then);
        while let Some((number, (_, stats))) = self.open.pop_first() {
            self.end_second(number, &stats);
        }
        Ok(())
    }

    fn on_second(&mut self, number: u64, stats: &Stats) {
        let (threads, sum) = self.open.entry(number).or_insert_with(|| (0, Stats::new()));
        *threads += 1;
        sum.add(stats);
        if *threads == self.plan.threads {
            let (_, stats) = self.open.remove(&number).expect("it was just there");
            self.end_second(number, &stats);
        }
    }

    fn end_second(&mut self, number: u64, stats: &Stats) {
        let open = self.plan.kind == Loop::Open;
        self.total.add(stats);
        self.total.backlog = stats.backlog;
        // After the planned end only late replies arrive: skip seconds without replies.
        let planned = self.plan.length.as_secs_f64().ceil();
        if number as f64 >= planned && stats.is_empty() {
            return;
        }
        let second = Second {
            number,
            succeeded: stats.counts.succeeded,
            failed: stats.counts.failed,
            backlog: stats.backlog,
            latency: latency(&Stats::all(stats.main(open))),
        };
        self.progress.second(&second, self.plan, self.total.counts.failed);
        self.seconds.push(second);
        (self.each_second)(number, stats);
    }

    fn finish(self, since_epoch: Duration, target: Target) -> Finished {
        let Collector { plan, total, .. } = self;
        let open = plan.kind == Loop::Open;
        let at_s = |moment: u64| (moment as f64 - self.begin as f64) / SECOND as f64;
        let mut window_s = at_s(total.last.max(self.begin));
        if self.early.is_some() {
            window_s = at_s(self.ended).max(0.0);
        } else {
            window_s = window_s.max(plan.length.as_secs_f64());
        }
        let counts: Counts = total.counts;
        let mut by_kind = BTreeMap::new();
        for kind in KINDS.into_iter().filter(|&kind| plan.mix.has(kind)) {
            let response = open.then(|| &total.response[kind.place()]);
            let service = &total.service[kind.place()];
            by_kind.insert(kind.name().to_owned(), latencies(response, service));
        }
        let (response, service) = (Stats::all(&total.response), Stats::all(&total.service));
        by_kind.insert("all".to_owned(), latencies(open.then_some(&response), &service));
        let mut marks: Vec<Mark> = self
            .notices
            .iter()
            .filter(|notices| notices.at >= self.begin.saturating_sub(nanoseconds(plan.warm_up)))
            .map(|notices| Mark { at_s: at_s(notices.at), what: notices.what.clone() })
            .collect();
        marks.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        marks.dedup_by(|a, b| a.what == b.what && (a.at_s - b.at_s).abs() < 1.0);
        let answered = (counts.succeeded + counts.failed).max(1);
        let record = LoadRecord {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            name: String::new(),
            command: Vec::new(),
            revision: None,
            host: Host { stolen_s: self.stolen_s, ..machine::host() },
            target,
            config: config(plan),
            began_unix_s: since_epoch.as_secs_f64() + self.begin as f64 / SECOND as f64,
            window_s,
            partial: self.early.map(|EndedEarly(why)| why),
            intended_rate: plan.rate,
            achieved_rate: counts.succeeded as f64 / window_s.max(1e-9),
            counts,
            errors: total.errors.clone(),
            latencies: by_kind,
            lag: open.then(|| latency(&total.lag)),
            per_second: self.seconds,
            marks,
            client: Client {
                cpu_s: self.cpu_s,
                cpu_us_per_operation: self.cpu_s * 1e6 / answered as f64,
            },
            failed: Vec::new(),
        };
        Finished { record, total, history: self.history }
    }
}

fn config(plan: &Plan) -> Config {
    let shares = KINDS.into_iter().filter(|&kind| plan.mix.has(kind));
    let zipf = matches!(plan.distribution.name(), "zipfian" | "latest");
    Config {
        kind: plan.kind,
        workload: plan.mix.name.clone(),
        mix: shares.map(|kind| (kind.name().to_owned(), plan.mix.shares[kind.place()])).collect(),
        distribution: plan.distribution.name().to_owned(),
        theta: zipf.then_some(plan.theta),
        keys: plan.keys,
        key_bytes: plan.key_bytes,
        value_bytes: plan.value_bytes,
        connections: plan.connections,
        pipeline: plan.pipeline,
        threads: plan.threads,
        warm_up_s: plan.warm_up.as_secs_f64(),
        seconds: plan.length.as_secs_f64(),
        timeout_s: plan.timeout.as_secs_f64(),
        seed: plan.seed,
        preload: plan.preload,
    }
}
