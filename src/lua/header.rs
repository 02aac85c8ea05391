//! The first line of a script, such as `#!lua flags=no-writes,allow-stale`.

/// What a script declares about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// The script writes nothing.
    NoWrites,
    /// The script runs although memory is full.
    AllowOom,
    /// The script runs on a replica with stale data.
    AllowStale,
    /// The script does not run on a cluster.
    NoCluster,
    /// The keys of the script may be in different slots.
    AllowCrossSlotKeys,
}

/// All flags with their names.
const FLAGS: [(&str, Flag); 5] = [
    ("no-writes", Flag::NoWrites),
    ("allow-oom", Flag::AllowOom),
    ("allow-stale", Flag::AllowStale),
    ("no-cluster", Flag::NoCluster),
    ("allow-cross-slot-keys", Flag::AllowCrossSlotKeys),
];

impl Flag {
    /// Returns the name of this flag, as in `flags=no-writes`.
    pub fn name(self) -> &'static str {
        FLAGS.iter().find(|(_, flag)| *flag == self).map_or("", |(name, _)| name)
    }

    /// Returns the bit of this flag in a set of flags.
    pub fn bit(self) -> u8 {
        let position = FLAGS.iter().position(|(_, flag)| *flag == self);
        position.map_or(0, |position| 1 << position)
    }

    /// Returns the flags whose bits are set, in the order in which Redis lists them.
    pub fn of_bits(bits: u8) -> impl Iterator<Item = Flag> {
        FLAGS.iter().map(|(_, flag)| *flag).filter(move |flag| bits & flag.bit() != 0)
    }

    /// Returns the flag with this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        FLAGS.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, flag)| *flag)
    }
}

/// The first line of a script and where its code begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the script has a first line with `#!`. Redis treats scripts without one as before
    /// version 7.0: the server decides by each command whether it may run.
    pub declared: bool,
    /// The declared flags, in the order of the script.
    pub flags: Vec<Flag>,
    /// Position of the code in the script, in bytes: the end of the first line, so that the line
    /// numbers of errors stay right.
    pub code_at: usize,
}

/// Why a first line is rejected. The text is the error reply after `ERR `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// `#!` without a line break after it.
    #[error("Invalid script shebang")]
    Invalid,
    /// `#!` with another language than Lua.
    #[error("Unexpected engine in script shebang: {0}")]
    UnknownEngine(String),
    /// An option other than `flags`.
    #[error("Unknown lua shebang option: {0}")]
    UnknownOption(String),
    /// A flag that Redis does not know.
    #[error("Unexpected flag in script shebang: {0}")]
    UnknownFlag(String),
}

impl Header {
    /// Reads the first line of a script for EVAL.
    ///
    /// # Errors
    ///
    /// If the line begins with `#!` and is not as Redis demands.
    pub fn parse(source: &[u8]) -> Result<Self, HeaderError> {
        if !source.starts_with(b"#!") {
            return Ok(Self { declared: false, flags: Vec::new(), code_at: 0 });
        }
        let code_at = source.iter().position(|&byte| byte == b'\n').ok_or(HeaderError::Invalid)?;
        let mut parts =
            source[..code_at].split(|&byte| byte == b' ').filter(|part| !part.is_empty());
        let engine = parts.next().unwrap_or_default();
        if engine != b"#!lua" {
            return Err(HeaderError::UnknownEngine(lossy(engine)));
        }
        let mut flags = Vec::new();
        for part in parts {
            let Some(list) = part.strip_prefix(b"flags=") else {
                return Err(HeaderError::UnknownOption(lossy(part)));
            };
            if list.is_empty() {
                continue;
            }
            for name in list.split(|&byte| byte == b',') {
                let flag =
                    Flag::from_name(name).ok_or_else(|| HeaderError::UnknownFlag(lossy(name)))?;
                flags.push(flag);
            }
        }
        Ok(Self { declared: true, flags, code_at })
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
