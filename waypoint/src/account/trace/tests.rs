use std::sync::Arc;

use mesh_xds::messages::waypoint::{BackendRef, Host, ProviderKind, TelemetryProvider};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::provider::compile_provider;
use super::*;

fn tracing(kind: ProviderKind, percent: f64) -> Tracing {
    let backend =
        BackendRef { host: Some(Host { namespace: "o".into(), hostname: "c.o".into() }), port: 4317, subset: String::new() };
    let provider =
        compile_provider(&TelemetryProvider { kind: kind as i32, backend: Some(backend), ..Default::default() }).unwrap();
    Tracing {
        provider: Arc::new(provider),
        percent,
        silent: false,
        tags: Vec::new(),
        istio_tags: true,
        use_request_id: true,
        propagate: true,
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

const ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

// spec/waypoint.md 11 row 20: a trace goes on, in the form that it came in.
#[test]
fn a_trace_goes_on_through_us() {
    let w3c = format!("00-{ID}-{SPAN}-01");
    let single = format!("{ID}-{SPAN}-1");
    let short = format!("8448eb211c80319c-{SPAN}-0");
    let multi: &[(&str, &str)] = &[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    // What comes in, the collector, is it sampled (by chance: never), what goes out.
    #[allow(clippy::type_complexity, reason = "the rows of a table")]
    let table: &[(&[(&'static str, &str)], ProviderKind, bool, &[&str])] = &[
        (&[("traceparent", &w3c)], ProviderKind::OtlpGrpc, true, &["traceparent"]),
        (&[("b3", &single)], ProviderKind::OtlpGrpc, true, &["b3", "traceparent"]),
        (&[("b3", &short)], ProviderKind::Zipkin, false, &["b3"]),
        (multi, ProviderKind::Zipkin, true, &["x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]),
        (
            &[("traceparent", &w3c)],
            ProviderKind::Zipkin,
            true,
            &["traceparent", "x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"],
        ),
    ];
    for (given, kind, sampled, names) in table {
        let mut headers = headers(given);
        let mut chance = SmallRng::seed_from_u64(7);
        let trace = Trace::begin(&headers, &tracing(*kind, 0.0), &mut chance);
        assert_eq!((trace.sampled, trace.parent.map(|parent| hex(&parent)).as_deref()), (*sampled, Some(SPAN)), "{given:?}");
        trace.inject(&mut headers);
        let mut out: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        out.sort_unstable();
        assert_eq!(out, *names, "{given:?}");
        // The next hop finds our span as its parent, whatever it reads first.
        for b3_first in [true, false] {
            let (next, _) = context::extract(&headers, b3_first).unwrap();
            assert_eq!((next.id, next.span, next.sampled), (trace.id, trace.span, Some(*sampled)), "{given:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_begins_a_new_trace() {
    for (name, value) in [
        ("traceparent", format!("00-{ID}-{SPAN}")),
        ("traceparent", format!("ff-{ID}-{SPAN}-01")),
        ("traceparent", format!("00-{ID}-{SPAN}-01-more")),
        ("traceparent", format!("00-{}-{SPAN}-01", "0".repeat(32))),
        ("traceparent", format!("00-{ID}-0000000000000000-01")),
        ("traceparent", format!("00-{}-{SPAN}-01", "z".repeat(32))),
        ("b3", "0".to_owned()),
        ("b3", format!("{ID}-{SPAN}-x")),
        ("x-b3-traceid", ID.to_owned()),
    ] {
        let headers = headers(&[(name, &value)]);
        assert_eq!(context::extract(&headers, true), None, "{value}");
        let trace = Trace::begin(&headers, &tracing(ProviderKind::OtlpGrpc, 100.0), &mut SmallRng::seed_from_u64(1));
        assert!(trace.sampled && trace.parent.is_none());
    }
    // A later version may say more.
    assert!(context::extract(&headers(&[("traceparent", &format!("01-{ID}-{SPAN}-01-more"))]), false).is_some());
}

#[test]
fn sampling_is_by_the_parent_then_the_request_id_then_chance() {
    let begin = |pairs: &[(&'static str, &str)], percent| {
        Trace::begin(&headers(pairs), &tracing(ProviderKind::OtlpHttp, percent), &mut SmallRng::seed_from_u64(3)).sampled
    };
    let unsampled = format!("00-{ID}-{SPAN}-00");
    assert!(!begin(&[("traceparent", &unsampled)], 100.0));
    assert!(begin(&[("x-request-id", "00000000-0000-9000-8000-000000000000")], 0.0), "sampled before us");
    assert!(!begin(&[("x-request-id", "00000000-0000-4000-8000-000000000000")], 0.0));
    // 0x270e is 9998.
    assert!(!begin(&[("x-request-id", "0000270e-0000-4000-8000-000000000000")], 99.0));
    assert!(begin(&[("x-request-id", "0000270e-0000-4000-8000-000000000000")], 100.0));
    assert!(begin(&[("x-request-id", "\u{e9}0000000-0000-9000-8000-00000000000")], 100.0));
    let mut chance = SmallRng::seed_from_u64(9);
    let tracing = tracing(ProviderKind::OtlpHttp, 10.0);
    let sampled = (0..10_000).filter(|_| Trace::begin(&HeaderMap::new(), &tracing, &mut chance).sampled).count();
    assert!((900..1100).contains(&sampled), "{sampled} of 10000");
}

#[test]
fn a_debug_trace_stays_one() {
    let mut headers = headers(&[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")]);
    let trace = Trace::begin(&headers, &tracing(ProviderKind::Zipkin, 0.0), &mut SmallRng::seed_from_u64(3));
    trace.inject(&mut headers);
    assert!(trace.sampled && headers["x-b3-flags"] == "1" && !headers.contains_key("x-b3-sampled"));
}

// spec/waypoint.md 5.9: a copy belongs to the trace, and nobody behind reports it.
#[test]
fn a_copy_is_not_sampled_in_whatever_form_it_is_written() {
    let w3c = format!("00-{ID}-{SPAN}-01");
    let single = format!("{ID}-{SPAN}-1-{SPAN}");
    #[allow(clippy::type_complexity, reason = "the rows of a table")]
    let table: &[(&[(&'static str, &str)], &[(&'static str, &str)])] = &[
        (&[], &[]),
        (&[("traceparent", &w3c), ("tracestate", "a=b")], &[("traceparent", &format!("00-{ID}-{SPAN}-00")), ("tracestate", "a=b")]),
        (&[("b3", &single)], &[("b3", &format!("{ID}-{SPAN}-0"))]),
        (&[("b3", "d")], &[("b3", "0")]),
        (
            &[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")],
            &[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")],
        ),
        (&[("x-b3-sampled", "1")], &[("x-b3-sampled", "0")]),
        (&[("traceparent", "nonsense")], &[]),
    ];
    for (given, expected) in table {
        let mut copy = headers(given);
        context::unsampled(&mut copy);
        assert_eq!(copy, headers(expected), "{given:?}");
    }
}
