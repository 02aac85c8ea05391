//! The templates of the requests in random streams, and their arguments. To add a command, add a
//! line to its group here; the syntax is described in `grammar.rs`.

use super::grammar::{Template, any_order, near, pairs, same, shape, timed};

/// Arguments by kind. The first row has the usual arguments, the optional second row rare ones. An
/// argument that occurs twice is drawn twice as often. Kinds of keys overlap, so that commands are
/// also applied to keys of another type.
pub(crate) const ARGUMENTS: &[(&str, &[&[&[u8]]])] = &[
    ("str", &[STRING_KEYS, ALL_KEYS]),
    ("hash", &[&[b"h1", b"h2", b"h3"], ALL_KEYS]),
    ("list", &[&[b"l1", b"l2", b"l3"], ALL_KEYS]),
    ("set", &[&[b"m1", b"m2", b"m3"], ALL_KEYS]),
    ("zset", &[&[b"z1", b"z2", b"z3"], ALL_KEYS]),
    ("stream", &[&[b"x1", b"x2", b"x3"], ALL_KEYS]),
    // Only keys of sorted sets in which the scores are positions: with other scores, Redis searches
    // anywhere.
    ("geo", &[GEO_KEYS]),
    ("log", &[LOG_KEYS]),
    ("element", &[ELEMENTS, VALUES]),
    ("never", &[&[b"never"]]),
    ("sortkey", &[&[b"l1", b"l2", b"m1", b"m2", b"z1", b"z2"], ALL_KEYS]),
    ("weights", &[&[b"s*", b"h*->a", b"h*->1", b"s*->a", b"*", b"h*"], &[b"*->", b"*x"]]),
    ("one", &[&[b"a"]]),
    ("two", &[&[b"b"]]),
    ("three", &[&[b"c"]]),
    ("four", &[&[b"d"]]),
    ("five", &[&[b"e"]]),
    ("unit", &[&[b"m", b"km", b"ft", b"mi", b"KM"], &[b"", b"x", b"kmx"]]),
    ("longitude", &[LONGITUDES, NO_DEGREES]),
    ("latitude", &[LATITUDES, NO_DEGREES]),
    ("radius", &[&[b"0", b"1", b"50", b"200.5", b"3000", b"5e6", b"inf"], NO_RADII]),
    ("key", &[ALL_KEYS]),
    ("value", &[VALUES]),
    ("int", &[INTEGERS, VALUES]),
    ("float", &[FLOATS, VALUES]),
    ("member", &[&[b"a", b"b", b"c", b"d", b"e", b"1", b"2"], VALUES]),
    ("count", &[&[b"0", b"1", b"1", b"2", b"3", b"5", b"10", b"-1", b"-2", b"-4"], INTEGERS]),
    // Without the smallest integer, which Redis cannot negate to get a count.
    ("rank", &[&[b"1", b"2", b"3", b"-1", b"-2", b"-3"], &[b"0", b"x", b"9223372036854775807"]]),
    ("index", &[&[b"0", b"1", b"2", b"3", b"5", b"-1", b"-2", b"-3", b"-5", b"100"], INTEGERS]),
    // Not far below 0, because Redis replies with this many members of a set.
    ("some", &[&[b"0", b"1", b"2", b"3", b"10", b"-1", b"-2", b"-4"], NO_NUMBER]),
    ("score", &[SCORES, NO_NUMBER]),
    // Positive, because the product of 0 and a negative number is -0.
    ("weight", &[&[b"1", b"2", b"0.5", b"0.1", b"10", b"1e300", b"inf"], NO_NUMBER]),
    ("smin", &[&[b"-inf", b"0", b"(0", b"1", b"(1", b"-5", b"0.1", b"(-inf"], ENDS]),
    ("smax", &[&[b"+inf", b"inf", b"2", b"(2", b"3.0e3", b"5", b"(5", b"0.3"], ENDS]),
    ("lmin", &[&[b"-", b"[a", b"(a", b"[b", b"(1", b"[", b"("], ENDS]),
    ("lmax", &[&[b"+", b"[d", b"(d", b"[c", b"(e", b"[2", b"(zz"], ENDS]),
    ("few", &[&[b"1", b"1", b"2", b"2", b"3"], &[b"0", b"-1", b"x", b"100"]]),
    ("bit", &[&[b"0", b"1"], &[b"2", b"-1", b"x", b""]]),
    ("db", &[&[b"0", b"0", b"1", b"2"], &[b"15", b"16", b"-1", b"x", b"", b"99999999999"]]),
    ("offset", &[&[b"0", b"1", b"5", b"7", b"8", b"13", b"40", b"100"], FAR_OFFSETS]),
    ("field", &[&[b"u1", b"i1", b"u4", b"i5", b"u8", b"i8", b"u13", b"u63", b"i64"], NO_FIELDS]),
    ("amount", &[AMOUNTS, VALUES]),
    ("place", &[&[b"0", b"1", b"#0", b"#1", b"#2", b"8", b"9", b"30"], NO_PLACES]),
    ("at", &[&[b"0", b"1", b"5", b"7", b"8", b"13", b"40", b"100"], NO_PLACES]),
    ("pattern", &[PATTERNS]),
    ("cursor", &[&[b"0"], &[b"x", b"", b" 0", b"0x", b"18446744073709551616"]]),
    (
        "type",
        &[&[b"string", b"hash", b"list", b"set", b"zset", b"stream", b"STRING"], &[b"nonesuch"]],
    ),
    ("seconds", &[SECONDS, NO_SECONDS]),
    ("millis", &[MILLIS, NO_SECONDS]),
    ("second", &[MOMENTS_IN_SECONDS, NO_SECONDS]),
    ("milli", &[MOMENTS_IN_MILLIS, NO_SECONDS]),
    ("newid", &[NEW_IDS, NO_IDS]),
    ("id", &[IDS, NO_IDS]),
    ("idmin", &[&[b"-", b"0", b"1", b"(1-1", b"2-1", b"(2", b"(3-0"], NO_IDS]),
    ("idmax", &[&[b"+", b"+", b"3", b"(3-1", b"2-2", b"(2-1", b"7"], NO_IDS]),
    ("group", &[&[b"g1", b"g1", b"g2"], &[b"g3", b""]]),
    ("consumer", &[&[b"c1", b"c2", b"c3"], &[b"c4", b""]]),
    // Entries are idle for almost no time, or for more than the longest of these.
    ("idle", &[&[b"0", b"0", b"500000"], &[b"-1", b"x"]]),
    ("setidle", &[&[b"0", b"1000000", b"5000000"], &[b"-1", b"x"]]),
    ("delivered", &[&[b"0", b"1000", b"4000000000000"], &[b"-1", b"x"]]),
    ("payload", &[PAYLOADS, VALUES]),
    ("badwait", &[&[b"-1", b"x", b""]]),
    ("past", &[&[b"1", b"0", b"-1", b"1000000000"]]),
];

