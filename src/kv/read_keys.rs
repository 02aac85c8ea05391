//! The keys that an operation reads, for clients that cache values.

use super::operation::Operation;

/// Name of the command that returns the revisions of keys, not their values.
const REVISIONS: &str = "revisions";

/// Returns the keys whose values the outcome of an operation may depend on, because read-only
/// commands name them: the operation itself or, in a transaction, those of its commands. The keys
/// that commands read and change are not among them, as in Redis.
pub fn read_keys<'a>(operation: &Operation<'a>) -> Vec<&'a [u8]> {
    let nested = |bytes| {
        Operation::decode_nested(bytes)
            .map_or_else(|_| Vec::new(), |operation| read_keys(&operation))
    };
    match *operation {
        Operation::Call { command, args, .. }
            if command.is_read() && command.name() != REVISIONS =>
        {
            command.keys_in(args).unwrap_or_default()
        }
        Operation::Transaction { operations, .. } => operations.iter().flat_map(nested).collect(),
        Operation::Once { operation, .. } => nested(operation),
        _ => Vec::new(),
    }
}
