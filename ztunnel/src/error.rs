//! Why a connection did not come about, or ended: `Refusal` when we said no, `Failure` when the world broke.
//!
//! Every variant leads to one `Reason`, and one match without a default gives a reason its words: the code in the log, in
//! the metric and in `GET /why`, the sentence and the advice for the operator, the HTTP status, the response flag and
//! whether traffic metrics count it (spec/dataplane.md 5.8, 8.1). A new variant is a new word that operators see.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_hbone::{Malformed, OpenError, ServeError};
use mesh_model::address::GatewayDestination;
use mesh_model::workload::Uid;
use mesh_policy::Because;
use mesh_telemetry::labels::ResponseFlags;

/// The natural way of a connection. The same six words are file names, span names and headings of docs/journey.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Capture,
    Resolve,
    Authorize,
    Tunnel,
    Relay,
    Account,
}

/// Whose fault a failure is, seen from this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Who we connect to.
    Upstream,
    /// Who connected to us.
    Downstream,
    Ours,
}

/// We decided not to carry the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The destination is one of our own ports: carrying it would end in a loop.
    SelfCall {
        to: SocketAddr,
    },
    /// The control plane has not told us about the pod itself in the time we wait.
    UnknownOwnWorkload {
        pod: Arc<str>,
    },
    /// The waypoint in front of the destination is not known, or has no endpoint.
    UnknownWaypoint {
        waypoint: GatewayDestination,
        port: u16,
    },
    /// The gateway in front of the destination's network is not known, or has no endpoint.
    UnknownNetworkGateway {
        gateway: GatewayDestination,
        port: u16,
    },
    /// A service without an endpoint for this port.
    NoHealthyUpstream {
        to: SocketAddr,
    },
    /// The workload has no address and no gateway in front of it.
    NoRoute {
        workload: Uid,
    },
    /// A workload of another network that was addressed by itself: only services reach across networks.
    NoServiceForAddress {
        to: SocketAddr,
    },
    /// The destination is in another network, which this version does not reach.
    CrossNetwork {
        network: Arc<str>,
    },
    /// The workload is known by a hostname only, and DNS gave no address for it.
    NameUnresolved {
        hostname: Arc<str>,
    },
    /// Nobody is known at an address that belongs to the mesh (`MESH_RANGES`): as plaintext it would pass by policy.
    UnknownInMesh {
        to: SocketAddr,
    },
    /// The decision still lacked something after everything that it may ask for was fetched.
    TooManyRounds {
        to: SocketAddr,
    },
    /// The stream is no CONNECT, or it names no target.
    Malformed(Malformed),
    /// The target is neither this pod nor anything that it is a waypoint of.
    IpMismatch {
        asked: SocketAddr,
        own: IpAddr,
    },
    UnknownHostname {
        hostname: Arc<str>,
    },
    /// The service exists, and no port of this pod serves this port of it.
    UnresolvedPort {
        hostname: Arc<str>,
        port: u16,
    },
    /// A PROXY header needs an address of the service, and it has none.
    NoVip {
        hostname: Arc<str>,
    },
    /// Policy, when the connection came.
    Denied(Because),
    /// Policy, later: what allowed the connection no longer does.
    PermitLost(Because),
    /// Policy, about a connection that is older than its pod's enrolment and passes us by.
    Older(Because),
    /// The peer's certificate is on a revocation list.
    Revoked,
    /// What we know of the mesh is older than we may act on.
    Stale {
        age: Duration,
    },
    /// The pod has as many connections as it may.
    TooManyConnections {
        limit: usize,
    },
    /// The daemon, or the pod's part of it, is being stopped and takes nothing new.
    Draining,
}

/// Something that we wanted to do did not work.
#[derive(Debug)]
pub struct Failure {
    pub stage: Stage,
    pub side: Side,
    pub fault: Fault,
}

/// What broke.
#[derive(Debug)]
pub enum Fault {
    /// A listener in the pod's namespace.
    Bind(io::Error),
    /// TCP to the application in the pod.
    Application(io::Error),
    /// Any other socket.
    Io(io::Error),
    /// TLS with a peer that connected to us.
    ServerTls(String),
    /// TLS could not even be set up.
    TlsSetup(String),
    /// No certificate for the pod, so nothing can be proven.
    Identity(String),
    /// A tunnel could not be opened.
    Open(OpenError),
    /// A served HBONE connection broke.
    Serve(ServeError),
    /// The peer did not finish its handshake in time.
    HandshakeTimeout { after: Duration },
    /// Our configured name servers did not answer.
    Dns(String),
    /// One side went away while the other still had something to say.
    Disconnected { side: Side },
    /// The tunnel or a TCP connection was reset while bytes were moving.
    Reset { side: Side },
    /// Cut at the end of the drain time.
    DrainTimeout,
}

