//! The settings of a waypoint: the environment's variables by the field's names, and some of our own. Pure: the
//! environment, the files and the number of cores are arguments.
//!
//! A setting is declared once, in the line that reads it; `docs/config-waypoint.md` is made from these lines. A value that
//! cannot be used stops the start and says what to write instead.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::channel::{Address, RootSource, TokenSource};
use mesh_identity::tls::KeyExchange;
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_runtime::knobs::{Knob, Knobs, WrongSettings};
use mesh_telemetry::access_log::Format;

/// Everything that the proxy is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    pub place: Place,
    /// `None`: everything comes from files.
    pub xds: Option<Remote>,
    pub ca: Remote,
    pub token: TokenSource,
    pub certificate_life: Duration,
    pub crl: Option<PathBuf>,
    pub key_exchange: KeyExchange,
    /// Resources that do not come from a control plane.
    pub file: Option<PathBuf>,
    pub traffic: Traffic,
    pub ports: Ports,
    pub workers: usize,
    pub end: End,
    pub log: Log,
    pub metrics: mesh_telemetry::recorder::Limits,
    /// All of it, for tags of spans that name a variable.
    pub environment: BTreeMap<String, String>,
}

/// Where the proxy runs, and as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub pod_name: String,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub trust_domain: Arc<str>,
    /// The Gateway whose waypoint this is.
    pub gateway: Arc<str>,
    pub instance_ip: Option<IpAddr>,
    pub node: String,
    pub network: Arc<str>,
    pub cluster_id: Arc<str>,
    pub cluster_domain: Arc<str>,
    /// `ISTIO_META_X`, by `X`.
    pub metadata: BTreeMap<String, String>,
}

impl Place {
    pub fn identity(&self) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account)
    }

    /// The service in front of the Gateway's pods, by which others name this waypoint.
    pub fn service(&self) -> NamespacedHostname {
        NamespacedHostname::new(&self.namespace, &format!("{}.{}.svc.{}", self.gateway, self.namespace, self.cluster_domain))
    }
}

/// A server of the control plane.
#[derive(Clone, Debug)]
pub struct Remote {
    pub address: Address,
    pub roots: RootSource,
    /// The name in the server's certificate, when it is not the host's.
    pub alternative_name: Option<String>,
    pub headers: Vec<(String, String)>,
}

/// What clients may take of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub connections: usize,
    pub streams: usize,
    pub detection: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub hbone: u16,
    pub metrics: u16,
    /// The same pages, where scrapers of proxies look for them.
    pub proxy_metrics: u16,
    pub readiness: u16,
    /// On the loopback.
    pub admin: u16,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Not ready any more, and still taking connections: others need this long to hear of it.
    pub notice: Duration,
    /// From the signal to the end of everything.
    pub deadline: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub levels: Option<String>,
    pub format: Format,
}

/// What the proxy is told from outside.
pub struct Told<'a> {
    pub environment: &'a BTreeMap<String, String>,
    /// Whether a file can be read.
    pub is_file: &'a dyn Fn(&Path) -> bool,
    pub cores: usize,
}

const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";

impl Config {
    /// # Errors
    /// All settings that cannot be used, with their values and what is expected.
    pub fn parse(told: &Told<'_>) -> Result<Config, WrongSettings> {
        let mut knobs = Knobs::new(told.environment);
        let config = Config::read(&mut knobs, told);
        knobs.finish().map(|_| config)
    }

    /// The settings there are, for `--help` and the documentation.
    pub fn knobs() -> Vec<Knob> {
        let needed = [("POD_NAMESPACE", "n"), ("SERVICE_ACCOUNT", "s"), ("GATEWAY_NAME", "g")];
        let needed = needed.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut knobs = Knobs::new(&needed);
        Config::read(&mut knobs, &Told { environment: &needed, is_file: &|_| false, cores: 1 });
        knobs.finish().expect("nothing is wrong in it")
    }

