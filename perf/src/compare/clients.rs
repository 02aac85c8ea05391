//! Client programs: `perf load`, which runs as a separate process so that its CPU time is measured
//! separately, and `redis-benchmark`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::cases::{Case, Client, Operation};
use super::children::{Child, command, find_program};
use super::systems::{Protocol, System};
use crate::load::schema::LoadRecord;
use crate::report::to_count;

/// Additional time that a client program may take beyond the planned length of a run. After that it
/// is assumed to hang, and the run fails.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Length in seconds of the load that `perf load` applies during a preload, after it has written
/// all keys. The measurements of this load are discarded.
const PRELOAD_SECONDS: f64 = 0.1;
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Number of requests that each connection sends one after the other in a short run of
/// `redis-benchmark`, which estimates the operations per second.
const CALIBRATION_ROUND_TRIPS: usize = 40;

/// Results of one run as reported by the client program that generated the load: counts of
/// operations, operations per second, and latencies in seconds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ClientResult {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    /// Number of failed operations for each kind of error.
    pub(crate) error_kinds: BTreeMap<String, u64>,
    pub(crate) rate: f64,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
    pub(crate) max_s: f64,
}

/// The system under load, and the addresses on which it accepts clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) system: System,
    pub(crate) clients: &'a [SocketAddr],
}

/// Runs the client programs `perf load` and `redis-benchmark`. A case with readers and writers runs
/// two client programs at the same time.
#[derive(Debug)]
pub(crate) struct Clients<'a> {
    pub(crate) interrupted: &'a AtomicBool,
    /// Folder for the client programs' output files.
    pub(crate) folder: PathBuf,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
}

/// A running `perf load` process, and the file to which it writes its results.
struct Load {
    child: Child,
    path: PathBuf,
}

