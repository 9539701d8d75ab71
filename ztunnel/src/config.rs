//! The settings of the daemon: the environment's variables by the field's names (spec/dataplane.md 9.1), some of our own,
//! and what the mesh's file says. Pure: the environment, the files and the number of cores are arguments.
//!
//! Each setting is declared once, in the line that reads it; `docs/config.md` is made from these lines.
//! A value that cannot be used, or a setting that we do not support, stops the start and says what to write instead.

mod mesh_file;
mod threads;
mod shown;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_identity::tls::KeyExchange;
use mesh_net::sockopt::{Keepalive, Spoofing};
use mesh_runtime::knobs::{Knob, Knobs, Setting, WrongSettings};
use mesh_telemetry::access_log::Format;

use crate::capture;

use self::mesh_file::MeshFile;

/// Everything that the daemon is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub mode: Mode,
    pub place: Place,
    pub xds: Option<Remote>,
    pub xds_on_demand: bool,
    /// Objects that do not come from a control plane.
    pub local_xds: Option<Local>,
    pub ca: Remote,
    /// Asked for, for each certificate.
    pub certificate_life: Duration,
    pub token: Token,
    pub crl: Option<PathBuf>,
    pub key_exchange: KeyExchange,
    pub sockets: Sockets,
    pub tunnels: Tunnels,
    pub pods: Pods,
    pub dns: Dns,
    pub ports: OperatorPorts,
    pub workers: usize,
    /// How long open connections may go on after the daemon was asked to end.
    pub drain: Duration,
    pub log: Log,
    pub metrics: mesh_telemetry::recorder::Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All pods of a node, which the node agent hands over on this socket.
    Shared { agent: PathBuf },
    /// One workload, in this process's own network namespace.
    Dedicated { namespace: Arc<str>, name: Arc<str>, service_account: Arc<str> },
}

/// Where the daemon runs and what it tells the control plane about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// `None`: pods of any node are ours.
    pub node: Option<Arc<str>>,
    pub network: Arc<str>,
    pub cluster_id: Arc<str>,
    pub cluster_domain: Arc<str>,
    pub trust_domain: Arc<str>,
    pub pod_name: String,
    pub pod_namespace: String,
    pub service_account: String,
    pub instance_ip: Option<IpAddr>,
    /// `ISTIO_META_X` and `proxyMetadata`, by `X`.
    pub metadata: BTreeMap<String, String>,
    /// `ISTIO_METAJSON_X`, by `X`.
    pub metadata_json: BTreeMap<String, serde_json::Value>,
}

/// A server of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `https://host:port`.
    pub url: String,
    pub root: Root,
    /// The name in the server's certificate, when it is not the host's.
    pub alternative_name: Option<String>,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    File(PathBuf),
    Pem(String),
}

/// Objects on this machine (spec/dataplane.md 9.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    File(PathBuf),
    Text(String),
}

/// What proves us to the control plane.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    None,
    File(PathBuf),
    Text(String),
}

/// Options of every socket that we open for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// The mark of our packets where the agent gives none of its own; `None` in dedicated mode unless it is set.
    pub mark: Option<u32>,
    pub port_reuse: bool,
    pub spoofing: Spoofing,
    pub keepalive: Option<Keepalive>,
    pub user_timeout: Option<Duration>,
    pub ipv6: bool,
}

/// Windows and pools of tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    pub stream_window: Option<u32>,
    pub connection_window: u32,
    pub frame_size: u32,
    pub streams_per_connection: usize,
    pub unused_release: Duration,
    pub baggage: bool,
}

/// What pods may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    pub app_tunnel_over_loopback: bool,
    pub socks5: bool,
    pub connections: usize,
    pub policy_in_log: bool,
    /// Where an unknown destination is refused instead of passed through.
    pub mesh_ranges: Arc<[IpNet]>,
    /// After so long without the control plane connections are refused.
    pub snapshot_age: Duration,
    /// How long a connection that is older than its pod's enrolment goes on when policy refuses it.
    pub older_grace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub enabled: bool,
    pub addresses: Vec<SocketAddr>,
    pub preferred_namespace: Option<Arc<str>>,
    pub limits: crate::dns::Limits,
}

