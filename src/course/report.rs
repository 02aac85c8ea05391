//! The report on a run of a scenario: verdict, grades and figures according to the rules of the
//! university course, with three additions. A failure that is due to the random request generator
//! alone is reported as unlucky, latencies are reported separately for gets and puts without
//! redirects, and reaching the message limit fails the run instead of only ending it.

use std::time::Duration;

use serde::Serialize;

use super::clients::Sample;
use super::run::{Ending, ScenarioRun};
use super::scenario::Scenario;
use crate::types::NodeId;

/// The result of a scenario run by the rules of the university course.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The run obeys all rules.
    Passed,
    /// The run fails because too many planned gets became puts, but the replicas are not to blame.
    /// There are two such cases: the random generator drew too many gets before their clients had
    /// sent a put, or the scenario file does permit this number of gets, but in a field outside of
    /// the object `tests`, where the university course's simulator ignores it. See
    /// [`Report::unlucky_because`].
    Unlucky,
    /// The run breaks at least one rule.
    Failed,
}

/// The grade of one metric of a run, such as the median latency. A scenario has three thresholds
/// for each metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The highest grade: the metric's value is below the first of the scenario's thresholds for
    /// this metric.
    Bonus,
    /// Full credit: the metric's value is below the second of the scenario's thresholds for this
    /// metric.
    Full,
    /// Partial credit: the metric's value is below the third of the scenario's thresholds for this
    /// metric.
    Partial,
    /// No credit: the metric's value is not below any of the scenario's thresholds for this metric.
    None,
}

/// The grades of the four metrics of a run that passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Tiers {
    /// Grade of the number of messages between replicas.
    pub total_msgs: Tier,
    /// Grade of the number of `fail` answers and unanswered requests.
    pub failures: Tier,
    /// Grade of the number of duplicate answers: answers to requests that had already been answered
    /// with `ok`.
    pub duplicates: Tier,
    /// Grade of the median latency of all answers.
    pub median_latency: Tier,
}

/// Latency statistics of one type of operation in seconds; all zero if there are no samples.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Latency {
    /// Number of latency samples.
    pub count: usize,
    /// Mean latency in seconds.
    pub mean_s: f64,
    /// Median latency in seconds: half of the samples are at most this long.
    pub p50_s: f64,
    /// 90th percentile of the latency in seconds.
    pub p90_s: f64,
    /// 99th percentile of the latency in seconds.
    pub p99_s: f64,
    /// 99.9th percentile of the latency in seconds.
    pub p999_s: f64,
    /// 99.99th percentile of the latency in seconds.
    pub p9999_s: f64,
    /// Maximum latency in seconds.
    pub max_s: f64,
}

/// How long puts were unavailable after an event of the scenario, such as the kill of a leader.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Unavailability {
    /// Name of the event, as in scenario files.
    pub event: &'static str,
    /// Time of the event, in seconds after the first request.
    pub at_s: f64,
    /// Id of the replica that the event killed; `None` if it killed no replica.
    pub killed: Option<String>,
    /// Time in seconds from the event to the first `ok` answer to a put that was started after the
    /// event; `None` if there was no such answer.
    pub seconds: Option<f64>,
}

