//! Spans and log records as a collector of the official protocol package reads them (opentelemetry-proto from PyPI). Where
//! Python or the package cannot be had the test says so and counts as not run.
//!
//! `COLLECTOR_PYTHON` names an interpreter that has the packages; else one is made under `target/`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_telemetry::Recorder;
use mesh_telemetry::families::waypoint as families;
use mesh_xds::messages::waypoint::{
    AccessLogSetting, BackendRef, Host, ProviderKind, Telemetry, TelemetryProvider, TracingSetting,
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use waypoint::account::{self, Books, LIMITS, Own, compile, compile_provider, plan};
use waypoint::call::{CallError, Caller, Limits, Reply, To, Version};
use waypoint::error::Reason;
use waypoint::facts::{Arrival, Target};

const PACKAGES: [&str; 2] = ["opentelemetry-proto", "grpcio"];

fn main() -> ExitCode {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("NOT RUN: spans are not read by the official package here: {why}");
            println!("0 passed, 0 failed, 1 skipped");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(a_collector_reads_what_is_sent(&python.0, &python.1));
    println!("1 passed, 0 failed");
    ExitCode::SUCCESS
}

/// An interpreter, and where it finds the packages: in a folder, which needs pip alone and not Debian's python3-venv.
fn python() -> Result<(PathBuf, PathBuf), String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("collector-packages");
    if let Some(named) = std::env::var_os("COLLECTOR_PYTHON") {
        return Ok((named.into(), folder));
    }
    let python = PathBuf::from("python3");
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        let said = || String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{:?}: {}", command.get_program(), said())) }
    };
    let has = || {
        let modules = "import grpc, opentelemetry.proto.collector.trace.v1.trace_service_pb2";
        run(Command::new(&python).env("PYTHONPATH", &folder).args(["-c", modules]))
    };
    if has().is_err() {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--target"];
        run(Command::new(&python).args(pip).arg(&folder).args(PACKAGES))?;
    }
    has().map(|()| (python, folder))
}

