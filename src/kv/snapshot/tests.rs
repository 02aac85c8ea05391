//! Tests that snapshots can be read back, and that damaged snapshots are rejected.

use proptest::prelude::*;

use super::writer::Blocks;
use super::*;
use crate::feature_level::FeatureLevel;
use crate::kv::commands::outcome::Outcome;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::entry::REVISION_MAX;
use crate::kv::keyspace::functions::{Functions, Library, LibraryFunction};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::string::StringRef;
use crate::kv::{Batch, CommandId, DatabaseId, Operation, PIECE_BYTES, Piece};
use crate::membership::Configuration;
use crate::record::{EntryKind, RecordBuffer, level_payload};
use crate::types::{ClientId, Index, NodeId, RequestId, RequestKey};

/// Returns a state machine whose deduplication table contains every kind of outcome except one.
#[allow(clippy::needless_borrows_for_generic_args, reason = "three arguments must be borrowed")]
fn busy_state() -> StateMachine {
    let mut state = StateMachine::default();
    let key: &[u8] = b"key";
    let (incrby, getdel) = (CommandId::of("incrby"), CommandId::of("getdel"));
    let (transfer, append) = (CommandId::of("transfer"), CommandId::of("append"));
    let incr = CommandId::of("incr");
    let add = Operation::call(incrby, [&b"count"[..], b"-5"]).encode();
    for (number, operation) in [
        Operation::set(key, b"value"),
        Operation::del(b"nothing"),
        Operation::call(transfer, &[&b"a"[..], b"b", b"1"]),
        Operation::call(CommandId::SET, &[key, b"other", b"NX"]),
        Operation::call(append, [key, &[7; 3_000]]),
        Operation::call(incrby, [&b"count"[..], b"5"]),
        Operation::call(incrby, [key, b"5"]),
        Operation::call(getdel, [&b"count"[..]]),
        Operation::call(incrby, [&b"count"[..], b"9223372036854775807"]),
        Operation::call(incr, [&b"count"[..]]),
        Operation::OpenSession,
        Operation::OpenSession,
        Operation::Once { session: 11, sequence: 1, operation: &add },
        Operation::Once { session: 11, sequence: 1, operation: &add },
    ]
    .into_iter()
    .enumerate()
    {
        let request = RequestId([u8::try_from(number).unwrap(); 16]);
        let payload = Batch::one(RequestKey { client: ClientId(1), request }, &operation);
        state.apply_batch(&payload);
    }
    state
}

fn bytes_of(state: &StateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = EntryId { term: crate::types::Term(3), index: state.applied_index() };
    let mark = state.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
    assert_eq!(read(&bytes, 4_096).unwrap().1, mark);
    bytes
}

fn read(bytes: &[u8], piece: usize) -> Result<(StateMachine, SnapshotMark), SnapshotError> {
    let mut reader = SnapshotReader::default();
    bytes.chunks(piece).try_for_each(|piece| reader.feed(piece))?;
    reader.finish()
}

#[test]
fn snapshot_of_a_witness_has_members_but_no_data() {
    let members = Configuration::of_members([1, 2, 3].map(NodeId), &[NodeId(3)]);
    let mut state = StateMachine::of_witness(Index(6), Some(members.clone()), FeatureLevel::V0_2);
    let batch = Batch::one(RequestKey::default(), &Operation::set(b"key", b"value"));
    let last = EntryId::new(2, 7);
    state.apply(&RecordBuffer::default().encode(last, EntryKind::Command, &batch));
    assert_eq!((state.applied_index(), state.key_count()), (last.index, 0), "it applies nothing");
    let mut bytes = Vec::new();
    let mark = state.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
    let mut reader = SnapshotReader::default();
    reader.feed(&bytes).unwrap();
    let (read, found) = reader.finish().unwrap();
    assert_eq!((found, read.configuration()), (mark, Some(&members)));
    assert!(read.is_witness() && read.applied_index() == last.index);
    assert_eq!(read.feature_level(), FeatureLevel::V0_2);
    // A state with data is never one of a witness, whatever the snapshot says.
    let mut busy = busy_state();
    let last = EntryId::new(1, busy.applied_index().0);
    busy.is_witness = true;
    bytes.clear();
    busy.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
    let mut reader = SnapshotReader::checking();
    reader.feed(&bytes).unwrap();
    assert_eq!(reader.mark(), Err(SnapshotError::Witness));
}

