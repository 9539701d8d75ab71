//! The one task that holds the cluster: takes batches from the sources, translates, publishes, and says what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::derived::Seed;
use mesh_runtime::{BlockReady, Publisher};
use mesh_xds::{CatalogWriter, Rejection};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ca::placements::Placements;
use crate::cluster::Event;
use crate::objects::{Kind, ObjectKey};
use crate::publish::publish;
use crate::status::plan::{Page, page};
use crate::translate::{Changes, Translation};
use crate::watch::kubernetes::by_name::Wanted;
use crate::watch::{Batch, Findings, Origin};

/// Many changes a second make one page: it is for people.
const PAGE_EVERY: Duration = Duration::from_millis(250);

pub struct Reconcile {
    pub translation: Translation,
    /// What waypoints' sessions are sealed with; it changes with the authority's root.
    pub session_seeds: watch::Receiver<Vec<Seed>>,
    pub catalog: CatalogWriter,
    pub placements: Publisher<Placements>,
    pub pages: watch::Sender<Arc<Page>>,
    pub numbers: watch::Sender<Numbers>,
    /// What waypoints say that they cannot do.
    pub rejections: watch::Receiver<Arc<BTreeSet<Rejection>>>,
    /// Held until the sources were read whole.
    pub block: Option<BlockReady>,
    /// `None`: objects that others name come as all others do.
    pub by_name: Option<ByName>,
    pub origins: BTreeMap<ObjectKey, Origin>,
    pub findings: Arc<Findings>,
    /// The sources were read whole.
    pub is_read: bool,
}

/// Objects that are read because others name them.
pub struct ByName {
    pub wanted: watch::Sender<Wanted>,
    pub found: mpsc::Receiver<Vec<Event>>,
    /// Those that there was an answer about, as long as nobody is told anything.
    pub answered: BTreeSet<ObjectKey>,
}

/// What the metrics count here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// By kind: objects that came, that changed, and that went.
    pub events: [[u64; 3]; Kind::ALL.len()],
    pub batches: u64,
    /// Batches after which something else is told of them.
    pub told: Told,
    pub units_computed: u64,
    /// Files whose newest content is not used, and kinds that cannot be watched.
    pub faults: usize,
    /// Objects whose newest state is not used.
    pub refused: usize,
    /// Duration of the last translation and publication, microseconds.
    pub last_us: u64,
}

/// What a batch changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub workloads: u64,
    pub services: u64,
    pub policies: u64,
}

impl Numbers {
    /// Events of one kind, in the field's words.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&'static str, u64)> {
        ["add", "update", "delete"].into_iter().zip(self.events[kind as usize])
    }

    /// Events by what they are about, in the field's words.
    pub fn inbound(&self) -> [(&'static str, u64); 3] {
        let all = |kinds: &dyn Fn(Kind) -> bool| Kind::ALL.into_iter().filter(|kind| kinds(*kind)).flat_map(|kind| self.events[kind as usize]).sum();
        let is_endpoint = |kind| matches!(kind, Kind::Pod | Kind::EndpointSlice);
        [("svc", all(&|kind| kind == Kind::Service)), ("eds", all(&is_endpoint)), ("config", all(&|kind| kind != Kind::Service && !is_endpoint(kind)))]
    }
}

