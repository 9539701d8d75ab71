//! The one task that holds the cluster: takes batches from the sources, translates, publishes, and says what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::{BlockReady, Publisher};
use mesh_xds::CatalogWriter;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ca::placements::Placements;
use crate::objects::ObjectKey;
use crate::publish::publish;
use crate::status::plan::{Page, page};
use crate::translate::Translation;
use crate::watch::{Batch, Findings, Origin};

/// Many changes a second make one page: it is for people.
const PAGE_EVERY: Duration = Duration::from_millis(250);

pub struct Reconcile {
    pub translation: Translation,
    pub catalog: CatalogWriter,
    pub placements: Publisher<Placements>,
    pub pages: watch::Sender<Arc<Page>>,
    pub numbers: watch::Sender<Numbers>,
    /// Held until the sources were read whole.
    pub block: Option<BlockReady>,
    pub origins: BTreeMap<ObjectKey, Origin>,
    pub findings: Arc<Findings>,
}

/// What the metrics count here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub events: u64,
    pub batches: u64,
    pub units_computed: u64,
    /// Files whose newest content is not used, and kinds that cannot be watched.
    pub faults: usize,
    /// Objects whose newest state is not used.
    pub refused: usize,
    /// Duration of the last translation and publication, microseconds.
    pub last_us: u64,
}

/// What the debug pages ask for: the whole of what is published.
pub type Dump = oneshot::Sender<Value>;

impl Reconcile {
    pub async fn run(mut self, mut batches: mpsc::Receiver<Batch>, mut dumps: mpsc::Receiver<Dump>, stop: CancellationToken) {
        let mut page_due: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                _ = stop.cancelled() => break,
                batch = batches.recv() => match batch {
                    Some(batch) => {
                        self.take(batch);
                        page_due.get_or_insert(Instant::now() + PAGE_EVERY);
                    }
                    None => break,
                },
                Some(answer) = dumps.recv() => drop(answer.send(self.dump())),
                _ = tokio::time::sleep_until(page_due.unwrap_or_else(Instant::now)), if page_due.is_some() => {
                    page_due = None;
                    self.write_page();
                }
            }
        }
        self.write_page();
    }

    fn take(&mut self, batch: Batch) {
        let begin = Instant::now();
        self.tell(&batch);
        for (key, origin) in batch.origins {
            match origin {
                Some(origin) => drop(self.origins.insert(key, origin)),
                None => drop(self.origins.remove(&key)),
            }
        }
        let events = batch.events.len();
        let changes = self.translation.apply(batch.events);
        // First where pods run: a daemon that hears of a new pod asks for its certificate at once.
        if !changes.pods.is_empty() {
            let mut placements = Placements::clone(&self.placements.load());
            for event in &changes.pods {
                placements.apply(event);
            }
            self.placements.publish(placements);
        }
        publish(&mut self.catalog, &changes);
        if batch.is_whole {
            self.catalog.mark_ready();
            self.block = None;
        }
        let took = begin.elapsed();
        self.count(events, changes.units_computed, took);
        if !changes.is_empty() {
            let (workloads, services, policies) = (changes.workloads.len(), changes.services.len(), changes.policies.len());
            tracing::info!(target: "source", events, workloads, services, policies, ?took, "the mesh is told of changes");
        }
    }

    /// Logs what is newly wrong, and what is not wrong any more.
    fn tell(&mut self, batch: &Batch) {
        if Arc::ptr_eq(&self.findings, &batch.findings) {
            return;
        }
        let before: BTreeSet<String> = self.findings.lines().into_iter().collect();
        let after: BTreeSet<String> = batch.findings.lines().into_iter().collect();
        for line in after.difference(&before) {
            tracing::warn!(target: "source", "{line}");
        }
        for line in before.difference(&after) {
            tracing::info!(target: "source", "settled: {line}");
        }
        self.findings = batch.findings.clone();
    }

    fn count(&mut self, events: usize, units: usize, took: Duration) {
        let (faults, refused) = (self.findings.faults.len() + self.findings.troubles.len(), self.findings.refused.len());
        let last_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.numbers.send_modify(|numbers| {
            numbers.batches += 1;
            numbers.events += events as u64;
            numbers.units_computed += units as u64;
            (numbers.faults, numbers.refused, numbers.last_us) = (faults, refused, last_us);
        });
    }

    fn write_page(&self) {
        let is_whole = self.catalog.catalog().is_ready();
        self.pages.send_replace(page(&self.translation, &self.origins, &self.findings, is_whole).into());
    }

    /// Everything that is published, for people.
    fn dump(&self) -> Value {
        let (mut workloads, mut services, mut policies) = (Vec::new(), Vec::new(), Vec::new());
        for derived in self.translation.derived() {
            workloads.extend(derived.workloads.iter().map(|workload| crate::dump::workload(workload)));
            services.extend(derived.services.iter().map(|service| crate::dump::service(service)));
            policies.extend(derived.policies.iter().map(|policy| crate::dump::policy(policy)));
        }
        json!({ "workloads": workloads, "services": services, "policies": policies })
    }
}
