//! Metrics and probes over HTTP on three replicas, under commands, kills and hostile connections.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use bowline::runtime::metrics;

use crate::admin::{admin, json};
use crate::client::Client;
use crate::replicas::{Cluster, TIMEOUT, free_port};

/// Number of silent connections: far more than the server keeps.
const SILENT: usize = 200;

/// A cluster whose replicas serve HTTP, at these ports.
struct Served {
    cluster: Cluster,
    ports: Vec<u16>,
}

impl Served {
    fn start(count: usize) -> Served {
        let mut cluster = Cluster::start(count, "auto");
        cluster.wait_until_all_serve();
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        for at in 0..count {
            cluster.kill(at);
        }
        let mut served = Served { cluster, ports };
        (0..count).for_each(|at| served.start_replica(at));
        served.cluster.wait_until_all_serve();
        served
    }

    fn start_replica(&mut self, at: usize) {
        let mut command = self.cluster.command(at);
        command.args(["--http-listen", &format!("127.0.0.1:{}", self.ports[at])]);
        self.cluster.start_as(at, command);
    }

    fn connect(&self, at: usize) -> TcpStream {
        self.try_connect(at).unwrap()
    }

    fn try_connect(&self, at: usize) -> io::Result<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[at]));
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    /// Returns the status and the body of a page.
    fn get(&self, at: usize, path: &str) -> (u16, String) {
        self.try_get(at, path).unwrap()
    }

    fn try_get(&self, at: usize, path: &str) -> io::Result<(u16, String)> {
        let mut stream = self.try_connect(at)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        Ok((head[9..12].parse().unwrap(), body.to_owned()))
    }

    fn scrape(&self, at: usize) -> Scrape {
        let (status, text) = self.get(at, "/metrics");
        assert_eq!(status, 200, "{text}");
        Scrape::parse(&text)
    }

    fn wait_until_ready(&self, at: usize) {
        self.cluster.wait_for("a ready replica", || {
            // A replica that was just started may not listen yet.
            let page = self.try_get(at, "/readyz").ok()?;
            (page == (200, "ready\n".to_owned())).then_some(())
        });
    }
}

