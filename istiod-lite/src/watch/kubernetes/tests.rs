//! The source against an API server in this process.

use std::time::Duration;

use mesh_runtime::{Watched, watched};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::held::{News, Seen};
use super::*;
use crate::cluster::{Cluster, Event};
use crate::objects::read::{self, Fault};
use crate::objects::{NsName, Object, ObjectKey};
use crate::status::shown::Shown;
use crate::testing::api_server::{ApiServer, Streaming, collection};
use crate::translate::tests::pod;
use crate::watch::Instead;

/// Far above what anything here takes; a wait that reaches it has failed.
const SOON: Duration = Duration::from_secs(30);

/// The source, and a cluster made of what it told.
struct Watching {
    batches: mpsc::Receiver<Batch>,
    cluster: Cluster,
    last: Batch,
    statuses: Watched<Statuses>,
    stop: CancellationToken,
}

fn watching(server: &ApiServer) -> Watching {
    let (sender, batches) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let (publisher, statuses) = watched(Statuses::default());
    tokio::spawn(watch(server.client(), NsName::new("istio-system", "istio"), sender, publisher, stop.clone()));
    Watching { batches, cluster: Cluster::new("default", "istio-system", "cluster.local"), last: Batch::default(), statuses, stop }
}

impl Watching {
    async fn until(&mut self, what: &str, holds: impl Fn(&Cluster, &Batch) -> bool) {
        let wait = async {
            while !holds(&self.cluster, &self.last) {
                let batch = self.batches.recv().await.expect("the source goes on");
                batch.events.iter().cloned().for_each(|event| drop(self.cluster.apply(event)));
                self.last = batch;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn whole(&mut self) {
        self.until("every kind is listed", |_, batch| batch.is_whole).await;
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec: {spec}\n")
}

fn pods(cluster: &Cluster) -> Vec<String> {
    cluster.pods.keys().map(NsName::to_string).collect()
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let server = ApiServer::new();
    server.put_yaml(&pod("shop", "a", "10.1.0.1", "app: a"));
    let mut source = watching(&server);
    source.whole().await;
    assert_eq!(pods(&source.cluster), ["shop/a"]);

    server.put_yaml(&pod("shop", "b", "10.1.0.2", "app: b"));
    source.until("a new pod", |cluster, _| cluster.pods.len() == 2).await;
    server.put_yaml(&pod("shop", "b", "10.1.0.3", "app: b"));
    let has_moved = |cluster: &Cluster| cluster.pods[&NsName::new("shop", "b")].status.as_ref().is_some_and(|status| *status.ips[0] == *"10.1.0.3");
    source.until("it moves", |cluster, _| has_moved(cluster)).await;
    server.delete("/api/v1/pods", "shop", "a");
    source.until("it goes", |cluster, _| pods(cluster) == ["shop/b"]).await;
}

// what was deleted while no watch was open is found by the new list (410 Gone)
#[tokio::test]
async fn a_watch_that_expired_lists_again() {
    for streaming in [Streaming::Works, Streaming::Refused, Streaming::Fails] {
        let server = ApiServer::new();
        server.set_streaming(streaming);
        server.put_yaml(&(pod("shop", "a", "10.1.0.1", "") + &pod("shop", "b", "10.1.0.2", "")));
        let mut source = watching(&server);
        source.whole().await;
        assert_eq!(pods(&source.cluster), ["shop/a", "shop/b"]);
        server.set_down(true);
        server.delete("/api/v1/pods", "shop", "a");
        server.put_yaml(&pod("shop", "c", "10.1.0.3", ""));
        server.expire();
        server.set_down(false);
        source.until("the list is as it is now", |cluster, _| pods(cluster) == ["shop/b", "shop/c"]).await;
        assert!(source.last.is_whole && source.last.findings.troubles.is_empty());
    }
}

#[tokio::test]
async fn a_watch_that_was_cut_goes_on() {
    let server = ApiServer::new();
    let mut source = watching(&server);
    source.whole().await;
    let lists = server.asked("GET", "sendInitialEvents");
    server.cut();
    server.put_yaml(&pod("shop", "a", "10.1.0.1", ""));
    source.until("what came meanwhile", |cluster, _| pods(cluster) == ["shop/a"]).await;
    assert_eq!(server.asked("GET", "sendInitialEvents"), lists, "without a new list");
}

#[tokio::test]
async fn lists_are_read_in_pages_where_they_are_not_streamed() {
    for streaming in [Streaming::Refused, Streaming::Fails] {
        let server = ApiServer::new();
        server.set_streaming(streaming);
        for index in 0..1201 {
            server.put("/api/v1/pods", json!({ "metadata": { "namespace": "shop", "name": format!("p{index}") } }));
        }
        let mut source = watching(&server);
        source.whole().await;
        assert_eq!(source.cluster.pods.len(), 1201);
        assert_eq!(server.asked("GET", "/api/v1/pods?&limit=500"), 3);
        assert!(source.last.findings.troubles.is_empty());
    }
}

// spec/controlplane.md 4.1: CRDs may be absent at start and appear later
#[tokio::test]
async fn a_kind_is_read_when_its_definition_appears_and_not_after_it_went() {
    let server = ApiServer::new();
    let mut source = watching(&server);
    source.whole().await;
    assert!(source.cluster.authorization_policies.is_empty());

    server.define(Kind::AuthorizationPolicy);
    server.put_yaml(&policy("p", "{action: DENY}"));
    source.until("the policy", |cluster, _| cluster.authorization_policies.len() == 1).await;
    server.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "", "authorizationpolicies.security.istio.io");
    source.until("it goes with its definition", |cluster, _| cluster.authorization_policies.is_empty()).await;
    server.define(Kind::AuthorizationPolicy);
    source.until("and comes back with it", |cluster, _| cluster.authorization_policies.len() == 1).await;
}

#[tokio::test]
async fn a_kind_that_is_defined_is_waited_for() {
    let server = ApiServer::new();
    server.define(Kind::PeerAuthentication);
    server.forbid(&collection(Kind::PeerAuthentication));
    server.put_yaml(&pod("shop", "a", "10.1.0.1", ""));
    let mut source = watching(&server);
    let says_why = |batch: &Batch| batch.findings.lines().iter().any(|line| line.starts_with("PeerAuthentication: ") && line.ends_with("needs list and watch of peerauthentications.security.istio.io"));
    source.until("it says what is missing", |_, batch| says_why(batch)).await;
    assert!(!source.last.is_whole && source.cluster.pods.is_empty(), "a policy could be missing, so nothing is told");
    server.allow(&collection(Kind::PeerAuthentication));
    source.whole().await;
    assert_eq!(pods(&source.cluster), ["shop/a"]);
    source.until("the trouble is over", |_, batch| batch.findings.troubles.is_empty()).await;
}

#[tokio::test]
async fn a_kind_that_is_served_in_no_version_that_is_read_is_named() {
    let server = ApiServer::new();
    server.define_in(Kind::PeerAuthentication, "v9");
    let mut source = watching(&server);
    let why = "PeerAuthentication: peerauthentications.security.istio.io is defined and served in none of the versions that are read (v1, v1beta1)";
    source.until("it says why nothing is told", |_, batch| batch.findings.lines().iter().any(|line| line.starts_with(why))).await;
    assert!(!source.last.is_whole);
    server.define_in(Kind::PeerAuthentication, "v1beta1");
    source.until("it is served", |_, batch| batch.is_whole && batch.findings.lines().is_empty()).await;
}

// the rest of the mesh is unaffected, the last good state stays
#[tokio::test]
async fn a_bad_object_is_refused_alone_and_with_the_words_of_a_file() {
    let server = ApiServer::new();
    server.define(Kind::AuthorizationPolicy);
    server.put_yaml(&[policy("good", "{action: DENY}"), policy("bad", "{rule: []}")].join("---\n"));
    let mut source = watching(&server);
    source.whole().await;
    let names = |cluster: &Cluster| cluster.authorization_policies.keys().map(NsName::to_string).collect::<Vec<_>>();
    assert_eq!(names(&source.cluster), ["shop/bad", "shop/good"], "what was never read is closed");
    assert!(source.cluster.authorization_policies[&NsName::new("shop", "bad")].spec.rules.is_empty());
    let lines = source.last.findings.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let from_file = read::document(read::documents(&policy("bad", "\n  rule: []"))[0]).unwrap_err();
    assert_eq!(lines[0], format!("AuthorizationPolicy shop/bad: field spec.rule: {}; {}", from_file.what, Instead::Closed));
    assert_eq!(from_file.field.as_deref(), Some("spec.rule"));

    server.put_yaml(&policy("good", "{rules: [{to: [{operation: {port: []}}]}]}"));
    source.until("the second one is refused", |_, batch| batch.findings.refused.len() == 2).await;
    let good = &source.cluster.authorization_policies[&NsName::new("shop", "good")];
    assert_eq!(good.spec.action.as_deref(), Some("DENY"), "the last good state stays");
    assert!(source.last.findings.refused.iter().any(|refused| refused.instead == Instead::LastGood && refused.field.as_deref() == Some("spec.rules.to.operation.port")), "{:?}", source.last.findings);
    server.put_yaml(&policy("bad", "{rules: []}"));
    source.until("one is settled", |cluster, batch| batch.findings.refused.len() == 1 && names(cluster).len() == 2).await;
    server.delete(&collection(Kind::AuthorizationPolicy), "shop", "good");
    source.until("one is gone", |_, batch| batch.findings.refused.is_empty()).await;
    assert_eq!(names(&source.cluster), ["shop/bad"]);
}

#[tokio::test]
async fn what_objects_show_of_ours_is_told() {
    let server = ApiServer::new();
    server.define(Kind::AuthorizationPolicy);
    let mut shows: serde_json::Value = serde_saphyr::from_str(&policy("p", "{}")).unwrap();
    shows["status"] = json!({ "conditions": [{ "type": "ZtunnelAccepted", "status": "True", "reason": "Accepted", "message": "m", "observedGeneration": 2, "lastTransitionTime": "t" }, { "type": "Foreign" }] });
    server.put(&collection(Kind::AuthorizationPolicy), shows);
    let mut source = watching(&server);
    source.whole().await;
    let told = source.statuses.load();
    let shown = told.get(&ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p")).unwrap();
    assert_eq!((shown.conditions.len(), &*shown.conditions[0].0.message, shown.conditions[0].0.observed_generation), (1, "m", 2));
    server.delete(&collection(Kind::AuthorizationPolicy), "shop", "p");
    source.until("it goes", |cluster, _| cluster.authorization_policies.is_empty()).await;
    assert!(source.statuses.load().is_empty());
}

#[tokio::test]
async fn it_ends_when_told() {
    let server = ApiServer::new();
    let mut source = watching(&server);
    source.whole().await;
    source.stop.cancel();
    let ended = async { while source.batches.recv().await.is_some() {} };
    tokio::time::timeout(SOON, ended).await.unwrap();
}

#[test]
fn what_is_held_follows_the_news() {
    let name = |text: &str| NsName::new("shop", text);
    let seen = |text: &str, read| News::Object(Box::new(Seen { name: name(text), generation: 1, read, revision: None, shown: Shown::default() }));
    let object = |text: &str| {
        let yaml = pod("shop", text, "10.1.0.1", "");
        let read = read::document(read::documents(&yaml)[0]).unwrap();
        seen(text, Ok(read.objects[0].object.clone()))
    };
    let bad = |text: &str| seen(text, Err((Fault { line: 1, field: None, what: "bad".into() }, None)));
    let closed = |text: &str| match object(text) {
        News::Object(seen) => News::Object(Box::new(Seen { read: seen.read.map_or_else(Err, |object| Err((Fault { line: 1, field: None, what: "bad".into() }, Some(object)))), ..*seen })),
        other => other,
    };
    let gone = |text: &str| format!("- Pod shop/{text}");
    let come = |text: &str| format!("+ Pod shop/{text}");
    // news, what follows, whether every kind was listed, how many are refused
    let table = [
        (News::Begin, vec![], false, 0),
        (object("a"), vec![come("a")], false, 0),
        (bad("b"), vec![], false, 1),
        (News::Listed, vec![], true, 1),
        (object("b"), vec![come("b")], true, 0),
        (bad("a"), vec![], true, 1),
        (News::Gone(name("unknown")), vec![], true, 1),
        (News::Begin, vec![], true, 1),
        (object("b"), vec![come("b")], true, 1),
        (News::Listed, vec![gone("a")], true, 0),
        (News::Gone(name("b")), vec![gone("b")], true, 0),
        (object("c"), vec![come("c")], true, 0),
        (closed("c"), vec![], true, 1),
        (closed("d"), vec![come("d")], true, 2),
        (closed("d"), vec![come("d")], true, 2),
        (bad("d"), vec![], true, 2),
        (News::Gone(name("d")), vec![gone("d")], true, 1),
        (News::Absent, vec![gone("c")], true, 0),
    ];
    let mut held = Held::new(&[Kind::Pod]);
    for (index, (news, follows, is_whole, refused)) in table.into_iter().enumerate() {
        let mut events = Vec::new();
        held.take(Kind::Pod, news, &mut events);
        let shown = |event: &Event| match event {
            Event::Applied(object) => format!("+ {}", Object::key(object)),
            Event::Deleted(key) => format!("- {}", ObjectKey::to_string(key)),
        };
        assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), follows, "row {index}");
        assert_eq!((held.is_whole(), held.findings().refused.len()), (is_whole, refused), "row {index}");
        assert!(Arc::ptr_eq(&held.findings(), &held.findings()));
    }
}

// The configuration of the mesh is one ConfigMap; of all others nothing is asked for.
#[tokio::test]
async fn one_config_map_is_watched() {
    let server = ApiServer::new();
    let map = |namespace: &str, name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: {namespace}, name: {name}}}\ndata: {{mesh: \"discoverySelectors: [{{matchLabels: {{a: b}}}}]\"}}\n---\n");
    server.put_yaml(&[map("istio-system", "istio"), map("istio-system", "other"), map("shop", "istio")].concat());
    let mut watching = watching(&server);
    watching.whole().await;
    let names: Vec<String> = watching.cluster.config_maps.keys().map(NsName::to_string).collect();
    assert_eq!(names, ["istio-system/istio"]);
    assert_eq!(watching.cluster.mesh_config().discovery_selectors.len(), 1);
    server.delete("/api/v1/configmaps", "istio-system", "istio");
    watching.until("its end is seen", |cluster, _| cluster.mesh_config().discovery_selectors.is_empty()).await;
}
