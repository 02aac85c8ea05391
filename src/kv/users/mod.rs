//! The users of the cluster and their permissions, as part of the replicated state.
//!
//! The state machine stores users but never checks permissions: each replica checks the requests of
//! its own clients. The state therefore depends neither on a replica's command table nor on its
//! settings. Passwords are hashed before they enter the log.
//!
//! | file | contents |
//! |---|---|
//! | `rule` | one rule, such as `on`, `+get` or `~app:*`, from and to text |
//! | `user` | what the rules add up to: a user with its selectors |
//! | `table` | all users, their revision and their digest |

pub(in crate::kv) mod rule;
pub(in crate::kv) mod table;
pub(in crate::kv) mod user;
