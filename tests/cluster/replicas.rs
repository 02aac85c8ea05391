//! A cluster of built servers as child processes on loopback, which tests kill and restart.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Client, Connector};

/// Maximum time for anything that must happen. It is far more than needed, so that no test fails on
/// a slow machine.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// Next port to try, below the range of ports that systems use for outgoing connections.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Returns a free port of this machine.
pub(crate) fn free_port() -> u16 {
    loop {
        let own = u16::try_from(std::process::id() % 1_500).expect("below 1,500") * 12;
        // More than all tests use, so that no port is that of a replica which is down for a moment.
        let port = 12_000 + own + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 2_600;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

/// Flags with long deadlines, so that an election or a slow disk delays a reply but causes no
/// error.
const LONG_DEADLINES: &[&str] = &["--leader-wait-ms", "60000", "--command-deadline-ms", "60000"];

/// The `--cluster` option of all replicas. Its default is derived from the list of peers, which
/// differs between replicas behind proxies.
pub(crate) const CLUSTER: &str = "000000000000000000000000feedbee5";

/// Makes certificates for `count` replicas and for clients in a new folder.
pub(crate) fn make_certificates(folder: &Path, count: usize) {
    let made = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["admin", "certs", "--replicas", &count.to_string()])
        .arg(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A cluster of replica processes with the ids 1 to n.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) ports: Vec<u16>,
    /// The option `--peers` of each replica.
    peers: Vec<String>,
    peer_ports: Vec<u16>,
    threads: &'static str,
    flags: &'static [&'static str],
    /// The option `--cluster` of all replicas; `None` to take it from their folders.
    name: Option<&'static str>,
    /// Flags for the deadlines of requests; empty for the default deadlines.
    deadlines: &'static [&'static str],
    /// The program of each replica.
    programs: Vec<PathBuf>,
    /// The replicas that are started as witnesses, by their indexes.
    witnesses: Vec<usize>,
    children: Vec<Option<Child>>,
    /// The ports for clients with TLS, and the folder of the certificates; `None` if all
    /// connections are plain.
    secure: Option<(Vec<u16>, PathBuf)>,
}

impl Cluster {
    /// Starts `count` replicas with empty folders and long deadlines: on a busy machine, a leader
    /// may be lost and another one elected without an error for clients.
    pub(crate) fn start(count: usize, threads: &'static str) -> Cluster {
        Cluster::start_with(count, threads, &[])
    }

