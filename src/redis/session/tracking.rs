//! What a connection observes: client-side caching (`CLIENT TRACKING`), and the commands of all
//! clients (`MONITOR`). The server has the table of the keys that clients have read, and sends the
//! messages.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use crate::wire::resp::{Version, Writer};

/// The channel on which invalidations are sent to a RESP2 client.
const INVALIDATION_CHANNEL: &[u8] = b"__redis__:invalidate";

/// Estimated memory usage of a prefix in bytes, in the state of the connection and in the server's
/// table, without the bytes of the prefix.
const PREFIX_BYTES: usize = 160;

/// Which keys a connection that caches values is told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum TrackingMode {
    /// All keys that it reads.
    Reads,
    /// The keys that it reads after `CLIENT CACHING YES` (option `OPTIN`).
    OptIn,
    /// The keys that it reads, except after `CLIENT CACHING NO` (option `OPTOUT`).
    OptOut,
    /// All keys with one of these prefixes (option `BCAST`).
    Broadcast(BTreeSet<Bytes>),
}

/// What a connection has asked for with `CLIENT TRACKING ON`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    pub(in crate::redis) mode: TrackingMode,
    /// Id of the connection that gets the invalidations; `None` for the connection itself.
    pub(in crate::redis) redirect: Option<u64>,
    /// Whether there are no invalidations for changes by the connection itself (option `NOLOOP`).
    pub(in crate::redis) no_loop: bool,
    /// Whether `CLIENT CACHING` applies to the request, or the transaction, after it.
    pub(in crate::redis) is_caching_given: bool,
    /// Whether the connection `redirect` was found to be closed.
    pub(in crate::redis) is_redirect_broken: bool,
}

/// What a connection observes.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct Observation {
    /// Client-side caching that the client has asked for; `None` if it caches no values.
    pub(in crate::redis) tracking: Option<Box<Tracking>>,
    /// Whether the client is a monitor, which gets the commands of all clients.
    pub(in crate::redis) is_monitor: bool,
    /// Number of changes of `tracking` and `is_monitor`.
    pub(in crate::redis) changes: u32,
    /// The lines for monitors about the latest request of this connection.
    pub(in crate::redis) shown: BytesMut,
}

/// Counters of client-side caching on one replica, for `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackingStatus {
    /// Number of connections that cache values.
    pub clients: u64,
    /// Number of keys that connections have read and that have not been invalidated.
    pub keys: u64,
    /// Number of connections that have read each of these keys, summed over the keys.
    pub items: u64,
    /// Number of prefixes of connections in broadcasting mode.
    pub prefixes: u64,
    /// Number of invalidation messages sent since the process started.
    pub invalidations: u64,
}

impl Tracking {
    /// Returns the id of the connection that gets the invalidations; `None` for the connection
    /// itself.
    pub fn redirect(&self) -> Option<u64> {
        self.redirect
    }

    /// Returns whether there are no invalidations for changes by the connection itself.
    pub fn is_without_loop(&self) -> bool {
        self.no_loop
    }

    /// Returns the prefixes of the keys about which the connection is told, whether it has read
    /// them or not; `None` if it is told about the keys that it reads.
    pub fn prefixes(&self) -> Option<&BTreeSet<Bytes>> {
        match &self.mode {
            TrackingMode::Broadcast(prefixes) => Some(prefixes),
            TrackingMode::Reads | TrackingMode::OptIn | TrackingMode::OptOut => None,
        }
    }

    /// Returns the id of the connection that gets the invalidations; 0 for the connection itself.
    pub(in crate::redis) fn redirect_number(&self) -> i64 {
        self.redirect.map_or(0, |id| i64::try_from(id).unwrap_or(i64::MAX))
    }

    pub(in crate::redis) fn held_bytes(&self) -> usize {
        let prefixes = self.prefixes().into_iter().flatten();
        size_of::<Tracking>()
            + prefixes.map(|prefix| 2 * prefix.len() + PREFIX_BYTES).sum::<usize>()
    }
}

/// Writes an invalidation: the message that these keys were changed, or all keys (`None`). For a
/// RESP2 client, it is a message on the channel `__redis__:invalidate`.
pub fn write_invalidation(keys: Option<&[&[u8]]>, writer: &mut Writer<'_>) {
    match writer.version() {
        Version::Three => {
            writer.push(2);
            writer.bulk(b"invalidate");
        }
        Version::Two => {
            writer.push(3);
            writer.bulk(b"message");
            writer.bulk(INVALIDATION_CHANNEL);
        }
    }
    let Some(keys) = keys else { return writer.null() };
    writer.array(keys.len());
    for key in keys {
        writer.bulk(key);
    }
}
