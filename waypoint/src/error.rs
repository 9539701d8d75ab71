//! Why a request ended as it did: one exhaustive list, and one table that gives each reason its words.
//!
//! The words are the status of the answer, the flags and the details that access logs and metrics carry
//! (spec/waypoint.md 6.2), the text that the client reads, and the gRPC status where it is not the one that the HTTP
//! status implies. A client is told what it can act on; what is inside of the mesh is in the details.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::exchange::Fault;
use crate::upstream::{ConnectError, Kind};

/// Codes of `response_flags`; several at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal as $word:literal,)+) => {
        impl Flags {
            $(pub const $name: Flags = Flags(1 << $bit);)+

            const WORDS: &[(Flags, &'static str)] = &[$((Flags::$name, $word)),+];
        }
    };
}

flags! {
    NO_HEALTHY_UPSTREAM = 0 as "UH",
    UPSTREAM_CONNECT = 1 as "UF",
    OVERFLOW = 2 as "UO",
    NO_ROUTE = 3 as "NR",
    NO_CLUSTER = 4 as "NC",
    RETRIES_EXHAUSTED = 5 as "URX",
    UPSTREAM_TIMEOUT = 6 as "UT",
    UPSTREAM_CLOSED = 7 as "UC",
    UPSTREAM_RESET = 8 as "UR",
    LOCAL_RESET = 9 as "LR",
    DOWNSTREAM_CLOSED = 10 as "DC",
    DOWNSTREAM_RESET = 11 as "DR",
    DOWNSTREAM_PROTOCOL = 12 as "DPE",
    UPSTREAM_PROTOCOL = 13 as "UPE",
    DELAY_INJECTED = 14 as "DI",
    FAULT_INJECTED = 15 as "FI",
    RATE_LIMITED = 16 as "RL",
    RATE_SERVICE = 17 as "RLSE",
    EXT_AUTHZ = 18 as "UAEX",
    IDLE = 19 as "SI",
    OVERLOADED = 20 as "OM",
    NAME_UNRESOLVED = 21 as "DF",
}

impl Flags {
    pub const NONE: Flags = Flags(0);

    pub fn and(self, more: Flags) -> Flags {
        Flags(self.0 | more.0)
    }

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// The flag of a word of the field; none of a word that is none.
    pub fn of_word(word: &str) -> Flags {
        Flags::WORDS.iter().find(|(_, known)| *known == word).map_or(Flags::NONE, |(flag, _)| *flag)
    }
}

/// `-`, or the words with commas between.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Flags::NONE {
            return f.write_str("-");
        }
        let mut first = true;
        for (_, word) in Flags::WORDS.iter().filter(|(flag, _)| self.has(*flag)) {
            if !std::mem::take(&mut first) {
                f.write_str(",")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

/// Why a request ended with the answer that it got.
#[derive(Clone, Debug)]
pub enum Reason {
    /// The endpoint answered; whatever it answered.
    Upstream,
    /// A route answers by itself: a redirect, a direct response, a preflight.
    Direct(StatusCode),
    /// What arrived is no request that may be forwarded.
    Malformed(Malformed),
    /// A plain CONNECT to a port that is no proxy's.
    ConnectRefused,
    /// HTTP/1.0, which is switched off.
    OldVersion,
    UriTooLong,
    HeadersTooLarge,
    /// A body that had to be held in memory and is larger than may be held.
    BodyTooLarge,
    Jwt {
        text: &'static str,
        details: Arc<str>,
    },
    Rbac {
        details: Arc<str>,
    },
    ExtAuthz {
        status: StatusCode,
        details: Arc<str>,
    },
    RateLimited {
        status: StatusCode,
        grpc: Option<u16>,
    },
    RateServiceFailed,
    /// Asked for by a route.
    FaultAbort {
        status: StatusCode,
        grpc: Option<u16>,
    },
    RouteNotFound,
    /// A route, or the backend that was drawn, cannot be done as it is written.
    Invalid {
        status: StatusCode,
        reason: Arc<str>,
    },
    /// No such subset, or a name that is not the service's.
    NoCluster {
        status: StatusCode,
    },
    NoHealthyUpstream,
    Overflow,
    /// One client has as many requests in flight here as one may.
    ClientOverLimit,
    Fault(Fault),
    RequestTimeout,
    AttemptTimeout,
    /// The deadline that a gRPC client gave.
    DeadlineExceeded,
    /// Nothing has come or gone for as long as policy allows.
    StreamIdle,
    /// The client went away.
    ClientGone,
    /// After the head of the response was sent on, its body broke.
    UpstreamBroke(Arc<str>),
    /// We failed; the details are in the log.
    Internal,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    Method,
    Target,
    Authority,
    NoHost,
    ManyHosts,
    HostConflict,
    Duplicate,
    PathEscape,
    PathNul,
    PathFragment,
    EscapedSlash,
    Transfer,
    HeaderCount,
    GrpcTimeout,
}

/// What a reason looks like to the client and to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub status: StatusCode,
    pub flags: Flags,
    pub details: Cow<'static, str>,
    pub text: Cow<'static, str>,
    /// Where the status does not imply it.
    pub grpc: Option<u16>,
}

/// gRPC's own numbers.
pub const GRPC_UNKNOWN: u16 = 2;
pub const GRPC_DEADLINE_EXCEEDED: u16 = 4;
pub const GRPC_PERMISSION_DENIED: u16 = 7;
pub const GRPC_RESOURCE_EXHAUSTED: u16 = 8;
pub const GRPC_UNIMPLEMENTED: u16 = 12;
pub const GRPC_INTERNAL: u16 = 13;
pub const GRPC_UNAVAILABLE: u16 = 14;
pub const GRPC_UNAUTHENTICATED: u16 = 16;

/// What a gRPC client is told in place of an HTTP status (spec/waypoint.md 1.7).
pub fn grpc_of_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 | 431 => GRPC_INTERNAL,
        401 => GRPC_UNAUTHENTICATED,
        403 => GRPC_PERMISSION_DENIED,
        404 => GRPC_UNIMPLEMENTED,
        429 | 502..=504 => GRPC_UNAVAILABLE,
        _ => GRPC_UNKNOWN,
    }
}

