//! Metrics of clients, commands, errors, queues and HTTP requests.

use crate::redis::{CommandTotals, command_totals};
use crate::runtime::server::http::pages::PAGES;

use super::samples::{Samples, Value};
use super::{Metric, Source, counter, gauge, histogram};

pub(super) const METRICS: &[Metric] = &[
    gauge("bowline_clients", "Connected clients.", |source, out| {
        out.add(source.context().traffic.clients);
    }),
    gauge(
        "bowline_clients_blocked",
        "Clients blocked by a blocking command or CLIENT PAUSE.",
        |source, out| out.add(source.context().blocked_clients),
    ),
    gauge("bowline_clients_limit", "Maximum number of clients (maxclients).", |source, out| {
        out.add(source.report.clients_max);
    }),
    counter("bowline_connections", "Client connections accepted.", |source, out| {
        out.add(source.context().traffic.connections);
    }),
    counter(
        "bowline_connections_refused",
        "Client connections refused because of maxclients.",
        |source, out| out.add(source.context().traffic.connections_refused),
    ),
    counter(
        "bowline_clients_evicted",
        "Clients disconnected because of maxmemory-clients.",
        |source, out| out.add(source.context().traffic.clients_evicted),
    ),
    counter(
        "bowline_clients_closed",
        "Client connections closed by the replica rather than the client.",
        |source, out| out.add(source.counters.clients_closed.get()),
    ),
    counter("bowline_clients_received", "Bytes received from clients.", |source, out| {
        out.add(source.context().traffic.bytes_in);
    })
    .bytes(),
    counter("bowline_clients_sent", "Bytes sent to clients.", |source, out| {
        out.add(source.context().traffic.bytes_out);
    })
    .bytes(),
    counter(
        "bowline_clients_socket_calls",
        "Reads and writes on client sockets that transferred bytes, by direction.",
        |source, out| {
            let traffic = source.context().traffic;
            out.add_each([("read", traffic.reads), ("write", traffic.writes)]);
        },
    )
    .by(&["direction"]),
    counter(
        "bowline_commands",
        "Commands received from clients, including rejected and unknown ones.",
        |source, out| out.add(source.context().traffic.commands),
    ),
    counter("bowline_command_calls", "Calls of each command.", |source, out| {
        commands(source, out, |totals| totals.calls.into());
    })
    .by(&["command"]),
    counter(
        "bowline_command_rejections",
        "Calls of each command that were rejected before execution, so certainly not applied.",
        |source, out| commands(source, out, |totals| totals.rejected.into()),
    )
    .by(&["command"]),
    counter(
        "bowline_command_failures",
        "Calls of each command whose reply was an error.",
        |source, out| commands(source, out, |totals| totals.failed.into()),
    )
    .by(&["command"]),
    histogram(
        "bowline_command_duration",
        "Durations of each command's calls, including replication and the log sync.",
        |source, out| commands(source, out, |totals| (*totals.durations).into()),
    )
    .seconds()
    .by(&["command"]),
    counter(
        "bowline_error_replies",
        "Error replies by code; codes beyond the first 64 count as other.",
        |source, out| {
            let statistics = &source.context().statistics;
            let mut other = statistics.error_count();
            for (code, count) in statistics.error_codes() {
                other = other.saturating_sub(count);
                out.add_with([code.to_owned().into()], count);
            }
            out.add_with(["other".into()], other);
        },
    )
    .by(&["code"]),
    counter(
        "bowline_requests_refused",
        "Requests refused, by reason: busy (TRYAGAIN; batches), disk_full (MISCONF), no_leader \
         (CLUSTERDOWN).",
        |source, out| {
            let counters = source.counters;
            out.add_each([
                ("busy", counters.requests_busy.get()),
                ("disk_full", counters.disk_full.get()),
                ("no_leader", counters.cluster_down.get()),
            ]);
        },
    )
    .by(&["reason"]),
    counter(
        "bowline_requests_uncertain",
        "Requests answered with UNCERTAIN: the write may have been applied.",
        |source, out| out.add(source.counters.uncertain.get()),
    ),
    gauge(
        "bowline_tracking_clients",
        "Clients with client-side caching enabled (CLIENT TRACKING).",
        |source, out| out.add(source.context().tracking.clients),
    ),
    gauge(
        "bowline_tracking_keys",
        "Keys tracked because clients may have cached them.",
        |source, out| out.add(source.context().tracking.keys),
    ),
    counter(
        "bowline_tracking_invalidations",
        "Invalidation messages sent to clients with client-side caching.",
        |source, out| out.add(source.context().tracking.invalidations),
    ),
    gauge("bowline_monitors", "Clients in MONITOR mode.", |source, out| {
        out.add(source.context().monitors);
    }),
    gauge("bowline_pubsub_channels", "Channels with subscribers.", |source, out| {
        out.add(source.report.subscriptions.0);
    }),
    gauge("bowline_pubsub_patterns", "Patterns with subscribers.", |source, out| {
        out.add(source.report.subscriptions.1);
    }),
    gauge(
        "bowline_queue_items",
        "Items waiting in each queue between pipeline stages.",
        |source, out| {
            for queue in &source.report.queues {
                out.add_with([queue.name.into()], queue.items);
            }
        },
    )
    .by(&["queue"]),
    gauge(
        "bowline_queue_items_limit",
        "Capacity of each queue between pipeline stages, in items.",
        |source, out| out.add(source.report.queue_items_max),
    ),
    counter(
        "bowline_dropped",
        "Messages dropped because a queue was full or a peer was not connected, by kind. They are \
         retransmitted.",
        dropped,
    )
    .by(&["kind"]),
    counter(
        "bowline_received_invalid",
        "Frames and datagrams received that were unreadable (malformed) or ignored (for another \
         replica, or late).",
        |source, out| {
            out.add_each([
                ("unreadable", source.counters.unreadable.get()),
                ("ignored", source.counters.ignored.get()),
            ]);
        },
    )
    .by(&["kind"]),
    counter(
        "bowline_peer_connections_refused",
        "Peer connections closed because of an invalid hello, a damaged frame or too many peers.",
        |source, out| out.add(source.counters.peers_refused.get()),
    ),
    counter("bowline_http_requests", "HTTP requests by page.", |source, out| {
        for ((path, _), count) in PAGES.into_iter().zip(source.http.requests) {
            out.add_with([path.into()], count);
        }
        out.add_with(["/".into()], source.http.files);
    })
    .by(&["page"]),
    counter(
        "bowline_http_requests_rejected",
        "HTTP requests that were malformed or named a page that does not exist.",
        |source, out| out.add(source.http.rejected),
    ),
];

/// Adds a sample for each command that has been called or rejected.
fn commands(source: &Source<'_>, out: &mut Samples, value: impl Fn(CommandTotals<'_>) -> Value) {
    for (command, totals) in command_totals(&source.context().statistics) {
        out.add_with([command.into()], value(totals));
    }
}

fn dropped(source: &Source<'_>, out: &mut Samples) {
    let counters = source.counters;
    out.add_each([
        ("arrivals", counters.arrivals_dropped.get()),
        ("outbound", counters.outbound_dropped.get()),
        ("unsent", counters.unsent.get()),
        ("appends", counters.appends_dropped.get()),
        ("chunks", counters.chunks_dropped.get()),
        ("repeats", counters.repeats_dropped.get()),
    ]);
}
