//! Who may have which certificate, and who sees what (spec/controlplane.md 3.3, 3.4, pitfall 13).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::Clock;
use mesh_identity::impersonate::{Facts, Phase, Rules, impersonate};
use mesh_identity::token::{AUDIENCE, Minter, ObjectRef, Subject, Verifier};
use mesh_runtime::watched;
use mesh_xds::Authenticate;

use super::authn::{Authn, DiscoveryAuthn, Tokens, Unknown};
use super::placements::Placements;
use crate::cluster::Event;
use crate::objects::{Kind, NsName, ObjectKey};
use crate::translate::tests::{events, pod};

#[derive(Debug)]
pub struct At(pub SystemTime);

impl Clock for At {
    fn now(&self) -> SystemTime {
        self.0
    }
}

pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

pub fn placements(yaml: &str) -> Placements {
    let mut placements = Placements::default();
    for event in events(yaml) {
        placements.apply(&event);
    }
    placements
}

fn subject(account: &str, pod: Option<(&str, &str)>, node: Option<&str>) -> Subject {
    let object = |name: &str, uid: &str| ObjectRef { name: name.into(), uid: uid.into() };
    Subject {
        namespace: "istio-system".into(),
        service_account: object(account, "u"),
        pod: pod.map(|(name, uid)| object(name, uid)),
        node: node.map(|node| object(node, "n")),
    }
}

struct Case {
    minter: Minter,
    authn: Authn,
}

fn case(placed: Placements, at: SystemTime) -> Case {
    let minter = Minter::generate("https://isthmus.local").unwrap();
    let verifier = Verifier::new(&minter.public_pem(), "https://isthmus.local", AUDIENCE).unwrap();
    let rules = Rules::parse("istio-system/ztunnel", "cluster.local").unwrap();
    let authn = Authn { tokens: Tokens::Ours(verifier), cluster_id: "Kubernetes".into(), rules, machines: vec![("istio-system".into(), "machine".into())], placements: watched(placed).1, clock: Arc::new(At(at)) };
    Case { minter, authn }
}

impl Case {
    fn token(&self, subject: &Subject) -> String {
        self.minter.mint(subject, AUDIENCE, Duration::from_secs(3600), now()).unwrap()
    }

    /// The answer to "may this caller have that identity?".
    async fn ask(&self, subject: &Subject, wanted: &str) -> String {
        let known = match self.authn.token(&self.token(subject), None).await {
            Ok(known) => known,
            Err(Unknown(why)) => return why,
        };
        let answer = self.authn.placements.with(|placements| impersonate(&known.caller, wanted, &self.authn.rules, placements));
        answer.map_or_else(|refused| refused.to_string(), |identity| identity.to_string())
    }
}

/// The daemon's own pod on n1, and `shop/a` there; `pod` puts everything on n1.
fn cluster() -> String {
    let daemon = pod("istio-system", "zt-1", "10.0.0.1", "").replace("serviceAccountName: zt-1-sa", "serviceAccountName: ztunnel");
    let elsewhere = pod("shop", "b", "10.0.0.3", "").replace("nodeName: n1", "nodeName: n2");
    let ended = pod("shop", "c", "10.0.0.4", "").replace("phase: Running", "phase: Failed");
    let unscheduled = pod("shop", "d", "10.0.0.5", "").replace("nodeName: n1, ", "");
    [daemon, pod("shop", "a", "10.0.0.2", ""), elsewhere, ended, unscheduled].concat()
}

// T-30
#[tokio::test]
async fn a_node_gets_certificates_for_its_own_workloads_only() {
    let case = case(placements(&cluster()), now());
    let own = subject("ztunnel", Some(("zt-1", "uid-zt-1")), Some("n1"));
    let by_pod = subject("ztunnel", Some(("zt-1", "uid-zt-1")), None);
    let shop = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let table = [
        (&own, shop("a-sa"), shop("a-sa")),
        (&by_pod, shop("a-sa"), shop("a-sa")),
        (&own, shop("b-sa"), "no workload of spiffe://cluster.local/ns/shop/sa/b-sa runs on node n1".into()),
        (&own, shop("c-sa"), "no workload of spiffe://cluster.local/ns/shop/sa/c-sa runs on node n1".into()),
        (&own, shop("d-sa"), "no workload of spiffe://cluster.local/ns/shop/sa/d-sa runs on node n1".into()),
        (&own, "spiffe://other/ns/shop/sa/a-sa".into(), "the requested identity is of trust domain \"other\", ours is \"cluster.local\"".into()),
        (&own, "a-sa".into(), "the requested identity is none of this mesh: \"a-sa\" is not an identity of this mesh: expected spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT".into()),
    ];
    for (subject, wanted, answer) in table {
        assert_eq!(case.ask(subject, &wanted).await, answer, "{wanted}");
    }
}

