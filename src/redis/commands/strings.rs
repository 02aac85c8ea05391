//! Commands on strings.

use crate::kv::{CommandId, Condition, ItemsBuffer, Operation, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::passthrough as calls;
use crate::redis::commands::passthrough::verb;
use crate::redis::session::reply_format::Kind;
use crate::redis::spec::{ALL_KEYS, command};
use crate::redis::spec::{CommandSpec, ONE_KEY, PAIRS, READ_FAST, TWO_KEYS, WRITE_FAST};

const WRITE: &[&str] = &["write", "denyoom"];

const READ: &[&str] = &["readonly"];

const SET: CommandId = CommandId::of("set");
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// `GET key`
pub(in crate::redis) fn get(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Get { key: call.argument(1) }, Kind::Plain)
}

/// `SET key value [NX | XX] [GET]`, and more options; the plain ones have a short form.
pub(in crate::redis) fn set(call: &mut Call<'_>) -> Action {
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
pub(in crate::redis) fn setnx(call: &mut Call<'_>) -> Action {
    let (key, value) = (call.argument(1), call.argument(2));
    let condition = Condition::IfAbsent;
    call.submit(Operation::Set { key, value, condition, tell_old: false }, Kind::Flag)
}

/// `GETSET key value`
pub(in crate::redis) fn getset(call: &mut Call<'_>) -> Action {
    let (key, value) = (call.argument(1), call.argument(2));
    let condition = Condition::Always;
    call.submit(Operation::Set { key, value, condition, tell_old: true }, Kind::Plain)
}

/// `GETDEL key`
pub(in crate::redis) fn getdel(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Take { key: call.argument(1) }, Kind::Plain)
}

/// `MGET key [key ...]`
pub(in crate::redis) fn mget(call: &mut Call<'_>) -> Action {
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::GetMany { keys: keys.items() }, Kind::Plain)
}

/// `MSET key value [key value ...]`
pub(in crate::redis) fn mset(call: &mut Call<'_>) -> Action {
    let items = call.request.rest(1);
    if !items.len().is_multiple_of(2) {
        return call.error(&"ERR wrong number of arguments for 'mset' command");
    }
    let pairs: ItemsBuffer = items.collect();
    call.submit(Operation::PutMany { pairs: pairs.items() }, Kind::Plain)
}

/// `APPEND key value`
pub(in crate::redis) fn append(call: &mut Call<'_>) -> Action {
    let (key, value) = (call.argument(1), call.argument(2));
    call.submit(Operation::Append { key, value }, Kind::Plain)
}

/// `STRLEN key`
pub(in crate::redis) fn strlen(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Length { key: call.argument(1) }, Kind::Plain)
}

/// `INCR key`
pub(in crate::redis) fn incr(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Add { key: call.argument(1), amount: 1 }, Kind::Plain)
}

/// `DECR key`
pub(in crate::redis) fn decr(call: &mut Call<'_>) -> Action {
    call.submit(Operation::Add { key: call.argument(1), amount: -1 }, Kind::Plain)
}

/// `INCRBY key increment`
pub(in crate::redis) fn incrby(call: &mut Call<'_>) -> Action {
    let Some(amount) = parse_integer(call.argument(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    call.submit(Operation::Add { key: call.argument(1), amount }, Kind::Plain)
}

/// `DECRBY key decrement`
pub(in crate::redis) fn decrby(call: &mut Call<'_>) -> Action {
    let Some(amount) = parse_integer(call.argument(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    let Some(amount) = amount.checked_neg() else {
        return call.error(&"ERR decrement would overflow");
    };
    call.submit(Operation::Add { key: call.argument(1), amount }, Kind::Plain)
}

const fn of_strings(name: &'static str, arity: i8, since: &'static str) -> CommandSpec {
    verb(name, arity).keys_at(ONE_KEY).categories(&["string"]).since(since, "string")
}

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("append", 3, append)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("2.0.0", "string")
        .costs("O(1)")
        .about("Makes a value longer at its end."),
    command("decr", 2, decr)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Takes one off a number."),
    command("decrby", 3, decrby)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Takes something off a number."),
    of_strings("delex", -2, "8.4.0")
        .flags(&["write", "fast"])
        .costs("O(N), N being the value's length")
        .about("Removes a key if its value is, or is not, a certain one."),
    command("get", 2, get)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Tells a key's value."),
    command("getdel", 2, getdel)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["string"])
        .since("6.2.0", "string")
        .costs("O(1)")
        .about("Removes a key and tells its value."),
    of_strings("getex", -2, "6.2.0")
        .flags(&["write", "fast"])
        .costs("O(1)")
        .about("Tells a value and moves its key's end."),
    of_strings("getrange", 4, "2.4.0").flags(READ).costs("O(1)").about("Tells a part of a value."),
    command("getset", 3, getset)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Sets a key and tells its old value."),
    command("incr", 2, incr)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Adds one to a number."),
    command("incrby", 3, incrby)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Adds something to a number."),
    of_strings("incrbyfloat", 3, "2.6.0")
        .flags(WRITE_FAST)
        .costs("O(1)")
        .about("Adds to a number with a fraction."),
    of_strings("lcs", -3, "7.0.0")
        .keys_at(TWO_KEYS)
        .flags(READ)
        .costs("O(N*M), N and M being the values' lengths")
        .about("Finds the longest bytes that two values have in common, in order."),
    command("mget", -2, mget)
        .keys_at(ALL_KEYS)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(N), N being the number of keys")
        .about("Tells the values of several keys."),
    command("mset", -3, mset)
        .keys_at(PAIRS)
        .flags(&["write", "denyoom"])
        .categories(&["string"])
        .since("1.0.1", "string")
        .costs("O(N), N being the number of keys")
        .about("Sets several keys at once."),
    of_strings("msetnx", -3, "1.0.1")
        .keys_at(PAIRS)
        .flags(WRITE)
        .costs("O(N), N being the number of keys")
        .about("Sets several keys if none of them exists."),
    of_strings("psetex", 4, "2.6.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets a key that ends in so many milliseconds."),
    command("set", -3, set)
        .keys_at(ONE_KEY)
        .flags(&["write", "denyoom"])
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Sets a key."),
    of_strings("setex", 4, "2.0.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets a key that ends in so many seconds."),
    command("setnx", 3, setnx)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Sets a key that does not exist."),
    of_strings("setrange", 4, "2.2.0")
        .flags(WRITE)
        .costs("O(N), N being the value's length")
        .about("Overwrites a part of a value."),
    command("strlen", 2, strlen)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("2.2.0", "string")
        .costs("O(1)")
        .about("Tells how long a value is."),
    of_strings("substr", 4, "1.0.0").flags(READ).costs("O(1)").about("GETRANGE by its old name."),
];
