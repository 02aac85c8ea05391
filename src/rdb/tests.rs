//! Tests with payloads that redis-server 7.0.15 has recorded, and with random values.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Payloads that redis-server 7.0.15 has returned for each of its encodings: a name, the payload in
/// hexadecimal, and on the lines after it the items of the value.
const RECORDED: &str = include_str!("tests/recorded.txt");

/// Writes each item as a line of text.
#[derive(Default)]
struct Lines(String);

impl Sink for Lines {
    fn item(&mut self, item: Item<'_>) -> Result<(), Stop> {
        let text = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
        let id = |id: EntryId| format!("{}-{}", id.millis, id.sequence);
        let line = match item {
            Item::Value(kind) => format!("{kind:?}"),
            Item::String(one) | Item::Element(one) | Item::Member(one) => text(one),
            Item::Scored(member, score) => format!("{} {score}", text(member)),
            Item::Field(field, value) => format!("{} {}", text(field), text(value)),
            Item::Entry(entry, fields) => {
                let fields: Vec<String> = fields.iter().map(|field| text(field)).collect();
                format!("{} {}", id(entry), fields.join(" "))
            }
            Item::Stream { last_id, max_deleted_id, entries_added } => {
                format!(
                    "last {} deleted {} added {entries_added:?}",
                    id(last_id),
                    id(max_deleted_id)
                )
            }
            Item::Group { name, last_id, entries_read } => {
                format!("group {} last {} read {entries_read:?}", text(name), id(last_id))
            }
            Item::Consumer { name, seen_at, active_at } => {
                format!("consumer {} seen {seen_at} active {active_at:?}", text(name))
            }
            Item::Pending { id: entry, delivered_at, deliveries } => {
                format!("pending {} at {delivered_at} {deliveries} times", id(entry))
            }
        };
        writeln!(self.0, "  {line}").expect("a string takes it");
        Ok(())
    }
}

fn lines(value: &[u8]) -> Result<String, RdbError> {
    let mut lines = Lines::default();
    decode_payload(value, &mut lines)?;
    Ok(lines.0)
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
    (0..hexadecimal.len()).step_by(2).map(pair).collect()
}

/// Returns the recorded payloads: name, payload, and items.
fn recorded() -> Vec<(&'static str, Vec<u8>, String)> {
    let mut all: Vec<(&str, Vec<u8>, String)> = Vec::new();
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with("  ") {
            let (.., items) = all.last_mut().unwrap();
            writeln!(items, "{line}").unwrap();
        } else {
            let (name, payload) = line.split_once(' ').unwrap();
            all.push((name, bytes_of(payload), String::new()));
        }
    }
    all
}

#[test]
fn recorded_payloads_of_redis_are_decoded() {
    let mut found = String::new();
    let mut wanted = String::new();
    for (name, payload, items) in recorded() {
        let value = check_payload(&payload).unwrap();
        writeln!(found, "{name}\n{}", lines(value).unwrap_or_else(|it| it.to_string())).unwrap();
        writeln!(wanted, "{name}\n{items}").unwrap();
    }
    assert!(found == wanted, "{found}");
    assert!(found.contains("pending"));
}

#[test]
fn damaged_payloads_are_refused_without_panic() {
    for (name, payload, _) in recorded() {
        for at in 0..payload.len().min(600) {
            let mut damaged = payload.clone();
            damaged[at] ^= 1 << (at % 8);
            assert_eq!(check_payload(&damaged), Err(PayloadError), "{name} at {at}");
            assert_eq!(check_payload(&payload[..at]), Err(PayloadError));
        }
        let value = check_payload(&payload).unwrap();
        for at in 0..value.len().min(600) {
            assert!(lines(&value[..at]).is_err(), "{name} of {at} bytes");
            for bit in 0..8 {
                let mut damaged = value.to_vec();
                damaged[at] ^= 1 << bit;
                // Whether it has a meaning depends on the byte.
                let _ = lines(&damaged);
            }
        }
        let longer = [value, b"x"].concat();
        assert!(matches!(lines(&longer), Err(RdbError::Longer { .. })), "{name}");
    }
}

#[test]
fn stated_lengths_allocate_no_memory() {
    // A string of 2^62 bytes, one of 512 MiB, a compressed one, a hash of 2^40 fields.
    for bytes in [
        &b"\x00\x81\x40\0\0\0\0\0\0\0"[..],
        b"\x00\x80\x20\0\0\0abc",
        b"\x00\xC3\x04\x80\x20\0\0\0\x02abc",
        b"\x04\x81\0\0\x01\0\0\0\0\0",
        b"\x13\x81\0\0\x01\0\0\0\0\0",
    ] {
        assert!(lines(bytes).is_err());
    }
}

#[test]
fn strings_of_any_length_are_written_and_read() {
    for length in [0, 63, 64, 16_383, 16_384, 70_000, 1 << 20] {
        let mut value = Vec::new();
        ValueWriter::new(&mut value).string_value(length, [&vec![b'x'; length][..]].into_iter());
        let wanted = format!("  String\n  \"{}\"\n", "x".repeat(length));
        assert!(lines(&value).is_ok_and(|found| found == wanted), "of {length} bytes");
    }
}