    fn read(knobs: &mut Knobs<'_>, told: &Told<'_>) -> Config {
        let place = place(knobs);
        let (xds, file) = control_plane(knobs, told);
        let (ca, token, certificate_life, crl) = certificates(knobs, told);
        let key_exchange = compliance(knobs);
        let traffic = traffic(knobs);
        let ports = ports(knobs);
        let workers = workers(knobs, told.cores);
        let end = end(knobs);
        let (log, metrics) = log(knobs);
        // What proves us to others is nobody's tag.
        let environment = told.environment.iter().filter(|(key, _)| *key != "AUTH_TOKEN").map(|(key, value)| (key.clone(), value.clone())).collect();
        Config { place, xds, ca, token, certificate_life, crl, key_exchange, file, traffic, ports, workers, end, log, metrics, environment }
    }
}

fn place(knobs: &mut Knobs<'_>) -> Place {
    knobs.section("Place");
    let pod_name: String = knobs.value("POD_NAME", "", "The pod's name.");
    let namespace: String = knobs.value("POD_NAMESPACE", "", "The pod's namespace: the Gateway's, and part of the identity.");
    let service_account: String = knobs.value("SERVICE_ACCOUNT", "", "The pod's service account: part of the identity.");
    let trust_domain: String = knobs.value("TRUST_DOMAIN", "cluster.local", "The trust domain of the identity.");
    let gateway: String = knobs.value("GATEWAY_NAME", "", "The Gateway whose waypoint this is.");
    let instance_ip: Option<IpAddr> = knobs.optional("INSTANCE_IP", "–", "The pod's address.");
    let node: String = knobs.value("NODE_NAME", "", "The node that the pod runs on.");
    let network: String = knobs.value("NETWORK", "", "The network that the pod's address belongs to.");
    let cluster: Option<String> = knobs.optional("CLUSTER_ID", "`ISTIO_META_CLUSTER_ID`, else Kubernetes", "The cluster's name.");
    let cluster_domain: String = knobs.value("CLUSTER_DOMAIN", "cluster.local", "The cluster's DNS domain.");
    let metadata = knobs.prefixed("ISTIO_META_", "A piece of metadata that the control plane is told.");
    for (env, value) in [("POD_NAMESPACE", &namespace), ("SERVICE_ACCOUNT", &service_account), ("GATEWAY_NAME", &gateway)] {
        if value.is_empty() {
            knobs.refuse(env, "a name: without it nobody could know this waypoint");
        }
    }
    let cluster_id = cluster.or_else(|| metadata.get("CLUSTER_ID").cloned()).unwrap_or_else(|| "Kubernetes".to_owned());
    Place {
        pod_name,
        namespace: namespace.into(),
        service_account: service_account.into(),
        trust_domain: trust_domain.into(),
        gateway: gateway.into(),
        instance_ip,
        node,
        network: network.into(),
        cluster_id: cluster_id.into(),
        cluster_domain: cluster_domain.into(),
        metadata,
    }
}

fn control_plane(knobs: &mut Knobs<'_>, told: &Told<'_>) -> (Option<Remote>, Option<PathBuf>) {
    knobs.section("Control plane");
    let address: Option<String> = knobs.optional(
        "XDS_ADDRESS",
        "`https://istiod.istio-system.svc:15012` in a cluster, else `https://localhost:15012`",
        "Where addresses, routes and policies come from (`https://host:port`); empty: from nowhere.",
    );
    let alternative_name = knobs.optional("ALT_XDS_HOSTNAME", "the host of the address", "The name in the control plane's certificate.");
    let roots = roots(knobs, "XDS_ROOT_CA", "Whom the control plane is verified by: a file, `SYSTEM`, or PEM text.");
    let headers = knobs.prefixed("XDS_HEADER_", "A header of every request to the control plane.").into_iter().collect();
    let file: Option<PathBuf> = knobs.optional(
        "WAYPOINT_CONFIG_FILE",
        "–",
        "A YAML file of the resources that a waypoint is configured by, beside the addresses of the control plane and instead of its routes and policies.",
    );
    let address = address.unwrap_or_else(|| default_address(told));
    let address = (!address.is_empty()).then(|| server(knobs, "XDS_ADDRESS", &address)).flatten();
    (address.map(|address| Remote { address, roots, alternative_name, headers }), file)
}

