//! Readiness: the process is ready while nobody blocks it. Whoever is not ready yet holds a guard; letting it go
//! says "I am", and taking one again says "no longer".

use std::collections::BTreeMap;

use tokio::sync::watch;

/// Who still blocks readiness, by name. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Ready {
    blocking: watch::Sender<BTreeMap<String, usize>>,
}

/// While this lives the process is not ready.
#[derive(Debug)]
#[must_use = "dropping the guard says that the task is ready"]
pub struct BlockReady {
    name: String,
    of: Ready,
}

impl Ready {
    pub fn new() -> Ready {
        Ready { blocking: watch::Sender::new(BTreeMap::new()) }
    }

    /// Blocks readiness under this name. Several guards of one name count as one entry that all have to be let go.
    pub fn block(&self, name: &str) -> BlockReady {
        self.blocking.send_modify(|blocking| *blocking.entry(name.to_owned()).or_default() += 1);
        BlockReady { name: name.to_owned(), of: self.clone() }
    }

    /// The names that still block, sorted; empty means ready.
    pub fn pending(&self) -> Vec<String> {
        self.blocking.borrow().keys().cloned().collect()
    }

    pub fn is_ready(&self) -> bool {
        self.blocking.borrow().is_empty()
    }

    /// Waits until nobody blocks.
    pub async fn until_ready(&self) {
        let mut blocking = self.blocking.subscribe();
        let _ = blocking.wait_for(BTreeMap::is_empty).await;
    }

    /// What a probe is answered: HTTP status and body (spec/dataplane.md 8.4).
    pub fn answer(&self) -> (u16, String) {
        match self.pending().as_slice() {
            [] => (200, "ready\n".to_owned()),
            pending => (500, format!("not ready, pending: {}\n", pending.join(", "))),
        }
    }
}

impl Default for Ready {
    fn default() -> Ready {
        Ready::new()
    }
}

impl BlockReady {
    /// The same as dropping it, for a reader's sake.
    pub fn ready(self) {}
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        self.of.blocking.send_modify(|blocking| {
            if let Some(count) = blocking.get_mut(&self.name) {
                *count -= 1;
                if *count == 0 {
                    blocking.remove(&self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_guard_is_gone_and_not_ready_again_when_one_is_taken() {
        let ready = Ready::new();
        let proxy = ready.block("proxy");
        let (state, state_again) = (ready.block("state manager"), ready.block("state manager"));
        assert_eq!(ready.answer(), (500, "not ready, pending: proxy, state manager\n".to_owned()));
        drop(state);
        proxy.ready();
        assert_eq!(ready.pending(), ["state manager"]);
        let waiting = tokio::spawn({
            let ready = ready.clone();
            async move { ready.until_ready().await }
        });
        drop(state_again);
        waiting.await.unwrap();
        assert_eq!(ready.answer(), (200, "ready\n".to_owned()));
        let _again = ready.block("workload proxy manager");
        assert!(!ready.is_ready());
    }
}
