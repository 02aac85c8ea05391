//! Payloads of `DUMP` and `RESTORE`: a value, followed by a version and a checksum.

use super::error::RdbError;
use super::input::Input;
use super::item::Sink;
use super::{CHECKSUM, VERSION_MAX, value};

const VERSION_BYTES: usize = 2;
const CHECKSUM_BYTES: usize = 8;

/// The version or the checksum at the end of a payload is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the version or the checksum of the payload is wrong")]
pub struct PayloadError;

/// Returns the value in a payload, with its type before it, after a check of the version and the
/// checksum.
///
/// # Errors
/// If the version is higher than [`VERSION_MAX`], or the checksum is wrong.
pub fn check_payload(payload: &[u8]) -> Result<&[u8], PayloadError> {
    checked(payload, VERSION_MAX)
}

/// Like [`check_payload`], with another highest version.
pub(super) fn checked(payload: &[u8], version_max: u16) -> Result<&[u8], PayloadError> {
    let (covered, checksum) = payload.split_last_chunk::<CHECKSUM_BYTES>().ok_or(PayloadError)?;
    let (value, version) = covered.split_last_chunk::<VERSION_BYTES>().ok_or(PayloadError)?;
    let is_right = u16::from_le_bytes(*version) <= version_max
        && CHECKSUM.checksum(covered) == u64::from_le_bytes(*checksum);
    if is_right { Ok(value) } else { Err(PayloadError) }
}

/// Decodes the value that [`check_payload`] has returned, and passes its items to `sink`.
///
/// # Errors
/// If the value is malformed, or `sink` refuses an item.
pub fn decode_payload(value: &[u8], sink: &mut dyn Sink) -> Result<(), RdbError> {
    let mut input = Input::new(value);
    let number = input.byte()?;
    value::decode(number, 0, &mut input, sink)?;
    input.end()
}

/// Makes a payload of a value with its type before it: appends `version` and the checksum.
pub fn finish_payload(value: &mut Vec<u8>, version: u16) {
    value.extend_from_slice(&version.to_le_bytes());
    let checksum = CHECKSUM.checksum(value);
    value.extend_from_slice(&checksum.to_le_bytes());
}
