//! The two clients: `perf load`, as a process of its own so that its processor time is nobody
//! else's, and `redis-benchmark`.

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

/// How much longer than asked a client may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is measured, for nobody, after all keys were written.
const FILL_SECONDS: f64 = 0.1;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The first, short run of `redis-benchmark`, by which the long one is measured out.
const PROBE_ROUND_TRIPS: usize = 40;

/// What a client saw.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) rate: f64,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
    pub(crate) max_s: f64,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) system: System,
    pub(crate) clients: &'a [SocketAddr],
}

/// Runs clients, one at a time.
#[derive(Debug)]
pub(crate) struct Clients<'a> {
    pub(crate) interrupted: &'a AtomicBool,
    /// For what clients write.
    pub(crate) folder: PathBuf,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
}

impl Clients<'_> {
    /// Writes all keys of a case, so that gets find something. Not measured.
    pub(crate) fn fill(&self, target: Target<'_>, case: &Case) -> anyhow::Result<()> {
        match case.client {
            Client::Load => {
                // Whoever reads writes all keys first.
                let reader = Case { operation: Operation::Get, rate: None, ..case.clone() };
                let words = load_words(target, &reader, FILL_SECONDS);
                self.load(&words, PATIENCE * 4).map(drop)
            }
            Client::RedisBenchmark => {
                let filler = Case {
                    operation: Operation::Put,
                    connections: 64,
                    pipeline: 64,
                    ..case.clone()
                };
                // Drawn at random, so some are written twice, and one in e^3 not at all.
                let count = usize::try_from(case.keys)?.saturating_mul(3);
                self.redis_benchmark(target, &filler, count, PATIENCE * 4).map(drop)
            }
        }
    }

    /// What has to be done before the clock runs: how many operations will take as long as asked.
    pub(crate) fn measure_out(&self, target: Target<'_>, case: &Case) -> anyhow::Result<usize> {
        match case.client {
            Client::Load => Ok(0),
            Client::RedisBenchmark => {
                let count = case.connections * case.pipeline * PROBE_ROUND_TRIPS;
                let seen = self.redis_benchmark(target, case, count, PATIENCE)?;
                Ok(to_count(seen.rate * self.length.as_secs_f64()).max(count))
            }
        }
    }

    /// Runs a case.
    pub(crate) fn run(
        &self,
        target: Target<'_>,
        case: &Case,
        count: usize,
    ) -> anyhow::Result<Seen> {
        match case.client {
            Client::Load => {
                let mut words = load_words(target, case, self.length.as_secs_f64());
                words.push("--no-preload".to_owned());
                self.load(&words, self.length + PATIENCE)
            }
            Client::RedisBenchmark => {
                self.redis_benchmark(target, case, count, self.length * 4 + PATIENCE)
            }
        }
    }

    fn load(&self, words: &[String], patience: Duration) -> anyhow::Result<Seen> {
        let path = self.folder.join("load.json");
        let _ = fs::remove_file(&path);
        let program = std::env::current_exe().context("can't find this very program")?;
        let mut command = command(&program, None);
        command
            .arg("load")
            .args(words)
            .args(["--warm-up", "0", "--seed", &self.seed.to_string(), "--json"])
            .arg(&path);
        let mut child = Child::start("perf load", command, &self.folder.join("load.log"))?;
        let status = self.await_end(&mut child, patience)?;
        let text = fs::read_to_string(&path);
        let Ok(record) = text.context("no file").and_then(|text| LoadRecord::parse(&text)) else {
            bail!("perf load failed ({status}); {}", child.last_words());
        };
        if let Some(why) = record.partial {
            bail!("perf load ended early: {why}");
        }
        let all = record.latencies.get("all").context("perf load saw no answer")?.main();
        Ok(Seen {
            operations: record.counts.succeeded,
            errors: record.counts.failed,
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
        patience: Duration,
    ) -> anyhow::Result<Seen> {
        let program = find_program("redis-benchmark")
            .context("redis-benchmark is not installed (Debian's package: redis-tools)")?;
        let address = target.clients.first().context("there is nobody to ask")?;
        let test = match case.operation {
            Operation::Put => "set",
            Operation::Get => "get",
        };
        let output = self.folder.join("redis-benchmark.csv");
        let _ = fs::remove_file(&output);
        let mut command = command(&program, None);
        command
            .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
            .args(["-t", test, "--csv", "--precision", "3"])
            .args(["-c", &case.connections.to_string(), "-P", &case.pipeline.to_string()])
            .args(["-r", &case.keys.to_string(), "-d", &case.value_bytes.to_string()])
            .args(["-n", &count.to_string()]);
        let mut child = Child::start("redis-benchmark", command, &output)?;
        let status = self.await_end(&mut child, patience)?;
        ensure!(status.success(), "redis-benchmark failed ({status}); {}", child.last_words());
        let csv = fs::read_to_string(&output).context("redis-benchmark left nothing")?;
        read_csv(&csv, count as u64)
            .with_context(|| format!("redis-benchmark wrote what can't be read: {csv}"))
    }

    fn await_end(
        &self,
        child: &mut Child,
        patience: Duration,
    ) -> anyhow::Result<std::process::ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = child.ended()? {
                return Ok(status);
            }
            ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
            if started.elapsed() > patience {
                bail!("the client did not end after {} s", patience.as_secs());
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// How `perf load` is asked for this case; `seconds` are measured.
fn load_words(target: Target<'_>, case: &Case, seconds: f64) -> Vec<String> {
    let addresses: Vec<String> = target.clients.iter().map(ToString::to_string).collect();
    let scheme = match target.system.protocol() {
        Protocol::Redis => "redis",
        Protocol::Etcd => "etcd",
    };
    let workload = match case.operation {
        Operation::Put => "set",
        Operation::Get => "get",
    };
    let (target_url, keys) = (format!("{scheme}://{}", addresses.join(",")), case.keys.to_string());
    let mut words: Vec<String> = [
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
        Some(rate) => words.extend(["--rate".to_owned(), rate.to_string()]),
        None => words.push("--closed".to_owned()),
    }
    if target.system == System::RedisWait {
        words.extend(["--wait", "1"].map(str::to_owned));
    }
    words
}

/// Reads the last line of `redis-benchmark --csv`: rates a second, latencies in milliseconds.
fn read_csv(text: &str, operations: u64) -> Option<Seen> {
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
    Some(Seen {
        operations,
        errors: 0,
        rate: cell("rps")?,
        p50_s: seconds("p50_latency_ms")?,
        p99_s: seconds("p99_latency_ms")?,
        max_s: seconds("max_latency_ms")?,
    })
}

/// Whether the client of a case is there; else why not.
pub(crate) fn missing(client: Client) -> Option<String> {
    let lacks = client == Client::RedisBenchmark && find_program("redis-benchmark").is_none();
    lacks.then(|| "redis-benchmark is not installed (Debian's package: redis-tools)".to_owned())
}

/// Makes the folder for what clients write.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join("clients");
    fs::create_dir_all(&folder)
        .with_context(|| format!("can't make the folder {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_benchmarks_table_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
            \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"53900.50\",\"0.9\",\"0.1\",\"0.800\",\"2.0\",\"4.300\",\"9.000\"\n";
        let seen = read_csv(text, 7).unwrap();
        assert_eq!((seen.operations, seen.rate), (7, 53_900.5));
        assert!((seen.p50_s - 0.0008).abs() < 1e-9 && (seen.p99_s - 0.0043).abs() < 1e-9);
        assert!((seen.max_s - 0.009).abs() < 1e-9);
        for bad in ["", "\"test\"\n\"SET\"\n", "Could not connect"] {
            assert_eq!(read_csv(bad, 7), None);
        }
    }
}
