//! `perf report`: charts of results, as SVG files and as one HTML page.

mod charts;
mod input;
mod layout;
mod page;
mod run;
mod scale;
mod svg;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;

pub(crate) use input::Input;
pub(crate) use scale::{amount, duration, to_count};

use crate::files::Files;
use run::Run;
use svg::Svg;

/// Maximum number of heat maps in a report. Each heat map shows one run; runs beyond this number
/// get none.
const HEAT_MAPS_MAX: usize = 6;
/// Maximum number of runs in one report: as many as a chart has colours.
const RUNS_MAX: usize = 8;

/// Command-line arguments of `perf report`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Results: JSON of `perf load`, `sim`, `compare` or `lossy`, or interval logs (.hlog).
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// Folder for the charts and the page.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out")]
    out: PathBuf,
    /// Name of the page, and prefix of the files.
    #[arg(long, default_value = "report")]
    name: String,
    /// File of events to mark in the charts of all runs, one event per line: seconds since the
    /// start of the run and a text, as in `4.5 leader killed`.
    #[arg(long, value_name = "FILE")]
    marks: Option<PathBuf>,
}

/// Runs `perf report`: reads the results, draws the charts, and prints the paths of the written
/// files.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut inputs = input::read_all(&arguments.files)?;
    if let Some(path) = &arguments.marks {
        let marks = input::read_marks(path)?;
        for input in &mut inputs {
            if let Input::Run(run) = input {
                run.marks.extend(marks.iter().cloned());
            }
        }
    }
    for path in write(&inputs, &arguments.out, &arguments.name)? {
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes all charts and the HTML page into the folder `out`. Returns the paths of the files; the
/// last one is the page.
pub(crate) fn write(inputs: &[Input], out: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let drawn = draw(inputs)?;
    let endings: Vec<String> = drawn.iter().map(|(ending, _)| ending.clone()).collect();
    let endings: Vec<&str> = endings.iter().map(String::as_str).chain(["html"]).collect();
    let mut files = Files::create(out, name, &endings)?;
    for (ending, svg) in &drawn {
        std::io::Write::write_all(files.get(ending), svg.file().as_bytes())?;
    }
    let page = page::page(name, inputs, &drawn);
    std::io::Write::write_all(files.get("html"), page.as_bytes())?;
    files.finish()
}

/// Draws all charts for which the inputs have data. Returns each chart with the suffix of its file
/// name.
fn draw(inputs: &[Input]) -> anyhow::Result<Vec<(String, Svg)>> {
    let mut drawn: Vec<(String, Svg)> = Vec::new();
    let runs: Vec<&Run> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Run(run) => Some(&**run),
            Input::Comparison(_) => None,
        })
        .collect();
    ensure!(
        runs.len() <= RUNS_MAX,
        "{} runs are too many for one chart; give at most {RUNS_MAX} result files",
        runs.len()
    );
    let mut add = |ending: String, svg: Option<Svg>| {
        drawn.extend(svg.map(|svg| (format!("{ending}.svg"), svg)));
    };
    let comparisons = inputs.iter().filter_map(|input| match input {
        Input::Run(_) => None,
        Input::Comparison(comparison) => Some(comparison),
    });
    for (number, comparison) in comparisons.enumerate() {
        let number = if number == 0 { String::new() } else { format!("-{}", number + 1) };
        add(format!("systems{number}"), charts::bars(comparison));
        for (sweep, svg) in charts::lines(comparison).into_iter().enumerate() {
            add(format!("sweep{number}-{}", sweep + 1), Some(svg));
        }
    }
    add("percentiles".to_owned(), charts::percentiles(&runs));
    add("over-time".to_owned(), charts::over_time(&runs));
    for (number, run) in runs.iter().take(HEAT_MAPS_MAX).enumerate() {
        add(format!("heat-{}", number + 1), charts::heat(run));
    }
    ensure!(
        !drawn.is_empty(),
        "nothing to draw: none of the given runs has a successful operation"
    );
    Ok(drawn)
}
