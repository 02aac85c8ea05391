//! The libraries of functions that the cluster keeps, so that `FCALL` works on every replica, after
//! a leader change and after a restart.
//!
//! A library comes with the functions that it registers, which the replica that has checked its
//! code has found out. So nothing here depends on what code does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_flag, take_number};
use crate::kv::values::digest::{Digest, fingerprint, key_hash};

/// Maximum total length in bytes of all libraries in their encoding, about that of their code.
pub(in crate::kv) const FUNCTIONS_BYTES_MAX: usize = 16 << 20;
/// Maximum number of functions of all libraries: each change of a library copies their index.
const FUNCTIONS_MAX: usize = 20_000;
/// Approximate memory usage in bytes of a library, or of a function, without its texts.
const ITEM_BYTES: usize = 200;

/// A library of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Name of the library.
    pub name: Bytes,
    /// Its code, with the first line (`#!lua name=...`).
    pub code: Bytes,
    /// The functions that it registers.
    pub functions: Vec<LibraryFunction>,
}

/// A function of a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryFunction {
    /// Name of the function, which is found regardless of case.
    pub name: Bytes,
    /// What it is for; `None` if the library does not say it.
    pub description: Option<Bytes>,
    /// The bits of its flags. They have no meaning here.
    pub flags: u8,
}

impl Library {
    /// Returns the encoding of the library, as an argument of `function|load`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.code.len() + 64);
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.name, out);
        put_bytes(&self.code, out);
        put_number(self.functions.len() as u64, out);
        for LibraryFunction { name, description, flags } in &self.functions {
            put_bytes(name, out);
            out.push(u8::from(description.is_some()));
            if let Some(description) = description {
                put_bytes(description, out);
            }
            out.push(*flags);
        }
    }

    /// Decodes a library that [`Library::encode`] has encoded; `None` if the bytes are malformed.
    pub(in crate::kv) fn decode(mut bytes: &[u8]) -> Option<Library> {
        let library = Library::take(&mut bytes)?;
        bytes.is_empty().then_some(library)
    }

    fn take(from: &mut &[u8]) -> Option<Library> {
        let name = take_text(from)?;
        let code = take_text(from)?;
        let mut functions = Vec::new();
        for _ in 0..take_number(from)? {
            let name = take_text(from)?;
            let description = if take_flag(from)? { Some(take_text(from)?) } else { None };
            let (flags, rest) = from.split_first()?;
            *from = rest;
            functions.push(LibraryFunction { name, description, flags: *flags });
        }
        (!name.is_empty() && !functions.is_empty()).then_some(Library { name, code, functions })
    }
}

fn take_text(from: &mut &[u8]) -> Option<Bytes> {
    take_bytes(from).map(Bytes::copy_from_slice)
}

/// A library that the cluster keeps.
#[derive(Debug, PartialEq, Eq)]
pub struct KeptLibrary {
    /// The library.
    pub library: Library,
    /// Number of the operation that has loaded it.
    pub loaded_at: u64,
    /// Length in bytes of its encoding.
    bytes: usize,
}

impl KeptLibrary {
    fn new(library: Library, loaded_at: u64) -> KeptLibrary {
        let bytes = library.encode().len();
        KeptLibrary { library, loaded_at, bytes }
    }

    fn hash(&self) -> u64 {
        fingerprint(key_hash(&self.library.name), &self.library.encode())
    }

    fn memory(&self) -> usize {
        self.bytes + ITEM_BYTES * (1 + self.library.functions.len())
    }
}

/// What happens to the libraries that exist already when others are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum RestorePolicy {
    /// They stay, and it is an error if one of them has the name of a restored one.
    Append,
    /// Those that have the name of a restored one are replaced.
    Replace,
    /// All of them are removed.
    Flush,
}

