//! Network namespaces connected by a bridge, and the nftables rules that drop packets in them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::compare::{Child, Host, command, find_program};
use crate::report::to_count;

/// Last byte of the IP address of the bridge, which is the address of clients. The last bytes of
/// the hosts' addresses are 1, 2, 3 and so on.
const BRIDGE_NUMBER: u8 = 254;
/// Number of steps into which a loss fraction is divided in nftables rules.
const LOSS_RESOLUTION: u32 = 100_000;
/// Number of checks, 5 ms apart, whether a new process has entered its own namespace.
const NAMESPACE_TRIES: u32 = 500;

/// The network namespaces of all hosts. Each is kept alive by a process that sleeps.
#[derive(Debug)]
pub(super) struct Net {
    holders: Vec<Child>,
    loss: Option<f64>,
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

impl Net {
    /// Creates `hosts` hosts, connected by a bridge in the namespace of this program, which must
    /// not be that of the machine.
    pub(super) fn new(hosts: u8) -> anyhow::Result<Net> {
        let mut net = Net { holders: Vec::new(), loss: None };
        run("ip", &["link", "set", "lo", "up"], None)?;
        run("ip", &["link", "add", "bridge", "type", "bridge"], None)
            .context("cannot create a bridge here; this needs Linux with bridges and veth")?;
        let own = format!("{}/24", address(BRIDGE_NUMBER));
        run("ip", &["address", "add", &own, "dev", "bridge"], None)?;
        run("ip", &["link", "set", "bridge", "up"], None)?;
        for number in 1..=hosts {
            net.add_host(number)?;
        }
        Ok(net)
    }

    fn add_host(&mut self, number: u8) -> anyhow::Result<()> {
        let unshare = find_program("unshare").context("unshare is not installed")?;
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
        run("ip", &["link", "set", theirs, "up"], Some(id))
    }

    /// Returns all hosts, for starting servers on them.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let holders = (1..).zip(&self.holders);
        holders
            .map(|(number, holder)| Host { address: address(number), within: Some(holder.id()) })
            .collect()
    }

    /// Sets the fraction, from 0 to 1, of the packets from other hosts that each host drops.
    pub(super) fn set_loss(&mut self, loss: f64) -> anyhow::Result<()> {
        if self.loss == Some(loss) {
            return Ok(());
        }
        for holder in &self.holders {
            apply(&rules(loss), holder.id())?;
        }
        self.loss = Some(loss);
        Ok(())
    }
}

/// Returns the nftables script that replaces all rules of a host by one that drops this fraction of
/// the packets from other hosts.
fn rules(loss: f64) -> String {
    let parts = to_count(loss * f64::from(LOSS_RESOLUTION));
    let rule = if parts == 0 {
        String::new()
    } else {
        let own = address(BRIDGE_NUMBER);
        format!("ip saddr != {own} numgen random mod {LOSS_RESOLUTION} < {parts} counter drop")
    };
    format!(
        "flush ruleset\ntable inet lossy {{\n  chain arrivals {{\n    \
         type filter hook input priority 0; policy accept;\n    {rule}\n  }}\n}}\n"
    )
}

/// Waits until the process with this id has entered its own network namespace, which happens
/// shortly after its start.
fn await_own_network(id: u32) -> anyhow::Result<()> {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
    let ours = network("self").context("cannot read /proc/self/ns/net")?;
    for _ in 0..NAMESPACE_TRIES {
        if network(&id.to_string()).is_ok_and(|theirs| theirs != ours) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    anyhow::bail!("process {id} did not enter its network namespace within 2.5 s")
}

fn in_network(program: &str, within: Option<u32>) -> anyhow::Result<Command> {
    let path = find_program(program).with_context(|| format!("{program} is not installed"))?;
    Ok(command(&path, within))
}

fn run(program: &str, arguments: &[&str], within: Option<u32>) -> anyhow::Result<()> {
    let output = in_network(program, within)?.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{program} {}` failed: {}",
        arguments.join(" "),
        message.trim()
    );
    Ok(())
}

fn apply(rules: &str, within: u32) -> anyhow::Result<()> {
    // As an argument, because `-f -` would need a pipe.
    run("nft", &[rules], Some(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packets_from_replicas_are_dropped() {
        let lossy = rules(0.125);
        assert!(lossy.contains("ip saddr != 10.99.0.254 numgen random mod 100000 < 12500"));
        assert!(!rules(0.0).contains("drop") && rules(0.0).contains("flush ruleset"));
    }
}
