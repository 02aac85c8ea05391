//! The subcommands of `bowline`: their arguments, and how their errors are reported.

mod admin;
mod allocator;
mod certificates;
mod cluster;
#[cfg(test)]
#[path = "../../../tests/tidy/commands.rs"]
mod commands;
mod connection;
mod login;
mod options;
mod processes;
mod replay;
mod scenarios;
mod serve;
mod settings;
mod sim;
mod table;
mod tls_arguments;
mod tls_options;
mod top;
mod virtual_time;

use std::process::ExitCode;

/// Bowline: a strongly consistent, replicated key-value store that speaks the Redis protocol.
#[derive(clap::Parser, Debug)]
#[command(name = "bowline", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a cluster on this machine, in one folder, until Ctrl-C.
    Cluster(cluster::Arguments),
    /// Run one replica until SIGTERM or Ctrl-C.
    Serve(serve::Arguments),
    /// Print each setting of a replica and where its value comes from, without starting it.
    Config(settings::ServerArguments),
    /// Inspect and administer a cluster.
    Admin(admin::Arguments),
    /// Display a live view of all replicas of a running cluster.
    Top(top::Arguments),
    /// Run simulations: course scenarios, or a cluster under random faults.
    Sim(sim::Arguments),
}

/// Exit code of a command that failed. Clap exits with the same code on wrong arguments.
const EXIT_ERROR: u8 = 2;

/// Runs the subcommand and prints its error. Returns the exit code, which is 0 only if nothing
/// failed.
pub(crate) fn run(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Config(arguments) => serve::show(arguments),
        Command::Admin(arguments) => Ok(admin::run(arguments)),
        Command::Top(arguments) => top::run(arguments),
        Command::Sim(arguments) => sim::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bowline: {error:#}");
        ExitCode::from(EXIT_ERROR)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use bowline::sim::faults::Profile;
    use clap::{CommandFactory as _, Parser as _};

    use super::commands::{arguments, commands};
    use super::*;

    fn page(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns the paths of the README, the pages of the guide, and the pages on performance.
    fn pages() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages = vec![root.join("README.md")];
        for folder in ["src/guide", "perf", "perf/results"] {
            let entries = fs::read_dir(root.join(folder)).expect("the folder exists");
            let paths = entries.map(|entry| entry.expect("the entry is readable").path());
            pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
        }
        pages
    }

    /// Returns the long flags of a subcommand, each with its default.
    fn flags(subcommand: &str) -> Vec<(String, Option<String>)> {
        let command = Cli::command();
        let command = command.find_subcommand(subcommand).expect("the subcommand exists");
        let flags = command.get_arguments().filter_map(|argument| {
            let default = argument.get_default_values().first();
            let default = default.map(|value| value.to_string_lossy().into_owned());
            Some((argument.get_long()?.to_owned(), default))
        });
        flags.collect()
    }

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_bowline_command_lines_are_accepted() {
        let mut count = 0;
        for path in pages() {
            let text = fs::read_to_string(&path).expect("a page is text");
            for command in commands(&text) {
                let programs = [
                    "cargo run --release --",
                    "target/release/bowline",
                    "bowline",
                    "until bowline",
                ];
                let Some(arguments) = arguments(&command, &programs) else { continue };
                let command_line =
                    std::iter::once("bowline").chain(arguments.iter().map(String::as_str));
                let place = format!("{}:{}", path.display(), command.line);
                let cli = Cli::try_parse_from(command_line).unwrap_or_else(|error| {
                    panic!("{place}: {error}");
                });
                count += 1;
                let server = match &cli.command {
                    Command::Serve(arguments) => &arguments.server,
                    Command::Config(arguments) => arguments,
                    Command::Cluster(_) | Command::Admin(_) | Command::Top(_) | Command::Sim(_) => {
                        continue;
                    }
                };
                if server.config.is_some() {
                    // A link to a file on the reader's machine.
                    continue;
                }
                let settings = server.resolve(|_| None).expect("no file is named");
                settings.options().unwrap_or_else(|error| panic!("{place}: {error:#}"));
            }
        }
        assert!(count >= 20, "only {count} commands were found");
    }

    #[test]
    fn flags_of_the_bowline_cluster_command_are_documented() {
        let page = page("src/guide/configuration.md");
        for (flag, default) in flags("cluster") {
            let default = default.map_or("none".to_owned(), |value| format!("`{value}`"));
            let row = format!("| `--{flag}` | {default} | ");
            assert!(page.contains(&row), "src/guide/configuration.md lacks: {row}");
        }
    }

    #[test]
    fn flags_and_fault_profiles_of_the_simulator_are_documented() {
        let page = page("src/guide/simulator.md");
        for (flag, _) in flags("sim") {
            assert!(page.contains(&format!("--{flag}")), "src/guide/simulator.md lacks --{flag}");
        }
        for profile in Profile::ALL {
            let row = format!("| `{}` | ", profile.name());
            assert!(page.contains(&row), "src/guide/simulator.md lacks: {row}");
        }
    }
}
