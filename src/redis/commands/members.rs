//! `MEMBERS`: shows and changes the members of the cluster.
//!
//! A change is answered when its first configuration is committed. If that is a joint one, the
//! leader, or a later one, then completes the change.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use crate::kv::parse_integer;
use crate::membership::{ChangeRefusal, MemberChange, MemberRole, Promotion, is_address};
use crate::redis::action::{Action, AdminRequest, MembersOutcome};
use crate::redis::call::Call;
use crate::redis::context::{Context, MembersInfo};
use crate::redis::session::reply_format::{ReplyFormat, ReplyKind};
use crate::redis::spec::{CommandSpec, subcommand};
use crate::types::{Index, NodeId};
use crate::wire::resp::{Version, Writer};

use super::help::{container, help_row};

/// Row of the command table for `MEMBERS` (name, arity, flags, documentation and function), with
/// its subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("members")
    .since("0.1.0", "server")
    .about("Commands for cluster membership. Changes are answered when they are committed.")
    .with(MEMBERS)];

const MEMBERS: &[CommandSpec] = &[
    row("add", "members|add", -4, add)
        .about("Adds a learner: id host:port [WITNESS] [PROMOTE] [REPLACING id] [DRYRUN]."),
    row("demote", "members|demote", -3, demote).about("Demotes a voter to a learner: id [DRYRUN]."),
    help_row("members|help").since("0.1.0", "server"),
    subcommand("list", "members|list", 2, list)
        .flags(&["stale"])
        .since("0.1.0", "server")
        .costs("O(N), N being the number of members")
        .about("Returns the members as text, one per line."),
    row("promote", "members|promote", -3, promote)
        .about("Promotes a learner that has caught up to a voter: id [DRYRUN]."),
    row("remove", "members|remove", -3, remove).about("Removes a member: id [DRYRUN]."),
];

const fn row(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run)
        .flags(&["admin", "noscript", "stale"])
        .categories(&["dangerous"])
        .since("0.1.0", "server")
        .costs("O(N), N being the number of members")
}

const SYNTAX: &str = "ERR syntax error";
const UNCERTAIN: &str = "UNCERTAIN the leader changed before the membership change was committed; \
                         it may or may not have been made, check with MEMBERS LIST";

/// Runs `MEMBERS LIST`.
fn list(call: &mut Call<'_>) -> Action {
    let text = members_text(&call.context.members, call.context);
    call.writer.bulk(text.as_bytes());
    Action::Reply
}

/// Runs `MEMBERS ADD id host:port [WITNESS] [PROMOTE] [REPLACING id] [DRYRUN]`.
fn add(call: &mut Call<'_>) -> Action {
    match parse_add(call) {
        Ok((change, dry_run)) => request(call, change, dry_run),
        Err(error) => call.error(&error),
    }
}

fn parse_add(call: &Call<'_>) -> Result<(MemberChange, bool), &'static str> {
    let id = parse_id(call.argument(2))?;
    let address = call.argument(3);
    if !is_address(address) {
        return Err("ERR the address for peers must be host:port");
    }
    let address = Bytes::copy_from_slice(address);
    let (mut is_automatic, mut replaces, mut dry_run) = (false, None, false);
    let mut is_witness = false;
    let mut arguments = call.request.rest(4);
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"promote") && !is_automatic {
            is_automatic = true;
        } else if option.eq_ignore_ascii_case(b"witness") && !is_witness {
            is_witness = true;
        } else if option.eq_ignore_ascii_case(b"replacing") && replaces.is_none() {
            replaces = Some(parse_id(arguments.next().ok_or(SYNTAX)?)?);
        } else if option.eq_ignore_ascii_case(b"dryrun") && !dry_run {
            dry_run = true;
        } else {
            return Err(SYNTAX);
        }
    }
    let promotion = if is_automatic || replaces.is_some() {
        Promotion::Automatic { replaces }
    } else {
        Promotion::Manual
    };
    Ok((MemberChange::AddLearner { id, promotion, is_witness, address }, dry_run))
}

/// Runs `MEMBERS PROMOTE id [DRYRUN]`.
fn promote(call: &mut Call<'_>) -> Action {
    run_change(call, MemberChange::Promote)
}

/// Runs `MEMBERS DEMOTE id [DRYRUN]`.
fn demote(call: &mut Call<'_>) -> Action {
    run_change(call, MemberChange::Demote)
}

/// Runs `MEMBERS REMOVE id [DRYRUN]`.
fn remove(call: &mut Call<'_>) -> Action {
    run_change(call, MemberChange::Remove)
}

fn run_change(call: &mut Call<'_>, change: fn(NodeId) -> MemberChange) -> Action {
    let mut options = call.request.rest(3);
    let dry_run = match (options.next(), options.next()) {
        (None, _) => false,
        (Some(option), None) if option.eq_ignore_ascii_case(b"dryrun") => true,
        _ => return call.error(&SYNTAX),
    };
    match parse_id(call.argument(2)) {
        Ok(id) => request(call, change(id), dry_run),
        Err(error) => call.error(&error),
    }
}

