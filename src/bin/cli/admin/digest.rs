//! `bowline admin digest`: compares the states of all replicas at one log index.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::EXIT_FAILED;
use super::replicas::{Info, Replicas};

/// Exit code if the digests differ.
const EXIT_DIFFERENT: u8 = 2;
/// Maximum time to find an index for which all replicas report their digest.
const SEARCH_MAX: Duration = Duration::from_secs(10);
/// Interval at which the replicas are polled.
const INTERVAL: Duration = Duration::from_millis(100);

/// The digests of all replicas at one log index, by replica id.
struct Compared {
    index: u64,
    digests: BTreeMap<u16, String>,
}

/// Compares the digests of all replicas that respond, at the highest index for which all of them
/// report one. Returns [`EXIT_DIFFERENT`] if they differ, otherwise [`EXIT_FAILED`] if a replica
/// does not respond.
pub(super) fn run(address: &str, json: bool) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + SEARCH_MAX;
    let mut known: BTreeMap<u16, BTreeMap<u64, String>> = BTreeMap::new();
    loop {
        let replicas = Replicas::ask(address)?;
        let answering: BTreeSet<u16> = replicas.answering().map(|(it, _)| it.id).collect();
        // A witness has no state.
        for (replica, info) in replicas.answering().filter(|(_, info)| !info.is_witness()) {
            known.entry(replica.id).or_default().extend(digests(info));
        }
        known.retain(|id, _| answering.contains(id));
        let is_last = Instant::now() >= until;
        if let Some(compared) = compare(&known) {
            let missing = replicas.member_count - answering.len();
            let leader = replicas.leader().and_then(|leader| leader.info.as_ref().ok());
            if let Some(comparison) = leader.and_then(Info::comparison).filter(|_| !json) {
                println!("{comparison}");
            }
            return Ok(report(&compared, missing, json));
        }
        if is_last {
            let newest = |digests: &BTreeMap<u64, String>| digests.keys().last().copied();
            let applied: Vec<String> = known
                .iter()
                .map(|(id, digests)| format!("{id}: {}", newest(digests).unwrap_or(0)))
                .collect();
            anyhow::bail!(
                "no index at which all replicas report their digest within {SEARCH_MAX:?}; last \
                 applied: {}",
                applied.join(", ")
            );
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns the digests that a replica reports, by log index.
fn digests(info: &Info) -> Vec<(u64, String)> {
    let marks = info.text("raft_digest_marks").unwrap_or_default();
    let marks = marks.split(',').filter_map(|mark| mark.split_once('='));
    let mut digests: Vec<(u64, String)> =
        marks.filter_map(|(at, digest)| Some((at.parse().ok()?, digest.to_owned()))).collect();
    if let (Some(index), Some(digest)) =
        (info.number("raft_applied_index"), info.text("raft_state_digest"))
    {
        digests.push((index, digest.to_owned()));
    }
    digests
}

/// Returns the digests at the highest index that all replicas in `known` report; `None` if there is
/// no such index.
fn compare(known: &BTreeMap<u16, BTreeMap<u64, String>>) -> Option<Compared> {
    let first = known.values().next()?;
    let is_common = |index: &&u64| known.values().all(|digests| digests.contains_key(index));
    let index = *first.keys().rev().find(is_common)?;
    let digests = known.iter().map(|(id, digests)| (*id, digests[&index].clone())).collect();
    Some(Compared { index, digests })
}

/// Returns the ids of the replicas whose digest is not that of the largest group; all replicas if
/// there is no single largest group. Empty if all digests are equal.
fn differing(digests: &BTreeMap<u16, String>) -> Vec<u16> {
    let mut groups: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for (id, digest) in digests {
        groups.entry(digest).or_default().push(*id);
    }
    if groups.len() <= 1 {
        return Vec::new();
    }
    let largest = groups.values().map(Vec::len).max().unwrap_or(0);
    let is_single = groups.values().filter(|ids| ids.len() == largest).count() == 1;
    let differs = |ids: &&Vec<u16>| !is_single || ids.len() < largest;
    let mut ids: Vec<u16> = groups.values().filter(differs).flatten().copied().collect();
    ids.sort_unstable();
    ids
}

fn report(compared: &Compared, missing: usize, json: bool) -> ExitCode {
    let Compared { index, digests } = compared;
    let different = differing(digests);
    if json {
        let by_id: BTreeMap<String, &String> =
            digests.iter().map(|(id, digest)| (id.to_string(), digest)).collect();
        let document: Value = json!({
            "index": index, "digests": by_id, "different": different, "missing": missing,
        });
        println!("{document:#}");
    } else {
        for (id, digest) in digests {
            println!("replica {id}: digest {digest} at entry {index}");
        }
    }
    if !different.is_empty() {
        let ids: Vec<String> = different.iter().map(u16::to_string).collect();
        eprintln!("bowline: the states differ at entry {index}: replicas {}", ids.join(", "));
        return ExitCode::from(EXIT_DIFFERENT);
    }
    if missing > 0 {
        eprintln!("bowline: {missing} replicas do not answer, so they were not compared");
        return ExitCode::from(EXIT_FAILED);
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(replicas: &[(u16, &[(u64, &str)])]) -> BTreeMap<u16, BTreeMap<u64, String>> {
        let digests = |list: &[(u64, &str)]| {
            list.iter().map(|(index, digest)| (*index, (*digest).to_owned())).collect()
        };
        replicas.iter().map(|(id, list)| (*id, digests(list))).collect()
    }

    #[test]
    fn digests_are_compared_at_the_highest_common_index() {
        let two = known(&[(1, &[(256, "a"), (300, "b")]), (2, &[(256, "a"), (301, "c")])]);
        let compared = compare(&two).unwrap();
        assert_eq!((compared.index, differing(&compared.digests)), (256, vec![]));
        assert!(compare(&known(&[(1, &[(256, "a")]), (2, &[(512, "a")])])).is_none());
    }

    #[test]
    fn replicas_outside_the_largest_group_are_named() {
        let at = |digests: &[&str]| {
            let digests = (1..).zip(digests.iter().map(|digest| (*digest).to_owned()));
            differing(&digests.collect())
        };
        assert_eq!(at(&["a", "a", "a"]), Vec::<u16>::new());
        assert_eq!(at(&["a", "b", "a"]), vec![2]);
        assert_eq!(at(&["a", "b"]), vec![1, 2]);
        assert_eq!(at(&["a", "b", "c", "a", "a"]), vec![2, 3]);
    }
}
