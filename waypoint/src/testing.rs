//! A waypoint's two sides in memory: endpoints that are functions, and clients that are hyper's or bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_runtime::Drain;
use mesh_telemetry::recorder::Recorder;
use mesh_xds::messages::waypoint::{self as wire, PortProtocol};
use mesh_xds::world::{Edit, WorldWriter, world};

use crate::account::{self, Books};
use crate::body::Body;
use crate::call::{Caller, OverMesh};
use crate::exchange::{Connect, Exchange, Stream, Version};
use crate::facts::{Arrival, Target};
use crate::http1or2::{self, Connection};
use crate::reach::Reach;
use crate::request::Context;
use crate::settings::{Problem, Store};
use crate::upstream::{ConnectError, Endpoint, Kind, Own};

pub mod origins;

/// Peers that speak frames.
#[path = "../../crates/mesh-hbone/src/testing/frames.rs"]
pub mod frames;

/// What is buffered in one direction of a connection in memory.
pub const PIPE: usize = 64 << 10;

/// What an endpoint does with a connection.
type Answers = Box<dyn Fn(DuplexStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Endpoints by id; a connection to another one fails.
#[derive(Default)]
pub struct Endpoints {
    accept: Mutex<HashMap<Arc<str>, Answers>>,
    pub connections: AtomicUsize,
    /// So many attempts to connect are a fault of the program.
    pub panics: AtomicUsize,
}

impl Connect for Endpoints {
    fn connect(&self, to: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>> {
        let left = self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "a fault on purpose");
        let serving = self.accept.lock().get(name_of(&to.id)).map(|accept| {
            let (ours, theirs) = duplex(PIPE);
            tokio::spawn(accept(theirs));
            Box::new(ours) as Box<dyn Stream>
        });
        self.connections.fetch_add(1, Ordering::SeqCst);
        // Nothing here speaks TLS: of it there is to see that it is not left out.
        if let Some(tls) = to.tls.clone() {
            let (near, _far) = mesh_net::memory::pair(PIPE);
            return async move {
                let secured = tls.origin.secure(Box::new(near), &tls.host, tls.alpn).await?;
                Ok(Box::new(secured) as Box<dyn Stream>)
            }
            .boxed();
        }
        async move { serving.ok_or_else(|| ConnectError::new(Kind::Refused, "nobody there")) }.boxed()
    }
}

impl Endpoints {
    /// An endpoint that is given each connection.
    pub fn raw<F, Fut>(&self, id: &str, serve: F)
    where
        F: Fn(DuplexStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.accept.lock().insert(name_of(id).into(), Box::new(move |io| serve(io).boxed()));
    }

    /// An endpoint that speaks HTTP, of either version as its client begins.
    pub fn http<F, Fut>(&self, id: &str, version: Version, handler: F)
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        self.raw(id, move |io| {
            let handler = handler.clone();
            let service = service_fn(move |request| handler(request).map(Ok::<_, Infallible>));
            async move {
                let io = TokioIo::new(io);
                let _ = match version {
                    Version::Http1 => {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
                    }
                    Version::Http2 => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                    }
                };
            }
        });
    }

    /// Answers each request with its method, target, Host, headers and body, as text.
    pub fn echo(&self, id: &str, version: Version) {
        self.http(id, version, |request| async move {
            let (parts, body) = request.into_parts();
            let mut text = format!("{} {}\n", parts.method, parts.uri);
            for (name, value) in &parts.headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let collected = body.collect().await;
            let (body, trailers) = match collected {
                Ok(collected) => {
                    let trailers = collected.trailers().cloned();
                    (collected.to_bytes(), trailers)
                }
                Err(error) => (Bytes::from(format!("broken: {error}")), None),
            };
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&body));
            for (name, value) in trailers.iter().flatten() {
                text.push_str(&format!("\ntrailer {name}: {}", String::from_utf8_lossy(value.as_bytes())));
            }
            Response::new(Body::full(text))
        });
    }
}

/// Of a workload's uid, or of a name with its port.
fn name_of(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id).split(':').next().unwrap_or(id)
}

pub fn hop(id: &str) -> Endpoint {
    Endpoint::of_name(id.into(), 80)
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account)
}

fn books() -> Arc<Books> {
    let own = account::Own {
        identity: identity("wp"),
        workload: "wp".into(),
        namespace: "shop".into(),
        cluster: "".into(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        mesh_id: "".into(),
        node_id: "".into(),
        hostname: "".into(),
        version: "".into(),
        environment: Default::default(),
    };
    Books::new(own, Recorder::new(account::LIMITS)).0
}

pub fn arrival() -> Arc<Arrival> {
    Arc::new(Arrival {
        identity: identity("client"),
        peer: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 4711)),
        source: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 4711)),
        source_workload: None,
        dialled: Some(SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), 80))),
        hops: 0,
        target: Target::Service { key: NamespacedHostname::new("shop", "web.shop.svc.cluster.local"), port: 80 },
    })
}

