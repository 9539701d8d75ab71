//! What the mesh's configuration says to every waypoint: who authorizes, who hears of requests, and what holds where no
//! object says otherwise (spec/waypoint.md 4.5, 5, 6).

use std::sync::Arc;

use mesh_xds::messages::waypoint::{
    AccessLogSetting, BACKEND_POLICY, BackendPolicy, EXT_AUTHZ_PROVIDER, ExtAuthzBody, ExtAuthzProtocol, ExtAuthzProvider, HTTP_POLICY, HeaderValue, HttpPolicy, LoadBalancer, MeshTarget, Meta as WireMeta, MetricsSetting,
    PathNormalization, ProviderKind, SourceRef, TELEMETRY, TELEMETRY_PROVIDER, Target, TargetKind, Telemetry, TelemetryProvider, TracingSetting,
};
use serde_json::Value;

use super::backend::{self, material::Credentials};
use super::resource::{Audience, Resource};
use super::route::found_in_spec;
use super::targets::texts;
use super::{Derived, Lens, Report};
use crate::objects::Kind;
use crate::objects::meta::check_name;
use crate::objects::provider::{Collector, ExtAuthz, LogFormat, Provider};

/// Where a log without a file goes.
const STDOUT: &str = "/dev/stdout";
/// The provider of logs that every mesh of the field has.
const ENVOY: &str = "envoy";
const PROMETHEUS: &str = "prometheus";

pub fn everywhere() -> Target {
    Target { kind: Some(TargetKind::Mesh(MeshTarget {})) }
}

/// All of it. Waypoints are told only once there is one.
pub fn mesh_defaults(lens: &Lens<'_>) -> Derived {
    let mut derived = Derived::default();
    if lens.cluster.gateways.is_empty() {
        return derived;
    }
    let config = lens.mesh_config();
    let mut report = Report::default();
    let everybody = Audience::everybody();
    let meta = Some(meta(lens));
    let mut put = |type_url, name: &str, message: &dyn Encodes| derived.resources.push(message.resource(type_url, name, &everybody));
    for (index, provider) in config.extension_providers.iter().enumerate() {
        let field = format!("data.mesh.extensionProviders[{index}]");
        if config.extension_providers[..index].iter().any(|before| before.name == provider.name) {
            report.note(format!("{field}.name: {:?} is the name of a provider before it; that one counts", provider.name));
            continue;
        }
        if let Some(message) = ext_authz(lens, provider) {
            if !message.invalid.is_empty() {
                report.note(format!("{field} ({}): {}; whoever asks it is refused", provider.name, message.invalid));
            }
            put(EXT_AUTHZ_PROVIDER, &provider.name, &ExtAuthzProvider { meta: meta.clone(), ..message });
            continue;
        }
        match telemetry(lens, provider) {
            Ok(message) => put(TELEMETRY_PROVIDER, &provider.name, &TelemetryProvider { meta: meta.clone(), ..message }),
            Err(why) => report.note(format!("{field} ({}): {why}", provider.name)),
        }
    }
    let is_defined = |name: &str| config.extension_providers.iter().any(|provider| &*provider.name == name);
    if !is_defined(PROMETHEUS) {
        put(TELEMETRY_PROVIDER, PROMETHEUS, &TelemetryProvider { meta: meta.clone(), kind: ProviderKind::Prometheus as i32, ..TelemetryProvider::default() });
    }
    if !is_defined(ENVOY) {
        put(TELEMETRY_PROVIDER, ENVOY, &TelemetryProvider { meta: meta.clone(), ..default_log(lens) });
    }
    put(TELEMETRY, "", &defaults(lens, meta.clone()));
    // Of ports there is nothing to say where no service is named.
    let credentials = Credentials { lens, namespace: None };
    for broken in config.default_traffic_policy.iter().flat_map(|policy| backend::policy::broken(policy, "data.mesh.defaultTrafficPolicy", &credentials)) {
        report.note(format!("{broken}; connections fail until it is corrected"));
    }
    for (_, message) in config.default_traffic_policy.iter().flat_map(|policy| backend::policy::by_port(policy, &credentials)).filter(|(port, _)| *port == 0) {
        put(BACKEND_POLICY, "", &BackendPolicy { meta: meta.clone(), ..message });
    }
    if let (None, Some(locality)) = (&config.default_traffic_policy, &config.locality_lb_setting) {
        let balancer = LoadBalancer { locality: Some(backend::policy::locality(locality)), ..LoadBalancer::default() };
        put(BACKEND_POLICY, "", &BackendPolicy { meta: meta.clone(), load_balancer: Some(balancer), ..BackendPolicy::default() });
    }
    if let Some(normalization) = config.path_normalization.as_ref().and_then(|path| path.normalization.as_deref()) {
        let known = match normalization {
            "NONE" => Some(PathNormalization::None),
            "BASE" | "DEFAULT" => Some(PathNormalization::Base),
            other => PathNormalization::of_word(other),
        };
        match known {
            Some(known) => put(HTTP_POLICY, "", &HttpPolicy { meta: meta.clone(), targets: vec![everywhere()], normalization: known as i32, ..HttpPolicy::default() }),
            None => report.note(format!("data.mesh.pathNormalization.normalization: {normalization:?} is not NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; BASE is in force")),
        }
    }
    if !report.is_empty() {
        derived.reports.push((lens.cluster.config_key().clone(), report));
    }
    derived
}

