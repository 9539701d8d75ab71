//! The endpoints of a destination in the order in which they are used. Made anew when the members of the service, the
//! service or the policy changed, and worked through again when an endpoint goes out or comes back; a request only reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use mesh_model::balance::{Purpose, judge};
use mesh_model::directory::{Directory, Roster};
use mesh_model::service::Service;
use mesh_model::workload::{Locality as Site, Workload};

use crate::choose::backend::{Backend, Endpoint, Kind, Members, Name, Place};
use crate::choose::book::{Destination, State};
use crate::choose::load;
use crate::choose::locality::{Arrangement, Rank, arrange};
use crate::choose::outlier::Standing;
use crate::choose::policy::{Algorithm, HashTable};
use crate::choose::ring::{Ring, hash};

/// Clients of more places than this see tables that are made anew for them.
const PLACES_MAX: usize = 256;

type Orders = HashMap<From, Arc<Order>, RandomState>;

/// What a destination's endpoints are, for clients of every place.
#[derive(Debug)]
pub struct Table {
    backend: Arc<Backend>,
    service: Option<Arc<Service>>,
    roster: Option<Arc<Roster>>,
    pub endpoints: Vec<Member>,
    by_id: HashMap<Arc<str>, u32>,
    orders: ArcSwap<Orders>,
}

#[derive(Debug)]
pub struct Member {
    pub endpoint: Endpoint,
    pub weight: u32,
    pub state: Arc<State>,
}

/// What of a client's place decides over an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct From {
    site: Site,
    node: Arc<str>,
    cluster: Arc<str>,
}

/// The endpoints as one place uses them.
#[derive(Debug)]
pub struct Order {
    /// The first level is used as long as it can bear it.
    levels: Vec<Level>,
    view: ArcSwap<View>,
}

#[derive(Debug)]
struct Level {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    share: u32,
    /// Positions in `Table::endpoints`.
    members: Vec<u32>,
    ring: Option<Ring>,
}

/// What is left of an order when the endpoints that are out are left out.
#[derive(Debug)]
pub struct View {
    version: u64,
    pub levels: Vec<LevelView>,
    /// Share of each level.
    pub shares: Vec<f64>,
    /// Nobody is in: those that are out are used all the same.
    pub last_resort: bool,
}

#[derive(Debug)]
pub struct LevelView {
    pub groups: Vec<GroupView>,
    pub shares: Vec<f64>,
}

#[derive(Debug)]
pub struct GroupView {
    /// Positions in `Table::endpoints`.
    pub members: Vec<u32>,
    /// Sum of the weights up to and with each; the last is the total.
    pub cumulative: Vec<u64>,
    /// All weights are equal.
    pub equal: bool,
}

impl Destination {
    /// The table for what is known now.
    pub(super) fn table(&self, directory: &Directory, backend: &Arc<Backend>, proxy: &Workload, now: Instant) -> Arc<Table> {
        let service = directory.service(&backend.key.host);
        let roster = directory.roster(&backend.key.host);
        if let Some(table) = &*self.table.load()
            && table.is_of(backend, service, roster)
        {
            return table.clone();
        }
        let mut states = self.states.lock();
        let before = self.table.load_full();
        if let Some(table) = &before
            && table.is_of(backend, service, roster)
        {
            return table.clone();
        }
        let found = endpoints(service, roster, backend, proxy);
        let kept = states.renew(found.iter().map(|(endpoint, _)| endpoint.id.clone()), before.is_none(), self.nanos(now));
        let by_id = found.iter().enumerate().map(|(at, (endpoint, _))| (endpoint.id.clone(), at as u32)).collect();
        let members = found.into_iter().zip(kept).map(|((endpoint, weight), state)| Member { endpoint, weight, state });
        let table = Arc::new(Table {
            backend: backend.clone(),
            service: service.cloned(),
            roster: roster.cloned(),
            endpoints: members.collect(),
            by_id,
            orders: ArcSwap::default(),
        });
        self.table.store(Some(table.clone()));
        self.due_now();
        table
    }
}

/// Who may serve at all, with the weight of each, in the order of their ids.
fn endpoints(service: Option<&Arc<Service>>, roster: Option<&Arc<Roster>>, backend: &Backend, proxy: &Workload) -> Vec<(Endpoint, u32)> {
    let mut found = match &backend.kind {
        Kind::Workloads => of_workloads(service, roster, backend, proxy),
        Kind::Dns { names, one: false } => names.iter().map(of_name).collect(),
        // The first name stands for all of them: they are one endpoint.
        Kind::Dns { names, one: true } => names.first().map(of_name).into_iter().collect(),
        Kind::Passthrough | Kind::DynamicDns => Vec::new(),
    };
    found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    found.dedup_by(|(a, _), (b, _)| a.id == b.id);
    found
}

