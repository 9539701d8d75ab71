//! Authorities and certificates that users keep: BackendTLSPolicy (spec/waypoint.md 2.10), DestinationRule (5.7).

use mesh_xds::messages::waypoint::{BACKEND_POLICY, BackendPolicy, TlsMode};
use prost::Message;

use super::route::{mesh, route};
use super::served::gateway;
use super::{Translation, events, translation};
use crate::cluster::Event;
use crate::objects::{Kind, NsName, Object, ObjectKey, Secret};
use crate::translate::Report;

/// A certificate and its key.
pub fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn object(kind: &str, name: &NsName, entries: &[(&str, &str)]) -> Vec<Event> {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let data: serde_json::Map<String, serde_json::Value> = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let text = serde_json::json!({ "apiVersion": "v1", "kind": kind, "metadata": { "namespace": &*name.namespace, "name": &*name.name }, field: data }).to_string();
    events(&text)
}

fn shop(name: &str) -> NsName {
    NsName::new("shop", name)
}

/// TLS of each policy that waypoints are told, by its name and for whom it is.
fn told(translation: &Translation) -> Vec<(String, BackendPolicy)> {
    let resources = translation.derived().flat_map(|derived| &derived.resources).filter(|resource| resource.type_url == BACKEND_POLICY);
    let mut all: Vec<(String, BackendPolicy)> = resources.map(|resource| (format!("{} [{}]", resource.name, resource.audiences.join(" ")), BackendPolicy::decode(resource.body.clone()).unwrap())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The conditions that a policy of the Gateway API has, to its first ancestor: type, reason, and the words.
fn said(translation: &Translation, name: &str) -> Vec<(&'static str, bool, &'static str, String)> {
    let Report { parents, .. } = translation.report(&ObjectKey::new(Kind::BackendTlsPolicy, "shop", name));
    parents[0].conditions.iter().map(|one| (one.kind, one.is_true, one.reason, one.message.clone())).collect()
}

fn policy(name: &str, validation: &str) -> String {
    route("BackendTLSPolicy", "shop", name, &format!("targetRefs: [{{group: \"\", kind: Service, name: web}}], validation: {{hostname: a.example, {validation}}}"))
}

const REFERENCE: &str = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]";

// V-49: whatever is wrong with the authority, the policy demands TLS that nobody can make
#[test]
fn an_authority_that_cannot_be_had_fails_connections_and_says_why() {
    let (certificate, _) = pair();
    let missing = ("ConfigMap shop/ca: does not exist", "NoValidCACertificate", "InvalidCACertificateRef");
    let table: [(&str, Vec<Event>, (&str, &str, &str)); 8] = [
        (REFERENCE, vec![], missing),
        (REFERENCE, object("ConfigMap", &shop("ca"), &[("ca.crt", "no PEM")]), ("ConfigMap shop/ca: the authorities hold no usable certificate: there is none", missing.1, missing.2)),
        (REFERENCE, object("ConfigMap", &shop("ca"), &[("mesh", ""), ("tls.crt", &certificate)]), ("ConfigMap shop/ca: has no entry ca.crt", missing.1, missing.2)),
        (REFERENCE, object("ConfigMap", &NsName::new("other", "ca"), &[("ca.crt", &certificate)]), missing),
        (REFERENCE, vec![Event::Applied(Object::ConfigMap(crate::objects::ConfigMap::unreadable(&shop("ca"), "may not be read").into()))], ("ConfigMap shop/ca: may not be read", missing.1, missing.2)),
        ("caCertificateRefs: [{group: \"\", kind: Secret, name: ca}]", object("Secret", &shop("ca"), &[("ca.crt", &certificate)]), ("Secret ca: authorities are kept in ConfigMaps", missing.1, "InvalidKind")),
        ("wellKnownCACertificates: Other", vec![], ("\"Other\" is not System", "Invalid", "ResolvedRefs")),
        ("wellKnownCACertificates: System, subjectAltNames: [{type: URI, hostname: a}]", vec![], ("subjectAltNames[0] is neither", "Invalid", "ResolvedRefs")),
    ];
    for (validation, found, (why, accepted, resolved)) in table {
        let mut translation = translation();
        translation.apply(events(&(mesh() + &policy("p", validation))));
        translation.apply(found);
        let [(name, told)] = &told(&translation)[..] else { panic!("{validation}: one policy") };
        let tls = told.tls.as_ref().unwrap();
        assert_eq!((name.as_str(), tls.mode()), ("shop/p@shop/web.shop.svc.cluster.local:0 [waypoints]", TlsMode::Simple));
        assert!(tls.invalid.contains(why), "{validation}: {}", tls.invalid);
        let said = said(&translation, "p");
        assert_eq!((said[0].0, said[0].1, said[0].2), ("Accepted", false, accepted), "{validation}");
        assert_eq!((said[1].0, said[1].1, said[1].2), ("ResolvedRefs", resolved == "ResolvedRefs", resolved), "{validation}");
        assert!(said[0].3.contains(why), "{said:?}");
    }
}

#[test]
fn authorities_follow_their_config_map_and_one_good_one_is_enough() {
    let (first, second) = (pair().0, pair().0);
    let mut translation = translation();
    let refs = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}, {group: \"\", kind: ConfigMap, name: gone}]";
    translation.apply(events(&(mesh() + &policy("p", refs))));
    assert_eq!(translation.wanted().iter().map(ObjectKey::to_string).collect::<Vec<_>>(), ["ConfigMap shop/ca", "ConfigMap shop/gone"]);
    translation.apply(object("ConfigMap", &shop("ca"), &[("ca.crt", &first)]));
    let tls = |translation: &Translation| told(translation)[0].1.tls.clone().unwrap();
    assert_eq!((tls(&translation).invalid.as_str(), tls(&translation).ca_pem.trim()), ("", first.trim()));
    let now = said(&translation, "p");
    assert_eq!((now[0].1, now[1].1, now[1].2), (true, false, "InvalidCACertificateRef"));
    let changes = translation.apply(object("ConfigMap", &shop("ca"), &[("ca.crt", &second)]));
    assert_eq!((changes.resources.len(), changes.units_computed), (1, 2), "the policy, and nothing of the mesh's configuration");
    assert_eq!(tls(&translation).ca_pem.trim(), second.trim());
    translation.apply([Event::Deleted(ObjectKey::new(Kind::ConfigMap, "shop", "ca"))]);
    assert!(tls(&translation).ca_pem.is_empty() && !tls(&translation).invalid.is_empty());
    translation.apply([Event::Deleted(ObjectKey::new(Kind::BackendTlsPolicy, "shop", "p"))]);
    assert!(translation.wanted().is_empty(), "nothing is read that nobody names");
}

// 2.10: oldest first, then by name; the policy of a port is another matter
#[test]
fn of_two_policies_for_one_target_the_older_counts() {
    let dated = |name: &str, created: &str| policy(name, "wellKnownCACertificates: System").replace("2026-01-01T00:00:00Z", created);
    let of_port = route("BackendTLSPolicy", "shop", "port", "targetRefs: [{group: \"\", kind: Service, name: web, sectionName: http}], validation: {hostname: b.example, wellKnownCACertificates: System}");
    let mut translation = translation();
    translation.apply(events(&(mesh() + &dated("a", "2026-01-02T00:00:00Z") + &dated("c", "2026-01-01T00:00:00Z") + &dated("b", "2026-01-01T00:00:00Z") + &of_port)));
    let names: Vec<String> = told(&translation).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["shop/b@shop/web.shop.svc.cluster.local:0 [waypoints]", "shop/port@shop/web.shop.svc.cluster.local:80 [waypoints]"]);
    for (name, is_accepted, reason) in [("a", false, "Conflicted"), ("b", true, "Accepted"), ("c", false, "Conflicted"), ("port", true, "Accepted")] {
        let said = said(&translation, name);
        assert_eq!((said[0].1, said[0].2), (is_accepted, reason), "{name}");
    }
    translation.apply([Event::Deleted(ObjectKey::new(Kind::BackendTlsPolicy, "shop", "b"))]);
    assert_eq!(said(&translation, "c")[0].2, "Accepted", "the next one takes over");
}

