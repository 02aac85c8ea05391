//! Compares `INFO` of a server process with that of a real Redis: the same fields, or a known
//! reason why a field is missing; equal counts after the same commands; and no field that never
//! changes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::client::Client;
use crate::reference::Reference;
use crate::replicas::Cluster;

/// Fields of Redis 7.0 that are missing here, with the reason. They describe features that this
/// server does not have, or this server has no source for them.
const MISSING: &[(&str, &[&str])] = &[
    (
        "the build and the event loop of Redis",
        &[
            "redis_git_sha1",
            "redis_git_dirty",
            "redis_build_id",
            "monotonic_clock",
            "atomicvar_api",
            "gcc_version",
            "process_supervised",
            "hz",
            "configured_hz",
            "lru_clock",
            "config_file",
            "io_threads_active",
            "io_threaded_reads_processed",
            "io_threaded_writes_processed",
        ],
    ),
    (
        "buffers and limits that are counted together in mem_clients_normal",
        &[
            "client_recent_max_input_buffer",
            "client_recent_max_output_buffer",
            "clients_in_timeout_table",
            "reply_buffer_shrinks",
            "reply_buffer_expands",
        ],
    ),
    (
        "the allocator",
        &[
            "allocator_allocated",
            "allocator_active",
            "allocator_resident",
            "allocator_frag_ratio",
            "allocator_frag_bytes",
            "allocator_rss_ratio",
            "allocator_rss_bytes",
            "rss_overhead_ratio",
            "rss_overhead_bytes",
            "mem_allocator",
            "used_memory_startup",
            "active_defrag_running",
            "active_defrag_hits",
            "active_defrag_misses",
            "active_defrag_key_hits",
            "active_defrag_key_misses",
            "total_active_defrag_time",
            "current_active_defrag_time",
        ],
    ),
    (
        "memory of the Lua interpreters",
        &[
            "used_memory_lua",
            "used_memory_lua_human",
            "used_memory_vm_eval",
            "used_memory_vm_functions",
            "used_memory_vm_total",
            "used_memory_vm_total_human",
        ],
    ),
    (
        "child processes",
        &[
            "current_cow_peak",
            "current_cow_size",
            "current_cow_size_age",
            "current_fork_perc",
            "current_save_keys_processed",
            "current_save_keys_total",
            "rdb_last_cow_size",
            "aof_last_cow_size",
            "module_fork_in_progress",
            "module_fork_last_cow_size",
            "latest_fork_usec",
            "total_forks",
            "used_cpu_sys_children",
            "used_cpu_user_children",
            "used_cpu_sys_main_thread",
            "used_cpu_user_main_thread",
        ],
    ),
    (
        "the append-only file and loading while clients are connected",
        &[
            "async_loading",
            "rdb_last_load_keys_expired",
            "rdb_last_load_keys_loaded",
            "aof_rewrite_scheduled",
            "aof_rewrites",
            "aof_rewrites_consecutive_failures",
        ],
    ),
    (
        "Redis's replication",
        &[
            "master_replid2",
            "second_repl_offset",
            "repl_backlog_active",
            "repl_backlog_size",
            "repl_backlog_first_byte_offset",
            "repl_backlog_histlen",
            "mem_replication_backlog",
            "mem_total_replication_buffers",
            "mem_clients_slaves",
            "mem_cluster_links",
            "mem_aof_buffer",
            "mem_not_counted_for_evict",
            "total_net_repl_input_bytes",
            "total_net_repl_output_bytes",
            "instantaneous_input_repl_kbps",
            "instantaneous_output_repl_kbps",
            "sync_full",
            "sync_partial_ok",
            "sync_partial_err",
            "slave_expires_tracked_keys",
            "migrate_cached_sockets",
            "dump_payload_sanitizations",
            "unexpected_error_replies",
        ],
    ),
    (
        "the expiration cycle and eviction",
        &[
            "expired_stale_perc",
            "expired_time_cap_reached_count",
            "expire_cycle_cpu_milliseconds",
            "total_eviction_exceeded_time",
            "current_eviction_exceeded_time",
        ],
    ),
];