/// Where operators and scrapers find us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPorts {
    /// On the loopback. In dedicated mode the application shares it, so what changes something is on `admin_socket` alone.
    pub admin: u16,
    pub admin_socket: Option<PathBuf>,
    pub metrics: u16,
    pub readiness: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub levels: Option<String>,
    pub format: Format,
}

/// What the daemon is told from outside.
pub struct Told<'a> {
    pub environment: &'a BTreeMap<String, String>,
    /// Reads a file; `NotFound` is no error.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    pub cores: usize,
}

/// Read at the start if it is there (spec/dataplane.md 9.1).
const MESH_FILE: &str = "./etc/istio/config/mesh";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
/// Where Linux distributions keep the roots that `SYSTEM` means.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Config {
    /// # Errors
    /// All settings that cannot be used, with their values and what is expected.
    pub fn parse(told: &Told<'_>) -> Result<Config, WrongSettings> {
        let mut knobs = Knobs::new(told.environment);
        let config = Config::read(&mut knobs, told);
        knobs.finish().map(|_| config)
    }

    /// The settings there are, for `--help` and `docs/config.md`.
    pub fn knobs() -> Vec<Knob> {
        let nothing = BTreeMap::new();
        let mut knobs = Knobs::new(&nothing);
        let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
        Config::read(&mut knobs, &Told { environment: &nothing, read: &read, cores: 1 });
        knobs.finish().expect("an empty environment has nothing wrong in it")
    }

    fn read(knobs: &mut Knobs<'_>, told: &Told<'_>) -> Config {
        let file = mesh_file::read(knobs, told);
        let mode = mode(knobs);
        let place = place(knobs, &file);
        let (xds, xds_on_demand, local_xds) = xds(knobs, told, &file);
        let (ca, certificate_life, token, crl) = certificates(knobs, told);
        let key_exchange = compliance(knobs);
        let sockets = sockets(knobs, &mode);
        let tunnels = tunnels(knobs);
        let pods = pods(knobs);
        let dns = dns(knobs, &place, sockets.ipv6, xds_on_demand);
        let ports = operator_ports(knobs, &mode, &file);
        let workers = threads::workers(knobs, file.concurrency, told.cores);
        let drain = drain(knobs);
        let (log, metrics) = log(knobs);
        Config {
            mode,
            place,
            xds,
            xds_on_demand,
            local_xds,
            ca,
            certificate_life,
            token,
            crl,
            key_exchange,
            sockets,
            tunnels,
            pods,
            dns,
            ports,
            workers,
            drain,
            log,
            metrics,
        }
    }
}

fn mode(knobs: &mut Knobs<'_>) -> Mode {
    knobs.section("Mode");
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Shared,
        Dedicated,
    }
    let word = knobs.choice(
        "PROXY_MODE",
        &[("shared", Word::Shared), ("dedicated", Word::Dedicated)],
        "One daemon for all pods of a node, or for one workload.",
    );
    let workload: Option<String> = knobs.optional(
        "PROXY_WORKLOAD_INFO",
        "–",
        "`namespace/name/service-account` of the one workload; needed in dedicated mode.",
    );
    let agent = knobs.value(
        "INPOD_UDS",
        "/var/run/ztunnel/ztunnel.sock",
        "The node agent's socket, where pods are handed over (shared mode).",
    );
    if word == Word::Shared {
        return Mode::Shared { agent };
    }
    let text = workload.unwrap_or_default();
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [namespace, name, account] if [namespace, name, account].iter().all(|part| !part.is_empty()) => {
            Mode::Dedicated { namespace: (*namespace).into(), name: (*name).into(), service_account: (*account).into() }
        }
        _ => {
            knobs.refuse("PROXY_WORKLOAD_INFO", "namespace/name/service-account, because PROXY_MODE is dedicated");
            Mode::Shared { agent }
        }
    }
}

