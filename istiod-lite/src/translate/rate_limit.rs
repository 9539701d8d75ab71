//! RateLimit of isthmus.io to what waypoints count by (docs/rate-limits.md). Of a limit that cannot be done as it is written
//! nothing is counted: half of one would count what nobody asked for. What becomes of its targets: `request`.

use mesh_xds::messages::waypoint::{BackendRef, Descriptor, DescriptorList, DescriptorSource, GlobalLimit, Host, LocalLimit, RateLimit as Message, RateLimitPhase};

use super::route::http_match;
use crate::objects::NsName;
use crate::objects::duration::Span;
use crate::objects::rate_limit::{By, COUNTED_BY, FAILURE_MODES, GRPC_STATUSES, Global, Local, PHASES, RateLimitSpec};

/// A token that comes more often than the waypoint's clock of limits.
const INTERVAL_MIN_MS: u64 = 50;
/// A call for each request that takes longer than this is no help.
const TIMEOUT_MAX_MS: u64 = 10_000;

/// What waypoints are told, but for whom it is and where it comes from. `host`: the hostname of the service that counts.
///
/// # Errors
/// The field, what is wrong with it, and what to write.
pub fn message(spec: &RateLimitSpec, host: impl FnOnce(&Global) -> Host) -> Result<Message, String> {
    if spec.local.is_empty() && spec.global.is_none() {
        return Err("spec: limits nothing: write local, global or both".into());
    }
    let phase = match one_of("spec.phase", spec.phase.as_deref(), &PHASES)? {
        1 => RateLimitPhase::BeforeAuthn,
        _ => RateLimitPhase::AfterAuthz,
    };
    let local = spec.local.iter().enumerate().map(|(at, one)| local(&format!("spec.local[{at}]"), one));
    Ok(Message {
        phase: phase as i32,
        local: local.collect::<Result<_, _>>()?,
        global: spec.global.as_ref().map(|global| self::global(global, host)).transpose()?,
        headers: spec.headers,
        shadow: spec.shadow,
        resource_exhausted: one_of("spec.grpcStatus", spec.grpc_status.as_deref(), &GRPC_STATUSES)? == 1,
        ..Message::default()
    })
}

fn local(at: &str, local: &Local) -> Result<LocalLimit, String> {
    let per = local.per.as_deref().ok_or_else(|| format!("{at}.per: is missing: in how long so many requests may come, such as 1m"))?;
    let per = Span::parse(per).map_err(|why| format!("{at}.per: {why}"))?.ms();
    if local.requests == 0 || local.burst == Some(0) {
        return Err(format!("{at}.requests: is 0, which nobody passes: deny it by an AuthorizationPolicy"));
    }
    if per < INTERVAL_MIN_MS {
        return Err(format!("{at}.per: is less than {INTERVAL_MIN_MS}ms: write fewer requests in a longer time"));
    }
    let matches = local.matches.iter().map(|one| http_match(&one.path, &one.headers, &one.query_params, one.method.as_deref()));
    Ok(LocalLimit {
        name: local.name.to_string(),
        max_tokens: local.burst.unwrap_or(local.requests),
        tokens_per_fill: local.requests,
        fill_interval_ms: per,
        key_by: counted_by(at, &local.by)?,
        divide_by_replicas: local.shared,
        matches: matches.collect::<Result<_, _>>().map_err(|why| format!("{at}.{why}"))?,
    })
}

fn global(global: &Global, host: impl FnOnce(&Global) -> Host) -> Result<GlobalLimit, String> {
    if global.domain.is_empty() {
        return Err("spec.global.domain: is empty: write the domain of the service's configuration".into());
    }
    if global.service.name.is_empty() || global.service.port == 0 {
        return Err("spec.global.service: needs the name and the port of the service that counts".into());
    }
    if global.descriptors.is_empty() {
        return Err("spec.global.descriptors: is empty: nothing would be counted".into());
    }
    let list = |(at, one): (usize, &crate::objects::rate_limit::Descriptor)| {
        let at = format!("spec.global.descriptors[{at}]");
        if one.by.is_empty() { Err(format!("{at}.by: is empty")) } else { Ok(DescriptorList { entries: counted_by(&at, &one.by)? }) }
    };
    let timeout = global.timeout.as_deref().map(Span::parse).transpose().map_err(|why| format!("spec.global.timeout: {why}"))?;
    let timeout_ms = timeout.map_or(0, Span::ms);
    if timeout.is_some() && !(1..=TIMEOUT_MAX_MS).contains(&timeout_ms) {
        return Err(format!("spec.global.timeout: is not between 1ms and {TIMEOUT_MAX_MS}ms"));
    }
    Ok(GlobalLimit {
        domain: global.domain.to_string(),
        backend: Some(BackendRef { host: Some(host(global)), port: global.service.port.into(), subset: String::new() }),
        descriptors: global.descriptors.iter().enumerate().map(list).collect::<Result<_, _>>()?,
        fail_closed: one_of("spec.global.failureMode", global.failure_mode.as_deref(), &FAILURE_MODES)? == 1,
        timeout_ms,
    })
}

fn counted_by(at: &str, list: &[By]) -> Result<Vec<Descriptor>, String> {
    list.iter().enumerate().map(|(index, by)| one_by(&format!("{at}.by[{index}]"), by)).collect()
}

fn one_by(at: &str, by: &By) -> Result<Descriptor, String> {
    let source = COUNTED_BY.iter().position(|known| **known == *by.r#type).and_then(|index| DescriptorSource::ALL.get(index));
    let source = *source.ok_or_else(|| format!("{at}.type: {} is not {}", serde_json::json!(by.r#type), COUNTED_BY.join(", ")))?;
    let is_named = matches!(source, DescriptorSource::Header | DescriptorSource::Claim | DescriptorSource::QueryParameter);
    if is_named == by.name.is_empty() {
        return Err(format!("{at}.name: belongs to Header, Claim and QueryParameter, and each of them needs one"));
    }
    if source == DescriptorSource::Header && http::HeaderName::from_bytes(by.name.as_bytes()).is_err() {
        return Err(format!("{at}.name: {:?} is no name of a header", by.name));
    }
    if (source == DescriptorSource::Generic) == by.value.is_empty() {
        return Err(format!("{at}.value: belongs to Generic, which needs one"));
    }
    if by.prefix_length > 128 || (by.prefix_length > 0 && source != DescriptorSource::RemoteAddress) {
        return Err(format!("{at}.prefixLength: belongs to RemoteAddress, and is 128 at most"));
    }
    Ok(Descriptor {
        source: source as i32,
        key: by.key.to_string(),
        name: by.name.to_string(),
        value: by.value.to_string(),
        prefix_length: by.prefix_length,
        optional: by.optional,
    })
}

/// The place of a value in its list; 0, the default, where nothing is said.
fn one_of(field: &str, value: Option<&str>, known: &[&str]) -> Result<usize, String> {
    let Some(value) = value else { return Ok(0) };
    known.iter().position(|one| *one == value).ok_or_else(|| format!("{field}: {value:?} is not {}", known.join(" or ")))
}

/// Where the service that counts is, by its name in the cluster.
pub fn counter(global: &Global, own_namespace: &str) -> NsName {
    let namespace = global.service.namespace.clone().unwrap_or_else(|| own_namespace.into());
    NsName { namespace, name: global.service.name.clone() }
}

#[cfg(test)]
mod tests;
