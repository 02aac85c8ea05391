//! Locks with fencing tokens: two clients at different replicas, an expiration, and a failover.

use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::replicas::Cluster;

/// A resource that refuses requests with a smaller token than it has seen.
#[derive(Default)]
struct Resource {
    token_max: i64,
}

impl Resource {
    fn accepts(&mut self, token: i64) -> bool {
        let accepts = token >= self.token_max;
        self.token_max = self.token_max.max(token);
        accepts
    }
}

/// Tries once to acquire the lock, and returns the token.
fn acquire(client: &mut Client, owner: &str, millis: &str) -> Option<i64> {
    let command = ["SET", "lock", owner, "NX", "PX", millis, "REVISION"].map(str::as_bytes);
    let reply = String::from_utf8(client.call(&command).unwrap()).unwrap();
    let token = reply.strip_prefix(':').map(|token| token.trim_end().parse().unwrap());
    assert!(token.is_some() || reply == "$-1\r\n", "{reply}");
    token
}

fn release(client: &mut Client, owner: &str) -> Vec<u8> {
    client.call(&[b"DELEX", b"lock", b"IFEQ", owner.as_bytes()]).unwrap()
}

#[test]
fn fencing_token_rises_across_expiration_and_failover() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut resource = Resource::default();
    let [mut one, mut two] = [0, 1].map(|at| Client::connect(cluster.address(at)).unwrap());
    let first = acquire(&mut one, "one", "300").expect("no owner has the lock");
    assert!(resource.accepts(first));
    // The first owner does nothing for longer than its lock lasts.
    let second = cluster.wait_for("the expiration of the lock", || {
        thread::sleep(Duration::from_millis(10));
        acquire(&mut two, "two", "600000")
    });
    assert!(second > first, "{second} after {first}");
    assert!(resource.accepts(second) && !resource.accepts(first), "the first owner is refused");
    assert_eq!(release(&mut one, "one"), b":0\r\n", "it has lost the lock");
    assert_eq!(acquire(&mut one, "one", "600000"), None);
    let extended = two.call(&[b"SET", b"lock", b"two", b"IFEQ", b"two", b"PX", b"600000"]);
    assert_eq!(extended.unwrap(), b"+OK\r\n");
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.restart();
    cluster.wait_until_all_serve();
    let [mut one, mut two] = [2, 0].map(|at| Client::connect(cluster.address(at)).unwrap());
    assert_eq!(acquire(&mut one, "one", "600000"), None, "the lock outlives the leader");
    assert!(resource.accepts(second), "an extended lock keeps its token");
    assert_eq!(release(&mut two, "two"), b":1\r\n");
    let third = acquire(&mut one, "one", "600000").expect("it was released");
    assert!(third > second && resource.accepts(third));
    // In a transaction, for client libraries that know only Redis's own commands.
    assert_eq!(release(&mut one, "one"), b":1\r\n");
    for command in [&[b"MULTI" as &[u8]][..], &[b"SET", b"lock", b"two", b"NX", b"PX", b"600000"]] {
        two.call(command).unwrap();
    }
    two.call(&[b"OBJECT", b"REVISION", b"lock"]).unwrap();
    let reply = String::from_utf8(two.call(&[b"EXEC"]).unwrap()).unwrap();
    let fourth = reply.strip_prefix("*2\r\n+OK\r\n:").expect(&reply).trim_end();
    assert!(fourth.parse::<i64>().unwrap() > third, "{reply}");
}
