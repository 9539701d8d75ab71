//! HTTP on a stream: hyper's connection, both versions, and what one connection may do (spec/waypoint.md 9).

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use mesh_runtime::Drain;
use mesh_xds::messages::waypoint::PortProtocol;

use crate::error::Reason;
use crate::exchange::Version;
use crate::facts::Arrival;
use crate::reply;
use crate::request::{self, Answer, Context, Guest};
use crate::settings::binding::PARTING;

/// A request's head, in HTTP/1.1 and decoded in HTTP/2: what peers of the mesh allow each other.
pub const HEADERS_BYTES_MAX: usize = 64 << 10;
/// A head that takes longer is an attack, or a client whose answer nobody waits for any more.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Requests at once on one connection: a shared proxy's clients come through few connections.
const STREAMS_MAX: u32 = 4096;
/// Bodies that are held for endpoints that read slowly: of one request, and of a whole connection.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
const SEND_BUFFER: usize = 256 << 10;
/// A client that is gone is noticed within 30 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that a client resets before we have taken them, and those that it makes us reset (CVE-2023-44487, CVE-2025-8671).
const PENDING_RESETS_MAX: usize = 20;
const LOCAL_RESETS_MAX: usize = 1024;
/// Requests that a client takes back within `ABANDON_WINDOW` while less than a tenth is waited for: nobody who wants
/// answers behaves so.
const ABANDONED_MAX: u32 = 1000;
const ABANDON_WINDOW: Duration = Duration::from_secs(10);

/// What is known of a stream before its first request.
#[derive(Clone, Debug)]
pub struct Connection {
    pub arrival: Arc<Arrival>,
    pub class: PortProtocol,
    /// No new request is taken once it has begun, and what is open is finished; what goes on after its answer is a part of it.
    pub drain: Drain,
    /// The service is bound to us no longer: clients are to open other connections, which go elsewhere.
    pub unbound: CancellationToken,
    /// Its place among the tunnels, for as long as anything of it goes on.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
}

/// Serves HTTP until the stream is over.
///
/// # Errors
/// How the connection broke, for a log at the level of debugging: its requests have told their own ends.
pub async fn serve<T>(
    io: T,
    version: Version,
    connection: Connection,
    cx: Arc<Context>,
) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (drain, unbound) = (connection.drain.soft_token(), connection.unbound.clone());
    let guest = cx.guests.of(&connection.arrival.identity);
    let conduct = Arc::new(Conduct::new());
    let client = Arc::new((connection, guest));
    let service = {
        let conduct = conduct.clone();
        service_fn(move |incoming| answer(incoming, client.clone(), cx.clone(), conduct.clone()))
    };
    let io = TokioIo::new(io);
    match version {
        Version::Http1 => {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .max_header_size(HEADERS_BYTES_MAX)
                // The head must fit, and what was read beside it.
                .max_buf_size(2 * HEADERS_BYTES_MAX);
            let mut serving = pin!(http.serve_connection(io, service).with_upgrades());
            tokio::select! {
                biased;
                ended = serving.as_mut() => return ended,
                () = drain.cancelled() => serving.as_mut().graceful_shutdown(),
                // An end that a request crosses loses it; answers say before that they are the last.
                () = parted(&unbound, PARTING) => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        }
        Version::Http2 => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_header_list_size(HEADERS_BYTES_MAX as u32)
                .max_concurrent_streams(STREAMS_MAX)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
                .max_local_error_reset_streams(LOCAL_RESETS_MAX)
                .enable_connect_protocol();
            let mut serving = pin!(http.serve_connection(io, service));
            // A GOAWAY loses nothing that is asked already. Who comes after the end of the binding is to ask first.
            let after = if unbound.is_cancelled() { PARTING } else { Duration::ZERO };
            let mut parted = pin!(parted(&unbound, after));
            let mut leaving = false;
            loop {
                tokio::select! {
                    biased;
                    ended = serving.as_mut() => return ended,
                    // What is open on it is dropped with it: it has no place here.
                    () = conduct.bad.cancelled() => return Ok(()),
                    () = drain.cancelled(), if !leaving => leaving = true,
                    () = parted.as_mut(), if !leaving => leaving = true,
                }
                if leaving {
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// So long after the end of the binding.
async fn parted(unbound: &CancellationToken, after: Duration) {
    unbound.cancelled().await;
    tokio::time::sleep(after).await;
}

/// One request, whatever happens in it: a panic is its own end and nobody else's.
async fn answer(
    incoming: Request<Incoming>,
    client: Arc<(Connection, Guest)>,
    cx: Arc<Context>,
    conduct: Arc<Conduct>,
) -> Result<Response<Answer>, Infallible> {
    let mut begun = conduct.begin();
    let page = AssertUnwindSafe(request::request(incoming, &client.0, &client.1, &cx)).catch_unwind();
    let response = page.await.unwrap_or_else(|_| {
        tracing::error!("a request panicked; it is answered with 500, and the connection goes on");
        reply::of(&Reason::Internal, false).map(Answer::from)
    });
    begun.waited_for = true;
    Ok(response)
}

/// How the client of one connection behaves.
struct Conduct {
    began: Instant,
    /// Seconds since `began` at which the window began.
    window: AtomicU32,
    abandoned: AtomicU32,
    waited_for: AtomicU32,
    told: AtomicBool,
    bad: CancellationToken,
}

/// One request; dropped before it has an answer when its client resets it.
struct Begun {
    conduct: Arc<Conduct>,
    waited_for: bool,
}

impl Conduct {
    fn new() -> Conduct {
        Conduct {
            began: Instant::now(),
            window: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            waited_for: AtomicU32::new(0),
            told: AtomicBool::new(false),
            bad: CancellationToken::new(),
        }
    }

    fn begin(self: &Arc<Conduct>) -> Begun {
        Begun { conduct: self.clone(), waited_for: false }
    }

    fn abandon(&self) {
        let now = u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX);
        let window = self.window.load(Ordering::Relaxed);
        if now.saturating_sub(window) >= ABANDON_WINDOW.as_secs() as u32
            && self.window.compare_exchange(window, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.abandoned.store(0, Ordering::Relaxed);
            self.waited_for.store(0, Ordering::Relaxed);
        }
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        if abandoned >= ABANDONED_MAX && self.waited_for.load(Ordering::Relaxed) < abandoned / 9 {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(abandoned, "a client resets nearly all of its requests; its connection is closed");
            }
            self.bad.cancel();
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        match self.waited_for {
            true => drop(self.conduct.waited_for.fetch_add(1, Ordering::Relaxed)),
            false => self.conduct.abandon(),
        }
    }
}

#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod tests;
