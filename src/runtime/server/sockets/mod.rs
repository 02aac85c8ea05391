//! Non-blocking sockets: TCP for clients and peers, UDP for peers. No file in this folder knows
//! what the bytes mean.

pub(crate) mod datagram_socket;
pub(crate) mod descriptors;
pub(crate) mod listener;
pub(crate) mod slab;
pub(crate) mod socket;
