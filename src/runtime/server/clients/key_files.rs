//! `SYNC` and `PSYNC`: sends a snapshot of this replica to a client, converted part by part to a
//! file in Redis's RDB format, and then closes the connection.
//!
//! Each part is a request of its own, which blocks the connection. So the limits on replies apply:
//! the next part is read from the disk when the client has read enough of those before.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::SnapshotReader;
use crate::redis::{CommandNumber, FileRequest, write_snapshot_part};
use crate::runtime::channels::SnapshotRead;
use crate::runtime::server::clients::request::Reply;
use crate::snapshot_check::snapshot_id;

use super::Clients;
use super::key_file::KeyFile;
use super::replies::sender;
use super::users::random_digits;

/// Length of the mark that precedes and follows the file, in bytes.
const MARK_BYTES: usize = 40;
/// Interval at which a client that waits for a snapshot is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Maximum time for the snapshot, and for each part of it.
const WAIT_MAX: Duration = Duration::from_mins(10);

impl Clients {
    /// Begins to send a file to the client at `index`, with everything that this replica has
    /// applied.
    pub(super) fn begin_file(
        &mut self,
        index: usize,
        command: CommandNumber,
        request: FileRequest,
    ) {
        let FileRequest { is_psync, reply_format } = request;
        let Ok(mark) = random_digits(MARK_BYTES) else {
            self.client(index).closing = true;
            return;
        };
        let (wanted, until) = (self.context.applied_index, self.context.now + WAIT_MAX);
        let reader = SnapshotReader::exporting();
        let (snapshot, offset) = (None, 0);
        let file = KeyFile {
            reader,
            snapshot,
            offset,
            mark,
            is_psync,
            command,
            reply_format,
            wanted,
            until,
        };
        self.client(index).key_file = Some(Box::new(file));
    }

    /// Returns whether the next request of the client at `index` may be parsed. If a file is being
    /// sent to the client, asks for its next part instead.
    pub(super) fn may_parse_next(&mut self, index: usize) -> bool {
        let client = self.client(index);
        client.may_parse() && (client.key_file.is_none() || !self.continue_file(index))
    }

    /// Asks for the next part of the snapshot that is being sent to the client at `index`, or waits
    /// for the snapshot. Returns false if the client gets no file.
    fn continue_file(&mut self, index: usize) -> bool {
        let (now, latest) = (self.context.now, self.context.snapshot.index);
        let Some(file) = &self.client(index).key_file else { return false };
        let (command, reply_format) = (file.command, file.reply_format.clone());
        let (wanted, until) = (file.wanted, file.until);
        let part = file.snapshot.map(|snapshot| (snapshot_id(snapshot), file.offset));
        if now >= until {
            self.client(index).closing = true;
            return true;
        }
        if part.is_none() && latest < wanted {
            self.snapshot_requested |= !self.context.snapshot.taking;
            self.pause(index, now + POLL);
            return true;
        }
        let sequence = self.block(index, command, reply_format);
        self.add_snapshot_read(SnapshotRead { sequence, part });
        true
    }

    /// Reads the part of a file again if the request with this sequence number has failed to read
    /// it in time, because the replica still verifies the snapshot. Returns false for any other
    /// request.
    pub(super) fn repeat_file_part(&mut self, sequence: u64) -> bool {
        let Some(request) = self.in_flight.get(sequence) else { return false };
        let client = sender(&mut self.connected, request);
        if client.is_none_or(|client| client.key_file.is_none()) {
            return false;
        }
        // An error has no place inside the file. After an empty reply, the part is read again.
        let reply = Reply::Encoded(Bytes::new());
        self.finish(sequence, |client, slot| client.finish(slot, reply));
        true
    }

    /// Sends the next part of a file, if the request with this sequence number belongs to one:
    /// `part` is the id of the snapshot, or a part of it. Returns false for any other request.
    pub(super) fn on_file_part(&mut self, sequence: u64, part: Option<&[u8]>) -> bool {
        let now = self.context.now;
        let Some(request) = self.in_flight.get(sequence) else { return false };
        let Some(client) = sender(&mut self.connected, request) else {
            return false;
        };
        let Some(file) = &mut client.key_file else { return false };
        file.until = now + WAIT_MAX;
        let next = part.and_then(|part| file.next(part));
        let mut reply = BytesMut::new();
        if let Some(bytes) = next {
            reply.extend_from_slice(&bytes);
            client.closing = file.snapshot.is_some_and(|it| file.offset == it.bytes);
        } else {
            // Inside the file, there is no place for an error.
            if file.snapshot.is_none() {
                write_snapshot_part(None, &mut reply);
            }
            client.closing = true;
        }
        if client.closing {
            client.key_file = None;
        }
        let reply = Reply::Encoded(reply.freeze());
        self.finish(sequence, |client, slot| client.finish(slot, reply));
        true
    }
}
