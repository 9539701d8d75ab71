//! Matches and filters of a VirtualService's `http` rules.

use base64::Engine;
use mesh_xds::messages::waypoint::{
    BackendRef, Cors, DirectResponse, Fault, Filter, FilterKind, Fraction, HeaderEdit, HeaderValue, HttpMatch, KeyMatch, Mirror, PathEdit, PathEditKind, PathKind, PathMatch, Redirect,
    RegexEdit, Rewrite, StrMatch, StrMatchKind,
};

use crate::objects::virtual_service::{Destination, HeaderOperations, Headers, HttpRule, HttpRuleMatch, Percent, Text};
use crate::translate::targets::texts;

/// `None`: nobody at a waypoint is meant.
pub fn matches(asked: &[HttpRuleMatch], field: &str, problems: &mut Vec<String>) -> Option<Vec<HttpMatch>> {
    let mut found = Vec::new();
    for one in asked {
        if !one.gateways.is_empty() && one.gateways.iter().all(|gateway| &**gateway != "mesh") {
            continue;
        }
        if !one.source_labels.is_empty() {
            problems.push(format!("{field}.match: an entry with sourceLabels has no effect: a waypoint does not know its clients' labels"));
            continue;
        }
        let headers = one.headers.iter().map(|(name, value)| key(name, value, false)).chain(one.without_headers.iter().map(|(name, value)| key(name, value, true)));
        found.push(HttpMatch {
            path: one.uri.as_ref().map(|uri| path(uri, one.ignore_uri_case)),
            headers: headers.collect(),
            query: one.query_params.iter().map(|(name, value)| key(name, value, false)).collect(),
            method: one.method.as_ref().map(text),
            scheme: one.scheme.as_ref().map(text),
            authority: one.authority.as_ref().map(text),
            source_namespace: one.source_namespace.to_string(),
            port: one.port,
            grpc: None,
        });
    }
    (asked.is_empty() || !found.is_empty()).then_some(found)
}

fn path(asked: &Text, ignore_case: bool) -> PathMatch {
    let (kind, value) = match (&asked.exact, &asked.prefix, &asked.regex) {
        (Some(value), _, _) => (PathKind::Exact, value.to_string()),
        (None, Some(value), _) => (PathKind::PrefixString, value.to_string()),
        (None, None, Some(value)) => (PathKind::Regex, value.to_string()),
        (None, None, None) => (PathKind::PrefixString, "/".to_owned()),
    };
    PathMatch { kind: kind as i32, value, ignore_case: ignore_case && kind != PathKind::Regex }
}

fn text(asked: &Text) -> StrMatch {
    let kind = match (&asked.exact, &asked.prefix, &asked.regex) {
        (Some(value), _, _) => StrMatchKind::Exact(value.to_string()),
        (None, Some(value), _) => StrMatchKind::Prefix(value.to_string()),
        (None, None, Some(value)) => StrMatchKind::Regex(value.to_string()),
        (None, None, None) => StrMatchKind::Present(true),
    };
    StrMatch { kind: Some(kind) }
}

fn key(name: &str, value: &Text, invert: bool) -> KeyMatch {
    KeyMatch { name: name.to_owned(), value: Some(text(value)), invert }
}