async fn a_collector_reads_what_is_sent(python: &Path, packages: &Path) {
    let mut collector = Collector::start(python, packages);
    let (books, taken) = Books::new(own(), Recorder::with_families(LIMITS, families::ALL));
    for (name, kind, port) in [
        ("grpc", ProviderKind::OtlpGrpc, collector.grpc),
        ("http", ProviderKind::OtlpHttp, collector.http),
        ("zipkin", ProviderKind::Zipkin, collector.http),
    ] {
        ask(&books, name, traced(kind, port, collector.grpc));
    }
    let end = CancellationToken::new();
    end.cancel();
    account::export::run(taken, Arc::new(Direct), books.recorder().clone(), end).await;
    // Three spans, and a line for each request.
    let got: Vec<Value> = (0..6).map(|_| collector.line()).collect();
    let of = |via: &str| got.iter().filter(|one| one["via"] == via).collect::<Vec<_>>();
    for via in ["grpc", "http"] {
        let [span] = of(via)[..] else { panic!("{via}: {got:?}") };
        assert_eq!(span["name"], "cart.shop.svc.cluster.local:80/*");
        assert_eq!(span["service"], "waypoint.shop");
        assert_eq!(span["kind"], 2, "SPAN_KIND_SERVER");
        assert_eq!(span["error"], true);
        assert_eq!((span["trace"].as_str(), span["parent"].as_str()), (Some(TRACE), Some(PARENT)));
        assert_eq!(span["span"].as_str().map(str::len), Some(16));
        assert!(span["lasted"].as_u64().is_some());
        let tags: BTreeMap<String, String> = serde_json::from_value(span["tags"].clone()).expect("texts");
        for (tag, want) in [
            ("http.method", "GET"),
            ("http.url", &format!("http://cart/{via}") as &str),
            ("http.status_code", "503"),
            ("response_flags", "UH"),
            ("istio.mesh_id", "m1"),
            ("team", "blue"),
        ] {
            assert_eq!(tags.get(tag).map(String::as_str), Some(want), "{via} {tag}");
        }
    }
    let [zipkin] = of("zipkin")[..] else { panic!("{got:?}") };
    assert_eq!((zipkin["service"].as_str(), zipkin["trace"].as_str()), (Some("waypoint.shop"), Some(TRACE)));
    assert_eq!(of("logs").len(), 3);
    assert!(
        of("logs").iter().all(|record| record["body"].as_str().is_some_and(|body| body.contains(" 503 UH no_healthy_upstream ")))
    );
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn ask(books: &Arc<Books>, name: &str, plan: Arc<account::Plan>) {
    let arrival = Arc::new(Arrival {
        identity: SpiffeId::new("cluster.local", "shop", "web"),
        peer: "10.0.0.1:40000".parse().expect("an address"),
        source: "10.0.0.1:40000".parse().expect("an address"),
        source_workload: None,
        dialled: None,
        hops: 0,
        target: Target::Service {
            key: NamespacedHostname { namespace: "shop".into(), hostname: "cart.shop.svc.cluster.local".into() },
            port: 80,
        },
    });
    let request =
        Request::get(format!("/{name}")).header("host", "cart").header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    let request = request.body(()).expect("a request");
    let mut account = books.request(&plan, &arrival, request.version());
    account.arrived(&request);
    let (mut parts, ()) = request.into_parts();
    account.head(&parts);
    account.trace(&mut parts.headers);
    account.because(&Reason::NoHealthyUpstream);
    account.responded(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
    account.close();
}

fn own() -> Own {
    Own {
        identity: SpiffeId::new("cluster.local", "shop", "waypoint"),
        workload: "waypoint".into(),
        namespace: "shop".into(),
        cluster: "c1".into(),
        canonical_name: "waypoint".into(),
        canonical_revision: "latest".into(),
        mesh_id: "m1".into(),
        node_id: "waypoint".into(),
        hostname: "waypoint-1".into(),
        version: "1.0".into(),
        environment: BTreeMap::from([("TEAM".to_owned(), "blue".to_owned())]),
    }
}

/// Everything to this collector, and the lines over gRPC.
fn traced(kind: ProviderKind, port: u16, logs: u16) -> Arc<account::Plan> {
    let provider = |kind: ProviderKind, port: u16| {
        let host = Host { namespace: "o".into(), hostname: "127.0.0.1".into() };
        let backend = Some(BackendRef { host: Some(host), port: port.into(), subset: String::new() });
        Arc::new(compile_provider(&TelemetryProvider { kind: kind as i32, backend, ..Default::default() }).expect("a provider"))
    };
    let (spans, lines) = (provider(kind, port), provider(ProviderKind::OtlpLog, logs));
    let tag = mesh_xds::messages::waypoint::CustomTag { name: "team".into(), environment: "TEAM".into(), ..Default::default() };
    let telemetry = Telemetry {
        tracing: Some(TracingSetting { providers: vec!["spans".into()], custom_tags: vec![tag], ..Default::default() }),
        access_log: Some(AccessLogSetting { providers: vec!["lines".into()], ..Default::default() }),
        ..Default::default()
    };
    let settings = Arc::new(compile(&telemetry).expect("settings"));
    plan(&[settings], &|name| match name {
        "spans" => Some(spans.clone()),
        "lines" => Some(lines.clone()),
        _ => None,
    })
}

struct Collector {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    grpc: u16,
    http: u16,
}

impl Collector {
    fn start(python: &Path, packages: &Path) -> Collector {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/collector.py");
        let mut command = Command::new(python);
        let mut child = command.env("PYTHONPATH", packages).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut ports = String::new();
        said.read_line(&mut ports).expect("its ports");
        let mut ports = ports.split_whitespace().map(|port| port.parse().expect("a port"));
        let mut port = || ports.next().expect("two ports");
        Collector { child, grpc: port(), http: port(), said }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Its input's end is its end; this is for one that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls straight over TCP.
struct Direct;

impl Caller for Direct {
    fn call<'a>(
        &'a self,
        _: To<'a>,
        version: Version,
        request: Request<Bytes>,
        _: Limits,
    ) -> BoxFuture<'a, Result<Reply, CallError>> {
        let broken = |error: hyper::Error| CallError::Broken(error.to_string());
        Box::pin(async move {
            let authority = request.uri().authority().expect("absolute").to_string();
            let io = TcpStream::connect(&authority).await.map_err(|error| CallError::Connect(error.to_string()))?;
            let (io, request) = (TokioIo::new(io), request.map(Full::new));
            let response = match version {
                Version::Http2 => {
                    let (mut sender, connection) =
                        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
                    tokio::spawn(connection);
                    sender.send_request(request).await
                }
                Version::Http1 => {
                    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
                    tokio::spawn(connection);
                    let (mut parts, body) = request.into_parts();
                    parts.headers.insert("host", authority.parse().expect("a host"));
                    parts.uri = parts.uri.path().parse().expect("a path");
                    sender.send_request(Request::from_parts(parts, body)).await
                }
            };
            let (parts, body) = response.map_err(broken)?.into_parts();
            let whole = body.collect().await.map_err(broken)?;
            let trailers = whole.trailers().cloned();
            Ok(Reply { status: parts.status, headers: parts.headers, body: whole.to_bytes(), trailers })
        })
    }
}
