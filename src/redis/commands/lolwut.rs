//! `LOLWUT`: draws the knot after which the program is named.

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::spec::{CommandSpec, READ_FAST, command};

/// Row of the command table for `LOLWUT` (name, arity, flags, documentation and function).
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command("lolwut", -1, lolwut)
    .flags(READ_FAST)
    .since("5.0.0", "server")
    .costs("O(1)")
    .about("Draws a bowline, and returns the version.")];

const KNOT: &str = r"
            | |
            | |
         .--|-|--.
        / .-|-|-. \
        | |  \ \| |
         \ '-.\ \ /
          '--. | X
           .-|-|-'\
          /  / /   \
         |  | |     |
          \  \ \___/
           '.___.'
";

/// Runs `LOLWUT [VERSION version] [...]`: returns a drawing, whatever the arguments are.
fn lolwut(call: &mut Call<'_>) -> Action {
    let text = format!("{}\nBowline ver. {}\n", &KNOT[1..], env!("CARGO_PKG_VERSION"));
    call.writer.verbatim(&text);
    Action::Reply
}
