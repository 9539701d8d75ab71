//! The HTTP client: one request to one endpoint, over connections that are kept (spec/waypoint.md 1.4).
//!
//! HTTP/1.1 connections carry one request at a time and wait here in between; HTTP/2 connections carry many. What carries
//! the bytes is behind `Connect`. An HTTP/2 connection lives in one task, an HTTP/1.1 connection in the task of the request
//! that is on it; a request costs no task here. Retries are not decided here: `Fault` says what there is to decide by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http2;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, interval};

use crate::body::Body;
use crate::upstream::Endpoint;

mod connect;
mod fault;
mod kept;
mod leased;
mod wire;

pub use connect::{Connect, Stream};
pub use fault::{BodyFault, Fault};
pub use leased::Leased;

use kept::{Kept, Link};
use leased::{Back, Lease, Outgoing};
use wire::Wire;

/// What a response's head may have: as on the other side.
const HEADERS_BYTES_MAX: usize = 64 << 10;
/// What is held of one connection's responses for clients that read slowly, and of one response.
const CONNECTION_WINDOW: u32 = 2 << 20;
const STREAM_WINDOW: u32 = 512 << 10;
const SEND_BUFFER: usize = 256 << 10;
/// A peer that is gone is noticed within 30 s while requests wait for it.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections that turn out to be closed when a request is given to them. The last one of this many is a new one.
const ROUNDS_MAX: usize = 4;
/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

/// What the service's policy says of its connections (spec/waypoint.md 5.4).
#[derive(Clone, Debug)]
pub struct Rules {
    /// 1: no connection is used twice.
    pub requests_per_connection: Option<u32>,
    pub streams_per_connection: u32,
    pub idle: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        // 100 is what peers of the field allow when they say nothing; an hour is the mesh's default for idle tunnels.
        Rules { requests_per_connection: None, streams_per_connection: 100, idle: Duration::from_secs(3600) }
    }
}

/// Where connections to endpoints are kept.
#[derive(Clone)]
pub struct Exchange {
    connect: Arc<dyn Connect>,
    kept: Arc<Kept>,
}

/// How far the body of a request has come, seen from the response.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU8);

const ENDED: u8 = 1;
const FAILED: u8 = 2;

impl Progress {
    fn ended(&self) {
        self.0.store(ENDED, Ordering::Release);
    }

    fn failed(&self) {
        self.0.store(FAILED, Ordering::Release);
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) == ENDED
    }

    fn has_failed(&self) -> bool {
        self.0.load(Ordering::Acquire) == FAILED
    }
}

impl Exchange {
    pub fn new(connect: Arc<dyn Connect>) -> Exchange {
        Exchange { connect, kept: Arc::default() }
    }

    /// Sends `request` to `hop` and gives its response as soon as its head is there. Dropping the future, or the body of
    /// the response before its end, takes the request back: a reset of its stream, or the end of its connection.
    ///
    /// # Errors
    /// What went wrong before the head of a response.
    pub async fn send(
        &self,
        hop: &Endpoint,
        version: Version,
        rules: &Rules,
        request: Request<Body>,
    ) -> Result<Response<Body>, Fault> {
        let (request, progress) = outgoing(request);
        let sent = match version {
            Version::Http1 => self.send_http1(hop, rules, request, progress.clone()).await,
            Version::Http2 => self.send_http2(hop, rules, request).await,
        };
        match sent {
            Err(fault) if progress.is_some_and(|progress| progress.has_failed()) => Err(Fault::Body(fault.to_string().into())),
            sent => sent,
        }
    }

    async fn send_http1(
        &self,
        hop: &Endpoint,
        rules: &Rules,
        mut request: Request<Outgoing>,
        progress: Option<Arc<Progress>>,
    ) -> Result<Response<Body>, Fault> {
        let place = self.kept.place(hop);
        let mut rounds = 0;
        loop {
            rounds += 1;
            let kept = if rounds < ROUNDS_MAX { kept::take(&place, Instant::now()) } else { None };
            let reused = kept.is_some();
            let (mut wire, uses) = match kept {
                Some(kept) => kept,
                None => (Wire::open(self.connect.connect(hop).await.map_err(Fault::Connect)?).await?, 0),
            };
            let response = match wire.send(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    // It was not sent: the connection had ended meanwhile.
                    Some(unsent) if reused => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(Fault::of_http1(&error.into_error(), reused)),
                },
            };
            let uses = uses + 1;
            // What reads this response may wait for the client to read, and the rest of the request must not wait for that.
            let lease = if response.extensions().get::<OnUpgrade>().is_some() || progress.is_some_and(|progress| !progress.has_ended()) {
                wire.run_alone();
                Lease::Runs { _wire: wire }
            } else {
                let again = rules.requests_per_connection.is_none_or(|most| uses < most);
                let back = again.then(|| Back { place, uses, idle: rules.idle });
                Lease::Http1 { wire, back }
            };
            return Ok(response.map(|incoming| Leased::body(incoming, lease)));
        }
    }

    async fn send_http2(&self, hop: &Endpoint, rules: &Rules, mut request: Request<Outgoing>) -> Result<Response<Body>, Fault> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            let (mut link, reused) = self.link(hop, rules).await?;
            let seat = link.seat();
            match link.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|incoming| Leased::body(incoming, Lease::Http2 { _seat: seat }))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused && rounds < ROUNDS_MAX => request = unsent,
                    _ => return Err(Fault::of_http2(&error.into_error(), reused)),
                },
            }
        }
    }

    /// A connection with room: one that stands, one that somebody is dialling, or a new one.
    async fn link(&self, hop: &Endpoint, rules: &Rules) -> Result<(Link, bool), Fault> {
        let place = self.kept.place(hop);
        if let Some(link) = self.kept.link(&place, rules, Instant::now()) {
            return Ok((link, true));
        }
        let dial = self.kept.dial(&place, || {
            let connecting = self.connect.connect(hop);
            // Of what it is kept in itself, or neither would ever go.
            let (kept, place) = (Arc::downgrade(&self.kept), Arc::downgrade(&place));
            let idle = rules.idle;
            Box::pin(async move {
                let opened = match connecting.await {
                    Ok(stream) => open_http2(stream).await.map(|sender| Link::new(sender, idle)),
                    Err(error) => Err(Fault::Connect(error)),
                };
                if let (Some(kept), Some(place)) = (kept.upgrade(), place.upgrade()) {
                    kept.dialled(&place, opened.as_ref().ok());
                }
                opened
            })
        });
        dial.await.map(|link| (link, false))
    }

    /// Hops of which `wanted` says no lose their idle connections at once; what is in flight there ends by itself.
    pub fn retain(&self, wanted: impl FnMut(&Endpoint) -> bool) {
        self.kept.retain(wanted);
    }

    /// Closes what has been idle for too long, for as long as it is polled.
    pub async fn tend(&self) {
        let mut tick = interval(SWEEP);
        loop {
            tick.tick().await;
            self.kept.sweep(Instant::now());
        }
    }
}

async fn open_http2(stream: Box<dyn Stream>) -> Result<http2::SendRequest<Outgoing>, Fault> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Fault::of_http2(&error, false))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn outgoing(request: Request<Body>) -> (Request<Outgoing>, Option<Arc<Progress>>) {
    let progress = (!request.body().is_end_stream()).then(Arc::<Progress>::default);
    let shared = progress.clone();
    (request.map(|body| Outgoing { body, progress }), shared)
}

/// Streams in use on one connection.
pub(crate) type Active = Arc<AtomicU32>;

#[cfg(test)]
mod tests;
