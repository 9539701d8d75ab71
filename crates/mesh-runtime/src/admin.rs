//! The small HTTP/1 server for operators: probes, metrics, dumps, and a few switches. A table of routes in, answers out.
//!
//! What changes something answers only to the machine's own operator (design decision 16), see `may_change`.
//! Not here: what any path says; the programs own their routes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::drain::Drain;

/// Bounds of the server. Whoever can reach the port can spend this much of the process, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Of these, from one address; more are closed at once.
    pub per_address: usize,
    /// Bytes of request line and headers.
    pub header_bytes: usize,
    /// Time from the start of waiting for a request to its last header byte.
    pub header_time: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Time from the end of the headers to the last byte of the body.
    pub body_time: Duration,
    /// Life of one connection; a request that is being answered then is answered.
    pub connection_time: Duration,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process that could open the socket's file: its permissions are the guard.
    Unix,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub peer: Peer,
    pub method: Method,
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The parameters after `?`, decoded, in the order they were written. A name without `=` has an empty value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(pub Vec<(String, String)>);

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

type Handler = Arc<dyn Fn(Ask) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Which requests are answered, and how.
#[derive(Clone, Default)]
pub struct Routes {
    by_path: BTreeMap<&'static str, Vec<Route>>,
}

#[derive(Clone)]
struct Route {
    /// `None`: any method.
    method: Option<Method>,
    /// What a request with another method is told.
    usage: &'static str,
    changes: Changes,
    handler: Handler,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    Nothing,
    Something,
}

impl Limits {
    /// 32 connections are a few probes, a few scrapers and a person; 16 KiB of headers is what proxies send at most; five
    /// seconds suffice for a header on one machine; a profile takes up to 300 s, so a connection lives twice that.
    pub const DEFAULT: Limits = Limits {
        connections: 32,
        // Most come over loopback.
        per_address: 32,
        header_bytes: 16 * 1024,
        header_time: Duration::from_secs(5),
        body_bytes: 64 * 1024,
        body_time: Duration::from_secs(5),
        connection_time: Duration::from_secs(600),
    };
}

impl Routes {
    pub fn new() -> Routes {
        Routes::default()
    }

    /// A path that shows something.
    pub fn get<F: Future<Output = Answer> + Send + 'static>(
        self,
        path: &'static str,
        handler: impl Fn(Ask) -> F + Send + Sync + 'static,
    ) -> Routes {
        self.with(path, Some(Method::GET), "only GET is supported\n", Changes::Nothing, handler)
    }

    /// A path that shows something whatever the method.
    pub fn any<F: Future<Output = Answer> + Send + 'static>(
        self,
        path: &'static str,
        handler: impl Fn(Ask) -> F + Send + Sync + 'static,
    ) -> Routes {
        self.with(path, None, "", Changes::Nothing, handler)
    }

    /// A path that changes something: POST, and only from the machine's own operator. `usage` is what other methods are told.
    pub fn post<F: Future<Output = Answer> + Send + 'static>(
        self,
        path: &'static str,
        usage: &'static str,
        handler: impl Fn(Ask) -> F + Send + Sync + 'static,
    ) -> Routes {
        self.with(path, Some(Method::POST), usage, Changes::Something, handler)
    }

    /// `POST /logging?level=LEVEL` and `?reset`: `set` is told of both and gives status and text.
    pub fn logging(self, usage: &'static str, set: impl Fn(bool, Option<&str>) -> (u16, String) + Send + Sync + 'static) -> Routes {
        self.post("/logging", usage, move |ask| {
            let (status, body) = set(ask.query.has("reset"), ask.query.first("level"));
            std::future::ready(Answer::text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body))
        })
    }

    fn with<F: Future<Output = Answer> + Send + 'static>(
        mut self,
        path: &'static str,
        method: Option<Method>,
        usage: &'static str,
        changes: Changes,
        handler: impl Fn(Ask) -> F + Send + Sync + 'static,
    ) -> Routes {
        let handler: Handler = Arc::new(move |ask| Box::pin(handler(ask)));
        self.by_path.entry(path).or_default().push(Route { method, usage, changes, handler });
        self
    }

    /// The paths there are, sorted.
    pub fn paths(&self) -> Vec<&'static str> {
        self.by_path.keys().copied().collect()
    }

    /// Answers one request: 404 for an unknown path, 405 for a wrong method, 403 where only the operator may.
    pub async fn answer(&self, ask: Ask) -> Answer {
        let Some(routes) = self.by_path.get(ask.path.as_str()) else {
            return Answer::text(StatusCode::NOT_FOUND, "not found\n");
        };
        let Some(route) = routes.iter().find(|route| route.method.as_ref().is_none_or(|method| *method == ask.method)) else {
            let mut refusal = Answer::text(StatusCode::METHOD_NOT_ALLOWED, routes[0].usage);
            let allowed =
                routes.iter().filter_map(|route| route.method.as_ref()).map(Method::as_str).collect::<Vec<_>>().join(", ");
            if let Ok(allowed) = HeaderValue::from_str(&allowed) {
                refusal.headers.insert(header::ALLOW, allowed);
            }
            return refusal;
        };
        if route.changes == Changes::Something
            && let Err(why) = may_change(ask.peer, &ask.headers)
        {
            return Answer::text(StatusCode::FORBIDDEN, why);
        }
        (route.handler)(ask).await
    }
}

