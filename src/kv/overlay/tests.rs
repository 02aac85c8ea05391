//! Tests of the overlay: scripts are imitated by lists of calls.

use super::*;
use crate::kv::batch::BatchBuffer;
use crate::kv::keyspace::functions::Library;
use crate::kv::state_machine::KeptScripts;
use crate::kv::state_machine::tests::Feeder;
use crate::kv::values::collection::CollectionType;
use crate::kv::values::element::Element;
use crate::kv::values::hash::Hash;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::SortedSet;
use crate::types::RequestKey;

/// Runs `text`, a command with its arguments, on the overlay.
fn call(overlay: &mut Overlay, state: &StateMachine, text: &str) -> Result<Outcome, OverlayError> {
    call_in(0, overlay, state, text)
}

/// Runs `text` like [`call`] in the database with this number.
fn call_in(
    database: u8,
    overlay: &mut Overlay,
    state: &StateMachine,
    text: &str,
) -> Result<Outcome, OverlayError> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let args: Vec<&[u8]> =
        rest.split(' ').filter(|arg| !arg.is_empty()).map(str::as_bytes).collect();
    let command = CommandId::named(name).unwrap();
    let database = DatabaseId::new(database).unwrap();
    overlay.prepare(state, command, args[..].into(), database);
    overlay.call(state, command, args[..].into(), (database, true))
}

/// Runs a script of these commands, and returns its effects.
fn script(overlay: &mut Overlay, state: &StateMachine, commands: &[&str]) -> ScriptEffects {
    overlay.begin_script(7);
    for text in commands {
        call(overlay, state, text).unwrap();
    }
    overlay.finish_script(b"")
}

/// Applies the effects of several scripts as one batch, and returns whether each was applied.
fn apply(feeder: &mut Feeder, effects: &[ScriptEffects]) -> Vec<bool> {
    let mut buffer = BatchBuffer::default();
    for effects in effects {
        let ScriptEffects::Apply(operation) = effects else { panic!("{effects:?}") };
        buffer.push(operation);
    }
    let batch = buffer.finish(RequestKey::default(), false);
    let outcomes = feeder.store.apply_batch(&batch).outcomes;
    outcomes.into_iter().map(|outcome| outcome == Outcome::Done).collect()
}

/// Returns whether a check of a script without effects holds.
fn holds(feeder: &Feeder, effects: &ScriptEffects) -> bool {
    let ScriptEffects::Check(operation) = effects else { panic!("{effects:?}") };
    let mut buffer = BatchBuffer::default();
    buffer.push(operation);
    let batch = buffer.finish(RequestKey::default(), false);
    feeder.store.read(&batch).unwrap().1 == [Outcome::List(vec![])]
}

fn integer(feeder: &mut Feeder, key: &str) -> Option<String> {
    feeder.get(key.as_bytes()).map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn script_sees_its_own_writes_and_the_state_does_not_change() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["a", "1"]);
    let digest = feeder.store.digest();
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    assert_eq!(call(&mut overlay, &feeder.store, "incrby a 4"), Ok(Outcome::Integer(5)));
    assert_eq!(call(&mut overlay, &feeder.store, "exists a b"), Ok(Outcome::Integer(1)));
    assert_eq!(call(&mut overlay, &feeder.store, "del a"), Ok(Outcome::Integer(1)));
    assert_eq!(call(&mut overlay, &feeder.store, "exists a"), Ok(Outcome::Integer(0)));
    call(&mut overlay, &feeder.store, "rpush a x").unwrap();
    assert_eq!(feeder.store.digest(), digest);
    let effects = overlay.finish_script(b"");
    assert_eq!(apply(&mut feeder, std::slice::from_ref(&effects)), [true]);
    assert_eq!(feeder.call("llen", &["a"]), Outcome::Integer(1));
    assert_eq!(apply(&mut feeder, &[effects]), [false], "only once");
}

#[test]
fn changed_key_prevents_the_effects_and_another_key_does_not() {
    for (key, wanted) in [("read", false), ("written", false), ("other", true), ("absent", false)] {
        let mut feeder = Feeder::new();
        feeder.call("mset", &["read", "1", "written", "1", "other", "1"]);
        let mut overlay = Overlay::default();
        overlay.begin(&feeder.store);
        let commands = ["get read", "incrby written 1", "get absent"];
        let effects = script(&mut overlay, &feeder.store, &commands);
        feeder.call("set", &[key, "5"]);
        assert_eq!(apply(&mut feeder, &[effects]), [wanted], "{key}");
        let count = if wanted || key != "written" { if wanted { "2" } else { "1" } } else { "5" };
        assert_eq!(integer(&mut feeder, "written").as_deref(), Some(count), "{key}");
    }
}

