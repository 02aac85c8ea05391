//! Writes one key at a time: a value of moderate size in one step by `RESTORE`, a longer one in
//! parts by the commands that add elements.

use anyhow::{anyhow, bail};
use bowline::rdb::{Item, RdbError, Sink, Stop};

use super::commands::Commands;
use super::target::{Command, Target};

/// Receives the items of a key's value.
pub(super) struct KeySink<'t> {
    key: Vec<u8>,
    expires_at: Option<i64>,
    payload_bytes_max: usize,
    target: &'t mut Target,
    commands: Commands,
    /// Whether parts of the value were sent.
    in_parts: bool,
    /// Whether the value has any item but its type.
    has_items: bool,
    /// Why a part could not be sent.
    failure: Option<anyhow::Error>,
}

impl<'t> KeySink<'t> {
    pub(super) fn new(
        key: Vec<u8>,
        expires_at: Option<i64>,
        payload_bytes_max: usize,
        target: &'t mut Target,
    ) -> KeySink<'t> {
        let commands = Commands::new(key.clone());
        let (in_parts, has_items, failure) = (false, false, None);
        KeySink {
            key,
            expires_at,
            payload_bytes_max,
            target,
            commands,
            in_parts,
            has_items,
            failure,
        }
    }

    /// Sends the commands so far. The first of them removes the key.
    fn send(&mut self) -> anyhow::Result<()> {
        if !self.in_parts {
            self.in_parts = true;
            self.target.send(vec![b"DEL".to_vec(), self.key.clone()])?;
        }
        for command in self.commands.take() {
            self.target.send(command)?;
        }
        Ok(())
    }

    /// Writes the rest of the value. `result` is that of the decoder, with a payload if the value
    /// is short enough. Returns false if there is no value, because it has no elements.
    pub(super) fn finish(
        mut self,
        result: Result<Option<Vec<u8>>, RdbError>,
    ) -> anyhow::Result<bool> {
        let payload = match (result, self.failure.take()) {
            (_, Some(failure)) => return Err(failure.context(self.place())),
            (Err(error), None) if self.in_parts => bail!("{error}; {}", self.place()),
            (Err(error), None) => return Err(error.into()),
            (Ok(payload), None) => payload,
        };
        if !self.has_items {
            return Ok(false);
        }
        // A time before 1970 has passed, too.
        let expires_at = self.expires_at.map(|expires_at| expires_at.max(1).to_string());
        if let Some(payload) = payload.filter(|_| !self.in_parts) {
            let mut restore: Command = vec![b"RESTORE".to_vec(), self.key.clone()];
            restore.push(expires_at.unwrap_or_else(|| "0".to_owned()).into_bytes());
            restore.extend([payload, b"REPLACE".to_vec(), b"ABSTTL".to_vec()]);
            self.target.send(restore)?;
            return Ok(true);
        }
        let sent = self.send();
        let sent = sent.and_then(|()| match expires_at {
            Some(at) => {
                self.target.send(vec![b"PEXPIREAT".to_vec(), self.key.clone(), at.into_bytes()])
            }
            None => Ok(()),
        });
        sent.map_err(|error| error.context(self.place()))?;
        Ok(true)
    }

    fn place(&self) -> String {
        format!("only a part of the key \"{}\" was written", self.key.escape_ascii())
    }
}

impl Sink for KeySink<'_> {
    fn item(&mut self, item: Item<'_>) -> Result<(), Stop> {
        self.has_items |= !matches!(item, Item::Value(_));
        self.commands.add(item);
        if self.in_parts && self.commands.is_part()
            || self.commands.bytes() > self.payload_bytes_max
        {
            self.send().map_err(|error| {
                self.failure = Some(anyhow!(error));
                Stop
            })?;
        }
        Ok(())
    }
}
