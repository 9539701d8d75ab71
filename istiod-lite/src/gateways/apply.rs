//! Does what the plan says, at an API server. The leader's work: watches what Gateways need, plans after each change,
//! applies on the server's side what differs, and deletes what is not wanted any more.
//!
//! What was made goes with its Gateway by its owner reference, whether we run or not.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SelectAll, select_all};
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta, TypeMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::{Plan, Subject, plan};
use super::seen::{CLASS, CONTROLLER, Class, DEFAULTS_FOR_CLASS, Gateway, MANAGED, Made, Parameters, Place, World};
use super::template::Settings;
use crate::objects::NsName;
use crate::status::plan::Page;

/// Who owns what we write, in the API server's books: the field's name, so that a mesh that was deployed by its controller
/// goes over to ours and back.
const FIELD_MANAGER: &str = "istio.io/gateway-controller";
const GROUP: &str = "gateway.networking.k8s.io";
const VERSION: &str = "v1";

/// Several changes at once make one plan.
const SETTLE: Duration = Duration::from_millis(50);
/// ConfigMaps are not watched, because nobody but their users should have to let us list them all: those that Gateways
/// name are read so often. What failed is tried again then, too.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const WRITES_AT_A_TIME: usize = 8;
/// While the API server does not know Gateways: their definitions may come any time.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    Gateway,
    Class,
    Namespace,
    Made(Made),
}

type Told = (Watched, Result<Event<DynamicObject>, watcher::Error>);

/// Pauses between tries to watch.
#[derive(Default)]
struct Soon(watcher::DefaultBackoff);

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(PAUSE_MAX))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// What was applied last, and what the object was then: neither is as it was, or it is applied again.
#[derive(Default)]
struct Books(BTreeMap<Place, (u64, u64)>);

/// Runs until it is dropped. The pages tell the names of our revision, and which routes listeners have accepted.
pub async fn deploy(client: Client, settings: Settings, mut pages: watch::Receiver<Arc<Page>>) {
    let mut events = watches(&client);
    let (mut world, mut books) = (World::default(), Books::default());
    let mut revisions = pages.borrow_and_update().revisions.clone();
    let mut unlisted: BTreeSet<Watched> = all_watched().collect();
    let mut looked_up = Instant::now();
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            Some((what, event)) = events.next() => match event {
                Ok(event) => {
                    take(&mut world, &mut unlisted, what, event);
                    due.get_or_insert(Instant::now() + SETTLE);
                }
                Err(error) => tracing::debug!(target: "gateways", ?what, %error, "cannot be watched at present"),
            },
            Ok(()) = pages.changed() => {
                let page = pages.borrow_and_update();
                if page.revisions != revisions || page.attached != world.attached {
                    (revisions, world.attached) = (page.revisions.clone(), page.attached.clone());
                    due.get_or_insert(Instant::now() + SETTLE);
                }
            }
            _ = tokio::time::sleep_until(due.unwrap_or(looked_up + LOOK_AGAIN)) => {
                // While something is being listed, what is there looks as if it were missing.
                if unlisted.is_empty() {
                    let is_late = looked_up + LOOK_AGAIN <= Instant::now();
                    defaults(&client, &settings, &revisions, &mut world).await;
                    if is_late {
                        world.refused.clear();
                        looked_up = Instant::now();
                    }
                    round(&client, &settings, &mut world, &mut books, &revisions, is_late).await;
                } else if due.is_none() {
                    looked_up = Instant::now();
                }
                due = None;
            }
        }
    }
}

/// One plan, and all of it done.
async fn round(client: &Client, settings: &Settings, world: &mut World, books: &mut Books, revisions: &BTreeSet<Arc<str>>, is_late: bool) {
    let now = || jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    // Which names Gateways look for is known by a plan.
    let first = plan(world, settings, revisions, &now());
    look_up(client, world, &first, is_late).await;
    let Plan { creates_class, apply, delete, .. } = plan(world, settings, revisions, &now());
    if creates_class {
        create_class(client).await;
    }
    let wanted = apply.into_iter().filter(|(place, object)| books.is_due(place, object, world.made.get(place)));
    let wanted: Vec<(Place, Value)> = wanted.filter(|(place, _)| !world.refused.contains_key(place)).collect();
    let applying = wanted.into_iter().map(|(place, object)| apply_one(client, world, place, object));
    let done: Vec<(Place, Value, Applied)> = stream::iter(applying).buffer_unordered(WRITES_AT_A_TIME).collect().await;
    for (place, desired, applied) in done {
        match applied {
            Applied::Is(object) => {
                books.0.insert(place.clone(), (hash(&desired), fingerprint(&object)));
                world.made.insert(place, object);
            }
            Applied::IsTaken => drop(world.taken.insert(place)),
            Applied::Refused(why) => {
                tracing::warn!(target: "gateways", object = %place, error = why, "an object of a waypoint cannot be applied; it is tried again");
                world.refused.insert(place, why);
            }
        }
    }
    for (place, uid) in delete {
        delete_one(client, &place, uid).await;
    }
    books.0.retain(|place, _| world.made.contains_key(place));
    let said = plan(world, settings, revisions, &now()).statuses;
    let saying = said.into_iter().map(|(subject, status)| say(client, subject, status));
    stream::iter(saying).buffer_unordered(WRITES_AT_A_TIME).collect::<Vec<()>>().await;
}

