//! The simulated network between replicas: decides whether and when each message arrives. The
//! driver of the simulation then delivers the message through the cluster's event queue.

use std::time::Duration;

use crate::sim::rng::Rng;
use crate::types::{Instant, NodeId};

/// Message loss, duplication and delay on a network link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkQuality {
    /// Probability that a message is lost, in permille.
    pub loss_permille: u32,
    /// Probability, in permille, that a message is lost if the previous one on its link was lost; 0
    /// if losses are independent.
    pub burst_permille: u32,
    /// Probability that a message is duplicated, in permille.
    pub duplicate_permille: u32,
    /// Probability, in permille, that a message is late: delayed by up to `late_max`. Later
    /// messages may overtake a late one.
    pub late_permille: u32,
    /// Minimum delay of a message.
    pub delay_min: Duration,
    /// Maximum delay of a message that is not late. Each delay is drawn independently, so messages
    /// sent shortly after one another may be reordered.
    pub delay_max: Duration,
    /// Maximum delay of a late message. It should exceed the duration of an election, so that
    /// messages of old terms arrive.
    pub late_max: Duration,
}

impl LinkQuality {
    /// Returns the quality of a perfect link, which delivers each message exactly once, in order,
    /// after `delay`.
    pub const fn perfect(delay: Duration) -> LinkQuality {
        LinkQuality {
            loss_permille: 0,
            burst_permille: 0,
            duplicate_permille: 0,
            late_permille: 0,
            delay_min: delay,
            delay_max: delay,
            late_max: delay,
        }
    }
}

/// What happens to a message on the network: whether and when it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The message is lost because its link is cut in this direction.
    Cut,
    /// The message is lost by random message loss.
    Lost,
    /// The message arrives, possibly twice.
    Arrives {
        /// Virtual time at which the message arrives.
        at: Instant,
        /// Virtual time at which a duplicate of the message arrives; `None` if there is no
        /// duplicate.
        duplicate_at: Option<Instant>,
    },
}

/// The simulated network: the link from each replica to each other one, and the random number
/// generator that decides the fate of messages.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    ids: Vec<NodeId>,
    quality: LinkQuality,
    /// The links as a matrix in row-major order: a row per sender, a column per receiver.
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    /// Whether the last message was lost at random.
    was_lost: bool,
    /// Message loss, duplication and delay on this link; `None` if the network's default applies.
    quality: Option<LinkQuality>,
}

impl Network {
    /// Creates a network in which all links have this quality and none is cut.
    pub fn new(rng: Rng, ids: &[NodeId], quality: LinkQuality) -> Network {
        let links = vec![Link::default(); ids.len() * ids.len()];
        Network { rng, ids: ids.to_vec(), quality, links }
    }

    /// Decides whether and when a message sent at time `now` arrives.
    pub fn fate(&mut self, now: Instant, from: NodeId, to: NodeId) -> Fate {
        let link = *self.link(from, to);
        if link.cut {
            return Fate::Cut;
        }
        let quality = link.quality.unwrap_or(self.quality);
        let in_burst = link.was_lost && quality.burst_permille > 0;
        let loss_permille = if in_burst { quality.burst_permille } else { quality.loss_permille };
        let is_lost = self.rng.permille(loss_permille);
        self.link(from, to).was_lost = is_lost;
        if is_lost {
            return Fate::Lost;
        }
        let at = now + self.delay(&quality);
        let duplicate_at =
            self.rng.permille(quality.duplicate_permille).then(|| now + self.delay(&quality));
        Fate::Arrives { at, duplicate_at }
    }

    fn delay(&mut self, quality: &LinkQuality) -> Duration {
        let longest = if self.rng.permille(quality.late_permille) {
            quality.late_max
        } else {
            quality.delay_max
        };
        self.rng.duration(quality.delay_min, longest)
    }

