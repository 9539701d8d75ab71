//! What is plainly wrong with objects that only waypoints look at.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::one_of;
use crate::objects::destination_rule::{ClientTls, TrafficPolicy};
use crate::objects::virtual_service::{HttpRule, Text};
use crate::objects::{DestinationRule, RequestAuthentication, Telemetry, VirtualService};
use crate::translate::route::wrong_pattern;

const TLS_MODES: [&str; 4] = ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"];

pub fn destination_rule(found: &DestinationRule) -> Result<(), String> {
    let spec = &found.spec;
    if spec.host.is_empty() {
        return Err("spec.host: is empty: name a Service or a host of a ServiceEntry".into());
    }
    if let Some(name) = twice(spec.subsets.iter().map(|subset| &*subset.name)) {
        return Err(format!("spec.subsets: {name:?} is the name of a subset before it"));
    }
    spec.traffic_policy.as_ref().map_or(Ok(()), |policy| traffic(policy, "spec.trafficPolicy"))?;
    for (index, subset) in spec.subsets.iter().enumerate() {
        if subset.name.is_empty() {
            return Err(format!("spec.subsets[{index}].name: is empty: routes name a subset by it"));
        }
        subset.traffic_policy.as_ref().map_or(Ok(()), |policy| traffic(policy, &format!("spec.subsets[{index}].trafficPolicy")))?;
    }
    Ok(())
}

fn traffic(policy: &TrafficPolicy, field: &str) -> Result<(), String> {
    let tls = |field: &str, tls: &Option<ClientTls>| one_of(&format!("{field}.tls.mode"), tls.as_ref().and_then(|tls| tls.mode.as_ref()), &TLS_MODES);
    tls(field, &policy.tls)?;
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        tls(&format!("{field}.portLevelSettings[{index}]"), &settings.tls)?;
    }
    let setting = policy.load_balancer.as_ref().and_then(|balancer| balancer.locality_lb_setting.as_ref());
    if setting.is_some_and(|setting| [!setting.distribute.is_empty(), !setting.failover.is_empty()].iter().filter(|is_said| **is_said).count() > 1) {
        return Err(format!("{field}.loadBalancer.localityLbSetting: distribute and failover exclude each other"));
    }
    Ok(())
}

pub fn virtual_service(found: &VirtualService) -> Result<(), String> {
    // Without hosts and gateways its `http` is what others delegate to.
    if found.spec.hosts.is_empty() && !(found.spec.gateways.is_empty() && found.spec.tcp.is_empty() && found.spec.tls.is_empty() && !found.spec.http.is_empty()) {
        return Err("spec.hosts: is empty: name what is routed".into());
    }
    found.spec.http.iter().enumerate().try_for_each(|(index, rule)| http(rule, &format!("spec.http[{index}]")))
}

fn http(rule: &HttpRule, field: &str) -> Result<(), String> {
    for (index, one) in rule.r#match.iter().enumerate() {
        let named = [("uri", &one.uri), ("scheme", &one.scheme), ("method", &one.method), ("authority", &one.authority)];
        let texts = named.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        let maps = [("headers", &one.headers), ("withoutHeaders", &one.without_headers), ("queryParams", &one.query_params)];
        let values = maps.into_iter().flat_map(|(name, map)| map.values().map(move |text| (name, text)));
        texts.chain(values).try_for_each(|(name, text)| pattern(text, &format!("{field}.match[{index}].{name}")))?;
    }
    let percentages = [
        ("fault.delay.percentage", rule.fault.as_ref().and_then(|fault| fault.delay.as_ref()?.percentage)),
        ("fault.abort.percentage", rule.fault.as_ref().and_then(|fault| fault.abort.as_ref()?.percentage)),
        ("mirrorPercentage", rule.mirror_percentage),
    ];
    for (name, value) in percentages.into_iter().filter_map(|(name, percent)| Some((name, percent?.value))) {
        percent(value, &format!("{field}.{name}"))?;
    }
    if rule.delegate.is_some() && (rule.redirect.is_some() || rule.direct_response.is_some() || !rule.route.is_empty()) {
        return Err(format!("{field}: delegate excludes route, redirect and directResponse"));
    }
    if rule.redirect.is_some() && !rule.route.is_empty() {
        return Err(format!("{field}: redirect and route exclude each other"));
    }
    Ok(())
}

fn pattern(text: &Text, field: &str) -> Result<(), String> {
    match text.regex.as_deref().and_then(wrong_pattern) {
        Some(why) => Err(format!("{field}.regex: {why}")),
        None => Ok(()),
    }
}

/// The first name that stands there a second time.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

fn percent(value: f64, field: &str) -> Result<(), String> {
    if (0.0..=100.0).contains(&value) { Ok(()) } else { Err(format!("{field}: {value} is not 0 to 100")) }
}

pub fn request_authentication(found: &RequestAuthentication) -> Result<(), String> {
    for (index, rule) in found.spec.jwt_rules.iter().enumerate() {
        let field = format!("spec.jwtRules[{index}]");
        if rule.issuer.is_empty() {
            return Err(format!("{field}.issuer: is empty: a token of nobody cannot be good"));
        }
        let is_url = |uri: &Arc<str>| uri.starts_with("https://") || uri.starts_with("http://");
        if !rule.jwks_uri.is_empty() && !is_url(&rule.jwks_uri) {
            return Err(format!("{field}.jwksUri: {:?} is no URL of http or https", rule.jwks_uri));
        }
        if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
            return Err(format!("{field}: jwks and jwksUri exclude each other"));
        }
    }
    Ok(())
}

pub fn telemetry(found: &Telemetry) -> Result<(), String> {
    for (index, tracing) in found.spec.tracing.iter().enumerate() {
        tracing.random_sampling_percentage.map_or(Ok(()), |value| percent(value, &format!("spec.tracing[{index}].randomSamplingPercentage")))?;
    }
    Ok(())
}
