//! The key by which a request keeps to its endpoint (spec/waypoint.md 5.6): found once per request, so that retries walk
//! on from the same place.

use http::{HeaderMap, HeaderValue, header};
use rand::Rng;

use crate::choose::policy::{Algorithm, HashKey, Policy};
use crate::choose::ring::hash;
use crate::facts::{Arrival, Head};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affinity {
    /// None: by chance, as a request that lacks the header has it.
    pub hash: Option<u64>,
    /// For the answer: a cookie that was made for this client.
    pub set_cookie: Option<HeaderValue>,
}

pub fn affinity(policy: &Policy, head: &Head<'_>, chance: &mut impl Rng) -> Affinity {
    let of = |text: &[u8]| Affinity { hash: Some(hash(text, 0)), set_cookie: None };
    match key(policy) {
        None => Affinity::default(),
        Some(HashKey::SourceIp) => of_source(head.arrival),
        Some(HashKey::Header(name)) => {
            // Values are one list: their order counts, their lines do not.
            let mut values = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
            if values.peek().is_none() { Affinity::default() } else { of(&values.collect::<Vec<_>>().join(&b','))}
        }
        Some(HashKey::QueryParameter(name)) => parameter(head.query.unwrap_or_default(), name).map_or_else(Affinity::default, |value| of(value.as_bytes())),
        Some(HashKey::Cookie { name, path, lifetime }) => match (cookie(head.headers, name), lifetime) {
            (Some(value), _) => of(value.as_bytes()),
            (None, None) => Affinity::default(),
            (None, Some(lifetime)) => {
                let value = format!("{:016x}{:016x}", chance.random::<u64>(), chance.random::<u64>());
                let age = if lifetime.is_zero() { String::new() } else { format!("; Max-Age={}", lifetime.as_secs().max(1)) };
                let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
                let line = format!("{name}={value}{age}{path}; HttpOnly");
                Affinity { hash: Some(hash(value.as_bytes(), 0)), set_cookie: HeaderValue::try_from(line).ok() }
            }
        },
    }
}

/// Of bytes: only the client's address says something.
pub fn affinity_of_stream(policy: &Policy, arrival: &Arrival) -> Affinity {
    match key(policy) {
        Some(HashKey::SourceIp) => of_source(arrival),
        _ => Affinity::default(),
    }
}

fn key(policy: &Policy) -> Option<&HashKey> {
    match &policy.balancer.as_ref()?.algorithm {
        Algorithm::ConsistentHash(key, _) => Some(key),
        _ => None,
    }
}

fn of_source(arrival: &Arrival) -> Affinity {
    let ip = arrival.source.ip().to_canonical();
    Affinity { hash: Some(hash(ip.to_string().as_bytes(), 0)), set_cookie: None }
}

/// The first cookie of this name.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then_some(value.trim().trim_matches('"'))
    })
}

/// The first parameter of this name, as it is written.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
