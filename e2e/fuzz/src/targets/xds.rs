//! What a controller sends: resources one by one, a policy and what follows from it, and a whole stream of responses.

use std::collections::BTreeMap;
use std::future::Ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_model::change::Change;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::{PolicyKey, Uid, Workload};
use mesh_policy::{Flow, PolicySet, decide};
use mesh_xds::client::{Client, ClientConfig, ClientLimits, ztunnel_node};
use mesh_xds::messages::discovery::{DeltaDiscoveryResponse, Resource};
use mesh_xds::messages::security::{Action, Address as Range, Authorization, Group, Match, Rules, Scope, ServiceAccountMatch, StringMatch, StringMatchKind};
use mesh_xds::messages::{ADDRESS as ADDRESS_TYPE, AUTHORIZATION as AUTHORIZATION_TYPE, Any};
use mesh_xds::wire::{encode_service, encode_workload, read_address, read_policy};
use mesh_xds::world::world;
use prost::Message as _;
use rand::SeedableRng as _;

use crate::input::Input;
use crate::{Target, saw, saw_text};

fn workload(name: &str, ip: [u8; 4]) -> Vec<u8> {
    let mut workload = Workload::named(&format!("c//Pod/shop/{name}"), "shop", name);
    workload.addresses = vec![IpAddr::from(ip)];
    workload.service_account = "web".into();
    workload.authorization_policies = vec![PolicyKey::new("shop/one")];
    encode_workload(&workload).encode_to_vec()
}

fn service(name: &str, ip: [u8; 4]) -> Vec<u8> {
    let mut service = mesh_model::service::Service::named("shop", &format!("{name}.shop.svc.cluster.local"));
    service.vips = vec![mesh_model::address::NetworkAddress::new("", IpAddr::from(ip))];
    service.ports.insert(80, 8080);
    encode_service(&service).encode_to_vec()
}

pub const ADDRESS: Target = Target {
    name: "xds_address",
    check: |bytes| {
        let change = match read_address(bytes) {
            Ok(change) => change,
            Err(why) => return saw_text(&why.to_string()),
        };
        let encoded = match &change {
            Change::Workload(workload) => {
                saw(("workload", workload.addresses.len().min(3), workload.services.len().min(3), workload.waypoint.is_some()));
                encode_workload(workload)
            }
            Change::Service(service) => {
                saw(("service", service.vips.len().min(3), service.ports.len().min(3), service.waypoint.is_some()));
                encode_service(service)
            }
            Change::Remove(_) => panic!("a resource is no removal"),
        };
        let again = read_address(&encoded.encode_to_vec()).expect("what was read can be written and read");
        assert_eq!(again, change);
    },
    seeds: || vec![workload("web", [10, 0, 0, 1]), service("web", [10, 96, 0, 1]), Vec::new()],
    words: &["shop", "web.shop.svc.cluster.local", "\u{a}\u{4}\u{a}\u{0}\u{0}\u{1}"],
};

/// A match as its text reads (spec/dataplane.md 6.3, and F-15): each list that is there must have an entry that fits, no
/// entry of a `not` list may; an entry that cannot be read fits where that refuses more. `deny`: of a policy that denies.
struct Plain<'a> {
    source: IpAddr,
    to: SocketAddr,
    identity: Option<&'a SpiffeId>,
    deny: bool,
}

