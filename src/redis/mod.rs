//! What Redis clients are answered: which commands there are, what they mean to the store, and all
//! the texts around them. Pure: no socket, no clock, no thread; `runtime/` calls it.
//!
//! # How a door uses it
//!
//! Each client's connection has a [`Connection`] beside its
//! [`Parser`](crate::wire::resp::Parser). The door keeps one [`Settings`] for all of them and one
//! [`Context`], which it brings up to date before each batch. For each request that the parser
//! finds it calls [`Connection::execute`] with a buffer for replies and acts on the [`Step`]:
//!
//! - [`Step::Done`]: the reply is in the buffer.
//! - [`Step::Submit`]: a read or a write for the core. The door keeps the [`Shape`] and, when the
//!   outcome is there, calls [`Shape::encode`]; or, when it will not come, [`Failure::encode`].
//!   With `hold` it looks at no later request of that connection before, and calls
//!   [`Connection::resume`] or [`Connection::give_up`].
//! - [`Step::ListClients`]: the reply needs all connections; see [`ClientList`].
//! - [`Step::Listen`]: what the connection listens to has changed; the reply is in the buffer.
//! - [`Step::Kill`], [`Step::Forget`], [`Step::Sleep`]: what they say; for the first the reply is
//!   written by [`Killing::finish`].
//! - [`Step::Save`]: a snapshot is to be taken; the reply is in the buffer.
//! - [`Step::Close`]: to be closed once the buffer's bytes have been sent.
//!
//! Replies go to a client in the order of its requests. So while an earlier request of a
//! connection is under way, what `execute` writes must wait behind it: give it a buffer of its
//! own then. Whether a later request may be *submitted* meanwhile is the door's choice: a read
//! must see the writes before it on the same connection.
//!
//! When the parser fails: `Writer::error` with the error as text, then close, as Redis does.
//!
//! A door gives every request a [`RequestKey`](crate::types::RequestKey) that no other request of
//! any replica ever had: the same key applied twice is answered from memory.

mod calls;
mod client;
mod cluster;
mod commands;
mod connection;
mod context;
mod dispatch;
mod failure;
mod hello;
mod info;
mod once;
mod pubsub;
mod save;
mod sentinel;
mod settings;
mod shape;
mod slow;
mod strings;
mod table;
mod transactions;

pub use client::{ClientList, ClientQuery, Killing};
pub use connection::{Buffered, Connection};
pub use context::{Clocks, Context, Node, Saved, Traffic};
pub use dispatch::{Record, Step, may_grow};
pub use failure::Failure;
pub use pubsub::{Interest, KeyEvents, Listener, Subscriptions, write_message};
pub use sentinel::{SWITCH_CHANNEL, switch_message};
pub use settings::{CLIENTS_BYTES_MIN, Records, Settings, parse_bytes};
pub use shape::Shape;
pub use slow::{SlowLog, Took};
