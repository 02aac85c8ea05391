//! Non-blocking TCP sockets, shared by the connections of clients and of peers. No file in this
//! folder knows what the bytes mean.

pub(crate) mod descriptors;
pub(crate) mod listener;
pub(crate) mod outbound_queue;
pub(crate) mod slab;
pub(crate) mod socket;