/// How a connection ended, when not by both sides being done.
#[derive(Debug)]
pub enum Closed {
    Refused(Refusal),
    Failed(Failure),
}

/// Every reason there is, one code each. Order is the order of the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    SelfCall,
    UnknownOwnWorkload,
    UnknownWaypoint,
    UnknownNetworkGateway,
    NoHealthyUpstream,
    NoRoute,
    NoServiceForAddress,
    CrossNetwork,
    NameUnresolved,
    UnknownInMesh,
    TooManyRounds,
    NotConnect,
    BadAuthority,
    IpMismatch,
    UnknownHostname,
    UnresolvedPort,
    NoVip,
    PolicyDenied,
    PolicyMayDeny,
    PolicyNoneAllowed,
    PolicyMalformedAllow,
    PolicyUnknown,
    PolicyUnreadable,
    PolicyNotSynced,
    PolicyChanged,
    OlderConnection,
    Revoked,
    Stale,
    TooManyConnections,
    Draining,
    BindFailed,
    ApplicationUnreachable,
    IoError,
    ConnectTimeout,
    ServerTlsFailed,
    TlsSetupFailed,
    IdentityUnavailable,
    Http2Handshake,
    Http2Failed,
    TunnelRefused,
    TunnelUnanswered,
    PeerSilent,
    PeerFloods,
    PoolDraining,
    HandshakeTimeout,
    DnsFailed,
    Disconnected,
    Reset,
    DrainTimeout,
}

/// What is said about a reason, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Stable; in the log as `reason=`, in metrics as a label value, in `GET /why`.
    pub code: &'static str,
    /// How the log text begins; people search for it.
    pub stem: &'static str,
    /// One sentence of what happened.
    pub sentence: &'static str,
    /// What the operator can do.
    pub advice: &'static str,
    /// What a peer that asked for a tunnel is answered; `None` where no peer is waiting for an answer.
    pub status: Option<u16>,
    pub flags: ResponseFlags,
    pub counted: Counted,
}

/// Where the end of the connection is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A warning in the log; no traffic metric, because source and destination were not known yet.
    Early,
    /// The access log and the traffic metrics.
    InFull,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Capture => "capture",
            Stage::Resolve => "resolve",
            Stage::Authorize => "authorize",
            Stage::Tunnel => "tunnel",
            Stage::Relay => "relay",
            Stage::Account => "account",
        }
    }
}

impl Side {
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Upstream => "upstream",
            Side::Downstream => "downstream",
            Side::Ours => "ours",
        }
    }
}

impl Refusal {
    /// The stage that decided.
    pub fn stage(&self) -> Stage {
        match self {
            Refusal::UnknownOwnWorkload { .. } | Refusal::TooManyConnections { .. } | Refusal::Draining => Stage::Capture,
            Refusal::SelfCall { .. }
            | Refusal::UnknownWaypoint { .. }
            | Refusal::UnknownNetworkGateway { .. }
            | Refusal::NoHealthyUpstream { .. }
            | Refusal::NoRoute { .. }
            | Refusal::NoServiceForAddress { .. }
            | Refusal::CrossNetwork { .. }
            | Refusal::NameUnresolved { .. }
            | Refusal::UnknownInMesh { .. }
            | Refusal::TooManyRounds { .. }
            | Refusal::Malformed(_)
            | Refusal::IpMismatch { .. }
            | Refusal::UnknownHostname { .. }
            | Refusal::UnresolvedPort { .. }
            | Refusal::NoVip { .. } => Stage::Resolve,
            Refusal::Denied(_) | Refusal::Older(_) | Refusal::Stale { .. } => Stage::Authorize,
            Refusal::PermitLost(_) | Refusal::Revoked => Stage::Relay,
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Refusal::SelfCall { .. } => Reason::SelfCall,
            Refusal::UnknownOwnWorkload { .. } => Reason::UnknownOwnWorkload,
            Refusal::UnknownWaypoint { .. } => Reason::UnknownWaypoint,
            Refusal::UnknownNetworkGateway { .. } => Reason::UnknownNetworkGateway,
            Refusal::NoHealthyUpstream { .. } => Reason::NoHealthyUpstream,
            Refusal::NoRoute { .. } => Reason::NoRoute,
            Refusal::NoServiceForAddress { .. } => Reason::NoServiceForAddress,
            Refusal::CrossNetwork { .. } => Reason::CrossNetwork,
            Refusal::NameUnresolved { .. } => Reason::NameUnresolved,
            Refusal::UnknownInMesh { .. } => Reason::UnknownInMesh,
            Refusal::TooManyRounds { .. } => Reason::TooManyRounds,
            Refusal::Malformed(Malformed::Method(_)) => Reason::NotConnect,
            Refusal::Malformed(Malformed::Authority { .. }) => Reason::BadAuthority,
            Refusal::IpMismatch { .. } => Reason::IpMismatch,
            Refusal::UnknownHostname { .. } => Reason::UnknownHostname,
            Refusal::UnresolvedPort { .. } => Reason::UnresolvedPort,
            Refusal::NoVip { .. } => Reason::NoVip,
            Refusal::Denied(because) => policy_reason(because),
            Refusal::PermitLost(_) => Reason::PolicyChanged,
            Refusal::Older(_) => Reason::OlderConnection,
            Refusal::Revoked => Reason::Revoked,
            Refusal::Stale { .. } => Reason::Stale,
            Refusal::TooManyConnections { .. } => Reason::TooManyConnections,
            Refusal::Draining => Reason::Draining,
        }
    }
}

