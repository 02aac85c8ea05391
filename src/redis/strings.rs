//! Commands on keys and their values: what they ask of the store. Nothing is looked up here; what
//! can be refused by looking at the request alone is refused here, in Redis's words.

use crate::kv::{Condition, ItemsBuffer, Operation, Verb, parse_integer};

use super::calls;
use super::dispatch::{Call, Step};
use super::shape::Kind;

const SET: Verb = Verb::of("set");
const SYNTAX_ERROR: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// `GET key`
pub(super) fn get(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Get { key: call.argument(1) }, Kind::Plain)
}

/// `SET key value [NX | XX] [GET]`, and more options; the plain ones have a short form.
pub(super) fn set(call: &mut Call<'_>) -> Step {
    let (key, value) = (call.argument(1), call.argument(2));
    let (mut condition, mut tell_old) = (Condition::Always, false);
    for option in call.request.rest(3) {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        if is("NX") && condition != Condition::IfPresent {
            condition = Condition::IfAbsent;
        } else if is("XX") && condition != Condition::IfAbsent {
            condition = Condition::IfPresent;
        } else if is("GET") {
            tell_old = true;
        } else {
            // Whatever else there is, is up to the store.
            return calls::submit(call, SET);
        }
    }
    let operation = if condition == Condition::Always && !tell_old {
        Operation::Put { key, value }
    } else {
        Operation::Set { key, value, condition, tell_old }
    };
    call.submit(operation, Kind::Plain)
}

/// `SETNX key value`
pub(super) fn setnx(call: &mut Call<'_>) -> Step {
    let (key, value) = (call.argument(1), call.argument(2));
    let condition = Condition::IfAbsent;
    call.submit(Operation::Set { key, value, condition, tell_old: false }, Kind::Flag)
}

/// `GETSET key value`
pub(super) fn getset(call: &mut Call<'_>) -> Step {
    let (key, value) = (call.argument(1), call.argument(2));
    let condition = Condition::Always;
    call.submit(Operation::Set { key, value, condition, tell_old: true }, Kind::Plain)
}

/// `GETDEL key`
pub(super) fn getdel(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Take { key: call.argument(1) }, Kind::Plain)
}

/// `MGET key [key ...]`
pub(super) fn mget(call: &mut Call<'_>) -> Step {
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::GetMany { keys: keys.items() }, Kind::Plain)
}

/// `MSET key value [key value ...]`
pub(super) fn mset(call: &mut Call<'_>) -> Step {
    let items = call.request.rest(1);
    if !items.len().is_multiple_of(2) {
        return call.error(&"ERR wrong number of arguments for 'mset' command");
    }
    let pairs: ItemsBuffer = items.collect();
    call.submit(Operation::PutMany { pairs: pairs.items() }, Kind::Plain)
}

/// `APPEND key value`
pub(super) fn append(call: &mut Call<'_>) -> Step {
    let (key, value) = (call.argument(1), call.argument(2));
    call.submit(Operation::Append { key, value }, Kind::Plain)
}

/// `STRLEN key`
pub(super) fn strlen(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Length { key: call.argument(1) }, Kind::Plain)
}

/// `INCR key`
pub(super) fn incr(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Add { key: call.argument(1), amount: 1 }, Kind::Plain)
}

/// `DECR key`
pub(super) fn decr(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Add { key: call.argument(1), amount: -1 }, Kind::Plain)
}

/// `INCRBY key increment`
pub(super) fn incrby(call: &mut Call<'_>) -> Step {
    let Some(amount) = parse_integer(call.argument(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    call.submit(Operation::Add { key: call.argument(1), amount }, Kind::Plain)
}

/// `DECRBY key decrement`
pub(super) fn decrby(call: &mut Call<'_>) -> Step {
    let Some(amount) = parse_integer(call.argument(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    let Some(amount) = amount.checked_neg() else {
        return call.error(&"ERR decrement would overflow");
    };
    call.submit(Operation::Add { key: call.argument(1), amount }, Kind::Plain)
}

/// `DEL key [key ...]` and `UNLINK`, which is the same here: memory is freed by the apply stage,
/// away from sockets and heartbeats.
pub(super) fn del(call: &mut Call<'_>) -> Step {
    if call.request.len() == 2 {
        return call.submit(Operation::Delete { key: call.argument(1) }, Kind::Plain);
    }
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::DeleteMany { keys: keys.items() }, Kind::Plain)
}

/// `EXISTS key [key ...]`
pub(super) fn exists(call: &mut Call<'_>) -> Step {
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::Exists { keys: keys.items() }, Kind::Plain)
}

/// `DBSIZE`
pub(super) fn dbsize(call: &mut Call<'_>) -> Step {
    call.submit(Operation::Count, Kind::Plain)
}

/// `FLUSHALL [ASYNC | SYNC]` and `FLUSHDB`: there is one database. Both words mean the same here.
pub(super) fn flush(call: &mut Call<'_>) -> Step {
    if !only_how_to_flush(call, 1) {
        return call.error(&SYNTAX_ERROR);
    }
    call.submit(Operation::Clear, Kind::Plain)
}

/// `FUNCTION FLUSH [ASYNC | SYNC]`: there are no functions to remove, and tools want to hear so.
pub(super) fn flush_functions(call: &mut Call<'_>) -> Step {
    if call.request.len() > 3 {
        return call.error(
            &"ERR unknown subcommand or wrong number of arguments for 'FLUSH'. Try FUNCTION HELP.",
        );
    }
    if !only_how_to_flush(call, 2) {
        return call.error(&"ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
    }
    call.ok()
}

/// Whether what is at `first` and behind is at most one of the two words.
fn only_how_to_flush(call: &Call<'_>, first: usize) -> bool {
    let mut words = call.request.rest(first);
    let known = |word: &[u8]| {
        ["ASYNC", "SYNC"].iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    words.len() <= 1 && words.all(known)
}
