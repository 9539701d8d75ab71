//! Addresses for the hosts of ServiceEntries that have none of their own (spec/controlplane.md 4.9.2).
//!
//! An address once given stays with its host: it is kept in the entry's status. Where nothing is remembered the place in
//! the pool follows from the name, so that the same folder gives the same addresses on any machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::objects::{NsName, ServiceEntry};

/// A host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub entry: NsName,
    pub host: Arc<str>,
}

/// Who has which address.
#[derive(Debug, Default)]
pub struct Vips {
    pools: Option<(Ipv4Net, Ipv6Net)>,
    of: BTreeMap<Claim, BTreeSet<IpAddr>>,
    taken: BTreeMap<IpAddr, Claim>,
    /// Addresses and ranges that somebody wrote down: those win over any that we gave, and are counted per entry.
    written: BTreeMap<NsName, BTreeSet<IpNet>>,
    /// What earlier statuses say, until the entry comes.
    remembered: BTreeMap<Claim, BTreeSet<IpAddr>>,
}

impl Vips {
    pub fn new(pools: Option<(Ipv4Net, Ipv6Net)>) -> Vips {
        Vips { pools, ..Vips::default() }
    }

    /// An address that a host had before this process started.
    pub fn remember(&mut self, claim: Claim, ip: IpAddr) {
        self.remembered.entry(claim).or_default().insert(ip);
    }

    /// IPv4 first.
    pub fn of(&self, claim: &Claim) -> Vec<IpAddr> {
        self.of.get(claim).into_iter().flatten().copied().collect()
    }

    pub fn all(&self) -> impl Iterator<Item = (&Claim, &BTreeSet<IpAddr>)> {
        self.of.iter()
    }

    /// Brings an entry up to date (`None`: it is gone) and returns the hosts whose addresses changed, also of others.
    pub fn update(&mut self, name: &NsName, entry: Option<&ServiceEntry>) -> BTreeSet<Claim> {
        let mut changed = self.write_down(name, entry);
        let hosts = entry.map(eligible).unwrap_or_default();
        let from = Claim { entry: name.clone(), host: "".into() };
        let held: Vec<Claim> = self.of.range(from..).take_while(|(claim, _)| claim.entry == *name).map(|(claim, _)| claim.clone()).collect();
        for claim in held.into_iter().filter(|claim| !hosts.contains(&claim.host)) {
            self.release(&claim);
            changed.insert(claim);
        }
        for host in hosts {
            let claim = Claim { entry: name.clone(), host };
            if self.of.contains_key(&claim) {
                // Its status says what we gave: our own words.
                continue;
            }
            for status in entry.into_iter().flat_map(|entry| &entry.allocated).filter(|status| status.host == claim.host) {
                if let Ok(ip) = status.value.parse() {
                    self.remember(claim.clone(), ip);
                }
            }
            self.give(&claim);
            changed.insert(claim);
        }
        if entry.is_none() {
            self.remembered.retain(|claim, _| claim.entry != *name);
        }
        changed
    }

    /// Notes the addresses an entry was given by hand. Who had one of them from us gets another.
    fn write_down(&mut self, name: &NsName, entry: Option<&ServiceEntry>) -> BTreeSet<Claim> {
        let parse = |text: &Arc<str>| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let within_pools = |range: &IpNet| self.pools.is_some_and(|(v4, v6)| overlaps(range, &v4.into()) || overlaps(range, &v6.into()));
        let written: BTreeSet<IpNet> = entry.into_iter().flat_map(|entry| &entry.spec.addresses).filter_map(parse).filter(within_pools).collect();
        if written.is_empty() {
            self.written.remove(name);
            return BTreeSet::new();
        }
        let evicted: BTreeSet<Claim> = self.taken.iter().filter(|(ip, _)| written.iter().any(|range| range.contains(*ip))).map(|(_, claim)| claim.clone()).collect();
        self.written.insert(name.clone(), written);
        for claim in &evicted {
            self.release(claim);
        }
        for claim in &evicted {
            self.give(claim);
        }
        evicted
    }

    fn release(&mut self, claim: &Claim) {
        for ip in self.of.remove(claim).into_iter().flatten() {
            self.taken.remove(&ip);
        }
    }

    fn give(&mut self, claim: &Claim) {
        let remembered = self.remembered.remove(claim).unwrap_or_default();
        let Some((v4, v6)) = self.pools else { return };
        let place = place_of(claim);
        let v4 = self.find(&remembered, |ip| v4_in(v4, ip), || (0..v4_size(v4)).map(|step| v4_at(v4, place, step)));
        let v6 = self.find(&remembered, |ip| matches!(ip, IpAddr::V6(ip) if v6.contains(&ip)), || (0..V6_STEPS).map(|step| v6_at(v6, place, step)));
        let given: BTreeSet<IpAddr> = v4.into_iter().chain(v6).collect();
        self.taken.extend(given.iter().map(|ip| (*ip, claim.clone())));
        self.of.insert(claim.clone(), given);
    }