/// The report on a scenario run. It is serialized as JSON, so its field names are part of the
/// interface.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario that was run.
    pub scenario: String,
    /// Changes made to the scenario on the command line, as `name=value`; see [`Scenario::with`].
    pub overrides: Vec<String>,
    /// Random seed of the run, which determines the random choices such as the clients' requests.
    pub seed: u64,
    /// Whether the run obeys all rules of the university course.
    pub passed: bool,
    /// The result of the run. Unlike `passed`, it distinguishes unlucky runs from failed ones.
    pub verdict: Verdict,
    /// Descriptions of the rules that the run broke; empty if it passed.
    pub reasons: Vec<String>,
    /// The reason why the run counts as unlucky instead of failed; `None` for other runs.
    pub unlucky_because: Option<String>,
    /// The grades of the four metrics; `None` unless the run passed.
    pub tiers: Option<Tiers>,
    /// Number of messages sent between replicas, delivered or not.
    pub total_msgs: u64,
    /// Number of `fail` answers plus the number of requests that were never answered.
    pub failures: u64,
    /// Number of requests that were never answered. Included in `failures`.
    pub unanswered: u64,
    /// Number of duplicate answers: answers to requests that had already been answered with `ok`.
    pub duplicates: u64,
    /// Median latency in seconds of all answers, including `redirect` and `fail`, as the university
    /// course measures it.
    pub median_latency_s: f64,
    /// Number of `redirect` and `fail` answers.
    pub redirects: u64,
    /// The highest number of `redirect` and `fail` answers to a single operation.
    pub redirects_per_operation_max: u32,
    /// Number of requests that the scenario plans.
    pub requests: u64,
    /// Number of planned gets that became puts because the client had no acknowledged put yet, so
    /// that there was no key to read.
    pub gets_not_generated: u64,
    /// Number of planned gets that became puts because the client had not even sent a put yet,
    /// which no replica can prevent. Included in `gets_not_generated`.
    pub gets_not_generated_by_luck: u64,
    /// Number of messages between replicas per acknowledged put; `None` if no put was acknowledged.
    pub messages_per_put: Option<f64>,
    /// Latency of acknowledged gets, measured from the last attempt of each get.
    pub get_latency: Latency,
    /// Latency of acknowledged puts, measured from the last attempt of each put.
    pub put_latency: Latency,
    /// Latency of acknowledged gets, measured from the first attempt of each get, so that redirects
    /// are included.
    pub get_operation_latency: Latency,
    /// Latency of acknowledged puts, measured from the first attempt of each put, so that redirects
    /// are included.
    pub put_operation_latency: Latency,
    /// Fraction of acknowledged puts whose last attempt took at most 10 ms, usually because no
    /// message had to be retransmitted; `None` if no put was acknowledged.
    pub put_quick_share: Option<f64>,
    /// Median latency in seconds of the puts whose last attempt took at most 10 ms; 0 if there are
    /// none.
    pub put_quick_p50_s: f64,
    /// Number of elected leaders; `None` if the simulator cannot observe elections.
    pub elections: Option<u64>,
    /// The ids of the leaders named in messages, in chronological order, without consecutive
    /// repetitions.
    pub leaders: Vec<String>,
    /// How long puts were unavailable after each event of the scenario, in order.
    pub unavailability: Vec<Unavailability>,
    /// Number of messages between replicas that were lost at random.
    pub dropped: u64,
    /// Number of messages between replicas that were not delivered because of a partition.
    pub cut: u64,
    /// Number of messages not delivered because a socket's send buffer was full.
    pub blocked: u64,
    /// Number of messages from replicas, including answers to clients, that violated the rules of
    /// the university course.
    pub incorrect: u64,
    /// Number of replicas killed by events of the scenario.
    pub killed: u64,
    /// Number of replicas that died although no event of the scenario killed them.
    pub died: u64,
    /// Duration of the run in seconds: virtual time in the simulation, real time with processes.
    pub seconds: f64,
}

/// Maximum latency of a put that counts as quick, which usually means that no message had to be
/// retransmitted.
const QUICK: Duration = Duration::from_millis(10);

