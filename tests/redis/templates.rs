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
    ("streams", STREAMS),
    ("connections", CONNECTIONS),
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

const CONNECTIONS: &[Template] = &[
    same("PING [value]").once_in(4),
    same("ECHO value").once_in(4),
    same("CLIENT SETNAME member").once_in(4),
    same("CLIENT GETNAME").once_in(4),
    same("SELECT bit").once_in(4),
    same("NONESUCH [value ...]").once_in(4),
];
