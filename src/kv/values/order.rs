//! Members in the order of their scores, each at a place that can be told and asked for: a tree
//! of leaves in which each branch counts what is below it.
//!
//! All ways are as long as the tree is high: about log32 of the number of members. Nodes are
//! shared with copies of the tree until one is changed: then its way to the root is copied.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Most members of a leaf, and most children of a branch.
const FULL: usize = 64;
/// Neighbours that have no more together become one. So much below [`FULL`] that the next few to
/// come don't split it again.
const MERGED_MAX: usize = 48;

/// A member and its score, which is a number.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kv) struct Scored {
    pub(in crate::kv) score: f64,
    pub(in crate::kv) member: Bytes,
}

impl Scored {
    /// By score, and by bytes where scores are equal, as 0 and -0 are.
    pub(in crate::kv) fn compare(&self, score: f64, member: &[u8]) -> Ordering {
        let by_score = self.score.partial_cmp(&score).expect("a score is a number");
        by_score.then_with(|| self.member[..].cmp(member))
    }
}

/// The order.
#[derive(Debug, Clone)]
pub(in crate::kv) struct Order {
    len: usize,
    root: Node,
}

/// Invariant: all leaves are equally deep; no node but the root is empty, and no two neighbours
/// under one branch fit into one of [`MERGED_MAX`] once either has lost a member.
#[derive(Debug, Clone)]
enum Node {
    Leaf(Vec<Scored>),
    Branch(Vec<Child>),
}

/// Invariant: `len` members are below, none before `least`, and all in the children before this one
/// are. `least` itself may have gone.
#[derive(Debug, Clone)]
struct Child {
    len: usize,
    least: Scored,
    node: Arc<Node>,
}

impl Default for Order {
    fn default() -> Order {
        Order { len: 0, root: Node::Leaf(Vec::new()) }
    }
}

impl Order {
    /// Puts in a member that is not there.
    pub(in crate::kv) fn insert(&mut self, scored: Scored) {
        self.len += 1;
        if let Some(right) = self.root.insert(scored) {
            let left = std::mem::replace(&mut self.root, Node::Branch(Vec::with_capacity(FULL)));
            let Node::Branch(children) = &mut self.root else { unreachable!("it was made one") };
            children.extend([Child::of(left), right]);
        }
    }

    /// Takes out a member that is there with that score.
    pub(in crate::kv) fn remove(&mut self, score: f64, member: &[u8]) {
        self.root.remove(score, member);
        self.len -= 1;
        while let Node::Branch(children) = &mut self.root
            && children.len() == 1
        {
            let only = children.pop().expect("there is one");
            self.root = Arc::unwrap_or_clone(only.node);
        }
    }

    /// How many members are before that one, which is there with that score.
    pub(in crate::kv) fn place(&self, score: f64, member: &[u8]) -> usize {
        self.count_while(|scored| scored.compare(score, member).is_lt())
    }

    /// How many members, from the first on, are so; none that is may be behind one that is not.
    pub(in crate::kv) fn count_while(&self, is_so: impl Fn(&Scored) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(members) => return before + members.partition_point(is_so),
                Node::Branch(children) => {
                    let child = child_with(children, &is_so);
                    before += children[..child].iter().map(|child| child.len).sum::<usize>();
                    node = &children[child].node;
                }
            }
        }
    }

    /// The members at those places, which are in range; their order may be turned round.
    pub(in crate::kv) fn range(
        &self,
        places: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = &Scored> + ExactSizeIterator {
        debug_assert!(places.start <= places.end && places.end <= self.len);
        let (front, back) = (Default::default(), Default::default());
        Members { order: self, places, front, back }
    }

    /// The member at that place.
    pub(in crate::kv) fn get(&self, place: usize) -> Option<&Scored> {
        let (leaf, start) = (place < self.len).then(|| self.leaf_at(place))?;
        leaf.get(place - start)
    }

    /// The leaf with that place, which is in range, and the place of its first member.
    fn leaf_at(&self, place: usize) -> (&[Scored], usize) {
        let (mut node, mut start) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(members) => return (members, start),
                Node::Branch(children) => {
                    let child = children.iter().find(|child| {
                        let is_in = place - start < child.len;
                        start += if is_in { 0 } else { child.len };
                        is_in
                    });
                    node = &child.expect("a child has the place").node;
                }
            }
        }
    }
}

/// Which child the first member is in that is not so; the last one of which it is known that all
/// before it are.
fn child_with(children: &[Child], is_so: impl Fn(&Scored) -> bool) -> usize {
    children[1..].partition_point(|child| is_so(&child.least))
}

