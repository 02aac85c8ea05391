//! Failed logins, by address: each makes the client wait before its next attempt, and new clients
//! from the same address before their first. Clients that have logged in are not delayed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::types::Instant;

/// Number of failed logins from an address that cause no delay.
const FREE_FAILURES: u32 = 3;
/// Delay after the first failure that causes one. Each further failure doubles it.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// Maximum delay.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// Time without a failure after which the failures from an address are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(5);
/// Maximum number of addresses. At this number, the one with the oldest failure is forgotten.
const ADDRESSES_MAX: usize = 1_024;

/// The recent failed logins from each address.
#[derive(Debug, Default)]
pub(super) struct FailedLogins {
    by_address: HashMap<IpAddr, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last_at: Instant,
    /// The time until which clients from the address wait.
    until: Instant,
}

impl FailedLogins {
    /// Records a failed login from `address` at `now`. Returns the time until which the client must
    /// wait.
    pub(super) fn add(&mut self, address: IpAddr, now: Instant) -> Instant {
        let is_new = !self.by_address.contains_key(&address);
        if is_new && self.by_address.len() >= ADDRESSES_MAX {
            let oldest = self.by_address.iter().min_by_key(|(_, failures)| failures.last_at);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.map(|oldest| self.by_address.remove(&oldest));
        }
        let new = Failures { count: 0, last_at: now, until: now };
        let failures = self.by_address.entry(address).or_insert(new);
        if now.since(failures.last_at) >= FORGOTTEN_AFTER {
            *failures = new;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last_at = now;
        if let Some(doublings) = failures.count.checked_sub(FREE_FAILURES + 1) {
            let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            failures.until = now + DELAY_MIN.saturating_mul(factor).min(DELAY_MAX);
        }
        failures.until
    }

    /// Returns the time until which a new client from `address` must wait; `None` if it need not.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let failures = self.by_address.get(&address)?;
        (failures.until > now).then_some(failures.until)
    }

    /// Forgets the failures from `address`, because a client has logged in from there.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.by_address.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_of_failed_logins_grow_to_a_maximum_and_are_per_address() {
        let mut logins = FailedLogins::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::ZERO + Duration::from_secs(9);
        let delays: Vec<u128> =
            (0..12).map(|_| logins.add(one, now).since(now).as_millis()).collect();
        assert_eq!(delays[..8], [0, 0, 0, 50, 100, 200, 400, 800]);
        assert!(delays[8..].iter().all(|delay| *delay == 1_000), "{delays:?}");
        assert_eq!(logins.wait(one, now), Some(now + DELAY_MAX));
        assert_eq!((logins.wait(other, now), logins.wait(one, now + DELAY_MAX)), (None, None));
        assert_eq!(logins.add(one, now + FORGOTTEN_AFTER), now + FORGOTTEN_AFTER);
        logins.forget(one);
        assert_eq!(logins.add(one, now), now);
    }

    #[test]
    fn table_of_failed_logins_is_bounded() {
        let mut logins = FailedLogins::default();
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            logins.add(IpAddr::from(number.to_be_bytes()), Instant(number.into()));
        }
        assert_eq!(logins.by_address.len(), ADDRESSES_MAX);
        assert!(!logins.by_address.contains_key(&IpAddr::from([0; 4])), "the oldest is forgotten");
    }
}
