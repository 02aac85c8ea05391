-- What scripts see, built from Lua's own libraries and the functions of `interpreter.rs` (`native`).
--
-- Redis marks its global tables as read-only in a changed Lua. Here the table that scripts see is
-- an empty one in front of the table with the contents, so that every write meets `__newindex`.

local native = ...
local type, error, rawset, setmetatable, pairs = type, error, rawset, setmetatable, pairs
local raw_pcall, raw_xpcall, raw_resume = pcall, xpcall, coroutine.resume
local create, select, next = coroutine.create, select, next
local reveal, is_end, where, bad_argument = native.reveal, native.is_end, native.where, native.bad_argument

-- Replaces an error of the host by the value that scripts may see; raises it again if the script
-- has to end.
local function caught(ok, err, ...)
    if not ok and type(err) == 'userdata' then
        return false, reveal(err)
    end
    return ok, err, ...
end

-- As Redis does, `pcall` returns the text of an error that is a table with the field `err`.
local function text_of(ok, err, ...)
    if not ok and type(err) == 'table' and type(err.err) == 'string' then
        return false, err.err
    end
    return ok, err, ...
end

local function pcall_(...)
    if select('#', ...) == 0 then
        -- The words of Redis's own mistake.
        return false, 'attempt to call a boolean value'
    end
    return text_of(caught(raw_pcall(...)))
end

local function xpcall_(...)
    if select('#', ...) < 2 then
        bad_argument(2, 'value expected', 'xpcall')
    end
    local f, handler = ...
    return caught(raw_xpcall(f, function(err)
        if type(err) == 'userdata' then
            if is_end(err) then
                return err
            end
            err = reveal(err)
        end
        return handler(err)
    end))
end

local function resume(co, ...)
    if type(co) ~= 'thread' then
        bad_argument(1, 'coroutine expected', 'resume')
    end
    return caught(raw_resume(co, ...))
end

local function unwrapped(ok, ...)
    if ok then
        return ...
    end
    local err = ...
    if type(err) == 'string' then
        err = where() .. err
    end
    error(err, 0)
end

local function wrap(f)
    if type(f) ~= 'function' then
        bad_argument(1, 'Lua function expected', 'wrap')
    end
    local co = create(f)
    return function(...)
        return unwrapped(resume(co, ...))
    end
end

local fronts = {}

local function refuse()
    error('Attempt to modify a readonly table', 2)
end

-- Returns a table that shows the contents of `back` and cannot be changed.
local function protect(back, on_missing, shown)
    local front = {}
    rawset(fronts, front, back)
    return setmetatable(front, {
        __index = on_missing and setmetatable(back, { __index = on_missing }) or back,
        __newindex = refuse,
        __metatable = shown or false,
    })
end

local string, coroutine, math, table = string, coroutine, math, table
local gsub = string.gsub
coroutine.resume, coroutine.wrap = resume, wrap
for name, f in pairs(native.math) do
    math[name] = f
end
for name, f in pairs(native.string) do
    string[name] = f
end

local floor = math.floor

local function invalid_order()
    error(where() .. 'invalid order function for sorting', 0)
end

-- Lua's own `sort`, step by step, but in Lua: nothing can interrupt the one in C.
local function sort_range(t, low, up, less)
    while low < up do
        if less(t[up], t[low]) then
            t[low], t[up] = t[up], t[low]
        end
        if up - low == 1 then
            break
        end
        local middle = floor((low + up) / 2)
        if less(t[middle], t[low]) then
            t[middle], t[low] = t[low], t[middle]
        elseif less(t[up], t[middle]) then
            t[middle], t[up] = t[up], t[middle]
        end
        if up - low == 2 then
            break
        end
        local pivot = t[middle]
        t[middle], t[up - 1] = t[up - 1], t[middle]
        local i, j = low, up - 1
        while true do
            i = i + 1
            while less(t[i], pivot) do
                if i > up then
                    invalid_order()
                end
                i = i + 1
            end
            j = j - 1
            while less(pivot, t[j]) do
                if j < low then
                    invalid_order()
                end
                j = j - 1
            end
            if j < i then
                break
            end
            t[i], t[j] = t[j], t[i]
        end
        t[up - 1], t[i] = t[i], t[up - 1]
        if i - low < up - i then
            sort_range(t, low, i - 1, less)
            low = i + 1
        else
            sort_range(t, i + 1, up, less)
            up = i - 1
        end
    end
end

local function less_than(a, b)
    return a < b
end

