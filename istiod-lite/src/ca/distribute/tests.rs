//! Root certificates in every namespace, and nothing else touched.

use serde_json::Value;

use super::*;
use crate::testing::api_server::ApiServer;

const MAPS: &str = "/api/v1/configmaps";
const NAMESPACES: &str = "/api/v1/namespaces";

fn has(server: &ApiServer, namespace: &str, bundle: &str) -> bool {
    server.object(MAPS, namespace, CONFIG_MAP).is_some_and(|map| map["data"][KEY] == bundle)
}

fn namespace(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

#[tokio::test]
async fn every_namespace_holds_the_roots() {
    let server = ApiServer::new();
    for name in ["shop", "kube-system", "kube-public", "kube-node-lease"] {
        server.put(NAMESPACES, namespace(name));
    }
    server.put(MAPS, json!({ "metadata": { "namespace": "shop", "name": CONFIG_MAP }, "data": { "mine": "stays", KEY: "old" } }));
    let (bundles, bundle) = watch::channel("roots".to_owned());
    tokio::spawn(distribute(server.client(), bundle));

    server.until("both are written", |server| has(server, "shop", "roots") && has(server, "kube-system", "roots")).await;
    let map = server.object(MAPS, "shop", CONFIG_MAP).unwrap();
    assert_eq!((&map["data"]["mine"], &map["metadata"]["labels"]["istio.io/config"]), (&"stays".into(), &"true".into()));

    server.put(NAMESPACES, namespace("late"));
    server.until("a new namespace", |server| has(server, "late", "roots")).await;
    server.delete(MAPS, "shop", CONFIG_MAP);
    server.until("one that somebody deleted", |server| has(server, "shop", "roots")).await;
    bundles.send_replace("roots and more".into());
    server.until("new roots", |server| ["shop", "late", "kube-system"].iter().all(|name| has(server, name, "roots and more"))).await;
    assert!(["kube-public", "kube-node-lease"].iter().all(|name| server.object(MAPS, name, CONFIG_MAP).is_none()));

    let writes = server.asked("PATCH", CONFIG_MAP);
    server.put(NAMESPACES, json!({ "metadata": { "name": "shop", "labels": { "a": "b" } } }));
    server.put(NAMESPACES, namespace("last"));
    server.until("the last one", |server| has(server, "last", "roots and more")).await;
    assert_eq!(server.asked("PATCH", CONFIG_MAP), writes + 1, "what is right is not written again");
}

#[test]
fn what_is_due() {
    let event = |name: &str, deleting: bool| {
        let mut value = namespace(name);
        if deleting {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Event::Apply(serde_json::from_value(value).unwrap())
    };
    let map = |text: Option<&str>| -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "namespace": "shop", "name": CONFIG_MAP }, "data": text.map(|text| json!({ KEY: text })) })).unwrap()
    };
    let mut spread = Spread::default();
    let now = Instant::now();
    spread.namespace(event("shop", false));
    assert_eq!(spread.due("r", now), (vec!["shop".to_owned()], None));
    for (held, due) in [(Some("r"), 0), (Some("old"), 1), (None, 1)] {
        spread.map(Event::Apply(map(held)));
        assert_eq!(spread.due("r", now).0.len(), due, "{held:?}");
    }
    spread.namespace(event("shop", true));
    assert!(spread.due("r", now).0.is_empty(), "nothing can be written into a namespace that goes");
}

// two controllers with different authorities
#[test]
fn a_map_that_somebody_else_overwrites_is_written_ever_more_rarely() {
    let mut spread = Spread::default();
    spread.namespace(Event::Apply(serde_json::from_value(namespace("shop")).unwrap()));
    let begin = Instant::now();
    let (mut now, mut writes) = (begin, 0);
    // An hour, in which the other one answers at once.
    while now < begin + Duration::from_secs(3600) {
        let (due, later) = spread.due("ours", now);
        for name in due {
            spread.wrote("ours", name, now);
            writes += 1;
            assert!(spread.due("ours", now).0.is_empty(), "what was written is there");
            spread.maps.insert("shop".into(), Some("theirs".into()));
        }
        assert!(writes < 100, "without pause");
        now = later.unwrap_or(now);
    }
    assert!((10..30).contains(&writes), "{writes}");
    // new roots do not wait
    assert_eq!(spread.due("ours and more", now).0, ["shop"]);
    spread.wrote("ours and more", "shop".into(), now);
    assert_eq!(spread.wrote["shop"].0, 1);
}
