//! Hosts on which the servers of measured systems run: either the loopback address for all servers,
//! or a separate network namespace for each server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

/// A real or simulated host on which one server process of a measured system runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// IP address on which the server listens.
    pub(crate) address: Ipv4Addr,
    /// Id of a process in whose network namespace the server is started; `None` to start it in this
    /// program's own network namespace.
    pub(crate) within: Option<u32>,
}

/// The host with the loopback address, in this program's own network namespace.
pub(crate) const LOOPBACK: Host = Host { address: Ipv4Addr::LOCALHOST, within: None };

/// Lowest port of servers that have their own network namespace, in which no other port is in use.
const FIRST_PORT: u16 = 7_001;

/// Chooses free ports for the server on each host. Returns `COUNT` addresses with different ports
/// for each host.
pub(crate) fn allocate<const COUNT: usize>(
    hosts: &[Host],
) -> anyhow::Result<Vec<[SocketAddr; COUNT]>> {
    // All listeners stay open until the last port has been found; otherwise the system might assign
    // a port twice.
    let mut listeners = Vec::new();
    let mut one = |host: &Host, number: usize| -> anyhow::Result<SocketAddr> {
        if host.within.is_some() {
            let port = FIRST_PORT + u16::try_from(number).unwrap_or(0);
            return Ok(SocketAddr::from((host.address, port)));
        }
        let listener = TcpListener::bind((host.address, 0)).with_context(|| {
            format!("cannot bind any TCP port on {}; check `ulimit -n`", host.address)
        })?;
        let address = listener.local_addr().with_context(|| {
            format!("cannot read back the TCP port that was bound on {}", host.address)
        })?;
        listeners.push(listener);
        Ok(address)
    };
    hosts
        .iter()
        .map(|host| {
            let mut found = [SocketAddr::from((host.address, 0)); COUNT];
            for (number, place) in found.iter_mut().enumerate() {
                *place = one(host, number)?;
            }
            Ok(found)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocated_server_ports_are_unique() {
        let found = allocate::<2>(&[LOOPBACK; 5]).unwrap();
        let mut ports: Vec<u16> = found.iter().flatten().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 10);
        let remote = Host { address: Ipv4Addr::new(10, 1, 1, 1), within: Some(1) };
        let found = allocate::<2>(&[remote]).unwrap();
        assert_eq!(found[0].map(|address| address.port()), [7_001, 7_002]);
    }
}
