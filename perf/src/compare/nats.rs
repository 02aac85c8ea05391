//! Setup of NATS's key-value store: the configuration of the servers, and the bucket.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Timeout of a request to a NATS server.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the configuration file for NATS server number `number`, which syncs every write to the
/// files in `folder`. `peers` are the addresses on which the servers reach each other.
pub(crate) fn config(
    number: usize,
    client: SocketAddr,
    peer: SocketAddr,
    peers: &[SocketAddr],
    folder: &Path,
) -> String {
    let routes: Vec<String> = peers.iter().map(|peer| format!("nats://{peer}")).collect();
    format!(
        "server_name: {name}\nlisten: \"{client}\"\n\
         jetstream {{\n  store_dir: {folder}\n  sync_interval: always\n}}\n\
         cluster {{\n  name: perf\n  listen: \"{peer}\"\n  routes: {routes}\n}}\n",
        name = server_name(number),
        folder = json!(folder.display().to_string()),
        routes = json!(routes),
    )
}

fn server_name(number: usize) -> String {
    format!("nats-{number}")
}

/// Creates the NATS key-value bucket to be measured, unless it exists, with one replica on each of
/// `servers` servers. Returns the index of the server that leads the bucket if all replicas are up
/// to date, otherwise `None`.
pub(crate) fn leader(client: SocketAddr, servers: usize) -> Option<usize> {
    let bucket = json!({
        "name": "KV_perf", "subjects": ["$KV.perf.>"], "num_replicas": servers,
        "max_msgs_per_subject": 1, "discard": "new", "storage": "file", "retention": "limits",
        "allow_direct": true, "allow_rollup_hdrs": true, "deny_delete": true,
    });
    let created = request(client, "$JS.API.STREAM.CREATE.KV_perf", &bucket.to_string()).ok()?;
    if created.get("error").is_some() {
        return None;
    }
    let info = request(client, "$JS.API.STREAM.INFO.KV_perf", "").ok()?;
    let cluster = &info["cluster"];
    let current = cluster["replicas"].as_array()?.iter().filter(|peer| peer["current"] == true);
    (current.count() + 1 == servers).then_some(())?;
    (0..servers).find(|number| cluster["leader"] == server_name(*number))
}

/// Sends a request to `JetStream`, the persistence layer of NATS, and returns its reply.
fn request(address: SocketAddr, subject: &str, body: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let inbox = format!("_INBOX.ready-{}", std::process::id());
    let text = format!(
        "CONNECT {{\"verbose\":false,\"lang\":\"bowline-perf\",\"version\":\"1\"}}\r\n\
         SUB {inbox} 1\r\nPUB {subject} {inbox} {}\r\n{body}\r\n",
        body.len()
    );
    stream.write_all(text.as_bytes())?;
    let mut received = Vec::new();
    let start = format!("\r\nMSG {inbox} 1 ");
    loop {
        if let Some(reply) = reply_after(&String::from_utf8_lossy(&received), &start) {
            return serde_json::from_str(&reply).map_err(io::Error::other);
        }
        let mut part = [0; 4096];
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&part[..count]);
    }
}

/// Returns the NATS message in `received` whose protocol line begins with `start`; `None` if that
/// message has not been completely received.
fn reply_after(received: &str, start: &str) -> Option<String> {
    let (_, message) = received.split_once(start)?;
    let (length, message) = message.split_once("\r\n")?;
    message.get(..length.parse().ok()?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_reply_is_returned_only_when_complete() {
        let text = "INFO {}\r\nMSG i 1 2\r\n{}\r\n";
        let found = |text: &str| reply_after(text, "\r\nMSG i 1 ");
        assert_eq!(found(text).as_deref(), Some("{}"));
        assert_eq!(found(&text[..text.len() - 3]), None);
        assert_eq!(found("INFO {}\r\nMSG j 1 2\r\n{}\r\n"), None);
    }

    #[test]
    fn nats_is_configured_to_sync_every_write() {
        let [client, peer] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = config(1, client, peer, &[peer], Path::new("/a \"b\""));
        assert!(text.contains("sync_interval: always") && text.contains("listen: \"127.0.0.1:2\""));
        assert!(text.contains("store_dir: \"/a \\\"b\\\"\""), "{text}");
    }
}