/// Whether this request may change something: it must come over our own loopback or unix socket, name this machine as its
/// host (else a browser was led here by a foreign name), and come from no web page.
pub fn may_change(peer: Peer, headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Err("refused: a request with an Origin header comes from a web page\n");
    }
    let Peer::Tcp(peer) = peer else { return Ok(()) };
    if !peer.ip().to_canonical().is_loopback() {
        return Err("refused: this path answers only on the loopback of the daemon\n");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if names_this_machine(host) => Ok(()),
        _ => Err("refused: the Host header must be localhost or 127.0.0.1\n"),
    }
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

/// Serves on a TCP listener until the drain begins; open connections then end after their present request.
pub async fn serve_tcp(listener: TcpListener, routes: Arc<Routes>, limits: Limits, drain: Drain) {
    let (room, sources) = (Arc::new(Semaphore::new(limits.connections)), Sources::default());
    loop {
        let Some(place) = vacancy(&room, &drain).await else { return };
        let accepted = tokio::select! { biased; () = drain.soft() => return, accepted = listener.accept() => accepted };
        match accepted {
            Ok((stream, peer)) => start(stream, Peer::Tcp(peer), &routes, limits, &drain, (place, &sources)),
            Err(error) => after_accept_error(&error).await,
        }
    }
}

/// The same on a unix socket, where the file's permissions say who may connect.
pub async fn serve_unix(listener: UnixListener, routes: Arc<Routes>, limits: Limits, drain: Drain) {
    let (room, sources) = (Arc::new(Semaphore::new(limits.connections)), Sources::default());
    loop {
        let Some(place) = vacancy(&room, &drain).await else { return };
        let accepted = tokio::select! { biased; () = drain.soft() => return, accepted = listener.accept() => accepted };
        match accepted {
            Ok((stream, _)) => start(stream, Peer::Unix, &routes, limits, &drain, (place, &sources)),
            Err(error) => after_accept_error(&error).await,
        }
    }
}

/// The same on connections that somebody else accepts, with TLS for example.
pub async fn serve_accepted<S>(accepted: impl Stream<Item = (S, Peer)>, routes: Arc<Routes>, limits: Limits, drain: Drain)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (room, sources) = (Arc::new(Semaphore::new(limits.connections)), Sources::default());
    let mut accepted = std::pin::pin!(accepted);
    loop {
        let Some(place) = vacancy(&room, &drain).await else { return };
        let next = tokio::select! { biased; () = drain.soft() => return, next = accepted.next() => next };
        let Some((stream, peer)) = next else { return };
        start(stream, peer, &routes, limits, &drain, (place, &sources));
    }
}

/// For the answer that is on its way when a connection has had its time: as long as an API server waits for one.
const LAST_ANSWER: Duration = Duration::from_secs(30);

async fn vacancy(room: &Arc<Semaphore>, drain: &Drain) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = drain.soft() => None,
        place = room.clone().acquire_owned() => place.ok(),
    }
}

