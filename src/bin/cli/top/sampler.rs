//! Polls the replicas on a thread of its own, so that a replica that does not answer does not delay
//! key presses.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::cli::admin::replicas::Replicas;

/// The reported states of all replicas at one time.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// All replicas, or the reason why none can be asked.
    pub(super) replicas: Result<Replicas, String>,
}

/// Discovers all replicas from one of them, and queries each for its state. If that replica stops
/// answering, another known one takes its place.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Addresses of all replicas that are known; the one that answered last is the first.
    addresses: Vec<String>,
}

impl Sampler {
    pub(super) fn new(address: &str) -> Sampler {
        Sampler { addresses: vec![address.to_owned()] }
    }

    /// Asks all replicas. Takes a few seconds at most for each that does not answer.
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

    /// Starts a thread that takes samples, with a pause of `interval` between them, until the
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
