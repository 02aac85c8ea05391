//! The `HELP` subcommand, which every command with subcommands has.

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::spec::{
    ANYTIME, CommandSpec, CommandTable, command_with_table, subcommand_with_table,
};

/// Returns a row of the command table for a command that only has subcommands, such as `CONFIG`.
pub(super) const fn container(name: &'static str) -> CommandSpec {
    command_with_table(name, -2, help)
}

/// Returns a row of the command table for a `HELP` subcommand. `full_name` has the form
/// `<command>|help`.
pub(super) const fn help_row(full_name: &'static str) -> CommandSpec {
    subcommand_with_table("help", full_name, 2, help)
        .flags(ANYTIME)
        .costs("O(1)")
        .about("Returns helpful text about the subcommands.")
}

fn help(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let name = call.request.name().to_ascii_lowercase();
    let spec = table.find(&name).expect("the command was found");
    let title = format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        spec.name.to_uppercase()
    );
    call.writer.array(1 + 2 * spec.subcommands.len());
    call.writer.simple(&title);
    for sub in spec.subcommands {
        call.writer.simple(&sub.name.to_uppercase());
        call.writer.simple(&format!("    {}", sub.summary));
    }
    Action::Reply
}
