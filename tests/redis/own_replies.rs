//! Replies that differ from those of Redis: the leader, the role, and unsupported features.

use bowline::feature_level::FeatureLevel;
use bowline::kv::{DatabaseSize, Operation};
use bowline::raft::{DiskState, RoleName};
use bowline::redis::{Action, Connection, Context, ReplicaInfo, Settings};
use bowline::types::{Index, Instant, NodeId, Term};
use bowline::wire::resp::{Limits, Parser};
use bytes::BytesMut;

/// A client connection to replica 2 of three. Replica 1 is the leader.
struct Client {
    connection: Connection,
    context: Context,
    settings: Settings,
}

impl Client {
    fn new() -> Client {
        let nodes = (1..=3_u16).map(|number| ReplicaInfo {
            id: NodeId(number),
            host: "127.0.0.1".to_owned(),
            port: 7000 + number,
            peer_port: 8000 + number,
            connected: number != 3,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
            program: None,
        });
        let nodes: Vec<ReplicaInfo> = nodes.collect();
        let mut context = Context::alone(nodes[1].clone(), 0xC1, Instant::ZERO);
        context.members.feature_level = FeatureLevel::NEWEST;
        context.nodes = nodes;
        context.leader = Some(NodeId(1));
        context.term = Term(4);
        (context.last_index, context.applied_index) = (Index(9), Index(8));
        context.databases = vec![DatabaseSize { key_count: 5, ..DatabaseSize::default() }];
        let settings = Settings::new(&Limits::default(), "127.0.0.1", 7002, "data");
        let (address, here) = ("127.0.0.1:5".to_owned(), "127.0.0.1:7002".to_owned());
        Client { connection: Connection::new(3, address, here, Instant::ZERO), context, settings }
    }

    /// Executes a request. Returns the action for the server, and the reply, which is empty if it
    /// is not known yet.
    fn ask(&mut self, line: &str) -> (Action, String) {
        let mut parser = Parser::new(Limits::default());
        let line = format!("{line}\n");
        let request = parser.next(line.as_bytes(), &mut 0);
        let request = request.expect("well formed").expect("a whole line");
        let mut out = BytesMut::new();
        let settings = &mut self.settings;
        let action = self.connection.execute(request, &self.context, settings, &mut out);
        (action, String::from_utf8(out.to_vec()).expect("a reply of text"))
    }

    fn reply(&mut self, line: &str) -> String {
        let (action, reply) = self.ask(line);
        assert!(matches!(action, Action::Reply | Action::ApplySettings), "{line}: {action:?}");
        reply
    }

    fn is_submitted(&mut self, line: &str) -> bool {
        matches!(self.ask(line).0, Action::Submit { .. })
    }
}

/// Replicas of an older version would not understand the command, although they know `ONCE`.
#[test]
fn command_inside_once_needs_the_feature_level_of_the_command() {
    let mut client = Client::new();
    for (level, is_refused) in [(FeatureLevel::OLDEST, true), (FeatureLevel::NEWEST, false)] {
        client.context.members.feature_level = level;
        let Action::Submit { operation, .. } = client.ask("ONCE 1 1 XADD s * f v").0 else {
            panic!("refusals are kept under the sequence number, too")
        };
        let text = String::from_utf8_lossy(&operation).into_owned();
        assert_eq!(text.contains("not applied: this needs every replica"), is_refused, "{text}");
    }
}

