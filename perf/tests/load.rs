//! Tests of the program `perf load`, against scripted and real servers: what it measures, what
//! counts as failed, and that after invalid arguments or failures it gives a clear message and exit
//! code and keeps the results so far.

#[path = "load/programs.rs"]
mod programs;
#[path = "load/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use server::{Reply, Server};

/// Returns an empty folder for the test `name`.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("files of an earlier run can be deleted");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).args(arguments.split_whitespace());
    command
}

fn perf(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().expect("perf was built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that a run ended with the exit code `code`, and returns its JSON.
#[track_caller]
fn record(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("stdout holds JSON and nothing else")
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Returns the sum of the field `field` over all seconds of a run.
fn sum(record: &Value, field: &str) -> u64 {
    let seconds = record["per_second"].as_array().expect("a list");
    seconds.iter().map(|second| second[field].as_u64().expect("a count")).sum()
}

#[test]
fn perf_load_rejects_invalid_arguments_before_the_run() {
    let folder = folder("bad_arguments");
    for (arguments, word) in [
        ("", "--closed"),
        ("--rate 0", "--rate 0"),
        ("--rate -5", "--rate -5"),
        ("--rate NaN", "--rate NaN"),
        ("--rate 1e9", "--rate"),
        ("--rate fast", "fast"),
        ("--rate 10 --closed", "--closed"),
        ("--rate 0.5 --seconds 1", "less than one operation"),
        ("--closed --seconds 0", "--seconds 0"),
        ("--closed --connections 0", "--connections 0"),
        ("--closed --connections 1 --threads 2", "--threads 2"),
        ("--closed --keys 0", "--keys 0"),
        ("--closed --keys 5001 --key-size 8", "--keys 5001"),
        ("--closed --key-size 4", "--key-size 4"),
        ("--closed --theta 0", "--theta 0"),
        ("--closed --workload z", "--workload z"),
        ("--closed --target 127.0.0.1:1", "redis://"),
        ("--closed --target http://127.0.0.1:1", "`http`"),
        ("--closed --target redis://localhost", "`localhost`"),
        ("--closed --fail-if p99>5", "--fail-if"),
        ("--closed --fail-if achieved<95%", "closed loop"),
        ("--closed --history h -w d", "--history"),
        ("--closed --history h -d 8", "--value-size"),
        ("--closed --history h --no-preload", "--no-preload"),
        ("--closed --wait 1 --wait-aof 1", "--wait-aof"),
        ("--closed --history h --wait-aof 1", "--wait-aof"),
        ("--closed --workload e --target nats://127.0.0.1:1", "NATS does not support"),
        ("--closed --wait-aof 1 --target etcd://127.0.0.1:1", "WAITAOF"),
        ("--closed --out nowhere/../.hidden", ".hidden"),
    ] {
        let output = perf(&folder, &format!("load {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{arguments}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments}");
    }
}

#[test]
fn perf_load_reports_an_unreachable_server_at_once() {
    let folder = folder("nobody");
    let output = perf(&folder, "load --closed --target redis://127.0.0.1:1 --out x --json");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no server replies: 127.0.0.1:1"), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert_eq!(
        std::fs::read_dir(&folder).expect("the folder is readable").count(),
        0,
        "files were left behind"
    );
}

#[test]
fn completed_load_run_records_its_settings_and_latencies() {
    let (folder, server) = (folder("whole"), Server::start(|_, _| Reply::Execute));
    let arguments = "--rate 500 --seconds 2 --warm-up 0.5 -w a --keys 100 --verify --seed 3 \
                     --threads 2 -c 8 --fail-if errors>0";
    let output =
        perf(&folder, &format!("load --target {} {arguments} --out a --json", server.url()));
    let record = record(&output, 0);
    assert!(output.stderr.is_empty(), "no progress line without a terminal");
    assert_eq!((&record["schema"], &record["schema_version"]), (&"bowline-load".into(), &1.into()));
    assert_eq!(record["config"]["loop"], "open");
    assert_eq!(record["counts"]["succeeded"], 1000, "every request of the schedule");
    assert_eq!(record["counts"]["failed"], 0);
    assert_eq!(record["counts"]["not_found"], 0, "all keys were preloaded");
    assert_eq!(sum(&record, "succeeded"), 1000);
    assert_eq!(record["partial"], Value::Null);
    let all = &record["latencies"]["all"];
    let kinds = ["read", "update"].map(|kind| &record["latencies"][kind]["response"]["count"]);
    let counts: u64 = kinds.iter().map(|count| count.as_u64().expect("a count")).sum();
    assert_eq!((counts, &all["response"]["count"]), (1000, &1000.into()));
    assert!(seconds(&all["response"]["max_s"]) >= seconds(&all["service"]["max_s"]));
    assert_eq!(all["curve"].as_array().and_then(|curve| curve.last()).unwrap()["quantile"], 1.0);
    let read = |ending: &str| std::fs::read_to_string(folder.join(format!("a.{ending}"))).unwrap();
    assert!(read("hgrm").contains("Total count    =         1000]"), "{}", read("hgrm"));
    let log = read("hlog");
    assert!(log.contains("Tag=read,0.000,1.000,") && log.contains("Tag=update,1.000,1.000,"));
    let kept: Value = serde_json::from_str(&read("json")).expect("JSON");
    assert_eq!(kept["counts"], record["counts"]);
    assert_eq!(kept["name"], "a");

    // The same seed sends the same requests.
    let again = Server::start(|_, _| Reply::Execute);
    let arguments = arguments.replace("--threads 2", "--threads 1");
    for server in [&server, &again] {
        server.forget();
        let output = perf(&folder, &format!("load --target {} {arguments}", server.url()));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let sorted = |server: &Server| {
        let mut asked = server.received();
        asked.sort();
        asked
    };
    assert_eq!(sorted(&server), sorted(&again));
    assert_eq!(server.received().len(), 100 + 1250);
}

/// Coordinated omission: a server that stalls for 200 ms makes users wait, whether or not their
/// requests could be sent during the stall. A closed loop sees only a few slow replies, and so do
/// the service times of an open loop.
#[test]
fn only_open_loop_response_times_show_a_server_stall() {
    let folder = folder("stall");
    let stall = |number: u64, _: &str| match number {
        700 => Reply::After(Duration::from_millis(200), "+OK\r\n"),
        _ => Reply::Execute,
    };
    let run = |how: &str| {
        let server = Server::start_stalling_all(stall);
        let load = format!("load --target {} -w set -c 4 --warm-up 0 --json", server.url());
        let load = format!("{load} --fail-if errors>0");
        record(&perf(&folder, &format!("{load} {how}")), 0)
    };
    let open = run("--rate 1000 --seconds 2");
    let all = &open["latencies"]["all"];
    assert_eq!(all["response"]["count"], 2000);
    // 200 of 2,000 requests were due during the stall of 200 ms; at most four of those sent were in
    // flight. These bounds hold on any machine: a slower one only makes response times longer.
    assert!(seconds(&all["response"]["p99_s"]) > 0.150, "{all}");
    assert!(seconds(&all["response"]["p95_s"]) > 0.080, "{all}");
    let longest = seconds(&all["service"]["max_s"]);
    assert!(longest >= 0.2, "{all}");
    assert!(seconds(&open["lag"]["p99_s"]) > 0.140, "the requests waited here: {}", open["lag"]);
    // Four in flight of 2,000 are 0.2 %: the stall is beyond their 99th percentile.
    assert!(
        seconds(&all["service"]["p99_s"]) < seconds(&all["response"]["p99_s"]),
        "service times hide the stall: {all}"
    );
    let closed = run("--closed --seconds 2");
    assert_eq!(closed["latencies"]["all"]["response"], Value::Null);
    assert_eq!((&closed["config"]["loop"], &closed["lag"]), (&"closed".into(), &Value::Null));
}

#[test]
fn load_run_counts_errors_by_kind_and_not_as_successes() {
    let folder = folder("errors");
    let server = Server::start(|number, _| match number % 10 {
        1 => Reply::Text(
            "-UNCERTAIN the deadline passed or the leader changed; the command may or may not \
             have been applied, check before retrying\r\n",
        ),
        2 => Reply::Text("-TRYAGAIN nothing was done\r\n"),
        3 => Reply::Text("$1\r\nx\r\n"),
        _ => Reply::Execute,
    });
    let load = format!("load --target {} -w set --rate 500 --seconds 2 --warm-up 0", server.url());
    let output = perf(&folder, &format!("{load} --json"));
    let measured = record(&output, 1);
    let expected = serde_json::json!({ "UNCERTAIN": 100, "TRYAGAIN": 100, "corrupt": 100 });
    assert_eq!(measured["errors"], expected);
    assert_eq!(measured["counts"]["succeeded"], 700);
    assert_eq!(measured["latencies"]["all"]["response"]["count"], 700);
    assert_eq!((sum(&measured, "succeeded"), sum(&measured, "failed")), (700, 300));
    let failed = measured["failed"].to_string();
    assert!(failed.contains("errors>0 (300)") && failed.contains("achieved<95% ("), "{failed}");
    assert!(stderr(&output).contains("failed: errors>0 (300)"), "{}", stderr(&output));
    // Given conditions replace the default ones.
    let output = perf(&folder, &format!("{load} --json --fail-if errors>300"));
    assert_eq!(record(&output, 0)["failed"], serde_json::json!([]));
    let output = perf(&folder, &format!("{load} --csv --fail-if errors>=300"));
    assert_eq!(output.status.code(), Some(1));
    let csv = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(csv.starts_with("\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\""), "{csv}");
    assert!(csv.lines().nth(1).is_some_and(|line| line.starts_with("\"SET\",\"")), "{csv}");
}

/// Tests that a WAITAOF follows each write after the write's reply, and decides whether the write
/// succeeded.
#[test]
fn load_run_counts_a_write_only_if_waitaof_confirms_its_sync() {
    let folder = folder("wait_aof");
    let server = Server::start(|number, _| match number % 20 {
        1 => Reply::Text("*2\r\n:1\r\n:0\r\n"),
        3 => Reply::Text("*2\r\n:0\r\n:1\r\n"),
        _ => Reply::Execute,
    });
    let load = format!("load --target {} -w set -c 1 --rate 100 --seconds 2", server.url());
    let output = perf(&folder, &format!("{load} --warm-up 0 --wait-aof 1 --json"));
    let measured = record(&output, 1);
    assert_eq!(measured["errors"], serde_json::json!({ "WAITAOF": 40 }));
    assert_eq!(measured["counts"]["succeeded"], 160);
    let received = server.received();
    assert_eq!(received.len(), 400);
    for pair in received.chunks(2) {
        assert!(pair[0].starts_with("SET ") && pair[1] == "WAITAOF 1", "{pair:?}");
    }
}

#[test]
fn server_too_slow_for_the_request_rate_fails_the_load_run() {
    let folder = folder("slow");
    // With one connection and 20 ms per reply, at most 50 operations per second are possible.
    let server = Server::start(|_, _| Reply::After(Duration::from_millis(20), "+OK\r\n"));
    let load = format!("load --target {} -w set -c 1 --warm-up 0 --timeout 0.3", server.url());
    let output = perf(&folder, &format!("{load} --rate 200 --seconds 1 --json"));
    let record = record(&output, 1);
    let counts = &record["counts"];
    let (succeeded, unsent) = (counts["succeeded"].as_u64(), counts["unsent"].as_u64());
    assert!(unsent.is_some_and(|unsent| unsent > 0), "{counts}");
    let sum = succeeded.zip(unsent).map(|(a, b)| a + b + counts["failed"].as_u64().unwrap());
    assert_eq!(sum, Some(200), "every request of the schedule is accounted for: {counts}");
    assert!(record["failed"].to_string().contains("achieved<95%"));
    assert!(record["per_second"][0]["backlog"].as_u64().is_some_and(|backlog| backlog > 0));
}

#[test]
fn load_run_counts_a_missing_reply_as_a_timeout() {
    let folder = folder("timeout");
    let server =
        Server::start(|number, _| if number == 50 { Reply::Never } else { Reply::Execute });
    // The timeout is long enough for everything else on a busy machine, but much shorter than the
    // run; otherwise the reconnect would have no effect.
    let load = format!("load --target {} -w set -c 2 --warm-up 0 --timeout 3", server.url());
    let output = perf(&folder, &format!("{load} --rate 30 --seconds 7 --json"));
    let record = record(&output, 1);
    assert_eq!(record["errors"], serde_json::json!({ "timeout": 1 }));
    assert_eq!(record["counts"]["succeeded"], 209);
    assert_eq!(record["counts"]["reconnects"], 1);
}

#[test]
fn server_failure_during_a_load_run_leaves_a_partial_result() {
    let folder = folder("dies");
    let server =
        Server::start(|number, _| if number < 300 { Reply::Execute } else { Reply::Shutdown });
    let load = format!("load --target {} -w set -c 4 --warm-up 0 --give-up 5", server.url());
    let output = perf(&folder, &format!("{load} --rate 500 --seconds 30 --json --out kept"));
    let measured = record(&output, 2);
    let partial = measured["partial"].as_str().expect("it is marked");
    assert!(partial.contains("no successful reply from 127.0.0.1"), "{partial}");
    assert!(stderr(&output).contains("partial"), "{}", stderr(&output));
    assert_eq!(measured["counts"]["succeeded"], 300);
    assert!(measured["errors"]["connection"].as_u64().is_some_and(|lost| lost >= 1));
    assert!(measured["marks"].to_string().contains("lost"), "{}", measured["marks"]);
    let kept = std::fs::read_to_string(folder.join("kept.json")).expect("it was kept");
    assert_eq!(serde_json::from_str::<Value>(&kept).expect("JSON")["partial"], partial);
    assert!(folder.join("kept.hgrm").exists() && folder.join("kept.hlog").exists());
}

#[test]
fn load_generator_follows_a_moved_redirect() {
    let folder = folder("moved");
    let leader = Server::start(|_, _| Reply::Execute);
    let moved = format!("-MOVED 1 {}\r\n", leader.address());
    let follower = Server::start(move |_, _| Reply::Owned(moved.clone()));
    let load = format!("load --target {} -w set -c 4 --warm-up 0 --keys 10", follower.url());
    let output = perf(&folder, &format!("{load} --rate 200 --seconds 1 --json --fail-if errors>0"));
    let record = record(&output, 0);
    assert_eq!(record["counts"]["succeeded"], 200);
    let redirects = record["counts"]["redirects"].as_u64().expect("a count");
    assert!((1..=4).contains(&redirects), "at most one per connection: {redirects}");
    assert_eq!(leader.received().len(), 200);
    assert!(record["marks"].to_string().contains(&format!("{} is leader", leader.address())));
}

#[test]
fn load_run_reports_a_full_disk_and_keeps_its_other_outputs() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: this system has no /dev/full");
        return;
    }
    let (folder, server) = (folder("full"), Server::start(|_, _| Reply::Execute));
    let load = format!("load --target {} -w set --rate 200 --seconds 1 -c 2", server.url());
    for what in ["--json", "--history"] {
        let output = perf(&folder, &format!("{load} --out kept {what} /dev/full"));
        assert_eq!(output.status.code(), Some(2), "{what}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("/dev/full") && said.contains("space"), "{what}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("200 succeeded"), "{what}");
        assert!(folder.join("kept.json").exists(), "{what}");
        std::fs::remove_file(folder.join("kept.json")).expect("it is there");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let mut command = command(&folder, &format!("{load} --out kept --json"));
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("perf was built");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot print the results"), "{}", stderr(&output));
    assert!(folder.join("kept.json").exists());
    server.forget();
    let output = perf(&folder, &format!("{load} --out no-folder/\u{1}"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(server.received(), [""; 0], "checked before the run");
}

#[test]
fn perf_check_detects_non_linearizable_histories() {
    let folder = folder("history");
    let run = |server: &Server, file: &str| {
        let load = format!("load --target {} -w f --keys 20 -c 8", server.url());
        let load = format!(
            "{load} --rate 400 --seconds 1 --warm-up 0.2 --history {file} --fail-if errors>0"
        );
        let output = perf(&folder, &load);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        perf(&folder, &format!("check {file}"))
    };
    let honest = run(&Server::start(|_, _| Reply::Execute), "honest");
    let said = String::from_utf8_lossy(&honest.stdout).into_owned();
    assert_eq!(honest.status.code(), Some(0), "{said}");
    assert!(said.contains("linearizable") && said.contains("on 20 keys"), "{said}");
    // The server acknowledges every write but drops some of them.
    let forgets = Server::start(|number, _| match number {
        200..300 => Reply::Drop,
        _ => Reply::Execute,
    });
    let dishonest = run(&forgets, "dishonest");
    let said = String::from_utf8_lossy(&dishonest.stdout).into_owned();
    assert_eq!(dishonest.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT linearizable"), "{said}");
    std::fs::write(folder.join("other"), "x\n").unwrap();
    let output = perf(&folder, "check other");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("was not written by `perf load --history`"),
        "{}",
        stderr(&output)
    );
    assert_eq!(perf(&folder, "check none").status.code(), Some(2));
}

#[test]
fn perf_load_refuses_scan_workload_if_server_lacks_scan() {
    let (folder, server) = (folder("scans"), Server::start(|_, _| Reply::Execute));
    let output = perf(&folder, &format!("load --target {} -w e --closed", server.url()));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no SCAN"), "{}", stderr(&output));
}

#[test]
fn interrupted_load_run_keeps_its_results() {
    let (folder, server) = (folder("interrupted"), Server::start(|_, _| Reply::Execute));
    let load = format!("load --target {} -w set -c 2 --warm-up 0 --json", server.url());
    let mut command = command(&folder, &format!("{load} --rate 200 --seconds 60"));
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("perf was built");
    server.wait_for(100);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let record = record(&child.wait_with_output().expect("it ends"), 2);
    assert_eq!(record["partial"], "interrupted");
    assert!(record["counts"]["succeeded"].as_u64().is_some_and(|count| count >= 99));
}

/// Asserts that every kind of run works against a real server: reads, writes, verified reads, deep
/// pipelines, values larger than any buffer, and a history.
#[track_caller]
fn assert_measurable(folder: &Path, url: &str, server: &str) {
    let load = format!("load --target {url} --fail-if errors>0 --fail-if not_found>0 --json");
    // The timeouts tolerate a disk that is slow for a while.
    let load = format!("{load} --warm-up 0.1 --timeout 60 --give-up 60");
    for (what, succeeded) in [
        ("--rate 400 --seconds 1 -w f --keys 50 -c 8 --verify --threads 2", Some(400)),
        ("--closed --seconds 0.5 -w a --keys 50 -c 4 -P 16 --verify", None),
        ("--rate 20 --seconds 1 -w a --keys 4 -d 300000 -c 2 --verify", Some(20)),
        ("--rate 300 --seconds 1 -w a --keys 20 -c 8 -P 4 --history h", Some(300)),
    ] {
        let record = record(&perf(folder, &format!("{load} {what}")), 0);
        let named = record["target"]["server"].as_str().expect("a text");
        assert!(named.starts_with(server), "{named}");
        let count = record["counts"]["succeeded"].as_u64().expect("a count");
        assert!(succeeded.is_none_or(|succeeded| succeeded == count), "{what}: {count}");
        assert!(count > 0, "{what}");
    }
    let output = perf(folder, "check h");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn load_run_on_bowline_is_marked_partial_if_it_is_killed() {
    let folder = folder("bowline");
    let Some(mut bowline) = programs::bowline(&folder) else { return };
    assert_measurable(&folder, &bowline.url, "");
    // The server is killed during a run.
    let before = bowline.applied();
    let load = format!("load --target {} -w set --keys 50 --give-up 5 --json", bowline.url);
    let mut command = command(&folder, &format!("{load} --rate 200 --seconds 60 --history h"));
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("perf was built");
    // Wait for the preload, the warm-up and part of the measured window.
    while bowline.applied() < before + 50 + 200 + 100 {
        assert!(child.try_wait().expect("our own child").is_none(), "perf exited early");
        std::thread::sleep(Duration::from_millis(20));
    }
    bowline.kill();
    let record = record(&child.wait_with_output().expect("it ends"), 2);
    assert!(record["partial"].as_str().is_some_and(|why| why.contains("no successful reply")));
    assert_eq!(
        perf(&folder, "check h").status.code(),
        Some(0),
        "unknown outcomes are no violation"
    );
}

#[test]
fn load_run_on_redis_completes() {
    let folder = folder("redis");
    let Some(redis) = programs::redis(&folder) else { return };
    assert_measurable(&folder, &redis.url, "redis ");
    let load = format!("load --target {} --rate 100 --seconds 1 -w e --keys 50", redis.url);
    let record = record(&perf(&folder, &format!("{load} --json --fail-if errors>0")), 0);
    assert!(record["latencies"]["scan"]["service"]["count"].as_u64().is_some_and(|n| n > 50));
    assert_eq!(record["target"]["facts"]["appendonly"], "no");
}

#[test]
fn load_run_on_etcd_completes() {
    let folder = folder("etcd");
    let Some(etcd) = programs::etcd(&folder) else { return };
    assert_measurable(&folder, &etcd.url, "etcd 3");
    let load = format!("load --target {} --rate 100 --seconds 1 -w e --keys 50", etcd.url);
    let scans = record(&perf(&folder, &format!("{load} --json --fail-if errors>0")), 0);
    assert!(scans["latencies"]["scan"]["service"]["count"].as_u64().is_some_and(|n| n > 50));
    // The values exceed etcd's limit, so etcd itself reports the errors.
    let load = format!("load --target {} -w set -d 2000000 --keys 1", etcd.url);
    let output = perf(&folder, &format!("{load} --rate 5 --seconds 1 --warm-up 0 --json"));
    let errors = record(&output, 1)["errors"].clone();
    assert!(errors["INVALID_ARGUMENT"] == 5 || errors["RESOURCE_EXHAUSTED"] == 5, "{errors}");
}