/// Kinds of arguments that are times, all of them far in the future or in the past. Conditions such
/// as `GT` are used only with absolute times (`second`, `milli`), not with relative ones. `past` is
/// only for commands after which Redis deletes an expired key at once: otherwise Redis counts
/// expired keys for a while.
pub(crate) const CLOCK_KINDS: &[&str] = &["seconds", "millis", "second", "milli", "past"];

/// All keys. Their contents are compared at the end of a stream.
pub(crate) const ALL_KEYS: &[&[u8]] = &[
    b"s1", b"s2", b"s3", b"s4", b"", b"h1", b"h2", b"h3", b"l1", b"l2", b"l3", b"m1", b"m2", b"m3",
    b"z1", b"z2", b"z3", b"x1", b"x2", b"x3", b"never",
];

/// Payloads of `DUMP`, which Redis has made, and one with a wrong checksum.
const PAYLOADS: &[&[u8]] = &[
    b"\x00\x04text\x0a\x00|\xf3&m\xca\xb5\xa51",
    b"\x00\xc0\xff\x0a\x00\x0c\x93~$\x85\x08\x9d\xc5",
    b"\x0b\x0e\x02\x00\x00\x00\x03\x00\x00\x00\xfe\xff\x01\x00,\x01\x0a\x00[\x0a\xa8b\xf7\x94`\
      \x0a",
    b"\x02\x03\xc0\x01\x01b\x01a\x0a\x00Dg\xf0\xc6\xe2\xd1.[",
    b"\x04\x02\x01f\xc0\x01\x01g\x04text\x0a\x00\xedx\x93C\xc0\x9f\xd5\xea",
    b"\x11\xc3@@@I\x15I\x00\x00\x00\x0c\x00\x81c\x02\x84-inf\x05\x11\x01\x930.10\xe0\x05\x00\
      \x1f1\x14\x81a\x02\x01\x01\x81b\x02\x832.5\x04\x81e\x02\xf4\x00\x00\x8a]xEc\x01\x09\x81d\
      \x02\x83 8\x01\x04\xff\x0a\x00\xbf\xa3\x10v\x93Y\x8a\x03",
    b"\x13\x01\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\xc3@N@S\x12\
      S\x00\x00\x00 \x00\x03\x01\x01\x01\x02\x01\x81f\x02\x81g\x02\x00 \x09\x00\x00 \x01\x07\
      \x81v\x02\x02\x01\x05\x01\x03 \x0a\x05\x01\x01\x81w\x02\x03 \x0c@\x0a\x0e\xdf\xff\x02\
      \x01\x01\x85other\x06\x01\x01\x06 \x13@/ \" =\x04x\x02\x06\x01\xff\x03\x03\x01\x01\x01\
      \x01\x02\x04\x00\x0a\x00A\xde\xc0\x18\xe2\x11o<",
    b"\x01\x03\x01a\xc0\x07\x01c\x06\x00\x85]\xb8\xb9S:\xd5\x88",
    b"\x09\x11\x02\x01f\x02\x00v1\x01g\x03\x02abcXX\xff\x02\x00}E1\xf8G\xcb\x93|",
    b"\x00\x01v\x0a\x0012345678",
];

const STRING_KEYS: &[&[u8]] = &[b"s1", b"s2", b"s3", b"s4", b""];

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"text",
    b"other text",
    b"1.5",
    b"-0",
    b"007",
    b" 1",
    b"1 ",
    b"+1",
    b"3.0e3",
    b"0x10",
    b"nan",
    b"inf",
    b"-inf",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1e400",
    b"\x00\xff\r\n",
    b"\xf0\x0f\xaa",
    b"a text of forty-five bytes, one too many to embed",
    b"a text of more than sixty-four bytes, so it is longer than what lists pack",
];

const INTEGERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"1",
    b"2",
    b"-1",
    b"-1",
    b"7",
    b"-13",
    b"100",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775806",
    b"4294967296",
    b"-2147483649",
];

const NO_NUMBER: &[&[u8]] =
    &[b"x", b"", b"01", b"1.5", b"9223372036854775807", b"-9223372036854775808"];

