//! Rules of users, in the syntax of Redis's `ACL SETUSER`, from and to text.

use std::fmt::Write as _;

use bytes::Bytes;

/// Length in bytes of the SHA-256 hash of a password.
const HASH_BYTES: usize = 32;

/// The SHA-256 hash of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash(pub [u8; HASH_BYTES]);

/// A change of a user: one argument of `ACL SETUSER`. A plain password, as in `>secret`, is no
/// rule; it must be hashed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `on` or `off`: whether clients can log in as the user.
    Enabled(bool),
    /// `nopass`: removes all passwords, and accepts any password from then on.
    NoPassword,
    /// `resetpass`: removes all passwords, and accepts none.
    ResetPasswords,
    /// `sanitize-payload` or `skip-sanitize-payload` (false): stored and shown, but without effect,
    /// since there is no `RESTORE`.
    Sanitize(bool),
    /// `#hash`: adds a password.
    AddPassword(PasswordHash),
    /// `!hash`: removes a password.
    RemovePassword(PasswordHash),
    /// `(rules)`: adds a selector, a further set of permissions, made from these rules.
    AddSelector(Vec<SelectorRule>),
    /// `clearselectors`: removes all selectors but the first.
    ClearSelectors,
    /// `reset`: makes the user one that was just created.
    Reset,
    /// A rule about commands, keys or channels: changes the first selector.
    Selector(SelectorRule),
}

/// A change of a selector: of the commands, keys and channels that it permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorRule {
    /// `allcommands` (`+@all`) or `nocommands` (`-@all`).
    AllCommands(bool),
    /// `+name` or `-name`.
    Command(CommandRule),
    /// `allkeys` (`~*`).
    AllKeys,
    /// `resetkeys`: no key.
    ResetKeys,
    /// `~pattern`, `%R~pattern` or `%W~pattern`: the keys that match a pattern.
    Keys(KeyPattern),
    /// `allchannels` (`&*`).
    AllChannels,
    /// `resetchannels`: no channel.
    ResetChannels,
    /// `&pattern`: the channels that match a pattern.
    Channels(Bytes),
}

/// A rule that permits or forbids a command, a subcommand or a category of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRule {
    /// Whether the rule permits the commands; otherwise it forbids them.
    pub allow: bool,
    /// What the rule is about, in lower case: a command (`get`), a subcommand (`config|set`) or a
    /// category (`@read`).
    pub name: String,
}

/// What a user may do with keys: read their content, change it, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyAccess {
    /// The content of the key is returned, copied or has an effect on the result.
    pub reads: bool,
    /// The content of the key is added, changed or deleted.
    pub writes: bool,
}

/// A glob pattern of keys, and the access to keys that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    /// What may be done with the keys.
    pub access: KeyAccess,
    /// Glob pattern without white space.
    pub pattern: Bytes,
}

/// Why a rule was refused. The texts are those of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The rule is none, or its pattern contains white space.
    #[error("Syntax error")]
    Syntax,
    /// The rule names an unknown command or category.
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    /// The rule names the first argument of a subcommand.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgument,
    /// The hash of a password is malformed.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
    )]
    Hash,
    /// The password to remove is not one of the user's.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// The pattern adds nothing, because the selector already permits all keys.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not \
         have any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    /// The pattern adds nothing, because the selector already permits all channels.
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

    /// Returns the hash as 64 hexadecimal digits in lower case.
    pub fn to_text(self) -> String {
        let mut text = String::with_capacity(2 * HASH_BYTES);
        for byte in self.0 {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
        }
        text
    }
}

impl KeyAccess {
    /// Access to read and write.
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
    /// Parses a rule. The words of a selector are separated by spaces. Does not check whether
    /// commands and categories exist. `None` for an empty rule, which changes nothing.
    ///
    /// # Errors
    /// If the text is no rule.
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

    /// Appends the rule as text that [`Rule::parse`] parses to an equal rule.
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

    /// Returns the rules about selectors in this rule: those of a selector that it adds, or itself.
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
