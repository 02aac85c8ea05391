//! Scenarios: number of replicas, load, faults on a schedule, and the limits for grading a run.
//!
//! Scenario files have the schema of the university course's simulator, so files can be exchanged
//! with it. A scenario is validated once, in `scenario_file.rs`; all other code relies on that.

use std::time::Duration;

/// A validated scenario: number of replicas, load, scheduled faults, and limits for grading.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// Name of the built-in scenario, or path of the scenario file.
    pub name: String,
    /// One-line description of the scenario, for the user. The university course's simulator
    /// ignores it.
    pub description: String,
    /// Duration of the request window, in which clients send requests. The run also includes the
    /// times `start_wait` before and `end_wait` after it.
    pub window: Duration,
    /// Number of replicas, 3 to 21.
    pub replicas: u16,
    /// Total number of client requests, evenly spaced over `window`.
    pub requests: u32,
    /// Random seed in the scenario file; `None` if the file gives no seed.
    pub seed: Option<u64>,
    /// Fraction of requests that are gets, from 0 to 1.
    pub mix: f64,
    /// Time from the start of the run to the first request.
    pub start_wait: Duration,
    /// Time from the end of the request window, `window`, to the end of the run.
    pub end_wait: Duration,
    /// Probability, from 0 to 1, that a message between replicas is lost.
    pub drops: f64,
    /// Maximum number of messages between replicas; the run ends when it is reached.
    pub max_packets: u64,
    /// Scheduled faults and partition heals, in chronological order.
    pub events: Vec<Event>,
    /// The limits within which a run counts as correct.
    pub limits: Limits,
    /// Thresholds for the grades of a correct run.
    pub benchmarks: Benchmarks,
    /// Changes that [`Scenario::with`] has made, each as `name=value`, to be shown in the report.
    pub overridden: Vec<String>,
}

/// A scheduled fault of a scenario, or the end of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Time of the event, measured from the first request (not from the start of the run).
    pub at: Duration,
    /// The type of the event: the kill of a replica, or the start or end of a network partition.
    pub kind: EventKind,
}

/// The type of a scenario's scheduled event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// Kills the leader named in the latest message.
    KillLeader,
    /// Kills a random replica other than the leader named in the latest message.
    KillNonLeader,
    /// Partitions the network. The majority side includes the leader named in the latest message,
    /// if any; its other members are random.
    PartEasy,
    /// Partitions the network. The majority side consists of random replicas.
    PartHard,
    /// Ends the network partition.
    PartEnd,
}

/// The limits within which a run counts as correct, as fractions from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Fraction of the planned gets that may stay unanswered.
    pub gets_unanswered: f64,
    /// Fraction of the planned puts that may stay unanswered.
    pub puts_unanswered: f64,
    /// Fraction of the planned gets that may become puts because the client has no acknowledged put
    /// yet, so that there is no key to read.
    pub gets_not_generated: f64,
    /// The value of `gets_not_generated` that the scenario file gives outside of the object
    /// `tests`, where the university course's simulator and this program ignore it; `None` if the
    /// file has no such field. A run that fails only because the value is ignored counts as unlucky
    /// instead of failed.
    pub gets_not_generated_misplaced: Option<f64>,
    /// Fraction of replication messages (one per put and replica) that batching may save. A run
    /// that saves more is not correct.
    pub appends_batched: f64,
}

/// The thresholds for grading a correct run, three per metric. A value below the first threshold
/// earns the bonus, below the second full credit, below the third partial credit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Benchmarks {
    /// Thresholds for the number of messages between replicas.
    pub total_msgs: [f64; 3],
    /// Thresholds for the number of `fail` answers and unanswered requests.
    pub failures: [f64; 3],
    /// Thresholds for the number of duplicate answers: answers to requests that had already been
    /// answered with `ok`.
    pub duplicates: [f64; 3],
    /// Thresholds, in seconds, for the median latency of all answers, including redirects.
    pub median_latency: [f64; 3],
}

/// Changes to a scenario from the command line. Fields that are `None` keep the scenario's value.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Overrides {
    /// Request rate of all clients together, per second; `None` keeps the scenario's value.
    pub rate: Option<f64>,
    /// Total number of client requests; `None` keeps the scenario's value.
    pub requests: Option<u32>,
    /// Duration of the request window in seconds; `None` keeps the scenario's value.
    pub seconds: Option<f64>,
    /// Number of replicas; `None` keeps the scenario's value.
    pub replicas: Option<u16>,
    /// Probability, from 0 to 1, that a message between replicas is lost; `None` keeps the
    /// scenario's value.
    pub drops: Option<f64>,
}

