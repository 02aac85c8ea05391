//! Tests of the HTTP thread over real sockets. The tests themselves act as the network stage.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::metrics::{HttpCounts, Source, encode};
use super::service::{CONNECTIONS_MAX, STREAMS_MAX};
use super::*;
use crate::raft::DiskState;
use crate::redis::{Context, ReplicaInfo, Unready};
use crate::runtime::wake::tests::unused_wake;
use crate::types::{Instant, NodeId};

/// Timeout for tests that wait for bytes.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Time limit for a client to receive a response.
const RESPONSE_TIME: Duration = Duration::from_millis(500);

fn report() -> Report {
    let me = ReplicaInfo {
        id: NodeId(7),
        host: "::1".to_owned(),
        port: 6379,
        peer_port: 2,
        connected: true,
        match_index: None,
        path: None,
        disk: DiskState::Healthy,
        program: None,
    };
    let mut context = Context::alone(me, 0, Instant::ZERO);
    context.statistics.count_error(b"BAD\"\\CODE text");
    Report {
        context,
        subscriptions: (3, 4),
        clients_max: 5,
        clients_bytes_max: 6,
        memory_max: 0,
        queues: vec![QueueFill { name: "requests_to_core", items: 2 }],
        queue_items_max: 64,
    }
}

/// An HTTP thread, and the network stage's side of its queues if it is attached.
struct Server {
    address: SocketAddr,
    http: HttpServer,
    status: Arc<StatusBoard>,
}

impl Server {
    fn start() -> Server {
        // The other timeouts are long and irrelevant here.
        let limits = TimeLimits { response: RESPONSE_TIME, ..TimeLimits::default() };
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_address().unwrap();
        let http = HttpServer::start(listener, limits).unwrap();
        Server { address, http, status: Arc::default() }
    }

    fn attach(&self) -> HttpEnds {
        let boards = (&self.status, &Arc::default());
        self.http.attach(&unused_wake(), boards, &Arc::default(), Clock::start())
    }