    /// Like [`Cluster::start`], with additional flags.
    pub(crate) fn start_with(
        count: usize,
        threads: &'static str,
        flags: &'static [&'static str],
    ) -> Cluster {
        Cluster::start_all(Cluster::between_ports(count, threads, flags, LONG_DEADLINES))
    }

    /// Starts replicas with the default deadlines, for tests of the errors that clients get.
    pub(crate) fn start_hasty(
        count: usize,
        threads: &'static str,
        flags: &'static [&'static str],
    ) -> Cluster {
        Cluster::start_all(Cluster::between_ports(count, threads, flags, &[]))
    }

    /// Starts replicas with the default deadlines that verify each other, and have a port for
    /// clients with TLS besides the plain one.
    pub(crate) fn start_secure(count: usize, threads: &'static str) -> Cluster {
        let peer_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let found = peer_ports.clone();
        Cluster::start_secure_between(peer_ports, threads, |_, to| found[to])
    }

    /// Like [`Cluster::start_secure`]. `port(from, to)` returns the port at which one replica
    /// reaches another.
    pub(crate) fn start_secure_between(
        peer_ports: Vec<u16>,
        threads: &'static str,
        port: impl Fn(usize, usize) -> u16,
    ) -> Cluster {
        let mut cluster = Cluster::new(peer_ports, threads, &[], &[], port);
        let certificates = cluster.folder.path().join("certs");
        make_certificates(&certificates, cluster.ports.len());
        let tls_ports = cluster.ports.iter().map(|_| free_port()).collect();
        cluster.secure = Some((tls_ports, certificates));
        Cluster::start_all(cluster)
    }

    /// Returns the folder of the certificates, and the port for clients with TLS of a replica.
    pub(crate) fn certificates(&self, at: usize) -> (&Path, u16) {
        let (ports, folder) = self.secure.as_ref().expect("it is a secure cluster");
        (folder, ports[at])
    }

    /// Returns how clients connect to a replica: with TLS if there is a port for it.
    pub(crate) fn connector(&self, at: usize) -> Connector {
        if self.secure.is_none() {
            return self.address(at).into();
        }
        let (folder, port) = self.certificates(at);
        let [ca, cert, key] = ["ca.crt", "client.crt", "client.key"].map(|name| folder.join(name));
        let config = bowline::tls::client_config(&ca, Some((&cert, &key))).unwrap();
        Connector::with_tls(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), config)
    }

    /// Returns a cluster of replicas whose folders must be restored before [`Cluster::restart`]
    /// starts them.
    pub(crate) fn of_new_folders(count: usize, threads: &'static str) -> Cluster {
        let mut cluster = Cluster::between_ports(count, threads, &[], LONG_DEADLINES);
        cluster.name = None;
        cluster
    }

    /// Starts replicas of another program, with long deadlines.
    pub(crate) fn start_program(
        count: usize,
        program: &Path,
        flags: &'static [&'static str],
    ) -> Cluster {
        let mut cluster = Cluster::between_ports(count, "auto", flags, LONG_DEADLINES);
        cluster.programs.fill(program.to_owned());
        Cluster::start_all(cluster)
    }

    /// Sets the program of a replica, from its next start on.
    pub(crate) fn set_program(&mut self, at: usize, program: &Path) {
        program.clone_into(&mut self.programs[at]);
    }

    fn between_ports(
        count: usize,
        threads: &'static str,
        flags: &'static [&'static str],
        deadlines: &'static [&'static str],
    ) -> Cluster {
        let peer_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let found = peer_ports.clone();
        Cluster::new(peer_ports, threads, flags, deadlines, |_, to| found[to])
    }

    /// Starts replicas with the default deadlines. `port(from, to)` returns the port at which one
    /// replica reaches another.
    pub(crate) fn start_between(
        peer_ports: Vec<u16>,
        threads: &'static str,
        flags: &'static [&'static str],
        port: impl Fn(usize, usize) -> u16,
    ) -> Cluster {
        Cluster::start_all(Cluster::new(peer_ports, threads, flags, &[], port))
    }

    fn new(
        peer_ports: Vec<u16>,
        threads: &'static str,
        flags: &'static [&'static str],
        deadlines: &'static [&'static str],
        port: impl Fn(usize, usize) -> u16,
    ) -> Cluster {
        let count = peer_ports.len();
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers = |from: usize| {
            let peer = |to: usize| format!("{}=127.0.0.1:{}", to + 1, port(from, to));
            let peers: Vec<String> = (0..count).map(peer).collect();
            peers.join(",")
        };
        let peers = (0..count).map(peers).collect();
        let folder = tempfile::tempdir().unwrap();
        let children = (0..count).map(|_| None).collect();
        let name = Some(CLUSTER);
        let programs = vec![PathBuf::from(env!("CARGO_BIN_EXE_bowline")); count];
        let secure = None;
        let witnesses = Vec::new();
        Cluster {
            folder,
            ports,
            peers,
            peer_ports,
            threads,
            flags,
            name,
            deadlines,
            programs,
            witnesses,
            children,
            secure,
        }
    }

    fn start_all(mut cluster: Cluster) -> Cluster {
        for at in 0..cluster.ports.len() {
            cluster.spawn(at, Some("--bootstrap"));
        }
        cluster
    }

    /// Returns the path of a replica's data folder.
    pub(crate) fn replica_folder(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("replica-{}", at + 1))
    }

    /// Returns the command that starts a replica, for tests that change it.
    pub(crate) fn command(&self, at: usize) -> Command {
        self.command_at(at, self.ports[at], self.peer_ports[at])
    }

    /// Returns the command that starts a replica with other ports.
    pub(crate) fn command_at(&self, at: usize, port: u16, peer_port: u16) -> Command {
        self.command_with(at, port, peer_port, &self.peers[at])
    }

    /// Returns the command that starts a replica with only the replicas `named` in `--peers`.
    pub(crate) fn command_naming(&self, at: usize, named: &[usize]) -> Command {
        let all: Vec<&str> = self.peers[at].split(',').collect();
        let named: Vec<&str> = named.iter().map(|place| all[*place]).collect();
        self.command_with(at, self.ports[at], self.peer_ports[at], &named.join(","))
    }

    fn command_with(&self, at: usize, port: u16, peer_port: u16, peers: &str) -> Command {
        let mut command = Command::new(&self.programs[at]);
        // Behind proxies, replicas must not learn of a direct way.
        let is_proxied = self.peers.iter().any(|it| !it.is_empty() && *it != self.peers[0]);
        let announced =
            if is_proxied { "none".to_owned() } else { format!("127.0.0.1:{peer_port}") };
        command
            .args(["serve", "--stop-with-stdin", "--threads", self.threads])
            .args(["--id", &(at + 1).to_string()])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--peer-listen", &format!("127.0.0.1:{peer_port}")])
            .args(["--peers", peers])
            .args(["--announce-peer", &announced])
            .args(self.name.iter().flat_map(|name| ["--cluster", name]))
            .arg("--dir")
            .arg(self.replica_folder(at))
            .args(self.flags)
            .args(self.witnesses.contains(&at).then_some("--witness"))
            .args(self.deadlines)
            .args(self.tls_flags(at))
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        command
    }

    fn tls_flags(&self, at: usize) -> Vec<OsString> {
        let Some((ports, folder)) = &self.secure else { return Vec::new() };
        let mut flags: Vec<OsString> = vec!["--tls-port".into(), ports[at].to_string().into()];
        for prefix in ["--", "--peer-"] {
            for (name, file) in [
                ("cert", format!("replica-{}.crt", at + 1)),
                ("key", format!("replica-{}.key", at + 1)),
                ("ca-cert", "ca.crt".to_owned()),
            ] {
                flags.extend([format!("{prefix}tls-{name}-file").into(), folder.join(file).into()]);
            }
        }
        flags.extend(["--peer-tls-domain".into(), "test.bowline".into()]);
        flags
    }

    fn spawn(&mut self, at: usize, flag: Option<&str>) {
        let mut command = self.command(at);
        command.args(flag);
        self.start_as(at, command);
    }

    /// Starts one more replica, which is to be added to the cluster. Returns its address for peers.
    pub(crate) fn add_joining(&mut self) -> String {
        self.ports.push(free_port());
        self.peer_ports.push(free_port());
        self.peers.push(String::new());
        self.children.push(None);
        self.programs.push(PathBuf::from(env!("CARGO_BIN_EXE_bowline")));
        let at = self.children.len() - 1;
        self.spawn(at, Some("--join"));
        format!("127.0.0.1:{}", self.peer_ports[at])
    }

    /// Starts one more replica, a witness, which is to be added to the cluster. Returns its address
    /// for peers.
    pub(crate) fn add_witness(&mut self) -> String {
        self.witnesses.push(self.children.len());
        self.add_joining()
    }

    /// Gives a replica that is not running other ports.
    pub(crate) fn move_ports(&mut self, at: usize) {
        assert!(!self.runs(at), "replica {} runs", at + 1);
        (self.ports[at], self.peer_ports[at]) = (free_port(), free_port());
    }

    /// Starts a replica with the given command.
    pub(crate) fn start_as(&mut self, at: usize, mut command: Command) {
        let path = self.folder.path().join(format!("replica-{}.log", at + 1));
        let log = File::options().create(true).append(true).open(path).unwrap();
        assert!(!self.runs(at), "replica {} runs already", at + 1);
        self.children[at] = Some(command.stderr(log).spawn().unwrap());
    }

    /// Waits until a replica's process exits by itself, and returns its exit status.
    pub(crate) fn end_of(&mut self, at: usize) -> ExitStatus {
        let mut child = self.children[at].take().expect("it was started");
        let step = Duration::from_millis(20);
        let mut left = TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if left.is_zero() {
                child.kill().unwrap();
                panic!("replica {} runs on\n{}", at + 1, self.logs());
            }
            thread::sleep(step);
            left = left.saturating_sub(step);
        }
    }

    /// Returns the option `--peers` of a replica.
    pub(crate) fn peers(&self, at: usize) -> &str {
        &self.peers[at]
    }

    /// Returns the peer port of a replica.
    pub(crate) fn peer_port(&self, at: usize) -> u16 {
        self.peer_ports[at]
    }

    /// Runs a command that must exit by itself, and returns its output.
    pub(crate) fn run_to_end(mut command: Command) -> Output {
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut left = TIMEOUT;
        while child.try_wait().unwrap().is_none() {
            if left.is_zero() {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it runs, but it should have refused to");
            }
            thread::sleep(Duration::from_millis(20));
            left = left.saturating_sub(Duration::from_millis(20));
        }
        child.wait_with_output().unwrap()
    }

    /// Kills a replica with SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.children[at].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends SIGTERM to a replica, which then stops gracefully.
    pub(crate) fn terminate(&self, at: usize) {
        self.signal(at, rustix::process::Signal::TERM);
    }

    /// Stops a replica gracefully, and returns the exit status of its process.
    pub(crate) fn stop(&mut self, at: usize) -> ExitStatus {
        self.terminate(at);
        self.end_of(at)
    }

    /// Starts a replica that is not running.
    pub(crate) fn restart_one(&mut self, at: usize) {
        self.spawn(at, None);
    }

    /// Starts all replicas that are not running.
    pub(crate) fn restart(&mut self) {
        for at in 0..self.children.len() {
            if self.children[at].is_none() {
                self.spawn(at, None);
            }
        }
    }

    /// Returns the process id of a running replica.
    pub(crate) fn process(&self, at: usize) -> u32 {
        self.children[at].as_ref().expect("it runs").id()
    }

    /// Starts replicas with a limit on open file descriptors.
    pub(crate) fn start_short_of_files(count: usize, files: u16) -> Cluster {
        let mut cluster = Cluster::start(count, "auto");
        cluster.wait_until_all_serve();
        for at in 0..count {
            cluster.kill(at);
            let served = cluster.command(at);
            let mut command = Command::new("sh");
            command
                .args(["-c", "ulimit -n $0; exec \"$@\"", &files.to_string()])
                .arg(served.get_program())
                .args(served.get_args())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            cluster.children[at] = Some(command.spawn().unwrap());
        }
        cluster
    }

    /// Returns whether a replica's process is still running.
    pub(crate) fn runs(&mut self, at: usize) -> bool {
        self.children[at].as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[at]))
    }

    /// Waits until a replica reports that it is the leader, and returns the replica's index.
    pub(crate) fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.ports.len()).collect();
        self.wait_for("a leader", || self.leader_of(&all))
    }

    /// Returns a replica in `some` that reports that it is the leader; `None` if there is none.
    pub(crate) fn leader_of(&self, some: &[usize]) -> Option<usize> {
        let leads = |at: &usize| {
            let reply = Client::connect(self.address(*at)).and_then(|mut c| c.call(&[b"ROLE"]));
            reply.is_ok_and(|reply| reply.starts_with(b"*3\r\n$6\r\nmaster"))
        };
        some.iter().copied().find(leads)
    }

    /// Returns a replica other than `at` that reports that it is the leader; `None` if there is
    /// none.
    pub(crate) fn leader_but(&self, at: usize) -> Option<usize> {
        let others: Vec<usize> = (0..self.ports.len()).filter(|other| *other != at).collect();
        self.leader_of(&others)
    }

    /// Returns the highest term of any replica.
    pub(crate) fn term(&self) -> u64 {
        (0..self.ports.len()).map(|at| self.info::<u64>(at, "raft_term")).max().unwrap_or(0)
    }

    /// Returns the value of a field of a replica's `INFO`.
    pub(crate) fn info<T: std::str::FromStr>(&self, at: usize, field: &str) -> T {
        self.wait_for(field, || {
            let mut client = Client::connect(self.address(at)).ok()?;
            let text = String::from_utf8(client.call(&[b"INFO", b"raft"]).ok()?).ok()?;
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(name, _)| *name == field)?.1.parse().ok()
        })
    }

    /// Suspends a replica's process. Its sockets stay open.
    pub(crate) fn pause(&self, at: usize) {
        self.signal(at, rustix::process::Signal::STOP);
    }

    /// Resumes a replica's process.
    pub(crate) fn resume(&self, at: usize) {
        self.signal(at, rustix::process::Signal::CONT);
    }

    fn signal(&self, at: usize, signal: rustix::process::Signal) {
        let child = self.children[at].as_ref().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
    }

    /// Waits until every replica serves writes.
    pub(crate) fn wait_until_all_serve(&self) {
        for at in 0..self.ports.len() {
            self.wait_for("a replica that serves", || {
                let mut client = Client::connect(self.address(at)).ok()?;
                let reply = client.call(&[b"SET", b"probe", b"1"]).ok()?;
                (reply == b"+OK\r\n").then_some(())
            });
        }
    }

    /// Waits until all replicas have applied the same entries and have equal state digests.
    pub(crate) fn wait_until_states_are_equal(&self) {
        let state = |at| {
            let index: u64 = self.info(at, "raft_applied_index");
            (index, self.info::<String>(at, "raft_state_digest"))
        };
        self.wait_for("equal states", || {
            let first = state(0);
            (1..self.ports.len()).all(|at| state(at) == first).then_some(())
        });
    }

    /// Waits until `look` returns a value, and returns it. Fails after [`TIMEOUT`] with `what`.
    pub(crate) fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let step = Duration::from_millis(20);
        let mut left = TIMEOUT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(!left.is_zero(), "waited in vain for {what}\n{}", self.logs());
            thread::sleep(step);
            left = left.saturating_sub(step);
        }
    }

    /// Returns the output of a replica.
    pub(crate) fn log(&self, at: usize) -> String {
        let path = self.folder.path().join(format!("replica-{}.log", at + 1));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Returns the end of the output of all replicas, for the message of a failed test.
    pub(crate) fn logs(&self) -> String {
        let read = |at: usize| {
            let text = self.log(at);
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            format!("replica {}:\n{last}\n", at + 1)
        };
        (0..self.ports.len()).map(read).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.children.len() {
            self.kill(at);
        }
    }
}
