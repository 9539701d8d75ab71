//! The page of everything there is to say: conditions, notes and addresses by object, and what is wrong with the files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use mesh_xds::Rejection;

use super::shown::{ACCEPTED, PROGRAMMED};
use crate::objects::mesh_config::Visible;
use crate::objects::route::{ParentReference, ROUTES};
use crate::objects::{Kind, Labels, NsName, ObjectKey};
use crate::translate::{Translation, waypoint};
use crate::watch::{Findings, Origin, Refused};

/// A note is for reading: of many namespaces some are named.
const NAMESPACES_NAMED: usize = 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Every file was read without an error at least once, so the mesh is told.
    pub is_whole: bool,
    /// One line each, with file and line, the worst first.
    pub findings: Vec<String>,
    pub objects: Vec<Entry>,
    /// The names of our revision: objects of others are their controllers' to write to.
    #[serde(skip)]
    pub revisions: BTreeSet<Arc<str>>,
    /// Routes that are accepted and that the waypoint of a listener routes by, by Gateway and listener.
    #[serde(skip)]
    pub attached: BTreeMap<NsName, BTreeMap<String, u32>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// `file:line`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What is said of a route to each of its parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
    /// What of the object is not honoured, and other remarks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The object's `metadata.generation`, of which all of this is said.
    #[serde(skip)]
    pub generation: i64,
    /// Addresses that were given to the hosts of a ServiceEntry; kept over restarts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    pub parent_ref: ParentReference,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Address {
    pub value: IpAddr,
    pub host: String,
}

/// `rejections`: what waypoints say that they cannot do.
pub fn page(translation: &Translation, origins: &BTreeMap<ObjectKey, Origin>, findings: &Findings, rejections: &BTreeSet<Rejection>, is_whole: bool) -> Page {
    let mut entries: BTreeMap<ObjectKey, Entry> = BTreeMap::new();
    for key in translation.reported() {
        let report = translation.report(key);
        let generation = translation.cluster().object(key).map_or(0, |object| object.meta().generation);
        let entry = entries.entry(key.clone()).or_default();
        entry.notes = report.notes;
        let shown = |conditions: Vec<crate::translate::Condition>| -> Vec<Condition> {
            let one = |condition: crate::translate::Condition| Condition {
                kind: condition.kind.into(),
                status: if condition.is_true { "True" } else { "False" }.into(),
                reason: condition.reason.into(),
                message: condition.message,
                observed_generation: generation,
            };
            conditions.into_iter().map(one).collect()
        };
        entry.conditions = shown(report.conditions);
        entry.parents = report.parents.into_iter().map(|parent| Parent { parent_ref: parent.reference, conditions: shown(parent.conditions) }).collect();
    }
    for (key, condition) in rejected(translation, rejections) {
        let entry = entries.entry(key).or_default();
        entry.parents.iter_mut().for_each(|parent| parent.conditions.push(condition.clone()));
        if entry.parents.is_empty() {
            entry.conditions.push(condition);
        }
    }
    for (key, note) in covered(translation).into_iter().chain(left_out(translation)) {
        entries.entry(key).or_default().notes.push(note);
    }
    let revisions = translation.cluster().revisions();
    for refused in findings.refused.iter().filter(|refused| is_ours(refused.revision.as_ref(), &revisions)) {
        entries.entry(refused.key.clone()).or_default().conditions = vec![unreadable(refused)];
    }
    for (claim, ips) in translation.vips().all() {
        let key = ObjectKey { kind: Kind::ServiceEntry, name: claim.entry.clone() };
        let addresses = ips.iter().map(|ip| Address { value: *ip, host: claim.host.to_string() });
        entries.entry(key).or_default().addresses.extend(addresses);
    }
    for (key, entry) in &mut entries {
        entry.kind = key.kind.to_string();
        entry.namespace = key.name.namespace.to_string();
        entry.name = key.name.name.to_string();
        entry.generation = translation.cluster().object(key).map_or(0, |object| object.meta().generation);
        entry.origin = origins.get(key).map(Origin::to_string).unwrap_or_default();
    }
    Page { is_whole, findings: findings.lines(), objects: entries.into_values().collect(), revisions, attached: attached(translation) }
}

