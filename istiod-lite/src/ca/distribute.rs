//! The root certificates in every namespace, ConfigMap `istio-ca-root-cert`, where clients look for them
//! (spec/controlplane.md 3.6). The leader's work: namespaces and maps are watched, and what differs is applied. Only our
//! key of a map is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;

#[cfg(test)]
mod tests;

pub const CONFIG_MAP: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Who owns the key, in the API server's books.
const FIELD_MANAGER: &str = "istiod-lite-roots";
/// Nobody mounts anything in these.
const LEFT_OUT: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
/// Maps that are written at a time: a thousand namespaces are done in seconds without a storm.
const WRITES_AT_A_TIME: usize = 8;
/// After a write that failed the map is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Which namespaces there are, and what their maps hold.
#[derive(Debug, Default)]
struct Spread {
    /// Those that are not being deleted: nothing can be created in the others.
    namespaces: BTreeSet<String>,
    maps: BTreeMap<String, Option<String>>,
}

impl Spread {
    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::Init => self.namespaces.clear(),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default();
                match namespace.metadata.deletion_timestamp {
                    None => drop(self.namespaces.insert(name)),
                    Some(_) => drop(self.namespaces.remove(&name)),
                }
            }
            Event::Delete(namespace) => drop(self.namespaces.remove(&namespace.metadata.name.unwrap_or_default())),
            Event::InitDone => {}
        }
    }

    fn map(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.maps.clear(),
            Event::InitApply(map) | Event::Apply(map) => {
                let text = map.data.and_then(|mut data| data.remove(KEY));
                self.maps.insert(map.metadata.namespace.unwrap_or_default(), text);
            }
            Event::Delete(map) => drop(self.maps.remove(&map.metadata.namespace.unwrap_or_default())),
            Event::InitDone => {}
        }
    }

    /// Namespaces whose map is not as it should be.
    fn due(&self, bundle: &str) -> Vec<String> {
        let is_due = |name: &&String| !LEFT_OUT.contains(&name.as_str()) && self.maps.get(*name).and_then(Option::as_deref) != Some(bundle);
        self.namespaces.iter().filter(is_due).cloned().collect()
    }
}

/// Keeps every namespace's map as the bundle is. Runs until it is dropped.
pub async fn distribute(client: Client, mut bundle: watch::Receiver<String>) {
    let only_ours = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut namespaces = pin!(watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default()).default_backoff());
    let mut maps = pin!(watcher(Api::<ConfigMap>::all(client.clone()), only_ours).default_backoff());
    let mut spread = Spread::default();
    // While one of the two is being listed, a map that was not told yet would look as if it were missing.
    let mut is_listed = [false; 2];
    let mut try_again = false;
    loop {
        tokio::select! {
            Some(event) = namespaces.next() => match event {
                Ok(event) => {
                    listed(&mut is_listed[0], &event);
                    spread.namespace(event);
                }
                Err(error) => tracing::debug!(target: "ca", %error, "namespaces cannot be watched at present"),
            },
            Some(event) = maps.next() => match event {
                Ok(event) => {
                    listed(&mut is_listed[1], &event);
                    spread.map(event);
                }
                Err(error) => tracing::debug!(target: "ca", %error, "config maps cannot be watched at present"),
            },
            Ok(()) = bundle.changed() => {}
            _ = tokio::time::sleep(TRY_AGAIN), if try_again => {}
        }
        if is_listed == [true, true] {
            let text = bundle.borrow().clone();
            let writes = spread.due(&text).into_iter().map(|namespace| write(client.clone(), namespace, &text));
            let written: Vec<(String, bool)> = stream::iter(writes).buffer_unordered(WRITES_AT_A_TIME).collect().await;
            try_again = written.iter().any(|(_, is_done)| !is_done);
            // Until the watch tells, what was written is what is there.
            spread.maps.extend(written.into_iter().filter(|(_, is_done)| *is_done).map(|(namespace, _)| (namespace, Some(text.clone()))));
        }
    }
}

fn listed<K>(is_listed: &mut bool, event: &Event<K>) {
    match event {
        Event::Init => *is_listed = false,
        Event::InitDone => *is_listed = true,
        _ => {}
    }
}

/// `false`: to be tried again.
async fn write(client: Client, namespace: String, bundle: &str) -> (String, bool) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": CONFIG_MAP, "labels": { "istio.io/config": "true" } },
        "data": { KEY: bundle },
    });
    match maps.patch(CONFIG_MAP, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(map)).await {
        Ok(_) => (namespace, true),
        // The namespace is going or gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => (namespace, true),
        Err(error) => {
            tracing::warn!(target: "ca", %namespace, %error, "the root certificates cannot be written into ConfigMap {CONFIG_MAP}; clients of this namespace cannot verify the controller");
            (namespace, false)
        }
    }
}