fn certificates(knobs: &mut Knobs<'_>, told: &Told<'_>) -> (Remote, TokenSource, Duration, Option<PathBuf>) {
    knobs.section("Certificates");
    let default = "`https://istiod.istio-system.svc:15012` in a cluster, else `https://localhost:15012`";
    let address: Option<String> = knobs.optional("CA_ADDRESS", default, "Where certificates come from.");
    let alternative_name = knobs.optional("ALT_CA_HOSTNAME", "the host of the address", "The name in the CA's certificate.");
    let roots = roots(knobs, "CA_ROOT_CA", "Whom the CA is verified by: a file, `SYSTEM`, or PEM text.");
    let headers = knobs.prefixed("CA_HEADER_", "A header of every request to the CA.").into_iter().collect();
    let token: Option<String> = knobs.optional(
        "AUTH_TOKEN",
        "`./var/run/secrets/tokens/istio-token` if it is there",
        "What proves us to the control plane and the CA: the path of a file that is there, else the token itself.",
    );
    let life: Duration = knobs.value("SECRET_TTL", "24h", "The life that is asked for, for each certificate.");
    let crl = knobs.optional("CRL_PATH", "–", "A file of revocation lists, PEM or DER.");
    if life.is_zero() {
        knobs.refuse("SECRET_TTL", "a life longer than nothing");
    }
    let address = address.filter(|address| !address.is_empty()).unwrap_or_else(|| default_address(told));
    let address = server(knobs, "CA_ADDRESS", &address).unwrap_or(Address { host: String::new(), port: 0 });
    let token = match token {
        Some(token) if (told.is_file)(Path::new(&token)) => TokenSource::File(token.into()),
        Some(token) if token.trim().is_empty() => TokenSource::None,
        Some(token) => TokenSource::Static(token.trim().to_owned()),
        None if (told.is_file)(Path::new(TOKEN_FILE)) => TokenSource::File(TOKEN_FILE.into()),
        None => TokenSource::None,
    };
    (Remote { address, roots, alternative_name, headers }, token, life, crl)
}

fn roots(knobs: &mut Knobs<'_>, env: &'static str, says: &'static str) -> RootSource {
    let text: String = knobs.value(env, ROOT_FILE, says);
    match text.parse() {
        Ok(roots) => roots,
        Err(never) => match never {},
    }
}

fn server(knobs: &mut Knobs<'_>, env: &str, address: &str) -> Option<Address> {
    match address.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            knobs.refuse(env, format!("https://host:port, not {address:?}"));
            None
        }
    }
}

/// In a cluster every pod is told where the API server is.
fn default_address(told: &Told<'_>) -> String {
    let in_cluster = told.environment.contains_key("KUBERNETES_SERVICE_HOST");
    if in_cluster { "https://istiod.istio-system.svc:15012" } else { "https://localhost:15012" }.to_owned()
}

fn compliance(knobs: &mut Knobs<'_>) -> KeyExchange {
    let policy: Option<String> = knobs.optional(
        "COMPLIANCE_POLICY",
        "none",
        "`pqc`: in the mesh only key exchanges that a quantum computer does not break (X25519MLKEM768). Other policies are not supported.",
    );
    match policy.as_deref() {
        None | Some("") => KeyExchange::Standard,
        Some("pqc") => KeyExchange::PostQuantumOnly,
        Some(_) => {
            knobs.refuse("COMPLIANCE_POLICY", "pqc, or nothing: other policies are not supported");
            KeyExchange::PostQuantumOnly
        }
    }
}