impl ScenarioRun {
    /// Returns the report on the run. Meant to be called after the run has ended.
    #[must_use]
    pub fn report(&self) -> Report {
        let traffic = &self.referee.traffic;
        let counts = &self.clients.counts;
        let (gets_open, puts_open) = self.clients.unanswered();
        let mut latencies = counts.latencies.clone();
        latencies.sort_unstable();
        let failures = counts.gets_failed + counts.puts_failed + gets_open + puts_open;
        let mut quick: Vec<Duration> =
            counts.puts.iter().map(|put| put.latency).filter(|latency| *latency <= QUICK).collect();
        quick.sort_unstable();
        let puts = counts.puts.len();
        let mut report = Report {
            scenario: self.scenario.name.clone(),
            overrides: self.scenario.overridden.clone(),
            seed: self.seed,
            passed: true,
            verdict: Verdict::Passed,
            reasons: Vec::new(),
            unlucky_because: None,
            tiers: None,
            total_msgs: traffic.total_msgs,
            failures,
            unanswered: gets_open + puts_open,
            duplicates: counts.duplicates,
            // The course's median: of an even number, the upper of the two middle ones.
            median_latency_s: latencies.get(latencies.len() / 2).map_or(0.0, Duration::as_secs_f64),
            redirects: counts.redirects,
            redirects_per_operation_max: counts.redirects_max,
            requests: u64::from(self.scenario.requests),
            gets_not_generated: counts.gets_not_generated,
            gets_not_generated_by_luck: counts.gets_not_generated_by_luck,
            messages_per_put: (puts > 0).then(|| traffic.total_msgs as f64 / puts as f64),
            get_latency: Latency::of(counts.gets.iter().map(|get| get.latency)),
            put_latency: Latency::of(counts.puts.iter().map(|put| put.latency)),
            get_operation_latency: operation_latency(&counts.gets),
            put_operation_latency: operation_latency(&counts.puts),
            put_quick_share: (puts > 0).then(|| quick.len() as f64 / puts as f64),
            put_quick_p50_s: percentile(&quick, 0.5),
            elections: None,
            leaders: traffic.leaders.iter().map(NodeId::to_string).collect(),
            unavailability: self.unavailability(),
            dropped: traffic.dropped,
            cut: traffic.cut,
            blocked: traffic.blocked,
            incorrect: traffic.incorrect,
            killed: traffic.killed,
            died: traffic.deaths.len() as u64,
            seconds: self.ended.map_or(0.0, |(_, at)| at.since(self.start).as_secs_f64()),
        };
        self.grade(&mut report, gets_open, puts_open);
        report
    }

    fn unavailability(&self) -> Vec<Unavailability> {
        self.outages
            .iter()
            .map(|outage| Unavailability {
                event: outage.kind.name(),
                at_s: outage.at.as_secs_f64(),
                killed: outage.killed.map(|replica| replica.to_string()),
                seconds: outage.until_first_put.map(|span| span.as_secs_f64()),
            })
            .collect()
    }

    /// Sets the verdict, the reasons and the grades of `report`. Applies the university course's
    /// seven checks in the course's order, and then checks the message limit, which in the course
    /// only causes a warning. `gets_open` and `puts_open` are the numbers of unanswered gets and
    /// puts.
    fn grade(&self, report: &mut Report, gets_open: u64, puts_open: u64) {
        let (traffic, scenario) = (&self.referee.traffic, &self.scenario);
        let (gets, puts) = self.planned();
        let mut reasons = Vec::new();
        if traffic.incorrect > 0 {
            let first = traffic.first_incorrect.as_deref().unwrap_or_default();
            reasons.push(format!(
                "{} incorrect; the first: {first}",
                message_count(traffic.incorrect)
            ));
        }
        for death in &traffic.deaths {
            reasons.push(format!("replica {} died: {}", death.replica, death.reason));
        }
        if self.clients.acknowledged_keys() == 0 {
            reasons.push("no put was answered with ok".to_owned());
        }
        for (word, open, planned, limit) in [
            ("gets", gets_open, gets, scenario.limits.gets_unanswered),
            ("puts", puts_open, puts, scenario.limits.puts_unanswered),
        ] {
            if open as f64 > planned as f64 * limit {
                reasons.push(format!(
                    "{open} of {planned} {word} were not answered, more than the allowed fraction \
                     {limit}"
                ));
            }
        }
        let others = reasons.len();
        let missing = self.clients.counts.gets_not_generated;
        let allowed = gets as f64 * scenario.limits.gets_not_generated;
        let too_few_gets = missing as f64 > allowed;
        if too_few_gets {
            reasons.push(format!(
                "{missing} of {gets} gets could not be generated, more than the allowed \
                 {allowed:.1}: the client had no acknowledged put yet ({} times it had not even \
                 sent one)",
                self.clients.counts.gets_not_generated_by_luck
            ));
        }
        let least = minimum_messages(scenario);
        if (traffic.total_msgs as f64) < least {
            reasons.push(format!(
                "{} messages between replicas, fewer than the {least:.0} that replication takes",
                traffic.total_msgs
            ));
        }
        if self.ended() == Some(Ending::TooManyMessages) {
            reasons.push(format!(
                "the replicas sent {} messages in {:.1} s, and the limit max_packets is {}: look \
                 for messages that trigger each other, or raise the limit",
                traffic.total_msgs, report.seconds, scenario.max_packets
            ));
        }
        report.passed = reasons.is_empty();
        report.verdict = match (report.passed, too_few_gets && others == 0 && reasons.len() == 1) {
            (true, _) => {
                report.tiers = Some(tiers(report, scenario));
                Verdict::Passed
            }
            (false, true) => {
                report.unlucky_because = self.bad_luck(missing, allowed, gets);
                if report.unlucky_because.is_some() { Verdict::Unlucky } else { Verdict::Failed }
            }
            (false, false) => Verdict::Failed,
        };
        report.reasons = reasons;
    }

