//! The library `struct`: numbers and strings in the layout of C structures.

use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};

use super::arguments::{self, Arguments};
use super::meter::Output;
use super::raise;

/// Largest size of an integer, in bytes.
const INTEGER_MAX: usize = 32;

/// Alignment of `!` without a number, in bytes.
const DEFAULT_ALIGNMENT: usize = 8;

/// Values that `unpack` returns at once, at most: the size of Lua's stack for one call.
const RESULTS_MAX: usize = 7900;

/// Returns the library.
pub(super) fn create(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", lua.create_function(pack)?)?;
    library.raw_set("unpack", lua.create_function(unpack)?)?;
    library.raw_set("size", lua.create_function(size)?)?;
    Ok(library)
}

/// One option of a format, with the size of its item in bytes.
struct Item {
    option: u8,
    size: usize,
    /// Zero bytes before the item.
    padding: usize,
}

/// A format as it is read from left to right.
struct Format<'a> {
    args: &'a Arguments<'a>,
    text: &'a [u8],
    big_endian: bool,
    alignment: usize,
}

impl<'a> Format<'a> {
    fn new(args: &'a Arguments<'a>, text: &'a [u8]) -> Self {
        // C strings end at the first zero byte.
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        Self { args, text: &text[..end], big_endian: false, alignment: 1 }
    }

    /// Returns the next item, for a structure that is `len` bytes long so far.
    fn next(&mut self, len: usize) -> mlua::Result<Option<Item>> {
        let Some((&option, rest)) = self.text.split_first() else { return Ok(None) };
        self.text = rest;
        let size = match option {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.count(1)?,
            b'i' | b'I' => {
                let size = self.count(4)?;
                if size > INTEGER_MAX {
                    let text =
                        format!("integral size {size} is larger than limit of {INTEGER_MAX}");
                    return Err(raise::error(self.args.lua, text));
                }
                size
            }
            _ => 0,
        };
        let unit = size.min(self.alignment);
        let padding = if unit == 0 || option == b'c' {
            0
        } else {
            unit.wrapping_sub(len & (unit - 1)) & (unit - 1)
        };
        Ok(Some(Item { option, size, padding }))
    }

    /// Returns the number at the front of the format.
    fn count(&mut self, default: usize) -> mlua::Result<usize> {
        let digits = self.text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(default);
        }
        let (number, rest) = self.text.split_at(digits);
        self.text = rest;
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i32>().ok());
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| raise::error(self.args.lua, "integral size overflow"))
    }

    /// Changes byte order or alignment.
    fn control(&mut self, option: u8) -> mlua::Result<()> {
        match option {
            b' ' => {}
            b'>' => self.big_endian = true,
            b'<' => self.big_endian = false,
            b'!' => {
                let alignment = self.count(DEFAULT_ALIGNMENT)?;
                if !alignment.is_power_of_two() {
                    let text = format!("alignment {alignment} is not a power of 2");
                    return Err(raise::error(self.args.lua, text));
                }
                self.alignment = alignment;
            }
            _ => {
                let text = format!("invalid format option '{}'", char::from(option));
                return Err(self.args.error(1, &text));
            }
        }
        Ok(())
    }
}

fn pack(lua: &Lua, mut args: MultiValue) -> mlua::Result<LuaValue> {
    // In Redis, a missing argument is reported as nil.
    if !args.is_empty() {
        args.push_back(LuaValue::Nil);
    }
    let args = Arguments::new(lua, args);
    let text = args.string(1)?;
    let mut format = Format::new(&args, &text);
    let mut out = Output::new(lua);
    // As in Redis, zero bytes of padding count, and those after the last item do not.
    let mut len = 0;
    let mut position = 2;
    while let Some(mut item) = format.next(len)? {
        len += item.padding;
        for _ in 0..item.padding {
            out.push(0)?;
        }
        match item.option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = args.number(position)?;
                position += 1;
                out.extend(&integer_bytes(number, item.size, format.big_endian))?;
            }
            b'x' => out.push(0)?,
            b'f' => {
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "That is what this option is for"
                )]
                let number = args.number(position)? as f32;
                position += 1;
                out.extend(&ordered(number.to_le_bytes(), format.big_endian))?;
            }
            b'd' => {
                let number = args.number(position)?;
                position += 1;
                out.extend(&ordered(number.to_le_bytes(), format.big_endian))?;
            }
            b'c' | b's' => {
                let bytes = args.string(position)?;
                position += 1;
                if item.size == 0 {
                    item.size = bytes.len();
                }
                if bytes.len() < item.size {
                    return Err(args.error(position, "string too short"));
                }
                out.extend(&bytes[..item.size])?;
                if item.option == b's' {
                    out.push(0)?;
                    item.size += 1;
                }
            }
            option => format.control(option)?,
        }
        len += item.size;
    }
    lua.create_string(out.bytes)?.into_lua(lua)
}

