//! Pure: what a request is counted by (spec/waypoint.md 5.10).

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint as wire;
use http::HeaderName;

use crate::choose::affinity::parameter;
use crate::facts::{Claims, Head, Rejection};

/// What of a request counts.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub head: &'a Head<'a>,
    /// The name of the rule that was matched, where that is known yet.
    pub route: Option<&'a str>,
    pub service: Option<&'a NamespacedHostname>,
    /// Proxies that a limit may be divided by; 0: unknown.
    pub replicas: u32,
}

/// One entry of a descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    key: Box<str>,
    source: Source,
    optional: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    Generic(String),
    Header(HeaderName),
    RemoteAddress { prefix: Option<u8> },
    Principal,
    Namespace,
    ServiceAccount,
    Service,
    Method,
    Path,
    Claim(String),
    Parameter(String),
    Route,
}

impl Entry {
    pub fn compile(wire: &wire::Descriptor) -> Result<Entry, Rejection> {
        use wire::DescriptorSource as S;
        let invalid = |message: String| Rejection::new("Invalid", message);
        let source = S::try_from(wire.source)
            .map_err(|_| Rejection::new("UnknownValue", format!("this version knows no descriptor source {}", wire.source)))?;
        let name = || if wire.name.is_empty() { Err(invalid(format!("a {} needs a name", source.word()))) } else { Ok(wire.name.clone()) };
        let (compiled, usual) = match source {
            S::Generic => (Source::Generic(wire.value.clone()), "generic_key"),
            S::Header => {
                let name = name()?.parse().map_err(|_| invalid(format!("{:?} is not a header's name", wire.name)))?;
                (Source::Header(name), wire.name.as_str())
            }
            S::RemoteAddress => match u8::try_from(wire.prefix_length) {
                Ok(0) => (Source::RemoteAddress { prefix: None }, "remote_address"),
                Ok(prefix @ 1..=128) => (Source::RemoteAddress { prefix: Some(prefix) }, "masked_remote_address"),
                _ => return Err(invalid(format!("{} is not a prefix of an address", wire.prefix_length))),
            },
            S::SourcePrincipal => (Source::Principal, "source_principal"),
            S::SourceNamespace => (Source::Namespace, "source_namespace"),
            S::SourceServiceAccount => (Source::ServiceAccount, "source_service_account"),
            S::DestinationService => (Source::Service, "destination_service"),
            S::Method => (Source::Method, "method"),
            S::Path => (Source::Path, "path"),
            S::Claim => (Source::Claim(name()?), wire.name.as_str()),
            S::QueryParameter => (Source::Parameter(name()?), wire.name.as_str()),
            S::Route => (Source::Route, "route"),
        };
        let key = if wire.key.is_empty() { usual } else { &wire.key };
        Ok(Entry { key: key.into(), source: compiled, optional: wire.optional })
    }

    fn value(&self, subject: &Subject<'_>) -> Option<String> {
        let head = subject.head;
        let identity = &head.arrival.identity;
        let value = match &self.source {
            Source::Generic(value) => value.clone(),
            Source::Header(name) => String::from_utf8_lossy(head.headers.get(name)?.as_bytes()).into_owned(),
            Source::RemoteAddress { prefix } => remote(head.remote, *prefix),
            Source::Principal => identity.to_string(),
            Source::Namespace => identity.namespace.to_string(),
            Source::ServiceAccount => identity.service_account.to_string(),
            Source::Service => subject.service?.hostname.to_string(),
            Source::Method => head.method.to_string(),
            Source::Path => head.path.to_owned(),
            Source::Claim(name) => claim(head.claims?, name)?,
            Source::Parameter(name) => parameter(head.query?, name)?.to_owned(),
            Source::Route => subject.route?.to_owned(),
        };
        // Nobody counts what is not there.
        (!value.is_empty()).then_some(value)
    }
}

/// The values of all entries; `None` where one is missing that must be there, or where nothing is left.
pub fn values<'e>(entries: &'e [Entry], subject: &Subject<'_>) -> Option<Vec<(&'e str, String)>> {
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.value(subject) {
            Some(value) => found.push((&*entry.key, value)),
            None if entry.optional => {}
            None => return None,
        }
    }
    (!found.is_empty()).then_some(found)
}

fn remote(ip: IpAddr, prefix: Option<u8>) -> String {
    let ip = ip.to_canonical();
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    match prefix.and_then(|prefix| IpNet::new(ip, prefix.min(longest)).ok()) {
        Some(net) => net.trunc().to_string(),
        None => ip.to_string(),
    }
}

/// A claim that is one value; `a.b` is `b` within `a` where no claim has a name with a dot.
fn claim(claims: &Claims, name: &str) -> Option<String> {
    let payload = &claims.payload;
    let nested = || name.split('.').try_fold(payload, |value, part| value.get(part));
    match payload.get(name).or_else(nested)? {
        serde_json::Value::String(text) => Some(text.clone()),
        value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}
