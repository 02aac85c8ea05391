//! Network namespaces that are connected by a bridge, drop packets from each other, and can be
//! connected through a relay that delays packets.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bowline::sim::rng::Rng;
use tempfile::TempDir;

use super::drops;
use super::relay::{self, Relay, RelayCounters, ThinLink};
use crate::compare::{Child, Host, Link, NetworkPath, command, find_program};

/// Last byte of the IP address of the bridge, from which clients connect. The last bytes of the
/// hosts' addresses are 1, 2, 3 and so on.
const BRIDGE_NUMBER: u8 = 254;
/// Id of the routing table that sends packets between hosts to the relay.
const RELAY_TABLE: &str = "100";
/// Maximum number of checks, 5 ms apart, whether a new process has entered its own network
/// namespace.
const NAMESPACE_TRIES: u32 = 500;

/// A simulated network: one network namespace for each host, kept alive by a sleeping process.
#[derive(Debug)]
pub(super) struct Net {
    holders: Vec<Child>,
    /// Packet loss and retransmission timeout that were set last; `None` if they have not been set
    /// yet.
    link: Option<Link>,
    /// The constant properties of the paths between hosts.
    path: NetworkPath,
    /// Delays the packets between hosts; `None` if they are not delayed.
    relay: Option<Relay>,
    /// The processes that send and receive cross traffic.
    cross_traffic: Vec<Child>,
    /// Folder of their logs.
    logs: TempDir,
    /// Generates the patterns of lost packets.
    rng: Rng,
    /// Name of the TCP congestion control algorithm of all hosts.
    congestion_control: String,
    /// Error message if the hosts may combine TCP segments into larger packets because this could
    /// not be turned off; `None` if they send each segment as a separate packet.
    large_packets: Option<String>,
}

/// Offload features of network devices that combine TCP segments into larger packets, so that
/// several segments are lost at once.
const OFFLOADS: [&str; 3] =
    ["tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"];

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

impl Net {
    /// Creates `hosts` simulated hosts and a bridge that connects them. The bridge is created in
    /// this program's network namespace, which must not be the machine's own. The hosts use the
    /// given TCP congestion control, and send each TCP segment as a separate packet, as on a real
    /// network. `seed` determines which packets of a burst pattern are lost.
    pub(super) fn new(
        hosts: u8,
        path: NetworkPath,
        congestion_control: &str,
        seed: u64,
    ) -> anyhow::Result<Net> {
        let mut net = Net {
            holders: Vec::new(),
            link: None,
            path,
            relay: None,
            cross_traffic: Vec::new(),
            logs: TempDir::new().context("cannot create a folder for logs; check TMPDIR")?,
            rng: Rng::new(seed),
            congestion_control: congestion_control.to_owned(),
            large_packets: None,
        };
        run("ip", &["link", "set", "lo", "up"], None)?;
        run("ip", &["link", "add", "bridge", "type", "bridge"], None).context(
            "cannot create a network bridge; `perf lossy` needs a Linux kernel with bridges \
             and veth",
        )?;
        let own = format!("{}/24", address(BRIDGE_NUMBER));
        run("ip", &["address", "add", &own, "dev", "bridge"], None)?;
        run("ip", &["link", "set", "bridge", "up"], None)?;
        if path.rtt_ms.is_some() || path.link.is_some() {
            net.relay = Some(start_relay(path)?);
        }
        for number in 1..=hosts {
            net.add_host(number)?;
        }
        net.set_routes(None).with_context(|| {
            let available = "/proc/sys/net/ipv4/tcp_available_congestion_control";
            let available = fs::read_to_string(available).unwrap_or_default();
            format!(
                "cannot use the TCP congestion control {congestion_control}; give one of these \
                 with --congestion-control: {}",
                available.trim()
            )
        })?;
        if path.cross_traffic {
            net.start_cross_traffic()?;
        }
        Ok(net)
    }

