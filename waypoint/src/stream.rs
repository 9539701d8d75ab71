//! A stream of bytes, top to bottom: which backend, which endpoint, and the relay until both sides are done
//! (spec/waypoint.md 1.8). A refusal is a reset, never an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_net::duplex::Duplex;
use mesh_net::relay::{End, Meter, Relayed, relay};

use crate::detect::Arrived;
use crate::detect::hello::ClientHello;
use crate::facts::Arrival;
use crate::proxy::Proxy;

pub mod guard;

/// How long a stream may carry nothing where its policy says nothing (spec/waypoint.md 1.8).
const IDLE_MAX: Duration = Duration::from_secs(3600);

pub async fn stream(proxy: &Arc<Proxy>, arrival: &Arrival, mut client: Arrived, _hello: Option<&ClientHello>) {
    let endpoint = match proxy.choose(arrival) {
        Some(endpoint) => endpoint,
        None => {
            tracing::info!(target = ?arrival.target, "a stream is refused: no healthy upstream");
            return client.reset();
        }
    };
    let mut server = match proxy.connector.open(&endpoint).await {
        Ok(server) => server,
        Err(why) => {
            tracing::info!(target = ?arrival.target, %why, "a stream is refused: its upstream cannot be reached");
            return client.reset();
        }
    };
    let moved = Moved::default();
    tokio::select! {
        relayed = relay(&mut client, &mut server, &moved) => told(arrival, &relayed),
        () = moved.idle(IDLE_MAX) => {
            tracing::info!(target = ?arrival.target, "a stream carried nothing for {IDLE_MAX:?}");
            client.reset();
            server.reset();
        }
        () = proxy.drain.forced() => {
            client.reset();
            server.reset();
        }
    }
}

fn told(arrival: &Arrival, relayed: &Relayed) {
    match &relayed.end {
        End::Finished => {}
        how => tracing::debug!(target = ?arrival.target, ?how, "a stream was broken off"),
    }
}

/// Counts what moves, to see that nothing does.
#[derive(Default)]
struct Moved(AtomicU64);

impl Meter for Moved {
    fn forward(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn backward(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Moved {
    /// Resolves when nothing has moved for so long; looked at once per period, so within twice of it.
    async fn idle(&self, max: Duration) {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(max).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }
}