/// Fields whose value may stay the same while the server runs, as in Redis.
const CONSTANT: &[&str] = &[
    // Facts about the server and the machine.
    "total_system_memory",
    "cluster_connections",
    "aof_enabled",
    "maxmemory_clients",
    "disk_reserve_bytes",
    // Constant and true, because there are no blocking commands, no eviction, and no clients before
    // the data is loaded.
    "blocked_clients",
    "evicted_keys",
    "loading",
    // Change only while a snapshot is being taken, or if a disk is slow or full.
    "rdb_bgsave_in_progress",
    "rdb_current_bgsave_time_sec",
    "aof_rewrite_in_progress",
    "aof_current_rewrite_time_sec",
    "disk_refused_writes",
    "disk_stalls",
    // Is 0 except briefly, until the background deletion has freed the values.
    "lazyfree_pending_objects",
    // Depends on other users of the disk, and may have the same value again.
    "disk_free_bytes",
];

/// The sections whose numbers dashboards show over time.
const WATCHED: [&str; 6] = ["Clients", "Memory", "Persistence", "Stats", "CPU", "Keyspace"];

/// The fields of `INFO`: for each section, the names and values.
type Info = BTreeMap<String, BTreeMap<String, String>>;

fn parse(text: &str) -> Info {
    let mut sections = Info::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix("# ") {
            name.clone_into(&mut section);
            sections.entry(section.clone()).or_default();
        } else if let Some((name, value)) = line.split_once(':')
            && !section.is_empty()
        {
            let fields = sections.entry(section.clone()).or_default();
            fields.insert(name.to_owned(), value.to_owned());
        }
    }
    sections
}

fn info(client: &mut Client) -> Info {
    parse(&String::from_utf8(client.call(&[b"INFO", b"everything"]).unwrap()).unwrap())
}

/// Returns the fields of all sections.
fn all(info: &Info) -> BTreeMap<&str, &str> {
    info.values().flatten().map(|(name, value)| (&**name, &**value)).collect()
}

/// Returns the kind of a value: a number with or without a fraction, a percentage, a size such as
/// `1.50K`, pairs, or text.
fn kind(value: &str) -> &'static str {
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    let stem = |unit: &[char]| value.strip_suffix(unit).is_some_and(is_number);
    if value.parse::<i128>().is_ok() {
        "integer"
    } else if is_number(value) {
        "fraction"
    } else if stem(&['%']) {
        "percentage"
    } else if stem(&['B', 'K', 'M', 'G', 'T']) {
        "size"
    } else if value.contains('=') {
        "pairs"
    } else {
        "text"
    }
}

/// Returns the value of `key` in a list of pairs such as `calls=1,usec=5`.
fn part<'i>(value: &'i str, key: &str) -> &'i str {
    let mut pairs = value.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).unwrap_or_else(|| panic!("no {key} in {value}")).1
}

/// Commands that cause hits, misses, errors of several kinds, and rejections, and a transaction.
const COMMANDS: &[&str] = &[
    "CONFIG RESETSTAT",
    "SET string v",
    "SET temporary v EX 100",
    "SET short v PX 1",
    "RPUSH list a b",
    "GET string",
    "GET missing",
    "MGET string missing list",
    "EXISTS string missing",
    "TTL temporary",
    "TYPE missing",
    "GET list",
    "GET",
    "INCR string",
    "NOPE",
    "CONFIG NOPE",
    "CONFIG GET maxmemory",
    "PING",
    "GETSET string w",
    "GETDEL missing",
    "MULTI",
    "GET string",
    "LPUSH string a",
    "PING",
    "EXEC",
    "MULTI",
    "GET",
    "EXEC",
    "WATCH string",
    "UNWATCH",
    "OBJECT ENCODING list",
    "MEMORY USAGE string",
    "SLOWLOG LEN",
];

