//! One resource: from its bytes to what is kept of it, and where it belongs. Pure.

use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_model::workload::Uid;
use mesh_xds::messages::waypoint as wire;
use mesh_xds::messages::waypoint::TargetKind;
use prost::Message;

use super::host::{Placed, Port, RouteKey, Subset, Treated};
use super::policies::Policy;
use crate::choose::BackendKey;
use crate::facts::Rejection;
use crate::route::{Age, Rule, StreamRule};
use crate::{account, authorize, choose, edit, ext_authz, jwt, limit, upstream};

/// What was read.
pub struct Read {
    pub kept: Kept,
    /// Backends it names.
    pub backends: Vec<BackendKey>,
    /// What is wrong with parts of it. The rest is usable, and what is wrong is closed.
    pub wrong: Option<Rejection>,
    pub source: Option<wire::SourceRef>,
}

pub enum Kept {
    Mesh(Box<wire::MeshSettings>),
    Port(NamespacedHostname, Arc<Port>),
    Http(NamespacedHostname, Placed<Rule>),
    Tls(NamespacedHostname, Placed<StreamRule>),
    Tcp(NamespacedHostname, Placed<StreamRule>),
    Subset(NamespacedHostname, Arc<Subset>),
    /// None: for every service.
    Treated(Option<NamespacedHostname>, Arc<Treated>),
    Policy(Vec<Place>, Policy),
    ExtAuthz(Arc<ext_authz::Provider>),
    Telemetry(Arc<account::Provider>),
}

/// Where a policy is attached.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Mesh,
    Gateway,
    /// Port 0: all of them.
    Service(NamespacedHostname, u16),
    /// Rule empty: all of them.
    Route(RouteKey, String),
}

/// Reads the bytes of a resource of this type. `own`: the Gateway this proxy is of, if it is known.
pub fn read(type_url: &str, name: &Arc<str>, bytes: &[u8], own: Option<&wire::GatewayTarget>) -> Result<Read, Rejection> {
    match type_url {
        wire::MESH_SETTINGS => {
            let wire: wire::MeshSettings = decoded(bytes)?;
            Ok(Read { source: source(wire.meta.as_ref()), kept: Kept::Mesh(Box::new(wire)), backends: Vec::new(), wrong: None })
        }
        wire::SERVICE_PORT => port(decoded(bytes)?),
        wire::HTTP_ROUTE => http_route(name, decoded(bytes)?),
        wire::TLS_ROUTE => {
            let wire: wire::TlsRoute = decoded(bytes)?;
            let (rule, wrong) = StreamRule::of_tls(name, &wire);
            stream_route(wire.parent.as_ref(), &wire.consumer_namespace, rule, wrong, Kept::Tls)
        }
        wire::TCP_ROUTE => {
            let wire: wire::TcpRoute = decoded(bytes)?;
            let (rule, wrong) = StreamRule::of_tcp(name, &wire);
            stream_route(wire.parent.as_ref(), &wire.consumer_namespace, rule, wrong, Kept::Tcp)
        }
        wire::SUBSET => subset(decoded(bytes)?),
        wire::BACKEND_POLICY => backend_policy(decoded(bytes)?),
        wire::HTTP_POLICY => {
            let wire: wire::HttpPolicy = decoded(bytes)?;
            let places = places(&wire.targets, own)?;
            Ok(plain(Kept::Policy(places, Policy::Http(Arc::new(wire.clone()))), wire.meta.as_ref()))
        }
        wire::AUTHZ_POLICY => {
            let wire: wire::AuthzPolicy = decoded(bytes)?;
            let (policy, wrong) = authorize::compile(&wire);
            Ok(restriction(&wire.targets, own, Policy::Authz(Arc::new(policy)), wrong, wire.meta.as_ref()))
        }
        wire::JWT_POLICY => {
            let wire: wire::JwtPolicy = decoded(bytes)?;
            let (policy, wrong) = jwt::compile(&wire);
            Ok(restriction(&wire.targets, own, Policy::Jwt(Arc::new(policy)), wrong, wire.meta.as_ref()))
        }
        wire::EXT_AUTHZ_PROVIDER => {
            let wire: wire::ExtAuthzProvider = decoded(bytes)?;
            let (provider, wrong) = ext_authz::compile(&wire);
            let read = plain(Kept::ExtAuthz(Arc::new(provider)), wire.meta.as_ref());
            Ok(Read { backends: named(wire.backend.as_ref()), wrong, ..read })
        }
        wire::RATE_LIMIT => {
            let wire: wire::RateLimit = decoded(bytes)?;
            let (limit, wrong) = limit::compile(&wire);
            let read = plain(Kept::Policy(places(&wire.targets, own)?, Policy::Limit(Arc::new(limit))), wire.meta.as_ref());
            Ok(Read { backends: named(wire.global.as_ref().and_then(|global| global.backend.as_ref())), wrong, ..read })
        }
        wire::TELEMETRY => {
            let wire: wire::Telemetry = decoded(bytes)?;
            let policy = Policy::Telemetry(Arc::new(account::compile(&wire)?));
            Ok(plain(Kept::Policy(places(&wire.targets, own)?, policy), wire.meta.as_ref()))
        }
        wire::TELEMETRY_PROVIDER => {
            let wire: wire::TelemetryProvider = decoded(bytes)?;
            let provider = account::compile_provider(&wire)?;
            let read = plain(Kept::Telemetry(Arc::new(provider)), wire.meta.as_ref());
            Ok(Read { backends: named(wire.backend.as_ref()), ..read })
        }
        unknown => Err(Rejection::new("UnsupportedType", format!("{unknown:?} is no type that a waypoint knows"))),
    }
}

