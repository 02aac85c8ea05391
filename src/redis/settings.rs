//! `CONFIG`: what Redis clients and tools read and set. Our own settings are made by flags, file
//! and environment before a start. Here are Redis's names: the limits on clients count from when
//! they are set; what else says what this server does can't be changed; and a few harmless ones are
//! taken and kept, so that tools which set them go on. Each replica has its own, and forgets them
//! at its end.

use std::time::Duration;

use crate::kv::{glob, parse_integer};
use crate::wire::resp::Limits;

use crate::redis::action::Action;
use crate::redis::action::Statistics;
use crate::redis::call::Call;
use crate::redis::commands::pubsub::KeyspaceNotifications;

/// One replica's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    kept: Vec<Kept>,
    fixed: Vec<(&'static str, String)>,
}

/// Which requests are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowLogSettings {
    /// Those that took so long are kept, with their words; `None` for none.
    pub threshold: Option<Duration>,
    /// So many of them.
    pub entries_max: usize,
    /// Of those that took so long the moments are kept; `None` for none.
    pub latency_threshold: Option<Duration>,
}

/// A setting that can be changed.
#[derive(Debug, Clone)]
struct Kept {
    name: &'static str,
    kind: Kind,
    value: String,
}

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    /// Letters for what is told of keys.
    KeyspaceNotifications,
    /// One of these words.
    Word(&'static [&'static str]),
    /// What gives way when memory is full.
    Policy,
    /// Pairs of seconds and changes, as Redis saves after.
    SavePoints,
    /// A number from -1.
    Integer,
    /// A number from the first to the second.
    Within(u64, u64),
    Bytes,
    /// At least so many.
    BytesFrom(u64),
    YesOrNo,
}

/// The limits on clients, which have an effect. All others are only kept.
const MEMORY_MAX: &str = "maxmemory";
const CLIENTS_MAX: &str = "maxclients";
const CLIENTS_BYTES_MAX: &str = "maxmemory-clients";
const IDLE_SECONDS_MAX: &str = "timeout";
const KEEP_ALIVE_SECONDS: &str = "tcp-keepalive";
/// What is recorded of requests.
const SLOWER_THAN: &str = "slowlog-log-slower-than";
const SLOW_MAX: &str = "slowlog-max-len";
const MOMENTS_FROM: &str = "latency-monitor-threshold";
/// What is told of keys to who listens.
const KEY_EVENTS: &str = "notify-keyspace-events";

/// Less memory would have clients in each other's way.
pub const CLIENTS_BYTES_MIN: u64 = 16 << 20;

const LONG: Kind = Kind::Within(0, i64::MAX as u64);
const TIME_LIMIT: Kind = LONG;
const NUMBER: Kind = Kind::Within(0, i32::MAX as u64);
/// Nothing is ever thrown away to make room: a replicated store keeps what it acknowledged.
/// What may give way when memory is full, as Redis names it; here it is always the last.
const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

const KEPT: &[(&str, Kind, &str)] = &[
    ("save", Kind::SavePoints, ""),
    ("appendonly", Kind::YesOrNo, "yes"),
    ("appendfsync", Kind::Word(&["everysec", "always", "no"]), "always"),
    ("auto-aof-rewrite-percentage", NUMBER, "100"),
    (MEMORY_MAX, Kind::Bytes, "0"),
    ("maxmemory-policy", Kind::Policy, "noeviction"),
    ("maxmemory-samples", Kind::Within(1, i32::MAX as u64), "5"),
    (IDLE_SECONDS_MAX, NUMBER, "0"),
    (CLIENTS_MAX, Kind::Within(1, u32::MAX as u64), "10000"),
    (CLIENTS_BYTES_MAX, Kind::BytesFrom(CLIENTS_BYTES_MIN), "268435456"),
    (KEEP_ALIVE_SECONDS, NUMBER, "300"),
    ("loglevel", Kind::Word(&["debug", "verbose", "notice", "warning"]), "notice"),
    ("hz", NUMBER, "10"),
    ("lua-time-limit", TIME_LIMIT, "5000"),
    ("busy-reply-threshold", TIME_LIMIT, "5000"),
    (KEY_EVENTS, Kind::KeyspaceNotifications, ""),
    (SLOWER_THAN, Kind::Integer, "10000"),
    (SLOW_MAX, LONG, "128"),
    (MOMENTS_FROM, LONG, "0"),
    ("lazyfree-lazy-user-del", Kind::YesOrNo, "no"),
    ("lazyfree-lazy-user-flush", Kind::YesOrNo, "no"),
    ("client-output-buffer-limit", Kind::Text, ""),
];