fn place(knobs: &mut Knobs<'_>, file: &MeshFile) -> Place {
    knobs.section("Place");
    let shared = |text: String| -> Arc<str> { text.into() };
    let node: Option<String> = knobs.optional("NODE_NAME", "any node", "The node's name; pods of other nodes are not ours.");
    let network: String = knobs.value("NETWORK", "", "The network that this node's addresses belong to.");
    let cluster: Option<String> = knobs.optional("CLUSTER_ID", "`ISTIO_META_CLUSTER_ID`, else Kubernetes", "The cluster's name.");
    let cluster_domain: String = knobs.value("CLUSTER_DOMAIN", "cluster.local", "The cluster's DNS domain.");
    let trust_domain: String = knobs.value("TRUST_DOMAIN", "cluster.local", "The trust domain of the daemon's own identity.");
    let pod_name: String = knobs.value("POD_NAME", "", "The daemon's own pod.");
    let pod_namespace: String = knobs.value("POD_NAMESPACE", "", "The namespace of the daemon's own pod.");
    let service_account: String = knobs.value("SERVICE_ACCOUNT", "", "The service account of the daemon's own pod.");
    let instance_ip = knobs.optional("INSTANCE_IP", "–", "The address of the daemon's own pod.");
    let from_environment =
        knobs.prefixed("ISTIO_META_", "A piece of metadata that the control plane is told; wins over `proxyMetadata`.");
    let mut metadata = file.metadata.clone();
    metadata.extend(from_environment);
    let mut metadata_json = BTreeMap::new();
    for (key, text) in knobs.prefixed("ISTIO_METAJSON_", "A piece of metadata as JSON.") {
        match serde_json::from_str(&text) {
            Ok(value) => drop(metadata_json.insert(key, value)),
            Err(error) => knobs.refuse(&format!("ISTIO_METAJSON_{key}"), format!("JSON ({error})")),
        }
    }
    let cluster_id = cluster.or_else(|| metadata.get("CLUSTER_ID").cloned()).unwrap_or_else(|| "Kubernetes".to_owned());
    Place {
        node: node.filter(|node| !node.is_empty()).map(shared),
        network: shared(network),
        cluster_id: shared(cluster_id),
        cluster_domain: shared(cluster_domain),
        trust_domain: shared(trust_domain),
        pod_name,
        pod_namespace,
        service_account,
        instance_ip,
        metadata,
        metadata_json,
    }
}

fn xds(knobs: &mut Knobs<'_>, told: &Told<'_>, file: &MeshFile) -> (Option<Remote>, bool, Option<Local>) {
    knobs.section("Control plane");
    let address: Option<String> = knobs.optional(
        "XDS_ADDRESS",
        "`discoveryAddress`, else as CA_ADDRESS",
        "Where addresses and policies come from (`https://host:port`); empty: from nowhere.",
    );
    let alternative_name =
        knobs.optional("ALT_XDS_HOSTNAME", "the host of the address", "The name in the control plane's certificate.");
    let root: String = knobs.value(
        "XDS_ROOT_CA",
        "./var/run/secrets/istio/root-cert.pem",
        "Whom the control plane is verified by: a file, `SYSTEM`, or PEM text.",
    );
    let headers = knobs.prefixed("XDS_HEADER_", "A header of every request to the control plane.");
    let on_demand = knobs.value(
        "XDS_ON_DEMAND",
        "false",
        "Ask for addresses when a connection needs them, instead of keeping all. Needs DNS capture to be off.",
    );
    let path: Option<PathBuf> = knobs.optional(
        "LOCAL_XDS_PATH",
        "–",
        "A YAML file of workloads, services and policies, beside or instead of the control plane.",
    );
    let text: Option<String> = knobs.optional("LOCAL_XDS", "–", "The same as text.");
    if path.is_some() && text.is_some() {
        knobs.refuse("LOCAL_XDS", "nothing, because LOCAL_XDS_PATH is set too; leave one of them out");
    }
    let local = path.map(Local::File).or(text.map(Local::Text));
    let address = address.or_else(|| file.discovery_address.clone()).unwrap_or_else(|| default_address(told));
    let url = (!address.is_empty()).then(|| url(knobs, "XDS_ADDRESS", &address)).flatten();
    let remote = url.map(|url| Remote { url, root: self::root(&root), alternative_name, headers: headers.into_iter().collect() });
    (remote, on_demand, local)
}