#[test]
fn snapshot_restores_keys_dedup_table_and_client_sessions() {
    let mut state = busy_state();
    let bytes = bytes_of(&state);
    for piece in [1, 7, 100, bytes.len()] {
        let (mut copy, mark) = read(&bytes, piece).unwrap();
        assert_eq!((mark.last, mark.bytes), (EntryId::new(3, 14), bytes.len() as u64));
        assert_eq!((copy.digest(), copy.key_count()), (state.digest(), state.key_count()));
        assert!(copy.remembered().eq(state.remembered()));
        let retry = Batch::one(
            RequestKey { client: ClientId(1), request: RequestId([5; 16]) },
            &Operation::call(CommandId::of("incrby"), [&b"count"[..], b"5"]),
        );
        assert!(copy.apply_batch(&retry).repeated);
        // A request that was executed in a client session is not executed again.
        assert_eq!(copy.session_count(), 2);
        let operation = Operation::call(CommandId::of("incrby"), [&b"count"[..], b"-5"]);
        let operation = &operation.encode();
        let retry = Batch::one(
            RequestKey { client: ClientId(2), request: RequestId([1; 16]) },
            &Operation::Once { session: 11, sequence: 1, operation },
        );
        let outcomes = copy.apply_batch(&retry).outcomes;
        assert_eq!(outcomes, [Outcome::Integer(i64::MAX - 5)]);
        let count = copy.keyspace.string(b"count").unwrap().and_then(StringRef::short);
        assert_eq!(count, Some(&b"9223372036854775802"[..]));
    }
    assert_eq!(state.apply_batch(b"nonsense").outcomes, []);
    let empty = bytes_of(&StateMachine::default());
    assert_eq!(read(&empty, 64).unwrap().1.last, EntryId::new(3, 0));
}

#[test]
fn snapshot_contains_the_pieces_of_an_incomplete_batch() {
    let mut state = busy_state();
    let key = RequestKey { client: ClientId(3), request: RequestId([9; 16]) };
    let value = vec![b'v'; PIECE_BYTES + 1];
    let whole = Batch::one(key, &Operation::set(b"large", &value));
    let piece = |start| Piece::encode(key, &whole, start, PIECE_BYTES);
    let id = EntryId::new(3, state.applied_index().0 + 1);
    let next = EntryId::new(3, id.index.0 + 1);
    let encode = |id, kind, payload: &[u8]| RecordBuffer::default().encode(id, kind, payload);
    let before = state.digest();
    assert_eq!(state.begin(&encode(id, EntryKind::Command, &piece(0))), None);
    let bytes = bytes_of(&state);
    for length in [100, bytes.len()] {
        let (mut copy, mark) = read(&bytes, length).unwrap();
        assert_eq!((mark.last, copy.piece_bytes()), (id, PIECE_BYTES));
        assert_eq!(copy.digest(), state.digest());
        let completed = copy.begin(&encode(next, EntryKind::Command, &piece(PIECE_BYTES)));
        assert_eq!((completed.as_ref(), copy.piece_bytes()), (Some(&whole), 0));
        let (mut copy, _) = read(&bytes, length).unwrap();
        assert_eq!(copy.begin(&encode(next, EntryKind::NoOp, b"")), None);
        assert_eq!(copy.piece_bytes(), 0, "the next leader drops it");
    }
    // The digest is that of the pieces, too.
    state.move_to(Index(id.index.0 - 1), state.revision(), state.keyspace.replicated_clock());
    assert_ne!(state.digest(), before);
}

