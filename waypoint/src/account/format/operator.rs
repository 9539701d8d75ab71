//! The command operators, one by one.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::HeaderName;

use super::super::cel::{Headers, Program, Value};
use super::super::told::{Looks, find};
use super::super::view::View;
use super::header_name;

/// What stands between percent signs.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// One part of the request, or another where that is missing.
    Request(Part, Option<Part>),
    Response(HeaderName, Option<HeaderName>),
    Trailer(HeaderName, Option<HeaderName>),
    StartTime(Option<String>),
    Duration,
    ResponseDuration,
    ResponseTxDuration,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    TerminationDetails,
    TransportFailure,
    BytesReceived,
    BytesSent,
    WireReceived,
    WireSent,
    GrpcStatus(GrpcForm),
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocal(Show),
    UpstreamAttempts,
    DownstreamLocal(Show),
    DownstreamRemote(Show),
    DownstreamDirect(Show),
    PeerSan,
    PeerNamespace,
    LocalSan,
    TlsVersion,
    ServerName,
    RouteName,
    TraceId,
    SpanId,
    Hostname,
    Environment(String),
    Expression(Program),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Method,
    Path,
    Authority,
    Scheme,
    OriginalPath,
    Header(HeaderName),
}

/// How an address is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Whole,
    Ip,
    Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcForm {
    Number,
    Camel,
    Snake,
}

/// A value, with its type where JSON has one for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown<'a> {
    Nothing,
    Number(u64),
    Text(Cow<'a, str>),
}

