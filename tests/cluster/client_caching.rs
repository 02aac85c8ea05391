//! Client-side caching (`CLIENT TRACKING`): compared with a real Redis, and with caches at every
//! replica while others write and the leader changes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::beside_redis::compare;
use crate::client::Client;
use crate::replicas::Cluster;

#[test]
fn invalidations_of_read_keys_match_redis() {
    compare(
        "Abc",
        "
        A: CLIENT TRACKING ON
        A: CLIENT TRACKINGINFO
        A: CLIENT GETREDIR
        A: GET k
        b: SET k 1
        b: SET k 2
        A: GET k
        A: GET k
        b: DEL k
        A: SET k 3
        A: GET k
        A: SET k 4
        A: MGET a b c
        b: MSET a 1 b 2 d 3
        A: EXISTS a
        b: EXPIRE a 100
        A: TTL a
        b: PERSIST a
        A: GETEX a
        b: SET a 5
        A: HGETALL h
        b: HSET h f v
        A: HGET h f
        b: HDEL h f
        A: LRANGE l 0 -1
        b: RPUSH l a
        A: LLEN l
        b: RENAME l m
        A: OBJECT ENCODING m
        b: LPOP m
        A: !MULTI
        A: !GET x
        A: !SET y 1
        A: !GET z
        A: EXEC
        b: SET x 1
        b: SET y 1
        b: SET z 1
        A: GET x
        b: FLUSHALL
        A: GET x
        b: FLUSHDB
        A: GET x
        A: CLIENT TRACKING OFF
        A: CLIENT TRACKINGINFO
        b: SET x 1
        A: CLIENT TRACKING ON
        A: GET x
        A: RESET
        b: SET x 2
        b: CLIENT TRACKING ON
        b: GET x
        c: SET x 3
        b: CLIENT TRACKINGINFO
        ",
    );
}

#[test]
fn client_tracking_modes_and_options_match_redis() {
    compare(
        "AbC",
        "
        A: CLIENT TRACKING ON OPTIN
        A: GET k
        b: SET k 1
        A: CLIENT CACHING YES
        A: CLIENT TRACKINGINFO
        A: GET k
        A: GET l
        b: SET k 2
        b: SET l 2
        A: CLIENT CACHING YES
        A: !MULTI
        A: !GET k
        A: !GET l
        A: EXEC
        b: SET k 3
        b: SET l 3
        A: CLIENT CACHING NO
        A: CLIENT TRACKING ON OPTOUT
        A: CLIENT TRACKING OFF
        A: CLIENT CACHING YES
        A: CLIENT TRACKING ON OPTOUT
        A: CLIENT CACHING NO
        A: CLIENT TRACKINGINFO
        A: GET k
        A: GET l
        b: SET k 4
        b: SET l 4
        A: CLIENT CACHING YES
        A: CLIENT CACHING maybe
        A: CLIENT TRACKING ON NOLOOP
        A: CLIENT TRACKINGINFO
        A: GET k
        A: SET k 5
        b: SET k 6
        A: GET k
        b: SET k 7
        A: SET k 8
        A: CLIENT TRACKING ON BCAST
        A: CLIENT TRACKING OFF
        C: CLIENT TRACKING ON BCAST PREFIX a: PREFIX b: NOLOOP
        C: CLIENT TRACKINGINFO
        b: SET a:1 v
        b: SET c:1 v
        b: MSET a:x v b:1 v a:1 v
        C: MSET a:x v b:1 v
        C: CLIENT TRACKING ON BCAST PREFIX a:b
        C: CLIENT TRACKING ON BCAST PREFIX c: PREFIX c:d
        C: CLIENT TRACKING ON BCAST PREFIX d:
        C: CLIENT TRACKINGINFO
        C: SET d:1 v
        C: CLIENT TRACKING ON
        A: CLIENT TRACKING ON BCAST
        b: SET anything v
        A: CLIENT TRACKING ON OPTIN BCAST
        A: CLIENT TRACKING OFF
        A: CLIENT TRACKING ON OPTIN OPTOUT
        A: CLIENT TRACKING ON PREFIX a
        A: CLIENT TRACKING ON BCAST OPTOUT
        A: CLIENT TRACKING ON NONSENSE
        A: CLIENT TRACKING MAYBE
        A: CLIENT TRACKING ON REDIRECT
        A: CLIENT TRACKING ON REDIRECT x
        A: CLIENT TRACKING ON REDIRECT 0
        A: CLIENT TRACKING ON REDIRECT 123456
        A: CLIENT TRACKING ON REDIRECT $b REDIRECT $C
        A: CLIENT GETREDIR
        ",
    );
}

#[test]
fn redirected_invalidations_match_redis() {
    compare(
        "abCd",
        "
        a: CLIENT TRACKING ON REDIRECT $b
        a: CLIENT GETREDIR
        a: CLIENT TRACKINGINFO
        a: GET k
        d: SET k 1
        b: SUBSCRIBE __redis__:invalidate
        a: GET k
        d: SET k 2
        a: MGET k l
        d: DEL k
        d: FLUSHALL
        a: CLIENT TRACKING ON REDIRECT $C
        a: GET k
        d: SET k 3
        C: CLIENT TRACKING ON REDIRECT $b
        C: GET k
        d: SET k 4
        d: CLIENT KILL ID $b
        C: GET k
        d: SET k 5
        C: CLIENT TRACKINGINFO
        C: CLIENT TRACKING ON
        C: CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON REDIRECT $C
        a: GET k
        d: CLIENT KILL ID $C
        d: SET k 6
        a: CLIENT TRACKINGINFO
        a: CLIENT LIST ID 0
        ",
    );
}

