//! `FAILOVER`: transfers the leadership to another replica, or aborts the transfer.

use std::fmt;
use std::time::Duration;

use bytes::BytesMut;

use crate::kv::parse_integer;
use crate::redis::action::{Action, AdminRequest};
use crate::redis::call::Call;
use crate::redis::context::Context;
use crate::redis::session::reply_format::{ReplyFormat, ReplyKind};
use crate::redis::spec::{CommandSpec, command};
use crate::types::{NodeId, TransferRefusal, TransferRequest};
use crate::wire::resp::{Version, Writer};

/// The row of the command table for `FAILOVER`.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command("failover", -1, failover)
    .flags(&["admin", "noscript", "stale"])
    .categories(&["dangerous"])
    .since("6.2.0", "server")
    .costs("O(1)")
    .about("Transfers the leadership from this replica to another one.")];

/// Runs `FAILOVER [TO host port] [TIMEOUT milliseconds] | ABORT` on the leader. The reply is `OK`
/// once the transfer has begun, or a refusal. On a follower, returns an error that names the
/// leader.
fn failover(call: &mut Call<'_>) -> Action {
    let request = match parse(call) {
        Ok(request) => request,
        Err(error) => return call.error(&error),
    };
    if let Some(error) = refusal_by_follower(call.context, request) {
        return call.error(&error);
    }
    let version = call.writer.version();
    let reply_format = ReplyFormat { kind: ReplyKind::Plain, version, muted: false };
    Action::Administer { request: AdminRequest::Transfer(request), reply_format }
}

fn parse(call: &Call<'_>) -> Result<TransferRequest, &'static str> {
    let mut arguments = call.request.rest(1);
    let (mut target, mut timeout) = (None, None);
    if call.request.len() == 2 && call.argument(1).eq_ignore_ascii_case(b"abort") {
        return Ok(TransferRequest::Abort);
    }
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"force") {
            return Err("ERR FAILOVER FORCE is not supported: a replica that lacks a part of the \
                        log cannot become the leader");
        } else if option.eq_ignore_ascii_case(b"timeout") && timeout.is_none() {
            let millis = parse_integer(arguments.next().ok_or("ERR syntax error")?)
                .ok_or("ERR value is not an integer or out of range")?;
            let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0);
            let millis = millis.ok_or("ERR FAILOVER timeout must be greater than 0")?;
            timeout = Some(Duration::from_millis(millis));
        } else if option.eq_ignore_ascii_case(b"to") && target.is_none() {
            let (Some(host), Some(port)) = (arguments.next(), arguments.next()) else {
                return Err("ERR syntax error");
            };
            let port = parse_integer(port).ok_or("ERR value is not an integer or out of range")?;
            target = Some((host, port));
        } else {
            return Err("ERR syntax error");
        }
    }
    let target = target.map(|(host, port)| {
        let is_target = |host_there: &str, port_there: u16| {
            host_there.as_bytes().eq_ignore_ascii_case(host) && i64::from(port_there) == port
        };
        let found = call.context.nodes.iter().find(|node| is_target(&node.host, node.port));
        found.map(|node| node.id).ok_or(NOT_A_REPLICA)
    });
    Ok(TransferRequest::Start { target: target.transpose()?, timeout })
}

const NOT_A_REPLICA: &str = "ERR FAILOVER target HOST and PORT is not a replica.";
const NONE_IN_PROGRESS: &str = "ERR No failover in progress.";

/// Returns the error for a request to a replica that knows another leader; `None` if the consensus
/// core must decide.
fn refusal_by_follower(context: &Context, request: TransferRequest) -> Option<String> {
    if context.leads() || context.leader.is_none() {
        return None;
    }
    match request {
        TransferRequest::Abort => Some(NONE_IN_PROGRESS.to_owned()),
        TransferRequest::Start { .. } => Some(NotLeader(context).to_string()),
    }
}

/// The error of a replica that is not the leader.
struct NotLeader<'c>(&'c Context);

