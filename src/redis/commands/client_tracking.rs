//! Client-side caching: `CLIENT TRACKING`, `CACHING`, `GETREDIR` and `TRACKINGINFO`.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::kv::parse_integer;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::tracking::{Tracking, TrackingMode};

/// Options of `CLIENT TRACKING`.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option that may be given or not")]
struct Options<'c> {
    redirect: Option<u64>,
    broadcasts: bool,
    opts_in: bool,
    opts_out: bool,
    no_loop: bool,
    prefixes: Vec<&'c [u8]>,
}

/// Runs `CLIENT TRACKING <ON | OFF> [REDIRECT id] [PREFIX prefix ...] [BCAST] [OPTIN] [OPTOUT]
/// [NOLOOP]`: turns invalidation messages for cached keys on or off.
pub(super) fn tracking(call: &mut Call<'_>) -> Action {
    let options = match parse(call) {
        Ok(options) => options,
        Err(text) => return call.error(&text),
    };
    let argument = call.argument(2);
    if argument.eq_ignore_ascii_case(b"OFF") {
        if call.connection.observation.tracking.is_some() {
            call.connection.set_tracking(None);
        }
        return call.ok();
    }
    if !argument.eq_ignore_ascii_case(b"ON") {
        return call.error(&"ERR syntax error");
    }
    let before = call.connection.tracking();
    if let Err(text) = check(&options, before) {
        return call.error(&text);
    }
    let mode = if options.broadcasts {
        let known = before.and_then(Tracking::prefixes).cloned().unwrap_or_default();
        let mut prefixes = known;
        prefixes.extend(options.prefixes.iter().map(|prefix| Bytes::copy_from_slice(prefix)));
        if options.prefixes.is_empty() {
            prefixes.insert(Bytes::new());
        }
        TrackingMode::Broadcast(prefixes)
    } else if options.opts_in {
        TrackingMode::OptIn
    } else if options.opts_out {
        TrackingMode::OptOut
    } else {
        TrackingMode::Reads
    };
    let is_caching_given = before.is_some_and(|before| before.is_caching_given);
    let Options { redirect, no_loop, .. } = options;
    let tracking =
        Tracking { mode, redirect, no_loop, is_caching_given, is_redirect_broken: false };
    call.connection.set_tracking(Some(Box::new(tracking)));
    call.ok()
}

/// Returns the options of the request, or the text of the error reply.
fn parse<'c>(call: &Call<'c>) -> Result<Options<'c>, String> {
    let mut options = Options::default();
    let mut arguments = call.request.rest(3);
    while let Some(argument) = arguments.next() {
        let is = |word: &str| argument.eq_ignore_ascii_case(word.as_bytes());
        if is("REDIRECT") && arguments.len() > 0 {
            if options.redirect.is_some() {
                return Err("ERR A client can only redirect to a single other client".to_owned());
            }
            let id = arguments.next().and_then(parse_integer);
            let id = id.ok_or("ERR value is not an integer or out of range")?;
            let id =
                u64::try_from(id).ok().filter(|id| call.context.client_indexes.contains_key(id));
            let missing = "ERR The client ID you want redirect to does not exist";
            options.redirect = Some(id.ok_or(missing)?);
        } else if is("BCAST") {
            options.broadcasts = true;
        } else if is("OPTIN") {
            options.opts_in = true;
        } else if is("OPTOUT") {
            options.opts_out = true;
        } else if is("NOLOOP") {
            options.no_loop = true;
        } else if is("PREFIX") && arguments.len() > 0 {
            options.prefixes.extend(arguments.next());
        } else {
            return Err("ERR syntax error".to_owned());
        }
    }
    Ok(options)
}