/// The reason behind a verdict. The two that allow never refuse; should one get here, nothing allowed the connection.
fn policy_reason(because: &Because) -> Reason {
    match because {
        Because::DeniedBy(_) => Reason::PolicyDenied,
        Because::MayBeDeniedBy(_) => Reason::PolicyMayDeny,
        Because::NoneAllowed { malformed: Some(_) } => Reason::PolicyMalformedAllow,
        Because::NoneAllowed { malformed: None } | Because::NoAllowPolicy | Because::AllowedBy(_) => Reason::PolicyNoneAllowed,
        Because::UnknownPolicy(_) => Reason::PolicyUnknown,
        Because::UnreadablePolicy(_) => Reason::PolicyUnreadable,
        Because::NotSynced => Reason::PolicyNotSynced,
    }
}

impl Fault {
    pub fn reason(&self) -> Reason {
        match self {
            Fault::Bind(_) => Reason::BindFailed,
            Fault::Application(_) => Reason::ApplicationUnreachable,
            Fault::Io(_) => Reason::IoError,
            Fault::ServerTls(_) => Reason::ServerTlsFailed,
            Fault::TlsSetup(_) => Reason::TlsSetupFailed,
            Fault::Identity(_) => Reason::IdentityUnavailable,
            Fault::Open(OpenError::Dial(_)) => Reason::IoError,
            Fault::Open(OpenError::ConnectTimeout { .. }) => Reason::ConnectTimeout,
            Fault::Open(OpenError::Handshake(_)) => Reason::Http2Handshake,
            Fault::Open(OpenError::Http2(_)) => Reason::Http2Failed,
            Fault::Open(OpenError::Status(_)) => Reason::TunnelRefused,
            Fault::Open(OpenError::ResponseTimeout { .. }) => Reason::TunnelUnanswered,
            Fault::Open(OpenError::Silent { .. }) => Reason::PeerSilent,
            Fault::Open(OpenError::Draining) => Reason::PoolDraining,
            Fault::Serve(ServeError::HandshakeTimeout { .. } | ServeError::Handshake(_)) => Reason::Http2Handshake,
            Fault::Serve(ServeError::Http2(_)) => Reason::Http2Failed,
            Fault::Serve(ServeError::Flood(_)) => Reason::PeerFloods,
            Fault::Serve(ServeError::Silent { .. }) => Reason::PeerSilent,
            Fault::Serve(ServeError::Forced) => Reason::DrainTimeout,
            Fault::HandshakeTimeout { .. } => Reason::HandshakeTimeout,
            Fault::Dns(_) => Reason::DnsFailed,
            Fault::Disconnected { .. } => Reason::Disconnected,
            Fault::Reset { .. } => Reason::Reset,
            Fault::DrainTimeout => Reason::DrainTimeout,
        }
    }
}

impl Closed {
    pub fn stage(&self) -> Stage {
        match self {
            Closed::Refused(refusal) => refusal.stage(),
            Closed::Failed(failure) => failure.stage,
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Closed::Refused(refusal) => refusal.reason(),
            Closed::Failed(failure) => failure.fault.reason(),
        }
    }
}

mod words;

