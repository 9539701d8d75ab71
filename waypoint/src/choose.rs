//! Which endpoint a request or a stream goes to, and the book-keeping that this needs (spec/waypoint.md 5.4 to 5.8).
//!
//! ```text
//!  directory ─┐
//!  Backend ───┼─▶ table: who may serve, in levels and groups ─▶ view: who is in ─▶ draw / ring ─▶ Picked ─▶ Active::ended
//!  place ─────┘        (made anew on change)                  ▲                                              │
//!                                                             └────────── outlier: out, probe, in ◀──────────┘
//! ```
//!
//! Time and chance are arguments. Nothing here waits, resolves names or opens connections.

pub mod policy;
pub mod backend;
pub mod outcome;
pub mod affinity;
mod locality;
mod load;
mod ring;
mod table;
mod draw;
mod outlier;
mod ewma;
pub mod breaker;
pub mod book;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mesh_model::directory::Directory;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use rand::Rng;

pub use self::affinity::{Affinity, affinity, affinity_of_stream};
pub use self::backend::{Backend, BackendKey, Endpoint, Kind, Members, Name, Place};
pub use self::book::{Active, Backends, Destination};
pub use self::breaker::{Held, Overflow};
pub use self::outcome::{Failure, Outcome};
pub use self::policy::{Policy, compile};

use self::book::State;
use self::draw::Draw;
use self::outlier::Standing;
use self::policy::{Algorithm, Balancer};
use self::table::{Member, Order, Table, View};
use crate::facts::Arrival;

/// What an attempt asks.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub directory: &'a Directory,
    pub backend: &'a Arc<Backend>,
    /// This waypoint: from where near and far are measured.
    pub proxy: &'a Workload,
    /// Measure from the client instead, where it is known (`MeshSettings.locality_of_client`).
    pub from_client: bool,
    pub arrival: &'a Arrival,
    /// The host that the request is for, or the server name of a stream; with or without a port.
    pub host: Option<&'a str>,
    /// `Affinity::hash`.
    pub hash: Option<u64>,
    /// The endpoint of a session.
    pub wanted: Option<&'a str>,
    /// Ids of those that have failed this request.
    pub tried: &'a [Arc<str>],
    pub now: Instant,
}

#[derive(Debug)]
pub struct Picked {
    pub endpoint: Endpoint,
    /// Every endpoint was out; this one was taken all the same.
    pub last_resort: bool,
    pub active: Active,
}

/// Why there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("nobody defines the subset that the route names")]
    NoSubset,
    #[error("the service has no endpoint that may serve this port")]
    NoEndpoints,
    #[error("the service sends to the address that was dialled, and what was dialled is none of its addresses")]
    NotDialled,
    #[error("the request is for a host that the service's hostname does not cover")]
    OtherHost,
    #[error(transparent)]
    Overflow(Overflow),
}

impl NoEndpoint {
    /// What the client is answered.
    pub fn status(self) -> u16 {
        if self == NoEndpoint::OtherHost { 404 } else { 503 }
    }

    /// spec/waypoint.md 6.2.
    pub fn flag(self) -> &'static str {
        match self {
            NoEndpoint::NoSubset => "NC",
            NoEndpoint::NoEndpoints | NoEndpoint::NotDialled => "UH",
            NoEndpoint::OtherHost => "NR",
            NoEndpoint::Overflow(_) => "UO",
        }
    }
}

/// # Errors
/// When nobody can be asked: see `NoEndpoint`.
pub fn pick(question: &Question<'_>, destination: &Arc<Destination>, chance: &mut impl Rng) -> Result<Picked, NoEndpoint> {
    let backend = question.backend;
    if backend.members == Members::Missing {
        return Err(NoEndpoint::NoSubset);
    }
    let held = destination.hold(Overflow::Requests, backend.policy.pool().requests).map_err(NoEndpoint::Overflow)?;
    if question.tried.is_empty() {
        destination.count_first_try(backend.policy.budget(), question.now);
    }
    let found = match backend.kind {
        Kind::Passthrough => Found::unknown(dialled(question)?),
        Kind::DynamicDns => Found::unknown(named(question)?),
        Kind::Workloads | Kind::Dns { .. } => among(question, destination, chance)?,
    };
    let active = Active::begin(held, found.state, backend.policy.outlier().clone(), found.probe);
    Ok(Picked { endpoint: found.endpoint, last_resort: found.last_resort, active })
}