/// The metrics of a replica at one moment.
struct Scrape {
    /// Type of each metric, by name without a counter's suffix.
    types: BTreeMap<String, String>,
    /// The value of each sample, by its name and labels as they are written.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Parses the text format of OpenMetrics. Fails if a line is malformed, a sample occurs twice
    /// or has no type, a counter is negative, or a histogram is not cumulative.
    fn parse(text: &str) -> Scrape {
        let mut scrape = Scrape { types: BTreeMap::new(), samples: BTreeMap::new() };
        let mut bucket: (String, f64) = (String::new(), 0.0);
        let lines = text.strip_suffix("# EOF\n").expect("the end of the metrics").lines();
        for line in lines {
            if let Some(words) = line.strip_prefix("# TYPE ") {
                let (name, kind) = words.split_once(' ').expect("a name and a type");
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{line}");
                continue;
            }
            if line.starts_with("# HELP ") || line.starts_with("# UNIT ") {
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let name = sample.split('{').next().expect("a name");
            let is = |ending: &str, kind: &str| {
                let base = name.strip_suffix(ending);
                base.is_some_and(|base| scrape.types.get(base).is_some_and(|it| it == kind))
            };
            if is("_bucket", "histogram") {
                let (series, _) = sample.split_once("le=").expect("a bound");
                let rest = sample.rsplit_once("\",").map_or("", |(_, rest)| rest);
                let series = format!("{series}{rest}");
                assert!(bucket.0 != series || value >= bucket.1, "not cumulative: {line}");
                bucket = (series, value);
            } else {
                let known = [("_total", "counter"), ("", "gauge")];
                let of_histogram = ["_sum", "_count"].iter().any(|it| is(it, "histogram"));
                assert!(of_histogram || known.iter().any(|(end, kind)| is(end, kind)), "{line}");
                assert!(!is("_total", "counter") || value >= 0.0, "{line}");
            }
            assert_eq!(scrape.samples.insert(sample.to_owned(), value), None, "{line}");
        }
        scrape
    }

    /// Returns the value of a sample; 0 if there is none.
    fn value(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or(0.0)
    }
}

/// Returns the increase of a counter from one scrape to another.
fn rise(from: &Scrape, to: &Scrape, sample: &str) -> f64 {
    to.value(sample) - from.value(sample)
}

#[test]
fn metrics_count_exactly_the_commands_that_were_sent() {
    let served = Served::start(3);
    let leader = served.cluster.leader();
    for at in [leader, (leader + 1) % 3] {
        let mut client = Client::connect(served.cluster.address(at)).unwrap();
        client.call(&[b"SET", b"text", b"a"]).unwrap();
        let before = served.scrape(at);
        for _ in 0..7 {
            assert_eq!(client.call(&[b"SET", b"key", b"1"]).unwrap(), b"+OK\r\n");
        }
        for _ in 0..5 {
            assert_eq!(client.call(&[b"GET", b"key"]).unwrap(), b"$1\r\n1\r\n");
        }
        assert_eq!(client.call(&[b"GET", b"absent"]).unwrap(), b"$-1\r\n");
        assert!(client.call(&[b"INCR", b"text"]).unwrap().starts_with(b"-ERR value is not"));
        assert!(client.call(&[b"LPUSH", b"text", b"x"]).unwrap().starts_with(b"-WRONGTYPE"));
        assert!(client.call(&[b"GET"]).unwrap().starts_with(b"-ERR wrong number"));
        assert!(client.call(&[b"NONESUCH\"", b"x"]).unwrap().starts_with(b"-ERR unknown command"));
        let after = served.scrape(at);
        for (sample, wanted) in [
            ("bowline_commands_total", 17.0),
            ("bowline_command_calls_total{command=\"set\"}", 7.0),
            ("bowline_command_calls_total{command=\"get\"}", 6.0),
            ("bowline_command_calls_total{command=\"incr\"}", 1.0),
            ("bowline_command_failures_total{command=\"incr\"}", 1.0),
            ("bowline_command_failures_total{command=\"get\"}", 0.0),
            ("bowline_command_rejections_total{command=\"get\"}", 1.0),
            ("bowline_command_duration_seconds_count{command=\"set\"}", 7.0),
            ("bowline_command_duration_seconds_bucket{le=\"+Inf\",command=\"set\"}", 7.0),
            ("bowline_error_replies_total{code=\"ERR\"}", 3.0),
            ("bowline_error_replies_total{code=\"WRONGTYPE\"}", 1.0),
            ("bowline_error_replies_total{code=\"other\"}", 0.0),
            ("bowline_keyspace_lookups_total{result=\"hit\"}", 5.0),
            ("bowline_keyspace_lookups_total{result=\"miss\"}", 1.0),
            ("bowline_http_requests_total{page=\"/metrics\"}", 1.0),
            ("bowline_connections_total", 0.0),
        ] {
            let rise = rise(&before, &after, sample);
            assert!((rise - wanted).abs() < 0.5, "{sample} rose by {rise} at replica {}", at + 1);
        }
        assert!(
            rise(&before, &after, "bowline_command_duration_seconds_sum{command=\"set\"}") > 0.0
        );
        assert!(rise(&before, &after, "bowline_clients_received_bytes_total") > 17.0);
        assert!(after.samples.keys().all(|sample| !sample.to_lowercase().contains("nonesuch")));
        // `LATENCY HISTOGRAM` reports the same calls.
        let calls = after.value("bowline_command_duration_seconds_count{command=\"set\"}");
        let reply = client.call(&[b"LATENCY", b"HISTOGRAM", b"Set", b"nonesuch"]).unwrap();
        let reply = String::from_utf8(reply).unwrap();
        let start = format!("*2\r\n$3\r\nset\r\n*4\r\n$5\r\ncalls\r\n:{calls}\r\n");
        assert!(reply.starts_with(&format!("{start}$14\r\nhistogram_usec\r\n*")), "{reply}");
        assert!(reply.ends_with(&format!(":{calls}\r\n")), "cumulative: {reply}");
        let listed: Vec<String> = metrics().map(|metric| metric.name).collect();
        let named = |(name, kind): (&String, &String)| {
            if kind == "counter" { format!("{name}_total") } else { name.clone() }
        };
        let mut exported: Vec<String> = after.types.iter().map(named).collect();
        let mut wanted = listed.clone();
        exported.sort();
        wanted.sort();
        assert_eq!(exported, wanted);
    }
}

#[test]
fn metrics_of_a_cluster_agree_with_info_and_with_each_other() {
    let served = Served::start(3);
    let leader = served.cluster.leader();
    let mut client = Client::connect(served.cluster.address(leader)).unwrap();
    for _ in 0..20 {
        client.call_until_ok(&[b"INCR", b"n"]);
    }
    let scrape = served.cluster.wait_for("two followers that have the whole log", || {
        let scrape = served.scrape(leader);
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let lag = |at: &usize| {
            scrape.samples.get(&format!("bowline_peer_lag_entries{{peer=\"{}\"}}", at + 1)).copied()
        };
        others.iter().all(|at| lag(at) == Some(0.0)).then_some(scrape)
    });
    let of = |name: &str| scrape.value(name);
    assert!(of("bowline_raft_term") >= 1.0 && of("bowline_raft_leader_changes_total") >= 1.0);
    assert!((of("bowline_raft_leader_id") - (leader + 1) as f64).abs() < 0.5);
    assert!((of("bowline_raft_role{role=\"leader\"}") - 1.0).abs() < 0.5);
    assert!(of("bowline_raft_commit_index") >= 20.0);
    assert!(of("bowline_log_syncs_total") >= 1.0);
    let syncs = of("bowline_log_sync_duration_seconds_count") - of("bowline_log_syncs_total");
    assert!(syncs.abs() < 2.5, "the two numbers are read one after the other: {syncs}");
    assert!((of("bowline_disk_state{state=\"ok\"}") - 1.0).abs() < 0.5);
    assert!(of("bowline_memory_resident_bytes") > 1e6 && of("bowline_disk_free_bytes") > 1e6);
    for at in (0..3).filter(|at| *at != leader) {
        let connected = format!("bowline_peer_connected{{peer=\"{}\"}}", at + 1);
        assert!((of(&connected) - 1.0).abs() < 0.5);
        let follower = served.scrape(at);
        assert!((follower.value("bowline_raft_role{role=\"follower\"}") - 1.0).abs() < 0.5);
        assert!((follower.value("bowline_raft_term") - of("bowline_raft_term")).abs() < 0.5);
        let lag = format!("bowline_peer_lag_entries{{peer=\"{}\"}}", leader + 1);
        assert!(!follower.samples.contains_key(&lag), "only the leader knows match indexes");
    }
    // A replica reports the same about itself as `bowline admin` does.
    let (status, text) = served.get(leader, "/status");
    let own: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = json(&admin(&served.cluster, leader, &["status", "--json"]));
    let rows = all["replicas"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == own["id"]).unwrap().as_object().unwrap();
    assert_eq!((status, &own["members"]), (200, &all["members"]));
    for (name, value) in row {
        let by_leader = ["match_index", "rtt_us", "loss_permille"].contains(&&**name);
        let changes = name.ends_with("_index") || name.ends_with("_bytes");
        assert!(by_leader || changes || own[name] == *value, "{name}: {own} {value}");
        assert!(by_leader || own.get(name).is_some(), "{name} is missing in {own}");
    }
}

#[test]
fn readiness_and_leader_changes_follow_the_loss_of_leaders() {
    let mut served = Served::start(3);
    (0..3).for_each(|at| served.wait_until_ready(at));
    let changes = "bowline_raft_leader_changes_total";
    let first = served.cluster.leader();
    let before = served.scrape((first + 1) % 3).value(changes);
    let rest: Vec<usize> = (0..3).filter(|at| *at != first).collect();
    served.cluster.kill(first);
    let second = served.cluster.wait_for("the next leader", || served.cluster.leader_but(first));
    for at in &rest {
        served.wait_until_ready(*at);
    }
    assert!(admin(&served.cluster, second, &["ready"]).status.success());
    let after = served.scrape((first + 1) % 3).value(changes);
    assert!(after >= before + 1.0, "{before} leader changes, then {after}");
    // A single replica of three is alive, but not ready.
    served.cluster.kill(second);
    let last = *rest.iter().find(|at| **at != second).unwrap();
    let reason = served.cluster.wait_for("a replica that is not ready", || {
        let (status, text) = served.get(last, "/readyz");
        (status == 503).then_some(text)
    });
    assert!(
        reason.starts_with("no leader: ") || reason.starts_with("no confirmation: "),
        "{reason}"
    );
    assert_eq!(served.get(last, "/livez"), (200, "alive\n".to_owned()));
    assert_eq!(served.get(last, "/metrics").0, 200);
    served.start_replica(first);
    for at in [first, last] {
        served.wait_until_ready(at);
    }
    // Each process counts from its own start.
    let restarted = served.scrape(first).value(changes);
    assert!((1.0..=before + 3.0).contains(&restarted), "{restarted}");
}

#[test]
fn hostile_http_connections_do_not_stop_scrapes_or_commands() {
    let mut served = Served::start(3);
    let silent: Vec<TcpStream> = (0..SILENT).map(|_| served.connect(0)).collect();
    assert!(served.scrape(0).value("bowline_clients_limit") > 0.0);
    let mut random: u64 = 0x2545_F491_4F6C_DD1D;
    for length in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..=length * 7 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push(random.to_le_bytes()[0]);
        }
        if length % 2 == 0 {
            bytes.splice(..0, *b"GET /metrics HTTP/1.1\r\nHost: x\r\n");
        }
        let mut stream = served.connect(0);
        // The server may close the connection before it has received everything.
        let _ = stream.write_all(&bytes);
    }
    assert_eq!(served.get(0, "/livez"), (200, "alive\n".to_owned()));
    let scrape = served.scrape(0);
    assert!(scrape.value("bowline_http_requests_rejected_total") >= 1.0);
    let mut client = Client::connect(served.cluster.address(0)).unwrap();
    assert_eq!(client.call(&[b"SET", b"key", b"1"]).unwrap(), b"+OK\r\n");
    drop(silent);
    assert!((0..3).all(|at| served.cluster.runs(at)));
}

#[test]
fn stage_that_hangs_fails_the_liveness_probe_until_it_runs_again() {
    let mut served = Served::start(1);
    served.cluster.kill(0);
    let mut command = served.cluster.command(0);
    command.args(["--http-listen", &format!("127.0.0.1:{}", served.ports[0])]);
    command.args(["--enable-debug-command", "yes"]);
    served.cluster.start_as(0, command);
    served.cluster.wait_until_all_serve();
    let mut client = Client::connect(served.cluster.address(0)).unwrap();
    client.send(&crate::client::command(&[b"DEBUG", b"SLEEP", b"3"])).unwrap();
    let (_, text) = served.cluster.wait_for("a probe that fails", || {
        Some(served.get(0, "/livez")).filter(|(status, _)| *status == 503)
    });
    assert_eq!(text, "busy: the network stage has not answered in time\n");
    assert_eq!(client.reply().unwrap(), b"+OK\r\n");
    served.cluster.wait_for("a probe that succeeds", || {
        (served.get(0, "/livez") == (200, "alive\n".to_owned())).then_some(())
    });
}
