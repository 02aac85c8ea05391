//! Tests of the program `perf report`: the charts are parsed and compared with the input files.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{folder, perf, stderr};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::{Value, json};

fn latency(count: u64, p50_s: f64, p99_s: f64) -> Value {
    json!({
        "count": count, "min_s": p50_s, "mean_s": p50_s, "p50_s": p50_s, "p90_s": p50_s,
        "p95_s": p50_s, "p99_s": p99_s, "p999_s": p99_s, "p9999_s": p99_s, "max_s": p99_s
    })
}

/// Returns JSON of `perf load` with one second for each of `rates`, in operations per second. Half
/// of the operations take at most `p50_s`, and all take at most `p99_s`.
fn load(name: &str, rates: &[u64], p50_s: f64, p99_s: f64) -> Value {
    let seconds = rates.iter().enumerate().map(|(number, rate)| {
        json!({
            "number": number, "succeeded": rate, "failed": 0, "backlog": 0,
            "latency": latency(*rate, p50_s, p99_s)
        })
    });
    let count: u64 = rates.iter().sum();
    let curve = json!([
        {"quantile": 0.0, "seconds": p50_s}, {"quantile": 0.5, "seconds": p50_s},
        {"quantile": 0.99, "seconds": p99_s}, {"quantile": 1.0, "seconds": p99_s}
    ]);
    let all = json!({"response": null, "service": latency(count, p50_s, p99_s), "curve": curve});
    json!({
        "schema": "bowline-load", "schema_version": 1, "name": name,
        "command": ["perf", "load", "--closed", "<&>"], "revision": "abc",
        "host": {
            "cores": 2, "system": "linux", "kernel": "", "processor": "", "stolen_s": 0.0
        },
        "target": {
            "protocol": "redis", "addresses": ["127.0.0.1:1"], "server": "", "facts": {}
        },
        "config": {
            "loop": "closed", "workload": "set", "mix": {"update": 1.0},
            "distribution": "uniform", "theta": null, "keys": 10, "key_bytes": 16,
            "value_bytes": 128, "connections": 4, "pipeline": 1, "threads": 1, "warm_up_s": 0.0,
            "seconds": rates.len(), "timeout_s": 1.0, "seed": 1, "preload": false
        },
        "began_unix_s": 1.0, "window_s": rates.len(), "partial": null, "intended_rate": null,
        "achieved_rate": 1.0,
        "counts": {
            "succeeded": count, "failed": 0, "unsent": 0, "not_found": 0, "redirects": 0,
            "reconnects": 0
        },
        "errors": {}, "latencies": {"all": all}, "lag": null,
        "per_second": seconds.collect::<Vec<_>>(),
        "marks": [{"at_s": 1.5, "what": "leader <killed>"}],
        "client": {"cpu_s": 0.1, "cpu_us_per_operation": 1.0}, "failed": []
    })
}

fn write(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), value.to_string()).unwrap();
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join("out").join(name)).unwrap_or_else(|_| panic!("{name} is there"))
}

/// Runs `perf report` with `arguments`, which writes the report to `out/`.
#[track_caller]
fn report(folder: &Path, arguments: &[&str]) {
    let output = perf(folder, &[&["report", "--out", "out"], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).expect("pages and pictures are well-formed")
}

fn groups<'a>(svg: &'a Document<'_>, class: &'a str) -> Vec<(String, Node<'a, 'a>)> {
    svg.descendants()
        .filter(|node| node.has_tag_name_local("g") && node.attribute("class") == Some(class))
        .map(|node| (node.attribute("data-name").unwrap().to_owned(), node))
        .collect()
}

trait Local {
    fn has_tag_name_local(&self, name: &str) -> bool;
}

