//! Information from the operating system about this process and its machine, for `INFO`. It is read
//! from `/proc` on Linux, and unknown on other systems.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};

use crate::redis::SystemInfo;

/// Memory and CPU time used by this process. Values that are unknown are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    pub(crate) resident_bytes: u64,
    /// CPU time in user mode; `cpu_system` is that in the kernel. The resolution is a tick, usually
    /// 10 ms.
    pub(crate) cpu_user: Duration,
    pub(crate) cpu_system: Duration,
}

impl ProcessUsage {
    /// Reads the current values from the operating system.
    pub(crate) fn read() -> ProcessUsage {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        ProcessUsage::parse(&text).unwrap_or_default()
    }

    /// Parses the content of `/proc/self/stat`; `None` if it is malformed.
    fn parse(text: &str) -> Option<ProcessUsage> {
        // The name of the program, in parentheses, may contain any characters. The field after it
        // is number 3 in the manual page proc(5); the other fields are counted from there.
        let (_, fields) = text.rsplit_once(") ")?;
        let field = |number: usize| -> Option<u64> {
            fields.split_ascii_whitespace().nth(number - 3)?.parse().ok()
        };
        let ticks = |count: u64| {
            let millis = count.saturating_mul(1_000) / clock_ticks_per_second().max(1);
            Duration::from_millis(millis)
        };
        Some(ProcessUsage {
            cpu_user: ticks(field(14)?),
            cpu_system: ticks(field(15)?),
            resident_bytes: field(24)?.saturating_mul(page_size() as u64),
        })
    }
}

/// Returns the facts about the machine and the program that `INFO` reports.
pub(crate) fn system_info() -> SystemInfo {
    let uname = rustix::system::uname();
    let names = [uname.sysname(), uname.release(), uname.machine()];
    let executable = std::env::current_exe().unwrap_or_default();
    SystemInfo {
        os: names.map(|name| name.to_string_lossy().into_owned()).join(" "),
        memory_bytes: memory_bytes(),
        executable: executable.display().to_string(),
    }
}

/// Returns the memory of the machine in bytes; 0 if unknown.
fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_with_parentheses_in_program_name_is_parsed() {
        let fields = "R 1 2 3 4 5 6 7 8 9 10 700 50 13 14 15 16 17 18 19 20 300 22";
        let usage = ProcessUsage::parse(&format!("12 (a) b (c)) {fields}")).unwrap();
        let ticks = |ticks: u64| Duration::from_millis(ticks * 1_000 / clock_ticks_per_second());
        assert_eq!((usage.cpu_user, usage.cpu_system), (ticks(700), ticks(50)));
        assert_eq!(usage.resident_bytes, 300 * page_size() as u64);
        assert_eq!(ProcessUsage::parse("12 (a) R 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_and_system_info_are_read() {
        assert!(ProcessUsage::read().resident_bytes > 100_000);
        let system = system_info();
        assert!(system.memory_bytes > ProcessUsage::read().resident_bytes);
        assert!(system.os.starts_with("Linux ") && !system.executable.is_empty(), "{system:?}");
    }
}
