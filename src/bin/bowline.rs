//! The command line.
#![allow(clippy::print_stdout, reason = "printing is what a command line is for")]

fn main() {
    println!("{}", env!("CARGO_PKG_VERSION"));
}
