//! The waypoint's HTTP engine on a plain TCP port, for measurements beside other proxies: all that a request goes through
//! but the tunnels on both sides. Routing, metrics and one authorization policy are on.
//!
//! `plain PORT UPSTREAM-PORT [--routes N] [--services N]`: HTTP/1.1 at the port, HTTP/2 at the next and gRPC at the one after, each
//! to the port of the same number more of the upstream. With `--edits N` it serves nobody: one route is changed so many times, and printed is
//! how long a change takes from its bytes to the request that goes by it (median and 99th percentile, microseconds).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::change::Change;
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use mesh_runtime::Drain;
use mesh_telemetry::Recorder;
use mesh_telemetry::families::waypoint as families;
use mesh_xds::messages::waypoint::{self as wire, PortProtocol};
use mesh_xds::world::{Edit, WorldWriter, world};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use waypoint::account::{self, Books};
use waypoint::call::{Caller, OverMesh};
use waypoint::exchange::{Connect, Exchange, Stream, Version};
use waypoint::facts::{Arrival, Target};
use waypoint::http1or2::{self, Connection};
use waypoint::reach::Reach;
use waypoint::request::Context;
use waypoint::settings::{Store, store};
use waypoint::upstream::{ConnectError, Endpoint, Kind, Own, To};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAMESPACE: &str = "shop";
/// Service ports of the first service: one for each version of HTTP, and one for gRPC.
const PORTS: [(u16, Version, PortProtocol); 3] = [
    (80, Version::Http1, PortProtocol::Http1),
    (81, Version::Http2, PortProtocol::Http2),
    (82, Version::Http2, PortProtocol::Grpc),
];

struct Tcp;