impl Malformed {
    pub fn word(self) -> &'static str {
        match self {
            Malformed::Method => "invalid_method",
            Malformed::Target => "invalid_target",
            Malformed::Authority => "invalid_authority",
            Malformed::NoHost => "missing_host",
            Malformed::ManyHosts => "several_hosts",
            Malformed::HostConflict => "host_conflict",
            Malformed::Duplicate => "duplicate_header",
            Malformed::PathEscape => "invalid_escape_in_path",
            Malformed::PathNul => "nul_in_path",
            Malformed::PathFragment => "fragment_in_path",
            Malformed::EscapedSlash => "escaped_slash_in_path",
            Malformed::Transfer => "invalid_transfer_encoding",
            Malformed::HeaderCount => "too_many_headers",
            Malformed::GrpcTimeout => "invalid_grpc_timeout",
        }
    }
}

impl Reason {
    pub fn status(&self) -> StatusCode {
        self.words().status
    }

    pub fn words(&self) -> Words {
        use StatusCode as S;
        let (status, flags, details, text): (S, Flags, Cow<'static, str>, Cow<'static, str>) = match self {
            Reason::Upstream => (S::OK, Flags::NONE, "via_upstream".into(), "".into()),
            Reason::Direct(status) => (*status, Flags::NONE, "direct_response".into(), "".into()),
            Reason::Malformed(Malformed::HeaderCount) => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Flags::DOWNSTREAM_PROTOCOL,
                "too_many_headers".into(),
                "too many headers".into(),
            ),
            Reason::Malformed(what) => {
                (S::BAD_REQUEST, Flags::DOWNSTREAM_PROTOCOL, what.word().into(), what.word().replace('_', " ").into())
            }
            Reason::ConnectRefused => {
                (S::METHOD_NOT_ALLOWED, Flags::NONE, "connect_refused".into(), "CONNECT is not allowed here".into())
            }
            Reason::OldVersion => {
                (S::UPGRADE_REQUIRED, Flags::DOWNSTREAM_PROTOCOL, "low_version".into(), "HTTP/1.1 is required".into())
            }
            Reason::UriTooLong => {
                (S::URI_TOO_LONG, Flags::DOWNSTREAM_PROTOCOL, "uri_too_long".into(), "the URI is too long".into())
            }
            Reason::HeadersTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Flags::DOWNSTREAM_PROTOCOL,
                "request_headers_too_large".into(),
                "the headers are too large".into(),
            ),
            Reason::BodyTooLarge => {
                (S::PAYLOAD_TOO_LARGE, Flags::NONE, "request_payload_too_large".into(), "the body is too large".into())
            }
            Reason::Jwt { text, details } => (S::UNAUTHORIZED, Flags::NONE, details.to_string().into(), (*text).into()),
            Reason::Rbac { details } => (S::FORBIDDEN, Flags::NONE, details.to_string().into(), "RBAC: access denied".into()),
            Reason::ExtAuthz { status, details } => (*status, Flags::EXT_AUTHZ, details.to_string().into(), "".into()),
            Reason::RateLimited { status, .. } => {
                (*status, Flags::RATE_LIMITED, "request_rate_limited".into(), "too many requests".into())
            }
            Reason::RateServiceFailed => (
                S::INTERNAL_SERVER_ERROR,
                Flags::RATE_SERVICE,
                "rate_limiter_error".into(),
                "the rate limit service failed".into(),
            ),
            Reason::FaultAbort { status, .. } => {
                (*status, Flags::FAULT_INJECTED, "fault_filter_abort".into(), "fault filter abort".into())
            }
            Reason::RouteNotFound => (S::NOT_FOUND, Flags::NO_ROUTE, "route_not_found".into(), "no route".into()),
            Reason::Invalid { status, reason } => (
                *status,
                Flags::NO_CLUSTER,
                format!("cluster_not_found{{{reason}}}").into(),
                "the route has no valid backend".into(),
            ),
            Reason::NoCluster { status } => (*status, Flags::NO_CLUSTER, "cluster_not_found".into(), "no such backend".into()),
            Reason::NoHealthyUpstream => {
                (S::SERVICE_UNAVAILABLE, Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream".into(), "no healthy upstream".into())
            }
            Reason::Overflow => (
                S::SERVICE_UNAVAILABLE,
                Flags::OVERFLOW,
                "upstream_reset_before_response_started{overflow}".into(),
                "upstream connect error: too many requests to this backend".into(),
            ),
            Reason::ClientOverLimit => (
                S::SERVICE_UNAVAILABLE,
                Flags::OVERLOADED,
                "overload".into(),
                "too many requests of this client in flight".into(),
            ),
            Reason::Fault(fault) => return fault_words(fault),
            Reason::RequestTimeout => {
                (S::GATEWAY_TIMEOUT, Flags::UPSTREAM_TIMEOUT, "response_timeout".into(), "upstream request timeout".into())
            }
            Reason::AttemptTimeout => (
                S::GATEWAY_TIMEOUT,
                Flags::UPSTREAM_TIMEOUT,
                "upstream_per_try_timeout".into(),
                "upstream request timeout".into(),
            ),
            Reason::DeadlineExceeded => (
                S::GATEWAY_TIMEOUT,
                Flags::UPSTREAM_TIMEOUT,
                "response_timeout{grpc_deadline}".into(),
                "deadline exceeded".into(),
            ),
            Reason::StreamIdle => {
                (S::GATEWAY_TIMEOUT, Flags::IDLE, "stream_idle_timeout".into(), "the stream was idle for too long".into())
            }
            // No status: nobody was there to be told.
            Reason::ClientGone => (CLIENT_GONE, Flags::DOWNSTREAM_CLOSED, "downstream_remote_disconnect".into(), "".into()),
            Reason::UpstreamBroke(why) => (
                S::BAD_GATEWAY,
                Flags::UPSTREAM_CLOSED,
                format!("upstream_reset_after_response_started{{{why}}}").into(),
                "".into(),
            ),
            Reason::Internal => (S::INTERNAL_SERVER_ERROR, Flags::NONE, "internal_error".into(), "internal error".into()),
        };
        Words { status, flags, details, text, grpc: self.grpc() }
    }

    /// gRPC's status where it does not follow from HTTP's.
    fn grpc(&self) -> Option<u16> {
        match self {
            Reason::FaultAbort { grpc, .. } | Reason::RateLimited { grpc, .. } => *grpc,
            Reason::DeadlineExceeded => Some(GRPC_DEADLINE_EXCEEDED),
            _ => None,
        }
    }
}