/// Libraries overlook the error of `SELECT`, and would mix the data of their users in database 0.
#[test]
fn client_whose_database_is_refused_uses_no_other_one() {
    let mut client = Client::new();
    client.context.members.feature_level = FeatureLevel::OLDEST;
    client.context.leader = Some(NodeId(2));
    let refused = client.reply("SELECT 1");
    assert!(refused.starts_with("-ERR not applied: this needs every replica"), "{refused}");
    let lacks = "-ERR database 1 could not be selected, and no other one is used in its place";
    for line in ["SET k v", "GET k", "WATCH k", "ONCE 1 1 SET k v", "FLUSHDB"] {
        let reply = client.reply(line);
        assert!(reply.starts_with(lacks), "{line}: {reply}");
    }
    assert_eq!(client.reply("PING"), "+PONG\r\n");
    assert_eq!(client.reply("SELECT 99"), "-ERR DB index is out of range\r\n");
    assert!(client.reply("GET k").starts_with(lacks));
    client.context.members.feature_level = FeatureLevel::NEWEST;
    assert_eq!(client.reply("SELECT 1"), "+OK\r\n");
    assert!(client.is_submitted("GET k"));
    // Without the level, only in a transaction.
    client.context.members.feature_level = FeatureLevel::OLDEST;
    client.reply("RESET");
    for line in ["MULTI", "SELECT 2", "GET k"] {
        client.reply(line);
    }
    let (_, reply) = client.ask("EXEC");
    assert!(reply.starts_with("*2\r\n-ERR not applied") && reply.contains("-ERR database 2"));
    assert_eq!(client.reply("SELECT 0"), "+OK\r\n");
    assert!(client.is_submitted("GET k"));
}

#[test]
fn cluster_clients_have_only_database_0() {
    let mut client = Client::new();
    assert_eq!(client.reply("SELECT 3"), "+OK\r\n");
    client.reply("CLUSTER SLOTS");
    assert!(client.is_submitted("SET foo bar"), "it is not redirected");
    client.reply("RESET");
    client.reply("CLUSTER SLOTS");
    assert_eq!(client.reply("SELECT 0"), "+OK\r\n");
    for (line, error) in [
        ("SWAPDB 0 1", "ERR SWAPDB is not allowed in cluster mode"),
        ("MOVE k 1", "MOVED 7629 127.0.0.1:7001"),
        ("SELECT 3", "ERR SELECT is not allowed in cluster mode"),
        (
            "GET k",
            "ERR database 3 could not be selected, and no other one is used in its place; \
                   send SELECT again",
        ),
    ] {
        assert_eq!(client.reply(line), format!("-{error}\r\n"), "{line}");
    }
    client.context.leader = Some(NodeId(2));
    assert_eq!(client.reply("SELECT 0"), "+OK\r\n");
    let refused = "-ERR MOVE is not allowed in cluster mode\r\n";
    assert_eq!(client.reply("MOVE k 1"), refused);
    let refused = "-ERR Copying to another database is not allowed in cluster mode\r\n";
    assert_eq!(client.reply("COPY k l DB 1"), refused);
    assert!(client.is_submitted("COPY k l DB 0"));
}

#[test]
fn commands_of_database_0_are_those_of_the_oldest_level_until_it_is_raised() {
    let mut client = Client::new();
    let mut operation = |level, line: &str| {
        client.context.members.feature_level = level;
        match client.ask(line).0 {
            Action::Submit { operation, .. } => Operation::decode(&operation)
                .map(|operation| operation.as_call().expect("a call").0)
                .expect("an operation"),
            other => panic!("{line}: {other:?}"),
        }
    };
    let (old, new) = (FeatureLevel::OLDEST, FeatureLevel::NEWEST);
    for (line, before, after) in [
        ("FLUSHDB", "flushall", "flushdb"),
        ("FLUSHALL", "flushall", "flushall"),
        ("COPY a b", "copy", "copy"),
        ("COPY a b DB 1", "copy", "copydb"),
    ] {
        assert_eq!((operation(old, line), operation(new, line)), (before, after), "{line}");
    }
}