impl Connect for Tcp {
    fn connect(&self, to: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>> {
        let To::Address(address) = to.to else { unreachable!("the endpoint has an address") };
        async move {
            let stream =
                TcpStream::connect(address).await.map_err(|error| ConnectError::new(Kind::Refused, error.to_string()))?;
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// How much there is to choose from.
#[derive(Clone, Copy)]
struct Size {
    routes: usize,
    services: usize,
}

fn main() {
    // As in the program itself.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.remove(at);
        words.remove(at).parse().ok()
    };
    let size = Size { routes: option("--routes").unwrap_or(1), services: option("--services").unwrap_or(1) };
    if let Some(edits) = option("--edits") {
        return edit(size, edits);
    }
    let ports: Vec<u16> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let [port, upstream] = ports[..] else { panic!("plain PORT UPSTREAM-PORT [--routes N] [--services N]") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (writer, store, context) = mesh(upstream, size);
        let serving = (0..).zip(PORTS).map(|(more, served)| serve(port + more, served, context.clone()));
        futures_util::future::join_all(serving).await;
        drop((writer, store));
    });
}

/// One route is edited again and again, as the controller does it: one resource, one publication.
fn edit(size: Size, times: usize) {
    let (writer, mut store, context) = mesh(1, size);
    let (key, last) = (NamespacedHostname::new(NAMESPACE, &host(0)), size.routes - 1);
    let name = format!("HTTPRoute/{NAMESPACE}/route-{last}/0");
    let mut took = Vec::new();
    for turn in 0..times {
        let timeout = 1000 + turn as u64;
        let message = wire::HttpRoute { request_timeout_ms: timeout, ..route(last, PORTS[0].0) };
        let bytes = message.encode_to_vec();
        let begun = Instant::now();
        if let Err(problem) = store.take(wire::HTTP_ROUTE, &name, Some(&bytes)) {
            panic!("{name}: {}", problem.rejection);
        }
        store.publish();
        let settings = context.settings.load();
        took.push(begun.elapsed().as_secs_f64() * 1e6);
        let table = settings.service(&key, PORTS[0].0).and_then(|view| view.routes(NAMESPACE)).expect("it has routes");
        let live = table.matches().any(|(rule, _)| rule.request_timeout == Some(Duration::from_millis(timeout)));
        assert!(live, "the change is not in force");
    }
    took.sort_by(f64::total_cmp);
    println!("{:.1} {:.1}", took[took.len() / 2], took[took.len() * 99 / 100]);
    drop(writer);
}

/// The services and what is configured for them.
fn mesh(upstream: u16, size: Size) -> (WorldWriter, Store, Arc<Context>) {
    let (mut writer, world) = world();
    let (mut store, settings) = store(None);
    let local = NetworkAddress::new("", Ipv4Addr::LOCALHOST.into());
    let mut edits = Vec::new();
    for number in 0..size.services {
        let host = host(number);
        let mut service = Service::named(NAMESPACE, &host);
        let mut workload = Workload::named(&format!("c1//Pod/{NAMESPACE}/cart-{number}"), NAMESPACE, &format!("cart-{number}"));
        workload.workload_name = "cart".into();
        workload.canonical_name = "cart".into();
        workload.canonical_revision = "v1".into();
        // Only the first is asked; the others are there.
        workload.addresses = if number == 0 { vec![local.ip] } else { Vec::new() };
        workload.hostname = if number == 0 { "".into() } else { host.as_str().into() };
        let targets: BTreeMap<u16, u16> = PORTS.iter().zip(0..).map(|((port, ..), more)| (*port, upstream + more)).collect();
        service.ports = targets.clone();
        workload.services = BTreeMap::from([(service.key(), targets)]);
        edits.extend([Edit::Address(Change::Service(Arc::new(service))), Edit::Address(Change::Workload(Arc::new(workload)))]);
        for (port, _, protocol) in PORTS {
            let message = wire::ServicePort {
                host: Some(wire::Host { namespace: NAMESPACE.into(), hostname: host.clone() }),
                port: port.into(),
                protocol: protocol as i32,
                ..Default::default()
            };
            put(&mut store, wire::SERVICE_PORT, &format!("{NAMESPACE}/{host}:{port}"), &message);
        }
    }
    edits.extend([Edit::AddressesSynced, Edit::PoliciesSynced]);
    writer.apply(edits);
    for number in 0..size.routes {
        put(&mut store, wire::HTTP_ROUTE, &format!("HTTPRoute/{NAMESPACE}/route-{number}/0"), &route(number, PORTS[0].0));
    }
    for (port, ..) in &PORTS[1..] {
        put(&mut store, wire::HTTP_ROUTE, &format!("HTTPRoute/{NAMESPACE}/at-{port}/0"), &route(0, *port));
    }
    let policy: wire::AuthzPolicy = wire::AuthzPolicy {
        targets: vec![wire::Target { kind: Some(wire::TargetKind::Mesh(wire::MeshTarget {})) }],
        rules: vec![wire::AuthzRule {
            from: vec![wire::AuthzSource { principals: vec!["cluster.local/ns/shop/sa/web".into()], ..Default::default() }],
            to: vec![wire::AuthzOperation { methods: vec!["GET".into(), "POST".into()], ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    put(&mut store, wire::AUTHZ_POLICY, "shop/only-web-reads", &policy);
    store.publish();
    let identity = SpiffeId::new("cluster.local", NAMESPACE, "waypoint");
    let own = Own { identity: identity.clone(), network: "".into(), addresses: [local.ip].into() };
    let told = account::Own {
        identity,
        workload: "waypoint".into(),
        namespace: NAMESPACE.into(),
        cluster: "c1".into(),
        canonical_name: "waypoint".into(),
        canonical_revision: "latest".into(),
        mesh_id: "m1".into(),
        node_id: "waypoint".into(),
        hostname: "waypoint".into(),
        version: "0".into(),
        environment: BTreeMap::new(),
    };
    let (books, _) = Books::new(told, Recorder::with_families(account::LIMITS, families::ALL));
    let reach = Arc::new(Reach::new(world.clone(), own, std::time::Instant::now()));
    let exchange = Exchange::new(Arc::new(Tcp));
    let caller: Arc<dyn Caller> =
        Arc::new(OverMesh { settings: settings.clone(), world: world.clone(), reach: reach.clone(), exchange: exchange.clone() });
    let context = Context::new(settings, world, reach, exchange, books, caller);
    (writer, store, Arc::new(context))
}

fn host(number: usize) -> String {
    format!("cart-{number}.{NAMESPACE}.svc.cluster.local")
}

/// The first takes everything; the others are more specific and are looked at before it.
fn route(number: usize, port: u16) -> wire::HttpRoute {
    let host = wire::Host { namespace: NAMESPACE.into(), hostname: host(0) };
    let path = match number {
        0 => "/".to_owned(),
        number => format!("/products/{number}"),
    };
    wire::HttpRoute {
        parent: Some(wire::ParentRef { host: Some(host.clone()), port: port.into() }),
        matches: vec![wire::HttpMatch {
            path: Some(wire::PathMatch { kind: wire::PathKind::PrefixSegment as i32, value: path, ignore_case: false }),
            ..Default::default()
        }],
        backends: vec![wire::WeightedBackend {
            weight: 1,
            backend: Some(wire::BackendRef { host: Some(host), port: port.into(), subset: String::new() }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn put(store: &mut Store, type_url: &str, name: &str, message: &impl Message) {
    if let Err(problem) = store.take(type_url, name, Some(&message.encode_to_vec())) {
        panic!("{name}: {}", problem.rejection);
    }
}

async fn serve(port: u16, (service_port, version, class): (u16, Version, PortProtocol), context: Arc<Context>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
    let mut source = Workload::named("c1//Pod/shop/web-1", NAMESPACE, "web-1");
    source.workload_name = "web".into();
    source.canonical_name = "web".into();
    let source = Arc::new(source);
    loop {
        let (stream, peer) = listener.accept().await.expect("a connection");
        let _ = stream.set_nodelay(true);
        let arrival = Arc::new(Arrival {
            identity: SpiffeId::new("cluster.local", NAMESPACE, "web"),
            peer,
            source: peer,
            source_workload: Some(source.clone()),
            dialled: Some(SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), service_port))),
            hops: 0,
            target: Target::Service {
                key: NamespacedHostname { namespace: NAMESPACE.into(), hostname: host(0).as_str().into() },
                port: service_port,
            },
        });
        let connection = Connection { arrival, class, drain: Drain::new(), unbound: CancellationToken::new(), place: None };
        let context = context.clone();
        tokio::spawn(async move {
            let _ = http1or2::serve(stream, version, connection, context).await;
        });
    }
}
