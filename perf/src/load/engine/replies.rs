//! How an engine handles replies in the protocols of Redis, etcd and NATS, including those that
//! name the leader.

use std::net::{SocketAddr, ToSocketAddrs as _};

use super::{Engine, RETRY_PAUSE};
use crate::load::connection::State;
use crate::load::etcd;
use crate::load::generator::{Next, Request};
use crate::load::options::Protocol;
use crate::load::reply::Reply;
use crate::load::resp;

impl Engine {
    /// Handles all complete replies in `bytes`, which connection `number` has received. Keeps an
    /// incomplete last reply until its remaining bytes arrive. Returns false if the connection has
    /// been closed.
    pub(super) fn on_bytes(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        match self.plan.protocol {
            Protocol::Redis => {}
            Protocol::Etcd => return self.on_frames(number, bytes, now),
            Protocol::Nats => return self.on_messages(number, bytes, now),
        }
        let mut at = 0;
        loop {
            let next = self.connections[number].in_flight.front();
            let wait = self.plan.wait.filter(|_| next.is_some_and(|it| it.request == Request::Put));
            let read = match wait {
                Some(replicas) => resp::read_with_wait(&bytes[at..], replicas),
                None => resp::read(&bytes[at..]),
            };
            match read {
                Ok(Some((reply, length))) => {
                    at += length;
                    if !self.on_reply(number, reply, now) {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(resp::Broken) => {
                    self.on_failure(number, "invalid data: not the Redis protocol");
                    return false;
                }
            }
        }
        self.connections[number].partial.extend_from_slice(&bytes[at..]);
        self.enqueue_ready(number);
        !self.leave_old_leader(number)
    }

    /// Handles all complete HTTP/2 frames in `bytes`, which connection `number` has received from
    /// etcd. Keeps an incomplete last frame for later. Replies may arrive in any order. Returns
    /// false if the connection has been closed.
    fn on_frames(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        let mut at = 0;
        loop {
            let connection = &mut self.connections[number];
            let ended = match connection.read_frame(&bytes[at..]) {
                Ok(Some((length, ended))) => {
                    at += length;
                    ended
                }
                Ok(None) => break,
                Err(resp::Broken) => {
                    self.on_failure(
                        number,
                        "invalid HTTP/2 data, or the server closed the connection (GOAWAY)",
                    );
                    return false;
                }
            };
            let Some(ended) = ended else { continue };
            let request = connection.in_flight.get(ended.place).map(|operation| operation.request);
            match &ended.result {
                Ok(message) => {
                    // A message that cannot be decoded counts as a reply of the wrong type.
                    let reply = request.and_then(|request| etcd::reply(request, message));
                    let reply = reply.unwrap_or(Reply::Damaged);
                    self.on_reply_at(number, ended.place, reply, now);
                }
                Err(text) => {
                    self.on_reply_at(number, ended.place, Reply::Error(text.as_bytes()), now);
                }
            }
            if let (Ok(message), Some(http2)) = (ended.result, &mut self.connections[number].http2)
            {
                http2.recycle(message);
            }
        }
        self.connections[number].partial.extend_from_slice(&bytes[at..]);
        // Also flushes acknowledgements, which belong to no operation.
        self.mark_dirty(number);
        self.enqueue_ready(number);
        !self.leave_old_leader(number)
    }

    /// Handles all complete NATS messages in `bytes`, which connection `number` has received. Keeps
    /// an incomplete last message for later. Messages may arrive in any order. Returns false if the
    /// connection has been closed.
    fn on_messages(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        let mut at = 0;
        loop {
            match self.connections[number].read_nats(&bytes[at..]) {
                Ok(Some((length, ended))) => {
                    at += length;
                    if let Some((place, reply)) = ended {
                        self.on_reply_at(number, place, reply, now);
                    }
                }
                Ok(None) => break,
                Err(resp::Broken) => {
                    self.on_failure(number, "invalid data, or an error of the NATS server");
                    return false;
                }
            }
        }
        self.connections[number].partial.extend_from_slice(&bytes[at..]);
        // Also flushes answers to PING, which belong to no operation.
        self.mark_dirty(number);
        self.enqueue_ready(number);
        true
    }

    /// Handles the next reply in the Redis protocol on connection `number`. Returns false if the
    /// connection has been closed.
    fn on_reply(&mut self, number: usize, reply: Reply<'_>, now: u64) -> bool {
        let connection = &mut self.connections[number];
        if std::mem::take(&mut connection.is_logging_in) {
            if let Reply::Error(text) = reply {
                let text = format!("login refused: {}", String::from_utf8_lossy(text));
                self.on_failure(number, &text);
                return false;
            }
            return true;
        }
        if let State::FindingLeader { .. } = connection.state {
            return self.on_cluster_slots(number, reply);
        }
        if connection.in_flight.is_empty() {
            self.on_failure(number, "unexpected reply: no request is in flight");
            return false;
        }
        self.on_reply_at(number, 0, reply, now);
        true
    }

    /// Handles the reply to one of the operations in flight on connection `number`. `place` is the
    /// index of the operation among the operations in flight.
    fn on_reply_at(&mut self, number: usize, place: usize, reply: Reply<'_>, now: u64) {
        let connection = &mut self.connections[number];
        let Some(operation) = connection.in_flight.remove(place) else { return };
        match self.generator.on_reply(operation, reply, now) {
            Next::Done => {}
            Next::Pause => connection.paused = self.plan.rate.is_none(),
            Next::Continue(operation) => {
                connection.push(operation, &self.requests, &self.generator.values);
                self.mark_dirty(number);
            }
            Next::Retry(operation) => {
                self.retries.push_back(operation);
                if let Reply::Error(text) = reply
                    && let Some(leader) = moved_to(text)
                {
                    self.follow(leader);
                }
            }
        }
    }

    /// Handles the reply to `CLUSTER SLOTS`, which names the leader, on connection `number`.
    /// Returns false if the connection has been closed.
    fn on_cluster_slots(&mut self, number: usize, reply: Reply<'_>) -> bool {
        let queried = self.addresses[self.connections[number].address];
        let now = self.clock.now();
        match reply {
            Reply::List(list) => {
                let Some(leader) = leader_of(list, queried) else {
                    self.on_failure(number, "the cluster has no leader");
                    return false;
                };
                self.follow(leader);
                let connection = &mut self.connections[number];
                if connection.address != self.leader {
                    // Reopened only after a pause, because a follower names the old leader until a
                    // new one is elected.
                    connection.close(now + RETRY_PAUSE, |_| unreachable!("nothing is in flight"));
                    return false;
                }
                self.on_up(number);
                true
            }
            Reply::Error(text) if text.starts_with(b"CLUSTERDOWN") => {
                self.on_failure(number, "the cluster has no leader");
                false
            }
            // The server is not a cluster.
            _ => {
                self.on_up(number);
                true
            }
        }
    }
}

/// Parses a redirect, `MOVED slot host:port`, and returns its address; `None` if `text` is not a
/// redirect.
fn moved_to(text: &[u8]) -> Option<SocketAddr> {
    let address = std::str::from_utf8(text).ok()?.split(' ').nth(2)?;
    address.to_socket_addrs().ok()?.next()
}

/// Returns the leader's address from a reply to `CLUSTER SLOTS`: the master of the first slot
/// range. An empty host name stands for the host of `queried`, the server that replied.
fn leader_of(list: &[u8], queried: SocketAddr) -> Option<SocketAddr> {
    let Some(Reply::List(range)) = resp::parts(list)?.first().copied() else { return None };
    let Some(Reply::List(node)) = resp::parts(range)?.get(2).copied() else { return None };
    let node = resp::parts(node)?;
    let text = |place: usize| match node.get(place) {
        Some(Reply::Value(Some(text))) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    let port: u16 = text(1)?.parse().ok()?;
    match text(0) {
        None | Some("" | "?") => Some(SocketAddr::new(queried.ip(), port)),
        Some(host) => (host, port).to_socket_addrs().ok()?.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_address_is_parsed_from_moved_and_cluster_slots() {
        let queried: SocketAddr = "127.0.0.1:7001".parse().unwrap();
        let other: SocketAddr = "127.0.0.1:7002".parse().unwrap();
        assert_eq!(moved_to(b"MOVED 12182 127.0.0.1:7002"), Some(other));
        assert_eq!(moved_to(b"MOVED 12182"), None);
        let slots =
            |host: &str| format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n{host}:7002\r\n$2\r\nid\r\n");
        assert_eq!(leader_of(slots("$9\r\n127.0.0.1\r\n").as_bytes(), queried), Some(other));
        assert_eq!(leader_of(slots("$-1\r\n").as_bytes(), queried), Some(other));
        assert_eq!(leader_of(b"*0\r\n", queried), None);
        assert_eq!(leader_of(b"*1\r\n:0\r\n", queried), None);
    }
}
