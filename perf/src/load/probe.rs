//! Checks the target before the run: whether a server replies, and what server it is.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::bail;

use super::etcd;
use super::http2::Http2;
use super::options::{Login, Plan, Protocol};
use super::reply::Reply;
use super::resp;
use super::schema::Target;
use super::workload::Kind;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Queries the servers before a run. Returns the name and version of the first server that replies,
/// and its settings that affect results. For etcd, asks all servers, and moves the leader to the
/// front of `plan.sockets`.
///
/// # Errors
/// If no server replies, or the server lacks a command that the workload needs.
pub(crate) fn probe(plan: &mut Plan) -> anyhow::Result<Target> {
    let mut target = Target {
        protocol: plan.protocol.name().to_owned(),
        addresses: plan.addresses.clone(),
        server: String::new(),
        facts: BTreeMap::new(),
    };
    let mut failures = Vec::new();
    if plan.protocol == Protocol::Etcd {
        let mut leader = None;
        for (place, &socket) in plan.sockets.iter().enumerate() {
            match etcd(socket) {
                Ok((version, leads)) => {
                    target.server = format!("etcd {version}");
                    leader = if leads { Some(place) } else { leader };
                }
                Err(error) => failures.push(format!("{}: {error}", plan.addresses[place])),
            }
        }
        if !target.server.is_empty() {
            plan.sockets.swap(0, leader.unwrap_or(0));
            return Ok(target);
        }
    }
    if plan.protocol == Protocol::Nats {
        for (&socket, address) in plan.sockets.iter().zip(&plan.addresses) {
            match nats(socket) {
                Ok(version) => {
                    target.server = format!("nats {version}");
                    return Ok(target);
                }
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
    }
    let redis_sockets = if plan.protocol == Protocol::Redis { &plan.sockets[..] } else { &[] };
    for (socket, address) in redis_sockets.iter().zip(&plan.addresses) {
        match redis(*socket, plan, &mut target) {
            Ok(None) => return Ok(target),
            Ok(Some(missing)) => bail!("server {address} cannot run this load: {missing}"),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    bail!(
        "no server replies: {}; start a server at one of these addresses, or give another --target",
        failures.join(", ")
    )
}

/// Asks a Redis server for its name, version and settings, and stores them in `target`. Returns a
/// message if the server does not support what the plan needs; `None` if it does.
fn redis(socket: SocketAddr, plan: &Plan, target: &mut Target) -> io::Result<Option<String>> {
    let mut connection = Connection::open(socket)?;
    if let Some(Login { user, password }) = &plan.login {
        let refused = connection.query(
            &[b"AUTH", user.as_bytes(), password.as_bytes()],
            |reply| match reply {
                Reply::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            },
        )?;
        if let Some(text) = refused {
            return Ok(Some(format!("it refuses the login: {text}")));
        }
    }
    let info = connection.query(&[b"INFO"], |reply| match reply {
        Reply::Value(Some(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    })?;
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    // Bowline and Valkey report, besides their own version, the Redis version with which they are
    // compatible.
    let version = ["bowline", "valkey", "redis"]
        .into_iter()
        .find_map(|name| Some(format!("{name} {}", field(&format!("{name}_version"))?)));
    target.server = version.unwrap_or_default();
    for name in ["role", "connected_slaves", "bowline_threads", "threads"] {
        if let Some(value) = field(name) {
            target.facts.insert(name.to_owned(), value.to_owned());
        }
    }
    for name in ["appendonly", "appendfsync"] {
        let value =
            connection.query(&[b"CONFIG", b"GET", name.as_bytes()], |reply| match reply {
                Reply::List(list) => match resp::parts(list).unwrap_or_default().get(1) {
                    Some(Reply::Value(Some(text))) => String::from_utf8_lossy(text).into_owned(),
                    _ => String::new(),
                },
                _ => String::new(),
            })?;
        if !value.is_empty() {
            target.facts.insert(name.to_owned(), value);
        }
    }
    if plan.mix.has(Kind::Scan) {
        let scans = connection
            .query(&[b"SCAN", b"0", b"COUNT", b"1"], |reply| matches!(reply, Reply::List(_)))?;
        if !scans {
            return Ok(Some(format!(
                "the server has no SCAN command, which workload {} needs",
                plan.mix.name
            )));
        }
    }
    Ok(None)
}

/// Asks an etcd server for its version and whether it is the leader.
fn etcd(socket: SocketAddr) -> io::Result<(String, bool)> {
    let damaged =
        || io::Error::new(io::ErrorKind::InvalidData, "invalid reply: not etcd's protocol");
    let mut connection = Connection::open(socket)?;
    let mut out = Vec::new();
    let mut http2 = Http2::start(socket.to_string(), &mut out);
    etcd::call_status(&mut http2, &mut out);
    loop {
        connection.stream.write_all(&out)?;
        out.clear();
        connection.receive()?;
        while let Some((length, ended)) =
            http2.read(&connection.buffer, &mut out).map_err(|resp::Broken| damaged())?
        {
            connection.buffer.drain(..length);
            if let Some(ended) = ended {
                let message = ended.result.map_err(io::Error::other)?;
                return etcd::status(&message).ok_or_else(damaged);
            }
        }
    }
}

/// Returns the version of a NATS server, which its INFO line states. The server sends this line on
/// each new connection.
fn nats(socket: SocketAddr) -> io::Result<String> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "invalid reply: not NATS");
    let mut connection = Connection::open(socket)?;
    while !connection.buffer.contains(&b'\n') {
        connection.receive()?;
    }
    let line = String::from_utf8_lossy(&connection.buffer);
    let info =
        line.lines().next().and_then(|line| line.strip_prefix("INFO ")).ok_or_else(damaged)?;
    let info: serde_json::Value = serde_json::from_str(info.trim()).map_err(|_| damaged())?;
    Ok(info["version"].as_str().ok_or_else(damaged)?.to_owned())
}

/// A blocking connection to a server that sends one request at a time. It is used to query the
/// server's version and settings.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(socket: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&socket, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Connection { stream, buffer: Vec::new() })
    }

    fn query<T>(
        &mut self,
        arguments: &[&[u8]],
        read: impl FnOnce(Reply<'_>) -> T,
    ) -> io::Result<T> {
        let mut request = Vec::new();
        resp::write_request(&mut request, arguments);
        self.stream.write_all(&request)?;
        loop {
            let reply = resp::read(&self.buffer).map_err(|resp::Broken| {
                io::Error::new(io::ErrorKind::InvalidData, "invalid reply: not the Redis protocol")
            })?;
            if let Some((reply, length)) = reply {
                let result = read(reply);
                self.buffer.drain(..length);
                return Ok(result);
            }
            self.receive()?;
        }
    }

    /// Waits for more bytes from the server, and appends them to the buffer.
    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        let count = match self.stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "timed out"));
            }
            read => read?,
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}
