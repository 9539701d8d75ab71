//! Destinations without a port: of a host with several it is the one that was dialled. A rule with such a destination is told
//! once for each port of the service that it is for, so that a waypoint has nothing left to guess.

use mesh_xds::messages::waypoint::{BackendRef, Filter, FilterKind, HttpRoute, Invalid, WeightedBackend};

use crate::translate::Lens;
use crate::translate::route::has_port;

pub fn is_open(backends: &[WeightedBackend]) -> bool {
    backends.iter().filter_map(|backend| backend.backend.as_ref()).any(|backend| backend.port == 0)
}

fn is_open_filter(filter: &Filter) -> bool {
    matches!(&filter.kind, Some(FilterKind::Mirror(mirror)) if mirror.backend.as_ref().is_some_and(|backend| backend.port == 0))
}

/// The rule as it is told for each of these ports; for all of them at once (0) where it names every port itself.
pub fn http(lens: &Lens<'_>, rule: &HttpRoute, ports: impl Iterator<Item = u16>) -> Vec<(u32, HttpRoute)> {
    if !is_open(&rule.backends) && !rule.filters.iter().any(is_open_filter) {
        return vec![(0, rule.clone())];
    }
    let told = |port: u16| {
        let filters = rule.filters.iter().filter_map(|filter| mirror(lens, filter, port)).collect();
        (u32::from(port), HttpRoute { backends: at(lens, &rule.backends, port), filters, ..rule.clone() })
    };
    ports.map(told).collect()
}

/// The hosts of destinations that have no such port.
pub fn missing<'a>(lens: &Lens<'_>, backends: &'a [WeightedBackend], port: u16) -> Vec<&'a str> {
    let open = backends.iter().filter_map(|weighted| weighted.backend.as_ref()).filter(|backend| backend.port == 0);
    let without = open.filter(|backend| !has_port(lens, &BackendRef { port: port.into(), ..(*backend).clone() }));
    without.filter_map(|backend| Some(backend.host.as_ref()?.hostname.as_str())).collect()
}

/// What cannot be reached at that port keeps its share of the requests, which fail.
pub fn at(lens: &Lens<'_>, backends: &[WeightedBackend], port: u16) -> Vec<WeightedBackend> {
    let one = |weighted: &WeightedBackend| {
        let mut weighted = weighted.clone();
        let Some(backend) = weighted.backend.as_mut().filter(|backend| backend.port == 0) else { return weighted };
        backend.port = port.into();
        if !has_port(lens, backend) {
            weighted.backend = None;
            weighted.invalid = Some(Invalid { reason: "BackendNotFound".into(), status: 500 });
        }
        weighted
    };
    backends.iter().map(one).collect()
}

/// A copy for nobody is not sent.
fn mirror(lens: &Lens<'_>, filter: &Filter, port: u16) -> Option<Filter> {
    let mut filter = filter.clone();
    if let Some(FilterKind::Mirror(mirror)) = &mut filter.kind
        && let Some(backend) = mirror.backend.as_mut().filter(|backend| backend.port == 0)
    {
        backend.port = port.into();
        if !has_port(lens, backend) {
            return None;
        }
    }
    Some(filter)
}
