//! One request that has ended, as expressions, lines and spans ask for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue};
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Workload;

use super::cel::{Asked, Attribute, Headers, Value};
use super::told::{Kind, Told};

/// Who tells: this proxy.
#[derive(Clone, Debug)]
pub struct Own {
    pub identity: SpiffeId,
    /// Of the Gateway.
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub cluster: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub mesh_id: Arc<str>,
    /// As the controller knows it: `waypoint~IP~POD.NAMESPACE~…`.
    pub node_id: Arc<str>,
    pub hostname: Arc<str>,
    pub version: Arc<str>,
    /// What tags may ask of it.
    pub environment: BTreeMap<String, String>,
}

/// What was told, when it ended, and who tells.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub told: &'a Told,
    pub own: &'a Own,
    pub ended: Instant,
}

impl<'a> View<'a> {
    pub fn duration(&self) -> Duration {
        self.ended.saturating_duration_since(self.told.begun)
    }

    pub fn body_received(&self) -> u64 {
        self.told.flows.request.body.load(Relaxed)
    }

    pub fn body_sent(&self) -> u64 {
        self.told.flows.response.body.load(Relaxed)
    }

    /// With heads, trailers and framing.
    pub fn received(&self) -> u64 {
        self.body_received() + self.told.flows.request.around.load(Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.body_sent() + self.told.flows.response.around.load(Relaxed)
    }

    pub fn request_header(&self, name: &HeaderName) -> Option<Cow<'a, str>> {
        self.told.request_header(name).map(shown)
    }

    pub fn response_header(&self, name: &HeaderName) -> Option<Cow<'a, str>> {
        self.told.response_header(name).map(shown)
    }

    /// Milliseconds that the upstream took, as the header says it or as it was measured.
    pub fn upstream_service_time(&self) -> Option<Cow<'a, str>> {
        self.response_header(&HeaderName::from_static("x-envoy-upstream-service-time"))
            .or_else(|| self.told.upstream_time().map(|time| time.as_millis().to_string().into()))
    }

    pub fn source(&self) -> Option<&'a Workload> {
        self.told.arrival.source_workload.as_deref()
    }

    pub fn destination(&self) -> Option<&'a Workload> {
        self.told.endpoint.as_deref()
    }

    /// The path without its query.
    pub fn url_path(&self) -> Option<&'a str> {
        let path = self.told.head.as_ref()?.path.as_str();
        Some(path.split_once('?').map_or(path, |(path, _)| path))
    }
}

/// A header's value as text; what is not UTF-8 in it is replaced.
fn shown(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

impl Asked for View<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        use Attribute::*;
        let told = self.told;
        let number = |number: u64| Some(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
        let of = |workload: Option<&'_ Workload>, of: fn(&Workload) -> &Arc<str>| {
            workload.map(|workload| of(workload).to_string()).filter(|text| !text.is_empty()).map(owned)
        };
        match attribute {
            RequestPath => head(told, |head| head.path.as_str().into()),
            RequestUrlPath => self.url_path().map(|path| Value::Text(path.into())),
            RequestQuery => head(told, |head| head.path.split_once('?').map_or("", |(_, query)| query).into()),
            RequestHost => head(told, |head| head.authority.as_str().into()),
            RequestScheme => head(told, |head| head.scheme.clone()),
            RequestMethod => head(told, |head| head.method.as_str().into()),
            RequestId | RequestUserAgent | RequestReferer => self.request_header(&attribute.header()?).map(Value::Text),
            RequestTime => {
                let since = told.begun_at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                i64::try_from(since.as_nanos()).ok().map(Value::Time)
            }
            RequestSize => number(self.body_received()),
            RequestTotalSize => number(self.received()),
            RequestProtocol => told.protocol().map(|protocol| Value::Text(protocol.into())),
            RequestDuration => i64::try_from(self.duration().as_nanos()).ok().map(Value::Duration),
            ResponseCode => match told.kind {
                Kind::Request { .. } => number(told.response_code().into()),
                Kind::Stream => None,
            },
            ResponseCodeDetails => told.details.as_deref().map(|details| Value::Text(details.into())),
            ResponseFlags => Some(owned(told.flags.to_string())),
            ResponseGrpcStatus => told.flows.grpc_status().and_then(|status| number(status.into())),
            ResponseSize => number(self.body_sent()),
            ResponseTotalSize => number(self.sent()),
            // A tunnel's ends have proved who they are, always.
            ConnectionMtls => Some(Value::Bool(true)),
            ConnectionServerName => told.sni.as_deref().map(|name| Value::Text(name.into())),
            ConnectionPeerSan => Some(owned(told.arrival.identity.to_string())),
            ConnectionTermination => told.termination.as_deref().map(|details| Value::Text(details.into())),
            UpstreamAddress => told.upstream.map(|address| owned(address.to_string())),
            UpstreamFailure => told.transport_failure.as_deref().map(|failure| Value::Text(failure.into())),
            UpstreamAttempts => number(told.attempts.into()),
            UpstreamCluster => told.cluster().map(owned),
            RouteName => told.route.as_deref().map(|name| Value::Text(name.into())),
            SourceAddress => Some(owned(told.arrival.source.to_string())),
            SourcePort => number(told.arrival.source.port().into()),
            SourcePrincipal => Some(owned(told.arrival.identity.to_string())),
            SourceWorkload => of(self.source(), |workload| &workload.workload_name),
            SourceNamespace => Some(owned(told.arrival.identity.namespace.to_string())),
            SourceCluster => of(self.source(), |workload| &workload.cluster_id),
            SourceService => of(self.source(), |workload| &workload.canonical_name),
            SourceRevision => of(self.source(), |workload| &workload.canonical_revision),
            DestinationAddress => told.local_address().map(|address| owned(address.to_string())),
            DestinationPort => number(told.arrival.target.port().into()),
            DestinationPrincipal => self.destination().map(|workload| owned(workload.identity().to_string())),
            DestinationWorkload => of(self.destination(), |workload| &workload.workload_name),
            DestinationNamespace => of(self.destination(), |workload| &workload.namespace),
            DestinationCluster => of(self.destination(), |workload| &workload.cluster_id),
            DestinationCanonicalService => of(self.destination(), |workload| &workload.canonical_name),
            DestinationRevision => of(self.destination(), |workload| &workload.canonical_revision),
            DestinationService => told.service.as_ref().map(|service| owned(service.host.hostname.to_string())),
        }
    }

    fn header(&self, of: Headers, name: &HeaderName) -> Option<Cow<'_, str>> {
        match of {
            Headers::Request => self.request_header(name),
            Headers::Response => self.response_header(name),
        }
    }
}

fn owned(text: String) -> Value<'static> {
    Value::Text(text.into())
}

fn head<'a>(told: &'a Told, of: impl FnOnce(&'a super::told::Seen) -> Cow<'a, str>) -> Option<Value<'a>> {
    told.head.as_deref().map(|head| Value::Text(of(head)))
}