fn certificates(knobs: &mut Knobs<'_>, told: &Told<'_>) -> (Remote, Duration, Token, Option<PathBuf>) {
    knobs.section("Certificates");
    let default = "`https://istiod.istio-system.svc:15012` in a cluster, else `https://localhost:15012`";
    let address: Option<String> = knobs.optional("CA_ADDRESS", default, "Where certificates come from.");
    let alternative_name = knobs.optional("ALT_CA_HOSTNAME", "the host of the address", "The name in the CA's certificate.");
    let root: String = knobs.value(
        "CA_ROOT_CA",
        "./var/run/secrets/istio/root-cert.pem",
        "Whom the CA is verified by: a file, `SYSTEM`, or PEM text.",
    );
    let headers = knobs.prefixed("CA_HEADER_", "A header of every request to the CA.");
    let token: Option<String> = knobs.optional(
        "AUTH_TOKEN",
        "`./var/run/secrets/tokens/istio-token` if it is there",
        "What proves us to the control plane and the CA: the path of a file that is there, else the token itself.",
    );
    let life: Duration = knobs.value("SECRET_TTL", "24h", "The life that is asked for, for each certificate.");
    let crl = knobs.optional("CRL_PATH", "–", "A file of revocation lists, PEM or DER.");
    let fake = knobs.value::<bool>("FAKE_CA", "false", "Not supported: certificates that nobody vouches for.");
    if fake {
        knobs.refuse("FAKE_CA", "false: certificates that nobody vouches for are not supported; run istiod-lite as the CA");
    }
    if life.is_zero() {
        knobs.refuse("SECRET_TTL", "a life longer than nothing");
    }
    let address = address.filter(|address| !address.is_empty()).unwrap_or_else(|| default_address(told));
    let url = url(knobs, "CA_ADDRESS", &address).unwrap_or_default();
    let is_file = |path: &str| (told.read)(Path::new(path)).is_ok();
    let token = match token {
        Some(token) if is_file(&token) => Token::File(token.into()),
        Some(token) if token.trim().is_empty() => Token::None,
        Some(token) => Token::Text(token.trim().to_owned()),
        None if is_file(TOKEN_FILE) => Token::File(TOKEN_FILE.into()),
        None => Token::None,
    };
    (Remote { url, root: self::root(&root), alternative_name, headers: headers.into_iter().collect() }, life, token, crl)
}

/// In a cluster every pod is told where the API server is.
fn default_address(told: &Told<'_>) -> String {
    let in_cluster = told.environment.contains_key("KUBERNETES_SERVICE_HOST");
    if in_cluster { "https://istiod.istio-system.svc:15012" } else { "https://localhost:15012" }.to_owned()
}

fn url(knobs: &mut Knobs<'_>, env: &str, address: &str) -> Option<String> {
    // The mesh's file names an address without a scheme.
    let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let parsed = url
        .parse::<http::Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()));
    let plain = parsed.is_some_and(|uri| matches!(uri.path(), "" | "/") && uri.query().is_none());
    if !plain {
        let whose = if knobs.given(env).is_some() { env } else { "PROXY_CONFIG" };
        knobs.refuse(whose, format!("https://host:port, not {address:?}"));
        return None;
    }
    Some(url)
}

fn root(text: &str) -> Root {
    match text {
        "SYSTEM" => Root::File(SYSTEM_ROOTS.into()),
        pem if pem.trim_start().starts_with("-----BEGIN") => Root::Pem(pem.to_owned()),
        path => Root::File(path.into()),
    }
}

fn compliance(knobs: &mut Knobs<'_>) -> KeyExchange {
    let policy: Option<String> = knobs.optional(
        "COMPLIANCE_POLICY",
        "none",
        "`pqc`: only key exchanges that a quantum computer does not break (X25519MLKEM768). Other policies are not supported.",
    );
    let key_exchange = match policy.as_deref() {
        None | Some("") => KeyExchange::Standard,
        Some("pqc") => KeyExchange::PostQuantumOnly,
        Some(_) => {
            // The field's daemons start without it; a policy that somebody believes in and that does not hold is worse than no start.
            knobs.refuse("COMPLIANCE_POLICY", "pqc, or nothing: other policies are not supported");
            KeyExchange::PostQuantumOnly
        }
    };
    knobs.declare("TLS12_ENABLED", bool::KIND.to_owned(), "false", "Not supported: TLS 1.3 only.");
    if knobs.given("TLS12_ENABLED") == Some("true") {
        knobs.refuse("TLS12_ENABLED", "false: only TLS 1.3 is supported");
    }
    key_exchange
}

