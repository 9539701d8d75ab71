//! A mesh as a few lines of text, for tests and examples of every crate.
//!
//! ```text
//! # anything after a hash is for the reader
//! node a:  client 10.0.0.1 sa=shop/client
//! node b:  server 10.0.0.2,fd00::2 sa=shop/server waypoint=wp.shop status=unhealthy capacity=3 tcp
//! service  web.shop 10.96.0.1 80->8080,443 lb=failover:network,zone visibility=namespace : server other[80->9090]
//! waypoint wp.shop 10.0.0.9 for service web.shop workload server
//! deny     shop/no-evil on server from sa shop/evil
//! ```
//!
//! One workload a line. A name `web.shop` is the service `web` of namespace `shop`, with the hostname
//! `web.shop.svc.cluster.local` (`host=` overrides); `-` stands for no address. Lines whose first word the model does not
//! know (`deny`, `allow`, …) are handed back in `rest`, for the crate that knows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
use crate::change::Change;
use crate::directory::Directory;
use crate::service::{HealthPolicy, IpFamilies, LoadBalancingMode, Scope, Service, Visibility, WeightedWaypoint};
use crate::workload::{
    ApplicationTunnel, ApplicationTunnelProtocol, Health, Locality, NetworkMode, PolicyKey, TunnelProtocol, Workload,
    WorkloadType,
};

/// The HBONE port that a waypoint in a fixture has unless it says another.
const HBONE_PORT: u16 = 15008;

/// What a text described.
#[derive(Clone, Debug)]
pub struct Fixture {
    pub directory: Directory,
    /// What the directory was made of: workloads in the order of the text, then services.
    pub changes: Vec<Change>,
    /// The lines that are not about nouns.
    pub rest: Vec<Line>,
    workloads: BTreeMap<String, Arc<Workload>>,
}

/// A line that somebody else understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    pub words: Vec<String>,
}

/// What is wrong with a fixture, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct FixtureError {
    /// Counted from 1.
    pub line: usize,
    pub why: String,
}

impl Fixture {
    /// The workload by the name in the text, `client` or `shop/client`.
    ///
    /// # Panics
    /// When the text names no such workload: the test is wrong.
    pub fn workload(&self, name: &str) -> Arc<Workload> {
        self.workloads.get(name).unwrap_or_else(|| panic!("the fixture has no workload {name:?}")).clone()
    }

    /// The service by the name in the text, `web.shop`, or by its hostname.
    ///
    /// # Panics
    /// When the text names no such service: the test is wrong.
    pub fn service(&self, name: &str) -> Arc<Service> {
        let mut services = self.directory.services();
        let found =
            services.find(|service| *service.hostname == *name || format!("{}.{}", service.name, service.namespace) == name);
        found.unwrap_or_else(|| panic!("the fixture has no service {name:?}")).clone()
    }
}

/// Reads a mesh from text.
pub fn parse(text: &str) -> Result<Fixture, FixtureError> {
    let mut draft = Draft::default();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        draft.line(number, &words).map_err(|why| FixtureError { line: number, why })?;
    }
    draft.finish()
}

/// The text so far; references are resolved at the end, so that they may point forward.
#[derive(Default)]
struct Draft {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    memberships: Vec<(usize, NamespacedHostname, Vec<String>)>,
    waypoints: Vec<(usize, GatewayAddress, Vec<String>)>,
    rest: Vec<Line>,
}