/// Accept fails for want of descriptors, and fails again at once: a pause keeps that from becoming a busy loop.
async fn after_accept_error(error: &std::io::Error) {
    tracing::warn!(%error, "the admin listener could not accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them, for as long as it is kept.
struct Seat {
    sources: Sources,
    address: IpAddr,
}

impl Sources {
    /// `None`: the address has as many as it may.
    fn seat(&self, address: IpAddr, per_address: usize) -> Option<Seat> {
        let mut taken = self.0.lock();
        let count = taken.get(&address).copied().unwrap_or(0);
        (count < per_address).then(|| {
            taken.insert(address, count + 1);
            Seat { sources: self.clone(), address }
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.sources.0.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

fn start<S>(stream: S, peer: Peer, routes: &Arc<Routes>, limits: Limits, drain: &Drain, (place, sources): (tokio::sync::OwnedSemaphorePermit, &Sources))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = match peer {
        Peer::Tcp(from) => match sources.seat(from.ip().to_canonical(), limits.per_address) {
            Some(seat) => Some(seat),
            None => return,
        },
        // Whoever may open the file is trusted with all of it.
        Peer::Unix => None,
    };
    let (routes, watch) = (routes.clone(), drain.clone());
    drain.spawn(async move {
        let _kept = (place, seat);
        tokio::select! {
            biased;
            () = watch.forced() => {}
            // An operator's connection that breaks is his to notice: nothing here depends on it.
            _ = tokio::time::timeout(limits.connection_time + LAST_ANSWER, converse(stream, peer, routes, limits, &watch)) => {}
        }
    });
}

/// Serves one connection, whatever carries it, to its end.
///
/// # Errors
/// What was wrong with the peer's HTTP, or how its connection broke.
pub async fn converse<S>(stream: S, peer: Peer, routes: Arc<Routes>, limits: Limits, drain: &Drain) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(respond(&routes, peer, request, limits).await.into_response()) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = drain.soft() => {}
        () = tokio::time::sleep(limits.connection_time) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn respond(routes: &Routes, peer: Peer, request: http::Request<Incoming>, limits: Limits) -> Answer {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(limits.body_time, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Err(_) => return Answer::text(StatusCode::REQUEST_TIMEOUT, "the body came too slowly\n"),
        Ok(Err(_)) => return Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n"),
    };
    let query = Query::parse(head.uri.query().unwrap_or_default());
    routes.answer(Ask { peer, method: head.method, path: head.uri.path().to_owned(), query, headers: head.headers, body }).await
}

impl Query {
    /// Reads `a=b&c`, with `%41` and `+` decoded; a broken escape stays as it is written.
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        )
    }

    /// The first value of this name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped =
            after.get(..2).filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = if escaped.is_some() { &after[2..] } else { after };
        bytes.push(escaped.unwrap_or(if first == b'+' { b' ' } else { first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Answer {
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Answer { status, headers, body: body.into() }
    }

    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body)
    }

    pub fn ok(body: impl Into<Bytes>) -> Answer {
        Answer::text(StatusCode::OK, body)
    }

    pub fn json(body: impl Into<Bytes>) -> Answer {
        Answer::new(StatusCode::OK, "application/json", body)
    }

    pub fn html(body: impl Into<Bytes>) -> Answer {
        Answer::new(StatusCode::OK, "text/html; charset=utf-8", body)
    }

    /// In an encoding that the client accepts.
    pub fn encoded(self, encoding: Option<&'static str>) -> Answer {
        match encoding {
            Some(encoding) => self.header(header::CONTENT_ENCODING, HeaderValue::from_static(encoding)),
            None => self,
        }
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.insert(name, value);
        self
    }

    /// JSON as somebody has written it, or failed to.
    pub fn written(json: Result<Vec<u8>, impl std::fmt::Display>) -> Answer {
        match json {
            Ok(mut body) => {
                body.push(b'\n');
                Answer::json(body)
            }
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write JSON: {error}\n")),
        }
    }

    fn into_response(self) -> http::Response<Full<Bytes>> {
        let mut response = http::Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Metrics, where scrapers of this family look for them. `expose` is told what a scraper accepts, and in which encodings.
pub fn metrics(expose: impl Fn(Option<&str>, Option<&str>) -> Answer + Send + Sync + 'static) -> Routes {
    let expose = Arc::new(expose);
    let mut routes = Routes::new();
    for path in ["/metrics", "/stats/prometheus"] {
        let expose = expose.clone();
        routes = routes.any(path, move |ask| {
            let said = |name| ask.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
            std::future::ready(expose(said(header::ACCEPT), said(header::ACCEPT_ENCODING)))
        });
    }
    routes
}

/// The routes of a readiness port: `/healthz/ready` (spec/dataplane.md 8.4).
pub fn readiness(ready: crate::Ready) -> Routes {
    Routes::new().get("/healthz/ready", move |_| {
        let (status, body) = ready.answer();
        std::future::ready(Answer::text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body))
    })
}

#[cfg(test)]
mod tests;