fn sockets(knobs: &mut Knobs<'_>, mode: &Mode) -> Sockets {
    knobs.section("Sockets");
    let mark: Option<u32> = knobs.optional(
        "PACKET_MARK",
        "1337 in shared mode, else none",
        "The mark that exempts our packets from capture where the agent gives none.",
    );
    let port_reuse = knobs.value("INPOD_PORT_REUSE", "true", "An old and a new daemon may listen together while one takes over.");
    let spoof: Option<bool> = knobs.optional(
        "ENABLE_ORIG_SRC",
        "where it is possible",
        "Applications see their real client's address; `true`: or nothing works.",
    );
    let on = knobs.value::<bool>("KEEPALIVE_ENABLED", "true", "TCP keepalive.");
    let idle = knobs.value("KEEPALIVE_TIME", "180s", "Silence before the first probe.");
    let interval = knobs.value("KEEPALIVE_INTERVAL", "180s", "Time between probes.");
    let retries = knobs.within("KEEPALIVE_RETRIES", "9", 1..=127, "Probes without an answer before a connection is given up.");
    let user_timeout = knobs.value::<bool>(
        "USER_TIMEOUT_ENABLED",
        "false",
        "Give up a connection whose bytes are not acknowledged, after time + retries × interval.",
    );
    let ipv6 = knobs.value("IPV6_ENABLED", "true", "Listen on IPv6 too, and tell IPv6 addresses by DNS.");
    let spoofing = match spoof {
        None => Spoofing::Auto,
        Some(true) => Spoofing::Required,
        Some(false) => Spoofing::Never,
    };
    let default_mark = matches!(mode, Mode::Shared { .. }).then_some(1337);
    Sockets {
        // Mark 0 is what every other packet has: it exempts nothing.
        mark: mark.or(default_mark).filter(|mark| *mark != 0),
        port_reuse,
        spoofing,
        keepalive: on.then_some(Keepalive { idle, interval, retries }),
        user_timeout: user_timeout.then(|| idle + interval * retries),
        ipv6,
    }
}

fn tunnels(knobs: &mut Knobs<'_>) -> Tunnels {
    knobs.section("Tunnels");
    // HTTP/2 allows windows up to 2^31-1 and frames from 2^14 to 2^24-1 bytes (RFC 9113 6.5.2).
    const WINDOWS: std::ops::RangeInclusive<u32> = 65_535..=0x7fff_ffff;
    let stream_window = knobs.optional(
        "HTTP2_STREAM_WINDOW_SIZE",
        "256 KiB that grows to 4 MiB",
        "Bytes that may be on their way in one stream.",
    );
    if stream_window.is_some_and(|bytes| !WINDOWS.contains(&bytes)) {
        knobs.refuse("HTTP2_STREAM_WINDOW_SIZE", "a number from 65535 to 2147483647");
    }
    Tunnels {
        stream_window,
        connection_window: knobs.within(
            "HTTP2_CONNECTION_WINDOW_SIZE",
            "16777216",
            WINDOWS,
            "Bytes that may be on their way in all streams of one tunnel connection.",
        ),
        frame_size: knobs.within(
            "HTTP2_FRAME_SIZE",
            "1048576",
            16_384..=16_777_215,
            "The largest frame that is taken, in bytes.",
        ),
        streams_per_connection: knobs.within(
            "POOL_MAX_STREAMS_PER_CONNECTION",
            "100",
            1..=65_535,
            "Streams of ours on one tunnel connection; the peer's limit lowers it.",
        ),
        unused_release: knobs.value("POOL_UNUSED_RELEASE_TIMEOUT", "5m", "How long a tunnel connection without streams is kept."),
        baggage: knobs.value(
            "ENABLE_RESPONSE_BAGGAGE",
            "true",
            "Tell peers about the workload, and read what they tell (for telemetry only).",
        ),
    }
}

