//! Authorization <-> `Policy`.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::workload::PolicyKey;
use mesh_policy::{Action, Affected, Entry, Group, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};

use super::{Rejected, UnreadablePolicy, decode_ip, encode_ip, known};
use crate::messages::security::{self as message, StringMatchKind as Kind};
use crate::messages::Empty;

/// An unknown scope or action makes the whole policy unreadable; an entry of a match that cannot be read stays where it
/// is, as malformed (the docs of `mesh_policy::policy` say what that means).
pub fn decode_policy(name: &str, policy: message::Authorization) -> Result<Policy, UnreadablePolicy> {
    let unreadable = |reason: Rejected, reach: Affected| UnreadablePolicy { reason, reach };
    let scope = known("scope", policy.scope).map_err(|reason| unreadable(reason, reach_of_name(name)))?;
    let reach = match scope {
        message::Scope::Global => Affected::Everyone,
        message::Scope::Namespace if policy.namespace.is_empty() => Affected::Everyone,
        message::Scope::Namespace => Affected::Namespace(policy.namespace.as_str().into()),
        message::Scope::WorkloadSelector => Affected::Referrers(PolicyKey::new(name)),
    };
    let action = known("action", policy.action).map_err(|reason| unreadable(reason, reach))?;
    Ok(Policy {
        name: policy.name.into(),
        namespace: policy.namespace.into(),
        scope: match scope {
            message::Scope::Global => Scope::Global,
            message::Scope::Namespace => Scope::Namespace,
            message::Scope::WorkloadSelector => Scope::WorkloadSelector,
        },
        action: match action {
            message::Action::Allow => Action::Allow,
            message::Action::Deny => Action::Deny,
        },
        groups: policy.groups.into_iter().map(decode_group).collect(),
        dry_run: policy.dry_run,
    })
}

/// `namespace/name`: a policy whose scope cannot be read selects at most its namespace, as far as we can tell.
pub(super) fn reach_of_name(name: &str) -> Affected {
    match name.split_once('/') {
        Some((namespace, _)) if !namespace.is_empty() => Affected::Namespace(namespace.into()),
        _ => Affected::Everyone,
    }
}

pub fn encode_policy(policy: &Policy) -> message::Authorization {
    let scope = match policy.scope {
        Scope::Global => message::Scope::Global,
        Scope::Namespace => message::Scope::Namespace,
        Scope::WorkloadSelector => message::Scope::WorkloadSelector,
    };
    let action = match policy.action {
        Action::Allow => message::Action::Allow,
        Action::Deny => message::Action::Deny,
    };
    message::Authorization {
        name: policy.name.to_string(),
        namespace: policy.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        groups: policy.groups.iter().map(encode_group).collect(),
        dry_run: policy.dry_run,
    }
}

fn decode_group(group: message::Group) -> Group {
    let rule = |rules: message::Rules| Rule { matches: rules.matches.into_iter().map(decode_match).collect() };
    Group { rules: group.rules.into_iter().map(rule).collect() }
}

fn encode_group(group: &Group) -> message::Group {
    let rules = |rule: &Rule| message::Rules { matches: rule.matches.iter().map(encode_match).collect() };
    message::Group { rules: group.rules.iter().map(rules).collect() }
}

fn decode_match(one: message::Match) -> Match {
    Match {
        namespaces: each(one.namespaces, decode_string),
        not_namespaces: each(one.not_namespaces, decode_string),
        service_accounts: each(one.service_accounts, decode_account),
        not_service_accounts: each(one.not_service_accounts, decode_account),
        principals: each(one.principals, decode_string),
        not_principals: each(one.not_principals, decode_string),
        source_ips: each(one.source_ips, decode_range),
        not_source_ips: each(one.not_source_ips, decode_range),
        destination_ips: each(one.destination_ips, decode_range),
        not_destination_ips: each(one.not_destination_ips, decode_range),
        destination_ports: each(one.destination_ports, decode_port),
        not_destination_ports: each(one.not_destination_ports, decode_port),
    }
}

fn encode_match(one: &Match) -> message::Match {
    message::Match {
        namespaces: each(&one.namespaces, encode_string),
        not_namespaces: each(&one.not_namespaces, encode_string),
        principals: each(&one.principals, encode_string),
        not_principals: each(&one.not_principals, encode_string),
        source_ips: each(&one.source_ips, encode_range),
        not_source_ips: each(&one.not_source_ips, encode_range),
        destination_ips: each(&one.destination_ips, encode_range),
        not_destination_ips: each(&one.not_destination_ips, encode_range),
        destination_ports: each(&one.destination_ports, encode_port),
        not_destination_ports: each(&one.not_destination_ports, encode_port),
        service_accounts: each(&one.service_accounts, encode_account),
        not_service_accounts: each(&one.not_service_accounts, encode_account),
    }
}

fn each<A, B>(from: impl IntoIterator<Item = A>, convert: impl Fn(A) -> B) -> Vec<B> {
    from.into_iter().map(convert).collect()
}

fn decode_string(one: message::StringMatch) -> Entry<StringMatch> {
    match one.kind {
        Some(Kind::Exact(text)) => Entry::Value(StringMatch::Exact(text.into())),
        Some(Kind::Prefix(text)) => Entry::Value(StringMatch::Prefix(text.into())),
        Some(Kind::Suffix(text)) => Entry::Value(StringMatch::Suffix(text.into())),
        Some(Kind::Presence(Empty {})) => Entry::Value(StringMatch::Presence),
        None => Entry::Malformed,
    }
}

fn encode_string(one: &Entry<StringMatch>) -> message::StringMatch {
    let kind = match one {
        Entry::Value(StringMatch::Exact(text)) => Some(Kind::Exact(text.to_string())),
        Entry::Value(StringMatch::Prefix(text)) => Some(Kind::Prefix(text.to_string())),
        Entry::Value(StringMatch::Suffix(text)) => Some(Kind::Suffix(text.to_string())),
        Entry::Value(StringMatch::Presence) => Some(Kind::Presence(Empty {})),
        Entry::Malformed => None,
    };
    message::StringMatch { kind }
}

fn decode_account(one: message::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: one.namespace.into(), service_account: one.service_account.into() }
}

fn encode_account(one: &ServiceAccountMatch) -> message::ServiceAccountMatch {
    message::ServiceAccountMatch {
        namespace: one.namespace.to_string(),
        service_account: one.service_account.to_string(),
    }
}

fn decode_range(one: message::Address) -> Entry<IpNet> {
    let range = |ip: IpAddr| IpNet::new(ip, u8::try_from(one.length).ok()?).ok();
    decode_ip("address", &one.address).ok().and_then(range).map_or(Entry::Malformed, Entry::Value)
}

fn encode_range(one: &Entry<IpNet>) -> message::Address {
    match one {
        Entry::Value(range) => message::Address { address: encode_ip(range.addr()), length: range.prefix_len().into() },
        Entry::Malformed => message::Address::default(),
    }
}

/// Elsewhere 65616 is cut to 80, another port than was meant.
fn decode_port(port: u32) -> Entry<u16> {
    u16::try_from(port).map_or(Entry::Malformed, Entry::Value)
}

fn encode_port(port: &Entry<u16>) -> u32 {
    match port {
        Entry::Value(port) => (*port).into(),
        Entry::Malformed => u32::MAX,
    }
}
