//! The cases of a comparison: client, operation and parameters.

use std::fmt::Write as _;

use anyhow::{bail, ensure};

use super::results::{self, SweepPoint};
use super::rounds::NetworkPath;
use super::systems::System;
use crate::lossy::ThinLink;

/// Length in bytes of the written values, in all cases except those that measure different value
/// lengths.
const VALUE_BYTES: usize = 128;

/// Client program that generates the load of a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    /// `perf load`, the load generator of this project.
    Load,
    /// `redis-benchmark`, the load generator of Redis.
    RedisBenchmark,
}

/// Operation that all requests of a case perform. `perf load` supports only puts and gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Put,
    Get,
    /// Increments a counter with INCR.
    Incr,
    /// Adds a value to the front of a list with LPUSH. All requests use the same list.
    Lpush,
    /// Sets a field of a hash with HSET. All requests use the same hash.
    Hset,
    /// Sets the score of a member of a sorted set with ZADD. All requests use the same sorted set.
    Zadd,
    /// Writes ten keys at once with MSET.
    Mset,
}

impl Operation {
    const ALL: [Operation; 7] = [
        Operation::Put,
        Operation::Get,
        Operation::Incr,
        Operation::Lpush,
        Operation::Hset,
        Operation::Zadd,
        Operation::Mset,
    ];

    /// Returns the lower-case name of the Redis command for this operation.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Operation::Put => "set",
            Operation::Get => "get",
            Operation::Incr => "incr",
            Operation::Lpush => "lpush",
            Operation::Hset => "hset",
            Operation::Zadd => "zadd",
            Operation::Mset => "mset",
        }
    }
}

/// One case of a comparison, in which all systems get the same load: the client program, the
/// operation and the parameters of the load.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) operation: Operation,
    pub(crate) connections: usize,
    pub(crate) pipeline: usize,
    pub(crate) value_bytes: usize,
    /// Number of different keys that the requests use.
    pub(crate) keys: u64,
    /// Number of connections of a second client program, which writes keys while the first one
    /// reads them; `None` if there is only one client program.
    pub(crate) writers: Option<usize>,
    /// Scheduled operations per second of an open loop. `None` for a closed loop, in which each
    /// connection sends its next request after a reply.
    pub(crate) rate: Option<f64>,
    /// Fraction of packets lost between replicas, from 0 to 1; `None` if the network is left
    /// unchanged.
    pub(crate) loss: Option<f64>,
    /// Properties of the network paths between replicas.
    pub(crate) path: NetworkPath,
    /// The point in a sweep (a series of cases that differ in one parameter) that this case
    /// measures; `None` if the case belongs to no sweep.
    pub(crate) sweep: Option<SweepPoint>,
}

/// Names of the cases that `perf compare` measures by default.
const DEFAULT: &[&str] = &[
    "put-64",
    "put-64-16",
    "put-64-64",
    "put-256",
    "put-1",
    "put-rate",
    "get-64",
    "get-64-16",
    "readers-50-beside-8",
    "bench-set-64",
    "bench-set-64-16",
    "bench-set-64-64",
    "bench-set-50-64",
    "bench-set-256",
    "bench-get-64",
    "bench-get-64-16",
];

/// Cases that `perf compare types` measures, by name: commands on values of all Redis types.
const TYPES: &[&str] = &[
    "bench-incr-64-16",
    "bench-lpush-64-16",
    "bench-hset-64-16",
    "bench-zadd-64-16",
    "bench-mset-64-16",
];

/// Description of all valid case names, for error messages.
pub(crate) const NAMES: &str = "put-CONNECTIONS[-PIPELINE], get-CONNECTIONS[-PIPELINE], \
    bench-set-.., bench-get-.., bench-incr-.., bench-lpush-.., bench-hset-.., bench-zadd-.. and \
    bench-mset-.. likewise (redis-benchmark), readers-CONNECTIONS-beside-CONNECTIONS (gets beside \
    puts), put-rate (open loop), types (commands on all types), and the sweeps connections, \
    values, keys and depth";

