//! The nftables rules with which a host drops arriving packets from other hosts: each packet at
//! random, or in bursts.
//!
//! For bursts, each path has a pattern: a random sequence of lost and delivered packets, with
//! exactly the given loss and mean length of the bursts. The kernel counts the packets of the path
//! and repeats the pattern. The lengths of the bursts and of the gaps between them are distributed
//! as in Gilbert's two-state model.

use std::net::Ipv4Addr;

use bowline::sim::rng::Rng;

use crate::report::to_count;

/// Resolution of the probability of a random loss: the number of steps from 0 to 1.
const LOSS_RESOLUTION: u32 = 100_000;
/// Number of packets after which the pattern of a path repeats.
const PATTERN_PACKETS: usize = 10_000;

/// Returns an nftables script that replaces all rules of a host with a chain of rules for arriving
/// packets, which contains only `rule`.
pub(super) fn reset(rule: &str) -> String {
    format!(
        "flush ruleset\ntable inet lossy {{\n  chain arrivals {{\n    \
         type filter hook input priority 0; policy accept;\n    {rule}\n  }}\n}}\n"
    )
}

/// Returns a rule that drops packets with the probability `loss`, except packets from `client`.
pub(super) fn random(client: Ipv4Addr, loss: f64) -> String {
    let steps = to_count(loss * f64::from(LOSS_RESOLUTION));
    format!("ip saddr != {client} numgen random mod {LOSS_RESOLUTION} < {steps} counter drop")
}

/// Returns an nftables script that adds a rule to the chain. The rule drops packets from `source`
/// in bursts of `mean` packets on average, so that the fraction `loss` of them is lost.
/// [`can_burst`] must return true for `loss` and `mean`.
pub(super) fn bursts(source: Ipv4Addr, loss: f64, mean: u32, rng: &mut Rng) -> String {
    let pattern = pattern(loss, mean, rng);
    let ranges: Vec<String> =
        pattern.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let ranges = ranges.join(", ");
    format!(
        "add rule inet lossy arrivals ip saddr {source} \
         numgen inc mod {PATTERN_PACKETS} {{ {ranges} }} counter drop"
    )
}

/// Returns whether the fraction `loss` of all packets can be lost in bursts of `mean` packets on
/// average, with at least one packet between two bursts.
pub(super) fn can_burst(loss: f64, mean: u32) -> bool {
    loss == 0.0 || {
        let (drops, bursts) = drops_and_bursts(loss, mean);
        (1..=PATTERN_PACKETS - drops).contains(&bursts)
    }
}

/// Returns the number of lost packets and the number of bursts in a pattern.
fn drops_and_bursts(loss: f64, mean: u32) -> (usize, usize) {
    let drops = to_count(loss * PATTERN_PACKETS as f64);
    (drops, to_count(drops as f64 / f64::from(mean)))
}

/// Returns the bursts of a random pattern, each as the indexes of its first and its last packet.
fn pattern(loss: f64, mean: u32, rng: &mut Rng) -> Vec<(usize, usize)> {
    let (drops, bursts) = drops_and_bursts(loss, mean);
    let gaps = split(PATTERN_PACKETS - drops, bursts, rng);
    let mut next = 0;
    let lengths = split(drops, bursts, rng).into_iter();
    gaps.into_iter()
        .zip(lengths)
        .map(|(gap, length)| {
            let first = next + gap;
            next = first + length;
            (first, next - 1)
        })
        .collect()
}

/// Splits `total` at random into `count` numbers that are at least 1. All ways to split it are
/// equally likely.
fn split(total: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    assert!((1..=total).contains(&count), "{total} into {count} numbers");
    let (mut numbers, mut begin) = (Vec::new(), 0);
    for end in 1..total {
        let ends = count - numbers.len() - 1;
        if rng.index(total - end) < ends {
            numbers.push(end - begin);
            begin = end;
        }
    }
    numbers.push(total - begin);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    #[test]
    fn simulated_packet_loss_spares_client_traffic() {
        let lossy = reset(&random(Ipv4Addr::new(10, 99, 0, 254), 0.125));
        assert!(lossy.contains("ip saddr != 10.99.0.254 numgen random mod 100000 < 12500"));
        assert!(!reset("").contains("drop") && reset("").contains("flush ruleset"));
    }

    #[test]
    fn packet_loss_bursts_match_the_configured_rate_and_length() {
        let mut rng = Rng::new(1);
        for (loss, mean) in [(0.2, 4), (0.01, 4), (0.5, 2), (0.8, 4), (0.2, 1)] {
            let found = pattern(loss, mean, &mut rng);
            let lengths: Vec<usize> = found.iter().map(|(first, last)| last - first + 1).collect();
            let (drops, _) = drops_and_bursts(loss, mean);
            assert_eq!((lengths.iter().sum(), lengths.len() * mean as usize), (drops, drops));
            assert!(found.iter().is_sorted_by(|one, other| one.1 + 1 < other.0), "no gap");
            assert!(found.last().is_some_and(|(_, last)| *last < PATTERN_PACKETS));
            let longest = lengths.iter().max();
            assert_eq!(longest > Some(&(mean as usize)), mean > 1, "all have the same length");
        }
        let script = bursts(SOURCE, 0.2, 4, &mut rng);
        assert!(script.contains("ip saddr 10.99.0.2 numgen inc mod 10000 { "), "{script}");
        assert_ne!(script, bursts(SOURCE, 0.2, 4, &mut rng), "the paths have the same pattern");
    }

    #[test]
    fn loss_rate_impossible_with_the_burst_length_is_rejected() {
        assert!(can_burst(0.0, 4) && can_burst(0.8, 4) && can_burst(0.2, 1_000));
        assert!(!can_burst(0.9, 4) && !can_burst(0.001, 1_000));
    }
}
