//! A traffic policy of Istio to what waypoints do (spec/waypoint.md 5.4 to 5.7).

use mesh_xds::messages::waypoint::{
    BackendPolicy, Balance, ConnectionPool, Distribute, Failover, ForwardProxy, HashCookie, HashKey, HashKeyKind, HttpUpgrade, LoadBalancer, LocalitySetting, OutlierDetection,
    ProxyHeader, RetryBudget, TlsClient, TlsMode, Warmup,
};

use super::material::Credentials;
use crate::objects::destination_rule as asked;
use crate::objects::destination_rule::TrafficPolicy;
use crate::objects::duration::Span;
use crate::translate::Report;
use crate::translate::targets::texts;

/// The policy of all ports (0), and of each that has its own.
pub fn by_port(policy: &TrafficPolicy, credentials: &Credentials<'_>) -> Vec<(u32, BackendPolicy)> {
    let whole = BackendPolicy {
        load_balancer: policy.load_balancer.as_ref().map(load_balancer),
        pool: policy.connection_pool.as_ref().map(pool),
        outlier: policy.outlier_detection.as_ref().map(outlier),
        tls: policy.tls.as_ref().and_then(|asked| tls(asked, credentials)),
        retry_budget: policy.retry_budget.map(|budget| RetryBudget {
            percent: budget.percent,
            min_concurrency: budget.min_retry_concurrency,
            interval_ms: ms(budget.budget_interval),
        }),
        proxy_header: match policy.proxy_protocol.as_ref().map(|protocol| protocol.version.as_deref()) {
            None => ProxyHeader::Off,
            Some(Some("V2")) => ProxyHeader::V2,
            Some(_) => ProxyHeader::V1,
        } as i32,
        forward_proxy: policy.tunnel.as_ref().map(|tunnel| ForwardProxy {
            target_host: tunnel.target_host.to_string(),
            target_port: tunnel.target_port,
            post: tunnel.protocol.eq_ignore_ascii_case("POST"),
        }),
        ..BackendPolicy::default()
    };
    let ports = policy.port_level_settings.iter().filter_map(|settings| Some((settings.port?.number, of_port(settings, credentials))));
    let is_said = whole != BackendPolicy::default();
    std::iter::once((0, whole)).filter(|_| is_said).chain(ports).collect()
}

/// What a port's own settings do not say has its default; nothing of it is inherited.
fn of_port(settings: &asked::PortSettings, credentials: &Credentials<'_>) -> BackendPolicy {
    BackendPolicy {
        load_balancer: Some(settings.load_balancer.as_ref().map(load_balancer).unwrap_or_default()),
        pool: Some(settings.connection_pool.as_ref().map(pool).unwrap_or_default()),
        // No failure counts: nothing is ejected.
        outlier: Some(settings.outlier_detection.as_ref().map(outlier).unwrap_or_else(|| OutlierDetection { consecutive_5xx: Some(0), ..OutlierDetection::default() })),
        tls: Some(settings.tls.as_ref().and_then(|asked| tls(asked, credentials)).unwrap_or_default()),
        ..BackendPolicy::default()
    }
}

fn ms(span: Option<Span>) -> u64 {
    span.map_or(0, Span::ms)
}

pub fn load_balancer(asked: &asked::LoadBalancer) -> LoadBalancer {
    let hash = asked.consistent_hash.as_ref();
    let balance = match (hash, asked.simple.as_deref()) {
        (Some(_), _) => Balance::ConsistentHash,
        (None, Some("ROUND_ROBIN")) => Balance::RoundRobin,
        (None, Some("RANDOM")) => Balance::Random,
        (None, Some("PASSTHROUGH")) => Balance::Passthrough,
        (None, Some("PEAK_EWMA")) => Balance::PeakEwma,
        (None, _) => Balance::LeastRequest,
    };
    let warmup = asked.warmup.map(|warmup| Warmup { duration_ms: ms(warmup.duration), minimum_percent: warmup.minimum_percent.unwrap_or(0.0), aggression: warmup.aggression.unwrap_or(0.0) });
    let older = asked.warmup_duration_secs.map(|span| Warmup { duration_ms: span.ms(), ..Warmup::default() });
    LoadBalancer { balance: balance as i32, hash: hash.map(hash_key), locality: asked.locality_lb_setting.as_ref().map(locality), warmup: warmup.or(older) }
}