/// A route names services and not Gateways: it counts at the listener by which the services' requests arrive, once however
/// many of its parents are served there.
fn attached(translation: &Translation) -> BTreeMap<NsName, BTreeMap<String, u32>> {
    let routes = translation.reported().filter(|key| ROUTES.contains(&key.kind)).map(|key| translation.report(key));
    let mut found: BTreeMap<NsName, BTreeMap<String, u32>> = BTreeMap::new();
    for report in routes {
        let gateways: BTreeSet<NsName> = report.parents.into_iter().flat_map(|parent| parent.routed_by).collect();
        for name in gateways {
            let Some(listener) = translation.cluster().gateways.get(&name).and_then(|gateway| waypoint::listener_of_tunnels(gateway)) else { continue };
            *found.entry(name).or_default().entry(listener.name.to_string()).or_default() += 1;
        }
    }
    found
}

/// What waypoints do not do of an object, as one condition. It is there only while there is something to say.
fn rejected(translation: &Translation, rejections: &BTreeSet<Rejection>) -> BTreeMap<ObjectKey, Condition> {
    let mut all: BTreeMap<ObjectKey, Condition> = BTreeMap::new();
    for Rejection { source, is_partial, reason, message } in rejections {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == source.kind) else { continue };
        let key = ObjectKey::new(kind, &source.namespace, &source.name);
        let Some(object) = translation.cluster().object(&key) else { continue };
        let section = if source.section.is_empty() { String::new() } else { format!("{}: ", source.section) };
        let effect = if *is_partial { "in force without it" } else { "not in force" };
        let said = format!("{section}{message} ({effect})");
        match all.get_mut(&key) {
            Some(known) => known.message = format!("{}; {said}", known.message),
            None => {
                let reason = if is_word(reason) { reason.clone() } else { "Rejected".into() };
                let condition = Condition { kind: PROGRAMMED.into(), status: "False".into(), reason, message: said, observed_generation: object.meta().generation };
                all.insert(key, condition);
            }
        }
    }
    all
}

/// What Kubernetes takes as a reason (metav1.Condition).
fn is_word(reason: &str) -> bool {
    reason.starts_with(|c: char| c.is_ascii_alphabetic()) && reason.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && reason.len() <= 128
}

/// An object without a revision is everybody's.
pub(super) fn is_ours(revision: Option<&Arc<str>>, ours: &BTreeSet<Arc<str>>) -> bool {
    revision.is_none_or(|revision| ours.contains(revision))
}

/// What an object is told whose newest state cannot be used, whatever its earlier state was told.
fn unreadable(refused: &Refused) -> Condition {
    let kind = if refused.key.kind == Kind::AuthorizationPolicy { "ZtunnelAccepted" } else { ACCEPTED };
    let field = refused.field.as_ref().map(|field| format!("field {field}: ")).unwrap_or_default();
    Condition {
        kind: kind.into(),
        status: "False".into(),
        reason: "Unreadable".into(),
        message: format!("{field}{}; {}", refused.what, refused.instead),
        observed_generation: refused.generation,
    }
}

/// Ranges of ServiceEntries that cover addresses of workloads: a range is looked up before a workload's own address, so
/// connections to those go to the ServiceEntry (spec/controlplane.md 14.18).
fn covered(translation: &Translation) -> Vec<(ObjectKey, String)> {
    let services = translation.derived().flat_map(|derived| &derived.services).filter(|service| !service.cidr_vips.is_empty());
    let mut notes = Vec::new();
    for service in services {
        let workloads = || translation.derived().flat_map(|derived| &derived.workloads);
        for range in &service.cidr_vips {
            let is_covered = |ip: &&IpAddr| range.cidr.contains(*ip);
            // An entry's own endpoints may well be in its range.
            let mut foreign = workloads().filter(|workload| workload.network == range.network && !workload.services.contains_key(&service.key()));
            let found = foreign.find_map(|workload| Some((workload, workload.addresses.iter().find(is_covered)?)));
            if let Some((workload, ip)) = found {
                let key = ObjectKey { kind: Kind::ServiceEntry, name: NsName { namespace: service.namespace.clone(), name: service.name.clone() } };
                notes.push((key, format!("spec.addresses: {} covers {ip} of workload {}: connections to it are taken for this host's", range.cidr, workload.uid)));
            }
        }
    }
    notes
}

