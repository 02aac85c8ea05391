//! Fuzzes Redis's RDB format: a value in a payload with any bytes, and a file with any bytes.

use bowline::kv::{Batch, CommandId, Operation, Outcome, StateMachine};
use bowline::rdb::{Item, RdbReader, Record, Sink, Stop, VERSION, finish_payload};
use bowline::types::{ClientId, RequestId, RequestKey};

/// Accepts all items.
struct Accepting;

impl Sink for Accepting {
    fn item(&mut self, _item: Item<'_>) -> Result<(), Stop> {
        Ok(())
    }
}

/// The entry point of the fuzzer: the value of a payload, which the state machine restores. What it
/// accepts, it must be able to dump and to restore again. Then the records of a file.
pub(crate) fn rdb(bytes: &[u8]) {
    let mut payload = bytes.to_vec();
    finish_payload(&mut payload, VERSION);
    let mut state = StateMachine::default();
    if let Some(dumped) = restored(&mut state, 1, &payload) {
        let again = restored(&mut state, 2, &dumped).expect("what was dumped is restored");
        // Members of tables have no order.
        assert_eq!(again.len(), dumped.len());
    }
    read_file(&[b"REDIS0010", bytes].concat());
}

/// Restores a payload with the request of this number, and returns the payload of the same key;
/// `None` if it is refused.
fn restored(state: &mut StateMachine, request: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let (restore, dump) = ([&b"k"[..], b"0", payload, b"REPLACE"], [&b"k"[..]]);
    let restore = Operation::call(CommandId::of("restore"), &restore[..]);
    let dump = Operation::call(CommandId::of("dump"), &dump[..]);
    let key = RequestKey { client: ClientId(1), request: RequestId([request; 16]) };
    let applied = state.apply_batch(&Batch::encode(key, false, &[restore, dump]));
    let [done, dumped] = &applied.outcomes[..] else { panic!("two outcomes") };
    (*done == Outcome::Done).then(|| dumped.value().expect("the key exists").into_owned())
}

fn read_file(file: &[u8]) {
    let Ok(mut reader) = RdbReader::new(file) else { return };
    while let Ok(Some(record)) = reader.next_record() {
        if matches!(record, Record::Key { .. }) && reader.value(1 << 16, &mut Accepting).is_err() {
            return;
        }
    }
}
