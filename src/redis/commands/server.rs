//! Commands on the whole data set.

use crate::kv::Operation;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::Kind;

const SYNTAX_ERROR: &str = "ERR syntax error";

/// `DBSIZE`
pub(in crate::redis) fn dbsize(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Count, Kind::Plain)
}

/// `FLUSHALL [ASYNC | SYNC]` and `FLUSHDB`: there is one database. Both words mean the same here.
pub(in crate::redis) fn flush(call: &mut Call<'_>) -> Action {
    if !only_how_to_flush(call, 1) {
        return call.error(&SYNTAX_ERROR);
    }
    call.submit(Operation::Clear, Kind::Plain)
}

/// `FUNCTION FLUSH [ASYNC | SYNC]`: there are no functions to remove, and tools want to hear so.
pub(in crate::redis) fn flush_functions(call: &mut Call<'_>) -> Action {
    if call.request.len() > 3 {
        return call.error(
            &"ERR unknown subcommand or wrong number of arguments for 'FLUSH'. Try FUNCTION HELP.",
        );
    }
    if !only_how_to_flush(call, 2) {
        return call.error(&"ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
    }
    call.ok()
}

/// Whether what is at `first` and behind is at most one of the two words.
fn only_how_to_flush(call: &Call<'_>, first: usize) -> bool {
    let mut words = call.request.rest(first);
    let known = |word: &[u8]| {
        ["ASYNC", "SYNC"].iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    words.len() <= 1 && words.all(known)
}