fn unpack(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let args = Arguments::new(lua, args);
    let text = args.string(1)?;
    let data = args.string(2)?;
    let start = args.integer_or(3, 1)?;
    if start == 0 {
        return Err(args.error(3, "offset must be 1 or greater"));
    }
    // A negative offset is behind the end of any data.
    let mut at = usize::try_from(start).unwrap_or(usize::MAX) - 1;
    let mut format = Format::new(&args, &text);
    let mut results: Vec<LuaValue> = Vec::new();
    while let Some(mut item) = format.next(at)? {
        at = at.saturating_add(item.padding);
        let mut bytes = piece(&args, &data, at, item.size)?;
        if results.len() > RESULTS_MAX {
            return Err(raise::error(lua, "stack overflow (too many results)"));
        }
        match item.option {
            b'b' | b'h' | b'l' | b'i' => {
                results.push(integer(bytes, format.big_endian, true).into_lua(lua)?);
            }
            b'B' | b'H' | b'L' | b'T' | b'I' => {
                results.push(integer(bytes, format.big_endian, false).into_lua(lua)?);
            }
            b'x' => {}
            b'f' => {
                let bytes = bytes.try_into().unwrap_or_default();
                let number = f32::from_le_bytes(ordered::<4>(bytes, format.big_endian));
                results.push(f64::from(number).into_lua(lua)?);
            }
            b'd' => {
                let bytes = bytes.try_into().unwrap_or_default();
                let number = f64::from_le_bytes(ordered::<8>(bytes, format.big_endian));
                results.push(number.into_lua(lua)?);
            }
            b'c' => {
                if item.size == 0 {
                    let size = results.pop().and_then(|last| arguments::to_number(lua, &last));
                    let Some(size) = size else {
                        return Err(raise::error(lua, "format 'c0' needs a previous size"));
                    };
                    #[allow(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "not negative, and a size beyond the data is refused"
                    )]
                    let size = if size < 0.0 { usize::MAX } else { size as usize };
                    item.size = size;
                    bytes = piece(&args, &data, at, size)?;
                }
                results.push(lua.create_string(bytes)?.into_lua(lua)?);
            }
            b's' => {
                let rest = data.get(at..).unwrap_or_default();
                let Some(len) = rest.iter().position(|&byte| byte == 0) else {
                    return Err(raise::error(lua, "unfinished string in data"));
                };
                item.size = len + 1;
                results.push(lua.create_string(&rest[..len])?.into_lua(lua)?);
            }
            option => format.control(option)?,
        }
        at = at.saturating_add(item.size);
    }
    results.push(LuaValue::Number(at.saturating_add(1) as f64));
    Ok(MultiValue::from_vec(results))
}

fn piece<'a>(
    args: &Arguments<'_>,
    data: &'a [u8],
    at: usize,
    size: usize,
) -> mlua::Result<&'a [u8]> {
    let end = at.checked_add(size);
    let piece = end.and_then(|end| data.get(at..end));
    piece.ok_or_else(|| args.error(2, "data string too short"))
}

fn size(lua: &Lua, args: MultiValue) -> mlua::Result<f64> {
    let args = Arguments::new(lua, args);
    let text = args.string(1)?;
    let mut format = Format::new(&args, &text);
    let mut len: usize = 0;
    while let Some(item) = format.next(len)? {
        len = len.saturating_add(item.padding);
        match item.option {
            b's' => return Err(args.error(1, "option 's' has no fixed size")),
            b'c' if item.size == 0 => {
                return Err(args.error(1, "option 'c0' has no fixed size"));
            }
            option if !option.is_ascii_alphanumeric() => format.control(option)?,
            _ => {}
        }
        len = len.saturating_add(item.size);
    }
    Ok(len as f64)
}

/// Returns an integer in `size` bytes; the upper ones of more than eight are zero.
fn integer_bytes(number: f64, size: usize, big_endian: bool) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "As C does")]
    let value = if number < 0.0 { (number as i64).cast_unsigned() } else { number as u64 };
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(size, 0);
    if big_endian {
        bytes.reverse();
    }
    bytes
}

/// Returns the integer in `bytes`, of which the lowest eight count.
fn integer(bytes: &[u8], big_endian: bool, signed: bool) -> f64 {
    let add = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    let mut value =
        if big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) };
    if !signed {
        return value as f64;
    }
    let bits = (bytes.len() * 8).wrapping_sub(1) & 63;
    let mask = u64::MAX << bits;
    if value & mask != 0 {
        value |= mask;
    }
    value.cast_signed() as f64
}

fn ordered<const N: usize>(mut bytes: [u8; N], big_endian: bool) -> [u8; N] {
    if big_endian {
        bytes.reverse();
    }
    bytes
}