#[test]
fn cluster_clients_are_redirected_to_the_leader() {
    let mut client = Client::new();
    assert!(client.is_submitted("SET foo bar"), "a plain client's request is forwarded");
    let slots = client.reply("CLUSTER SLOTS");
    let (leader, others) = (slots.find(":7001"), slots.find(":7002"));
    assert!(slots.starts_with("*1\r\n*5\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n"), "{slots}");
    assert!(leader.is_some() && leader < others, "the leader comes first: {slots}");
    assert_eq!(client.reply("SET foo bar"), "-MOVED 12182 127.0.0.1:7001\r\n");
    assert_eq!(client.reply("GET foo"), "-MOVED 12182 127.0.0.1:7001\r\n");
    assert_eq!(client.reply("PING"), "+PONG\r\n");
    client.reply("READONLY");
    assert!(client.is_submitted("GET foo"), "it wants to read here");
    assert_eq!(client.reply("SET foo bar"), "-MOVED 12182 127.0.0.1:7001\r\n");
    client.reply("READWRITE");
    assert!(!client.is_submitted("GET foo"));
    client.context.leader = None;
    assert!(client.is_submitted("GET foo"), "nobody is known: it is held for a while");
    client.context.leader = Some(NodeId(2));
    assert!(client.is_submitted("GET foo"));
    client.context.leader = Some(NodeId(1));
    client.reply("RESET");
    assert!(client.is_submitted("GET foo"), "as new, so a plain client again");
}

#[test]
fn cluster_commands_report_one_slot_range_for_all_replicas() {
    let mut client = Client::new();
    let me = format!("{:032x}{:08x}", 0xC1, 2);
    assert_eq!(client.reply("CLUSTER MYID"), format!("$40\r\n{me}\r\n"));
    let leader = format!("{:032x}{:08x}", 0xC1, 1);
    let nodes = client.reply("CLUSTER NODES");
    let lines: Vec<&str> = nodes.lines().skip(1).collect();
    assert_eq!(
        lines[..3],
        [
            format!("{leader} 127.0.0.1:7001@8001 master - 0 0 4 connected 0-16383"),
            format!("{me} 127.0.0.1:7002@8002 myself,slave {leader} 0 0 4 connected"),
            format!("{:032x}{:08x} 127.0.0.1:7003@8003 slave {leader} 0 0 4 disconnected", 0xC1, 3),
        ]
    );
    let replicas = client.reply(&format!("CLUSTER REPLICAS {leader}"));
    let third = format!("{:032x}{:08x}", 0xC1, 3);
    assert!(replicas.starts_with("*2\r\n") && replicas.contains(&third), "{replicas}");
    assert_eq!(client.reply(&format!("CLUSTER SLAVES {leader}")), replicas);
    let refused = client.reply(&format!("CLUSTER REPLICAS {me}"));
    assert_eq!(refused, "-ERR The specified node is not a master\r\n");
    assert_eq!(client.reply("CLUSTER REPLICAS x"), "-ERR Unknown node x\r\n");
    assert_eq!(client.reply(&format!("CLUSTER COUNT-FAILURE-REPORTS {me}")), ":0\r\n");
    assert_eq!(client.reply("CLUSTER MYSHARDID"), format!("$40\r\n{:040x}\r\n", 0xC1));
    assert!(client.reply("CLUSTER INFO").contains("cluster_state:ok\r\n"));
    assert_eq!(client.reply("CLUSTER KEYSLOT foo"), ":12182\r\n");
    assert!(client.is_submitted("CLUSTER COUNTKEYSINSLOT 12182"));
    assert_eq!(client.reply("CLUSTER COUNTKEYSINSLOT 16384"), "-ERR Invalid slot\r\n");
    assert!(client.is_submitted("CLUSTER GETKEYSINSLOT 12182 10"));
    for wrong in ["16384 1", "1 -1"] {
        let reply = client.reply(&format!("CLUSTER GETKEYSINSLOT {wrong}"));
        assert_eq!(reply, "-ERR Invalid slot or number of keys\r\n");
    }
    assert!(client.reply("CLUSTER SHARDS").contains("$6\r\nmaster\r\n"));
    client.context.leader = None;
    assert_eq!(client.reply("CLUSTER SLOTS"), "*0\r\n");
    assert!(client.reply("CLUSTER INFO").contains("cluster_state:fail\r\n"));
    assert!(!client.reply("CLUSTER NODES").contains("master"));
}

