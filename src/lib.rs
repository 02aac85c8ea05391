//! Bowline: a strongly consistent, replicated key-value store that speaks the Redis protocol.
//!
//! The consensus core ([`raft`]) and the state machine ([`kv`]) do no I/O. The server ([`runtime`])
//! drives them with threads and sockets, and a deterministic simulator ([`sim`]) drives the same
//! code in virtual time.
//!
//! | module | contents |
//! |---|---|
//! | [`types`], [`config`], [`record`] | terms, indexes, ids; settings; log entries |
//! | [`feature_level`] | what the programs of all replicas understand, for rolling upgrades |
//! | [`membership`] | the members of a cluster, and changes of them |
//! | [`clock`] | the replicated clock, from filtered wall clocks |
//! | [`raft`] | the consensus core |
//! | [`rdb`] | Redis's format of values and of files of keys |
//! | [`kv`] | the state machine: keyspace, commands, snapshots |
//! | [`wire`] | encodings of messages: peers, RESP, JSON |
//! | [`digest_schedule`] | when the states of the replicas are compared |
//! | [`large_writes`] | batches that the leader appends in pieces |
//! | [`transport`] | streams over datagrams, between replicas |
//! | [`storage`] | the log and snapshots on disk |
//! | [`snapshot_check`] | loading and verifying snapshot files |
//! | [`backup`] | backup files |
//! | [`tls`] | TLS of clients and peers |
//! | [`lua`] | the environment of Lua scripts |
//! | [`redis`] | Redis commands: parsing, dispatch, replies |
//! | [`course`] | the rules of the university course's simulator |
//! | [`sim`] | deterministic simulation of clusters, with faults and checkers |
//! | [`runtime`] | the server: pipeline stages, threads, sockets |
//! | [`processes`] | the university course's simulator, for real processes |
//!
//! Modules depend only on modules further left in this order, which `tests/tidy.rs` checks:
//!
//! `{types, feature_level, rdb} <- {clock, config, membership} <- record <- {raft, kv}
//! <- {wire, storage}
//! <- {transport, redis, snapshot_check, large_writes, digest_schedule, backup, tls, lua}
//! <- {course, sim} <- runtime <- processes <- bin`
//!
//! The manual is [`guide`].

pub mod backup;
pub mod clock;
pub mod config;
pub mod course;
pub mod digest_schedule;
pub mod feature_level;
pub mod guide;
pub mod kv;
pub mod large_writes;
pub mod lua;
pub mod membership;
pub mod processes;
pub mod raft;
pub mod rdb;
pub mod record;
pub mod redis;
pub mod runtime;
pub mod sim;
pub mod snapshot_check;
pub mod storage;
pub mod tls;
pub mod transport;
pub mod types;
pub mod wire;