#[test]
fn scripts_of_a_group_build_on_each_other() {
    let mut feeder = Feeder::new();
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let effects: Vec<_> =
        (0..5).map(|_| script(&mut overlay, &feeder.store, &["incrby n 1"])).collect();
    assert_eq!(apply(&mut feeder, &effects), [true; 5]);
    assert_eq!(integer(&mut feeder, "n").as_deref(), Some("5"));
}

#[test]
fn script_falls_with_the_earlier_one_whose_effects_it_has_seen() {
    let mut feeder = Feeder::new();
    feeder.call("mset", &["a", "1", "b", "1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let effects = [
        script(&mut overlay, &feeder.store, &["incrby a 1"]),
        script(&mut overlay, &feeder.store, &["incrby b 1"]),
        script(&mut overlay, &feeder.store, &["get a", "set c 1"]),
        script(&mut overlay, &feeder.store, &["get b", "set d 1"]),
        script(&mut overlay, &feeder.store, &["get c"]),
        script(&mut overlay, &feeder.store, &["get d", "get b"]),
    ];
    feeder.call("set", &["a", "7"]);
    assert_eq!(apply(&mut feeder, &effects), [false, true, false, true, false, true]);
    assert_eq!(
        (integer(&mut feeder, "c"), integer(&mut feeder, "d").as_deref()),
        (None, Some("1"))
    );
}

#[test]
fn condition_on_a_removed_key_is_that_it_does_not_exist() {
    for (changed, wanted) in [(false, [true, true]), (true, [false, false])] {
        let mut feeder = Feeder::new();
        feeder.call("set", &["a", "1"]);
        let mut overlay = Overlay::default();
        overlay.begin(&feeder.store);
        let effects = [
            script(&mut overlay, &feeder.store, &["del a"]),
            script(&mut overlay, &feeder.store, &["set a 2 nx"]),
        ];
        if changed {
            feeder.call("set", &["a", "3"]);
        }
        assert_eq!(apply(&mut feeder, &effects), wanted);
        assert_eq!(integer(&mut feeder, "a").as_deref(), Some(if changed { "3" } else { "2" }));
    }
}

#[test]
fn script_without_changes_is_checked_by_a_read() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["a", "1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    assert_eq!(script(&mut overlay, &feeder.store, &[]), ScriptEffects::None);
    let commands = ["get a", "set a 2 nx", "del nothing", "lpush a x"];
    let check = script(&mut overlay, &feeder.store, &commands);
    assert!(holds(&feeder, &check));
    feeder.call("set", &["b", "1"]);
    assert!(holds(&feeder, &check));
    feeder.call("set", &["a", "1"]);
    assert!(!holds(&feeder, &check));
}

#[test]
fn random_choices_are_the_same_when_the_effects_are_applied() {
    let mut feeder = Feeder::new();
    let members: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let mut args = vec!["s"];
    args.extend(members.iter().map(String::as_str));
    feeder.call("sadd", &args);
    let mut overlay = Overlay::default();
    for seed in 0..20 {
        overlay.begin(&feeder.store);
        overlay.begin_script(seed);
        call(&mut overlay, &feeder.store, "srandmember s").unwrap();
        let popped = call(&mut overlay, &feeder.store, "spop s").unwrap();
        let Outcome::Value(Some(popped)) = popped else { panic!("{popped:?}") };
        let effects = overlay.finish_script(b"");
        assert_eq!(apply(&mut feeder, &[effects]), [true]);
        let popped = str::from_utf8(&popped).unwrap();
        assert_eq!(feeder.call("sismember", &["s", popped]), Outcome::Integer(0));
    }
}

#[test]
fn commands_on_all_keys_need_an_unchanged_keyspace() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["a", "1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let effects = script(&mut overlay, &feeder.store, &["dbsize", "set b 1"]);
    overlay.begin_script(1);
    let refused = call(&mut overlay, &feeder.store, "keys *");
    assert_eq!(refused, Err(OverlayError::NotFirst));
    assert!(overlay.abandon_script());
    assert_eq!(apply(&mut feeder, std::slice::from_ref(&effects)), [true]);
    assert_eq!(apply(&mut feeder, &[effects]), [false]);
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    call(&mut overlay, &feeder.store, "set a 2").unwrap();
    assert_eq!(call(&mut overlay, &feeder.store, "dbsize"), Err(OverlayError::AfterWrites));
    assert!(!overlay.abandon_script(), "it has written");
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let effects = script(&mut overlay, &feeder.store, &["flushall", "set c 1", "get a"]);
    let later = script(&mut overlay, &feeder.store, &["get a", "incrby c 1"]);
    feeder.call("set", &["a", "3"]);
    assert_eq!(apply(&mut feeder, &[effects, later]), [true, true]);
    assert_eq!(feeder.call("dbsize", &[]), Outcome::Integer(1));
    assert_eq!(integer(&mut feeder, "c").as_deref(), Some("2"));
}

#[test]
fn scripts_are_part_of_the_digest_and_of_snapshots() {
    let sha = "0123456789012345678901234567890123456789";
    let mut feeder = Feeder::new();
    let before = feeder.store.digest();
    feeder.call("script|load", &[sha, "return 1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    let other = [&b"f"[..], &sha.as_bytes()[1..], b"return 2"].concat();
    let effects = overlay.finish_script(&other);
    assert_eq!(apply(&mut feeder, &[effects]), [true], "without keys");
    let restored = feeder.restored();
    assert_eq!(restored.store.digest(), feeder.store.digest());
    assert_ne!(before, feeder.store.digest());
    assert_eq!(restored.store.script(sha.as_bytes()).unwrap(), "return 1");
    assert_eq!(restored.store.script(&other[..40]).unwrap(), "return 2");
    feeder.call("flushall", &[]);
    assert_eq!(feeder.store.kept_scripts().script_count, 2, "scripts are no keys");
    feeder.call("script|flush", &[]);
    assert_eq!(feeder.store.kept_scripts(), KeptScripts::default());
}

#[test]
fn copy_for_scripts_does_not_change_with_the_state() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["a", "1"]);
    let copy = feeder.store.copy_for_scripts();
    feeder.call("set", &["a", "2"]);
    let mut overlay = Overlay::default();
    overlay.begin(&copy);
    overlay.begin_script(1);
    let value = call(&mut overlay, &copy, "get a").unwrap();
    assert_eq!(value, Outcome::Value(Some(Bytes::from_static(b"1"))));
    call(&mut overlay, &copy, "set b 1").unwrap();
    let effects = overlay.finish_script(b"");
    assert_eq!(apply(&mut feeder, &[effects]), [false], "a has changed since");
    feeder.store.keyspace.check_sums();
}

#[test]
fn effects_are_applied_at_the_time_of_the_run() {
    let mut feeder = Feeder::new();
    feeder.apply(Operation::Clock { millis: 1_000, resets: 0 });
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let commands = ["xadd s * f v", "set a 1 PXAT 1005", "incrby a 1", "get a"];
    let effects = script(&mut overlay, &feeder.store, &commands);
    feeder.apply(Operation::Clock { millis: 1_010, resets: 0 });
    assert_eq!(apply(&mut feeder, &[effects]), [true]);
    let found = format!("{:?}", feeder.read("xrange", &[b"s", b"-", b"+"]));
    assert!(found.contains("1000-0") && !found.contains("1010"), "{found}");
    assert_eq!(integer(&mut feeder, "a"), None, "its time is over by now");
    assert_eq!(feeder.store.clock(), 1_010);
}

#[test]
fn scripts_do_not_see_revisions_that_are_not_known_yet() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["a", "1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    let mut call = |text| call(&mut overlay, &feeder.store, text);
    assert_eq!(call("object|revision a"), Ok(Outcome::Integer(1)));
    assert_eq!(call("set a REVISION"), Ok(Outcome::Done), "a value");
    assert_eq!(call("object|revision a"), Err(OverlayError::NoRevision));
    assert_eq!(call("set b 1 NX Revision"), Err(OverlayError::NoRevision));
    assert_eq!(call("exists b"), Ok(Outcome::Integer(0)));
}

#[test]
fn scripts_run_at_the_present_time_although_the_clock_of_the_state_is_behind() {
    for (now, applies) in [(9_500, true), (8_900, false)] {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Clock { millis: 1_000, resets: 0 });
        let mut overlay = Overlay::default();
        overlay.begin(&feeder.store);
        overlay.advance_clock((10_000, 0));
        let effects = script(&mut overlay, &feeder.store, &["set a 1 EX 3"]);
        feeder.apply(Operation::Clock { millis: now, resets: 0 });
        assert_eq!(apply(&mut feeder, &[effects]), [applies], "{now}");
        assert_eq!(feeder.store.clock(), now);
        feeder.apply(Operation::Clock { millis: 12_999, resets: 0 });
        assert_eq!(integer(&mut feeder, "a").is_some(), applies);
        feeder.apply(Operation::Clock { millis: 13_000, resets: 0 });
        assert_eq!(integer(&mut feeder, "a"), None);
    }
}