const FLOATS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"0.1",
    b"1.5",
    b"-2.25",
    b"3.0e3",
    b"1e17",
    b"1e-5",
    b"100",
    b"0.3",
    b"-0.0",
    b"123456789.123",
];

/// Scores. They do not include -0 and numbers between 10^17 and 2^62, which Redis stores or formats
/// differently in large sets than in small ones.
const SCORES: &[&[u8]] = &[
    b"0",
    b"1",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"-5",
    b"0.1",
    b"0.2",
    b"3.1",
    b"1e19",
    b"1e300",
    b"inf",
    b"-inf",
    b"1e-5",
    b"0x1p3",
    b"12345678901234567",
    b"0.3e-7",
];

const ENDS: &[&[u8]] = &[
    b"", b"(", b"[", b"-", b"+", b"+x", b"x", b"nan", b"(nan", b" 1", b"1 ", b"1e400", b"(a",
    b"[\xff", b"+\x00x", b"1\x00x", b"-inf", b"+inf", b"[zz", b"0x10",
];

const FAR_OFFSETS: &[&[u8]] =
    &[b"-1", b"4294967296", b"536870912", b"9223372036854775807", b"x", b"", b"01", b"1.5"];

/// Amounts by which bit fields are increased. They do not include the smallest integer, which Redis
/// treats as a large one in saturating bit fields.
const AMOUNTS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"3",
    b"-7",
    b"100",
    b"-129",
    b"9223372036854775807",
    b"-9223372036854775000",
    b"4294967296",
];

const NO_PLACES: &[&[u8]] =
    &[b"-1", b"4294967296", b"9223372036854775807", b"#4294967296", b"x", b"", b"01", b"1.5", b"#"];

const NO_FIELDS: &[&[u8]] = &[b"u64", b"i65", b"i0", b"u", b"", b"x8", b"U8", b"u-1", b"i08"];

/// Keys of sorted sets in which the scores are positions.
pub(crate) const GEO_KEYS: &[&[u8]] = &[b"g1", b"g2", b"g3"];

/// Keys of HyperLogLogs. Only parts of their values are compared, because Redis stores the result
/// of `PFCOUNT` in them.
pub(crate) const LOG_KEYS: &[&[u8]] = &[b"p1", b"p2", b"p3"];

/// Elements of HyperLogLogs of all lengths modulo 8.
const ELEMENTS: &[&[u8]] = &[
    b"",
    b"a",
    b"b",
    b"ab",
    b"abc",
    b"abcd",
    b"abcde",
    b"abcdef",
    b"abcdefg",
    b"abcdefgh",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"7",
    b"8",
    b"9",
    b"10",
    b"11",
    b"12",
    b"13",
    b"14",
    b"15",
    b"16",
    b"17",
    b"18",
    b"19",
    b"20",
    b"21",
    b"22",
    b"23",
    b"24",
    b"25",
    b"26",
    b"27",
    b"28",
];

const LONGITUDES: &[&[u8]] =
    &[b"0", b"1.5", b"13.361389", b"-180", b"180", b"-122.4", b"179.99", b"2.35", b"-0.1"];
const LATITUDES: &[&[u8]] =
    &[b"0", b"1.5", b"38.115556", b"-85.05112878", b"85.05112878", b"48.85", b"-70.2", b"81"];
const NO_DEGREES: &[&[u8]] = &[b"180.1", b"-85.1", b"x", b"", b"inf", b"nan", b"1e300", b" 1"];
const NO_RADII: &[&[u8]] = &[b"-1", b"x", b"", b"1e400", b"-inf", b"0x10", b"1e300"];

/// Ids of new entries. They rise, and a stream is removed before they end.
const NEW_IDS: &[&[u8]] = &[
    b"1-*", b"2-*", b"3-*", b"5-*", b"7-*", b"7-*", b"7-*", b"9-*", b"1-1", b"2-1", b"3-0", b"4",
    b"0-1", b"0-*", b"9-1",
];

const IDS: &[&[u8]] = &[
    b"0", b"0-0", b"1", b"1-0", b"1-1", b"2-0", b"2-1", b"3", b"3-0", b"5-0", b"5-1", b"7-0",
    b"7-1", b"7-2", b"7-3", b"9-0", b"9-1", b"4-0",
];

const NO_IDS: &[&[u8]] = &[
    b"-",
    b"+",
    b"$",
    b">",
    b"(",
    b"(-",
    b"(+",
    b"x",
    b"",
    b"1-",
    b"-1",
    b"1-1-1",
    b"1-x",
    b"01-01",
    b" 1",
    b"1 ",
    b"18446744073709551615",
    b"18446744073709551616",
    b"18446744073709551615-18446744073709551615",
    b"(18446744073709551615-18446744073709551615",
    b"(0-0",
    b"4-18446744073709551615",
    b"5\x00x",
    b"1--1",
    b"+3-+0",
];

const PATTERNS: &[&[u8]] = &[
    b"*", b"*", b"s*", b"?1", b"[hs]*", b"[^s]?", b"s[1-2]", b"", b"\\s1", b"s\\", b"[s", b"*1*",
    b"never", b"a*", b"[a-c]", b"?",
];

const SECONDS: &[&[u8]] = &[b"1000", b"5000", b"100000", b"1000000"];
const MILLIS: &[&[u8]] = &[b"1000000", b"5000000", b"100000000", b"1000000000"];
const MOMENTS_IN_SECONDS: &[&[u8]] = &[b"4000000000", b"5000000000", b"9000000000"];
const MOMENTS_IN_MILLIS: &[&[u8]] = &[b"4000000000000", b"5000000000000", b"9000000000123"];
const NO_SECONDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"x",
    b"",
    b"1.5",
    b"9223372036854775807",
    b"9223372036854775",
    b"9223372036854776",
    b"-9223372036854775808",
];