    /// Returns a server with a thread that answers all questions until the server is dropped.
    fn answering() -> Server {
        let server = Server::start();
        let ends = server.attach();
        thread::spawn(move || {
            while let Ok(question) = ends.questions.recv() {
                ends.answer(match question {
                    Question::Report => Answer::Report(Box::new(report())),
                    Question::Readiness => Answer::Readiness(Err(Unready::Behind(9))),
                    Question::Liveness => Answer::Liveness,
                });
            }
        });
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Sends bytes on a new connection, and returns everything received until the server closes it.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        rest_of(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.exchange(request(path).as_bytes())
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

fn rest_of(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Returns the status and the body of a response.
fn parts(response: &str) -> (u16, &str) {
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{response}");
    (head[9..12].parse().unwrap(), body)
}

#[test]
fn probes_are_answered_while_the_replica_loads() {
    let server = Server::start();
    assert_eq!(parts(&server.get("/livez")), (200, "alive\nloading\n"));
    for path in ["/readyz", "/metrics", "/status"] {
        let response = server.get(path);
        let (status, body) = parts(&response);
        assert_eq!((status, body.starts_with("loading")), (503, true), "{path}: {body}");
    }
}

#[test]
fn pages_show_the_answers_of_the_network_stage() {
    let server = Server::answering();
    let response = server.get("/metrics?anything");
    let (status, text) = parts(&response);
    assert!(status == 200 && text.ends_with("\n# EOF\n"), "{text}");
    assert!(text.contains("\nbowline_http_requests_total{page=\"/metrics\"} 1\n"), "{text}");
    assert!(response.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
    let response = server.get("/status");
    let (_, text) = parts(&response);
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        (document["id"].as_u64(), document["address"].as_str()),
        (Some(7), Some("[::1]:6379"))
    );
    let response = server.get("/readyz");
    let (status, text) = parts(&response);
    assert_eq!((status, text.starts_with("behind: ")), (503, true), "{text}");
    let response = server.get("/other");
    assert_eq!(parts(&response), (404, "/metrics\n/status\n/livez\n/readyz\n/events\n"));
}

#[test]
fn files_of_the_live_page_are_served_while_the_replica_loads() {
    let server = Server::start();
    for (path, media_type, part) in [
        ("/", "text/html", "<title>Bowline</title>"),
        ("/page.css", "text/css", "color-scheme"),
        ("/page.js", "text/javascript", "\"use strict\""),
    ] {
        let response = server.get(path);
        assert!(response.contains(&format!("Content-Type: {media_type}")), "{response}");
        assert!(response.contains("Content-Security-Policy: default-src 'none'"), "{response}");
        let (status, text) = parts(&response);
        assert_eq!((status, text.contains(part)), (200, true), "{path}");
    }
}

#[test]
fn probes_and_scrapes_time_out_when_a_stage_hangs() {
    let server = Server::start();
    let ends = server.attach();
    // The network stage hangs.
    let streams = ["/livez", "/metrics", "/readyz"].map(|path| {
        let mut stream = server.connect();
        stream.write_all(request(path).as_bytes()).unwrap();
        stream
    });
    for mut stream in streams {
        let response = rest_of(&mut stream);
        let (status, text) = parts(&response);
        assert_eq!((status, text.starts_with("busy: the network stage")), (503, true), "{text}");
    }
    assert_eq!(ends.questions.len(), 3, "each question is asked once");
    // The network stage runs, but the core hangs.
    for question in ends.questions.try_iter() {
        ends.answer(match question {
            Question::Liveness => Answer::Liveness,
            Question::Readiness => Answer::Readiness(Ok(())),
            Question::Report => Answer::Report(Box::new(report())),
        });
    }
    let response = server.get("/livez");
    let (status, text) = parts(&response);
    assert_eq!((status, text), (503, "the core has not answered in time\n"));
    // The core publishes its status again.
    server.status.write(status_of_a_replica());
    let answering = thread::spawn(move || {
        let question = ends.questions.recv_timeout(TIMEOUT);
        ends.answer(Answer::Liveness);
        question
    });
    let mut stream = server.connect();
    stream.write_all(request("/livez").as_bytes()).unwrap();
    assert_eq!(answering.join().unwrap(), Ok(Question::Liveness));
    server.status.write(status_of_a_replica());
    assert_eq!(parts(&rest_of(&mut stream)), (200, "alive\n"));
}

fn status_of_a_replica() -> crate::raft::Status {
    use crate::config::Config;
    use crate::raft::{Durable, Replica};
    Replica::new(NodeId(1), &[], Config::server(), 1, Durable::default(), Instant::ZERO).status()
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::answering();
    let first = request("/livez?").replace("Connection: close\r\n", "");
    let head = first.replace("GET /livez?", "HEAD /metrics");
    let text = server.exchange(format!("{head}{}{}", head, request("/other")).as_bytes());
    let statuses: Vec<&str> = text.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(statuses, ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]);
    assert!(!text.contains("# EOF"), "HEAD has no body: {text}");
}

#[test]
fn slow_and_half_closed_clients_get_their_response() {
    let server = Server::answering();
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    for byte in request("/status").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(parts(&rest_of(&mut stream)).0, 200);
    // A client that disconnects while its request is queued does no harm.
    server.connect().write_all(request("/metrics").as_bytes()).unwrap();
    assert_eq!(parts(&server.get("/metrics")).0, 200);
}

#[test]
fn malformed_requests_get_an_error_and_are_disconnected() {
    let server = Server::answering();
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(20_000));
    let body = "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for (bytes, wanted) in [
        ("*1\r\n$4\r\nPING\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        ("GET /metrics HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n", 400),
        (body, 405),
        (&long, 431),
    ] {
        let response = server.exchange(bytes.as_bytes());
        assert_eq!(parts(&response).0, wanted, "{response}");
        assert!(response.contains("Connection: close\r\n"));
    }
    let text = server.get("/metrics");
    assert!(text.contains("\nbowline_http_requests_rejected_total 5\n"), "{text}");
}

#[test]
fn scrape_works_when_idle_connections_exceed_the_limit() {
    let server = Server::answering();
    let mut kept = server.connect();
    let keep = request("/livez?").replace("Connection: close\r\n", "").replace("livez", "other");
    let answer = |stream: &mut TcpStream| {
        stream.write_all(keep.as_bytes()).unwrap();
        let mut space = [0; 1_000];
        let count = stream.read(&mut space).unwrap();
        assert!(space[..count].starts_with(b"HTTP/1.1 404"), "{count} bytes");
    };
    answer(&mut kept);
    let silent: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX).map(|_| server.connect()).collect();
    assert_eq!(parts(&server.get("/metrics")).0, 200);
    // The connection that has sent a request is kept, not the silent ones.
    answer(&mut kept);
    let mut first = silent.into_iter().next().unwrap();
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "the oldest silent connection is closed");
}

#[test]
fn client_that_reads_no_response_is_disconnected() {
    let server = Server::answering();
    let mut slow = server.connect();
    // Far more requests and responses than fit into both sockets' buffers.
    let many = request("/other").replace("Connection: close\r\n", "").repeat(1_000_000);
    slow.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let written = slow.write_all(many.as_bytes());
    assert!(written.is_err(), "the server reads no further requests");
    assert_eq!(parts(&server.get("/metrics")).0, 200, "others are served meanwhile");
    thread::sleep(RESPONSE_TIME);
    slow.set_write_timeout(Some(TIMEOUT)).unwrap();
    let mut tries = 0..TIMEOUT.as_millis() / 10;
    while slow.write_all(b"x").is_ok() {
        assert!(tries.next().is_some(), "the connection is not closed");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the next event of a stream.
fn next_event(stream: &mut impl BufRead) -> serde_json::Value {
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream has ended");
    }
    serde_json::from_str(&line["data: ".len()..]).unwrap()
}

/// Returns the value of the first sample of a metric in an event.
fn value(event: &serde_json::Value, metric: &str) -> Option<f64> {
    event["metrics"][metric][0]["value"].as_f64()
}

#[test]
fn event_stream_sends_the_state_repeatedly() {
    let server = Server::answering();
    let mut stream = server.connect();
    stream.write_all(request("/events").as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0);
    }
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{head}");
    for _ in 0..3 {
        let event = next_event(&mut stream);
        assert_eq!(event["status"]["id"].as_u64(), Some(7), "{event}");
        for metric in metrics() {
            assert!(event["metrics"][&metric.name].is_array(), "{} in {event}", metric.name);
        }
        let queue = &event["metrics"]["bowline_queue_items"][0];
        assert_eq!(queue["labels"]["queue"].as_str(), Some("requests_to_core"));
        assert_eq!(value(&event, "bowline_queue_items"), Some(2.0));
    }
    let head = request("/events").replace("GET", "HEAD");
    let response = server.exchange(head.as_bytes());
    assert!(response.ends_with("Connection: close\r\n\r\n"), "HEAD has no events: {response}");
}

