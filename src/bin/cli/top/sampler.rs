//! Polls the replicas on a separate thread, so that an unresponsive replica does not delay key
//! presses.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::cli::admin::replicas::Replicas;

/// The states that all replicas reported at one time.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// All replicas, or why none can be queried.
    pub(super) replicas: Result<Replicas, String>,
}

/// Discovers all replicas from one of them, and queries the state of each. If that one stops
/// responding, another known replica is used.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Addresses of all known replicas; the one that responded last is first.
    addresses: Vec<String>,
}

impl Sampler {
    pub(super) fn new(address: &str) -> Sampler {
        Sampler { addresses: vec![address.to_owned()] }
    }

    /// Queries all replicas. Takes at most a few seconds per unresponsive replica.
    pub(super) fn sample(&mut self) -> Sample {
        let mut first_error = None;
        let mut found = None;
        for place in 0..self.addresses.len() {
            match Replicas::ask(&self.addresses[place]) {
                Ok(replicas) => {
                    found = Some((place, replicas));
                    break;
                }
                Err(error) => {
                    first_error.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        }
        let replicas = match found {
            Some((place, replicas)) => {
                self.addresses.swap(0, place);
                for replica in &replicas.list {
                    if !self.addresses.contains(&replica.address) {
                        self.addresses.push(replica.address.clone());
                    }
                }
                Ok(replicas)
            }
            None => Err(first_error.unwrap_or_default()),
        };
        Sample { at: Instant::now(), replicas }
    }

    /// Starts a thread that takes samples, with pauses of `interval` between them, until the
    /// receiver is dropped.
    pub(super) fn spawn(mut self, interval: Duration) -> anyhow::Result<Receiver<Sample>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let ask = move || {
            loop {
                thread::sleep(interval);
                if sender.send(self.sample()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("sampler".to_owned()).spawn(ask).context(
            "cannot start the thread that asks the replicas; check the limits on processes",
        )?;
        Ok(receiver)
    }
}