/// Never, where nothing is read by name.
async fn found(by_name: &mut Option<ByName>) -> Option<Vec<Event>> {
    match by_name {
        Some(by_name) => by_name.found.recv().await,
        None => std::future::pending().await,
    }
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
                Some(events) = found(&mut self.by_name) => {
                    self.take_found(events);
                    page_due.get_or_insert(Instant::now() + PAGE_EVERY);
                }
                Ok(()) = self.rejections.changed() => drop(page_due.get_or_insert(Instant::now() + PAGE_EVERY)),
                Ok(()) = self.session_seeds.changed() => self.reseal(),
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
        self.tell(&batch);
        for (key, origin) in batch.origins {
            match origin {
                Some(origin) => drop(self.origins.insert(key, origin)),
                None => drop(self.origins.remove(&key)),
            }
        }
        self.apply(batch.events);
        self.is_read |= batch.is_whole;
        self.begin_if_whole();
    }

    fn take_found(&mut self, events: Vec<Event>) {
        if let Some(by_name) = &mut self.by_name {
            by_name.answered.extend(events.iter().map(Event::key).filter(|_| !self.catalog.catalog().is_ready()));
        }
        self.apply(events);
        self.begin_if_whole();
    }

    /// Nobody is told before everything was read, what policies name too: certificates that are missing for a moment would
    /// break connections after each restart of the controller.
    fn begin_if_whole(&mut self) {
        if self.catalog.catalog().is_ready() {
            return;
        }
        let is_answered = self.by_name.as_ref().is_none_or(|by_name| by_name.wanted.borrow().iter().all(|key| by_name.answered.contains(key)));
        if self.is_read && is_answered {
            self.catalog.mark_ready();
            self.block = None;
            self.by_name.iter_mut().for_each(|by_name| by_name.answered.clear());
        }
    }

    /// Asks for what is named now.
    fn want(&mut self) {
        let Some(by_name) = &mut self.by_name else { return };
        let wanted = self.translation.wanted();
        by_name.wanted.send_if_modified(|before| std::mem::replace(before, wanted.clone()) != wanted);
    }

    fn apply(&mut self, events: Vec<Event>) {
        let begin = Instant::now();
        let counted = self.by_kind(&events);
        let count = events.len();
        let changes = self.translation.apply(events);
        self.want();
        // First where pods run: a daemon that hears of a new pod asks for its certificate at once.
        if !changes.pods.is_empty() || !changes.accounts.is_empty() {
            let mut placements = Placements::clone(&self.placements.load());
            for event in &changes.pods {
                placements.apply(event);
            }
            for (gateway, account) in &changes.accounts {
                placements.waypoint(gateway, account.as_ref());
            }
            self.placements.publish(placements);
        }
        publish(&mut self.catalog, &changes);
        let took = begin.elapsed();
        self.count(counted, &changes, took);
        if !changes.is_empty() {
            let (workloads, services, policies) = (changes.workloads.len(), changes.services.len(), changes.policies.len());
            tracing::info!(target: "source", events = count, workloads, services, policies, ?took, "the mesh is told of changes");
        }
    }

    fn reseal(&mut self) {
        let seeds = self.session_seeds.borrow_and_update().clone();
        let changes = self.translation.seal_sessions_with(seeds);
        publish(&mut self.catalog, &changes);
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

    /// Before they are applied: an object that is there changes, another one comes.
    fn by_kind(&self, events: &[Event]) -> [[u64; 3]; Kind::ALL.len()] {
        let mut counted = [[0; 3]; Kind::ALL.len()];
        for event in events {
            let (kind, what) = match event {
                Event::Applied(object) => (object.kind(), usize::from(self.translation.cluster().object(&object.key()).is_some())),
                Event::Deleted(key) => (key.kind, 2),
            };
            counted[kind as usize][what] += 1;
        }
        counted
    }

    fn count(&mut self, counted: [[u64; 3]; Kind::ALL.len()], changes: &Changes, took: Duration) {
        let (faults, refused) = (self.findings.faults.len() + self.findings.troubles.len(), self.findings.refused.len());
        let last_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.numbers.send_modify(|numbers| {
            numbers.batches += 1;
            numbers.events.iter_mut().flatten().zip(counted.iter().flatten()).for_each(|(all, new)| *all += new);
            numbers.told.workloads += u64::from(!changes.workloads.is_empty());
            numbers.told.services += u64::from(!changes.services.is_empty());
            numbers.told.policies += u64::from(!changes.policies.is_empty());
            numbers.units_computed += changes.units_computed as u64;
            (numbers.faults, numbers.refused, numbers.last_us) = (faults, refused, last_us);
        });
    }

    fn write_page(&self) {
        let is_whole = self.catalog.catalog().is_ready();
        let rejections = self.rejections.borrow().clone();
        self.pages.send_replace(page(&self.translation, &self.origins, &self.findings, &rejections, is_whole).into());
    }

    /// Everything that is published, for people.
    fn dump(&self) -> Value {
        let (mut workloads, mut services, mut policies, mut resources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for derived in self.translation.derived() {
            workloads.extend(derived.workloads.iter().map(|workload| crate::dump::workload(workload)));
            services.extend(derived.services.iter().map(|service| crate::dump::service(service)));
            policies.extend(derived.policies.iter().map(|policy| crate::dump::policy(policy)));
            resources.extend(derived.resources.iter().map(|resource| crate::dump::resource(resource)));
        }
        json!({ "workloads": workloads, "services": services, "policies": policies, "waypoints": resources })
    }
}

#[cfg(test)]
mod tests {
    use mesh_runtime::{Watched, watched};
    use mesh_xds::Catalog;
    use mesh_xds::messages::waypoint::MESH_SETTINGS;

    use super::*;
    use crate::translate::tests::route::{mesh, route};
    use crate::translate::tests::served::gateway;
    use crate::translate::tests::{events, translation};

    /// The loop, and everything that it hears and says.
    struct Running {
        told: Watched<Catalog>,
        seeds: watch::Sender<Vec<Seed>>,
        batches: mpsc::Sender<Batch>,
        wanted: watch::Receiver<Wanted>,
        found: mpsc::Sender<Vec<Event>>,
        _others: (watch::Sender<Arc<BTreeSet<Rejection>>>, mpsc::Sender<Dump>, tokio_util::sync::DropGuard),
    }

    fn running() -> Running {
        let (catalog, told) = mesh_xds::catalog();
        let (seeds, session_seeds) = watch::channel(Vec::new());
        let (rejected, rejections) = watch::channel(Arc::default());
        let (batches, batched) = mpsc::channel(1);
        let (dumps, dumped) = mpsc::channel(1);
        let (wanted_sender, wanted) = watch::channel(Wanted::new());
        let (found, finds) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let reconcile = Reconcile {
            translation: translation(),
            session_seeds,
            catalog,
            placements: watched(Placements::default()).0,
            pages: watch::Sender::new(Arc::default()),
            numbers: watch::Sender::new(Numbers::default()),
            rejections,
            block: None,
            by_name: Some(ByName { wanted: wanted_sender, found: finds, answered: BTreeSet::new() }),
            origins: BTreeMap::new(),
            findings: Arc::default(),
            is_read: false,
        };
        tokio::spawn(reconcile.run(batched, dumped, stop.clone()));
        Running { told, seeds, batches, wanted, found, _others: (rejected, dumps, stop.drop_guard()) }
    }

    fn whole(yaml: &str) -> Batch {
        Batch { events: events(yaml), is_whole: true, ..Batch::default() }
    }

    #[tokio::test]
    async fn waypoints_are_told_when_the_authoritys_key_changes() {
        let mut running = running();
        running.batches.send(whole(&gateway("shop", "wp"))).await.unwrap();
        let mut versions = BTreeSet::new();
        for turn in 0..3 {
            let version = loop {
                let found = running.told.see().shelf(MESH_SETTINGS).and_then(|shelf| Some(shelf.offer("shop/wp")?.version.clone()));
                match found.filter(|version| !versions.contains(version)) {
                    Some(version) => break version,
                    None => running.told.changed().await,
                }
            };
            versions.insert(version);
            let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
            running.seeds.send_replace(vec![Seed::of_key(&key, &turn.to_string()).unwrap()]);
        }
    }

    // A certificate that is missing for a moment would break connections after each restart of the controller.
    #[tokio::test]
    async fn nobody_is_told_before_what_policies_name_was_asked_for() {
        let mut running = running();
        let policy = route("BackendTLSPolicy", "shop", "p", "targetRefs: [{group: \"\", kind: Service, name: web}], validation: {hostname: a, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}, {group: \"\", kind: ConfigMap, name: cb}]}");
        running.batches.send(whole(&(mesh() + &policy))).await.unwrap();
        let wanted = running.wanted.wait_for(|wanted| wanted.len() == 2).await.unwrap().clone();
        let mut wanted = wanted.into_iter();
        running.found.send(vec![Event::Deleted(wanted.next().unwrap())]).await.unwrap();
        // The loop has taken the first answer once it takes another batch.
        running.batches.send(whole("")).await.unwrap();
        running.batches.send(whole("")).await.unwrap();
        assert!(!running.told.see().is_ready());
        running.found.send(vec![Event::Deleted(wanted.next().unwrap())]).await.unwrap();
        running.told.wait_for(|catalog| catalog.is_ready()).await.unwrap();
        // What is named later holds up nobody.
        running.batches.send(whole(&policy.replace("name: cb", "name: cc"))).await.unwrap();
        running.wanted.wait_for(|wanted| wanted.iter().any(|key| &*key.name.name == "cc")).await.unwrap();
        assert!(running.told.see().is_ready());
    }
}