/// Why libraries are not added. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::kv) enum FunctionsError {
    /// A library with this name exists.
    #[error("ERR Library {0} already exists")]
    LibraryExists(String),
    /// Two libraries have a function with this name.
    #[error("ERR Function {0} already exists")]
    FunctionExists(String),
    /// There is no space for the libraries.
    #[error(
        "ERR libraries of functions take at most {} MiB, and no more are kept; use FUNCTION DELETE",
        FUNCTIONS_BYTES_MAX >> 20
    )]
    NoSpace,
    /// There would be too many functions.
    #[error("ERR the libraries have {0} functions, at most {FUNCTIONS_MAX} are kept")]
    TooMany(usize),
}

/// The libraries of functions that the cluster keeps. A clone shares them with the original.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::kv) struct Functions(Arc<Content>);

/// Invariant: `by_function` has all functions of all libraries, `bytes` is the total length of the
/// libraries' encodings, `memory` their memory usage, and `digest` the sum of their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    libraries: BTreeMap<Bytes, Arc<KeptLibrary>>,
    /// The library of each function, by the function's name in lower case.
    by_function: BTreeMap<Vec<u8>, Arc<KeptLibrary>>,
    /// Number of the operation that was the last to change the libraries; 0 if none has.
    revision: u64,
    bytes: usize,
    memory: usize,
    digest: Digest,
}

impl Content {
    fn insert(&mut self, kept: Arc<KeptLibrary>) -> Result<(), FunctionsError> {
        let KeptLibrary { library: Library { name, functions, .. }, bytes, .. } = &*kept;
        if self.libraries.contains_key(name) {
            return Err(FunctionsError::LibraryExists(text(name)));
        }
        for function in functions {
            let key = function.name.to_ascii_lowercase();
            if self.by_function.insert(key, Arc::clone(&kept)).is_some() {
                return Err(FunctionsError::FunctionExists(text(&function.name)));
            }
        }
        self.bytes += bytes;
        self.memory += kept.memory();
        self.digest.add(kept.hash());
        self.libraries.insert(name.clone(), kept);
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let Some(kept) = self.libraries.remove(name) else { return false };
        for function in &kept.library.functions {
            self.by_function.remove(&function.name.to_ascii_lowercase());
        }
        self.bytes -= kept.bytes;
        self.memory -= kept.memory();
        self.digest.remove(kept.hash());
        true
    }
}

impl Functions {
    /// Returns the library with the function that has this name, in any case, and the function;
    /// `None` if there is none.
    pub(in crate::kv) fn find(
        &self,
        function: &[u8],
    ) -> Option<(Arc<KeptLibrary>, LibraryFunction)> {
        let kept = self.0.by_function.get(&function.to_ascii_lowercase())?;
        let is_it = |it: &&LibraryFunction| it.name.eq_ignore_ascii_case(function);
        Some((Arc::clone(kept), kept.library.functions.iter().find(is_it)?.clone()))
    }

    /// Iterates over the libraries, in the order of their names.
    pub(in crate::kv) fn libraries(&self) -> impl Iterator<Item = &Library> {
        self.0.libraries.values().map(|kept| &kept.library)
    }

    /// Adds libraries in the operation with the number `revision`. `policy` decides about those
    /// that exist.
    ///
    /// # Errors
    /// If they cannot all be added. Nothing is changed then.
    pub(in crate::kv) fn add(
        &mut self,
        libraries: Vec<Library>,
        policy: RestorePolicy,
        revision: u64,
    ) -> Result<(), FunctionsError> {
        let mut next = match policy {
            RestorePolicy::Append => (*self.0).clone(),
            RestorePolicy::Flush => Content::default(),
            RestorePolicy::Replace => {
                let mut next = (*self.0).clone();
                for library in &libraries {
                    next.remove(&library.name);
                }
                next
            }
        };
        for library in libraries {
            next.insert(Arc::new(KeptLibrary::new(library, revision)))?;
        }
        if next.bytes > FUNCTIONS_BYTES_MAX {
            return Err(FunctionsError::NoSpace);
        }
        if next.by_function.len() > FUNCTIONS_MAX {
            return Err(FunctionsError::TooMany(next.by_function.len()));
        }
        next.revision = revision;
        self.0 = Arc::new(next);
        Ok(())
    }