impl Clients<'_> {
    /// Writes all keys of a case before it is measured, so that gets find values. The measurements
    /// of these writes are discarded.
    pub(crate) fn preload(&self, target: Target<'_>, case: &Case) -> anyhow::Result<()> {
        match case.client {
            Client::Load => {
                // `perf load` preloads all keys before it reads.
                let reader = Case { operation: Operation::Get, rate: None, ..case.clone() };
                let load = self.start_load("preload", target, &reader, PRELOAD_SECONDS, true)?;
                self.finish_load(load, TIMEOUT * 4).map(drop)
            }
            Client::RedisBenchmark => {
                let writer = Case {
                    operation: Operation::Put,
                    connections: 64,
                    pipeline: 64,
                    ..case.clone()
                };
                // `redis-benchmark` writes random keys: with three writes per key on average, one
                // key in e^3 (about 20) is missing.
                let count = usize::try_from(case.keys)?.saturating_mul(3);
                self.redis_benchmark(target, &writer, count, TIMEOUT * 4).map(drop)
            }
        }
    }

    /// Returns the number of operations for which a run of the case takes about the planned time.
    /// Returns 0 for `perf load`, which stops by itself after the planned time.
    pub(crate) fn calibrate(&self, target: Target<'_>, case: &Case) -> anyhow::Result<usize> {
        match case.client {
            Client::Load => Ok(0),
            Client::RedisBenchmark => {
                let count = case.connections * case.pipeline * CALIBRATION_ROUND_TRIPS;
                let result = self.redis_benchmark(target, case, count, TIMEOUT)?;
                Ok(to_count(result.rate * self.length.as_secs_f64()).max(count))
            }
        }
    }

    /// Runs a case once and returns the results of each of its clients, in the order of
    /// [`Case::rows`]. `count` is the number of operations that [`Clients::calibrate`] returned for
    /// the case.
    pub(crate) fn run(
        &self,
        target: Target<'_>,
        case: &Case,
        count: usize,
    ) -> anyhow::Result<Vec<ClientResult>> {
        match case.client {
            Client::Load => {
                let seconds = self.length.as_secs_f64();
                // The two clients start within milliseconds of each other, so their measured
                // windows are almost the same.
                let writers = case
                    .beside()
                    .map(|writers| self.start_load("writers", target, &writers, seconds, false))
                    .transpose()?;
                let load = self.start_load("load", target, case, seconds, false)?;
                [Some(load), writers]
                    .into_iter()
                    .flatten()
                    .map(|load| self.finish_load(load, self.length + TIMEOUT))
                    .collect()
            }
            Client::RedisBenchmark => self
                .redis_benchmark(target, case, count, self.length * 4 + TIMEOUT)
                .map(|result| vec![result]),
        }
    }

    /// Starts `perf load` with the load of `case` for `seconds` seconds. `name` is the name,
    /// without extension, of its result and log files. If `preload` is true, `perf load` first
    /// writes all keys.
    fn start_load(
        &self,
        name: &str,
        target: Target<'_>,
        case: &Case,
        seconds: f64,
        preload: bool,
    ) -> anyhow::Result<Load> {
        let path = self.folder.join(format!("{name}.json"));
        let _ = fs::remove_file(&path);
        let program = std::env::current_exe().context(
            "cannot determine the path of the program `perf` to start `perf load` from it",
        )?;
        let mut command = command(&program, None);
        command
            .arg("load")
            .args(load_arguments(target, case, seconds))
            .args((!preload).then_some("--no-preload"))
            .args(["--warm-up", "0", "--seed", &self.seed.to_string(), "--json"])
            .arg(&path);
        let log = self.folder.join(format!("{name}.log"));
        Ok(Load { child: Child::start("perf load", command, &log)?, path })
    }

    /// Waits at most `timeout` until `perf load` has exited, and returns its results.
    fn finish_load(&self, load: Load, timeout: Duration) -> anyhow::Result<ClientResult> {
        let Load { mut child, path } = load;
        let status = self.await_end(&mut child, timeout)?;
        let text = fs::read_to_string(&path);
        let Ok(record) = text
            .context("cannot read the results of `perf load`")
            .and_then(|text| LoadRecord::parse(&text))
        else {
            bail!("`perf load` failed ({status}); {}", child.log_tail());
        };
        if let Some(why) = record.partial {
            bail!("`perf load` ended early: {why}");
        }
        let all = record
            .latencies
            .get("all")
            .context("`perf load` got no reply from the servers that it measured")?
            .main();
        Ok(ClientResult {
            operations: record.counts.succeeded,
            errors: record.counts.failed,
            error_kinds: record.errors,
            rate: record.achieved_rate,
            p50_s: all.p50_s,
            p99_s: all.p99_s,
            max_s: all.max_s,
        })
    }

    fn redis_benchmark(
        &self,
        target: Target<'_>,
        case: &Case,
        count: usize,
        timeout: Duration,
    ) -> anyhow::Result<ClientResult> {
        let program = find_program("redis-benchmark")
            .context("redis-benchmark is not installed (Debian package: redis-tools)")?;
        let address = target
            .clients
            .first()
            .context("redis-benchmark cannot run: the system to measure has no server")?;
        let output = self.folder.join("redis-benchmark.csv");
        let _ = fs::remove_file(&output);
        let mut command = command(&program, None);
        command
            .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
            .args(["--csv", "--precision", "3"])
            .args(["-c", &case.connections.to_string(), "-P", &case.pipeline.to_string()])
            .args(["-r", &case.keys.to_string(), "-d", &case.value_bytes.to_string()])
            .args(["-n", &count.to_string()])
            .args(benchmark_test(case.operation));
        let mut child = Child::start("redis-benchmark", command, &output)?;
        let status = self.await_end(&mut child, timeout)?;
        ensure!(status.success(), "redis-benchmark failed ({status}); {}", child.log_tail());
        let csv = fs::read_to_string(&output)
            .context("cannot read the output file of redis-benchmark")?;
        read_csv(&csv, count as u64)
            .with_context(|| format!("cannot parse the output of redis-benchmark: {csv}"))
    }

    fn await_end(
        &self,
        child: &mut Child,
        timeout: Duration,
    ) -> anyhow::Result<std::process::ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = child.exit_status()? {
                return Ok(status);
            }
            ensure!(
                !self.interrupted.load(Ordering::Relaxed),
                "interrupted by a signal such as Ctrl-C"
            );
            if started.elapsed() > timeout {
                bail!(
                    "the load generator was still running after {} s, so it was killed",
                    timeout.as_secs()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Returns the `perf load` arguments to run `case` against `target`. `seconds` is the length of the
/// measured window.
fn load_arguments(target: Target<'_>, case: &Case, seconds: f64) -> Vec<String> {
    let addresses: Vec<String> = target.clients.iter().map(ToString::to_string).collect();
    let scheme = match target.system.protocol() {
        Protocol::Redis => "redis",
        Protocol::Etcd => "etcd",
        Protocol::Nats => "nats",
    };
    let workload = match case.operation {
        Operation::Get => "get",
        _ => "set",
    };
    let (target_url, keys) = (format!("{scheme}://{}", addresses.join(",")), case.keys.to_string());
    let mut arguments: Vec<String> = [
        ["--target", &target_url],
        ["--workload", workload],
        ["--keys", &keys],
        ["--value-size", &case.value_bytes.to_string()],
        ["--connections", &case.connections.to_string()],
        ["--pipeline", &case.pipeline.to_string()],
        ["--seconds", &seconds.to_string()],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    match case.rate {
        Some(rate) => arguments.extend(["--rate".to_owned(), rate.to_string()]),
        None => arguments.push("--closed".to_owned()),
    }
    let wait: &[&str] = match target.system {
        System::RedisWait => &["--wait", "1"],
        System::ValkeyWaitaof => &["--wait-aof", "1"],
        _ => &[],
    };
    arguments.extend(wait.iter().map(|argument| (*argument).to_owned()));
    arguments
}

/// Returns the `redis-benchmark` arguments to run `operation`.
fn benchmark_test(operation: Operation) -> Vec<&'static str> {
    match operation {
        // redis-benchmark's own ZADD test writes the same score each time, which a server need not
        // write to disk.
        Operation::Zadd => vec!["zadd", "myzset", "__rand_int__", "element:__rand_int__"],
        _ => vec!["-t", operation.command()],
    }
}

/// Parses the output of `redis-benchmark --csv`: operations per second, and latencies in
/// milliseconds. Returns `None` if the output is malformed. `operations` is the number of
/// operations in the run.
fn read_csv(text: &str, operations: u64) -> Option<ClientResult> {
    let mut lines = text.lines().filter(|line| line.starts_with('"'));
    let head = lines.next()?;
    let row = lines.next()?;
    let cells = |line: &str| -> Vec<String> {
        line.split(',').map(|cell| cell.trim_matches('"').to_owned()).collect()
    };
    let (head, row) = (cells(head), cells(row));
    let cell = |name: &str| -> Option<f64> {
        let at = head.iter().position(|cell| cell == name)?;
        row.get(at)?.parse().ok()
    };
    let seconds = |name: &str| Some(cell(name)? / 1e3);
    Some(ClientResult {
        operations,
        errors: 0,
        error_kinds: BTreeMap::new(),
        rate: cell("rps")?,
        p50_s: seconds("p50_latency_ms")?,
        p99_s: seconds("p99_latency_ms")?,
        max_s: seconds("max_latency_ms")?,
    })
}

/// Returns an error message if the client program is not installed; `None` if it is.
pub(crate) fn missing(client: Client) -> Option<String> {
    let lacks = client == Client::RedisBenchmark && find_program("redis-benchmark").is_none();
    lacks.then(|| "redis-benchmark is not installed (Debian package: redis-tools)".to_owned())
}

/// Creates the folder for the client programs' output inside `folder`, and returns its path.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join("clients");
    fs::create_dir_all(&folder).with_context(|| {
        format!(
            "cannot create the folder {}; check free space and the permissions of its parent \
             folder",
            folder.display()
        )
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_benchmark_csv_is_parsed() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
            \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"53900.50\",\"0.9\",\"0.1\",\"0.800\",\"2.0\",\"4.300\",\"9.000\"\n";
        let result = read_csv(text, 7).unwrap();
        assert_eq!((result.operations, result.rate), (7, 53_900.5));
        assert!((result.p50_s - 0.0008).abs() < 1e-9 && (result.p99_s - 0.0043).abs() < 1e-9);
        assert!((result.max_s - 0.009).abs() < 1e-9);
        for bad in ["", "\"test\"\n\"SET\"\n", "Could not connect"] {
            assert_eq!(read_csv(bad, 7), None);
        }
    }
}
