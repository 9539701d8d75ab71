//! ConfigMaps and Secrets that policies name, read one by one with `get`: whoever grants it grants just that, and nobody has
//! to let the controller list all Secrets of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sent::{self, Sent};
use crate::cluster::Event;
use crate::objects::{ConfigMap, Kind, Object, ObjectKey, Secret, read};

/// A certificate that is renewed is in force so long after at most: long before the one it replaces ends.
const EVERY: Duration = Duration::from_secs(10);
/// An API server that does not answer must not hold up the others' answers, nor our start.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Questions on their way: a hundred names take a second, and leave the API server to others.
const AT_A_TIME: usize = 8;

/// What is to be read. The configuration of the mesh is watched, and not among it.
pub type Wanted = BTreeSet<ObjectKey>;

/// What the API server answers to a name.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Is(Object),
    /// It is not there.
    None,
    /// No answer about the object; what is known of it stays.
    Lost(String),
}

/// Reads until told to stop, or nobody listens. Each object that is wanted is told of once at least, be it there or not.
pub async fn read_by_name(client: Client, mut wanted: watch::Receiver<Wanted>, told: mpsc::Sender<Vec<Event>>, stop: CancellationToken) {
    let mut known: BTreeMap<ObjectKey, Answer> = BTreeMap::new();
    let mut all_due = Instant::now();
    loop {
        let now = wanted.borrow_and_update().clone();
        let are_all_due = Instant::now() >= all_due;
        if are_all_due {
            all_due = Instant::now() + EVERY;
        }
        let mut events = forget(&mut known, &now);
        let asked: Vec<ObjectKey> = now.iter().filter(|key| are_all_due || !known.contains_key(*key)).cloned().collect();
        let answers = asked.into_iter().map(|key| ask(client.clone(), key));
        let mut answers = stream::iter(answers).buffer_unordered(AT_A_TIME);
        while let Some((key, answer)) = answers.next().await {
            events.extend(take(&mut known, key, answer));
        }
        if !events.is_empty() && told.send(events).await.is_err() {
            return;
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(all_due), if !now.is_empty() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Nobody names them any more: they leave the memory.
fn forget(known: &mut BTreeMap<ObjectKey, Answer>, wanted: &Wanted) -> Vec<Event> {
    let gone: Vec<ObjectKey> = known.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
    gone.into_iter().map(|key| {
        known.remove(&key);
        Event::Deleted(key)
    }).collect()
}

/// What an answer changes.
fn take(known: &mut BTreeMap<ObjectKey, Answer>, key: ObjectKey, answer: Answer) -> Option<Event> {
    let before = known.get(&key);
    let is_news = match (&answer, before) {
        (_, None) => true,
        // An API server that restarts takes no certificate from anybody.
        (Answer::Lost(_), Some(_)) => false,
        (_, Some(before)) => *before != answer,
    };
    if !is_news {
        return None;
    }
    let event = match &answer {
        Answer::Is(object) => Event::Applied(object.clone()),
        Answer::None => Event::Deleted(key.clone()),
        Answer::Lost(why) => Event::Applied(unreadable(&key, why)),
    };
    known.insert(key, answer);
    Some(event)
}

async fn ask(client: Client, key: ObjectKey) -> (ObjectKey, Answer) {
    let api: Api<Sent> = Api::namespaced_with(client, &key.name.namespace, &sent::resource(key.kind, "v1"));
    let asked = tokio::time::timeout(ANSWER_WITHIN, api.get(&key.name.name)).await;
    let Ok(asked) = asked else { return (key, Answer::Lost(format!("the API server does not answer within {ANSWER_WITHIN:?}"))) };
    let answer = match asked {
        Ok(sent) => Answer::Is(read::sent(key.kind, sent.text()).unwrap_or_else(|fault| unreadable(&key, &fault.to_string()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Answer::None,
        // A right that was taken back is no trouble that passes.
        Err(kube::Error::Api(status)) if status.code == 403 => Answer::Is(unreadable(&key, &forbidden(&key))),
        Err(error) => Answer::Lost(error.to_string()),
    };
    (key, answer)
}

fn forbidden(key: &ObjectKey) -> String {
    let namespace = &key.name.namespace;
    match key.kind {
        Kind::Secret => format!("the controller may not read it: name namespace {namespace} in istiod.secretNamespaces of the chart, or let its ServiceAccount get this Secret"),
        _ => "the controller may not read it: its ServiceAccount needs get of configmaps there (waypoint.enabled of the chart)".to_owned(),
    }
}

fn unreadable(key: &ObjectKey, why: &str) -> Object {
    match key.kind {
        Kind::Secret => Object::Secret(Secret::unreadable(&key.name, why).into()),
        _ => Object::ConfigMap(ConfigMap::unreadable(&key.name, why).into()),
    }
}

#[cfg(test)]
mod tests;
