//! Copies of requests, whose answers nobody waits for and which count for nothing (spec/waypoint.md 2.4, 5.9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Context;
use super::forward::alpn;
use crate::account::trace::context;
use crate::attempts;
use crate::body::Body;
use crate::choose::Backend;
use crate::exchange::Version;
use crate::facts::Arrival;
use crate::reach::Errand;

/// Copies on their way at once: each holds a task and a stream, and a mirror that hangs must not fill the proxy with them.
const MIRRORS_MAX: usize = 1024;
/// For a copy's whole answer where the request itself has no time of its own.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

pub struct Mirrors {
    room: Arc<Semaphore>,
}

impl Default for Mirrors {
    fn default() -> Mirrors {
        Mirrors { room: Arc::new(Semaphore::new(MIRRORS_MAX)) }
    }
}

impl Mirrors {
    /// Without room the copy is not made.
    #[allow(clippy::too_many_arguments, reason = "all that a request is made of")]
    pub fn send(
        &self,
        cx: &Arc<Context>,
        backend: Arc<Backend>,
        version: Version,
        arrival: &Arc<Arrival>,
        mut request: Request<Body>,
        connect_timeout: Duration,
        deadline: Option<Instant>,
    ) {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            tracing::debug!(backend = ?backend.key, "too many mirrored requests are under way; one is left out");
            return;
        };
        context::unsampled(request.headers_mut());
        let (cx, arrival) = (cx.clone(), arrival.clone());
        let within = deadline.map_or(MIRROR_TIMEOUT, |deadline| deadline.saturating_duration_since(Instant::now()));
        tokio::spawn(async move {
            let _room = room;
            let copied = timeout(within, copy(&cx, &backend, version, &arrival, request, connect_timeout)).await;
            if let Ok(Err(why)) = copied {
                tracing::debug!(backend = ?backend.key, why, "a mirrored request failed");
            }
        });
    }
}

async fn copy(
    cx: &Context,
    backend: &Arc<Backend>,
    version: Version,
    arrival: &Arrival,
    request: Request<Body>,
    connect_timeout: Duration,
) -> Result<(), String> {
    let of_header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(of_header).map(str::to_owned);
    let errand = Errand {
        backend,
        destination: &cx.reach.backends.destination(&backend.key),
        arrival,
        host: host.as_deref(),
        hash: None,
        wanted: None,
        from_client: false,
        connect_timeout,
        alpn: alpn(version),
    };
    let reached = cx.reach.next(&errand, &[], Instant::now()).map_err(|why| why.to_string())?;
    let response = cx.exchange.send(&reached.to, version, &attempts::rules(&backend.policy), request).await.map_err(|why| why.to_string())?;
    let mut body = response.into_body();
    // Read to its end, so that its connection can be used again; nothing is kept.
    while let Some(frame) = body.frame().await {
        frame.map_err(|why| why.to_string())?;
    }
    Ok(())
}