/// Returns a state of level 2 with keys in several databases, of which some were exchanged.
fn state_with_databases() -> StateMachine {
    let mut state = busy_state();
    state.raise_feature_level(FeatureLevel::V0_2);
    let id = |number: u8| DatabaseId::new(number).unwrap();
    let swapdb = CommandId::of("swapdb");
    for number in [1, 3, 15] {
        for key in 0..400_u16 {
            let (key, value) = (key.to_le_bytes(), [number; 300]);
            let operation = Operation::set(&key, &value).in_database(id(number));
            state.apply_batch(&Batch::encode(RequestKey::default(), false, &[operation]));
        }
    }
    for arguments in [[&b"3"[..], b"7"], [b"0", b"1"], [b"9", b"10"]] {
        let operation = Operation::call(swapdb, arguments);
        state.apply_batch(&Batch::encode(RequestKey::default(), false, &[operation]));
    }
    state.check_sums();
    state
}

#[test]
fn snapshot_restores_the_keys_of_every_database() {
    let mut state = state_with_databases();
    let bytes = bytes_of(&state);
    let mut by_view = Vec::new();
    let last = EntryId::new(3, state.applied_index().0);
    let mut writer = SnapshotWriter::new(state.view(last));
    while writer.write(&mut |piece| by_view.extend_from_slice(piece)).is_none() {}
    assert_eq!(writer.progress().0, writer.progress().1);
    let sizes = state.database_sizes();
    let ids: Vec<u8> = sizes.iter().map(|size| size.id.number()).collect();
    assert_eq!(ids, [0, 1, 7, 15]);
    for bytes in [&bytes, &by_view] {
        let mut checking = SnapshotReader::checking();
        checking.feed(bytes).unwrap();
        assert!(checking.mark().is_ok());
        let (copy, _) = read(bytes, 1_000).unwrap();
        copy.check_sums();
        assert_eq!((copy.digest(), copy.database_sizes()), (state.digest(), sizes.clone()));
        for id in DatabaseId::all() {
            let swapped_at = |state: &StateMachine| {
                state.keyspace.within(id, |it| if it.len() > 0 { it.swapped_at() } else { 0 })
            };
            assert_eq!(swapped_at(&copy), swapped_at(&state), "database {id}");
        }
        let new = read_for_new_cluster(bytes).unwrap();
        assert_eq!(new.keyspace.swapped_at(), state.keyspace.swapped_at() + NEW_CLUSTER_GAP);
        assert_eq!(new.key_count(), state.key_count());
    }
}

#[test]
fn snapshot_with_databases_in_the_wrong_order_or_format_is_rejected() {
    let state = state_with_databases();
    let bytes = bytes_of(&state);
    let read_trusting = |bytes: &[u8]| {
        let mut reader = SnapshotReader::default();
        reader.trust();
        reader.feed(bytes)
    };
    assert_eq!(read_trusting(&bytes), Ok(()));
    // The heads of the blocks of kind DATABASE: their content is the number and the swap.
    let is_head = |at: &usize| {
        bytes[*at] == DATABASE
            && bytes[*at + 1..].starts_with(&[1, 0, 0, 0])
            && (2..10).contains(&bytes[*at + 5])
            && bytes[*at + 6..].starts_with(&[0; 7])
    };
    let heads: Vec<usize> = (HEADER_BYTES..bytes.len() - 20).filter(is_head).collect();
    assert_eq!(heads.len(), 4);
    let mut ids: Vec<u8> = heads.iter().map(|at| bytes[at + BLOCK_HEAD_BYTES]).collect();
    assert_eq!(ids, [0, 1, 7, 15]);
    for wrong in [[0, 1, 1, 15], [0, 7, 1, 15], [0, 1, 7, 16], [0, 0, 1, 2]] {
        let mut damaged = bytes.clone();
        ids = wrong.to_vec();
        for (at, id) in heads.iter().zip(&ids) {
            damaged[at + BLOCK_HEAD_BYTES] = *id;
        }
        assert!(read_trusting(&damaged).is_err(), "{ids:?}");
    }
    let mut oldest = bytes;
    oldest[MAGIC.len()..][..4].copy_from_slice(&VERSION_OLDEST.to_le_bytes());
    assert!(read_trusting(&oldest).is_err());
}

