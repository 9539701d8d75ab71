//! A YAML text becomes objects. Each document is read by itself, so that an error names its line and field, and so that
//! an unchanged document of a long file is not read again.
//!
//! Strict on purpose: what a misspelt field of a policy meant cannot be known, so it is an error; a misspelt field of
//! a Kubernetes object is reported, because API servers accept those.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::core::Refused;
use super::gateway::{GatewayClassSpec, GatewaySpec, GatewayStatus};
use super::istio::{ServiceEntrySpec, ServiceEntryStatus};
use super::material::AUTHORITIES;
use super::mesh_config::MESH;
use super::*;

/// Part of a file between two `---` lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Line of the file where the text begins, counted from 1.
    pub line: usize,
    pub text: &'a str,
}

/// What a document gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    pub object: Object,
    /// Fields that the object's type does not know, as paths.
    pub unknown_fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Contents {
    pub objects: Vec<Read>,
    /// `apiVersion/kind name` of what is somebody else's.
    pub foreign: Vec<String>,
}

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line of the file, counted from 1.
    pub line: usize,
    pub field: Option<String>,
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.field {
            Some(field) => write!(f, "line {}, field {field}: {}", self.line, self.what),
            None => write!(f, "line {}: {}", self.line, self.what),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    items: Vec<Value>,
}

/// The frame of the kinds whose types are our own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "Spec: DeserializeOwned + Default, Status: DeserializeOwned"))]
struct Custom<Spec, Status> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default = "none")]
    status: Option<Status>,
}

fn none<T>() -> Option<T> {
    None
}

/// Where an object is read from: its own text, an item of a `List`, or JSON of an API server.
#[derive(Clone, Copy)]
enum From<'a> {
    Text(Document<'a>),
    Item(Document<'a>, usize, &'a Value),
    Sent(&'a str),
}

/// Cuts a file at its document marks. Sound by YAML's own rule: a line that begins with `---` or `...` ends a document
/// even inside a quoted or block text.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut begin, mut begin_line, mut at, mut line) = (0, 1, 0, 1);
    for whole in text.split_inclusive('\n') {
        let bare = whole.trim_end();
        let is_mark = |mark| bare.strip_prefix(mark).is_some_and(|rest: &str| rest.is_empty() || rest.starts_with([' ', '\t']));
        let after = at + whole.len();
        if is_mark("---") || is_mark("...") {
            documents.push(Document { line: begin_line, text: &text[begin..at] });
            // What stands behind `---` on its line belongs to the document.
            (begin, begin_line) = (at + 3, line);
        }
        (at, line) = (after, line + 1);
    }
    documents.push(Document { line: begin_line, text: &text[begin..] });
    documents.retain(|document| document.text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%'])));
    documents
}

/// Reads one document: an object, a `List` of objects, or somebody else's object.
pub fn document(document: Document<'_>) -> Result<Contents, Fault> {
    let header: Header = From::Text(document).written()?;
    let mut contents = Contents::default();
    if header.kind == "List" && header.api_version == "v1" {
        for (index, item) in header.items.iter().enumerate() {
            let from = From::Item(document, index, item);
            let header: Header = from.written()?;
            one(from, &header, &mut contents)?;
        }
        return Ok(contents);
    }
    one(From::Text(document), &header, &mut contents)?;
    Ok(contents)
}

/// Reads an object as an API server sends it, JSON. The server has read its own kinds strictly before it took them;
/// ours go through the reader of files, so that a bad one is refused with the same words. A fault's line means nothing.
pub fn sent(kind: Kind, text: &str) -> Result<Object, Fault> {
    if kind.is_built_in() {
        return object(From::Sent(text), kind).map(|read| read.object);
    }
    let spread = spread(text).map_err(|error| From::Sent(text).fault("", said(&error.to_string())))?;
    object(From::Text(Document { line: 1, text: &spread }), kind).map(|read| read.object)
}

/// One field a line, so that faults name their field, without the longest part that nobody reads.
fn spread(text: &str) -> serde_json::Result<String> {
    let mut value: Value = serde_json::from_str(text)?;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    serde_json::to_string_pretty(&value)
}

fn one(from: From<'_>, header: &Header, contents: &mut Contents) -> Result<(), Fault> {
    if header.kind.is_empty() || header.api_version.is_empty() {
        return Err(from.fault("kind", "an object needs apiVersion and kind".into()));
    }
    match Kind::of(&header.api_version, &header.kind) {
        known if known == Known::Foreign || is_others(known, &from)? => {
            let name = from.value()?.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)").to_owned();
            contents.foreign.push(format!("{} {} {name}", header.api_version, header.kind));
        }
        Known::UnknownVersion(kind) => {
            let versions = kind.group_versions().1.join(", ");
            let what = format!("{kind} of version {} is not known here; known versions: {versions}", header.api_version);
            return Err(from.fault("apiVersion", what));
        }
        Known::Read(kind) => contents.objects.push(object(from, kind)?),
        Known::Foreign => {}
    }
    Ok(())
}

