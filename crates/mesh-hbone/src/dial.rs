//! The dialling end: HTTP/2 on one stream, and one CONNECT at a time asked of it.
//!
//! A connection has two parts: a `Client` (cheap to clone) that opens tunnels, and a `Driver` that must run for any of
//! them to move. The pool keeps many; `open_alone` is for a connection that carries one tunnel (inner double HBONE).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Response, StatusCode, response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::connect::ConnectRequest;
use crate::error::{Flood, OpenError};
use crate::guard::{Guard, Wire};
use crate::limits::{LOCAL_ERROR_RESETS_MAX, Limits, RESETS_REMEMBERED, RESETS_REMEMBERED_MAX};
use crate::pulse::{Beat, Pulse};
use crate::stream::{Lease, Tunnel};

/// Opens tunnels on one connection.
#[derive(Clone)]
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    wire: Arc<Wire>,
}

/// Moves the bytes of one connection.
pub(crate) struct Driver<T> {
    connection: Connection<Guard<T>, Bytes>,
    pulse: Pulse,
    wire: Arc<Wire>,
    /// What the watch was last told.
    streams: Option<usize>,
    told_unusable: bool,
}

/// What a driver tells its owner while it runs.
pub(crate) trait Watch: Send + Sync {
    /// The peer lets us open so many streams (its first SETTINGS, and changes).
    fn streams(&self, limit: usize);
    /// No new streams here: the peer has sent GOAWAY.
    fn unusable(&self);
    /// Time for slow checks.
    fn tick(&self);
    /// Whether tunnels are open there, or being opened.
    fn is_used(&self) -> bool;
}

/// How one request on one connection went wrong, and so what may be done with it. In none of these cases have bytes of
/// the user left: a tunnel exists only after the 200.
#[derive(Debug)]
pub(crate) enum Turned {
    /// The connection takes no requests any more; this one has not left.
    Closed(OpenError),
    /// The peer refused this stream unprocessed (REFUSED_STREAM): it is at its limit.
    Refused(OpenError),
    /// The connection is going away and this stream was not processed (above GOAWAY's last stream).
    Unprocessed(OpenError),
    /// The connection broke or fell silent before the answer. On one that stood for a while that is no news of the peer.
    Broken(OpenError),
    /// An answer, or a refusal to wait longer: final.
    Failed(OpenError),
}

enum Step {
    Closed(Result<(), h2::Error>),
    Flood(Flood),
    Beat(Beat),
}

/// What to do about a connection that has not said a word since a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Ask elsewhere: it stood before, and what is at its other end may be gone.
    Leave,
    /// Wait until it is known to be dead: there is nowhere else to ask.
    Bear,
}

/// Client preface and SETTINGS out; the peer's are awaited by the driver, within the same limit.
pub(crate) async fn handshake<T>(io: T, limits: &Limits) -> Result<(Client, Driver<T>), OpenError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &limits.allowed();
    let wire = Arc::new(Wire::default());
    let handshake = builder(limits).handshake(Guard::dialling(io, wire.clone()));
    let (send, mut connection) = timeout(limits.handshake, handshake)
        .await
        .map_err(|_| OpenError::Handshake(format!("nothing could be sent within {:?}", limits.handshake).into()))?
        .map_err(|error| OpenError::Handshake(error.to_string().into()))?;
    let ping = connection.ping_pong().expect("it is taken once per connection, here");
    let pulse = Pulse::new(ping, limits, limits.ping_dialled, wire.clone());
    let driver = Driver { connection, pulse, wire: wire.clone(), streams: None, told_unusable: false };
    Ok((Client { send, wire }, driver))
}

/// One tunnel on a connection of its own; the connection ends with it. The driver is spawned on the current runtime.
pub async fn open_alone<T>(io: T, limits: &Limits, request: &ConnectRequest) -> Result<(Tunnel, response::Parts), OpenError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    struct Nobody;
    impl Watch for Nobody {
        fn streams(&self, _: usize) {}
        fn unusable(&self) {}
        fn tick(&self) {}
        fn is_used(&self) -> bool {
            true
        }
    }
    let (client, driver) = handshake(io, limits).await?;
    // The driver ends when the client and the tunnel are gone, or the peer is.
    tokio::spawn(async move { driver.run(&Nobody, &CancellationToken::new()).await });
    client.open(request, limits, Silence::Bear, Lease::Alone).await.map_err(Turned::into_error)
}

fn builder(limits: &Limits) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_size)
        .max_header_list_size(limits.header_list)
        .max_send_buffer_size(limits.send_buffer_dialled)
        .max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
        .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
        .reset_stream_duration(RESETS_REMEMBERED)
        .enable_push(false)
        // Until the peer's SETTINGS say more, the ledger seats one request, and h2 would hold back a second.
        .initial_max_send_streams(1);
    builder
}

