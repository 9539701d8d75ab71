//! Routes of the Gateway API to what waypoints route by: one message for each rule and parent (spec/waypoint.md 2).
//!
//! `attach` says what a route is for, `filters` and `backends` what it does there, here it is put together. Hostnames
//! mean nothing in a mesh: the address that was dialled says which service is meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_xds::messages::waypoint::{
    GrpcMatch, HTTP_ROUTE, HttpMatch, HttpRoute as Message, Invalid, KeyMatch, PathKind, PathMatch, RetryOn, RetryPolicy, Session, SessionKind, StrMatch, StrMatchKind,
    TCP_ROUTE, TLS_ROUTE, TcpRoute as TcpMessage, TlsRoute as TlsMessage,
};

use super::report::ParentReport;
use super::resource::{Resource, source};
use super::{Derived, Lens, Report};
use crate::objects::route::{GrpcMethodMatch, KeyMatch as AskedKey, ParentReference, PathMatch as AskedPath, Retry, SessionPersistence, Timeouts};
use crate::objects::{GrpcRoute, HttpRoute, Kind, Meta, ObjectKey, TcpRoute, TlsRoute};

mod attach;
mod backends;
mod filters;

pub use attach::{Claim, claims};
pub use attach::{attach, ports_of_parent};
use attach::Attached;
pub use backends::{backend_as_dialled, found_in_spec, has_port};
use backends::Problems;

/// A rule before it is given to parents.
enum Rule {
    Http(Box<Message>),
    Tcp(Box<TcpMessage>),
    Tls(Box<TlsMessage>),
}

/// All rules of a route, and what is wrong with them.
struct Rules {
    kind: Kind,
    rules: Vec<Rule>,
    problems: Problems,
    /// Providers that filters ask, by their names.
    providers: Vec<(String, mesh_xds::messages::waypoint::ExtAuthzProvider)>,
    notes: Vec<String>,
}

pub fn http_route(lens: &Lens<'_>, route: &HttpRoute) -> Derived {
    let mut all = Rules::of(Kind::HttpRoute);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let mut message = Message { rule_order: order(index), rule_name: rule.name.to_string(), ..Message::default() };
        let wrong = rule.matches.iter().find_map(|one| http_match(&one.path, &one.headers, &one.query_params, one.method.as_deref()).err());
        message.matches = rule.matches.iter().filter_map(|one| http_match(&one.path, &one.headers, &one.query_params, one.method.as_deref()).ok()).collect();
        let prefixes = filters::Place { is_one_prefix: is_one_prefix(&rule.matches), is_grpc: false };
        all.act(lens, &route.meta, index, &rule.filters, &rule.backend_refs, prefixes, &mut message);
        timeouts(rule.timeouts, &mut message);
        message.retry = rule.retry.as_ref().map(retry);
        message.session = rule.session_persistence.as_ref().map(|session| session_of(session, &mut all.notes));
        let wrong = wrong.or_else(|| wrong_timeouts(rule.timeouts)).or_else(|| rule.retry.as_ref().and_then(wrong_retry));
        all.push(index, wrong, message);
    }
    all.unused("spec.hostnames", !route.spec.hostnames.is_empty(), "the Service that was dialled says what is meant");
    all.unused(DEFAULT_GATEWAYS, route.spec.use_default_gateways.is_some(), IN_A_MESH);
    all.given(lens, &route.meta, &route.spec.parent_refs)
}

pub fn grpc_route(lens: &Lens<'_>, route: &GrpcRoute) -> Derived {
    let mut all = Rules::of(Kind::GrpcRoute);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let mut message = Message { grpc: true, rule_order: order(index), rule_name: rule.name.to_string(), ..Message::default() };
        let mut wrong = None;
        for one in &rule.matches {
            match grpc_match(one.method.as_ref(), &one.headers) {
                Ok(found) => message.matches.push(found),
                Err(why) => wrong = wrong.or(Some(why)),
            }
        }
        let place = filters::Place { is_one_prefix: false, is_grpc: true };
        all.act(lens, &route.meta, index, &rule.filters, &rule.backend_refs, place, &mut message);
        message.session = rule.session_persistence.as_ref().map(|session| session_of(session, &mut all.notes));
        all.push(index, wrong, message);
    }
    all.unused("spec.hostnames", !route.spec.hostnames.is_empty(), "the Service that was dialled says what is meant");
    all.unused(DEFAULT_GATEWAYS, route.spec.use_default_gateways.is_some(), IN_A_MESH);
    all.given(lens, &route.meta, &route.spec.parent_refs)
}