/// An endpoint that is claimed.
struct Found {
    endpoint: Endpoint,
    state: Arc<State>,
    probe: bool,
    last_resort: bool,
}

impl Found {
    /// Nothing is remembered of it: clients choose it, and may choose any number.
    fn unknown(endpoint: Endpoint) -> Found {
        Found { endpoint, state: Arc::default(), probe: false, last_resort: false }
    }

    /// None: another has just taken the one try that the endpoint gets.
    fn claim(member: &Member, last_resort: bool) -> Option<Found> {
        let probe = member.state.claim(last_resort)?;
        Some(Found { endpoint: member.endpoint.clone(), state: member.state.clone(), probe, last_resort })
    }
}

/// The address that was dialled, if it is one of the service's, at its port: a route of another service may lead here, and
/// what was dialled was that one's address then (spec/waypoint.md 1.9).
fn dialled(question: &Question<'_>) -> Result<Endpoint, NoEndpoint> {
    let key = &question.backend.key;
    let network = &question.proxy.network;
    let has = |service: &Service, ip: IpAddr| {
        service.vips.iter().any(|vip| vip.network == *network && vip.ip == ip)
            || service.cidr_vips.iter().any(|range| range.network == *network && range.cidr.contains(&ip))
    };
    let is_of_service = |dialled: &SocketAddr| {
        let service = question.directory.service(&key.host);
        dialled.port() == key.port && service.is_some_and(|service| has(service, dialled.ip()))
    };
    let dialled = question.arrival.dialled.filter(is_of_service).ok_or(NoEndpoint::NotDialled)?;
    Ok(Endpoint { id: dialled.to_string().into(), place: Place::Address(dialled.ip()), port: dialled.port() })
}

/// The host that the request is for, at the port of the service, if the service covers it (spec/waypoint.md 1.9).
fn named(question: &Question<'_>) -> Result<Endpoint, NoEndpoint> {
    let key = &question.backend.key;
    let host = question.host.and_then(without_port).ok_or(NoEndpoint::OtherHost)?.to_ascii_lowercase();
    if !covers(&key.host.hostname, &host) {
        return Err(NoEndpoint::OtherHost);
    }
    let port = if question.backend.target_port == 0 { key.port } else { question.backend.target_port };
    Ok(Endpoint { id: format!("{host}:{port}").into(), place: Place::Name(host.into()), port })
}

/// The host of `host:port`; none of an address, which no name covers.
fn without_port(authority: &str) -> Option<&str> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (host.len() <= 253 && host.parse::<IpAddr>().is_err() && host.split('.').all(label)).then_some(host)
}

/// Whether `*.example.com`, or the name itself, stands for the host.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(&suffix.to_ascii_lowercase()),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