/// Maximum difference between times in the replies, in seconds: each server reads its own clock.
const S: i64 = 20;
/// Maximum difference between times in the replies, in milliseconds.
const MS: i64 = 20_000;

/// The groups of templates, by the names that `BOWLINE_REDIS_GROUP` accepts.
pub(crate) const GROUPS: &[(&str, &[Template])] = &[
    ("strings", STRINGS),
    ("bits", BITS),
    ("keys", KEYS),
    ("hashes", HASHES),
    ("sets", SETS),
    ("lists", LISTS),
    ("zsets", SORTED_SETS),
    ("geo", POSITIONS),
    ("logs", HYPERLOGLOGS),
    ("sort", SORT),
    ("streams", STREAMS),
    ("connections", CONNECTIONS),
    ("databases", DATABASES),
];

/// Requests to compare the final state: they are sent for each key, which takes the place of the
/// word `key`, at the end of a stream. If the key has another type, both servers reply with an
/// error.
pub(crate) const LAST: &[Template] = &[
    same("TYPE key"),
    near(MS, "PTTL key"),
    same("GET key"),
    pairs("HGETALL key"),
    any_order("SMEMBERS key"),
    same("LRANGE key 0 -1"),
    same("ZRANGE key 0 -1 WITHSCORES"),
    same("XRANGE key - +"),
    timed(MS, "XINFO STREAM key FULL COUNT 0"),
];

/// As [`LAST`], for the keys of HyperLogLogs.
pub(crate) const LAST_LOGS: &[Template] =
    &[same("GETRANGE key 0 7"), same("GETRANGE key 16 -1"), same("PFCOUNT key")];

const STRINGS: &[Template] = &[
    same("SET str value"),
    same("SET str value [NX|XX|GET|KEEPTTL|EX seconds|PX millis|EXAT second|PXAT milli ...]"),
    same("SETNX str value"),
    same("GETSET str value"),
    same("GETDEL str"),
    same("GET str"),
    same("GET str"),
    same("MGET str [key ...]"),
    same("MSET str value [str value ...]"),
    same("APPEND str value"),
    same("STRLEN str"),
    same("INCR str"),
    same("DECR str"),
    same("INCRBY str int"),
    same("DECRBY str int"),
    same("SETEX str seconds value"),
    same("PSETEX str millis value"),
    same("GETEX str [PERSIST|EX seconds|PX millis|EXAT second|PXAT milli]"),
    same("GETEX str [PERSIST|EX seconds|PX millis|EXAT second|PXAT milli|value ...]"),
    same("MSETNX key value [key value ...]"),
    same("SETRANGE str offset value"),
    same("GETRANGE str index index"),
    same("SUBSTR str index index"),
    same("INCRBYFLOAT str float"),
    same("INCRBYFLOAT str float"),
    same("LCS str str [LEN|IDX|MINMATCHLEN count|WITHMATCHLEN ...]"),
    same("LCS str str [LEN|IDX [MINMATCHLEN count] [WITHMATCHLEN]]"),
];

const BITS: &[Template] = &[
    same("SETBIT str at bit"),
    same("GETBIT str at"),
    same("BITCOUNT str [index index [BYTE|BIT|value]]"),
    same("BITPOS str bit [index [index [BYTE|BIT|value]]]"),
    same("BITOP (AND|OR|XOR|NOT|value) str str [str ...]"),
    same("BITFIELD str [GET field place|SET field place amount|INCRBY field place amount ...]"),
    same("BITFIELD str OVERFLOW (WRAP|SAT|FAIL) (SET|INCRBY) field place amount"),
    same("BITFIELD str [(SET|INCRBY) field place amount|OVERFLOW (WRAP|SAT|FAIL|value) ...]"),
    same("BITFIELD_RO str [GET field place ...]"),
    same("BITFIELD_RO str GET field place [SET field place amount]"),
    same("SET str value"),
    same("GET str"),
];

const KEYS: &[Template] = &[
    same("DEL key [key ...]"),
    same("DEL key"),
    same("UNLINK key [key ...]"),
    same("EXISTS key [key ...]"),
    same("TYPE key"),
    same("DBSIZE"),
    same("FLUSHALL").once_in(40),
    same("FLUSHDB [SYNC|ASYNC|value]").once_in(40),
    shape("RANDOMKEY"),
    same("EXPIRE key seconds [NX|XX|value]"),
    same("PEXPIRE key millis [NX|XX]"),
    same("EXPIREAT key (second|second|past) [NX|XX|GT|LT ...]"),
    same("PEXPIREAT key (milli|milli|past) [NX|XX|GT|LT ...]"),
    same("PERSIST key"),
    near(S, "TTL key"),
    near(MS, "PTTL key"),
    near(S, "EXPIRETIME key"),
    near(MS, "PEXPIRETIME key"),
    same("RENAME key key"),
    same("RENAMENX key key"),
    same("COPY key key [REPLACE|DB bit ...]"),
    same("TOUCH key [key ...]"),
    any_order("KEYS pattern"),
    any_order("SCAN cursor COUNT 1000 [MATCH pattern|TYPE type ...] ; EXISTS key"),
    shape("SCAN cursor [COUNT count|MATCH pattern|value ...]"),
    same("RESTORE key 0 payload [REPLACE|IDLETIME count|FREQ count ...]"),
    same("RESTORE key milli payload ABSTTL [REPLACE]"),
    shape("OBJECT ENCODING key"),
    shape("OBJECT REFCOUNT key"),
    shape("OBJECT IDLETIME key"),
    same("OBJECT FREQ key"),
    same("OBJECT value key"),
    shape("MEMORY USAGE key"),
];