#[test]
fn feature_level_is_in_snapshots_and_digest_from_level_2_on() {
    let mut state = busy_state();
    let (before, oldest) = (state.digest(), bytes_of(&state));
    assert_eq!(oldest[MAGIC.len()..][..4], VERSION_OLDEST.to_le_bytes());
    assert_eq!(read(&oldest, 64).unwrap().0.feature_level(), FeatureLevel::V0_1);
    let id = EntryId::new(3, state.applied_index().0 + 1);
    let payload = level_payload(FeatureLevel::V0_2);
    let entry = RecordBuffer::default().encode(id, EntryKind::FeatureLevel, &payload);
    assert_eq!(state.begin(&entry), None);
    state.move_to(Index(id.index.0 - 1), state.revision(), state.keyspace.replicated_clock());
    assert_ne!(state.digest(), before);
    let bytes = bytes_of(&state);
    assert_eq!(bytes[MAGIC.len()..][..4], VERSION.to_le_bytes());
    let copy = read(&bytes, 64).unwrap().0;
    assert_eq!((copy.feature_level(), copy.digest()), (FeatureLevel::V0_2, state.digest()));
    let new = read_for_new_cluster(&bytes).unwrap();
    assert_eq!(new.feature_level(), FeatureLevel::V0_2, "its values may need the level");
    // A level in the older format, or none in the newer one.
    for (mut bytes, version) in [(bytes, VERSION_OLDEST), (oldest, VERSION)] {
        bytes[MAGIC.len()..][..4].copy_from_slice(&version.to_le_bytes());
        assert!(read(&bytes, 64).is_err(), "format {version}");
    }
}

#[test]
fn snapshot_with_log_index_or_revision_out_of_range_is_rejected() {
    let read_header = |(index, revision)| {
        let (last, mut bytes) = (EntryId { term: crate::types::Term(3), index }, Vec::new());
        let (clock, level) = (ReplicatedClock::default(), FeatureLevel::OLDEST);
        let _ = Blocks::header(last, revision, 0, 0, clock, level, &mut |header| {
            bytes.extend_from_slice(header);
        });
        read(&bytes, 64).map(drop)
    };
    let offset = HEADER_BYTES as u64;
    let accepted = read_header((Index::MAX, REVISION_MAX));
    assert_eq!(accepted, Err(SnapshotError::Short { bytes: offset }));
    let what = "log index or revision out of range";
    for refused in [(Index::MAX.next(), 0), (Index(1), REVISION_MAX + 1)] {
        assert_eq!(read_header(refused), Err(SnapshotError::Damaged { offset, what }));
    }
}

/// Reads a snapshot as the state with which a new cluster begins.
fn read_for_new_cluster(bytes: &[u8]) -> Result<StateMachine, SnapshotError> {
    let mut reader = SnapshotReader::for_new_cluster();
    bytes.chunks(1_000).try_for_each(|piece| reader.feed(piece))?;
    Ok(reader.finish()?.0)
}

#[test]
fn state_of_a_new_cluster_has_keys_and_clock_and_higher_revisions() {
    let mut state = busy_state();
    state.apply_batch(&Batch::one(
        RequestKey { client: ClientId(7), request: RequestId([7; 16]) },
        &Operation::Clock { millis: 123_456, resets: 0 },
    ));
    let new = read_for_new_cluster(&bytes_of(&state)).unwrap();
    let contents = |state: &StateMachine| {
        let entries = state.keyspace.entries();
        let mut contents: Vec<_> =
            entries.map(|entry| (entry.key().to_vec(), entry.fingerprint())).collect();
        contents.sort();
        contents
    };
    assert!(!contents(&new).is_empty() && contents(&new) == contents(&state));
    assert_eq!((new.clock(), new.clock_resets()), (123_456, 0));
    for (key, _) in contents(&state) {
        let (before, after) = (state.keyspace.revision_of(&key), new.keyspace.revision_of(&key));
        assert_eq!(after, before + NEW_CLUSTER_GAP);
    }
    assert_eq!(new.revision(), state.revision() + NEW_CLUSTER_GAP);
    assert_eq!(new.applied_index().0, state.applied_index().0 + NEW_CLUSTER_GAP);
    assert!(state.session_count() > 0 && state.remembered().next().is_some());
    assert!(new.session_count() == 0 && new.remembered().next().is_none());
    assert!(new.configuration().is_none() && new.piece_bytes() == 0);
    // The state is written and read like any other.
    let again = read(&bytes_of(&new), 4_096).unwrap().0;
    assert_eq!(again.digest(), new.digest());
}

