//! What is known about a stream and about a request on it: what every decision looks at. Data only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Method};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Workload;

/// One tunnel that was admitted.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Proven by the certificate of the connection that the tunnel came on. Nothing else is authoritative.
    pub identity: SpiffeId,
    /// The far end of that connection.
    pub peer: SocketAddr,
    /// The client: what `forwarded` says where the peer's identity is that workload's, else `peer` (spec/waypoint.md 1.6).
    pub source: SocketAddr,
    pub source_workload: Option<Arc<Workload>>,
    /// What the client dialled; `None` where the authority was a name.
    pub dialled: Option<SocketAddr>,
    pub target: Target,
    /// Waypoints that it came through before (`upstream::hops`).
    pub hops: u8,
}

/// What a tunnel is for (spec/waypoint.md 1.2).
#[derive(Clone, Debug)]
pub enum Target {
    /// Addressed by a VIP: routes and policies of the service apply.
    Service { key: NamespacedHostname, port: u16 },
    /// Addressed by a pod's own address: it goes to that pod, and only what targets the Gateway applies.
    Workload { workload: Arc<Workload>, port: u16 },
}

impl Target {
    pub fn port(&self) -> u16 {
        match self {
            Target::Service { port, .. } | Target::Workload { port, .. } => *port,
        }
    }

    pub fn service(&self) -> Option<&NamespacedHostname> {
        match self {
            Target::Service { key, .. } => Some(key),
            Target::Workload { .. } => None,
        }
    }
}

/// A request as it is judged: after normalization, which is what is forwarded (spec/waypoint.md 9).
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub arrival: &'a Arrival,
    /// The client behind the proxies that are trusted; without any it is the arrival's source (spec/waypoint.md 1.6).
    pub remote: IpAddr,
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// As the client wrote it, port included.
    pub authority: &'a str,
    /// Without query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub grpc: bool,
    /// Of the token that was verified.
    pub claims: Option<&'a Claims>,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub issuer: Arc<str>,
    pub subject: Option<Arc<str>>,
    pub audiences: Vec<Arc<str>>,
    /// `azp`.
    pub presenter: Option<Arc<str>>,
    /// The whole payload.
    pub payload: serde_json::Value,
}

impl Claims {
    /// `issuer/subject`; none where either is missing (spec/waypoint.md 4.6).
    pub fn principal(&self) -> Option<String> {
        let subject = self.subject.as_deref().filter(|subject| !subject.is_empty())?;
        (!self.issuer.is_empty()).then(|| format!("{}/{subject}", self.issuer))
    }
}

/// Why a resource of the controller is not applied, or which parts of it are not. Reads as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    /// One word, as a condition's reason.
    pub reason: &'static str,
    pub message: String,
}

impl Rejection {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Rejection {
        Rejection { reason, message: message.into() }
    }

    /// What is wrong with the parts of a resource, as one.
    pub fn of_all(wrong: Vec<String>) -> Option<Rejection> {
        (!wrong.is_empty()).then(|| Rejection::new("UnsupportedValue", wrong.join("; ")))
    }
}
