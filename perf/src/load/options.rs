//! The command line of `perf load`, and the plan of a run: its validated settings.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::conditions::Condition;
use super::keys::{Distribution, MARK_BYTES, keys_max};
use super::schema::Loop;
use super::workload::{Kind, Mix};

/// Arguments of `perf load`.
#[derive(clap::Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags are either given or not")]
pub(crate) struct Arguments {
    /// Servers: `redis://127.0.0.1:7001,127.0.0.1:7002` for Bowline or Redis,
    /// `etcd://127.0.0.1:2379` for etcd, `nats://127.0.0.1:4222` for NATS's key-value bucket
    /// `perf`. Give all replicas: the leader is found and followed. With NATS, give the leader
    /// first.
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:7001")]
    pub(crate) target: String,
    /// User as whom to log in to servers with the Redis protocol. The password comes from the
    /// environment variable `BOWLINE_PASSWORD` or from --password-file [default: default].
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// File with the password in its first line, instead of `BOWLINE_PASSWORD`.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Operations per second, sent at constant intervals regardless of how fast the server replies
    /// (open loop). Latencies are measured from the time at which each operation should have been
    /// sent.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
    /// Send the next request as soon as a reply arrives (closed loop). Measures the maximum
    /// throughput; latencies exclude the time that users would wait for an overloaded server.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) closed: bool,
    /// Total number of connections of all threads.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 64)]
    pub(crate) connections: usize,
    /// Maximum number of requests in flight per connection.
    #[arg(long, short = 'P', value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// Number of threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// YCSB's `a` to `f`, `set`, `get`, or shares such as `read=90,update=10`.
    #[arg(long, short = 'w', value_name = "NAME", default_value = "a")]
    pub(crate) workload: String,
    /// Distribution of keys. Default: that of the workload; uniform for workloads that YCSB does
    /// not define.
    #[arg(long, value_name = "HOW")]
    pub(crate) distribution: Option<Distribution>,
    /// Skew of the zipfian and latest distributions.
    #[arg(long, value_name = "X", default_value_t = 0.99, allow_negative_numbers = true)]
    pub(crate) theta: f64,
    /// Number of different keys.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// Length of a key in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) key_size: usize,
    /// Length of a value in bytes.
    #[arg(long, short = 'd', value_name = "BYTES", default_value_t = 128)]
    pub(crate) value_size: usize,
    /// Do not write all keys before the run. By default, all keys are written unless the workload
    /// has only writes.
    #[arg(long)]
    pub(crate) no_preload: bool,
    /// Length in seconds of the warm-up: load before the measured window that is not measured.
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) warm_up: f64,
    /// Length of the measured window in seconds.
    #[arg(long, value_name = "S", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// Random seed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Request timeout in seconds. A request that times out counts as failed, and its connection is
    /// reopened.
    #[arg(long, value_name = "S", default_value_t = 5.0, allow_negative_numbers = true)]
    pub(crate) timeout: f64,
    /// End the run after this many seconds without a successful reply; the results until then are
    /// kept and marked as partial.
    #[arg(long, value_name = "S", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) give_up: f64,
    /// Spread the connections over all addresses instead of following the leader, and let the
    /// servers forward requests.
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Follow each write with Redis's WAIT for this number of replicas; the write succeeds when
    /// they have acknowledged it.
    #[arg(long, value_name = "REPLICAS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) wait: Option<u32>,
    /// Follow each write with WAITAOF 1 REPLICAS; the write succeeds when the server and this
    /// number of its replicas have synced it to disk.
    #[arg(long, value_name = "REPLICAS", conflicts_with = "wait",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) wait_aof: Option<u32>,
    /// Verify every byte of each value that is read.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Record a history of operations to FILE, for `perf check`.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Print results as JSON instead of a table, or write them to FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Print CSV with redis-benchmark's columns instead of a table.
    #[arg(long)]
    pub(crate) csv: bool,
    /// Write NAME.json, NAME.hgrm (percentiles) and NAME.hlog (a histogram per second).
    #[arg(long, value_name = "NAME")]
    pub(crate) out: Option<PathBuf>,
    /// Exit with code 1 if this condition holds, such as `p99>5ms`, `achieved<95%` or `errors>0`.
    /// May be repeated. Default: `errors>0` and, in an open loop, `achieved<95%`.
    #[arg(long, value_name = "CONDITION", allow_hyphen_values = true)]
    pub(crate) fail_if: Vec<String>,
}