table.sort = function(...)
    local t, less = ...
    if type(t) ~= 'table' then
        bad_argument(1, 'table expected, got ' .. native.type_name(...), 'sort')
    elseif less == nil then
        local ok, err = raw_pcall(sort_range, t, 1, #t, less_than)
        if not ok then
            error(type(err) == 'string' and gsub(err, '^prelude:%d+: ', '') or err, 0)
        end
    elseif type(less) ~= 'function' then
        bad_argument(2, 'function expected, got ' .. native.type_name(less), 'sort')
    else
        sort_range(t, 1, #t, less)
    end
end

table.insert = function(...)
    local t, value = ...
    if select('#', ...) == 2 and type(t) == 'table' and not fronts[t] then
        rawset(t, #t + 1, value)
    else
        native.insert(...)
    end
end

local globals = {
    _VERSION = _VERSION,
    assert = assert,
    collectgarbage = native.collectgarbage,
    error = error,
    gcinfo = gcinfo,
    getmetatable = getmetatable,
    ipairs = ipairs,
    loadstring = native.loadstring,
    next = next,
    pairs = native.pairs,
    pcall = pcall_,
    rawequal = rawequal,
    rawget = native.rawget,
    rawset = native.rawset,
    select = select,
    setmetatable = native.setmetatable,
    tonumber = tonumber,
    tostring = tostring,
    type = type,
    unpack = native.unpack,
    xpcall = xpcall_,
    __redis__err__handler = native.describe,
    coroutine = protect(coroutine),
    math = protect(math),
    string = protect(string),
    table = protect(table),
}
for name, library in pairs(native.libraries) do
    globals[name] = protect(library)
end

globals.load = function(f, name)
    if type(f) ~= 'function' then
        bad_argument(1, 'function expected, got ' .. native.type_name(f), 'load')
    end
    local parts = {}
    while true do
        local ok, part = pcall_(f)
        if not ok then
            return nil, part
        end
        if part == nil or part == '' then
            return native.loadstring(native.concat(parts), name or '=(load)')
        end
        if type(part) ~= 'string' and type(part) ~= 'number' then
            return nil, 'reader function must return a string'
        end
        parts[#parts + 1] = part
    end
end

local missing = native.missing_global
local environment = protect(globals, missing, protect({ __index = missing }))
globals._G = environment
-- Libraries of functions have other globals. While a library is loaded, these are only what it
-- needs to register functions; its functions see the globals of scripts, without `KEYS` and `ARGV`.
local function_redis, load_redis = {}, { register_function = native.register_function }
for name, value in next, native.libraries.redis do
    function_redis[name] = value
    if name == 'log' or type(value) ~= 'function' and not name:find('^REPL_') then
        load_redis[name] = value
    end
end
function_redis.breakpoint, function_redis.debug, function_redis.replicate_commands = nil, nil, nil

local library_environment = {}
local function_globals = {}
for name, value in next, globals do
    function_globals[name] = value
end
function_globals.redis, function_globals._G = protect(function_redis), library_environment
function_globals.__redis__err__handler = nil
setmetatable(function_globals, { __index = missing })
local load_globals = setmetatable({ redis = protect(load_redis, missing) }, { __index = missing })
local library_meta = {
    __index = function_globals,
    __newindex = refuse,
    __metatable = protect({ __index = missing }),
}
rawset(fronts, library_environment, function_globals)
setmetatable(library_environment, library_meta)

getmetatable('').__metatable = protect({ __index = globals.string })

-- Removes what `table.insert` or `rawset` of Lua's own libraries put into a protected table.
local function clean()
    for front in next, fronts do
        for key in next, front do
            rawset(front, key, nil)
        end
    end
end

local setfenv = setfenv
local function run(f, keys, argv)
    globals.KEYS, globals.ARGV = keys, argv
    setfenv(f, environment)
    return raw_xpcall(f, native.describe)
end

local function load_library(f)
    library_meta.__index = load_globals
    setfenv(f, library_environment)
    local ok, err = raw_xpcall(f, native.describe)
    library_meta.__index = function_globals
    -- What the code of a library returns means nothing.
    return ok, not ok and err or nil
end

local function call_function(f, keys, args)
    globals.KEYS, globals.ARGV = nil, nil
    library_meta.__index = function_globals
    return raw_xpcall(function()
        return f(keys, args)
    end, native.describe)
end

return {
    environment = environment,
    library_environment = library_environment,
    fronts = fronts,
    run = run,
    load = load_library,
    call = call_function,
    clean = clean,
}
