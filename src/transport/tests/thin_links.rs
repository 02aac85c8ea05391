//! Streams on a thin link, alone, with each other and with TCP: each must fill its share of the
//! link, and retransmit hardly anything that arrives. The tests print their figures on stderr.

use std::time::Duration;

use super::bottleneck::{Network, Path, Usage};
use super::tcp::Control;

/// Time that flows get to find their share before it is measured.
const WARM_UP: Duration = Duration::from_secs(5);

/// Returns the links that most tests use: short and long queues and round trips.
fn paths() -> impl Iterator<Item = Path> {
    let paths = [(20, 200), (20, 20_000), (200, 200), (200, 20_000)];
    paths.into_iter().map(|(queue_ms, round_trip_us)| Path::thin(queue_ms, round_trip_us))
}

/// Returns what two flows, added by `first` and `second`, use of a link in a minute, in percent.
fn shares(path: Path, first: impl Fn(&mut Network), second: impl Fn(&mut Network)) -> [usize; 2] {
    let mut network = Network::new(path);
    first(&mut network);
    second(&mut network);
    network.run(WARM_UP);
    let time = Duration::from_mins(1);
    let usage = network.measure(time);
    let shares = [0, 1].map(|flow| network.percent(usage[flow].delivered, time));
    eprintln!("{path:?}: {shares:?} % of the link");
    shares
}

/// Returns what a stream alone uses of a link, also as a share in percent.
fn alone(path: Path) -> (usize, Usage) {
    let mut network = Network::new(path);
    network.add_stream();
    network.run(WARM_UP);
    let time = Duration::from_secs(15);
    let usage = network.measure(time)[0];
    let share = network.percent(usage.delivered, time);
    eprintln!("{path:?}: {share} % of the link, {usage:?}");
    (share, usage)
}

#[test]
fn stream_alone_fills_the_link_and_keeps_the_queue_short() {
    for path in paths() {
        let mut network = Network::new(path);
        network.add_stream();
        network.run(WARM_UP);
        network.longest_queue = Duration::ZERO;
        let time = Duration::from_secs(15);
        let usage = network.measure(time)[0];
        let share = network.percent(usage.delivered, time);
        eprintln!("{path:?}: {share} % of the link, {usage:?}");
        assert!(share >= 97, "{path:?}: {share} % of the link");
        assert!(usage.sent * 100 <= usage.delivered * 101, "{path:?}: {usage:?}");
        assert!(usage.returned * 10 <= usage.delivered, "{path:?}: {usage:?}");
        let queue = network.longest_queue;
        assert!(queue <= Duration::from_millis(40), "{path:?}: a queue of {queue:?}");
    }
}

#[test]
fn streams_share_a_link_evenly() {
    for path in paths() {
        let shares = shares(path, Network::add_stream, Network::add_stream);
        assert!(shares.iter().all(|share| (33..=67).contains(share)), "{path:?}: {shares:?}");
    }
}

#[test]
fn stream_and_tcp_share_a_link() {
    for path in paths() {
        for control in [Control::Cubic, Control::Reno] {
            let shares = shares(path, Network::add_stream, |network| network.add_tcp(control));
            assert!(
                shares.iter().all(|share| (33..=67).contains(share)),
                "{path:?}: {shares:?} % with {control:?}"
            );
        }
    }
}

/// The stream has never seen the path without the queue of the TCP connection.
#[test]
fn stream_joining_a_tcp_connection_shares_the_link() {
    let mut network = Network::new(Path::thin(50, 20_000));
    network.add_tcp(Control::Cubic);
    network.run(Duration::from_secs(30));
    network.add_stream();
    network.run(WARM_UP);
    let time = Duration::from_mins(1);
    let usage = network.measure(time);
    let shares = [0, 1].map(|flow| network.percent(usage[flow].delivered, time));
    assert!(shares.iter().all(|share| (33..=67).contains(share)), "{shares:?}");
}

/// The link is full, so there is no bandwidth for second copies.
#[test]
fn random_loss_on_a_thin_link_is_repaired_with_few_bytes() {
    for path in paths() {
        for loss in [5, 30] {
            let path = Path { loss, ..path };
            let (share, usage) = alone(path);
            let arrives = 100 - usize::try_from(loss).unwrap();
            assert!(share * 100 >= arrives * 93, "{path:?}: {share} % of the link");
            assert!(usage.sent * arrives <= usage.delivered * 106, "{path:?}: {usage:?}");
        }
    }
}

/// The queue of a fast link is short: 5 ms of 100 Mbit/s are 62 KB.
#[test]
fn stream_fills_a_fast_link_with_a_short_queue() {
    let path = Path { bytes_per_second: 100_000_000 / 8, ..Path::thin(5, 200) };
    let mut network = Network::new(path);
    network.add_stream();
    network.run(WARM_UP);
    let time = Duration::from_secs(3);
    let usage = network.measure(time)[0];
    assert!(network.percent(usage.delivered, time) >= 97, "{usage:?}");
    assert!(usage.sent * 100 <= usage.delivered * 101, "{usage:?}");
}

/// Such a queue is too short for the stream to see.
#[test]
fn stream_does_not_flood_a_link_with_a_very_short_queue() {
    for queue_ms in [2, 3] {
        let path = Path::thin(queue_ms, 200);
        let (share, usage) = alone(path);
        assert!(share >= 95, "{path:?}: {share} % of the link");
        assert!(usage.sent <= usage.delivered * 33 / 10, "{path:?}: {usage:?}");
    }
}