    /// Returns whether the link from `from` to `to` is cut.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.links[self.slot(from, to)].cut
    }

    /// Cuts the link from `from` to `to`, in this direction only.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = true;
    }

    /// Partitions the network: cuts all links between replicas of different groups, in both
    /// directions. Does not change links of replicas that are in no group.
    pub fn part(&mut self, groups: &[Vec<NodeId>]) {
        for (position, group) in groups.iter().enumerate() {
            for other in groups.iter().skip(position + 1) {
                for &a in group {
                    for &b in other {
                        self.cut(a, b);
                        self.cut(b, a);
                    }
                }
            }
        }
    }

    /// Heals all cut links.
    pub fn heal(&mut self) {
        self.links.iter_mut().for_each(|link| link.cut = false);
    }

    /// Heals the link from `from` to `to`, in this direction only.
    pub fn heal_link(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = false;
    }

    /// Sets the quality of the link from `from` to `to`.
    pub fn set_link_quality(&mut self, from: NodeId, to: NodeId, quality: LinkQuality) {
        self.link(from, to).quality = Some(quality);
    }

    /// Sets the quality of all links, replacing qualities that were set for single links.
    pub fn set_quality(&mut self, quality: LinkQuality) {
        self.quality = quality;
        self.links.iter_mut().for_each(|link| link.quality = None);
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let slot = self.slot(from, to);
        &mut self.links[slot]
    }

    fn slot(&self, from: NodeId, to: NodeId) -> usize {
        let of = |id| self.ids.iter().position(|&known| known == id).expect("a replica of the run");
        of(from) * self.ids.len() + of(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn network(quality: LinkQuality) -> Network {
        Network::new(Rng::new(1), &IDS, quality)
    }

    #[test]
    fn simulated_link_cuts_are_one_way_and_partitions_two_way() {
        let mut network = network(LinkQuality::perfect(Duration::from_millis(1)));
        network.cut(NodeId(1), NodeId(2));
        assert_eq!(network.fate(Instant::ZERO, NodeId(1), NodeId(2)), Fate::Cut);
        assert_eq!(
            network.fate(Instant::ZERO, NodeId(2), NodeId(1)),
            Fate::Arrives { at: Instant(1_000_000), duplicate_at: None }
        );
        network.heal();
        network.part(&[vec![NodeId(3)], vec![NodeId(1), NodeId(2)]]);
        assert!(network.is_cut(NodeId(3), NodeId(1)) && network.is_cut(NodeId(2), NodeId(3)));
        assert!(!network.is_cut(NodeId(1), NodeId(2)));
        network.heal_link(NodeId(3), NodeId(1));
        assert!(!network.is_cut(NodeId(3), NodeId(1)));
    }

    #[test]
    fn simulated_loss_duplication_and_delay_match_their_rates() {
        let quality = LinkQuality {
            loss_permille: 300,
            burst_permille: 0,
            duplicate_permille: 100,
            late_permille: 50,
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(300),
            late_max: Duration::from_secs(1),
        };
        let mut network = network(quality);
        let (mut lost, mut duplicated, mut late) = (0, 0, 0);
        for _ in 0..10_000 {
            match network.fate(Instant::ZERO, NodeId(1), NodeId(2)) {
                Fate::Cut => panic!("no link is cut"),
                Fate::Lost => lost += 1,
                Fate::Arrives { at, duplicate_at } => {
                    assert!(at >= Instant(100_000) && at <= Instant(1_000_000_000));
                    late += u32::from(at > Instant(300_000));
                    duplicated += u32::from(duplicate_at.is_some());
                }
            }
        }
        assert!((2_800..3_200).contains(&lost), "{lost} lost");
        assert!((600..800).contains(&duplicated), "{duplicated} duplicated");
        assert!((280..420).contains(&late), "{late} late");
    }

    #[test]
    fn simulated_message_losses_come_in_bursts() {
        let quality = LinkQuality {
            loss_permille: 100,
            burst_permille: 750,
            ..LinkQuality::perfect(Duration::from_millis(1))
        };
        let mut network = network(quality);
        let mut lost = |from, to| network.fate(Instant::ZERO, from, to) == Fate::Lost;
        let losses: Vec<bool> = (0..10_000)
            .map(|_| {
                // The other direction has bursts of its own.
                lost(NodeId(2), NodeId(1));
                lost(NodeId(1), NodeId(2))
            })
            .collect();
        let count = losses.iter().filter(|lost| **lost).count();
        let pairs = losses.windows(2).filter(|pair| pair[0] && pair[1]).count();
        // A loss of 10 % begins a burst of four on average.
        assert!((2_500..3_200).contains(&count), "{count} lost");
        assert!((700..800).contains(&(pairs * 1_000 / count)), "{pairs} pairs of {count}");
    }
}
