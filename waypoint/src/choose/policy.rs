//! How a destination is treated, as the proxy uses it: the groups of a `BackendPolicy` with their defaults filled in.
//! A group is all or nothing: the most specific policy that sets it has the say (spec/waypoint.md 5.7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use mesh_xds::messages::waypoint as wire;

use crate::choose::locality::{Distribution, Preference};
use crate::choose::ring::{MAGLEV_TABLE_MAX, RING_MAX, is_prime};
use crate::facts::Rejection;
use crate::upstream::{Forward, Origin};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub balancer: Option<Balancer>,
    pub pool: Option<Pool>,
    pub outlier: Option<Outlier>,
    pub retry_budget: Option<Budget>,
    pub tls: Option<Arc<Origin>>,
    pub proxy_header: Option<wire::ProxyHeader>,
    pub forward_proxy: Option<Arc<Forward>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    pub algorithm: Algorithm,
    /// None: as the service itself says (`trafficDistribution`).
    pub locality: Option<Locality>,
    pub warmup: Option<Warmup>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    LeastRequest,
    RoundRobin,
    Random,
    /// The address that was dialled.
    Passthrough,
    PeakEwma,
    ConsistentHash(HashKey, HashTable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    Header(HeaderName),
    /// With a lifetime the cookie is made where it is missing; a lifetime of zero is the browser's session.
    Cookie { name: String, path: String, lifetime: Option<Duration> },
    SourceIp,
    QueryParameter(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    Ring { entries: usize },
    Maglev { size: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locality {
    Disabled,
    /// Failover by how much of the place is shared, with these regions after one's own; empty: every region.
    Failover(Vec<(Arc<str>, Arc<str>)>),
    Preference(Vec<Preference>),
    Distribute(Vec<Distribution>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    pub duration: Duration,
    /// Share of its weight with which an endpoint begins.
    pub minimum: f64,
    pub aggression: f64,
}

/// None: no bound (spec/waypoint.md 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub connections: Option<u32>,
    pub pending: Option<u32>,
    pub requests: Option<u32>,
    pub retries: Option<u32>,
    pub connect_timeout: Option<Duration>,
    pub requests_per_connection: Option<u32>,
    pub idle_timeout: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub connection_lifetime: Option<Duration>,
    pub streams_per_connection: Option<u32>,
    pub upgrade: Upgrade,
    pub client_protocol: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    #[default]
    Default,
    Never,
    Always,
}

/// spec/waypoint.md 5.5. A count of 0 switches its detector off.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_errors: u32,
    /// None: failures of our own count as 5xx and as gateway errors.
    pub consecutive_local_failures: Option<u32>,
    pub interval: Duration,
    pub ejection: Duration,
    pub ejected_share_max: f64,
    /// Below this share of endpoints that may be taken, ejections are ignored; 0: never.
    pub panic_below: f64,
    /// Only these statuses are failures; empty: all of 500 to 599.
    pub codes: BTreeSet<u16>,
    /// Answers say nothing, nor what breaks later: an endpoint fails that takes no connection, and each ejection is as long
    /// as the first.
    pub of_connections: bool,
}

/// Where no policy says anything: who takes no connection is asked again after a second, and by one request. Without it
/// each endpoint that is dead would cost its share of first tries, which is soon more than retries may make good for.
static UNREACHABLE: Outlier = Outlier {
    consecutive_5xx: 0,
    consecutive_gateway_errors: 0,
    consecutive_local_failures: Some(1),
    interval: Duration::from_secs(1),
    ejection: Duration::from_secs(1),
    ejected_share_max: 1.0,
    panic_below: 0.0,
    codes: BTreeSet::new(),
    of_connections: true,
};

/// How many retries there may be beside first tries (spec/waypoint.md 5.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Of what is under way.
    Concurrent { share: f64, least: u32 },
    /// Of what began within the interval, beside a rate that is always allowed.
    Rate { share: f64, least_per_second: u32, interval: Duration },
}

/// Where nobody says otherwise: retries add a fifth at most to what a broken backend has to bear, and a service that is
/// asked now and then may retry all. By rate, since what is under way at once is too few to count where answers are fast.
pub const BUDGET: Budget = Budget::Rate { share: 0.20, least_per_second: 10, interval: Duration::from_secs(10) };

impl Default for Balancer {
    fn default() -> Balancer {
        Balancer { algorithm: Algorithm::LeastRequest, locality: None, warmup: None }
    }
}

impl Policy {
    /// Group by group from the first that sets it.
    pub fn merged<'a>(most_specific_first: impl IntoIterator<Item = &'a Policy>) -> Policy {
        let mut merged = Policy::default();
        for policy in most_specific_first {
            let Policy { balancer, pool, outlier, retry_budget, tls, proxy_header, forward_proxy } = policy;
            merged.balancer = merged.balancer.or_else(|| balancer.clone());
            merged.pool = merged.pool.or(*pool);
            merged.outlier = merged.outlier.or_else(|| outlier.clone());
            merged.retry_budget = merged.retry_budget.or(*retry_budget);
            merged.tls = merged.tls.or_else(|| tls.clone());
            merged.proxy_header = merged.proxy_header.or(*proxy_header);
            merged.forward_proxy = merged.forward_proxy.or_else(|| forward_proxy.clone());
        }
        merged
    }

    pub fn budget(&self) -> Budget {
        self.retry_budget.unwrap_or(BUDGET)
    }

    pub fn pool(&self) -> Pool {
        self.pool.unwrap_or_default()
    }

    /// Who is left out for a while.
    pub fn outlier(&self) -> &Outlier {
        self.outlier.as_ref().unwrap_or(&UNREACHABLE)
    }

    /// The groups that are set, in the words of a DestinationRule.
    pub fn words(&self) -> Vec<&'static str> {
        let groups = [
            ("loadBalancer", self.balancer.is_some()),
            ("connectionPool", self.pool.is_some()),
            ("outlierDetection", self.outlier.is_some()),
            ("retryBudget", self.retry_budget.is_some()),
            ("tls", self.tls.is_some()),
            ("proxyProtocol", self.proxy_header.is_some()),
            ("tunnel", self.forward_proxy.is_some()),
        ];
        groups.into_iter().filter_map(|(word, is_set)| is_set.then_some(word)).collect()
    }
}

