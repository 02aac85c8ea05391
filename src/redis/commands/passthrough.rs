//! Commands that the store knows by a verb: their words go there as they are, and what is wrong
//! with them is found there, where the key's value is.

use crate::kv::{CommandId, ItemsBuffer, Operation};

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::Kind;
use crate::redis::spec::{CommandSpec, command};

/// Whatever has a verb in the table.
pub(in crate::redis) fn call(call: &mut Call<'_>) -> Action {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    submit(call, verb)
}

/// The same for a subcommand, whose name is left out.
pub(in crate::redis) fn of_subcommand(call: &mut Call<'_>) -> Action {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    let words: ItemsBuffer = call.request.rest(2).collect();
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}

/// `CLOCK RESET`
pub(in crate::redis) fn reset_clock(call: &mut Call<'_>) -> Action {
    call.submit(Operation::ResetClock { millis: 0 }, Kind::Plain)
}

/// A command's words for another verb than the table's.
pub(in crate::redis) fn submit(call: &mut Call<'_>, verb: CommandId) -> Action {
    let words: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}

/// The same with the replicated clock as the last argument, for what tells how long a key stays.
pub(in crate::redis) fn with_time(call: &mut Call<'_>) -> Action {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    let clocks = &call.context.clocks;
    let (millis, resets) = (clocks.replicated.to_le_bytes(), clocks.resets.to_le_bytes());
    let mut words: ItemsBuffer = call.request.rest(1).collect();
    words.push(&[millis, resets].concat());
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}

/// The same for what the store has a verb of the same name for.
pub(in crate::redis) const fn verb(name: &'static str, arity: i8) -> CommandSpec {
    command(name, arity, call).does(name)
}

/// The same for a verb that is told the time.
pub(in crate::redis) const fn timed_verb(name: &'static str, arity: i8) -> CommandSpec {
    let mut spec = verb(name, arity);
    spec.run = with_time;
    spec
}
