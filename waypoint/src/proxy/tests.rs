//! The whole way in memory: a client's node, the waypoint, an endpoint's node, over a simulated network with real TLS and
//! real HTTP/2; the two nodes are played.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_hbone::{Connect, ConnectRequest, OpenError, Pool, Stop, Tunnel};
use mesh_identity::authority::LocalAuthority;
use mesh_identity::sign::{Ca, Lifetimes};
use mesh_model::fixture;
use mesh_model::identity::SpiffeId;
use mesh_net::net::{Accept, Source};
use mesh_sim::clock::SimClock;
use mesh_xds::messages::waypoint as wire;
use mesh_xds::world::{Edit, WorldWriter};
use mesh_sim::fabric::{Fabric, SimNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Traffic;
use crate::settings::Store;

const WORLD: &str = "
node a: client 10.0.0.1 sa=shop/client
node b: server 10.0.0.2 sa=shop/server
node b: plain  10.0.0.3 sa=shop/plain tcp
waypoint wp.shop 10.0.0.9 for service web.shop workload server
service web.shop 10.96.0.1 80->8080,81->9090 : server
service old.shop 10.96.0.2 80->8080 : plain
service none.shop 10.96.0.3 80->8080
service late.shop 10.96.0.4 80->8080 : server
";
const YEARS: Duration = Duration::from_secs(3600 * 24 * 3650);

/// The way from end to end.
struct Way {
    clock: Arc<SimClock>,
    ca: Arc<Ca>,
    fabric: Fabric,
    writer: WorldWriter,
    store: Store,
    proxy: Arc<Proxy>,
    closed: CancellationToken,
    client: Pool<()>,
    /// Tunnels that the endpoint's node was asked for, and the headers of the last.
    asked: Arc<AtomicUsize>,
    told: Arc<parking_lot::Mutex<HeaderMap>>,
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account)
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

impl Way {
    async fn new() -> Way {
        let clock = Arc::new(SimClock::start());
        let lifetimes = Lifetimes { default: YEARS, max: YEARS };
        let ca = Arc::new(Ca::self_signed("cluster.local", YEARS, lifetimes, clock.now()).unwrap());
        let fabric = Fabric::new(1);
        for (node, last) in [("a", 1), ("b", 2), ("b", 3), ("c", 9)] {
            fabric.add_pod(node, ip(last));
        }
        let (mut writer, watched) = world();
        let mesh = fixture::parse(WORLD).unwrap();
        writer.apply(mesh.changes.iter().cloned().map(Edit::Address).chain([Edit::AddressesSynced]));
        let (store, settings) = served();
        let proxy = waypoint(&ca, &clock, &fabric, watched, settings);
        let (asked, told, closed) = (Arc::default(), Arc::default(), CancellationToken::new());
        let listener = fabric.daemon(ip(9)).listen(SocketAddr::new(ip(9), 15008)).await.unwrap();
        tokio::spawn(listen::listen::<SimNet>(proxy.clone(), listener, closed.clone()));
        let client = node(&ca, &clock, &fabric, SocketAddr::new(ip(9), 15008));
        let way = Way { clock, ca, fabric, writer, store, proxy, closed, client, asked, told };
        way.endpoint("server").await;
        way
    }

    /// A node that takes tunnels for the pod 10.0.0.2, as this account.
    async fn endpoint(&self, account: &str) {
        let (credentials, tls) = identity(&self.ca, &self.clock);
        let credential = credentials.get(&id(account)).await.unwrap();
        let at = SocketAddr::new(ip(2), 15008);
        self.fabric.remove_pod(ip(2));
        self.fabric.add_pod("b", ip(2));
        let mut listener = self.fabric.daemon(ip(2)).listen(at).await.unwrap();
        let (asked, told) = (self.asked.clone(), self.told.clone());
        tokio::spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                let (tls, credential, asked, told) = (tls.clone(), credential.clone(), asked.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(secured) = tls.accept(accepted.stream, &credential).await else { return };
                    assert_eq!(secured.peer, id("wp"), "the waypoint comes as itself");
                    let handler = |ask: Result<Connect, _>| {
                        asked.fetch_add(1, Ordering::SeqCst);
                        let ask = ask.unwrap();
                        told.lock().clone_from(ask.headers());
                        drop(tokio::spawn(application(ask)));
                    };
                    let _ = mesh_hbone::serve(secured.stream, &Limits::default(), &Stop::default(), handler).await;
                });
            }
        });
    }

    async fn open(&self, to: &str) -> Result<Tunnel, OpenError> {
        let request = ConnectRequest { to: to.parse().unwrap(), headers: HeaderMap::new() };
        self.client.open(&(), &request).await.map(|(tunnel, _)| tunnel)
    }

    async fn refusal(&self, to: &str) -> u16 {
        match self.open(to).await {
            Err(OpenError::Status(status)) => status.as_u16(),
            Err(other) => panic!("{to}: {other}"),
            Ok(_) => 200,
        }
    }
}

