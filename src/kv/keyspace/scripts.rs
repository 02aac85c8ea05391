//! The scripts that the cluster keeps, so that `EVALSHA` works on every replica, after a leader
//! change and after a restart.
//!
//! There are two kinds: those of `SCRIPT LOAD`, which stay until `SCRIPT FLUSH`, and those that
//! `EVAL` has added by the way, of which the oldest give way to others.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_flag, take_number};
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};

/// Number of hexadecimal digits of the SHA-1 that names a script.
pub const SHA_DIGITS: usize = 40;
/// Maximum number of scripts that `EVAL` has added, as in Redis 7.4.
const ADDED_MAX: usize = 500;
/// Maximum total length in bytes of the sources of all scripts.
pub(in crate::kv) const SCRIPTS_BYTES_MAX: usize = 16 << 20;
/// Approximate memory usage in bytes of a script, without its source.
const SCRIPT_BYTES: usize = 200;

/// A script's name: its SHA-1 in lower-case hexadecimal digits.
type Sha = [u8; SHA_DIGITS];

/// A script that the cluster keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Script {
    source: Bytes,
    /// Position in the order in which the scripts were added.
    order: u64,
    /// Whether `SCRIPT LOAD` has added the script.
    is_loaded: bool,
}

/// The scripts that the cluster keeps. A clone shares their sources with the original.
///
/// Invariant: `bytes` is the total length of the sources, `added` has the scripts that `EVAL` has
/// added in their order, and all orders are below `next`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::kv) struct Scripts {
    by_sha: BTreeMap<Sha, Script>,
    added: BTreeMap<u64, Sha>,
    /// Number of scripts ever added.
    next: u64,
    bytes: usize,
    digest: Digest,
}

/// Error: the scripts of `SCRIPT LOAD` leave no space for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct NoSpace;

impl Scripts {
    /// Returns the source of the script with this name, in lower-case digits; `None` if there is
    /// none.
    pub(in crate::kv) fn get(&self, sha: &[u8]) -> Option<&Bytes> {
        self.by_sha.get(sha.first_chunk()?).filter(|_| sha.len() == SHA_DIGITS).map(|it| &it.source)
    }

    /// Adds a script, or turns one that `EVAL` has added into one of `SCRIPT LOAD` (`is_loaded`).
    /// Drops the oldest scripts that `EVAL` has added if there are too many, or if their sources
    /// take the space.
    ///
    /// # Errors
    /// If there is no space even so. Nothing is added or dropped then.
    pub(in crate::kv) fn add(
        &mut self,
        sha: &[u8; SHA_DIGITS],
        source: &[u8],
        is_loaded: bool,
    ) -> Result<(), NoSpace> {
        if let Some(known) = self.by_sha.get(sha) {
            if is_loaded && !known.is_loaded {
                let known = self.remove(*sha);
                self.insert(*sha, Script { is_loaded, ..known });
            }
            return Ok(());
        }
        let added_bytes: usize = self.added.values().map(|sha| self.by_sha[sha].source.len()).sum();
        if self.bytes - added_bytes + source.len() > SCRIPTS_BYTES_MAX {
            return Err(NoSpace);
        }
        while self.bytes + source.len() > SCRIPTS_BYTES_MAX
            || !is_loaded && self.added.len() >= ADDED_MAX
        {
            let (_, oldest) = self.added.first_key_value().expect("they take the space");
            let oldest = *oldest;
            self.remove(oldest);
        }
        let order = self.next;
        self.next += 1;
        let source = Bytes::copy_from_slice(source);
        self.insert(*sha, Script { source, order, is_loaded });
        Ok(())
    }

    /// Removes all scripts.
    pub(in crate::kv) fn clear(&mut self) {
        *self = Scripts { next: self.next, ..Scripts::default() };
    }

    fn insert(&mut self, sha: Sha, script: Script) {
        self.bytes += script.source.len();
        self.digest.add(hash_of(&sha, &script));
        if !script.is_loaded {
            self.added.insert(script.order, sha);
        }
        self.by_sha.insert(sha, script);
    }

    fn remove(&mut self, sha: Sha) -> Script {
        let script = self.by_sha.remove(&sha).expect("the caller has found it");
        self.bytes -= script.source.len();
        self.digest.remove(hash_of(&sha, &script));
        self.added.remove(&script.order);
        script
    }

    /// Returns the hash of all scripts, which is part of the state's digest: 0 if there was never a
    /// script.
    pub(in crate::kv) fn hash(&self) -> u64 {
        if self.next == 0 { 0 } else { self.digest.salted(self.next) }
    }