    /// Removes a library in the operation with the number `revision`. Returns whether it existed.
    pub(in crate::kv) fn remove(&mut self, name: &[u8], revision: u64) -> bool {
        if !self.0.libraries.contains_key(name) {
            return false;
        }
        let content = Arc::make_mut(&mut self.0);
        content.revision = revision;
        content.remove(name)
    }

    /// Removes all libraries in the operation with the number `revision`.
    pub(in crate::kv) fn clear(&mut self, revision: u64) {
        self.0 = Arc::new(Content { revision, ..Content::default() });
    }

    /// Returns the number of the operation that was the last to change the libraries; 0 if none
    /// has.
    pub(in crate::kv) fn revision(&self) -> u64 {
        self.0.revision
    }

    /// Returns the hash of all libraries, which is part of the state's digest: 0 if there was never
    /// one. The revision is not part of it, because it rises when a new cluster begins with a
    /// backup.
    pub(in crate::kv) fn hash(&self) -> u64 {
        if self.0.revision == 0 { 0 } else { self.0.digest.salted(self.0.libraries.len() as u64) }
    }

    /// Returns the number of libraries and that of functions.
    pub(in crate::kv) fn counts(&self) -> (usize, usize) {
        (self.0.libraries.len(), self.0.by_function.len())
    }

    /// Returns the approximate memory usage, in bytes.
    pub(in crate::kv) fn memory(&self) -> usize {
        self.0.memory
    }

    /// Returns whether a snapshot must contain the libraries.
    pub(in crate::kv) fn are_in_snapshot(&self) -> bool {
        self.0.revision > 0
    }

    /// Calls `item` for each item of the libraries in a snapshot, with a function that appends the
    /// encoded item: first the revision of the libraries, then each library.
    pub(in crate::kv) fn encode(&self, mut item: impl FnMut(&dyn Fn(&mut Vec<u8>))) {
        item(&|out| put_number(self.0.revision, out));
        for kept in self.0.libraries.values() {
            item(&|out| {
                put_number(kept.loaded_at, out);
                kept.library.put(out);
            });
        }
    }

    /// Decodes an item that [`Functions::encode`] has encoded, removes it from the front of `from`,
    /// and adds it to the libraries. `gap` is added to all revisions, which then must be at most
    /// `revision_max`. `None` if the item is malformed or a duplicate.
    pub(in crate::kv) fn restore(
        &mut self,
        from: &mut &[u8],
        gap: u64,
        revision_max: u64,
    ) -> Option<()> {
        let revision = take_number(from)?.checked_add(gap)?;
        let content = Arc::make_mut(&mut self.0);
        if content.revision == 0 {
            let is_valid = revision > gap && revision <= revision_max;
            content.revision = revision;
            return is_valid.then_some(());
        }
        let library = Library::take(from)?;
        let is_valid = revision <= content.revision;
        content.insert(Arc::new(KeptLibrary::new(library, revision))).ok()?;
        (is_valid && content.bytes <= FUNCTIONS_BYTES_MAX).then_some(())
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, functions: &[&str]) -> Library {
        let function = |name: &&str| LibraryFunction {
            name: Bytes::copy_from_slice(name.as_bytes()),
            description: (name.len() > 1).then(|| Bytes::from_static(b"about it")),
            flags: 5,
        };
        Library {
            name: Bytes::copy_from_slice(name.as_bytes()),
            code: format!("#!lua name={name}\n...").into(),
            functions: functions.iter().map(function).collect(),
        }
    }

    fn names(functions: &Functions) -> String {
        let of = |it: &Library| text(&it.name);
        functions.libraries().map(of).collect::<Vec<_>>().join(" ")
    }