/// # Errors
/// What in the policy cannot be done. Nothing of it is used then.
pub fn compile(policy: &wire::BackendPolicy) -> Result<Policy, Rejection> {
    let proxy_header = wire::ProxyHeader::try_from(policy.proxy_header).map_err(|_| unknown("proxyHeader", policy.proxy_header))?;
    Ok(Policy {
        balancer: policy.load_balancer.as_ref().map(balancer).transpose()?,
        pool: policy.pool.as_ref().map(pool).transpose()?,
        outlier: policy.outlier.as_ref().map(outlier).transpose()?,
        retry_budget: policy.retry_budget.as_ref().map(budget).transpose()?,
        tls: policy.tls.as_ref().map(Origin::compile),
        proxy_header: Some(proxy_header).filter(|header| *header != wire::ProxyHeader::Off),
        forward_proxy: policy.forward_proxy.as_ref().map(Forward::compile),
    })
}

fn balancer(balancer: &wire::LoadBalancer) -> Result<Balancer, Rejection> {
    let balance = wire::Balance::try_from(balancer.balance).map_err(|_| unknown("balance", balancer.balance))?;
    let algorithm = match balance {
        wire::Balance::LeastRequest => Algorithm::LeastRequest,
        wire::Balance::RoundRobin => Algorithm::RoundRobin,
        wire::Balance::Random => Algorithm::Random,
        wire::Balance::Passthrough => Algorithm::Passthrough,
        wire::Balance::PeakEwma => Algorithm::PeakEwma,
        wire::Balance::ConsistentHash => {
            let hash = balancer.hash.as_ref().ok_or_else(|| invalid("CONSISTENT_HASH without `hash`"))?;
            Algorithm::ConsistentHash(hash_key(hash)?, hash_table(hash)?)
        }
    };
    let locality = balancer.locality.as_ref().map(locality).transpose()?;
    let warmup = balancer.warmup.as_ref().map(warmup).transpose()?;
    Ok(Balancer { algorithm, locality, warmup })
}

