//! The files in `src/guide/deploy/` (systemd unit, settings file, container image, Kubernetes
//! manifests) match the program: its settings, subcommands, exit codes, time limits and version.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "deploy/monitoring.rs"]
mod monitoring;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Environment variables that are not settings, but that `bowline serve` reads, too.
const OTHER_VARIABLES: [&str; 2] = ["BOWLINE_CONFIG", "BOWLINE_LOG"];

/// Returns the text of a file of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn deploy(name: &str) -> String {
    read(&format!("src/guide/deploy/{name}"))
}

/// Runs `bowline` with only these environment variables.
fn bowline(words: &[&str], variables: &BTreeMap<String, String>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(words).env_clear().envs(variables).output().unwrap()
}

/// Returns the settings that `bowline config` prints for these variables, by name.
#[track_caller]
fn settings(variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let output = bowline(&["config"], variables);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut settings = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = if words.len() == 3 { words[1] } else { "" };
        settings.insert(words[0].to_owned(), value.to_owned());
    }
    settings
}

/// Asserts that every word of a file that starts with `BOWLINE_` is a variable that the program
/// reads.
#[track_caller]
fn assert_variables_known(name: &str) {
    let known = settings(&BTreeMap::from([("BOWLINE_ID".to_owned(), "1".to_owned())]));
    let in_name = |char: char| char.is_ascii_uppercase() || char == '_';
    let text = deploy(name);
    for (at, _) in text.match_indices("BOWLINE_") {
        let variable: &str = text[at..].split(|char| !in_name(char)).next().unwrap();
        let setting = variable["BOWLINE_".len()..].to_lowercase().replace('_', "-");
        // A prefix mentioned in a comment.
        let is_known = setting.is_empty() || known.contains_key(&setting);
        assert!(is_known || OTHER_VARIABLES.contains(&variable), "{name}: unknown {variable}");
    }
}

/// Returns the values of all lines `key=value` in a systemd unit.
fn unit_values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(found, _)| *found == key).map(|(_, value)| value).collect()
}

/// Returns the number after `name` in a source file, as in `NAME: type = number` or in
/// `from_secs(number)`.
fn constant(path: &str, name: &str) -> u64 {
    let text = read(path);
    let line = text.lines().find(|line| line.contains(&format!("const {name}:"))).unwrap();
    let value = line.rsplit_once('=').unwrap().1;
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Returns the words of the lists in brackets that follow `start`, as in `CMD ["a", "b"]`.
fn lists<'t>(text: &'t str, start: &str) -> Vec<Vec<&'t str>> {
    let words = |list: &'t str| list.split(']').next().unwrap().split('"').skip(1).step_by(2);
    text.split(start).skip(1).map(|list| words(list).collect()).collect()
}

/// Asserts that a probe runs an existing subcommand of `bowline`.
#[track_caller]
fn assert_probe_exists(probe: &[&str]) {
    assert_eq!(probe[0], "bowline");
    let words: Vec<&str> = probe[1..].iter().copied().chain(["--help"]).collect();
    assert!(bowline(&words, &BTreeMap::new()).status.success(), "{probe:?}");
}

/// Writes the settings file of the Debian package, with all its commented-out settings enabled.
fn settings_file(folder: &Path) -> String {
    let path = folder.join("bowline.toml");
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    let text = deploy("bowline.toml");
    let lines: Vec<&str> = text.lines().filter(is_setting).map(|line| &line[1..]).collect();
    assert!(lines.len() >= 5, "the file shows the settings that every machine needs");
    fs::write(&path, lines.join("\n")).unwrap();
    path.display().to_string()
}

#[test]
fn settings_file_is_valid_once_its_settings_take_effect() {
    let folder = tempfile::tempdir().unwrap();
    let file = BTreeMap::from([("BOWLINE_CONFIG".to_owned(), settings_file(folder.path()))]);
    assert_eq!(settings(&file)["id"], "1");
    // The shipped file sets nothing, so that no replica is started by mistake.
    let shipped = folder.path().join("shipped.toml");
    fs::write(&shipped, deploy("bowline.toml")).unwrap();
    let output = bowline(&["serve", "--config", shipped.to_str().unwrap()], &BTreeMap::new());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--id is required"));
}

