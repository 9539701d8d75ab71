use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use http::Request as HttpRequest;
use http::StatusCode;
use mesh_xds::messages::waypoint::{BackendRef, Host, ProviderKind, Telemetry, TelemetryProvider, TracingSetting};
use parking_lot::Mutex;

use super::super::tests::Bench;
use super::super::{Plan, compile, compile_provider, plan};
use super::*;
use crate::call::{CallError, Reply};

/// Keeps what it was sent, and answers as it is told.
#[derive(Default)]
struct Sink {
    got: Mutex<Vec<(String, Bytes)>>,
    failing: bool,
    held: Option<CancellationToken>,
}

impl Caller for Sink {
    fn call<'a>(
        &'a self,
        _: To<'a>,
        version: Version,
        request: HttpRequest<Bytes>,
        _: Limits,
    ) -> BoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            if let Some(held) = &self.held {
                held.cancelled().await;
            }
            if self.failing {
                return Err(CallError::Connect("nobody there".to_owned()));
            }
            let path = request.uri().path().to_owned();
            self.got.lock().push((path, request.into_body()));
            let grpc = version == Version::Http2;
            let trailers = grpc
                .then(|| [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))].into_iter().collect());
            let body = if grpc { Bytes::from_static(&[0; 5]) } else { Bytes::new() };
            Ok(Reply { status: StatusCode::OK, headers: HeaderMap::new(), body, trailers })
        })
    }
}

fn traced(kind: ProviderKind) -> Arc<Plan> {
    let backend =
        BackendRef { host: Some(Host { namespace: "o".into(), hostname: "c.o".into() }), port: 4317, subset: String::new() };
    let wire = TelemetryProvider { kind: kind as i32, backend: Some(backend), ..Default::default() };
    let provider = Arc::new(compile_provider(&wire).unwrap());
    let tracing = TracingSetting { providers: vec!["to".into()], sampling_percent: Some(100.0), ..Default::default() };
    let telemetry = Telemetry { tracing: Some(tracing), ..Default::default() };
    plan(&[Arc::new(compile(&telemetry).unwrap())], &|_| Some(provider.clone()))
}

fn request() -> HttpRequest<()> {
    HttpRequest::builder().uri("/a").header("host", "cart").header("user-agent", "curl").body(()).unwrap()
}

async fn sent(kind: ProviderKind, count: usize, sink: Sink) -> (Arc<Sink>, String) {
    let bench = Bench::new();
    let plan = traced(kind);
    for _ in 0..count {
        bench.ask(&plan, request(), 500);
    }
    let (sink, end) = (Arc::new(sink), CancellationToken::new());
    end.cancel();
    let recorder = bench.books.recorder().clone();
    run(bench.taken, sink.clone(), recorder, end).await;
    let text = String::from_utf8(bench.books.expose(None, None).body).unwrap();
    (sink, text)
}

#[tokio::test(start_paused = true)]
async fn spans_arrive_over_each_protocol() {
    for (kind, path) in [
        (ProviderKind::OtlpGrpc, otlp::EXPORT_TRACES),
        (ProviderKind::OtlpHttp, "/v1/traces"),
        (ProviderKind::Zipkin, "/api/v2/spans"),
    ] {
        let (sink, text) = sent(kind, 3, Sink::default()).await;
        let got = sink.got.lock();
        assert_eq!(got.len(), 1, "one batch");
        assert_eq!(got[0].0, path);
        assert!(text.contains("waypoint_spans_sent_total{provider=\"c.o:4317\"} 3\n"), "{text}");
        if kind == ProviderKind::Zipkin {
            let spans: serde_json::Value = serde_json::from_slice(&got[0].1).unwrap();
            assert_eq!(spans.as_array().unwrap().len(), 3);
            assert_eq!(spans[0]["name"], "cart.shop.svc.cluster.local:80/*");
            assert_eq!(spans[0]["localEndpoint"]["serviceName"], "waypoint.shop");
            assert_eq!(spans[0]["tags"]["http.status_code"], "500");
            continue;
        }
        let message = if kind == ProviderKind::OtlpGrpc { got[0].1.slice(5..) } else { got[0].1.clone() };
        let export = otlp::ExportTraces::decode(message).unwrap();
        let spans = &export.resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.len(), 3);
        assert_eq!((spans[0].trace_id.len(), spans[0].span_id.len(), spans[0].kind), (16, 8, 2));
        let tags: BTreeSet<&str> = spans[0].attributes.iter().map(|pair| pair.key.as_str()).collect();
        // spec/waypoint.md 6.4
        for tag in [
            "component",
            "http.url",
            "http.method",
            "http.status_code",
            "http.protocol",
            "request_size",
            "response_size",
            "response_flags",
            "user_agent",
            "upstream_cluster",
            "upstream_cluster.name",
            "node_id",
            "peer.address",
            "error",
            "istio.canonical_service",
            "istio.canonical_revision",
            "istio.mesh_id",
            "istio.namespace",
            "istio.cluster_id",
            "istio.source_workload",
            "istio.destination_workload",
            "istio.destination_canonical_service",
        ] {
            assert!(tags.contains(tag), "{tag} is missing in {tags:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_spans_and_says_so() {
    let (_, text) = sent(ProviderKind::OtlpGrpc, 3, Sink { failing: true, ..Sink::default() }).await;
    assert!(text.contains("waypoint_spans_dropped_total{provider=\"c.o:4317\",reason=\"failed\"} 3\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_counts() {
    let (sink, text) = sent(ProviderKind::Zipkin, QUEUE + 10, Sink::default()).await;
    assert!(text.contains("reason=\"queue_full\"} 10\n"), "{text}");
    assert_eq!(sink.got.lock().len(), QUEUE / BATCH);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_holds_the_end_for_a_while_only() {
    let begun = Instant::now();
    sent(ProviderKind::Zipkin, 1, Sink { held: Some(CancellationToken::new()), ..Sink::default() }).await;
    assert!(begun.elapsed() >= LAST && begun.elapsed() < 2 * LAST);
}

#[test]
fn one_provider_gets_one_call_at_a_time() {
    let (a, b) = (traced(ProviderKind::Zipkin), traced(ProviderKind::Zipkin));
    let provider = |plan: &Plan| plan.tracing.as_ref().unwrap().provider.clone();
    let record = || {
        let at = std::time::SystemTime::UNIX_EPOCH;
        Item::Record(Box::new(Record { at, body: String::new(), trace: None, service: "s".into() }))
    };
    let mut waiting = Waiting::default();
    for _ in 0..BATCH + 1 {
        assert!(waiting.push(provider(&a), record()));
    }
    assert!(waiting.push(provider(&b), record()));
    assert_eq!(waiting.ready(false).len(), 1, "only the full one");
    assert_eq!(waiting.ready(true).len(), 1, "the first is busy");
    waiting.done(&provider(&b));
    waiting.done(&provider(&a));
    assert_eq!(waiting.ready(true).len(), 1);
    for _ in 0..PENDING_MAX {
        assert!(waiting.push(provider(&b), record()));
    }
    assert!(!waiting.push(provider(&b), record()));
}
