//! Rules of users in the syntax of Redis's `ACL SETUSER`: parsing and formatting.

use std::fmt::Write as _;

use bytes::Bytes;

/// Length in bytes of the SHA-256 hash of a password.
const HASH_BYTES: usize = 32;

/// The SHA-256 hash of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash(pub [u8; HASH_BYTES]);

/// A change to a user: one argument of `ACL SETUSER`. A plain-text password, as in `>secret`, is
/// not a rule; it must be hashed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `on` or `off`: whether clients can log in as the user.
    Enabled(bool),
    /// `nopass`: removes all passwords, and makes the user accept any password.
    NoPassword,
    /// `resetpass`: removes all passwords, and stops accepting any password.
    ResetPasswords,
    /// `sanitize-payload` (true) or `skip-sanitize-payload` (false). Stored and displayed, without
    /// any effect.
    Sanitize(bool),
    /// `#hash`: adds a password.
    AddPassword(PasswordHash),
    /// `!hash`: removes a password.
    RemovePassword(PasswordHash),
    /// `(rules)`: adds a selector, which is an additional set of permissions, with these rules.
    AddSelector(Vec<SelectorRule>),
    /// `clearselectors`: removes all selectors except the first one.
    ClearSelectors,
    /// `reset`: resets the user to the state of a newly created one.
    Reset,
    /// A rule for commands, keys or channels. It changes the first selector.
    Selector(SelectorRule),
}

/// A change to a selector: to the commands, keys or channels that it permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorRule {
    /// `allcommands` (`+@all`) or `nocommands` (`-@all`).
    AllCommands(bool),
    /// `+name` or `-name`.
    Command(CommandRule),
    /// `allkeys` (`~*`).
    AllKeys,
    /// `resetkeys`: permits no keys.
    ResetKeys,
    /// `~pattern`, `%R~pattern` or `%W~pattern`: permits keys that match a pattern.
    Keys(KeyPattern),
    /// `allchannels` (`&*`).
    AllChannels,
    /// `resetchannels`: permits no channels.
    ResetChannels,
    /// `&pattern`: permits channels that match a pattern.
    Channels(Bytes),
}

/// A rule that permits or forbids a command, a subcommand or a category of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRule {
    /// Whether the commands are permitted; otherwise they are forbidden.
    pub allow: bool,
    /// The subject of the rule, in lower case: a command (`get`), a subcommand (`config|set`) or a
    /// category (`@read`).
    pub name: String,
}

/// Access to keys: reading, writing or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyAccess {
    /// Reading: the value is returned or copied, or affects the result.
    pub reads: bool,
    /// Writing: the value is created, changed or deleted.
    pub writes: bool,
}

/// A glob pattern of keys, and the permitted access to keys that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    /// The permitted access.
    pub access: KeyAccess,
    /// Glob pattern without whitespace.
    pub pattern: Bytes,
}

/// Why a rule was rejected. The messages are Redis's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The text is not a rule, or its pattern contains whitespace.
    #[error("Syntax error")]
    Syntax,
    /// The rule names an unknown command or category.
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    /// The rule names an argument of a subcommand, as in `+config|get|x`.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgument,
    /// The hash is not 64 lower-case hexadecimal digits.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
    )]
    Hash,
    /// The user does not have the password that is to be removed.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// The pattern would have no effect, because the selector already permits all keys.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not \
         have any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    /// The pattern would have no effect, because the selector already permits all channels.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does \
         not have any effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
}

impl PasswordHash {
    /// Parses 64 hexadecimal digits in lower case; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<PasswordHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; HASH_BYTES];
        let (pairs, rest) = text.as_chunks::<2>();
        if pairs.len() != HASH_BYTES || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(PasswordHash(hash))
    }

    /// Returns the hash as 64 lower-case hexadecimal digits.
    pub fn to_text(self) -> String {
        let mut text = String::with_capacity(2 * HASH_BYTES);
        for byte in self.0 {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
        }
        text
    }
}

impl KeyAccess {
    /// Access for reading and writing.
    pub const ALL: KeyAccess = KeyAccess { reads: true, writes: true };

    /// Returns whether this access includes all of `wanted`.
    pub fn includes(self, wanted: KeyAccess) -> bool {
        (self.reads || !wanted.reads) && (self.writes || !wanted.writes)
    }

    pub(super) fn union(self, other: KeyAccess) -> KeyAccess {
        KeyAccess { reads: self.reads || other.reads, writes: self.writes || other.writes }
    }
}

impl Rule {
    /// Parses a rule. The rules inside a selector are separated by spaces. Returns `None` for an
    /// empty text, which changes nothing. Does not check whether commands and categories exist.
    ///
    /// # Errors
    /// If the text is not a rule.
    pub fn parse(text: &[u8]) -> Result<Option<Rule>, RuleError> {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        let hash = |digits: &[u8]| PasswordHash::parse(digits).ok_or(RuleError::Hash);
        Ok(Some(match text {
            [] => return Ok(None),
            _ if is("on") => Rule::Enabled(true),
            _ if is("off") => Rule::Enabled(false),
            _ if is("nopass") => Rule::NoPassword,
            _ if is("resetpass") => Rule::ResetPasswords,
            _ if is("sanitize-payload") => Rule::Sanitize(true),
            _ if is("skip-sanitize-payload") => Rule::Sanitize(false),
            _ if is("clearselectors") => Rule::ClearSelectors,
            _ if is("reset") => Rule::Reset,
            [b'#', digits @ ..] => Rule::AddPassword(hash(digits)?),
            [b'!', digits @ ..] => Rule::RemovePassword(hash(digits)?),
            [b'(', inner @ .., b')'] => {
                let words = inner.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                Rule::AddSelector(words.map(SelectorRule::parse).collect::<Result<_, _>>()?)
            }
            _ => Rule::Selector(SelectorRule::parse(text)?),
        }))
    }

