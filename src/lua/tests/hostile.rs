//! Scripts that try to end the process, to keep it busy for ever, or to fill its memory.

use proptest::prelude::*;

use super::run_with;
use crate::lua::{Interpreter, Limits, ScriptError, StopFlag, Value};

/// Scripts that work without end.
const ENDLESS: &[&str] = &[
    "while true do end",
    "repeat until false",
    "for i = 1, 1e300 do end",
    "local function f() return f() end f()",
    "while true do pcall(function() while true do end end) end",
    "while true do pcall(error) end",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "xpcall(function() error() end, function(e) while true do end end) while true do end",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "while true do local ok = pcall(coroutine.wrap(function() while true do end end)) end",
    "local co = coroutine.wrap(function() while true do coroutine.yield() end end) \
     while true do co() end",
    "load(function() return ' ' end)",
    "load(function() while true do end end) while true do end",
    "setmetatable({}, {__index = function() while true do end end}).x = nil \
     return setmetatable({}, {__index = function() while true do end end}).x",
    "return tostring(setmetatable({}, {__tostring = function() while true do end end}))",
    "table.insert({}, -2147483648, 1)",
    "table.sort({1, 2, 3}, function() while true do end end)",
    "string.gsub('x', 'x', function() while true do end end)",
    "local s = ('a'):rep(100000) return s:find(('.-'):rep(50) .. 'b')",
    "local s = ('a'):rep(100000) return s:match(('a*'):rep(50) .. 'b')",
    "local s = ('a'):rep(100000) return s:gsub(('a?'):rep(90) .. ('a'):rep(90) .. 'b', '')",
    "local s = ('a'):rep(100000) for w in s:gmatch(('a-'):rep(50) .. 'b') do end",
    "local s = ('a'):rep(9000000) return s:find(('a'):rep(4500000) .. 'b', 1, true)",
    "local s = ('('):rep(9000000) return s:find('%b()')",
    "while true do redis.call('PING') end",
    "while true do redis.pcall('FAIL') end",
    "while true do cjson.encode({1, 2, 3}) end",
    "while true do string.rep('', 1e9) end",
    "while true do collectgarbage() end",
    "while true do loadstring('return 1')() end",
    "for i = 1, 1e9 do pcall(string.rep) end",
];

#[test]
fn endless_scripts_are_ended_by_the_limit_of_instructions() {
    let limits = Limits { instructions: 500_000, ..Limits::default() };
    for source in ENDLESS {
        let mut interpreter = Interpreter::new();
        let result = run_with(&mut interpreter, source, &limits);
        assert_eq!(result, Err(ScriptError::Instructions), "{source}");
        assert_eq!(run_with(&mut interpreter, "return 1", &limits), Ok(Value::Integer(1)));
    }
}

#[test]
fn endless_scripts_are_ended_by_the_stop_flag() {
    for source in ENDLESS {
        let limits = Limits { instructions: u64::MAX, ..Limits::default() };
        let mut interpreter = Interpreter::new();
        let source = format!("redis.call('STOP') {source}");
        let result = run_with(&mut interpreter, &source, &limits);
        assert_eq!(result, Err(ScriptError::Stopped), "{source}");
    }
}

#[test]
fn flag_that_is_set_before_the_run_stops_the_script() {
    let limits = Limits { stop: StopFlag::default(), ..Limits::default() };
    limits.stop.set();
    let mut interpreter = Interpreter::new();
    let result = run_with(&mut interpreter, "for i = 1, 10000 do end", &limits);
    assert_eq!(result, Err(ScriptError::Stopped));
    limits.stop.clear();
    assert_eq!(run_with(&mut interpreter, "return 1", &limits), Ok(Value::Integer(1)));
}

