//! Networks joined by a bridge, and the rules that lose packets in them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::compare::{Child, Host, command, find_program};
use crate::report::to_count;

/// Of the bridge, where clients are; hosts have the numbers from 1 on.
const OWN_NUMBER: u8 = 254;
/// Shares of packets are told to the kernel as so many in this.
const PARTS: u32 = 100_000;
/// How long a holder of a network gets until it is in it.
const HOLDER_TRIES: u32 = 500;

/// Networks of hosts, each held by a process that only waits.
#[derive(Debug)]
pub(super) struct Net {
    holders: Vec<Child>,
    loss: Option<f64>,
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

impl Net {
    /// So many hosts on a bridge in our own network, which must be ours alone.
    pub(super) fn new(hosts: u8) -> anyhow::Result<Net> {
        let mut net = Net { holders: Vec::new(), loss: None };
        run("ip", &["link", "set", "lo", "up"], None)?;
        run("ip", &["link", "add", "bridge", "type", "bridge"], None)
            .context("a bridge can't be made here; this needs Linux with bridges and veth")?;
        let own = format!("{}/24", address(OWN_NUMBER));
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
        let holder = Child::start("the holder of a network", holder, Path::new("/dev/null"))?;
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

    /// The places of all hosts.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let holders = (1..).zip(&self.holders);
        holders
            .map(|(number, holder)| Host { address: address(number), within: Some(holder.id()) })
            .collect()
    }

    /// From now on hosts lose this share of what comes from each other.
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

/// What replaces all rules of a host.
fn rules(loss: f64) -> String {
    let parts = to_count(loss * f64::from(PARTS));
    let rule = if parts == 0 {
        String::new()
    } else {
        let own = address(OWN_NUMBER);
        format!("ip saddr != {own} numgen random mod {PARTS} < {parts} counter drop")
    };
    format!(
        "flush ruleset\ntable inet lossy {{\n  chain arrivals {{\n    \
         type filter hook input priority 0; policy accept;\n    {rule}\n  }}\n}}\n"
    )
}

/// Waits until the process has left our network. It does so at once, but after its start.
fn await_own_network(id: u32) -> anyhow::Result<()> {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
    let ours = network("self").context("can't tell networks apart here")?;
    for _ in 0..HOLDER_TRIES {
        if network(&id.to_string()).is_ok_and(|theirs| theirs != ours) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    anyhow::bail!("a network of its own can't be made")
}

fn in_network(program: &str, within: Option<u32>) -> anyhow::Result<Command> {
    let path = find_program(program).with_context(|| format!("{program} is not installed"))?;
    Ok(command(&path, within))
}

fn run(program: &str, words: &[&str], within: Option<u32>) -> anyhow::Result<()> {
    let output = in_network(program, within)?.args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("can't start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program} {}` failed: {}", words.join(" "), said.trim());
    Ok(())
}

fn apply(rules: &str, within: u32) -> anyhow::Result<()> {
    // Given as an argument, for `-f -` would need a pipe to be fed.
    run("nft", &[rules], Some(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_from_replicas_is_lost() {
        let lossy = rules(0.125);
        assert!(lossy.contains("ip saddr != 10.99.0.254 numgen random mod 100000 < 12500"));
        assert!(!rules(0.0).contains("drop") && rules(0.0).contains("flush ruleset"));
    }
}
