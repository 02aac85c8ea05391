//! Non-blocking sockets: TCP for clients and peers, UDP for peers. The code in this folder does not
//! interpret the bytes.

pub(crate) mod datagram_socket;
pub(crate) mod descriptors;
pub(crate) mod listener;
pub(crate) mod slab;
pub(crate) mod socket;
