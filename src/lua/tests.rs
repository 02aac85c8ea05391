//! Tests of whole scripts.

mod functions;
mod hostile;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Commands, Deadline, Interpreter, Library, Limits, LogLevel, Registered, Script, ScriptError,
    StopFlag, Value, read_value, sha1_hex,
};

/// Answers every command with its arguments; `FAIL` with an error.
#[derive(Default)]
struct Echo {
    log: Vec<(LogLevel, Vec<u8>)>,
    stop: StopFlag,
}

impl Commands for Echo {
    fn call(&mut self, args: &[Vec<u8>], _resp3: bool) -> Value {
        match &args[0][..] {
            b"FAIL" => Value::error("failed"),
            b"STOP" => {
                self.stop.set();
                Value::Null
            }
            b"PING" => Value::Status(b"PONG".to_vec()),
            b"ECHO" if args.len() == 2 => Value::Bulk(args[1].clone()),
            b"NOSUCH" => Value::error("Unknown Redis command called from script"),
            _ => Value::Array(args.iter().cloned().map(Value::Bulk).collect()),
        }
    }

    fn check_acl(&mut self, args: &[Vec<u8>]) -> Option<bool> {
        (args[0] != b"NOSUCH").then(|| args[0] != b"FORBIDDEN")
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        self.log.push((level, text.to_vec()));
    }
}

fn run_with(
    interpreter: &mut Interpreter,
    source: &str,
    limits: &Limits,
) -> Result<Value, ScriptError> {
    let sha = sha1_hex(source.as_bytes());
    let script = Script { sha: &sha, source: source.as_bytes() };
    let mut commands = Echo { stop: limits.stop.clone(), ..Echo::default() };
    interpreter.run(&script, &[b"key".to_vec()], &[b"arg".to_vec()], &mut commands, limits)
}

/// Returns the reply to a script, in RESP2.
fn run(source: &str) -> String {
    let mut interpreter = Interpreter::new();
    String::from_utf8_lossy(&reply(&mut interpreter, source.as_bytes(), 1)).into_owned()
}

fn reply(interpreter: &mut Interpreter, source: &[u8], argument_count: usize) -> Vec<u8> {
    let sha = sha1_hex(source);
    let script = Script { sha: &sha, source };
    let keys = vec![b"key".to_vec(); argument_count];
    let argv = vec![b"arg".to_vec(); argument_count];
    let limits = Limits::default();
    let result = interpreter.run(&script, &keys, &argv, &mut Echo::default(), &limits);
    let value = result.unwrap_or_else(|error| error.reply());
    let mut bytes = Vec::new();
    value.write(false, &mut bytes);
    bytes
}

/// Returns the bytes of a text in which some are escaped: `\n`, `\r`, `\\`, `\xff`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().expect("an escape") {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b'x' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = str::from_utf8(&digits).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
            }
            other => bytes.push(other),
        }
    }
    bytes
}

/// The scripts and replies in `recorded.txt` come from `EVAL script 0` on redis-server 7.0.15.
#[test]
fn replies_are_those_of_redis_server() {
    let mut interpreter = Interpreter::new();
    let lines: Vec<&str> = include_str!("tests/recorded.txt").lines().collect();
    let mut different = String::new();
    for pair in lines.chunks(2) {
        let (script, expected) = (&pair[0][2..], unescape(&pair[1][2..]));
        let reply = reply(&mut interpreter, &unescape(script), 0);
        if reply != expected {
            let (reply, expected) = (reply.escape_ascii(), expected.escape_ascii());
            let _ = writeln!(different, "{script}\n  Redis: {expected}\n  here:  {reply}");
        }
    }
    assert!(lines.len() > 1600, "{} lines", lines.len());
    assert!(different.is_empty(), "{different}");
}

#[test]
fn commands_are_called_with_their_arguments() {
    assert_eq!(
        run("return redis.call('GET', KEYS[1], 12)"),
        "*3\r\n$3\r\nGET\r\n$3\r\nkey\r\n$2\r\n12\r\n"
    );
    assert_eq!(run("return ARGV[1]"), "$3\r\narg\r\n");
    let failed = run("return redis.call('FAIL')");
    assert!(failed.starts_with("-ERR failed script: "), "{failed}");
    assert!(failed.ends_with(", on @user_script:1.\r\n"), "{failed}");
    assert_eq!(run("return redis.pcall('FAIL').err"), "$10\r\nERR failed\r\n");
    assert_eq!(run("local ok, e = pcall(redis.call, 'FAIL') return e"), "$10\r\nERR failed\r\n");
}