#[test]
fn script_uses_several_databases() {
    let mut feeder = Feeder::new();
    let set = |database: u8, value: &'static [u8]| {
        Operation::set(b"k", value).in_database(DatabaseId::new(database).unwrap())
    };
    for (database, value) in [(0, &b"10"[..]), (1, b"20"), (2, b"30")] {
        feeder.apply(set(database, value));
    }
    let mut overlay = Overlay::default();
    let run = |overlay: &mut Overlay, feeder: &Feeder| {
        overlay.begin(&feeder.store);
        overlay.begin_script(1);
        let mut call =
            |database, text: &str| call_in(database, overlay, &feeder.store, text).unwrap();
        assert_eq!(call(0, "dbsize"), Outcome::Integer(1));
        assert_eq!(call(1, "incrby k 1"), Outcome::Integer(21));
        assert_eq!(call(0, "incrby k 1"), Outcome::Integer(11));
        assert_eq!(call(0, "move k 5"), Outcome::Integer(1));
        assert_eq!(call(1, "copydb k l DB 5"), Outcome::Integer(1));
        assert_eq!(call(2, "flushdb"), Outcome::Done);
        assert_eq!(call(2, "exists k"), Outcome::Integer(0));
        assert_eq!(call(1, "exists k"), Outcome::Integer(1));
        let refused = call_in(0, overlay, &feeder.store, "swapdb 0 1");
        assert_eq!(refused, Err(OverlayError::NotAllowed));
        overlay.finish_script(b"")
    };
    // Another change, whatever its database, before the effects of a script that has read all keys.
    let effects = run(&mut overlay, &feeder);
    feeder.apply(set(9, b"v"));
    assert_eq!(apply(&mut feeder, &[effects]), [false]);
    let effects = run(&mut overlay, &feeder);
    assert_eq!(apply(&mut feeder, &[effects]), [true]);
    let sizes = feeder.store.database_sizes();
    let counts: Vec<_> = sizes.iter().map(|size| (size.id.number(), size.key_count)).collect();
    assert_eq!(counts, [(1, 1), (5, 2), (9, 1)]);
    feeder.store.check_sums();
}

