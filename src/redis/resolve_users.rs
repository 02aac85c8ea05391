//! From the rules of users to their permissions: which commands of this program's table a rule such
//! as `+@read` permits.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::{CommandRule, DEFAULT_USER, Selector, User, Users};

use super::access::{Access, hash_password};
use super::permissions::{CommandSet, Permissions, SelectorPermissions};
use super::registry::table;
use super::spec::CommandTable;

/// Returns the users of a replica with their permissions. `password` is the setting `requirepass`
/// of the replica, the password of the user `default` as long as the cluster's users do not include
/// it; empty for none.
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

/// Returns the permissions of a selector. A rule about a command or a category that this program
/// does not have, which a later version has set, has no effect.
fn resolve(selector: &Selector, table: &'static CommandTable) -> SelectorPermissions {
    let mut commands = CommandSet::default();
    for (number, _) in table.numbered() {
        commands.set(number, selector.begins_with_all_commands);
    }
    for CommandRule { allow, name } in &selector.command_rules {
        for (number, spec) in table.numbered() {
            let is_meant = match name.strip_prefix('@') {
                Some(category) => spec.all_categories().any(|own| own == category),
                // The name of a command stands for its subcommands, too.
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
