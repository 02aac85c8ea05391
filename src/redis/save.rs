//! `BGSAVE`, `SAVE` and `LASTSAVE`. What is acknowledged is on disk already; these take a snapshot
//! now, which is otherwise taken when the log has grown by enough.

use super::dispatch::{Call, Step};

/// `BGSAVE [SCHEDULE]`
pub(super) fn in_background(call: &mut Call<'_>) -> Step {
    if let Some(word) = call.request.get(1)
        && (call.request.len() > 2 || !word.eq_ignore_ascii_case(b"schedule"))
    {
        call.writer.error(b"ERR syntax error");
        return Step::Done;
    }
    if call.context.snapshot.taking {
        call.writer.error(b"ERR Background save already in progress");
        return Step::Done;
    }
    call.writer.simple("Background saving started");
    Step::Save
}

/// `SAVE`: does not wait for it, for nothing depends on it.
pub(super) fn now(call: &mut Call<'_>) -> Step {
    call.writer.simple("OK");
    Step::Save
}

/// `LASTSAVE`: when the latest was taken, in seconds since 1970.
pub(super) fn last(call: &mut Call<'_>) -> Step {
    call.writer.integer(i64::try_from(call.context.snapshot.saved_at).unwrap_or(i64::MAX));
    Step::Done
}
