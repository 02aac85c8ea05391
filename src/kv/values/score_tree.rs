//! A B+ tree of a sorted set's members, ordered by score. Each child reference stores the number of
//! members below it, so that the rank of a member, and the member with a given rank, can be found.
//!
//! Operations on one member take time proportional to the tree's height, about log32 of the number
//! of members. Clones of the tree share its nodes; a change copies the path from the root to the
//! changed leaf.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::element::Element;

/// Maximum number of members in a leaf of the B+ tree, and of children in an inner node.
const NODE_LEN_MAX: usize = 64;
/// Maximum number of members or children of a node that is created by merging two adjacent nodes.
/// Well below [`NODE_LEN_MAX`], so that a few insertions do not split the node again.
const MERGED_LEN_MAX: usize = 48;

/// A member of a sorted set with its score, which is never NaN.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kv) struct Scored {
    pub(in crate::kv) score: f64,
    pub(in crate::kv) member: Element,
}

impl Scored {
    /// Compares this member with `member`, whose score is `score`: first by score (0 and -0 are
    /// equal), then by the bytes of the members.
    pub(in crate::kv) fn compare(&self, score: f64, member: &[u8]) -> Ordering {
        let by_score = self.score.partial_cmp(&score).expect("scores are never NaN");
        by_score.then_with(|| self.member[..].cmp(member))
    }
}

/// A B+ tree of the members of a sorted set, ordered by score and then by the bytes of the members.
/// Clones share nodes, and a change copies only the nodes that it modifies.
#[derive(Debug, Clone)]
pub(in crate::kv) struct ScoreTree {
    len: usize,
    root: Node,
}

/// A node of the B+ tree: a leaf with members, or an inner node with children.
///
/// Invariant: all leaves have the same depth; no node except the root is empty.
#[derive(Debug, Clone)]
enum Node {
    Leaf(Vec<Scored>),
    Branch(Vec<Child>),
}

/// A child of an inner node of the B+ tree.
///
/// Invariant: `len` is the number of members below this child. All of them are at least `least`,
/// and all members below the earlier children of the same node are less than `least`. The member
/// `least` itself may have been removed.
#[derive(Debug, Clone)]
struct Child {
    len: usize,
    least: Scored,
    node: Arc<Node>,
}

impl Default for ScoreTree {
    fn default() -> ScoreTree {
        ScoreTree { len: 0, root: Node::Leaf(Vec::new()) }
    }
}

impl ScoreTree {
    /// Inserts a member with its score. The tree must not contain the member yet.
    pub(in crate::kv) fn insert(&mut self, scored: Scored) {
        self.len += 1;
        if let Some(right) = self.root.insert(scored) {
            let left =
                std::mem::replace(&mut self.root, Node::Branch(Vec::with_capacity(NODE_LEN_MAX)));
            let Node::Branch(children) = &mut self.root else {
                unreachable!("the root was just replaced by a branch")
            };
            children.extend([Child::of(left), right]);
        }
    }

    /// Removes a member, which the tree must contain with this score.
    pub(in crate::kv) fn remove(&mut self, score: f64, member: &[u8]) {
        self.root.remove(score, member);
        self.len -= 1;
        while let Node::Branch(children) = &mut self.root
            && children.len() == 1
        {
            let only = children.pop().expect("the branch has one child");
            self.root = Arc::unwrap_or_clone(only.node);
        }
    }

    /// Returns the rank of a member, which is the number of members before it. The tree must
    /// contain the member with this score.
    pub(in crate::kv) fn rank(&self, score: f64, member: &[u8]) -> usize {
        self.count_while(|scored| scored.compare(score, member).is_lt())
    }