/// What the mesh's configuration leaves out: ServiceEntries that nobody may see, and namespaces that are not looked at.
/// Objects of another revision are another controller's to report.
fn left_out(translation: &Translation) -> Vec<(ObjectKey, String)> {
    let cluster = translation.cluster();
    let config = cluster.mesh_config();
    let mut notes = Vec::new();
    let mut namespaces: BTreeMap<&str, usize> = BTreeMap::new();
    for object in cluster.aside() {
        let labels = cluster.labels_of_namespace(&object.meta().namespace);
        if object.meta().namespace != translation.settings().root_namespace && !config.discovers(labels) {
            *namespaces.entry(&object.meta().namespace).or_default() += 1;
        } else if object.kind() == Kind::ServiceEntry && labels.map_or(config.visible(&Labels::default()), |labels| config.visible(labels)) == Visible::None {
            notes.push((object.key(), "is not published: serviceEntryVisibility of the mesh's configuration lets nobody see it".into()));
        }
    }
    if !namespaces.is_empty() {
        let named: Vec<String> = namespaces.iter().take(NAMESPACES_NAMED).map(|(namespace, objects)| format!("{namespace} ({objects} objects)")).collect();
        let more = if namespaces.len() > NAMESPACES_NAMED { format!(" and {} more", namespaces.len() - NAMESPACES_NAMED) } else { String::new() };
        notes.push((cluster.config_key().clone(), format!("data.mesh.discoverySelectors leave out: {}{more}", named.join(", "))));
    }
    notes
}

