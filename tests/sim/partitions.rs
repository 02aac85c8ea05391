//! Partial partitions: any set of links cut, each in one or both directions. If some replica still
//! reaches a quorum in both directions, there is a stable leader within ten election timeouts, it
//! commits, and the term stops growing.

use std::time::Duration;

use bowline::config::Config;
use bowline::kv::{Batch, Operation};
use bowline::raft::{ClientRequest, RequestKind};
use bowline::sim::cluster::network::{Fate, LinkQuality, Network};
use bowline::sim::cluster::{AnswerKind, ClientProtocol, Cluster};
use bowline::sim::rng::Rng;
use bowline::types::{ClientId, Instant, NodeId, RequestId, RequestKey, Term};

/// The cut links: one bit for each ordered pair of replicas, in order.
#[derive(Clone, Copy)]
struct Graph {
    replicas: u16,
    cuts: u64,
}

impl Graph {
    fn links(replicas: u16) -> impl Iterator<Item = (NodeId, NodeId)> {
        let ids = move || (1..=replicas).map(NodeId);
        ids().flat_map(move |from| ids().filter(move |&to| to != from).map(move |to| (from, to)))
    }

    fn cut_links(self) -> Vec<(NodeId, NodeId)> {
        let numbered = Graph::links(self.replicas).enumerate();
        numbered.filter(|(bit, _)| self.cuts >> bit & 1 == 1).map(|(_, link)| link).collect()
    }

    /// Whether some replica reaches a quorum, itself included, in both directions.
    fn has_a_middle(self) -> bool {
        let cuts = self.cut_links();
        let whole = |one, other| !cuts.contains(&(one, other)) && !cuts.contains(&(other, one));
        (1..=self.replicas).map(NodeId).any(|middle| {
            let reached = (1..=self.replicas).map(NodeId).filter(|&id| whole(middle, id)).count();
            reached > usize::from(self.replicas / 2)
        })
    }
}

struct Setup {
    cluster: Cluster,
    network: Network,
}

impl Setup {
    fn new(replicas: u16, config: &Config, protocol: ClientProtocol) -> Setup {
        let ids: Vec<NodeId> = (1..=replicas).map(NodeId).collect();
        let mut rng = Rng::new(7);
        let mut cluster = Cluster::new(&ids, config, protocol, &mut rng);
        let quality = LinkQuality {
            delay_max: Duration::from_micros(900),
            ..LinkQuality::perfect(Duration::from_micros(300))
        };
        let network = Network::new(rng.split(), &ids, quality);
        for id in ids {
            cluster.start(id).expect("an empty disk has promised nothing");
        }
        Setup { cluster, network }
    }

    fn run_until(&mut self, end: Instant) {
        while self.cluster.next_at().is_some_and(|at| at <= end) {
            self.cluster.advance().expect("no rule is broken");
            for envelope in std::mem::take(&mut self.cluster.sent) {
                let (from, to) = (envelope.from, envelope.to);
                if let Fate::Arrives { at, .. } = self.network.fate(self.cluster.now(), from, to) {
                    self.cluster.deliver(at, envelope);
                }
            }
        }
        self.cluster.skip_to(end);
    }

    fn highest_term(&self) -> Term {
        let replicas =
            self.cluster.machines().iter().filter_map(|machine| machine.replica.as_ref());
        replicas.map(|replica| replica.status().term).max().expect("all of them run")
    }
}

/// The violation, if any, in a healthy cluster in which these links are cut.
fn judge(graph: Graph, config: &Config, protocol: ClientProtocol) -> Result<(), String> {
    let mut setup = Setup::new(graph.replicas, config, protocol);
    let timeout = config.election_timeout_max;
    let settled = Instant::ZERO + config.silence_after_start + timeout * 3;
    setup.run_until(settled);
    for (from, to) in graph.cut_links() {
        setup.network.cut(from, to);
    }
    let stable = settled + timeout * 10;
    setup.run_until(stable);
    let term = setup.highest_term();
    let leader = setup.cluster.leader().ok_or(format!("nobody leads; the term is {term}"))?;
    let key = RequestKey { client: ClientId(0x100), request: RequestId(*b"one put at last!") };
    let operation = Operation::set(b"key", b"value");
    let payload = Batch::one(key, &operation);
    let request = ClientRequest { key, kind: RequestKind::Write, payload };
    setup.cluster.request(stable, leader, request);
    setup.run_until(stable + timeout * 5);
    let done = |kind: &AnswerKind| matches!(kind, AnswerKind::Done(_));
    if !setup.cluster.answers.iter().any(|answer| done(&answer.kind)) {
        return Err(format!("{leader} leads and does not commit: {:?}", setup.cluster.answers));
    }
    let later = setup.highest_term();
    if later > term { Err(format!("terms grow from {term} to {later}")) } else { Ok(()) }
}

fn hold(replicas: u16, cuts: impl Iterator<Item = u64>) {
    let mut judged = 0;
    for cuts in cuts {
        let graph = Graph { replicas, cuts };
        if !graph.has_a_middle() {
            continue;
        }
        judged += 1;
        for (config, protocol) in [
            (Config::server(), ClientProtocol::Connection),
            (Config::course(), ClientProtocol::Course),
        ] {
            if let Err(what) = judge(graph, &config, protocol) {
                panic!("{what}; {protocol:?}, cut are {:?}", graph.cut_links());
            }
        }
    }
    assert!(judged > 30, "{judged} graphs were judged");
}

#[test]
fn any_three_quorum_connected_replicas_keep_a_stable_leader() {
    hold(3, 0..1 << 6);
}

#[test]
fn any_four_quorum_connected_replicas_keep_a_stable_leader() {
    hold(4, 0..1 << 12);
}

#[test]
fn any_five_quorum_connected_replicas_keep_a_stable_leader() {
    let mut rng = Rng::new(1);
    // Each link is cut in a quarter of them.
    hold(5, (0..1_000).map(|_| rng.next_u64() & rng.next_u64() & ((1 << 20) - 1)));
}

/// A and B cannot reach each other and C reaches both, as in the outage of a large network in 2020.
#[test]
fn three_replicas_with_one_cut_link_keep_a_stable_leader() {
    let links: Vec<_> = Graph::links(3).collect();
    for (one, other) in [(1, 2), (1, 3), (2, 3)].map(|(a, b)| (NodeId(a), NodeId(b))) {
        let bit = |link| links.iter().position(|&there| there == link).expect("a link");
        let cuts = 1 << bit((one, other)) | 1 << bit((other, one));
        let judged =
            judge(Graph { replicas: 3, cuts }, &Config::server(), ClientProtocol::Connection);
        assert_eq!(judged, Ok(()), "{one} and {other} are apart");
    }
}