#[test]
fn event_streams_are_limited_and_end_with_their_clients() {
    let server = Server::answering();
    let open = || {
        let mut stream = server.connect();
        stream.write_all(request("/events").as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (line, stream)
    };
    let mut streams: Vec<_> = (0..STREAMS_MAX).map(|_| open()).collect();
    assert!(streams.iter().all(|(line, _)| line == "HTTP/1.1 200 OK\r\n"), "{streams:?}");
    let (line, _) = open();
    assert_eq!(line, "HTTP/1.1 503 Service Unavailable\r\n", "one too many");
    assert_eq!(parts(&server.get("/metrics")).0, 200, "scrapes are served meanwhile");
    // One client leaves, and one sends something.
    streams.pop();
    let (_, mut chatty) = streams.pop().unwrap();
    chatty.get_mut().write_all(b"x").unwrap();
    // The stream is closed, or reset because of the unread byte.
    let _ = std::io::copy(&mut chatty, &mut std::io::sink());
    for _ in 0..2 {
        let mut tries = 0..TIMEOUT.as_millis() / 10;
        let stream = loop {
            let (line, stream) = open();
            if line == "HTTP/1.1 200 OK\r\n" {
                break stream;
            }
            assert!(tries.next().is_some(), "a stream that has ended still counts");
            thread::sleep(Duration::from_millis(10));
        };
        streams.push((String::new(), stream));
    }
}

#[test]
fn event_stream_asks_only_while_read_and_reports_late_answers() {
    let server = Server::start();
    let ends = server.attach();
    let mut stream = server.connect();
    stream.write_all(request("/events").as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    assert_eq!(ends.questions.recv_timeout(TIMEOUT), Ok(Question::Report));
    ends.answer(Answer::Report(Box::new(report())));
    assert_eq!(next_event(&mut stream)["status"]["id"].as_u64(), Some(7));
    // The question for the second event gets no answer in time.
    assert_eq!(ends.questions.recv_timeout(TIMEOUT), Ok(Question::Report));
    let late = next_event(&mut stream);
    assert!(late["busy"].as_str().unwrap().starts_with("busy: the network stage"), "{late}");
    ends.answer(Answer::Report(Box::new(report())));
    assert_eq!(ends.questions.recv_timeout(TIMEOUT), Ok(Question::Report));
    drop(stream);
    ends.answer(Answer::Report(Box::new(report())));
    let unread = ends.questions.recv_timeout(Duration::from_millis(2_500));
    assert!(unread.is_err(), "a question without a reader: {unread:?}");
}

#[test]
fn encoded_metrics_have_the_listed_names_and_escaped_labels() {
    let report = report();
    let counters = RuntimeCounters::default();
    counters.log_sync_times.add(Duration::from_micros(20));
    let http = HttpCounts::default();
    let text = encode(Source { report: &report, counters: &counters, status: None, http });
    let typed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            if kind == "counter" { format!("{name}_total") } else { name.to_owned() }
        })
        .collect();
    let listed: Vec<String> = metrics().map(|metric| metric.name).collect();
    assert_eq!(typed, listed);
    let distinct: std::collections::BTreeSet<&String> = listed.iter().collect();
    assert_eq!(distinct.len(), listed.len(), "no duplicate names");
    for metric in metrics() {
        assert!(metric.help.ends_with('.') && metric.name.starts_with("bowline_"), "{metric:?}");
    }
    for line in [
        r#"bowline_error_replies_total{code="BAD\"\\CODE"} 1"#,
        r#"bowline_queue_items{queue="requests_to_core"} 2"#,
        r#"bowline_raft_role{role="follower"} 1"#,
        r#"bowline_log_sync_duration_seconds_bucket{le="0.000016384"} 0"#,
        r#"bowline_log_sync_duration_seconds_bucket{le="+Inf"} 1"#,
        "bowline_log_sync_duration_seconds_count 1",
        "# UNIT bowline_disk_free_bytes bytes",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}