const HASHES: &[Template] = &[
    same("HSET hash member value [member value ...]"),
    same("HSET hash member int"),
    same("HSETNX hash member value"),
    same("HMSET hash member value [member value ...]"),
    same("HGET hash member"),
    same("HMGET hash member [member ...]"),
    same("HDEL hash member [member ...]"),
    same("HEXISTS hash member"),
    same("HSTRLEN hash member"),
    same("HLEN hash"),
    same("HINCRBY hash member int"),
    same("HINCRBYFLOAT hash member float"),
    pairs("HGETALL hash"),
    any_order("HKEYS hash"),
    any_order("HVALS hash"),
    shape("HRANDFIELD hash [some]"),
    shape("HRANDFIELD hash some [WITHVALUES|value]"),
    any_order("HRANDFIELD hash 1000 ; HLEN hash'"),
    any_order("HRANDFIELD hash 1000 WITHVALUES ; HLEN hash'"),
    shape("HSCAN hash cursor [MATCH pattern|COUNT some ...]"),
    pairs("HSCAN hash 0 [MATCH pattern] COUNT 1000 ; HLEN hash'"),
];

const SETS: &[Template] = &[
    same("SADD set member [member ...]"),
    same("SADD set member [member ...]"),
    same("SREM set member [member ...]"),
    same("SCARD set"),
    same("SISMEMBER set member"),
    same("SMISMEMBER set member [member ...]"),
    any_order("SMEMBERS set"),
    same("SMOVE set set member"),
    shape("SPOP set ; DEL set'"),
    shape("SPOP set count ; DEL set'"),
    any_order("SPOP set 1000 ; SMEMBERS set'"),
    shape("SRANDMEMBER set [some]"),
    any_order("SRANDMEMBER set 1000 ; SCARD set'"),
    any_order("SINTER set [set ...]"),
    any_order("SUNION set [set ...]"),
    any_order("SDIFF set [set ...]"),
    same("(SINTERSTORE|SUNIONSTORE|SDIFFSTORE) set [set ...] set"),
    same("SINTERCARD few set [set ...] [LIMIT count]"),
    // With a count that covers everything, and a cursor that Redis may have returned: otherwise the
    // reply depends on its hash table.
    any_order("SSCAN set (0|X) [MATCH pattern] COUNT 1000 ; SCARD set'"),
    same("COMMAND GETKEYS SINTERCARD few set [set ...]").once_in(4),
];

const LISTS: &[Template] = &[
    same("LPUSH list member [member ...]"),
    same("RPUSH list member [member ...]"),
    same("RPUSH list member member member value"),
    same("LPUSHX list member [member ...]"),
    same("RPUSHX list member"),
    same("LPOP list [count]"),
    same("RPOP list [count]"),
    same("LLEN list"),
    same("LRANGE list index index"),
    same("LRANGE list 0 -1"),
    same("LINDEX list index"),
    same("LSET list index value"),
    same("LINSERT list (BEFORE|AFTER) member value"),
    same("LREM list count member"),
    same("LTRIM list index index").once_in(2),
    same("RPOPLPUSH list list"),
    same("RPOPLPUSH list list'"),
    same("LMOVE list list (LEFT|RIGHT) (LEFT|RIGHT)"),
    same("LMOVE list list' (LEFT|RIGHT) (LEFT|RIGHT)"),
    same("LPOS list member [RANK rank|COUNT count|MAXLEN count ...]"),
    same("LMPOP few list [list ...] (LEFT|RIGHT) [COUNT count] ; LLEN list'"),
    same("COMMAND GETKEYS LMPOP few list [list ...] LEFT").once_in(4),
];