impl Local for Node<'_, '_> {
    fn has_tag_name_local(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

fn names(svg: &Document<'_>, class: &str) -> Vec<String> {
    groups(svg, class).into_iter().map(|(name, _)| name).collect()
}

fn number(node: Node<'_, '_>, attribute: &str) -> f64 {
    node.attribute(attribute).unwrap().parse().unwrap()
}

/// Returns the points of each path in a group.
fn paths(group: Node<'_, '_>) -> Vec<Vec<[f64; 2]>> {
    let of = |node: Node<'_, '_>| {
        let path = node.attribute("d").unwrap();
        let points = path.trim_end_matches('Z').split(['M', 'L']).filter(|part| !part.is_empty());
        points
            .map(|point| {
                let (x, y) = point.split_once(' ').unwrap();
                [x.parse().unwrap(), y.parse().unwrap()]
            })
            .collect()
    };
    group.descendants().filter(|node| node.has_tag_name_local("path")).map(of).collect()
}

/// Returns the vertical positions, from the top, of a label on the left axes.
fn heights(svg: &Document<'_>, label: &str) -> Vec<f64> {
    let labels = svg.descendants().filter(|node| {
        node.has_tag_name_local("text")
            && node.attribute("class") == Some("end")
            && node.text() == Some(label)
    });
    // A text's baseline is four pixels below its centre.
    labels.map(|node| number(node, "y") - 4.0).collect()
}

fn place(svg: &Document<'_>, label: &str) -> f64 {
    let found = svg.descendants().find(|node| {
        node.has_tag_name_local("text")
            && node.attribute("class") == Some("middle")
            && node.text() == Some(label)
    });
    number(found.unwrap_or_else(|| panic!("there is a label {label}")), "x")
}

#[track_caller]
fn near(a: f64, b: f64) {
    assert!((a - b).abs() <= 0.2, "{a} is not {b}");
}

#[test]
fn plotted_curves_and_event_marks_match_the_axis_scales() {
    let folder = folder("report_values");
    write(&folder, "steady.json", &load("steady", &[1_000, 1_000, 500], 0.001, 0.01));
    report(&folder, &["steady.json", "--name", "one"]);

    let text = read(&folder, "one.percentiles.svg");
    let svg = parse(&text);
    let (name, group) = &groups(&svg, "series")[0];
    assert_eq!(name, "steady");
    let curve = &paths(*group)[0];
    // The curve is at 1 ms from 0 to 50 %, and at 10 ms from 99 % on.
    near(curve[0][1], heights(&svg, "1 ms")[0]);
    near(curve[0][0], place(&svg, "0 %"));
    let half = curve.iter().find(|point| (point[0] - place(&svg, "50 %")).abs() < 0.2);
    near(half.expect("the curve goes through 50 %")[1], heights(&svg, "1 ms")[0]);
    let slow = curve.iter().find(|point| (point[0] - place(&svg, "99 %")).abs() < 0.2);
    near(slow.expect("the curve goes through 99 %")[1], heights(&svg, "10 ms")[0]);

    let text = read(&folder, "one.over-time.svg");
    let svg = parse(&text);
    let (_, group) = &groups(&svg, "series")[0];
    let paths = paths(*group);
    assert_eq!(paths.len(), 3, "operations, p99 and median");
    let (rates, p99, median) = (&paths[0], &paths[1], &paths[2]);
    near(rates[0][1], heights(&svg, "1000")[0]);
    near(rates[2][1], f64::midpoint(heights(&svg, "0")[0], heights(&svg, "1000")[0]));
    near(p99[1][1], heights(&svg, "10 ms")[0]);
    near(median[1][1], heights(&svg, "1 ms")[0]);
    // A second is drawn at its middle, a mark at its exact time.
    near(rates[1][0], f64::midpoint(place(&svg, "1 s"), place(&svg, "2 s")));
    let (what, mark) = &groups(&svg, "mark")[0];
    assert_eq!(what, "leader <killed>");
    let line = mark.descendants().find(|node| node.has_tag_name_local("line")).unwrap();
    near(number(line, "x1"), f64::midpoint(place(&svg, "1 s"), place(&svg, "2 s")));
}

#[test]
fn perf_report_shows_every_run_in_every_chart() {
    let folder = folder("report_series");
    write(&folder, "a.json", &load("alpha", &[10, 10], 0.001, 0.002));
    let mut beta = load("beta <&\">", &[20, 0, 20], 0.003, 0.004);
    beta["marks"] = json!([]);
    write(&folder, "b.json", &beta);
    write(&folder, "c.json", &load("alpha", &[30], 0.005, 0.006));
    fs::write(folder.join("marks"), "# by hand\n0.5 cut off\n\n1 healed again\n").unwrap();
    report(&folder, &["a.json", "b.json", "c.json", "--marks", "marks"]);
    for picture in ["percentiles", "over-time"] {
        let text = read(&folder, &format!("report.{picture}.svg"));
        let svg = parse(&text);
        assert_eq!(names(&svg, "series"), ["alpha", "beta <&\">", "alpha (2)"], "{picture}");
        assert_eq!(svg.root_element().tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
    }
    let text = read(&folder, "report.over-time.svg");
    let svg = parse(&text);
    // Marks of the file appear once; marks of a run appear with the run's name.
    let marks = names(&svg, "mark");
    assert_eq!(marks.iter().filter(|mark| *mark == "cut off").count(), 1);
    assert!(marks.contains(&"alpha: leader <killed>".to_owned()), "{marks:?}");
    // Run beta has no replies in its second second, so its rate falls to 0 and its latency line has
    // a gap.
    let (_, beta) = &groups(&svg, "series")[1];
    near(paths(*beta)[0][1][1], heights(&svg, "0")[0]);

    let text = read(&folder, "report.html");
    let page = parse(&text);
    let pictures = page.descendants().filter(|node| node.has_tag_name_local("figure")).count();
    assert_eq!(pictures, 2);
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!text.contains(outside), "the page asks for {outside}");
    }
    assert!(text.contains("beta &lt;&amp;&quot;&gt;") && text.contains("prefers-color-scheme"));
}

/// Writes an interval log of two seconds with puts of 2 ms and gets of 500 µs.
fn write_log(folder: &Path, name: &str) {
    let mut out = fs::File::create(folder.join(name)).unwrap();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    let mut log = builder
        .with_start_time(SystemTime::UNIX_EPOCH)
        .begin_log_with(&mut out, &mut serializer)
        .unwrap();
    let of = |nanoseconds: u64, count: u64| {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record_n(nanoseconds, count).unwrap();
        histogram
    };
    let second = Duration::from_secs(1);
    for at in 0..2 {
        let at = second * at;
        let mut write = |tag, histogram: &Histogram<u64>| {
            log.write_histogram(histogram, at, second, Tag::new(tag)).unwrap();
        };
        write("put", &of(2_000_000, 30));
        write("get", &of(500_000, 10));
    }
}

#[test]
fn latency_log_is_plotted_with_a_heat_map() {
    let folder = folder("report_log");
    write_log(&folder, "mixed.hlog");
    report(&folder, &["mixed.hlog"]);
    let text = read(&folder, "report.percentiles.svg");
    let svg = parse(&text);
    assert_eq!(names(&svg, "series"), ["all", "get", "put"]);
    let puts = &paths(groups(&svg, "series")[2].1)[0];
    near(puts[0][1], heights(&svg, "2 ms")[0]);
    let text = read(&folder, "report.over-time.svg");
    let svg = parse(&text);
    let rates = &paths(groups(&svg, "series")[0].1)[0];
    near(rates[0][1], heights(&svg, "40")[0]);
    let text = read(&folder, "report.heat-1.svg");
    let svg = parse(&text);
    let cells = svg
        .descendants()
        .filter(|node| node.attribute("class").is_some_and(|class| class.contains("cell")));
    let told: Vec<_> = cells.map(|cell| cell.first_element_child().unwrap().text()).collect();
    assert_eq!(told.len(), 4, "two seconds with two kinds: {told:?}");
    assert!(told.iter().flatten().filter(|text| text.starts_with("30 operations")).count() == 2);
    // The log beside a JSON file of the same name is also used.
    write(&folder, "mixed.json", &load("mixed", &[40, 40], 0.002, 0.002));
    report(&folder, &["mixed.json", "mixed.hlog", "--name", "both"]);
    let text = read(&folder, "both.over-time.svg");
    assert_eq!(names(&parse(&text), "series"), ["mixed"]);
    assert!(folder.join("out/both.heat-1.svg").exists());
}

#[test]
fn simulator_run_is_plotted_with_its_faults() {
    let folder = folder("report_sim");
    let run = ["sim", "crash-3", "--rate", "50", "--seconds", "10", "--name", "crash"];
    let output = perf(&folder, &run);
    assert!(output.status.success(), "{}", stderr(&output));
    report(&folder, &["perf/out/crash.json"]);
    let text = read(&folder, "report.over-time.svg");
    let marks = names(&parse(&text), "mark");
    assert!(marks.iter().any(|mark| mark.starts_with("kill leader (")), "{marks:?}");
    assert!(folder.join("out/report.heat-1.svg").exists());
}

fn run_of(round: u32, system: &str, case: &str, rate: f64) -> Value {
    json!({
        "round": round, "system": system, "case": case, "operations": 1_000, "errors": 0,
        "rate": rate, "p50_s": 0.001, "p99_s": 0.002, "max_s": 0.003, "cpu_s": 0.5,
        "written_bytes": 1_000_000, "syncs": null, "wall_s": 1.0, "stolen_s": 0.0,
        "failure": null
    })
}

fn comparison() -> Value {
    let spread = |value: f64| json!({"median": value, "min": value / 2.0, "max": value * 2.0});
    let sweep = |value: f64| json!({"name": "puts by size", "axis": "bytes", "value": value});
    let cases = [("put", Value::Null), ("size-1", sweep(1.0)), ("size-9", sweep(9.0))];
    let systems = [("bowline", 100.0), ("etcd", 50.0)];
    let mut summary = Vec::new();
    for (case, _) in &cases {
        for (system, rate) in systems {
            summary.push(json!({
                "case": case, "system": system, "runs": 1, "quiet_runs": 1,
                "rate": spread(rate), "p50_s": spread(0.001), "p99_s": spread(0.002),
                "cpu_s_per_1000": spread(0.5), "bytes_per_operation": spread(1_000.0),
                "syncs_per_operation": null, "against": {}
            }));
        }
    }
    let system = |name: &str, skipped: Value| {
        json!({
            "name": name, "about": "x", "copies": 2, "synced": true, "skipped": skipped
        })
    };
    json!({
        "schema": "bowline-compare", "schema_version": 2, "name": "sizes", "command": [],
        "revision": null, "cores": 2, "system": "linux", "began_unix_s": 0.0, "wall_s": 1.0,
        "partial": null, "rounds": 1, "seconds": 1.0,
        "systems": [
            system("bowline", Value::Null), system("etcd", Value::Null),
            system("redis", "redis-server is not installed".into())
        ],
        "cases": cases.iter().map(|(name, sweep)| {
            json!({"name": name, "about": format!("about {name}"), "sweep": sweep})
        }).collect::<Vec<_>>(),
        "runs": [run_of(1, "bowline", "put", 100.0), run_of(1, "etcd", "put", 50.0)],
        "summary": summary
    })
}

#[test]
fn benchmark_comparisons_are_plotted_as_bar_and_line_charts() {
    let folder = folder("report_comparison");
    write(&folder, "sizes.json", &comparison());
    report(&folder, &["sizes.json"]);
    let text = read(&folder, "report.systems.svg");
    let svg = parse(&text);
    let cases = groups(&svg, "case");
    assert_eq!(cases.len(), 1, "sweeps are drawn as lines");
    let bars: Vec<f64> = cases[0]
        .1
        .descendants()
        .filter(|node| node.attribute("fill-opacity") == Some("0.85"))
        .map(|node| number(node, "width"))
        .collect();
    assert_eq!(bars.len(), 6, "two systems, three columns");
    near(bars[0], bars[1] * 2.0);
    let dots = cases[0].1.descendants().filter(|node| node.has_tag_name_local("circle")).count();
    assert_eq!(dots, 6, "a dot for each round");
    let text = read(&folder, "report.sweep-1.svg");
    let svg = parse(&text);
    assert_eq!(names(&svg, "series"), ["bowline", "etcd"]);
    let line = &paths(groups(&svg, "series")[0].1)[1];
    near(line[0][1], heights(&svg, "100")[0]);
    near(line[0][0], f64::midpoint(place(&svg, "0"), place(&svg, "2")));
    let page = read(&folder, "report.html");
    parse(&page);
    assert!(page.contains("skipped: redis-server is not installed"));
}

/// Asserts that `arguments` are rejected: exit code 2, all `texts` on stderr and no files.
#[track_caller]
fn assert_rejected(folder: &Path, arguments: &[&str], texts: &[&str]) {
    let output = perf(folder, &[&["report", "--out", "out"], arguments].concat());
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    for text in texts {
        assert!(message.contains(text), "{arguments:?}: `{text}` is not in: {message}");
    }
    assert!(!folder.join("out").exists(), "{arguments:?} left files");
}

#[test]
fn perf_report_rejects_invalid_result_files() {
    let folder = folder("report_bad");
    let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    put("empty.json", "");
    put("text.json", "hello");
    put("list.json", "[1, 2]");
    put("other.json", r#"{"schema": "unknown"}"#);
    put("sim.json", r#"{"schema": 2, "report": {}}"#);
    put("half.json", r#"{"schema": "bowline-compare", "schema_version": 2}"#);
    put("header.hlog", "#[Histogram log format version 1.3]\n");
    put("damaged.hlog", "#[StartTime: 1.0 (seconds since epoch)]\n0.0,1.0,1.0,AAAA\n");
    put("noise.hlog", "0.0,what\n");
    put("marks", "4.5 fine\nsoon leader killed\n");
    let mut newer = load("newer", &[1], 0.001, 0.002);
    newer["schema_version"] = 9.into();
    write(&folder, "newer.json", &newer);
    write(&folder, "nothing.json", &{
        let mut nothing = load("nothing", &[], 0.001, 0.002);
        nothing["latencies"] = json!({});
        nothing
    });
    write(&folder, "good.json", &load("good", &[1], 0.001, 0.002));
    assert_rejected(&folder, &["none.json"], &["none.json", "no such file"]);
    assert_rejected(&folder, &["empty.json"], &["empty.json", "the file is empty"]);
    assert_rejected(&folder, &["text.json"], &["text.json", "neither JSON nor"]);
    assert_rejected(&folder, &["list.json"], &["list.json", "`perf load`, `perf sim`"]);
    assert_rejected(&folder, &["other.json"], &["other.json", "`perf load`, `perf sim`"]);
    assert_rejected(&folder, &["sim.json"], &["version 2"]);
    assert_rejected(&folder, &["newer.json"], &["newer.json", "version 9"]);
    assert_rejected(&folder, &["half.json"], &["a field is missing"]);
    assert_rejected(&folder, &["header.hlog"], &["header.hlog", "no intervals"]);
    assert_rejected(&folder, &["damaged.hlog"], &["damaged.hlog", "corrupt"]);
    assert_rejected(&folder, &["noise.hlog"], &["noise.hlog", "not an interval log"]);
    assert_rejected(&folder, &["nothing.json"], &["nothing to draw"]);
    // One result file among valid ones is invalid; then the marks are invalid.
    assert_rejected(&folder, &["good.json", "text.json"], &["text.json"]);
    assert_rejected(&folder, &["good.json", "--marks", "marks"], &["marks, line 2", "seconds"]);
    assert_rejected(&folder, &["good.json", "--name", "../escape"], &["--name"]);
    assert_rejected(&folder, &[], &["FILES"]);
    let many = ["good.json"; 9];
    assert_rejected(&folder, &many, &["9 runs are too many"]);
}
