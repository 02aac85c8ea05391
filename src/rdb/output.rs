//! Writes values and files. Values have the plain encodings, not the packed ones, because a reader
//! chooses the encoding in its memory by itself. Only streams are packed.

use super::stream::{EntriesWriter, UNKNOWN};
use super::{CHECKSUM, EntryId, VERSION, records, types};

/// Writes the parts of a value. The caller writes its items in the order of
/// [`Item`](super::Item), and as many as it has announced.
#[derive(Debug)]
pub struct ValueWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> ValueWriter<'o> {
    /// Returns a writer that appends to `out`. What it appends first must be the type of the value.
    pub fn new(out: &'o mut Vec<u8>) -> ValueWriter<'o> {
        ValueWriter { out }
    }

    /// Writes a whole string value of `length` bytes, which consists of `slices`.
    pub fn string_value<'s>(&mut self, length: usize, slices: impl Iterator<Item = &'s [u8]>) {
        self.out.push(types::STRING);
        put_length(length as u64, self.out);
        slices.for_each(|slice| self.out.extend_from_slice(slice));
    }

    /// Begins a list of `count` elements, each of which [`ValueWriter::string`] writes.
    pub fn list(&mut self, count: usize) {
        self.begin(types::LIST, count);
    }

    /// Begins a set of `count` members, each of which [`ValueWriter::string`] writes.
    pub fn set(&mut self, count: usize) {
        self.begin(types::SET, count);
    }

    /// Begins a sorted set of `count` members, each of which [`ValueWriter::scored`] writes.
    pub fn sorted_set(&mut self, count: usize) {
        self.begin(types::ZSET_2, count);
    }

    /// Begins a hash of `count` fields, each of which [`ValueWriter::string`] writes, and then its
    /// value.
    pub fn hash(&mut self, count: usize) {
        self.begin(types::HASH, count);
    }

    fn begin(&mut self, number: u8, count: usize) {
        self.out.push(number);
        put_length(count as u64, self.out);
    }

    /// Writes a string inside a value.
    pub fn string(&mut self, bytes: &[u8]) {
        put_string(bytes, self.out);
    }

    /// Writes a member of a sorted set with its score.
    pub fn scored(&mut self, member: &[u8], score: f64) {
        self.string(member);
        self.out.extend_from_slice(&score.to_le_bytes());
    }

    /// Writes the entries of a stream: their ids, which ascend, and their fields and values,
    /// alternately. Returns the number of entries and the id of the first one.
    pub fn stream_entries<F: AsRef<[u8]>>(
        &mut self,
        entries: impl Iterator<Item = (EntryId, Vec<F>)>,
    ) -> (usize, EntryId) {
        let (mut writer, mut count, mut first) = (EntriesWriter::new(), 0, None);
        for (id, fields) in entries {
            let fields: Vec<&[u8]> = fields.iter().map(AsRef::as_ref).collect();
            writer.add(id, &fields);
            count += 1;
            first.get_or_insert(id);
        }
        let listpacks = writer.finish();
        self.begin(types::STREAM_LISTPACKS_2, listpacks.len());
        for (id, bytes) in listpacks {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&id.millis.to_be_bytes());
            key[8..].copy_from_slice(&id.sequence.to_be_bytes());
            self.string(&key);
            self.string(&bytes);
        }
        (count, first.unwrap_or_default())
    }

    /// Writes a number inside a value, such as that of the groups of a stream.
    pub fn number(&mut self, number: u64) {
        put_length(number, self.out);
    }

    /// Writes a number of entries that is unknown if it is `None`.
    pub fn number_or_unknown(&mut self, number: Option<u64>) {
        self.number(number.unwrap_or(UNKNOWN));
    }

    /// Writes the id of an entry of a stream as two numbers.
    pub fn entry_id(&mut self, id: EntryId) {
        self.number(id.millis);
        self.number(id.sequence);
    }

    /// Writes the id of a pending entry in 16 bytes.
    pub fn raw_entry_id(&mut self, id: EntryId) {
        self.out.extend_from_slice(&id.millis.to_be_bytes());
        self.out.extend_from_slice(&id.sequence.to_be_bytes());
    }

    /// Writes a time in milliseconds since 1970.
    pub fn time(&mut self, millis: u64) {
        self.out.extend_from_slice(&millis.to_le_bytes());
    }
}

/// Writes a file. What it has written can be taken in pieces.
pub struct FileWriter {
    out: Vec<u8>,
    /// Checksum of what was taken and of the first `hashed` bytes of `out`.
    checksum: crc::Digest<'static, u64, crc::Table<16>>,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("bytes", &self.out.len()).finish_non_exhaustive()
    }
}

impl FileWriter {
    /// Begins a file of `keys` keys, with the facts `about` the file. The keys that follow are in
    /// database 0.
    pub fn new(keys: u64, about: &[(&str, &str)]) -> FileWriter {
        let mut out = format!("REDIS{VERSION:04}").into_bytes();
        for (name, value) in about {
            out.push(records::AUX);
            put_string(name.as_bytes(), &mut out);
            put_string(value.as_bytes(), &mut out);
        }
        out.extend([records::SELECT_DATABASE, 0]);
        out.push(records::SIZES);
        put_length(keys, &mut out);
        // The numbers are only hints.
        put_length(0, &mut out);
        FileWriter { out, checksum: CHECKSUM.digest() }
    }

    /// Begins the keys of another database, below 64.
    pub fn database(&mut self, number: u8) {
        self.out.push(records::SELECT_DATABASE);
        put_length(number.into(), &mut self.out);
    }

    /// Writes a key. `value` writes its value. `expires_at` is the time at which the key expires,
    /// in milliseconds since 1970.
    pub fn key(
        &mut self,
        key: &[u8],
        expires_at: Option<u64>,
        value: impl FnOnce(&mut ValueWriter<'_>),
    ) {
        if let Some(expires_at) = expires_at {
            self.out.push(records::EXPIRES_AT_MILLIS);
            self.out.extend_from_slice(&expires_at.to_le_bytes());
        }
        // The key is between the type and the rest of the value.
        let start = self.out.len() + 1;
        value(&mut ValueWriter::new(&mut self.out));
        let mut encoded = Vec::with_capacity(key.len() + 5);
        put_string(key, &mut encoded);
        self.out.splice(start..start, encoded);
    }

    /// Writes a library of functions. Redis reads them at any place of a file.
    pub fn library(&mut self, code: &[u8]) {
        self.out.push(records::LIBRARY);
        put_string(code, &mut self.out);
    }

    /// Returns what was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.checksum.update(&self.out);
        std::mem::take(&mut self.out)
    }

    /// Returns the number of bytes that [`FileWriter::take`] would return.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns whether [`FileWriter::take`] would return nothing.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Ends the file, and returns the rest of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(records::END);
        let mut rest = self.take();
        rest.extend_from_slice(&self.checksum.finalize().to_le_bytes());
        rest
    }
}

/// Appends a length or another number.
pub(super) fn put_length(length: u64, out: &mut Vec<u8>) {
    if let Ok(length @ 0..=0x3F) = u8::try_from(length) {
        out.push(length);
    } else if let Ok(length @ 0..=0x3FFF) = u16::try_from(length) {
        out.extend_from_slice(&(length | 0x4000).to_be_bytes());
    } else if let Ok(length) = u32::try_from(length) {
        out.push(0x80);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&length.to_be_bytes());
    }
}

pub(super) fn put_string(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
