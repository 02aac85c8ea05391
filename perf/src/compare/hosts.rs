//! Hosts for servers: all on the loopback address, or each in a network namespace of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

/// A host for one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// IP address.
    pub(crate) address: Ipv4Addr,
    /// A process in the network namespace in which the server runs; `None` for our own.
    pub(crate) within: Option<u32>,
}

/// This machine.
pub(crate) const LOOPBACK: Host = Host { address: Ipv4Addr::LOCALHOST, within: None };

/// First port in a network namespace of a server's own.
const FIRST_PORT: u16 = 7_001;

/// `COUNT` addresses for each of these hosts, on free ports.
pub(crate) fn allocate<const COUNT: usize>(
    hosts: &[Host],
) -> anyhow::Result<Vec<[SocketAddr; COUNT]>> {
    // All listeners stay open until the last port is found, or the system might assign a port
    // twice.
    let mut listeners = Vec::new();
    let mut one = |host: &Host, number: usize| -> anyhow::Result<SocketAddr> {
        if host.within.is_some() {
            let port = FIRST_PORT + u16::try_from(number).unwrap_or(0);
            return Ok(SocketAddr::from((host.address, port)));
        }
        let listener = TcpListener::bind((host.address, 0)).context("no free port")?;
        let address = listener.local_addr().context("no free port")?;
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
    fn ports_are_unique() {
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
