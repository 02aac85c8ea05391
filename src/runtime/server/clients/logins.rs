//! Failed logins, by address and user name: each makes the client wait before its next attempt, and
//! new clients from the same address before their first. A login ends only the delay for its own
//! user, so that one account does not help to guess the password of another. Clients that have
//! logged in are not delayed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
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

/// Maximum number of user names with failures that are told apart for each address. The failures of
/// further ones end only with time.
const USERS_MAX: usize = 16;

/// The recent failed logins from each address.
#[derive(Debug, Default)]
pub(super) struct FailedLogins {
    by_address: HashMap<IpAddr, Failures>,
    /// Hashes user names with a random key, so that no two can be found with the same hash.
    hasher: RandomState,
}

#[derive(Debug)]
struct Failures {
    /// The number of all failures from the address, including those in `by_user`.
    count: u32,
    /// The number of failures as each of these users, by the hash of the name. At most
    /// [`USERS_MAX`].
    by_user: HashMap<u64, u32>,
    last_at: Instant,
    /// The time until which clients from the address wait.
    until: Instant,
}

impl FailedLogins {
    /// Records a failed login from `address` as the user `user` at `now`. Returns the time until
    /// which the client must wait.
    pub(super) fn add(&mut self, address: IpAddr, user: &[u8], now: Instant) -> Instant {
        let is_new = !self.by_address.contains_key(&address);
        if is_new && self.by_address.len() >= ADDRESSES_MAX {
            let oldest = self.by_address.iter().min_by_key(|(_, failures)| failures.last_at);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.map(|oldest| self.by_address.remove(&oldest));
        }
        let new = || Failures { count: 0, by_user: HashMap::new(), last_at: now, until: now };
        let user = self.hasher.hash_one(user);
        let failures = self.by_address.entry(address).or_insert_with(new);
        if now.since(failures.last_at) >= FORGOTTEN_AFTER {
            *failures = new();
        }
        failures.count = failures.count.saturating_add(1);
        if failures.by_user.len() < USERS_MAX || failures.by_user.contains_key(&user) {
            let count = failures.by_user.entry(user).or_default();
            *count = count.saturating_add(1);
        }
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

    /// Forgets the failures from `address` as the user `user`, because a client has logged in from
    /// there as that user.
    pub(super) fn forget(&mut self, address: IpAddr, user: &[u8]) {
        let Some(failures) = self.by_address.get_mut(&address) else { return };
        let user = self.hasher.hash_one(user);
        failures.count -= failures.by_user.remove(&user).unwrap_or(0).min(failures.count);
        if failures.count == 0 {
            self.by_address.remove(&address);
        } else if failures.count <= FREE_FAILURES {
            failures.until = failures.last_at;
        }
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
            (0..12).map(|_| logins.add(one, b"u", now).since(now).as_millis()).collect();
        assert_eq!(delays[..8], [0, 0, 0, 50, 100, 200, 400, 800]);
        assert!(delays[8..].iter().all(|delay| *delay == 1_000), "{delays:?}");
        assert_eq!(logins.wait(one, now), Some(now + DELAY_MAX));
        assert_eq!((logins.wait(other, now), logins.wait(one, now + DELAY_MAX)), (None, None));
        assert_eq!(logins.add(one, b"u", now + FORGOTTEN_AFTER), now + FORGOTTEN_AFTER);
        logins.forget(one, b"u");
        assert_eq!((logins.add(one, b"u", now), logins.by_address.len()), (now, 1));
    }

    /// Someone with an account of their own guesses the password of another.
    #[test]
    fn login_forgives_only_the_failures_of_its_own_user() {
        let mut logins = FailedLogins::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        let now = Instant::ZERO + Duration::from_secs(9);
        let mut delays = Vec::new();
        for _ in 0..8 {
            delays.push(logins.add(address, b"other", now).since(now).as_millis());
            logins.forget(address, b"own");
        }
        assert_eq!(delays, [0, 0, 0, 50, 100, 200, 400, 800]);
        logins.forget(address, b"other");
        assert_eq!(logins.wait(address, now), None);
        // Failures as many users are still counted.
        for name in 0..3 * u8::try_from(USERS_MAX).unwrap() {
            logins.add(address, &[name], now);
        }
        assert_eq!(logins.by_address[&address].by_user.len(), USERS_MAX);
        (0..=u8::MAX).for_each(|name| logins.forget(address, &[name]));
        assert_eq!(logins.wait(address, now), Some(now + DELAY_MAX));
    }

    #[test]
    fn table_of_failed_logins_is_bounded() {
        let mut logins = FailedLogins::default();
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            logins.add(IpAddr::from(number.to_be_bytes()), b"u", Instant(number.into()));
        }
        assert_eq!(logins.by_address.len(), ADDRESSES_MAX);
        assert!(!logins.by_address.contains_key(&IpAddr::from([0; 4])), "the oldest is forgotten");
    }
}