/// The reason why a scenario is invalid, with advice on how to correct it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The scenario's text is not valid JSON.
    #[error(
        "{file}: not JSON ({problem}); a scenario is a JSON object, see src/course/scenarios for \
         examples"
    )]
    NotJson {
        /// Path of the scenario file, or `command line`.
        file: String,
        /// The message of the JSON parser, with line and column.
        problem: String,
    },
    /// A required field of the scenario is missing.
    #[error("{file}: `{field}` is missing; {advice}")]
    Missing {
        /// Path of the scenario file, or `command line`.
        file: String,
        /// Name of the missing field.
        field: String,
        /// Advice on the values that the missing field may have.
        advice: String,
    },
    /// A field of the scenario, or a command-line option that changes it, has an invalid value.
    #[error("{file}: `{field}` is {value}; {advice}")]
    Invalid {
        /// Path of the scenario file, or `command line`.
        file: String,
        /// Name of the field or option.
        field: String,
        /// The invalid value, as text.
        value: String,
        /// Advice on the values that the field may have.
        advice: String,
    },
    /// No built-in scenario has the given name.
    #[error(
        "there is no scenario `{name}`: give a file, or one of {}, or `all`",
        names().collect::<Vec<_>>().join(", ")
    )]
    UnknownName {
        /// The name that no built-in scenario has.
        name: String,
    },
}

macro_rules! built_in {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("scenarios/", $name, ".json")))),*]
    };
}

/// Names and JSON texts of the university course's 17 scenarios, in the course's order.
static BUILT_IN: [(&str, &str); 17] = built_in![
    "simple-1",
    "simple-2",
    "unreliable-1",
    "unreliable-2",
    "unreliable-3",
    "crash-1",
    "crash-2",
    "crash-3",
    "crash-4",
    "partition-1",
    "partition-2",
    "partition-3",
    "partition-4",
    "advanced-1",
    "advanced-2",
    "advanced-3",
    "advanced-4"
];

/// Returns the names of the built-in scenarios, in the university course's order.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

impl EventKind {
    /// Returns the name of the event type in scenario files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::KillLeader => "kill_leader",
            EventKind::KillNonLeader => "kill_non_leader",
            EventKind::PartEasy => "part_easy",
            EventKind::PartHard => "part_hard",
            EventKind::PartEnd => "part_end",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<EventKind> {
        use EventKind::{KillLeader, KillNonLeader, PartEasy, PartEnd, PartHard};
        [KillLeader, KillNonLeader, PartEasy, PartHard, PartEnd]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

impl Scenario {
    /// Returns the built-in scenario with this name.
    ///
    /// # Errors
    /// If no built-in scenario has this name. The error lists all names.
    pub fn built_in(name: &str) -> Result<Scenario, ScenarioError> {
        let (name, text) = BUILT_IN
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| ScenarioError::UnknownName { name: name.to_owned() })?;
        Scenario::parse(name, text)
    }

    /// Returns the duration of a run: initial wait, request window and final wait.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.start_wait + self.window + self.end_wait
    }

    /// Applies changes from the command line to the scenario. A new duration keeps the request
    /// rate, unless the rate or the number of requests is also changed. The times of events scale
    /// with the duration. The message limit grows with the number of requests, as in the university
    /// course's files (20,000 messages for 500 requests and 5 replicas).
    ///
    /// # Errors
    /// If a number is out of range, or rate, requests and seconds are all given.
    pub fn with(mut self, overrides: &Overrides) -> Result<Scenario, ScenarioError> {
        let invalid = |field: &str, value: String, advice: &str| ScenarioError::Invalid {
            file: "command line".to_owned(),
            field: field.to_owned(),
            value,
            advice: advice.to_owned(),
        };
        if *overrides == Overrides::default() {
            return Ok(self);
        }
        let positive = |field: &str, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value > 0.0 && value <= 1e6) => {
                Err(invalid(field, value.to_string(), "must be above 0 and at most 1000000"))
            }
            _ => Ok(()),
        };
        positive("--rate", overrides.rate)?;
        positive("--seconds", overrides.seconds)?;
        if overrides.requests == Some(0) {
            return Err(invalid("--requests", "0".to_owned(), "must be at least 1"));
        }
        if overrides.rate.is_some() && overrides.requests.is_some() && overrides.seconds.is_some() {
            return Err(invalid(
                "--seconds",
                "given together with --rate and --requests".to_owned(),
                "two of the three determine the third; give only two of the three",
            ));
        }
        let old_window = self.window.as_secs_f64();
        let rate = overrides.rate.unwrap_or(f64::from(self.requests) / old_window);
        let seconds = match (overrides.seconds, overrides.requests, overrides.rate) {
            (Some(seconds), _, _) => seconds,
            (None, Some(requests), Some(rate)) => f64::from(requests) / rate,
            _ => old_window,
        };
        let requests = overrides.requests.map_or(rate * seconds, f64::from).round().max(1.0);
        if requests > 1e9 {
            return Err(invalid(
                "--rate",
                rate.to_string(),
                "must not exceed 1000000000 requests in all",
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and 10^9"
        )]
        let requests = requests as u32;
        if let Some(replicas) = overrides.replicas {
            if !(3..=21).contains(&replicas) {
                return Err(invalid("--replicas", replicas.to_string(), "must be from 3 to 21"));
            }
            self.replicas = replicas;
        }
        if let Some(drops) = overrides.drops {
            if !(0.0..=1.0).contains(&drops) {
                return Err(invalid(
                    "--drops",
                    drops.to_string(),
                    "must be a probability from 0 to 1",
                ));
            }
            self.drops = drops;
        }
        self.requests = requests;
        self.window = Duration::from_secs_f64(seconds);
        for event in &mut self.events {
            event.at = event.at.mul_f64(seconds / old_window);
        }
        self.max_packets =
            self.max_packets.max(8 * u64::from(self.requests) * u64::from(self.replicas));
        self.overridden = overrides.list();
        Ok(self)
    }
}