/// Scripts that want more memory than there is.
const GREEDY: &[&str] = &[
    "local t = {} while true do t[#t + 1] = {} end",
    "local s = 'x' while true do s = s .. s end",
    "return ('x'):rep(2147483647)",
    "return ('x'):rep(1e6):rep(1e6)",
    "local t = {} for i = 1, 1e9 do t[i] = i end",
    "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1e6) .. i end return table.concat(t)",
    "return (('x'):rep(1e6):gsub('x', ('y'):rep(1e6)))",
    "return (('x'):rep(1e4):gsub('x', function() return ('y'):rep(1e6) end))",
    "local t = 'x' for i = 1, 60 do t = {t, t} end return t",
    "local t = 'x' for i = 1, 60 do t = {t, t} end return cjson.encode(t)",
    "local t = {} for i = 1, 15 do local u = {} for j = 1, 50 do u[j] = t end t = u end \
     return cmsgpack.pack(t)",
    "local t = {} for i = 1, 1e7 do t[i] = coroutine.create(function() end) end",
    "return struct.pack(('c0'):rep(200), unpack((function() local t = {} for i = 1, 200 do \
     t[i] = ('x'):rep(1e6) end return t end)()))",
    "return cjson.decode('[' .. ('[],'):rep(9e6) .. '1]')",
    "return cmsgpack.unpack('\\221\\255\\255\\255\\255' .. ('\\144'):rep(3e7))",
    "local t = {} while true do t[#t + 1] = function() return t end end",
    "local s = '' for i = 1, 1e7 do s = s .. ('x'):rep(10000) end",
    "return string.format(('%s'):rep(200), unpack((function() local t = {} for i = 1, 200 do \
     t[i] = ('x'):rep(1e6) end return t end)()))",
];

#[test]
fn greedy_scripts_are_ended_by_the_limit_of_memory() {
    let limits = Limits { memory_bytes: 16 << 20, instructions: 20_000_000, ..Limits::default() };
    for source in GREEDY {
        let mut interpreter = Interpreter::new();
        let result = run_with(&mut interpreter, source, &limits);
        let Err(error) = result else { panic!("{source} had enough memory") };
        let ended = matches!(error, ScriptError::Memory | ScriptError::Instructions)
            || error.to_string().contains("not enough memory");
        assert!(ended, "{source}: {error}");
        let next = run_with(&mut interpreter, "return 1", &Limits::default());
        assert_eq!(next, Ok(Value::Integer(1)), "after {source}");
    }
}

#[test]
fn script_that_catches_the_lack_of_memory_goes_on_with_little() {
    let source = "local ok, e = pcall(function() local t = {} while true do t[#t + 1] = {} end \
                  end) return e";
    let mut interpreter = Interpreter::new();
    let result = run_with(&mut interpreter, source, &Limits::default());
    assert_eq!(result, Ok(Value::Bulk(b"not enough memory".to_vec())));
}