fn pods(knobs: &mut Knobs<'_>) -> Pods {
    knobs.section("Pods");
    // A daemon without its proxy would leave redirected traffic unanswered.
    let proxy: bool = knobs.value("ENABLE_PROXY", "true", "Always `true`; another value stops the start.");
    if !proxy {
        knobs.refuse("ENABLE_PROXY", "true: this daemon does nothing else than carry traffic");
    }
    let app_tunnel_over_loopback =
        knobs.value("LOCALHOST_APP_TUNNEL", "true", "Reach an application that takes the PROXY protocol by the loopback.");
    let socks5 = knobs.value("UNSTABLE_ENABLE_SOCKS5", "false", "Serve SOCKS5 on each pod's 127.0.0.1:15080.");
    let connections = knobs.within(
        "POD_CONNECTIONS_MAX",
        "16384",
        1..=1_000_000,
        "Connections that one pod may have open through us; more are refused.",
    );
    let ranges: String = knobs.value(
        "MESH_RANGES",
        "",
        "Ranges of pods and services, as `10.244.0.0/16,10.96.0.0/12`. An unknown destination there is refused after a second, never passed through in the clear.",
    );
    let parsed: Option<Vec<IpNet>> = ranges.split(',').map(str::trim).filter(|range| !range.is_empty()).map(|range| range.parse().ok()).collect();
    if parsed.is_none() {
        knobs.refuse("MESH_RANGES", "ranges separated by commas, like 10.244.0.0/16,fd00::/48");
    }
    let mesh_ranges: Arc<[IpNet]> = parsed.unwrap_or_default().into();
    let snapshot_age = knobs.value(
        "SNAPSHOT_AGE_MAX",
        "24h",
        "After so long without the control plane connections are refused: policies may have come that we never saw.",
    );
    let older_grace = knobs.value(
        "OLDER_CONNECTION_GRACE",
        "30s",
        "A connection that was open before its pod was enrolled is cut when policy has refused it for so long.",
    );
    knobs.declare(
        "AUTHZ_POLICY_INFO_LOGGING",
        "`true` or anything else".to_owned(),
        "false",
        "Write the policy that allowed a connection into the log at level info.",
    );
    let policy_in_log = knobs.given("AUTHZ_POLICY_INFO_LOGGING") == Some("true");
    Pods { app_tunnel_over_loopback, socks5, connections, policy_in_log, mesh_ranges, snapshot_age, older_grace }
}

fn dns(knobs: &mut Knobs<'_>, place: &Place, ipv6: bool, on_demand: bool) -> Dns {
    knobs.section("DNS");
    knobs.declare(
        "ISTIO_META_DNS_CAPTURE",
        "`true` or anything else".to_owned(),
        "true",
        "Serve DNS in each pod; also `DNS_CAPTURE` in `proxyMetadata`.",
    );
    knobs.declare(
        "ISTIO_META_DNS_PROXY_ADDR",
        "host:port".to_owned(),
        "localhost:15053",
        "Where DNS is served in each pod; `localhost` is both loopbacks. Also `DNS_PROXY_ADDR` in `proxyMetadata`.",
    );
    let own: Option<String> = knobs.optional("DNS_PROXY_ADDR", "ISTIO_META_DNS_PROXY_ADDR", "The same.");
    let preferred: Option<String> = knobs.optional(
        "PREFERED_SERVICE_NAMESPACE",
        "–",
        "Among services of one name in several other namespaces, this namespace's is meant.",
    );
    let limits = crate::dns::Limits {
        per_second: knobs.within(
            "DNS_QUERIES_PER_SECOND",
            "5000",
            1..=10_000_000,
            "DNS questions of one pod in a second; more are refused.",
        ),
        in_flight: knobs.within(
            "DNS_IN_FLIGHT_MAX",
            "256",
            1..=65_536,
            "DNS questions of one pod that wait for an upstream server; more fail at once.",
        ),
        connections: knobs.within("DNS_TCP_CONNECTIONS_MAX", "64", 1..=65_536, "DNS connections of one pod over TCP."),
    };
    let capture = place.metadata.get("DNS_CAPTURE").map_or("true", String::as_str);
    let enabled = capture.eq_ignore_ascii_case("true");
    if enabled && on_demand {
        knobs.refuse("XDS_ON_DEMAND", "false, because DNS needs to know every name; or set ISTIO_META_DNS_CAPTURE=false");
    }
    let text = own.as_ref().or_else(|| place.metadata.get("DNS_PROXY_ADDR"));
    let addresses = match text {
        None => loopbacks(capture::DNS, ipv6),
        Some(text) => dns_addresses(text, ipv6).unwrap_or_else(|| {
            let whose = if own.is_some() { "DNS_PROXY_ADDR" } else { "ISTIO_META_DNS_PROXY_ADDR" };
            knobs.refuse(whose, format!("an address and a port, like localhost:15053 or 127.0.0.1:15053, not {text:?}"));
            Vec::new()
        }),
    };
    Dns { enabled, addresses, preferred_namespace: preferred.filter(|name| !name.is_empty()).map(Arc::from), limits }
}

