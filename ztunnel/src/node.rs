//! The composition root: builds everything in order, runs it, and takes it down. One page.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mesh_identity::authority::{GrpcAuthority, Mode as CaMode};
use mesh_dns::Resolv;
use mesh_identity::channel::{self, Address, CallHeaders, ChannelTls, RootSource, TokenSource};
use mesh_identity::clock::{Clock, SystemClock};
use mesh_identity::crl::Revocations;
use mesh_identity::store::Credentials;
use mesh_identity::tls::Tls;
use mesh_net::sockopt::{Options, Spoofing, can_spoof};
use mesh_runtime::signal::Signals;
use mesh_runtime::{Drain, Drained, Ready};
use mesh_telemetry::families::{self, XDS_TERMINATIONS};
use mesh_telemetry::labels::fixed;
use mesh_telemetry::log::Log;
use mesh_telemetry::recorder::Recorder;
use mesh_telemetry::traffic::Traffic;
use mesh_xds::client::{Client, ClientConfig, ClientLimits, NodeMetadata, Observe, Termination, json_to_value, ztunnel_node};
use mesh_xds::world::{Edit, WorldWriter, world};
use rand::SeedableRng;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::account::Accounts;
use crate::admin::{self, Admin};
use crate::capture;
use crate::chance::Chance;
use crate::config::{Config, Local, Mode, Remote, Root, Token};
use crate::dns::answer::Naming;
use crate::enroll::{PodInfo, zds::Zds};
use crate::fetch::Fetcher;
use crate::freshness::Freshness;
use crate::localfile::LocalFile;
use crate::own;
use crate::pod::{Mesh, Settings};
use crate::pods::{Dns, Pods};

/// What version this is, wherever a version is asked for.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, and the end of it when the node agent breaks the protocol.
pub async fn run(config: Config, log: Log, workers: Handle) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    if config.sockets.spoofing == Spoofing::Required {
        can_spoof().context("ENABLE_ORIG_SRC=true, and connections cannot carry their clients' addresses here; it needs CAP_NET_ADMIN or CAP_NET_RAW")?;
    }
    let (ready, drain) = (Ready::new(), Drain::new());
    let quit = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let recorder = Recorder::new(config.metrics);
    recorder.gauge(&families::BUILD, &[fixed("component", "ztunnel"), fixed("tag", VERSION)]).set(1.0);

    // certificates
    let revocations = match &config.crl {
        Some(path) => follow_revocations(&clock, path),
        None => Revocations::disabled(),
    };
    let tls = Tls::new(config.key_exchange, clock.clone(), revocations);
    let credentials = credentials(&config, &clock)?;
    tokio::spawn(credentials.clone().run());

    // the picture of the mesh
    let (mut writer, watched) = world();
    let fixed_file = local_file(&config, &mut writer)?;
    let freshness = Freshness::new(config.pods.snapshot_age);
    let proxy_ready = ready.block("proxy");
    let demand = match &config.xds {
        Some(xds) => Some(follow_control_plane(&config, xds, &clock, writer, &recorder, &freshness, &ready)?),
        None => {
            writer.apply([Edit::AddressesSynced, Edit::PoliciesSynced]);
            tokio::spawn(async move { hold(writer).await });
            None
        }
    };

    let accounts = Accounts::new(Traffic::new(recorder.clone()), log.access(), clock);
    let resolv = resolv(&config);
    let fetch = Arc::new(Fetcher::new(demand, resolv.servers.clone(), &recorder));
    let mesh = Arc::new(Mesh {
        world: watched.clone(),
        credentials,
        tls,
        accounts,
        fetch,
        freshness,
        chance: Chance::from_machine(),
        settings: settings(&config),
    });
    let dns = config.dns.enabled.then(|| naming(&config, &resolv));
    let pods = Arc::new(Pods::new(mesh.clone(), options(&config), dns, workers.clone(), drain.child())?);

    // what operators ask
    let shown = Admin {
        mesh: mesh.clone(),
        pods: pods.clone(),
        log,
        recorder,
        workers: workers.clone(),
        ready: ready.clone(),
        quit: quit.clone(),
        drained: drain.forced_token(),
        config: config.shown(),
        cluster_domain: config.place.cluster_domain.to_string(),
        fixed: fixed_file,
        shared: matches!(config.mode, Mode::Shared { .. }),
    };
    let pages = admin::serve(shown, &config).await?;
    own::serve(&config, options(&config), &mesh, &workers, drain.child()).await.context("cannot serve the daemon's own metrics over HBONE")?;

    // the pods, once it is known who is who
    let zds = match &config.mode {
        Mode::Shared { agent } => {
            let zds = Zds::new(agent.clone(), pods.clone(), ready.clone());
            let (watched, running) = (watched.clone(), drain.clone());
            tokio::spawn(async move {
                synced(watched, &running).await;
                drop(proxy_ready);
                zds.run(running).await
            })
        }
        Mode::Dedicated { name, namespace, service_account } => {
            let info = PodInfo { name: name.clone(), namespace: namespace.clone(), service_account: service_account.clone() };
            pods.start_dedicated(info).await.context("cannot serve this workload")?;
            let running = drain.clone();
            tokio::spawn(async move {
                synced(watched, &running).await;
                drop(proxy_ready);
                running.soft().await;
                Ok(())
            })
        }
    };

    let ended = tokio::select! {
        asked = signals.next() => { tracing::info!(?asked, "stopping"); Ok(()) }
        () = quit.cancelled() => { tracing::info!("stopping, as an operator asked"); Ok(()) }
        broken = zds => broken.map_err(anyhow::Error::from).and_then(|ended| ended.context("the node agent breaks the protocol")),
    };
    stop(&drain, config.drain, &mut signals).await;
    // Who asked for the end over HTTP is still to be told.
    if let Drained::Forced { left } = pages.shutdown(LAST_ANSWERS).await {
        tracing::warn!(left, "answers of the admin pages were cut");
    }
    ended
}

