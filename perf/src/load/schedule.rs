//! The schedule of an open loop: requests are due at constant intervals from a start time that all
//! threads share, so a delayed request does not postpone the next one.
//!
//! There is no queue of due requests: a request that cannot be sent in time simply stays in the
//! schedule, and its latency is still measured from its due time.

/// One thread's part of the schedule of an open loop: with N threads, every N-th request of the run
/// belongs to the thread. All times are in nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    first: u64,
    /// Interval between consecutive requests of the whole run (of all threads), in nanoseconds.
    period: f64,
    next: u64,
    step: u64,
    /// Number of requests in the schedule of the whole run, over all threads.
    count: u64,
}

impl Schedule {
    /// Creates the schedule of load thread number `thread` of `threads`. All threads together send
    /// `rate` requests per second. The schedule starts at `first` and lasts `length`, both in
    /// nanoseconds.
    pub(crate) fn new(
        first: u64,
        length: u64,
        rate: f64,
        thread: usize,
        threads: usize,
    ) -> Schedule {
        let period = 1e9 / rate;
        let count = to_u64((length as f64 / period).round());
        Schedule { first, period, next: thread as u64, step: threads as u64, count }
    }

    /// Returns the time at which the thread's next request is due, in nanoseconds since the start
    /// of the run; this time may have passed already. Returns `None` after the last request.
    pub(crate) fn due(&self) -> Option<u64> {
        (self.next < self.count).then(|| self.due_at(self.next))
    }

    /// Advances the schedule past the thread's next request, because the request is being sent.
    pub(crate) fn take(&mut self) {
        self.next += self.step;
    }

    /// Returns how many of the thread's requests are due at the time `now` but have not been sent.
    pub(crate) fn backlog(&self, now: u64) -> u64 {
        let due = now.saturating_sub(self.first) as f64 / self.period;
        let due = (to_u64(due.floor()) + 1).min(self.count);
        due.saturating_sub(self.next).div_ceil(self.step)
    }

    /// Returns how many of the thread's requests were due from `since` to `now` but have not been
    /// sent.
    pub(crate) fn unsent(&self, since: u64, now: u64) -> u64 {
        let pending = (self.next..self.count).step_by(usize::try_from(self.step).unwrap_or(1));
        let due_times = pending.map(|place| self.due_at(place));
        due_times.skip_while(|&due_at| due_at < since).take_while(|&due_at| due_at <= now).count()
            as u64
    }

    fn due_at(&self, place: u64) -> u64 {
        // Computed from the start each time, because adding up periods would accumulate rounding
        // errors.
        self.first + to_u64(place as f64 * self.period)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and nanoseconds of a run are positive and below 2^52"
)]
fn to_u64(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn all(mut schedule: Schedule) -> Vec<u64> {
        let mut due_times = Vec::new();
        while let Some(due) = schedule.due() {
            due_times.push(due);
            schedule.take();
        }
        due_times
    }

    #[test]
    fn open_loop_requests_are_due_at_a_constant_interval() {
        assert_eq!(
            all(Schedule::new(7, SECOND, 4.0, 0, 1)),
            [7, 250_000_007, 500_000_007, 750_000_007]
        );
        let thirds = all(Schedule::new(0, 10 * SECOND, 3.0, 0, 1));
        assert_eq!((thirds.len(), thirds[29]), (30, 9_666_666_666));
        assert_eq!(all(Schedule::new(0, 10 * SECOND, 123_456.7, 0, 1)).len(), 1_234_567);
    }

    #[test]
    fn load_threads_share_one_request_schedule() {
        let mut shared: Vec<u64> = (0..3)
            .flat_map(|thread| all(Schedule::new(5, 2 * SECOND, 1_000.0, thread, 3)))
            .collect();
        shared.sort_unstable();
        assert_eq!(shared, all(Schedule::new(5, 2 * SECOND, 1_000.0, 0, 1)));
    }

    #[test]
    fn late_open_loop_requests_keep_their_scheduled_time() {
        let mut schedule = Schedule::new(0, SECOND, 10.0, 0, 1);
        assert_eq!(schedule.backlog(0), 1);
        schedule.take();
        assert_eq!((schedule.backlog(0), schedule.backlog(99_999_999)), (0, 0));
        assert_eq!(schedule.backlog(350_000_000), 3);
        assert_eq!(schedule.due(), Some(100_000_000));
        assert_eq!(schedule.backlog(50 * SECOND), 9, "at most the requests that remain");
        assert_eq!((schedule.unsent(0, SECOND), schedule.unsent(900_000_000, SECOND)), (9, 1));
        assert_eq!((schedule.unsent(0, 200_000_000), schedule.unsent(SECOND, SECOND)), (2, 0));
        let mut second = Schedule::new(0, SECOND, 10.0, 1, 2);
        assert_eq!(second.backlog(450_000_000), 2, "those at 100 and 300 ms");
        second.take();
        assert_eq!(second.backlog(450_000_000), 1);
    }
}
