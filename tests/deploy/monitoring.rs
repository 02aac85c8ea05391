//! The dashboard, the alert rules and the guide use only metrics and alerts that exist.
//! `UPDATE_METRICS=1 cargo test --test deploy metrics` rewrites the list of metrics in the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

use bowline::runtime::{MetricInfo, metrics};

use super::{deploy, read};

/// Keywords and functions of `PromQL` that occur in the expressions.
const WORDS: &[&str] = &[
    "abs",
    "and",
    "by",
    "changes",
    "deriv",
    "histogram_quantile",
    "increase",
    "label_values",
    "max",
    "min_over_time",
    "or",
    "rate",
    "sum",
];
/// Labels that Prometheus adds to each sample, or that belong to each histogram.
const OTHER_LABELS: &[&str] = &["instance", "job", "le"];

/// Returns the names of all samples and their possible labels.
fn samples() -> BTreeMap<String, &'static [&'static str]> {
    let of = |metric: MetricInfo| {
        let endings: &[&str] =
            if metric.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let name = |ending: &&str| (format!("{}{ending}", metric.name), metric.labels);
        endings.iter().map(name).collect::<Vec<_>>()
    };
    metrics().flat_map(of).chain([("up".to_owned(), &[][..])]).collect()
}

/// A parsed query.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    /// Names of metrics, functions and labels outside of braces.
    names: Vec<String>,
    /// Names of labels in braces, each with the metric before them.
    labels: Vec<(String, String)>,
}

/// Parses a query. Ignores text in quotes and durations in brackets.
fn query(text: &str) -> Query {
    let mut query = Query::default();
    let mut word = String::new();
    let (mut is_quoted, mut in_braces, mut in_brackets) = (false, false, false);
    for char in text.chars().chain([' ']) {
        if is_quoted {
            is_quoted = char != '"';
            continue;
        }
        if !in_brackets && (char.is_alphanumeric() || char == '_' || char == '$') {
            word.push(char);
            continue;
        }
        let name = std::mem::take(&mut word);
        if name.starts_with(|first: char| first.is_alphabetic()) {
            if in_braces {
                let metric = query.names.last().expect("a metric before the braces").clone();
                query.labels.push((metric, name));
            } else {
                query.names.push(name);
            }
        }
        match char {
            '"' => is_quoted = true,
            '{' => in_braces = true,
            '}' => in_braces = false,
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
    }
    query
}

/// Asserts that a query uses only metrics, labels and functions that exist.
#[track_caller]
fn assert_query_known(text: &str) {
    let samples = samples();
    let Query { names, labels } = query(text);
    let used: Vec<&String> = names.iter().filter(|name| samples.contains_key(*name)).collect();
    assert!(!used.is_empty(), "no metric in: {text}");
    let of_used: BTreeSet<&str> = used.iter().flat_map(|name| samples[*name]).copied().collect();
    for name in &names {
        let is_label = OTHER_LABELS.contains(&&**name) || of_used.contains(&**name);
        let is_known = samples.contains_key(name) || WORDS.contains(&&**name) || is_label;
        assert!(is_known, "unknown name {name} in: {text}");
    }
    for (metric, label) in &labels {
        let known = samples.get(metric).unwrap_or_else(|| panic!("no metric {metric}: {text}"));
        let is_known = known.contains(&&**label) || OTHER_LABELS.contains(&&**label);
        assert!(is_known, "{metric} has no label {label}: {text}");
    }
}

/// Returns the expressions of the alert rules, by the name of the alert.
fn rules() -> BTreeMap<String, String> {
    let text = deploy("prometheus-rules.yaml");
    let rules = text.split("- alert: ").skip(1).map(|rule| {
        let (name, rest) = rule.split_once('\n').expect("a name");
        let (_, expression) = rest.split_once("expr: ").expect("an expression");
        let end = ["\n        for: ", "\n        labels: "];
        let end = end.iter().filter_map(|end| expression.find(end)).min().expect("an end");
        assert!(rest.contains("severity: ") && rest.contains("summary: \""), "{name}");
        (name.to_owned(), expression[..end].trim_start_matches(">-").to_owned())
    });
    rules.collect()
}

#[test]
fn queries_are_parsed() {
    let text = "sum by (peer) (rate(a_total{x=\"b{c}\",y=~\"d\"}[5m])) > 2 * e and $f[$g] == 1";
    let found = query(text);
    assert_eq!(found.names, ["sum", "by", "peer", "rate", "a_total", "e", "and"]);
    let label = |name: &str| ("a_total".to_owned(), name.to_owned());
    assert_eq!(found.labels, [label("x"), label("y")]);
}

#[test]
fn alert_rules_use_exported_metrics_and_are_in_the_guide() {
    let rules = rules();
    assert!(rules.len() >= 10, "{rules:?}");
    for expression in rules.values() {
        assert_query_known(expression);
    }
    let guide = read("src/guide/monitoring.md");
    let named: BTreeSet<&str> = guide
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|line| line.split('`'))
        .filter(|word| word.starts_with("Bowline") && !word.contains(' '))
        .collect();
    assert_eq!(named, rules.keys().map(String::as_str).collect(), "alarms of the guide and rules");
}

#[test]
fn dashboard_panels_use_exported_metrics() {
    let text = deploy("grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut ids = BTreeSet::new();
    let mut expressions = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "each panel has an id: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_query_known(target["expr"].as_str().unwrap());
            expressions += 1;
        }
    }
    assert!(expressions >= 30, "only {expressions}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(text) = variable["query"]["query"].as_str() {
            assert_query_known(text);
        }
    }
}

#[test]
fn guide_lists_all_metrics() {
    const START: &str = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    let row = |MetricInfo { name, kind, labels, help }: MetricInfo| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
    };
    let rows: String = metrics().map(row).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/metrics.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, _) = page.split_once(START).expect("the table");
    let wanted = format!("{before}{START}{rows}");
    if env::var_os("UPDATE_METRICS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert!(page == wanted, "src/guide/metrics.md is old; run with UPDATE_METRICS=1");
    }
}