impl Plain<'_> {
    fn list<T>(&self, entries: &[T], fits: impl Fn(&T) -> Option<bool>) -> bool {
        // Unreadable: a denial fits, an allowance does not.
        entries.is_empty() || entries.iter().any(|entry| fits(entry).unwrap_or(self.deny))
    }

    fn none<T>(&self, entries: &[T], fits: impl Fn(&T) -> Option<bool>) -> bool {
        !entries.iter().any(|entry| fits(entry).unwrap_or(!self.deny))
    }

    fn text(wanted: &StringMatch, text: Option<&str>) -> Option<bool> {
        let kind = wanted.kind.as_ref()?;
        let Some(text) = text else { return Some(false) };
        Some(match kind {
            StringMatchKind::Exact(wanted) => text == wanted,
            StringMatchKind::Prefix(wanted) => text.starts_with(wanted.as_str()),
            StringMatchKind::Suffix(wanted) => text.ends_with(wanted.as_str()),
            StringMatchKind::Presence(_) => !text.is_empty(),
        })
    }

    fn range(range: &Range, ip: IpAddr) -> Option<bool> {
        let bits = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:08b}")).collect::<String>();
        let own = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        if !matches!(range.address.len(), 4 | 16) || range.length as usize > range.address.len() * 8 {
            return None;
        }
        let length = range.length as usize;
        Some(own.len() == range.address.len() && bits(&own)[..length] == bits(&range.address)[..length])
    }

    fn port(&self, port: u32) -> Option<bool> {
        u16::try_from(port).ok().map(|port| port == self.to.port())
    }

    fn holds(&self, one: &Match) -> bool {
        let namespace = Some(self.identity.map_or("", |id| &id.namespace));
        let principal = self.identity.map(SpiffeId::principal);
        let principal = principal.as_deref();
        let account = |wanted: &ServiceAccountMatch| {
            Some(self.identity.is_some_and(|id| *wanted.namespace == *id.namespace && *wanted.service_account == *id.service_account))
        };
        self.list(&one.namespaces, |wanted| Self::text(wanted, namespace))
            && self.none(&one.not_namespaces, |wanted| Self::text(wanted, namespace))
            && self.list(&one.principals, |wanted| Self::text(wanted, principal))
            && self.none(&one.not_principals, |wanted| Self::text(wanted, principal))
            && self.list(&one.source_ips, |range| Self::range(range, self.source))
            && self.none(&one.not_source_ips, |range| Self::range(range, self.source))
            && self.list(&one.destination_ips, |range| Self::range(range, self.to.ip()))
            && self.none(&one.not_destination_ips, |range| Self::range(range, self.to.ip()))
            && self.list(&one.destination_ports, |port| self.port(*port))
            && self.none(&one.not_destination_ports, |port| self.port(*port))
            && self.list(&one.service_accounts, account)
            && self.none(&one.not_service_accounts, account)
    }

    /// Groups are alternatives, the rules of a group must all hold, the matches of a rule are alternatives (6.4).
    fn selected(&self, policy: &Authorization) -> bool {
        // A match that asks nothing counts for nothing; a rule of such matches alone never holds.
        let asks = |one: &&Match| **one != Match::default();
        let rule = |rules: &Rules| rules.matches.is_empty() || rules.matches.iter().filter(asks).any(|one| self.holds(one));
        policy.groups.iter().any(|group: &Group| group.rules.iter().all(rule))
    }
}

fn flows() -> Vec<(IpAddr, SocketAddr, Option<SpiffeId>)> {
    let identities = [None, Some(SpiffeId::new("td", "shop", "web")), Some(SpiffeId::new("td", "other", "evil"))];
    let ips: [IpAddr; 2] = [[10, 0, 0, 1].into(), "fd00::1".parse().expect("an address")];
    let mut all = Vec::new();
    for identity in identities {
        for ip in ips {
            for port in [80, 8080] {
                all.push((ip, SocketAddr::new(ip, port), identity.clone()));
            }
        }
    }
    all
}

