//! Decodes the values of keys, in all their encodings.

use std::io::Read;

use super::decoder::{Decoder, PackedError};
use super::error::RdbError;
use super::input::{Input, parse_double};
use super::item::{Item, Sink, ValueKind};
use super::listpack::Listpack;
use super::packed::{Malformed, PackedItem, for_each_of_intset, for_each_of_zipmap};
use super::ziplist::Ziplist;
use super::{stream, types};

/// Containers of the elements of a list: one long element, or a listpack.
const PLAIN: u64 = 1;
const PACKED: u64 = 2;

/// Returns the type of the values with this number; `None` if the number is unknown.
pub(super) fn kind_of(number: u8) -> Option<ValueKind> {
    Some(match number {
        types::STRING => ValueKind::String,
        types::LIST | types::LIST_ZIPLIST | types::LIST_QUICKLIST | types::LIST_QUICKLIST_2 => {
            ValueKind::List
        }
        types::SET | types::SET_INTSET | types::SET_LISTPACK => ValueKind::Set,
        types::ZSET | types::ZSET_2 | types::ZSET_ZIPLIST | types::ZSET_LISTPACK => {
            ValueKind::SortedSet
        }
        types::HASH | types::HASH_ZIPMAP | types::HASH_ZIPLIST | types::HASH_LISTPACK => {
            ValueKind::Hash
        }
        types::STREAM_LISTPACKS | types::STREAM_LISTPACKS_2 | types::STREAM_LISTPACKS_3 => {
            ValueKind::Stream
        }
        _ => return None,
    })
}

/// Returns whether values with this number are those of modules.
pub(super) fn is_module(number: u8) -> bool {
    matches!(number, types::MODULE | types::MODULE_2)
}

/// Decodes a value of the type `number`, which was read at `offset`, and passes its items to
/// `sink`.
pub(super) fn decode<R: Read>(
    number: u8,
    offset: u64,
    input: &mut Input<R>,
    sink: &mut dyn Sink,
) -> Result<(), RdbError> {
    let Some(kind) = kind_of(number) else {
        return Err(match number {
            types::MODULE_2 => RdbError::Module { offset, name: module_name(input.length()?) },
            types::MODULE => RdbError::Module { offset, name: "of Redis 4.0".to_owned() },
            kind => RdbError::Type { offset, kind },
        });
    };
    let mut decoder = Decoder { input, sink };
    decoder.pass(Item::Value(kind))?;
    match number {
        types::STRING => decoder.string(),
        types::LIST | types::SET => decoder.elements(kind),
        types::ZSET => decoder.scored(Input::double_as_text),
        types::ZSET_2 => decoder.scored(Input::double),
        types::HASH => decoder.fields(),
        types::LIST_QUICKLIST => decoder.quicklist(),
        types::LIST_QUICKLIST_2 => decoder.quicklist_2(),
        types::SET_INTSET => decoder.in_string(|bytes, sink| {
            for_each_of_intset(bytes, |number| {
                Ok(sink.item(Item::Member(number.to_string().as_bytes()))?)
            })
        }),
        types::HASH_ZIPMAP => decoder.in_string(|bytes, sink| {
            for_each_of_zipmap(bytes, |field, value| Ok(sink.item(Item::Field(field, value))?))
        }),
        types::LIST_ZIPLIST | types::ZSET_ZIPLIST | types::HASH_ZIPLIST => {
            decoder.in_string(|bytes, sink| pass_packed(kind, Ziplist::new(bytes)?, sink))
        }
        types::HASH_LISTPACK | types::ZSET_LISTPACK | types::SET_LISTPACK => {
            decoder.in_string(|bytes, sink| pass_packed(kind, Listpack::new(bytes)?, sink))
        }
        _ => stream::decode(number, &mut decoder),
    }
}

impl<R: Read> Decoder<'_, R> {
    fn string(&mut self) -> Result<(), RdbError> {
        let string = self.input.string()?;
        self.pass(Item::String(&string))
    }

    fn elements(&mut self, kind: ValueKind) -> Result<(), RdbError> {
        for _ in 0..self.input.length()? {
            let element = self.input.string()?;
            self.pass(match kind {
                ValueKind::Set => Item::Member(&element),
                _ => Item::Element(&element),
            })?;
        }
        Ok(())
    }

    fn scored(
        &mut self,
        score: fn(&mut Input<R>) -> Result<f64, RdbError>,
    ) -> Result<(), RdbError> {
        for _ in 0..self.input.length()? {
            let member = self.input.string()?;
            let score = score(self.input)?;
            if score.is_nan() {
                return Err(self.input.malformed("a score that is not a number"));
            }
            self.pass(Item::Scored(&member, score))?;
        }
        Ok(())
    }

    fn fields(&mut self) -> Result<(), RdbError> {
        for _ in 0..self.input.length()? {
            let (field, value) = (self.input.string()?, self.input.string()?);
            self.pass(Item::Field(&field, &value))?;
        }
        Ok(())
    }

    fn quicklist(&mut self) -> Result<(), RdbError> {
        for _ in 0..self.input.length()? {
            self.in_string(|bytes, sink| pass_packed(ValueKind::List, Ziplist::new(bytes)?, sink))?;
        }
        Ok(())
    }

    fn quicklist_2(&mut self) -> Result<(), RdbError> {
        for _ in 0..self.input.length()? {
            match self.input.length()? {
                PLAIN => {
                    let element = self.input.string()?;
                    self.pass(Item::Element(&element))?;
                }
                PACKED => self.in_string(|bytes, sink| {
                    pass_packed(ValueKind::List, Listpack::new(bytes)?, sink)
                })?,
                _ => return Err(self.input.malformed("an unknown container of a list")),
            }
        }
        Ok(())
    }
}

/// Passes the items of a packed collection to the sink.
fn pass_packed<'p>(
    kind: ValueKind,
    mut items: impl Iterator<Item = Result<PackedItem<'p>, Malformed>>,
    sink: &mut dyn Sink,
) -> Result<(), PackedError> {
    while let Some(item) = items.next() {
        let item = item?.text();
        let mut second = || items.next().ok_or("an odd number of items")?;
        match kind {
            ValueKind::List => sink.item(Item::Element(&item))?,
            ValueKind::Set => sink.item(Item::Member(&item))?,
            ValueKind::SortedSet => {
                let score = parse_double(&second()?.text()).filter(|score| !score.is_nan());
                sink.item(Item::Scored(&item, score.ok_or("an invalid score")?))?;
            }
            _ => sink.item(Item::Field(&item, &second()?.text()))?,
        }
    }
    Ok(())
}

/// Returns the name of a module's type, which is encoded in its id with six bits for each letter.
pub(super) fn module_name(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u32| char::from(LETTERS[(id >> (10 + 6 * (8 - at)) & 0x3F) as usize]);
    (0..9).map(letter).collect()
}
