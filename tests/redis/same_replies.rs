//! Sends the same requests to this server and to a real Redis, and compares every byte of the
//! replies.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use bowline::wire::resp::Limits;

use super::local_server::LocalServer;
use super::reference::Reference;

/// Requests that get equal replies, one per line. Requests about the server itself (version,
/// commands, connections) are missing, because their replies cannot be compared.
const SAME: &str = r#"
PING
ping hello
PING a b
ECHO "\x00\r\n"
ECHO
SET k v
GET k
GET nothing
GET
get k extra
SET k
SET k v nonsense
SET k v NX XX
SET k v NX
SET k w XX
SET k v NX GET
SET new v XX
SET new v XX GET
SET new v NX GET
set k v gEt
SETRANGE long 67108864 x
SETRANGE long 67108863 x
SETRANGE long 67108864 ""
SETRANGE long 67108862 xyz
APPEND long x
APPEND long ""
SETBIT long 536870912 1
SETBIT long 536870911 1
GETBIT long 536870912
GETBIT long 536870911
BITFIELD long SET u8 536870912 1
BITFIELD long GET u8 #67108864
BITFIELD long SET u8 #67108863 7
BITFIELD_RO long GET u8 536870912
BITCOUNT long
CONFIG SET proto-max-bulk-len 128mb
SETRANGE long 67108863 xyz
BITFIELD long GET u8 #67108864
GETRANGE long 67108860 -1
CONFIG SET proto-max-bulk-len 1mb
APPEND long x
SETBIT long 8388608 1
SETRANGE long 1048575 x
SETRANGE long 1048576 x
CONFIG GET proto-max-bulk-len
CONFIG SET proto-max-bulk-len 64mb
STRLEN long
DEL long
SETNX k v
SETNX other v
GETSET k new
GETSET absent new
GETDEL absent
GETDEL absent
MSET a 1 b 2 a 3
MSET a 1 b
MSET a
MGET a nothing b a
MGET
APPEND a xyz
APPEND fresh ""
APPEND fresh z
STRLEN a
STRLEN nothing
INCR a
INCR n
INCRBY n 41
DECR n
DECRBY n 50
INCRBY n 9223372036854775807
INCRBY n 9223372036854775807
INCRBY n 9223372036854775808
INCRBY n 1.5
INCRBY n " 1"
INCRBY n 01
INCRBY n +1
INCRBY n -0
INCRBY n ""
DECRBY n -9223372036854775808
DECRBY n nonsense
SET n " 1"
INCR n
SET n ""
INCR n
SET n -9223372036854775808
DECR n
INCR n
EXISTS a b nothing a
EXISTS nothing
TYPE a
TYPE nothing
DEL a nothing b a
DEL nothing
UNLINK k n
UNLINK k n
DBSIZE
DBSIZE extra
HSET h a 1 b 2 c 3
HSET h a 4 d
HSET h
HMSET h a
HMSET h e 5 a 6
HDEL h b nothing
HGETALL h
HKEYS h
HVALS h
HGETALL nothing
HKEYS nothing
HSCAN h 0
HSCAN h 9 COUNT 1
HSCAN h 0 MATCH [a-c]
HSCAN h 0 COUNT 0
HSCAN h 0 COUNT x y
HSCAN h 0 MATCH
HSCAN h 0 NOVALUES
HSCAN h x
HSCAN nothing 0 nonsense
HSCAN nothing " 1"
HRANDFIELD h 100
HRANDFIELD h 100 withvalues
HRANDFIELD h 0
HRANDFIELD h x
HRANDFIELD h 1 nonsense
HRANDFIELD h 1 WITHVALUES 2
HRANDFIELD h -9223372036854775808
HRANDFIELD h 9223372036854775807 WITHVALUES
HRANDFIELD nothing
HRANDFIELD nothing 1
HINCRBYFLOAT h f 1e4932
HINCRBYFLOAT h f 1e4932
HINCRBYFLOAT h g 0x1.8p1
HINCRBYFLOAT h g 1e-4951
HINCRBYFLOAT h g -Infinity
HSET h g nan i inf
HINCRBYFLOAT h g 1
HINCRBYFLOAT h i 1
RPUSH l a b c a
LPUSH l
LPOP l x
LPOP l -1
LPOP l 1 2
LPOP l 0
LPOP nothing 0
LPOP nothing
RPOP nothing 2
LPOP h
LINDEX nothing x
LINDEX l x
LSET nothing x v
LSET l x v
LSET l 9 v
LSET l -5 v
LINSERT nothing NEXT a b
LINSERT l BEFORE z v
LREM l -9223372036854775808 a
LRANGE nothing x 1
LTRIM nothing 0 y
RPOPLPUSH l h
RPOPLPUSH nothing h
LMOVE l l UP LEFT
LPOS l a RANK 0
LPOS l a RANK -9223372036854775808
LPOS l a RANK x
LPOS l a COUNT x
LPOS l a COUNT -1
LPOS l a MAXLEN -1
LPOS l a COUNT
LPOS nothing a COUNT 0
LPOS nothing a
LPOS l a COUNT 0 RANK -1
LMPOP 0 l LEFT
LMPOP x l LEFT
LMPOP 2 l LEFT
LMPOP 1 l UP
LMPOP 1 l LEFT COUNT
LMPOP 1 l LEFT COUNT 0
LMPOP 1 l LEFT COUNT x
LMPOP 1 l LEFT COUNT 1 COUNT 1
LMPOP 1 nothing LEFT
LMPOP 2 nothing h LEFT
LMPOP 2 nothing l RIGHT COUNT 2
FLUSHDB ASYNC
FLUSHALL SYNC
FLUSHALL nonsense
FLUSHALL SYNC ASYNC
DBSIZE
foo
foo 'bar baz' "\r\n" third
"f\r\noo" bar
client nonsense
CLIENT
CLIENT ID extra
CLIENT GETNAME
MEMORY USAGE nothing SAMPLES 0
MEMORY USAGE nothing SAMPLES x
MEMORY USAGE nothing SAMPLES -1
MEMORY USAGE nothing SAMPLES
MEMORY USAGE nothing COUNT 5
PUBLISH "" m
PUBSUB CHANNELS *
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME "a b"
CLIENT SETNAME ""
CLIENT GETNAME
CLIENT LIST TYPE nonsense
CLIENT LIST TYPE pubsub
CLIENT LIST nonsense
CLIENT LIST ID x
CLIENT LIST ID 0
CLIENT TRACKINGINFO
CLIENT GETREDIR
CLIENT CACHING YES
CLIENT TRACKING ON
CLIENT TRACKING ON OPTIN
CLIENT TRACKINGINFO
CLIENT CACHING YES
CLIENT TRACKINGINFO
CLIENT TRACKINGINFO x
CLIENT CACHING no
CLIENT CACHING x
CLIENT TRACKING off nonsense
CLIENT TRACKING OFF
CLIENT TRACKING
CLIENT PAUSE x
CLIENT PAUSE 1 y
CLIENT UNPAUSE
CLIENT UNPAUSE x
PUBSUB SHARDCHANNELS *
PUBSUB SHARDNUMSUB a b
SPUBLISH a
SPUBLISH a b
COMMAND GETKEYS MEMORY USAGE k
COMMAND GETKEYS OBJECT NONSENSE k
CONFIG nonsense
CONFIG GET
CONFIG GET maxmemory
CONFIG SET maxmemory 100mb
CONFIG GET maxmemory
CONFIG SET maxmemory 5x
CONFIG SET maxmemory 0 nonsense 1
CONFIG SET nonsense 1
CONFIG SET maxmemory
CONFIG SET maxmemory 1 timeout
CONFIG SET databases 7
CONFIG SET maxclients 100
CONFIG GET maxclients
CONFIG SET maxclients 0
CONFIG SET maxclients 10 MAXCLIENTS 20
CONFIG SET maxclients 10 nonsense 1 maxclients 20
CONFIG SET timeout 100
CONFIG GET time?ut
CONFIG SET timeout -1
CONFIG SET timeout 99999999999
CONFIG SET timeout soon
CONFIG SET timeout 0 maxclients 10000
CONFIG SET maxmemory-clients 32mb
CONFIG GET maxmemory-clients
CONFIG SET tcp-keepalive x
CONFIG SET slowlog-log-slower-than -2
CONFIG SET slowlog-log-slower-than -1
CONFIG SET latency-monitor-threshold -1
CONFIG SET appendfsync nonsense
CONFIG SET appendfsync ALWAYS
CONFIG GET appendfsync
CONFIG SET maxmemory-policy nonsense
CONFIG SET maxmemory-policy noeviction
CONFIG SET appendonly maybe
CONFIG SET save "900 1 300"
CONFIG SET save "0 1"
CONFIG SET save nonsense
CONFIG SET save ""
CONFIG SET slowlog-max-len 100
CONFIG GET slowlog-max-*
CONFIG SET slowlog-max-len 128 maxmemory 0
CONFIG GET [n]othing
SELECT 0
SELECT 99
SELECT -1
SELECT x
SELECT 99999999999999
SELECT
SELECT 0 1
CONFIG GET databases
SET here 0
MOVE here 0
MOVE here 16
MOVE here -1
MOVE here x
MOVE here 99999999999
MOVE here
MOVE nothing 1
MOVE here 3
MOVE here 3
EXISTS here
SELECT 3
GET here
COPY here there DB 0
COPY here here DB 3
COPY here here DB 4
COPY here here DB 4
COPY here here DB 4 REPLACE
COPY here here REPLACE DB 5 DB 6
COPY here here DB
COPY here here DB 16
COPY here here DB x
COPY here here DB 99999999999
DBSIZE
RANDOMKEY
KEYS *
SCAN 0 COUNT 100
SWAPDB 3 4
SWAPDB 3 3
SWAPDB x 16
SWAPDB 16 x
SWAPDB 16 1
SWAPDB 1 -1
SWAPDB 99999999999 0
SWAPDB 0
SWAPDB 0 1 2
FLUSHDB nonsense
FLUSHDB SYNC ASYNC
FLUSHDB SYNC
DBSIZE
SELECT 6
GET here
SELECT 0
GET there
DEL there
FLUSHALL x
COMMAND GETKEYS MOVE a 1
COMMAND GETKEYS SWAPDB 0 1
COMMAND GETKEYS COPY a b DB 3
AUTH secret
AUTH default secret
AUTH nobody secret
AUTH a b c
HELLO 9
HELLO x
HELLO 3 nonsense
HELLO 2 AUTH default
HELLO 2 AUTH nobody secret
HELLO 2 SETNAME "a b"
FUNCTION FLUSH
FUNCTION FLUSH SYNC
FUNCTION FLUSH nonsense
FUNCTION FLUSH SYNC ASYNC
COMMAND GETKEYS GET k
COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYS nonsense k
COMMAND GETKEYS PING
COMMAND GETKEYS GET
COMMAND INFO nonsense
COMMAND LIST FILTERBY PATTERN getd*
COMMAND LIST FILTERBY MODULE none
COMMAND LIST FILTERBY nonsense x
COMMAND LIST nonsense
COMMAND DOCS nonsense
SET e 123
OBJECT ENCODING e
OBJECT REFCOUNT e
SET e 12345678901234567890
OBJECT ENCODING e
OBJECT REFCOUNT e
SET e 99999
OBJECT REFCOUNT e
SET e "a text of forty-four bytes: it is embedded st"
OBJECT ENCODING e
SET e "a text of forty-five bytes: it stands alone.."
OBJECT ENCODING e
OBJECT FREQ e
OBJECT FREQ nothing
OBJECT IDLETIME e
OBJECT ENCODING
OBJECT ENCODING e e
OBJECT nonsense e
HSET eh f v
OBJECT ENCODING eh
HSET eh f "a field of sixty-four bytes is packed, but sixty-five are too many"
OBJECT ENCODING eh
BITFIELD
BITOP AND a
TIME extra
ROLE extra
READONLY extra
RESET
PING
DEL l m s z
SET s v
RPUSH l 1 2 3 4 5 6
BLPOP l 0
BLPOP nothing l 0
BRPOP nothing l 0
BLPOP l
BLPOP l x
BLPOP l -1
BLPOP l nan
BLPOP l inf
BLPOP l 1e300
BLPOP nothing 0.001
BLPOP nothing 0x1p-10
BRPOP nothing none 0.001
BLPOP s l 0
BLPOP nothing s 0
BLMOVE l m LEFT RIGHT 0
BLMOVE l m LEFT BESIDE 0
BLMOVE l m LEFT BESIDE x
BLMOVE l m LEFT LEFT x
BLMOVE l s LEFT LEFT 0
BLMOVE nothing s LEFT LEFT 0.001
BRPOPLPUSH l m 0
BRPOPLPUSH nothing m 0.001
BRPOPLPUSH s m 0
LRANGE m 0 -1
BLMPOP 0 2 nothing m LEFT COUNT 2
BLMPOP 0.001 2 nothing m LEFT
BLMPOP x 1 m LEFT
BLMPOP x 0 m LEFT
BLMPOP 0 0 m LEFT
BLMPOP 0 x m LEFT
BLMPOP 0 1 m BESIDE
BLMPOP 0 1 m LEFT COUNT 0
BLMPOP 0 1 m LEFT COUNT 1 COUNT 1
BLMPOP 0 2 m LEFT
BLMPOP 0 1 m
BLMPOP -1 1 m LEFT
ZADD z 1 one 2 two 3 three 4 four
BZPOPMIN nothing z 0
BZPOPMAX z 0
BZPOPMIN s 0
BZPOPMAX nothing 0.001
BZMPOP 0 2 nothing z MAX COUNT 9
BZMPOP 0.001 1 z MIN
BZMPOP 0 1 z LEFT
RPUSH l 1
MULTI
BLPOP nothing 0
BLMOVE nothing l LEFT LEFT 0
BRPOPLPUSH nothing l 0
BLMPOP 0 1 nothing LEFT
BLPOP l 0
BLPOP l x
BZPOPMIN nothing 0
EXEC
WAIT x 0
WAIT 1 x
WAIT 1 -1
COMMAND GETKEYS BLPOP a b 0
COMMAND GETKEYS BLMPOP 0 2 a b LEFT
DEL l m s z
GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEOADD g NX XX 1 2 a
GEOADD g 1 2
GEOADD g 180.1 2 a
GEOADD g 1 -85.06 a
GEOADD g inf x a
GEOADD g 1e300 1 a
GEOADD k 1 2 a
GEOPOS g Palermo nobody Catania
GEOPOS nothing a
GEOHASH g Palermo nobody
GEODIST g Palermo Catania
GEODIST g Palermo Catania mi
GEODIST g Palermo Catania miles
GEODIST nothing Palermo Catania
GEODIST k a b
GEOSEARCH g FROMLONLAT 15 37 BYBOX 400 400 km ASC WITHCOORD WITHDIST WITHHASH
GeoSearch g FROMLONLAT 15 37 ASC ASC
GeoSearch g BYRADIUS 15 km ASC ASC
GEOSEARCHSTORE to g FROMLONLAT 15 37 BYRADIUS 400 km WITHDIST
GEOSEARCHSTORE to g FROMLONLAT 15 37 BYRADIUS 400 km
ZRANGE to 0 -1 WITHSCORES
GEORADIUS g 15 37 200 km STORE to COUNT 1
GEORADIUS g 15 37 200 km STORE to WITHDIST
GEORADIUS_RO g 15 37 200 km STORE to
GEORADIUS g 15 37 -1 km
GEORADIUS g 15 37 x km
GEORADIUS nothing 15 37 200 km
GEORADIUSBYMEMBER g nobody 1 km
GEORADIUSBYMEMBER nothing nobody x y
ZCARD to
PFADD few a b c
GET few
PFADD few a
PFCOUNT few few nothing
PFCOUNT nothing
PFDEBUG DECODE few
PFDEBUG ENCODING few
PFDEBUG nonsense few
PFDEBUG ENCODING nothing
PFADD k x
PFADD g x
PFMERGE few k
PFMERGE merged few nothing
GET merged
SETRANGE merged 20 xyz
PFCOUNT merged
PFDEBUG TODENSE merged
CONFIG SET hll-sparse-max-bytes 20
CONFIG GET hll-sparse-max-bytes
PFADD dense a b c
PFDEBUG ENCODING dense
GET dense
CONFIG SET hll-sparse-max-bytes 3000
PFMERGE few dense
GET few
RPUSH sorted 3 10 1 2
MSET w_1 40 w_2 30 w_3 20
SORT sorted BY w_* GET # GET w_* DESC
SORT sorted BY nothing LIMIT 1 2
SORT sorted ALPHA STORE to
LRANGE to 0 -1
SORT sorted LIMIT x 1
SORT sorted STORE
SORT_RO sorted STORE to
SORT k
RPUSH sorted text
SORT sorted
SORT nothing STORE to
EXISTS to
"#;

