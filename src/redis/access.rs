//! The users that clients of this replica can log in as: those of the cluster, and the user
//! `default`, which a replica's settings define until the cluster does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::kv::{DEFAULT_USER, PasswordHash, Users};

use super::permissions::Permissions;
use super::session::connection::{Blocked, Connection};

/// Returns the hash of a password as stored in the cluster.
pub fn hash_password(password: &[u8]) -> PasswordHash {
    PasswordHash(Sha256::digest(password).into())
}

/// The users of this replica and their permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    by_name: BTreeMap<Bytes, Arc<Permissions>>,
    default: Arc<Permissions>,
    /// The users in the replicated state.
    pub(super) users: Users,
}

impl Default for Access {
    /// Returns the access of a replica without users and without a password.
    fn default() -> Access {
        let default = Permissions::unrestricted();
        let by_name = [(default.name.clone(), Arc::clone(&default))].into();
        Access { by_name, default, users: Users::default() }
    }
}

impl Access {
    /// Creates the access from the permissions of all users, one of which must be `default`.
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

    /// Returns the revision of the users in the replicated state: the number of changes.
    pub fn users_revision(&self) -> u64 {
        self.users.revision()
    }

    /// Returns the permissions of the user `name`; `None` if it does not exist.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Permissions>> {
        self.by_name.get(name)
    }

    /// Returns the permissions of all users, sorted by name.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Permissions>> {
        self.by_name.values()
    }

    /// Returns the permissions of a new connection; `None` if it must log in first.
    pub(super) fn without_login(&self) -> Option<Arc<Permissions>> {
        let user = &self.default.user;
        (user.is_enabled && user.accepts_any_password).then(|| Arc::clone(&self.default))
    }

    /// Returns whether the user `default` accepts any password.
    pub(super) fn needs_no_password(&self) -> bool {
        self.default.user.accepts_any_password
    }

    /// Logs in: returns the permissions of the user `name`; `None` if the user does not exist or is
    /// disabled, or if the password is wrong.
    pub(super) fn log_in(&self, name: &[u8], password: &[u8]) -> Option<Arc<Permissions>> {
        // The password is hashed in any case, so that the duration does not reveal whether a user
        // exists.
        let password = hash_password(password);
        self.get(name).filter(|permissions| permissions.accepts(&password)).cloned()
    }
}

impl Connection {
    /// Resets the connection to the state before login: it has the permissions of the user
    /// `default` if that user needs no password, otherwise none.
    pub fn begin_login(&mut self, access: &Access) {
        self.permissions = access.without_login();
    }

    /// Repeats the login of a connection whose client logged in before the replica knew the current
    /// users. Returns false if the client must be disconnected, because its password would have to
    /// be checked again.
    pub fn confirm_users(&mut self, access: &Access) -> bool {
        let is_named = |permissions: &Arc<Permissions>| permissions.name != DEFAULT_USER;
        if self.permissions.as_ref().is_some_and(is_named) {
            return false;
        }
        self.begin_login(access);
        true
    }

    /// Applies changes of the users to the connection. Returns false if the client must be
    /// disconnected: its user no longer exists, or may no longer have one of its subscriptions.
    pub fn follow_users(&mut self, access: &Access) -> bool {
        // When an `EXEC` is aborted, earlier permissions must not come back.
        let may_return = match &mut self.blocked {
            Some(Blocked::Exec(before)) => before.follow_users(access),
            _ => true,
        };
        let Some(permissions) = &self.permissions else {
            // As in Redis, a client is logged in automatically once no login is required.
            self.permissions = access.without_login();
            return may_return;
        };
        let Some(current) = access.get(&permissions.name) else {
            // No further request is permitted until the client is disconnected.
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