#[test]
fn role_command_reports_leader_or_follower_state() {
    let mut client = Client::new();
    let role = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:7001\r\n$9\r\nconnected\r\n:8\r\n";
    assert_eq!(client.reply("ROLE"), role);
    assert!(client.reply("INFO replication").contains("role:slave\r\nmaster_host:127.0.0.1\r\n"));
    client.context.leader = None;
    let role = "*5\r\n$5\r\nslave\r\n$0\r\n\r\n:0\r\n$7\r\nconnect\r\n:-1\r\n";
    assert_eq!(client.reply("ROLE"), role);
    client.context.leader = Some(NodeId(2));
    client.context.role = RoleName::Leader;
    client.context.nodes[0].match_index = Some(Index(7));
    let role =
        "*3\r\n$6\r\nmaster\r\n:8\r\n*2\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n7001\r\n$1\r\n7\r\n";
    assert!(client.reply("ROLE").starts_with(role));
    let info = client.reply("INFO");
    for line in [
        "# Server",
        "redis_version:7.2.0",
        "arch_bits:64",
        "loading:0",
        "cluster_enabled:1",
        "role:master",
        "connected_slaves:1",
        "db0:keys=5,expires=0,avg_ttl=0",
        "# Raft",
        "raft_role:leader",
        "raft_term:4",
        "raft_leader_id:2",
        "process_id:0",
    ] {
        assert!(info.lines().any(|found| found == line), "{line} is not in {info}");
    }
    let raft = client.reply("INFO RAFT");
    assert!(raft.contains("# Raft") && !raft.contains("# Server"));
    assert_eq!(client.reply("INFO nonsense"), "$0\r\n\r\n");
}

#[test]
fn hello_command_switches_the_resp_version() {
    let mut client = Client::new();
    assert!(client.reply("HELLO").starts_with("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n"));
    let hello = client.reply("HELLO 3 AUTH default x SETNAME me");
    assert!(
        hello.starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n")
    );
    assert!(hello.contains("$4\r\nrole\r\n$7\r\nreplica\r\n"), "{hello}");
    assert!(client.reply("CLIENT INFO").contains(" name=me "));
    assert!(client.reply("CLIENT SETINFO LIB-NAME a").starts_with("+OK"));
    assert!(client.reply("CLIENT INFO").contains(" resp=3 lib-name=a lib-ver=\n"));
    assert!(client.reply("CLIENT SETINFO lib-ver 'a b'").starts_with("-ERR lib-ver cannot"));
    assert_eq!(client.reply("CLIENT SETINFO x y"), "-ERR Unrecognized option 'x'\r\n");
    assert_eq!(client.reply("RESET"), "+RESET\r\n");
    assert_eq!(client.reply("CLIENT GETNAME"), "$-1\r\n");
    assert_eq!(client.ask("QUIT"), (Action::Close, "+OK\r\n".to_owned()));
}

#[test]
fn proto_max_bulk_len_can_be_set_up_to_512_mib() {
    let mut client = Client::new();
    assert_eq!(client.reply("CONFIG SET proto-max-bulk-len 512mb"), "+OK\r\n");
    let refused = client.reply("CONFIG SET proto-max-bulk-len 536870913");
    let reason = "argument must be between 1048576 and 536870912 bytes, inclusive";
    assert!(refused.contains(reason), "{refused}");
    let reply = client.reply("CONFIG GET proto-max-bulk-len");
    assert!(reply.ends_with("$9\r\n536870912\r\n"), "{reply}");
}

/// Public test suites set such settings without need.
#[test]
fn settings_without_effect_are_accepted_only_for_debugging() {
    let mut client = Client::new();
    for name in ["list-max-listpack-size", "list-max-ziplist-size", "hz", "lua-time-limit"] {
        let refused = client.reply(&format!("CONFIG SET {name} 5"));
        assert!(refused.contains("this setting has no effect here: "), "{refused}");
        assert_eq!(client.reply(&format!("CONFIG GET {name}")), "*0\r\n");
    }
    client.settings.accept_settings_without_effect();
    assert_eq!(client.reply("CONFIG GET hz"), "*2\r\n$2\r\nhz\r\n$2\r\n10\r\n");
    assert_eq!(client.reply("CONFIG SET list-max-ziplist-size 5"), "+OK\r\n");
    let both = client.reply("CONFIG GET list-max-*-size");
    assert_eq!(both.matches("$1\r\n5\r\n").count(), 2, "{both}");
    let duplicate = client.reply("CONFIG SET hash-max-ziplist-value 5 hash-max-listpack-value 6");
    assert!(duplicate.contains("duplicate parameter"), "{duplicate}");
    assert!(!client.reply("CONFIG GET *").contains("key-load-delay"), "only under its full name");
    assert!(client.reply("CONFIG GET key-load-delay").contains("key-load-delay"));
    // What Redis could change may be set to what it is.
    assert_eq!(client.reply("CONFIG SET port 7002 bind 127.0.0.1"), "+OK\r\n");
    assert!(client.reply("CONFIG SET port 7003").contains("can't set immutable config"));
}

