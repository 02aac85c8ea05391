//! A first look at the target, before the run: whether anybody is there, and what it tells of
//! itself.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::bail;

use super::answer::Answer;
use super::etcd;
use super::http2::Http2;
use super::options::{Plan, Protocol};
use super::resp;
use super::schema::Target;
use super::workload::Kind;

const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the first server that answers. Of etcd's asks all, and puts the one that leads first.
///
/// # Errors
/// If none does, or if it can't do what the plan wants.
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
    let redis_sockets = if plan.protocol == Protocol::Redis { &plan.sockets[..] } else { &[] };
    for (socket, address) in redis_sockets.iter().zip(&plan.addresses) {
        match redis(*socket, plan, &mut target) {
            Ok(None) => return Ok(target),
            Ok(Some(lacking)) => bail!("{address}: {lacking}"),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    bail!("nobody answers: {}; start a server there, or give --target", failures.join(", "))
}

/// What the server lacks, if anything.
fn redis(socket: SocketAddr, plan: &Plan, target: &mut Target) -> io::Result<Option<String>> {
    let mut line = Line::open(socket)?;
    let info = line.ask(&[b"INFO"], |answer| match answer {
        Answer::Value(Some(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    })?;
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    target.server = match (field("bowline_version"), field("redis_version")) {
        (Some(version), _) => format!("bowline {version}"),
        (None, Some(version)) => format!("redis {version}"),
        (None, None) => String::new(),
    };
    for name in ["role", "connected_slaves", "bowline_threads", "threads"] {
        if let Some(value) = field(name) {
            target.facts.insert(name.to_owned(), value.to_owned());
        }
    }
    for name in ["appendonly", "appendfsync"] {
        let value = line.ask(&[b"CONFIG", b"GET", name.as_bytes()], |answer| match answer {
            Answer::List(list) => match resp::parts(list).unwrap_or_default().get(1) {
                Some(Answer::Value(Some(text))) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            },
            _ => String::new(),
        })?;
        if !value.is_empty() {
            target.facts.insert(name.to_owned(), value);
        }
    }
    if plan.mix.has(Kind::Scan) {
        let scans =
            line.ask(&[b"SCAN", b"0", b"COUNT", b"1"], |answer| matches!(answer, Answer::List(_)))?;
        if !scans {
            return Ok(Some(format!(
                "this server has no SCAN, and workload {} consists of scans",
                plan.mix.name
            )));
        }
    }
    Ok(None)
}

/// The version of an etcd, and whether it leads.
fn etcd(socket: SocketAddr) -> io::Result<(String, bool)> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "what came is not etcd's protocol");
    let mut line = Line::open(socket)?;
    let mut out = Vec::new();
    let mut http2 = Http2::start(socket.to_string(), &mut out);
    etcd::call_status(&mut http2, &mut out);
    loop {
        line.stream.write_all(&out)?;
        out.clear();
        line.receive()?;
        while let Some((length, ended)) =
            http2.read(&line.buffer, &mut out).map_err(|resp::Broken| damaged())?
        {
            line.buffer.drain(..length);
            if let Some(ended) = ended {
                let message = ended.result.map_err(io::Error::other)?;
                return etcd::status(&message).ok_or_else(damaged);
            }
        }
    }
}

/// A connection on which one waits for each answer.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    fn open(socket: SocketAddr) -> io::Result<Line> {
        let stream = TcpStream::connect_timeout(&socket, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Line { stream, buffer: Vec::new() })
    }

    fn ask<T>(&mut self, words: &[&[u8]], read: impl FnOnce(Answer<'_>) -> T) -> io::Result<T> {
        let mut request = Vec::new();
        resp::write_request(&mut request, words);
        self.stream.write_all(&request)?;
        loop {
            let answer = resp::read(&self.buffer).map_err(|resp::Broken| {
                io::Error::new(io::ErrorKind::InvalidData, "what came is not the Redis protocol")
            })?;
            if let Some((answer, length)) = answer {
                let result = read(answer);
                self.buffer.drain(..length);
                return Ok(result);
            }
            self.receive()?;
        }
    }

    /// Waits for more bytes.
    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        let count = match self.stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
            }
            read => read?,
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}
