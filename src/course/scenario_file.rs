//! Parser for scenario files: validates every field, and rejects invalid fields with an error that
//! says how to correct them. The parser works on text; the caller reads the file.

use std::time::Duration;

use serde_json::{Map, Value};

use super::scenario::{Benchmarks, Event, EventKind, Limits, Scenario, ScenarioError};

impl Scenario {
    /// Parses and validates the text of a scenario file. `name` identifies the scenario in errors
    /// and reports.
    ///
    /// # Errors
    /// If the text is not a JSON object, or a field is missing or out of range.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let value: Value = serde_json::from_str(text).map_err(|problem| {
            ScenarioError::NotJson { file: name.to_owned(), problem: problem.to_string() }
        })?;
        let top = Reader::new(name, "", &value)?;
        let lifetime = top.integer(
            "lifetime",
            5,
            1_000_000,
            &Need::Required("the duration of the requests in seconds"),
        )?;
        let replicas = top.integer("replicas", 3, 21, &Need::Required("the number of replicas"))?;
        let requests =
            top.integer("requests", 1, 1_000_000_000, &Need::Required("the number of requests"))?;
        let lifetime_s = lifetime as f64;
        let start_wait = top.number("start_wait", 0.0, lifetime_s, Some(5.0))?;
        let end_wait = top.number("end_wait", 0.0, lifetime_s, Some(2.0))?;
        let max_packets = top.integer("max_packets", requests, 900_000, &Need::Default(20_000))?;
        let tests = top.object("tests", "with the field `benchmarks`")?;
        let benchmarks = tests.object(
            "benchmarks",
            "with the fields `total_msgs`, `failures`, `duplicates` and `median_latency`",
        )?;
        benchmarks.only(&["total_msgs", "failures", "duplicates", "median_latency"])?;
        let misplaced = "maximum_get_generation_fail_fraction";
        Ok(Scenario {
            name: name.to_owned(),
            description: top.text("description"),
            window: Duration::from_secs(lifetime),
            replicas: u16::try_from(replicas).expect("at most 21"),
            requests: u32::try_from(requests).expect("at most 10^9"),
            seed: top.seed(),
            mix: top.number("mix", 0.0, 1.0, Some(0.8))?,
            start_wait: Duration::from_secs_f64(start_wait),
            end_wait: Duration::from_secs_f64(end_wait),
            drops: top.number("drops", 0.0, 1.0, Some(0.0))?,
            max_packets,
            events: top.events(lifetime_s)?,
            limits: Limits {
                gets_unanswered: tests.number("maximum_get_fail_fraction", 0.0, 1.0, Some(0.5))?,
                puts_unanswered: tests.number("maximum_put_fail_fraction", 0.0, 1.0, Some(0.5))?,
                gets_not_generated: tests.number(misplaced, 0.0, 1.0, Some(0.1))?,
                gets_not_generated_misplaced: match top.fields.get(misplaced) {
                    Some(_) => Some(top.number(misplaced, 0.0, 1.0, None)?),
                    None => None,
                },
                appends_batched: tests.number(
                    "maximum_appends_batched_fraction",
                    0.0,
                    1.0,
                    Some(0.5),
                )?,
            },
            benchmarks: Benchmarks {
                total_msgs: benchmarks.tiers("total_msgs")?,
                failures: benchmarks.tiers("failures")?,
                duplicates: benchmarks.tiers("duplicates")?,
                median_latency: benchmarks.tiers("median_latency")?,
            },
            overridden: Vec::new(),
        })
    }
}

/// Whether a field of a scenario file is required, or has a default value.
enum Need {
    /// The field is required. The text describes the field for the error message if it is missing.
    Required(&'static str),
    /// The field is optional, with this default value.
    Default(u64),
}

/// Reads the fields of one JSON object in a scenario file. `file` and `path` identify the object in
/// error messages.
struct Reader<'a> {
    file: &'a str,
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str, path: &str, value: &'a Value) -> Result<Reader<'a>, ScenarioError> {
        let fields = value.as_object().ok_or_else(|| ScenarioError::Invalid {
            file: file.to_owned(),
            field: if path.is_empty() { "whole file".to_owned() } else { path.to_owned() },
            value: short(value),
            advice: "must be an object { .. }".to_owned(),
        })?;
        Ok(Reader { file, path: path.to_owned(), fields })
    }