    /// A remembered address if it is still free, else the first free one.
    fn find<I: Iterator<Item = IpAddr>>(&self, remembered: &BTreeSet<IpAddr>, fits: impl Fn(IpAddr) -> bool, pool: impl Fn() -> I) -> Option<IpAddr> {
        let is_free = |ip: &IpAddr| !self.taken.contains_key(ip) && !self.written.values().flatten().any(|range| range.contains(ip));
        remembered.iter().copied().filter(|ip| fits(*ip)).find(is_free).or_else(|| pool().find(is_free))
    }
}

/// Hosts that get an address (spec/controlplane.md 4.9.2).
fn eligible(entry: &ServiceEntry) -> BTreeSet<Arc<str>> {
    let opted_out = entry.meta.label("networking.istio.io/enable-autoallocate-ip") == Some("false");
    if opted_out || entry.resolution() == "NONE" || !entry.spec.addresses.is_empty() {
        return BTreeSet::new();
    }
    // A wildcard stands for many names; only a proxy that looks them up itself can use one address for them.
    let allows_wildcard = entry.resolution() == "DYNAMIC_DNS";
    entry.spec.hosts.iter().filter(|host| allows_wildcard || !host.starts_with('*')).cloned().collect()
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// FNV-1a over the names: the same on every machine and in every version.
fn place_of(claim: &Claim) -> u64 {
    let parts = [&*claim.entry.namespace, &*claim.entry.name, &*claim.host];
    let bytes = parts.into_iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Addresses of a pool without its first and last, which look like a network and a broadcast address.
fn v4_size(pool: Ipv4Net) -> u64 {
    (1u64 << (32 - pool.prefix_len())).saturating_sub(2)
}

fn v4_at(pool: Ipv4Net, place: u64, step: u64) -> IpAddr {
    let offset = 1 + (place % v4_size(pool) + step) % v4_size(pool);
    let base = u32::from(pool.network());
    IpAddr::V4(Ipv4Addr::from(base.wrapping_add(u32::try_from(offset).unwrap_or(1))))
}

fn v4_in(pool: Ipv4Net, ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if pool.contains(&ip) && ip != pool.network() && ip != pool.broadcast())
}

/// As many tries as the IPv4 pool has addresses: there cannot be more hosts than that.
const V6_STEPS: u64 = 1 << 16;

fn v6_at(pool: Ipv6Net, place: u64, step: u64) -> IpAddr {
    // 32 bits are plenty to spread over, and fit any pool of /96 or wider.
    let offset = 1 + (u128::from(place & 0xffff_fffe) + u128::from(step)) % 0xffff_fffe;
    IpAddr::V6(Ipv6Addr::from(u128::from(pool.network()) + offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Event;
    use crate::objects::Object;
    use crate::translate::tests::events;

    fn entry(name: &str, status: &str) -> (NsName, Arc<ServiceEntry>) {
        let yaml = format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{hosts: [a.example], resolution: DNS}}\n{status}\n");
        match events(&yaml).remove(0) {
            Event::Applied(Object::ServiceEntry(entry)) => (entry.meta.ns_name(), entry),
            other => panic!("{other:?}"),
        }
    }

    // What we wrote into a status comes back by the watch.
    #[test]
    fn nothing_is_left_of_entries_that_are_gone() {
        for pools in [Some(("240.240.0.0/16".parse().unwrap(), "2001:2::/48".parse().unwrap())), None] {
            let mut vips = Vips::new(pools);
            for index in 0..100 {
                let (name, fresh) = entry(&format!("e{index}"), "");
                vips.update(&name, Some(&fresh));
                let (_, written) = entry(&name.name, "status: {addresses: [{value: 240.240.7.7, host: a.example}]}");
                vips.update(&name, Some(&written));
                assert!(vips.remembered.is_empty(), "{vips:?}");
                vips.update(&name, None);
            }
            // one from before the start, that went before it came
            let (name, _) = entry("e", "");
            vips.remember(Claim { entry: name.clone(), host: "a.example".into() }, [240, 240, 1, 1].into());
            vips.update(&name, None);
            assert!(vips.remembered.is_empty() && vips.of.is_empty() && vips.taken.is_empty(), "{vips:?}");
        }
    }
}
