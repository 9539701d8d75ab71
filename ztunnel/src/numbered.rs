//! Things of one pod that come and go, each found again by a number: its open connections, and their permits.

use std::collections::HashMap;

/// Below this a map is not worth shrinking.
const SMALL: usize = 64;

/// A book of what is there now. Numbers are never used twice.
#[derive(Debug)]
pub struct Numbered<T> {
    next: u64,
    /// Boxed: a table is up to half empty, and an empty place is then a pointer's.
    entries: HashMap<u64, Box<T>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered { next: 0, entries: HashMap::new() }
    }
}

impl<T> Numbered<T> {
    pub fn add(&mut self, entry: T) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.insert(number, Box::new(entry));
        number
    }

    pub fn remove(&mut self, number: u64) -> Option<T> {
        let entry = self.entries.remove(&number);
        // A map that once held ten thousand gives its memory back.
        if self.entries.capacity() > SMALL && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
        entry.map(|entry| *entry)
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.entries.iter().map(|(number, entry)| (*number, &**entry))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_once_held_many_gives_its_memory_back() {
        let mut book = Numbered::default();
        let numbers: Vec<u64> = (0..10_000).map(|entry| book.add(entry)).collect();
        let (kept, gone) = numbers.split_at(10);
        for number in gone {
            assert_eq!(book.remove(*number), Some(*number));
        }
        assert_eq!(book.len(), kept.len());
        assert!(book.entries.capacity() <= 4 * SMALL, "{}", book.entries.capacity());
        assert_eq!(book.remove(gone[0]), None);
        assert!(book.add(0) > gone[gone.len() - 1], "a number is never used twice");
    }
}
