//! The keys of the workload.

/// Initial balance of each account.
pub(super) const ACCOUNT_START: u64 = 100;
/// The key that is written and read after all faults, to show that the cluster makes progress.
pub(super) const PROBE: &str = "probe";
/// Prefix of keys that expire.
pub(super) const EXPIRING: &str = "expiring ";
/// The counter that is incremented in client sessions.
pub(super) const COUNTER: &[u8] = b"count";

/// Returns the key of an account.
pub(super) fn account(number: u64) -> String {
    format!("account {number}")
}

/// Whether a key expires.
pub(super) fn expires(key: &[u8]) -> bool {
    key.starts_with(EXPIRING.as_bytes())
}

/// Whether a key is an account.
pub(super) fn is_account(key: &[u8]) -> bool {
    key.starts_with(b"account ")
}