pub fn tcp_route(lens: &Lens<'_>, route: &TcpRoute) -> Derived {
    let mut all = Rules::of(Kind::TcpRoute);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let backends = backends::weighted(lens, &route.meta, &rule.backend_refs, &mut all.problems);
        all.rules.push(Rule::Tcp(Box::new(TcpMessage { rule_order: order(index), backends, ..TcpMessage::default() })));
    }
    all.unused(DEFAULT_GATEWAYS, route.spec.use_default_gateways.is_some(), IN_A_MESH);
    all.given(lens, &route.meta, &route.spec.parent_refs)
}

pub fn tls_route(lens: &Lens<'_>, route: &TlsRoute) -> Derived {
    let mut all = Rules::of(Kind::TlsRoute);
    let server_names: Vec<String> = route.spec.hostnames.iter().map(|name| name.to_string()).collect();
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let backends = backends::weighted(lens, &route.meta, &rule.backend_refs, &mut all.problems);
        all.rules.push(Rule::Tls(Box::new(TlsMessage { rule_order: order(index), server_names: server_names.clone(), backends, ..TlsMessage::default() })));
    }
    all.unused(DEFAULT_GATEWAYS, route.spec.use_default_gateways.is_some(), IN_A_MESH);
    all.given(lens, &route.meta, &route.spec.parent_refs)
}

