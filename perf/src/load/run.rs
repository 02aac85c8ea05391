//! One run: starts the threads, brings their seconds together, shows how it goes, and makes the
//! record of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::engine::{Clock, EndedEarly, Engine, Noted};
use super::history::Record;
use super::keys::Inserts;
use super::live::Live;
use super::machine;
use super::options::Plan;
use super::schema::{
    Client, Config, Counts, Host, LoadRecord, Loop, Mark, SCHEMA, SCHEMA_VERSION, Second, Target,
};
use super::tally::{Tally, latencies, latency};
use super::work::{SECOND, Work, nanoseconds};
use super::workload::KINDS;

/// What threads tell.
enum Event {
    /// Connected, all keys written.
    Ready,
    /// A second of the window is over in one thread.
    Second(u64, Box<Tally>),
    /// Over.
    Done(Box<Ended>),
    /// It could not be held at all.
    Failed(anyhow::Error),
}

struct Ended {
    early: Option<EndedEarly>,
    noted: Vec<Noted>,
    history: Vec<Record>,
}

/// A run that was held.
pub(crate) struct Held {
    /// Everything but name, command and conditions.
    pub(crate) record: LoadRecord,
    /// The whole window.
    pub(crate) total: Tally,
    pub(crate) history: Vec<Record>,
}

/// Takes each second of the window as it ends, with its number.
pub(crate) type EachSecond<'a> = dyn FnMut(u64, &Tally) + 'a;

/// Once all threads are ready, before the first request.
const HEAD_START: Duration = Duration::from_millis(20);

/// Holds the run.
pub(crate) fn hold(
    plan: &Plan,
    target: Target,
    live: &mut Live,
    each_second: &mut EachSecond<'_>,
) -> anyhow::Result<Held> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("can't listen for Ctrl-C")?;
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
        let work = Work::new(&plan, number, run, &inserts);
        let engine = Engine::new(&plan, work, number, clock, &stop)?;
        let (start, sender) = (Arc::clone(&start), sender.clone());
        let thread = thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || one_thread(engine, &start, &sender))
            .context("can't start a thread")?;
        threads.push(thread);
    }
    drop(sender);
    let mut run = Run::new(&plan, live, each_second);
    let held = run.watch(&events, &start, clock, &stop);
    // After a failure the others must not wait for a start that never comes.
    stop.store(true, Ordering::Relaxed);
    let _ = start.set((0, 0));
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the load generator panicked"))?;
    }
    run.live.clear();
    held?;
    Ok(run.finish(since_epoch, target))
}

fn one_thread(mut engine: Engine, start: &OnceLock<(u64, u64)>, events: &Sender<Event>) {
    // Nobody listens any more only if the run has failed elsewhere.
    let tell = |event: Event| drop(events.send(event));
    if let Err(error) = engine.prepare() {
        return tell(Event::Failed(error));
    }
    tell(Event::Ready);
    let (first, begin) = *start.wait();
    if begin == 0 {
        return;
    }
    let measured = engine.measure(first, begin, |engine| {
        for (number, tally) in engine.work.over.drain(..) {
            tell(Event::Second(number, Box::new(tally)));
        }
    });
    match measured {
        Ok(early) => {
            let (noted, history) = (std::mem::take(&mut engine.noted), engine.take_history());
            tell(Event::Done(Box::new(Ended { early, noted, history })));
        }
        Err(error) => tell(Event::Failed(error)),
    }
}

struct Run<'a, 'b> {
    plan: &'a Plan,
    live: &'a mut Live,
    each_second: &'a mut EachSecond<'b>,
    /// Seconds that not all threads have ended, with how many have.
    open: BTreeMap<u64, (usize, Tally)>,
    seconds: Vec<Second>,
    total: Tally,
    begin: u64,
    /// When the last thread was done.
    ended: u64,
    early: Option<EndedEarly>,
    noted: Vec<Noted>,
    history: Vec<Record>,
    cpu_s: f64,
    stolen_s: Option<f64>,
}

impl<'a, 'b> Run<'a, 'b> {
    fn new(plan: &'a Plan, live: &'a mut Live, each_second: &'a mut EachSecond<'b>) -> Run<'a, 'b> {
        Run {
            plan,
            live,
            each_second,
            open: BTreeMap::new(),
            seconds: Vec::new(),
            total: Tally::new(),
            begin: 0,
            ended: 0,
            early: None,
            noted: Vec::new(),
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
            self.live.say(&format!("writing {} keys", self.plan.keys));
        }
        while done < self.plan.threads {
            // Awake at the window's start, to read the processor's clocks.
            let wait = match (begun, self.begin) {
                (false, 1..) => Duration::from_nanos(self.begin.saturating_sub(clock.now())),
                _ => Duration::from_hours(1),
            };
            match events.recv_timeout(wait) {
                Ok(Event::Ready) => {
                    ready += 1;
                    if ready == self.plan.threads {
                        let first = clock.now() + nanoseconds(HEAD_START);
                        self.begin = first + nanoseconds(self.plan.warm_up);
                        let _ = start.set((first, self.begin));
                        if !self.plan.warm_up.is_zero() {
                            self.live.say("warming up");
                        }
                    }
                }
                Ok(Event::Second(number, tally)) => self.on_second(number, &tally),
                Ok(Event::Done(ended)) => {
                    done += 1;
                    // Whoever ends early takes the others along.
                    if ended.early.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        self.early = self.early.take().or(ended.early);
                    }
                    self.noted.extend(ended.noted);
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
        while let Some((number, (_, tally))) = self.open.pop_first() {
            self.end_second(number, &tally);
        }
        Ok(())
    }

    fn on_second(&mut self, number: u64, tally: &Tally) {
        let (threads, sum) = self.open.entry(number).or_insert_with(|| (0, Tally::new()));
        *threads += 1;
        sum.add(tally);
        if *threads == self.plan.threads {
            let (_, tally) = self.open.remove(&number).expect("it was just there");
            self.end_second(number, &tally);
        }
    }

    fn end_second(&mut self, number: u64, tally: &Tally) {
        let open = self.plan.kind == Loop::Open;
        self.total.add(tally);
        self.total.backlog = tally.backlog;
        // Past the planned end there are only stragglers: no second to show if none came.
        let planned = self.plan.length.as_secs_f64().ceil();
        if number as f64 >= planned && tally.is_empty() {
            return;
        }
        let second = Second {
            number,
            succeeded: tally.counts.succeeded,
            failed: tally.counts.failed,
            backlog: tally.backlog,
            latency: latency(&Tally::all(tally.main(open))),
        };
        self.live.second(&second, self.plan, self.total.counts.failed);
        self.seconds.push(second);
        (self.each_second)(number, tally);
    }

    fn finish(self, since_epoch: Duration, target: Target) -> Held {
        let Run { plan, total, .. } = self;
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
        let (response, service) = (Tally::all(&total.response), Tally::all(&total.service));
        by_kind.insert("all".to_owned(), latencies(open.then_some(&response), &service));
        let mut marks: Vec<Mark> = self
            .noted
            .iter()
            .filter(|noted| noted.at >= self.begin.saturating_sub(nanoseconds(plan.warm_up)))
            .map(|noted| Mark { at_s: at_s(noted.at), what: noted.what.clone() })
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
        Held { record, total, history: self.history }
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
