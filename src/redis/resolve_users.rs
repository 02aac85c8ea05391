//! Computes users' permissions from their rules: which commands of this program a rule such as
//! `+@read` permits.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::{CommandRule, DEFAULT_USER, Selector, User, Users};

use super::access::{Access, hash_password};
use super::permissions::{CommandSet, Permissions, SelectorPermissions};
use super::registry::table;
use super::spec::CommandTable;

/// Returns the users of a replica with their permissions. `password` is the replica's setting
/// `requirepass`, empty for none. It is the password of the user `default` until the cluster has
/// this user.
pub fn resolve_users(users: &Users, password: &str) -> Access {
    let table = table();
    let password = (!password.is_empty()).then(|| hash_password(password.as_bytes()));
    let own = Arc::new(User::initial_default(password));
    let own = users.get(DEFAULT_USER).is_none().then_some((Bytes::from_static(DEFAULT_USER), own));
    let all = users.iter().map(|(name, user)| (name.clone(), Arc::clone(user))).chain(own);
    let resolved = all.map(|(name, user)| {
        let selectors = user.selectors().iter().map(|selector| resolve(selector, table)).collect();
        Arc::new(Permissions::new(name, user, selectors))
    });
    Access::new(resolved.collect(), users.clone())
}

/// Returns the permissions of a selector. Ignores rules for commands and categories that this
/// program does not have; a later version may have set them.
fn resolve(selector: &Selector, table: &'static CommandTable) -> SelectorPermissions {
    let mut commands = CommandSet::default();
    for (number, _) in table.numbered() {
        commands.set(number, selector.begins_with_all_commands);
    }
    for CommandRule { allow, name } in &selector.command_rules {
        for (number, spec) in table.numbered() {
            let is_meant = match name.strip_prefix('@') {
                Some(category) => spec.all_categories().any(|own| own == category),
                // The name of a command includes its subcommands.
                None => {
                    spec.full_name == name
                        || spec.full_name.strip_suffix(spec.name) == Some(&format!("{name}|"))
                }
            };
            if is_meant {
                commands.set(number, *allow);
            }
        }
    }
    SelectorPermissions::new(selector.clone(), commands)
}