/// Nothing new; what is open goes on until the deadline, or until a second signal. Tunnels can be opened meanwhile: a
/// connection that was accepted a moment ago has none yet.
async fn stop(drain: &Drain, deadline: std::time::Duration, signals: &mut Signals) {
    let drained = tokio::select! {
        drained = drain.shutdown(deadline) => drained,
        _ = signals.next() => drain.shutdown(std::time::Duration::ZERO).await,
    };
    match drained {
        Drained::Clean => tracing::info!("all connections ended"),
        Drained::Forced { left } => tracing::warn!(left, "connection failed to drain within the timeout; open ones were cut"),
    }
}

fn follow_revocations(clock: &Arc<dyn Clock>, path: &Path) -> Arc<Revocations> {
    let revocations = Revocations::new(clock.clone());
    let (following, path) = (revocations.clone(), path.to_owned());
    tokio::spawn(async move { following.follow(&path).await });
    revocations
}

fn credentials(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Credentials> {
    let (address, tls) = remote_tls(config, &config.ca, clock).context("CA_ADDRESS")?;
    let channel = channel::connect(&address, tls, channel::tcp)?;
    let headers = CallHeaders::new(token(config), &config.place.cluster_id, &config.ca.headers).context("CA_HEADER_*")?;
    let mode = if matches!(config.mode, Mode::Shared { .. }) { CaMode::Shared } else { CaMode::Dedicated };
    let authority = Arc::new(GrpcAuthority::new(channel, headers, mode).whose_own_is(own::identity(config)));
    Ok(Credentials::new(authority, clock.clone(), config.certificate_life, rand::random()))
}

fn remote_tls(config: &Config, to: &Remote, clock: &Arc<dyn Clock>) -> anyhow::Result<(Address, Arc<ChannelTls>)> {
    let address: Address = to.url.parse()?;
    let roots = match &to.root {
        Root::File(path) => RootSource::File(path.clone()),
        Root::Pem(text) => RootSource::Pem(text.clone()),
    };
    let tls = ChannelTls::new(roots, &address.host, to.alternative_name.as_deref(), config.key_exchange, clock.clone())?;
    Ok((address, Arc::new(tls)))
}

fn token(config: &Config) -> TokenSource {
    match &config.token {
        Token::None => TokenSource::None,
        Token::File(path) => TokenSource::File(path.clone()),
        Token::Text(text) => TokenSource::Static(text.clone()),
    }
}

/// What a pod's connections go by.
fn settings(config: &Config) -> Settings {
    let defaults = mesh_hbone::Limits::default();
    let tunnels = &config.tunnels;
    Settings {
        node: config.place.node.clone(),
        network: config.place.network.clone(),
        ipv6: config.sockets.ipv6,
        own_ports: own_ports(config.pods.socks5),
        policy_in_log: config.pods.policy_in_log,
        socks5: config.pods.socks5,
        mesh_ranges: config.pods.mesh_ranges.clone(),
        unknown_wait: UNKNOWN_WAIT,
        tunnel_over_loopback: config.pods.app_tunnel_over_loopback,
        baggage: tunnels.baggage,
        on_demand: config.xds_on_demand,
        hbone: mesh_hbone::Limits {
            stream_window: tunnels.stream_window.unwrap_or(defaults.stream_window),
            connection_window: tunnels.connection_window,
            frame_size: tunnels.frame_size,
            streams_per_connection: tunnels.streams_per_connection,
            idle_release: tunnels.unused_release,
            ..defaults
        },
        dead_after: tunnels.dead_after,
        connections_per_pod: config.pods.connections,
        own_workload_wait: OWN_WORKLOAD_WAIT,
        older_grace: config.pods.older_grace,
        drain: RELEASE_DRAIN,
    }
}

/// The ports in a pod that are the mesh's: a connection to them is a loop.
fn own_ports(socks5: bool) -> Arc<[u16]> {
    let always = [capture::OUTBOUND, capture::PLAINTEXT, capture::HBONE];
    always.into_iter().chain(socks5.then_some(capture::SOCKS5)).collect()
}

/// An answer of the admin pages is a few KiB; whoever does not take it in this time is not waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long a connection waits for the control plane to describe its pod (spec/dataplane.md 5.1).
const OWN_WORKLOAD_WAIT: Duration = Duration::from_secs(5);
/// How long a connection to an unknown address within the mesh waits for somebody to be known there: pushes take
/// milliseconds, a controller's restart about a second.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);
/// How long connections of a pod that leaves the mesh alive may go on: the longest life of a half-closed one.
const RELEASE_DRAIN: Duration = Duration::from_secs(3600);

/// The options of every socket opened for a pod.
fn options(config: &Config) -> Options {
    let sockets = &config.sockets;
    Options {
        mark: sockets.mark,
        port_reuse: sockets.port_reuse,
        keepalive: sockets.keepalive,
        user_timeout: sockets.user_timeout,
        spoofing: sockets.spoofing,
        ..Options::default()
    }
}

/// The mesh in the file, if there is one, is in the world before anything else.
fn local_file(config: &Config, writer: &mut WorldWriter) -> anyhow::Result<LocalFile> {
    let file = match &config.local_xds {
        None => return Ok(LocalFile::default()),
        Some(Local::Text(text)) => LocalFile::parse("LOCAL_XDS", text)?,
        Some(Local::File(path)) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(|| format!("LOCAL_XDS_PATH={name}"))?;
            LocalFile::parse(&name, &text)?
        }
    };
    let policies = file.policies.iter().map(|policy| Edit::Policy(policy.key(), policy.clone()));
    writer.apply(file.changes().map(Edit::Address).chain(policies).collect::<Vec<_>>());
    Ok(file)
}

