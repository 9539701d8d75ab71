//! For the tests of both ends: a wire that can be cut and held, tokens that say what they allow, a server that plays a
//! script, and a client that says what it is told to.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::server::{Grpc, StreamingService};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use crate::claim::{Account, Scope};
use crate::client::{Client, ClientConfig, ClientLimits, ztunnel_node};
use crate::messages::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::messages::{ADDRESS, AUTHORIZATION, Any};
use crate::server::{Ads, Authenticate, ServerLimits, server};
use crate::world::{WorldWriter, world};

// --- the wire

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    Open,
    /// Connections break, new ones are refused.
    Cut,
    /// Nothing moves and nothing breaks.
    Held,
}

#[derive(Clone)]
pub struct Network {
    state: Arc<watch::Sender<Wire>>,
    accept: mpsc::Sender<io::Result<DuplexStream>>,
    pub dials: Arc<AtomicUsize>,
}

pub fn network() -> (Network, ReceiverStream<io::Result<DuplexStream>>) {
    let (accept, accepted) = mpsc::channel(64);
    let network = Network { state: Arc::new(watch::Sender::new(Wire::Open)), accept, dials: Arc::default() };
    (network, ReceiverStream::new(accepted))
}

impl Network {
    pub fn set(&self, wire: Wire) {
        self.state.send_replace(wire);
    }

    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    pub async fn dial(self) -> io::Result<DuplexStream> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if *self.state.borrow() == Wire::Cut {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, mut wire_near) = duplex(64 * 1024);
        let (mut wire_far, far) = duplex(64 * 1024);
        let mut state = self.state.subscribe();
        tokio::spawn(async move {
            let mut copy = std::pin::pin!(copy_bidirectional(&mut wire_near, &mut wire_far));
            loop {
                let now = *state.borrow_and_update();
                tokio::select! {
                    biased;
                    changed = state.changed() => if changed.is_err() || *state.borrow() == Wire::Cut { return },
                    _ = &mut copy, if now == Wire::Open => return,
                }
            }
        });
        self.accept.send(Ok(far)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

// --- tokens: "ztunnel node-a" or "ztunnel node-a 60" (seconds to live) or "waypoint -"

pub struct Tokens;

impl Authenticate for Tokens {
    fn authenticate<'a>(
        &'a self,
        headers: &'a http::HeaderMap,
        _: &'a http::Extensions,
    ) -> Pin<Box<dyn Future<Output = Result<Scope, Status>> + Send + 'a>> {
        Box::pin(async move {
            let bad = || Status::unauthenticated("no valid token");
            let header = headers.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(bad)?;
            let words: Vec<&str> = header.strip_prefix("Bearer ").ok_or_else(bad)?.split(' ').collect();
            let (account, node) = (*words.first().ok_or_else(bad)?, *words.get(1).ok_or_else(bad)?);
            let seconds = words.get(2).map(|seconds| seconds.parse().unwrap());
            Ok(Scope {
                account: Some(Account { namespace: "istio-system".into(), service_account: account.into() }),
                node: Some(node).filter(|node| *node != "-").map(Arc::from),
                all_addresses: account == "ztunnel",
                policies: account == "ztunnel",
                audiences: Vec::new(),
                revoked: CancellationToken::new(),
                expires: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            })
        })
    }
}

// --- our server and our client on that wire

pub fn ads(catalog: mesh_runtime::Watched<crate::Catalog>, limits: ServerLimits, stop: CancellationToken) -> (Ads, Network) {
    let (network, incoming) = network();
    let ads = Ads::new(catalog, Tokens, limits, 1, stop);
    tokio::spawn(ads.clone().serve(incoming));
    (ads, network)
}

pub fn config(on_demand: bool) -> ClientConfig {
    ClientConfig {
        server: http::Uri::from_static("https://istiod.istio-system.svc:15012"),
        node: ztunnel_node("ztunnel-x", "istio-system", "node-a", Some("10.0.0.1".parse().unwrap()), []),
        cluster_id: "Kubernetes".into(),
        headers: vec![("x-extra".into(), "1".into())],
        on_demand,
        limits: ClientLimits::default(),
    }
}

pub type Dial = Box<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>> + Send + Sync>;

pub fn client(network: &Network, config: ClientConfig, world: WorldWriter) -> Client<Dial> {
    let network = network.clone();
    let dial: Dial = Box::new(move || Box::pin(network.clone().dial()));
    Client::new(config, dial, || Ok(Some("ztunnel node-a\n".into())), world, SmallRng::seed_from_u64(1))
}

