//! The accepting end: HTTP/2 on one stream, CONNECT requests handed out one by one, drained or cut when told.
//!
//! Who may connect where is the handler's business; here is only what protects the connection itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::connect::{BadAuthority, ConnectHead};
use crate::error::{Flood, Malformed, ServeError};
use crate::guard::{Guard, Wire};
use crate::limits::{
    LAST_WORDS, LOCAL_ERROR_RESETS_MAX, Limits, RESET_BEFORE_ACCEPT_MAX, RESETS_REMEMBERED, RESETS_REMEMBERED_MAX,
};
use crate::pulse::{Beat, Pulse};
use crate::stream::{Lease, Tunnel, io_error};

/// How the owner ends a connection: `soft` lets its tunnels finish, `forced` does not.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub soft: CancellationToken,
    pub forced: CancellationToken,
}

/// A request for a tunnel, not answered yet. Dropped without an answer it is refused with 503.
pub struct Connect {
    head: ConnectHead,
    headers: HeaderMap,
    /// Taken by the answer.
    open: Option<Open>,
}

struct Open {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    place: OwnedSemaphorePermit,
}

/// A good request that waits for a place among those being answered.
struct Waiting {
    head: ConnectHead,
    headers: HeaderMap,
    respond: SendResponse<Bytes>,
    recv: RecvStream,
}

#[expect(clippy::large_enum_variant, reason = "an event is moved once; a box would be an allocation per request")]
enum Event {
    Arrival(Request<RecvStream>, SendResponse<Bytes>),
    Closed(Result<(), h2::Error>),
    Flood(Flood),
    Beat(Beat),
    Place(OwnedSemaphorePermit),
    Drain,
    Forced,
}

/// Serves one connection until both sides are done with it. The handler gets each CONNECT, and each request that is
/// none (already answered with 400); it must return at once, so it spawns. The future must be polled for the tunnels
/// to move.
///
/// Errors: the handshake, silence, floods, broken transport, and `Forced`. In all of them the tunnels fail with it.
pub async fn serve<T, H>(io: T, limits: &Limits, stop: &Stop, handler: H) -> Result<(), ServeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Result<Connect, Malformed>),
{
    let limits = &limits.allowed();
    // Children: a wake-up of this connection then touches no lock that others share.
    let stop = Stop { soft: stop.soft.child_token(), forced: stop.forced.child_token() };
    let wire = Arc::new(Wire::default());
    let handshake = builder(limits).handshake(Guard::serving(io, wire.clone()));
    let connection = tokio::select! {
        biased;
        _ = stop.forced.cancelled() => return Err(ServeError::Forced),
        done = timeout(limits.handshake, handshake) => {
            done.map_err(|_| ServeError::HandshakeTimeout { after: limits.handshake })?.map_err(ServeError::Handshake)?
        }
    };
    Session::new(connection, limits, wire, handler).run(&stop).await
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_size)
        .max_header_list_size(limits.header_list)
        .max_concurrent_streams(limits.streams_served)
        .max_send_buffer_size(limits.send_buffer_served)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT_MAX)
        .max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
        .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
        .reset_stream_duration(RESETS_REMEMBERED);
    builder
}

/// One served connection.
struct Session<'a, T, H> {
    connection: Connection<Guard<T>, Bytes>,
    pulse: Pulse,
    wire: Arc<Wire>,
    limits: &'a Limits,
    /// A place per request being answered or tunnelled. It is held until the handler is done, also when the peer has
    /// long reset the stream, so that a peer can't make us work on more than it may have open.
    places: Arc<Semaphore>,
    waiting: VecDeque<Waiting>,
    busy_at: Instant,
    draining: bool,
    handler: H,
}

impl<'a, T, H> Session<'a, T, H>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Result<Connect, Malformed>),
{
    fn new(mut connection: Connection<Guard<T>, Bytes>, limits: &'a Limits, wire: Arc<Wire>, handler: H) -> Self {
        let ping = connection.ping_pong().expect("it is taken once per connection, here");
        Session {
            connection,
            pulse: Pulse::new(ping, limits, limits.ping_after, wire.clone()),
            wire,
            limits,
            places: Arc::new(Semaphore::new(limits.streams_served as usize)),
            waiting: VecDeque::new(),
            busy_at: Instant::now(),
            draining: false,
            handler,
        }
    }

    async fn run(mut self, stop: &Stop) -> Result<(), ServeError> {
        loop {
            match self.next(stop).await {
                Event::Arrival(request, respond) => self.arrived(request, respond),
                Event::Place(place) => self.place_free(place),
                Event::Beat(Beat::Tick) => self.tick(),
                Event::Beat(Beat::Window(size)) => {
                    let done = self.connection.set_initial_window_size(size).is_ok();
                    self.pulse.announced(size, done);
                }
                Event::Drain => self.drain(),
                Event::Closed(Err(error)) if !self.is_idle() || !error.is_io() => return Err(ServeError::Http2(error)),
                // A client that hangs up on a connection without streams, however rudely, breaks nothing.
                Event::Closed(_) => return Ok(()),
                Event::Flood(flood) => {
                    self.shut(Reason::ENHANCE_YOUR_CALM).await;
                    return Err(ServeError::Flood(flood));
                }
                Event::Forced => {
                    self.shut(Reason::NO_ERROR).await;
                    return Err(ServeError::Forced);
                }
                Event::Beat(Beat::Unsettled) => {
                    self.shut(Reason::SETTINGS_TIMEOUT).await;
                    return Err(ServeError::HandshakeTimeout { after: self.limits.handshake });
                }
                Event::Beat(Beat::Dead) => {
                    self.shut(Reason::NO_ERROR).await;
                    return Err(ServeError::Silent { after: self.limits.ping_timeout });
                }
            }
        }
    }