fn dns_addresses(text: &str, ipv6: bool) -> Option<Vec<SocketAddr>> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return u16::parse(port).filter(|port| *port != 0).map(|port| loopbacks(port, ipv6));
    }
    SocketAddr::parse(text).map(|address| vec![address])
}

fn loopbacks(port: u16, ipv6: bool) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if ipv6 { vec![v4, v6] } else { vec![v4] }
}

fn operator_ports(knobs: &mut Knobs<'_>, mode: &Mode, file: &MeshFile) -> OperatorPorts {
    knobs.section("Operators");
    let socket: Option<PathBuf> = knobs.optional(
        "ADMIN_UDS",
        "`/var/run/ztunnel/admin.sock` in dedicated mode, else none",
        "A unix socket with the admin paths; in dedicated mode the only place for those that change something.",
    );
    let dedicated = matches!(mode, Mode::Dedicated { .. });
    OperatorPorts {
        admin: file.admin_port.unwrap_or(15000),
        admin_socket: socket.or_else(|| dedicated.then(|| "/var/run/ztunnel/admin.sock".into())),
        metrics: file.stats_port.unwrap_or(15020),
        readiness: 15021,
    }
}

fn drain(knobs: &mut Knobs<'_>) -> Duration {
    knobs.section("End");
    let deadline: Option<Duration> = knobs.optional(
        "CONNECTION_TERMINATION_DEADLINE",
        "from TERMINATION_GRACE_PERIOD_SECONDS, else 5s",
        "How long open connections may go on after SIGTERM.",
    );
    let grace: Option<u64> = knobs.optional(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        "–",
        "When the orchestrator will kill us; connections get 5 s less (1 s less if it is 10 or below).",
    );
    deadline.or(grace.map(after_grace)).unwrap_or(Duration::from_secs(5))
}

/// Some of the grace is left for our own end (spec/dataplane.md 9.1).
fn after_grace(seconds: u64) -> Duration {
    Duration::from_secs(if seconds > 10 { seconds - 5 } else { seconds.saturating_sub(1).max(1) })
}

fn log(knobs: &mut Knobs<'_>) -> (Log, mesh_telemetry::recorder::Limits) {
    knobs.section("Log and metrics");
    let levels: Option<String> = knobs.optional(
        "RUST_LOG",
        "info",
        "Levels, like `debug` or `access=debug,info`; changed while running by POST /logging.",
    );
    if let Some(Err(bad)) = levels.as_deref().map(|levels| mesh_telemetry::levels::Directives::standard().with(levels)) {
        knobs.refuse("RUST_LOG", format!("levels ({bad})"));
    }
    let format = knobs.choice(
        "LOG_FORMAT",
        &[("text", Format::Text), ("plain", Format::Text), ("json", Format::Json)],
        "How log lines look.",
    );
    knobs.declare("RUST_BACKTRACE", "0 \\| 1 \\| full".to_owned(), "0", "Whether a crash shows where it came from.");
    let limits = mesh_telemetry::recorder::Limits {
        series: knobs.within(
            "METRICS_SERIES_MAX",
            "20000",
            100..=10_000_000,
            "Series of metrics; what does not fit is counted together.",
        ),
        idle: knobs.value("METRICS_SERIES_IDLE", "10m", "How long a series stays that nobody uses and that does not move."),
    };
    (Log { levels, format }, limits)
}

#[cfg(test)]
mod tests;
