//! The users as whom clients log in to this replica: those of the cluster, and the user `default`
//! as long as only the settings of the replica define it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::kv::{DEFAULT_USER, PasswordHash, Users};

use super::permissions::Permissions;
use super::session::connection::{Blocked, Connection};

/// Returns the hash of a password, as the cluster stores it.
pub fn hash_password(password: &[u8]) -> PasswordHash {
    PasswordHash(Sha256::digest(password).into())
}

/// The users of this replica, with their permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    by_name: BTreeMap<Bytes, Arc<Permissions>>,
    default: Arc<Permissions>,
    /// The users in the replicated state.
    pub(super) users: Users,
}

impl Default for Access {
    /// Returns the access of a replica without users and passwords.
    fn default() -> Access {
        let default = Permissions::unrestricted();
        let by_name = [(default.name.clone(), Arc::clone(&default))].into();
        Access { by_name, default, users: Users::default() }
    }
}

impl Access {
    /// Returns the access with these permissions, of which one must be that of the user `default`.
    /// `users` are the users in the replicated state.
    pub(super) fn new(permissions: Vec<Arc<Permissions>>, users: Users) -> Access {
        let by_name: BTreeMap<_, _> =
            permissions.into_iter().map(|one| (one.name.clone(), one)).collect();
        let default = Arc::clone(by_name.get(DEFAULT_USER).expect("every replica has this user"));
        Access { by_name, default, users }
    }

    /// Returns the users in the replicated state.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Returns the revision of the users in the replicated state.
    pub fn users_revision(&self) -> u64 {
        self.users.revision()
    }

    /// Returns the permissions of a user; `None` if there is no such user.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Permissions>> {
        self.by_name.get(name)
    }

    /// Iterates over the permissions of all users, in the order of their names.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Permissions>> {
        self.by_name.values()
    }

    /// Returns the permissions with which a connection begins; `None` if it must log in first.
    pub(super) fn without_login(&self) -> Option<Arc<Permissions>> {
        let user = &self.default.user;
        (user.is_enabled && user.accepts_any_password).then(|| Arc::clone(&self.default))
    }

    /// Returns whether the user `default` accepts any password.
    pub(super) fn needs_no_password(&self) -> bool {
        self.default.user.accepts_any_password
    }

    /// Returns the permissions of the user with this name and password; `None` if there is no such
    /// user, the password is wrong, or the user is disabled.
    pub(super) fn log_in(&self, name: &[u8], password: &[u8]) -> Option<Arc<Permissions>> {
        // Hashed even without such a user, so that the time does not tell which users exist.
        let password = hash_password(password);
        self.get(name).filter(|permissions| permissions.accepts(&password)).cloned()
    }
}

impl Connection {
    /// Makes the connection one of a client that has not logged in yet: as the user `default` if
    /// that accepts any password, otherwise as nobody.
    pub fn begin_login(&mut self, access: &Access) {
        self.permissions = access.without_login();
    }

    /// Repeats the login of a connection whose client has logged in before the current users were
    /// known. Returns false if the client must be disconnected, because its password would have to
    /// be checked again.
    pub fn confirm_users(&mut self, access: &Access) -> bool {
        let is_named = |permissions: &Arc<Permissions>| permissions.name != DEFAULT_USER;
        if self.permissions.as_ref().is_some_and(is_named) {
            return false;
        }
        self.begin_login(access);
        true
    }

    /// Takes over changes of the users. Returns false if the user of the connection does not exist
    /// any more, or may not have one of its subscriptions, so that the client must be disconnected.
    pub fn follow_users(&mut self, access: &Access) -> bool {
        // An `EXEC` that is aborted must not bring earlier permissions back.
        let may_return = match &mut self.blocked {
            Some(Blocked::Exec(before)) => before.follow_users(access),
            _ => true,
        };
        let Some(permissions) = &self.permissions else {
            // As in Redis, a client that must not log in any more need not.
            self.permissions = access.without_login();
            return may_return;
        };
        let Some(current) = access.get(&permissions.name) else {
            // Until it is disconnected, none of its requests is permitted.
            self.permissions = None;
            return false;
        };
        if permissions == current {
            return may_return;
        }
        self.permissions = Some(std::sync::Arc::clone(current));
        may_return
            && self.subscriptions.all().all(|(kind, name)| current.allows_subscription(kind, name))
    }
}
