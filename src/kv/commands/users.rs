//! Commands that change the users of the cluster. They read and change only the users, so they
//! cannot be part of a transaction.

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::row::{Answer, Row, of_users};
use crate::kv::users::rule::PasswordHash;
use crate::kv::users::table::{DEFAULT_USER, Users};

/// The commands on users: number, name and function of each. Append new commands at the end with
/// the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    of_users(304, "acl|setuser", set_user).since(FeatureLevel::V0_2),
    of_users(305, "acl|deluser", delete_users).since(FeatureLevel::V0_2),
];

/// Runs `acl|setuser name password [rule ...]`: changes a user by rules, or creates it. `password`
/// is the hash of the password with which the user `default` begins; empty if it has none.
fn set_user(users: &mut Users, args: &Args<'_>) -> Answer {
    let (name, password) = (args.get(0)?, PasswordHash::parse(args.get(1)?));
    Ok(match users.changed(name, password, args.rest(2).iter().copied()) {
        Ok(user) => {
            users.set(name, user);
            Outcome::Done
        }
        Err(error) => Outcome::error(format!("ERR {error}")),
    })
}

/// Runs `acl|deluser name [name ...]`: deletes users, and returns how many existed.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn delete_users(users: &mut Users, args: &Args<'_>) -> Answer {
    if args.all().contains(&DEFAULT_USER) {
        return Ok(Outcome::error("ERR The 'default' user cannot be removed"));
    }
    Ok(Outcome::count(users.remove(args.all().iter().copied())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::StateMachine;
    use crate::kv::batch::{Batch, BatchBuffer};
    use crate::kv::commands::outcome::Refusal;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::tests::Feeder;
    use crate::types::RequestKey;

    #[test]
    fn users_are_part_of_the_digest_and_of_snapshots() {
        let mut feeder = Feeder::new();
        let mut other = Feeder::new();
        assert_eq!(feeder.call("acl|setuser", &["a", "", "on", "~x"]), Outcome::Done);
        other.call("acl|setuser", &["a", "", "on", "~y"]);
        assert_ne!(feeder.store.digest(), other.store.digest());
        let restored = feeder.restored();
        assert_eq!(restored.store.digest(), feeder.store.digest());
        assert_eq!(restored.store.users().get(b"a"), feeder.store.users().get(b"a"));
        assert_eq!(feeder.call("acl|deluser", &["a", "b"]), Outcome::Integer(1));
        assert!(matches!(feeder.call("acl|deluser", &["default"]), Outcome::Error(_)));
        assert_eq!(feeder.store.users().revision(), 2);
    }

    #[test]
    fn operations_checked_under_other_users_are_refused() {
        let mut feeder = Feeder::new();
        let set = Operation::set(b"k", b"v").encode();
        let deny = Operation::call(CommandId::of("acl|setuser"), [&b"a"[..], b""]).encode();
        let mut apply = |revision: Option<u64>, operations: &[&[u8]]| {
            let mut buffer = BatchBuffer::default();
            for operation in operations {
                buffer.push(operation);
            }
            buffer.set_users_revision(revision);
            let batch = buffer.finish(RequestKey::default(), false);
            assert_eq!(Batch::decode(&batch).unwrap().users_revision, revision);
            feeder.store.apply_batch(&batch).outcomes
        };
        let refused = Outcome::Refused(Refusal::UsersChanged);
        assert_eq!(apply(Some(0), &[&set]), [Outcome::Done]);
        let outcomes = apply(Some(0), &[&set, &deny, &set]);
        assert_eq!(outcomes, [Outcome::Done, Outcome::Done, refused.clone()]);
        assert_eq!(apply(Some(0), &[&set, &deny]), [refused.clone(), refused.clone()]);
        assert_eq!(apply(Some(1), &[&set]), [Outcome::Done]);
        let clock = Operation::Clock { millis: 1, resets: 0 }.encode();
        let outcomes = apply(None, &[&clock, &set]);
        assert_eq!(outcomes.len(), 2);
        assert_ne!(outcomes[0], refused, "not the write of a client");
        assert_eq!(outcomes[1], refused, "nothing says under which users it was checked");
    }

    /// Version 0.1 has no users, and writes no revision.
    #[test]
    fn operations_without_a_revision_are_applied_as_long_as_there_are_no_users() {
        let mut store = StateMachine::default();
        let set = Operation::set(b"k", b"v");
        for _ in 0..2 {
            let batch = Batch::encode(RequestKey::default(), false, [&set]);
            assert_eq!(store.apply_batch(&batch).outcomes, [Outcome::Done]);
        }
    }
}