    /// Returns the reason why the replicas are not to blame for a run that failed because too many
    /// planned gets became puts; `None` if they may be to blame. `missing` is the number of gets
    /// that became puts, `allowed` the number of gets that may become puts, and `gets` the number
    /// of planned gets.
    fn bad_luck(&self, missing: u64, allowed: f64, gets: u64) -> Option<String> {
        let luck = self.clients.counts.gets_not_generated_by_luck;
        if luck as f64 > allowed {
            return Some(format!(
                "{luck} gets were drawn before their client had sent any put: a perfect replica \
                 fails, too; use another seed"
            ));
        }
        let meant = self.scenario.limits.gets_not_generated_misplaced?;
        (luck > 0 && missing as f64 <= gets as f64 * meant).then(|| {
            format!(
                "the scenario allows a fraction of {meant}, but outside of `tests`, where the \
                 course's simulator ignores it"
            )
        })
    }
}

fn message_count(incorrect: u64) -> String {
    if incorrect == 1 { "1 message".to_owned() } else { format!("{incorrect} messages") }
}

/// Returns the minimum number of messages between replicas in a correct run: one message per
/// planned put and replica, minus the fraction of these messages that batching may save.
fn minimum_messages(scenario: &Scenario) -> f64 {
    f64::from(scenario.requests)
        * f64::from(scenario.replicas)
        * (1.0 - scenario.mix)
        * (1.0 - scenario.limits.appends_batched)
}

fn tiers(report: &Report, scenario: &Scenario) -> Tiers {
    let thresholds = &scenario.benchmarks;
    Tiers {
        total_msgs: Tier::of(report.total_msgs as f64, thresholds.total_msgs),
        failures: Tier::of(report.failures as f64, thresholds.failures),
        duplicates: Tier::of(report.duplicates as f64, thresholds.duplicates),
        median_latency: Tier::of(report.median_latency_s, thresholds.median_latency),
    }
}

fn operation_latency(samples: &[Sample]) -> Latency {
    Latency::of(samples.iter().map(|sample| sample.operation_latency))
}

/// Returns a percentile in seconds: the smallest latency in `sorted` such that at least the
/// fraction `share` (0 to 1) of all latencies are not longer; 0 if `sorted` is empty.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most the length of the list"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, Duration::as_secs_f64)
}

impl Latency {
    /// Returns the count, mean, percentiles and maximum of `latencies`.
    pub fn of(latencies: impl Iterator<Item = Duration>) -> Latency {
        let mut sorted: Vec<Duration> = latencies.collect();
        sorted.sort_unstable();
        let Some(max) = sorted.last() else { return Latency::default() };
        Latency {
            count: sorted.len(),
            mean_s: sorted.iter().map(Duration::as_secs_f64).sum::<f64>() / sorted.len() as f64,
            p50_s: percentile(&sorted, 0.5),
            p90_s: percentile(&sorted, 0.9),
            p99_s: percentile(&sorted, 0.99),
            p999_s: percentile(&sorted, 0.999),
            p9999_s: percentile(&sorted, 0.9999),
            max_s: max.as_secs_f64(),
        }
    }
}

impl Tier {
    /// Returns the grade of a metric's value. A value must be strictly below a threshold, so a
    /// threshold of 0 is never met.
    #[must_use]
    pub fn of(value: f64, thresholds: [f64; 3]) -> Tier {
        let [bonus, full, partial] = thresholds;
        match value {
            value if value < bonus => Tier::Bonus,
            value if value < full => Tier::Full,
            value if value < partial => Tier::Partial,
            _ => Tier::None,
        }
    }

    /// Returns the letter for the grade in tables.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Tier::Bonus => 'B',
            Tier::Full => 'F',
            Tier::Partial => 'P',
            Tier::None => 'N',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::{Answer, AnswerKind, Operation, Request};
    use super::super::referee::Destination;
    use super::super::run::Action;
    use super::*;
    use crate::types::Instant;

