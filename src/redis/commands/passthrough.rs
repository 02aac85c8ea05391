//! Rows for commands that the state machine runs with the client's arguments unchanged. Errors in
//! the arguments are reported as outcomes of the state machine.

use crate::kv::{CommandId, Operation};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, command, subcommand};

/// Maximum number of arguments, without the command's name, that are passed to the state machine
/// without a heap allocation.
const FEW: usize = 8;

/// Returns a row of the command table for a command that the state machine runs under the same
/// name, with the client's arguments unchanged.
pub(in crate::redis) const fn passed_on(name: &'static str, arity: i8) -> CommandSpec {
    passed_on_as(name, arity, name)
}

/// Returns a row of the command table for a command that the state machine runs under the name
/// `to`, with the client's arguments unchanged.
pub(in crate::redis) const fn passed_on_as(
    name: &'static str,
    arity: i8,
    to: &'static str,
) -> CommandSpec {
    command(name, arity, pass_on).runs(CommandId::of(to))
}

/// Returns a row of the command table for a command that the state machine runs with an additional
/// last argument, the current reading of the replicated clock. `TTL` and `XPENDING` need it to
/// compute durations.
pub(in crate::redis) const fn passed_on_with_clock(name: &'static str, arity: i8) -> CommandSpec {
    command(name, arity, pass_on_with_clock).runs(CommandId::of(name))
}

/// Returns a row of the command table for a command that the state machine runs with an additional
/// last argument, the maximum length of a string. So the limit that applies to a command is the
/// setting `proto-max-bulk-len` of the replica that received it, and all replicas agree on it.
pub(in crate::redis) const fn passed_on_with_limit(name: &'static str, arity: i8) -> CommandSpec {
    command(name, arity, pass_on_with_limit).runs(CommandId::of(name))
}

/// Returns a row of the command table for a command that the state machine runs with an additional
/// last argument, the name of the command as in the request, for the text of an error.
pub(in crate::redis) const fn passed_on_with_name(name: &'static str, arity: i8) -> CommandSpec {
    command(name, arity, pass_on_with_name).runs(CommandId::of(name))
}

/// Returns a row of the command table for a command that the state machine runs with the client's
/// arguments unchanged, while later requests of the connection wait. For a read that may itself
/// wait in the state machine: a later read must not be answered from an older state.
pub(in crate::redis) const fn passed_on_blocking(name: &'static str, arity: i8) -> CommandSpec {
    command(name, arity, pass_on_blocking).runs(CommandId::of(name))
}

/// Returns a row of the command table for a subcommand that the state machine runs with the
/// client's arguments unchanged. `full_name` has the form `<command>|<subcommand>`.
pub(in crate::redis) const fn subcommand_passed_on(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
) -> CommandSpec {
    subcommand(name, full_name, arity, pass_on_subcommand).runs(CommandId::of(full_name))
}

/// Returns a row like [`subcommand_passed_on`], for a subcommand that needs an additional last
/// argument, the current reading of the replicated clock.
pub(in crate::redis) const fn subcommand_passed_on_with_clock(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
) -> CommandSpec {
    subcommand(name, full_name, arity, pass_on_subcommand_with_clock).runs(CommandId::of(full_name))
}

/// Returns a row like [`subcommand_passed_on`], for a subcommand that needs an additional last
/// argument, its own name as in the request, for the text of an error.
pub(in crate::redis) const fn subcommand_passed_on_with_name(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
) -> CommandSpec {
    subcommand(name, full_name, arity, pass_on_subcommand_with_name).runs(CommandId::of(full_name))
}

fn pass_on(call: &mut Call<'_>) -> Action {
    submit_unchanged(call)
}

/// Submits the state machine's command that the command table assigns to the request, with the
/// client's arguments unchanged.
pub(in crate::redis) fn submit_unchanged(call: &mut Call<'_>) -> Action {
    submit(call, 1, None)
}

fn pass_on_blocking(call: &mut Call<'_>) -> Action {
    pass_on(call).blocking()
}

fn pass_on_subcommand(call: &mut Call<'_>) -> Action {
    submit_subcommand(call, None)
}

/// Submits the state machine's command that the command table assigns to a subcommand, with the
/// client's arguments, followed by the argument `more` if it is given.
pub(in crate::redis) fn submit_subcommand(call: &mut Call<'_>, more: Option<&[u8]>) -> Action {
    submit(call, 2, more)
}

fn pass_on_with_clock(call: &mut Call<'_>) -> Action {
    submit_with_clock(call, 1)
}

fn pass_on_subcommand_with_clock(call: &mut Call<'_>) -> Action {
    submit_with_clock(call, 2)
}

fn submit_with_clock(call: &mut Call<'_>, from: usize) -> Action {
    let clocks = &call.context.clocks;
    let reading = [clocks.replicated.to_le_bytes(), clocks.resets.to_le_bytes()].concat();
    submit(call, from, Some(&reading))
}

fn pass_on_with_name(call: &mut Call<'_>) -> Action {
    submit(call, 1, Some(call.argument(0)))
}

fn pass_on_subcommand_with_name(call: &mut Call<'_>) -> Action {
    submit(call, 2, Some(call.argument(1)))
}

fn pass_on_with_limit(call: &mut Call<'_>) -> Action {
    let limit = (call.settings.value_bytes_max() as u64).to_le_bytes();
    submit(call, 1, Some(&limit))
}

/// Submits the state machine's command that the command table assigns to the request, with the
/// client's arguments and `more` as the last argument.
pub(in crate::redis) fn submit_with(call: &mut Call<'_>, more: &[u8]) -> Action {
    submit(call, 1, Some(more))
}

/// Submits the state machine's command that the command table assigns to the request, with the
/// arguments of the request from index `from` on, followed by the argument `more` if it is given.
fn submit(call: &mut Call<'_>, from: usize, more: Option<&[u8]>) -> Action {
    let command = call.command.expect("only rows with a command have these functions");
    let arguments = call.request.rest(from).chain(more);
    let mut few = [&[][..]; FEW];
    let count = call.request.len() - from + usize::from(more.is_some());
    if count <= FEW {
        few.iter_mut().zip(arguments).for_each(|(place, argument)| *place = argument);
        call.submit(Operation::call(command, &few[..count]), ReplyKind::Plain)
    } else {
        let all: Vec<&[u8]> = arguments.collect();
        call.submit(Operation::call(command, &all[..]), ReplyKind::Plain)
    }
}
