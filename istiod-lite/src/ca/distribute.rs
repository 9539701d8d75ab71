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
use tokio::time::Instant;

#[cfg(test)]
mod tests;

pub const CONFIG_MAP: &str = "istio-ca-root-cert";
pub const KEY: &str = "root-cert.pem";
/// Who owns the key, in the API server's books.
const FIELD_MANAGER: &str = "istiod-lite-roots";
/// Nobody mounts anything in these.
const LEFT_OUT: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
/// Maps that are written at a time: a thousand namespaces are done in seconds without a storm.
const WRITES_AT_A_TIME: usize = 8;
/// After a write that failed the map is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A map that somebody else overwrites is written again at once, and then later each time, until this: another controller
/// with other roots would go on for ever, and so would we.
const REPAIR_MAX: Duration = Duration::from_secs(300);
/// Writes of one bundle into one map that say that somebody else goes on.
const WRITES_OF_A_FIGHT: u32 = 4;

/// Which namespaces there are, and what their maps hold.
#[derive(Debug, Default)]
struct Spread {
    /// What was written last into maps, how often and when: of this bundle.
    bundle: String,
    wrote: BTreeMap<String, (u32, Instant)>,
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

    /// Namespaces whose map is not as it should be and is to be written now; and when to look again for others.
    fn due(&self, bundle: &str, now: Instant) -> (Vec<String>, Option<Instant>) {
        let is_wrong = |name: &&String| !LEFT_OUT.contains(&name.as_str()) && self.maps.get(*name).and_then(Option::as_deref) != Some(bundle);
        let from = |name: &String| match self.wrote.get(name) {
            Some((times, at)) if self.bundle == bundle => *at + pause(*times),
            _ => now,
        };
        let wrong: Vec<(String, Instant)> = self.namespaces.iter().filter(is_wrong).map(|name| (name.clone(), from(name))).collect();
        let later = wrong.iter().map(|(_, from)| *from).filter(|from| *from > now).min();
        (wrong.into_iter().filter(|(_, from)| *from <= now).map(|(name, _)| name).collect(), later)
    }

    /// What was written is what is there, until the watch tells.
    fn wrote(&mut self, bundle: &str, namespace: String, now: Instant) {
        if self.bundle != bundle {
            self.bundle = bundle.to_owned();
            self.wrote.clear();
        }
        self.wrote.retain(|name, _| self.namespaces.contains(name));
        let (times, at) = self.wrote.entry(namespace.clone()).or_insert((0, now));
        // What was left alone for long has no part in what happens now.
        *times = if now.duration_since(*at) > 2 * REPAIR_MAX { 1 } else { *times + 1 };
        *at = now;
        if *times == WRITES_OF_A_FIGHT {
            tracing::warn!(target: "ca", %namespace, "somebody else writes other root certificates into ConfigMap {CONFIG_MAP}: is there another controller with another authority? Give both the same one, or let one of them end; it is written again, more and more rarely");
        }
        self.maps.insert(namespace, Some(bundle.to_owned()));
    }
}

/// How long a map is left alone that was written so many times: not at all, not at all, 1 s, 2 s, 4 s.
fn pause(times: u32) -> Duration {
    match times.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => Duration::from_secs(1u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(REPAIR_MAX),
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
    let mut look_again: Option<Instant> = None;
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
            _ = tokio::time::sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
        }
        // While something is being listed again, the end of the list is when to look.
        look_again = None;
        if is_listed == [true, true] {
            let text = bundle.borrow().clone();
            let (due, later) = spread.due(&text, Instant::now());
            let writes = due.into_iter().map(|namespace| write(client.clone(), namespace, &text));
            let written: Vec<(String, bool)> = stream::iter(writes).buffer_unordered(WRITES_AT_A_TIME).collect().await;
            let failed = written.iter().any(|(_, is_done)| !is_done).then(|| Instant::now() + TRY_AGAIN);
            look_again = later.into_iter().chain(failed).min();
            let done = written.into_iter().filter(|(_, is_done)| *is_done);
            done.for_each(|(namespace, _)| spread.wrote(&text, namespace, Instant::now()));
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