    /// Appends the rule as text. [`Rule::parse`] returns an equal rule for it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Rule::Enabled(true) => out.extend_from_slice(b"on"),
            Rule::Enabled(false) => out.extend_from_slice(b"off"),
            Rule::NoPassword => out.extend_from_slice(b"nopass"),
            Rule::ResetPasswords => out.extend_from_slice(b"resetpass"),
            Rule::Sanitize(true) => out.extend_from_slice(b"sanitize-payload"),
            Rule::Sanitize(false) => out.extend_from_slice(b"skip-sanitize-payload"),
            Rule::ClearSelectors => out.extend_from_slice(b"clearselectors"),
            Rule::Reset => out.extend_from_slice(b"reset"),
            Rule::AddPassword(hash) => {
                out.push(b'#');
                out.extend_from_slice(hash.to_text().as_bytes());
            }
            Rule::RemovePassword(hash) => {
                out.push(b'!');
                out.extend_from_slice(hash.to_text().as_bytes());
            }
            Rule::AddSelector(rules) => {
                out.push(b'(');
                for (position, rule) in rules.iter().enumerate() {
                    if position > 0 {
                        out.push(b' ');
                    }
                    rule.write(out);
                }
                out.push(b')');
            }
            Rule::Selector(rule) => rule.write(out),
        }
    }

    /// Returns the selector rules in this rule: those of the selector that it adds, or the rule
    /// itself.
    pub fn selector_rules(&self) -> &[SelectorRule] {
        match self {
            Rule::AddSelector(rules) => rules,
            Rule::Selector(rule) => std::slice::from_ref(rule),
            _ => &[],
        }
    }
}

impl SelectorRule {
    fn parse(text: &[u8]) -> Result<SelectorRule, RuleError> {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        Ok(match text {
            _ if is("allcommands") || is("+@all") => SelectorRule::AllCommands(true),
            _ if is("nocommands") || is("-@all") => SelectorRule::AllCommands(false),
            _ if is("allkeys") || is("~*") => SelectorRule::AllKeys,
            _ if is("resetkeys") => SelectorRule::ResetKeys,
            _ if is("allchannels") || is("&*") => SelectorRule::AllChannels,
            _ if is("resetchannels") => SelectorRule::ResetChannels,
            [b'~', pattern @ ..] => SelectorRule::keys(KeyAccess::ALL, pattern)?,
            [b'%', rest @ ..] => {
                let tilde = rest.iter().position(|byte| *byte == b'~').ok_or(RuleError::Syntax)?;
                let mut access = KeyAccess::default();
                for letter in &rest[..tilde] {
                    match letter.to_ascii_uppercase() {
                        b'R' if !access.reads => access.reads = true,
                        b'W' if !access.writes => access.writes = true,
                        _ => return Err(RuleError::Syntax),
                    }
                }
                if access == KeyAccess::default() {
                    return Err(RuleError::Syntax);
                }
                SelectorRule::keys(access, &rest[tilde + 1..])?
            }
            [b'&', pattern @ ..] => SelectorRule::Channels(without_space(pattern)?),
            [sign @ (b'+' | b'-'), name @ ..] => {
                let name = std::str::from_utf8(name).map_err(|_| RuleError::UnknownCommand)?;
                if name.is_empty() || name.bytes().any(|byte| !byte.is_ascii_graphic()) {
                    return Err(RuleError::UnknownCommand);
                }
                let name = name.to_ascii_lowercase();
                SelectorRule::Command(CommandRule { allow: *sign == b'+', name })
            }
            _ => return Err(RuleError::Syntax),
        })
    }

    fn keys(access: KeyAccess, pattern: &[u8]) -> Result<SelectorRule, RuleError> {
        let pattern = without_space(pattern)?;
        if access == KeyAccess::ALL && *pattern == b"*"[..] {
            return Ok(SelectorRule::AllKeys);
        }
        Ok(SelectorRule::Keys(KeyPattern { access, pattern }))
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            SelectorRule::AllCommands(true) => out.extend_from_slice(b"+@all"),
            SelectorRule::AllCommands(false) => out.extend_from_slice(b"-@all"),
            SelectorRule::Command(CommandRule { allow, name }) => {
                out.push(if *allow { b'+' } else { b'-' });
                out.extend_from_slice(name.as_bytes());
            }
            SelectorRule::AllKeys => out.extend_from_slice(b"~*"),
            SelectorRule::ResetKeys => out.extend_from_slice(b"resetkeys"),
            SelectorRule::Keys(keys) => keys.write(out),
            SelectorRule::AllChannels => out.extend_from_slice(b"&*"),
            SelectorRule::ResetChannels => out.extend_from_slice(b"resetchannels"),
            SelectorRule::Channels(pattern) => {
                out.push(b'&');
                out.extend_from_slice(pattern);
            }
        }
    }
}

impl KeyPattern {
    /// Appends the rule that adds this pattern, such as `~app:*` or `%R~app:*`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let prefix: &[u8] = match self.access {
            KeyAccess { reads: true, writes: true } => b"~",
            KeyAccess { reads: true, writes: false } => b"%R~",
            KeyAccess { writes: true, .. } => b"%W~",
            KeyAccess { .. } => unreachable!("a pattern gives access to something"),
        };
        out.extend_from_slice(prefix);
        out.extend_from_slice(&self.pattern);
    }
}

fn without_space(pattern: &[u8]) -> Result<Bytes, RuleError> {
    if pattern.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0B)) {
        return Err(RuleError::Syntax);
    }
    Ok(Bytes::copy_from_slice(pattern))
}
