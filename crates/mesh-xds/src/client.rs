//! How a node learns: one delta ADS stream, kept up for as long as the process lives. What is decided on it is in
//! `delta` (protocol) and `wire` (content); here is the I/O, in the order it happens.

mod answer;
mod demand;
mod node;
mod sink;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use mesh_runtime::{Backoff, BlockReady};
use rand::rngs::SmallRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::delta::{Delta, Interest};
use crate::epoch::Epochs;
use crate::messages::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use crate::messages::{ADDRESS, AUTHORIZATION};
use crate::world::WorldWriter;

pub use demand::{Demand, NotAsked};
pub use node::{NodeMetadata, json_to_value, waypoint_node, ztunnel_node};
pub use sink::Sink;

use demand::Asks;

/// Connecting, TLS included (spec/dataplane.md 5.7).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings, also while idle: they find a controller that vanished without a FIN (spec/dataplane.md 5.7, F-14).
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait between two tries (spec/dataplane.md 5.7).
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Requests under way to the server. A stream opens with one for each type, each response makes one; a server that does not
/// read them is not read either.
const REQUESTS: usize = 32;

/// What the client tells of itself and how much it takes.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `https://host:port` of the controller; only `:authority` and the scheme are made of it, the caller dials.
    pub server: Uri,
    pub node: Node,
    /// Header `clusterid`; none when empty.
    pub cluster_id: String,
    /// Further headers, e.g. from `XDS_HEADER_*`.
    pub headers: Vec<(String, String)>,
    /// Addresses by name as they are needed, instead of all.
    pub on_demand: bool,
    pub limits: ClientLimits,
}

#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// One message of the server, bytes; a larger one ends the stream, what is known stays (F-16).
    pub message_bytes_max: usize,
    /// Resources of one type; more are refused one by one.
    pub resources_max: usize,
    /// Names asked for and not answered, and waiters for them.
    pub pending_max: usize,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits { message_bytes_max: 200 << 20, resources_max: 1_000_000, pending_max: 10_000 }
    }
}

/// What a caller may want to count. `()` counts nothing.
pub trait Observe: Send + Sync + 'static {
    /// A response came: type URL and encoded size in bytes.
    fn message(&self, _type_url: &str, _bytes: usize) {}
    /// Resources of a response were refused.
    fn rejected(&self, _type_url: &str, _resources: usize) {}
    /// The connection is over.
    fn terminated(&self, _how: Termination) {}
}

impl Observe for () {}

/// Why a connection ended, by the words of `istio_xds_connection_terminations_total` (spec/dataplane.md 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// No connection came about.
    ConnectionError,
    /// The server refused the stream or broke the protocol.
    Error,
    /// The usual end of a long-lived stream: the transport closed, the server restarted.
    Reconnect,
    /// The server closed the stream in order.
    Complete,
}

impl Termination {
    pub fn word(self) -> &'static str {
        match self {
            Termination::ConnectionError => "ConnectionError",
            Termination::Error => "Error",
            Termination::Reconnect => "Reconnect",
            Termination::Complete => "Complete",
        }
    }
}

/// Whether we hear from the controller. Losing it refuses nothing; a snapshot that is too old does (design decision 5).
#[derive(Clone, Debug)]
pub struct Contact {
    /// The present stream has brought an answer. To be connected alone says nothing: a controller that takes streams
    /// and ends them at once is no controller.
    pub connected: bool,
    /// When `connected` last changed.
    pub since: Instant,
    /// Streams that were opened.
    pub streams: u64,
    /// How the last stream ended, for people.
    pub last_error: Option<String>,
}

pub struct Client<D> {
    config: ClientConfig,
    dial: Arc<D>,
    token: Arc<dyn Fn() -> Result<Option<String>, String> + Send + Sync>,
    observe: Arc<dyn Observe>,
    world: WorldWriter,
    /// Where what is not of the workload API goes.
    sink: Option<Box<dyn Sink>>,
    delta: Delta,
    epochs: Epochs,
    asks: Asks,
    contact: watch::Sender<Contact>,
    block: Option<BlockReady>,
    rng: SmallRng,
}

/// How a stream ended.
struct Ended {
    how: Termination,
    why: String,
    /// The server answered at least once, so it was worth the try.
    heard: bool,
}