    /// Returns the number of scripts.
    pub(in crate::kv) fn len(&self) -> usize {
        self.by_sha.len()
    }

    /// Returns the approximate memory usage, in bytes.
    pub(in crate::kv) fn bytes(&self) -> usize {
        self.bytes + self.len() * SCRIPT_BYTES
    }

    /// Returns whether a snapshot must contain the scripts.
    pub(in crate::kv) fn are_in_snapshot(&self) -> bool {
        self.next > 0
    }

    /// Calls `item` for each item of the scripts in a snapshot, with a function that appends the
    /// encoded item: first the number of scripts ever added, then each script.
    pub(in crate::kv) fn encode(&self, mut item: impl FnMut(&dyn Fn(&mut Vec<u8>))) {
        item(&|out| {
            put_bytes(b"", out);
            put_number(self.next, out);
        });
        for (sha, script) in &self.by_sha {
            item(&|out| {
                put_bytes(sha, out);
                put_bytes(&script.source, out);
                put_number(script.order, out);
                out.push(u8::from(script.is_loaded));
            });
        }
    }

    /// Decodes an item that [`Scripts::encode`] has encoded, removes it from the front of `from`,
    /// and adds it to the scripts. `None` if it is malformed or a duplicate.
    pub(in crate::kv) fn restore(&mut self, from: &mut &[u8]) -> Option<()> {
        let sha = take_bytes(from)?;
        if sha.is_empty() {
            let next = take_number(from)?;
            let is_first = self.next == 0 && next > 0;
            self.next = next;
            return is_first.then_some(());
        }
        let sha = Sha::try_from(sha).ok()?;
        let source = Bytes::copy_from_slice(take_bytes(from)?);
        let (order, is_loaded) = (take_number(from)?, take_flag(from)?);
        if order >= self.next || self.by_sha.contains_key(&sha) || self.added.contains_key(&order) {
            return None;
        }
        self.insert(sha, Script { source, order, is_loaded });
        Some(())
    }
}

fn hash_of(sha: &Sha, script: &Script) -> u64 {
    let hash = fingerprint(key_hash(sha), &script.source);
    mix(hash, script.order << 1 | u64::from(script.is_loaded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(number: usize) -> Sha {
        format!("{number:040x}").into_bytes().try_into().unwrap()
    }

    fn restored(scripts: &Scripts) -> Scripts {
        let mut bytes = Vec::new();
        scripts.encode(|item| item(&mut bytes));
        let (mut rest, mut restored) = (&bytes[..], Scripts::default());
        while !rest.is_empty() {
            restored.restore(&mut rest).unwrap();
        }
        for end in 0..bytes.len() {
            let (mut rest, mut cut) = (&bytes[..end], Scripts::default());
            while !rest.is_empty() && cut.restore(&mut rest).is_some() {}
            assert_ne!(&cut, scripts);
        }
        restored
    }

    #[test]
    fn loaded_scripts_stay_and_the_oldest_of_the_others_are_dropped() {
        let mut scripts = Scripts::default();
        assert_eq!(scripts.hash(), 0);
        scripts.add(&sha(0), b"return 0", false).unwrap();
        scripts.add(&sha(1), b"return 1", true).unwrap();
        scripts.add(&sha(2), b"return 2", false).unwrap();
        scripts.add(&sha(2), b"return 2", true).unwrap();
        for number in 3..3 + ADDED_MAX {
            scripts.add(&sha(number), b"return 3", false).unwrap();
        }
        assert_eq!(scripts.get(&sha(0)), None);
        assert!((1..4).all(|number| scripts.get(&sha(number)).is_some()));
        assert_eq!((scripts.len(), scripts.get(b"123")), (ADDED_MAX + 2, None));
        assert_eq!(restored(&scripts), scripts);
        scripts.clear();
        assert_eq!((scripts.len(), scripts.bytes()), (0, 0));
        assert_ne!(scripts.hash(), 0, "the number of scripts ever added stays");
        assert_eq!(restored(&scripts), scripts);
    }

    #[test]
    fn sources_of_scripts_are_bounded() {
        let mut scripts = Scripts::default();
        let half = vec![b' '; SCRIPTS_BYTES_MAX / 2];
        scripts.add(&sha(0), &half, false).unwrap();
        scripts.add(&sha(1), &half, true).unwrap();
        scripts.add(&sha(2), b"x", true).unwrap();
        assert_eq!((scripts.get(&sha(0)), scripts.len()), (None, 2));
        assert_eq!(scripts.add(&sha(3), &half, true), Err(NoSpace));
        assert_eq!(scripts.add(&sha(3), &half, false), Err(NoSpace));
        assert_eq!(scripts.len(), 2);
    }
}