fn among(question: &Question<'_>, destination: &Arc<Destination>, chance: &mut impl Rng) -> Result<Found, NoEndpoint> {
    let backend = question.backend;
    let table = destination.table(question.directory, backend, question.proxy, question.now);
    destination.sweep(backend.policy.outlier(), question.now);
    if let Some(found) = wanted(question, &table).and_then(|member| Found::claim(member, false)) {
        return Ok(found);
    }
    let order = match &question.arrival.source_workload {
        Some(client) if question.from_client => table.order(&placed(question.proxy, client)),
        _ => table.order(question.proxy),
    };
    let view = order.view(&table, &destination.version);
    let search = Search { question, destination, table: &table, order: &order, view: &view };
    // Another may take the one try of an endpoint between the look and the claim; the second look sees it.
    for tried in [question.tried, question.tried, &[], &[]] {
        let found = search.member(tried, chance).and_then(|(member, last_resort)| Found::claim(member, last_resort));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    // All that are in are being tried: rather one more try than none.
    let positions = view.levels.iter().flat_map(|level| &level.groups).flat_map(|group| &group.members);
    let mut members = positions.map(|at| &table.endpoints[*at as usize]);
    members.find_map(|member| Found::claim(member, true)).ok_or(NoEndpoint::NoEndpoints)
}

/// The client's place, for what is near; the proxy's network, for what can be reached.
fn placed(proxy: &Workload, client: &Workload) -> Workload {
    let (locality, node, cluster_id) = (client.locality.clone(), client.node.clone(), client.cluster_id.clone());
    Workload { locality, node, cluster_id, ..proxy.clone() }
}

/// The endpoint that the session or the dialled address asks for.
fn wanted<'t>(question: &Question<'_>, table: &'t Table) -> Option<&'t Member> {
    let fresh = |member: &&Member| !question.tried.contains(&member.endpoint.id) && member.state.standing() != Standing::Out;
    let of_session = question.wanted.and_then(|id| table.member(id)).filter(fresh);
    let passthrough = || {
        let balancer = question.backend.policy.balancer.as_ref()?;
        let dialled = question.arrival.dialled.filter(|_| balancer.algorithm == Algorithm::Passthrough)?;
        table.member_at(dialled.ip()).filter(fresh)
    };
    of_session.or_else(passthrough)
}

/// One look at what there is.
struct Search<'a> {
    question: &'a Question<'a>,
    destination: &'a Destination,
    table: &'a Table,
    order: &'a Order,
    view: &'a View,
}

impl<'a> Search<'a> {
    /// The level and the group that chance says; then, where all of that group have been tried, any other.
    fn member(&self, tried: &[Arc<str>], chance: &mut impl Rng) -> Option<(&'a Member, bool)> {
        let level = load::fall(&self.view.shares, self.spread(1, chance))?;
        let group = load::fall(&self.view.levels[level].shares, self.spread(2, chance))?;
        let first = self.of_group(level, group, tried, chance);
        let others = || {
            let levels = self.view.levels.iter().enumerate();
            levels.flat_map(|(level, view)| (0..view.groups.len()).map(move |group| (level, group)))
        };
        let member = first.or_else(|| others().find_map(|(level, group)| self.of_group(level, group, tried, chance)))?;
        Some((member, self.view.last_resort || member.state.standing() == Standing::Out))
    }

    /// A chance, which is the same for the same key: a key keeps its level and its group.
    fn spread(&self, salt: u64, chance: &mut impl Rng) -> f64 {
        match self.question.hash {
            Some(hash) if self.hashes() => ring::hash(&hash.to_le_bytes(), salt) as f64 / (u64::MAX as f64 + 1.0),
            _ => chance.random::<f64>(),
        }
    }

    fn hashes(&self) -> bool {
        let balancer = self.question.backend.policy.balancer.as_ref();
        matches!(balancer.map(|balancer| &balancer.algorithm), Some(Algorithm::ConsistentHash(..)))
    }

    fn of_group(&self, level: usize, group: usize, tried: &[Arc<str>], chance: &mut impl Rng) -> Option<&'a Member> {
        let fresh = |member: &Member| member.state.standing() != Standing::Probed && !tried.contains(&member.endpoint.id);
        let view = &self.view.levels[level].groups[group];
        if let (Some(key), Some((ring, members))) = (self.question.hash, self.order.ring(level, group)) {
            // Where none was left out, it is because nobody is out or because that does not matter.
            let all = view.members.len() == members.len();
            let usable = |member: &&Member| fresh(member) && (all || member.state.standing() != Standing::Out);
            return ring.walk(key).map(|at| &self.table.endpoints[members[at] as usize]).find(usable);
        }
        let default = Balancer::default();
        let balancer = self.question.backend.policy.balancer.as_ref().unwrap_or(&default);
        let now = self.destination.nanos(self.question.now);
        let draw = Draw { table: self.table, group: view, warmup: balancer.warmup, now };
        draw.by(&balancer.algorithm, &self.destination.round, &fresh, chance)
    }
}

#[cfg(test)]
mod tests;
