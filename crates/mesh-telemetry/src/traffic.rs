//! The handles of traffic metrics, made once for each pair of workloads and shared by all their connections.
//!
//! The cache is keyed by what the directory's snapshot points to, not by 27 strings: two connections of the same pair
//! find their handles with a few pointer comparisons, and a changed workload is another pointer (design decision 14).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use metrics::Counter;
use parking_lot::Mutex;

use crate::families;
use crate::labels::{self, Derived, End, Labelled, Reporter, ResponseFlags, Security};
use crate::recorder::Recorder;

/// Whom and what a connection's metrics are about. Known when the hop, or the admission, is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    pub reporter: Reporter,
    pub source: Party,
    /// The identity that TLS proved (at the source: our own); none for plaintext.
    pub source_principal: Option<SpiffeId>,
    pub destination: Party,
    /// None: the identity that the directory gives to the destination, if it knows it.
    pub destination_principal: Option<SpiffeId>,
    pub service: Option<Same<Service>>,
    pub security: Security,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// Found in the directory.
    Known(Same<Workload>),
    /// Only told by the peer itself.
    Told(Arc<Derived>),
    Unknown,
}

/// A shared value compared by where it is: two are the same when they are one.
#[derive(Debug)]
pub struct Same<T>(pub Arc<T>);

/// The handles of all subjects. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traffic {
    recorder: Recorder,
    cache: Arc<Mutex<HashMap<Subject, Cached>>>,
}

#[derive(Debug)]
struct Cached {
    handles: Arc<Handles>,
    /// Asked for since the last sweep.
    used: AtomicBool,
}

/// The counters of one subject. Adding is one atomic addition.
#[derive(Debug)]
pub struct Handles {
    recorder: Recorder,
    subject: Subject,
    opened: Counter,
    received: Counter,
    sent: Counter,
    closed: [OnceLock<Counter>; ResponseFlags::ALL.len()],
    failed: [OnceLock<Counter>; ResponseFlags::ALL.len()],
}

/// Subjects kept at hand. Each is five series at least, so the recorder's cap comes first; this bounds the memory of keys.
const CACHED: usize = 8_192;

impl Traffic {
    pub fn new(recorder: Recorder) -> Traffic {
        Traffic { recorder, cache: Arc::default() }
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The handles of this subject; once per connection.
    pub fn handles(&self, subject: &Subject) -> Arc<Handles> {
        let mut cache = self.cache.lock();
        if let Some(cached) = cache.get(subject) {
            cached.used.store(true, Ordering::Relaxed);
            return cached.handles.clone();
        }
        let handles = Arc::new(Handles::new(self.recorder.clone(), subject.clone()));
        if cache.len() < CACHED {
            cache.insert(subject.clone(), Cached { handles: handles.clone(), used: AtomicBool::new(true) });
        }
        handles
    }

    /// Lets go of handles that no connection holds and that were not asked for since the last sweep; then the recorder
    /// may let go of their series. Called before each scrape.
    pub fn sweep(&self, now: Instant) {
        self.cache
            .lock()
            .retain(|_, cached| Arc::strong_count(&cached.handles) > 1 || cached.used.swap(false, Ordering::Relaxed));
        self.recorder.sweep(now);
    }

    /// Subjects at hand.
    pub fn cached(&self) -> usize {
        self.cache.lock().len()
    }
}

impl Handles {
    fn new(recorder: Recorder, subject: Subject) -> Handles {
        let open = subject.labels(ResponseFlags::None);
        Handles {
            opened: recorder.counter(&families::TCP_OPENED, &open),
            received: recorder.counter(&families::TCP_RECEIVED, &open),
            sent: recorder.counter(&families::TCP_SENT, &open),
            closed: Default::default(),
            failed: Default::default(),
            recorder,
            subject,
        }
    }

    /// Whom and what they are about: shared by all connections of the pair.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub fn opened(&self) {
        self.opened.increment(1);
    }

    /// Bytes from the client to the server, whichever side reports.
    pub fn received(&self, bytes: u64) {
        self.received.increment(bytes);
    }

    /// Bytes from the server to the client, whichever side reports.
    pub fn sent(&self, bytes: u64) {
        self.sent.increment(bytes);
    }

    /// The end of a connection; every flag but `-` is also a failure.
    pub fn closed(&self, flags: ResponseFlags) {
        self.ended(&self.closed, &families::TCP_CLOSED, flags).increment(1);
        if flags != ResponseFlags::None {
            self.ended(&self.failed, &families::TCP_FAILED, flags).increment(1);
        }
    }

    fn ended<'h>(&self, counters: &'h [OnceLock<Counter>], family: &families::Family, flags: ResponseFlags) -> &'h Counter {
        counters[flags as usize].get_or_init(|| self.recorder.counter(family, &self.subject.labels(flags)))
    }
}

impl Subject {
    fn labels(&self, flags: ResponseFlags) -> Vec<metrics::Label> {
        let destination_principal = self.destination_principal.clone().or_else(|| match &self.destination {
            Party::Known(workload) => Some(workload.0.identity()),
            Party::Told(_) | Party::Unknown => None,
        });
        let what = Labelled {
            reporter: self.reporter,
            source: self.source.end(),
            source_principal: self.source_principal.as_ref(),
            destination: self.destination.end(),
            destination_principal: destination_principal.as_ref(),
            service: self.service.as_ref().map(|service| &*service.0),
            security: self.security,
        };
        labels::traffic(&what, flags)
    }
}

impl Party {
    pub fn known(workload: &Arc<Workload>) -> Party {
        Party::Known(Same(workload.clone()))
    }

    fn end(&self) -> End<'_> {
        match self {
            Party::Known(workload) => End::Known(&workload.0),
            Party::Told(told) => End::Told(told),
            Party::Unknown => End::Unknown,
        }
    }
}

impl<T> Clone for Same<T> {
    fn clone(&self) -> Same<T> {
        Same(self.0.clone())
    }
}

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Same<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Same<T> {}

impl<T> Hash for Same<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests;