/// ConfigMaps and Secrets that hold nothing that is read here.
fn is_others(known: Known, from: &From<'_>) -> Result<bool, Fault> {
    let Known::Read(kind @ (Kind::ConfigMap | Kind::Secret)) = known else { return Ok(false) };
    let value = from.value()?;
    let mut entries = ["data", "stringData"].into_iter().filter_map(|field| value.get(field)?.as_object()).flat_map(|data| data.keys().map(String::as_str));
    Ok(!match kind {
        Kind::Secret => Secret::is_for_tls(entries),
        _ => entries.any(|name| [MESH, AUTHORITIES].contains(&name)),
    })
}

fn object(from: From<'_>, kind: Kind) -> Result<Read, Fault> {
    let known = |object| Read { object, unknown_fields: Vec::new() };
    Ok(match kind {
        Kind::Namespace => from.kubernetes(Namespace::take, Object::Namespace)?,
        Kind::Node => from.kubernetes(Node::take, Object::Node)?,
        Kind::Pod => from.shaped::<k8s_openapi::api::core::v1::Pod, _, _>(Pod::take, Object::Pod)?,
        Kind::Service => from.kubernetes(Service::take, Object::Service)?,
        Kind::EndpointSlice => from.kubernetes(EndpointSlice::take, Object::EndpointSlice)?,
        Kind::ServiceEntry => {
            let (meta, spec, status) = from.custom::<ServiceEntrySpec, ServiceEntryStatus>(kind)?;
            known(Object::ServiceEntry(ServiceEntry { meta, spec, allocated: status.unwrap_or_default().addresses }.into()))
        }
        Kind::WorkloadEntry => from.held(kind, |meta, spec| Object::WorkloadEntry(WorkloadEntry { meta, spec }.into()))?,
        Kind::AuthorizationPolicy => from.held(kind, |meta, spec| Object::AuthorizationPolicy(AuthorizationPolicy { meta, spec }.into()))?,
        Kind::PeerAuthentication => from.held(kind, |meta, spec| Object::PeerAuthentication(PeerAuthentication { meta, spec }.into()))?,
        Kind::RequestAuthentication => from.held(kind, |meta, spec| Object::RequestAuthentication(RequestAuthentication { meta, spec }.into()))?,
        Kind::HttpRoute => from.held(kind, |meta, spec| Object::HttpRoute(HttpRoute { meta, spec }.into()))?,
        Kind::GrpcRoute => from.held(kind, |meta, spec| Object::GrpcRoute(GrpcRoute { meta, spec }.into()))?,
        Kind::TcpRoute => from.held(kind, |meta, spec| Object::TcpRoute(TcpRoute { meta, spec }.into()))?,
        Kind::TlsRoute => from.held(kind, |meta, spec| Object::TlsRoute(TlsRoute { meta, spec }.into()))?,
        Kind::ReferenceGrant => from.held(kind, |meta, spec| Object::ReferenceGrant(ReferenceGrant { meta, spec }.into()))?,
        Kind::BackendTlsPolicy => from.held(kind, |meta, spec| Object::BackendTlsPolicy(BackendTlsPolicy { meta, spec }.into()))?,
        Kind::DestinationRule => from.held(kind, |meta, spec| Object::DestinationRule(DestinationRule { meta, spec }.into()))?,
        Kind::VirtualService => from.held(kind, |meta, spec| Object::VirtualService(VirtualService { meta, spec }.into()))?,
        Kind::Telemetry => from.held(kind, |meta, spec| Object::Telemetry(Telemetry { meta, spec }.into()))?,
        Kind::RateLimit => from.held(kind, |meta, spec| Object::RateLimit(RateLimit { meta, spec }.into()))?,
        Kind::Gateway => {
            let (meta, spec, status) = from.custom::<GatewaySpec, GatewayStatus>(kind)?;
            known(Object::Gateway(Gateway::of(meta, spec, status).into()))
        }
        Kind::ConfigMap => from.kubernetes(ConfigMap::take, Object::ConfigMap)?,
        Kind::Secret => from.kubernetes(Secret::take, Object::Secret)?,
        Kind::GatewayClass => {
            let (meta, spec, _) = from.custom::<GatewayClassSpec, Value>(kind)?;
            known(Object::GatewayClass(GatewayClass { meta, controller: spec.controller_name }.into()))
        }
    })
}

