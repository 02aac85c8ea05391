//! `CLIENT PAUSE` and `CLIENT UNPAUSE`: this replica postpones all requests of its clients, or
//! their writes, for some time.

use std::time::Duration;

use crate::kv::parse_integer;
use crate::redis::action::Action;
use crate::redis::call::Call;

/// Runs `CLIENT PAUSE milliseconds [WRITE | ALL]`: postpones requests of this replica's clients.
pub(super) fn pause(call: &mut Call<'_>) -> Action {
    if call.request.len() > 4 {
        return call.error(
            &"ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.",
        );
    }
    let is = |word: &str| {
        call.request.get(3).is_none_or(|mode| mode.eq_ignore_ascii_case(word.as_bytes()))
    };
    let is_all = is("ALL");
    if !is_all && !is("WRITE") {
        return call.error(&"ERR CLIENT PAUSE mode must be WRITE or ALL");
    }
    let Some(millis) = parse_integer(call.argument(2)) else {
        return call.error(&"ERR timeout is not an integer or out of range");
    };
    let Ok(millis) = u64::try_from(millis) else {
        return call.error(&"ERR timeout is negative");
    };
    let until = call.context.now + Duration::from_millis(millis);
    call.writer.ok();
    Action::PauseClients { until, is_all }
}

/// Runs `CLIENT UNPAUSE`: ends the pause of this replica's clients.
pub(super) fn unpause(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::UnpauseClients
}
