//! `ACL`: the users of the cluster and their permissions.
//!
//! Changes to users are writes, which are replicated. Commands that show users read the state that
//! this replica has applied.

use crate::kv::{
    CommandId, CommandRule, DEFAULT_USER, Operation, PasswordHash, Rule, RuleError, Selector,
    SelectorRule, UserError, parse_integer,
};
use crate::redis::access::hash_password;
use crate::redis::acl_log::{DenialReason, Entry};
use crate::redis::action::{Action, Statistics};
use crate::redis::authorization::Checked;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{ADMIN, CommandSpec, CommandTable, subcommand, subcommand_with_table};
use crate::wire::resp::Writer;

use super::help::{container, help_row};

/// The state machine's commands that create or change a user, and delete users.
const SET_USER: CommandId = CommandId::of("acl|setuser");
const DELETE_USERS: CommandId = CommandId::of("acl|deluser");

/// All of Redis's command categories, in Redis's order.
const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Default and maximum strength of a generated password in bits, as in Redis.
const PASSWORD_BITS: i64 = 256;
const PASSWORD_BITS_MAX: i64 = 4_096;
/// Error reply to changes of users in a transaction, where only commands on keys are allowed.
const IN_TRANSACTION: &str = "ERR Command not allowed inside a transaction";

/// Default number of entries that `ACL LOG` returns, as in Redis.
const LOG_ENTRIES: i64 = 10;

/// Row of the command table for `ACL` (name, arity, flags, documentation and function), with its
/// subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("acl")
    .since("6.0.0", "server")
    .about("A container for commands about users and their permissions.")
    .with(ACL)];

const ACL: &[CommandSpec] = &[
    subcommand_with_table("cat", "acl|cat", -2, cat)
        .flags(&["noscript", "loading", "stale"])
        .since("6.0.0", "server")
        .costs("O(N), N being the number of commands")
        .about("Returns the categories of commands, or the commands of a category."),
    admin("deluser", "acl|deluser", -3, delete_users)
        .about("Deletes users, and disconnects their clients."),
    subcommand_with_table("dryrun", "acl|dryrun", -4, dry_run)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("7.0.0", "server")
        .costs("O(1)")
        .about("Simulates a command by a user and returns whether it is permitted."),
    own("genpass", "acl|genpass", -2, generate_password).about("Returns a random password."),
    admin("getuser", "acl|getuser", 3, get_user).about("Returns the rules of a user."),
    help_row("acl|help").since("6.0.0", "server"),
    admin("list", "acl|list", 2, list).about("Returns the rules of all users."),
    admin("load", "acl|load", 2, no_file)
        .about("Always returns an error: there is no ACL file because users are replicated."),
    admin("log", "acl|log", -2, log)
        .about("Returns or clears the latest denied requests and logins at this replica."),
    admin("save", "acl|save", 2, no_file)
        .about("Always returns an error: there is no ACL file because users are replicated."),
    subcommand_with_table("setuser", "acl|setuser", -3, set_user)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("6.0.0", "server")
        .costs("O(N), N being the number of rules")
        .about("Creates or changes a user on all replicas."),
    admin("users", "acl|users", 2, users).about("Returns the names of all users."),
    own("whoami", "acl|whoami", 2, whoami).about("Returns the name of the connection's user."),
];

const fn admin(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    own(name, full_name, arity, run).flags(ADMIN).categories(&["dangerous"])
}

const fn own(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run)
        .flags(&["noscript", "loading", "stale"])
        .since("6.0.0", "server")
        .costs("O(N), N being the number of users, rules or entries")
}

