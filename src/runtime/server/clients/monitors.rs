//! Monitors: clients that get the commands of all clients of this replica (`MONITOR`).

use bytes::Bytes;

use super::Clients;

impl Clients {
    /// Sets whether the client at `index` is a monitor.
    pub(super) fn set_monitor(&mut self, index: usize, is_monitor: bool) {
        if is_monitor {
            self.monitors.insert(index);
        } else {
            self.monitors.remove(&index);
        }
        self.context.monitors = self.monitors.len() as u64;
    }

    /// Sends these lines, which describe the latest request of a client, to all monitors.
    #[cold]
    pub(super) fn show(&mut self, lines: &Bytes) {
        let monitors: Vec<usize> = self.monitors.iter().copied().collect();
        for index in monitors {
            if !self.client(index).closing {
                self.send_message(index, lines);
            }
        }
    }
}
