//! The composition root: builds everything in order, runs it, and takes it down. One page.

mod control_plane;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh_dns::Sources;
use mesh_hbone::Limits;
use mesh_identity::clock::{Clock, SystemClock};
use mesh_identity::store::Credentials;
use mesh_identity::tls::Tls;
use mesh_model::address::NamespacedHostname;
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
use mesh_xds::messages::waypoint::{GatewayTarget, PortProtocol};
use mesh_xds::world::{World, world};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::account::{self, Books, export};
use crate::admin::{self, Admin};
use crate::arrive::wait::{WAITING_MAX, WAITING_PER_CLIENT_MAX};
use crate::arrive::{Here, declared};
use crate::call::{Caller, OverMesh};
use crate::config::{Config, End, Traffic};
use crate::exchange::Exchange;
use crate::facts::Target;
use crate::listen;
use crate::reach::Reach;
use crate::request::{Context, Guests};
use crate::settings::{self, Settings};
use crate::upstream::{Connector, Own};

/// What version this is, wherever a version is asked for.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What all connections share.
pub struct Proxy {
    pub own: Own,
    /// The service in front of our Gateway's pods.
    pub gateway: NamespacedHostname,
    pub world: Watched<World>,
    pub settings: Watched<Settings>,
    pub reach: Arc<Reach>,
    pub books: Arc<Books>,
    /// Whom policies make us ask.
    pub caller: Arc<dyn Caller>,
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
    /// Tunnels for what may be bound to us in a moment.
    pub waiting: Guests,
    pub drain: Drain,
}

/// What a proxy is made of.
pub struct Parts {
    pub own: Own,
    pub gateway: NamespacedHostname,
    pub world: Watched<World>,
    pub settings: Watched<Settings>,
    pub books: Arc<Books>,
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
    let recorder = Recorder::with_families(config.metrics, families::waypoint::ALL);

    // certificates
    let revocations = control_plane::revocations(&config, &clock);
    let tls = Tls::new(config.key_exchange, clock.clone(), revocations);
    let credentials = control_plane::credentials(&config, &clock)?;
    tokio::spawn(credentials.clone().run());

    // the picture of the mesh, and what is served how
    let (writer, world) = world();
    let gateway = GatewayTarget { namespace: config.place.namespace.to_string(), name: config.place.gateway.to_string() };
    let (store, settings) = settings::store(Some(gateway));
    let complete = Ready::new();
    control_plane::learn(&config, &clock, writer, store, &recorder, &complete).await?;

    // the way in and out
    let net = HostNet::new(options());
    let (books, taken) = Books::new(teller(&config), recorder.clone());
    let parts = Parts {
        own: own(&config),
        gateway: config.place.service(),
        world,
        settings,
        books: books.clone(),
        credentials,
        tls,
        recorder: recorder.clone(),
        traffic: config.traffic,
        drain: drain.clone(),
    };
    let proxy = Proxy::new(parts, net.clone());
    tokio::spawn(proxy.clone().follow());
    let exchange = proxy.http.exchange.clone();
    tokio::spawn(async move { exchange.tend().await });
    let told = CancellationToken::new();
    let telling = tokio::spawn(export::run(taken, proxy.caller.clone(), recorder, told.clone()));
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
    stop(&proxy, &closed, config.end, &mut signals).await;
    // What became of the last requests is told before the way to whom it is told is cut.
    told.cancel();
    let _ = timeout(LAST_WORDS, telling).await;
    books.flush(LAST_WORDS);
    proxy.connector.force();
    // Who asked for the end over HTTP is still to be told.
    if let Drained::Forced { left } = pages.shutdown(LAST_ANSWERS).await {
        tracing::warn!(left, "answers of the admin pages were cut");
    }
    Ok(())
}

/// The end in its order; a second signal ends it all at once.
async fn stop(proxy: &Proxy, closed: &CancellationToken, end: End, signals: &mut Signals) {
    let drained = tokio::select! {
        drained = proxy.end(closed, end) => drained,
        _ = signals.next() => proxy.drain.shutdown(Duration::ZERO).await,
    };
    match drained {
        Drained::Clean => tracing::info!("all connections ended"),
        Drained::Forced { left } => tracing::warn!(left, "connections did not end within the time to drain; open ones were cut"),
    }
}

