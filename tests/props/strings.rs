//! Compares random commands on a string, which grows from short to long, with a plain vector of
//! bytes, while snapshots of earlier states are held.

use std::ops::Range;

use bowline::kv::{
    Batch, CommandId, Operation, Outcome, SnapshotReader, SnapshotWriter, StateMachine,
};
use bowline::types::{EntryId, Index, RequestKey, Term};
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: &[u8] = b"k";
const OTHER_KEY: &[u8] = b"other";
/// Lengths at which a string becomes long, or gets another chunk.
const BOUNDARIES: [usize; 5] = [0, 16 << 10, 32 << 10, 64 << 10, 96 << 10];

#[derive(Debug, Clone)]
enum Change {
    Set(usize),
    SetRange(usize, Vec<u8>),
    Append(Vec<u8>),
    SetBit(usize, bool),
    /// Sets a field of 13 bits at this bit offset, and increases a field of 64 bits directly after
    /// it.
    Bitfield(usize, u16, i64),
    Expire(bool),
    /// Copies the key, so that both keys share the value, and then renames the copy to the key.
    CopyAndRename,
    /// Takes a view of the state, from which a snapshot is written at the end.
    Hold,
}

/// Generates a byte offset, often close to a boundary between chunks.
fn offset() -> impl Strategy<Value = usize> {
    let near = (prop::sample::select(&BOUNDARIES[..]), 0_usize..40)
        .prop_map(|(boundary, by)| (boundary + by).saturating_sub(20));
    prop_oneof![3 => near, 1 => 0_usize..100_000]
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || {
        let long = (any::<u8>(), 0_usize..40_000).prop_map(|(byte, count)| vec![byte; count]);
        prop_oneof![3 => vec(any::<u8>(), 0..30), 1 => long]
    };
    let bit = || (offset(), 0_usize..8).prop_map(|(byte, bit)| byte * 8 + bit);
    prop_oneof![
        1 => offset().prop_map(Change::Set),
        4 => (offset(), bytes()).prop_map(|(at, bytes)| Change::SetRange(at, bytes)),
        3 => bytes().prop_map(Change::Append),
        3 => (bit(), any::<bool>()).prop_map(|(bit, set)| Change::SetBit(bit, set)),
        2 => (bit(), 0_u16..1 << 13, any::<i64>())
            .prop_map(|(bit, number, by)| Change::Bitfield(bit, number, by)),
        1 => any::<bool>().prop_map(Change::Expire),
        1 => Just(Change::CopyAndRename),
        2 => Just(Change::Hold),
    ]
}

fn apply(state: &mut StateMachine, command: &str, args: &[&[u8]]) -> Outcome {
    let operation = Operation::call(CommandId::named(command).expect("a command"), args);
    let payload = Batch::encode(RequestKey::default(), false, &[operation]);
    let applied = state.apply_batch(&payload);
    applied.outcomes.into_iter().next().expect("one operation")
}

