//! Tests of the congestion window on a path whose round trips and losses each test decides.

use super::*;

const WINDOW_MAX: usize = 8 << 20;
/// Round-trip time in milliseconds without a queue.
const SHORT: u64 = 20;
/// Round-trip time in milliseconds with a queue that is drained.
const LONG: u64 = 60;

/// An acknowledgement of a window that is well used, without a loss.
const USED: Acknowledged =
    Acknowledged { bytes: 1_000, is_used: true, is_idle: false, lost_sent_at: Instant::ZERO };

fn at(millis: u64) -> Instant {
    Instant(millis * 1_000_000)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A window on a path whose round trips and losses a test decides.
struct Run {
    /// In milliseconds.
    now: u64,
    round_trip: RoundTrips,
    window: Window,
}

impl Run {
    fn new() -> Run {
        Run {
            now: 20_000,
            round_trip: RoundTrips::new(at(0)),
            window: Window::new(WINDOW_MAX, at(20_000)),
        }
    }

    /// Returns a window of `bytes` after slow start that was well used for `millis`, in which 1,000
    /// bytes per millisecond were delivered.
    fn steady(bytes: usize, millis: usize) -> Run {
        let mut run = Run::new();
        run.window.in_slow_start = false;
        run.steps(millis, SHORT);
        assert_eq!(run.window.delivered_in(ms(SHORT)), 20_000);
        run.window.bytes = bytes;
        run
    }

    /// Handles an acknowledgement with a round trip of `time` milliseconds.
    fn ack(&mut self, time: u64, ack: Acknowledged) {
        self.round_trip.add(ms(time), at(self.now));
        self.window.on_ack(ack, &self.round_trip, at(self.now));
    }

    /// Acknowledges 1,000 bytes in a millisecond.
    fn step(&mut self, time: u64) {
        self.now += 1;
        self.ack(time, USED);
    }

    fn steps(&mut self, count: usize, time: u64) {
        (0..count).for_each(|_| self.step(time));
    }

    /// The same, with the loss of a datagram sent a round trip ago.
    fn lose(&mut self, time: u64) {
        self.now += 1;
        self.ack(time, Acknowledged { lost_sent_at: at(self.now - time), ..USED });
    }

    /// Runs until a drain begins. Returns after how many milliseconds.
    fn until_drain(&mut self, time: u64) -> u64 {
        let began = self.now;
        while self.window.drain.is_none() {
            assert!(self.now - began < 60_000, "{:?}", self.window);
            self.step(time);
        }
        self.now - began
    }

    /// Runs until the drain is over. Returns its length in milliseconds.
    fn drain(&mut self, time: u64) -> u64 {
        while self.window.drain.is_some() {
            self.step(time);
        }
        self.now - self.window.drained_at.0 / 1_000_000
    }

    /// Acknowledges `percent` % of a window per `time` for about a second, each time with a lost
    /// datagram if `has_lost` is true. The window is always well used. Returns its size then.
    fn second(&mut self, percent: usize, time: u64, has_lost: bool) -> usize {
        for _ in 0..1_000 / time {
            let lost_sent_at = if has_lost { at(self.now) } else { Instant::ZERO };
            self.now += time;
            let bytes = self.window.bytes() * percent / 100;
            self.ack(time, Acknowledged { bytes, lost_sent_at, ..USED });
        }
        self.window.bytes()
    }
}

#[test]
fn random_loss_does_not_shrink_the_window() {
    let mut run = Run::new();
    assert_eq!(run.second(100, 2, true), WINDOW_MAX);
}

#[test]
fn loss_with_a_full_queue_shrinks_the_window() {
    let mut run = Run::new();
    run.second(100, 2, true);
    assert!(run.second(100, 20, true) < WINDOW_MAX / 100, "{} bytes", run.window.bytes());
    let shrunk = run.window.bytes();
    assert!(run.second(100, 20, false) > shrunk, "nothing is lost any more");
}

#[test]
fn loss_of_almost_everything_limits_the_window() {
    let mut run = Run::new();
    run.second(10, 2, true);
    assert!(run.window.bytes() <= 2 * LIMIT_MIN, "{} bytes", run.window.bytes());
}

/// A full window per round trip of 1 ms would be 50 times what is delivered.
#[test]
fn pacing_rate_is_at_most_three_times_the_delivery_rate() {
    let mut run = Run::steady(50_000, 9_000);
    assert_eq!(run.window.pacing_rate(ms(1)), 3_000_000);
    assert_eq!(run.window.pacing_rate(ms(50)), 1_250_000, "5/4 of the window");
    run.window.rates.iter_mut().for_each(|rate| *rate = 1);
    assert_eq!(run.window.pacing_rate(ms(1)), 1_638_400, "16 KiB in 10 ms");
}

#[test]
fn unused_window_does_not_grow() {
    let mut run = Run::new();
    for _ in 0..1_000 {
        run.now += 1;
        run.ack(2, Acknowledged { is_used: false, ..USED });
    }
    assert_eq!(run.window.bytes(), WINDOW_INITIAL);
}

/// Bursts of 150 KB, each acknowledged within a short time.
#[test]
fn pauses_between_bursts_do_not_shrink_the_window() {
    for (round_trip, acks, interval) in [(50, 30, 500), (50, 30, 90), (4, 3, 15)] {
        let mut run = Run::new();
        (run.window.bytes, run.window.in_slow_start) = (208_000, false);
        for _ in 0..20 {
            let next = run.now + interval;
            run.now += round_trip;
            let bytes = 150_000 / acks;
            for left in (0..acks).rev() {
                run.now += 1;
                let is_used = (left + 1) * bytes * 2 > run.window.bytes();
                let ack = Acknowledged { bytes, is_used, is_idle: left == 0, ..USED };
                run.ack(round_trip, ack);
            }
            run.now = next;
        }
        let bytes = run.window.bytes();
        assert!(bytes >= 208_000, "{bytes} bytes, {round_trip} ms each {interval} ms");
    }
}

/// The loss happened without a queue.
#[test]
fn old_loss_does_not_count_when_a_queue_appears() {
    let mut run = Run::steady(50_000, 9_000);
    run.window.in_slow_start = true;
    let ack = Acknowledged { lost_sent_at: at(run.now), ..USED };
    run.now += 500;
    for _ in 0..100 {
        run.now += 1;
        run.ack(SHORT + 3, ack);
    }
    assert!(run.window.in_slow_start && run.window.bytes() >= 50_000, "{:?}", run.window);
    let before = run.window.bytes();
    run.lose(SHORT + 3);
    assert!(!run.window.in_slow_start && run.window.bytes() < before, "{:?}", run.window);
}

/// It begins in the middle of a round, after round trips without a queue.
#[test]
fn drain_after_a_loss_lasts_two_round_trips_and_restores_the_window() {
    for middle in 0..20 {
        let mut run = Run::steady(50_000, 10_000 + middle);
        run.lose(SHORT);
        assert_eq!(run.window.bytes(), 17_500, "7/8 of what the path holds");
        let length = run.drain(SHORT);
        assert_eq!((length, run.window.bytes()), (2 * SHORT, 50_000));
    }
}

#[test]
fn drain_at_least_halves_the_window() {
    let mut run = Run::steady(30_000, 10_000);
    run.lose(SHORT);
    assert_eq!(run.window.bytes(), 15_000);
}

#[test]
fn drain_after_a_loss_is_not_repeated_within_ten_seconds() {
    let mut run = Run::steady(30_000, 9_000);
    run.lose(SHORT);
    assert!(run.window.drain.is_none(), "9 s after the beginning");
    run.steps(1_000, SHORT);
    run.lose(SHORT);
    assert!(run.window.drain.is_some());
    run.drain(SHORT);
    for _ in 0..9_900 {
        run.lose(SHORT);
        assert!(run.window.drain.is_none());
    }
    run.steps(100, SHORT);
    run.lose(SHORT);
    assert!(run.window.drain.is_some());
}

#[test]
fn overflow_at_the_time_of_a_drain_shrinks_the_window() {
    let mut run = Run::steady(40_000, 9_950);
    run.steps(100, SHORT + 10);
    run.window.in_slow_start = true;
    let before = run.window.bytes();
    run.lose(SHORT + 10);
    assert!(run.window.drain.is_some() && !run.window.in_slow_start);
    run.drain(SHORT);
    assert_eq!(run.window.bytes(), before * 20 / 30);
}

#[test]
fn overflow_at_the_time_of_a_drain_keeps_the_minimum_window() {
    let mut run = Run::steady(WINDOW_MIN, 9_950);
    run.steps(100, SHORT + 10);
    run.window.bytes = WINDOW_MIN;
    run.lose(SHORT + 10);
    assert_eq!((run.window.drain.is_some(), run.window.bytes()), (true, WINDOW_MIN));
    run.drain(SHORT);
    assert_eq!(run.window.bytes(), WINDOW_MIN);
}

/// The round trips before the drain were short, and its first acknowledgement comes at its end.
#[test]
fn drain_sees_a_queue_that_appeared_during_it() {
    let mut run = Run::steady(50_000, 10_000);
    run.lose(SHORT);
    run.now += 4 * LONG;
    run.step(LONG);
    assert!(run.window.drain.is_none() && run.window.is_contested, "{:?}", run.window);
}

#[test]
fn drain_of_its_own_long_queue_leaves_a_short_one() {
    let mut run = Run::steady(60_000, 9_000);
    run.until_drain(LONG);
    assert_eq!(run.window.bytes(), 17_500);
    let length = run.drain(SHORT);
    assert!(length < 2 * LONG && !run.window.is_contested, "{length} ms");
    assert_eq!(run.window.bytes(), 25_000, "what the path holds, and a queue of 5 ms");
    assert!(run.until_drain(LONG) < 1_000, "its own queue is drained each time");
}

#[test]
fn drain_of_a_queue_that_others_fill_restores_the_window() {
    let mut run = Run::steady(60_000, 9_000);
    run.until_drain(LONG);
    let back_to = run.window.drain.expect("it began").back_to;
    let length = run.drain(LONG);
    assert!(length >= 2 * LONG && run.window.is_contested, "{length} ms");
    assert_eq!(run.window.bytes(), back_to);
    assert!(run.until_drain(LONG) + length >= 10_000, "others fill the queue");
}