impl Overrides {
    /// Returns the fields that are set, each as `name=value`.
    fn list(&self) -> Vec<String> {
        let changes = [
            ("rate", self.rate.map(|value| value.to_string())),
            ("requests", self.requests.map(|value| value.to_string())),
            ("seconds", self.seconds.map(|value| value.to_string())),
            ("replicas", self.replicas.map(|value| value.to_string())),
            ("drops", self.drops.map(|value| value.to_string())),
        ];
        changes
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_scenarios_are_valid() {
        assert_eq!(names().count(), 17);
        for name in names() {
            let scenario = Scenario::built_in(name).unwrap();
            assert_eq!((scenario.replicas, scenario.window.as_secs()), (5, 30), "{name}");
            assert_eq!(scenario.start_wait, Duration::from_secs(5), "{name}");
            assert_eq!(scenario.limits.gets_not_generated.to_bits(), 0.1_f64.to_bits(), "{name}");
            assert!(!scenario.description.is_empty(), "{name}");
            assert_eq!(scenario.max_packets, 20_000);
        }
    }

    #[test]
    fn advanced_3_scenario_matches_its_original_definition() {
        let scenario = Scenario::built_in("advanced-3").unwrap();
        assert_eq!(scenario.requests, 200);
        assert_eq!(
            (scenario.mix.to_bits(), scenario.drops.to_bits()),
            (0.2_f64.to_bits(), 0.3_f64.to_bits())
        );
        assert_eq!(scenario.lifetime(), Duration::from_secs(45));
        assert_eq!(
            scenario.events,
            [Event { at: Duration::from_secs(5), kind: EventKind::KillLeader }]
        );
        assert_eq!(scenario.limits.gets_not_generated_misplaced, Some(0.2));
        let bits = |tiers: [f64; 3]| tiers.map(f64::to_bits);
        assert_eq!(bits(scenario.benchmarks.duplicates), bits([0.0, 6.0, 20.0]));
        assert_eq!(bits(scenario.benchmarks.median_latency), bits([0.0002, 0.005, 0.1]));
    }

    #[test]
    fn unknown_scenario_name_is_rejected_with_the_valid_names() {
        let text = Scenario::built_in("advanced-5").unwrap_err().to_string();
        assert!(
            text.contains("`advanced-5`") && text.contains("advanced-4") && text.contains("all")
        );
    }

    #[test]
    fn longer_scenario_run_scales_fault_times_and_message_limit() {
        let crash = || Scenario::built_in("crash-2").unwrap();
        let longer =
            crash().with(&Overrides { seconds: Some(60.0), ..Overrides::default() }).unwrap();
        assert_eq!((longer.requests, longer.window.as_secs()), (1_000, 60));
        assert_eq!(longer.events[0].at, Duration::from_secs(20));
        assert_eq!(longer.max_packets, 40_000);
        let faster = crash().with(&Overrides { rate: Some(1e3), ..Overrides::default() }).unwrap();
        assert_eq!((faster.requests, faster.window.as_secs()), (30_000, 30));
        let both = Overrides { rate: Some(100.0), requests: Some(50), ..Overrides::default() };
        let short = crash().with(&both).unwrap();
        assert_eq!((short.requests, short.window.as_millis()), (50, 500));
        assert_eq!(short.overridden, ["rate=100", "requests=50"]);
        let all = Overrides { seconds: Some(1.0), ..both };
        assert!(crash().with(&all).unwrap_err().to_string().contains("two of the three"));
        for (bad, name) in [
            (Overrides { rate: Some(-1.0), ..Overrides::default() }, "--rate"),
            (Overrides { drops: Some(1.5), ..Overrides::default() }, "--drops"),
            (Overrides { replicas: Some(2), ..Overrides::default() }, "--replicas"),
            (Overrides { requests: Some(0), ..Overrides::default() }, "--requests"),
        ] {
            assert!(crash().with(&bad).unwrap_err().to_string().contains(name));
        }
    }
}
