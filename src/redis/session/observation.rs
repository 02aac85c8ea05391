//! Client-side caching and monitors: the methods of a connection for them.

use crate::wire::resp::Writer;

use super::connection::Connection;
use super::tracking::{Tracking, TrackingMode};

impl Connection {
    /// Returns what the connection has asked for with `CLIENT TRACKING`; `None` if it caches no
    /// values.
    pub fn tracking(&self) -> Option<&Tracking> {
        self.observation.tracking.as_deref()
    }

    /// Returns whether the connection may cache what its latest request returns.
    pub fn caches_reads(&self) -> bool {
        self.observation.tracking.as_ref().is_some_and(|tracking| match tracking.mode {
            TrackingMode::Reads | TrackingMode::Broadcast(_) => true,
            TrackingMode::OptIn => tracking.is_caching_given,
            TrackingMode::OptOut => !tracking.is_caching_given,
        })
    }

    /// Returns the reply to `CLIENT GETREDIR`: the id of the connection that gets the
    /// invalidations; 0 for the connection itself, -1 if it caches no values.
    pub(in crate::redis) fn redirect_number(&self) -> i64 {
        self.tracking().map_or(-1, Tracking::redirect_number)
    }

    /// Returns a number that changes with the connection's client-side caching and with whether it
    /// is a monitor. The server then updates its tables.
    pub fn observation_changes(&self) -> u32 {
        self.observation.changes
    }

    /// Returns whether the connection is a monitor (`MONITOR`).
    pub fn is_monitor(&self) -> bool {
        self.observation.is_monitor
    }

    /// Records that the connection `redirect` of the connection's client-side caching is closed,
    /// and writes the message about it, if the connection can receive one.
    pub fn break_redirect(&mut self, writer: &mut Writer<'_>) {
        let Some(tracking) = &mut self.observation.tracking else { return };
        let Some(redirect) = tracking.redirect else { return };
        tracking.is_redirect_broken = true;
        writer.push(2);
        writer.bulk(b"tracking-redir-broken");
        writer.integer(i64::try_from(redirect).unwrap_or(i64::MAX));
    }

    /// Sets or ends the connection's client-side caching.
    pub(in crate::redis) fn set_tracking(&mut self, tracking: Option<Box<Tracking>>) {
        self.observation.tracking = tracking;
        self.note_observation();
    }

    /// Sets whether the connection is a monitor.
    pub(in crate::redis) fn set_monitor(&mut self, is_monitor: bool) {
        self.observation.is_monitor = is_monitor;
        self.note_observation();
    }

    fn note_observation(&mut self) {
        self.observation.changes = self.observation.changes.wrapping_add(1);
    }

    /// Ends the effect of a `CLIENT CACHING` that was given before the latest request or
    /// transaction. Must be called before the next request is executed.
    pub(in crate::redis) fn end_caching(&mut self) {
        if let Some(tracking) = &mut self.observation.tracking
            && !self.transaction.is_open()
            && !self.last_command.starts_with("client|")
        {
            tracking.is_caching_given = false;
        }
    }
}
