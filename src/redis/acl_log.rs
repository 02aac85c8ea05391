//! `ACL LOG`: the denied requests and logins of this replica's clients.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// Maximum stored length in bytes of an object (command, key or channel). Redis has no such limit,
/// but clients choose the length.
const OBJECT_BYTES_MAX: usize = 256;
/// An identical denial within this time increments the count of the existing entry.
const GROUPED: Duration = Duration::from_mins(1);
/// Maximum number of entries: Redis's default for `acllog-max-len`.
const ENTRIES_MAX: usize = 128;

/// The type of object to which access was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialReason {
    /// A login: the password was wrong, or the user is disabled or does not exist.
    Login,
    /// A command.
    Command,
    /// A key.
    Key,
    /// A Pub/Sub channel.
    Channel,
}

/// Where the denied request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenialContext {
    /// The client itself.
    TopLevel,
    /// A transaction.
    Transaction,
    /// A script.
    Script,
}

impl DenialContext {
    /// Returns Redis's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            DenialContext::TopLevel => "toplevel",
            DenialContext::Transaction => "multi",
            DenialContext::Script => "lua",
        }
    }
}

/// A denied request or login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Type of the object.
    pub reason: DenialReason,
    pub(super) context: DenialContext,
    /// The command, key or channel. For a login, the command that contained the password.
    pub(super) object: Bytes,
    /// Name of the user.
    pub user: Bytes,
}

/// An entry of the log: identical denials, counted.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Number of the entry, counted from 0 when the process starts.
    pub(super) id: i64,
    pub(super) denial: Denial,
    /// Number of denials.
    pub(super) count: i64,
    /// Wall clock at the first and at the latest denial, as time since 1970.
    pub(super) first_at: Duration,
    pub(super) last_at: Duration,
    /// The connection, as `CLIENT LIST` describes it.
    pub(super) client: String,
}

/// The denials at one replica, and their numbers since the process started or since `CONFIG
/// RESETSTAT`.
#[derive(Debug, Clone, Default)]
pub struct AclLog {
    next_id: i64,
    /// The entries, latest first.
    entries: VecDeque<Entry>,
    pub(super) denied_logins: u64,
    pub(super) denied_commands: u64,
    pub(super) denied_keys: u64,
    pub(super) denied_channels: u64,
}

impl AclLog {
    /// Adds a denial that happened at `wall_clock` (time since 1970). `client` is the connection as
    /// `CLIENT LIST` describes it.
    pub fn add(&mut self, mut denial: Denial, client: String, wall_clock: Duration) {
        *match denial.reason {
            DenialReason::Login => &mut self.denied_logins,
            DenialReason::Command => &mut self.denied_commands,
            DenialReason::Key => &mut self.denied_keys,
            DenialReason::Channel => &mut self.denied_channels,
        } += 1;
        for text in [&mut denial.object, &mut denial.user] {
            // Copied, because a slice would keep the whole request in memory.
            *text = Bytes::copy_from_slice(&text[..text.len().min(OBJECT_BYTES_MAX)]);
        }
        let is_same = |entry: &Entry| {
            entry.denial == denial && wall_clock.saturating_sub(entry.last_at) < GROUPED
        };
        if let Some(at) = self.entries.iter().position(is_same)
            && let Some(mut entry) = self.entries.remove(at)
        {
            (entry.count, entry.last_at, entry.client) = (entry.count + 1, wall_clock, client);
            self.entries.push_front(entry);
            return;
        }
        let (id, first_at, last_at) = (self.next_id, wall_clock, wall_clock);
        self.entries.push_front(Entry { id, denial, count: 1, first_at, last_at, client });
        self.next_id += 1;
        self.entries.truncate(ENTRIES_MAX);
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Resets the numbers of denials to 0.
    pub(super) fn reset_counts(&mut self) {
        (self.denied_logins, self.denied_commands) = (0, 0);
        (self.denied_keys, self.denied_channels) = (0, 0);
    }

    /// Returns the entries, latest first.
    pub(super) fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_denials_within_a_minute_share_one_acl_log_entry() {
        let mut log = AclLog::default();
        let mut deny = |object: &str, second| {
            let (reason, context) = (DenialReason::Key, DenialContext::TopLevel);
            let (object, user) = (Bytes::from(object.to_owned()), Bytes::from_static(b"u"));
            let denial = Denial { reason, context, object, user };
            log.add(denial, String::new(), Duration::from_secs(second));
            log.entries().iter().map(|entry| (entry.id, entry.count)).collect::<Vec<_>>()
        };
        assert_eq!(deny("a", 1), [(0, 1)]);
        assert_eq!(deny("b", 2), [(1, 1), (0, 1)]);
        assert_eq!(deny("a", 60), [(0, 2), (1, 1)]);
        assert_eq!(deny("b", 62), [(2, 1), (0, 2), (1, 1)]);
        for number in 0..ENTRIES_MAX {
            deny(&number.to_string(), 70);
        }
        assert_eq!(deny(&"x".repeat(1_000), 71).len(), ENTRIES_MAX);
        assert_eq!(log.entries()[0].denial.object.len(), OBJECT_BYTES_MAX);
        assert_eq!(log.denied_keys, 5 + ENTRIES_MAX as u64);
    }
}
