//! The snapshot that requests are judged by: resources of the controller, merged per service (spec/waypoint.md 8.2).
//!
//! ```text
//!  xDS or a file ─▶ Store ─ take: one resource, read and compiled; a bad one is refused alone
//!                     │
//!                     └─── publish: what was touched is built anew ─▶ Settings ─▶ a request loads it once, and keeps it
//! ```
//!
//! A change costs what it touches: the rest of the new snapshot is the old one's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{MeshSettings, PortProtocol, ServiceKind};
use foldhash::fast::RandomState;
use rpds::HashTrieMapSync;

use crate::choose::{self, BackendKey};
use crate::route::{Rule, StreamRule, Table, TlsTable};
use crate::{account, ext_authz, session};

pub mod binding;
pub mod dump;
pub mod file;
mod host;
pub mod policies;
mod resource;
mod store;
pub mod why;

pub use binding::Binding;
pub use policies::{HttpSettings, Policies};
pub use store::{Count, Problem, Store, store};

/// Until a connection stands, where the mesh does not say otherwise (spec/waypoint.md 1.4).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests look things up by names of the configuration, which no peer chooses.
type Map<K, V> = HashTrieMapSync<K, V, RandomState>;

/// All that is configured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    mesh: Arc<Mesh>,
    gateway: Arc<Policies>,
    services: Map<NamespacedHostname, Arc<Ports>>,
    /// Ports that were among them until a moment ago. Mostly empty.
    parting: Map<(NamespacedHostname, u16), binding::Parting>,
    backends: Map<BackendKey, Arc<choose::Backend>>,
    treatments: Map<NamespacedHostname, Arc<host::Treatment>>,
    /// For every service that says nothing of its own.
    treatment_of_mesh: Arc<host::Treatment>,
    ext_authz: Map<Arc<str>, Arc<ext_authz::Provider>>,
    telemetry: Map<Arc<str>, Arc<account::Provider>>,
}

/// Ports of one service, sorted.
type Ports = Vec<Arc<ServiceView>>;

/// What holds for the whole mesh.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Without its secrets.
    pub wire: MeshSettings,
    pub session_keys: session::Keys,
    /// The mesh's own, then its aliases.
    pub trust_domains: Arc<[Arc<str>]>,
    pub connect_timeout: Duration,
}

/// One port of a service that is bound to this waypoint.
#[derive(Clone, Debug)]
pub struct ServiceView {
    pub host: NamespacedHostname,
    pub port: u16,
    pub port_name: Arc<str>,
    pub protocol: PortProtocol,
    pub kind: ServiceKind,
    /// Outside of the mesh.
    pub external: bool,
    /// The service's own endpoints: where it goes when no route is attached.
    pub backend: Arc<choose::Backend>,
    policies: Arc<Policies>,
    /// Of the rules that policies name. Mostly empty.
    policies_of_rules: HashMap<Arc<str>, Arc<Policies>>,
    /// By the clients' namespace; empty: all clients.
    groups: HashMap<Arc<str>, Routes, RandomState>,
}

/// The routes of one group of clients. Of the kinds of routes one is in force (spec/waypoint.md 2.3).
#[derive(Clone, Debug)]
pub enum Routes {
    Http(Arc<Table>),
    Tls(Arc<TlsTable>),
    Tcp(Arc<StreamRule>),
}

impl Settings {
    /// None: this waypoint does not serve it. It is no relay for whatever is asked of it (spec/waypoint.md 1.2).
    pub fn service(&self, host: &NamespacedHostname, port: u16) -> Option<&Arc<ServiceView>> {
        let ports = self.services.get(host)?;
        let at = ports.binary_search_by_key(&port, |view| view.port).ok()?;
        ports.get(at)
    }

    pub fn serves(&self, host: &NamespacedHostname) -> bool {
        self.services.contains_key(host)
    }