#[test]
fn debug_commands_need_the_option_and_reply_as_redis_does() {
    let mut client = Client::new();
    for line in ["DIGEST", "DIGEST-VALUE k", "PROTOCOL map", "RELOAD", "LOG x", "OBJECT k"] {
        let refused = client.reply(&format!("DEBUG {line}"));
        assert!(refused.starts_with("-ERR DEBUG command not allowed. If the "), "{refused}");
    }
    client.context.debug = true;
    for line in ["DIGEST", "DIGEST-VALUE k l", "OBJECT k"] {
        assert!(client.is_submitted(&format!("DEBUG {line}")));
    }
    for (kind, two, three) in [
        ("map", "*6\r\n:0\r\n:0\r\n", "%3\r\n:0\r\n#f\r\n"),
        ("set", "*3\r\n:0\r\n", "~3\r\n:0\r\n"),
        ("bignum", "$37\r\n123456", "(123456799999"),
        ("attrib", "$39\r\nSome real reply", "|1\r\n$14\r\nkey-popularity"),
        ("push", "-ERR RESP2 is not supported", ">2\r\n$16\r\nserver-cpu-usage"),
        ("nonsense", "-ERR Wrong protocol type name.", "-ERR Wrong protocol type name."),
    ] {
        for (version, wanted) in [(2, two), (3, three)] {
            client.reply(&format!("HELLO {version}"));
            let reply = client.reply(&format!("DEBUG PROTOCOL {kind}"));
            assert!(reply.starts_with(wanted), "{kind}: {reply}");
        }
    }
    assert_eq!(client.reply("DEBUG ERROR 'CODE text'"), "-CODE text\r\n");
    assert_eq!(client.reply("DEBUG QUICKLIST-PACKED-THRESHOLD 1b"), "+OK\r\n");
    assert_eq!(client.ask("DEBUG RELOAD NOSAVE").0, Action::TakeSnapshot);
    assert!(client.reply("DEBUG RELOAD nonsense").starts_with("-ERR DEBUG RELOAD only supports"));
    assert_eq!(client.ask("DEBUG LOG text").0, Action::Log("text".to_owned()));
}

#[test]
fn exec_is_refused_if_the_memory_has_filled_up_meanwhile() {
    let mut client = Client::new();
    for (command, is_refused) in [("SET k v", true), ("GET k", false)] {
        client.context.is_full = false;
        client.reply("MULTI");
        client.reply(command);
        client.context.is_full = true;
        let (action, reply) = client.ask("EXEC");
        let text = "-EXECABORT Transaction discarded because of: OOM command not allowed";
        assert_eq!(reply.starts_with(text), is_refused, "{reply}");
        assert_eq!(matches!(action, Action::Submit { .. }), !is_refused);
    }
}

#[test]
fn command_larger_than_a_log_entry_is_refused() {
    let mut client = Client::new();
    client.context.payload_bytes_max = 100;
    assert!(client.is_submitted("SET k v"));
    let reply = client.reply(&format!("SET k {}", "v".repeat(100)));
    assert!(reply.starts_with("-ERR the command is too large: it takes "), "{reply}");
    let help = client.reply("CONFIG HELP");
    assert!(help.starts_with("*11\r\n+CONFIG <subcommand>"), "{help}");
}

type Change = fn(&mut Context);

