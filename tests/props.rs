//! Properties of the pure layers, over inputs drawn by proptest: encodings round-trip, no bytes
//! make a decoder panic, and the store agrees with a naive model.

#[path = "props/corpus.rs"]
mod corpus;
#[path = "fuzz/entries.rs"]
mod entries;
#[path = "props/protocol.rs"]
mod protocol;
#[path = "props/strings.rs"]
mod strings;

use std::collections::BTreeMap;
use std::ops::Range;

use bowline::config::Config;
use bowline::feature_level::FeatureLevel;
use bowline::kv::{Applied, Batch, BatchBuffer, CommandId, Operation, Outcome, StateMachine};
use bowline::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, Envelope, LogTail, PeerMsg, REPLICAS_MAX,
    Rejoin, RejoinReply, RequestKind, RequestVote, TimeoutNow, VoteReply, quorum,
    reached_by_quorum,
};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey, Round, Term};
use bowline::wire::protocol::V10;
use bowline::wire::{course, peer};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const ME: NodeId = NodeId(1);

/// Generates rules of users, one per line, most of them valid.
fn user_rules() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "on|off|nopass|resetpass|reset|clearselectors|(skip-)?sanitize-payload",
        "allkeys|resetkeys|allchannels|resetchannels|allcommands|nocommands",
        "[+-](@all|@read|@write|get|set|config|config\\|get|config\\|set)",
        "(~|%R~|%W~|%rw~|&)(\\*|a|b|a:\\*|\\[x\\]|\\()?",
        "[#!](00|11){32}",
        "\\((~a|%R~b|&c|\\+get|-@all|~\\*)?( (%W~b|resetkeys|\\+@all|-get))?\\)",
    ];
    vec(word, 0..20).prop_map(|words| words.join("\n"))
}

/// Returns consecutive entries after `prev`. Each element of `shape` describes an entry: the
/// increment of the term, whether it is a command or a no-op, and its payload.
fn entries_after(prev: EntryId, shape: &[(u64, bool, Vec<u8>)]) -> Vec<Entry> {
    let mut buffer = RecordBuffer::default();
    let mut id = prev;
    let mut entries = Vec::new();
    for (step, command, payload) in shape {
        id = EntryId { term: Term((id.term.0 + step).max(1)), index: id.index.next() };
        let kind = if *command { EntryKind::Command } else { EntryKind::NoOp };
        entries.push(buffer.encode(id, kind, payload));
    }
    entries
}

/// Generates the id of a log entry, including [`EntryId::ZERO`].
fn place() -> impl Strategy<Value = EntryId> {
    prop_oneof![
        1 => Just(EntryId::ZERO),
        4 => (1_u64..1 << 40, 1_u64..1 << 40).prop_map(|(term, index)| EntryId::new(term, index)),
    ]
}

/// Generates the argument `shape` of [`entries_after`].
fn shape(count: Range<usize>) -> impl Strategy<Value = Vec<(u64, bool, Vec<u8>)>> {
    vec((0_u64..3, any::<bool>(), vec(any::<u8>(), 0..90)), count)
}

fn append_entries() -> impl Strategy<Value = PeerMsg> {
    (place(), shape(0..6), 0_u64..4, any::<u32>(), any::<u32>(), 0_u16..=1_000).prop_map(
        |(prev, shape, step, round, commit_index, loss_permille)| {
            let entries = entries_after(prev, &shape);
            let newest = entries.last().map_or(prev.term, Entry::term);
            PeerMsg::AppendEntries(AppendEntries {
                term: Term((newest.0 + step).max(1)),
                round: Round(u64::from(round)),
                prev,
                commit_index: Index(u64::from(commit_index)),
                loss_permille,
                transfer_to: None,
                entries,
            })
        },
    )
}

fn append_reply() -> impl Strategy<Value = PeerMsg> {
    let outcome = prop_oneof![
        any::<u32>().prop_map(|index| AppendOutcome::Match { index: Index(u64::from(index)) }),
        (any::<u32>(), place()).prop_map(|(refused, hint)| AppendOutcome::Reject {
            refused: Index(u64::from(refused)),
            hint
        }),
    ];
    let disk =
        prop_oneof![Just(DiskState::Healthy), Just(DiskState::Low), Just(DiskState::Stalled),];
    let parts = (1_u64 << 40..1 << 41, any::<u32>(), disk, outcome);
    parts.prop_map(|(term, round, disk, outcome)| {
        let (term, round) = (Term(term), Round(round.into()));
        PeerMsg::AppendReply(AppendReply {
            term,
            round,
            level: FeatureLevel::OLDEST,
            disk,
            outcome,
        })
    })
}