/// A message of any type, so that one line puts it.
trait Encodes {
    fn resource(&self, type_url: &'static str, name: &str, audience: &Audience) -> Arc<Resource>;
}

impl<M: prost::Message> Encodes for M {
    fn resource(&self, type_url: &'static str, name: &str, audience: &Audience) -> Arc<Resource> {
        // What is the mesh's own has the name of what nobody can name so.
        Resource::new(type_url, if name.is_empty() { "mesh" } else { name }, self, audience)
    }
}

fn meta(lens: &Lens<'_>) -> WireMeta {
    let key = lens.cluster.config_key();
    let source = SourceRef { kind: Kind::ConfigMap.name().into(), namespace: key.name.namespace.to_string(), name: key.name.name.to_string(), ..SourceRef::default() };
    WireMeta { source: Some(source), created_unix: 0 }
}

fn ext_authz(lens: &Lens<'_>, provider: &Provider) -> Option<ExtAuthzProvider> {
    let (protocol, asked) = match (&provider.envoy_ext_authz_http, &provider.envoy_ext_authz_grpc) {
        (Some(asked), _) => (ExtAuthzProtocol::Http, asked),
        (None, Some(asked)) => (ExtAuthzProtocol::Grpc, asked),
        (None, None) => return None,
    };
    let mut message = ExtAuthzProvider {
        protocol: protocol as i32,
        timeout_ms: asked.timeout.map_or(0, |span| span.ms()),
        fail_open: asked.fail_open,
        clear_route_cache: asked.clear_route_cache,
        path_prefix: asked.path_prefix.to_string(),
        include_request_headers: texts(&asked.include_request_headers_in_check).into_iter().chain(texts(&asked.include_headers_in_check)).collect(),
        additional_headers: asked.include_additional_headers_in_check.iter().map(|(name, value)| HeaderValue { name: name.to_string(), value: value.to_string() }).collect(),
        body: asked.include_request_body_in_check.map(|body| ExtAuthzBody { max_bytes: body.max_request_bytes, allow_partial: body.allow_partial_message, pack_as_bytes: body.pack_as_bytes }),
        headers_to_upstream_on_allow: texts(&asked.headers_to_upstream_on_allow),
        headers_to_downstream_on_deny: texts(&asked.headers_to_downstream_on_deny),
        headers_to_downstream_on_allow: texts(&asked.headers_to_downstream_on_allow),
        ..ExtAuthzProvider::default()
    };
    message.invalid = wrong_ext_authz(provider, asked, &mut message).err().unwrap_or_default();
    match found_in_spec(lens, &asked.service, asked.port) {
        Ok(backend) => message.backend = Some(backend),
        Err((_, why)) if message.invalid.is_empty() => message.invalid = why,
        Err(_) => {}
    }
    Some(message)
}

fn wrong_ext_authz(provider: &Provider, asked: &ExtAuthz, message: &mut ExtAuthzProvider) -> Result<(), String> {
    if provider.name.len() > 63 || check_name(&provider.name).is_err() || provider.name.contains('.') {
        return Err(format!("name: {:?} is no label of DNS", provider.name));
    }
    if !asked.status_on_error.is_empty() {
        message.status_on_error = asked.status_on_error.parse().ok().filter(|code| (200..=599).contains(code)).ok_or_else(|| format!("statusOnError: {:?} is no status of HTTP", asked.status_on_error))?;
    }
    let lists = [&asked.include_request_headers_in_check, &asked.headers_to_upstream_on_allow, &asked.headers_to_downstream_on_deny, &asked.headers_to_downstream_on_allow];
    if lists.into_iter().flatten().any(|name| &**name == "*") {
        return Err("a list of headers has *, which stands for all of them: name them, or their prefix".into());
    }
    Ok(())
}

fn telemetry(lens: &Lens<'_>, provider: &Provider) -> Result<TelemetryProvider, String> {
    let mut message = TelemetryProvider::default();
    let collector = |kind: ProviderKind, asked: &Collector| -> Result<TelemetryProvider, String> {
        let backend = found_in_spec(lens, &asked.service, asked.port).map_err(|(_, why)| why)?;
        let http = asked.http.clone().unwrap_or_default();
        let headers = http.headers.iter().map(|header| HeaderValue { name: header.name.to_string(), value: header.value.to_string() }).collect();
        let timeout = http.timeout.or(asked.timeout).map_or(0, |span| span.ms());
        let path = if asked.path.is_empty() { http.path } else { asked.path.clone() };
        Ok(TelemetryProvider { kind: kind as i32, backend: Some(backend), http_path: path.to_string(), http_headers: headers, timeout_ms: timeout, ..TelemetryProvider::default() })
    };
    if provider.prometheus.is_some() {
        message.kind = ProviderKind::Prometheus as i32;
    } else if let Some(asked) = &provider.envoy_file_access_log {
        message = TelemetryProvider { kind: ProviderKind::FileLog as i32, path: if asked.path.is_empty() { STDOUT.into() } else { asked.path.to_string() }, omit_empty_values: asked.omit_empty_values, ..message };
        format(asked.log_format.as_ref(), &mut message);
    } else if let Some(asked) = &provider.opentelemetry {
        message = collector(if asked.http.is_some() { ProviderKind::OtlpHttp } else { ProviderKind::OtlpGrpc }, asked)?;
    } else if let Some(asked) = &provider.zipkin {
        message = collector(ProviderKind::Zipkin, asked)?;
    } else if let Some(asked) = &provider.envoy_otel_als {
        message = collector(ProviderKind::OtlpLog, asked)?;
        format(asked.log_format.as_ref(), &mut message);
    } else {
        let kinds: Vec<&str> = provider.others.keys().map(String::as_str).collect();
        return Err(format!("no provider that can be served here: {}", if kinds.is_empty() { "it names no kind".to_owned() } else { kinds.join(", ") }));
    }
    Ok(message)
}

fn format(asked: Option<&LogFormat>, message: &mut TelemetryProvider) {
    let Some(asked) = asked else { return };
    message.text_format = asked.text.as_deref().unwrap_or_default().to_owned();
    if let Some(labels) = &asked.labels {
        message.json = true;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        message.json_labels = labels.iter().map(|(name, value)| HeaderValue { name: name.to_string(), value: text(value) }).collect();
    }
}

/// The log that `accessLogFile` and its neighbours describe.
fn default_log(lens: &Lens<'_>) -> TelemetryProvider {
    let config = lens.mesh_config();
    TelemetryProvider {
        kind: ProviderKind::FileLog as i32,
        path: config.access_log_file.as_deref().filter(|path| !path.is_empty()).unwrap_or(STDOUT).to_owned(),
        text_format: config.access_log_format.as_deref().unwrap_or_default().to_owned(),
        json: config.access_log_encoding.as_deref() == Some("JSON"),
        ..TelemetryProvider::default()
    }
}

/// Metrics always; a log where a file is named; traces where a provider is.
fn defaults(lens: &Lens<'_>, meta: Option<WireMeta>) -> Telemetry {
    let config = lens.mesh_config();
    let named = &config.default_providers;
    let or = |given: &[Arc<str>], otherwise: &[&str]| if given.is_empty() { otherwise.iter().map(|name| (*name).to_owned()).collect() } else { texts(given) };
    let logs: Vec<String> = or(&named.access_logging, if config.access_log_file.as_deref().is_some_and(|path| !path.is_empty()) { &[ENVOY] } else { &[] });
    let traces: Vec<String> = or(&named.tracing, &[]);
    Telemetry {
        meta,
        targets: vec![everywhere()],
        rank: 0,
        metrics: Some(MetricsSetting { providers: or(&named.metrics, &[PROMETHEUS]), overrides: Vec::new() }),
        access_log: (!logs.is_empty()).then(|| AccessLogSetting { providers: logs, ..AccessLogSetting::default() }),
        tracing: (!traces.is_empty()).then(|| TracingSetting { providers: traces, sampling_percent: config.default_config.tracing.sampling, ..TracingSetting::default() }),
    }
}
