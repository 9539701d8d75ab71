//! May this request pass? AUDIT, DENY, ALLOW (spec/waypoint.md 4.2); and before them, whom CUSTOM wants to be asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Request;
use super::policy::{Action, Policy};
use crate::matchers::Truth;

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision<'p> {
    pub because: Because<'p>,
    /// What AUDIT and dry-run policies say. They never decide.
    pub notes: Vec<Note<'p>>,
}

/// With the index of the rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because<'p> {
    /// Allowed: there is no ALLOW policy, and no DENY matched.
    NoAllowPolicy,
    AllowedBy(&'p Policy, usize),
    DeniedBy(&'p Policy, usize),
    /// Refused: the rule holds something that cannot be read or known, and may have meant this request.
    MayBeDeniedBy(&'p Policy, usize),
    /// Refused: there are ALLOW policies, none matched. `malformed` is one that might have, were everything in it readable.
    NoneAllowed { malformed: Option<(&'p Policy, usize)> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'p> {
    Audit(&'p Policy, usize),
    WouldDeny(&'p Policy, usize),
    WouldAllow(&'p Policy, usize),
    /// An ALLOW that does not match: enforced, it would leave the request to other ALLOW policies.
    WouldNotAllow(&'p Policy),
}

impl Because<'_> {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Because::NoAllowPolicy | Because::AllowedBy(..))
    }
}

/// Of two that decide alike, the one that stands first is named.
pub fn decide<'p>(policies: impl IntoIterator<Item = &'p Policy>, request: &Request<'_>) -> Decision<'p> {
    let mut denied = None;
    let mut allowed = None;
    let mut malformed = None;
    let mut allow_exists = false;
    let mut notes = Vec::new();
    for policy in policies {
        let enforced_allow = policy.action == Action::Allow && !policy.dry_run;
        allow_exists |= enforced_allow;
        let decided = match policy.action {
            _ if policy.dry_run => false,
            Action::Allow => allowed.is_some(),
            Action::Deny => matches!(denied, Some(Because::DeniedBy(..))),
            Action::Audit => false,
            Action::Custom { .. } => true,
        };
        if decided {
            continue;
        }
        let (truth, rule) = policy.matching(request);
        match (&policy.action, policy.dry_run, truth) {
            (Action::Allow, false, Truth::Yes) => allowed = Some(Because::AllowedBy(policy, rule)),
            (Action::Allow, false, Truth::Unknown) => malformed = malformed.or(Some((policy, rule))),
            (Action::Deny, false, Truth::Yes) => denied = Some(Because::DeniedBy(policy, rule)),
            (Action::Deny, false, Truth::Unknown) => denied = denied.or(Some(Because::MayBeDeniedBy(policy, rule))),
            (Action::Allow, true, Truth::Yes) => notes.push(Note::WouldAllow(policy, rule)),
            (Action::Allow, true, _) => notes.push(Note::WouldNotAllow(policy)),
            (Action::Deny, true, Truth::Yes | Truth::Unknown) => notes.push(Note::WouldDeny(policy, rule)),
            (Action::Audit, _, Truth::Yes | Truth::Unknown) => notes.push(Note::Audit(policy, rule)),
            (Action::Custom { .. }, ..) | (_, _, Truth::No) => {}
        }
    }
    let because = match (denied, allowed) {
        (Some(denied), _) => denied,
        (None, Some(allowed)) => allowed,
        (None, None) if allow_exists => Because::NoneAllowed { malformed },
        (None, None) => Because::NoAllowPolicy,
    };
    Decision { because, notes }
}

/// Who must be asked about the request: each provider once, in the order of their names, with the policy and the rule
/// for which it is. A CUSTOM policy in dry-run asks nobody.
pub fn asked<'p>(policies: impl IntoIterator<Item = &'p Policy>, request: &Request<'_>) -> Vec<(Arc<str>, &'p Policy, usize)> {
    let mut asked: BTreeMap<&Arc<str>, (&Policy, usize)> = BTreeMap::new();
    for policy in policies {
        let Action::Custom { provider } = &policy.action else { continue };
        if policy.dry_run || asked.contains_key(provider) {
            continue;
        }
        let (truth, rule) = policy.matching(request);
        if truth != Truth::No {
            asked.insert(provider, (policy, rule));
        }
    }
    asked.into_iter().map(|(provider, (policy, rule))| (provider.clone(), policy, rule)).collect()
}