fn follow_control_plane(
    config: &Config,
    xds: &Remote,
    clock: &Arc<dyn Clock>,
    writer: WorldWriter,
    recorder: &Recorder,
    freshness: &Freshness,
    ready: &Ready,
) -> anyhow::Result<mesh_xds::client::Demand> {
    let (address, tls) = remote_tls(config, xds, clock).context("XDS_ADDRESS")?;
    let place = &config.place;
    let text = place.metadata.iter().map(|(key, value)| NodeMetadata::text(key, value));
    let json = place.metadata_json.iter().map(|(key, value)| NodeMetadata { key: key.clone(), value: json_to_value(value) });
    let node_name = place.node.as_deref().unwrap_or_default();
    let client_config = ClientConfig {
        server: format!("https://{}:{}", address.host, address.port).parse()?,
        node: ztunnel_node(&place.pod_name, &place.pod_namespace, node_name, place.instance_ip, text.chain(json)),
        cluster_id: place.cluster_id.to_string(),
        headers: xds.headers.clone(),
        on_demand: config.xds_on_demand,
        limits: ClientLimits::default(),
    };
    let dial = move || {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let io = channel::tcp(address).await?;
            tls.secure(io).await.map_err(std::io::Error::other)
        }
    };
    let source = token(config);
    let token = move || source.read();
    let client = Client::new(client_config, dial, token, writer, rand::rngs::SmallRng::from_os_rng())
        .observed_by(Counted::new(recorder))
        .blocking(ready.block("state manager"));
    let demand = client.demand();
    tokio::spawn(freshness.clone().follow(client.contact()));
    tokio::spawn(client.run(CancellationToken::new()));
    Ok(demand)
}

