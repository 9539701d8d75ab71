use mesh_xds::messages::waypoint::{
    AccessLogSetting, BackendRef, Host, MetricOverride, MetricsSetting, ProviderKind, TagOverride, TelemetryProvider,
    TracingSetting,
};

use super::super::provider::compile_provider;
use super::*;

fn provider(name: &str) -> Option<Arc<Provider>> {
    let kind = match name {
        "prom" => ProviderKind::Prometheus,
        "file" => ProviderKind::FileLog,
        "otel" => ProviderKind::OtlpGrpc,
        "zipkin" => ProviderKind::Zipkin,
        _ => return None,
    };
    let backend =
        BackendRef { host: Some(Host { namespace: "o".into(), hostname: "c.o".into() }), port: 4317, subset: String::new() };
    let wire = TelemetryProvider { kind: kind as i32, path: "/dev/stderr".into(), backend: Some(backend), ..Default::default() };
    Some(Arc::new(compile_provider(&wire).unwrap()))
}

fn of(rank: u32, change: impl FnOnce(&mut Telemetry)) -> Arc<Settings> {
    let mut wire = Telemetry { rank, ..Default::default() };
    change(&mut wire);
    Arc::new(compile(&wire).unwrap())
}

fn metrics(providers: &[&str], overrides: Vec<MetricOverride>) -> impl FnOnce(&mut Telemetry) {
    let providers = providers.iter().map(|name| (*name).to_owned()).collect();
    move |wire| wire.metrics = Some(MetricsSetting { providers, overrides })
}

fn log(providers: &[&str], disabled: Option<bool>, filter: &str) -> impl FnOnce(&mut Telemetry) {
    let providers = providers.iter().map(|name| (*name).to_owned()).collect();
    let filter = filter.to_owned();
    move |wire| wire.access_log = Some(AccessLogSetting { providers, disabled, filter })
}

#[test]
fn without_settings_there_are_metrics_and_nothing_else() {
    let plan = plan(&[], &provider);
    assert!(plan.metrics.is_some() && plan.logs.is_empty() && plan.tracing.is_none());
    assert_eq!(plan.looks, Looks::default());
}

#[test]
fn the_last_who_names_providers_decides() {
    let shown = |settings: &[Arc<Settings>]| {
        let plan = plan(settings, &provider);
        (plan.metrics.is_some(), plan.logs.len())
    };
    for (settings, want) in [
        (vec![of(0, metrics(&["prom"], vec![])), of(1, metrics(&["otel"], vec![]))], (false, 0)),
        (vec![of(0, metrics(&["none"], vec![])), of(1, metrics(&[], vec![]))], (false, 0)),
        (vec![of(0, metrics(&["prometheus"], vec![]))], (true, 0)),
        (vec![of(0, log(&["file"], None, ""))], (true, 1)),
        (vec![of(0, log(&["envoy", "file"], None, ""))], (true, 2)),
        (vec![of(0, log(&["file"], None, "")), of(1, log(&[], Some(true), ""))], (true, 0)),
        // The rank counts before the order in which they come.
        (vec![of(3, log(&[], Some(false), "")), of(1, log(&["file"], Some(true), ""))], (true, 1)),
        (vec![of(0, log(&["prom"], None, ""))], (true, 0)),
    ] {
        assert_eq!(shown(&settings), want, "{settings:?}");
    }
}

#[test]
fn overrides_merge_by_metric_and_tag() {
    let tag = |name: &str, value: &str| TagOverride { name: name.into(), remove: false, value: value.into() };
    let one = |metric: &str, disabled, tags| MetricOverride { metric: metric.into(), disabled, tags };
    let settings = [
        of(0, metrics(&[], vec![one("ALL_METRICS", Some(true), vec![tag("a", "'1'"), tag("b", "'1'")])])),
        of(1, metrics(&[], vec![one("REQUEST_COUNT", Some(false), vec![tag("a", "request.host")])])),
    ];
    let metrics = plan(&settings, &provider).metrics.clone().unwrap();
    let count = metrics.of_metric(Metric::RequestCount).unwrap();
    assert!(!count.disabled);
    assert!(matches!(&count.tags["a"], Edit::Expression(program) if program.text() == "request.host"));
    assert_eq!(count.tags["b"], Edit::Constant("1".into()));
    assert!(metrics.disabled(Metric::TcpOpened));
    assert_eq!(metrics.expressions.len(), 1);
}

#[test]
fn tracing_merges_field_by_field() {
    let tracing = |providers: &[&str], percent, disabled| {
        let providers = providers.iter().map(|name| (*name).to_owned()).collect();
        move |wire: &mut Telemetry| {
            wire.tracing = Some(TracingSetting { providers, sampling_percent: percent, disabled, ..Default::default() });
        }
    };
    let settings = [of(0, tracing(&["otel", "zipkin"], Some(50.0), Some(true))), of(1, tracing(&[], Some(0.0), None))];
    let plan = plan(&settings, &provider);
    let tracing = plan.tracing.as_ref().unwrap();
    assert!(matches!(tracing.provider.kind, Kind::Otlp { .. }));
    assert_eq!((tracing.percent, tracing.silent, tracing.istio_tags, tracing.propagate), (0.0, true, true, true));
    assert!(plan.looks.head);
}

#[test]
fn what_is_wrong_is_refused_with_a_reason() {
    let tag = |name: &str, value: &str| {
        let tags = vec![TagOverride { name: name.into(), remove: false, value: value.into() }];
        metrics(&[], vec![MetricOverride { metric: String::new(), disabled: None, tags }])
    };
    let refused = |change: Box<dyn FnOnce(&mut Telemetry)>| {
        let mut wire = Telemetry::default();
        change(&mut wire);
        compile(&wire).unwrap_err().reason
    };
    let metric = MetricOverride { metric: "REQUESTS".into(), ..Default::default() };
    assert_eq!(refused(Box::new(metrics(&[], vec![metric]))), "UnknownMetric");
    assert_eq!(refused(Box::new(tag("a-b", "'x'"))), "InvalidTag");
    assert_eq!(refused(Box::new(tag("le", "'x'"))), "InvalidTag");
    assert_eq!(refused(Box::new(tag("a", "request.nothing"))), "InvalidTag");
    assert_eq!(refused(Box::new(log(&[], None, "response.code"))), "InvalidFilter");
    let sampling =
        |wire: &mut Telemetry| wire.tracing = Some(TracingSetting { sampling_percent: Some(101.0), ..Default::default() });
    assert_eq!(refused(Box::new(sampling)), "InvalidSampling");
}

#[test]
fn a_provider_that_cannot_be_done_is_refused() {
    let base = TelemetryProvider { kind: ProviderKind::FileLog as i32, path: "/x".into(), ..Default::default() };
    let with = |change: fn(&mut TelemetryProvider)| {
        let mut wire = base.clone();
        change(&mut wire);
        compile_provider(&wire).map(|_| ()).map_err(|rejection| rejection.reason)
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(with(|wire| wire.text_format = "%NOTHING%".into()), Err("InvalidFormat"));
    assert_eq!(with(|wire| wire.text_format = "%REQ(a".into()), Err("InvalidFormat"));
    assert_eq!(with(|wire| wire.text_format = "%START_TIME(%!)%".into()), Err("InvalidFormat"));
    assert_eq!(with(|wire| wire.path = "x".into()), Err("InvalidPath"));
    assert_eq!(with(|wire| wire.kind = ProviderKind::OtlpGrpc as i32), Err("NoBackend"));
    assert_eq!(with(|wire| wire.kind = 99), Err("UnsupportedProvider"));
}
