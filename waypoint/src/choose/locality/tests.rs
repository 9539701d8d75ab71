//! Places are `region/zone/subzone` (spec/waypoint.md 5.6).

use std::collections::BTreeMap;

use super::*;

fn at(place: &str) -> Workload {
    let mut parts = place.split('/').map(Arc::from);
    let mut part = || parts.next().unwrap_or_else(|| "".into());
    let locality = Place { region: part(), zone: part(), subzone: part() };
    Workload { locality, ..Workload::named(place, "shop", "x") }
}

/// Level of each endpoint for a client at `r1/z1/s1`; `-`: gets nothing.
fn levels(setting: Option<&Locality>, outlier: bool, endpoints: &[(&str, usize)]) -> String {
    let workloads: Vec<(Workload, usize)> = endpoints.iter().map(|(place, closeness)| (at(place), *closeness)).collect();
    let endpoints: Vec<(&Workload, usize)> = workloads.iter().map(|(workload, closeness)| (workload, *closeness)).collect();
    let ranks = arrange(setting, outlier, &at("r1/z1/s1"), &endpoints).ranks;
    ranks.iter().map(|rank| rank.map_or("-".to_owned(), |rank| rank.level.to_string())).collect::<Vec<_>>().join(" ")
}

#[test]
fn near_before_far() {
    let all = [("r1/z1/s1", 0), ("r1/z1/s2", 0), ("r1/z2/s1", 0), ("r2/z1/s1", 0), ("r3/z1/s1", 0)];
    let failover = |pairs: &[(&str, &str)]| Locality::Failover(pairs.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect());
    let preference = |texts: &[&str]| Locality::Preference(texts.iter().map(|text| Preference::compile(text).unwrap()).collect());
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    for (setting, outlier, endpoints, expected) in [
        (None, false, &all[..], "0 0 0 0 0"),
        (None, true, &all, "0 1 2 3 3"),
        (Some(failover(&[])), true, &all, "0 1 2 3 3"),
        (Some(failover(&[])), false, &all, "0 0 0 0 0"),
        (Some(failover(&[("r1", "r3")])), true, &all, "0 1 2 4 3"),
        (Some(failover(&[("r9", "r3")])), true, &all, "0 1 2 3 3"),
        (Some(failover(&[("r1", "r3")])), true, &all[3..], "1 0"),
        (Some(Locality::Disabled), true, &all, "0 0 0 0 0"),
        (Some(preference(&[region, zone])), true, &all, "0 0 1 2 2"),
        (Some(preference(&[zone, region])), true, &all, "0 0 2 1 1"),
        (Some(preference(&["topology.kubernetes.io/region=r2"])), true, &all, "1 1 1 0 1"),
        // What the service itself prefers, which needs no outlier detection.
        (None, false, &[("r1", 3), ("r1", 0), ("r1", 3)], "0 1 0"),
        (Some(Locality::Disabled), false, &[("r1", 3), ("r1", 0)], "0 0"),
    ] {
        assert_eq!(levels(setting.as_ref(), outlier, endpoints), expected, "{setting:?}");
    }
    let wrong = Preference::compile("version").unwrap_err().to_string();
    assert!(wrong.contains("\"version\"") && wrong.contains(zone), "{wrong}");
}

#[test]
fn shares_by_place() {
    let distribution = |from: &str, to: &[(&str, u32)]| wire::Distribute {
        from: from.into(),
        to: to.iter().map(|(place, share)| ((*place).to_owned(), *share)).collect::<BTreeMap<_, _>>(),
    };
    let compiled = Distribution::compile(&distribution("r1/*", &[("r1/z1/*", 70), ("r1/*", 20), ("r2", 10)])).unwrap();
    let workloads: Vec<Workload> = ["r1/z1/s1", "r1/z2/s1", "r2/z9", "r3"].map(at).into();
    let endpoints: Vec<(&Workload, usize)> = workloads.iter().map(|workload| (workload, 0)).collect();
    let arrangement = arrange(Some(&Locality::Distribute(vec![compiled])), false, &at("r1/z1/s1"), &endpoints);
    let share = |rank: &Option<Rank>| rank.map_or(0, |rank| arrangement.shares[rank.group]);
    assert_eq!(arrangement.ranks.iter().map(share).collect::<Vec<_>>(), [70, 20, 10, 0], "the most specific place counts");
    let wrong = Distribution::compile(&distribution("r1", &[("r1", 70)])).unwrap_err().to_string();
    assert!(wrong.contains("70, not to 100"), "{wrong}");
}