impl<'a> From<'a> {
    fn typed<T: DeserializeOwned>(self) -> Result<T, Fault> {
        match self {
            From::Sent(text) => serde_json::from_str(text).map_err(|error| self.fault("", said(&error.to_string()))),
            _ => self.written(),
        }
    }

    /// What is never read from JSON as it was sent: `sent` makes a text of the kinds that are ours. The same as `typed`, but
    /// compiled for one parser instead of two, which for some hundred types is half of this program's build.
    fn written<T: DeserializeOwned>(self) -> Result<T, Fault> {
        match self {
            From::Text(document) => serde_saphyr::from_str(document.text).map_err(|error| document.fault(&error)),
            // Through a text again: from values a struct could also be read from a list, field by field.
            From::Item(_, _, item) => self.plain(&item.to_string()),
            From::Sent(text) => self.plain(text),
        }
    }

    fn plain<T: DeserializeOwned>(self, text: &str) -> Result<T, Fault> {
        serde_saphyr::from_str(text).map_err(|error| self.fault("", said(&error.without_snippet().render_with_options(plain()))))
    }

    fn value(self) -> Result<Value, Fault> {
        self.written()
    }

    /// A kind of Kubernetes itself. What its type does not know is found by writing the object out again.
    fn kubernetes<T, Held>(self, take: fn(T) -> Result<Held, Refused>, wrap: fn(Arc<Held>) -> Object) -> Result<Read, Fault>
    where
        T: DeserializeOwned + serde::Serialize,
    {
        let typed: T = self.typed()?;
        let unknown_fields = self.unknown_fields(&typed)?;
        let held = take(typed).map_err(|(field, what)| self.fault(field, what))?;
        Ok(Read { object: wrap(held.into()), unknown_fields })
    }

    /// The same of a kind of which we read a few fields only. What an API server sends has been read strictly by it; what
    /// else we are given is read as the whole type `T` first.
    fn shaped<T, Shape, Held>(self, take: fn(Shape) -> Result<Held, Refused>, wrap: fn(Arc<Held>) -> Object) -> Result<Read, Fault>
    where
        T: DeserializeOwned + serde::Serialize,
        Shape: DeserializeOwned,
    {
        let unknown_fields = match self {
            From::Sent(_) => Vec::new(),
            _ => self.unknown_fields(&self.written::<T>()?)?,
        };
        let held = take(self.typed()?).map_err(|(field, what)| self.fault(field, what))?;
        Ok(Read { object: wrap(held.into()), unknown_fields })
    }

    fn unknown_fields<T: serde::Serialize>(self, typed: &T) -> Result<Vec<String>, Fault> {
        let mut unknown_fields = Vec::new();
        // A field that the API server knows and we do not is one of a newer Kubernetes, and nobody's mistake.
        if !matches!(self, From::Sent(_)) {
            let again = serde_json::to_value(typed).map_err(|error| self.fault("", error.to_string()))?;
            lost(&self.value()?, &again, "", &mut unknown_fields);
        }
        Ok(unknown_fields)
    }

    fn custom<Spec, Status>(self, kind: Kind) -> Result<(Meta, Spec, Option<Status>), Fault>
    where
        Spec: DeserializeOwned + Default,
        Status: DeserializeOwned,
    {
        let custom: Custom<Spec, Status> = self.written()?;
        let meta = Meta::of(kind, custom.metadata).map_err(|(field, what)| self.fault(field, what))?;
        Ok((meta, custom.spec.unwrap_or_default(), custom.status))
    }