#[test]
fn memory_doctor_names_what_uses_the_memory() {
    let mut client = Client::new();
    assert!(client.reply("MEMORY DOCTOR").contains("very little memory"));
    let context = &mut client.context;
    (context.used_memory, context.used_memory_peak) = (100 << 20, 100 << 20);
    (context.dataset_bytes, context.resident_bytes) = (90 << 20, 110 << 20);
    assert!(client.reply("MEMORY DOCTOR").contains("no problem"));
    let cases: [(Change, &str); 4] = [
        (|context| context.used_memory_peak = 151 << 20, "150 %"),
        (|context| context.resident_bytes = 150 << 20, "resident memory, 1.50 times"),
        (|context| context.clients_bytes = 51 << 20, "CLIENT LIST"),
        (|context| context.log_bytes = 51 << 20, "Snapshots compact it"),
    ];
    for (change, wanted) in cases {
        let mut context = client.context.clone();
        std::mem::swap(&mut client.context, &mut context);
        change(&mut client.context);
        let reply = client.reply("MEMORY DOCTOR");
        assert!(reply.contains(wanted) && reply.matches(" * ").count() == 1, "{reply}");
        client.context = context;
    }
    client.reply("CONFIG SET maxmemory 105mb");
    assert!(client.reply("MEMORY DOCTOR").contains("maxmemory (110100480)"));
}

#[test]
fn memory_stats_has_numbers_that_fit_together() {
    let mut client = Client::new();
    let context = &mut client.context;
    (context.used_memory, context.used_memory_peak) = (1_000, 2_000);
    (context.dataset_bytes, context.resident_bytes) = (750, 4_000);
    let reply = client.reply("MEMORY STATS");
    let lines: Vec<&str> = reply.lines().skip(1).filter(|line| !line.starts_with('$')).collect();
    let value = |name| {
        let at = lines.iter().position(|line| *line == name);
        lines[at.unwrap_or_else(|| panic!("{name}: {reply}")) + 1]
    };
    for (name, wanted) in [
        ("peak.allocated", ":2000"),
        ("total.allocated", ":1000"),
        ("overhead.total", ":250"),
        ("keys.count", ":5"),
        ("keys.bytes-per-key", ":150"),
        ("dataset.percentage", "75"),
        ("peak.percentage", "50"),
        ("fragmentation", "4"),
        ("fragmentation.bytes", ":3000"),
    ] {
        assert_eq!(value(name), wanted, "{name}");
    }
    assert_eq!(client.ask("MEMORY PURGE"), (Action::ReturnFreeMemory, "+OK\r\n".to_owned()));
    let malloc = client.reply("MEMORY MALLOC-STATS");
    assert!(malloc.contains("Stats not supported for the current allocator"), "{malloc}");
}

#[test]
fn latency_graph_has_a_column_for_each_sample() {
    let mut client = Client::new();
    let missing = "-ERR No samples available for event 'command'\r\n";
    assert_eq!(client.reply("LATENCY GRAPH command"), missing);
    let seconds = std::time::Duration::from_secs;
    for (at, millis) in [(100, 10), (107, 50), (109, 30)] {
        let elapsed = std::time::Duration::from_millis(millis);
        client.context.slow_log.add_latency_sample(elapsed, seconds(at));
    }
    client.context.wall_clock = seconds(110);
    let reply = client.reply("LATENCY GRAPH Command");
    let lines: Vec<&str> = reply.lines().skip(1).collect();
    assert_eq!(lines[0], "command - high 50 ms, low 10 ms (all time high 50 ms)");
    assert_eq!(lines[2..10], [" #", " #", " ##", " ##", "###", "131", "0ss", "s"]);
    assert!(client.reply("LATENCY GRAPH other").starts_with("-ERR No samples available"));
}

#[test]
fn lolwut_draws_and_shows_the_version() {
    let mut client = Client::new();
    let reply = client.reply("LOLWUT VERSION 5 10 20");
    let version = format!("Bowline ver. {}\n", env!("CARGO_PKG_VERSION"));
    assert!(reply.contains(&version), "{reply}");
}
