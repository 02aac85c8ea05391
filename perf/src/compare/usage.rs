//! Resource usage of processes, as the kernel counts it.

use std::fs;
use std::ops::{AddAssign, Sub};

use anyhow::Context as _;

/// CPU time and disk writes of a group of processes, either since each process started or between
/// two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time in user and kernel mode, in seconds.
    pub(crate) cpu_s: f64,
    /// Number of bytes written to disk.
    pub(crate) written_bytes: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.cpu_s += other.cpu_s;
        self.written_bytes += other.written_bytes;
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu_s: self.cpu_s - earlier.cpu_s,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// Returns the total CPU time and disk writes, since they started, of the processes with the ids
/// `processes`.
pub(crate) fn usage(processes: impl IntoIterator<Item = u32>) -> anyhow::Result<Usage> {
    let mut sum = Usage::default();
    for id in processes {
        let read = |file: &str| {
            let path = format!("/proc/{id}/{file}");
            fs::read_to_string(&path).with_context(|| {
                format!("cannot read the resource usage of a server process from {path}")
            })
        };
        let ticks = read_ticks(&read("stat")?).with_context(|| {
            format!("/proc/{id}/stat does not contain the CPU times of the server process")
        })?;
        sum += Usage {
            cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            written_bytes: read_field(&read("io")?, "write_bytes:").with_context(|| {
                format!(
                    "/proc/{id}/io does not contain write_bytes, the bytes written by the server \
                     process"
                )
            })?,
        };
    }
    Ok(sum)
}

/// Returns a process's user and kernel time in clock ticks (fields 14 and 15) from `stat`, the
/// content of `/proc/PID/stat`. Fields are counted from the end of field 2, the process name, which
/// may contain any characters.
fn read_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn read_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// Returns the steal time in seconds since this virtual machine started, summed over all cores: CPU
/// time that the hypervisor withheld from the machine. Returns 0 if unknown.
pub(crate) fn stolen_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    read_stolen(&stat).unwrap_or(0) as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn read_stolen(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    all.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_and_disk_usage_are_parsed_from_proc_stat_and_io() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(read_ticks(stat), Some(300));
        assert_eq!(read_ticks("7 (a"), None);
        let io = "rchar: 5\nread_bytes: 9\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n";
        assert_eq!(read_field(io, "write_bytes:"), Some(4_096));
        assert_eq!(read_stolen("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1"), Some(88));
    }

    #[test]
    fn cpu_time_of_a_process_is_measured() {
        let id = std::process::id();
        let before = usage([id]).unwrap();
        let mut sum = 0_u64;
        while usage([id]).unwrap().cpu_s <= before.cpu_s {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!((usage([id]).unwrap() - before).cpu_s > 0.0);
        assert!(usage([u32::MAX]).is_err());
    }
}