/// Inputs after which the server closes the connection.
const BROKEN: &[&[u8]] = &[
    b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
    b"*abc\r\n",
    b"*\r\n",
    b"*20000000000\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$2000000000\r\n",
    b"*1\r\n:1\r\n",
    b"PING\r\n*0\r\n\r\n*-7\r\nPING\n*2\r\n!\r\n",
    b"set \"a\r\n",
    b"set 'a'b\r\n",
    b"PING\r\nQUIT\r\nPING\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"Host: a\r\n",
];

/// Text that separates the replies from one another.
const MARK: &[u8] = b"a mark between replies";

/// Sends lines to both servers, each followed by a mark, and compares the replies between the
/// marks.
fn compare(reference: &mut UnixStream, server: &mut LocalServer, lines: &[Vec<u8>]) {
    let mark = [b"ECHO '", MARK, b"'\r\n"].concat();
    let sent: Vec<u8> =
        lines.iter().flat_map(|line| [line, &b"\r\n"[..], &mark].concat()).collect();
    server.receive(&sent);
    let ours = parts(&server.replies());
    let mut writer = reference.try_clone().expect("a second handle");
    let writing = thread::spawn(move || writer.write_all(&sent));
    let (mut theirs, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    let mut marks = 0;
    while marks < lines.len() {
        let length = reference.read(&mut piece).expect("it answers");
        assert_ne!(length, 0, "it closed the connection");
        let from = theirs.len().saturating_sub(MARK.len() - 1);
        theirs.extend_from_slice(&piece[..length]);
        marks += theirs[from..].windows(MARK.len()).filter(|part| *part == MARK).count();
    }
    writing.join().expect("it does not panic").expect("it reads all");
    let theirs = parts(&theirs);
    let differences: Vec<String> = lines
        .iter()
        .zip(ours.iter().zip(&theirs))
        .filter(|(_, (ours, theirs))| ours != theirs)
        .map(|(line, (ours, theirs))| {
            let [line, ours, theirs] = [line, ours, theirs].map(|text| text.escape_ascii());
            format!("{line}\n    ours   {ours}\n    theirs {theirs}\n")
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.concat());
    assert_eq!(ours.len(), theirs.len());
}

/// Splits the replies at the marks, and returns them without the marks.
fn parts(replies: &[u8]) -> Vec<Vec<u8>> {
    let mark = [format!("${}\r\n", MARK.len()).as_bytes(), MARK, b"\r\n"].concat();
    let (mut parts, mut from) = (Vec::new(), 0);
    while let Some(at) = replies[from..].windows(mark.len()).position(|part| part == mark) {
        parts.push(replies[from..from + at].to_vec());
        from += at + mark.len();
    }
    parts
}

#[test]
fn listed_requests_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let lines = || SAME.lines().filter(|line| !line.is_empty());
    for version in ["2", "3"] {
        let mut stream = reference.connect();
        let mut server = LocalServer::new(Limits::default());
        // The reply to HELLO describes the server; only later replies are compared.
        let greeting = format!("HELLO {version}\r\nFLUSHALL\r\n");
        stream.write_all(greeting.as_bytes()).expect("it reads");
        let mut answered = Vec::new();
        while !answered.ends_with(b"+OK\r\n") {
            let mut piece = [0; 1_000];
            let length = stream.read(&mut piece).expect("it answers");
            answered.extend_from_slice(&piece[..length]);
        }
        server.receive(greeting.as_bytes());
        server.replies();
        // Errors quote 128 bytes of the name, and 128 bytes of all arguments together.
        let long = [format!("FOO {} {} c", "a".repeat(70), "b".repeat(70)), "f".repeat(150)];
        // More elements than fit into the sparse encoding.
        let elements: Vec<String> = (0..2_500).map(|number| number.to_string()).collect();
        let many = format!("PFADD many {}", elements.join(" "));
        let many = [many, "GET many".to_owned(), "PFCOUNT many many".to_owned()];
        let lines = lines().map(str::to_owned).chain(long).chain(many);
        let lines: Vec<Vec<u8>> = lines.map(String::into_bytes).collect();
        compare(&mut stream, &mut server, &lines);
    }
}

/// Beginnings of the names of commands that Redis does not have, or not in this mode.
const OWN: &[&str] = &[
    "sentinel",
    "debug|",
    "changes",
    "clock",
    "keyrange",
    "latency|trace",
    "members",
    "object|revision",
    "snapshot",
];
/// Commands of this server that Redis 7.0 lacks, because Redis has them only in later versions or
/// not at all.
const LATER: &[&str] =
    &["client|setinfo", "client|no-touch", "cluster|myshardid", "delex", "once", "waitaof"];

#[test]
fn command_table_matches_that_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let ask = |request: &str| {
        let mut server = LocalServer::new(Limits::default());
        server.receive(format!("{request}\r\n").as_bytes());
        String::from_utf8(server.replies()).expect("names are text")
    };
    let list = ask("COMMAND LIST");
    let mut names: Vec<String> = list
        .lines()
        .filter(|line| line.starts_with(|char: char| char.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 30, "{list:?}");
    // Subcommands are names with a bar in the command's description.
    for name in names.clone() {
        let facts = ask(&format!("COMMAND INFO {name}"));
        names.extend(facts.lines().filter(|line| line.contains('|')).map(str::to_owned));
    }
    let mut differences = Vec::new();
    for name in names {
        let theirs = reference.until_closed(format!("COMMAND INFO {name}\r\nQUIT\r\n").as_bytes());
        let theirs = String::from_utf8(theirs).expect("names are text");
        if theirs.starts_with("*1\r\n$-1") {
            let known = OWN.iter().any(|own| name.starts_with(own)) || LATER.contains(&&*name);
            assert!(known, "{name} is not in Redis 7.0");
            continue;
        }
        let ours = ask(&format!("COMMAND INFO {name}"));
        // READONLY has arguments of its own here.
        let compared = usize::from(name == "readonly");
        let ours = facts(&ours);
        if ours[compared..] != facts(&theirs)[compared..] {
            differences.push(format!("{name}: {ours:?}, theirs {:?}\n", facts(&theirs)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.concat());
}

/// Returns the facts in a command's entry in `COMMAND INFO` (arity, flags, key positions and
/// categories), as lines of the reply. Sets are sorted.
fn facts(reply: &str) -> Vec<Vec<&str>> {
    // The reply starts with an array of one array of ten, and a name of two lines.
    let mut lines = reply.lines().skip(4);
    let mut facts = vec![lines.by_ref().take(1).collect::<Vec<_>>()];
    for numbers in [3, 0] {
        let count = lines.next().and_then(|line| line.strip_prefix('*')?.parse().ok());
        let count = count.unwrap_or_else(|| panic!("not a set: {reply:?}"));
        let mut set: Vec<&str> = lines.by_ref().take(count).collect();
        set.sort_unstable();
        facts.push(set);
        facts.push(lines.by_ref().take(numbers).collect());
    }
    facts
}

#[test]
fn malformed_requests_get_error_and_disconnect_as_in_redis() {
    let Some(reference) = Reference::start() else { return };
    for bytes in BROKEN {
        let mut server = LocalServer::new(Limits::default());
        server.receive(bytes);
        let (ours, theirs) = (server.replies(), reference.until_closed(bytes));
        assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
        assert!(server.closed(), "{}", bytes.escape_ascii());
    }
}
