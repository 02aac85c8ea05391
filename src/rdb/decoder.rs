//! The input and the receiver of a value that is being decoded.

use std::io::Read;

use super::error::RdbError;
use super::input::Input;
use super::item::{Item, Sink, Stop};
use super::packed::Malformed;

/// An error inside a packed collection, or of the sink.
pub(super) enum PackedError {
    Malformed(Malformed),
    Stop,
}

impl From<Malformed> for PackedError {
    fn from(what: Malformed) -> PackedError {
        PackedError::Malformed(what)
    }
}

impl From<Stop> for PackedError {
    fn from(Stop: Stop) -> PackedError {
        PackedError::Stop
    }
}

/// Decodes one value.
pub(super) struct Decoder<'d, R> {
    pub(super) input: &'d mut Input<R>,
    pub(super) sink: &'d mut dyn Sink,
}

impl<R: Read> Decoder<'_, R> {
    pub(super) fn pass(&mut self, item: Item<'_>) -> Result<(), RdbError> {
        let stopped = RdbError::Stopped { offset: self.input.offset() };
        self.sink.item(item).map_err(|Stop| stopped)
    }

    /// Reads a string with a packed collection, whose items `decode` passes to the sink.
    pub(super) fn in_string(
        &mut self,
        decode: impl FnOnce(&[u8], &mut dyn Sink) -> Result<(), PackedError>,
    ) -> Result<(), RdbError> {
        let offset = self.input.offset();
        let bytes = self.input.string()?;
        decode(&bytes, self.sink).map_err(|error| match error {
            PackedError::Malformed(what) => RdbError::Malformed { offset, what },
            PackedError::Stop => RdbError::Stopped { offset },
        })
    }
}
