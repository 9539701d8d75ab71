//! State with one writer and many readers. Readers see immutable snapshots without a lock; news is a level, not an
//! edge: a reader that was busy while ten versions passed wakes once and sees the newest.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// The writing end. There is one, and publishing needs `&mut`, so there can be no race between writers.
#[derive(Debug)]
pub struct Publisher<T> {
    current: Arc<ArcSwap<T>>,
    version: watch::Sender<u64>,
}

/// A reading end. A clone has seen what the original had seen.
#[derive(Debug)]
pub struct Watched<T> {
    current: Arc<ArcSwap<T>>,
    version: watch::Receiver<u64>,
}

/// A state that starts as `initial`, which counts as seen.
pub fn watched<T>(initial: T) -> (Publisher<T>, Watched<T>) {
    let current = Arc::new(ArcSwap::from_pointee(initial));
    let (sender, receiver) = watch::channel(0);
    (Publisher { current: current.clone(), version: sender }, Watched { current, version: receiver })
}

impl<T> Publisher<T> {
    /// Replaces the state and wakes the readers.
    pub fn publish(&mut self, next: T) {
        self.publish_shared(Arc::new(next));
    }

    pub fn publish_shared(&mut self, next: Arc<T>) {
        // The state first: a reader that sees the new version must find at least that state.
        self.current.store(next);
        self.version.send_modify(|version| *version += 1);
    }

    /// Replaces the state by what the closure makes of it.
    pub fn update(&mut self, change: impl FnOnce(&mut T))
    where
        T: Clone,
    {
        let mut next = T::clone(&self.current.load());
        change(&mut next);
        self.publish(next);
    }

    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// A new reader, for which the present state counts as seen.
    pub fn watch(&self) -> Watched<T> {
        Watched { current: self.current.clone(), version: self.version.subscribe() }
    }

    /// How many readers there are.
    pub fn readers(&self) -> usize {
        self.version.receiver_count()
    }
}

impl<T> Watched<T> {
    /// A state that never changes.
    pub fn constant(state: T) -> Watched<T> {
        watched(state).1
    }

    /// Looks at the present state. The closure is synchronous, so the snapshot cannot be held over an await.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.current.load())
    }

    /// As `with`, for who wants to know whether the state is the one that it has seen before.
    pub fn with_shared<R>(&self, look: impl FnOnce(&Arc<T>) -> R) -> R {
        look(&self.current.load())
    }

    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The present state, which counts as seen from now on: `changed` then waits for a later one.
    pub fn see(&mut self) -> Arc<T> {
        // Seen first, loaded second: what is published between the two is loaded, and reported once more.
        self.version.borrow_and_update();
        self.load()
    }

    /// Whether there is a state that this reader has not seen.
    pub fn has_changed(&self) -> bool {
        self.version.has_changed().unwrap_or(false)
    }

    /// The number of the present state; grows by one with each `publish`.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Resolves when there is a state that this reader has not seen, at once if there is one already, and counts it as
    /// seen. Nothing is lost when the future is dropped. When the writer is gone no change can come: then it never resolves.
    pub async fn changed(&mut self) {
        if self.version.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the state satisfies `wanted` and returns it; `None` when the writer went before.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<Arc<T>> {
        loop {
            let state = self.see();
            if wanted(&state) {
                return Some(state);
            }
            self.version.changed().await.ok()?;
        }
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Watched<T> {
        Watched { current: self.current.clone(), version: self.version.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_quiet<T>(watched: &mut Watched<T>) -> bool {
        tokio::time::timeout(Duration::from_secs(1), watched.changed()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn no_change_is_missed_and_many_are_one() {
        let (mut publisher, mut reader) = watched(0);
        assert!(is_quiet(&mut reader).await, "the first state is not news");
        publisher.publish(1);
        publisher.publish(2);
        reader.changed().await;
        assert_eq!((*reader.load(), reader.version()), (2, 2));
        assert!(is_quiet(&mut reader).await);
    }

    #[tokio::test(start_paused = true)]
    async fn looking_does_not_count_as_seen_but_see_does() {
        let (mut publisher, mut reader) = watched(String::from("a"));
        publisher.update(|text| text.push('b'));
        assert_eq!(reader.with(String::len), 2);
        assert!(reader.has_changed());
        let mut twin = reader.clone();
        assert_eq!(*reader.see(), "ab");
        assert!(is_quiet(&mut reader).await);
        twin.changed().await; // a clone has its own memory of what it saw
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_loses_nothing() {
        let (mut publisher, mut reader) = watched(0);
        drop(reader.changed());
        publisher.publish(1);
        tokio::select! { biased; () = reader.changed() => {}, () = std::future::pending() => {} }
        assert_eq!(*reader.load(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_writer_is_gone_the_last_state_stays() {
        let (publisher, mut reader) = watched(7);
        drop(publisher);
        assert!(is_quiet(&mut reader).await);
        assert_eq!(*reader.load(), 7);
        assert_eq!(reader.wait_for(|state| *state == 8).await, None);
        assert_eq!(reader.wait_for(|state| *state == 7).await.as_deref(), Some(&7));
    }
}
