//! Where servers stand: all on the loopback address, or each in a network of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

/// A place for one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// A process in whose network the server runs; `None`: in ours.
    pub(crate) within: Option<u32>,
}

/// Our own machine.
pub(crate) const LOOPBACK: Host = Host { address: Ipv4Addr::LOCALHOST, within: None };

/// The first port given out in a network of a server's own.
const FIRST_PORT: u16 = 7_001;

/// So many addresses for each of these hosts, on ports that nobody listens on.
pub(crate) fn addresses<const COUNT: usize>(
    hosts: &[Host],
) -> anyhow::Result<Vec<[SocketAddr; COUNT]>> {
    // All are held until the last is found, or the system might give the same port again.
    let mut held = Vec::new();
    let mut one = |host: &Host, number: usize| -> anyhow::Result<SocketAddr> {
        if host.within.is_some() {
            let port = FIRST_PORT + u16::try_from(number).unwrap_or(0);
            return Ok(SocketAddr::from((host.address, port)));
        }
        let listener = TcpListener::bind((host.address, 0)).context("there is no free port")?;
        let address = listener.local_addr().context("there is no free port")?;
        held.push(listener);
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
    fn no_port_is_given_out_twice() {
        let found = addresses::<2>(&[LOOPBACK; 5]).unwrap();
        let mut ports: Vec<u16> = found.iter().flatten().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 10);
        let away = Host { address: Ipv4Addr::new(10, 1, 1, 1), within: Some(1) };
        let found = addresses::<2>(&[away]).unwrap();
        assert_eq!(found[0].map(|address| address.port()), [7_001, 7_002]);
    }
}
