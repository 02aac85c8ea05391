//! Proxies between replicas that a test can delay, cut and heal. Each replica connects to ports of
//! this process instead of its peers' ports, one port for each direction: a replica sends to a peer
//! through one proxy, and receives through another.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use bowline::wire::frame::{Decoder, Frame, Lane};

use crate::replicas::{Cluster, free_port};

/// Maximum time until a change of a proxy takes effect.
const STEP: Duration = Duration::from_millis(5);

/// What a proxy does with the bytes that it receives, in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Flow {
    /// Forwards all bytes.
    Open,
    /// Delays all bytes, like a network that has stopped delivering.
    Held,
    /// Delays only bulk data: forwarded writes and log entries.
    BulkHeld,
    /// Closes the connections, and any new ones.
    Cut,
}

/// The current [`Flow`] of a proxy, as a number.
type Switch = Arc<AtomicU8>;

/// The proxies between all pairs of replicas.
pub(crate) struct Wires {
    /// For each sender, then for each receiver: the port of the proxy, and the switch that controls
    /// it.
    wires: Vec<Vec<(u16, Switch)>>,
}

impl Wires {
    /// Starts proxies between replicas that listen on these ports.
    pub(crate) fn new(ports: &[u16]) -> Wires {
        let wire = |&target: &u16| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let switch: Switch = Arc::default();
            let shared = Arc::clone(&switch);
            // Ends with the process.
            thread::spawn(move || accept(&listener, target, &shared));
            (port, switch)
        };
        let from = |_| ports.iter().map(wire).collect();
        Wires { wires: (0..ports.len()).map(from).collect() }
    }

    /// Returns the port of the proxy through which `from` reaches `to`.
    pub(crate) fn port(&self, from: usize, to: usize) -> u16 {
        self.wires[from][to].0
    }

    /// Sets the flow from one replica to another.
    pub(crate) fn set(&self, from: usize, to: usize, flow: Flow) {
        self.wires[from][to].1.store(flow as u8, Ordering::Relaxed);
    }

    /// Sets the flow of everything that a replica receives.
    pub(crate) fn set_to(&self, to: usize, flow: Flow) {
        (0..self.wires.len()).for_each(|from| self.set(from, to, flow));
    }

    /// Sets the flow of everything that a replica sends.
    pub(crate) fn set_from(&self, from: usize, flow: Flow) {
        (0..self.wires.len()).for_each(|to| self.set(from, to, flow));
    }

    /// Sets the flow in both directions between a replica and all others.
    pub(crate) fn set_around(&self, at: usize, flow: Flow) {
        self.set_to(at, flow);
        self.set_from(at, flow);
    }
}

impl Cluster {
    /// Starts `count` replicas with empty folders and with proxies between them.
    pub(crate) fn start_wired(count: usize, threads: &'static str) -> (Cluster, Wires) {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let wires = Wires::new(&ports);
        (Cluster::start_between(ports, threads, &[], |from, to| wires.port(from, to)), wires)
    }
}

fn accept(listener: &TcpListener, target: u16, switch: &Switch) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let switch = Arc::clone(switch);
        thread::spawn(move || {
            // An error closes the connection, as in any network.
            let _ = carry(stream, SocketAddr::from((Ipv4Addr::LOCALHOST, target)), &switch);
        });
    }
}

/// Waits until bytes of this lane (`None`: not known yet) may pass. Returns false if the connection
/// must be closed instead.
fn may_pass(switch: &Switch, lane: Option<Lane>) -> bool {
    loop {
        let now = switch.load(Ordering::Relaxed);
        if now == Flow::Cut as u8 {
            return false;
        }
        let held = now == Flow::Held as u8
            || (now == Flow::BulkHeld as u8 && lane.is_some_and(|lane| lane == Lane::Bulk));
        if !held {
            return true;
        }
        thread::sleep(STEP);
    }
}

fn carry(mut from: TcpStream, target: SocketAddr, switch: &Switch) -> std::io::Result<()> {
    if !may_pass(switch, None) {
        return Ok(());
    }
    let mut to = TcpStream::connect(target)?;
    to.set_nodelay(true)?;
    let (from_end, mut to_end) = (from.try_clone()?, to.try_clone()?);
    thread::spawn(move || {
        // The receiver sends nothing: this returns when the receiver has closed the connection.
        let _ = to_end.read(&mut [0]);
        let _ = from_end.shutdown(Shutdown::Both);
        let _ = to_end.shutdown(Shutdown::Both);
    });
    from.set_read_timeout(Some(STEP))?;
    let mut decoder = Decoder::for_unknown_peer();
    let mut lane = None;
    let mut space = vec![0; 256 << 10];
    while may_pass(switch, lane) {
        let count = match from.read(&mut space) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if lane.is_none() {
            decoder.feed(&space[..count]);
            if let Ok(Some(Frame::Hello(hello))) = decoder.next_frame() {
                lane = Some(hello.lane);
            }
        }
        // The bytes may have been read just before the delay was switched on: then they must wait
        // too.
        if !may_pass(switch, lane) || to.write_all(&space[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    to.shutdown(Shutdown::Both)
}