#[test]
fn expirations_invalidate_keys_as_in_redis() {
    compare(
        "Ab",
        "
        A: CLIENT TRACKING ON
        b: SET k v PX 300
        A: GET k
        A: sleep 500
        b: GET k
        A: GET k
        b: SET k v
        ",
    );
}

/// Number of pairs of keys. Both keys of a pair are always changed together, to the same value.
const PAIRS: u64 = 4;
/// Number of changes by each writer.
const CHANGES: u64 = 300;

/// A pseudorandom number generator (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A client that caches the values that it reads.
struct Cache {
    client: Client,
    values: HashMap<Vec<u8>, Vec<u8>>,
    invalidations: u64,
}

impl Cache {
    fn connect(address: SocketAddr) -> io::Result<Cache> {
        let mut client = Client::connect(address)?;
        client.call(&[b"HELLO", b"3"])?;
        assert_eq!(client.call(&[b"CLIENT", b"TRACKING", b"ON"])?, b"+OK\r\n");
        Ok(Cache { client, values: HashMap::new(), invalidations: 0 })
    }

    /// Returns the reply to a request, after the invalidations before it.
    fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Vec<u8>> {
        self.client.send(&crate::client::command(arguments))?;
        loop {
            let reply = self.client.reply()?;
            if !reply.starts_with(b">") {
                return Ok(reply);
            }
            self.invalidations += 1;
            let text = String::from_utf8_lossy(&reply).into_owned();
            let mut lines = text.split("\r\n").skip(3);
            if lines.next() == Some("_") {
                self.values.clear();
            }
            for key in lines.skip(1).step_by(2) {
                self.values.remove(key.as_bytes());
            }
        }
    }

    /// Reads one key of a pair, and compares it with the other key if that is in the cache. Returns
    /// whether it was.
    fn read(&mut self, key: &str, other: &str) -> io::Result<bool> {
        let value = self.call(&[b"GET", key.as_bytes()])?;
        if value.starts_with(b"-") {
            return Ok(false);
        }
        let cached = self.values.get(other.as_bytes());
        if let Some(cached) = cached {
            assert_eq!(
                String::from_utf8_lossy(cached),
                String::from_utf8_lossy(&value),
                "{other} is in the cache, and {key} has been read"
            );
        }
        let is_compared = cached.is_some();
        self.values.insert(key.into(), value);
        Ok(is_compared)
    }
}

/// Changes both keys of a random pair.
fn change(client: &mut Client, number: u64, pair: u64, kind: u64) -> io::Result<()> {
    let (keys, value) = ([format!("a{pair}"), format!("b{pair}")], number.to_string());
    let (one, two, value) = (keys[0].as_bytes(), keys[1].as_bytes(), value.as_bytes());
    match kind {
        0 => drop(client.call(&[b"DEL", one, two])?),
        1 => drop(client.call(&[b"FLUSHALL"])?),
        2..9 => drop(client.call(&[b"MSET", one, value, two, value])?),
        _ => {
            client.call(&[b"MULTI"])?;
            for key in [one, two] {
                match kind {
                    9..12 => client.call(&[b"SET", key, value, b"PX", b"20"])?,
                    12 => client.call(&[b"APPEND", key, value])?,
                    _ => client.call(&[b"SET", key, value])?,
                };
            }
            drop(client.call(&[b"EXEC"])?);
        }
    }
    Ok(())
}

/// After a client has received a reply that reflects a change of a key, its cache never contains
/// the value from before the change. This also holds for changes by clients of other replicas, for
/// expirations, and when leaders are killed.
#[test]
fn cached_values_never_contradict_later_replies() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (is_over, compared, invalidated) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for (at, address) in addresses.iter().copied().enumerate() {
            let (is_over, compared, invalidated) = (&is_over, &compared, &invalidated);
            scope.spawn(move || {
                let mut numbers = Numbers(7 + at as u64);
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(mut cache) = Cache::connect(address) else { continue };
                    while !is_over.load(Ordering::Relaxed) {
                        let (pair, is_first) = (numbers.below(PAIRS), numbers.below(2) == 0);
                        let (a, b) = (format!("a{pair}"), format!("b{pair}"));
                        let (key, other) = if is_first { (a, b) } else { (b, a) };
                        match cache.read(&key, &other) {
                            Ok(is_compared) => {
                                compared.fetch_add(is_compared.into(), Ordering::Relaxed);
                            }
                            Err(_) => break,
                        }
                    }
                    invalidated.fetch_add(cache.invalidations, Ordering::Relaxed);
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|at| {
                let address = addresses[at];
                scope.spawn(move || {
                    let mut numbers = Numbers(99 + at as u64);
                    let mut number = 0;
                    while number < CHANGES {
                        let Ok(mut client) = Client::connect(address) else { continue };
                        while number < CHANGES {
                            number += 1;
                            let (pair, kind) = (numbers.below(PAIRS), numbers.below(25));
                            if change(&mut client, 2 * number + at as u64, pair, kind).is_err() {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            thread::sleep(std::time::Duration::from_millis(300));
            let leader = cluster.leader();
            cluster.kill(leader);
            cluster.restart_one(leader);
        }
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let (compared, invalidated) = (compared.into_inner(), invalidated.into_inner());
    assert!(
        compared > 1_000 && invalidated > 100,
        "{compared} compared, {invalidated} invalidated"
    );
}