/// Scripts that nest something deeply. They fail or not, but the process goes on.
const DEEP: &[&str] = &[
    "local function f(n) return f(n + 1) + 1 end f(1)",
    "local function f() pcall(f) end f()",
    "local function f() xpcall(f, f) end f()",
    "local function f() return coroutine.wrap(f)() end f()",
    "local function f() return coroutine.resume(coroutine.create(f)) end f()",
    "local function f() return ('x'):gsub('x', f) end f()",
    "local function f() table.sort({1, 2, 3}, f) end f()",
    "local function f() return load(f) end f()",
    "local function f() return redis.pcall('PING', f()) end f()",
    "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end \
     return t.x",
    "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x",
    "local t = {} for i = 1, 100000 do t = setmetatable({}, {__index = t}) end return t.x",
    "local t = setmetatable({}, {}) getmetatable(t).__tostring = tostring return tostring(t)",
    "local t = setmetatable({}, {}) getmetatable(t).__call = t return t()",
    "local t = setmetatable({}, {__concat = function(a, b) return a .. b end}) return t .. t",
    "local t = setmetatable({}, {__eq = function(a, b) return a == b end}) \
     return t == setmetatable({}, getmetatable(t))",
    "return loadstring('return ' .. ('('):rep(100000) .. '1' .. (')'):rep(100000))",
    "return loadstring('return ' .. ('{'):rep(100000) .. ('}'):rep(100000))",
    "return loadstring('return ' .. ('-'):rep(100001) .. '1')",
    "return loadstring('return ' .. ('not '):rep(100000) .. '1')",
    "return loadstring('return 1' .. (' .. 1'):rep(100000))",
    "return loadstring('return 1' .. ('^1'):rep(100000))",
    "return loadstring(('do '):rep(100000) .. ('end '):rep(100000))",
    "return loadstring(('a.'):rep(100000) .. 'b = 1')",
    "return loadstring(('a,'):rep(100000) .. 'b = 1')",
    "return loadstring(('local a '):rep(300))",
    "return loadstring('return function() ' .. ('return function() '):rep(100000))",
    "return loadstring('local a = ' .. ('a('):rep(100000))",
    "local t = {} for i = 1, 100000 do t = {t} end return t",
    "local t = {} for i = 1, 100000 do t = {t} end return cjson.encode(t)",
    "cjson.encode_max_depth(1e9) local t = {} for i = 1, 100000 do t = {t} end \
     return cjson.encode(t)",
    "cjson.decode_max_depth(1e9) return cjson.decode(('['):rep(1000000))",
    "cjson.decode_max_depth(1e9) return cjson.decode(('{\"a\":'):rep(1000000))",
    "return cmsgpack.unpack(('\\145'):rep(1000000))",
    "return cmsgpack.unpack(('\\129\\1'):rep(1000000))",
    "local t = {} t[1] = t return cmsgpack.pack(t)",
    "local t = {} t[1] = t return t",
    "return {map = {[{}] = {map = {}}}}",
    "return ('x'):find(('(x?)'):rep(32))",
    "return ('x'):find(('x?'):rep(100000))",
    "return ('x'):find(('()'):rep(100000))",
    "return ('x'):find(('['):rep(100000))",
    "return unpack({}, 1, 1e8)",
    "return unpack({}, -2147483648, 2147483647)",
    "return select('#', unpack({}, 1, 7990))",
    "return string.char(unpack({}, 1, 7000))",
    "return ('x'):rep(100000):byte(1, -1)",
    "return cmsgpack.unpack(('\\1'):rep(1000000))",
    "return struct.unpack(('b'):rep(1000000), ('x'):rep(1000000))",
    "return struct.pack('!1073741824i32', 1)",
    "return struct.size(('c2147483647'):rep(10000))",
    "return bit.tohex(1, -2147483648)",
    "return string.format('%099.99f', 1e308)",
    "return string.format('%999999999d', 1)",
    "return table.concat({}, 'x', 1, 1e9)",
    "return table.concat(setmetatable({}, {__index = function() return 'x' end}), '', 1, 1e6)",
    "error(setmetatable({}, {__index = error, __tostring = error}))",
    "error(setmetatable({}, {__newindex = error}))",
    "error(coroutine.create(error))",
    "error(cjson.null)",
    "error({err = {err = {}}})",
    "error()",
    "coroutine.yield()",
    "return coroutine.wrap(function() return pcall(coroutine.yield) end)()",
    "return coroutine.wrap(function() for w in ('ab'):gmatch('.') do coroutine.yield(w) end \
     end)()",
    "local co co = coroutine.wrap(function() co() end) co()",
    "local co = coroutine.running() return coroutine.resume(co)",
    "return loadstring(string.dump(function() return 1 end))()",
    "return loadstring('\\27Lua' .. ('\\255'):rep(1000))()",
    "return load(function() return string.dump(function() end) end)()",
    "return string.dump(string.rep)",
    "return string.dump(load)",
    "return tostring(_G) .. tostring(redis) .. tostring(cjson.null)",
    "return next(_G), next(redis), pairs(_G)(_G)",
    "for k, v in pairs(_G) do pcall(rawset, _G, k, nil) pcall(function() _G[k] = nil end) end",
    "for k, v in pairs(redis) do pcall(v) pcall(v, {}) pcall(v, nil, nil) end",
    "for _, l in pairs(_G) do if type(l) == 'table' then for k, v in pairs(l) do \
     if k ~= '_G' then pcall(v, {}) pcall(v, '', -1) pcall(v, 1e300) pcall(v, 0/0, {}, '') end \
     end end end",
    "return __redis__err__handler(setmetatable({}, {__index = error}))",
    "return redis.call(unpack((function() local t = {} for i = 1, 7000 do t[i] = i end return t \
     end)()))",
];