fn hash_key(hash: &wire::HashKey) -> Result<HashKey, Rejection> {
    let named = |what: &str, name: &str| {
        if name.is_empty() { Err(invalid(format!("consistent hash by a {what} without a name"))) } else { Ok(name.to_owned()) }
    };
    Ok(match hash.kind.as_ref().ok_or_else(|| invalid("consistent hash of nothing: header, cookie, sourceIp or queryParameter"))? {
        wire::HashKeyKind::Header(name) => {
            HashKey::Header(name.parse().map_err(|_| invalid(format!("{name:?} is not a header's name")))?)
        }
        wire::HashKeyKind::Cookie(cookie) => HashKey::Cookie {
            name: cookie_text("cookie", &named("cookie", &cookie.name)?)?,
            path: cookie_text("path", &cookie.path)?,
            lifetime: cookie.ttl_ms.map(Duration::from_millis),
        },
        wire::HashKeyKind::SourceIp(true) => HashKey::SourceIp,
        wire::HashKeyKind::SourceIp(false) => return Err(invalid("consistent hash with sourceIp: false")),
        wire::HashKeyKind::QueryParameter(name) => HashKey::QueryParameter(named("query parameter", name)?),
    })
}

/// It goes into a `set-cookie` header: nothing in it may end the value or begin an attribute.
fn cookie_text(what: &str, text: &str) -> Result<String, Rejection> {
    let harmless = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"' | b'\\');
    let named = |byte: u8| harmless(byte) && !(what == "cookie" && byte == b'=');
    if text.bytes().all(named) { Ok(text.to_owned()) } else { Err(invalid(format!("{what} {text:?} has characters that a cookie cannot have"))) }
}

fn hash_table(hash: &wire::HashKey) -> Result<HashTable, Rejection> {
    let fits = |size: u64, max: usize| usize::try_from(size).ok().filter(|size| *size <= max);
    if hash.maglev_table_size > 0 {
        let size = fits(hash.maglev_table_size, MAGLEV_TABLE_MAX).filter(|size| is_prime(*size));
        let size = size.ok_or_else(|| invalid(format!("maglevTableSize {}: a prime up to {MAGLEV_TABLE_MAX}", hash.maglev_table_size)))?;
        return Ok(HashTable::Maglev { size });
    }
    let entries = if hash.minimum_ring_size == 0 { 1024 } else { hash.minimum_ring_size };
    let entries = fits(entries, RING_MAX).ok_or_else(|| invalid(format!("minimumRingSize {entries}: at most {RING_MAX}")))?;
    Ok(HashTable::Ring { entries })
}

fn locality(setting: &wire::LocalitySetting) -> Result<Locality, Rejection> {
    if setting.disabled {
        return Ok(Locality::Disabled);
    }
    let given = [!setting.distribute.is_empty(), !setting.failover.is_empty() && setting.failover_priority.is_empty()];
    if given == [true, true] || (given[0] && !setting.failover_priority.is_empty()) {
        return Err(invalid("locality: `distribute` and failover exclude each other"));
    }
    if given[0] {
        return Ok(Locality::Distribute(setting.distribute.iter().map(Distribution::compile).collect::<Result<_, _>>()?));
    }
    if !setting.failover_priority.is_empty() {
        return Ok(Locality::Preference(setting.failover_priority.iter().map(|text| Preference::compile(text)).collect::<Result<_, _>>()?));
    }
    Ok(Locality::Failover(setting.failover.iter().map(|one| (one.from.as_str().into(), one.to.as_str().into())).collect()))
}

