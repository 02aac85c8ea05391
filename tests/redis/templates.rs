//! The templates of the requests in random streams. To add a command, add a line to its group here;
//! the syntax is described in `grammar.rs`, the kinds of arguments are in `arguments.rs`.

use super::grammar::{Template, any_order, near, pairs, same, shape, timed};

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