fn order(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

const DEFAULT_GATEWAYS: &str = "spec.useDefaultGateways";
const IN_A_MESH: &str = "in a mesh a route names its parents";

impl Rules {
    /// Says that a field does nothing.
    fn unused(&mut self, field: &str, is_used: bool, why: &str) {
        if is_used {
            self.notes.push(format!("{field} has no effect: {why}"));
        }
    }

    fn of(kind: Kind) -> Rules {
        Rules { kind, rules: Vec::new(), problems: Problems::default(), providers: Vec::new(), notes: Vec::new() }
    }

    /// What a rule does: its filters and where it sends.
    #[allow(clippy::too_many_arguments, reason = "the parts of a rule, taken once")]
    fn act(&mut self, lens: &Lens<'_>, meta: &Meta, index: usize, asked: &[crate::objects::route::RouteFilter], to: &[crate::objects::route::BackendReference], place: filters::Place, message: &mut Message) {
        let name = format!("{}/{}/{}/{index}", self.kind, meta.namespace, meta.name);
        let mut made = filters::Made::new(lens, meta, &name, place, &mut self.problems, &mut self.providers);
        message.filters = made.filters(asked);
        message.backends = made.backends(to);
        if message.invalid.is_none() {
            message.invalid = made.invalid(index, asked, to);
        }
    }

    /// A rule that cannot be done as written answers with an error: a rule that is left out would let others match.
    fn push(&mut self, index: usize, wrong: Option<String>, mut message: Message) {
        if let Some(why) = wrong {
            self.problems.unsupported(index, why);
            message.invalid = Some(Invalid { reason: "UnsupportedValue".into(), status: 500 });
        }
        self.rules.push(Rule::Http(Box::new(message)));
    }

    /// The messages for each parent, and what is said to each.
    fn given(self, lens: &Lens<'_>, meta: &Meta, references: &[ParentReference]) -> Derived {
        let key = ObjectKey { kind: self.kind, name: meta.ns_name() };
        let mut derived = Derived::default();
        let mut report = Report::default();
        let accepted = self.problems.verdict(self.rules.len());
        for (index, reference) in references.iter().enumerate() {
            let Some(attached) = attach::attach(lens, self.kind, meta, reference) else { continue };
            if references[..index].contains(reference) {
                continue;
            }
            let mut conditions = Report::default();
            let mut routed_by = BTreeSet::new();
            match (&attached, &accepted) {
                (Ok(parent), Ok(())) => {
                    routed_by.clone_from(&parent.audience.gateways);
                    let section = reference.section_name.iter().map(|_| "; parentRefs.sectionName has no effect: parts of a Service are named by port".to_owned());
                    let remarks: String = self.notes.iter().map(|note| format!("; {note}")).chain(section).collect();
                    conditions.holds("Accepted", "Accepted", format!("attached{remarks}"));
                    self.publish(meta, parent, &mut derived);
                }
                (Err(refused), _) => conditions.fails("Accepted", refused.reason, refused.message.clone()),
                (_, Err((reason, message))) => conditions.fails("Accepted", reason, message.clone()),
            }
            self.problems.tell(&mut conditions);
            attach::tell_waypoints(&attached, &mut conditions);
            report.parents.push(ParentReport { reference: reference.clone(), conditions: conditions.conditions, routed_by });
        }
        if !report.parents.is_empty() {
            derived.reports.push((key, report));
        }
        derived
    }

    fn publish(&self, meta: &Meta, parent: &Attached, derived: &mut Derived) {
        if parent.audience.is_empty() {
            return;
        }
        for (provider, message) in &self.providers {
            let known = derived.resources.iter().any(|known| *known.name == **provider);
            if !known {
                let message = mesh_xds::messages::waypoint::ExtAuthzProvider { meta: source(self.kind, meta, ""), ..message.clone() };
                derived.resources.push(Resource::new(mesh_xds::messages::waypoint::EXT_AUTHZ_PROVIDER, provider, &message, &parent.audience));
            }
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let section = match rule {
                Rule::Http(message) if !message.rule_name.is_empty() => message.rule_name.clone(),
                _ => index.to_string(),
            };
            for (at, reference) in parent.references() {
                let name = format!("{}/{}/{}/{index}@{at}", self.kind, meta.namespace, meta.name);
                let (meta, parent_ref, consumer_namespace) = (source(self.kind, meta, &section), Some(reference), parent.consumer.to_string());
                let resource = match rule {
                    Rule::Http(rule) => Resource::new(HTTP_ROUTE, &name, &Message { meta, parent: parent_ref, consumer_namespace, ..(**rule).clone() }, &parent.audience),
                    Rule::Tcp(rule) => Resource::new(TCP_ROUTE, &name, &TcpMessage { meta, parent: parent_ref, consumer_namespace, ..(**rule).clone() }, &parent.audience),
                    Rule::Tls(rule) => Resource::new(TLS_ROUTE, &name, &TlsMessage { meta, parent: parent_ref, consumer_namespace, ..(**rule).clone() }, &parent.audience),
                };
                derived.resources.push(resource);
            }
        }
    }
}

fn is_one_prefix(matches: &[crate::objects::route::HttpRouteMatch]) -> bool {
    match matches {
        // The default match is the prefix `/`.
        [] => true,
        [one] => one.path.as_ref().is_none_or(|path| matches!(path.r#type.as_deref(), None | Some("PathPrefix"))),
        _ => false,
    }
}

pub(super) fn http_match(path: &Option<AskedPath>, headers: &[AskedKey], query: &[AskedKey], method: Option<&str>) -> Result<HttpMatch, String> {
    let method = match method {
        None => None,
        Some("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH") => method.map(exact),
        Some(other) => return Err(format!("matches.method: {other:?} is no method of HTTP")),
    };
    Ok(HttpMatch { path: path.as_ref().map(path_match).transpose()?, headers: keys("headers", headers, true)?, query: keys("queryParams", query, false)?, method, ..HttpMatch::default() })
}

fn path_match(asked: &AskedPath) -> Result<PathMatch, String> {
    let value = asked.value.as_deref().unwrap_or("/");
    let kind = match asked.r#type.as_deref() {
        None | Some("PathPrefix") => PathKind::PrefixSegment,
        Some("Exact") => PathKind::Exact,
        Some("RegularExpression") => PathKind::Regex,
        Some(other) => return Err(format!("matches.path.type: {other:?} is not Exact, PathPrefix or RegularExpression")),
    };
    let lower = value.to_ascii_lowercase();
    let is_bad = ["//", "/./", "/../", "%2f", "#"].iter().any(|bad| lower.contains(bad)) || lower.ends_with("/.") || lower.ends_with("/..");
    if kind != PathKind::Regex && (!value.starts_with('/') || is_bad) {
        return Err(format!("matches.path.value: {value:?} is no path that a request can have: it begins with / and has no //, /./, /../, %2f or #"));
    }
    if kind == PathKind::Regex {
        wrong_pattern(value).map_or(Ok(()), |why| Err(format!("matches.path.value: {why}")))?;
    }
    Ok(PathMatch { kind: kind as i32, value: value.to_owned(), ignore_case: false })
}

/// A pattern that is not even balanced; what else is wrong with it the proxy says.
pub fn wrong_pattern(pattern: &str) -> Option<String> {
    if pattern.is_empty() {
        return Some("the pattern is empty".into());
    }
    let (mut depth, mut in_class, mut escaped) = (0_i32, false, false);
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' if in_class => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    (depth != 0 || in_class || escaped).then(|| format!("{pattern:?} is no regular expression: its brackets do not fit"))
}

pub fn exact(text: &str) -> StrMatch {
    StrMatch { kind: Some(StrMatchKind::Exact(text.to_owned())) }
}

fn text(kind: Option<&str>, value: &str, field: &str) -> Result<StrMatch, String> {
    match kind {
        None | Some("Exact") => Ok(exact(value)),
        Some("RegularExpression") => match wrong_pattern(value) {
            Some(why) => Err(format!("matches.{field}: {why}")),
            None => Ok(StrMatch { kind: Some(StrMatchKind::Regex(value.to_owned())) }),
        },
        Some(other) => Err(format!("matches.{field}.type: {other:?} is not Exact or RegularExpression")),
    }
}

/// Of several entries of one name the first counts.
fn keys(field: &str, asked: &[AskedKey], ignores_case: bool) -> Result<Vec<KeyMatch>, String> {
    let mut found: Vec<KeyMatch> = Vec::new();
    for one in asked {
        let name = if ignores_case { one.name.to_ascii_lowercase() } else { one.name.to_string() };
        if name.is_empty() {
            return Err(format!("matches.{field}: an entry has no name"));
        }
        if found.iter().all(|known| known.name != name) {
            found.push(KeyMatch { name, value: Some(text(one.r#type.as_deref(), &one.value, field)?), invert: false });
        }
    }
    Ok(found)
}

fn grpc_match(method: Option<&GrpcMethodMatch>, headers: &[AskedKey]) -> Result<HttpMatch, String> {
    let grpc = match method {
        None => None,
        Some(asked) => {
            let part = |value: &Option<Arc<str>>, field| value.as_deref().filter(|value| !value.is_empty()).map(|value| text(asked.r#type.as_deref(), value, field)).transpose();
            let found = GrpcMatch { service: part(&asked.service, "method.service")?, method: part(&asked.method, "method.method")? };
            if found.service.is_none() && found.method.is_none() {
                return Err("matches.method: names neither a service nor a method".into());
            }
            Some(found)
        }
    };
    Ok(HttpMatch { grpc, headers: keys("headers", headers, true)?, ..HttpMatch::default() })
}

fn timeouts(asked: Timeouts, message: &mut Message) {
    message.request_timeout_ms = asked.request.map_or(0, |span| span.ms());
    message.backend_timeout_ms = asked.backend_request.map_or(0, |span| span.ms());
}

fn wrong_timeouts(asked: Timeouts) -> Option<String> {
    match (asked.request, asked.backend_request) {
        (Some(request), Some(backend)) if request.ms() > 0 && backend > request => Some("timeouts.backendRequest: is longer than timeouts.request".into()),
        _ => None,
    }
}

fn wrong_retry(asked: &Retry) -> Option<String> {
    let code = asked.codes.iter().find(|code| !(400..=599).contains(*code))?;
    Some(format!("retry.codes: {code} is no status that is retried: 400 to 599"))
}

/// Statuses that are listed, and connections that failed whatever is listed.
fn retry(asked: &Retry) -> RetryPolicy {
    let mut on = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest, RetryOn::AttemptTimeout];
    if !asked.codes.is_empty() {
        on.push(RetryOn::StatusCodes);
    }
    RetryPolicy {
        attempts: asked.attempts.unwrap_or(1),
        on: on.into_iter().map(|on| on as i32).collect(),
        codes: asked.codes.clone(),
        backoff_base_ms: asked.backoff.map_or(0, |span| span.ms()),
        ..RetryPolicy::default()
    }
}

fn session_of(asked: &SessionPersistence, notes: &mut Vec<String>) -> Session {
    let is_header = asked.r#type.as_deref() == Some("Header");
    let cookie = asked.cookie.as_ref().or(asked.cookie_config.as_ref());
    let given = if is_header { asked.header.as_ref().and_then(|header| header.name.clone()) } else { cookie.and_then(|cookie| cookie.name.clone()) };
    let permanent = !is_header && cookie.is_some_and(|cookie| cookie.lifetime_type.as_deref() == Some("Permanent"));
    if permanent && asked.absolute_timeout.is_none() {
        notes.push("sessionPersistence: a Permanent cookie without absoluteTimeout lives as long as the browser's session".into());
    }
    Session {
        kind: if is_header { SessionKind::Header } else { SessionKind::Cookie } as i32,
        name: given.or_else(|| asked.session_name.clone()).map_or_else(|| "isthmus-session".to_owned(), |name| name.to_string()),
        path: cookie.and_then(|cookie| cookie.path.as_deref()).unwrap_or_default().to_owned(),
        permanent: permanent && asked.absolute_timeout.is_some(),
        absolute_timeout_ms: asked.absolute_timeout.map_or(0, |span| span.ms()),
        idle_timeout_ms: asked.idle_timeout.map_or(0, |span| span.ms()),
    }
}