impl fmt::Display for NotLeader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ERR FAILOVER is not valid when server is a replica; ")?;
        match self.0.leader() {
            Some(leader) => write!(f, "send it to the leader, {}:{}", leader.host, leader.port),
            None => f.write_str("no leader is known"),
        }
    }
}

/// Writes the reply to `FAILOVER` from the answer of the consensus core, which is the target of the
/// transfer, or the reason why the request was refused.
pub(super) fn write_failover_reply(
    answer: Result<NodeId, TransferRefusal>,
    context: &Context,
    out: &mut BytesMut,
) {
    let mut writer = Writer::new(out, Version::Two);
    let text = match answer {
        Ok(_) => return writer.ok(),
        Err(TransferRefusal::NotLeader) => {
            return writer.error(NotLeader(context).to_string().as_bytes());
        }
        Err(TransferRefusal::AlreadyLeads | TransferRefusal::UnknownTarget) => NOT_A_REPLICA,
        Err(TransferRefusal::InProgress) => "ERR FAILOVER already in progress.",
        Err(TransferRefusal::NotInProgress) => NONE_IN_PROGRESS,
        Err(TransferRefusal::TargetVoteless) => {
            "ERR FAILOVER target replica has no vote, or is being removed."
        }
        Err(TransferRefusal::TargetWitness) => {
            "ERR FAILOVER target replica is a witness, which has no data."
        }
        Err(TransferRefusal::TargetSilent) => "ERR FAILOVER target replica is not online.",
        Err(TransferRefusal::TargetDisk) => {
            "ERR FAILOVER target replica's disk is stalled or low on space."
        }
        Err(TransferRefusal::TargetBehind) => {
            "ERR FAILOVER target replica lacks too much of the log; wait until it has caught up."
        }
        Err(TransferRefusal::NoTarget) => {
            "ERR FAILOVER requires connected replicas: none is online and has nearly the whole log."
        }
    };
    writer.error(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::context::ReplicaInfo;
    use crate::types::{DiskState, Instant};

    fn replica(id: u16) -> ReplicaInfo {
        ReplicaInfo {
            id: NodeId(id),
            host: "127.0.0.1".to_owned(),
            port: 7000 + id,
            peer_port: 8000 + id,
            connected: true,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
            program: None,
        }
    }

    #[test]
    fn failover_on_a_follower_names_the_leader() {
        let mut context = Context::alone(replica(1), 0, Instant::ZERO);
        context.nodes.push(replica(2));
        let start = TransferRequest::Start { target: None, timeout: None };
        assert_eq!(refusal_by_follower(&context, start), None, "the core decides");
        context.leader = Some(NodeId(2));
        let error = refusal_by_follower(&context, start).unwrap();
        assert!(error.ends_with("send it to the leader, 127.0.0.1:7002"), "{error}");
        let abort = refusal_by_follower(&context, TransferRequest::Abort);
        assert_eq!(abort.as_deref(), Some(NONE_IN_PROGRESS));
        context.leader = Some(NodeId(1));
        assert_eq!(refusal_by_follower(&context, start), None);
    }

    #[test]
    fn every_refusal_of_a_transfer_is_an_error_reply() {
        let context = Context::alone(replica(1), 0, Instant::ZERO);
        let reply = |answer| {
            let mut out = BytesMut::new();
            write_failover_reply(answer, &context, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(reply(Ok(NodeId(2))), "+OK\r\n");
        for refusal in [
            TransferRefusal::NotLeader,
            TransferRefusal::AlreadyLeads,
            TransferRefusal::InProgress,
            TransferRefusal::NotInProgress,
            TransferRefusal::UnknownTarget,
            TransferRefusal::TargetVoteless,
            TransferRefusal::TargetWitness,
            TransferRefusal::TargetSilent,
            TransferRefusal::TargetDisk,
            TransferRefusal::TargetBehind,
            TransferRefusal::NoTarget,
        ] {
            let text = reply(Err(refusal));
            assert!(text.starts_with("-ERR ") && text.ends_with("\r\n"), "{text}");
        }
    }
}