#[test]
fn effects_are_not_applied_if_the_target_database_has_changed() {
    let five = DatabaseId::new(5).unwrap();
    for (text, target) in [("move k 5", &b"k"[..]), ("copydb k l DB 5", b"l")] {
        let mut feeder = Feeder::new();
        feeder.call("set", &["k", "v"]);
        let mut overlay = Overlay::default();
        overlay.begin(&feeder.store);
        let effects = script(&mut overlay, &feeder.store, &[text]);
        feeder.apply(Operation::set(target, b"v").in_database(five));
        assert_eq!(apply(&mut feeder, &[effects]), [false], "{text}");
    }
}

#[test]
fn swap_of_databases_counts_as_a_change_of_the_keys_of_a_script() {
    let mut feeder = Feeder::new();
    feeder.call("set", &["k", "1"]);
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    let effects = script(&mut overlay, &feeder.store, &["incrby k 1"]);
    feeder.call("swapdb", &["0", "1"]);
    feeder.call("swapdb", &["0", "1"]);
    assert_eq!(apply(&mut feeder, &[effects]), [false]);
    overlay.begin(&feeder.store);
    let effects = script(&mut overlay, &feeder.store, &["incrby k 1"]);
    assert_eq!(apply(&mut feeder, &[effects]), [true], "the new revisions are known");
}

