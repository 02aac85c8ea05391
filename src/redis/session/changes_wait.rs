//! A request that waits for changes of keys: `CHANGES` with `BLOCK`.

use bytes::Bytes;

use crate::kv::{ChangesQuery, CommandId, DatabaseId, Operation};
use crate::types::Instant;

/// A request that waits for changes of keys: `CHANGES` with the option `BLOCK`.
#[derive(Debug, Clone)]
pub(in crate::redis) struct ChangesWait {
    /// When the wait ends without a change; `None` for never.
    pub(in crate::redis) until: Option<Instant>,
    pub(in crate::redis) database: DatabaseId,
    pub(in crate::redis) prefix: Bytes,
    pub(in crate::redis) count: u64,
    pub(in crate::redis) with_values: bool,
    pub(in crate::redis) may_lag: bool,
}

impl ChangesWait {
    /// Returns the operation that returns the changes after the revision `from`.
    pub(in crate::redis) fn operation(&self, from: u64) -> Bytes {
        let query = ChangesQuery {
            from: Some(from),
            prefix: &self.prefix,
            count: self.count,
            with_values: self.with_values,
            waits: true,
            may_lag: self.may_lag,
        };
        query.with_arguments(|arguments| {
            let operation = Operation::call(CommandId::CHANGES, arguments);
            operation.in_database(self.database).encode().into()
        })
    }
}
