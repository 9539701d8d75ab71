//! How a controller tells: the delta ADS service. What is decided on a stream is in `claim` (who), `push` (what);
//! here is the I/O, in the order it happens. It runs over whatever connections it is given.

mod outlet;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_runtime::Watched;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::{Body, StdError};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::catalog::Catalog;
use crate::claim::{Account, Caller, Scope, check_claim};
use crate::messages::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, SERVICE};
use crate::push::{Push, Refused, Rejection, TypeStatus};

use outlet::Outlet;

/// How long a new stream may stay without its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Pings, also while idle: they find clients that vanished (spec/controlplane.md 2.8).
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams per connection: a client needs one for discovery and a few calls for certificates beside it.
const STREAMS_PER_CONNECTION: u32 = 100;
/// Header bytes of a call: a token of some KiB and little else.
const HEADER_BYTES: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Streams over all clients.
    pub streams_max: usize,
    /// One request of a node daemon, bytes: a reconnect lists every name, about 1 MiB per 10,000 workloads.
    pub request_bytes_max: usize,
    /// One request of anybody else, bytes.
    pub other_request_bytes_max: usize,
    /// First answers made and sent at a time: they are large, and all nodes come back at once after a restart.
    pub first_answers_at_once: usize,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            streams_max: 10_000,
            request_bytes_max: 64 << 20,
            other_request_bytes_max: 4 << 20,
            first_answers_at_once: 16,
        }
    }
}

/// Who is calling? By the headers of the call and what the connection knows of its peer (`http::Extensions`).
pub trait Authenticate: Send + Sync + 'static {
    fn authenticate<'a>(
        &'a self,
        headers: &'a http::HeaderMap,
        connection: &'a http::Extensions,
    ) -> Pin<Box<dyn Future<Output = Result<Scope, Status>> + Send + 'a>>;
}

/// A message that a client's connection has taken.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub type_url: &'a str,
    pub bytes: usize,
    /// From the catalog to the connection, the wait for its place there included.
    pub took: Duration,
    /// Since the first of the changes that it tells was published; `None`: it answers a request.
    pub behind: Option<Duration>,
}

/// Hears of every message that is sent.
pub trait Measure: Send + Sync + 'static {
    fn sent(&self, sent: Sent<'_>);
}

/// Counted since the start.
#[derive(Debug, Default)]
pub struct ServerCounters {
    pub streams: AtomicU64,
    /// Calls without valid credentials.
    pub unauthenticated: AtomicU64,
    /// Clients that claimed another node, namespace or account than their token's.
    pub claims_refused: AtomicU64,
    /// Subscriptions to what the caller may not have.
    pub subscriptions_refused: AtomicU64,
    /// Streams refused for want of a place.
    pub over_limit: AtomicU64,
    pub responses: AtomicU64,
    pub resources: AtomicU64,
    pub nacks: AtomicU64,
    /// Streams that we ended although the client did nothing wrong: it did not read.
    pub write_timeouts: AtomicU64,
}

/// A connected client, for the operator.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    pub id: String,
    pub account: Option<Account>,
    pub node: Option<Arc<str>>,
    pub since: Instant,
    pub types: BTreeMap<String, TypeStatus>,
}

/// The service. Clones are the same.
#[derive(Clone)]
pub struct Ads {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Watched<Catalog>,
    authenticate: Box<dyn Authenticate>,
    limits: ServerLimits,
    stop: CancellationToken,
    streams: Arc<Semaphore>,
    first_answers: Semaphore,
    clients: Mutex<BTreeMap<u64, ClientStatus>>,
    /// What clients do not do as they were told, all of them together.
    rejections: watch::Sender<Arc<BTreeSet<Rejection>>>,
    counters: ServerCounters,
    measure: OnceLock<Box<dyn Measure>>,
    /// Streams are numbered from a start that the caller chose, so that nonces of two replicas differ.
    next_stream: AtomicU64,
}

impl Ads {
    /// `stop` ends all streams in order, so that clients go to another replica. `first_stream`: any number, best a
    /// random one.
    pub fn new(
        catalog: Watched<Catalog>,
        authenticate: impl Authenticate,
        limits: ServerLimits,
        first_stream: u64,
        stop: CancellationToken,
    ) -> Ads {
        let shared = Shared {
            catalog,
            authenticate: Box::new(authenticate),
            stop,
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            first_answers: Semaphore::new(limits.first_answers_at_once),
            limits,
            clients: Mutex::new(BTreeMap::new()),
            rejections: watch::Sender::default(),
            counters: ServerCounters::default(),
            measure: OnceLock::new(),
            next_stream: AtomicU64::new(first_stream),
        };
        Ads { shared: Arc::new(shared) }
    }