#[test]
fn kept_and_missing_scripts_are_conditions_of_a_run() {
    let mut feeder = Feeder::new();
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let run = |overlay: &mut Overlay, feeder: &Feeder, is_kept, commands: &[&str]| {
        overlay.begin_script(7);
        overlay.use_script(sha.as_bytes(), is_kept);
        for text in commands {
            call(overlay, &feeder.store, text).unwrap();
        }
        overlay.finish_script(b"")
    };
    let mut overlay = Overlay::default();
    for is_kept in [false, true] {
        let change = |feeder: &mut Feeder, to_kept| {
            let args: &[&str] = if to_kept { &[sha, "return 1"] } else { &[] };
            feeder.call(if to_kept { "script|load" } else { "script|flush" }, args);
        };
        change(&mut feeder, is_kept);
        overlay.begin(&feeder.store);
        let reads = run(&mut overlay, &feeder, is_kept, &[]);
        let writes = run(&mut overlay, &feeder, is_kept, &["incrby k 1"]);
        assert!(holds(&feeder, &reads));
        change(&mut feeder, !is_kept);
        assert!(!holds(&feeder, &reads));
        assert_eq!(apply(&mut feeder, std::slice::from_ref(&writes)), [false]);
        change(&mut feeder, is_kept);
        assert_eq!(apply(&mut feeder, &[writes]), [true]);
    }
    // Scripts that the run itself has added are not kept before.
    for adds_by_command in [false, true] {
        overlay.begin(&feeder.store);
        overlay.begin_script(8);
        if adds_by_command {
            call(&mut overlay, &feeder.store, &format!("script|load {sha} source")).unwrap();
        } else {
            overlay.add_script(sha, b"source");
        }
        assert_eq!(overlay.script(&feeder.store, sha.as_bytes()).unwrap(), "source");
        overlay.use_script(sha.as_bytes(), true);
        let effects = overlay.finish_script(format!("{sha}source").as_bytes());
        feeder.call("script|flush", &[]);
        assert_eq!(apply(&mut feeder, &[effects]), [true]);
    }
}

/// Returns the encoding of a library with one function.
fn library(name: &str, function: &str, code: &str) -> Vec<u8> {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let function = LibraryFunction { name: text(function), description: None, flags: 0 };
    Library { name: text(name), code: text(code), functions: vec![function] }.encode()
}

fn load(feeder: &mut Feeder, library: &[u8]) -> Outcome {
    feeder.apply(Operation::call(CommandId::of("function|load"), [&b"1"[..], library]))
}

#[test]
fn effects_and_checks_of_a_function_hold_only_while_the_libraries_are_unchanged() {
    for (changes, wanted) in [(false, true), (true, false)] {
        let mut feeder = Feeder::new();
        load(&mut feeder, &library("a", "f", "1"));
        let mut overlay = Overlay::default();
        overlay.begin(&feeder.store);
        let effects = [["incrby n 1"].as_slice(), &["get n"], &[]].map(|commands| {
            overlay.begin_script(1);
            assert_eq!(overlay.function(b"F").unwrap().0.library.code, "1");
            assert!(overlay.function(b"g").is_none());
            for command in commands {
                call(&mut overlay, &feeder.store, command).unwrap();
            }
            overlay.finish_script(b"")
        });
        if changes {
            load(&mut feeder, &library("b", "h", "2"));
        }
        assert_eq!(holds(&feeder, &effects[2]), wanted);
        assert_eq!(apply(&mut feeder, &effects[..2]), [wanted; 2]);
    }
}

#[test]
fn function_that_a_script_loads_is_seen_by_later_ones_of_the_group() {
    let mut feeder = Feeder::new();
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    let (command, encoded) = (CommandId::of("function|load"), library("a", "f", "1"));
    let args = [&b"1"[..], &encoded];
    overlay.prepare(&feeder.store, command, args[..].into(), DatabaseId::FIRST);
    overlay.call(&feeder.store, command, args[..].into(), (DatabaseId::FIRST, true)).unwrap();
    let first = overlay.finish_script(b"");
    overlay.begin_script(2);
    assert!(overlay.function(b"f").is_some());
    call(&mut overlay, &feeder.store, "set k 1").unwrap();
    let second = overlay.finish_script(b"");
    assert!(feeder.store.kept_scripts() == KeptScripts::default(), "the state does not change");
    let (mut other, both) = (Feeder::new(), [first.clone(), second.clone()]);
    assert_eq!(apply(&mut feeder, &both), [true, true]);
    assert_eq!(feeder.store.kept_scripts().function_count, 1);
    load(&mut other, &library("b", "h", "2"));
    assert_eq!(apply(&mut other, &both), [false, false], "the second has seen the first");
}

