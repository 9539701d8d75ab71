//! The annotation by which everybody learns that a pod takes tunnels (spec/dataplane.md 4.5). One task per pod writes
//! what was said last, and tries again until the API server took it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use kube::api::{Patch, PatchParams};
use mesh_runtime::Backoff;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::decide::Facts;
use super::events;
use crate::status::State;

pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// The first and the longest wait before the API server is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// `pending` is written when it lasts: most pods are enrolled sooner, and each write goes to every watcher of pods.
const PENDING_AFTER: Duration = Duration::from_secs(1);

/// One pod's annotation. Cheap to clone.
#[derive(Clone)]
pub struct Annotation(Arc<Inner>);

/// What its life says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub state: State,
    pub reason: String,
}

struct Inner {
    said: watch::Sender<Option<Said>>,
    /// What the API server has: as it was seen first, then as it was written.
    written: watch::Receiver<Option<Value>>,
}

type Value = &'static str;

impl Annotation {
    /// `node`: who tells of it.
    pub fn of(client: &Client, pod: &Facts, node: &str) -> Annotation {
        let (said, telling) = watch::channel(None);
        let now = pod.annotations.get(REDIRECTION).map(String::as_str);
        let (wrote, written) = watch::channel(now.and_then(known));
        let api = Api::namespaced(client.clone(), &pod.namespace);
        tokio::spawn(write(api, pod.name.clone(), pod.uid.clone(), telling.clone(), wrote));
        tokio::spawn(events::tell(client.clone(), pod.clone(), node.to_owned(), telling));
        Annotation(Arc::new(Inner { said, written }))
    }

    pub fn say(&self, state: State, reason: &str) {
        let now = Said { state, reason: reason.to_owned() };
        self.0.said.send_if_modified(|said| said.as_ref() != Some(&now) && {
            *said = Some(now);
            true
        });
    }

    /// What was said last.
    pub fn state(&self) -> Option<State> {
        self.0.said.borrow().as_ref().map(|said| said.state)
    }

    /// Changes with what is said.
    pub fn said(&self) -> watch::Receiver<Option<Said>> {
        self.0.said.subscribe()
    }

    /// Until the API server has what was said last, or the pod is no more.
    pub async fn written(&self) {
        let wanted = self.state().map(value);
        let mut written = self.0.written.clone();
        let _ = written.wait_for(|now| wanted.is_none_or(|wanted| wanted == *now)).await; // an error: the pod is no more
    }
}

/// What a state is called in the annotation; `None`: it has none.
fn value(state: State) -> Option<Value> {
    match state {
        State::Enabled => Some("enabled"),
        State::Pending => Some("pending"),
        State::Releasing | State::Released | State::Refused => None,
    }
}

/// A value that is not ours counts as absent: it is overwritten, or removed.
fn known(text: &str) -> Option<Value> {
    ["enabled", "pending"].into_iter().find(|known| *known == text)
}

async fn write(
    api: Api<v1::Pod>,
    name: String,
    uid: String,
    mut said: watch::Receiver<Option<Said>>,
    written: watch::Sender<Option<Value>>,
) {
    let mut retry = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let wanted = said.borrow_and_update().as_ref().map(|said| value(said.state));
        let due = wanted.filter(|wanted| *wanted != *written.borrow());
        let Some(wanted) = due else {
            if said.changed().await.is_err() {
                return;
            }
            continue;
        };
        if wanted == Some("pending") && timeout(PENDING_AFTER, said.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            continue;
        }
        // The uid is a condition: a newer pod may have the name.
        let patch = json!({"metadata": {"uid": uid, "annotations": {REDIRECTION: wanted}}});
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                retry.reset();
                written.send_replace(wanted);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => return, // no such pod any more
            Err(error) => {
                tracing::warn!(pod = name, uid, %error, "cannot write a pod's annotation {REDIRECTION}, trying again; may the agent patch pods/status?");
                let wait = retry.next(&mut rand::rng());
                if timeout(wait, said.changed()).await.is_ok_and(|changed| changed.is_err()) {
                    return; // the pod has ended
                }
            }
        }
    }
}

impl fmt::Debug for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Annotation").field(&self.state()).finish()
    }
}
