//! A relay that delays packets. The kernel routes the packets between hosts to a TUN device. The
//! relay reads them from the device and, after the delay, writes them back to it, and the kernel
//! then routes them to their destination. Traffic control (`netem`) could do the same, but many
//! kernels are built without it.
//!
//! All packets have the same delay, so they keep their order. The queue is bounded: while it is
//! full, packets stay in the queue of the device, and when that is full too, the kernel drops them.

use std::collections::VecDeque;
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

/// Counters of relayed packets, which the relay updates while it runs.
#[derive(Debug, Default)]
pub(super) struct RelayCounters {
    /// Number of packets that were sent.
    pub(super) packets: AtomicU64,
    /// Number of packets that were sent more than [`LATE`] after they were due.
    pub(super) late: AtomicU64,
}

/// A running relay, which runs until this program ends or the device fails.
#[derive(Debug)]
pub(super) struct Relay {
    counters: Arc<RelayCounters>,
    thread: Option<JoinHandle<io::Result<Infallible>>>,
}

impl Relay {
    /// Creates the TUN device in the network namespace of this thread, and starts a relay that
    /// delays each packet by `delay`.
    pub(super) fn start(delay: Duration) -> anyhow::Result<Relay> {
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
            relay(&device, DelayQueue::new(delay), &for_thread)
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

/// Queue of delayed packets, in the order in which they arrived.
#[derive(Debug)]
struct DelayQueue {
    delay: Duration,
    /// The packets, each with the time at which it is due.
    packets: VecDeque<(Instant, Box<[u8]>)>,
}

impl DelayQueue {
    fn new(delay: Duration) -> DelayQueue {
        DelayQueue { delay, packets: VecDeque::new() }
    }

    /// Returns whether the queue accepts no further packet.
    fn is_full(&self) -> bool {
        self.packets.len() >= PACKETS_MAX
    }

    /// Adds a packet that arrived at `now`. The queue must not be full.
    fn push(&mut self, packet: &[u8], now: Instant) {
        assert!(!self.is_full(), "{PACKETS_MAX} packets wait");
        self.packets.push_back((now + self.delay, packet.into()));
    }

    /// Removes and returns the first packet if it is due at `now`, together with the time since it
    /// was due.
    fn pop(&mut self, now: Instant) -> Option<(Duration, Box<[u8]>)> {
        let (due, packet) = self.packets.pop_front_if(|(due, _)| *due <= now)?;
        Some((now - due, packet))
    }

    /// Returns the time until the first packet is due; `None` if the queue is empty.
    fn next_due_in(&self, now: Instant) -> Option<Duration> {
        self.packets.front().map(|(due, _)| due.saturating_duration_since(now))
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
            counters.packets.fetch_add(1, Ordering::Relaxed);
            counters.late.fetch_add(u64::from(overdue > LATE), Ordering::Relaxed);
        }
        await_packet(device, &queue)?;
        let now = Instant::now();
        for _ in 0..READS_MAX {
            if queue.is_full() {
                break;
            }
            match device.recv(&mut buffer) {
                Ok(length) => queue.push(&buffer[..length], now),
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
        let mut queue = DelayQueue::new(ms(10));
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
        let mut queue = DelayQueue::new(Duration::ZERO);
        for _ in 0..PACKETS_MAX {
            assert!(!queue.is_full());
            queue.push(b"", now);
        }
        assert!(queue.is_full());
        queue.pop(now);
        assert!(!queue.is_full());
    }
}
