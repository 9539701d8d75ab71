//! A connection between two nodes: bytes take time, and the cable can be held, cut or reset by the scenario.
//!
//! What travels is shown to a tap, so that a run can say whether a plain-text marker was ever on a wire.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use mesh_net::duplex::Duplex;
use mesh_net::memory::Memory;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::timeout;

/// What the scenario does to the cables between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Whole,
    /// Nothing moves until it is whole again; nobody is told.
    Held,
    /// Every connection over it is reset, new ones are refused.
    Reset,
}

/// Sees every chunk on the wire.
pub type Tap = Arc<dyn Fn(&Bytes) + Send + Sync>;

/// What a cable needs to know.
pub(crate) struct Cable {
    pub state: watch::Receiver<State>,
    pub seed: u64,
    /// The longest time that a chunk takes; the shortest is a tenth of it.
    pub latency: Duration,
    pub tap: Arc<Mutex<Option<Tap>>>,
    /// Held for so long, both ends find each other gone: their kernels' probes are not answered.
    pub dead_after: Option<Duration>,
}

/// Carries both directions until both ended or the cable was reset.
pub(crate) async fn carry(cable: Cable, near: Memory, far: Memory) {
    let (near, far) = (Arc::new(Mutex::new(near)), Arc::new(Mutex::new(far)));
    let lost = lost(cable.state.clone(), cable.dead_after);
    let there = one_way(&cable, cable.seed, &near, &far);
    let back = one_way(&cable, cable.seed ^ 1, &far, &near);
    let ended = tokio::select! {
        biased;
        () = lost => false,
        (there, back) = async { tokio::join!(there, back) } => there && back,
    };
    if !ended {
        near.lock().reset();
        far.lock().reset();
    }
}

/// The cable is reset, or held for longer than its ends put up with.
async fn lost(mut state: watch::Receiver<State>, dead_after: Option<Duration>) {
    loop {
        let now = match state.wait_for(|state| *state != State::Whole).await {
            Ok(now) => *now,
            Err(_) => return,
        };
        let (State::Held, Some(dead_after)) = (now, dead_after) else {
            drop(state.wait_for(|state| *state == State::Reset).await);
            return;
        };
        if timeout(dead_after, state.wait_for(|state| *state != State::Held)).await.is_err() {
            return;
        }
    }
}

/// Whether the direction ended cleanly. A reset of one end is passed on by whoever notices.
async fn one_way(cable: &Cable, seed: u64, from: &Mutex<Memory>, to: &Mutex<Memory>) -> bool {
    // Delays depend on the seed and on how many chunks went before, never on how many bytes a TLS record has.
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut state = cable.state.clone();
    loop {
        let read = std::future::poll_fn(|cx| from.lock().poll_read_chunk(cx, usize::MAX)).await;
        tokio::time::sleep(cable.latency.mul_f64(rng.random_range(0.1..1.0))).await;
        if state.wait_for(|state| *state != State::Held).await.is_err() {
            return false;
        }
        match read {
            Ok(Some(mut chunk)) => {
                let tap = cable.tap.lock().clone();
                if let Some(tap) = tap {
                    tap(&chunk);
                }
                if std::future::poll_fn(|cx| to.lock().poll_write_chunk(cx, &mut chunk)).await.is_err() {
                    from.lock().reset();
                    return false;
                }
            }
            Ok(None) => {
                return std::future::poll_fn(|cx| match to.lock().poll_finish(cx) {
                    Poll::Ready(ended) => Poll::Ready(ended.is_ok()),
                    Poll::Pending => Poll::Pending,
                })
                .await;
            }
            Err(_) => {
                to.lock().reset();
                return false;
            }
        }
    }
}
