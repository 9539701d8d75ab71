//! The last changes of a snapshot, bounded: what a reader that slept asks for, and is told "everything" when it slept
//! too long. Part of the snapshot itself, so that no change can fall between looking and asking.

use std::collections::VecDeque;
use std::sync::Arc;

/// Batches remembered. At 1,000 changes a second, published one by one, it is a quarter of a second, which is long for
/// a task that only compares keys.
pub const BATCHES: usize = 256;
/// Keys remembered over all batches: some 4 MiB at the longest names, whatever the batches hold.
pub const KEYS: usize = 32_768;

/// What one batch touched.
pub trait Touching {
    fn keys(&self) -> usize;
}

/// Versions are counted from 1; 0 is the state before the first change.
#[derive(Debug)]
pub struct Recent<B> {
    version: u64,
    batches: VecDeque<(u64, Arc<B>)>,
}

impl<B: Touching> Recent<B> {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn push(&mut self, batch: B) {
        self.version += 1;
        self.batches.push_back((self.version, Arc::new(batch)));
        let mut keys = self.keys();
        while self.batches.len() > BATCHES || keys > KEYS {
            let Some((_, oldest)) = self.batches.pop_front() else { return };
            keys -= oldest.keys();
        }
    }

    /// The batches after `version`; `None` when some of them are forgotten.
    pub fn since(&self, version: u64) -> Option<Vec<Arc<B>>> {
        let oldest = self.batches.front().map_or(self.version + 1, |(version, _)| *version);
        if version.saturating_add(1) < oldest {
            return None;
        }
        Some(self.batches.iter().filter(|(of, _)| *of > version).map(|(_, batch)| batch.clone()).collect())
    }

    /// The oldest batch after `version` that is remembered.
    pub fn first_since(&self, version: u64) -> Option<&B> {
        self.batches.iter().find(|(of, _)| *of > version).map(|(_, batch)| &**batch)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    pub fn keys(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.keys()).sum()
    }
}

impl<B> Default for Recent<B> {
    fn default() -> Recent<B> {
        Recent { version: 0, batches: VecDeque::new() }
    }
}

impl<B> Clone for Recent<B> {
    fn clone(&self) -> Recent<B> {
        Recent { version: self.version, batches: self.batches.clone() }
    }
}
