use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderValue, Request};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_telemetry::Recorder;
use mesh_telemetry::families::waypoint as families;
use mesh_xds::messages::waypoint::{
    AccessLogSetting, HeaderValue as Label, MetricOverride, MetricsSetting, ProviderKind, TagOverride, Telemetry,
    TelemetryProvider,
};

use super::export::Taken;
use super::*;
use crate::exchange::Fault;
use crate::facts::Target;
use crate::upstream::ConnectError;

/// A mesh of two workloads, and the books of their waypoint.
pub struct Bench {
    pub books: Arc<Books>,
    pub taken: Taken,
    pub arrival: Arc<Arrival>,
    pub service: BackendKey,
    pub endpoint: Arc<Workload>,
}

impl Bench {
    pub fn new() -> Bench {
        let own = Own {
            identity: SpiffeId::new("cluster.local", "shop", "waypoint"),
            workload: "waypoint".into(),
            namespace: "shop".into(),
            cluster: "c1".into(),
            canonical_name: "waypoint".into(),
            canonical_revision: "latest".into(),
            mesh_id: "m1".into(),
            node_id: "waypoint~10.0.0.9~waypoint-1.shop~shop.svc.cluster.local".into(),
            hostname: "waypoint-1".into(),
            version: "1.0".into(),
            environment: BTreeMap::from([("REGION".to_owned(), "north".to_owned())]),
        };
        let (books, taken) = Books::new(own, Recorder::with_families(LIMITS, families::ALL));
        let workload = |name: &str, app: &str| {
            let mut workload = Workload::named(&format!("c1//Pod/shop/{name}"), "shop", name);
            workload.workload_name = app.into();
            workload.canonical_name = app.into();
            workload.canonical_revision = "v1".into();
            workload.service_account = app.into();
            workload.cluster_id = "c1".into();
            Arc::new(workload)
        };
        let arrival = Arc::new(Arrival {
            identity: SpiffeId::new("cluster.local", "shop", "web"),
            peer: "10.0.0.1:40000".parse().unwrap(),
            source: "10.0.0.1:40000".parse().unwrap(),
            source_workload: Some(workload("web-1", "web")),
            dialled: Some("10.96.0.7:80".parse().unwrap()),
            hops: 0,
            target: Target::Service {
                key: NamespacedHostname { namespace: "shop".into(), hostname: "cart.shop.svc.cluster.local".into() },
                port: 80,
            },
        });
        let host = NamespacedHostname { namespace: "shop".into(), hostname: "cart.shop.svc.cluster.local".into() };
        let service = BackendKey { host, port: 80, subset: "".into() };
        Bench { books, taken, arrival, service, endpoint: workload("cart-1", "cart") }
    }