/// Checks that the options of `CLIENT TRACKING ON` are compatible with each other, and with the
/// current tracking mode of the connection.
fn check(options: &Options<'_>, before: Option<&Tracking>) -> Result<(), String> {
    const OTHER_MODE: &str =
        "before disabling tracking for this client, and then re-enabling it with a different mode.";
    if !options.broadcasts && !options.prefixes.is_empty() {
        return Err("ERR PREFIX option requires BCAST mode to be enabled".to_owned());
    }
    if before.is_some_and(|before| before.prefixes().is_some() != options.broadcasts) {
        return Err(format!("ERR You can't switch BCAST mode on/off {OTHER_MODE}"));
    }
    if options.broadcasts && (options.opts_in || options.opts_out) {
        return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".to_owned());
    }
    if options.opts_in && options.opts_out {
        return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".to_owned());
    }
    let mode = before.map(|before| &before.mode);
    if options.opts_in && mode == Some(&TrackingMode::OptOut)
        || options.opts_out && mode == Some(&TrackingMode::OptIn)
    {
        return Err(format!("ERR You can't switch OPTIN/OPTOUT mode {OTHER_MODE}"));
    }
    let none = BTreeSet::new();
    let known = before.and_then(Tracking::prefixes).unwrap_or(&none);
    for (position, prefix) in options.prefixes.iter().enumerate() {
        let overlaps = |other: &[u8]| prefix.starts_with(other) || other.starts_with(prefix);
        let collision =
            known.iter().find(|other| overlaps(other)).map(|other| ("an existing", &other[..]));
        let later = || options.prefixes[position + 1..].iter().find(|other| overlaps(other));
        let collision = collision.or_else(|| later().map(|other| ("another provided", *other)));
        if let Some((kind, other)) = collision {
            let [prefix, other] = [prefix, other].map(String::from_utf8_lossy);
            return Err(format!(
                "ERR Prefix '{prefix}' overlaps with {kind} prefix '{other}'. Prefixes for a \
                 single client must not overlap."
            ));
        }
    }
    Ok(())
}

/// Runs `CLIENT CACHING <YES | NO>`: sets whether the keys read by the next request or transaction
/// are tracked.
pub(super) fn caching(call: &mut Call<'_>) -> Action {
    let argument = call.argument(2);
    let Some(tracking) = &mut call.connection.observation.tracking else {
        return call.error(
            &"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN \
              or OPTOUT mode enabled",
        );
    };
    let (word, option, wanted) = if argument.eq_ignore_ascii_case(b"YES") {
        ("YES", "OPTIN", TrackingMode::OptIn)
    } else if argument.eq_ignore_ascii_case(b"NO") {
        ("NO", "OPTOUT", TrackingMode::OptOut)
    } else {
        return call.error(&"ERR syntax error");
    };
    if tracking.mode != wanted {
        return call.error(&format_args!(
            "ERR CLIENT CACHING {word} is only valid when tracking is enabled in {option} mode."
        ));
    }
    tracking.is_caching_given = true;
    call.ok()
}

/// Runs `CLIENT GETREDIR`: returns the id of the connection that receives the client's invalidation
/// messages.
pub(super) fn getredir(call: &mut Call<'_>) -> Action {
    let number = call.connection.redirect_number();
    call.integer(number)
}

/// Runs `CLIENT TRACKINGINFO`: returns the tracking mode of the connection.
pub(super) fn trackinginfo(call: &mut Call<'_>) -> Action {
    let tracking = call.connection.tracking();
    let mut flags = vec![if tracking.is_some() { "on" } else { "off" }];
    let mut prefixes = Vec::new();
    if let Some(tracking) = tracking {
        let given = tracking.is_caching_given;
        match &tracking.mode {
            TrackingMode::Reads => {}
            TrackingMode::OptIn => {
                flags.extend(["optin", "caching-yes"].iter().take(1 + usize::from(given)));
            }
            TrackingMode::OptOut => {
                flags.extend(["optout", "caching-no"].iter().take(1 + usize::from(given)));
            }
            TrackingMode::Broadcast(of_client) => {
                flags.push("bcast");
                prefixes.extend(of_client.iter().cloned());
            }
        }
        flags.extend(tracking.no_loop.then_some("noloop"));
        flags.extend(tracking.is_redirect_broken.then_some("broken_redirect"));
    }
    let redirect = call.connection.redirect_number();
    let writer = &mut call.writer;
    writer.map(3);
    writer.bulk(b"flags");
    writer.set(flags.len());
    for flag in flags {
        writer.bulk(flag.as_bytes());
    }
    writer.bulk(b"redirect");
    writer.integer(redirect);
    writer.bulk(b"prefixes");
    writer.array(prefixes.len());
    for prefix in &prefixes {
        writer.bulk(prefix);
    }
    Action::Reply
}
