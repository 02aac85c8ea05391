//! The keys that the simulated workload uses.

/// Initial balance of each account. Accounts are keys between which clients transfer amounts.
pub(super) const ACCOUNT_START: u64 = 100;
/// The key that a client writes and reads at the end of a run, after faults have ended, to show
/// that the cluster makes progress.
pub(super) const PROBE: &str = "probe";
/// Prefix of the keys that are written with an expiration.
pub(super) const EXPIRING: &str = "expiring ";
/// The key of the counter that clients increment in their sessions.
pub(super) const COUNTER: &[u8] = b"count";

/// Returns the key of account `number`. An account is a key that holds a balance.
pub(super) fn account(number: u64) -> String {
    format!("account {number}")
}

/// Returns whether `key` is one of the keys that the workload writes with an expiration.
pub(super) fn expires(key: &[u8]) -> bool {
    key.starts_with(EXPIRING.as_bytes())
}

/// Returns whether `key` belongs to an account, which is a key that holds a balance.
pub(super) fn is_account(key: &[u8]) -> bool {
    key.starts_with(b"account ")
}
