//! Bytes to types and back, without sockets: messages between replicas, the messages of the
//! course's simulator, the Redis protocol, and HTTP requests for pages; and the queue of encoded
//! bytes that wait to be written.
//!
//! All input from outside is validated here, its layout and its meaning, so that all other code may
//! treat a contradiction as a bug. Invalid input is rejected with a typed error and never a panic.
//! Whatever a decoder accepts can be encoded again.

pub mod course;
pub mod datagram;
pub mod frame;
pub mod http;
mod json;
pub(crate) mod outbound_queue;
pub mod peer;
pub mod protocol;
pub mod resp;