const WORLD: &str = "
node a: client 10.0.0.1 sa=shop/client
node b: web    10.0.0.2 sa=shop/web
node b: other  10.0.0.3 sa=shop/other
node c: wp     10.0.0.9 sa=shop/wp
service web.shop   10.96.0.1 80->8080 : web
service other.shop 10.96.0.2 80->8080 : other
service both.shop  10.96.0.3 80->8080 : web other
service none.shop  10.96.0.4 80->8080
";

/// A waypoint for the service `web` of the namespace `shop`, with whatever is configured.
pub struct Site {
    pub endpoints: Arc<Endpoints>,
    pub cx: Arc<Context>,
    pub drain: Drain,
    pub class: PortProtocol,
    pub dialled: Target,
    store: Store,
    _world: WorldWriter,
}

impl Site {
    /// `upstream` is what the port of `web` declares to speak.
    pub fn new(upstream: Version) -> Site {
        let endpoints = Arc::<Endpoints>::default();
        let (mut writer, world) = world();
        let mesh = mesh_model::fixture::parse(WORLD).expect("a mesh");
        writer.apply(mesh.changes.iter().cloned().map(Edit::Address).chain([Edit::AddressesSynced, Edit::PoliciesSynced]));
        let (store, settings) = crate::settings::store(None);
        let own = Own { identity: identity("wp"), network: "".into(), addresses: [Ipv4Addr::new(10, 0, 0, 9).into()].into() };
        let reach = Arc::new(Reach::new(world.clone(), own, std::time::Instant::now()));
        let exchange = Exchange::new(endpoints.clone());
        let caller: Arc<dyn Caller> =
            Arc::new(OverMesh { settings: settings.clone(), world: world.clone(), reach: reach.clone(), exchange: exchange.clone() });
        let cx = Arc::new(Context::new(settings, world, reach, exchange, books(), caller));
        tokio::spawn(cx.permits.clone().watch());
        let class = match upstream {
            Version::Http1 => PortProtocol::Http1,
            Version::Http2 => PortProtocol::Http2,
        };
        let dialled = Target::Service { key: NamespacedHostname::new("shop", "web.shop.svc.cluster.local"), port: 80 };
        let mut site = Site { endpoints, cx, drain: Drain::new(), class, dialled, store, _world: writer };
        site.serve(class);
        site
    }

    /// Declares what the port of `web` speaks.
    pub fn serve(&mut self, class: PortProtocol) {
        self.class = class;
        for service in ["web", "other", "both", "none"] {
            let host = wire::Host { namespace: "shop".into(), hostname: format!("{service}.shop.svc.cluster.local") };
            let port = wire::ServicePort { host: Some(host), port: 80, protocol: class as i32, ..Default::default() };
            self.put(wire::SERVICE_PORT, service, &port);
        }
    }

    pub fn remove(&mut self, type_url: &str, name: &str) {
        self.store.take(type_url, name, None).expect("the end of a resource");
        self.store.publish();
    }

    pub fn put(&mut self, type_url: &str, name: &str, resource: &impl prost::Message) {
        self.offer(type_url, name, resource).expect("a resource without a fault");
    }

    /// The same of one that may have a fault.
    pub fn offer(&mut self, type_url: &str, name: &str, resource: &impl prost::Message) -> Result<(), Box<Problem>> {
        let taken = self.store.take(type_url, name, Some(&resource.encode_to_vec()));
        self.store.publish();
        taken
    }

    /// A rule of the service `web`, as YAML.
    pub fn route(&mut self, name: &str, yaml: &str) {
        let mut route: wire::HttpRoute = serde_saphyr::from_str(yaml).expect("a route");
        let host = wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
        route.parent.get_or_insert(wire::ParentRef { host: Some(host), port: 80 });
        self.put(wire::HTTP_ROUTE, name, &route);
    }

    /// A new stream of a client.
    pub fn stream(&self, version: Version) -> DuplexStream {
        let (ours, theirs) = duplex(PIPE);
        let arrival = Arc::new(Arrival { target: self.dialled.clone(), ..Arrival::clone(&arrival()) });
        let bound = self.cx.permits.bound(&arrival.target);
        let connection = Connection { arrival, class: self.class, drain: self.drain.clone(), unbound: bound.unbound.clone(), place: None };
        let serving = http1or2::serve(theirs, version, connection, self.cx.clone());
        tokio::spawn(async move {
            let _bound = bound;
            serving.await
        });
        ours
    }

    pub async fn http1(&self) -> hyper::client::conn::http1::SendRequest<Body> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream(Version::Http1)))
            .await
            .expect("a handshake in memory");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let io = TokioIo::new(self.stream(Version::Http2));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a handshake in memory");
        tokio::spawn(connection);
        sender
    }

    /// Sends bytes on a new HTTP/1.1 stream, then reads until the stream ends or `until` has come.
    pub async fn bytes(&self, sent: &[u8], until: &str) -> String {
        let mut stream = self.stream(Version::Http1);
        // The server may close before it has read all.
        let _ = stream.write_all(sent).await;
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains(until) {
            match stream.read_buf(&mut got).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        String::from_utf8_lossy(&got).into_owned()
    }
}

pub async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    String::from_utf8_lossy(&response.into_body().collect().await.expect("a whole body").to_bytes()).into_owned()
}
