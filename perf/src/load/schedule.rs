//! When requests are due in an open loop: at fixed distances, counted from one start for all
//! threads, so that no delay of one request moves the next.
//!
//! There is no queue of due requests. The schedule knows the moment of each, so those that could
//! not be sent in time simply have not been taken from it yet; each still begins to count at its
//! own moment.

/// The moments of one thread: every `threads`-th of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    first: u64,
    /// Nanoseconds between two requests of all threads together.
    period: f64,
    next: u64,
    step: u64,
    /// Requests of all threads together.
    count: u64,
}

impl Schedule {
    /// From the moment `first` (in nanoseconds, as all moments here) on for `length` at `rate`
    /// requests a second.
    pub(crate) fn new(
        first: u64,
        length: u64,
        rate: f64,
        thread: usize,
        threads: usize,
    ) -> Schedule {
        let period = 1e9 / rate;
        let count = whole((length as f64 / period).round());
        Schedule { first, period, next: thread as u64, step: threads as u64, count }
    }

    /// When the next request is due, or was; `None` after the last.
    pub(crate) fn due(&self) -> Option<u64> {
        (self.next < self.count).then(|| self.moment(self.next))
    }

    /// Takes the next request.
    pub(crate) fn take(&mut self) {
        self.next += self.step;
    }

    /// Requests that are due at `now` and not taken.
    pub(crate) fn backlog(&self, now: u64) -> u64 {
        let due = now.saturating_sub(self.first) as f64 / self.period;
        let due = (whole(due.floor()) + 1).min(self.count);
        due.saturating_sub(self.next).div_ceil(self.step)
    }

    /// Requests that were not taken, of those due from `since` to `now`.
    pub(crate) fn unsent(&self, since: u64, now: u64) -> u64 {
        let places = (self.next..self.count).step_by(usize::try_from(self.step).unwrap_or(1));
        let moments = places.map(|place| self.moment(place));
        moments.skip_while(|&moment| moment < since).take_while(|&moment| moment <= now).count()
            as u64
    }

    fn moment(&self, place: u64) -> u64 {
        // From the start each time: adding up periods would add up their rounding.
        self.first + whole(place as f64 * self.period)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and nanoseconds of a run are positive and below 2^52"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn all(mut schedule: Schedule) -> Vec<u64> {
        let mut moments = Vec::new();
        while let Some(due) = schedule.due() {
            moments.push(due);
            schedule.take();
        }
        moments
    }

    #[test]
    fn requests_are_due_at_even_distances_and_as_many_as_asked_for() {
        assert_eq!(
            all(Schedule::new(7, SECOND, 4.0, 0, 1)),
            [7, 250_000_007, 500_000_007, 750_000_007]
        );
        let thirds = all(Schedule::new(0, 10 * SECOND, 3.0, 0, 1));
        assert_eq!((thirds.len(), thirds[29]), (30, 9_666_666_666));
        assert_eq!(all(Schedule::new(0, 10 * SECOND, 123_456.7, 0, 1)).len(), 1_234_567);
    }

    #[test]
    fn threads_share_one_schedule() {
        let mut shared: Vec<u64> = (0..3)
            .flat_map(|thread| all(Schedule::new(5, 2 * SECOND, 1_000.0, thread, 3)))
            .collect();
        shared.sort_unstable();
        assert_eq!(shared, all(Schedule::new(5, 2 * SECOND, 1_000.0, 0, 1)));
    }

    #[test]
    fn what_was_not_taken_in_time_waits_and_keeps_its_moment() {
        let mut schedule = Schedule::new(0, SECOND, 10.0, 0, 1);
        assert_eq!(schedule.backlog(0), 1);
        schedule.take();
        assert_eq!((schedule.backlog(0), schedule.backlog(99_999_999)), (0, 0));
        assert_eq!(schedule.backlog(350_000_000), 3);
        assert_eq!(schedule.due(), Some(100_000_000));
        assert_eq!(schedule.backlog(50 * SECOND), 9, "no more than there are");
        assert_eq!((schedule.unsent(0, SECOND), schedule.unsent(900_000_000, SECOND)), (9, 1));
        assert_eq!((schedule.unsent(0, 200_000_000), schedule.unsent(SECOND, SECOND)), (2, 0));
        let mut second = Schedule::new(0, SECOND, 10.0, 1, 2);
        assert_eq!(second.backlog(450_000_000), 2, "those at 100 and 300 ms");
        second.take();
        assert_eq!(second.backlog(450_000_000), 1);
    }
}