fn vote() -> impl Strategy<Value = PeerMsg> {
    prop_oneof![
        (place(), 1_u64..9, any::<bool>(), any::<bool>()).prop_map(
            |(last, step, pre, transfer)| {
                let term = Term(last.term.0 + step);
                PeerMsg::RequestVote(RequestVote { term, pre, transfer, last })
            }
        ),
        place().prop_map(|last| {
            PeerMsg::TimeoutNow(TimeoutNow { term: Term(last.term.0 + 1), last })
        }),
        (1_u64..1 << 40, any::<bool>(), any::<bool>()).prop_map(|(term, pre, granted)| {
            PeerMsg::VoteReply(VoteReply { term: Term(term), pre, granted })
        }),
    ]
}

fn rejoin() -> impl Strategy<Value = PeerMsg> {
    prop_oneof![
        (any::<u64>(), place(), 0_u64..9).prop_map(|(nonce, last, step)| {
            let term = Term(last.term.0 + step);
            PeerMsg::Rejoin(Rejoin { nonce, term, last })
        }),
        (any::<u64>(), place(), 0_u64..9, any::<bool>()).prop_map(|(nonce, last, step, leads)| {
            let leads = leads && last.term > Term(0);
            let term = Term(last.term.0 + if leads { 0 } else { step });
            let members_changed = step % 2 == 1;
            PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, last, members_changed })
        }),
    ]
}

/// Generates any message that a replica may send.
fn message() -> impl Strategy<Value = PeerMsg> {
    prop_oneof![3 => append_entries(), 1 => append_reply(), 1 => vote(), 1 => rejoin()]
}

fn peer_bytes(message: &PeerMsg) -> Bytes {
    let mut out = BytesMut::new();
    peer::encode(message, V10, &mut out);
    out.freeze()
}

/// An operation on a few keys, so that operations affect each other. Owns its data, unlike
/// [`Operation`].
#[derive(Debug, Clone)]
enum Wish {
    Get(u8),
    Put(u8, Vec<u8>),
    Delete(u8),
    Transfer(u8, u8, String),
}

const KEYS: [&[u8]; 5] = [b"a", b"b", b"c", b"", b"a key longer than eight bytes"];

impl Wish {
    /// Returns the operation. `args` is a buffer for the arguments of a transfer.
    fn operation<'a>(&'a self, args: &'a mut [&'a [u8]; 3]) -> Operation<'a> {
        let key = |number: &u8| KEYS[usize::from(*number)];
        match self {
            Wish::Get(at) => Operation::get(key(at)),
            Wish::Put(at, value) => Operation::set(key(at), value),
            Wish::Delete(at) => Operation::del(key(at)),
            Wish::Transfer(from, to, amount) => {
                *args = [key(from), key(to), amount.as_bytes()];
                Operation::call(CommandId::of("transfer"), &args[..])
            }
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let key = || 0_u8..5;
    let number = (0_u64..20).prop_map(|number| number.to_string().into_bytes());
    let transfer = (key(), key(), 0_u64..12)
        .prop_map(|(from, to, amount)| Wish::Transfer(from, to, amount.to_string()));
    prop_oneof![
        1 => key().prop_map(Wish::Get),
        2 => (key(), number).prop_map(|(at, value)| Wish::Put(at, value)),
        1 => (key(), vec(any::<u8>(), 0..20)).prop_map(|(at, value)| Wish::Put(at, value)),
        1 => key().prop_map(Wish::Delete),
        2 => transfer,
    ]
}

fn request_key(client: u32, request: u8) -> RequestKey {
    RequestKey { client: ClientId(client), request: RequestId([request; 16]) }
}

/// Generates any text. Characters that JSON must escape are more frequent than in random text.
fn text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        3 => any::<char>(),
        1 => (0_u8..0x80).prop_map(char::from),
        1 => prop_oneof![Just('"'), Just('\\'), Just('\n'), Just('\u{7f}'), Just('\u{2028}')],
    ];
    vec(character, 0..20).prop_map(String::from_iter)
}

/// Returns a request key in the form that the university course's simulator uses, for the message
/// id `mid`.
fn course_key(mid: &str) -> RequestKey {
    let request = RequestId(mid.as_bytes().try_into().expect("16 characters"));
    RequestKey { client: ClientId(0xFF), request }
}

