//! The library `bit`: operations on 32-bit integers.

use mlua::{Lua, MultiValue, Table};

use super::arguments::Arguments;

/// Returns the library.
pub(super) fn create(lua: &Lua) -> mlua::Result<Table> {
    let bit = lua.create_table()?;
    bit.raw_set("tobit", lua.create_function(|lua, args| one(lua, args, |a| a))?)?;
    bit.raw_set("bnot", lua.create_function(|lua, args| one(lua, args, |a| !a))?)?;
    bit.raw_set("bswap", lua.create_function(|lua, args| one(lua, args, u32::swap_bytes))?)?;
    bit.raw_set("band", lua.create_function(|lua, args| all(lua, args, |a, b| a & b))?)?;
    bit.raw_set("bor", lua.create_function(|lua, args| all(lua, args, |a, b| a | b))?)?;
    bit.raw_set("bxor", lua.create_function(|lua, args| all(lua, args, |a, b| a ^ b))?)?;
    bit.raw_set("lshift", lua.create_function(|lua, args| shift(lua, args, |a, n| a << n))?)?;
    bit.raw_set("rshift", lua.create_function(|lua, args| shift(lua, args, |a, n| a >> n))?)?;
    let arithmetic = |a: u32, n: u32| (a.cast_signed() >> n).cast_unsigned();
    bit.raw_set("arshift", lua.create_function(move |lua, args| shift(lua, args, arithmetic))?)?;
    bit.raw_set("rol", lua.create_function(|lua, args| shift(lua, args, u32::rotate_left))?)?;
    bit.raw_set("ror", lua.create_function(|lua, args| shift(lua, args, u32::rotate_right))?)?;
    bit.raw_set("tohex", lua.create_function(to_hex)?)?;
    Ok(bit)
}

/// Returns an argument as 32 bits: rounded to the nearest integer, and only its lowest bits.
fn bits(args: &Arguments<'_>, position: usize) -> mlua::Result<u32> {
    // Adding this moves the integer into the lowest bits of the floating-point number.
    let moved = args.number(position)? + 6_755_399_441_055_744.0;
    #[allow(clippy::cast_possible_truncation, reason = "The upper bits are the exponent")]
    Ok(moved.to_bits() as u32)
}

fn one(lua: &Lua, args: MultiValue, f: impl Fn(u32) -> u32) -> mlua::Result<i32> {
    Ok(f(bits(&Arguments::new(lua, args), 1)?).cast_signed())
}

fn all(lua: &Lua, args: MultiValue, f: impl Fn(u32, u32) -> u32) -> mlua::Result<i32> {
    let args = Arguments::new(lua, args);
    let mut result = bits(&args, 1)?;
    for position in (2..=args.len()).rev() {
        result = f(result, bits(&args, position)?);
    }
    Ok(result.cast_signed())
}

fn shift(lua: &Lua, args: MultiValue, f: impl Fn(u32, u32) -> u32) -> mlua::Result<i32> {
    let args = Arguments::new(lua, args);
    let value = bits(&args, 1)?;
    let count = bits(&args, 2)? & 31;
    Ok(f(value, count).cast_signed())
}

fn to_hex(lua: &Lua, args: MultiValue) -> mlua::Result<String> {
    let args = Arguments::new(lua, args);
    let value = bits(&args, 1)?;
    let digits = if args.len() < 2 { 8 } else { bits(&args, 2)?.cast_signed() };
    let width = digits.unsigned_abs().min(8) as usize;
    let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    Ok(text[8 - width..].to_owned())
}
