//! Scenario files: what is asked, how often, what goes wrong when, and how the result is judged.
//!
//! The schema is that of the course's own files, so either side's files load on the other. A
//! scenario is checked once, in `scenario_file.rs`; everything behind takes its fields as
//! sound.

use std::time::Duration;

/// A checked scenario.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// Its name, or the file it came from.
    pub name: String,
    /// One line for people. The course's simulator ignores it.
    pub description: String,
    /// How long requests are sent. The whole run lasts longer by both waits.
    pub window: Duration,
    /// How many replicas.
    pub replicas: u16,
    /// How many requests, evenly spaced over the window.
    pub requests: u32,
    /// The seed that the file asks for.
    pub seed: Option<u64>,
    /// Share of gets.
    pub mix: f64,
    /// From the start to the first request.
    pub start_wait: Duration,
    /// From the end of the window to the end of the run.
    pub end_wait: Duration,
    /// Probability that a message between replicas is lost.
    pub drops: f64,
    /// So many messages between replicas end the run.
    pub max_packets: u64,
    /// What goes wrong, in order of time.
    pub events: Vec<Event>,
    /// Within what a run is correct.
    pub limits: Limits,
    /// What a correct run is worth.
    pub benchmarks: Benchmarks,
    /// What [`Scenario::with`] changed, for the report.
    pub overridden: Vec<String>,
}

/// Something that happens during a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Time since the first request (not since the start).
    pub at: Duration,
    /// What.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// The replica that the messages name as leader is killed.
    KillLeader,
    /// Another one is.
    KillNonLeader,
    /// The network splits; the leader and a bare majority are on one side.
    PartEasy,
    /// The network splits; a random bare majority is on one side.
    PartHard,
    /// All links are back.
    PartEnd,
}

/// Within what a run counts as correct.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Share of the planned gets that may stay unanswered.
    pub gets_unanswered: f64,
    /// Share of the planned puts that may stay unanswered.
    pub puts_unanswered: f64,
    /// Share of the planned gets that may become puts because the client has nothing to get yet.
    pub gets_not_generated: f64,
    /// The same as the file meant it, where it has the key in the wrong place: the course's
    /// simulator looks for it inside `tests` only and keeps to its default. So do we; but a run
    /// that fails by this difference is called unlucky, not failed.
    pub gets_not_generated_misplaced: Option<f64>,
    /// Share of the appends that may be saved by batching before there are too few messages.
    pub appends_batched: f64,
}

/// Three thresholds a metric: below the first is the bonus, below the second full credit, below
/// the third partial credit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Benchmarks {
    /// Messages between replicas.
    pub total_msgs: [f64; 3],
    /// `fail` answers and requests never answered.
    pub failures: [f64; 3],
    /// Answers to what had been answered.
    pub duplicates: [f64; 3],
    /// Median time to any answer, in seconds.
    pub median_latency: [f64; 3],
}

/// What the performance mode changes in a scenario; `None` leaves it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Overrides {
    /// Requests a second.
    pub rate: Option<f64>,
    /// Requests in all.
    pub requests: Option<u32>,
    /// Length of the window in seconds.
    pub seconds: Option<f64>,
    /// Replicas.
    pub replicas: Option<u16>,
    /// Probability of loss.
    pub drops: Option<f64>,
}

/// What is wrong with a scenario, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is no JSON.
    #[error(
        "{file}: not JSON ({problem}); a scenario is one JSON object such as those in \
         src/sim/scenarios"
    )]
    NotJson {
        /// Which file.
        file: String,
        /// What the parser says, with line and column.
        problem: String,
    },
    /// A field that can't be left out is.
    #[error("{file}: `{field}` is missing; {advice}")]
    Missing {
        /// Which file.
        file: String,
        /// Which field.
        field: String,
        /// What to write.
        advice: String,
    },
    /// A field holds what it can't.
    #[error("{file}: `{field}` is {value}; {advice}")]
    Wrong {
        /// Which file, or the command line.
        file: String,
        /// Which field.
        field: String,
        /// What it holds.
        value: String,
        /// What to write instead.
        advice: String,
    },
    /// No built-in scenario has this name.
    #[error(
        "there is no scenario `{name}`: give a file, or one of {}, or `all`",
        names().collect::<Vec<_>>().join(", ")
    )]
    UnknownName {
        /// The name that was asked for.
        name: String,
    },
}

