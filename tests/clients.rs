//! Unmodified Redis clients against a cluster of real processes: redis-cli, redis-benchmark,
//! redis-py, ioredis, node-redis and the `redis` crate, in their plain, cluster and Sentinel modes;
//! and the live page in headless Chromium.
//! `.ci/install-clients` installs them. A missing client is skipped with a message, unless
//! `BOWLINE_CLIENTS=required` is set, as in `.ci/run`.

#[path = "clients/cluster.rs"]
mod cluster;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cluster::{Cluster, SENTINEL_PORT_OFFSET};

/// Program that shows the live page.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Returns the path of a library that `.ci/install-clients` installs.
fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path)
}

/// Returns whether a client is installed, that is, whether `probe` succeeds. Prints a message if
/// not.
fn is_there(client: &str, mut probe: Command) -> bool {
    let there = probe.output().is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var_os("BOWLINE_CLIENTS").is_some_and(|word| word == "required");
        assert!(!required, "{client} is not installed; run .ci/install-clients");
        eprintln!("skipped: {client} is not installed; .ci/install-clients does it");
    }
    there
}

/// Returns the command that runs a program with these arguments.
fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command, which must succeed, and returns its output.
#[track_caller]
fn output(mut command: Command) -> String {
    let output = command.output().expect("it was there a moment ago");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

#[test]
fn redis_cli_reads_and_writes_on_every_replica() {
    if !is_there("redis-cli", command("redis-cli", &["--version"])) {
        return;
    }
    let cluster = Cluster::start();
    let ports = cluster.port_words();
    let ask = |port: &str, arguments: &[&str]| {
        output(command("redis-cli", &[&["-p", port], arguments].concat()))
    };
    for port in &ports {
        assert_eq!(ask(port, &["set", port, "hello"]), "OK\n");
    }
    for port in &ports {
        for key in &ports {
            assert_eq!(ask(port, &["get", key]), "hello\n", "replica {port}, key {key}");
        }
        assert_eq!(ask(port, &["-3", "mget", port, "nothing"]), "hello\n\n");
        assert_eq!(ask(port, &["-c", "append", &format!("{port}:c"), "hello!"]), "6\n");
        assert!(ask(port, &["nonesuch"]).starts_with("ERR unknown command 'nonesuch'"));
        assert!(ask(port, &["command", "docs", "get"]).contains("summary"));
        assert!(ask(port, &["client", "list"]).contains("cmd=client|list"));
        let checked = ask(port, &["--cluster", "check", &format!("127.0.0.1:{port}")]);
        assert!(checked.contains("All 16384 slots covered"), "{checked}");
    }
    assert_eq!(ask(&ports[1], &["dbsize"]), "7\n", "two of each, and one from the start");
    let user = ["acl", "setuser", "cli", "on", ">secret", "~*", "+@all"];
    assert!((0..1_000).any(|_| ask(&ports[0], &user) == "OK\n"), "the level is not raised");
    for port in &ports {
        let login = ["--user", "cli", "--pass", "secret", "--no-auth-warning"];
        let whoami = || ask(port, &[&login[..], &["acl", "whoami"]].concat());
        assert!((0..1_000).any(|_| whoami() == "cli\n"), "replica {port}");
        assert_eq!(ask(port, &[&login[..], &["get", port]].concat()), "hello\n");
    }
}

#[test]
fn redis_cli_selects_databases() {
    if !is_there("redis-cli", command("redis-cli", &["--version"])) {
        return;
    }
    let cluster = Cluster::start();
    let ports = cluster.port_words();
    let ask = |port: &str, arguments: &[&str]| {
        output(command("redis-cli", &[&["-p", port], arguments].concat()))
    };
    let selected = || ask(&ports[0], &["select", "3"]) == "OK\n";
    assert!((0..1_000).any(|_| selected()), "the level is not raised");
    for port in &ports {
        let set = || ask(port, &["-n", "3", "set", port, "three"]);
        assert!((0..1_000).any(|_| set() == "OK\n"), "replica {port}");
    }
    for port in &ports {
        assert_eq!(ask(port, &["-n", "3", "get", port]), "three\n");
        assert_eq!(
            ask(port, &["-u", &format!("redis://127.0.0.1:{port}/3"), "get", port]),
            "three\n"
        );
        assert_eq!(ask(port, &["get", port]), "\n");
        assert_eq!(ask(port, &["-n", "3", "dbsize"]), "3\n");
        assert!(ask(port, &["info", "keyspace"]).contains("db3:keys=3,expires=0,avg_ttl=0"));
    }
}

#[test]
fn redis_cli_pipe_mode_keeps_command_order() {
    if !is_there("redis-cli", command("redis-cli", &["--version"])) {
        return;
    }
    let cluster = Cluster::start();
    for port in cluster.port_words() {
        let mut child = command("redis-cli", &["-p", &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was there a moment ago");
        let mut input = child.stdin.take().expect("piped");
        let lines = format!("incr {port}\n").repeat(200);
        input.write_all(lines.as_bytes()).expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends with its input");
        let wanted: Vec<String> = (1..=200).map(|number| number.to_string()).collect();
        let found = String::from_utf8_lossy(&output.stdout);
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn redis_cli_bigkeys_scans_all_keys() {
    if !is_there("redis-cli", command("redis-cli", &["--version"])) {
        return;
    }
    let cluster = Cluster::start();
    for port in cluster.port_words() {
        let ask = |arguments: &[&str]| {
            output(command("redis-cli", &[&["-p", &port], arguments].concat()))
        };
        ask(&["flushall"]);
        for number in 0..40 {
            ask(&["set", &format!("string:{number}"), "value"]);
        }
        ask(&["rpush", "list", "a", "b", "c"]);
        ask(&["hset", "hash", "field", "value"]);
        ask(&["sadd", "set", "a", "b"]);
        ask(&["zadd", "sorted", "1", "a"]);
        let found = ask(&["--bigkeys"]);
        assert!(found.contains("Sampled 44 keys in the keyspace!"), "{found}");
        for line in ["1 lists with 3 items", "1 sets with 2 members", "40 strings with 200 bytes"] {
            assert!(found.contains(line), "no {line:?} in {found}");
        }
        assert!(ask(&["--memkeys"]).contains("Sampled 44 keys"));
        assert_eq!(ask(&["--scan", "--pattern", "string:*"]).lines().count(), 40);
    }
}

#[test]
fn redis_benchmark_runs_on_every_replica_without_errors() {
    if !is_there("redis-benchmark", command("redis-benchmark", &["--version"])) {
        return;
    }
    let cluster = Cluster::start();
    let load = "-q -n 2000 -c 20 -P 8 -d 100 -r 1000 -t ping,set,get,incr,mset";
    for port in cluster.port_words() {
        let arguments: Vec<&str> = ["-p", &port].into_iter().chain(load.split(' ')).collect();
        let report = output(command("redis-benchmark", &arguments));
        let rates = report.matches("requests per second").count();
        assert_eq!(rates, 6, "both kinds of ping, and the others: {report}");
        assert!(!report.to_lowercase().contains("err"), "{report}");
    }
}

#[test]
fn redis_py_client_test_script_passes() {
    let python = installed("python/bin/python");
    if !is_there("redis-py", command(&python, &["-c", "import redis"])) {
        return;
    }
    let cluster = Cluster::start();
    let mut script = command(&python, &["tests/clients/redis_py.py"]);
    script.args(cluster.port_words()).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

#[test]
fn redis_tools_work_with_tls() {
    if !is_there("redis-cli with TLS", command("redis-cli", &["--tls", "--version"])) {
        return;
    }
    let cluster = Cluster::start_secure();
    let file = |name: &str| cluster.certificates().join(name).display().to_string();
    let [ca, cert, key] = ["ca.crt", "client.crt", "client.key"].map(file);
    let tls = ["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key];
    for port in cluster.port_words() {
        let ask = |arguments: &[&str]| {
            output(command("redis-cli", &[&["-p", &port], &tls[..], arguments].concat()))
        };
        assert_eq!(ask(&["set", &port, "hello"]), "OK\n");
        assert_eq!(ask(&["-3", "get", &port]), "hello\n");
        assert_eq!(ask(&["-c", "append", &format!("{port}:c"), "hello!"]), "6\n");
        assert_eq!(ask(&["config", "get", "tls-port"]), format!("tls-port\n{port}\n"));
        let load = "-q -n 2000 -c 20 -P 8 -d 100 -r 1000 -t ping,set,get";
        let load: Vec<&str> = load.split(' ').collect();
        let report =
            output(command("redis-benchmark", &[&["-p", &port], &tls[..], &load].concat()));
        assert_eq!(report.matches("requests per second").count(), 4, "{report}");
        // A client without a certificate.
        let refused = command("redis-cli", &["-p", &port, "--tls", "--cacert", &ca, "ping"]);
        let refused = String::from_utf8_lossy(&{ refused }.output().unwrap().stdout).into_owned();
        assert!(!refused.contains("PONG"), "{refused}");
    }
}

#[test]
fn redis_py_works_with_tls() {
    let python = installed("python/bin/python");
    if !is_there("redis-py", command(&python, &["-c", "import redis"])) {
        return;
    }
    let cluster = Cluster::start_secure();
    let mut script = command(&python, &["tests/clients/tls.py"]);
    script.arg(cluster.certificates()).args(cluster.port_words());
    script.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

#[test]
fn node_clients_work_with_tls() {
    let folder = installed("");
    let [one, other] = ["ioredis", "redis"].map(|it| installed(&format!("node_modules/{it}")));
    let probe = format!("require('{}');require('{}')", one.display(), other.display());
    if !is_there("ioredis and node-redis", command("node", &["-e", &probe])) {
        return;
    }
    let cluster = Cluster::start_secure();
    let mut script = command("node", &["tests/clients/tls.cjs"]);
    script.arg(folder).arg(cluster.certificates()).args(cluster.port_words());
    script.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

/// Runs the guide's examples of ranges, lagging reads and locks unchanged.
#[test]
fn python_examples_of_the_coordination_page_run_on_every_replica() {
    let python = installed("python/bin/python");
    if !is_there("redis-py", command(&python, &["-c", "import redis"])) {
        return;
    }
    let page = include_str!("../src/guide/coordination.md");
    let blocks = page.split("```python\n").skip(1).map(|rest| rest.split("```").next());
    let example: String = blocks.flatten().collect();
    let cluster = Cluster::start();
    for port in cluster.port_words() {
        let script = format!("{}\nprint('done')", example.replace("7001", &port));
        assert_eq!(output(command(&python, &["-c", &script])), "done\n");
    }
}

/// Runs the guide's example of ONCE unchanged.
#[test]
fn python_example_of_the_guide_applies_each_command_once() {
    let python = installed("python/bin/python");
    if !is_there("redis-py", command(&python, &["-c", "import redis"])) {
        return;
    }
    let page = include_str!("../src/guide/guarantees.md");
    let begin = page.find("```python\n").expect("there is one example in Python");
    let example = page[begin..].lines().skip(1).take_while(|line| *line != "```");
    let example: Vec<&str> = example.collect();
    let cluster = Cluster::start();
    for port in cluster.port_words() {
        let example = example.join("\n").replace("7001", &port);
        let checks = "assert once(client, session, 1, 'INCR', 'visits') == 1\n\
                      assert client.get('visits') == b'2', client.get('visits')\n\
                      assert client.delete('visits') == 1\n\
                      print('counted')";
        let script = format!("{example}\n{checks}");
        assert_eq!(output(command(&python, &["-c", &script])), "counted\n");
    }
}

#[test]
fn ioredis_client_test_script_passes() {
    let folder = installed("");
    let probe = format!("require('{}')", installed("node_modules/ioredis").display());
    if !is_there("ioredis", command("node", &["-e", &probe])) {
        return;
    }
    let cluster = Cluster::start();
    let mut script = command("node", &["tests/clients/ioredis.cjs"]);
    script.arg(folder).args(cluster.port_words()).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

#[test]
fn node_redis_client_test_script_passes() {
    let folder = installed("");
    let probe = format!("require('{}')", installed("node_modules/redis").display());
    if !is_there("node-redis", command("node", &["-e", &probe])) {
        return;
    }
    let cluster = Cluster::start();
    let mut script = command("node", &["tests/clients/node_redis.cjs"]);
    script.arg(folder).args(cluster.port_words()).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

#[test]
fn live_page_shows_the_next_leader_after_the_leader_is_killed() {
    let folder = installed("");
    let probe = format!("require('{}')", installed("node_modules/playwright-core").display());
    if !is_there("Chromium", command(CHROMIUM, &["--version"]))
        || !is_there("playwright-core", command("node", &["-e", &probe]))
    {
        return;
    }
    let cluster = Cluster::start_with_pages();
    let mut script = command("node", &["tests/clients/live_page.cjs"]);
    script.arg(folder).arg(CHROMIUM).args(cluster.port_words()).args(cluster.page_port_words());
    script.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(output(script).contains("is content"));
}

#[test]
fn rust_redis_crate_client_test_program_passes() {
    let program = installed("crate/debug/bowline-crate-client");
    if !is_there("the redis crate", command(&program, &[])) {
        return;
    }
    let cluster = Cluster::start();
    let mut client = command(&program, &[]);
    client.args(cluster.port_words()).env("SENTINEL_PORT_OFFSET", SENTINEL_PORT_OFFSET.to_string());
    assert!(output(client).contains("is content"));
}