impl Operator {
    /// # Errors
    /// What is not known, or misses its argument.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Operator, String> {
        let operator = match (name, argument) {
            ("REQ", Some(what)) => {
                let (first, other) = either(what);
                Operator::Request(Part::parse(first)?, other.map(Part::parse).transpose()?)
            }
            ("RESP", Some(what)) => {
                let (first, other) = either(what);
                Operator::Response(header_name(first)?, other.map(header_name).transpose()?)
            }
            ("TRAILER", Some(what)) => {
                let (first, other) = either(what);
                Operator::Trailer(header_name(first)?, other.map(header_name).transpose()?)
            }
            ("START_TIME", format) => Operator::StartTime(format.map(time_format).transpose()?),
            ("GRPC_STATUS", form) => Operator::GrpcStatus(match form {
                None | Some("" | "CAMEL_STRING") => GrpcForm::Camel,
                Some("SNAKE_STRING") => GrpcForm::Snake,
                Some("NUMBER") => GrpcForm::Number,
                Some(form) => return Err(format!("%GRPC_STATUS%: {form:?} is no form that is known")),
            }),
            ("CEL", Some(text)) => Operator::Expression(Program::parse(text).map_err(|wrong| format!("%CEL%: {wrong}"))?),
            ("ENVIRONMENT", Some(name)) => Operator::Environment(name.to_owned()),
            ("REQ" | "RESP" | "TRAILER" | "CEL" | "ENVIRONMENT", None) => {
                return Err(format!("%{name}% needs to be told of what, in parentheses"));
            }
            (_, Some(_)) => return Err(format!("%{name}(…)% is no operator that is known here")),
            (name, None) => Operator::plain(name).ok_or_else(|| format!("%{name}% is no operator that is known here"))?,
        };
        Ok(operator)
    }

    /// Those without an argument.
    fn plain(name: &str) -> Option<Operator> {
        Some(match name {
            "DURATION" => Operator::Duration,
            "RESPONSE_DURATION" => Operator::ResponseDuration,
            "RESPONSE_TX_DURATION" => Operator::ResponseTxDuration,
            "PROTOCOL" => Operator::Protocol,
            "RESPONSE_CODE" => Operator::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Operator::ResponseFlags,
            "CONNECTION_TERMINATION_DETAILS" => Operator::TerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::TransportFailure,
            "BYTES_RECEIVED" => Operator::BytesReceived,
            "BYTES_SENT" => Operator::BytesSent,
            "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Operator::WireReceived,
            "DOWNSTREAM_WIRE_BYTES_SENT" => Operator::WireSent,
            "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcForm::Number),
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
            "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocal(Show::Whole),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::UpstreamLocal(Show::Ip),
            "UPSTREAM_LOCAL_PORT" => Operator::UpstreamLocal(Show::Port),
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamAttempts,
            "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocal(Show::Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocal(Show::Ip),
            "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocal(Show::Port),
            "DOWNSTREAM_REMOTE_ADDRESS" => Operator::DownstreamRemote(Show::Whole),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamRemote(Show::Ip),
            "DOWNSTREAM_REMOTE_PORT" => Operator::DownstreamRemote(Show::Port),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::DownstreamDirect(Show::Whole),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamDirect(Show::Ip),
            "DOWNSTREAM_DIRECT_REMOTE_PORT" => Operator::DownstreamDirect(Show::Port),
            "DOWNSTREAM_PEER_URI_SAN" => Operator::PeerSan,
            "DOWNSTREAM_PEER_NAMESPACE" => Operator::PeerNamespace,
            "DOWNSTREAM_LOCAL_URI_SAN" => Operator::LocalSan,
            "DOWNSTREAM_TLS_VERSION" => Operator::TlsVersion,
            "REQUESTED_SERVER_NAME" => Operator::ServerName,
            "ROUTE_NAME" => Operator::RouteName,
            "TRACE_ID" => Operator::TraceId,
            "SPAN_ID" => Operator::SpanId,
            "HOSTNAME" => Operator::Hostname,
            _ => return None,
        })
    }

    pub fn looks(&self, looks: &mut Looks) {
        match self {
            Operator::Request(part, other) => {
                for part in [Some(part), other.as_ref()].into_iter().flatten() {
                    if let Part::Header(name) = part {
                        looks.at_request(name);
                    }
                }
            }
            Operator::Response(name, other) => {
                looks.at_response(name);
                if let Some(other) = other {
                    looks.at_response(other);
                }
            }
            Operator::Trailer(..) => looks.trailers = true,
            Operator::Expression(program) => expression_looks(program, looks),
            _ => {}
        }
    }

    pub fn value<'a>(&'a self, view: &'a View<'a>) -> Shown<'a> {
        let told = view.told;
        match self {
            Operator::Request(part, other) => {
                Shown::of(part.value(view).or_else(|| other.as_ref().and_then(|other| other.value(view))))
            }
            Operator::Response(name, other) => {
                let one = |name: &HeaderName| match name.as_str() {
                    "x-envoy-upstream-service-time" => view.upstream_service_time(),
                    _ => view.response_header(name),
                };
                Shown::of(one(name).or_else(|| other.as_ref().and_then(one)))
            }
            Operator::Trailer(name, other) => {
                let trailers = told.flows.trailers.lock();
                let one = |name: &HeaderName| {
                    let value = trailers.as_ref()?.get(name)?;
                    Some(Cow::Owned(String::from_utf8_lossy(value.as_bytes()).into_owned()))
                };
                Shown::of(one(name).or_else(|| other.as_ref().and_then(one)))
            }
            Operator::StartTime(format) => Shown::owned(start_time(view, format.as_deref())),
            Operator::Duration => millis(Some(view.duration())),
            Operator::ResponseDuration => millis(told.answered.map(|at| at.saturating_duration_since(told.begun))),
            Operator::ResponseTxDuration => millis(told.answered.map(|at| view.ended.saturating_duration_since(at))),
            Operator::Protocol => Shown::of(told.protocol().map(Cow::from)),
            Operator::ResponseCode => Shown::Number(told.response_code().into()),
            Operator::ResponseCodeDetails => Shown::of(told.details.as_deref().map(Cow::from)),
            Operator::ResponseFlags => Shown::owned(told.flags.to_string()),
            Operator::TerminationDetails => Shown::of(told.termination.as_deref().map(Cow::from)),
            Operator::TransportFailure => Shown::of(told.transport_failure.as_deref().map(Cow::from)),
            Operator::BytesReceived => Shown::Number(view.body_received()),
            Operator::BytesSent => Shown::Number(view.body_sent()),
            Operator::WireReceived => Shown::Number(view.received()),
            Operator::WireSent => Shown::Number(view.sent()),
            Operator::GrpcStatus(form) => match told.flows.grpc_status() {
                None => Shown::Nothing,
                Some(status) => form.show(status),
            },
            Operator::UpstreamHost => Shown::of(told.upstream.map(|address| address.to_string().into())),
            Operator::UpstreamCluster => Shown::of(told.cluster().map(Cow::from)),
            Operator::UpstreamLocal(show) => show.address(told.upstream_local),
            Operator::UpstreamAttempts => Shown::Number(told.attempts.into()),
            Operator::DownstreamLocal(show) => show.address(told.local_address()),
            Operator::DownstreamRemote(show) => show.address(Some(told.arrival.source)),
            Operator::DownstreamDirect(show) => show.address(Some(told.arrival.peer)),
            Operator::PeerSan => Shown::owned(told.arrival.identity.to_string()),
            Operator::PeerNamespace => Shown::Text(Cow::from(&*told.arrival.identity.namespace)),
            Operator::LocalSan => Shown::owned(view.own.identity.to_string()),
            // The only version that a tunnel is accepted with.
            Operator::TlsVersion => Shown::Text("TLSv1.3".into()),
            Operator::ServerName => Shown::of(told.sni.as_deref().map(Cow::from)),
            Operator::RouteName => Shown::of(told.route.as_deref().filter(|name| !name.is_empty()).map(Cow::from)),
            Operator::TraceId => Shown::of(told.trace.as_ref().map(|trace| trace.id_text().into())),
            Operator::SpanId => Shown::of(told.trace.as_ref().map(|trace| trace.span_text().into())),
            Operator::Hostname => Shown::Text(Cow::from(&*view.own.hostname)),
            Operator::Environment(name) => Shown::of(view.own.environment.get(name).map(Cow::from)),
            Operator::Expression(program) => match program.value(view) {
                None => Shown::Nothing,
                Some(Value::Int(number)) if number >= 0 => Shown::Number(number.unsigned_abs()),
                Some(value) => Shown::owned(value.to_string()),
            },
        }
    }
}

