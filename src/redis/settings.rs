//! The settings of one replica that `CONFIG GET` and `CONFIG SET` show, under Redis's names.
//!
//! Bowline's own settings are flags, file entries and environment variables, read at startup. A
//! setting here takes effect as soon as it is set, or the new value is refused with the reason:
//! Redis's settings for features that this server lacks, and values that would not be true. Changes
//! last until the process exits.

use std::time::Duration;

use crate::kv::{DatabaseId, EncodingLimits, VALUE_BYTES_MAX, parse_integer};
use crate::wire::resp::Limits;

use super::notifications::KeyspaceNotifications;
use super::unsupported_settings::{UNSUPPORTED, with_aliases};

/// The settings of one replica that `CONFIG GET` shows, with their current values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The settings that `CONFIG SET` can change.
    mutable: Vec<Setting>,
    /// Value of `proto-max-bulk-len` in bytes, stored as a number because many commands need it.
    value_bytes_max: usize,
    /// Names and values of the settings that `CONFIG SET` cannot change, such as `port`.
    immutable: Vec<(&'static str, String)>,
    /// Maximum value of `maxclients` that the limit on open files allows.
    clients_allowed: u64,
    /// The settings without an effect, with their values, if they are accepted nevertheless;
    /// `None` if they are refused.
    without_effect: Option<Vec<(&'static str, String)>>,
}

/// The settings of the slow log and of the latency samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowLogSettings {
    /// Minimum duration of a request that is added to the slow log; `None` if the slow log is off.
    pub threshold: Option<Duration>,
    /// Maximum number of entries in the slow log.
    pub entries_max: usize,
    /// Minimum duration of a request that is recorded as a latency sample; `None` if latency
    /// samples are off.
    pub latency_threshold: Option<Duration>,
}

impl SlowLogSettings {
    /// Returns whether the slow log has every request, however short.
    pub fn are_all_logged(&self) -> bool {
        self.threshold == Some(Duration::ZERO) && self.entries_max > 0
    }
}

/// A setting that `CONFIG SET` can change, with its current value.
#[derive(Debug, Clone)]
struct Setting {
    name: &'static str,
    kind: ValueKind,
    value: String,
}

/// The kind of value that a setting has, which determines how a new value is checked.
#[derive(Debug, Clone, Copy)]
enum ValueKind {
    /// Only one value is accepted. The fields are the kind of the value, with which its syntax is
    /// checked, the accepted value, and the reason for refusing any other value.
    Only(&'static ValueKind, &'static str, &'static str),
    /// The value consists of letters for classes of keyspace events, as in `notify-keyspace-events`
    /// (see [`KeyspaceNotifications`]).
    EventClasses,
    /// The value is one of the given words, such as a log level.
    Word(&'static [&'static str]),
    /// The value consists of pairs of a number of seconds and a number of changes, as in Redis's
    /// setting `save`.
    SavePoints,
    /// The value is an integer of at least -1.
    Integer,
    /// The value is an integer between two bounds, both inclusive.
    Between(u64, u64),
    /// The value is a number of bytes with an optional unit such as `mb`.
    Bytes,
    /// The value is a number of bytes of at least the given minimum, with an optional unit.
    BytesFrom(u64),
    /// The value is a number of bytes between two bounds, both inclusive, with an optional unit.
    BytesBetween(u64, u64),
    YesOrNo,
    /// The value is a password of at most 512 bytes; empty for none.
    Password,
}

const MEMORY_MAX: &str = "maxmemory";
const REWRITE_PERCENTAGE: &str = "auto-aof-rewrite-percentage";
const REWRITE_BYTES_MIN: &str = "auto-aof-rewrite-min-size";
const CLIENTS_MAX: &str = "maxclients";
const CLIENTS_BYTES_MAX: &str = "maxmemory-clients";
const IDLE_SECONDS_MAX: &str = "timeout";
const KEEP_ALIVE_SECONDS: &str = "tcp-keepalive";
const SLOW_LOG_MICROS: &str = "slowlog-log-slower-than";
const SLOW_LOG_ENTRIES_MAX: &str = "slowlog-max-len";
const LATENCY_MILLIS: &str = "latency-monitor-threshold";
const NOTIFICATIONS: &str = "notify-keyspace-events";
const BULK_BYTES_MAX: &str = "proto-max-bulk-len";
const SPARSE_BYTES_MAX: &str = "hll-sparse-max-bytes";
const LATENCY_TRACKING: &str = "latency-tracking";
const PASSWORD: &str = "requirepass";
const TRACKED_KEYS_MAX: &str = "tracking-table-max-keys";
const HASH_FIELDS_MAX: &str = "hash-max-listpack-entries";
const HASH_BYTES_MAX: &str = "hash-max-listpack-value";
const INTEGERS_MAX: &str = "set-max-intset-entries";
const SORTED_SET_MEMBERS_MAX: &str = "zset-max-listpack-entries";
const SORTED_SET_BYTES_MAX: &str = "zset-max-listpack-value";

