//! As much of an API server as the agent and the plugin use, over HTTP in a namespace: lists, watches, single objects, merge
//! patches. Other kinds of answers, paging, schemas and versions are not here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use mesh_net::netns::Netns;
use serde_json::{Value, json};

/// Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    shared: Arc<(Mutex<State>, Condvar)>,
    pub address: SocketAddr,
}

#[derive(Default)]
struct State {
    /// By path, as `/api/v1/namespaces/shop/pods/cart-1`.
    objects: BTreeMap<String, Value>,
    /// Every change: its collection and what a watch is told.
    changes: Vec<(&'static str, Value)>,
    is_down: bool,
}

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const SETS: &str = "/apis/apps/v1/namespaces/istio-system/daemonsets";

impl ApiServer {
    /// Serves in this namespace, on loopback.
    pub fn start(netns: &Netns, home: &Netns) -> ApiServer {
        let listener = netns.run(home, || TcpListener::bind("127.0.0.1:0")).unwrap();
        let server = ApiServer { shared: Arc::default(), address: listener.local_addr().unwrap() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.answer(stream)); // an error: the client went away
            }
        });
        server
    }

    pub fn write_kubeconfig(&self, path: &Path) {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(path, text.to_string()).unwrap();
    }

    pub fn put(&self, path: &str, object: Value) {
        self.change(|state| {
            let known = state.objects.insert(path.to_owned(), object.clone()).is_some();
            state.changes.push((collection(path), json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object})));
        });
    }

    pub fn namespace(&self, name: &str, mode: Option<&str>) {
        let labels = mode.map(|mode| json!({"istio.io/dataplane-mode": mode})).unwrap_or(json!({}));
        self.put(&format!("{NAMESPACES}/{name}"), json!({"metadata": {"name": name, "labels": labels}}));
    }

    pub fn pod(&self, namespace: &str, name: &str, uid: &str) {
        let object = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {"nodeName": "node1", "serviceAccountName": "cart", "containers": []},
        });
        self.put(&format!("{NAMESPACES}/{namespace}/pods/{name}"), object);
    }

    /// Merges into what is there.
    pub fn merge(&self, path: &str, patch: &Value) -> bool {
        let Some(mut object) = self.get(path) else { return false };
        merge(&mut object, patch);
        self.put(path, object);
        true
    }

    pub fn remove(&self, path: &str) {
        self.change(|state| {
            let Some(object) = state.objects.remove(path) else { return };
            state.changes.push((collection(path), json!({"type": "DELETED", "object": object})));
        });
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.shared.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Cuts all watches and answers nobody until it is up again.
    pub fn set_down(&self, is_down: bool) {
        self.change(|state| state.is_down = is_down);
    }

    pub fn annotation(&self, path: &str, name: &str) -> Option<String> {
        Some(self.get(path)?["metadata"]["annotations"].get(name)?.as_str()?.to_owned())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.0.lock().unwrap());
        self.shared.1.notify_all();
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        if self.shared.0.lock().unwrap().is_down {
            return None;
        }
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let (mut lines, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim().to_owned();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.parse().ok()?;
            }
            lines.push(line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut words = lines.first()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match method {
            "GET" if query.contains("watch=true") => self.watch(stream, path, query),
            "GET" if [PODS, NAMESPACES, SETS].contains(&path) => {
                let state = self.shared.0.lock().unwrap();
                let items: Vec<&Value> = state.objects.iter().filter(|(at, _)| collection(at) == path).map(|(_, object)| object).collect();
                let list = json!({"metadata": {"resourceVersion": state.changes.len().to_string()}, "items": items});
                drop(state);
                say(stream, "200 OK", &list)
            }
            "GET" => found(stream, self.get(path)),
            "PATCH" => {
                let path = path.strip_suffix("/status").unwrap_or(path);
                let is_there = self.merge(path, &serde_json::from_slice(&body).ok()?);
                found(stream, self.get(path).filter(|_| is_there))
            }
            _ => say(stream, "201 Created", &serde_json::from_slice(&body).ok()?), // events
        }
    }

    fn watch(&self, mut stream: TcpStream, path: &str, query: &str) -> Option<()> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="))?;
        let mut seen: usize = from.parse().ok()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n").ok()?;
        loop {
            let state = self.shared.0.lock().unwrap();
            let state = self.shared.1.wait_while(state, |state| state.changes.len() <= seen && !state.is_down).unwrap();
            if state.is_down {
                return None;
            }
            let news: Vec<String> = (seen..state.changes.len())
                .filter(|at| state.changes[*at].0 == path)
                .map(|at| {
                    let mut told = state.changes[at].1.clone();
                    told["object"]["metadata"]["resourceVersion"] = (at + 1).to_string().into();
                    format!("{told}\n")
                })
                .collect();
            seen = state.changes.len();
            drop(state);
            stream.write_all(news.concat().as_bytes()).ok()?;
        }
    }
}

/// The collection that lists the object of this path.
fn collection(path: &str) -> &'static str {
    match path {
        path if path.contains("/pods/") => PODS,
        path if path.contains("/daemonsets/") => SETS,
        _ => NAMESPACES,
    }
}

fn found(stream: TcpStream, object: Option<Value>) -> Option<()> {
    let none = json!({"kind": "Status", "status": "Failure", "message": "not found", "reason": "NotFound", "code": 404});
    match object {
        Some(object) => say(stream, "200 OK", &object),
        None => say(stream, "404 Not Found", &none),
    }
}

fn say(mut stream: TcpStream, status: &str, answer: &Value) -> Option<()> {
    let body = answer.to_string();
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").ok()
}

/// RFC 7396.
fn merge(object: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in changes {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(key)),
            value => merge(&mut object[key], value),
        }
    }
}