#[test]
fn deep_nesting_and_wild_arguments_end_no_process() {
    let limits = Limits { memory_bytes: 16 << 20, instructions: 20_000_000, ..Limits::default() };
    let mut interpreter = Interpreter::new();
    for source in DEEP {
        // The result does not matter.
        let _ = run_with(&mut interpreter, source, &limits);
        let next = run_with(&mut interpreter, "return ('x'):rep(2)", &limits);
        assert_eq!(next, Ok(Value::Bulk(b"xx".to_vec())), "after {source}");
    }
}

/// Returns the text of a string in Lua.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}\\{byte:03}"))
}

/// Runs a script with any bytes as its argument, whatever it returns.
fn run_with_bytes(source: &str, bytes: &[u8]) {
    let escaped = escaped(bytes);
    let limits = Limits { instructions: 10_000_000, ..Limits::default() };
    let source = source.replace("BYTES", &format!("'{escaped}'"));
    let _ = run_with(&mut Interpreter::new(), &source, &limits);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        run_with_bytes("pcall(cmsgpack.unpack, BYTES) cmsgpack.unpack_limit(BYTES, 3, 1)", &bytes);
        run_with_bytes("pcall(cjson.decode, BYTES) pcall(struct.unpack, BYTES, BYTES)", &bytes);
        run_with_bytes("pcall(struct.pack, BYTES, 1, 2, 'x') pcall(struct.size, BYTES)", &bytes);
        run_with_bytes("pcall(string.find, 'hello world', BYTES) pcall(loadstring, BYTES)", &bytes);
        run_with_bytes("pcall(string.gsub, BYTES, '%w+', BYTES) string.format(BYTES, 1)", &bytes);
        let _ = crate::lua::read_value(&bytes);
    }

    #[test]
    fn json_of_any_pattern_is_decoded_or_refused(
        text in "[\\[\\]{}:,\"0-9eEtruefalsn\\\\+. -]{0,40}",
    ) {
        run_with_bytes("pcall(cjson.decode, BYTES)", text.as_bytes());
    }

    #[test]
    fn packed_values_are_unpacked_again(
        number in any::<i32>(),
        fraction in -1e100..1e100f64,
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let escaped = escaped(&bytes);
        let source = format!(
            "local s = '{escaped}'
             local t = {{{number}, {fraction:e}, s, {{a = s, b = {{true, false}}}}}}
             local u = cmsgpack.unpack(cmsgpack.pack(t))
             assert(u[1] == t[1] and u[2] == t[2] and u[3] == t[3])
             assert(u[4].a == t[4].a and u[4].b[1] == true and u[4].b[2] == false)
             local packed = struct.pack('>i8ds', {number}, {fraction:e}, 'x')
             local i, d, s = struct.unpack('>i8ds', packed)
             assert(i == {number} and d == t[2] and s == 'x')
             local j = cjson.decode(cjson.encode({{{number}, t[3]}}))
             return (j[1] == {number} and j[2] == t[3]) and 1 or 0"
        );
        let result = run_with(&mut Interpreter::new(), &source, &Limits::default());
        prop_assert_eq!(result, Ok(Value::Integer(1)));
    }
}
