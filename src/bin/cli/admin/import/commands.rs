//! Converts the items of a value to commands that add them to a key.

use bowline::kv::write_double;
use bowline::rdb::{EntryId, GroupReads, Item};

use super::target::Command;

/// Maximum number of arguments of one command.
const ARGUMENTS_MAX: usize = 1_000;
/// Length in bytes of the arguments from which on a command gets no more.
const COMMAND_BYTES: usize = 256 << 10;
/// Total length in bytes of the commands of one part.
const PART_BYTES: usize = 1 << 20;

/// The commands that add the items received so far.
pub(super) struct Commands {
    key: Vec<u8>,
    all: Vec<Command>,
    /// Total length of the arguments of all commands, in bytes.
    bytes: usize,
    /// Length of the arguments of the last command, in bytes.
    last_bytes: usize,
    group: Vec<u8>,
    consumer: Vec<u8>,
    /// Whether the stream has an entry.
    has_entries: bool,
}

impl Commands {
    pub(super) fn new(key: Vec<u8>) -> Commands {
        Commands {
            key,
            all: Vec::new(),
            bytes: 0,
            last_bytes: 0,
            group: Vec::new(),
            consumer: Vec::new(),
            has_entries: false,
        }
    }

    /// Returns the total length of the commands in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether the commands are enough for a part.
    pub(super) fn is_part(&self) -> bool {
        self.bytes >= PART_BYTES
    }

    /// Returns the commands.
    pub(super) fn take(&mut self) -> Vec<Command> {
        self.bytes = 0;
        std::mem::take(&mut self.all)
    }

    /// Adds an item.
    pub(super) fn add(&mut self, item: Item<'_>) {
        match item {
            Item::Value(_) => {}
            Item::String(string) => self.append("SET", &[string]),
            Item::Element(element) => self.append("RPUSH", &[element]),
            Item::Member(member) => self.append("SADD", &[member]),
            Item::Scored(member, score) => {
                self.append("ZADD", &[write_double(score).as_bytes(), member]);
            }
            Item::Field(field, value) => self.append("HSET", &[field, value]),
            Item::Entry(id, fields) => {
                self.has_entries = true;
                let mut arguments = vec![text(id)];
                arguments.extend(fields.iter().map(|field| field.to_vec()));
                self.command("XADD", arguments);
            }
            Item::Stream { last_id, max_deleted_id, entries_added } => {
                if !self.has_entries {
                    // A stream without entries.
                    let id = if last_id == EntryId::default() {
                        EntryId { millis: 0, sequence: 1 }
                    } else {
                        last_id
                    };
                    self.command("XADD", vec![text(id), b"x".to_vec(), b"y".to_vec()]);
                    self.command("XDEL", vec![text(id)]);
                }
                let mut arguments = vec![text(last_id)];
                if let Some(added) = entries_added {
                    arguments.extend([b"ENTRIESADDED".to_vec(), added.to_string().into_bytes()]);
                    arguments.extend([b"MAXDELETEDID".to_vec(), text(max_deleted_id)]);
                }
                self.command("XSETID", arguments);
            }
            Item::Group { name, last_id, entries_read } => {
                self.group = name.to_vec();
                let create = [b"XGROUP".to_vec(), b"CREATE".to_vec(), self.key.clone()];
                let mut create: Command = create.into();
                create.extend([name.to_vec(), text(last_id)]);
                if let GroupReads::Known(read) = entries_read {
                    create.extend([b"ENTRIESREAD".to_vec(), read.to_string().into_bytes()]);
                }
                self.push(create);
            }
            Item::Consumer { name, .. } => {
                self.consumer = name.to_vec();
                let create = [b"XGROUP".to_vec(), b"CREATECONSUMER".to_vec(), self.key.clone()];
                let mut create: Command = create.into();
                create.extend([self.group.clone(), name.to_vec()]);
                self.push(create);
            }
            Item::Pending { id, delivered_at, deliveries } => {
                let mut claim = vec![self.group.clone(), self.consumer.clone(), b"0".to_vec()];
                claim.extend([text(id), b"TIME".to_vec(), delivered_at.to_string().into_bytes()]);
                claim.extend([b"RETRYCOUNT".to_vec(), deliveries.to_string().into_bytes()]);
                claim.extend([b"FORCE".to_vec(), b"JUSTID".to_vec()]);
                self.command("XCLAIM", claim);
            }
        }
    }

    /// Appends arguments to the last command, or begins another one if it is long enough.
    fn append(&mut self, name: &str, arguments: &[&[u8]]) {
        let length = arguments.iter().map(|argument| argument.len()).sum::<usize>();
        let is_full = |last: &Command| {
            last.len() + arguments.len() > ARGUMENTS_MAX || self.last_bytes >= COMMAND_BYTES
        };
        if self.all.last().is_none_or(is_full) {
            self.all.push(vec![name.as_bytes().to_vec(), self.key.clone()]);
            self.last_bytes = 0;
        }
        let last = self.all.last_mut().expect("there is one");
        last.extend(arguments.iter().map(|argument| argument.to_vec()));
        self.last_bytes += length;
        self.bytes += length + 2 * size_of::<Vec<u8>>();
    }

    /// Adds a command with the key as its first argument.
    fn command(&mut self, name: &str, arguments: Vec<Vec<u8>>) {
        let mut command = vec![name.as_bytes().to_vec(), self.key.clone()];
        command.extend(arguments);
        self.push(command);
    }

    fn push(&mut self, command: Command) {
        self.bytes += command.iter().map(|it| it.len() + size_of::<Vec<u8>>()).sum::<usize>();
        self.all.push(command);
    }
}

fn text(id: EntryId) -> Vec<u8> {
    format!("{}-{}", id.millis, id.sequence).into_bytes()
}
