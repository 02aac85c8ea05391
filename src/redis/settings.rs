//! `CONFIG`: what Redis clients and tools read and set. Our own settings are made by flags, file
//! and environment before a start. Here are Redis's names: those that say what this server does
//! can't be changed, and a few harmless ones are taken and kept, so that tools which set them go
//! on. Each replica has its own, and forgets them at its end.

use crate::kv::parse_integer;
use crate::wire::resp::Limits;

use super::context::Context;
use super::dispatch::{Call, Step};
use super::glob;

/// One replica's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    kept: Vec<Kept>,
    fixed: Vec<(&'static str, String)>,
}

/// A setting that is kept and has no effect.
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
    Number,
    Bytes,
    YesOrNo,
}

const KEPT: &[(&str, Kind, &str)] = &[
    ("save", Kind::Text, ""),
    ("appendonly", Kind::YesOrNo, "yes"),
    ("appendfsync", Kind::Text, "always"),
    ("auto-aof-rewrite-percentage", Kind::Number, "100"),
    ("maxmemory", Kind::Bytes, "0"),
    ("maxmemory-policy", Kind::Text, "noeviction"),
    ("maxmemory-samples", Kind::Number, "5"),
    ("timeout", Kind::Number, "0"),
    ("tcp-keepalive", Kind::Number, "300"),
    ("loglevel", Kind::Text, "notice"),
    ("hz", Kind::Number, "10"),
    ("lua-time-limit", Kind::Number, "5000"),
    ("busy-reply-threshold", Kind::Number, "5000"),
    ("notify-keyspace-events", Kind::Text, ""),
    ("slowlog-log-slower-than", Kind::Number, "10000"),
    ("slowlog-max-len", Kind::Number, "128"),
    ("latency-monitor-threshold", Kind::Number, "0"),
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

    /// The value of a setting that is kept.
    pub(super) fn value(&self, name: &str) -> &str {
        let kept = self.kept.iter().find(|kept| kept.name == name);
        &kept.expect("asked only for names in the list").value
    }

    /// All settings with their values.
    fn all(&self, context: &Context) -> impl Iterator<Item = (&str, String)> {
        let kept = self.kept.iter().map(|kept| (kept.name, kept.value.clone()));
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value.clone()));
        let clients = ("maxclients", context.traffic.clients_max.to_string());
        kept.chain(fixed).chain(std::iter::once(clients))
    }
}

/// `CONFIG GET pattern [pattern ...]`
pub(super) fn get(call: &mut Call<'_>) -> Step {
    let patterns: Vec<Vec<u8>> = call.request.rest(2).map(<[u8]>::to_ascii_lowercase).collect();
    let wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let chosen: Vec<(&str, String)> =
        call.settings.all(call.context).filter(|(name, _)| wanted(name)).collect();
    call.writer.map(chosen.len());
    for (name, value) in chosen {
        call.writer.bulk(name.as_bytes());
        call.writer.bulk(value.as_bytes());
    }
    Step::Done
}

/// `CONFIG SET name value [name value ...]`: all of them or none.
pub(super) fn set(call: &mut Call<'_>) -> Step {
    let words = call.request.rest(2);
    if !words.len().is_multiple_of(2) {
        return call.error(&"ERR syntax error");
    }
    let mut changed = call.settings.kept.clone();
    let mut words = words;
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        let name = String::from_utf8_lossy(word).to_ascii_lowercase();
        let mut places = changed.iter_mut();
        let why = match places.find(|kept| kept.name == name) {
            Some(kept) => match kept.kind.read(value) {
                Ok(value) => {
                    kept.value = value;
                    continue;
                }
                Err(why) => why,
            },
            None if call.settings.all(call.context).any(|(known, _)| known == name) => {
                "can't set immutable config"
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
    /// The value as it is kept, or why it is none.
    fn read(self, value: &[u8]) -> Result<String, &'static str> {
        let text = std::str::from_utf8(value).map_err(|_| "argument must be text")?;
        match self {
            Kind::Text => Ok(text.to_owned()),
            Kind::YesOrNo if ["yes", "no"].iter().any(|word| text.eq_ignore_ascii_case(word)) => {
                Ok(text.to_ascii_lowercase())
            }
            Kind::YesOrNo => Err("argument must be 'yes' or 'no'"),
            Kind::Number => match parse_integer(value) {
                Some(number) => Ok(number.to_string()),
                None => Err("argument couldn't be parsed into an integer"),
            },
            Kind::Bytes => match parse_bytes(text) {
                Some(bytes) => Ok(bytes.to_string()),
                None => Err("argument must be a memory value"),
            },
        }
    }
}

/// A number of bytes with a unit, as in `100mb`.
fn parse_bytes(text: &str) -> Option<u64> {
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