#[test]
fn ancestors_are_the_waypoints_that_serve_the_targets() {
    let ancestors = |yaml: &str| {
        let mut translation = translation();
        translation.apply(events(yaml));
        let report = translation.report(&ObjectKey::new(Kind::BackendTlsPolicy, "shop", "p"));
        report.parents.iter().map(|parent| serde_json::to_string(&parent.reference).unwrap()).collect::<Vec<_>>()
    };
    let policy = policy("p", "wellKnownCACertificates: System");
    let gateway = "{\"group\":\"gateway.networking.k8s.io\",\"kind\":\"Gateway\",\"namespace\":\"shop\",\"name\":\"wp\"}";
    assert_eq!(ancestors(&(mesh() + &policy)), [gateway]);
    let service = "{\"group\":\"\",\"kind\":\"Service\",\"namespace\":\"shop\",\"name\":\"web\"}";
    assert_eq!(ancestors(&policy), [service], "what no waypoint serves is told about itself");
}

// 5.7: what a waypoint shows is kept in its own namespace, and told to nobody else
#[test]
fn credentials_are_those_of_each_waypoints_namespace() {
    let ((ours, our_key), (theirs, their_key)) = (pair(), pair());
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {namespace: shop, name: d}\nspec: {host: web, trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}}\n---\n";
    let mut translation = translation();
    translation.apply(events(&(mesh() + &gateway("other", "wp") + rule)));
    let client = |place: &str| NsName::new(place, "client");
    let wanted: Vec<String> = translation.wanted().iter().map(ObjectKey::to_string).collect();
    assert_eq!(wanted, ["Secret other/client", "Secret shop/client"]);
    let status = |translation: &Translation| translation.report(&ObjectKey::new(Kind::DestinationRule, "shop", "d")).to_string();
    assert!(status(&translation).contains("InvalidTls: spec.trafficPolicy.tls.credentialName: Secret shop/client: does not exist; connections to the host fail"), "{}", status(&translation));
    assert!(!status(&translation).contains("other"), "the waypoint of another namespace does not serve the host");

    translation.apply(object("Secret", &client("shop"), &[("tls.crt", &ours), ("tls.key", &our_key), ("ca.crt", &ours), ("password", "x")]));
    let [(other, of_other), (shop, of_shop)] = &told(&translation)[..] else { panic!("two policies") };
    assert_eq!((other.as_str(), shop.as_str()), ("shop/web.shop.svc.cluster.local@shop>other:0 [waypoint/other/wp]", "shop/web.shop.svc.cluster.local@shop>shop:0 [waypoint/shop/wp]"));
    let (of_other, of_shop) = (of_other.tls.as_ref().unwrap(), of_shop.tls.as_ref().unwrap());
    assert_eq!((of_other.invalid.as_str(), of_other.key_pem.as_str()), ("tls.credentialName: Secret other/client: does not exist", ""));
    assert_eq!((of_shop.invalid.as_str(), &of_shop.cert_pem, &of_shop.key_pem, &of_shop.ca_pem), ("", &ours, &our_key, &ours));
    assert_eq!(status(&translation), "");
    assert!(!super::printed_resources(&translation).contains("PRIVATE KEY"), "no page shows a key");

    // The other's own one; and a renewed one.
    translation.apply(object("Secret", &client("other"), &[("tls.crt", &theirs), ("tls.key", &their_key)]));
    assert_eq!(told(&translation)[0].1.tls.as_ref().unwrap().key_pem, their_key);
    translation.apply(object("Secret", &client("shop"), &[("tls.crt", &ours), ("tls.key", &their_key)]));
    assert!(status(&translation).contains("the client certificate cannot be used"), "{}", status(&translation));
    translation.apply([Event::Applied(Object::Secret(Secret::unreadable(&client("shop"), "may not be read").into()))]);
    assert!(status(&translation).contains("Secret shop/client: may not be read"), "{}", status(&translation));
}

#[test]
fn a_simple_one_needs_the_authority_that_it_names() {
    let (certificate, key) = pair();
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {namespace: shop, name: d}\nspec: {host: web, subsets: [{name: v1, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, credentialName: s}}]}}]}\n---\n";
    let mut translation = translation();
    translation.apply(events(&(mesh() + rule)));
    let tls = |translation: &Translation| told(translation)[0].1.tls.clone().unwrap();
    translation.apply(object("Secret", &shop("s"), &[("tls.crt", &certificate), ("tls.key", &key)]));
    assert_eq!(tls(&translation).invalid, "tls.credentialName: Secret shop/s: has no entry ca.crt");
    translation.apply(object("Secret", &shop("s"), &[("tls.crt", &certificate), ("tls.key", &key), ("cacert", &certificate)]));
    let told = tls(&translation);
    assert_eq!((told.invalid.as_str(), &told.ca_pem, told.key_pem.as_str()), ("", &certificate, ""), "nobody is told more than it needs");
}
