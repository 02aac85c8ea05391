//! The state of one client's connection that is kept between requests.
//!
//! | file | contents |
//! |---|---|
//! | `subscriptions` | channels and patterns that a connection, or a whole replica, subscribes to |
//! | `transaction` | the commands queued by `MULTI`, the keys watched by `WATCH` |
//! | `connection` | [`Connection`](connection::Connection): all state of one connection |
//! | `tracking` | what a connection observes: client-side caching, `MONITOR` |
//! | `observation` | the methods of a connection for that |
//! | `client_info` | `CLIENT LIST` and `CLIENT KILL`: which connections are meant |
//! | `reply_format` | the conversion of a command's outcome into its reply |
//! | `function_reply` | the replies about libraries of functions |
//! | `wide_reply` | replies with many elements, encoded in parts |
//! | `blocked` | commands that block their connection |
//! | `changes_wait` | a `CHANGES` that waits for a change |
//! | `file_options` | what `SYNC` is to return |
//! | `stream_wait` | an `XREAD` or `XREADGROUP` that waits for entries |
//! | `waits` | what a blocked client waits for |

pub(in crate::redis) mod blocked;
pub(in crate::redis) mod changes_wait;
pub(in crate::redis) mod client_info;
pub(in crate::redis) mod connection;
pub(in crate::redis) mod file_options;
pub(in crate::redis) mod function_reply;
pub(in crate::redis) mod observation;
pub(in crate::redis) mod reply_format;
pub(in crate::redis) mod stream_wait;
pub(in crate::redis) mod subscriptions;
pub(in crate::redis) mod tracking;
pub(in crate::redis) mod transaction;
pub(in crate::redis) mod waits;
pub(in crate::redis) mod wide_reply;
