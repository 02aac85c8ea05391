//! Partial partitions: any set of links is cut, each link in one or both directions. If some
//! replica still reaches a quorum in both directions, there must be a stable leader within ten
//! election timeouts; it commits, and the term stops growing. If no replica does, there must be no
//! leader after that time, and the term must stop growing too (pre-vote).

use std::time::Duration;

use bowline::config::Config;
use bowline::kv::{Batch, Operation};
use bowline::raft::{ClientRequest, Replica, RequestKind, RoleName, Status};
use bowline::sim::cluster::network::{Fate, LinkQuality, Network};
use bowline::sim::cluster::{AnswerKind, ClientProtocol, Cluster};
use bowline::sim::rng::Rng;
use bowline::types::{ClientId, Instant, NodeId, RequestId, RequestKey, Term};

/// Maximum number of messages per link in one election timeout.
const MESSAGES_PER_TIMEOUT: u64 = 10;

/// The set of links that are cut, with one bit for each ordered pair of replicas, in order.
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

    /// Returns whether some replica reaches a quorum, including itself, in both directions.
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
    /// Number of messages that replicas have sent.
    messages: u64,
}

impl Setup {
    fn new(replicas: u16, config: &Config, protocol: ClientProtocol) -> Setup {
        let ids: Vec<NodeId> = (1..=replicas).map(NodeId).collect();
        let mut rng = Rng::new(7);
        let mut cluster = Cluster::new(&ids, &ids, config, protocol, &mut rng);
        let quality = LinkQuality {
            delay_max: Duration::from_micros(900),
            ..LinkQuality::perfect(Duration::from_micros(300))
        };
        let network = Network::new(rng.split(), &ids, quality);
        for id in ids {
            cluster.start(id).expect("an empty disk has promised nothing");
        }
        Setup { cluster, network, messages: 0 }
    }

    fn run_until(&mut self, end: Instant) {
        while self.cluster.next_at().is_some_and(|at| at <= end) {
            self.cluster.advance().expect("no rule is broken");
            for envelope in std::mem::take(&mut self.cluster.sent) {
                self.messages += 1;
                let (from, to) = (envelope.from, envelope.to);
                if let Fate::Arrives { at, .. } = self.network.fate(self.cluster.now(), from, to) {
                    self.cluster.deliver(at, envelope);
                }
            }
        }
        self.cluster.skip_to(end);
    }

    fn statuses(&self) -> impl Iterator<Item = Status> {
        let replicas =
            self.cluster.machines().iter().filter_map(|machine| machine.replica.as_ref());
        replicas.map(Replica::status)
    }

    fn highest_term(&self) -> Term {
        self.statuses().map(|status| status.term).max().expect("all of them run")
    }

    /// Returns the replicas that have the role of leader.
    fn leaders(&self) -> Vec<NodeId> {
        let leaders = self.statuses().filter(|status| status.role == RoleName::Leader);
        leaders.map(|status| status.id).collect()
    }
}

/// The time at which the links are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// After a leader has been elected.
    Later,
    /// Before the replicas are started.
    First,
}

/// The configuration of a cluster, and when links are cut in it.
#[derive(Clone, Debug)]
struct Case {
    config: Config,
    protocol: ClientProtocol,
    cut: Cut,
}

/// Runs a cluster in which these links are cut. Returns the violation of the expected behaviour, if
/// any, as an error.
fn judge(graph: Graph, case: &Case) -> Result<(), String> {
    let Case { config, protocol, cut } = case;
    let mut setup = Setup::new(graph.replicas, config, *protocol);
    let timeout = config.election_timeout_max;
    let mut settled = Instant::ZERO + config.silence_after_start;
    match cut {
        Cut::First => settled = settled + config.first_election_delay,
        Cut::Later => {
            settled = settled + timeout * 3;
            setup.run_until(settled);
            assert_eq!(setup.leaders().len(), 1, "three election timeouts without a cut");
        }
    }
    let before = setup.highest_term();
    for (from, to) in graph.cut_links() {
        setup.network.cut(from, to);
    }
    setup.run_until(settled + timeout * 10);
    if graph.has_a_middle() {
        judge_connected(graph, &mut setup, timeout)
    } else {
        judge_disconnected(graph, &mut setup, timeout, before)
    }
}

/// Like [`judge`], if no replica reaches a quorum in both directions. The cluster has already run
/// for ten election timeouts, and the highest term was `before` when the links were cut.
fn judge_disconnected(
    graph: Graph,
    setup: &mut Setup,
    timeout: Duration,
    before: Term,
) -> Result<(), String> {
    let (term, leaders, sent) = (setup.highest_term(), setup.leaders(), setup.messages);
    if !leaders.is_empty() {
        return Err(format!("{leaders:?} lead without a quorum in term {term}"));
    }
    setup.run_until(setup.cluster.now() + timeout * 15);
    let later = setup.highest_term();
    if later > before {
        return Err(format!("terms grow from {before} to {term} and {later}"));
    }
    check_message_count(graph, 15, setup.messages - sent)
}

