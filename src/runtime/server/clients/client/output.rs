//! What a client is sent: its replies in the order of the requests, and messages between them.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::runtime::server::clients::request::{Reply, RequestState, Slot};

use super::Client;

/// Number of bytes of a reply with many elements that are encoded at a time: about 1 ms of work.
const WIDE_BYTES_MAX: usize = 256 << 10;
/// Maximum capacity, in slots (each holds a request or its reply), that an empty queue keeps. The
/// memory of a larger queue is freed when the queue becomes empty.
const SLOTS_KEPT: usize = 16;

impl Client {
    /// Returns whether a part of the oldest reply has been encoded, but not the whole.
    fn is_within_reply(&self) -> bool {
        let front = self.slots.front().map(|slot| &slot.state);
        matches!(front, Some(RequestState::Done(Reply::Wide(wide, _))) if wide.has_begun())
    }

    /// Sends a message that is not a reply, between two replies. Returns the number of bytes that
    /// the client has not been sent yet.
    pub(crate) fn send_message(&mut self, message: &Bytes) -> usize {
        if self.is_within_reply() {
            self.send_after(self.front, message);
        } else {
            self.socket.outbound.push(message);
        }
        self.socket.outbound.len() + self.later_bytes
    }

    /// Sends a message after the replies that are known, but are not in the outbound queue yet.
    /// Does nothing if there are none.
    pub(crate) fn send_after_known_replies(&mut self, message: &Bytes) {
        let is_known = |slot: &Slot| matches!(slot.state, RequestState::Done(_));
        let Some(last) = self.slots.iter().rposition(is_known) else { return };
        if last > 0 || !self.is_within_reply() {
            self.send_after(self.front + last as u64, message);
        }
    }

    fn send_after(&mut self, slot: u64, message: &Bytes) {
        let position = self.later.partition_point(|(other, _)| *other <= slot);
        self.later.insert(position, (slot, message.clone()));
        self.later_bytes += message.len();
    }

    /// Appends the messages to the outbound queue that were waiting for replies that are in it.
    fn send_later(&mut self) {
        while let Some((_, message)) = self.later.pop_front_if(|(slot, _)| *slot < self.front) {
            self.later_bytes -= message.len();
            self.socket.outbound.push(&message);
        }
    }

    /// Encodes completed replies into the outbound queue, oldest first. Stops at the first request
    /// without a reply, when the reply budget (limit on unsent replies) is used up, or after a part
    /// of a reply with many elements. The next part follows when the queue has been written.
    pub(crate) fn encode_replies(&mut self) {
        let part_bytes = self.budget.output_bytes.min(WIDE_BYTES_MAX);
        while self.socket.outbound.len() < self.budget.output_bytes
            && let Some(Slot { state: RequestState::Done(reply), .. }) = self.slots.front_mut()
        {
            match reply {
                Reply::Encoded(bytes) => self.socket.outbound.push(bytes),
                Reply::Outcome(reply_format, outcome) => {
                    reply_format.encode(outcome, self.socket.outbound.open());
                }
                Reply::Wide(wide, _) => {
                    let bytes = part_bytes.saturating_sub(self.socket.outbound.len());
                    if !wide.encode(self.socket.outbound.open(), bytes) {
                        break;
                    }
                }
                Reply::Failure(reason) => reason.failure().encode(self.socket.outbound.open()),
            }
            self.reply_bytes -= reply.bytes();
            self.slots.pop_front();
            self.front += 1;
            self.send_later();
        }
        self.next = self.next.max(self.front);
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
    }
}