/// Minimum value of `maxmemory-clients`, in bytes. With less memory, clients would have to wait for
/// each other to free their buffers.
pub const CLIENTS_BYTES_MIN: u64 = 16 << 20;

/// Minimum value of `auto-aof-rewrite-min-size`, in bytes. With a smaller value, a replica would
/// take snapshots nearly without pause.
pub const REWRITE_BYTES_LEAST: u64 = 64 << 10;

/// Minimum value of `proto-max-bulk-len`, in bytes, as in Redis.
const BULK_BYTES_LEAST: u64 = 1 << 20;

/// Maximum length in bytes of the password `requirepass`, as in Redis.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Maximum TCP keep-alive time in seconds that all supported operating systems accept.
const KEEP_ALIVE_SECONDS_MAX: u64 = 32_000;

const ANY_I64: ValueKind = ValueKind::Between(0, i64::MAX as u64);
const ANY_I32: ValueKind = ValueKind::Between(0, i32::MAX as u64);

/// Names of all eviction policies that Redis has.
const EVICTION_POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

/// The settings that `CONFIG SET` can change: name, kind of value, and default.
const SETTINGS: &[(&str, ValueKind, &str)] = &[
    (
        "save",
        ValueKind::Only(
            &ValueKind::SavePoints,
            "",
            "snapshots are taken when the log has grown; set auto-aof-rewrite-percentage or \
             auto-aof-rewrite-min-size",
        ),
        "",
    ),
    (
        "appendonly",
        ValueKind::Only(&ValueKind::YesOrNo, "yes", "the log is never switched off"),
        "yes",
    ),
    (
        "appendfsync",
        ValueKind::Only(
            &ValueKind::Word(&["everysec", "always", "no"]),
            "always",
            "each write is synced before it is acknowledged",
        ),
        "always",
    ),
    (REWRITE_PERCENTAGE, ANY_I32, "100"),
    (REWRITE_BYTES_MIN, ValueKind::BytesFrom(REWRITE_BYTES_LEAST), "67108864"),
    (MEMORY_MAX, ValueKind::Bytes, "0"),
    (
        "maxmemory-policy",
        ValueKind::Only(
            &ValueKind::Word(EVICTION_POLICIES),
            "noeviction",
            "keys are never evicted here; the only policy is noeviction",
        ),
        "noeviction",
    ),
    (IDLE_SECONDS_MAX, ANY_I32, "0"),
    (CLIENTS_MAX, ValueKind::Between(1, u32::MAX as u64), "10000"),
    (CLIENTS_BYTES_MAX, ValueKind::BytesFrom(CLIENTS_BYTES_MIN), "268435456"),
    (KEEP_ALIVE_SECONDS, ValueKind::Between(0, KEEP_ALIVE_SECONDS_MAX), "300"),
    (NOTIFICATIONS, ValueKind::EventClasses, ""),
    (BULK_BYTES_MAX, ValueKind::BytesBetween(BULK_BYTES_LEAST, VALUE_BYTES_MAX as u64), "67108864"),
    (SPARSE_BYTES_MAX, ValueKind::Bytes, "3000"),
    (SLOW_LOG_MICROS, ValueKind::Integer, "10000"),
    (SLOW_LOG_ENTRIES_MAX, ANY_I64, "128"),
    (LATENCY_MILLIS, ANY_I64, "0"),
    (LATENCY_TRACKING, ValueKind::YesOrNo, "yes"),
    (PASSWORD, ValueKind::Password, ""),
    (TRACKED_KEYS_MAX, ANY_I64, "1000000"),
    (HASH_FIELDS_MAX, ANY_I64, "512"),
    (HASH_BYTES_MAX, ValueKind::Bytes, "64"),
    (INTEGERS_MAX, ANY_I64, "512"),
    (SORTED_SET_MEMBERS_MAX, ANY_I64, "128"),
    (SORTED_SET_BYTES_MAX, ValueKind::Bytes, "64"),
];

