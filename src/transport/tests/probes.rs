//! Probes: retransmissions after an overdue acknowledgement.

use std::io::Write as _;
use std::time::Duration;

use super::{Quality, Run, WINDOW};
use crate::transport::Outbox;
use crate::transport::sender::{Sender, StreamState};
use crate::types::Instant;
use crate::wire::datagram::{self, Ack, Datagram, PAYLOAD_BYTES_MAX};

/// Datagrams that a probe does not retransmit are still paced, and none is retransmitted twice.
#[test]
fn probe_retransmits_only_the_oldest_lost_datagrams() {
    const COUNT: usize = 60;
    let mut now = Instant(1_000_000_000);
    let mut sender = Sender::new(1, 1 << 20, now);
    let mut out = Outbox::default();
    sender.on_cookie(2, now);
    sender.write_all(&[0]).unwrap();
    sender.transmit(now, &mut out);
    let ack = Ack { received: 1, limit: 1 << 20, ..Ack::default() };
    now = now + Duration::from_millis(20);
    sender.on_ack(&ack, now);
    sender.write_all(&vec![0; COUNT * PAYLOAD_BYTES_MAX]).unwrap();
    for _ in 0..COUNT {
        sender.transmit(now, &mut out);
        now = now + Duration::from_micros(200);
    }
    assert_eq!(out.runs(1).count(), 1 + COUNT);
    // Only the last one has arrived.
    sender.on_ack(&Ack { largest: COUNT as u64, ..ack }, now);
    for _ in 0..2 {
        out.clear();
        // So late that an acknowledgement is overdue.
        now = now + Duration::from_millis(100);
        sender.transmit(now, &mut out);
        let mut sent: Vec<u64> = out.runs(1).map(|(bytes, _)| offset(bytes)).collect();
        assert!((16..32).contains(&sent.len()), "{} datagrams in a burst", sent.len());
        sent.sort_unstable();
        assert!(sent.is_sorted_by(|one, other| one < other), "{sent:?}");
    }
}

/// Returns the position in the stream of the data in a datagram.
fn offset(bytes: &[u8]) -> u64 {
    match datagram::decode(bytes).unwrap() {
        Datagram::Data(_, data) => data.offset,
        other => panic!("{other:?}"),
    }
}

/// All probes of a receiver that is stopped must fit into its system's buffer.
#[test]
fn bytes_sent_to_an_unresponsive_receiver_are_bounded() {
    let mut run = Run::new(4, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    run.until(Duration::from_secs(1), |run| !run.sender.is_awaiting());
    let sent = run.sent;
    run.quality.loss = 100;
    run.unwritten.extend(std::iter::repeat_n(7, 20 * PAYLOAD_BYTES_MAX));
    run.until(Duration::from_secs(20), |run| run.sender.state() == StreamState::Failed);
    // The bytes once, three probes with 16 datagrams each, and then one datagram per probe.
    assert!(run.sent - sent < 20 + 3 * 16 + 70, "{} datagrams", run.sent - sent);
}

/// A sender whose receive window is full sends probes at a low rate.
#[test]
fn udp_sender_probes_a_full_receive_window_at_a_low_rate() {
    let mut run = Run::new(3, Quality::lossy(0));
    run.transfer(10, Duration::from_secs(1));
    run.reads = false;
    run.unwritten.extend(std::iter::repeat_n(10, 2 * WINDOW));
    let until = |millis: u64| Instant(1_000_000_000 + millis * 1_000_000);
    run.until(Duration::from_secs(10), |run| run.now > until(100));
    let sent = run.sent;
    run.until(Duration::from_secs(10), |run| run.now > until(1_100));
    assert!(run.sent - sent <= 50, "{} datagrams in a second", run.sent - sent);
    assert!(run.sent - sent >= 5, "it must probe: the acknowledgement may be lost");
}
