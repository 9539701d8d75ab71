//! May this flow reach this workload? The steps of spec/dataplane.md 6.4, closed where they are open elsewhere.

use std::sync::Arc;

use mesh_model::workload::{PolicyKey, Workload};

use crate::flow::Flow;
use crate::matchers::{Question, Truth};
use crate::policy::{Action, Policy};
use crate::set::PolicySet;
use crate::verdict::{Because, DryRunNote, Verdict};

/// `workload` is the local one the flow is for: its namespace and its list of policies count.
///
/// 1. Any DENY that matches refuses. 2. A selecting policy of which there is no content refuses. 3. No ALLOW: allowed.
/// 4. Any ALLOW that matches allows. 5. Otherwise refused.
pub fn decide(policies: &PolicySet, workload: &Workload, flow: &Flow) -> Verdict {
    if !policies.is_synced() {
        return Verdict { because: Because::NotSynced, dry_run: Vec::new() };
    }
    let question = Question::new(flow);
    let mut tally = Tally::default();
    for (key, policy) in policies.selecting(&workload.namespace) {
        tally.count(key, policy, &question);
    }
    for key in &workload.authorization_policies {
        match policies.referenced(key) {
            Some(policy) => tally.count(key, policy, &question),
            None => tally.missing = tally.missing.or(Some(Because::UnknownPolicy(key.clone()))),
        }
    }
    if let Some(key) = policies.unreadable_for(&workload.namespace, &workload.authorization_policies) {
        tally.missing = Some(Because::UnreadablePolicy(key.clone()));
    }
    tally.verdict()
}

/// Every policy that applies to `workload`, as `decide` looks at them: by namespace, global, then listed.
pub fn applicable<'a>(
    policies: &'a PolicySet,
    workload: &'a Workload,
) -> impl Iterator<Item = (&'a PolicyKey, &'a Arc<Policy>)> {
    let listed = workload.authorization_policies.iter();
    let listed = listed.filter_map(|key| Some((key, policies.referenced(key)?)));
    policies.selecting(&workload.namespace).chain(listed)
}

#[derive(Default)]
struct Tally {
    denied: Option<Because>,
    missing: Option<Because>,
    allowed: Option<PolicyKey>,
    allow_exists: bool,
    malformed_allow: Option<PolicyKey>,
    dry_run: Vec<DryRunNote>,
}

impl Tally {
    fn count(&mut self, key: &PolicyKey, policy: &Policy, question: &Question<'_>) {
        if policy.dry_run {
            return self.note(key, policy, question);
        }
        match policy.action {
            // A certain DENY is a better reason than a possible one.
            Action::Deny if !matches!(self.denied, Some(Because::DeniedBy(_))) => match policy.matches(question) {
                Truth::Yes => self.denied = Some(Because::DeniedBy(key.clone())),
                Truth::Unknown => self.denied = Some(Because::MayBeDeniedBy(key.clone())),
                Truth::No => {}
            },
            Action::Deny => {}
            Action::Allow => {
                self.allow_exists = true;
                if self.allowed.is_none() {
                    match policy.matches(question) {
                        Truth::Yes => self.allowed = Some(key.clone()),
                        Truth::Unknown if self.malformed_allow.is_none() => self.malformed_allow = Some(key.clone()),
                        Truth::Unknown => {}
                        Truth::No => {}
                    }
                }
            }
        }
    }

    fn note(&mut self, key: &PolicyKey, policy: &Policy, question: &Question<'_>) {
        let matched = policy.matches(question).counts_as_match(policy.action);
        let note = match (policy.action, matched) {
            (Action::Deny, true) => DryRunNote::WouldDeny(key.clone()),
            (Action::Deny, false) => return,
            (Action::Allow, true) => DryRunNote::WouldAllow(key.clone()),
            (Action::Allow, false) => DryRunNote::WouldNotAllow(key.clone()),
        };
        // A policy that selects the workload twice, by namespace and by name, is noted once.
        if !self.dry_run.contains(&note) {
            self.dry_run.push(note);
        }
    }

    fn verdict(self) -> Verdict {
        let because = match (self.denied, self.missing, self.allowed) {
            (Some(denied), _, _) => denied,
            (None, Some(missing), _) => missing,
            (None, None, Some(key)) => Because::AllowedBy(key),
            (None, None, None) if self.allow_exists => Because::NoneAllowed { malformed: self.malformed_allow },
            (None, None, None) => Because::NoAllowPolicy,
        };
        Verdict { because, dry_run: self.dry_run }
    }
}
