//! Does a policy match a flow? The boolean structure of spec/dataplane.md 6.2 over three truth values.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::identity::SpiffeId;

use crate::flow::Flow;
use crate::policy::{Action, Entry, Group, Match, Policy, Rule, ServiceAccountMatch, StringMatch};

/// Kleene's three values. The order makes AND the minimum and OR the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    No,
    /// It depends on what a malformed entry meant.
    Unknown,
    Yes,
}

impl Truth {
    /// An ALLOW must be sure; a DENY need only be possible.
    pub fn counts_as_match(self, action: Action) -> bool {
        match action {
            Action::Allow => self == Truth::Yes,
            Action::Deny => self != Truth::No,
        }
    }

    pub(crate) fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
            Truth::Yes => Truth::No,
        }
    }

    /// AND; stops at the first `No`. `Yes` for nothing.
    pub(crate) fn all(values: impl IntoIterator<Item = Truth>) -> Truth {
        let mut so_far = Truth::Yes;
        for value in values {
            so_far = so_far.min(value);
            if so_far == Truth::No {
                break;
            }
        }
        so_far
    }

    /// OR; stops at the first `Yes`. `No` for nothing.
    pub(crate) fn any(values: impl IntoIterator<Item = Truth>) -> Truth {
        let mut so_far = Truth::No;
        for value in values {
            so_far = so_far.max(value);
            if so_far == Truth::Yes {
                break;
            }
        }
        so_far
    }
}

impl From<bool> for Truth {
    fn from(sure: bool) -> Truth {
        if sure { Truth::Yes } else { Truth::No }
    }
}

/// What the matches look at, prepared once per decision so that no match formats the principal again.
pub struct Question<'a> {
    flow: &'a Flow,
    /// The identity without `spiffe://`.
    principal: Option<String>,
}

impl<'a> Question<'a> {
    pub fn new(flow: &'a Flow) -> Question<'a> {
        Question { flow, principal: flow.identity().map(SpiffeId::principal) }
    }
}

impl Policy {
    pub fn matches(&self, question: &Question<'_>) -> Truth {
        Truth::any(self.groups.iter().map(|group| group.matches(question)))
    }
}

impl Group {
    fn matches(&self, question: &Question<'_>) -> Truth {
        Truth::all(self.rules.iter().map(|rule| rule.matches(question)))
    }
}

impl Rule {
    fn matches(&self, question: &Question<'_>) -> Truth {
        if self.matches.is_empty() {
            return Truth::Yes;
        }
        Truth::any(self.matches.iter().filter(|one| !one.is_empty()).map(|one| one.matches(question)))
    }
}

impl Match {
    /// Not for an empty match: `Rule` skips those. Cheap fields stand first, each is looked at only while the others hold.
    fn matches(&self, question: &Question<'_>) -> Truth {
        let Question { flow, principal } = question;
        let (source, destination) = (flow.source(), flow.destination());
        let identity = flow.identity();
        let port = |wanted: &u16| *wanted == destination.port();
        let from = |range: &IpNet| contains(range, source);
        let to = |range: &IpNet| contains(range, destination.ip());
        // Without an identity the namespace is compared as the empty string, so an empty prefix matches; a principal
        // never matches then, not even by an empty prefix (spec/dataplane.md 6.3).
        let namespace = identity.map_or("", |id| &id.namespace);
        let namespace = |wanted: &StringMatch| wanted.matches(namespace);
        let principal = |wanted: &StringMatch| principal.as_deref().is_some_and(|is| wanted.matches(is));
        let account = |wanted: &ServiceAccountMatch| identity.is_some_and(|id| wanted.matches(id));

        let fields: [&dyn Fn() -> Truth; 12] = [
            &|| one_of(&self.destination_ports, port),
            &|| none_of(&self.not_destination_ports, port),
            &|| one_of(&self.source_ips, from),
            &|| none_of(&self.not_source_ips, from),
            &|| one_of(&self.destination_ips, to),
            &|| none_of(&self.not_destination_ips, to),
            &|| one_of(&self.namespaces, namespace),
            &|| none_of(&self.not_namespaces, namespace),
            &|| Truth::from(self.service_accounts.is_empty() || self.service_accounts.iter().any(account)),
            &|| Truth::from(!self.not_service_accounts.iter().any(account)),
            &|| one_of(&self.principals, principal),
            &|| none_of(&self.not_principals, principal),
        ];
        Truth::all(fields.iter().map(|field| field()))
    }
}

impl StringMatch {
    pub fn matches(&self, text: &str) -> bool {
        self.matches_bytes(text.as_bytes())
    }

    /// What a client sends need not be UTF-8.
    pub fn matches_bytes(&self, text: &[u8]) -> bool {
        match self {
            StringMatch::Exact(wanted) => text == wanted.as_bytes(),
            StringMatch::Prefix(wanted) => text.starts_with(wanted.as_bytes()),
            StringMatch::Suffix(wanted) => text.ends_with(wanted.as_bytes()),
            StringMatch::Presence => !text.is_empty(),
        }
    }
}

impl ServiceAccountMatch {
    pub(crate) fn matches(&self, identity: &SpiffeId) -> bool {
        self.namespace == identity.namespace && self.service_account == identity.service_account
    }
}

/// Same family only: an IPv4 address is never in an IPv6 range. Host bits of the range are not looked at.
fn contains(range: &IpNet, ip: IpAddr) -> bool {
    range.contains(&ip)
}

fn one_of<T>(entries: &[Entry<T>], holds: impl Fn(&T) -> bool) -> Truth {
    if entries.is_empty() { Truth::Yes } else { any_entry(entries, holds) }
}

fn none_of<T>(entries: &[Entry<T>], holds: impl Fn(&T) -> bool) -> Truth {
    any_entry(entries, holds).not()
}

fn any_entry<T>(entries: &[Entry<T>], holds: impl Fn(&T) -> bool) -> Truth {
    Truth::any(entries.iter().map(|entry| match entry {
        Entry::Value(value) => Truth::from(holds(value)),
        Entry::Malformed => Truth::Unknown,
    }))
}