fn identity(ca: &Arc<Ca>, clock: &Arc<SimClock>) -> (Credentials, Tls) {
    let clock: Arc<dyn Clock> = clock.clone();
    let authority = Arc::new(LocalAuthority::new(ca.clone(), clock.clone()));
    let credentials = Credentials::new(authority, clock.clone(), Duration::from_secs(3600 * 24), 1);
    tokio::spawn(credentials.clone().run());
    (credentials, Tls::new(Default::default(), clock, mesh_identity::Revocations::disabled()))
}

/// Both ports of the service `web`, which declare nothing.
fn served() -> (Store, Watched<Settings>) {
    let (mut store, settings) = crate::settings::store(None);
    for port in [80, 81] {
        bind(&mut store, "web", port);
    }
    store.publish();
    (store, settings)
}

fn bind(store: &mut Store, name: &str, port: u32) {
    let resource = wire::ServicePort { host: Some(host(name)), port, ..Default::default() };
    put(store, wire::SERVICE_PORT, &format!("shop/{name}:{port}"), &resource);
}

fn unbind(store: &mut Store, name: &str, port: u32) {
    store.take(wire::SERVICE_PORT, &format!("shop/{name}:{port}"), None).unwrap();
    store.publish();
}

fn host(name: &str) -> wire::Host {
    wire::Host { namespace: "shop".into(), hostname: format!("{name}.shop.svc.cluster.local") }
}

fn put(store: &mut Store, type_url: &str, name: &str, message: &impl prost::Message) {
    store.take(type_url, name, Some(&message.encode_to_vec())).unwrap();
}

fn teller() -> account::Own {
    account::Own {
        identity: id("wp"),
        workload: "wp".into(),
        namespace: "shop".into(),
        cluster: "east".into(),
        canonical_name: "wp".into(),
        canonical_revision: "latest".into(),
        mesh_id: "".into(),
        node_id: "".into(),
        hostname: "wp-1".into(),
        version: "".into(),
        environment: Default::default(),
    }
}

fn own() -> Own {
    Own { identity: id("wp"), network: "".into(), addresses: [ip(9)].into() }
}

fn waypoint(ca: &Arc<Ca>, clock: &Arc<SimClock>, fabric: &Fabric, world: Watched<World>, settings: Watched<Settings>) -> Arc<Proxy> {
    waypoint_of(own(), ca, clock, &fabric.daemon(ip(9)), world, settings)
}

fn waypoint_of(own: Own, ca: &Arc<Ca>, clock: &Arc<SimClock>, net: &SimNet, world: Watched<World>, settings: Watched<Settings>) -> Arc<Proxy> {
    let (credentials, tls) = identity(ca, clock);
    let recorder = Recorder::new(mesh_telemetry::recorder::Limits { series: 1000, idle: Duration::from_secs(600) });
    let parts = Parts {
        own,
        gateway: NamespacedHostname::new("shop", "wp.shop.svc.cluster.local"),
        world,
        settings,
        books: Books::new(teller(), recorder.clone()).0,
        credentials,
        tls,
        recorder,
        traffic: Traffic { connections: 100, streams: 1000, detection: Duration::from_secs(5) },
        drain: Drain::new(),
    };
    let proxy = Proxy::new(parts, net.clone());
    tokio::spawn(proxy.clone().follow());
    proxy
}

/// The client's node, which knows that the waypoint is there.
fn node(ca: &Arc<Ca>, clock: &Arc<SimClock>, fabric: &Fabric, door: SocketAddr) -> Pool<()> {
    node_as("client", ca, clock, fabric, door)
}

