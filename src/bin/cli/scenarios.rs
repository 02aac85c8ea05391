//! Selects the scenarios to run, by name, file, JSON text or `all`, and applies the changes on the
//! command line. Both simulators use it.

use std::path::Path;

use anyhow::Context as _;
use bowline::course::scenario::{Overrides, Scenario, names};

/// Command-line arguments that select simulation scenarios and override their parameters.
#[derive(clap::Args, Debug)]
pub(super) struct ScenarioArguments {
    /// Scenarios to run: names of built-in ones, files, JSON texts, or `all`.
    #[arg(default_value = "all", value_name = "SCENARIO|FILE")]
    scenarios: Vec<String>,
    /// Requests per second of all clients together [default: the scenario's].
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    rate: Option<f64>,
    /// Total number of requests of all clients [default: the scenario's].
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    requests: Option<u32>,
    /// Seconds over which clients send requests; the times of the scenario's events are scaled in
    /// proportion [default: the scenario's].
    #[arg(long, value_name = "S", help_heading = "Performance mode")]
    seconds: Option<f64>,
    /// Number of replicas [default: the scenario's].
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    replicas: Option<u16>,
    /// Fraction of messages between replicas that is lost, 0 to 1 [default: the scenario's].
    #[arg(long, value_name = "P", help_heading = "Performance mode")]
    drops: Option<f64>,
}

/// A selected simulation scenario, and the command-line arguments that select it again for a
/// replay.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) scenario: Scenario,
    /// Command-line arguments that run the scenario: `sim`, its name or file, and the options that
    /// override its parameters.
    pub(super) arguments: Vec<String>,
}

impl ScenarioArguments {
    /// Loads the selected scenarios in the order of the command line, with their parameters
    /// overridden by the options. Fails if a scenario does not exist or is invalid.
    pub(super) fn load(&self) -> anyhow::Result<Vec<Selected>> {
        let overrides = Overrides {
            rate: self.rate,
            requests: self.requests,
            seconds: self.seconds,
            replicas: self.replicas,
            drops: self.drops,
        };
        let mut scenarios = Vec::new();
        for argument in &self.scenarios {
            if argument == "all" {
                for name in names() {
                    scenarios.push((name, Scenario::built_in(name)?));
                }
            } else {
                scenarios.push((argument, find(argument)?));
            }
        }
        let checked = scenarios.into_iter().map(|(argument, scenario)| {
            let scenario = scenario.with(&overrides)?;
            let mut arguments = vec!["sim".to_owned(), argument.to_owned()];
            for change in &scenario.overridden {
                let (name, value) = change.split_once('=').expect("a change is `name=value`");
                arguments.extend([format!("--{name}"), value.to_owned()]);
            }
            Ok(Selected { scenario, arguments })
        });
        checked.collect()
    }
}

/// Loads the scenario that a command-line argument names: JSON text if it begins with a brace, a
/// file if it exists or looks like a path, else the built-in scenario of this name.
fn find(argument: &str) -> anyhow::Result<Scenario> {
    if argument.trim_start().starts_with('{') {
        return Ok(Scenario::parse("command line", argument)?);
    }
    let path = Path::new(argument);
    let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if !path.is_file() && !argument.contains('/') && !json {
        return Ok(Scenario::built_in(argument)?);
    }
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the scenario file {argument}; check its path and permissions")
    })?;
    let mut scenario = Scenario::parse(argument, &text)?;
    // Errors name the full path; the report only has room for the file's name.
    if let Some(stem) = path.file_stem() {
        scenario.name = stem.to_string_lossy().into_owned();
    }
    Ok(scenario)
}