    async fn next(&mut self, stop: &Stop) -> Event {
        let places = self.places.clone();
        tokio::select! {
            biased;
            _ = stop.forced.cancelled() => Event::Forced,
            _ = stop.soft.cancelled(), if !self.draining => Event::Drain,
            place = places.acquire_owned(), if !self.waiting.is_empty() => {
                Event::Place(place.expect("this semaphore is never closed"))
            }
            event = poll_fn(|cx| self.poll_event(cx)) => event,
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let polled = self.connection.poll_accept(cx);
        if let Some(flood) = self.wire.flood() {
            return Poll::Ready(Event::Flood(flood));
        }
        match polled {
            Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Arrival(request, respond)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Closed(Err(error))),
            Poll::Ready(None) => return Poll::Ready(Event::Closed(Ok(()))),
            Poll::Pending => {}
        }
        self.pulse.poll(cx, self.open(), || true).map(Event::Beat)
    }

    fn arrived(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.busy_at = Instant::now();
        let (parts, recv) = request.into_parts();
        let head = match target(&parts.method, parts.uri.authority().map(|authority| authority.as_str())) {
            Ok(head) => head,
            Err(malformed) => {
                answer(&mut respond, StatusCode::BAD_REQUEST);
                (self.handler)(Err(malformed));
                return;
            }
        };
        let waiting = Waiting { head, headers: parts.headers, respond, recv };
        match self.places.clone().try_acquire_owned() {
            Ok(place) if self.waiting.is_empty() => (self.handler)(Ok(waiting.seated(place))),
            _ => self.queue(waiting),
        }
    }

    /// All places are taken: by streams that the peer has open, or by handlers of streams that it has reset.
    fn queue(&mut self, mut waiting: Waiting) {
        if self.waiting.len() < self.limits.streams_served as usize {
            self.waiting.push_back(waiting);
        } else {
            waiting.respond.send_reset(Reason::REFUSED_STREAM);
        }
    }

    fn place_free(&mut self, place: OwnedSemaphorePermit) {
        while let Some(mut waiting) = self.waiting.pop_front() {
            if !waiting.is_reset() {
                (self.handler)(Ok(waiting.seated(place)));
                return;
            }
        }
    }

    /// A connection on which nothing has been open for long is closed; its client dials again when it needs to.
    fn tick(&mut self) {
        if !self.is_idle() {
            self.busy_at = Instant::now();
        } else if self.busy_at.elapsed() >= self.limits.idle_served {
            self.drain();
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.open() == 0
    }

    /// Requests being answered and tunnels.
    fn open(&self) -> usize {
        (self.limits.streams_served as usize).saturating_sub(self.places.available_permits())
    }

    fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
    }

    /// A last GOAWAY, and what time it has to leave. The streams fail at once.
    async fn shut(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
        let _ = timeout(LAST_WORDS, poll_fn(|cx| self.connection.poll_closed(cx))).await;
    }
}

impl Waiting {
    fn seated(self, place: OwnedSemaphorePermit) -> Connect {
        let Waiting { head, headers, respond, recv } = self;
        Connect { head, headers, open: Some(Open { respond, recv, place }) }
    }

    fn is_reset(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.respond.poll_reset(&mut cx).is_ready()
    }
}

impl Connect {
    /// Where it wants to go.
    pub fn head(&self) -> &ConnectHead {
        &self.head
    }

    /// Of the request; none after it was accepted.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Always CONNECT: a request of another method is answered with 400 and never gets here.
    pub fn method(&self) -> &Method {
        &Method::CONNECT
    }

    /// Answers 200 with these headers; what the peer has sent so far is in the tunnel. Errors when the peer has reset
    /// the stream, or when it was answered before.
    pub fn accept(&mut self, headers: HeaderMap) -> std::io::Result<Tunnel> {
        let answered = || std::io::Error::new(std::io::ErrorKind::NotConnected, "this CONNECT has been answered before");
        let Open { mut respond, recv, place } = self.open.take().ok_or_else(answered)?;
        self.headers = HeaderMap::new(); // most of a kilobyte, for as long as the tunnel is open
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = respond.send_response(response, false).map_err(io_error)?;
        Ok(Tunnel::new(send, recv, Lease::Served { _place: place }))
    }

    /// Answers with this status and the end of the stream: no body, no headers. Does nothing after an answer.
    pub fn refuse(&mut self, status: StatusCode) {
        if let Some(mut open) = self.open.take() {
            answer(&mut open.respond, status);
        }
    }

    /// Resolves when the peer has reset the stream, so that work for it can stop. Never after an answer.
    pub async fn cancelled(&mut self) {
        match &mut self.open {
            Some(open) => drop(poll_fn(|cx| open.respond.poll_reset(cx)).await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        self.refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
}

fn target(method: &Method, authority: Option<&str>) -> Result<ConnectHead, Malformed> {
    if method != Method::CONNECT {
        return Err(Malformed::Method(method.clone()));
    }
    let authority = authority.unwrap_or_default();
    authority.parse().map_err(|why: BadAuthority| Malformed::Authority { authority: authority.to_owned(), why })
}

/// A refusal; it fails only for a stream that is gone, which needs none.
fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let _ = respond.send_response(response, true);
}

#[cfg(test)]
mod tests;
