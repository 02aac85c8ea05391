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

local function pcall_(...)
    if select('#', ...) == 0 then
        bad_argument(1, 'value expected', 'pcall')
    end
    return caught(raw_pcall(...))
end

local function xpcall_(f, handler, ...)
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
        err = where(3) .. err
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

-- Returns a table that shows the contents of `back` and cannot be changed.
local function protect(back, on_missing, shown)
    local front = {}
    local function refuse()
        error('Attempt to modify a readonly table', 2)
    end
    rawset(fronts, front, back)
    return setmetatable(front, {
        __index = on_missing and setmetatable(back, { __index = on_missing }) or back,
        __newindex = refuse,
        __metatable = shown or false,
    })
end

local string, coroutine, math = string, coroutine, math
coroutine.resume, coroutine.wrap = resume, wrap
for name, f in pairs(native.math) do
    math[name] = f
end
for name, f in pairs(native.string) do
    string[name] = f
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
    unpack = unpack,
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

return { environment = environment, globals = globals, fronts = fronts, run = run, clean = clean }