fn traffic(knobs: &mut Knobs<'_>) -> Traffic {
    knobs.section("Traffic");
    Traffic {
        connections: knobs.within(
            "CONNECTIONS_MAX",
            "16384",
            1..=1_000_000,
            "Tunnel connections that may be open; more are closed at once.",
        ),
        streams: knobs.within("STREAMS_MAX", "65536", 1..=10_000_000, "Tunnels that may be open on all of them; more are refused with 503."),
        detection: knobs.value(
            "PROTOCOL_DETECTION_TIMEOUT",
            "5s",
            "How long a client at a port without a declared protocol may keep silent before its bytes are passed on as they are.",
        ),
    }
}

fn ports(knobs: &mut Knobs<'_>) -> Ports {
    knobs.section("Ports");
    let mut port = |env, default, says| knobs.within::<u16>(env, default, 1..=u16::MAX, says);
    Ports {
        hbone: port("HBONE_PORT", "15008", "Where tunnels come in."),
        metrics: port("STATS_PORT", "15020", "Metrics, at `/metrics` and `/stats/prometheus`."),
        proxy_metrics: port("PROXY_STATS_PORT", "15090", "The same."),
        readiness: port("READINESS_PORT", "15021", "Readiness, at `/healthz/ready`."),
        admin: port("ADMIN_PORT", "15000", "Pages for operators, on the loopback."),
    }
}

fn workers(knobs: &mut Knobs<'_>, cores: usize) -> usize {
    knobs.section("Threads");
    let said: Option<usize> = knobs.optional("WAYPOINT_WORKER_THREADS", "the CPU limit, else one per core", "Threads that carry traffic.");
    let limit: Option<usize> = knobs.optional("ISTIO_CPU_LIMIT", "–", "The CPU limit of the proxy in cores, as Kubernetes tells it.");
    if said.is_some_and(|threads| !(1..=1024).contains(&threads)) {
        knobs.refuse("WAYPOINT_WORKER_THREADS", "a number from 1 to 1024");
    }
    said.or(limit.filter(|limit| *limit > 0)).unwrap_or(cores).max(1)
}

/// Some of the grace is left for our own end.
const LAST: Duration = Duration::from_secs(5);

fn end(knobs: &mut Knobs<'_>) -> End {
    knobs.section("End");
    let notice = knobs.value(
        "DRAIN_NOTICE",
        "5s",
        "After SIGTERM: how long new connections are still taken, while everybody hears that this pod is not ready any more.",
    );
    let grace: u64 = knobs.value(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        "30",
        "When the orchestrator will kill us; what is open has until 5 s before.",
    );
    let grace = Duration::from_secs(grace);
    End { notice, deadline: grace.saturating_sub(LAST).max(Duration::from_secs(1)) }
}

fn log(knobs: &mut Knobs<'_>) -> (Log, mesh_telemetry::recorder::Limits) {
    knobs.section("Log and metrics");
    let levels: Option<String> = knobs.optional(
        "RUST_LOG",
        "info",
        "Levels, like `debug` or `waypoint=debug,info`; changed while running by POST /logging.",
    );
    if let Some(Err(bad)) = levels.as_deref().map(|levels| mesh_telemetry::levels::Directives::standard().with(levels)) {
        knobs.refuse("RUST_LOG", format!("levels ({bad})"));
    }
    let format = knobs.choice(
        "LOG_FORMAT",
        &[("text", Format::Text), ("plain", Format::Text), ("json", Format::Json)],
        "How log lines look.",
    );
    let limits = mesh_telemetry::recorder::Limits {
        series: knobs.within("METRICS_SERIES_MAX", "20000", 100..=10_000_000, "Series of metrics; what does not fit is counted together."),
        idle: knobs.value("METRICS_SERIES_IDLE", "10m", "How long a series stays that nobody uses and that does not move."),
    };
    (Log { levels, format }, limits)
}

#[cfg(test)]
mod tests;
