//! `BGSAVE`, `SAVE` and `LASTSAVE`. What is acknowledged is on disk already; these take a snapshot
//! now, which is otherwise taken when the log has grown by enough.

use crate::redis::action::Action;
use crate::redis::call::Call;

/// `BGSAVE [SCHEDULE]`
pub(in crate::redis) fn in_background(call: &mut Call<'_>) -> Action {
    if let Some(word) = call.request.get(1)
        && (call.request.len() > 2 || !word.eq_ignore_ascii_case(b"schedule"))
    {
        call.writer.error(b"ERR syntax error");
        return Action::Reply;
    }
    if call.context.snapshot.taking {
        call.writer.error(b"ERR Background save already in progress");
        return Action::Reply;
    }
    call.writer.simple("Background saving started");
    Action::TakeSnapshot
}

/// `SAVE`: does not wait for it, for nothing depends on it.
pub(in crate::redis) fn now(call: &mut Call<'_>) -> Action {
    call.writer.simple("OK");
    Action::TakeSnapshot
}

/// `LASTSAVE`: when the latest was taken, in seconds since 1970.
pub(in crate::redis) fn last(call: &mut Call<'_>) -> Action {
    call.writer.integer(i64::try_from(call.context.snapshot.saved_at).unwrap_or(i64::MAX));
    Action::Reply
}
