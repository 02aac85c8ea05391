//! Streams compared with simple models.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::entries::Fields;
use super::group::Pending;
use super::*;

const GROUP: &[u8] = b"a long name of the consumer group";

/// Makes a part of a stream.
type Build = Box<dyn Fn(&mut Stream)>;

type Model = BTreeMap<StreamId, Vec<u8>>;

fn fields(value: &[u8]) -> Fields {
    Fields::new(&[b"field", value])
}

fn value_of(entry: &entries::StreamEntry) -> Vec<u8> {
    let fields = entry.fields.to_shared();
    assert_eq!((fields.len(), fields[0].as_deref()), (2, Some(&b"field"[..])));
    fields[1].as_ref().unwrap().to_vec()
}

/// Returns the stream that is decoded from the encoding of `stream`. Decoding computes all sums
/// anew, so they must be equal.
fn restored(stream: &Stream) -> Stream {
    let mut bytes = Vec::new();
    stream.encode(&mut bytes);
    let mut rest = &bytes[..];
    let copy = Stream::decode(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(copy.digest(), stream.digest(), "digest of a restored stream");
    assert_eq!(copy.bytes(), stream.bytes(), "memory usage of a restored stream");
    assert_eq!(copy.entries.chunk_count(), stream.entries.chunk_count());
    for length in (0..bytes.len()).step_by(1 + bytes.len() / 10) {
        assert!(Stream::decode(&mut &bytes[..length]).is_none(), "cut to {length} bytes");
    }
    copy
}

fn check(stream: &Stream, model: &Model) {
    let pair = |entry: &entries::StreamEntry| (entry.id, value_of(entry));
    let all = || model.iter().map(|(id, value)| (*id, value.clone()));
    let entries = stream.entries();
    assert_eq!(entries.len(), model.len());
    assert!(entries.range(StreamId::MIN, StreamId::MAX).map(pair).eq(all()));
    assert!(entries.range_rev(StreamId::MIN, StreamId::MAX).map(pair).eq(all().rev()));
    assert_eq!(stream.first_id(), model.keys().next().copied().unwrap_or_default());
    let bounds = model.keys().step_by(1 + model.len() / 7).copied();
    let bounds: Vec<StreamId> = bounds.chain([StreamId::MIN, StreamId::new(40, 3)]).collect();
    for from in &bounds {
        assert_eq!(
            entries.get(*from).map(|entry| entry.id),
            model.get_key_value(from).map(|it| *it.0)
        );
        for to in bounds.iter().filter(|to| *to >= from) {
            let wanted = || model.range(*from..=*to).map(|(id, value)| (*id, value.clone()));
            assert!(entries.range(*from, *to).map(pair).eq(wanted()), "{from} to {to}");
            assert!(entries.range_rev(*from, *to).map(pair).eq(wanted().rev()), "{to} to {from}");
        }
    }
    restored(stream);
}

#[derive(Debug, Clone)]
enum Change {
    /// Adds this number of entries at a time, with values of a length.
    Add(u64, usize, usize),
    Delete(Vec<prop::sample::Index>),
    TrimTo(prop::sample::Index, bool),
    TrimBelow(prop::sample::Index, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0..100_u64, 0..250_usize, 0..120_usize)
            .prop_map(|(at, count, length)| Change::Add(at, count, length)),
        3 => proptest::collection::vec(index(), 0..150).prop_map(Change::Delete),
        1 => (index(), any::<bool>()).prop_map(|(to, approx)| Change::TrimTo(to, approx)),
        1 => (index(), any::<bool>()).prop_map(|(to, approx)| Change::TrimBelow(to, approx)),
    ]
}