/// Some node or other peer, for this account.
fn node_as(account: &'static str, ca: &Arc<Ca>, clock: &Arc<SimClock>, fabric: &Fabric, door: SocketAddr) -> Pool<()> {
    let (credentials, tls) = identity(ca, clock);
    let net = fabric.daemon(ip(1));
    // All of a test on one connection, as far as the waypoint lets it.
    let limits = Limits { streams_per_connection: 1_000, connection_window: 64 << 20, ..Limits::default() };
    Pool::new(limits, move |()| {
        let (credentials, tls, net) = (credentials.clone(), tls.clone(), net.clone());
        async move {
            let credential = credentials.get(&id(account)).await.map_err(std::io::Error::other)?;
            let stream = net.dial(door, Source::Any).await?;
            let secured = tls.connect(stream, &credential, &[id("wp")]).await.map_err(std::io::Error::other)?;
            Ok(secured.stream)
        }
    })
}

/// At port 8080 HTTP/1 and bytes that are sent back, as the client begins; at 9090 somebody who speaks first.
async fn application(mut ask: Connect) {
    let port = ask.head().port();
    let Ok(mut tunnel) = ask.accept(HeaderMap::new()) else { return };
    if port == 9090 {
        tunnel.write_all(b"220 hello\r\n").await.unwrap();
        let mut rest = Vec::new();
        tunnel.read_to_end(&mut rest).await.unwrap();
        tunnel.write_all(b"bye").await.unwrap();
        tunnel.shutdown().await.unwrap();
        return;
    }
    let mut first = [0];
    if tunnel.read_exact(&mut first).await.is_err() {
        return;
    }
    if first == [0] {
        tunnel.write_all(&first).await.unwrap();
        let (mut from, mut to) = tokio::io::split(tunnel);
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
        return;
    }
    let (from, to) = tokio::io::split(crate::listen::linger::Lingering::new(tunnel));
    let whole = tokio::io::join(std::io::Cursor::new(first).chain(from), to);
    let http = hyper::server::conn::http1::Builder::new();
    let _ = http.serve_connection(TokioIo::new(whole), service_fn(answer)).with_upgrades().await;
}

/// What was asked and with which headers; a WebSocket is a stream that comes back.
async fn answer(mut request: http::Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if request.headers().contains_key("upgrade") {
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap()));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        return Ok(response);
    }
    let mut said = format!("{} {}", request.method(), request.uri());
    for (name, value) in request.headers().iter().filter(|_| request.uri().path() == "/headers") {
        said.push_str(&format!("\n{name}: {}", value.to_str().unwrap()));
    }
    Ok(Response::new(Full::new(Bytes::from(said))))
}

async fn said(tunnel: &mut Tunnel) -> String {
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

#[tokio::test(start_paused = true)]
async fn bytes_go_through_and_ends_travel_one_direction_at_a_time() {
    let way = Way::new().await;
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"\0some bytes").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(said(&mut tunnel).await, "\0some bytes");
}

// spec/waypoint.md 11 row 3
#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_at_an_undeclared_port_is_heard() {
    let way = Way::new().await;
    let mut tunnel = way.open("10.96.0.1:81").await.unwrap();
    let mut hello = [0; 11];
    tunnel.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"220 hello\r\n");
    tunnel.write_all(b"QUIT\r\n").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(said(&mut tunnel).await, "bye");
}

#[tokio::test(start_paused = true)]
async fn http_is_found_out_and_forwarded() {
    let way = Way::new().await;
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"GET /a?b HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = said(&mut tunnel).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("GET /a?b"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_reached_at_its_own_address() {
    let way = Way::new().await;
    let mut tunnel = way.open("10.0.0.2:8080").await.unwrap();
    tunnel.write_all(b"\0x").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(said(&mut tunnel).await, "\0x");
}

// spec/waypoint.md 11 row 1
#[tokio::test(start_paused = true)]
async fn what_is_not_for_this_waypoint_is_refused_and_reaches_nobody() {
    let way = Way::new().await;
    for (to, status) in [
        ("10.96.0.1:82", 404),
        ("10.96.0.99:80", 404),
        ("10.0.0.9:15000", 403),
        ("10.0.0.3:8080", 403),
        ("nobody.test:80", 404),
        ("web.shop.svc.cluster.local:80", 200),
    ] {
        assert_eq!(way.refusal(to).await, status, "{to}");
    }
    assert_eq!(way.asked.load(Ordering::SeqCst), 0);
}