    /// Has every message that is sent from now on measured, by the first who is given.
    pub fn measured_by(&self, measure: impl Measure) {
        let _ = self.shared.measure.set(Box::new(measure));
    }

    pub fn counters(&self) -> &ServerCounters {
        &self.shared.counters
    }

    /// Every connected client and how it does, NACKs included.
    pub fn clients(&self) -> Vec<ClientStatus> {
        self.shared.clients.lock().values().cloned().collect()
    }

    /// What connected clients do not do as they were told.
    pub fn rejections(&self) -> watch::Receiver<Arc<BTreeSet<Rejection>>> {
        self.shared.rejections.subscribe()
    }

    /// Serves discovery alone over these connections until `stop`.
    pub async fn serve<S>(self, incoming: impl Stream<Item = io::Result<S>>) -> Result<(), tonic::transport::Error>
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stop = self.shared.stop.clone();
        server().serve_with_incoming_shutdown(self, incoming, stop.cancelled_owned()).await
    }

    /// Discovery, and `other` for every other method: the certificate authority of the same port.
    pub fn beside<O>(self, other: O) -> Beside<O> {
        Beside { ads: self, other }
    }

    async fn admit(&self, headers: &http::HeaderMap, connection: &http::Extensions) -> Result<Scope, Status> {
        let counters = &self.shared.counters;
        if !self.shared.catalog.with(Catalog::is_ready) {
            return Err(Status::unavailable("the controller is still reading its sources"));
        }
        self.shared.authenticate.authenticate(headers, connection).await.inspect_err(|_| {
            counters.unauthenticated.fetch_add(1, Ordering::Relaxed);
        })
    }
}

/// A gRPC server with the limits that a controller wants.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_BYTES)
}

impl NamedService for Ads {
    const NAME: &'static str = SERVICE;
}

impl<B> tower::Service<http::Request<B>> for Ads
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let ads = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA_METHOD {
                return Ok(Status::unimplemented("only the delta method is served").into_http());
            }
            // Before the body is looked at: how much we read of it depends on who sends it.
            let (head, body) = request.into_parts();
            let scope = match ads.admit(&head.headers, &head.extensions).await {
                Ok(scope) => scope,
                Err(status) => return Ok(status.into_http()),
            };
            let limits = ads.shared.limits;
            let bytes = if scope.all_addresses { limits.request_bytes_max } else { limits.other_request_bytes_max };
            let mut grpc = Grpc::new(tonic_prost::ProstCodec::default()).max_decoding_message_size(bytes);
            let request = http::Request::from_parts(head, body);
            Ok(grpc.streaming(Method { ads, scope }, request).await)
        })
    }
}

/// Two services on one port, told apart by the method.
#[derive(Clone)]
pub struct Beside<O> {
    ads: Ads,
    other: O,
}

impl<O> tower::Service<http::Request<tonic::body::Body>> for Beside<O>
where
    O: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    O::Future: Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.other.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path() == DELTA_METHOD {
            return self.ads.call(request);
        }
        Box::pin(self.other.call(request))
    }
}

struct Method {
    ads: Ads,
    scope: Scope,
}

impl StreamingService<DeltaDiscoveryRequest> for Method {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let shared = self.ads.shared.clone();
        let Ok(place) = shared.streams.clone().try_acquire_owned() else {
            shared.counters.over_limit.fetch_add(1, Ordering::Relaxed);
            return std::future::ready(Err(Status::resource_exhausted("too many streams; try another replica")));
        };
        shared.counters.streams.fetch_add(1, Ordering::Relaxed);
        // One message waits while the one before it is written: what comes meanwhile is joined in the next push.
        let (sender, receiver) = mpsc::channel(1);
        let scope = self.scope.clone();
        tokio::spawn(async move {
            let _place = place;
            let outlet = Outlet::new(sender, &scope, shared.stop.clone());
            if let Err(status) = shared.stream(scope, request.into_inner(), &outlet).await {
                tracing::info!(target: "xds", code = ?status.code(), why = status.message(), "a discovery stream is ended");
                outlet.end(status).await;
            }
        });
        std::future::ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}