fn of_workloads(
    service: Option<&Arc<Service>>,
    roster: Option<&Arc<Roster>>,
    backend: &Backend,
    proxy: &Workload,
) -> Vec<(Endpoint, u32)> {
    let (Some(service), Some(roster)) = (service, roster) else { return Vec::new() };
    let service = with_target_port(service, backend);
    let wanted = |workload: &Workload| match &backend.members {
        Members::All => true,
        Members::Only(uids) => uids.contains(&workload.uid),
        Members::Missing => false,
    };
    let fit = |workload: &Arc<Workload>| {
        let fit = judge(proxy, &service, workload, backend.key.port, Purpose::Traffic).ok()?;
        let endpoint = Endpoint { id: workload.uid.0.clone(), place: Place::Workload(workload.clone()), port: fit.port };
        Some((endpoint, fit.weight))
    };
    roster.workloads.iter().filter(|workload| wanted(workload)).filter_map(fit).collect()
}

/// The service with the port that the backend says, where the workload API does not say one.
fn with_target_port(service: &Service, backend: &Backend) -> Service {
    let mut service = service.clone();
    if backend.target_port != 0 {
        let target = service.ports.entry(backend.key.port).or_insert(backend.target_port);
        if *target == 0 {
            *target = backend.target_port;
        }
    }
    service
}

fn of_name(name: &Name) -> (Endpoint, u32) {
    let place = name.hostname.parse().map_or_else(|_| Place::Name(name.hostname.clone()), Place::Address);
    (Endpoint { id: format!("{}:{}", name.hostname, name.port).into(), place, port: name.port }, name.weight)
}

impl Table {
    fn is_of(&self, backend: &Arc<Backend>, service: Option<&Arc<Service>>, roster: Option<&Arc<Roster>>) -> bool {
        same(Some(&self.backend), Some(backend)) && same(self.service.as_ref(), service) && is(self.roster.as_ref(), roster)
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.by_id.get(id).map(|at| &self.endpoints[*at as usize])
    }

    /// The member whose own address this is.
    pub fn member_at(&self, ip: std::net::IpAddr) -> Option<&Member> {
        self.endpoints.iter().find(|member| match &member.endpoint.place {
            Place::Workload(workload) => workload.addresses.contains(&ip),
            Place::Address(address) => *address == ip,
            Place::Name(_) => false,
        })
    }

    /// The order in which clients of a place use the endpoints.
    pub fn order(&self, source: &Workload) -> Arc<Order> {
        let from = From { site: source.locality.clone(), node: source.node.clone(), cluster: source.cluster_id.clone() };
        if let Some(known) = self.orders.load().get(&from) {
            return known.clone();
        }
        let made = Arc::new(self.make_order(source));
        self.orders.rcu(|orders| {
            let mut orders = if orders.len() < PLACES_MAX { Orders::clone(orders) } else { Orders::default() };
            orders.insert(from.clone(), made.clone());
            orders
        });
        made
    }

    fn make_order(&self, source: &Workload) -> Order {
        let policy = &self.backend.policy;
        let setting = policy.balancer.as_ref().and_then(|balancer| balancer.locality.as_ref());
        let service = self.service.as_ref().map(|service| with_target_port(service, &self.backend));
        let mut placed: Vec<(u32, &Workload, usize)> = Vec::new();
        let mut elsewhere: Vec<u32> = Vec::new();
        for (at, member) in self.endpoints.iter().enumerate() {
            match (&member.endpoint.place, &service) {
                (Place::Workload(workload), Some(service)) => {
                    // Who is out of scope for this place (`internalTrafficPolicy: Local`) gets nothing.
                    if let Ok(fit) = judge(source, service, workload, self.backend.key.port, Purpose::Traffic) {
                        placed.push((at as u32, workload, fit.rank));
                    }
                }
                _ => elsewhere.push(at as u32),
            }
        }
        let endpoints: Vec<(&Workload, usize)> = placed.iter().map(|(_, workload, rank)| (*workload, *rank)).collect();
        let Arrangement { ranks, shares } = arrange(setting, policy.outlier.is_some(), source, &endpoints);
        let ranked = placed.iter().zip(ranks).filter_map(|((at, ..), rank)| rank.map(|rank| (rank, *at)));
        let ranked: Vec<(Rank, u32)> = ranked.chain(elsewhere.into_iter().map(|at| (Rank { level: 0, group: 0 }, at))).collect();

        let depth = ranked.iter().map(|(rank, _)| rank.level + 1).max().unwrap_or(0);
        let group = |share: &u32| Group { share: *share, members: Vec::new(), ring: None };
        let mut levels: Vec<Level> = (0..depth).map(|_| Level { groups: shares.iter().map(group).collect() }).collect();
        for (rank, at) in ranked {
            levels[rank.level].groups[rank.group].members.push(at);
        }
        if let Some(Algorithm::ConsistentHash(_, table)) = policy.balancer.as_ref().map(|balancer| &balancer.algorithm) {
            for group in levels.iter_mut().flat_map(|level| &mut level.groups) {
                group.ring = Some(self.ring(&group.members, *table));
            }
        }
        // Never a version that a destination has: the first look makes the view.
        let view = View { version: u64::MAX, levels: Vec::new(), shares: Vec::new(), last_resort: false };
        Order { levels, view: ArcSwap::from_pointee(view) }
    }