    /// A request that is answered with this status.
    pub fn ask(&self, plan: &Arc<Plan>, request: Request<()>, status: u16) -> Request<()> {
        let mut account = self.books.request(plan, &self.arrival, request.version());
        account.arrived(&request);
        let (mut parts, ()) = request.into_parts();
        account.head(&parts);
        account.trace(&mut parts.headers);
        account.route(&"shop/cart/0".into());
        account.backend(&self.service);
        account.attempt(Some(&self.endpoint), Some("10.1.0.3:8080".parse().unwrap()));
        account.answered();
        account.responded(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        account.tap(Direction::Request).data(b"four");
        account.tap(Direction::Response).data(b"sixsix");
        account.because(&Reason::Upstream);
        account.close();
        Request::from_parts(parts, ())
    }

    fn scrape(&self) -> String {
        String::from_utf8(self.books.expose(None, None).body).unwrap()
    }
}

fn get() -> Request<()> {
    Request::builder().uri("/a?b=c").header("host", "cart").header("user-agent", "curl/8").body(()).unwrap()
}

/// The samples of one family: labels and value.
fn samples(text: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let of = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        let labels = labels.split("\",").filter_map(|one| {
            let (name, value) = one.split_once("=\"")?;
            Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        Some((labels.collect(), value.parse().unwrap()))
    };
    text.lines().filter_map(of).collect()
}

/// spec/waypoint.md 6.1, and 11 row 20: the labels are these and no others.
const ENDS: [&str; 20] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
];

fn names(more: &[&'static str]) -> BTreeSet<String> {
    ENDS.iter().chain(more).map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_request_is_told_with_the_labels_of_the_field() {
    let bench = Bench::new();
    bench.ask(&Arc::default(), get(), 200);
    bench.ask(&Arc::default(), get(), 200);
    let text = bench.scrape();
    let counts = samples(&text, "istio_requests_total");
    let [(labels, value)] = counts.as_slice() else { panic!("{counts:?}") };
    assert_eq!(*value, 2.0);
    let end = ["request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy"];
    assert_eq!(labels.keys().cloned().collect::<BTreeSet<_>>(), names(&end));
    for (name, want) in [
        ("reporter", "waypoint"),
        ("source_workload", "web"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
        ("destination_workload", "cart"),
        ("destination_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
        ("destination_service", "cart.shop.svc.cluster.local"),
        ("destination_service_name", "cart"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ] {
        assert_eq!(labels[name], want, "{name}");
    }
    // `GET /a?b=c HTTP/1.1`, two headers, an empty line, and the body.
    let sums = samples(&text, "istio_request_bytes_sum");
    assert_eq!(sums[0].1, 2.0 * (21 + 12 + 20 + 2 + 4) as f64);
    assert_eq!(samples(&text, "istio_request_duration_milliseconds_count")[0].1, 2.0);
    let bounds: Vec<String> =
        samples(&text, "istio_response_bytes_bucket").into_iter().map(|(labels, _)| labels["le"].clone()).collect();
    let want = "0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 1800000 3600000 +Inf";
    assert_eq!(bounds.join(" "), want);
}

#[test]
fn who_is_unknown_is_called_so() {
    let mut bench = Bench::new();
    Arc::get_mut(&mut bench.arrival).unwrap().source_workload = None;
    let mut account = bench.books.request(&Arc::default(), &bench.arrival, Version::HTTP_11);
    account.because(&Reason::RouteNotFound);
    account.responded(StatusCode::NOT_FOUND, &HeaderMap::new());
    account.close();
    // Another leaves before it is answered.
    drop(bench.books.request(&Arc::default(), &bench.arrival, Version::HTTP_2));
    let counts = samples(&bench.scrape(), "istio_requests_total");
    let told: BTreeSet<_> =
        counts.iter().map(|(labels, _)| (labels["response_code"].as_str(), labels["response_flags"].as_str())).collect();
    assert_eq!(told, BTreeSet::from([("404", "NR"), ("0", "DC")]));
    for (name, want) in [
        ("source_workload", "unknown"),
        ("source_workload_namespace", "shop"),
        ("source_canonical_revision", "latest"),
        ("source_version", "unknown"),
        ("destination_workload", "unknown"),
        ("destination_service", "unknown"),
        ("destination_principal", "unknown"),
    ] {
        assert_eq!(counts[0].0[name], want, "{name}");
    }
    assert!(bench.scrape().contains("\nwaypoint_requests_open 0\n"));
}

#[test]
fn grpc_messages_and_status_are_told() {
    let bench = Bench::new();
    let request = Request::builder()
        .uri("http://cart/shop.Cart/Add")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc+proto")
        .body(())
        .unwrap();
    let mut account = bench.books.request(&Arc::default(), &bench.arrival, request.version());
    account.arrived(&request);
    account.backend(&bench.service);
    let mut up = account.tap(Direction::Request);
    up.data(&[0, 0, 0, 0, 1, 9]);
    account.attempt(Some(&bench.endpoint), None);
    account.answered();
    account.responded(StatusCode::OK, &HeaderMap::new());
    let mut down = account.tap(Direction::Response);
    down.data(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // While it lives.
    let text = bench.scrape();
    let messages = samples(&text, "istio_request_messages_total");
    assert_eq!(messages[0].1, 1.0);
    assert_eq!(messages[0].0.keys().cloned().collect::<BTreeSet<_>>(), names(&[]));
    assert_eq!(samples(&text, "istio_response_messages_total")[0].1, 2.0);
    down.trailers(&[(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("5"))].into_iter().collect());
    account.close();
    let counts = samples(&bench.scrape(), "istio_requests_total");
    assert_eq!((&*counts[0].0["grpc_response_status"], &*counts[0].0["request_protocol"]), ("5", "grpc"));
}

#[test]
fn what_policy_refuses_and_what_is_configured_is_told() {
    let bench = Bench::new();
    let mut account = bench.books.request(&Arc::default(), &bench.arrival, Version::HTTP_11);
    account.because(&Reason::Rbac { details: "rbac_access_denied_matched_policy[none]".into() });
    account.close();
    let route = mesh_xds::messages::waypoint::HTTP_ROUTE;
    let count = |all, partial| crate::settings::Count { all, partial };
    let tls = mesh_xds::messages::waypoint::TLS_ROUTE;
    super::books::configured(bench.books.recorder(), [(&route, &count(2, 1)), (&tls, &count(0, 0))].into_iter());
    let text = bench.scrape();
    for line in [
        "waypoint_requests_refused_total{by=\"rbac\"} 1",
        "waypoint_requests_refused_total{by=\"jwt\"} 0",
        "waypoint_resources{type=\"HttpRoute\"} 2",
        "waypoint_resources{type=\"TlsRoute\"} 0",
        "waypoint_resources_partial{type=\"HttpRoute\"} 1",
        "waypoint_config_changes_total 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
}

#[test]
fn a_stream_is_told_while_it_lives() {
    use mesh_net::relay::Meter as _;
    let bench = Bench::new();
    let mut account = bench.books.stream(&Arc::default(), &bench.arrival, Some("db.example"));
    let meter = account.meter();
    meter.forward(3);
    account.backend(&bench.service);
    account.attempt(Some(&bench.endpoint), Some("10.1.0.3:5432".parse().unwrap()));
    account.opened();
    meter.forward(4);
    meter.backward(10);
    let text = bench.scrape();
    let received = samples(&text, "istio_tcp_received_bytes_total");
    assert_eq!(received[0].1, 7.0);
    let end = ["request_protocol", "response_flags", "connection_security_policy"];
    assert_eq!(received[0].0.keys().cloned().collect::<BTreeSet<_>>(), names(&end));
    assert_eq!(samples(&text, "istio_tcp_sent_bytes_total")[0].1, 10.0);
    assert_eq!(samples(&text, "istio_tcp_connections_opened_total")[0].1, 1.0);
    assert!(samples(&text, "istio_tcp_connections_closed_total").iter().all(|(_, value)| *value == 0.0));
    account.close();
    assert_eq!(samples(&bench.scrape(), "istio_tcp_connections_closed_total")[0].1, 1.0);
}

#[test]
fn telemetry_adds_and_removes_labels() {
    let bench = Bench::new();
    let tag = |name: &str, remove, value: &str| TagOverride { name: name.into(), remove, value: value.into() };
    let telemetry = Telemetry {
        metrics: Some(MetricsSetting {
            providers: vec!["prometheus".into()],
            overrides: vec![
                MetricOverride {
                    metric: "REQUEST_COUNT".into(),
                    tags: vec![
                        tag("source_principal", true, ""),
                        tag("team", false, "'blue'"),
                        tag("host", false, "request.host"),
                        tag("user", false, "request.headers['x-user']"),
                    ],
                    ..Default::default()
                },
                MetricOverride { metric: "RESPONSE_SIZE".into(), disabled: Some(true), tags: vec![] },
            ],
        }),
        ..Default::default()
    };
    let plan = plan(&[Arc::new(compile(&telemetry).unwrap())], &|_| None);
    bench.ask(&plan, get(), 200);
    let text = bench.scrape();
    let count = &samples(&text, "istio_requests_total")[0].0;
    assert!(!count.contains_key("source_principal"));
    assert_eq!((&*count["team"], &*count["host"], &*count["user"]), ("blue", "cart", "unknown"));
    assert!(samples(&text, "istio_request_bytes_count")[0].0.contains_key("source_principal"));
    assert!(samples(&text, "istio_response_bytes_count").is_empty());
}

#[test]
fn what_many_values_would_fill_is_counted_together() {
    let bench = Bench::new();
    let (books, _taken) = Books::new(
        bench.books.own.clone(),
        Recorder::with_families(mesh_telemetry::recorder::Limits { series: 40, ..LIMITS }, families::ALL),
    );
    for status in 200..400 {
        let mut account = books.request(&Arc::default(), &bench.arrival, Version::HTTP_11);
        account.responded(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        account.close();
    }
    let text = String::from_utf8(books.expose(None, None).body).unwrap();
    let counts = samples(&text, "istio_requests_total");
    assert!(counts.len() <= 12, "{} series", counts.len());
    assert_eq!(counts.iter().map(|(_, value)| value).sum::<f64>(), 200.0);
    assert!(counts.iter().any(|(labels, _)| labels.contains_key("overflow")));
}

#[test]
fn series_of_those_who_are_gone_go() {
    let bench = Bench::new();
    bench.ask(&Arc::default(), get(), 200);
    let now = Instant::now();
    let left = |at| {
        bench.books.book.sweep();
        bench.books.recorder().sweep(at);
        samples(&String::from_utf8(bench.books.recorder().render(at)).unwrap(), "istio_requests_total").len()
    };
    assert_eq!(left(now), 1);
    assert_eq!(left(now + Duration::from_secs(100)), 1);
    assert_eq!(left(now + Duration::from_secs(500)), 0);
}

fn log_to(path: &str, json: bool, labels: &[(&str, &str)], text: &str, filter: &str) -> Arc<Plan> {
    let label = |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
    let provider = TelemetryProvider {
        kind: ProviderKind::FileLog as i32,
        path: path.into(),
        json,
        json_labels: labels.iter().map(label).collect(),
        text_format: text.into(),
        ..Default::default()
    };
    let provider = Arc::new(compile_provider(&provider).unwrap());
    let log = AccessLogSetting { providers: vec!["file".into()], disabled: None, filter: filter.into() };
    let telemetry = Telemetry { access_log: Some(log), ..Default::default() };
    plan(&[Arc::new(compile(&telemetry).unwrap())], &|name| (name == "file").then(|| provider.clone()))
}

fn written(bench: &Bench, path: &std::path::Path) -> String {
    assert!(bench.books.flush(Duration::from_secs(10)));
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_standard_line_reads_as_the_field_has_it() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let plan = log_to(path.to_str().unwrap(), false, &[], "", "response.code >= 400 || response.flags != '-'");
    bench.ask(&plan, get(), 200);
    let request = Request::builder()
        .method("POST")
        .uri("/evil%0a\"?x=y")
        .header("host", "cart:80")
        .header("user-agent", "a \"b\"\t\\c")
        .header("x-request-id", "id-1")
        .body(())
        .unwrap();
    bench.ask(&plan, request, 503);
    let request = Request::builder().uri("http://cart/x").version(Version::HTTP_2).body(()).unwrap();
    let mut account = bench.books.request(&plan, &bench.arrival, request.version());
    account.arrived(&request);
    account.head(&request.into_parts().0);
    account.because(&Reason::Fault(Fault::Connect(ConnectError::new(crate::upstream::Kind::Refused, "refused"))));
    account.responded(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
    account.close();
    let text = written(&bench, &path);
    let lines: Vec<&str> = text.lines().collect();
    let [first, second] = lines.as_slice() else { panic!("{text}") };
    let time = regex::Regex::new(r"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] (.*)$").unwrap();
    let rest = |line: &str| time.captures(line).unwrap_or_else(|| panic!("{line}"))[1].to_owned();
    assert_eq!(
        rest(first),
        concat!(
            r#""POST /evil%0a\"?x=y HTTP/1.1" 503 - via_upstream - "-" 4 6 0 0 "-" "a \"b\"\t\\c" "id-1" "cart:80" "10.1.0.3:8080" "#,
            "inbound-vip|80|http|cart.shop.svc.cluster.local - 10.96.0.7:80 10.0.0.1:40000 - shop/cart/0"
        )
    );
    let second = rest(second);
    assert!(
        second.starts_with(r#""GET /x HTTP/2" 503 UF upstream_reset_before_response_started{connection_failure|"#),
        "{second}"
    );
    assert!(second.contains(r#"refused" 0 0 0 - "-""#), "{second}");
}

#[test]
fn json_keeps_its_types() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    bench.ask(&log_to(path.to_str().unwrap(), true, &[], "", ""), get(), 200);
    let text = written(&bench, &path);
    let keys: Vec<&str> = text.split('"').filter(|part| format::JSON.iter().any(|(key, _)| key == part)).collect();
    assert_eq!(keys, format::JSON.map(|(key, _)| key), "in this order");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line.as_object().unwrap().len(), 24);
    for (key, want) in [
        ("response_code", serde_json::json!(200)),
        ("bytes_received", serde_json::json!(4)),
        ("bytes_sent", serde_json::json!(6)),
        ("response_flags", serde_json::json!("-")),
        ("method", serde_json::json!("GET")),
        ("path", serde_json::json!("/a?b=c")),
        ("requested_server_name", serde_json::Value::Null),
        ("upstream_service_time", serde_json::json!("0")),
        ("upstream_host", serde_json::json!("10.1.0.3:8080")),
    ] {
        assert_eq!(line[key], want, "{key}");
    }
    assert!(line["duration"].is_u64());
}

#[test]
fn formats_of_the_users_are_kept_to() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    for (number, (format, want)) in [
        ("%REQ(X-NONE?USER-AGENT)%|%REQ(:PATH):2%", "curl/8|/a\n"),
        ("%PROTOCOL% 100%% %ROUTE_NAME%\n", "HTTP/1.1 100% shop/cart/0\n"),
        ("%START_TIME(%Y)%", &format!("{}\n", jiff::Timestamp::now().strftime("%Y"))),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/shop/sa/web\n"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.1 80\n"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %GRPC_STATUS%", "1 -\n"),
        ("%CEL(request.method + '-' + string(response.code))%", "GET-200\n"),
        ("%ENVIRONMENT(REGION)% %HOSTNAME% %TRACE_ID%", "north waypoint-1 -\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(number.to_string());
        bench.ask(&log_to(path.to_str().unwrap(), false, &[], format, ""), get(), 200);
        assert_eq!(written(&bench, &path), want, "{format}");
    }
    let path = folder.path().join("labels");
    let labels = [("b", "%RESPONSE_CODE%"), ("a", "%REQ(:METHOD)% %RESPONSE_CODE%"), ("c", "%REQ(NONE)%")];
    bench.ask(&log_to(path.to_str().unwrap(), false, &labels, "", ""), get(), 200);
    assert_eq!(written(&bench, &path), "{\"b\":200,\"a\":\"GET 200\",\"c\":null}\n");
}

#[test]
fn the_clients_own_path_is_kept_when_it_is_rewritten() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let plan = log_to(path.to_str().unwrap(), false, &[], "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(:PATH)% %REQ(X-ADDED)%", "");
    let mut account = bench.books.request(&plan, &bench.arrival, Version::HTTP_11);
    let (mut parts, ()) = get().into_parts();
    account.head(&parts);
    parts.uri = "/new".parse().unwrap();
    parts.headers.insert("x-added", HeaderValue::from_static("1"));
    account.head(&parts);
    account.close();
    assert_eq!(written(&bench, &path), "/a?b=c /new 1\n");
}