    /// A kind of ours of which the status is nobody's business here.
    fn held<Spec: DeserializeOwned + Default>(self, kind: Kind, wrap: fn(Meta, Spec) -> Object) -> Result<Read, Fault> {
        let (meta, spec, _) = self.custom::<Spec, Value>(kind)?;
        Ok(Read { object: wrap(meta, spec), unknown_fields: Vec::new() })
    }

    /// A fault at a field that we know the path of; the line is found by its last name.
    fn fault(self, field: &str, what: String) -> Fault {
        match self {
            From::Text(document) => {
                let line = document.line_of(field);
                Fault { line, field: (!field.is_empty()).then(|| field.to_owned()), what }
            }
            From::Item(document, index, _) => {
                let dot = if field.is_empty() { "" } else { "." };
                Fault { line: document.line_of("items"), field: Some(format!("items[{index}]{dot}{field}")), what }
            }
            From::Sent(_) => Fault { line: 1, field: (!field.is_empty()).then(|| field.to_owned()), what },
        }
    }
}

impl Document<'_> {
    /// Line of the file where its first word stands.
    pub fn begin(self) -> usize {
        let is_word = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']);
        self.line + self.text.lines().position(is_word).unwrap_or(0)
    }

    fn fault(self, error: &serde_saphyr::Error) -> Fault {
        let bare = error.without_snippet();
        let what = said(&bare.render_with_options(plain()));
        let within = bare.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1).max(1));
        Fault { line: self.line + within - 1, field: self.field_at(within), what }
    }

    /// First line that holds the last name of a path as a key; the document's first line otherwise.
    fn line_of(self, field: &str) -> usize {
        let last = field.rsplit('.').next().unwrap_or(field);
        let holds = |line: &str| line.trim_start_matches([' ', '-']).trim_start_matches('"').strip_prefix(last).is_some_and(|rest| rest.trim_start_matches('"').starts_with(':'));
        let lines = || self.text.lines();
        let found = if last.is_empty() { None } else { lines().position(holds) };
        found.map_or_else(|| self.begin(), |line| self.line + line)
    }

    /// The path of the key at a line, by walking up through smaller indentations. Exact for block style, and the
    /// enclosing key for flow style.
    fn field_at(self, line: usize) -> Option<String> {
        let lines: Vec<&str> = self.text.lines().take(line).collect();
        let mut path: Vec<&str> = Vec::new();
        let mut depth = usize::MAX;
        for text in lines.iter().rev() {
            let bare = text.trim_start_matches([' ', '-']);
            let indent = text.len() - bare.len();
            let Some((key, rest)) = bare.split_once(':') else { continue };
            let key = key.trim_matches('"');
            let is_key = !key.is_empty() && !key.contains([' ', '"', '\'', '{', '[', '#']) && (rest.is_empty() || rest.starts_with(' '));
            if is_key && indent < depth {
                path.push(key);
                depth = indent;
            }
            if depth == 0 {
                break;
            }
        }
        path.reverse();
        (!path.is_empty()).then(|| path.join("."))
    }
}

/// The parser's message in an operator's words, without its line: that counts from the document's begin, ours, from the
/// file's begin, stands beside the text.
fn said(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let ends = [" at line ", ", set DuplicateKeyPolicy"];
    let bare = ends.iter().fold(first, |text, end| text.split(end).next().unwrap_or(text));
    bare.replace("expected mapping start", "expected a mapping, key: value").replace("expected sequence start", "expected a list").replace("invalid i32", "expected a number")
}

fn plain() -> serde_saphyr::RenderOptions<'static> {
    let mut options = serde_saphyr::RenderOptions::default();
    options.snippets = serde_saphyr::SnippetMode::Off;
    options
}

/// Paths of `before` that did not survive into `after`. Nulls never survive and mean nothing.
fn lost(before: &Value, after: &Value, path: &str, paths: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match after.get(key) {
                    Some(kept) => lost(value, kept, &path, paths),
                    None if value.is_null() => {}
                    None => paths.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (index, (value, kept)) in before.iter().zip(after).enumerate() {
                lost(value, kept, &format!("{path}[{index}]"), paths);
            }
        }
        _ => {}
    }
}
