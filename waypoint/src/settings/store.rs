//! The writing end of the settings: takes resources one by one, and publishes what they come to.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mesh_model::address::NamespacedHostname;
use mesh_runtime::watched::{Publisher, Watched, watched};
use mesh_telemetry::recorder::Recorder;
use mesh_xds::messages::waypoint::{self as wire, ResourceState, ResourceStatus, SourceRef};
use rpds::HashTrieMapSync;

use super::host::{self, Around, Host, RouteKey, Treatment};
use super::policies::{Attached, Policies, Policy, Telemetry};
use super::resource::{self, Kept, Place, Read};
use super::binding::{PARTING, Parting};
use super::{Mesh, ServiceView, Settings};
use crate::account::books;
use crate::choose::BackendKey;
use crate::facts::Rejection;
use crate::session;

/// All resources, and what of the snapshot they have touched since it was published.
pub struct Store {
    own: Option<wire::GatewayTarget>,
    held: HashMap<(&'static str, Arc<str>), Held>,
    hosts: HashMap<NamespacedHostname, Host>,
    mesh: Attached,
    gateway: Attached,
    routes: HashMap<RouteKey, Attached>,
    /// On which services a user's route has rules, and how many.
    hosts_of_routes: HashMap<RouteKey, BTreeMap<NamespacedHostname, usize>>,
    /// Who is named as a backend, and how often.
    named: BTreeMap<BackendKey, usize>,
    treatment_of_mesh: Treatment,
    session_keys: session::Keys,
    touched: Touched,
    settings: Settings,
    publisher: Publisher<Settings>,
    /// How many resources of each type are held.
    counts: BTreeMap<&'static str, Count>,
    /// Told of them when they change.
    recorder: Option<Recorder>,
}

/// Resources of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: usize,
    /// Of which parts are closed.
    pub partial: usize,
}

struct Held {
    bytes: Box<[u8]>,
    kept: Kept,
    backends: Vec<BackendKey>,
    /// It was put in force with parts that are closed.
    partial: bool,
}

#[derive(Default)]
struct Touched {
    /// Their views are built anew.
    hosts: BTreeSet<NamespacedHostname>,
    /// Their backends are.
    treated: BTreeSet<NamespacedHostname>,
    backends: BTreeSet<BackendKey>,
    /// What is attached to the mesh or the Gateway has changed.
    everywhere: bool,
    /// How services are treated that say nothing of their own has changed.
    treatment_of_mesh: bool,
    others: bool,
    /// Resources of these have come or gone.
    types: BTreeSet<&'static str>,
    stricter: Stricter,
}

/// Where a policy may let fewer pass than before: what is served as it was before must not be, there.
#[derive(Default)]
struct Stricter {
    everywhere: bool,
    hosts: BTreeSet<NamespacedHostname>,
}

/// What is told to the controller about a resource that is not in force as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Rejected: what was in force before still is. Partial: in force, but for what the message names.
    pub state: ResourceState,
    pub rejection: Rejection,
    pub source: Option<SourceRef>,
}

impl mesh_xds::client::Sink for Store {
    fn take(&mut self, type_url: &str, name: &str, content: Option<&[u8]>) -> Result<(), Box<ResourceStatus>> {
        Store::take(self, type_url, name, content).map_err(|problem| Box::new(problem.status(type_url, name)))
    }

    fn settled(&mut self) {
        self.publish();
    }
}

impl Problem {
    pub fn status(&self, type_url: &str, name: &str) -> ResourceStatus {
        ResourceStatus {
            type_url: type_url.to_owned(),
            name: name.to_owned(),
            source: self.source.clone(),
            state: self.state as i32,
            reason: self.rejection.reason.to_owned(),
            message: self.rejection.message.clone(),
        }
    }
}