#[test]
fn libraries_are_part_of_the_digest_of_snapshots_and_of_new_clusters() {
    let mut feeder = Feeder::new();
    let before = feeder.store.digest();
    load(&mut feeder, &library("a", "f", "code"));
    assert_ne!(before, feeder.store.digest());
    let exists = load(&mut feeder, &library("b", "F", "other"));
    assert_eq!(exists, Outcome::error("ERR Function F already exists"));
    let restored = feeder.restored();
    assert_eq!(restored.store.digest(), feeder.store.digest());
    assert_eq!(restored.store.kept_scripts(), feeder.store.kept_scripts());
    feeder.call("flushall", &[]);
    assert_eq!(feeder.store.kept_scripts().library_count, 1, "functions are no keys");
    feeder.store.keyspace.check_sums();
    let dump = feeder.read("function|dump", &[]);
    assert_eq!(dump, Outcome::Values(vec![Some(Bytes::from_static(b"code"))]));
    let damaged = &library("c", "g", "x")[..5];
    assert!(matches!(load(&mut feeder, damaged), Outcome::Refused(_)));
    feeder.call("function|delete", &["a"]);
    assert_eq!(feeder.store.kept_scripts(), KeptScripts::default());
}

#[test]
fn write_to_a_large_value_copies_few_of_its_elements() {
    let mut feeder = Feeder::new();
    let name = |number: u32| Element::from(format!("member {number}").as_bytes());
    let keyspace = &mut feeder.store.keyspace;
    keyspace.begin_command();
    let scored = |number| Scored { score: f64::from(number % 1_000), member: name(number) };
    let sorted = SortedSet::from_members((0..1_000_000).map(scored));
    keyspace.put_collection(b"z", SortedSet::wrap(Arc::new(sorted)));
    let (mut set, mut hash) = (Set::default(), Hash::default());
    for number in 0..100_000 {
        set.insert(name(number));
        hash.set(&name(number), b"value");
    }
    keyspace.put_collection(b"s", Set::wrap(Arc::new(set)));
    keyspace.put_collection(b"h", Hash::wrap(Arc::new(hash)));
    let mut overlay = Overlay::default();
    overlay.begin(&feeder.store);
    overlay.begin_script(1);
    for text in ["zadd z 5 new", "sadd s new", "srem s nothing", "hset h new value"] {
        let (name, rest) = text.split_once(' ').unwrap();
        let (command, args) = (CommandId::named(name).unwrap(), rest.split(' '));
        let args: Vec<&[u8]> = args.map(str::as_bytes).collect();
        let steps = overlay.prepare(&feeder.store, command, args[..].into(), DatabaseId::FIRST);
        assert!(steps < 100, "{text}: {steps}");
        overlay.call(&feeder.store, command, args[..].into(), (DatabaseId::FIRST, true)).unwrap();
    }
    let (ours, theirs) = (&overlay.scratch, &feeder.store.keyspace);
    let sorted = |keyspace: &Keyspace| keyspace.collection::<SortedSet>(b"z").unwrap().cloned();
    let copied = sorted(ours).unwrap().unshared(&sorted(theirs).unwrap());
    assert!((1..4_000).contains(&copied), "{copied} of a sorted set of 1,000,000");
    let set = |keyspace: &Keyspace| keyspace.collection::<Set>(b"s").unwrap().cloned();
    let copied = set(ours).unwrap().unshared(&set(theirs).unwrap());
    assert!((1..4_000).contains(&copied), "{copied} of a set of 100,000");
    let hash = |keyspace: &Keyspace| keyspace.collection::<Hash>(b"h").unwrap().cloned();
    let copied = hash(ours).unwrap().unshared(&hash(theirs).unwrap());
    assert!((1..4_000).contains(&copied), "{copied} of a hash of 100,000");
    let effects = overlay.finish_script(b"");
    overlay.clear();
    assert_eq!(apply(&mut feeder, &[effects]), [true]);
    assert_eq!(feeder.call("zcard", &["z"]), Outcome::Integer(1_000_001));
    assert_eq!(feeder.call("scard", &["s"]), Outcome::Integer(100_001));
}
