//! Bytes to types and back, without sockets: what replicas say to each other, the messages of the
//! course's simulator, and the Redis protocol. Everything that comes from outside is checked here,
//! in shape and in meaning, so that behind this border a contradiction is an error of ours. What is
//! wrong is refused with a typed reason and never a panic; what a decoder takes it can write again.

pub mod course;
pub mod frame;
mod json;
pub mod peer;
pub mod resp;