    fn add_host(&mut self, number: u8) -> anyhow::Result<()> {
        let unshare = find_program("unshare")
            .context("the program unshare is not installed (Debian package: util-linux)")?;
        let mut holder = command(&unshare, None);
        holder.args(["--net", "--", "sleep", "infinity"]);
        let holder = Child::start("namespace holder", holder, Path::new("/dev/null"))?;
        let id = holder.id();
        await_own_network(id)?;
        self.holders.push(holder);
        let (ours, theirs) = (format!("port{number}"), "eth0");
        let within = id.to_string();
        let pair = ["link", "add", &ours, "type", "veth", "peer", "name", theirs, "netns", &within];
        run("ip", &pair, None)?;
        run("ip", &["link", "set", &ours, "master", "bridge", "up"], None)?;
        let address = format!("{}/24", address(number));
        run("ip", &["address", "add", &address, "dev", theirs], Some(id))?;
        run("ip", &["link", "set", "lo", "up"], Some(id))?;
        run("ip", &["link", "set", theirs, "up"], Some(id))?;
        let one_segment = ["link", "set", "dev", theirs, "gso_max_segs", "1"];
        if let Err(error) = run("ip", &one_segment, Some(id)) {
            self.large_packets = Some(format!("{error:#}"));
        }
        Ok(())
    }

    /// Starts TCP connections that send as fast as they can between all hosts.
    fn start_cross_traffic(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe()
            .context("cannot determine the path of the program `perf`, which is to be started")?;
        let hosts = self.hosts();
        for (number, host) in (1..).zip(&hosts) {
            let others = hosts.iter().map(|other| other.address.to_string());
            let others: Vec<String> =
                others.filter(|other| *other != host.address.to_string()).collect();
            let mut command = command(&program, host.within);
            command.args(["cross-traffic", "--to", &others.join(",")]);
            let name = format!("cross-traffic-{number}");
            let log = self.logs.path().join(format!("{name}.log"));
            self.cross_traffic.push(Child::start(&name, command, &log)?);
        }
        Ok(())
    }

    /// Returns an error if this kernel does not support setting the minimum TCP retransmission
    /// timeout (RTO); `None` if it does.
    pub(super) fn rto_min_error(&self) -> Option<anyhow::Error> {
        let set = |ms| {
            self.set_routes(ms)
                .context("cannot set the minimum TCP retransmission timeout (RTO) of a route")
        };
        set(Some(5)).and_then(|()| set(None)).err()
    }

    /// Sets the TCP congestion control of all hosts, and their minimum TCP retransmission timeout
    /// (RTO) in milliseconds (`None` for the kernel's default). Both are set as properties of
    /// routes, because inside a network namespace the kernel's global setting accepts only some
    /// congestion control algorithms.
    fn set_routes(&self, rto_min_ms: Option<u32>) -> anyhow::Result<()> {
        for (number, holder) in (1..).zip(&self.holders) {
            let network = format!("{}/24", address(0));
            let own = address(number).to_string();
            let timer = rto_min_ms.map(|ms| format!("{ms}ms"));
            let mut arguments = vec!["route", "change", &network, "dev", "eth0", "src", &own];
            let router = address(BRIDGE_NUMBER).to_string();
            match self.relay {
                // The bridge does not forward packets to other hosts; this namespace routes the
                // packets.
                Some(_) => arguments.extend(["via", &router, "onlink"]),
                None => arguments.extend(["proto", "kernel", "scope", "link"]),
            }
            arguments.extend(["congctl", &self.congestion_control]);
            arguments.extend(timer.iter().flat_map(|timer| ["rto_min", timer]));
            run("ip", &arguments, Some(holder.id()))?;
        }
        Ok(())
    }