/// An empty store and its readers' end. `own`: the Gateway this proxy is of; without it every Gateway's policy counts.
pub fn store(own: Option<wire::GatewayTarget>) -> (Store, Watched<Settings>) {
    let session_keys = session::Keys::of_process();
    let mesh = Arc::new(Mesh::new(wire::MeshSettings::default(), &session_keys));
    let settings = Settings { mesh, ..Settings::default() };
    let (publisher, reader) = watched(settings.clone());
    let store = Store {
        own,
        held: HashMap::new(),
        hosts: HashMap::new(),
        mesh: Attached::default(),
        gateway: Attached::default(),
        routes: HashMap::new(),
        hosts_of_routes: HashMap::new(),
        named: BTreeMap::new(),
        treatment_of_mesh: Treatment::default(),
        session_keys,
        touched: Touched::default(),
        settings,
        publisher,
        counts: wire::ALL.map(|type_url| (type_url, Count::default())).into(),
        recorder: None,
    };
    (store, reader)
}

impl Store {
    /// Takes one resource, or its removal. Nothing that is refused here keeps another from being taken.
    pub fn take(&mut self, type_url: &str, name: &str, resource: Option<&[u8]>) -> Result<(), Box<Problem>> {
        let Some(type_url) = wire::ALL.into_iter().find(|known| *known == type_url) else {
            let rejection = Rejection::new("UnsupportedType", format!("{type_url:?} is no type that a waypoint knows"));
            return Err(Box::new(Problem { state: ResourceState::Rejected, rejection, source: None }));
        };
        let name: Arc<str> = name.into();
        let Some(bytes) = resource else {
            self.drop_resource(type_url, &name);
            return Ok(());
        };
        let known = self.held.get(&(type_url, name.clone()));
        if known.is_some_and(|known| !known.partial && *known.bytes == *bytes) {
            return Ok(());
        }
        let known_good = known.is_some_and(|known| !known.partial);
        match resource::read(type_url, &name, bytes, self.own.as_ref()) {
            Ok(read) => {
                let restricts = restricts(type_url);
                let Read { kept, backends, wrong, source } = read;
                if let Some(rejection) = &wrong
                    && known_good
                    && !restricts
                {
                    return Err(Box::new(Problem { state: ResourceState::Rejected, rejection: rejection.clone(), source }));
                }
                self.put(type_url, name, Held { bytes: bytes.into(), kept, backends, partial: wrong.is_some() });
                wrong.map_or(Ok(()), |rejection| Err(Box::new(Problem { state: ResourceState::Partial, rejection, source })))
            }
            Err(rejection) => {
                if restricts(type_url) && known.is_none() {
                    self.put(
                        type_url,
                        name,
                        Held { bytes: bytes.into(), kept: resource::closed(), backends: Vec::new(), partial: true },
                    );
                }
                Err(Box::new(Problem { state: ResourceState::Rejected, rejection, source: None }))
            }
        }
    }

    /// This store in metrics: how many resources there are of each type, and how often they change.
    pub fn counted_by(mut self, recorder: Recorder) -> Store {
        self.touched.types.extend(wire::ALL);
        Store { recorder: Some(recorder), ..self }
    }

    /// Builds what was touched and hands it to the readers. False: nothing was.
    pub fn publish(&mut self) -> bool {
        self.publish_at(tokio::time::Instant::now().into_std())
    }