/// Returns the cases with the given names. The name of a sweep (a series of cases that differ in
/// one parameter) stands for all of its cases. `keys` is the number of different keys that requests
/// use, and `rate` is the rate of the case `put-rate` in operations per second.
pub(crate) fn cases(names: &[String], keys: u64, rate: f64) -> anyhow::Result<Vec<Case>> {
    let default = || DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let names: Vec<String> = if names.is_empty() { default() } else { names.to_vec() };
    let mut cases = Vec::new();
    for name in &names {
        match name.as_str() {
            "connections" => cases.extend([1, 8, 64, 512].map(|connections| Case {
                connections,
                ..sweep("connections", "connections", connections as f64, keys)
            })),
            "depth" => cases.extend([1, 4, 16, 64].map(|pipeline| Case {
                pipeline,
                ..sweep("depth", "requests in flight per connection", pipeline as f64, keys)
            })),
            "values" => cases.extend([16, 1_024, 16_384, 131_072, 1_048_576].map(|value_bytes| {
                // Large values get fewer keys, so that all values together take at most 256 MiB;
                // otherwise the run would measure memory.
                let keys = keys.min((256 << 20) / value_bytes as u64).max(1);
                Case { value_bytes, ..sweep("values", "bytes per value", value_bytes as f64, keys) }
            })),
            "keys" => cases.extend(
                [1_000, 10_000, 1_000_000_u64]
                    .map(|count| sweep("keys", "keys", count as f64, count)),
            ),
            "types" => {
                for name in TYPES {
                    cases.push(read(name, keys)?);
                }
            }
            "put-rate" => cases.push(Case {
                rate: Some(rate),
                name: name.clone(),
                ..plain(Client::Load, Operation::Put, 64, 1, keys)
            }),
            _ => cases.push(read(name, keys)?),
        }
    }
    for (at, case) in cases.iter().enumerate() {
        ensure!(
            cases[..at].iter().all(|other| other.name != case.name),
            "--cases names case {} twice; name it once",
            case.name
        );
    }
    Ok(cases)
}

fn read(name: &str, keys: u64) -> anyhow::Result<Case> {
    let number = |text: &str| text.parse().ok().filter(|number| (1..=10_000).contains(number));
    if let Some(rest) = name.strip_prefix("readers-")
        && let Some((readers, writers)) = rest.split_once("-beside-")
        && let (Some(readers), Some(writers)) = (number(readers), number(writers))
    {
        return Ok(Case {
            name: name.to_owned(),
            writers: Some(writers),
            ..plain(Client::Load, Operation::Get, readers, 1, keys)
        });
    }
    let load = [("put-", Operation::Put), ("get-", Operation::Get)]
        .map(|(start, operation)| (start.to_owned(), Client::Load, operation));
    let benchmark = Operation::ALL.map(|operation| {
        (format!("bench-{}-", operation.command()), Client::RedisBenchmark, operation)
    });
    for (start, client, operation) in load.into_iter().chain(benchmark) {
        let Some(rest) = name.strip_prefix(&start) else { continue };
        let (connections, pipeline) = rest.split_once('-').unwrap_or((rest, "1"));
        if let (Some(connections), Some(pipeline)) = (number(connections), number(pipeline)) {
            let name = name.to_owned();
            return Ok(Case { name, ..plain(client, operation, connections, pipeline, keys) });
        }
    }
    bail!("--cases: unknown case `{name}`; valid cases are {NAMES}")
}

fn plain(
    client: Client,
    operation: Operation,
    connections: usize,
    pipeline: usize,
    keys: u64,
) -> Case {
    Case {
        name: String::new(),
        client,
        operation,
        connections,
        pipeline,
        value_bytes: VALUE_BYTES,
        keys,
        writers: None,
        rate: None,
        loss: None,
        path: NetworkPath::PLAIN,
        sweep: None,
    }
}

fn sweep(name: &str, axis: &str, value: f64, keys: u64) -> Case {
    Case {
        name: format!("{name}-{value}"),
        sweep: Some(SweepPoint { name: format!("puts by {name}"), axis: axis.to_owned(), value }),
        ..plain(Client::Load, Operation::Put, 64, 1, keys)
    }
}