/// Requests the change from the consensus core. A follower that knows the leader returns an error
/// with the leader's address instead.
fn request(call: &mut Call<'_>, change: MemberChange, dry_run: bool) -> Action {
    let context = call.context;
    if context.leader.is_some() && !context.leads() {
        let error = not_leader(context);
        return call.error(&error);
    }
    let request = AdminRequest::ChangeMembers { changes: vec![change], dry_run };
    let version = call.writer.version();
    let reply_format = ReplyFormat { kind: ReplyKind::Plain, version, muted: false };
    Action::Administer { request, reply_format }
}

fn parse_id(text: &[u8]) -> Result<NodeId, &'static str> {
    let id = parse_integer(text).and_then(|id| u16::try_from(id).ok());
    let is_possible = |id: &u16| (1..u16::MAX).contains(id);
    id.filter(is_possible).map(NodeId).ok_or("ERR a replica id must be a number from 1 to 65534")
}

fn not_leader(context: &Context) -> String {
    match context.leader() {
        Some(leader) => format!(
            "ERR only the leader can change the members; send the command to {}:{}",
            leader.host, leader.port
        ),
        None => "ERR only the leader can change the members, and no leader is known; try again"
            .to_owned(),
    }
}

/// Writes the reply to a membership change: the members, or an error. After a change, these are the
/// members in its first configuration, which is committed; after a dry run, those that would
/// result.
pub(in crate::redis) fn write_members_reply(
    outcome: MembersOutcome,
    context: &Context,
    out: &mut BytesMut,
) {
    let mut writer = Writer::new(out, Version::Two);
    let (index, is_committed, configuration) = match outcome {
        MembersOutcome::Planned(plan) => (Index::ZERO, false, plan.result),
        MembersOutcome::Committed(index, plan) => (index, true, plan.next),
        MembersOutcome::Refused(ChangeRefusal::NotLeader { .. }) => {
            return writer.error(not_leader(context).as_bytes());
        }
        MembersOutcome::Refused(refusal) => {
            return writer.error(format!("ERR {refusal}").as_bytes());
        }
        MembersOutcome::Uncertain => return writer.error(UNCERTAIN.as_bytes()),
    };
    let feature_level = context.members.feature_level;
    let info = MembersInfo { index, is_committed, configuration, feature_level };
    writer.bulk(members_text(&info, context).as_bytes());
}

/// Formats the members as lines of the form `name:value`: first fields about the membership as a
/// whole, then one line per member. What is known of their programs is in `context`.
fn members_text(info: &MembersInfo, context: &Context) -> String {
    let MembersInfo { index, is_committed, configuration, feature_level } = info;
    let mut text = String::new();
    let fields = [
        ("members_index", index.0),
        ("members_committed", u64::from(*is_committed)),
        ("members_changing", u64::from(configuration.is_joint())),
        ("members_failures_survived", configuration.failures_survived() as u64),
        ("members_last_id", configuration.last_id().0.into()),
        ("members_feature_level", feature_level.number().into()),
    ];
    for (name, value) in fields {
        write!(text, "{name}:{value}\r\n").expect("writing to a string succeeds");
    }
    for (id, member) in configuration.members() {
        let (role, promotion) = match member.role {
            MemberRole::Voter => ("voter", None),
            MemberRole::Leaving => ("leaving", None),
            MemberRole::Learner(promotion) => ("learner", Some(promotion)),
        };
        let address = String::from_utf8_lossy(&member.address);
        write!(text, "member_{}:role={role},address={address}", id.0)
            .expect("writing to a string succeeds");
        if member.is_witness {
            text.push_str(",witness=1");
        }
        if let Some(Promotion::Automatic { replaces }) = promotion {
            text.push_str(",promotion=automatic");
            if let Some(old) = replaces {
                write!(text, ",replaces={}", old.0).expect("writing to a string succeeds");
            }
        }
        if let Some(program) = context.node(*id).and_then(|node| node.program.as_ref()) {
            write!(text, ",{program}").expect("writing to a string succeeds");
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::membership::Configuration;
    use crate::redis::{ProgramInfo, ReplicaInfo};
    use crate::types::{DiskState, Instant};

    #[test]
    fn members_are_listed_with_role_address_and_promotion() {
        let created = Configuration::of_voters([1, 2, 3].map(NodeId));
        let promotion = Promotion::Automatic { replaces: Some(NodeId(2)) };
        let address = Bytes::from_static(b"db4:7000");
        let is_witness = false;
        let change = MemberChange::AddLearner { id: NodeId(4), promotion, is_witness, address };
        let configuration = created.plan(&[change]).unwrap();
        let feature_level = FeatureLevel::V0_2;
        let info =
            MembersInfo { index: Index(9), is_committed: true, configuration, feature_level };
        let program = ProgramInfo { version: "0.2.0".to_owned(), level: feature_level };
        let node = ReplicaInfo {
            id: NodeId(2),
            host: String::new(),
            port: 1,
            peer_port: 2,
            connected: true,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
            program: Some(program),
        };
        let text = members_text(&info, &Context::alone(node, 0, Instant::ZERO));
        let expected = "members_index:9\r\nmembers_committed:1\r\nmembers_changing:0\r\n\
                        members_failures_survived:1\r\nmembers_last_id:4\r\n\
                        members_feature_level:2\r\nmember_1:role=voter,address=\r\n\
                        member_2:role=voter,address=,version=0.2.0,level=2\r\n\
                        member_3:role=voter,address=\r\n\
                        member_4:role=learner,address=db4:7000,promotion=automatic,replaces=2\r\n";
        assert_eq!(text, expected);
    }
}
