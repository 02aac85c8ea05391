//! Metrics of the log on disk, snapshots, memory and the keyspace.

use std::time::Duration;

use crate::redis::disk_name;

use super::replica::DISK_STATES;
use super::{Metric, counter, gauge, histogram};

pub(super) const METRICS: &[Metric] = &[
    counter("bowline_log_syncs", "Syncs (fsync) of the log.", |source, out| {
        out.add(source.counters.log_syncs.get());
    }),
    histogram("bowline_log_sync_duration", "Durations of log syncs (fsync).", |source, out| {
        out.add(source.counters.log_sync_times.read());
    })
    .seconds(),
    gauge(
        "bowline_disk_state",
        "1 for the current disk state, 0 for the others. While it is low, writes are refused.",
        |source, out| out.add_states(DISK_STATES, disk_name(source.context().disk)),
    )
    .by(&["state"]),
    counter("bowline_disk_stalls", "Times the disk stalled.", |source, out| {
        out.add(source.context().counters.disk_stalls);
    }),
    gauge("bowline_disk_free", "Free disk space.", |source, out| {
        out.add(source.context().disk_free);
    })
    .bytes(),
    gauge(
        "bowline_disk_reserve",
        "Free disk space below which writes are refused; 0 for no limit.",
        |source, out| out.add(source.context().disk_reserve),
    )
    .bytes(),
    counter("bowline_snapshots", "Snapshots completed.", |source, out| {
        out.add(source.context().snapshot.saves);
    }),
    counter("bowline_snapshot_failures", "Snapshots failed.", |source, out| {
        out.add(source.context().snapshot.failures);
    }),
    gauge(
        "bowline_snapshot_last_failed",
        "1 if the latest attempt to take a snapshot failed.",
        |source, out| out.add(source.context().snapshot.failed),
    ),
    gauge("bowline_snapshot_in_progress", "1 while a snapshot is being taken.", |source, out| {
        out.add(source.context().snapshot.taking);
    }),
    gauge(
        "bowline_snapshot_duration",
        "Duration of the latest completed snapshot, in whole seconds; 0 before the first.",
        |source, out| {
            out.add(Duration::from_secs(source.context().snapshot.last_seconds.unwrap_or(0)));
        },
    )
    .seconds(),
    gauge(
        "bowline_snapshot_size",
        "Size of the latest snapshot; 0 if there is none.",
        |source, out| out.add(source.context().snapshot.bytes),
    )
    .bytes(),
    gauge(
        "bowline_snapshot_age",
        "Time since the latest snapshot was completed, or since it was loaded at the start.",
        |source, out| {
            let context = source.context();
            let saved_at = context.snapshot.saved_at;
            if saved_at > 0 {
                out.add(context.wall_clock.saturating_sub(Duration::from_secs(saved_at)));
            }
        },
    )
    .seconds(),
    gauge(
        "bowline_snapshot_index",
        "Index of the last entry that the latest snapshot covers; 0 if there is none.",
        |source, out| out.add(source.context().snapshot.index.0),
    ),
    gauge(
        "bowline_memory_used",
        "Memory used by the dataset, the log and clients: the usage that maxmemory limits.",
        |source, out| out.add(source.context().used_memory),
    )
    .bytes(),
    gauge(
        "bowline_memory_peak",
        "Peak of bowline_memory_used_bytes since the start.",
        |source, out| out.add(source.context().used_memory_peak),
    )
    .bytes(),
    gauge("bowline_memory_dataset", "Memory used by keys and values.", |source, out| {
        out.add(source.context().dataset_bytes);
    })
    .bytes(),
    gauge("bowline_memory_log", "Memory used by log entries.", |source, out| {
        out.add(source.context().log_bytes);
    })
    .bytes(),
    gauge("bowline_memory_clients", "Memory used by all clients.", |source, out| {
        out.add(source.context().clients_bytes);
    })
    .bytes(),
    gauge(
        "bowline_memory_resident",
        "Resident set size of the process; 0 if unknown.",
        |source, out| out.add(source.context().resident_bytes),
    )
    .bytes(),
    gauge("bowline_memory_machine", "Total memory of the machine; 0 if unknown.", |source, out| {
        out.add(source.context().system.memory_bytes);
    })
    .bytes(),
    gauge("bowline_memory_limit", "Memory limit (maxmemory); 0 for none.", |source, out| {
        out.add(source.report.memory_max);
    })
    .bytes(),
    gauge(
        "bowline_memory_clients_limit",
        "Memory limit of all clients combined (maxmemory-clients).",
        |source, out| out.add(source.report.clients_bytes_max),
    )
    .bytes(),
    gauge(
        "bowline_memory_is_full",
        "1 while commands that add data are refused because of maxmemory.",
        |source, out| out.add(source.context().is_full),
    ),
    gauge(
        "bowline_lazyfree_pending_objects",
        "Deleted values whose memory is not freed yet.",
        |source, out| out.add(source.context().lazyfree_pending_objects),
    ),
    counter(
        "bowline_lazyfreed_objects",
        "Values whose memory was freed in the background.",
        |source, out| out.add(source.context().lazyfreed_objects),
    ),
    gauge("bowline_keys", "Number of keys.", |source, out| {
        out.add(source.context().key_count());
    }),
    gauge("bowline_keys_with_expiration", "Number of keys with a TTL.", |source, out| {
        out.add(source.context().expires_count());
    }),
    gauge(
        "bowline_keys_average_ttl",
        "Average remaining TTL of the keys that have one; 0 if there are none.",
        |source, out| {
            let context = source.context();
            let average = context.average_expiry().unwrap_or(0);
            let millis = average.saturating_sub(context.clocks.replicated);
            out.add(Duration::from_millis(millis));
        },
    )
    .seconds(),
    counter(
        "bowline_keyspace_lookups",
        "Keys looked up by reads of this replica's clients, by result: hit or miss.",
        |source, out| {
            let statistics = source.context().keyspace_statistics;
            out.add_each([("hit", statistics.hits), ("miss", statistics.misses)]);
        },
    )
    .by(&["result"]),
    gauge("bowline_changes_revision", "Current revision, as used by CHANGES.", |source, out| {
        out.add(source.context().history.revision);
    }),
    gauge("bowline_changes_history_events", "Changes retained for CHANGES.", |source, out| {
        out.add(source.context().history.events);
    }),
    gauge(
        "bowline_changes_history",
        "Memory used by the changes retained for CHANGES.",
        |source, out| out.add(source.context().history.bytes),
    )
    .bytes(),
    counter("bowline_expired_keys", "Keys removed because they had expired.", |source, out| {
        out.add(source.context().keyspace_statistics.expired);
    }),
];