/// What a log shows where the client did not wait for an answer: the field's own number for it.
pub const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => unreachable!(),
};

fn fault_words(fault: &Fault) -> Words {
    let before = |what: &str| -> Cow<'static, str> { format!("upstream_reset_before_response_started{{{what}}}").into() };
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, flags, details, text) = match fault {
        Fault::Connect(ConnectError { kind: Kind::Loop, .. }) => {
            (StatusCode::LOOP_DETECTED, Flags::UPSTREAM_CONNECT, "loop_detected".into(), "this leads in a circle")
        }
        Fault::Connect(error) => {
            let flags = match error.kind {
                Kind::Name => Flags::UPSTREAM_CONNECT.and(Flags::NAME_UNRESOLVED),
                _ => Flags::UPSTREAM_CONNECT,
            };
            (unavailable, flags, before(&format!("connection_failure|{error}")), "upstream connect error: connection failure")
        }
        Fault::Refused(_) => (
            unavailable,
            Flags::UPSTREAM_RESET,
            before("remote_refused_stream_reset"),
            "upstream connect error: the stream was refused",
        ),
        Fault::Closed { .. } => (
            unavailable,
            Flags::UPSTREAM_CLOSED,
            before("connection_termination"),
            "upstream connect error: the connection ended",
        ),
        Fault::Reset(_) => {
            (unavailable, Flags::UPSTREAM_RESET, before("remote_reset"), "upstream connect error: the request was reset")
        }
        Fault::Protocol(_) => (
            StatusCode::BAD_GATEWAY,
            Flags::UPSTREAM_PROTOCOL,
            before("protocol_error"),
            "upstream connect error: protocol error",
        ),
        Fault::Body(_) => {
            (StatusCode::BAD_REQUEST, Flags::DOWNSTREAM_PROTOCOL, "request_body_broke".into(), "the request's body broke")
        }
    };
    Words { status, flags, details, text: text.into(), grpc: None }
}
