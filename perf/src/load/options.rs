//! The command line of `perf load`, and the plan of a run that it becomes once it makes sense.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::conditions::Condition;
use super::keys::{Distribution, MARK_BYTES, keys_max};
use super::schema::Loop;
use super::workload::{Kind, Mix};

/// What `perf load` takes.
#[derive(clap::Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags are either given or not")]
pub(crate) struct Arguments {
    /// Whom to ask: Bowline or Redis as in `redis://127.0.0.1:7001,127.0.0.1:7002`, etcd as in
    /// `etcd://127.0.0.1:2379`. Give all replicas: the one that leads is found and followed.
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:7001")]
    pub(crate) target: String,
    /// Operations a second, at fixed distances whatever the server does (open loop). Latencies
    /// count from the moment at which each should have been sent.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
    /// Ask again as soon as an answer is there (closed loop). Finds the highest throughput; its
    /// latencies leave out what users wait for a server that is behind.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) closed: bool,
    /// Connections, over all threads.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 64)]
    pub(crate) connections: usize,
    /// Requests under way on a connection at most.
    #[arg(long, short = 'P', value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// Threads that send and receive.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// YCSB's `a` to `f`, `set`, `get`, or shares such as `read=90,update=10`.
    #[arg(long, short = 'w', value_name = "NAME", default_value = "a")]
    pub(crate) workload: String,
    /// How keys are chosen. Without it, as the workload is defined; uniform for those of our own.
    #[arg(long, value_name = "HOW")]
    pub(crate) distribution: Option<Distribution>,
    /// How uneven zipfian and latest are.
    #[arg(long, value_name = "X", default_value_t = 0.99, allow_negative_numbers = true)]
    pub(crate) theta: f64,
    /// Keys.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// Bytes of a key.
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) key_size: usize,
    /// Bytes of a value.
    #[arg(long, short = 'd', value_name = "BYTES", default_value_t = 128)]
    pub(crate) value_size: usize,
    /// Don't write all keys before the run. It is done unless the run only writes.
    #[arg(long)]
    pub(crate) no_preload: bool,
    /// Seconds of the same load before anything is measured.
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) warm_up: f64,
    /// Seconds that are measured.
    #[arg(long, value_name = "S", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// Of everything drawn.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Seconds after which a request counts as failed; its connection is opened again.
    #[arg(long, value_name = "S", default_value_t = 5.0, allow_negative_numbers = true)]
    pub(crate) timeout: f64,
    /// Seconds without any good answer after which the run is ended and kept as partial.
    #[arg(long, value_name = "S", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) give_up: f64,
    /// Spread the connections over all addresses and leave it to the servers to pass requests on.
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Each write is followed by Redis's WAIT for so many replicas, and counts as done when these
    /// have it too.
    #[arg(long, value_name = "REPLICAS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) wait: Option<u32>,
    /// Check every value read to the last byte, against what this program writes.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Write down what was asked and answered, for `perf check`.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Print results as JSON instead of a table, or write them to a file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Print redis-benchmark's columns instead of a table.
    #[arg(long)]
    pub(crate) csv: bool,
    /// Write NAME.json, NAME.hgrm (percentiles) and NAME.hlog (a histogram a second).
    #[arg(long, value_name = "NAME")]
    pub(crate) out: Option<PathBuf>,
    /// Exit code 1 if this comes true: `p99>5ms`, `achieved<95%`, `errors>0`. May be repeated, and
    /// then replaces `errors>0` and, in an open loop, `achieved<95%`.
    #[arg(long, value_name = "CONDITION", allow_hyphen_values = true)]
    pub(crate) fail_if: Vec<String>,
}

/// The protocols that we speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// Bowline's and Redis's.
    Redis,
    /// etcd's v3 API, gRPC.
    Etcd,
}

impl Protocol {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Redis => "redis",
            Protocol::Etcd => "etcd",
        }
    }
}

/// A run, as planned: everything is in its limits.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags are either given or not")]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    /// As given.
    pub(crate) addresses: Vec<String>,
    /// The same, looked up.
    pub(crate) sockets: Vec<SocketAddr>,
    pub(crate) kind: Loop,
    /// In an open loop.
    pub(crate) rate: Option<f64>,
    pub(crate) connections: usize,
    pub(crate) pipeline: usize,
    pub(crate) threads: usize,
    pub(crate) mix: Mix,
    pub(crate) distribution: Distribution,
    pub(crate) theta: f64,
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    pub(crate) preload: bool,
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
    pub(crate) timeout: Duration,
    pub(crate) give_up: Duration,
    pub(crate) follow: bool,
    /// Replicas that Redis waits for after each write.
    pub(crate) wait: Option<u32>,
    pub(crate) verify: bool,
    pub(crate) history: bool,
    pub(crate) conditions: Vec<Condition>,
}

const CONNECTIONS_MAX: usize = 10_000;
const RATE_MAX: f64 = 1e7;
const KEY_BYTES_MIN: usize = 8;
/// Redis's own limit of a value is 512 MiB, ours is less; nobody measures with more than this.
const VALUE_BYTES_MAX: usize = 16 << 20;
const KEY_BYTES_MAX: usize = 64 << 10;