impl Draft {
    fn line(&mut self, number: usize, words: &[&str]) -> Result<(), String> {
        match words {
            [] => Ok(()),
            ["node", node, name, addresses, facts @ ..] => {
                let node = node.strip_suffix(':').ok_or("after `node` comes its name and a colon")?;
                self.workloads.push(workload(node, name, addresses, facts)?);
                Ok(())
            }
            ["service", name, vips, ports, facts @ ..] => {
                let colon = facts.iter().position(|word| *word == ":").unwrap_or(facts.len());
                let service = service(name, vips, ports, &facts[..colon])?;
                let members = facts[colon..].iter().skip(1).map(|word| (*word).to_owned()).collect();
                self.memberships.push((number, service.key(), members));
                self.services.push(service);
                Ok(())
            }
            ["waypoint", name, addresses, facts @ ..] => self.waypoint(number, name, addresses, facts),
            ["node" | "service" | "waypoint", ..] => Err(format!("too few words after `{}`", words[0])),
            _ => {
                self.rest.push(Line { number, words: words.iter().map(|word| (*word).to_owned()).collect() });
                Ok(())
            }
        }
    }

    /// A waypoint is a workload, a service of its own in front of it, and a reference from what it guards.
    fn waypoint(&mut self, number: usize, name: &str, addresses: &str, words: &[&str]) -> Result<(), String> {
        let of = words.iter().position(|word| *word == "for").unwrap_or(words.len());
        let (short, namespace) = name.split_once('.').ok_or("a waypoint is named NAME.NAMESPACE")?;
        let identity = format!("sa={namespace}/{short}");
        let mut facts = vec![identity.as_str()];
        facts.extend(&words[..of]);
        self.workloads.push(workload("-", short, addresses, &facts)?);
        let service = service(name, "-", &format!("{HBONE_PORT}->{HBONE_PORT}"), &[])?;
        self.memberships.push((number, service.key(), vec![format!("{namespace}/{short}")]));
        let guarded = words[of..].iter().skip(1).map(|word| (*word).to_owned()).collect();
        let destination = GatewayDestination::Hostname(service.key());
        self.waypoints.push((number, GatewayAddress { destination, hbone_mtls_port: HBONE_PORT }, guarded));
        self.services.push(service);
        Ok(())
    }

    fn finish(mut self) -> Result<Fixture, FixtureError> {
        for (line, service, members) in std::mem::take(&mut self.memberships) {
            for member in members {
                self.join(&service, &member).map_err(|why| FixtureError { line, why })?;
            }
        }
        for (line, waypoint, guarded) in std::mem::take(&mut self.waypoints) {
            for pair in guarded.chunks(2) {
                self.guard(&waypoint, pair).map_err(|why| FixtureError { line, why })?;
            }
        }
        let workloads: Vec<Arc<Workload>> = self.workloads.into_iter().map(Arc::new).collect();
        let services = self.services.into_iter().map(|service| Change::Service(Arc::new(service)));
        let changes: Vec<Change> = workloads.iter().cloned().map(Change::Workload).chain(services).collect();
        let mut directory = Directory::new();
        for change in &changes {
            directory.apply(change.clone());
        }
        let short = workloads.iter().map(|workload| (workload.name.to_string(), workload.clone()));
        let long = workloads.iter().map(|workload| (format!("{}/{}", workload.namespace, workload.name), workload.clone()));
        Ok(Fixture { directory, changes, rest: self.rest, workloads: short.chain(long).collect() })
    }

    /// `server` or `server[80->9090,…]` becomes an endpoint.
    fn join(&mut self, service: &NamespacedHostname, member: &str) -> Result<(), String> {
        let (name, mapped) = match member.split_once('[') {
            Some((name, rest)) => (name, ports(rest.strip_suffix(']').ok_or("a [ without its ]")?)?),
            None => (member, BTreeMap::new()),
        };
        self.workload(name)?.services.insert(service.clone(), mapped);
        Ok(())
    }

    fn guard(&mut self, waypoint: &GatewayAddress, pair: &[String]) -> Result<(), String> {
        match pair {
            [kind, name] if kind == "workload" => {
                self.workload(name)?.waypoint = Some(waypoint.clone());
            }
            [kind, name] if kind == "service" => {
                let same = |service: &&mut Service| format!("{}.{}", service.name, service.namespace) == *name;
                let service = self.services.iter_mut().find(same).ok_or_else(|| format!("no service {name}"))?;
                service.waypoint = Some(waypoint.clone());
            }
            _ => return Err("after `for` come pairs of `service NAME.NAMESPACE` or `workload NAME`".into()),
        }
        Ok(())
    }