/// Runs `ACL SETUSER name [rule ...]`. Hashes passwords, so that no plain-text password enters the
/// log.
fn set_user(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    if call.batch.is_some() {
        return call.error(&IN_TRANSACTION);
    }
    let name = call.argument(2);
    let texts = match selectors_joined(call.request.rest(3)) {
        Ok(texts) => texts,
        Err(start) => {
            let start = String::from_utf8_lossy(start);
            return call.error(&format_args!(
                "ERR Unmatched parenthesis in acl selector starting at '{start}'."
            ));
        }
    };
    let mut rules: Vec<Vec<u8>> = Vec::with_capacity(texts.len());
    for text in &texts {
        match checked_rule(text, table) {
            Ok(None) => {}
            Ok(Some(rule)) => {
                let mut bytes = Vec::new();
                rule.write(&mut bytes);
                rules.push(bytes);
            }
            Err(error) => return modifier_error(call, text, error),
        }
    }
    // The rules are tried here, too, so that an error can quote the rule as sent. Another replica
    // may change the user at the same time, so the final decision is made when the change is
    // applied.
    let password = initial_password(call);
    let users = &call.context.access.users;
    let tried = users.changed(name, password, rules.iter().map(Vec::as_slice));
    if let Err(error) = tried {
        if let UserError::Rule { rule, error } = &error
            && let Some(at) = rules.iter().position(|known| known == rule)
        {
            let kept = texts.iter().filter(|text| !text.is_empty()).nth(at);
            return modifier_error(call, kept.map_or(&[], Vec::as_slice), *error);
        }
        return call.error(&format_args!("ERR {error}"));
    }
    let password = password.map(PasswordHash::to_text).unwrap_or_default();
    let mut arguments = vec![name, password.as_bytes()];
    arguments.extend(rules.iter().map(Vec::as_slice));
    call.submit(Operation::call(SET_USER, &arguments[..]), ReplyKind::Plain).blocking()
}

fn modifier_error(call: &mut Call<'_>, text: &[u8], error: RuleError) -> Action {
    let text = String::from_utf8_lossy(text);
    call.error(&format_args!("ERR Error in ACL SETUSER modifier '{text}': {error}"))
}

/// Returns the password that the user `default` has when it is set for the first time: this
/// replica's `requirepass`.
fn initial_password(call: &Call<'_>) -> Option<PasswordHash> {
    let password = call.settings.password();
    (!password.is_empty()).then(|| hash_password(password.as_bytes()))
}

/// Joins the arguments that belong to one selector with spaces: from the one with the opening
/// parenthesis to the one with the closing parenthesis.
///
/// # Errors
/// The argument with an opening parenthesis, if that parenthesis is not closed.
fn selectors_joined<'r>(
    arguments: impl Iterator<Item = &'r [u8]>,
) -> Result<Vec<Vec<u8>>, &'r [u8]> {
    let mut joined = Vec::new();
    let mut open: Option<(&[u8], Vec<u8>)> = None;
    for argument in arguments {
        let closes = argument.last() == Some(&b')');
        match &mut open {
            None if argument.first() == Some(&b'(') && !closes => {
                open = Some((argument, argument.to_vec()));
            }
            None => joined.push(argument.to_vec()),
            Some((_, text)) => {
                text.push(b' ');
                text.extend_from_slice(argument);
                if closes {
                    joined.push(std::mem::take(text));
                    open = None;
                }
            }
        }
    }
    open.map_or(Ok(joined), |(start, _)| Err(start))
}

/// Parses a rule, and checks that its commands exist. Returns `None` for an empty text.
fn checked_rule(text: &[u8], table: &CommandTable) -> Result<Option<Rule>, RuleError> {
    let rule = match text {
        [b'>', password @ ..] => Some(Rule::AddPassword(hash_password(password))),
        [b'<', password @ ..] => Some(Rule::RemovePassword(hash_password(password))),
        _ => Rule::parse(text)?,
    };
    for rule in rule.iter().flat_map(Rule::selector_rules) {
        if let SelectorRule::Command(rule) = rule {
            check_command(rule, table)?;
        }
    }
    Ok(rule)
}

/// Checks that the command or category of a rule exists.
fn check_command(rule: &CommandRule, table: &CommandTable) -> Result<(), RuleError> {
    let CommandRule { allow, name } = rule;
    if let Some(category) = name.strip_prefix('@') {
        return CATEGORIES.contains(&category).then_some(()).ok_or(RuleError::UnknownCommand);
    }
    let parts: Vec<&str> = name.split('|').collect();
    let is_known = match parts[..] {
        [_, _, _, ..] if *allow => return Err(RuleError::FirstArgument),
        [command, ""] if *allow && table.find(command.as_bytes()).is_some() => {
            return Err(RuleError::Syntax);
        }
        _ => table.find_full(name.as_bytes()).is_some(),
    };
    is_known.then_some(()).ok_or(RuleError::UnknownCommand)
}

