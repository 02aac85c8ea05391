//! Converts the keys and functions of a snapshot to a file in Redis's RDB format, while the
//! snapshot is verified.

use crate::kv::keyspace::clock::Millis;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::keyspace::entry::Value;
use crate::kv::keyspace::functions::Functions;
use crate::kv::keyspace::restore::RestoredEntry;
use crate::kv::values::string::StringRef;
use crate::rdb::FileWriter;

/// The file that is being written. Memory usage depends on the largest value.
#[derive(Debug, Default)]
pub(super) struct Export {
    /// `None` before the header of the snapshot.
    writer: Option<FileWriter>,
    /// Reading of the replicated clock in the snapshot. Keys that have expired are left out.
    clock: Millis,
    /// The database of the last key.
    database: DatabaseId,
    /// Number of keys written.
    pub(super) keys: u64,
}

impl Export {
    /// Begins the file for a snapshot of `entries` keys.
    pub(super) fn begin(&mut self, entries: u64, clock: Millis) {
        let seconds = (clock / 1_000).to_string();
        let about = [
            ("redis-ver", "7.0.15"),
            ("redis-bits", "64"),
            ("ctime", &seconds),
            ("bowline-ver", env!("CARGO_PKG_VERSION")),
        ];
        self.writer = Some(FileWriter::new(entries, &about));
        self.clock = clock;
    }

    /// Adds a key of a database.
    pub(super) fn add(&mut self, database: DatabaseId, entry: &RestoredEntry<'_>) {
        if entry.expires_at.is_some_and(|expires_at| expires_at <= self.clock) {
            return;
        }
        let writer = self.writer.as_mut().expect("the header comes first");
        if database != self.database {
            self.database = database;
            writer.database(database.number());
        }
        self.keys += 1;
        writer.key(entry.key, entry.expires_at, |out| match &entry.value {
            Value::String(string) => StringRef::Short(string).write_rdb(out),
            Value::LongString(string) => StringRef::Long(string).write_rdb(out),
            Value::Collection(collection) => collection.write_rdb(out),
        });
    }

    /// Returns the part of the file that was written since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.writer.as_mut().map(FileWriter::take).unwrap_or_default()
    }

    /// Ends the file with the libraries of functions, and returns the rest of it.
    pub(super) fn finish(self, functions: &Functions) -> Vec<u8> {
        let Some(mut writer) = self.writer else { return Vec::new() };
        functions.libraries().for_each(|library| writer.library(&library.code));
        writer.finish()
    }
}