    fn workload(&mut self, name: &str) -> Result<&mut Workload, String> {
        let same =
            |workload: &&mut Workload| *workload.name == *name || format!("{}/{}", workload.namespace, workload.name) == name;
        self.workloads.iter_mut().find(same).ok_or_else(|| format!("no workload {name}"))
    }
}

fn workload(node: &str, name: &str, addresses: &str, facts: &[&str]) -> Result<Workload, String> {
    let mut workload = Workload::named("", "default", name);
    workload.tunnel_protocol = TunnelProtocol::Hbone;
    workload.node = node.into();
    workload.workload_name = name.into();
    workload.canonical_name = name.into();
    workload.canonical_revision = "latest".into();
    for address in addresses.split(',').filter(|address| *address != "-") {
        workload.addresses.push(ip(address)?);
    }
    for fact in facts {
        workload_fact(&mut workload, fact)?;
    }
    if workload.uid.0.is_empty() {
        workload.uid = crate::workload::Uid::new(&format!("{}//Pod/{}/{}", workload.cluster_id, workload.namespace, name));
    }
    Ok(workload)
}

fn workload_fact(workload: &mut Workload, fact: &str) -> Result<(), String> {
    let (key, value) = fact.split_once('=').unwrap_or((fact, ""));
    match key {
        "tcp" => workload.tunnel_protocol = TunnelProtocol::None,
        "host-network" => workload.network_mode = NetworkMode::HostNetwork,
        "unhealthy" => workload.status = Health::Unhealthy,
        "native-tunnel" => workload.native_tunnel = true,
        "sa" => {
            let (namespace, account) = value.split_once('/').ok_or("sa=NAMESPACE/ACCOUNT")?;
            (workload.namespace, workload.service_account) = (namespace.into(), account.into());
        }
        "ns" => workload.namespace = value.into(),
        "td" => workload.trust_domain = value.into(),
        "uid" => workload.uid = crate::workload::Uid::new(value),
        "node" => workload.node = value.into(),
        "network" => workload.network = value.into(),
        "cluster" => workload.cluster_id = value.into(),
        "host" => workload.hostname = value.into(),
        "workload" => workload.workload_name = value.into(),
        "type" => workload.workload_type = workload_type(value)?,
        "app" => workload.canonical_name = value.into(),
        "version" => workload.canonical_revision = value.into(),
        "capacity" => workload.capacity = number(value)?,
        "waypoint" => workload.waypoint = Some(gateway(value, &workload.network)?),
        "gateway" => workload.network_gateway = Some(gateway(value, &workload.network)?),
        "policies" => workload.authorization_policies = value.split(',').map(PolicyKey::new).collect(),
        "tunnel" => workload.application_tunnel = Some(application_tunnel(value)?),
        "locality" => {
            let mut places = value.split('/').map(Arc::from);
            let mut place = || places.next().unwrap_or_else(|| "".into());
            workload.locality = Locality { region: place(), zone: place(), subzone: place() };
        }
        _ => return Err(format!("a workload has no {fact:?}")),
    }
    Ok(())
}

fn service(name: &str, vips: &str, port_list: &str, facts: &[&str]) -> Result<Service, String> {
    let (short, namespace) = name.split_once('.').ok_or("a service is named NAME.NAMESPACE")?;
    let mut service = Service::named(namespace, &format!("{name}.svc.cluster.local"));
    service.name = short.into();
    service.ports = ports(port_list)?;
    let network = facts.iter().find_map(|fact| fact.strip_prefix("network=")).unwrap_or("");
    for vip in vips.split(',').filter(|vip| *vip != "-") {
        if vip.contains('/') {
            let cidr: IpNet = vip.parse().map_err(|_| format!("{vip:?} is not a range of addresses"))?;
            service.cidr_vips.push(NetworkCidr { network: network.into(), cidr });
        } else {
            service.vips.push(NetworkAddress::new(network, ip(vip)?));
        }
    }
    for fact in facts {
        service_fact(&mut service, fact, network)?;
    }
    Ok(service)
}

