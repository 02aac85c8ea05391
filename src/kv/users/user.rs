//! A user: the accumulated effect of its rules.

use bytes::Bytes;

use super::rule::{
    CommandRule, KeyAccess, KeyPattern, PasswordHash, Rule, RuleError, SelectorRule,
};

/// A user of the cluster: whether and how clients can log in as the user, and its permissions.
///
/// Invariant: there is at least one selector. If any password is accepted, none is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Whether clients can log in as the user. Disabling a user does not affect clients that are
    /// logged in.
    pub is_enabled: bool,
    /// Whether any password is accepted.
    pub accepts_any_password: bool,
    /// Whether `sanitize-payload` (true) or `skip-sanitize-payload` was set; `None` if neither.
    /// Only displayed, without effect.
    sanitizes: Option<bool>,
    passwords: Vec<PasswordHash>,
    selectors: Vec<Selector>,
}

/// A set of permissions. A user may send a request if one of its selectors permits the command with
/// all its keys and channels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Whether commands without a rule in `command_rules` are permitted.
    pub begins_with_all_commands: bool,
    /// Rules for commands and categories. Later rules override earlier ones.
    pub command_rules: Vec<CommandRule>,
    /// The permitted keys.
    pub keys: Patterns<KeyPattern>,
    /// The permitted channels.
    pub channels: Patterns<Bytes>,
}

/// Patterns of permitted keys or channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patterns<T> {
    /// All keys or channels are permitted.
    All,
    /// Keys or channels that match one of these patterns are permitted.
    Some(Vec<T>),
}

impl<T> Default for Patterns<T> {
    fn default() -> Patterns<T> {
        Patterns::Some(Vec::new())
    }
}

impl Default for User {
    /// Returns a newly created user: disabled, without passwords and permissions.
    fn default() -> User {
        User {
            is_enabled: false,
            accepts_any_password: false,
            sanitizes: None,
            passwords: Vec::new(),
            selectors: vec![Selector::default()],
        }
    }
}

impl User {
    /// Returns the user `default` of a new cluster, with all permissions and this password. `None`
    /// means that any password is accepted.
    pub fn initial_default(password: Option<PasswordHash>) -> User {
        let everything = Selector {
            begins_with_all_commands: true,
            command_rules: Vec::new(),
            keys: Patterns::All,
            channels: Patterns::All,
        };
        User {
            is_enabled: true,
            accepts_any_password: password.is_none(),
            passwords: password.into_iter().collect(),
            selectors: vec![everything],
            ..User::default()
        }
    }

    /// Returns the hashes of the user's passwords.
    pub fn passwords(&self) -> &[PasswordHash] {
        &self.passwords
    }

    /// Returns the user's selectors, at least one.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Applies a rule.
    ///
    /// # Errors
    /// If the rule cannot be applied to this user. The user may then be partially changed.
    pub fn apply(&mut self, rule: &Rule) -> Result<(), RuleError> {
        match rule {
            Rule::Enabled(enabled) => self.is_enabled = *enabled,
            Rule::NoPassword => {
                self.accepts_any_password = true;
                self.passwords.clear();
            }
            Rule::ResetPasswords => {
                self.accepts_any_password = false;
                self.passwords.clear();
            }
            Rule::Sanitize(sanitize) => self.sanitizes = Some(*sanitize),
            Rule::AddPassword(hash) => {
                if !self.passwords.contains(hash) {
                    self.passwords.push(*hash);
                }
                self.accepts_any_password = false;
            }
            Rule::RemovePassword(hash) => {
                let position = self.passwords.iter().position(|known| known == hash);
                self.passwords.remove(position.ok_or(RuleError::NoSuchPassword)?);
            }
            Rule::AddSelector(rules) => {
                let mut selector = Selector::default();
                rules.iter().try_for_each(|rule| selector.apply(rule))?;
                self.selectors.push(selector);
            }
            Rule::ClearSelectors => self.selectors.truncate(1),
            // Redis sets this flag, too.
            Rule::Reset => *self = User { sanitizes: Some(true), ..User::default() },
            Rule::Selector(rule) => self.selectors[0].apply(rule)?,
        }
        Ok(())
    }