impl Child {
    /// Of a node that is not empty.
    fn of(node: Node) -> Child {
        let (len, least) = match &node {
            Node::Leaf(members) => (members.len(), members[0].clone()),
            Node::Branch(children) => {
                (children.iter().map(|child| child.len).sum(), children[0].least.clone())
            }
        };
        Child { len, least, node: Arc::new(node) }
    }
}

impl Node {
    fn width(&self) -> usize {
        match self {
            Node::Leaf(members) => members.len(),
            Node::Branch(children) => children.len(),
        }
    }

    /// Puts a member in; the right half, if it has been split.
    fn insert(&mut self, scored: Scored) -> Option<Child> {
        match self {
            Node::Leaf(members) => {
                let is_before =
                    |there: &Scored| there.compare(scored.score, &scored.member).is_lt();
                let place = members.partition_point(is_before);
                // What comes in order leaves full leaves behind.
                let at = if place == FULL { FULL - FULL / 8 } else { FULL / 2 };
                members.insert(place, scored);
                split(members, at).map(|right| Child::of(Node::Leaf(right)))
            }
            Node::Branch(children) => {
                let is_before =
                    |there: &Scored| there.compare(scored.score, &scored.member).is_le();
                let place = child_with(children, is_before);
                let child = &mut children[place];
                child.len += 1;
                if place == 0 && child.least.compare(scored.score, &scored.member).is_gt() {
                    child.least = scored.clone();
                }
                let right = Arc::make_mut(&mut child.node).insert(scored)?;
                child.len -= right.len;
                children.insert(place + 1, right);
                let at = if place + 2 == children.len() { FULL - FULL / 8 } else { FULL / 2 };
                split(children, at).map(|right| Child::of(Node::Branch(right)))
            }
        }
    }

    /// Takes out a member that is there.
    fn remove(&mut self, score: f64, member: &[u8]) {
        match self {
            Node::Leaf(members) => {
                let is_it = |there: &Scored| there.compare(score, member);
                let place = members.binary_search_by(is_it).expect("the member is there");
                members.remove(place);
            }
            Node::Branch(children) => {
                let place = child_with(children, |there| there.compare(score, member).is_le());
                let child = &mut children[place];
                Arc::make_mut(&mut child.node).remove(score, member);
                child.len -= 1;
                if child.len == 0 {
                    children.remove(place);
                    return;
                }
                let width = child.node.width();
                let fits = |other: Option<&Child>| {
                    other.is_some_and(|other| other.node.width() + width <= MERGED_MAX)
                };
                if fits(children.get(place + 1)) {
                    merge(children, place);
                } else if place > 0 && fits(children.get(place - 1)) {
                    merge(children, place - 1);
                }
            }
        }
    }
}

/// What is behind `at`, if there are too many.
fn split<T>(row: &mut Vec<T>, at: usize) -> Option<Vec<T>> {
    if row.len() <= FULL {
        return None;
    }
    let mut right = Vec::with_capacity(FULL + 1);
    right.extend(row.drain(at..));
    Some(right)
}

/// Makes one of the children at that place and the next.
fn merge(children: &mut Vec<Child>, place: usize) {
    let right = children.remove(place + 1);
    let left = &mut children[place];
    left.len += right.len;
    match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
        (Node::Branch(left), Node::Branch(right)) => left.extend(right),
        _ => unreachable!("all leaves are equally deep"),
    }
}