macro_rules! built_in {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("scenarios/", $name, ".json")))),*]
    };
}

/// The 17 scenarios of the course, in its order.
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

/// Names of the built-in scenarios, in the course's order.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

impl EventKind {
    /// The word in the files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            EventKind::KillLeader => "kill_leader",
            EventKind::KillNonLeader => "kill_non_leader",
            EventKind::PartEasy => "part_easy",
            EventKind::PartHard => "part_hard",
            EventKind::PartEnd => "part_end",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<EventKind> {
        use EventKind::{KillLeader, KillNonLeader, PartEasy, PartEnd, PartHard};
        [KillLeader, KillNonLeader, PartEasy, PartHard, PartEnd]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

impl Scenario {
    /// The built-in scenario of this name.
    ///
    /// # Errors
    /// If there is none; the error lists the names.
    pub fn built_in(name: &str) -> Result<Scenario, ScenarioError> {
        let (name, text) = BUILT_IN
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| ScenarioError::UnknownName { name: name.to_owned() })?;
        Scenario::parse(name, text)
    }

    /// From the start to the end of a run.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.start_wait + self.window + self.end_wait
    }

    /// The scenario with some numbers changed. Who changes the length keeps the rate, unless the
    /// rate or the count is given too; the events keep their places in the window. The limit on
    /// messages grows with the number of requests, as in the course's files (20,000 for 500
    /// requests at 5 replicas).
    ///
    /// # Errors
    /// If a number is out of its range, or rate, requests and seconds contradict each other.
    pub fn with(mut self, overrides: &Overrides) -> Result<Scenario, ScenarioError> {
        let wrong = |field: &str, value: String, advice: &str| ScenarioError::Wrong {
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
                Err(wrong(field, value.to_string(), "give a number above 0 and up to 1000000"))
            }
            _ => Ok(()),
        };
        positive("--rate", overrides.rate)?;
        positive("--seconds", overrides.seconds)?;
        if overrides.requests == Some(0) {
            return Err(wrong("--requests", "0".to_owned(), "give at least 1"));
        }
        if overrides.rate.is_some() && overrides.requests.is_some() && overrides.seconds.is_some() {
            return Err(wrong(
                "--seconds",
                "given beside --rate and --requests".to_owned(),
                "give two of the three; the third follows",
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
            return Err(wrong("--rate", rate.to_string(), "keep to 1000000000 requests in all"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and a thousand million"
        )]
        let requests = requests as u32;
        if let Some(replicas) = overrides.replicas {
            if !(3..=21).contains(&replicas) {
                return Err(wrong("--replicas", replicas.to_string(), "give 3 to 21"));
            }
            self.replicas = replicas;
        }
        if let Some(drops) = overrides.drops {
            if !(0.0..=1.0).contains(&drops) {
                return Err(wrong("--drops", drops.to_string(), "give a probability, 0 to 1"));
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
        self.overridden = overrides.words();
        Ok(self)
    }
}

impl Overrides {
    /// Each change as `name=value`.
    fn words(&self) -> Vec<String> {
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
    fn the_built_in_scenarios_load() {
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
    fn the_numbers_of_one_scenario_are_the_courses() {
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
    fn an_unknown_name_gets_the_list() {
        let text = Scenario::built_in("advanced-5").unwrap_err().to_string();
        assert!(
            text.contains("`advanced-5`") && text.contains("advanced-4") && text.contains("all")
        );
    }

    #[test]
    fn overrides_keep_the_shape() {
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
