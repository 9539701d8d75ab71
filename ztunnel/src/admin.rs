//! What operators and their tools ask the daemon: readiness, metrics, the dump, why, and the log level
//! (spec/dataplane.md 8). What changes something answers only where the applications of pods cannot reach it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use http::StatusCode;
use mesh_net::net::Net;
use mesh_runtime::admin::{self as routes, Answer, Ask, Limits, Routes, readiness, serve_tcp, serve_unix};
use mesh_runtime::{Drain, Ready};
use mesh_telemetry::labels::fixed;
use mesh_telemetry::{Recorder, families};
use mesh_telemetry::log::{Log, USAGE};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::dump::{self, CertDump, CertificateDump, ConnectionDump, ConnectionsDump, OlderDump, Parts, PodDump, PodInfoDump};
use crate::live::{Connection, Direction};
use crate::localfile::LocalFile;
use crate::node::{VERSION, bind_error};
use crate::enroll::PodInfo;
use crate::pod::{Mesh, Pod};
use crate::pods::Pods;
use crate::why::{Question, why};

/// Everything that is shown.
pub struct Admin {
    pub mesh: Arc<Mesh>,
    pub pods: Arc<Pods>,
    pub log: Log,
    pub recorder: Recorder,
    pub workers: Handle,
    pub ready: Ready,
    /// Ends the daemon in order.
    pub quit: CancellationToken,
    /// The daemon has ended its connections.
    pub drained: CancellationToken,
    pub config: serde_json::Value,
    pub cluster_domain: String,
    pub fixed: LocalFile,
    pub shared: bool,
}

/// Starts the three ports. Shut down what is returned last of all: it ends when the answers that are being written are.
///
/// # Errors
/// A port is taken.
pub async fn serve(admin: Admin, config: &Config) -> anyhow::Result<Drain> {
    let admin = Arc::new(admin);
    let everywhere = |port| SocketAddr::new(crate::pod::any(config.sockets.ipv6), port);
    let stats = listen("metrics", everywhere(config.ports.metrics)).await?;
    let health = listen("readiness", everywhere(config.ports.readiness)).await?;
    let operator = listen("the admin endpoints", SocketAddr::new(Ipv4Addr::LOCALHOST.into(), config.ports.admin)).await?;
    // In dedicated mode the application shares this loopback, so there it may only look.
    let looking = routes_to_look(&admin);
    let routes = if admin.shared { routes_to_change(&admin, looking) } else { looking };
    // These outlive the drain of connections: somebody may be waiting for its end.
    let open = Drain::new();
    tokio::spawn(serve_tcp(operator, Arc::new(routes), Limits::DEFAULT, open.clone()));
    tokio::spawn(serve_tcp(stats, Arc::new(stats_routes(&admin)), Limits::DEFAULT, open.clone()));
    tokio::spawn(serve_tcp(health, Arc::new(readiness(admin.ready.clone())), Limits::DEFAULT, open.clone()));
    if let Some(path) = &config.ports.admin_socket {
        let _ = std::fs::remove_file(path);
        let socket = UnixListener::bind(path).with_context(|| format!("ADMIN_SOCKET={}", path.display()))?;
        only_for_the_owner(path)?;
        let routes = routes_to_change(&admin, routes_to_look(&admin));
        tokio::spawn(serve_unix(socket, Arc::new(routes), Limits::DEFAULT, open.clone()));
    }
    Ok(open)
}

