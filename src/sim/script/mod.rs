//! Scripts: the language of golden traces (`parser.rs`), and the runner, which executes a script on
//! a simulated cluster and returns the trace (`runner.rs`).

pub mod parser;
mod runner;

pub use parser::ScriptError;
pub use runner::run;