impl Settings {
    /// Those at the start, with what is fixed for the process: `port` is the one for clients.
    pub fn new(limits: &Limits, host: &str, port: u16, folder: &str) -> Settings {
        let kept = KEPT.iter().map(|(name, kind, value)| Kept {
            name,
            kind: *kind,
            value: (*value).to_owned(),
        });
        let fixed = vec![
            ("bind", host.to_owned()),
            ("port", port.to_string()),
            ("dir", folder.to_owned()),
            ("databases", "1".to_owned()),
            ("cluster-enabled", "yes".to_owned()),
            ("requirepass", String::new()),
            ("proto-max-bulk-len", limits.bulk_bytes_max.to_string()),
        ];
        Settings { kept: kept.collect(), fixed }
    }

    /// What clients are allowed at the start: how many, bytes of memory for all of them, and how
    /// many seconds one may be idle, 0 for ever.
    pub fn set_client_limits(&mut self, most: u64, bytes: u64, idle_seconds: u64) {
        let values = [(CLIENTS_MAX, most), (CLIENTS_BYTES_MAX, bytes)];
        for (name, value) in values.into_iter().chain([(IDLE_SECONDS_MAX, idle_seconds)]) {
            let kept = self.kept.iter_mut().find(|kept| kept.name == name);
            kept.expect("they are in the list").value = value.to_string();
        }
    }

    /// What is recorded of requests.
    pub fn slow_log(&self) -> SlowLogSettings {
        let slower: i64 = self.value(SLOWER_THAN).parse().expect("checked when it was set");
        let moments = self.number(MOMENTS_FROM);
        SlowLogSettings {
            threshold: u64::try_from(slower).ok().map(Duration::from_micros),
            entries_max: usize::try_from(self.number(SLOW_MAX)).unwrap_or(usize::MAX),
            latency_threshold: (moments > 0).then(|| Duration::from_millis(moments)),
        }
    }

    /// What is told of keys.
    pub fn notifications(&self) -> KeyspaceNotifications {
        KeyspaceNotifications::read(self.value(KEY_EVENTS)).unwrap_or_default()
    }

    /// So many bytes of memory may be in use at the start before commands that add to it are
    /// refused; 0 for any number.
    pub fn set_memory_max(&mut self, bytes: u64) {
        let kept = self.kept.iter_mut().find(|kept| kept.name == MEMORY_MAX);
        kept.expect("it is in the list").value = bytes.to_string();
    }

    /// The same, as it is now.
    pub fn memory_max(&self) -> u64 {
        self.number(MEMORY_MAX)
    }

    /// Most clients at a time.
    pub fn clients_max(&self) -> u64 {
        self.number(CLIENTS_MAX)
    }

    /// Most bytes of memory that clients may hold together.
    pub fn clients_bytes_max(&self) -> usize {
        usize::try_from(self.number(CLIENTS_BYTES_MAX)).unwrap_or(usize::MAX)
    }

    /// How long a client may be idle, unless for ever.
    pub fn idle_max(&self) -> Option<Duration> {
        let seconds = self.number(IDLE_SECONDS_MAX);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// After how long a silent client is asked whether it is there, if at all.
    pub fn keep_alive(&self) -> Option<Duration> {
        let seconds = self.number(KEEP_ALIVE_SECONDS);
        // The system takes less than that.
        (seconds > 0).then(|| Duration::from_secs(seconds.min(32_000)))
    }

    fn number(&self, name: &str) -> u64 {
        self.value(name).parse().expect("it was checked when it was set")
    }

    /// The value of a setting that is kept.
    pub(super) fn value(&self, name: &str) -> &str {
        let kept = self.kept.iter().find(|kept| kept.name == name);
        &kept.expect("asked only for names in the list").value
    }

    /// All settings with their values.
    fn all(&self) -> impl Iterator<Item = (&str, String)> {
        let kept = self.kept.iter().map(|kept| (kept.name, kept.value.clone()));
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value.clone()));
        kept.chain(fixed)
    }
}

/// `CONFIG GET pattern [pattern ...]`
pub(super) fn get(call: &mut Call<'_>) -> Action {
    let patterns: Vec<Vec<u8>> = call.request.rest(2).map(<[u8]>::to_ascii_lowercase).collect();
    let wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let chosen: Vec<(&str, String)> =
        call.settings.all().filter(|(name, _)| wanted(name)).collect();
    call.writer.map(chosen.len());
    for (name, value) in chosen {
        call.writer.bulk(name.as_bytes());
        call.writer.bulk(value.as_bytes());
    }
    Action::Reply
}

/// `CONFIG RESETSTAT`
pub(super) fn reset_statistics(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::ResetStatistics(Statistics::Traffic)
}

/// `CONFIG REWRITE`: settings of ours are no settings of Redis's, so no file could keep them.
pub(super) fn rewrite(call: &mut Call<'_>) -> Action {
    call.error(&"ERR The server is running without a config file")
}

