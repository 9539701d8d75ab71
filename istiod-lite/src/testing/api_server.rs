//! As much of an API server as the controller uses, in memory: lists in pages and as streams, watches that can expire,
//! writes with versions and with server-side apply, and custom kinds that are served once their definition is there.
//! It answers a `kube::Client` directly, without a socket. Not here: schemas, admission, ownership of fields.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

/// Shared by its clients; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    /// Wakes watches, and whoever waits.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Place, Value>,
    /// Every change since `oldest`, with the version that it made.
    history: Vec<(u64, &'static str, Place, Value)>,
    /// Watches from before this version are told that it is gone.
    oldest: u64,
    /// Grows when all open watches are to be cut.
    cuts: u64,
    streaming: Streaming,
    /// Collections that nobody may read, and places that nobody may write.
    forbidden: BTreeSet<String>,
    /// What each field manager applied last.
    applied: BTreeMap<(Place, String), Value>,
    /// What a review of a token answers.
    tokens: BTreeMap<String, Value>,
    asked: Vec<String>,
    is_down: bool,
}

/// What becomes of lists as streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    #[default]
    Works,
    /// By an API server that does not know it.
    Refused,
    /// By an API server whose etcd does not.
    Fails,
}

/// `/api/v1/pods`, namespace (empty: none), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    collection: String,
    namespace: String,
    name: String,
}

type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

impl ApiServer {
    /// With the built-in kinds only.
    pub fn new() -> ApiServer {
        ApiServer { state: Arc::default(), version: watch::Sender::new(0) }
    }

