//! The table of all users, as part of the replicated state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::rule::{PasswordHash, Rule, RuleError};
use super::user::User;
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};

/// Name of the user that new connections have before they log in.
pub const DEFAULT_USER: &[u8] = b"default";

/// Maximum number of users in a cluster.
pub const USERS_MAX: usize = 4_096;
/// Maximum total length of a user's name and rules, in bytes.
pub const USER_BYTES_MAX: usize = 64 << 10;

/// All users of the cluster. The user `default` is absent until it is first set; until then each
/// replica takes its password from its own settings.
///
/// A clone shares its users with the original (copy-on-write).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<Bytes, Arc<User>>,
    /// Number of changes to users since the cluster was created.
    revision: u64,
    digest: Digest,
    bytes: usize,
}

/// Why a change to a user was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A rule was rejected. Its text must not be shown if it contains a password.
    #[error("Error in ACL SETUSER modifier '{}': {error}", String::from_utf8_lossy(rule))]
    Rule {
        /// The text of the rule.
        rule: Bytes,
        /// Why it was rejected.
        error: RuleError,
    },
    /// The user's name is empty, too long, or contains white space or a NUL byte.
    #[error("Usernames can't contain spaces or null characters")]
    Name,
    /// The change would exceed [`USERS_MAX`] users, or [`USER_BYTES_MAX`] bytes of name and rules.
    #[error(
        "a cluster has at most {USERS_MAX} users, and a user at most {USER_BYTES_MAX} bytes of \
             rules"
    )]
    TooMany,
}

impl Users {
    /// Returns the user `name`; `None` if it does not exist.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// Returns all users and their names, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Arc<User>)> {
        self.by_name.iter()
    }

    /// Returns the number of changes to users since the cluster was created.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the user `name` as it would be after applying `rules`. `initial_password` is the
    /// password of the user `default` if that user has never been set.
    ///
    /// # Errors
    /// If the name or a rule is invalid, or a limit would be exceeded.
    pub fn changed<'r>(
        &self,
        name: &[u8],
        initial_password: Option<PasswordHash>,
        rules: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<User, UserError> {
        if name.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0B)) {
            return Err(UserError::Name);
        }
        let known = self.by_name.get(name);
        let mut user = match known {
            Some(user) => User::clone(user),
            None if name == DEFAULT_USER => User::initial_default(initial_password),
            None => User::default(),
        };
        for text in rules {
            let refused = |error| UserError::Rule { rule: Bytes::copy_from_slice(text), error };
            if let Some(rule) = Rule::parse(text).map_err(refused)? {
                user.apply(&rule).map_err(refused)?;
            }
        }
        let bytes = name.len() + user.rules().iter().map(Vec::len).sum::<usize>();
        if bytes > USER_BYTES_MAX || known.is_none() && self.by_name.len() >= USERS_MAX {
            return Err(UserError::TooMany);
        }
        Ok(user)
    }

    /// Sets the user `name`.
    pub(in crate::kv) fn set(&mut self, name: &[u8], user: User) {
        self.revision += 1;
        self.insert(name, user);
    }

    /// Deletes the users with these names, except `default`. Returns the number of deleted users.
    pub(in crate::kv) fn remove<'n>(&mut self, names: impl Iterator<Item = &'n [u8]>) -> usize {
        let mut count = 0;
        for name in names {
            if name != DEFAULT_USER
                && let Some(user) = self.by_name.remove(name)
            {
                self.digest.remove(hash_of(name, &user));
                self.bytes -= user.memory() + name.len();
                count += 1;
            }
        }
        self.revision += u64::from(count > 0);
        count
    }

    fn insert(&mut self, name: &[u8], user: User) {
        self.digest.add(hash_of(name, &user));
        self.bytes += user.memory() + name.len();
        let old = self.by_name.insert(Bytes::copy_from_slice(name), Arc::new(user));
        if let Some(old) = old {
            self.digest.remove(hash_of(name, &old));
            self.bytes -= old.memory() + name.len();
        }
    }

    /// Returns the hash of all users and their revision, for the digest of the state; 0 if no user
    /// has ever been set.
    pub(in crate::kv) fn hash(&self) -> u64 {
        if self.revision == 0 { 0 } else { self.digest.salted(self.revision) }
    }

    /// Returns the approximate memory usage, in bytes.
    pub(in crate::kv) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the revision to `out`, encoded for a snapshot. The users follow it.
    pub(in crate::kv) fn encode_revision(&self, out: &mut Vec<u8>) {
        put_bytes(b"", out);
        put_number(self.revision, out);
    }

    /// Appends a user to `out`, encoded for a snapshot.
    pub(in crate::kv) fn encode_user(name: &[u8], user: &User, out: &mut Vec<u8>) {
        let rules = user.rules();
        put_bytes(b"u", out);
        put_bytes(name, out);
        put_number(rules.len() as u64, out);
        for rule in rules {
            put_bytes(&rule, out);
        }
    }

    /// Decodes one item, written by [`Users::encode_revision`] or [`Users::encode_user`], from the
    /// front of `from`, and adds it to the users. Returns `None` if the item is malformed or a
    /// duplicate.
    pub(in crate::kv) fn restore(&mut self, from: &mut &[u8]) -> Option<()> {
        if take_bytes(from)?.is_empty() {
            let revision = take_number(from)?;
            let is_first = self.revision == 0 && revision > 0;
            self.revision = revision;
            return is_first.then_some(());
        }
        let name = take_bytes(from)?;
        if self.revision == 0 || self.by_name.contains_key(name) {
            return None;
        }
        let mut user = User::default();
        for _ in 0..take_number(from)? {
            // The command rules of the first selector are a single text.
            for word in words_of(take_bytes(from)?) {
                user.apply(&Rule::parse(word).ok()??).ok()?;
            }
        }
        self.insert(name, user);
        Some(())
    }
}

