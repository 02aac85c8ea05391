//! Pub/Sub: published messages go through the log, so that subscribers on every replica see them in
//! the same order. Subscriptions belong to connections and are not part of the state.

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::row::{Answer, NO_KEYS, Row, write};
use crate::kv::keyspace::Keyspace;

/// The Pub/Sub commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[write(288, "publish", NO_KEYS, publish)];

/// Runs `PUBLISH channel message`: records the message for this replica's subscribers of the
/// channel. With a third argument, from feature level 2 on, the channel is a shard channel.
fn publish(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let is_sharded = args.get(2).is_ok();
    keyspace.publish(args.get(0)?, args.get(1)?, is_sharded);
    Ok(Outcome::Done)
}
