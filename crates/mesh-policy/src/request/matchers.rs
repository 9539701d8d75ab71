//! Does a rule match a request? For an ALLOW it must be certain; for the others it is enough that it may.

use std::borrow::Cow;

use super::pattern::{Pattern, Value};
use super::policy::{Action, Attribute, Condition, Policy, Rule};
use super::{Http, Request, readings};
use crate::matchers::Truth;
use crate::policy::Entry;

impl Action {
    fn must_be_certain(&self) -> bool {
        *self == Action::Allow
    }
}

impl Policy {
    /// The first rule that matches, and how certainly. A certain one counts before one that may.
    pub(super) fn matching(&self, request: &Request<'_>) -> (Truth, usize) {
        let mut best = (Truth::No, 0);
        for (index, rule) in self.rules.iter().enumerate() {
            let truth = rule.matches(request, self.action.must_be_certain());
            if truth > best.0 {
                best = (truth, index);
            }
            if truth == Truth::Yes {
                break;
            }
        }
        best
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>, certain: bool) -> Truth {
        if certain && request.http.is_none() && self.conditions().any(|condition| condition.attribute.is_of_http()) {
            return Truth::No;
        }
        let all = |conditions: &[Condition]| Truth::all(conditions.iter().map(|condition| condition.matches(request, certain)));
        let any = |sides: &[Vec<Condition>]| if sides.is_empty() { Truth::Yes } else { Truth::any(sides.iter().map(|side| all(side))) };
        let parts: [&dyn Fn() -> Truth; 3] = [&|| any(&self.to), &|| any(&self.from), &|| all(&self.when)];
        let truth = Truth::all(parts.iter().map(|part| part()));
        // One entry that cannot be read voids a rule that would allow.
        if certain && !self.conditions().all(Condition::is_readable) { truth.min(Truth::Unknown) } else { truth }
    }
}

impl Condition {
    fn matches(&self, request: &Request<'_>, certain: bool) -> Truth {
        if request.http.is_none() && self.attribute.is_of_http() {
            // Only of a rule that need not be certain: it is left out there, which makes the rule wider.
            return Truth::Yes;
        }
        let Some(fact) = fact(&self.attribute, request) else { return Truth::Unknown };
        let meets = |pattern: &Pattern, value: &Value<'_>| pattern.matches(value);
        // What would refuse looks for one reading that it means. What would allow takes what was written; of a header that is
        // sent several times that is the joined one. None of the readings may be excluded from what it allows.
        let all = || fact.each.iter().chain(&fact.joined).chain(&fact.other);
        let written = |pattern: &Pattern| {
            let holds = fact.each.iter().any(|value| meets(pattern, value));
            holds && fact.stripped.as_ref().is_none_or(|stripped| pattern.names_parameters() || meets(pattern, stripped))
        };
        let one_of = match (&fact.joined, certain) {
            _ if self.values.is_empty() => Truth::Yes,
            (Some(joined), true) => entries(&self.values, |pattern| meets(pattern, joined)),
            (None, true) => entries(&self.values, written),
            (_, false) => entries(&self.values, |pattern| all().any(|value| meets(pattern, value))),
        };
        let none_of = match (&fact.joined, certain) {
            _ if self.not_values.is_empty() => Truth::Yes,
            (Some(_), false) => Truth::any(all().map(|value| entries(&self.not_values, |pattern| meets(pattern, value)).not())),
            (None, false) => entries(&self.not_values, written).not(),
            (_, true) => entries(&self.not_values, |pattern| all().any(|value| meets(pattern, value))).not(),
        };
        one_of.min(none_of)
    }
}

/// Whether any of them holds. Those that cannot be read are left out; of nothing else, it is unknown.
fn entries(list: &[Entry<Pattern>], holds: impl Fn(&Pattern) -> bool) -> Truth {
    let readable = || list.iter().filter_map(|entry| if let Entry::Value(pattern) = entry { Some(pattern) } else { None });
    if readable().next().is_none() { Truth::Unknown } else { Truth::from(readable().any(holds)) }
}

/// What a request has of an attribute: nothing, a value, or several.
#[derive(Default)]
struct Fact<'a> {
    each: Vec<Value<'a>>,
    /// All of them as one; only where a client can send one as well as several.
    joined: Option<Value<'a>>,
    /// What an endpoint may take it for instead.
    other: Vec<Value<'a>>,
    /// A path without its parameters. A pattern that says nothing of parameters matches what was written only if it
    /// matches this too: `*.css` is not meant for `/admin;.css`.
    stripped: Option<Value<'a>>,
}

