//! A tunnel for what may be ours in a moment waits for that, and no longer than a moment.

use std::sync::Arc;

use mesh_telemetry::families::waypoint::BINDINGS_AWAITED;
use mesh_telemetry::labels::fixed;
use tokio::time::timeout;

use super::{Asked, Refused, arrive};
use crate::facts::Arrival;
use crate::proxy::Proxy;
use crate::settings::binding::EXPECTED_MAX;

/// Tunnels that wait: of all clients, and of one identity, which may ask for whatever it likes.
pub const WAITING_MAX: u32 = 4_096;
pub const WAITING_PER_CLIENT_MAX: u32 = 256;

/// # Errors
/// It is not for us, and did not become so.
pub async fn admit(proxy: &Proxy, asked: &Asked<'_>) -> Result<Arc<Arrival>, Refused> {
    let judge = || proxy.with_here(|here| arrive(here, asked));
    let early = match judge() {
        Ok(arrival) => return Ok(Arc::new(arrival)),
        Err(refused) if !refused.is_early() => return Err(refused),
        Err(refused) => refused,
    };
    let count = |outcome| proxy.recorder.counter(&BINDINGS_AWAITED, &[fixed("outcome", outcome)]).increment(1);
    let Some(_place) = proxy.waiting.of(asked.identity).enter() else {
        count("crowded");
        return Err(early);
    };
    let (mut settings, mut world) = (proxy.settings.clone(), proxy.world.clone());
    let bound = async {
        loop {
            // Seen first, judged second: what comes in between wakes.
            drop((settings.see(), world.see()));
            match judge() {
                Err(refused) if refused.is_early() => {}
                judged => return judged,
            }
            tokio::select! { () = settings.changed() => {}, () = world.changed() => {} }
        }
    };
    let judged = timeout(EXPECTED_MAX, bound).await.unwrap_or(Err(early));
    count(if judged.is_ok() { "bound" } else { "refused" });
    judged.map(Arc::new)
}
