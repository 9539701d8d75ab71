//! Kinds that come with a CustomResourceDefinition: watched while it is there, in the newest version that both the API
//! server and we know.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use mesh_runtime::backoff::Backoff;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Told;
use super::follow::{ERRORS_OF_TROUBLE, Ended, follow, pause};
use super::held::News;
use super::sent;
use crate::objects::Kind;

/// A definition is served a moment after it is there.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Pause after an error of the watch of definitions.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

struct Followed {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts and ends the watches of custom kinds as their definitions come and go.
pub(super) async fn custom_kinds(client: Client, told: Told, stop: CancellationToken) {
    let definitions: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &definition_resource());
    let mut events = pin!(watcher(definitions, watcher::Config::default()));
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
    let mut followed: BTreeMap<Kind, Followed> = BTreeMap::new();
    let mut listed: Vec<Kind> = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.cancelled() => return,
        };
        let gone: Vec<Kind> = match event {
            Some(Ok(Event::Init)) => {
                listed.clear();
                continue;
            }
            Some(Ok(Event::InitApply(definition) | Event::Apply(definition))) => {
                if let Some(kind) = kind_of(&definition.name_any()) {
                    listed.push(kind);
                    followed.entry(kind).or_insert_with(|| begin(client.clone(), kind, told.clone(), &stop));
                }
                continue;
            }
            Some(Ok(Event::Delete(definition))) => kind_of(&definition.name_any()).into_iter().collect(),
            Some(Ok(Event::InitDone)) => {
                backoff.reset();
                Kind::ALL.into_iter().filter(|kind| !kind.is_built_in() && !listed.contains(kind)).collect()
            }
            Some(Err(error)) => {
                if backoff.tries() == ERRORS_OF_TROUBLE && !tell_trouble(&told, &error).await {
                    return;
                }
                pause(&mut backoff).await;
                continue;
            }
            None => return,
        };
        for kind in gone {
            if let Some(Followed { stop, task }) = followed.remove(&kind) {
                stop.cancel();
                // Nothing that it was about to tell comes after this.
                let _ = task.await;
            }
            if told.send((kind, News::Absent.into())).await.is_err() {
                return;
            }
        }
    }
}

/// Whether a kind is there cannot be known. `false`: nobody listens.
async fn tell_trouble(told: &Told, error: &watcher::Error) -> bool {
    let what = format!("{error}; this controller's ServiceAccount needs list and watch of customresourcedefinitions.apiextensions.k8s.io");
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_built_in()) {
        if told.send((kind, News::Trouble(what.clone()).into())).await.is_err() {
            return false;
        }
    }
    true
}

fn begin(client: Client, kind: Kind, told: Told, stop: &CancellationToken) -> Followed {
    let stop = stop.child_token();
    let task = tokio::spawn(follow_served(client, kind, told, stop.clone()));
    Followed { stop, task }
}

/// Watches a kind in the version that is served, and again when that changes.
async fn follow_served(client: Client, kind: Kind, told: Told, stop: CancellationToken) {
    let mut backoff = Backoff::new(ASK_AGAIN, ASK_AGAIN_MAX);
    loop {
        let mut why = String::new();
        match served_version(&client, kind).await {
            Ok(Some(version)) => {
                tracing::info!(target: "source", %kind, version, "the API server has this kind; it is watched");
                backoff.reset();
                let resource = sent::resource(kind, version);
                if follow(client.clone(), kind, resource, None, told.clone(), stop.clone()).await == Ended::Stopped {
                    return;
                }
            }
            Ok(None) => why = unserved(kind),
            Err(error) => why = format!("{error}; the versions of {kind} that are served cannot be asked for, and are asked for again"),
        }
        tokio::select! {
            () = pause(&mut backoff) => {}
            _ = stop.cancelled() => return,
        }
        if backoff.tries() == ERRORS_OF_TROUBLE && told.send((kind, News::Trouble(why).into())).await.is_err() {
            return;
        }
    }
}

fn unserved(kind: Kind) -> String {
    let (group, versions) = kind.group_versions();
    let name = format!("{}.{group}", kind.plural());
    format!("{name} is defined and served in none of the versions that are read ({}); have its definition serve one of them, or remove it: until then nothing new is told", versions.join(", "))
}

/// The first of the versions that we know in which the API server has the kind.
async fn served_version(client: &Client, kind: Kind) -> kube::Result<Option<&'static str>> {
    let (group, versions) = kind.group_versions();
    for version in versions {
        match client.list_api_group_resources(&format!("{group}/{version}")).await {
            Ok(list) if list.resources.iter().any(|resource| resource.name == kind.plural()) => return Ok(Some(version)),
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whose definition this is: they are named `plural.group`.
fn kind_of(definition: &str) -> Option<Kind> {
    let (plural, group) = definition.split_once('.')?;
    Kind::ALL.into_iter().find(|kind| kind.plural() == plural && kind.group_versions().0 == group)
}

fn definition_resource() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    }
}
