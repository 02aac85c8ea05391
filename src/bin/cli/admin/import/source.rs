//! A running Redis or Valkey server as the source: asks it for its keys and its writes, as its
//! replicas do.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};

use super::BUFFER_BYTES;
use crate::cli::connection::Connection;

/// Environment variable with the password of the source.
const PASSWORD: &str = "BOWLINE_SOURCE_PASSWORD";
/// Maximum time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Maximum time without any byte of the source while it sends its keys. While it prepares them, it
/// sends a byte every ten seconds.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// Length in bytes of the mark that ends the keys if their length is not known.
const MARK_BYTES: usize = 40;
/// Maximum length of a line of the source, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// How the end of the keys is found.
enum End {
    /// The keys take this number of bytes.
    Length(u64),
    /// This mark follows them.
    Mark(Vec<u8>),
}

/// A connection to the source.
pub(super) struct Source {
    /// Where the source is, as `host:port`.
    pub(super) address: String,
    login: Vec<String>,
    pub(super) input: BufReader<TcpStream>,
    end: End,
    /// Number of bytes of the source's stream of writes before the first one that follows the keys.
    pub(super) offset: u64,
}

impl Source {
    /// Connects to the server at `url`, and asks it for its keys.
    pub(super) fn connect(url: &str) -> anyhow::Result<Source> {
        let (login, address) = parse(url)?;
        let mut source =
            Source { input: open(&address)?, address, login, end: End::Length(0), offset: 0 };
        source.log_in()?;
        // It may send the keys without knowing their length.
        source.call(&["REPLCONF", "capa", "eof", "capa", "psync2"])?;
        let reply = source.call(&["PSYNC", "?", "-1"])?;
        let mut words = reply.split(' ');
        let (word, offset) = (words.next(), words.nth(1).and_then(|word| word.parse().ok()));
        let Some(offset) = offset.filter(|_| word == Some("FULLRESYNC")) else {
            bail!("{} sends no keys, but `{reply}`", source.address);
        };
        source.offset = offset;
        let line = source.line()?;
        source.end = match (line.strip_prefix("$EOF:"), line.strip_prefix('$')) {
            (Some(mark), _) if mark.len() == MARK_BYTES => End::Mark(mark.as_bytes().to_vec()),
            (None, Some(length)) => {
                End::Length(length.parse().context("the length of the keys is no number")?)
            }
            _ => bail!("{} sends no keys, but `{line}`", source.address),
        };
        Ok(source)
    }

    /// Opens another connection to the source, for questions.
    pub(super) fn connect_again(&self) -> anyhow::Result<Source> {
        let (input, end) = (open(&self.address)?, End::Length(0));
        let (address, login) = (self.address.clone(), self.login.clone());
        let mut source = Source { address, login, input, end, offset: 0 };
        source.log_in()?;
        Ok(source)
    }

    fn log_in(&mut self) -> anyhow::Result<()> {
        if self.login.is_empty() {
            return Ok(());
        }
        let arguments: Vec<String> =
            ["AUTH".to_owned()].into_iter().chain(self.login.iter().cloned()).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.call(&arguments)?;
        Ok(())
    }

    /// Sends a command, whose reply may come later.
    pub(super) fn send(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        let request = Connection::encode(&arguments);
        let sent = self.input.get_ref().write_all(&request);
        sent.with_context(|| format!("cannot write to {}", self.address))
    }

    /// Sends a command, and returns the first line of the reply without its type.
    fn call(&mut self, arguments: &[&str]) -> anyhow::Result<String> {
        self.send(arguments)?;
        let line = self.line()?;
        match line.split_at_checked(1) {
            Some(("-", error)) => {
                Err(anyhow!("{} refuses {}: {error}", self.address, arguments[0]))
            }
            Some(("+" | ":" | "$", text)) => Ok(text.to_owned()),
            _ => bail!("{} is not a Redis server: it sends `{line}`", self.address),
        }
    }

    /// Asks the source for the number of bytes that its stream of writes has so far.
    pub(super) fn newest_offset(&mut self) -> anyhow::Result<u64> {
        let length = self.call(&["INFO", "replication"])?;
        let length: u64 = length.parse().context("INFO is no text")?;
        let mut text = Vec::new();
        (&mut self.input).take(length.min(LINE_BYTES_MAX) + 2).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let offset = text.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        offset.and_then(|offset| offset.trim().parse().ok()).context("INFO has no offset")
    }

    /// Reads a line. Skips empty ones, which the source sends while it prepares the keys.
    fn line(&mut self) -> anyhow::Result<String> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            read.with_context(|| format!("cannot read from {}", self.address))?;
            ensure!(line.ends_with(b"\n"), "{} has closed the connection", self.address);
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }

    /// Checks that the keys, which took `length` bytes, end here.
    pub(super) fn end_keys(&mut self, length: u64) -> anyhow::Result<()> {
        match &self.end {
            End::Length(wanted) => {
                ensure!(length == *wanted, "the keys took {length} bytes instead of {wanted}");
            }
            End::Mark(mark) => {
                let mut found = [0; MARK_BYTES];
                self.input.read_exact(&mut found)?;
                ensure!(found[..] == mark[..], "no mark follows the keys");
            }
        }
        Ok(())
    }
}

fn open(address: &str) -> anyhow::Result<BufReader<TcpStream>> {
    let failed = || format!("cannot connect to {address}");
    let found = address.to_socket_addrs().with_context(failed)?.next().with_context(failed)?;
    let socket = TcpStream::connect_timeout(&found, CONNECT_MAX).with_context(failed)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    socket.set_write_timeout(Some(SILENCE_MAX))?;
    socket.set_nodelay(true)?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, socket))
}

/// Splits a URL into the user and the password, and the address.
fn parse(url: &str) -> anyhow::Result<(Vec<String>, String)> {
    let rest = url.strip_prefix("redis://").with_context(|| {
        format!("`{url}` does not begin with redis://; for a source with TLS, use an RDB file")
    })?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    ensure!(!rest.contains('/'), "all databases are read; leave out what follows the port");
    let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(user, it)| (Some(user), it));
    let user = user.filter(|user| !user.is_empty());
    ensure!(
        user.is_none_or(|user| !user.contains(':')),
        "other users can see a password on the command line; set {PASSWORD}"
    );
    let password = env::var(PASSWORD).ok();
    ensure!(user.is_none() || password.is_some(), "user {user:?} needs a password in {PASSWORD}");
    let login = user.map(str::to_owned).into_iter().chain(password).collect();
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { address.to_owned() } else { format!("{address}:6379") };
    Ok((login, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_sources_are_parsed() {
        let address = |rest: &str| parse(&format!("redis://{rest}")).map(|(_, address)| address);
        assert_eq!(address("host:1").unwrap(), "host:1");
        assert_eq!(address("host/").unwrap(), "host:6379");
        for wrong in ["host:1/3", "user:secret@host:1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert!(parse("rediss://localhost").is_err());
    }
}
