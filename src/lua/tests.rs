//! Tests of whole scripts.

use super::{Commands, Interpreter, Limits, LogLevel, Script, ScriptError, Value, sha1_hex};

/// Answers every command with its arguments; `FAIL` with an error.
#[derive(Default)]
struct Echo {
    log: Vec<(LogLevel, Vec<u8>)>,
}

impl Commands for Echo {
    fn call(&mut self, args: &[Vec<u8>], _resp3: bool) -> Value {
        if args[0] == b"FAIL" {
            return Value::error("failed");
        }
        Value::Array(args.iter().cloned().map(Value::Bulk).collect())
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
    interpreter.run(&script, &[b"key".to_vec()], &[b"arg".to_vec()], &mut Echo::default(), limits)
}

fn run(source: &str) -> String {
    let mut interpreter = Interpreter::new();
    let reply = match run_with(&mut interpreter, source, &Limits::default()) {
        Ok(value) => value,
        Err(error) => error.reply(),
    };
    let mut bytes = Vec::new();
    reply.write(false, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
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
    assert_eq!(
        run("local ok, e = pcall(redis.call, 'FAIL') return e.err"),
        "$10\r\nERR failed\r\n"
    );
}

#[test]
fn endless_script_is_ended_although_it_catches_errors() {
    let limits = Limits { instructions: 1_000_000, ..Limits::default() };
    let mut interpreter = Interpreter::new();
    let source = "while true do pcall(function() while true do end end) end";
    assert_eq!(run_with(&mut interpreter, source, &limits), Err(ScriptError::Instructions));
    assert_eq!(run_with(&mut interpreter, "return 1", &limits), Ok(Value::Integer(1)));
}

#[test]
fn script_without_memory_is_ended() {
    let mut interpreter = Interpreter::new();
    let source = "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end";
    assert_eq!(run_with(&mut interpreter, source, &Limits::default()), Err(ScriptError::Memory));
    assert_eq!(run_with(&mut interpreter, "return 1", &Limits::default()), Ok(Value::Integer(1)));
}

#[test]
fn globals_cannot_be_changed() {
    assert!(run("x = 1").contains("user_script:1: Attempt to modify a readonly table script: "));
    assert!(run("return y").contains("Script attempted to access nonexistent global variable 'y'"));
    assert!(run("string.rep = 1").contains("Attempt to modify a readonly table"));
}
