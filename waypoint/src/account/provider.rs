//! Where lines and spans go: a provider of the mesh's configuration, read. Pure, but for the place where an opened file is
//! remembered.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_telemetry::Lines;
use mesh_xds::messages::waypoint::{BackendRef, ProviderKind, TelemetryProvider};

use super::format::Format;
use crate::facts::Rejection;

#[derive(Debug)]
pub struct Provider {
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Prometheus,
    File {
        path: String,
        format: Format,
        /// Filled when the first line is written.
        lines: OnceLock<Option<Lines>>,
    },
    Otlp {
        to: Collector,
        way: OtlpWay,
    },
    Zipkin {
        to: Collector,
    },
    /// The text is the record's body.
    OtlpLog {
        to: Collector,
        format: Format,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum OtlpWay {
    Grpc,
    Http,
}

/// Who takes spans.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    pub backend: BackendRef,
    pub path: String,
    pub headers: HeaderMap,
    pub timeout: Duration,
}

/// As the OTLP exporters of the field do where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// # Errors
/// What of the object is not understood.
pub fn compile_provider(wire: &TelemetryProvider) -> Result<Provider, Rejection> {
    let kind = ProviderKind::try_from(wire.kind)
        .map_err(|_| Rejection::new("UnsupportedProvider", format!("kind {} is not known here", wire.kind)))?;
    let format = || match wire.json || !wire.json_labels.is_empty() {
        true => Format::json(&wire.json_labels, wire.omit_empty_values),
        false => Format::text(&wire.text_format, wire.omit_empty_values),
    };
    let format = || format().map_err(|message| Rejection::new("InvalidFormat", message));
    let kind = match kind {
        ProviderKind::Prometheus => Kind::Prometheus,
        ProviderKind::FileLog => {
            if !wire.path.starts_with('/') {
                return Err(Rejection::new("InvalidPath", format!("path {:?} does not begin with /", wire.path)));
            }
            Kind::File { path: wire.path.clone(), format: format()?, lines: OnceLock::new() }
        }
        ProviderKind::OtlpGrpc => Kind::Otlp { to: collector(wire, "")?, way: OtlpWay::Grpc },
        ProviderKind::OtlpHttp => Kind::Otlp { to: collector(wire, "/v1/traces")?, way: OtlpWay::Http },
        ProviderKind::Zipkin => Kind::Zipkin { to: collector(wire, "/api/v2/spans")? },
        ProviderKind::OtlpLog => Kind::OtlpLog { to: collector(wire, "")?, format: format()? },
    };
    Ok(Provider { kind })
}

fn collector(wire: &TelemetryProvider, path: &str) -> Result<Collector, Rejection> {
    let backend = wire.backend.clone().filter(|backend| backend.host.is_some());
    let backend = backend.ok_or_else(|| Rejection::new("NoBackend", "the provider names no service"))?;
    let mut headers = HeaderMap::new();
    for header in &wire.http_headers {
        let wrong = || Rejection::new("InvalidHeader", format!("{:?} is no header with that value", header.name));
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(&header.value).map_err(|_| wrong())?);
    }
    let path = if wire.http_path.is_empty() { path } else { &wire.http_path };
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Rejection::new("InvalidPath", format!("path {path:?} does not begin with /")));
    }
    let timeout = if wire.timeout_ms == 0 { TIMEOUT } else { Duration::from_millis(wire.timeout_ms) };
    Ok(Collector { backend, path: path.to_owned(), headers, timeout })
}

impl Provider {
    /// Those that exist without an object of the mesh's configuration: `prometheus`, and `envoy`, the log to the
    /// standard output.
    pub fn built_in(name: &str) -> Option<Arc<Provider>> {
        let kind = match name {
            "prometheus" => Kind::Prometheus,
            "envoy" => {
                Kind::File { path: "/dev/stdout".to_owned(), format: Format::text("", false).ok()?, lines: OnceLock::new() }
            }
            _ => return None,
        };
        Some(Arc::new(Provider { kind }))
    }

    /// How its lines look, if it has lines.
    pub fn format(&self) -> Option<&Format> {
        match &self.kind {
            Kind::File { format, .. } | Kind::OtlpLog { format, .. } => Some(format),
            Kind::Prometheus | Kind::Otlp { .. } | Kind::Zipkin { .. } => None,
        }
    }

    /// Who takes its spans or records.
    pub fn collector(&self) -> Option<&Collector> {
        match &self.kind {
            Kind::Otlp { to, .. } | Kind::Zipkin { to } | Kind::OtlpLog { to, .. } => Some(to),
            Kind::Prometheus | Kind::File { .. } => None,
        }
    }
}