/// Replaces the only occurrence of some bytes in a recorded value.
fn changed(name: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let (_, payload, _) = recorded().into_iter().find(|(known, ..)| *known == name).unwrap();
    let value = check_payload(&payload).unwrap();
    let places: Vec<usize> = (0..value.len()).filter(|at| value[*at..].starts_with(from)).collect();
    let [at] = places[..] else { panic!("{from:?} is {} times in {name}", places.len()) };
    [&value[..at], to, &value[at + from.len()..]].concat()
}

#[test]
fn inconsistent_values_are_refused() {
    for (value, wanted) in [
        // The length of the item before.
        (changed("old-hash-ziplist", b"\x01v\x03", b"\x01v\x04"), "invalid ziplist"),
        // The length backwards.
        (changed("new-set-listpack", b"\x81a\x02", b"\x81a\x03"), "invalid listpack"),
        (changed("set-intset16-as-intset", b"\x02\0\0\0\x03", b"\x02\0\0\0\x04"), "integers"),
        (changed("old-hash-zipmap", b"\x03\x02abc", b"\x09\x02abc"), "invalid zipmap"),
        // A group whose pending entry belongs to no consumer, and one of another group.
        (changed("old-stream-1", b"\x03\x01\x01c", b"\x03\x00\x01c"), "without a consumer"),
        // The last id, 8-0, below that of an entry.
        (changed("old-stream-1", b"\x02\x08\x00\x01", b"\x02\x07\x00\x01"), "last id is too low"),
    ] {
        let error = lines(&value).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error} instead of {wanted}");
    }
    let nan = b"\x05\x01\x01a\0\0\0\0\0\0\xF8\x7F";
    assert!(lines(nan).unwrap_err().to_string().contains("score"));
}

#[test]
fn unknown_types_and_modules_are_named() {
    assert!(matches!(lines(b"\x08"), Err(RdbError::Type { offset: 0, kind: 8 })));
    assert!(matches!(lines(b"\x16"), Err(RdbError::Type { kind: 22, .. })));
    // The id of the type ReJSON-RL.
    let module = b"\x07\x81\x44\x97\x89\x4D\x6F\x8B\x11\x03";
    let error = lines(module).unwrap_err().to_string();
    assert!(error.starts_with("has data of the module type "), "{error}");
}

/// The items of a value that a test writes.
#[derive(Debug, Clone)]
enum Made {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    SortedSet(Vec<(Vec<u8>, f64)>),
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    Stream(Vec<(u8, u8, Vec<Vec<u8>>)>),
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..20),
        1 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        1 => vec(any::<u8>(), 4_000..5_000),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let score = any::<f64>().prop_filter("a number", |score| !score.is_nan());
    let fields = vec(text(), 1..4).prop_map(|texts| {
        texts.into_iter().flat_map(|text| [b"field".to_vec(), text]).collect::<Vec<_>>()
    });
    prop_oneof![
        text().prop_map(Made::String),
        vec(text(), 0..40).prop_map(Made::List),
        vec((text(), score), 0..40).prop_map(Made::SortedSet),
        vec((text(), text()), 0..40).prop_map(Made::Hash),
        vec((1..9_u8, 0..3_u8, fields), 0..300).prop_map(Made::Stream),
    ]
}

