//! Checkers: the rules that every simulated run must satisfy.
//!
//! | module | checks |
//! |---|---|
//! | [`safety`] | the consensus rules, after every step, over all replicas |
//! | [`client_model`] | what clients are told, against a model of the committed batches |
//! | `expirations` | when expired keys may still be seen |
//! | [`linearizability`] | whether the clients' history is linearizable |

pub mod client_model;
mod expirations;
pub mod linearizability;
pub mod safety;
