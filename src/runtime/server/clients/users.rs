//! Changes of the users, and logins: who is disconnected, which requests are checked again, and how
//! long a client waits after a failed login.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};

use bytes::BytesMut;

use crate::kv::Users;
use crate::redis::{DenialReason, resolve_users, unauthorized_request};
use crate::types::{ClientId, Instant};
use crate::wire::resp::{Version, Writer};

use super::Clients;
use crate::runtime::server::clients::request::Reply;

impl Clients {
    /// Takes over the users of the applied state, or a change of the setting `requirepass`. Must be
    /// called before clients get outcomes of that state: a request that its user may not send any
    /// more gets an error instead, unless it is a write that may have been applied.
    pub(crate) fn set_users(&mut self, users: &Users) {
        self.context.access = resolve_users(users, self.settings.password());
        let access = &self.context.access;
        let mut unfinished = Vec::new();
        for (index, client) in self.connected.iter_mut() {
            let may_stay = client.connection.follow_users(access);
            client.drain();
            unfinished.extend(client.revocable());
            if !may_stay {
                // As in Redis, also with unsent replies.
                self.to_close.push((index, client.id));
                client.closing = true;
            }
        }
        self.check_again(unfinished);
    }

    /// Gives those of these requests that their user may not send any more an error reply. The
    /// others stay as they are.
    pub(super) fn check_again(&mut self, sequences: Vec<u64>) {
        for sequence in sequences {
            let Some(request) = self.in_flight.get(sequence) else { continue };
            let Some(client) = super::replies::sender(&mut self.connected, request) else {
                continue;
            };
            let Some(operation) = client.operation(request.slot).cloned() else { continue };
            let error = unauthorized_request(&mut client.connection, request.command, &operation);
            let Some(error) = error else { continue };
            self.log_denial(request.index);
            self.context.statistics.count_error(error.as_bytes());
            self.context.statistics.count_rejected(request.command);
            let mut reply = BytesMut::new();
            Writer::new(&mut reply, Version::Two).error(error.as_bytes());
            let reply = Reply::Encoded(reply.freeze());
            self.finish(sequence, |client, slot| client.finish(slot, reply));
        }
    }

    /// Adds what was denied to the latest request of the client at `index` to the log, and delays
    /// the client after a failed login.
    pub(super) fn log_denial(&mut self, index: usize) {
        let now = self.context.now;
        let client = self.connected.get_mut(index).expect("the client exists");
        let Some(denial) = client.connection.take_denial() else { return };
        if denial.reason == DenialReason::Login {
            tracing::warn!(
                client = client.connection.id(),
                address = client.connection.address(),
                user = %denial.user.escape_ascii(),
                "login failed: wrong user name or password, or the user is disabled"
            );
            if let Some(address) = client.address {
                let until = self.logins.add(address, &denial.user, now);
                self.pause(index, until);
            }
        }
        let client = self.connected.get_mut(index).expect("the client exists");
        let text = client.connection.description(now);
        self.context.acl_log.add(*denial, text, self.context.wall_clock);
    }

    /// Applies the limits for clients that must log in, or lifts them after a login.
    pub(super) fn limit_before_login(&mut self, index: usize) {
        let budget = self.memory.budget(self.connected.len());
        let client = self.connected.get_mut(index).expect("the client exists");
        let is_logged_in = client.connection.is_logged_in();
        client.parser.limit_before_login(!is_logged_in);
        client.set_budget(budget);
        if let Some(address) = client.address
            && is_logged_in
        {
            self.logins.forget(address, client.connection.user_name());
        }
    }

    /// Makes a client that has just connected wait, if logins from its address have failed.
    pub(super) fn pause_new_client(&mut self, index: usize) {
        let now = self.context.now;
        let client = self.client(index);
        let address = client.address.filter(|_| !client.connection.is_logged_in());
        if let Some(until) = address.and_then(|address| self.logins.wait(address, now)) {
            self.pause(index, until);
        }
    }

    /// Parses no requests of the client at `index` until `until`.
    pub(super) fn pause(&mut self, index: usize, until: Instant) {
        let now = self.context.now;
        let client = self.client(index);
        if until > now {
            client.paused_until = Some(until);
            let id = client.id;
            self.paused.push((until, index, id));
        }
    }

    /// Returns the time at which [`Clients::resume`] is due; `None` if no client is paused.
    pub(crate) fn next_resume(&self) -> Option<Instant> {
        self.paused.iter().map(|(until, _, _)| *until).min()
    }

    /// Lets clients continue whose wait after a failed login is over.
    pub(crate) fn resume(&mut self, now: Instant) {
        let is_over = |(until, _, _): &mut (Instant, usize, ClientId)| *until <= now;
        let resumed: Vec<_> = self.paused.extract_if(.., is_over).collect();
        for (_, index, id) in resumed {
            let Some(client) = self.connected.get_mut(index).filter(|client| client.id == id)
            else {
                continue;
            };
            // It may have been paused again meanwhile, for longer.
            client.paused_until = client.paused_until.filter(|until| *until > now);
            self.mark_read(index);
        }
    }

    /// Writes the reply with a random password of `count` hexadecimal digits.
    pub(super) fn write_password(&mut self, index: usize, count: usize) {
        let version = self.client(index).connection.version();
        let mut writer = Writer::new(&mut self.reply, version);
        match random_digits(count) {
            Ok(digits) => writer.bulk(digits.as_bytes()),
            Err(error) => writer.error(format!("ERR no random numbers: {error}").as_bytes()),
        }
    }
}

/// Returns `count` hexadecimal digits from the random numbers of the operating system.
pub(super) fn random_digits(count: usize) -> io::Result<String> {
    let mut bytes = vec![0; count.div_ceil(2)];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(digits, "{byte:02x}").expect("writing to a string succeeds");
    }
    digits.truncate(count);
    Ok(digits)
}