    fn ring(&self, members: &[u32], table: HashTable) -> Ring {
        let hashed = |at: &u32| {
            let member = &self.endpoints[*at as usize];
            (hash(member.endpoint.id.as_bytes(), 0), member.weight)
        };
        let hashed: Vec<(u64, u32)> = members.iter().map(hashed).collect();
        match table {
            HashTable::Ring { entries } => Ring::of_entries(&hashed, entries),
            HashTable::Maglev { size } => Ring::maglev(&hashed, size),
        }
    }
}

impl Order {
    /// Who may be taken now.
    pub fn view(&self, table: &Table, version: &AtomicU64) -> Arc<View> {
        let version = version.load(Relaxed);
        let view = self.view.load();
        if view.version == version {
            return view.clone();
        }
        let made = Arc::new(self.make_view(table, version));
        self.view.store(made.clone());
        made
    }

    fn make_view(&self, table: &Table, version: u64) -> View {
        let is_in = |at: &u32| table.endpoints[*at as usize].state.standing() != Standing::Out;
        let panic_below = table.backend.policy.outlier.as_ref().map_or(0.0, |outlier| outlier.panic_below);
        let count = |level: &Level, what: &dyn Fn(&u32) -> bool| -> usize {
            level.groups.iter().map(|group| group.members.iter().filter(|at| what(at)).count()).sum()
        };
        let totals: Vec<usize> = self.levels.iter().map(|level| count(level, &|_| true)).collect();
        let ins: Vec<usize> = self.levels.iter().map(|level| count(level, &is_in)).collect();
        let total: usize = totals.iter().sum();
        let last_resort = total > 0 && ins.iter().sum::<usize>() == 0;
        // Too few are left to trust what took them out (`minHealthPercent`).
        let panics = |at: usize| last_resort || (ins[at] as f64) < panic_below * totals[at] as f64;
        let usable: Vec<usize> = (0..totals.len()).map(|at| if panics(at) { totals[at] } else { ins[at] }).collect();
        let shares = load::of_levels(usable.iter().copied().zip(totals.iter().copied()));
        let level_view = |(at, level): (usize, &Level)| {
            let everybody = panics(at);
            let groups: Vec<GroupView> = level
                .groups
                .iter()
                .map(|group| {
                    let members = group.members.iter().copied().filter(|member| everybody || is_in(member)).collect();
                    GroupView::of(members, table)
                })
                .collect();
            let share = |(group, view): (&Group, &GroupView)| {
                f64::from(group.share) * load::health(view.members.len(), group.members.len())
            };
            LevelView { shares: level.groups.iter().zip(&groups).map(share).collect(), groups }
        };
        View { version, levels: self.levels.iter().enumerate().map(level_view).collect(), shares, last_resort }
    }

    pub fn ring(&self, level: usize, group: usize) -> Option<(&Ring, &[u32])> {
        let group = &self.levels[level].groups[group];
        group.ring.as_ref().map(|ring| (ring, group.members.as_slice()))
    }
}

impl GroupView {
    fn of(members: Vec<u32>, table: &Table) -> GroupView {
        let weight = |at: &u32| table.endpoints[*at as usize].weight;
        let mut total: u64 = 0;
        let cumulative = members.iter().map(|at| {
            total += u64::from(weight(at));
            total
        });
        let cumulative = cumulative.collect();
        let equal = members.windows(2).all(|pair| weight(&pair[0]) == weight(&pair[1]));
        GroupView { members, cumulative, equal }
    }

    pub fn total(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

fn is<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// The same thing, or one that says the same: settings are made anew more often than they say something new.
fn same<T: PartialEq>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    is(a, b) || a == b
}
