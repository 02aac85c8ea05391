//! `perf load`: asks a server at a rate of your choice, or as fast as it answers, and says how long
//! the answers took.

#[allow(dead_code, reason = "written before its writer, so that its readers can begin")]
pub(crate) mod schema;