impl Shared {
    /// One stream: who is it, then requests and pushes in turn until either side ends it.
    async fn stream(
        &self,
        scope: Scope,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        outlet: &Outlet,
    ) -> Result<(), Status> {
        let first = outlet.unless_over(tokio::time::timeout(FIRST_REQUEST, requests.message())).await?;
        let Some(first) = first.map_err(|_| Status::deadline_exceeded("no first request"))?? else { return Ok(()) };
        let caller = check_claim(first.node.as_ref(), scope).map_err(|refused| {
            self.counters.claims_refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(target: "xds", why = %refused, "a discovery client is refused");
            Status::permission_denied(refused.to_string())
        })?;
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new(self, number, &caller);
        let mut push = Push::new(caller, number);
        let mut catalog = self.catalog.clone();
        // Up to which version the client was told.
        let mut told = catalog.see().version();
        self.answer(&mut push, &first, outlet).await?;
        entry.update(&push);
        loop {
            tokio::select! {
                request = outlet.unless_over(requests.message()) => match request?? {
                    Some(request) => self.answer(&mut push, &request, outlet).await?,
                    None => return Ok(()),
                },
                () = catalog.changed() => {
                    let (begin, now) = (Instant::now(), catalog.load());
                    let changed = now.changed_at(std::mem::replace(&mut told, now.version()));
                    let responses = push.update(&now);
                    if responses.is_empty() {
                        // Most changes concern few streams; the others pay nothing for them.
                        continue;
                    }
                    for response in responses {
                        self.send(response, begin, changed, outlet).await?;
                    }
                }
            }
            entry.update(&push);
        }
    }

    async fn answer(&self, push: &mut Push, request: &DeltaDiscoveryRequest, outlet: &Outlet) -> Result<(), Status> {
        // Held until the answer is on its way: a thousand nodes that come back at once are served in turn.
        let _turn = match push.is_first(request) {
            true => outlet.unless_over(self.first_answers.acquire()).await?.ok(),
            false => None,
        };
        if request.error_detail.is_some() {
            self.counters.nacks.fetch_add(1, Ordering::Relaxed);
        }
        let (begin, catalog) = (Instant::now(), self.catalog.load());
        let responses = push.request(request, &catalog).map_err(|refused| {
            self.counters.subscriptions_refused.fetch_add(1, Ordering::Relaxed);
            match refused {
                Refused::AllAddresses | Refused::Policies => Status::permission_denied(refused.to_string()),
                Refused::TooManyTypes | Refused::TooManyNames => Status::resource_exhausted(refused.to_string()),
            }
        })?;
        for response in responses {
            self.send(response, begin, None, outlet).await?;
        }
        Ok(())
    }

    async fn send(&self, response: DeltaDiscoveryResponse, begin: Instant, changed: Option<Instant>, outlet: &Outlet) -> Result<(), Status> {
        self.counters.responses.fetch_add(1, Ordering::Relaxed);
        self.counters.resources.fetch_add(response.resources.len() as u64, Ordering::Relaxed);
        let (bytes, type_url) = (response.encoded_len(), response.type_url.clone());
        let sent = outlet.send(response).await;
        if sent.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded) {
            self.counters.write_timeouts.fetch_add(1, Ordering::Relaxed);
        }
        sent?;
        if let Some(measure) = self.measure.get() {
            measure.sent(Sent { type_url: &type_url, bytes, took: begin.elapsed(), behind: changed.map(|at| at.elapsed()) });
        }
        Ok(())
    }
}

/// A client's place in the list; leaves with the stream.
struct Entry<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Entry<'_> {
    fn new<'a>(shared: &'a Shared, number: u64, caller: &Caller) -> Entry<'a> {
        let status = ClientStatus {
            id: caller.id.clone(),
            account: caller.scope.account.clone(),
            node: caller.node.clone(),
            since: Instant::now(),
            types: BTreeMap::new(),
        };
        shared.clients.lock().insert(number, status);
        Entry { shared, number }
    }

    fn update(&self, push: &Push) {
        let mut clients = self.shared.clients.lock();
        let Some(status) = clients.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut status.types, push.status());
        if rejected(&before).ne(rejected(&status.types)) {
            tell(&self.shared.rejections, &clients);
        }
    }
}

fn rejected(types: &BTreeMap<String, TypeStatus>) -> impl Iterator<Item = &Rejection> {
    types.values().flat_map(|status| status.rejected.values())
}

fn tell(rejections: &watch::Sender<Arc<BTreeSet<Rejection>>>, clients: &BTreeMap<u64, ClientStatus>) {
    let all: BTreeSet<Rejection> = clients.values().flat_map(|client| rejected(&client.types)).cloned().collect();
    rejections.send_if_modified(|known| {
        let differs = **known != all;
        if differs {
            *known = Arc::new(all);
        }
        differs
    });
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut clients = self.shared.clients.lock();
        let gone = clients.remove(&self.number);
        if gone.is_some_and(|gone| rejected(&gone.types).next().is_some()) {
            tell(&self.shared.rejections, &clients);
        }
    }
}

#[cfg(test)]
mod tests;
