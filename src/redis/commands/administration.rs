//! Replies to requests that the consensus core answers.

use bytes::BytesMut;

use crate::redis::action::AdminAnswer;
use crate::redis::context::Context;

use super::failover::write_failover_reply;
use super::members::write_members_reply;

/// Writes the reply to a request from the answer of the consensus core.
pub fn write_admin_reply(answer: AdminAnswer, context: &Context, out: &mut BytesMut) {
    match answer {
        AdminAnswer::Transfer(answer) => write_failover_reply(answer, context, out),
        AdminAnswer::Members(answer) => write_members_reply(answer, context, out),
    }
}
