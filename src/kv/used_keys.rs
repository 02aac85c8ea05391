//! The keys that a call of a command uses, each with its database.

use crate::kv::commands::generic::parse_database;
use crate::kv::commands::items::Arguments;
use crate::kv::commands::registry::CommandId;
use crate::kv::keyspace::databases::DatabaseId;

const MOVE: CommandId = CommandId::of("move");
const COPY: CommandId = CommandId::of("copydb");

/// Returns the keys that a call of a command in the database `home` uses, each with its database.
pub(super) fn keys_used(
    command: CommandId,
    home: DatabaseId,
    args: Arguments<'_>,
) -> Vec<(DatabaseId, &[u8])> {
    let keys = command.keys_in(args).unwrap_or_default();
    let mut used: Vec<_> = keys.into_iter().map(|key| (home, key)).collect();
    if command == MOVE {
        let other = args.iter().nth(1).and_then(|argument| parse_database(argument).ok());
        used.extend(other.zip(args.first()));
    } else if command == COPY {
        let args: Vec<&[u8]> = args.iter().collect();
        let other = args.windows(2).skip(2).rev().find_map(|pair| {
            let is_option = pair[0].eq_ignore_ascii_case(b"DB");
            is_option.then(|| parse_database(pair[1]).ok()).flatten()
        });
        used.extend(other.zip(args.get(1).copied()));
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> DatabaseId {
        DatabaseId::new(number).unwrap()
    }

    #[test]
    fn keys_of_a_call_have_their_databases() {
        let used = |line: &str| {
            let mut words = line.split(' ');
            let command = CommandId::of(words.next().unwrap());
            let args: Vec<&[u8]> = words.map(str::as_bytes).collect();
            let used = keys_used(command, id(2), args[..].into()).into_iter();
            used.map(|(id, key)| format!("{id}:{}", key.escape_ascii())).collect::<Vec<_>>()
        };
        assert_eq!(used("mget a b"), ["2:a", "2:b"]);
        assert_eq!(used("move a 5"), ["2:a", "5:a"]);
        assert_eq!(used("move a 99"), ["2:a"]);
        assert_eq!(used("copydb a b DB 1 REPLACE DB 3"), ["2:a", "2:b", "3:b"]);
        assert_eq!(used("copydb db 9 REPLACE"), ["2:db", "2:9"]);
    }
}