/// Splits an element of [`User::rules`] into parsable rules: at spaces, unless it is a selector.
fn words_of(rule: &[u8]) -> Vec<&[u8]> {
    if rule.starts_with(b"(") { vec![rule] } else { rule.split(|byte| *byte == b' ').collect() }
}

fn hash_of(name: &[u8], user: &User) -> u64 {
    user.rules().iter().fold(key_hash(name), |hash, rule| mix(hash, fingerprint(hash, rule)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(users: &mut Users, name: &str, rules: &str) -> Result<(), String> {
        let rules = if rules.is_empty() { vec![] } else { rules.split(' ').collect() };
        let rules = rules.into_iter().map(str::as_bytes);
        let user =
            users.changed(name.as_bytes(), None, rules).map_err(|error| error.to_string())?;
        users.set(name.as_bytes(), user);
        Ok(())
    }

    fn shown(users: &Users, name: &str) -> String {
        let rules = users.get(name.as_bytes()).expect("the user exists").rules();
        String::from_utf8(rules.join(&b' ')).expect("the test uses text")
    }

    #[test]
    fn users_are_shown_as_in_redis() {
        let mut users = Users::default();
        for (rules, wanted) in [
            ("", "off resetchannels -@all"),
            ("on ~a:* %R~b:* +get", "on ~a:* %R~b:* resetchannels -@all +get"),
            ("-get +get %W~b:*", "on ~a:* ~b:* resetchannels -@all +get"),
            ("+config|get +config", "on ~a:* ~b:* resetchannels -@all +get +config"),
            ("-@all allkeys &x &x", "on ~* resetchannels &x -@all"),
            ("allchannels +@all -keys nopass", "on nopass ~* &* +@all -keys"),
            ("reset", "off sanitize-payload resetchannels -@all"),
            ("%R~* %w~*", "off sanitize-payload ~* resetchannels -@all"),
        ] {
            set(&mut users, "u", rules).unwrap();
            assert_eq!(shown(&users, "u"), wanted, "{rules}");
        }
    }

    #[test]
    fn rejected_rule_changes_nothing_and_gives_the_reason() {
        let mut users = Users::default();
        set(&mut users, "u", "on ~a nopass").unwrap();
        let before = (users.hash(), users.revision());
        for (name, rules, wanted) in [
            ("u", "off nonsense", "'nonsense': Syntax error"),
            ("u", "%X~a", "Syntax error"),
            ("u", "%~a", "Syntax error"),
            ("u", "allkeys ~a", "Adding a pattern after the * pattern (or the 'allkeys'"),
            ("u", "allchannels &a", "Adding a pattern after the * pattern (or the 'allchannels'"),
            ("u", "#12", "exactly 64 characters"),
            ("a b", "on", "spaces or null"),
        ] {
            let error = set(&mut users, name, rules).unwrap_err();
            assert!(error.contains(wanted), "{rules}: {error}");
        }
        let unknown = format!("!{}", "ab".repeat(32));
        assert!(set(&mut users, "u", &unknown).unwrap_err().contains("does not exist"));
        assert_eq!((users.hash(), users.revision()), before);
    }

    #[test]
    fn digest_covers_the_revision_but_no_deleted_users() {
        let mut users = Users::default();
        assert_eq!((users.hash(), users.bytes()), (0, 0));
        set(&mut users, "a", "on").unwrap();
        set(&mut users, "default", "off").unwrap();
        assert_eq!(users.remove([&b"a"[..], b"none", b"default"].into_iter()), 1);
        assert_eq!(users.remove([&b"a"[..]].into_iter()), 0);
        assert_eq!((users.revision(), users.iter().count()), (3, 1));
        assert_eq!(shown(&users, "default"), "off nopass ~* &* +@all");
    }

    #[test]
    fn default_user_starts_with_the_password_of_the_replica() {
        let hash = PasswordHash([7; 32]);
        let user = Users::default().changed(DEFAULT_USER, Some(hash), []).unwrap();
        assert_eq!((user.passwords(), user.accepts_any_password), (&[hash][..], false));
        let other = Users::default().changed(b"other", Some(hash), []).unwrap();
        assert_eq!(other, User::default());
    }

    #[test]
    fn users_are_restored_from_their_encoding() {
        let mut users = Users::default();
        let hash = "0f".repeat(32);
        set(&mut users, "a", &format!("on #{hash} ~x %W~y &c +@all -@write +config|get")).unwrap();
        set(&mut users, "b", "off skip-sanitize-payload nopass").unwrap();
        let selector = users.changed(b"a", None, [&b"(%R~z +get)"[..], b"()"]).unwrap();
        users.set(b"a", selector);
        let mut bytes = Vec::new();
        users.encode_revision(&mut bytes);
        for (name, user) in users.iter() {
            Users::encode_user(name, user, &mut bytes);
        }
        let (mut rest, mut restored) = (&bytes[..], Users::default());
        while !rest.is_empty() {
            restored.restore(&mut rest).unwrap();
        }
        assert!(restored.iter().eq(users.iter()));
        assert_eq!((restored.hash(), restored.bytes()), (users.hash(), users.bytes()));
        for end in 0..bytes.len() {
            let (mut rest, mut restored) = (&bytes[..end], Users::default());
            while !rest.is_empty() && restored.restore(&mut rest).is_some() {}
        }
    }
}