/// `CONFIG SET name value [name value ...]`: all of them or none.
pub(super) fn set(call: &mut Call<'_>) -> Action {
    let words = call.request.rest(2);
    if !words.len().is_multiple_of(2) {
        return call.error(&"ERR syntax error");
    }
    let names: Vec<Vec<u8>> = words.clone().step_by(2).map(<[u8]>::to_ascii_lowercase).collect();
    let mut changed = call.settings.kept.clone();
    let mut words = words;
    let mut number = 0;
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        let name = String::from_utf8_lossy(word).to_ascii_lowercase();
        let again = names[..number].contains(&names[number]);
        number += 1;
        let mut places = changed.iter_mut();
        let why = match places.find(|kept| kept.name == name) {
            Some(_) if again => "duplicate parameter".to_owned(),
            Some(kept) => match kept.kind.read(value) {
                Ok(value) => {
                    kept.value = value;
                    continue;
                }
                Err(why) => why,
            },
            None if call.settings.all().any(|(known, _)| known == name) => {
                "can't set immutable config".to_owned()
            }
            None => {
                return call.error(&format_args!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                    String::from_utf8_lossy(word)
                ));
            }
        };
        return call.error(&format_args!(
            "ERR CONFIG SET failed (possibly related to argument '{}') - {why}",
            String::from_utf8_lossy(word)
        ));
    }
    call.settings.kept = changed;
    call.ok()
}

impl Kind {
    /// The value as it is kept, or why it is none, in Redis's words.
    fn read(self, value: &[u8]) -> Result<String, String> {
        let text = std::str::from_utf8(value).map_err(|_| "argument must be text")?;
        let number = || {
            let number = parse_integer(value);
            number.ok_or_else(|| "argument couldn't be parsed into an integer".to_owned())
        };
        let bytes =
            || parse_bytes(text).ok_or_else(|| "argument must be a memory value".to_owned());
        match self {
            Kind::Text => Ok(text.to_owned()),
            Kind::KeyspaceNotifications if KeyspaceNotifications::read(text).is_some() => {
                Ok(text.to_owned())
            }
            Kind::KeyspaceNotifications => {
                Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned())
            }
            Kind::YesOrNo if ["yes", "no"].iter().any(|word| text.eq_ignore_ascii_case(word)) => {
                Ok(text.to_ascii_lowercase())
            }
            Kind::YesOrNo => Err("argument must be 'yes' or 'no'".to_owned()),
            Kind::Word(words) => {
                let found = words.iter().find(|word| text.eq_ignore_ascii_case(word));
                let words = || words.join(", ");
                found
                    .map(|word| (*word).to_owned())
                    .ok_or_else(|| format!("argument(s) must be one of the following: {}", words()))
            }
            Kind::Policy if text.eq_ignore_ascii_case("noeviction") => Ok("noeviction".to_owned()),
            Kind::Policy => match Kind::Word(POLICIES).read(value) {
                Ok(_) => {
                    Err("no key gives way to another here, only noeviction is true".to_owned())
                }
                Err(why) => Err(why),
            },
            Kind::SavePoints => {
                let numbers: Vec<Option<i64>> =
                    text.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
                let pairs = numbers.chunks(2).all(|pair| {
                    matches!(pair, [Some(seconds), Some(changes)] if *seconds > 0 && *changes >= 0)
                });
                if pairs { Ok(text.to_owned()) } else { Err("Invalid save parameters".to_owned()) }
            }
            Kind::Integer => {
                let found = Some(number()?).filter(|number| *number >= -1);
                let most = i64::MAX;
                let found = found.map(|number| number.to_string());
                found.ok_or_else(|| format!("argument must be between -1 and {most} inclusive"))
            }
            Kind::Within(least, most) => {
                let within = |number: &u64| (least..=most).contains(number);
                let found = u64::try_from(number()?).ok().filter(within);
                let found = found.map(|number| number.to_string());
                found.ok_or(format!("argument must be between {least} and {most} inclusive"))
            }
            Kind::Bytes => Ok(bytes()?.to_string()),
            Kind::BytesFrom(least) => {
                let found = Some(bytes()?).filter(|bytes| *bytes >= least);
                let found = found.map(|bytes| bytes.to_string());
                found.ok_or(format!("argument must be at least {least} bytes"))
            }
        }
    }
}

/// A number of bytes with a unit, as Redis reads it: `100mb` is 100 times 2^20, `100m` 10^8.
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

    #[test]
    fn the_configuration_page_lists_every_parameter() {
        let page = include_str!("../guide/configuration.md");
        let (_, page) = page.split_once("## CONFIG GET").expect("there is a part about it");
        let (page, _) = page.split_once("## Constants").expect("another part follows");
        for (name, _, default) in KEPT {
            let default = if default.is_empty() { "empty" } else { &format!("`{default}`") };
            let row = format!("| `{name}` | {default} |");
            assert!(page.contains(&row), "src/guide/configuration.md lacks: {row}");
        }
        let settings = Settings::new(&Limits::default(), "127.0.0.1", 6379, "folder");
        for (name, _) in settings.all() {
            assert!(page.contains(&format!("`{name}`")), "the page lacks {name}");
        }
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        for name in rows.filter_map(|row| row.split('`').next()) {
            assert!(settings.all().any(|(known, _)| known == name), "{name} is no parameter");
        }
    }
}