    fn restored(functions: &Functions) -> Functions {
        let mut bytes = Vec::new();
        functions.encode(|item| item(&mut bytes));
        for end in 0..=bytes.len() {
            let (mut rest, mut restored) = (&bytes[..end], Functions::default());
            while !rest.is_empty() && restored.restore(&mut rest, 0, 99).is_some() {}
            assert_eq!(&restored == functions, end == bytes.len());
        }
        let (mut rest, mut restored) = (&bytes[..], Functions::default());
        while !rest.is_empty() {
            restored.restore(&mut rest, 1_000, 1_099).unwrap();
        }
        assert_eq!(restored.revision(), functions.revision() + 1_000);
        assert_eq!(restored.hash(), functions.hash());
        assert_eq!(Functions::default().restore(&mut &bytes[..], 0, 1), None, "of the future");
        restored
    }

    #[test]
    fn library_is_found_by_its_functions_until_it_is_removed_or_replaced() {
        let mut functions = Functions::default();
        assert_eq!((functions.hash(), functions.are_in_snapshot()), (0, false));
        let (append, replace) = (RestorePolicy::Append, RestorePolicy::Replace);
        functions.add(vec![library("b", &["f", "Gg"]), library("a", &["h"])], append, 2).unwrap();
        let before = functions.clone();
        let (kept, function) = functions.find(b"gG").unwrap();
        assert_eq!((&kept.library.name[..], kept.loaded_at), (&b"b"[..], 2));
        assert_eq!((&function.name[..], function.flags), (&b"Gg"[..], 5));
        assert_eq!((functions.counts(), names(&functions)), ((2, 3), "a b".to_owned()));
        let exists = FunctionsError::LibraryExists("a".to_owned());
        assert_eq!(functions.add(vec![library("a", &["x"])], append, 3), Err(exists));
        let exists = FunctionsError::FunctionExists("F".to_owned());
        let taken = vec![library("c", &["y"]), library("a", &["F"])];
        assert_eq!(functions.add(taken, replace, 3), Err(exists));
        assert_eq!(functions, before, "nothing has changed");
        functions.add(vec![library("b", &["h2"]), library("c", &["f"])], replace, 3).unwrap();
        assert_eq!((functions.find(b"gg"), functions.revision()), (None, 3));
        assert_eq!(names(&functions), "a b c");
        assert_ne!(functions.hash(), before.hash());
        assert_eq!(names(&restored(&functions)), "a b c");
        assert!(functions.remove(b"a", 4) && !functions.remove(b"a", 5));
        assert_eq!((functions.revision(), functions.find(b"h")), (4, None));
        functions.add(vec![library("d", &["h"])], RestorePolicy::Flush, 6).unwrap();
        assert_eq!(names(&functions), "d");
        functions.clear(7);
        assert_eq!((functions.counts(), functions.memory()), ((0, 0), 0));
        assert_eq!(functions.hash(), restored(&functions).hash());
    }

    #[test]
    fn functions_of_one_name_are_refused_within_a_library_and_between_new_ones() {
        let mut functions = Functions::default();
        for libraries in [
            vec![library("a", &["f", "F"])],
            vec![library("a", &["f"]), library("b", &["f"])],
            vec![library("a", &["f"]), library("a", &["g"])],
        ] {
            assert!(functions.add(libraries, RestorePolicy::Flush, 1).is_err());
            assert_eq!(functions, Functions::default());
        }
    }

    #[test]
    fn code_of_libraries_is_bounded() {
        let mut functions = Functions::default();
        let large = |name: &str| Library {
            code: vec![b' '; FUNCTIONS_BYTES_MAX / 2 - 100].into(),
            ..library(name, &[name])
        };
        functions.add(vec![large("a"), large("b")], RestorePolicy::Append, 1).unwrap();
        let refused = functions.add(vec![large("c")], RestorePolicy::Append, 2);
        assert_eq!(refused, Err(FunctionsError::NoSpace));
        functions.add(vec![large("a")], RestorePolicy::Replace, 2).unwrap();
        assert_eq!((names(&functions), functions.revision()), ("a b".to_owned(), 2));
    }
}
