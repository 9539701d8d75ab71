//! The composition root: builds everything in order, runs it, and takes it down. One page.

mod control_plane;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mesh_hbone::Limits;
use mesh_identity::clock::{Clock, SystemClock};
use mesh_identity::store::Credentials;
use mesh_identity::tls::Tls;
use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::balance::{self, Purpose};
use mesh_model::directory::Directory;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_net::linux::HostNet;
use mesh_net::net::Net;
use mesh_net::sockopt::{Options, Spoofing};
use mesh_runtime::handshakes::Handshakes;
use mesh_runtime::signal::Signals;
use mesh_runtime::{Drain, Drained, Ready, Watched};
use mesh_telemetry::families;
use mesh_telemetry::labels::fixed;
use mesh_telemetry::log::Log;
use mesh_telemetry::recorder::Recorder;
use mesh_xds::messages::waypoint::PortProtocol;
use mesh_xds::world::{Edit, World, WorldWriter, world};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::arrive::{Here, declared};
use crate::config::{Config, End, Traffic};
use crate::call::{Caller, OverMesh};
use crate::{account, jwt, settings};
use crate::exchange::Exchange;
use crate::facts::{Arrival, Target};
use crate::listen;
use crate::reach::Reach;
use crate::request::{Context, Mirrors};
use crate::upstream::{Connector, Endpoint, Own};

/// What version this is, wherever a version is asked for.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What all connections share.
pub struct Proxy {
    pub own: Own,
    /// The service in front of our Gateway's pods.
    pub gateway: NamespacedHostname,
    pub world: Watched<World>,
    pub credentials: Credentials,
    pub tls: Tls,
    pub connector: Connector,
    pub http: Arc<Context>,
    pub recorder: Recorder,
    /// Of tunnels that come in.
    pub limits: Limits,
    pub detection: Duration,
    pub handshakes: Handshakes,
    pub connections: Arc<Semaphore>,
    pub streams: Arc<Semaphore>,
    pub drain: Drain,
}

/// What a proxy is made of.
pub struct Parts {
    pub own: Own,
    pub gateway: NamespacedHostname,
    pub world: Watched<World>,
    pub credentials: Credentials,
    pub tls: Tls,
    pub recorder: Recorder,
    pub traffic: Traffic,
    pub drain: Drain,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(config: Config, log: Log, workers: Handle) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let (ready, drain) = (Ready::new(), Drain::new());
    let serving = ready.block("proxy");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let recorder = Recorder::new(config.metrics);
    recorder.gauge(&families::BUILD, &[fixed("component", "waypoint"), fixed("tag", VERSION)]).set(1.0);

    // certificates
    let revocations = control_plane::revocations(&config, &clock);
    let tls = Tls::new(config.key_exchange, clock.clone(), revocations);
    let credentials = control_plane::credentials(&config, &clock)?;
    tokio::spawn(credentials.clone().run());

    // the picture of the mesh, and what is served how
    let (mut writer, watched) = world();
    let complete = Ready::new();
    match &config.xds {
        Some(xds) => control_plane::follow(&config, xds, &clock, writer, &recorder, &complete)?,
        None => {
            writer.apply([Edit::AddressesSynced, Edit::PoliciesSynced]);
            tokio::spawn(async move { hold(writer).await });
        }
    }

    // the way in and out
    let own = own(&config);
    let net = HostNet::new(options());
    let traffic = config.traffic;
    let proxy = Proxy::new(Parts { own, gateway: config.place.service(), world: watched.clone(), credentials, tls, recorder, traffic, drain: drain.clone() }, net.clone());
    tokio::spawn(proxy.connector.clone().follow(watched));
    tokio::spawn(crate::reach::forget(proxy.http.clone()));
    let quit = CancellationToken::new();
    let shown = Admin { proxy: proxy.clone(), log, workers: workers.clone(), ready: ready.clone(), quit: quit.clone() };
    let pages = admin::serve(shown, &config).await?;
    let at = SocketAddr::new(any(), config.ports.hbone);
    let listener = net.listen(at).await.with_context(|| format!("cannot listen on {at} for tunnels"))?;