/// A naive model of the store.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    outcomes: BTreeMap<RequestKey, Vec<Outcome>>,
}

impl Model {
    fn apply(&mut self, key: RequestKey, batch: &[Wish], may_repeat: bool) -> Applied {
        if may_repeat && let Some(outcomes) = self.outcomes.get(&key) {
            return Applied { key, outcomes: outcomes.clone(), repeated: true };
        }
        let run = |wish: &Wish| self.run(wish.operation(&mut [&[][..]; 3]));
        let outcomes: Vec<Outcome> = batch.iter().map(run).collect();
        if may_repeat {
            self.outcomes.insert(key, outcomes.clone());
        }
        Applied { key, outcomes, repeated: false }
    }

    fn run(&mut self, operation: Operation<'_>) -> Outcome {
        let (name, args) = operation.as_call().expect("every wish is a call");
        match (name, &args[..]) {
            ("get", [key]) => Outcome::Value(self.pairs.get(*key).cloned().map(Bytes::from)),
            ("set", [key, value]) => {
                self.pairs.insert(key.to_vec(), value.to_vec());
                Outcome::Done
            }
            ("del", [key]) => Outcome::Integer(self.pairs.remove(*key).is_some().into()),
            ("transfer", [from, to, amount]) => {
                let amount = str::from_utf8(amount).expect("digits").parse().expect("a number");
                Outcome::Integer(self.transfer(from, to, amount).is_some().into())
            }
            other => unreachable!("no wish is {other:?}"),
        }
    }

