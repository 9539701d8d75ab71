//! Which backend of a rule, and where copies go (spec/waypoint.md 2.4, 2.5). Chance is an argument.

use http::StatusCode;
use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint as wire;
use rand::Rng;

use super::{Answer, Filters, Reason};
use crate::choose::BackendKey;
use crate::facts::Rejection;

/// Backends of one rule. Gateway API allows 16 (spec/waypoint.md 2.1).
pub const BACKENDS_MAX: usize = 256;

#[derive(Clone, Debug)]
pub struct Backend {
    pub key: BackendKey,
    pub weight: u32,
    /// They come after the rule's.
    pub filters: Filters,
    /// It cannot be used: whoever draws it is answered so.
    pub invalid: Option<Answer>,
}

#[derive(Clone, Debug)]
pub struct Mirror {
    pub key: BackendKey,
    numerator: u32,
    denominator: u32,
}

/// What cannot be read stands among them as one that cannot be used, with its weight.
pub fn compile_backends(backends: &[wire::WeightedBackend], wrong: &mut Vec<String>) -> Vec<Backend> {
    if backends.len() > BACKENDS_MAX {
        wrong.push(format!("more than {BACKENDS_MAX} backends: those after them are left out"));
    }
    let mut compiled = Vec::new();
    for (at, backend) in backends.iter().take(BACKENDS_MAX).enumerate() {
        let mut invalid = backend.invalid.as_ref().map(Answer::of_invalid);
        let (filters, wrong_filters) = Filters::compile(&backend.filters);
        wrong.extend(wrong_filters.into_iter().map(|why| format!("backend {at}: {why}")));
        let key = match backend.backend.as_ref().map(key_of) {
            Some(Ok(key)) => key,
            // The controller says that it cannot be used: then it may say no more.
            _ if invalid.is_some() => BackendKey { host: NamespacedHostname::new("", ""), port: 0, subset: "".into() },
            broken => {
                let why =
                    broken.and_then(Result::err).map_or_else(|| "it names no service".to_owned(), |rejection| rejection.message);
                wrong.push(format!("backend {at}: {why}"));
                invalid = Some(Answer::invalid(&why));
                BackendKey { host: NamespacedHostname::new("", ""), port: 0, subset: "".into() }
            }
        };
        compiled.push(Backend { key, weight: backend.weight, filters, invalid });
    }
    compiled
}

pub fn key_of(wire: &wire::BackendRef) -> Result<BackendKey, Rejection> {
    let host = wire.host.as_ref().filter(|host| !host.hostname.is_empty());
    let host = host.ok_or_else(|| Rejection::new("UnsupportedValue", "a backend without a host"))?;
    let port = u16::try_from(wire.port).ok().filter(|port| *port != 0);
    let port =
        port.ok_or_else(|| Rejection::new("UnsupportedValue", format!("port {} of the backend {}", wire.port, host.hostname)))?;
    Ok(BackendKey { host: NamespacedHostname::new(&host.namespace, &host.hostname), port, subset: wire.subset.as_str().into() })
}

/// In proportion to the weights; those that cannot be used take their part in it (spec/waypoint.md 2.5).
#[allow(clippy::result_large_err, reason = "an answer is what many rules are for, no rarity: it is moved, once for a request")]
pub fn choose_backend<'b>(backends: &'b [Backend], chance: &mut impl Rng) -> Result<&'b Backend, Answer> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let none = || Answer::empty(StatusCode::INTERNAL_SERVER_ERROR, Reason::NoBackend);
    if total == 0 {
        return Err(none());
    }
    let mut left = chance.random_range(0..total);
    for backend in backends {
        let weight = u64::from(backend.weight);
        if left < weight {
            return match &backend.invalid {
                Some(answer) => Err(answer.clone()),
                None => Ok(backend),
            };
        }
        left -= weight;
    }
    Err(none())
}

impl Mirror {
    pub fn compile(wire: &wire::Mirror) -> Result<Mirror, Rejection> {
        let backend = wire.backend.as_ref().ok_or_else(|| Rejection::new("UnsupportedValue", "a mirror without a backend"))?;
        let (numerator, denominator) = match wire.fraction {
            Some(fraction) => (fraction.numerator, if fraction.denominator == 0 { 100 } else { fraction.denominator }),
            None => (1, 1),
        };
        Ok(Mirror { key: key_of(backend)?, numerator, denominator })
    }

    pub fn drawn(&self, chance: &mut impl Rng) -> bool {
        chance.random_range(0..self.denominator) < self.numerator
    }
}