/// Runs `ACL DELUSER name [name ...]`.
fn delete_users(call: &mut Call<'_>) -> Action {
    if call.batch.is_some() {
        return call.error(&IN_TRANSACTION);
    }
    let names: Vec<&[u8]> = call.request.rest(2).collect();
    if names.contains(&DEFAULT_USER) {
        return call.error(&"ERR The 'default' user cannot be removed");
    }
    call.submit(Operation::call(DELETE_USERS, &names[..]), ReplyKind::Plain).blocking()
}

/// Runs `ACL GETUSER name`: returns the rules of a user, by type; null if it does not exist.
fn get_user(call: &mut Call<'_>) -> Action {
    let name = call.argument(2);
    let Some(permissions) = call.context.access.get(name) else {
        call.writer.null();
        return Action::Reply;
    };
    let (user, writer) = (&permissions.user, &mut call.writer);
    writer.map(6);
    writer.bulk(b"flags");
    let flags = user.flags();
    writer.set(flags.len());
    for flag in flags {
        writer.bulk(flag.as_bytes());
    }
    writer.bulk(b"passwords");
    writer.array(user.passwords().len());
    for hash in user.passwords() {
        writer.bulk(hash.to_text().as_bytes());
    }
    let (first, others) = user.selectors().split_first().expect("there is at least one");
    write_selector(first, writer);
    writer.bulk(b"selectors");
    writer.array(others.len());
    for selector in others {
        writer.map(3);
        write_selector(selector, writer);
    }
    Action::Reply
}

/// Writes the commands, keys and channels of a selector.
fn write_selector(selector: &Selector, writer: &mut Writer<'_>) {
    writer.bulk(b"commands");
    writer.bulk(selector.command_text().as_bytes());
    writer.bulk(b"keys");
    writer.bulk(&selector.key_rules().join(&b' '));
    writer.bulk(b"channels");
    writer.bulk(&selector.channel_patterns().join(&b' '));
}

/// Runs `ACL LIST`: returns one line per user with its rules.
fn list(call: &mut Call<'_>) -> Action {
    let all = call.context.access.all();
    call.writer.array(all.len());
    for permissions in all {
        let rules = permissions.user.rules().join(&b' ');
        call.writer.bulk(&[b"user ", &permissions.name[..], b" ", &rules].concat());
    }
    Action::Reply
}

/// Runs `ACL USERS`.
fn users(call: &mut Call<'_>) -> Action {
    let all = call.context.access.all();
    call.writer.array(all.len());
    for permissions in all {
        call.writer.bulk(&permissions.name);
    }
    Action::Reply
}

/// Runs `ACL WHOAMI`.
fn whoami(call: &mut Call<'_>) -> Action {
    let name = call.connection.user_name();
    call.writer.bulk(name);
    Action::Reply
}

/// Runs `ACL CAT [category]`.
fn cat(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    if call.request.len() > 3 {
        return call.error(
            &"ERR unknown subcommand or wrong number of arguments for 'CAT'. Try ACL HELP.",
        );
    }
    let Some(wanted) = call.request.get(2) else {
        call.writer.array(CATEGORIES.len());
        for category in CATEGORIES {
            call.writer.bulk(category.as_bytes());
        }
        return Action::Reply;
    };
    let lower = wanted.to_ascii_lowercase();
    let Some(category) = CATEGORIES.iter().find(|known| known.as_bytes() == lower) else {
        let wanted = String::from_utf8_lossy(wanted);
        return call.error(&format_args!("ERR Unknown category '{wanted}'"));
    };
    let is_in = |spec: &CommandSpec| spec.all_categories().any(|own| own == *category);
    let found: Vec<_> = table.numbered().filter(|(_, spec)| is_in(spec)).collect();
    call.writer.array(found.len());
    for (_, spec) in found {
        call.writer.bulk(spec.full_name.as_bytes());
    }
    Action::Reply
}

