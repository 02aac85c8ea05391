//! Subcommands, their arguments, and what their failures look like.

mod cluster;
mod processes;
mod replay;
mod scenarios;
mod serve;
mod settings;
mod sim;
mod virtual_time;

use std::process::ExitCode;

/// Everything that `bowline` takes.
#[derive(clap::Parser, Debug)]
#[command(name = "bowline", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Start a cluster on this machine, in one folder, until Ctrl-C.
    Cluster(cluster::Arguments),
    /// Run one replica.
    Serve(serve::Arguments),
    /// Show what a replica would be started with, and where each value comes from.
    Config(settings::ServerArguments),
    /// Run scenarios and judge them by the course's rules.
    Sim(sim::Arguments),
}

/// Exit code of a run that went wrong in itself; bad arguments have clap's own, the same.
const EXIT_TROUBLE: u8 = 2;

/// Does what was asked. The exit code is 0 only if nothing failed.
pub(crate) fn run(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Config(arguments) => serve::show(arguments),
        Command::Sim(arguments) => sim::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bowline: {error:#}");
        ExitCode::from(EXIT_TROUBLE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
