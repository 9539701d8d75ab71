//! AuthorizationPolicy to what node daemons enforce (spec/controlplane.md 5.1).
//!
//! Three outcomes. A policy that is understood becomes one `Policy`. What L4 cannot enforce (HTTP attributes) is left
//! out so that the policy gets no weaker than the field's, and the status says so. What is not understood at all is
//! refused as a whole: the last good version stays, and where there is none everybody is denied (`refused`).

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::workload::PolicyKey;
use mesh_policy::{Action, Group, Match, Policy, Rule, Scope};

use super::{Derived, Lens, Report, Settings};
use crate::objects::policy as object;
use crate::objects::{AuthorizationPolicy, Kind, Labels, NsName, ObjectKey};

mod values;

use values::{addresses, matches_nothing_else, ports, service_accounts, strings};

const DRY_RUN: &str = "istio.io/dry-run";
const ACCEPTED: &str = "ZtunnelAccepted";

/// What an action means at L4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Enforced(Action),
    /// AUDIT and CUSTOM need a proxy that reads requests.
    ForWaypoints,
    Unknown,
}

/// The rules of a policy as node daemons get them, and what had to be left out.
#[derive(Debug, Default)]
struct Converted {
    groups: Vec<Group>,
    /// Attributes that only a waypoint can look at.
    unsupported: BTreeSet<String>,
    /// No rule can have any effect.
    is_without_effect: bool,
}

pub fn authorization_policy(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(policy) = lens.cluster.authorization_policies.get(name) else { return Derived::default() };
    let key = ObjectKey { kind: Kind::AuthorizationPolicy, name: name.clone() };
    let mut report = Report::default();
    let mut derived = Derived::default();
    if policy.targets().next().is_some() {
        derived.resources.extend(super::request::authorization(lens, policy, &mut report));
    } else if !is_sent(policy, lens.settings) {
        report.fails(ACCEPTED, "UnsupportedValue", why_not_sent(policy));
    } else {
        derived.policies.push(sent(policy, lens.settings, &mut report).into());
    }
    if policy.spec.provider.is_some() && policy.spec.action.as_deref() != Some("CUSTOM") {
        report.note("spec.provider has a meaning with action CUSTOM only");
    }
    if policy.spec.rules.is_empty() && meaning(policy) == Meaning::Enforced(Action::Deny) {
        report.note("spec.rules is empty: action DENY denies nothing then");
    }
    if policy.selector().is_none() && policy.spec.selector.is_some() {
        report.note("spec.selector is empty, so the policy is for the whole namespace");
    }
    derived.reports.push((key, report));
    derived
}

/// Policies listed on a workload with these labels: each is sent, because both sides ask `is_sent`
/// (spec/controlplane.md 14.4).
pub fn selecting(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels) -> Vec<PolicyKey> {
    let root = &lens.settings.root_namespace;
    let mut places = vec![namespace];
    if root != namespace {
        places.push(root);
    }
    let mut listed: Vec<PolicyKey> = Vec::new();
    for place in places {
        for key in lens.cluster.selectors_of(Kind::AuthorizationPolicy, place, labels) {
            if lens.cluster.authorization_policies.get(&key.name).is_some_and(|policy| is_sent(policy, lens.settings)) {
                listed.push(PolicyKey::new(&key.name.to_string()));
            }
        }
    }
    listed.sort();
    listed
}

/// Whether node daemons get a policy at all. Depends on nothing but the policy.
pub fn is_sent(policy: &AuthorizationPolicy, settings: &Settings) -> bool {
    policy.targets().next().is_none()
        && meaning(policy) != Meaning::ForWaypoints
        && (settings.sends_dry_run || !is_dry_run(policy))
}

/// Whether a policy can refuse a request: AUDIT and dry runs only take notes, and a DENY without rules denies nothing.
pub fn can_refuse(policy: &AuthorizationPolicy) -> bool {
    let action = policy.spec.action.as_deref();
    action != Some("AUDIT") && !is_dry_run(policy) && (action != Some("DENY") || !policy.spec.rules.is_empty())
}

fn meaning(policy: &AuthorizationPolicy) -> Meaning {
    match policy.spec.action.as_deref() {
        None | Some("ALLOW") => Meaning::Enforced(Action::Allow),
        Some("DENY") => Meaning::Enforced(Action::Deny),
        Some("AUDIT" | "CUSTOM") => Meaning::ForWaypoints,
        Some(_) => Meaning::Unknown,
    }
}