    /// Every port of every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        self.services.values().flat_map(|ports| ports.iter())
    }

    /// For what is addressed to a workload: only what is for the whole Gateway.
    pub fn gateway(&self) -> &Arc<Policies> {
        &self.gateway
    }

    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// How it is reached. There is always an answer: that a service does not exist is found out by who looks for its endpoints.
    pub fn backend(&self, key: &BackendKey) -> Arc<choose::Backend> {
        match self.backends.get(key) {
            Some(backend) => backend.clone(),
            None => Arc::new(host::backend(
                key,
                self.treatments.get(&key.host).map(|treatment| &**treatment),
                &self.treatment_of_mesh,
            )),
        }
    }

    /// All that routes, providers and services name. What is kept about others may be forgotten.
    pub fn backends(&self) -> impl Iterator<Item = &BackendKey> {
        self.backends.keys()
    }

    pub fn names_backend(&self, key: &BackendKey) -> bool {
        self.backends.contains_key(key)
    }

    pub fn ext_authz(&self, name: &str) -> Option<&Arc<ext_authz::Provider>> {
        self.ext_authz.get(name)
    }

    pub fn telemetry_provider(&self, name: &str) -> Option<&Arc<account::Provider>> {
        self.telemetry.get(name)
    }

    pub fn telemetry_providers(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<account::Provider>)> {
        self.telemetry.iter()
    }
}

impl Mesh {
    /// `of_process`: sessions are sealed with it where the mesh gives no secrets.
    fn new(mut wire: MeshSettings, of_process: &session::Keys) -> Mesh {
        let secrets = std::mem::take(&mut wire.session_secrets);
        let session_keys = if secrets.is_empty() { of_process.clone() } else { session::Keys::of_secrets(&secrets) };
        let domains = std::iter::once(&wire.trust_domain).chain(&wire.trust_domain_aliases);
        let trust_domains = domains.filter(|domain| !domain.is_empty()).map(|domain| domain.as_str().into()).collect();
        let connect_timeout =
            if wire.connect_timeout_ms == 0 { CONNECT_TIMEOUT } else { Duration::from_millis(wire.connect_timeout_ms) };
        Mesh { wire, session_keys, trust_domains, connect_timeout }
    }
}

impl ServiceView {
    /// The table for HTTP from these clients; `None`: nothing is attached, the request goes to the service itself.
    pub fn routes(&self, client_namespace: &str) -> Option<&Arc<Table>> {
        match self.group(client_namespace)? {
            Routes::Http(table) => Some(table),
            Routes::Tls(_) | Routes::Tcp(_) => None,
        }
    }

    pub fn tls_routes(&self, client_namespace: &str) -> Option<&Arc<TlsTable>> {
        match self.group(client_namespace)? {
            Routes::Tls(table) => Some(table),
            Routes::Http(_) | Routes::Tcp(_) => None,
        }
    }

    pub fn tcp_route(&self, client_namespace: &str) -> Option<&Arc<StreamRule>> {
        match self.group(client_namespace)? {
            Routes::Tcp(rule) => Some(rule),
            Routes::Http(_) | Routes::Tls(_) => None,
        }
    }

    /// A consumer's routes take the place of the producer's, never part of it (spec/waypoint.md 2.7).
    pub fn group(&self, client_namespace: &str) -> Option<&Routes> {
        if self.groups.is_empty() {
            return None;
        }
        self.groups.get(client_namespace).or_else(|| self.groups.get(""))
    }

    /// The clients' namespaces for which there are routes of their own, and `""` for all others.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &Routes)> {
        self.groups.iter()
    }

    /// Of the port, or of the port and the rule.
    pub fn policies(&self, rule: Option<&Rule>) -> &Arc<Policies> {
        self.policies_of(rule.map(|rule| &*rule.resource))
    }

    /// As `policies`, of the rule with this resource.
    pub fn policies_of(&self, rule: Option<&str>) -> &Arc<Policies> {
        rule.and_then(|rule| self.policies_of_rules.get(rule)).unwrap_or(&self.policies)
    }
}

#[cfg(test)]
mod tests;