/// Runs `ACL GENPASS [bits]`.
fn generate_password(call: &mut Call<'_>) -> Action {
    let bits = call.request.get(2).map_or(Some(PASSWORD_BITS), parse_integer);
    match bits {
        None => call.error(&"ERR value is not an integer or out of range"),
        _ if call.request.len() > 3 => call.error(&"ERR syntax error"),
        Some(bits @ 1..=PASSWORD_BITS_MAX) => {
            let digits = usize::try_from(bits).unwrap_or_default().div_ceil(4);
            Action::GeneratePassword(digits)
        }
        _ => call.error(&format_args!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a \
             positive number up to {PASSWORD_BITS_MAX}"
        )),
    }
}

/// Runs `ACL DRYRUN user command [argument ...]`.
fn dry_run(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let text = String::from_utf8_lossy;
    let Some(permissions) = call.context.access.get(call.argument(2)) else {
        let name = text(call.argument(2));
        return call.error(&format_args!("ERR User '{name}' not found"));
    };
    let request = call.request.from(3).expect("the arity was checked");
    let container = table.find(&request.name().to_ascii_lowercase());
    let spec = match request.get(1) {
        Some(name) if container.is_some_and(|spec| !spec.subcommands.is_empty()) => {
            container.and_then(|spec| spec.subcommand(&name.to_ascii_lowercase()))
        }
        _ => container,
    };
    let found =
        spec.and_then(|spec| table.numbered().find(|(_, known)| known.full_name == spec.full_name));
    let Some((number, spec)) = found else {
        let name = text(request.name());
        return call.error(&format_args!("ERR Command '{name}' not found"));
    };
    if !spec.accepts(request.len()) {
        let name = spec.full_name;
        return call.error(&format_args!("ERR wrong number of arguments for '{name}' command"));
    }
    let argument = |index| request.get(index);
    let checked = Checked { spec, number, count: request.len(), argument: &argument };
    match permissions.check(checked) {
        None => call.ok(),
        Some(refused) => {
            let reply = permissions.refusal_text(&refused, true);
            call.writer.bulk(reply.as_bytes());
            Action::Reply
        }
    }
}

/// Runs `ACL LOG [count | RESET]`.
fn log(call: &mut Call<'_>) -> Action {
    let mut count = LOG_ENTRIES;
    if let Some(argument) = call.request.get(2) {
        if argument.eq_ignore_ascii_case(b"RESET") {
            call.writer.ok();
            return Action::ResetStatistics(Statistics::AclLog);
        }
        let Some(number) = parse_integer(argument) else {
            return call.error(&"ERR value is not an integer or out of range");
        };
        count = number;
    }
    let (entries, now) = (call.context.acl_log.entries(), call.context.wall_clock);
    let count = usize::try_from(count).unwrap_or(0).min(entries.len());
    call.writer.array(count);
    for entry in entries.iter().take(count) {
        write_log_entry(entry, now.saturating_sub(entry.last_at).as_secs_f64(), &mut call.writer);
    }
    Action::Reply
}

/// Writes an entry of the ACL log. Its latest denial was `age` seconds ago.
fn write_log_entry(entry: &Entry, age: f64, writer: &mut Writer<'_>) {
    let reason = match entry.denial.reason {
        DenialReason::Login => "auth",
        DenialReason::Command => "command",
        DenialReason::Key => "key",
        DenialReason::Channel => "channel",
    };
    let millis = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    writer.map(10);
    writer.bulk(b"count");
    writer.integer(entry.count);
    for (field, text) in [
        ("reason", reason.as_bytes()),
        ("context", entry.denial.context.name().as_bytes()),
        ("object", &entry.denial.object[..]),
        ("username", &entry.denial.user[..]),
    ] {
        writer.bulk(field.as_bytes());
        writer.bulk(text);
    }
    writer.bulk(b"age-seconds");
    writer.double(age);
    writer.bulk(b"client-info");
    writer.bulk(entry.client.trim_end().as_bytes());
    for (field, number) in [
        ("entry-id", entry.id),
        ("timestamp-created", millis(entry.first_at)),
        ("timestamp-last-updated", millis(entry.last_at)),
    ] {
        writer.bulk(field.as_bytes());
        writer.integer(number);
    }
}

/// Runs `ACL SAVE` and `ACL LOAD`: returns Redis's error for a server without an ACL file.
fn no_file(call: &mut Call<'_>) -> Action {
    call.error(
        &"ERR This Redis instance is not configured to use an ACL file. You may want to specify \
          users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a \
          Redis configuration file set) in order to store users in the Redis configuration.",
    )
}
