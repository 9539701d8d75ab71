//! The values of a policy's fields. Each is either understood or an error that begins with its field: a value that is
//! dropped from a list can turn a restriction into none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_policy::{Entry, ServiceAccountMatch, StringMatch};

use crate::objects::meta::check_name;

/// Notes which of these fields are used.
pub fn matches_nothing_else(fields: &[(&str, &Vec<Arc<str>>)], unsupported: &mut BTreeSet<String>) {
    unsupported.extend(fields.iter().filter(|(_, values)| !values.is_empty()).map(|(name, _)| (*name).to_owned()));
}

/// Attributes of a request or of its TLS: Istio knows them, L4 cannot see them.
pub fn is_request_attribute(key: &str) -> bool {
    matches!(key, "connection.sni" | "remote.ip" | "source.serviceAccount")
        || ["request.headers[", "request.auth.", "experimental.envoy.filters."].iter().any(|prefix| key.starts_with(prefix))
}

pub fn ports(field: &str, values: &[Arc<str>]) -> Result<Vec<Entry<u16>>, String> {
    each(field, values, |value| value.parse::<u16>().ok().filter(|port| *port > 0).ok_or("is not a port: 1 to 65535"))
}

pub fn addresses(field: &str, values: &[Arc<str>]) -> Result<Vec<Entry<IpNet>>, String> {
    each(field, values, |value| {
        let single = || value.parse::<IpAddr>().ok().map(IpNet::from);
        value.parse::<IpNet>().ok().or_else(single).ok_or("is neither an IP address nor a range of them")
    })
}

/// `*` at an end is the only wildcard there is.
pub fn strings(field: &str, values: &[Arc<str>]) -> Result<Vec<Entry<StringMatch>>, String> {
    each(field, values, |value| {
        let (matching, rest) = match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
            ("*", _, _) => (StringMatch::Presence, ""),
            (_, Some(rest), _) => (StringMatch::suffix(rest), rest),
            (_, _, Some(rest)) => (StringMatch::prefix(rest), rest),
            (exact, _, _) => (StringMatch::exact(exact), exact),
        };
        match (value.is_empty(), rest.contains('*')) {
            (true, _) => Err("is empty"),
            (_, true) => Err("has a * that is neither its first nor its last letter"),
            _ => Ok(matching),
        }
    })
}

/// `namespace/account`, or `account` of the policy's own namespace.
pub fn service_accounts(field: &str, values: &[Arc<str>], own: &Arc<str>) -> Result<Vec<ServiceAccountMatch>, String> {
    let one = |value: &Arc<str>| {
        let (namespace, account) = match value.split_once('/') {
            Some((namespace, account)) => (namespace.into(), account),
            None => (own.clone(), &**value),
        };
        match check_name(&namespace).and(check_name(account)) {
            Ok(()) => Ok(ServiceAccountMatch { namespace, service_account: account.into() }),
            Err(_) => Err(format!("{field}: {value:?} is not namespace/account or account")),
        }
    };
    values.iter().map(one).collect()
}

fn each<T>(field: &str, values: &[Arc<str>], read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<Entry<T>>, String> {
    values.iter().map(|value| read(value).map(Entry::Value).map_err(|why| format!("{field}: {value:?} {why}"))).collect()
}