#[test]
fn new_cluster_has_the_functions_of_its_backup() {
    let mut state = busy_state();
    let text = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let function = LibraryFunction { name: text("f"), description: Some(text("d")), flags: 3 };
    let library = Library { name: text("lib"), code: text("code"), functions: vec![function] };
    let load = CommandId::of("function|load");
    let request = RequestKey { client: ClientId(7), request: RequestId([7; 16]) };
    let encoded = library.encode();
    state.apply_batch(&Batch::one(request, &Operation::call(load, [&b"0"[..], &encoded])));
    let new = read_for_new_cluster(&bytes_of(&state)).unwrap();
    let (before, after) = (&state.keyspace.functions, &new.keyspace.functions);
    assert!(after.libraries().eq(before.libraries()) && after.libraries().eq([&library]));
    assert_eq!(after.revision(), before.revision() + NEW_CLUSTER_GAP);
    let loaded_at = |functions: &Functions| functions.find(b"F").unwrap().0.loaded_at;
    assert_eq!(loaded_at(after), loaded_at(before) + NEW_CLUSTER_GAP);
    assert_eq!(read(&bytes_of(&new), 4_096).unwrap().0.digest(), new.digest());
}

#[test]
fn new_cluster_whose_revisions_would_be_out_of_range_is_refused() {
    let read_header = |(index, revision)| {
        let (last, mut bytes) = (EntryId { term: crate::types::Term(3), index }, Vec::new());
        let (clock, level) = (ReplicatedClock::default(), FeatureLevel::OLDEST);
        let _ = Blocks::header(last, revision, 0, 0, clock, level, &mut |header| {
            bytes.extend_from_slice(header);
        });
        read_for_new_cluster(&bytes).map(drop)
    };
    let offset = HEADER_BYTES as u64;
    let max = (Index(Index::MAX.0 - NEW_CLUSTER_GAP), REVISION_MAX - NEW_CLUSTER_GAP);
    assert_eq!(read_header(max), Err(SnapshotError::Short { bytes: offset }));
    let what = "log index or revision out of range";
    for refused in [(max.0.next(), max.1), (max.0, max.1 + 1)] {
        assert_eq!(read_header(refused), Err(SnapshotError::Damaged { offset, what }));
    }
}

#[test]
fn mark_of_a_snapshot_is_parsed_from_its_own_text_only() {
    let mark = SnapshotMark { last: EntryId::new(3, 17), bytes: 4_000, checksum: 0xAB };
    assert_eq!(mark.to_string(), "17-3-4000-000000ab");
    assert_eq!("17-3-4000-000000ab".parse(), Ok(mark));
    for wrong in [
        "",
        "17-3-4000",
        "17-3-4000-ab",
        "17-3-4000-000000AB",
        "017-3-4000-000000ab",
        "17-3-4000-000000ab-",
        "+17-3-4000-000000ab",
        "99999999999999999999-3-1-000000ab",
    ] {
        assert_eq!(wrong.parse::<SnapshotMark>(), Err(MarkError), "{wrong}");
    }
}

#[test]
fn snapshot_of_many_entries_is_split_into_blocks() {
    let mut state = StateMachine::default();
    for number in 0..5_000_u32 {
        let key = RequestKey { client: ClientId(number), request: RequestId([1; 16]) };
        let name = format!("key:{number}");
        let value = vec![1; 50];
        let operation = Operation::set(name.as_bytes(), &value);
        state.apply_batch(&Batch::one(key, &operation));
    }
    let bytes = bytes_of(&state);
    assert!(bytes.len() > 5 * BLOCK_BYTES);
    assert_eq!(read(&bytes, 1_000).unwrap().0.digest(), state.digest());
}

