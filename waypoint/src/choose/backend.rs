//! A port of a service, or a subset of it, as a place to send requests to. Settings make one for each that they name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_model::workload::{Uid, Workload};
use mesh_xds::messages::waypoint as wire;

use crate::choose::policy::Policy;

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub key: BackendKey,
    pub kind: Kind,
    /// The port at the endpoints where the workload API does not say one; 0: the service's own port.
    pub target_port: u16,
    pub members: Members,
    pub policy: Policy,
}

impl Backend {
    pub fn new(key: BackendKey, kind: Kind, target_port: u16, members: Members, policy: Policy) -> Backend {
        Backend { key, kind, target_port, members, policy }
    }
}

/// What counters, ejections and limits are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub host: NamespacedHostname,
    pub port: u16,
    /// Empty: all endpoints of the service.
    pub subset: Arc<str>,
}

/// Where the endpoints come from (spec/waypoint.md 1.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The workload API.
    Workloads,
    /// These names. `one`: they are one endpoint under whichever name answers first.
    Dns { names: Vec<Name>, one: bool },
    /// The address that was dialled.
    Passthrough,
    /// The name that the request is for, which the service's wildcard must match.
    DynamicDns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub hostname: Arc<str>,
    pub port: u16,
    pub weight: u32,
}

/// Which of the service's workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    All,
    Only(BTreeSet<Uid>),
    /// A subset is asked for that nobody defines.
    Missing,
}

/// Where a request can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its workload's uid, or `name:port`, or `ip:port`: the same at every replica.
    pub id: Arc<str>,
    pub place: Place,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One without addresses has a hostname, or a gateway in front of its network.
    Workload(Arc<Workload>),
    /// To be resolved.
    Name(Arc<str>),
    Address(IpAddr),
}

impl Endpoint {
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match &self.place {
            Place::Workload(workload) => Some(workload),
            Place::Name(_) | Place::Address(_) => None,
        }
    }
}

impl Kind {
    pub fn of(port: &wire::ServicePort) -> Kind {
        let host = port.host.as_ref().map_or("", |host| &host.hostname);
        let target = |port_of_name: u32| {
            let ports = [port_of_name, port.target_port, port.port];
            ports.into_iter().filter_map(|port| u16::try_from(port).ok()).find(|port| *port != 0).unwrap_or(0)
        };
        match port.kind() {
            wire::ServiceKind::Workloads => Kind::Workloads,
            wire::ServiceKind::Passthrough => Kind::Passthrough,
            wire::ServiceKind::DynamicDns => Kind::DynamicDns,
            wire::ServiceKind::Dns => {
                let named = |name: &wire::DnsName| Name {
                    hostname: name.hostname.as_str().into(),
                    port: target(name.port),
                    weight: name.weight.max(1),
                };
                let mut names: Vec<Name> = port.names.iter().map(named).collect();
                if names.is_empty() {
                    names.push(Name { hostname: host.into(), port: target(0), weight: 1 });
                }
                Kind::Dns { names, one: port.one_of_names }
            }
        }
    }
}