#[tokio::test]
async fn a_token_must_fit_the_pod_it_names() {
    let case = case(placements(&cluster()), now());
    let wanted = "spiffe://cluster.local/ns/shop/sa/a-sa";
    let table = [
        (subject("ztunnel", Some(("zt-1", "older")), Some("n1")), "the token is of an earlier pod istio-system/zt-1"),
        (subject("other", Some(("zt-1", "uid-zt-1")), Some("n1")), "pod istio-system/zt-1 runs as another service account than its token says"),
        (subject("ztunnel", Some(("zt-1", "uid-zt-1")), Some("n2")), "pod istio-system/zt-1 is on another node than its token says"),
        (subject("other", Some(("unknown", "u")), Some("n1")), "istio-system/other is not among the trusted node accounts (CA_TRUSTED_NODE_ACCOUNTS)"),
        (subject("ztunnel", Some(("unknown", "u")), None), "the caller's pod istio-system/unknown is not known (yet)"),
        (subject("ztunnel", None, None), "the caller's credential is bound to no pod and no node"),
        // A daemon of a machine without Kubernetes has no Pod object; its issuer names the node.
        (subject("ztunnel", Some(("unknown", "u")), Some("n1")), "spiffe://cluster.local/ns/shop/sa/a-sa"),
        // A machine speaks for itself alone, whatever node its token names.
        (subject("machine", None, Some("n1")), "istio-system/machine is not among the trusted node accounts (CA_TRUSTED_NODE_ACCOUNTS)"),
    ];
    for (subject, answer) in table {
        assert_eq!(case.ask(&subject, wanted).await, answer, "{subject:?}");
    }
}

// V-31, T-08
#[tokio::test]
async fn scope_comes_from_the_token() {
    let mut placed = placements(&cluster());
    let account = |name: &str| NsName::new("istio-system", name);
    let waypoint = |gateway: &str, name: &str| Arc::new(crate::translate::Account { gateway: account(gateway), account: account(name), class: "c".into() });
    placed.waypoint(&account("wp"), Some(&waypoint("wp", "gateway")));
    let case = case(placed.clone(), now());
    let authn = DiscoveryAuthn(Arc::new(case.authn));
    let ask = |token: Option<String>| {
        let authn = &authn;
        async move {
            let mut headers = http::HeaderMap::new();
            if let Some(token) = token {
                headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            authn.authenticate(&headers, &http::Extensions::new()).await
        }
    };
    let token = |subject: &Subject| case.minter.mint(subject, AUDIENCE, Duration::from_secs(60), now()).unwrap();

    let daemon = ask(Some(token(&subject("ztunnel", None, Some("n1"))))).await.unwrap();
    assert!(daemon.all_addresses && daemon.policies && daemon.audiences.is_empty() && daemon.node.as_deref() == Some("n1"));
    let left = daemon.expires.unwrap().duration_since(tokio::time::Instant::now());
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");

    let other = ask(Some(token(&subject("waypoint", None, None)))).await.unwrap();
    assert!(!other.all_addresses && other.audiences.is_empty() && other.node.is_none());
    let other_waypoint = waypoint("other", "other");
    let waypoint = ask(Some(token(&subject("gateway", None, None)))).await.unwrap();
    assert!(waypoint.all_addresses && !waypoint.policies && waypoint.audiences == ["waypoints".into(), "waypoint/istio-system/wp".into(), Arc::from("waypoints/c")]);
    placed.waypoint(&account("other"), Some(&other_waypoint));
    assert!(!waypoint.revoked.is_cancelled(), "another Gateway is none of its business");
    placed.waypoint(&account("wp"), None);
    assert!(waypoint.revoked.is_cancelled() && placed.waypoints("istio-system", "gateway").is_none());
    let machine = ask(Some(token(&subject("machine", None, None)))).await.unwrap();
    assert!(machine.all_addresses && machine.node.is_none(), "a machine sees the mesh, and is no node");
    let minted = |audience: &str, since: SystemTime| case.minter.mint(&subject("ztunnel", None, Some("n1")), audience, Duration::from_secs(60), since).unwrap();
    let foreign = Minter::generate("https://isthmus.local").unwrap().mint(&subject("ztunnel", None, Some("n1")), AUDIENCE, Duration::from_secs(60), now()).unwrap();
    let expired = minted(AUDIENCE, now() - Duration::from_secs(61));
    let other_audience = minted("another", now());
    for refused in [None, Some(String::new()), Some("junk".into()), Some(expired), Some(other_audience), Some(foreign)] {
        assert_eq!(ask(refused).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    }
    // Two credentials are none.
    let mut twice = http::HeaderMap::new();
    for _ in 0..2 {
        twice.append("authorization", format!("Bearer {}", token(&subject("ztunnel", None, Some("n1")))).parse().unwrap());
    }
    assert!(authn.authenticate(&twice, &http::Extensions::new()).await.is_err());
}

#[test]
fn placements_follow_the_pods() {
    let mut placements = placements(&cluster());
    assert_eq!(placements.phases_on("n1", "shop", "a-sa"), [Phase::Running]);
    placements.apply(&events(&pod("shop", "a", "10.0.0.2", "").replace("nodeName: n1", "nodeName: n2")).remove(0));
    assert_eq!(placements.phases_on("n1", "shop", "a-sa"), []);
    assert_eq!(placements.phases_on("n2", "shop", "a-sa"), [Phase::Running]);
    assert!(placements.apply(&Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "a"))));
    assert_eq!(placements.phases_on("n2", "shop", "a-sa"), []);
    assert!(!placements.apply(&Event::Deleted(ObjectKey::new(Kind::Node, "", "n1"))));
    // A pod that nobody reported about is about to start.
    let fresh = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: e}\nspec: {nodeName: n1}\n";
    placements.apply(&events(fresh).remove(0));
    assert_eq!(placements.phases_on("n1", "shop", "default"), [Phase::Pending]);
    assert_eq!(placements.phases_on("", "shop", "d-sa"), [], "no node is no node in common");
}