/// In the place of a policy that restricts and was never readable: nobody passes, anywhere.
pub fn closed() -> Kept {
    let wire = wire::AuthzPolicy {
        action: wire::AuthzAction::Deny as i32,
        rules: vec![wire::AuthzRule::default()],
        ..wire::AuthzPolicy::default()
    };
    Kept::Policy(vec![Place::Mesh], Policy::Authz(Arc::new(authorize::compile(&wire).0)))
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<M, Rejection> {
    M::decode(bytes).map_err(|error| Rejection::new("Unreadable", format!("the resource cannot be decoded: {error}")))
}

fn source(meta: Option<&wire::Meta>) -> Option<wire::SourceRef> {
    meta.and_then(|meta| meta.source.clone())
}

fn plain(kept: Kept, meta: Option<&wire::Meta>) -> Read {
    Read { kept, backends: Vec::new(), wrong: None, source: source(meta) }
}

fn host(wire: Option<&wire::Host>) -> Result<NamespacedHostname, Rejection> {
    let host = wire.filter(|host| !host.hostname.is_empty() && !host.namespace.is_empty());
    let host = host.ok_or_else(|| Rejection::new("Invalid", "it does not say of which service: namespace and hostname"))?;
    Ok(NamespacedHostname::new(&host.namespace, &host.hostname))
}

fn number(port: u32) -> Result<u16, Rejection> {
    u16::try_from(port).map_err(|_| Rejection::new("Invalid", format!("{port} is no port")))
}

fn named(backend: Option<&wire::BackendRef>) -> Vec<BackendKey> {
    backend.and_then(|backend| edit::backend::key_of(backend).ok()).into_iter().collect()
}

fn port(wire: wire::ServicePort) -> Result<Read, Rejection> {
    let host = host(wire.host.as_ref())?;
    let port = number(wire.port)?;
    if port == 0 {
        return Err(Rejection::new("Invalid", "a port of a service cannot be 0"));
    }
    number(wire.target_port)?;
    if wire::PortProtocol::try_from(wire.protocol).is_err() || wire::ServiceKind::try_from(wire.kind).is_err() {
        return Err(Rejection::new("UnsupportedValue", "a protocol or a kind of service that this waypoint does not know"));
    }
    let own = BackendKey { host: host.clone(), port, subset: "".into() };
    let source = source(wire.meta.as_ref());
    Ok(Read { kept: Kept::Port(host, Arc::new(Port { port, wire })), backends: vec![own], wrong: None, source })
}

fn parent(wire: Option<&wire::ParentRef>) -> Result<(NamespacedHostname, u16), Rejection> {
    let parent = wire.ok_or_else(|| Rejection::new("Invalid", "a route without a parent"))?;
    Ok((host(parent.host.as_ref())?, number(parent.port)?))
}

fn http_route(name: &Arc<str>, wire: wire::HttpRoute) -> Result<Read, Rejection> {
    let (host, port) = parent(wire.parent.as_ref())?;
    if wire::MatchOrder::try_from(wire.order).is_err() {
        return Err(Rejection::new("UnsupportedValue", "an order of matches that this waypoint does not know"));
    }
    let (rule, wrong) = Rule::compile(name, &wire);
    let mut backends = usable(&rule.backends);
    backends.extend(rule.filters.mirror_keys().cloned());
    let source = Some(rule.source.clone());
    let placed = Placed { port, consumer: wire.consumer_namespace.as_str().into(), rule: Arc::new(rule) };
    Ok(Read { kept: Kept::Http(host, placed), backends, wrong, source })
}

fn usable(backends: &[edit::Backend]) -> Vec<BackendKey> {
    let mut keys = Vec::new();
    for backend in backends.iter().filter(|backend| backend.invalid.is_none()) {
        keys.push(backend.key.clone());
        keys.extend(backend.filters.mirror_keys().cloned());
    }
    keys
}

fn stream_route(
    parent_ref: Option<&wire::ParentRef>,
    consumer: &str,
    rule: StreamRule,
    wrong: Option<Rejection>,
    kept: fn(NamespacedHostname, Placed<StreamRule>) -> Kept,
) -> Result<Read, Rejection> {
    let (host, port) = parent(parent_ref)?;
    let backends = usable(&rule.backends);
    let source = Some(rule.source.clone());
    Ok(Read { kept: kept(host, Placed { port, consumer: consumer.into(), rule: Arc::new(rule) }), backends, wrong, source })
}

fn subset(wire: wire::Subset) -> Result<Read, Rejection> {
    if wire.name.is_empty() {
        return Err(Rejection::new("Invalid", "a subset without a name"));
    }
    let subset = Subset { name: wire.name.as_str().into(), workloads: wire.workloads.iter().map(|uid| Uid::new(uid)).collect() };
    Ok(plain(Kept::Subset(host(wire.host.as_ref())?, Arc::new(subset)), wire.meta.as_ref()))
}

fn backend_policy(wire: wire::BackendPolicy) -> Result<Read, Rejection> {
    let (host, port) = match &wire.service {
        Some(target) => (Some(host(target.host.as_ref())?), number(target.port)?),
        None => (None, 0),
    };
    let kept = choose::Policy {
        tls: wire.tls.as_ref().map(upstream::Origin::compile),
        forward_proxy: wire.forward_proxy.as_ref().map(upstream::Forward::compile),
        ..choose::Policy::default()
    };
    let (policy, wrong) = match choose::compile(&wire) {
        Ok(policy) => {
            // What the controller says already is in force as it says it: an authority that is gone is not believed any more.
            let is_told = wire.tls.as_ref().is_some_and(|tls| !tls.invalid.is_empty());
            let of_tls = policy.tls.as_ref().filter(|_| !is_told).and_then(|tls| tls.wrong());
            let wrong = of_tls.or_else(|| policy.forward_proxy.as_ref().and_then(|proxy| proxy.wrong()));
            (policy, wrong)
        }
        // What is to be encrypted, or to go through somebody's hands, still is, whatever else is wrong.
        Err(rejection) if kept != choose::Policy::default() => {
            let message = format!("{}; only its TLS settings and its tunnel are in force", rejection.message);
            (kept, Some(Rejection::new(rejection.reason, message)))
        }
        Err(rejection) => return Err(rejection),
    };
    let of_kind = wire.meta.as_ref().and_then(|meta| meta.source.as_ref()).map(|source| source.kind.as_str());
    let is_about_tls = of_kind == Some("BackendTLSPolicy");
    let treated = Treated { port, subset: wire.subset.as_str().into(), is_about_tls, age: Age::of(wire.meta.as_ref()), policy };
    Ok(Read { wrong, ..plain(Kept::Treated(host, Arc::new(treated)), wire.meta.as_ref()) })
}

/// A policy that lets fewer pass. One that does not say for what is in force for everything.
fn restriction(
    targets: &[wire::Target],
    own: Option<&wire::GatewayTarget>,
    policy: Policy,
    wrong: Option<Rejection>,
    meta: Option<&wire::Meta>,
) -> Read {
    let (places, wrong) = match places(targets, own) {
        Ok(places) => (places, wrong),
        Err(rejection) => {
            let all = "it is in force for everything that goes through this waypoint";
            let others = wrong.map_or_else(String::new, |wrong| format!("; {}", wrong.message));
            (vec![Place::Mesh], Some(Rejection::new(rejection.reason, format!("{}: {all}{others}", rejection.message))))
        }
    };
    Read { wrong, ..plain(Kept::Policy(places, policy), meta) }
}

fn places(targets: &[wire::Target], own: Option<&wire::GatewayTarget>) -> Result<Vec<Place>, Rejection> {
    if targets.is_empty() {
        return Err(Rejection::new("Invalid", "a policy without a target"));
    }
    let mut places = Vec::new();
    for target in targets {
        match target.kind.as_ref().ok_or_else(|| Rejection::new("Invalid", "a target of no kind"))? {
            TargetKind::Mesh(_) => places.push(Place::Mesh),
            // Another Gateway's policy is none of ours.
            TargetKind::Gateway(gateway) => places.extend(own.is_none_or(|own| own == gateway).then_some(Place::Gateway)),
            TargetKind::Service(service) => places.push(Place::Service(host(service.host.as_ref())?, number(service.port)?)),
            TargetKind::Route(route) => {
                let key = RouteKey { kind: route.kind.clone(), namespace: route.namespace.clone(), name: route.name.clone() };
                places.push(Place::Route(key, route.rule.clone()));
            }
        }
    }
    Ok(places)
}
