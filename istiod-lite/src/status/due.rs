//! Which statuses are to be written: what there is to say beside what objects show. Pure; time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Address, Condition, Entry, Page, Parent, is_ours};
use super::shown::{ACCEPTED, Beside, Shown, Since, Statuses, beside, is_written};
use crate::objects::gateway::CONTROLLER;
use crate::objects::{Kind, NsName, ObjectKey};

/// How often one and the same is said again because the object shows something else. A slip is mended; another controller
/// that thinks otherwise of an object that is everybody's would go on for ever, and so would we.
const WRITES_OF_ONE_MAX: u32 = 4;

/// Remarks are for reading; an API server takes eight times as much in a condition.
const REMARKS_BYTES_MAX: usize = 4096;

/// What was written last: what it was over, what it is, and how often it was written.
#[derive(Debug, Default)]
pub struct Written(BTreeMap<ObjectKey, Last>);

#[derive(Debug)]
struct Last {
    over: Option<Arc<Shown>>,
    said: Said,
    times: u32,
    /// The object shows something else than what it was over: the write, or somebody else's.
    is_seen: bool,
}

/// What there is to say about an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub conditions: Vec<Condition>,
    pub parents: Vec<Parent>,
    pub addresses: Vec<Address>,
}

/// A status to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub key: ObjectKey,
    pub said: Said,
    /// The `status` to be applied: all that is ours, so that what we do not say any more goes.
    pub status: Value,
    over: Option<Arc<Shown>>,
}

impl Due {
    /// Conditions that say no and did not say so before: worth an event.
    pub fn complaints(&self) -> impl Iterator<Item = &Condition> {
        let shown = self.over.as_deref();
        let before = move || shown.into_iter().flat_map(|shown| shown.conditions.iter().chain(shown.parents.iter().flat_map(|(_, conditions)| conditions)));
        let all = self.said.conditions.iter().chain(self.said.parents.iter().flat_map(|parent| &parent.conditions));
        all.filter(|condition| condition.status == "False").filter(move |condition| !before().any(|(before, _)| before == *condition))
    }
}

/// All that is due, in the order of the objects' names. `now` is RFC 3339.
pub fn due(page: &Page, statuses: &Statuses, written: &mut Written, now: &str) -> Vec<Due> {
    if !page.is_whole {
        return Vec::new();
    }
    let mut wanted = said(page);
    // What is shown and not said any more is taken back.
    for (key, _) in statuses.iter().filter(|(_, shown)| is_ours(shown.revision.as_ref(), &page.revisions)) {
        wanted.entry(key.clone()).or_default();
    }
    written.0.retain(|key, last| {
        last.is_seen |= statuses.get(key) != last.over.as_ref();
        wanted.contains_key(key)
    });
    let mut due = Vec::new();
    for (key, said) in wanted {
        let over = statuses.get(&key);
        let shows = over.map_or_else(Said::default, |shown| shown.said());
        if shows == said || written.0.get(&key).is_some_and(|last| last.said == said && (!last.is_seen || last.times >= WRITES_OF_ONE_MAX)) {
            continue;
        }
        let status = status(&key, &said, over.map(|shown| &**shown), now);
        due.push(Due { key, said, status, over: over.cloned() });
    }
    due
}

impl Written {
    /// Remembers a write. It is not repeated until the source has seen it.
    pub fn note(&mut self, done: Due) {
        let before = self.0.get(&done.key).filter(|last| last.said == done.said).map_or(0, |last| last.times);
        if before + 1 == WRITES_OF_ONE_MAX {
            tracing::warn!(target: "status", object = %done.key, "somebody else writes another status again and again; ours is not written any more until there is something new to say. Give the object a label istio.io/rev, so that it has one controller");
        }
        self.0.insert(done.key, Last { over: done.over, said: done.said, times: before + 1, is_seen: false });
    }
}

impl Shown {
    fn said(&self) -> Said {
        let plain = |conditions: &[(Condition, Since)]| {
            let mut conditions: Vec<Condition> = conditions.iter().map(|(condition, _)| condition.clone()).collect();
            conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
            conditions
        };
        let parents = self.parents.iter().map(|(parent_ref, conditions)| Parent { parent_ref: parent_ref.clone(), conditions: plain(conditions) });
        Said { conditions: plain(&self.conditions), parents: parents.collect(), addresses: self.addresses.clone() }
    }
}

fn said(page: &Page) -> BTreeMap<ObjectKey, Said> {
    let mut all = BTreeMap::new();
    for entry in &page.objects {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == entry.kind).filter(|kind| is_written(*kind)) else { continue };
        let mut conditions = if beside(kind).is_some() { Vec::new() } else { entry.conditions.clone() };
        let mut parents = entry.parents.clone();
        parents.iter_mut().for_each(|parent| parent.conditions.sort_by(|a, b| a.kind.cmp(&b.kind)));
        if beside(kind).is_none() && !entry.notes.is_empty() && conditions.iter().all(|condition| condition.kind != ACCEPTED) {
            conditions.push(remarks(entry));
        }
        conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
        let said = Said { conditions, parents, addresses: entry.addresses.clone() };
        if said != Said::default() {
            all.insert(ObjectKey { kind, name: NsName::new(&entry.namespace, &entry.name) }, said);
        }
    }
    all
}

/// What of an object is not honoured stands in its status, too: nothing is ignored in silence.
fn remarks(entry: &Entry) -> Condition {
    let mut message = entry.notes.join("; ");
    message.truncate(message.floor_char_boundary(REMARKS_BYTES_MAX));
    Condition { kind: ACCEPTED.to_owned(), status: "True".to_owned(), reason: "UnsupportedValue".to_owned(), message, observed_generation: entry.generation }
}

fn status(key: &ObjectKey, said: &Said, shown: Option<&Shown>, now: &str) -> Value {
    if let Some(Beside { list, reference }) = beside(key.kind) {
        let parents = said.parents.iter().map(|parent| {
            let before = shown.into_iter().flat_map(|shown| &shown.parents).find(|(known, _)| *known == parent.parent_ref).map(|(_, conditions)| conditions.as_slice());
            json!({ "controllerName": CONTROLLER, reference: parent.parent_ref, "conditions": written(&parent.conditions, before.unwrap_or_default(), now) })
        });
        return json!({ list: parents.collect::<Vec<_>>() });
    }
    let conditions = written(&said.conditions, shown.map(|shown| shown.conditions.as_slice()).unwrap_or_default(), now);
    let mut status = json!({ "conditions": conditions });
    if key.kind == Kind::ServiceEntry {
        status["addresses"] = json!(said.addresses);
    }
    status
}

fn written(conditions: &[Condition], shown: &[(Condition, Since)], now: &str) -> Vec<Value> {
    let one = |condition: &Condition| {
        // The time is that of the last change of the status, not of the text.
        let before = shown.iter().find(|(before, _)| before.kind == condition.kind && before.status == condition.status);
        json!({
            "type": condition.kind,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": condition.observed_generation,
            "lastTransitionTime": before.map_or(now, |(_, Since(since))| since),
        })
    };
    conditions.iter().map(one).collect()
}
