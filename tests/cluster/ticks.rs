//! CPU usage of other processes on this machine.

use std::{fs, process};

use crate::replicas::Cluster;

/// Maximum CPU usage of other processes, in percent, in a round that counts. A leader whose threads
/// wait for a CPU loses its leadership in any case.
pub(crate) const OTHERS_PERCENT_MAX: u64 = 25;

/// CPU time since the start, in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticks {
    /// Available time of all processors.
    all: u64,
    /// Time used by all processes.
    busy: u64,
    /// Time used by this process and the replicas.
    own: u64,
}

impl Ticks {
    /// Reads the counters; zeros if they are unknown, so that every round counts.
    pub(crate) fn read(cluster: &Cluster) -> Ticks {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let fields = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok());
        let fields: Vec<u64> = fields.collect();
        let all = fields.iter().sum::<u64>();
        let idle = fields.iter().skip(3).take(2).sum::<u64>();
        let replicas = (0..3).map(|at| cluster.process(at));
        let own = replicas.chain([process::id()]).map(Ticks::of).sum();
        Ticks { all, busy: all - idle, own }
    }

    /// Time used by one process.
    fn of(process: u32) -> u64 {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let behind_name = text.rsplit(')').next().unwrap_or_default();
        let times = behind_name.split_whitespace().skip(11).take(2);
        times.filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    /// Share of the processors that other processes used since `before`, in percent.
    pub(crate) fn others_percent(self, before: Ticks) -> u64 {
        let others = (self.busy - before.busy).saturating_sub(self.own - before.own);
        others * 100 / (self.all - before.all).max(1)
    }
}