/// A client that runs, and its world.
pub fn run(network: &Network, config: ClientConfig) -> (mesh_runtime::Watched<crate::World>, crate::Demand) {
    let (writer, watched) = world();
    let client = client(network, config, writer);
    let demand = client.demand();
    tokio::spawn(client.run(CancellationToken::new()));
    (watched, demand)
}

// --- a server that plays a script

/// The test's end of a scripted server, one stream at a time: what the client says, and what to answer.
pub struct Script {
    pub requests: mpsc::Receiver<DeltaDiscoveryRequest>,
    pub responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    count: u64,
}

/// A server whose every stream is handed to the test.
pub fn scripted() -> (Network, mpsc::Receiver<Script>) {
    let (network, incoming) = network();
    let (streams, scripts) = mpsc::channel(16);
    tokio::spawn(server().serve_with_incoming(Player { streams }, incoming));
    (network, scripts)
}

#[derive(Clone)]
struct Player {
    streams: mpsc::Sender<Script>,
}

impl tower::Service<http::Request<tonic::body::Body>> for Player {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let player = self.clone();
        Box::pin(async move { Ok(Grpc::new(tonic_prost::ProstCodec::default()).streaming(player, request).await) })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Player {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (to_test, requests) = mpsc::channel(64);
        let (responses, to_client) = mpsc::channel(64);
        let streams = self.streams.clone();
        tokio::spawn(async move {
            if streams.send(Script { requests, responses, count: 0 }).await.is_err() {
                return;
            }
            let mut stream = request.into_inner();
            while let Ok(Some(request)) = stream.message().await {
                if to_test.send(request).await.is_err() {
                    return;
                }
            }
        });
        std::future::ready(Ok(Response::new(ReceiverStream::new(to_client))))
    }
}

impl Script {
    pub async fn hear(&mut self) -> DeltaDiscoveryRequest {
        self.requests.recv().await.expect("the client left")
    }

    /// Sends without looking at the reply.
    pub async fn say(&mut self, type_url: &str, resources: Vec<Resource>, removed: &[&str]) {
        self.count += 1;
        let response = DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: type_url.into(),
            nonce: self.count.to_string(),
            removed_resources: removed.iter().map(|name| name.to_string()).collect(),
        };
        self.responses.send(Ok(response)).await.expect("the client left");
    }

    /// Sends, and returns the reasons of the NACK, or "" for an ACK.
    pub async fn tell(&mut self, type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> String {
        self.say(type_url, resources, removed).await;
        let reply = self.hear().await;
        assert_eq!((reply.type_url.as_str(), reply.response_nonce), (type_url, self.count.to_string()));
        reply.error_detail.map(|error| error.message).unwrap_or_default()
    }

    /// Both first requests, answered by nothing; policies first, so that no workload names one that is still to come.
    pub async fn open(&mut self) -> [DeltaDiscoveryRequest; 2] {
        let first = [self.hear().await, self.hear().await];
        assert_eq!([first[0].type_url.as_str(), first[1].type_url.as_str()], [AUTHORIZATION, ADDRESS]);
        first
    }
}

pub fn resource(name: &str, body: impl prost::Message) -> Resource {
    let value = body.encode_to_vec().into();
    Resource { name: name.into(), version: "1".into(), aliases: vec![], resource: Some(Any { type_url: String::new(), value }) }
}

// --- a client that says what it is told to

pub struct Raw {
    pub requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub responses: Streaming<DeltaDiscoveryResponse>,
}

pub async fn raw(network: &Network, token: &str, first: Option<DeltaDiscoveryRequest>) -> Result<Raw, Status> {
    let network = network.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let network = network.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(network.dial().await?)) }
    });
    let channel = Endpoint::from_static("https://istiod:15012").connect_with_connector(connector).await.expect("connects");
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(256 << 20);
    grpc.ready().await.expect("is ready");
    let (requests, outgoing) = mpsc::channel(64);
    if let Some(request) = first {
        requests.try_send(request).expect("there is room");
    }
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    let codec = tonic_prost::ProstCodec::default();
    let response = grpc.streaming(request, PathAndQuery::from_static(DELTA_METHOD), codec).await?;
    Ok(Raw { requests, responses: response.into_inner() })
}