fn number(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Integer(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn int(number: usize) -> i64 {
    i64::try_from(number).expect("far below 2^63")
}

fn bit_of(model: &[u8], bit: usize) -> bool {
    model.get(bit / 8).is_some_and(|byte| byte & 0x80 >> (bit % 8) != 0)
}

fn put_bit(model: &mut Vec<u8>, bit: usize, set: bool) {
    model.resize(model.len().max(bit / 8 + 1), 0);
    let mask = 0x80 >> (bit % 8);
    model[bit / 8] = model[bit / 8] & !mask | if set { mask } else { 0 };
}

fn field_of(model: &[u8], bits: Range<usize>) -> u64 {
    bits.fold(0, |sum, bit| sum << 1 | u64::from(bit_of(model, bit)))
}

fn put_field(model: &mut Vec<u8>, bits: Range<usize>, number: u64) {
    for bit in bits.clone() {
        put_bit(model, bit, number >> (bits.end - 1 - bit) & 1 == 1);
    }
}

fn overwrite(model: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        model.resize(model.len().max(at + bytes.len()), 0);
        model[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Applies a change to the state and to the model, and checks the outcome.
fn run(state: &mut StateMachine, model: &mut Vec<u8>, change: &Change) {
    let text = |number: usize| number.to_string().into_bytes();
    match change {
        Change::Set(length) => {
            *model = (0..=250).cycle().take(*length).collect();
            assert_eq!(apply(state, "set", &[KEY, model]), Outcome::Done);
        }
        Change::SetRange(at, bytes) => {
            overwrite(model, *at, bytes);
            let outcome = apply(state, "setrange", &[KEY, &text(*at), bytes]);
            assert_eq!(number(&outcome), int(model.len()));
        }
        Change::Append(bytes) => {
            model.extend_from_slice(bytes);
            assert_eq!(number(&apply(state, "append", &[KEY, bytes])), int(model.len()));
        }
        Change::SetBit(bit, set) => {
            let was = i64::from(bit_of(model, *bit));
            put_bit(model, *bit, *set);
            let outcome =
                apply(state, "setbit", &[KEY, &text(*bit), if *set { b"1" } else { b"0" }]);
            assert_eq!(number(&outcome), was);
        }
        Change::Bitfield(bit, value, by) => {
            let (first, second) = (*bit..bit + 13, bit + 13..bit + 77);
            let old = field_of(model, first.clone()).cast_signed();
            put_field(model, first.clone(), u64::from(*value));
            let sum = field_of(model, second.clone()).cast_signed().wrapping_add(*by);
            put_field(model, second.clone(), sum.cast_unsigned());
            let (at, value) = (text(first.start), text(usize::from(*value)));
            let (behind, by) = (text(second.start), by.to_string().into_bytes());
            let args = [KEY, b"SET", b"u13", &at, &value, b"INCRBY", b"i64", &behind, &by];
            let outcome = apply(state, "bitfield", &args);
            let wanted = [Outcome::Integer(old), Outcome::Integer(sum)];
            assert_eq!(outcome, Outcome::List(wanted.to_vec()));
        }
        Change::Expire(true) => {
            apply(state, "pexpireat", &[KEY, b"9000000000000"]);
        }
        Change::Expire(false) => {
            apply(state, "persist", &[KEY]);
        }
        Change::CopyAndRename => {
            apply(state, "copy", &[KEY, OTHER_KEY]);
            // Both keys share the value, which this changes only for one of them.
            apply(state, "append", &[KEY, b"x"]);
            apply(state, "rename", &[OTHER_KEY, KEY]);
            if model.is_empty() {
                apply(state, "del", &[KEY]);
            }
        }
        Change::Hold => {}
    }
}

/// Checks the replies of the commands that read the string, at offsets around `near`.
fn check_reads(state: &mut StateMachine, model: &[u8], near: usize) {
    let text = |number: usize| number.to_string().into_bytes();
    let value = |outcome: Outcome| outcome.value().expect("a value").into_owned();
    assert!(value(apply(state, "get", &[KEY])) == model, "{} bytes", model.len());
    assert_eq!(number(&apply(state, "strlen", &[KEY])), int(model.len()));
    for (from, to) in [(near, near + 20), (near.saturating_sub(20), near + 40_000), (0, near)] {
        let part = model.get(from..model.len().min(to + 1)).unwrap_or_default();
        let args = [KEY, &text(from), &text(to)];
        assert!(value(apply(state, "getrange", &args)) == part, "{from} to {to}");
        let ones: u32 = part.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(number(&apply(state, "bitcount", &args)), i64::from(ones), "{from} to {to}");
        for wanted in [true, false] {
            let bits = from * 8..(from + part.len()) * 8;
            let first = bits.into_iter().find(|bit| bit_of(model, *bit) == wanted);
            // As in Redis, a missing key consists of zeros.
            let none = if model.is_empty() && !wanted { 0 } else { -1 };
            let first = first.map_or(none, int);
            let args = [KEY, if wanted { b"1" } else { b"0" }, &text(from), &text(to)];
            assert_eq!(number(&apply(state, "bitpos", &args)), first, "{from} to {to}");
        }
    }
    let bit = i64::from(bit_of(model, near * 8 + 3));
    assert_eq!(number(&apply(state, "getbit", &[KEY, &text(near * 8 + 3)])), bit);
}

/// Returns the digest of a state that contains only this string, set by a single command.
fn digest_of(model: &[u8], index: Index, expires: bool) -> u64 {
    let mut state = StateMachine::default();
    if !model.is_empty() {
        apply(&mut state, "set", &[KEY, model]);
        if expires {
            apply(&mut state, "pexpireat", &[KEY, b"9000000000000"]);
        }
    }
    while state.applied_index() < index {
        state.skip(state.applied_index().next());
    }
    state.digest()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn string_commands_match_a_byte_vector_model(changes in vec((change(), offset()), 1..25)) {
        let (mut state, mut model) = (StateMachine::default(), Vec::new());
        let mut held = Vec::new();
        for (change, near) in &changes {
            run(&mut state, &mut model, change);
            // An empty string exists or not, depending on how it was made.
            if model.is_empty() {
                apply(&mut state, "del", &[KEY]);
            }
            check_reads(&mut state, &model, *near);
            let expires = number(&apply(&mut state, "pexpiretime", &[KEY])) > 0;
            prop_assert_eq!(state.digest(), digest_of(&model, state.applied_index(), expires));
            if matches!(change, Change::Hold) {
                let last = EntryId { term: Term(1), index: state.applied_index() };
                let (view, digest) = (state.view(last), state.digest());
                held.push((view, digest, apply(&mut state, "memory|usage", &[KEY]), model.clone()));
            }
        }
        for (view, digest, memory, model) in held {
            let (mut writer, mut reader) = (SnapshotWriter::new(view), SnapshotReader::default());
            let mut checking = SnapshotReader::checking();
            while writer
                .write(&mut |piece| {
                    reader.feed(piece).expect("valid");
                    checking.feed(piece).expect("valid");
                })
                .is_none()
            {}
            let mark = checking.mark().expect("valid, without restoring the state");
            let (mut restored, restored_mark) = reader.finish().expect("valid");
            prop_assert_eq!(mark, restored_mark);
            prop_assert_eq!(restored.digest(), digest);
            prop_assert_eq!(apply(&mut restored, "memory|usage", &[KEY]), memory);
            check_reads(&mut restored, &model, 0);
        }
    }
}