fn is_dry_run(policy: &AuthorizationPolicy) -> bool {
    policy.meta.annotation(DRY_RUN).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn why_not_sent(policy: &AuthorizationPolicy) -> String {
    match (meaning(policy), is_dry_run(policy)) {
        (Meaning::ForWaypoints, _) => format!("action {} cannot be enforced at L4; the policy is not in force", policy.spec.action.as_deref().unwrap_or_default()),
        _ => format!(
            "{DRY_RUN} is not sent, because node daemons before Istio 1.29 would enforce it; \
             set AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY=true when there are none"
        ),
    }
}

fn sent(policy: &AuthorizationPolicy, settings: &Settings, report: &mut Report) -> Policy {
    let (namespace, name) = (&policy.meta.namespace, &policy.meta.name);
    let scope = match policy.selector() {
        Some(_) => Scope::WorkloadSelector,
        None if *namespace == settings.root_namespace => Scope::Global,
        None => Scope::Namespace,
    };
    match converted(policy) {
        Ok((action, converted)) => {
            tell(action, &converted, report);
            Policy { groups: converted.groups, dry_run: is_dry_run(policy), ..Policy::new(namespace, name, scope, action) }
        }
        Err(why) => {
            report.fails(ACCEPTED, "UnsupportedValue", format!("refused: {why}; until it is corrected everybody is denied by it"));
            // An ALLOW that allows nobody: what the policy was to permit is not known.
            Policy { dry_run: is_dry_run(policy), ..Policy::new(namespace, name, scope, Action::Allow) }
        }
    }
}

/// Why a policy cannot be understood, if it cannot. Asked before a new version replaces a good one.
pub fn refused(policy: &AuthorizationPolicy) -> Option<String> {
    if policy.targets().next().is_some() { for_waypoints(policy).err() } else { converted(policy).err() }
}

/// As much of a policy for waypoints as is plain without a request. What its values mean waypoints judge, who say it.
fn for_waypoints(policy: &AuthorizationPolicy) -> Result<(), String> {
    let spec = &policy.spec;
    if spec.selector.is_some() {
        return Err("spec.selector and spec.targetRefs exclude each other".into());
    }
    if meaning(policy) == Meaning::Unknown {
        return Err(format!("spec.action {:?} is not ALLOW, DENY, AUDIT or CUSTOM", spec.action.as_deref().unwrap_or_default()));
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        if rule.from.iter().any(|from| from.source == object::Source::default()) {
            return Err(format!("spec.rules[{index}].from.source is empty: name who it is about, or leave the entry out"));
        }
        if rule.to.iter().any(|to| to.operation == object::Operation::default()) {
            return Err(format!("spec.rules[{index}].to.operation is empty: name what it is about, or leave the entry out"));
        }
        if let Some(condition) = rule.when.iter().find(|condition| condition.values.is_empty() && condition.not_values.is_empty()) {
            return Err(format!("spec.rules[{index}].when ({}) has neither values nor notValues", condition.key));
        }
    }
    Ok(())
}

fn tell(action: Action, converted: &Converted, report: &mut Report) {
    if converted.unsupported.is_empty() {
        return report.holds(ACCEPTED, "Accepted", "attached to node daemons");
    }
    let attributes = converted.unsupported.iter().cloned().collect::<Vec<_>>().join(", ");
    let effect = if action == Action::Deny && converted.is_without_effect {
        "no rule of the policy has any effect"
    } else {
        "rules with them are left out or narrowed, so the policy is more restrictive than written"
    };
    report.holds(ACCEPTED, "UnsupportedValue", format!("only a waypoint can look at {attributes}; {effect}"));
}

fn converted(policy: &AuthorizationPolicy) -> Result<(Action, Converted), String> {
    let spec = &policy.spec;
    if spec.selector.is_some() && policy.targets().next().is_some() {
        return Err("spec.selector and spec.targetRefs exclude each other".into());
    }
    let action = match meaning(policy) {
        Meaning::Enforced(action) => action,
        // Its rules are not for us; there is nothing to be wrong with.
        Meaning::ForWaypoints => return Ok((Action::Deny, Converted::default())),
        Meaning::Unknown => return Err(format!("spec.action {:?} is not ALLOW, DENY, AUDIT or CUSTOM", spec.action.as_deref().unwrap_or_default())),
    };
    let mut result = Converted { is_without_effect: true, ..Converted::default() };
    for (index, rule) in spec.rules.iter().enumerate() {
        let mut unsupported = BTreeSet::new();
        let group = group(rule, &policy.meta.namespace, &mut unsupported).map_err(|why| format!("spec.rules[{index}].{why}"))?;
        let is_whole = unsupported.is_empty();
        result.unsupported.append(&mut unsupported);
        // An ALLOW without its HTTP half would allow more than was written; a DENY without it denies more.
        if action == Action::Allow && !is_whole {
            continue;
        }
        result.is_without_effect &= !can_match(&group);
        result.groups.push(group);
    }
    Ok((action, result))
}

/// A clause of nothing but empty matches is never true, and clauses are joined by AND.
fn can_match(group: &Group) -> bool {
    group.rules.iter().all(|clause| clause.matches.is_empty() || clause.matches.iter().any(|one| !one.is_empty()))
}

/// One rule: a clause for all of `to`, one for all of `from`, one for each `when`.
fn group(rule: &object::Rule, namespace: &Arc<str>, unsupported: &mut BTreeSet<String>) -> Result<Group, String> {
    let mut clauses = Vec::new();
    let each_to = rule.to.iter().enumerate().map(|(index, to)| operation(&to.operation, unsupported).map_err(|why| format!("to[{index}].operation{why}")));
    clauses.extend(clause(each_to.collect::<Result<_, _>>()?));
    let each_from = rule.from.iter().enumerate().map(|(index, from)| source(&from.source, namespace, unsupported).map_err(|why| format!("from[{index}].source{why}")));
    clauses.extend(clause(each_from.collect::<Result<_, _>>()?));
    for (index, condition) in rule.when.iter().enumerate() {
        clauses.push(Rule { matches: vec![when(condition, unsupported).map_err(|why| format!("when[{index}]{why}"))?] });
    }
    Ok(Group { rules: clauses })
}

fn clause(matches: Vec<Match>) -> Option<Rule> {
    (!matches.is_empty()).then_some(Rule { matches })
}

fn operation(operation: &object::Operation, unsupported: &mut BTreeSet<String>) -> Result<Match, String> {
    if *operation == object::Operation::default() {
        return Err(" is empty: name what it is about, or leave the entry out".into());
    }
    let l7 = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    matches_nothing_else(&l7, unsupported);
    Ok(Match {
        destination_ports: ports(".ports", &operation.ports)?,
        not_destination_ports: ports(".notPorts", &operation.not_ports)?,
        ..Match::default()
    })
}

fn source(source: &object::Source, namespace: &Arc<str>, unsupported: &mut BTreeSet<String>) -> Result<Match, String> {
    if *source == object::Source::default() {
        return Err(" is empty: name who it is about, or leave the entry out".into());
    }
    // Dropped in silence, a trust domain beside principals would widen an ALLOW (spec/controlplane.md 14.22).
    for (field, values) in [("trustDomains", &source.trust_domains), ("notTrustDomains", &source.not_trust_domains)] {
        if !values.is_empty() {
            return Err(format!(".{field} is not supported; write principals with their trust domain"));
        }
    }
    let l7 = [
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    matches_nothing_else(&l7, unsupported);
    // Not for us to match, but a slip here would be found by nobody.
    addresses(".remoteIpBlocks", &source.remote_ip_blocks)?;
    addresses(".notRemoteIpBlocks", &source.not_remote_ip_blocks)?;
    Ok(Match {
        source_ips: addresses(".ipBlocks", &source.ip_blocks)?,
        not_source_ips: addresses(".notIpBlocks", &source.not_ip_blocks)?,
        namespaces: strings(".namespaces", &source.namespaces)?,
        not_namespaces: strings(".notNamespaces", &source.not_namespaces)?,
        service_accounts: service_accounts(".serviceAccounts", &source.service_accounts, namespace)?,
        not_service_accounts: service_accounts(".notServiceAccounts", &source.not_service_accounts, namespace)?,
        principals: strings(".principals", &source.principals)?,
        not_principals: strings(".notPrincipals", &source.not_principals)?,
        ..Match::default()
    })
}

fn when(condition: &object::Condition, unsupported: &mut BTreeSet<String>) -> Result<Match, String> {
    let object::Condition { key, values, not_values } = condition;
    if values.is_empty() && not_values.is_empty() {
        return Err(format!(" ({key}) has neither values nor notValues"));
    }
    let mut found = Match::default();
    match &**key {
        "source.ip" => (found.source_ips, found.not_source_ips) = (addresses(".values", values)?, addresses(".notValues", not_values)?),
        "source.namespace" => (found.namespaces, found.not_namespaces) = (strings(".values", values)?, strings(".notValues", not_values)?),
        "source.principal" => (found.principals, found.not_principals) = (strings(".values", values)?, strings(".notValues", not_values)?),
        "destination.ip" => (found.destination_ips, found.not_destination_ips) = (addresses(".values", values)?, addresses(".notValues", not_values)?),
        "destination.port" => (found.destination_ports, found.not_destination_ports) = (ports(".values", values)?, ports(".notValues", not_values)?),
        other if values::is_request_attribute(other) => {
            unsupported.insert(format!("when {other}"));
        }
        other => return Err(format!(".key {other:?} is not an attribute of Istio")),
    }
    Ok(found)
}
