//! A bound on how far messages can raise a replica's term.
//!
//! An election raises the term by one and takes a good part of a second, so honest terms grow
//! slowly. A forged message could name the largest term, after which no election would be possible.
//! Each raise is therefore paid for from a budget that refills with time. It is enough for a
//! replica that was away for a week of frequent elections, and far too small to come near
//! [`Term::MAX`]: the refill would take a hundred million years.
//!
//! A replica's own elections cost nothing: they raise the term by one each.

use crate::types::{Instant, Term};

/// Capacity of the term budget: the maximum number of terms by which messages can raise the
/// replica's term without waiting for the budget to refill.
const CAPACITY: u64 = 1 << 20;
/// Number of terms per second by which the term budget refills, up to its capacity.
const REFILL_PER_SECOND: u128 = 1_024;
const SECOND: u128 = 1_000_000_000;
/// Highest term to which the first message may raise the term of a new replica, which has no term
/// and no log. The term budget does not limit this first message, because the cluster may already
/// have a very high term: earlier versions, without a budget, accepted forged terms up to 2^62.
/// Above this bound, 2^61 terms are left for elections.
const FIRST_TERM_MAX: Term = Term((1 << 62) + (1 << 61));

/// A budget that limits how far messages can raise the replica's term, so that forged messages
/// cannot exhaust the range of terms.
///
/// Invariant: `available <= CAPACITY`.
#[derive(Debug)]
pub(super) struct TermBudget {
    available: u64,
    /// Time, by the replica's clock, up to which the continuous refill of the budget is already
    /// included in `available`.
    refilled_at: Instant,
    /// Whether the replica is new, with no term and no log, so that the budget does not limit the
    /// first raise of its term.
    first_is_free: bool,
}

impl TermBudget {
    /// Creates a full budget. `is_new` says whether the replica has no term and no log.
    pub(super) fn new(now: Instant, is_new: bool) -> TermBudget {
        TermBudget { available: CAPACITY, refilled_at: now, first_is_free: is_new }
    }

    /// Returns whether the budget allows a message to raise the term from `own` to the higher
    /// `term`. Subtracts nothing from the budget.
    pub(super) fn covers(&mut self, own: Term, term: Term, now: Instant) -> bool {
        assert!(own < term, "a raise from term {own} to {term}");
        self.refill(now);
        let raise = term.0 - own.0;
        term <= Term::MAX
            && (raise <= self.available
                || self.first_is_free && own == Term(0) && term <= FIRST_TERM_MAX)
    }

    /// Charges the budget for raising the term from `own` to `term`. The caller must first have
    /// checked with [`TermBudget::covers`] that the budget allows this.
    pub(super) fn pay(&mut self, own: Term, term: Term) {
        assert!(own < term, "a raise from term {own} to {term}");
        let raise = term.0 - own.0;
        let is_free = self.first_is_free && own == Term(0);
        assert!(is_free || raise <= self.available, "{raise} terms of {}", self.available);
        if !is_free {
            self.available -= raise;
        }
        self.first_is_free = false;
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.since(self.refilled_at).as_nanos();
        let gained = passed * REFILL_PER_SECOND / SECOND;
        assert!(self.available <= CAPACITY, "{} terms of {CAPACITY}", self.available);
        let missing = CAPACITY - self.available;
        match u64::try_from(gained) {
            Ok(gained) if gained < missing => {
                self.available += gained;
                // The remaining time counts towards the next term.
                let accounted = u128::from(gained) * SECOND / REFILL_PER_SECOND;
                let accounted = u64::try_from(accounted).unwrap_or(u64::MAX);
                self.refilled_at = Instant(self.refilled_at.0.saturating_add(accounted));
            }
            _ => {
                self.available = CAPACITY;
                self.refilled_at = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn raise(budget: &mut TermBudget, own: u64, by: u64, now: Instant) -> bool {
        let (own, term) = (Term(own), Term(own + by));
        let covered = budget.covers(own, term, now);
        if covered {
            budget.pay(own, term);
        }
        covered
    }

    #[test]
    fn term_increases_are_rate_limited_by_a_token_bucket() {
        let start = Instant(7);
        let mut budget = TermBudget::new(start, false);
        assert!(!raise(&mut budget, 5, CAPACITY + 1, start));
        assert!(raise(&mut budget, 5, CAPACITY, start));
        assert!(!raise(&mut budget, 5, 1, start));
        let second = start + Duration::from_secs(1);
        assert!(!raise(&mut budget, 5, 1_025, second));
        assert!(raise(&mut budget, 5, 1_024, second));
        assert!(!raise(&mut budget, 5, 1, second));
        let week = second + Duration::from_hours(7 * 24);
        assert!(!raise(&mut budget, 5, CAPACITY + 1, week), "no more than the capacity");
        assert!(raise(&mut budget, 5, CAPACITY, week));
    }

    #[test]
    fn term_rate_limiter_refills_fully_despite_frequent_checks() {
        let mut budget = TermBudget::new(Instant::ZERO, false);
        assert!(raise(&mut budget, 0, CAPACITY, Instant::ZERO));
        for millis in 1..=1_000 {
            let now = Instant::ZERO + Duration::from_millis(millis);
            assert!(!budget.covers(Term(0), Term(1_025), now));
        }
        let second = Instant::ZERO + Duration::from_secs(1);
        assert!(raise(&mut budget, 0, 1_024, second));
    }

    #[test]
    fn first_term_increase_of_a_new_replica_is_not_rate_limited() {
        let far = (1 << 62) + 9;
        let mut budget = TermBudget::new(Instant::ZERO, true);
        assert!(!budget.covers(Term(0), Term::MAX, Instant::ZERO));
        assert!(raise(&mut budget, 0, far, Instant::ZERO));
        assert!(raise(&mut budget, far, 3, Instant::ZERO));
        assert!(!raise(&mut budget, 0, far, Instant::ZERO), "only the first raise is free");
        let mut old = TermBudget::new(Instant::ZERO, false);
        assert!(!old.covers(Term(0), Term(far), Instant::ZERO));
    }

    #[test]
    fn terms_above_the_maximum_term_are_rejected() {
        let mut budget = TermBudget::new(Instant::ZERO, false);
        assert!(budget.covers(Term(Term::MAX.0 - 1), Term::MAX, Instant::ZERO));
        assert!(!budget.covers(Term::MAX, Term(Term::MAX.0 + 1), Instant::ZERO));
        assert!(!budget.covers(Term(3), Term(u64::MAX), Instant::ZERO));
    }
}