    // once it is known who is who, and who we are
    let closed = CancellationToken::new();
    let (begun, closing) = (proxy.clone(), closed.clone());
    tokio::spawn(async move {
        complete.until_ready().await;
        certified(&begun).await;
        workers.spawn(listen::listen::<HostNet>(begun, listener, closing));
        drop(serving);
    });

    tokio::select! {
        asked = signals.next() => tracing::info!(?asked, "stopping"),
        () = quit.cancelled() => tracing::info!("stopping, as an operator asked"),
    }
    // From here on probes say no, while what others send before they have heard of it is still served.
    let _stopping = ready.block("stopping");
    stop(&drain, &closed, config.end, &mut signals).await;
    proxy.connector.force();
    // Who asked for the end over HTTP is still to be told.
    if let Drained::Forced { left } = pages.shutdown(LAST_ANSWERS).await {
        tracing::warn!(left, "answers of the admin pages were cut");
    }
    Ok(())
}

/// First the notice, then nothing new and a GOAWAY on every connection, then the end of what is left. A second signal ends
/// it all at once.
async fn stop(drain: &Drain, closed: &CancellationToken, end: End, signals: &mut Signals) {
    let orderly = async {
        let notice = end.notice.min(end.deadline);
        tokio::time::sleep(notice).await;
        closed.cancel();
        drain.shutdown(end.deadline - notice).await
    };
    let drained = tokio::select! {
        drained = orderly => drained,
        _ = signals.next() => drain.shutdown(Duration::ZERO).await,
    };
    match drained {
        Drained::Clean => tracing::info!("all connections ended"),
        Drained::Forced { left } => tracing::warn!(left, "connections did not end within the time to drain; open ones were cut"),
    }
}

/// An answer of the admin pages is a few KiB; whoever does not take it in this time is not waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Between tries to get our own certificate.
const CERTIFICATE_PAUSE: Duration = Duration::from_secs(1);

/// Until we have a certificate of our own, and from then on it is renewed.
async fn certified(proxy: &Proxy) {
    let identity = &proxy.own.identity;
    proxy.credentials.prefetch(identity);
    while let Err(why) = proxy.credentials.get(identity).await {
        tracing::warn!(%why, "not serving yet");
        tokio::time::sleep(CERTIFICATE_PAUSE).await;
    }
}

impl Proxy {
    pub fn new<N: Net>(parts: Parts, net: N) -> Arc<Proxy> {
        let Parts { own, gateway, world, credentials, tls, recorder, traffic, drain } = parts;
        let connector = Connector::new(own.clone(), net, tls.clone(), credentials.clone(), Limits::default());
        Arc::new(Proxy {
            http: http(&own, &world, &connector, &recorder),
            own,
            gateway,
            world,
            credentials,
            tls,
            connector,
            recorder,
            limits: limits(),
            detection: traffic.detection,
            handshakes: Handshakes::default(),
            connections: Arc::new(Semaphore::new(traffic.connections)),
            streams: Arc::new(Semaphore::new(traffic.streams)),
            drain,
        })
    }

