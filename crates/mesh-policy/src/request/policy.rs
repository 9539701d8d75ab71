//! A policy: an action and rules of conditions. An entry that cannot be read keeps its place, as in `crate::policy`, and
//! an ALLOW rule that holds one allows nothing; elsewhere the entry is left out, and a list of nothing else may mean anything.

use std::sync::Arc;

use super::pattern::Pattern;
use crate::policy::Entry;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub action: Action,
    /// Evaluated and noted, never enforced; it does not even count as an existing ALLOW.
    pub dry_run: bool,
    /// OR. No rule: the policy never matches (so an ALLOW without rules denies everything).
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    /// Somebody else is asked.
    Custom { provider: Arc<str> },
}

/// Any of `from`, any of `to`, all of `when`; what is inside of one `from` or `to` must hold together. An empty list
/// asks nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    pub from: Vec<Vec<Condition>>,
    pub to: Vec<Vec<Condition>>,
    pub when: Vec<Condition>,
}

/// One of `values` and none of `not_values`; an empty list asks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub attribute: Attribute,
    pub values: Vec<Entry<Pattern>>,
    pub not_values: Vec<Entry<Pattern>>,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Principal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    ServerName,
    RequestPrincipal,
    Host,
    Method,
    Path,
    /// Its name in lower case.
    Header(Arc<str>),
    Claim(Vec<Arc<str>>),
    /// A key that is not known: whether its condition holds is unknown.
    Unreadable,
}

impl Attribute {
    /// Bytes that nobody looks into do not have it.
    pub fn is_of_http(&self) -> bool {
        matches!(self, Attribute::RequestPrincipal | Attribute::Host | Attribute::Method | Attribute::Path | Attribute::Header(_) | Attribute::Claim(_))
    }
}

impl Condition {
    /// In the place of what cannot be read at all.
    pub fn unreadable() -> Condition {
        Condition { attribute: Attribute::Unreadable, values: vec![Entry::Malformed], not_values: Vec::new() }
    }

    pub fn is_readable(&self) -> bool {
        self.attribute != Attribute::Unreadable && self.values.iter().chain(&self.not_values).all(|entry| *entry != Entry::Malformed)
    }
}

impl Rule {
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}