/// Until the control plane has told everything once: a pod that is served before would refuse what it may allow.
async fn synced(mut watched: mesh_runtime::Watched<mesh_xds::world::World>, drain: &Drain) {
    loop {
        let now = watched.see();
        if now.synced.addresses && now.synced.policies {
            return;
        }
        tokio::select! { () = watched.changed() => {}, () = drain.soft() => return }
    }
}

/// Readers of a world whose writer is gone would see it as closed.
async fn hold(writer: WorldWriter) {
    let _writer = writer;
    std::future::pending::<()>().await;
}

/// The name servers of this process's own place.
///
/// A machine's file may name a stub resolver on its loopback; that one's own questions are captured like everybody's and
/// would come back to it through us. Where it is systemd's, the servers that it asks are in a file of their own.
fn resolv(config: &Config) -> Resolv {
    let read = |path: &str| Resolv::parse(&std::fs::read_to_string(path).unwrap_or_default());
    let resolv = read("/etc/resolv.conf");
    let stub = !resolv.servers.is_empty() && resolv.servers.iter().all(|server| server.ip().is_loopback());
    if stub && matches!(config.mode, Mode::Dedicated { .. }) {
        let behind = read(BEHIND_THE_STUB);
        if !behind.servers.is_empty() {
            return Resolv { servers: behind.servers, ..resolv };
        }
    }
    resolv
}

/// Where systemd-resolved writes the servers that it asks.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

fn naming(config: &Config, resolv: &Resolv) -> Dns {
    let dedicated = matches!(config.mode, Mode::Dedicated { .. });
    Dns {
        naming: Naming {
            cluster_domain: config.place.cluster_domain.clone(),
            search: dedicated.then(|| resolv.search.clone()),
            preferred_namespace: config.dns.preferred_namespace.clone(),
            ipv6: config.sockets.ipv6,
        },
        servers: resolv.servers.clone(),
        limits: config.dns.limits,
        addresses: config.dns.addresses.clone(),
    }
}

/// The client's life in metrics.
struct Counted(Recorder);

impl Counted {
    fn new(recorder: &Recorder) -> Counted {
        Counted(recorder.clone())
    }
}

impl Observe for Counted {
    fn message(&self, type_url: &str, bytes: usize) {
        let labels = [metrics::Label::new("url", type_url.to_owned())];
        self.0.counter(&families::XDS_MESSAGES, &labels).increment(1);
        self.0.counter(&families::XDS_BYTES, &labels).increment(bytes as u64);
    }

    fn rejected(&self, type_url: &str, resources: usize) {
        tracing::warn!(type_url, resources, "the control plane sent resources that cannot be used; the last good ones stay");
    }

    fn terminated(&self, how: Termination) {
        self.0.counter(&XDS_TERMINATIONS, &[fixed("reason", how.word())]).increment(1);
    }
}

/// Where something listens, in an error that says which setting it came from.
pub fn bind_error(what: &str, at: SocketAddr, why: std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot listen on {at} for {what}: {why}; is another daemon running on this machine?")
}