#[test]
fn snapshot_view_is_immutable_while_the_state_changes() {
    let mut state = StateMachine::default();
    let apply = |state: &mut StateMachine, number: u32, operation: Operation<'_>| {
        let key = RequestKey { client: ClientId(number), request: RequestId([1; 16]) };
        state.apply_batch(&Batch::one(key, &operation));
    };
    let name = |number: u32| format!("key:{number}").into_bytes();
    for number in 0..3_000 {
        let value = number.to_string().into_bytes();
        apply(&mut state, number, Operation::set(&name(number), &value));
    }
    let (before, key_count) = (state.digest(), state.key_count());
    let last = EntryId { term: crate::types::Term(3), index: state.applied_index() };
    let mut writer = SnapshotWriter::new(state.view(last));
    assert_eq!(writer.last(), last);
    let mut bytes = Vec::new();
    let mut parts = 0;
    let mark = loop {
        // The changes are of every kind, and affect entries that are already written as well as
        // others.
        let number = 3_000 + parts;
        let (key, fresh) = (&name(parts * 7 % 3_000), name(number));
        apply(
            &mut state,
            number,
            match parts % 4 {
                0 => Operation::set(key, b"other"),
                1 => Operation::call(CommandId::of("append"), [key, &b"longer"[..]]),
                2 => Operation::del(key),
                _ => Operation::set(&fresh, b"new"),
            },
        );
        parts += 1;
        let mark = writer.write(&mut |piece| bytes.extend_from_slice(piece));
        if let Some(mark) = mark {
            break mark;
        }
    };
    drop(writer);
    let (copy, read_mark) = read(&bytes, 4_096).unwrap();
    assert_eq!((copy.digest(), copy.key_count()), (before, key_count));
    assert_eq!(read_mark, mark);
    for number in 0..3_000 {
        let value = copy.keyspace.string(&name(number)).unwrap().and_then(StringRef::short);
        assert_eq!(value, Some(number.to_string().as_bytes()));
    }
    let mut checking = SnapshotReader::checking();
    bytes.chunks(1_000).for_each(|piece| checking.feed(piece).unwrap());
    assert_eq!(checking.mark(), Ok(mark));
    // The state kept changing while the snapshot was written, and its changes are not lost.
    assert_ne!(state.digest(), before);
    let again = bytes_of_any(&state);
    assert_eq!(read(&again, 4_096).unwrap().0.digest(), state.digest());
    apply(&mut state, 9_999_999, Operation::call(CommandId::of("flushall"), []));
    assert_eq!(state.key_count(), 0);
}

fn bytes_of_any(state: &StateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = EntryId { term: crate::types::Term(3), index: state.applied_index() };
    state.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece));
    bytes
}

#[test]
fn every_bit_flip_and_truncation_of_a_snapshot_is_detected() {
    let bytes = bytes_of(&busy_state());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged, 4_096).is_err(), "bit {bit}");
        let mut checking = SnapshotReader::checking();
        let checked = checking.feed(&damaged).and_then(|()| checking.mark());
        assert!(checked.is_err(), "bit {bit}, checking only");
    }
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length], 4_096).is_err(), "truncated to {length}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(read(&longer, 64), Err(SnapshotError::Damaged { .. })));
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_as_a_snapshot_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        has_valid_prefix in any::<bool>(),
    ) {
        if has_valid_prefix {
            let whole = bytes_of(&busy_state());
            let kept = bytes.len().min(whole.len());
            bytes.splice(0..0, whole[..kept].iter().copied());
        }
        prop_assert!(read(&bytes, 13).is_err());
    }
}

#[test]
fn operations_guide_names_the_snapshot_format_version() {
    let page = include_str!("../../guide/operations.md");
    let wanted = format!("{VERSION} for snapshots and");
    assert!(page.contains(&wanted), "src/guide/operations.md lacks: {wanted}");
}