fn all_watched() -> impl Iterator<Item = Watched> {
    [Watched::Gateway, Watched::Class, Watched::Namespace].into_iter().chain(Made::ALL.map(Watched::Made))
}

fn watches(client: &Client) -> SelectAll<std::pin::Pin<Box<dyn Stream<Item = Told> + Send>>> {
    select_all(all_watched().map(|what| {
        let config = match what {
            Watched::Made(_) => watcher::Config::default().labels(MANAGED),
            _ => watcher::Config::default(),
        };
        let told: std::pin::Pin<Box<dyn Stream<Item = Told> + Send>> = match what {
            Watched::Namespace => {
                let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), config).backoff(Soon::default());
                Box::pin(namespaces.map(move |event| (what, event.map(bare))))
            }
            _ => Box::pin(watcher(Api::<DynamicObject>::all_with(client.clone(), &resource(what)), config).backoff(Soon::default()).map(move |event| (what, event))),
        };
        told
    }))
}

/// Of namespaces only labels are wanted.
fn bare(event: Event<PartialObjectMeta<Namespace>>) -> Event<DynamicObject> {
    let bare = |object: PartialObjectMeta<Namespace>| DynamicObject { types: None::<TypeMeta>, metadata: object.metadata, data: Value::Null };
    match event {
        Event::Apply(object) => Event::Apply(bare(object)),
        Event::Delete(object) => Event::Delete(bare(object)),
        Event::InitApply(object) => Event::InitApply(bare(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

fn resource(what: Watched) -> ApiResource {
    let (kind, group, version, plural) = match what {
        Watched::Gateway => ("Gateway", GROUP, VERSION, "gateways"),
        Watched::Class => ("GatewayClass", GROUP, VERSION, "gatewayclasses"),
        Watched::Namespace => ("Namespace", "", "v1", "namespaces"),
        Watched::Made(made) => made.resource(),
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.to_owned(), version: version.to_owned(), api_version, kind: kind.to_owned(), plural: plural.to_owned() }
}

fn take(world: &mut World, unlisted: &mut BTreeSet<Watched>, what: Watched, event: Event<DynamicObject>) {
    match event {
        Event::Init => {
            unlisted.insert(what);
            match what {
                Watched::Gateway => world.gateways.clear(),
                Watched::Class => world.classes.clear(),
                Watched::Namespace => world.namespaces.clear(),
                Watched::Made(made) => world.made.retain(|place, _| place.kind != made),
            }
        }
        Event::InitDone => drop(unlisted.remove(&what)),
        Event::InitApply(object) | Event::Apply(object) => hold(world, what, object),
        Event::Delete(object) => {
            let (namespace, name) = (object.metadata.namespace.unwrap_or_default(), object.metadata.name.unwrap_or_default());
            let full = NsName::new(&namespace, &name);
            match what {
                Watched::Gateway => drop(world.gateways.remove(&full)),
                Watched::Class => drop(world.classes.remove(&name)),
                Watched::Namespace => drop(world.namespaces.remove(&name)),
                Watched::Made(kind) => drop(world.made.remove(&Place { kind, name: full })),
            }
        }
    }
}

fn hold(world: &mut World, what: Watched, object: DynamicObject) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let full = NsName::new(object.metadata.namespace.as_deref().unwrap_or_default(), &name);
    match what {
        Watched::Class => drop(world.classes.insert(name, Class::of(&object))),
        Watched::Namespace => drop(world.namespaces.insert(name, object.metadata.labels.unwrap_or_default())),
        Watched::Gateway => match Gateway::of(object) {
            Ok(gateway) => drop(world.gateways.insert(full, gateway)),
            Err(error) => tracing::warn!(target: "gateways", gateway = %full, %error, "cannot be read; what was made for it stays as it is"),
        },
        Watched::Made(kind) => drop(world.made.insert(Place { kind, name: full }, value(object))),
    }
}

/// Without the books of the API server, which are the longest part.
fn value(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(object).unwrap_or_default()
}

impl Books {
    fn is_due(&self, place: &Place, desired: &Value, held: Option<&Value>) -> bool {
        let Some(held) = held else { return true };
        self.0.get(place) != Some(&(hash(desired), fingerprint(held)))
    }
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

/// What others may have changed of an object: all but what its own controller says about it.
fn fingerprint(object: &Value) -> u64 {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "generation", "managedFields"] {
            metadata.remove(field);
        }
    }
    hash(&object)
}

enum Applied {
    Is(Value),
    /// An object is there that was not made for a Gateway.
    IsTaken,
    Refused(String),
}

async fn apply_one(client: &Client, world: &World, place: Place, object: Value) -> (Place, Value, Applied) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &place.name.namespace, &resource(Watched::Made(place.kind)));
    let name = &*place.name.name;
    if !world.made.contains_key(&place) {
        match api.get_opt(name).await {
            Ok(Some(held)) if !held.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(MANAGED)) => return (place, object, Applied::IsTaken),
            Ok(_) => {}
            Err(error) => return (place, object, Applied::Refused(words(&error))),
        }
    }
    let applied = match api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await {
        Ok(held) => {
            tracing::info!(target: "gateways", object = %place, "applied");
            Applied::Is(value(held))
        }
        Err(error) => Applied::Refused(words(&error)),
    };
    (place, object, applied)
}

fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

async fn delete_one(client: &Client, place: &Place, uid: String) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &place.name.namespace, &resource(Watched::Made(place.kind)));
    let only_this = DeleteParams { preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }), ..DeleteParams::default() };
    match api.delete(&place.name.name, &only_this).await {
        Ok(_) => tracing::info!(target: "gateways", object = %place, "deleted: the Gateway does not ask for it any more"),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(target: "gateways", object = %place, %error, "cannot be deleted; it is tried again"),
    }
}

async fn create_class(client: &Client) {
    let resource = resource(Watched::Class);
    let class = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": CLASS },
        "spec": { "controllerName": CONTROLLER, "description": "A waypoint: routes and policy at layer 7 for services" },
    });
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let Ok(class) = serde_json::from_value(class) else { return };
    match api.create(&PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }, &class).await {
        Ok(_) => tracing::info!(target: "gateways", class = CLASS, "the class is made"),
        // Another replica, or somebody else, was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(target: "gateways", class = CLASS, %error, "the class cannot be made"),
    }
}

async fn say(client: &Client, subject: Subject, status: Value) {
    let (what, name) = match &subject {
        Subject::Class(name) => (Watched::Class, NsName::new("", name)),
        Subject::Gateway(name) => (Watched::Gateway, name.clone()),
    };
    let resource = resource(what);
    let api: Api<DynamicObject> = match what {
        Watched::Class => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), &name.namespace, &resource),
    };
    let patch = json!({ "apiVersion": resource.api_version, "kind": resource.kind, "metadata": { "name": &*name.name }, "status": status });
    match api.patch_status(&name.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => tracing::warn!(target: "gateways", ?subject, %error, "the status cannot be written; it is tried again"),
    }
}

/// ConfigMaps that say what is laid over every Gateway of a class.
async fn defaults(client: &Client, settings: &Settings, revisions: &BTreeSet<Arc<str>>, world: &mut World) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.root_namespace);
    match maps.list(&ListParams::default().labels(DEFAULTS_FOR_CLASS)).await {
        Ok(list) => {
            let mut defaults: BTreeMap<String, Vec<Parameters>> = BTreeMap::new();
            let is_ours = |map: &ConfigMap| map.metadata.labels.as_ref().and_then(|labels| labels.get("istio.io/rev")).is_none_or(|revision| revisions.contains(revision.as_str()));
            for map in list.items.into_iter().filter(is_ours) {
                let class = map.metadata.labels.as_ref().and_then(|labels| labels.get(DEFAULTS_FOR_CLASS)).cloned().unwrap_or_default();
                defaults.entry(class).or_default().push(parameters(map));
            }
            defaults.values_mut().for_each(|maps| maps.sort_by(|a, b| a.name.cmp(&b.name)));
            world.defaults = defaults;
        }
        Err(error) => tracing::warn!(target: "gateways", %error, "ConfigMaps with label {DEFAULTS_FOR_CLASS} cannot be read; what was read before stays in force"),
    }
}

fn parameters(map: ConfigMap) -> Parameters {
    let name = format!("{}/{}", map.metadata.namespace.unwrap_or_default(), map.metadata.name.unwrap_or_default());
    Parameters { name, data: map.data.unwrap_or_default() }
}

/// Reads what Gateways name: what was not read yet, and from time to time all of it.
async fn look_up(client: &Client, world: &mut World, plan: &Plan, is_late: bool) {
    world.parameters.retain(|name, _| plan.config_maps.contains(name));
    for name in &plan.config_maps {
        if !is_late && world.parameters.contains_key(name) {
            continue;
        }
        match Api::<ConfigMap>::namespaced(client.clone(), &name.namespace).get_opt(&name.name).await {
            Ok(map) => drop(world.parameters.insert(name.clone(), map.map(parameters))),
            Err(error) => tracing::warn!(target: "gateways", config_map = %name, %error, "parameters of a Gateway cannot be read; it is tried again"),
        }
    }
    if is_late {
        // What was in the way may be gone.
        world.taken.clear();
    }
    for name in &plan.services {
        let place = Place { kind: Made::Service, name: name.clone() };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, &resource(Watched::Made(Made::Service)));
        if let Ok(Some(_)) = api.get_metadata_opt(&name.name).await {
            world.taken.insert(place);
        }
    }
}