const SORTED_SETS: &[Template] = &[
    same("ZADD zset [NX|XX|GT|LT|CH] score member [score member ...]"),
    same("ZADD zset score member [score member ...]"),
    same("ZADD zset [NX|XX|GT|LT|CH|INCR ...] score member [score member ...]"),
    same("ZINCRBY zset score member"),
    same("ZREM zset member [member ...]"),
    same("ZCARD zset"),
    same("ZSCORE zset member"),
    same("ZMSCORE zset member [member ...]"),
    same("(ZRANK|ZREVRANK) zset member"),
    same("ZCOUNT zset smin smax"),
    same("ZRANGE zset index index [REV|WITHSCORES ...]"),
    same("ZRANGE zset smin smax BYSCORE [WITHSCORES] [LIMIT count count]"),
    same("ZRANGE zset smax smin BYSCORE REV [LIMIT count count] [WITHSCORES]"),
    same("ZRANGE zset smin smax [BYSCORE|REV|LIMIT count count|WITHSCORES ...]"),
    same("ZRANGESTORE zset zset smin smax [BYSCORE|REV|LIMIT count count|WITHSCORES ...]"),
    same("ZREVRANGE zset index index [WITHSCORES|REV|LIMIT count count ...]"),
    same("ZRANGEBYSCORE zset smin smax [WITHSCORES|LIMIT count count ...]"),
    same("ZREVRANGEBYSCORE zset smax smin [WITHSCORES|LIMIT count count ...]"),
    same("ZREMRANGEBYRANK zset index index"),
    same("ZREMRANGEBYSCORE zset smin smax"),
    same("(ZPOPMIN|ZPOPMAX) zset [count]"),
    same("ZMPOP few zset [zset] (MIN|MAX) [COUNT count]"),
    shape("ZRANDMEMBER zset [some [WITHSCORES]]"),
    same("(ZUNION|ZINTER) 2 zset zset [WEIGHTS weight weight] [AGGREGATE (SUM|(MIN|MAX))]"),
    same("(ZUNION|ZINTER) few zset zset [WEIGHTS weight weight|AGGREGATE MAX|WITHSCORES ...]"),
    same("(ZUNION|ZINTER) 2 zset set [WITHSCORES]"),
    same("(ZUNIONSTORE|ZINTERSTORE) zset 2 zset zset [WEIGHTS weight weight] [AGGREGATE MIN]"),
    same("(ZUNIONSTORE|ZINTERSTORE) zset few zset key [WEIGHTS weight weight]"),
    same("ZDIFF few zset zset [WITHSCORES]"),
    same("ZDIFFSTORE zset few zset zset [key]"),
    same("ZINTERCARD few zset zset [set] [LIMIT count]"),
    any_order("ZSCAN zset (0|X) [MATCH pattern] COUNT 1000 ; ZCARD zset'"),
    // By lexicographic order only where all scores are equal: otherwise Redis does not specify the
    // result.
    same(
        "DEL zset ; ZADD zset' 0 member 0 member 0 member 0 member ; ZRANGEBYLEX zset' lmin lmax \
          [LIMIT count count] ; ZREVRANGEBYLEX zset' lmax lmin [LIMIT count count] ; ZLEXCOUNT \
          zset' lmin lmax ; ZRANGE zset' lmin lmax BYLEX [WITHSCORES] ; ZRANGESTORE key zset' \
          lmax lmin BYLEX REV ; ZREMRANGEBYLEX zset' lmin lmax",
    ),
    same("COMMAND GETKEYS ZUNIONSTORE zset few zset [zset]").once_in(4),
    same("COMMAND GETKEYS (ZUNION|ZMPOP) few zset [zset ...]").once_in(4),
];

/// Each member has positions of its own, and none of them are at equal distances from a center,
/// because Redis sorts members at equal distances in any order.
const POSITIONS: &[Template] = &[
    same(
        "GEOADD geo [NX|XX|CH] [13.361389 38.115556 one|15.087269 37.502669 two|-122.27652 \
         37.805186 three|2.349014 48.864716 four|-0.127758 51.507351 five|179.1 -70.5 1|\
         -179.7 0.3 2|99.3 84.9 two ...] 12.758489 38.788135 one",
    ),
    same("GEOADD geo [CH] 13.583333 37.316667 one 2.349015 48.8647 two -122.276521 37.8051 three"),
    same(
        "GEOADD geo [CH] 17.24151 38.788135 four 31.2357 30.0444 five -179.99 12.3 1 179.98 12.4 2",
    ),
    same("GEOADD geo [NX|XX|CH ...] longitude latitude member ; ZREM geo' member'"),
    same("GEOADD geo [NX|XX|CH ...] longitude latitude"),
    same("ZREM geo member").once_in(2),
    same(
        "DEL geo ; SADD geo' member ; GEOADD geo' 1 1 member ; GEOPOS geo' member ; GEOHASH geo' \
         member ; GEODIST geo' member member ; GEOSEARCH geo' FROMMEMBER member BYRADIUS radius \
         unit ; GEORADIUS geo' 1 1 radius unit ; GEOSEARCHSTORE geo' geo' FROMMEMBER member BYBOX \
         radius radius unit ; DEL geo'",
    ),
    same("DEL geo").once_in(4),
    same("GEOPOS geo [member ...]"),
    same("GEOPOS zset member member member"),
    same("GEOHASH geo [member ...]"),
    same("GEOHASH zset member member member"),
    same("GEODIST geo member member [unit]"),
    same("GEODIST (geo|zset) member member [unit] [value]"),
    same("GEOSEARCH geo FROMMEMBER member BYRADIUS radius unit [ASC|DESC]"),
    same("GEOSEARCH geo FROMMEMBER member BYBOX radius radius unit [ASC|DESC] [COUNT few [ANY]]"),
    same(
        "GEOSEARCH geo FROMLONLAT longitude latitude BYRADIUS radius unit \
         [ASC|DESC|COUNT few|WITHDIST|WITHCOORD|WITHHASH ...]",
    ),
    same(
        "GEOSEARCH geo BYBOX radius radius unit FROMLONLAT longitude latitude \
         [ASC|DESC|COUNT few|ANY|WITHDIST|WITHCOORD|WITHHASH ...]",
    ),
    same(
        "GEOSEARCH geo [FROMMEMBER member|FROMLONLAT longitude latitude|BYRADIUS radius unit|\
         BYBOX radius radius unit ...] [ASC|COUNT count|ANY|STOREDIST|STORE geo|value ...]",
    ),
    same(
        "GEOSEARCHSTORE geo geo FROMMEMBER member BYRADIUS radius unit [ASC|DESC] \
         [COUNT few [ANY]]",
    ),
    same(
        "GEOSEARCHSTORE geo geo [FROMMEMBER member|FROMLONLAT longitude latitude|BYRADIUS radius \
         unit|BYBOX radius radius unit|COUNT few|ASC|WITHDIST ...]",
    ),
    // The scores are distances, compared as far as they do not depend on the last digit.
    same(
        "GEOSEARCHSTORE zset geo FROMMEMBER member BYBOX radius radius unit STOREDIST ; ZCARD \
         zset' ; ZRANGE zset' 0 -1 ; DEL zset'",
    ),
    same("(GEORADIUS|GEORADIUS_RO) geo longitude latitude radius unit [WITHDIST|COUNT few ...]"),
    same(
        "(GEORADIUS|GEORADIUS_RO) geo longitude latitude radius unit \
         [WITHCOORD|WITHHASH|ASC|DESC|COUNT count [ANY]|STORE geo|value ...]",
    ),
    same(
        "(GEORADIUSBYMEMBER|GEORADIUSBYMEMBER_RO) geo member radius unit \
         [WITHDIST|COUNT few|ASC|DESC ...]",
    ),
    same("GEORADIUSBYMEMBER geo member radius unit [ASC|COUNT few|WITHDIST ...] STORE geo"),
    same("GEORADIUSBYMEMBER geo member radius unit STOREDIST zset ; ZCARD zset' ; DEL zset'"),
    same("COMMAND GETKEYS GEORADIUS geo 1 1 radius M [ASC|COUNT few ...] [STORE geo]").once_in(4),
    same("COMMAND GETKEYS GEORADIUSBYMEMBER geo member 1 M [STOREDIST geo]").once_in(4),
    same("COMMAND GETKEYS GEOSEARCHSTORE geo geo FROMMEMBER member BYRADIUS 1 M").once_in(4),
    same("ZRANGE geo 0 -1 WITHSCORES"),
];

