//! What an API server has said so far, as values: news of one kind in, events and findings out. Pure.
//!
//! Which objects there are is kept by name only; what they say is held by the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Findings, Instead, Refused};
use crate::cluster::Event;
use crate::objects::read::Fault;
use crate::objects::{Kind, NsName, Object, ObjectKey};
use crate::status::shown::{Shown, Statuses};

/// What the watch of a kind tells.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// All objects of the kind follow, up to `Listed`.
    Begin,
    Object(Box<Seen>),
    Gone(NsName),
    /// Every object was told: what was known before and was not told is gone.
    Listed,
    /// The kind cannot be watched at present; what is known of it stays.
    Trouble(String),
    /// It is watched again, and nothing has changed.
    Settled,
    /// The API server does not have this kind.
    Absent,
}

/// An object as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub name: NsName,
    pub generation: i64,
    /// Or why not, and what is to stand for an object that never could be read.
    pub read: Result<Object, (Fault, Option<Object>)>,
    /// Whose it is: its label `istio.io/rev`, where it has one.
    pub revision: Option<Arc<str>>,
    pub shown: Shown,
}

#[derive(Debug)]
pub struct Held {
    shelves: BTreeMap<Kind, Shelf>,
    /// What objects show of what we wrote into them.
    statuses: Shows,
    findings: Arc<Findings>,
    is_told: bool,
}

#[derive(Debug, Default)]
struct Shows {
    all: Statuses,
    has_changed: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Listed whole at least once, or not there.
    is_whole: bool,
    known: BTreeSet<NsName>,
    /// What was told since `Begin`.
    listing: Option<BTreeSet<NsName>>,
    refused: BTreeMap<NsName, Unread>,
    trouble: Option<String>,
}

/// A newest state that cannot be used.
#[derive(Debug)]
struct Unread {
    generation: i64,
    revision: Option<Arc<str>>,
    fault: Fault,
    instead: Instead,
}

impl Held {
    pub fn new(kinds: &[Kind]) -> Held {
        Held { shelves: kinds.iter().map(|kind| (*kind, Shelf::default())).collect(), statuses: Shows::default(), findings: Arc::default(), is_told: false }
    }

    /// Takes one piece of news; what follows from it is added to `events`.
    pub fn take(&mut self, kind: Kind, news: News, events: &mut Vec<Event>) {
        let shelf = self.shelves.entry(kind).or_default();
        let had_findings = shelf.has_findings();
        match news {
            News::Begin => shelf.listing = Some(BTreeSet::new()),
            News::Object(seen) => shelf.object(*seen, &mut self.statuses, kind, events),
            News::Gone(name) => shelf.gone(kind, name, &mut self.statuses, events),
            News::Listed => {
                let told = shelf.listing.take().unwrap_or_default();
                let gone: Vec<NsName> = shelf.names().filter(|name| !told.contains(*name)).cloned().collect();
                gone.into_iter().for_each(|name| shelf.gone(kind, name, &mut self.statuses, events));
                (shelf.is_whole, shelf.trouble) = (true, None);
            }
            News::Trouble(what) => shelf.trouble = Some(what),
            News::Settled => shelf.trouble = None,
            News::Absent => {
                let gone: Vec<NsName> = shelf.names().cloned().collect();
                gone.into_iter().for_each(|name| shelf.gone(kind, name, &mut self.statuses, events));
                *shelf = Shelf { is_whole: true, ..Shelf::default() };
            }
        }
        self.is_told &= !had_findings && !shelf.has_findings();
    }

    /// Whether every kind was listed at least once.
    pub fn is_whole(&self) -> bool {
        self.shelves.values().all(|shelf| shelf.is_whole)
    }

    /// What objects show of what we wrote into them, if that has changed since the last call.
    pub fn statuses(&mut self) -> Option<Statuses> {
        std::mem::take(&mut self.statuses.has_changed).then(|| self.statuses.all.clone())
    }

    /// All that is wrong at present; the same value while nothing has changed.
    pub fn findings(&mut self) -> Arc<Findings> {
        if !self.is_told {
            let next = self.look();
            if next != *self.findings {
                self.findings = Arc::new(next);
            }
            self.is_told = true;
        }
        self.findings.clone()
    }

    fn look(&self) -> Findings {
        let mut findings = Findings::default();
        for (kind, shelf) in &self.shelves {
            findings.troubles.extend(shelf.trouble.iter().map(|what| format!("{kind}: {what}")));
            let refused = shelf.refused.iter().map(|(name, unread)| Refused {
                key: ObjectKey { kind: *kind, name: name.clone() },
                revision: unread.revision.clone(),
                generation: unread.generation,
                field: unread.fault.field.clone(),
                what: unread.fault.what.clone(),
                instead: unread.instead,
            });
            findings.refused.extend(refused);
        }
        findings
    }
}

impl Shows {
    fn set(&mut self, key: &ObjectKey, shown: Shown) {
        match (self.all.get(key), shown.is_empty()) {
            (None, true) => return,
            (Some(before), false) if **before == shown => return,
            (_, false) => self.all.insert_mut(key.clone(), Arc::new(shown)),
            (Some(_), true) => drop(self.all.remove_mut(key)),
        }
        self.has_changed = true;
    }
}

impl Shelf {
    fn object(&mut self, seen: Seen, statuses: &mut Shows, kind: Kind, events: &mut Vec<Event>) {
        let Seen { name, generation, read, revision, shown } = seen;
        if let Some(told) = &mut self.listing {
            told.insert(name.clone());
        }
        self.trouble = None;
        let key = ObjectKey { kind, name };
        statuses.set(&key, shown);
        match read {
            Ok(object) => {
                self.refused.remove(&key.name);
                self.hold(object, events);
            }
            Err((fault, stand_in)) => {
                let instead = self.instead(&key.name, stand_in, events);
                self.refused.insert(key.name, Unread { generation, revision, fault, instead });
            }
        }
    }

    /// What it said before stays, if it ever said something.
    fn instead(&mut self, name: &NsName, stand_in: Option<Object>, events: &mut Vec<Event>) -> Instead {
        let was_good = self.known.contains(name) && self.refused.get(name).is_none_or(|before| before.instead == Instead::LastGood);
        match stand_in {
            _ if was_good => Instead::LastGood,
            Some(object) => {
                self.hold(object, events);
                Instead::Closed
            }
            // What stood for an earlier state stays: it was closed for a reason.
            None if self.known.contains(name) => Instead::Closed,
            None => Instead::Nothing,
        }
    }

    fn hold(&mut self, object: Object, events: &mut Vec<Event>) {
        // Replaced, so that the name is shared with the object that is held.
        self.known.replace(object.meta().ns_name());
        events.push(Event::Applied(object));
    }

    fn gone(&mut self, kind: Kind, name: NsName, statuses: &mut Shows, events: &mut Vec<Event>) {
        self.refused.remove(&name);
        let was_known = self.known.remove(&name);
        let key = ObjectKey { kind, name };
        statuses.set(&key, Shown::default());
        if was_known {
            events.push(Event::Deleted(key));
        }
    }

    fn names(&self) -> impl Iterator<Item = &NsName> {
        self.known.iter().chain(self.refused.keys())
    }

    fn has_findings(&self) -> bool {
        self.trouble.is_some() || !self.refused.is_empty()
    }
}
