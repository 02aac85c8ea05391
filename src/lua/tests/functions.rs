//! Tests of libraries of functions. Replies and errors are compared with those of a real Redis by
//! `tests/redis/functions.rs`.

use super::*;

fn library(id: u64, source: &str) -> Library<'_> {
    Library { name: "lib", id, source: source.as_bytes() }
}

fn call_with(
    interpreter: &mut Interpreter,
    library: &Library<'_>,
    function: &str,
    limits: &Limits,
) -> Result<Value, ScriptError> {
    let mut commands = Echo { stop: limits.stop.clone(), ..Echo::default() };
    let (keys, argv) = ([b"key".to_vec()], [b"arg".to_vec()]);
    interpreter.call((library, function), &keys, &argv, &mut commands, limits)
}

fn call(
    interpreter: &mut Interpreter,
    library: &Library<'_>,
    function: &str,
) -> Result<Value, ScriptError> {
    call_with(interpreter, library, function, &Limits::default())
}

fn register(source: &str) -> Result<Vec<Registered>, ScriptError> {
    let limits = Limits { instructions: 1_000_000, ..Limits::default() };
    Interpreter::new().register(source.as_bytes(), &mut Echo::default(), &limits)
}

const COUNTER: &str = "#!lua name=lib\nlocal count = 0\n\
    redis.register_function('count', function() count = count + 1 return count end)\n\
    redis.register_function('peek', function() return count end)";

#[test]
fn local_variables_of_a_library_stay_until_it_is_loaded_anew() {
    let mut interpreter = Interpreter::new();
    let first = library(1, COUNTER);
    for wanted in 1..4 {
        assert_eq!(call(&mut interpreter, &first, "count"), Ok(Value::Integer(wanted)));
    }
    assert_eq!(call(&mut interpreter, &first, "peek"), Ok(Value::Integer(3)));
    assert_eq!(reply(&mut interpreter, b"return 7", 0), b":7\r\n", "a script between");
    assert_eq!(call(&mut interpreter, &first, "peek"), Ok(Value::Integer(3)));
    let second = library(2, COUNTER);
    assert_eq!(call(&mut interpreter, &second, "count"), Ok(Value::Integer(1)));
    let other = COUNTER.replace("count + 1", "count + 5");
    assert_eq!(call(&mut interpreter, &library(2, &other), "count"), Ok(Value::Integer(5)));
}

#[test]
fn functions_and_scripts_have_separate_globals() {
    let mut interpreter = Interpreter::new();
    reply(&mut interpreter, b"return KEYS[1]", 1);
    let source = "#!lua name=lib\nredis.register_function('f', function(keys, args) \
        local ok, text = pcall(function() return KEYS[1] end) \
        local also, more = pcall(loadstring('return ARGV')) \
        return {keys[1], args[1], text, more, redis.call('PING'), type(cjson.encode)} end)";
    let value = call(&mut interpreter, &library(1, source), "f").unwrap();
    let Value::Array(items) = value else { panic!("{value:?}") };
    let shown = format!("{items:?}");
    assert_eq!(items[0], Value::Bulk(b"key".to_vec()), "{shown}");
    for (at, name) in [(2, "KEYS"), (3, "ARGV")] {
        let Value::Bulk(text) = &items[at] else { panic!("{shown}") };
        assert!(String::from_utf8_lossy(text).ends_with(&format!("variable '{name}'")), "{shown}");
    }
    let script = "return {#KEYS, redis.breakpoint ~= nil, redis.register_function == nil}";
    assert_eq!(reply(&mut interpreter, script.as_bytes(), 1), b"*3\r\n:1\r\n:1\r\n:1\r\n");
}

#[test]
fn code_of_a_library_can_only_register_functions_and_is_bounded() {
    let registered = register(COUNTER).unwrap();
    assert_eq!(registered.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["count", "peek"]);
    for (code, wanted) in [
        ("redis.call('set', 'k', 'v')", "nonexistent global variable 'call'"),
        ("redis.register_function('f', 1)", "must be a function"),
        ("redis.register_function{function_name={}, callback=redis.log}", "must be a string"),
        (
            "redis.register_function('f', redis.log) redis.register_function('F', redis.log)",
            "already exists in the library",
        ),
        ("while true do end", "FUNCTION LOAD timeout"),
        (
            "local n = 0 while true do n = n + 1 redis.register_function('f' .. n, redis.log) end",
            "FUNCTION LOAD timeout",
        ),
        ("local t = '' while true do t = t .. t .. 'x' end", "not enough memory"),
        ("x = 1", "readonly table"),
        ("return 1", "No functions registered"),
    ] {
        let error = register(&format!("#!lua name=lib\n{code}")).unwrap_err().to_string();
        assert!(error.starts_with("ERR ") && error.contains(wanted), "{code}: {error}");
    }
    let long = "#!lua name=lib\nlocal d = ('x'):rep(1000000) for i = 1, 1000 do \
        redis.register_function{function_name='f' .. i, callback=redis.log, description=d} end";
    assert!(register(long).unwrap_err().to_string().contains("not enough memory"));
}

#[test]
fn limits_end_a_function_and_the_next_call_has_a_fresh_library() {
    let source = "#!lua name=lib\nlocal count = 0\n\
        redis.register_function('count', function() count = count + 1 return count end)\n\
        redis.register_function('endless', function() while true do end end)\n\
        redis.register_function('stopped', function() redis.call('STOP') while true do end end)\n\
        redis.register_function('fails', function() error('x') end)";
    let (mut interpreter, lib) = (Interpreter::new(), library(1, source));
    let limits = Limits { instructions: 100_000, ..Limits::default() };
    for (function, wanted) in
        [("endless", ScriptError::Instructions), ("stopped", ScriptError::Stopped)]
    {
        assert_eq!(call(&mut interpreter, &lib, "count"), Ok(Value::Integer(1)));
        assert_eq!(call_with(&mut interpreter, &lib, function, &limits), Err(wanted));
    }
    assert_eq!(call(&mut interpreter, &lib, "count"), Ok(Value::Integer(1)));
    let error = call(&mut interpreter, &lib, "fails").unwrap_err().to_string();
    assert_eq!(error, "ERR user_function:6: x script: fails, on @user_function:6.");
    assert_eq!(call(&mut interpreter, &lib, "count"), Ok(Value::Integer(2)), "it is kept");
    assert!(interpreter.memory() > 10_000);
}
