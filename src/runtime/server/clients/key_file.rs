//! The file that `SYNC` sends: a snapshot of this replica, converted part by part to Redis's RDB
//! format.

use bytes::Bytes;

use crate::kv::{SnapshotMark, SnapshotReader};
use crate::redis::{CommandNumber, ReplyFormat};
use crate::types::{Index, Instant};

/// The file that is being sent to a client.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) reader: SnapshotReader,
    /// The snapshot; `None` before it is known.
    pub(crate) snapshot: Option<SnapshotMark>,
    /// Number of bytes of the snapshot that were read.
    pub(crate) offset: u64,
    /// Text by which the client finds the end of the file.
    pub(crate) mark: String,
    /// Whether the file follows the reply to `PSYNC`.
    pub(crate) is_psync: bool,
    pub(crate) command: CommandNumber,
    pub(crate) reply_format: ReplyFormat,
    /// Index of the log entry that the snapshot must cover.
    pub(crate) wanted: Index,
    /// Time until which the client waits for the snapshot.
    pub(crate) until: Instant,
}

impl KeyFile {
    /// Returns what is sent after a part of the snapshot, or after its id; `None` if the snapshot
    /// is damaged.
    pub(crate) fn next(&mut self, part: &[u8]) -> Option<Bytes> {
        let Some(snapshot) = self.snapshot else {
            let snapshot: SnapshotMark = std::str::from_utf8(part).ok()?.parse().ok()?;
            self.snapshot = Some(snapshot);
            let first = if self.is_psync {
                format!("+FULLRESYNC {} {}\r\n", "0".repeat(40), snapshot.last.index.0)
            } else {
                String::new()
            };
            return Some(Bytes::from(format!("{first}$EOF:{}\r\n", self.mark)));
        };
        if part.is_empty() {
            return None;
        }
        self.reader.feed(part).ok()?;
        self.offset += part.len() as u64;
        let mut bytes = self.reader.take_exported();
        if self.offset == snapshot.bytes {
            let reader = std::mem::take(&mut self.reader);
            let (rest, _, found) = reader.finish_export().ok()?;
            if found != snapshot {
                return None;
            }
            bytes.extend_from_slice(&rest);
            bytes.extend_from_slice(self.mark.as_bytes());
        }
        Some(Bytes::from(bytes))
    }
}