/// Converts a fraction from 0 to 1 to a percentage. Rounds it, because 0.07 times 100 is not
/// exactly 7.
fn percent_of(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// Returns a case of puts over `connections` connections. The network drops the fraction `loss`,
/// from 0 to 1, of the packets between replicas. `replicas` is the number of replicas; `None` for
/// the default.
pub(crate) fn lossy(
    loss: f64,
    path: NetworkPath,
    replicas: Option<u8>,
    connections: usize,
    keys: u64,
) -> Case {
    let percent = percent_of(loss);
    let (mut case, mut sweep) = (String::new(), String::new());
    let mut add = |in_case: String, in_sweep: String| {
        case += &in_case;
        sweep += &in_sweep;
    };
    if path.burst > 1 {
        add(format!("-burst-{}", path.burst), format!(", in bursts of {} packets", path.burst));
    }
    if let Some(rtt_ms) = path.rtt_ms {
        add(format!("-rtt-{rtt_ms}"), format!(", {rtt_ms} ms round trip"));
    }
    if let Some(ThinLink { mbit, queue }) = path.link {
        let queue = queue.as_millis();
        add(
            format!("-mbit-{mbit}-queue-{queue}"),
            format!(", {mbit} Mbit/s with a queue of {queue} ms"),
        );
    }
    if path.cross_traffic {
        add("-cross".to_owned(), ", cross traffic".to_owned());
    }
    if let Some(replicas) = replicas {
        add(format!("-replicas-{replicas}"), format!(", {replicas} replicas"));
    }
    Case {
        name: format!("loss-{percent}{case}"),
        loss: Some(loss),
        path,
        sweep: Some(SweepPoint {
            name: format!("puts under packet loss between replicas{sweep}"),
            axis: "packets lost, %".to_owned(),
            value: percent,
        }),
        ..plain(Client::Load, Operation::Put, connections, 1, keys)
    }
}

impl Case {
    /// Returns the load of this case's second client program, which writes while the first one
    /// reads, as a separate case; `None` if this case has only one client program.
    pub(crate) fn beside(&self) -> Option<Case> {
        let connections = self.writers?;
        Some(Case { operation: Operation::Put, connections, writers: None, ..self.clone() })
    }

    /// Returns the names under which the results of this case are listed: the case's name, or, if
    /// it has two clients, one name for the readers and one for the writers.
    pub(crate) fn rows(&self) -> Vec<String> {
        match self.writers {
            Some(_) => vec![format!("{}:get", self.name), format!("{}:put", self.name)],
            None => vec![self.name.clone()],
        }
    }

    /// Returns the name and description of each result of this case for the results file, in the
    /// order of [`Case::rows`].
    pub(crate) fn describe(&self) -> Vec<results::Case> {
        let abouts = match self.beside() {
            Some(writers) => {
                let readers = Case { writers: None, ..self.clone() };
                vec![
                    format!("{}, beside {}", readers.about(), writers.about()),
                    format!("{}, beside {}", writers.about(), readers.about()),
                ]
            }
            None => vec![self.about()],
        };
        let rows = self.rows().into_iter().zip(abouts);
        rows.map(|(name, about)| results::Case { name, about, sweep: self.sweep.clone() }).collect()
    }

    fn about(&self) -> String {
        let operation = match (self.client, self.operation) {
            (Client::Load, Operation::Get) => "gets".to_owned(),
            (Client::Load, _) => "puts".to_owned(),
            (Client::RedisBenchmark, Operation::Mset) => {
                "redis-benchmark MSET of 10 keys".to_owned()
            }
            (Client::RedisBenchmark, operation) => {
                format!("redis-benchmark {}", operation.command().to_uppercase())
            }
        };
        let mut text = format!("{operation}, {} connections", self.connections);
        if self.connections == 1 {
            text.pop();
        }
        let mut add = |part: std::fmt::Arguments<'_>| {
            text.write_fmt(part).expect("writing to a String cannot fail");
        };
        if self.pipeline > 1 {
            add(format_args!(", {} deep", self.pipeline));
        }
        match self.rate {
            Some(rate) => add(format_args!(", open loop at {rate}/s")),
            None => add(format_args!(", closed loop")),
        }
        if self.value_bytes != VALUE_BYTES {
            add(format_args!(", {} B values", self.value_bytes));
        }
        if self.sweep.as_ref().is_some_and(|sweep| sweep.axis == "keys") {
            add(format_args!(", {} keys", self.keys));
        }
        if let Some(loss) = self.loss {
            add(format_args!(", {} % of packets lost", percent_of(loss)));
            if loss > 0.0 && self.path.burst > 1 {
                add(format_args!(" in bursts of {} on average", self.path.burst));
            }
        }
        if let Some(rtt_ms) = self.path.rtt_ms {
            add(format_args!(", {rtt_ms} ms round trip between replicas"));
        }
        if let Some(ThinLink { mbit, queue }) = self.path.link {
            let queue = queue.as_millis();
            add(format_args!(", links of {mbit} Mbit/s with queues of {queue} ms"));
        }
        if self.path.cross_traffic {
            add(format_args!(", beside other TCP connections"));
        }
        text
    }

    /// Returns the reason why `system` cannot run this case; `None` if it can.
    pub(crate) fn unsupported_by(&self, system: System) -> Option<&'static str> {
        match (self.client, system) {
            (Client::RedisBenchmark, System::Nats) => Some("redis-benchmark does not support NATS"),
            (Client::RedisBenchmark, System::Etcd | System::EtcdRto5) => {
                Some("redis-benchmark does not support etcd")
            }
            (Client::RedisBenchmark, System::RedisWait | System::ValkeyWaitaof) => {
                Some("redis-benchmark does not send WAIT")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn named(names: &[&str]) -> anyhow::Result<Vec<Case>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        cases(&names, 5_000, 100.0)
    }

    #[test]
    fn benchmark_case_names_are_parsed() {
        let found = named(&["put-8", "bench-get-64-16", "put-rate"]).unwrap();
        assert_eq!((found[0].connections, found[0].pipeline), (8, 1));
        assert_eq!((found[1].client, found[1].pipeline), (Client::RedisBenchmark, 16));
        assert_eq!(found[2].rate, Some(100.0));
        let about: Vec<String> = found.iter().map(Case::about).collect();
        assert_eq!(about[0], "puts, 8 connections, closed loop");
        assert_eq!(about[1], "redis-benchmark GET, 64 connections, 16 deep, closed loop");
        assert_eq!(about[2], "puts, 64 connections, open loop at 100/s");
        assert_eq!(named(&[]).unwrap().len(), DEFAULT.len());
        let types = named(&["types", "bench-set-50-64"]).unwrap();
        assert_eq!(types[1].about(), "redis-benchmark LPUSH, 64 connections, 16 deep, closed loop");
        assert_eq!(types[4].operation, Operation::Mset);
        assert_eq!((types[5].connections, types[5].pipeline), (50, 64));
    }

    #[test]
    fn benchmark_reports_readers_and_writers_separately() {
        let case = &named(&["readers-50-beside-8"]).unwrap()[0];
        assert_eq!((case.connections, case.operation), (50, Operation::Get));
        let writers = case.beside().unwrap();
        assert_eq!((writers.connections, writers.operation), (8, Operation::Put));
        assert!(writers.beside().is_none());
        let rows: Vec<(String, String)> =
            case.describe().into_iter().map(|row| (row.name, row.about)).collect();
        let (gets, puts) =
            ("gets, 50 connections, closed loop", "puts, 8 connections, closed loop");
        assert_eq!(
            rows,
            [
                ("readers-50-beside-8:get".to_owned(), format!("{gets}, beside {puts}")),
                ("readers-50-beside-8:put".to_owned(), format!("{puts}, beside {gets}")),
            ]
        );
    }

    #[test]
    fn benchmark_sweep_has_one_case_per_parameter_value() {
        let found = named(&["connections", "values", "keys"]).unwrap();
        let values: Vec<f64> =
            found.iter().map(|case| case.sweep.as_ref().unwrap().value).collect();
        assert_eq!(values[..4], [1.0, 8.0, 64.0, 512.0]);
        assert_eq!((found[8].value_bytes, found[8].keys), (1_048_576, 256));
        assert_eq!(found[11].keys, 1_000_000);
    }

    #[test]
    fn benchmark_case_name_includes_its_network_conditions() {
        let random = lossy(0.05, NetworkPath::PLAIN, None, 64, 100);
        assert_eq!(random.name, "loss-5");
        let seven = lossy(0.07, NetworkPath::PLAIN, None, 64, 100);
        assert_eq!(seven.name, "loss-7");
        assert!(seven.about().contains(" 7 % of packets"), "{}", seven.about());
        let path = NetworkPath { burst: 4, rtt_ms: Some(20), ..NetworkPath::PLAIN };
        let bursts = lossy(0.2, path, Some(5), 64, 100);
        assert_eq!(bursts.name, "loss-20-burst-4-rtt-20-replicas-5");
        assert_eq!(
            bursts.about(),
            "puts, 64 connections, closed loop, 20 % of packets lost in bursts of 4 on average, \
             20 ms round trip between replicas"
        );
        let link = ThinLink { mbit: 10, queue: Duration::from_millis(50) };
        let path = NetworkPath { link: Some(link), cross_traffic: true, ..NetworkPath::PLAIN };
        let thin = lossy(0.0, path, None, 64, 100);
        assert_eq!(thin.name, "loss-0-mbit-10-queue-50-cross");
        assert_eq!(
            thin.about(),
            "puts, 64 connections, closed loop, 0 % of packets lost, links of 10 Mbit/s with \
             queues of 50 ms, beside other TCP connections"
        );
        let names = [random, bursts].map(|case| case.sweep.unwrap().name);
        assert_eq!(
            names,
            [
                "puts under packet loss between replicas",
                "puts under packet loss between replicas, in bursts of 4 packets, 20 ms round \
                 trip, 5 replicas",
            ]
        );
    }

    #[test]
    fn unknown_benchmark_case_names_are_rejected() {
        for bad in [
            "put",
            "put-",
            "put-0",
            "put-64-x",
            "set-64",
            "put-64-16-2",
            "readers-5",
            "readers-5-beside-0",
        ] {
            let error = named(&[bad]).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("put-rate"), "{error}");
        }
        assert!(named(&["put-1", "put-1"]).unwrap_err().to_string().contains("twice"));
    }
}