fn warmup(warmup: &wire::Warmup) -> Result<Warmup, Rejection> {
    let minimum = if warmup.minimum_percent == 0.0 { 10.0 } else { warmup.minimum_percent };
    let aggression = if warmup.aggression == 0.0 { 1.0 } else { warmup.aggression };
    if !(0.0..=100.0).contains(&minimum) || !aggression.is_finite() || aggression <= 0.0 {
        return Err(invalid("warmup: minimumPercent is 0 to 100, aggression above 0"));
    }
    Ok(Warmup { duration: Duration::from_millis(warmup.duration_ms), minimum: minimum / 100.0, aggression })
}

fn pool(pool: &wire::ConnectionPool) -> Result<Pool, Rejection> {
    let upgrade = match wire::HttpUpgrade::try_from(pool.upgrade).map_err(|_| unknown("upgrade", pool.upgrade))? {
        wire::HttpUpgrade::Default => Upgrade::Default,
        wire::HttpUpgrade::DoNotUpgrade => Upgrade::Never,
        wire::HttpUpgrade::Upgrade => Upgrade::Always,
    };
    let bound = |bound: u32| (bound > 0).then_some(bound);
    let time = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    Ok(Pool {
        connections: bound(pool.max_connections),
        pending: bound(pool.max_pending_requests),
        requests: bound(pool.max_requests),
        retries: bound(pool.max_retries),
        connect_timeout: time(pool.connect_timeout_ms),
        requests_per_connection: bound(pool.max_requests_per_connection),
        idle_timeout: time(pool.idle_timeout_ms),
        tcp_idle_timeout: time(pool.tcp_idle_timeout_ms),
        connection_lifetime: time(pool.max_connection_duration_ms),
        streams_per_connection: bound(pool.max_concurrent_streams),
        upgrade,
        client_protocol: pool.use_client_protocol,
    })
}

fn outlier(outlier: &wire::OutlierDetection) -> Result<Outlier, Rejection> {
    let share = |what: &str, percent: Option<u32>, default: u32| match percent.unwrap_or(default) {
        percent @ 0..=100 => Ok(f64::from(percent) / 100.0),
        percent => Err(invalid(format!("outlier: {what} {percent} is not a percentage"))),
    };
    let code = |code: &u32| u16::try_from(*code).ok().filter(|code| (100..=599).contains(code));
    let codes = outlier.http_error_codes.iter().map(|one| code(one).ok_or_else(|| invalid(format!("outlier: {one} is no HTTP status"))));
    let time = |ms: u64, default: u64| Duration::from_millis(if ms == 0 { default } else { ms });
    Ok(Outlier {
        consecutive_5xx: outlier.consecutive_5xx.unwrap_or(5),
        consecutive_gateway_errors: outlier.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_failures: outlier
            .split_local_origin_errors
            .then(|| outlier.consecutive_local_origin_failures.unwrap_or(5)),
        interval: time(outlier.interval_ms, 10_000),
        ejection: time(outlier.base_ejection_time_ms, 30_000),
        ejected_share_max: share("maxEjectionPercent", outlier.max_ejection_percent, 10)?,
        panic_below: share("minHealthPercent", outlier.min_health_percent, 0)?,
        codes: codes.collect::<Result<_, _>>()?,
        of_connections: false,
    })
}

fn budget(budget: &wire::RetryBudget) -> Result<Budget, Rejection> {
    let percent = budget.percent.unwrap_or(20.0);
    if !(0.0..=100.0).contains(&percent) {
        return Err(invalid(format!("retryBudget: {percent} is not a percentage")));
    }
    let (share, least) = (percent / 100.0, budget.min_concurrency.unwrap_or(3));
    Ok(match budget.interval_ms {
        0 => Budget::Concurrent { share, least },
        ms => Budget::Rate { share, least_per_second: least, interval: Duration::from_millis(ms) },
    })
}

pub(super) fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new("Invalid", message)
}

fn unknown(field: &str, number: i32) -> Rejection {
    Rejection::new("UnknownValue", format!("{field}: this version does not know the value {number}"))
}