/// An answer of the admin pages is a few KiB; whoever does not take it in this time is not waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// For what is still to be told of requests, to files and to others each.
const LAST_WORDS: Duration = Duration::from_secs(1);
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
        let Parts { own, gateway, world, settings, books, credentials, tls, recorder, traffic, drain } = parts;
        let connector = Connector::new(own.clone(), net, Sources::System, tls.clone(), credentials.clone(), Limits::default());
        let reach = Arc::new(Reach::new(world.clone(), own.clone(), tokio::time::Instant::now().into_std()));
        let exchange = Exchange::new(Arc::new(connector.clone()));
        let (asking, of, ways) = (exchange.clone(), settings.clone(), reach.clone());
        let caller: Arc<dyn Caller> = Arc::new(OverMesh { settings: of, world: world.clone(), reach: ways, exchange: asking });
        Arc::new(Proxy {
            http: Arc::new(Context::new(settings.clone(), world.clone(), reach.clone(), exchange, books.clone(), caller.clone())),
            caller,
            own,
            gateway,
            world,
            settings,
            reach,
            books,
            credentials,
            tls,
            connector,
            recorder,
            limits: limits(),
            detection: traffic.detection,
            handshakes: Handshakes::default(),
            connections: Arc::new(Semaphore::new(traffic.connections)),
            streams: Arc::new(Semaphore::new(traffic.streams)),
            waiting: Guests::new(WAITING_MAX, WAITING_PER_CLIENT_MAX),
            drain,
        })
    }

    /// First the notice, in which each answer of HTTP/1.1 is the last of its connection: an end that a request crosses loses it.
    /// Then nothing new and a GOAWAY on every connection, then the end of what is left.
    pub async fn end(&self, closed: &CancellationToken, end: End) -> Drained {
        self.http.stopping.store(true, Ordering::Relaxed);
        let notice = end.notice.min(end.deadline);
        tokio::time::sleep(notice).await;
        closed.cancel();
        self.drain.shutdown(end.deadline - notice).await
    }

    /// What arrivals are judged by, as it is now.
    pub fn with_here<R>(&self, judge: impl FnOnce(&Here<'_>) -> R) -> R {
        let (settings, now) = (self.settings.load(), now());
        self.world.with(|world| {
            let directory = &world.directory;
            judge(&Here { own: &self.own, gateway: &self.gateway, directory, settings: &settings, now })
        })
    }

    /// What the port that was dialled declares to speak.
    pub fn declared(&self, target: &Target) -> PortProtocol {
        match target {
            Target::Service { key, port } => self.http.judged(key, *port).view.map_or(PortProtocol::Auto, |view| view.protocol),
            Target::Workload { workload, port } => self.world.with(|world| declared(&world.directory, workload, *port)),
        }
    }

    pub fn refused(&self, reason: &'static str) {
        self.recorder.counter(&families::REFUSALS, &[fixed("reason", reason)]).increment(1);
    }

    /// Does what changes of the mesh and of the settings ask for, for as long as the process lives.
    pub async fn follow(self: Arc<Proxy>) {
        tokio::join!(self.http.permits.clone().watch(), self.forget());
    }

    /// Lets go of what belongs to workloads and backends that are gone.
    async fn forget(&self) {
        let (mut world, mut settings) = (self.world.clone(), self.settings.clone());
        loop {
            let (known, named) = (world.see(), settings.see());
            self.connector.let_go(&known.directory);
            self.http.exchange.retain(|endpoint| endpoint.stands(&known.directory));
            self.reach.backends.keep(|key| named.names_backend(key) || named.serves(&key.host));
            tokio::select! { () = world.changed() => {}, () = settings.changed() => {} }
        }
    }
}

/// The clock of choices is the runtime's, which tests may stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Who tells of requests.
fn teller(config: &Config) -> account::Own {
    let place = &config.place;
    let said = |key: &str| place.metadata.get(key).cloned();
    account::Own {
        identity: place.identity(),
        workload: said("WORKLOAD_NAME").map_or_else(|| place.gateway.clone(), Into::into),
        namespace: place.namespace.clone(),
        cluster: place.cluster_id.clone(),
        canonical_name: place.gateway.clone(),
        canonical_revision: "latest".into(),
        mesh_id: said("MESH_ID").unwrap_or_default().into(),
        node_id: control_plane::node(config).id.into(),
        hostname: place.pod_name.as_str().into(),
        version: VERSION.into(),
        environment: config.environment.clone(),
    }
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

#[cfg(test)]
mod tests;
