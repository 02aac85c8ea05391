//! `perf report`: pictures of results, as SVG files and as one page that opens from the disk.

mod draw;
mod input;
mod page;
mod pictures;
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

/// Heat maps are drawn for so many runs.
const HEAT_MAPS_MAX: usize = 6;
/// Runs that one picture can tell apart.
const RUNS_MAX: usize = 8;

/// What `perf report` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Results: JSON of `perf load`, `sim`, `compare` or `lossy`, or interval logs (.hlog).
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// Where the pictures and the page go.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out")]
    out: PathBuf,
    /// What the page is called, and how the files begin.
    #[arg(long, default_value = "report")]
    name: String,
    /// Mark moments in all runs: a file with a line each, as in `4.5 leader killed`.
    #[arg(long, value_name = "FILE")]
    marks: Option<PathBuf>,
}

/// Reads, draws, and says what was written.
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

/// Writes all pictures and the page; gives their paths, the page's last.
pub(crate) fn write(inputs: &[Input], out: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let drawn = draw(inputs)?;
    let endings: Vec<String> = drawn.iter().map(|(ending, _)| ending.clone()).collect();
    let endings: Vec<&str> = endings.iter().map(String::as_str).chain(["html"]).collect();
    let mut files = Files::begin(out, name, &endings)?;
    for (ending, svg) in &drawn {
        std::io::Write::write_all(files.get(ending), svg.file().as_bytes())?;
    }
    let page = page::page(name, inputs, &drawn);
    std::io::Write::write_all(files.get("html"), page.as_bytes())?;
    files.finish()
}

/// All pictures that can be made of these, and the endings of their files.
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
        "{} runs are too many for one picture; give at most {RUNS_MAX} at a time",
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
        add(format!("systems{number}"), pictures::bars(comparison));
        for (row, svg) in pictures::lines(comparison).into_iter().enumerate() {
            add(format!("row{number}-{}", row + 1), Some(svg));
        }
    }
    add("percentiles".to_owned(), pictures::percentiles(&runs));
    add("over-time".to_owned(), pictures::over_time(&runs));
    for (number, run) in runs.iter().take(HEAT_MAPS_MAX).enumerate() {
        add(format!("heat-{}", number + 1), pictures::heat(run));
    }
    ensure!(!drawn.is_empty(), "there is nothing to draw: no operation was answered in any run");
    Ok(drawn)
}