// spec/waypoint.md 11 row 2
#[tokio::test(start_paused = true)]
async fn five_hundred_streams_of_one_connection_at_once() {
    let way = Way::new().await;
    let one = |number: usize| {
        let way = &way;
        async move {
            let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
            let text = format!("\0stream {number}");
            tunnel.write_all(text.as_bytes()).await.unwrap();
            let mut echo = vec![0; text.len()];
            tunnel.read_exact(&mut echo).await.unwrap();
            assert_eq!(String::from_utf8(echo).unwrap(), text);
            tunnel
        }
    };
    let open = join_all((0..500).map(one)).await;
    assert_eq!(way.client.rows().iter().map(|row| row.riders).collect::<Vec<_>>(), [500], "on one connection");
    assert_eq!(way.proxy.streams.available_permits(), 500);
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_is_taken_for_the_endpoint() {
    let way = Way::new().await;
    way.endpoint("impostor").await;
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"\0x").await.unwrap();
    let broken = tunnel.read(&mut [0]).await.unwrap_err();
    assert_eq!((broken.kind(), way.asked.load(Ordering::SeqCst)), (std::io::ErrorKind::ConnectionReset, 0));
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(said(&mut tunnel).await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test(start_paused = true)]
async fn a_service_without_an_endpoint_refuses_by_a_reset() {
    let mut way = Way::new().await;
    let server = fixture::parse(WORLD).unwrap().workload("server").uid.clone();
    way.writer.apply([Edit::Address(mesh_model::change::Change::Remove(server.0.clone()))]);
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"\0x").await.unwrap();
    assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

// spec/waypoint.md 1.10, 11 row 19
#[tokio::test(start_paused = true)]
async fn a_drain_takes_nothing_new_and_lets_what_is_open_finish() {
    let way = Way::new().await;
    let mut open = way.open("10.96.0.1:80").await.unwrap();
    open.write_all(b"\0x").await.unwrap();
    open.read_exact(&mut [0; 2]).await.unwrap();
    way.closed.cancel();
    let drain = way.proxy.drain.clone();
    let drained = tokio::spawn(async move { drain.shutdown(Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.write_all(b"y").await.unwrap();
    open.read_exact(&mut [0; 1]).await.unwrap();
    open.shutdown().await.unwrap();
    assert_eq!(said(&mut open).await, "");
    assert_eq!(drained.await.unwrap(), Drained::Clean);
    assert!(way.open("10.96.0.1:80").await.is_err());
}

// spec/waypoint.md 1.8
#[tokio::test(start_paused = true)]
async fn bytes_go_where_the_route_of_their_service_says() {
    let mut way = Way::new().await;
    let backend = |name: &str| wire::WeightedBackend {
        weight: 1,
        backend: Some(wire::BackendRef { host: Some(host(name)), port: 80, ..Default::default() }),
        ..Default::default()
    };
    let parent = Some(wire::ParentRef { host: Some(host("web")), port: 81 });
    // The service none has no endpoint: what is routed there is refused, and what is not goes on as before.
    let route = wire::TcpRoute { parent: parent.clone(), backends: vec![backend("none")], ..Default::default() };
    put(&mut way.store, wire::TCP_ROUTE, "r", &route);
    way.store.publish();
    let mut tunnel = way.open("10.96.0.1:81").await.unwrap();
    assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    put(&mut way.store, wire::TCP_ROUTE, "r", &wire::TcpRoute { parent, backends: vec![backend("web")], ..Default::default() });
    way.store.publish();
    let mut tunnel = way.open("10.96.0.1:81").await.unwrap();
    tunnel.write_all(b"\0x").await.unwrap();
    tunnel.read_exact(&mut [0; 2]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_denies_resets_the_stream_before_anybody_hears_of_it() {
    let mut way = Way::new().await;
    let policy = wire::AuthzPolicy {
        targets: vec![wire::Target { kind: Some(wire::TargetKind::Gateway(wire::GatewayTarget { namespace: "shop".into(), name: "wp".into() })) }],
        action: wire::AuthzAction::Deny as i32,
        rules: vec![wire::AuthzRule::default()],
        ..Default::default()
    };
    put(&mut way.store, wire::AUTHZ_POLICY, "shop/deny", &policy);
    way.store.publish();
    for to in ["10.96.0.1:80", "10.0.0.2:8080"] {
        let mut tunnel = way.open(to).await.unwrap();
        tunnel.write_all(b"\0x").await.unwrap();
        assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{to}");
    }
    assert_eq!(way.asked.load(Ordering::SeqCst), 0);
}

mod attacks;
mod binding;
mod end;
mod forged;
mod loops;
mod permits;
