//! May this request pass? The policies of a service, judged by `mesh-policy` (spec/waypoint.md 4). Pure.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use mesh_policy::request::{self, Because, Http, Request, Token};
use mesh_xds::messages::waypoint::AuthzPolicy;
use serde_json::Value;

use crate::facts::{Arrival, Claims, Head, Rejection};

mod read;

/// A policy that can be judged by.
#[derive(Clone, Debug)]
pub struct Policy {
    judged: request::Policy,
}

/// The user's object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Who is to be asked, and which rule of which CUSTOM policy says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub provider: Arc<str>,
    /// None: the filter of a route.
    pub policy: Option<PolicyName>,
    pub rule: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[must_use]
pub struct Verdict {
    pub refused: Option<Refused>,
    pub allowed_by: Option<PolicyName>,
    /// What AUDIT and dry-run policies say. They never decide.
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// None: no ALLOW policy allowed it.
    pub policy: Option<PolicyName>,
    pub rule: Option<usize>,
    /// `response_code_details` (spec/waypoint.md 6.2).
    pub details: String,
    /// The policy holds something that cannot be read, and but for that it might have been allowed: a sentence for the log.
    pub malformed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An AUDIT policy matched.
    Audit { policy: PolicyName, rule: usize },
    /// A DENY in dry-run would refuse.
    WouldDeny { policy: PolicyName, rule: usize },
    /// An ALLOW in dry-run would allow.
    WouldAllow { policy: PolicyName, rule: usize },
    /// An ALLOW in dry-run does not match.
    WouldNotAllow { policy: PolicyName },
}

/// The policy is in force whatever is wrong with it: what cannot be read allows nothing and refuses what it may have
/// meant. What is wrong is the second part.
pub fn compile(wire: &AuthzPolicy) -> (Policy, Option<Rejection>) {
    let (judged, complaints) = read::policy(wire);
    let rejection = (!complaints.is_empty()).then(|| Rejection::new("PartiallyInvalid", complaints.join("; ")));
    (Policy { judged }, rejection)
}

/// In the place of a policy of which nothing could be read: it refuses everything. `name`: `namespace/name`, as far as known.
pub fn unreadable(name: &str) -> Policy {
    Policy { judged: read::unreadable(name) }
}

/// Whom the CUSTOM policies want to be asked about this request: in the order of their names, each once.
/// `trust_domains`: the mesh's own, then its aliases.
pub fn custom(policies: &[Arc<Policy>], head: &Head<'_>, trust_domains: &[Arc<str>]) -> Vec<Ask> {
    with_request(head, trust_domains, |request| asked(policies, request))
}

/// AUDIT, DENY, ALLOW.
pub fn decide(policies: &[Arc<Policy>], head: &Head<'_>, trust_domains: &[Arc<str>]) -> Verdict {
    with_request(head, trust_domains, |request| verdict(policies, request))
}

/// As `custom`, for bytes that nobody looks into (spec/waypoint.md 4.4).
pub fn custom_stream(policies: &[Arc<Policy>], arrival: &Arrival, server_name: Option<&str>, trust_domains: &[Arc<str>]) -> Vec<Ask> {
    asked(policies, &stream(arrival, arrival.source.ip(), server_name, trust_domains))
}

/// As `decide`, for bytes that nobody looks into (spec/waypoint.md 4.4).
pub fn decide_stream(policies: &[Arc<Policy>], arrival: &Arrival, server_name: Option<&str>, trust_domains: &[Arc<str>]) -> Verdict {
    verdict(policies, &stream(arrival, arrival.source.ip(), server_name, trust_domains))
}

impl Ask {
    /// For the filter of a route, which names its provider itself.
    pub fn of_route(provider: &str) -> Ask {
        Ask { provider: provider.into(), policy: None, rule: 0 }
    }
}

