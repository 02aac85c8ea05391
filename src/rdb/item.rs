//! The parts of values, and the trait of those that receive them.

use super::EntryId;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
}

/// A part of a value, which a decoder passes to a [`Sink`]. The first is a [`Item::Value`]. The
/// items of a stream follow in the order of the variants here; the consumers of a group follow the
/// group, and the pending entries of a consumer follow the consumer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'i> {
    /// The type of the value.
    Value(ValueKind),
    /// The whole string.
    String(&'i [u8]),
    /// The next element of a list.
    Element(&'i [u8]),
    /// A member of a set.
    Member(&'i [u8]),
    /// A member of a sorted set and its score, which is not NaN.
    Scored(&'i [u8], f64),
    /// A field of a hash and its value.
    Field(&'i [u8], &'i [u8]),
    /// The next entry of a stream: its id, and its fields and values, alternately. Ids ascend.
    Entry(EntryId, &'i [&'i [u8]]),
    /// What a stream remembers.
    Stream {
        /// Highest id that any entry has had, not below those of the entries.
        last_id: EntryId,
        /// Highest id of a deleted entry; 0-0 if there is none, or if it is unknown.
        max_deleted_id: EntryId,
        /// Number of entries ever added; `None` if the format does not say it.
        entries_added: Option<u64>,
    },
    /// A consumer group.
    Group {
        /// Name of the group.
        name: &'i [u8],
        /// Id of the last entry that was delivered.
        last_id: EntryId,
        /// Number of entries that the group has read.
        entries_read: GroupReads,
    },
    /// A consumer of the group before it.
    Consumer {
        /// Name of the consumer.
        name: &'i [u8],
        /// Time of its last command, in milliseconds since 1970.
        seen_at: u64,
        /// Time of its last command that delivered or claimed something, in milliseconds since
        /// 1970; `None` if the format does not say it, or if there was none.
        active_at: Option<u64>,
    },
    /// An entry that the consumer before it has not acknowledged.
    Pending {
        /// Id of the entry, which may be deleted.
        id: EntryId,
        /// Time of its last delivery, in milliseconds since 1970.
        delivered_at: u64,
        /// Number of deliveries.
        deliveries: u64,
    },
}

/// The number of entries that a consumer group has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupReads {
    /// The format does not say it, so the reader computes it.
    Unstated,
    /// The server did not know it.
    Unknown,
    /// This number.
    Known(u64),
}

/// The receiver of the items of a value refuses one of them, which ends the decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// Receives the items of values.
pub trait Sink {
    /// Receives the next item.
    ///
    /// # Errors
    /// To end the decoding with [`RdbError::Stopped`](super::RdbError::Stopped).
    fn item(&mut self, item: Item<'_>) -> Result<(), Stop>;
}
