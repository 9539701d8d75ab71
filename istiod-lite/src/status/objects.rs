//! Writes statuses into objects of an API server: server-side apply of what is ours, only where it differs, several at a
//! time. What says no is an event on the object, too, written with the status and therefore once. The leader's work.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use mesh_runtime::Watched;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::due::{Due, Written, due};
use super::plan::{Condition, Page};
use super::shown::{Beside, Statuses, beside};
use crate::objects::gateway::CONTROLLER;
use crate::watch::kubernetes::sent::resource;

#[cfg(test)]
mod tests;

/// Who owns what we write, in the API server's books. What another revision says of an object that is everybody's is not
/// ours to take back.
pub fn field_manager(revision: &str) -> String {
    if revision == "default" { "istiod-lite-status".to_owned() } else { format!("istiod-lite-status-{revision}") }
}

/// Writes on their way: a thousand statuses after a change for all take seconds, and leave the API server to others.
const WRITES_AT_A_TIME: usize = 8;
/// A status that could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The API server takes a kilobyte.
const NOTE_BYTES_MAX: usize = 1000;

/// Runs until it is dropped. `me`: this replica, for those who read events.
pub async fn write(client: Client, me: &str, manager: &str, mut pages: watch::Receiver<Arc<Page>>, mut statuses: Watched<Statuses>) {
    let mut written = Written::default();
    let reporter = Reporter { controller: "istiod-lite".into(), instance: Some(me.to_owned()) };
    let events = Recorder::new(client.clone(), reporter);
    loop {
        let page = pages.borrow_and_update().clone();
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let due = due(&page, &statuses.see(), &mut written, &now);
        let applying = due.into_iter().map(|due| apply(client.clone(), &events, manager, due));
        let done: Vec<Option<Due>> = stream::iter(applying).buffer_unordered(WRITES_AT_A_TIME).collect().await;
        let has_failed = done.iter().any(Option::is_none);
        done.into_iter().flatten().for_each(|done| written.note(done));
        tokio::select! {
            changed = pages.changed() => if changed.is_err() { return },
            _ = statuses.changed() => {}
            _ = tokio::time::sleep(TRY_AGAIN), if has_failed => {}
        }
    }
}

/// `None`: to be tried again.
async fn apply(client: Client, events: &Recorder, manager: &str, due: Due) -> Option<Due> {
    // In the newest version that is served. Which one that is may change, and most API servers have the first.
    for version in due.key.kind.group_versions().1 {
        let resource = resource(due.key.kind, version);
        match apply_in(&client, &resource, manager, &due).await {
            Ok(object) => {
                for condition in due.complaints() {
                    complain(events, condition, &object.object_ref(&resource)).await;
                }
                return Some(due);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::warn!(target: "status", object = %due.key, %error, "the status cannot be written; it is tried again");
                return None;
            }
        }
    }
    // The object is gone: there is nobody to tell.
    Some(due)
}

async fn apply_in(client: &Client, resource: &ApiResource, manager: &str, due: &Due) -> kube::Result<DynamicObject> {
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &due.key.name.namespace, resource);
    if let Some(beside) = beside(due.key.kind) {
        return apply_beside(&objects, due, beside).await;
    }
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": &*due.key.name.name },
        "status": due.status,
    });
    objects.patch_status(&due.key.name.name, &PatchParams::apply(manager).force(), &Patch::Apply(patch)).await
}

/// The list has one owner for all of it, and is everybody's: what others say is read and written again, against the version
/// that was read.
async fn apply_beside(objects: &Api<DynamicObject>, due: &Due, Beside { list, .. }: Beside) -> kube::Result<DynamicObject> {
    let name = &due.key.name.name;
    let object = objects.get(name).await?;
    let items = |status: &Value| status.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let said = object.data.get("status").map(items).unwrap_or_default();
    let others = said.into_iter().filter(|item| item.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER));
    let all: Vec<Value> = others.chain(items(&due.status)).collect();
    let patch = json!({ "metadata": { "resourceVersion": object.metadata.resource_version }, "status": { list: all } });
    objects.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// An event that is lost is no loss: the status says the same.
async fn complain(events: &Recorder, condition: &Condition, about: &ObjectReference) {
    let end = condition.message.floor_char_boundary(NOTE_BYTES_MAX);
    let event = Event {
        type_: EventType::Warning,
        reason: condition.reason.clone(),
        note: Some(condition.message[..end].to_owned()),
        action: "Read".into(),
        secondary: None,
    };
    if let Err(error) = events.publish(&event, about).await {
        tracing::debug!(target: "status", object = ?about.name, %error, "no event");
    }
}
