//! A table of connections with small, reusable indexes, which fit into `Poll` tokens.

/// A table that assigns small indexes to its values and reuses the indexes of removed values.
///
/// Invariant: `free` contains exactly the indexes that have no value.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Returns the index that the next inserted value will get.
    pub(crate) fn next_index(&self) -> usize {
        self.free.last().copied().unwrap_or(self.values.len())
    }

    /// Inserts a value and returns its index.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        if let Some(index) = self.free.pop() {
            self.values[index] = Some(value);
            return index;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    /// Returns the value at `index`; `None` if there is no value at this index.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.values.get_mut(index)?.as_mut()
    }

    /// Removes and returns the value at `index`; `None` if there is no value at this index.
    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        let value = self.values.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    /// Returns the number of values in the table.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Returns all values in the table with their indexes.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        let values = self.values.iter_mut().enumerate();
        values.filter_map(|(index, value)| Some((index, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_slab_reuses_freed_indexes() {
        let mut slab = Slab::default();
        assert_eq!((slab.insert('a'), slab.insert('b'), slab.insert('c')), (0, 1, 2));
        assert_eq!(slab.remove(1), Some('b'));
        assert_eq!(slab.remove(1), None);
        assert_eq!((slab.len(), slab.next_index()), (2, 1));
        assert_eq!(slab.get_mut(1), None);
        assert_eq!(slab.insert('d'), 1);
        assert_eq!(slab.iter_mut().map(|(_, value)| *value).collect::<String>(), "adc");
        assert_eq!(slab.remove(9), None);
    }
}
