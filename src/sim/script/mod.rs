//! Scripts: the language of golden traces (`parser.rs`), and the runner that performs a script on
//! a simulated cluster and returns the trace.

pub mod parser;
mod runner;

pub use parser::ScriptError;
pub use runner::run;