    /// Behavior of a test's simplified cluster.
    #[derive(Clone, Copy)]
    struct Behavior {
        /// Seconds from the start until requests are answered.
        answer_from: f64,
        broadcasts: usize,
        value: Option<&'static [u8]>,
        kind: AnswerKind,
    }

    const CORRECT: Behavior =
        Behavior { answer_from: 0.0, broadcasts: 1, value: None, kind: AnswerKind::Ok };

    fn run(name: &str, seed: u64, behavior: Behavior) -> ScenarioRun {
        let scenario = Scenario::built_in(name).unwrap();
        let mut run = ScenarioRun::new(&scenario, seed, Instant::ZERO);
        let mut store = std::collections::BTreeMap::new();
        let (mut out, mut deliver) = (Vec::new(), Vec::new());
        while run.ended().is_none() {
            let now = run.next_event();
            run.poll(now, &mut out);
            for action in std::mem::take(&mut out) {
                let Action::Send(request) = action else { continue };
                if now < Instant::ZERO + Duration::from_secs_f64(behavior.answer_from) {
                    continue;
                }
                for _ in 0..behavior.broadcasts {
                    run.route(request.replica, Destination::Broadcast, None, &mut deliver);
                }
                answer(&mut run, now, &request, behavior, &mut store);
            }
        }
        run
    }

    fn answer(
        run: &mut ScenarioRun,
        now: Instant,
        request: &Request,
        behavior: Behavior,
        store: &mut std::collections::BTreeMap<[u8; 32], [u8; 32]>,
    ) {
        let stored = match request.operation {
            Operation::Get { key } => store.get(&key).copied(),
            Operation::Put { key, value } => store.insert(key, value).map(|_| value),
        };
        let answer = Answer {
            src: request.replica,
            client: request.client,
            leader: None,
            mid: request.mid,
            kind: behavior.kind,
            value: behavior.value.or(stored.as_ref().map(|value| &value[..])),
        };
        let later = now + Duration::from_millis(1);
        run.answer(later, &answer, &mut Vec::new());
    }

    #[test]
    fn correct_replicas_pass_scenario_and_get_performance_tiers() {
        let report = run("simple-2", 1, CORRECT).report();
        assert_eq!((report.verdict, &report.reasons), (Verdict::Passed, &Vec::new()));
        let tiers = report.tiers.unwrap();
        assert_eq!(report.total_msgs, 2_000);
        assert_eq!((tiers.total_msgs, tiers.failures), (Tier::Bonus, Tier::Full));
        // The median equals the threshold of 1 ms: no bonus.
        assert_eq!((tiers.duplicates, tiers.median_latency), (Tier::Full, Tier::Full));
        assert!((report.median_latency_s - 0.001).abs() < 1e-9);
        assert_eq!(report.put_latency.count + report.get_latency.count, 500);
        assert_eq!(report.put_quick_share, Some(1.0));
        let per_put = report.messages_per_put.unwrap();
        assert!((per_put - 2_000.0 / report.put_latency.count as f64).abs() < 1e-9);
    }

