//! The permissions of one user, in a form that makes checks fast: sets of commands are bit sets. A
//! connection keeps its user's permissions until they change.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::kv::{DEFAULT_USER, KeyAccess, PasswordHash, Patterns, Selector, User, glob};

use super::statistics::CommandNumber;

/// Number of commands per word of a [`CommandSet`].
const WORD_BITS: usize = u64::BITS as usize;

/// A set of commands and subcommands, as a bit set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CommandSet {
    words: Vec<u64>,
}

impl CommandSet {
    pub(super) fn set(&mut self, command: CommandNumber, is_member: bool) {
        let (word, bit) = (usize::from(command.0) / WORD_BITS, usize::from(command.0) % WORD_BITS);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] &= !(1 << bit);
        self.words[word] |= u64::from(is_member) << bit;
    }

    fn contains(&self, command: CommandNumber) -> bool {
        let (word, bit) = (usize::from(command.0) / WORD_BITS, usize::from(command.0) % WORD_BITS);
        self.words.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }
}

/// Permissions of one selector of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SelectorPermissions {
    commands: CommandSet,
    selector: Selector,
}

impl SelectorPermissions {
    /// Creates the permissions of `selector`. `commands` are all commands that its rules permit.
    pub(super) fn new(selector: Selector, commands: CommandSet) -> SelectorPermissions {
        SelectorPermissions { commands, selector }
    }

    /// Returns whether the selector permits a command.
    pub(super) fn allows_command(&self, command: CommandNumber) -> bool {
        self.commands.contains(command)
    }

    /// Returns whether the selector permits all keys.
    pub(super) fn allows_all_keys(&self) -> bool {
        self.selector.keys == Patterns::All
    }

    /// Returns whether the selector permits reading all keys.
    pub(super) fn allows_reading_all_keys(&self) -> bool {
        match &self.selector.keys {
            Patterns::All => true,
            Patterns::Some(patterns) => {
                patterns.iter().any(|keys| keys.access.reads && keys.pattern == b"*"[..])
            }
        }
    }

    /// Returns whether the selector permits this access to a key.
    pub(super) fn allows_key(&self, key: &[u8], access: KeyAccess) -> bool {
        match &self.selector.keys {
            Patterns::All => true,
            Patterns::Some(patterns) => patterns
                .iter()
                .any(|keys| keys.access.includes(access) && glob::matches(&keys.pattern, key)),
        }
    }

    /// Returns whether the selector permits a channel.
    pub(super) fn allows_channel(&self, channel: &[u8]) -> bool {
        match &self.selector.channels {
            Patterns::All => true,
            Patterns::Some(patterns) => {
                patterns.iter().any(|pattern| glob::matches(pattern, channel))
            }
        }
    }

    /// Returns whether the selector permits a pattern subscription. As in Redis, it does only if it
    /// contains the identical pattern.
    pub(super) fn allows_channel_pattern(&self, pattern: &[u8]) -> bool {
        match &self.selector.channels {
            Patterns::All => true,
            Patterns::Some(patterns) => patterns.iter().any(|known| known == pattern),
        }
    }
}

/// Permissions of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) name: Bytes,
    pub(super) user: Arc<User>,
    selectors: Vec<SelectorPermissions>,
    /// Whether the first selector permits everything, so that no check is needed.
    pub(super) are_unrestricted: bool,
}

static UNRESTRICTED: LazyLock<Arc<Permissions>> = LazyLock::new(|| {
    let user = Arc::new(User::initial_default(None));
    Arc::new(Permissions {
        name: Bytes::from_static(DEFAULT_USER),
        user,
        selectors: Vec::new(),
        are_unrestricted: true,
    })
});

impl Permissions {
    /// Creates the permissions of a user with these selectors.
    pub(super) fn new(
        name: Bytes,
        user: Arc<User>,
        selectors: Vec<SelectorPermissions>,
    ) -> Permissions {
        let everything = user.selectors().first().is_some_and(|selector| {
            selector.begins_with_all_commands
                && selector.command_rules.is_empty()
                && selector.keys == Patterns::All
                && selector.channels == Patterns::All
        });
        Permissions { name, user, selectors, are_unrestricted: everything }
    }

    /// Returns the permissions of the user `default` of a server without a password.
    pub(super) fn unrestricted() -> Arc<Permissions> {
        Arc::clone(&UNRESTRICTED)
    }

    /// Returns the permissions of all selectors, at least one.
    pub(super) fn selectors(&self) -> &[SelectorPermissions] {
        &self.selectors
    }

    /// Returns whether clients can log in as the user with this password. The duration depends on
    /// the number of passwords, but not on their contents, so it reveals nothing about them.
    pub(super) fn accepts(&self, password: &PasswordHash) -> bool {
        let is_one = self.user.passwords().iter().fold(false, |found, known| {
            let pairs = known.0.iter().zip(&password.0);
            let difference = pairs.fold(0, |difference, (one, other)| difference | (one ^ other));
            found | (std::hint::black_box(difference) == 0)
        });
        self.user.is_enabled && (self.user.accepts_any_password || is_one)
    }
}