    fn transfer(&mut self, from: &[u8], to: &[u8], amount: u64) -> Option<()> {
        let balance = |key: &[u8]| -> Option<u64> {
            String::from_utf8(self.pairs.get(key)?.clone()).ok()?.parse().ok()
        };
        let (pays, gets) = (balance(from)?, balance(to)?);
        let left = pays.checked_sub(amount)?;
        let sum = if from == to { pays } else { gets.checked_add(amount)? };
        self.pairs.insert(from.to_vec(), left.to_string().into_bytes());
        self.pairs.insert(to.to_vec(), sum.to_string().into_bytes());
        Some(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    /// The rules that `ACL LIST` shows make an equal user.
    #[test]
    fn shown_rules_of_a_user_make_an_equal_user(rules in user_rules()) {
        entries::run("user_rules", rules.as_bytes());
    }

    #[test]
    fn log_entry_records_round_trip(prev in place(), shape in shape(1..5)) {
        let entries = entries_after(prev, &shape);
        let records: Vec<u8> = entries.iter().flat_map(|entry| entry.record().to_vec()).collect();
        let mut bytes = Bytes::from(records);
        for entry in &entries {
            prop_assert_eq!(&Entry::decode(&mut bytes).unwrap(), entry);
        }
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn peer_messages_round_trip_through_their_encoding(message in message()) {
        let bytes = peer_bytes(&message);
        prop_assert_eq!(bytes.len(), peer::encoded_len(&message, V10));
        prop_assert_eq!(peer::decode(bytes), Ok(message));
    }

    #[test]
    fn peer_messages_round_trip_as_json(
        message in message(),
        from: u16,
        leader: Option<u16>,
    ) {
        prop_assume!(from != ME.0 && from != course::BROADCAST.0);
        let leader = leader.map(NodeId).filter(|leader| *leader != course::BROADCAST);
        let envelope = Envelope { from: NodeId(from), to: ME, leader, message };
        let mut out = Vec::new();
        course::encode_peer(&envelope, &mut out);
        // The simulator decodes it too.
        let seen: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(&seen["src"], &json!(format!("{from:04X}")));
        let named = leader.unwrap_or(course::BROADCAST);
        prop_assert_eq!(&seen["leader"], &json!(format!("{:04X}", named.0)));
        prop_assert_eq!(out.last(), Some(&b'}'));
        prop_assert_eq!(course::decode(&out, ME), Ok(course::Incoming::Peer(envelope)));
    }

    #[test]
    fn json_client_requests_with_arbitrary_strings_are_decoded(
        key in text(),
        value in text(),
        mid in "[ -~]{16}",
        write: bool,
    ) {
        let mut message = json!({"src": "00FF", "dst": "0001", "leader": "FFFF", "key": key});
        message["MID"] = json!(mid);
        message["type"] = json!(if write { "put" } else { "get" });
        if write {
            message["value"] = json!(value);
        }
        let id = course_key(&mid);
        let operation = if write {
            Operation::set(key.as_bytes(), value.as_bytes())
        } else {
            Operation::get(key.as_bytes())
        };
        match course::decode(message.to_string().as_bytes(), ME).unwrap() {
            course::Incoming::Request { client, request } => {
                prop_assert_eq!((client, request.key), (id.client, id));
                prop_assert_eq!(request.kind == RequestKind::Write, write);
                prop_assert_eq!(request.payload, Batch::one(id, &operation));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn json_ok_replies_contain_request_id_leader_and_value(
        value in prop::option::of(text()),
        mid in "[ -~]{16}",
        leader: Option<u16>,
    ) {
        let key = course_key(&mid);
        let mut out = Vec::new();
        let bytes = value.as_ref().map(String::as_bytes);
        course::encode_ok(ME, key, leader.map(NodeId), bytes, &mut out).unwrap();
        let mut expected = json!({"src": "0001", "dst": "00FF", "type": "ok", "MID": mid});
        expected["leader"] = json!(format!("{:04X}", leader.unwrap_or(0xFFFF)));
        if let Some(value) = value {
            expected["value"] = json!(value);
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn decoders_never_panic_on_arbitrary_bytes(bytes in vec(any::<u8>(), 0..200)) {
        for (target, _) in entries::TARGETS {
            entries::run(target, &bytes);
        }
    }

    #[test]
    fn decoders_never_panic_on_damaged_messages(
        message in message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let damaged = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for (place, byte) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            bytes
        };
        entries::run("peer", &damaged(&peer_bytes(&message)));
        if let PeerMsg::AppendEntries(append) = &message {
            for entry in &append.entries {
                entries::run("record", &damaged(entry.record()));
            }
        }
        let envelope = Envelope { from: NodeId(7), to: ME, leader: None, message };
        let mut out = Vec::new();
        course::encode_peer(&envelope, &mut out);
        entries::run("course", &damaged(&out));
    }

    #[test]
    fn command_batches_round_trip_through_their_encoding(
        wishes in vec(wish(), 0..6),
        client: u32,
        request: [u8; 16],
        may_repeat: bool,
    ) {
        let key = RequestKey { client: ClientId(client), request: RequestId(request) };
        let bytes = encode(key, &wishes, may_repeat);
        let batch = Batch::decode(&bytes).unwrap();
        prop_assert_eq!((batch.key, batch.may_repeat), (key, may_repeat));
        prop_assert_eq!(batch.len(), wishes.len());
        for (operation, wish) in batch.operations().zip(&wishes) {
            let mut args = [&[][..]; 3];
            prop_assert_eq!(operation, Some(wish.operation(&mut args)));
        }
    }

    /// Uses few clients and few request ids, so that retries are common, including retries with
    /// other operations.
    #[test]
    fn state_machine_matches_a_reference_model(
        batches in vec((0_u32..3, 0_u8..12, vec(wish(), 1..5), any::<bool>()), 0..40),
    ) {
        let (mut store, mut model) = (StateMachine::default(), Model::default());
        for (client, request, batch, may_repeat) in &batches {
            let key = request_key(*client, *request);
            let payload = encode(key, batch, *may_repeat);
            let applied = store.apply_batch(&payload);
            prop_assert_eq!(applied, model.apply(key, batch, *may_repeat));
        }
        for key in KEYS {
            let id = request_key(9, 0);
            let payload = Batch::one(id, &Operation::get(key));
            let value = model.pairs.get(key).cloned().map(Bytes::from);
            prop_assert_eq!(store.read(&payload), Ok((id, vec![Outcome::Value(value)])));
        }
        prop_assert_eq!(store.key_count(), model.pairs.len());
        prop_assert_eq!(store.digest(), digest_of(&model, store.applied_index()));
    }
}

/// Encodes a batch of these operations.
fn encode(key: RequestKey, wishes: &[Wish], may_repeat: bool) -> Bytes {
    let mut buffer = BatchBuffer::default();
    for wish in wishes {
        buffer.push(&wish.operation(&mut [&[][..]; 3]).encode());
    }
    buffer.finish(key, may_repeat)
}

/// Returns the digest of a store that has reached the model's entries in the fewest steps.
fn digest_of(model: &Model, applied_index: Index) -> u64 {
    let mut store = StateMachine::default();
    let sets: Vec<Operation<'_>> =
        model.pairs.iter().map(|(key, value)| Operation::set(key, value)).collect();
    if !sets.is_empty() {
        store.apply_batch(&Batch::encode(request_key(0, 0), false, &sets));
    }
    while store.applied_index() < applied_index {
        store.skip(store.applied_index().next());
    }
    store.digest()
}

/// A naive model of a log: the term of each entry, and how many entries are durable.
#[derive(Debug, Default)]
struct LogModel {
    terms: Vec<u64>,
    durable: usize,
}

impl LogModel {
    /// Applies rules 3 and 4 for receivers of `AppendEntries` (§5.3) literally. Returns whether the
    /// log has changed.
    fn splice(&mut self, prev: usize, sent: &[u64]) -> bool {
        let mut changed = false;
        for (place, term) in (prev..).zip(sent) {
            if self.terms.get(place).is_some_and(|there| there != term) {
                self.terms.truncate(place);
                self.durable = self.durable.min(place);
            }
            if place == self.terms.len() {
                self.terms.push(*term);
                changed = true;
            }
        }
        changed
    }

    fn mark_durable(&mut self, term: u64, index: usize) {
        if index > 0 && self.terms.get(index - 1) == Some(&term) {
            self.durable = self.durable.max(index);
        }
    }
}

/// An input to a follower's log.
#[derive(Debug, Clone)]
enum Change {
    /// An append. The first field selects how far before the end of the log the append starts; the
    /// second has the increments of the entries' terms.
    Splice(prop::sample::Index, Vec<u64>),
    /// The completion of a sync. The field selects where the log ended when the sync started.
    Durable(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (any::<prop::sample::Index>(), vec(0_u64..2, 0..5))
            .prop_map(|(prev, steps)| Change::Splice(prev, steps)),
        2 => any::<prop::sample::Index>().prop_map(Change::Durable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// Compares the result for any values on any number of replicas with one found by counting.
    #[test]
    fn index_reached_by_a_quorum_agrees_with_counting_replicas(
        values in vec(0_u64..6, 1..=REPLICAS_MAX),
    ) {
        let config = Config::server();
        let counted = |level: u64| values.iter().filter(|value| **value >= level).count();
        let naive = (0..6).rev().find(|level| 2 * counted(*level) > values.len());
        prop_assert_eq!(Some(reached_by_quorum(&mut values.clone(), &config)), naive);
        // Any two quorums share a replica. A smaller size would not ensure this.
        let needed = quorum(values.len(), &config);
        prop_assert!(2 * needed > values.len() && 2 * (needed - 1) <= values.len());
    }

    /// The inputs are appends and completions of syncs. A completion may arrive after its entries
    /// were replaced.
    #[test]
    fn in_memory_raft_log_matches_a_vector_of_terms(changes in vec(change(), 0..40)) {
        let config = Config::server();
        let (mut log, mut model) = (LogTail::default(), LogModel::default());
        let mut syncs: Vec<EntryId> = Vec::new();
        for change in changes {
            match change {
                Change::Splice(back, steps) => {
                    let prev = back.index(model.terms.len() + 1);
                    let floor = prev.checked_sub(1).map_or(1, |place| model.terms[place]);
                    let sent: Vec<u64> = steps
                        .iter()
                        .scan(floor, |term, step| {
                            *term += step;
                            Some(*term)
                        })
                        .collect();
                    let after = EntryId::new(if prev == 0 { 0 } else { floor }, prev as u64);
                    let mut shape = Vec::new();
                    let mut before = after.term.0;
                    for term in &sent {
                        shape.push((term - before, true, Vec::new()));
                        before = *term;
                    }
                    let entries = entries_after(after, &shape);
                    let done = log.splice(&entries, Index::ZERO, &config);
                    prop_assert_eq!(done.changed_from.is_some(), model.splice(prev, &sent));
                    syncs.push(log.last());
                }
                Change::Durable(which) if !syncs.is_empty() => {
                    let done = syncs.remove(which.index(syncs.len()));
                    model.mark_durable(done.term.0, usize::try_from(done.index.0).unwrap());
                    log.mark_durable(done, &Config::server());
                }
                Change::Durable(_) => {}
            }
            let terms: Vec<u64> = log.tail(Index(1)).iter().map(|entry| entry.term().0).collect();
            prop_assert_eq!(&terms, &model.terms);
            prop_assert_eq!(log.durable_index(), Index(model.durable as u64));
        }
    }
}