impl<D, F, S> Client<D>
where
    D: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// `dial` makes a connection, TLS included, and is called for each try, so it sees new roots and addresses. `token`
    /// gives the bearer token of each stream. `rng` spreads the tries of many nodes.
    pub fn new(
        config: ClientConfig,
        dial: D,
        token: impl Fn() -> Result<Option<String>, String> + Send + Sync + 'static,
        world: WorldWriter,
        rng: SmallRng,
    ) -> Client<D> {
        let addresses = if config.on_demand { Interest::OnDemand } else { Interest::Everything };
        let contact = Contact { connected: false, since: Instant::now(), streams: 0, last_error: None };
        Client {
            asks: Asks::new(config.limits.pending_max),
            // Policies first, and so they are answered first: a workload that came with a reference to a policy made
            // while the controller was away would be closed until the policy is there, and its open connections cut.
            delta: Delta::new(&[(AUTHORIZATION, Interest::Everything), (ADDRESS, addresses)]),
            epochs: Epochs::default(),
            dial: Arc::new(dial),
            token: Arc::new(token),
            observe: Arc::new(()),
            world,
            sink: None,
            contact: watch::Sender::new(contact),
            block: None,
            rng,
            config,
        }
    }

    /// Subscribes `types` beside the addresses, in the place of the policies that node daemons decide by. What comes of
    /// them goes to `sink`, which judges each resource; ready is who has heard of each type, even if a resource was refused:
    /// one object that cannot be used must not keep a proxy from serving all others.
    pub fn instead_of_policies(mut self, types: &[&'static str], sink: Box<dyn Sink>) -> Client<D> {
        let addresses = if self.config.on_demand { Interest::OnDemand } else { Interest::Everything };
        let further = types.iter().map(|type_url| (*type_url, Interest::Everything));
        // Who is where first: what is served is then served with its endpoints.
        self.delta = Delta::new(&[(ADDRESS, addresses)].into_iter().chain(further).collect::<Vec<_>>());
        self.sink = Some(sink);
        self
    }

    pub fn observed_by(mut self, observe: impl Observe) -> Client<D> {
        self.observe = Arc::new(observe);
        self
    }

    /// Holds readiness back until the first response of each type was accepted as a whole; with a sink, until it came.
    pub fn blocking(mut self, block: BlockReady) -> Client<D> {
        self.block = Some(block);
        self
    }

    /// A handle to ask for single names.
    pub fn demand(&self) -> Demand {
        self.asks.demand()
    }

    pub fn contact(&self) -> watch::Receiver<Contact> {
        self.contact.subscribe()
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep_connected()).await;
    }

    async fn keep_connected(&mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let begun = Instant::now();
            let Ended { how, why, heard } = self.one_stream().await;
            self.observe.terminated(how);
            tracing::info!(target: "xds", ?how, %why, "the stream to the controller ended");
            self.contact.send_modify(|contact| {
                if std::mem::take(&mut contact.connected) {
                    contact.since = Instant::now();
                }
                contact.last_error = Some(why);
            });
            // A server that answers and then ends the stream is not overloaded, one that ends it at once may be. A
            // stream that lived long, whatever ended it (its token, say), is no part of a series of failures.
            let lived = begun.elapsed() > LONGEST_WAIT;
            if heard && (lived || matches!(how, Termination::Reconnect | Termination::Complete)) {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next(&mut self.rng)).await;
        }
    }

    /// One stream from connecting to its end.
    async fn one_stream(&mut self) -> Ended {
        let mut heard = false;
        match self.connect_and_follow(&mut heard).await {
            Ok(()) => Ended { how: Termination::Complete, why: "closed by the controller".into(), heard },
            Err(StreamError::Connect(why)) => Ended { how: Termination::ConnectionError, why, heard },
            Err(StreamError::Stream(status)) => {
                let how = if is_usual(&status) { Termination::Reconnect } else { Termination::Error };
                Ended { how, why: format!("{:?}: {}", status.code(), status.message()), heard }
            }
        }
    }

    async fn connect_and_follow(&mut self, heard: &mut bool) -> Result<(), StreamError> {
        let headers = self.headers().map_err(StreamError::Connect)?;
        let channel = self.connect().await.map_err(StreamError::Connect)?;
        // The first requests lie ready before the call: a server may answer it only once it has read them.
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for request in self.delta.open(&self.config.node) {
            requests.try_send(request).map_err(|_| StreamError::Connect("more first requests than places".into()))?;
        }
        let responses = self.call(channel, headers, outgoing).await?;
        self.contact.send_modify(|contact| contact.streams += 1);
        self.follow(requests, responses, heard).await
    }

    async fn connect(&self) -> Result<Channel, String> {
        let endpoint = Endpoint::from(self.config.server.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let dial = self.dial.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let io = dial();
            async move { Ok::<_, io::Error>(TokioIo::new(io.await?)) }
        });
        match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(format!("connecting to {}: {}", self.config.server, with_causes(&error))),
            Err(_) => Err(format!("connecting to {}: no answer within {CONNECT_TIMEOUT:?}", self.config.server)),
        }
    }

    async fn call(
        &self,
        channel: Channel,
        headers: MetadataMap,
        requests: mpsc::Receiver<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, StreamError> {
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(self.config.limits.message_bytes_max);
        grpc.ready().await.map_err(|error| StreamError::Connect(with_causes(&error)))?;
        let mut request = tonic::Request::new(ReceiverStream::new(requests));
        *request.metadata_mut() = headers;
        let method = PathAndQuery::from_static(DELTA_METHOD);
        let codec = tonic_prost::ProstCodec::default();
        let response = grpc.streaming(request, method, codec).await.map_err(StreamError::Stream)?;
        Ok(response.into_inner())
    }

    /// Takes responses and questions in turn until the stream ends.
    async fn follow(
        &mut self,
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        mut responses: Streaming<DeltaDiscoveryResponse>,
        heard: &mut bool,
    ) -> Result<(), StreamError> {
        loop {
            let request = tokio::select! {
                response = responses.message() => match response.map_err(StreamError::Stream)? {
                    Some(response) => {
                        let admitted = self.epochs.admit(&response.system_version_info, Instant::now());
                        admitted.map_err(|outdated| StreamError::Stream(Status::failed_precondition(outdated.to_string())))?;
                        if !std::mem::replace(heard, true) {
                            self.contact.send_modify(|contact| {
                                *contact = Contact { connected: true, since: Instant::now(), last_error: None, ..*contact };
                            });
                        }
                        Some(self.take(response).await)
                    }
                    None => return Ok(()),
                },
                name = self.asks.next() => self.delta.ask(ADDRESS, &name),
            };
            if let Some(request) = request {
                let gone = || StreamError::Stream(Status::cancelled("the controller stopped reading"));
                requests.send(request).await.map_err(|_| gone())?;
            }
        }
    }

    /// The headers of a stream. The token is asked for each time, because it is short-lived.
    fn headers(&self) -> Result<MetadataMap, String> {
        let mut headers = MetadataMap::new();
        let mut put = |name: &str, value: &str| -> Result<(), String> {
            let bad = |what: &str| format!("header {name}: the {what} has characters that HTTP does not allow");
            let key: AsciiMetadataKey = name.parse().map_err(|_| bad("name"))?;
            // Never in a log: neither the error nor the debug form shows the value.
            let mut value = AsciiMetadataValue::try_from(value).map_err(|_| bad("value"))?;
            value.set_sensitive(name == "authorization");
            headers.insert(key, value);
            Ok(())
        };
        if let Some(token) = (self.token)().map_err(|why| format!("reading the token: {why}"))? {
            // A file ends with a newline, a header value must not.
            put("authorization", &format!("Bearer {}", token.trim()))?;
        }
        if !self.config.cluster_id.is_empty() {
            put("clusterid", &self.config.cluster_id)?;
        }
        for (name, value) in &self.config.headers {
            put(name, value)?;
        }
        Ok(headers)
    }
}

enum StreamError {
    Connect(String),
    Stream(Status),
}

/// Ends that say nothing against trying again at once (spec/dataplane.md 5.7).
fn is_usual(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
        // The transport closed under the stream, as opposed to a server that says it is unavailable.
        Code::Unavailable => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// tonic's own text is "transport error"; the cause is what people need.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

impl Contact {
    /// How long nothing could have reached us; zero while connected.
    pub fn silent_for(&self, now: Instant) -> Duration {
        if self.connected { Duration::ZERO } else { now.saturating_duration_since(self.since) }
    }
}

#[cfg(test)]
mod tests;
