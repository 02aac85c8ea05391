//! The simulated network between replicas: what becomes of each message on each link. It decides
//! and never delivers; the driver puts what arrives into the cluster's queue.

use std::time::Duration;

use crate::sim::rng::Rng;
use crate::types::{Instant, NodeId};

/// How a link treats what passes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkQuality {
    /// Lost, of a thousand.
    pub loss_permille: u32,
    /// Delivered twice, of a thousand.
    pub duplicate_permille: u32,
    /// Held back up to `late_max`, of a thousand; others overtake it.
    pub late_permille: u32,
    /// Shortest way.
    pub delay_min: Duration,
    /// Longest way of a message that is not late. Two messages drawn within are reordered freely.
    pub delay_max: Duration,
    /// Longest way of one that is late; more than an election, so that messages of old terms come.
    pub late_max: Duration,
}

impl LinkQuality {
    /// Everything arrives once, after `delay`, in order.
    pub const fn perfect(delay: Duration) -> LinkQuality {
        LinkQuality {
            loss_permille: 0,
            duplicate_permille: 0,
            late_permille: 0,
            delay_min: delay,
            delay_max: delay,
            late_max: delay,
        }
    }
}

/// What becomes of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The link is cut in this direction.
    Cut,
    /// It is lost.
    Lost,
    /// It arrives.
    Arrives {
        /// When.
        at: Instant,
        /// When a second copy arrives, if one does.
        again: Option<Instant>,
    },
}

/// All links between all replicas, each direction by itself.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    ids: Vec<NodeId>,
    quality: LinkQuality,
    /// Row: sender. Column: addressee.
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    /// Instead of the network's own quality.
    quality: Option<LinkQuality>,
}

impl Network {
    /// A network in which every link has this quality and none is cut.
    pub fn new(rng: Rng, ids: &[NodeId], quality: LinkQuality) -> Network {
        let links = vec![Link::default(); ids.len() * ids.len()];
        Network { rng, ids: ids.to_vec(), quality, links }
    }

    /// Decides about a message sent now.
    pub fn fate(&mut self, now: Instant, from: NodeId, to: NodeId) -> Fate {
        let link = *self.link(from, to);
        if link.cut {
            return Fate::Cut;
        }
        let quality = link.quality.unwrap_or(self.quality);
        if self.rng.chance(quality.loss_permille) {
            return Fate::Lost;
        }
        let at = now + self.way(&quality);
        let again = self.rng.chance(quality.duplicate_permille).then(|| now + self.way(&quality));
        Fate::Arrives { at, again }
    }

    fn way(&mut self, quality: &LinkQuality) -> Duration {
        let longest = if self.rng.chance(quality.late_permille) {
            quality.late_max
        } else {
            quality.delay_max
        };
        self.rng.span(quality.delay_min, longest)
    }

    /// Whether nothing passes in this direction.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.links[self.place(from, to)].cut
    }

    /// Cuts the link in one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = true;
    }

    /// Cuts all links between replicas of different groups, both ways. Who is in no group keeps
    /// its links.
    pub fn part(&mut self, groups: &[Vec<NodeId>]) {
        for (place, group) in groups.iter().enumerate() {
            for other in groups.iter().skip(place + 1) {
                for &one in group {
                    for &two in other {
                        self.cut(one, two);
                        self.cut(two, one);
                    }
                }
            }
        }
    }

    /// Takes back all cuts.
    pub fn heal(&mut self) {
        self.links.iter_mut().for_each(|link| link.cut = false);
    }

    /// Takes back the cut of one direction.
    pub fn heal_link(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = false;
    }

    /// Gives one direction of a link its own quality.
    pub fn set_link_quality(&mut self, from: NodeId, to: NodeId, quality: LinkQuality) {
        self.link(from, to).quality = Some(quality);
    }

    /// Gives every link this quality, those with their own too.
    pub fn set_quality(&mut self, quality: LinkQuality) {
        self.quality = quality;
        self.links.iter_mut().for_each(|link| link.quality = None);
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let place = self.place(from, to);
        &mut self.links[place]
    }

    fn place(&self, from: NodeId, to: NodeId) -> usize {
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
    fn cuts_have_a_direction_and_groups_do_not() {
        let mut network = network(LinkQuality::perfect(Duration::from_millis(1)));
        network.cut(NodeId(1), NodeId(2));
        assert_eq!(network.fate(Instant::ZERO, NodeId(1), NodeId(2)), Fate::Cut);
        assert_eq!(
            network.fate(Instant::ZERO, NodeId(2), NodeId(1)),
            Fate::Arrives { at: Instant(1_000_000), again: None }
        );
        network.heal();
        network.part(&[vec![NodeId(3)], vec![NodeId(1), NodeId(2)]]);
        assert!(network.is_cut(NodeId(3), NodeId(1)) && network.is_cut(NodeId(2), NodeId(3)));
        assert!(!network.is_cut(NodeId(1), NodeId(2)));
        network.heal_link(NodeId(3), NodeId(1));
        assert!(!network.is_cut(NodeId(3), NodeId(1)));
    }

    #[test]
    fn loss_repeats_and_delays_come_as_often_as_asked() {
        let quality = LinkQuality {
            loss_permille: 300,
            duplicate_permille: 100,
            late_permille: 50,
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(300),
            late_max: Duration::from_secs(1),
        };
        let mut network = network(quality);
        let (mut lost, mut repeated, mut late) = (0, 0, 0);
        for _ in 0..10_000 {
            match network.fate(Instant::ZERO, NodeId(1), NodeId(2)) {
                Fate::Cut => panic!("nothing is cut"),
                Fate::Lost => lost += 1,
                Fate::Arrives { at, again } => {
                    assert!(at >= Instant(100_000) && at <= Instant(1_000_000_000));
                    late += u32::from(at > Instant(300_000));
                    repeated += u32::from(again.is_some());
                }
            }
        }
        assert!((2_800..3_200).contains(&lost), "{lost} lost");
        assert!((600..800).contains(&repeated), "{repeated} repeated");
        assert!((280..420).contains(&late), "{late} late");
    }
}