/// Walks over places from both ends, a leaf at a time.
struct Members<'o> {
    order: &'o Order,
    places: Range<usize>,
    /// The leaves at both ends, each with the place of its first member.
    front: (&'o [Scored], usize),
    back: (&'o [Scored], usize),
}

impl<'o> Iterator for Members<'o> {
    type Item = &'o Scored;

    fn next(&mut self) -> Option<&'o Scored> {
        let place = self.places.next()?;
        if place >= self.front.1 + self.front.0.len() {
            self.front = self.order.leaf_at(place);
        }
        let (leaf, start) = self.front;
        leaf.get(place.checked_sub(start)?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl DoubleEndedIterator for Members<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let place = self.places.next_back()?;
        if self.back.0.is_empty() || place < self.back.1 {
            self.back = self.order.leaf_at(place);
        }
        let (leaf, start) = self.back;
        leaf.get(place.checked_sub(start)?)
    }
}

impl ExactSizeIterator for Members<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(score: f64, member: u16) -> Scored {
        Scored { score, member: Bytes::copy_from_slice(&member.to_be_bytes()) }
    }

    /// Looks whether a node keeps what it promises; its depth.
    fn check(node: &Node) -> usize {
        match node {
            Node::Leaf(members) => {
                assert!(members.len() <= FULL);
                assert!(
                    members.is_sorted_by(|one, next| {
                        one.compare(next.score, &next.member).is_lt()
                    })
                );
                0
            }
            Node::Branch(children) => {
                assert!((1..=FULL).contains(&children.len()));
                let mut depth = None;
                for child in children {
                    let mut below = Order { len: child.len, root: (*child.node).clone() };
                    let members: Vec<Scored> = below.range(0..child.len).cloned().collect();
                    assert_eq!(members.len(), child.len);
                    assert!(!members.is_empty());
                    assert!(members[0].compare(child.least.score, &child.least.member).is_ge());
                    let deep = check(&below.root);
                    assert_eq!(*depth.get_or_insert(deep), deep);
                    below.len = 0;
                }
                for pair in children.windows(2) {
                    let (left, right) = (&pair[0], &pair[1].least);
                    let order = Order { len: left.len, root: (*left.node).clone() };
                    let last = order.get(left.len - 1).unwrap();
                    assert!(last.compare(right.score, &right.member).is_lt());
                }
                depth.expect("there is a child") + 1
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Change {
        Insert(u16),
        Remove(usize),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        // Long runs of one kind, so that the tree grows and shrinks over several levels.
        let run = (any::<bool>(), 1..600_u16, any::<u16>(), 1..50_u16);
        proptest::collection::vec(run, 1..12).prop_map(|runs| {
            let change = |(insert, count, start, step): (bool, u16, u16, u16)| {
                (0..count).map(move |turn| {
                    let member = start.wrapping_add(step.wrapping_mul(turn));
                    if insert { Change::Insert(member) } else { Change::Remove(member.into()) }
                })
            };
            runs.into_iter().flat_map(change).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_does_what_a_sorted_row_does(changes in changes()) {
            let (mut order, mut row) = (Order::default(), Vec::<Scored>::new());
            for change in changes {
                match change {
                    Change::Insert(member) => {
                        let scored = scored(f64::from(member % 7), member);
                        let place = row.binary_search_by(|there| {
                            there.compare(scored.score, &scored.member)
                        });
                        if let Err(place) = place {
                            row.insert(place, scored.clone());
                            order.insert(scored);
                        }
                    }
                    Change::Remove(at) if !row.is_empty() => {
                        let gone = row.remove(at % row.len());
                        let place = order.place(gone.score, &gone.member);
                        prop_assert_eq!(place, at % (row.len() + 1));
                        order.remove(gone.score, &gone.member);
                    }
                    Change::Remove(_) => {}
                }
                prop_assert_eq!(order.len, row.len());
            }
            check(&order.root);
            prop_assert!(order.range(0..row.len()).eq(&row));
            prop_assert!(order.range(0..row.len()).rev().eq(row.iter().rev()));
            let middle = row.len() / 3..row.len() - row.len() / 4;
            let mut both = order.range(middle.clone());
            let mut wanted = row[middle].iter();
            for turn in 0..wanted.len() {
                let (one, other) = if turn % 3 == 0 {
                    (both.next_back(), wanted.next_back())
                } else {
                    (both.next(), wanted.next())
                };
                prop_assert_eq!(one, other);
            }
            prop_assert!(both.next().is_none() && both.next_back().is_none());
            for score in 0..8 {
                let is_so = |there: &Scored| there.score < f64::from(score);
                prop_assert_eq!(order.count_while(is_so), row.partition_point(is_so));
            }
            for (place, wanted) in row.iter().enumerate() {
                prop_assert_eq!(order.get(place), Some(wanted));
                prop_assert_eq!(order.place(wanted.score, &wanted.member), place);
            }
            prop_assert_eq!(order.get(row.len()), None);
        }
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut order = Order::default();
        (0..5_000).for_each(|number| order.insert(scored(1.0, number)));
        let copy = order.clone();
        (0..5_000_u16).step_by(2).for_each(|number| order.remove(1.0, &number.to_be_bytes()));
        (5_000..6_000).for_each(|number| order.insert(scored(0.5, number)));
        assert_eq!((copy.len, order.len), (5_000, 3_500));
        assert!(
            copy.range(0..5_000)
                .map(|there| &there.member[..])
                .eq((0..5_000_u16).map(u16::to_be_bytes).collect::<Vec<_>>())
        );
        check(&copy.root);
        check(&order.root);
    }

    #[test]
    fn what_comes_in_order_fills_its_leaves() {
        let mut order = Order::default();
        (0..60_000).for_each(|number| order.insert(scored(f64::from(number), number)));
        let mut leaves = 0;
        let mut place = 0;
        while place < order.len {
            place += order.leaf_at(place).0.len();
            leaves += 1;
        }
        assert!(leaves * FULL < 60_000 * 5 / 4, "{leaves}");
        assert!(check(&order.root) <= 3);
    }
}
