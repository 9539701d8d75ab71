//! What lasts beyond its first verdict: streams of bytes, upgraded connections, connections of HTTP. Where the policies that
//! one was judged by are replaced it is judged again, by itself (spec/dataplane.md 6.6); a change elsewhere wakes nobody.
//!
//! A verdict and its permit name the policies that were asked, so no change can fall in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_runtime::Watched;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::facts::Target;
use crate::settings::{Mesh, Policies, Settings};

/// Whose policies somebody is under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Under {
    /// None: what is for the whole Gateway.
    service: Option<(NamespacedHostname, u16)>,
    /// The resource of a rule, which may have policies of its own.
    rule: Option<Arc<str>>,
}

/// By what somebody is judged.
#[derive(Clone, Debug)]
pub struct Law {
    pub policies: Arc<Policies>,
    /// Which trust domains are the mesh's.
    pub mesh: Arc<Mesh>,
}

/// All permits. Cheap to clone.
#[derive(Clone)]
pub struct Permits {
    settings: Watched<Settings>,
    book: Arc<Mutex<HashMap<Under, Group>>>,
}

/// Those who are under the same law.
struct Group {
    law: watch::Sender<Law>,
    unbound: CancellationToken,
    riders: usize,
}

/// A place in a group; left when this is dropped.
struct Place {
    under: Under,
    book: Arc<Mutex<HashMap<Under, Group>>>,
}

/// Allowed by a law, and told of the next one.
pub struct Permit {
    judged_by: Law,
    law: watch::Receiver<Law>,
    _place: Place,
}

/// A connection whose requests are judged one by one.
pub struct Bound {
    /// Told when the service is bound to us no longer.
    pub unbound: CancellationToken,
    _place: Option<Place>,
}

impl Under {
    pub fn of(target: &Target, rule: Option<&Arc<str>>) -> Under {
        let service = target.service().map(|key| (key.clone(), target.port()));
        Under { rule: rule.filter(|_| service.is_some()).cloned(), service }
    }
}

impl Law {
    /// The present one; none where the service is bound no longer, which makes no new law.
    fn of(settings: &Settings, under: &Under) -> Option<Law> {
        let policies = match &under.service {
            None => settings.gateway(),
            Some((host, port)) => settings.service(host, *port)?.policies_of(under.rule.as_deref()),
        };
        Some(Law { policies: policies.clone(), mesh: settings.mesh().clone() })
    }

    fn is(&self, other: &Law) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies) && Arc::ptr_eq(&self.mesh, &other.mesh)
    }
}

impl Permits {
    pub fn new(settings: Watched<Settings>) -> Permits {
        Permits { settings, book: Arc::default() }
    }

    /// For somebody whom `judged_by` allows, or will be asked about right now.
    pub fn enter(&self, under: Under, judged_by: Law) -> Permit {
        let (law, _, place) = self.join(under, &judged_by);
        Permit { judged_by, law, _place: place }
    }

    /// For a connection to `target`.
    pub fn bound(&self, target: &Target) -> Bound {
        if target.service().is_none() {
            return Bound { unbound: CancellationToken::new(), _place: None };
        }
        let settings = self.settings.load();
        let none = Law { policies: settings.gateway().clone(), mesh: settings.mesh().clone() };
        let (_, unbound, place) = self.join(Under::of(target, None), &none);
        Bound { unbound, _place: Some(place) }
    }

    /// Who is first brings the law, if there is none now.
    fn join(&self, under: Under, otherwise: &Law) -> (watch::Receiver<Law>, CancellationToken, Place) {
        let mut book = self.book.lock();
        let group = match book.entry(under.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                // Under the lock, as `judge` looks: one of the two sees the newest settings.
                let law = self.settings.with(|settings| Law::of(settings, &under));
                let unbound = CancellationToken::new();
                if law.is_none() {
                    unbound.cancel();
                }
                new.insert(Group { law: watch::channel(law.unwrap_or_else(|| otherwise.clone())).0, unbound, riders: 0 })
            }
        };
        group.riders += 1;
        (group.law.subscribe(), group.unbound.clone(), Place { under, book: self.book.clone() })
    }

    /// Tells those whose law has changed, for as long as the process lives.
    pub async fn watch(self) {
        let mut settings = self.settings.clone();
        loop {
            let now = settings.see();
            for (under, group) in self.book.lock().iter_mut() {
                match Law::of(&now, under) {
                    None => group.unbound.cancel(),
                    Some(law) => {
                        if group.unbound.is_cancelled() {
                            group.unbound = CancellationToken::new();
                        }
                        group.law.send_if_modified(|known| !known.is(&law) && { *known = law; true });
                    }
                }
            }
            drop(now);
            settings.changed().await;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.book.lock().values().map(|group| group.riders).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Permit {
    /// Resolves when there is another law than the one that was asked last; it counts as asked from then on.
    pub async fn changed(&mut self) -> Law {
        loop {
            let law = self.law.borrow_and_update().clone();
            if !law.is(&self.judged_by) {
                self.judged_by = law.clone();
                return law;
            }
            // The sender goes with the group, and the group outlives its riders.
            if self.law.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.book.lock();
        let Some(group) = book.get_mut(&self.under) else { return };
        group.riders -= 1;
        if group.riders == 0 {
            book.remove(&self.under);
        }
    }
}

#[cfg(test)]
mod tests;