pub const AUTHORIZATION: Target = Target {
    name: "xds_authorization",
    check: |bytes| {
        thread_local! { static FLOWS: Vec<(IpAddr, SocketAddr, Option<SpiffeId>)> = flows(); }
        let name = "shop/one";
        let mut workload = Workload::named("c//Pod/shop/web", "shop", "web");
        workload.authorization_policies = vec![PolicyKey::new(name)];
        let mut policies = PolicySet::default();
        policies.reference(&PolicyKey::new(name));
        let message = Authorization::decode(bytes).ok();
        match read_policy(name, bytes) {
            Ok(policy) => {
                policies.insert(PolicyKey::new(name), Arc::new(policy));
            }
            Err(unreadable) => {
                saw_text(&unreadable.reason.to_string());
                policies.reject(PolicyKey::new(name), unreadable.reach);
            }
        }
        FLOWS.with(|flows| {
            for (source, to, identity) in flows {
                let allowed = decide(&policies, &workload, &Flow::new(*source, identity.clone(), *to)).is_allowed();
                let Some(message) = message.as_ref().filter(|message| Scope::try_from(message.scope).is_ok()) else {
                    assert!(!allowed, "a policy that cannot be read lets {identity:?} in");
                    continue;
                };
                let plain = Plain { source: *source, to: *to, identity: identity.as_ref(), deny: message.action == Action::Deny as i32 };
                // A policy of scope "namespace" reaches its own namespace; one of "workload" whoever lists it. It is listed.
                let reaches = message.scope != Scope::Namespace as i32 || message.namespace == "shop" || message.namespace.is_empty();
                saw((message.action, message.scope, message.dry_run, allowed));
                match Action::try_from(message.action) {
                    Err(_) => assert!(!allowed, "an action that nobody knows lets {identity:?} in"),
                    Ok(_) if message.dry_run => {}
                    Ok(Action::Deny) => assert!(!(reaches && allowed && plain.selected(message)), "{identity:?} to {to} is denied and gets in: {message:?}"),
                    Ok(Action::Allow) => assert!(!(reaches && allowed && !plain.selected(message)), "{identity:?} to {to} is not allowed and gets in: {message:?}"),
                }
            }
        });
    },
    seeds: || {
        let exact = |text: &str| StringMatch { kind: Some(StringMatchKind::Exact(text.to_owned())) };
        let policy = |action: Action, scope: Scope, one: Match| {
            let groups = vec![Group { rules: vec![Rules { matches: vec![one] }] }];
            Authorization { name: "one".into(), namespace: "shop".into(), scope: scope as i32, action: action as i32, groups, dry_run: false }.encode_to_vec()
        };
        let range = |address: &[u8], length| Range { address: address.to_vec(), length };
        let accounts = vec![ServiceAccountMatch { namespace: "shop".into(), service_account: "web".into() }];
        vec![
            policy(Action::Allow, Scope::WorkloadSelector, Match { namespaces: vec![exact("shop")], destination_ports: vec![80, 65_616], ..Match::default() }),
            policy(Action::Deny, Scope::Namespace, Match { principals: vec![exact("td/ns/other/sa/evil")], not_destination_ports: vec![8080], ..Match::default() }),
            policy(Action::Allow, Scope::Global, Match { source_ips: vec![range(&[10, 0, 0, 0], 8), range(&[1], 99)], not_service_accounts: accounts, ..Match::default() }),
            policy(Action::Deny, Scope::WorkloadSelector, Match { not_source_ips: vec![range(&[10, 0, 0, 1], 32)], not_namespaces: vec![StringMatch { kind: None }], ..Match::default() }),
        ]
    },
    words: &["shop", "other", "td/ns/shop/sa/web", "td/ns/other/sa/evil", "\u{8}P", "\u{18}\u{1}", "0\u{1}"],
};

/// Clients of no server: responses are handed in.
type NoDial = fn() -> Ready<io::Result<tokio::io::DuplexStream>>;