    /// Returns the number of members at the start of the tree's order for which `predicate` is
    /// true. `predicate` must be false for all members after these.
    pub(in crate::kv) fn count_while(&self, predicate: impl Fn(&Scored) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(members) => return before + members.partition_point(predicate),
                Node::Branch(children) => {
                    let child = child_with(children, &predicate);
                    before += children[..child].iter().map(|child| child.len).sum::<usize>();
                    node = &children[child].node;
                }
            }
        }
    }

    /// Iterates over the members whose ranks are in `ranks`. The range must not exceed the number
    /// of members.
    pub(in crate::kv) fn range(
        &self,
        ranks: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = &Scored> + ExactSizeIterator {
        assert!(ranks.start <= ranks.end && ranks.end <= self.len, "{ranks:?} of {}", self.len);
        let (front, back) = (Default::default(), Default::default());
        Members { tree: self, ranks, front, back }
    }

    /// Returns the member with this rank; `None` if the rank is out of range.
    pub(in crate::kv) fn get(&self, rank: usize) -> Option<&Scored> {
        let (leaf, start) = (rank < self.len).then(|| self.leaf_at(rank))?;
        leaf.get(rank - start)
    }

    /// Finds the leaf with the member of the given rank, which must be in range. Returns two
    /// values: all members of the leaf, and the rank of the first of them.
    fn leaf_at(&self, rank: usize) -> (&[Scored], usize) {
        let (mut node, mut start) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(members) => return (members, start),
                Node::Branch(children) => {
                    let child = children.iter().find(|child| {
                        let is_in = rank - start < child.len;
                        start += if is_in { 0 } else { child.len };
                        is_in
                    });
                    node = &child.expect("the rank is in range").node;
                }
            }
        }
    }
}

/// Returns the index of the child below which `predicate` changes from true to false. `predicate`
/// must be true for some members at the start of the tree's order, and false for all later ones.
fn child_with(children: &[Child], predicate: impl Fn(&Scored) -> bool) -> usize {
    children[1..].partition_point(|child| predicate(&child.least))
}

impl Child {
    /// Returns a child that refers to `node`, which must not be empty.
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

    /// Inserts a member below this node. If the node becomes too large, splits it and returns the
    /// new node, which belongs to its right; otherwise returns `None`.
    fn insert(&mut self, scored: Scored) -> Option<Child> {
        match self {
            Node::Leaf(members) => {
                let is_before =
                    |there: &Scored| there.compare(scored.score, &scored.member).is_lt();
                let place = members.partition_point(is_before);
                // Splits off only a few members after an insertion at the end, so that insertions
                // in ascending order leave almost full leaves behind.
                let at = if place == NODE_LEN_MAX {
                    NODE_LEN_MAX - NODE_LEN_MAX / 8
                } else {
                    NODE_LEN_MAX / 2
                };
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
                let at = if place + 2 == children.len() {
                    NODE_LEN_MAX - NODE_LEN_MAX / 8
                } else {
                    NODE_LEN_MAX / 2
                };
                split(children, at).map(|right| Child::of(Node::Branch(right)))
            }
        }
    }