/// Protocol that the load generator and the servers use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// The Redis protocol, for Bowline and Redis.
    Redis,
    /// The gRPC protocol of etcd's v3 API.
    Etcd,
    /// The NATS protocol, for operations on the key-value bucket `perf`.
    Nats,
}

impl Protocol {
    /// Returns the protocol's name as used in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Redis => "redis",
            Protocol::Etcd => "etcd",
            Protocol::Nats => "nats",
        }
    }
}

/// A user and its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Validated settings of a load run.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags are either given or not")]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    /// Addresses of the servers as given on the command line, each as `host:port`.
    pub(crate) addresses: Vec<String>,
    /// Resolved socket addresses of the servers, in the order of `addresses`, except that the
    /// leader of etcd is moved to the front.
    pub(crate) sockets: Vec<SocketAddr>,
    /// The login of each connection with the Redis protocol; `None` if the servers need none.
    pub(crate) login: Option<Login>,
    pub(crate) kind: Loop,
    /// Scheduled operations per second of all connections combined; `None` in a closed loop.
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
    /// Number of replicas for which the Redis command WAIT waits after each write; `None` if WAIT
    /// is not sent.
    pub(crate) wait: Option<u32>,
    /// Number of replicas for which the Redis command WAITAOF waits after each write; `None` if
    /// WAITAOF is not sent.
    pub(crate) wait_aof: Option<u32>,
    pub(crate) verify: bool,
    pub(crate) history: bool,
    pub(crate) conditions: Vec<Condition>,
}

/// Environment variable with the password of the servers.
const PASSWORD_VARIABLE: &str = "BOWLINE_PASSWORD";
const CONNECTIONS_MAX: usize = 10_000;
const RATE_MAX: f64 = 1e7;
const KEY_BYTES_MIN: usize = 8;
/// Maximum length of a value in bytes. Redis allows 512 MiB, but such values are not useful for
/// measurements.
const VALUE_BYTES_MAX: usize = 16 << 20;
const KEY_BYTES_MAX: usize = 64 << 10;

impl Arguments {
    /// Validates the command-line arguments, and returns the settings of the run that they
    /// describe.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let (protocol, addresses) = self.target()?;
        let sockets = addresses
            .iter()
            .map(|address| look_up(address))
            .collect::<anyhow::Result<Vec<SocketAddr>>>()?;
        ensure!(
            (self.wait.is_none() && self.wait_aof.is_none()) || protocol == Protocol::Redis,
            "--wait and --wait-aof need a redis:// target, because WAIT and WAITAOF are Redis \
             commands; leave them out, as etcd and NATS always wait for a quorum"
        );
        let mix = Mix::parse(&self.workload)?;
        ensure!(
            protocol != Protocol::Nats || !mix.has(Kind::Scan),
            "--workload {} contains scans, which NATS does not support; use a to d, f, set or get",
            self.workload
        );
        let kind = match (self.rate, self.closed) {
            (Some(rate), _) => {
                ensure!(
                    rate.is_finite() && rate > 0.0 && rate <= RATE_MAX,
                    "--rate {rate}: the operations per second must be greater than 0 and at most \
                     {RATE_MAX}"
                );
                Loop::Open
            }
            (None, true) => Loop::Closed,
            (None, false) => bail!(
                "neither --rate nor --closed is given; use --rate N for N operations per second \
                 (open loop), or --closed to send the next request whenever a reply arrives"
            ),
        };
        self.check_counts()?;
        let seconds = |name: &str, value: f64, least: f64| {
            ensure!(
                value.is_finite() && value >= least && value <= 1e6,
                "--{name} {value}: must be from {least} to 1000000 seconds"
            );
            Ok(Duration::from_secs_f64(value))
        };
        let length = seconds("seconds", self.seconds, 0.1)?;
        if let Some(rate) = self.rate {
            ensure!(
                rate * self.seconds >= 1.0,
                "--rate {rate}: less than one operation in --seconds {}; increase one of the two",
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
            "--verify needs values that begin with a unique number of {MARK_BYTES} digits; give \
             --value-size {MARK_BYTES} or more"
        );
        Ok(Plan {
            protocol,
            addresses,
            sockets,
            login: self.login()?,
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
            wait_aof: self.wait_aof,
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
            "--fail-if: `achieved` in percent compares with --rate, which a closed loop does not \
             have; give operations per second, as in achieved<1000"
        );
        Ok(conditions)
    }

    /// Returns the user and the password with which connections log in; `None` without a password.
    fn login(&self) -> anyhow::Result<Option<Login>> {
        let password = match &self.password_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--password-file {}", path.display()))?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            None => std::env::var(PASSWORD_VARIABLE).ok(),
        };
        let password = password.filter(|password| !password.is_empty());
        ensure!(
            password.is_some() || self.user.is_none(),
            "--user needs a password: set {PASSWORD_VARIABLE}, or give --password-file"
        );
        let user = self.user.clone().unwrap_or_else(|| "default".to_owned());
        Ok(password.map(|password| Login { user, password }))
    }

