//! `CLIENT PAUSE`: for a time, clients' requests are postponed. The requests stay in the clients'
//! input buffers, and their sockets are not read. Clients that wait are not served, and scripts do
//! not run, or run again.

use crate::redis::{Action, Pause};
use crate::types::Instant;

use super::Clients;

impl Clients {
    /// Performs an action that concerns all clients, or the process.
    pub(super) fn administer_here(&mut self, action: &Action) {
        match *action {
            Action::PauseClients { until, is_all } => self.pause_clients(until, is_all),
            Action::UnpauseClients => self.unpause_clients(),
            Action::KillScript { is_function } => self.kill_script(is_function),
            Action::ShowFunctionStats(version) => self.show_function_stats(version),
            Action::Log(ref text) => tracing::info!(?text, "text of DEBUG LOG"),
            _ => self.trim_requests += 1,
        }
    }

    /// Begins a pause of the clients, or extends it.
    fn pause_clients(&mut self, until: Instant, is_all: bool) {
        let now = self.context.now;
        let current = self.context.pause.filter(|pause| now < pause.until);
        let pause = current.unwrap_or(Pause { until, is_all });
        let until = pause.until.max(until);
        self.context.pause = Some(Pause { until, is_all: pause.is_all || is_all });
    }

    /// Postpones the requests of the client at `index` until the pause is over.
    pub(super) fn postpone(&mut self, index: usize) {
        // It is counted when it is executed again.
        self.context.traffic.commands -= 1;
        let client = self.client(index);
        client.marks.postponed = true;
        self.postponed.insert(index);
        self.count_blocked();
    }

    /// Returns when the pause of the clients ends; `None` if no client waits for that.
    pub(crate) fn next_pause_end(&self) -> Option<Instant> {
        let are_any_held =
            !self.postponed.is_empty() || self.waiting.has_paused() || self.scripts.has_paused();
        self.context.pause.filter(|_| are_any_held).map(|pause| pause.until)
    }

    /// Lets the clients continue if their pause is over at `now`.
    pub(crate) fn end_pause(&mut self, now: Instant) {
        if self.context.pause.is_some_and(|pause| now >= pause.until) {
            self.unpause_clients();
        }
    }

    /// Ends the pause of the clients.
    pub(super) fn unpause_clients(&mut self) {
        self.context.pause = None;
        for index in std::mem::take(&mut self.postponed) {
            self.client(index).marks.postponed = false;
            self.mark_read(index);
        }
        self.resume_waits();
        self.resume_scripts();
        self.count_blocked();
    }

    /// Returns whether the client at `index`, whose request in this slot waits for keys, must not
    /// try again before the pause is over.
    pub(super) fn is_try_paused(&mut self, index: usize, slot: u64) -> bool {
        let now = self.context.now;
        let pause = self.context.pause.filter(|pause| now < pause.until);
        pause.is_some_and(|pause| {
            pause.is_all
                || self.connected.get_mut(index).is_some_and(|client| client.is_write(slot))
        })
    }

    /// Removes the client at `index`, whose connection is being closed, from those that are
    /// postponed.
    pub(super) fn forget_postponed(&mut self, index: usize) {
        self.postponed.remove(&index);
        self.count_blocked();
    }

    /// Counts the clients that wait for changes or for the end of a pause.
    pub(super) fn count_blocked(&mut self) {
        self.context.blocked_clients = (self.waiting.len() + self.postponed.len()) as u64;
    }
}
