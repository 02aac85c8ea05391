//! A relay that delays packets. The kernel routes the packets between hosts to a TUN device. The
//! relay reads them from the device and, after the delay, writes them back to it, and the kernel
//! then routes them to their destination. Traffic control (`netem`) could do the same, but many
//! kernels are built without it.
//!
//! The relay can also limit the rate: then the packets from one host to another share a link, whose
//! queue drops packets that would wait too long.
//!
//! All packets have the same delay, so those of a path keep their order. The number of packets is
//! bounded: at the limit, further ones stay in the queue of the device, and when that is full too,
//! the kernel drops them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::cross_traffic;
use crate::compare::find_program;

/// Name of the TUN device.
pub(super) const DEVICE: &str = "relay";
/// Maximum number of delayed packets in the relay at the same time.
pub(super) const PACKETS_MAX: usize = 1 << 16;
/// Maximum number of packets in the queue of the device that the relay has not read yet.
pub(super) const DEVICE_PACKETS_MAX: u32 = 10_000;
/// Delay after its due time above which a packet counts as late.
pub(super) const LATE: Duration = Duration::from_millis(1);

/// Maximum length of a packet in bytes: the MTU of the hosts' devices and of the TUN device.
const PACKET_BYTES_MAX: usize = 1_500;
/// Maximum number of packets that are read in a row before due packets are sent.
const READS_MAX: usize = 64;
/// Real-time priority of the relay's thread. Any real-time priority makes it run before the
/// servers, as a real network does not wait for the hosts' processors. A nice value may not
/// suffice, because it may count only within a session.
const PRIORITY: &str = "1";

/// Number of hosts for which the relay counts bytes.
const HOSTS_MAX: usize = 16;
/// Length in bytes of an IPv4 header without options. Kernels add none.
const IP_BYTES: usize = 20;
/// Number of TCP in IPv4 headers.
const TCP: u8 = 6;

/// The rate and the queue of the link from each host to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ThinLink {
    /// Rate in megabits (1,000,000 bits) per second, with the headers of IP.
    pub(crate) mbit: u32,
    /// Time that a packet waits at most in the queue of the link. Later ones are dropped.
    pub(crate) queue: Duration,
}

/// Numbers of relayed packets and bytes, which the relay counts while it runs.
#[derive(Debug, Default)]
pub(super) struct RelayCounters {
    /// Number of packets that were sent.
    pub(super) packets: AtomicU64,
    /// Number of packets that were sent more than [`LATE`] after they were due.
    pub(super) late: AtomicU64,
    /// Number of packets that were dropped because the queue of a link was full.
    pub(super) dropped: AtomicU64,
    /// Number of bytes that were sent, by the number of the host from which they came: of cross
    /// traffic and of all others.
    pub(super) cross_bytes: [AtomicU64; HOSTS_MAX],
    pub(super) other_bytes: [AtomicU64; HOSTS_MAX],
}