    fn target(&self) -> anyhow::Result<(Protocol, Vec<String>)> {
        let target = &self.target;
        let (scheme, rest) = target.split_once("://").with_context(|| {
            format!(
                "--target {target}: must be redis://HOST:PORT (Bowline or Redis), etcd://HOST:PORT \
                 or nats://HOST:PORT"
            )
        })?;
        let protocol = match scheme {
            "redis" | "bowline" => Protocol::Redis,
            "etcd" => Protocol::Etcd,
            "nats" => Protocol::Nats,
            _ => bail!("--target {target}: unknown scheme `{scheme}`; use redis, etcd or nats"),
        };
        let addresses = rest.trim_end_matches('/').split(',');
        Ok((protocol, addresses.map(|address| address.trim().to_owned()).collect()))
    }

    fn check_counts(&self) -> anyhow::Result<()> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            ensure!(
                (least..=most).contains(&value),
                "--{name} {value}: must be from {least} to {most}"
            );
            Ok(())
        };
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1, 10_000)?;
        within("threads", self.threads, 1, 64)?;
        within("key-size", self.key_size, KEY_BYTES_MIN, KEY_BYTES_MAX)?;
        within("value-size", self.value_size, 0, VALUE_BYTES_MAX)?;
        ensure!(
            self.threads <= self.connections,
            "--threads {}: each thread needs a connection, but --connections is {}; lower \
             --threads or raise --connections",
            self.threads,
            self.connections
        );
        let keys_max = keys_max(self.key_size) / 2;
        ensure!(
            (1..=keys_max).contains(&self.keys),
            "--keys {}: must be from 1 to {keys_max} with this --key-size; give a larger \
             --key-size for more keys",
            self.keys
        );
        ensure!(
            self.theta > 0.0 && self.theta <= 5.0,
            "--theta {}: must be greater than 0 and at most 5",
            self.theta
        );
        Ok(())
    }

    fn check_history(&self, mix: &Mix) -> anyhow::Result<()> {
        ensure!(
            self.value_size >= MARK_BYTES,
            "--history needs values that begin with a unique number of {MARK_BYTES} digits; give \
             --value-size {MARK_BYTES} or more"
        );
        ensure!(
            !mix.has(Kind::Insert) && !mix.has(Kind::Scan),
            "--history records only reads and writes of keys that exist at the start, but \
             --workload contains inserts or scans; use --workload a, b, c or f"
        );
        ensure!(
            self.wait_aof.is_none(),
            "--history does not record which writes WAITAOF waited for; leave out --wait-aof"
        );
        ensure!(
            !self.no_preload,
            "--history excludes --no-preload, because `perf check` must know the initial values of \
             all keys; leave out --no-preload"
        );
        Ok(())
    }
}

fn look_up(address: &str) -> anyhow::Result<SocketAddr> {
    let found = address
        .to_socket_addrs()
        .with_context(|| format!("--target: cannot resolve `{address}`, which must be HOST:PORT"))?
        .next();
    found.with_context(|| format!("--target: the host name in `{address}` has no IP address"))
}
