//! Subcommands, their arguments, and what their failures look like.

mod cluster;
#[cfg(test)]
#[path = "../../../tests/tidy/commands.rs"]
mod commands;
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

    /// README, the guide and what is said of measurements.
    fn pages() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages = vec![root.join("README.md")];
        for folder in ["src/guide", "perf", "perf/results"] {
            let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
            let paths = entries.map(|entry| entry.expect("it is readable").path());
            pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
        }
        pages
    }

    /// The long flags of a subcommand and their defaults.
    fn flags(subcommand: &str) -> Vec<(String, Option<String>)> {
        let command = Cli::command();
        let command = command.find_subcommand(subcommand).expect("there is such a command");
        let flags = command.get_arguments().filter_map(|argument| {
            let default = argument.get_default_values().first();
            let default = default.map(|value| value.to_string_lossy().into_owned());
            Some((argument.get_long()?.to_owned(), default))
        });
        flags.collect()
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_command_lines_are_accepted() {
        let mut count = 0;
        for path in pages() {
            let text = fs::read_to_string(&path).expect("a page is text");
            for command in commands(&text) {
                let programs = ["cargo run --release --", "target/release/bowline"];
                let Some(arguments) = arguments(&command, &programs) else { continue };
                let words = std::iter::once("bowline").chain(arguments.iter().map(String::as_str));
                let place = format!("{}:{}", path.display(), command.line);
                let cli = Cli::try_parse_from(words).unwrap_or_else(|error| {
                    panic!("{place}: {error}");
                });
                count += 1;
                let server = match &cli.command {
                    Command::Serve(arguments) => &arguments.server,
                    Command::Config(arguments) => arguments,
                    Command::Cluster(_) | Command::Sim(_) => continue,
                };
                let settings = server.resolve(|_| None).expect("no file is named");
                settings.options().unwrap_or_else(|error| panic!("{place}: {error:#}"));
            }
        }
        assert!(count >= 20, "only {count} commands were found");
    }

    #[test]
    fn flags_of_cluster_are_on_the_configuration_page() {
        let page = page("src/guide/configuration.md");
        for (flag, default) in flags("cluster") {
            let default = default.map_or("none".to_owned(), |value| format!("`{value}`"));
            let row = format!("| `--{flag}` | {default} | ");
            assert!(page.contains(&row), "src/guide/configuration.md lacks: {row}");
        }
    }

    #[test]
    fn flags_and_profiles_of_sim_are_on_its_page() {
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
