//! Requests that arrive after the start before a leader has confirmed that the users of this
//! replica's state are current: those that need the users wait for a bounded time, and are refused
//! then. Logins are checked with the known users after that time, so that an operator can look at a
//! replica without a leader, but get access to nothing else before the users are confirmed.

use std::time::Duration;

use crate::kv::Users;
use crate::redis::UsersNeed;
use crate::types::Instant;

use super::Clients;
use super::client::Client;

/// What happens to a request that arrives before the users are confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// It is executed.
    No,
    /// It waits until this time, and the connection with it.
    Until(Instant),
    /// It is refused, because the users were not confirmed in time.
    TooLong,
}

/// Decides what happens to a request that arrives at `now` before the users are confirmed, and
/// `need`s this of them. `held_until` is the time up to which requests of its connection wait. The
/// first one sets it to `now + wait`.
pub(super) fn hold_for_users(
    need: UsersNeed,
    held_until: &mut Option<Instant>,
    now: Instant,
    wait: Duration,
) -> Held {
    if need == UsersNeed::None {
        return Held::No;
    }
    let until = *held_until.get_or_insert(now + wait);
    match need {
        _ if now < until => Held::Until(until),
        UsersNeed::None | UsersNeed::Login => Held::No,
        UsersNeed::Permissions => Held::TooLong,
    }
}

impl Clients {
    /// Sets the users of the state at the start. Requests that need users are held until
    /// [`Clients::confirm_users`] is called, but not on a witness, which has no users.
    pub(crate) fn with_users(mut self, users: &Users, is_witness: bool) -> Clients {
        self.set_users(users);
        if !is_witness {
            self.await_users();
        }
        self
    }

    /// Holds requests that need the users until [`Clients::confirm_users`] is called.
    pub(super) fn await_users(&mut self) {
        self.unconfirmed_users = Some(self.context.access.users_revision());
    }

    /// Returns whether the users are not confirmed yet.
    pub(crate) fn awaits_users(&self) -> bool {
        self.unconfirmed_users.is_some()
    }

    /// Refuses the requests that wait for the users, because the server stops.
    pub(crate) fn refuse_held(&mut self) {
        let now = self.context.now;
        let is_held = |client: &Client| client.held_until.is_some_and(|until| until > now);
        let held = self.connected.iter_mut().filter(|(_, client)| is_held(client));
        let held: Vec<usize> = held.map(|(index, _)| index).collect();
        for index in held {
            let client = self.client(index);
            (client.held_until, client.paused_until) = (Some(now), None);
            self.mark_read(index);
        }
    }

    /// Serves all requests from now on, because a leader has confirmed that the users are current.
    /// Logins that were checked with other users are void.
    pub(crate) fn confirm_users(&mut self) {
        let Some(before) = self.unconfirmed_users.take() else { return };
        let have_changed = before != self.context.access.users_revision();
        let indexes: Vec<usize> = self.connected.iter_mut().map(|(index, _)| index).collect();
        for index in indexes {
            let client = self.connected.get_mut(index).expect("the client exists");
            if have_changed {
                if !client.connection.confirm_users(&self.context.access) {
                    client.closing = true;
                    self.to_close.push((index, client.id));
                    continue;
                }
                self.limit_before_login(index);
            }
            let client = self.client(index);
            if client.held_until.is_some() && client.held_until == client.paused_until {
                client.paused_until = None;
                self.mark_read(index);
            }
        }
    }
}