    fn full_name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    fn missing(&self, field: &str, advice: String) -> ScenarioError {
        ScenarioError::Missing { file: self.file.to_owned(), field: self.full_name(field), advice }
    }

    fn invalid(&self, field: &str, value: &Value, advice: String) -> ScenarioError {
        ScenarioError::Invalid {
            file: self.file.to_owned(),
            field: self.full_name(field),
            value: short(value),
            advice,
        }
    }

    fn integer(&self, field: &str, low: u64, high: u64, need: &Need) -> Result<u64, ScenarioError> {
        let Some(value) = self.fields.get(field) else {
            return match need {
                Need::Default(default) => Ok((*default).max(low)),
                Need::Required(what) => {
                    Err(self
                        .missing(field, format!("must be an integer from {low} to {high}: {what}")))
                }
            };
        };
        // 30.0 is an integer, too: the course's simulator accepts it.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an integer from 0 to 10^12"
        )]
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && (0.0..=1e12).contains(number))
                .map(|number| number as u64)
        });
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            _ => {
                Err(self.invalid(field, value, format!("must be an integer from {low} to {high}")))
            }
        }
    }

    fn number(
        &self,
        field: &str,
        low: f64,
        high: f64,
        default: Option<f64>,
    ) -> Result<f64, ScenarioError> {
        match (self.fields.get(field), default) {
            (None, Some(default)) => Ok(default.min(high)),
            (None, None) => {
                Err(self.missing(field, format!("must be a number from {low} to {high}")))
            }
            (Some(value), _) => match value.as_f64() {
                Some(number) if (low..=high).contains(&number) => Ok(number),
                _ => Err(self.invalid(
                    field,
                    value,
                    format!("must be a number from {low} to {high}"),
                )),
            },
        }
    }

    fn object(&self, field: &str, content: &str) -> Result<Reader<'a>, ScenarioError> {
        let value = self
            .fields
            .get(field)
            .ok_or_else(|| self.missing(field, format!("must be an object {content}")))?;
        Reader::new(self.file, &self.full_name(field), value)
    }

    fn only(&self, known: &[&str]) -> Result<(), ScenarioError> {
        match self.fields.iter().find(|(field, _)| !known.contains(&field.as_str())) {
            Some((field, value)) => Err(self.invalid(
                field,
                value,
                format!("unknown field; the fields here are {}", known.join(", ")),
            )),
            None => Ok(()),
        }
    }

    fn tiers(&self, field: &str) -> Result<[f64; 3], ScenarioError> {
        let advice = "must be a list of exactly three numbers, such as [1000, 2000, 3000]";
        let value = self.fields.get(field).ok_or_else(|| self.missing(field, advice.to_owned()))?;
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers
            .and_then(|numbers| <[f64; 3]>::try_from(numbers).ok())
            .ok_or_else(|| self.invalid(field, value, advice.to_owned()))
    }

    fn text(&self, field: &str) -> String {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Returns the random seed in the scenario file; `None` if there is none. The university
    /// course's simulator accepts almost any JSON value: an integer is used directly, any other
    /// value is hashed with FNV-1a, so that the seed is the same in every version.
    fn seed(&self) -> Option<u64> {
        match self.fields.get("seed")? {
            Value::Null => None,
            value => Some(value.as_u64().unwrap_or_else(|| {
                value.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                })
            })),
        }
    }

    fn events(&self, lifetime_s: f64) -> Result<Vec<Event>, ScenarioError> {
        let Some(value) = self.fields.get("events") else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| {
            self.invalid(
                "events",
                value,
                "must be a list of {\"type\": .., \"time\": ..}".to_owned(),
            )
        })?;
        let mut events = Vec::with_capacity(list.len());
        for (place, value) in list.iter().enumerate() {
            let event = Reader::new(self.file, &format!("events[{place}]"), value)?;
            let advice =
                "must be one of kill_leader, kill_non_leader, part_easy, part_hard, part_end";
            let name =
                event.fields.get("type").ok_or_else(|| event.missing("type", advice.to_owned()))?;
            let kind = name
                .as_str()
                .and_then(EventKind::by_name)
                .ok_or_else(|| event.invalid("type", name, advice.to_owned()))?;
            let at = Duration::from_secs_f64(event.number("time", 0.0, lifetime_s, None)?);
            events.push(Event { at, kind });
        }
        // The sort is stable: events of the same time keep the order of the file.
        events.sort_by_key(|event| event.at);
        Ok(events)
    }
}

