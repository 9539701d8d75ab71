//! May this request pass? The policies of a service, judged by `mesh-policy` (spec/waypoint.md 4). Pure.

use std::sync::Arc;

use mesh_xds::messages::waypoint::AuthzPolicy;

use crate::facts::{Arrival, Head, Rejection};

/// A policy that can be judged by.
#[derive(Clone, Debug)]
pub struct Policy {
    wire: AuthzPolicy,
}

/// The user's object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Whom a CUSTOM policy wants to be asked, and which of its rules says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub provider: Arc<str>,
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
    (Policy { wire: wire.clone() }, None)
}

/// Whom the CUSTOM policies want to be asked about this request: in the order of their names, each once.
/// `trust_domains`: the mesh's own, then its aliases.
pub fn custom(policies: &[Arc<Policy>], head: &Head<'_>, trust_domains: &[Arc<str>]) -> Vec<Ask> {
    let _ = (policies, head, trust_domains);
    Vec::new()
}

/// AUDIT, DENY, ALLOW.
pub fn decide(policies: &[Arc<Policy>], head: &Head<'_>, trust_domains: &[Arc<str>]) -> Verdict {
    let _ = (head, trust_domains);
    closed(policies)
}

/// As `custom`, for bytes that nobody looks into (spec/waypoint.md 4.4).
pub fn custom_stream(policies: &[Arc<Policy>], arrival: &Arrival, server_name: Option<&str>, trust_domains: &[Arc<str>]) -> Vec<Ask> {
    let _ = (policies, arrival, server_name, trust_domains);
    Vec::new()
}

/// As `decide`, for bytes that nobody looks into (spec/waypoint.md 4.4).
pub fn decide_stream(policies: &[Arc<Policy>], arrival: &Arrival, server_name: Option<&str>, trust_domains: &[Arc<str>]) -> Verdict {
    let _ = (arrival, server_name, trust_domains);
    closed(policies)
}

fn closed(policies: &[Arc<Policy>]) -> Verdict {
    let refused = policies.first().map(|policy| Refused { policy: None, rule: None, details: policy.wire.provider.clone() });
    Verdict { refused, ..Verdict::default() }
}
