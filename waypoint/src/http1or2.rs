//! HTTP on a stream: hyper's connection, both versions, and what one connection may do (spec/waypoint.md 9).

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, Version as Spoken};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_hbone::{Flood, Guard, Wire};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use mesh_runtime::Drain;
use mesh_xds::messages::waypoint::PortProtocol;

use crate::account::headers_bytes;
use crate::error::Reason;
use crate::exchange::Version;
use crate::facts::Arrival;
use crate::request::{self, Answer, Context, Guest};
use crate::seldom::Seldom;
use crate::settings::binding::PARTING;
use crate::{hygiene, reply};

use conduct::{Begun, Conduct};
use patience::Patience;

mod conduct;
mod patience;

/// A request's head, in HTTP/1.1 and decoded in HTTP/2: what peers of the mesh allow each other.
pub const HEADERS_BYTES_MAX: usize = 64 << 10;
/// As long as the mesh keeps an idle tunnel (spec/waypoint.md 5.3).
const IDLE_MAX: Duration = Duration::from_secs(3600);
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
    let conduct = Arc::new(Conduct::new(cx.books.clone()));
    let client = Arc::new((connection, guest));
    let service = {
        let conduct = conduct.clone();
        service_fn(move |incoming| answer(incoming, client.clone(), cx.clone(), conduct.begin()))
    };
    match version {
        Version::Http1 => {
            let io = TokioIo::new(Patience::new(io, conduct.clone()));
            let mut http = http1::Builder::new();
            http.max_header_size(HEADERS_BYTES_MAX)
                // The head must fit, and what was read beside it.
                .max_buf_size(2 * HEADERS_BYTES_MAX);
            let mut serving = pin!(http.serve_connection(io, service).with_upgrades());
            let (mut bad, mut ending) = (Seldom::new(conduct.bad()), Seldom::new(ending(&drain, &unbound, &conduct)));
            let mut draining = false;
            loop {
                tokio::select! {
                    biased;
                    ended = serving.as_mut() => return ended,
                    () = &mut bad => return Ok(()),
                    () = &mut ending, if !draining => {
                        draining = true;
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
        }
        Version::Http2 => {
            let wire = Arc::new(Wire::default());
            let io = TokioIo::new(Guard::of_requests(io, wire.clone()));
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
            let (mut bad, mut drained) = (Seldom::new(conduct.bad()), Seldom::new(drain.cancelled()));
            let mut parted = Seldom::new(parted(&unbound, after));
            let mut leaving = false;
            loop {
                tokio::select! {
                    biased;
                    ended = watched(serving.as_mut(), &wire) => match ended {
                        Ok(ended) => return ended,
                        Err(flood) => {
                            conduct.flooded(flood);
                            return Ok(());
                        }
                    },
                    // What is open on it is dropped with it: it has no place here.
                    () = &mut bad => return Ok(()),
                    () = &mut drained, if !leaving => leaving = true,
                    () = &mut parted, if !leaving => leaving = true,
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

/// Until no new request is to be taken on a connection of HTTP/1.1.
async fn ending(drain: &CancellationToken, unbound: &CancellationToken, conduct: &Conduct) {
    tokio::select! {
        () = drain.cancelled() => {}
        // An end that a request crosses loses it; answers say before that they are the last.
        () = parted(unbound, PARTING) => {}
        () = conduct.idle(IDLE_MAX) => {}
    }
}

/// A connection, until it has ended or its client sends too much of what is no request.
async fn watched<F: Future>(mut serving: Pin<&mut F>, wire: &Wire) -> Result<F::Output, Flood> {
    poll_fn(|cx| match (serving.as_mut().poll(cx), wire.flood()) {
        (Poll::Ready(ended), _) => Poll::Ready(Ok(ended)),
        (Poll::Pending, Some(flood)) => Poll::Ready(Err(flood)),
        (Poll::Pending, None) => Poll::Pending,
    })
    .await
}

/// One request, whatever happens in it: a panic is its own end and nobody else's.
async fn answer(
    incoming: Request<Incoming>,
    client: Arc<(Connection, Guest)>,
    cx: Arc<Context>,
    mut begun: Begun,
) -> Result<Response<Answer>, Infallible> {
    let conduct = begun.conduct.clone();
    let (version, is_connect) = (incoming.version(), incoming.method() == Method::CONNECT);
    let grpc = version == Spoken::HTTP_2 && hygiene::is_grpc(incoming.headers());
    let ours = |reason: Reason| reply::of(&reason, grpc).map(Answer::from);
    let response = match conduct.hold(headers_bytes(incoming.headers())) {
        None => ours(Reason::HeadersTooLarge),
        Some(_held) => {
            let page = AssertUnwindSafe(request::request(incoming, &client.0, &client.1, &cx)).catch_unwind();
            page.await.unwrap_or_else(|_| {
                tracing::error!("a request panicked; it is answered with 500, and the connection goes on");
                cx.books.panicked();
                ours(Reason::Internal)
            })
        }
    };
    begun.waited_for();
    // What becomes a stream of bytes has no next request that could be waited for.
    let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS || (is_connect && response.status().is_success());
    Ok(if version == Spoken::HTTP_2 || upgrades { response } else { response.map(|answer| answer.alone(conduct.clone(), conduct.cut())) })
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod smuggling; // V-48
#[cfg(test)]
mod tests;