const HYPERLOGLOGS: &[Template] = &[
    same("PFADD log [element ...]"),
    same("PFADD log element element element element element element element element element"),
    same("PFADD log element ; GETRANGE log' 16 -1"),
    same("DEL log ; PFADD log' element element ; GET log' ; PFADD log' element ; GET log'"),
    same("PFCOUNT log"),
    same("PFCOUNT log log [log ...]"),
    same("PFMERGE log [log ...]"),
    same("PFMERGE log log ; GETRANGE log' 16 -1"),
    same("DEL log").once_in(5),
    same("PFDEBUG (ENCODING|DECODE) log"),
    same("PFDEBUG GETREG log").once_in(10),
    same("PFDEBUG TODENSE log").once_in(10),
    same("PFDEBUG (value|DECODE) log [value]"),
    same("GETRANGE log 0 7 ; GETRANGE log' 16 -1"),
    // Corrupt values.
    same(
        "SETRANGE log (0|4|16|17|20) bit ; PFCOUNT log' log' ; PFMERGE log' log' ; PFDEBUG DECODE \
         log' ; PFDEBUG TODENSE log' ; DEL log'",
    )
    .once_in(3),
    same("APPEND log value ; PFADD log' element ; DEL log'").once_in(3),
    same("SET log value ; PFADD log' element ; PFCOUNT log' ; DEL log'").once_in(3),
    same("COPY log log REPLACE").once_in(5),
    same(
        "DEL log ; SADD log' element ; PFADD log' element ; PFCOUNT log' ; PFCOUNT log' log' ; \
         PFMERGE log' log' ; PFDEBUG GETREG log' ; DEL log'",
    ),
    same("COMMAND GETKEYS (PFADD|PFCOUNT|PFMERGE) log log log").once_in(4),
    same("COMMAND GETKEYS PFDEBUG GETREG log").once_in(4),
];

/// Numbers are parsed before each request that sorts by numbers, because Redis checks an error code
/// that an earlier request may have set. Texts at other keys are compared only in lists as a whole:
/// otherwise Redis does not define the order of elements with equal texts.
const SORT: &[Template] = &[
    same("RPUSH list member member member value"),
    same("DEL list ; RPUSH list' index index float float index"),
    same("DEL set ; SADD set' index index float index"),
    same("ZADD zset index index score float index float"),
    same("MSET str float str float str value"),
    same("HSET hash one float 1 value"),
    same("ZADD never XX 0 X ; SORT sortkey [LIMIT index index|ASC|DESC ...]"),
    same("ZADD never XX 0 X ; SORT_RO sortkey [LIMIT index index|ASC|DESC ...]"),
    same("(SORT|SORT_RO) (list|set|zset) ALPHA [ASC|DESC|LIMIT index index ...]"),
    same("ZADD never XX 0 X ; SORT sortkey BY weights [LIMIT index index|DESC|GET weights ...]"),
    same(
        "DEL list ; RPUSH list' member member member value ; SORT list' BY weights ALPHA \
         [ASC|DESC|GET weights|GET # ...]",
    ),
    same(
        "DEL list ; RPUSH list' member member member ; (SORT|SORT_RO) list' BY X [LIMIT index \
         index|ASC|DESC|GET weights ...]",
    ),
    same(
        "DEL zset ; ZADD zset' index member index member score member ; (SORT|SORT_RO) zset' BY X \
         [LIMIT index index|ASC|DESC|GET weights ...]",
    ),
    any_order("SORT set BY X [ASC|DESC]"),
    same("SORT set BY X [LIMIT index index|DESC ...] STORE list"),
    same("SORT sortkey ALPHA [LIMIT index index|DESC|GET #|GET weights ...] STORE list"),
    same("ZADD never XX 0 X ; SORT sortkey [BY weights|LIMIT count index|DESC ...] STORE list"),
    same(
        "ZADD never XX 0 X ; (SORT|SORT_RO) list [BY weights|LIMIT index index|GET weights|\
         STORE list|ASC|value ...]",
    ),
    same("COMMAND GETKEYS SORT list [BY weights|LIMIT 0 1|GET weights|ASC ...] [STORE list]")
        .once_in(4),
    same("COMMAND GETKEYS SORT_RO list [BY weights|LIMIT 0 1|GET weights|ASC ...]").once_in(4),
];

