//! The HTTP pages: their contents, and the files of the live page, which displays the others.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::feature_level::FeatureLevel;
use crate::raft::DiskState;
use crate::redis::{
    Context, ReplicaInfo, Unready, digest_result, disk_name, member_role, role_name,
};
use crate::wire::http::{self, Status};

use super::exchange::Question;

/// A page that shows an answer of the network stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Metrics,
    Status,
    Live,
    Ready,
    /// An event stream: metrics and status once a second.
    Events,
}

/// All pages and their paths.
pub(super) const PAGES: [(&str, Page); 5] = [
    ("/metrics", Page::Metrics),
    ("/status", Page::Status),
    ("/livez", Page::Live),
    ("/readyz", Page::Ready),
    ("/events", Page::Events),
];

/// The files of the live page: paths, content types and contents. They are the same on all
/// replicas, and are served even while the replica loads. In the browser, the page reads `/events`.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

/// Content type of metrics in the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

impl Page {
    /// Returns the page at this path; `None` if there is none.
    pub(super) fn at(path: &str) -> Option<Page> {
        PAGES.iter().find(|(known, _)| *known == path).map(|(_, page)| *page)
    }

    /// Returns the question whose answer the page shows.
    pub(super) fn question(self) -> Question {
        match self {
            Page::Metrics | Page::Status | Page::Events => Question::Report,
            Page::Live => Question::Liveness,
            Page::Ready => Question::Readiness,
        }
    }
}

/// Status, content type and body of a response.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) status: Status,
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
}

impl Content {
    /// Returns the file of the live page at this path; `None` if there is none.
    pub(super) fn file(path: &str) -> Option<Content> {
        let (_, media_type, text) = FILES.into_iter().find(|(known, ..)| *known == path)?;
        let body = Bytes::from_static(text.as_bytes());
        Some(Content { status: Status::Ok, media_type, body })
    }

    /// Returns a plain-text response. A newline is appended to the text.
    pub(super) fn text(status: Status, text: impl Into<String>) -> Content {
        let mut text: String = text.into();
        text.push('\n');
        Content { status, media_type: PLAIN, body: text.into() }
    }

    pub(super) fn metrics(text: String) -> Content {
        Content { status: Status::Ok, media_type: OPEN_METRICS, body: text.into() }
    }

    pub(super) fn status(context: &Context) -> Content {
        let text = format!("{:#}\n", status(context));
        Content { status: Status::Ok, media_type: JSON, body: text.into() }
    }

    /// Returns an event of `/events`: a JSON object with the contents of `/status` and the metrics.
    pub(super) fn event(context: &Context, metrics: &Value) -> Content {
        let object = json!({ "status": status(context), "metrics": metrics });
        let body = http::event(&object.to_string()).into();
        Content { status: Status::Ok, media_type: EVENTS, body }
    }

    /// Returns the event that is sent instead if the network stage's answer is late.
    pub(super) fn late_event(reason: &str) -> Content {
        let body = http::event(&json!({ "busy": reason }).to_string()).into();
        Content { status: Status::Ok, media_type: EVENTS, body }
    }

    /// Returns the page `/readyz`. `warning` is added for a replica that is ready but refuses
    /// writes.
    pub(super) fn ready(readiness: &Result<(), Unready>, warning: Option<&str>) -> Content {
        match readiness {
            Ok(()) => {
                let warning = warning.map_or(String::new(), |it| format!("\nwarning: {it}"));
                Content::text(Status::Ok, format!("ready{warning}"))
            }
            Err(reason) => Content::text(Status::Unavailable, reason.to_string()),
        }
    }
}

/// Returns why a ready replica refuses writes; `None` if it accepts them.
pub(super) fn warning(disk: DiskState) -> Option<&'static str> {
    match disk {
        DiskState::Healthy => None,
        DiskState::Low => Some("the disk is almost full, so writes are refused"),
        DiskState::Stalled => Some("the disk is stalled"),
    }
}

/// Returns this replica's row of `bowline admin --json status`, from what the replica itself knows.
fn status(context: &Context) -> Value {
    let role = if context.rejoining.is_some() {
        "rejoining"
    } else {
        match member_role(context) {
            "voter" => role_name(context.role),
            _ if context.leads() => role_name(context.role),
            other => other,
        }
    };
    let me = context.node(context.me);
    let peers = context.nodes.iter().filter(|node| node.id != context.me);
    json!({
        "id": context.me.0,
        "address": me.map(|me| address(&me.host, me.port)),
        "role": role,
        "leader": context.leader.map(|leader| leader.0),
        "members": context.members.configuration.members().len(),
        "term": context.term.0,
        "last_index": context.last_index.0,
        "durable_index": context.durable_index.0,
        "commit_index": context.commit_index.0,
        "applied_index": context.applied_index.0,
        "snapshot_index": context.snapshot.index.0,
        "digest_check_index": context.digest_comparison.as_ref().map_or(0, |it| it.index.0),
        "digest_check_result": digest_result(context.digest_comparison.as_ref()),
        "disk_free_bytes": context.disk_free,
        "disk": disk_name(context.disk),
        "version": env!("CARGO_PKG_VERSION"),
        "feature_level": FeatureLevel::NEWEST.number(),
        "cluster_feature_level": context.members.feature_level.number(),
        "peers": peers.map(peer).collect::<Vec<_>>(),
    })
}

/// Returns what this replica knows about a peer. Only the leader knows match indexes.
fn peer(node: &ReplicaInfo) -> Value {
    json!({
        "id": node.id.0,
        "address": address(&node.host, node.port),
        "connected": node.connected,
        "match_index": node.match_index.map(|index| index.0),
        "disk": node.match_index.map(|_| disk_name(node.disk)),
        "rtt_us": node.path.map(|path| path.round_trip_us),
        "loss_permille": node.path.map(|path| path.loss_permille),
    })
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use crate::runtime::server::http::metrics;

    const HTML: &str = include_str!("page/index.html");
    const CSS: &str = include_str!("page/page.css");
    const SCRIPT: &str = include_str!("page/page.js");

    /// Returns the texts between each `before` in `text` and the next quote.
    fn quoted_after<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
        let parts = text.split(before).skip(1);
        parts.map(|part| part.split('"').next().expect("a quote ends it")).collect()
    }

    #[test]
    fn live_page_script_uses_existing_elements_and_metrics() {
        let ids = quoted_after(HTML, " id=\"");
        let used = [quoted_after(SCRIPT, "byId(\""), quoted_after(SCRIPT, "new Chart(\"")].concat();
        assert!(used.len() > 20, "{used:?}");
        for id in used {
            assert!(ids.contains(&id), "{id} is not in index.html");
        }
        let known: Vec<String> = metrics().map(|it| it.name).collect();
        let calls = ["sum(metrics, \"", "rate(\"", "last.metrics, metrics, \"", "\n  [\""];
        let names: Vec<&str> = calls.iter().flat_map(|call| quoted_after(SCRIPT, call)).collect();
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            let name = format!("bowline_{name}");
            assert!(known.contains(&name), "{name} is not exported");
        }
    }

    #[test]
    fn live_page_loads_nothing_from_elsewhere() {
        for text in [HTML, CSS, SCRIPT] {
            let links = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!links.contains("://"), "a link to another address");
            assert!(!text.contains("innerHTML") && !text.contains("onclick"), "inline code");
        }
        assert!(!HTML.contains("<style") && !HTML.contains("style="), "inline styles");
    }
}