impl Made {
    /// Writes the value, and returns its items as lines of text.
    fn write(&self, out: &mut ValueWriter<'_>) -> String {
        let mut items = Lines::default();
        let mut add = |item: Item<'_>| items.item(item).unwrap();
        match self {
            Made::String(string) => {
                add(Item::Value(ValueKind::String));
                add(Item::String(string));
                out.string_value(string.len(), string.chunks(7));
            }
            Made::List(elements) => {
                add(Item::Value(ValueKind::List));
                out.list(elements.len());
                for element in elements {
                    add(Item::Element(element));
                    out.string(element);
                }
            }
            Made::SortedSet(members) => {
                add(Item::Value(ValueKind::SortedSet));
                out.sorted_set(members.len());
                for (member, score) in members {
                    add(Item::Scored(member, *score));
                    out.scored(member, *score);
                }
            }
            Made::Hash(fields) => {
                add(Item::Value(ValueKind::Hash));
                out.hash(fields.len());
                for (field, value) in fields {
                    add(Item::Field(field, value));
                    out.string(field);
                    out.string(value);
                }
            }
            Made::Stream(entries) => {
                add(Item::Value(ValueKind::Stream));
                let mut last = EntryId { millis: 1 << 40, sequence: u64::MAX - 9 };
                let entries = entries.iter().map(|(millis, sequence, fields)| {
                    let millis = last.millis + u64::from(*millis);
                    last = EntryId { millis, sequence: u64::from(*sequence) };
                    let refs: Vec<&[u8]> = fields.iter().map(|field| &field[..]).collect();
                    add(Item::Entry(last, &refs));
                    (last, fields.clone())
                });
                let entries: Vec<(EntryId, Vec<Vec<u8>>)> = entries.collect();
                let (count, first) = out.stream_entries(entries.into_iter());
                out.number(count as u64);
                out.entry_id(last);
                out.entry_id(first);
                out.entry_id(EntryId::default());
                out.number(1 << 50);
                out.number(0);
                let (max_deleted_id, entries_added) = (EntryId::default(), Some(1 << 50));
                add(Item::Stream { last_id: last, max_deleted_id, entries_added });
            }
        }
        items.0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_as_a_value_are_decoded_or_refused(
        number in 0..25_u8,
        mut bytes in vec(any::<u8>(), 0..99),
    ) {
        bytes.insert(0, number);
        let _ = lines(&bytes);
    }

    #[test]
    fn any_bytes_as_a_file_are_read_or_refused(bytes in vec(any::<u8>(), 0..99)) {
        let _ = keys_of(&[b"REDIS0010", &bytes[..]].concat());
    }

    #[test]
    fn written_values_are_decoded_to_the_same_items(value in made()) {
        let mut payload = Vec::new();
        let wanted = value.write(&mut ValueWriter::new(&mut payload));
        finish_payload(&mut payload, VERSION);
        prop_assert_eq!(lines(check_payload(&payload).unwrap()).unwrap(), wanted);
    }

    #[test]
    fn written_files_are_read_with_the_same_keys(
        values in vec((text(), proptest::option::of(1..1_u64 << 50), made()), 0..8),
        damaged_at in any::<prop::sample::Index>(),
    ) {
        let mut writer = FileWriter::new(values.len() as u64, &[("redis-ver", "7.0.15")]);
        let mut file = Vec::new();
        let mut wanted = Vec::new();
        for (key, expires_at, value) in &values {
            let mut items = String::new();
            writer.key(key, *expires_at, |out| items = value.write(out));
            wanted.push((key.clone(), expires_at.map(u64::cast_signed), items));
            file.extend(writer.take());
        }
        file.extend(writer.finish());
        prop_assert_eq!(keys_of(&file).unwrap(), wanted);
        let truncated = keys_of(&file[..damaged_at.index(file.len())]);
        prop_assert!(matches!(truncated, Err(RdbError::Truncated { .. })), "{:?}", truncated);
        let at = damaged_at.index(file.len() - 9) + 9;
        file[at] ^= 1;
        prop_assert!(keys_of(&file).is_err(), "damaged at {}", at);
    }
}

/// A key, its expiration and the items of its value.
type FoundKey = (Vec<u8>, Option<i64>, String);

/// Reads a whole file. Returns the keys, their expirations and the items of their values, after a
/// check that each value's payload has the same items.
fn keys_of(file: &[u8]) -> Result<Vec<FoundKey>, RdbError> {
    let mut reader = RdbReader::new(file)?;
    let mut keys = Vec::new();
    while let Some(record) = reader.next_record()? {
        if let Record::Key { key, expires_at, .. } = record {
            let mut items = Lines::default();
            let payload = reader.value(1 << 20, &mut items)?;
            if let Some(payload) = payload {
                let value = check_payload(&payload).expect("a valid payload");
                assert_eq!(lines(value).expect("the same value"), items.0);
            }
            keys.push((key, expires_at, items.0));
        }
    }
    reader.finish()?;
    Ok(keys)
}

#[test]
fn wrong_files_are_refused_with_the_offset() {
    let text = |file: &[u8]| keys_of(file).unwrap_err().to_string();
    assert!(text(b"REDIS00").contains("truncated at byte 7"));
    assert!(text(b"PNG 0010.").contains("not an RDB file"));
    assert!(text(b"REDIS0099").contains("has RDB version 99, but this program reads 1 to 12"));
    assert!(text(b"REDIS0010\xF3").contains("unknown type 243 at byte 9"));
    assert!(text(b"REDIS0010\xF6").contains("unknown kind 246 at byte 9"));
    assert!(text(b"REDIS0010\x63\x01k").contains("unknown type 99 at byte 9"));
    assert!(text(b"REDIS0010\xF7\x81\x44\x97\x89\x4D\x6F\x8B\x11\x03").contains("at byte 9"));
    assert!(text(b"REDIS0010\xFF12345678").contains("checksum at byte 10 is 3837363534333231"));
    assert!(text(b"REDIS0010\xFF\0\0\0\0\0\0\0\0x").contains("data after its end at byte 18"));
    // Versions before 5 have no checksum.
    assert_eq!(keys_of(b"REDIS0003\xFE\0\0\x01k\x01v\xFF").unwrap().len(), 1);
}

#[test]
fn sinks_can_end_the_decoding() {
    struct Refusing;
    impl Sink for Refusing {
        fn item(&mut self, _item: Item<'_>) -> Result<(), Stop> {
            Err(Stop)
        }
    }
    let result = decode_payload(b"\0\x01v", &mut Refusing);
    assert!(matches!(result, Err(RdbError::Stopped { .. })));
}
