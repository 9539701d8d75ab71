//! A policy as the control plane sends it: scope, action, and groups of rules of matches (spec/dataplane.md 6.1).
//!
//! # Entries that cannot be read
//! A CIDR of three bytes, a string match of no kind, port 70000: the sender meant *something*, we cannot know what.
//! Dropping such an entry, as others do, turns `source_ips: [garbage]` into "from anywhere". We keep it in its
//! place as [`Entry::Malformed`], whose truth is *unknown*, and carry the unknown through the whole boolean structure
//! (`matchers::Truth`). At the end an ALLOW counts only when it is true whatever the entry meant, a DENY counts as
//! soon as it may be true. So `source_ips: [garbage]` alone never allows and always denies;
//! `source_ips: [10.0.0.0/8, garbage]` still allows 10.1.1.1, and `not_source_ips: [10.0.0.0/8, garbage]` in a DENY
//! still spares 10.1.1.1: there the answer does not depend on what the entry meant. Whatever is well-formed keeps
//! the exact meaning of spec/dataplane.md 6.2.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::workload::PolicyKey;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub scope: Scope,
    pub action: Action,
    /// OR. No group: the policy never matches (so an ALLOW without groups denies everything it selects).
    pub groups: Vec<Group>,
    /// Evaluated and noted, never enforced; it does not even count as an existing ALLOW.
    pub dry_run: bool,
}

/// Whom a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// Only workloads that list the policy in `authorization_policies`.
    WorkloadSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Allow,
    Deny,
}

/// AND over its rules. No rule: matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Group {
    pub rules: Vec<Rule>,
}

/// OR over its matches. No match: true. Only empty matches: false, because an empty match never counts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    pub matches: Vec<Match>,
}

/// AND over twelve fields. An empty field is no constraint; otherwise any of the values must match, or, for a
/// `not_` field, none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Match {
    pub namespaces: Vec<Entry<StringMatch>>,
    pub not_namespaces: Vec<Entry<StringMatch>>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub principals: Vec<Entry<StringMatch>>,
    pub not_principals: Vec<Entry<StringMatch>>,
    pub source_ips: Vec<Entry<IpNet>>,
    pub not_source_ips: Vec<Entry<IpNet>>,
    pub destination_ips: Vec<Entry<IpNet>>,
    pub not_destination_ips: Vec<Entry<IpNet>>,
    pub destination_ports: Vec<Entry<u16>>,
    pub not_destination_ports: Vec<Entry<u16>>,
}

/// One value of a field, or the place of one that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<T> {
    Value(T),
    Malformed,
}

/// Case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any value but the empty one.
    Presence,
}

/// Both parts exact; the trust domain is not looked at (spec/dataplane.md 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

impl Policy {
    /// A policy without groups: it matches nothing yet.
    pub fn new(namespace: &str, name: &str, scope: Scope, action: Action) -> Policy {
        Policy { name: name.into(), namespace: namespace.into(), scope, action, groups: Vec::new(), dry_run: false }
    }

    /// `namespace/name`, the name the control plane gives the resource.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::new(&format!("{}/{}", self.namespace, self.name))
    }
}

impl Group {
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Group {
        Group { rules: rules.into_iter().collect() }
    }
}

impl Rule {
    pub fn new(matches: impl IntoIterator<Item = Match>) -> Rule {
        Rule { matches: matches.into_iter().collect() }
    }
}

impl Match {
    /// Nothing is asked, not even by a malformed entry. Such a match is skipped, it does not match everything.
    pub fn is_empty(&self) -> bool {
        *self == Match::default()
    }
}

impl StringMatch {
    pub fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    pub fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.into())
    }

    pub fn suffix(text: &str) -> StringMatch {
        StringMatch::Suffix(text.into())
    }
}

impl<T> From<T> for Entry<T> {
    fn from(value: T) -> Entry<T> {
        Entry::Value(value)
    }
}
