//! The replies to `FUNCTION LIST` and `FUNCTION DUMP`, from the outcomes of the state machine.

use bytes::Bytes;

use crate::kv::Outcome;
use crate::lua::Flag;
use crate::rdb::encode_libraries;
use crate::wire::resp::Writer;

/// Writes the payload with the codes of libraries.
pub(super) fn write_dump(writer: &mut Writer<'_>, codes: &[Option<Bytes>]) {
    writer.bulk(&encode_libraries(codes.iter().flatten().map(|code| &code[..])));
}

/// Writes a list of libraries, each a list of its name, its code and its functions.
pub(super) fn write_list(writer: &mut Writer<'_>, libraries: &[Outcome], with_code: bool) {
    writer.array(libraries.len());
    for library in libraries {
        let [name, code, functions] = parts(library);
        writer.map(if with_code { 4 } else { 3 });
        writer.bulk(b"library_name");
        write_value(writer, name);
        writer.bulk(b"engine");
        writer.bulk(b"LUA");
        writer.bulk(b"functions");
        let Outcome::List(functions) = functions else { unreachable!("a list of functions") };
        writer.array(functions.len());
        for function in functions {
            write_function(writer, function);
        }
        if with_code {
            writer.bulk(b"library_code");
            write_value(writer, code);
        }
    }
}

fn write_function(writer: &mut Writer<'_>, function: &Outcome) {
    let [name, description, flags] = parts(function);
    writer.map(3);
    writer.bulk(b"name");
    write_value(writer, name);
    writer.bulk(b"description");
    write_value(writer, description);
    writer.bulk(b"flags");
    let Outcome::Integer(bits) = flags else { unreachable!("the bits of flags") };
    let flags: Vec<Flag> = Flag::of_bits(bits.to_le_bytes()[0]).collect();
    writer.set(flags.len());
    for flag in flags {
        writer.simple(flag.name());
    }
}

fn parts(outcome: &Outcome) -> &[Outcome; 3] {
    match outcome {
        Outcome::List(parts) => parts[..].try_into().expect("the state machine lists three parts"),
        other => unreachable!("a list, not {other:?}"),
    }
}

fn write_value(writer: &mut Writer<'_>, outcome: &Outcome) {
    let Outcome::Value(value) = outcome else { unreachable!("a value") };
    writer.bulk_or_null(value.as_deref());
}