impl Arguments {
    /// The plan, if it makes sense.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let (protocol, addresses) = self.target()?;
        let sockets = addresses
            .iter()
            .map(|address| look_up(address))
            .collect::<anyhow::Result<Vec<SocketAddr>>>()?;
        ensure!(
            self.wait.is_none() || protocol == Protocol::Redis,
            "--wait is a command of Redis: leave it out for etcd, which always waits"
        );
        let mix = Mix::parse(&self.workload)?;
        let kind = match (self.rate, self.closed) {
            (Some(rate), _) => {
                ensure!(
                    rate.is_finite() && rate > 0.0 && rate <= RATE_MAX,
                    "--rate {rate}: give operations a second, more than 0 and at most {RATE_MAX}"
                );
                Loop::Open
            }
            (None, true) => Loop::Closed,
            (None, false) => bail!(
                "say how to ask: --rate N for N operations a second (open loop), or --closed to \
                 ask again whenever an answer is there"
            ),
        };
        self.check_counts()?;
        let seconds = |name: &str, value: f64, least: f64| {
            ensure!(
                value.is_finite() && value >= least && value <= 1e6,
                "--{name} {value}: give seconds, {least} at least"
            );
            Ok(Duration::from_secs_f64(value))
        };
        let length = seconds("seconds", self.seconds, 0.1)?;
        if let Some(rate) = self.rate {
            ensure!(
                rate * self.seconds >= 1.0,
                "--rate {rate}: not one operation falls into --seconds {}",
                self.seconds
            );
        }
        let reads = mix.has(Kind::Read) || mix.has(Kind::Scan) || mix.has(Kind::ReadModifyWrite);
        let history = self.history.is_some();
        if history {
            self.check_history(&mix)?;
        }
        ensure!(
            !self.verify || self.value_size >= MARK_BYTES,
            "--verify needs room for a mark in each value: --value-size {MARK_BYTES} at least"
        );
        Ok(Plan {
            protocol,
            addresses,
            sockets,
            kind,
            rate: self.rate,
            connections: self.connections,
            pipeline: self.pipeline,
            threads: self.threads,
            distribution: self.distribution.unwrap_or(mix.distribution),
            theta: self.theta,
            keys: self.keys,
            key_bytes: self.key_size,
            value_bytes: self.value_size,
            preload: (reads || history) && !self.no_preload,
            mix,
            warm_up: seconds("warm-up", self.warm_up, 0.0)?,
            length,
            seed: self.seed,
            timeout: seconds("timeout", self.timeout, 0.001)?,
            give_up: seconds("give-up", self.give_up, 0.001)?,
            follow: !self.no_follow,
            wait: self.wait,
            verify: self.verify,
            history,
            conditions: self.conditions(kind)?,
        })
    }

    fn conditions(&self, kind: Loop) -> anyhow::Result<Vec<Condition>> {
        let standard: &[&str] = match kind {
            Loop::Open => &["errors>0", "achieved<95%"],
            Loop::Closed => &["errors>0"],
        };
        if self.fail_if.is_empty() {
            return standard.iter().map(|text| Condition::parse(text)).collect();
        }
        let conditions: Vec<Condition> =
            self.fail_if.iter().map(|text| Condition::parse(text)).collect::<Result<_, _>>()?;
        ensure!(
            kind == Loop::Open || !conditions.iter().any(Condition::needs_a_rate),
            "--fail-if achieved in percent: of what? A closed loop has no rate to achieve; give \
             operations a second, as in achieved<1000"
        );
        Ok(conditions)
    }

    fn target(&self) -> anyhow::Result<(Protocol, Vec<String>)> {
        let target = &self.target;
        let (scheme, rest) = target.split_once("://").with_context(|| {
            format!("--target {target}: write redis:// and HOST:PORT, for Bowline too")
        })?;
        let protocol = match scheme {
            "redis" | "bowline" => Protocol::Redis,
            "etcd" => Protocol::Etcd,
            _ => bail!("--target {target}: `{scheme}` is not spoken here; redis and etcd are"),
        };
        let addresses = rest.trim_end_matches('/').split(',');
        Ok((protocol, addresses.map(|address| address.trim().to_owned()).collect()))
    }

    fn check_counts(&self) -> anyhow::Result<()> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            ensure!((least..=most).contains(&value), "--{name} {value}: give {least} to {most}");
            Ok(())
        };
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1, 10_000)?;
        within("threads", self.threads, 1, 64)?;
        within("key-size", self.key_size, KEY_BYTES_MIN, KEY_BYTES_MAX)?;
        within("value-size", self.value_size, 0, VALUE_BYTES_MAX)?;
        ensure!(
            self.threads <= self.connections,
            "--threads {}: each needs a connection, and there are {}",
            self.threads,
            self.connections
        );
        let keys_max = keys_max(self.key_size) / 2;
        ensure!(
            (1..=keys_max).contains(&self.keys),
            "--keys {}: give 1 to {keys_max}, or a larger --key-size",
            self.keys
        );
        ensure!(
            self.theta > 0.0 && self.theta <= 5.0,
            "--theta {}: more than 0 and at most 5",
            self.theta
        );
        Ok(())
    }

    fn check_history(&self, mix: &Mix) -> anyhow::Result<()> {
        ensure!(
            self.value_size >= MARK_BYTES,
            "--history needs a mark in each value to tell them apart: --value-size {MARK_BYTES} \
             at least"
        );
        ensure!(
            !mix.has(Kind::Insert) && !mix.has(Kind::Scan),
            "--history knows reads and writes of single keys that were there at the start; take \
             --workload a, b, c or f"
        );
        ensure!(
            !self.no_preload,
            "--history with --no-preload: the checker must know what was there before"
        );
        Ok(())
    }
}

fn look_up(address: &str) -> anyhow::Result<SocketAddr> {
    let found = address
        .to_socket_addrs()
        .with_context(|| format!("--target: `{address}` is no HOST:PORT that can be found"))?
        .next();
    found.with_context(|| format!("--target: `{address}` has no address"))
}