/// The page of all reasons for operators (docs/reasons.md), in Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# Why a connection was refused or failed\n\n\
         Every refusal and failure of `ztunnel` has one of these codes, in the access log (`reason=`), in metrics and in\n\
         `GET /why`. Status: what a peer that asked for a tunnel is answered. Flag: `response_flags` of the metrics.\n\
         This page is written from `ztunnel/src/error/words.rs`.\n\n\
         | code | what happened | what to do | in the log | status | flag |\n|---|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let Words { code, stem, sentence, advice, status, flags, .. } = reason.words();
        let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        page += &format!("| `{code}` | {sentence} | {advice} | {stem} | {status} | {} |\n", flags.as_str());
    }
    page
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = self.reason().words().stem;
        match self {
            Refusal::SelfCall { to } => write!(f, "{stem}: {to}"),
            Refusal::UnknownOwnWorkload { pod } => write!(f, "{stem}: {pod}"),
            Refusal::UnknownWaypoint { waypoint, port } => write!(f, "{stem}: {waypoint}:{port}"),
            Refusal::UnknownNetworkGateway { gateway, port } => write!(f, "{stem}: {gateway}:{port}"),
            Refusal::NoHealthyUpstream { to } => write!(f, "{stem}: {to}"),
            Refusal::NoRoute { workload } => write!(f, "{stem}: {workload}"),
            Refusal::NoServiceForAddress { to } => write!(f, "{stem}: {to}"),
            Refusal::CrossNetwork { network } => write!(f, "{stem}: {network:?}"),
            Refusal::NameUnresolved { hostname } => write!(f, "{stem} for {hostname}"),
            Refusal::UnknownInMesh { to } => write!(f, "{stem}: {to}"),
            Refusal::TooManyRounds { to } => write!(f, "{stem}: {to}"),
            Refusal::Malformed(malformed) => write!(f, "{malformed}"),
            Refusal::IpMismatch { asked, own } => write!(f, "{stem}: {} != {own}", asked.ip()),
            Refusal::UnknownHostname { hostname } => write!(f, "{stem} {hostname}"),
            Refusal::UnresolvedPort { hostname, port } => write!(f, "{stem} {hostname}:{port} found, but cannot resolve port"),
            Refusal::NoVip { hostname } => write!(f, "{stem} {hostname} found, but has no IP addresses"),
            Refusal::Denied(because) => write!(f, "{stem}: {because}"),
            Refusal::PermitLost(because) | Refusal::Older(because) => write!(f, "{stem}: {because}"),
            Refusal::Revoked => f.write_str(stem),
            Refusal::Stale { age } => write!(f, "{stem}: last heard of the mesh {} s ago", age.as_secs()),
            Refusal::TooManyConnections { limit } => write!(f, "{stem}: the limit is {limit}"),
            Refusal::Draining => f.write_str(stem),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = self.reason().words().stem;
        match self {
            Fault::Bind(why) | Fault::Application(why) | Fault::Io(why) => write!(f, "{stem}: {why}"),
            Fault::ServerTls(why) | Fault::TlsSetup(why) | Fault::Identity(why) | Fault::Dns(why) => write!(f, "{stem}: {why}"),
            Fault::Open(why) => write!(f, "{why}"),
            Fault::Serve(why) => write!(f, "{why}"),
            Fault::HandshakeTimeout { after } => write!(f, "{stem} within {} ms", after.as_millis()),
            Fault::Disconnected { side } => write!(f, "{} {stem}", end(*side)),
            Fault::Reset { side } => write!(f, "{stem} by the {}", end(*side)),
            Fault::DrainTimeout => f.write_str(stem),
        }
    }
}

/// What the field calls the ends of a relay.
fn end(side: Side) -> &'static str {
    match side {
        Side::Upstream => "destination",
        Side::Downstream => "client",
        Side::Ours => "proxy",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Refused(refusal) => refusal.fmt(f),
            Closed::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}
impl std::error::Error for Failure {}
impl std::error::Error for Closed {}

impl From<Refusal> for Closed {
    fn from(refusal: Refusal) -> Closed {
        Closed::Refused(refusal)
    }
}

impl From<Failure> for Closed {
    fn from(failure: Failure) -> Closed {
        Closed::Failed(failure)
    }
}

impl From<OpenError> for Fault {
    fn from(why: OpenError) -> Fault {
        Fault::Open(why)
    }
}

impl From<ServeError> for Fault {
    fn from(why: ServeError) -> Fault {
        Fault::Serve(why)
    }
}

impl From<io::Error> for Fault {
    fn from(why: io::Error) -> Fault {
        Fault::Io(why)
    }
}

/// Says where a failure happened: `dial(..).await.at(Stage::Tunnel, Side::Upstream)?`.
pub trait At<T> {
    fn at(self, stage: Stage, side: Side) -> Result<T, Failure>;
}

impl<T, E: Into<Fault>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, side: Side) -> Result<T, Failure> {
        self.map_err(|why| Failure { stage, side, fault: why.into() })
    }
}

#[cfg(test)]
mod tests;
