//! What operators and their tools ask: readiness, metrics, what is known and what is open, the log level. What changes
//! something answers on the loopback alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use http::StatusCode;
use mesh_runtime::admin::{self as routes, Answer, Limits, Routes, readiness, serve_tcp};
use mesh_runtime::{Drain, Ready};
use mesh_telemetry::log::{Log, USAGE};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::proxy::{Proxy, VERSION};
use crate::settings;

pub mod why;

/// Everything that is shown.
pub struct Admin {
    pub proxy: Arc<Proxy>,
    pub log: Log,
    pub workers: Handle,
    pub ready: Ready,
    /// Ends the proxy in order.
    pub quit: CancellationToken,
}

/// Starts the ports. Shut down what is returned last of all: it ends when the answers that are being written are.
///
/// # Errors
/// A port is taken.
pub async fn serve(admin: Admin, config: &Config) -> anyhow::Result<Drain> {
    let admin = Arc::new(admin);
    // These outlive the drain of connections: somebody may be waiting for its end.
    let open = Drain::new();
    let ports = &config.ports;
    let everywhere = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let pages = [
        ("metrics", everywhere, ports.metrics, stats(&admin)),
        ("metrics", everywhere, ports.proxy_metrics, stats(&admin)),
        ("readiness", everywhere, ports.readiness, readiness(admin.ready.clone())),
        ("the admin pages", IpAddr::from(Ipv4Addr::LOCALHOST), ports.admin, operators(&admin)),
    ];
    for (what, ip, port, routes) in pages {
        let at = SocketAddr::new(ip, port);
        let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at} for {what}"))?;
        tokio::spawn(serve_tcp(listener, Arc::new(routes), Limits::DEFAULT, open.clone()));
    }
    Ok(open)
}

fn stats(admin: &Arc<Admin>) -> Routes {
    let admin = admin.clone();
    routes::metrics(move |accept, encoding| metrics(&admin, accept, encoding))
}

fn metrics(admin: &Admin, accept: Option<&str>, encoding: Option<&str>) -> Answer {
    let recorder = &admin.proxy.recorder;
    mesh_telemetry::process::record(recorder, &admin.workers);
    recorder.counter(&mesh_telemetry::families::LINES_DROPPED, &[]).absolute(admin.log.lines().dropped());
    let said = admin.proxy.books.expose(accept, encoding);
    Answer::new(StatusCode::OK, said.content_type, said.body).encoded(said.content_encoding)
}

fn operators(admin: &Arc<Admin>) -> Routes {
    let (dumped, asked, debugged) = (admin.clone(), admin.clone(), admin.clone());
    let (logging, quitting) = (admin.clone(), admin.clone());
    Routes::new()
        .get("/", |_| async { Answer::html(INDEX) })
        .get("/config_dump", move |ask| {
            let admin = dumped.clone();
            async move { pretty(&config_dump(&admin, ask.query.first("service"))) }
        })
        .get("/why", move |ask| {
            let admin = asked.clone();
            async move {
                match why::answer(&admin.proxy.settings.load(), &ask.query) {
                    Ok(answer) => pretty(&answer),
                    Err(wrong) => Answer::text(StatusCode::BAD_REQUEST, wrong),
                }
            }
        })
        .get("/debug", move |_| {
            let admin = debugged.clone();
            async move { pretty(&debug(&admin)) }
        })
        .logging(USAGE, move |reset, level| logging.log.answer(reset, level))
        .post("/quitquitquit", "usage: POST /quitquitquit\n", move |_| {
            let admin = quitting.clone();
            async move {
                admin.quit.cancel();
                admin.proxy.drain.forced_token().cancelled().await;
                Answer::ok("shutdown now\n")
            }
        })
}

const INDEX: &str = "<!doctype html><title>waypoint</title><h1>waypoint</h1><ul>\
<li><a href=\"/config_dump\">/config_dump</a> what this waypoint knows; ?service=TEXT: of what is served only that\
<li><a href=\"/why\">/why</a> which rule a request falls under, and why not another\
<li><a href=\"/debug\">/debug</a> what is open now\
<li>POST /logging?level=LEVEL, POST /logging?reset\
<li>POST /quitquitquit</ul>\n";

fn pretty(value: &Value) -> Answer {
    Answer::written(serde_json::to_vec_pretty(value))
}

/// `only`: of what is served the services with this in their `namespace/hostname`.
fn config_dump(admin: &Admin, only: Option<&str>) -> Value {
    let proxy = &admin.proxy;
    let world = proxy.world.load();
    let identities: Vec<Value> = proxy.credentials.dump().into_iter().map(|held| json!({ "identity": held.identity, "state": held.state })).collect();
    json!({
        "version": VERSION,
        "identity": proxy.own.identity,
        "gateway": proxy.gateway.to_string(),
        "addresses": proxy.own.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
        "workloads": world.directory.workload_count(),
        "services": world.directory.service_count(),
        "certificates": identities,
        "settings": settings::dump::dump(&proxy.settings.load(), only),
    })
}

fn debug(admin: &Admin) -> Value {
    let proxy = &admin.proxy;
    json!({
        "tasks": proxy.drain.in_progress(),
        "handshakes": proxy.handshakes.len(),
        "connectionsFree": proxy.connections.available_permits(),
        "streamsFree": proxy.streams.available_permits(),
        "tunnelsOut": proxy.connector.rows(),
        "ready": admin.ready.is_ready(),
        "pending": admin.ready.pending(),
    })
}