fn hash_key(asked: &asked::ConsistentHash) -> HashKey {
    let kind = if let Some(name) = &asked.http_header_name {
        Some(HashKeyKind::Header(name.to_string()))
    } else if let Some(cookie) = &asked.http_cookie {
        Some(HashKeyKind::Cookie(HashCookie { name: cookie.name.to_string(), path: cookie.path.to_string(), ttl_ms: cookie.ttl.map(Span::ms) }))
    } else if let Some(name) = &asked.http_query_parameter_name {
        Some(HashKeyKind::QueryParameter(name.to_string()))
    } else {
        asked.use_source_ip.filter(|uses| *uses).map(HashKeyKind::SourceIp)
    };
    let ring = asked.ring_hash.map(|ring| ring.minimum_ring_size).or(asked.minimum_ring_size).unwrap_or(0);
    // A Maglev table without a size has the field's.
    let maglev = asked.maglev.map_or(0, |maglev| if maglev.table_size == 0 { 65_537 } else { maglev.table_size });
    HashKey { kind, minimum_ring_size: ring, maglev_table_size: maglev }
}

pub fn locality(asked: &asked::LocalitySetting) -> LocalitySetting {
    LocalitySetting {
        disabled: asked.enabled == Some(false),
        distribute: asked.distribute.iter().map(|one| Distribute { from: one.from.to_string(), to: one.to.clone() }).collect(),
        failover: asked.failover.iter().map(|one| Failover { from: one.from.to_string(), to: one.to.to_string() }).collect(),
        failover_priority: texts(&asked.failover_priority),
    }
}

fn pool(asked: &asked::ConnectionPool) -> ConnectionPool {
    let (tcp, http) = (asked.tcp.clone().unwrap_or_default(), asked.http.clone().unwrap_or_default());
    ConnectionPool {
        max_connections: tcp.max_connections,
        connect_timeout_ms: ms(tcp.connect_timeout),
        max_pending_requests: http.http1_max_pending_requests,
        max_requests: http.http2_max_requests,
        max_requests_per_connection: http.max_requests_per_connection,
        max_retries: http.max_retries,
        idle_timeout_ms: ms(http.idle_timeout),
        tcp_idle_timeout_ms: ms(tcp.idle_timeout),
        max_connection_duration_ms: ms(tcp.max_connection_duration),
        upgrade: match http.h2_upgrade_policy.as_deref() {
            Some("UPGRADE") => HttpUpgrade::Upgrade,
            Some("DO_NOT_UPGRADE") => HttpUpgrade::DoNotUpgrade,
            _ => HttpUpgrade::Default,
        } as i32,
        max_concurrent_streams: http.max_concurrent_streams,
        use_client_protocol: http.use_client_protocol,
    }
}

fn outlier(asked: &asked::OutlierDetection) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: asked.consecutive_5xx_errors.or(asked.consecutive_errors),
        consecutive_gateway_errors: asked.consecutive_gateway_errors,
        split_local_origin_errors: asked.split_external_local_origin_errors,
        consecutive_local_origin_failures: asked.consecutive_local_origin_failures,
        interval_ms: ms(asked.interval),
        base_ejection_time_ms: ms(asked.base_ejection_time),
        max_ejection_percent: asked.max_ejection_percent,
        min_health_percent: asked.min_health_percent,
        http_error_codes: asked.outlier_detection_http_error_codes.clone(),
    }
}

/// `None`: nothing is said. ISTIO_MUTUAL says what tunnels do anyway.
fn tls(asked: &asked::ClientTls, credentials: &Credentials<'_>) -> Option<TlsClient> {
    let mode = match asked.mode.as_deref() {
        None | Some("ISTIO_MUTUAL") => return None,
        Some("DISABLE") => return Some(TlsClient { mode: TlsMode::Disable as i32, ..TlsClient::default() }),
        Some("MUTUAL") => TlsMode::Mutual,
        Some(_) => TlsMode::Simple,
    };
    let mut message = TlsClient {
        mode: mode as i32,
        server_name: asked.sni.to_string(),
        subject_alt_names: texts(&asked.subject_alt_names),
        insecure_skip_verify: asked.insecure_skip_verify == Some(true),
        ..TlsClient::default()
    };
    if let Err(why) = material(asked, credentials, &mut message) {
        message.invalid = why;
    }
    Some(message)
}