    /// As `publish`: `now` is when ports begin to part.
    pub fn publish_at(&mut self, now: Instant) -> bool {
        if self.touched.is_empty() {
            return false;
        }
        let touched = std::mem::take(&mut self.touched);
        self.publish_backends(&touched);
        self.publish_views(&touched);
        self.publish_partings(&touched, now);
        self.publisher.publish(self.settings.clone());
        if let Some(recorder) = &self.recorder {
            books::configured(recorder, touched.types.iter().filter_map(|of_type| self.counts.get_key_value(of_type)));
        }
        true
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every resource that is held, by type and name, and whether all of it is in force.
    pub fn resources(&self) -> impl Iterator<Item = (&'static str, &Arc<str>, bool)> {
        self.held.iter().map(|((type_url, name), held)| (*type_url, name, !held.partial))
    }

    fn publish_backends(&mut self, touched: &Touched) {
        for host in &touched.treated {
            match self.hosts.get(host).filter(|host| !host.treatment.is_empty()) {
                Some(known) => self.settings.treatments.insert_mut(host.clone(), known.treatment.clone()),
                None => _ = self.settings.treatments.remove_mut(host),
            }
        }
        if touched.treatment_of_mesh {
            self.settings.treatment_of_mesh = Arc::new(self.treatment_of_mesh.clone());
        }
        let mut keys: BTreeSet<BackendKey> = touched.backends.clone();
        if touched.treatment_of_mesh {
            keys.extend(self.named.keys().cloned());
        }
        for host in &touched.treated {
            let first = BackendKey { host: host.clone(), port: 0, subset: "".into() };
            keys.extend(self.named.range(first..).map(|(key, _)| key).take_while(|key| key.host == *host).cloned());
        }
        for key in keys {
            if self.named.contains_key(&key) {
                let treatment = self.hosts.get(&key.host).map(|host| &*host.treatment);
                let backend = Arc::new(host::backend(&key, treatment, &self.treatment_of_mesh));
                self.settings.backends.insert_mut(key, backend);
            } else {
                self.settings.backends.remove_mut(&key);
            }
        }
    }

    fn publish_views(&mut self, touched: &Touched) {
        let known = self.settings.telemetry.clone();
        let providers = |name: &str| known.get(name).cloned();
        if touched.everywhere {
            let telemetry = Telemetry { providers: &providers, of_gateway: None };
            self.settings.gateway = Arc::new(Policies::merged(&[&self.mesh, &self.gateway], 0, "", &telemetry));
        }
        let gateway = self.settings.gateway.clone();
        let telemetry = Telemetry { providers: &providers, of_gateway: Some(&gateway.telemetry) };
        let around = Around { mesh: &self.mesh, gateway: &self.gateway, merged: &gateway, telemetry, routes: &self.routes };
        // What is gone is among the touched only.
        let all = self.hosts.keys().filter(|host| touched.treatment_of_mesh && !touched.hosts.contains(*host));
        let hosts: Vec<&NamespacedHostname> = touched.hosts.iter().chain(all).collect();
        let mut built = Vec::new();
        for host in hosts {
            let views = self.hosts.get(host).map(|known| known.views(host, &around, |key| self.settings.backend(key)));
            built.push((host.clone(), views.unwrap_or_default()));
        }
        if touched.everywhere && !touched.treatment_of_mesh {
            // Only what is attached changes; tables and backends stay.
            for (host, views) in self.settings.services.iter().filter(|(host, _)| !touched.hosts.contains(host)) {
                let Some(known) = self.hosts.get(host) else { continue };
                let judged = views.iter().map(|view| {
                    let mut view = ServiceView::clone(view);
                    known.judge(&mut view, &around);
                    Arc::new(view)
                });
                built.push((host.clone(), judged.collect()));
            }
        }
        for (host, views) in built {
            if views.is_empty() {
                self.settings.services.remove_mut(&host);
            } else {
                self.settings.services.insert_mut(host, Arc::new(views));
            }
        }
    }

    /// Ports that are bound no longer are served for a while as they were, but where a policy has become stricter.
    fn publish_partings(&mut self, touched: &Touched, now: Instant) {
        let over = |host: &NamespacedHostname| touched.stricter.everywhere || touched.stricter.hosts.contains(host);
        let ended = |(key, parting): (&(NamespacedHostname, u16), &Parting)| {
            let done = parting.until <= now || over(&key.0) || self.settings.service(&key.0, key.1).is_some();
            done.then(|| key.clone())
        };
        let ended: Vec<_> = self.settings.parting.iter().filter_map(ended).collect();
        ended.iter().for_each(|key| _ = self.settings.parting.remove_mut(key));

        let last = self.publisher.load();
        let views = touched.hosts.iter().filter(|host| !over(host)).filter_map(|host| last.services.get(host));
        let gone = |view: &&Arc<ServiceView>| self.settings.service(&view.host, view.port).is_none();
        let gone: Vec<_> = views.flat_map(|ports| ports.iter()).filter(gone).map(|view| (view.host.clone(), view.port)).collect();
        if gone.is_empty() {
            return;
        }
        let before = Arc::new(Settings { parting: HashTrieMapSync::default(), ..Settings::clone(&last) });
        for key in gone {
            tracing::debug!(service = %key.0, port = key.1, "bound no longer; whoever has not heard of it is served as before for a while");
            self.settings.parting.insert_mut(key, Parting { before: before.clone(), until: now + PARTING });
        }
    }

    fn put(&mut self, type_url: &'static str, name: Arc<str>, held: Held) {
        self.drop_resource(type_url, &name);
        self.touched.stricter.put(type_url, &held.kept);
        for key in &held.backends {
            *self.named.entry(key.clone()).or_default() += 1;
            self.touched.backends.insert(key.clone());
        }
        match &held.kept {
            Kept::Mesh(wire) => {
                self.settings.mesh = Arc::new(Mesh::new(wire::MeshSettings::clone(wire), &self.session_keys));
                self.touched.others = true;
            }
            Kept::ExtAuthz(provider) => {
                self.settings.ext_authz.insert_mut(name.clone(), provider.clone());
                self.touched.others = true;
            }
            Kept::Telemetry(provider) => {
                self.settings.telemetry.insert_mut(name.clone(), provider.clone());
                self.touched.everywhere = true;
            }
            Kept::Port(host, port) => {
                self.treat(host, |treatment| _ = treatment.ports.insert(name.clone(), port.clone()));
            }
            Kept::Subset(host, subset) => {
                self.treat(host, |treatment| _ = treatment.subsets.insert(name.clone(), subset.clone()));
            }
            Kept::Treated(Some(host), treated) => {
                self.treat(host, |treatment| _ = treatment.policies.insert(name.clone(), treated.clone()));
            }
            Kept::Treated(None, treated) => {
                self.treatment_of_mesh.policies.insert(name.clone(), treated.clone());
                self.touched.treatment_of_mesh = true;
            }
            Kept::Http(host, placed) => {
                self.hosts.entry(host.clone()).or_default().http.insert(name.clone(), placed.clone());
                let of_route = self.hosts_of_routes.entry(RouteKey::of(&placed.rule.source)).or_default();
                *of_route.entry(host.clone()).or_default() += 1;
                self.touched.hosts.insert(host.clone());
            }
            Kept::Tls(host, placed) => {
                self.hosts.entry(host.clone()).or_default().tls.insert(name.clone(), placed.clone());
                self.touched.hosts.insert(host.clone());
            }
            Kept::Tcp(host, placed) => {
                self.hosts.entry(host.clone()).or_default().tcp.insert(name.clone(), placed.clone());
                self.touched.hosts.insert(host.clone());
            }
            Kept::Policy(places, policy) => {
                for place in places {
                    self.attach(place, |attached, port, rule| attached.put(type_url, &name, port, rule, Policy::clone(policy)));
                }
            }
        }
        let count = self.counts.entry(type_url).or_default();
        count.all += 1;
        count.partial += usize::from(held.partial);
        self.touched.types.insert(type_url);
        self.held.insert((type_url, name), held);
    }

    fn drop_resource(&mut self, type_url: &'static str, name: &Arc<str>) {
        let Some(held) = self.held.remove(&(type_url, name.clone())) else { return };
        self.touched.stricter.removed(type_url, &held.kept);
        if let Some(count) = self.counts.get_mut(type_url) {
            count.all -= 1;
            count.partial -= usize::from(held.partial);
        }
        self.touched.types.insert(type_url);
        for key in held.backends {
            if let Some(times) = self.named.get_mut(&key) {
                *times -= 1;
                if *times == 0 {
                    self.named.remove(&key);
                }
            }
            self.touched.backends.insert(key);
        }
        match held.kept {
            Kept::Mesh(_) => {
                self.settings.mesh = Arc::new(Mesh::new(wire::MeshSettings::default(), &self.session_keys));
                self.touched.others = true;
            }
            Kept::ExtAuthz(_) => {
                self.settings.ext_authz.remove_mut(name);
                self.touched.others = true;
            }
            Kept::Telemetry(_) => {
                self.settings.telemetry.remove_mut(name);
                self.touched.everywhere = true;
            }
            Kept::Port(host, _) => self.treat(&host, |treatment| _ = treatment.ports.remove(name)),
            Kept::Subset(host, _) => self.treat(&host, |treatment| _ = treatment.subsets.remove(name)),
            Kept::Treated(Some(host), _) => self.treat(&host, |treatment| _ = treatment.policies.remove(name)),
            Kept::Treated(None, _) => {
                self.treatment_of_mesh.policies.remove(name);
                self.touched.treatment_of_mesh = true;
            }
            Kept::Http(host, placed) => {
                self.leave(&host, |host| _ = host.http.remove(name));
                if let Entry::Occupied(mut of_route) = self.hosts_of_routes.entry(RouteKey::of(&placed.rule.source)) {
                    if let Some(rules) = of_route.get_mut().get_mut(&host) {
                        *rules -= 1;
                        if *rules == 0 {
                            of_route.get_mut().remove(&host);
                        }
                    }
                    if of_route.get().is_empty() {
                        of_route.remove();
                    }
                }
            }
            Kept::Tls(host, _) => self.leave(&host, |host| _ = host.tls.remove(name)),
            Kept::Tcp(host, _) => self.leave(&host, |host| _ = host.tcp.remove(name)),
            Kept::Policy(places, _) => {
                for place in &places {
                    self.attach(place, |attached, _, _| attached.take(type_url, name));
                }
            }
        }
    }

    fn treat(&mut self, host: &NamespacedHostname, change: impl FnOnce(&mut Treatment)) {
        self.touched.treated.insert(host.clone());
        self.leave(host, |host| change(Arc::make_mut(&mut host.treatment)));
    }

    /// Changes what is known of a service, and forgets the service when nothing is.
    fn leave(&mut self, host: &NamespacedHostname, change: impl FnOnce(&mut Host)) {
        let known = self.hosts.entry(host.clone()).or_default();
        change(known);
        if known.is_empty() {
            self.hosts.remove(host);
        }
        self.touched.hosts.insert(host.clone());
    }

    fn attach(&mut self, place: &Place, change: impl FnOnce(&mut Attached, u16, &str)) {
        match place {
            Place::Mesh => {
                change(&mut self.mesh, 0, "");
                self.touched.everywhere = true;
            }
            Place::Gateway => {
                change(&mut self.gateway, 0, "");
                self.touched.everywhere = true;
            }
            Place::Service(host, port) => self.leave(host, |host| change(&mut host.attached, *port, "")),
            Place::Route(key, rule) => {
                let attached = self.routes.entry(key.clone()).or_default();
                change(attached, 0, rule);
                if attached.is_empty() {
                    self.routes.remove(key);
                }
                let hosts = self.hosts_of_routes.get(key).into_iter().flat_map(BTreeMap::keys);
                self.touched.hosts.extend(hosts.cloned());
            }
        }
    }
}

/// A policy that lets fewer pass is never without effect (spec/waypoint.md 4).
fn restricts(type_url: &str) -> bool {
    type_url == wire::AUTHZ_POLICY || type_url == wire::JWT_POLICY
}

impl Stricter {
    /// A new or changed policy, wherever it is attached; who is asked, and which trust domains are ours.
    fn put(&mut self, type_url: &str, kept: &Kept) {
        self.removed(type_url, kept);
        let Kept::Policy(places, _) = kept else { return };
        for place in places.iter().filter(|_| restricts(type_url)) {
            match place {
                Place::Service(host, _) => _ = self.hosts.insert(host.clone()),
                // On which services it is may be known no longer.
                Place::Route(..) | Place::Mesh | Place::Gateway => self.everywhere = true,
            }
        }
    }

    /// One that is gone: of a service that is unbound the policies go, too, and those say nothing. For all it may have been
    /// what allowed.
    fn removed(&mut self, type_url: &str, kept: &Kept) {
        self.everywhere |= match kept {
            Kept::Policy(places, _) => restricts(type_url) && places.iter().any(|place| matches!(place, Place::Mesh | Place::Gateway)),
            Kept::Mesh(_) | Kept::ExtAuthz(_) => true,
            _ => false,
        };
    }
}

impl Touched {
    fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.treated.is_empty()
            && self.backends.is_empty()
            && !self.everywhere
            && !self.treatment_of_mesh
            && !self.others
    }
}