    /// What arrivals are judged by, as it is now.
    pub fn with_here<R>(&self, judge: impl FnOnce(&Here<'_>) -> R) -> R {
        self.world.with(|world| {
            let directory = &world.directory;
            let serves = |key: &NamespacedHostname, port: Option<u16>| {
                directory.service(key).is_some_and(|service| port.is_none_or(|port| service.ports.contains_key(&port)))
            };
            judge(&Here { own: &self.own, gateway: &self.gateway, directory, serves: &serves })
        })
    }

    /// What the port that was dialled declares to speak.
    pub fn declared(&self, target: &Target) -> PortProtocol {
        self.world.with(|world| spoken(&world.directory, target))
    }

    /// The endpoint of a stream.
    pub fn choose(&self, arrival: &Arrival) -> Option<Endpoint> {
        self.world.with(|world| choose(&world.directory, &self.own, arrival))
    }

    pub fn refused(&self, reason: &'static str) {
        self.recorder.counter(&families::REFUSALS, &[fixed("reason", reason)]).increment(1);
    }
}

fn spoken(directory: &Directory, target: &Target) -> PortProtocol {
    match target {
        Target::Service { key, port } => directory.members(key).next().map_or(PortProtocol::Auto, |workload| {
            let service = directory.service(key);
            let target = service.and_then(|service| balance::target_port(service, workload, *port, Purpose::Traffic));
            target.map_or(PortProtocol::Auto, |target| declared(directory, workload, target))
        }),
        Target::Workload { workload, port } => declared(directory, workload, *port),
    }
}

fn choose(directory: &Directory, own: &Own, arrival: &Arrival) -> Option<Endpoint> {
    let dialled = arrival.dialled.map(|address| address.ip());
    match &arrival.target {
        Target::Workload { workload, port } => Endpoint::of_workload(own, workload, *port, None, dialled).ok(),
        Target::Service { key, port } => {
            let (service, me) = (directory.service(key)?, me(directory, own));
            let picked = balance::pick(directory, &me, service, *port, Purpose::Traffic, &mut rand::rng())?;
            Endpoint::of_workload(own, picked.workload, picked.port, Some(service), dialled).ok()
        }
    }
}

/// Our own workload, as the directory has it.
fn me(directory: &Directory, own: &Own) -> Arc<Workload> {
    let at = |ip: &IpAddr| NetworkAddress { network: own.network.clone(), ip: *ip };
    let mut here = own.addresses.iter().flat_map(|ip| directory.workloads_at(&at(ip)));
    here.find(|workload| workload.identity() == own.identity).cloned().unwrap_or_else(|| {
        let unknown = Workload::named("", &own.identity.namespace, "");
        Arc::new(Workload { network: own.network.clone(), tunnel_protocol: TunnelProtocol::Hbone, ..unknown })
    })
}

fn http(own: &Own, world: &Watched<World>, connector: &Connector, recorder: &Recorder) -> Arc<Context> {
    let reporting = account::Own {
        identity: own.identity.clone(),
        workload: "".into(),
        namespace: own.identity.namespace.clone(),
        cluster: "".into(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        mesh_id: "".into(),
        node_id: "".into(),
        hostname: "".into(),
        version: VERSION.into(),
        environment: Default::default(),
    };
    let (books, _) = account::Books::new(reporting, recorder.clone());
    let settings = settings::store(None).1;
    let reach = Arc::new(Reach::new(world.clone(), own.clone(), std::time::Instant::now()));
    let exchange = Exchange::new(Arc::new(connector.clone()));
    let caller: Arc<dyn Caller> =
        Arc::new(OverMesh { settings: settings.clone(), world: world.clone(), reach: reach.clone(), exchange: exchange.clone() });
    Arc::new(Context {
        settings,
        world: world.clone(),
        reach,
        exchange,
        books,
        mirrors: Mirrors::default(),
        keys: jwt::Keys::new(caller.clone()),
        caller,
    })
}

fn own(config: &Config) -> Own {
    Own {
        identity: config.place.identity(),
        network: config.place.network.clone(),
        addresses: config.place.instance_ip.into_iter().collect(),
    }
}

/// Every address of the pod, IPv4 through IPv6.
fn any() -> IpAddr {
    Ipv6Addr::UNSPECIFIED.into()
}

/// The options of every socket: nothing is captured in a waypoint's pod, and it speaks as itself.
fn options() -> Options {
    Options { mark: None, spoofing: Spoofing::Never, ..Options::default() }
}

/// A waypoint's peers are the nodes of many clients, and those of one node share connections: more streams on each than a
/// node daemon serves (spec/waypoint.md 9).
const STREAMS_PER_CONNECTION: u32 = 1024;
/// Bytes that may be on their way in one stream, and in all of a connection (spec/waypoint.md 1.10).
const CONNECTION_WINDOW: u32 = 8 << 20;

fn limits() -> Limits {
    Limits {
        streams_served: STREAMS_PER_CONNECTION,
        connection_window: CONNECTION_WINDOW,
        stream_window_max: 1 << 20,
        ..Limits::default()
    }
}

/// Readers of a world whose writer is gone would see it as closed.
async fn hold(writer: WorldWriter) {
    let _writer = writer;
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