    /// Returns the properties of the simulated network for the results file, as names and values.
    pub(super) fn describe(&self) -> BTreeMap<String, String> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let timer = fs::read_to_string("/proc/sys/net/ipv4/tcp_rto_min_us");
        let timer = timer.ok().and_then(|text| text.trim().parse::<u32>().ok());
        let timer = timer.map_or_else(
            || "the kernel's default, 200 ms".to_owned(),
            |microseconds| format!("{} ms", f64::from(microseconds) / 1e3),
        );
        let packets = match &self.large_packets {
            None => "one segment each (gso_max_segs 1)".to_owned(),
            Some(error) => format!("as large as the kernel likes: {error}"),
        };
        let loss = match self.path.burst {
            1 => "each packet at random".to_owned(),
            mean => format!("in bursts of {mean} packets on average"),
        };
        let delay = match (&self.relay, self.path.rtt_ms.unwrap_or(0)) {
            (None, _) => "none".to_owned(),
            (Some(_), rtt_ms) => format!(
                "round trip of {rtt_ms} ms between replicas, by a relay on a TUN device; up to {} \
                 packets wait in the relay and {} in the device, further ones are dropped",
                relay::PACKETS_MAX,
                relay::DEVICE_PACKETS_MAX
            ),
        };
        let link = match self.path.link {
            None => "not limited".to_owned(),
            Some(ThinLink { mbit, queue }) => format!(
                "{mbit} Mbit/s from each replica to each other one, with a queue of {} ms",
                queue.as_millis()
            ),
        };
        let cross = "a TCP connection from each host to each other one that sends all the time";
        let cross = if self.path.cross_traffic { cross } else { "none" };
        let facts = [
            ("link rate", link),
            ("cross traffic", cross.to_owned()),
            ("network kernel", kernel.trim().to_owned()),
            ("packet loss", format!("{loss}, by nftables on arrival from other replicas")),
            ("packet delay", delay),
            ("packets", packets),
            ("offloads", self.offloads()),
            ("TCP congestion control", self.congestion_control.clone()),
            ("TCP minimal timer", format!("{timer}, unless a system has its own")),
        ];
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Returns as text which offload features of the first host's network device are on, or why
    /// this is unknown.
    fn offloads(&self) -> String {
        let shown = in_network("ethtool", self.holders.first().map(Child::id))
            .map(|mut command| command.args(["-k", "eth0"]).stdin(Stdio::null()).output());
        match shown {
            Ok(Ok(output)) if output.status.success() => {
                read_offloads(&String::from_utf8_lossy(&output.stdout))
            }
            Ok(_) => "unknown: ethtool failed".to_owned(),
            Err(error) => format!("unknown: {error} (Debian package: ethtool)"),
        }
    }

    /// Returns all simulated hosts, with their addresses and network namespaces.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let holders = (1..).zip(&self.holders);
        holders
            .map(|(number, holder)| Host { address: address(number), within: Some(holder.id()) })
            .collect()
    }

    /// Returns the counters of the relay; `None` if there is no relay.
    pub(super) fn relay_counters(&self) -> Option<Arc<RelayCounters>> {
        self.relay.as_ref().map(Relay::counters)
    }

    /// Sets the fraction of packets from other hosts that each host drops, and the minimum TCP
    /// retransmission timeout (RTO).
    pub(super) fn set(&mut self, link: Link) -> anyhow::Result<()> {
        self.ensure_running()?;
        if self.link.map(|set| set.loss) != Some(link.loss) {
            self.set_loss(link.loss)?;
        }
        if self.link.map(|set| set.rto_min_ms) != Some(link.rto_min_ms) {
            self.set_routes(link.rto_min_ms)?;
        }
        self.link = Some(link);
        Ok(())
    }

    /// Returns an error if the relay has failed or a process of the cross traffic has exited.
    pub(super) fn ensure_running(&mut self) -> anyhow::Result<()> {
        self.relay.as_mut().map_or(Ok(()), Relay::ensure_running)?;
        self.cross_traffic.iter_mut().try_for_each(Child::ensure_running)
    }

    fn set_loss(&mut self, loss: f64) -> anyhow::Result<()> {
        let is_random = loss > 0.0 && self.path.burst == 1;
        let rule = is_random.then(|| drops::random(address(BRIDGE_NUMBER), loss));
        let rule = rule.unwrap_or_default();
        for (number, holder) in (1..).zip(&self.holders) {
            apply(&drops::reset(&rule), holder.id())?;
            if loss == 0.0 || is_random {
                continue;
            }
            for (source, _) in (1..).zip(&self.holders).filter(|(source, _)| *source != number) {
                let source = address(source);
                let script = drops::bursts(source, loss, self.path.burst, &mut self.rng);
                apply(&script, holder.id())?;
            }
        }
        Ok(())
    }
}

