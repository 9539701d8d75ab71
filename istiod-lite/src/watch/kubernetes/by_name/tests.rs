//! Against an API server in this process. Time is paused: looks come when nothing else is to be done.

use serde_json::json;

use super::*;
use crate::testing::api_server::ApiServer;

const SECRETS: &str = "/api/v1/secrets";

struct Reading {
    server: ApiServer,
    wanted: watch::Sender<Wanted>,
    told: mpsc::Receiver<Vec<Event>>,
    _stop: tokio_util::sync::DropGuard,
}

fn reading() -> Reading {
    let server = ApiServer::new();
    let (wanted, asked) = watch::channel(Wanted::new());
    let (sender, told) = mpsc::channel(1);
    let stop = CancellationToken::new();
    tokio::spawn(read_by_name(server.client(), asked, sender, stop.clone()));
    Reading { server, wanted, told, _stop: stop.drop_guard() }
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "shop", name)
}

impl Reading {
    fn want(&self, keys: &[ObjectKey]) {
        self.wanted.send_replace(keys.iter().cloned().collect());
    }

    /// What is told next, as words.
    async fn next(&mut self) -> Vec<String> {
        let events = self.told.recv().await.expect("the reader goes on");
        let word = |event: Event| match event {
            Event::Deleted(key) => format!("-{key}"),
            Event::Applied(Object::ConfigMap(map)) => format!("{} {:?}", map.meta.ns_name(), map.authorities),
            Event::Applied(Object::Secret(secret)) => {
                let entries = secret.entries.as_ref().map(|entries| entries.key.is_some());
                format!("{} {entries:?}", secret.meta.ns_name())
            }
            Event::Applied(other) => panic!("{other:?}"),
        };
        let mut words: Vec<String> = events.into_iter().map(word).collect();
        words.sort();
        words
    }

    fn secret(&self, key: &str) {
        // "a2V5" is "key" in base64.
        self.server.put(SECRETS, json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "shop", "name": "s", "annotations": { "v.istio.io/n": key } }, "data": { "tls.key": "a2V5" } }));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_named_is_read_again_and_again_and_nothing_else() {
    let mut reading = reading();
    reading.server.put("/api/v1/configmaps", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "shop", "name": "ca" }, "data": { "ca.crt": "PEM" } }));
    reading.secret("1");
    reading.want(&[key(Kind::ConfigMap, "ca"), key(Kind::Secret, "missing"), key(Kind::Secret, "s")]);
    assert_eq!(reading.next().await, ["-Secret shop/missing", "shop/ca Ok(Some(\"PEM\"))", "shop/s Ok(true)"], "each is told of once, be it there or not");
    reading.secret("2");
    assert_eq!(reading.next().await, ["shop/s Ok(true)"], "only what has changed");
    reading.server.delete(SECRETS, "shop", "s");
    assert_eq!(reading.next().await, ["-Secret shop/s"]);
    // What nobody names leaves the memory, and is not asked for any more.
    reading.want(&[key(Kind::Secret, "missing")]);
    assert_eq!(reading.next().await, ["-ConfigMap shop/ca", "-Secret shop/s"]);
    let asked = reading.server.asked("GET", "/api/v1/namespaces/shop/configmaps/ca");
    tokio::time::sleep(3 * EVERY).await;
    assert_eq!(reading.server.asked("GET", "/api/v1/namespaces/shop/configmaps/ca"), asked);
    assert_eq!(reading.server.asked("GET", "/secrets?"), 0, "nothing is listed");
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_said_and_an_outage_takes_nothing_away() {
    let mut reading = reading();
    let path = "/api/v1/namespaces/shop/secrets/s";
    reading.server.forbid(path);
    reading.secret("1");
    reading.want(&[key(Kind::Secret, "s")]);
    let said = reading.next().await;
    assert!(said[0].contains("istiod.secretNamespaces"), "{said:?}");
    reading.server.allow(path);
    assert_eq!(reading.next().await, ["shop/s Ok(true)"]);
    reading.server.set_down(true);
    tokio::time::sleep(5 * EVERY).await;
    assert!(reading.told.try_recv().is_err(), "what is known stays");
    // Another one that is never answered about counts as unreadable, so that nobody waits for it.
    reading.want(&[key(Kind::Secret, "s"), key(Kind::Secret, "t")]);
    let said = reading.next().await;
    assert!(said.len() == 1 && said[0].starts_with("shop/t Err("), "{said:?}");
    reading.server.set_down(false);
    reading.server.forbid(path);
    assert_eq!(reading.next().await.len(), 2, "a right that is taken back is, and the other is not there");
}