impl Settings {
    /// Returns the default settings of a replica. `limits` bounds the size of a request, `host` and
    /// `port` are the address for clients, and `folder` is the data directory.
    pub fn new(limits: &Limits, host: &str, port: u16, folder: &str) -> Settings {
        let mutable = SETTINGS.iter().map(|(name, kind, value)| Setting {
            name,
            kind: *kind,
            value: (*value).to_owned(),
        });
        let immutable = vec![
            ("bind", host.to_owned()),
            ("port", port.to_string()),
            ("dir", folder.to_owned()),
            ("databases", DatabaseId::COUNT.to_string()),
            ("cluster-enabled", "yes".to_owned()),
            ("daemonize", "no".to_owned()),
            ("replicaof", String::new()),
        ];
        let value_bytes_max = limits.bulk_bytes_max;
        let mutable = mutable.collect();
        let mut settings = Settings {
            mutable,
            value_bytes_max,
            immutable,
            clients_allowed: u64::MAX,
            without_effect: None,
        };
        settings.set_number(BULK_BYTES_MAX, value_bytes_max as u64);
        settings
    }

    /// Adds settings of TLS, with their names and values, which `CONFIG SET` cannot change.
    pub fn set_tls(&mut self, settings: &[(&'static str, String)]) {
        self.immutable.extend_from_slice(settings);
    }

    /// Accepts and shows Redis's settings that have no effect here, instead of refusing them. For
    /// the test suites of Redis, which set them without need (`--enable-debug-command yes`).
    pub fn accept_settings_without_effect(&mut self) {
        let defaults = UNSUPPORTED.iter().map(|it| (it.name, it.default.to_owned()));
        self.without_effect = Some(defaults.collect());
    }

    /// Sets the limits on clients: the maximum number of connected clients, their maximum total
    /// memory usage in bytes, and the number of seconds after which an idle client is disconnected
    /// (0: never).
    pub fn set_client_limits(&mut self, count_max: u64, bytes_max: u64, idle_seconds_max: u64) {
        self.set_number(CLIENTS_MAX, count_max);
        self.set_number(CLIENTS_BYTES_MAX, bytes_max);
        self.set_number(IDLE_SECONDS_MAX, idle_seconds_max);
    }

    /// Sets the maximum number of clients.
    pub fn set_clients_max(&mut self, count_max: u64) {
        self.set_number(CLIENTS_MAX, count_max);
    }

    /// Sets the maximum value of `maxclients` that the limit on open files allows.
    pub fn set_clients_allowed(&mut self, count: u64) {
        self.clients_allowed = count;
    }

    /// Sets `maxmemory`, in bytes (0: no limit). While memory usage exceeds this limit, commands
    /// that add data are refused.
    pub fn set_memory_max(&mut self, bytes: u64) {
        self.set_number(MEMORY_MAX, bytes);
    }

    /// Sets the log growth after which the replica takes a snapshot and compacts the log: a
    /// percentage of the size of the latest snapshot (0: the log may grow as far as the memory
    /// limit allows), and a minimum in bytes. The names of the settings are those for rewriting
    /// Redis's append-only file.
    pub fn set_rewrite_growth(&mut self, percentage: u64, bytes_min: u64) {
        self.set_number(REWRITE_PERCENTAGE, percentage);
        self.set_number(REWRITE_BYTES_MIN, bytes_min);
    }

    fn set_number(&mut self, name: &str, value: u64) {
        let setting = self.mutable.iter_mut().find(|setting| setting.name == name);
        setting.expect("only for names in SETTINGS").value = value.to_string();
    }

    /// Returns the settings of the slow log and of the latency samples.
    pub fn slow_log(&self) -> SlowLogSettings {
        let micros: i64 = self.value(SLOW_LOG_MICROS).parse().expect("checked when it was set");
        let latency_millis = self.number(LATENCY_MILLIS);
        SlowLogSettings {
            threshold: u64::try_from(micros).ok().map(Duration::from_micros),
            entries_max: usize::try_from(self.number(SLOW_LOG_ENTRIES_MAX)).unwrap_or(usize::MAX),
            latency_threshold: (latency_millis > 0).then(|| Duration::from_millis(latency_millis)),
        }
    }

    /// Sets `requirepass`, the password of the user `default`; empty for none.
    pub fn set_password(&mut self, password: &str) {
        let setting = self.mutable.iter_mut().find(|setting| setting.name == PASSWORD);
        password.clone_into(&mut setting.expect("it is in SETTINGS").value);
    }

    /// Returns `requirepass`, the password of the user `default` of this replica as long as the
    /// cluster's users do not include it; empty for none.
    pub fn password(&self) -> &str {
        self.value(PASSWORD)
    }

    /// Returns which keyspace notifications are published, as set by `notify-keyspace-events`.
    pub fn notifications(&self) -> KeyspaceNotifications {
        KeyspaceNotifications::parse(self.value(NOTIFICATIONS)).unwrap_or_default()
    }

    /// Returns `proto-max-bulk-len`, in bytes: the maximum length of an argument of a request, and
    /// of a string that a command of this replica's clients makes.
    pub fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    /// Returns `hll-sparse-max-bytes`: the length in bytes beyond which a HyperLogLog switches to
    /// the dense encoding when a command of this replica's clients changes it.
    pub(super) fn sparse_bytes_max(&self) -> u64 {
        self.number(SPARSE_BYTES_MAX)
    }

    /// Returns whether the durations of commands are recorded for `INFO latencystats`.
    pub fn tracks_latency(&self) -> bool {
        self.value(LATENCY_TRACKING) == "yes"
    }

    /// Returns the maximum number of keys in the table for client-side caching; `None` for no
    /// limit.
    pub fn tracked_keys_max(&self) -> Option<usize> {
        let keys = self.number(TRACKED_KEYS_MAX);
        (keys > 0).then(|| usize::try_from(keys).unwrap_or(usize::MAX))
    }

    /// Returns the limits by which `OBJECT ENCODING` chooses the name of an encoding; `None` if
    /// they are Redis's defaults.
    pub(super) fn encoding_limits(&self) -> Option<EncodingLimits> {
        let limits = EncodingLimits {
            hash_fields_max: self.number(HASH_FIELDS_MAX),
            hash_bytes_max: self.number(HASH_BYTES_MAX),
            integers_max: self.number(INTEGERS_MAX),
            sorted_set_members_max: self.number(SORTED_SET_MEMBERS_MAX),
            sorted_set_bytes_max: self.number(SORTED_SET_BYTES_MAX),
        };
        (limits != EncodingLimits::default()).then_some(limits)
    }

    /// Returns `maxmemory`, in bytes (0: no limit). While memory usage exceeds this limit, commands
    /// that add data are refused.
    pub fn memory_max(&self) -> u64 {
        self.number(MEMORY_MAX)
    }

    /// Returns the log growth after which the replica takes a snapshot: a percentage of the size of
    /// the latest snapshot (0: the log may grow as far as the memory limit allows), and a minimum
    /// in bytes.
    pub fn rewrite_growth(&self) -> (u64, u64) {
        (self.number(REWRITE_PERCENTAGE), self.number(REWRITE_BYTES_MIN))
    }

    /// Returns the maximum number of clients that may be connected at the same time.
    pub fn clients_max(&self) -> u64 {
        self.number(CLIENTS_MAX)
    }

    /// Returns the maximum total memory usage of all clients, in bytes.
    pub fn clients_bytes_max(&self) -> usize {
        usize::try_from(self.number(CLIENTS_BYTES_MAX)).unwrap_or(usize::MAX)
    }

    /// Returns the time after which an idle client is disconnected; `None` for no limit.
    pub fn idle_max(&self) -> Option<Duration> {
        let seconds = self.number(IDLE_SECONDS_MAX);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Returns the TCP keep-alive time of client connections; `None` if keep-alive is off.
    pub fn keep_alive(&self) -> Option<Duration> {
        let seconds = self.number(KEEP_ALIVE_SECONDS);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    fn number(&self, name: &str) -> u64 {
        self.value(name).parse().expect("checked when it was set")
    }

    /// Returns the current value of a setting that `CONFIG SET` can change.
    ///
    /// # Panics
    /// If there is no such setting.
    pub(super) fn value(&self, name: &str) -> &str {
        let setting = self.mutable.iter().find(|setting| setting.name == name);
        &setting.expect("only for names in SETTINGS").value
    }

    /// Returns the names and the current values of all settings, under all their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let mutable = self.mutable.iter().map(|setting| (setting.name, &*setting.value));
        let others = self.immutable.iter().chain(self.without_effect.iter().flatten());
        let all = mutable.chain(others.map(|(name, value)| (*name, &**value)));
        all.flat_map(|(name, value)| with_aliases(name).map(move |name| (name, value)))
    }

    /// Changes a setting. `name` must be in lower case, and not an alias.
    ///
    /// # Errors
    /// If the setting does not accept the value or cannot be changed, with Redis's error text. The
    /// error is `None` if there is no setting of this name.
    pub(super) fn set(&mut self, name: &str, value: &[u8]) -> Result<(), Option<String>> {
        if let Some(setting) = self.mutable.iter_mut().find(|setting| setting.name == name) {
            let parsed = setting.kind.parse(value)?;
            let allowed = self.clients_allowed;
            if name == CLIENTS_MAX && parsed.parse().is_ok_and(|count: u64| count > allowed) {
                // Redis's text.
                return Err(Some(format!(
                    "The operating system is not able to handle the specified number of clients, \
                     try with {allowed}"
                )));
            }
            setting.value = parsed;
            if name == BULK_BYTES_MAX {
                let bytes = usize::try_from(self.number(BULK_BYTES_MAX));
                self.value_bytes_max = bytes.expect("at most 512 MiB");
            }
            return Ok(());
        }
        if let Some(unsupported) = UNSUPPORTED.iter().find(|it| it.name == name) {
            let mut accepted = self.without_effect.iter_mut().flatten();
            let Some((_, current)) = accepted.find(|(accepted, _)| *accepted == name) else {
                let reason = unsupported.reason;
                return Err(Some(format!("this setting has no effect here: {reason}")));
            };
            *current = String::from_utf8_lossy(value).into_owned();
            return Ok(());
        }
        // Redis can change these at run time, so tools may set them to what they are.
        let is_same = |(known, current): &(&str, String)| {
            *known == name && ["bind", "dir", "port"].contains(&name) && current.as_bytes() == value
        };
        if self.immutable.iter().any(is_same) {
            return Ok(());
        }
        let is_known = self.immutable.iter().any(|(known, _)| *known == name);
        Err(is_known.then(|| "can't set immutable config".to_owned()))
    }
}

impl ValueKind {
    /// Checks a new value of a setting, and returns it in the form in which it is stored.
    ///
    /// # Errors
    /// If the value is invalid, with Redis's error text.
    fn parse(self, value: &[u8]) -> Result<String, String> {
        let text = std::str::from_utf8(value).map_err(|_| "argument must be text")?;
        let number = || {
            let number = parse_integer(value);
            number.ok_or_else(|| "argument couldn't be parsed into an integer".to_owned())
        };
        let bytes =
            || parse_bytes(text).ok_or_else(|| "argument must be a memory value".to_owned());
        match self {
            ValueKind::Only(kind, only, reason) => {
                let parsed = kind.parse(value)?;
                (parsed == only).then_some(parsed).ok_or_else(|| reason.to_owned())
            }
            ValueKind::EventClasses if KeyspaceNotifications::parse(text).is_some() => {
                Ok(text.to_owned())
            }
            ValueKind::EventClasses => {
                Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned())
            }
            ValueKind::YesOrNo
                if ["yes", "no"].iter().any(|word| text.eq_ignore_ascii_case(word)) =>
            {
                Ok(text.to_ascii_lowercase())
            }
            ValueKind::YesOrNo => Err("argument must be 'yes' or 'no'".to_owned()),
            ValueKind::Word(words) => {
                let found = words.iter().find(|word| text.eq_ignore_ascii_case(word));
                let words = || words.join(", ");
                found
                    .map(|word| (*word).to_owned())
                    .ok_or_else(|| format!("argument(s) must be one of the following: {}", words()))
            }
            ValueKind::SavePoints => {
                let numbers: Vec<Option<i64>> =
                    text.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
                let are_pairs = numbers.chunks(2).all(|pair| {
                    matches!(pair, [Some(seconds), Some(changes)] if *seconds > 0 && *changes >= 0)
                });
                are_pairs.then(|| text.to_owned()).ok_or("Invalid save parameters".to_owned())
            }
            ValueKind::Integer => {
                let found = Some(number()?).filter(|number| *number >= -1);
                let max = i64::MAX;
                let found = found.map(|number| number.to_string());
                found.ok_or_else(|| format!("argument must be between -1 and {max} inclusive"))
            }
            ValueKind::Between(min, max) => {
                let is_between = |number: &u64| (min..=max).contains(number);
                let found = u64::try_from(number()?).ok().filter(is_between);
                let found = found.map(|number| number.to_string());
                found.ok_or(format!("argument must be between {min} and {max} inclusive"))
            }
            ValueKind::Password if text.len() <= PASSWORD_BYTES_MAX => Ok(text.to_owned()),
            ValueKind::Password => {
                Err(format!("argument must have at most {PASSWORD_BYTES_MAX} bytes"))
            }
            ValueKind::Bytes => Ok(bytes()?.to_string()),
            ValueKind::BytesFrom(min) => {
                let found = Some(bytes()?).filter(|bytes| *bytes >= min);
                let found = found.map(|bytes| bytes.to_string());
                found.ok_or(format!("argument must be at least {min} bytes"))
            }
            ValueKind::BytesBetween(min, max) => {
                let found = Some(bytes()?).filter(|bytes| (min..=max).contains(bytes));
                let found = found.map(|bytes| bytes.to_string());
                found.ok_or(format!("argument must be between {min} and {max} bytes, inclusive"))
            }
        }
    }
}

/// Parses a number of bytes with an optional unit, as Redis does: `100mb` is 100 * 2^20, `100m` is
/// 10^8. `None` if the text is malformed or the number is 2^64 or more.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::unsupported_settings::canonical_name;

    #[test]
    fn configuration_guide_lists_every_config_parameter() {
        let page = include_str!("../guide/configuration.md");
        let (_, page) = page.split_once("## CONFIG GET").expect("there is a section about it");
        let (page, _) = page.split_once("## Constants").expect("another section follows");
        for (name, _, default) in SETTINGS {
            let default = if default.is_empty() { "empty" } else { &format!("`{default}`") };
            let names: Vec<String> = with_aliases(name).map(|name| format!("`{name}`")).collect();
            let row = format!("| {} | {default} |", names.join(", "));
            assert!(page.contains(&row), "src/guide/configuration.md lacks: {row}");
        }
        let settings = Settings::new(&Limits::default(), "127.0.0.1", 6379, "folder");
        let unsupported = UNSUPPORTED.iter().map(|it| it.name);
        for name in settings.all().map(|(name, _)| name).chain(unsupported) {
            assert!(page.contains(&format!("`{name}`")), "the page lacks {name}");
        }
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        for name in rows.filter_map(|row| row.split('`').next()).map(canonical_name) {
            let is_unsupported = UNSUPPORTED.iter().any(|known| known.name == name);
            let is_shown = settings.all().any(|(known, _)| known == name);
            assert!(is_shown != is_unsupported, "{name} is not a parameter");
        }
    }

    /// Regression test: settings without effect used to be accepted and shown as set.
    #[test]
    fn config_set_refuses_parameters_without_effect_and_says_why() {
        let mut settings = Settings::new(&Limits::default(), "127.0.0.1", 6379, "folder");
        for unsupported in UNSUPPORTED {
            let error = settings.set(unsupported.name, b"1").unwrap_err().unwrap();
            assert!(error.ends_with(unsupported.reason), "{}: {error}", unsupported.name);
            assert!(settings.all().all(|(name, _)| name != unsupported.name));
        }
        for (name, value, wanted) in [
            ("save", "900 1", "snapshots are taken when the log has grown"),
            ("appendonly", "no", "the log is never switched off"),
            ("appendfsync", "everysec", "each write is synced"),
            ("maxmemory-policy", "allkeys-lru", "keys are never evicted"),
            ("tcp-keepalive", "32001", "between 0 and 32000"),
            ("maxclients", "1001", "try with 1000"),
            ("port", "1", "can't set immutable config"),
        ] {
            settings.set_clients_allowed(1_000);
            let error = settings.set(name, value.as_bytes()).unwrap_err().unwrap();
            assert!(error.contains(wanted), "{name}: {error}");
        }
        // Accepted: values that tools set and that are the fixed values here anyway.
        for (name, value) in [("save", ""), ("appendonly", "YES"), ("appendfsync", "always")] {
            assert_eq!(settings.set(name, value.as_bytes()), Ok(()), "{name}");
        }
    }
}