impl PolicyName {
    fn of(policy: &request::Policy) -> PolicyName {
        PolicyName { namespace: policy.namespace.clone(), name: policy.name.clone() }
    }
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn asked(policies: &[Arc<Policy>], request: &Request<'_>) -> Vec<Ask> {
    let asked = request::asked(policies.iter().map(|policy| &policy.judged), request);
    asked.into_iter().map(|(provider, policy, rule)| Ask { provider, policy: Some(PolicyName::of(policy)), rule }).collect()
}

fn verdict(policies: &[Arc<Policy>], request: &Request<'_>) -> Verdict {
    let decision = request::decide(policies.iter().map(|policy| &policy.judged), request);
    let notes = decision.notes.iter().map(|note| match note {
        request::Note::Audit(policy, rule) => Note::Audit { policy: PolicyName::of(policy), rule: *rule },
        request::Note::WouldDeny(policy, rule) => Note::WouldDeny { policy: PolicyName::of(policy), rule: *rule },
        request::Note::WouldAllow(policy, rule) => Note::WouldAllow { policy: PolicyName::of(policy), rule: *rule },
        request::Note::WouldNotAllow(policy) => Note::WouldNotAllow { policy: PolicyName::of(policy) },
    });
    let mut verdict = Verdict { notes: notes.collect(), ..Verdict::default() };
    match decision.because {
        Because::NoAllowPolicy => {}
        Because::AllowedBy(policy, _) => verdict.allowed_by = Some(PolicyName::of(policy)),
        Because::DeniedBy(policy, rule) => verdict.refused = Some(refused(policy, rule, false)),
        Because::MayBeDeniedBy(policy, rule) => verdict.refused = Some(refused(policy, rule, true)),
        Because::NoneAllowed { malformed } => {
            let malformed = malformed.map(|(policy, rule)| cannot_be_read(policy, rule));
            verdict.refused = Some(Refused { policy: None, rule: None, details: details("none"), malformed });
        }
    }
    verdict
}

fn refused(policy: &request::Policy, rule: usize, malformed: bool) -> Refused {
    let name = format!("ns[{}]-policy[{}]-rule[{rule}]", policy.namespace, policy.name);
    let malformed = malformed.then(|| cannot_be_read(policy, rule));
    Refused { policy: Some(PolicyName::of(policy)), rule: Some(rule), details: details(&name), malformed }
}

fn details(matched: &str) -> String {
    format!("rbac_access_denied_matched_policy[{matched}]")
}

fn cannot_be_read(policy: &request::Policy, rule: usize) -> String {
    format!("rule {rule} of {} holds something that cannot be read, and may have meant this; correct the policy", PolicyName::of(policy))
}

fn stream<'a>(arrival: &'a Arrival, remote: IpAddr, server_name: Option<&'a str>, trust_domains: &'a [Arc<str>]) -> Request<'a> {
    Request {
        identity: Some(&arrival.identity),
        source: arrival.source.ip(),
        remote,
        destination: arrival.dialled.map(|address| address.ip()),
        port: arrival.target.port(),
        server_name,
        trust_domains,
        http: None,
    }
}

fn with_request<T>(head: &Head<'_>, trust_domains: &[Arc<str>], judge: impl FnOnce(&Request<'_>) -> T) -> T {
    let path_and_query = OnceCell::new();
    let path_and_query = || -> &str {
        match head.query {
            Some(query) => path_and_query.get_or_init(|| format!("{}?{query}", head.path)),
            None => head.path,
        }
    };
    let header = |name: &str| match name {
        ":authority" => vec![head.authority.as_bytes()],
        ":method" => vec![head.method.as_str().as_bytes()],
        ":path" => vec![path_and_query().as_bytes()],
        ":scheme" => vec![head.scheme.as_bytes()],
        // In HTTP/2 the authority stands for it.
        "host" => vec![head.authority.as_bytes()],
        name => values(head.headers, name),
    };
    let claim = |path: &[Arc<str>]| head.claims.map(|claims| texts(&claims.payload, path)).unwrap_or_default();
    let http = Http {
        method: head.method.as_str(),
        authority: head.authority,
        path: head.path,
        header: &header,
        token: head.claims.map(|claims| token(claims, &claim)),
    };
    judge(&Request { http: Some(http), ..stream(head.arrival, head.remote, None, trust_domains) })
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(|value| value.as_bytes()).collect()
}

fn token<'a>(claims: &'a Claims, claim: &'a dyn Fn(&[Arc<str>]) -> Vec<&'a str>) -> Token<'a> {
    Token { issuer: &claims.issuer, subject: claims.subject.as_deref().unwrap_or_default(), claim }
}

/// The text at `path`, or those in the list there.
fn texts<'a>(payload: &'a Value, path: &[Arc<str>]) -> Vec<&'a str> {
    let found = path.iter().try_fold(payload, |at, name| at.get(&**name));
    match found {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