/// Keys and authorities: without those that are asked for a connection would prove less than it should.
fn material(asked: &asked::ClientTls, credentials: &Credentials<'_>, message: &mut TlsClient) -> Result<(), String> {
    let files = [("caCertificates", &asked.ca_certificates), ("clientCertificate", &asked.client_certificate), ("privateKey", &asked.private_key), ("caCrl", &asked.ca_crl)];
    if let Some((field, file)) = files.into_iter().find(|(_, file)| !file.is_empty() && &***file != "system") {
        return Err(format!("tls.{field} {file:?}: a waypoint has no files of users; keep it in a Secret (credentialName), or name nothing for the system's authorities"));
    }
    let is_mutual = match asked.mode.as_deref() {
        Some("MUTUAL") => true,
        Some("SIMPLE") => false,
        other => return Err(format!("tls.mode {:?} is not DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL", other.unwrap_or_default())),
    };
    match (asked.credential_name.is_empty(), is_mutual) {
        (false, _) => credentials.fill(asked, is_mutual, message),
        (true, true) => Err("tls.mode MUTUAL needs a certificate of the client: name the Secret that holds it in credentialName".into()),
        (true, false) => Ok(()),
    }
}

/// Whether TLS of a policy hangs on a Secret.
pub fn names_secrets(policy: &TrafficPolicy) -> bool {
    let of_ports = policy.port_level_settings.iter().map(|settings| &settings.tls);
    std::iter::once(&policy.tls).chain(of_ports).flatten().any(|tls| !tls.credential_name.is_empty())
}

/// Why connections fail by a policy, with the field that says so.
pub fn broken(policy: &TrafficPolicy, field: &str, credentials: &Credentials<'_>) -> Vec<String> {
    let of_ports = policy.port_level_settings.iter().map(|settings| (format!("{field}.portLevelSettings[{}]", settings.port.map_or(0, |port| port.number)), &settings.tls));
    let all = std::iter::once((field.to_owned(), &policy.tls)).chain(of_ports);
    let why = |tls: &Option<asked::ClientTls>| Some(self::tls(tls.as_ref()?, credentials)?.invalid).filter(|why| !why.is_empty());
    all.filter_map(|(field, tls)| Some(format!("{field}.{}", why(tls)?))).collect()
}

/// What of a policy has no effect, or another one than is asked for.
pub fn unhonoured(policy: &TrafficPolicy, field: &str, report: &mut Report) {
    let mut parts = vec![(field.to_owned(), &policy.load_balancer, &policy.connection_pool)];
    for settings in &policy.port_level_settings {
        let number = settings.port.map_or(0, |port| port.number);
        if number == 0 {
            report.note(format!("{field}.portLevelSettings: an entry names no port and has no effect"));
        }
        parts.push((format!("{field}.portLevelSettings[{number}]"), &settings.load_balancer, &settings.connection_pool));
    }
    for (field, balancer, pool) in parts {
        if let Some(simple) = balancer.as_ref().and_then(|balancer| balancer.simple.as_deref())
            && !matches!(simple, "UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN" | "ROUND_ROBIN" | "RANDOM" | "PASSTHROUGH" | "PEAK_EWMA")
        {
            report.note(format!("{field}.loadBalancer.simple: {simple:?} is not known; LEAST_REQUEST is in force"));
        }
        if let Some(cookie) = balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref()?.http_cookie.as_ref()).filter(|cookie| !cookie.attributes.is_empty()) {
            report.note(format!("{field}.loadBalancer.consistentHash.httpCookie.attributes of {} have no effect", cookie.name));
        }
        if pool.as_ref().and_then(|pool| pool.tcp.as_ref()).is_some_and(|tcp| tcp.tcp_keepalive.is_some()) {
            report.note(format!("{field}.connectionPool.tcp.tcpKeepalive has no effect: tunnels have pings of their own"));
        }
        if pool.as_ref().and_then(|pool| pool.http.as_ref()).is_some_and(|http| http.http2_keep_alive.is_some()) {
            report.note(format!("{field}.connectionPool.http.http2KeepAlive has no effect: tunnels have pings of their own"));
        }
    }
}