impl RelayCounters {
    /// Counts a packet that was sent `overdue` after it was due.
    fn count(&self, packet: &[u8], overdue: Duration) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.late.fetch_add(u64::from(overdue > LATE), Ordering::Relaxed);
        let is_cross = is_cross_traffic(packet);
        let hosts = if is_cross { &self.cross_bytes } else { &self.other_bytes };
        let host = path(packet).and_then(|([.., number], _)| hosts.get(usize::from(number)));
        if let Some(bytes) = host {
            bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Returns the addresses of the sender and the receiver of an IPv4 packet; `None` if it is none.
fn path(packet: &[u8]) -> Option<([u8; 4], [u8; 4])> {
    let address = |at: usize| packet.get(at..at + 4)?.try_into().ok();
    (packet.first()? >> 4 == 4).then_some((address(12)?, address(16)?))
}

/// Returns whether an IPv4 packet belongs to a connection of the cross traffic.
fn is_cross_traffic(packet: &[u8]) -> bool {
    let port = |at: usize| {
        let bytes = packet.get(IP_BYTES + at..IP_BYTES + at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    packet.get(9) == Some(&TCP) && [port(0), port(2)].contains(&Some(cross_traffic::PORT))
}

/// A running relay, which runs until this program ends or the device fails.
#[derive(Debug)]
pub(super) struct Relay {
    counters: Arc<RelayCounters>,
    thread: Option<JoinHandle<io::Result<Infallible>>>,
}

impl Relay {
    /// Creates the TUN device in the network namespace of this thread, and starts a relay that
    /// delays each packet by `delay`, and in addition by the time that it needs for `link`.
    pub(super) fn start(delay: Duration, link: Option<ThinLink>) -> anyhow::Result<Relay> {
        let mtu = u16::try_from(PACKET_BYTES_MAX).expect("a small number");
        let device = DeviceBuilder::new().name(DEVICE).mtu(mtu).build_sync();
        let device = device.context("cannot create a TUN device; this needs /dev/net/tun")?;
        device.set_nonblocking(true).context("cannot make the TUN device non-blocking")?;
        let counters = Arc::new(RelayCounters::default());
        let for_thread = Arc::clone(&counters);
        let thread = thread::Builder::new().name(DEVICE.to_owned()).spawn(move || {
            // Without real-time priority, packets may be late; the counter of late packets shows
            // whether they are.
            if let Err(error) = raise_priority() {
                eprintln!("perf: warning: the relay has no real-time priority: {error:#}");
            }
            relay(&device, DelayQueue::new(delay, link), &for_thread)
        });
        let thread = Some(thread.context("cannot start the thread of the relay")?);
        Ok(Relay { counters, thread })
    }

    /// Returns the relay's counters.
    pub(super) fn counters(&self) -> Arc<RelayCounters> {
        Arc::clone(&self.counters)
    }

    /// Returns an error if the relay has failed.
    pub(super) fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()).map(JoinHandle::join) {
            Some(Ok(Err(error))) => {
                Err(error).context("the relay that delays packets between the hosts failed")
            }
            Some(Err(_)) => bail!(
                "the relay that delays packets between the hosts panicked; see its message on \
                 standard error"
            ),
            None if self.thread.is_none() => {
                bail!(
                    "the relay that delays packets between the hosts is not running, because it \
                     failed earlier"
                )
            }
            None => Ok(()),
        }
    }
}

/// Packets that wait, in the order in which they are due.
#[derive(Debug)]
struct DelayQueue {
    delay: Duration,
    /// The link between each two hosts; `None` if the rate is not limited.
    link: Option<ThinLink>,
    /// For each path between two hosts, when its link will have sent all packets in its queue.
    idle_at: BTreeMap<([u8; 4], [u8; 4]), Instant>,
    /// The packets by the time at which they are due and a unique number.
    packets: BTreeMap<(Instant, u64), Box<[u8]>>,
    /// Number of packets that were added.
    added: u64,
}

impl DelayQueue {
    fn new(delay: Duration, link: Option<ThinLink>) -> DelayQueue {
        let (idle_at, packets) = (BTreeMap::new(), BTreeMap::new());
        DelayQueue { delay, link, idle_at, packets, added: 0 }
    }

    /// Returns whether the queue accepts no further packet.
    fn is_full(&self) -> bool {
        self.packets.len() >= PACKETS_MAX
    }

    /// Adds a packet that arrived at `now`. Returns false if the queue of its link is full, and the
    /// packet is dropped. This queue must not be full.
    fn push(&mut self, packet: &[u8], now: Instant) -> bool {
        assert!(!self.is_full(), "{PACKETS_MAX} packets wait");
        let mut sent_at = now;
        if let (Some(link), Some(path)) = (self.link, path(packet)) {
            let idle_at = self.idle_at.entry(path).or_insert(now);
            let begins_at = (*idle_at).max(now);
            if begins_at - now > link.queue {
                return false;
            }
            let nanos = packet.len() as u64 * 8 * 1_000 / u64::from(link.mbit);
            sent_at = begins_at + Duration::from_nanos(nanos);
            *idle_at = sent_at;
        }
        self.packets.insert((sent_at + self.delay, self.added), packet.into());
        self.added += 1;
        true
    }

    /// Removes and returns the first packet if it is due at `now`, together with the time since it
    /// was due.
    fn pop(&mut self, now: Instant) -> Option<(Duration, Box<[u8]>)> {
        let first = self.packets.first_entry().filter(|first| first.key().0 <= now)?;
        let ((due, _), packet) = first.remove_entry();
        Some((now - due, packet))
    }

    /// Returns the time until the first packet is due; `None` if the queue is empty.
    fn next_due_in(&self, now: Instant) -> Option<Duration> {
        let first = self.packets.first_key_value();
        first.map(|((due, _), _)| due.saturating_duration_since(now))
    }
}

/// Gives this thread a real-time priority.
fn raise_priority() -> anyhow::Result<()> {
    let thread = fs::read_link("/proc/thread-self").context("cannot find this thread's id")?;
    let thread = thread.file_name().context("/proc/thread-self does not name a thread")?;
    let chrt = find_program("chrt")
        .context("the program chrt is not installed (Debian package: util-linux)")?;
    let mut command = Command::new(chrt);
    command.args(["--fifo", "--pid", PRIORITY]).arg(thread).stdin(Stdio::null());
    ensure!(
        command
            .output()
            .context(
                "cannot start `chrt`, which gives the relay real-time priority; install util-linux"
            )?
            .status
            .success(),
        "`chrt` failed; run perf as root"
    );
    Ok(())
}

/// Relays packets until the device fails.
fn relay(
    device: &SyncDevice,
    mut queue: DelayQueue,
    counters: &RelayCounters,
) -> io::Result<Infallible> {
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        let now = Instant::now();
        while let Some((overdue, packet)) = queue.pop(now) {
            device.send(&packet)?;
            counters.count(&packet, overdue);
        }
        await_packet(device, &queue)?;
        let now = Instant::now();
        for _ in 0..READS_MAX {
            if queue.is_full() {
                break;
            }
            match device.recv(&mut buffer) {
                Ok(length) => {
                    let is_dropped = !queue.push(&buffer[..length], now);
                    counters.dropped.fetch_add(u64::from(is_dropped), Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until a packet in the queue is due or, unless the queue is full, the device has a packet.
fn await_packet(device: &SyncDevice, queue: &DelayQueue) -> io::Result<()> {
    let timeout = queue.next_due_in(Instant::now());
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("a short time"));
    let mut device = [PollFd::new(device, PollFlags::IN)];
    let watched = if queue.is_full() { &mut [] } else { &mut device[..] };
    match poll(watched, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_delay_queue_keeps_order_and_applies_equal_delay() {
        let (begin, ms) = (Instant::now(), Duration::from_millis);
        let mut queue = DelayQueue::new(ms(10), None);
        assert_eq!(queue.next_due_in(begin), None);
        queue.push(b"a", begin);
        queue.push(b"b", begin);
        queue.push(b"c", begin + ms(5));
        assert_eq!(queue.next_due_in(begin + ms(1)), Some(ms(9)));
        assert_eq!(queue.pop(begin + ms(9)), None);
        assert_eq!(queue.pop(begin + ms(12)), Some((ms(2), b"a"[..].into())));
        assert_eq!(queue.pop(begin + ms(12)), Some((ms(2), b"b"[..].into())));
        assert_eq!(queue.pop(begin + ms(12)), None);
        assert_eq!(queue.pop(begin + ms(15)), Some((ms(0), b"c"[..].into())));
    }

    #[test]
    fn packet_delay_queue_is_full_at_its_capacity() {
        let now = Instant::now();
        let mut queue = DelayQueue::new(Duration::ZERO, None);
        for _ in 0..PACKETS_MAX {
            assert!(!queue.is_full());
            queue.push(b"", now);
        }
        assert!(queue.is_full());
        queue.pop(now);
        assert!(!queue.is_full());
    }

    /// Returns a TCP packet of 1,000 bytes from the host `from` to the host 9.
    fn packet(from: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 1_000];
        (packet[0], packet[9]) = (0x45, TCP);
        packet[12..16].copy_from_slice(&[10, 99, 0, from]);
        packet[16..20].copy_from_slice(&[10, 99, 0, 9]);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn packets_of_a_path_share_a_thin_link() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let link = ThinLink { mbit: 1, queue: ms(16) };
        let mut queue = DelayQueue::new(ms(100), Some(link));
        // A packet takes 8 ms.
        let accepted = [1; 5].map(|host| queue.push(&packet(host, 80), now));
        assert_eq!(accepted, [true, true, true, false, false]);
        assert!(queue.push(&packet(2, 80), now), "the link from another host");
        let due = std::iter::from_fn(|| queue.pop(now + ms(200)));
        let overdue: Vec<Duration> = due.map(|(overdue, _)| overdue).collect();
        assert_eq!(overdue, [92, 92, 84, 76].map(ms));
        assert!(queue.push(&packet(1, 80), now + ms(24)), "the queue is empty again");
        assert_eq!(queue.next_due_in(now), Some(ms(24 + 8 + 100)));
    }

    #[test]
    fn bytes_are_counted_by_host_and_kind() {
        let counters = RelayCounters::default();
        for (host, port) in [(1, 80), (1, cross_traffic::PORT), (1, 80), (2, 80)] {
            counters.count(&packet(host, port), Duration::ZERO);
        }
        counters.count(b"", Duration::from_millis(2));
        let of = |hosts: &[AtomicU64]| [1, 2].map(|host| hosts[host].load(Ordering::Relaxed));
        assert_eq!(of(&counters.other_bytes), [2_000, 1_000]);
        assert_eq!(of(&counters.cross_bytes), [1_000, 0]);
        assert_eq!(counters.late.load(Ordering::Relaxed), 1);
    }
}
