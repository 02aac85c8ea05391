//! [`SharedDisk`]: several handles to one disk in memory, for a replica's log, snapshots and peer
//! records, as they share a real folder.

use std::cell::{RefCell, RefMut};
use std::io;
use std::rc::Rc;

use super::disk::Disk;
use super::mem_disk::MemDisk;

/// A handle to a simulated disk, [`MemDisk`]. Cloning it creates another handle to the same disk.
#[derive(Clone, Debug, Default)]
pub struct SharedDisk(Rc<RefCell<MemDisk>>);

impl SharedDisk {
    /// Creates the first handle to the simulated disk `disk`. Clones of the handle access the same
    /// disk.
    pub fn new(disk: MemDisk) -> SharedDisk {
        SharedDisk(Rc::new(RefCell::new(disk)))
    }

    /// Borrows the simulated disk, so that a test can plan faults. Drop the returned guard before
    /// using any handle of the disk again; otherwise that use panics.
    pub fn disk(&self) -> RefMut<'_, MemDisk> {
        self.0.borrow_mut()
    }

    /// Returns a copy of the simulated disk, including changes that are not durable yet.
    #[must_use]
    pub fn snapshot(&self) -> MemDisk {
        self.0.borrow().clone()
    }
}

impl Disk for SharedDisk {
    type File = usize;

    fn describe(&self, name: &str) -> String {
        self.0.borrow().describe(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.borrow().list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.borrow().read(name)
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<usize> {
        self.disk().create(name, bytes)
    }

    fn open(&mut self, name: &str) -> io::Result<usize> {
        self.disk().open(name)
    }

    fn write_at(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk().write_at(file, offset, bytes)
    }

    fn append(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk().append(file, offset, bytes)
    }

    fn open_to_read(&self, name: &str) -> io::Result<usize> {
        self.0.borrow().open_to_read(name)
    }

    fn length(&self, file: &usize) -> io::Result<u64> {
        self.0.borrow().length(file)
    }

    fn read_at(&self, file: &usize, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.borrow().read_at(file, offset, bytes)
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        self.disk().sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.disk().delete(name)
    }

    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        self.disk().delete_in_background(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.disk().sync_dir()
    }

    fn draw(&mut self) -> u64 {
        self.disk().draw()
    }

    #[cfg(feature = "mutants")]
    fn mutant(&self) -> Option<crate::config::Mutant> {
        self.0.borrow().mutant()
    }
}