/// None: it cannot be known here.
fn fact<'a>(attribute: &Attribute, request: &Request<'a>) -> Option<Fact<'a>> {
    let values = |each: Vec<Value<'a>>| Some(Fact { each, ..Fact::default() });
    let identity = request.identity;
    let http = |read: &dyn Fn(&Http<'a>) -> Vec<Value<'a>>| values(request.http.as_ref().map(read).unwrap_or_default());
    match attribute {
        Attribute::Principal => values(principals(request)),
        Attribute::Namespace => values(identity.map(|id| text(&id.namespace)).into_iter().collect()),
        Attribute::TrustDomain => values(identity.map(|id| text(&id.trust_domain)).into_iter().collect()),
        Attribute::ServiceAccount => values(identity.map(Value::Identity).into_iter().collect()),
        Attribute::SourceIp => values(vec![Value::Address(request.source.to_canonical())]),
        Attribute::RemoteIp => values(vec![Value::Address(request.remote.to_canonical())]),
        Attribute::DestinationIp => values(vec![Value::Address(request.destination?.to_canonical())]),
        Attribute::DestinationPort => values(vec![Value::Port(request.port)]),
        Attribute::ServerName => values(request.server_name.map(text).into_iter().collect()),
        Attribute::Method => Some(request.http.as_ref().map(|http| method(http.method)).unwrap_or_default()),
        Attribute::Path => Some(request.http.as_ref().map(|http| path(http.path)).unwrap_or_default()),
        Attribute::Host => Some(request.http.as_ref().map(|http| host(http.authority, request.port)).unwrap_or_default()),
        Attribute::RequestPrincipal => http(&|http| {
            let token = http.token.filter(|token| !token.issuer.is_empty() && !token.subject.is_empty());
            token.map(Value::Token).into_iter().collect()
        }),
        Attribute::Claim(path) => http(&|http| http.token.map(|token| (token.claim)(path).into_iter().map(text).collect()).unwrap_or_default()),
        Attribute::Header(name) => Some(request.http.as_ref().map(|http| header(name, (http.header)(name))).unwrap_or_default()),
        Attribute::Unreadable => None,
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text.as_bytes()))
}

fn made<'a>(bytes: impl Into<Vec<u8>>) -> Value<'a> {
    Value::Text(Cow::Owned(bytes.into()))
}

fn method(method: &str) -> Fact<'_> {
    let other = readings::method(method).into_iter().map(made).collect();
    Fact { each: vec![text(method)], other, ..Fact::default() }
}

fn path(path: &str) -> Fact<'_> {
    let stripped = readings::without_parameters(path);
    let plain = readings::plain_paths(path, stripped.as_deref()).into_iter().map(made);
    let stripped = stripped.map(made);
    Fact { each: vec![text(path)], other: stripped.iter().cloned().chain(plain).collect(), stripped, ..Fact::default() }
}

fn host<'a>(host: &str, dialled: u16) -> Fact<'a> {
    let host = host.to_ascii_lowercase();
    let other = readings::hosts(&host, dialled).into_iter().map(made).collect();
    Fact { each: vec![made(host)], other, ..Fact::default() }
}

/// The peer's, under each name of its trust domain.
fn principals<'a>(request: &Request<'a>) -> Vec<Value<'a>> {
    let Some(id) = request.identity else { return Vec::new() };
    let under = |domain: &str| made([domain, "/ns/", &id.namespace, "/sa/", &id.service_account].concat());
    if request.trust_domains.contains(&id.trust_domain) {
        request.trust_domains.iter().map(|domain| under(domain)).collect()
    } else {
        vec![under(&id.trust_domain)]
    }
}

fn header<'a>(name: &str, each: Vec<&'a [u8]>) -> Fact<'a> {
    // HTTP/2 may send a cookie in pieces (RFC 9113 8.2.3).
    let between: &[u8] = if name == "cookie" { b"; " } else { b"," };
    let joined = (each.len() > 1).then(|| Value::Text(Cow::Owned(each.join(between))));
    Fact { each: each.into_iter().map(|value| Value::Text(Cow::Borrowed(value))).collect(), joined, ..Fact::default() }
}
