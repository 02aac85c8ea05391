//! Commands that the store knows by a verb: their words go there as they are, and what is wrong
//! with them is found there, where the key's value is.

use crate::kv::{ItemsBuffer, Operation, Verb};

use super::dispatch::{Call, Step};
use super::shape::Kind;

/// Whatever has a verb in the table.
pub(super) fn call(call: &mut Call<'_>) -> Step {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    submit(call, verb)
}

/// The same for a subcommand, whose name is left out.
pub(super) fn of_subcommand(call: &mut Call<'_>) -> Step {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    let words: ItemsBuffer = call.request.rest(2).collect();
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}

/// `CLOCK RESET`
pub(super) fn reset_clock(call: &mut Call<'_>) -> Step {
    call.submit(Operation::ResetClock { millis: 0 }, Kind::Plain)
}

/// A command's words for another verb than the table's.
pub(super) fn submit(call: &mut Call<'_>, verb: Verb) -> Step {
    let words: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}

/// The same with the replicated clock as the last argument, for what tells how long a key stays.
pub(super) fn with_time(call: &mut Call<'_>) -> Step {
    let verb = call.spec.verb.expect("the table gives this function to verbs only");
    let clocks = &call.context.clocks;
    let (millis, resets) = (clocks.replicated.to_le_bytes(), clocks.resets.to_le_bytes());
    let mut words: ItemsBuffer = call.request.rest(1).collect();
    words.push(&[millis, resets].concat());
    call.submit(Operation::Call { verb, words: words.items() }, Kind::Plain)
}