/// Returns a JSON value as text for error messages, shortened to 60 characters.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid scenario with one top-level field replaced, or removed if `value` is null.
    fn changed(field: &str, value: &Value) -> Result<Scenario, ScenarioError> {
        let mut text: Value = serde_json::from_str(include_str!("scenarios/crash-2.json")).unwrap();
        match value {
            Value::Null => text.as_object_mut().unwrap().remove(field),
            value => text.as_object_mut().unwrap().insert(field.to_owned(), value.clone()),
        };
        Scenario::parse("mine.json", &text.to_string())
    }

    fn complaint(field: &str, value: &str) -> String {
        changed(field, &serde_json::from_str(value).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn error_for_an_invalid_scenario_names_field_value_and_fix() {
        for (field, value, parts) in [
            ("lifetime", "null", ["`lifetime` is missing", "from 5"]),
            ("lifetime", "4", ["`lifetime` is 4", "from 5"]),
            ("replicas", "2", ["`replicas` is 2", "from 3 to 21"]),
            ("replicas", "\"five\"", ["`replicas` is \"five\"", "an integer"]),
            ("requests", "0", ["`requests` is 0", "from 1"]),
            ("requests", "1.5", ["`requests` is 1.5", "an integer"]),
            ("mix", "1.2", ["`mix` is 1.2", "from 0 to 1"]),
            ("drops", "-1", ["`drops` is -1", "from 0 to 1"]),
            ("start_wait", "31", ["`start_wait` is 31", "from 0 to 30"]),
            ("max_packets", "10", ["`max_packets` is 10", "from 500 to 900000"]),
            ("events", "3", ["`events` is 3", "a list"]),
            ("events", "[{\"time\": 3}]", ["`events[0].type` is missing", "kill_leader"]),
            ("events", "[{\"type\": \"part\"}]", ["`events[0].type` is \"part\"", "part_hard"]),
            ("events", "[{\"type\": \"part_end\"}]", ["`events[0].time` is missing", "to 30"]),
            ("tests", "null", ["`tests` is missing", "benchmarks"]),
            ("tests", "{}", ["`tests.benchmarks` is missing", "total_msgs"]),
            (
                "tests",
                "{\"benchmarks\": {}}",
                ["`tests.benchmarks.total_msgs` is missing", "three"],
            ),
            (
                "tests",
                "{\"benchmarks\": {\"speed\": 1}}",
                ["`tests.benchmarks.speed` is 1", "unknown field"],
            ),
        ] {
            let text = complaint(field, value);
            assert!(text.starts_with("mine.json: "), "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn scenario_file_that_is_not_a_json_object_is_rejected() {
        let text = Scenario::parse("x", "{\"lifetime\": 30,}").unwrap_err().to_string();
        assert!(text.contains("not JSON") && text.contains("line 1"), "{text}");
        let text = Scenario::parse("x", "[1]").unwrap_err().to_string();
        assert!(text.contains("`whole file` is [1]"), "{text}");
    }

    #[test]
    fn misplaced_scenario_file_field_is_kept_but_has_no_effect() {
        let key = "maximum_get_generation_fail_fraction";
        let limits = changed(key, &0.2.into()).unwrap().limits;
        assert_eq!(
            (limits.gets_not_generated, limits.gets_not_generated_misplaced),
            (0.1, Some(0.2))
        );
    }

    #[test]
    fn scenario_seeds_of_any_json_type_are_accepted() {
        assert_eq!(changed("seed", &7.into()).unwrap().seed, Some(7));
        assert!(changed("seed", &"seven".into()).unwrap().seed.is_some());
        assert_eq!(changed("seed", &Value::Null).unwrap().seed, None);
    }
}