    /// Removes a member, which must be below this node and have this score.
    fn remove(&mut self, score: f64, member: &[u8]) {
        match self {
            Node::Leaf(members) => {
                let is_it = |there: &Scored| there.compare(score, member);
                let place = members.binary_search_by(is_it).expect("the member is in the tree");
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
                    other.is_some_and(|other| other.node.width() + width <= MERGED_LEN_MAX)
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

/// Splits the members or children of a node if there are more than [`NODE_LEN_MAX`]: removes and
/// returns those from index `at` on. Otherwise returns `None`.
fn split<T>(sorted: &mut Vec<T>, at: usize) -> Option<Vec<T>> {
    if sorted.len() <= NODE_LEN_MAX {
        return None;
    }
    let mut right = Vec::with_capacity(NODE_LEN_MAX + 1);
    right.extend(sorted.drain(at..));
    Some(right)
}

/// Merges the children at the indexes `place` and `place + 1` into one child.
fn merge(children: &mut Vec<Child>, place: usize) {
    let right = children.remove(place + 1);
    let left = &mut children[place];
    left.len += right.len;
    match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
        (Node::Branch(left), Node::Branch(right)) => left.extend(right),
        _ => unreachable!("all leaves have the same depth"),
    }
}

/// An iterator over the members in a range of ranks, which can be read from both ends. It looks up
/// each leaf of the tree only once.
struct Members<'o> {
    tree: &'o ScoreTree,
    ranks: Range<usize>,
    /// The leaf that contains the next member from the front: its members, and the rank of the
    /// first of them.
    front: (&'o [Scored], usize),
    /// The leaf that contains the next member from the back: its members, and the rank of the first
    /// of them.
    back: (&'o [Scored], usize),
}

impl<'o> Iterator for Members<'o> {
    type Item = &'o Scored;

    fn next(&mut self) -> Option<&'o Scored> {
        let rank = self.ranks.next()?;
        if rank >= self.front.1 + self.front.0.len() {
            self.front = self.tree.leaf_at(rank);
        }
        let (leaf, start) = self.front;
        leaf.get(rank.checked_sub(start)?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ranks.size_hint()
    }
}

impl DoubleEndedIterator for Members<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let rank = self.ranks.next_back()?;
        if self.back.0.is_empty() || rank < self.back.1 {
            self.back = self.tree.leaf_at(rank);
        }
        let (leaf, start) = self.back;
        leaf.get(rank.checked_sub(start)?)
    }
}

impl ExactSizeIterator for Members<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(score: f64, member: u16) -> Scored {
        Scored { score, member: member.to_be_bytes()[..].into() }
    }

    /// Asserts that the invariants of a node and of all nodes below it hold. Returns the node's
    /// height.
    fn check(node: &Node) -> usize {
        match node {
            Node::Leaf(members) => {
                assert!(members.len() <= NODE_LEN_MAX);
                assert!(
                    members.is_sorted_by(|one, next| {
                        one.compare(next.score, &next.member).is_lt()
                    })
                );
                0
            }
            Node::Branch(children) => {
                assert!((1..=NODE_LEN_MAX).contains(&children.len()));
                let mut depth = None;
                for child in children {
                    let mut below = ScoreTree { len: child.len, root: (*child.node).clone() };
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
                    let order = ScoreTree { len: left.len, root: (*left.node).clone() };
                    let last = order.get(left.len - 1).unwrap();
                    assert!(last.compare(right.score, &right.member).is_lt());
                }
                depth.expect("a branch has children") + 1
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
        fn sorted_set_score_tree_matches_a_sorted_vector(changes in changes()) {
            let (mut order, mut sorted) = (ScoreTree::default(), Vec::<Scored>::new());
            for change in changes {
                match change {
                    Change::Insert(member) => {
                        let scored = scored(f64::from(member % 7), member);
                        let place = sorted.binary_search_by(|there| {
                            there.compare(scored.score, &scored.member)
                        });
                        if let Err(place) = place {
                            sorted.insert(place, scored.clone());
                            order.insert(scored);
                        }
                    }
                    Change::Remove(at) if !sorted.is_empty() => {
                        let gone = sorted.remove(at % sorted.len());
                        let place = order.rank(gone.score, &gone.member);
                        prop_assert_eq!(place, at % (sorted.len() + 1));
                        order.remove(gone.score, &gone.member);
                    }
                    Change::Remove(_) => {}
                }
                prop_assert_eq!(order.len, sorted.len());
            }
            check(&order.root);
            prop_assert!(order.range(0..sorted.len()).eq(&sorted));
            prop_assert!(order.range(0..sorted.len()).rev().eq(sorted.iter().rev()));
            let middle = sorted.len() / 3..sorted.len() - sorted.len() / 4;
            let mut both = order.range(middle.clone());
            let mut wanted = sorted[middle].iter();
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
                let predicate = |there: &Scored| there.score < f64::from(score);
                prop_assert_eq!(order.count_while(predicate), sorted.partition_point(predicate));
            }
            for (place, wanted) in sorted.iter().enumerate() {
                prop_assert_eq!(order.get(place), Some(wanted));
                prop_assert_eq!(order.rank(wanted.score, &wanted.member), place);
            }
            prop_assert_eq!(order.get(sorted.len()), None);
        }
    }

    #[test]
    fn clone_of_a_sorted_set_score_tree_is_unaffected_by_writes() {
        let mut order = ScoreTree::default();
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
    fn ascending_inserts_fill_leaves_of_the_sorted_set_score_tree() {
        let mut order = ScoreTree::default();
        (0..60_000).for_each(|number| order.insert(scored(f64::from(number), number)));
        let mut leaves = 0;
        let mut place = 0;
        while place < order.len {
            place += order.leaf_at(place).0.len();
            leaves += 1;
        }
        assert!(leaves * NODE_LEN_MAX < 60_000 * 5 / 4, "{leaves}");
        assert!(check(&order.root) <= 3);
    }
}
