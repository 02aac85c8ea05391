//! The users of the cluster and their permissions, as a part of the replicated state.
//!
//! The state machine stores what users may do, and never asks: each replica checks the requests of
//! its own clients. So the state depends neither on the table of commands of a replica nor on its
//! settings. Passwords are hashed before they get here.
//!
//! | file | contents |
//! |---|---|
//! | `rule` | one rule, such as `on`, `+get` or `~app:*`, from and to text |
//! | `user` | what the rules add up to: a user with its selectors |
//! | `table` | all users, their revision and their digest |

pub(in crate::kv) mod rule;
pub(in crate::kv) mod table;
pub(in crate::kv) mod user;