fn service_fact(service: &mut Service, fact: &str, network: &str) -> Result<(), String> {
    let (key, value) = fact.split_once('=').unwrap_or((fact, ""));
    match key {
        "network" => {}
        "canonical" => service.canonical = true,
        "ingress-use-waypoint" => service.ingress_use_waypoint = true,
        "host" => service.hostname = value.into(),
        "waypoint" => service.waypoint = Some(gateway(value, network)?),
        "waypoints" => {
            for weighted in value.split(',') {
                let (destination, weight) = weighted.rsplit_once('*').ok_or("waypoints=WAYPOINT*WEIGHT,…")?;
                let destination = gateway(destination, network)?;
                service.weighted_waypoints.push(WeightedWaypoint { destination, weight: number(weight)? });
            }
        }
        "sans" => service.subject_alt_names = value.split(',').map(Arc::from).collect(),
        "visibility" => {
            service.visibility = match value {
                "namespace" => Visibility::Namespace,
                "public" => Visibility::Public,
                _ => return Err("visibility=namespace or visibility=public".into()),
            }
        }
        "families" => {
            service.ip_families = match value {
                "v4" => IpFamilies::V4Only,
                "v6" => IpFamilies::V6Only,
                "dual" => IpFamilies::Dual,
                _ => return Err("families=v4, v6 or dual".into()),
            }
        }
        "health" => {
            service.load_balancing.health_policy = match value {
                "all" => HealthPolicy::AllowAll,
                "healthy" => HealthPolicy::OnlyHealthy,
                _ => return Err("health=all or health=healthy".into()),
            }
        }
        "lb" => {
            let (mode, preferences) = value.split_once(':').unwrap_or((value, ""));
            service.load_balancing.mode = match mode {
                "standard" => LoadBalancingMode::Standard,
                "strict" => LoadBalancingMode::Strict,
                "failover" => LoadBalancingMode::Failover,
                "passthrough" => LoadBalancingMode::Passthrough,
                _ => return Err("lb=standard, strict, failover or passthrough".into()),
            };
            let scopes = preferences.split(',').filter(|scope| !scope.is_empty());
            service.load_balancing.routing_preference = scopes.map(scope).collect::<Result<_, _>>()?;
        }
        _ => return Err(format!("a service has no {fact:?}")),
    }
    Ok(())
}

fn scope(word: &str) -> Result<Scope, String> {
    Ok(match word {
        "region" => Scope::Region,
        "zone" => Scope::Zone,
        "subzone" => Scope::Subzone,
        "node" => Scope::Node,
        "cluster" => Scope::Cluster,
        "network" => Scope::Network,
        _ => return Err(format!("{word:?} is not a scope: region, zone, subzone, node, cluster, network")),
    })
}

fn workload_type(word: &str) -> Result<WorkloadType, String> {
    Ok(match word {
        "deployment" => WorkloadType::Deployment,
        "cronjob" => WorkloadType::CronJob,
        "pod" => WorkloadType::Pod,
        "job" => WorkloadType::Job,
        _ => return Err(format!("{word:?} is not a type of workload: deployment, cronjob, pod, job")),
    })
}

/// `PROXY:15088`, `NONE:8080`, or without a port.
fn application_tunnel(text: &str) -> Result<ApplicationTunnel, String> {
    let (protocol, port) = text.split_once(':').unwrap_or((text, ""));
    let protocol = match protocol {
        "PROXY" => ApplicationTunnelProtocol::Proxy,
        "NONE" => ApplicationTunnelProtocol::None,
        _ => return Err("tunnel=PROXY:PORT or tunnel=NONE:PORT".into()),
    };
    let port = if port.is_empty() { None } else { Some(number(port)?) };
    Ok(ApplicationTunnel { protocol, port })
}