impl Page {
    /// The addresses that an earlier page gave to hosts.
    pub fn remembered(&self) -> impl Iterator<Item = (NsName, &str, IpAddr)> {
        let entries = self.objects.iter().filter(|entry| entry.kind == Kind::ServiceEntry.name());
        entries.flat_map(|entry| entry.addresses.iter().map(|address| (NsName::new(&entry.namespace, &entry.name), &*address.host, address.value)))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::translate::tests::{events, translation};
    use crate::watch::Instead;

    const YAML: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: e}\nspec: {hosts: [a.example], resolution: DNS, exportTo: [\".\"]}\n---\n\
        apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: p, generation: 3}\nspec: {action: AUDIT}\n";

    #[test]
    fn a_page_says_what_is_wrong_and_where() {
        let mut translation = translation();
        translation.apply(events(YAML));
        let key = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p");
        let origins = BTreeMap::from([(key, Origin { file: std::path::Path::new("a.yaml").into(), line: 7 })]);
        let page = page(&translation, &origins, &Findings::default(), &BTreeSet::new(), true);
        expect![[r#"
            {
              "isWhole": true,
              "findings": [],
              "objects": [
                {
                  "kind": "ServiceEntry",
                  "namespace": "shop",
                  "name": "e",
                  "notes": [
                    "spec.exportTo is not honoured: the host is visible to the whole mesh"
                  ],
                  "addresses": [
                    {
                      "value": "240.240.172.118",
                      "host": "a.example"
                    },
                    {
                      "value": "2001:2::1a86:99f7",
                      "host": "a.example"
                    }
                  ]
                },
                {
                  "kind": "AuthorizationPolicy",
                  "namespace": "shop",
                  "name": "p",
                  "origin": "a.yaml:7",
                  "conditions": [
                    {
                      "type": "ZtunnelAccepted",
                      "status": "False",
                      "reason": "UnsupportedValue",
                      "message": "action AUDIT cannot be enforced at L4; the policy is not in force",
                      "observedGeneration": 3
                    }
                  ]
                }
              ]
            }"#]].assert_eq(&serde_json::to_string_pretty(&page).unwrap());
    }

    #[test]
    fn an_object_that_cannot_be_read_is_told_so() {
        let refused = |kind, instead| Refused { key: ObjectKey::new(kind, "shop", "p"), revision: None, generation: 4, field: Some("spec.rule".into()), what: "unknown field".into(), instead };
        let other = Refused { revision: Some("other".into()), ..refused(Kind::WorkloadEntry, Instead::Nothing) };
        let findings = Findings { refused: vec![refused(Kind::AuthorizationPolicy, Instead::LastGood), refused(Kind::ServiceEntry, Instead::Nothing), other], ..Findings::default() };
        let page = page(&translation(), &BTreeMap::new(), &findings, &BTreeSet::new(), true);
        let told = page.objects.iter().map(|entry| (&*entry.conditions[0].kind, &*entry.conditions[0].message, entry.conditions[0].observed_generation));
        assert_eq!(told.collect::<Vec<_>>(), [
            ("istio.io/Accepted", "field spec.rule: unknown field; it is not used", 4),
            ("ZtunnelAccepted", "field spec.rule: unknown field; the last good state stays in force", 4),
        ]);
    }

    // spec/waypoint.md 2.8
    #[test]
    fn routes_are_counted_at_the_listener_that_their_requests_arrive_by() {
        use crate::translate::tests::route::{mesh, route};
        let mut translation = translation();
        let to = |name: &str, kind: &str, parents: &str| route(kind, "shop", name, &format!("parentRefs: [{parents}], rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]"));
        let (web, free, nobody) = ("{group: \"\", kind: Service, name: web}", "{group: \"\", kind: Service, name: free}", "{group: \"\", kind: Service, name: nobody}");
        let port = "{group: \"\", kind: Service, name: web, port: 80}";
        let routes = [to("a", "HTTPRoute", web), to("b", "HTTPRoute", &format!("{web}, {port}")), to("c", "TCPRoute", port), to("d", "HTTPRoute", free), to("e", "HTTPRoute", nobody)];
        translation.apply(events(&(mesh() + &routes.concat())));
        let attached = |translation: &Translation| page(translation, &BTreeMap::new(), &Findings::default(), &BTreeSet::new(), true).attached;
        // One that loses all its ports to a stronger kind is not attached, and neither is one of which the service has no waypoint.
        assert_eq!(attached(&translation), BTreeMap::from([(NsName::new("shop", "wp"), BTreeMap::from([("mesh".to_owned(), 2)]))]));
        translation.apply([crate::cluster::Event::Deleted(ObjectKey::new(Kind::Gateway, "shop", "wp"))]);
        assert!(attached(&translation).is_empty());
    }

    // pitfall 18
    #[test]
    fn a_range_that_covers_a_workload_is_told() {
        let mut translation = translation();
        let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: wide}\nspec: {hosts: [a.example], addresses: [10.0.0.0/8], resolution: STATIC, endpoints: [{address: 10.9.9.9}]}\n---\n";
        translation.apply(events(entry));
        let notes = |translation: &Translation| {
            let page = page(translation, &BTreeMap::new(), &Findings::default(), &BTreeSet::new(), true);
            page.objects.into_iter().flat_map(|entry| entry.notes).collect::<Vec<_>>()
        };
        assert_eq!(notes(&translation), Vec::<String>::new());
        translation.apply(events(&crate::translate::tests::pod("shop", "a", "10.1.0.1", "")));
        let told = "spec.addresses: 10.0.0.0/8 covers 10.1.0.1 of workload Kubernetes//Pod/shop/a: connections to it are taken for this host's";
        assert_eq!(notes(&translation), [told]);
    }

    #[test]
    fn addresses_are_remembered_by_the_page() {
        let mut first = translation();
        first.remember(NsName::new("shop", "e"), "a.example".into(), [240, 240, 1, 2].into());
        first.apply(events(YAML));
        let text = serde_json::to_string(&page(&first, &BTreeMap::new(), &Findings::default(), &BTreeSet::new(), true)).unwrap();
        let read: Page = serde_json::from_str(&text).unwrap();
        let mut second = translation();
        for (entry, host, ip) in read.remembered() {
            second.remember(entry, host.into(), ip);
        }
        second.apply(events(YAML));
        let all = |translation: &Translation| translation.vips().all().map(|(claim, ips)| (claim.clone(), ips.clone())).collect::<Vec<_>>();
        assert_eq!(all(&first), all(&second));
        assert!(format!("{:?}", all(&second)).contains("240.240.1.2"));
    }
}