const STREAMS: &[Template] = &[
    same("XADD stream newid member member [member member ...]"),
    same("XADD stream newid member member"),
    same("XADD stream newid member member"),
    same("XADD stream [NOMKSTREAM|MAXLEN few|MINID id|LIMIT few] newid member member"),
    same("XADD stream (MAXLEN|MINID) [~|=] (few|id) [LIMIT count] newid member member"),
    shape("XADD stream * member member ; DEL stream'").once_in(3),
    same("XLEN stream"),
    same("XRANGE stream idmin idmax [COUNT count]"),
    same("XREVRANGE stream idmax idmin [COUNT count]"),
    same("XRANGE stream id id [COUNT|COUNT count|value ...]"),
    same("XDEL stream id [id ...]"),
    same("XTRIM stream (MAXLEN|MINID) [~|=] (few|id) [LIMIT count]").once_in(3),
    same("XTRIM stream [MAXLEN few|MINID id|LIMIT few ...]").once_in(3),
    same("XSETID stream id [ENTRIESADDED count|MAXDELETEDID id ...]").once_in(4),
    same("DEL stream").once_in(4),
    same("XREAD [COUNT count] STREAMS stream id"),
    same("XREAD [COUNT count] STREAMS stream stream id (id|$)"),
    same(
        "XREAD [COUNT count|BLOCK badwait|NOACK|GROUP group consumer|value ...] STREAMS stream id",
    ),
    same("XREAD STREAMS stream id [id]"),
    same("XREAD [COUNT count] BLOCK 1 STREAMS stream (id|$)").once_in(4),
    same("XGROUP CREATE stream group (id|$|0) [MKSTREAM|ENTRIESREAD count ...]"),
    same("XGROUP CREATE stream group 0 MKSTREAM"),
    same("XGROUP SETID stream group (id|$) [MKSTREAM|ENTRIESREAD count ...]").once_in(3),
    same("XGROUP DESTROY stream group").once_in(5),
    same("XGROUP CREATECONSUMER stream group consumer"),
    same("XGROUP DELCONSUMER stream group consumer").once_in(3),
    same("XGROUP (CREATE|SETID|DESTROY|value) stream group").once_in(5),
    same("XREADGROUP GROUP group consumer [COUNT count|NOACK ...] STREAMS stream >"),
    same("XREADGROUP GROUP group consumer COUNT few STREAMS stream >"),
    same("XREADGROUP GROUP group consumer [COUNT count|NOACK ...] BLOCK 1 STREAMS stream >")
        .once_in(4),
    same("XREADGROUP GROUP group consumer [COUNT count|NOACK ...] STREAMS stream (id|0)"),
    same("XREADGROUP GROUP group consumer STREAMS stream stream (>|id) (>|0)"),
    same("XREADGROUP [GROUP group consumer|COUNT count|NOACK|value ...] STREAMS stream > [>]"),
    same("XACK stream group id [id ...]"),
    same("XPENDING stream group"),
    timed(MS, "XPENDING stream group [IDLE idle] idmin idmax count [consumer]"),
    timed(MS, "XPENDING stream group - + 10"),
    timed(MS, "XPENDING stream group [IDLE idle|idmin|count|value ...]"),
    same("XCLAIM stream group consumer idle id [id ...]"),
    same(
        "XCLAIM stream group consumer idle id [id ...] [IDLE setidle|TIME delivered|\
         RETRYCOUNT count|FORCE|JUSTID|LASTID id|value ...]",
    ),
    same("XAUTOCLAIM stream group consumer idle idmin [COUNT few|JUSTID ...]"),
    same("XAUTOCLAIM stream group consumer idle id [COUNT count|JUSTID|value ...]"),
    timed(MS, "XINFO STREAM stream"),
    timed(MS, "XINFO STREAM stream FULL [COUNT count|value]"),
    same("XINFO GROUPS stream"),
    timed(MS, "XINFO CONSUMERS stream group"),
    timed(MS, "XINFO (STREAM|GROUPS|CONSUMERS|value) stream [FULL|COUNT|group]").once_in(3),
    shape("OBJECT ENCODING stream"),
    same("COMMAND GETKEYS XREAD [COUNT count] STREAMS stream stream id id").once_in(4),
    same("COMMAND GETKEYS XREADGROUP GROUP group consumer NOACK STREAMS stream id [id]").once_in(4),
];

/// Most keys are in database 0, so that the requests of other groups find them.
const DATABASES: &[Template] = &[
    same("SELECT 0"),
    same("SELECT 0"),
    same("SELECT 0"),
    same("SELECT db"),
    same("SELECT (0|1|2)"),
    same("MOVE key db"),
    same("MOVE key (0|1|2)"),
    same("COPY key key DB db [REPLACE]"),
    same("COPY key key [REPLACE|DB db ...]"),
    same("SWAPDB db db").once_in(2),
    same("FLUSHDB").once_in(8),
    same("DBSIZE"),
    same("SELECT 1 ; SET str value ; SELECT 0"),
    same("SELECT 2 ; RPUSH list member ; SELECT 0"),
];

const CONNECTIONS: &[Template] = &[
    same("PING [value]").once_in(4),
    same("ECHO value").once_in(4),
    same("CLIENT SETNAME member").once_in(4),
    same("CLIENT GETNAME").once_in(4),
    same("NONESUCH [value ...]").once_in(4),
];
