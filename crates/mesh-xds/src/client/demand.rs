//! Asking for single names, and waiting until the answer has been applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

/// Questions that wait to be looked at; the asker waits for a place.
const QUEUE: usize = 1_024;

/// A handle to ask with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Demand {
    questions: mpsc::Sender<Question>,
}

/// The question was not asked: too many are open, or the client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many look-ups at the controller are open, or the client has stopped")]
pub struct NotAsked;

#[derive(Debug)]
struct Question {
    name: Arc<str>,
    answered: oneshot::Sender<()>,
}

/// The client's end: questions that come in, and who waits for which name.
#[derive(Debug)]
pub(super) struct Asks {
    incoming: mpsc::Receiver<Question>,
    sender: mpsc::Sender<Question>,
    waiting: BTreeMap<Arc<str>, Vec<oneshot::Sender<()>>>,
    count: usize,
    max: usize,
}

impl Demand {
    /// Asks for `network/ip`, a workload's uid or `namespace/hostname` and waits until the answer has been applied to
    /// the world, "there is none" included: then look into the directory again. Waits through reconnects; the caller
    /// sets the time limit. Dropping the future takes nothing back.
    pub async fn fetch(&self, name: &str) -> Result<(), NotAsked> {
        let (answered, answer) = oneshot::channel();
        self.questions.send(Question { name: name.into(), answered }).await.map_err(|_| NotAsked)?;
        answer.await.map_err(|_| NotAsked)
    }
}

impl Asks {
    pub(super) fn new(max: usize) -> Asks {
        let (sender, incoming) = mpsc::channel(QUEUE);
        Asks { incoming, sender, waiting: BTreeMap::new(), count: 0, max }
    }

    pub(super) fn demand(&self) -> Demand {
        Demand { questions: self.sender.clone() }
    }

    /// The next name to ask for. Who comes when too many wait is let go at once with `NotAsked`.
    pub(super) async fn next(&mut self) -> Arc<str> {
        loop {
            let Some(Question { name, answered }) = self.incoming.recv().await else {
                // Cannot happen while `sender` lives here; if it did, there would be nothing to ask for.
                return std::future::pending().await;
            };
            if answered.is_closed() {
                // Gave up while the controller was away.
                continue;
            }
            if self.count >= self.max {
                self.drop_abandoned();
            }
            if self.count >= self.max {
                continue;
            }
            self.count += 1;
            self.waiting.entry(name.clone()).or_default().push(answered);
            return name;
        }
    }

    pub(super) fn answer(&mut self, names: &[Arc<str>]) {
        for name in names {
            for waiter in self.waiting.remove(name).into_iter().flatten() {
                self.count -= 1;
                // Whoever no longer waits does not need it.
                let _ = waiter.send(());
            }
        }
    }

    /// Names that nobody waits for any more make place.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
    }
}