impl Client {
    /// One CONNECT. The lease goes into the tunnel, or is given back.
    pub async fn open(
        mut self,
        request: &ConnectRequest,
        limits: &Limits,
        silence: Silence,
        lease: Lease,
    ) -> Result<(Tunnel, response::Parts), Turned> {
        let (answer, send) = self.send.send_request(request.to_http(), false).map_err(|error| Turned::Closed(http2(error)))?;
        let response = self.answer(answer, limits, silence).await?;
        established(response, send, lease).map(|(tunnel, parts)| (tunnel.counted(self.wire.clone()), parts))
    }

    /// Waits for the answer. A peer that falls silent is found out long before the answer is overdue: its connection is
    /// probed, and without a single byte since the request it is left, or else given up when the probe is overdue.
    async fn answer(&self, mut answer: ResponseFuture, limits: &Limits, silence: Silence) -> Result<Response<h2::RecvStream>, Turned> {
        let (asked, heard) = (Instant::now(), self.wire.heard());
        if let Ok(done) = timeout(limits.suspect, &mut answer).await {
            return done.map_err(turned);
        }
        if self.wire.heard() == heard {
            self.wire.probe.notify_one();
        }
        if self.wire.heard() == heard && silence == Silence::Leave {
            if let Ok(done) = timeout(limits.suspect * 2, &mut answer).await {
                return done.map_err(turned);
            }
            if self.wire.heard() == heard {
                return Err(Turned::Broken(OpenError::Silent { after: limits.suspect * 3 }));
            }
        }
        match timeout_at(asked + limits.response, answer).await {
            Ok(done) => done.map_err(turned),
            Err(_) => Err(Turned::Failed(OpenError::ResponseTimeout { after: limits.response })),
        }
    }
}

/// 200 makes a tunnel; any other status, 2xx or not, is a failure (spec/dataplane.md 1.4).
fn established(
    response: Response<h2::RecvStream>,
    mut send: SendStream<Bytes>,
    lease: Lease,
) -> Result<(Tunnel, response::Parts), Turned> {
    let (parts, recv) = response.into_parts();
    if parts.status != StatusCode::OK {
        send.send_reset(Reason::CANCEL);
        return Err(Turned::Failed(OpenError::Status(parts.status)));
    }
    Ok((Tunnel::new(send, recv, lease), parts))
}

fn turned(error: h2::Error) -> Turned {
    if error.is_reset() && error.is_remote() {
        return match error.reason() {
            Some(Reason::REFUSED_STREAM) => Turned::Refused(http2(error)),
            _ => Turned::Failed(http2(error)),
        };
    }
    if error.is_reset() {
        // Ours: h2 found fault with the answer.
        return Turned::Failed(http2(error));
    }
    if error.is_go_away() && error.is_remote() {
        return Turned::Unprocessed(http2(error));
    }
    Turned::Broken(http2(error))
}

fn http2(error: h2::Error) -> OpenError {
    OpenError::Http2(Arc::new(error))
}

impl Turned {
    pub fn into_error(self) -> OpenError {
        match self {
            Turned::Closed(error)
            | Turned::Refused(error)
            | Turned::Unprocessed(error)
            | Turned::Broken(error)
            | Turned::Failed(error) => error,
        }
    }
}

impl<T> Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    /// Runs until the connection is over: its clients and tunnels are gone, the peer closed it, or `cut`. What is open
    /// then fails with it.
    pub async fn run(mut self, watch: &dyn Watch, cut: &CancellationToken) -> Result<(), OpenError> {
        let wire = self.wire.clone();
        loop {
            let step = tokio::select! {
                biased;
                _ = cut.cancelled() => return Err(OpenError::Draining),
                _ = wire.probe.notified() => {
                    self.pulse.probe();
                    continue;
                }
                step = poll_fn(|cx| self.poll_step(cx, watch)) => step,
            };
            match step {
                Step::Beat(Beat::Tick) => watch.tick(),
                Step::Beat(Beat::Window(size)) => {
                    let done = self.connection.set_initial_window_size(size).is_ok();
                    self.pulse.announced(size, done);
                }
                Step::Closed(result) => return result.map_err(http2),
                Step::Flood(flood) => return Err(OpenError::Handshake(format!("the peer floods us: {flood}").into())),
                Step::Beat(Beat::Unsettled) => {
                    return Err(OpenError::Handshake("the peer has sent no SETTINGS".into()));
                }
                Step::Beat(Beat::Dead) => {
                    return Err(OpenError::Handshake("the peer does not answer PING".into()));
                }
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, watch: &dyn Watch) -> Poll<Step> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        if let Some(flood) = self.wire.flood() {
            return Poll::Ready(Step::Flood(flood));
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(Step::Closed(result));
        }
        self.tell(watch);
        self.pulse.poll(cx, self.wire.tunnels(), || watch.is_used()).map(Step::Beat)
    }

    /// What changed in this poll that the owner wants to know.
    fn tell(&mut self, watch: &dyn Watch) {
        if self.wire.going_away() && !self.told_unusable {
            self.told_unusable = true;
            watch.unusable();
        }
        if self.wire.settled() {
            let streams = self.connection.max_concurrent_send_streams();
            if self.streams != Some(streams) {
                self.streams = Some(streams);
                watch.streams(streams);
            }
        }
    }
}