#[test]
fn nothing_but_effects_of_commands_remains_for_the_next_script() {
    let mut interpreter = Interpreter::new();
    let spoilers = [
        "rawset(_G, 'x', 1)",
        "table.insert(_G, 'x')",
        "table.insert(string, 'x') table.insert(redis, 'x')",
        "getmetatable('').__index = function() return 1 end",
        "getmetatable(_G).__index = nil",
        "string.rep = nil",
        "KEYS[1] = 'changed' ARGV.x = 1",
        "cjson.encode_max_depth(1)",
        "cjson.encode_sparse_array(true)",
        "redis.setresp(3)",
        "math.randomseed(77)",
        "collectgarbage('stop')",
    ];
    let check = "return {_G[1] or 0, rawget(_G, 'x') or 0, #KEYS, ('x'):rep(2), string[1] or 0, \
                 cjson.encode({{{1}}}), math.random(1000), pcall(cjson.encode, {[99]=1}), \
                 select(2, pcall(loadstring('return y'))), redis.setresp(2)}";
    let expected = reply(&mut interpreter, check.as_bytes(), 0);
    for spoiler in spoilers {
        reply(&mut interpreter, spoiler.as_bytes(), 1);
        let after = reply(&mut interpreter, check.as_bytes(), 0);
        assert_eq!(after.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}

#[test]
fn equal_seeds_give_equal_random_numbers() {
    let mut interpreter = Interpreter::new();
    let mut draw = |seed| {
        let limits = Limits { seed, ..Limits::default() };
        run_with(&mut interpreter, "return {math.random(1000000), math.random(1000000)}", &limits)
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn deadline_ends_scripts_whose_instructions_take_long() {
    let mut interpreter = Interpreter::new();
    for source in [
        "while true do end",
        "local s = string.rep('x', 1000000) while true do local t = s .. 'y' end",
        "local s = string.rep('x', 1000000) while true do string.upper(s) end",
        "local s = string.rep('x', 1000000) while true do redis.sha1hex(s) end",
        "local s = string.rep('x', 1000000) while true do redis.call('set', s) end",
        "while true do pcall(redis.call, 'get') end",
    ] {
        let looks = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&looks);
        let deadline = Deadline::new(move || count.fetch_add(1, Ordering::Relaxed) > 5);
        let limits = Limits { instructions: u64::MAX, deadline, ..Limits::default() };
        let result = run_with(&mut interpreter, source, &limits);
        assert_eq!(result, Err(ScriptError::Instructions), "{source}");
        assert!(looks.load(Ordering::Relaxed) < 50, "{source}");
    }
}

#[test]
fn long_code_is_not_compiled_where_it_must_not_take_long() {
    let mut interpreter = Interpreter::new();
    let source = format!("return {}", "1+".repeat(1_000) + "1");
    let limits = Limits { code_bytes: 1_000, ..Limits::default() };
    assert_eq!(run_with(&mut interpreter, &source, &limits), Err(ScriptError::Instructions));
    let limits = Limits::default();
    assert_eq!(run_with(&mut interpreter, &source, &limits), Ok(Value::Integer(1_001)));
}

#[test]
fn arguments_of_a_call_may_have_the_memory_of_a_script() {
    let limits = Limits { memory_bytes: 8 << 20, ..Limits::default() };
    let call = |count: usize| {
        let source = format!(
            "local s, t = string.rep('x', 1000000), {{}} for i = 1, {count} do t[i] = s end \
             return redis.call('echo', unpack(t))"
        );
        run_with(&mut Interpreter::new(), &source, &limits)
    };
    assert!(call(3).is_ok());
    let Err(error) = call(300) else { panic!("it has 300 MB of arguments") };
    let Value::Error(text) = error.reply() else { panic!("no error") };
    assert!(text.starts_with(b"ERR not enough memory"), "{}", text.escape_ascii());
}

#[test]
fn compiled_scripts_are_bounded_and_compiled_again_when_needed() {
    let mut interpreter = Interpreter::new();
    for round in 0..2 {
        for number in 0..1200 {
            let source = format!("return {number}");
            let result = run_with(&mut interpreter, &source, &Limits::default());
            assert_eq!(result, Ok(Value::Integer(number)), "in round {round}");
        }
    }
    let long = format!("return #[[{}]]", "x".repeat(20 << 20));
    let limits = Limits { memory_bytes: 256 << 20, ..Limits::default() };
    assert_eq!(run_with(&mut interpreter, &long, &limits), Ok(Value::Integer(20 << 20)));
}

#[test]
fn replies_in_resp3_reach_the_script_with_their_types() {
    struct Typed;
    impl Commands for Typed {
        fn call(&mut self, args: &[Vec<u8>], resp3: bool) -> Value {
            assert!(resp3);
            let (value, len) = read_value(&args[0]).expect("well formed");
            assert_eq!(len, args[0].len());
            value
        }

        fn check_acl(&mut self, _: &[Vec<u8>]) -> Option<bool> {
            None
        }

        fn log(&mut self, _: LogLevel, _: &[u8]) {}
    }
    let cases: [(&str, &str, Value); 8] = [
        ("_\\r\\n", "r == nil", Value::Boolean(true)),
        ("#t\\r\\n", "r", Value::Boolean(true)),
        (",1.5\\r\\n", "r.double * 2", Value::Integer(3)),
        ("(123\\r\\n", "r.big_number", Value::Bulk(b"123".to_vec())),
        ("=5\\r\\ntxt:a\\r\\n", "r.verbatim_string.string", Value::Bulk(b"a".to_vec())),
        ("%1\\r\\n+k\\r\\n:5\\r\\n", "next(r.map).ok", Value::Bulk(b"k".to_vec())),
        ("~1\\r\\n$1\\r\\nx\\r\\n", "r.set.x", Value::Boolean(true)),
        ("*2\\r\\n:1\\r\\n_\\r\\n", "#r", Value::Integer(1)),
    ];
    let mut interpreter = Interpreter::new();
    for (bytes, expression, expected) in cases {
        let source =
            format!("redis.setresp(3) local r = redis.call('{bytes}') return {expression}");
        let sha = sha1_hex(source.as_bytes());
        let script = Script { sha: &sha, source: source.as_bytes() };
        let result = interpreter.run(&script, &[], &[], &mut Typed, &Limits::default());
        assert_eq!(result, Ok(expected), "{source}");
    }
}

#[test]
fn globals_cannot_be_changed() {
    assert!(run("x = 1").contains("user_script:1: Attempt to modify a readonly table script: "));
    assert!(run("return y").contains("Script attempted to access nonexistent global variable 'y'"));
    assert!(run("string.rep = 1").contains("Attempt to modify a readonly table"));
}