fn arguments(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

/// Runs [`COMMANDS`] and then `INFO` on a real Redis.
fn info_of_redis(reference: &Reference) -> Info {
    let mut stream: UnixStream = reference.connect();
    for line in COMMANDS {
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }
    // Meanwhile, Redis has removed the key that expires at once.
    std::thread::sleep(std::time::Duration::from_millis(500));
    stream.write_all(b"INFO everything\r\nQUIT\r\n").unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    parse(&String::from_utf8_lossy(&text))
}

/// Regression test: many fields used to be missing or constant.
#[test]
fn info_has_the_fields_of_redis_with_plausible_values() {
    let Some(reference) = Reference::start() else { return };
    let theirs = info_of_redis(&reference);
    let cluster = Cluster::start(1, "fused");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    client.call(&[b"DEL", b"probe"]).unwrap();
    for line in COMMANDS {
        client.call(&arguments(line)).unwrap();
    }
    let ours = cluster.wait_for("the expired key to be removed", || {
        let info = info(&mut client);
        (info["Stats"]["expired_keys"] == "1").then_some(info)
    });

    let missing: Vec<&str> = MISSING.iter().flat_map(|(_, fields)| *fields).copied().collect();
    let (our_fields, their_fields) = (all(&ours), all(&theirs));
    for (name, value) in &their_fields {
        let Some(own) = our_fields.get(name) else {
            assert!(missing.contains(name), "INFO lacks {name}, which is {value} in Redis");
            continue;
        };
        assert!(!missing.contains(name), "{name} is no longer missing");
        let kinds = [kind(own), kind(value)];
        let sizes = kinds.iter().all(|kind| ["size", "integer"].contains(kind));
        assert!(kinds[0] == kinds[1] || sizes, "{name} is {own} here and {value} in Redis");
    }
    for name in &missing {
        assert!(their_fields.contains_key(name), "{name} is not a field of Redis");
    }

    // The same commands, so the same counts.
    let counts = |info: &Info| -> Vec<String> {
        let calls = info["Commandstats"].iter().filter(|(name, _)| *name != "cmdstat_info");
        let calls = calls.map(|(name, value)| {
            let parts = ["calls", "rejected_calls", "failed_calls"].map(|key| part(value, key));
            format!("{name} {}", parts.join(" "))
        });
        calls.collect()
    };
    assert_eq!(counts(&ours), counts(&theirs));
    assert_eq!(ours["Errorstats"], theirs["Errorstats"]);
    for field in ["keyspace_hits", "keyspace_misses", "expired_keys", "total_error_replies"] {
        assert_eq!(ours["Stats"][field], theirs["Stats"][field], "{field}");
    }
    for key in ["keys", "expires"] {
        let count = |info: &Info| part(&info["Keyspace"]["db0"], key).to_owned();
        assert_eq!(count(&ours), count(&theirs), "{key}");
    }
    let ttl: u64 = part(&ours["Keyspace"]["db0"], "avg_ttl").parse().unwrap();
    assert!((1_000..=100_000).contains(&ttl), "the only key that expires does so in 100 s: {ttl}");
    let names = |info: &Info| -> Vec<String> {
        let names = info["Latencystats"].keys();
        names.filter(|name| !name.ends_with("_info")).cloned().collect()
    };
    assert_eq!(names(&ours), names(&theirs));
    for value in ours["Latencystats"].values() {
        let [p50, p99, p999] = ["p50", "p99", "p99.9"].map(|key| part(value, key));
        let [p50, p99, p999] = [p50, p99, p999].map(|text| text.parse::<f64>().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p999, "{value}");
    }
    plausible(&ours);
}

/// Checks relations between fields that must hold.
fn plausible(info: &Info) {
    let fields = all(info);
    let number = |name: &str| -> f64 { fields[name].parse().unwrap() };
    let sum = number("used_memory_dataset") + number("used_memory_overhead");
    assert!((sum - number("used_memory")).abs() < 1.0, "{fields:#?}");
    assert!(number("used_memory_peak") >= number("used_memory"));
    assert!(number("used_memory_rss") > 1e6);
    assert!(number("total_system_memory") > number("used_memory_rss"));
    let ratio = number("used_memory_rss") / number("used_memory");
    assert!((ratio - number("mem_fragmentation_ratio")).abs() <= 0.01 * ratio + 0.01);
    assert!(number("total_commands_processed") >= number("total_reads_processed") / 2.0);
    assert!(!fields["os"].is_empty() && fields["executable"].ends_with("bowline"));
}

/// Reads the fields as an exporter for dashboards does: while the server works, each number
/// changes.
#[test]
fn info_fields_used_by_dashboards_change_under_load() {
    let cluster = Cluster::start(1, "fused");
    cluster.wait_until_all_serve();
    let address = cluster.address(0);
    let mut client = Client::connect(address).unwrap();
    // Compared as text: a change of any digit counts.
    let numbers = |info: &Info| -> BTreeMap<String, String> {
        let sections = WATCHED.iter().filter_map(|section| info.get(*section)).flatten();
        let mut numbers = BTreeMap::new();
        for (name, value) in sections {
            match kind(value) {
                "integer" | "fraction" | "percentage" => {
                    numbers.insert(name.clone(), value.clone());
                }
                "pairs" => {
                    for key in ["keys", "expires", "avg_ttl"] {
                        numbers.insert(key.to_owned(), part(value, key).to_owned());
                    }
                }
                _ => {}
            }
        }
        numbers
    };
    let before = numbers(&info(&mut client));
    assert!(before.len() > 50, "{before:?}");
    let mut subscriber = Client::connect(address).unwrap();
    subscriber.call(&[b"SUBSCRIBE", b"channel"]).unwrap();
    subscriber.call(&[b"PSUBSCRIBE", b"pattern*"]).unwrap();
    let mut sharded = Client::connect(address).unwrap();
    sharded.call(&[b"SSUBSCRIBE", b"channel"]).unwrap();
    let [mut caching, mut broadcasting] = [0; 2].map(|_| Client::connect(address).unwrap());
    caching.call(&[b"CLIENT", b"TRACKING", b"ON"]).unwrap();
    broadcasting.call(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST"]).unwrap();
    client.call(&[b"CONFIG", b"SET", b"maxmemory", b"4gb", b"maxmemory-clients", b"16mb"]).unwrap();
    client.call(&[b"BGSAVE"]).unwrap();
    let value = vec![b'v'; 1 << 20];
    let mut rest = Vec::new();
    let mut denied = Client::connect(address).unwrap();
    denied.call_until_ok(&[b"SET", b"k", b"v"]);
    let library = b"#!lua name=l\nredis.register_function('f', function() return 1 end)";
    cluster.wait_for("all numbers to change", || {
        client.call(&[b"EVAL", b"return redis.call('get', 'k')", b"0"]).unwrap();
        client.call(&[b"FUNCTION", b"LOAD", b"REPLACE", library]).unwrap();
        client.call(&[b"ACL", b"SETUSER", b"u", b"on", b">p", b"+get", b"+publish"]).unwrap();
        for request in ["AUTH u p", "AUTH u wrong", "GET k", "SET k v", "PUBLISH c m"] {
            let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            denied.call(&words).unwrap();
        }
        client.call(&[b"SET", b"large", &value]).unwrap();
        client.call(&[b"SET", b"temporary", b"v", b"EX", b"100"]).unwrap();
        client.call(&[b"SET", b"short", b"v", b"PX", b"1"]).unwrap();
        client.call(&[b"GET", b"large"]).unwrap();
        client.call(&[b"GET", b"missing"]).unwrap();
        caching.call(&[b"GET", b"missing"]).unwrap();
        client.call(&[b"GET"]).unwrap();
        // An incomplete command that is longer than `maxmemory-clients`.
        let mut greedy = Client::connect(address).unwrap();
        let _ = greedy.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$30000000\r\n");
        let _ = greedy.send(&vec![b'v'; 20 << 20]);
        client.call(&[b"CONFIG", b"SET", b"maxclients", b"2"]).unwrap();
        let refused = Client::connect(address).unwrap().reply();
        drop(refused);
        client.call(&[b"CONFIG", b"SET", b"maxclients", b"500"]).unwrap();
        let now = numbers(&info(&mut client));
        let is_stuck = |(name, value): &(&String, &String)| {
            now.get(*name).is_none_or(|now| now == *value) && !CONSTANT.contains(&&***name)
        };
        let stuck: Vec<String> =
            before.iter().filter(is_stuck).map(|(name, _)| name.clone()).collect();
        let all_changed = stuck.is_empty();
        if rest != stuck {
            eprintln!("not changed yet: {stuck:?}");
            rest = stuck;
        }
        all_changed.then_some(())
    });
    for name in CONSTANT {
        assert!(before.contains_key(*name), "{name} is not a field");
    }
}
