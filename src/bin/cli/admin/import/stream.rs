//! Applies the writes of a running server as they come. The source learns how far they are applied,
//! as from its replicas.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bowline::kv::{DatabaseId, parse_integer};
use bowline::wire::resp::{Limits, Parser};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::source::Source;
use super::target::{Command, Target};

/// How long a read waits for the source before the replies of the cluster are awaited.
const READ_MAX: Duration = Duration::from_millis(50);
/// Interval at which the source learns how far its writes are applied.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(1);
/// Interval at which the lag is shown.
const STATUS: Duration = Duration::from_secs(5);
/// Maximum time without any byte of the source, which sends a `PING` every ten seconds.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// Maximum length of a command of the source, in bytes.
const COMMAND_BYTES_MAX: usize = 1 << 30;

/// The stream of writes that follows the keys of a source.
pub(super) struct Stream {
    source: Source,
    /// Another connection, for the newest offset of the source.
    questions: Source,
    parser: Parser,
    unused: Vec<u8>,
    /// Number of bytes of the stream that have been parsed.
    offset: u64,
    heard_at: Instant,
}

impl Stream {
    pub(super) fn new(source: Source) -> anyhow::Result<Stream> {
        let questions = source.connect_again()?;
        let limits = Limits {
            bulk_bytes_max: bowline::rdb::STRING_BYTES_MAX,
            items_max: 1 << 20,
            request_bytes_max: COMMAND_BYTES_MAX,
        };
        let offset = source.offset;
        source.input.get_ref().set_read_timeout(Some(READ_MAX))?;
        Ok(Stream {
            source,
            questions,
            parser: Parser::new(limits),
            unused: Vec::new(),
            offset,
            heard_at: Instant::now(),
        })
    }

    /// Applies writes until SIGINT or SIGTERM.
    pub(super) fn follow(mut self, target: &mut Target, json: bool) -> anyhow::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        target.applied_offset = self.offset;
        let (mut acknowledged_at, mut shown_at) = (None, None);
        let is_due =
            |at: Option<Instant>, interval: Duration| at.is_none_or(|at| at.elapsed() >= interval);
        while !stop.load(Ordering::Relaxed) {
            let applied = self.apply_next(target);
            applied.map_err(|error| {
                let offset = target.applied_offset;
                error.context(format!("the import ends; writes up to offset {offset} are applied"))
            })?;
            if is_due(acknowledged_at, ACKNOWLEDGEMENT) {
                acknowledged_at = Some(Instant::now());
                let offset = target.applied_offset.to_string();
                self.source.send(&["REPLCONF", "ACK", &offset])?;
            }
            if is_due(shown_at, STATUS) {
                shown_at = Some(Instant::now());
                self.show_lag(target, json)?;
            }
        }
        target.finish()?;
        target.applied_offset = self.offset;
        self.show_lag(target, json)
    }

    /// Applies the commands that have arrived, or waits for more. Once there are none, waits for
    /// the replies to those that were sent.
    fn apply_next(&mut self, target: &mut Target) -> anyhow::Result<()> {
        let mut used = 0;
        let mut commands: Vec<(Command, u64)> = Vec::new();
        loop {
            let request = self.parser.next(&self.unused, &mut used);
            let request = request.context("the source sends malformed commands")?;
            let Some(request) = request else { break };
            let command = request.iter().map(<[u8]>::to_vec).collect();
            commands.push((command, self.offset + used as u64));
        }
        self.unused.drain(..used);
        for (command, offset) in commands {
            apply(command, offset, target)?;
        }
        self.offset += used as u64;
        if self.read()? {
            return Ok(());
        }
        while target.is_busy() {
            target.receive()?;
        }
        target.applied_offset = self.offset;
        Ok(())
    }

    /// Reads what has arrived. Returns false if nothing has.
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut space = vec![0; 64 << 10];
        match self.source.input.read(&mut space) {
            Ok(0) => bail!("the source has closed the connection"),
            Ok(count) => {
                self.unused.extend_from_slice(&space[..count]);
                self.heard_at = Instant::now();
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                ensure!(self.heard_at.elapsed() < SILENCE_MAX, "the source sends nothing any more");
                Ok(false)
            }
            Err(error) => Err(error).context("cannot read from the source"),
        }
    }

    fn show_lag(&mut self, target: &Target, json: bool) -> anyhow::Result<()> {
        let applied = target.applied_offset;
        let newest = self.questions.newest_offset()?;
        let lag = newest.saturating_sub(applied);
        if json {
            let document =
                json!({ "source_offset": newest, "applied_offset": applied, "lag_bytes": lag });
            println!("{document}");
        } else {
            println!("source at offset {newest}, applied up to {applied}, lag {lag} bytes");
        }
        Ok(())
    }
}

/// Sends a command that ends at `offset`, unless it concerns the connection only. Commands of a
/// transaction are sent one by one.
fn apply(command: Command, offset: u64, target: &mut Target) -> anyhow::Result<()> {
    let is = |name: &str| command[0].eq_ignore_ascii_case(name.as_bytes());
    if is("SELECT") {
        let number = command.get(1).and_then(|number| parse_integer(number));
        target.database = number.and_then(DatabaseId::new).with_context(|| {
            let last = DatabaseId::COUNT - 1;
            format!("the source writes to a database above {last} at offset {offset}")
        })?;
        return Ok(());
    }
    // A message is no write, and its subscribers are at the source.
    let is_passing = ["PING", "REPLCONF", "MULTI", "EXEC", "PUBLISH", "SPUBLISH"];
    if is_passing.into_iter().any(is) {
        return Ok(());
    }
    target.send_at(command, offset)
}