/// `wp.shop`, `wp.shop:15009`, `10.0.0.9`, `10.0.0.9:15009`, `[fd00::9]:15009`, or `shop/any.host.name:15009`.
fn gateway(text: &str, network: &str) -> Result<GatewayAddress, String> {
    let address = |ip| GatewayDestination::Address(NetworkAddress::new(network, ip));
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(GatewayAddress { destination: address(socket.ip()), hbone_mtls_port: socket.port() });
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(GatewayAddress { destination: address(ip), hbone_mtls_port: HBONE_PORT });
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, number(port)?),
        None => (text, HBONE_PORT),
    };
    let key = match (NamespacedHostname::parse(name), name.split_once('.')) {
        (Some(key), _) => key,
        (None, Some((_, namespace))) => NamespacedHostname::new(namespace, &format!("{name}.svc.cluster.local")),
        (None, None) => return Err(format!("{text:?} is not a waypoint: NAME.NAMESPACE, NAMESPACE/HOSTNAME or an address")),
    };
    Ok(GatewayAddress { destination: GatewayDestination::Hostname(key), hbone_mtls_port: port })
}

/// `80->8080,443,90->0`; a port alone maps to itself; `-` is no port.
fn ports(text: &str) -> Result<BTreeMap<u16, u16>, String> {
    let one = |mapping: &str| {
        let (port, target) = mapping.split_once("->").unwrap_or((mapping, mapping));
        Ok((number(port)?, number(target)?))
    };
    text.split(',').filter(|mapping| *mapping != "-").map(one).collect()
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number that fits here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_module_is_a_mesh() {
        let fixture = parse(
            "node a:  client 10.0.0.1 sa=shop/client
             node b:  server 10.0.0.2,fd00::2 sa=shop/server status=x",
        );
        assert_eq!(fixture.unwrap_err().to_string(), "line 2: a workload has no \"status=x\"");
        let fixture = parse(
            "node a:  client 10.0.0.1 sa=shop/client   # the caller
             node b:  server 10.0.0.2,fd00::2 sa=shop/server unhealthy capacity=3 tcp
             service  web.shop 10.96.0.1 80->8080,443 lb=failover:network,zone : server client[80->9090]
             waypoint wp.shop 10.0.0.9 for service web.shop workload server
             deny     shop/no-evil on server from sa shop/evil",
        )
        .unwrap();
        let web = fixture.service("web.shop");
        assert_eq!(web.ports, BTreeMap::from([(80, 8080), (443, 443)]));
        assert_eq!(fixture.directory.members(&web.key()).count(), 2);
        assert_eq!(fixture.workload("client").services[&web.key()], BTreeMap::from([(80, 9090)]));
        assert_eq!(fixture.workload("shop/server").waypoint, web.waypoint);
        assert_eq!(fixture.workload("wp").identity().to_string(), "spiffe://cluster.local/ns/shop/sa/wp");
        assert_eq!(fixture.rest[0].number, 5);
        assert_eq!(fixture.rest[0].words[..2], ["deny", "shop/no-evil"]);
    }

    #[test]
    fn a_mistake_names_its_line() {
        for (text, expected) in [
            ("\nnode a client 10.0.0.1", "line 2: after `node` comes its name and a colon"),
            ("node a: client 10.0.0.300", "line 1: \"10.0.0.300\" is not an IP address"),
            ("service web - 80", "line 1: a service is named NAME.NAMESPACE"),
            ("service web.shop - 80 : nobody", "line 1: no workload nobody"),
            ("service web.shop", "line 1: too few words after `service`"),
            (
                "waypoint wp.shop 10.0.0.9 for web.shop",
                "line 1: after `for` come pairs of `service NAME.NAMESPACE` or `workload NAME`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
    }
}