#[test]
fn systemd_unit_fits_the_settings_exit_codes_and_time_limits() {
    assert_variables_known("bowline.service");
    let unit = deploy("bowline.service");
    assert_eq!(unit_values(&unit, "ExecStart"), ["/usr/bin/bowline serve"]);
    let folder = tempfile::tempdir().unwrap();
    settings_file(folder.path());
    let variables = unit_values(&unit, "Environment").into_iter().map(|assignment| {
        let (name, value) = assignment.split_once('=').unwrap();
        (name.to_owned(), value.replace("%d", folder.path().to_str().unwrap()))
    });
    let settings = settings(&variables.collect());
    assert_eq!(settings["dir"], "/var/lib/bowline/data");
    assert_eq!(unit_values(&unit, "StateDirectory"), ["bowline"]);
    let codes = [
        constant("src/bin/cli/serve.rs", "EXIT_DAMAGED"),
        constant("src/runtime/fatal.rs", "EXIT_DISK"),
    ];
    let not_restarted = codes.map(|code| code.to_string()).join(" ");
    assert_eq!(unit_values(&unit, "RestartPreventExitStatus"), [not_restarted]);
    let number = |key: &str| unit_values(&unit, key)[0].parse::<u64>().unwrap();
    assert!(number("TimeoutStopSec") > constant("src/bin/cli/serve.rs", "STOP_MAX"));
    assert!(number("LimitNOFILE") > settings["maxclients"].parse().unwrap());
}

#[test]
fn container_image_fits_the_settings_and_the_compiler() {
    assert_variables_known("Dockerfile");
    let image = deploy("Dockerfile");
    let words = image.split_whitespace().filter_map(|word| word.split_once('='));
    let of_settings = words.filter(|(name, _)| name.starts_with("BOWLINE_"));
    let mut variables: BTreeMap<String, String> =
        of_settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(variables.len(), 3);
    variables.insert("BOWLINE_ID".to_owned(), "1".to_owned());
    assert_eq!(settings(&variables)["listen"], "0.0.0.0:6379");
    let commands = lists(&image, "CMD ");
    assert_probe_exists(&commands[0]);
    assert_eq!((commands[1].as_slice(), lists(&image, "ENTRYPOINT ").len()), (&["serve"][..], 1));
    let compiler = read("Cargo.toml");
    let compiler = compiler.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(image.contains(&format!("\nFROM rust:{compiler}-trixie AS")));
    assert!(image.contains(&format!("--tag bowline:{} .", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn kubernetes_manifests_fit_the_settings_and_each_other() {
    assert_variables_known("kubernetes.yaml");
    let text = deploy("kubernetes.yaml");
    let mut variables = BTreeMap::from([
        ("BOWLINE_ID".to_owned(), "1".to_owned()),
        ("BOWLINE_CLUSTER".to_owned(), "a name from a secret".to_owned()),
        ("BOWLINE_REQUIREPASS".to_owned(), "a password from a secret".to_owned()),
        ("BOWLINE_ANNOUNCE".to_owned(), "bowline-1.bowline-pods.default.svc:6379".to_owned()),
    ]);
    for (name, value) in text.lines().filter_map(|line| line.trim().split_once(": ")) {
        if name.starts_with("BOWLINE_") {
            variables.insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    let settings = settings(&variables);
    assert_eq!((&*settings["bootstrap"], &*settings["maxmemory"]), ("true", "2gb"));

    // Each replica is in --peers, with the name that the headless Service gives its pod.
    let replicas: usize = text.split("  replicas: ").nth(1).unwrap()[..1].parse().unwrap();
    assert_eq!(settings["peers"].split(',').count(), replicas);
    assert!(text.contains("  ordinals: {start: 1}\n"), "the pods are numbered like the replicas");
    for id in 1..=replicas {
        assert!(settings["peers"].contains(&format!("{id}=bowline-{id}.bowline-pods:16379")));
    }
    assert!(text.contains("  serviceName: bowline-pods\n"));
    assert!(text.contains("\n  name: bowline-pods\n"));
    assert!(text.contains(&format!("image: bowline:{}\n", env!("CARGO_PKG_VERSION"))));
    assert_eq!(lists(&text, "args: "), [["serve"]]);
    let probes: Vec<&str> = text
        .split("httpGet: {path: ")
        .skip(1)
        .map(|probe| probe.split('}').next().unwrap())
        .collect();
    assert_eq!(probes, ["/livez, port: http", "/readyz, port: http"]);
    let port = settings["http-listen"].rsplit_once(':').unwrap().1;
    assert!(text.contains(&format!("- {{name: http, containerPort: {port}}}\n")));
    assert!(text.contains(&format!("prometheus.io/port: \"{port}\"\n")));
    let seconds = |key: &str| -> u64 {
        let rest = text.split(key).nth(1).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let stop_seconds_max = constant("src/bin/cli/serve.rs", "STOP_MAX");
    let before_stop = seconds("sleep: {seconds: ");
    assert!(seconds("terminationGracePeriodSeconds: ") > before_stop + stop_seconds_max);
}