pub const SEQUENCE: Target = Target {
    name: "xds_sequence",
    check: |bytes| {
        thread_local! {
            static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        }
        let (writer, watched) = world();
        let config = ClientConfig {
            server: "https://istiod:15012".parse().expect("a URI"),
            node: ztunnel_node("z", "istio-system", "n1", None, []),
            cluster_id: String::new(),
            headers: Vec::new(),
            on_demand: false,
            limits: ClientLimits::default(),
        };
        let dial: NoDial = || std::future::ready(Err(io::ErrorKind::NotConnected.into()));
        let mut client = Client::new(config, dial, || Ok(None), writer, rand::rngs::SmallRng::seed_from_u64(1));
        // The plainest model: the last content of each name that could be used.
        let mut addresses: BTreeMap<String, Change> = BTreeMap::new();
        let mut policies: BTreeMap<String, bool> = BTreeMap::new();
        let mut input = Input(bytes);
        let mut round = 0;
        while !input.is_empty() && round < 8 {
            round += 1;
            let type_url = *input.choice(&[ADDRESS_TYPE, AUTHORIZATION_TYPE, "type.googleapis.com/other"]);
            let mut response = DeltaDiscoveryResponse { type_url: type_url.to_owned(), nonce: format!("n{round}"), ..DeltaDiscoveryResponse::default() };
            for _ in 0..input.byte() % 4 {
                let (name, content) = (input.text(), input.block().to_vec());
                response.resources.push(Resource {
                    name,
                    version: input.byte().to_string(),
                    resource: Some(Any { type_url: type_url.to_owned(), value: content.into() }),
                    ..Resource::default()
                });
            }
            for _ in 0..input.byte() % 3 {
                response.removed_resources.push(input.text());
            }
            let mut rejected = 0;
            for resource in &response.resources {
                let content = resource.resource.as_ref().map(|any| &any.value[..]).unwrap_or_default();
                if !modelled(type_url, &resource.name, content, &mut addresses, &mut policies) {
                    rejected += 1;
                }
            }
            for name in &response.removed_resources {
                match type_url {
                    ADDRESS_TYPE => drop(addresses.remove(name)),
                    AUTHORIZATION_TYPE => drop(policies.remove(name)),
                    _ => {}
                }
            }
            let nonce = response.nonce.clone();
            let reply = RUNTIME.with(|runtime| runtime.block_on(client.take(response)));
            assert_eq!((reply.response_nonce, reply.type_url), (nonce, type_url.to_owned()));
            assert_eq!(reply.error_detail.is_some(), rejected > 0, "{rejected} resources are bad, {:?}", reply.error_detail);
            assert!(reply.error_detail.is_none_or(|status| status.message.len() <= 10 << 10));
        }
        let now = watched.load();
        saw((addresses.len(), policies.len(), round));
        for (name, change) in &addresses {
            match change {
                Change::Workload(workload) => assert_eq!(now.directory.workload(&Uid(name.as_str().into())), Some(workload)),
                Change::Service(service) => assert_eq!(now.directory.service(&service.key()), Some(service)),
                Change::Remove(_) => {}
            }
        }
        let workloads = addresses.values().filter(|change| matches!(change, Change::Workload(_))).count();
        assert_eq!(now.directory.workloads().count(), workloads, "workloads that nobody told of, or that are lost");
        for (name, readable) in &policies {
            assert_eq!(now.policies.get(&PolicyKey::new(name)).is_some(), *readable, "policy {name}");
        }
    },
    seeds: || {
        let response = |kind: u8, resources: &[(&str, Vec<u8>)], removed: &[&str]| {
            let mut all = vec![kind, resources.len() as u8];
            for (name, content) in resources {
                all.extend(name.bytes().chain([0]));
                all.extend((content.len() as u16).to_be_bytes());
                all.extend(content);
                all.push(1);
            }
            all.push(removed.len() as u8);
            removed.iter().for_each(|name| all.extend(name.bytes().chain([0])));
            all
        };
        let web = || ("c//Pod/shop/web", workload("web", [10, 0, 0, 1]));
        let other = || ("c//Pod/shop/other", workload("other", [10, 0, 0, 1]));
        let vip = || ("shop/web.shop.svc.cluster.local", service("web", [10, 96, 0, 1]));
        let policy = || ("shop/one", Authorization { name: "one".into(), namespace: "shop".into(), ..Authorization::default() }.encode_to_vec());
        vec![
            [response(0, &[web(), other(), vip()], &[]), response(1, &[policy()], &[]), response(0, &[web()], &["c//Pod/shop/other"])].concat(),
            [response(1, &[policy(), ("shop/bad", b"\xff\xff".to_vec())], &[]), response(1, &[("shop/bad", policy().1)], &["shop/one"])].concat(),
            [response(0, &[("another name", web().1)], &[]), response(2, &[web()], &["x"])].concat(),
        ]
    },
    words: &["c//Pod/shop/web", "shop/web.shop.svc.cluster.local", "shop/one", "\0"],
};

/// Does to the model what a resource should do to the world; whether the resource is good.
fn modelled(kind: &str, name: &str, content: &[u8], addresses: &mut BTreeMap<String, Change>, policies: &mut BTreeMap<String, bool>) -> bool {
    match kind {
        _ if name.is_empty() => false,
        ADDRESS_TYPE => {
            // An address without content is none, and its name must be its own.
            let Ok(change) = read_address(content) else { return false };
            let own = match &change {
                Change::Workload(workload) => workload.uid.to_string(),
                Change::Service(service) => service.key().to_string(),
                Change::Remove(_) => return false,
            };
            if own != name {
                return false;
            }
            addresses.insert(own, change);
            true
        }
        AUTHORIZATION_TYPE => {
            let readable = read_policy(name, content).is_ok();
            // What was good before stays in force beside the refusal.
            if readable || !policies.contains_key(name) {
                policies.insert(name.to_owned(), readable);
            }
            readable
        }
        _ => true,
    }
}
