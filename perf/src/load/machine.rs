//! Describes the machine on which a run takes place, and measures CPU time.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use super::schema::Host;

/// Describes the machine on which the load generator runs. The caller fills in `stolen_s`.
pub(crate) fn host() -> Host {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, name)| name.trim());
    Host {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        processor: processor.to_owned(),
        stolen_s: None,
    }
}

/// Returns the CPU time, in seconds, that this process has used so far.
pub(crate) fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the steal time since this virtual machine started: the CPU time, in seconds and summed
/// over all cores, that the hypervisor withheld from the machine. Returns `None` if the kernel does
/// not report it.
pub(crate) fn stolen_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    parse_stolen(&text)
}

fn parse_stolen(stat: &str) -> Option<f64> {
    // The fields of the line: user nice system idle iowait irq softirq steal, in hundredths of a
    // second (USER_HZ).
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let stolen: u64 = line.split_whitespace().nth(7)?.parse().ok()?;
    Some(stolen as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_time_is_parsed_from_proc_stat() {
        assert_eq!(parse_stolen("cpu  1 2 3 4 5 6 7 850 0 0\ncpu0 1\n"), Some(8.5));
        assert_eq!(parse_stolen("cpu  1 2\n"), None);
        assert_eq!(parse_stolen(""), None);
    }
}
