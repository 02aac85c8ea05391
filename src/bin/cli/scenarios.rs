//! Which scenarios to run: names, files, JSON texts or `all`, with what the command line changes
//! in them. The same for both simulators.

use std::path::Path;

use anyhow::Context as _;
use bowline::course::scenario::{Overrides, Scenario, names};

/// Scenarios and changes to them.
#[derive(clap::Args, Debug)]
pub(super) struct ScenarioArguments {
    /// Names, files, JSON texts, or `all`.
    #[arg(default_value = "all", value_name = "SCENARIO|FILE")]
    scenarios: Vec<String>,
    /// Requests a second instead of the scenario's.
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    rate: Option<f64>,
    /// Requests in all instead of the scenario's.
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    requests: Option<u32>,
    /// Seconds of requests instead of the scenario's; events keep their place in them.
    #[arg(long, value_name = "S", help_heading = "Performance mode")]
    seconds: Option<f64>,
    /// Replicas instead of the scenario's.
    #[arg(long, value_name = "N", help_heading = "Performance mode")]
    replicas: Option<u16>,
    /// Share of the messages between replicas that is lost, instead of the scenario's.
    #[arg(long, value_name = "P", help_heading = "Performance mode")]
    drops: Option<f64>,
}

/// A scenario and the arguments that choose it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) scenario: Scenario,
    /// `sim`, its name or file, and what is changed in it.
    pub(super) words: Vec<String>,
}

impl ScenarioArguments {
    /// The scenarios in their order, checked.
    pub(super) fn load(&self) -> anyhow::Result<Vec<Chosen>> {
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
            let mut words = vec!["sim".to_owned(), argument.to_owned()];
            for word in &scenario.overridden {
                let (name, value) = word.split_once('=').expect("a change has a name and a value");
                words.extend([format!("--{name}"), value.to_owned()]);
            }
            Ok(Chosen { scenario, words })
        });
        checked.collect()
    }
}

/// A text begins with a brace, a file has a path or is there; all else is a name.
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
        format!("can't read the scenario file {argument}; look at its path and its rights")
    })?;
    let mut scenario = Scenario::parse(argument, &text)?;
    // Errors name the file; a table has no room for its folder.
    if let Some(stem) = path.file_stem() {
        scenario.name = stem.to_string_lossy().into_owned();
    }
    Ok(scenario)
}