/// What an expression needs kept.
pub fn expression_looks(program: &Program, looks: &mut Looks) {
    looks.head |= program.looks_at_head();
    program.headers(Headers::Request).iter().for_each(|name| looks.at_request(name));
    program.headers(Headers::Response).iter().for_each(|name| looks.at_response(name));
    program.attributes(|attribute| {
        if let Some(name) = attribute.header() {
            looks.at_request(&name);
        }
    });
}

impl Part {
    fn parse(name: &str) -> Result<Part, String> {
        Ok(match name.trim().to_ascii_lowercase().as_str() {
            ":method" => Part::Method,
            ":path" => Part::Path,
            ":authority" | "host" => Part::Authority,
            ":scheme" => Part::Scheme,
            "x-envoy-original-path" => Part::OriginalPath,
            name => Part::Header(header_name(name)?),
        })
    }

    fn value<'a>(&self, view: &View<'a>) -> Option<Cow<'a, str>> {
        let head = view.told.head.as_deref()?;
        match self {
            Part::Method => Some(head.method.as_str().into()),
            Part::Path => Some(head.path.as_str().into()),
            Part::Authority => Some(head.authority.as_str().into()),
            Part::Scheme => Some(head.scheme.as_ref().into()),
            Part::OriginalPath => head.original_path.as_deref().map(Cow::from),
            Part::Header(name) => find(&head.headers, name).map(|value| String::from_utf8_lossy(value.as_bytes())),
        }
    }
}

impl<'a> Shown<'a> {
    fn of(text: Option<Cow<'a, str>>) -> Shown<'a> {
        match text {
            Some(text) if !text.is_empty() => Shown::Text(text),
            _ => Shown::Nothing,
        }
    }

    fn owned(text: String) -> Shown<'a> {
        Shown::of(Some(text.into()))
    }
}

impl Show {
    fn address<'a>(self, address: Option<SocketAddr>) -> Shown<'a> {
        let Some(address) = address else { return Shown::Nothing };
        match self {
            Show::Whole => Shown::owned(address.to_string()),
            Show::Ip => Shown::owned(address.ip().to_string()),
            Show::Port => Shown::Number(address.port().into()),
        }
    }
}

impl GrpcForm {
    fn show<'a>(self, status: u32) -> Shown<'a> {
        let names = GRPC_STATUS.get(status as usize);
        match (self, names) {
            (GrpcForm::Number, _) | (_, None) => Shown::Number(status.into()),
            (GrpcForm::Camel, Some((camel, _))) => Shown::Text((*camel).into()),
            (GrpcForm::Snake, Some((_, snake))) => Shown::Text((*snake).into()),
        }
    }
}

/// gRPC's statuses by number.
const GRPC_STATUS: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// `a?b`: b where there is no a.
fn either(what: &str) -> (&str, Option<&str>) {
    match what.split_once('?') {
        Some((first, other)) => (first, Some(other)),
        None => (what, None),
    }
}

fn millis<'a>(duration: Option<std::time::Duration>) -> Shown<'a> {
    duration.map_or(Shown::Nothing, |duration| Shown::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

/// A format of times, tried once.
fn time_format(format: &str) -> Result<String, String> {
    match shown_time(jiff::Timestamp::UNIX_EPOCH, format) {
        Ok(_) => Ok(format.to_owned()),
        Err(error) => Err(format!("%START_TIME%: {error}")),
    }
}

fn shown_time(time: jiff::Timestamp, format: &str) -> Result<String, jiff::Error> {
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &time)
}

fn start_time(view: &View<'_>, format: Option<&str>) -> String {
    let time = jiff::Timestamp::try_from(view.told.begun_at).unwrap_or_default();
    match format {
        None => format!("{time:.3}"),
        Some(format) => shown_time(time, format).unwrap_or_default(),
    }
}