/// In the order in which they are applied.
pub fn filters(rule: &HttpRule, field: &str, problems: &mut Vec<String>) -> Vec<Filter> {
    let mut kinds = Vec::new();
    if let Some(asked) = &rule.cors_policy {
        let exact = asked.allow_origin.iter().map(|origin| StrMatch { kind: Some(StrMatchKind::Exact(origin.to_string())) });
        kinds.push(FilterKind::Cors(Cors {
            allow_origin_matches: asked.allow_origins.iter().map(text).chain(exact).collect(),
            allow_credentials: asked.allow_credentials == Some(true),
            allow_methods: texts(&asked.allow_methods),
            allow_headers: texts(&asked.allow_headers),
            expose_headers: texts(&asked.expose_headers),
            max_age_s: asked.max_age.map_or(0, |span| span.0.as_secs()),
            forward_unmatched_preflights: asked.unmatched_preflights.as_deref() != Some("IGNORE"),
            ..Cors::default()
        }));
    }
    if let Some(asked) = &rule.fault {
        kinds.extend(fault(asked, field, problems).map(FilterKind::Fault));
    }
    kinds.extend(rule.headers.iter().flat_map(headers).filter_map(|filter| filter.kind));
    if let Some(asked) = &rule.redirect {
        kinds.push(FilterKind::Redirect(Redirect {
            scheme: asked.scheme.to_string(),
            hostname: asked.authority.to_string(),
            path: (!asked.uri.is_empty()).then(|| edit(PathEditKind::Full(asked.uri.to_string()))),
            port: asked.port.unwrap_or(0),
            status: if asked.redirect_code == 0 { 301 } else { asked.redirect_code },
            port_of_scheme: asked.derive_port.as_deref() == Some("FROM_PROTOCOL_DEFAULT"),
        }));
    }
    if let Some(asked) = &rule.direct_response {
        let bytes = asked.body.as_ref().and_then(|body| body.bytes.as_ref()).map(|encoded| base64::engine::general_purpose::STANDARD.decode(encoded.as_bytes()));
        let body = match (bytes, asked.body.as_ref().and_then(|body| body.string.as_ref())) {
            (Some(Ok(bytes)), _) => bytes,
            (Some(Err(_)), _) => {
                problems.push(format!("{field}.directResponse.body.bytes: is no base64; the answer is empty"));
                Vec::new()
            }
            (None, text) => text.map(|text| text.as_bytes().to_vec()).unwrap_or_default(),
        };
        kinds.extend(asked.headers.iter().flat_map(headers).filter_map(|filter| filter.kind));
        kinds.push(FilterKind::Direct(DirectResponse { status: asked.status, body }));
    }
    if let Some(asked) = &rule.rewrite {
        let path = match &asked.uri_regex_rewrite {
            Some(regex) => Some(PathEditKind::Regex(RegexEdit { pattern: regex.r#match.to_string(), substitution: regex.rewrite.to_string() })),
            None if asked.uri.is_empty() => None,
            // What was matched as a prefix is replaced, and nothing else.
            None if rule.r#match.iter().any(|one| one.uri.as_ref().is_some_and(|uri| uri.prefix.is_some())) || rule.r#match.is_empty() => Some(PathEditKind::PrefixString(asked.uri.to_string())),
            None => Some(PathEditKind::Full(asked.uri.to_string())),
        };
        kinds.push(FilterKind::Rewrite(Rewrite { hostname: asked.authority.to_string(), path: path.map(edit) }));
    }
    kinds.into_iter().map(|kind| Filter { kind: Some(kind) }).collect()
}

fn edit(kind: PathEditKind) -> PathEdit {
    PathEdit { kind: Some(kind) }
}

pub fn headers(asked: &Headers) -> impl Iterator<Item = Filter> {
    let one = |operations: &HeaderOperations| {
        let values = |map: &std::collections::BTreeMap<std::sync::Arc<str>, std::sync::Arc<str>>| map.iter().map(|(name, value)| HeaderValue { name: name.to_string(), value: value.to_string() }).collect();
        (*operations != HeaderOperations::default()).then(|| HeaderEdit { set: values(&operations.set), add: values(&operations.add), remove: texts(&operations.remove) })
    };
    let request = one(&asked.request).map(FilterKind::RequestHeaders);
    let response = one(&asked.response).map(FilterKind::ResponseHeaders);
    [request, response].into_iter().flatten().map(|kind| Filter { kind: Some(kind) })
}

/// Parts of a million, so that a tenth of a percent is not lost.
fn fraction(percent: f64) -> Fraction {
    // Between 0 and a million, so nothing is cut off.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let numerator = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    Fraction { numerator, denominator: 1_000_000 }
}

fn fault(asked: &crate::objects::virtual_service::Fault, field: &str, problems: &mut Vec<String>) -> Option<Fault> {
    let mut found = Fault::default();
    if let Some(delay) = &asked.delay {
        let percent = delay.percentage.map(|percent| percent.value).or(delay.percent.map(f64::from));
        match delay.fixed_delay {
            Some(span) => {
                found.delay_ms = span.ms();
                found.delay_fraction = Some(fraction(percent.unwrap_or(100.0)));
            }
            None => problems.push(format!("{field}.fault.delay: only fixedDelay is known")),
        }
    }
    if let Some(abort) = &asked.abort {
        let grpc = abort.grpc_status.as_deref().map(grpc_status);
        match (abort.http_status, grpc) {
            (Some(status), _) => found.abort_status = status,
            (None, Some(Some(code))) => found.abort_grpc = Some(code),
            (None, Some(None)) => problems.push(format!("{field}.fault.abort.grpcStatus: {:?} is no status of gRPC", abort.grpc_status.as_deref().unwrap_or_default())),
            (None, None) => problems.push(format!("{field}.fault.abort: only httpStatus and grpcStatus are known")),
        }
        found.abort_fraction = Some(fraction(abort.percentage.map_or(100.0, |percent| percent.value)));
    }
    (found != Fault::default()).then_some(found)
}

/// By its name or its number (the codes of gRPC).
fn grpc_status(text: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
        "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    ];
    let by_name = NAMES.iter().position(|name| *name == text).and_then(|code| u32::try_from(code).ok());
    by_name.or_else(|| text.parse().ok().filter(|code| *code <= 16))
}

/// Where copies go, and of how many percent.
pub fn mirrors(rule: &HttpRule) -> Vec<(&Destination, Option<f64>)> {
    let percent = |percent: Option<Percent>| percent.map(|percent| percent.value);
    let older = rule.mirror.iter().map(|to| (to, percent(rule.mirror_percentage).or(rule.mirror_percent.map(f64::from))));
    older.chain(rule.mirrors.iter().map(|mirror| (&mirror.destination, percent(mirror.percentage)))).collect()
}

pub fn mirror(backend: BackendRef, percent: Option<f64>) -> Filter {
    Filter { kind: Some(FilterKind::Mirror(Mirror { backend: Some(backend), fraction: percent.map(fraction) })) }
}