    /// Returns the flags as displayed by `ACL GETUSER`.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_enabled { "on" } else { "off" }];
        if self.accepts_any_password {
            flags.push("nopass");
        }
        match self.sanitizes {
            Some(true) => flags.push("sanitize-payload"),
            Some(false) => flags.push("skip-sanitize-payload"),
            None => {}
        }
        flags
    }

    /// Returns rules that create this user from a new one, in the format of `ACL LIST`: one element
    /// per rule or selector. All command rules of a selector are one element.
    pub fn rules(&self) -> Vec<Vec<u8>> {
        let mut rules: Vec<Vec<u8>> =
            self.flags().into_iter().map(|flag| flag.as_bytes().to_vec()).collect();
        rules.extend(self.passwords.iter().map(|hash| format!("#{}", hash.to_text()).into()));
        rules.extend(self.selectors[0].rules());
        rules.extend(self.selectors[1..].iter().map(|selector| {
            let inner = selector.rules().join(&b' ');
            [b"(", &inner[..], b")"].concat()
        }));
        rules
    }

    /// Returns the approximate memory usage, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of::<User>() + self.rules().iter().map(|rule| rule.len() + 64).sum::<usize>()
    }
}

impl Selector {
    fn apply(&mut self, rule: &SelectorRule) -> Result<(), RuleError> {
        match rule {
            SelectorRule::AllCommands(all) => {
                self.begins_with_all_commands = *all;
                self.command_rules.clear();
            }
            SelectorRule::Command(rule) => {
                // A rule for a command replaces earlier rules for it and its subcommands.
                self.command_rules.retain(|known| !is_about(&known.name, &rule.name));
                self.command_rules.push(rule.clone());
            }
            SelectorRule::AllKeys => self.keys = Patterns::All,
            SelectorRule::ResetKeys => self.keys = Patterns::default(),
            SelectorRule::Keys(keys) => self.add_keys(keys)?,
            SelectorRule::AllChannels => self.channels = Patterns::All,
            SelectorRule::ResetChannels => self.channels = Patterns::default(),
            SelectorRule::Channels(pattern) => {
                let Patterns::Some(patterns) = &mut self.channels else {
                    return Err(RuleError::AfterAllChannels);
                };
                if !patterns.contains(pattern) {
                    patterns.push(pattern.clone());
                }
            }
        }
        Ok(())
    }

    fn add_keys(&mut self, keys: &KeyPattern) -> Result<(), RuleError> {
        let Patterns::Some(patterns) = &mut self.keys else {
            return Err(RuleError::AfterAllKeys);
        };
        let Some(known) = patterns.iter_mut().find(|known| known.pattern == keys.pattern) else {
            patterns.push(keys.clone());
            return Ok(());
        };
        known.access = known.access.union(keys.access);
        if known.access == KeyAccess::ALL && known.pattern == b"*"[..] {
            self.keys = Patterns::All;
        }
        Ok(())
    }

    fn rules(&self) -> Vec<Vec<u8>> {
        let mut rules = Vec::new();
        rules.extend(self.key_rules());
        rules.extend(self.channel_rules());
        rules.push(self.command_text().into_bytes());
        rules
    }

    /// Returns the key rules, such as `~*`.
    pub fn key_rules(&self) -> Vec<Vec<u8>> {
        let text = |keys: &KeyPattern| {
            let mut text = Vec::new();
            keys.write(&mut text);
            text
        };
        match &self.keys {
            Patterns::All => vec![b"~*".to_vec()],
            Patterns::Some(patterns) => patterns.iter().map(text).collect(),
        }
    }

    fn channel_rules(&self) -> Vec<Vec<u8>> {
        match &self.channels {
            Patterns::All => vec![b"&*".to_vec()],
            Patterns::Some(_) => {
                let mut rules = vec![b"resetchannels".to_vec()];
                rules.extend(self.channel_patterns());
                rules
            }
        }
    }

    /// Returns the channel rules, such as `&*`, without `resetchannels`.
    pub fn channel_patterns(&self) -> Vec<Vec<u8>> {
        match &self.channels {
            Patterns::All => vec![b"&*".to_vec()],
            Patterns::Some(patterns) => {
                patterns.iter().map(|pattern| [b"&", &pattern[..]].concat()).collect()
            }
        }
    }

    /// Returns the command rules, separated by spaces, starting with `+@all` or `-@all`.
    pub fn command_text(&self) -> String {
        let mut text = if self.begins_with_all_commands { "+@all" } else { "-@all" }.to_owned();
        for CommandRule { allow, name } in &self.command_rules {
            text.push(' ');
            text.push(if *allow { '+' } else { '-' });
            text.push_str(name);
        }
        text
    }
}

/// Returns whether the command `known` is `name` or one of its subcommands.
fn is_about(known: &str, name: &str) -> bool {
    let rest = known.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
}
