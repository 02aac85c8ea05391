//! The charts, one kind per file.

mod bars;
mod heat;
mod lines;
mod over_time;
mod percentiles;

pub(crate) use bars::bars;
pub(crate) use heat::heat;
pub(crate) use lines::lines;
pub(crate) use over_time::over_time;
pub(crate) use percentiles::percentiles;