/// Starts a relay for the round-trip time and the links of `path`, and routes the packets that
/// arrive from the bridge through it.
fn start_relay(path: NetworkPath) -> anyhow::Result<Relay> {
    let rtt = Duration::from_millis(path.rtt_ms.unwrap_or(0).into());
    let relay = Relay::start(rtt / 2, path.link)?;
    let queue = relay::DEVICE_PACKETS_MAX.to_string();
    run("ip", &["link", "set", relay::DEVICE, "up", "txqueuelen", &queue], None)?;
    let route = ["route", "add", "default", "dev", relay::DEVICE, "table", RELAY_TABLE];
    run("ip", &route, None)?;
    run("ip", &["rule", "add", "iif", "bridge", "lookup", RELAY_TABLE], None)?;
    // Reverse path filters would drop packets from the relay, because the route back to their
    // source leads through the bridge.
    let relay_filter = format!("conf/{}/rp_filter", relay::DEVICE);
    for (setting, value) in
        [("ip_forward", "1"), ("conf/all/rp_filter", "0"), (relay_filter.as_str(), "0")]
    {
        let path = format!("/proc/sys/net/ipv4/{setting}");
        fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(relay)
}

/// Extracts the states of the offload features listed in `OFFLOADS` from the output of `ethtool
/// -k`.
fn read_offloads(text: &str) -> String {
    let found = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        format!("{name} {}", value.unwrap_or("unknown"))
    };
    OFFLOADS.map(found).join(", ")
}

/// Waits until the process with the id `id` has entered its own network namespace, which takes a
/// short time after its start.
fn await_own_network(id: u32) -> anyhow::Result<()> {
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net"));
    let ours = network("self")
        .context("cannot read the network namespace of this process from /proc/self/ns/net")?;
    for _ in 0..NAMESPACE_TRIES {
        if network(&id.to_string()).is_ok_and(|theirs| theirs != ours) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    anyhow::bail!("process {id} of `unshare` did not enter a new network namespace within 2.5 s")
}

fn in_network(program: &str, within: Option<u32>) -> anyhow::Result<Command> {
    let path = find_program(program).with_context(|| {
        format!("the program {program} is not installed; install it to use `perf lossy`")
    })?;
    Ok(command(&path, within))
}

fn run(program: &str, arguments: &[&str], within: Option<u32>) -> anyhow::Result<()> {
    let output = in_network(program, within)?.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start the program {program}"))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the command `{program} {}` failed: {}",
        arguments.join(" "),
        message.trim()
    );
    Ok(())
}

fn apply(rules: &str, within: u32) -> anyhow::Result<()> {
    // Passed as an argument, because reading the script from stdin (`-f -`) would need a pipe.
    run("nft", &[rules], Some(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_offload_states_are_parsed_from_ethtool_output() {
        let text = "Features for eth0:\ntcp-segmentation-offload: off\n\ttx-tcp-segmentation: on\n\
            generic-segmentation-offload: on [fixed]\n";
        assert_eq!(
            read_offloads(text),
            "tcp-segmentation-offload off, generic-segmentation-offload on [fixed], \
             generic-receive-offload unknown"
        );
    }
}
