//! Near before far: in which order groups of endpoints are used, and which share each gets (spec/waypoint.md 5.6).

use std::sync::Arc;

use mesh_model::workload::{Locality as Place, Workload};
use mesh_xds::messages::waypoint as wire;

use crate::choose::policy::{Locality, invalid};
use crate::facts::Rejection;

/// One entry of `failoverPriority`: what an endpoint has in common with the client, or must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    label: Label,
    value: Option<Arc<str>>,
}

/// The labels that tell a place. Others are not known of workloads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Region,
    Zone,
    Subzone,
    Node,
    Network,
    Cluster,
}

const LABELS: [(&str, Label); 6] = [
    ("topology.kubernetes.io/region", Label::Region),
    ("topology.kubernetes.io/zone", Label::Zone),
    ("topology.istio.io/subzone", Label::Subzone),
    ("kubernetes.io/hostname", Label::Node),
    ("topology.istio.io/network", Label::Network),
    ("topology.istio.io/cluster", Label::Cluster),
];

/// Where requests of one place go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    from: Pattern,
    /// The most specific first.
    to: Vec<(Pattern, u32)>,
}

/// `region/zone/subzone`; what is left out or `*` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    parts: Vec<Arc<str>>,
}

/// Where one endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// 0 is used first.
    pub level: usize,
    /// Groups of a level share its requests.
    pub group: usize,
}

/// Every endpoint's rank, `None` for those that get nothing; and the share of each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrangement {
    pub ranks: Vec<Option<Rank>>,
    pub shares: Vec<u32>,
}

/// `closeness`: what the service itself prefers (the more the closer), for endpoints of the same order.
pub fn arrange(setting: Option<&Locality>, outlier_detection: bool, source: &Workload, endpoints: &[(&Workload, usize)]) -> Arrangement {
    let levels = |level: &dyn Fn(&Workload, usize) -> usize| endpoints.iter().map(|(endpoint, rank)| level(endpoint, *rank)).collect();
    let levels: Vec<usize> = match setting {
        Some(Locality::Distribute(distributions)) => {
            if let Some(one) = distributions.iter().find(|one| one.from.matches(&source.locality)) {
                return one.arrange(endpoints);
            }
            vec![0; endpoints.len()]
        }
        // Without a way of knowing that the near ones are ill, the far ones would never be used.
        Some(Locality::Failover(_) | Locality::Preference(_)) if !outlier_detection => vec![0; endpoints.len()],
        Some(Locality::Failover(regions)) => levels(&|endpoint, _| distance(source, endpoint, regions)),
        Some(Locality::Preference(wanted)) => levels(&|endpoint, _| {
            wanted.len() - wanted.iter().take_while(|preference| preference.holds(source, endpoint)).count()
        }),
        Some(Locality::Disabled) => vec![0; endpoints.len()],
        None => {
            let closest = endpoints.iter().map(|(_, closeness)| *closeness).max().unwrap_or(0);
            let preferred: Vec<usize> = levels(&|_, closeness| closest - closeness);
            let indifferent = preferred.iter().all(|level| *level == 0) && closest == 0;
            // As the mesh does by default where endpoints can be ejected.
            if indifferent && outlier_detection { levels(&|endpoint, _| distance(source, endpoint, &[])) } else { preferred }
        }
    };
    let mut used: Vec<usize> = levels.clone();
    used.sort_unstable();
    used.dedup();
    // Nobody stands on a level without endpoints.
    let dense = |level: usize| used.binary_search(&level).expect("it is one of them");
    Arrangement { ranks: levels.into_iter().map(|level| Some(Rank { level: dense(level), group: 0 })).collect(), shares: vec![1] }
}

/// 0: the same subzone, 1: zone, 2: region, 3: a region to fail over to (any, where none is named), 4: the rest.
fn distance(source: &Workload, endpoint: &Workload, regions: &[(Arc<str>, Arc<str>)]) -> usize {
    let (from, to) = (&source.locality, &endpoint.locality);
    if from.region != to.region {
        let mut named = regions.iter().filter(|(region, _)| *region == from.region).peekable();
        return if named.peek().is_none() || named.any(|(_, region)| *region == to.region) { 3 } else { 4 };
    }
    match (from.zone == to.zone, from.subzone == to.subzone) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

impl Preference {
    /// `label` or `label=value`.
    pub fn compile(text: &str) -> Result<Preference, Rejection> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let label = LABELS.iter().find(|(known, _)| *known == name).map(|(_, label)| *label);
        let label = label.ok_or_else(|| {
            let known: Vec<&str> = LABELS.iter().map(|(known, _)| *known).collect();
            invalid(format!("failoverPriority {name:?}: known of an endpoint are {}", known.join(", ")))
        })?;
        Ok(Preference { label, value: value.map(Arc::from) })
    }

    fn holds(&self, source: &Workload, endpoint: &Workload) -> bool {
        let has = self.label.of(endpoint);
        match &self.value {
            Some(value) => has == value,
            None => has == self.label.of(source),
        }
    }
}

impl Label {
    fn of(self, workload: &Workload) -> &Arc<str> {
        match self {
            Label::Region => &workload.locality.region,
            Label::Zone => &workload.locality.zone,
            Label::Subzone => &workload.locality.subzone,
            Label::Node => &workload.node,
            Label::Network => &workload.network,
            Label::Cluster => &workload.cluster_id,
        }
    }
}

impl Distribution {
    pub fn compile(wire: &wire::Distribute) -> Result<Distribution, Rejection> {
        let total: u64 = wire.to.values().map(|share| u64::from(*share)).sum();
        if total != 100 {
            return Err(invalid(format!("distribute from {:?}: the shares add up to {total}, not to 100", wire.from)));
        }
        let mut to: Vec<(Pattern, u32)> = wire.to.iter().map(|(to, share)| (Pattern::of(to), *share)).collect();
        to.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.parts.len()));
        Ok(Distribution { from: Pattern::of(&wire.from), to })
    }

    fn arrange(&self, endpoints: &[(&Workload, usize)]) -> Arrangement {
        let group = |place: &Place| self.to.iter().position(|(pattern, share)| *share > 0 && pattern.matches(place));
        let rank = |(endpoint, _): &(&Workload, usize)| group(&endpoint.locality).map(|group| Rank { level: 0, group });
        Arrangement { ranks: endpoints.iter().map(rank).collect(), shares: self.to.iter().map(|(_, share)| *share).collect() }
    }
}

impl Pattern {
    fn of(text: &str) -> Pattern {
        Pattern { parts: text.split('/').take_while(|part| !part.is_empty() && *part != "*").map(Arc::from).collect() }
    }

    fn matches(&self, place: &Place) -> bool {
        self.parts.iter().zip([&place.region, &place.zone, &place.subzone]).all(|(wanted, has)| wanted == has)
    }
}

#[cfg(test)]
mod tests;