fn only_for_the_owner(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

async fn listen(what: &str, at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.map_err(|error| bind_error(what, at, error))
}

fn stats_routes(admin: &Arc<Admin>) -> Routes {
    let admin = admin.clone();
    routes::metrics(move |accept, encoding| metrics(&admin, accept, encoding))
}

fn metrics(admin: &Admin, accept: Option<&str>, encoding: Option<&str>) -> Answer {
    mesh_telemetry::process::record(&admin.recorder, &admin.workers);
    admin.recorder.counter(&mesh_telemetry::families::LINES_DROPPED, &[]).absolute(admin.log.lines().dropped());
    // The book of live chains does not tell dialled ones from accepted ones; they are all counted where checks matter most.
    let untracked = [fixed("reporter", "destination")];
    admin.recorder.counter(&families::CRL_UNTRACKED, &untracked).absolute(admin.mesh.tls.revocations().unchecked());
    let now = Instant::now();
    admin.mesh.accounts.traffic().sweep(now);
    let said = admin.recorder.expose(accept, encoding, now);
    Answer::new(StatusCode::OK, said.content_type, said.body).encoded(said.content_encoding)
}

fn routes_to_look(admin: &Arc<Admin>) -> Routes {
    let (dumped, asked, listed, told) = (admin.clone(), admin.clone(), admin.clone(), admin.clone());
    Routes::new()
        .get("/", |_| async { Answer::html(INDEX) })
        .get("/config_dump", move |_| {
            let admin = dumped.clone();
            async move { pretty(&config_dump(&admin)) }
        })
        .get("/why", move |ask| {
            let admin = asked.clone();
            async move { explain(&admin, &ask) }
        })
        .get("/connections", move |_| {
            let admin = listed.clone();
            async move { pretty(&connections(&admin)) }
        })
        .get("/troubles", move |_| {
            let admin = told.clone();
            async move { pretty(&json!(admin.mesh.accounts.troubles())) }
        })
}

fn routes_to_change(admin: &Arc<Admin>, routes: Routes) -> Routes {
    let (logging, quitting) = (admin.clone(), admin.clone());
    routes
        .logging(USAGE, move |reset, level| logging.log.answer(reset, level))
        .post("/quitquitquit", "usage: POST /quitquitquit\n", move |_| {
            let admin = quitting.clone();
            async move {
                admin.quit.cancel();
                admin.drained.cancelled().await;
                Answer::ok("shutdown now\n")
            }
        })
}

const INDEX: &str = "<!doctype html><title>ztunnel</title><h1>ztunnel</h1><ul>\
<li><a href=\"/config_dump\">/config_dump</a> what this node knows\
<li><a href=\"/connections\">/connections</a> what is open now\
<li><a href=\"/troubles\">/troubles</a> what was refused or broke lately\
<li>/why?from=WORKLOAD&amp;to=HOST:PORT where a connection would go, and whether it may\
<li>POST /logging?level=LEVEL, POST /logging?reset\
<li>POST /quitquitquit</ul>\n";

fn pretty(value: &Value) -> Answer {
    Answer::written(serde_json::to_vec_pretty(value))
}

fn config_dump(admin: &Admin) -> Value {
    let world = admin.mesh.world.load();
    let parts = Parts {
        version: json!({
            "version": VERSION, "gitRevision": option_env!("ISTHMUS_REVISION").unwrap_or("unknown"),
            "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
            "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "buildStatus": "Clean", "istioVersion": VERSION, "cryptoProvider": "tls-aws-lc",
        }),
        config: admin.config.clone(),
        certificates: admin.mesh.credentials.dump().into_iter().map(certificate).collect(),
        workload_state: admin.shared.then(|| admin.pods.dump()),
    };
    dump::config_dump(&world.directory, &world.policies, &admin.fixed, &parts)
}

fn certificate(held: mesh_identity::store::CertificateDump) -> CertificateDump {
    let one = |certificate: mesh_identity::store::OneCertificate| CertDump {
        pem: certificate.pem,
        serial_number: certificate.serial_number,
        valid_from: certificate.valid_from,
        expiration_time: certificate.expiration_time,
    };
    CertificateDump {
        identity: held.identity,
        state: held.state,
        cert_chain: held.cert_chain.into_iter().map(one).collect(),
        root_certs: held.root_certs.into_iter().map(one).collect(),
    }
}

fn connections(admin: &Admin) -> Value {
    let pods = admin.pods.dump();
    json!(pods)
}

impl Pods {
    /// The pods that are served, with their connections, by uid (spec/dataplane.md 8.3).
    pub fn dump(&self) -> std::collections::BTreeMap<String, PodDump> {
        let dedicated = self.dedicated().map(|pod| served(pod, None)).into_iter();
        let up = self.list().into_iter().map(|(pod, older)| served(&pod, Some(older)));
        let pending = self.waiting().into_iter().map(|(uid, info)| {
            (uid.0.to_string(), PodDump { state: "Pending", info: described(&info), connections: None, older: None })
        });
        pending.chain(up).chain(dedicated).collect()
    }
}

fn served<N: Net>(pod: &Pod<N>, older: Option<OlderDump>) -> (String, PodDump) {
    let open = pod.live.list();
    let of = |direction| open.iter().filter(|one| one.direction == direction).map(connection).collect();
    let connections = ConnectionsDump { inbound: of(Direction::Inbound), outbound: of(Direction::Outbound) };
    (pod.uid.0.to_string(), PodDump { state: "Up", info: described(&pod.info), connections: Some(connections), older })
}

fn described(info: &PodInfo) -> PodInfoDump {
    PodInfoDump {
        name: info.name.to_string(),
        namespace: info.namespace.to_string(),
        service_account: info.service_account.to_string(),
    }
}

fn connection(open: &Connection) -> ConnectionDump {
    ConnectionDump {
        src: open.source.to_string(),
        original_dst: open.original.as_deref().map(str::to_owned),
        actual_dst: open.actual.to_string(),
        protocol: open.protocol.as_str(),
    }
}

fn explain(admin: &Admin, ask: &Ask) -> Answer {
    let (Some(from), Some(to)) = (ask.query.first("from"), ask.query.first("to")) else {
        return Answer::text(StatusCode::BAD_REQUEST, "usage: GET /why?from=WORKLOAD&to=HOST:PORT\n");
    };
    let settings = &admin.mesh.settings;
    let question = Question {
        from,
        to,
        network: &settings.network,
        own_ports: &settings.own_ports,
        cluster_domain: &admin.cluster_domain,
        complete: !settings.on_demand,
    };
    let world = admin.mesh.world.load();
    match why(&world.directory, &world.policies, &question, rand::random()) {
        Ok(explanation) => pretty(&json!(explanation)),
        Err(unclear) => Answer::text(StatusCode::BAD_REQUEST, format!("{unclear}\n")),
    }
}