    #[test]
    fn scenario_run_without_replies_fails_and_lists_all_reasons() {
        let report = run("simple-2", 1, Behavior { answer_from: 99.0, ..CORRECT }).report();
        assert_eq!((report.verdict, report.passed), (Verdict::Failed, false));
        assert_eq!((report.failures, report.unanswered), (500, 500));
        assert_eq!((report.tiers, report.messages_per_put), (None, None));
        let text = report.reasons.join("\n");
        for part in ["no put was", "puts were not", "gets could not", "0 messages between"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Clients without a key send no gets, so none is unanswered.
        assert!(!text.contains("gets were not"), "{text}");
    }

    #[test]
    fn scenario_run_with_too_few_replica_messages_fails() {
        let report = run("simple-2", 1, Behavior { broadcasts: 0, ..CORRECT }).report();
        assert_eq!(report.reasons.len(), 1);
        assert!(report.reasons[0].contains("0 messages between replicas, fewer than the 1000"));
    }

    #[test]
    fn scenario_report_lists_incorrect_values_and_replica_crashes() {
        let mut run = run("simple-1", 1, Behavior { value: Some(b"stale"), ..CORRECT });
        run.died(NodeId(3), "it exited with code 1".to_owned());
        let report = run.report();
        let text = report.reasons.join("\n");
        assert!(text.contains("`stale`") && text.contains("last acknowledged"), "{text}");
        assert!(text.contains("replica 0003 died: it exited with code 1"), "{text}");
        assert!(report.incorrect > 300);
    }

    #[test]
    fn fail_replies_count_as_failures_but_redirects_do_not() {
        let failing = run("simple-1", 1, Behavior { kind: AnswerKind::Fail, ..CORRECT }).report();
        // Every request failed once, and its retry was not answered.
        assert_eq!((failing.failures, failing.unanswered), (1_000, 500));
        let redirecting =
            run("simple-1", 1, Behavior { kind: AnswerKind::Redirect, ..CORRECT }).report();
        assert_eq!((redirecting.failures, redirecting.redirects), (500, 500));
        assert_eq!(redirecting.redirects_per_operation_max, 1);
        assert_eq!(redirecting.put_latency.count, 0, "a redirect is not an acknowledged put");
        assert!(redirecting.median_latency_s > 0.0, "the course's median counts it");
    }

    #[test]
    fn correct_replicas_pass_every_scenario_with_the_default_seed() {
        for name in super::super::scenario::names() {
            assert_eq!(run(name, 1, CORRECT).report().verdict, Verdict::Passed, "{name}");
        }
    }

    /// The request generator alone fails about one advanced-3 run in forty.
    #[test]
    fn correct_scenario_run_with_too_few_gets_does_not_fail() {
        let mut unlucky = 0;
        for seed in 0..300 {
            let report = run("advanced-3", seed, CORRECT).report();
            match report.verdict {
                Verdict::Passed => {}
                Verdict::Unlucky => {
                    assert!(report.reasons.len() == 1 && !report.passed);
                    assert!(report.unlucky_because.is_some());
                    unlucky += 1;
                }
                Verdict::Failed => panic!("seed {seed}: {:?}", report.reasons),
            }
        }
        assert!((1..20).contains(&unlucky), "{unlucky} of 300");
        // A replica that starts to answer late is not excused.
        let late = (0..20).map(|seed| {
            run("simple-1", seed, Behavior { answer_from: 20.0, ..CORRECT }).report().verdict
        });
        assert!(late.into_iter().all(|verdict| verdict == Verdict::Failed));
    }

    #[test]
    fn scenario_run_above_the_message_limit_fails() {
        let report = run("simple-1", 1, Behavior { broadcasts: 100, ..CORRECT }).report();
        assert_eq!(report.verdict, Verdict::Failed);
        assert!(report.reasons[0].contains("max_packets"), "{:?}", report.reasons);
    }

    #[test]
    fn metric_equal_to_a_performance_tier_limit_misses_that_tier() {
        assert_eq!(Tier::of(0.0, [0.0, 1.0, 2.0]), Tier::Full);
        assert_eq!(Tier::of(1.0, [0.0, 1.0, 2.0]), Tier::Partial);
        assert_eq!(Tier::of(2.0, [0.0, 1.0, 2.0]), Tier::None);
        assert_eq!(Tier::of(0.5, [1.0, 1.0, 2.0]), Tier::Bonus);
    }

    #[test]
    fn latency_percentiles_are_computed_from_all_samples() {
        let latency = Latency::of((1..=1_000).map(Duration::from_millis));
        let millis = |seconds: f64| (seconds * 1e3).round();
        assert!(
            (millis(latency.p50_s), millis(latency.p99_s), millis(latency.p9999_s))
                == (500.0, 990.0, 1_000.0)
        );
        assert_eq!(Latency::of(std::iter::empty()), Latency::default());
    }

    #[test]
    fn scenario_json_report_has_the_documented_fields() {
        let value = serde_json::to_value(run("simple-1", 1, CORRECT).report()).unwrap();
        for field in [
            "scenario",
            "passed",
            "total_msgs",
            "failures",
            "duplicates",
            "median_latency_s",
            "redirects",
            "seed",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["tiers"]["total_msgs"], "full");
        assert_eq!(value["verdict"], "passed");
    }
}