fn apply(stream: &mut Stream, model: &mut Model, change: &Change) {
    let id_at = |model: &Model, at: &prop::sample::Index| {
        let at = at.index(model.len().max(1));
        model.keys().nth(at).copied().unwrap_or(StreamId::new(5, 5))
    };
    match change {
        Change::Add(at, count, length) => {
            for turn in 0..*count {
                let value = vec![u8::try_from(turn % 251).unwrap(); *length];
                let last = stream.last_id();
                let id = stream.add(WantedId::At(*at), fields(&value)).unwrap();
                assert!(id > last && id.millis == last.millis.max(*at), "{id} after {last}");
                model.insert(id, value);
            }
        }
        Change::Delete(places) => {
            let ids: Vec<StreamId> = places.iter().map(|place| id_at(model, place)).collect();
            let wanted = ids.iter().filter(|id| model.remove(id).is_some()).count();
            assert_eq!(stream.delete(&ids), wanted);
        }
        Change::TrimTo(to, approximate) => {
            let to = to.index(model.len() + 1);
            let removed = stream.trim(Trim::Length(to as u64), *approximate, 0);
            assert!(removed == model.len() - to || *approximate && removed < model.len() - to);
            (0..removed).for_each(|_| drop(model.pop_first()));
        }
        Change::TrimBelow(to, approximate) => {
            let to = id_at(model, to);
            let wanted = model.range(..to).count();
            let removed = stream.trim(Trim::MinId(to), *approximate, 0);
            assert!(removed == wanted || *approximate && removed < wanted);
            (0..removed).for_each(|_| drop(model.pop_first()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn stream_entries_match_an_ordered_map(changes in proptest::collection::vec(change(), 1..15)) {
        let (mut stream, mut model) = (Stream::default(), Model::new());
        let mut seen = Vec::new();
        for change in &changes {
            apply(&mut stream, &mut model, change);
            check(&stream, &model);
            seen.push((stream.clone(), model.clone()));
        }
        // Clones that were made earlier have not changed.
        for (stream, model) in &seen {
            check(stream, model);
        }
        stream.trim(Trim::Length(0), false, 0);
        prop_assert_eq!(stream.entries.bytes(), 0);
        prop_assert_eq!(stream.entries.digest(), Entries::default().digest());
    }

    #[test]
    fn pending_entries_match_a_map(
        changes in proptest::collection::vec((0..6_u8, 0..3_u8, 0..40_u64, 0..30_u64), 1..80),
    ) {
        let mut stream = Stream::default();
        stream.groups.add(GROUP, Group::new(StreamId::MIN, None));
        let mut model: BTreeMap<StreamId, (u8, u64)> = BTreeMap::new();
        let mut consumers: BTreeMap<u8, u64> = BTreeMap::new();
        for (kind, consumer, start, count) in changes {
            let name = [b'c', consumer];
            let ids = || (start..start + count).map(|number| StreamId::new(number, 0));
            let done = stream.groups.change(GROUP, |group| match kind {
                0..=2 => {
                    let is_new = consumers.insert(consumer, start).is_none();
                    assert_eq!(group.see(&name, start), is_new);
                    for id in ids() {
                        let consumer_name = name[..].into();
                        let (delivered_at, deliveries) = (start, 1);
                        let pending =
                            Pending { consumer: consumer_name, delivered_at, deliveries };
                        group.set_pending(id, pending);
                        model.insert(id, (consumer, start));
                    }
                }
                3 | 4 => ids().for_each(|id| {
                    assert_eq!(group.acknowledge(id), model.remove(&id).is_some());
                }),
                _ => {
                    let count = model.values().filter(|(owner, _)| *owner == consumer).count();
                    let wanted = consumers.remove(&consumer).map(|_| count);
                    assert_eq!(group.remove_consumer(&name), wanted);
                    model.retain(|_, (owner, _)| *owner != consumer);
                }
            });
            prop_assert!(done.is_some());
            let copy = restored(&stream);
            for stream in [&stream, &copy] {
                let (_, group) = stream.groups.iter().next().unwrap();
                let pending = group.pending().iter();
                assert!(pending.map(|(id, it)| (id, it.consumer[1], it.delivered_at)).eq(
                    model.iter().map(|(id, (consumer, at))| (*id, *consumer, *at))
                ));
                assert!(group.consumers().map(|(name, it)| (name[1], it.seen_at)).eq(
                    consumers.iter().map(|(name, at)| (*name, *at))
                ));
                for (name, consumer) in group.consumers() {
                    let wanted = model.iter().filter(|(_, (owner, _))| *owner == name[1]);
                    assert!(consumer.pending.iter().map(|(id, ())| id).eq(wanted.map(|it| *it.0)));
                }
            }
        }
        stream.groups.remove(GROUP);
        prop_assert_eq!(stream.bytes(), Stream::default().bytes());
        prop_assert_eq!(stream.digest(), Stream::default().digest());
    }

    #[test]
    fn decoding_a_damaged_stream_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        let mut stream = Stream::default();
        for number in 1..250 {
            stream.add(WantedId::At(number), fields(&number.to_le_bytes())).unwrap();
        }
        let mut group = Group::new(StreamId::new(3, 0), Some(3));
        group.see(b"c", 1);
        let pending = Pending { consumer: b"c"[..].into(), delivered_at: 7, deliveries: 2 };
        group.set_pending(StreamId::new(2, 0), pending);
        stream.groups.add(b"g", group);
        let mut bytes = Vec::new();
        stream.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(decoded) = Stream::decode(&mut &bytes[..]) {
            restored(&decoded);
        }
    }
}

#[test]
fn stream_digest_depends_on_every_part() {
    let entry = |id, value: &'static [u8]| {
        move |stream: &mut Stream| {
            stream.add(WantedId::Given(PartialId::parse(id).unwrap()), fields(value)).unwrap();
        }
    };
    let group = |last: u64, read, consumer: Option<(u64, u64)>| {
        move |stream: &mut Stream| {
            let mut group = Group::new(StreamId::new(last, 0), read);
            if let Some((seen, delivered_at)) = consumer {
                group.see(b"c", seen);
                let pending =
                    Pending { consumer: b"c"[..].into(), delivered_at, deliveries: delivered_at };
                group.set_pending(StreamId::new(1, 0), pending);
            }
            stream.groups.add(b"g", group);
        }
    };
    let mut digests = std::collections::BTreeSet::new();
    let builds: Vec<Build> = vec![
        Box::new(|_| {}),
        Box::new(entry(b"1-0", b"a")),
        Box::new(entry(b"1-1", b"a")),
        Box::new(entry(b"1-0", b"b")),
        Box::new(|stream| stream.set_last_id(StreamId::new(1, 0), None, None)),
        Box::new(|stream| stream.set_last_id(StreamId::MIN, Some(1), None)),
        Box::new(|stream| stream.set_last_id(StreamId::MIN, None, Some(StreamId::new(1, 0)))),
        Box::new(group(0, None, None)),
        Box::new(group(0, Some(0), None)),
        Box::new(group(1, None, None)),
        Box::new(group(1, None, Some((1, 1)))),
        Box::new(group(1, None, Some((2, 1)))),
        Box::new(group(1, None, Some((1, 2)))),
    ];
    for build in &builds {
        let mut stream = Stream::default();
        build(&mut stream);
        assert!(digests.insert(stream.digest()), "{stream:?}");
    }
    assert_eq!(digests.len(), builds.len());
}

#[test]
fn stream_write_copies_only_the_chunk_it_changes() {
    let mut stream = Stream::default();
    for number in 0..10_000 {
        stream.add(WantedId::At(number), fields(b"value")).unwrap();
    }
    let (view, before) = (stream.clone(), stream.entries.chunk_count());
    stream.add(WantedId::At(0), fields(b"value")).unwrap();
    stream.delete(&[StreamId::new(5_000, 0)]);
    stream.trim(Trim::Length(9_999), false, 0);
    assert_eq!(stream.entries.shared_chunks(&view.entries), before - 2);
    assert_eq!((view.entries.len(), stream.entries.len()), (10_000, 9_999));
}

#[test]
fn automatic_ids_never_repeat_or_fall() {
    let mut stream = Stream::default();
    let mut add = |wanted| stream.add(wanted, fields(b"v")).map(|id| id.to_string());
    let given = |text: &str| WantedId::Given(PartialId::parse(text.as_bytes()).unwrap());
    assert_eq!(add(WantedId::At(0)), Ok("0-1".to_owned()), "without a clock");
    assert_eq!(add(WantedId::At(7)), Ok("7-0".to_owned()));
    assert_eq!(add(WantedId::At(7)), Ok("7-1".to_owned()));
    assert_eq!(add(WantedId::At(3)), Ok("7-2".to_owned()), "the clock was set back");
    assert_eq!(add(given("7-*")), Ok("7-3".to_owned()));
    assert_eq!(add(given("7-3")), Err(IdTooLow));
    assert_eq!(add(given("6-*")), Err(IdTooLow));
    assert_eq!(add(given("8-18446744073709551615")).unwrap(), "8-18446744073709551615");
    assert_eq!(add(given("8-*")), Err(IdTooLow));
    assert_eq!(add(WantedId::At(2)), Ok("9-0".to_owned()));
    assert_eq!(
        add(WantedId::Given(PartialId::parse(b"18446744073709551615-*").unwrap())).unwrap(),
        "18446744073709551615-0"
    );
    assert_eq!(
        add(given("18446744073709551615-18446744073709551615")).unwrap(),
        "18446744073709551615-18446744073709551615"
    );
    assert_eq!(add(WantedId::At(5)), Err(IdTooLow));
}