    pub fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                if this.state.lock().is_down {
                    return Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "the API server is down"));
                }
                let answer = this.answer(&parts, &body);
                // Whoever waits may wait for the question.
                this.version.send_modify(|version| *version += 1);
                Ok::<Answer, std::io::Error>(answer)
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there, as `kubectl apply` of a whole object does.
    pub fn put(&self, collection: &str, object: Value) {
        let place = place_of(collection, &object);
        self.change(|state| state.store(place, object));
    }

    /// Puts each document of a YAML text there.
    pub fn put_yaml(&self, text: &str) {
        for document in crate::objects::read::documents(text) {
            let object: Value = serde_saphyr::from_str(document.text).unwrap();
            let kind = crate::objects::Kind::ALL.into_iter().find(|kind| object["kind"] == kind.name()).unwrap();
            self.put(&collection(kind), object);
        }
    }

    pub fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let place = Place { collection: collection.into(), namespace: namespace.into(), name: name.into() };
        self.change(|state| state.remove(&place));
    }

    pub fn object(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let place = Place { collection: collection.into(), namespace: namespace.into(), name: name.into() };
        self.state.lock().objects.get(&place).cloned()
    }

    /// Names the definition of a kind, which is served from now on.
    pub fn define(&self, kind: crate::objects::Kind) {
        let name = format!("{}.{}", kind.plural(), kind.group_versions().0);
        self.put(DEFINITIONS, json!({ "metadata": { "name": name } }));
    }

    /// The same, served in this version alone.
    pub fn define_in(&self, kind: crate::objects::Kind, version: &str) {
        let name = format!("{}.{}", kind.plural(), kind.group_versions().0);
        self.put(DEFINITIONS, json!({ "metadata": { "name": name }, "spec": { "versions": [{ "name": version, "served": true }] } }));
    }

    /// Cuts every open watch and forgets what happened before, so that each has to list again.
    pub fn expire(&self) {
        self.change(|state| {
            state.version += 1;
            (state.oldest, state.cuts) = (state.version, state.cuts + 1);
            state.history.clear();
        });
    }

    /// Cuts every open watch; they can go on from where they were.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    pub fn set_streaming(&self, streaming: Streaming) {
        self.state.lock().streaming = streaming;
    }

    pub fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
        if is_down {
            self.cut();
        }
    }

    /// Paths that begin so are forbidden.
    pub fn forbid(&self, path: &str) {
        self.state.lock().forbidden.insert(path.into());
    }

    pub fn allow(&self, path: &str) {
        self.state.lock().forbidden.remove(path);
    }

    /// What a review of this token says of it (`status` of a TokenReview).
    pub fn know_token(&self, token: &str, status: Value) {
        self.state.lock().tokens.insert(token.into(), status);
    }

    pub fn forget_token(&self, token: &str) {
        self.state.lock().tokens.remove(token);
    }

    /// How many requests had this method and a path that holds this.
    pub fn asked(&self, method: &str, path: &str) -> usize {
        self.state.lock().asked.iter().filter(|line| line.starts_with(method) && line.contains(path)).count()
    }

    /// Waits until what is held satisfies `wanted`.
    pub async fn until(&self, what: &str, mut wanted: impl FnMut(&ApiServer) -> bool) {
        let mut version = self.version.subscribe();
        let wait = async {
            while !wanted(self) {
                version.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        drop(state);
        self.version.send_modify(|version| *version += 1);
        result
    }

    fn answer(&self, parts: &http::request::Parts, body: &[u8]) -> Answer {
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = form(parts.uri.query().unwrap_or_default());
        let mut state = self.state.lock();
        state.asked.push(format!("{} {}", parts.method, parts.uri));
        if state.forbidden.iter().any(|prefix| path.starts_with(prefix)) {
            return status(403, "Forbidden", &format!("{path} is forbidden"));
        }
        if path.ends_with("/tokenreviews") {
            let review: Value = serde_json::from_slice(body).unwrap();
            let said = review["spec"]["token"].as_str().and_then(|token| state.tokens.get(token)).cloned();
            return whole(201, &json!({ "metadata": {}, "spec": {}, "status": said.unwrap_or_else(|| json!({ "authenticated": false, "error": "unknown" })) }));
        }
        let Some((mut place, subresource)) = split(&path) else { return state.resources(&path) };
        if !state.is_served(&place.collection) {
            return status(404, "NotFound", "the server could not find the requested resource");
        }
        if place.name.is_empty() && parts.method == Method::GET {
            drop(state);
            return if query.contains_key("watch") { self.watch(place, &query) } else { self.list(&place, &query) };
        }
        drop(state);
        let sent = || serde_json::from_slice::<Value>(body).unwrap();
        match parts.method {
            Method::GET => match self.state.lock().objects.get(&place) {
                Some(object) => whole(200, object),
                None => status(404, "NotFound", &format!("{} not found", place.name)),
            },
            Method::POST => self.change(|state| {
                let object = sent();
                place.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if state.objects.contains_key(&place) {
                    return status(409, "AlreadyExists", &format!("{} already exists", place.name));
                }
                whole(201, &state.store(place, object))
            }),
            Method::PUT => self.change(|state| {
                let object = sent();
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                match state.objects.get(&place) {
                    None => status(404, "NotFound", "not found"),
                    Some(held) if version(&object) != version(held) => status(409, "Conflict", "the object has been modified"),
                    Some(_) => whole(200, &state.store(place, object)),
                }
            }),
            Method::PATCH => self.change(|state| {
                let held = state.objects.get(&place).cloned();
                let is_json_patch = parts.headers["content-type"] == "application/json-patch+json";
                let next = match (held, subresource) {
                    (None, Some(_)) => return status(404, "NotFound", "not found"),
                    (None, None) if is_json_patch => return status(404, "NotFound", "not found"),
                    (None, None) => sent(),
                    (Some(held), _) if is_json_patch => json_patch(held, &sent()),
                    (Some(mut held), _) => {
                        let manager = (place.clone(), query.get("fieldManager").cloned().unwrap_or_default());
                        if let Some(before) = state.applied.insert(manager, sent()) {
                            prune(&mut held, &before, &sent());
                        }
                        merge(&mut held, sent());
                        held
                    }
                };
                whole(200, &state.store(place, next))
            }),
            Method::DELETE => self.change(|state| {
                state.remove(&place);
                whole(200, &json!({ "kind": "Status", "status": "Success" }))
            }),
            _ => status(405, "MethodNotAllowed", "no such method"),
        }
    }

    fn list(&self, place: &Place, query: &BTreeMap<String, String>) -> Answer {
        let state = self.state.lock();
        let all: Vec<&Value> = state.within(place, query).collect();
        let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let items: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
        let left = all.len() > from + items.len();
        let token = if left { json!((from + items.len()).to_string()) } else { Value::Null };
        whole(200, &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": state.version.to_string(), "continue": token }, "items": items }))
    }

    fn watch(&self, place: Place, query: &BTreeMap<String, String>) -> Answer {
        let state = self.state.lock();
        let wants_initial = query.contains_key("sendInitialEvents");
        if wants_initial && state.streaming == Streaming::Refused {
            return status(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled");
        }
        let mut lines = Vec::new();
        let mut seen: u64 = query["resourceVersion"].parse().unwrap();
        if wants_initial && state.streaming == Streaming::Fails {
            lines.push(line("ERROR", &json!({ "kind": "Status", "code": 500, "reason": "InternalError", "message": "the required storage feature RequestWatchProgress is disabled", "status": "Failure", "metadata": {} })));
        } else if wants_initial {
            lines.extend(state.within(&place, query).map(|object| line("ADDED", object)));
            seen = state.version;
            lines.push(line("BOOKMARK", &json!({ "kind": "x", "apiVersion": "v1", "metadata": { "resourceVersion": seen.to_string(), "annotations": { "k8s.io/initial-events-end": "true" } } })));
        } else if seen < state.oldest {
            lines.push(line("ERROR", &json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version", "status": "Failure", "metadata": {} })));
        }
        let (this, query, cuts) = (self.clone(), query.clone(), state.cuts);
        drop(state);
        let first = futures_util::stream::once(std::future::ready(Some(lines.concat())));
        let rest = WatchStream::new(self.version.subscribe()).scan(seen, move |seen, _| {
            let state = this.state.lock();
            if state.cuts != cuts {
                return std::future::ready(None);
            }
            let news = state.history.iter().filter(|(version, _, at, object)| *version > *seen && place.holds(at, object, &query));
            let text: String = news.map(|(_, kind, _, object)| line(kind, object)).collect();
            *seen = state.version;
            std::future::ready(Some(Some(text)))
        });
        let frames = first.chain(rest).filter_map(|text| std::future::ready(text.filter(|text| !text.is_empty())));
        let body = StreamBody::new(frames.map(|text| Ok(Frame::data(Bytes::from(text)))));
        Response::builder().status(200).body(body.boxed_unsync()).unwrap()
    }
}

impl State {
    fn store(&mut self, place: Place, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(place.name);
        if !place.namespace.is_empty() {
            metadata["namespace"] = json!(place.namespace);
        }
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", place.name));
        }
        if metadata["generation"].is_null() {
            metadata["generation"] = json!(1);
        }
        let kind = if self.objects.insert(place.clone(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push((self.version, kind, place, object.clone()));
        object
    }

    fn remove(&mut self, place: &Place) {
        if let Some(mut object) = self.objects.remove(place) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.history.push((self.version, "DELETED", place.clone(), object));
        }
    }

    fn within<'a>(&'a self, place: &'a Place, query: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(|(at, object)| place.holds(at, object, query)).map(|(_, object)| object)
    }

    /// A collection of Kubernetes itself, or one whose definition is there.
    fn is_served(&self, collection: &str) -> bool {
        if !collection.contains(".istio.io/") && !collection.contains("gateway.networking.k8s.io/") {
            return true;
        }
        let parts: Vec<&str> = collection.split('/').collect();
        let name = format!("{}.{}", parts[4], parts[2]);
        let definition = self.objects.iter().find(|(place, _)| place.collection == DEFINITIONS && place.name == name);
        definition.is_some_and(|(_, definition)| parts[3] == definition["spec"]["versions"][0]["name"].as_str().unwrap_or("v1"))
    }

    /// `/apis/GROUP/VERSION`.
    fn resources(&self, path: &str) -> Answer {
        let group = path.rsplit_once('/').map_or("", |(group, _)| group);
        let kinds = crate::objects::Kind::ALL.into_iter().map(|kind| (kind, format!("{path}/{}", kind.plural())));
        let served = kinds.filter(|(kind, at)| group.trim_start_matches("/apis/") == kind.group_versions().0 && self.is_served(at));
        let resources: Vec<Value> = served.map(|(kind, _)| json!({ "name": kind.plural(), "singularName": "", "namespaced": true, "kind": kind.name(), "verbs": ["list"] })).collect();
        match resources.is_empty() {
            true => status(404, "NotFound", "the server could not find the requested resource"),
            false => whole(200, &json!({ "kind": "APIResourceList", "groupVersion": path.trim_start_matches("/apis/"), "resources": resources })),
        }
    }
}

impl Place {
    /// Whether an object is in this collection, and in its namespace, selection of fields and label if there is one.
    fn holds(&self, at: &Place, object: &Value, query: &BTreeMap<String, String>) -> bool {
        let selected = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
        if query.get("labelSelector").is_some_and(|label| object["metadata"]["labels"].get(label).is_none()) {
            return false;
        }
        at.collection == self.collection && (self.namespace.is_empty() || at.namespace == self.namespace) && selected.is_none_or(|name| at.name == name)
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// `/api/v1/pods`.
pub fn collection(kind: crate::objects::Kind) -> String {
    match kind.group_versions() {
        ("", versions) => format!("/api/{}/{}", versions[0], kind.plural()),
        (group, versions) => format!("/apis/{group}/{}/{}", versions[0], kind.plural()),
    }
}

fn place_of(collection: &str, object: &Value) -> Place {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Place { collection: collection.into(), namespace: text("namespace"), name: text("name") }
}

/// A path of a collection or an object, and the subresource. `None`: a path of discovery.
fn split(path: &str) -> Option<(Place, Option<String>)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let prefix = if parts[0] == "api" { 2 } else { 3 };
    let mut rest = parts.get(prefix..)?.iter().map(|part| (*part).to_owned());
    let (mut resource, mut namespace) = (rest.next()?, String::new());
    if resource == "namespaces" && parts.len() > prefix + 2 && parts[prefix + 2] != "status" {
        namespace = rest.next()?;
        resource = rest.next()?;
    }
    let collection = format!("/{}/{resource}", parts[..prefix].join("/"));
    Some((Place { collection, namespace, name: rest.next().unwrap_or_default() }, rest.next()))
}

fn form(query: &str) -> BTreeMap<String, String> {
    mesh_runtime::admin::Query::parse(query).0.into_iter().collect()
}

fn line(kind: &str, object: &Value) -> String {
    // In this order, as API servers write it.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn whole(code: u16, value: &Value) -> Answer {
    Response::builder().status(code).header("content-type", "application/json").body(Full::from(value.to_string()).boxed_unsync()).unwrap()
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code });
    whole(StatusCode::from_u16(code).unwrap().as_u16(), &status)
}

/// Lists whose items have a type are merged by it; others are replaced.
fn merge(held: &mut Value, patch: Value) {
    match (held, patch) {
        (Value::Object(held), Value::Object(patch)) => {
            for (key, value) in patch {
                match value {
                    Value::Null => drop(held.remove(&key)),
                    value => merge(held.entry(key).or_insert(Value::Null), value),
                }
            }
        }
        (Value::Array(held), Value::Array(patch)) if patch.iter().all(|item| item["type"].is_string()) => {
            for item in patch {
                held.retain(|old| old["type"] != item["type"]);
                held.push(item);
            }
        }
        (held, patch) => *held = patch,
    }
}

/// What a field manager does not apply any more goes.
fn prune(held: &mut Value, before: &Value, next: &Value) {
    let conditions = |value: &Value| value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let gone: Vec<Value> = conditions(before).into_iter().filter(|old| !conditions(next).iter().any(|new| new["type"] == old["type"])).collect();
    if let Some(list) = held["status"]["conditions"].as_array_mut() {
        list.retain(|item| !gone.iter().any(|old| old["type"] == item["type"]));
    }
}

/// The operations that the controller uses: test and replace or add.
fn json_patch(mut object: Value, patch: &Value) -> Value {
    for step in patch.as_array().unwrap() {
        let path = step["path"].as_str().unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        match step["op"].as_str().unwrap() {
            "replace" | "add" => object.pointer_mut(parent).unwrap()[key] = step["value"].clone(),
            "test" => assert_eq!(object.pointer(path), Some(&step["value"])),
            other => panic!("{other}"),
        }
    }
    object
}
