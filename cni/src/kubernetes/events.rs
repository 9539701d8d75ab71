//! Events on a pod that say why it is not in the mesh as it should be (`kubectl describe pod`): one when something new is
//! wrong and lasts, one when nothing is any more.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::annotation::Said;
use super::decide::Facts;
use crate::life::ENROLLING;
use crate::status::State;

/// What is over sooner is nobody's trouble.
const LASTS: Duration = Duration::from_secs(3);
/// Between two events about one pod: what comes and goes does not fill the API server.
const BETWEEN: Duration = Duration::from_secs(15);
/// The API server takes no more.
const NOTE_BYTES_MAX: usize = 1024;
const CONTROLLER: &str = "isthmus.io/mesh-cni";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Trouble(String),
    Over,
}

/// Tells of one pod for as long as something is said of it.
pub async fn tell(client: Client, pod: Facts, node: String, mut said: watch::Receiver<Option<Said>>) {
    let mut told = None;
    loop {
        let now = said.borrow_and_update().clone();
        let due = now.as_ref().and_then(|now| due(now, told.as_deref()));
        let Some(due) = due else {
            match said.changed().await {
                Ok(()) => continue,
                Err(_) => return, // the pod is no more
            }
        };
        if let Due::Trouble(_) = due
            && timeout(LASTS, said.changed()).await.is_ok_and(|changed| changed.is_ok())
        {
            continue;
        }
        publish(&client, &pod, &node, &due).await;
        told = match due {
            Due::Trouble(what) => Some(what),
            Due::Over => None,
        };
        sleep(BETWEEN).await;
    }
}

/// `told`: the trouble that was told of last.
fn due(now: &Said, told: Option<&str>) -> Option<Due> {
    let trouble = Some(now.reason.as_str()).filter(|reason| !reason.is_empty() && *reason != ENROLLING);
    match (now.state, trouble) {
        (State::Pending | State::Enabled | State::Refused, Some(reason)) => {
            (told != Some(reason)).then(|| Due::Trouble(reason.to_owned()))
        }
        (State::Enabled, None) => told.map(|_| Due::Over),
        (State::Pending | State::Refused | State::Releasing | State::Released, _) => None,
    }
}

async fn publish(client: &Client, pod: &Facts, node: &str, due: &Due) {
    let (type_, reason, note) = match due {
        Due::Trouble(what) => (EventType::Warning, "MeshTrouble", what.as_str()),
        Due::Over => (EventType::Normal, "InMesh", "captured, and served by the node daemon"),
    };
    let note = &note[..note.floor_char_boundary(NOTE_BYTES_MAX)];
    let event = Event { type_, reason: reason.to_owned(), note: Some(note.to_owned()), action: "Enrol".to_owned(), secondary: None };
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    };
    // A recorder of its own for each: a longer-lived one would count a new text as one more of the old.
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.to_owned()) };
    if let Err(error) = Recorder::new(client.clone(), reporter).publish(&event, &about).await {
        tracing::debug!(%error, uid = pod.uid, note, "cannot write an event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_an_event() {
        use State::{Enabled, Pending, Refused, Released, Releasing};
        let trouble = |what: &str| Some(Due::Trouble(what.to_owned()));
        for (state, reason, told, expected) in [
            (Pending, ENROLLING, None, None),
            (Pending, "no daemon", None, trouble("no daemon")),
            (Pending, "no daemon", Some("no daemon"), None),
            (Pending, "refused", Some("no daemon"), trouble("refused")),
            (Enabled, "", None, None), // the usual
            (Enabled, "", Some("no daemon"), Some(Due::Over)),
            (Enabled, "annotation x", None, trouble("annotation x")),
            (Refused, "annotation x", None, trouble("annotation x")),
            (Releasing, "leaving", None, None),
            (Released, "", Some("no daemon"), None),
        ] {
            let now = Said { state, reason: reason.to_owned() };
            assert_eq!(due(&now, told), expected, "{state:?} {reason:?} {told:?}");
        }
    }
}