/// Like [`judge`], if some replica reaches a quorum in both directions. The cluster has already run
/// for ten election timeouts.
fn judge_connected(graph: Graph, setup: &mut Setup, timeout: Duration) -> Result<(), String> {
    let (term, leaders, sent) = (setup.highest_term(), setup.leaders(), setup.messages);
    let [leader] = leaders[..] else {
        return Err(format!("{leaders:?} lead in term {term}"));
    };
    let key = RequestKey { client: ClientId(0x100), request: RequestId(*b"one put at last!") };
    let operation = Operation::set(b"key", b"value");
    let payload = Batch::one(key, &operation);
    let request = ClientRequest { key, kind: RequestKind::Write, payload };
    let now = setup.cluster.now();
    setup.cluster.request(now, leader, request);
    setup.run_until(now + timeout * 5);
    let done = |kind: &AnswerKind| matches!(kind, AnswerKind::Done(_));
    if !setup.cluster.answers.iter().any(|answer| done(&answer.kind)) {
        return Err(format!("{leader} leads and does not commit: {:?}", setup.cluster.answers));
    }
    let (later, leaders) = (setup.highest_term(), setup.leaders());
    if later > term || leaders != [leader] {
        return Err(format!("terms grow from {term} to {later}, and {leaders:?} lead"));
    }
    check_message_count(graph, 5, setup.messages - sent)
}

/// Returns an error if the replicas have sent too many messages: `count` is their number in
/// `timeouts` election timeouts, of which [`MESSAGES_PER_TIMEOUT`] are allowed per link and
/// timeout.
fn check_message_count(graph: Graph, timeouts: u64, count: u64) -> Result<(), String> {
    let links = u64::from(graph.replicas * (graph.replicas - 1));
    let most = links * timeouts * MESSAGES_PER_TIMEOUT;
    if count > most { Err(format!("{count} messages, at most {most} are needed")) } else { Ok(()) }
}

fn hold(replicas: u16, cuts: impl Iterator<Item = u64>) {
    let server = |cut| {
        let (config, protocol) = (Config::server(), ClientProtocol::Connection);
        Case { config, protocol, cut }
    };
    let (config, protocol) = (Config::course(), ClientProtocol::Course);
    let cases =
        [server(Cut::Later), server(Cut::First), Case { config, protocol, cut: Cut::Later }];
    let mut judged = [0, 0];
    for cuts in cuts {
        let graph = Graph { replicas, cuts };
        judged[usize::from(graph.has_a_middle())] += 1;
        for case in &cases {
            if let Err(what) = judge(graph, case) {
                let Case { protocol, cut, .. } = case;
                panic!("{what}; {protocol:?}, {cut:?}, cut are {:?}", graph.cut_links());
            }
        }
    }
    let [without, with] = judged;
    assert!(with > 30 && without > 20, "{with} and {without} graphs were judged");
}

#[test]
fn every_partition_of_three_replicas_has_a_stable_leader_or_none() {
    hold(3, 0..1 << 6);
}

#[test]
fn every_partition_of_four_replicas_has_a_stable_leader_or_none() {
    hold(4, 0..1 << 12);
}

#[test]
fn random_partitions_of_five_replicas_have_a_stable_leader_or_none() {
    let mut rng = Rng::new(1);
    // Each link is cut with probability 1/2 in every other graph (even numbers: 1/4).
    let cuts = |number| rng.next_u64() & if number % 2 == 0 { rng.next_u64() } else { u64::MAX };
    hold(5, (0..1_000).map(cuts).map(|cuts| cuts & ((1 << 20) - 1)));
}

/// A and B cannot reach each other, and C reaches both, as in the outage of a large network in
/// 2020.
#[test]
fn three_replicas_with_one_cut_link_keep_a_stable_leader() {
    let links: Vec<_> = Graph::links(3).collect();
    for (one, other) in [(1, 2), (1, 3), (2, 3)].map(|(a, b)| (NodeId(a), NodeId(b))) {
        let bit = |link| links.iter().position(|&there| there == link).expect("a link");
        let cuts = 1 << bit((one, other)) | 1 << bit((other, one));
        let (config, protocol) = (Config::server(), ClientProtocol::Connection);
        let case = Case { config, protocol, cut: Cut::Later };
        let judged = judge(Graph { replicas: 3, cuts }, &case);
        assert_eq!(judged, Ok(()), "{one} and {other} are apart");
    }
}
